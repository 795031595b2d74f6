"""What the benchmark programs print for people. The only importer of rich here."""

import shlex
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vmm.bench.measure import Series

_VALUES = ("what", "value", "bar", "")


def show_comparison(console: Console, title: str, rows: Iterable[tuple[str, Series, Series, float | None]]) -> None:
    """One row each: what, the yardstick, the measured, and the largest ratio that is promised."""
    table = Table(title=title)
    for heading in ("what", "yardstick", "measured", "ratio", "bar", ""):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, yardstick, measured, bar in rows:
        ratio = measured.median / yardstick.median
        table.add_row(name, _value(yardstick), _value(measured), f"{ratio:.2f}", _bar(bar), verdict(ratio, bar))
    console.print(table)


def show_values(
    console: Console, title: str, rows: Iterable[tuple[str, str, str, str]], headings: tuple[str, ...] = _VALUES
) -> None:
    """A table of four columns; the first is text, the others figures."""
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_conditions(console: Console, commands: Iterable[list[str]], versions: Mapping[str, str]) -> None:
    """The command lines and versions behind the figures."""
    for command in commands:
        console.print(f"[dim]$[/] {escape(shlex.join(command))}", soft_wrap=True, highlight=False)
    console.print("[dim]" + escape("  ".join(f"{name} {version}" for name, version in versions.items())) + "[/]")


def verdict(value: float, bar: float | None) -> str:
    """Within the bar or not, in colour; nothing where nothing is promised."""
    if bar is None:
        return ""
    return "[green]within[/]" if value <= bar else "[red]over[/]"


def _bar(bar: float | None) -> str:
    return "" if bar is None else f"{bar:g}"


def _value(series: Series) -> str:
    return f"{series.median:.3f} s [dim]±{series.spread / 2:.0%}[/]"
