"""The system control ports of the PC: 61h, 92h and CF9h.

Source: IBM PC/AT Technical Reference, "System Board I/O Ports" (port 61h); IBM PS/2 Model 50/60 Technical Reference,
"System Control Port A"; Intel 82371SB (PIIX3), "NMI Status and Control Register", "Reset Control Register".
Not modelled: memory parity and channel check (never reported), the password lock and activity lights of port 92h
(kept and read back), the difference between a hard and a soft reset at CF9h.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final

from vmm.devices.i8254 import ticks_at
from vmm.devices.snapshot import load_fields, save_fields, wired


class Port61(IntFlag):
    """NMI status and control."""

    GATE2 = 1 << 0  # timer counter 2 enable
    SPKR = 1 << 1  # speaker data enable
    NO_PARITY = 1 << 2
    NO_IOCHK = 1 << 3
    REFRESH = 1 << 4  # read only: toggles with every refresh cycle
    OUT2 = 1 << 5  # read only: OUT of counter 2


class Port92(IntFlag):
    """System control port A."""

    FAST_RESET = 1 << 0
    A20 = 1 << 1


class PortCf9(IntFlag):
    """Reset control."""

    SYS_RST = 1 << 1  # hard reset, not soft
    RST_CPU = 1 << 2  # 0 to 1 resets


CONTROL_61: Final = int(Port61.GATE2 | Port61.SPKR | Port61.NO_PARITY | Port61.NO_IOCHK)
CONTROL_CF9: Final = int(PortCf9.SYS_RST | PortCf9.RST_CPU)
REFRESH_TICKS: Final = 18  # of the timer clock: counter 1 asks for a refresh every 15.085 us
_GATE2: Final = int(Port61.GATE2)
_SPKR: Final = int(Port61.SPKR)
_REFRESH: Final = int(Port61.REFRESH)
_OUT2: Final = int(Port61.OUT2)
_FAST_RESET: Final = int(Port92.FAST_RESET)
_A20: Final = int(Port92.A20)
_RST_CPU: Final = int(PortCf9.RST_CPU)


@dataclass(slots=True)
class NmiStatusAndControl:
    """Port 61h. `set_gate2(level)` drives GATE of timer counter 2, `read_out2()` samples its OUT."""

    set_gate2: Callable[[bool], None] = wired()
    read_out2: Callable[[], bool] = wired()
    control: int = 0
    now: int = 0

    @property
    def speaker(self) -> bool:
        """The level at the speaker: counter 2 through the data enable."""
        return bool(self.control & _SPKR) and self.read_out2()

    def advance(self, now: int) -> None:
        self.now = now

    def next_deadline(self) -> int | None:
        return None

    def read(self, offset: int) -> int:
        refresh = _REFRESH if ticks_at(self.now) // REFRESH_TICKS & 1 else 0
        return self.control | refresh | (_OUT2 if self.read_out2() else 0)

    def write(self, offset: int, value: int) -> None:
        self.control = value & CONTROL_61
        self.set_gate2(bool(value & _GATE2))

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)


@dataclass(slots=True)
class SystemControlPortA:
    """Port 92h. `on_a20(enabled)` is this port's wish for A20, `on_reset(source)` the fast CPU reset."""

    on_a20: Callable[[bool], None] = wired()
    on_reset: Callable[[str], None] = wired()
    value: int = 0

    def read(self, offset: int) -> int:
        return self.value

    def write(self, offset: int, value: int) -> None:
        rising = value & ~self.value
        self.value = value
        self.on_a20(bool(value & _A20))
        if rising & _FAST_RESET:
            self.on_reset("port 92h")

    def reset(self) -> None:
        """A reset of the machine clears the port, so that the next request is an edge again."""
        self.value = 0
        self.on_a20(False)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)


@dataclass(slots=True)
class ResetControl:
    """Port CF9h. `on_reset(source)` is asked when RST_CPU goes from 0 to 1."""

    on_reset: Callable[[str], None] = wired()
    value: int = 0

    def read(self, offset: int) -> int:
        return self.value

    def write(self, offset: int, value: int) -> None:
        rising = value & ~self.value
        self.value = value & CONTROL_CF9
        if rising & _RST_CPU:
            self.on_reset("port CF9h")

    def reset(self) -> None:
        self.value = 0

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
