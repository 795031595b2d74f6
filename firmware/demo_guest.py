"""The demo guest: a floppy that boots through any BIOS, shows the critical instructions and interrupts, and halts.

Source: its own assembly in `firmware/demo`; `main.s` there tells the story.
"""

from typing import Final

from firmware.assembler import assemble_files
from firmware.build import cached, sources

FLOPPY_SIZE: Final = 80 * 2 * 18 * 512
_TRACK_SIZE: Final = 18 * 512  # the boot sector loads the rest of its track, no more
_ORIGIN: Final = 0x7C00


def build_demo() -> bytes:
    """Return the image of a 1.44 MB floppy disk."""
    return cached("demo", _make_track).ljust(FLOPPY_SIZE, b"\0")


def _make_track() -> bytes:
    code = assemble_files(sources("demo")).flat(_ORIGIN)
    if len(code) > _TRACK_SIZE:
        raise ValueError(f"the demo guest has {len(code)} bytes, a track holds {_TRACK_SIZE}")
    return code
