"""RCL and RCR by an immediate: result, CF, and OF as the last step leaves it, in registers and in memory.

The rule is that of a rotation by 1 (SDM Vol. 2B, "RCL/RCR/ROL/ROR - Rotate"), again and again. Behind more than one
step OF is undefined; a P6 leaves this, and programs that print their flags show it.
"""

from itertools import product

import pytest
from guest_bench import ARITHMETIC, CELL, DATA, P16, P32_BASED, REAL, Bench, Mode, asm, little

CF, OF = 1, 1 << 11
COUNTS = (1, 2, 7, 8, 9, 16, 17, 31, 33, 39)
VALUES = (0x0000_0002, 0x7FFF_7F7E, 0x8000_8081, 0xFFFF_FFFE)
NAMES = {1: ("al", "byte"), 2: ("ax", "word"), 4: ("eax", "dword")}


def rotated(name: str, value: int, size: int, count: int, flags: int) -> tuple[int, int]:
    """(result, flags), one step after the other."""
    bits = 8 * size
    top = bits - 1
    for _ in range(count % 32):
        carry = flags & CF
        flags &= ~(CF | OF)
        if name == "rcl":
            flags |= value >> top & 1
            value = (value << 1 | carry) & (1 << bits) - 1
            overflow = value >> top & 1 ^ flags & CF
        else:
            overflow = value >> top & 1 ^ carry
            flags |= value & 1
            value = value >> 1 | carry << top
        flags |= OF * overflow
    return value, flags


@pytest.mark.parametrize("mode", [REAL, P16[3], *P32_BASED], ids=str)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", ["rcl", "rcr"])
def test_a_rotation_by_an_immediate_ends_as_one_by_1_would(used_bench: Bench, mode: Mode, name: str, size: int) -> None:
    register, width = NAMES[size]
    mask = (1 << 8 * size) - 1
    for count, value, flags in product(COUNTS, VALUES, (0, ARITHMETIC)):
        result, after = rotated(name, value & mask, size, count, flags)
        expected = result | value & ~mask, after
        assert run(used_bench, mode, f"{name} {register}, {count}", value, flags)[1:] == expected
        shown = run(used_bench, mode, f"{name} {width} ptr [{CELL}], {count}", value, flags)
        assert (shown[0], shown[2]) == expected


def run(bench: Bench, mode: Mode, code: str, value: int, flags: int) -> tuple[int, int, int]:
    """(memory, EAX, arithmetic flags) behind an instruction that found `value` in both."""
    bench.recycle()
    bench.start(mode, asm(code, mode.code32), eax=value, eflags=flags | 2)
    bench.poke(DATA + CELL, little(value, 4))
    shown = bench.run()
    return bench.word(DATA + CELL), shown["eax"], shown["eflags"] & ARITHMETIC
