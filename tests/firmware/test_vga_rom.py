"""The VGA option ROM, run on a bare engine against the register files of a VGA that only remembers.

Source of the expected values: IBM VGA Technical Reference, "Video Parameter Table"; IBM PS/2 and PC BIOS Interface
Technical Reference, "Interrupt 10h - Video".
"""

from dataclasses import dataclass, field

import pytest
import unicorn
from unicorn import x86_const as x86

from firmware.build import build_vga_rom
from vmm.devices.font import FONT_8X8, FONT_8X14, FONT_8X16

STOP = 0x600  # where the stand-in for a program runs: INT 10h, HLT
BUFFER = 0x2000
STACK = 0x7000
OLD_INT_10 = 0xF000F065
REGISTERS = {
    "ax": x86.UC_X86_REG_AX,
    "bx": x86.UC_X86_REG_BX,
    "cx": x86.UC_X86_REG_CX,
    "dx": x86.UC_X86_REG_DX,
    "si": x86.UC_X86_REG_SI,
    "di": x86.UC_X86_REG_DI,
    "bp": x86.UC_X86_REG_BP,
    "sp": x86.UC_X86_REG_SP,
    "ds": x86.UC_X86_REG_DS,
    "es": x86.UC_X86_REG_ES,
    "ss": x86.UC_X86_REG_SS,
    "cs": x86.UC_X86_REG_CS,
    "ip": x86.UC_X86_REG_IP,
    "eflags": x86.UC_X86_REG_EFLAGS,
}


@dataclass
class Registers:
    """Ports 3B0h-3DFh as register files: what was written is what is read."""

    sequencer: dict[int, int] = field(default_factory=dict)
    graphics: dict[int, int] = field(default_factory=dict)
    crtc: dict[int, int] = field(default_factory=dict)
    attribute: dict[int, int] = field(default_factory=dict)
    dac: bytearray = field(default_factory=lambda: bytearray(768))
    misc: int = 0
    mask: int = 0
    index: dict[int, int] = field(default_factory=dict)
    waits_for_index: bool = True
    dac_at: int = 0
    accesses: int = 0

    def file(self, port: int) -> dict[int, int]:
        return {0x3C5: self.sequencer, 0x3CF: self.graphics, 0x3D5: self.crtc, 0x3B5: self.crtc}[port]

    def write(self, port: int, value: int) -> None:
        match port:
            case 0x3C0 if self.waits_for_index:
                self.index[port], self.waits_for_index = value, False
            case 0x3C0:
                self.attribute[self.index[port] & 0x1F], self.waits_for_index = value, True
            case 0x3C2:
                self.misc = value
            case 0x3C6:
                self.mask = value
            case 0x3C7 | 0x3C8:
                self.dac_at = value * 3
            case 0x3C9:
                self.dac[self.dac_at % 768] = value
                self.dac_at += 1
            case 0x3C4 | 0x3CE | 0x3D4 | 0x3B4:
                self.index[port] = value
            case _:
                self.file(port)[self.index[port - 1]] = value

    def read(self, port: int) -> int:
        match port:
            case 0x3BA | 0x3DA:
                self.waits_for_index = True
                return 0
            case 0x3C1:
                return self.attribute.get(self.index[0x3C0] & 0x1F, 0)
            case 0x3C6:
                return self.mask
            case 0x3C9:
                self.dac_at += 1
                return self.dac[(self.dac_at - 1) % 768]
            case 0x3CC:
                return self.misc
            case 0x3C4 | 0x3CE | 0x3D4 | 0x3B4:
                return self.index[port]
            case _:
                return self.file(port).get(self.index[port - 1], 0)


class Machine:
    """One MiB in real mode with the ROM in place and initialised by a far call, as a system BIOS does."""

    def __init__(self) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
        self.uc.mem_map(0, 0x100000)
        self.vga = Registers()
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.uc.hook_add(unicorn.UC_HOOK_INSN, self._in, None, 1, 0, x86.UC_X86_INS_IN)
        self.uc.hook_add(unicorn.UC_HOOK_INSN, self._out, None, 1, 0, x86.UC_X86_INS_OUT)
        self.uc.mem_write(0xC0000, build_vga_rom())
        self.poke(0x10 * 4, OLD_INT_10, 4)
        self.run(bytes.fromhex("9a 03 00 00 c0"), ax=0x1234, bx=0x5678, si=0x9ABC, ds=0x40, es=0x50)
        self.after_init = self.registers()

    def int10(self, ax: int, **registers: int) -> dict[str, int]:
        """Call INT 10h and return all registers after it."""
        self.run(b"\xcd\x10", ax=ax, **registers)
        return self.registers()

    def run(self, code: bytes, **registers: int) -> None:
        """Run `code`, then HLT; ports must be quiet before and the stack level after."""
        self.uc.mem_write(STOP, code + b"\xf4")
        self.uc.ctl_flush_tb()  # what stood here before has been translated
        for name, number in REGISTERS.items():
            self.uc.reg_write(number, {"sp": STACK, "eflags": 0x402, **registers}.get(name, 0))
        self.vga.accesses = 0
        self.uc.emu_start(STOP, 0, count=3_000_000)
        assert self.uc.reg_read(x86.UC_X86_REG_IP) == STOP + len(code) + 1, "did not come back"
        assert self.uc.reg_read(x86.UC_X86_REG_SP) == STACK, "the stack is not level"

    def registers(self) -> dict[str, int]:
        return {name: self.uc.reg_read(number) for name, number in REGISTERS.items()}

    def peek(self, address: int, size: int = 1) -> int:
        return int.from_bytes(self.uc.mem_read(address, size), "little")

    def poke(self, address: int, value: int, size: int = 1) -> None:
        self.uc.mem_write(address, value.to_bytes(size, "little"))

    def text(self, row: int, columns: int = 80) -> str:
        cells = self.uc.mem_read(0xB8000 + row * columns * 2, columns * 2)
        return bytes(cells[::2]).decode("cp437").rstrip()

    def say(self, text: str) -> None:
        for character in text.encode("cp437"):
            self.int10(0x0E00 | character, bx=7)

    def _interrupt(self, uc: unicorn.Uc, vector: int, _: object) -> None:
        stack = uc.reg_read(x86.UC_X86_REG_SP)
        for register in (x86.UC_X86_REG_EFLAGS, x86.UC_X86_REG_CS, x86.UC_X86_REG_IP):
            stack -= 2
            self.poke(stack, uc.reg_read(register) & 0xFFFF, 2)
        uc.reg_write(x86.UC_X86_REG_SP, stack)
        uc.reg_write(x86.UC_X86_REG_CS, self.peek(vector * 4 + 2, 2))
        uc.reg_write(x86.UC_X86_REG_IP, self.peek(vector * 4, 2))

    def _in(self, _uc: unicorn.Uc, port: int, size: int, _data: object) -> int:
        self.vga.accesses += 1
        return sum(self.vga.read(port + byte) << 8 * byte for byte in range(size))

    def _out(self, _uc: unicorn.Uc, port: int, size: int, value: int, _data: object) -> None:
        self.vga.accesses += 1
        for byte in range(size):
            self.vga.write(port + byte, value >> 8 * byte & 0xFF)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def hexes(registers: dict[int, int], count: int) -> str:
    return bytes(registers[n] for n in range(count)).hex()


# What the VGA's mode tables say: sequencer 0-4, miscellaneous, CRTC 0-18h, attribute 0-13h, graphics 0-8.
MODES = [
    pytest.param(
        0x03, "0300030002", 0x67, "5f4f50825581bf1f004f0d0e000000009c8e8f281f96b9a3ff",
        "000102030405140738393a3b3c3d3e3f0c000f08", "0000000000100e00ff", id="text_80x25",
    ),
    pytest.param(
        0x01, "0308030002", 0x67, "2d2728902ba0bf1f004f0d0e000000009c8e8f141f96b9a3ff",
        "000102030405140738393a3b3c3d3e3f0c000f08", "0000000000100e00ff", id="text_40x25",
    ),
    pytest.param(
        0x07, "0300030002", 0x66, "5f4f50825581bf1f004f0d0e000000009c8e8f280f96b9a3ff",
        "000808080808080810181818181818180e000f08", "0000000000100a00ff", id="monochrome_text",
    ),
    pytest.param(
        0x04, "0309030002", 0x63, "2d2728902b80bf1f00c10000000000009c8e8f140096b9a2ff",
        "0013151702040607101112131415161701000300", "0000000000300f00ff", id="320x200x4",
    ),
    pytest.param(
        0x06, "0301010006", 0x63, "5f4f50825480bf1f00c10000000000009c8e8f280096b9c2ff",
        "00" + "17" * 15 + "01000100", "0000000000000d00ff", id="640x200x2",
    ),
    pytest.param(
        0x0D, "03090f0006", 0x63, "2d2728902b80bf1f00c00000000000009c8e8f140096b9e3ff",
        "0001020304050607101112131415161701000f00", "000000000000050fff", id="320x200x16",
    ),
    pytest.param(
        0x10, "03010f0006", 0xA3, "5f4f50825480bf1f004000000000000083855d280f63bae3ff",
        "000102030405140738393a3b3c3d3e3f01000f00", "000000000000050fff", id="640x350x16",
    ),
    pytest.param(
        0x12, "03010f0006", 0xE3, "5f4f508254800b3e0040000000000000ea8cdf2800e704e3ff",
        "000102030405140738393a3b3c3d3e3f01000f00", "000000000000050fff", id="640x480x16",
    ),
    pytest.param(
        0x13, "03010f000e", 0x63, "5f4f50825480bf1f00410000000000009c8e8f284096b9a3ff",
        "000102030405060708090a0b0c0d0e0f41000f00", "000000000040050fff", id="320x200x256",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "sequencer", "misc", "crtc", "attribute", "graphics"), MODES)
def test_mode_set_programs_the_standard_registers(
    machine: Machine, mode: int, sequencer: str, misc: int, crtc: str, attribute: str, graphics: str
) -> None:
    machine.int10(mode)
    vga = machine.vga
    assert (hexes(vga.sequencer, 5), vga.misc, hexes(vga.attribute, 20)) == (sequencer, misc, attribute)
    assert (hexes(vga.crtc, 14), hexes(vga.graphics, 9)) == (crtc[:28], graphics)
    assert bytes(vga.crtc[n] for n in range(16, 25)).hex() == crtc[32:]
    assert vga.index[0x3C0] == 0x20, "the palette drives the screen"
    assert machine.int10(0x0F00)["ax"] & 0xFF == mode


def test_rom_carries_the_classic_header() -> None:
    rom = build_vga_rom()
    assert (rom[:2], rom[2] * 512, sum(rom) % 256, rom[0x1E:0x21]) == (b"\x55\xaa", len(rom), 0, b"IBM")


def test_init_takes_int_10h_and_leaves_every_register(machine: Machine) -> None:
    expected = {"ax": 0x1234, "bx": 0x5678, "si": 0x9ABC, "ds": 0x40, "es": 0x50}
    assert {name: machine.after_init[name] for name in expected} == expected
    assert machine.peek(0x42 * 4, 4) == OLD_INT_10
    assert machine.peek(0x10 * 4 + 2, 2) == 0xC000


def test_mode_3_fills_the_data_area(machine: Machine) -> None:
    assert bytes(machine.uc.mem_read(0x449, 7)).hex() == "03500000100000"
    assert bytes(machine.uc.mem_read(0x460, 5)).hex() == "070600d403"
    assert bytes(machine.uc.mem_read(0x484, 7)).hex() == "18100060f95108"


def test_an_unknown_mode_changes_nothing(machine: Machine) -> None:
    before = bytes(machine.uc.mem_read(0x410, 0x100))
    machine.int10(0x0009)
    assert (bytes(machine.uc.mem_read(0x410, 0x100)), machine.vga.accesses) == (before, 0)


def test_vbe_call_comes_back_unchanged(machine: Machine) -> None:
    assert machine.int10(0x4F00)["ax"] == 0x4F00


def test_bit_7_of_the_mode_keeps_memory(machine: Machine) -> None:
    machine.say("kept")
    machine.int10(0x0083)
    assert machine.text(0) == "kept"
    assert machine.int10(0x0F00)["ax"] == 0x5083
    machine.int10(0x0003)
    assert machine.text(0) == ""


def test_mode_3_loads_glyphs_into_plane_2(machine: Machine) -> None:
    glyph = ord("A")
    assert machine.uc.mem_read(0xA0000 + glyph * 32, 16) == FONT_8X16[glyph * 16 : glyph * 16 + 16]


def test_teletype_follows_control_characters(machine: Machine) -> None:
    machine.say("one\r\ntwo\bx\ay")
    assert [machine.text(row) for row in (0, 1)] == ["one", "twxy"]
    assert machine.peek(0x450, 2) == 0x0104
    machine.say("\r\b")
    assert machine.peek(0x450, 2) == 0x0100


def test_teletype_wraps_and_scrolls_with_the_attribute_of_the_last_row(machine: Machine) -> None:
    machine.poke(0xB8000, ord("z"))
    machine.poke(0xB8000 + 24 * 160 + 1, 0x1E)
    machine.int10(0x0200, dx=0x184F)
    machine.say("!")
    assert machine.text(23)[79] == "!"
    assert machine.peek(0xB8000 + 24 * 160, 4) == 0x1E201E20
    assert machine.text(0) == ""
    assert machine.peek(0x450, 2) == 0x1800


def test_teletype_writes_the_cursor_with_one_string_output(machine: Machine) -> None:
    machine.int10(0x0200, dx=0x0A13)
    machine.say("x")
    assert machine.vga.crtc[14] << 8 | machine.vga.crtc[15] == 10 * 80 + 20
    assert machine.vga.accesses == 2  # the two iterations of one REP OUTSW


# Rows 1 to 4 of "abcdxe" scroll; the blank ones have attribute 1Fh.
SCROLLS = [
    pytest.param(0x0601, "acdx e", id="up"),
    pytest.param(0x0603, "ax   e", id="up_3"),
    pytest.param(0x0701, "a bcde", id="down"),
    pytest.param(0x0703, "a   be", id="down_3"),
    pytest.param(0x0600, "a    e", id="clear_all"),
    pytest.param(0x0709, "a    e", id="more_rows_than_there_are"),
]


@pytest.mark.parametrize(("ax", "wanted"), SCROLLS)
@pytest.mark.parametrize(("first", "last"), [(0, 79), (5, 9), (0, 200)], ids=["whole_rows", "window", "clipped"])
def test_scroll_moves_the_window_and_nothing_else(
    machine: Machine, ax: int, wanted: str, first: int, last: int
) -> None:
    before = [(name.encode() + b"\x07") * 80 for name in "abcdxe"]
    machine.uc.mem_write(0xB8000, b"".join(before))
    machine.int10(ax, bx=0x1F00, cx=0x0100 | first, dx=0x0400 | last)
    for row, name in enumerate(wanted):
        inside = (name.encode() + (b"\x1f" if name == " " else b"\x07")) * (min(last, 79) - first + 1)
        expected = before[row][: first * 2] + inside + before[row][first * 2 + len(inside) :]
        assert machine.uc.mem_read(0xB8000 + row * 160, 160) == expected, row


def test_scroll_ignores_an_empty_window(machine: Machine) -> None:
    machine.say("stays")
    machine.int10(0x0600, bx=0x0700, cx=0x0005, dx=0x0003)
    machine.int10(0x0600, bx=0x0700, cx=0x3000, dx=0x3050)
    assert machine.text(0) == "stays"


def test_write_character_with_attribute_repeats_and_leaves_the_cursor(machine: Machine) -> None:
    machine.int10(0x0200, dx=0x0102)
    machine.int10(0x0900 | ord("*"), bx=0x4E, cx=3)
    assert machine.peek(0xB8000 + 160 + 4, 8) == 0x0720_4E2A_4E2A_4E2A
    machine.int10(0x0A00 | ord("-"), bx=0x11, cx=2)
    assert machine.peek(0xB8000 + 160 + 4, 6) == 0x4E2A_4E2D_4E2D
    assert machine.int10(0x0800)["ax"] == 0x4E2D
    assert machine.int10(0x0300)["dx"] == 0x0102


STRINGS = [
    pytest.param(0x1300, b"ab\r\nc", ["ab", "c"], 0x0000, id="cursor_stays"),
    pytest.param(0x1301, b"ab\r\nc", ["ab", "c"], 0x0201, id="cursor_follows"),
    pytest.param(0x1302, b"a\x11b\x12", ["ab"], 0x0000, id="attributes_cursor_stays"),
    pytest.param(0x1303, b"a\x11b\x12", ["ab"], 0x0102, id="attributes_cursor_follows"),
]


@pytest.mark.parametrize(("ax", "string", "rows", "cursor"), STRINGS)
def test_write_string(machine: Machine, ax: int, string: bytes, rows: list[str], cursor: int) -> None:
    machine.uc.mem_write(BUFFER, string)
    length = len(string) // (2 if ax & 2 else 1)
    machine.int10(ax, bx=0x0A, cx=length, dx=0x0100, bp=BUFFER & 0xF, es=BUFFER >> 4)
    assert [machine.text(1 + n) for n in range(len(rows))] == rows
    assert machine.peek(0xB8000 + 161) == (0x11 if ax & 2 else 0x0A)
    assert machine.peek(0x450, 2) == cursor


def test_write_string_at_the_cursor_when_the_row_is_ffh(machine: Machine) -> None:
    machine.int10(0x0200, dx=0x0302)
    machine.uc.mem_write(BUFFER, b"here")
    machine.int10(0x1301, bx=7, cx=4, dx=0xFF00, bp=BUFFER)
    assert machine.text(3) == "  here"


def test_pages_have_cursors_and_memory_of_their_own(machine: Machine) -> None:
    machine.int10(0x0200, bx=0x0200, dx=0x0001)
    machine.int10(0x0941, bx=0x0207, cx=1)
    assert machine.peek(0xB8000 + 2 * 0x1000 + 2, 2) == 0x0741
    machine.int10(0x0502)
    assert machine.int10(0x0F00)["bx"] == 0x0200
    assert machine.vga.crtc[12] << 8 | machine.vga.crtc[13] == 0x1000
    assert machine.vga.crtc[14] << 8 | machine.vga.crtc[15] == 0x1001


CURSOR_SHAPES = [
    pytest.param(0x0607, 0x0D0E, id="underline_moves_to_the_bottom"),
    pytest.param(0x0007, 0x000F, id="block_is_stretched"),
    pytest.param(0x0D0E, 0x0D0E, id="sixteen_line_shape_is_itself"),
    pytest.param(0x2000, 0x2001, id="off_stays_off"),
]


@pytest.mark.parametrize(("shape", "programmed"), CURSOR_SHAPES)
def test_cursor_shape_is_emulated(machine: Machine, shape: int, programmed: int) -> None:
    machine.int10(0x0100, cx=shape)
    assert machine.vga.crtc[10] << 8 | machine.vga.crtc[11] == programmed
    assert machine.int10(0x0300)["cx"] == shape


def test_cursor_shape_goes_out_as_given_without_emulation(machine: Machine) -> None:
    machine.int10(0x1201, bx=0x34)
    machine.int10(0x0100, cx=0x0407)
    assert machine.vga.crtc[10] << 8 | machine.vga.crtc[11] == 0x0407


GRAPHICS_MODES = [0x04, 0x06, 0x13]
PIXELS = [(0, 0, 1), (1, 0, 0), (7, 3, 1), (100, 101, 1), (319, 199, 1)]


@pytest.mark.parametrize("mode", GRAPHICS_MODES)
def test_pixels_read_back(machine: Machine, mode: int) -> None:
    machine.int10(mode)
    for x, y, colour in PIXELS:
        machine.int10(0x0C00 | colour, cx=x, dx=y)
    assert [machine.int10(0x0D00, cx=x, dx=y)["ax"] & 0xFF for x, y, _ in PIXELS] == [c for _, _, c in PIXELS]
    lit = [(x, y) for x, y, colour in PIXELS if colour]
    where = {
        0x04: lambda x, y: 0xB8000 + (y & 1) * 0x2000 + (y >> 1) * 80 + x // 4,
        0x06: lambda x, y: 0xB8000 + (y & 1) * 0x2000 + (y >> 1) * 80 + x // 8,
        0x13: lambda x, y: 0xA0000 + y * 320 + x,
    }[mode]
    assert all(machine.peek(where(x, y)) for x, y in lit)


@pytest.mark.parametrize("mode", [0x04, 0x06])
def test_bit_7_of_a_pixel_is_exclusive_or(machine: Machine, mode: int) -> None:
    machine.int10(mode)
    seen = []
    for _ in range(2):
        machine.int10(0x0C81, cx=9, dx=5)
        seen.append(machine.int10(0x0D00, cx=9, dx=5)["ax"] & 0xFF)
    assert seen == [1, 0]


@pytest.mark.parametrize("mode", GRAPHICS_MODES)
def test_characters_in_graphics_modes_are_drawn_and_recognised(machine: Machine, mode: int) -> None:
    machine.int10(mode)
    machine.int10(0x0200, dx=0x0203)
    machine.say("Q")
    lines = [
        sum((machine.int10(0x0D00, cx=24 + x, dx=16 + y)["ax"] & 0xFF != 0) << (7 - x) for x in range(8))
        for y in range(8)
    ]
    assert bytes(lines) == FONT_8X8[ord("Q") * 8 : ord("Q") * 8 + 8]
    machine.int10(0x0200, dx=0x0203)
    assert machine.int10(0x0800)["ax"] & 0xFF == ord("Q")


@pytest.mark.parametrize("mode", GRAPHICS_MODES)
def test_teletype_scrolls_graphics_by_a_row_of_characters(machine: Machine, mode: int) -> None:
    machine.int10(mode)
    machine.int10(0x0C01, cx=8, dx=15)
    machine.int10(0x0200, dx=0x1800)
    machine.say("\n")
    assert [machine.int10(0x0D00, cx=8, dx=y)["ax"] & 0xFF for y in (7, 15)] == [1, 0]


def test_mode_13h_loads_256_colours(machine: Machine) -> None:
    machine.int10(0x13)
    dac = machine.vga.dac
    assert [tuple(dac[3 * n : 3 * n + 3]) for n in (0, 6, 15, 31, 32, 44, 104, 255)] == [
        (0, 0, 0), (42, 21, 0), (63, 63, 63), (63, 63, 63), (0, 0, 63), (63, 63, 0), (0, 0, 28), (0, 0, 0),
    ]  # fmt: skip


def test_text_mode_loads_the_ega_colours(machine: Machine) -> None:
    dac = machine.vga.dac
    assert [tuple(dac[3 * n : 3 * n + 3]) for n in (1, 0x14, 0x38, 0x3F)] == [
        (0, 0, 42), (42, 21, 0), (21, 21, 21), (63, 63, 63),
    ]  # fmt: skip


def test_palette_loading_can_be_turned_off(machine: Machine) -> None:
    assert machine.int10(0x1201, bx=0x31)["ax"] & 0xFF == 0x12
    machine.vga.dac[:] = bytes(768)
    machine.int10(0x13)
    assert machine.vga.dac == bytes(768)


def test_dac_registers_go_in_and_come_out(machine: Machine) -> None:
    machine.int10(0x1010, bx=0x20, cx=0x1122, dx=0x3300)
    after = machine.int10(0x1015, bx=0x20)
    assert (after["cx"], after["dx"] >> 8) == (0x1122, 0x33)
    machine.uc.mem_write(BUFFER, bytes(range(30)))
    machine.int10(0x1012, bx=0x40, cx=10, dx=BUFFER)
    machine.int10(0x1017, bx=0x42, cx=8, dx=BUFFER + 0x100)
    assert machine.uc.mem_read(BUFFER + 0x100, 24) == bytes(range(6, 30))


def test_grey_summing_weighs_red_green_and_blue(machine: Machine) -> None:
    machine.int10(0x1010, bx=5, cx=0x3F00, dx=0)
    machine.int10(0x101B, bx=5, cx=1)
    assert set(machine.vga.dac[15:18]) == {63 * 59 // 100}


def test_attribute_registers_go_in_and_come_out(machine: Machine) -> None:
    machine.int10(0x1000, bx=0x3A05)
    assert machine.int10(0x1007, bx=0x05)["bx"] == 0x3A05
    machine.int10(0x1001, bx=0x0400)
    assert machine.int10(0x1008)["bx"] == 0x0400
    machine.uc.mem_write(BUFFER, bytes(range(17, 34)))
    machine.int10(0x1002, dx=BUFFER)
    machine.int10(0x1009, dx=BUFFER + 0x100)
    assert machine.uc.mem_read(BUFFER + 0x100, 17) == bytes(range(17, 34))
    assert machine.vga.index[0x3C0] == 0x20


def test_blinking_can_be_traded_for_bright_backgrounds(machine: Machine) -> None:
    machine.int10(0x1003, bx=0)
    assert machine.vga.attribute[16] == 0x04
    machine.int10(0x1003, bx=1)
    assert machine.vga.attribute[16] == 0x0C


def test_colour_pages_are_selected_and_reported(machine: Machine) -> None:
    machine.int10(0x1013, bx=0x0100)
    machine.int10(0x1013, bx=0x0501)
    assert machine.int10(0x101A)["bx"] == 0x0501


def test_cga_palette_changes_the_colours_of_mode_4(machine: Machine) -> None:
    machine.int10(0x0004)
    machine.int10(0x0B00, bx=0x0100)
    assert [machine.vga.attribute[n] & 7 for n in (1, 2, 3)] == [2, 4, 6]
    machine.int10(0x0B00, bx=0x0101)
    assert [machine.vga.attribute[n] & 7 for n in (1, 2, 3)] == [3, 5, 7]
    machine.int10(0x0B00, bx=0x0009)
    assert (machine.vga.attribute[0], machine.vga.attribute[17]) == (0x11, 0x11)


FONTS = [
    pytest.param(0x02, 14, FONT_8X14, id="8x14"),
    pytest.param(0x03, 16, FONT_8X8, id="8x8"),
    pytest.param(0x04, 16, FONT_8X8[1024:], id="8x8_upper_half"),
    pytest.param(0x06, 16, FONT_8X16, id="8x16"),
    pytest.param(0x00, 16, FONT_8X8[1024:], id="int_1fh"),
    pytest.param(0x01, 16, FONT_8X16, id="int_43h"),
]


@pytest.mark.parametrize(("which", "_height", "font"), FONTS)
def test_font_information_points_at_the_glyphs(machine: Machine, which: int, _height: int, font: bytes) -> None:
    after = machine.int10(0x1130, bx=which << 8)
    assert machine.uc.mem_read(after["es"] * 16 + after["bp"], len(font)) == font
    assert (after["cx"], after["dx"]) == (16, 24)


def test_8x8_font_gives_fifty_rows(machine: Machine) -> None:
    machine.int10(0x1112)
    assert (machine.peek(0x484), machine.peek(0x485, 2), machine.peek(0x44C, 2)) == (49, 8, 0x2000)
    assert (machine.vga.crtc[9], machine.vga.crtc[0x12]) == (0x47, 0x8F)
    assert machine.uc.mem_read(0xA0000 + 65 * 32, 8) == FONT_8X8[65 * 8 : 66 * 8]
    machine.int10(0x0200, dx=0x3100)
    machine.say("last\r\n")
    assert (machine.text(48), machine.peek(0x450, 2)) == ("last", 0x3100)


def test_user_glyphs_go_to_their_characters(machine: Machine) -> None:
    machine.uc.mem_write(BUFFER, bytes(range(32)))
    machine.int10(0x1100, bx=0x1000, cx=2, dx=0x80, bp=BUFFER)
    assert machine.uc.mem_read(0xA0000 + 0x80 * 32, 64) == bytes(range(16)) + bytes(16) + bytes(range(16, 32)) + bytes(
        16
    )
    assert (machine.vga.graphics[6], machine.vga.sequencer[2], machine.vga.sequencer[4]) == (0x0E, 3, 2)


@pytest.mark.parametrize(("choice", "height", "parameters"), [(0, 8, 0xC7), (1, 14, 0x4D), (2, 16, 0x4F)])
def test_text_lines_are_chosen_for_the_next_mode(machine: Machine, choice: int, height: int, parameters: int) -> None:
    assert machine.int10(0x1200 | choice, bx=0x30)["ax"] == 0x1212
    machine.int10(0x0003)
    assert (machine.peek(0x485), machine.vga.crtc[9]) == (height, parameters)


def test_ega_information(machine: Machine) -> None:
    after = machine.int10(0x1200, bx=0xFF10)
    assert (after["bx"], after["cx"]) == (0x0003, 0x0F09)


def test_display_code_is_vga_with_colour_monitor(machine: Machine) -> None:
    after = machine.int10(0x1A00)
    assert (after["ax"] & 0xFF, after["bx"]) == (0x1A, 0x0008)


def test_functionality_table(machine: Machine) -> None:
    assert machine.int10(0x1B00, di=BUFFER)["ax"] & 0xFF == 0x1B
    table = bytes(machine.uc.mem_read(BUFFER, 64))
    static = int.from_bytes(table[:2], "little") + int.from_bytes(table[2:4], "little") * 16
    assert bytes(machine.uc.mem_read(static, 3)) == b"\xff\xe0\x0f"
    assert table[4:34] == machine.uc.mem_read(0x449, 30)
    assert table[34:43].hex() == "191000080010000802"
    assert table[0x31] == 3


def test_video_parameters_hang_on_the_save_pointer(machine: Machine) -> None:
    pointer = machine.peek(0x4A8, 2) + machine.peek(0x4AA, 2) * 16
    parameters = machine.peek(pointer, 2) + machine.peek(pointer + 2, 2) * 16
    assert bytes(machine.uc.mem_read(parameters + 28 * 64, 10)).hex() == "28180800200" + "10f000e63"


def test_state_is_saved_and_restored(machine: Machine) -> None:
    blocks = machine.int10(0x1C00, cx=7)["bx"]
    machine.int10(0x1010, bx=0x20, cx=0x1122, dx=0x3300)
    machine.int10(0x1000, bx=0x3A05)
    machine.uc.mem_write(BUFFER, b"\xa5" * (blocks * 64 + 16))
    assert machine.int10(0x1C01, cx=7, bx=BUFFER)["ax"] & 0xFF == 0x1C
    assert machine.uc.mem_read(BUFFER + blocks * 64, 16) == b"\xa5" * 16
    vga = machine.vga
    before = [dict(vga.crtc), dict(vga.attribute), dict(vga.graphics), dict(vga.sequencer), vga.misc, bytes(vga.dac)]
    data = bytes(machine.uc.mem_read(0x449, 30))
    machine.int10(0x0013)
    assert bytes(machine.uc.mem_read(0x449, 30)) != data
    machine.int10(0x1C02, cx=7, bx=BUFFER)
    assert [vga.crtc, vga.attribute, vga.graphics, vga.sequencer, vga.misc, vga.dac] == before
    assert bytes(machine.uc.mem_read(0x449, 30)) == data


@pytest.mark.parametrize("function", range(0x1D))
def test_no_service_touches_what_it_does_not_return(machine: Machine, function: int) -> None:
    kept = {"si": 0x1111, "di": BUFFER, "ds": 0x2222}
    after = machine.int10(function << 8 | 0x03, bx=0, cx=1, dx=1, **kept)
    assert {name: after[name] for name in kept} == kept
    assert after["eflags"] & 0x400, "the direction flag comes back"
