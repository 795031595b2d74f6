"""MOV, POP, LDS.. to a segment register.

In physical V86 they load natively. In protected mode the VMM does it and checks what the SDM wants checked; but ring 0
reloads the same few segments at every interrupt, so there DS, ES, FS and GS load from a shadow GDT once the VMM has
loaded the same descriptor before. The sequence compares what the guest's GDT holds now with what the shadow entry was
made from. Whatever is not as it was, and every selector that needs a decision, is for the VMM.

Source: Intel SDM Vol. 2B, "MOV - Move", "POP - Pop a Value from the Stack".
"""

from typing import Final

from bt.branches import load_ecx
from bt.decode import Insn
from bt.emit import FLAGS, S0, S1, S3, S4, Emitter, SiteKind
from bt.guest import Mode
from bt.segment_classes import SegmentClass
from vmm.arch.layout import PAGE_SIZE
from vmm.arch.registers import Reg, Seg

_MOV: Final = 0x8E
_POP_SS: Final = 0x17
_LSS: Final = 0x0FB2
SEGMENT_POPS: Final = {0x07: Seg.ES, _POP_SS: Seg.SS, 0x1F: Seg.DS, 0x0FA1: Seg.FS, 0x0FA9: Seg.GS}
"""Opcodes of POP to a segment register."""
_FAR_LOADS: Final = {0xC4: Seg.ES, 0xC5: Seg.DS, _LSS: Seg.SS, 0x0FB4: Seg.FS, 0x0FB5: Seg.GS}
_FLAT: Final = (Seg.ES, Seg.DS)
"""Their bases must be 0, for `Slot.BASED` tells of them."""


def shadows_by_ss(insn: Insn) -> bool:
    """MOV SS and POP SS, not LSS: they hold interrupts and debug traps back for one instruction."""
    return insn.opcode == _POP_SS or (insn.opcode == _MOV and insn.modrm >> 3 & 7 == Seg.SS)


def load_segment(emit: Emitter, insn: Insn) -> None:
    """MOV, POP, LDS.. to a segment register: native in physical V86, from the shadow GDT in ring 0, else a callout.

    A load of SS holds interrupts back until the next instruction is done. MOV CS is #UD. With SS.B set in real mode the
    native load would clear it (V86 semantics), so the VMM does it; and it makes a register present again that protected
    mode has left with a null selector.
    """
    to_ss = insn.opcode == _LSS or shadows_by_ss(insn)
    to_cs = insn.opcode == _MOV and insn.modrm >> 3 & 7 == Seg.CS
    emit.shadow_next = shadows_by_ss(insn)
    seg = _data_segment(insn)
    if emit.context.mode is not Mode.PROTECTED:
        if to_cs or (to_ss and emit.context.stack32) or emit.context.segments[_loaded(insn)] is SegmentClass.ABSENT:
            emit.callout()
        else:
            emit.raw(insn.raw)
    elif seg is not None and emit.context.loads_natively(seg) and emit.window.gdt_sources:
        _from_shadow_gdt(emit, insn, seg)
    else:
        emit.callout()


def _loaded(insn: Insn) -> int:
    """Which register MOV, POP, LDS.. loads; CS for what there is not."""
    if insn.opcode == _MOV:
        seg = insn.modrm >> 3 & 7
        return seg if seg <= Seg.GS else Seg.CS
    return SEGMENT_POPS.get(insn.opcode, _FAR_LOADS.get(insn.opcode, Seg.CS))


def _data_segment(insn: Insn) -> int | None:
    """ES DS FS GS, if that is what MOV or POP loads."""
    if insn.opcode == _MOV:
        seg = insn.modrm >> 3 & 7
        return seg if seg <= Seg.GS and seg not in (Seg.CS, Seg.SS) else None
    seg = SEGMENT_POPS.get(insn.opcode, Seg.SS)
    return None if seg == Seg.SS else int(seg)


_OPEN: Final = """
    mov dword ptr cs:[{S1}], edx
    mov dword ptr cs:[{S2}], ecx
    mov dword ptr cs:[{S3}], eax
    lahf
    seto al
    mov dword ptr cs:[{S4}], eax
"""
_COMPARE: Final = """
    test ecx, 0xf004
    jne slow
    lea edx, [ecx + 1]
    test dl, 2
    jne slow
    mov edx, ecx
    and edx, 0xff8
    je %(null)s
    lea ecx, [edx + 7]
    cmp ecx, dword ptr cs:[{GDT_LIMIT}]
    ja slow
    mov eax, dword ptr cs:[{GDT_BASE}]
    mov ecx, dword ptr cs:[eax + edx + {low}]
    cmp ecx, dword ptr cs:[edx + {source}]
    jne slow
    mov ecx, dword ptr cs:[eax + edx + {high}]
    cmp ecx, dword ptr cs:[edx + {source_high}]
    jne slow
    mov ecx, dword ptr cs:[{S2}]
"""
_BACK: Final = """
    mov eax, dword ptr cs:[{S4}]
    add al, 0x7f
    sahf
    mov eax, dword ptr cs:[{S3}]
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
"""
_CLOSE: Final = f"""
    {_BACK}
    jmp done
slow:
    {_BACK}
    int 0x40
done:
"""


def _from_shadow_gdt(emit: Emitter, insn: Insn, seg: int) -> None:
    """The load, in 32-bit code of ring 0 on a 32-bit stack; RPL 1 and 2 and the LDT are for the VMM. A null selector
    needs no descriptor; in DS and ES it is for the VMM, since what follows takes them for flat.

    What the load itself still checks is RPL against DPL, and it checks it as the SDM says. If it faults, the arithmetic
    flags come back out of S4.
    """
    emit.emit("mov dword ptr cs:[{S0}], ecx")
    release = _read_selector(emit, insn)
    emit.mark((Reg.ECX, S0))
    emit.emit(_OPEN)
    emit.mark((Reg.ECX, S0), (Reg.EDX, S1), (Reg.EAX, S3), (FLAGS, S4))
    base = -emit.window.cs_base
    sources = emit.window.gdt_sources + base + (0 if seg in _FLAT else PAGE_SIZE)
    load = f"load:\n.byte 0x8e, {0xC0 | seg << 3 | Reg.ECX:#x}\n" + (f"lea esp, [esp + {release}]" if release else "")
    text = _COMPARE % {"null": "slow" if seg in _FLAT else "load"} + load + _CLOSE
    emit.emit(text, low=base, high=base + 4, source=sources, source_high=sources + 4)
    emit.site_here(SiteKind.CALLOUT)


def _read_selector(emit: Emitter, insn: Insn) -> int:
    """Bring the new selector into ECX, zero-extended; returns what POP will add to ESP."""
    if insn.opcode != _MOV:
        wide = insn.operand_size == 4
        emit.emit("mov ecx, dword ptr ss:[esp]\nmovzx ecx, cx" if wide else "movzx ecx, word ptr ss:[esp]")
        return insn.operand_size
    load_ecx(emit, insn, 2)
    return 0
