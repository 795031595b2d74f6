"""Was an access of an instruction to memory a fault of its own, by the rules of segmentation? From what a stop shows.

Source: SDM Vol. 3A, "Limit Checking", "Type Checking"; Vol. 1, "Memory Operands" (alignment of 128-bit operands).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from bt.decode import Insn
from vmm.arch.descriptors import DESCRIPTOR_SIZE, SELECTOR_INDEX, SELECTOR_TI, Descriptor
from vmm.arch.exceptions import HAS_ERROR_CODE
from vmm.arch.layout import MASK32
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu.vcpu import DESC_B, DESC_P
from vmm.differential.case import Case
from vmm.differential.evidence import DECODER, FAR, GROUP_5
from vmm.differential.layout import GDT, LDT
from vmm.differential.modes import Kind
from vmm.differential.outcome import Stop

_LIMIT_16: Final = 0xFFFF
_TYPE: Final = 0xF00
_CODE, _EXPAND_DOWN, _WRITABLE = 0x800, 0x400, 0x200  # bits of the type in dword 1; for code: conforming, readable
_NULL: Final = 0xFFFC
_XMM: Final = 16
_STRINGS_FROM_SI: Final = frozenset((0xA4, 0xA5, 0xA6, 0xA7, 0xAC, 0xAD, 0x6E, 0x6F))
_STRINGS_TO_DI: Final = frozenset((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAE, 0xAF, 0x6C, 0x6D))
_MOFFS: Final = range(0xA0, 0xA4)
_XLAT: Final = 0xD7
_MASKMOV: Final = 0x0FF7
_PUSHA, _POPA, _LEAVE, _FAR_CALL = 0x60, 0x61, 0xC9, 3
_ENTER, _LEVELS = 0xC8, 31
_PUSHES: Final = frozenset(
    (*range(0x50, 0x58), 0x06, 0x0E, 0x16, 0x1E, 0x0FA0, 0x0FA8, 0x68, 0x6A, 0x9C, _PUSHA, 0xE8, 0x9A)
)
_PUSHES_OF_GROUP_5: Final = (2, _FAR_CALL, 6)
_POPS: Final = frozenset(
    (*range(0x58, 0x60), 0x07, 0x17, 0x1F, 0x0FA1, 0x0FA9, 0x9D, _POPA, 0xC2, 0xC3, 0x8F, _LEAVE, 0xCA, 0xCB, 0xCF)
)
_BIT_STRINGS: Final = frozenset((0x0FA3, 0x0FAB, 0x0FB3, 0x0FBB))


class Access(NamedTuple):
    """`size` bytes from `offset` on in segment register `seg`."""

    seg: int
    offset: int
    size: int


def stack_accesses(insn: Insn, general: tuple[int, ...], stack32: bool) -> Iterator[Access]:
    """What an instruction pushes, or else what it pops."""
    opcode, width = insn.opcode, insn.operand_size
    mask = MASK32 if stack32 else _LIMIT_16
    group = opcode == GROUP_5 and insn.modrm >> 3 & 7
    if opcode == _ENTER:
        levels = insn.tail[2] & _LEVELS
        for number in range(1, levels):
            yield Access(Seg.SS, general[Reg.EBP] - width * number & mask, width)
        for number in range(1, levels + 2):
            yield Access(Seg.SS, general[Reg.ESP] - width * number & mask, width)
    elif opcode in _PUSHES or group in _PUSHES_OF_GROUP_5:
        size = width * (8 if opcode == _PUSHA else 2 if opcode == FAR[0] or group == _FAR_CALL else 1)
        yield Access(Seg.SS, general[Reg.ESP] - size & mask, size)
    elif opcode in _POPS:
        size = width * (8 if opcode == _POPA else 1)
        yield Access(Seg.SS, general[Reg.EBP if opcode == _LEAVE else Reg.ESP] & mask, size)


def accesses(insn: Insn, general: tuple[int, ...]) -> Iterator[Access]:
    """What an instruction reads and writes through operands, its stack aside."""
    mask = MASK32 if insn.address_size == 4 else _LIMIT_16
    override = insn.segment_override
    data = Seg.DS if override is None else override
    opcode = insn.opcode
    width = insn.operand_size if opcode & 1 else 1
    if opcode in _STRINGS_FROM_SI:
        yield Access(data, general[Reg.ESI] & mask, width)
    if opcode in _STRINGS_TO_DI:
        yield Access(Seg.ES, general[Reg.EDI] & mask, width)
    elif opcode in _MOFFS:
        yield Access(data, int.from_bytes(insn.tail[: insn.address_size], "little"), width)
    elif opcode == _XLAT:
        yield Access(data, general[Reg.EBX] + (general[Reg.EAX] & 0xFF) & mask, 1)
    elif opcode == _MASKMOV:
        yield Access(data, general[Reg.EDI] & mask, _XMM if 0x66 in insn.prefixes else 8)
    elif insn.has_modrm and not insn.is_register_form:
        memory = insn.memory
        offset = memory.displacement
        for reg, scale in ((memory.base, 1), (memory.index, memory.scale)):
            if reg is not None:
                offset += general[reg] * scale
        if opcode in _BIT_STRINGS:
            offset += _bit_string_offset(insn, general)
        yield Access(memory.segment, offset & mask, max(1, DECODER.memory_width(insn)))


def _bit_string_offset(insn: Insn, general: tuple[int, ...]) -> int:
    """How far the word is that BT and its like reach by the bit number in their register."""
    bits = 8 * insn.operand_size
    number = general[insn.modrm >> 3 & 7] & (1 << bits) - 1
    signed = number - (1 << bits) if number >> bits - 1 else number
    return signed // bits * insn.operand_size


def segments_before(case: Case, stop: Stop) -> dict[int, Descriptor | None]:
    """What the segment registers meant to the program that a handler found; None for a null selector."""
    mode = case.program.mode
    selectors = [segment[0] for segment in stop.segments]
    words = _saved(case, stop)
    selectors[Seg.CS] = words[1] & 0xFFFF
    was_v86 = _was_v86(case, stop)
    if was_v86:
        stack, extra = words[4] & 0xFFFF, words[5:9]
        selectors[Seg.SS] = stack
        for seg, value in zip((Seg.ES, Seg.DS, Seg.FS, Seg.GS), extra, strict=False):
            selectors[seg] = value & 0xFFFF
    elif mode.kind is not Kind.REAL and words[1] & 3:
        selectors[Seg.SS] = words[4] & 0xFFFF
    if mode.kind is Kind.REAL or was_v86:
        return {seg: Descriptor(selector << 4, _LIMIT_16, DESC_P | 0x1300) for seg, selector in enumerate(selectors)}
    return {seg: _described(case, selector) for seg, selector in enumerate(selectors)}


def general_before(case: Case, stop: Stop) -> tuple[int, ...]:
    """The general registers of that program."""
    mode, general = case.program.mode, list(stop.general)
    width = _width(stop)
    words = _saved(case, stop)
    if _was_v86(case, stop) or (mode.kind is not Kind.REAL and words[1] & 3):
        general[Reg.ESP] = words[3]
    else:
        general[Reg.ESP] += 3 * width + (width if _has_code(case, stop) else 0)
    return tuple(general)


def violates(access: Access, segment: Descriptor | None) -> bool:
    """Beyond the limit, through a null selector, or of a type that cannot be read or written."""
    if segment is None:
        return True
    _, offset, size = access
    kind = segment.flags & _TYPE
    last = offset + size - 1
    if kind & (_CODE | _EXPAND_DOWN) == _EXPAND_DOWN:
        top = MASK32 if segment.flags & DESC_B else _LIMIT_16
        if not segment.limit < offset <= last <= top:
            return True
    elif last > segment.limit:
        return True
    return kind & (_CODE | _WRITABLE) != _WRITABLE  # it depends on the access then


def _described(case: Case, selector: int) -> Descriptor | None:
    if not selector & _NULL:
        return None
    at = (LDT if selector & SELECTOR_TI else GDT) + (selector & SELECTOR_INDEX)
    return Descriptor.from_bytes(case.program.memory()[at : at + DESCRIPTOR_SIZE])


def _width(stop: Stop) -> int:
    return 4 if stop.eip >> 12 == 7 else 2


def _has_code(case: Case, stop: Stop) -> bool:
    return case.program.mode.kind is not Kind.REAL and stop.vector in HAS_ERROR_CODE


def _was_v86(case: Case, stop: Stop) -> bool:
    """A frame of words does not say."""
    if case.program.mode.kind is Kind.REAL:
        return False
    if _width(stop) == 2:
        return case.program.mode.kind is Kind.V86
    return bool(_saved(case, stop)[2] & int(Eflags.VM))


def _saved(case: Case, stop: Stop) -> list[int]:
    """EIP, CS, EFLAGS and what is above them, from the handler's stack."""
    width, raw = _width(stop), bytes.fromhex(stop.frame)
    skip = width if _has_code(case, stop) else 0
    words = [int.from_bytes(raw[at : at + width], "little") for at in range(skip, len(raw), width)]
    return words + [0] * 9
