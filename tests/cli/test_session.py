"""The loop between the guest and its front ends: what ends a run, and what the user gets of it."""

import contextlib
import json
import os
import select
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeGuest, FakeMonitor, Slice

from vmm.cli.options import Ends, Media, Outputs, Payload, RunRequest, StateFiles
from vmm.cli.session import run_machine
from vmm.cli.terminal import stdout_descriptor
from vmm.door import ReplayEnd
from vmm.engines.names import EngineName
from vmm.errors import ConfigError, Unmodelled
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
        engine=EngineName.TRANSLATE,
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


# --- terminals -----------------------------------------------------------------------------------------------------


@dataclass
class Seat:
    """A terminal with somebody at it: `stdin` and `stdout` are its slave side."""

    master: int
    slave: int
    guest: FakeGuest
    monitor: FakeMonitor

    def run(self, slices: list[Slice], ends: Ends | None = None, outputs: Outputs | None = None) -> int:
        self.monitor.slices = slices
        return run_machine(request(ends, outputs or Outputs(serial="stdio")), self.guest, self.monitor)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def seen(self) -> bytes:
        """What is on the terminal so far."""
        return os.read(self.master, 1 << 16) if select.select([self.master], [], [], 0)[0] else b""

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)


@pytest.fixture
def seat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seat]:
    master, slave = os.openpty()
    monkeypatch.setattr("vmm.cli.session.stdin_descriptor", lambda: slave)
    monkeypatch.setattr("vmm.cli.session.stdout_descriptor", lambda _: slave)
    yield Seat(master, slave, FakeGuest(), FakeMonitor([]))
    os.close(master)
    os.close(slave)


def kills(number: int) -> Slice:
    return lambda _: os.kill(os.getpid(), number)


def fails(_: FakeGuest) -> None:
    raise RuntimeError("a mistake of ours")


def is_not_modelled(_: FakeGuest) -> None:
    raise Unmodelled("RSM", ())


WAYS_OUT = [
    pytest.param([ends_with(Halted())], Ends(), id="halted"),
    pytest.param([ends_with(PoweredOff())], Ends(), id="powered_off"),
    pytest.param([sends(b"done")], UNTIL, id="match"),
    pytest.param([idle] * 9, Ends(timeout=1e-9), id="time_out"),
    pytest.param([idle, shows("x")], scripted("expect screen x"), id="script"),
    pytest.param([kills(signal.SIGTERM)], Ends(), id="sigterm"),
    pytest.param([kills(signal.SIGHUP)], Ends(), id="sighup"),
    pytest.param([kills(signal.SIGINT)], Ends(), id="sigint"),
    pytest.param([is_not_modelled], Ends(), id="unmodelled"),
    pytest.param([fails], Ends(), id="exception"),
]


@pytest.mark.parametrize("outputs", [Outputs(serial="stdio"), Outputs(display="text")], ids=["serial", "display"])
@pytest.mark.parametrize(("slices", "ends"), WAYS_OUT)
def test_the_terminal_is_put_back_whatever_ends_the_run(
    seat: Seat, slices: list[Slice], ends: Ends, outputs: Outputs
) -> None:
    before = seat.mode()
    modes = []

    def look(_: FakeGuest) -> None:
        modes.append(seat.mode())

    with contextlib.suppress(RuntimeError):
        seat.run([look, *slices], ends, outputs)
    assert modes[0] != before
    assert seat.mode() == before


def test_an_impatient_second_signal_puts_the_terminal_back_as_well(seat: Seat) -> None:
    before = seat.mode()

    def kill_twice(_: FakeGuest) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        seat.run([kill_twice])
    assert seat.mode() == before


def test_a_stdout_that_is_closed_leaves_the_terminal_alone(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    before = seat.mode()
    monkeypatch.setattr("vmm.cli.session.stdout_descriptor", stdout_descriptor)
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(ConfigError, match="--serial stdio: standard output is closed"):
        seat.run([])
    assert seat.mode() == before


def test_the_guest_gets_every_key_of_a_serial_terminal(seat: Seat) -> None:
    keys = b"ls\r\x03\x04\x1a\x1c\x11\x13\x7f\x1b[A\x1bOP\x00\xc3\xa4\n"

    def press(_: FakeGuest) -> None:
        seat.type(keys)

    assert seat.run([press, idle, ends_with(Halted())]) == 0
    assert bytes(seat.guest.door.serial) == keys


def test_ctrl_bracket_leaves_and_says_so_at_the_start(seat: Seat, capfd: pytest.CaptureFixture[str]) -> None:
    def press(_: FakeGuest) -> None:
        seat.type(b"a\x1db")

    assert seat.run([press, idle]) == 0
    assert bytes(seat.guest.door.serial) in (b"", b"a")
    err = capfd.readouterr().err
    assert err.startswith("vmm: the keys go to the guest's serial port, Ctrl-C too; Ctrl-] leaves\n")
    assert "left with Ctrl-]" in err


def test_a_paste_that_the_guest_does_not_take_is_bounded_and_does_not_hide_ctrl_bracket(seat: Seat) -> None:
    seat.guest.door.serial_backlog = 64

    def paste(_: FakeGuest) -> None:
        os.set_blocking(seat.master, False)
        with contextlib.suppress(BlockingIOError):
            seat.type(b"x" * 3000)

    def leave(_: FakeGuest) -> None:
        seat.type(b"\x1d")

    assert seat.run([paste] * 5 + [leave] + [idle] * 9) == 0
    assert len(seat.monitor.slices) > 0


def test_serial_output_is_raw_and_ends_in_a_line_of_its_own(seat: Seat) -> None:
    shown = []

    def look(_: FakeGuest) -> None:
        shown.append(seat.seen())

    seat.run([sends(b"a\nb\x1b[1m"), look, sends(b"login: ", Halted())])
    assert shown == [b"a\nb\x1b[1m"]
    assert seat.seen() == b"login: \r\n"


@dataclass
class Clocks:
    """The host's time and our thread's, which a busy host keeps apart."""

    host: float = 0.0
    thread: float = 0.0

    def monotonic(self) -> float:
        return self.host

    def thread_time(self) -> float:
        return self.thread


def test_slices_are_long_while_the_guest_sleeps_and_short_while_it_works_or_somebody_types(
    seat: Seat, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks()
    monkeypatch.setattr("vmm.cli.session.time", clocks)

    def works(_: FakeGuest) -> None:
        clocks.host += 2e-3
        clocks.thread += 2e-3

    def sleeps(_: FakeGuest) -> None:
        clocks.host += 5e-3

    def is_typed_at(_: FakeGuest) -> None:
        seat.type(b"x")
        clocks.host += 5e-3

    seat.run([works, works, sleeps, is_typed_at, sleeps, sleeps, ends_with(Halted())])
    assert seat.monitor.lengths == [0.004, 0.004, 0.004, 0.02, 0.002, 0.02, 0.02]


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard output is a pipe whose other end, this descriptor, nobody reads."""
    reader, writer = os.pipe()
    monkeypatch.setattr("vmm.cli.session.stdin_descriptor", lambda: None)
    monkeypatch.setattr("vmm.cli.session.stdout_descriptor", lambda _: writer)
    yield reader
    os.close(reader)
    os.close(writer)


FLOOD = sends(b"x" * (1 << 18))


@pytest.mark.usefixtures("sleeper")
def test_a_guest_waits_for_a_reader_who_sleeps_but_a_time_out_does_not() -> None:
    monitor = FakeMonitor([FLOOD] * 3)
    assert run_machine(request(Ends(timeout=0.1), Outputs(serial="stdio")), FakeGuest(), monitor) == 124
    assert len(monitor.slices) == 2


@pytest.mark.usefixtures("sleeper")
def test_a_signal_ends_the_wait_for_a_reader_who_sleeps() -> None:
    def end(machine: FakeGuest) -> Outcome:
        FLOOD(machine)
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM]).start()
        return Halted()

    with pytest.raises(KeyboardInterrupt):
        run_machine(request(outputs=Outputs(serial="stdio")), FakeGuest(), FakeMonitor([end]))


def test_a_slow_reader_gets_everything(sleeper: int) -> None:
    got = bytearray()

    def read() -> None:
        while len(got) < 1 << 18:
            got.extend(os.read(sleeper, 1 << 12))

    reader = threading.Thread(target=read)
    reader.start()
    assert (
        run_machine(request(outputs=Outputs(serial="stdio")), FakeGuest(), FakeMonitor([FLOOD, ends_with(Halted())]))
        == 0
    )
    reader.join()
    assert len(got) == 1 << 18


def test_serial_output_to_a_pty_and_back(capfd: pytest.CaptureFixture[str]) -> None:
    guest = FakeGuest()
    clients: list[int] = []
    seen: list[bytes] = []

    def attach(_: FakeGuest) -> None:
        name = capfd.readouterr().err.split()[-1]
        clients.append(os.open(name, os.O_RDWR | os.O_NOCTTY))

    def talk(machine: FakeGuest) -> None:
        os.write(clients[-1], b"\x03in\r")
        machine.say(b"out\n")

    def listen(_: FakeGuest) -> None:
        seen.append(os.read(clients[-1], 99))
        os.close(clients[-1])

    slices: list[Slice] = [sends(b"to nobody"), attach, idle, talk, listen, idle, sends(b"lost"), ends_with(Halted())]
    monitor = FakeMonitor(slices)
    assert run_machine(request(outputs=Outputs(serial="pty")), guest, monitor) == 0
    assert (seen, bytes(guest.door.serial)) == ([b"out\n"], b"\x03in\r")
    assert monitor.wake_fds == set()
