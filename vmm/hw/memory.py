"""The machine's RAM: one anonymous mmap, handed out as runs of frames.

The physical CPU maps the same bytes, so a memoryview is all it takes to read or write any of it. Pages cost the host
nothing until they are touched.
"""

import ctypes
import mmap

from vmm.arch.layout import PAGE_MASK, PAGE_SIZE, HostPhysical


class PhysicalMemory:
    """`size` bytes of RAM at physical address 0, a multiple of 4 KiB; frames are handed out once and never taken
    back."""

    def __init__(self, size: int) -> None:
        if size <= 0 or size & PAGE_MASK:
            raise ValueError(f"physical memory: {size} bytes given, a positive multiple of {PAGE_SIZE} expected")
        self.size = size
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._next = 0

    def allocate(self, size: int) -> HostPhysical:
        """Hand out `size` bytes of zeroed, page-aligned memory. Raises MemoryError when there is no room."""
        start = self._next
        end = start + (size + PAGE_MASK & ~PAGE_MASK)
        if end > self.size:
            raise MemoryError(f"physical memory: {size} bytes wanted, {self.size - start} left")
        self._next = end
        return HostPhysical(start)

    @property
    def unused(self) -> memoryview:
        """What has not been handed out: zeros, unless somebody wrote where nobody may."""
        return self.view[self._next :]

    def window(self, start: int, size: int) -> memoryview:
        """A writable view of `size` bytes at physical address `start`."""
        return self.view[start : start + size]

    def copy(self, start: int, size: int) -> bytes:
        """The `size` bytes at physical address `start`, as they are now."""
        return self._map[start : start + size]
