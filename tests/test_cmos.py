"""The configuration bytes of the CMOS, against the map of the PC/AT.

Source of the expected values: IBM PC/AT Technical Reference, "RT/CMOS RAM Address Map".
"""

import pytest

from vmm import cmos
from vmm.board import Media
from vmm.devices.block import RamDisk

MIB = 1 << 20
KIB = 1 << 10


def floppy(kib: int) -> RamDisk:
    return RamDisk(bytearray(kib * KIB))


NOTHING = Media()


def configured(memory: int = 64 * MIB, media: Media = NOTHING, boot: tuple[str, ...] = ()) -> bytearray:
    cells = bytearray(128)
    cmos.configure(cells, memory, media, boot)
    return cells


def word(cells: bytearray, at: int) -> int:
    return int.from_bytes(cells[at : at + 2], "little")


MEMORY = [
    pytest.param(1 * MIB, 0, 0, id="1M_has_nothing_above"),
    pytest.param(MIB + 64 * KIB, 64, 0, id="64K_above"),
    pytest.param(16 * MIB, 15 * 1024, 0, id="16M"),
    pytest.param(17 * MIB, 16 * 1024, 16, id="17M"),
    pytest.param(64 * MIB, 63 * 1024, 48 * 16, id="64M"),
    pytest.param(65 * MIB, 0xFFFF, 49 * 16, id="65M_is_the_word_full"),
    pytest.param(2048 * MIB, 0xFFFF, 2032 * 16, id="2G"),
]


@pytest.mark.parametrize(("memory", "extended_kib", "above_16m"), MEMORY)
def test_memory_sizes(memory: int, extended_kib: int, above_16m: int) -> None:
    cells = configured(memory)
    assert (word(cells, 0x15), word(cells, 0x17), word(cells, 0x30), word(cells, 0x34)) == (
        640,
        extended_kib,
        extended_kib,
        above_16m,
    )


FLOPPIES = [
    pytest.param((), 0x00, 0x02, id="none"),
    pytest.param((floppy(360),), 0x10, 0x03, id="360K"),
    pytest.param((floppy(1200),), 0x20, 0x03, id="1200K"),
    pytest.param((floppy(720),), 0x30, 0x03, id="720K"),
    pytest.param((floppy(1440),), 0x40, 0x03, id="1440K"),
    pytest.param((floppy(2880),), 0x50, 0x03, id="2880K"),
    pytest.param((floppy(1440), floppy(720)), 0x43, 0x43, id="two"),
    pytest.param((None, floppy(2880)), 0x45, 0x43, id="an_empty_drive_a_keeps_its_place"),
]


@pytest.mark.parametrize(("floppies", "types", "equipment"), FLOPPIES)
def test_floppy_drives(floppies: tuple[RamDisk | None, ...], types: int, equipment: int) -> None:
    """10h has a nibble a drive, A's first; 14h bit 0 says that there are any, bits 7:6 how many; bit 1 is the FPU."""
    cells = configured(media=Media(floppies=floppies))
    assert (cells[0x10], cells[0x14]) == (types, equipment)


@pytest.mark.parametrize(("disks", "types", "more"), [(0, 0x00, (0, 0)), (1, 0xF0, (47, 0)), (2, 0xFF, (47, 47))])
def test_disk_types_are_for_the_user_to_say(disks: int, types: int, more: tuple[int, int]) -> None:
    """12h has a nibble a disk; Fh refers to 19h and 1Ah."""
    cells = configured(media=Media(disks=tuple(RamDisk(bytearray(512)) for _ in range(disks))))
    assert (cells[0x12], (cells[0x19], cells[0x1A])) == (types, more)


BOOT = [
    pytest.param((), 0x00, 0x01, id="nothing"),
    pytest.param(("floppy",), 0x01, 0x01, id="floppy"),
    pytest.param(("disk", "floppy"), 0x12, 0x01, id="disk_floppy"),
    pytest.param(("cdrom", "disk", "floppy"), 0x23, 0x11, id="cdrom_disk_floppy"),
]


@pytest.mark.parametrize(("order", "first_two", "third"), BOOT)
def test_boot_order(order: tuple[str, ...], first_two: int, third: int) -> None:
    cells = configured(boot=order)
    assert (cells[0x3D], cells[0x38]) == (first_two, third)


@pytest.mark.parametrize("memory", [1 * MIB, 64 * MIB, 2048 * MIB])
def test_checksum_is_the_sum_of_10h_to_2dh_high_byte_first(memory: int) -> None:
    cells = configured(memory, Media(floppies=(floppy(1440),)))
    assert int.from_bytes(cells[0x2E:0x30], "big") == sum(cells[0x10:0x2E])


def test_everything_else_is_left_alone() -> None:
    """The clock's own cells, the shutdown byte and the century are nobody's configuration."""
    cells = bytearray(b"\xa5" * 128)
    cmos.configure(cells, 64 * MIB, Media(), ())
    written = {0x10, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x2E, 0x2F, 0x30, 0x31, 0x34, 0x35, 0x38, 0x3D}
    assert {at for at in range(128) if cells[at] != 0xA5} == written
