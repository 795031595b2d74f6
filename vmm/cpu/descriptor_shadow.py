"""The GDT and LDT that the physical CPU reads while guest code loads segment registers by itself.

They hold the guest's code and data descriptors, with the DPL that a deprivileged kernel needs; system descriptors are
left out, so that no native transfer finds a gate or a TSS. The accessed bit stays as the guest has it: where it is
clear the processor wants to set it, which faults, for the tables are read-only; then the VMM sets it in the guest's
own.

The guest's tables are read again when they may have changed: `pages` are the guest-physical pages that hold them, and
somebody else keeps watch over those.

Source: Intel SDM Vol. 3A, "Segment Descriptors", "Global and Local Descriptor Tables".
"""

from dataclasses import dataclass
from typing import Final

from vmm.arch.descriptors import ACCESS_BYTE, ACCESSED, DESCRIPTOR_SIZE, NOT_SYSTEM, TYPE_SHIFT
from vmm.arch.exceptions import GuestFault
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.cpu.hole import DESCRIPTOR_TABLE_SIZE, Hole
from vmm.cpu.paging import Mmu
from vmm.cpu.vcpu import DESC_DPL, DESC_DPL_SHIFT, DESC_P, LOADED_NATIVELY
from vmm.hw.memory import PhysicalMemory

_USER_DPL: Final = 3
_CODE: Final = 1 << 11
_ACCESSED_IN_BYTE: Final = ACCESSED >> TYPE_SHIFT
_NO_SOURCE: Final = b""
_PIECE: Final = 256
"""Bytes that are compared before single descriptors are looked at."""


@dataclass(frozen=True, slots=True)
class Lowering:
    """What becomes of the descriptors of a guest in one virtual ring.

    `kernel_dpl` is given to those of DPL 0-2. Without `user_code`, code of DPL 3 is not present: a return to it faults.
    """

    kernel_dpl: int
    user_code: bool = True

    def shadow(self, entry: int) -> int:
        """The eight bytes of a descriptor as the physical CPU gets them; 0 for system descriptors."""
        high = entry >> 32
        if not high & NOT_SYSTEM:
            return 0
        high &= ~LOADED_NATIVELY
        if high >> DESC_DPL_SHIFT & 3 != _USER_DPL:
            high = high & ~DESC_DPL | self.kernel_dpl << DESC_DPL_SHIFT
        elif high & _CODE and not self.user_code:
            high &= ~DESC_P
        return high << 32 | entry & MASK32


_NOBODY: Final = Lowering(0)


class ShadowTable:
    """One of the two. `base` (32 bits) and `limit` are those of the guest's table; `limit` is -1 where it has none."""

    def __init__(self, window: memoryview) -> None:
        self._entries = window.cast("Q")
        self._source = _NO_SOURCE
        self._lowering: Lowering | None = None
        self.base = 0
        self.limit = -1
        self.pages: set[int] = set()

    def follow(self, mmu: Mmu, base: int, limit: int, lowering: Lowering) -> None:
        """Make the shadow of the guest's table that begins at linear address `base`; `limit` 65535 at the most."""
        self.base, self.limit = base, limit
        source = self._read(mmu, base, (limit + 1) // DESCRIPTOR_SIZE * DESCRIPTOR_SIZE)
        before = self._source if lowering == self._lowering else _NO_SOURCE
        if source == before:
            return
        for start in range(0, max(len(source), len(self._source)), _PIECE):
            piece = source[start : start + _PIECE]
            if not piece or piece != before[start : start + _PIECE]:
                self._make(start // DESCRIPTOR_SIZE, piece.ljust(_PIECE, b"\0"), lowering)
        self._source, self._lowering = source, lowering

    def _make(self, first: int, piece: bytes, lowering: Lowering) -> None:
        for index, entry in enumerate(memoryview(piece).cast("Q"), first):
            self._entries[index] = lowering.shadow(entry)

    def distrust(self) -> None:
        """Let every load fault, for nobody watches the guest's table any more. `follow` ends that."""
        self._make(0, bytes(-(-len(self._source) // _PIECE) * _PIECE), _NOBODY)
        self._source, self.pages = _NO_SOURCE, set()

    def dpl(self, selector: int) -> int:
        """DPL of a selector's descriptor as the guest has it."""
        at = selector & ~(DESCRIPTOR_SIZE - 1) | ACCESS_BYTE
        return self._source[at] >> 5 & 3 if at < len(self._source) else _USER_DPL

    def unaccessed(self, offset: int) -> tuple[int, int] | None:
        """Where the guest's access byte is for a store at an offset into the shadow, and what it should become; None
        if the processor has nothing to store there."""
        at = offset & ~(DESCRIPTOR_SIZE - 1) | ACCESS_BYTE
        if at >= len(self._source) or self._source[at] & _ACCESSED_IN_BYTE or not self._source[at] & NOT_SYSTEM >> 8:
            return None
        return self.base + at & MASK32, self._source[at] | _ACCESSED_IN_BYTE

    def leave(self) -> None:
        """The guest has no such table now, or does not use it."""
        self.limit = -1
        self.pages = set()

    def _read(self, mmu: Mmu, base: int, size: int) -> bytes:
        """The guest's bytes; zeros where the guest does not map them or no RAM answers: there its loads fault."""
        pieces, self.pages = [], set()
        end = base + size
        while base < end:
            count = min(end - base, PAGE_SIZE - (base & PAGE_MASK))
            pieces.append(self._read_page(mmu, base & MASK32, count))
            base += count
        return b"".join(pieces)

    def _read_page(self, mmu: Mmu, la: int, count: int) -> bytes:
        try:
            gpa = mmu.translate(la, False, False)
        except GuestFault:
            return bytes(count)
        region = mmu.memory.region_at(gpa >> PAGE_SHIFT)
        if region is None or region.host is None:
            return bytes(count)
        if not region.read_only:
            self.pages.add(gpa >> PAGE_SHIFT)
        return mmu.memory.read(gpa, count)


class DescriptorShadow:
    """Both tables of one virtual CPU."""

    def __init__(self, physical: PhysicalMemory, hole: Hole) -> None:
        self._hole = hole
        self.gdt, self.ldt = (
            ShadowTable(physical.window(hole.parts[name].host, DESCRIPTOR_TABLE_SIZE)) for name in _PARTS
        )

    @property
    def pages(self) -> set[int]:
        """Guest-physical pages with the guest's tables."""
        return self.gdt.pages | self.ldt.pages

    def unaccessed(self, la: int) -> tuple[int, int] | None:
        """`ShadowTable.unaccessed` for a linear address in the hole."""
        for name, table in zip(_PARTS, (self.gdt, self.ldt), strict=True):
            offset = la - self._hole.linear(name)
            if 0 <= offset < DESCRIPTOR_TABLE_SIZE:
                return table.unaccessed(offset)
        return None


_PARTS: Final = ("whole_gdt", "whole_ldt")
