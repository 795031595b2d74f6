"""What a campaign has counted so far: adds up over workers, and goes to a file and back."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmm.differential.outcome import Outcome
from vmm.differential.program import Program

_PER_MODE = ("programs", "faulting", "interrupted")
_FIRST_FREE = 32  # vectors from here on are no exceptions


@dataclass(slots=True)
class Tally:
    """Counts by mode, by mnemonic and mode (`mnemonic/mode`), by ending, and by engine and explanation
    (`engine/flaw`); and the failures, as `Failure.to_json` has them."""

    programs: Counter[str] = field(default_factory=Counter)
    faulting: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    instructions: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    vectors: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def count(self, program: Program, reference: Outcome) -> None:
        """One program, as the reference ran it."""
        mode = program.mode.name
        self.programs[mode] += 1
        self.faulting[mode] += reference.has_faulted
        self.interrupted[mode] += bool(reference.interrupts)
        self.endings[str(reference.ending)] += 1
        self.instructions.update(f"{step.name}/{mode}" for step in program.steps)
        self.vectors.update(str(vector) for vector in reference.vectors if vector < _FIRST_FREE)

    def add(self, other: "Tally") -> None:
        """Take another one's counts in."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.failures += other.failures

    @property
    def total(self) -> int:
        """How many programs."""
        return sum(self.programs.values())

    def share(self, what: Counter[str]) -> float:
        """Of all programs, 0 to 1."""
        return sum(what.values()) / self.total if self.total else 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        counts = {name: dict(sorted(getattr(self, name).items())) for name in _COUNTERS}
        return {**counts, "failures": sorted(self.failures, key=lambda failure: failure["number"])}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Tally":
        """What `to_json` gave."""
        return cls(**{name: Counter(saved[name]) for name in _COUNTERS}, failures=list(saved["failures"]))


_COUNTERS = (*_PER_MODE, "instructions", "endings", "vectors", "explained")
