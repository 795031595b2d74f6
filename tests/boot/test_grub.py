"""GRUB 2 and GRUB Legacy, as Debian ships them, to their prompts and through their commands."""

import re

import pytest

from tests.boot.conftest import ENGINES, SCRIPTS, by

pytestmark = pytest.mark.boot

MIB = 1 << 20
ROUND_TRIPS = 2_000


def available(lsmmap: str) -> dict[int, int]:
    """The ranges of available RAM that `lsmmap` printed: length by base."""
    rows = re.findall(r"base_addr = 0x([0-9a-f]+), length = 0x([0-9a-f]+), available RAM", lsmmap)
    return {int(base, 16): int(length, 16) for base, length in rows}


@pytest.mark.parametrize("memory", [16, 64, 256, 1024])
def test_grub_rescue_floppy_answers_and_lsmmap_agrees_with_memory(vmm, image, memory):
    floppy = image("grub-rescue-floppy.img")
    script = SCRIPTS / "grub-commands.script"
    run = vmm(floppy, "--as", "floppy", "--memory", f"{memory}M", "--script", script, "--stats", "stats.json")
    assert (run.status, run.heading) == (0, "the script ended (status 0)")
    assert "GNU GRUB" in run.text("menu.txt")
    assert available(run.text("lsmmap.txt")) == {0: 0x9FC00, MIB: (memory - 1) * MIB}
    # Each call of the BIOS is a way from protected to real mode and back: far jumps into a 16-bit segment, into real
    # mode and into the 32-bit segment. A key that is waited for is one call each time round.
    assert run.stats()["callouts"]["ljmp"] >= 3 * ROUND_TRIPS
    assert run.stats()["unmodelled"] == {}


def test_grub_rescue_image_boots_as_what_it_looks_like(vmm, image):
    run = vmm(image("grub-rescue-floppy.img"), "--until", "GNU GRUB")
    assert run.status == 0


def test_grub_does_the_same_on_every_engine(vmm, image):
    words = (image("grub-rescue-floppy.img"), "--as", "floppy", "--script", SCRIPTS / "grub-commands.script")
    told = []
    for engine in ENGINES:
        run = vmm(*words, *by(engine))
        assert (run.status, run.heading) == (0, "the script ended (status 0)")
        told.append(available(run.text("lsmmap.txt")))
    assert told == [told[0]] * len(ENGINES)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "script"), [("grub-rescue-cdrom.iso", "grub-menu-cd.script"), ("grub-cd.iso", "grub-prompt-cd.script")]
)
def test_grub_boots_from_an_el_torito_cd_and_lists_it(vmm, image, name, script, engine):
    run = vmm(image(name), "--script", SCRIPTS / script, *by(engine))
    assert (run.status, run.heading) == (0, "the script ended (status 0)")
    assert re.search(r"^boot/", run.text("ls.txt"), re.MULTILINE)


def test_grub_legacy_sees_the_memory_and_reads_the_floppy(vmm, image):
    run = vmm(image("grub-legacy-floppy.img"), "--script", SCRIPTS / "grub-legacy.script")
    assert (run.status, run.heading) == (0, "the script ended (status 0)")
    assert "Length:   0x0 X 4GB + 0x3f00000 bytes" in run.text("displaymem.txt")
