"""Differences between Bochs and an engine of ours, recognised by what they look like: each function knows one.

`got` is what Bochs did. See `predicates.py`, `bochs_flaws.py`.
"""

from collections.abc import Iterator
from typing import Final

from bt.decode import Insn
from bt.tables import waits
from vmm.arch.exceptions import Vector
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr0, Cr4, Seg
from vmm.differential.case import Case
from vmm.differential.evidence import (
    GROUP_5,
    OF_PAGES,
    at_fault,
    both_stops,
    instructions,
    moved_fault,
)
from vmm.differential.layout import BASES, RAM
from vmm.differential.memory_predicates import TABLE_PAGES, memory_alone
from vmm.differential.modes import Paging
from vmm.differential.operand_faults import (
    Access,
    accesses,
    general_before,
    segments_before,
    stack_accesses,
    violates,
)
from vmm.differential.outcome import FIRST_FREE, GENERAL, Ending, Stop
from vmm.differential.segment_predicates import CHECKING, IMAGES

_OF_SEGMENTS: Final = (Vector.GP, Vector.SS, Vector.DF)
_MXCSR_FLAGS: Final = 0x3F
_EXPONENT: Final = 16  # hexadecimal digits in front of it
_ALL_ONES: Final = "ffff"
_MXCSR_AT: Final = 9
_FIRST_X87, _LAST_X87 = 1, 8
_STATUS, _CONTROL = 8, 12
"""Digits of the first word: top, a status of two bytes from here on, the control word from there, tags."""
_GROUP_15: Final = 0x0FAE
_LDMXCSR, _CLFLUSH = 2, 7
_LONGEST: Final = 10
_NOP: Final = b"\x90"
_VIRTUAL: Final = 3 << 19  # VIF and VIP
_CVTPI: Final = 0x0F2A
_TO_CR, _CR4 = 0x0F22, 4
_LAR: Final = 0x0F02
_LAR_UNDEFINED: Final = 0xF_0000
_MOV_DR: Final = (0x0F21, 0x0F23)
_MASKMOV: Final = 0x0FF7
_OF_PUSHES: Final = (Vector.PF, Vector.SS)
_CALL: Final = 0xE8
_RETURNS: Final = (0xC2, 0xC3)
_INDIRECT: Final = (2, 4)


def misses_segment_checks(case: Case) -> bool:
    """#GP or #SS for an operand that its segment does not allow, where the other engine checks none."""
    if case.against in CHECKING:
        return False
    stop = _bochs_faulted(case)
    insn = None if stop is None else at_fault(stop)
    if stop is None or insn is None or stop.vector not in _OF_SEGMENTS:
        return False
    segments = segments_before(case, stop)
    return any(violates(access, segments[access.seg]) for access in _all_accesses(case, stop, insn))


def _all_accesses(case: Case, stop: Stop, insn: Insn) -> list[Access]:
    general, stack = general_before(case, stop), segments_before(case, stop)[Seg.SS]
    stack32 = stack is not None and stack.is_default_big
    return [*accesses(insn, general), *stack_accesses(insn, general, stack32)]


def _bochs_faulted(case: Case) -> Stop | None:
    """Bochs's stop, where it found an exception that the other engine did not, at a step."""
    stops = both_stops(case)
    if stops is None:
        later = case.got.stops[len(case.expected.stops) :]
        return later[0] if later else None
    mine, other = stops
    same = mine.vector == other.vector and mine.saved_eip == other.saved_eip
    return None if same or mine.vector < 0 else mine


def rounds_registers_off(case: Case) -> bool:
    """The x87, MMX and SSE registers alone differ: exponents of MMX registers, which Bochs sets to ones; flags of MXCSR
    and of the x87 status, which the engine does not set. Tags and top, where an MMX instruction faulted."""
    return {each.what for each in case.differences} == {"fpu"} and has_known_registers(case)


def has_known_registers(case: Case) -> bool:
    """Is what differs in them, if anything does, of that kind?"""
    mine, other = case.got.fpu.split(), case.expected.fpu.split()
    status = mine[0][:_STATUS] + mine[0][_CONTROL:] == other[0][:_STATUS] + other[0][_CONTROL:]
    if not status and not _has_no_mmx_state(case):
        return False
    return all(_is_known(number, *pair) for number, pair in enumerate(zip(mine[1:], other[1:], strict=True), 1))


def _has_no_mmx_state(case: Case) -> bool:
    """An MMX instruction faulted, or CVTPI2PS or CVTPI2PD read memory: then tags and top stay."""
    converts = (insn.opcode == _CVTPI and not insn.is_register_form for insn in instructions(case.program))
    return any(converts) or any(_is_of_mmx(stop) for stop in case.got.stops)


def has_more_of_cr4(case: Case) -> bool:
    """#GP in the other engine for a MOV to CR4, whose bits Bochs has."""
    stops = both_stops(case)
    if stops is None or stops[1].vector != Vector.GP:
        return False
    insn = at_fault(stops[1])
    return insn is not None and insn.opcode == _TO_CR and insn.modrm >> 3 & 7 == _CR4


def _is_of_mmx(stop: Stop) -> bool:
    insn = at_fault(stop) if 0 <= stop.vector < FIRST_FREE else None
    return insn is not None and waits(insn)


def changes_mxcsr(case: Case) -> bool:
    """#GP for reserved bits that LDMXCSR would load, or #XF for an SSE error that is not masked."""
    stop = _bochs_faulted(case)
    insn = None if stop is None else at_fault(stop)
    if stop is None or insn is None:
        return False
    is_load = insn.opcode == _GROUP_15 and insn.modrm >> 3 & 7 == _LDMXCSR
    return stop.vector == Vector.XF or (is_load and stop.vector == Vector.GP)


def flushes_a_line(case: Case) -> bool:
    """A fault of CLFLUSH; or page tables alone differ, and a program has one."""
    stop = _bochs_faulted(case)
    insn = None if stop is None else at_fault(stop)
    if insn is not None:
        return _is_clflush(insn)
    return _tables_alone(case) and any(map(_is_clflush, instructions(case.program)))


def _is_clflush(insn: Insn) -> bool:
    return insn.opcode == _GROUP_15 and insn.modrm >> 3 & 7 == _CLFLUSH


def names_another_byte(case: Case) -> bool:
    """CR2 alone differs, and the fault is of the same instruction, with an operand of several bytes or two operands."""
    fault = moved_fault(case)
    insn = None if fault is None or fault[0].vector not in OF_PAGES else at_fault(fault[0])
    if fault is None or insn is None:
        return False
    stop, *addresses = fault
    segments = segments_before(case, stop)
    places = [
        range(found.base + offset, found.base + offset + max(size, _LONGEST))
        for seg, offset, size in _all_accesses(case, stop, insn)
        if (found := segments[seg]) is not None
    ]
    return all(any(address in place for place in places) for address in addresses)


def shows_more_rights(case: Case) -> bool:
    """A general register alone differs, in bits 19:16, and there is a LAR."""
    stops = both_stops(case)
    if stops is None or len(case.differences) != 1 or case.differences[0].what not in GENERAL:
        return False
    changed = case.differences[0].got ^ case.differences[0].expected
    return not changed & ~_LAR_UNDEFINED and any(insn.opcode == _LAR for insn in instructions(case.program))


def ranks_debug_registers(case: Case) -> bool:
    """MOV to or from a debug register outside ring 0: #UD or #GP."""
    stops = both_stops(case)
    insn = None if stops is None else at_fault(stops[0])
    if stops is None or insn is None or insn.opcode not in _MOV_DR:
        return False
    return {stops[0].vector, stops[1].vector} == {Vector.UD, Vector.GP}


def touches_for_nothing(case: Case) -> bool:
    """A page fault of MASKMOVQ or MASKMOVDQU, which may have had nothing to store; or page tables alone differ, and a
    program has one."""
    stop = _bochs_faulted(case)
    insn = None if stop is None else at_fault(stop)
    if stop is not None and insn is not None:
        return insn.opcode == _MASKMOV and stop.vector == Vector.PF
    return _tables_alone(case) and any(insn.opcode == _MASKMOV for insn in instructions(case.program))


def _tables_alone(case: Case) -> bool:
    return {each.what for each in case.differences} <= TABLE_PAGES | {"fpu"}


def loses_state(case: Case) -> bool:
    """Both shut down, and registers alone differ: the reset that Bochs makes of it clears them."""
    shut = case.got.ending is case.expected.ending is Ending.SHUTDOWN
    return shut and {each.what for each in case.differences} == {"fpu"}


def misses_alignment_check(case: Case) -> bool:
    """#AC, at CPL 3 with CR0.AM and EFLAGS.AC."""
    stops = both_stops(case)
    return stops is not None and stops[0].vector == Vector.AC


def faults_at_the_target(case: Case) -> bool:
    """#GP for a RET, or an indirect JMP or CALL; the other engine's is at the target."""
    if case.against in CHECKING:
        return False
    stops = both_stops(case)
    if stops is None or not stops[0].vector == stops[1].vector == Vector.GP:
        return False
    insn = at_fault(stops[0])
    if insn is None or stops[0].saved_eip == stops[1].saved_eip:
        return False
    return insn.opcode in _RETURNS or (insn.opcode == GROUP_5 and insn.modrm >> 3 & 7 in _INDIRECT)


def pushes_before_it_looks(case: Case) -> bool:
    """A CALL beyond the limit of CS: #GP, but Bochs has pushed by then, or met the fault of the push."""
    stops = both_stops(case)
    if stops is not None:
        return stops[0].vector in _OF_PUSHES and stops[1].vector == Vector.GP and _is_near_call(at_fault(stops[1]))
    met = any(stop.vector == Vector.GP and _is_near_call(at_fault(stop)) for stop in case.got.stops)
    return met and memory_alone(case)


def _is_near_call(insn: Insn | None) -> bool:
    return insn is not None and (
        insn.opcode == _CALL or (insn.opcode == GROUP_5 and insn.modrm >> 3 & 7 == _INDIRECT[0])
    )


def wraps_image(case: Case) -> bool:
    """#GP or #SS, in the other engine alone, of an instruction that loads or stores the state of x87."""
    stops = both_stops(case)
    insn = None if stops is None else at_fault(stops[1])
    return insn is not None and insn.name in IMAGES and stops is not None and stops[1].vector in _OF_SEGMENTS


def ranks_alignment_and_limit(case: Case) -> bool:
    """#GP and #SS of the same instruction, whose operand has 128 bits."""
    stops = both_stops(case)
    if stops is None or {stop.vector for stop in stops} != {Vector.GP, Vector.SS}:
        return False
    insn = at_fault(stops[0])
    return insn is not None and "xmmword" in insn.text and stops[0].saved_eip == stops[1].saved_eip


def runs_elsewhere(case: Case) -> bool:
    """Flags alone differ, and a handler found the program outside of its code."""
    stops = both_stops(case)
    if stops is None or not {each.what for each in case.differences} <= {"eflags", "frame"}:
        return False
    starts = case.program.assemble()[1]
    code = range(starts[0], starts[-1] + 1)
    return stops[0].vector >= 0 and _saved_linear(case, stops[0]) not in code


def has_no_memory_there(case: Case) -> bool:
    """A program ran where only one of the machines has memory; or, without paging, has an operand there."""
    stops = both_stops(case)
    if stops is None:
        return case.program.paging is Paging.NONE and any(map(_is_beyond_ram, _operands(case)))
    return any(_saved_linear(case, stop) >= RAM for stop in stops if stop.vector >= 0)


def _operands(case: Case) -> Iterator[int]:
    """Linear addresses of operands, with the registers of the start and the bases that segments may have."""
    general, mode = case.program.registers, case.program.mode
    bases = BASES if case.program.based or not mode.code32 else BASES[:1]
    for insn in instructions(case.program):
        for access in accesses(insn, general):
            yield from (access.offset + base & MASK32 for base in bases)


def _is_beyond_ram(address: int) -> bool:
    return address + _LONGEST > RAM


def _saved_linear(case: Case, stop: Stop) -> int:
    code = segments_before(case, stop)[Seg.CS]
    return 0 if code is None else code.base + stop.saved_eip & MASK32


def ranks_nm_and_ud(case: Case) -> bool:
    """#UD or #NM of an instruction of SSE or MMX, with CR0.TS, and CR0.EM or without CR4.OSFXSR."""
    stops = both_stops(case)
    if stops is None or {stops[0].vector, stops[1].vector} != {Vector.UD, Vector.NM}:
        return False
    cr0, _, _, cr4 = stops[0].control
    is_undefined = cr0 & Cr0.EM or not cr4 & Cr4.OSFXSR
    return stops[0].saved_eip == stops[1].saved_eip and bool(cr0 & Cr0.TS and is_undefined)


def has_virtual_interrupt_flags(case: Case) -> bool:
    """VIF and VIP alone differ, in EFLAGS or in an image of 32 bits."""
    stops = both_stops(case)
    if stops is None or not {each.what for each in case.differences} <= {"frame", "eflags"}:
        return False
    mine, other = (int.from_bytes(bytes.fromhex(stop.frame), "little") for stop in stops)
    places = sum(_VIRTUAL << bit for bit in range(0, 8 * len(stops[0].frame) // 2, 32))
    return not (stops[0].eflags ^ stops[1].eflags) & ~_VIRTUAL and not (mine ^ other) & ~places


def aligned(insn: Insn) -> bytes | None:
    """An SSE instruction with a 128-bit operand in memory, as NOP."""
    return _NOP if insn.opcode >= 0x0F00 and "xmmword" in insn.text else None


def shuts_down(case: Case) -> bool:
    """Both or one shut down."""
    return Ending.SHUTDOWN in (case.got.ending, case.expected.ending)


def _is_known(number: int, mine: str, other: str) -> bool:
    if mine == other:
        return True
    if number == _MXCSR_AT:
        return not (int(mine[:2], 16) ^ int(other[:2], 16)) & ~_MXCSR_FLAGS and mine[2:] == other[2:]
    if _FIRST_X87 <= number <= _LAST_X87:
        return mine[:_EXPONENT] == other[:_EXPONENT] and mine[_EXPONENT:] == _ALL_ONES
    return False
