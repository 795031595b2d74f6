"""Differences that are recognised by what they look like: those of x87, MMX and SSE.

Each function knows one; see `predicates.py`.
"""

from typing import Final

from bt.simd import must_be_aligned, uses_mmx
from bt.tables import waits
from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr0, Cr4
from vmm.differential.case import Case
from vmm.differential.evidence import (
    DECODER,
    LOADS_OF_STATE,
    OF_PAGES,
    at_fault,
    both_stops,
    error_code,
    general_protection,
    instructions,
    own_stop,
)
from vmm.differential.outcome import HALT, TASK, Ending, Stop

_SUMMARY: Final = 0x80  # alone in `Stop.errors`
_STATUS_AT, _WORD_DIGITS, _MXCSR_AT = 8, 4, 9  # hexadecimal digits, and words of `Outcome.fpu`
_CR4_AT: Final = 3  # in `Stop.control`
_GATE: Final = 3  # EXT and IDT in the error code of a gate
_LOADS_MXCSR: Final = frozenset(("ldmxcsr", "fxrstor"))


def overlooks_error(case: Case) -> bool:
    """Code that a program has written: #MF for an error that waits, at an instruction that minds it."""
    stops = both_stops(case)
    if stops is None or stops[0].vector != Vector.MF or not stops[0].errors:
        return False
    insn = at_fault(stops[0])
    return insn is not None and waits(insn)


def errs_without_ne(case: Case) -> bool:
    """With CR0.NE clear there was an x87 error that is not masked."""
    stops = both_stops(case)
    return stops is not None and bool(stops[0].errors) and not (stops[0].control[0] | stops[1].control[0]) & Cr0.NE


def minds_alignment(case: Case) -> bool:
    """#GP for an operand that must be on a 16-byte boundary, or, what cannot be told apart, a reserved bit of MXCSR; or
    where its handler is not the usual one a shutdown, a HLT or no end, for which there may be no other sign."""
    stops = both_stops(case)
    if stops is None:
        is_hidden = case.got.ending in (Ending.SHUTDOWN, Ending.ENDLESS)
    else:
        has_left_protection = case.program.mode.is_segmented and not stops[0].control[0] & Cr0.PE
        is_hidden = stops[0].where == HALT or has_left_protection
    if is_hidden:
        return any(must_be_aligned(insn) or insn.name in _LOADS_MXCSR for insn in instructions(case.program))
    found, stop = general_protection(case), own_stop(case)
    if stop is not None and stop.vector == Vector.GP:
        raw = case.program.assemble()[0]
        at = stop.saved_eip + case.program.code_base - case.program.entry
        insn = DECODER.one(raw[at:], 0, stop.code32) if 0 <= at < len(raw) else None  # its frame may lie over it
        if insn is not None and must_be_aligned(insn):
            return True
    return found is not None and (must_be_aligned(found[1]) or found[1].name in _LOADS_MXCSR | {"fxsave"})


def checks_alignment(case: Case) -> bool:
    """#AC, or #DF because of its gate, at CPL 3 with EFLAGS.AC."""
    stop = own_stop(case)
    return stop is not None and stop.vector in (Vector.AC, Vector.DF) and bool(stop.control[0] & Cr0.AM)


def flushes_what_is_not_there(case: Case) -> bool:
    """A page fault of CLFLUSH."""
    stop = own_stop(case)
    insn = None if stop is None or stop.vector not in OF_PAGES else at_fault(stop)
    return insn is not None and insn.name == "clflush"


def keeps_fpu_state(case: Case) -> bool:
    """Errors of x87 and SSE are all that differs: in the end registers hold the same. Or the reference has #MF for a
    summary without an error that it could be of."""
    stops, kinds = both_stops(case), {difference.what for difference in case.differences}
    if stops is not None and stops[1].vector == Vector.MF and stops[1].errors == _SUMMARY:
        return True
    return kinds == {"errors"} or (kinds == {"fpu"} and _values(case.got.fpu) == _values(case.expected.fpu))


def _values(fpu: str) -> list[str]:
    """All of `Outcome.fpu` but the x87 status word and MXCSR."""
    words = fpu.split()
    if not words:
        return []
    return [words[0][:_STATUS_AT] + words[0][_STATUS_AT + _WORD_DIGITS :], *words[1:_MXCSR_AT], *words[_MXCSR_AT + 1 :]]


def asks_for_no_sse(case: Case) -> bool:
    """#UD for an SSE instruction with CR4.OSFXSR clear or CR0.EM set; the reference looked at CR0.TS first, and its #NM
    may be a task."""
    stops = both_stops(case)
    if stops is None or (TASK not in (stops[0].where, stops[1].where) and stops[0].saved_eip != stops[1].saved_eip):
        return False
    is_off = stops[0].control[0] & Cr0.EM or not stops[0].control[_CR4_AT] & Cr4.OSFXSR
    pairs = ((stops[0], Vector.UD), (stops[1], Vector.NM))
    return bool(is_off) and all(stop.where == TASK or _is_of(stop, vector) for stop, vector in pairs)


def _is_of(stop: Stop, vector: int) -> bool:
    """Is it that exception, or the #NP of its gate?"""
    return stop.vector == vector or (stop.vector == Vector.NP and error_code(stop) == vector << 3 | _GATE)


def enters_mmx_state(case: Case) -> bool:
    """The state of x87 alone differs, and an MMX instruction faulted: then it has not changed tags and top."""
    if {difference.what for difference in case.differences} != {"fpu"}:
        return False
    faulted = (at_fault(stop) for stop in case.got.stops)
    return any(insn is not None and (waits(insn) or uses_mmx(insn)) for insn in faulted)


def loads_state_in_part(case: Case) -> bool:
    """x87 and SSE registers alone differ, and memory to which they were stored, and a load of them was a page fault."""
    kinds = {difference.what for difference in case.differences}
    if "fpu" not in kinds or not all(kind == "fpu" or kind.startswith("page ") for kind in kinds):
        return False
    faulted = (at_fault(stop) for stop in case.got.stops if stop.vector in OF_PAGES)
    return any(insn is not None and insn.name in LOADS_OF_STATE for insn in faulted)
