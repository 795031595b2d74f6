"""What is polled between two slices of guest time: consoles, files, scripts, patterns.

A front end has `poll() -> Outcome | None` and `close()`. It never blocks on input, and output that a slice brought is
kept until the next poll, so that a guest that writes a byte at a time costs one write a slice.
"""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, Protocol

from vmm.cli.guest import Guest, SerialFeed, SerialLog, Typist
from vmm.cli.terminal import Input
from vmm.errors import ConfigError
from vmm.outcome import Interrupted, Matched, Outcome, ScriptDone
from vmm.script import Action, ScriptRunner, Send, SendSerial

UNTIL_OVERLAP: Final = 1 << 16  # no match may be longer than this
PASTE_MAX: Final = 4096  # bytes held between a pipe and the guest; the rest waits in the pipe


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

    What is not a terminal is input to be typed, read no faster than the guest takes it.
    """

    def __init__(self, feed: SerialFeed, source: Input, out_descriptor: int) -> None:
        self._feed = feed
        self._source = source
        self._out = out_descriptor
        self._pending = bytearray()

    def __call__(self, data: bytes) -> None:
        """What the guest sent."""
        self._pending += data

    def poll(self) -> Outcome | None:
        self._write()
        room = PASTE_MAX - self._feed.waiting
        if room > 0:
            self._feed.feed(self._source.read(room))
        return Interrupted() if self._source.has_left else None

    def close(self) -> None:
        self._source.close()
        self._write()

    def _write(self) -> None:
        while self._pending:
            del self._pending[: os.write(self._out, self._pending)]


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
