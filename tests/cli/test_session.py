"""The loop between the guest and its front ends: what ends a run, and what the user gets of it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeGuest, FakeMonitor, Slice

from vmm.cli.options import Ends, Media, Outputs, Payload, RunRequest, StateFiles
from vmm.cli.session import run_machine
from vmm.door import ReplayEnd
from vmm.errors import Unmodelled
from vmm.outcome import (
    ExitPort,
    Halted,
    Outcome,
    PoweredOff,
    ResetRequested,
    Stopped,
    TripleFault,
    UnmodelledReport,
)
from vmm.script import compile_pattern, parse
from vmm.trace import TraceEvent, plain


def request(ends: Ends | None = None, outputs: Outputs | None = None) -> RunRequest:
    return RunRequest(
        media=Media(),
        payload=Payload(),
        ends=ends or Ends(),
        outputs=outputs or Outputs(),
        states=StateFiles(),
        memory=1 << 20,
        bios=None,
        clock="realtime",
        exit_port=False,
        strict=False,
        audit=False,
    )


def scripted(text: str) -> Ends:
    return Ends(script=parse(text, "s"), script_name="s")


def idle(_: FakeGuest) -> None:
    return None


def ends_with(outcome: Outcome) -> Slice:
    return lambda _: outcome


def shows(text: str, outcome: Outcome | None = None) -> Slice:
    def act(guest: FakeGuest) -> Outcome | None:
        guest.text = text
        return outcome

    return act


def sends(data: bytes, outcome: Outcome | None = None) -> Slice:
    def act(guest: FakeGuest) -> Outcome | None:
        guest.say(data)
        return outcome

    return act


UNTIL = Ends(until=compile_pattern("^done$"))
EXIT = Ends(on_reset_exit=True)
REPORT = UnmodelledReport("RSM at F000:1234", ("bytes 0F AA",), ("a trace line",))

RUNS = [
    pytest.param(Ends(), [idle, ends_with(Halted())], 0, id="halted"),
    pytest.param(Ends(), [ends_with(PoweredOff())], 0, id="powered_off"),
    pytest.param(Ends(), [ends_with(ExitPort(3))], 7, id="exit_port"),
    pytest.param(Ends(), [ends_with(Stopped(REPORT))], 4, id="unmodelled"),
    pytest.param(Ends(), [ends_with(ResetRequested("i8042")), ends_with(Halted())], 0, id="reset_restarts"),
    pytest.param(Ends(), [ends_with(TripleFault("x")), ends_with(Halted())], 0, id="triple_fault_restarts"),
    pytest.param(EXIT, [ends_with(ResetRequested("i8042"))], 0, id="reset_exits"),
    pytest.param(EXIT, [ends_with(TripleFault("x"))], 3, id="triple_fault_exits"),
    pytest.param(UNTIL, [idle, shows("a\ndone\nb")], 0, id="until_matches_the_screen"),
    pytest.param(UNTIL, [sends(b"do"), sends(b"ne")], 0, id="until_matches_serial_text_in_pieces"),
    pytest.param(UNTIL, [sends(b"done", ExitPort(1))], 3, id="the_exit_port_beats_a_match"),
    pytest.param(UNTIL, [ends_with(Halted())], 0, id="until_without_a_match_is_no_failure"),
    pytest.param(Ends(timeout=1e-9), [idle], 124, id="time_out"),
    pytest.param(scripted("expect screen x"), [idle, shows("x")], 0, id="script_ends"),
    pytest.param(scripted("expect screen x"), [shows("x", Halted())], 0, id="script_sees_the_last_screen"),
    pytest.param(scripted("expect screen x\nexpect serial y"), [shows("x", Halted())], 1, id="script_unfinished"),
    pytest.param(scripted("expect screen x"), [shows("x", ExitPort(0))], 1, id="the_exit_port_beats_the_script"),
    pytest.param(scripted("wait 0.03\nsend a"), [idle] * 5, 0, id="script_waits_in_guest_time"),
]


@pytest.mark.parametrize(("ends", "slices", "status"), RUNS)
def test_a_run_ends_with_its_status(ends: Ends, slices: list[Slice], status: int) -> None:
    monitor = FakeMonitor(list(slices))
    assert run_machine(request(ends), FakeGuest(), monitor) == status


def test_a_reset_starts_the_guest_anew() -> None:
    guest = FakeGuest()
    run_machine(request(), guest, FakeMonitor([ends_with(ResetRequested("port 92h")), ends_with(Halted())]))
    assert guest.resets == 1


def test_keys_of_a_script_reach_the_keyboard_one_a_time_and_before_the_next_step() -> None:
    guest = FakeGuest(text="prompt")
    seen: list[int] = []

    def count(machine: FakeGuest) -> None:
        seen.append(len(machine.door.keys))

    slices: list[Slice] = [count] * 8
    assert run_machine(request(scripted("send abc\nexpect screen prompt")), guest, FakeMonitor(slices)) == 0
    assert [stroke.key for stroke in guest.door.keys] == ["a", "b", "c"]
    assert seen == [0, 1, 2, 3]


def test_serial_input_waits_while_the_door_is_full() -> None:
    guest = FakeGuest()
    guest.door.serial_backlog = 64

    def drain(machine: FakeGuest) -> None:
        assert not machine.door.serial
        machine.door.serial_backlog = 0

    run_machine(request(scripted("send-serial hello\nwait 0.1")), guest, FakeMonitor([idle, drain] + [idle] * 9))
    assert bytes(guest.door.serial) == b"hello"


def test_a_script_takes_screenshots(tmp_path: Path) -> None:
    target = tmp_path / "shot.txt"
    guest = FakeGuest(text="hello")
    assert run_machine(request(scripted(f"screenshot {target}")), guest, FakeMonitor([idle])) == 0
    assert target.read_text() == "hello\n"


def test_serial_and_debug_output_go_to_their_files(tmp_path: Path) -> None:
    outputs = Outputs(serial=tmp_path / "serial", debugcon=tmp_path / "debug")
    guest = FakeGuest()

    def talk(machine: FakeGuest) -> Outcome | None:
        machine.say(b"to serial\xff")
        for sink in machine.debugcon_out:
            sink(b"to debug")
        return Halted()

    run_machine(request(outputs=outputs), guest, FakeMonitor([talk]))
    assert (tmp_path / "serial").read_bytes() == b"to serial\xff"
    assert (tmp_path / "debug").read_bytes() == b"to debug"


def test_statistics_are_json_with_the_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_machine(request(outputs=Outputs(stats="-")), FakeGuest(), FakeMonitor([ends_with(ExitPort(1))]))
    out = json.loads(capsys.readouterr().out)
    assert (out["status"], out["outcome"], out["blocks"]) == (3, "the guest wrote 1 to the exit port", 0)
    run_machine(
        request(outputs=Outputs(stats=str(tmp_path / "s.json"))), FakeGuest(), FakeMonitor([ends_with(Halted())])
    )
    assert json.loads((tmp_path / "s.json").read_text())["status"] == 0


def test_a_time_out_says_where_the_script_stood(capsys: pytest.CaptureFixture[str]) -> None:
    ends = Ends(timeout=1e-9, script=parse("\nexpect screen x", "boot.script"), script_name="boot.script")
    assert run_machine(request(ends), FakeGuest(), FakeMonitor([idle])) == 124
    assert "with the script still at boot.script:2: expect screen x" in " ".join(capsys.readouterr().err.split())


def runs_out_of_log(_: FakeGuest) -> None:
    raise ReplayEnd


def test_a_replay_ends_where_the_recording_does() -> None:
    guest = FakeGuest()
    guest.door.is_replaying = True
    assert run_machine(request(), guest, FakeMonitor([runs_out_of_log])) == 0


def test_an_index_error_is_no_end_of_a_recording_where_none_is_replayed() -> None:
    with pytest.raises(ReplayEnd):
        run_machine(request(), FakeGuest(), FakeMonitor([runs_out_of_log]))


def test_trace_events_go_to_stderr_and_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = TraceEvent("io", 5, 0xF000, 0x10, 0xF0010, 0, "in al, 0x64")

    def act(machine: FakeGuest) -> Outcome | None:
        assert machine.on_trace is not None
        machine.on_trace(event)
        raise Unmodelled("RSM at F000:1234", ("bytes 0F AA",))

    outputs = Outputs(trace=frozenset({"io"}), trace_console=True, trace_file=tmp_path / "t.jsonl")
    assert run_machine(request(outputs=outputs), FakeGuest(), FakeMonitor([act])) == 4
    assert json.loads((tmp_path / "t.jsonl").read_text())["insn"] == "in al, 0x64"
    err = capsys.readouterr().err
    assert err.splitlines()[0] == plain(event)
    assert f"last trace lines:\n    {plain(event)}\n" in err


def test_without_tracing_nothing_listens() -> None:
    guest = FakeGuest()
    run_machine(request(), guest, FakeMonitor([ends_with(Halted())]))
    assert guest.on_trace is None


def test_a_stop_reports_what_where_and_the_last_trace_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run_machine(request(), FakeGuest(), FakeMonitor([ends_with(Stopped(REPORT))]))
    err = capsys.readouterr().err
    assert err.startswith("vmm: not modelled: RSM at F000:1234\n  bytes 0F AA\n  last trace lines:\n    a trace line\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_and_its_handler_is_put_back(number: int, status: int) -> None:
    before = signal.getsignal(number)

    def interrupt(_: FakeGuest) -> None:
        os.kill(os.getpid(), number)

    assert run_machine(request(), FakeGuest(), FakeMonitor([interrupt])) == status
    assert signal.getsignal(number) is before


def test_a_time_out_shortens_the_last_slice() -> None:
    monitor = FakeMonitor([idle] * 1000)
    run_machine(request(Ends(timeout=1e-4)), FakeGuest(), monitor)
    assert max(monitor.lengths) <= 1e-4


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, list[Slice]], tuple[int, FakeGuest, FakeMonitor]]:
    """Run with `--serial stdio` and standard input from a descriptor."""

    def run(descriptor: int, slices: list[Slice]) -> tuple[int, FakeGuest, FakeMonitor]:
        guest, monitor = FakeGuest(), FakeMonitor(slices)
        monkeypatch.setattr("vmm.cli.session.stdin_descriptor", lambda: descriptor)
        status = run_machine(request(outputs=Outputs(serial="stdio")), guest, monitor)
        return status, guest, monitor

    return run


Console = Callable[[int, list[Slice]], tuple[int, FakeGuest, FakeMonitor]]


def test_pasted_input_reaches_the_guest_whole_and_its_end_is_no_end_of_the_run(console: Console) -> None:
    reader, writer = os.pipe()
    paste = bytes(range(256)) * 4
    os.write(writer, paste)
    os.close(writer)
    status, guest, monitor = console(reader, [idle] * 40 + [ends_with(Halted())])
    os.close(reader)
    assert (status, bytes(guest.door.serial)) == (0, paste)
    assert monitor.wake_fds == set()


def test_serial_output_is_written_to_stdout_as_it_is(console: Console, capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    console(reader, [sends(b"a\r\n\x1b[1m"), sends(b"tail", Halted())])
    os.close(reader)
    assert capfd.readouterr().out == "a\r\n\x1b[1mtail"
