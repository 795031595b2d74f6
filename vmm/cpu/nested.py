"""Nested page tables: where the frames of a guest lie that walks its own page tables in guest mode.

PAE tables from guest-physical to physical addresses, empty at first and filled at a nested page fault. Everything is
executable: the engine does not survive a page table of the guest's in a page that is not. Devices are not mapped; ROM
is mapped read-only, and so is a page of ones where nothing answers.

A20 is applied here, so that the processor below need not know of it.

Source: AMD64 Architecture Programmer's Manual, Vol. 2, "Nested Paging".
"""

from typing import Final

from vmm.arch.layout import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.cpu.paging import Mmu
from vmm.cpu.roots import ENTRIES, LARGE_SHIFT, TABLE_RIGHTS, Root, TablePages
from vmm.cpu.shadow import Fill
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory

_LEAF: Final = int(Pte.P | Pte.U | Pte.A | Pte.D)
_W: Final = int(Pte.W)
_PAGES: Final = 1 << 20
_AROUND: Final = 16
"""So many pages are filled together: a guest that touches one touches the next."""


class NestedTables:
    """The nested tables of one VM, 4 GiB of guest-physical memory. `root` is the physical address for N_CR3."""

    def __init__(self, physical: PhysicalMemory, memory: GuestMemory, mmu: Mmu) -> None:
        self._memory, self._mmu = memory, mmu
        self._pages = TablePages(physical)
        self._root = Root(self._pages)
        self._tables: dict[int, int] = {}
        self._ones = physical.allocate(PAGE_SIZE)
        physical.view[self._ones : self._ones + PAGE_SIZE] = b"\xff" * PAGE_SIZE

    @property
    def root(self) -> int:
        """For N_CR3."""
        return self._root.cr3

    def fill(self, gpa: int, write: bool) -> Fill:
        """Make one access possible, if RAM, or for reads ROM or nothing, answers: MAPPED, else DEVICE."""
        first = gpa >> PAGE_SHIFT
        result = self._fill_page(first, write)
        if result is Fill.MAPPED:
            for page in range(first + 1, min(first | _AROUND - 1, _PAGES - 1) + 1):
                self._fill_page(page, False)
        return result

    def bend(self, gpa: int) -> int:
        """A guest-physical address behind A20."""
        return gpa & self._mmu.a20_mask

    def _fill_page(self, number: int, write: bool) -> Fill:
        """`number` is the page's, before A20."""
        page = self.bend(number << PAGE_SHIFT) >> PAGE_SHIFT
        region = self._memory.region_at(page)
        if region is not None and region.host is None:
            return Fill.DEVICE
        frame, rights = int(self._ones), 0
        if region is not None and region.host is not None:
            frame = region.host + (page << PAGE_SHIFT) - region.base
            rights = 0 if region.read_only else _W
        if write and not rights:
            return Fill.DEVICE
        self._pages.entries[self._entry(number)] = frame | rights | _LEAF
        return Fill.MAPPED

    def _entry(self, number: int) -> int:
        """Where the entry of a page is, in words of 64 bits; its table is made if it is not there."""
        large = number >> LARGE_SHIFT - PAGE_SHIFT
        table = self._tables.get(large)
        if table is None:
            table = self._tables[large] = self._pages.take()
            self._root.set_directory(large, table | TABLE_RIGHTS)
        return (table >> 3) + number % ENTRIES

    def map_once(self, gpa: int, frame: int, writable: bool) -> None:
        """Map any frame at the page of `gpa`, for one instruction; `unmap` takes it away. The caller flushes the
        TLB."""
        assert not frame & PAGE_MASK
        self._pages.entries[self._entry(gpa >> PAGE_SHIFT)] = frame | _LEAF | (_W if writable else 0)

    def unmap(self, gpa: int) -> None:
        """Forget one page. The caller flushes the TLB."""
        self._pages.entries[self._entry(gpa >> PAGE_SHIFT)] = 0

    def drop_all(self) -> None:
        """Forget everything: the memory map or A20 has changed. The caller flushes the TLB."""
        for large, table in self._tables.items():
            self._root.set_directory(large, 0)
            self._pages.give(table)
        self._tables.clear()
