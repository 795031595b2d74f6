"""Paging-structure entries.

Source: Intel SDM Vol. 3A, "32-Bit Paging", "PAE Paging", "PDPTE Registers".
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
LARGE_RESERVED_32: Final = (1 << 22) - (1 << 12)
"""Of a 4-MByte entry, bits 21:12: there is no PSE-36 and no PAT that would give bits 20:12 a meaning."""
PTE_RESERVED: Final = 1 << 7
"""Of an entry for a 4-KByte page, bit 7: there is no PAT."""

PHYSICAL_BITS: Final = 36  # of a P6: CPUID leaf 80000008h does not exist there, so 36 (SDM Vol. 3A, "PAE Paging")
PDPT_BASE: Final = 0xFFFF_FFE0
FRAME_PAE: Final = (1 << PHYSICAL_BITS) - (1 << 12)
RESERVED_PAE: Final = (1 << 63) - (1 << PHYSICAL_BITS)
"""Bits 62:36; bit 63, NX, is reserved too while EFER.NXE is clear."""
RESERVED_PDPTE: Final = (1 << 64) - (1 << PHYSICAL_BITS) | 0x1E6
"""Bits 63:36, 8:5 and 2:1 of a page-directory-pointer-table entry."""
LARGE_FRAME_PAE: Final = (1 << PHYSICAL_BITS) - (1 << 21)
LARGE_OFFSET_PAE: Final = (1 << 21) - 1
LARGE_RESERVED_PAE: Final = (1 << 21) - (1 << 12)
