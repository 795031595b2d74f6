"""The suites of timed loops: which cases, which engines, how long."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vmm.bench import compute_cases, nano_cases
from vmm.bench.alone import Alone, empty_hook_ns
from vmm.bench.c_programs import CompilerError
from vmm.bench.case import Case, named
from vmm.bench.engines import OWN
from vmm.bench.marks import RunFailed, Runner
from vmm.bench.measure import Plan, Progress, measure
from vmm.bench.peers import PEERS, runners
from vmm.bench.rows import Results, row_of

_MS: Final = 1_000_000
ALONE: Final = Alone()
_HOOK: Final = "empty-hook"
_HOOK_CALLS: Final = 50_000
_PEER_CASES: Final = ("loop", "sieve", "fibonacci")


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases by `cases()`, and what runs them if nothing else is said."""

    name: str
    title: str
    cases: Callable[[], tuple[Case, ...]]
    engines: tuple[str, ...]
    against: tuple[str, ...]
    paging: bool
    loop_ns: int
    has_exits: bool = False


def _peers() -> tuple[Case, ...]:
    computing = named(compute_cases.cases())
    rings = [computing[name + ring] for name in _PEER_CASES for ring in ("", compute_cases.RING3)]
    return (nano_cases.FLAGS, named(nano_cases.CASES)["syscall"], *rings)


SUITES: Final[Mapping[str, Suite]] = {
    suite.name: suite
    for suite in (
        Suite("nano", "instruction by instruction", lambda: nano_cases.CASES, tuple(OWN), (), True, 40 * _MS, True),
        Suite(
            "compute", "programs that calculate", lambda: compute_cases.cases() + compute_cases.c_cases(),
            ("unicorn", "bare", "trap", "translate", "svm"), (), False, 150 * _MS,
        ),
        Suite(
            "peers", "the same images elsewhere", _peers, ("unicorn", "translate"), tuple(PEERS), False, 200 * _MS
        ),
    )
}  # fmt: skip
ENGINES: Final = ("unicorn", *OWN)
"""What `--engines` may name."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted of a suite; `loop_share`: of the usual time of each loop."""

    suite: Suite
    cases: Sequence[str]
    engines: Sequence[str]
    against: Sequence[str]
    rounds: int
    loop_share: float = 1.0


def take(order: Order, progress: Progress) -> tuple[Results, dict[str, str]]:
    """Measure; the results, and the versions of the peers."""
    suite = order.suite
    chosen = tuple(case for case in suite.cases() if not order.cases or case.name in order.cases)
    notes: list[str] = []
    try:
        programs = compute_cases.programs(chosen)
    except CompilerError as error:
        notes.append(f"{error}: without the programs in C")
        in_c = {case.name for case in compute_cases.c_cases()}
        chosen, programs = tuple(case for case in chosen if case.name not in in_c), {}
    peers, versions, missing = runners(order.against)
    notes += missing
    own: list[Runner] = [OWN[name] for name in order.engines if name in OWN]
    loop_ns = round(suite.loop_ns * order.loop_share)
    plan = Plan(suite.name, chosen, suite.paging, loop_ns, order.rounds, programs)
    yardsticks = [ALONE] if ALONE.name in order.engines else []
    results = measure(plan, [*yardsticks, *own, *peers], progress)
    results.notes[:0] = notes
    if suite.has_exits and "translate" in order.engines and "in" in results.cases:
        _add_hook(order, results, progress)
    return results, versions


def _add_hook(order: Order, results: Results, progress: Progress) -> None:
    """The yardstick of a callout."""
    progress(_HOOK)
    try:
        values = [empty_hook_ns(round(_HOOK_CALLS * order.loop_share)) for _ in range(order.rounds)]
    except RunFailed as failure:
        results.notes.append(f"{_HOOK}: {failure}")
    else:
        results.add(row_of(order.suite.name, _HOOK, ALONE.name, values))
