"""Segment checks of emulated accesses, against a model that tries every byte (SDM Vol. 3A, "Limit Checking")."""

import pytest

from vmm.arch.layout import MASK32
from vmm.cpu.limits import allows, bounds

RW, RO, DOWN, DOWN_BIG = 0x9200, 0x9000, 0x9600, 0x40_9600
CODE_X, CODE_XR = 0x9800, 0x9A00


@pytest.mark.parametrize(
    ("limit", "flags", "expected"),
    [
        (0xFFFF, RW, (0, 0xFFFF)), (0, RW, (0, 0)), (MASK32, CODE_XR, (0, MASK32)), (0xFFF, DOWN, (0x1000, 0xFFFF)),
        (0xFFF, DOWN_BIG, (0x1000, MASK32)), (0xFFFF, DOWN, (0x1_0000, 0xFFFF)), (0x7FF, 0x9E00, (0, 0x7FF)),
    ],
)  # fmt: skip
def test_first_and_last_offset(limit, flags, expected):
    """A limit of FFFFh leaves nothing of an expand-down segment of 64 KiB; conforming code is not expand-down."""
    assert bounds(limit, flags) == expected


@pytest.mark.parametrize(
    ("flags", "read", "write"),
    [
        (RW, True, True), (RO, True, False), (DOWN, True, True), (CODE_X, False, False), (CODE_XR, True, False),
        (RW & ~0x8000, False, False), (0, False, False),
    ],
)  # fmt: skip
def test_types(flags, read, write):
    assert (allows(flags, False, False), allows(flags, True, False)) == (read, write)
    in_real_mode = bool(flags & 0x8000)
    assert (allows(flags, False, True), allows(flags, True, True)) == (in_real_mode, in_real_mode)
