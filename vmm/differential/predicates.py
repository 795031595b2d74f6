"""Differences that are recognised by what they look like: each function knows one.

They look at the first stop that differs: what the engine under test found there, what the reference did, and the
instruction, as it lies in memory.
"""

from collections.abc import Iterator
from typing import Final

from bt.decode import LEGACY_PREFIXES, MAX_LENGTH, Decoder, Insn
from bt.tables import waits
from vmm.arch.descriptors import ACCESS_BYTE, DESCRIPTOR_SIZE, SELECTOR_INDEX, SELECTOR_TI, Descriptor
from vmm.arch.exceptions import HAS_ERROR_CODE, PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.registers import Cr0, Eflags, Reg
from vmm.cpu.control import CR4_BITS
from vmm.cpu.hole import DEFAULT_HOLE, HOLE_SIZE
from vmm.differential import spellings
from vmm.differential.case import Case
from vmm.differential.layout import CODE, DATA, GDT, IDT, LDT, PAGE_DIRECTORY, RAM, STACK_BASE, STACKS, entry_at
from vmm.differential.modes import Kind, Paging
from vmm.differential.outcome import Ending, Stop
from vmm.differential.program import Program

_DECODER: Final = Decoder()
_ECX: Final = int(Reg.ECX)
_ESP: Final = int(Reg.ESP)
_LIMIT_16: Final = 0xFFFF
_STRING_PORTS: Final = range(0x6C, 0x70)
_LOCK: Final = 0xF0
_TO_CR: Final = 0x0F22
_CR4: Final = 4
_FAR: Final = (0x9A, 0xEA, 0xCA, 0xCB, 0xCF)
_GROUP_5: Final = 0xFF
_OF_PAGES: Final = (Vector.PF, Vector.DF)
_OF_OPERANDS: Final = (*_OF_PAGES, Vector.NM)
_OF_PORTS: Final = (Vector.GP, Vector.DF)
_OF_OPCODES: Final = (Vector.UD, Vector.NM, Vector.DF, Vector.GP)
_NULLS: Final = ((1,), (2,), (3,))
_PREFIXES: Final = bytes(sorted(LEGACY_PREFIXES))
_GROUPS_OF_ONE: Final = {0x8F: range(1, 8), 0xC6: range(1, 8), 0xC7: range(1, 8), 0xF6: (1,), 0xF7: (1,)}
"""Opcodes, and the reg fields with which they do not exist, or exist unofficially."""
_X87_MEMORY: Final = (0xDB, 0xDD, 0xDF)
_REGISTER_FORM: Final = 0xC0
_CR0: Final = int(Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG)
_GROUP_6: Final = 0x0F00
_LTR: Final = 0xD8
_SELECTOR: Final = 0xFFFC
_IRET: Final = 0xCF
_RET: Final = (0xC2, 0xC3)
_WIDE: Final = 4
_MOV_IMM8: Final = 0xC6
_HOLE: Final = range(DEFAULT_HOLE, DEFAULT_HOLE + HOLE_SIZE)
_BASES: Final = (0, DATA, CODE, STACK_BASE)  # of segments
_CR2: Final = 1
_BLOCK: Final = 0x60  # bytes that a block of the engine may have
_V86_FRAMES: Final = (36, 40)
_USER: Final = 3
_FAR_CALL: Final = 3
_STACK_HELPERS: Final = (*_FAR, 0xC8, 0xCC, 0xCD, 0xCE)
_TABLE_PAGES: Final = frozenset(f"page {page:#x}" for page in range(PAGE_DIRECTORY >> PAGE_SHIFT, RAM >> PAGE_SHIFT))
_TASK: Final = "task"  # the rig's name for its other task
_OF_TASKS: Final = (Vector.TS, Vector.NP, Vector.SS, Vector.GP)
_DESCRIPTOR_PAGES: Final = frozenset(f"page {table >> PAGE_SHIFT:#x}" for table in (GDT, LDT))
_CODE_ACCESSED, _CODE_FRESH = 0x19, 0x18  # S, the bit that says code, and the accessed bit
_NO_FRAME: Final = "ff" * 40
_SAVED_FLAGS: Final = 8 * 12  # bits from the top of the stack, behind error code, EIP and CS
_NEAR: Final = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE8, 0xE9, 0xEB, *range(0x0F80, 0x0F90)))


def _stops(case: Case) -> tuple[Stop, Stop] | None:
    number = case.differences[0].stop
    return None if number < 0 else (case.got.stops[number], case.expected.stops[number])


def _at_fault(stop: Stop) -> Insn | None:
    """The instruction that a handler found."""
    return _DECODER.one(stop.code, 0, stop.code32)


def _general_protection(case: Case) -> tuple[Stop, Insn] | None:
    """The stop and the instruction, if the engine under test alone raised #GP for one, or #DF because of its gate. The
    reference may not have come to another stop."""
    stops, got, expected = _stops(case), case.got.stops, case.expected
    stop = stops[0] if stops is not None else None
    if stop is None and expected.ending is Ending.SHUTDOWN and len(expected.stops) < len(got):
        stop = got[len(expected.stops)]
    if stop is None or stop.vector not in _OF_PORTS:
        return None
    insn = _at_fault(stop)
    return None if insn is None else (stop, insn)


def fetches_ahead(case: Case) -> bool:
    """Code runs into a second page, which is not mapped as the first one is, or whose accessed bit may be all."""
    program = case.program
    crosses = program.entry < CODE + PAGE_SIZE <= program.assemble()[1][-1]
    if program.paging is Paging.NONE or not crosses:
        return False
    second = entry_at(program.paging, CODE + PAGE_SIZE >> PAGE_SHIFT)[0]
    is_odd = any(patch.at == second for patch in program.patches)
    return is_odd or {difference.what for difference in case.differences} <= _TABLE_PAGES


def blames_an_earlier_fetch(case: Case) -> bool:
    """The reference met a page fault at the start of the second code page at an instruction that ends before it; or that
    may be what both shut down at."""
    stops = _stops(case)
    if stops is None:
        return case.got.ending is case.expected.ending is Ending.SHUTDOWN and fetches_ahead(case)
    if stops[1].vector not in _OF_PAGES:
        return False
    other, behind = stops[1], CODE + PAGE_SIZE
    insn, last = _at_fault(other), behind - case.program.code_base
    if insn is None or _error_code(other) & PageFault.W or other.control[_CR2] != behind:
        return False
    return last - _BLOCK <= other.saved_eip <= last - len(insn.raw)


def fetches_less(case: Case) -> bool:
    """A fetch beyond the first code page was a page fault; the reference raised the fault of an instruction of which it
    had seen the first bytes."""
    stops = _stops(case)
    if stops is None or stops[0].vector not in _OF_PAGES or stops[0].saved_eip != stops[1].saved_eip:
        return False
    left = CODE + PAGE_SIZE - case.program.code_base - stops[0].saved_eip
    return stops[0].control[_CR2] == CODE + PAGE_SIZE and 0 < left < MAX_LENGTH and stops[1].vector in _OF_OPCODES


def _error_code(stop: Stop) -> int:
    """Of a handler of 32 bits: on top of the stack."""
    return int.from_bytes(bytes.fromhex(stop.frame[:8]), "little")


def enters_v86(case: Case) -> bool:
    """IRET with VM in its frame, at CPL 3: the reference's next handler has a frame out of virtual-8086 mode."""
    stops = _stops(case)
    if stops is None or case.program.mode.kind is not Kind.PROTECTED or not case.program.mode.ring:
        return False
    return STACKS[0] - stops[1].general[Reg.ESP] in _V86_FRAMES


def pushes_as_supervisor(case: Case) -> bool:
    """A far CALL, RET or IRET, ENTER or INT at CPL 3 was #PF, with U set, for its stack."""
    stops = _stops(case)
    if stops is None or stops[0].vector != Vector.PF or case.program.mode.ring != _USER:
        return False
    stop, insn = stops[0], _at_fault(stops[0])
    if insn is None or not _error_code(stop) & PageFault.U:
        return False
    return insn.opcode in _STACK_HELPERS or (insn.opcode == _GROUP_5 and insn.modrm >> 3 & 7 == _FAR_CALL)


def minds_operands_of_nothing(case: Case) -> bool:
    """An undefined opcode was #UD, and accessed bits in the page tables differ, or the x87 registers' tags and top; or
    the reference raised the fault of its operand, or of CR0.TS."""
    stops = _stops(case)
    if stops is not None and stops[0].vector == Vector.UD and stops[0].saved_eip == stops[1].saved_eip:
        return stops[1].vector in _OF_OPERANDS and _at_fault(stops[0]) is None
    what = {difference.what for difference in case.differences}
    tables = case.program.paging is not Paging.NONE and what <= _TABLE_PAGES
    undefined = (stop for stop in case.got.stops if stop.vector == Vector.UD)
    return (tables or what == {"fpu"}) and any(_at_fault(stop) is None for stop in undefined)


def counts_nothing(case: Case) -> bool:
    """REP INS or OUTS with a count of 0, of a port that is not allowed; or there may be one where #GP is a shutdown."""
    if case.got.ending is Ending.SHUTDOWN and {each.what for each in case.differences} == {"port accesses"}:
        return any(insn.opcode in _STRING_PORTS and insn.repeat for insn in _instructions(case.program))
    found = _general_protection(case)
    if found is None or found[1].opcode not in _STRING_PORTS or not found[1].repeat:
        return False
    stop, insn = found
    return not stop.general[_ECX] & (1 << 8 * insn.address_size) - 1


def branches_too_far(case: Case) -> bool:
    """A relative branch beyond FFFFh, the limit of segments with a base."""
    found = _general_protection(case)
    if found is None or not case.program.based or found[1].opcode not in _NEAR:
        return False
    insn = found[1]
    size = 1 if insn.opcode < 0x100 and insn.opcode not in (0xE8, 0xE9) else insn.operand_size
    distance = int.from_bytes(insn.tail[:size], "little", signed=True)
    target = found[0].saved_eip + len(insn.raw) + distance
    return insn.operand_size == 4 and not 0 <= target <= _LIMIT_16


def loads_impossible_control(case: Case) -> bool:
    """MOV CR0 with NW and without CD, or with PG and without PE; MOV CR4 with bits that do not exist."""
    found = _general_protection(case)
    if found is None or found[1].opcode != _TO_CR:
        return False
    value, reg = found[0].general[found[1].modrm & 7], found[1].modrm >> 3 & 7
    if reg == _CR4:
        return bool(value & ~CR4_BITS)
    return reg == 0 and (value & (Cr0.NW | Cr0.CD) == Cr0.NW or value & (Cr0.PG | Cr0.PE) == Cr0.PG)


def goes_far_beyond(case: Case) -> bool:
    """A far transfer to code whose limit it ignores: #GP(0), without a selector to blame. The reference is there, or it
    is one of 32 bits out of 16-bit code."""
    found, stops = _general_protection(case), _stops(case)
    if found is None or stops is None:
        return False
    stop, insn = found
    if not _is_beyond_limit(case, stops[1]) and (insn.operand_size != _WIDE or stop.code32):
        return False
    is_far = insn.opcode in _FAR or (insn.opcode == _GROUP_5 and insn.modrm >> 3 & 7 in (3, 5))
    return is_far and (
        case.program.mode.kind is Kind.REAL or not int.from_bytes(bytes.fromhex(stop.frame[:8]), "little")
    )


def _is_beyond_limit(case: Case, stop: Stop) -> bool:
    """Did a handler of 32 bits find a program in protected mode beyond the limit of its code?"""
    saved = bytes.fromhex(stop.frame)[4 if stop.vector in HAS_ERROR_CODE else 0 :]
    selector = int.from_bytes(saved[4:6], "little")
    at = (LDT if selector & SELECTOR_TI else GDT) + (selector & SELECTOR_INDEX)
    return stop.saved_eip > Descriptor.from_bytes(case.program.memory()[at : at + DESCRIPTOR_SIZE]).limit


def overlooks_error(case: Case) -> bool:
    """Code that a program has written: #MF for an error that waits, at an instruction that minds it."""
    stops = _stops(case)
    if stops is None or stops[0].vector != Vector.MF or not stops[0].errors:
        return False
    insn = _at_fault(stops[0])
    return insn is not None and waits(insn)


def is_v86(case: Case) -> bool:
    """Virtual-8086 mode."""
    return case.program.mode.kind is Kind.V86


def overlooks_lock(case: Case) -> bool:
    """Code that a program has written: #UD for a LOCK that may not stand there."""
    stops = _stops(case)
    return stops is not None and stops[0].vector == Vector.UD and _has_misplaced_lock(stops[0].code)


def _has_misplaced_lock(code: bytes) -> bool:
    at = 0
    while at < len(code) - 1 and code[at] in LEGACY_PREFIXES:
        at += 1
    return _LOCK in code[:at]


def string_port_is_refused(case: Case) -> bool:
    """INS or OUTS may have been refused, and memory alone differs, or was and the reference met a page fault."""
    program = case.program
    if program.mode.ring <= program.eflags >> 12 & 3 and program.mode.kind is not Kind.V86:
        return False
    if all(difference.what.startswith(("page ", "fpu")) for difference in case.differences):
        return True
    stops = _stops(case)
    if stops is None or stops[0].vector not in _OF_PORTS:
        return False
    if stops[1].vector not in _OF_PAGES and stops[1].where != _TASK:  # a task gate may be there for page faults
        return False
    insn = _at_fault(stops[0])
    return insn is not None and insn.opcode in _STRING_PORTS


def memory_alone(case: Case) -> bool:
    """The engines agree about everything but memory."""
    return all(difference.what.startswith("page ") for difference in case.differences)


def runs_past_limit(case: Case) -> bool:
    """#GP at code that is not inside its segment; the reference is at the same place and goes on. At the end of the
    linear addresses there is no doubt."""
    stops = _stops(case)
    if stops is None or stops[0].vector not in _OF_PORTS:
        return False
    if stops[0].saved_eip > MASK32 - MAX_LENGTH:
        return True
    if (stops[0].saved_eip ^ stops[1].saved_eip) & _LIMIT_16 or not case.program.based:
        return False  # a frame may be one of words
    return stops[1].saved_eip > _LIMIT_16 - MAX_LENGTH or (
        case.program.mode.kind is Kind.REAL and any(map(_returns_far_off, _instructions(case.program)))
    )


def _returns_far_off(insn: Insn) -> bool:
    """RET, or an indirect JMP or CALL, of 32 bits in 16-bit code."""
    is_indirect = insn.opcode == _GROUP_5 and insn.modrm >> 3 & 7 in (2, 4)
    return insn.operand_size == _WIDE and not insn.code32 and (insn.opcode in _RET or is_indirect)


def _instructions(program: Program) -> Iterator[Insn]:
    for step in program.steps:
        yield from _DECODER.decode(step.code, 0, program.mode.code32)


def keeps_null_selectors(case: Case) -> bool:
    """Data segment registers alone differ: 0 here, another null selector there."""
    stops = _stops(case)
    if stops is None or {difference.what for difference in case.differences} != {"segments"}:
        return False
    pairs = zip(stops[0].segments, stops[1].segments, strict=True)
    return all(other in _NULLS for mine, other in pairs if mine != other) and (0,) in stops[0].segments


def is_in_the_hole(case: Case) -> bool:
    """The reference met a page fault in the window that the VMM shares with the guest; or, without paging, a program
    has an operand there."""
    if case.program.paging is Paging.NONE:
        return _has_operand_in_the_hole(case)
    stops = _stops(case)
    return stops is not None and stops[1].vector == Vector.PF and stops[1].control[_CR2] in _HOLE


def _has_operand_in_the_hole(case: Case) -> bool:
    """With the registers of the start or of any stop."""
    states = [case.program.registers, *(stop.general for stop in case.expected.stops)]
    return any(
        insn.has_modrm and not insn.is_register_form and any(_is_in_hole(insn, state) for state in states)
        for insn in _instructions(case.program)
    )


def _is_in_hole(insn: Insn, registers: tuple[int, ...]) -> bool:
    memory = insn.memory
    if memory.address_size != _WIDE:
        return False
    base = 0 if memory.base is None else registers[memory.base]
    index = 0 if memory.index is None else registers[memory.index] * memory.scale
    return any(base + index + memory.displacement + start & MASK32 in _HOLE for start in _BASES)


def spells_loosely(case: Case) -> bool:
    """Code that a program has written: an encoding that does not exist, which the engine takes for its neighbour."""
    stops = _stops(case)
    if stops is None or Vector.UD not in (stops[0].vector, stops[1].vector):
        return False
    code = (stops[0] if stops[0].vector == Vector.UD else stops[1]).code.lstrip(_PREFIXES)
    if len(code) > 1 and code[0] in _X87_MEMORY and code[1] < _REGISTER_FORM:
        return code[1] >> 3 & 7 == 1  # FISTTP
    return len(code) > 1 and code[0] in _GROUPS_OF_ONE and code[1] >> 3 & 7 in _GROUPS_OF_ONE[code[0]]


def ends_in_fault(case: Case) -> bool:
    """Both shut down, and accessed bits of entries on the way to a page that is not there differ."""
    shut = case.got.ending is case.expected.ending is Ending.SHUTDOWN
    return shut and {difference.what for difference in case.differences} <= _TABLE_PAGES


def keeps_reserved_bits(case: Case) -> bool:
    """CR0 alone differs, in bits that do not exist."""
    stops = _stops(case)
    if stops is None or {difference.what for difference in case.differences} != {"control"}:
        return False
    mine, other = stops[0].control, stops[1].control
    return mine[1:] == other[1:] and not (mine[0] ^ other[0]) & _CR0


def loads_null_task(case: Case) -> bool:
    """LTR of a null selector in a register."""
    found = _general_protection(case)
    if found is None or found[1].opcode != _GROUP_6 or found[1].modrm & ~7 != _LTR:
        return False
    return not found[0].general[found[1].modrm & 7] & _SELECTOR


def enters_v86_far(case: Case) -> bool:
    """IRETD to virtual-8086 mode with an EIP beyond FFFFh, in ring 0: #GP, and the reference is there. The stack may be
    where nothing is: then it is the IRET of a handler."""
    found, stops = _general_protection(case), _stops(case)
    if found is None or stops is None:
        return False
    if found[1].opcode != _IRET and found[0].frame != _NO_FRAME:
        return False
    return STACKS[0] - stops[1].general[Reg.ESP] in _V86_FRAMES


def pushes_past_limit(case: Case) -> bool:
    """Shut down with ESP beyond the limit of a stack segment with a base; or #SS(0) at an instruction with a frame of
    several words."""
    got, stops = case.got, _stops(case)
    if stops is not None and stops[0].vector == Vector.SS and case.program.based and not _error_code(stops[0]):
        insn = _at_fault(stops[0])
        return insn is not None and insn.opcode in _STACK_HELPERS
    pointer = got.stops[-1].general[Reg.ESP] if got.stops else 0
    return case.program.based and got.ending is Ending.SHUTDOWN and pointer > _LIMIT_16


def drops_negative(case: Case) -> bool:
    """The stack pointer alone differs, or a saved one, by 64 KBytes: RET of more than 32 KBytes in code that a program
    wrote."""
    stops = _stops(case)
    if stops is None:
        return False
    what = {difference.what for difference in case.differences}
    if what == {"esp"}:
        return stops[0].general[_ESP] - stops[1].general[_ESP] == _LIMIT_16 + 1
    if what != {"frame"}:
        return False
    mine, other = (bytes.fromhex(stop.frame) for stop in stops)
    pairs = [(int.from_bytes(mine[at : at + 4], "little"), int.from_bytes(other[at : at + 4], "little"))
             for at in range(0, len(mine), 4)]  # fmt: skip
    return sum(a != b for a, b in pairs) == 1 and all(a == b or a - b == _LIMIT_16 + 1 for a, b in pairs)


def loses_the_new_task(case: Case) -> bool:
    """A task that could not start has its fault, and the reference shut down at that."""
    got, expected = case.got, case.expected
    if expected.ending is not Ending.SHUTDOWN or not 0 < len(expected.stops) < len(got.stops):
        return False
    return expected.stops[-1].where == _TASK and got.stops[len(expected.stops)].vector in _OF_TASKS


def marks_no_code(case: Case) -> bool:
    """The descriptor tables alone differ, and with paging their dirty bits; and a program's own entry there is of code
    that is not marked as accessed."""
    what = {difference.what for difference in case.differences}
    if not what & _DESCRIPTOR_PAGES or not what <= _DESCRIPTOR_PAGES | _TABLE_PAGES:
        return False
    return any(_has_fresh_code(patch.data) for patch in case.program.patches if GDT <= patch.at < IDT)


def _has_fresh_code(descriptors: bytes) -> bool:
    return any(access & _CODE_ACCESSED == _CODE_FRESH for access in descriptors[ACCESS_BYTE::DESCRIPTOR_SIZE])


def forgets_resume_flag(case: Case) -> bool:
    """RF alone differs, in the flags that a double fault has saved."""
    stops = _stops(case)
    if stops is None or stops[0].vector != Vector.DF or {each.what for each in case.differences} != {"frame"}:
        return False
    mine, other = (int.from_bytes(bytes.fromhex(stop.frame), "little") for stop in stops)
    return mine ^ other == Eflags.RF << _SAVED_FLAGS


def writes_environment(case: Case) -> bool:
    """Memory alone differs, and in code that a program has written is an FNSTENV, FNSAVE or FXSAVE."""
    return memory_alone(case) and any(spellings.environment(insn) is not None for insn in _new_code(case.program))


def _new_code(program: Program) -> Iterator[Insn]:
    """The instructions from each step on that a MOV of one byte to a fixed place has changed."""
    raw, starts = program.assemble()
    code, mode = bytearray(raw), program.mode
    changed = []
    for insn in _DECODER.decode(raw, 0, mode.code32):
        if insn.opcode != _MOV_IMM8 or insn.is_register_form or insn.memory.base is not None:
            continue
        for base in _BASES:
            at = (insn.memory.displacement + base & MASK32) - program.entry
            if 0 <= at < len(code):
                code[at] = insn.raw[-1]
                changed.append(at)
    for at in changed:
        start = max(start - program.entry for start in starts if start - program.entry <= at)
        yield from _DECODER.decode(bytes(code[start:]), 0, mode.code32)
