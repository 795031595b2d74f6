"""LAR, LSL, VERR and VERW: what a descriptor allows, looked up by ring 0 in the guest's own GDT.

Ring 0 may see every code and data segment whose DPL is not below the selector's RPL. Where the answer is anything but a
plain yes, for a null selector, one of the LDT or beyond the limit, for a system descriptor or one that may not be seen,
the VMM gives it. What may fault, the operand and the two reads of the descriptor, comes before anything changes.

Source: Intel SDM Vol. 2A, "LAR - Load Access Rights Byte", "LSL - Load Segment Limit"; Vol. 2B, "VERR/VERW - Verify a
Segment for Reading or Writing".
"""

from typing import Final

from bt.branches import load_ecx
from bt.decode import Insn
from bt.emit import FLAGS, S0, S1, S3, S4, Emitter, SiteKind
from bt.guest import Mode
from vmm.arch.registers import Reg

_OPEN: Final = """
    mov dword ptr cs:[{S1}], edx
    mov dword ptr cs:[{S3}], eax
    lahf
    seto al
    mov dword ptr cs:[{S4}], eax
"""
_FIND: Final = """
    test ecx, 4
    jne slow
    mov edx, ecx
    and edx, 0xfff8
    je slow
    lea eax, [edx + 7]
    cmp eax, dword ptr cs:[{GDT_LIMIT}]
    ja slow
    and ecx, 3
    shl ecx, 13
    add edx, dword ptr cs:[{GDT_BASE}]
    mov eax, dword ptr cs:[edx + {low}]
    mov dword ptr cs:[{S2}], eax
    mov eax, dword ptr cs:[edx + {high}]
    test ah, 0x10
    je slow
    mov edx, eax
    and edx, 0x6000
    cmp edx, ecx
    jb slow
"""
"""EAX: the high half of the descriptor, S2: the low one."""
_LAR: Final = """
    and eax, 0xf0ff00
    mov dword ptr cs:[{S2}], eax
"""
_LSL: Final = """
    movzx edx, word ptr cs:[{S2}]
    mov ecx, eax
    and eax, 0xf0000
    or eax, edx
    test ecx, 0x800000
    je bytes
    shl eax, 12
    or eax, 0xfff
bytes:
    mov dword ptr cs:[{S2}], eax
"""
_VERR: Final = """
    and ah, 0xa
    cmp ah, 8
    je slow
"""
"""Code that may not be read."""
_VERW: Final = """
    and ah, 0xa
    cmp ah, 2
    jne slow
"""
"""Data that may be written."""
_BACK: Final = """
    add al, 0x7f
    sahf
    mov eax, dword ptr cs:[{S3}]
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
"""
_CLOSE: Final = f"""
    mov eax, dword ptr cs:[{{S4}}]
    or ah, 0x40
    {_BACK}
    %(store)s
    jmp done
slow:
    mov eax, dword ptr cs:[{{S4}}]
    {_BACK}
    int 0x40
done:
"""
_NAMES: Final = {
    4: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"),
    2: ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"),
}
_WIDTHS: Final = {4: "dword", 2: "word"}


def lar(emit: Emitter, insn: Insn) -> None:
    """LAR r16 | r32, r/m16: access rights, masked with 00F0FF00h."""
    _ask(emit, insn, _LAR, _to_register(insn))


def lsl(emit: Emitter, insn: Insn) -> None:
    """LSL r16 | r32, r/m16: the limit in bytes."""
    _ask(emit, insn, _LSL, _to_register(insn))


def verr(emit: Emitter, insn: Insn) -> None:
    """VERR r/m16: may the segment be read?"""
    _ask(emit, insn, _VERR, "")


def verw(emit: Emitter, insn: Insn) -> None:
    """VERW r/m16: may the segment be written?"""
    _ask(emit, insn, _VERW, "")


def _to_register(insn: Insn) -> str:
    size = insn.operand_size
    return f"mov {_NAMES[size][insn.modrm >> 3 & 7]}, {_WIDTHS[size]} ptr cs:[{{S2}}]"


def _ask(emit: Emitter, insn: Insn, look: str, store: str) -> None:
    """The frame of all four. `look` goes to the label `slow` for a no, `store` brings S2 to where it belongs."""
    context = emit.context
    if context.mode is not Mode.PROTECTED or context.cpl or not context.code32:
        emit.callout()
        return
    emit.emit("mov dword ptr cs:[{S0}], ecx")
    load_ecx(emit, insn, 2)
    emit.mark((Reg.ECX, S0))
    emit.emit(_OPEN)
    emit.mark((Reg.ECX, S0), (Reg.EDX, S1), (Reg.EAX, S3), (FLAGS, S4))
    base = -emit.window.cs_base
    emit.emit(_FIND + look + _CLOSE % {"store": store}, low=base, high=base + 4)
    emit.site_here(SiteKind.CALLOUT)
