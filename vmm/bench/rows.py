"""Results: rows as `--json` writes them, and what they were measured on."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

ORDER: Final = ("unicorn", "bare", "trap", "translate-no-inline", "translate", "svm", "qemu", "bochs")
"""Of the engines, in reports. `unicorn`: the engine below, alone."""
_PACKAGES: Final = ("glassvisor", "unicorn", "capstone", "keystone-engine")


@dataclass(frozen=True, slots=True)
class Row:
    """One case on one engine: the median of its measurements in nanoseconds, their spread (largest less smallest, as a
    share of the median), and how often guest code left to the VMM in one of it; None where nobody counts.
    """

    suite: str
    case: str
    engine: str
    ns: float
    spread: float
    exits: float | None = None


def row_of(suite: str, case: str, engine: str, values: Sequence[float], exits: Sequence[float | None] = ()) -> Row:
    """The row of some measurements."""
    middle = median(values)
    spread = (max(values) - min(values)) / middle
    counted = [each for each in exits if each is not None]
    return Row(suite, case, engine, round(middle, 3), round(spread, 4), round(median(counted), 3) if counted else None)


@dataclass(slots=True)
class Results:
    """The rows of a suite by (case, engine), in the order they came, and remarks on what could not be measured.

    `is_cut`: the user did not want to wait for the rest.
    """

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_cut: bool = False

    def cut(self) -> None:
        """What comes now is missing."""
        self.is_cut = True
        self.notes.append("interrupted: what was measured until then")

    def add(self, row: Row) -> None:
        """Take one more."""
        self.rows[row.case, row.engine] = row

    def ns(self, case: str, engine: str) -> float | None:
        """What a case took; None if it was not measured."""
        row = self.rows.get((case, engine))
        return None if row is None else row.ns

    @property
    def cases(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(case for case, _ in self.rows))

    @property
    def engines(self) -> list[str]:
        """Their names, in the order of reports."""
        named = {engine for _, engine in self.rows}
        return [engine for engine in ORDER if engine in named]

    def to_json(self, bars: Sequence[Mapping[str, Any]], versions: Mapping[str, str], rounds: int) -> dict[str, Any]:
        """Everything: docs/benchmarks.md."""
        return {
            "machine": machine() | {"rounds": rounds, "versions": {**_versions(), **versions}},
            "rows": [asdict(row) for row in self.rows.values()],
            "bars": list(bars),
            "notes": self.notes,
        }


def machine() -> dict[str, Any]:
    """What a figure depends on besides versions. `load`: processes that wanted to run in the last minute."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
