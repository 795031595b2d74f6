"""--write: what a guest writes is in the image, even if the VMM is killed after the flush; without it nothing is."""

import subprocess

import pytest

from tests.boot.conftest import SECTOR, command, digest, environment

MARK = b"written by the guest, and flushed"
DISK_SECTORS = 2 * 16 * 63
TARGET = 7

# A boot sector that greets with what sector 7 holds, then writes its own text there through INT 13h, flushes through
# the ATA command port (or, for a floppy, trusts INT 13h), says `!` and waits for ever.
WRITER = f"""
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    mov bx, 0x8000          # read the sector and show its first 4 bytes
    mov ax, 0x201
    call disk
    mov si, 0x8000
    mov cx, 4
2:  lodsb al, ds:[si]
    call say
    loop 2b
    mov si, offset text     # write
    mov di, 0x8000
    mov cx, {len(MARK)}
    rep movsb es:[di], ds:[si]
    mov bx, 0x8000
    mov ax, 0x301
    call disk
    jc failed
    test dl, 0x80
    jz flushed
    mov dx, 0x1f7           # FLUSH CACHE
    mov al, 0xe7
    out dx, al
3:  in al, dx
    test al, 0x80
    jnz 3b
    test al, 1
    jnz failed
flushed:
    mov al, '!
    call say
    cli
    jmp .
failed:
    mov al, '?
    call say
    cli
    hlt
disk:
    mov cx, {TARGET + 1}
    mov dh, 0
    int 0x13
    ret
say:
    push ax
    push dx
    mov ah, al
    mov dx, 0x3fd
1:  in al, dx
    test al, 0x20
    jz 1b
    mov al, ah
    mov dx, 0x3f8
    out dx, al
    pop dx
    pop ax
    ret
text: .ascii "{MARK.decode()}"
"""


@pytest.fixture(params=["floppy", "disk"])
def medium(request, sector):
    """A medium with the writer in its boot sector, and the option that says what it is."""
    path = sector(WRITER)
    size = 2880 if request.param == "floppy" else DISK_SECTORS
    path.write_bytes(path.read_bytes().ljust(size * SECTOR, b"\0"))
    return path, request.param


def target(path) -> bytes:
    return path.read_bytes()[TARGET * SECTOR :][: len(MARK)]


def test_without_write_the_guest_reads_back_what_it_wrote_and_the_image_is_unchanged(vmm, medium):
    path, kind = medium
    before = digest(path)
    run = vmm(path, "--as", kind, "--serial", "s.txt", "--until", "!", timeout=20)
    assert (run.status, run.text("s.txt")) == (0, "\0\0\0\0!")
    assert digest(path) == before


def test_with_write_the_sector_is_there_after_a_restart(vmm, medium):
    path, kind = medium
    before = path.read_bytes()
    for expected in ("\0\0\0\0!", MARK[:4].decode() + "!"):
        run = vmm(path, "--as", kind, "--write", "--serial", "s.txt", "--until", "!", timeout=20)
        assert (run.status, run.text("s.txt")) == (0, expected)
    changed = bytearray(before)
    changed[TARGET * SECTOR : TARGET * SECTOR + len(MARK)] = MARK
    assert path.read_bytes() == changed


def test_with_write_the_sector_is_there_when_the_vmm_is_killed_right_after_the_flush(medium, tmp_path):
    path, kind = medium
    words = command(path, "--as", kind, "--write", "--serial", "stdio", "--timeout", 60)
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        heard = b""
        while not heard.endswith(b"!"):
            byte = process.stdout.read(1)
            assert byte, heard
            heard += byte
        process.kill()
    assert target(path) == MARK


def test_a_reset_keeps_what_was_written_aside(vmm, sector):
    """Changes that are kept aside outlive a reset of the guest: the second time round the sector reads as written."""
    path = sector(WRITER.replace("cli\n    jmp .", "mov al, 0xfe; out 0x64, al; jmp .", 1))
    path.write_bytes(path.read_bytes().ljust(2880 * SECTOR, b"\0"))
    until = MARK[:4].decode() + "!"
    run = vmm(path, "--serial", "s.txt", "--until", until, timeout=20)
    assert (run.status, run.text("s.txt")[:10]) == (0, "\0\0\0\0!" + until)
