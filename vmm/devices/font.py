"""The character generator: code page 437 in cells of 8x16, 8x14 and 8x8 dots, drawn for this project.

The letter shapes stand as pictures in `font_drawings.py`. The rest follows from rules: an accented letter is a letter
(a capital with rows taken out) and a mark, frames are lines that meet in the middle of the cell, shades are patterns.
The cell of 16 rows is the one of 14 with a blank row above and below, except for what has to touch its neighbours.

Source for the repertoire and its order: IBM code page 437, with the graphic forms of 00h-1Fh and 7Fh.
"""

from collections.abc import Callable, Mapping
from typing import Final

from vmm.devices.font_drawings import LOW_SHEET, TALL_SHEET

# ruff: noqa: RUF001 -- code page 437 has characters that look alike

Rows = list[int]
"""A glyph, one 8-bit integer a row, bit 7 leftmost."""

_CONTROLS: Final = "\0☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
CP437: Final = _CONTROLS + bytes(range(0x20, 0x7F)).decode("ascii") + "⌂" + bytes(range(0x80, 0x100)).decode("cp437")
"""What each of the 256 codes shows, as Unicode."""

_CELL_WIDTH: Final = 8
_FULL_ROW: Final = 0xFF

# Lines of a frame: which arms (up, down, left, right) leave the middle and whether each is single (1) or double (2).
_FRAMES: Final[Mapping[str, str]] = {
    "│": "1100", "┤": "1110", "╡": "1120", "╢": "2210", "╖": "0210", "╕": "0120", "╣": "2220", "║": "2200",
    "╗": "0220", "╝": "2020", "╜": "2010", "╛": "1020", "┐": "0110", "└": "1001", "┴": "1011", "┬": "0111",
    "├": "1101", "─": "0011", "┼": "1111", "╞": "1102", "╟": "2201", "╚": "2002", "╔": "0202", "╩": "2022",
    "╦": "0222", "╠": "2202", "═": "0022", "╬": "2222", "╧": "1022", "╨": "2011", "╤": "0122", "╥": "0211",
    "╙": "2001", "╘": "1002", "╒": "0102", "╓": "0201", "╫": "2211", "╪": "1122", "┘": "1010", "┌": "0101",
}  # fmt: skip

# What each accented letter is made of: the letter and the mark.
_ACCENTED: Final[Mapping[str, str]] = {
    "é": "e´", "á": "a´", "í": "i´", "ó": "o´", "ú": "u´", "É": "E´",
    "à": "a`", "è": "e`", "ì": "i`", "ò": "o`", "ù": "u`",
    "â": "a^", "ê": "e^", "î": "i^", "ô": "o^", "û": "u^",
    "ü": "u¨", "ä": "a¨", "ë": "e¨", "ï": "i¨", "ö": "o¨", "ÿ": "y¨", "Ä": "A‥", "Ö": "O‥", "Ü": "U‥",
    "ñ": "n~", "Ñ": "N~", "å": "a°", "Å": "A°", "ç": "c¸", "Ç": "C¸",
}  # fmt: skip

_TALL_MARKS: Final[Mapping[str, str]] = {
    "´": "....##.. ...##... ..##....",
    "`": "..##.... ...##... ....##..",
    "^": "........ ..###... .##.##..",
    "¨": "........ .##.##.. .##.##..",
    "‥": "........ .##.##.. .##.##..",
    "~": "........ .###.##. ##.###..",
    "°": "..###... .##.##.. ..###...",
    "¸": "...##... ....##.. ..###...",
}
_LOW_MARKS: Final[Mapping[str, str]] = {
    "´": "...###..",
    "`": ".###....",
    "^": "..###... .#...#..",
    "¨": ".##.##..",
    "‥": "##...##.",  # apart, or a low Ö would be an ö
    "~": ".##.##.. #..##...",
    "°": "..###... ..#.#...",
    "¸": "..###...",
}


def _row(picture: str) -> int:
    return int(picture.ljust(_CELL_WIDTH, ".").replace("#", "1").replace(".", "0"), 2)


def _pictures(sheet: str, height: int) -> dict[str, Rows]:
    """The drawn glyphs of a sheet by character."""
    glyphs: dict[str, Rows] = {}
    for band in sheet.strip("\n").split("\n\n"):
        characters, *rows = band.split("\n")
        if len(rows) != height:
            raise ValueError(f"the band of {characters!r} has {len(rows)} rows, not {height}")
        for x in range(0, len(rows[0]), _CELL_WIDTH + 1):
            glyphs[characters[x]] = [_row(row[x : x + _CELL_WIDTH]) for row in rows]
    return glyphs


def _squeezed(rows: Rows, count: int) -> Rows:
    """The inked rows cut down to `count`: repeated rows go first, then the middle one."""
    inked = [row for row in rows if row]
    while len(inked) > count:
        del inked[next((i for i in range(1, len(inked)) if inked[i] == inked[i - 1]), len(inked) // 2)]
    return inked


def _accented(letter: Rows, mark: str, marks: Mapping[str, str], baseline: int) -> Rows:
    """A letter under its mark, or over it if the mark is a cedilla. `baseline` is the row below the letter's feet."""
    ink = [_row(picture) for picture in marks[mark].split()]
    if mark == "¸":
        return letter[:baseline] + ink + letter[baseline + len(ink) :]
    top = next(y for y in range(baseline - 1, -2, -1) if y < 0 or not letter[y]) + 1  # an i loses its dot
    if top > 1:
        return ink + [0] * (top - len(ink)) + letter[top:]
    ink = [row for row in ink if row][: 2 if baseline > 8 or mark == "°" else 1]
    if mark != "°":  # the top of a capital closes the ring; other marks keep off it
        ink.append(0)
    return ink + _squeezed(letter[:baseline], baseline - len(ink)) + letter[baseline:]


def _bits(first: int, last: int) -> int:
    """A row with ink in columns `first` to `last`, both included."""
    return sum(0x80 >> x for x in range(first, last + 1))


_UPRIGHT: Final[Mapping[int, tuple[int, ...]]] = {0: (), 1: (0x18,), 2: (0x60, 0x06)}
"""Columns of the lines of an upright arm, by weight."""
_FLAT: Final[Mapping[int, tuple[int, ...]]] = {0: (), 1: (0,), 2: (-1, 1)}
"""Rows of the lines of a flat arm, counted from the middle of the cell."""


def _ends(weight: int, around: tuple[int, int, int], near: tuple[int, int], far: tuple[int, int]) -> list[int]:
    """Where the lines of an arm end: none, one, or two for a double arm.

    `around` are the weights of the arm opposite and of the arms at the two sides. `near` and `far` are where this arm
    meets the nearer and the farther edge of a crossing arm, by that arm's weight - 1.
    """
    opposite, low, high = around
    if weight == 0:
        return []
    if weight == 1:
        if opposite:
            return [near[0]]
        return [near[low - 1] if low and high else far[max(low, high) - 1]]
    ends = []
    for beside, across in ((low, high), (high, low)):  # each line bends into the arm beside it and is open to it
        if beside:
            ends.append(near[beside - 1])
        else:
            ends.append(near[0] if opposite else far[across - 1])
    return ends


def _frame(arms: str, height: int) -> Rows:
    """A frame character; double lines run one row, or two columns, off the middle on both sides."""
    up, down, left, right = map(int, arms)
    middle = height // 2 - 1
    above, below = (middle, middle - 1), (middle, middle + 1)
    rows = [0] * height
    for columns, end in zip(_UPRIGHT[up], _ends(up, (down, left, right), above, below), strict=True):
        rows[: end + 1] = [row | columns for row in rows[: end + 1]]
    for columns, end in zip(_UPRIGHT[down], _ends(down, (up, left, right), below, above), strict=True):
        rows[end:] = [row | columns for row in rows[end:]]
    for y, end in zip(_FLAT[left], _ends(left, (right, up, down), (4, 2), (4, 6)), strict=True):
        rows[middle + y] |= _bits(0, end)
    for y, end in zip(_FLAT[right], _ends(right, (left, up, down), (3, 5), (3, 1)), strict=True):
        rows[middle + y] |= _bits(end, _CELL_WIDTH - 1)
    return rows


def _blocks(height: int) -> dict[str, Rows]:
    """Shades, halves and what else runs to the edge of the cell."""
    half = height // 2
    stem, hook = _row("...##..."), [_row("....###."), _row("...##.##")]
    margin = [0] * (height // 8)
    top_integral = margin + hook + [stem] * (height - len(margin) - 2)
    return {
        "░": [0x22, 0x88] * half,
        "▒": [0x55, 0xAA] * half,
        "▓": [0xDD, 0x77] * half,
        "█": [_FULL_ROW] * height,
        "▄": [0] * half + [_FULL_ROW] * half,
        "▀": [_FULL_ROW] * half + [0] * half,
        "▌": [_bits(0, 3)] * height,
        "▐": [_bits(4, 7)] * height,
        "⌠": top_integral,
        "⌡": [int(f"{row:08b}"[::-1], 2) for row in reversed(top_integral)],
        " ": [0] * height,
        "\0": [0] * height,
        "\xa0": [0] * height,
    }


def _font(glyphs: dict[str, Rows], height: int, accent: Callable[[Rows, str], Rows]) -> bytes:
    """All 256 glyphs in code order, `height` bytes each."""
    pad = [0] * ((height - len(glyphs["A"])) // 2)
    letters = glyphs | {c: accent(glyphs[made[0]], made[1]) for c, made in _ACCENTED.items()}
    cells = {c: pad + rows + pad for c, rows in letters.items()}
    cells |= {c: _frame(arms, height) for c, arms in _FRAMES.items()} | _blocks(height)
    for dark, light in (("◘", "•"), ("◙", "○")):
        cells[dark] = [row ^ _FULL_ROW for row in cells[light]]
    return b"".join(bytes(cells[c]) for c in CP437)


_TALL: Final = _pictures(TALL_SHEET, 14)
_LOW: Final = _pictures(LOW_SHEET, 8)


def _tall_accent(letter: Rows, mark: str) -> Rows:
    return _accented(letter, mark, _TALL_MARKS, baseline=11)


def _low_accent(letter: Rows, mark: str) -> Rows:
    return _accented(letter, mark, _LOW_MARKS, baseline=7)


FONT_8X16: Final = _font(_TALL, 16, _tall_accent)
FONT_8X14: Final = _font(_TALL, 14, _tall_accent)
FONT_8X8: Final = _font(_LOW, 8, _low_accent)
