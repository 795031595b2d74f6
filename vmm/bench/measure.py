"""How a figure is made: a fresh process for each measurement, all engines by turns, the median of several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vmm.bench.case import Case
from vmm.bench.image import Image, build
from vmm.bench.marks import RunFailed, Runner, Timing, timings
from vmm.bench.rows import Results, row_of

ROUNDS: Final = 5
QUICK_ROUNDS: Final = 3
_PILOTS: Final = 6
_PILOT_SHARE: Final = 0.1
_GROWTH: Final = 64
"""From one pilot to the next: what a short run says about the time of a longer one is not much."""
_COUNT_MAX: Final = 1 << 24
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: `loop_ns`, how long each loop shall run, is the same for all engines; how often it goes round
    is found for each by runs that do not count.
    """

    suite: str
    cases: tuple[Case, ...]
    paging: bool
    loop_ns: int
    rounds: int
    programs: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Side:
    """One engine's: its image, without the cases that it cannot run, how often each goes round, what was measured."""

    runner: Runner
    image: Image
    counts: list[int]
    found: list[list[Timing]] = field(default_factory=list)

    def measure(self) -> list[Timing]:
        """One run. Raises: RunFailed."""
        return timings(self.image, self.counts, self.runner.run(self.image, self.counts))


def measure(plan: Plan, runners: Sequence[Runner], progress: Progress) -> Results:
    """All cases on all engines, by turns. Whoever interrupts it gets what there is."""
    results = Results()
    sides = []
    for runner in runners:
        progress(f"{runner.name}: how often")
        if (side := _prepare(plan, runner, results.notes)) is not None:
            sides.append(side)
    try:
        _take_turns(sides, plan.rounds, results.notes, progress)
    except KeyboardInterrupt:
        results.cut()
    for case in plan.cases:
        for side in sides:
            if side.found and case in side.image.cases:
                column = side.image.cases.index(case)
                ns, exits = [each[column].ns for each in side.found], [each[column].exits for each in side.found]
                results.add(row_of(plan.suite, case.name, side.runner.name, ns, exits))
    return results


def _take_turns(sides: Sequence[_Side], rounds: int, notes: list[str], progress: Progress) -> None:
    """Measure each side once, one after the other, so many times: what drifts on the machine drifts for all."""
    for number in range(rounds):
        for side in sides:
            progress(f"{side.runner.name}: {number + 1} of {rounds}")
            try:
                side.found.append(side.measure())
            except RunFailed as failure:
                notes.append(f"{side.runner.name}: round {number + 1} is missing: {failure}")


def _prepare(plan: Plan, runner: Runner, notes: list[str]) -> _Side | None:
    """The pilots of one engine. A case that it cannot run is left out, with a remark."""
    cases = tuple(case for case in plan.cases if runner.can_run(case))
    while cases:
        image = build(cases, paging=plan.paging, programs=plan.programs)
        side = _Side(runner, image, [1] * len(cases))
        try:
            _pilot(side, plan.loop_ns * _PILOT_SHARE)
            side.counts = [min(_COUNT_MAX, round(count / _PILOT_SHARE)) for count in side.counts]
            return side
        except RunFailed as failure:
            notes.append(f"{runner.name}: {failure}")
            if failure.case is None:
                return None
            cases = tuple(case for case in cases if case is not failure.case)
    return None


def _pilot(side: _Side, aim_ns: float) -> None:
    """Find counts with which the longer loop of each case takes about so long. Raises: RunFailed."""
    for _ in range(_PILOTS):
        longest = [timing.longest for timing in side.measure()]
        if all(ns >= aim_ns / 2 for ns in longest):
            return
        side.counts = [_next_count(count, aim_ns / max(1, ns)) for count, ns in zip(side.counts, longest, strict=True)]


def _next_count(count: int, wanted: float) -> int:
    return min(_COUNT_MAX, max(1, round(count * min(wanted, _GROWTH))))
