"""Shadow tables of a guest whose code runs where it lies: no hole or a part of it, and executable what has been
executed."""

import pytest
from test_shadow import DEVICE_BASE, FRAME, NX, RAM, ROM_BASE, P, Registers, U, W, rights

from vmm.arch.exceptions import GuestFault
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr0, Cr4, Efer
from vmm.cpu.hole import IN_PLACE_VIEW, Hole
from vmm.cpu.paging import Mmu
from vmm.cpu.shadow import Fill, ShadowTables
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

PAGE = 0x12_3000
DIRECTORY, TABLE = 0x10_0000, 0x10_1000
LARGE = 0x40_0000


class World:
    """4 MiB of RAM, a ROM, a device, and a shadow; `deprivileged`: with its part of the hole."""

    def __init__(self, deprivileged: bool = False) -> None:
        self.physical = PhysicalMemory(96 << 20)
        self.memory = GuestMemory(self.physical, RAM)
        self.ram = self.physical.allocate(RAM)
        self.rom = self.physical.allocate(4096)
        self.memory.map(MemoryRegion("ram", 0, RAM, self.ram))
        self.memory.map(MemoryRegion("rom", ROM_BASE, 4096, self.rom, read_only=True))
        self.memory.map(MemoryRegion("device", DEVICE_BASE, 4096, read=lambda _offset, _width: 0))
        self.mmu = Mmu(self.memory)
        self.registers = self.mmu.registers = Registers()
        self.hole = Hole.build(self.physical) if deprivileged else None
        self.shadow = ShadowTables(self.physical, self.memory, self.mmu, self.hole, IN_PLACE_VIEW)
        self._entries = self.physical.view.cast("Q")

    def entry(self, la: int, real: bool = False) -> int:
        """The last-level entry for an address, 0 where there is none."""
        pointer = self._entries[(self.shadow.root(real) >> 3) + (la >> 30)]
        directory = self._entries[((pointer & FRAME) >> 3) + (la >> 21 & 511)]
        return self._entries[((directory & FRAME) >> 3) + (la >> 12 & 511)] if directory else 0

    def pages(self, ptes: dict[int, int]) -> None:
        """Turn 32-bit paging on, with these entries in the first page table, and 4 MiB as a large page at LARGE."""
        self.memory.write(DIRECTORY, (TABLE | P | W | U).to_bytes(4, "little"))
        self.memory.write(DIRECTORY + 4, (int(Pte.PS) | P | W | U).to_bytes(4, "little"))
        for la, pte in ptes.items():
            self.memory.write(TABLE + (la >> 10), pte.to_bytes(4, "little"))
        self.registers.cr0, self.registers.cr4 = int(Cr0.PG | Cr0.WP), int(Cr4.PSE)
        self.shadow.drop_all()

    def pages_with_nx(self, ptes: dict[int, int]) -> None:
        """Turn PAE paging with NX on, with these entries in the first page table."""
        pdpt, directory, table = 0x20_0000, 0x20_1000, 0x20_2000
        self.memory.write(directory, (table | P | W | U).to_bytes(8, "little"))
        for la, pte in ptes.items():
            self.memory.write(table + (la >> 9), pte.to_bytes(8, "little"))
        registers = self.registers
        registers.cr0, registers.cr3, registers.cr4 = int(Cr0.PG | Cr0.WP), pdpt, int(Cr4.PAE)
        registers.efer, registers.pdptes = int(Efer.NXE), [directory | P, 0, 0, 0]
        self.shadow.drop_all()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def deprivileged() -> World:
    return World(deprivileged=True)


def test_at_first_nothing_is_mapped_at_all(world: World) -> None:
    assert not any(world.entry(la) for la in range(0, 1 << 32, 1 << 21))


def test_every_address_is_the_guests(world: World) -> None:
    assert world.shadow.fill(0xF400_0000, False, False) is Fill.MAPPED
    assert rights(world.entry(0xF400_0000)) == P | U | NX


def test_data_is_not_executable(world: World) -> None:
    world.shadow.fill(PAGE, True, False)
    assert rights(world.entry(PAGE)) == P | W | U | NX


def test_a_page_from_which_code_was_fetched_is_executable_and_writable(world: World) -> None:
    world.shadow.fill(PAGE, True, False)
    assert world.shadow.fetch(PAGE, False) is Fill.MAPPED
    assert rights(world.entry(PAGE)) == P | W | U
    assert world.entry(PAGE) & FRAME == world.ram + PAGE
    assert PAGE >> 12 in world.memory.watched


def test_its_neighbours_stay_as_they_were(world: World) -> None:
    world.shadow.fetch(PAGE, False)
    assert rights(world.entry(PAGE + 0x1000)) == P | W | U | NX


def test_a_frame_is_never_writable_without_being_executable_once_it_has_been(world: World) -> None:
    """At another address the old entry loses W, and comes back with both."""
    world.pages({0x5000: PAGE | P | W | U, 0x6000: PAGE | P | W | U})
    world.shadow.fill(0x6000, True, False)
    assert rights(world.entry(0x6000)) == P | W | U | NX
    world.shadow.fetch(0x5000, False)
    assert rights(world.entry(0x6000)) == P | U | NX
    world.shadow.fill(0x6000, True, False)
    assert rights(world.entry(0x6000)) == P | W | U
    assert rights(world.entry(0x5000)) == P | U


def test_pages_of_a_large_one_are_told_apart(world: World) -> None:
    world.pages({})
    world.shadow.fill(LARGE + PAGE, True, False)
    world.shadow.fetch(LARGE + PAGE, False)
    world.shadow.fill(LARGE + PAGE + 0x1000, True, False)
    assert rights(world.entry(LARGE + PAGE)) == P | W | U
    assert rights(world.entry(LARGE + PAGE + 0x1000)) == P | W | U | NX


def test_what_was_executable_is_so_in_a_new_space(world: World) -> None:
    world.shadow.fetch(PAGE, False)
    world.shadow.drop_all()
    world.shadow.fill(PAGE, True, False)
    assert rights(world.entry(PAGE)) == P | W | U


def test_stores_to_watched_pages_are_let_through(world: World) -> None:
    world.shadow.fetch(PAGE, False)
    world.shadow.drop_all()
    assert world.shadow.fill(PAGE, True, False) is Fill.MAPPED


def test_code_in_rom_runs(world: World) -> None:
    assert world.shadow.fetch(ROM_BASE, False) is Fill.MAPPED
    assert rights(world.entry(ROM_BASE)) == P | U
    assert world.shadow.fill(ROM_BASE, True, False) is Fill.DEVICE


def test_code_in_a_device_does_not(world: World) -> None:
    assert world.shadow.fetch(DEVICE_BASE, False) is Fill.DEVICE


def test_the_guests_own_nx_stands(world: World) -> None:
    world.pages_with_nx({0x5000: PAGE | P | W | U | NX})
    with pytest.raises(GuestFault) as raised:
        world.shadow.fetch(0x5000, True)
    assert (raised.value.vector, raised.value.error_code, raised.value.cr2) == (14, 0x15, 0x5000)
    assert PAGE >> 12 not in world.memory.watched


# --- with a part of the hole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("real", [False, True])
def test_of_the_hole_the_processors_own_tables_are_mapped_for_nobody_else(deprivileged: World, real: bool) -> None:
    assert deprivileged.hole is not None
    mapped = {name for name in deprivileged.hole.parts if deprivileged.entry(deprivileged.hole.linear(name), real)}
    assert mapped == {"whole_gdt", "whole_ldt", "shadow_tss"}
    assert {rights(deprivileged.entry(deprivileged.hole.linear(name), real)) for name in mapped} == {P | NX}


def test_code_becomes_executable_as_without_the_hole(deprivileged: World) -> None:
    deprivileged.shadow.fill(PAGE, True, False)
    assert deprivileged.shadow.fetch(PAGE, False) is Fill.MAPPED
    assert rights(deprivileged.entry(PAGE)) == P | W | U


def test_where_the_guest_forbids_fetches_code_cannot_be_stored_to_unseen(deprivileged: World) -> None:
    deprivileged.pages_with_nx({0x5000: PAGE | P | W | U, 0x6000: PAGE | P | W | U | NX})
    deprivileged.shadow.fetch(0x5000, True)
    assert deprivileged.shadow.fill(0x6000, False, True) is Fill.MAPPED
    assert rights(deprivileged.entry(0x6000)) == P | U | NX
    assert deprivileged.shadow.fill(0x6000, True, True) is Fill.WATCHED


def test_a_page_that_runs_no_more_can_be_written_where_it_is_nx(world: World) -> None:
    world.pages_with_nx({0x5000: PAGE | P | W | U, 0x6000: PAGE | P | W | U | NX})
    world.shadow.fetch(0x5000, True)
    assert world.shadow.fill(0x6000, True, True) is Fill.WATCHED
    world.shadow.retire(PAGE >> 12)
    assert world.shadow.fill(0x6000, True, True) is Fill.MAPPED
    assert rights(world.entry(0x6000)) == P | W | U | NX


def test_a_page_that_the_guest_must_not_write_unseen_is_read_only(deprivileged: World) -> None:
    deprivileged.shadow.fill(PAGE, True, False)
    deprivileged.shadow.read_only.add(PAGE >> 12)
    deprivileged.shadow.protect(PAGE >> 12)
    assert rights(deprivileged.entry(PAGE)) == P | U | NX
    assert deprivileged.shadow.fill(PAGE, True, False) is Fill.WATCHED


def test_a_kernel_at_cpl_3_reaches_its_own_pages(deprivileged: World) -> None:
    deprivileged.pages({0x5000: PAGE | P | W})
    deprivileged.shadow.fill(0x5000, True, False)
    assert rights(deprivileged.entry(0x5000)) == P | W | NX
    deprivileged.shadow.extra = U
    deprivileged.shadow.drop_all()
    deprivileged.shadow.fill(0x5000, True, False)
    assert rights(deprivileged.entry(0x5000)) == P | W | U | NX
