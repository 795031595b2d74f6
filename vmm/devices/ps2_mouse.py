"""PS/2 mouse, two buttons: what answers on the auxiliary port of the 8042.

The controller gives it command bytes with `write` and fetches what it has to say with `take`. It comes up disabled, in
stream mode, and lies still: a driver finds it and sets it up, and no movement ever comes.

Source: IBM PS/2 Hardware Interface Technical Reference, "Mouse": "Commands", "Operating Modes", "Error Handling".
Not modelled: movement and buttons, the BAT codes of power-on, the length of the self-test, wheels (F2h says 0).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired

_MAX_REPLIES: Final = 16
_NO_COMMAND: Final = 0
_DEVICE_ID: Final = 0
_STILL: Final = (0x08, 0x00, 0x00)
"""A data packet without movement and buttons; bit 3 of the first byte is always set."""
DEFAULT_RATE: Final = 100
DEFAULT_RESOLUTION: Final = 2
"""4 counts a millimetre."""


class Command(IntEnum):
    """Commands from the system."""

    RESET_SCALING = 0xE6
    SET_SCALING = 0xE7
    SET_RESOLUTION = 0xE8
    STATUS = 0xE9
    STREAM = 0xEA
    READ_DATA = 0xEB
    RESET_WRAP = 0xEC
    SET_WRAP = 0xEE
    REMOTE = 0xF0
    READ_ID = 0xF2
    SET_RATE = 0xF3
    ENABLE = 0xF4
    DISABLE = 0xF5
    SET_DEFAULT = 0xF6
    RESEND = 0xFE
    RESET = 0xFF


class Reply(IntEnum):
    """What it says to a command."""

    BAT_DONE = 0xAA
    ACK = 0xFA
    ERROR = 0xFC  # the second invalid byte in a row
    RESEND = 0xFE  # the first


class State(IntFlag):
    """First byte of the answer to STATUS."""

    SCALING = 1 << 4
    ENABLED = 1 << 5
    REMOTE = 1 << 6


_WITH_PARAMETER: Final = frozenset({Command.SET_RESOLUTION, Command.SET_RATE})
_RESOLUTIONS: Final = range(4)
_RATES: Final = frozenset((10, 20, 40, 60, 80, 100, 200))


def _idle() -> None:
    return


@dataclass(slots=True)
class Ps2Mouse:
    """A mouse that lies still. `on_data()` is called when there is something to take."""

    on_data: Callable[[], None] = wired(default=_idle)
    replies: deque[int] = field(default_factory=lambda: deque(maxlen=_MAX_REPLIES))
    state: int = 0
    resolution: int = DEFAULT_RESOLUTION
    """0-3: 1, 2, 4, 8 counts a millimetre."""
    rate: int = DEFAULT_RATE
    """Samples a second."""
    wraps: bool = False
    awaiting: int = _NO_COMMAND
    """The command whose parameter comes next."""
    erred: bool = False
    last_sent: int = int(Reply.BAT_DONE)

    def take(self) -> int | None:
        """The next byte for the controller, if there is one."""
        if not self.replies:
            return None
        self.last_sent = self.replies.popleft()
        return self.last_sent

    def has_data(self) -> bool:
        """Whether `take` would give a byte."""
        return bool(self.replies)

    def write(self, value: int) -> None:
        """A byte from the system: a command or the parameter of the one before. What was not fetched is gone."""
        self.replies.clear()
        if self.wraps and value not in (Command.RESET_WRAP, Command.RESET):
            self.replies.append(value)
        elif self.awaiting:
            self._take_parameter(value)
        else:
            self._command(value)
        self.on_data()

    def save(self) -> dict[str, Any]:
        """The state as JSON-able values."""
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        load_fields(self, state)

    def _take_parameter(self, value: int) -> None:
        command, self.awaiting = self.awaiting, _NO_COMMAND
        if value not in (_RESOLUTIONS if command == Command.SET_RESOLUTION else _RATES):
            self._refuse()
            self.awaiting = command if self.erred else _NO_COMMAND
            return
        if command == Command.SET_RESOLUTION:
            self.resolution = value
        else:
            self.rate = value
        self._acknowledge()

    def _command(self, value: int) -> None:
        if value == Command.RESEND:
            self.replies.append(self.last_sent)
        elif value in _WITH_PARAMETER:
            self.awaiting = value
            self._acknowledge()
        elif (change := _COMMANDS.get(value)) is not None:
            self._acknowledge()
            change(self)
        else:
            self._refuse()

    def _acknowledge(self) -> None:
        self.erred = False
        self.replies.append(Reply.ACK)

    def _refuse(self) -> None:
        """An invalid byte: ask for it again, once."""
        self.replies.append(Reply.ERROR if self.erred else Reply.RESEND)
        self.erred = not self.erred

    def _set(self, flag: int, on: bool) -> None:
        self.state = self.state | flag if on else self.state & ~flag

    def _set_default(self) -> None:
        self.state, self.resolution, self.rate = 0, DEFAULT_RESOLUTION, DEFAULT_RATE

    def _set_wrap(self, on: bool) -> None:
        self.wraps = on

    def _reset(self) -> None:
        self._set_default()
        self._set_wrap(False)
        self.replies += (Reply.BAT_DONE, _DEVICE_ID)


_COMMANDS: Final[dict[int, Callable[[Ps2Mouse], None]]] = {
    Command.RESET_SCALING: lambda mouse: mouse._set(State.SCALING, False),
    Command.SET_SCALING: lambda mouse: mouse._set(State.SCALING, True),
    Command.STATUS: lambda mouse: mouse.replies.extend((mouse.state, mouse.resolution, mouse.rate)),
    Command.STREAM: lambda mouse: mouse._set(State.REMOTE, False),
    Command.READ_DATA: lambda mouse: mouse.replies.extend(_STILL),
    Command.RESET_WRAP: lambda mouse: mouse._set_wrap(False),
    Command.SET_WRAP: lambda mouse: mouse._set_wrap(True),
    Command.REMOTE: lambda mouse: mouse._set(State.REMOTE, True),
    Command.READ_ID: lambda mouse: mouse.replies.append(_DEVICE_ID),
    Command.ENABLE: lambda mouse: mouse._set(State.ENABLED, True),
    Command.DISABLE: lambda mouse: mouse._set(State.ENABLED, False),
    Command.SET_DEFAULT: Ps2Mouse._set_default,
    Command.RESET: Ps2Mouse._reset,
}
