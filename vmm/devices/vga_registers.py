"""The ports and registers of a VGA, by the names and groups of the manual, and nothing that happens in them.

Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem": "General Registers", "Sequencer Registers",
"CRT Controller Registers", "Graphics Controller Registers", "Attribute Controller Registers", "Video DAC".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields


class Port(IntEnum):
    """Offsets from 3B0h. The CRT controller and input status 1 are at either of two places."""

    CRTC_INDEX_MONO = 0x04
    CRTC_DATA_MONO = 0x05
    STATUS1_MONO = 0x0A
    ATTRIBUTE = 0x10
    ATTRIBUTE_DATA = 0x11
    STATUS0_MISC = 0x12  # read input status 0, write miscellaneous output
    SEQUENCER_INDEX = 0x14
    SEQUENCER_DATA = 0x15
    PEL_MASK = 0x16
    DAC_READ_STATE = 0x17  # write the index to read from, read the state
    DAC_WRITE_INDEX = 0x18
    DAC_DATA = 0x19
    FEATURE_READ = 0x1A
    MISC_READ = 0x1C
    GRAPHICS_INDEX = 0x1E
    GRAPHICS_DATA = 0x1F
    CRTC_INDEX = 0x24
    CRTC_DATA = 0x25
    STATUS1 = 0x2A


class Status0(IntFlag):
    """Input status 0."""

    SWITCH_SENSE = 1 << 4  # a monitor answers


class Status1(IntFlag):
    """Input status 1."""

    NOT_DISPLAYING = 1 << 0
    V_RETRACE = 1 << 3


class DacState(IntEnum):
    """What port 3C7h reads: which index was written last."""

    WRITE = 0
    READ = 3


class Misc(IntFlag):
    """Miscellaneous output."""

    IOS = 1 << 0  # CRT controller at 3Dxh, not 3Bxh
    ERAM = 1 << 1
    CLOCK_28MHZ = 1 << 2
    CLOCK_EXTERNAL = 1 << 3
    ODD_PAGE = 1 << 5


class Seq(IntEnum):
    """Sequencer registers."""

    RESET = 0
    CLOCKING_MODE = 1
    MAP_MASK = 2
    CHARACTER_MAP = 3
    MEMORY_MODE = 4


class ClockingMode(IntFlag):
    """Sequencer register 1."""

    DOTS_8 = 1 << 0  # characters of eight dots, not nine
    HALF_CLOCK = 1 << 3
    SCREEN_OFF = 1 << 5


class MemoryMode(IntFlag):
    """Sequencer register 4."""

    EXTENDED = 1 << 1
    SEQUENTIAL = 1 << 2  # not odd/even
    CHAIN4 = 1 << 3


class Crtc(IntEnum):
    """CRT controller registers."""

    H_TOTAL = 0x00
    H_DISPLAY_END = 0x01
    V_TOTAL = 0x06
    OVERFLOW = 0x07
    MAX_SCAN_LINE = 0x09
    CURSOR_START = 0x0A
    CURSOR_END = 0x0B
    START_HIGH = 0x0C
    START_LOW = 0x0D
    CURSOR_HIGH = 0x0E
    CURSOR_LOW = 0x0F
    V_RETRACE_START = 0x10
    V_RETRACE_END = 0x11
    V_DISPLAY_END = 0x12
    OFFSET = 0x13
    UNDERLINE = 0x14
    MODE_CONTROL = 0x17


class Overflow(IntFlag):
    """CRT controller register 7: high bits of others."""

    V_TOTAL_8 = 1 << 0
    V_DISPLAY_END_8 = 1 << 1
    V_RETRACE_START_8 = 1 << 2
    LINE_COMPARE_8 = 1 << 4
    V_TOTAL_9 = 1 << 5
    V_DISPLAY_END_9 = 1 << 6
    V_RETRACE_START_9 = 1 << 7


CURSOR_OFF: Final = 1 << 5  # cursor start
SCAN_LINE_MASK: Final = 0x1F  # of maximum scan line and the cursor registers
DOUBLE_SCAN: Final = 1 << 7  # maximum scan line
PROTECT: Final = 1 << 7  # vertical retrace end: registers 0-7 are read only
V_RETRACE_END_MASK: Final = 0x0F
DOUBLEWORD: Final = 1 << 6  # underline location
NO_CGA_BANKS: Final = 1 << 0  # mode control: address bit 13 is not row scan bit 0
BYTE_MODE: Final = 1 << 6  # mode control


class Gc(IntEnum):
    """Graphics controller registers."""

    MODE = 5
    MISCELLANEOUS = 6


class GcMode(IntFlag):
    """Graphics controller register 5."""

    INTERLEAVE = 1 << 5  # shift registers: two bits a dot, as on a CGA
    SHIFT_256 = 1 << 6


GRAPHICS: Final = 1 << 0  # graphics controller, miscellaneous
MEMORY_MAP_SHIFT: Final = 2
MEMORY_MAP_MASK: Final = 0b11


class Attr(IntEnum):
    """Attribute controller registers; 0-15 are the palette."""

    MODE = 0x10
    PLANE_ENABLE = 0x12
    COLOUR_SELECT = 0x14


class AttrMode(IntFlag):
    """Attribute controller register 10h."""

    GRAPHICS = 1 << 0
    LINE_GRAPHICS = 1 << 2  # column 9 of C0h-DFh repeats column 8
    BLINK = 1 << 3  # bit 7 of an attribute blinks, instead of brightening the background
    PALETTE_SELECT = 1 << 7  # colour bits 5:4 come from colour select


PAS: Final = 1 << 5  # attribute address: palette address source, 0 blanks the screen

# Which bits of each register exist; the others read as zero.
SEQUENCER_BITS: Final = bytes.fromhex("03 3d 0f 3f 0e")
GRAPHICS_BITS: Final = bytes.fromhex("0f 0f 0f 1f 03 7b 0f 0f ff")
ATTRIBUTE_BITS: Final = bytes([0x3F] * 16) + bytes.fromhex("ef ff 3f 0f 0f")
CRTC_BITS: Final = bytes.fromhex("ff ff ff ff ff ff ff ff 7f ff 3f 7f ff ff ff ff ff ff ff ff 7f ff ff ef ff")
DAC_ENTRIES: Final = 256
DAC_BITS: Final = 0x3F

Rgb = tuple[int, int, int]


@dataclass(slots=True)
class VgaRegisters:
    """All that a program can set. `dac` holds red, green, blue of each entry, 6 bits each."""

    misc: int = 0
    feature: int = 0
    sequencer: bytearray = field(default_factory=lambda: bytearray(len(SEQUENCER_BITS)))
    crtc: bytearray = field(default_factory=lambda: bytearray(len(CRTC_BITS)))
    graphics: bytearray = field(default_factory=lambda: bytearray(len(GRAPHICS_BITS)))
    attribute: bytearray = field(default_factory=lambda: bytearray(len(ATTRIBUTE_BITS)))
    attribute_index: int = 0
    """With the PAS bit."""
    dac: bytearray = field(default_factory=lambda: bytearray(3 * DAC_ENTRIES))
    pel_mask: int = 0xFF

    def is_blanked(self) -> bool:
        """Whether the screen is dark whatever the memory holds."""
        return not self.attribute_index & PAS or bool(self.sequencer[Seq.CLOCKING_MODE] & int(ClockingMode.SCREEN_OFF))

    def colour(self, entry: int) -> Rgb:
        """What the DAC makes of an 8-bit value, 8 bits a channel."""
        at = 3 * (entry & self.pel_mask)
        red, green, blue = self.dac[at : at + 3]
        return (red << 2 | red >> 4, green << 2 | green >> 4, blue << 2 | blue >> 4)

    def attribute_colour(self, value: int) -> Rgb:
        """What the attribute controller and the DAC make of a 4-bit dot."""
        entry = self.attribute[value & self.attribute[Attr.PLANE_ENABLE] & 0x0F]
        select = self.attribute[Attr.COLOUR_SELECT]
        if self.attribute[Attr.MODE] & int(AttrMode.PALETTE_SELECT):
            entry = entry & 0x0F | (select & 0b11) << 4
        return self.colour(entry | (select & 0b1100) << 4)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
