"""ENTER in cached code.

It stays where operand and stack have the same size. On a stack of the other size the engine takes the frame pointer's
width from the stack, where the SDM takes it from the operand: that is the VMM's. Where there is paging, a look at the
new top of the stack comes first, which the processor takes and the engine does not.

Source: Intel SDM Vol. 2A, "ENTER - Make Stack Frame for Procedure Parameters", Operation and #PF(fault-code).
"""

from typing import Final

from bt.decode import Insn
from bt.emit import S0, STORES, Emitter
from bt.guest import Mode
from vmm.arch.registers import Reg

_LEVELS: Final = 32
_LONG: Final = 4
_PROBE: Final = """
    lea ecx, [esp + {first}]
    %(cut)s
    %(change)s
    %(change)s
    lea ecx, [esp + {top}]
    %(cut)s
    %(change)s
    %(change)s
    mov ecx, dword ptr cs:[{S0}]
"""
"""NOT twice needs the rights of a store and changes nothing, no flag either."""
_ON_STACK: Final = {
    True: _PROBE % {"cut": "", "change": "not dword ptr ss:[ecx]"},
    False: _PROBE % {"cut": "movzx ecx, cx", "change": "not word ptr ss:[ecx]"},
}


def frame_size(insn: Insn) -> tuple[int, int]:
    """(bytes reserved, nesting level 0-31) of an ENTER."""
    return int.from_bytes(insn.tail[:2], "little"), insn.tail[2] % _LEVELS


def enter(emit: Emitter, insn: Insn) -> None:
    """ENTER: the same bytes, once the first push and the new top are sure to be there."""
    if (insn.operand_size == _LONG) is not emit.context.stack32:
        emit.callout()
        return
    if emit.context.mode is not Mode.REAL:
        _probe(emit, insn)
    emit.raw(insn.raw)


def _probe(emit: Emitter, insn: Insn) -> None:
    room, level = frame_size(insn)
    emit.emit("mov dword ptr cs:[{S0}], ecx")
    emit.mark((Reg.ECX, S0), (STORES, S0))
    size = insn.operand_size
    emit.emit(_ON_STACK[emit.context.stack32], first=-size, top=-size * (level + 1) - room)
    emit.mark()
