"""The user's terminal: its mode, and the keys that its bytes stand for.

A terminal sends characters, not keys: arrows, function keys and Alt arrive as escape sequences, Ctrl with a letter as a
control character. `KeyDecoder` turns them back into the strokes of a keyboard.
Source: ECMA-48, "Control functions"; XTerm Control Sequences, "PC-Style Function Keys"; console_codes(4).
"""

import codecs
import errno
import os
import re
import select
import sys
import termios
from collections.abc import Mapping
from enum import Flag, auto
from types import TracebackType
from typing import Any, Final

from vmm.devices.keymap import KeyStroke, stroke_for_character, stroke_for_name
from vmm.errors import ConfigError

LEAVE: Final = b"\x1d"  # Ctrl-]
READ_MAX: Final = 4096
PIPE_AHEAD: Final = 4096  # bytes held between a pipe and the guest; the rest waits in the pipe
TERMINAL_AHEAD: Final = 1 << 20
CLOSING_WAIT_S: Final = 0.5
_ESC: Final = "\x1b"
ESCAPE_WAIT_NS: Final = 50_000_000  # how long a lone ESC may still become a sequence

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)  # what tcgetattr returns
_NO_CHAR: Final = b"\0"  # _POSIX_VDISABLE on Linux


class Line(Flag):
    """What the terminal still does by itself while it is raw."""

    SIGNALS = auto()  # Ctrl-C is a signal
    LINE_FEEDS = auto()  # a line feed that is written begins a new line


SCREEN: Final = Line.SIGNALS | Line.LINE_FEEDS  # we draw on it
WIRE: Final = Line(0)  # the guest has it all


class RawTerminal:
    """A terminal without echo and line editing, put back as it was on exit.

    Does nothing for a descriptor that is no terminal.
    """

    def __init__(self, descriptor: int, line: Line) -> None:
        self._descriptor = descriptor
        self._line = line
        self._saved: list[Any] | None = None

    def __enter__(self) -> "RawTerminal":
        if self._descriptor >= 0 and os.isatty(self._descriptor):
            self._saved = termios.tcgetattr(self._descriptor)
            mode = _raw(termios.tcgetattr(self._descriptor), self._line)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, mode)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """At once, even if nobody reads the terminal; what is left in it was meant for the guest, not for the shell."""
        if self._saved is not None:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)
            termios.tcflush(self._descriptor, termios.TCIFLUSH)
            self._saved = None


def _raw(mode: list[Any], line: Line) -> list[Any]:
    """Every key to us as it is typed (termios(3), "Canonical and noncanonical mode").

    For a screen of ours output processing stays on: our own messages end in line feeds.
    """
    mode[_IFLAG] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON | termios.ISTRIP | termios.BRKINT)
    mode[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    mode[_CC][termios.VMIN] = 1
    mode[_CC][termios.VTIME] = 0
    for unused in (termios.VQUIT, termios.VSUSP):
        mode[_CC][unused] = _NO_CHAR
    if Line.SIGNALS not in line:
        mode[_LFLAG] &= ~termios.ISIG
    if Line.LINE_FEEDS not in line:
        mode[_OFLAG] &= ~termios.OPOST
    return mode


class Input:
    """Standard input as bytes, read without ever waiting. A terminal is raw while this is open, and Ctrl-] leaves.

    The descriptor is in `wake` as long as there may be more that is wanted: at the end of a file it would be readable
    for ever, and so would a pipe whose bytes the guest has no room for. Its own mode is left alone, because it is
    shared with the shell that started us.
    """

    def __init__(self, descriptor: int | None, wake: set[int], line: Line = SCREEN) -> None:
        self._descriptor = descriptor
        self._wake = wake
        self._mode = RawTerminal(-1 if descriptor is None else descriptor, line)
        self.is_terminal = descriptor is not None and os.isatty(descriptor)
        self.has_left = False
        if descriptor is not None:
            self._mode.__enter__()
            wake.add(descriptor)

    @property
    def ahead(self) -> int:
        """How many bytes to read ahead of the guest: from a terminal many, or Ctrl-] would be stuck behind a paste."""
        return TERMINAL_AHEAD if self.is_terminal else PIPE_AHEAD

    def read(self, limit: int = READ_MAX) -> bytes:
        """What is there now, at most `limit` bytes; what comes after a Ctrl-] is dropped."""
        if self._descriptor is None:
            return b""
        if limit <= 0:
            self._wake.discard(self._descriptor)
            return b""
        self._wake.add(self._descriptor)
        if not select.select([self._descriptor], [], [], 0)[0]:
            return b""
        return self._read(self._descriptor, limit)

    def close(self) -> None:
        self._end()
        self._mode.__exit__(None, None, None)

    def _read(self, descriptor: int, limit: int) -> bytes:
        try:
            data = os.read(descriptor, min(limit, READ_MAX))
        except OSError:  # EIO: the terminal went away
            data = b""
        if not data:
            self._end()
        if self.is_terminal:
            data, leave, _ = data.partition(LEAVE)
            self.has_left |= bool(leave)
        return data

    def _end(self) -> None:
        if self._descriptor is not None:
            self._wake.discard(self._descriptor)
            self._descriptor = None


class Output:
    """A descriptor that is written without waiting, so that a reader who sleeps delays neither signals nor time-outs.

    What it does not take yet is kept; whoever writes looks at `backlog`. A terminal is opened anew for this: not to
    wait is a property of the open file, and that we share with the shell. A pipe that is writable has room for PIPE_BUF
    bytes (poll(2), pipe(7)). `is_ours`: the open file is not shared, and does not wait already.
    """

    def __init__(self, descriptor: int, *, is_ours: bool = False) -> None:
        self.descriptor = descriptor
        self._own = None if is_ours else _reopened(descriptor)
        self._pending = bytearray()
        self.is_patient = True

    @property
    def backlog(self) -> int:
        """Bytes that are still to be written."""
        return len(self._pending)

    @property
    def is_terminal(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: bytes) -> None:
        """Keep `data` for the next `flush`."""
        self._pending += data

    def discard(self) -> None:
        """Forget what is still to be written."""
        self._pending.clear()

    def flush(self) -> None:
        """Write what can be written now. Raises: BrokenPipeError."""
        while self._pending and self._is_writable(0):
            try:
                count = os.write(self._target, bytes(self._pending[: select.PIPE_BUF]))
            except BlockingIOError:
                return
            except OSError as error:
                self._pending.clear()
                if error.errno != errno.EIO:  # EIO: the terminal went away
                    raise
                return
            del self._pending[:count]

    def wait(self, seconds: float) -> None:
        """Wait until some of the backlog can be written, and write it."""
        self._is_writable(seconds)
        self.flush()

    def close(self) -> None:
        """Write what is left, for as long as that takes; without patience, as long as a reader takes anything.

        The descriptor itself stays open.
        """
        try:
            while before := len(self._pending):
                self.wait(CLOSING_WAIT_S)
                if len(self._pending) == before and not self.is_patient:
                    self.discard()
        finally:
            if self._own is not None:
                os.close(self._own)
                self._own = None

    @property
    def _target(self) -> int:
        return self.descriptor if self._own is None else self._own

    def _is_writable(self, seconds: float) -> bool:
        return bool(select.select([], [self._target], [], seconds)[1])


def _reopened(descriptor: int) -> int | None:
    """A terminal opened a second time, so as not to wait; None for what is no terminal or may not be opened."""
    if not os.isatty(descriptor):
        return None
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # a terminal of another mount namespace, or of another user
        return None


def stdin_descriptor() -> int | None:
    """Standard input's descriptor, or None where it is closed."""
    return _descriptor(sys.stdin)


def stdout_descriptor(option: str) -> int:
    """Standard output's descriptor. Raises: ConfigError: it is closed, but `option` needs it."""
    descriptor = _descriptor(sys.stdout)
    if descriptor is None:
        raise ConfigError(f"{option}: standard output is closed")
    return descriptor


def _descriptor(file: Any) -> int | None:
    try:
        return int(file.fileno())
    except (AttributeError, OSError, ValueError):  # closed when we were started: None; closed since; no file at all
        return None


_FINAL_KEYS: Final[Mapping[str, str]] = {
    "A": "Up",
    "B": "Down",
    "C": "Right",
    "D": "Left",
    "F": "End",
    "H": "Home",
    "P": "F1",
    "Q": "F2",
    "R": "F3",
    "S": "F4",
}
_TILDE_KEYS: Final[Mapping[str, str]] = {
    "1": "Home",
    "2": "Insert",
    "3": "Delete",
    "4": "End",
    "5": "PageUp",
    "6": "PageDown",
    "7": "Home",
    "8": "End",
    "11": "F1",
    "12": "F2",
    "13": "F3",
    "14": "F4",
    "15": "F5",
    "17": "F6",
    "18": "F7",
    "19": "F8",
    "20": "F9",
    "21": "F10",
    "23": "F11",
    "24": "F12",
}
_LINUX_KEYS: Final[Mapping[str, str]] = {"A": "F1", "B": "F2", "C": "F3", "D": "F4", "E": "F5"}
# XTerm's modifier parameter less one: bit 0 Shift, bit 1 Alt, bit 2 Ctrl.
_MODIFIERS: Final = ((4, "Ctrl-"), (2, "Alt-"), (1, "Shift-"))

_CSI: Final = re.compile(
    r"""\x1b (?:
        \[\[ (?P<linux> [A-E] )
      | \[ (?P<back_tab> Z )
      | \[ (?P<number> \d+ ) (?: ; (?P<tilde_mod> \d+ ) )? ~
      | \[ (?: 1 ; (?P<final_mod> \d+ ) )? (?P<final> [A-DFHP-S] )
      | O (?P<ss3> [A-DFHP-S] )
      | \[ [0-9;?<]* (?P<other> [@-~] )
    )""",
    re.VERBOSE,
)
_CSI_PREFIX: Final = re.compile(r"\x1b(?:\[(?:\[|[0-9;?<]*)|O)?\Z")


class KeyDecoder:
    """Terminal bytes in, strokes out. A sequence that is cut in two waits for its other half."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._held_since = 0

    def feed(self, data: bytes, now_ns: int) -> list[KeyStroke]:
        """Decode `data`, which may be empty: an ESC that nothing followed for long enough is the key Esc."""
        text = self._held + self._utf8.decode(data)
        is_overdue = not data and now_ns - self._held_since >= ESCAPE_WAIT_NS
        self._held = ""
        out: list[KeyStroke] = []
        at = 0
        while at < len(text):
            if not is_overdue and _CSI_PREFIX.match(text, at):
                self._held, self._held_since = text[at:], now_ns if data else self._held_since
                break
            length, strokes = _decode_at(text, at)
            out += strokes
            at += length
        return out


def _decode_at(text: str, at: int) -> tuple[int, list[KeyStroke]]:
    """The strokes that start at `at`, and how many characters they took."""
    if match := _CSI.match(text, at):
        name = _sequence_key(match)
        return match.end() - at, [stroke_for_name(name)] if name else []
    if text[at] == _ESC and at + 1 < len(text) and text[at + 1] != _ESC:
        return 2, [KeyStroke(stroke.key, ("LeftAlt", *stroke.modifiers)) for stroke in _plain(text[at + 1])]
    return 1, _plain(text[at])


def _plain(char: str) -> list[KeyStroke]:
    """The key for a character; none for one that a US keyboard does not have."""
    try:
        return [stroke_for_character(char)]
    except ConfigError:
        return []


def _sequence_key(match: re.Match[str]) -> str | None:
    """The key's name with its modifiers; None for a sequence that is no key of a PC keyboard."""
    found = match.groupdict()
    if found["back_tab"]:
        return "Shift-Tab"
    name = (
        _LINUX_KEYS.get(found["linux"] or "")
        or _TILDE_KEYS.get(found["number"] or "")
        or _FINAL_KEYS.get(found["final"] or found["ss3"] or "")
    )
    modifiers = int(found["tilde_mod"] or found["final_mod"] or 1) - 1
    prefix = "".join(word for bit, word in _MODIFIERS if modifiers & bit)
    return prefix + name if name else None
