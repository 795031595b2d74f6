"""Which checks a translation has: by the classes of the segments, and for what an instruction does."""

from dataclasses import replace

import pytest

from bt.emit import SiteKind, Translation
from bt.guest import Context, Mode, Window
from bt.segment_checks import guard_image
from bt.segment_classes import ALL_FLAT, SegmentClass, classify, classify_all
from bt.translate import BlockTranslator
from vmm.arch.layout import MASK32
from vmm.arch.registers import Seg

WINDOW = Window(0x1000, 0x2000, 0x3000, 0x4000, 0, 0x5000, 0x6000, 0x70_0000)
TRANSLATOR = BlockTranslator()
FLAT, NULLABLE, WRAPPED, SHORT, LONG, CONSTANT, CONSTANT_WRAPPED, CONSTANT_SHORT, CONSTANT_LONG, ODD, ABSENT = (
    SegmentClass
)
CODE, DATA = 0x9A00, 0x9200
CODE16, CODE32 = (Context(Mode.PROTECTED, 3, wide, wide) for wide in (False, True))


def translated(raw: str, context: Context) -> Translation:
    return TRANSLATOR.translate(bytes.fromhex(raw) + b"\x90" * 20, 0, context, WINDOW)


def checks(raw: str, context: Context) -> tuple[int, int]:
    """Guards and CHECK exits of the first instruction."""
    made = translated(raw, context)
    guards = sum(any(reg == 9 for reg, _ in restore) for _, _, restore in made.positions)
    return guards, sum(site.kind is SiteKind.CHECK for site in made.sites)


def all_of(kind: SegmentClass, context: Context) -> Context:
    return replace(context, segments=(kind,) * 6)


@pytest.mark.parametrize(
    ("limit", "flags", "real", "expected"),
    [
        (MASK32, DATA, False, FLAT), (MASK32, DATA & ~0x200, False, CONSTANT), (MASK32, CODE, False, CONSTANT),
        (MASK32, 0x9800, False, ODD), (0xFFFF, DATA, False, WRAPPED), (0xFFFE, DATA, False, SHORT), (0, DATA, False, SHORT),
        (0x1_0000, DATA, False, LONG), (0xFFFF, DATA | 0x400, False, ODD), (0, 0, False, ABSENT),
        (0xFFFF, CODE, False, CONSTANT_WRAPPED), (0xFFF, CODE, False, CONSTANT_SHORT), (0x1_0000, CODE, False, CONSTANT_LONG),
        (0xFFFF, DATA & ~0x200, False, CONSTANT_WRAPPED), (0xFFF, 0x9800, False, ODD),
        (0xFFFF, CODE, True, WRAPPED), (MASK32, 0x9000, True, FLAT), (0xFFFF, DATA | 0x400, True, ODD),
    ],
)  # fmt: skip
def test_class_of_a_segment(limit, flags, real, expected):
    assert classify(limit, flags, real) is expected


def test_ring_0_may_find_null_where_it_loads_by_itself():
    limits, flags = (MASK32,) * 4 + (0, 0xFFFF), (DATA, CODE, DATA, DATA, 0, DATA)
    assert classify_all(limits, flags, False, True) == ((FLAT, CONSTANT, FLAT, FLAT, NULLABLE, WRAPPED), False)
    assert classify_all(limits, flags, False, False) == ((FLAT, CONSTANT, FLAT, FLAT, ABSENT, WRAPPED), False)
    assert classify_all((0xFFF, *limits[1:]), flags, False, False).needs_limits


EVERY = ["8b03", "890b", "50", "58", "a5", "f3a5", "60", "c9", "e800000000", "ff13", "c8100000", "a100000000", "0fab03"]


@pytest.mark.parametrize("raw", EVERY)
@pytest.mark.parametrize("context", [CODE16, CODE32], ids=["16", "32"])
def test_flat_segments_get_no_check(raw, context):
    assert checks(raw, context) == (0, 0)
    flat_code = replace(context, segments=(FLAT, CONSTANT, FLAT, FLAT, ABSENT, FLAT))
    assert translated(raw, flat_code).code == translated(raw, context).code


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        ("8a07", WRAPPED, (0, 0)), ("8b07", WRAPPED, (1, 0)), ("678a03", WRAPPED, (1, 0)), ("678b03", WRAPPED, (1, 0)),
        ("a1fdff", WRAPPED, (0, 0)), ("a1ffff", WRAPPED, (0, 1)), ("8b16feff", WRAPPED, (0, 0)), ("50", WRAPPED, (1, 0)),
        ("58", WRAPPED, (1, 0)), ("60", WRAPPED, (1, 0)), ("6660", WRAPPED, (8, 0)), ("c9", WRAPPED, (1, 0)),
        ("a4", WRAPPED, (0, 0)), ("a5", WRAPPED, (2, 0)), ("f3a4", WRAPPED, (0, 0)), ("f3a5", WRAPPED, (2, 0)),
        ("67f3a5", WRAPPED, (0, 1)), ("ff37", WRAPPED, (2, 0)), ("8f07", WRAPPED, (0, 1)), ("d7", WRAPPED, (0, 0)),
        ("0fa307", WRAPPED, (0, 1)), ("c8000000", WRAPPED, (2, 0)), ("c8000002", WRAPPED, (0, 1)), ("8d07", WRAPPED, (0, 0)),
        ("8a07", SHORT, (1, 0)), ("8b07", SHORT, (1, 0)), ("678b03", SHORT, (1, 0)), ("a1fdff", SHORT, (1, 0)), ("f3a4", SHORT, (0, 1)),
        ("8a07", LONG, (0, 0)), ("8b07", LONG, (1, 0)), ("678b03", LONG, (1, 0)), ("a1fdff", LONG, (0, 0)), ("67a1feffffff", LONG, (1, 0)),
        ("8b07", CONSTANT, (0, 0)), ("8907", CONSTANT, (0, 1)), ("8b07", CONSTANT_WRAPPED, (1, 0)), ("8907", CONSTANT_WRAPPED, (0, 1)),
        ("8a07", CONSTANT_SHORT, (1, 0)), ("8b07", CONSTANT_LONG, (1, 0)), ("0007", CONSTANT_LONG, (0, 1)),
        ("50", CONSTANT, (0, 1)), ("8a07", ODD, (0, 1)), ("8a07", ABSENT, (0, 1)),
        ("648a07", NULLABLE, (1, 0)),
    ],
)  # fmt: skip
def test_checks_of_16_bit_code(raw, kind, expected):
    assert checks(raw, all_of(kind, CODE16)) == expected


@pytest.mark.parametrize(
    ("raw", "limit", "expected"),
    [
        ("66c3", 0xFFFF, (1, 0)), ("c3", 0xFFFF, (0, 0)), ("66ffe0", 0xFFFF, (1, 0)), ("66ff27", 0xFFFF, (1, 0)),
        ("c3", 0x7FFF, (1, 0)), ("66c3", 0x7FFF, (1, 0)), ("66c3", 0x1_FFFF, (1, 0)), ("c3", 0x1_FFFF, (0, 0)),
        ("66e800000100", 0xFFFF, (0, 1)), ("e80010", 0xFFFF, (0, 0)), ("e80010", 0xFFF, (0, 1)), ("66e900000100", 0xFFFF, (0, 0)),
        ("e210", 0x10, (0, 1)), ("e210", 0x12, (0, 0)), ("66c3", MASK32, (0, 0)), ("ff27", 0x7FFF, (1, 0)),
    ],
)  # fmt: skip
def test_near_branches_and_the_limit_of_code(raw, limit, expected):
    assert checks(raw, replace(CODE16, segments=ALL_FLAT, code_limit=limit)) == expected


def test_what_the_vmm_carries_out_has_no_check_in_front():
    made = translated("cf", all_of(ODD, CODE16))
    assert [site.kind for site in made.sites] == [SiteKind.CALLOUT]


@pytest.mark.parametrize("seg", [Seg.DS, Seg.SS])
def test_a_load_in_real_mode_is_the_vmms_only_where_nothing_is_present(seg):
    real = all_of(WRAPPED, Context(Mode.REAL, 0, False, False))
    absent = replace(real, segments=tuple(ABSENT if each == seg else WRAPPED for each in Seg))
    raw = f"8e{0xC0 | seg << 3:02x}"
    assert translated(raw, real).sites[0].kind is not SiteKind.CALLOUT
    assert translated(raw, absent).sites[0].kind is SiteKind.CALLOUT


def test_the_guard_begins_with_what_is_aligned():
    words = memoryview(guard_image()).cast("I")
    assert [n for n in range(0x100) if words[n] == 0] == list(range(0, 0x100, 2))
    assert [n for n in range(0x100) if words[0x100 + n] == 0] == list(range(0, 0x100, 4))
    assert min(word for word in words if word) >= 0x1_0000
