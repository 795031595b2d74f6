"""PS/2 keyboard, 101/102 keys: what answers behind the 8042.

The controller gives it command bytes with `write` and fetches what it has to say with `take`: answers to commands go
first, scan codes wait in a buffer of 16 bytes. A key that finds the buffer full leaves an overrun code there, so the
host must look at `room` before it types; `type_keys` does.

Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101- and 102-Key)": "Keyboard Buffer", "Commands
from the System", "Commands to the System", "Scan Code Sets".
Not modelled: typematic repeat (rate and delay are kept; a key sends its make code once), the fake shifts around
navigation keys under NumLock or Shift, the length of the self-test. In set 3 the key types (F7h-FDh) are one switch for
all keys: with break codes or without.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple

from vmm.devices.scancodes import BREAK, EXTENDED, KEYS, to_set1
from vmm.devices.snapshot import load_fields, save_fields, wired

BUFFER_SIZE: Final = 16
LONGEST_SEQUENCE: Final = 8
"""Bytes that one press can take: Pause."""

_MAX_REPLIES: Final = 16
_KEYBOARD_ID: Final = (0xAB, 0x83)
_DEFAULT_TYPEMATIC: Final = 0x2B  # 10.9 characters a second after 500 ms
_NO_COMMAND: Final = 0


class Command(IntEnum):
    """Commands from the system."""

    SET_LEDS = 0xED
    ECHO = 0xEE
    SCAN_CODE_SET = 0xF0
    READ_ID = 0xF2
    SET_TYPEMATIC = 0xF3
    ENABLE = 0xF4
    DEFAULT_DISABLE = 0xF5
    SET_DEFAULT = 0xF6
    ALL_TYPEMATIC = 0xF7
    ALL_MAKE_BREAK = 0xF8
    ALL_MAKE = 0xF9
    ALL_TYPEMATIC_MAKE_BREAK = 0xFA
    RESEND = 0xFE
    RESET = 0xFF


class Reply(IntEnum):
    """Commands to the system."""

    OVERRUN = 0x00  # sets 2 and 3
    BAT_DONE = 0xAA
    ECHO = 0xEE
    ACK = 0xFA
    RESEND = 0xFE
    OVERRUN_SET1 = 0xFF


_WITH_PARAMETER: Final = frozenset({Command.SET_LEDS, Command.SCAN_CODE_SET, Command.SET_TYPEMATIC})
_FIRST_COMMAND: Final = int(Command.SET_LEDS)


class KeyEvent(NamedTuple):
    """One movement of one key, by its name in `scancodes.KEYS`."""

    key: str
    pressed: bool


def _idle() -> None:
    return


def _ignore(_what: str) -> None:
    return


@dataclass(slots=True)
class Ps2Keyboard:
    """Keys on one side, a byte stream on the other. `on_data()` is called when there is something to take."""

    on_data: Callable[[], None] = wired(default=_idle)
    on_unmodelled: Callable[[str], None] = wired(default=_ignore)
    replies: deque[int] = field(default_factory=lambda: deque(maxlen=_MAX_REPLIES))
    codes: deque[int] = field(default_factory=lambda: deque(maxlen=BUFFER_SIZE))
    held: list[str] = field(default_factory=list)
    scan_set: int = 2
    scanning: bool = True
    sends_breaks: bool = True
    """Whether keys send break codes while set 3 is chosen."""
    leds: int = 0
    """Bit 0 ScrollLock, bit 1 NumLock, bit 2 CapsLock."""
    typematic: int = _DEFAULT_TYPEMATIC
    awaiting: int = _NO_COMMAND
    """The command whose parameter comes next."""
    last_sent: int = int(Reply.BAT_DONE)

    # -- the controller's side

    def take(self) -> int | None:
        """The next byte for the controller, if there is one."""
        source = self.replies or self.codes
        if not source:
            return None
        self.last_sent = int(source.popleft())
        return self.last_sent

    def has_data(self) -> bool:
        """Whether `take` would give a byte."""
        return bool(self.replies or self.codes)

    def write(self, value: int) -> None:
        """A byte from the system: a command or the parameter of the one before."""
        command, self.awaiting = self.awaiting, _NO_COMMAND
        if command and value < _FIRST_COMMAND:
            self._take_parameter(command, value)
        elif value in _COMMANDS:
            _COMMANDS[value](self)
            if value in _WITH_PARAMETER:
                self.awaiting = value
        elif value in range(0xFB, 0xFE):
            self.on_unmodelled(f"keyboard command {value:02X}h: key types of single keys in set 3")
            self._reply(Reply.ACK)
        else:
            self._reply(Reply.RESEND)
        if self.has_data():
            self.on_data()

    # -- the host's side

    def room(self) -> int:
        """Free bytes in the scan code buffer; 0 while the system has switched scanning off, when keys would be lost."""
        return BUFFER_SIZE - len(self.codes) if self.scanning else 0

    def type_keys(self, events: Sequence[KeyEvent]) -> int:
        """Move keys for as long as there is room for any of them; returns how many events were taken."""
        for taken, (key, pressed) in enumerate(events):
            if self.room() < LONGEST_SEQUENCE:
                return taken
            if pressed:
                self.press(key)
            else:
                self.release(key)
        return len(events)

    def press(self, key: str) -> None:
        """Push a key down. `key` is a name in `scancodes.KEYS`."""
        sequence = self._make(key)
        if key not in self.held:
            self.held.append(key)
        self._send(sequence)

    def release(self, key: str) -> None:
        """Let a key go."""
        if key in self.held:
            self.held.remove(key)
        self._send(self._break(key))

    # -- state

    def save(self) -> dict[str, Any]:
        """The state as JSON-able values."""
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        load_fields(self, state)

    # -- scan codes

    def _is_held(self, *keys: str) -> bool:
        return any(key in self.held for key in keys)

    def _make(self, key: str) -> list[int]:
        codes = KEYS[key]
        if self.scan_set == 3:
            return [codes.set3]
        if key == "Pause":
            return self._pause()
        if key == "PrintScreen":
            return self._print_screen()
        return [EXTENDED, codes.set2] if codes.extended else [codes.set2]

    def _break(self, key: str) -> list[int]:
        if self.scan_set == 3:
            return [BREAK, KEYS[key].set3] if self.sends_breaks else []
        if key == "Pause":  # sent with the make code
            return []
        make = self._make(key)
        if make[0] != EXTENDED:
            return [BREAK, make[0]]
        codes = make[1::2]
        return [byte for code in reversed(codes) for byte in (EXTENDED, BREAK, code)]

    def _pause(self) -> list[int]:
        """Ctrl+NumLock as the old keyboard sent it; Break, its Ctrl shift, is Ctrl+ScrollLock."""
        if self._is_held("LeftCtrl", "RightCtrl"):
            return [EXTENDED, 0x7E, EXTENDED, BREAK, 0x7E]
        return [0xE1, 0x14, 0x77, 0xE1, BREAK, 0x14, BREAK, 0x77]

    def _print_screen(self) -> list[int]:
        """Shift+keypad-* as the old keyboard sent it, so without the shift if one is held; with Alt it is SysRq."""
        if self._is_held("LeftAlt", "RightAlt"):
            return [0x84]
        if self._is_held("LeftShift", "RightShift", "LeftCtrl", "RightCtrl"):
            return [EXTENDED, 0x7C]
        return [EXTENDED, 0x12, EXTENDED, 0x7C]

    def _send(self, set2: list[int]) -> None:
        if not self.scanning or not set2:
            return
        sequence = list(to_set1(set2)) if self.scan_set == 1 else set2
        free = BUFFER_SIZE - len(self.codes)
        if len(sequence) <= free:
            self.codes.extend(sequence)
        else:  # the overrun code takes the last place
            if not free:
                self.codes.pop()
            self.codes.append(Reply.OVERRUN_SET1 if self.scan_set == 1 else Reply.OVERRUN)
        self.on_data()

    # -- commands

    def _reply(self, *values: int) -> None:
        self.replies.extend(values)

    def _take_parameter(self, command: int, value: int) -> None:
        if command == Command.SET_LEDS:
            self.leds = value
        elif command == Command.SET_TYPEMATIC:
            self.typematic = value
        elif value > 3:
            self._reply(Reply.RESEND)
            return
        self._reply(Reply.ACK)
        if command != Command.SCAN_CODE_SET:
            return
        self.codes.clear()
        if value == 0:
            self._reply(self.scan_set)
        else:
            self.scan_set = value

    def _acknowledge(self) -> None:
        self._reply(Reply.ACK)

    def _echo(self) -> None:
        self._reply(Reply.ECHO)

    def _read_id(self) -> None:
        self._reply(Reply.ACK, *_KEYBOARD_ID)

    def _enable(self) -> None:
        self.codes.clear()
        self.scanning = True
        self._reply(Reply.ACK)

    def _set_defaults(self) -> None:
        self.codes.clear()
        self.typematic = _DEFAULT_TYPEMATIC
        self.sends_breaks = True
        self.scan_set = 2
        self._reply(Reply.ACK)

    def _default_disable(self) -> None:
        self._set_defaults()
        self.scanning = False

    def _with_breaks(self) -> None:
        self.sends_breaks = True
        self._reply(Reply.ACK)

    def _without_breaks(self) -> None:
        self.sends_breaks = False
        self._reply(Reply.ACK)

    def _resend(self) -> None:
        self._reply(self.last_sent)

    def _reset(self) -> None:
        self.replies.clear()
        self._set_defaults()
        self.scanning = True
        self.leds = 0
        self._reply(Reply.BAT_DONE)


_COMMANDS: Final[dict[int, Callable[[Ps2Keyboard], None]]] = {
    Command.SET_LEDS: Ps2Keyboard._acknowledge,
    Command.ECHO: Ps2Keyboard._echo,
    Command.SCAN_CODE_SET: Ps2Keyboard._acknowledge,
    Command.READ_ID: Ps2Keyboard._read_id,
    Command.SET_TYPEMATIC: Ps2Keyboard._acknowledge,
    Command.ENABLE: Ps2Keyboard._enable,
    Command.DEFAULT_DISABLE: Ps2Keyboard._default_disable,
    Command.SET_DEFAULT: Ps2Keyboard._set_defaults,
    Command.ALL_TYPEMATIC: Ps2Keyboard._without_breaks,
    Command.ALL_MAKE_BREAK: Ps2Keyboard._with_breaks,
    Command.ALL_MAKE: Ps2Keyboard._without_breaks,
    Command.ALL_TYPEMATIC_MAKE_BREAK: Ps2Keyboard._with_breaks,
    Command.RESEND: Ps2Keyboard._resend,
    Command.RESET: Ps2Keyboard._reset,
}
