"""Scripts that drive a guest: `expect`, `send`, `key`, `wait`, `screenshot`, one a line.

Theory of operation. `parse` turns a text into steps and refuses the whole text at the first bad line. `ScriptRunner`
is a state machine without a thread or a clock of its own: the caller polls it with a `View` of the machine whenever a
slice of guest time is over, and carries out the actions that it hands back. One poll runs steps until one has to wait.

The screen has no history, so `expect screen` looks at what stands there now. Serial text has one: `expect serial`
looks at what came after the previous serial match, as expect(1) does.

See docs/scripts.md for the language.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from vmm.devices.keymap import KeyStroke, keys_for_text, stroke_for_name
from vmm.errors import ConfigError

NANOSECONDS: Final = 1_000_000_000
SCREENSHOT_SUFFIXES: Final = (".png", ".txt")
VERB_SHOWN: Final = 20  # of an unknown command, in a message
_BYTE_MAX: Final = 0xFF
ESCAPES: Final[Mapping[str, str]] = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "b": "\b",
    "e": "\x1b",
    "\\": "\\",
}


class ScriptError(ConfigError):
    """A script line that cannot be understood; the message starts with `FILE:LINE:`."""


@dataclass(frozen=True, slots=True)
class Expect:
    """Wait until `pattern` is found on the screen or in the serial text."""

    where: str  # "screen" | "serial"
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Send:
    """Type on the keyboard."""

    strokes: tuple[KeyStroke, ...]


@dataclass(frozen=True, slots=True)
class SendSerial:
    """Send bytes to the guest's first serial port."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Let `seconds` of guest time go by."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Screenshot:
    """Write the screen to a file, .png or .txt."""

    path: str


Command = Expect | Send | SendSerial | Wait | Screenshot
Action = Send | SendSerial | Screenshot


@dataclass(frozen=True, slots=True)
class Step:
    """One command with the place it came from."""

    command: Command
    line: int
    source: str


class View(Protocol):
    """What a script can see of a machine; the texts are asked for only when a step needs them."""

    def screen_text(self) -> str: ...

    def serial_text(self, start: int) -> str:
        """Everything the guest has sent from position `start` on, one character a byte."""

    def is_input_pending(self) -> bool:
        """Whether keys that were sent have not reached the guest's keyboard yet."""

    def guest_ns(self) -> int: ...

    def host_ns(self) -> int: ...


def parse(text: str, name: str) -> tuple[Step, ...]:
    """Read a whole script.

    Args:
        name: the file's name, for messages.
    Raises: ScriptError: `NAME:LINE: what is wrong`, for the first bad line.
    """
    return tuple(_steps(text, name))


def _steps(text: str, name: str) -> Iterator[Step]:
    for number, raw in enumerate(text.splitlines(), start=1):
        source = raw.strip()
        if not source or source.startswith("#"):
            continue
        verb, *rest = source.split(None, 1)
        parser = _PARSERS.get(verb)
        try:
            if parser is None:
                raise ScriptError(f"unknown command {verb[:VERB_SHOWN]!r}; known are {', '.join(sorted(_PARSERS))}")
            command = parser("".join(rest))
        except ConfigError as error:
            raise ScriptError(f"{name}:{number}: {error}") from None
        yield Step(command, number, source)


def compile_pattern(text: str) -> re.Pattern[str]:
    """A regular expression; `^` and `$` match at every line.

    Raises: ScriptError: it is none.
    """
    try:
        return re.compile(text, re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:  # the last two: absurd counts, absurd nesting
        raise ScriptError(f"bad regular expression {text!r}: {error}") from None


def _parse_expect(rest: str) -> Expect:
    match rest.split(None, 1):
        case ["screen" | "serial" as where, pattern]:
            return Expect(where, compile_pattern(pattern))
    raise ScriptError(f"expected 'expect screen REGEX' or 'expect serial REGEX', not {rest!r}")


def _parse_send(rest: str) -> Send:
    if not rest:
        raise ScriptError("expected 'send TEXT'")
    return Send(tuple(keys_for_text(rest)))


def _parse_send_serial(rest: str) -> SendSerial:
    if not rest:
        raise ScriptError("expected 'send-serial TEXT'")
    return SendSerial(bytes(_bytes(rest)))


def _parse_key(rest: str) -> Send:
    name = rest.removeprefix("<").removesuffix(">")
    return Send((stroke_for_name(name),))


def _parse_wait(rest: str) -> Wait:
    try:
        seconds = float(rest)
    except ValueError:
        raise ScriptError(f"expected 'wait SECONDS', not {rest!r}") from None
    if not 0 <= seconds < float("inf"):
        raise ScriptError(f"a wait is 0 seconds or more, not {rest}")
    return Wait(seconds)


def _parse_screenshot(rest: str) -> Screenshot:
    if not rest.endswith(SCREENSHOT_SUFFIXES):
        raise ScriptError(f"expected 'screenshot FILE.png' or 'screenshot FILE.txt', not {rest!r}")
    return Screenshot(rest)


_PARSERS: Final[Mapping[str, Callable[[str], Command]]] = {
    "expect": _parse_expect,
    "send": _parse_send,
    "send-serial": _parse_send_serial,
    "key": _parse_key,
    "wait": _parse_wait,
    "screenshot": _parse_screenshot,
}


def _bytes(text: str) -> Iterator[int]:
    """The bytes of a `send-serial` text. Raises: ScriptError: an unknown escape, or a character above FFh."""
    for token in _TOKEN.findall(text):
        char = _unescape(token) if token.startswith("\\") else token
        if ord(char) > _BYTE_MAX:
            raise ScriptError(f"{char!r} is not one byte; write its bytes as \\xHH")
        yield ord(char)


_TOKEN: Final = re.compile(r"\\x[0-9A-Fa-f]{2}|\\.|\\|.", re.DOTALL)


def _unescape(token: str) -> str:
    letter, digits = token[1:2], token[2:]
    if digits:
        return chr(int(digits, 16))
    if letter not in ESCAPES:
        raise ScriptError(f"unknown escape {token}; known are \\n \\r \\t \\b \\e \\\\ \\xHH")
    return ESCAPES[letter]


class ScriptRunner:
    """Carries a parsed script out, one poll at a time."""

    def __init__(self, steps: tuple[Step, ...], name: str) -> None:
        self._steps = steps
        self._name = name
        self._next = 0
        self._serial_from = 0
        self._wait_from: tuple[int, int] | None = None

    @property
    def is_done(self) -> bool:
        return self._next >= len(self._steps)

    @property
    def position(self) -> str:
        """Where the script stands, as `FILE:LINE: text`."""
        if self.is_done:
            return f"{self._name}: end"
        step = self._steps[self._next]
        return f"{self._name}:{step.line}: {step.source}"

    def poll(self, view: View) -> list[Action]:
        """Run steps until one has to wait; return what the caller has to do, in order.

        A `send` ends the poll, and the next step waits until all of it is typed: an `expect screen` right after it
        should not be content with the screen that was there before.
        """
        actions: list[Action] = []
        while not self.is_done and not view.is_input_pending():
            command = self._steps[self._next].command
            if not self._is_over(command, view):
                break
            self._next += 1
            if isinstance(command, Screenshot):
                actions.append(command)
            elif isinstance(command, Send | SendSerial):
                actions.append(command)
                break
        return actions

    def _is_over(self, command: Command, view: View) -> bool:
        if isinstance(command, Expect):
            return self._matches(command, view)
        if isinstance(command, Wait):
            return self._has_waited(command, view)
        return True

    def _matches(self, command: Expect, view: View) -> bool:
        if command.where == "screen":
            return command.pattern.search(view.screen_text()) is not None
        match = command.pattern.search(view.serial_text(self._serial_from))
        if match:
            self._serial_from += match.end()
        return match is not None

    def _has_waited(self, command: Wait, view: View) -> bool:
        """Whether the time is over in the guest, or for us.

        Guest time under `warp` runs ahead of ours while the guest idles. It stands still when the guest waits for
        input and no timer is armed; there our own time counts.
        """
        if self._wait_from is None:
            self._wait_from = (view.guest_ns(), view.host_ns())
        guest_start, host_start = self._wait_from
        length = round(command.seconds * NANOSECONDS)
        if view.guest_ns() - guest_start < length and view.host_ns() - host_start < length:
            return False
        self._wait_from = None
        return True
