"""Programs without what the manual leaves open, for processors that share no code: undefined flags are defined behind
the instruction that leaves them, and instructions whose result is an approximation are left out. The engine knows no
faults of the x87 stack and sets few flags of its status (`docs/limits.md`): each x87 instruction finds operands there,
and what stores or loads the whole state is left out. The gates of #UD, #DF, #SS and #GP are the usual ones, so that
such a fault can be seen.

Source: SDM Vol. 1, Appendix A, "EFLAGS Cross-Reference"; Vol. 2, each instruction's "Flags Affected".
"""

from dataclasses import replace
from typing import Final

from bt.decode import Insn
from vmm.arch.descriptors import DESCRIPTOR_SIZE
from vmm.arch.exceptions import Vector
from vmm.differential.evidence import WIDE
from vmm.differential.layout import IDT
from vmm.differential.neutral import respelt
from vmm.differential.program import Program

_ADC_AL_0: Final = b"\x14\x00"  # keeps CF, and defines the others
_CMP_AL_AL: Final = b"\x38\xc0"
_NOP: Final = b"\x90"
_ROOM_FOR_ONE: Final = bytes.fromhex("dbe3 d9e8 d9eb d9e9 d9ec d9ed d9ee d9ea")
_FULL_STACK: Final = _ROOM_FOR_ONE + b"\xd9\xe8"
"""FNINIT, and a constant in each x87 register, or in each but one."""
_X87: Final = range(0xD8, 0xE0)
_PUSHES: Final = ("fld", "fild", "fbld", "fxtract")
_FLD_OF_THE_LAST: Final = b"\xd9\xc7"
_STATE_OF_X87: Final = {
    0xD9: (4, 5, 6),  # FLDENV, FLDCW, FNSTENV
    0xDD: (4, 6, 7),  # FRSTOR, FNSAVE, FNSTSW
    0x0FAE: (0, 1, 3),  # FXSAVE, FXRSTOR, STMXCSR
}
"""Opcodes and reg fields, with an operand in memory: what shows the status, or loads any."""
_PUSH_SEGMENT: Final = frozenset((0x06, 0x0E, 0x16, 0x1E, 0x0FA0, 0x0FA8))
_FNSTSW_AX: Final = b"\xdf\xe0"
_COMPARES_TO_EFLAGS: Final = frozenset("fcomi fcompi fucomi fucompi".split())
_SHOWN: Final = (Vector.UD, Vector.DF, Vector.SS, Vector.GP)

_MULTIPLY: Final = frozenset((0x69, 0x6B, 0x0FAF))  # IMUL with two or three operands
_UNARY: Final = frozenset((0xF6, 0xF7))
_FIRST_MUL, _FIRST_DIV = 4, 6
_SHIFTS: Final = frozenset((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3))
_DOUBLE_SHIFTS: Final = frozenset((0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD))
_BIT_TESTS: Final = frozenset((0x0FA3, 0x0FAB, 0x0FB3, 0x0FBB))
_BIT_TEST_GROUP: Final = 0x0FBA
_BIT_SCANS: Final = frozenset((0x0FBC, 0x0FBD))
_DECIMAL: Final = frozenset((0x27, 0x2F, 0x37, 0x3F, 0xD4, 0xD5))
_LOGIC: Final = frozenset([row | low for row in (0x08, 0x20, 0x30) for low in range(6)] + [0x84, 0x85, 0xA8, 0xA9])
"""OR, AND, XOR and TEST leave AF undefined."""
_LOGIC_GROUP: Final = frozenset((0x80, 0x81, 0x82, 0x83))
_OR, _AND, _XOR = 1, 4, 6
_APPROXIMATE: Final = frozenset(
    "fsin fcos fsincos fptan fpatan f2xm1 fyl2x fyl2xp1 fprem fprem1 rcpps rcpss rsqrtps rsqrtss".split()
)


def definite(program: Program) -> Program:
    """The program in a form whose effect the manual defines."""
    gates = {IDT + DESCRIPTOR_SIZE * vector for vector in _SHOWN}
    patches = tuple(patch for patch in program.patches if patch.at not in gates)
    return respelt(replace(program, patches=patches), _spelling)


def definite_where_new(before: Program, program: Program) -> Program:
    """`program`, whose steps are those of a definite one, `before`, but for some: these are made definite."""
    if len(before.steps) != len(program.steps):
        return definite(program)
    made = definite(program).steps
    pairs = zip(before.steps, program.steps, made, strict=True)
    return replace(program, steps=tuple(new if old != step else step for old, step, new in pairs))


def _spelling(insn: Insn) -> bytes | None:
    if insn.name in _APPROXIMATE or _has_state_of_x87(insn):
        return _NOP
    if insn.opcode in _X87:
        return _with_operands(insn)
    if insn.opcode in _PUSH_SEGMENT and insn.operand_size == WIDE:
        return _as_word(insn)
    if _leaves_all_but_carry(insn):
        return insn.raw + _ADC_AL_0
    if _leaves_flags(insn):
        return insn.raw + _CMP_AL_AL
    return None


def _has_state_of_x87(insn: Insn) -> bool:
    if insn.raw[len(insn.prefixes) :] in (_FNSTSW_AX, _FLD_OF_THE_LAST):
        return True
    return insn.has_modrm and not insn.is_register_form and insn.modrm >> 3 & 7 in _STATE_OF_X87.get(insn.opcode, ())


def _with_operands(insn: Insn) -> bytes:
    """Behind what it needs on the stack. FCOMI and its like clear OF, SF and AF, or do not: the manual is not of one
    mind."""
    front = _ROOM_FOR_ONE if insn.name.startswith(_PUSHES) else _FULL_STACK
    return front + insn.raw + (_ADC_AL_0 if insn.name in _COMPARES_TO_EFLAGS else b"")


def _as_word(insn: Insn) -> bytes:
    """PUSH of a segment register with 16 bits: what is above them in a slot of 32 bits depends on the model."""
    prefixes = insn.prefixes.replace(b"\x66", b"")
    return (b"\x66" if insn.code32 else b"") + prefixes + insn.raw[len(insn.prefixes) :]


def _leaves_all_but_carry(insn: Insn) -> bool:
    opcode = insn.opcode
    if opcode in _UNARY:
        return insn.modrm >> 3 & 7 in (_FIRST_MUL, _FIRST_MUL + 1)
    return (
        opcode in _MULTIPLY
        or opcode in _BIT_TESTS
        or opcode in _LOGIC
        or opcode == _BIT_TEST_GROUP
        or (opcode in _LOGIC_GROUP and insn.modrm >> 3 & 7 in (_OR, _AND, _XOR))
    )


def _leaves_flags(insn: Insn) -> bool:
    opcode = insn.opcode
    if opcode in _UNARY:
        return insn.modrm >> 3 & 7 >= _FIRST_DIV
    return opcode in _SHIFTS or opcode in _DOUBLE_SHIFTS or opcode in _BIT_SCANS or opcode in _DECIMAL
