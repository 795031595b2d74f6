"""The yardstick `unicorn`: the same bytes on the engine alone, at CPL 0, memory mapped as it does by default.

Besides `vmm.hw`, the only importer of unicorn: it must not go through anything of ours. The marks need a hook for OUT;
nothing else has one. There are no interrupts and no exceptions, so there is no ring 3 either.
"""

from collections.abc import Callable, Iterator, Sequence
from time import process_time_ns
from typing import Any, Final

import unicorn
from unicorn import unicorn_const, x86_const

from vmm.bench.case import UNROLLED, Case
from vmm.bench.image import LOAD, Image
from vmm.bench.marks import Mark, RunFailed, check, marks_in
from vmm.errors import VmmError
from vmm.lab.children import gather

_RAM: Final = 32 << 20
_MARK_PORT: Final = 0xE9


class Alone:
    """The runner. See `vmm.bench.marks.Runner`."""

    name: Final = "unicorn"

    def can_run(self, case: Case) -> bool:
        """Those of ring 0."""
        return case.ring == 0

    def run(self, image: Image, counts: Sequence[int]) -> list[Mark]:
        """All marks of a run of the image's cases, each of ring 0. Raises: RunFailed."""
        marks, ending = gather(lambda: _run(image.loaded(counts)))
        check(image, marks, ending or "the engine stopped")
        return marks


def _run(memory: bytes) -> Iterator[Mark]:
    marks: list[Mark] = []

    def out(_engine: unicorn.Uc, port: int, _size: int, value: int, _data: Any) -> None:
        if port == _MARK_PORT:
            marks.extend(marks_in(bytes([value & 0xFF]), process_time_ns()))

    engine = _engine(memory)
    engine.hook_add(unicorn_const.UC_HOOK_INSN, out, None, 1, 0, x86_const.UC_X86_INS_OUT)
    _start(engine)
    yield from marks


def _engine(memory: bytes) -> unicorn.Uc:
    engine = unicorn.Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_32)
    engine.mem_map(0, _RAM)
    engine.mem_write(LOAD, memory)
    return engine


def _start(engine: unicorn.Uc) -> None:
    """Run to the HLT. Raises: VmmError: something else stopped it."""
    try:
        engine.emu_start(LOAD, 0)
    except unicorn.UcError as error:
        raise VmmError(f"the engine alone: {error}") from None


# --- an empty hook -------------------------------------------------------------------------------------


def empty_hook_ns(count: int) -> float:
    """Nanoseconds of an interrupt hook that reads and writes the processor's state and does nothing else.

    Raises: RunFailed.
    """
    values, ending = gather(lambda: _time_hook(count))
    if not values:
        raise RunFailed(None, ending)
    return values[0]


def _time_hook(count: int) -> Iterator[float]:
    def hook(engine: unicorn.Uc, _vector: int, _data: Any) -> None:
        engine.context_update(context)
        engine.context_restore(context)

    empty = _loop(b"", count)
    engine = _engine(_loop(b"\xcd\x80", count))  # int 80h
    context = engine.context_save()
    engine.hook_add(unicorn_const.UC_HOOK_INTR, hook)
    yield (_timed(lambda: _start(engine)) - _timed(lambda: _start(_engine(empty)))) / (count * UNROLLED)


def _loop(body: bytes, count: int) -> bytes:
    """mov ebp, count; `body` eight times; dec ebp; jnz; hlt."""
    inside = body * UNROLLED + b"\x4d"
    return b"\xbd" + count.to_bytes(4, "little") + inside + b"\x75" + (-len(inside) - 2 & 0xFF).to_bytes() + b"\xf4"


def _timed(work: Callable[[], None]) -> int:
    started = process_time_ns()
    work()
    return process_time_ns() - started
