"""Address spaces that are kept: what is in the shadow after a load of CR3 is what the guest's tables say then, or nothing.

Two or more spaces of a guest with PAE or 32-bit paging share RAM of one mebibyte. The random test at the end lets tables
be anything, one another included.
Source: Intel SDM Vol. 3A, "Invalidation of TLBs and Paging-Structure Caches".
"""

import random
from dataclasses import dataclass, field

import pytest

from bt.cache import BlockSpace, CodePage
from bt.guest import Context, Mode
from vmm.arch.exceptions import GuestFault
from vmm.arch.layout import PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr0, Cr4
from vmm.cpu import spaces as spaces_module
from vmm.cpu.hole import Hole
from vmm.cpu.paging import Mmu
from vmm.cpu.shadow import Fill, ShadowTables
from vmm.cpu.spaces import AddressSpace
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

RAM = 1 << 20
P, W, U, A, D, PS, NX = (int(Pte[name]) for name in "P W U A D PS NX".split())
RIGHTS = P | W | U
PG, WP, PSE, PAE = int(Cr0.PG), int(Cr0.WP), int(Cr4.PSE), int(Cr4.PAE)
FRAME = 0x000F_FFFF_FFFF_F000
KERNEL = Context(Mode.PROTECTED, 0, True, True)
DEVICE = 0x00E0_0000
LA = 0x40_3000  # the first directory entry that tables of these tests use, and page 3 of its table
SHARED = 0x80_3000


@dataclass
class Registers:
    """The registers that decide about paging."""

    cr0: int = PG | WP
    cr3: int = 0
    cr4: int = PSE
    efer: int = 0
    pdptes: list[int] = field(default_factory=lambda: [0, 0, 0, 0])


class World:
    """RAM, a device, a shadow, and the block space of a kernel."""

    def __init__(self, pae: bool = False) -> None:
        self.physical = PhysicalMemory(96 << 20)
        self.memory = GuestMemory(self.physical, RAM)
        self.ram = self.physical.allocate(RAM)
        self.memory.map(MemoryRegion("ram", 0, RAM, self.ram))
        self.memory.map(MemoryRegion("device", DEVICE, PAGE_SIZE, read=lambda _offset, width: RIGHTS | A))
        self.mmu = Mmu(self.memory)
        self.pae, self.size = pae, 8 if pae else 4
        self.registers = Registers(cr4=PSE | (PAE if pae else 0))
        self.mmu.registers = self.registers
        self.hole = Hole.build(self.physical)
        self.shadow = ShadowTables(self.physical, self.memory, self.mmu, self.hole)
        self.code = BlockSpace(0, KERNEL, 0, memoryview(b""))
        self._entries = self.physical.view.cast("Q")

    # --- the guest's side -------------------------------------------------------------------------------

    def put(self, table: int, index: int, entry: int) -> None:
        """Write an entry of a table of the guest's."""
        self.memory.write(table + index * self.size, entry.to_bytes(self.size, "little"))

    def get(self, table: int, index: int) -> int:
        """Read one."""
        return int.from_bytes(self.memory.read(table + index * self.size, self.size), "little")

    def build(self, directory: int, table: int, frames: dict[int, int]) -> None:
        """Map the pages of LA's region to frames, by index."""
        self.put(directory, LA >> (21 if self.pae else 22), table | RIGHTS)
        for index, frame in frames.items():
            self.put(table, index, frame | RIGHTS)

    def load(self, directory: int) -> None:
        """MOV CR3. Under PAE the pointer table's first entry names the directory, as if it had been there."""
        self.registers.cr3 = directory
        self.registers.pdptes[:] = [directory | P if self.pae else 0, 0, 0, 0]
        self.shadow.load_root()

    def access(self, la: int, write: bool = False, user: bool = False) -> Fill | None:
        """A load or store whose translation is missing; None if it faults."""
        try:
            return self.shadow.fill(la, write, user)
        except GuestFault:
            return None

    def fetch(self, la: int) -> bool:
        """Code runs at an address, if it may."""
        try:
            trace = self.mmu.trace(la, False, False, True)
        except GuestFault:
            return False
        self.shadow.note(la, trace)
        view = self.shadow.space.code
        if (self.code, la >> 12) not in view.pages:
            view.switch_on(CodePage(self.code, la >> 12, (trace[0] >> 12,), False))
        return True

    # --- what the physical CPU sees -----------------------------------------------------------------------

    def entry(self, la: int, space: AddressSpace | None = None) -> int:
        """The last-level entry for an address, 0 where there is none."""
        root = (space or self.shadow.space).root(False).cr3
        pointer = self._entries[(root >> 3) + (la >> 30)]
        directory = self._entries[((pointer & FRAME) >> 3) + (la >> 21 & 511)]
        return self._entries[((directory & FRAME) >> 3) + (la >> 12 & 511)] if directory else 0

    def shows(self, la: int) -> int | None:
        """The guest-physical page that an address leads to at once."""
        entry = self.entry(la)
        return (entry & FRAME) - self.ram if entry else None

    def runs(self, la: int) -> int | None:
        """The guest-physical page whose code runs at an address at once."""
        page = self.shadow.space.code.pages.get((self.code, la >> 12))
        return page.frames[0] << 12 if page is not None else None


ONE, OTHER, ONE_TABLE, OTHER_TABLE = 0x1000, 0x2000, 0x3000, 0x4000
"""Two directories, and the page tables below them."""


@pytest.fixture(params=[False, True], ids=["32bit", "pae"])
def world(request: pytest.FixtureRequest) -> World:
    """Space ONE shows frame 10h at LA, OTHER frame 20h; both have been used, for data and for code, ONE is current."""
    made = World(request.param)
    for directory, table, frame in ((OTHER, OTHER_TABLE, 0x2_0000), (ONE, ONE_TABLE, 0x1_0000)):
        made.build(directory, table, {3: frame, 4: frame + 0x1000})
        made.load(directory)
        for la in (LA, LA + 0x1000):
            assert made.access(la, write=True) is Fill.MAPPED
            assert made.fetch(la)
    return made


def test_a_space_comes_back_as_it_was_left(world: World) -> None:
    for directory, frame in ((OTHER, 0x2_0000), (ONE, 0x1_0000), (OTHER, 0x2_0000)):
        world.load(directory)
        assert [world.shows(la) for la in (LA, LA + 0x1000)] == [frame, frame + 0x1000]
        assert [world.runs(la) for la in (LA, LA + 0x1000)] == [frame, frame + 0x1000]


def test_an_entry_changed_while_its_space_was_away_is_gone_and_the_others_are_there(world: World) -> None:
    world.load(OTHER)
    world.put(ONE_TABLE, 3, 0x5_0000 | RIGHTS)
    world.load(ONE)
    assert [world.shows(la) for la in (LA, LA + 0x1000)] == [None, 0x1_1000]
    assert [world.runs(la) for la in (LA, LA + 0x1000)] == [None, 0x1_1000]
    assert world.access(LA) is Fill.MAPPED
    assert world.shows(LA) == 0x5_0000


def test_a_directory_entry_changed_while_its_space_was_away_takes_all_below_it(world: World) -> None:
    world.load(OTHER)
    world.build(ONE, 0x6000, {3: 0x5_0000})
    world.load(ONE)
    assert (world.shows(LA), world.runs(LA)) == (None, None)
    assert world.access(LA) is Fill.MAPPED
    assert world.shows(LA) == 0x5_0000
    assert world.access(LA + 0x1000) is None


def test_an_accessed_bit_that_the_guest_cleared_is_set_again(world: World) -> None:
    for table, index in ((ONE_TABLE, 3), (ONE, LA >> (21 if world.pae else 22))):
        world.put(table, index, world.get(table, index) & ~A)
        world.load(ONE)
        assert (world.shows(LA), world.runs(LA)) == (None, None)
        assert world.access(LA, write=True) is Fill.MAPPED
        assert world.get(table, index) & A


def test_a_dirty_bit_that_the_guest_cleared_is_set_again(world: World) -> None:
    world.put(ONE_TABLE, 3, world.get(ONE_TABLE, 3) & ~D)
    world.load(ONE)
    world.access(LA)
    assert not world.entry(LA) & W
    assert world.access(LA, write=True) is Fill.MAPPED
    assert world.get(ONE_TABLE, 3) & D


def test_bits_that_walks_set_are_no_change(world: World) -> None:
    """Neither by a fill nor by an access of the VMM's own to a page that nobody has filled."""
    world.put(ONE_TABLE, 9, 0x9_0000 | RIGHTS)
    world.put(ONE_TABLE, 10, 0x9_0000 | RIGHTS)
    world.load(ONE)
    world.access(LA + 0x6000)
    world.mmu.write(LA + 0x7000, 1, 0, False)
    world.mmu.write(LA + 0x6000, 1, 0, False)
    world.load(ONE)
    assert world.shows(LA + 0x6000) == 0x9_0000
    for source in world.shadow.space.sources():
        assert bytes(source.data) == world.physical.copy(source.start, PAGE_SIZE)


def test_a_translation_may_be_old_until_cr3_is_loaded_but_a_new_walk_replaces_it(world: World) -> None:
    world.put(ONE_TABLE, 3, 0x5_0000 | RIGHTS)
    assert world.shows(LA) == 0x1_0000
    world.fetch(LA + 0x1000)
    assert world.shows(LA) == 0x1_0000
    world.mmu.read(LA, 1, False)
    assert world.access(LA) is Fill.MAPPED
    assert (world.shows(LA), world.runs(LA)) == (0x5_0000, None)


def test_a_walk_that_sets_bits_in_a_changed_entry_does_not_vouch_for_the_old_one(world: World) -> None:
    """The VMM walks for a callout: the entry gets its A bit, the shadow has the old frame still."""
    world.put(ONE_TABLE, 3, 0x5_0000 | RIGHTS)
    world.mmu.write(LA, 1, 0, False)
    world.load(ONE)
    assert (world.shows(LA), world.runs(LA)) == (None, None)


# --- what spaces share -----------------------------------------------------------------------------------------


@pytest.fixture
def sharing(world: World) -> World:
    """Region SHARED shows through the same page table in both spaces; it is filled in OTHER alone."""
    entry = SHARED >> (21 if world.pae else 22)
    world.put(0x7000, 3, 0x3_0000 | RIGHTS)
    for directory in (ONE, OTHER):
        world.put(directory, entry, 0x7000 | RIGHTS | A)
    world.load(OTHER)
    world.access(SHARED, write=True)
    world.fetch(SHARED)
    world.load(ONE)
    return world


def test_what_one_space_has_filled_is_there_for_the_other(sharing: World) -> None:
    assert sharing.shows(SHARED) is None
    sharing.access(SHARED + 0x5000)  # a fault, but of the guest's: nothing is mapped there
    sharing.put(0x7000, 5, 0x3_5000 | RIGHTS)
    sharing.access(SHARED + 0x2000)
    assert (sharing.shows(SHARED), sharing.shows(SHARED + 0x2000)) == (0x3_0000, 0x3_5000)
    assert (sharing.runs(SHARED), sharing.runs(LA)) == (0x3_0000, 0x1_0000)
    sharing.load(OTHER)
    sharing.put(0x7000, 3, 0x5_0000 | RIGHTS)
    sharing.load(ONE)
    assert sharing.runs(SHARED) is None


def test_a_table_that_another_space_has_is_looked_through_before_it_is_shared(sharing: World) -> None:
    sharing.put(0x7000, 3, 0x5_0000 | RIGHTS)
    sharing.put(0x7000, 5, 0x3_5000 | RIGHTS)
    sharing.access(SHARED + 0x2000)
    assert (sharing.shows(SHARED), sharing.shows(SHARED + 0x2000)) == (None, 0x3_5000)
    assert sharing.runs(SHARED) is None


def test_code_that_crosses_into_another_table_is_not_shared(sharing: World) -> None:
    sharing.load(OTHER)
    sharing.shadow.space.code.switch_on(CodePage(sharing.code, SHARED >> 12, (0x30, 0x31), False))
    sharing.load(ONE)
    sharing.access(SHARED)
    assert [page.frames for page in sharing.shadow.space.code.on_at[SHARED >> 12]] == [(0x30,)]


def test_invlpg_drops_a_page_in_all_spaces(sharing: World) -> None:
    for directory in (OTHER, ONE):
        sharing.load(directory)
        sharing.access(SHARED)
        sharing.fetch(SHARED)
    sharing.shadow.drop_page(SHARED)
    for directory in (ONE, OTHER):
        sharing.load(directory)
        assert (sharing.shows(SHARED), sharing.runs(SHARED)) == (None, None)
        assert sharing.shows(LA)


def test_equal_addresses_with_other_rights_above_are_not_shared(sharing: World) -> None:
    entry = SHARED >> (21 if sharing.pae else 22)
    sharing.put(ONE, entry, 0x7000 | P | W | A)
    sharing.load(ONE)
    assert sharing.access(SHARED, user=True) is None
    assert sharing.access(SHARED) is Fill.MAPPED
    assert not sharing.entry(SHARED) & U
    assert sharing.runs(SHARED) is None
    sharing.load(OTHER)
    assert sharing.entry(SHARED) & U


def test_watching_a_frame_reaches_the_spaces_that_are_away(sharing: World) -> None:
    sharing.load(ONE)
    sharing.memory.watched.update((0x30, 0x20))
    sharing.shadow.protect(0x30)
    sharing.shadow.protect(0x20)
    sharing.load(OTHER)
    assert [bool(sharing.entry(la) & W) for la in (SHARED, LA, LA + 0x1000)] == [False, False, True]
    assert sharing.access(LA, write=True) is Fill.WATCHED


def test_what_is_marked_for_invlpg_stays_marked_while_any_space_has_it(sharing: World) -> None:
    marks = sharing.physical.window(sharing.hole.parts["shadowed"].host, 1 << 20)
    sharing.shadow.drop_page(LA + 0x1000)
    assert [marks[la >> 12] for la in (LA, LA + 0x1000, SHARED)] == [1, 0, 1]
    sharing.load(OTHER)
    assert (sharing.shows(LA), sharing.shows(LA + 0x1000)) == (0x2_0000, None)


# --- tables that are something else too ------------------------------------------------------------------------


def test_a_page_table_that_becomes_data_is_a_change(world: World) -> None:
    world.load(OTHER)
    world.memory.write(ONE_TABLE, b"\xaa" * PAGE_SIZE)
    world.load(ONE)
    assert (world.shows(LA), world.shows(LA + 0x1000)) == (None, None)


def test_a_directory_that_is_its_own_page_table_shows_itself(world: World) -> None:
    index = (LA >> (21 if world.pae else 22)) + 2
    la = index << (21 if world.pae else 22)
    world.put(ONE, index, ONE | RIGHTS)
    for _ in range(3):
        assert world.access(la + (index << 12), write=True) is Fill.MAPPED
        assert world.shows(la + (index << 12)) == ONE
        assert world.access(la + ((LA >> (21 if world.pae else 22)) << 12)) is Fill.MAPPED
        assert world.get(ONE, index) & (A | D) == A | D
        world.load(ONE)
    world.put(ONE, index, OTHER | RIGHTS)
    world.load(ONE)
    assert world.shows(la + (index << 12)) is None


@pytest.mark.parametrize("level", ["table", "directory"])
def test_tables_outside_ram_are_never_taken_for_unchanged(level: str) -> None:
    """A device answers as tables: who knows what it says next time?"""
    world = World()
    world.put(ONE, LA >> 22, (DEVICE if level == "table" else ONE_TABLE) | RIGHTS)
    world.put(0, 3, RIGHTS)
    directory = ONE if level == "table" else DEVICE
    world.load(directory)
    assert world.access(LA) is Fill.MAPPED
    assert world.shows(LA) == 0
    world.load(OTHER)
    world.load(directory)
    assert world.shows(LA) is None


def test_the_pdptes_are_those_that_the_load_found() -> None:
    """The same CR3 with another pointer table is another space."""
    world = World(pae=True)
    world.build(ONE, ONE_TABLE, {3: 0x1_0000})
    world.load(ONE)
    world.access(LA)
    world.registers.pdptes[:] = [OTHER | P, ONE | P, 0, 0]
    world.shadow.load_root()
    assert world.shows(LA) is None
    assert world.access(LA) is None
    assert world.access(1 << 30 | LA) is Fill.MAPPED
    world.load(ONE)
    assert world.shows(LA) == 0x1_0000


# --- bounds ----------------------------------------------------------------------------------------------------


def test_the_space_that_was_away_for_longest_is_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces_module, "SPACES_MAX", 3)
    for number in range(5):
        world.load(0x8000 + (number << 12))
        world.load(OTHER)
    assert world.shows(LA) == 0x2_0000
    world.load(ONE)
    assert (world.shows(LA), world.runs(LA)) == (None, None)
    assert world.access(LA) is Fill.MAPPED


def test_spaces_without_end_take_no_memory_without_end(world: World) -> None:
    def round_() -> None:
        for number in range(40):
            world.build(0x1_0000 + (number << 12), ONE_TABLE, {})
            world.load(0x1_0000 + (number << 12))
            world.access(LA)
            world.fetch(LA)

    round_()
    before = world.physical.allocate(PAGE_SIZE)
    for _ in range(10):
        round_()
    assert world.physical.allocate(PAGE_SIZE) == before + PAGE_SIZE


def test_tables_are_bounded_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces_module, "TABLES_MAX", 2)
    entry = (LA >> (21 if world.pae else 22)) + 1
    world.put(ONE, entry, ONE_TABLE | RIGHTS)
    la = entry << (21 if world.pae else 22) | 0x3000
    assert world.access(la) is Fill.MAPPED
    assert (world.shows(LA), world.shows(la)) == (0x1_0000, 0x1_0000)
    world.load(OTHER)
    assert world.shows(LA) is None


def test_forgetting_all_leaves_no_space_behind(world: World) -> None:
    world.shadow.drop_all()
    for directory in (ONE, OTHER):
        world.load(directory)
        assert (world.shows(LA), world.runs(LA)) == (None, None)
    assert not world.mmu.copies or all(source.users for source in world.shadow.space.sources())


# --- any tables, any sequence ----------------------------------------------------------------------------------

PAGES = [0x1000 * number for number in range(6)]
"""All tables and frames: a page may be both, and each of them any level."""
ENTRY_RIGHTS = [RIGHTS] * 4 + [RIGHTS | A, RIGHTS | A | D, P, P | W, P | U, 0]


def random_entry(rng: random.Random) -> int:
    """An entry for any level; rarely a large page, or a frame of a device."""
    frame = rng.choice([*PAGES, *PAGES, DEVICE])
    large = PS if rng.random() < 0.1 else 0
    return (0 if large else frame) | rng.choice(ENTRY_RIGHTS) | large


def check(world: World, addresses: list[int]) -> None:
    """All that is in the shadow is what a walk finds now, with no bit left to set."""
    before = world.physical.copy(world.ram, RAM)
    for la in addresses:
        entry = world.entry(la)
        runs = world.runs(la)
        if entry:
            gpa, rights = world.mmu.walk(la, bool(entry & W and entry & U), bool(entry & U))
            assert entry & FRAME == (world.ram + gpa if gpa < RAM else entry & FRAME)
            assert not entry & W or (rights & W and rights & D)
            assert bool(entry & U) == bool(rights & U)
        if runs is not None:
            assert runs == world.mmu.translate(la, False, False, True)
    assert world.physical.copy(world.ram, RAM) == before


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
@pytest.mark.parametrize("seed", range(60))
def test_any_sequence_leaves_what_the_tables_say(pae: bool, seed: int) -> None:
    rng = random.Random(seed)
    world = World(pae)
    shift = 21 if pae else 22
    slots = [0, 1, 2, 3] if pae else [0, 1, 2, 3, 512, 513]  # a table of 32-bit paging is two in the shadow
    addresses = [region << shift | page << 12 for region in range(4) for page in slots]
    for page in PAGES:
        for slot in slots:
            world.put(page, slot, random_entry(rng))
    world.load(PAGES[0])
    for _ in range(400):
        match rng.randrange(10):
            case 0 | 1:
                world.put(rng.choice(PAGES), rng.choice(slots), random_entry(rng))
            case 2:
                table, slot = rng.choice(PAGES), rng.choice(slots)
                world.put(table, slot, world.get(table, slot) & ~rng.choice([A, D, A | D, W]))
            case 3:
                la = rng.choice(addresses)
                world.shadow.drop_page(la)
                assert (world.entry(la), world.runs(la)) == (0, None)
            case 4 | 5:
                world.load(rng.choice(PAGES[:3]))
                check(world, addresses)
            case 6:
                world.fetch(rng.choice(addresses))
            case _:
                world.access(rng.choice(addresses), rng.random() < 0.5, rng.random() < 0.5)
