"""Pages of ours under accesses that no RAM answers, each for one instruction.

A device is reached without a second instruction emulator: a frame of ours lies under the access for the one
instruction, holding what the device gave, and what the instruction leaves there is given to the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from vmm.arch.layout import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.engines.machine import Machine
from vmm.hw.cpu import PhysicalCpu
from vmm.memory import MemoryRegion

_USER_RING: Final = 3
_OPERANDS_MAX: Final = 2
"""Memory operands of one instruction; one that crosses pages may need more, and then they share a frame."""

_PAGES_MAX: Final = 8
"""A REP over memory that nothing answers is one step for so many pages; then it is looked at anew. One iteration needs
four at the most."""


class Tables(Protocol):
    """The page tables that the pages go into: the shadow, or nested ones."""

    def map_once(self, la: int, frame: int, writable: bool, /) -> None: ...
    def unmap(self, la: int, /) -> None: ...


def locate_linear(machine: Machine) -> Callable[[int, bool], int]:
    """The `locate` of tables that linear addresses go through. Raises: GuestFault: the guest's own page fault."""
    vcpu, mmu = machine.vcpu, machine.mmu
    return lambda la, write: mmu.translate(la, write, vcpu.cpl == _USER_RING)


@dataclass(slots=True)
class DevicePage:
    """A frame of ours at address `la` of the tables, under a page that RAM does not answer, for one instruction.

    With a `region` it stands for one access of `width` bytes to a device at `gpa`; without, for ROM or nothing. Where
    RAM must not change unseen, the frame is its own.
    """

    la: int
    frame: int
    region: MemoryRegion | None = None
    gpa: int = 0
    width: int = 0
    written: bool = False


class DevicePages:
    """Puts pages under accesses, and takes them away. `locate(address, write)` is the guest-physical address that an
    address in the tables stands for; `width()` how many bytes the instruction moves to or from memory."""

    def __init__(
        self,
        machine: Machine,
        phys: PhysicalCpu,
        tables: Tables,
        locate: Callable[[int, bool], int],
        width: Callable[[], int],
    ) -> None:
        self._phys, self._tables, self._locate, self._width = phys, tables, locate, width
        self._memory, self._physical = machine.memory, machine.physical
        self._spare_frames = [machine.physical.allocate(PAGE_SIZE) for _ in range(_OPERANDS_MAX)]

    def map_device(self, la: int, write: bool, pages: list[DevicePage]) -> DevicePage:
        """Put a frame of ours under an access that no RAM answers, holding what a read would give."""
        gpa = self._locate(la, write)
        region = self._memory.region_at(gpa >> PAGE_SHIFT)
        if write and region is not None and region.host is not None and not region.read_only:
            page = DevicePage(la, region.host + gpa - region.base & ~PAGE_MASK)
            self._tables.map_once(la, page.frame, True)
            self._phys.flush_tlb()
            return page
        page = DevicePage(la, self._spare_frames[len(pages) % _OPERANDS_MAX])
        frame = self._physical.window(page.frame, PAGE_SIZE)
        self._phys.map.written(self._physical.address + page.frame, PAGE_SIZE)  # code in ROM has perhaps run from it
        if region is None or region.host is not None:
            frame[:] = self._memory.read(gpa & ~PAGE_MASK, PAGE_SIZE)
        else:
            page.region, page.gpa, page.written = region, gpa, write
            page.width = min(self._width(), PAGE_SIZE - (la & PAGE_MASK))
            if not write:
                at = la & PAGE_MASK
                frame[at : at + page.width] = self._memory.read(gpa, page.width)
        self._tables.map_once(la, page.frame, write or page.region is None)
        self._phys.flush_tlb()
        return page

    def widen(self, pages: list[DevicePage], la: int, write: bool) -> None:
        """The instruction has another operand outside RAM, or writes what it has read. A page that went, because the
        table that it was in is made from an entry in which a bit was set, comes back."""
        for page in pages:
            if page.la & ~PAGE_MASK == la & ~PAGE_MASK:
                if write:
                    page.la, page.gpa, page.written = la, page.gpa & ~PAGE_MASK | la & PAGE_MASK, True
                self._tables.map_once(la, page.frame, page.written or page.region is None)
                self._phys.flush_tlb()
                return
        pages.append(self.map_device(la, write, pages))

    def is_wide(self, pages: list[DevicePage]) -> bool:
        """Has a REP come so far that it should begin again from where it is?"""
        return len(pages) >= _PAGES_MAX

    def write_back(self, pages: list[DevicePage]) -> None:
        """Take the pages away and let devices have what was written to them."""
        self.unmap(pages)
        for page in pages:
            if page.region is not None and page.written:
                at = page.frame + (page.la & PAGE_MASK)
                self._memory.write(page.gpa, bytes(self._physical.view[at : at + page.width]))

    def unmap(self, pages: list[DevicePage]) -> None:
        """Take pages away again."""
        for page in pages:
            self._tables.unmap(page.la)
        if pages:
            self._phys.flush_tlb()
