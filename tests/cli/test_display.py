"""The drawn screen, checked on a terminal that knows just the sequences that the canvas may use."""

import os
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from fakes import PALETTE, FakeGuest, text_screen
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import ColorSystem

from vmm.cli.display import ENTER, LEAVE, Canvas, Frame, Look, TextDisplay, frame_of
from vmm.cli.guest import Typist
from vmm.cli.terminal import Input, Output
from vmm.screen import Cursor, GraphicsScreen, TextScreen

SIZE = os.terminal_size((80, 26))
LOOK = Look(True, PALETTE)
SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)( q|[A-Za-z])|(.)", re.DOTALL)


class Terminal:
    """CUP, ED 2, SGR (kept as text), the cursor's visibility and its shape."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], tuple[str, str]] = {}
        self.x = self.y = 0
        self.style = ""
        self.cursor_shows = True
        self.shape = ""

    def feed(self, text: str) -> None:
        for private, parameters, final, char in SEQUENCE.findall(text):
            if char:
                self.cells[self.x, self.y] = (char, self.style)
                self.x += 1
            elif final == "H":
                self.y, self.x = (int(number) - 1 for number in parameters.split(";"))
            elif final == "J":
                self.cells.clear()
            elif final == "m":
                self.style = parameters
            elif private and parameters == "25":
                self.cursor_shows = final == "h"
            elif final == " q":
                self.shape = {"0": "", "1": "block", "3": "underline"}[parameters]
            else:
                raise AssertionError(f"unexpected {private}{parameters}{final}")

    def line(self, y: int) -> str:
        return "".join(self.cells.get((x, y), (" ", ""))[0] for x in range(80)).rstrip()


def show(screen: TextScreen | GraphicsScreen, size: os.terminal_size = SIZE) -> Terminal:
    terminal = Terminal()
    terminal.feed(Canvas(ColorSystem.TRUECOLOR).draw(frame_of(screen, size), size))
    return terminal


def test_a_text_screen_is_drawn_with_its_colours_and_cursor() -> None:
    terminal = show(text_screen("hello", cursor=(5, 0), attribute=0x1F))
    assert terminal.line(0) == "hello"
    assert terminal.cells[0, 0] == ("h", "0;38;2;240;240;240;48;2;16;16;16")
    assert (terminal.cursor_shows, terminal.x, terminal.y) == (True, 5, 0)


def test_a_hidden_cursor_stays_hidden() -> None:
    assert not show(text_screen("x")).cursor_shows


def test_code_page_437_is_drawn_as_unicode() -> None:
    screen = text_screen("")
    cells = bytes([0xC9, 7, 0x01, 7, 0x00, 7, 0x1B, 7]) + screen.cells[8:]
    drawn = show(TextScreen(80, 25, cells, screen.cursor, PALETTE, False))
    assert drawn.line(0) == "\N{BOX DRAWINGS DOUBLE DOWN AND RIGHT}\N{WHITE SMILING FACE} \N{LEFTWARDS ARROW}"


def test_an_unchanged_screen_costs_nothing() -> None:
    canvas, frame = Canvas(ColorSystem.TRUECOLOR), frame_of(text_screen("hello"), SIZE)
    assert canvas.draw(frame, SIZE)
    assert canvas.draw(frame, SIZE) == ""


def test_one_new_character_is_one_short_write() -> None:
    canvas = Canvas(ColorSystem.STANDARD)
    canvas.draw(frame_of(text_screen("grub> "), SIZE), SIZE)
    assert len(canvas.draw(frame_of(text_screen("grub> l"), SIZE), SIZE)) < 40


def test_a_change_of_size_draws_everything_anew() -> None:
    canvas, frame = Canvas(ColorSystem.TRUECOLOR), frame_of(text_screen("hello"), SIZE)
    canvas.draw(frame, SIZE)
    terminal = Terminal()
    terminal.feed(canvas.draw(frame, os.terminal_size((100, 40))))
    assert terminal.line(0) == "hello"


def test_a_low_terminal_shows_the_rows_around_the_cursor() -> None:
    text = "\n".join(f"line {n}" for n in range(25))
    terminal = show(text_screen(text, cursor=(0, 20)), os.terminal_size((80, 10)))
    assert (terminal.line(0), terminal.line(9), terminal.y) == ("line 11", "line 20", 9)


def test_a_narrow_terminal_crops_columns() -> None:
    assert show(text_screen("0123456789", cursor=(9, 0)), os.terminal_size((4, 25))).line(0) == "0123"


def test_blink_is_shown_where_it_is_on() -> None:
    screen = text_screen("x", attribute=0x90)
    blinking = TextScreen(80, 25, screen.cells, screen.cursor, PALETTE, True)
    assert show(screen).cells[0, 0][1].split(";")[1] == "38"
    assert show(blinking).cells[0, 0][1].split(";")[1] == "5"


def test_a_dark_monitor_is_dark() -> None:
    screen = text_screen("secret")
    assert show(TextScreen(80, 25, screen.cells, screen.cursor, PALETTE, False, blanked=True)).cells == {}


def test_mode_13h_is_drawn_in_half_blocks() -> None:
    palette = tuple((n, 0, 0) for n in range(256))
    pixels = bytes([1]) * (320 * 100) + bytes([2]) * (320 * 100)
    terminal = show(GraphicsScreen(320, 200, pixels, palette), os.terminal_size((64, 24)))
    assert terminal.cells[0, 0] == ("\N{UPPER HALF BLOCK}", "0;38;2;1;0;0;48;2;1;0;0")
    assert terminal.cells[63, 23] == ("\N{UPPER HALF BLOCK}", "0;38;2;2;0;0;48;2;2;0;0")
    assert (64, 0) not in terminal.cells


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 50), (400, 3)])
def test_no_terminal_is_too_small(size: tuple[int, int]) -> None:
    graphics = GraphicsScreen(320, 200, bytes(64000), tuple((n, n, n) for n in range(256)))
    for screen in (graphics, text_screen("x", cursor=(79, 24))):
        drawn = show(screen, os.terminal_size(size))
        assert all(x < size[0] and y < size[1] for x, y in drawn.cells)


ROW = st.binary(min_size=8, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(ROW, min_size=3, max_size=3), min_size=2, max_size=5))
def test_drawing_differences_shows_what_drawing_anew_shows(screens: list[list[bytes]]) -> None:
    canvas, terminal = Canvas(ColorSystem.TRUECOLOR), Terminal()
    size = os.terminal_size((4, 4))
    for _, rows in pairwise([[], *screens]):
        frame = Frame(LOOK, rows, (1, 1))
        terminal.feed(canvas.draw(frame, size))
        fresh = Terminal()
        fresh.feed(Canvas(ColorSystem.TRUECOLOR).draw(frame, size))
        assert terminal.cells == fresh.cells
        assert (terminal.x, terminal.y, terminal.cursor_shows) == (1, 1, True)


def test_keys_go_to_the_guest_and_the_terminal_comes_back() -> None:
    keys, keyboard = os.pipe()
    screen, output = os.pipe()
    guest = FakeGuest(text="last words")
    typist = Typist(guest)
    os.write(keyboard, b"a\x1b[A")
    display = TextDisplay(guest, typist, Input(keys, set()), Output(output))
    display.poll()
    while typist.is_busy:
        typist.pump()
        guest.now += 10**9
    display.close()
    os.close(output)
    with os.fdopen(screen, encoding="utf-8") as shown:
        drawn = shown.read()
    assert [stroke.key for stroke in guest.door.keys] == ["a", "Up"]
    assert drawn.startswith(ENTER)
    assert drawn.endswith(LEAVE + "last words\n")


def test_the_cursor_alone_moves_without_a_redraw() -> None:
    canvas = Canvas(ColorSystem.STANDARD)
    canvas.draw(frame_of(text_screen("x", cursor=(0, 0)), SIZE), SIZE)
    assert canvas.draw(frame_of(text_screen("x", cursor=(3, 2)), SIZE), SIZE) == "\x1b[3;4H\x1b[?25h"


@pytest.mark.parametrize(
    ("first", "last", "shape"),
    [(13, 14, "underline"), (0, 15, "block"), (0, 8, "block"), (8, 15, "underline"), (15, 15, "underline")],
)
def test_the_cursor_has_the_guests_shape(first: int, last: int, shape: str) -> None:
    screen = text_screen("x")
    assert show(replace(screen, cursor=Cursor(1, 0, first, last, True))).shape == shape


def test_the_cursors_shape_is_put_back() -> None:
    canvas, terminal = Canvas(ColorSystem.STANDARD), Terminal()
    terminal.feed(canvas.draw(frame_of(text_screen("x", cursor=(0, 0)), SIZE), SIZE))
    terminal.feed(canvas.undo())
    assert terminal.shape == ""


def test_a_terminal_without_cursor_shapes_is_sent_none() -> None:
    canvas = Canvas(ColorSystem.STANDARD, has_shapes=False)
    assert " q" not in canvas.draw(frame_of(text_screen("x", cursor=(0, 0)), SIZE), SIZE) + canvas.undo()


def test_a_paste_is_read_no_further_ahead_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.cli.terminal.PIPE_AHEAD", 100)
    keys, keyboard = os.pipe()
    screen, output = os.pipe()
    typist = Typist(FakeGuest())
    display = TextDisplay(FakeGuest(), typist, Input(keys, set()), Output(output))
    os.write(keyboard, b"x" * 300)
    for _ in range(3):
        display.poll()
    assert typist.waiting == 100
    for descriptor in (keys, keyboard, screen, output):
        os.close(descriptor)


def test_a_cursor_beyond_the_columns_is_not_shown() -> None:
    screen = text_screen("x")
    outside = TextScreen(80, 25, screen.cells, Cursor(60, 0, 13, 14, True), PALETTE, False)
    assert frame_of(outside, os.terminal_size((40, 25))).cursor is None
