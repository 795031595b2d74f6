"""`python -m vmm.bench.linux [CASE...]`: Debian's Linux, against QEMU's TCG with the same files and command line.

Each case is the time from one point to another in what the guest says on its serial port; the first point of a boot is
the start of the process. Both sides are measured by turns. `vmm images linux` fetches what is booted.
"""

import argparse
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from vmm.bench import measure, qemu, report
from vmm.bench.measure import Series
from vmm.fetch import linux

COMMAND_LINE: Final = (
    "console=ttyS0 panic=-1 reboot=t nokaslr tsc=reliable mitigations=off quiet acpi=off noapic nolapic "
    "lpj=4000000 cryptomgr.notests noisapnp audit=0 pci=off"
)
READY: Final = "GLASSVISOR-INIT-READY"
ROUNDS: Final = 3
MEMORY_BAR: Final = 300
"""Mebibytes besides the guest's RAM."""
_MEBI: Final = 1 << 20
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel, what it is told besides, the two points, and the largest ratio that is promised.

    Where `start` is None, the first point is the start of the process.
    """

    what: str
    kernel: str
    append: str
    start: str | None
    until: str
    bar: float


CASES: Final = {
    "bzimage": Case("boot of -686, bzImage", "vmlinuz-686", "gv.run=true", None, READY, 3.5),
    "pvh": Case("boot of -686-pae, vmlinux (PVH)", "vmlinux-686-pae", "gv.run=true", None, READY, 4.0),
    "work": Case("work script on -686", "vmlinuz-686", "gv.run=work", "WORK-BEGIN", "WORK-END", 5.0),
}


@dataclass(slots=True)
class Figures:
    """What one case took: seconds of both sides, mebibytes for `resident`."""

    case: Case
    yardstick: Series
    measured: Series
    resident: list[float] = field(default_factory=list)

    def to_json(self, memory: int) -> dict[str, Any]:
        """Everything, with the bars."""
        return {
            "vmm": self.measured.to_json(),
            "qemu": self.yardstick.to_json(),
            "ratio": self.measured.median / self.yardstick.median,
            "bar": self.case.bar,
            "resident_mib": {"values": self.resident, "max": max(self.resident), "bar": memory + MEMORY_BAR},
        }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m vmm.bench.linux", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; all of them without")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB", help="guest RAM in MiB (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measurements of each (%(default)s)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds before a run has failed (%(default)s)")
    parser.add_argument("--directory", type=Path, default=linux.directory(), help="where the kernels are (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured there; - is standard output")
    options = parser.parse_args(arguments)
    options.cases = options.cases or list(CASES)
    for name in options.cases:
        if name not in CASES:
            parser.error(f"case {name} given, one of {', '.join(CASES)} expected")
        if not (kernel := options.directory / CASES[name].kernel).is_file():
            parser.error(f"{kernel}: no such file (vmm images linux)")
    if options.rounds < 1:
        parser.error("--rounds must be positive")
    return options


def commands(case: Case, directory: Path, memory: int) -> tuple[list[str], list[str]]:
    """QEMU's command and ours."""
    kernel, initrd = directory / case.kernel, directory / linux.INITRAMFS
    append = f"{COMMAND_LINE} {case.append}"
    ours = measure.python_command(
        "vmm", "run", "--kernel", str(kernel), "--initrd", str(initrd), "--append", append, "--memory", f"{memory}M",
        "--clock", "realtime", "--display", "none", "--serial", "stdio",
    )  # fmt: skip
    return qemu.linux_command_line(kernel, initrd, append, memory), ours


def run(command: list[str], case: Case, limit: float) -> tuple[float, float]:
    """Seconds between the two points, and the largest resident size in MiB so far. Raises: RuntimeError."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            watch = _Watch(child, begun + limit)
            first = watch.until(case.start) if case.start else begun
            seconds = watch.until(case.until) - first
        finally:
            child.kill()
            _, _, usage = os.wait4(child.pid, 0)
            child.returncode = 0  # it is waited for
    return seconds, usage.ru_maxrss * 1024 / _MEBI


class _Watch:
    """What a process prints, and when."""

    def __init__(self, child: "subprocess.Popen[bytes]", deadline: float) -> None:
        assert child.stdout is not None
        self._output = child.stdout.fileno()
        self._deadline = deadline
        self._text = b""

    def until(self, words: str) -> float:
        """The time at which a line with these words was there. Raises: RuntimeError: it never was."""
        pattern = re.compile(rf"^{re.escape(words)}\r?$".encode(), re.MULTILINE)
        while not (found := pattern.search(self._text)):
            left = self._deadline - time.perf_counter()
            ready, _, _ = select.select([self._output], [], [], max(0.0, left))
            data = os.read(self._output, _CHUNK) if ready else b""
            if not data:
                last = self._text[-400:].decode("latin-1").strip()
                raise RuntimeError(f"no {words} {'at all' if ready else 'in time'}; the last words: {last}")
            self._text += data
        now = time.perf_counter()
        self._text = self._text[found.end() :]
        return now


def take(name: str, options: argparse.Namespace) -> Figures:
    """All measurements of one case, by turns."""
    case = CASES[name]
    theirs, ours = commands(case, options.directory, options.memory)
    figures = Figures(case, Series(theirs), Series(ours))
    for _ in range(options.rounds):
        figures.yardstick.values.append(run(theirs, case, options.limit)[0])
        seconds, resident = run(ours, case, options.limit)
        figures.measured.values.append(seconds)
        figures.resident.append(round(resident, 1))
    return figures


def show(console: Console, figures: Sequence[Figures], memory: int) -> None:
    """Both tables."""
    rows = [(one.case.what, one.yardstick, one.measured, one.case.bar) for one in figures]
    report.show_comparison(console, "Linux", rows)
    bar = memory + MEMORY_BAR
    peaks = [(one.case.what, max(one.resident)) for one in figures]
    values = [(what, f"{peak:.0f} MiB", f"{bar} MiB", report.verdict(peak, bar)) for what, peak in peaks]
    report.show_values(console, "resident memory of vmm run", values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 when QEMU cannot be had, 1 when a run fails."""
    options = parse(arguments)
    console = Console(stderr=options.json == "-")
    figures: dict[str, Figures] = {}
    try:
        versions = measure.versions() | {"qemu": qemu.version()}
        for name in options.cases:
            with console.status(f"{options.rounds} rounds of {CASES[name].what}"):
                figures[name] = take(name, options)
    except (qemu.QemuError, RuntimeError) as error:
        console.print(f"{error}", style="red", markup=False)
        return 2 if isinstance(error, qemu.QemuError) else 1
    show(console, list(figures.values()), options.memory)
    series = [side.command for one in figures.values() for side in (one.yardstick, one.measured)]
    report.show_conditions(console, series, versions)
    if options.json:
        found = {name: one.to_json(options.memory) for name, one in figures.items()}
        measure.write_json({"versions": versions, "figures": found}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
