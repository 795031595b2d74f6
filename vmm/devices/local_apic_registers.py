"""The registers of a local APIC: numbers, fields, what can be written.

A register has a number: its offset in the page of the xAPIC mode is 16 times that, its MSR in the x2APIC mode 800h
more.

Source: Intel SDM Vol. 3A, "Local APIC Register Address Map", "Local Vector Table", "x2APIC Register Address Space",
"Local APIC Status and Location"; Vol. 4, "IA-32 Architectural MSRs".
"""

from enum import IntEnum, IntFlag
from typing import Final

APIC_BASE_MSR: Final = 0x1B
TSC_DEADLINE_MSR: Final = 0x6E0
X2APIC_MSRS: Final = range(0x800, 0x900)
DEFAULT_BASE: Final = 0xFEE0_0000
PAGE: Final = 0x1000


class ApicBase(IntFlag):
    """IA32_APIC_BASE, the one-bit fields; bits 35:12 are the base address."""

    BSP = 1 << 8  # the bootstrap processor
    EXTD = 1 << 10  # x2APIC mode
    EN = 1 << 11


class ApicRegister(IntEnum):
    """Numbers of registers. ISR, TMR and IRR are eight each, LVT six."""

    ID = 0x02
    VERSION = 0x03
    TPR = 0x08
    PPR = 0x0A
    EOI = 0x0B
    LDR = 0x0D
    DFR = 0x0E
    SVR = 0x0F
    ISR = 0x10
    TMR = 0x18
    IRR = 0x20
    ESR = 0x28
    ICR = 0x30
    ICR_HIGH = 0x31  # of the xAPIC mode: in the other one the ICR is one MSR
    LVT = 0x32
    INITIAL_COUNT = 0x38
    CURRENT_COUNT = 0x39
    DIVIDE = 0x3E
    SELF_IPI = 0x3F  # of the x2APIC mode


class Lvt(IntEnum):
    """The local vector table in the order of its registers."""

    TIMER = 0
    THERMAL = 1
    PERFORMANCE = 2
    LINT0 = 3
    LINT1 = 4
    ERROR = 5


class LvtField(IntFlag):
    """The one-bit fields of an LVT entry."""

    DELIVS = 1 << 12  # read only
    POLARITY = 1 << 13
    REMOTE_IRR = 1 << 14  # read only
    LEVEL = 1 << 15
    MASK = 1 << 16


class Svr(IntFlag):
    """The spurious-interrupt vector register; bits 7:0 are the vector."""

    ENABLE = 1 << 8
    FOCUS = 1 << 9  # kept: these processors do not look for one


class Icr(IntFlag):
    """The interrupt command register, the one-bit fields; bits 19:18 are the shorthand."""

    LOGICAL = 1 << 11
    ASSERT = 1 << 14
    LEVEL = 1 << 15


class Shorthand(IntEnum):
    """Bits 19:18 of the ICR."""

    NONE = 0
    SELF = 1
    ALL = 2
    ALL_BUT_SELF = 3


class Esr(IntFlag):
    """The error status register, as far as these errors can happen here."""

    SEND_ILLEGAL_VECTOR = 1 << 5
    RECEIVE_ILLEGAL_VECTOR = 1 << 6
    ILLEGAL_REGISTER = 1 << 7


LVT_ENTRIES: Final = len(Lvt)
VERSION_VALUE: Final = 0x14 | LVT_ENTRIES - 1 << 16
SVR_RESET: Final = 0xFF
DFR_RESET: Final = 0xFFFF_FFFF
DFR_FIXED: Final = 0x0FFF_FFFF
SHORTHAND_SHIFT: Final = 18
TIMER_MODE_SHIFT: Final = 17
ICR_LOW_WRITABLE: Final = 0x000C_CFFF
SVR_WRITABLE: Final = int(Svr.ENABLE | Svr.FOCUS) | 0xFF

_MASK: Final = int(LvtField.MASK)
_PLAIN: Final = 0xFF | _MASK
_DELIVERED: Final = _PLAIN | 7 << 8
_PIN: Final = _DELIVERED | int(LvtField.POLARITY | LvtField.LEVEL)
LVT_WRITABLE: Final = (_PLAIN | 3 << TIMER_MODE_SHIFT, _DELIVERED, _DELIVERED, _PIN, _PIN, _PLAIN)
LVT_READ_ONLY: Final = int(LvtField.DELIVS | LvtField.REMOTE_IRR)

# What a write in the x2APIC mode may set; a reserved bit is #GP. A register that is not here takes no write.
X2APIC_WRITABLE: Final[dict[int, int]] = {
    ApicRegister.TPR: 0xFF,
    ApicRegister.EOI: 0,
    ApicRegister.SVR: SVR_WRITABLE,
    ApicRegister.ESR: 0,
    ApicRegister.ICR: 0xFFFF_FFFF << 32 | ICR_LOW_WRITABLE,
    **{ApicRegister.LVT + n: writable | LVT_READ_ONLY for n, writable in enumerate(LVT_WRITABLE)},
    ApicRegister.INITIAL_COUNT: 0xFFFF_FFFF,
    ApicRegister.DIVIDE: 0b1011,
    ApicRegister.SELF_IPI: 0xFF,
}
X2APIC_HIDDEN: Final = frozenset({ApicRegister.DFR, ApicRegister.ICR_HIGH, ApicRegister.EOI, ApicRegister.SELF_IPI})
"""What cannot be read as an MSR."""
