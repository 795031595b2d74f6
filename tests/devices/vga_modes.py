"""Register values of the standard modes, and a program that sets them as a BIOS does.

Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem", "Register values by mode".
"""

from dataclasses import dataclass
from typing import Final

from vmm.devices.vga import Vga


@dataclass(frozen=True)
class Mode:
    """Miscellaneous output, sequencer, CRT controller, graphics and attribute controller, in index order."""

    misc: int
    sequencer: bytes
    crtc: bytes
    graphics: bytes
    attribute: bytes


def _mode(misc: str, sequencer: str, crtc: str, graphics: str, attribute: str) -> Mode:
    return Mode(int(misc, 16), *map(bytes.fromhex, (sequencer, crtc, graphics, attribute)))


MODES: Final = {
    0x03: _mode(
        "67",
        "03 00 03 00 02",
        "5f 4f 50 82 55 81 bf 1f 00 4f 0d 0e 00 00 00 00 9c 8e 8f 28 1f 96 b9 a3 ff",
        "00 00 00 00 00 10 0e 00 ff",
        "00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 0c 00 0f 08 00",
    ),
    0x01: _mode(
        "67",
        "03 08 03 00 02",
        "2d 27 28 90 2b a0 bf 1f 00 4f 0d 0e 00 00 00 00 9c 8e 8f 14 1f 96 b9 a3 ff",
        "00 00 00 00 00 10 0e 00 ff",
        "00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 0c 00 0f 08 00",
    ),
    0x04: _mode(
        "63",
        "03 09 03 00 02",
        "2d 27 28 90 2b 80 bf 1f 00 c1 00 00 00 00 00 00 9c 8e 8f 14 00 96 b9 a2 ff",
        "00 00 00 00 00 30 0f 00 ff",
        "00 13 15 17 02 04 06 07 10 11 12 13 14 15 16 17 01 00 03 00 00",
    ),
    0x06: _mode(
        "63",
        "03 01 01 00 06",
        "5f 4f 50 82 54 80 bf 1f 00 c1 00 00 00 00 00 00 9c 8e 8f 28 00 96 b9 c2 ff",
        "00 00 00 00 00 00 0d 00 ff",
        "00 17 17 17 17 17 17 17 17 17 17 17 17 17 17 17 01 00 01 00 00",
    ),
    0x12: _mode(
        "e3",
        "03 01 0f 00 06",
        "5f 4f 50 82 54 80 0b 3e 00 40 00 00 00 00 00 00 ea 8c df 28 00 e7 04 e3 ff",
        "00 00 00 00 00 00 05 0f ff",
        "00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 01 00 0f 00 00",
    ),
    0x13: _mode(
        "63",
        "03 01 0f 00 0e",
        "5f 4f 50 82 54 80 bf 1f 00 41 00 00 00 00 00 00 9c 8e 8f 28 40 96 b9 a3 ff",
        "00 00 00 00 00 40 05 0f ff",
        "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 41 00 0f 00 00",
    ),
}


def outb(vga: Vga, port: int, value: int) -> None:
    vga.write(port - 0x3B0, value)


def inb(vga: Vga, port: int) -> int:
    return vga.read(port - 0x3B0)


def set_indexed(vga: Vga, port: int, index: int, value: int) -> None:
    outb(vga, port, index)
    outb(vga, port + 1, value)


def get_indexed(vga: Vga, port: int, index: int) -> int:
    outb(vga, port, index)
    return inb(vga, port + 1)


def set_attribute(vga: Vga, index: int, value: int) -> None:
    inb(vga, 0x3DA)
    outb(vga, 0x3C0, index)
    outb(vga, 0x3C0, value)
    outb(vga, 0x3C0, 0x20)


def set_dac(vga: Vga, entry: int, *colours: tuple[int, int, int]) -> None:
    outb(vga, 0x3C8, entry)
    for component in (c for colour in colours for c in colour):
        outb(vga, 0x3C9, component)


def set_mode(vga: Vga, number: int) -> None:
    """All registers of a mode, screen dark meanwhile; the DAC gets a grey ramp that tells entries apart."""
    mode = MODES[number]
    outb(vga, 0x3C2, mode.misc)
    inb(vga, 0x3DA)
    outb(vga, 0x3C0, 0)
    for index, value in enumerate(mode.sequencer):
        set_indexed(vga, 0x3C4, index, value)
    set_indexed(vga, 0x3D4, 0x11, 0)
    for index, value in enumerate(mode.crtc):
        set_indexed(vga, 0x3D4, index, value)
    for index, value in enumerate(mode.graphics):
        set_indexed(vga, 0x3CE, index, value)
    inb(vga, 0x3DA)
    for index, value in enumerate(mode.attribute):
        outb(vga, 0x3C0, index)
        outb(vga, 0x3C0, value)
    set_dac(vga, 0, *[(entry & 0x3F, entry >> 2, 0x3F - (entry & 0x3F)) for entry in range(256)])
    inb(vga, 0x3DA)
    outb(vga, 0x3C0, 0x20)
