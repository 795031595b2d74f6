"""Nested tables, seen by walking them as the processor would."""

import pytest

from vmm.arch.layout import PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.cpu.nested import NestedTables
from vmm.cpu.paging import A20_CLOSED, Mmu
from vmm.cpu.shadow import Fill
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

RAM, ROM, DEVICE, NOBODY = 4 << 20, 0x00F0_0000, 0xE000_0000, 0x0200_0000
P, W, U, NX = (int(Pte[name]) for name in "P W U NX".split())
FRAME = 0x000F_FFFF_FFFF_F000


class World:
    def __init__(self) -> None:
        self.physical = PhysicalMemory(16 << 20)
        self.physical.allocate(PAGE_SIZE)
        self.memory = GuestMemory(self.physical, RAM)
        self.ram = self.physical.allocate(RAM)
        self.rom = self.physical.allocate(PAGE_SIZE)
        self.memory.map(MemoryRegion("ram", 0, RAM, self.ram))
        self.memory.map(MemoryRegion("rom", ROM, PAGE_SIZE, self.rom, read_only=True))
        self.memory.map(MemoryRegion("device", DEVICE, PAGE_SIZE, read=lambda _offset, _width: 0))
        self.mmu = Mmu(self.memory)
        self.nested = NestedTables(self.physical, self.memory, self.mmu)
        self._entries = self.physical.view.cast("Q")

    def entry(self, gpa: int) -> int:
        """The last-level entry, 0 where there is none."""
        pointer = self._entries[(self.nested.root >> 3) + (gpa >> 30)]
        assert pointer & P
        directory = self._entries[((pointer & FRAME) >> 3) + (gpa >> 21 & 511)]
        return self._entries[((directory & FRAME) >> 3) + (gpa >> 12 & 511)] if directory else 0

    def shows(self, gpa: int) -> tuple[int, int]:
        entry = self.entry(gpa)
        return entry & FRAME, entry & (P | W | U | NX)


@pytest.fixture
def world() -> World:
    return World()


def test_ram_is_mapped_writable_and_executable(world: World) -> None:
    assert world.entry(0x12_3000) == 0
    assert world.nested.fill(0x12_3456, False) is Fill.MAPPED
    assert world.shows(0x12_3000) == (world.ram + 0x12_3000, P | W | U)


def test_neighbours_come_with_it(world: World) -> None:
    world.nested.fill(0x12_3000, True)
    assert world.shows(0x12_F000) == (world.ram + 0x12_F000, P | W | U)
    assert world.entry(0x13_0000) == 0


def test_rom_can_be_read_and_not_written(world: World) -> None:
    assert world.nested.fill(ROM, False) is Fill.MAPPED
    assert world.shows(ROM) == (world.rom, P | U)
    assert world.nested.fill(ROM, True) is Fill.DEVICE


def test_where_nothing_answers_a_page_of_ones_is_read(world: World) -> None:
    assert world.nested.fill(NOBODY, False) is Fill.MAPPED
    frame, rights = world.shows(NOBODY)
    assert rights == P | U
    assert world.physical.copy(frame, PAGE_SIZE) == b"\xff" * PAGE_SIZE
    assert world.nested.fill(NOBODY, True) is Fill.DEVICE


def test_a_device_is_not_mapped(world: World) -> None:
    assert world.nested.fill(DEVICE, False) is Fill.DEVICE
    assert world.entry(DEVICE) == 0


def test_the_end_of_the_address_space_has_no_neighbours(world: World) -> None:
    assert world.nested.fill(0xFFFF_F000, False) is Fill.MAPPED
    assert world.shows(0xFFFF_F000)[1] == P | U


def test_a20_closed_bends_odd_megabytes(world: World) -> None:
    world.mmu.a20_mask = A20_CLOSED
    world.nested.fill(0x12_3000, False)
    assert world.shows(0x12_3000)[0] == world.ram + 0x2_3000


def test_a_page_mapped_for_one_instruction_goes_again(world: World) -> None:
    world.nested.map_once(DEVICE + 8, world.ram, False)
    assert world.shows(DEVICE) == (world.ram, P | U)
    world.nested.map_once(DEVICE, world.ram, True)
    assert world.shows(DEVICE) == (world.ram, P | W | U)
    world.nested.unmap(DEVICE)
    assert world.entry(DEVICE) == 0


def test_dropping_all_leaves_nothing_and_gives_the_tables_back(world: World) -> None:
    world.nested.fill(0x12_3000, False)
    world.nested.fill(ROM, False)
    world.nested.drop_all()
    assert world.entry(0x12_3000) == world.entry(ROM) == 0
    before = world.physical.allocate(PAGE_SIZE)
    world.nested.fill(ROM, False)
    world.nested.fill(0x12_3000, False)
    assert world.physical.allocate(PAGE_SIZE) == before + PAGE_SIZE
