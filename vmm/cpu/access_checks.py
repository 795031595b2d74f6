"""The segment checks of one instruction that cached code is about to execute, made in full.

Cached code has fast ways to see that an access is allowed (see `bt.segment_checks`); where they do not say so, this
module looks at the instruction and the registers as the processor would.

Source: Intel SDM Vol. 3A, "Limit Checking"; Vol. 2A-2B, the instructions' "Operation" and "Exceptions" sections.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from bt.accesses import Access, Via, accesses
from bt.branches import target_of
from bt.decode import Insn
from bt.stack_frames import frame_size
from bt.tables import repeats, waits
from vmm.arch.exceptions import gp
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr0, Cr4, Eflags, Reg, Seg
from vmm.cpu import fpu, limits
from vmm.cpu.operands import effective_offset, read_rm
from vmm.cpu.vcpu import Vcpu

_MASKS: Final = {2: 0xFFFF, 4: MASK32}
_DF: Final = int(Eflags.DF)
_ZF: Final = int(Eflags.ZF)
_SS: Final = int(Seg.SS)
_ESP: Final = int(Reg.ESP)
_EBP: Final = int(Reg.EBP)
_FPU_OFF: Final = int(Cr0.EM | Cr0.TS)
_X87: Final = range(0xD8, 0xE0)
_SIMD: Final = frozenset(
    at
    for first, end in ((0x10, 0x18), (0x28, 0x30), (0x50, 0x80), (0xAE, 0xAF), (0xC2, 0xC3), (0xC4, 0xC7), (0xD0, 0xFF))
    for at in range(0x0F00 + first, 0x0F00 + end)
)
_SSE_ALONE: Final = frozenset(
    (*range(0x0F10, 0x0F18), *range(0x0F28, 0x0F2A), 0x0F2B, 0x0F2E, 0x0F2F, *range(0x0F50, 0x0F60), 0x0FC2, 0x0FC6)
)
"""Opcodes that name an XMM register, or memory for one, whatever their prefix is."""
_GROUP_15: Final = (0x0FAE,)
_MXCSR_FIELDS: Final = (2, 3)
_OPERAND_SIZE: Final = 0x66
_OSFXSR: Final = int(Cr4.OSFXSR)
_USER_RING: Final = 3
_PUSHA_FAULTS: Final = range(7, 16, 2)
_WIDEST: Final = 512


class Place(NamedTuple):
    """Where an access is: `size` bytes at a 32-bit offset of a segment register."""

    seg: int
    offset: int
    size: int
    write: bool


def check_all(vcpu: Vcpu, insn: Insn) -> int | None:
    """Check every access of the instruction at `vcpu.eip`, and where a near branch goes.

    Returns: None if it may run. For a string instruction under REP: how many iterations, 1 or more, come before one
    that may not.
    Raises: GuestFault #SS(0), #GP(0).
    """
    if _is_unavailable(vcpu, insn):
        return None  # #NM or #UD comes first
    if waits(insn) and fpu.waiting_errors(vcpu):
        return None  # #MF does
    if repeats(insn):
        done = _iterations_allowed(vcpu, insn)
        if done != 0:
            return done
    _check_places(vcpu, insn)
    _check_target(vcpu, insn)
    return None


def _check_places(vcpu: Vcpu, insn: Insn) -> None:
    """Raises: GuestFault: of the first access that may not be: what comes before it has its page faults first."""
    before: list[Place] = []
    for place in places(vcpu, insn):
        if not limits.is_allowed(vcpu, *place):
            _check_pages(vcpu, before)
            raise limits.segment_fault(place.seg)
        before.append(place)


def _check_pages(vcpu: Vcpu, accessed: list[Place]) -> None:
    user = vcpu.cpl == _USER_RING
    for seg, offset, size, write in accessed:
        check = vcpu.memory.check_write if write else vcpu.memory.check_read
        check(vcpu.base(seg) + offset & MASK32, size, user)


def _is_unavailable(vcpu: Vcpu, insn: Insn) -> bool:
    """Do CR0.TS, CR0.EM or CR4.OSFXSR keep an x87, MMX or SSE instruction from being executed?"""
    if insn.opcode in _SIMD and not vcpu.cr4 & _OSFXSR and _uses_xmm(insn):
        return True
    return bool(vcpu.cr0 & _FPU_OFF) and (insn.opcode in _X87 or insn.opcode in _SIMD)


def _uses_xmm(insn: Insn) -> bool:
    """Of the opcodes in `_SIMD`: is it SSE, not MMX? Source: SDM Vol. 2D, "Opcode Map"."""
    if insn.opcode in _GROUP_15:
        return insn.modrm >> 3 & 7 in _MXCSR_FIELDS
    return insn.opcode in _SSE_ALONE or bool(insn.repeat) or _OPERAND_SIZE in insn.prefixes


def is_empty(vcpu: Vcpu, insn: Insn) -> bool:
    """Does an instruction access nothing after all: a REP that has nothing to do, or one that is not available?"""
    if _is_unavailable(vcpu, insn):
        return True
    return repeats(insn) and not vcpu.reg32(Reg.ECX) & _MASKS[insn.address_size]


def runs(vcpu: Vcpu, insn: Insn) -> Iterator[Place]:
    """As `places`, but what a repeated instruction may do in all its iterations as one access each; at the most that,
    since REPE and REPNE may end before, and what goes round the end of the address size is not taken apart."""
    if not repeats(insn):
        yield from places(vcpu, insn)
        return
    mask = _MASKS[insn.address_size]
    beyond = (vcpu.reg32(Reg.ECX) & mask) - 1
    backward = bool(vcpu.fold_flags() & _DF)
    for place in places(vcpu, insn):
        length = beyond * place.size
        start = place.offset - length if backward else place.offset
        if start < 0 or start + length + place.size > mask + 1:
            start, length = 0, mask
        yield place._replace(offset=start, size=place.size + length)


def places(vcpu: Vcpu, insn: Insn) -> Iterator[Place]:
    """All accesses of an instruction, one by one."""
    for access in accesses(insn):
        if access.via is Via.ENTER:
            yield from _enter(vcpu, insn)
        elif access.via in (Via.PUSH, Via.POP):
            yield from _on_stack(vcpu, access)
        else:
            seg, offset = _located(vcpu, insn, access)
            yield Place(seg, offset, access.size, access.write)


# --- addresses ------------------------------------------------------------------------------------------------------


def _located(vcpu: Vcpu, insn: Insn, access: Access) -> tuple[int, int]:
    via, mask = access.via, _MASKS[insn.address_size]
    if via is Via.OPERAND:
        return insn.memory.segment, effective_offset(vcpu, insn.memory)
    if via is Via.POPPED:
        moved = access.size if insn.memory.base == _ESP else 0
        return insn.memory.segment, effective_offset(vcpu, insn.memory) + moved & mask
    if via is Via.BITS:
        return insn.memory.segment, effective_offset(vcpu, insn.memory) + _bit_string_step(vcpu, insn) & mask
    if via is Via.FRAME:
        return _SS, vcpu.reg32(_EBP) & _MASKS[vcpu.stack_size]
    if via is Via.DESTINATION:
        return Seg.ES, vcpu.reg32(Reg.EDI) & mask
    seg = Seg.DS if insn.segment_override is None else insn.segment_override
    if via is Via.OFFSET:
        return seg, int.from_bytes(insn.tail[: insn.address_size], "little")
    if via is Via.TABLE:
        return seg, vcpu.reg32(Reg.EBX) + vcpu.reg(Reg.EAX, 1) & mask
    return seg, vcpu.reg32(Reg.EDI if via is Via.MASKED else Reg.ESI) & mask


def _bit_string_step(vcpu: Vcpu, insn: Insn) -> int:
    """How far, in bytes, the bit offset in a register moves the operand (SDM Vol. 2A, "BT - Bit Test")."""
    size = insn.operand_size
    bit = vcpu.reg(insn.modrm >> 3 & 7, size)
    signed = bit - (1 << 8 * size) if bit >> (8 * size - 1) else bit
    return signed // (8 * size) * size


def _on_stack(vcpu: Vcpu, access: Access) -> Iterator[Place]:
    mask = _MASKS[vcpu.stack_size]
    pointer = vcpu.reg32(_ESP)
    if access.times > 1 and access.write and mask != MASK32 and pointer & mask in _PUSHA_FAULTS:
        _refuse_pusha(vcpu)
    for index in range(access.times):
        at = pointer - (index + 1) * access.size if access.via is Via.PUSH else pointer + index * access.size
        yield Place(_SS, at & mask, access.size, access.write)


def _refuse_pusha(vcpu: Vcpu) -> None:
    """Raises: GuestFault #GP: PUSHA at SP 7 to 15 in real mode and V86 (SDM Vol. 2B, "PUSHA/PUSHAD")."""
    if vcpu.is_real or vcpu.is_v86:
        raise gp()


def _enter(vcpu: Vcpu, insn: Insn) -> Iterator[Place]:
    """ENTER: the old frame pointer, copies of those of outer levels, its own, and a probe at the new top.

    Source: SDM Vol. 2A, "ENTER - Make Stack Frame for Procedure Parameters".
    """
    size, mask = insn.operand_size, _MASKS[vcpu.stack_size]
    room, level = frame_size(insn)
    pointer, frame = vcpu.reg32(_ESP) - size, vcpu.reg32(_EBP)
    yield Place(_SS, pointer & mask, size, True)
    for _ in range(1, level):
        frame, pointer = frame - size, pointer - size
        yield Place(_SS, frame & mask, size, False)
        yield Place(_SS, pointer & mask, size, True)
    if level:
        pointer -= size
        yield Place(_SS, pointer & mask, size, True)
    yield Place(_SS, pointer - room & mask, size, True)


# --- REP ------------------------------------------------------------------------------------------------------------


def _iterations_allowed(vcpu: Vcpu, insn: Insn) -> int | None:
    """How many iterations come before one that may not be; None if there is none such."""
    mask = _MASKS[insn.address_size]
    count = vcpu.reg32(Reg.ECX) & mask
    backward = bool(vcpu.fold_flags() & _DF)
    done = count
    for access in accesses(insn):
        seg, offset = _located(vcpu, insn, access)
        place = Place(seg, offset, access.size, access.write)
        done = min(done, _iterations(vcpu, place, -1 if backward else 1, mask, done))
    return None if done == count else done


def _iterations(vcpu: Vcpu, place: Place, direction: int, mask: int, count: int) -> int:
    """How many of `count` accesses, each next to the last one, come before one that is not allowed."""
    flags, size = vcpu.flags_of(place.seg), place.size
    if not limits.allows(flags, place.write, vcpu.is_real):
        return 0
    first, last = limits.bounds(vcpu.limit(place.seg), flags)
    if last == MASK32:
        last += _WIDEST  # an operand may go round the end of 4 GiB
    offset, done = place.offset, 0
    while done < count:
        if offset < first or offset + size - 1 > last:
            return done
        here = min(last - size + 1, mask) - offset if direction > 0 else offset - first
        steps = here // size + 1
        done += steps
        offset = offset + direction * size * steps & mask
    return count


# --- near branches --------------------------------------------------------------------------------------------------

_RELATIVE: Final = (0xE8, 0xE9, 0xEB)
_LOOPS: Final = range(0xE0, 0xE4)
_LOOPNE, _LOOPE, _JCXZ = 0xE0, 0xE1, 0xE3
_RETURNS: Final = (0xC2, 0xC3)
_JUMP_OR_CALL: Final = (2, 4)


def _check_target(vcpu: Vcpu, insn: Insn) -> None:
    """Raises: GuestFault #GP(0): a CALL, JMP or RET beyond the limit of CS (SDM Vol. 2A, "CALL", "JMP"; 2B, "RET")."""
    opcode, size = insn.opcode, insn.operand_size
    if opcode in _RELATIVE or (opcode in _LOOPS and _is_taken(vcpu, insn)):
        target = target_of(insn)
    elif opcode in _RETURNS:
        pointer = vcpu.reg32(_ESP) & _MASKS[vcpu.stack_size]
        target = vcpu.memory.read(vcpu.base(_SS) + pointer & MASK32, size, vcpu.cpl == 3)
    elif opcode == 0xFF and insn.modrm >> 3 & 7 in _JUMP_OR_CALL:
        target = read_rm(vcpu, insn, size)
    else:
        return
    if target > vcpu.limit(Seg.CS):
        raise gp()


def _is_taken(vcpu: Vcpu, insn: Insn) -> bool:
    """Will LOOP, LOOPE, LOOPNE or JCXZ branch? (SDM Vol. 2A, "LOOP/LOOPcc", "Jcc")"""
    count = vcpu.reg(Reg.ECX, insn.address_size)
    if insn.opcode == _JCXZ:
        return count == 0
    is_zero = bool(vcpu.fold_flags() & _ZF)
    return count != 1 and insn.opcode not in ((_LOOPNE,) if is_zero else (_LOOPE,))
