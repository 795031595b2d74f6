"""The critical instructions that transfer control: far CALL, JMP and RET, INT n and its kin, IRET.

Source of what is expected: Intel SDM Vol. 2A and 2B, each instruction's "Operation".
"""

from collections.abc import Iterator
from typing import Final

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Eflags, Seg
from vmm.lab import setting as at
from vmm.lab.critical_cases import flags_image, flags_taken
from vmm.lab.machine import LabMachine
from vmm.lab.program import Case, Observer, Program
from vmm.lab.setting import Setting

_TARGET: Final = 0x20
"""Where far transfers go to, bytes behind the program's first."""
_SIZES: Final = (2, 4)
_LANDED: Final = 0x600D


def _landing(program: Program) -> Program:
    """What stands at the target: it stores that it was reached."""
    return program.pad(_TARGET).op("b8", 4, at.word(_LANDED)).store_eax()


def _landed_in(machine: LabMachine) -> str:
    there = "there" if machine.result(4) == _LANDED else "elsewhere"
    return f"{there} in {machine.vcpu.selector(Seg.CS):04X}"


def _far_pointer(s: Setting, size: int) -> bytes:
    return at.word(s.code + _TARGET, size) + at.word(s.segments[Seg.CS].selector, 2)


def far_calls_and_jumps(s: Setting) -> Iterator[Case]:
    """CALL and JMP to a far pointer: CALL leaves the caller's CS, RPL included, and offset on the stack."""
    own = s.segments[Seg.CS].selector
    for size in _SIZES:
        pointer = {at.DATA + at.OPERAND: _far_pointer(s, size)}
        for form, opcode, reg, memory in (
            (f"ptr16:{8 * size}", "9a", None, {}), (f"m16:{8 * size}", "ff", 3, pointer)
        ):  # fmt: skip
            call = _far(Program(s), opcode, reg, size)
            behind = s.code + len(call.code)
            shown = f"return to {own:04X}:{behind:04X}"
            call.pad(_TARGET).pop_eax(size).store_eax().pop_eax(size).store_eax(4)
            yield Case("CALL", form, s, call.code, shown, _return_address, memory)
        for form, opcode, reg, memory in (
            (f"ptr16:{8 * size}", "ea", None, {}), (f"m16:{8 * size}", "ff", 5, pointer)
        ):  # fmt: skip
            jump = _landing(_far(Program(s), opcode, reg, size))
            yield Case("JMP", form, s, jump.code, f"there in {own:04X}", _landed_in, memory)


def _far(program: Program, opcode: str, reg: int | None, size: int) -> Program:
    if reg is None:
        return program.op(opcode, size, _far_pointer(program.setting, size))
    return program.memory(opcode, reg, at.OPERAND, size)


def _return_address(machine: LabMachine) -> str:
    return f"return to {machine.result(2, 4):04X}:{machine.result(2):04X}"


def far_returns(s: Setting) -> Iterator[Case]:
    """RET to the same ring."""
    own = s.segments[Seg.CS].selector
    for size in _SIZES:
        for form, opcode in (("far", "cb"), ("far, imm16", "ca0000")):
            program = Program(s).push(own, size).push(s.code + _TARGET, size).op(opcode, size)
            code = _landing(program).code
            yield Case("RET", f"{form}, {8 * size}-bit", s, code, f"there in {own:04X}", _landed_in)


def interrupts(s: Setting) -> Iterator[Case]:
    """INT n, INT3, INTO: the frame that the handler finds."""
    own = s.segments[Seg.CS].selector
    flags = s.eflags | int(Eflags.OF)
    size = 2 if s.is_real else 4
    for form, code, vector in (
        ("imm8", "cd80", at.SYSTEM_CALL), ("INT3", "cc", int(Vector.BP)), ("INTO", "ce", int(Vector.OF))
    ):  # fmt: skip
        program = Program(s).op(code)
        pushed = flags & (0xFFFF if s.is_real else 0xFFFF_FFFF)
        shown = f"vector {vector:02X} from {own:04X}:{s.code + len(program.code):04X} flags {pushed:0{2 * size}X}"
        registers = {"eflags": flags}
        yield Case("INT", form, s, program.code, shown, _frame(vector, size), registers=registers, vector=vector)


def _frame(vector: int, size: int) -> Observer:
    def observe(machine: LabMachine) -> str:
        top = machine.stack_top
        eip, cs, flags = (machine.word(top + size * n, size) for n in range(3))
        return f"vector {vector:02X} from {cs:04X}:{eip:04X} flags {flags:0{2 * size}X}"

    return observe


def interrupt_returns(s: Setting) -> Iterator[Case]:
    """IRET to the same ring, with an EFLAGS image that differs."""
    own = s.segments[Seg.CS].selector
    for size in _SIZES:
        program = Program(s).push(flags_image(s), size).push(own, size).push(s.code + _TARGET, size).op("cf", size)
        shown = f"there in {own:04X} with {flags_taken(s):08X}"
        yield Case("IRET", f"{8 * size}-bit", s, _landing(program).code, shown, _landed_with)


def _landed_with(machine: LabMachine) -> str:
    return f"{_landed_in(machine)} with {machine.vcpu.eflags & ~int(Eflags.RF):08X}"
