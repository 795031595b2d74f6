"""Linux and its disks: what it wrote is there after a reboot, and after the VMM is killed."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.boot.conftest import command, environment
from tests.boot.linux.guests import BASE, HERE, LIMIT, READY, WITH_PCI, between, linux_image, serial, with_files

pytestmark = pytest.mark.boot

MIB: Final = 1 << 20


@pytest.fixture
def ext4(tmp_path) -> Callable[[int], Path]:
    """Return `ext4(mebibytes)`: an image with a file system made by the host."""
    maker = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if maker is None:
        pytest.skip("no mkfs.ext4 on this host")

    def make(mebibytes: int) -> Path:
        path = tmp_path / "disk.img"
        with path.open("wb") as file:
            file.truncate(mebibytes * MIB)
        subprocess.run([maker, "-q", "-F", path], check=True, capture_output=True)
        return path

    return make


def fsck(path: Path) -> None:
    """Assert that the host finds nothing wrong with a file system."""
    words = ["e2fsck", "-f", "-n", path]
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout


def disk_words(what: str, megabytes: int, driver: str = "ata_piix") -> str:
    kernel = WITH_PCI if driver == "ata_piix" else BASE
    return f"{kernel} gv.mods={driver},sd_mod,crc32c_generic,ext4 gv.run=disk gv.disk={what} gv.megabytes={megabytes}"


@pytest.fixture
def disk_tools(tmp_path) -> Callable[[str], Path]:
    """Return `disk_tools(flavour)`: an initial file system with that kernel's modules and `linux/disk`."""

    def make(flavour: str) -> Path:
        return with_files(tmp_path, linux_image(f"initramfs-{flavour}.cpio.gz"), disk=(HERE / "disk").read_bytes())

    return make


DRIVERS = [
    pytest.param("ata_piix", "", r"XFER_(UDMA|MW_DMA)_\d", id="bus_master_dma"),
    pytest.param("ata_piix", " libata.dma=0", r"XFER_PIO_\d", id="pio", marks=pytest.mark.slow),
    pytest.param("pata_legacy", "", r"XFER_PIO_\d", id="legacy", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("driver", "option", "mode"), DRIVERS)
def test_files_on_a_disk_are_there_after_a_reboot(boot, disk_tools, ext4, driver, option, mode):
    """The reboot is one by the keyboard controller. Then the guest may not change the file, and does not know it: the
    `boot` fixture asserts that no run changes a file that it was given without --write."""
    disk = ext4(64)
    reset = (" reboot=k gv.end=reboot", "--write", "--on-reset", "exit")
    for what, said, end, *more in (("write", "DISK-SYNCED", *reset), ("verify", "DISK-VERIFIED 8", "")):
        append = disk_words(what, 8, driver) + option + end
        run = boot("vmlinux-686-pae", append, "--disk", disk, *more, initrd=disk_tools("686-pae"))
        lines = between(serial(run), READY, "DISK-END")
        assert said in lines
        assert any(re.fullmatch(f"DISK-MODE ({mode})", line) for line in lines), lines
        assert run.status == 0, run.err
    fsck(disk)


def test_killed_after_sync_nothing_is_lost(boot, disk_tools, ext4, tmp_path):
    disk = ext4(64)
    words = command("--kernel", linux_image("vmlinux-686-pae"), "--initrd", disk_tools("686-pae"), "--append",
                    disk_words("write", 8), "--memory", "128M", "--disk", disk, "--write", "--serial", "stdio",
                    "--timeout", LIMIT)  # fmt: skip
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        heard = b""
        while b"DISK-SYNCED" not in heard:
            byte = process.stdout.read(1)
            assert byte, heard
            heard += byte
        process.kill()
    run = boot("vmlinux-686-pae", disk_words("verify", 8), "--disk", disk, "--write", initrd=disk_tools("686-pae"))
    assert "DISK-VERIFIED 8" in between(serial(run), READY, "DISK-END")
    fsck(disk)


@pytest.mark.slow
def test_two_hundred_megabytes_on_a_disk(boot, disk_tools, ext4):
    disk = ext4(400)
    for what, said in (("write", "DISK-SYNCED"), ("verify", "DISK-VERIFIED 200")):
        words = (disk_words(what, 200), "--disk", disk, "--write")
        run = boot("vmlinuz-686", *words, initrd=disk_tools("686"), timeout=3 * LIMIT)  # cmp takes a second a mebibyte
        assert said in between(serial(run), READY, "DISK-END")
        assert run.status == 0, run.err
    fsck(disk)
