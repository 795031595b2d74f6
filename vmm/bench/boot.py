"""`python -m vmm.bench.boot IMAGE`: how long until something shows, against QEMU's TCG, and how much memory it takes.

Three figures: the first character of the BIOS, from the command `vmm run`; a pattern on the screen (GRUB's name, by
default), against QEMU with the same image, by turns; and the largest resident size of `vmm run`.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from vmm.bench import measure, qemu, report
from vmm.bench.measure import Series

GRUB = "GNU GRUB"
FIRST_CHARACTER_BAR = 1.5
BOOT_BAR = 4.0
MEMORY_BAR = 200
"""Mebibytes besides the guest's RAM."""
_MEBI = 1 << 20
_QEMU = "qemu"


@dataclass(slots=True)
class Figures:
    """What was measured: seconds, and mebibytes for `resident`."""

    first: Series
    boot: Series
    yardstick: Series
    resident: list[float] = field(default_factory=list)

    def to_json(self, memory: int) -> dict[str, object]:
        """Everything, with the bars."""
        return {
            "first_character": self.first.to_json() | {"bar": FIRST_CHARACTER_BAR},
            "boot": {
                "vmm": self.boot.to_json(),
                "qemu": self.yardstick.to_json(),
                "ratio": self.boot.median / self.yardstick.median,
                "bar": BOOT_BAR,
            },
            "resident_mib": {"values": self.resident, "max": max(self.resident), "bar": memory + MEMORY_BAR},
        }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m vmm.bench.boot", description=__doc__)
    parser.add_argument("image", type=Path, help="boot medium")
    parser.add_argument("--as", dest="kind", choices=("floppy", "disk", "cdrom"), default="floppy", help="%(default)s")
    parser.add_argument("--until", default=GRUB, metavar="REGEX", help="what ends a boot (%(default)s)")
    parser.add_argument("--memory", type=int, default=64, metavar="MIB", help="guest RAM in MiB (%(default)s)")
    parser.add_argument("--rounds", type=int, default=measure.ROUNDS, help="measurements of each (%(default)s)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds before a boot has failed (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured there; - is standard output")
    options = parser.parse_args(arguments)
    if not options.image.is_file():
        parser.error(f"{options.image}: no such file (make images)")
    if options.rounds < 1:
        parser.error("--rounds must be positive")
    return options


def vmm_command(image: Path, kind: str, memory: int, until: str, limit: float) -> list[str]:
    """The `vmm run` that ends when the screen matches."""
    return measure.python_command(
        "vmm", "run", str(image), "--as", kind, "--memory", f"{memory}M", "--display", "none",
        "--serial", "none", "--until", until, "--timeout", f"{limit:g}",
    )  # fmt: skip


def run_vmm(command: list[str]) -> tuple[float, float]:
    """Seconds that a `vmm run --until` took, and its largest resident size in MiB. Raises: RuntimeError."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        said = child.stderr.read().decode() if child.stderr else ""
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if child.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: status {child.returncode}\n{said.strip()}")
    return seconds, usage.ru_maxrss * 1024 / _MEBI


def take(options: argparse.Namespace) -> Figures:
    """All measurements, by turns."""
    made = (options.image, options.kind, options.memory)
    figures = Figures(
        Series(vmm_command(*made, r"\S", options.limit)),
        Series(vmm_command(*made, options.until, options.limit)),
        Series(qemu.command_line(*made, "QMP-SOCKET")),
    )
    pattern = re.compile(options.until)
    for _ in range(options.rounds):
        figures.first.values.append(run_vmm(figures.first.command)[0])
        seconds, resident = run_vmm(figures.boot.command)
        figures.boot.values.append(seconds)
        figures.resident.append(round(resident, 1))
        figures.yardstick.values.append(qemu.seconds_until(*made, pattern, options.limit))
    return figures


def show(console: Console, figures: Figures, memory: int) -> None:
    """Both tables."""
    report.show_comparison(console, "boot", [("until the screen matches", figures.yardstick, figures.boot, BOOT_BAR)])
    first, resident = figures.first.median, max(figures.resident)
    rows = [
        ("first character", f"{first:.2f} s", f"{FIRST_CHARACTER_BAR:g} s", report.verdict(first, FIRST_CHARACTER_BAR)),
        (
            "resident memory",
            f"{resident:.0f} MiB",
            f"{memory + MEMORY_BAR} MiB",
            report.verdict(resident, memory + MEMORY_BAR),
        ),
    ]
    report.show_values(console, "vmm run", rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 when QEMU cannot be had, 1 when a boot fails."""
    options = parse(arguments)
    console = Console(stderr=options.json == "-")
    try:
        versions = measure.versions() | {_QEMU: qemu.version()}
        with console.status(f"{options.rounds} rounds of {options.image.name}"):
            figures = take(options)
    except (qemu.QemuError, RuntimeError) as error:
        console.print(f"{error}", style="red", markup=False)
        return 2 if isinstance(error, qemu.QemuError) else 1
    show(console, figures, options.memory)
    commands = [series.command for series in (figures.first, figures.boot, figures.yardstick)]
    report.show_conditions(console, commands, versions)
    if options.json:
        measure.write_json({"versions": versions, "figures": figures.to_json(options.memory)}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
