"""INT 19h and INT 18h: what boots, in which order and with what in the registers; El Torito.

Sources of the expected values: "BIOS Boot Specification" 1.01; "El Torito Bootable CD-ROM Format Specification" 1.0.
"""

import struct
from pathlib import Path

import pytest

from tests.firmware.media import SECTOR, boot_sector, cd_image, drive, run, self_naming

TRACK_0 = "mov dx, 0\nmov cx, 1\nmov bx, 0x8000\n"

SAY_FLOPPY = boot_sector("SAY 0xF000")
SAY_DISK = "SAY 0xD000"


def floppy(tmp_path: Path, sector: bytes) -> tuple[str, str]:
    """A 1.44 MB floppy that begins with `sector`."""
    return drive(tmp_path / "boot.img", sector.ljust(2880 * SECTOR, b"\0"), "floppy", 0)


def unsigned(sector: bytes) -> bytes:
    return sector[:-2] + b"\0\0"


# ---- INT 19h, INT 18h ------------------------------------------------------------------------------------------

ORDER = [
    pytest.param("ac", SAY_FLOPPY, "f000", id="floppy_first"),
    pytest.param("ca", SAY_FLOPPY, "d000", id="disk_first"),
    pytest.param("dac", SAY_FLOPPY, "f000", id="no_cd_then_floppy"),
    pytest.param("ac", unsigned(SAY_FLOPPY), "d000", id="floppy_without_signature_is_passed_over"),
    pytest.param("ac", boot_sector("int 0x18"), "d000", id="int18_goes_on_with_the_next"),
]


@pytest.mark.parametrize(("order", "sector", "said"), ORDER)
def test_boot_order(tmp_path: Path, order: str, sector: bytes, said: str) -> None:
    assert run(tmp_path, SAY_DISK, "-boot", order, *floppy(tmp_path, sector)) == said


def test_int19_begins_again(tmp_path: Path) -> None:
    """The floppy's sector counts itself in memory that the BIOS leaves alone, and boots twice."""
    sector = boot_sector("inc word ptr [0x600]\nSAY [0x600]\ncmp word ptr [0x600], 2\nje done\nint 0x19")
    assert run(tmp_path, SAY_DISK, "-boot", "ac", *floppy(tmp_path, sector)) == "0001 0002"


@pytest.mark.parametrize(
    ("sector", "said"),
    [
        pytest.param(unsigned(SAY_FLOPPY), "f000", id="boots_if_the_check_is_off"),
        pytest.param(b"\xf6" * SECTOR, "d000", id="not_when_it_was_never_written"),
        pytest.param(bytes(SECTOR), "d000", id="not_when_it_is_zero"),
    ],
)
def test_floppy_without_signature(tmp_path: Path, sector: bytes, said: str) -> None:
    """CMOS 38h bit 0 says that floppies need no signature."""
    assert run(tmp_path, SAY_DISK, "-boot", "ac", "-no-fd-bootchk", *floppy(tmp_path, sector)) == said


def test_registers_at_the_boot_sector(tmp_path: Path) -> None:
    """0000:7C00 with DL = drive, SS:SP = 0000:7C00, interrupts on, DF clear, ES:DI = 0."""
    stores = "".join(f"mov word ptr cs:[{0x602 + 2 * n}], {r}\n" for n, r in enumerate(REGISTERS))
    first = f"mov word ptr cs:[0x600], sp\n{stores}pushf\npop word ptr cs:[0x620]\n"
    tell = "".join(f"SAY [{0x600 + 2 * n}]\n" for n in range(len(REGISTERS) + 1)) + "SAY [0x620]"
    said = run(tmp_path, SAY_DISK, "-boot", "ac", *floppy(tmp_path, boot_sector(tell, first)))
    assert said == "7c00 0000 0000 0000 0000 0000 0000 aa55 0000 0202"


REGISTERS = ("ss", "cs", "ds", "es", "dx", "di", "ax", "cx")

# The boot sector shows what the BIOS prints from then on, until so many lines have ended; it moves 4 KiB up, out of the
# way of the next one.
LISTEN = """
    mov ax, 0x100
    mov es, ax
    mov si, 0x7C00
    mov di, si
    mov cx, 256
    rep movsw
    mov word ptr [0x40], hook
    mov word ptr [0x42], ax
    int 0x18
hook:
    cmp ah, 0x0E
    jne 1f
    out 0xE9, al
    cmp al, 10
    jne 1f
    dec byte ptr cs:[lines]
    jz done
1:
    iret
lines:
    .byte {lines}
"""


@pytest.mark.parametrize(
    ("order", "lines", "said"),
    [
        pytest.param("c", 1, "No bootable device. System halted.", id="nothing_left"),
        pytest.param("ca", 1, "Booting from floppy A: no disk", id="empty_floppy"),
        pytest.param("cd", 1, "Booting from CD-ROM: no disk", id="empty_cd"),
        pytest.param("cda", 2, "Booting from CD-ROM: no disk\r\nBooting from floppy A: no disk", id="each_is_told"),
    ],
)
def test_what_does_not_boot_is_told(tmp_path: Path, order: str, lines: int, said: str) -> None:
    assert run(tmp_path, LISTEN.format(lines=lines), "-boot", order) == said


def test_cd_without_a_boot_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "cd.iso").write_bytes(bytes(100 * 2048))
    said = run(tmp_path, LISTEN.format(lines=1), "-boot", "cd", "-cdrom", str(tmp_path / "cd.iso"))
    assert said == "Booting from CD-ROM: not bootable"


# ---- El Torito ---------------------------------------------------------------------------------------------

FLOPPY_IMAGE = 2
DISK_IMAGE = 4


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("SAY_BYTE dl\nSAY cs", "00e0 0000", id="enters_0000_7c00_with_the_drive"),
        pytest.param("SAY [0x7C00+2046]", "cafe", id="loads_four_sectors"),
        pytest.param(
            "mov si, 0x600\nDO 0x4B01\nSAY [si]\nSAY [si+2]\nSAY [si+4]\nSAY [si+14]",
            "-0001 0013 00e0 0014 0004",
            id="4b01_tells_what_was_booted",
        ),
        pytest.param(
            "mov si, 0x600\nmov byte ptr [si], 8\nmov byte ptr [si+1], 1\nmov dword ptr [si+2], 0x8000\n"
            "mov word ptr [si+6], 0\n"
            "DO 0x4D00\nSAY [0x8000]\nSAY [0x8020]",
            "-0000 0001 0088",
            id="4d00_reads_the_catalogue",
        ),
    ],
)
def test_no_emulation(tmp_path: Path, code: str, said: str) -> None:
    """A boot image that drive E0h loads; its fourth 512-byte sector ends CAFEh."""
    image = boot_sector(code).ljust(2046, b"\0") + b"\xfe\xca"
    (tmp_path / "cd.iso").write_bytes(cd_image(image, media=0, sectors=4))
    assert run(tmp_path, "nop", "-cdrom", str(tmp_path / "cd.iso"), "-boot", "d") == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("SAY_BYTE dl\nSAY cs", "0000 0000", id="boots_as_drive_00"),
        pytest.param(
            TRACK_0 + "mov cl, 2\nDO 0x0203\nSAY [0x8000]\nSAY [0x83FE]\nSAY [0x8400]",
            "-0003 0001 0002 0003",
            id="02_cuts_sectors_out_of_cd_sectors",
        ),
        pytest.param(
            "mov dx, 0x0100\nmov cx, 0x4F12\nmov bx, 0x8000\nDO 0x0201\nSAY [bx]",
            "-0001 0b3f",
            id="02_the_last_sector",
        ),
        pytest.param(TRACK_0 + "DO 0x0301", "C0301", id="03_protected"),
        pytest.param(TRACK_0 + "mov cl, 19\nDO 0x0201", "C0400", id="02_no_sector_19"),
        pytest.param(
            "mov dl, 0\nDO 0x0800\nSAY bx\nSAY cx\nSAY dx",
            "-0000 0004 4f12 0102",
            id="08_parameters",
        ),
        pytest.param(TRACK_0 + "mov dl, 1\nDO 0x0201\nSAY [bx]", "-0001 f00d", id="the_real_floppy_is_01"),
        pytest.param(
            "mov si, 0x600\nmov dl, 0\nDO 0x4B00\nSAY [si]\nSAY [si+16]\nSAY [si+18]\n"
            + TRACK_0
            + "mov ax, 0x0201\nint 0x13\nSAY [bx]",
            "-0000 0213 124f 0001 f00d",
            id="4b00_ends_it",
        ),
    ],
)
def test_floppy_emulation(tmp_path: Path, code: str, said: str) -> None:
    """A 1.44 MB image on the CD is drive 00h; the floppy in the real drive is filled with F00Dh."""
    image = boot_sector(code) + self_naming(2880)[SECTOR:]
    (tmp_path / "cd.iso").write_bytes(cd_image(image, media=FLOPPY_IMAGE, sectors=1))
    floppy = drive(tmp_path / "floppy.img", b"\x0d\xf0" * (1440 * 512), "floppy", 0)
    assert run(tmp_path, "nop", "-cdrom", str(tmp_path / "cd.iso"), "-boot", "d", *floppy) == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param(
            "mov ah, 8\nmov dl, 0x80\nint 0x13\nRESULT\nSAY cx\nSAY dx", "-0000 041f 0302", id="08_parameters"
        ),
        pytest.param(
            "mov dx, 0x0380\nmov cx, 0x041F\nmov bx, 0x8000\nDO 0x0201\nSAY [bx]",
            f"-0001 {5 * 4 * 31 - 1:04x}",
            id="02_the_last_sector",
        ),
        pytest.param(
            "mov dx, 0x0081\nmov cx, 1\nmov bx, 0x8000\nDO 0x0201\nSAY [bx+510]",
            "-0001 aa55",
            id="the_real_disk_is_81",
        ),
    ],
)
def test_disk_emulation(tmp_path: Path, code: str, said: str) -> None:
    """An image of 5 cylinders, 4 heads, 31 sectors on the CD is drive 80h; its partition entry says so."""
    first = bytearray(boot_sector(code))
    assert not any(first[0x1BE:0x1FE])
    first[0x1BE:0x1CE] = struct.pack("<8BII", 0x80, 0, 1, 0, 1, 3, 31, 4, 0, 5 * 4 * 31)
    image = bytes(first) + self_naming(5 * 4 * 31)[SECTOR:]
    (tmp_path / "cd.iso").write_bytes(cd_image(image, media=DISK_IMAGE, sectors=1))
    assert run(tmp_path, "nop", "-cdrom", str(tmp_path / "cd.iso"), "-boot", "d") == said
