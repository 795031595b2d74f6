"""What shows between A0000h and 100000h: ROMs and devices, or the DRAM that lies beneath them.

The host bridge decides it (`vmm.devices.i440fx`). What is on the PCI side is mapped at priority 0 or below; a segment
of DRAM that shows, wholly or for one kind of access, is a region above it.

Source: 82441FX data sheet, "PAM-Programmable Attribute Map Registers", "SMRAM-System Management RAM Control Register".
"""

from typing import Final

from vmm.arch.layout import HostPhysical
from vmm.devices.i440fx import SEGMENTS, Pam, Segment
from vmm.memory import GuestMemory, MemoryRegion

SMRAM_BASE: Final = 0xA0000
SMRAM_SIZE: Final = 0x20000
_PRIORITY: Final = 1
_READ: Final = int(Pam.RE)
_WRITE: Final = int(Pam.WE)


class UpperMemory:
    """The DRAM under A0000h-FFFFFh of one machine. `dram` is the frame of guest-physical address 0."""

    def __init__(self, memory: GuestMemory, dram: HostPhysical) -> None:
        self._memory, self._dram = memory, dram
        self._shown: dict[int, MemoryRegion] = {}
        self._smram: MemoryRegion | None = None

    def set_attributes(self, number: int, attributes: int) -> None:
        """Segment `number` of `SEGMENTS` reads from DRAM (Pam.RE), writes to it (Pam.WE), or does both or neither."""
        old = self._shown.pop(number, None)
        if old is not None:
            self._memory.unmap(old)
        region = self._region(SEGMENTS[number], attributes)
        if region is not None:
            self._memory.map(region)
            self._shown[number] = region

    def set_smram(self, is_open: bool) -> None:
        """Show the DRAM under the video memory, or the video memory."""
        if self._smram is not None:
            self._memory.unmap(self._smram)
            self._smram = None
        if is_open:
            host = HostPhysical(self._dram + SMRAM_BASE)
            self._smram = MemoryRegion("SMRAM", SMRAM_BASE, SMRAM_SIZE, host, priority=_PRIORITY)
            self._memory.map(self._smram)

    def _region(self, segment: Segment, attributes: int) -> MemoryRegion | None:
        name, base, size = f"DRAM at {segment.base:05X}h", segment.base, segment.size
        if attributes & _READ:
            read_only = not attributes & _WRITE
            return MemoryRegion(name, base, size, HostPhysical(self._dram + base), read_only, _PRIORITY)
        return self._write_only(name, segment) if attributes & _WRITE else None

    def _write_only(self, name: str, segment: Segment) -> MemoryRegion:
        """Reads from PCI, writes to DRAM: how a ROM is copied onto the DRAM beneath itself.

        What the PCI side shows is taken down now; it is ROM, which does not change.
        """
        behind = self._memory.read(segment.base, segment.size)
        start = self._dram + segment.base
        dram = self._memory.physical.window(HostPhysical(start), segment.size)

        def read(offset: int, width: int) -> int:
            return int.from_bytes(behind[offset : offset + width], "little")

        def write(offset: int, width: int, value: int) -> None:
            dram[offset : offset + width] = value.to_bytes(width, "little")

        return MemoryRegion(name, segment.base, segment.size, priority=_PRIORITY, read=read, write=write)
