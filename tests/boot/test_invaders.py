"""GRUB Invaders: a Multiboot kernel that draws into text memory and polls the timer and the keyboard controller."""

import re

import pytest
from PIL import Image

from tests.boot.conftest import SCRIPTS

pytestmark = pytest.mark.boot

MAGENTA = (0xAA, 0, 0xAA)


def ship_column(screen: str) -> int:
    found = re.search(r"^( +)/ \\", screen, re.MULTILINE)
    assert found
    return len(found[1])


def ship_pixels(picture: Image.Image) -> tuple[int, int]:
    """The leftmost and rightmost magenta pixel: nothing else on the screen has the ship's colour."""
    rgb = picture.convert("RGB")
    columns = [x for x in range(rgb.width) for y in range(rgb.height) if rgb.getpixel((x, y)) == MAGENTA]
    return min(columns), max(columns)


def test_keys_move_the_ship_and_a_screenshot_shows_it(vmm, image):
    run = vmm("--kernel", image("invaders.exec"), "--script", SCRIPTS / "invaders.script")
    assert (run.status, run.heading) == (0, "the script ended (status 0)")
    start, right, left = (ship_column(run.text(f"{name}.txt")) for name in ("start", "right", "left"))
    assert left < start < right
    pixels = {name: ship_pixels(Image.open(run.directory / f"{name}.png")) for name in ("start", "right", "left")}
    cell = 9  # pixels: a character cell of 80x25 text
    assert pixels["right"][0] - pixels["start"][0] == (right - start) * cell
    assert pixels["left"][0] - pixels["start"][0] == (left - start) * cell
