"""`python -m vmm.bench.compute`: programs under translation against the same bytes on the bare engine.

Every measurement is a fresh process with an empty block cache, started by this program with `--once`, which prints
the seconds from the guest's first instruction to its last.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from vmm.bench import measure, report
from vmm.bench.measure import Series
from vmm.bench.programs import PROGRAMS, Program

SIDES = ("bare", "translated")
Runner = Callable[[Program, int], float]
Parser = Callable[[Sequence[str]], argparse.Namespace]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m vmm.bench.compute", description=__doc__)
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"which, of {', '.join(PROGRAMS)} (default: all)"
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


def size_of(program: Program, scale: float) -> int:
    """How much work at a scale; the exponent of Fibonacci stays, for its time is not linear in it."""
    return program.size if program.name == "fibonacci" else max(4, int(program.size * scale) // 4 * 4)


def run_once(side: str, program: Program, scale: float) -> float:
    """One measurement, in this process."""
    size = size_of(program, scale)
    if side == "bare":
        from vmm.bench.bare import run_bare

        return run_bare(program, size)
    from vmm.bench.translated import run_translated

    return run_translated(program, size)


def compare(program: Program, rounds: int, scale: float) -> dict[str, Series]:
    """Both sides of one program, by turns."""
    sides = {
        side: Series(measure.python_command("vmm.bench.compute", "--once", side, "--scale", f"{scale:g}", program.name))
        for side in SIDES
    }
    measure.alternate(sides, measure.printed_number, rounds)
    return sides


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and leave the verdict to the reader: the status is 0 unless a program went wrong."""
    options = parse(arguments)
    programs = [PROGRAMS[name] for name in options.programs] or list(PROGRAMS.values())
    if options.once:
        print(f"{run_once(options.once, programs[0], options.scale):.6f}")
        return 0
    console = Console(stderr=options.json == "-")
    measured = {}
    for program in programs:
        with console.status(f"{program.name}: {program.what}"):
            measured[program.name] = compare(program, options.rounds, options.scale)
    rows = [
        (f"{program.name}: {program.what}", sides["bare"], sides["translated"], program.bar)
        for program, sides in zip(programs, measured.values(), strict=True)
    ]
    report.show_comparison(console, "under translation against the bare engine", rows)
    commands = [series.command for sides in measured.values() for series in sides.values()]
    versions = measure.versions()
    report.show_conditions(console, commands, versions)
    if options.json:
        figures = {
            name: {side: series.to_json() for side, series in sides.items()}
            | {"ratio": sides["translated"].median / sides["bare"].median, "bar": PROGRAMS[name].bar}
            for name, sides in measured.items()
        }
        measure.write_json({"versions": versions, "figures": figures}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
