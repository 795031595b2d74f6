"""Guest-physical memory under the bare processor's own addresses: the same map, in the engine's terms.

RAM and ROM are mapped as they are; devices, and addresses where nothing answers, are asked through `GuestMemory`. The
engine keeps translations of guest code, so every write of the VMM to RAM is a watched one: it makes the engine forget
what it made of that page.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from vmm.arch.layout import PAGE_SHIFT
from vmm.engines.code_writes import CodeWrites, EveryPage
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.mapping import Run
from vmm.memory import GuestMemory, MemoryRegion

ADDRESS_SPACE: Final = 1 << 40
"""What PAE paging can name on the engine's processor."""


class BareMemory:
    """Keeps a physical CPU's map in step with a `GuestMemory`. `on_device_write` is told after a device was written."""

    def __init__(self, memory: GuestMemory, phys: PhysicalCpu, on_device_write: Callable[[], None]) -> None:
        self._memory, self._phys = memory, phys
        self._host = memory.physical.address
        self._on_device_write = on_device_write
        self.has_changed = True
        phys.map.on_read, phys.map.on_write = self._read, self._write
        memory.watched = EveryPage()
        memory.on_watched_write = CodeWrites(memory, phys)
        memory.on_map_change = self._changed

    def refresh(self) -> None:
        """Outside a run: let the processor see the map as it is."""
        if self.has_changed:
            self.has_changed = False
            self._phys.map.show(self._runs())
            self._phys.forget_all_code()
            self._phys.flush_tlb()

    def _changed(self) -> None:
        self.has_changed = True

    def _runs(self) -> list[Run]:
        """The map as runs that do not overlap, as long as they can be."""
        edges = {0, ADDRESS_SPACE}
        for region in self._memory.regions:
            edges |= {region.base, region.base + region.size}
        ordered = sorted(edges)
        runs: list[Run] = []
        for start, end in pairwise(ordered):
            run = self._run(start, end, self._memory.region_at(start >> PAGE_SHIFT))
            if runs and runs[-1].is_continued_by(run):
                before = runs.pop()
                run = Run(before.base, before.size + run.size, before.host, before.read_only)
            runs.append(run)
        return runs

    def _run(self, start: int, end: int, region: MemoryRegion | None) -> Run:
        if region is None or region.host is None:
            return Run(start, end - start, None)
        return Run(start, end - start, self._host + region.host + start - region.base, region.read_only)

    def _read(self, address: int, width: int) -> int:
        return int.from_bytes(self._memory.read(address, width), "little")

    def _write(self, address: int, width: int, value: int) -> None:
        self._memory.write(address, value.to_bytes(8, "little")[:width])
        self._on_device_write()
