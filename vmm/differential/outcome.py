"""What a program did, in a form that can be compared: and where two engines differ.

A *stop* is every place where the rig could look: a handler, a HLT of the program's, the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

GENERAL: Final = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")


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

    `where`: `handler N`, `halt`, `end`. `general` as in `GENERAL`; `segments` (selector, base, limit, flags) each, of
    which only the selector counts when it is null, and no limit outside protected mode; `control`: CR0, CR2, CR3, CR4;
    `tables`: GDTR, IDTR, LDTR, TR; `frame`: the top of the stack, 40 bytes; `ports`: how much went over ports before.
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a program did. `memory`: a checksum for each page of RAM that changed; `fpu`: x87, MMX and SSE
    registers as hexadecimal text."""

    ending: Ending
    stops: tuple[Stop, ...]
    traffic: tuple[tuple[str, int, int, int], ...]
    memory: dict[int, int]
    fpu: str
    interrupts: int = 0
    broken: str = ""

    @property
    def faults(self) -> int:
        """How many exceptions it took, interrupts aside."""
        return sum(1 for stop in self.stops if stop.where.startswith("handler") and int(stop.where[8:]) < 32)


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
        if mine != other:
            return [Difference(number, *each) for each in _stops_differ(mine, other)]
    found = [Difference(-1, "ending", str(got.ending), str(expected.ending))] if got.ending != expected.ending else []
    if got.broken or expected.broken:
        found.append(Difference(-1, "broken", got.broken, expected.broken))
    if len(got.stops) != len(expected.stops):
        found.append(Difference(-1, "stops", len(got.stops), len(expected.stops)))
    if found or got.ending is Ending.ENDLESS:
        return found
    for number, (sent, wanted) in enumerate(zip(got.traffic, expected.traffic, strict=False)):
        if sent != wanted:
            return [Difference(-1, f"port access {number}", sent, wanted)]
    if len(got.traffic) != len(expected.traffic):
        return [Difference(-1, "port accesses", len(got.traffic), len(expected.traffic))]
    for page in sorted(got.memory.keys() | expected.memory.keys()):
        if got.memory.get(page) != expected.memory.get(page):
            found.append(Difference(-1, f"page {page:#x}", got.memory.get(page, 0), expected.memory.get(page, 0)))
    if got.fpu != expected.fpu:
        found.append(Difference(-1, "fpu", got.fpu, expected.fpu))
    return found


def _stops_differ(mine: Stop, other: Stop) -> Iterator[tuple[str, Any, Any]]:
    for name, here, there in zip(Stop._fields, mine, other, strict=True):
        if here == there:
            continue
        if name == "general":
            yield from ((r, a, b) for r, a, b in zip(GENERAL, here, there, strict=True) if a != b)
        else:
            yield name, here, there
