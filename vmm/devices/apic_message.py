"""Interrupt messages: what I/O APICs and local APICs send to each other.

Source: Intel SDM Vol. 3A, "Interrupt Command Register (ICR)", "Determining IPI Destination"; Intel 82093AA data sheet,
"IOREDTBL[23:0]-I/O Redirection Table Registers".
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VECTOR_MASK: Final = 0xFF
DELIVERY_SHIFT: Final = 8
DELIVERY_MASK: Final = 7
FIRST_VECTOR: Final = 16
"""The vectors below belong to the processor's exceptions: no message may carry one."""


class Delivery(IntEnum):
    """Delivery modes, bits 10:8 of a redirection entry, of an LVT entry and of the ICR."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    NMI = 4
    INIT = 5
    START_UP = 6
    EXTINT = 7


@dataclass(frozen=True, slots=True)
class InterruptMessage:
    """`vector` 0-255, `delivery` as `Delivery` has it, 0-7; `destination` 8 bits, 32 between local APICs in
    x2APIC mode.

    `logical` is the destination mode, `level` the trigger mode.
    """

    vector: int
    delivery: int
    destination: int
    logical: bool
    level: bool
