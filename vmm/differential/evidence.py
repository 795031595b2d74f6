"""What a case shows: the first stop that differs, the instruction there, the code of the program."""

from collections.abc import Iterator
from typing import Final

from bt.decode import Decoder, Insn
from vmm.arch.exceptions import Vector
from vmm.arch.registers import ARITHMETIC
from vmm.differential.case import Case
from vmm.differential.outcome import Ending, Stop
from vmm.differential.program import Program

DECODER: Final = Decoder()
WIDE: Final = 4
"""Bytes of an operand or address of 32 bits."""
FAR: Final = (0x9A, 0xEA, 0xCA, 0xCB, 0xCF)
"""Opcodes: far CALL, JMP and RET, and IRET; and FFh, whose /3 and /5 are far."""
GROUP_5: Final = 0xFF
STACK_HELPERS: Final = (*FAR, 0xC8, 0xCC, 0xCD, 0xCE)
"""Opcodes with a frame of several words: ENTER and INT, too."""
LOADS_OF_STATE: Final = ("fldenv", "frstor", "fxrstor")
"""Names of what loads the state of x87 from memory."""
FAST_CALLS: Final = (0x0F34, 0x0F35)
"""Opcodes of SYSENTER and SYSEXIT."""
OF_PAGES: Final = (Vector.PF, Vector.DF)
OF_PORTS: Final = (Vector.GP, Vector.DF)
"""A page fault, a general protection fault, or what becomes of it if its gate is broken."""


def both_stops(case: Case) -> tuple[Stop, Stop] | None:
    """What each engine shows at the first stop that differs; None if the stops are the same."""
    number = case.differences[0].stop
    return None if number < 0 else (case.got.stops[number], case.expected.stops[number])


def own_stop(case: Case) -> Stop | None:
    """That of the engine under test; where the reference ended or ran on before another stop, too."""
    stops, got, expected = both_stops(case), case.got.stops, case.expected
    if stops is None and expected.ending in (Ending.SHUTDOWN, Ending.ENDLESS) and len(expected.stops) < len(got):
        return got[len(expected.stops)]
    return None if stops is None else stops[0]


def at_fault(stop: Stop) -> Insn | None:
    """The instruction that a handler found."""
    return DECODER.one(stop.code, 0, stop.code32)


def general_protection(case: Case) -> tuple[Stop, Insn] | None:
    """The stop and the instruction, if the engine under test alone raised #GP for one, or #DF because of its gate."""
    stop = own_stop(case)
    if stop is None or stop.vector not in OF_PORTS:
        return None
    insn = at_fault(stop)
    return None if insn is None else (stop, insn)


def error_code(stop: Stop) -> int:
    """Of a handler of 32 bits: on top of the stack."""
    return int.from_bytes(bytes.fromhex(stop.frame[:8]), "little")


def instructions(program: Program) -> Iterator[Insn]:
    """Those of all steps, as they are at the start."""
    for step in program.steps:
        yield from DECODER.decode(step.code, 0, program.mode.code32)


def arithmetic_flags_alone(case: Case) -> bool:
    """Do arithmetic flags alone differ, in EFLAGS and in what is on the stack?"""
    stops = both_stops(case)
    if stops is None or not {difference.what for difference in case.differences} <= {"eflags", "frame"}:
        return False
    return not (stops[0].eflags ^ stops[1].eflags) & ~ARITHMETIC


def moved_fault(case: Case, beside: frozenset[str] = frozenset()) -> tuple[Stop, int, int] | None:
    """The stop of the engine under test and the two values of CR2, if no other control register differs, nor anything
    that is not in `beside`."""
    stops = both_stops(case)
    if stops is None or {difference.what for difference in case.differences} - {"control"} - beside:
        return None
    (cr0, mine, *rest), (other_cr0, other, *other_rest) = (stop.control for stop in stops)
    return (stops[0], mine, other) if (cr0, rest) == (other_cr0, other_rest) else None
