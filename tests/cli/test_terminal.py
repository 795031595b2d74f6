"""Terminal bytes as keys, and the terminal's mode put back."""

import os
import termios

import pytest

from vmm.cli.terminal import ESCAPE_WAIT_NS, Input, KeyDecoder
from vmm.devices.keymap import KeyStroke

SHIFT, CTRL, ALT = "LeftShift", "LeftCtrl", "LeftAlt"

KEYS = [
    (b"a", [KeyStroke("a")]),
    (b"A?", [KeyStroke("a", (SHIFT,)), KeyStroke("/", (SHIFT,))]),
    (b"\r", [KeyStroke("Enter")]),
    (b"\x7f", [KeyStroke("Backspace")]),
    (b"\t", [KeyStroke("Tab")]),
    (b"\x01", [KeyStroke("a", (CTRL,))]),
    (b"\x1b[A\x1bOB", [KeyStroke("Up"), KeyStroke("Down")]),
    (b"\x1b[H\x1b[4~", [KeyStroke("Home"), KeyStroke("End")]),
    (b"\x1b[2~\x1b[3~\x1b[5~\x1b[6~", [KeyStroke(name) for name in ("Insert", "Delete", "PageUp", "PageDown")]),
    (b"\x1bOP\x1b[[B\x1b[15~\x1b[24~", [KeyStroke(name) for name in ("F1", "F2", "F5", "F12")]),
    (b"\x1b[Z", [KeyStroke("Tab", (SHIFT,))]),
    (b"\x1b[1;5C", [KeyStroke("Right", (CTRL,))]),
    (b"\x1b[1;3P", [KeyStroke("F1", (ALT,))]),
    (b"\x1b[20;2~", [KeyStroke("F9", (SHIFT,))]),
    (b"\x1b[1;8D", [KeyStroke("Left", (CTRL, ALT, SHIFT))]),
    (b"\x1bx\x1bX", [KeyStroke("x", (ALT,)), KeyStroke("x", (ALT, SHIFT))]),
    (b"\x1b[200~ab\x1b[201~", [KeyStroke("a"), KeyStroke("b")]),
    (b"\x1b[<0;1;1Mz", [KeyStroke("z")]),
    ("é€z".encode(), [KeyStroke("z")]),
    (b"\xff\xfez", [KeyStroke("z")]),
]


@pytest.mark.parametrize(("data", "strokes"), KEYS, ids=lambda value: repr(value) if isinstance(value, bytes) else "")
def test_bytes_are_the_keys_that_a_terminal_sends_them_for(data: bytes, strokes: list[KeyStroke]) -> None:
    assert KeyDecoder().feed(data, 0) == strokes


@pytest.mark.parametrize(("data", "strokes"), KEYS, ids=lambda value: repr(value) if isinstance(value, bytes) else "")
def test_cut_anywhere_the_bytes_are_the_same_keys(data: bytes, strokes: list[KeyStroke]) -> None:
    decoder = KeyDecoder()
    assert [stroke for n in range(len(data)) for stroke in decoder.feed(data[n : n + 1], n)] == strokes


def test_an_escape_that_nothing_follows_is_the_esc_key() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b", 0) == []
    assert decoder.feed(b"", ESCAPE_WAIT_NS - 1) == []
    assert decoder.feed(b"", ESCAPE_WAIT_NS) == [KeyStroke("Esc")]
    assert decoder.feed(b"", 2 * ESCAPE_WAIT_NS) == []


def test_escape_twice_is_esc_twice_at_last() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b\x1b", 0) + decoder.feed(b"", ESCAPE_WAIT_NS) in (
        [KeyStroke("Esc"), KeyStroke("Esc")],
        [KeyStroke("Esc", (ALT,))],
    )


@pytest.fixture
def terminal() -> "tuple[int, int]":
    return os.openpty()


def test_a_terminal_is_raw_but_for_ctrl_c_and_is_put_back(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)
    wake: set[int] = set()
    source = Input(slave, wake)
    mode = termios.tcgetattr(slave)
    assert not mode[3] & (termios.ICANON | termios.ECHO)
    assert mode[3] & termios.ISIG
    assert mode[6][termios.VINTR] == b"\x03"
    assert mode[6][termios.VSUSP] == mode[6][termios.VQUIT] == b"\0"
    assert wake == {slave}
    source.close()
    assert termios.tcgetattr(slave) == before
    assert wake == set()


def test_ctrl_bracket_leaves_a_terminal_and_what_follows_is_dropped(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    source = Input(slave, set())
    os.write(master, b"ab\x1dcd")
    assert (source.read(), source.has_left) == (b"ab", True)
    source.close()


def test_ctrl_bracket_in_a_pipe_is_a_byte() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a\x1db")
    source = Input(reader, set())
    assert (source.read(), source.has_left) == (b"a\x1db", False)
    os.close(writer)


def test_reading_never_waits_and_the_end_is_noticed() -> None:
    reader, writer = os.pipe()
    wake: set[int] = set()
    source = Input(reader, wake)
    assert source.read() == b""
    assert wake == {reader}
    os.close(writer)
    assert source.read() == b""
    assert wake == set()
    assert source.read() == b""


def test_a_closed_stdin_is_no_input() -> None:
    source = Input(None, set())
    assert source.read() == b""
    source.close()
