"""What a program did, in a form that can be compared: and where two engines differ.

A *stop* is every place where the rig could look: a handler, a HLT of the program's, the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

TASK, HALT, SYSTEM_CALL = "task", "halt", "system call"
"""Where a stop is: in the task that task gates lead to, at a HLT of nobody's, where SYSENTER leads."""
GENERAL: Final = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")


FIRST_FREE: Final = 32
"""From here on vectors are no exceptions."""


class Ending(StrEnum):
    """How a program ended."""

    DONE = "done"  # it came to its end
    SHUTDOWN = "shutdown"  # triple fault
    ENDLESS = "endless"  # it ran on and on: where it was is not compared
    STRAYED = "strayed"  # a HLT outside the program and its handlers
    LOST = "lost"  # a handler that nothing can return from
    STOPS = "stops"  # too many stops
    BROKEN = "broken"  # the engine gave up: see `Outcome.broken`


class Stop(NamedTuple):
    """The processor at a stop.

    `where`: `handler N`, `halt`, `end`, or a routine of the rig's. `general` as in `GENERAL`; `segments` (selector,
    base, limit, flags) each, of which only the selector counts when it is null, and no limit outside protected mode;
    `control`: CR0, CR2, CR3, CR4; `tables`: GDTR, IDTR, LDTR, TR; `frame`: the top of the stack, 40 bytes; `ports`: how
    much went over ports before; `errors`: unmasked x87 exceptions and their summary, as in the status word.
    `saved_eip`: where a handler found the program; `code`: what lies there, which alone is no difference, as all memory
    is compared in the end; `code32`: whether it is 32-bit code.
    """

    where: str
    eip: int
    eflags: int
    cpl: int
    general: tuple[int, ...]
    segments: tuple[tuple[int, ...], ...]
    control: tuple[int, ...]
    tables: tuple[Any, ...]
    debug: tuple[int, ...]
    frame: str
    ports: int
    errors: int
    saved_eip: int = -1
    code: bytes = b""
    code32: bool = False

    @property
    def vector(self) -> int:
        """Of a handler; -1 elsewhere."""
        return int(self.where.split()[1]) if self.where.startswith("handler") else -1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a program did. `memory`: a checksum for each page of RAM that changed; `fpu`: x87, MMX and SSE
    registers as hexadecimal text; `last`: the processor when it shut down, which is not compared."""

    ending: Ending
    stops: tuple[Stop, ...]
    traffic: tuple[tuple[str, int, int, int], ...]
    memory: dict[int, int]
    fpu: str
    interrupts: int = 0
    broken: str = ""
    last: Stop | None = None

    @property
    def vectors(self) -> tuple[int, ...]:
        """Which handlers it entered."""
        return tuple(stop.vector for stop in self.stops if stop.vector >= 0)

    @property
    def has_faulted(self) -> bool:
        """Did it take an exception, interrupts aside?"""
        return any(vector < FIRST_FREE for vector in self.vectors)

    @property
    def has_lost_interrupt(self) -> bool:
        """Was there an interrupt whose handler never came?"""
        return self.interrupts > sum(vector >= FIRST_FREE for vector in self.vectors)


class Difference(NamedTuple):
    """One thing that two engines disagree about: which stop (-1: not at one), what, and the two values."""

    stop: int
    what: str
    got: Any
    expected: Any

    def __str__(self) -> str:
        where = f"stop {self.stop}: " if self.stop >= 0 else ""
        return f"{where}{self.what}: {_shown(self.got)}, expected {_shown(self.expected)}"


def _shown(value: Any) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)


def compare(got: Outcome, expected: Outcome) -> list[Difference]:
    """Where an outcome differs from the reference's; of stops only the first that does, as the rest follows from it."""
    for number, (mine, other) in enumerate(zip(got.stops, expected.stops, strict=False)):
        if mine._replace(code=other.code) != other:
            return [Difference(number, *each) for each in _stops_differ(mine, other)]
    found = list(_ends_differ(got, expected))
    if found or got.ending is Ending.ENDLESS:
        return found
    return list(_traffic_differs(got, expected)) or list(_rest_differs(got, expected))


def _stops_differ(mine: Stop, other: Stop) -> Iterator[tuple[str, Any, Any]]:
    for name, here, there in zip(Stop._fields, mine, other, strict=True):
        if here == there:
            continue
        if name == "general":
            registers = zip(GENERAL, mine.general, other.general, strict=True)
            yield from ((reg, value, wanted) for reg, value, wanted in registers if value != wanted)
        else:
            yield name, here, there


def _ends_differ(got: Outcome, expected: Outcome) -> Iterator[Difference]:
    if got.ending is not expected.ending:
        yield Difference(-1, "ending", str(got.ending), str(expected.ending))
    if got.broken != expected.broken:
        yield Difference(-1, "broken", got.broken, expected.broken)
    is_endless = got.ending is expected.ending is Ending.ENDLESS
    if len(got.stops) != len(expected.stops) and not is_endless:
        yield Difference(-1, "stops", len(got.stops), len(expected.stops))


def _traffic_differs(got: Outcome, expected: Outcome) -> Iterator[Difference]:
    for number, (sent, wanted) in enumerate(zip(got.traffic, expected.traffic, strict=False)):
        if sent != wanted:
            yield Difference(-1, f"port access {number}", sent, wanted)
            return
    if len(got.traffic) != len(expected.traffic):
        yield Difference(-1, "port accesses", len(got.traffic), len(expected.traffic))


def _rest_differs(got: Outcome, expected: Outcome) -> Iterator[Difference]:
    for page in sorted(got.memory.keys() | expected.memory.keys()):
        mine, wanted = got.memory.get(page, 0), expected.memory.get(page, 0)
        if mine != wanted:
            yield Difference(-1, f"page {page:#x}", mine, wanted)
    if got.fpu != expected.fpu:
        yield Difference(-1, "fpu", got.fpu, expected.fpu)
