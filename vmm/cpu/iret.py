"""IRET and IRETD: back from an interrupt, an exception, a nested task, and into V86.

Source: Intel SDM Vol. 2A, "IRET/IRETD - Interrupt Return".
Whichever it is, NMIs are let through again, even if it faults. Not modelled: VME and PVI.
"""

from typing import Final

from vmm.arch.exceptions import gp
from vmm.arch.registers import ARITHMETIC, Eflags, Reg, Seg
from vmm.cpu import tasks
from vmm.cpu.segments import (
    Entry,
    mark_accessed,
    null_outer_segments,
    real_mode_segment,
    return_code_entry,
    stack_entry,
    v86_segment,
)
from vmm.cpu.stack import Stack
from vmm.cpu.vcpu import Vcpu

_CS: Final = int(Seg.CS)
_SS: Final = int(Seg.SS)
_ES: Final = int(Seg.ES)
_DS: Final = int(Seg.DS)
_FS: Final = int(Seg.FS)
_GS: Final = int(Seg.GS)
_ESP: Final = int(Reg.ESP)
_NT: Final = int(Eflags.NT)
_VM: Final = int(Eflags.VM)
_IF: Final = int(Eflags.IF)
_IOPL: Final = int(Eflags.IOPL)
_LOW_WORD: Final = 0xFFFF
_ALWAYS: Final = ARITHMETIC | int(Eflags.TF | Eflags.DF | Eflags.NT)
_UPPER: Final = int(Eflags.RF | Eflags.AC | Eflags.ID)
_REAL: Final = _ALWAYS | _IF | _IOPL | _UPPER
_V86: Final = _ALWAYS | _IF | _UPPER
_TO_V86: Final = _REAL | _VM
_V86_DATA: Final = (_ES, _DS, _FS, _GS)


def iret(vcpu: Vcpu, size: int, next_eip: int) -> None:
    """IRET (`size` 2) or IRETD (4).

    Args:
        next_eip: the EIP of the next instruction, which a task return saves in the task it leaves.
    Raises: GuestFault #GP, #NP, #SS, #TS, #PF with nothing changed, but for a task return (see `tasks.switch`).
    Source: SDM Vol. 3A, "Handling Multiple NMIs".
    """
    if vcpu.nmi_blocked:
        vcpu.unblock_nmis()
    if not vcpu.is_protected:
        _return_flat(vcpu, size, _REAL)
    elif vcpu.is_v86:
        if vcpu.iopl < 3:
            raise gp()
        _return_flat(vcpu, size, _V86)
    elif vcpu.eflags & _NT:
        tasks.switch(vcpu, tasks.return_target(vcpu), tasks.Nesting.RETURN, next_eip)
        tasks.check_entry_point(vcpu)
    else:
        _return_protected(vcpu, size)


def _load_flags(vcpu: Vcpu, image: int, writable: int, size: int) -> None:
    """Change the flags in `writable`, of them only the low word for a 16-bit operand."""
    if size == 2:
        writable &= _LOW_WORD
    vcpu.eflags = vcpu.eflags & ~writable | image & writable


def _return_flat(vcpu: Vcpu, size: int, writable: int) -> None:
    """Real mode and V86: selector times 16."""
    stack = Stack.current(vcpu)
    eip, selector, image = stack.pop(3, size)
    if eip > vcpu.segment(_CS).limit:
        raise gp()
    stack.commit(vcpu)
    vcpu.set_segment(_CS, real_mode_segment(vcpu, _CS, selector & _LOW_WORD))
    vcpu.eip = eip
    _load_flags(vcpu, image, writable, size)


def _return_protected(vcpu: Vcpu, size: int) -> None:
    stack = Stack.current(vcpu)
    eip, selector, image = stack.pop(3, size)
    selector &= _LOW_WORD
    if image & _VM and vcpu.cpl == 0 and size == 4:
        _return_to_v86(vcpu, stack, (eip, selector, image))
        return
    code = return_code_entry(vcpu, selector)
    rpl = selector & 3
    outer: Entry | None = None
    if rpl > vcpu.cpl:
        pointer, stack_selector = stack.pop(2, size)
        outer = stack_entry(vcpu, stack_selector & _LOW_WORD, rpl)
        stack = Stack(vcpu.memory, outer.register(rpl), pointer, True)
    if eip > code.descriptor.limit:
        raise gp()
    mark_accessed(vcpu, code)
    if outer is not None:
        mark_accessed(vcpu, outer)
        vcpu.set_segment(_SS, stack.segment)
    stack.commit(vcpu)
    vcpu.set_segment(_CS, code.register(rpl))
    vcpu.eip = eip
    _load_flags(vcpu, image, protected_flags(vcpu), size)
    if outer is not None:
        vcpu.cpl = rpl
        null_outer_segments(vcpu)


def protected_flags(vcpu: Vcpu) -> int:
    """The flags that IRET may change at this CPL: IF when CPL <= IOPL, IOPL only at CPL 0."""
    writable = _ALWAYS | _UPPER
    if vcpu.cpl <= vcpu.iopl:
        writable |= _IF
    if vcpu.cpl == 0:
        writable |= _IOPL
    return writable


def _return_to_v86(vcpu: Vcpu, stack: Stack, frame: tuple[int, int, int]) -> None:
    """RETURN-TO-VIRTUAL-8086-MODE: six more values on the stack, every segment set as V86 has it."""
    eip, code_selector, image = frame
    pointer, stack_selector, *data = stack.pop(6, 4)
    if eip > _LOW_WORD:
        raise gp()
    _load_flags(vcpu, image, _TO_V86, 4)
    selectors = {_CS: code_selector, _SS: stack_selector, **dict(zip(_V86_DATA, data, strict=True))}
    for seg, selector in selectors.items():
        vcpu.set_segment(seg, v86_segment(selector & _LOW_WORD))
    vcpu.set_reg32(_ESP, pointer)
    vcpu.eip = eip
    vcpu.cpl = 3
