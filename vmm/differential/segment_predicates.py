"""Differences because the reference makes no segment checks: each function knows one.

An engine that does make them is right if the rules of segmentation say so for the instruction that its handler found;
`operand_faults.py` works that out from what the stop shows, with nothing of the translator's.
"""

from collections.abc import Iterator
from typing import Final

from bt.decode import MAX_LENGTH, Insn
from vmm.arch.descriptors import CODE, CONFORMING, READABLE, WRITABLE, Descriptor
from vmm.arch.exceptions import Vector
from vmm.arch.registers import Seg
from vmm.differential.case import Case
from vmm.differential.evidence import DECODER, FAST_CALLS, GROUP_5, WIDE, at_fault, instructions, own_stop
from vmm.differential.operand_faults import (
    Access,
    accesses,
    general_before,
    segments_before,
    stack_accesses,
    violates,
)
from vmm.differential.outcome import TASK, Ending, Stop

CHECKING: Final = ("translate", "callouts", "self-checking", "bochs")
"""What makes the checks of segments."""
_OF_SEGMENTS: Final = (Vector.GP, Vector.SS, Vector.DF)
_RETURNS: Final = (0xC2, 0xC3)
_INDIRECT: Final = (2, 4)
_LOADS: Final = (0x07, 0x17, 0x1F, 0x8E, 0xC4, 0xC5, 0x0FA1, 0x0FA9, 0x0FB2, 0x0FB4, 0x0FB5)
_NO_REGISTERS: Final = (0,) * 8
_FLAT: Final = 0xFFFF_FFFF
_WHOLE: Final = 4
"""Fields of a segment register that is present."""
IMAGES: Final = {"fldenv": 28, "fnstenv": 28, "frstor": 108, "fnsave": 108, "fxsave": 512, "fxrstor": 512}
"""Bytes at the most."""
_X87_STORES: Final = ("fst", "fist", "fbst", "fnst", "fnsave", "fxsave")
_ONLY_READ: Final = frozenset(
    "bt call cmp div idiv imul jmp ldmxcsr lgdt lidt lldt lmsw ltr mul push test verr verw".split()
)
_WITHOUT_OPERANDS: Final = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0), 0xD7, 0x0FF7))


def leaves_its_segment(case: Case) -> bool:
    """#GP or #SS for an operand that its segment does not allow. There may be one where #GP is a shutdown, in the
    reference a later one, if any; or where its gate leads to a task, whose stop does not show it."""
    if case.against in CHECKING:
        return False
    stop = own_stop(case)
    if stop is None:
        return case.got.ending is Ending.SHUTDOWN and _may_leave_its_segment(case)
    if stop.where == TASK:
        return _may_leave_its_segment(case)
    if stop.vector not in _OF_SEGMENTS:
        return False
    if not stop.code:  # the handler has no frame that would say where it came from
        return _may_leave_its_segment(case)
    return any(_is_forbidden(case, stop, insn) for insn in _found(case, stop))


def _may_leave_its_segment(case: Case) -> bool:
    """Is there an operand in a segment that is not flat, or may not be when it has been loaded, or one in CS?"""
    operands = [insn for insn in instructions(case.program) if _has_operand(insn) or _uses_stack(insn)]
    may_be = case.program.based or any(insn.opcode in _LOADS for insn in instructions(case.program))
    return bool(operands) and (may_be or any(insn.segment_override == Seg.CS for insn in operands))


def _uses_stack(insn: Insn) -> bool:
    return any(True for _ in stack_accesses(insn, _NO_REGISTERS, True))


def _has_operand(insn: Insn) -> bool:
    return insn.opcode in _WITHOUT_OPERANDS or (insn.has_modrm and not insn.is_register_form)


def _found(case: Case, stop: Stop) -> Iterator[Insn]:
    """What the handler found: in code of the program's own descriptors, too, and behind SYSENTER and SYSEXIT, where it
    is flat whatever the GDT says."""
    code = segments_before(case, stop)[Seg.CS]
    for code32 in {stop.code32, code is not None and code.is_default_big}:
        insn = DECODER.one(stop.code, 0, code32)
        if insn is not None:
            yield insn
    if any(each.opcode in FAST_CALLS for each in instructions(case.program)):
        flat = DECODER.one(case.program.memory()[stop.saved_eip : stop.saved_eip + MAX_LENGTH], 0, True)
        if flat is not None:
            yield flat


def _is_forbidden(case: Case, stop: Stop, insn: Insn) -> bool:
    segments, general = _segments(case, stop), general_before(case, stop)
    stack = segments[Seg.SS]
    stack32 = stack is not None and stack.is_default_big
    size = IMAGES.get(insn.name, 0)
    found = [access._replace(size=max(size, access.size)) for access in accesses(insn, general)]
    found += stack_accesses(insn, general, stack32)
    return any(_forbids(insn, access, segments[access.seg]) for access in found)


def _segments(case: Case, stop: Stop) -> dict[int, Descriptor | None]:
    """As the handler found them: an interrupt leaves data segment registers as they are, but out of V86."""
    found = segments_before(case, stop)
    for seg in (Seg.ES, Seg.DS, Seg.FS, Seg.GS):
        if len(stop.segments[seg]) == _WHOLE:
            _, base, limit, flags = stop.segments[seg]
            found[seg] = Descriptor(base, limit, flags)
    return found


def branches_out_of_code(case: Case) -> bool:
    """#GP for RET, or a near JMP or CALL through a register or memory, that could go beyond the limit of CS."""
    stop = None if case.against in CHECKING else own_stop(case)
    insn = None if stop is None or stop.vector not in (Vector.GP, Vector.DF) else at_fault(stop)
    if stop is None or insn is None:
        return False
    is_indirect = insn.opcode in _RETURNS or (insn.opcode == GROUP_5 and insn.modrm >> 3 & 7 in _INDIRECT)
    return is_indirect and insn.operand_size == WIDE and _code_limit(case, stop) < _FLAT


def _code_limit(case: Case, stop: Stop) -> int:
    code = segments_before(case, stop)[Seg.CS]
    return _FLAT if code is None else code.limit


def _forbids(insn: Insn, access: Access, segment: Descriptor | None) -> bool:
    """`violates`, but for a read of what may be read and not written."""
    if not violates(access, segment):
        return False
    if segment is None or not _is_only_readable(segment) or _may_write(insn):
        return True
    return violates(access, _made_writable(segment))


def _made_writable(segment: Descriptor) -> Descriptor:
    """Data with the same offsets."""
    code = CODE | CONFORMING if segment.flags & CODE else 0
    return Descriptor(segment.base, segment.limit, segment.flags & ~code | WRITABLE)


def _is_only_readable(segment: Descriptor) -> bool:
    return bool(segment.flags & READABLE) if segment.flags & CODE else not segment.is_writable


def _may_write(insn: Insn) -> bool:
    """Is its first operand in memory, and not of an instruction that only reads it? Or has it no operands to tell?"""
    if insn.opcode in _WITHOUT_OPERANDS:
        return True
    if insn.name.startswith("f"):
        return insn.name.startswith(_X87_STORES)
    return "[" in insn.text.split(",")[0] and insn.name not in _ONLY_READ
