"""Bars: ratios that the project promises, judged where a suite has measured both sides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vmm.bench.compute_cases import RING3
from vmm.bench.rows import Results

_SECOND: Final = 1e9


@dataclass(frozen=True, slots=True)
class Bar:
    """`case` on `engine` takes at the most `limit` times what `other_case` on `other` takes, or at least so many times
    where `at_least` is set. Without `other`: at the most so many seconds.
    """

    case: str
    engine: str
    other: str | None
    limit: float
    at_least: bool = False
    other_case: str | None = None

    @property
    def what(self) -> str:
        """In words."""
        if self.other is None:
            return f"{self.case} on {self.engine}"
        against = f"{self.other_case} on {self.other}" if self.other_case else self.other
        return f"{self.case}: {self.engine} / {against}"

    @property
    def bound(self) -> str:
        """The promise, as people write it."""
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{'' if self.other else ' s'}"

    def value(self, results: Results) -> float | None:
        """The ratio, or seconds; None: one side was not measured."""
        ours = results.ns(self.case, self.engine)
        theirs = _SECOND if self.other is None else results.ns(self.other_case or self.case, self.other)
        return ours / theirs if ours is not None and theirs is not None else None

    def is_reached(self, value: float) -> bool:
        """Does a value keep the promise?"""
        return value >= self.limit if self.at_least else value <= self.limit


def _times_faster(engine: str, limit: float, cases: str) -> Iterator[Bar]:
    """Under translation they take so many times less than under `engine`."""
    for case in cases.split():
        yield Bar(case, engine, "translate", limit, at_least=True)


NO_INLINE: Final = "translate-no-inline"


def _programs() -> Iterator[Bar]:
    for case, alone, qemu, bochs in (("loop", 0.3, 1.7, 4), ("sieve", 0.35, 4, 4), ("fibonacci", 0.45, 4, 2.5)):
        for ring in ("", RING3):
            yield Bar(case + ring, "translate", "unicorn", alone, other_case=case)
            yield Bar(case + ring, "translate", "qemu", qemu)
            yield Bar(case + ring, "bochs", "translate", bochs, at_least=True)


BARS: Final = (
    *_times_faster("trap", 20, "cli sti mov-from-cr0 mov-from-cr2 mov-from-cr3 mov-from-cr4"),
    *_times_faster(NO_INLINE, 20, "pushf popf smsw sgdt sidt sldt str"),
    *_times_faster(NO_INLINE, 10, "lar lsl verr verw rdtsc cpuid"),
    *_times_faster(NO_INLINE, 10, "mov-to-ds mov-to-es mov-to-fs mov-to-gs pop-ds pop-es pop-fs pop-gs"),
    Bar("in", "translate", "unicorn", 2.2, other_case="empty-hook"),
    Bar("flags", "translate", "qemu", 2),
    Bar("syscall", "translate", "qemu", 6),
    *_programs(),
    Bar("first-character", "translate", None, 1.5),
    Bar("grub", "translate", "qemu", 4),
    Bar("linux-bzimage", "translate", "qemu", 2.5),
    Bar("linux-pvh", "translate", "qemu", 4),
    Bar("work", "translate", "qemu", 3),
    Bar("idle", "translate", None, 0.02),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, what was measured, and whether that reaches it; None, None: nothing was."""

    bar: Bar
    value: float | None
    reached: bool | None

    def to_json(self) -> dict[str, Any]:
        """One flat object."""
        value = None if self.value is None else round(self.value, 4)
        return {"what": self.bar.what, "value": value, "bar": self.bar.bound, "reached": self.reached}


def judge(results: Results) -> Sequence[Verdict]:
    """Every bar on a case that was measured."""
    cases = set(results.cases)
    verdicts = []
    for bar in BARS:
        if bar.case in cases:
            value = bar.value(results)
            verdicts.append(Verdict(bar, value, None if value is None else bar.is_reached(value)))
    return verdicts
