"""What the guest's monitor shows at one moment: a frozen picture of characters or of dots.

`capture` reads the registers of the VGA and the memory at A0000h-BFFFFh; nothing here writes to either. Planar modes
are not modelled: their picture is drawn from plain memory, one bit a dot, and the VGA has reported them.
"""

from codecs import charmap_decode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vmm.devices.font import CP437, FONT_8X8, FONT_8X14, FONT_8X16
from vmm.devices.vga import Vga
from vmm.devices.vga_mode import Kind, VideoMode, cursor_shape, video_mode
from vmm.devices.vga_registers import Attr, AttrMode, Rgb

if TYPE_CHECKING:
    from PIL.Image import Image

BLACK: Final[Rgb] = (0, 0, 0)
_DISPLAYED: Final = CP437.replace("\0", " ").replace("\xa0", " ")

# What a text screen may measure; outside of it the registers are not set up yet and the usual screen is shown.
_TEXT_COLUMNS: Final = range(20, 161)
_TEXT_ROWS: Final = range(5, 101)
_USUAL_COLUMNS: Final = 80
_USUAL_ROWS: Final = 25
_USUAL_CELL_HEIGHT: Final = 16
_CGA_BANK: Final = 0x2000

_LINE_GRAPHICS: Final = range(0xC0, 0xE0)
_SHADES: Final = " .:-=+*#%@"
_COARSE_COLUMNS: Final = 80
_COARSE_ROWS: Final = 25


@dataclass(frozen=True, slots=True)
class Cursor:
    """Column and row from 0, the scan lines that light up, and whether it is on the screen at all."""

    x: int
    y: int
    first_line: int
    last_line: int
    visible: bool


@dataclass(frozen=True, slots=True)
class TextScreen:
    """A screen of characters. `cells` holds code and attribute of each, row by row.

    `palette` has the colours of the 16 attribute values. With `blink`, bit 7 of an attribute makes the character blink
    and backgrounds have 8 colours; without, they have 16. `blanked` says that the monitor is dark all the same.
    """

    columns: int
    rows: int
    cells: bytes
    cursor: Cursor
    palette: tuple[Rgb, ...]
    blink: bool
    cell_width: int = 9
    cell_height: int = 16
    line_graphics: bool = True
    blanked: bool = False

    def lines(self) -> list[str]:
        """The characters as Unicode, a string a row, without trailing blanks."""
        text, _ = charmap_decode(self.cells[::2], "strict", _DISPLAYED)
        return [text[at : at + self.columns].rstrip() for at in range(0, len(text), self.columns)]

    def text(self) -> str:
        """All rows in one string, without trailing blank rows."""
        return "\n".join(self.lines()).rstrip()

    def colours(self, attribute: int) -> tuple[int, int]:
        """Foreground and background of an attribute, as indexes into the palette."""
        background = attribute >> 4
        return attribute & 0x0F, background & 0x07 if self.blink else background

    def save_text(self, path: Path) -> None:
        """Write the characters as UTF-8."""
        path.write_text(self.text() + "\n", encoding="utf-8")

    def save_png(self, path: Path) -> None:
        """Write a picture in the built-in font, dot for dot."""
        width, height = self.columns * self.cell_width, self.rows * self.cell_height
        palette = (BLACK,) * len(self.palette) if self.blanked else self.palette
        _image(width, height, self._dots(), palette).save(path, "PNG")

    def _dots(self) -> bytes:
        """The picture, a palette index a byte."""
        font, font_height = _font(self.cell_height)
        strips: dict[tuple[int, int, bool], bytes] = {}
        picture = []
        for row in range(self.rows):
            at = 2 * row * self.columns
            codes = self.cells[at : at + 2 * self.columns : 2]
            attributes = self.cells[at + 1 : at + 2 * self.columns : 2]
            for y in range(self.cell_height):
                line = []
                for x, (code, attribute) in enumerate(zip(codes, attributes, strict=True)):
                    bits = font[code * font_height + y] if y < font_height else 0
                    if self._is_cursor(x, row, y):
                        bits = 0xFF
                    key = (bits, attribute, self.line_graphics and code in _LINE_GRAPHICS)
                    if key not in strips:
                        strips[key] = self._strip(*key)
                    line.append(strips[key])
                picture.append(b"".join(line))
        return b"".join(picture)

    def _is_cursor(self, x: int, row: int, y: int) -> bool:
        cursor = self.cursor
        return cursor.visible and cursor.x == x and cursor.y == row and cursor.first_line <= y <= cursor.last_line

    def _strip(self, bits: int, attribute: int, repeats: bool) -> bytes:
        """One scan line of one character. The ninth dot is background, or repeats the eighth to join frames."""
        foreground, background = self.colours(attribute)
        dots = [foreground if bits & 0x80 >> x else background for x in range(8)]
        ninth = dots[-1] if repeats else background
        return bytes([*dots, ninth][: self.cell_width])


@dataclass(frozen=True, slots=True)
class GraphicsScreen:
    """A screen of dots. `pixels` has an index into the 256 colours of `palette` for each, row by row."""

    width: int
    height: int
    pixels: bytes
    palette: tuple[Rgb, ...]
    blanked: bool = False

    def lines(self) -> list[str]:
        """No characters: nothing to read."""
        return []

    def text(self) -> str:
        """No characters: nothing to read."""
        return ""

    def save_text(self, path: Path) -> None:
        """Write a note and a coarse picture: bright dots as heavy characters."""
        note = f"[graphics, {self.width}x{self.height}]"
        path.write_text("\n".join([note, *self._coarse()]) + "\n", encoding="utf-8")

    def save_png(self, path: Path) -> None:
        """Write the picture, dot for dot."""
        palette = (BLACK,) * len(self.palette) if self.blanked else self.palette
        _image(self.width, self.height, self.pixels, palette).save(path, "PNG")

    def _coarse(self) -> list[str]:
        """The brightness at the middle of each of 80x25 fields."""
        top = len(_SHADES) - 1
        shades = [_SHADES[(299 * r + 587 * g + 114 * b) * top // 255_000] for r, g, b in self.palette]
        columns = [(2 * x + 1) * self.width // (2 * _COARSE_COLUMNS) for x in range(_COARSE_COLUMNS)]
        rows = [(2 * y + 1) * self.height // (2 * _COARSE_ROWS) for y in range(_COARSE_ROWS)]
        return ["".join(shades[self.pixels[y * self.width + x]] for x in columns).rstrip() for y in rows]


Screen = TextScreen | GraphicsScreen


def capture(vga: Vga, vram: memoryview) -> Screen:
    """The screen as it is now. `vram` is A0000h-BFFFFh, 128 KiB."""
    mode = video_mode(vga.regs)
    return _capture_text(vga, vram, mode) if mode.kind is Kind.TEXT else _capture_graphics(vga, vram, mode)


def _rows(vram: memoryview, mode: VideoMode, height: int, row_bytes: int, stride: int) -> list[bytes]:
    """`height` rows of the picture; addresses wrap at the end of the window."""
    first, length = mode.window
    window = bytes(vram[first : first + length])
    start = mode.start % length
    needed = start + (height - 1) * stride + row_bytes
    window *= -(-needed // length)
    return [window[at : at + row_bytes] for at in range(start, start + height * stride, stride)]


def _capture_text(vga: Vga, vram: memoryview, mode: VideoMode) -> TextScreen:
    regs = vga.regs
    is_set_up = mode.width in _TEXT_COLUMNS and mode.height in _TEXT_ROWS and mode.stride
    columns, rows = (mode.width, mode.height) if is_set_up else (_USUAL_COLUMNS, _USUAL_ROWS)
    stride = mode.stride if is_set_up else 2 * _USUAL_COLUMNS
    cell_height = mode.cell_height if is_set_up else _USUAL_CELL_HEIGHT
    shape = cursor_shape(regs)
    y, x = divmod(shape.address - mode.start // 2, stride // 2)
    has_lines = shape.enabled and shape.first_line <= shape.last_line and shape.first_line < cell_height
    blanked = regs.is_blanked()
    visible = has_lines and not blanked and 0 <= y < rows and x < columns
    attribute_mode = regs.attribute[Attr.MODE]
    return TextScreen(
        columns=columns,
        rows=rows,
        cells=b"".join(_rows(vram, mode, rows, 2 * columns, stride)),
        cursor=Cursor(x, y, shape.first_line, shape.last_line, visible),
        palette=tuple(regs.attribute_colour(value) for value in range(16)),
        blink=bool(attribute_mode & int(AttrMode.BLINK)),
        cell_width=mode.cell_width,
        cell_height=cell_height,
        line_graphics=bool(attribute_mode & int(AttrMode.LINE_GRAPHICS)),
        blanked=blanked,
    )


def _capture_graphics(vga: Vga, vram: memoryview, mode: VideoMode) -> GraphicsScreen:
    regs = vga.regs
    if mode.kind in (Kind.COLOURS_256, Kind.UNCHAINED):
        palette = tuple(regs.colour(entry) for entry in range(256))
    else:
        palette = tuple(regs.attribute_colour(value) for value in range(16)) + (BLACK,) * 240
    rows = _DOT_READERS[mode.kind](vram, mode)
    return GraphicsScreen(mode.width, mode.height, b"".join(rows), palette, regs.is_blanked())


def _unpack(bits: int, colour: int) -> list[bytes]:
    """What each byte of memory becomes: `bits` a dot, leftmost in the high bits; `colour` is that of a single bit."""
    mask = (1 << bits) - 1
    values = [value if bits > 1 else value * colour for value in range(1 << bits)]
    return [bytes(values[byte >> shift & mask] for shift in range(8 - bits, -1, -bits)) for byte in range(256)]


_TWO_BITS: Final = _unpack(2, colour=1)
_ONE_BIT: Final = _unpack(1, colour=1)
_ONE_BIT_WHITE: Final = _unpack(1, colour=15)


def _byte_dots(vram: memoryview, mode: VideoMode) -> list[bytes]:
    return _rows(vram, mode, mode.height, mode.width, mode.stride or mode.width)


def _white_dots(vram: memoryview, mode: VideoMode) -> list[bytes]:
    row_bytes = mode.width // 8
    rows = _rows(vram, mode, mode.height, row_bytes, mode.stride or row_bytes)
    return [b"".join(map(_ONE_BIT_WHITE.__getitem__, row)) for row in rows]


def _cga_dots(vram: memoryview, mode: VideoMode) -> list[bytes]:
    """Even rows lie in the first 8 KiB, odd ones in the second."""
    table = _TWO_BITS if mode.kind is Kind.CGA_4 else _ONE_BIT
    row_bytes = mode.width // len(table[0])
    first, length = mode.window
    window = vram[first : first + length]
    dots = []
    for y in range(mode.height):
        bank = _CGA_BANK * (y & 1)
        at = (mode.start + (y >> 1) * mode.stride) % _CGA_BANK
        row = bytes(window[bank + at : bank + at + row_bytes]).ljust(row_bytes, b"\0")
        dots.append(b"".join(map(table.__getitem__, row)))
    return dots


_DOT_READERS: Final = {
    Kind.COLOURS_256: _byte_dots,
    Kind.UNCHAINED: _byte_dots,
    Kind.PLANAR: _white_dots,
    Kind.CGA_4: _cga_dots,
    Kind.CGA_2: _cga_dots,
}


def _font(cell_height: int) -> tuple[bytes, int]:
    """The font that fits into cells of this height, and its own height."""
    if cell_height >= 16:
        return FONT_8X16, 16
    return (FONT_8X14, 14) if cell_height >= 14 else (FONT_8X8, 8)


def _image(width: int, height: int, dots: bytes, palette: tuple[Rgb, ...]) -> "Image":
    from PIL import Image  # here, because loading it takes longer than the BIOS takes to its first character

    image = Image.frombytes("P", (width, height), dots)
    image.putpalette([channel for colour in palette for channel in colour])
    return image
