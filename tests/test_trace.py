"""Trace events as lines and as JSON; outcomes as exit statuses."""

import io
import json
import typing

import pytest
from rich.console import Console

from vmm import outcome, trace
from vmm.outcome import exit_status, sentence
from vmm.trace import KINDS, LAST_EVENTS, TraceEvent, TraceWriter, plain, render

EVENT = TraceEvent(
    "critical",
    1_234_567,
    0xF000,
    0xFFF0,
    0xFFFF0,
    3,
    "pushfd",
    "push dword ptr cs:[0x40]",
    {"flags": 0x202, "name": "x", "list": [1, 16], "is_set": True},
)


def test_a_line_has_every_column_in_order() -> None:
    assert plain(EVENT) == (
        "    1.234567 critical  F000:0000FFF0 000FFFF0 r3 pushfd                     -> push dword ptr cs:[0x40]"
        "  flags=0x202  name=x  list=[0x1 0x10]  is_set=True"
    )


def test_columns_stand_below_each_other_for_every_kind() -> None:
    lines = [plain(TraceEvent(kind, 10**15, 8, 0xC0100000, 0xC0100000, 0, "x", "y")) for kind in KINDS]
    assert len({line.index(" -> y") for line in lines}) == 1


@pytest.mark.parametrize("width", [40, 80, 109, 110, 132])
def test_a_line_never_exceeds_the_terminal(width: int) -> None:
    assert render(EVENT, width).cell_len <= width


@pytest.mark.parametrize(("width", "shown"), [(109, False), (110, True), (None, True)])
def test_the_linear_address_is_the_first_to_go(width: int | None, shown: bool) -> None:
    assert ("000FFFF0" in render(EVENT, width).plain) is shown


def test_brackets_in_operands_are_not_markup() -> None:
    out = io.StringIO()
    TraceWriter(frozenset(KINDS), Console(file=out), None).emit(TraceEvent("io", 0, 0, 0, 0, 0, "mov eax, [red]"))
    assert "mov eax, [red]" in out.getvalue()


def test_a_console_that_is_no_terminal_gets_whole_lines() -> None:
    out = io.StringIO()
    TraceWriter(frozenset(KINDS), Console(file=out, width=40), None).emit(EVENT)
    assert out.getvalue() == plain(EVENT) + "\n"


def test_json_has_all_fields_of_the_event() -> None:
    assert json.loads(EVENT.to_json()) == {
        "kind": "critical",
        "ns": 1_234_567,
        "cs": 0xF000,
        "eip": 0xFFF0,
        "linear": 0xFFFF0,
        "ring": 3,
        "insn": "pushfd",
        "rewritten": "push dword ptr cs:[0x40]",
        "values": {"flags": 0x202, "name": "x", "list": [1, 16], "is_set": True},
    }


def test_the_file_gets_one_json_line_an_event_of_the_kinds_asked_for() -> None:
    file = io.StringIO()
    writer = TraceWriter(frozenset({"critical"}), None, file)
    for event in (EVENT, TraceEvent("io", 0, 0, 0, 0, 0), EVENT):
        writer.emit(event)
    assert file.getvalue() == (EVENT.to_json() + "\n") * 2


def test_the_last_events_are_kept_for_a_report() -> None:
    writer = TraceWriter(frozenset(KINDS), None, None)
    for number in range(LAST_EVENTS + 5):
        writer.emit(TraceEvent("io", number * 1_000_000, 0, 0, 0, 0))
    lines = writer.last_lines()
    assert (len(lines), lines[0].split()[0]) == (LAST_EVENTS, "5.000000")


def test_every_kind_has_a_style_and_a_meaning() -> None:
    assert set(trace.KIND_STYLE) == set(trace.KIND_MEANING) == set(KINDS)


STATUSES = [
    (outcome.Halted(), 0),
    (outcome.PoweredOff(), 0),
    (outcome.ResetRequested("i8042"), 0),
    (outcome.Matched("x"), 0),
    (outcome.ScriptDone(), 0),
    (outcome.ScriptUnfinished("s:1: x", "halted"), 1),
    (outcome.ReplayEnded(), 0),
    (outcome.TripleFault("x"), 3),
    (outcome.Stopped(outcome.UnmodelledReport("x")), 4),
    (outcome.TimedOut(1.0), 124),
    (outcome.ExitPort(0), 1),
    (outcome.ExitPort(0x31), 0x63),
    (outcome.ExitPort(0xFF), 0xFF),
    (outcome.Interrupted(), 0),
    (outcome.Interrupted(2), 130),
    (outcome.Interrupted(15), 143),
]


@pytest.mark.parametrize(("ended", "status"), STATUSES, ids=lambda value: str(value).split("(")[0])
def test_exit_status(ended: outcome.Outcome, status: int) -> None:
    assert exit_status(ended) == status


def test_every_outcome_has_a_status_and_a_sentence() -> None:
    kinds = set(typing.get_args(outcome.Outcome))
    assert {type(ended) for ended, _ in STATUSES} == kinds
    assert all(sentence(ended) and not sentence(ended).endswith(".") for ended, _ in STATUSES)
