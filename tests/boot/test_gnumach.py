"""GNU Mach as a guest: a kernel whose drivers, Linux 2.0's, probe the board without being told what to expect."""

import re
import subprocess
import threading
from typing import Final

import pytest

pytestmark = pytest.mark.boot

END: Final = "No bootstrap code loaded"
"""It has probed everything, and panics: nobody gave it a first program."""
QEMU_LIMIT: Final = 120

MASKS: Final = (
    (r"(structure|entry) at 0x\w+", r"\1"),  # where the BIOS has its services
    (r"^(hd\d: ).*?, (\d+MB w/.*(CHS=[0-9/]+).*|ATAPI CDROM drive)$", r"\1*, \2"),  # the model
    (r"\d+MB w/.*(CHS=[0-9/]+).*", r"\1"),  # its cache; ", DMA" where the BIOS has left bus mastering on
    (r"^(FDC 0 is an? ).*", r"\1*"),
    (r"^(Floppy drive\(s\): fd0 is ).*", r"\1*"),
)
DEVICES: Final = re.compile(r"^(hd|ide\d|intnull|Floppy|FDC|com|scsi :| hd|pcibios|PCI|ide: Intel|    Contr)")


def devices(text: str) -> list[str]:
    """What it says that it found, without model strings and addresses of BIOS code."""
    found = [line for line in re.split(r"[\r\n]+", text) if DEVICES.match(line)]
    for pattern, instead in MASKS:
        found = [re.sub(pattern, instead, line) for line in found]
    return found


def test_it_finds_the_devices_that_it_finds_on_qemu(vmm, image):
    """A printer port is QEMU's alone, and its BIOS leaves bus mastering off."""
    kernel, disk, cd, floppy = (
        image(name) for name in ("gnumach", "syslinux-disk.img", "grub-cd.iso", "syslinux-floppy.img")
    )
    append = ("--append", "console=com0", "--serial", "serial.txt", "--memory", "64M")
    run = vmm("--kernel", kernel, *append, "--disk", disk, "--cdrom", cd, "--floppy", floppy, "--until", END)
    assert run.status == 0, run.err
    words = (
        "qemu-system-i386", "-accel", "tcg", "-m", "64", "-nic", "none", "-vga", "std", "-display", "none",
        "-serial", "stdio", "-serial", "null", "-parallel", "none", "-monitor", "none", "-snapshot",
        "-drive", f"file={disk},format=raw,index=0", "-cdrom", cd, "-drive", f"file={floppy},format=raw,if=floppy",
        "-kernel", kernel, "-append", "console=com0",
    )  # fmt: skip
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as qemu:
        assert qemu.stdout is not None
        limit = threading.Timer(QEMU_LIMIT, qemu.kill)
        limit.start()
        told = ""
        for line in qemu.stdout:
            told += line
            if END in line:
                break
        limit.cancel()
        qemu.kill()
    ours, theirs = devices(run.text("serial.txt")), devices(told)
    assert len(ours) > 15
    assert ours == theirs
