"""The user's terminal: its mode, and the keys that its bytes stand for.

A terminal sends characters, not keys: arrows, function keys and Alt arrive as escape sequences, Ctrl with a letter as a
control character. `KeyDecoder` turns them back into the strokes of a keyboard.
Source: ECMA-48, "Control functions"; XTerm Control Sequences, "PC-Style Function Keys"; console_codes(4).
"""

import codecs
import os
import re
import select
import sys
import termios
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

from vmm.devices.keymap import KeyStroke, stroke_for_character, stroke_for_name
from vmm.errors import ConfigError

LEAVE: Final = b"\x1d"  # Ctrl-]
READ_MAX: Final = 4096
_ESC: Final = "\x1b"
ESCAPE_WAIT_NS: Final = 50_000_000  # how long a lone ESC may still become a sequence

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)  # what tcgetattr returns
_NO_CHAR: Final = b"\0"  # _POSIX_VDISABLE on Linux


class RawTerminal:
    """A terminal without echo and line editing, put back as it was on exit. Ctrl-C still interrupts us.

    Does nothing for a descriptor that is no terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def __enter__(self) -> "RawTerminal":
        if self._descriptor >= 0 and os.isatty(self._descriptor):
            self._saved = termios.tcgetattr(self._descriptor)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, _raw(termios.tcgetattr(self._descriptor)))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
            self._saved = None


def _raw(mode: list[Any]) -> list[Any]:
    """Every key to us as it is typed, but Ctrl-C stays a signal (termios(3), "Canonical and noncanonical mode").

    Output processing stays on: our own messages end in line feeds.
    """
    mode[_IFLAG] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON | termios.ISTRIP | termios.BRKINT)
    mode[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    mode[_CC][termios.VMIN] = 1
    mode[_CC][termios.VTIME] = 0
    for unused in (termios.VQUIT, termios.VSUSP):
        mode[_CC][unused] = _NO_CHAR
    return mode


class Input:
    """Standard input as bytes, read without ever waiting. A terminal is raw while this is open, and Ctrl-] leaves.

    The descriptor is in `wake` as long as there may be more to read: at the end of a file it would be readable for
    ever. Its own mode is left alone, because it is shared with the shell that started us.
    """

    def __init__(self, descriptor: int | None, wake: set[int]) -> None:
        self._descriptor = descriptor
        self._wake = wake
        self._mode = RawTerminal(-1 if descriptor is None else descriptor)
        self._is_terminal = descriptor is not None and os.isatty(descriptor)
        self.has_left = False
        if descriptor is not None:
            self._mode.__enter__()
            wake.add(descriptor)

    def read(self, limit: int = READ_MAX) -> bytes:
        """What is there now, at most `limit` bytes; what comes after a Ctrl-] is dropped."""
        if self._descriptor is None or not select.select([self._descriptor], [], [], 0)[0]:
            return b""
        try:
            data = os.read(self._descriptor, limit)
        except OSError:  # EIO: the terminal went away
            data = b""
        if not data:
            self._end()
        if self._is_terminal:
            data, leave, _ = data.partition(LEAVE)
            self.has_left |= bool(leave)
        return data

    def close(self) -> None:
        self._end()
        self._mode.__exit__(None, None, None)

    def _end(self) -> None:
        if self._descriptor is not None:
            self._wake.discard(self._descriptor)
            self._descriptor = None


def stdin_descriptor() -> int | None:
    """Standard input's descriptor, or None where it is closed."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
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
    if text[at] == _ESC and at + 1 < len(text):
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
