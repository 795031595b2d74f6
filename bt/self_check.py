"""The prologue of a self-checking block: it compares its source with what it was made from."""

from typing import Final

from bt.decode import Insn
from bt.emit import S0, Emitter, SiteKind
from vmm.arch.registers import Reg

_WORD: Final = 4
_FLAGS_TO_AX: Final = "mov ecx, eax\nlahf\nseto al"
_FLAGS_FROM_AX: Final = "add al, 0x7f\nsahf\nmov eax, ecx\nmov ecx, dword ptr cs:[{S0}]"


def check_source(emit: Emitter, first_insn: Insn, source: bytes) -> None:
    """Compare the block's source with what was translated; leave by a STALE exit if it changed, or go on in the block
    that the exit has been linked to, which was made of other bytes.

    Comparing with CMP takes saving the flags, but JNE chains in the engine, where JECXZ leaves for its main loop each
    time. The first and the last byte are read beforehand: what could fault must do it while the flags are the guest's.
    """
    first = first_insn.eip
    emit.insn = first_insn
    emit.mark()
    emit.emit("mov dword ptr cs:[{S0}], ecx")
    emit.mark((Reg.ECX, S0))
    for at in (0, len(source) - 1):
        emit.emit("movzx ecx, byte ptr cs:[{at}]", at=first + at)
    emit.emit(_FLAGS_TO_AX)
    changed = [_compare_source(emit, first, source, at) for at in _pieces(len(source))]
    same = emit.forward(b"\xe9")
    for branch in changed:
        emit.here(branch)
    emit.emit(_FLAGS_FROM_AX)
    emit.branch(b"\xe9", first, SiteKind.STALE)
    emit.here(same)
    emit.emit(_FLAGS_FROM_AX)


def _pieces(size: int) -> list[int]:
    """Where the words begin that cover `size` bytes, the last one overlapping; fewer bytes than a word are compared
    one by one."""
    if size < _WORD:
        return list(range(size))
    return [*range(0, size - _WORD, _WORD), size - _WORD]


def _compare_source(emit: Emitter, first: int, source: bytes, at: int) -> int:
    """Compare one piece; returns the branch that is taken when it differs."""
    if len(source) < _WORD:
        emit.emit("cmp byte ptr cs:[{at}], 0", at=first + at)
        emit.code[-1] = source[at]
    else:
        expected = int.from_bytes(source[at : at + _WORD], "little")
        emit.emit("cmp dword ptr cs:[{at}], {expected}", at=first + at, expected=expected)
    return emit.forward(b"\x0f\x85")
