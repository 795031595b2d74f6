"""INT 13h, called by a boot sector on drive 80h; drive 81h, the floppy and the CD hold sectors that name themselves.

Sources of the expected values: IBM PC/AT Technical Reference, "INT 13h"; Phoenix EDD 3.0; the images' own geometry.
"""

from pathlib import Path

import pytest

from tests.firmware.media import CD_SECTOR, SECTOR, drive, run, self_naming

CYLINDERS, HEADS, SECTORS = 40, 16, 63  # of drive 81h
TOTAL = CYLINDERS * HEADS * SECTORS
BEYOND_28_BITS = (1 << 28) + 5

# ---- Hard disks --------------------------------------------------------------------------------------------

CHS_1_2_3 = "mov dl, 0x81\nmov cx, 0x0103\nmov dh, 2\nmov bx, 0x1000\n"  # sector (1 * 16 + 2) * 63 + 2 = 470h

HARD_DISK = [
    pytest.param("mov dl, 0x81\nDO 0x00AA", "-00aa", id="00_reset"),
    pytest.param(CHS_1_2_3 + "DO 0x0201\nSAY [bx]\nSAY [bx+510]", "-0001 0470 0470", id="02_read"),
    pytest.param(CHS_1_2_3 + "DO 0x0200", "C0100", id="02_none_is_refused"),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0201\nmov cl, 0\nint 0x13\nRESULT", "C0400", id="02_no_sector_0"),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0201\nmov ch, 40\nint 0x13\nRESULT", "C0400", id="02_beyond_the_last_cylinder"),
    pytest.param(CHS_1_2_3 + "mov ax, 0x0201\nmov dh, 16\nint 0x13\nRESULT", "C0400", id="02_beyond_the_last_head"),
    pytest.param(
        "mov dx, 0x0F81\nmov cx, 0x273F\nmov bx, 0x1000\nDO 0x0201\nSAY [bx]",
        f"-0001 {TOTAL - 1:04x}",
        id="02_the_last_sector",
    ),
    pytest.param(
        "mov ax, 0x1000\nmov es, ax\nmov dx, 0x0081\nmov cx, 0x0001\nmov bx, 0xFE10\nDO 0x0203\n"
        "mov ax, 0x1FE0\nmov ds, ax\nSAY [0x10]\nSAY [0x210]\nSAY [0x410]\nSAY [0x60E]",
        "-0003 0000 0001 0002 0002",
        id="02_goes_on_behind_the_end_of_the_segment",
    ),
    pytest.param(
        CHS_1_2_3 + "mov word ptr [0x1000], 0xBEEF\nDO 0x0301\nmov ax, 0x0201\nmov bh, 0x20\n"
        "int 0x13\nRESULT\nSAY [bx]\nSAY [bx+2]",
        "-0001 -0001 beef 0000",
        id="03_writes_what_02_reads",
    ),
    pytest.param(CHS_1_2_3 + "DO 0x0405", "-0005", id="04_verify"),
    pytest.param(CHS_1_2_3 + "DO 0x0501", "C0101", id="05_no_format"),
    pytest.param("mov dl, 0x81\nDO 0x0800\nSAY cx\nSAY dx", "-0000 273f 0f02", id="08_last_of_each_and_drives"),
    pytest.param("mov dl, 0x83\nDO 0x0800\nSAY dx", "C0700 0002", id="08_no_such_drive"),
    *(
        pytest.param(CHS_1_2_3 + f"mov ax, {ah << 8:#x}\nint 0x13\nRESULT", "-0000", id=f"{ah:02x}_succeeds")
        for ah in (0x09, 0x0C, 0x0D, 0x10, 0x11, 0x14)
    ),
    pytest.param(
        "mov dl, 0x81\nDO 0x1500\nSAY cx\nSAY dx",
        f"-0300 {TOTAL >> 16:04x} {TOTAL & 0xFFFF:04x}",
        id="15_sectors",
    ),
    pytest.param("mov dl, 0x83\nDO 0x1500", "-0000", id="15_no_such_drive"),
    pytest.param(
        CHS_1_2_3 + "mov ax, 0x0200\nint 0x13\nDO 0x0100\nSAY [0x473]",
        "C0100 0100",
        id="01_status",
    ),
    pytest.param("mov dl, 0x81\nDO 0x1E00", "C0100", id="1e_is_unknown"),
    pytest.param("SAY_BYTE [0x475]", "0002", id="bda_counts_the_disks"),
    pytest.param(
        CHS_1_2_3 + "mov eax, 0x12340201\nmov ebp, 0x11112222\nmov esi, 0x33334444\nmov edi, 0x55556666\nint 0x13\n"
        "rol eax, 16\nSAY ax\nSAY bp\nSAY si\nSAY di\nSAY bx\nSAY cx\nSAY dx\nrol ebp, 16\nSAY bp",
        "1234 2222 4444 6666 1000 0103 0281 1111",
        id="registers_stay",
    ),
    pytest.param(
        "lds si, [0x46*4]\nSAY [si]\nSAY [si+2]\nSUM 16",
        "0028 0010 0000",
        id="int46_table_of_the_second_disk",
    ),
]


@pytest.mark.parametrize(("code", "said"), HARD_DISK)
def test_hard_disk(tmp_path: Path, code: str, said: str) -> None:
    """What INT 13h answers for an ATA disk of 40 cylinders, 16 heads, 63 sectors."""
    assert run(tmp_path, code, *drive(tmp_path / "second.img", self_naming(TOTAL), "ide", 1)) == said


EDD = [
    pytest.param(
        "mov bx, 0x55AA\nmov dl, 0x81\nDO 0x4100\nSAY bx\nSAY cx",
        "-3000 aa55 0005",
        id="41_version_3",
    ),
    pytest.param("mov bx, 0\nmov dl, 0x81\nDO 0x4100", "C0100", id="41_needs_its_key"),
    pytest.param(
        "PACKET 2, 0x1000, 0, 0x1234\nmov dl, 0x81\nDO 0x4200\nSAY [0x1000]\nSAY [0x1200]\nSAY [si+2]",
        "-0000 1234 1235 0002",
        id="42_read",
    ),
    pytest.param(
        "PACKET 300, 0, 0x1000, 7\nmov dl, 0x81\nDO 0x4200\nSAY [si+2]\n"
        "mov ax, 0x3560\nmov ds, ax\nSAY [0]\nSAY [0x1FE]",
        "-0000 012c 0132 0132",
        id="42_three_hundred_sectors",
    ),
    pytest.param(
        f"PACKET 2, 0x1000, 0, {TOTAL - 1}\nmov dl, 0x81\nDO 0x4200\nSAY [si+2]",
        "C0400 0000",
        id="42_beyond_the_end",
    ),
    pytest.param(
        "PACKET 1, 0xFFFF, 0xFFFF, 3\nmov byte ptr [si], 0x18\nmov dword ptr [si+16], 0x21000\n"
        "mov dword ptr [si+20], 0\n"
        "mov dl, 0x81\nDO 0x4200\nmov ax, 0x2100\nmov ds, ax\nSAY [0]",
        "-0000 0003",
        id="42_flat_address",
    ),
    pytest.param(
        "PACKET 1, 0x1000, 0, 3\nmov byte ptr [si], 8\nmov dl, 0x81\nDO 0x4200",
        "C0100",
        id="42_packet_too_short",
    ),
    pytest.param(
        "PACKET 2, 0x1000, 0, 3\nmov word ptr [0x11FE], 0xCAFE\nmov dl, 0x81\nDO 0x4300\n"
        "mov word ptr [si+4], 0x2000\nDO 0x4200\nSAY [0x21FE]",
        "-0000 -0000 cafe",
        id="43_writes_what_42_reads",
    ),
    pytest.param("PACKET 1, 0, 0x1000, 3\nmov dl, 0x81\nDO 0x4302", "C0102", id="43_no_write_verify"),
    pytest.param("PACKET 9, 0, 0, 3\nmov dl, 0x81\nDO 0x4400", "-0000", id="44_verify"),
    pytest.param("PACKET 1, 0, 0, 3\nmov dl, 0x81\nDO 0x4700", "-0000", id="47_seek"),
    pytest.param("mov dl, 0x81\nDO 0x4500", "Cb200", id="45_not_removable"),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 26\nmov ah, 0x48\nmov dl, 0x81\nint 0x13\ncall carry\nSAY [si]\nSAY [si+4]\n"
        "SAY [si+8]\nSAY [si+12]\nSAY [si+16]\nSAY [si+24]",
        f"-001a 0028 0010 003f {TOTAL:04x} 0200",
        id="48_version_1",
    ),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 30\nmov ah, 0x48\nmov dl, 0x81\nint 0x13\ncall carry\nSAY [si]\n"
        "lds si, [si+26]\nSAY [si]\nSAY [si+2]\nSAY [si+4]\nSUM 16",
        "-001e 01f0 03f6 00f0 0000",
        id="48_version_2_ports_and_checksum",
    ),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 100\nmov ah, 0x48\nmov dl, 0x81\nint 0x13\ncall carry\nSAY [si]\n"
        "SAY [si+30]\n"
        "SAY [si+36]\nSAY [si+40]\nSAY [si+48]\nSAY [si+56]\nadd si, 30\nSUM 36",
        "-0042 bedd 5349 5441 01f0 0001 0000",
        id="48_version_3_device_path",
    ),
    pytest.param("mov dl, 0x81\nDO 0x4E01", "-0001", id="4e_prefetch_off"),
]


@pytest.mark.parametrize(("code", "said"), EDD)
def test_extensions(tmp_path: Path, code: str, said: str) -> None:
    """What the extensions answer for the same disk."""
    assert run(tmp_path, code, *drive(tmp_path / "second.img", self_naming(TOTAL), "ide", 1)) == said


def test_large_disk_has_255_heads_and_48_bit_addresses(tmp_path: Path) -> None:
    image = tmp_path / "large.img"
    with image.open("wb") as file:
        file.truncate((BEYOND_28_BITS + 100) * SECTOR)
        file.seek(BEYOND_28_BITS * SECTOR)
        file.write(self_naming(8)[3 * SECTOR :])
    said = run(
        tmp_path,
        f"mov ah, 8\nmov dl, 0x81\nint 0x13\nSAY cx\nSAY dx\nPACKET 1, 0x1000, 0, {BEYOND_28_BITS}\nmov dl, 0x81\n"
        f"mov ah, 0x42\nint 0x13\ncall carry\nSAY [0x1000]\nPACKET 4, 0x1000, 0, {BEYOND_28_BITS - 2}\n"
        f"mov ah, 0x42\nint 0x13\n"
        "call carry\nSAY [0x1400]\nSAY [0x1600]",
        *("-drive", f"file={image},format=raw,if=ide,index=1"),
    )
    assert said == "ffff fe02 -0003 -0003 0004"


@pytest.mark.parametrize(
    ("cylinders", "last"),
    [pytest.param(1024, "ff0f", id="1024_as_they_are"), pytest.param(1025, "ff1f", id="1025_halved"),
     pytest.param(3000, "ed3f", id="3000_quartered")],
)  # fmt: skip
def test_cylinders_beyond_1024_become_heads(tmp_path: Path, cylinders: int, last: str) -> None:
    """CH of INT 13h/08h, the low byte of the last cylinder, and DH, the last head."""
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(cylinders * HEADS * SECTORS * SECTOR)
    said = run(
        tmp_path,
        "mov ah, 8\nmov dl, 0x81\nint 0x13\nmov ah, ch\nmov al, dh\ncall say",
        *("-drive", f"file={image},format=raw,if=ide,index=1"),
    )
    assert said == last


def test_disks_of_both_channels_are_numbered_in_order(tmp_path: Path) -> None:
    options = [
        *drive(tmp_path / "1.img", b"\x11" * SECTOR * 1008, "ide", 1),
        *drive(tmp_path / "2.img", b"\x22" * SECTOR * 1008, "ide", 2),
        *drive(tmp_path / "3.img", b"\x33" * SECTOR * 1008, "ide", 3),
    ]
    read = "mov ax, 0x0201\nint 0x13\nSAY [bx]\ninc dx\n"
    said = run(tmp_path, "mov bx, 0x1000\nmov cx, 1\nmov dx, 0x81\n" + 3 * read + "DO 0x0201", *options)
    assert said == "1111 2222 3333 C0100"


def test_medium_error_is_reported_with_the_sectors_done(tmp_path: Path) -> None:
    (tmp_path / "bad.img").write_bytes(self_naming(1008))
    (tmp_path / "rules").write_text('[inject-error]\nevent = "read_aio"\nerrno = "5"\nsector = "4"\n')
    said = run(
        tmp_path,
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


# ---- Floppies ----------------------------------------------------------------------------------------------

TRACK_0 = "mov dx, 0\nmov cx, 1\nmov bx, 0x8000\n"

FLOPPY = [
    pytest.param("mov dl, 0\nDO 0x00AA", "-00aa", id="00_reset"),
    pytest.param(
        TRACK_0 + "DO 0x0212\nSAY [0x8000]\nSAY [0xA200]\nSAY [0xA3FE]",
        "-0012 0000 0011 0011",
        id="02_a_whole_track",
    ),
    pytest.param(
        "mov dx, 0x0000\nmov cx, 0x4F11\nmov bx, 0x8000\nDO 0x0214\nSAY [0x8200]\nSAY [0x8400]\n"
        "SAY [0xA600]",
        "-0014 0b2d 0b2e 0b3f",
        id="02_from_head_0_on_to_head_1",
    ),
    pytest.param(TRACK_0 + "mov cl, 19\nDO 0x0201", "C0400", id="02_no_sector_19"),
    pytest.param(TRACK_0 + "DO 0x0200", "C0100", id="02_none_is_refused"),
    pytest.param(
        "mov ax, 0x1000\nmov es, ax\n" + TRACK_0 + "mov bx, 0xFF00\nDO 0x0201",
        "C0900",
        id="02_dma_boundary",
    ),
    pytest.param(
        "mov ax, 0x1000\nmov es, ax\n" + TRACK_0 + "mov bx, 0xFE00\nDO 0x0201",
        "-0001",
        id="02_up_to_the_dma_boundary",
    ),
    pytest.param(
        TRACK_0 + "mov ch, 5\nmov word ptr [0x8000], 0xD00D\nDO 0x0301\nmov ax, 0x0201\nmov bh, 0x90\n"
        "int 0x13\nRESULT\nSAY [bx]",
        "-0001 -0001 d00d",
        id="03_writes_what_02_reads",
    ),
    pytest.param(TRACK_0 + "DO 0x0412", "-0012", id="04_verify"),
    pytest.param(TRACK_0 + "mov cl, 10\nDO 0x0412", "-0012", id="04_verify_both_heads"),
    pytest.param(TRACK_0 + "mov cl, 19\nmov ax, 0x0401\nint 0x13\ncall carry", "C", id="04_verify_no_sector_19"),
    pytest.param(TRACK_0 + "mov ch, 7\nDO 0x0512", "-0012", id="05_format"),
    pytest.param(
        "mov dl, 0\nDO 0x0800\nSAY bx\nSAY cx\nSAY dx\nSAY_BYTE byte ptr es:[di+4]",
        "-0000 0004 4f12 0101 0012",
        id="08_parameters",
    ),
    pytest.param("mov ah, 8\nmov dl, 1\nint 0x13\nRESULT\nSAY cx\nSAY dx", "-0000 0000 0001", id="08_no_second_drive"),
    pytest.param("mov dl, 0\nDO 0x1500", "-0200", id="15_change_line"),
    pytest.param("mov dl, 1\nDO 0x1500", "-0000", id="15_no_second_drive"),
    pytest.param(TRACK_0 + "mov ax, 0x0201\nint 0x13\nDO 0x1601", "-0001", id="16_not_changed"),
    pytest.param(
        "mov ah, 0x18\nmov cx, 0x4F12\nmov dl, 0\nint 0x13\ncall carry\nSAY es:[di+4]\nmov ax, 0x1800\n"
        "mov cl, 15\nint 0x13\nRESULT",
        "-1b12 C0c00",
        id="18_media_of_the_drive",
    ),
    pytest.param(
        TRACK_0 + "mov ax, 0x0200\nint 0x13\nDO 0x0100\nSAY_BYTE [0x441]", "C0100 0001", id="01_status"
    ),
    pytest.param(TRACK_0 + "mov dl, 1\nDO 0x0201", "C8000", id="no_second_drive"),
    pytest.param(
        "in al, 0x21\nor al, 0x40\nout 0x21, al\n" + TRACK_0 + "DO 0x0201\nin al, 0x21\nand ax, 0x40\ncall say",
        "-0001 0040",
        id="irq_6_may_be_masked",
    ),
    pytest.param("cli\n" + TRACK_0 + "DO 0x0201\npushf\npop ax\nand ax, 0x200\ncall say", "-0001 0000",
                 id="interrupts_may_be_off"),
    pytest.param(
        TRACK_0 + "mov ax, 0x0201\nint 0x13\nSAY [0x43F]\nmov byte ptr [0x440], 2\n1: hlt\n"
        "cmp byte ptr [0x440], 0\njne 1b\n"
        "mov ax, [0x43F]\nand ax, 15\ncall say",
        "2501 0000",
        id="motor_stops_later",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "said"), FLOPPY)
def test_floppy(tmp_path: Path, code: str, said: str) -> None:
    """What INT 13h answers for a 1.44 MB floppy."""
    assert run(tmp_path, code, *drive(tmp_path / "floppy.img", self_naming(2880), "floppy", 0)) == said


@pytest.mark.parametrize(
    ("kind", "cylinders", "sectors"),
    [
        pytest.param("120", 80, 15, id="1200K"),
        pytest.param("144", 80, 9, id="720K_in_a_1440K_drive"),
        pytest.param("288", 80, 36, id="2880K"),
        pytest.param("288", 80, 18, id="1440K_in_a_2880K_drive"),
    ],
)
def test_floppy_format_is_found(tmp_path: Path, kind: str, cylinders: int, sectors: int) -> None:
    """The last track, from the middle of head 0's to the end of head 1's, read in one go."""
    total = cylinders * 2 * sectors
    path = tmp_path / "floppy.img"
    path.write_bytes(self_naming(total))
    count = sectors + 2
    said = run(
        tmp_path,
        f"mov cx, {cylinders - 1 << 8 | sectors - 1}\nmov dx, 0\nmov bx, 0x8000\nmov ax, {0x200 | count}\n"
        f"int 0x13\nRESULT\n"
        f"SAY [0x8000]\nSAY [{0x8000 + (count - 1) * SECTOR}]",
        *("-drive", f"file={path},format=raw,if=none,id=floppy", "-device", f"floppy,drive=floppy,drive-type={kind}"),
    )
    assert said == f"-00{count:02x} {total - sectors - 2:04x} {total - 1:04x}"


def test_empty_floppy_drive_is_told_at_once(tmp_path: Path) -> None:
    assert run(tmp_path, TRACK_0 + "DO 0x0201") == "C8000"


# ---- CD-ROM ------------------------------------------------------------------------------------------------

CD = [
    pytest.param("mov bx, 0x55AA\nDO 0x4100\nSAY bx\nSAY cx", "-3000 aa55 0007", id="41_with_locking"),
    pytest.param(
        "PACKET 3, 0x8000, 0, 5\nDO 0x4200\nSAY [0x8000]\nSAY [0x97FE]\nSAY [si+2]",
        "-0000 0005 0007 0003",
        id="42_read",
    ),
    pytest.param(
        "PACKET 70, 0xF000, 0x1000, 5\nDO 0x4200\nmov ax, 0x4180\nmov ds, ax\nSAY [0]\nSAY [0x7FE]",
        "-0000 004a 004a",
        id="42_seventy_sectors",
    ),
    pytest.param(
        "PACKET 2, 0x8000, 0, 99\nmov ax, 0x4200\nint 0x13\ncall carry\nSAY [si+2]", "C0000", id="42_beyond_the_end"
    ),
    pytest.param("PACKET 1, 0x8000, 0, 5\nDO 0x4300", "C0300", id="43_protected"),
    pytest.param("PACKET 1, 0, 0, 99\nDO 0x4400", "-0000", id="44_verify"),
    pytest.param("PACKET 1, 0, 0, 100\nDO 0x4700", "C0400", id="47_seek_beyond_the_end"),
    pytest.param(
        "mov si, 0x600\nmov word ptr [si], 26\nmov ah, 0x48\nint 0x13\ncall carry\nSAY [si+2]\nSAY [si+16]\n"
        "SAY [si+24]",
        "-0035 0064 0800",
        id="48_parameters",
    ),
    pytest.param(
        "DO 0x4502\nDO 0x4500\nDO 0x4600\nDO 0x4501\nDO 0x4501",
        "-0000 -0001 Cb100 -0000 Cb001",
        id="45_locks_are_counted_and_46_obeys",
    ),
    pytest.param(
        "DO 0x4600\nPACKET 1, 0x8000, 0, 5\nDO 0x4200",
        "-0000 C3100",
        id="46_ejects",
    ),
    pytest.param("DO 0x0201", "C0101", id="02_no_chs"),
    pytest.param("DO 0x1000", "-0000", id="10_ready"),
    pytest.param("mov si, 0x600\nDO 0x4B01", "C0101", id="4b_nothing_was_booted"),
    pytest.param("mov dl, 0xE1\nmov bx, 0x55AA\nDO 0x4100", "C0100", id="no_second_drive"),
]


@pytest.mark.parametrize(("code", "said"), CD)
def test_cdrom(tmp_path: Path, code: str, said: str) -> None:
    """What INT 13h answers for drive E0h with 100 sectors."""
    (tmp_path / "cd.iso").write_bytes(self_naming(100, CD_SECTOR))
    assert run(tmp_path, f"mov dl, 0xE0\n{code}", "-cdrom", str(tmp_path / "cd.iso")) == said
