"""INT 13h, called by a boot sector on drive 80h; drive 81h, the floppy and the CD hold sectors that name themselves.

Sources of the expected values: IBM PC/AT Technical Reference, "INT 13h"; Phoenix EDD 3.0; "El Torito Bootable CD-ROM
Format Specification" 1.0; the images' own geometry.
"""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware.assembler import assemble_text
from tests.firmware.conftest import PRELUDE, SECTOR, Qemu
from tests.firmware.el_torito import CD_SECTOR, cd_image

DiskGuest = Callable[..., str]

CYLINDERS, HEADS, SECTORS = 40, 16, 63  # of drive 81h
TOTAL = CYLINDERS * HEADS * SECTORS
BEYOND_28_BITS = (1 << 28) + 5

# `result` prints CF and AX; PACKET puts a disk address packet where DS:SI points: count, offset, segment, sector.
MACROS = """
.macro RESULT
    call carry
    call say
.endm
.macro SAY value
    mov ax, \\value
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


def self_naming(sectors: int, size: int = SECTOR) -> bytes:
    """Sectors filled with their own number, 16 bits."""
    return b"".join(struct.pack("<H", number & 0xFFFF) * (size // 2) for number in range(sectors))


def boot_sector(code: str) -> bytes:
    """`code` between the prelude and its end, as a bootable sector."""
    sector = assemble_text(f"{PRELUDE}{MACROS}\n{code}\njmp done\n", 0x7C00).flat(0x7C00)
    assert len(sector) <= SECTOR - 2, f"the boot sector is {len(sector) - SECTOR + 2} bytes too long"
    return sector.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


@pytest.fixture(name="disk_guest")
def _disk_guest(tmp_path: Path) -> DiskGuest:
    """Return `run(code, *options) -> str`: boot `code` from drive 80h and return what it said."""
    if shutil.which("qemu-system-i386") is None:
        pytest.skip("needs qemu-system-i386")

    def run(code: str, *options: str) -> str:
        return Qemu(tmp_path, options=options).run(boot_sector(code)).strip()

    return run


def drive(path: Path, content: bytes, interface: str, index: int) -> tuple[str, str]:
    """Write an image and return the option that attaches it."""
    path.write_bytes(content)
    return "-drive", f"file={path},format=raw,if={interface},index={index}"


# ---- Hard disks ---------------------------------------------------------------------------------------------------

CHS_1_2_3 = "mov dl, 0x81\nmov cx, 0x0103\nmov dh, 2\nmov bx, 0x1000\n"  # sector (1 * 16 + 2) * 63 + 2 = 470h

HARD_DISK = [
    pytest.param("mov ax, 0x00AA\nmov dl, 0x81\nint 0x13\nRESULT", "-00aa", id="00_reset"),
    pytest.param(
        CHS_1_2_3 + "mov ax, 0x0201\nint 0x13\nRESULT\nSAY [bx]\nSAY [bx+510]", "-0001 0470 0470", id="02_read"
    ),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0200\nint 0x13\nRESULT", "C0100", id="02_none_is_refused"),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0201\nmov cl, 0\nint 0x13\nRESULT", "C0400", id="02_no_sector_0"),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0201\nmov ch, 40\nint 0x13\nRESULT", "C0400", id="02_beyond_the_last_cylinder"),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0201\nmov dh, 16\nint 0x13\nRESULT", "C0400", id="02_beyond_the_last_head"),
    pytest.param(
        "mov dx, 0x0F81\nmov cx, 0x273F\nmov bx, 0x1000\nmov ax, 0x0201\nint 0x13\nRESULT\nSAY [bx]",
        f"-0001 {TOTAL - 1:04x}",
        id="02_the_last_sector",
    ),
    pytest.param(
        "mov ax, 0x1000\nmov es, ax\nmov dx, 0x0081\nmov cx, 0x0001\nmov bx, 0xFE10\nmov ax, 0x0203\nint 0x13\nRESULT\n"
        "mov ax, 0x1FE0\nmov ds, ax\nSAY [0x10]\nSAY [0x210]\nSAY [0x410]\nSAY [0x60E]",
        "-0003 0000 0001 0002 0002",
        id="02_goes_on_behind_the_end_of_the_segment",
    ),
    pytest.param(
        CHS_1_2_3 + "mov word ptr [0x1000], 0xBEEF\nmov ax, 0x0301\nint 0x13\nRESULT\nmov ax, 0x0201\nmov bh, 0x20\n"
        "int 0x13\nRESULT\nSAY [bx]\nSAY [bx+2]",
        "-0001 -0001 beef 0000",
        id="03_writes_what_02_reads",
    ),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0405\nint 0x13\nRESULT", "-0005", id="04_verify"),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0501\nint 0x13\nRESULT", "C0101", id="05_no_format"),
    pytest.param(
        "mov ah, 8\nmov dl, 0x81\nint 0x13\nRESULT\nSAY cx\nSAY dx", "-0000 273f 0f02", id="08_last_of_each_and_drives"
    ),
    pytest.param("mov ax, 0x0800\nmov dl, 0x83\nint 0x13\nRESULT\nSAY dx", "C0700 0002", id="08_no_such_drive"),
    *(
        pytest.param(CHS_1_2_3 + f"mov ax, {ah << 8:#x}\nint 0x13\nRESULT", "-0000", id=f"{ah:02x}_succeeds")
        for ah in (0x09, 0x0C, 0x0D, 0x10, 0x11, 0x14)
    ),
    pytest.param(
        "mov ax, 0x1500\nmov dl, 0x81\nint 0x13\nRESULT\nSAY cx\nSAY dx",
        f"-0300 {TOTAL >> 16:04x} {TOTAL & 0xFFFF:04x}",
        id="15_sectors",
    ),
    pytest.param("mov ax, 0x1500\nmov dl, 0x83\nint 0x13\nRESULT", "-0000", id="15_no_such_drive"),
    pytest.param(
        CHS_1_2_3 + "mov ax, 0x0200\nint 0x13\nmov ax, 0x0100\nint 0x13\nRESULT\nSAY [0x473]",
        "C0100 0100",
        id="01_status",
    ),
    pytest.param("mov ax, 0x1E00\nmov dl, 0x81\nint 0x13\nRESULT", "C0100", id="1e_is_unknown"),
    pytest.param("mov al, [0x475]\nmov ah, 0\ncall say", "0002", id="bda_counts_the_disks"),
    pytest.param(
        CHS_1_2_3 + "mov eax, 0x12340201\nmov ebp, 0x11112222\nmov esi, 0x33334444\nmov edi, 0x55556666\nint 0x13\n"
        "rol eax, 16\nSAY ax\nSAY bp\nSAY si\nSAY di\nSAY bx\nSAY cx\nSAY dx\nrol ebp, 16\nSAY bp",
        "1234 2222 4444 6666 1000 0103 0281 1111",
        id="registers_stay",
    ),
    pytest.param(
        "lds si, [0x46*4]\nSAY [si]\nSAY [si+2]\nmov cx, 16\n1: lodsb\nadd ah, al\nloop 1b\nmov al, 0\ncall say",
        "0028 0010 0000",
        id="int46_table_of_the_second_disk",
    ),
]


@pytest.mark.parametrize(("code", "said"), HARD_DISK)
def test_hard_disk(disk_guest: DiskGuest, tmp_path: Path, code: str, said: str) -> None:
    """What INT 13h answers for an ATA disk of 40 cylinders, 16 heads, 63 sectors."""
    assert disk_guest(code, *drive(tmp_path / "second.img", self_naming(TOTAL), "ide", 1)) == said


EDD = [
    pytest.param(
        "mov ax, 0x4100\nmov bx, 0x55AA\nmov dl, 0x81\nint 0x13\nRESULT\nSAY bx\nSAY cx",
        "-3000 aa55 0005",
        id="41_version_3",
    ),
    pytest.param("mov ax, 0x4100\nmov bx, 0\nmov dl, 0x81\nint 0x13\nRESULT", "C0100", id="41_needs_its_key"),
    pytest.param(
        "PACKET 2, 0x1000, 0, 0x1234\nmov dl, 0x81\nmov ax, 0x4200\nint 0x13\nRESULT\nSAY [0x1000]\nSAY [0x1200]\nSAY [si+2]",
        "-0000 1234 1235 0002",
        id="42_read",
    ),
    pytest.param(
        "PACKET 300, 0, 0x1000, 7\nmov dl, 0x81\nmov ax, 0x4200\nint 0x13\nRESULT\nSAY [si+2]\n"
        "mov ax, 0x3560\nmov ds, ax\nSAY [0]\nSAY [0x1FE]",
        "-0000 012c 0132 0132",
        id="42_three_hundred_sectors",
    ),
    pytest.param(
        f"PACKET 2, 0x1000, 0, {TOTAL - 1}\nmov dl, 0x81\nmov ax, 0x4200\nint 0x13\nRESULT\nSAY [si+2]",
        "C0400 0000",
        id="42_beyond_the_end",
    ),
    pytest.param(
        "PACKET 1, 0xFFFF, 0xFFFF, 3\nmov byte ptr [si], 0x18\nmov dword ptr [si+16], 0x21000\nmov dword ptr [si+20], 0\n"
        "mov dl, 0x81\nmov ax, 0x4200\nint 0x13\nRESULT\nmov ax, 0x2100\nmov ds, ax\nSAY [0]",
        "-0000 0003",
        id="42_flat_address",
    ),
    pytest.param(
        "PACKET 1, 0x1000, 0, 3\nmov byte ptr [si], 8\nmov dl, 0x81\nmov ax, 0x4200\nint 0x13\nRESULT",
        "C0100",
        id="42_packet_too_short",
    ),
    pytest.param(
        "PACKET 2, 0x1000, 0, 3\nmov word ptr [0x11FE], 0xCAFE\nmov dl, 0x81\nmov ax, 0x4300\nint 0x13\nRESULT\n"
        "mov word ptr [si+4], 0x2000\nmov ax, 0x4200\nint 0x13\nRESULT\nSAY [0x21FE]",
        "-0000 -0000 cafe",
        id="43_writes_what_42_reads",
    ),
    pytest.param(
        "PACKET 1, 0, 0x1000, 3\nmov dl, 0x81\nmov ax, 0x4302\nint 0x13\nRESULT", "C0102", id="43_no_write_verify"
    ),
    pytest.param("PACKET 9, 0, 0, 3\nmov dl, 0x81\nmov ax, 0x4400\nint 0x13\nRESULT", "-0000", id="44_verify"),
    pytest.param("PACKET 1, 0, 0, 3\nmov dl, 0x81\nmov ax, 0x4700\nint 0x13\nRESULT", "-0000", id="47_seek"),
    pytest.param("mov ax, 0x4500\nmov dl, 0x81\nint 0x13\nRESULT", "Cb200", id="45_not_removable"),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 26\nmov ah, 0x48\nmov dl, 0x81\nint 0x13\ncall carry\nSAY [si]\nSAY [si+4]\n"
        "SAY [si+8]\nSAY [si+12]\nSAY [si+16]\nSAY [si+24]",
        f"-001a 0028 0010 003f {TOTAL:04x} 0200",
        id="48_version_1",
    ),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 30\nmov ah, 0x48\nmov dl, 0x81\nint 0x13\ncall carry\nSAY [si]\n"
        "lds si, [si+26]\nSAY [si]\nSAY [si+2]\nSAY [si+4]\nmov cx, 16\n1: lodsb\nadd ah, al\nloop 1b\nmov al, 0\ncall say",
        "-001e 01f0 03f6 00f0 0000",
        id="48_version_2_ports_and_checksum",
    ),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 100\nmov ah, 0x48\nmov dl, 0x81\nint 0x13\ncall carry\nSAY [si]\nSAY [si+30]\n"
        "SAY [si+36]\nSAY [si+40]\nSAY [si+48]\nSAY [si+56]\nadd si, 30\nmov cx, 36\nmov ah, 0\n1: lodsb\nadd ah, al\nloop 1b\n"
        "mov al, 0\ncall say",
        "-0042 bedd 5349 5441 01f0 0001 0000",
        id="48_version_3_device_path",
    ),
    pytest.param("mov ax, 0x4E01\nmov dl, 0x81\nint 0x13\nRESULT", "-0001", id="4e_prefetch_off"),
]


@pytest.mark.parametrize(("code", "said"), EDD)
def test_extensions(disk_guest: DiskGuest, tmp_path: Path, code: str, said: str) -> None:
    """What the extensions answer for the same disk."""
    assert disk_guest(code, *drive(tmp_path / "second.img", self_naming(TOTAL), "ide", 1)) == said


def test_large_disk_has_255_heads_and_48_bit_addresses(disk_guest: DiskGuest, tmp_path: Path) -> None:
    image = tmp_path / "large.img"
    with image.open("wb") as file:
        file.truncate((BEYOND_28_BITS + 100) * SECTOR)
        file.seek(BEYOND_28_BITS * SECTOR)
        file.write(self_naming(8)[3 * SECTOR :])
    said = disk_guest(
        f"mov ah, 8\nmov dl, 0x81\nint 0x13\nSAY cx\nSAY dx\nPACKET 1, 0x1000, 0, {BEYOND_28_BITS}\nmov dl, 0x81\n"
        f"mov ah, 0x42\nint 0x13\ncall carry\nSAY [0x1000]\nPACKET 4, 0x1000, 0, {BEYOND_28_BITS - 2}\nmov ah, 0x42\nint 0x13\n"
        "call carry\nSAY [0x1400]\nSAY [0x1600]",
        *("-drive", f"file={image},format=raw,if=ide,index=1"),
    )
    assert said == "ffff fe02 -0003 -0003 0004"


@pytest.mark.parametrize(
    ("cylinders", "last"),
    [pytest.param(1024, "ff0f", id="1024_as_they_are"), pytest.param(1025, "ff1f", id="1025_halved"),
     pytest.param(3000, "ed3f", id="3000_quartered")],
)  # fmt: skip
def test_cylinders_beyond_1024_become_heads(disk_guest: DiskGuest, tmp_path: Path, cylinders: int, last: str) -> None:
    """CH of INT 13h/08h, the low byte of the last cylinder, and DH, the last head."""
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(cylinders * HEADS * SECTORS * SECTOR)
    said = disk_guest(
        "mov ah, 8\nmov dl, 0x81\nint 0x13\nmov ah, ch\nmov al, dh\ncall say",
        *("-drive", f"file={image},format=raw,if=ide,index=1"),
    )
    assert said == last


def test_disks_of_both_channels_are_numbered_in_order(disk_guest: DiskGuest, tmp_path: Path) -> None:
    options = [
        *drive(tmp_path / "1.img", b"\x11" * SECTOR * 1008, "ide", 1),
        *drive(tmp_path / "2.img", b"\x22" * SECTOR * 1008, "ide", 2),
        *drive(tmp_path / "3.img", b"\x33" * SECTOR * 1008, "ide", 3),
    ]
    read = "mov ax, 0x0201\nint 0x13\nSAY [bx]\ninc dx\n"
    said = disk_guest(
        "mov bx, 0x1000\nmov cx, 1\nmov dx, 0x81\n" + 3 * read + "mov ax, 0x0201\nint 0x13\nRESULT", *options
    )
    assert said == "1111 2222 3333 C0100"


def test_medium_error_is_reported_with_the_sectors_done(disk_guest: DiskGuest, tmp_path: Path) -> None:
    (tmp_path / "bad.img").write_bytes(self_naming(1008))
    (tmp_path / "rules").write_text('[inject-error]\nevent = "read_aio"\nerrno = "5"\nsector = "4"\n')
    said = disk_guest(
        "mov ax, 0x0208\nmov bx, 0x1000\nmov cx, 1\nmov dx, 0x81\nint 0x13\nRESULT\nSAY [0x1600]",
        *(
            "-drive",
            f"file=blkdebug:{tmp_path / 'rules'}:{tmp_path / 'bad.img'},format=raw,if=ide,index=1,rerror=report",
        ),
    )
    carry, ax, last = said[0], said[1:5], said[6:]
    assert (carry, last) == ("C", "0003")
    assert ax[:2] != "00"
    assert ax[2:] == "04"


# ---- Floppies -----------------------------------------------------------------------------------------------------------

TRACK_0 = "mov dx, 0\nmov cx, 1\nmov bx, 0x8000\n"

FLOPPY = [
    pytest.param("mov ax, 0x00AA\nmov dl, 0\nint 0x13\nRESULT", "-00aa", id="00_reset"),
    pytest.param(
        TRACK_0 + "mov ax, 0x0212\nint 0x13\nRESULT\nSAY [0x8000]\nSAY [0xA200]\nSAY [0xA3FE]",
        "-0012 0000 0011 0011",
        id="02_a_whole_track",
    ),
    pytest.param(
        "mov dx, 0x0000\nmov cx, 0x4F11\nmov bx, 0x8000\nmov ax, 0x0214\nint 0x13\nRESULT\nSAY [0x8200]\nSAY [0x8400]\n"
        "SAY [0xA600]",
        "-0014 0b2d 0b2e 0b3f",
        id="02_from_head_0_on_to_head_1",
    ),
    pytest.param(TRACK_0 + "mov cl, 19\nmov ax, 0x0201\nint 0x13\nRESULT", "C0400", id="02_no_sector_19"),
    pytest.param(TRACK_0 + "mov ax, 0x0200\nint 0x13\nRESULT", "C0100", id="02_none_is_refused"),
    pytest.param(
        "mov ax, 0x1000\nmov es, ax\n" + TRACK_0 + "mov bx, 0xFF00\nmov ax, 0x0201\nint 0x13\nRESULT",
        "C0900",
        id="02_dma_boundary",
    ),
    pytest.param(
        "mov ax, 0x1000\nmov es, ax\n" + TRACK_0 + "mov bx, 0xFE00\nmov ax, 0x0201\nint 0x13\nRESULT",
        "-0001",
        id="02_up_to_the_dma_boundary",
    ),
    pytest.param(
        TRACK_0 + "mov ch, 5\nmov word ptr [0x8000], 0xD00D\nmov ax, 0x0301\nint 0x13\nRESULT\nmov ax, 0x0201\nmov bh, 0x90\n"
        "int 0x13\nRESULT\nSAY [bx]",
        "-0001 -0001 d00d",
        id="03_writes_what_02_reads",
    ),
    pytest.param(TRACK_0 + "mov ax, 0x0412\nint 0x13\nRESULT", "-0012", id="04_verify"),
    pytest.param(TRACK_0 + "mov cl, 10\nmov ax, 0x0412\nint 0x13\nRESULT", "-0012", id="04_verify_both_heads"),
    pytest.param(TRACK_0 + "mov cl, 19\nmov ax, 0x0401\nint 0x13\ncall carry", "C", id="04_verify_no_sector_19"),
    pytest.param(
        "mov ah, 8\nmov dl, 0\nint 0x13\nRESULT\nSAY bx\nSAY cx\nSAY dx\nmov al, byte ptr es:[di+4]\nmov ah, 0\ncall say",
        "-0000 0004 4f12 0101 0012",
        id="08_parameters",
    ),
    pytest.param("mov ah, 8\nmov dl, 1\nint 0x13\nRESULT\nSAY cx\nSAY dx", "-0000 0000 0001", id="08_no_second_drive"),
    pytest.param("mov ax, 0x1500\nmov dl, 0\nint 0x13\nRESULT", "-0200", id="15_change_line"),
    pytest.param("mov ax, 0x1500\nmov dl, 1\nint 0x13\nRESULT", "-0000", id="15_no_second_drive"),
    pytest.param(TRACK_0 + "mov ax, 0x0201\nint 0x13\nmov ax, 0x1601\nint 0x13\nRESULT", "-0001", id="16_not_changed"),
    pytest.param(
        "mov ah, 0x18\nmov cx, 0x4F12\nmov dl, 0\nint 0x13\ncall carry\nSAY es:[di+4]\nmov ax, 0x1800\nmov cl, 15\nint 0x13\nRESULT",
        "-1b12 C0c00",
        id="18_media_of_the_drive",
    ),
    pytest.param(
        TRACK_0 + "mov ax, 0x0200\nint 0x13\nmov ax, 0x0100\nint 0x13\nRESULT\nmov al, [0x441]\nmov ah, 0\ncall say", "C0100 0001", id="01_status"
    ),
    pytest.param(TRACK_0 + "mov dl, 1\nmov ax, 0x0201\nint 0x13\nRESULT", "C8000", id="no_second_drive"),
    pytest.param(
        "in al, 0x21\nor al, 0x40\nout 0x21, al\n" + TRACK_0 + "mov ax, 0x0201\nint 0x13\nRESULT\nin al, 0x21\nand ax, 0x40\ncall say",
        "-0001 0040",
        id="irq_6_may_be_masked",
    ),
    pytest.param("cli\n" + TRACK_0 + "mov ax, 0x0201\nint 0x13\nRESULT\npushf\npop ax\nand ax, 0x200\ncall say", "-0001 0000",
                 id="interrupts_may_be_off"),
    pytest.param(
        TRACK_0 + "mov ax, 0x0201\nint 0x13\nSAY [0x43F]\nmov byte ptr [0x440], 2\n1: hlt\ncmp byte ptr [0x440], 0\njne 1b\n"
        "mov ax, [0x43F]\nand ax, 15\ncall say",
        "2501 0000",
        id="motor_stops_later",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "said"), FLOPPY)
def test_floppy(disk_guest: DiskGuest, tmp_path: Path, code: str, said: str) -> None:
    """What INT 13h answers for a 1.44 MB floppy."""
    assert disk_guest(code, *drive(tmp_path / "floppy.img", self_naming(2880), "floppy", 0)) == said


@pytest.mark.parametrize(
    ("kind", "cylinders", "sectors"),
    [
        pytest.param("120", 80, 15, id="1200K"),
        pytest.param("144", 80, 9, id="720K_in_a_1440K_drive"),
        pytest.param("288", 80, 36, id="2880K"),
        pytest.param("288", 80, 18, id="1440K_in_a_2880K_drive"),
    ],
)
def test_floppy_format_is_found(disk_guest: DiskGuest, tmp_path: Path, kind: str, cylinders: int, sectors: int) -> None:
    """The last track, from the middle of head 0's to the end of head 1's, read in one go."""
    total = cylinders * 2 * sectors
    path = tmp_path / "floppy.img"
    path.write_bytes(self_naming(total))
    count = sectors + 2
    said = disk_guest(
        f"mov cx, {cylinders - 1 << 8 | sectors - 1}\nmov dx, 0\nmov bx, 0x8000\nmov ax, {0x200 | count}\nint 0x13\nRESULT\n"
        f"SAY [0x8000]\nSAY [{0x8000 + (count - 1) * SECTOR}]",
        *("-drive", f"file={path},format=raw,if=none,id=floppy", "-device", f"floppy,drive=floppy,drive-type={kind}"),
    )
    assert said == f"-00{count:02x} {total - sectors - 2:04x} {total - 1:04x}"


def test_empty_floppy_drive_is_told_at_once(disk_guest: DiskGuest) -> None:
    assert disk_guest(TRACK_0 + "mov ax, 0x0201\nint 0x13\nRESULT") == "C8000"


# ---- CD-ROM ---------------------------------------------------------------------------------------------------------------

CD = [
    pytest.param(
        "mov ax, 0x4100\nmov bx, 0x55AA\nint 0x13\nRESULT\nSAY bx\nSAY cx", "-3000 aa55 0007", id="41_with_locking"
    ),
    pytest.param(
        "PACKET 3, 0x8000, 0, 5\nmov ax, 0x4200\nint 0x13\nRESULT\nSAY [0x8000]\nSAY [0x97FE]\nSAY [si+2]",
        "-0000 0005 0007 0003",
        id="42_read",
    ),
    pytest.param(
        "PACKET 70, 0xF000, 0x1000, 5\nmov ax, 0x4200\nint 0x13\nRESULT\nmov ax, 0x4180\nmov ds, ax\nSAY [0]\nSAY [0x7FE]",
        "-0000 004a 004a",
        id="42_seventy_sectors",
    ),
    pytest.param(
        "PACKET 2, 0x8000, 0, 99\nmov ax, 0x4200\nint 0x13\ncall carry\nSAY [si+2]", "C0000", id="42_beyond_the_end"
    ),
    pytest.param("PACKET 1, 0x8000, 0, 5\nmov ax, 0x4300\nint 0x13\nRESULT", "C0300", id="43_protected"),
    pytest.param("PACKET 1, 0, 0, 99\nmov ax, 0x4400\nint 0x13\nRESULT", "-0000", id="44_verify"),
    pytest.param("PACKET 1, 0, 0, 100\nmov ax, 0x4700\nint 0x13\nRESULT", "C0400", id="47_seek_beyond_the_end"),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 26\nmov ah, 0x48\nint 0x13\ncall carry\nSAY [si+2]\nSAY [si+16]\nSAY [si+24]",
        "-0035 0064 0800",
        id="48_parameters",
    ),
    pytest.param(
        "mov ax, 0x4502\nint 0x13\nRESULT\nmov ax, 0x4500\nint 0x13\nRESULT\nmov ax, 0x4600\nint 0x13\nRESULT\n"
        "mov ax, 0x4501\nint 0x13\nRESULT\nmov ax, 0x4501\nint 0x13\nRESULT",
        "-0000 -0001 Cb100 -0000 Cb001",
        id="45_locks_are_counted_and_46_obeys",
    ),
    pytest.param(
        "mov ax, 0x4600\nint 0x13\nRESULT\nPACKET 1, 0x8000, 0, 5\nmov ax, 0x4200\nint 0x13\nRESULT",
        "-0000 C3100",
        id="46_ejects",
    ),
    pytest.param("mov ax, 0x0201\nint 0x13\nRESULT", "C0101", id="02_no_chs"),
    pytest.param("mov ax, 0x1000\nint 0x13\nRESULT", "-0000", id="10_ready"),
    pytest.param("mov ax, 0x4B01\nmov si, 0x600\nint 0x13\nRESULT", "C0101", id="4b_nothing_was_booted"),
    pytest.param("mov dl, 0xE1\nmov ax, 0x4100\nmov bx, 0x55AA\nint 0x13\nRESULT", "C0100", id="no_second_drive"),
]


@pytest.mark.parametrize(("code", "said"), CD)
def test_cdrom(disk_guest: DiskGuest, tmp_path: Path, code: str, said: str) -> None:
    """What INT 13h answers for drive E0h with 100 sectors."""
    (tmp_path / "cd.iso").write_bytes(self_naming(100, CD_SECTOR))
    assert disk_guest(f"mov dl, 0xE0\n{code}", "-cdrom", str(tmp_path / "cd.iso")) == said


# ---- El Torito ------------------------------------------------------------------------------------------------------------

FLOPPY_IMAGE = 2
DISK_IMAGE = 4


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("mov ah, 0\nmov al, dl\ncall say\nSAY cs", "00e0 0000", id="enters_0000_7c00_with_the_drive"),
        pytest.param("SAY [0x7C00+2046]", "cafe", id="loads_four_sectors"),
        pytest.param(
            "mov si, 0x600\nmov ax, 0x4B01\nint 0x13\nRESULT\nSAY [si]\nSAY [si+2]\nSAY [si+4]\nSAY [si+14]",
            "-0001 0013 00e0 0014 0004",
            id="4b01_tells_what_was_booted",
        ),
        pytest.param(
            "mov si, 0x600\nmov byte ptr [si], 8\nmov byte ptr [si+1], 1\nmov dword ptr [si+2], 0x8000\nmov word ptr [si+6], 0\n"
            "mov ax, 0x4D00\nint 0x13\nRESULT\nSAY [0x8000]\nSAY [0x8020]",
            "-0000 0001 0088",
            id="4d00_reads_the_catalogue",
        ),
    ],
)
def test_no_emulation(disk_guest: DiskGuest, tmp_path: Path, code: str, said: str) -> None:
    """A boot image that drive E0h loads; its fourth 512-byte sector ends CAFEh."""
    image = boot_sector(code).ljust(2046, b"\0") + b"\xfe\xca"
    (tmp_path / "cd.iso").write_bytes(cd_image(image, media=0, sectors=4))
    assert disk_guest("nop", "-cdrom", str(tmp_path / "cd.iso"), "-boot", "d") == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("mov ah, 0\nmov al, dl\ncall say\nSAY cs", "0000 0000", id="boots_as_drive_00"),
        pytest.param(
            TRACK_0 + "mov cl, 2\nmov ax, 0x0203\nint 0x13\nRESULT\nSAY [0x8000]\nSAY [0x83FE]\nSAY [0x8400]",
            "-0003 0001 0002 0003",
            id="02_cuts_sectors_out_of_cd_sectors",
        ),
        pytest.param(
            "mov dx, 0x0100\nmov cx, 0x4F12\nmov bx, 0x8000\nmov ax, 0x0201\nint 0x13\nRESULT\nSAY [bx]",
            "-0001 0b3f",
            id="02_the_last_sector",
        ),
        pytest.param(TRACK_0 + "mov ax, 0x0301\nint 0x13\nRESULT", "C0301", id="03_protected"),
        pytest.param(TRACK_0 + "mov cl, 19\nmov ax, 0x0201\nint 0x13\nRESULT", "C0400", id="02_no_sector_19"),
        pytest.param(
            "mov ax, 0x0800\nmov dl, 0\nint 0x13\nRESULT\nSAY bx\nSAY cx\nSAY dx",
            "-0000 0004 4f12 0102",
            id="08_parameters",
        ),
        pytest.param(
            TRACK_0 + "mov dl, 1\nmov ax, 0x0201\nint 0x13\nRESULT\nSAY [bx]", "-0001 f00d", id="the_real_floppy_is_01"
        ),
        pytest.param(
            "mov si, 0x600\nmov dl, 0\nmov ax, 0x4B00\nint 0x13\nRESULT\nSAY [si]\nSAY [si+16]\nSAY [si+18]\n"
            + TRACK_0
            + "mov ax, 0x0201\nint 0x13\nSAY [bx]",
            "-0000 0213 124f 0001 f00d",
            id="4b00_ends_it",
        ),
    ],
)
def test_floppy_emulation(disk_guest: DiskGuest, tmp_path: Path, code: str, said: str) -> None:
    """A 1.44 MB image on the CD is drive 00h; the floppy in the real drive is filled with F00Dh."""
    image = boot_sector(code) + self_naming(2880)[SECTOR:]
    (tmp_path / "cd.iso").write_bytes(cd_image(image, media=FLOPPY_IMAGE, sectors=1))
    floppy = drive(tmp_path / "floppy.img", b"\x0d\xf0" * (1440 * 512), "floppy", 0)
    assert disk_guest("nop", "-cdrom", str(tmp_path / "cd.iso"), "-boot", "d", *floppy) == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param(
            "mov ah, 8\nmov dl, 0x80\nint 0x13\nRESULT\nSAY cx\nSAY dx", "-0000 041f 0302", id="08_parameters"
        ),
        pytest.param(
            "mov dx, 0x0380\nmov cx, 0x041F\nmov bx, 0x8000\nmov ax, 0x0201\nint 0x13\nRESULT\nSAY [bx]",
            f"-0001 {5 * 4 * 31 - 1:04x}",
            id="02_the_last_sector",
        ),
        pytest.param(
            "mov dx, 0x0081\nmov cx, 1\nmov bx, 0x8000\nmov ax, 0x0201\nint 0x13\nRESULT\nSAY [bx+510]",
            "-0001 aa55",
            id="the_real_disk_is_81",
        ),
    ],
)
def test_disk_emulation(disk_guest: DiskGuest, tmp_path: Path, code: str, said: str) -> None:
    """An image of 5 cylinders, 4 heads, 31 sectors on the CD is drive 80h; its partition entry says so."""
    first = bytearray(boot_sector(code))
    assert not any(first[0x1BE:0x1FE])
    first[0x1BE:0x1CE] = struct.pack("<8BII", 0x80, 0, 1, 0, 1, 3, 31, 4, 0, 5 * 4 * 31)
    image = bytes(first) + self_naming(5 * 4 * 31)[SECTOR:]
    (tmp_path / "cd.iso").write_bytes(cd_image(image, media=DISK_IMAGE, sectors=1))
    assert disk_guest("nop", "-cdrom", str(tmp_path / "cd.iso"), "-boot", "d") == said
