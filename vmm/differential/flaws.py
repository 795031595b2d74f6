"""Differences that are not the fault of the engine under test: where the processor below is wrong against the manual, and
an engine that runs guest code on it unchanged shows it.

Each entry has the rule that is broken and where the manual has it. Most have a *spelling*: the difference is explained if
it goes away when the instruction is spelt in a way that the processor gets right. The others have a predicate, which must
recognise this one difference: what it takes for granted no run will ever show again.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from vmm.differential import spellings
from vmm.differential.neutral import Spelling, respelt
from vmm.differential.outcome import Difference, Outcome
from vmm.differential.program import Program


class Case(NamedTuple):
    """A program that two engines did not run alike. `engine` ran it as `got`, `against` as `expected`."""

    program: Program
    engine: str
    against: str
    got: Outcome
    expected: Outcome
    differences: tuple[Difference, ...]


class Flaw(NamedTuple):
    """A known error of the processor: `rule` is what the manual says in `source`."""

    name: str
    rule: str
    source: str
    spelling: Spelling | None = None
    explains: Callable[[Case], bool] | None = None


FLAWS: Final = (
    Flaw(
        "bit scans behind F3h",
        "F3h in front of BSF and BSR is ignored on a processor without TZCNT and LZCNT",
        'SDM Vol. 2B, "TZCNT"; "LZCNT"',
        spellings.bit_scan,
    ),
    Flaw(
        "x87 errors",
        "an unmasked error is #MF at the next x87 or MMX instruction that waits, not at FWAIT alone",
        'SDM Vol. 1, "x87 FPU Exception Synchronization"',
        spellings.waiting,
    ),
    Flaw("LOOPcc", "LOOPE and LOOPNE affect no flags", 'SDM Vol. 2A, "LOOP/LOOPcc"', spellings.loop_on_zf),
    Flaw(
        "lazy flags",
        "CMPXCHG8B affects ZF alone, SETcc none, even if its operand faults",
        'SDM Vol. 2A, "CMPXCHG8B"; Vol. 2B, "SETcc"',
        spellings.flags_first,
    ),
    Flaw("rotates", "RCL and RCR that fault change no flag", 'SDM Vol. 2B, "RCL/RCR/ROL/ROR"', spellings.rotate),
    Flaw(
        "TEST", "F6 /1 and F7 /1 are TEST", "processors execute them as /0; the opcode map has no entry", spellings.test
    ),
    Flaw("LOCK", "LOCK is #UD where it may not stand", 'SDM Vol. 2A, "LOCK"', spellings.lock),
)

Compare = Callable[[Program], Case]


class Verdict(NamedTuple):
    """What explains a case, or None; and the program, spelt anew as far as that went, that still differs."""

    flaw: Flaw | None
    case: Case


def judge(case: Case, compare: Compare) -> Verdict:
    """Explain a case, if it can be: `compare` runs a program on both engines."""
    for flaw in FLAWS:
        if flaw.explains is not None and flaw.explains(case):
            return Verdict(flaw, case)
        if flaw.spelling is None:
            continue
        program = respelt(case.program, flaw.spelling)
        if program == case.program:
            continue
        trial = compare(program)
        if not trial.differences:
            return Verdict(flaw, trial)
        case = trial
    return Verdict(None, case)
