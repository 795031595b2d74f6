"""Differences that are not the fault of the engine under test: where the reference, or the processor below both, is
wrong against the manual.

Each entry has the rule that is broken, where the manual has it, and a predicate that recognises this one difference. A
predicate must be narrow: what it takes for granted, no run will ever show again.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from vmm.differential.outcome import Difference, Outcome
from vmm.differential.program import Program


class Case(NamedTuple):
    """A program that two engines did not run alike. `engine` ran it as `got`, `against` as `expected`."""

    program: Program
    engine: str
    against: str
    got: Outcome
    expected: Outcome
    differences: tuple[Difference, ...]


class Flaw(NamedTuple):
    """A known error of an engine: `rule` is what the manual says in `source`."""

    name: str
    rule: str
    source: str
    explains: Callable[[Case], bool]


FLAWS: Final[tuple[Flaw, ...]] = ()


def explanation(case: Case, flaws: Sequence[Flaw] = FLAWS) -> Flaw | None:
    """The first entry that explains all of a case's differences."""
    return next((flaw for flaw in flaws if flaw.explains(case)), None)
