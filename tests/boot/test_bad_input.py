"""What a user can get wrong: one clear line, status 2, no traceback, nothing written."""

import fcntl
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.conftest import GRACE, SECTOR, command, environment

MIB = 1 << 20
SIGNATURE = b"\x55\xaa"


def boot_floppy(path: Path) -> Path:
    path.write_bytes((b"\xeb\xfe".ljust(SECTOR - 2, b"\0") + SIGNATURE).ljust(1440 << 10, b"\0"))
    return path


def multiboot(path: Path, load: int = MIB, checksum: int | None = None, size: int = 64) -> Path:
    """A kernel with addresses in its header, at its very beginning."""
    magic, flags = 0x1BADB002, 1 << 16
    if checksum is None:
        checksum = -(magic + flags) & 0xFFFF_FFFF
    header = struct.pack("<8I", magic, flags, checksum, load, load, load + size, 0, load + 32)
    path.write_bytes((header + b"\xf4").ljust(size, b"\0"))
    return path


def holding(name: str, content: bytes) -> Callable[[Path], list[object]]:
    """An image of this content."""

    def make(directory: Path) -> list[object]:
        path = directory / name
        path.write_bytes(content)
        return [path]

    return make


def directory_as_image(directory: Path) -> list[object]:
    (directory / "folder").mkdir()
    return [directory / "folder"]


def oversized_floppy(directory: Path) -> list[object]:
    path = directory / "big.img"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
    return [path, "--as", "floppy"]


def oversized_disk(directory: Path) -> list[object]:
    path = directory / "huge.img"
    with path.open("wb") as file:
        file.truncate(200 << 30)  # sparse
    return [str(path)]


def unreadable(directory: Path) -> list[object]:
    if os.geteuid() == 0:
        pytest.skip("root can read everything")
    path = boot_floppy(directory / "secret.img")
    path.chmod(0)
    return [str(path)]


def with_floppy(*words: object) -> Callable[[Path], list[object]]:
    return lambda directory: [boot_floppy(directory / "good.img"), *words]


def with_script(text: str) -> Callable[[Path], list[object]]:
    def make(directory: Path) -> list[object]:
        (directory / "bad.script").write_text(text)
        return [boot_floppy(directory / "good.img"), "--script", directory / "bad.script"]

    return make


def with_bios(size: int) -> Callable[[Path], list[object]]:
    def make(directory: Path) -> list[object]:
        (directory / "rom.bin").write_bytes(bytes(size))
        return [boot_floppy(directory / "good.img"), "--bios", directory / "rom.bin"]

    return make


def kernel(**how: int) -> Callable[[Path], list[object]]:
    return lambda directory: ["--kernel", multiboot(directory / "kernel.bin", **how)]


CASES = {
    "no_arguments_to_boot": (lambda _: [], "nothing to boot"),
    "missing_image": (lambda d: [d / "none.img"], "No such file"),
    "empty_image": (holding("empty.img", b""), "empty"),
    "directory": (directory_as_image, "is a directory"),
    "unreadable_image": (unreadable, "Permission denied"),
    "truncated_floppy": (holding("cut.img", bytes(1000)), "not a whole number of 512-byte sectors"),
    "truncated_cd": (holding("cut.iso", bytes(0x8001) + b"CD001" + bytes(99)), "not a whole number of 2048-byte"),
    "oversized_floppy": (oversized_floppy, "too large for a floppy"),
    "oversized_disk": (oversized_disk, "too large for a disk"),
    "no_boot_signature": (holding("blank.img", bytes(1440 << 10)), "no boot signature"),
    "no_boot_record": (holding("data.iso", bytes(0x8001) + b"CD001" + bytes(0x7FFA)), "no El Torito boot record"),
    "missing_kernel": (lambda d: ["--kernel", d / "none"], "No such file"),
    "kernel_without_header": (lambda d: ["--kernel", *holding("k.bin", bytes(4096))(d)], "Multiboot"),
    "bad_checksum": (kernel(checksum=1), "checksum"),
    "kernel_above_ram": (kernel(load=0x7000_0000), "RAM"),
    "kernel_over_the_video_ram": (kernel(load=0xA_0000), "RAM"),
    "missing_module": (lambda d: ["--kernel", multiboot(d / "k"), "--module", d / "none"], "No such file"),
    **{
        f"memory_{text}": (with_floppy("--memory", text), "--memory: expected")
        for text in ("0", "-64M", "1T", "99999G", "much", "4095", "")
    },
    "unknown_trace_kind": (with_floppy("--trace", "exit,colour"), "unknown kind 'colour'"),
    "bad_regular_expression": (with_floppy("--until", "a(b"), "--until: bad regular expression"),
    "missing_script": (with_floppy("--script", "none.script"), "No such file"),
    "bad_script_verb": (with_script("# fine\nwait 1\njump 3\n"), "bad.script:3: unknown command 'jump'"),
    "bad_script_regex": (with_script("\nexpect screen a(\n"), "bad.script:2: bad regular expression"),
    "bad_script_key": (with_script("key Foo\n"), "bad.script:1: unknown key"),
    "bad_script_wait": (with_script("wait soon\n"), "bad.script:1: expected 'wait SECONDS'"),
    "bios_of_the_wrong_size": (with_bios(5000), "a BIOS of 5000 bytes given"),
    "bios_too_large": (with_bios(MIB), "expected at most"),
    "unknown_option": (with_floppy("--colour"), "--colour"),
    "bad_boot_medium": (with_floppy("--boot", "tape"), "--boot: expected"),
    "absent_boot_medium": (with_floppy("--boot", "cdrom"), "no cdrom was given"),
    "bad_clock": (with_floppy("--clock", "sundial"), "--clock: expected"),
    "bad_on_reset": (with_floppy("--on-reset", "explode"), "--on-reset: expected"),
    "screenshot_of_no_known_format": (with_floppy("--screenshot", "x.gif"), "FILE.png or FILE.txt"),
    "screenshot_nowhere": (with_floppy("--screenshot", "no/such/dir/x.png"), "no directory"),
    "flat_outside_ram": (lambda d: ["--flat", f"{boot_floppy(d / 'f')}@0x70000000"], "RAM"),
    "saved_machine_that_is_none": (lambda d: ["--load", boot_floppy(d / "f")], "saved machine"),
    "recording_that_is_none": (lambda d: [boot_floppy(d / "g"), "--replay", boot_floppy(d / "f")], "no recording"),
}


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_a_mistake_is_one_line_and_status_2(vmm, tmp_path, make, expected):
    arguments = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run = vmm(*arguments, timeout=20)
    assert (run.status, run.out, run.err.count("\n")) == (2, "", 1), run.err
    assert run.err.startswith("vmm: ")
    assert expected in run.err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_that_another_process_writes_to_is_refused(vmm, tmp_path):
    path = boot_floppy(tmp_path / "busy.img")
    with path.open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        run = vmm(path, timeout=20)
    assert (run.status, run.err.count("\n")) == (2, 1)
    assert "in use by another" in run.err


def test_an_image_that_another_process_reads_is_not_written_to(vmm, tmp_path):
    path = boot_floppy(tmp_path / "busy.img")
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        run = vmm(path, "--write", timeout=20)
    assert (run.status, run.err.count("\n")) == (2, 1)
    assert "in use by another" in run.err


READS_AGAIN_AND_AGAIN = """
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov bx, 0x8000
again:
    mov ax, 0x0201
    mov cx, 0x0a01              # cylinder 10, which is going to go away
    mov dx, 0x0080
    int 0x13
    jc gone
    mov ax, 0x0e00 + 'R'
    int 0x10
    mov dx, 0x3f8
    out dx, al
    jmp again
gone:
    mov bp, ax                  # AH: why
    mov ax, 0x0201
    mov cx, 0x0001              # the boot sector is still there
    mov dx, 0x0080
    int 0x13
    jc end
    cmp word ptr [0x81fe], 0xaa55
    jne end
    mov ax, bp
    mov al, ah
end:
    mov dx, 0xf4
    out dx, al
"""
UNCORRECTABLE = 0x10
"""INT 13h's status for a sector that cannot be read."""


@pytest.mark.parametrize("more", [(), ("--write",)], ids=["read_only", "write"])
def test_an_image_that_shrinks_is_bad_sectors_to_the_guest_and_the_vmm_goes_on(sector, tmp_path, more):
    disk = sector(READS_AGAIN_AND_AGAIN)
    with disk.open("r+b") as file:
        file.truncate(16 * MIB)
        words = command(disk, "--as", "disk", *more, "--exit-port", "--serial", "stdio", "--timeout", 60)
        with subprocess.Popen(
            words,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"R"
            file.truncate(MIB)
            _, err = process.communicate(timeout=60 + GRACE)
    assert process.returncode == UNCORRECTABLE << 1 | 1, err
    assert b"Traceback" not in err
    assert disk.stat().st_size == MIB
