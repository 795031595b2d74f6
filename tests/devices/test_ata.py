"""The ATA disk: every command against ATA/ATAPI-6, "Command descriptions"."""

import pytest
from ata_host import (
    BSY,
    COUNT,
    DEVICE,
    DRQ,
    ERR,
    ERROR,
    HIGH,
    HOB,
    LOW,
    MID,
    READY,
    SRST,
    STATUS,
    BadSectors,
    disk_host,
    sectors,
)

from vmm.devices.block import SECTOR, RamDisk

ABRT, IDNF, UNC = 0x04, 0x10, 0x40
FAILED = READY | ERR
TOTAL = 16 * 63 * 3 + 40  # three cylinders and a part of one


def filled(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(4, "little") * 128 for n in numbers)


@pytest.fixture
def host():
    return disk_host(sectors(TOTAL))


def words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2)]


def text(data: list[int]) -> str:
    return b"".join(word.to_bytes(2, "big") for word in data).decode().rstrip()


# -- IDENTIFY DEVICE -------------------------------------------------------------------------------------------------


def test_identify_describes_the_disk(host):
    assert host.command(0xEC) == READY | DRQ
    data = host.data_in(512)
    word = words(data)
    assert (word[0], word[1], word[3], word[6]) == (0x0040, 3, 16, 63)
    assert word[4:6] == [63 * 512, 512]  # unformatted bytes per track and per sector, of ATA-1
    assert (text(word[10:20]), text(word[23:27]), text(word[27:47])) == ("GV00000000", "1.0", "GLASSVISOR HARD DISK")
    assert word[54:57] == [3, 16, 63]
    assert word[57] | word[58] << 16 == 3 * 16 * 63
    assert word[60] | word[61] << 16 == TOTAL
    assert word[100:104] == [TOTAL, 0, 0, 0]
    assert (word[49] & 0x0300, word[53] & 4) == (0x0300, 4)  # LBA, DMA, word 88 is valid
    assert (word[63], word[88]) == (0x0407, 0x0007)  # both kinds, modes 0-2; multiword DMA 2 is selected
    assert word[83] & 0x0400  # 48-bit addresses
    assert (data[510], sum(data) & 0xFF) == (0xA5, 0)
    assert (host.inb(STATUS), host.edges()) == (READY, 1)


@pytest.mark.parametrize(
    ("total", "cylinders", "lba28"),
    [(100, 1, 100), (16383 * 1008 + 5000, 16383, 16383 * 1008 + 5000), (1 << 28, 16383, (1 << 28) - 1)],
)
def test_identify_limits(total, cylinders, lba28):
    class Huge(RamDisk):
        size = total * SECTOR

    host = disk_host(Huge())
    host.command(0xEC)
    word = words(host.data_in(512))
    assert (word[1], word[60] | word[61] << 16, word[100] | word[101] << 16) == (cylinders, lba28, total)


def test_identify_follows_the_settings(host):
    host.command(0x91, count=17, device=0xA3)
    host.command(0xC6, count=8)
    host.command(0xEF, features=0x82)
    host.command(0xEC)
    word = words(host.data_in(512))
    assert (word[1], word[3], word[6]) == (3, 16, 63)
    assert word[54:57] == [TOTAL // 68, 4, 17]
    assert (word[59], word[82] & 0x60, word[85] & 0x60) == (0x0108, 0x60, 0x40)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_read_sectors_gives_one_block_and_one_interrupt_a_sector(host):
    assert host.command(0x20, count=3, lba=1000) == READY | DRQ
    for n in (1000, 1001, 1002):
        assert (host.edges(), host.inb(STATUS)) == (1, READY | DRQ)
        host.edges()
        assert host.data_in(512) == filled(n)
    assert (host.edges(), host.inb(STATUS)) == (0, READY)
    assert host.task_file() == (0, 0, 1002 & 0xFF, 1002 >> 8, 0, 0xE0)


def test_a_count_of_0_is_256_sectors(host):
    host.command(0x20, count=0, lba=0)
    assert b"".join(host.data_in(512) for _ in range(256)) == filled(*range(256))
    assert host.inb(STATUS) == READY


def test_without_latency_one_block_read_takes_all_sectors():
    host = disk_host(sectors(64), latency_ns=0)
    host.command(0x20, count=5, lba=1)
    assert host.channel.read_block(0, 4, 5 * 128) == filled(1, 2, 3, 4, 5)
    assert host.inb(STATUS) == READY


@pytest.mark.parametrize(
    ("cylinder", "head", "sector", "lba"), [(0, 0, 1, 0), (0, 0, 63, 62), (0, 1, 1, 63), (2, 15, 63, 3023)]
)
def test_read_by_chs(host, cylinder, head, sector, lba):
    host.outb(LOW, sector)
    host.outb(MID, cylinder)
    host.outb(HIGH, 0)
    host.command(0x20, count=1, device=0xA0 | head)
    assert host.data_in(512) == filled(lba)
    assert host.task_file() == (0, 0, sector, cylinder, 0, 0xA0 | head)


def test_a_chs_transfer_carries_into_head_and_cylinder(host):
    host.outb(LOW, 63)
    host.outb(MID, 0)
    host.outb(HIGH, 0)
    host.command(0x20, count=2, device=0xAF)
    assert host.data_in(512) + host.data_in(512) == filled(1007, 1008)
    assert host.task_file() == (0, 0, 1, 1, 0, 0xA0)


def test_initialize_device_parameters_changes_the_translation(host):
    assert host.command(0x91, count=17, device=0xA3) == READY
    host.outb(LOW, 2)
    host.outb(MID, 1)
    host.outb(HIGH, 0)
    host.command(0x20, count=1, device=0xA3)
    assert host.data_in(512) == filled((1 * 4 + 3) * 17 + 1)
    assert host.command(0x91, count=0, device=0xA3) == FAILED


@pytest.mark.parametrize(("sector", "device"), [(0, 0xA0), (64, 0xA0), (18, 0xA4)])
def test_chs_outside_the_translation_is_idnf(host, sector, device):
    if sector == 18:
        host.command(0x91, count=17, device=0xA3)
    host.outb(LOW, sector)
    host.outb(MID, 0)
    host.outb(HIGH, 0)
    assert (host.command(0x20, count=1, device=device), host.inb(ERROR)) == (FAILED, IDNF)


def test_read_sectors_ext_takes_48_bits(host):
    host.command48(0x24, count=2, lba=2000)
    assert host.data_in(512) + host.data_in(512) == filled(2000, 2001)
    assert host.command48(0x24, count=1, lba=1 << 32 | 5) == FAILED
    assert host.inb(ERROR) == IDNF


def test_ext_counts_are_16_bits(host):
    host.command48(0x24, count=0x0101, lba=0)
    assert b"".join(host.data_in(512) for _ in range(257)) == filled(*range(257))
    assert host.inb(STATUS) == READY


def test_read_multiple_moves_blocks(host):
    assert host.command(0xC6, count=4) == READY
    host.edges()
    host.command(0xC4, count=6, lba=10)
    assert host.inb(STATUS) == READY | DRQ
    assert host.data_in(4 * 512) == filled(10, 11, 12, 13)
    assert host.inb(STATUS) == READY | DRQ
    assert host.data_in(2 * 512) == filled(14, 15)
    assert (host.inb(STATUS), host.edges()) == (READY, 2)
    host.command48(0x29, count=4, lba=20)
    assert host.data_in(4 * 512) == filled(20, 21, 22, 23)


@pytest.mark.parametrize("code", [0xC4, 0xC5, 0x29, 0x39])
def test_multiple_transfers_need_set_multiple(host, code):
    assert (host.command(code, count=1, lba=0), host.inb(ERROR)) == (FAILED, ABRT)


@pytest.mark.parametrize(("count", "status"), [(0, READY), (1, READY), (16, READY), (3, FAILED), (32, FAILED)])
def test_set_multiple_takes_powers_of_two_up_to_16(host, count, status):
    assert host.command(0xC6, count=count) == status


# -- writing ---------------------------------------------------------------------------------------------------------


def test_write_sectors_asks_first_without_and_then_with_an_interrupt(host):
    assert host.command(0x30, count=2, lba=100) == READY | DRQ
    assert host.edges() == 0
    host.data_out(filled(7))
    assert (host.edges(), host.inb(STATUS)) == (1, READY | DRQ)
    host.edges()
    host.data_out(filled(8), 4)
    assert (host.edges(), host.inb(STATUS)) == (1, READY)
    assert host.task_file() == (0, 0, 101, 0, 0, 0xE0)
    assert host.channel.device0.disk.read(100 * 512, 1024) == filled(7, 8)


@pytest.mark.parametrize("code", [0xC5, 0x39])
def test_write_multiple(host, code):
    host.command(0xC6, count=2)
    if code == 0x39:
        host.command48(code, count=3, lba=200)
    else:
        host.command(code, count=3, lba=200)
    host.data_out(filled(1, 2))
    host.data_out(filled(3))
    assert host.inb(STATUS) == READY
    assert host.channel.device0.disk.read(200 * 512, 3 * 512) == filled(1, 2, 3)


def test_write_sectors_ext(host):
    host.command48(0x34, count=1, lba=300)
    host.data_out(filled(9))
    assert host.channel.device0.disk.read(300 * 512, 512) == filled(9)


def test_a_write_that_is_not_finished_writes_nothing(host):
    host.command(0x30, count=1, lba=100)
    host.data_out(bytes(510))
    host.command(0xE7)
    assert host.channel.device0.disk.read(100 * 512, 512) == filled(100)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x20, 0x30, 0x40, 0x70])
def test_addresses_beyond_the_end_are_idnf(host, code):
    assert (host.command(code, count=1, lba=TOTAL), host.inb(ERROR)) == (FAILED, IDNF)
    assert host.edges() == 1


@pytest.mark.parametrize("code", [0x20, 0x40])
def test_a_transfer_over_the_end_stops_at_the_first_missing_sector(host, code):
    status = host.command(code, count=4, lba=TOTAL - 2)
    if code == 0x20:
        assert host.data_in(512) + host.data_in(512) == filled(TOTAL - 2, TOTAL - 1)
        status = host.alternate()
    assert status == FAILED
    assert host.task_file()[:1] + host.task_file()[2:4] == (IDNF, TOTAL & 0xFF, TOTAL >> 8)


def test_a_write_over_the_end_stops_there(host):
    host.command(0x30, count=2, lba=TOTAL - 1)
    host.data_out(filled(1))
    assert (host.inb(STATUS), host.inb(ERROR), host.inb(LOW)) == (FAILED, IDNF, TOTAL & 0xFF)


def test_a_medium_that_fails_is_unc_with_the_address():
    host = disk_host(BadSectors(64 * 512, good=10 * 512))
    host.command(0x20, count=4, lba=9)
    assert host.data_in(512) == bytes(512)
    assert host.inb(STATUS) == FAILED
    assert host.task_file()[:3] == (UNC, 3, 10)
    assert (host.command(0x40, count=1, lba=12), host.inb(ERROR)) == (FAILED, UNC)
    host.command(0x30, count=1, lba=12)
    host.data_out(bytes(512))
    assert (host.inb(STATUS), host.inb(ERROR)) == (FAILED, UNC)
    assert (host.command(0xE7), host.inb(ERROR)) == (FAILED, ABRT)


def test_an_ext_error_shows_the_whole_address():
    class Huge(BadSectors):
        size = 1 << 46

    host = disk_host(Huge(0, good=0))
    lba = 0x12_3456_789A
    host.command48(0x24, count=0x0203, lba=lba)
    assert host.inb(ERROR) == UNC
    assert [host.inb(r) for r in (COUNT, LOW, MID, HIGH)] == [0x03, 0x9A, 0x78, 0x56]
    host.control(HOB)
    assert [host.inb(r) for r in (COUNT, LOW, MID, HIGH)] == [0x02, 0x34, 0x12, 0x00]


def test_a_read_only_medium_aborts_writes():
    host = disk_host(RamDisk(bytearray(8192), read_only=True))
    host.command(0x30, count=1, lba=0)
    host.data_out(bytes(512))
    assert (host.inb(STATUS), host.inb(ERROR)) == (FAILED, ABRT)


@pytest.mark.parametrize("code", [0x00, 0x08, 0x26, 0x36, 0xA0, 0xA1, 0xB0, 0xC7, 0xCC, 0xF1, 0xF8, 0xFF])
def test_what_identify_does_not_offer_is_aborted(host, code):
    assert (host.command(code), host.inb(ERROR), host.edges()) == (FAILED, ABRT, 1)


# -- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x10, 0x1F, 0x41, 0x70, 0x7F, 0x94, 0x95, 0xE0, 0xE1, 0xE2, 0xE3, 0xE7, 0xEA])
def test_non_data_commands_end_with_one_interrupt(host, code):
    assert (host.command(code, count=1, lba=0), host.edges(), host.inb(ERROR)) == (READY, 1, 0)


def test_read_verify_moves_no_data(host):
    assert host.command(0x40, count=200, lba=50) == READY
    assert host.task_file()[1:4] == (0, 249, 0)
    assert host.command48(0x42, count=300, lba=1) == READY


@pytest.mark.parametrize(
    ("features", "count", "status"),
    [(0x03, 0x00, READY), (0x03, 0x0C, READY), (0x03, 0x20, READY), (0x03, 0x45, FAILED), (0x02, 0, READY)]
    + [(code, 0, READY) for code in (0x82, 0xAA, 0x55, 0x66, 0xCC)]
    + [(code, 0, FAILED) for code in (0x05, 0x42, 0x99)],
)
def test_set_features(host, features, count, status):
    assert host.command(0xEF, features=features, count=count) == status


@pytest.mark.parametrize(
    ("mode", "multiword", "ultra"),
    [
        (0x20, 0x0107, 0x0007),
        (0x22, 0x0407, 0x0007),
        (0x40, 0x0007, 0x0107),
        (0x42, 0x0007, 0x0407),
        (0x0C, 0x0407, 0x0007),
    ],
)
def test_identify_shows_the_dma_mode_that_is_selected(host, mode, multiword, ultra):
    host.command(0xEF, features=0x03, count=mode)
    host.command(0xEC)
    word = words(host.data_in(512))
    assert (word[63], word[88]) == (multiword, ultra)


# -- DMA: the channel's side of it; the bus master is in test_piix3_ide ----------------------------------------------


def test_a_dma_read_wants_a_bus_master_and_interrupts_once_at_the_end(host):
    host.command(0xC8, count=3, lba=5)
    assert (host.channel.dma_wanted, host.channel.dma_to_host, host.edges()) == (True, True, 0)
    data = host.channel.dma_take(512) + host.channel.dma_take(5000)
    assert data == b"".join(n.to_bytes(4, "little") * 128 for n in (5, 6, 7))
    assert (host.channel.dma_wanted, host.inb(STATUS), host.edges()) == (False, READY, 1)
    assert host.task_file()[1:4] == (0, 7, 0)


def test_a_dma_write_stores_what_the_bus_master_brings_and_interrupts_once(host):
    host.command(0xCA, count=2, lba=9)
    assert (host.channel.dma_wanted, host.channel.dma_to_host, host.channel.dma_room) == (True, False, 1024)
    assert host.channel.dma_put(b"a" * 1000) == 1000
    assert host.channel.dma_put(b"b" * 1000) == 24
    host.wait()
    assert (host.channel.dma_wanted, host.inb(STATUS), host.edges()) == (False, READY, 1)
    host.command(0x20, count=2, lba=9)
    assert host.data_in(512) + host.data_in(512) == b"a" * 1000 + b"b" * 24


@pytest.mark.parametrize("code", [0x25, 0x35])
def test_extended_dma_takes_16_bits_of_count(host, code):
    host.command48(code, count=0x101, lba=2)
    moved = 0
    while host.channel.dma_wanted:
        moved += len(host.channel.dma_take(99)) if host.channel.dma_to_host else host.channel.dma_put(bytes(99))
        host.wait()
    assert (moved, host.inb(STATUS), host.edges()) == (0x101 * 512, READY, 1)


def test_the_data_port_is_not_where_dma_data_is(host):
    host.command(0xC8, count=1, lba=0)
    assert host.channel.read_block(0, 2, 256) == b"\x7f\xff" * 256
    assert len(host.channel.dma_take(9999)) == 512


def test_a_dma_transfer_over_the_end_fails_without_data(host):
    assert (host.command(0xC8, count=4, lba=TOTAL - 2), host.inb(ERROR), host.edges()) == (FAILED, IDNF, 1)
    assert not host.channel.dma_wanted


def test_a_software_reset_ends_a_dma_transfer(host):
    host.command(0xC8, count=1, lba=0)
    host.control(SRST)
    host.control(0)
    host.wait()
    assert (host.channel.dma_wanted, host.inb(STATUS)) == (False, READY)


@pytest.mark.parametrize("code", [0x98, 0xE5])
def test_check_power_mode(host, code):
    host.command(code)
    assert host.inb(COUNT) == 0xFF
    host.command(0xE0)
    host.command(code)
    host.command(code)
    assert host.inb(COUNT) == 0x00
    host.command(0x10)
    host.command(code)
    assert host.inb(COUNT) == 0xFF


@pytest.mark.parametrize("code", [0x99, 0xE6])
def test_only_a_reset_wakes_a_sleeping_disk(host, code):
    host.command(code)
    assert host.command(0xEC) == BSY
    host.control(SRST)
    host.control(0)
    host.wait()
    assert host.command(0xEC) == READY | DRQ


def test_settings_survive_a_software_reset(host):
    host.command(0xC6, count=4)
    host.command(0x91, count=17, device=0xA3)
    host.control(SRST)
    host.control(0)
    host.wait()
    host.command(0xEC)
    word = words(host.data_in(512))
    assert (word[55], word[56], word[59]) == (4, 17, 0x0104)


def test_the_device_register_keeps_its_select_bits(host):
    host.command(0x20, count=1, lba=0x0000005, device=0xE0)
    host.data_in(512)
    assert host.inb(DEVICE) == 0xE0
