"""Fingers: strokes as keys that stay down for a while."""

import pytest

from vmm.devices.fingers import HOLD_NS, Fingers
from vmm.devices.keymap import KeyStroke, stroke_for_name
from vmm.devices.ps2_keyboard import Ps2Keyboard

RIGHT_MAKE, RIGHT_BREAK = [0xE0, 0x74], [0xE0, 0xF0, 0x74]


@pytest.fixture
def fingers() -> Fingers:
    return Fingers(Ps2Keyboard())


def taken(fingers: Fingers) -> list[int]:
    """All that the keyboard has to say."""
    codes = []
    while (code := fingers.keyboard.take()) is not None:
        codes.append(code)
    return codes


def test_a_key_stays_down_until_its_time_is_over(fingers: Fingers) -> None:
    fingers.strike(KeyStroke("Right"), 1000)
    assert (taken(fingers), fingers.next_deadline()) == (RIGHT_MAKE, 1000 + HOLD_NS)
    fingers.advance(1000 + HOLD_NS - 1)
    assert taken(fingers) == []
    fingers.advance(1000 + HOLD_NS)
    assert (taken(fingers), fingers.next_deadline()) == (RIGHT_BREAK, None)


def test_the_next_stroke_lets_the_last_one_go(fingers: Fingers) -> None:
    fingers.strike(KeyStroke("a"), 0)
    fingers.strike(KeyStroke("b", ("LeftShift",)), 10)
    assert taken(fingers) == [0x1C, 0xF0, 0x1C, 0x12, 0x32]
    fingers.advance(10 + HOLD_NS)
    assert taken(fingers) == [0xF0, 0x32, 0xF0, 0x12]


def test_no_movement_is_lost_when_the_buffer_is_nearly_full(fingers: Fingers) -> None:
    """Ctrl+Alt+Del once left Ctrl down for ever: its last break code found no room."""
    heard = []
    for count in range(4):
        fingers.strike(stroke_for_name("Ctrl-Alt-Delete"), count)
    assert not fingers.is_free()
    for _ in range(40):
        heard += taken(fingers)
        fingers.advance(HOLD_NS + 4)
    assert (heard.count(0x71), fingers.keyboard.held, fingers.is_free()) == (8, [], True)


def test_nothing_moves_while_scanning_is_off(fingers: Fingers) -> None:
    fingers.keyboard.scanning = False
    assert not fingers.is_free()


def test_keys_held_are_saved(fingers: Fingers) -> None:
    fingers.strike(KeyStroke("Right"), 5)
    state = fingers.save()
    other = Fingers(Ps2Keyboard())
    other.load(state)
    other.keyboard.load(fingers.keyboard.save())
    assert other.save() == state
    other.advance(5 + HOLD_NS)
    assert taken(other) == RIGHT_MAKE + RIGHT_BREAK
