"""Pictures of the guest's screen: text, CGA graphics, 256 colours. Here, not in tests/, for `vga_modes`."""

from pathlib import Path

import pytest
from PIL import Image
from vga_modes import inb, outb, set_attribute, set_dac, set_indexed, set_mode

from vmm.devices.font import CP437, FONT_8X8, FONT_8X14, FONT_8X16
from vmm.devices.vga import MEMORY_SIZE, Vga
from vmm.screen import GraphicsScreen, TextScreen, capture

TEXT = 0x18000  # B8000h


@pytest.fixture
def vga() -> Vga:
    return Vga(lambda _: None)


@pytest.fixture
def vram() -> bytearray:
    return bytearray(MEMORY_SIZE)


def put(vram: bytearray, at: int, text: bytes, attribute: int = 0x07) -> None:
    vram[TEXT + at : TEXT + at + 2 * len(text)] = b"".join(bytes([code, attribute]) for code in text)


def text_screen(vga: Vga, vram: bytearray) -> TextScreen:
    screen = capture(vga, memoryview(vram))
    assert isinstance(screen, TextScreen)
    return screen


def graphics_screen(vga: Vga, vram: bytearray) -> GraphicsScreen:
    screen = capture(vga, memoryview(vram))
    assert isinstance(screen, GraphicsScreen)
    return screen


def dot(screen: GraphicsScreen, x: int, y: int) -> int:
    return screen.pixels[y * screen.width + x]


def test_text_is_read_in_unicode(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 3)
    put(vram, 0, b"\xc9\xcd\xbb \x01 Gr\x94\xe1e\x00\xff")
    put(vram, 24 * 160 + 2 * 77, b"end")
    lines = text_screen(vga, vram).lines()
    assert lines == ["╔═╗ ☺ Größe", *[""] * 23, " " * 77 + "end"]


def test_text_has_no_blank_rows_at_its_end(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 3)
    put(vram, 160, b"boot:   ")
    assert text_screen(vga, vram).text() == "\nboot:"


def test_start_address_scrolls_and_wraps_in_the_window(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 3)
    put(vram, 0, b"top")
    put(vram, 0x8000 - 160, b"last row of memory")
    start = 0x4000 - 80
    set_indexed(vga, 0x3D4, 0x0C, start >> 8)
    set_indexed(vga, 0x3D4, 0x0D, start & 0xFF)
    assert text_screen(vga, vram).lines()[:2] == ["last row of memory", "top"]


def test_40_columns(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 1)
    put(vram, 80, b"second row")
    screen = text_screen(vga, vram)
    assert (screen.columns, screen.rows, screen.lines()[1]) == (40, 25, "second row")


def test_characters_of_8_lines_make_50_rows(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 3)
    set_indexed(vga, 0x3D4, 9, 0x47)
    put(vram, 49 * 160, b"row 49")
    screen = text_screen(vga, vram)
    assert (screen.rows, screen.cell_height, screen.lines()[49]) == (50, 8, "row 49")


def test_monochrome_text_lies_at_b0000(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 3)
    set_indexed(vga, 0x3CE, 6, 0x0A)
    vram[0x10000] = ord("m")
    assert text_screen(vga, vram).text() == "m"


def test_a_machine_that_has_not_set_a_mode_shows_a_dark_80x25_screen(vga: Vga, vram: bytearray) -> None:
    screen = text_screen(vga, vram)
    assert (screen.columns, screen.rows, screen.blanked, screen.cursor.visible) == (80, 25, True, False)


@pytest.mark.parametrize(
    ("address", "first", "last", "where"),
    [
        pytest.param(0, 0x0D, 0x0E, (0, 0, True), id="home"),
        pytest.param(24 * 80 + 79, 0x0D, 0x0E, (79, 24, True), id="last_cell"),
        pytest.param(25 * 80, 0x0D, 0x0E, (0, 25, False), id="below_the_screen"),
        pytest.param(5, 0x2D, 0x0E, (5, 0, False), id="switched_off"),
        pytest.param(5, 0x0E, 0x0D, (5, 0, False), id="start_after_end"),
        pytest.param(5, 0x10, 0x1F, (5, 0, False), id="below_the_cell"),
    ],
)
def test_cursor(vga: Vga, vram: bytearray, address: int, first: int, last: int, where: tuple[int, int, bool]) -> None:
    set_mode(vga, 3)
    for index, value in ((0x0E, address >> 8), (0x0F, address & 0xFF), (0x0A, first), (0x0B, last)):
        set_indexed(vga, 0x3D4, index, value)
    cursor = text_screen(vga, vram).cursor
    assert (cursor.x, cursor.y, cursor.visible) == where


def test_cursor_is_counted_from_the_start_address(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 3)
    set_indexed(vga, 0x3D4, 0x0D, 80)
    set_indexed(vga, 0x3D4, 0x0F, 83)
    cursor = text_screen(vga, vram).cursor
    assert (cursor.x, cursor.y) == (3, 0)


def test_blink_bit_takes_a_background_bit(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 3)
    assert text_screen(vga, vram).colours(0x9F) == (15, 1)
    set_attribute(vga, 0x10, 0x04)
    assert text_screen(vga, vram).colours(0x9F) == (15, 9)


def test_mode_13h_is_a_byte_a_dot(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 0x13)
    vram[0] = 1
    vram[199 * 320 + 319] = 200
    set_dac(vga, 200, (63, 0, 32))
    screen = graphics_screen(vga, vram)
    assert (screen.width, screen.height) == (320, 200)
    assert (dot(screen, 0, 0), dot(screen, 319, 199), sum(screen.pixels)) == (1, 200, 201)
    assert screen.palette[200] == (255, 0, 130)


def test_mode_4_interleaves_rows_and_packs_four_dots(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 4)
    vram[TEXT] = 0b11_10_01_00
    vram[TEXT + 0x2000] = 0b01_00_00_00
    vram[TEXT + 80] = 0b10_00_00_00
    screen = graphics_screen(vga, vram)
    assert [dot(screen, x, 0) for x in range(5)] == [3, 2, 1, 0, 0]
    assert [dot(screen, 0, y) for y in range(3)] == [3, 1, 2]
    assert screen.palette[1] == vga.regs.colour(0x13)


def test_mode_6_packs_eight_dots(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 6)
    vram[TEXT + 79] = 0x01
    vram[TEXT + 0x2000 + 99 * 80] = 0x80
    screen = graphics_screen(vga, vram)
    assert (screen.width, screen.height, sum(screen.pixels)) == (640, 200, 2)
    assert dot(screen, 639, 0) == dot(screen, 0, 199) == 1
    assert screen.palette[1] == vga.regs.colour(0x17)


def test_a_planar_mode_shows_its_memory_bit_by_bit(vga: Vga, vram: bytearray) -> None:
    set_mode(vga, 0x12)
    vram[479 * 80 + 79] = 0x01
    screen = graphics_screen(vga, vram)
    assert (screen.width, screen.height, dot(screen, 639, 479), sum(screen.pixels)) == (640, 480, 15, 15)


@pytest.mark.parametrize("fill", [0x00, 0x55, 0xAA, 0xFF])
@pytest.mark.parametrize("graphics", range(16))
def test_registers_without_sense_still_give_a_picture(
    vga: Vga, vram: bytearray, tmp_path: Path, fill: int, graphics: int
) -> None:
    outb(vga, 0x3C2, 0x67)
    for index in range(0x18, -1, -1):
        set_indexed(vga, 0x3D4, index, fill)
    set_indexed(vga, 0x3CE, 6, graphics)
    set_indexed(vga, 0x3CE, 5, fill)
    screen = capture(vga, memoryview(vram))
    screen.save_png(tmp_path / "screen.png")
    screen.save_text(tmp_path / "screen.txt")
    assert inb(vga, 0x3DA) != 0xFF


def test_png_of_text_shows_glyphs_in_their_colours(vga: Vga, vram: bytearray, tmp_path: Path) -> None:
    set_mode(vga, 3)
    set_indexed(vga, 0x3D4, 0x0A, 0x20)
    put(vram, 0, b"A\xc4\xc4", 0x1E)
    text_screen(vga, vram).save_png(tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as image:
        picture = image.convert("RGB")
    assert picture.size == (720, 400)
    ink, paper = vga.regs.attribute_colour(14), vga.regs.attribute_colour(1)
    for y in range(16):
        bits = FONT_8X16[16 * ord("A") + y]
        assert [picture.getpixel((x, y)) for x in range(9)] == [
            ink if x < 8 and bits & 0x80 >> x else paper for x in range(9)
        ]
    assert all(picture.getpixel((x, 7)) == ink for x in range(9, 27))  # the ninth dot joins frames


def test_png_shows_the_cursor(vga: Vga, vram: bytearray, tmp_path: Path) -> None:
    set_mode(vga, 3)
    put(vram, 0, b" ", 0x07)
    text_screen(vga, vram).save_png(tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as image:
        picture = image.convert("RGB")
    ink = vga.regs.attribute_colour(7)
    assert [y for y in range(16) if picture.getpixel((0, y)) == ink] == [0x0D, 0x0E]


def test_png_of_a_dark_screen_is_black(vga: Vga, vram: bytearray, tmp_path: Path) -> None:
    set_mode(vga, 0x13)
    vram[:64000] = bytes([77]) * 64000
    inb(vga, 0x3DA)
    outb(vga, 0x3C0, 0)
    graphics_screen(vga, vram).save_png(tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as image:
        assert image.convert("RGB").getcolors() == [(64000, (0, 0, 0))]


def test_png_of_graphics_is_dot_for_dot(vga: Vga, vram: bytearray, tmp_path: Path) -> None:
    set_mode(vga, 0x13)
    vram[:256] = bytes(range(256))
    screen = graphics_screen(vga, vram)
    screen.save_png(tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as image:
        picture = image.convert("RGB")
    assert [picture.getpixel((x, 0)) for x in range(256)] == list(screen.palette)


def test_text_file_has_the_rows(vga: Vga, vram: bytearray, tmp_path: Path) -> None:
    set_mode(vga, 3)
    put(vram, 0, b"caf\x82")
    text_screen(vga, vram).save_text(tmp_path / "screen.txt")
    assert (tmp_path / "screen.txt").read_text("utf-8") == "café\n"


def test_text_file_of_graphics_is_a_note_and_a_coarse_picture(vga: Vga, vram: bytearray, tmp_path: Path) -> None:
    set_mode(vga, 0x13)
    set_dac(vga, 0, (0, 0, 0), (63, 63, 63))
    for y in range(200):
        vram[y * 320 : y * 320 + 160] = bytes([1]) * 160
    graphics_screen(vga, vram).save_text(tmp_path / "screen.txt")
    assert (tmp_path / "screen.txt").read_text("utf-8").splitlines() == ["[graphics, 320x200]", *["@" * 40] * 25]


@pytest.mark.parametrize(("font", "height"), [(FONT_8X16, 16), (FONT_8X14, 14), (FONT_8X8, 8)])
def test_font_has_256_glyphs_that_differ(font: bytes, height: int) -> None:
    glyphs = [font[at : at + height] for at in range(0, len(font), height)]
    assert len(glyphs) == 256 == len(CP437)
    blank = [code for code, glyph in enumerate(glyphs) if not any(glyph)]
    assert blank == [0x00, 0x20, 0xFF]
    inked = [glyph for code, glyph in enumerate(glyphs) if code not in blank]
    assert len(set(inked)) == len(inked)


@pytest.mark.parametrize(("font", "height"), [(FONT_8X16, 16), (FONT_8X14, 14), (FONT_8X8, 8)])
def test_frames_meet_at_the_edges_of_their_cells(font: bytes, height: int) -> None:
    def glyph(character: str) -> bytes:
        at = height * CP437.index(character)
        return font[at : at + height]

    for upright, tops, bottoms in (("│", "└┴┘┤├┼╡╞╪╘╧╛", "┌┬┐┤├┼╡╞╪╒╤╕"), ("║", "╚╩╝╣╠╬╢╟╫╙╨╜", "╔╦╗╣╠╬╢╟╫╓╥╖")):
        assert {glyph(c)[0] for c in tops} == {glyph(upright)[0]}
        assert {glyph(c)[-1] for c in bottoms} == {glyph(upright)[0]}
    for flat, lefts, rights in (("─", "┐┤┘┬┴┼╖╢╜╥╨╫", "┌├└┬┴┼╓╟╙╥╨╫"), ("═", "╗╣╝╦╩╬╕╡╛╤╧╪", "╔╠╚╦╩╬╒╞╘╤╧╪")):
        for characters, column in ((lefts, 0x80), (rights, 0x01)):
            edges = {tuple(bool(row & column) for row in glyph(c)) for c in characters}
            assert edges == {tuple(bool(row & column) for row in glyph(flat))}
