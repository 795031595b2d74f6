"""Linux the long way, from media: BIOS, GRUB, kernel; another BIOS; the Debian installer."""

import pytest

from tests.boot.conftest import ENGINES, by
from tests.boot.linux.guests import LIMIT, READY, linux_image

pytestmark = pytest.mark.boot


@pytest.mark.parametrize("engine", ENGINES)
def test_grub_loads_linux_from_a_cd(vmm, image, engine):
    words = ("--memory", "128M", "--serial", "s.txt", "--until", READY, *by(engine))
    run = vmm(image("linux-cd.iso"), *words, timeout=LIMIT)
    assert READY in run.text("s.txt")
    assert run.status == 0, run.err


SEABIOS = [
    pytest.param("grub-rescue-floppy.img", "GNU GRUB", id="a_floppy"),
    pytest.param("linux-cd.iso", READY, id="linux_from_a_cd"),
]


@pytest.mark.parametrize(("medium", "until"), SEABIOS)
def test_seabios_boots(vmm, image, medium, until):
    words = ("--bios", image("seabios.bin"), "--memory", "128M", "--serial", "s.txt", "--screenshot", "screen.txt")
    run = vmm(image(medium), *words, "--until", until, timeout=LIMIT)
    assert until in run.text("s.txt") + run.text("screen.txt")
    assert run.status == 0, run.err


@pytest.mark.slow
def test_the_debian_installer_on_the_serial_console(vmm):
    files = ("--kernel", linux_image("installer-linux"), "--initrd", linux_image("installer-initrd.gz"))
    append = "console=ttyS0 vga=normal quiet"
    words = ("--memory", "512M", "--serial", "s.txt", "--until", "Select a language")
    run = vmm(*files, "--append", append, *words, timeout=2 * LIMIT)
    assert run.status == 0, run.err


@pytest.mark.slow
def test_the_debian_installer_on_the_screen(vmm):
    files = ("--kernel", linux_image("installer-linux"), "--initrd", linux_image("installer-initrd.gz"))
    words = ("--memory", "512M", "--until", "Select a language", "--screenshot", "screen.png")
    run = vmm(*files, "--append", "vga=normal quiet fb=false", *words, timeout=2 * LIMIT)
    assert run.status == 0, run.err
