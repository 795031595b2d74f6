"""Terminal bytes as keys, and the terminal's mode put back."""

import os
import select
import termios
import tty

import pytest

from vmm.cli.terminal import ESCAPE_WAIT_NS, WIRE, Input, KeyDecoder, Line, Output
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
    assert decoder.feed(b"\x1b\x1b", 0) == [KeyStroke("Esc")]
    assert decoder.feed(b"", ESCAPE_WAIT_NS) == [KeyStroke("Esc")]


def test_esc_and_an_arrow_at_once_are_two_keys() -> None:
    assert KeyDecoder().feed(b"\x1b\x1b[A", 0) == [KeyStroke("Esc"), KeyStroke("Up")]


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


def test_a_terminal_that_is_a_wire_has_no_key_and_no_character_for_itself(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    before = termios.tcgetattr(slave)
    source = Input(slave, set(), WIRE)
    keys = bytes(range(0x1D)) + bytes(range(0x1E, 0x100))
    os.write(master, keys)
    assert source.read() == keys
    os.write(slave, b"a\nb")
    assert os.read(master, 9) == b"a\nb"
    source.close()
    assert termios.tcgetattr(slave) == before


def test_a_wire_may_keep_line_feeds_for_our_own_messages(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    source = Input(slave, set(), Line.LINE_FEEDS)
    os.write(slave, b"a\nb")
    assert os.read(master, 9) == b"a\r\nb"
    source.close()


def test_what_was_typed_for_the_guest_is_not_left_for_the_shell(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    source = Input(slave, set(), WIRE)
    os.write(master, b"halt\r\x1dreboot\r")
    source.read(5)
    source.close()
    assert not select.select([slave], [], [], 0)[0]


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


def test_input_that_is_not_wanted_wakes_nobody_and_stays_where_it_is() -> None:
    reader, writer = os.pipe()
    wake: set[int] = set()
    source = Input(reader, wake)
    os.write(writer, b"abc")
    assert (source.read(0), wake) == (b"", set())
    assert (source.read(2), wake) == (b"ab", {reader})
    source.close()
    assert os.read(reader, 9) == b"c"
    os.close(writer)


# --- output --------------------------------------------------------------------------------------------------------


def test_a_reader_who_sleeps_holds_up_nobody_and_gets_all_of_it(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    tty.setraw(slave)
    out = Output(slave)
    data = bytes(range(256)) * 4096
    out.write(data)
    out.flush()
    assert out.backlog > 0
    got = b""
    while out.backlog:
        got += os.read(master, 1 << 16)
        out.wait(0)
    out.close()
    while len(got) < len(data):
        got += os.read(master, 1 << 16)
    assert got == data


def test_the_shells_open_file_is_left_as_it_is(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    out = Output(slave)
    out.write(b"x")
    out.flush()
    assert os.get_blocking(slave)
    out.close()
    os.write(slave, b"still open")


def test_a_pipe_that_is_full_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    out = Output(writer)
    out.write(b"x" * (1 << 17))
    out.flush()
    assert 0 < out.backlog < 1 << 17
    out.discard()
    out.close()
    os.close(reader)
    os.close(writer)


def test_a_terminal_that_went_away_takes_everything(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    out = Output(slave)
    os.close(master)
    out.write(b"gone")
    out.close()
    assert out.backlog == 0


def test_a_pipe_without_a_reader_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = Output(writer)
    out.write(b"x")
    with pytest.raises(BrokenPipeError):
        out.flush()
    os.close(writer)
