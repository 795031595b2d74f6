"""Differences between Bochs and an engine of ours that the manual decides, or leaves open: each names the rule.

Where the engine below does not check what a processor checks, `docs/limits.md` says so, and Bochs confirms it. A
program goes on behind a step that such a difference is about: the step is left out, and the rest compared again.
"""

from itertools import pairwise
from typing import Final

from vmm.differential import bochs_predicates
from vmm.differential.case import Case
from vmm.differential.definite import definite_where_new
from vmm.differential.evidence import arithmetic_flags_alone, both_stops
from vmm.differential.flaws import Flaw
from vmm.differential.judge import Compare, Verdict, judge
from vmm.differential.neutral import respelt
from vmm.differential.outcome import Stop
from vmm.differential.plainer import code_in_place
from vmm.differential.program import Program

_LIMITS: Final = 'docs/limits.md, "The bare processor"; SDM Vol. 3A, "Limit Checking", "Type Checking"'

DEVIATIONS: Final = (
    Flaw(
        "checks of data segments",
        "an operand beyond the limit, through a null selector or of the wrong type is #GP or #SS",
        _LIMITS,
        when=bochs_predicates.misses_segment_checks,
    ),
    Flaw(
        "x87 and SSE registers",
        "MMX writes set the exponent to ones; results that are not exact set flags of MXCSR and of the x87 status",
        'SDM Vol. 3A, "Effect of MMX Instructions on the x87 FPU State"; Vol. 1, "MXCSR Control and Status Register"',
        when=bochs_predicates.rounds_registers_off,
    ),
    Flaw(
        "MXCSR",
        "reserved bits are #GP, an SSE error that is not masked is #XF",
        'docs/limits.md, "Exceptions and debugging"; SDM Vol. 1, "MXCSR Control and Status Register"',
        when=bochs_predicates.changes_mxcsr,
    ),
    Flaw(
        "CLFLUSH",
        "an address that cannot be read is a fault",
        'docs/limits.md, "Paging and address space"; SDM Vol. 2A, "CLFLUSH - Flush Cache Line"',
        when=bochs_predicates.flushes_a_line,
    ),
    Flaw(
        "LAR",
        "bits 19:16 are undefined",
        'SDM Vol. 2A, "LAR - Load Access Rights Byte"',
        when=bochs_predicates.shows_more_rights,
    ),
    Flaw(
        "DR4 and DR5",
        "with CR4.DE they are #UD, outside ring 0 all are #GP; which comes first is not said",
        'SDM Vol. 2B, "MOV - Move to/from Debug Registers"',
        when=bochs_predicates.ranks_debug_registers,
    ),
    Flaw(
        "MASKMOV",
        "with a mask of zeros a store may touch memory or not",
        'SDM Vol. 2B, "MASKMOVQ - Store Selected Bytes of Quadword"',
        when=bochs_predicates.touches_for_nothing,
    ),
    Flaw(
        "alignment check",
        "an operand that is not aligned is #AC at CPL 3 with CR0.AM and EFLAGS.AC",
        'docs/limits.md, "Exceptions and debugging"; SDM Vol. 3A, "Interrupt 17 - Alignment Check Exception (#AC)"',
        when=bochs_predicates.misses_alignment_check,
    ),
    Flaw(
        "CALL beyond the limit",
        "the target is looked at before anything is pushed: Bochs has pushed by then",
        'SDM Vol. 2A, "CALL - Call Procedure"',
        when=bochs_predicates.pushes_before_it_looks,
    ),
    Flaw(
        "targets beyond the limit",
        "a RET or an indirect branch beyond the limit of CS is #GP itself",
        'docs/limits.md, "The bare processor"; SDM Vol. 2B, "RET - Return From Procedure"',
        when=bochs_predicates.faults_at_the_target,
    ),
    Flaw(
        "shutdown",
        "what the registers of x87, MMX and SSE hold then is lost in Bochs, which resets its machine",
        "docs/differential.md",
        when=bochs_predicates.loses_state,
    ),
    Flaw(
        "VIF and VIP",
        "the flags are there with VME, which Bochs has and our processor has not",
        'docs/limits.md, "Exceptions and debugging"; SDM Vol. 3B, "Virtual-8086 Mode Extensions"',
        when=bochs_predicates.has_virtual_interrupt_flags,
    ),
    Flaw(
        "#NM and #UD",
        "with CR0.TS, and CR0.EM or without CR4.OSFXSR, both are due; which comes first is not said",
        'SDM Vol. 3A, "Interrupt 7 - Device Not Available Exception (#NM)"',
        when=bochs_predicates.ranks_nm_and_ud,
    ),
    Flaw(
        "outside of RAM",
        "what lies beyond the memory of a program is the board's business: Bochs has RAM and ROM there",
        "docs/differential.md",
        when=bochs_predicates.has_no_memory_there,
    ),
    Flaw(
        "CR4",
        "a bit that the processor has not is #GP: Bochs has VME, PVI, MCE and others",
        'docs/limits.md, "Exceptions and debugging"; SDM Vol. 2B, "MOV - Move to/from Control Registers"',
        when=bochs_predicates.has_more_of_cr4,
    ),
    Flaw(
        "images of x87 state",
        "an operand beyond the limit is #GP or #SS: Bochs goes on at offset 0",
        'SDM Vol. 3A, "Limit Checking"',
        when=bochs_predicates.wraps_image,
    ),
    Flaw(
        "alignment beyond the limit",
        "a 128-bit operand that is not aligned and beyond the limit of SS is #GP or #SS: which, is not said",
        'SDM Vol. 3A, "Priority Among Simultaneous Exceptions and Interrupts"',
        when=bochs_predicates.ranks_alignment_and_limit,
    ),
    Flaw(
        "code elsewhere",
        "what a program finds outside of its code is not in a form that the manual defines: flags may differ",
        "docs/differential.md",
        when=bochs_predicates.runs_elsewhere,
    ),
    Flaw(
        "order of operands",
        "which byte of operands is looked at first is not said, and is what CR2 has",
        'SDM Vol. 3A, "Interrupt 14 - Page-Fault Exception (#PF)"',
        when=bochs_predicates.names_another_byte,
    ),
    Flaw(
        "alignment of SSE operands",
        "a 128-bit operand that is not aligned is #GP",
        'docs/limits.md, "Exceptions and debugging"; SDM Vol. 3A, "Interrupt 13 - General Protection Exception (#GP)"',
        bochs_predicates.aligned,
        bochs_predicates.shuts_down,
    ),
)

NEW_CODE: Final = Flaw(
    "new code",
    "what a program writes into its code is not in a form that the manual defines; in one that is, nothing differs",
    "docs/differential.md",
)


def explain(case: Case, compare: Compare) -> tuple[tuple[Flaw, ...], Case]:
    """What explains a case, one after the other, or that its code is new; and what is left of it, as below."""
    found, left = _explain(case, compare)
    if found or not left.differences:
        return found, left
    in_place = code_in_place(case.program)
    if in_place == case.program:
        return found, left
    trial = compare(definite_where_new(case.program, in_place))
    if not trial.differences or _explain(trial, compare)[0] or arithmetic_flags_alone(left):
        return (NEW_CODE,), trial
    return found, left


def _explain(case: Case, compare: Compare) -> tuple[tuple[Flaw, ...], Case]:
    """What explains a case, one after the other; and what is left of it. Nothing left: the case has no differences, or
    the last explanation is of something that cannot be left out."""

    def without_registers(program: Program) -> Case:
        trial = compare(program)
        return _without_registers(trial, where_alone=True)

    found: list[Flaw] = []
    is_simplified = False
    for _ in range(2 * len(case.program.steps)):
        case = _without_registers(case)
        if not case.differences:
            return tuple(found), case
        flaw, case = _recognised(case, compare)
        if flaw is None:
            before = case.program
            flaw, case = judge(case, without_registers)
            if flaw is None and case.program != before and not is_simplified:
                is_simplified = True  # it may have uncovered something else
                continue
        if flaw is None:
            return (), case
        found.append(flaw)
        step = _step_of(case) if case.differences else None
        if step is None:
            return tuple(found), case
        case = compare(case.program.without(step, 1))
    return (), case


def _without_registers(case: Case, where_alone: bool = False) -> Case:
    """Without what is known to differ in the registers of x87, MMX and SSE; where that is all only if asked."""
    others = tuple(each for each in case.differences if each.what != "fpu")
    if (not others and not where_alone) or others == case.differences or not bochs_predicates.has_known_registers(case):
        return case
    return case._replace(differences=others)


def _recognised(case: Case, compare: Compare) -> Verdict:
    for flaw in DEVIATIONS:
        if flaw.when is None or not flaw.when(case):
            continue
        if flaw.spelling is None:
            return Verdict(flaw, case)
        trial = compare(respelt(case.program, flaw.spelling))
        if not trial.differences:
            return Verdict(flaw, trial)
    return Verdict(None, case)


def _step_of(case: Case) -> int | None:
    """The step that a difference is about."""
    stops = both_stops(case)
    if stops is None:
        return None
    for stop in stops:
        step = step_at(case.program, stop)
        if step is not None:
            return step
    return None


def step_at(program: Program, stop: Stop) -> int | None:
    """The step where a handler found the program."""
    starts = program.assemble()[1]
    where = stop.saved_eip + program.code_base
    return next((n for n, (at, end) in enumerate(pairwise(starts)) if at <= where < end), None)
