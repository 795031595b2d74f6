"""`--machine pc-test`: a test suite's kernel, and Linux with and without APICs."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.boot.conftest import ENGINES, GUESTS, TIMEOUT, by
from tests.boot.linux.guests import BASE, INITRAMFS, LIMIT, READY, linux_image
from tests.boot.test_hobby_kernel import FLAGS

PASSED: Final = (
    "Multiboot", "fw_cfg", "echo", "memory of the test device", "self IPI", "edge through the I/O APIC",
    "task priority holds", "task priority lets go", "level through the I/O APIC",
    "NMI with interrupts off, and one more", "one-shot timer", "periodic timer", "TSC deadline", "TSC deadline, asleep", "x2APIC self IPI", "disabled", "enabled again",
)  # fmt: skip


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """`guests/suite.c`, compiled."""
    made, kernel = tmp_path / "suite.o", tmp_path / "suite.elf"
    subprocess.run(["gcc", *FLAGS, "-c", GUESTS / "suite.c", "-o", made], check=True)
    link = ["ld", "-m", "elf_i386", "--no-warn-rwx-segments", "-T", GUESTS / "hobby.ld", made, "-o", kernel]
    subprocess.run(link, check=True)
    return kernel


@pytest.mark.parametrize("engine", ENGINES)
def test_a_suite_boots_through_multiboot_and_ends_through_port_f4h(vmm, suite, engine):
    words = ("--machine", "pc-test", "--memory", "32M", "--strict", *by(engine), "--serial", "said.txt")
    run = vmm("--kernel", suite, *words, timeout=TIMEOUT)
    assert run.text("said.txt") == "".join(f"PASS: {name}\n" for name in PASSED)
    assert run.status == 1, run.err


WITHOUT_APICS: Final = BASE.replace("acpi=off ", "")
LOCAL_TIMER: Final = "236"
"""The vector at which Linux takes the local APIC's timer."""
LINES: Final = [
    pytest.param(WITHOUT_APICS, False, id="noapic_nolapic"),
    pytest.param(WITHOUT_APICS.replace("noapic nolapic ", ""), True, id="madt"),
    pytest.param(BASE.replace("noapic nolapic ", ""), True, id="mp_table"),
]


@pytest.mark.boot
@pytest.mark.parametrize(("append", "has_apics"), LINES)
def test_linux_for_several_processors_boots(vmm, append, has_apics):
    files = ("--kernel", linux_image("vmlinux-686-pae"), "--initrd", linux_image(INITRAMFS), "--memory", "128M")
    words = ("--append", f"{append} gv.run=true", "--serial", "serial.txt", "--stats", "stats.json")
    run = vmm(*files, "--machine", "pc-test", *words, timeout=LIMIT)
    assert READY in run.text("serial.txt")
    assert run.status == 0, run.err
    assert (LOCAL_TIMER in run.stats()["interrupts"]) is has_apics


@pytest.mark.boot
def test_seabios_takes_it_for_qemu_and_boots(vmm, image):
    """It asks fw_cfg for memory and processors, makes an MP table and a MADT of its own, and the virtual wire."""
    words = ("--bios", image("seabios.bin"), "--machine", "pc-test", "--debugcon", "told.txt", "--until", "GNU GRUB")
    run = vmm(image("grub-rescue-floppy.img"), *words)
    assert run.status == 0, run.err
    told = run.text("told.txt")
    for line in ("Found QEMU fw_cfg", "Found 1 cpu(s) max supported 1 cpu(s)", "Copying MPTABLE"):
        assert line in told
