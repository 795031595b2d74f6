"""What is polled between two slices of guest time: consoles, files, scripts, patterns.

A front end has `poll() -> Outcome | None` and `close()`. It never blocks on input, and output that a slice brought is
kept until the next poll, so that a guest that writes a byte at a time costs one write a slice.
"""

import contextlib
import os
import re
import select
import termios
import time
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, Protocol

from vmm.cli.guest import Guest, SerialFeed, SerialLog, Typist
from vmm.cli.terminal import PIPE_AHEAD, Input, Output
from vmm.errors import ConfigError
from vmm.outcome import Interrupted, Matched, Outcome, ScriptDone
from vmm.script import Action, ScriptRunner, Send, SendSerial

UNTIL_OVERLAP: Final = 1 << 16  # no match may be longer than this
OUTPUT_MAX: Final = 1 << 16  # bytes that a reader may be behind before the guest waits


class FrontEnd(Protocol):
    """Polled between slices."""

    def poll(self) -> Outcome | None: ...

    def close(self) -> None: ...


class OutputFile:
    """A file that takes a port's output as it comes: `--serial FILE`, `--debugcon FILE`."""

    def __init__(self, path: Path, option: str) -> None:
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise ConfigError(f"{option}: cannot write {str(path)!r}: {error.strerror}") from None

    def __call__(self, data: bytes) -> None:
        self._file.write(data)

    def poll(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class SerialConsole:
    """`--serial stdio`: the guest's first serial port on our standard streams.

    What is not a terminal is input to be typed; its end means nothing. Neither side is ahead of the other for more than
    a bounded number of bytes: input stays where it is until the guest takes it, and a guest that writes faster than our
    reader reads has to wait.
    """

    def __init__(self, feed: SerialFeed, source: Input, out: Output) -> None:
        self._feed = feed
        self._source = source
        self._out = out
        self._last = b"\n"

    def __call__(self, data: bytes) -> None:
        """What the guest sent."""
        self._out.write(data)
        self._last = data[-1:] or self._last

    @property
    def is_blocked(self) -> bool:
        """Whether the guest should wait for our reader."""
        return self._out.backlog > OUTPUT_MAX

    def wait(self, seconds: float) -> None:
        """Wait for the reader, no longer than this."""
        self._out.wait(seconds)

    def poll(self) -> Outcome | None:
        self._out.flush()
        self._feed.feed(self._source.read(self._source.ahead - self._feed.waiting))
        return Interrupted() if self._source.has_left else None

    def close(self) -> None:
        """Put the terminal back, then finish the output and, on a terminal, its last line."""
        self._out.flush()
        self._source.close()
        if self._source.is_terminal and self._out.is_terminal and self._last != b"\n":
            self._out.write(b"\n")
        self._out.close()


class SerialPty:
    """`--serial pty`: the guest's first serial port is a pseudo-terminal that programs may open and leave again.

    While nobody has it open, what the guest sends is lost, as on a wire that leads nowhere. Our side is then hung up,
    which poll(2) says, and select(2) would take for input; so it wakes nobody.
    """

    def __init__(self, feed: SerialFeed, wake: set[int]) -> None:
        self._feed = feed
        self._wake = wake
        self._master, slave = os.openpty()
        self.name = os.ttyname(slave)
        tty.setraw(slave, termios.TCSANOW)
        os.close(slave)
        os.set_blocking(self._master, False)  # an open file of our own: nobody shares it
        self._state = select.poll()
        self._state.register(self._master, 0)
        self._out = Output(self._master, is_ours=True)

    def __call__(self, data: bytes) -> None:
        """What the guest sent."""
        self._out.write(data)

    @property
    def is_blocked(self) -> bool:
        """Whether the guest should wait for who has the terminal open."""
        return self._out.backlog > OUTPUT_MAX

    def wait(self, seconds: float) -> None:
        """Wait for the reader, no longer than this."""
        self._out.wait(seconds)

    def poll(self) -> None:
        if self._is_hung_up():
            self._out.discard()
            self._wake.discard(self._master)
            return
        self._out.flush()
        room = PIPE_AHEAD - self._feed.waiting
        if room <= 0:
            self._wake.discard(self._master)
            return
        self._wake.add(self._master)
        with contextlib.suppress(OSError):  # EAGAIN: nothing there; EIO: hung up just now
            self._feed.feed(os.read(self._master, room))

    def close(self) -> None:
        """What has not been read by now is lost."""
        self._wake.discard(self._master)
        self._out.flush()
        os.close(self._master)

    def _is_hung_up(self) -> bool:
        return any(event & select.POLLHUP for _, event in self._state.poll(0))


class GuestView:
    """A script's view of the machine."""

    def __init__(self, guest: Guest, log: SerialLog, typist: Typist) -> None:
        self._guest = guest
        self._log = log
        self._typist = typist

    def screen_text(self) -> str:
        return self._guest.screen().text()

    def serial_text(self, start: int) -> str:
        return self._log.text(start)

    def is_input_pending(self) -> bool:
        return self._typist.is_busy

    def guest_ns(self) -> int:
        return self._guest.now

    def host_ns(self) -> int:
        return time.monotonic_ns()


class ScriptPlayer:
    """`--script`: carries out what the runner asks for."""

    def __init__(self, runner: ScriptRunner, guest: Guest, view: GuestView, queues: tuple[Typist, SerialFeed]) -> None:
        self.runner = runner
        self._guest = guest
        self._view = view
        self._typist, self._feed = queues

    def poll(self) -> Outcome | None:
        for action in self.runner.poll(self._view):
            self._do(action)
        return ScriptDone() if self.runner.is_done and not self._view.is_input_pending() else None

    def close(self) -> None:
        pass

    def _do(self, action: Action) -> None:
        if isinstance(action, Send):
            self._typist.type(action.strokes)
        elif isinstance(action, SendSerial):
            self._feed.feed(action.data)
        else:
            save_screenshot(self._guest, Path(action.path))


class UntilWatcher:
    """`--until`: ends the run once the screen or the serial text matches.

    Of the serial text only what is new is searched, with some of what came before it, so that a talkative guest does
    not make each poll slower than the last.
    """

    def __init__(self, pattern: re.Pattern[str], guest: Guest, log: SerialLog) -> None:
        self._pattern = pattern
        self._guest = guest
        self._log = log
        self._searched = 0

    def poll(self) -> Outcome | None:
        return Matched(self._pattern.pattern) if self._is_on_screen() or self._is_in_serial() else None

    def close(self) -> None:
        pass

    def _is_on_screen(self) -> bool:
        return self._pattern.search(self._guest.screen().text()) is not None

    def _is_in_serial(self) -> bool:
        if self._log.end == self._searched:
            return False
        text = self._log.text(max(0, self._searched - UNTIL_OVERLAP))
        self._searched = self._log.end
        return self._pattern.search(text) is not None


def save_screenshot(guest: Guest, path: Path) -> None:
    """Write the screen as a picture or as text, by the file's suffix.

    Raises: ConfigError: the file cannot be written.
    """
    screen = guest.screen()
    try:
        if path.suffix == ".png":
            screen.save_png(path)
        else:
            screen.save_text(path)
    except OSError as error:
        raise ConfigError(f"screenshot: cannot write {str(path)!r}: {error.strerror}") from None


def poll_all(fronts: Sequence[FrontEnd]) -> Outcome | None:
    """Poll every front end; the first outcome wins, but all get their turn."""
    outcomes = [front.poll() for front in fronts]
    return next((outcome for outcome in outcomes if outcome), None)


def open_text(path: Path, option: str) -> IO[str]:
    """Open a text file for writing. Raises: ConfigError: it cannot be written."""
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: cannot write {str(path)!r}: {error.strerror}") from None
