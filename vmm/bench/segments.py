"""`python -m vmm.bench.segments`: what segment checks cost: programs translated with them against the same without.

Every measurement is a fresh process with an empty block cache, started by this program with `--once`. Flat 32-bit code
has nothing to check; 16-bit code has a check in front of most accesses.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console

from bt.translate import Options
from vmm.bench import measure, report
from vmm.bench.compute import size_of
from vmm.bench.measure import Series
from vmm.bench.programs import PROGRAMS, Program

SIDES: Final = ("unchecked", "checked")
DEFAULT: Final = ("compute", "real", "frames", "strings")
BAR_32: Final = 1.02
BAR_16: Final = 2.5


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m vmm.bench.segments", description=__doc__)
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"which, of {', '.join(PROGRAMS)} ({', '.join(DEFAULT)})"
    )
    parser.add_argument("--rounds", type=int, default=measure.ROUNDS, help="measurements of each side (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="amount of work against the usual (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured there; - is standard output")
    parser.add_argument("--once", choices=SIDES, help="run one program on one side and print the seconds")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.programs if name not in PROGRAMS]
    if unknown:
        parser.error(f"program {unknown[0]} given, one of {', '.join(PROGRAMS)} expected")
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale must be positive")
    return options


def run_once(side: str, program: Program, scale: float) -> float:
    """One measurement, in this process."""
    from vmm.bench.translated import run_translated

    return run_translated(program, size_of(program, scale), Options(segment_checks=side == "checked"))


def compare(program: Program, rounds: int, scale: float) -> dict[str, Series]:
    """Both sides of one program, by turns."""
    once = ("vmm.bench.segments", "--scale", f"{scale:g}", program.name, "--once")
    sides = {side: Series(measure.python_command(*once, side)) for side in SIDES}
    measure.alternate(sides, measure.printed_number, rounds)
    return sides


def bar_of(program: Program) -> float:
    """The largest ratio that is promised."""
    return BAR_32 if program.code32 else BAR_16


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and leave the verdict to the reader: the status is 0 unless a program went wrong."""
    options = parse(arguments)
    programs = [PROGRAMS[name] for name in options.programs or DEFAULT]
    if options.once:
        print(f"{run_once(options.once, programs[0], options.scale):.6f}")
        return 0
    console = Console(stderr=options.json == "-")
    measured = {}
    for program in programs:
        with console.status(f"{program.name}: {program.what}"):
            measured[program.name] = compare(program, options.rounds, options.scale)
    rows = [
        (f"{program.name}: {program.what}", sides["unchecked"], sides["checked"], bar_of(program))
        for program, sides in zip(programs, measured.values(), strict=True)
    ]
    report.show_comparison(console, "with segment checks against without", rows)
    versions = measure.versions()
    report.show_conditions(
        console, [series.command for sides in measured.values() for series in sides.values()], versions
    )
    if options.json:
        figures = {
            name: {side: series.to_json() for side, series in sides.items()}
            | {"ratio": sides["checked"].median / sides["unchecked"].median, "bar": bar_of(PROGRAMS[name])}
            for name, sides in measured.items()
        }
        measure.write_json({"versions": versions, "figures": figures}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
