"""What the translator is told about the guest: the mode that a block is for, and where the VMM's page is."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bt.segment_classes import ALL_FLAT, Classes, SegmentClass
from vmm.arch.layout import MASK32, Slot

_LOADED_NATIVELY: Final = (SegmentClass.FLAT, SegmentClass.NULLABLE)


class Mode(IntEnum):
    """Operating modes that decide how an instruction must be treated."""

    REAL = 0
    V86 = 1
    PROTECTED = 2


@dataclass(frozen=True, slots=True)
class Context:
    """Everything of a guest's state, besides CS.base and EIP, that a translation depends on.

    `cpl` is the virtual CPL (0 in real mode, 3 in V86), `code32` CS.D, `stack32` SS.B, `iopl3` whether IOPL is 3 (it
    decides what CLI, STI, PUSHF and POPF do in V86 and in rings 1-3), `breakpoints` the linear addresses at which the
    debug registers stop execution. `segments` are the classes of the segment registers, by their numbers, and
    `code_limit` is the limit of CS, 32 bits in bytes.
    `odd_bases`: one of DS, ES and SS has a base that is no multiple of 16 (see `bt.simd`). `looks`: why the VMM has to
    look at each access to memory (see `bt.looks`).
    """

    mode: Mode
    cpl: int
    code32: bool
    stack32: bool
    iopl3: bool = False
    breakpoints: tuple[int, ...] = ()
    segments: Classes = ALL_FLAT
    code_limit: int = MASK32
    odd_bases: bool = False
    looks: int = 0

    @property
    def is_user(self) -> bool:
        """Does it run at physical CPL 3 without being its own kernel: virtual CPL 3, or V86?"""
        return self.cpl == 3

    @property
    def is_own_kernel(self) -> bool:
        """May it change IF and the system registers without asking?"""
        return self.cpl == 0

    @property
    def is_flat_kernel(self) -> bool:
        """Ring 0 of protected mode, in 32-bit code on a 32-bit stack."""
        return self.mode is Mode.PROTECTED and self.cpl == 0 and self.code32 and self.stack32

    def loads_natively(self, seg: int) -> bool:
        """May cached code load DS, ES, FS or GS by itself, as it is flat before and after? (see `bt.segment_loads`)"""
        return self.is_flat_kernel and self.segments[seg] in _LOADED_NATIVELY


@dataclass(frozen=True, slots=True)
class Window:
    """Where cached code of one privilege class finds the VMM's pages; linear addresses.

    `page` is the vCPU page (or its read-only view), `scratch` a writable page, `lookup` the block space's branch table,
    `nowhere` where targets lead that are not in it; a block that is to find no other has `nowhere` for its table.
    `shadowed` a byte for each of the guest's linear pages: not 0, if a translation of it may be in the shadow tables.
    `gdt_sources` are two pages of descriptors that ring 0 may load by itself (see `bt.segment_loads`), `guard` the
    pages that limits are checked by (see `bt.segment_checks`).
    """

    page: int
    scratch: int
    lookup: int
    nowhere: int
    cs_base: int
    shadowed: int = 0
    gdt_sources: int = 0
    guard: int = 0

    def slot(self, slot: Slot) -> int:
        """CS-relative address of a word of the vCPU page."""
        return self.page + slot - self.cs_base & MASK32

    def scratch_word(self, offset: int) -> int:
        """CS-relative address of a byte of the scratch words."""
        return self.scratch + Slot.SCRATCH + offset - self.cs_base & MASK32
