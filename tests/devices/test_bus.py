"""The port bus: who answers where, how wide accesses are split, and run-time mapping."""

import pytest

from vmm.devices.bus import PortBus, PortRegion, byte_region


class Byte:
    """A byte-wide chip that answers with tag + offset and remembers what it was told."""

    def __init__(self, tag=0):
        self.tag, self.log = tag, []

    def read(self, offset):
        self.log.append(offset)
        return self.tag + offset

    def write(self, offset, value):
        self.log.append((offset, value))


class Wide:
    """A wide chip: reads give tag in each byte."""

    def __init__(self, tag):
        self.tag, self.log = tag, []

    def read(self, offset, width):
        self.log.append((offset, width))
        return int.from_bytes(bytes([self.tag]) * width, "little")

    def write(self, offset, width, value):
        self.log.append((offset, width, value))

    def region(self, base, count, **kwargs):
        return PortRegion(f"wide{self.tag:x}", base, count, self.read, self.write, **kwargs)


@pytest.mark.parametrize(("width", "value"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF)])
@pytest.mark.parametrize("port", [0, 0x1234, 0xFFFF])
def test_an_unclaimed_port_reads_as_all_ones_and_swallows_writes(port, width, value):
    bus = PortBus()
    bus.write(port, width, 0)
    bus.write_block(port, width, bytes(width * 3))
    assert bus.read(port, width) == value
    assert bus.read_block(port, width, 3) == b"\xff" * (3 * width)


def test_a_chip_sees_offsets_from_its_base():
    bus, chip = PortBus(), Byte(0x40)
    bus.map(byte_region("chip", 0x3F8, 8, chip))
    bus.write(0x3FB, 1, 0x80)
    assert bus.read(0x3FD, 1) == 0x45
    assert chip.log == [(3, 0x80), 5]


def test_a_wide_access_to_a_byte_chip_is_split_low_byte_first():
    bus, chip = PortBus(), Byte(0x10)
    bus.map(byte_region("chip", 0x100, 4, chip))
    bus.write(0x100, 4, 0x44332211)
    assert chip.log == [(0, 0x11), (1, 0x22), (2, 0x33), (3, 0x44)]
    assert bus.read(0x100, 4) == 0x13121110
    assert bus.read(0x102, 2) == 0x1312


def test_a_wide_access_to_a_wide_chip_stays_whole():
    bus, chip = PortBus(), Wide(0xAB)
    bus.map(chip.region(0x1F0, 8))
    assert bus.read(0x1F0, 2) == 0xABAB
    bus.write(0x1F0, 4, 0x12345678)
    assert chip.log == [(0, 2), (0, 4, 0x12345678)]


def test_a_wide_access_across_two_regions_is_split_between_them():
    bus, low, high = PortBus(), Wide(0x11), Wide(0x22)
    bus.map(low.region(0x100, 2))
    bus.map(high.region(0x102, 1))
    assert bus.read(0x101, 4) == 0xFFFF_2211
    bus.write(0x101, 2, 0xBBAA)
    assert low.log == [(1, 1), (1, 1, 0xAA)]
    assert high.log == [(0, 1), (0, 1, 0xBB)]


def test_a_dword_over_a_covered_middle_port_is_split():
    bus, below, above = PortBus(), Wide(0x11), Wide(0x22)
    bus.map(below.region(0xCF8, 8))
    bus.map(above.region(0xCF9, 1, priority=1))
    assert bus.read(0xCF8, 4) == 0x11112211
    assert bus.read(0xCFC, 4) == 0x11111111


def test_the_io_space_ends_without_wrapping():
    bus, first, last = PortBus(), Wide(0x11), Wide(0x22)
    bus.map(first.region(0, 1))
    bus.map(last.region(0xFFFF, 1))
    assert bus.read(0xFFFF, 4) == 0xFFFF_FF22
    assert first.log == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["low_first", "high_first"])
def test_the_highest_priority_answers_and_unmapping_uncovers(order):
    bus, chips = PortBus(), [Wide(0x10), Wide(0x20)]
    regions = [chips[0].region(0x80, 16), chips[1].region(0x84, 2, priority=5)]
    for index in order:
        bus.map(regions[index])
    assert [bus.read(port, 1) for port in (0x83, 0x84, 0x85, 0x86)] == [0x10, 0x20, 0x20, 0x10]
    bus.unmap(regions[1])
    assert bus.read(0x84, 1) == 0x10
    assert bus.read(0x82, 4) == 0x10101010
    bus.unmap(regions[0])
    assert bus.read(0x84, 1) == 0xFF


def test_equal_priority_overlap_is_refused_naming_both():
    bus = PortBus()
    bus.map(byte_region("uart", 0x3F8, 8, Byte()))
    with pytest.raises(ValueError, match=r"modem.*uart"):
        bus.map(byte_region("modem", 0x3FF, 1, Byte()))
    bus.map(byte_region("neighbour", 0x400, 1, Byte(7)))
    assert bus.read(0x400, 1) == 7


@pytest.mark.parametrize(("base", "count"), [(-1, 2), (0xFFFF, 2), (0x10, 0)])
def test_a_region_outside_the_io_space_is_refused(base, count):
    with pytest.raises(ValueError, match="ports lie in"):
        PortBus().map(Wide(1).region(base, count))


def test_unmapping_what_is_not_mapped_is_refused():
    with pytest.raises(ValueError, match="not mapped"):
        PortBus().unmap(Wide(1).region(0, 1))


def test_a_region_can_move_at_run_time():
    bus, chip = PortBus(), Byte(1)
    region = byte_region("bar", 0xC000, 4, chip)
    bus.map(region)
    bus.unmap(region)
    bus.map(byte_region("bar", 0xD000, 4, chip))
    assert (bus.read(0xC000, 1), bus.read(0xD000, 1)) == (0xFF, 1)


def test_only_timed_regions_bring_the_clock_up_to_date():
    syncs = []
    bus = PortBus(sync=lambda: syncs.append(1))
    bus.map(byte_region("timed", 0x40, 4, Byte(), timed=True))
    bus.map(byte_region("plain", 0x80, 1, Byte()))
    bus.read(0x80, 1)
    bus.write(0x1234, 1, 0)
    assert syncs == []
    bus.read(0x40, 1)
    bus.write(0x40, 1, 0)
    assert len(syncs) == 2
    bus.read_block(0x40, 1, 3)
    assert len(syncs) == 5


def test_block_transfers_go_to_the_block_forms():
    calls = []

    def read_block(offset, width, count):
        calls.append((offset, width, count))
        return bytes(range(width * count))

    def write_block(offset, width, data):
        calls.append((offset, width, data))

    bus, chip = PortBus(), Wide(0)
    bus.map(chip.region(0x1F0, 8, read_block=read_block, write_block=write_block))
    assert bus.read_block(0x1F0, 2, 4) == bytes(range(8))
    bus.write_block(0x1F0, 2, b"abcd")
    assert calls == [(0, 2, 4), (0, 2, b"abcd")]
    assert chip.log == []


@pytest.mark.parametrize(
    ("width", "data", "log"),
    [
        pytest.param(1, b"\x01\x02", [(0, 0x01), (0, 0x02)], id="bytes_at_one_port"),
        pytest.param(2, b"\x01\x02\x03\x04", [(0, 1), (1, 2), (0, 3), (1, 4)], id="words_split"),
    ],
)
def test_block_writes_without_a_block_form_repeat_the_single_access(width, data, log):
    bus, chip = PortBus(), Byte()
    bus.map(byte_region("chip", 0x60, 2, chip))
    bus.write_block(0x60, width, data)
    assert chip.log == log


def test_block_reads_without_a_block_form_repeat_the_single_access():
    bus, chip = PortBus(), Byte(0x30)
    bus.map(byte_region("chip", 0x60, 2, chip))
    assert bus.read_block(0x60, 2, 2) == b"\x30\x31\x30\x31"


def test_region_at_names_who_answers():
    bus = PortBus()
    bus.map(byte_region("pit", 0x40, 4, Byte()))
    assert [bus.region_at(port).name for port in (0x3F, 0x40, 0x43, 0x44)] == ["nobody", "pit", "pit", "nobody"]


def test_block_forms_of_a_timed_region_bring_the_clock_up_to_date_once():
    syncs = []
    bus = PortBus(sync=lambda: syncs.append(1))
    blocks = {"read_block": lambda o, w, n: bytes(w * n), "write_block": lambda o, w, data: None}
    bus.map(Wide(0).region(0x1F0, 8, timed=True, **blocks))
    bus.read_block(0x1F0, 2, 256)
    bus.write_block(0x1F0, 2, bytes(512))
    assert len(syncs) == 2
