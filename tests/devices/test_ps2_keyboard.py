"""PS/2 keyboard, against "Keyboard (101- and 102-Key)" of the IBM PS/2 Hardware Interface Technical Reference."""

import json

import pytest

from vmm.devices.keymap import KeyStroke
from vmm.devices.ps2_keyboard import KeyEvent, Ps2Keyboard
from vmm.devices.scancodes import KEYS, to_set1

ACK, RESEND, BAT = 0xFA, 0xFE, 0xAA


@pytest.fixture
def keyboard() -> Ps2Keyboard:
    return Ps2Keyboard()


def drain(keyboard: Ps2Keyboard) -> str:
    taken = []
    while (byte := keyboard.take()) is not None:
        taken.append(byte)
    return bytes(taken).hex(" ")


def send(keyboard: Ps2Keyboard, *values: int) -> str:
    for value in values:
        keyboard.write(value)
    return drain(keyboard)


SEQUENCES = [
    # key, set 1 make and break, set 2 make and break, set 3 make and break
    ("a", "1e", "9e", "1c", "f0 1c", "1c", "f0 1c"),
    ("Esc", "01", "81", "76", "f0 76", "08", "f0 08"),
    ("F7", "41", "c1", "83", "f0 83", "37", "f0 37"),
    ("F10", "44", "c4", "09", "f0 09", "4f", "f0 4f"),
    ("F11", "57", "d7", "78", "f0 78", "56", "f0 56"),
    ("F12", "58", "d8", "07", "f0 07", "5e", "f0 5e"),
    ("Enter", "1c", "9c", "5a", "f0 5a", "5a", "f0 5a"),
    ("LeftShift", "2a", "aa", "12", "f0 12", "12", "f0 12"),
    ("Extra", "56", "d6", "61", "f0 61", "13", "f0 13"),
    ("Keypad5", "4c", "cc", "73", "f0 73", "73", "f0 73"),
    ("Up", "e0 48", "e0 c8", "e0 75", "e0 f0 75", "63", "f0 63"),
    ("RightCtrl", "e0 1d", "e0 9d", "e0 14", "e0 f0 14", "58", "f0 58"),
    ("KeypadEnter", "e0 1c", "e0 9c", "e0 5a", "e0 f0 5a", "79", "f0 79"),
    ("LeftWin", "e0 5b", "e0 db", "e0 1f", "e0 f0 1f", "8b", "f0 8b"),
    ("PrintScreen", "e0 2a e0 37", "e0 b7 e0 aa", "e0 12 e0 7c", "e0 f0 7c e0 f0 12", "57", "f0 57"),
    ("Pause", "e1 1d 45 e1 9d c5", "", "e1 14 77 e1 f0 14 f0 77", "", "62", "f0 62"),
]


@pytest.mark.parametrize("row", SEQUENCES, ids=lambda row: row[0])
@pytest.mark.parametrize("scan_set", [1, 2, 3])
def test_sequence(keyboard: Ps2Keyboard, scan_set: int, row: tuple[str, ...]) -> None:
    assert send(keyboard, 0xF0, scan_set) == "fa fa"
    keyboard.press(row[0])
    assert drain(keyboard) == row[2 * scan_set - 1]
    keyboard.release(row[0])
    assert drain(keyboard) == row[2 * scan_set]


@pytest.mark.parametrize(
    ("modifier", "key", "make", "release"),
    [
        ("LeftCtrl", "Pause", "e0 7e e0 f0 7e", ""),
        ("LeftShift", "PrintScreen", "e0 7c", "e0 f0 7c"),
        ("LeftAlt", "PrintScreen", "84", "f0 84"),
    ],
)
def test_modifiers_change_what_pause_and_printscreen_send(
    keyboard: Ps2Keyboard, modifier: str, key: str, make: str, release: str
) -> None:
    keyboard.press(modifier)
    drain(keyboard)
    keyboard.press(key)
    assert drain(keyboard) == make
    keyboard.release(key)
    assert drain(keyboard) == release


def test_no_two_keys_send_the_same() -> None:
    keys = [codes for name, codes in KEYS.items() if name != "Pause"]  # NumLock's code, but within E1h
    assert len({(codes.set2, codes.extended) for codes in keys}) == len(keys)
    assert len({(*to_set1([codes.set2]), codes.extended) for codes in keys}) == len(keys)
    assert len({codes.set3 for codes in KEYS.values()}) == len(KEYS)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param([0xEE], "ee", id="echo"),
        pytest.param([0xF2], "fa ab 83", id="id"),
        pytest.param([0xED, 0x07], "fa fa", id="leds"),
        pytest.param([0xF3, 0x7F], "fa fa", id="typematic"),
        pytest.param([0xF4], "fa", id="enable"),
        pytest.param([0xF5], "fa", id="disable"),
        pytest.param([0xF6], "fa", id="defaults"),
        pytest.param([0xF8], "fa", id="all_make_break"),
        pytest.param([0xFF], "fa aa", id="reset"),
        pytest.param([0xF0, 0x00], "fa fa 02", id="which_set"),
        pytest.param([0xF0, 0x01, 0xF0, 0x00], "fa fa fa fa 01", id="set_1"),
        pytest.param([0xF0, 0x04], "fa fe", id="no_set_4"),
        pytest.param([0x12], "fe", id="not_a_command"),
        pytest.param([0xED, 0xF4], "fa fa", id="a_command_instead_of_a_parameter"),
        pytest.param([0xED, 0xEE, 0x07], "fa ee fe", id="and_then_no_parameter"),
    ],
)
def test_command(keyboard: Ps2Keyboard, sent: list[int], answer: str) -> None:
    assert send(keyboard, *sent) == answer


def test_resend_repeats_the_last_byte(keyboard: Ps2Keyboard) -> None:
    keyboard.press("a")
    assert drain(keyboard) == "1c"
    assert send(keyboard, 0xFE) == "1c"


def test_leds_and_typematic_are_kept(keyboard: Ps2Keyboard) -> None:
    send(keyboard, 0xED, 0x05, 0xF3, 0x20)
    assert (keyboard.leds, keyboard.typematic) == (5, 0x20)
    send(keyboard, 0xF6)
    assert (keyboard.leds, keyboard.typematic) == (5, 0x2B)


def test_answers_overtake_scan_codes(keyboard: Ps2Keyboard) -> None:
    keyboard.press("a")
    assert send(keyboard, 0xED) == "fa 1c"


def test_reset_forgets_keys_and_scan_set(keyboard: Ps2Keyboard) -> None:
    send(keyboard, 0xF0, 1, 0xED, 7)
    keyboard.press("a")
    assert send(keyboard, 0xFF) == "fa aa"
    assert (keyboard.scan_set, keyboard.leds, keyboard.scanning) == (2, 0, True)


def test_a_disabled_keyboard_has_no_room_and_sends_nothing(keyboard: Ps2Keyboard) -> None:
    assert keyboard.room() == 16
    send(keyboard, 0xF5)
    assert keyboard.room() == 0
    keyboard.press("a")
    assert drain(keyboard) == ""
    send(keyboard, 0xF4)
    keyboard.press("b")
    assert drain(keyboard) == "32"


@pytest.mark.parametrize(("scan_set", "overrun"), [(1, "ff"), (2, "00"), (3, "00")])
def test_a_full_buffer_ends_with_an_overrun_code(keyboard: Ps2Keyboard, scan_set: int, overrun: str) -> None:
    send(keyboard, 0xF0, scan_set)
    for _ in range(40):
        keyboard.press("F1")
    first = KEYS["F1"].set3 if scan_set == 3 else KEYS["F1"].set2
    make = next(to_set1([first])) if scan_set == 1 else first
    assert drain(keyboard) == f"{make:02x} " * 15 + overrun


def test_a_sequence_is_never_cut(keyboard: Ps2Keyboard) -> None:
    for _ in range(3):
        keyboard.press("Pause")
    assert drain(keyboard) == "e1 14 77 e1 f0 14 f0 77 e1 14 77 e1 f0 14 f0 00"


def test_type_keys_takes_what_has_room_and_loses_nothing(keyboard: Ps2Keyboard) -> None:
    events = [event for letter in "glassvisor" for event in KeyStroke(letter).events()]
    waiting, received = list(events), []
    while waiting:
        taken = keyboard.type_keys(waiting)
        assert taken > 0
        waiting = waiting[taken:]
        received += drain(keyboard).split()
    expected = [f"{KEYS[key].set2:02x}" if pressed else f"f0 {KEYS[key].set2:02x}" for key, pressed in events]
    assert received == " ".join(expected).split()
    assert keyboard.type_keys([KeyEvent("Pause", True)] * 3) == 2


def test_keys_without_break_codes_in_set_3(keyboard: Ps2Keyboard) -> None:
    send(keyboard, 0xF0, 3, 0xF9)
    keyboard.press("a")
    keyboard.release("a")
    assert drain(keyboard) == "1c"
    send(keyboard, 0xF8)
    keyboard.release("a")
    assert drain(keyboard) == "f0 1c"


def test_key_types_of_single_keys_are_reported() -> None:
    reports: list[str] = []
    keyboard = Ps2Keyboard(on_unmodelled=reports.append)
    assert send(keyboard, 0xFC) == "fa"
    assert reports == ["keyboard command FCh: key types of single keys in set 3"]


def test_queues_are_bounded(keyboard: Ps2Keyboard) -> None:
    for _ in range(1000):
        keyboard.write(0xEE)
        keyboard.press("Up")
    assert len(drain(keyboard).split()) <= 32


def test_state_survives_save_and_load(keyboard: Ps2Keyboard) -> None:
    send(keyboard, 0xED, 3, 0xF0, 1)
    keyboard.press("LeftShift")
    keyboard.write(0xF3)
    other = Ps2Keyboard()
    other.load(json.loads(json.dumps(keyboard.save())))
    assert other == keyboard
    assert send(other, 0x15) == "fa fa 2a"
    assert (other.typematic, other.held) == (0x15, ["LeftShift"])
