"""A program, and what two engines made of it."""

from typing import NamedTuple

from vmm.differential.outcome import Difference, Outcome
from vmm.differential.program import Program


class Case(NamedTuple):
    """`engine` ran the program as `got`, `against` as `expected`."""

    program: Program
    engine: str
    against: str
    got: Outcome
    expected: Outcome
    differences: tuple[Difference, ...]
