"""A failing program, made as small as it can be while it fails in the same way."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from bt.decode import Decoder
from vmm.arch.registers import Reg
from vmm.differential import layout
from vmm.differential.modes import Paging
from vmm.differential.program import Program, Step

Fails = Callable[[Program], bool]

_ENTRY: Final = layout.CODE + 0x100
_FIELDS: Final = 32


def shrink(program: Program, fails: Fails) -> Program:
    """The smallest program found that still `fails`; `program` does."""
    while True:
        smaller = program
        for reduce in (_fewer_steps, _shorter_steps, _plainer_machine):
            smaller = reduce(smaller, fails)
        if smaller == program:
            return program
        program = smaller


def _fewer_steps(program: Program, fails: Fails) -> Program:
    """Leave out runs of steps, long ones first."""
    size = len(program.steps)
    while size:
        at = 0
        while at < len(program.steps):
            trial = program.without(at, size)
            if trial.steps and fails(trial):
                program = trial
            else:
                at += size
        size //= 2
    return program


def _shorter_steps(program: Program, fails: Fails) -> Program:
    """Leave out single instructions of steps that consist of several."""
    for number in range(len(program.steps)):
        shorter = True
        while shorter:
            shorter = False
            for step in _pieces_gone(program, number):
                trial = replace(program, steps=(*program.steps[:number], step, *program.steps[number + 1 :]))
                if fails(trial):
                    program, shorter = trial, True
                    break
    return program


def _pieces_gone(program: Program, number: int) -> Iterator[Step]:
    """One step without each of its instructions."""
    step = program.steps[number]
    decoder, at = Decoder(), 0
    while at < len(step.code):
        insn = decoder.one(step.code[at:], 0, program.mode.code32)
        if insn is None:
            return
        end = at + len(insn.raw)
        if len(insn.raw) < len(step.code):
            kept = tuple(
                fixup if fixup.at < at else fixup._replace(at=fixup.at - len(insn.raw))
                for fixup in step.fixups
                if not at <= fixup.at < end
            )
            yield Step(step.name, step.code[:at] + step.code[end:], kept)
        at = end


def _plainer_machine(program: Program, fails: Fails) -> Program:
    """Take back what the program changes of memory, paging, registers and flags."""
    for number in reversed(range(len(program.patches))):
        program = _try(program, fails, patches=program.patches[:number] + program.patches[number + 1 :])
    program = _try(program, fails, entry=_ENTRY)
    program = _try(program, fails, fill=0)
    program = _try(program, fails, paging=Paging.NONE)
    for field in ("eflags", "cr0", "cr4"):
        for bit in range(_FIELDS):
            value = getattr(program, field)
            if value >> bit & 1:
                program = _try(program, fails, **{field: value & ~(1 << bit)})
    for reg in Reg:
        if reg is not Reg.ESP and program.registers[reg]:
            registers = list(program.registers)
            registers[reg] = 0
            program = _try(program, fails, registers=tuple(registers))
    return program


def _try(program: Program, fails: Fails, **changes: object) -> Program:
    trial = replace(program, **changes)  # type: ignore[arg-type]
    return trial if trial != program and fails(trial) else program
