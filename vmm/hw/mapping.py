"""What answers at a physical CPU's addresses: RAM and ROM out of host memory, and whoever is asked about the rest.

The engine translates code once and keeps it. A store of its own to code that it has translated it notices; what is
written to the same bytes from outside must be told it (`written`).
"""

import ctypes
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from unicorn import unicorn_const as uc_const
from unicorn.unicorn_py3.unicorn import uclib

from vmm.errors import EngineMismatch
from vmm.hw import library

_READ: Final = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
_WRITE: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p
)
_YES: Final = b"\xb8\x01\0\0\0\xc3"
"""mov eax, 1; ret: the hook that lets code be fetched where no memory is: the engine takes it for forbidden."""
_NO_RAM: Final = (1 << 64) - 1
_ROM: Final = uc_const.UC_PROT_READ | uc_const.UC_PROT_EXEC


@dataclass(frozen=True, slots=True)
class Run:
    """Physical addresses from `base` on, `size` bytes, whole pages.

    `host` is the host address of the bytes that are there, None where every access is a question to the map's owner.
    Writes to a `read_only` run are dropped.
    """

    base: int
    size: int
    host: int | None
    read_only: bool = False

    def is_continued_by(self, other: "Run") -> bool:
        """Are the two one run, `other` behind this one?"""
        if other.base != self.base + self.size or other.read_only != self.read_only:
            return False
        return other.host == (None if self.host is None else self.host + self.size)


class PhysicalMap:
    """The map of one engine. `on_read(address, width)` and `on_write(address, width, value)` answer where no host
    memory does; widths are 1 to 8 bytes. They run inside the engine and must not change the map.
    """

    def __init__(
        self, handle: Any, add_hook: Callable[[int, int], None], fail: Callable[[BaseException], None]
    ) -> None:
        self._handle, self._fail = handle, fail
        self._runs: set[Run] = set()
        self.on_read: Callable[[int, int], int] = lambda _address, width: (1 << 8 * width) - 1
        self.on_write: Callable[[int, int, int], None] = lambda _address, _width, _value: None
        self._read, self._write = _READ(self._answer_read), _WRITE(self._answer_write)
        self._add_hook: Callable[[int, int], None] | None = add_hook
        self._yes = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._yes.write(_YES)
        self._ram_address = _function("qemu_ram_addr_from_host_x86_64", 2)
        self._drop_code = _function("tb_invalidate_phys_range_x86_64", 3)

    def show(self, runs: Iterable[Run]) -> None:
        """From now on these runs answer, which must not overlap. Outside a run of the engine only; the caller then
        makes it forget its translations, of addresses and of code."""
        wanted = set(runs)
        for run in self._runs - wanted:
            self._check(uclib.uc_mem_unmap(self._handle, ctypes.c_uint64(run.base), ctypes.c_uint64(run.size)), run)
        for run in sorted(wanted - self._runs, key=lambda run: run.base):
            self._map(run)
        self._runs = wanted

    def allow_fetches(self) -> None:
        """Let code be fetched from where no memory is. Outside a run; the caller makes the engine forget all code.

        There is a hook behind it, and with one of its kind the engine is several times slower at every access to
        memory: so this is for a guest that has tried.
        """
        if self._add_hook is not None:
            code = ctypes.addressof(ctypes.c_char.from_buffer(self._yes))
            self._add_hook(uc_const.UC_HOOK_MEM_FETCH_PROT, code)
            self._add_hook = None

    def written(self, host: int, size: int) -> None:
        """Somebody wrote to bytes of a run, given by their host address: forget code that was translated from them."""
        start = self._ram_address(self._handle, host)
        if start != _NO_RAM:
            self._drop_code(self._handle, start, start + size)

    def _map(self, run: Run) -> None:
        base, size = ctypes.c_uint64(run.base), ctypes.c_uint64(run.size)
        if run.host is None:
            owner = ctypes.c_void_p(run.base)
            status = uclib.uc_mmio_map(self._handle, base, size, self._read, owner, self._write, owner)
        else:
            rights = _ROM if run.read_only else uc_const.UC_PROT_ALL
            status = uclib.uc_mem_map_ptr(self._handle, base, size, rights, ctypes.c_void_p(run.host))
        self._check(status, run)

    def _check(self, status: int, run: Run) -> None:
        if status:
            reason = uclib.uc_strerror(status).decode()
            raise EngineMismatch(f"{run.size:#x} bytes at {run.base:#x} refused: {reason}")

    def _answer_read(self, _engine: int, offset: int, width: int, base: int | None) -> int:
        try:
            return self.on_read((base or 0) + offset, width)
        except BaseException as error:  # noqa: BLE001  nothing can pass through the engine
            self._fail(error)
            return 0

    def _answer_write(self, _engine: int, offset: int, width: int, value: int, base: int | None) -> None:
        try:
            self.on_write((base or 0) + offset, width, value)
        except BaseException as error:  # noqa: BLE001  nothing can pass through the engine
            self._fail(error)


def _function(name: str, arguments: int) -> Callable[..., int]:
    """A function of the engine that takes the engine and numbers of 64 bits."""
    address = library.address_of(name)
    if not address:
        raise EngineMismatch(f"this build of the engine does not export {name}: the wheel from PyPI expected")
    numbers = [ctypes.c_uint64] * (arguments - 1)
    function: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, *numbers)(address)
    return function
