"""The script language: what it refuses and with which line number, and what the runner does when."""

from dataclasses import dataclass, field

import pytest

from vmm.devices.keymap import KeyStroke, keys_for_text
from vmm.script import (
    Action,
    Command,
    Screenshot,
    ScriptError,
    ScriptRunner,
    Send,
    SendSerial,
    Wait,
    compile_pattern,
    parse,
)

SECOND = 1_000_000_000

GOOD = [
    pytest.param("send ls\\n", Send(tuple(keys_for_text("ls\n"))), id="send_resolves_escapes"),
    pytest.param("send <F10>", Send((KeyStroke("F10"),)), id="send_takes_named_keys"),
    pytest.param("key Up", Send((KeyStroke("Up"),)), id="key_by_name"),
    pytest.param("key <Up>", Send((KeyStroke("Up"),)), id="key_in_brackets"),
    pytest.param("key Ctrl-Alt-Delete", Send((KeyStroke("Delete", ("LeftCtrl", "LeftAlt")),)), id="key_chord"),
    pytest.param("send-serial a\\x00\\xFF\\e\\\\\\n", SendSerial(b"a\0\xff\x1b\\\n"), id="send_serial_escapes"),
    pytest.param("send-serial <Up>", SendSerial(b"<Up>"), id="a_serial_line_has_no_keys"),
    pytest.param("wait 1.5", Wait(1.5), id="wait"),
    pytest.param("\twait\t0", Wait(0.0), id="tabs_are_blanks"),
    pytest.param("screenshot a b.png", Screenshot("a b.png"), id="file_names_may_have_blanks"),
]


@pytest.mark.parametrize(("line", "command"), GOOD)
def test_a_line_is_its_command(line: str, command: Command) -> None:
    assert [step.command for step in parse(line, "s")] == [command]


BAD = [
    pytest.param("jump 3", "unknown command 'jump'; known are expect, key", id="unknown_command"),
    pytest.param("expect", "expected 'expect screen REGEX'", id="expect_without_anything"),
    pytest.param("expect screen", "expected 'expect screen REGEX'", id="expect_without_pattern"),
    pytest.param("expect printer x", "expected 'expect screen REGEX'", id="expect_elsewhere"),
    pytest.param("expect serial [", "bad regular expression '['", id="bad_pattern"),
    pytest.param("expect screen a{99999999999}", "bad regular expression", id="absurd_repetition"),
    pytest.param("send", "expected 'send TEXT'", id="send_nothing"),
    pytest.param("send <F99>", "F99", id="unknown_key"),
    pytest.param("send a\\q", "unknown escape", id="unknown_escape"),
    pytest.param("send é", "é", id="untypable_character"),
    pytest.param("key", "unknown key", id="key_without_name"),
    pytest.param("key Hyper", "Hyper", id="unknown_key_name"),
    pytest.param("send-serial", "expected 'send-serial TEXT'", id="send_serial_nothing"),
    pytest.param("send-serial \\x4", "unknown escape \\x", id="half_a_byte"),
    pytest.param("send-serial tail\\", "unknown escape \\", id="escape_at_the_end"),
    pytest.param("send-serial €", "is not one byte", id="not_a_byte"),
    pytest.param("wait", "expected 'wait SECONDS'", id="wait_without_number"),
    pytest.param("wait soon", "expected 'wait SECONDS', not 'soon'", id="wait_for_a_word"),
    pytest.param("wait -1", "0 seconds or more", id="negative_wait"),
    pytest.param("wait nan", "0 seconds or more", id="wait_for_nan"),
    pytest.param("wait inf", "0 seconds or more", id="endless_wait"),
    pytest.param("screenshot x.bmp", "expected 'screenshot FILE.png'", id="unknown_picture"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_one_message_with_its_number(line: str, message: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse(f"# a comment\n\n{line}\n", "boot.script")
    assert str(caught.value).startswith("boot.script:3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_comments_and_blank_lines_are_no_steps() -> None:
    assert parse("# one\n\n   \n  # two\n", "s") == ()


def test_pattern_anchors_match_at_every_line() -> None:
    assert compile_pattern("^grub> $").search("GNU GRUB\ngrub> \n")


@dataclass
class FakeView:
    """A machine that shows what a test says."""

    screen: str = ""
    serial: str = ""
    pending: bool = False
    guest: int = 0
    host: int = 0
    looks: list[str] = field(default_factory=list)

    def screen_text(self) -> str:
        self.looks.append("screen")
        return self.screen

    def serial_text(self, start: int) -> str:
        return self.serial[start:]

    def is_input_pending(self) -> bool:
        return self.pending

    def guest_ns(self) -> int:
        return self.guest

    def host_ns(self) -> int:
        return self.host


def runner(text: str) -> ScriptRunner:
    return ScriptRunner(parse(text, "s"), "s")


def test_expect_screen_waits_for_the_screen() -> None:
    script, view = runner("expect screen boot:\nscreenshot x.png"), FakeView(screen="BIOS")
    assert (script.poll(view), script.is_done) == ([], False)
    view.screen = "BIOS\nboot: "
    assert (script.poll(view), script.is_done) == ([Screenshot("x.png")], True)


def test_expect_serial_goes_on_after_the_last_match() -> None:
    script, view = runner("expect serial ready\nexpect serial ready"), FakeView(serial="ready ")
    script.poll(view)
    assert script.position == "s:2: expect serial ready"
    view.serial += "ready"
    script.poll(view)
    assert script.is_done


def test_a_step_after_send_waits_until_all_is_typed() -> None:
    script, view = runner("send x\nexpect screen prompt"), FakeView(screen="prompt")
    assert script.poll(view) == [Send((KeyStroke("x"),))]
    view.pending = True
    assert (script.poll(view), script.is_done) == ([], False)
    view.pending = False
    script.poll(view)
    assert script.is_done


def test_send_ends_a_poll() -> None:
    script, view = runner("send x\nsend-serial y\nwait 0"), FakeView()
    polls: list[list[Action]] = [script.poll(view), script.poll(view), script.poll(view)]
    assert polls == [[Send((KeyStroke("x"),))], [SendSerial(b"y")], []]
    assert script.is_done


CLOCKS = [
    pytest.param(SECOND, 1, True, id="guest_time_went_by"),
    pytest.param(0, SECOND, True, id="guest_clock_stands_still_but_ours_does_not"),
    pytest.param(SECOND - 1, SECOND - 1, False, id="neither_is_there_yet"),
]


@pytest.mark.parametrize(("guest", "host", "is_done"), CLOCKS)
def test_wait_ends_when_either_clock_has_reached_it(guest: int, host: int, is_done: bool) -> None:
    script, view = runner("wait 1"), FakeView(guest=7, host=9)
    script.poll(view)
    view.guest += guest
    view.host += host
    script.poll(view)
    assert script.is_done is is_done


def test_the_screen_is_looked_at_only_where_a_step_needs_it() -> None:
    script, view = runner("expect serial x\nexpect screen y"), FakeView()
    script.poll(view)
    assert view.looks == []
    view.serial = "x"
    script.poll(view)
    assert view.looks == ["screen"]


def test_position_of_a_finished_script_is_its_end() -> None:
    assert runner("").position == "s: end"
