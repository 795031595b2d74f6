"""The part of a campaign that runs programs: in a process of its own, since an engine may take the process with it."""

import faulthandler
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Final, NamedTuple

from vmm.differential.case import Case
from vmm.differential.definite import definite
from vmm.differential.explanations import BOCHS, explain
from vmm.differential.generator import Source
from vmm.differential.pair import Pair
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

    def form(self, program: Program) -> Program:
        """A program as it is run: with Bochs only what the manual defines of it."""
        return definite(program) if BOCHS in self.engines else program

    def program(self, number: int) -> Program:
        """Program `number`, as it is run."""
        return self.form(self.source.program(number))


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
        rigs = [Rig(SUBJECTS[name]) for name in plan.subjects]
        self._reference = rigs[0]
        self._pairs = [Pair(name, rig, plan.against, rigs[0]) for name, rig in zip(plan.engines, rigs[1:], strict=True)]
        self._shrunk = 0

    def close(self) -> None:
        """End what the engines have started."""
        for pair in self._pairs:
            pair.close()

    def examine(self, number: int, tally: Tally) -> None:
        """Run one program everywhere; count it, and what differs."""
        program = self.plan.program(number)
        self.place.set(number, 0)
        expected = self._reference.run(program)
        tally.count(program, expected)
        for index, pair in enumerate(self._pairs, 1):
            self.place.set(number, index)
            case = pair.compare(program, expected)
            if not case.differences:
                continue
            flaws, case = explain(case, pair.compare, pair.compare_unchecked)
            if flaws:
                tally.explained.update({f"{pair.engine}/{flaw.name}" for flaw in flaws})
                continue
            if self._shrunk < SHRUNK_MAX:
                self._shrunk += 1
                case = self._smaller(number, case, pair)
            tally.failures.append(failure(number, case))

    def _smaller(self, number: int, case: Case, pair: Pair) -> Case:
        """The smallest program found that differs in the same way, without an explanation.

        What is run in another form is made small before it takes that: what shrinking leaves of it might not be one.
        """
        form = self.plan.form
        program = self.plan.source.program(number)
        if form(program) == program:
            program = case.program
        kind = _kind(pair.compare(form(program)))

        def fails(program: Program) -> bool:
            trial = pair.compare(form(program))
            return (
                bool(trial.differences)
                and _kind(trial) == kind
                and not explain(trial, pair.compare, pair.compare_unchecked)[0]
            )

        return pair.compare(form(shrink(program, fails)))


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


class Range(NamedTuple):
    """Programs from number `first` up to, and not including, `end`; `is_again`: they have been counted before."""

    first: int
    end: int
    is_again: bool = False


def run(plan: Plan, chunks: Connection, cell: "Synchronized[Any]") -> None:
    """A worker's life: take ranges from the pipe, answer each with a tally; None ends it."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what an engine says before it aborts
    differ = Differ(plan, Place(cell))
    while (numbers := chunks.recv()) is not None:
        tally = Tally()
        for number in range(numbers.first, numbers.end):
            differ.examine(number, tally)
        chunks.send(Tally(explained=tally.explained, failures=tally.failures) if numbers.is_again else tally)
    differ.close()
