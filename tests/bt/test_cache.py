"""The cache: placing, finding, chaining, dropping; and what cached code reads from the branch tables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt import cache as cache_module
from bt.branches import LOOKUP_BITS, NO_LEARNING
from bt.cache import Arena, Block, BlockSpace, CacheFull, CodeCache
from bt.emit import CALLOUT_VECTOR, SiteKind
from bt.guest import Context, Mode, Window
from bt.translate import BlockTranslator, Options
from vmm.arch.layout import MASK32

KERNEL32 = Context(Mode.PROTECTED, 0, True, True)
KERNEL16 = Context(Mode.REAL, 0, False, False)
USER = Context(Mode.PROTECTED, 3, True, True)
KERNEL_BASE, USER_BASE, LOOKUP_BASE = 0xF400_0000, 0xF580_0000, 0xF640_0000
TABLE_32, TABLE_16 = 8 << 16, 8 << 8
EXIT = bytes([0xCD, CALLOUT_VECTOR])
TRANSLATOR = BlockTranslator()


class World:
    """A cache over plain memory; `forgotten` are the ranges that the CPU was told to forget."""

    def __init__(self, arena_size: int = 4096, lookup_size: int = 2 * TABLE_32) -> None:
        self.forgotten: list[tuple[int, int]] = []
        self.kernel, self.user = memoryview(bytearray(arena_size)), memoryview(bytearray(arena_size))
        self.lookup = memoryview(bytearray(lookup_size))
        self.cache = CodeCache(
            Arena(self.kernel, KERNEL_BASE), Arena(self.user, USER_BASE), self.lookup, LOOKUP_BASE,
            lambda start, end: self.forgotten.append((start, end)),
        )  # fmt: skip

    def block(
        self, eip: int, code: str = "90", context: Context = KERNEL32, cs_base: int = 0, pages: tuple[int, ...] = (1,)
    ) -> Block:
        """Translate, place and publish a block."""
        space = self.cache.space(cs_base, context)
        window = Window(0x7500_0000, 0x7500_0000, space.lookup, cs_base)
        made = TRANSLATOR.translate(bytes.fromhex(code), eip, context, window, Options())
        block = self.cache.place(space, made, pages, False)
        self.cache.publish(block)
        return block

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


@pytest.mark.parametrize(("cs_base", "entry"), [(0xF_0000, KERNEL_BASE - 0xF_0000), (0xFFFF_0000, 0xF401_0000)])
def test_the_entry_is_relative_to_cs_base(world: World, cs_base: int, entry: int) -> None:
    assert world.block(0x10, context=KERNEL16, cs_base=cs_base).entry == entry


def test_an_address_leads_to_its_block_dead_or_alive(world: World) -> None:
    blocks = [world.block(eip) for eip in (0x1000, 0x2000, 0x3000)]
    world.cache.drop(blocks[1])
    for block in blocks:
        assert world.cache.block_at(block.address) is block
        assert world.cache.block_at(block.end - 1) is block
        assert world.cache.contains(block.address)
    assert world.cache.block_at(KERNEL_BASE + world.cache.kernel.used) is None
    assert world.cache.block_at(KERNEL_BASE - 1) is None
    assert not world.cache.contains(USER_BASE)


def test_every_site_is_found_by_the_address_that_an_exit_shows(world: World) -> None:
    block = world.block(0x1000, "0fa2fbc3")
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
    small = World(lookup_size=8 * TABLE_16)
    contexts = [
        (0, KERNEL16), (0x10, KERNEL16), (0, Context(Mode.V86, 3, False, False)),
        (0, Context(Mode.REAL, 0, False, True)), (0, Context(Mode.V86, 3, False, False, iopl3=True)),
    ]  # fmt: skip
    spaces = [small.cache.space(*key) for key in contexts]
    assert len({space.lookup for space in spaces}) == len(contexts)
    assert [small.cache.space(*key) for key in contexts] == spaces


def test_a_full_arena_is_told() -> None:
    size = len(World().block(0).translation.code)
    small = World(arena_size=2 * size + 4)
    first, second = small.block(0), small.block(1)
    with pytest.raises(CacheFull):
        small.block(2)
    assert (small.code(first), small.code(second)) == (first.translation.code, second.translation.code)


def test_too_many_blocks_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "BLOCKS_MAX", 3)
    for eip in range(3):
        world.block(eip)
    world.block(0, context=USER)
    with pytest.raises(CacheFull):
        world.block(3)


def test_a_full_lookup_area_is_told(world: World) -> None:
    world.cache.space(0, KERNEL32)
    world.cache.space(1, KERNEL32)
    with pytest.raises(CacheFull):
        world.cache.space(2, KERNEL16)


# --- branch tables -----------------------------------------------------------------------------------------


def look_up(space: BlockSpace, eip: int) -> int | None:
    """What the inline lookup does: the entry, if the negated tag and the EIP add up to 0."""
    index = (eip & (1 << LOOKUP_BITS[space.context.code32]) - 1) * 2
    return space.table[index + 1] if space.table[index] + eip & MASK32 == 0 else None


EIPS = st.one_of(st.integers(0, MASK32), st.sampled_from([0, 1, 0xFF, 0x100, 0xFFFF, 0x1_0000, 0xFFFF_0000, MASK32]))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["remember", "forget", "ask"]), EIPS), max_size=40),
    context=st.sampled_from([KERNEL32, KERNEL16]),
)
def test_a_branch_table_never_answers_for_an_eip_that_it_was_not_told(
    steps: list[tuple[str, int]], context: Context
) -> None:
    space = World().cache.space(0, context)
    known: dict[int, int] = {}
    for number, (step, eip) in enumerate(steps):
        if step == "remember":
            space.remember(eip, number)
            known[eip] = number
        elif step == "forget":
            space.forget(eip)
            known.pop(eip, None)
        found = look_up(space, eip)
        assert found is None or found == known.get(eip)
        if step == "remember":
            assert found == number


@pytest.mark.parametrize("context", [KERNEL32, KERNEL16], ids=["32", "16"])
def test_an_empty_branch_table_answers_for_no_index(world: World, context: Context) -> None:
    space = world.cache.space(0, context)
    for index in range(1 << LOOKUP_BITS[context.code32]):
        assert look_up(space, index) is None
    assert look_up(space, 0xFFFF_0000) is None


@pytest.mark.parametrize("eip", [0, 1, 0x10, 0xFFFF_0000])
def test_a_forgotten_eip_is_forgotten(world: World, eip: int) -> None:
    space = world.cache.space(0, KERNEL32)
    space.remember(eip, 0x55)
    assert look_up(space, eip) == 0x55
    space.forget(eip)
    assert look_up(space, eip) is None
    assert look_up(space, 0) is None


def test_forgetting_leaves_another_eip_in_the_same_place(world: World) -> None:
    space = world.cache.space(0, KERNEL32)
    space.remember(0x1_0010, 0x55)
    space.forget(0x10)
    assert look_up(space, 0x1_0010) == 0x55


def test_the_empty_table_is_shared_and_empty(world: World) -> None:
    first = world.cache.empty_table(KERNEL16)
    assert world.cache.empty_table(KERNEL16) == first
    assert world.cache.space(0, KERNEL16).lookup != first


# --- chaining ----------------------------------------------------------------------------------------------


def test_linking_lets_a_branch_go_straight_to_its_target(world: World) -> None:
    source, target = world.block(0x1000, "eb0e"), world.block(0x1010)
    site = source.translation.sites[0]
    world.cache.link(source, site, target)
    assert world.branch_target(source, site.patch) == target.address
    assert world.forgotten == [(source.address + site.patch, source.address + site.patch + 4)]


@pytest.mark.parametrize("context", [KERNEL32, USER, KERNEL16], ids=["kernel", "user", "16"])
def test_predictions_are_steps_from_one_target_to_the_next_and_back(world: World, context: Context) -> None:
    source = world.block(0x1000, "c3", context)
    site = next(site for site in source.translation.sites if site.kind is SiteKind.INDIRECT)
    links = site.links
    for number, eip in enumerate((0x1234, 0x8_0000, 0x10)):
        target = world.block(eip, context=context)
        world.cache.predict(source, site, target)
        assert world.branch_target(source, links[number]) == target.address
        code = world.code(source)
        steps = [int.from_bytes(code[at : at + 4], "little") for at in site.steps]
        assert sum(steps) & MASK32 == 0
        assert [-sum(steps[: way + 1]) & MASK32 for way in range(number + 1)] == site.targets
    learning_exit = site.offset - len(NO_LEARNING)
    assert world.code(source)[learning_exit : site.offset] == NO_LEARNING
    assert site.links == ()


# --- dropping ----------------------------------------------------------------------------------------------


def test_a_dropped_block_is_found_no_more(world: World) -> None:
    block = world.block(0x1000)
    block.space.remember(0x1000, block.entry)
    world.cache.drop(block)
    assert not block.alive
    assert block.space.blocks == {}
    assert look_up(block.space, 0x1000) is None
    assert world.cache.by_page.get(1, set()) == set()


@pytest.mark.parametrize("context", [KERNEL32, USER, KERNEL16], ids=["kernel", "user", "16"])
def test_a_dropped_block_leaves_an_exit_for_those_who_branch_to_it(world: World, context: Context) -> None:
    block = world.block(0x1000, context=context)
    world.forgotten.clear()
    world.cache.drop(block)
    assert world.code(block).startswith(EXIT)
    site, owner = world.cache.sites[block.address + len(EXIT)]
    assert (site.kind, site.target, owner) == (SiteKind.LINK, 0x1000, block)
    assert world.forgotten == [(block.address, block.address + len(EXIT))]


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
    assert new.space.blocks[0x1000] is new


def test_a_page_takes_all_its_blocks_with_it_and_no_others(world: World) -> None:
    first, both, other = world.block(0x1000), world.block(0x1FFE, pages=(1, 2)), world.block(0x2000, pages=(2,))
    assert world.cache.drop_page(1) == 2
    assert (first.alive, both.alive, other.alive) == (False, False, True)
    assert world.cache.drop_page(1) == 0
    assert world.cache.drop_page(2) == 1


def test_a_published_block_is_dropped_with_its_page_again(world: World) -> None:
    block = world.block(0x1000)
    world.cache.drop(block)
    fresh = world.block(0x1000)
    assert world.cache.drop_page(1) == 1
    assert not fresh.alive


@pytest.mark.parametrize("context", [KERNEL32, KERNEL16], ids=["32", "16"])
def test_a_tombstone_can_point_to_the_new_block(world: World, context: Context) -> None:
    dead = world.block(0x1000, context=context)
    world.cache.drop(dead)
    target = world.block(0x1000, context=context)
    site, _ = world.cache.sites[dead.address + len(EXIT)]
    world.cache.redirect(dead, site, target)
    prefix = b"" if context.code32 else b"\x66"
    assert world.code(dead).startswith(prefix + b"\xe9")
    assert world.branch_target(dead, len(prefix) + 1) == target.address


def test_a_tombstone_too_small_for_a_jump_stays_an_exit(world: World) -> None:
    """HLT is two bytes of exit: a jump would run into the next block."""
    dead = world.block(0x1000, "f4")
    assert len(dead.translation.code) < 5
    world.cache.drop(dead)
    target = world.block(0x1000)
    site, _ = world.cache.sites[dead.address + len(EXIT)]
    world.cache.redirect(dead, site, target)
    assert world.code(dead) == EXIT
    assert world.code(target) == target.translation.code


def test_a_tombstone_never_leads_into_another_space(world: World) -> None:
    dead = world.block(0x1000)
    world.cache.drop(dead)
    elsewhere = world.block(0x1000, cs_base=0x10)
    site, _ = world.cache.sites[dead.address + len(EXIT)]
    world.cache.redirect(dead, site, elsewhere)
    assert world.code(dead).startswith(EXIT)


# --- versions ----------------------------------------------------------------------------------------------


def test_a_version_comes_back_for_its_own_bytes_alone(world: World) -> None:
    block = world.block(0x1000)
    space = block.space
    space.add_version(block, b"\x90\x90", step=False)
    assert space.find_version(0x1000, b"\x90\x91\x90", step=False) is None
    assert space.find_version(0x1000, b"\x90\x90\x91", step=True) is None
    assert space.find_version(0x1001, b"\x90\x90\x91", step=False) is None
    assert space.find_version(0x1000, b"\x90\x90\x91", step=False) is block


def test_a_retired_block_is_found_again_as_a_version(world: World) -> None:
    block = world.block(0x1000)
    block.space.add_version(block, b"\x90", step=False)
    block.space.remember(0x1000, block.entry)
    world.cache.retire(block)
    assert block.space.blocks == {}
    assert look_up(block.space, 0x1000) is None
    assert block.space.find_version(0x1000, b"\x90", step=False) is block
    assert block.space.blocks == {0x1000: block}


def test_a_dead_version_stays_dead(world: World) -> None:
    block = world.block(0x1000)
    block.space.add_version(block, b"\x90", step=False)
    world.cache.drop(block)
    assert block.space.find_version(0x1000, b"\x90", step=False) is None


def test_a_step_is_not_published(world: World) -> None:
    block = world.block(0x1000)
    world.cache.retire(block)
    block.space.add_version(block, b"\x90", step=True)
    assert block.space.find_version(0x1000, b"\x90", step=True) is block
    assert block.space.blocks == {}


def test_versions_are_bounded_and_the_oldest_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "VERSIONS_MAX", 3)
    block = world.block(0x1000)
    for number in range(5):
        block.space.add_version(block, bytes([number]), step=False)
    found = [block.space.find_version(0x1000, bytes([number]), step=False) is block for number in range(5)]
    assert found == [False, False, True, True, True]


# --- clearing ----------------------------------------------------------------------------------------------


def test_clearing_forgets_everything(world: World) -> None:
    blocks = [world.block(0x1000), world.block(0x2000, context=USER)]
    blocks[0].space.remember(0x1000, blocks[0].entry)
    world.cache.clear()
    assert [block.alive for block in blocks] == [False, False]
    assert (world.cache.spaces, world.cache.sites, world.cache.by_page) == ({}, {}, {})
    assert not world.cache.contains(KERNEL_BASE)
    assert world.cache.block_at(KERNEL_BASE) is None
    assert world.cache.flushes == 1
    assert look_up(world.cache.space(0, KERNEL32), 0x1000) is None
    again = world.block(0x3000)
    assert again.address == KERNEL_BASE
    assert world.cache.block_at(KERNEL_BASE) is again


def test_clearing_frees_the_lookup_area(world: World) -> None:
    for _ in range(10):
        world.cache.space(0, KERNEL32)
        world.cache.space(1, KERNEL32)
        world.cache.clear()
    assert world.cache.space(0, KERNEL32).lookup == LOOKUP_BASE
