"""Boot sectors and images for the tests of the disk services; bios_engines.py has the machines that they run on."""

import struct
from pathlib import Path
from typing import Final

from firmware.assembler import assemble_text
from tests.firmware.bios_engines import Machine, run_machine

SECTOR: Final = 512
CD_SECTOR: Final = 2048
BOOT_RECORD: Final = 17  # sectors of the CD images made here
CATALOG: Final = 19
IMAGE: Final = 20

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
    """Boot `code` from drive 80h, with `options` for more drives; return what it said on the debug console."""
    return run_machine(Machine(tmp_path, boot_sector(code), options)).strip()


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
