"""The shadow tables: what they may map for a guest, seen by walking them as the physical MMU would."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from vmm.arch.exceptions import GuestFault
from vmm.arch.layout import MASK32, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr0, Cr4
from vmm.cpu import shadow as shadow_module
from vmm.cpu.hole import CODE_PARTS, HOLE_SIZE, Hole
from vmm.cpu.paging import A20_BIT, Mmu
from vmm.cpu.shadow import Fill, ShadowTables
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

RAM = 4 << 20
ROM_BASE, DEVICE_BASE, NOBODY = 0x00F0_0000, 0xE000_0000, 0x0200_0000
DIRECTORY, TABLE = 0x10_0000, 0x10_1000
P, W, U, A, D, G, PS, NX = (int(Pte[name]) for name in "P W U A D G PS NX".split())
PG, WP, PSE, PGE = int(Cr0.PG), int(Cr0.WP), int(Cr4.PSE), int(Cr4.PGE)
FRAME = 0x000F_FFFF_FFFF_F000


@dataclass
class Registers:
    """The control registers of the virtual CPU."""

    cr0: int = 0
    cr3: int = DIRECTORY
    cr4: int = 0
    efer: int = 0
    pdptes: list[int] = field(default_factory=lambda: [0, 0, 0, 0])


class World:
    """4 MiB of RAM, a ROM, a device, and a shadow."""

    def __init__(self) -> None:
        self.physical = PhysicalMemory(96 << 20)
        self.memory = GuestMemory(self.physical, RAM)
        self.ram = self.physical.allocate(RAM)
        self.rom = self.physical.allocate(PAGE_SIZE)
        self.memory.map(MemoryRegion("ram", 0, RAM, self.ram))
        self.memory.map(MemoryRegion("rom", ROM_BASE, PAGE_SIZE, self.rom, read_only=True))
        self.memory.map(MemoryRegion("device", DEVICE_BASE, PAGE_SIZE, read=lambda _offset, _width: 0))
        self.mmu = Mmu(self.memory)
        self.registers = Registers()
        self.mmu.registers = self.registers
        self.hole = Hole.build(self.physical)
        self.shadow = ShadowTables(self.physical, self.memory, self.mmu, self.hole)
        self._entries = self.physical.view.cast("Q")

    def entry(self, la: int, real: bool = False) -> int:
        """The last-level entry for an address, 0 where there is none; upper levels must grant everything."""
        pointer = self._entries[(self.shadow.root(real) >> 3) + (la >> 30)]
        assert pointer & P
        directory = self._entries[((pointer & FRAME) >> 3) + (la >> 21 & 511)]
        if not directory:
            return 0
        assert directory & (P | W | U | NX) == P | W | U
        return self._entries[((directory & FRAME) >> 3) + (la >> 12 & 511)]

    def page(self, la: int, pte: int) -> None:
        """Let the guest's tables map `la` (in the first 4 MiB)."""
        if self.memory.read(DIRECTORY, 4) != (TABLE | P | W | U | A).to_bytes(4, "little"):
            self.memory.write(DIRECTORY, (TABLE | P | W | U).to_bytes(4, "little"))
        self.memory.write(TABLE + (la >> 10), pte.to_bytes(4, "little"))
        self.turn_on_paging()

    def turn_on_paging(self, cr4: int = 0) -> None:
        """As MOV CR0 and MOV CR4 do."""
        before = self.registers.cr0, self.registers.cr4
        self.registers.cr0, self.registers.cr4 = PG | WP, self.registers.cr4 | cr4
        if before != (self.registers.cr0, self.registers.cr4):
            self.shadow.drop_all()


@pytest.fixture
def shadowed() -> World:
    return World()


def rights(entry: int) -> int:
    """Present, writable, user and NX."""
    return entry & (P | W | U | NX)


# --- the guest does not page -------------------------------------------------------------------------------


def test_at_first_nothing_is_mapped_but_the_hole(shadowed: World) -> None:
    mapped = [la for la in range(0, 1 << 32, 2 << 20) if shadowed.entry(la)]
    assert mapped
    assert all(shadowed.hole.contains(la) for la in mapped)


def test_without_paging_ram_is_the_identity_for_everybody(shadowed: World) -> None:
    assert shadowed.shadow.fill(0x5123, True, True) is Fill.MAPPED
    assert shadowed.entry(0x5000) & FRAME == shadowed.ram + 0x5000
    assert rights(shadowed.entry(0x5000)) == P | W | U | NX


def test_a_fill_without_paging_brings_its_two_mebibytes(shadowed: World) -> None:
    shadowed.shadow.fill(0x5123, False, False)
    for la in range(0, 2 << 20, PAGE_SIZE):
        assert (shadowed.entry(la) & FRAME, rights(shadowed.entry(la))) == (shadowed.ram + la, P | W | U | NX)
    assert shadowed.entry(2 << 20) == 0


@pytest.mark.parametrize("real", [False, True])
def test_both_roots_see_the_same_guest_pages(shadowed: World, real: bool) -> None:
    shadowed.shadow.fill(0x5123, False, False)
    assert shadowed.entry(0x5000, real) & FRAME == shadowed.ram + 0x5000


def test_a_closed_a20_gate_shows_the_first_mebibyte_twice(shadowed: World) -> None:
    shadowed.mmu.a20_mask = MASK32 & ~A20_BIT
    shadowed.shadow.fill(A20_BIT | 0x5000, True, False)
    assert shadowed.entry(A20_BIT | 0x5000) & FRAME == shadowed.ram + 0x5000
    assert shadowed.entry(A20_BIT | 0x6000) & FRAME == shadowed.ram + 0x6000


def test_nothing_of_the_guest_is_ever_executable(shadowed: World) -> None:
    for la in (0, ROM_BASE, NOBODY):
        shadowed.shadow.fill(la, False, False)
        assert shadowed.entry(la) & NX
    shadowed.page(0x7000, 0x9000 | P | W | U)
    shadowed.shadow.drop_all()
    shadowed.shadow.fill(0x7000, True, True)
    assert shadowed.entry(0x7000) & NX


# --- what is not RAM ---------------------------------------------------------------------------------------


def test_a_rom_is_mapped_read_only_and_a_store_to_it_is_a_device_access(shadowed: World) -> None:
    assert shadowed.shadow.fill(ROM_BASE, False, False) is Fill.MAPPED
    assert shadowed.entry(ROM_BASE) & FRAME == shadowed.rom
    assert rights(shadowed.entry(ROM_BASE)) == P | U | NX
    assert shadowed.shadow.fill(ROM_BASE, True, False) is Fill.DEVICE
    assert rights(shadowed.entry(ROM_BASE)) == P | U | NX


def test_where_nobody_answers_a_page_of_ones_is_mapped_read_only(shadowed: World) -> None:
    assert shadowed.shadow.fill(NOBODY, False, False) is Fill.MAPPED
    frame = shadowed.entry(NOBODY) & FRAME
    assert bytes(shadowed.physical.view[frame : frame + PAGE_SIZE]) == b"\xff" * PAGE_SIZE
    assert rights(shadowed.entry(NOBODY)) == P | U | NX
    assert shadowed.shadow.fill(NOBODY, True, False) is Fill.DEVICE


@pytest.mark.parametrize("write", [False, True])
def test_a_device_is_never_mapped(shadowed: World, write: bool) -> None:
    assert shadowed.shadow.fill(DEVICE_BASE, write, False) is Fill.DEVICE
    assert shadowed.entry(DEVICE_BASE) == 0


def test_a_page_mapped_once_goes_away(shadowed: World) -> None:
    shadowed.shadow.map_once(DEVICE_BASE + 0x10, shadowed.rom, False)
    assert rights(shadowed.entry(DEVICE_BASE)) == P | U | NX
    shadowed.shadow.map_once(DEVICE_BASE, shadowed.rom, True)
    assert rights(shadowed.entry(DEVICE_BASE)) == P | W | U | NX
    shadowed.shadow.unmap(DEVICE_BASE + 0xFFF)
    assert shadowed.entry(DEVICE_BASE) == 0


def test_unmapping_what_was_never_mapped_is_harmless(shadowed: World) -> None:
    shadowed.shadow.unmap(DEVICE_BASE)
    assert shadowed.entry(DEVICE_BASE) == 0


# --- the guest pages ---------------------------------------------------------------------------------------

GUEST_RIGHTS = [
    pytest.param(P | W | U, True, True, P | W | U | NX, id="written user page"),
    pytest.param(P | W | U, False, True, P | U | NX, id="clean page: its first write must set D"),
    pytest.param(P | W | U | D, False, True, P | W | U | NX, id="dirty page"),
    pytest.param(P | W, True, False, P | W | NX, id="supervisor page"),
    pytest.param(P | U | D, False, False, P | U | NX, id="read-only page, dirty or not"),
]


@pytest.mark.parametrize(("pte", "write", "user", "expected"), GUEST_RIGHTS)
def test_a_page_gets_the_guests_rights(shadowed: World, pte: int, write: bool, user: bool, expected: int) -> None:
    shadowed.page(0x7000, 0x9000 | pte)
    assert shadowed.shadow.fill(0x7ABC, write, user) is Fill.MAPPED
    entry = shadowed.entry(0x7000)
    assert (entry & FRAME, rights(entry)) == (shadowed.ram + 0x9000, expected)


def test_one_fill_maps_one_page(shadowed: World) -> None:
    shadowed.page(0x7000, 0x9000 | P | W | U)
    shadowed.shadow.fill(0x7000, True, True)
    assert [la for la in range(0, 2 << 20, PAGE_SIZE) if shadowed.entry(la)] == [0x7000]


def test_a_true_fault_is_raised_and_maps_nothing(shadowed: World) -> None:
    shadowed.page(0x7000, 0x9000 | P)
    with pytest.raises(GuestFault) as caught:
        shadowed.shadow.fill(0x7004, True, True)
    assert (caught.value.error_code, caught.value.cr2) == (7, 0x7004)
    assert shadowed.entry(0x7000) == 0


def test_a_supervisor_write_without_wp_opens_a_read_only_page_to_the_supervisor_alone(shadowed: World) -> None:
    """Physical WP is always on, so the page has to be writable for the store; a user would write it too."""
    shadowed.page(0x7000, 0x9000 | P | U)
    shadowed.registers.cr0 = PG
    assert shadowed.shadow.fill(0x7000, True, False) is Fill.MAPPED
    assert rights(shadowed.entry(0x7000)) == P | W | NX
    assert shadowed.shadow.fill(0x7000, False, True) is Fill.MAPPED
    assert rights(shadowed.entry(0x7000)) == P | U | NX
    with pytest.raises(GuestFault):
        shadowed.shadow.fill(0x7000, True, True)


# --- watching ----------------------------------------------------------------------------------------------


def test_a_watched_page_is_read_only_and_a_store_to_it_is_told(shadowed: World) -> None:
    shadowed.memory.watched.add(5)
    assert shadowed.shadow.fill(0x5000, False, False) is Fill.MAPPED
    assert rights(shadowed.entry(0x5000)) == P | U | NX
    assert rights(shadowed.entry(0x4000)) == P | W | U | NX
    assert shadowed.shadow.fill(0x5000, True, False) is Fill.WATCHED
    assert rights(shadowed.entry(0x5000)) == P | U | NX


def test_protecting_takes_the_write_away_and_a_fill_gives_it_back(shadowed: World) -> None:
    shadowed.shadow.fill(0x5000, True, False)
    shadowed.memory.watched.add(5)
    shadowed.shadow.protect(5)
    assert rights(shadowed.entry(0x5000)) == P | U | NX
    shadowed.memory.watched.discard(5)
    assert shadowed.shadow.fill(0x5000, True, False) is Fill.MAPPED
    assert rights(shadowed.entry(0x5000)) == P | W | U | NX


def test_protecting_reaches_the_alias_behind_a_closed_a20_gate(shadowed: World) -> None:
    shadowed.mmu.a20_mask = MASK32 & ~A20_BIT
    shadowed.shadow.fill(0x5000, True, False)
    shadowed.shadow.fill(A20_BIT | 0x5000, True, False)
    shadowed.shadow.protect(5)
    assert rights(shadowed.entry(0x5000)) == rights(shadowed.entry(A20_BIT | 0x5000)) == P | U | NX


def test_protecting_reaches_every_alias_of_a_paging_guest(shadowed: World) -> None:
    for la in (0x7000, 0xB000, 0x3F_F000):
        shadowed.page(la, 0x9000 | P | W | U)
        shadowed.shadow.fill(la, True, True)
    shadowed.shadow.protect(9)
    assert [rights(shadowed.entry(la)) for la in (0x7000, 0xB000, 0x3F_F000)] == [P | U | NX] * 3


def test_protecting_an_unmapped_page_is_harmless(shadowed: World) -> None:
    shadowed.shadow.protect(5)
    assert shadowed.entry(0x5000) == 0


# --- dropping ----------------------------------------------------------------------------------------------


def test_dropping_forgets_the_guest_and_keeps_the_hole(shadowed: World) -> None:
    page = shadowed.hole.linear("vcpu_page")
    before = shadowed.entry(page)
    shadowed.shadow.fill(0x5000, True, False)
    shadowed.shadow.drop_all()
    assert shadowed.entry(0x5000) == shadowed.entry(0x5000, real=True) == 0
    assert before
    assert shadowed.entry(page) == before


def test_tables_are_used_again(shadowed: World) -> None:
    """A guest that reloads CR3 for ever must not use up the host's memory."""
    shadowed.shadow.fill(0x5000, True, False)
    shadowed.shadow.drop_all()
    before = shadowed.physical.allocate(PAGE_SIZE)
    for la in (0x5000, 0x30_0000, 0x5000, NOBODY) * 50:
        shadowed.shadow.fill(la, False, False)
        shadowed.shadow.drop_all()
    assert shadowed.physical.allocate(PAGE_SIZE) == before + PAGE_SIZE


# --- the hole ----------------------------------------------------------------------------------------------

HOLE_RIGHTS = {
    "kernel_cache": P,
    "user_cache": P | U,
    "lookup": P | U | NX,
    "vcpu_page": P | W | NX,
    "user_view": P | U | NX,
    "user_scratch": P | W | U | NX,
    "shadow_gdt": P | NX,
    "gdt_sources": P | NX,
    "shadow_tss": P | NX,
    "guard": P | U | NX,
    "shadowed": P | NX,
}
IN_PLACE_ONLY = {"whole_gdt", "whole_ldt"}


@pytest.mark.parametrize(("name", "expected"), HOLE_RIGHTS.items())
def test_rights_in_the_hole(shadowed: World, name: str, expected: int) -> None:
    """First and last page of each part; the real-mode root gives the user all of it, and nothing more."""
    part = shadowed.hole.parts[name]
    if name in CODE_PARTS:
        for real in (False, True):
            assert shadowed.entry(shadowed.hole.linear(name), real) == 0
            shadowed.shadow.space.root(real).map_code(name, 0, part.size // PAGE_SIZE)
    for offset in (0, part.size - PAGE_SIZE):
        la = shadowed.hole.linear(name) + offset
        for real in (False, True):
            entry = shadowed.entry(la, real)
            assert (entry & FRAME, rights(entry)) == (part.host + offset, expected | (U if real else 0))


def test_every_part_of_the_hole_is_known_and_they_do_not_overlap(shadowed: World) -> None:
    parts = sorted(shadowed.hole.parts.values(), key=lambda part: part.offset)
    assert set(shadowed.hole.parts) == set(HOLE_RIGHTS) | IN_PLACE_ONLY
    assert all(first.offset + first.size <= second.offset for first, second in pairwise(parts))
    assert parts[-1].offset + parts[-1].size <= HOLE_SIZE
    assert shadowed.hole.parts["user_view"].host == shadowed.hole.parts["vcpu_page"].host


def test_only_the_caches_are_executable_and_they_are_read_only(shadowed: World) -> None:
    for name in HOLE_RIGHTS:
        entry = shadowed.entry(shadowed.hole.linear(name))
        assert bool(entry & NX) == (name not in ("kernel_cache", "user_cache"))
        assert entry & NX or not entry & W


@pytest.mark.parametrize("name", sorted(IN_PLACE_ONLY))
@pytest.mark.parametrize("real", [False, True])
def test_what_only_code_in_place_needs_is_not_mapped(shadowed: World, name: str, real: bool) -> None:
    assert shadowed.entry(shadowed.hole.linear(name), real) == 0


def test_the_hole_is_where_it_says(shadowed: World) -> None:
    base = shadowed.hole.base
    assert shadowed.hole.contains(base)
    assert shadowed.hole.contains(base + HOLE_SIZE - 1)
    assert not shadowed.hole.contains(base - 1)
    assert not shadowed.hole.contains(base + HOLE_SIZE)


def test_a_moved_hole_leaves_its_old_place(shadowed: World) -> None:
    old = shadowed.hole.base
    shadowed.shadow.fill(0x5000, True, False)
    shadowed.hole.base = 0x8000_0000
    shadowed.shadow.rebuild_roots()
    shadowed.shadow.space.root(False).map_code("kernel_cache", 0, 1)
    assert shadowed.entry(old) == 0
    assert shadowed.entry(0x5000) == 0
    assert shadowed.entry(0x8000_0000) & FRAME == shadowed.hole.parts["kernel_cache"].host
    assert rights(shadowed.entry(0x8000_0000)) == P


def test_the_guest_cannot_map_anything_over_the_hole(shadowed: World) -> None:
    cache = shadowed.hole.linear("kernel_cache")
    shadowed.shadow.space.root(False).map_code("kernel_cache", 0, 2)
    before = shadowed.entry(cache)
    shadowed.shadow.map_once(cache, shadowed.rom, True)
    assert shadowed.entry(cache) == before
    shadowed.shadow.fill(cache + 0x1000, False, False)
    assert shadowed.entry(cache + 0x1000) & FRAME == shadowed.hole.parts["kernel_cache"].host + 0x1000


def test_code_pages_go_on_and_off_one_by_one(shadowed: World) -> None:
    cache = shadowed.hole.linear("kernel_cache")
    shadowed.shadow.space.root(False).map_code("kernel_cache", 1, 2)
    mapped = [bool(shadowed.entry(cache + n * PAGE_SIZE)) for n in range(4)]
    shadowed.shadow.space.root(False).unmap_code("kernel_cache", 2, 1)
    assert mapped == [False, True, True, False]
    assert [bool(shadowed.entry(cache + n * PAGE_SIZE)) for n in range(4)] == [False, True, False, False]
    assert not shadowed.entry(cache + PAGE_SIZE, True)
    shadowed.shadow.forget_code()
    assert not shadowed.entry(cache + PAGE_SIZE)


def test_real_mode_and_protected_mode_have_code_of_their_own(shadowed: World) -> None:
    """One cache, two roots: a page that is on for one is no way in for the other."""
    cache = shadowed.hole.linear("kernel_cache")
    shadowed.shadow.space.root(True).map_code("kernel_cache", 3, 1)
    la = cache + 3 * PAGE_SIZE
    assert (rights(shadowed.entry(la, True)), shadowed.entry(la)) == (P | U, 0)
    shadowed.shadow.space.root(True).unmap_code("kernel_cache", 3, 1)
    assert shadowed.entry(la, True) == 0


@pytest.mark.parametrize(("name", "expected"), [("kernel_cache", P), ("user_cache", P | U)])
def test_a_mapped_code_page_is_the_frame_of_its_place(shadowed: World, name: str, expected: int) -> None:
    part = shadowed.hole.parts[name]
    last = part.size // PAGE_SIZE - 1
    shadowed.shadow.space.root(False).map_code(name, last, 1)
    entry = shadowed.entry(shadowed.hole.linear(name) + part.size - PAGE_SIZE)
    assert (entry & FRAME, rights(entry)) == (part.host + part.size - PAGE_SIZE, expected)
    assert not entry & W


def test_dropping_one_guest_page_leaves_code_on_and_dropping_all_does_not(shadowed: World) -> None:
    code = shadowed.hole.linear("user_cache")
    shadowed.shadow.space.root(False).map_code("user_cache", 0, 1)
    shadowed.shadow.drop_page(0x5000)
    shadowed.shadow.load_root()
    assert rights(shadowed.entry(code)) == P | U
    shadowed.shadow.drop_all()
    assert shadowed.entry(code) == 0


# --- the service root --------------------------------------------------------------------------------------


def service_entry(world: World, la: int) -> int:
    """The last-level entry for an address under the VMM's own root."""
    entries = world.physical.view.cast("Q")
    pointer = entries[(world.shadow.service_root >> 3) + (la >> 30)]
    directory = entries[((pointer & FRAME) >> 3) + (la >> 21 & 511)]
    return entries[((directory & FRAME) >> 3) + (la >> 12 & 511)] if directory else 0


@pytest.mark.parametrize(("name", "expected"), HOLE_RIGHTS.items())
def test_the_service_root_maps_all_of_the_hole_whatever_is_on(shadowed: World, name: str, expected: int) -> None:
    part = shadowed.hole.parts[name]
    shadowed.shadow.space.root(False).map_code("kernel_cache", 0, 1)
    shadowed.shadow.forget_code()
    for offset in (0, part.size - PAGE_SIZE):
        entry = service_entry(shadowed, shadowed.hole.linear(name) + offset)
        assert (entry & FRAME, rights(entry)) == (part.host + offset, expected)


def test_the_service_root_maps_nothing_of_the_guest(shadowed: World) -> None:
    shadowed.shadow.fill(0x5000, True, True)
    mapped = [la for la in range(0, 1 << 32, 2 << 20) if service_entry(shadowed, la)]
    assert service_entry(shadowed, 0x5000) == 0
    assert all(shadowed.hole.contains(la) for la in mapped)


def test_the_service_root_moves_with_the_hole(shadowed: World) -> None:
    old = shadowed.hole.linear("kernel_cache")
    shadowed.hole.base = 0x8000_0000
    shadowed.shadow.rebuild_roots()
    assert service_entry(shadowed, old) == 0
    new = service_entry(shadowed, shadowed.hole.linear("kernel_cache"))
    assert new & FRAME == shadowed.hole.parts["kernel_cache"].host


# --- what the guest tells its TLB to forget ------------------------------------------------------------------


def marked(world: World) -> set[int]:
    """The guest pages of which INVLPG reaches the VMM."""
    part = world.hole.parts["shadowed"]
    view = world.physical.view[part.host : part.host + part.size]
    return {page for page in range(part.size) if view[page]}


def large_page(world: World, la: int, bits: int = 0) -> None:
    """Let the guest map the 4 MiB round an address to physical 0."""
    world.memory.write(DIRECTORY + (la >> 22) * 4, (PS | P | W | U | bits).to_bytes(4, "little"))
    world.turn_on_paging(PSE | PGE)


@pytest.mark.parametrize("bits", [0, G])
def test_a_load_of_cr3_forgets_what_the_tables_say_no_more(shadowed: World, bits: int) -> None:
    """Global or not: a processor may drop a global translation any time."""
    shadowed.turn_on_paging(PGE)
    for la in (0x7000, 0x8000, 0x3F_F000):
        shadowed.page(la, 0x9000 | P | W | U | bits)
        shadowed.shadow.fill(la, True, True)
    shadowed.page(0x8000, 0xA000 | P | W | U | bits)
    assert shadowed.entry(0x8000) & FRAME == shadowed.ram + 0x9000
    shadowed.shadow.load_root()
    assert [bool(shadowed.entry(la)) for la in (0x7000, 0x8000, 0x3F_F000)] == [True, False, True]


def test_a_page_filled_again_is_forgotten_again(shadowed: World) -> None:
    for frame in (0x9000, 0xA000, 0x9000):
        shadowed.page(0x7000, frame | P | W | U)
        shadowed.shadow.load_root()
        assert shadowed.entry(0x7000) == 0
        assert shadowed.shadow.fill(0x7000, True, True) is Fill.MAPPED
        assert shadowed.entry(0x7000) & FRAME == shadowed.ram + frame


def test_dropping_a_page_drops_that_page_whatever_its_rights(shadowed: World) -> None:
    shadowed.registers.cr4 = PGE
    for la in (0x6000, 0x7000, 0x8000):
        shadowed.page(la, 0x9000 | P | W | U | G)
        shadowed.shadow.fill(la, True, True)
    shadowed.shadow.drop_page(0x7FFF)
    assert [bool(shadowed.entry(la)) for la in (0x6000, 0x7000, 0x8000)] == [True, False, True]
    assert marked(shadowed) == {6, 8}


@pytest.mark.parametrize("probe", [0x80_0000, 0x9F_F000, 0xA0_0000, 0xBF_FFFF])
def test_dropping_anywhere_in_a_large_page_drops_all_of_it(shadowed: World, probe: int) -> None:
    large_page(shadowed, 0x80_0000, G)
    touched = (0x80_0000, 0x81_2000, 0xBF_F000)
    for la in touched:
        shadowed.shadow.fill(la, True, True)
    shadowed.shadow.drop_page(probe)
    assert [shadowed.entry(la) for la in touched] == [0, 0, 0]
    assert marked(shadowed) == set()


def test_dropping_beside_a_large_page_leaves_it(shadowed: World) -> None:
    large_page(shadowed, 0x80_0000)
    shadowed.shadow.fill(0x80_0000, True, True)
    shadowed.shadow.drop_page(0xC0_0000)
    assert shadowed.entry(0x80_0000)


def test_a_page_is_marked_when_it_is_filled(shadowed: World) -> None:
    shadowed.page(0x7000, 0x9000 | P | W | U)
    shadowed.shadow.fill(0x7000, False, True)
    assert marked(shadowed) == {7}
    shadowed.shadow.drop_all()
    assert marked(shadowed) == set()


def test_a_large_page_is_marked_at_all_its_addresses(shadowed: World) -> None:
    """INVLPG of any address in it counts for all of it (SDM Vol. 2A, "INVLPG")."""
    large_page(shadowed, 0x80_0000)
    shadowed.shadow.fill(0x81_2000, False, True)
    assert marked(shadowed) == set(range(0x800, 0xC00))


def test_a_large_page_where_a_small_one_was_is_marked_at_all_its_addresses(shadowed: World) -> None:
    """A load of CR3 leaves the mark of the small one behind."""
    shadowed.page(0x7000, 0x9000 | P | W | U)
    shadowed.shadow.fill(0x7000, False, True)
    shadowed.turn_on_paging(PSE | PGE)
    shadowed.page(0x7000, 0x9000 | P | W | U)
    shadowed.shadow.fill(0x7000, False, True)
    large_page(shadowed, 0)
    shadowed.shadow.load_root()
    shadowed.shadow.fill(0x7000, False, True)
    assert marked(shadowed) == set(range(0x400))


def test_a_fault_marks_nothing(shadowed: World) -> None:
    shadowed.page(0x7000, 0)
    with pytest.raises(GuestFault):
        shadowed.shadow.fill(0x7000, False, True)
    assert marked(shadowed) == set()


def test_places_that_are_no_more_are_tidied_away_and_the_others_are_still_protected(
    shadowed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "_NOTES_MAX", 3)
    world = World()
    for round_ in range(20):  # one address shows one frame after the other
        world.page(0x7000, 0x1_0000 + (round_ << 12) | P | W | U)
        world.shadow.drop_page(0x7000)
        world.shadow.fill(0x7000, True, True)
    for la in (0x5000, 0x6000, 0x8000, 0xA000, 0xB000, 0xC000):
        world.page(la, 0x9000 | P | W | U)
        world.shadow.fill(la, True, True)
    world.shadow.protect(9)
    world.shadow.protect(0x10 + 19)
    assert [rights(world.entry(la)) for la in range(0x5000, 0xD000, PAGE_SIZE)] == [P | U | NX] * 4 + [0] + [
        P | U | NX
    ] * 3


def test_a_table_that_was_dropped_comes_back_empty(shadowed: World) -> None:
    """Tables are used again, for other addresses."""
    shadowed.page(0x7000, 0x9000 | P | W | U)
    shadowed.shadow.fill(0x7000, True, True)
    shadowed.shadow.drop_all()
    shadowed.page(0x20_3000, 0xA000 | P | W | U)
    shadowed.shadow.fill(0x20_3000, True, True)
    assert [la for la in range(0, 4 << 20, PAGE_SIZE) if shadowed.entry(la)] == [0x20_3000]


def test_a_page_written_after_its_alias_was_protected_stays_watched(shadowed: World) -> None:
    """The frame is watched: whatever address comes next, its store is told."""
    shadowed.page(0x7000, 0x9000 | P | W | U)
    shadowed.shadow.fill(0x7000, True, True)
    shadowed.memory.watched.add(9)
    shadowed.shadow.protect(9)
    for la in (0x7000, 0xB000):
        shadowed.page(la, 0x9000 | P | W | U)
        assert shadowed.shadow.fill(la, True, True) is Fill.WATCHED
        assert shadowed.shadow.fill(la, False, True) is Fill.MAPPED
        assert not shadowed.entry(la) & W
