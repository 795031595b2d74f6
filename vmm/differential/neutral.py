"""Programs in which an instruction that an engine gets wrong is spelt in another way, which it gets right.

If two engines disagree about a program and agree about its neutral form, the disagreement came from the instruction
that was spelt anew: nothing else has changed, and nothing behind it is hidden.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from bt.decode import LEGACY_PREFIXES, Insn
from vmm.differential.evidence import DECODER
from vmm.differential.program import Fixup, Program, Step

_LOCK: Final = 0xF0
Spelling = Callable[[Insn], bytes | None]
"""Another spelling of an instruction; None where its own is right."""


def respelt(program: Program, spelling: Spelling) -> Program:
    """The program with every instruction of its steps as `spelling` has it."""
    steps = tuple(_respelt_step(program.mode.code32, step, spelling) for step in program.steps)
    return program if steps == program.steps else replace(program, steps=steps)


def _respelt_step(code32: bool, step: Step, spelling: Spelling) -> Step:
    made, moved, at = bytearray(), [], 0
    fixups = list(step.fixups)
    for insn in _decode(step.code, code32):
        end = at + len(insn.raw)
        new = spelling(insn)
        # what a fixup names lies at the end of its instruction, which stays as it is when bytes come in front
        shift = len(made) - at + (0 if new is None else len(new) - len(insn.raw))
        moved += [_shifted(fixup, shift) for fixup in fixups if at <= fixup.at < end]
        made += insn.raw if new is None else new
        at = end
    shift = len(made) - at
    moved += [_shifted(fixup, shift) for fixup in fixups if fixup.at >= at]
    return Step(step.name, bytes(made) + step.code[at:], tuple(moved))


@lru_cache(maxsize=256)
def _decode(code: bytes, code32: bool) -> tuple[Insn, ...]:
    """The instructions of a step; where a LOCK is all that is wrong with one, too."""
    found, at = [], 0
    while at < len(code) and (insn := _decode_one(code[at:], code32)) is not None:
        found.append(insn)
        at += len(insn.raw)
    return tuple(found)


def _decode_one(code: bytes, code32: bool) -> Insn | None:
    insn = DECODER.one(code, 0, code32)
    end = next((at for at, byte in enumerate(code) if byte not in LEGACY_PREFIXES), len(code))
    if insn is not None or _LOCK not in code[:end]:
        return insn
    without = DECODER.one(code[:end].replace(b"\xf0", b"") + code[end:], 0, code32)
    if without is None:
        return None
    size = len(without.raw) + code[:end].count(_LOCK)
    return Insn(0, code[:size], without.mnemonic, without.text, code32)


def _shifted(fixup: Fixup, by: int) -> Fixup:
    return fixup._replace(at=fixup.at + by)
