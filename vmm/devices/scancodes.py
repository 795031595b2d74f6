"""The codes that keys send: scan code sets 1, 2 and 3 of the IBM enhanced keyboard, US layout with the 102nd key.

Set 2 is what every keyboard speaks after reset. Set 1 is its image under the table in the 8042's ROM, so only the table
is kept. Set 3 has one code of its own for each key and no prefixes.

Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101- and 102-Key)", "Scan Code Sets";
"Keyboard/Auxiliary Device Controller" for the translation.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

EXTENDED: Final = 0xE0
BREAK: Final = 0xF0
_SET1_BREAK: Final = 0x80

# Index: a byte of set 2; value: what the controller shows in set 1.
_TRANSLATION: Final = bytes.fromhex(
    "ff43413f3d3b3c58644442403e0f2959"
    "65382a701d10025a66712c1f1e11035b"
    "672e2d201205045c68392f211413065d"
    "693130232215075e6a7232241608095f"
    "6b332517180b0a606c34352627190c61"
    "6d7328741a0d626e3a361c1b752b6376"
    "55567778797a0e7b7c4f7d4b477e7f6f"
    "5253504c4d480145574e514a37494654"
) + bytes([0x80, 0x81, 0x82, 0x41, 0x54, *range(0x85, 0x100)])


@dataclass(frozen=True, slots=True)
class KeyCodes:
    """What one key sends: its byte in set 2, whether E0h goes before it in sets 1 and 2, and its byte in set 3."""

    set2: int
    extended: bool
    set3: int


def _plain(names: str, set2: str) -> dict[str, KeyCodes]:
    """Keys with the same byte in sets 2 and 3."""
    return {name: KeyCodes(code, False, code) for name, code in zip(names.split(), bytes.fromhex(set2), strict=True)}


def _own(names: str, set2: str, set3: str) -> dict[str, KeyCodes]:
    pairs = zip(names.split(), bytes.fromhex(set2), bytes.fromhex(set3), strict=True)
    return {name: KeyCodes(code, False, third) for name, code, third in pairs}


def _extended(names: str, set2: str, set3: str) -> dict[str, KeyCodes]:
    return {name: KeyCodes(key.set2, True, key.set3) for name, key in _own(names, set2, set3).items()}


KEYS: Final[Mapping[str, KeyCodes]] = {
    **_plain("` 1 2 3 4 5 6 7 8 9 0 - =", "0e 16 1e 26 25 2e 36 3d 3e 46 45 4e 55"),
    **_plain("q w e r t y u i o p [ ]", "15 1d 24 2d 2c 35 3c 43 44 4d 54 5b"),
    **_plain("a s d f g h j k l ; '", "1c 1b 23 2b 34 33 3b 42 4b 4c 52"),
    **_plain("z x c v b n m , . /", "1a 22 21 2a 32 31 3a 41 49 4a"),
    **_plain("Tab LeftShift RightShift Space Enter Backspace", "0d 12 59 29 5a 66"),
    **_own("\\ Extra CapsLock LeftCtrl LeftAlt", "5d 61 58 14 11", "5c 13 14 11 19"),
    **_own("Esc F1 F2 F3 F4 F5 F6", "76 05 06 04 0c 03 0b", "08 07 0f 17 1f 27 2f"),
    **_own("F7 F8 F9 F10 F11 F12 ScrollLock", "83 0a 01 09 78 07 7e", "37 3f 47 4f 56 5e 5f"),
    **_plain("Keypad0 Keypad1 Keypad2 Keypad3 Keypad4", "70 69 72 7a 6b"),
    **_plain("Keypad5 Keypad6 Keypad7 Keypad8 Keypad9", "73 74 6c 75 7d"),
    **_own("Keypad. Keypad+ Keypad- Keypad* NumLock", "71 79 7b 7c 77", "71 7c 84 7e 76"),
    **_extended("Keypad/ KeypadEnter RightCtrl RightAlt", "4a 5a 14 11", "77 79 58 39"),
    **_extended("Insert Delete Home End PageUp PageDown", "70 71 6c 69 7d 7a", "67 64 6e 65 6f 6d"),
    **_extended("Up Down Left Right", "75 72 6b 74", "63 60 61 6a"),
    **_extended("LeftWin RightWin Menu", "1f 27 2f", "8b 8c 8d"),
    "PrintScreen": KeyCodes(0x7C, True, 0x57),
    "Pause": KeyCodes(0x77, False, 0x62),
}
"""Every key by name. PrintScreen and Pause send more than a code and its prefix: see `Ps2Keyboard`."""


def translate(byte: int, after_break: bool) -> tuple[int | None, bool]:
    """One byte of set 2 in; the byte of set 1, if any, and whether it was the break prefix: bit 7 of the next."""
    if byte == BREAK:
        return None, True
    return _TRANSLATION[byte] | (_SET1_BREAK if after_break else 0), False


def to_set1(set2: Iterable[int]) -> Iterator[int]:
    """A whole sequence of set 2 as a keyboard in set 1 sends it."""
    after_break = False
    for byte in set2:
        shown, after_break = translate(byte, after_break)
        if shown is not None:
            yield shown
