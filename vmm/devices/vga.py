"""VGA: the ports 3B0h-3DFh (offsets 0-2Fh), with every register readable as documented.

The memory at A0000h-BFFFFh is not here: it is plain RAM of the board, which `vmm.screen` reads through the layout that
these registers describe. That is exact for text, CGA graphics and mode 13h, where one address is one byte.

Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem".
Not modelled: the four memory planes (planar and unchained modes and font uploads are reported), write modes and
latches, the vertical interrupt, line compare and panning. CRT controller registers above 18h do not exist.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired
from vmm.devices.vga_mode import Kind, Timing, timing, video_mode
from vmm.devices.vga_registers import (
    ATTRIBUTE_BITS,
    CRTC_BITS,
    DAC_BITS,
    DAC_ENTRIES,
    GRAPHICS_BITS,
    PAS,
    PROTECT,
    SEQUENCER_BITS,
    Crtc,
    DacState,
    MemoryMode,
    Misc,
    Overflow,
    Port,
    Seq,
    Status0,
    Status1,
    VgaRegisters,
)

PORT_BASE: Final = 0x3B0
PORT_COUNT: Final = 0x30
MEMORY_BASE: Final = 0xA0000
MEMORY_SIZE: Final = 0x20000
NOBODY: Final = 0xFF

_MONO_TO_COLOUR: Final = int(Port.CRTC_INDEX) - int(Port.CRTC_INDEX_MONO)
_MONO_PORTS: Final = frozenset({Port.CRTC_INDEX_MONO, Port.CRTC_DATA_MONO, Port.STATUS1_MONO})
_COLOUR_PORTS: Final = frozenset({Port.CRTC_INDEX, Port.CRTC_DATA, Port.STATUS1})
_IOS: Final = int(Misc.IOS)
_PROTECTED: Final = range(8)
_FONT_PLANE: Final = 1 << 2
_DAC_BYTES: Final = 3 * DAC_ENTRIES


@dataclass(slots=True)
class Vga:
    """The chip. `regs` is what programs set, the rest how they get there. `on_unmodelled` is told each thing once."""

    on_unmodelled: Callable[[str], None] = wired()
    regs: VgaRegisters = field(default_factory=VgaRegisters)
    now: int = 0
    sequencer_index: int = 0
    crtc_index: int = 0
    graphics_index: int = 0
    attribute_takes_data: bool = False
    """The flip-flop of port 3C0h."""
    dac_read_at: int = 0
    """Byte of the DAC that 3C9h reads next; three bytes an entry."""
    dac_write_at: int = 0
    dac_state: int = int(DacState.WRITE)
    dac_latch: bytearray = field(default_factory=lambda: bytearray(3))
    """Components written so far: an entry changes when its third one comes."""
    reported: list[str] = field(default_factory=list)
    _timing: Timing | None = wired(default=None)

    # -- the bus

    def read(self, offset: int) -> int:
        """A byte from port 3B0h + `offset`; a port that is not decoded reads as all ones."""
        reader = _READERS.get(self._decoded(offset))
        return reader(self) if reader else NOBODY

    def write(self, offset: int, value: int) -> None:
        """A byte to port 3B0h + `offset`."""
        writer = _WRITERS.get(self._decoded(offset))
        if writer:
            writer(self, value)

    def _decoded(self, offset: int) -> int:
        """The offset with the colour ports standing for both places, or -1 at the place that is not selected."""
        if offset in _MONO_PORTS:
            return -1 if self.regs.misc & _IOS else offset + _MONO_TO_COLOUR
        if offset in _COLOUR_PORTS and not self.regs.misc & _IOS:
            return -1
        return offset

    # -- time

    def advance(self, now: int) -> None:
        """Virtual time is `now` nanoseconds."""
        self.now = now

    def next_deadline(self) -> int | None:
        """No output pin changes by itself."""
        return None

    def timing(self) -> Timing:
        """The frame that is being drawn."""
        if self._timing is None:
            self._timing = timing(self.regs)
        return self._timing

    # -- state

    def save(self) -> dict[str, Any]:
        """The state as JSON-able values."""
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `save` gave."""
        load_fields(self, state)
        self._timing = None

    # -- what is not modelled

    def _report(self, what: str) -> None:
        if what not in self.reported:
            self.reported.append(what)
            self.on_unmodelled(what)

    def _check_mode(self) -> None:
        """Look at the mode once the screen is on: a mode set passes through strange ones in the dark."""
        if not self.regs.attribute_index & PAS:
            return
        mode = video_mode(self.regs)
        if not mode.kind.is_modelled():
            self._report(f"VGA {mode.kind.value} mode, {mode.width}x{mode.height}")
        sequencer = self.regs.sequencer
        font_access = (
            mode.kind is Kind.TEXT
            and sequencer[Seq.MAP_MASK] == _FONT_PLANE
            and sequencer[Seq.MEMORY_MODE] & int(MemoryMode.SEQUENTIAL)
        )
        if font_access:
            self._report("VGA font upload")

    # -- general registers

    def _read_status1(self) -> int:
        self.attribute_takes_data = False
        displaying, retrace = self.timing().beam(self.now)
        return (0 if displaying else int(Status1.NOT_DISPLAYING)) | (int(Status1.V_RETRACE) if retrace else 0)

    def _write_misc(self, value: int) -> None:
        self.regs.misc = value
        self._timing = None

    def _write_feature(self, value: int) -> None:
        self.regs.feature = value

    # -- indexed registers

    def _write_sequencer_index(self, value: int) -> None:
        self.sequencer_index = value

    def _write_sequencer(self, value: int) -> None:
        if self.sequencer_index < len(SEQUENCER_BITS):
            self.regs.sequencer[self.sequencer_index] = value & SEQUENCER_BITS[self.sequencer_index]
            self._timing = None
            self._check_mode()

    def _write_graphics_index(self, value: int) -> None:
        self.graphics_index = value

    def _write_graphics(self, value: int) -> None:
        if self.graphics_index < len(GRAPHICS_BITS):
            self.regs.graphics[self.graphics_index] = value & GRAPHICS_BITS[self.graphics_index]
            self._check_mode()

    def _write_crtc_index(self, value: int) -> None:
        self.crtc_index = value

    def _write_crtc(self, value: int) -> None:
        index, crtc = self.crtc_index, self.regs.crtc
        if index >= len(CRTC_BITS):
            return
        if index in _PROTECTED and crtc[Crtc.V_RETRACE_END] & PROTECT:
            if index == Crtc.OVERFLOW:  # the line compare bit stays writable
                bit = int(Overflow.LINE_COMPARE_8)
                crtc[index] = crtc[index] & ~bit | value & bit
            return
        crtc[index] = value & CRTC_BITS[index]
        self._timing = None

    # -- attribute controller

    def _write_attribute(self, value: int) -> None:
        """Port 3C0h takes an index and a value in turn."""
        regs = self.regs
        if not self.attribute_takes_data:
            was_dark = not regs.attribute_index & PAS
            regs.attribute_index = value & (PAS | PAS - 1)
            if was_dark:
                self._check_mode()
        elif (index := regs.attribute_index & (PAS - 1)) < len(ATTRIBUTE_BITS):
            regs.attribute[index] = value & ATTRIBUTE_BITS[index]
        self.attribute_takes_data = not self.attribute_takes_data

    def _read_attribute(self) -> int:
        index = self.regs.attribute_index & (PAS - 1)
        return self.regs.attribute[index] if index < len(ATTRIBUTE_BITS) else 0

    # -- DAC

    def _write_pel_mask(self, value: int) -> None:
        self.regs.pel_mask = value

    def _write_dac_read_index(self, value: int) -> None:
        self.dac_read_at = 3 * value
        self.dac_write_at = 3 * value
        self.dac_state = int(DacState.READ)

    def _write_dac_write_index(self, value: int) -> None:
        self.dac_write_at = 3 * value
        self.dac_state = int(DacState.WRITE)

    def _read_dac_index(self) -> int:
        at = self.dac_read_at if self.dac_state == DacState.READ else self.dac_write_at
        return at // 3

    def _read_dac(self) -> int:
        value = self.regs.dac[self.dac_read_at]
        self.dac_read_at = (self.dac_read_at + 1) % _DAC_BYTES
        return value

    def _write_dac(self, value: int) -> None:
        entry, component = divmod(self.dac_write_at, 3)
        self.dac_latch[component] = value & DAC_BITS
        if component == 2:
            self.regs.dac[3 * entry : 3 * entry + 3] = self.dac_latch
        self.dac_write_at = (self.dac_write_at + 1) % _DAC_BYTES


def _register(registers: bytearray, index: int) -> int:
    """A register that exists, or zero."""
    return registers[index] if index < len(registers) else 0


_READERS: Final[Mapping[int, Callable[[Vga], int]]] = {
    Port.ATTRIBUTE: lambda vga: vga.regs.attribute_index,
    Port.ATTRIBUTE_DATA: Vga._read_attribute,
    Port.STATUS0_MISC: lambda _: int(Status0.SWITCH_SENSE),
    Port.SEQUENCER_INDEX: lambda vga: vga.sequencer_index,
    Port.SEQUENCER_DATA: lambda vga: _register(vga.regs.sequencer, vga.sequencer_index),
    Port.PEL_MASK: lambda vga: vga.regs.pel_mask,
    Port.DAC_READ_STATE: lambda vga: vga.dac_state,
    Port.DAC_WRITE_INDEX: Vga._read_dac_index,
    Port.DAC_DATA: Vga._read_dac,
    Port.FEATURE_READ: lambda vga: vga.regs.feature,
    Port.MISC_READ: lambda vga: vga.regs.misc,
    Port.GRAPHICS_INDEX: lambda vga: vga.graphics_index,
    Port.GRAPHICS_DATA: lambda vga: _register(vga.regs.graphics, vga.graphics_index),
    Port.CRTC_INDEX: lambda vga: vga.crtc_index,
    Port.CRTC_DATA: lambda vga: _register(vga.regs.crtc, vga.crtc_index),
    Port.STATUS1: Vga._read_status1,
}
_WRITERS: Final[Mapping[int, Callable[[Vga, int], None]]] = {
    Port.ATTRIBUTE: Vga._write_attribute,
    Port.STATUS0_MISC: Vga._write_misc,
    Port.SEQUENCER_INDEX: Vga._write_sequencer_index,
    Port.SEQUENCER_DATA: Vga._write_sequencer,
    Port.PEL_MASK: Vga._write_pel_mask,
    Port.DAC_READ_STATE: Vga._write_dac_read_index,
    Port.DAC_WRITE_INDEX: Vga._write_dac_write_index,
    Port.DAC_DATA: Vga._write_dac,
    Port.GRAPHICS_INDEX: Vga._write_graphics_index,
    Port.GRAPHICS_DATA: Vga._write_graphics,
    Port.CRTC_INDEX: Vga._write_crtc_index,
    Port.CRTC_DATA: Vga._write_crtc,
    Port.STATUS1: Vga._write_feature,
}
