"""`--display text`: the guest's screen, live in the terminal.

Theory of operation. A screen becomes a `Frame`: rows of two-byte cells that are either a character and its attribute,
or two dots above each other in half a block. `Canvas` knows what the terminal shows and writes the part of each row
that differs, so that a quiet screen costs nothing and a scrolling one a few kilobytes. Drawing never takes more than a
quarter of the time. The terminal's alternate screen is used, so that what was there before comes back.
Source: ECMA-48, "SGR", "CUP", "ED"; XTerm Control Sequences, "DEC Private Mode Set", "Set cursor style (DECSCUSR)".
"""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final

from rich.color import Color
from rich.color import ColorSystem as System
from rich.console import Console

from vmm.cli.guest import KEY_GAP_NS, PASTE_GAP_NS, Guest, Typist
from vmm.cli.terminal import Input, KeyDecoder, Output
from vmm.devices.font import CP437
from vmm.devices.vga_registers import Rgb
from vmm.outcome import Interrupted, Outcome
from vmm.screen import GraphicsScreen, Screen, TextScreen

FRAME_S: Final = 1 / 30
DRAW_SHARE: Final = 3  # after drawing for t seconds, draw nothing for 3 t
BY_HAND: Final = 8  # more keys than this at once are a paste
NO_TERMINAL: Final = os.terminal_size((80, 25))
STATUS: Final = " glassvisor | Ctrl-] leaves, Ctrl-C ends "
UPPER_HALF: Final = "\N{UPPER HALF BLOCK}"

ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[0m\x1b[2J"
LEAVE: Final = "\x1b[0m\x1b[?25h\x1b[?1049l"
_BLOCK, _UNDERLINE, _USUAL_SHAPE = "\x1b[1 q", "\x1b[3 q", "\x1b[0 q"  # VGA's cursor blinks
_SHAPELESS: Final = ("linux", "dumb", "")  # terminals of which some print the end of the sequence
_GLYPHS: Final = CP437.replace("\0", " ").replace("\xa0", " ")
_SYSTEMS: Final = {"standard": System.STANDARD, "256": System.EIGHT_BIT, "truecolor": System.TRUECOLOR}
_BLINK: Final = 0x80


@dataclass(frozen=True, slots=True)
class Look:
    """How the cells of a frame are to be read: characters or pairs of dots, and in which colours."""

    is_text: bool
    palette: tuple[Rgb, ...]
    blink: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """What a terminal should show: two bytes a cell, where the cursor stands if it shows, and whether it is a block."""

    look: Look
    rows: list[bytes]
    cursor: tuple[int, int] | None = None
    has_block: bool = False


def frame_of(screen: Screen, size: os.terminal_size) -> Frame:
    """The part of a screen that fits into a terminal, or a smaller picture of it."""
    return _text_frame(screen, size) if isinstance(screen, TextScreen) else _dot_frame(screen, size)


def _text_frame(screen: TextScreen, size: os.terminal_size) -> Frame:
    """On a low terminal the rows down to the cursor; on a narrow one the left columns."""
    look = Look(True, screen.palette, screen.blink)
    if screen.blanked:
        return Frame(look, [])
    columns, count = min(screen.columns, size.columns), min(screen.rows, size.lines)
    cursor = screen.cursor
    top = max(0, min(cursor.y - count + 1, screen.rows - count)) if cursor.visible else 0
    starts = range(2 * top * screen.columns, 2 * (top + count) * screen.columns, 2 * screen.columns)
    is_shown = cursor.visible and cursor.x < columns
    at = (cursor.x, cursor.y - top) if is_shown else None
    has_block = 2 * (cursor.last_line - cursor.first_line + 1) > screen.cell_height
    return Frame(look, [screen.cells[start : start + 2 * columns] for start in starts], at, has_block)


def _dot_frame(screen: GraphicsScreen, size: os.terminal_size) -> Frame:
    """The nearest dots on a 4:3 picture; half a character cell is about square."""
    look = Look(False, screen.palette)
    if screen.blanked:
        return Frame(look, [])
    columns = max(1, min(size.columns, size.lines * 2 * 4 // 3, screen.width))
    lines = max(1, columns * 3 // 4 // 2)
    pick = itemgetter(*(x * screen.width // columns for x in range(columns)), 0)  # the 0 makes it a tuple always
    dots = []
    for y in range(2 * lines):
        start = y * screen.height // (2 * lines) * screen.width
        dots.append(bytes(pick(screen.pixels[start : start + screen.width])[:-1]))
    rows = []
    for upper, lower in zip(dots[::2], dots[1::2], strict=True):
        row = bytearray(2 * columns)
        row[::2], row[1::2] = upper, lower
        rows.append(bytes(row))
    return Frame(look, rows)


class Canvas:
    """What the terminal shows, and the escape sequences that make it show something else."""

    def __init__(self, system: System, *, has_shapes: bool = True) -> None:
        self._system = system
        self._has_shapes = has_shapes
        self._shape = ""
        self._look: Look | None = None
        self._size = NO_TERMINAL
        self._rows: list[bytes] = []
        self._cursor: tuple[int, int] | None = None

    def draw(self, frame: Frame, size: os.terminal_size, status: str = "") -> str:
        """The sequences from what is shown to `frame`; "" if nothing changed."""
        out = []
        if (frame.look, size, len(frame.rows)) != (self._look, self._size, len(self._rows)):
            out.append("\x1b[0m\x1b[2J" + self._status(frame, size, status))
            self._rows = [b""] * len(frame.rows)
            self._look, self._size = frame.look, size
        for y, (old, new) in enumerate(zip(self._rows, frame.rows, strict=True)):
            if old != new:
                out.append(self._row(y, old, new, frame.look))
        if out or frame.cursor != self._cursor:
            out.append(_cursor(frame.cursor))
        shape = _BLOCK if frame.has_block else _UNDERLINE
        if self._has_shapes and frame.cursor is not None and shape != self._shape:
            out.append(shape)
            self._shape = shape
        self._rows, self._cursor = frame.rows, frame.cursor
        return "".join(out)

    def undo(self) -> str:
        """The sequence that gives the cursor its usual shape."""
        return _USUAL_SHAPE if self._shape else ""

    def _status(self, frame: Frame, size: os.terminal_size, status: str) -> str:
        """A line at the very bottom where there is room below the picture."""
        if size.lines <= len(frame.rows):
            return ""
        return f"\x1b[{size.lines};1H\x1b[2m{status[: size.columns]}\x1b[0m"

    def _row(self, y: int, old: bytes, new: bytes, look: Look) -> str:
        """The changed part of one row, with a colour change only where the colours change."""
        first, end = _changed(old, new)
        out = [f"\x1b[{y + 1};{first + 1}H"]
        style = ""
        for x in range(first, end):
            code, attribute = new[2 * x], new[2 * x + 1]
            wanted, glyph = self._cell(code, attribute, look)
            if wanted != style:
                out.append(wanted)
                style = wanted
            out.append(glyph)
        return "".join(out)

    def _cell(self, first: int, second: int, look: Look) -> tuple[str, str]:
        if not look.is_text:
            return _sgr(look.palette[first], look.palette[second], False, self._system), UPPER_HALF
        background = second >> 4 & 0x07 if look.blink else second >> 4
        is_blinking = look.blink and bool(second & _BLINK)
        style = _sgr(look.palette[second & 0x0F], look.palette[background], is_blinking, self._system)
        return style, _GLYPHS[first]


def _changed(old: bytes, new: bytes) -> tuple[int, int]:
    """The first cell that differs, and the one after the last."""
    count = len(new) // 2
    if len(old) != len(new):
        return 0, count
    differs = [x for x in range(count) if old[2 * x : 2 * x + 2] != new[2 * x : 2 * x + 2]]
    return differs[0], differs[-1] + 1


def _cursor(at: tuple[int, int] | None) -> str:
    return "\x1b[?25l" if at is None else f"\x1b[{at[1] + 1};{at[0] + 1}H\x1b[?25h"


@lru_cache(maxsize=4096)
def _sgr(foreground: Rgb, background: Rgb, is_blinking: bool, system: System) -> str:
    """Select Graphic Rendition for two colours, as near as the terminal has them."""
    front = Color.from_rgb(*foreground).downgrade(system).get_ansi_codes(foreground=True)
    back = Color.from_rgb(*background).downgrade(system).get_ansi_codes(foreground=False)
    return "\x1b[" + ";".join(("0", *(("5",) if is_blinking else ()), *front, *back)) + "m"


class TextDisplay:
    """The front end: draws up to 30 times a second, passes keys on, puts the terminal back when closed."""

    def __init__(self, guest: Guest, typist: Typist, source: Input, out: Output) -> None:
        self._guest = guest
        self._typist = typist
        self._source = source
        self._out = out
        self._decoder = KeyDecoder()
        system = _SYSTEMS.get(Console().color_system or "", System.STANDARD)
        self._canvas = Canvas(system, has_shapes=os.environ.get("TERM", "") not in _SHAPELESS)
        self._draw_at = 0.0
        self._write(ENTER)

    def poll(self) -> Outcome | None:
        keys = self._decoder.feed(self._source.read(self._source.ahead - self._typist.waiting), time.monotonic_ns())
        self._typist.type(keys, PASTE_GAP_NS if len(keys) > BY_HAND else KEY_GAP_NS)
        self._out.flush()
        if time.monotonic() >= self._draw_at and not self._out.backlog:
            self._draw()
        return Interrupted() if self._source.has_left else None

    def close(self) -> None:
        """Leave the alternate screen, and the guest's last words on the user's own."""
        self._source.close()
        text = self._guest.screen().text()
        self._write(self._canvas.undo() + LEAVE + (text + "\n" if text else ""))
        self._out.close()

    def _draw(self) -> None:
        started = time.monotonic()
        size = self._size()
        room = os.terminal_size((size.columns, max(1, size.lines - 1))) if size.lines > NO_TERMINAL.lines else size
        self._write(self._canvas.draw(frame_of(self._guest.screen(), room), size, STATUS))
        now = time.monotonic()
        self._draw_at = now + max(FRAME_S, DRAW_SHARE * (now - started))

    def _size(self) -> os.terminal_size:
        """The terminal's size, or the usual one for what has none: no terminal, or one that does not know it."""
        try:
            size = os.get_terminal_size(self._out.descriptor)
        except OSError:
            return NO_TERMINAL
        return size if size.columns and size.lines else NO_TERMINAL

    def _write(self, text: str) -> None:
        self._out.write(text.encode())
        self._out.flush()
