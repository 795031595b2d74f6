"""Key names and text as strokes."""

import pytest

from vmm.devices.keymap import KeyStroke, keys_for_text, stroke_for_character, stroke_for_name
from vmm.devices.ps2_keyboard import KeyEvent
from vmm.devices.scancodes import KEYS
from vmm.errors import ConfigError

SHIFT, CTRL, ALT = "LeftShift", "LeftCtrl", "LeftAlt"


@pytest.mark.parametrize(
    ("name", "stroke"),
    [
        ("a", KeyStroke("a")),
        ("A", KeyStroke("a", (SHIFT,))),
        ("F10", KeyStroke("F10")),
        ("f1", KeyStroke("F1")),
        ("up", KeyStroke("Up")),
        ("Return", KeyStroke("Enter")),
        ("PgDn", KeyStroke("PageDown")),
        ("Space", KeyStroke("Space")),
        (" ", KeyStroke("Space")),
        ("-", KeyStroke("-")),
        ("+", KeyStroke("=", (SHIFT,))),
        ("Ctrl", KeyStroke("LeftCtrl")),
        ("Ctrl+C", KeyStroke("c", (CTRL,))),
        ("ctrl-x", KeyStroke("x", (CTRL,))),
        ("Ctrl--", KeyStroke("-", (CTRL,))),
        ("Alt-F1", KeyStroke("F1", (ALT,))),
        ("Ctrl-Alt-Delete", KeyStroke("Delete", (CTRL, ALT))),
        ("Ctrl-Shift-?", KeyStroke("/", (CTRL, SHIFT))),
        ("AltGr-q", KeyStroke("q", ("RightAlt",))),
        ("Keypad+", KeyStroke("Keypad+")),
        ("Extra", KeyStroke("Extra")),
        ("lt", KeyStroke(",", (SHIFT,))),
    ],
)
def test_name(name: str, stroke: KeyStroke) -> None:
    assert stroke_for_name(name) == stroke


@pytest.mark.parametrize("name", KEYS)
def test_every_key_answers_to_its_name(name: str) -> None:
    assert stroke_for_name(name) == KeyStroke(name)


@pytest.mark.parametrize("name", ["", "Foo", "F13", "Ctrl-Foo", "é", "Hyper-a", "\n", "ab"])
def test_an_unknown_name_is_the_users_mistake(name: str) -> None:
    with pytest.raises(ConfigError, match="key"):
        stroke_for_name(name)


def test_every_printable_character_has_a_stroke_of_its_own() -> None:
    strokes = [stroke_for_character(chr(code)) for code in range(0x20, 0x7F)]
    assert len(set(strokes)) == 95
    assert all(stroke.key in KEYS and stroke.modifiers in ((), (SHIFT,)) for stroke in strokes)


@pytest.mark.parametrize(
    ("character", "stroke"),
    [
        ("\x03", KeyStroke("c", (CTRL,))),
        ("\x1a", KeyStroke("z", (CTRL,))),
        ("\x1c", KeyStroke("\\", (CTRL,))),
        ("\x00", KeyStroke("2", (CTRL,))),
        ("\x7f", KeyStroke("Backspace")),
        ("\x08", KeyStroke("Backspace")),
        ("\r", KeyStroke("Enter")),
        ("\t", KeyStroke("Tab")),
        ("\x1b", KeyStroke("Esc")),
    ],
)
def test_a_control_character_is_the_key_that_makes_it(character: str, stroke: KeyStroke) -> None:
    assert stroke_for_character(character) == stroke


@pytest.mark.parametrize(
    ("text", "strokes"),
    [
        ("", []),
        ("aB", [KeyStroke("a"), KeyStroke("b", (SHIFT,))]),
        (r"\n\e\t\\\<", [KeyStroke(k) for k in ("Enter", "Esc", "Tab", "\\")] + [KeyStroke(",", (SHIFT,))]),
        ("x<F10>y", [KeyStroke("x"), KeyStroke("F10"), KeyStroke("y")]),
        ("<Ctrl-x><Up>", [KeyStroke("x", (CTRL,)), KeyStroke("Up")]),
        ("<>>", [KeyStroke(".", (SHIFT,))]),
        ("a > b", [KeyStroke("a"), KeyStroke("Space"), KeyStroke(".", (SHIFT,)), KeyStroke("Space"), KeyStroke("b")]),
    ],
)
def test_text(text: str, strokes: list[KeyStroke]) -> None:
    assert keys_for_text(text) == strokes


@pytest.mark.parametrize(
    ("text", "named"),
    [("a<Foo>", "'Foo'"), ("naïve", "'ï'"), (r"\q", r"'\\q'"), ("<F1", "'<F1'"), ("a\\", "escape"), ("<", "'>'")],
)
def test_a_mistake_in_a_text_is_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        keys_for_text(text)


def test_a_stroke_holds_its_modifiers_around_the_key() -> None:
    assert KeyStroke("Delete", (CTRL, ALT)).events() == [
        KeyEvent(CTRL, True),
        KeyEvent(ALT, True),
        KeyEvent("Delete", True),
        KeyEvent("Delete", False),
        KeyEvent(ALT, False),
        KeyEvent(CTRL, False),
    ]
