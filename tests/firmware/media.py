"""Boot sectors and images for the tests of the disk services, and the machine that they run on.

The machine is QEMU's ISA PC, which is independent of this project; what runs on it is our BIOS and the boot sector.
"""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest

from firmware.assembler import assemble_text
from firmware.build import build_bios, build_vga_rom

SECTOR: Final = 512
CD_SECTOR: Final = 2048
BOOT_RECORD: Final = 17  # sectors of the CD images made here
CATALOG: Final = 19
IMAGE: Final = 20
_FIRST_DISK_SECTORS: Final = 16 * 63
_SECONDS: Final = 30

# Every program starts here, at 0000:7C00, and ends at `done`. `say` prints AX in hexadecimal and a blank, `carry`
# prints C or -; both change nothing.
_PRELUDE: Final = """
    ljmp 0:program
done:
    mov al, 0
    out 0xF4, al
    hlt
carry:
    pushf
    push ax
    mov al, 'C'
    jc 1f
    mov al, '-'
1:
    out 0xE9, al
    pop ax
    popf
    ret
say:
    pushf
    pusha
    mov cx, 4
1:
    rol ax, 4
    mov bl, al
    and al, 15
    cmp al, 10
    jb 2f
    add al, 'a' - '0' - 10
2:
    add al, '0'
    out 0xE9, al
    mov al, bl
    loop 1b
    mov al, ' '
    out 0xE9, al
    popa
    popf
    ret
program:
    mov bx, 0
    mov ds, bx
    mov es, bx
    mov ss, bx
    mov sp, 0x7C00
    cld
"""

# RESULT prints CF and AX; DO calls INT 13h with `ax` and does the same. PACKET puts a disk address packet where DS:SI
# points. SUM prints the sum of the bytes at DS:SI in the upper half of a word.
_MACROS: Final = """
.macro RESULT
    call carry
    call say
.endm
.macro DO ax
    mov ax, \\ax
    int 0x13
    RESULT
.endm
.macro SAY value
    mov ax, \\value
    call say
.endm
.macro SAY_BYTE value
    mov al, \\value
    mov ah, 0
    call say
.endm
.macro SUM bytes
    mov cx, \\bytes
    mov ah, 0
1:
    lodsb
    add ah, al
    loop 1b
    mov al, 0
    call say
.endm
.macro PACKET count, offset, segment, sector
    mov si, 0x600
    mov word ptr [si], 0x10
    mov word ptr [si+2], \\count
    mov word ptr [si+4], \\offset
    mov word ptr [si+6], \\segment
    mov dword ptr [si+8], \\sector
    mov dword ptr [si+12], 0
.endm
"""


def run(tmp_path: Path, code: str, *options: str) -> str:
    """Boot `code` from drive 80h, with QEMU's `options` for more drives; return what it said on the debug console."""
    if shutil.which("qemu-system-i386") is None:
        pytest.skip("needs qemu-system-i386")
    (tmp_path / "bios.rom").write_bytes(build_bios())
    (tmp_path / "vga.rom").write_bytes(build_vga_rom())
    (tmp_path / "first.img").write_bytes(boot_sector(code).ljust(_FIRST_DISK_SECTORS * SECTOR, b"\0"))
    command = [
        *("qemu-system-i386", "-M", "isapc", "-m", "32", "-display", "none", "-net", "none", "-bios", "bios.rom"),
        *("-cpu", "pentium3,-apic"),  # its local APIC would stand in the way of the 8259A
        *("-device", "loader,file=vga.rom,addr=0xc0000,force-raw=on", "-boot", "c"),
        *("-drive", "file=first.img,format=raw,if=ide", "-debugcon", "stdio", "-serial", "null", "-monitor", "none"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1", *options),
    ]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
    return done.stdout.decode("latin-1").strip()


def boot_sector(code: str, first: str = "") -> bytes:
    """`first`, then `code` between the prelude and its end, as a bootable sector."""
    sector = assemble_text(f"{first}{_PRELUDE}{_MACROS}\n{code}\njmp done\n", 0x7C00).flat(0x7C00)
    assert len(sector) <= SECTOR - 2, f"the boot sector is {len(sector) - SECTOR + 2} bytes too long"
    return sector.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def self_naming(sectors: int, size: int = SECTOR) -> bytes:
    """Sectors filled with their own number, 16 bits."""
    return b"".join(struct.pack("<H", number & 0xFFFF) * (size // 2) for number in range(sectors))


def drive(path: Path, content: bytes, interface: str, index: int) -> tuple[str, str]:
    """Write an image and return the option that attaches it."""
    path.write_bytes(content)
    return "-drive", f"file={path},format=raw,if={interface},index={index}"


def cd_image(image: bytes, media: int, sectors: int, load_segment: int = 0) -> bytes:
    """Return a CD whose default boot entry is `image`: boot record, boot catalogue and the image, nothing else.

    Args:
        media: 0 no emulation, 1 1.2 MB, 2 1.44 MB, 3 2.88 MB floppy, 4 hard disk.
        sectors: 512-byte sectors to load.
    Source: "El Torito Bootable CD-ROM Format Specification" 1.0, figures 2, 3 and 7.
    """
    record = b"\0CD001\x01" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", CATALOG)
    validation = bytearray(struct.pack("<BBH24sH2s", 1, 0, 0, b"test", 0, b"\x55\xaa"))
    struct.pack_into("<H", validation, 28, -sum(struct.unpack("<16H", validation)) & 0xFFFF)
    entry = struct.pack("<BBHBBHI20x", 0x88, media, load_segment, 0, 0, sectors, IMAGE)
    cd = bytearray(IMAGE * CD_SECTOR)
    cd[BOOT_RECORD * CD_SECTOR : BOOT_RECORD * CD_SECTOR + len(record)] = record
    cd[CATALOG * CD_SECTOR : CATALOG * CD_SECTOR + 64] = bytes(validation) + entry
    return bytes(cd) + image + bytes(-len(image) % CD_SECTOR)
