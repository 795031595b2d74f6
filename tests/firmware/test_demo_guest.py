"""The demo guest on a machine that is independent of this project: what it says there is what processors show."""

import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from firmware.build import build_bios, build_vga_rom
from firmware.demo_guest import FLOPPY_SIZE, build_demo

SECONDS = 60
MNEMONICS = "SGDT SIDT SLDT SMSW PUSHF POPF LAR LSL VERR VERW POP PUSH CALL JMP INT RET STR MOV"
MARKER = (0x564D4D21).to_bytes(4, "little")


def run_in_qemu(directory: Path, image: bytes, *options: str) -> list[str]:
    """Boot `image` as floppy A: and return the lines it wrote to COM1, up to the one with the totals."""
    if shutil.which("qemu-system-i386") is None:
        pytest.skip("needs qemu-system-i386")
    floppy = directory / "demo.img"
    floppy.write_bytes(image)
    command = [
        *("qemu-system-i386", "-m", "16", "-display", "none", "-net", "none", "-serial", "stdio", "-boot", "a"),
        *("-drive", f"file={floppy},format=raw,if=floppy", *options),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            return _lines(process)
        finally:
            process.kill()


def _lines(process: "subprocess.Popen[bytes]") -> list[str]:
    assert process.stdout is not None
    said = ""
    deadline = time.monotonic() + SECONDS
    while not said.endswith("wrong\r\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096).decode("ascii", "replace") if ready else ""
        if not chunk:
            pytest.fail(f"the guest stopped at {said[-200:]!r}")
        said += chunk
    return said.splitlines()


def our_firmware(directory: Path) -> list[str]:
    """The ISA PC with our two ROMs; its local APIC would stand between the 8259A and the processor."""
    bios, vga = directory / "bios.rom", directory / "vga.rom"
    bios.write_bytes(build_bios())
    vga.write_bytes(build_vga_rom())
    return [
        *("-M", "isapc", "-cpu", "pentium3,-apic", "-bios", str(bios)),
        *("-device", f"loader,file={vga},addr=0xc0000,force-raw=on"),
    ]


@pytest.mark.parametrize("ours", [False, True], ids=["seabios", "our_bios"])
def test_every_check_passes_on_an_independent_machine(tmp_path: Path, ours: bool) -> None:
    lines = run_in_qemu(tmp_path, build_demo(), *(our_firmware(tmp_path) if ours else ()))
    assert [line for line in lines if line.endswith("WRONG")] == []
    assert lines[-2:] == ["done, halting", "glassvisor demo: 36 checks, 0 wrong"]


def test_both_modes_show_all_critical_instructions_and_interrupts(tmp_path: Path) -> None:
    lines = run_in_qemu(tmp_path, build_demo())
    names = [line.split()[0] for line in lines]
    table = [*MNEMONICS.split(), "timer", "keys"]
    assert names == ["glassvisor", "REAL", *table, "glassvisor", "RING", *table, "done,", "glassvisor"]
    assert max(map(len, lines)) < 80


def test_a_wrong_value_is_called_wrong_and_counted(tmp_path: Path) -> None:
    image = build_demo()
    at = image.rindex(MARKER)  # what POP and MOV read through ES; the code compares with the value itself
    lines = run_in_qemu(tmp_path, image[:at] + b"\0\0\0\0" + image[at + 4 :])
    assert [line.split()[0] for line in lines if line.endswith("WRONG")] == ["POP", "POP", "MOV"]
    assert lines[-1] == "glassvisor demo: 36 checks, 3 wrong"


def test_image_is_a_bootable_floppy_of_one_track() -> None:
    image = build_demo()
    assert (len(image), image[510:512]) == (FLOPPY_SIZE, b"\x55\xaa")
    assert image[18 * 512 :].strip(b"\0") == b""
