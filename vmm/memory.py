"""Guest-physical memory: RAM, ROM, device memory and nothing, page by page; and the one door for writes.

Regions are mapped and unmapped at run time; where they overlap the higher priority shows. What no region covers reads
as all ones and swallows writes.

Every write to guest RAM that the VMM makes (frames of interrupts, string input, DMA, emulated instructions) goes
through `write`, which tells `on_watched_write` about pages from which code was translated or descriptors were cached.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, GuestPhysical, HostPhysical
from vmm.hw.memory import PhysicalMemory

ALL_ONES_BYTE: Final = b"\xff"


@dataclass(frozen=True, slots=True, eq=False)
class MemoryRegion:
    """A page-aligned run of guest-physical memory.

    `host` is its backing in physical memory; a region without one is a device, which is reached through `read(offset,
    width)` and `write(offset, width, value)`. A `read_only` region swallows writes.
    """

    name: str
    base: int
    size: int
    host: HostPhysical | None = None
    read_only: bool = False
    priority: int = 0
    read: Callable[[int, int], int] | None = None
    write: Callable[[int, int, int], None] | None = None

    def __post_init__(self) -> None:
        if (self.base | self.size) & PAGE_MASK or self.size <= 0:
            raise ValueError(f"memory region {self.name}: {self.base:#x} + {self.size:#x} is not made of whole pages")


class GuestMemory:
    """The guest-physical address space of one VM, 4 GiB, over frames of `physical`.

    `watched` holds the guest-physical page numbers of RAM that must not change unseen; whoever adds a page also makes
    the guest's own stores to it fault.
    """

    def __init__(self, physical: PhysicalMemory, ram_size: int) -> None:
        self.physical = physical
        self.ram_size = ram_size
        self._view = physical.view
        self.regions: list[MemoryRegion] = []
        self._pages: dict[int, MemoryRegion | None] = {}
        self.watched: set[int] = set()
        self.on_watched_write: Callable[[int], None] = lambda _page: None
        self.on_map_change: Callable[[], None] = lambda: None

    # --- the map ---------------------------------------------------------------------------------------

    def map(self, region: MemoryRegion) -> None:
        """Add a region; one of equal priority that overlaps is refused with a ValueError."""
        for other in self.regions:
            overlaps = other.base < region.base + region.size and region.base < other.base + other.size
            if overlaps and other.priority == region.priority:
                raise ValueError(f"memory region {region.name} overlaps {other.name} at the same priority")
        self.regions.append(region)
        self.regions.sort(key=lambda r: -r.priority)
        self._changed()

    def unmap(self, region: MemoryRegion) -> None:
        """Take a region away; what was hidden below shows again."""
        self.regions.remove(region)
        self._changed()

    def _changed(self) -> None:
        self._pages.clear()
        self.on_map_change()

    def region_at(self, page: int) -> MemoryRegion | None:
        """The region that answers for a guest-physical page number, or None."""
        try:
            return self._pages[page]
        except KeyError:
            address = page << PAGE_SHIFT
            found = next((r for r in self.regions if r.base <= address < r.base + r.size), None)
            self._pages[page] = found
            return found

    # --- access ----------------------------------------------------------------------------------------

    def read(self, gpa: GuestPhysical | int, count: int) -> bytes:
        """Read `count` bytes; may cross pages and regions."""
        page = gpa >> PAGE_SHIFT
        if (gpa & PAGE_MASK) + count <= PAGE_SIZE:
            region = self._pages.get(page) or self.region_at(page)
            if region is not None and region.host is not None:
                start = region.host + gpa - region.base
                return bytes(self._view[start : start + count])
            return self._read_device(region, gpa, count)
        pieces = []
        while count > 0:
            size = min(count, PAGE_SIZE - (gpa & PAGE_MASK))
            pieces.append(self.read(gpa, size))
            gpa = gpa + size & MASK32
            count -= size
        return b"".join(pieces)

    def write(self, gpa: GuestPhysical | int, data: bytes) -> None:
        """Write bytes; may cross pages and regions. Writes to ROM and to nothing are swallowed."""
        count = len(data)
        page = gpa >> PAGE_SHIFT
        if (gpa & PAGE_MASK) + count > PAGE_SIZE:
            at = 0
            while at < count:
                size = min(count - at, PAGE_SIZE - (gpa & PAGE_MASK))
                self.write(gpa, data[at : at + size])
                gpa = gpa + size & MASK32
                at += size
            return
        region = self._pages.get(page) or self.region_at(page)
        if region is None or region.read_only:
            return
        if region.host is None:
            if region.write is not None:
                region.write(gpa - region.base, count, int.from_bytes(data, "little"))
            return
        if page in self.watched:
            self.on_watched_write(page)
        start = region.host + gpa - region.base
        self._view[start : start + count] = data

    def _read_device(self, region: MemoryRegion | None, gpa: int, count: int) -> bytes:
        if region is None or region.read is None:
            return ALL_ONES_BYTE * count
        return region.read(gpa - region.base, count).to_bytes(count, "little")
