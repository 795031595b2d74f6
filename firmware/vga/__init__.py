"""The VGA option ROM: its sources, and the glyphs that go into it."""

from collections.abc import Iterator
from typing import Final

from vmm.devices.font import FONT_8X8, FONT_8X14, FONT_8X16

_FONTS: Final = {"font_8x16": FONT_8X16, "font_8x14": FONT_8X14, "font_8x8": FONT_8X8}


def font_source() -> str:
    """Return the glyphs as assembly: labels `font_8x16`, `font_8x14`, `font_8x8`, 256 glyphs each, a line a glyph."""
    return "\n".join(line for label, font in _FONTS.items() for line in _glyphs(label, font))


def _glyphs(label: str, font: bytes) -> Iterator[str]:
    height = len(font) // 256
    yield f"{label}:"
    for start in range(0, len(font), height):
        yield f".byte {', '.join(map(str, font[start : start + height]))}"
