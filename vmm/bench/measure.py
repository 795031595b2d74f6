"""How every figure is made: a fresh process for each measurement, the sides by turns, the median of several, the
spread shown."""

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

ROUNDS: Final = 5
_PACKAGES: Final = ("glassvisor", "unicorn", "capstone", "keystone-engine")


@dataclass(slots=True)
class Series:
    """Measurements of one side of one comparison, in the order they were made; `command` made each of them."""

    command: list[str]
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    @property
    def spread(self) -> float:
        """Largest less smallest, as a share of the median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def to_json(self) -> dict[str, Any]:
        """Command, values, median and spread."""
        return {
            "command": shlex.join(self.command),
            "values": self.values,
            "median": self.median,
            "spread": round(self.spread, 4),
        }


def alternate(sides: Mapping[str, Series], measure: Callable[[list[str]], float], rounds: int = ROUNDS) -> None:
    """Measure each side once, in turn, `rounds` times over: what drifts, drifts for all."""
    for _ in range(rounds):
        for series in sides.values():
            series.values.append(measure(series.command))


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours in a fresh interpreter."""
    return [sys.executable, "-m", module, *arguments]


def printed_number(command: list[str]) -> float:
    """Run a command whose last line of output is the figure. Raises: RuntimeError with what it said if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: status {done.returncode}\n{done.stderr.strip()}")
    return float(done.stdout.split()[-1])


def versions() -> dict[str, str]:
    """What a figure depends on, besides the machine."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor()}
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


def write_json(report: Mapping[str, Any], path: str) -> None:
    """Write a report to a file, or to standard output for `-`."""
    text = json.dumps(report, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
