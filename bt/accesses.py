"""What an instruction does to memory: through which of its addresses, how many bytes, and whether it writes.

A table over the opcode map. It knows the instructions of `bt.innocuous` and those that stay in the cache; what the VMM
carries out checks its operands itself. All of an answer follows from an instruction's shape (see `bt.shapes`).

Source: Intel SDM Vol. 2D, "Opcode Map"; Vol. 2A-2B, the instructions; Vol. 1, "x87 FPU State Image".
"""

from collections.abc import Callable, Mapping
from enum import IntEnum, auto
from typing import Final, NamedTuple

from bt.decode import Insn


class Via(IntEnum):
    """How an access finds its address."""

    OPERAND = 0  # the r/m operand
    BITS = auto()  # the r/m operand, moved by the bit offset in a register: BT and its like
    OFFSET = auto()  # the offset in the instruction: MOV with A0h-A3h
    SOURCE = auto()  # seg:[ESI] of a string instruction
    DESTINATION = auto()  # ES:[EDI]
    MASKED = auto()  # seg:[EDI] of MASKMOVQ and MASKMOVDQU
    TABLE = auto()  # seg:[EBX + AL] of XLAT
    PUSH = auto()
    POP = auto()
    POPPED = auto()  # the r/m operand of POP, whose address is computed when ESP has moved
    FRAME = auto()  # SS:[EBP], what LEAVE pops
    ENTER = auto()  # all that ENTER reads and writes


class Access(NamedTuple):
    """One access of `size` bytes; PUSHA and POPA make it several `times`. `write`: it writes, perhaps reads too."""

    via: Via
    size: int
    write: bool = False
    times: int = 1


Accesses = tuple[Access, ...]
_NONE: Final[Accesses] = ()


def accesses(insn: Insn) -> Accesses:
    """What an instruction does to memory, in the order in which it does it."""
    opcode = insn.opcode
    fixed = _FIXED.get(opcode)
    if fixed is not None:
        return fixed(insn)
    if not insn.has_modrm or not insn.tail or insn.is_register_form:
        return _NONE
    found = _OPERANDS.get(opcode)
    return _NONE if found is None else found(insn)


def stores(insn: Insn) -> bool:
    """Does an instruction write memory, the stack included?"""
    return any(access.write for access in accesses(insn))


def modifies(insn: Insn) -> bool:
    """Is all that an instruction reads of memory its r/m operand, which it writes, too?"""
    found = accesses(insn)
    return bool(found) and all(access.write and access.via in (Via.OPERAND, Via.BITS) for access in found)


# --- addresses that ModR/M does not name --------------------------------------------------------------------------


def _wide(insn: Insn) -> int:
    """1 byte for an even opcode, the operand size for an odd one."""
    return insn.operand_size if insn.opcode & 1 else 1


def _push(insn: Insn) -> Accesses:
    return (Access(Via.PUSH, insn.operand_size, True),)


def _pop(insn: Insn) -> Accesses:
    return (Access(Via.POP, insn.operand_size),)


def _masked(insn: Insn) -> Accesses:
    return (Access(Via.MASKED, 16 if 0x66 in insn.prefixes else 8, True),)


def _group_ff(insn: Insn) -> Accesses:
    """INC DEC CALL - JMP - PUSH: far transfers are the VMM's."""
    field, size = insn.modrm >> 3 & 7, insn.operand_size
    operand = (Access(Via.OPERAND, size, field in (0, 1)),) if field in (0, 1, 2, 4, 6) else _NONE
    pushed = (Access(Via.PUSH, size, True),) if field in (2, 6) else _NONE
    return pushed if insn.is_register_form else operand + pushed


_FIXED: Final[Mapping[int, Callable[[Insn], Accesses]]] = {
    **dict.fromkeys((0x06, 0x0E, 0x16, 0x1E, *range(0x50, 0x58), 0x68, 0x6A, 0x9C, 0xE8, 0x0FA0, 0x0FA8), _push),
    **dict.fromkeys((0x07, 0x17, 0x1F, *range(0x58, 0x60), 0x9D, 0xC2, 0xC3, 0x0FA1, 0x0FA9), _pop),
    0x60: lambda insn: (Access(Via.PUSH, insn.operand_size, True, 8),),
    0x61: lambda insn: (Access(Via.POP, insn.operand_size, False, 8),),
    **dict.fromkeys((0xA0, 0xA1), lambda insn: (Access(Via.OFFSET, _wide(insn)),)),
    **dict.fromkeys((0xA2, 0xA3), lambda insn: (Access(Via.OFFSET, _wide(insn), True),)),
    **dict.fromkeys(
        (0xA4, 0xA5), lambda insn: (Access(Via.SOURCE, _wide(insn)), Access(Via.DESTINATION, _wide(insn), True))
    ),
    **dict.fromkeys((0xA6, 0xA7), lambda insn: (Access(Via.SOURCE, _wide(insn)), Access(Via.DESTINATION, _wide(insn)))),
    **dict.fromkeys((0xAA, 0xAB), lambda insn: (Access(Via.DESTINATION, _wide(insn), True),)),
    **dict.fromkeys((0xAC, 0xAD), lambda insn: (Access(Via.SOURCE, _wide(insn)),)),
    **dict.fromkeys((0xAE, 0xAF), lambda insn: (Access(Via.DESTINATION, _wide(insn)),)),
    0xC8: lambda insn: (Access(Via.ENTER, insn.operand_size, True),),
    0xC9: lambda insn: (Access(Via.FRAME, insn.operand_size),),
    **dict.fromkeys((0xCA, 0xCB), lambda insn: (Access(Via.POP, insn.operand_size, False, 2),)),
    0xCF: lambda insn: (Access(Via.POP, insn.operand_size, False, 3),),
    0xD7: lambda insn: (Access(Via.TABLE, 1),),
    0xFF: _group_ff,
    0x0FF7: _masked,
}

# --- r/m in memory ------------------------------------------------------------------------------------------------

Rule = Callable[[Insn], Accesses]


def _read(size: int = 0) -> Rule:
    """A read of `size` bytes, of the operand size for 0."""
    return lambda insn: (Access(Via.OPERAND, size or insn.operand_size),)


def _write(size: int = 0) -> Rule:
    return lambda insn: (Access(Via.OPERAND, size or insn.operand_size, True),)


def _read_wide(insn: Insn) -> Accesses:
    return (Access(Via.OPERAND, _wide(insn)),)


def _write_wide(insn: Insn) -> Accesses:
    return (Access(Via.OPERAND, _wide(insn), True),)


def _by_field(writes: frozenset[int], reads: frozenset[int], size: Callable[[Insn], int]) -> Rule:
    """A group: the reg fields that write, and those that only read."""

    def rule(insn: Insn) -> Accesses:
        field = insn.modrm >> 3 & 7
        return (Access(Via.OPERAND, size(insn), field in writes),) if field in writes | reads else _NONE

    return rule


def _pop_rm(insn: Insn) -> Accesses:
    size = insn.operand_size
    return (Access(Via.POP, size), Access(Via.POPPED, size, True))


def _bits(write: bool) -> Rule:
    return lambda insn: (Access(Via.BITS, insn.operand_size, write),)


def _bound(insn: Insn) -> Accesses:
    return (Access(Via.OPERAND, 2 * insn.operand_size),)


def _far_pointer(insn: Insn) -> Accesses:
    return (Access(Via.OPERAND, insn.operand_size + 2),)


_X87: Final[Mapping[tuple[int, int], tuple[int, bool]]] = {
    **{(0xD8, field): (4, False) for field in range(8)},
    (0xD9, 0): (4, False), (0xD9, 2): (4, True), (0xD9, 3): (4, True), (0xD9, 5): (2, False), (0xD9, 7): (2, True),
    **{(0xDA, field): (4, False) for field in range(8)},
    (0xDB, 0): (4, False), (0xDB, 2): (4, True), (0xDB, 3): (4, True), (0xDB, 5): (10, False), (0xDB, 7): (10, True),
    **{(0xDC, field): (8, False) for field in range(8)},
    (0xDD, 0): (8, False), (0xDD, 2): (8, True), (0xDD, 3): (8, True), (0xDD, 7): (2, True),
    **{(0xDE, field): (2, False) for field in range(8)},
    (0xDF, 0): (2, False), (0xDF, 2): (2, True), (0xDF, 3): (2, True), (0xDF, 4): (10, False), (0xDF, 5): (8, False),
    (0xDF, 6): (10, True), (0xDF, 7): (8, True),
}  # fmt: skip
"""By opcode and reg field: bytes, and whether they are written."""
_X87_IMAGES: Final[Mapping[tuple[int, int], tuple[int, int, bool]]] = {
    (0xD9, 4): (14, 28, False), (0xD9, 6): (14, 28, True), (0xDD, 4): (94, 108, False), (0xDD, 6): (94, 108, True),
}  # fmt: skip
"""FLDENV, FNSTENV, FRSTOR, FNSAVE: the bytes of their 16- and 32-bit images."""


def _x87(insn: Insn) -> Accesses:
    key = insn.opcode, insn.modrm >> 3 & 7
    if key in _X87_IMAGES:
        short, long, write = _X87_IMAGES[key]
        return (Access(Via.OPERAND, long if insn.operand_size == 4 else short, write),)
    found = _X87.get(key)
    return _NONE if found is None else (Access(Via.OPERAND, *found),)


def _simd(none: int, of_66: int = 0, of_f3: int = 0, of_f2: int = 0, write: bool = False) -> Rule:
    """A size by the prefix that is part of the opcode; 0 where there is no such instruction."""

    def rule(insn: Insn) -> Accesses:
        repeat = insn.repeat
        size = of_f3 if repeat == 0xF3 else of_f2 if repeat == 0xF2 else of_66 if 0x66 in insn.prefixes else none
        return (Access(Via.OPERAND, size, write),) if size else _NONE

    return rule


_ALU_READS: Final = frozenset(range(7))
_ALL_FIELDS: Final = frozenset(range(8))
_EMPTY: Final[frozenset[int]] = frozenset()
_FLOATS: Final = _simd(16, 16, 4, 8)
_MMX: Final = _simd(8, 16)

_OPERANDS: Final[dict[int, Rule]] = {
    **{row | low: _write_wide for row in range(0, 0x38, 8) for low in (0, 1)},
    **{row | low: _read_wide for row in range(0, 0x40, 8) for low in (2, 3)},
    0x38: _read_wide, 0x39: _read_wide,
    0x62: _bound, 0x63: _write(2), 0x69: _read(), 0x6B: _read(),
    **dict.fromkeys((0x80, 0x82), _by_field(_ALU_READS, frozenset((7,)), lambda _insn: 1)),
    **dict.fromkeys((0x81, 0x83), _by_field(_ALU_READS, frozenset((7,)), lambda insn: insn.operand_size)),
    0x84: _read_wide, 0x85: _read_wide, 0x86: _write_wide, 0x87: _write_wide,
    0x88: _write_wide, 0x89: _write_wide, 0x8A: _read_wide, 0x8B: _read_wide, 0x8C: _write(2), 0x8E: _read(2),
    0x8F: _pop_rm,
    **dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), _write_wide),
    0xC4: _far_pointer, 0xC5: _far_pointer, 0xC6: _write_wide, 0xC7: _write_wide,
    **dict.fromkeys(range(0xD8, 0xE0), _x87),
    **dict.fromkeys((0xF6, 0xF7), _by_field(frozenset((2, 3)), _ALL_FIELDS - {2, 3}, _wide)),
    0xFE: _by_field(frozenset((0, 1)), _EMPTY, _wide),
    0x0F00: _by_field(frozenset((0, 1)), frozenset((2, 3, 4, 5)), lambda _insn: 2),
    0x0F01: lambda insn: _TABLES[insn.modrm >> 3 & 7],
    0x0F02: _read(2), 0x0F03: _read(2),
    0x0F10: _FLOATS, 0x0F11: _simd(16, 16, 4, 8, write=True),
    0x0F12: _simd(8, 8), 0x0F13: _simd(8, 8, write=True), 0x0F14: _simd(16, 16), 0x0F15: _simd(16, 16),
    0x0F16: _simd(8, 8), 0x0F17: _simd(8, 8, write=True),
    0x0F28: _simd(16, 16), 0x0F29: _simd(16, 16, write=True), 0x0F2A: _simd(8, 8, 4, 4),
    0x0F2B: _simd(16, 16, write=True), 0x0F2C: _simd(8, 16, 4, 8), 0x0F2D: _simd(8, 16, 4, 8),
    0x0F2E: _simd(4, 8), 0x0F2F: _simd(4, 8),
    **dict.fromkeys(range(0x0F40, 0x0F50), _read()),
    **dict.fromkeys(range(0x0F51, 0x0F60), _FLOATS),
    0x0F5A: _simd(8, 16, 4, 8), 0x0F5B: _simd(16, 16, 16),
    **dict.fromkeys(range(0x0F60, 0x0F63), _simd(4, 16)),
    **dict.fromkeys(range(0x0F63, 0x0F6E), _MMX),
    0x0F6E: _simd(4, 4), 0x0F6F: _simd(8, 16, 16), 0x0F70: _simd(8, 16, 16, 16),
    **dict.fromkeys(range(0x0F74, 0x0F77), _MMX),
    0x0F7E: lambda insn: (Access(Via.OPERAND, 8),) if insn.repeat == 0xF3 else (Access(Via.OPERAND, 4, True),),
    0x0F7F: _simd(8, 16, 16, write=True),
    **dict.fromkeys(range(0x0F90, 0x0FA0), _write(1)),
    0x0FA3: _bits(False), 0x0FAB: _bits(True), 0x0FB3: _bits(True), 0x0FBB: _bits(True),
    **dict.fromkeys((0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD), _write()),
    0x0FAE: lambda insn: _STATES[insn.modrm >> 3 & 7],
    0x0FAF: _read(), 0x0FB0: _write_wide, 0x0FB1: _write_wide,
    **dict.fromkeys((0x0FB2, 0x0FB4, 0x0FB5), _far_pointer),
    0x0FB6: _read(1), 0x0FB7: _read(2), 0x0FBE: _read(1), 0x0FBF: _read(2), 0x0FBC: _read(), 0x0FBD: _read(),
    0x0FBA: _by_field(frozenset((5, 6, 7)), frozenset((4,)), lambda insn: insn.operand_size),
    0x0FC0: _write_wide, 0x0FC1: _write_wide, 0x0FC2: _FLOATS, 0x0FC3: _write(4), 0x0FC4: _read(2),
    0x0FC6: _simd(16, 16), 0x0FC7: _by_field(frozenset((1,)), _EMPTY, lambda _insn: 8),
    **dict.fromkeys(range(0x0FD1, 0x0FFF), _MMX),
    0x0FD6: _simd(0, 8, write=True), 0x0FE6: _simd(0, 16, 8, 16), 0x0FE7: _simd(8, 16, write=True),
}  # fmt: skip
"""By opcode, for operands in memory."""

_TABLES: Final[tuple[Accesses, ...]] = (
    (Access(Via.OPERAND, 6, True),), (Access(Via.OPERAND, 6, True),), (Access(Via.OPERAND, 6),),
    (Access(Via.OPERAND, 6),), (Access(Via.OPERAND, 2, True),), _NONE, (Access(Via.OPERAND, 2),), _NONE,
)  # fmt: skip
"""SGDT SIDT LGDT LIDT SMSW - LMSW INVLPG."""
_STATES: Final[tuple[Accesses, ...]] = (
    (Access(Via.OPERAND, 512, True),), (Access(Via.OPERAND, 512),), (Access(Via.OPERAND, 4),),
    (Access(Via.OPERAND, 4, True),), _NONE, _NONE, _NONE, (Access(Via.OPERAND, 1),),
)  # fmt: skip
"""FXSAVE FXRSTOR LDMXCSR STMXCSR - - - CLFLUSH."""
