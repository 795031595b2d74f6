"""How instructions that Unicorn's processor gets wrong can be spelt so that it gets them right.

Each function takes an instruction and gives its other spelling, or None where its own is right.
"""

from typing import Final

from bt.decode import Insn
from bt.simd import uses_mmx
from bt.tables import waits

_IN_AL_DX: Final = b"\xec"
_STRING_PORTS: Final = range(0x6C, 0x70)
_PUSHF: Final = 0x9C
_PUSH_0_AND_HALF_OF_IT_BACK: Final = {
    False: bytes.fromhex("666800000000 67668d642402"),
    True: bytes.fromhex("6800000000 8d642402 66"),
}
_BIT_TESTS: Final = (0x0FA3, 0x0FAB, 0x0FB3, 0x0FBB)
_FIRST_BIT_TEST: Final = 4
_ROTATIONS: Final = (0xC0, 0xC1)
_THROUGH_CARRY: Final = (2, 3)
_BY_ONE: Final = 0x10  # D0h and D1h
_ADC_AL_0: Final = b"\x14\x00"
_SMSW: Final = 4
_NO_CONTROL_REGISTERS: Final = (1, 5, 6, 7)
_ENVIRONMENTS: Final = ((0xD9, 6), (0xDD, 6), (0xDD, 7), (0x0FAE, 0), (0x0FAE, 3))
_FNSTSW_AX: Final = b"\xdf\xe0"
_MOV_EAX_EAX: Final = b"\x89\xc0"
_FNSTCW: Final = 7
_ARPL: Final = 0x63
_TEST: Final = 0x84
_RETURNS: Final = (0xC2, 0xCA)
_SIGN: Final = 0x80
_NOP: Final = b"\x90"
_UD2: Final = b"\x0f\x0b"
_FWAIT: Final = b"\x9b"
_CMC_TWICE: Final = b"\xf5\xf5"
_NEXT_BLOCK: Final = b"\xeb\x00"
_LOCK: Final = 0xF0
_REP: Final = 0xF3
_BIT_SCANS: Final = (0x0FBC, 0x0FBD)
_LOOPS: Final = (0xE0, 0xE1)
_SETCC: Final = range(0x0F90, 0x0FA0)
_DOUBLE_SHIFTS: Final = (0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD)
_OF_LAZY_FLAGS: Final = {
    0x0FC7: (1,),  # CMPXCHG8B
    0xFF: (3, 5),  # far CALL and JMP
    **dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), (2, 3)),  # RCL and RCR
}
_TASK_SWITCHES: Final = (0x9A, 0xCD, 0xCF, 0xEA)
_PREFETCH: Final = 0x0F18
_CMPPS: Final = 0x0FC2
_TESTS: Final = (0xF6, 0xF7)
_TO_MEMORY: Final = frozenset(
    [row | low for row in (0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30) for low in (0, 1)]
    + [0x86, 0x87, 0x0FAB, 0x0FB3, 0x0FBB, 0x0FB0, 0x0FB1, 0x0FC0, 0x0FC1]
)
_LOCKABLE_GROUPS: Final = {
    **dict.fromkeys((0x80, 0x81, 0x82, 0x83), range(7)),
    **dict.fromkeys((0xF6, 0xF7), (2, 3)),
    **dict.fromkeys((0xFE, 0xFF), (0, 1)),
    0x0FBA: (5, 6, 7),
    0x0FC7: (1,),
}


def bit_scan(insn: Insn) -> bytes | None:
    """BSF and BSR behind F3h, without it: a processor without BMI ignores the prefix, Unicorn's has TZCNT and LZCNT."""
    if insn.opcode in _BIT_SCANS and _REP in insn.prefixes:
        return insn.raw[: len(insn.prefixes)].replace(b"\xf3", b"") + insn.raw[len(insn.prefixes) :]
    return None


def waiting(insn: Insn) -> bytes | None:
    """x87 and MMX instructions that wait for errors, behind an FWAIT, the only one at which Unicorn looks for them."""
    is_one = waits(insn) or uses_mmx(insn)
    return _FWAIT + insn.raw if is_one and insn.opcode != _FWAIT[0] else None


def loop_on_zf(insn: Insn) -> bytes | None:
    """LOOPE and LOOPNE in a block of their own."""
    return _NEXT_BLOCK + insn.raw if insn.opcode in _LOOPS else None


def flags_first(insn: Insn) -> bytes | None:
    """What the engine may begin twice, or without folding the flags first, once no flag is lazy: CMPXCHG8B, SETcc, RCL,
    RCR, SHLD and SHRD of memory; and what may switch tasks."""
    if insn.opcode in _TASK_SWITCHES or (insn.has_modrm and not insn.is_register_form and _minds_lazy_flags(insn)):
        return _CMC_TWICE + _NEXT_BLOCK + insn.raw
    return None


def _minds_lazy_flags(insn: Insn) -> bool:
    if insn.opcode in _SETCC or insn.opcode in _DOUBLE_SHIFTS:
        return True
    return insn.modrm >> 3 & 7 in _OF_LAZY_FLAGS.get(insn.opcode, ())


def flush(insn: Insn) -> bytes | None:
    """CLFLUSH as NOP."""
    return _NOP if insn.mnemonic == "clflush" else None


def predicate(insn: Insn) -> bytes | None:
    """CMPPS and its like with the bits of the predicate that exist."""
    return insn.raw[:-1] + bytes([insn.raw[-1] & 7]) if insn.opcode == _CMPPS else None


def hint(insn: Insn) -> bytes | None:
    """0F18h of a register as NOP."""
    return _NOP if insn.opcode == _PREFETCH and insn.is_register_form else None


def test(insn: Insn) -> bytes | None:
    """F6 /1 and F7 /1, which are TEST, as /0."""
    if insn.opcode in _TESTS and insn.modrm >> 3 & 7 == 1:
        at = len(insn.prefixes) + 1
        return insn.raw[:at] + bytes([insn.modrm & ~0x38]) + insn.raw[at + 1 :]
    return None


def lock(insn: Insn) -> bytes | None:
    """LOCK where it may not stand, as UD2."""
    return _UD2 if _LOCK in insn.prefixes and not _takes_lock(insn) else None


def _takes_lock(insn: Insn) -> bool:
    """Source: SDM Vol. 2A, "LOCK - Assert LOCK# Signal Prefix": a destination in memory, of these instructions."""
    if not insn.has_modrm or insn.is_register_form:
        return False
    return insn.opcode in _TO_MEMORY or insn.modrm >> 3 & 7 in _LOCKABLE_GROUPS.get(insn.opcode, ())


def status_word(insn: Insn) -> bytes | None:
    """SMSW to a 32-bit register, and the half that is undefined cleared."""
    if insn.opcode != 0x0F01 or insn.modrm >> 3 & 7 != _SMSW or not insn.is_register_form or insn.operand_size != 4:
        return None
    reg = insn.modrm & 7
    return insn.raw + insn.prefixes + bytes([0x0F, 0xB7, 0xC0 | reg << 3 | reg])


def control_register(insn: Insn) -> bytes | None:
    """MOV to and from control registers that do not exist, as UD2."""
    moves = insn.opcode in (0x0F20, 0x0F22) and insn.modrm >> 3 & 7 in _NO_CONTROL_REGISTERS
    return _UD2 if moves else None


def string_port(insn: Insn) -> bytes | None:
    """INS and OUTS as IN AL, DX, which needs the same permission and touches no memory."""
    return _IN_AL_DX if insn.opcode in _STRING_PORTS else None


def push_flags(insn: Insn) -> bytes | None:
    """PUSHFD as PUSHF below a word of zeros."""
    if insn.opcode != _PUSHF or insn.operand_size != 4:
        return None
    return _PUSH_0_AND_HALF_OF_IT_BACK[insn.code32] + bytes([_PUSHF])


def bit_test(insn: Insn) -> bytes | None:
    """BT and its like, and then ADC AL, 0: it keeps CF, and defines the flags that they do not."""
    is_test = insn.opcode in _BIT_TESTS or (insn.opcode == 0x0FBA and insn.modrm >> 3 & 7 >= _FIRST_BIT_TEST)
    return insn.raw + _ADC_AL_0 if is_test else None


def rotation(insn: Insn) -> bytes | None:
    """RCL and RCR by an immediate as those by 1."""
    if insn.opcode not in _ROTATIONS or insn.modrm >> 3 & 7 not in _THROUGH_CARRY:
        return None
    return insn.prefixes + bytes([insn.opcode | _BY_ONE]) + insn.raw[len(insn.prefixes) + 1 : -1]


def frame(insn: Insn) -> bytes | None:
    """ENTER as NOP."""
    return _NOP if insn.mnemonic == "enter" else None


def environment(insn: Insn) -> bytes | None:
    """What stores the state of x87 or SSE, as FNSTCW: without errors and pointers; FNSTSW AX as MOV EAX, EAX."""
    if insn.raw[len(insn.prefixes) :] == _FNSTSW_AX:
        return _MOV_EAX_EAX
    if not insn.has_modrm or insn.is_register_form or (insn.opcode, insn.modrm >> 3 & 7) not in _ENVIRONMENTS:
        return None
    return insn.prefixes + b"\xd9" + insn.memory.with_reg(_FNSTCW)


def adjust_rpl(insn: Insn) -> bytes | None:
    """ARPL of memory as TEST, which only reads."""
    if insn.opcode != _ARPL or insn.is_register_form:
        return None
    return insn.prefixes + bytes([_TEST]) + insn.memory.encoding


def long_return(insn: Insn) -> bytes | None:
    """RET and RETF that drop more than 32 KBytes, with less."""
    if insn.opcode not in _RETURNS or not insn.tail[1] & _SIGN:
        return None
    return insn.raw[:-1] + bytes([insn.tail[1] & ~_SIGN])


def pause(insn: Insn) -> bytes | None:
    """PAUSE as NOP."""
    return _NOP if insn.mnemonic == "pause" else None


def block_each(insn: Insn) -> bytes | None:
    """Every instruction in a block of its own."""
    return _NEXT_BLOCK + insn.raw
