"""Two machines that run the same programs: the engine under test, and the reference."""

from typing import Final

from vmm.differential.case import Case
from vmm.differential.outcome import Ending, Outcome, compare
from vmm.differential.program import Program
from vmm.differential.rig import SUBJECTS, Rig

_LONGER: Final = 25


class Pair:
    """`tested` and `reference` with their names. Either may be part of other pairs."""

    def __init__(self, engine: str, tested: Rig, against: str, reference: Rig) -> None:
        self.engine, self.against = engine, against
        self._tested, self._reference = tested, reference
        self._unchecked: Rig | None = None

    def close(self) -> None:
        """End what the engines have started."""
        self._tested.close()
        self._reference.close()

    def compare_unchecked(self, program: Program) -> Case:
        """A program as the reference and translation without segment checks run it."""
        if self._unchecked is None:
            self._unchecked = Rig(SUBJECTS["unchecked"])
        return Pair(self.engine, self._unchecked, self.against, self._reference).compare(program)

    def compare(self, program: Program, expected: Outcome | None = None) -> Case:
        """A program as both run it; `expected` is what the reference made of it, if that is known.

        How far an endless program gets depends on how an engine counts. Where one ended and the other was stopped,
        both get more time.
        """
        expected = self._reference.run(program) if expected is None else expected
        got = self._tested.run(program)
        if (got.ending is Ending.ENDLESS) != (expected.ending is Ending.ENDLESS):
            expected = self._reference.run(program, _LONGER)
            got = self._tested.run(program, _LONGER)
        return Case(program, self.engine, self.against, got, expected, tuple(compare(got, expected)))
