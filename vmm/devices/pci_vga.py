"""The display adapter as a PCI function, 00:02.0: what tells firmware and drivers that the VGA is there.

The VGA itself (`vga.py`) answers at its legacy ports and memory whatever the Command register says, so that a BIOS
which knows no PCI finds a display. The function has one window, its expansion ROM, and no frame buffer of its own.
Source: PCI Local Bus Specification 2.1, "Expansion ROM Base Address Register", "Class Codes"; the identity is that of
QEMU's VGA, for drivers that go by it.
"""

from dataclasses import dataclass
from typing import Final

from vmm.devices.pci import Bar, Config, PciFunction, PciIdentity, Place, Space, Window
from vmm.devices.snapshot import wired

IDENTITY: Final = PciIdentity(vendor=0x1234, device=0x1111, class_code=0x030000, revision=2)


def rom_window_size(rom_size: int) -> int:
    """The size of the window for a ROM of `rom_size` bytes: a power of two, and whole pages."""
    return max(0x1000, 1 << (rom_size - 1).bit_length())


@dataclass(slots=True, kw_only=True)
class PciVga(PciFunction):
    """`place` maps the window of `rom_size` bytes, a power of two."""

    identity: PciIdentity = wired(default=IDENTITY)
    place: Place = wired()
    rom_size: int = wired()

    def __post_init__(self) -> None:
        self.bars = (Bar(Config.ROM_BASE, self.rom_size, Space.ROM, Window(self.place)),)
        PciFunction.__post_init__(self)
