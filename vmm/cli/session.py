"""One `vmm run`, from a checked request to an exit status.

Theory of operation. The monitor runs the guest in slices of at most 20 ms of host time. Between two slices every front
end is polled; the first one that has an outcome ends the run, as does an outcome of the guest's own. Signals only set a
flag and ask the monitor to end its slice: their handlers may run in the middle of a call from the engine. The terminal
is put back before anything is reported.

Where somebody sits at a terminal a slice is short while the guest works, because a key that comes meanwhile waits until
its end, and so does what the guest writes; it is long while the guest sleeps, which a key ends at once.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from vmm.cli.frontends import (
    FrontEnd,
    GuestView,
    OutputFile,
    ScriptPlayer,
    SerialConsole,
    SerialPty,
    UntilWatcher,
    open_text,
    poll_all,
    save_screenshot,
)
from vmm.cli.guest import Guest, Runner, SerialFeed, SerialLog, Typist
from vmm.cli.options import Ends, Outputs, RunRequest
from vmm.cli.terminal import WIRE, Input, Line, Output, stdin_descriptor, stdout_descriptor
from vmm.collector import collector_at_rest
from vmm.door import ReplayEnd
from vmm.errors import Unmodelled
from vmm.outcome import (
    Halted,
    Interrupted,
    Outcome,
    PoweredOff,
    ReplayEnded,
    ResetRequested,
    ScriptDone,
    ScriptUnfinished,
    Stopped,
    TimedOut,
    TripleFault,
    UnmodelledReport,
    exit_status,
    sentence,
)
from vmm.script import ScriptRunner
from vmm.trace import TraceWriter

if TYPE_CHECKING:
    from rich.console import Console

SLICE_S: Final = 0.02
WATCHED_SLICE_S: Final = 0.004  # while the guest works and somebody watches
BUSY_SLICE_S: Final = 0.002  # while input is on its way to a guest that may take it fast, and answer
ASLEEP_SHARE: Final = 0.25  # of a slice's time: a guest that used less processor time sleeps
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Session:
    """A machine with everything that is plugged into it from outside."""

    guest: Guest
    runner: Runner
    ends: Ends
    typist: Typist
    feed: SerialFeed
    fronts: list[FrontEnd] = field(default_factory=list)
    wires: list[SerialConsole | SerialPty] = field(default_factory=list)
    outs: list[Output] = field(default_factory=list)
    player: ScriptPlayer | None = None
    is_watched: bool = False
    _has_input: bool = False
    _is_asleep: bool = False

    def drive(self, interrupt: "Interrupt") -> Outcome:
        """Run until something ends it. A reset starts the guest anew, unless the user wants it to end the run.

        Python's cycle collector rests till then, between two slices as in them.
        """
        with collector_at_rest():
            return self._drive(interrupt)

    def _drive(self, interrupt: "Interrupt") -> Outcome:
        started = time.monotonic()
        while True:
            outcome = self._run_slice(started)
            seen = interrupt.outcome() or poll_all(self.fronts)
            keys, serial = self.typist.pump(), self.feed.pump()
            self._has_input = keys or serial
            if outcome is not None and self._is_restart(outcome):
                self.guest.reset()
            elif outcome is not None:
                return self._last_look(outcome, seen)
            if seen is not None:
                return seen
            if self.ends.timeout is not None and time.monotonic() - started >= self.ends.timeout:
                return TimedOut(self.ends.timeout, self.player.runner.position if self.player else "")

    def _run_slice(self, started: float) -> Outcome | None:
        length = self._slice_length(started)
        for wire in self.wires:
            if wire.is_blocked:
                wire.wait(length)
                return None
        begin, used = time.monotonic(), time.thread_time()
        try:
            return self.runner.run_slice(self.guest, length)
        except ReplayEnd:
            if not self.guest.door.is_replaying:
                raise
            return ReplayEnded()
        finally:
            self._is_asleep = time.thread_time() - used < ASLEEP_SHARE * (time.monotonic() - begin)

    def _slice_length(self, started: float) -> float:
        length = SLICE_S
        if self.feed.is_busy or (self.is_watched and (self._has_input or self.typist.is_busy)):
            length = BUSY_SLICE_S
        elif self.is_watched and not self._is_asleep:
            length = WATCHED_SLICE_S
        if self.ends.timeout is None:
            return length
        return max(0.0, min(length, started + self.ends.timeout - time.monotonic()))

    def _is_restart(self, outcome: Outcome) -> bool:
        return isinstance(outcome, ResetRequested | TripleFault) and not self.ends.on_reset_exit

    def _last_look(self, outcome: Outcome, seen: Outcome | None) -> Outcome:
        """The guest is over: what does the script or the pattern make of its last screen?

        Where the guest ended in peace they have the say. A script that the guest left in mid-sentence has failed.
        """
        if not isinstance(outcome, Halted | PoweredOff | ResetRequested):
            return outcome
        if self.player is None or isinstance(seen, ScriptDone):
            return seen or outcome
        before = None
        while before != self.player.runner.position:
            before = self.player.runner.position
            seen = self.player.poll()
            if isinstance(seen, ScriptDone):
                return seen
        return ScriptUnfinished(self.player.runner.position, sentence(outcome))


class Interrupt:
    """Signals as a flag while the guest runs. The second one raises KeyboardInterrupt, in case we hang somewhere.

    So does the first one once the run `is_over`: we may be waiting for somebody to read what the guest has written.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._signal: int | None = None
        self.is_over = False

    def outcome(self) -> Outcome | None:
        return None if self._signal is None else Interrupted(self._signal)

    @contextlib.contextmanager
    def installed(self) -> Iterator["Interrupt"]:
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None or self.is_over:
            raise KeyboardInterrupt
        self._signal = number
        self._runner.stop()


def run(request: RunRequest, runner: Runner | None = None) -> int:
    """Carry a request out, by a monitor of its own if none is given; return the exit status.

    Raises: ConfigError: an image, a state or an output file turned out to be unusable.
    """
    from vmm.cli.states import keep, open_machine
    from vmm.monitor import Monitor
    from vmm.profile import Profile

    vm, log = open_machine(request)
    try:
        runner = runner or Monitor(profile=Profile() if request.outputs.profile else None)
        status = run_machine(request, vm, runner)
        keep(request.states, vm, log)
    finally:
        vm.close()
    return status


def run_machine(request: RunRequest, guest: Guest, runner: Runner) -> int:
    """Plug the front ends into a machine, run it, report."""
    with contextlib.ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt(runner).installed())  # for as long as a terminal may be raw
        writer = _trace_writer(request.outputs, stack)
        guest.on_trace = writer.emit if writer is not None else None
        session = plug_in(request, guest, runner, stack)
        try:
            outcome = session.drive(interrupt)
        except Unmodelled as error:
            outcome = Stopped(UnmodelledReport(error.what, error.report, writer.last_lines() if writer else ()))
        interrupt.is_over = True
        for out in session.outs:
            out.is_patient = not isinstance(outcome, TimedOut | Interrupted)
    return report(request, guest, outcome)


def plug_in(request: RunRequest, guest: Guest, runner: Runner, stack: contextlib.ExitStack) -> Session:
    """Open every front end that was asked for; `stack` closes them, last opened first."""
    ends, outputs = request.ends, request.outputs
    session = Session(guest, runner, ends, Typist(guest), SerialFeed(guest))

    def add(front: FrontEnd) -> None:
        stack.callback(front.close)
        session.fronts.append(front)

    for path, option, sinks in (
        (outputs.serial if isinstance(outputs.serial, Path) else None, "--serial", guest.serial_out),
        (outputs.debugcon, "--debugcon", guest.debugcon_out),
    ):
        if path is not None:
            file = OutputFile(path, option)
            sinks.append(file)
            add(file)
    if outputs.serial in ("stdio", "pty"):
        wire = _serial_stdio(session, outputs, stack) if outputs.serial == "stdio" else _serial_pty(session)
        guest.serial_out.append(wire)
        session.wires.append(wire)
        add(wire)
    if ends.script is not None or ends.until is not None:
        _add_watchers(session, add)
    if outputs.display == "text":
        from vmm.cli.display import TextDisplay

        out = _output("--display text", session)
        source = _opened(Input(stdin_descriptor(), runner.wake_fds), session, stack)
        add(TextDisplay(guest, session.typist, source, out))
    return session


def _opened(source: Input, session: Session, stack: contextlib.ExitStack) -> Input:
    stack.callback(source.close)  # here, too: what comes next may fail
    session.is_watched |= source.is_terminal
    return source


def _output(option: str, session: Session) -> Output:
    out = Output(stdout_descriptor(option))
    session.outs.append(out)
    return out


def _serial_stdio(session: Session, outputs: Outputs, stack: contextlib.ExitStack) -> SerialConsole:
    """Say how to leave before every key is the guest's."""
    out = _output("--serial stdio", session)
    descriptor = stdin_descriptor()
    if descriptor is not None and os.isatty(descriptor):
        print("vmm: the keys go to the guest's serial port, Ctrl-C too; Ctrl-] leaves", file=sys.stderr, flush=True)
    line = Line.LINE_FEEDS if outputs.trace_console else WIRE
    return SerialConsole(session.feed, _opened(Input(descriptor, session.runner.wake_fds, line), session, stack), out)


def _serial_pty(session: Session) -> SerialPty:
    wire = SerialPty(session.feed, session.runner.wake_fds)
    session.is_watched = True
    print(f"vmm: the guest's serial port is {wire.name}", file=sys.stderr, flush=True)
    return wire


def _add_watchers(session: Session, add: Any) -> None:
    guest, ends = session.guest, session.ends
    log = SerialLog()
    guest.serial_out.append(log)
    if ends.script is not None:
        view = GuestView(guest, log, session.typist)
        script = ScriptRunner(ends.script, ends.script_name)
        session.player = ScriptPlayer(script, guest, view, (session.typist, session.feed))
        add(session.player)
    if ends.until is not None:
        add(UntilWatcher(ends.until, guest, log))


def _trace_writer(outputs: Outputs, stack: contextlib.ExitStack) -> TraceWriter | None:
    if not outputs.trace:
        return None
    file = stack.enter_context(open_text(outputs.trace_file, "--trace-file")) if outputs.trace_file else None
    return TraceWriter(outputs.trace, _stderr_console() if outputs.trace_console else None, file)


def _stderr_console() -> "Console":
    """Rich takes long to import: a run asks for it when there is something to show."""
    from rich.console import Console

    return Console(stderr=True)


def report(request: RunRequest, guest: Guest, outcome: Outcome) -> int:
    """What the user gets to see after a run; returns the exit status."""
    from vmm.cli.summary import print_summary

    status = exit_status(outcome)
    stats = {"outcome": sentence(outcome), "status": status, **guest.stats_json()}
    if request.outputs.screenshot is not None:
        save_screenshot(guest, request.outputs.screenshot)
    if isinstance(outcome, Stopped):
        _print_report(outcome.report)
    print_summary(_stderr_console(), stats, sentence(outcome), status)
    if request.outputs.stats is not None:
        _write_stats(stats, request.outputs.stats)
    return status


def _print_report(found: UnmodelledReport) -> None:
    print(f"vmm: not modelled: {found.what}", file=sys.stderr)
    for line in found.facts:
        print(f"  {line}", file=sys.stderr)
    if found.trace:
        print("  last trace lines:", *found.trace, sep="\n    ", file=sys.stderr)


def _write_stats(stats: dict[str, Any], target: str) -> None:
    text = json.dumps(stats, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    with open_text(Path(target), "--stats") as file:
        file.write(text)
