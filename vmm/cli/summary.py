"""The table at the end of a run, from the statistics that `Vm.stats_json` gives.

Made for 80 columns: no table wraps; long names are cropped and long lists end in "and n more".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH_MAX: Final = 80
ROWS_MAX: Final = 10  # of the side tables
UNMODELLED_MAX: Final = 8
PARTS_MAX: Final = 14
_GAP: Final = 2

Stats = Mapping[str, Any]
Row = tuple[str, ...]


def print_summary(console: Console, stats: Stats, heading: str, status: int) -> None:
    """Print a run's summary: why it ended, the totals, the critical instructions, exits and interrupts."""
    style = "bold green" if status == 0 else "bold red"
    console.print(Text(f"{heading} (status {status})", style=style), soft_wrap=True)  # whole, whatever its length
    console.print(tables(stats), width=min(console.width, WIDTH_MAX), no_wrap=True, crop=True)


def tables(stats: Stats) -> RenderableType:
    """Everything below the heading."""
    parts: list[RenderableType] = [_totals(stats)]
    if stats["critical"]:
        parts.append(_critical(stats["critical"]))
    side = [
        _counts("exit", stats["exits"]),
        _counts("callout", stats["callouts"]),
        _counts("interrupt", {_vector(key): count for key, count in stats["interrupts"].items()}),
    ]
    if filled := [table for table in side if table.row_count]:
        parts.append(_beside(filled))
    if stats["host_code"]:
        parts.append(_counts("done by host code", stats["host_code"]))
    if stats["unmodelled"]:
        parts.append(_unmodelled(stats["unmodelled"]))
    if "profile" in stats:
        parts += _profile(stats["profile"])
    return Group(*parts)


def _totals(stats: Stats) -> Table:
    grid = Table.grid(padding=(0, _GAP))
    for _ in range(3):
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(style="dim", no_wrap=True, overflow="ellipsis")
    facts = [
        (f"{stats['blocks']:,}", "blocks"),
        (f"{stats['instructions_translated']:,}", "instructions"),
        (f"{sum(stats['exits'].values()):,}", "exits"),
        *_times(stats["time"]),
    ]
    for start in range(0, len(facts), 3):
        grid.add_row(*(cell for fact in facts[start : start + 3] for cell in fact))
    return grid


_TIME_NAMES: Final[Mapping[str, str]] = {"wall_s": "s host time", "translate_s": "s translating"}


def _times(time: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Every `NAME_s` is in seconds, every `NAME_ns` in nanoseconds; shown in seconds."""
    for key, value in time.items():
        name, _, unit = key.rpartition("_")
        if key == "virtual_ns":
            yield f"{value / 1e9:,.3f}", "s guest time"
        elif unit in ("s", "ns"):
            yield f"{value / (1e9 if unit == 'ns' else 1):,.3f}", _TIME_NAMES.get(key, f"s {name.replace('_', ' ')}")


def _critical(critical: Mapping[str, Mapping[str, int]]) -> Table:
    rows = [
        (mnemonic, count["inline_sites"], count["callout_sites"], count["callouts_retired"])
        for mnemonic, count in sorted(critical.items())
    ]
    table = _table("critical", "rewritten in the cache", "left to a callout", "callouts carried out")
    for mnemonic, *counts in rows:
        table.add_row(mnemonic, *(f"{count:,}" if count else "-" for count in counts))
    return table


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    """A name and count column, largest first, the tail summed up."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    table = _table(title, "count")
    for name, count in ordered[:ROWS_MAX]:
        table.add_row(name, f"{count:,}")
    if rest := ordered[ROWS_MAX:]:
        table.add_row(f"and {len(rest)} more", f"{sum(count for _, count in rest):,}")
    return table


def _profile(profile: Mapping[str, Any]) -> Iterator[Table]:
    """Where the host's time went: parts that add up to the whole, and the sites of exits that took longest."""
    whole = profile["wall_s"]
    table = _table("where host time went", "time", "share", "times", "each")
    for part in profile["parts"][:PARTS_MAX]:
        table.add_row(part["name"], *_spent(part, whole))
    if rest := profile["parts"][PARTS_MAX:]:
        seconds = sum(part["s"] for part in rest)
        table.add_row(f"and {len(rest)} more", *_spent({"s": seconds, "count": 0}, whole))
    table.add_row("all", f"{whole:.3f} s", "100%", "", "")
    yield table
    sites = _table("slowest exits", "at", "time", "share", "times", "each")
    for site in profile["sites"]:
        sites.add_row(site["exit"], f"{site['eip']:08x}", *_spent(site, whole))
    if sites.row_count:
        yield sites


def _spent(part: Mapping[str, Any], whole: float) -> tuple[str, str, str, str]:
    seconds, count = part["s"], part["count"]
    each = f"{seconds / count * 1e6:,.1f} us" if count else ""
    return f"{seconds:.3f} s", f"{seconds / whole:.0%}" if whole else "", f"{count:,}" if count else "", each


def _unmodelled(unmodelled: Mapping[str, int]) -> Table:
    ordered = sorted(unmodelled.items(), key=lambda item: -item[1])
    table = _table("not modelled (the nearest documented thing was done)", "count")
    for text, count in ordered[:UNMODELLED_MAX]:
        table.add_row(text, f"{count:,}")
    if rest := ordered[UNMODELLED_MAX:]:
        table.add_row(f"and {len(rest)} more", f"{sum(count for _, count in rest):,}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _beside(tables: Sequence[Table]) -> Table:
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for _ in tables:
        grid.add_column(no_wrap=True, overflow="crop")
    grid.add_row(*tables)
    return grid


def _vector(key: str) -> str:
    """A vector as the manuals write it; keys that are no number stay."""
    return f"{int(key):02X}h" if str(key).isdigit() else str(key)
