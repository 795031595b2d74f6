"""What the suites print for people."""

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vmm.bench.bars import NO_INLINE, Verdict
from vmm.bench.rows import ORDER, Results, Row, machine

_UNITS: Final = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
_WIDTH: Final = 140
_TRAPS: Final = 0.5
"""Exits of one body from which on it counts as one that traps."""


def console() -> Console:
    """Where tables go: as wide as the terminal; wide enough for all of them where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def duration(ns: float) -> str:
    """Three digits and a unit."""
    scale, unit = next((each for each in _UNITS if abs(ns) >= each[0]), _UNITS[-1])
    value = ns / scale
    return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def number(value: float) -> str:
    """Three digits, more before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cell(row: Row | None) -> str:
    return "[dim]-[/]" if row is None else f"{duration(row.ns)} [dim]±{row.spread / 2:.0%}[/]"


def _exits(row: Row | None) -> str:
    return "[dim]-[/]" if row is None or row.exits is None else f"{row.exits:.3g}"


def _ratio(results: Results, case: str, engine: str, other: str) -> str:
    """How many times more than on `other`."""
    ours, theirs = results.ns(case, engine), results.ns(case, other)
    return "-" if ours is None or theirs is None else number(ours / theirs)


def _trap_ratio(results: Results, case: str) -> str:
    row = results.rows.get((case, "trap"))
    if row is not None and row.exits is not None and row.exits < _TRAPS:
        return "does not trap"
    return _ratio(results, case, "trap", "translate")


Ratios = Mapping[str, Callable[[Results, str], str]]
NANO_RATIOS: Final[Ratios] = {
    "trap / translate": _trap_ratio,
    "no-inline / translate": lambda results, case: _ratio(results, case, NO_INLINE, "translate"),
}


def against_translate(results: Results, others: Container[str] | None = None) -> Ratios:
    """A column for each other engine, or those of `others`: translation's time as a share of its."""

    def column(engine: str) -> Callable[[Results, str], str]:
        return lambda results, case: _ratio(results, case, "translate", engine)

    return {
        f"translate / {engine}": column(engine)
        for engine in results.engines
        if engine in (others or ORDER) and engine != "translate"
    }


def show_results(console: Console, title: str, results: Results, ratios: Ratios, *, exits: bool) -> None:
    """A line for each case, a column for each engine, then ratios; with `exits` a second table of these."""
    table = _table(title, ("case", *results.engines, *ratios))
    for case in results.cases:
        cells = [_cell(results.rows.get((case, engine))) for engine in results.engines]
        table.add_row(case, *cells, *(ratio(results, case) for ratio in ratios.values()))
    console.print(table)
    if exits:
        counting = [
            engine for engine in results.engines if any(_counts(results, case, engine) for case in results.cases)
        ]
        table = _table("exits of one", ("case", *counting))
        for case in results.cases:
            table.add_row(case, *(_exits(results.rows.get((case, engine))) for engine in counting))
        console.print(table)


def _counts(results: Results, case: str, engine: str) -> bool:
    row = results.rows.get((case, engine))
    return row is not None and row.exits is not None


def show_bars(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Bar by bar, in colour."""
    if not verdicts:
        return
    table = _table("bars", ("what", "value", "bar", ""))
    words = {True: "[green]reached[/]", False: "[red]not reached[/]", None: "[dim]not measured[/]"}
    for verdict in verdicts:
        value = "-" if verdict.value is None else number(verdict.value)
        table.add_row(escape(verdict.bar.what), value, verdict.bar.bound, words[verdict.reached])
    console.print(table)


def show_conditions(console: Console, results: Results, versions: Mapping[str, str], rounds: int) -> None:
    """What the figures mean, and what they were measured on."""
    for note in results.notes:
        console.print(escape(note), style="yellow", soft_wrap=True, highlight=False)
    where = machine()
    lines = [
        f"medians of at most {rounds} rounds, engines by turns; ± half of (largest - smallest) / median",
        f"{where['processor']}, {where['processors']} processors, load {where['load']:g}, Linux {where['kernel']}",
        *(f"{name}: {version}" for name, version in versions.items()),
    ]
    for line in lines:
        console.print(escape(line), style="dim", soft_wrap=True, highlight=False)


def show_values(console: Console, title: str, rows: Sequence[tuple[str, ...]], headings: tuple[str, ...]) -> None:
    """A table; the first column is text, the others figures."""
    table = _table(title, headings)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        name = heading.replace("translate-", "translate-\n").replace(" / ", "\n/ ")
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table
