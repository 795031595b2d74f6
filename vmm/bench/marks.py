"""Marks: the bytes by which a guest tells when it was where, and what follows from their times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vmm.bench.case import FIRST_MARK, MARKS_PER_CASE, UNEXPECTED, WRONG, Case, code_of_mark
from vmm.bench.image import Image

RESOLUTION_NS: Final = 0.3
"""About a cycle of the host's processor: what takes less cannot be told from nothing."""
_FAILURES: Final = {WRONG: "a wrong result", UNEXPECTED: "an exception that nobody asked for"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A byte from the guest, and until then: the processor time of the process that runs it, in ns, and how often guest
    code had left to the VMM; None: nobody counts."""

    code: int
    ns: int
    exits: int | None = None


class RunFailed(Exception):
    """A run did not come to its end; `case` is the one it was at."""

    def __init__(self, case: Case | None, reason: str) -> None:
        super().__init__(f"{case.name}: {reason}" if case else reason)
        self.case = case


class Runner(Protocol):
    """Whatever runs an image."""

    @property
    def name(self) -> str:
        """The engine's name, in tables and JSON."""
        ...

    def can_run(self, case: Case) -> bool:
        """Is a case one for it at all?"""
        ...

    def run(self, image: Image, counts: Sequence[int]) -> list[Mark]:
        """Boot the image in a process of its own; all marks of the run. Raises: RunFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """What a case took: nanoseconds and exits of one body without baseline, RESOLUTION_NS and 0 at the least, for the
    difference of two loops can be less than nothing; `longest`: ns of the longer loop.
    """

    ns: float
    exits: float | None
    longest: int


def is_over(image: Image, marks: Sequence[Mark]) -> bool:
    """Is there nothing more to wait for?"""
    return len(marks) >= image.marks or bool(marks and marks[-1].code in _FAILURES)


def check(image: Image, marks: Sequence[Mark], ending: str) -> None:
    """Raises: RunFailed: marks are missing; `ending` is how the run ended."""
    for position, mark in enumerate(marks):
        case = image.cases[min(position // MARKS_PER_CASE, len(image.cases) - 1)]
        if mark.code != code_of_mark(position):
            raise RunFailed(case, _FAILURES.get(mark.code, f"mark {mark.code:#x} out of turn"))
    if len(marks) < image.marks:
        raise RunFailed(image.cases[len(marks) // MARKS_PER_CASE], ending)


def marks_in(data: bytes, ns: int) -> list[Mark]:
    """The marks among bytes that came at one time; ASCII is not ours."""
    return [Mark(code, ns) for code in data if code >= FIRST_MARK]


def timings(image: Image, counts: Sequence[int], marks: Sequence[Mark]) -> list[Timing]:
    """One for each case."""
    found = []
    for number, (case, count) in enumerate(zip(image.cases, counts, strict=True)):
        start, middle, end = marks[MARKS_PER_CASE * number : MARKS_PER_CASE * (number + 1)]
        baseline, body = middle.ns - start.ns, end.ns - middle.ns
        rounds = count * case.repeat
        exits = None
        if start.exits is not None and middle.exits is not None and end.exits is not None:
            exits = max(0.0, (end.exits - 2 * middle.exits + start.exits) / rounds)
        found.append(Timing(max(RESOLUTION_NS, (body - baseline) / rounds), exits, max(baseline, body)))
    return found
