"""Differences that are recognised by what they look like: each function knows one.

They look at the first stop that differs: what the engine under test found there, what the reference did, and the
instruction, as it lies in memory.
"""

import struct
from itertools import pairwise
from typing import Final

from bt.decode import LEGACY_PREFIXES, MAX_LENGTH, Insn
from vmm.arch.descriptors import DESCRIPTOR_SIZE, SELECTOR_INDEX, SELECTOR_TI, Descriptor
from vmm.arch.exceptions import HAS_ERROR_CODE, Vector
from vmm.arch.layout import MASK32, PAGE_SHIFT
from vmm.arch.paging import RESERVED_PDPTE, Pte
from vmm.arch.registers import Cr0, Eflags, Reg, Seg
from vmm.cpu.control import CR4_BITS
from vmm.differential.case import Case
from vmm.differential.evidence import (
    DECODER,
    FAR,
    GROUP_5,
    OF_PAGES,
    OF_PORTS,
    STACK_HELPERS,
    WIDE,
    arithmetic_flags_alone,
    at_fault,
    both_stops,
    error_code,
    general_protection,
    instructions,
    own_stop,
)
from vmm.differential.layout import GDT, HANDLER_CODE_16, LDT, MAIN_TSS, SPARE_TSS16, STACKS, TSS
from vmm.differential.layout import TASK as TASK_CODE
from vmm.differential.modes import Kind, Paging
from vmm.differential.operand_faults import segments_before
from vmm.differential.outcome import GENERAL, TASK, Ending, Stop
from vmm.differential.plainer import code_in_place, gates_in_order

_ECX: Final = int(Reg.ECX)
_ESP: Final = int(Reg.ESP)
_LIMIT_16: Final = 0xFFFF
_STRING_PORTS: Final = range(0x6C, 0x70)
_LOCK: Final = 0xF0
_TO_CR: Final = 0x0F22
_CR2, _CR3, _CR4 = 1, 3, 4  # CR2 has that place in `Stop.control`
_POINTER_TABLE: Final = 32  # bytes
_NULLS: Final = ((1,), (2,), (3,))
_PREFIXES: Final = bytes(sorted(LEGACY_PREFIXES))
_GROUPS_OF_ONE: Final = {
    **dict.fromkeys((0x8F, 0xC6, 0xC7), range(1, 8)),
    **dict.fromkeys((0xF6, 0xF7, 0xDB, 0xDD, 0xDF), (1,)),
}
"""Opcodes, and the reg fields with which they do not exist, or exist unofficially."""
_X87_ALIASES: Final = {0xDB: (), 0xDC: (2, 3), 0xDD: (1,), 0xDE: (2,), 0xDF: (1, 2, 3)}
"""The same for registers of x87: other names for FCOM, FCOMP, FXCH and FSTP."""
_WITH_MODRM: Final = 2
_REGISTER_FORM: Final = 0xC0
_CR0: Final = int(Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG)
_GROUP_6: Final = 0x0F00
_LTR: Final = 0xD8
_SELECTOR: Final = 0xFFFC
_IRET: Final = 0xCF
_FAR_CALL: Final = 0x9A
_FAR_CALL_EXTENSION: Final = 3
_HIDDEN_BASE, _HIDDEN_LIMIT = 1, 2  # parts of a segment register as a stop has it
_STRING_STORES: Final = (0x6C, 0x6D, 0xA4, 0xA5, 0xAA, 0xAB)
_VEX: Final = (0xC4, 0xC5)
_CMPPS, _PREDICATES = 0x0FC2, 7
_ALONE: Final = (0xC3, 0xAE)  # MOVNTI and group 15, which take no prefix
_HALVES: Final = (0x12, 0x13, 0x16, 0x17)
_SHIFTS: Final = (0x71, 0x72, 0x73)
_TWO_BYTES: Final = 0x0F
_OF_AMD: Final = (0x05, 0x07, 0x0D)
_WORDS: Final = 0x66
_REPEATS: Final = (0xF2, 0xF3)
_DESCRIPTOR: Final = 0xFFF8
_LOOPS: Final = (0xE0, 0xE1)
_TSS_PAGE: Final = f"page {TSS >> PAGE_SHIFT:#x}"
_TWO_OPERANDS: Final = range(0xA4, 0xA8)
_RET: Final = (0xC2, 0xC3)
_PUSHF: Final = 0x9C
_BIG_FRAME: Final = 40
_V86_FRAMES: Final = (36, 40)
_V86_FRAMES_16: Final = (18, 20)
_OF_TASKS: Final = (Vector.TS, Vector.NP, Vector.SS, Vector.GP)
_TASK_REGISTER: Final = 3  # in `Stop.tables`
_NO_FRAME: Final = "ff" * 40
_SAVED_FLAGS: Final = 8 * 12  # bits from the top of the stack, behind error code, EIP and CS
_NEAR: Final = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE8, 0xE9, 0xEB, *range(0x0F80, 0x0F90)))


def may_push_hidden_flags_elsewhere(case: Case) -> bool:
    """Memory alone differs, and there is a PUSHF in code that may have another size, behind a gate or an IRET."""
    pushes = any(insn.opcode == _PUSHF for insn in instructions(case.program))
    kinds = {difference.what for difference in case.differences}
    far = gates_in_order(case.program) != case.program or any(
        insn.opcode == _IRET for insn in instructions(case.program)
    )
    return pushes and far and may_push_hidden_flags(case) and all(kind.startswith("page ") for kind in kinds)


def enters_v86(case: Case) -> bool:
    """IRET with VM in its frame, at CPL 3: the reference's next handler has a frame out of virtual-8086 mode."""
    stops = both_stops(case)
    if stops is None or case.program.mode.kind is not Kind.PROTECTED or not case.program.mode.ring:
        return False
    frames = _V86_FRAMES_16 if stops[1].segments[Seg.CS][0] == HANDLER_CODE_16 else _V86_FRAMES
    return STACKS[0] - stops[1].general[Reg.ESP] in frames


def counts_nothing(case: Case) -> bool:
    """REP INS or OUTS with a count of 0, of a port that is not allowed; or there may be one where #GP is a shutdown."""
    if case.got.ending is Ending.SHUTDOWN and {each.what for each in case.differences} == {"port accesses"}:
        return any(insn.opcode in _STRING_PORTS and insn.repeat for insn in instructions(case.program))
    found = general_protection(case)
    if found is None or found[1].opcode not in _STRING_PORTS or not found[1].repeat:
        return False
    stop, insn = found
    return not stop.general[_ECX] & (1 << 8 * insn.address_size) - 1


def branches_too_far(case: Case) -> bool:
    """A relative branch beyond FFFFh, the limit of segments with a base. Where #GP or #DF have a task gate the branch
    is not to be seen: it is one of 32 bits in 16-bit code."""
    if _was_in_task(case) and case.program.based and not case.program.mode.code32:
        return any(insn.opcode in _NEAR and insn.operand_size == WIDE for insn in instructions(case.program))
    found = general_protection(case)
    if found is None or found[1].opcode not in _NEAR:
        return False
    code = segments_before(case, found[0])[Seg.CS]
    if not case.program.based and (code is None or code.limit == MASK32):
        return False
    insn = found[1]
    size = 1 if insn.opcode < 0x100 and insn.opcode not in (0xE8, 0xE9) else insn.operand_size
    distance = int.from_bytes(insn.tail[:size], "little", signed=True)
    target = found[0].saved_eip + len(insn.raw) + distance
    return insn.operand_size == 4 and not 0 <= target <= _LIMIT_16


def _was_in_task(case: Case) -> bool:
    """Is the stop behind one in the task of a task gate, which both were in?"""
    number = case.differences[0].stop
    return number > 0 and case.expected.stops[number - 1].where == TASK


def loads_impossible_control(case: Case) -> bool:
    """MOV CR0 with NW and without CD, or with PG and without PE; MOV CR4 with bits that do not exist. There may be one
    where #GP is a shutdown, and the reference shut down later."""
    if both_stops(case) is None and case.got.ending is case.expected.ending is Ending.SHUTDOWN:
        return any(insn.opcode == _TO_CR for insn in instructions(case.program))
    found = general_protection(case)
    if found is None or found[1].opcode != _TO_CR:
        return False
    value, reg = found[0].general[found[1].modrm & 7], found[1].modrm >> 3 & 7
    if reg == _CR4:
        return bool(value & ~CR4_BITS)
    if reg == _CR3:
        return case.program.paging is Paging.PAE and _has_bad_pointers(case.program.memory(), value)
    return reg == 0 and (value & (Cr0.NW | Cr0.CD) == Cr0.NW or value & (Cr0.PG | Cr0.PE) == Cr0.PG)


def _has_bad_pointers(memory: bytes, cr3: int) -> bool:
    """Has a page-directory-pointer table at CR3 entries with reserved bits?"""
    at = cr3 & ~(_POINTER_TABLE - 1)
    entries = struct.unpack("<4Q", memory[at : at + _POINTER_TABLE].ljust(_POINTER_TABLE, b"\xff"))  # no RAM: ones
    return any(entry & Pte.P and entry & RESERVED_PDPTE for entry in entries)


def goes_far_beyond(case: Case) -> bool:
    """A far transfer to code whose limit it ignores: #GP(0), without a selector to blame. The reference is there, or it
    is one of 32 bits out of 16-bit code."""
    found, stops = general_protection(case), both_stops(case)
    if found is None or stops is None:
        return False
    stop, insn = found
    if not _is_beyond_limit(case, stops[1]) and (insn.operand_size != WIDE or stop.code32):
        return False
    is_far = insn.opcode in FAR or (insn.opcode == GROUP_5 and insn.modrm >> 3 & 7 in (3, 5))
    return is_far and (
        case.program.mode.kind is Kind.REAL or not int.from_bytes(bytes.fromhex(stop.frame[:8]), "little")
    )


def blames_a_selector(case: Case) -> bool:
    """A far CALL beyond the limit of the new CS is #GP(0), and #GP with the new selector in the reference."""
    found, stops = general_protection(case), both_stops(case)
    if found is None or stops is None or {each.what for each in case.differences} != {"frame"}:
        return False
    insn = found[1]
    is_call = insn.opcode == _FAR_CALL or (insn.opcode == GROUP_5 and insn.modrm >> 3 & 7 == _FAR_CALL_EXTENSION)
    return is_call and not error_code(stops[0]) and bool(error_code(stops[1]))


def _is_beyond_limit(case: Case, stop: Stop) -> bool:
    """Did a handler of 32 bits find a program in protected mode beyond the limit of its code, or is it there itself?"""
    if stop.vector < 0:
        limits = stop.segments[Seg.CS][_HIDDEN_LIMIT:]
        return stop.eip - 1 > (limits[0] if limits else _LIMIT_16)
    saved = bytes.fromhex(stop.frame)[4 if stop.vector in HAS_ERROR_CODE else 0 :]
    selector = int.from_bytes(saved[4:6], "little")
    at = (LDT if selector & SELECTOR_TI else GDT) + (selector & SELECTOR_INDEX)
    return stop.saved_eip > Descriptor.from_bytes(case.program.memory()[at : at + DESCRIPTOR_SIZE]).limit


def may_push_hidden_flags(case: Case) -> bool:
    """In virtual-8086 mode VM is set; back from the task of a task gate, or behind an IRET, RF is."""
    if case.program.mode.kind is Kind.V86 or any(insn.opcode == _IRET for insn in instructions(case.program)):
        return True
    return any(stop.where == TASK for stop in case.got.stops)


def overlooks_lock(case: Case) -> bool:
    """Code that is in nobody's listing: #UD for a LOCK that may not stand there."""
    stop = own_stop(case)
    return stop is not None and stop.vector == Vector.UD and _has_misplaced_lock(stop.code)


def _has_misplaced_lock(code: bytes) -> bool:
    at = 0
    while at < len(code) - 1 and code[at] in LEGACY_PREFIXES:
        at += 1
    return _LOCK in code[:at]


def string_port_is_refused(case: Case) -> bool:
    """INS or OUTS was refused, or may have been where memory alone differs; or the reference met a page fault there."""
    if all(difference.what.startswith(("page ", "fpu")) for difference in case.differences):
        return True
    stops, number = both_stops(case), case.differences[0].stop
    if any(map(_was_refused, case.got.stops[: max(number, 0)])):
        return True
    if stops is None or stops[0].vector not in OF_PORTS:
        return False
    if stops[1].vector not in OF_PAGES and stops[1].where != TASK:  # a task gate may be there for page faults
        return False
    found = (at_fault(stop) for stop in stops)  # a gate of 16 bits does not tell everything
    return any(insn is not None and insn.opcode in _STRING_PORTS for insn in found)


def _was_refused(stop: Stop) -> bool:
    """Was it an INS or OUTS that may not use its port?"""
    insn = at_fault(stop) if stop.vector in OF_PORTS else None
    return insn is not None and insn.opcode in _STRING_PORTS


def string_port_was_refused(case: Case) -> bool:
    """An INS or OUTS that a program wrote was refused, and memory alone differs."""
    if not all(difference.what.startswith("page ") for difference in case.differences):
        return False
    return any(map(_was_refused, case.got.stops))


def runs_past_limit(case: Case) -> bool:
    """#GP at code that is not inside its segment; the reference is at the same place and goes on. At the end of the
    linear addresses there is no doubt."""
    stops, stop = both_stops(case), own_stop(case)
    if stops is not None and stops[0].where == TASK:  # a task gate may be there for #GP
        return case.program.based and stops[1].saved_eip > _LIMIT_16
    later = case.expected.stops[len(case.got.stops) :]
    if stop is None and case.got.ending is Ending.SHUTDOWN and later:
        return case.program.based and later[0].saved_eip > _LIMIT_16
    if stop is None or stop.vector not in OF_PORTS:
        return False
    if case.program.mode.kind is Kind.REAL and not stop.saved_eip:  # 10000h, of which 16 bits are pushed
        return True
    if stop.saved_eip > MASK32 - MAX_LENGTH or (case.program.mode.is_segmented and _is_beyond_limit(case, stop)):
        return True
    if stops is None:
        return case.program.based and stop.saved_eip > _LIMIT_16 - MAX_LENGTH
    if (stops[0].saved_eip ^ stops[1].saved_eip) & _LIMIT_16 or not case.program.based:
        return False  # a frame may be one of words
    return max(stop.saved_eip for stop in stops) > _LIMIT_16 - MAX_LENGTH or (
        case.program.mode.kind is Kind.REAL and any(map(_returns_far_off, instructions(case.program)))
    )


def _returns_far_off(insn: Insn) -> bool:
    """RET, or an indirect JMP or CALL, of 32 bits in 16-bit code."""
    is_indirect = insn.opcode == GROUP_5 and insn.modrm >> 3 & 7 in (2, 4)
    return insn.operand_size == WIDE and not insn.code32 and (insn.opcode in _RET or is_indirect)


def keeps_null_selectors(case: Case) -> bool:
    """Data segment registers alone differ: 0 here, another null selector there."""
    stops = both_stops(case)
    if stops is None or {difference.what for difference in case.differences} != {"segments"}:
        return False
    pairs = zip(stops[0].segments, stops[1].segments, strict=True)
    return all(other in _NULLS for mine, other in pairs if mine != other) and (0,) in stops[0].segments


def spells_loosely(case: Case) -> bool:
    """Code that is in nobody's listing: an encoding that does not exist, which the engine takes for its neighbour or
    knows of a later processor."""
    stops, own = both_stops(case), own_stop(case)
    found = stops if stops is not None else () if own is None else (own,)
    return any(stop.vector == Vector.UD and (_is_loose(stop.code) or _compares_oddly(stop)) for stop in found)


def _compares_oddly(stop: Stop) -> bool:
    """Is it CMPPS or its like with bits of the predicate that are reserved, and ignored?"""
    insn = at_fault(stop)
    return insn is not None and insn.opcode == _CMPPS and insn.raw[-1] > _PREDICATES


def _is_loose(raw: bytes) -> bool:
    code = raw.lstrip(_PREFIXES)
    if len(code) <= _WITH_MODRM:
        return False
    if code[0] in _VEX:  # LDS and LES of a register
        return code[1] >= _REGISTER_FORM
    if code[0] == _TWO_BYTES:
        if code[1] in _OF_AMD:
            return True
        if code[1] in _SHIFTS and code[2] < _REGISTER_FORM:  # of MMX registers by a byte, with a register in memory
            return True
        prefixes = raw[: len(raw) - len(code)]
        is_alone = code[1] in _ALONE or (code[1] in _HALVES and code[2] >= _REGISTER_FORM)
        if is_alone and any(each in prefixes for each in (_WORDS, *_REPEATS)):
            return True
        return _WORDS in prefixes and any(each in prefixes for each in _REPEATS)  # an SSE opcode has one of them
    groups = _X87_ALIASES if code[1] >= _REGISTER_FORM and code[0] in _X87_ALIASES else _GROUPS_OF_ONE
    return code[1] >> 3 & 7 in groups.get(code[0], ())


def keeps_reserved_bits(case: Case) -> bool:
    """CR0 alone differs, in bits that do not exist."""
    stops = both_stops(case)
    if stops is None or {difference.what for difference in case.differences} != {"control"}:
        return False
    mine, other = stops[0].control, stops[1].control
    return mine[1:] == other[1:] and not (mine[0] ^ other[0]) & _CR0


def loads_null_task(case: Case) -> bool:
    """LTR of a null selector in a register."""
    found = general_protection(case)
    if found is None or found[1].opcode != _GROUP_6 or found[1].modrm & ~7 != _LTR:
        return False
    return not found[0].general[found[1].modrm & 7] & _SELECTOR


def enters_v86_far(case: Case) -> bool:
    """IRETD to virtual-8086 mode with an EIP beyond FFFFh, in ring 0: #GP, and the reference is there. The stack may be
    where nothing is: then it is the IRET of a handler."""
    found, stops = general_protection(case), both_stops(case)
    if stops is not None and stops[0].where == TASK:
        is_there = STACKS[0] - stops[1].general[Reg.ESP] in _V86_FRAMES
        return is_there and any(insn.opcode == _IRET for insn in instructions(case.program))
    if found is None or stops is None:
        return False
    if found[1].opcode != _IRET and found[0].frame != _NO_FRAME:
        return False
    return STACKS[0] - stops[1].general[Reg.ESP] in _V86_FRAMES


def pushes_past_limit(case: Case) -> bool:
    """One engine alone shut down, with no room for a frame in its stack segment, the reference for an
    interrupt, which the VMM delivers there, too; or #SS(0) at an instruction with a frame of several words, or where a
    frame would go round the end of the linear addresses."""
    stop = own_stop(case)
    if stop is not None and stop.vector == Vector.SS:
        if stop.general[_ESP] > MASK32 - _BIG_FRAME:
            return True
        insn = at_fault(stop)
        is_frame = insn is not None and insn.opcode in STACK_HELPERS
        return case.program.based and is_frame and not error_code(stop)
    if case.got.ending is case.expected.ending:
        return False
    outcome = case.expected if case.got.last is None else case.got
    if outcome.last is None or (outcome is case.expected and not outcome.has_lost_interrupt):
        return False
    limits = outcome.last.segments[Seg.SS][_HIDDEN_LIMIT:]
    return not _BIG_FRAME <= outcome.last.general[_ESP] <= (limits[0] if limits else _LIMIT_16)


def drops_negative(case: Case) -> bool:
    """The stack pointer alone differs, or a saved one, by 64 KBytes: RET of more than 32 KBytes in code that a program
    wrote."""
    stops = both_stops(case)
    if stops is None:
        return False
    what = {difference.what for difference in case.differences}
    if "esp" in what and what <= {"esp", "frame"}:
        return stops[0].general[_ESP] - stops[1].general[_ESP] == _LIMIT_16 + 1
    if what != {"frame"}:
        return False
    mine, other = (bytes.fromhex(stop.frame) for stop in stops)
    pairs = [(int.from_bytes(mine[at : at + 4], "little"), int.from_bytes(other[at : at + 4], "little"))
             for at in range(0, len(mine), 4)]  # fmt: skip
    return sum(a != b for a, b in pairs) == 1 and all(a == b or a - b & MASK32 == _LIMIT_16 + 1 for a, b in pairs)


def shows_half_of_cr0(case: Case) -> bool:
    """One register differs, in its upper half, and has CR0: SMSW in code of another width than the program's, or looked
    at under TF. A page fault may have followed, at the address that it makes."""
    stops = both_stops(case)
    registers = [each for each in case.differences if each.what in GENERAL]
    if stops is None or len(registers) != 1 or {each.what for each in case.differences} - {*GENERAL, "control"}:
        return False
    mine, other = registers[0].got, registers[0].expected
    moved = stops[0].control[_CR2] - stops[1].control[_CR2] & MASK32
    return bool(
        mine == stops[0].control[0] == stops[1].control[0]
        and not (mine ^ other) & _LIMIT_16
        and moved in (0, mine - other & MASK32)
    )


def loses_the_new_task(case: Case) -> bool:
    """A task that could not start has its fault; the reference has the old task's EIP there, or shut down, as it does
    behind a task, too, that returns to conforming code of another DPL. Or the fault shut the new task down, which has
    no stack yet; in the reference it had its handler."""
    got, expected, stops = case.got, case.expected, both_stops(case)
    if {difference.what for difference in case.differences} == {_TSS_PAGE}:  # an EIP that one of them saved
        return sum(stop.where == TASK for stop in got.stops) > 1
    if stops is not None:
        return stops[0].vector in _OF_TASKS and stops[1].saved_eip == TASK_CODE + 1 != stops[0].saved_eip
    if got.last is not None and len(expected.stops) > len(got.stops):
        is_new = got.last.tables[_TASK_REGISTER] & _DESCRIPTOR != MAIN_TSS
        return is_new and expected.stops[len(got.stops)].vector in _OF_TASKS
    if expected.ending is not Ending.SHUTDOWN or not 0 < len(expected.stops) < len(got.stops):
        return False
    return expected.stops[-1].where == TASK


def reads_small_task_wrong(case: Case) -> bool:
    """A task with a TSS of 16 bits began; in the reference it did not."""
    stop = own_stop(case)
    return stop is not None and stop.where == TASK and stop.tables[_TASK_REGISTER] & _DESCRIPTOR == SPARE_TSS16


def changes_its_own_repetition(case: Case) -> bool:
    """A REP wrote over itself, and what it had begun went on to the end; in the reference it ended there."""
    stops, program = both_stops(case), case.program
    if stops is None:
        return False
    raw, starts = program.assemble()
    for first, end in pairwise(start - program.entry for start in starts):
        at = program.entry + first
        for insn in DECODER.decode(raw[first:end], 0, program.mode.code32):
            if insn.repeat and insn.opcode in _STRING_STORES and _has_just_stored(case, stops[1], insn, at):
                return True
            at += len(insn.raw)
    return False


def _has_just_stored(case: Case, stop: Stop, insn: Insn, at: int) -> bool:
    """Does EDI point behind a store to the instruction's own bytes?"""
    width = insn.operand_size if insn.opcode & 1 else 1
    step = -width if stop.eflags & Eflags.DF else width
    offset = stop.general[Reg.EDI] - step & (1 << 8 * insn.address_size) - 1
    segment = segments_before(case, stop)[Seg.ES]
    stored = -1 if segment is None else segment.base + offset
    return at - width < stored < at + len(insn.raw)


def ends_nowhere(case: Case) -> bool:
    """Neither engine came to an end: what memory holds when they are stopped says nothing."""
    return case.got.ending is case.expected.ending is Ending.ENDLESS and both_stops(case) is None


def forgets_flags_of_a_new_loop(case: Case) -> bool:
    """Arithmetic flags alone differ, and code that the program writes is LOOPE or LOOPNE."""
    program = code_in_place(case.program)
    is_new = program != case.program and any(insn.opcode in _LOOPS for insn in instructions(program))
    return is_new and arithmetic_flags_alone(case)


def looks_at_the_other_operand(case: Case) -> bool:
    """Page faults of the same CMPS or MOVS, for one of its operands each."""
    stops = both_stops(case)
    if stops is None or any(stop.vector != Vector.PF for stop in stops) or stops[0].saved_eip != stops[1].saved_eip:
        return False
    insn = at_fault(stops[0])
    return insn is not None and insn.opcode in _TWO_OPERANDS


def forgets_resume_flag(case: Case) -> bool:
    """RF alone differs, in the flags that a double fault has saved."""
    stops = both_stops(case)
    if stops is None or stops[0].vector != Vector.DF or {each.what for each in case.differences} != {"frame"}:
        return False
    mine, other = (int.from_bytes(bytes.fromhex(stop.frame), "little") for stop in stops)
    return mine ^ other == Eflags.RF << _SAVED_FLAGS
