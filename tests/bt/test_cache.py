"""The cache: placing, finding, entering, chaining, dropping; and what of it the branch tables know."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt import cache as cache_module
from bt.cache import Arena, Block, BlockSpace, CodeCache, CodePage, CodeView, Entrance
from bt.emit import CALLOUT_VECTOR, Mark, Site, SiteKind, Translation
from bt.guest import Context, Mode, Window
from bt.lookup import GAP, CacheFull, LookupArea
from bt.translate import BLOCK_LIMIT, DEFAULT_OPTIONS, BlockTranslator, Options
from vmm.arch.layout import MASK32

KERNEL32 = Context(Mode.PROTECTED, 0, True, True)
KERNEL16 = Context(Mode.REAL, 0, False, False)
USER = Context(Mode.PROTECTED, 3, True, True)
KERNEL_BASE, USER_BASE, LOOKUP_BASE = 0xF400_0000, 0xF580_0000, 0xF640_0000
LEAF = 4 << 8
TABLE_32, TABLE_16 = 4 * ((1 << 16) + GAP) + 2 * LEAF, 2 * LEAF
EXIT = bytes([0xCD, CALLOUT_VECTOR])
TRANSLATOR = BlockTranslator()


class World:
    """A cache over plain memory; `forgotten` are the ranges that the CPU was told to forget."""

    def __init__(self, arena_size: int = 1 << 16, lookup_size: int = 4 * TABLE_32) -> None:
        self.forgotten: list[tuple[int, int]] = []
        self.mapped: set[tuple[bool, int]] = set()
        self.other: set[tuple[bool, int]] = set()
        self.kernel, self.user = memoryview(bytearray(arena_size)), memoryview(bytearray(arena_size))
        self.lookup = memoryview(bytearray(lookup_size))
        self.view = CodeView(self._map)
        self.cache = CodeCache(
            Arena(self.kernel, KERNEL_BASE), Arena(self.user, USER_BASE), LookupArea(self.lookup, LOOKUP_BASE),
            lambda start, end: self.forgotten.append((start, end)), self.view,
        )  # fmt: skip

    def _map(self, context: Context, first: int, count: int, on: bool) -> None:
        change = self.mapped.update if on else self.mapped.difference_update
        change((context.is_user, page) for page in range(first, first + count))

    def map_other(self, context: Context, first: int, count: int, on: bool) -> None:
        """What a second view has mapped."""
        change = self.other.update if on else self.other.difference_update
        change((context.is_user, page) for page in range(first, first + count))

    def page(
        self,
        number: int,
        context: Context = KERNEL32,
        cs_base: int = 0,
        frames: tuple[int, ...] = (1,),
    ) -> CodePage:
        """A code page that is on."""
        page = self.cache.page(self.cache.space(cs_base, context), number, frames, False)
        if not self.cache.is_on(page):
            self.cache.view.switch_on(page)
        return page

    def enter(self, eip: int, space: BlockSpace) -> Entrance | None:
        """Where to enter for an EIP now."""
        return self.cache.view.find(space, eip)

    def find(self, eip: int, space: BlockSpace) -> Block | None:
        """The block for an EIP that may run now."""
        found = self.enter(eip, space)
        return None if found is None else found.block

    def translate(
        self, page: CodePage, eip: int, code: bytes = b"\x90", options: Options = DEFAULT_OPTIONS
    ) -> Translation:
        """Translate a block for a code page."""
        space = page.space
        window = Window(0x7500_0000, 0x7500_0000, space.table.root, LOOKUP_BASE, space.cs_base)
        return TRANSLATOR.translate(code, eip, space.context, window, options)

    def block(
        self,
        eip: int,
        code: str = "90",
        context: Context = KERNEL32,
        cs_base: int = 0,
        frames: tuple[int, ...] = (1,),
        limit: int = BLOCK_LIMIT,
    ) -> Block:
        """Translate, place and publish a block."""
        page = self.page((eip + cs_base & MASK32) >> 12, context, cs_base, frames)
        block = self.cache.place(page, self.translate(page, eip, bytes.fromhex(code), Options(limit)))
        start = self.cache.publish(block)
        assert (start.block, start.eip, start.address, start.entry) == (block, eip, block.address, block.entry)
        return block

    def checked(self, eip: int, code: str = "90c3") -> Block:
        """One that checks itself, on a code page that is on."""
        page = self.cache.page(self.cache.space(0, KERNEL32), eip >> 12, (1,), True)
        if not self.cache.is_on(page):
            self.cache.view.switch_on(page)
        block = self.cache.place(page, self.translate(page, eip, bytes.fromhex(code), Options(self_check=True)))
        self.cache.publish(block)
        page.add_version(block)
        return block

    def tombstone(self, dead: Block, offset: int = 0) -> Site:
        """The exit that a dropped block has at an entrance."""
        site, owner = self.cache.sites[dead.address + offset + len(EXIT)]
        assert (site.kind, owner, site.offset) == (SiteKind.LINK, dead, offset + len(EXIT))
        assert self.code(dead)[offset : site.offset] == EXIT
        return site

    def look_up(self, space: BlockSpace, eip: int) -> int | None:
        """What cached code finds in the branch table: a CS-relative address, or None if that is nowhere."""
        base = space.cs_base
        at = space.table.root
        for digit in (eip >> 16, eip >> 8 & 0xFF, eip & 0xFF)[0 if space.context.code32 else 1 :]:
            offset = at + 4 * digit - LOOKUP_BASE
            at = int.from_bytes(self.lookup[offset : offset + 4], "little") + base & MASK32
        return None if at == LOOKUP_BASE else at - base & MASK32

    def is_mapped(self, block: Block) -> bool:
        """May the processor fetch from it?"""
        user = block.space.context.is_user
        return (user, block.address - (USER_BASE if user else KERNEL_BASE) >> 12) in self.mapped

    def code(self, block: Block) -> bytes:
        """What now stands at a block's place."""
        view, base = (self.user, USER_BASE) if block.space.context.is_user else (self.kernel, KERNEL_BASE)
        return bytes(view[block.address - base : block.end - base])

    def branch_target(self, block: Block, field: int) -> int:
        """Where the rel32 at an offset of a block goes."""
        code = self.code(block)
        return block.address + field + 4 + int.from_bytes(code[field : field + 4], "little") & MASK32


@pytest.fixture
def world() -> World:
    return World()


# --- placing and finding -----------------------------------------------------------------------------------


def test_a_block_lies_in_the_arena_of_its_privilege(world: World) -> None:
    kernel, user = world.block(0x1000), world.block(0x1000, context=USER)
    assert (kernel.address, user.address) == (KERNEL_BASE, USER_BASE)
    assert (world.code(kernel), world.code(user)) == (kernel.translation.code, user.translation.code)


def test_blocks_do_not_overlap_and_are_aligned(world: World) -> None:
    first, second = world.block(0x1000), world.block(0x2000)
    assert second.address >= first.end
    assert second.address % 4 == 0


def test_a_block_that_fits_into_a_page_lies_in_one(world: World) -> None:
    """Across two, a loop of a few instructions took 2.7 times as long: the engine links no jump that leaves a page."""
    blocks = [world.block(0x1000 + 16 * number, "90" * 16, limit=16) for number in range(200)]
    assert all(len(block.translation.code) <= 0x1000 for block in blocks)
    assert all(block.address >> 12 == block.end - 1 >> 12 for block in blocks)
    assert len({block.address >> 12 for block in blocks}) > 1


@pytest.mark.parametrize(("cs_base", "entry"), [(0xF_0000, KERNEL_BASE - 0xF_0000), (0xFFFF_0000, 0xF401_0000)])
def test_the_entry_is_relative_to_cs_base(world: World, cs_base: int, entry: int) -> None:
    assert world.block(0x10, context=KERNEL16, cs_base=cs_base).entry == entry


def test_an_address_leads_to_its_block_dead_or_alive(world: World) -> None:
    blocks = [world.block(eip) for eip in (0x1000, 0x2000, 0x3000)]
    world.cache.drop(blocks[1])
    for block in blocks:
        assert world.cache.block_at(block.address) is block
        assert world.cache.block_at(block.end - 1) is block
    assert world.cache.block_at(KERNEL_BASE + world.cache.kernel.used) is None
    assert world.cache.block_at(KERNEL_BASE - 1) is None
    assert world.cache.block_at(USER_BASE) is None


def test_every_site_is_found_by_the_address_that_an_exit_shows(world: World) -> None:
    block = world.block(0x1000, "0f32fbc3")
    for site in block.translation.sites:
        assert world.cache.sites[block.address + site.offset] == (site, block)


def test_a_cache_address_belongs_to_a_guest_instruction(world: World) -> None:
    block = world.block(0x1000, "90fa9c")
    offsets = [offset for offset, _ in sorted(block.translation.starts.items())]
    for offset, eip in zip(offsets, (0x1000, 0x1001, 0x1002), strict=False):
        assert block.mark_at(block.address + offset).eip == eip
        assert block.mark_at(block.address + offset).offset == offset
    assert block.mark_at(block.end - 1).eip == 0x1003


def test_spaces_differ_by_base_and_by_every_part_of_the_context() -> None:
    small = World(lookup_size=6 * TABLE_16)
    contexts = [
        (0, KERNEL16), (0x10, KERNEL16), (0, Context(Mode.V86, 3, False, False)),
        (0, Context(Mode.REAL, 0, False, True)), (0, Context(Mode.V86, 3, False, False, iopl3=True)),
    ]  # fmt: skip
    spaces = [small.cache.space(*key) for key in contexts]
    assert len({space.table.root for space in spaces}) == len(contexts)
    assert [small.cache.space(*key) for key in contexts] == spaces


def test_a_full_arena_is_told() -> None:
    small = World(arena_size=2 << 12)
    first, second = small.block(0), small.block(0x1000, frames=(2,))
    with pytest.raises(CacheFull):
        small.block(0x2000, frames=(3,))
    assert (small.code(first), small.code(second)) == (first.translation.code, second.translation.code)


def test_too_many_blocks_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "BLOCKS_MAX", 3)
    for number in range(3):
        world.block(number << 12, frames=(number,))
    world.block(0, context=USER)
    with pytest.raises(CacheFull):
        world.block(3 << 12, frames=(3,))


def test_a_full_lookup_area_is_told() -> None:
    world = World(lookup_size=4 + 2 * TABLE_32)
    world.cache.space(0, KERNEL32)
    world.cache.space(1, KERNEL32)
    with pytest.raises(CacheFull):
        world.cache.space(2, KERNEL16)


@pytest.mark.parametrize("room", [0, LEAF])
def test_a_full_lookup_area_is_told_when_a_return_site_has_no_place(room: int) -> None:
    """It needs a leaf, or a leaf and a middle table."""
    world = World(lookup_size=4 + TABLE_32 + room)
    world.block(0x1_0000)
    with pytest.raises(CacheFull):
        world.block(0x1_1000, "e80000000090", frames=(2,))


# --- entrances ---------------------------------------------------------------------------------------------

SPACES = pytest.mark.parametrize(
    ("context", "cs_base"),
    [(KERNEL32, 0), (USER, 0), (KERNEL32, 0xFFF0_0000), (KERNEL16, 0x10), (KERNEL16, 0xFFFF_0000)],
    ids=["kernel", "user", "based", "16", "16, wraps"],
)
RDMSRS = "0f32" * 3
"""An exit of two bytes for each: instructions that are as near to each other as entrances may be."""


@SPACES
def test_a_block_is_entered_at_its_instructions_and_nowhere_else(world: World, context: Context, cs_base: int) -> None:
    block = world.block(0x1000, "0f320f329ceb00", context, cs_base)
    for eip in range(0xFF0, 0x1020):
        found = world.enter(eip, block.space)
        assert (found is not None) == (eip in (0x1000, 0x1002, 0x1004, 0x1005))
        if found is not None:
            assert (found.block, found.eip, found.entry) == (block, eip, found.address - cs_base & MASK32)
            assert block.mark_at(found.address) == Mark(found.address - block.address, eip)
            assert world.enter(eip, block.space) is found
    assert len(block.entrances) == 4


def test_a_block_that_goes_on_with_a_jump_is_not_entered_behind_its_end(world: World) -> None:
    block = world.block(0x1000, RDMSRS, limit=2)
    assert block.translation.offset_of(0x1004) is not None
    assert world.enter(0x1004, block.space) is None


def test_a_block_that_checks_itself_is_entered_at_its_start_alone(world: World) -> None:
    """Only there it looks at its source."""
    block = world.checked(0x1000, RDMSRS + "c3")
    assert world.find(0x1000, block.space) is block
    assert [world.enter(eip, block.space) for eip in range(0x1001, 0x1008)] == [None] * 7


@pytest.mark.parametrize("code", ["fb40eb00", "8ed040eb00", "1740eb00"], ids=["sti", "mov ss", "pop ss"])
def test_a_block_is_not_entered_in_a_shadow(world: World, code: str) -> None:
    """STI; JMP to itself: the JMP's block must not be that of the STI, in which it is no boundary for interrupts."""
    context = KERNEL32 if code.startswith("fb") else KERNEL16
    block = world.block(0x1000, code, context)
    shadowed = 0x1000 + code.index("40") // 2
    assert world.enter(shadowed, block.space) is None
    assert world.find(shadowed + 1, block.space) is block


def test_no_two_entrances_share_a_byte_of_their_tombstones(world: World) -> None:
    """INC is one byte long: a start, an entrance asked for and a return site each keep the next byte to themselves."""
    block = world.block(0x1000, "40404040e80001000040404040c3")
    for eip, is_open in ((0x1001, False), (0x1003, True), (0x1002, False), (0x1004, False), (0x100A, False)):
        assert (world.find(eip, block.space) is block) == is_open
    heir = world.block(0x1001, "40eb00")
    assert (world.find(0x1001, block.space), world.find(0x1003, block.space)) == (heir, block)


def test_an_instruction_of_several_blocks_is_found_in_one_of_them(world: World) -> None:
    """Three blocks made of the middle of instructions lie between."""
    block = world.block(0x1000, "0f32" * 8)
    others = [world.block(0x1000 + at, "0f32", limit=1) for at in (1, 3, 5)]
    assert world.find(0x1008, block.space) is block
    assert [world.find(other.eip, block.space) for other in others] == others


def test_an_entrance_is_found_while_its_page_is_on(world: World) -> None:
    block = world.block(0x1000, RDMSRS)
    world.cache.switch_off(block.page)
    assert world.enter(0x1002, block.space) is None
    world.cache.view.switch_on(block.page)
    assert world.find(0x1002, block.space) is block


@SPACES
def test_a_return_site_is_an_entrance_that_the_branch_table_knows(world: World, context: Context, cs_base: int) -> None:
    size = 5 if context.code32 else 3
    back = 0x1000 + size
    block = world.block(0x1000, "e8" + "00" * (size - 1) + "40c3", context, cs_base)
    ((offset, eip),) = block.translation.returns
    found = world.enter(back, block.space)
    assert found is not None
    assert (found.block, eip, found.address) == (block, back, block.address + offset)
    assert [world.look_up(block.space, each) for each in (0x1000, back, back + 1)] == [None, found.entry, None]


def test_a_return_site_that_has_an_entrance_keeps_it(world: World) -> None:
    there = world.block(0x1005, "40c3")
    block = world.block(0x1000, "e80001000040c3")
    assert block.translation.returns
    assert world.find(0x1005, block.space) is there
    assert world.look_up(block.space, 0x1005) == there.entry
    world.cache.drop(block)
    assert world.find(0x1005, block.space) is there
    assert world.look_up(block.space, 0x1005) == there.entry


@pytest.mark.parametrize(("code", "limit"), [("e800010000", BLOCK_LIMIT), ("e80001000040", 1)], ids=["end", "limit"])
def test_a_call_that_ends_its_block_has_no_return_site(world: World, code: str, limit: int) -> None:
    block = world.block(0x1000, code, limit=limit)
    assert world.enter(0x1005, block.space) is None
    assert world.look_up(block.space, 0x1005) is None


PIECES = st.sampled_from(["40", "0f32", "9c", "fb", "b801000000", "e800000000", "ffd1", "7400", "8ed0", "c3"])
ASKED = st.tuples(st.booleans(), st.integers(0, 40))


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=14), steps=st.lists(ASKED, min_size=1, max_size=20))
def test_whoever_is_led_to_a_block_comes_to_the_instruction_that_he_looked_for(
    pieces: list[str], steps: list[tuple[bool, int]]
) -> None:
    """By the view or by the branch table, whatever was made and dropped before. Blocks are made as they are missed."""
    world, code = World(), bytes.fromhex("".join(pieces)) + b"\x90" * 15
    page = world.page(1)
    for is_dropped, at in steps:
        eip = 0x1000 + min(at, len(code) - 15)
        found = world.enter(eip, page.space)
        if found is None:
            made = world.block(eip, code[eip - 0x1000 :].hex())
            found = world.enter(eip, page.space)
            assert (found is not None, made.eip) == (True, eip)
        if is_dropped:
            assert found is not None
            world.cache.drop(found.block)
        for each in range(0x1000, 0x1000 + len(code)):
            entry = world.look_up(page.space, each)
            entries = {entrance.entry for entrance in page.entrances.values() if entrance.eip == each}
            for linear in entries if entry is None else entries | {entry}:
                block = world.cache.block_at(linear)
                assert block is not None
                assert (block.alive, block.mark_at(linear)) == (True, Mark(linear - block.address, each))
        for block in page.placed:
            addresses = sorted(entrance.address for entrance in block.entrances)
            assert all(later - earlier >= len(EXIT) for earlier, later in pairwise(addresses))
            assert block.alive or all(world.tombstone(block, address - block.address) for address in addresses)


# --- chaining ----------------------------------------------------------------------------------------------


def test_linking_lets_a_branch_go_straight_to_its_target(world: World) -> None:
    source, target = world.block(0x1000, "eb0e"), world.block(0x1010)
    site = source.translation.sites[0]
    world.cache.link(source, site, target.entrances[0])
    assert world.branch_target(source, site.patch) == target.address
    assert world.forgotten == [(source.address + site.patch, source.address + site.patch + 4)]


def test_publishing_links_branches_into_the_middle_of_blocks(world: World) -> None:
    target = world.block(0x1010, RDMSRS)
    source = world.block(0x1000, "eb10")
    assert world.branch_target(source, source.translation.sites[0].patch) == target.address + 2
    loop = world.block(0x1020, "0f320f32ebfc")
    assert world.branch_target(loop, loop.translation.sites[-1].patch) == loop.address + 2


# --- dropping ----------------------------------------------------------------------------------------------


def test_a_dropped_block_is_found_no_more(world: World) -> None:
    block = world.block(0x1000)
    block.space.table.remember(0x1000, block.entry)
    assert world.look_up(block.space, 0x1000) == block.entry
    world.cache.drop(block)
    assert not block.alive
    assert block.page.blocks == {}
    assert world.find(0x1000, block.space) is None
    assert world.look_up(block.space, 0x1000) is None


@pytest.mark.parametrize("context", [KERNEL32, USER, KERNEL16], ids=["kernel", "user", "16"])
def test_a_dropped_block_leaves_an_exit_for_those_who_branch_to_it(world: World, context: Context) -> None:
    block = world.block(0x1000, context=context)
    world.forgotten.clear()
    world.cache.drop(block)
    assert world.tombstone(block).target == 0x1000
    assert world.forgotten == [(block.address, block.address + len(EXIT))]


def test_a_dropped_block_leaves_an_exit_at_each_entrance_and_no_way_to_it(world: World) -> None:
    """One asked for, one to which a CALL returns; the branch table knew them all."""
    block = world.block(0x1000, "40e80001000040" + RDMSRS)
    space = block.space
    asked = world.enter(0x1009, space)
    assert asked is not None
    for entrance in block.entrances:
        space.table.remember(entrance.eip, entrance.entry)
    world.forgotten.clear()
    world.cache.drop(block)
    assert [entrance.eip for entrance in block.entrances] == [0x1000, 0x1006, 0x1009]
    for entrance in block.entrances:
        assert world.tombstone(block, entrance.address - block.address).target == entrance.eip
        assert (entrance.address, entrance.address + len(EXIT)) in world.forgotten
        assert (world.enter(entrance.eip, space), world.look_up(space, entrance.eip)) == (None, None)
    assert (block.page.entrances, block.page.starts, len(world.forgotten)) == ({}, [], 3)


def test_what_is_no_entrance_of_a_dropped_block_keeps_its_code(world: World) -> None:
    block = world.block(0x1000, "b801000000b802000000c3")
    world.cache.drop(block)
    assert world.code(block) == EXIT + block.translation.code[len(EXIT) :]


def test_dropping_twice_does_nothing(world: World) -> None:
    block = world.block(0x1000)
    world.cache.drop(block)
    world.forgotten.clear()
    world.cache.drop(block)
    assert world.forgotten == []


def test_dropping_an_old_block_keeps_the_new_one_of_the_same_eip(world: World) -> None:
    old = world.block(0x1000)
    new = world.block(0x1000)
    world.cache.drop(old)
    assert world.find(0x1000, new.space) is new


def test_blocks_whose_bytes_changed_are_told_from_the_others(world: World) -> None:
    first, second = world.block(0x1010, "9090c3"), world.block(0x1020, "40c3")
    data = bytearray(0x1000)
    data[0x10:0x13], data[0x20:0x22] = b"\x90\x90\xc3", b"\x40\xc3"
    assert first.page.changed(bytes(data)) == []
    data[0x21] = 0xCB
    assert first.page.changed(bytes(data)) == [second]
    data[0x11] = 0x91
    assert set(first.page.changed(bytes(data))) == {first, second}


def test_a_block_that_crosses_pages_is_compared_in_both(world: World) -> None:
    block = world.block(0x1FFE, "b801000000", frames=(1, 2))
    data = bytes(0xFFE) + b"\xb8\x01\0\0\0" + bytes(0xFFD)
    assert block.page.changed(data) == []
    assert block.page.changed(data[:0x1002] + b"\x01" + data[0x1003:]) == [block]


@pytest.mark.parametrize("context", [KERNEL32, KERNEL16], ids=["32", "16"])
def test_a_tombstone_can_point_to_the_new_block(world: World, context: Context) -> None:
    dead = world.block(0x1000, context=context)
    world.cache.drop(dead)
    target = world.block(0x1000, context=context)
    world.cache.redirect(dead, world.tombstone(dead), target.entrances[0])
    prefix = b"" if context.code32 else b"\x66"
    assert world.code(dead).startswith(prefix + b"\xe9")
    assert world.branch_target(dead, len(prefix) + 1) == target.address


def test_a_tombstone_too_small_for_a_jump_stays_an_exit(world: World) -> None:
    """HLT is two bytes of exit: a jump would run into the next block."""
    dead = world.block(0x1000, "f4")
    assert len(dead.translation.code) < 5
    world.cache.drop(dead)
    target = world.block(0x1000)
    world.cache.redirect(dead, world.tombstone(dead), target.entrances[0])
    assert world.code(dead) == EXIT
    assert world.code(target) == target.translation.code


def test_a_tombstone_never_leads_into_another_space(world: World) -> None:
    dead = world.block(0x1000)
    world.cache.drop(dead)
    elsewhere = world.block(0x1000, cs_base=0x10)
    world.cache.redirect(dead, world.tombstone(dead), elsewhere.entrances[0])
    assert world.code(dead).startswith(EXIT)


@pytest.mark.parametrize("context", [KERNEL32, KERNEL16], ids=["32", "16"])
@pytest.mark.parametrize("before", [0, 2], ids=["start", "inside"])
def test_a_tombstone_inside_a_block_can_point_to_the_new_block_by_itself(
    world: World, context: Context, before: int
) -> None:
    """To its start, or to the same instruction further on in it. The rest of the dropped block stays as it is."""
    dead = world.block(0x1000, "66e80001000090c3" if not context.code32 else "e80001000090c3", context)
    ((offset, back),) = dead.translation.returns
    world.cache.drop(dead)
    expected, site = world.code(dead), world.tombstone(dead, offset)
    world.block(back - before, "0f32" * 8, context)
    heir = world.enter(back, dead.space)
    assert heir is not None
    world.forgotten.clear()
    world.cache.redirect(dead, site, heir)
    opcode = b"\xe9" if context.code32 else b"\x66\xe9"
    end = offset + len(opcode) + 4
    assert world.code(dead)[offset:].startswith(opcode)
    assert world.branch_target(dead, end - 4) == heir.address
    assert world.code(dead)[:offset] + world.code(dead)[end:] == expected[:offset] + expected[end:]
    assert world.forgotten == [(dead.address + offset, dead.address + end)]


@pytest.mark.parametrize("apart", [2, 4, 6])
def test_a_tombstone_too_near_to_the_next_for_a_jump_stays_an_exit(world: World, apart: int) -> None:
    """A jump over another entrance would be torn by its tombstone, or tear it."""
    dead = world.block(0x1000, "0f32" * 6)
    assert world.enter(0x1000 + apart, dead.space) is not None
    world.cache.drop(dead)
    first, second = world.tombstone(dead), world.tombstone(dead, apart)
    heir = world.block(0x1000, "0f32" * 6)
    world.forgotten.clear()
    world.cache.redirect(dead, first, heir.entrances[0])
    jumps = apart > 5
    assert (world.code(dead)[0] == 0xE9, bool(world.forgotten)) == (jumps, jumps)
    assert world.code(dead)[apart : apart + len(EXIT)] == EXIT
    inside = world.enter(0x1000 + apart, heir.space)
    assert inside is not None
    world.cache.redirect(dead, second, inside)
    assert world.branch_target(dead, apart + 1) == inside.address
    assert jumps or world.code(dead)[: len(EXIT)] == EXIT


def test_a_tombstone_inside_at_the_end_of_its_block_stays_an_exit(world: World) -> None:
    dead = world.block(0x1000, "0f32f4")
    assert world.enter(0x1002, dead.space) is not None
    world.cache.drop(dead)
    target = world.block(0x1002)
    world.cache.redirect(dead, world.tombstone(dead, 2), target.entrances[0])
    assert world.code(dead) == EXIT + EXIT
    assert world.code(target) == target.translation.code


# --- code pages --------------------------------------------------------------------------------------------


def test_what_is_off_can_not_be_fetched_and_is_not_found(world: World) -> None:
    block = world.block(0x1000)
    assert (world.is_mapped(block), world.find(0x1000, block.space)) == (True, block)
    world.cache.switch_off(block.page)
    assert (world.is_mapped(block), world.find(0x1000, block.space)) == (False, None)
    world.cache.view.switch_on(block.page)
    assert (world.is_mapped(block), world.find(0x1000, block.space)) == (True, block)


def test_code_pages_never_share_a_page_of_the_cache(world: World) -> None:
    blocks = [world.block(0x1000, frames=(1,)), world.block(0x2000, frames=(2,)), world.block(0x1000, "40", KERNEL16)]
    assert len({block.address >> 12 for block in blocks}) == 3


def test_one_linear_page_has_a_code_page_for_each_frame(world: World) -> None:
    first = world.block(0x1000, "40c3", frames=(1,))
    world.cache.switch_off(first.page)
    second = world.block(0x1000, "48c3", frames=(2,))
    assert first.page is not second.page
    assert world.find(0x1000, second.space) is second
    world.cache.switch_off(second.page)
    assert world.page(1, frames=(1,)) is first.page
    assert world.find(0x1000, first.space) is first


def test_a_code_page_that_grows_while_it_is_on_is_mapped_in_full(world: World) -> None:
    blocks = [world.block(0x1000 + number, "c3") for number in range(60)]
    assert len(blocks[0].page.extents) > 1
    assert all(world.is_mapped(block) for block in blocks)
    assert [world.cache.block_at(block.address + 1) for block in blocks] == blocks
    world.cache.switch_off(blocks[0].page)
    assert not any(world.is_mapped(block) for block in blocks)


def test_each_view_has_pages_of_its_own_that_are_on(world: World) -> None:
    first, second = world.view, CodeView(world.map_other)
    block = world.block(0x1000)
    world.cache.view = second
    assert (world.cache.is_on(block.page), world.find(0x1000, block.space), world.other) == (False, None, set())
    other = world.block(0x1000, "40c3", frames=(2,))
    assert world.find(0x1000, block.space) is other
    second.switch_on(block.page)
    assert block.page.on_in == {first, second}
    world.cache.view = first
    assert world.find(0x1000, block.space) is block


def test_what_switches_a_page_off_does_so_in_all_views(world: World) -> None:
    """A write to its bytes, for one. A view that is forgotten is forgotten by itself."""
    first, second, third = world.view, CodeView(world.map_other), CodeView(lambda *_: None)
    block = world.block(0x1000)
    for view in (second, third):
        view.switch_on(block.page)
    third.forget()
    assert (block.page.on_in, third.on, third.on_at, third.pages) == ({first, second}, set(), {}, {})
    world.cache.switch_off(block.page)
    assert (block.page.on_in, world.mapped, world.other) == (set(), set(), set())
    assert (first.on_at, second.on_at, first.pages, second.pages) == ({}, {}, {}, {})


def test_a_code_page_that_grows_is_mapped_in_all_views_where_it_is_on(world: World) -> None:
    blocks = [world.block(0x1000, "c3")]
    second = CodeView(world.map_other)
    second.switch_on(blocks[0].page)
    blocks += [world.block(0x1001 + number, "c3") for number in range(60)]
    assert len(blocks[0].page.extents) > 1
    assert world.other == world.mapped


def test_a_crossing_block_is_found_while_its_own_code_page_is_on(world: World) -> None:
    world.page(1)
    block = world.block(0x1FFE, "b801000000", frames=(1, 2))
    assert world.find(0x1FFE, block.space) is block
    assert world.cache.view.on_at[2] == [block.page]
    world.cache.switch_off(block.page)
    assert world.find(0x1FFE, block.space) is None


def test_an_abandoned_page_keeps_its_tombstones_in_reach(world: World) -> None:
    block = world.block(0x1000)
    world.cache.abandon(block.page)
    assert (block.alive, world.is_mapped(block)) == (False, True)
    assert world.code(block).startswith(EXIT)
    assert world.page(1) is not block.page
    assert block.page not in world.cache.by_frame[1]


def test_publishing_links_branches_to_blocks_that_are_there(world: World) -> None:
    target = world.block(0x1010)
    source = world.block(0x1000, "eb0e")
    assert world.branch_target(source, source.translation.sites[0].patch) == target.address
    loop = world.block(0x1020, "ebfe")
    assert world.branch_target(loop, loop.translation.sites[0].patch) == loop.address
    assert world.forgotten == []


# --- versions ----------------------------------------------------------------------------------------------


def test_a_version_comes_back_for_its_own_bytes_alone(world: World) -> None:
    block = world.block(0x1000, "9090c3")
    block.page.add_version(block)
    assert block.page.find_version(0x1000, b"\x90\x91\xc3") is None
    assert block.page.find_version(0x1001, b"\x90\x90\xc3") is None
    assert block.page.find_version(0x1000, b"\x90\x90\xc3\x00") is block
    world.cache.drop(block)
    assert block.page.find_version(0x1000, b"\x90\x90\xc3") is None


def test_a_retired_block_that_checks_itself_is_found_by_its_eip_again(world: World) -> None:
    block = world.checked(0x1000)
    block.space.table.remember(0x1000, block.entry)
    start = world.enter(0x1000, block.space)
    world.cache.retire(block)
    assert (world.find(0x1000, block.space), world.look_up(block.space, 0x1000)) == (None, None)
    assert block.page.find_version(0x1000, b"\x90\xc3") is block
    assert world.enter(0x1000, block.space) is start


def test_the_oldest_of_too_many_versions_is_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "VERSIONS_MAX", 2)
    blocks = [world.block(0x1000, code) for code in ("40c3", "41c3", "42c3")]
    for block in blocks:
        block.page.add_version(block)
    found = [block.page.find_version(0x1000, block.translation.source) for block in blocks]
    assert found == [None, *blocks[1:]]


def test_clearing_forgets_everything(world: World) -> None:
    block = world.block(0x1000, "e80001000090")
    assert world.look_up(block.space, 0x1005) is not None
    world.cache.clear()
    world.view.forget()
    assert (block.alive, world.cache.is_on(block.page)) == (False, False)
    assert (world.cache.spaces, world.cache.sites, world.cache.by_frame, world.view.on_at) == ({}, {}, {}, {})
    assert world.cache.flushes == 1
    assert (block.entrances, block.page.entrances, block.page.starts) == ([], {}, [])
    again = world.block(0x2000)
    assert (again.address, again.space.table.root) == (KERNEL_BASE, block.space.table.root)
    assert world.look_up(again.space, 0x1005) is None


# --- what the MMU must be told -----------------------------------------------------------------------------


def test_a_block_placed_while_its_page_is_off_is_not_mapped(world: World) -> None:
    page = world.page(1)
    world.cache.switch_off(page)
    block = world.cache.place(page, world.translate(page, 0x1000, b"\x90\xc3"))
    world.cache.publish(block)
    assert (world.is_mapped(block), world.find(0x1000, block.space)) == (False, None)
    world.cache.view.switch_on(page)
    assert (world.is_mapped(block), world.find(0x1000, block.space)) == (True, block)


def test_publishing_does_not_link_to_what_is_off(world: World) -> None:
    target = world.block(0x2000, frames=(2,))
    world.cache.switch_off(target.page)
    source = world.block(0x1000, "e9fb0f0000")
    site = source.translation.sites[0]
    assert site.target == 0x2000
    assert world.branch_target(source, site.patch) == source.address + site.offset - len(EXIT)


def test_publishing_links_across_code_pages(world: World) -> None:
    target = world.block(0x3000, frames=(3,))
    source = world.block(0x1000, "e9fb1f0000")
    assert world.branch_target(source, source.translation.sites[0].patch) == target.address


def test_a_branch_to_a_crossing_block_is_linked_when_it_is_taken(world: World) -> None:
    target = world.block(0x1FFE, "b801000000", frames=(1, 2))
    source = world.block(0x1000, "e9f90f0000")
    site = source.translation.sites[0]
    assert world.branch_target(source, site.patch) == source.address + site.offset - len(EXIT)
    found = world.enter(site.target, source.space)
    assert found is not None
    world.cache.link(source, site, found)
    assert world.branch_target(source, site.patch) == target.address


def test_publishing_never_links_to_another_space() -> None:
    world = World()
    world.block(0x1010, context=USER)
    world.block(0x1010, cs_base=0x10)
    source = world.block(0x1000, "eb0e")
    site = source.translation.sites[0]
    assert world.branch_target(source, site.patch) == source.address + site.offset - len(EXIT)


def test_a_block_of_more_than_a_page_takes_several_and_all_are_mapped(world: World) -> None:
    """POPFD is long."""
    page = world.page(1)
    made = world.translate(page, 0x1000, b"\x9d" * 200, Options(limit=200))
    assert len(made.code) > 1 << 12
    block = world.cache.place(page, made)
    pages = range(block.address - KERNEL_BASE >> 12, (block.end - 1 - KERNEL_BASE >> 12) + 1)
    assert len(pages) > 1
    assert all((False, number) in world.mapped for number in pages)
    assert [world.cache.block_at(KERNEL_BASE + (number << 12)) for number in pages[1:]] == [block] * (len(pages) - 1)
    world.cache.switch_off(page)
    assert world.mapped == set()


def test_extents_that_touch_become_one_run_of_code(world: World) -> None:
    """With nobody between them the next block follows at once; behind another page's it begins anew."""
    first = [world.block(0x1000 + number, "c3") for number in range(40)]
    assert {later.address - earlier.address for earlier, later in pairwise(first)} == {
        first[1].address - first[0].address
    }
    stranger = world.block(0x2000, frames=(2,))
    while (block := world.block(0x1000 + len(first), "c3")).address < stranger.address:
        first.append(block)
    assert block.address % 0x1000 == 0
    assert world.cache.block_at(block.address) is block


def test_switching_off_twice_does_nothing(world: World) -> None:
    page = world.page(1)
    world.view.switch_off(page)
    world.view.switch_off(page)
    assert (world.cache.view.on_at, world.cache.is_on(page)) == ({}, False)


def test_all_code_of_a_linear_page_is_known_whatever_its_space() -> None:
    """What INVLPG switches off: kernel, user, other bases, and what crosses into the page."""
    world = World()
    world.page(1)
    crossing = world.block(0xFFE, "b801000000", frames=(1, 2)).page
    pages = {world.page(1), world.page(1, USER), world.page(1, cs_base=0x10), crossing}
    assert set(world.cache.view.on_at[1]) == pages
    world.cache.view.switch_off_at(1)
    assert not any(world.cache.is_on(page) for page in pages)
    assert world.cache.view.on_at == {}


def test_a_frame_knows_the_code_pages_of_all_its_addresses(world: World) -> None:
    alone, alias = world.page(1, frames=(7,)), world.page(5, frames=(7,))
    into, outof = world.page(0, frames=(6, 7)), world.page(1, frames=(7, 8))
    assert world.cache.by_frame[7] == [alone, alias, into, outof]
    assert world.cache.by_frame[8] == [outof]


def test_a_code_page_of_one_frame_twice_can_be_abandoned(world: World) -> None:
    page = world.page(1, frames=(7, 7))
    assert world.cache.view.on_at == {1: [page], 2: [page]}
    world.cache.abandon(page)
    assert (world.cache.by_frame[7], world.cache.view.on_at) == ([], {})


def test_blocks_that_check_themselves_have_a_page_of_their_own_that_is_trusted(world: World) -> None:
    space = world.cache.space(0, KERNEL32)
    watched, checked = (world.cache.page(space, 1, (1,), self_check) for self_check in (False, True))
    assert watched is not checked
    assert (watched.is_trusted, checked.is_trusted) == (False, True)


def test_steps_are_of_no_page_and_stay_on_whatever_changes_its_translation(world: World) -> None:
    space = world.cache.space(0, KERNEL32)
    world.view.switch_on(space.steps)
    for number in range(3):
        world.view.switch_off_at(number)
    block = world.cache.place(space.steps, world.translate(space.steps, 0x1000, options=Options(1, True)))
    assert world.is_mapped(block)
    assert (world.find(0x1000, space), world.cache.by_frame, world.cache.view.on_at) == (None, {}, {})


def test_dropping_a_crossing_block_leaves_its_page_on(world: World) -> None:
    block = world.block(0x1FFE, "b801000000", frames=(1, 2))
    world.cache.drop(block)
    assert (world.find(0x1FFE, block.space), world.cache.is_on(block.page), world.is_mapped(block)) == (
        None,
        True,
        True,
    )


def test_a_self_checking_page_that_is_retired_keeps_the_crossing_block_of_another(world: World) -> None:
    old = world.block(0x1FFE, "b801000000", frames=(1, 2))
    new = world.block(0x1FFE, "b802000000", frames=(1, 3))
    world.cache.retire(old)
    assert world.find(0x1FFE, new.space) is new


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["on", "other", "off", "off there", "forget", "block", "drop", "abandon"]),
        st.integers(0, 3),
        st.sampled_from([(1,), (2,), (1, 2), (2, 2)]),
        st.sampled_from([KERNEL32, USER]),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_what_is_mapped_and_found_is_what_is_on(steps: list[tuple[str, int, tuple[int, ...], Context]]) -> None:
    """Pages as the engine would have them: of the mappings of one linear page at most one is on."""
    world = World(arena_size=1 << 19)
    other = CodeView(world.map_other)
    pages: set[CodePage] = set()
    blocks: dict[CodePage, list[Block]] = {}
    for what, number, frames, context in steps:
        page = world.cache.page(world.cache.space(0, context), number, frames, False)
        pages.add(page)
        _do(world, other, what, page, blocks)
        for each in pages:
            placed = blocks.get(each, [])
            abandoned = each not in world.cache.by_frame[each.frames[0]]
            reachable = [world.is_mapped(block) for block in placed]
            assert abandoned or reachable == [world.cache.is_on(each)] * len(placed)
            for view in (world.view, other):
                is_on = view in each.on_in
                found = [view.find(each.space, block.eip) for block in placed if block.alive]
                assert all((entrance is not None and entrance.block.page is each) == is_on for entrance in found)
                assert (each in view.on_at.get(each.number, ())) == is_on == (each in view.on)


def _do(world: World, other: CodeView, what: str, page: CodePage, blocks: dict[CodePage, list[Block]]) -> None:
    """One step."""
    cache = world.cache
    if what in ("on", "other", "block"):
        _turn_on(other if what == "other" else world.view, page)
    match what:
        case "block" if not page.blocks:
            blocks.setdefault(page, []).append(_place_one(world, page))
        case "off":
            cache.switch_off(page)
        case "off there":
            world.view.switch_off_at(page.number)
        case "forget":
            other.forget()
            world.other.clear()
        case "drop":
            for block in list(page.blocks.values()):
                cache.drop(block)
        case "abandon":
            cache.abandon(page)


def _turn_on(view: CodeView, page: CodePage) -> None:
    """As `code.py` does: only what is off, and only where nothing else shows."""
    for on in tuple(view.on_at.get(page.number, ())):
        if on.space is page.space and on is not page and len(on.frames) == len(page.frames):
            view.switch_off(on)
    if page not in view.on:
        view.switch_on(page)


def _place_one(world: World, page: CodePage) -> Block:
    eip = (page.number << 12) + (0xFFE if len(page.frames) > 1 else 0x10)
    block = world.cache.place(page, world.translate(page, eip, b"\xb8\1\0\0\0", Options(1)))
    world.cache.publish(block)
    return block
