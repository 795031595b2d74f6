"""Paging-structure entries.

Source: Intel SDM Vol. 3A, "32-Bit Paging", "PAE Paging".
"""

from enum import IntFlag
from typing import Final


class Pte(IntFlag):
    """Bits of a page-table or page-directory entry; the same places in 32-bit and PAE paging."""

    P = 1 << 0
    W = 1 << 1
    U = 1 << 2
    PWT = 1 << 3
    PCD = 1 << 4
    A = 1 << 5
    D = 1 << 6
    PS = 1 << 7
    G = 1 << 8
    NX = 1 << 63  # PAE with EFER.NXE


FRAME_32: Final = 0xFFFF_F000
LARGE_FRAME_32: Final = 0xFFC0_0000
LARGE_OFFSET_32: Final = 0x003F_FFFF
LARGE_RESERVED_32: Final = 1 << 21
"""Of a 4-MByte entry, bit 21 is reserved; bits 20:13 are the frame's bits 39:32 (PSE-36)."""

PHYSICAL_BITS: Final = 36  # of a P6: CPUID leaf 80000008h does not exist there, so 36 (SDM Vol. 3A, "PAE Paging")
PDPT_BASE: Final = 0xFFFF_FFE0
FRAME_PAE: Final = (1 << PHYSICAL_BITS) - (1 << 12)
RESERVED_PAE: Final = (1 << 64) - (1 << PHYSICAL_BITS)
"""Bits 62:36, and bit 63, which is NX where EFER.NXE exists and is set."""
LARGE_FRAME_PAE: Final = (1 << PHYSICAL_BITS) - (1 << 21)
LARGE_OFFSET_PAE: Final = (1 << 21) - 1
LARGE_RESERVED_PAE: Final = (1 << 21) - (1 << 13)
