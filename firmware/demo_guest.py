"""The demo guest: a floppy that boots through any BIOS, shows the critical instructions and interrupts, and halts.

    python -m firmware.demo_guest --out FILE      writes the floppy image

Source: its own assembly in `firmware/demo`; `main.s` there tells the story.
"""

import argparse
from pathlib import Path
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


def main() -> None:
    """Write the image to a file."""
    parser = argparse.ArgumentParser(prog="python -m firmware.demo_guest", description="Build the demo guest.")
    parser.add_argument("--out", type=Path, required=True, help="the floppy image to write")
    out: Path = parser.parse_args().out
    out.write_bytes(build_demo())


if __name__ == "__main__":
    main()
