"""The part of a campaign that runs programs: in a process of its own, since an engine may take the process with it."""

import faulthandler
import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Final

from vmm.differential.case import Case
from vmm.differential.flaws import Compare, judge
from vmm.differential.generator import Source
from vmm.differential.outcome import Outcome, compare
from vmm.differential.program import Program
from vmm.differential.rig import SUBJECTS, Rig
from vmm.differential.shrink import shrink
from vmm.differential.tally import Tally

SHRUNK_MAX: Final = 10
"""So many failures of one worker are made small; the others stand as they are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared: programs of a source, run by `engines`, each with `against`; names in `SUBJECTS`."""

    source: Source
    engines: tuple[str, ...]
    against: str

    @property
    def subjects(self) -> tuple[str, ...]:
        """The reference first."""
        return self.against, *self.engines


class Place:
    """Where a worker is, for its parent to read when it has died: program, index of the subject, and whether it was
    making a failure small."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    def set(self, number: int, subject: int) -> None:
        """About to run a program."""
        self._cell[0], self._cell[1] = number, subject

    def get(self) -> tuple[int, int]:
        """(program, subject)."""
        return self._cell[0], self._cell[1]


class Differ:
    """All engines of a plan, ready to run programs."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan, self.place = plan, place
        self._rigs = [Rig(SUBJECTS[name]) for name in plan.subjects]
        self._shrunk = 0

    def examine(self, number: int, tally: Tally) -> None:
        """Run one program everywhere; count it, and what differs."""
        program = self.plan.source.program(number)
        self.place.set(number, 0)
        expected = self._rigs[0].run(program)
        tally.count(program, expected)
        for index, name in enumerate(self.plan.engines, 1):
            self.place.set(number, index)
            case = self.compare(program, expected, index)
            if not case.differences:
                continue
            flaw, case = judge(case, self._comparer(index))
            if flaw is not None:
                tally.explained[f"{name}/{flaw.name}"] += 1
                continue
            if self._shrunk < SHRUNK_MAX:
                self._shrunk += 1
                case = self._smaller(case, index)
            tally.failures.append(failure(number, case))

    def compare(self, program: Program, expected: Outcome, index: int) -> Case:
        """A program as engine number `index` runs it, and as the reference did."""
        got = self._rigs[index].run(program)
        plan = self.plan
        return Case(program, plan.engines[index - 1], plan.against, got, expected, tuple(compare(got, expected)))

    def _comparer(self, index: int) -> Compare:
        return lambda program: self.compare(program, self._rigs[0].run(program), index)

    def _smaller(self, case: Case, index: int) -> Case:
        """The smallest program found that differs in the same way, without an explanation."""
        both, kind = self._comparer(index), _kind(case)

        def fails(program: Program) -> bool:
            trial = both(program)
            return bool(trial.differences) and _kind(trial) == kind and judge(trial, both).flaw is None

        return both(shrink(case.program, fails))


def _kind(case: Case) -> str:
    """Two cases of one kind probably have one cause."""
    return case.differences[0].what.split(" ")[0]


def failure(number: int, case: Case) -> dict[str, Any]:
    """A failure as reports and case files have it."""
    return {
        "number": number,
        "engine": case.engine,
        "against": case.against,
        "differences": [str(difference) for difference in case.differences],
        "program": case.program.to_json(),
    }


def run(plan: Plan, chunks: Connection, cell: "Synchronized[Any]") -> None:
    """A worker's life: take ranges of program numbers from the pipe, answer each with a tally; None ends it."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what an engine says before it aborts
    differ = Differ(plan, Place(cell))
    while (numbers := chunks.recv()) is not None:
        tally = Tally()
        for number in _range(numbers):
            differ.examine(number, tally)
        chunks.send(tally)


def _range(numbers: tuple[int, int]) -> Iterable[int]:
    return range(*numbers)
