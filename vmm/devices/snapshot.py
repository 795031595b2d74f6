"""Save and restore of a chip: every field of its dataclass except the wiring.

A field's type on load is the type it has in the chip that is loaded into, so a fresh chip is all the schema there is.
Bytes inside a container or an optional field are recognized by the field's annotation. A dictionary becomes a list of
pairs, which keeps integer keys through JSON. Not carried: an enum in an optional field (it comes back as an int).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Final

_WIRING: Final = "wiring"


def wired(**kwargs: Any) -> Any:
    """A dataclass field that belongs to the board (a pin, a callable, a backend), not to the chip's state."""
    return field(metadata={_WIRING: True}, compare=False, repr=False, **kwargs)


def save_fields(chip: Any) -> dict[str, Any]:
    """All state fields of a dataclass instance as JSON-able values, bytes as hexadecimal strings."""
    return {f.name: _encode(getattr(chip, f.name)) for f in fields(chip) if _WIRING not in f.metadata}


def load_fields(chip: Any, state: Mapping[str, Any]) -> None:
    """Put back what `save_fields` gave; a missing or unknown name is a KeyError."""
    types = {f.name: str(f.type) for f in fields(chip) if _WIRING not in f.metadata}
    if unknown := set(state) ^ set(types):
        raise KeyError(f"{type(chip).__name__}: saved fields differ: {sorted(unknown)}")
    for name, annotation in types.items():
        _restore(chip, name, state[name], holds_bytes="bytes" in annotation)


def _encode(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, list | tuple | deque):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return [[key, _encode(item)] for key, item in value.items()]
    if hasattr(value, "save"):
        return value.save()
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _decode(value: Any, holds_bytes: bool) -> Any:
    """The inverse of `_encode` for what JSON holds; lists are copied, so that the state stays as it was."""
    if isinstance(value, list):
        return [_decode(item, holds_bytes) for item in value]
    return bytes.fromhex(value) if holds_bytes and isinstance(value, str) else value


def _restore(chip: Any, name: str, value: Any, holds_bytes: bool) -> None:
    current = getattr(chip, name)
    if hasattr(current, "load"):
        current.load(value)
    elif isinstance(current, list) and current and hasattr(current[0], "load"):
        for item, saved in zip(current, value, strict=True):
            item.load(saved)
    elif not _refill(current, value, holds_bytes):
        setattr(chip, name, _as_type_of(current, value, holds_bytes))


def _refill(current: Any, value: Any, holds_bytes: bool) -> bool:
    """Fill a buffer in place, so that whoever shares it sees the restored contents; False if it is none."""
    if isinstance(current, bytearray):
        current[:] = bytes.fromhex(value)
    elif isinstance(current, deque):
        current.clear()
        current.extend(_decode(value, holds_bytes))
    elif isinstance(current, dict):
        current.clear()
        current.update((key, _decode(item, holds_bytes)) for key, item in value)
    else:
        return False
    return True


def _as_type_of(current: Any, value: Any, holds_bytes: bool) -> Any:
    decoded = _decode(value, holds_bytes)
    if isinstance(current, tuple) and isinstance(decoded, list):
        return tuple(decoded)
    if isinstance(current, int) and not isinstance(current, bool) and isinstance(value, int):
        return type(current)(value)
    return decoded
