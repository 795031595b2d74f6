"""LOCK: the forms of instructions that take it.

Source: Intel SDM Vol. 2A, "LOCK - Assert LOCK# Signal Prefix": ADD, ADC, AND, BTC, BTR, BTS, CMPXCHG, CMPXCHG8B, DEC,
INC, NEG, NOT, OR, SBB, SUB, XOR, XADD and XCHG, with memory as their destination. In front of anything else it is #UD.
"""

from collections.abc import Collection, Mapping
from typing import Final

from bt.decode import Insn

_LOCK: Final = 0xF0
_EVERY_REG: Final = range(8)

_FORMS: Final[Mapping[int, Collection[int]]] = {
    **{row | low: _EVERY_REG for row in range(0x00, 0x38, 8) for low in (0, 1)},  # ADD OR ADC SBB AND SUB XOR
    **dict.fromkeys(range(0x80, 0x84), range(7)),  # the same with an immediate, CMP not among them
    0x86: _EVERY_REG,  # XCHG
    0x87: _EVERY_REG,
    0xF6: (2, 3),  # NOT, NEG
    0xF7: (2, 3),
    0xFE: (0, 1),  # INC, DEC
    0xFF: (0, 1),
    0x0FAB: _EVERY_REG,  # BTS
    0x0FB0: _EVERY_REG,  # CMPXCHG
    0x0FB1: _EVERY_REG,
    0x0FB3: _EVERY_REG,  # BTR
    0x0FBA: (5, 6, 7),  # BTS, BTR, BTC with an immediate
    0x0FBB: _EVERY_REG,  # BTC
    0x0FC0: _EVERY_REG,  # XADD
    0x0FC1: _EVERY_REG,
    0x0FC7: (1,),  # CMPXCHG8B
}
"""By opcode: the reg fields with which a memory operand is a destination that can be locked."""


def misplaces_lock(insn: Insn) -> bool:
    """Is there a LOCK prefix in front of an instruction, or a form of it, that does not take one?"""
    if _LOCK not in insn.prefixes:
        return False
    forms = _FORMS.get(insn.opcode, ())
    return not forms or insn.is_register_form or insn.modrm >> 3 & 7 not in forms
