"""Exception vectors and their classes.

Source: Intel SDM Vol. 3A, "Protected-Mode Exceptions and Interrupts".
"""

from enum import IntEnum, IntFlag
from typing import Final


class Vector(IntEnum):
    """Vectors 0-31, which the architecture reserves."""

    DE = 0  # divide error
    DB = 1  # debug
    NMI = 2
    BP = 3  # INT3
    OF = 4  # INTO
    BR = 5  # BOUND
    UD = 6  # invalid opcode
    NM = 7  # no math coprocessor
    DF = 8  # double fault
    TS = 10  # invalid TSS
    NP = 11  # segment not present
    SS = 12  # stack-segment fault
    GP = 13  # general protection
    PF = 14  # page fault
    MF = 16  # x87 error
    AC = 17  # alignment check
    MC = 18  # machine check
    XF = 19  # SIMD floating point


HAS_ERROR_CODE: Final = frozenset({Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC})
CONTRIBUTORY: Final = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP})


class PageFault(IntFlag):
    """Page-fault error code (SDM Vol. 3A, "Page-Fault Exceptions")."""

    P = 1 << 0  # protection violation, not a missing page
    W = 1 << 1  # the access was a write
    U = 1 << 2  # the access came from CPL 3
    RSVD = 1 << 3  # a reserved bit was set in a paging entry
    I = 1 << 4  # noqa: E741  the manual's letter: an instruction fetch


class GuestFault(Exception):
    """An exception that the guest has earned; raised in emulation, caught in one place, delivered.

    Args:
        vector: 0-31.
        error_code: 16 or 32 bits, or None for a vector without one.
        cr2: the faulting linear address, for #PF only.
    """

    def __init__(self, vector: int, error_code: int | None = None, cr2: int | None = None) -> None:
        super().__init__(f"#{Vector(vector).name}" + ("" if error_code is None else f"({error_code:#x})"))
        self.vector = vector
        self.error_code = error_code
        self.cr2 = cr2


def gp(error_code: int = 0) -> GuestFault:
    """#GP with a selector error code (16 bits), 0 when no selector is to blame."""
    return GuestFault(Vector.GP, error_code)


def ud() -> GuestFault:
    """#UD, which has no error code."""
    return GuestFault(Vector.UD)
