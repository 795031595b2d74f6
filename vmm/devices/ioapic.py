"""Intel 82093AA I/O APIC: 24 input pins, a redirection entry for each, messages to local APICs.

Pins are told as asserted or not: the board's wires have no polarity, so that INTPOL is kept and read back, no more. An
edge that finds its entry masked is lost; a level waits.

Source: Intel 82093AA data sheet, "Register Description", "Interrupt Delivery"; MultiProcessor Specification 1.4, "I/O
APIC". Changing an entry to edge triggered clears its remote IRR, as the parts do and operating systems rely on.
Not modelled: the APIC bus and its arbitration (the arbitration register holds the identification), delivery status
(messages arrive at once).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.apic_message import DELIVERY_MASK, DELIVERY_SHIFT, VECTOR_MASK, Delivery, InterruptMessage
from vmm.devices.snapshot import load_fields, save_fields, wired

PINS: Final = 24
VERSION: Final = 0x11


class IoApicOffset(IntEnum):
    """Offsets in the page at FEC00000h."""

    IOREGSEL = 0x00
    IOWIN = 0x10


class IoApicRegister(IntEnum):
    """Numbers for IOREGSEL. From IOREDTBL on: two for each pin, bits 31:0 first."""

    IOAPICID = 0
    IOAPICVER = 1
    IOAPICARB = 2
    IOREDTBL = 0x10


class Redirection(IntFlag):
    """The one-bit fields of a redirection entry, 64 bits."""

    LOGICAL = 1 << 11  # destination mode
    DELIVS = 1 << 12  # delivery status, read only
    INTPOL = 1 << 13
    REMOTE_IRR = 1 << 14  # read only: a local APIC has the level interrupt and has not ended it
    LEVEL = 1 << 15
    MASK = 1 << 16


_LOGICAL: Final = int(Redirection.LOGICAL)
_REMOTE_IRR: Final = int(Redirection.REMOTE_IRR)
_LEVEL: Final = int(Redirection.LEVEL)
_MASK: Final = int(Redirection.MASK)
_DESTINATION_SHIFT: Final = 56
_WRITABLE: Final = 0xFF << _DESTINATION_SHIFT | _MASK | _LEVEL | int(Redirection.INTPOL) | _LOGICAL | 0x7FF
_HALF: Final = 0xFFFF_FFFF
_ID_SHIFT: Final = 24
_ID: Final = 0xF << _ID_SHIFT
_REGISTER_MASK: Final = 0xFF
_HELD: Final = frozenset((Delivery.FIXED, Delivery.LOWEST_PRIORITY))
"""The delivery modes of which a local APIC tells the end."""


def _masked_table() -> list[int]:
    return [_MASK] * PINS


@dataclass(slots=True)
class IoApic:
    """`on_message(message)` sends to the local APICs and returns whether one took it. `lines` has bit n for INTINn."""

    on_message: Callable[[InterruptMessage], bool] = wired()
    select: int = 0
    identification: int = 0
    lines: int = 0
    table: list[int] = field(default_factory=_masked_table)

    def set_line(self, pin: int, level: bool) -> None:
        """Drive INTIN0-INTIN23."""
        bit = 1 << pin
        rises = level and not self.lines & bit
        self.lines = self.lines | bit if level else self.lines & ~bit
        if rises and not self.table[pin] & (_LEVEL | _MASK):
            self._send(pin)
        self._serve_level(pin)

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC has ended a level interrupt with this vector: whoever still asks for it asks again."""
        for pin, entry in enumerate(self.table):
            if entry & VECTOR_MASK == vector and entry & _REMOTE_IRR:
                self.table[pin] = entry & ~_REMOTE_IRR
                self._serve_level(pin)

    def read(self, offset: int, width: int) -> int:
        """The two windows; between them and for bytes of them that are beyond 32 bits there is 0."""
        at = offset & 0xF
        windows: dict[int, int] = {IoApicOffset.IOREGSEL: self.select, IoApicOffset.IOWIN: self._register()}
        return windows.get(offset - at, 0) >> 8 * at & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        """IOREGSEL takes its byte in any width, IOWIN doublewords only."""
        if offset == IoApicOffset.IOREGSEL:
            self.select = value & _REGISTER_MASK
        elif offset == IoApicOffset.IOWIN and width == 4:
            self._set_register(value)

    def reset(self) -> None:
        """RESET: all entries masked. The pins are what they are."""
        self.select = self.identification = 0
        self.table[:] = _masked_table()

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)

    def _register(self) -> int:
        at = self.select - IoApicRegister.IOREDTBL
        if 0 <= at < 2 * PINS:
            return self.table[at >> 1] >> 32 * (at & 1) & _HALF
        if self.select == IoApicRegister.IOAPICVER:
            return VERSION | PINS - 1 << 16
        is_id = self.select in (IoApicRegister.IOAPICID, IoApicRegister.IOAPICARB)
        return self.identification if is_id else 0

    def _set_register(self, value: int) -> None:
        at = self.select - IoApicRegister.IOREDTBL
        if self.select == IoApicRegister.IOAPICID:
            self.identification = value & _ID
        elif 0 <= at < 2 * PINS:
            self._set_half(at >> 1, 32 * (at & 1), value)

    def _set_half(self, pin: int, shift: int, value: int) -> None:
        half = _HALF << shift
        old = self.table[pin]
        entry = old & ~half | value << shift & _WRITABLE & half | old & _REMOTE_IRR
        self.table[pin] = entry if entry & _LEVEL else entry & ~_REMOTE_IRR
        self._serve_level(pin)

    def _serve_level(self, pin: int) -> None:
        """A level that is asserted goes out, once until its end."""
        entry = self.table[pin]
        if not self.lines >> pin & 1 or entry & (_LEVEL | _MASK | _REMOTE_IRR) != _LEVEL:
            return
        if self._send(pin) and entry >> DELIVERY_SHIFT & DELIVERY_MASK in _HELD:
            self.table[pin] |= _REMOTE_IRR

    def _send(self, pin: int) -> bool:
        entry = self.table[pin]
        return self.on_message(
            InterruptMessage(
                vector=entry & VECTOR_MASK,
                delivery=entry >> DELIVERY_SHIFT & DELIVERY_MASK,
                destination=entry >> _DESTINATION_SHIFT,
                logical=bool(entry & _LOGICAL),
                level=bool(entry & _LEVEL),
            )
        )
