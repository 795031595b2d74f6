"""What the registers of a VGA mean: the layout of the picture in memory, and the beam's position in time.

Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem": "CRT Controller Registers", "Modes of
Operation", "Video Memory Organization".
Not modelled: four memory planes behind one address. Planar and unchained modes are described as if their memory were
linear, which shows something, not the picture. Line compare, pixel panning and byte panning.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from vmm.devices.vga_registers import (
    BYTE_MODE,
    CURSOR_OFF,
    DOUBLE_SCAN,
    DOUBLEWORD,
    GRAPHICS,
    MEMORY_MAP_MASK,
    MEMORY_MAP_SHIFT,
    NO_CGA_BANKS,
    SCAN_LINE_MASK,
    V_RETRACE_END_MASK,
    ClockingMode,
    Crtc,
    Gc,
    GcMode,
    MemoryMode,
    Misc,
    Overflow,
    Seq,
    VgaRegisters,
)

_SECOND_NS: Final = 1_000_000_000
_CLOCK_25: Final = 25_175_000
_CLOCK_28: Final = 28_322_000

# Where the windows that the graphics controller can decode begin in A0000h-BFFFFh, and how long they are.
_WINDOWS: Final = ((0, 0x20000), (0, 0x10000), (0x10000, 0x8000), (0x18000, 0x8000))


class Kind(Enum):
    """How memory becomes dots. The value names what is not modelled about it, if anything."""

    TEXT = ""
    COLOURS_256 = "linear, chain 4"
    CGA_4 = "CGA, 4 colours"
    CGA_2 = "CGA, 2 colours"
    PLANAR = "planar"
    UNCHAINED = "256 colours, unchained"

    def is_modelled(self) -> bool:
        """Whether plain memory at A0000h-BFFFFh is what this mode sees."""
        return self not in (Kind.PLANAR, Kind.UNCHAINED)


@dataclass(frozen=True, slots=True)
class VideoMode:
    """A picture of `width` by `height` characters or dots.

    A row is `stride` bytes after the one above, the first at byte `start` of the `window` (first byte, length) of
    A0000h-BFFFFh. `cell_height` is in scan lines, `cell_width` in dots; both are 1 in graphics.
    """

    kind: Kind
    width: int
    height: int
    stride: int
    start: int
    window: tuple[int, int]
    cell_width: int = 1
    cell_height: int = 1


@dataclass(frozen=True, slots=True)
class CursorShape:
    """Where the cursor is, counted in characters from the start of the window, and its scan lines."""

    address: int
    first_line: int
    last_line: int
    enabled: bool


def _with_overflow(regs: VgaRegisters, register: Crtc, bit8: Overflow, bit9: Overflow) -> int:
    overflow = regs.crtc[Crtc.OVERFLOW]
    return regs.crtc[register] | bool(overflow & int(bit8)) << 8 | bool(overflow & int(bit9)) << 9


def displayed_lines(regs: VgaRegisters) -> int:
    """Scan lines with a picture."""
    return 1 + _with_overflow(regs, Crtc.V_DISPLAY_END, Overflow.V_DISPLAY_END_8, Overflow.V_DISPLAY_END_9)


def _kind(regs: VgaRegisters) -> Kind:
    mode, memory = regs.graphics[Gc.MODE], regs.sequencer[Seq.MEMORY_MODE]
    if not regs.graphics[Gc.MISCELLANEOUS] & GRAPHICS:
        return Kind.TEXT
    if mode & int(GcMode.SHIFT_256):
        return Kind.COLOURS_256 if memory & int(MemoryMode.CHAIN4) else Kind.UNCHAINED
    if regs.crtc[Crtc.MODE_CONTROL] & NO_CGA_BANKS:
        return Kind.PLANAR
    return Kind.CGA_4 if mode & int(GcMode.INTERLEAVE) else Kind.CGA_2


def _address_unit(regs: VgaRegisters) -> int:
    """Bytes that one step of the CRT controller's address counter moves on."""
    if regs.crtc[Crtc.UNDERLINE] & DOUBLEWORD:
        return 4
    return 1 if regs.crtc[Crtc.MODE_CONTROL] & BYTE_MODE else 2


def video_mode(regs: VgaRegisters) -> VideoMode:
    """The mode that the registers describe."""
    kind = _kind(regs)
    crtc = regs.crtc
    unit = 2 if kind is Kind.TEXT else _address_unit(regs)
    scan = crtc[Crtc.MAX_SCAN_LINE]
    scans = (scan & SCAN_LINE_MASK) + 1
    doubling = 2 if scan & DOUBLE_SCAN else 1
    columns = crtc[Crtc.H_DISPLAY_END] + 1
    start = (crtc[Crtc.START_HIGH] << 8 | crtc[Crtc.START_LOW]) * unit
    stride = crtc[Crtc.OFFSET] * 2 * unit
    window = _WINDOWS[regs.graphics[Gc.MISCELLANEOUS] >> MEMORY_MAP_SHIFT & MEMORY_MAP_MASK]
    lines = displayed_lines(regs)
    rows = max(1, lines // (scans * doubling))
    if kind is Kind.TEXT:
        dots = 8 if regs.sequencer[Seq.CLOCKING_MODE] & int(ClockingMode.DOTS_8) else 9
        return VideoMode(kind, columns, rows, stride, start, window, dots, scans)
    if kind in (Kind.COLOURS_256, Kind.UNCHAINED):
        return VideoMode(kind, columns * 4, rows, stride, start, window)
    if kind is not Kind.PLANAR:  # CGA: the two scan lines of a character row lie in two banks; each is a row here
        rows = max(1, lines // doubling)
    return VideoMode(kind, columns * 8, rows, stride, start, window)


def cursor_shape(regs: VgaRegisters) -> CursorShape:
    """The text cursor."""
    crtc = regs.crtc
    first = crtc[Crtc.CURSOR_START]
    return CursorShape(
        address=crtc[Crtc.CURSOR_HIGH] << 8 | crtc[Crtc.CURSOR_LOW],
        first_line=first & SCAN_LINE_MASK,
        last_line=crtc[Crtc.CURSOR_END] & SCAN_LINE_MASK,
        enabled=not first & CURSOR_OFF,
    )


@dataclass(frozen=True, slots=True)
class Timing:
    """One frame: all in dots of `clock` Hz across and scan lines down."""

    clock: int
    line_dots: int
    display_dots: int
    lines: int
    display_lines: int
    retrace_start: int
    retrace_lines: int

    def refresh_hz(self) -> float:
        """Frames in a second."""
        return self.clock / (self.line_dots * self.lines)

    def beam(self, now: int) -> tuple[bool, bool]:
        """At virtual time `now`, ns: whether a picture is being drawn, and whether the beam flies back to the top."""
        dot = now * self.clock // _SECOND_NS % (self.line_dots * self.lines)
        line, column = divmod(dot, self.line_dots)
        displaying = line < self.display_lines and column < self.display_dots
        return displaying, 0 <= line - self.retrace_start < self.retrace_lines


TEXT_TIMING: Final = Timing(_CLOCK_28, 900, 720, 449, 400, 412, 2)
"""Mode 3, 70 Hz: what a monitor keeps showing while the registers make no sense."""
_SANE_HZ: Final = (40, 130)


def timing(regs: VgaRegisters) -> Timing:
    """The frame that the registers describe."""
    crtc, clocking = regs.crtc, regs.sequencer[Seq.CLOCKING_MODE]
    dots = 8 if clocking & int(ClockingMode.DOTS_8) else 9
    if clocking & int(ClockingMode.HALF_CLOCK):
        dots *= 2
    start = _with_overflow(regs, Crtc.V_RETRACE_START, Overflow.V_RETRACE_START_8, Overflow.V_RETRACE_START_9)
    frame = Timing(
        clock=_CLOCK_28 if regs.misc & int(Misc.CLOCK_28MHZ) else _CLOCK_25,
        line_dots=(crtc[Crtc.H_TOTAL] + 5) * dots,
        display_dots=(crtc[Crtc.H_DISPLAY_END] + 1) * dots,
        lines=2 + _with_overflow(regs, Crtc.V_TOTAL, Overflow.V_TOTAL_8, Overflow.V_TOTAL_9),
        display_lines=displayed_lines(regs),
        retrace_start=start,
        retrace_lines=((crtc[Crtc.V_RETRACE_END] - start) & V_RETRACE_END_MASK) or V_RETRACE_END_MASK + 1,
    )
    low, high = _SANE_HZ
    fits = frame.display_dots < frame.line_dots and start < frame.lines and low < frame.refresh_hz() < high
    return frame if fits else TEXT_TIMING
