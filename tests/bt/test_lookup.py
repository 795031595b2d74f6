"""Branch tables: what cached code finds when it walks one, against a dict."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt.lookup import GAP, BranchTable, CacheFull, LookupArea
from vmm.arch.layout import MASK32

BASE = 0xF640_0000
WORD = 4
LEAF = 1 << 8
SIZES = {False: 2 * LEAF, True: 2 * LEAF + (1 << 16) + GAP}
"""Words of an empty table: one leaf and one middle table for all that has no entry, the root of 32-bit code, a gap."""
TLB_MIN = 64
CS_BASES = [0, 0x5670, 0xF_FFF0, 0xFFF0_0000]
ENTRY = 0xF400_0000


class Walker:
    """An area of so many words behind `nowhere`, and the eyes of cached code. Before its use it holds garbage."""

    def __init__(self, words: int, base: int = BASE) -> None:
        self.bytes = memoryview(bytearray(b"\xa5" * WORD * (1 + words)))
        self.area = LookupArea(self.bytes, base)

    def table(self, code32: bool = True, cs_base: int = 0) -> "WalkedTable":
        """A table in the area. Raises: CacheFull."""
        return WalkedTable(self, BranchTable(self.area, cs_base, code32), code32, cs_base)

    def word(self, linear: int) -> int:
        """The word that cached code reads at a linear address."""
        at = linear - self.area.base
        assert 0 < at < len(self.bytes), f"{linear:#x} is not in the area, or is nowhere"
        return int.from_bytes(self.bytes[at : at + WORD], "little")


class WalkedTable:
    """A table with the walk of `bt.branches`: the high half (32-bit code only), the middle byte, the low byte."""

    def __init__(self, walker: Walker, table: BranchTable, code32: bool, cs_base: int) -> None:
        self.walker, self.table, self.code32, self.cs_base = walker, table, code32, cs_base

    def look_up(self, eip: int) -> int | None:
        """The CS-relative address for a target, None if it leads nowhere. Pointers are CS-relative too."""
        digits = [eip >> 8 & 0xFF, eip & 0xFF]
        if self.code32:
            digits.insert(0, eip >> 16)
        at = self.table.root
        for digit in digits:
            at = self.walker.word(at + WORD * digit & MASK32) + self.cs_base & MASK32
        return None if at == self.walker.area.nowhere else at - self.cs_base & MASK32


def walker(leaves: int = 0, code32: bool = True) -> Walker:
    """Room for one empty table and so many leaves or middle tables."""
    return Walker(SIZES[code32] + leaves * LEAF)


EDGES = [
    0,
    1,
    0xFF,
    0x100,
    0xFFFF,
    0x1_0000,
    0x1_0001,
    0xFF_FFFF,
    0x100_0000,
    0x8000_0100,
    0xFFFF_0000,
    MASK32 - 1,
    MASK32,
]
ALIKE = [int.from_bytes(each, "little") for each in product((0, 1, 0xFF), repeat=4)]
"""Targets that differ in any of their bytes and in no other."""
EIPS = st.one_of(st.sampled_from(ALIKE), st.integers(0, MASK32), st.integers(0x1200, 0x1408))
MODES = pytest.mark.parametrize("code32", [True, False], ids=["32", "16"])


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["remember", "forget"]), EIPS, st.integers(1, 0xFFFF)), max_size=30),
    code32=st.booleans(),
    cs_base=st.sampled_from(CS_BASES),
)
def test_a_table_is_a_dict(steps: list[tuple[str, int, int]], code32: bool, cs_base: int) -> None:
    """Of all targets that cached code of its size can have; no answer but the last one that it was told."""
    table = walker(2 * len(steps), code32).table(code32, cs_base)
    told: dict[int, int] = {}
    limit = MASK32 if code32 else 0xFFFF
    for what, eip, entry in steps:
        if what == "remember":
            table.table.remember(eip, entry)
            told[eip] = entry
        else:
            table.table.forget(eip)
            told.pop(eip, None)
        for _, each, _ in steps:
            for near in (each, each ^ 1, each ^ 0x100, each ^ 0x1_0000, each ^ 0x100_0000):
                if near <= limit:
                    assert table.look_up(near) == told.get(near)


@pytest.mark.parametrize("order", [1, -1], ids=["up", "down"])
def test_targets_that_differ_in_one_byte_have_entries_of_their_own(order: int) -> None:
    table, eips = walker(27 + 9).table(), ALIKE[::order]
    for number, eip in enumerate(eips):
        table.table.remember(eip, ENTRY + number)
    assert [table.look_up(eip) for eip in eips] == [ENTRY + number for number in range(len(eips))]
    for eip in eips[::2]:
        table.table.forget(eip)
    left = [None if number % 2 == 0 else ENTRY + number for number in range(len(eips))]
    assert [table.look_up(eip) for eip in eips] == left


@MODES
@pytest.mark.parametrize("cs_base", CS_BASES)
def test_an_empty_table_leads_nowhere(code32: bool, cs_base: int) -> None:
    table = walker(0, code32).table(code32, cs_base)
    for eip in EDGES if code32 else range(0x1_0000):
        assert table.look_up(eip) is None


def test_nowhere_is_where_the_area_is_now() -> None:
    """The hole moves, and the area with it: tables made afterwards point to its new place."""
    moved = walker(2)
    moved.area.base = 0x7640_0000
    table = moved.table()
    table.table.remember(0x1234, ENTRY)
    assert (moved.area.nowhere, table.look_up(0x1234), table.look_up(0x1235)) == (0x7640_0000, ENTRY, None)


@pytest.mark.parametrize("cs_base", CS_BASES)
def test_pointers_count_from_the_cs_base(cs_base: int) -> None:
    """Cached code adds it to each of them; the root is linear, for the translator."""
    seen = walker(2)
    table = seen.table(cs_base=cs_base)
    table.table.remember(0x1_0203, ENTRY)
    middle = seen.word(table.table.root + WORD * 1)
    leaf = seen.word((middle + cs_base & MASK32) + WORD * 2)
    assert seen.word((leaf + cs_base & MASK32) + WORD * 3) == ENTRY
    assert seen.word((leaf + cs_base & MASK32) + WORD * 4) == BASE - cs_base & MASK32


@MODES
def test_a_leaf_does_not_disturb_its_neighbours(code32: bool) -> None:
    """The page of 256 targets before it, and that behind it, are as they were, with entries and without."""
    table = walker(4, code32).table(code32)
    table.table.remember(0x11FF, ENTRY)
    table.table.remember(0x1200, ENTRY + 1)
    assert [table.look_up(eip) for eip in (0x10FF, 0x1100, 0x11FE, 0x1201, 0x12FF, 0x1300)] == [None] * 6
    table.table.remember(0x12FF, ENTRY + 2)
    table.table.forget(0x1200)
    assert [table.look_up(eip) for eip in (0x11FF, 0x1200, 0x12FF)] == [ENTRY, None, ENTRY + 2]


def test_a_middle_table_does_not_disturb_its_neighbours() -> None:
    table = walker(4).table()
    table.table.remember(0x2_FFFF, ENTRY)
    table.table.remember(0x3_0000, ENTRY + 1)
    assert [table.look_up(eip) for eip in (0x1_FFFF, 0x2_FFFE, 0x2_0000, 0x3_0001, 0x3_FFFF, 0x4_0000)] == [None] * 6
    assert [table.look_up(eip) for eip in (0x2_FFFF, 0x3_0000)] == [ENTRY, ENTRY + 1]


@pytest.mark.parametrize("eip", [0x1_0000, 0x1_1234, 0xFFFF_1234, MASK32])
def test_16_bit_code_has_no_place_for_a_target_above_ffff(eip: int) -> None:
    """And none is taken: the area is full."""
    table = walker(0, code32=False).table(code32=False)
    table.table.remember(eip, ENTRY)
    table.table.forget(eip)
    assert table.look_up(eip & 0xFFFF) is None


@MODES
def test_what_was_never_told_may_be_forgotten(code32: bool) -> None:
    table = walker(2, code32).table(code32)
    table.table.forget(0x1234)
    table.table.remember(0x1234, ENTRY)
    table.table.forget(0x1235)
    assert table.look_up(0x1234) == ENTRY


def test_tables_of_one_area_know_nothing_of_each_other() -> None:
    shared = Walker(2 * SIZES[True] + SIZES[False] + 6 * LEAF)
    tables = [shared.table(), shared.table(cs_base=0x10), shared.table(code32=False, cs_base=0x5670)]
    for number, table in enumerate(tables):
        table.table.remember(0x1234, ENTRY + number)
    assert [table.look_up(0x1234) for table in tables] == [ENTRY, ENTRY + 1, ENTRY + 2]
    tables[1].table.forget(0x1234)
    assert [table.look_up(0x1234) for table in tables] == [ENTRY, None, ENTRY + 2]


# --- room --------------------------------------------------------------------------------------------------


@MODES
def test_a_table_needs_room_for_all_of_its_words(code32: bool) -> None:
    Walker(SIZES[code32]).table(code32)
    with pytest.raises(CacheFull):
        Walker(SIZES[code32] - 1).table(code32)


def test_entries_of_one_leaf_take_no_more_room_than_one() -> None:
    table = walker(2).table()
    for eip in range(0x1200, 0x1300):
        table.table.remember(eip, ENTRY + eip)
    assert [table.look_up(eip) for eip in range(0x1200, 0x1300)] == [ENTRY + eip for eip in range(0x1200, 0x1300)]
    with pytest.raises(CacheFull):
        table.table.remember(0x1300, ENTRY)


@pytest.mark.parametrize(("code32", "leaves", "eip"), [(True, 1, 0), (True, 0, 0), (False, 0, 0xFFFF)])
def test_an_entry_without_room_leaves_the_table_as_it_was(code32: bool, leaves: int, eip: int) -> None:
    """With room for the leaf but not for the middle table, too."""
    table = walker(leaves, code32).table(code32)
    for _ in range(2):
        with pytest.raises(CacheFull):
            table.table.remember(eip, ENTRY)
        assert table.look_up(eip) is None


@MODES
def test_a_cleared_area_has_all_its_room_again_and_nothing_of_what_it_held(code32: bool) -> None:
    used = walker(2, code32)
    for number in range(3):
        table = used.table(code32, cs_base=0x10 * number)
        assert [table.look_up(eip) for eip in (0x1234, 0x1235, 0x4321)] == [None] * 3
        table.table.remember(0x1234, ENTRY + number)
        assert (table.look_up(0x1234), table.look_up(0x1235)) == (ENTRY + number, None)
        used.area.clear()


def test_a_table_never_touches_the_word_that_is_nowhere() -> None:
    seen = walker(2)
    table = seen.table()
    table.table.remember(0x1234, ENTRY)
    assert bytes(seen.bytes[:WORD]) == b"\xa5" * WORD
    assert seen.area.nowhere == BASE


def test_a_walk_reads_three_pages_that_the_smallest_tlb_holds_at_once() -> None:
    """With the middle table right behind a root of 64 pages, RET in ring 0 took 57 ns instead of 24."""
    for eip in (0x10_0000, 0x804_8000, 0xB770_0000, 0xC100_0000):
        walked = walker(2).table()
        walked.table.remember(eip, ENTRY)
        pages, at = set(), walked.table.root
        for digit in (eip >> 16, eip >> 8 & 0xFF):
            pages.add((at + WORD * digit) >> 12)
            at = walked.walker.word(at + WORD * digit)
        pages.add((at + WORD * (eip & 0xFF)) >> 12)
        assert len({page % TLB_MIN for page in pages}) == len(pages)
