"""The same program with less in the way of what went wrong: what a predicate or a spelling cannot see through.

An instruction that comes into being when the program runs is in nobody's listing, and a fault whose gate or stack is
broken shows up as another one, as a task switch or as a shutdown. Each function takes that away and leaves the rest.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Final

from bt.decode import MAX_LENGTH, Insn
from vmm.arch.layout import MASK32
from vmm.differential.evidence import DECODER
from vmm.differential.layout import BASES, HLT, IDT, IDT_LIMIT, PAGE_DIRECTORY, RAM
from vmm.differential.program import Fixup, Program, Step

_MOV_IMM8: Final = 0xC6
_NOP: Final = b"\x90"
_UNUSED: Final = bytes([HLT]) * MAX_LENGTH
_VECTORS: Final = (range(0x400), range(IDT, IDT + IDT_LIMIT + 1))

Simplify = Callable[[Program], Program]
"""A program without something; the same one, if it has nothing of the kind."""


def code_in_place(program: Program) -> Program:
    """The bytes that it writes into its code are there from the start, and NOPs where it wrote them."""
    raw, starts = program.assemble()
    code, changed, writers = bytearray(raw), set(), set()
    for insn, at in _instructions(raw, starts, program):
        if insn.opcode != _MOV_IMM8 or insn.is_register_form or insn.memory.base is not None:
            continue
        for base in BASES:
            target = (insn.memory.displacement + base & MASK32) - program.entry
            if 0 <= target < len(raw) - 1:
                code[target] = insn.raw[-1]
                changed.add(target)
                writers.add(range(at, at + len(insn.raw)))
    for writer in writers:
        code[writer.start : writer.stop] = _NOP * len(writer)
    if not changed:
        return program
    offsets = [start - program.entry for start in starts]
    gone = changed.union(*writers)
    steps = [
        step._replace(code=bytes(code[first:end]), fixups=_kept(step, first, gone))
        for step, (first, end) in zip(program.steps, pairwise(offsets), strict=True)
    ]
    for number in reversed(range(len(steps))):
        is_new = gone & {*range(offsets[number], offsets[number + 1])}
        while is_new and (missing := _missing(steps, number, program.mode.code32)):
            if number + 1 < len(steps):
                steps = _joined(steps, number)
            else:
                steps[number] = steps[number]._replace(code=steps[number].code + missing)
    return replace(program, steps=tuple(steps))


def _missing(steps: list[Step], number: int, code32: bool) -> bytes:
    """What the last instruction of a step takes of the steps and HLTs behind it."""
    code = steps[number].code
    done = sum(len(insn.raw) for insn in DECODER.decode(code, 0, code32))
    behind = b"".join(step.code for step in steps[number + 1 :]) + _UNUSED
    last = DECODER.one(code[done:] + behind, 0, code32) if done < len(code) else None
    return behind[: done + len(last.raw) - len(code)] if last is not None else b""


def _joined(steps: list[Step], number: int) -> list[Step]:
    """A step and the next one as one; what led to the latter's start stays as it is."""
    front, back = steps[number : number + 2]
    moved = tuple(fixup._replace(at=fixup.at + len(front.code)) for fixup in back.fixups)
    joined = Step(front.name, front.code + back.code, front.fixups + moved)
    return [_renumbered(step, number + 1) for step in (*steps[:number], joined, *steps[number + 2 :])]


def _renumbered(step: Step, gone: int) -> Step:
    fixups = (fixup._replace(step=fixup.step - (fixup.step > gone)) for fixup in step.fixups if fixup.step != gone)
    return step._replace(fixups=tuple(fixups))


def _instructions(raw: bytes, starts: tuple[int, ...], program: Program) -> list[tuple[Insn, int]]:
    """Those of each step, with their place in the code."""
    found = []
    for first, end in pairwise(start - program.entry for start in starts):
        at = first
        for insn in DECODER.decode(raw[first:end], 0, program.mode.code32):
            found.append((insn, at))
            at += len(insn.raw)
    return found


def _kept(step: Step, first: int, gone: set[int]) -> tuple[Fixup, ...]:
    """The fixups of a step none of whose bytes has been written."""
    return tuple(fixup for fixup in step.fixups if not gone & {*range(first + fixup.at, first + fixup.at + fixup.size)})


def gates_in_order(program: Program) -> Program:
    """Every exception has its usual gate."""
    return _without(program, lambda at: any(at in vectors for vectors in _VECTORS))


def pages_in_order(program: Program) -> Program:
    """Every page is where it usually is."""
    return _without(program, lambda at: PAGE_DIRECTORY <= at < RAM)


def _without(program: Program, is_one: Callable[[int], bool]) -> Program:
    kept = tuple(patch for patch in program.patches if not is_one(patch.at))
    return program if kept == program.patches else replace(program, patches=kept)


SIMPLIFY: Final[tuple[Simplify, ...]] = (code_in_place, gates_in_order, pages_in_order)
