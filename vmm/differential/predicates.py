"""Differences that are recognised by what they look like: each function knows one.

They look at the first stop that differs: what the engine under test found there, what the reference did, and the
instruction, as it lies in memory.
"""

from typing import Final

from bt.decode import LEGACY_PREFIXES, Decoder, Insn
from bt.tables import waits
from vmm.arch.exceptions import Vector
from vmm.arch.layout import PAGE_SHIFT, PAGE_SIZE
from vmm.arch.registers import Cr0, Reg
from vmm.cpu.control import CR4_BITS
from vmm.differential.case import Case
from vmm.differential.layout import CODE, entry_at
from vmm.differential.modes import Kind, Paging
from vmm.differential.outcome import Stop

_DECODER: Final = Decoder()
_ECX: Final = int(Reg.ECX)
_LIMIT_16: Final = 0xFFFF
_STRING_PORTS: Final = range(0x6C, 0x70)
_LOCK: Final = 0xF0
_TO_CR: Final = 0x0F22
_CR4: Final = 4
_FAR: Final = (0x9A, 0xEA, 0xCA, 0xCB, 0xCF)
_GROUP_5: Final = 0xFF
_WIDE: Final = 4
_NO_SELECTOR: Final = "00000000"  # an error code, on top of the stack
_NEAR: Final = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE8, 0xE9, 0xEB, *range(0x0F80, 0x0F90)))


def _stops(case: Case) -> tuple[Stop, Stop] | None:
    number = case.differences[0].stop
    return None if number < 0 else (case.got.stops[number], case.expected.stops[number])


def _at_fault(case: Case, stop: Stop) -> Insn | None:
    """The instruction that a handler found."""
    return _DECODER.one(stop.code, 0, case.program.mode.code32)


def _general_protection(case: Case) -> tuple[Stop, Insn] | None:
    """The stop and the instruction, if the engine under test alone raised #GP for one."""
    stops = _stops(case)
    if stops is None or stops[0].vector != Vector.GP:
        return None
    insn = _at_fault(case, stops[0])
    return None if insn is None else (stops[0], insn)


def fetches_ahead(case: Case) -> bool:
    """Code runs into a page that is not mapped as the others are."""
    program = case.program
    if program.paging is Paging.NONE:
        return False
    second = entry_at(program.paging, CODE + PAGE_SIZE >> PAGE_SHIFT)[0]
    return any(patch.at == second for patch in program.patches)


def counts_nothing(case: Case) -> bool:
    """REP INS or OUTS with a count of 0, of a port that is not allowed."""
    found = _general_protection(case)
    if found is None or found[1].opcode not in _STRING_PORTS or not found[1].repeat:
        return False
    stop, insn = found
    return not stop.general[_ECX] & (1 << 8 * insn.address_size) - 1


def branches_too_far(case: Case) -> bool:
    """A relative branch of 16-bit code beyond FFFFh."""
    found = _general_protection(case)
    if found is None or found[1].code32 or found[1].opcode not in _NEAR:
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
    """A far transfer of 32 bits to 16-bit code, whose limit it ignores: #GP(0), without a selector to blame."""
    found = _general_protection(case)
    if found is None or found[1].operand_size != _WIDE or case.program.mode.code32:
        return False
    stop, insn = found
    is_far = insn.opcode in _FAR or (insn.opcode == _GROUP_5 and insn.modrm >> 3 & 7 in (3, 5))
    return is_far and (
        case.program.mode.kind is Kind.REAL or not int.from_bytes(bytes.fromhex(stop.frame[:8]), "little")
    )


def overlooks_error(case: Case) -> bool:
    """Code that a program has written: #MF for an error that waits, at an instruction that minds it."""
    stops = _stops(case)
    if stops is None or stops[0].vector != Vector.MF or not stops[0].errors:
        return False
    insn = _at_fault(case, stops[0])
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
    """INS or OUTS of a port that is not allowed was #GP, and memory differs, or the reference met a page fault."""
    stops = _stops(case)
    touched = all(difference.what.startswith("page ") for difference in case.differences)
    faulted = stops is not None and stops[1].vector == Vector.PF
    refused = (_at_fault(case, stop) for stop in case.got.stops if stop.vector == Vector.GP)
    return (touched or faulted) and any(insn is not None and insn.opcode in _STRING_PORTS for insn in refused)
