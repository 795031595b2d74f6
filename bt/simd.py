"""SSE and SSE2: what the processor below does not check.

It lets every operand be misaligned. A 16-byte operand in memory is checked in front of the instruction, with no branch
and no flag changed: its offset's low four bits, times 8 KiB, are the index of a load from the vCPU page, and behind
that page nothing is mapped. Where the base of DS, ES or SS is no multiple of 16, and for operands in FS, GS and CS, the
VMM looks at the linear address.

Source: Intel SDM Vol. 3A, "Interrupt 13 - General Protection Exception (#GP)"; Vol. 2A-2B, the instructions, "SIMD
Floating-Point Exceptions"; Vol. 1, "SSE and SSE2 SIMD Floating-Point Exceptions".
"""

from collections.abc import Collection, Mapping
from typing import Final

from bt.decode import Insn
from bt.emit import MISALIGNED, S0, Emitter, SiteKind
from bt.sensitive import lea_ecx
from vmm.arch.layout import MASK32
from vmm.arch.registers import Reg, Seg

_NONE, _66, _F2, _F3 = 0, 0x66, 0xF2, 0xF3
_PS, _PD = frozenset((_NONE,)), frozenset((_66,))
_PACKED: Final = _PS | _PD

_ALIGNED: Final[Mapping[int, Collection[int]]] = {
    **dict.fromkeys((0x14, 0x15, 0x28, 0x29, 0x2B, 0x51, *range(0x54, 0x5A), *range(0x5C, 0x60), 0xC2, 0xC6), _PACKED),
    0x2C: _PD,
    0x2D: _PD,
    0x52: _PS,
    0x53: _PS,
    0x5A: _PD,
    0x5B: {_NONE, _66, _F3},
    **dict.fromkeys((*range(0x60, 0x6E), 0x6F, *range(0x74, 0x77), 0x7F), _PD),
    0x70: {_66, _F2, _F3},
    **dict.fromkeys((*range(0xD1, 0xD6), *range(0xD8, 0xE6), *range(0xE7, 0xF0), *range(0xF1, 0xF7)), _PD),
    **dict.fromkeys(range(0xF8, 0xFF), _PD),
    0xE6: {_66, _F2},
}
"""By second opcode byte: the prefixes with which a memory operand is of 16 bytes that must be aligned."""

_CMPPS, _PREDICATE = 0x0FC2, 7
_MMX_CONVERSIONS: Final = frozenset((0x2A, 0x2C, 0x2D))
_CVTPI2PD: Final = 0x0F2A
"""Of a memory operand, behind 66h: the one of them that leaves MMX alone."""
_MOVAPS_XMM0_XMM0: Final = b"\x0f\x28\xc0"
"""#UD and #NM where the conversion itself would be, and they come before #MF."""
_FWAIT: Final = b"\x9b"
_TWO_BYTES: Final = 0x0F00
_TIMES_8: Final = b"\x8d\x0c\xcd\0\0\0\0"
_LOW_BITS: Final = (_TIMES_8, b"\x8d\x0c\x09", b"\x0f\xb6\xc9", _TIMES_8, _TIMES_8)
"""LEA ECX, [ECX * 8]; LEA ECX, [ECX + ECX]; MOVZX ECX, CL; LEA ECX, [ECX * 8] twice: bits 3:0 come to be bits 13:10."""
_TOUCH: Final = b"\x0f\xb6\x0c\xcd"
"""MOVZX ECX, byte ptr [ECX * 8 + disp32]."""


def _prefix(insn: Insn) -> int:
    """The prefix that is part of the opcode: the last of F2h and F3h counts before 66h."""
    return insn.repeat or (_66 if _66 in insn.prefixes else _NONE)


def must_be_aligned(insn: Insn) -> bool:
    """Has it an operand of 16 bytes in memory that #GP asks to be aligned?"""
    opcode = insn.opcode - _TWO_BYTES
    return opcode in _ALIGNED and not insn.is_register_form and _prefix(insn) in _ALIGNED[opcode]


def uses_mmx(insn: Insn) -> bool:
    """Is it a conversion that goes through an MMX register, so that it waits for x87 errors?"""
    if insn.opcode - _TWO_BYTES not in _MMX_CONVERSIONS or insn.repeat:
        return False
    return insn.is_register_form or insn.opcode != _CVTPI2PD or _66 not in insn.prefixes


def is_special(insn: Insn) -> bool:
    """Is it an SSE instruction that cannot be copied as it is?"""
    is_one = insn.opcode >= _TWO_BYTES and insn.has_modrm
    return is_one and (must_be_aligned(insn) or uses_mmx(insn) or insn.opcode == _CMPPS)


def simd(emit: Emitter, insn: Insn) -> None:
    """The same bytes, behind a check of their alignment and a wait for x87 errors."""
    if must_be_aligned(insn):
        if emit.context.odd_bases or insn.memory.segment in (Seg.FS, Seg.GS, Seg.CS):
            emit.site(SiteKind.PREPARE, LOOK_AT_ADDRESS)
        else:
            _touch(emit, insn)
    emit.raw((_MOVAPS_XMM0_XMM0 + _FWAIT if uses_mmx(insn) else b"") + _spelt(insn))


def _spelt(insn: Insn) -> bytes:
    """The instruction; CMPPS and its like without bits 7:3 of the predicate, which are reserved: a P6 ignores them, the
    engine raises #UD. Source: SDM Vol. 2A, "CMPPS - Compare Packed Single-Precision Floating-Point Values"."""
    return insn.raw[:-1] + bytes([insn.raw[-1] & _PREDICATE]) if insn.opcode == _CMPPS else insn.raw


def _touch(emit: Emitter, insn: Insn) -> None:
    emit.emit("mov dword ptr cs:[{S0}], ecx")
    lea_ecx(emit, insn)
    sizes = b"" if emit.context.code32 else b"\x66\x67"
    emit.raw(b"".join(sizes + piece for piece in _LOW_BITS))
    emit.mark((Reg.ECX, S0), (MISALIGNED, S0))
    page = emit.window.page - emit.window.cs_base & MASK32
    emit.raw(b"\x2e" + sizes + _TOUCH + page.to_bytes(4, "little"))
    emit.mark((Reg.ECX, S0))
    emit.emit("mov ecx, dword ptr cs:[{S0}]")


# What a PREPARE exit in front of an instruction, or behind it, is for: its `target`.
STATE, BEHIND_STATE, LOOK_AT_ADDRESS, LOOK_AT_ACCESSES = range(4)
