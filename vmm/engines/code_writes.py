"""What the VMM writes to code of a guest that runs in place: the engine has translated it and must be told.

Stores of the guest's own the engine sees by itself.
"""

from vmm.arch.layout import PAGE_SHIFT, PAGE_SIZE
from vmm.hw.cpu import PhysicalCpu
from vmm.memory import GuestMemory


class EveryPage(set[int]):
    """All page numbers: for an engine that may have translated code from any page."""

    def __contains__(self, _page: object) -> bool:
        return True


class CodeWrites:
    """For `GuestMemory.on_watched_write`: forget what was translated from a page."""

    def __init__(self, memory: GuestMemory, phys: PhysicalCpu) -> None:
        self._memory, self._phys = memory, phys
        self._host = memory.physical.address

    def __call__(self, page: int) -> None:
        region = self._memory.region_at(page)
        if region is not None and region.host is not None:
            self._phys.map.written(self._host + region.host + (page << PAGE_SHIFT) - region.base, PAGE_SIZE)
