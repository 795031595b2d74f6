"""The summary at the end of a run."""

import io
from typing import Any

import pytest
from fakes import EMPTY_STATS
from rich.console import Console

from vmm.cli.summary import print_summary

FULL: dict[str, Any] = {
    "blocks": 63_000,
    "instructions_translated": 310_000,
    "critical": {
        name: {"inline_sites": 123_456, "callout_sites": 0, "callouts_retired": 2_000_000_000}
        for name in ("sgdt", "sidt", "sldt", "smsw", "pushf", "popf", "lar", "mov", "iret")
    },
    "callouts": {f"mnemonic{n}": 10**n for n in range(12)},
    "host_code": {"sysenter": 69_263, "sysexit": 1_069_030},
    "exits": {"a kind of exit with a very long name": 10**9, "port": 52_000},
    "interrupts": {"8": 18, "112": 1},
    "unmodelled": {"i8042: a command that no data sheet that anybody here has read ever mentions at all": 3},
    "time": {"virtual_ns": 1_500_000_000, "wall_s": 2.0, "translate_s": 0.25},
}


def printed(stats: dict[str, Any], width: int = 80, heading: str = "the script ended") -> list[str]:
    out = io.StringIO()
    print_summary(Console(file=out, width=width), stats, heading, 0)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal_or_80_columns(width: int) -> None:
    assert max(map(len, printed(FULL, width))) <= min(width, 80)


def test_nothing_wraps_at_80_columns() -> None:
    short = FULL | {"exits": {"port": 1}, "unmodelled": {"i8042: D2h": 3}}
    assert len(printed(FULL)) == len(printed(short))


def test_each_critical_instruction_has_a_row_with_its_counts() -> None:
    row = next(line for line in printed(FULL) if line.startswith("sgdt"))
    assert row.split() == ["sgdt", "123,456", "-", "2,000,000,000"]


def test_totals_and_times_are_shown() -> None:
    text = " ".join(" ".join(printed(FULL)).split())
    for fact in (
        "63,000 blocks",
        "310,000 instructions",
        "1.500 s guest time",
        "2.000 s host time",
        "0.250 s translating",
    ):
        assert fact in text


def test_long_lists_end_in_a_sum_of_the_rest() -> None:
    assert any("and 2 more" in line and line.split()[-1] == "11" for line in printed(FULL | {"interrupts": {}}))


def test_vectors_are_hexadecimal() -> None:
    text = "\n".join(printed(FULL))
    assert "08h" in text
    assert "70h" in text


def test_an_empty_run_has_a_summary_too() -> None:
    assert printed(EMPTY_STATS)[0].startswith("the script ended (status 0)")


def test_brackets_in_a_heading_are_not_markup() -> None:
    assert printed(EMPTY_STATS, heading="matched '[bold]x'")[0].startswith("matched '[bold]x' (status 0)")
