"""Hardware task switches.

`switch` checks and saves in the old task, then commits; whatever goes wrong while the new task's segments are loaded
is raised in the context of the new task: `vcpu` is that task then, its EIP and CPL too, as the SDM has it.

Source: Intel SDM Vol. 3A, "Task Management": "Task Switching", "Exception Conditions Checked During a Task Switch",
"Effect of a Task Switch on Busy Flag, NT Flag, Previous Task Link Field, and TS Flag".
Undocumented: a 16-bit TSS leaves FFFFh in the upper half of the general registers; FS and GS become null.
"""

from enum import Enum, auto
from typing import Final

from vmm.arch.descriptors import (
    ACCESS_BYTE,
    SELECTOR_INDEX,
    SELECTOR_RPL,
    SELECTOR_TI,
    TSS32,
    TSS32_CR3,
    TSS32_TRAP,
    TSS_BUSY,
    TSS_IN_USE,
    SystemType,
    TssLayout,
    tss_layout,
)
from vmm.arch.exceptions import Vector, gp
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr0, Eflags, Seg
from vmm.cpu.control import load_cr3
from vmm.cpu.segments import (
    Entry,
    available_tss,
    busy_register,
    code_entry_at_rpl,
    data_entry,
    find,
    is_null,
    mark_accessed,
    selector_fault,
    set_busy,
    stack_entry,
    system_register,
    v86_segment,
)
from vmm.cpu.vcpu import SegmentRegister, Vcpu

_NT: Final = int(Eflags.NT)
_VM: Final = int(Eflags.VM)
_TS: Final = int(Cr0.TS)
_PG: Final = int(Cr0.PG)
_DR7: Final = 7
_DR7_LOCAL_ENABLES: Final = 0x155  # L0-L3 and LE
_DR6_BT: Final = 1 << 15
_UPPER_HALF: Final = 0xFFFF_0000
_DATA_SEGMENTS: Final = (Seg.ES, Seg.DS, Seg.FS, Seg.GS)


class Nesting(Enum):
    """What asks for the switch; this decides busy bits, NT and the link."""

    JUMP = auto()
    CALL = auto()  # CALL, and interrupts and exceptions through a task gate
    RETURN = auto()  # IRET with NT set


def gate_target(vcpu: Vcpu, selector: int) -> Entry:
    """The TSS that a task gate names. Raises: GuestFault #GP or #NP with the selector, #PF."""
    return available_tss(vcpu, selector)


def return_target(vcpu: Vcpu) -> Entry:
    """The TSS that the current one links back to, for IRET. Raises: GuestFault #TS or #NP with the selector, #PF."""
    selector = vcpu.memory.read(vcpu.tr.base, 2, False)
    if selector & SELECTOR_TI:
        raise selector_fault(Vector.TS, selector)
    entry = find(vcpu, selector, Vector.TS)
    if entry.descriptor.system_type not in TSS_IN_USE:
        raise selector_fault(Vector.TS, selector)
    if not entry.descriptor.is_present:
        raise selector_fault(Vector.NP, selector)
    return entry


def check_entry_point(vcpu: Vcpu) -> None:
    """After a switch: the new task's EIP must lie in its code segment. Raises: GuestFault #GP(0), in the new task."""
    if vcpu.eip > vcpu.segment(Seg.CS).limit:
        raise gp()


def switch(vcpu: Vcpu, target: Entry, nesting: Nesting, return_eip: int, saved_flags: int | None = None) -> None:
    """Switch to the task behind a checked TSS descriptor.

    Args:
        return_eip: what the old task's EIP field gets.
        saved_flags: what its EFLAGS field gets; default EFLAGS as it is.
    Raises: GuestFault: #TS(target) when its limit is too small, #PF; then, in the new task, #TS, #NP, #SS on the
        selector to blame. The caller then pushes an error code, if any, and calls `check_entry_point`.
    """
    new, old = tss_layout(target.descriptor.flags), tss_layout(vcpu.tr.flags)
    for selector, limit, layout in (
        (target.selector, target.descriptor.limit, new),
        (vcpu.tr.selector, vcpu.tr.limit, old),
    ):
        if limit < layout.size - 1:
            raise selector_fault(Vector.TS, selector)
    flags = vcpu.eflags if saved_flags is None else saved_flags
    base = target.descriptor.base
    _touch(vcpu, target, nesting)
    _save(vcpu, old, return_eip, flags & ~_NT if nesting is Nesting.RETURN else flags)
    if nesting is not Nesting.CALL:
        _clear_busy(vcpu)
    if nesting is Nesting.CALL:
        vcpu.memory.write(base, 2, vcpu.tr.selector, False)
    if nesting is not Nesting.RETURN:
        set_busy(vcpu, target)
    image = vcpu.memory.read_bytes(base, new.size, False)
    vcpu.tr = busy_register(target)
    vcpu.cr0 |= _TS
    vcpu.dr[_DR7] &= ~_DR7_LOCAL_ENABLES
    _load_registers(vcpu, new, image)
    if nesting is Nesting.CALL:
        vcpu.eflags |= _NT
    if new is TSS32 and image[TSS32_TRAP] & 1:
        vcpu.pending_debug |= _DR6_BT
    if new is TSS32 and vcpu.cr0 & _PG:
        load_cr3(vcpu, int.from_bytes(image[TSS32_CR3 : TSS32_CR3 + 4], "little"))
    _load_segments(vcpu)


def _touch(vcpu: Vcpu, target: Entry, nesting: Nesting) -> None:
    """Raise every page fault that the switch could meet in the old task before anything is written."""
    memory, old, new = vcpu.memory, tss_layout(vcpu.tr.flags), tss_layout(target.descriptor.flags)
    memory.read_bytes(target.descriptor.base, new.size, False)
    saved = old.segments + old.segment_count * old.word - old.instruction_pointer
    memory.check_write(vcpu.tr.base + old.instruction_pointer & MASK32, saved, False)
    if nesting is not Nesting.RETURN:
        memory.check_write(target.address + ACCESS_BYTE & MASK32, 1, False)
    if nesting is Nesting.CALL:
        memory.check_write(target.descriptor.base, 2, False)
    else:
        memory.check_write(_own_access_byte(vcpu), 1, False)


def _own_access_byte(vcpu: Vcpu) -> int:
    """The linear address of the access byte of the descriptor behind TR."""
    return vcpu.gdtr[0] + (vcpu.tr.selector & SELECTOR_INDEX) + ACCESS_BYTE & MASK32


def _clear_busy(vcpu: Vcpu) -> None:
    at = _own_access_byte(vcpu)
    vcpu.memory.write(at, 1, vcpu.memory.read(at, 1, False) & ~TSS_BUSY, False)


def _save(vcpu: Vcpu, layout: TssLayout, eip: int, flags: int) -> None:
    """The dynamic fields of the old TSS. Selectors are written as words: what lies between them is not ours."""
    clip = (1 << 8 * layout.word) - 1
    values = (eip, flags, *(vcpu.reg32(reg) for reg in range(8)))
    data = b"".join((value & clip).to_bytes(layout.word, "little") for value in values)
    vcpu.memory.write_bytes(vcpu.tr.base + layout.instruction_pointer & MASK32, data, False)
    for seg in range(layout.segment_count):
        at = vcpu.tr.base + layout.segments + seg * layout.word & MASK32
        vcpu.memory.write(at, 2, vcpu.selector(seg), False)


def _load_registers(vcpu: Vcpu, layout: TssLayout, image: bytes) -> None:
    """EIP, EFLAGS, general registers and the visible selectors; hidden parts stay invalid until checked."""

    def field(at: int, size: int = layout.word) -> int:
        return int.from_bytes(image[at : at + size], "little")

    vcpu.eip = field(layout.instruction_pointer)
    vcpu.eflags = field(layout.flags)
    upper = 0 if layout is TSS32 else _UPPER_HALF
    for reg in range(8):
        vcpu.set_reg32(reg, upper | field(layout.registers + reg * layout.word))
    for seg in Seg:
        selector = field(layout.segments + seg * layout.word, 2) if seg < layout.segment_count else 0
        vcpu.set_segment(seg, SegmentRegister(selector, 0, 0, 0))
    vcpu.ldtr = SegmentRegister(field(layout.ldt, 2), 0, 0, 0)
    vcpu.cpl = 3 if vcpu.is_v86 else vcpu.selector(Seg.CS) & SELECTOR_RPL


def _load_segments(vcpu: Vcpu) -> None:
    """Qualify LDTR, CS, SS and the data segments, in that order, in the new task."""
    _load_ldt(vcpu, vcpu.ldtr.selector)
    if vcpu.is_v86:
        for seg in Seg:
            vcpu.set_segment(seg, v86_segment(vcpu.selector(seg)))
        return
    _commit(vcpu, Seg.CS, code_entry_at_rpl(vcpu, vcpu.selector(Seg.CS), Vector.TS))
    _commit(vcpu, Seg.SS, stack_entry(vcpu, vcpu.selector(Seg.SS), vcpu.cpl, Vector.TS))
    for seg in _DATA_SEGMENTS:
        selector = vcpu.selector(seg)
        if not is_null(selector):
            _commit(vcpu, seg, data_entry(vcpu, selector, vcpu.cpl, Vector.TS))


def _commit(vcpu: Vcpu, seg: int, entry: Entry) -> None:
    mark_accessed(vcpu, entry)
    vcpu.set_segment(seg, entry.register(entry.selector & SELECTOR_RPL))


def _load_ldt(vcpu: Vcpu, selector: int) -> None:
    """The new task's LDT. Raises: GuestFault #TS(selector), for one that is not present too."""
    if is_null(selector):
        return
    fault = selector_fault(Vector.TS, selector)
    if selector & SELECTOR_TI:
        raise fault
    entry = find(vcpu, selector, Vector.TS)
    if entry.descriptor.system_type != SystemType.LDT or not entry.descriptor.is_present:
        raise fault
    vcpu.ldtr = system_register(entry)
