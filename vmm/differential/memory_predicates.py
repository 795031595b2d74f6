"""Differences that are recognised by what they look like: those of fetches, pages and descriptor tables.

Each function knows one; see `predicates.py`.
"""

from typing import Final

from bt.decode import MAX_LENGTH, Insn
from bt.fpu_state import STATES
from vmm.arch.descriptors import ACCESS_BYTE, DESCRIPTOR_SIZE
from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.registers import Reg
from vmm.cpu.hole import DEFAULT_HOLE, HOLE_SIZE
from vmm.differential.case import Case
from vmm.differential.evidence import (
    DECODER,
    FAR,
    FAST_CALLS,
    GROUP_5,
    LOADS_OF_STATE,
    OF_PAGES,
    STACK_HELPERS,
    WIDE,
    at_fault,
    both_stops,
    error_code,
    instructions,
    moved_fault,
    own_stop,
)
from vmm.differential.layout import BASES, CODE, GDT, IDT, LDT, LDT_LIMIT, PAGE_DIRECTORY, RAM, entry_at
from vmm.differential.modes import Paging
from vmm.differential.outcome import SYSTEM_CALL, TASK, Ending, Stop

_OF_OPERANDS: Final = (*OF_PAGES, Vector.NM)
_OF_OPCODES: Final = (Vector.UD, Vector.NM, Vector.DF, Vector.GP)
_HOLE: Final = range(DEFAULT_HOLE, DEFAULT_HOLE + HOLE_SIZE)
_CR2: Final = 1
_BLOCK: Final = 0x60  # bytes that a block of the engine may have
_USER: Final = 3
_BIGGEST_FRAME: Final = 40
_TABLE_STORES: Final = ("sgdt", "sidt")
_3DNOW: Final = 0x0F0F
_LOCK: Final = 0xF0
_X87: Final = range(0xD8, 0xE0)
_ERRORS: Final = frozenset(("errors",))
_FAR_CALL: Final = 3
_ARPL: Final = 0x63
TABLE_PAGES: Final = frozenset(f"page {page:#x}" for page in range(PAGE_DIRECTORY >> PAGE_SHIFT, RAM >> PAGE_SHIFT))
_DESCRIPTOR_PAGES: Final = frozenset(f"page {table >> PAGE_SHIFT:#x}" for table in (GDT, LDT))
_DESCRIPTORS: Final = range(GDT, LDT + LDT_LIMIT + 1)
_HIDDEN: Final = 4  # parts of a segment register, its attributes last
_ACCESSED: Final = 0x100
_CODE_ACCESSED, _CODE_FRESH = 0x19, 0x18  # S, the bit that says code, and the accessed bit


def fetches_ahead(case: Case) -> bool:
    """Code runs into a second page, which is not mapped as the first one is, or whose accessed bit may be all."""
    program = case.program
    crosses = program.entry < CODE + PAGE_SIZE <= program.assemble()[1][-1]
    if program.paging is Paging.NONE or not crosses:
        return False
    second = entry_at(program.paging, CODE + PAGE_SIZE >> PAGE_SHIFT)[0]
    is_odd = any(patch.at == second for patch in program.patches)
    return is_odd or {difference.what for difference in case.differences} <= TABLE_PAGES


def blames_an_earlier_fetch(case: Case) -> bool:
    """The reference met a page fault at the start of the second code page at an instruction that ends before it; or
    that may be what both shut down at."""
    stops = both_stops(case)
    if stops is None:
        return case.got.ending is case.expected.ending is Ending.SHUTDOWN and fetches_ahead(case)
    if stops[1].vector not in OF_PAGES:
        return False
    other, behind = stops[1], CODE + PAGE_SIZE
    insn, last = at_fault(other), behind - case.program.code_base
    if insn is None or error_code(other) & PageFault.W or other.control[_CR2] != behind:
        return False
    return last - _BLOCK <= other.saved_eip <= last - len(insn.raw)


def fetches_less(case: Case) -> bool:
    """A fetch beyond the first code page was a page fault; the reference raised the fault of an instruction of which it
    had seen the first bytes."""
    stops = both_stops(case)
    if stops is None or stops[0].vector not in OF_PAGES or stops[0].saved_eip != stops[1].saved_eip:
        return False
    left = CODE + PAGE_SIZE - case.program.code_base - stops[0].saved_eip
    return stops[0].control[_CR2] == CODE + PAGE_SIZE and 0 < left < MAX_LENGTH and stops[1].vector in _OF_OPCODES


def pushes_as_supervisor(case: Case) -> bool:
    """A far CALL, RET or IRET, ENTER or INT at CPL 3 was #PF, with U set, for its stack."""
    stop = own_stop(case)
    may_be_user = case.program.mode.ring == _USER or any(
        insn.opcode in FAST_CALLS for insn in instructions(case.program)
    )
    if stop is None or stop.vector != Vector.PF or not may_be_user:
        return False
    insn = at_fault(stop)
    if insn is None or not error_code(stop) & PageFault.U:
        return False
    return insn.opcode in STACK_HELPERS or (insn.opcode == GROUP_5 and insn.modrm >> 3 & 7 == _FAR_CALL)


def minds_operands_of_nothing(case: Case) -> bool:
    """An undefined opcode was #UD, and accessed bits in the page tables differ, or the x87 registers' tags and top; or
    the reference raised the fault of its operand, or of CR0.TS."""
    stops = both_stops(case)
    if stops is not None and stops[0].vector == Vector.UD and stops[0].saved_eip == stops[1].saved_eip:
        return stops[1].vector in _OF_OPERANDS and _is_nothing(stops[0])
    what = {difference.what for difference in case.differences} - {"fpu"}
    tables = case.program.paging is not Paging.NONE and what <= TABLE_PAGES
    met = any(_is_nothing(stop) for stop in case.got.stops if stop.vector == Vector.UD) or _has_met_unseen(case)
    return (tables or not what) and met


def _is_nothing(stop: Stop) -> bool:
    """Did a handler find an opcode that does not exist, or a LOCK where it may not stand?"""
    insn = at_fault(stop)
    return insn is None or insn.opcode == _3DNOW or _LOCK in insn.prefixes


def _has_met_unseen(case: Case) -> bool:
    """Was there a task switch or a shutdown, which show no instruction, in a program that has an undefined opcode?"""
    code32 = case.program.mode.code32
    is_hidden = case.got.ending is Ending.SHUTDOWN or any(stop.where == TASK for stop in case.got.stops)
    return is_hidden and any(
        sum(len(insn.raw) for insn in DECODER.decode(step.code, 0, code32)) < len(step.code)
        for step in case.program.steps
    )


def loads_part_of_state(case: Case) -> bool:
    """Page tables alone differ, and the program has a load of x87 state, of which the reference reads a part; or
    they are on a page that is not there."""
    stop = own_stop(case)
    if stop is not None:
        insn = at_fault(stop) if stop.vector in OF_PAGES else None
        return insn is not None and insn.name in LOADS_OF_STATE and not stop.control[_CR2] % PAGE_SIZE
    tables = {difference.what for difference in case.differences} <= TABLE_PAGES
    return tables and any(insn.name in LOADS_OF_STATE for insn in instructions(case.program))


def memory_alone(case: Case) -> bool:
    """The engines agree about everything but memory."""
    return all(difference.what.startswith("page ") for difference in case.differences)


def stores_half_a_table(case: Case) -> bool:
    """Memory alone differs, and an SGDT or SIDT was a page fault: in the reference its limit is stored all the same."""
    faulted = (at_fault(stop) for stop in case.got.stops if stop.vector in OF_PAGES)
    return memory_alone(case) and any(insn is not None and insn.name in _TABLE_STORES for insn in faulted)


def writes_half_a_frame(case: Case) -> bool:
    """A frame lay across two pages, of which the lower one may not be written: #PF. The reference has written half."""
    stop = own_stop(case)
    if stop is None or stop.vector not in OF_PAGES or not error_code(stop) & PageFault.W:
        return False
    return PAGE_SIZE - stop.control[_CR2] % PAGE_SIZE < _BIGGEST_FRAME


def writes_what_stays(case: Case) -> bool:
    """The engines agree about everything but memory; or the reference met the page fault of an ARPL."""
    stops = both_stops(case)
    if stops is None:
        return memory_alone(case)
    insn = at_fault(stops[1]) if stops[1].vector in OF_PAGES else None
    return insn is not None and insn.opcode == _ARPL


def is_in_the_hole(case: Case) -> bool:
    """The reference met a page fault in the window that the VMM shares with the guest; or, without paging, a program
    has an operand there."""
    if case.program.paging is Paging.NONE:
        return _has_operand_in_the_hole(case)
    stops = both_stops(case)
    return stops is not None and stops[1].vector == Vector.PF and stops[1].control[_CR2] in _HOLE


def _has_operand_in_the_hole(case: Case) -> bool:
    """With the registers of the start or of any stop."""
    states = [case.program.registers, *(stop.general for stop in case.expected.stops)]
    return any(
        insn.has_modrm and not insn.is_register_form and any(_is_in_hole(insn, state) for state in states)
        for insn in instructions(case.program)
    )


def _is_in_hole(insn: Insn, registers: tuple[int, ...]) -> bool:
    memory = insn.memory
    if memory.address_size != WIDE:
        return False
    base = 0 if memory.base is None else registers[memory.base]
    index = 0 if memory.index is None else registers[memory.index] * memory.scale
    return any(base + index + memory.displacement + start & MASK32 in _HOLE for start in BASES)


def reads_before_it_writes(case: Case) -> bool:
    """Of a page fault W in the error code alone differs, at an instruction that reads and writes its operand."""
    stops = both_stops(case)
    if stops is None or {difference.what for difference in case.differences} != {"frame"}:
        return False
    insn = at_fault(stops[0])
    if insn is None or any(stop.vector != Vector.PF for stop in stops) or not insn.has_modrm or insn.is_register_form:
        return False
    return stops[0].frame[8:] == stops[1].frame[8:] and error_code(stops[0]) ^ error_code(stops[1]) == PageFault.W


def ends_in_fault(case: Case) -> bool:
    """Both shut down, or had faults of pages or alignment; accessed bits of entries on the way there differ."""
    shut = case.got.ending is case.expected.ending is Ending.SHUTDOWN
    faulted = any(stop.vector in (*OF_PAGES, Vector.AC) for stop in case.got.stops)
    return (shut or faulted) and {difference.what for difference in case.differences} <= TABLE_PAGES


def marks_no_code(case: Case) -> bool:
    """The descriptor tables alone differ, and with paging their dirty bits; and a program's own entry there is of code
    that is not marked as accessed. Or the accessed bit in hidden attributes alone differs. Or the mark was a page fault
    of a far transfer."""
    what = {difference.what for difference in case.differences}
    stops = both_stops(case)
    if stops is not None and stops[0].vector in OF_PAGES:
        insn = at_fault(stops[0])
        is_far = insn is not None and (insn.opcode in FAR or insn.opcode == GROUP_5)
        return is_far and stops[0].control[_CR2] in _DESCRIPTORS and bool(error_code(stops[0]) & PageFault.W)
    if stops is not None and what == {"segments"}:
        pairs = zip(stops[0].segments, stops[1].segments, strict=True)
        return all(mine == other or _is_marked(mine, other) for mine, other in pairs)
    if not what & _DESCRIPTOR_PAGES or not what <= _DESCRIPTOR_PAGES | TABLE_PAGES:
        return False
    return any(_has_fresh_code(patch.data) for patch in case.program.patches if GDT <= patch.at < IDT)


def _is_marked(mine: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(mine) == len(other) == _HIDDEN and mine[:-1] == other[:-1] and mine[-1] ^ other[-1] == _ACCESSED


def marks_elsewhere(case: Case) -> bool:
    """CR2 alone differs, and names another byte of the same descriptor."""
    found = moved_fault(case)
    if found is None:
        return False
    _, mine, other = found
    return mine in _DESCRIPTORS and mine // DESCRIPTOR_SIZE == other // DESCRIPTOR_SIZE


def faults_elsewhere(case: Case) -> bool:
    """CR2 alone differs, and names another byte of the same page, at an x87 instruction, whose operand may be large."""
    found = moved_fault(case, _ERRORS)
    if found is None:
        return False
    stop, mine, other = found
    insn = at_fault(stop)
    is_one = insn is not None and (insn.name in STATES or insn.opcode in _X87)
    return is_one and mine // PAGE_SIZE == other // PAGE_SIZE


def returns_out_of_ram(case: Case) -> bool:
    """Behind a SYSEXIT to a stack outside of RAM: what the reference runs there, begun again, may see older flags."""
    stops = both_stops(case)
    if stops is None or case.differences[0].stop == 0 or case.program.paging is not Paging.NONE:
        return False
    before = case.got.stops[case.differences[0].stop - 1]
    return before.where == SYSTEM_CALL and before.general[Reg.ECX] >= RAM


def _has_fresh_code(descriptors: bytes) -> bool:
    return any(access & _CODE_ACCESSED == _CODE_FRESH for access in descriptors[ACCESS_BYTE::DESCRIPTOR_SIZE])
