r"""Names of keys, and text as the keys that type it on a US keyboard.

A key name is one of `scancodes.KEYS` (`a`, `F10`, `Up`, `Keypad7`), an alias (`Ctrl`, `Return`, `PgUp`) or a character
(`A`, `?`), in any case unless it is a character. Modifiers go before it with `+` or `-`: `Ctrl+C`, `Alt-F1`,
`Ctrl-Alt-Delete`.

In a text, `\n` `\r` `\t` `\b` `\e` are Enter, Enter, Tab, Backspace and Esc, `\\` and `\<` the characters themselves,
and `<Name>` is a key. A control character is the key that a terminal makes it from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vmm.devices.ps2_keyboard import KeyEvent
from vmm.devices.scancodes import KEYS
from vmm.errors import ConfigError

_SHIFTED: Final = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_CONTROL_KEYS: Final = {
    "\n": "Enter",
    "\r": "Enter",
    "\t": "Tab",
    "\b": "Backspace",
    "\x7f": "Backspace",
    "\x1b": "Esc",
}
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "e": "\x1b", "\\": "\\", "<": "<"}
_CTRL_PUNCTUATION: Final = {"\0": "2", "\x1c": "\\", "\x1d": "]", "\x1e": "6", "\x1f": "-"}

_MODIFIERS: Final = {"ctrl": "LeftCtrl", "alt": "LeftAlt", "shift": "LeftShift", "win": "LeftWin", "altgr": "RightAlt"}
_ALIASES: Final = {
    **_MODIFIERS,
    "return": "Enter",
    "escape": "Esc",
    "del": "Delete",
    "ins": "Insert",
    "pgup": "PageUp",
    "pgdn": "PageDown",
    "bs": "Backspace",
    "print": "PrintScreen",
}
_CHARACTER_NAMES: Final = {"lt": "<", "gt": ">"}
_NAMES: Final[Mapping[str, str]] = {name.lower(): name for name in KEYS if len(name) > 1} | _ALIASES


@dataclass(frozen=True, slots=True)
class KeyStroke:
    """One key struck while modifiers are held; both by their names in `scancodes.KEYS`."""

    key: str
    modifiers: tuple[str, ...] = ()

    def events(self) -> list[KeyEvent]:
        """Modifiers down, the key down and up, modifiers up."""
        return [
            *(KeyEvent(modifier, True) for modifier in self.modifiers),
            KeyEvent(self.key, True),
            KeyEvent(self.key, False),
            *(KeyEvent(modifier, False) for modifier in reversed(self.modifiers)),
        ]


def stroke_for_character(character: str) -> KeyStroke:
    """The key that types a character, or that a terminal sends as this control character.

    Raises: ConfigError: a US keyboard has no key for it.
    """
    if character == " ":
        return KeyStroke("Space")
    if character in _CONTROL_KEYS:
        return KeyStroke(_CONTROL_KEYS[character])
    if character in _SHIFTED:
        return KeyStroke(_SHIFTED[character], ("LeftShift",))
    if character in KEYS:
        return KeyStroke(character)
    if "A" <= character <= "Z":
        return KeyStroke(character.lower(), ("LeftShift",))
    if character < " ":
        return KeyStroke(_CTRL_PUNCTUATION.get(character) or chr(ord(character) + ord("`")), ("LeftCtrl",))
    raise ConfigError(f"no key of a US keyboard types {character!r}; name keys as <Name>")


def stroke_for_name(name: str) -> KeyStroke:
    """The stroke for a key name with its modifiers, such as `F10` or `Ctrl-Alt-Delete`.

    Raises: ConfigError: no such key.
    """
    modifiers: list[str] = []
    rest = name
    while (cut := _after_modifier(rest)) is not None:
        modifiers.append(_MODIFIERS[rest[: cut - 1].lower()])
        rest = rest[cut:]
    if rest.lower() in _NAMES:
        return KeyStroke(_NAMES[rest.lower()], tuple(modifiers))
    rest = _CHARACTER_NAMES.get(rest.lower(), rest)
    if len(rest) != 1 or rest < " ":
        raise ConfigError(
            f"unknown key {name!r}: expected a character or a name such as Enter, Esc, F10, Up, Ctrl-c, Alt-F1"
        )
    if modifiers:  # Ctrl+C names the key c; Shift has to be asked for
        rest = rest.lower()
    stroke = stroke_for_character(rest)
    added = tuple(modifier for modifier in stroke.modifiers if modifier not in modifiers)
    return KeyStroke(stroke.key, (*modifiers, *added))


def keys_for_text(text: str) -> list[KeyStroke]:
    """The strokes that type a text.

    Raises: ConfigError: an unknown key, an unknown escape, or a `<` without its `>`.
    """
    strokes = []
    position = 0
    while position < len(text):
        character = text[position]
        if character == "<":
            end = text.find(">", position + 2)
            if end < 0:
                raise ConfigError(f"{text[position:]!r} has no '>'; write \\< for the character itself")
            strokes.append(stroke_for_name(text[position + 1 : end]))
            position = end + 1
        elif character == "\\":
            strokes.append(stroke_for_character(_unescape(text[position + 1 : position + 2])))
            position += 2
        else:
            strokes.append(stroke_for_character(character))
            position += 1
    return strokes


def _after_modifier(name: str) -> int | None:
    """Where the rest of a name begins if it starts with a modifier and a joint."""
    cuts = [at for joint in "+-" if (at := name.find(joint)) > 0]
    if not cuts or name[: min(cuts)].lower() not in _MODIFIERS or min(cuts) + 1 == len(name):
        return None
    return min(cuts) + 1


def _unescape(letter: str) -> str:
    if letter not in _ESCAPES:
        raise ConfigError(
            f"unknown escape '\\{letter}': expected one of " + " ".join(f"\\{known}" for known in _ESCAPES)
        )
    return _ESCAPES[letter]
