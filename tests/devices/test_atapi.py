"""The ATAPI CD-ROM: the PACKET protocol of ATA/ATAPI-6 and the packets of SFF-8020i and MMC-3."""

import pytest
from ata_host import BSY, COUNT, DRQ, ERR, ERROR, HIGH, LOW, MID, READY, STATUS, BadSectors, cd_host, sectors

from vmm.devices.block import RamDisk

BLOCKS = 100
FAILED = READY | ERR
ABRT = 0x04
NOT_READY, MEDIUM_ERROR, ILLEGAL, ATTENTION = 2, 3, 5, 6


def disc() -> RamDisk:
    return RamDisk(bytearray(b"".join(n.to_bytes(4, "little") * 512 for n in range(BLOCKS))))


def block(n: int) -> bytes:
    return n.to_bytes(4, "little") * 512


@pytest.fixture
def host():
    return cd_host(disc())


@pytest.fixture
def empty():
    return cd_host(None)


def unit(host):
    return host.channel.device0.unit


def read10(lba: int, count: int) -> bytes:
    return bytes((0x28, 0)) + lba.to_bytes(4, "big") + bytes((0,)) + count.to_bytes(2, "big")


def read12(lba: int, count: int) -> bytes:
    return bytes((0xA8, 0)) + lba.to_bytes(4, "big") + count.to_bytes(4, "big")


def read_cd(lba: int, count: int, flags: int = 0x10, kind: int = 0) -> bytes:
    return bytes((0xBE, kind << 2)) + lba.to_bytes(4, "big") + count.to_bytes(3, "big") + bytes((flags, 0))


# -- the device ------------------------------------------------------------------------------------------------------


def test_identify_packet_device(host):
    assert host.command(0xA1) == READY | DRQ
    data = host.data_in(512)
    word = [int.from_bytes(data[at : at + 2], "little") for at in range(0, 512, 2)]
    assert (word[0], word[49] & 0x0100, word[82] & 0x0210) == (0x85C0, 0x0100, 0x0210)
    assert (word[63], word[88]) == (0x0407, 0x0007)
    assert (data[510], sum(data) & 0xFF) == (0xA5, 0)
    assert (host.inb(STATUS), host.edges()) == (READY, 1)


@pytest.mark.parametrize("code", [0xEC, 0x20])
def test_disk_commands_are_aborted_with_the_signature(host, code):
    assert host.command(code, count=9, lba=0x123456) == FAILED
    assert host.task_file()[:5] == (ABRT, 1, 1, 0x14, 0xEB)


@pytest.mark.parametrize("code", [0x00, 0x30, 0x91, 0xC4, 0xC8, 0xE7])
def test_other_disk_commands_are_aborted(host, code):
    assert (host.command(code), host.inb(ERROR)) == (FAILED, ABRT)


@pytest.mark.parametrize("code", [0xE0, 0xE1, 0xE5, 0xE6])
def test_power_commands(host, code):
    assert (host.command(code), host.edges()) == (READY, 1)


@pytest.mark.parametrize(
    ("features", "count", "status"), [(3, 0x08, READY), (3, 0x22, READY), (3, 0x23, FAILED), (0x55, 0, FAILED)]
)
def test_set_features(host, features, count, status):
    assert host.command(0xEF, features=features, count=count) == status


def test_device_reset_works_while_busy_and_does_not_interrupt(host):
    host.outb(STATUS, 0xA1)
    assert host.inb(STATUS) == BSY
    host.outb(STATUS, 0x08)
    host.wait()
    assert (host.inb(STATUS), host.edges()) == (0, 0)
    assert (host.inb(ERROR), host.inb(COUNT), host.inb(LOW), host.inb(MID), host.inb(HIGH)) == (1, 1, 1, 0x14, 0xEB)


# -- the PACKET protocol ---------------------------------------------------------------------------------------------


def test_a_packet_with_data_interrupts_for_each_chunk_and_for_the_end(host):
    host.outb(MID, 0x00)
    host.outb(HIGH, 0x10)
    host.outb(STATUS, 0xA0)
    host.wait()
    assert (host.edges(), host.inb(STATUS), host.inb(COUNT)) == (0, READY | DRQ, 1)
    host.data_out(read10(1, 3).ljust(12, b"\0"))
    data, sizes = b"", []
    while host.edges() and host.inb(STATUS) & DRQ:
        host.edges()
        assert host.inb(COUNT) == 2
        sizes.append(host.inb(MID) | host.inb(HIGH) << 8)
        data += host.data_in(sizes[-1])
    assert (sizes, data) == ([4096, 2048], block(1) + block(2) + block(3))
    assert (host.inb(STATUS), host.inb(COUNT)) == (READY, 3)


@pytest.mark.parametrize("limit", [2, 12, 100, 2047, 2048, 2049, 0xFFFE, 0xFFFF])
def test_any_byte_count_limit_gives_the_same_data(host, limit):
    assert host.packet(read10(5, 2), limit) == (block(5) + block(6), READY)


@pytest.mark.parametrize(("limit", "size"), [(2049, 2048), (0xFFFF, 0xFFFE), (0x1000, 0x1000)])
def test_an_odd_limit_is_made_even(host, limit, size):
    host.outb(MID, limit & 0xFF)
    host.outb(HIGH, limit >> 8)
    host.outb(STATUS, 0xA0)
    host.wait()
    host.data_out(read10(0, 40).ljust(12, b"\0"))
    assert host.inb(MID) | host.inb(HIGH) << 8 == size


def test_an_odd_answer_is_shown_with_its_size(host):
    data, status = host.packet([0x12, 0, 0, 0, 5], 5)
    assert (len(data), status) == (5, READY)


@pytest.mark.parametrize("limit", [0, 1])
def test_data_with_a_limit_that_allows_none_is_aborted(host, limit):
    assert host.packet(read10(0, 1), limit) == (b"", FAILED)
    assert host.inb(ERROR) == ABRT


def test_a_packet_without_data_needs_no_limit(host):
    assert host.packet([0x00], 0) == (b"", READY)


@pytest.mark.parametrize("features", [2, 3])
def test_overlap_is_aborted(host, features):
    assert (host.command(0xA0, features=features), host.inb(ERROR)) == (FAILED, ABRT)


def dma_packet(host, packet):
    """The packet itself goes through the data port."""
    assert host.command(0xA0, features=1) == READY | DRQ
    host.data_out(packet.ljust(12, b"\0"))


@pytest.mark.parametrize(("start", "count"), [(1, 3), (0, 40)])
def test_the_data_of_a_dma_packet_goes_to_the_bus_master_with_one_interrupt(host, start, count):
    dma_packet(host, read10(start, count))
    data = b""
    while host.channel.dma_wanted:
        assert (host.channel.dma_to_host, host.edges()) == (True, 0)
        data += host.channel.dma_take(3000)
        host.wait()
    assert data == b"".join(block(n) for n in range(start, start + count))
    assert (host.inb(STATUS), host.inb(COUNT), host.edges()) == (READY, 3, 1)


def test_a_dma_packet_without_data_needs_no_bus_master(host):
    dma_packet(host, bytes([0x00]))
    assert (host.channel.dma_wanted, host.inb(STATUS), host.edges()) == (False, READY, 1)


def test_the_next_packet_may_be_pio_again(host):
    dma_packet(host, bytes([0x00]))
    assert host.packet(read10(3, 1)) == (block(3), READY)


def test_an_unknown_packet_is_an_illegal_request(host):
    assert host.packet([0xFF]) == (b"", FAILED)
    assert host.inb(ERROR) == ILLEGAL << 4 | ABRT
    assert host.sense() == (ILLEGAL, 0x20, 0)


def test_without_latency():
    assert cd_host(disc(), 0).packet(read10(9, 40)) == (b"".join(map(block, range(9, 49))), READY)


# -- packets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read10, read12, read_cd])
def test_reading(host, read):
    assert host.packet(read(BLOCKS - 2, 2)) == (block(BLOCKS - 2) + block(BLOCKS - 1), READY)
    assert host.packet(read(3, 0)) == (b"", READY)


@pytest.mark.parametrize("read", [read10, read12, read_cd])
@pytest.mark.parametrize(("lba", "count"), [(BLOCKS, 1), (BLOCKS - 1, 2), (0xFFFFFFFF, 1)])
def test_reading_beyond_the_end(host, read, lba, count):
    assert host.packet(read(lba, count)) == (b"", FAILED)
    assert host.sense() == (ILLEGAL, 0x21, 0)


def test_read_cd_has_user_data_only(host):
    assert host.packet(read_cd(0, 1, kind=2)) == (block(0), READY)
    assert host.packet(read_cd(0, 1, flags=0)) == (b"", READY)
    host.packet(read_cd(0, 1, flags=0xF8))
    assert host.sense() == (ILLEGAL, 0x24, 0)
    host.packet(read_cd(0, 1, kind=1))
    assert host.sense() == (ILLEGAL, 0x64, 0)


def test_a_disc_that_fails_is_a_medium_error_after_the_good_data():
    host = cd_host(BadSectors(BLOCKS * 2048, good=3 * 2048))
    data, status = host.packet(read10(2, 3), 2048)
    assert (data, status, host.inb(ERROR)) == (bytes(2048), FAILED, MEDIUM_ERROR << 4)
    assert host.sense() == (MEDIUM_ERROR, 0x11, 0)


def test_a_disc_that_is_taken_out_under_way_is_not_ready(host):
    host.outb(MID, 0x00)
    host.outb(HIGH, 0x08)
    host.outb(STATUS, 0xA0)
    host.wait()
    host.data_out(read10(2, 3).ljust(12, b"\0"))
    unit(host).remove()
    host.data_in(2048)
    assert host.inb(STATUS) == FAILED
    assert host.sense() == (NOT_READY, 0x3A, 0)


def test_read_capacity(host):
    data, _ = host.packet([0x25])
    assert data == (BLOCKS - 1).to_bytes(4, "big") + (2048).to_bytes(4, "big")


@pytest.mark.parametrize(
    "packet", [[0x00], [0x25], [0x28], [0xA8], [0xBE], [0x2B], [0x42, 0, 0x40, 1], [0x43], [0x51], [0x1B, 0, 0, 0, 1]]
)
def test_an_empty_drive_is_not_ready(empty, packet):
    assert empty.packet(packet) == (b"", FAILED)
    assert empty.inb(ERROR) == NOT_READY << 4
    assert empty.sense() == (NOT_READY, 0x3A, 0)


def test_inquiry(empty):
    data, status = empty.packet([0x12, 0, 0, 0, 96])
    assert (status, len(data), data[0], data[1], data[4]) == (READY, 36, 5, 0x80, 31)
    assert data[8:] == b"GLASSVSRCD-ROM          1.0 "
    empty.packet([0x12, 1, 0, 0, 96])
    assert empty.sense() == (ILLEGAL, 0x24, 0)


def test_sense_data_lasts_until_it_is_read_or_another_packet_runs(empty):
    empty.packet([0x00])
    assert (empty.sense(), empty.sense()) == ((NOT_READY, 0x3A, 0), (0, 0, 0))
    empty.packet([0x00])
    empty.packet([0x12, 0, 0, 0, 36])
    assert empty.sense() == (0, 0, 0)


def test_request_sense_format(empty):
    data, _ = empty.packet([0x03, 0, 0, 0, 255])
    assert data == bytes((0x70, 0, 0, 0, 0, 0, 0, 10)) + bytes(10)


def test_a_new_disc_is_one_unit_attention(empty):
    unit(empty).insert(disc())
    assert empty.packet([0x12, 0, 0, 0, 36])[1] == READY
    assert empty.packet([0x00])[1] == FAILED
    assert (empty.inb(ERROR), empty.sense()) == (ATTENTION << 4, (ATTENTION, 0x28, 0))
    assert empty.packet([0x00])[1] == READY


def test_request_sense_takes_the_unit_attention(empty):
    unit(empty).insert(disc())
    assert empty.sense() == (ATTENTION, 0x28, 0)
    assert empty.packet([0x00])[1] == READY


def test_the_tray_opens_and_closes(host):
    assert host.packet([0x1B, 0, 0, 0, 2])[1] == READY
    assert unit(host).tray_open
    assert host.packet([0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8])[0][1] == 0x10
    host.packet([0x00])
    assert host.sense() == (NOT_READY, 0x3A, 0)
    host.packet([0x1B, 0, 0, 0, 3])
    host.packet([0x00])
    assert host.sense() == (ATTENTION, 0x28, 0)
    assert host.packet(read10(1, 1)) == (block(1), READY)


def test_a_locked_tray_stays_shut(host):
    host.packet([0x1E, 0, 0, 0, 1])
    host.packet([0x1B, 0, 0, 0, 2])
    assert (host.sense(), unit(host).tray_open) == ((ILLEGAL, 0x53, 2), False)
    host.packet([0x1E])
    host.packet([0x1B, 0, 0, 0, 2])
    assert unit(host).tray_open


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        ([0x43, 0, 0, 0, 0, 0, 1, 0, 255], "0012 0101 00140100 00000000 0014aa00 00000064"),
        ([0x43, 2, 0, 0, 0, 0, 0, 0, 255], "0012 0101 00140100 00000200 0014aa00 00000319"),
        ([0x43, 0, 0, 0, 0, 0, 0xAA, 0, 255], "000a 0101 0014aa00 00000064"),
        ([0x43, 0, 0, 0, 0, 0, 0, 0, 4], "0012 0101"),
        ([0x43, 0, 1, 0, 0, 0, 0, 0, 255], "000a 0101 00140100 00000000"),
        ([0x43, 0, 0, 0, 0, 0, 0, 0, 255, 0x40], "000a 0101 00140100 00000000"),
        (
            [0x43, 2, 2, 0, 0, 0, 0, 0, 255],
            "002e 0101 011400a000000000010000 011400a100000000010000 011400a200000000000319 0114000100000000000200",
        ),
    ],
    ids=["lba", "msf", "lead_out", "cut", "session", "session_the_old_way", "raw"],
)
def test_read_toc(host, packet, expected):
    assert host.packet(packet) == (bytes.fromhex(expected), READY)


@pytest.mark.parametrize("packet", [[0x43, 0, 0, 0, 0, 0, 2, 0, 255], [0x43, 0, 5, 0, 0, 0, 0, 0, 255]])
def test_read_toc_refuses(host, packet):
    host.packet(packet)
    assert host.sense() == (ILLEGAL, 0x24, 0)


def test_mode_sense(host):
    data, _ = host.packet([0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 255])
    assert (data[:8], data[8:10], len(data)) == (bytes.fromhex("001a 01 0000000000"), b"\x2a\x12", 28)
    everything, _ = host.packet([0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 255])
    assert int.from_bytes(everything[:2], "big") == len(everything) - 2 == 6 + 8 + 8 + 20
    changeable, _ = host.packet([0x5A, 0, 0x41, 0, 0, 0, 0, 0, 255])
    assert changeable[8:] == bytes.fromhex("0106 000000000000")


@pytest.mark.parametrize(("page", "sense"), [(0x3E, (ILLEGAL, 0x24, 0)), (0xEA, (ILLEGAL, 0x39, 0))])
def test_mode_sense_refuses(host, page, sense):
    host.packet([0x5A, 0, page, 0, 0, 0, 0, 0, 255])
    assert host.sense() == sense


def test_mode_sense_tells_an_empty_drive(empty):
    assert empty.packet([0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 8])[0][2] == 0x70


def test_get_configuration(host, empty):
    data, _ = host.packet([0x46, 0, 0, 0, 0, 0, 0, 1, 0])
    assert (int.from_bytes(data[:4], "big"), data[6:8]) == (len(data) - 4, b"\x00\x08")
    assert empty.packet([0x46, 0, 0, 0, 0, 0, 0, 0, 8])[0][6:8] == b"\x00\x00"
    one, _ = host.packet([0x46, 2, 0, 0x10, 0, 0, 0, 1, 0])
    assert one[8:] == bytes.fromhex("0010 01 08 00000800 0001 0000")


def test_get_event_status_reports_once(host):
    poll = [0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8]
    assert host.packet(poll)[0] == bytes.fromhex("0006 04 10 00 02 0000")
    host.packet([0x1B, 0, 0, 0, 2])
    assert host.packet(poll)[0] == bytes.fromhex("0006 04 10 03 03 0000")
    assert host.packet(poll)[0] == bytes.fromhex("0006 04 10 00 03 0000")
    assert host.packet([0x4A, 1, 0, 0, 0x02, 0, 0, 0, 8])[0] == bytes.fromhex("0002 80 10")
    host.packet([0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8])
    assert host.sense() == (ILLEGAL, 0x24, 0)


def test_subchannel_and_mechanism_know_where_the_head_is(host):
    host.packet([0x2B, 0, 0, 0, 0, 80])
    data, _ = host.packet([0x42, 0, 0x40, 1, 0, 0, 0, 0, 16])
    assert data == bytes.fromhex("0015 000c 01140101 00000050 00000050")
    data, _ = host.packet([0x42, 2, 0x40, 1, 0, 0, 0, 0, 16])
    assert data[8:] == bytes.fromhex("00000305 00000105")
    assert host.packet([0x42, 0, 0, 1, 0, 0, 0, 0, 16])[0] == bytes.fromhex("0015 0000")
    assert host.packet([0x42, 0, 0x40, 2, 0, 0, 0, 0, 24])[0] == bytes.fromhex("0015 0014 02") + bytes(19)
    assert host.packet([0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8])[0] == bytes.fromhex("0000 000050 000000")
    host.packet([0x42, 0, 0x40, 9, 0, 0, 0, 0, 24])
    assert host.sense() == (ILLEGAL, 0x24, 0)


def test_disc_information(host):
    data, _ = host.packet([0x51, 0, 0, 0, 0, 0, 0, 0, 34])
    assert (len(data), data[:3], data[2] & 3) == (34, bytes.fromhex("0020 0e"), 2)


def test_speed_is_accepted(host):
    assert host.packet([0xBB, 0, 0xFF, 0xFF])[1] == READY


def test_state_is_saved_in_the_middle_of_a_packet():
    host, other = cd_host(disc()), cd_host(disc())
    unit(host).insert(disc())
    host.packet([0x00])
    host.outb(MID, 0x00)
    host.outb(HIGH, 0x08)
    host.outb(STATUS, 0xA0)
    host.wait()
    host.data_out(read10(2, 3).ljust(12, b"\0"))
    host.data_in(2048)
    other.channel.load(host.channel.save())
    assert other.data_in(2048) + other.data_in(2048) == block(3) + block(4)
    assert other.channel.device0.unit.save() == unit(host).save()


def test_the_whole_disk_size_does_not_matter_to_memory(host):
    """A READ(12) of the whole disc keeps one chunk in memory."""
    host = cd_host(sectors(4 * BLOCKS))
    host.outb(MID, 0xFE)
    host.outb(HIGH, 0xFF)
    host.outb(STATUS, 0xA0)
    host.wait()
    host.data_out(read12(0, BLOCKS).ljust(12, b"\0"))
    assert len(host.channel.device0.buffer) == 0xFFFE
