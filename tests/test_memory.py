"""Guest-physical memory: who answers for an address, and the one door for writes."""

from collections.abc import Callable

import pytest

from vmm.arch.layout import PAGE_SIZE, HostPhysical
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

RAM_SIZE = 16 * PAGE_SIZE
ROM_BASE = 0xFFFF_0000
DEVICE_BASE = 0xE000_0000


class Device:
    """Remembers every access to it."""

    def __init__(self) -> None:
        self.log: list[tuple[int, ...]] = []

    def read(self, offset: int, width: int) -> int:
        self.log.append((offset, width))
        return 0x1122_3344 & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        self.log.append((offset, width, value))


@pytest.fixture
def physical() -> PhysicalMemory:
    memory = PhysicalMemory(64 * PAGE_SIZE)
    memory.allocate(PAGE_SIZE)  # so that guest-physical 0 is not physical 0
    return memory


@pytest.fixture
def memory(physical: PhysicalMemory) -> GuestMemory:
    guest = GuestMemory(physical, RAM_SIZE)
    guest.map(MemoryRegion("ram", 0, RAM_SIZE, physical.allocate(RAM_SIZE)))
    return guest


def region(
    physical: PhysicalMemory, base: int, fill: bytes, priority: int = 0, read_only: bool = False
) -> MemoryRegion:
    """One page of memory filled with a byte."""
    host = physical.allocate(PAGE_SIZE)
    physical.view[host : host + PAGE_SIZE] = fill * PAGE_SIZE
    return MemoryRegion(f"page of {fill!r}", base, PAGE_SIZE, host, read_only, priority)


def test_ram_reads_what_was_written(memory: GuestMemory) -> None:
    memory.write(0x123, b"hello")
    assert memory.read(0x123, 5) == b"hello"


def test_an_access_may_cross_pages_and_many_of_them(memory: GuestMemory) -> None:
    data = bytes(range(256)) * (3 * PAGE_SIZE // 256)
    memory.write(0xFFE, data)
    assert memory.read(0xFFE, len(data)) == data
    assert memory.read(0xFFC, 4) == b"\0\0" + data[:2]


def test_all_of_ram_is_read_and_written_in_one_piece() -> None:
    size = 2000 * PAGE_SIZE
    physical = PhysicalMemory(size)
    memory = GuestMemory(physical, size)
    memory.map(MemoryRegion("ram", 0, size, physical.allocate(size)))
    memory.write(1, b"\x5a" * (size - 1))
    assert memory.read(0, size) == b"\0" + b"\x5a" * (size - 1)


def test_an_access_at_the_top_wraps_to_0(memory: GuestMemory, physical: PhysicalMemory) -> None:
    memory.map(region(physical, 0xFFFF_F000, b"T"))
    memory.write(0xFFFF_FFFF, b"xyz")
    assert (memory.read(0xFFFF_FFFE, 2), memory.read(0, 2)) == (b"Tx", b"yz")
    assert memory.read(0xFFFF_FFFE, 4) == b"Txyz"


def test_what_nobody_answers_reads_as_ones_and_swallows_writes(memory: GuestMemory) -> None:
    memory.write(RAM_SIZE, b"lost")
    assert memory.read(RAM_SIZE, 4) == b"\xff\xff\xff\xff"
    assert memory.read(RAM_SIZE - 2, 4) == b"\0\0\xff\xff"


def test_a_rom_swallows_writes(memory: GuestMemory, physical: PhysicalMemory) -> None:
    memory.map(region(physical, ROM_BASE, b"R", read_only=True))
    memory.write(ROM_BASE, b"w")
    assert memory.read(ROM_BASE, 2) == b"RR"


def test_a_device_gets_offset_width_and_value(memory: GuestMemory) -> None:
    device = Device()
    memory.map(MemoryRegion("device", DEVICE_BASE, PAGE_SIZE, read=device.read, write=device.write))
    assert memory.read(DEVICE_BASE + 8, 2) == b"\x44\x33"
    memory.write(DEVICE_BASE + 12, b"\x01\x02\x03\x04")
    assert device.log == [(8, 2), (12, 4, 0x0403_0201)]


def test_a_device_without_reads_or_writes_is_like_nobody(memory: GuestMemory) -> None:
    memory.map(MemoryRegion("mute", DEVICE_BASE, PAGE_SIZE))
    memory.write(DEVICE_BASE, b"x")
    assert memory.read(DEVICE_BASE, 2) == b"\xff\xff"


def test_a_read_only_device_is_not_told_of_writes(memory: GuestMemory) -> None:
    device = Device()
    memory.map(MemoryRegion("rom", DEVICE_BASE, PAGE_SIZE, read_only=True, read=device.read, write=device.write))
    memory.write(DEVICE_BASE, b"x")
    assert device.log == []


# --- the map -----------------------------------------------------------------------------------------------


def test_the_higher_priority_shows_and_the_lower_returns(memory: GuestMemory, physical: PhysicalMemory) -> None:
    memory.write(0x2000, b"ram")
    over = region(physical, 0x2000, b"O", priority=1)
    top = region(physical, 0x2000, b"T", priority=2)
    memory.map(top)
    memory.map(over)
    assert memory.read(0x2000, 3) == b"TTT"
    memory.unmap(top)
    assert memory.read(0x2000, 3) == b"OOO"
    memory.write(0x2000, b"x")
    memory.unmap(over)
    assert memory.read(0x2000, 3) == b"ram"


def test_only_the_pages_of_a_region_are_hidden(memory: GuestMemory, physical: PhysicalMemory) -> None:
    memory.map(region(physical, 0x2000, b"O", priority=1))
    assert memory.read(0x1FFF, 2) == b"\0O"
    assert memory.read(0x2FFF, 2) == b"O\0"


def test_an_overlap_at_the_same_priority_is_refused(memory: GuestMemory, physical: PhysicalMemory) -> None:
    with pytest.raises(ValueError, match="overlaps ram"):
        memory.map(region(physical, RAM_SIZE - PAGE_SIZE, b"O"))
    memory.map(region(physical, RAM_SIZE, b"N"))  # behind it is no overlap
    assert memory.read(RAM_SIZE, 1) == b"N"


@pytest.mark.parametrize(("base", "size"), [(1, PAGE_SIZE), (0, 100), (0, 0), (0, -PAGE_SIZE)])
def test_a_region_is_whole_pages(base: int, size: int) -> None:
    with pytest.raises(ValueError, match="not made of whole pages"):
        MemoryRegion("odd", base, size, HostPhysical(0))


def test_a_change_of_the_map_is_told(memory: GuestMemory, physical: PhysicalMemory) -> None:
    changes: list[Callable[[], int]] = []
    memory.on_map_change = lambda: changes.append(lambda: 0)
    added = region(physical, 0x8000_0000, b"A")
    assert memory.region_at(0x8000_0000 >> 12) is None
    memory.map(added)
    assert memory.region_at(0x8000_0000 >> 12) is added
    memory.unmap(added)
    assert memory.region_at(0x8000_0000 >> 12) is None
    assert len(changes) == 2


# --- the one door ------------------------------------------------------------------------------------------


def test_a_write_to_a_watched_page_is_told_before_it_happens(memory: GuestMemory) -> None:
    memory.write(0x3000, b"old")
    seen: list[tuple[int, bytes]] = []
    memory.on_watched_write = lambda page: seen.append((page, memory.read(page * PAGE_SIZE, 3)))
    memory.watched.add(3)
    memory.write(0x3000, b"new")
    assert seen == [(3, b"old")]
    assert memory.read(0x3000, 3) == b"new"


def test_each_watched_page_of_a_write_is_told_and_no_other(memory: GuestMemory) -> None:
    seen: list[int] = []
    memory.on_watched_write = seen.append
    memory.watched.update((3, 5))
    memory.write(0x2FFF, bytes(2 * PAGE_SIZE + 2))
    memory.write(0x2000, b"x")
    assert memory.read(0x3000, 1) == b"\0"
    assert seen == [3, 5]


def test_a_swallowed_write_changes_nothing_and_tells_nobody(memory: GuestMemory, physical: PhysicalMemory) -> None:
    seen: list[int] = []
    memory.on_watched_write = seen.append
    memory.map(region(physical, ROM_BASE, b"R", read_only=True))
    memory.watched.add(ROM_BASE >> 12)
    memory.write(ROM_BASE, b"x")
    assert seen == []
