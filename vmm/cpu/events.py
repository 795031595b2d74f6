"""Delivery of exceptions, software interrupts and external interrupts.

`deliver` is one attempt at one event and raises what goes wrong in it, before any state has changed (after it, in the
new task, when a task gate is on the way). `raise_fault` is the engine's door for a GuestFault from anywhere: it
delivers, and turns faults met on the way into the next fault, a double fault or shutdown.

INT n, INT3 and INTO, the instructions, and external interrupts go to `deliver`; should it raise, the fault goes to
`raise_fault`: these events are benign, so what they meet is simply the next fault.

Source: Intel SDM Vol. 2A, "INT n/INTO/INT3/INT1 - Call to Interrupt Procedure"; Vol. 3A, "Interrupt and Exception
Handling", "Interrupt 8 - Double Fault Exception (#DF)".
Not modelled: virtual-8086 mode extensions (the CPUID does not show them), #MC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from vmm.arch.descriptors import (
    ACCESS_BYTE,
    DESCRIPTOR_SIZE,
    INTERRUPT_GATES,
    TRAP_GATES,
    Gate,
    SystemType,
    decode_gate,
    tss_layout,
)
from vmm.arch.exceptions import CONTRIBUTORY, GuestFault, Vector, gp
from vmm.arch.layout import MASK32
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu import tasks
from vmm.cpu.segments import Entry, find, mark_accessed, real_mode_segment, selector_fault
from vmm.cpu.stack import Stack, inner_stack
from vmm.cpu.vcpu import NULL_SEGMENT, Vcpu

_CS: Final = int(Seg.CS)
_SS: Final = int(Seg.SS)
_ES: Final = int(Seg.ES)
_DS: Final = int(Seg.DS)
_FS: Final = int(Seg.FS)
_GS: Final = int(Seg.GS)
_ESP: Final = int(Reg.ESP)
EXT: Final = 1 << 0  # error code: the event did not come from the program itself
_IDT: Final = 1 << 1  # error code: the index is one into the IDT
_SELECTOR_VECTORS: Final = frozenset({int(Vector.TS), int(Vector.NP), int(Vector.SS), int(Vector.GP)})
_CONTRIBUTORY: Final = frozenset(int(vector) for vector in CONTRIBUTORY)
_RF: Final = int(Eflags.RF)
_IF: Final = int(Eflags.IF)
_CLEARED: Final = int(Eflags.TF | Eflags.NT | Eflags.RF | Eflags.VM)
_REAL_CLEARED: Final = int(Eflags.IF | Eflags.TF | Eflags.AC | Eflags.RF)
_DR7: Final = 7
_DR7_GD: Final = 1 << 13
_GATE_TYPES: Final = INTERRUPT_GATES | TRAP_GATES | {int(SystemType.TASK_GATE)}
_IVT_ENTRY: Final = 4
_V86_PUSHED: Final = (_GS, _FS, _DS, _ES)


class TripleFault(Exception):
    """A contributory exception or page fault met while delivering #DF: the processor enters shutdown."""


class EventKind(Enum):
    """Where an event comes from; this decides DPL and IOPL checks, the EXT bit and RF."""

    FAULT = auto()  # the saved EIP is the instruction's; RF is set in the saved EFLAGS
    TRAP = (
        auto()
    )  # #DB between instructions: after a single step, INT1, a task switch, before a breakpoint's instruction
    ABORT = auto()  # #DF
    SOFTWARE = auto()  # INT n
    BREAKPOINT = auto()  # INT3 and INTO: DPL is checked, IOPL in V86 is not
    EXTERNAL = auto()  # INTR
    NMI = auto()


_PROGRAM: Final = frozenset({EventKind.SOFTWARE, EventKind.BREAKPOINT})
_EXCEPTION: Final = frozenset({EventKind.FAULT, EventKind.TRAP, EventKind.ABORT})


@dataclass(frozen=True, slots=True)
class _Event:
    vector: int
    kind: EventKind
    error_code: int | None
    return_eip: int

    @property
    def idt_error(self) -> int:
        """The error code that blames this event's gate, without EXT."""
        return self.vector << 3 | _IDT

    def pushed_flags(self, eflags: int) -> int:
        """The EFLAGS image it saves: a fault sets RF. A breakpoint's handler sets it itself, so that is a TRAP here."""
        return eflags | _RF if self.kind is EventKind.FAULT else eflags


def deliver(
    vcpu: Vcpu, vector: int, *, kind: EventKind, error_code: int | None = None, return_eip: int | None = None
) -> None:
    """Deliver one event through the IVT or IDT.

    Args:
        vector: 0-255.
        error_code: of an exception that has one; real mode does not push it.
        return_eip: the EIP to save: the next instruction's for SOFTWARE and BREAKPOINT; default `vcpu.eip`.
    Raises: GuestFault: the exception met on the way, its error code with EXT where the SDM says so.
    """
    event = _Event(vector, kind, error_code, vcpu.eip if return_eip is None else return_eip)
    try:
        if vcpu.is_protected:
            _deliver_protected(vcpu, event)
        else:
            _deliver_real(vcpu, event)
    except GuestFault as fault:
        if kind in _PROGRAM or fault.vector not in _SELECTOR_VECTORS:
            raise
        raise GuestFault(fault.vector, (fault.error_code or 0) | EXT) from None
    vcpu.halted = False
    vcpu.interrupt_shadow = False
    if vector == Vector.DB and kind in _EXCEPTION:
        vcpu.dr[_DR7] &= ~_DR7_GD


def raise_fault(
    vcpu: Vcpu, fault: GuestFault, *, kind: EventKind = EventKind.FAULT, return_eip: int | None = None
) -> None:
    """Deliver a fault that the guest has earned, with all that can follow from it.

    `kind` is TRAP for a #DB between instructions. CR2 is written when a page fault is met, also when it ends in #DF.
    Raises: TripleFault.
    """
    while True:
        if fault.vector == Vector.PF and fault.cr2 is not None:
            vcpu.cr2 = fault.cr2
        try:
            deliver(vcpu, fault.vector, kind=kind, error_code=fault.error_code, return_eip=return_eip)
        except GuestFault as second:
            if second.vector == Vector.PF and second.cr2 is not None:
                vcpu.cr2 = second.cr2
            fault, kind = _escalate(fault.vector, second)
            return_eip = None  # after a switch to a task that could not start, the saved EIP is that task's
        else:
            return


def _escalate(first: int, second: GuestFault) -> tuple[GuestFault, EventKind]:
    """What becomes of a second exception while the first is delivered (SDM table "Conditions for Generating a
    Double Fault"): handled serially, a double fault, or shutdown.
    """
    second_is_page_fault = second.vector == Vector.PF
    second_is_contributory = second.vector in _CONTRIBUTORY
    if first == Vector.DF and (second_is_page_fault or second_is_contributory):
        raise TripleFault
    if (first == Vector.PF and (second_is_page_fault or second_is_contributory)) or (
        first in _CONTRIBUTORY and second_is_contributory
    ):
        return GuestFault(Vector.DF, 0), EventKind.ABORT
    return second, EventKind.FAULT


# --- real mode ----------------------------------------------------------------------------------------------


def _deliver_real(vcpu: Vcpu, event: _Event) -> None:
    """REAL-ADDRESS-MODE: three words on the stack, the vector from the IVT, no error code."""
    base, limit = vcpu.idtr
    at = event.vector * _IVT_ENTRY
    if at + _IVT_ENTRY - 1 > limit:
        raise gp()
    entry = vcpu.memory.read(base + at & MASK32, _IVT_ENTRY, False)
    flags = vcpu.eflags
    stack = Stack.current(vcpu)
    stack.push((flags, vcpu.selector(_CS), event.return_eip), 2)
    stack.commit(vcpu)
    vcpu.set_segment(_CS, real_mode_segment(vcpu, _CS, entry >> 16))
    vcpu.eip = entry & 0xFFFF
    vcpu.eflags = flags & ~_REAL_CLEARED


# --- protected mode and V86 ---------------------------------------------------------------------------------


def _deliver_protected(vcpu: Vcpu, event: _Event) -> None:
    """PROTECTED-MODE and the way in from V86."""
    if event.kind is EventKind.SOFTWARE and vcpu.is_v86 and vcpu.iopl < 3:
        raise gp()
    gate = _read_gate(vcpu, event)
    if gate.type == SystemType.TASK_GATE:
        _through_task_gate(vcpu, event, gate)
    else:
        _through_gate(vcpu, event, gate)


def _read_gate(vcpu: Vcpu, event: _Event) -> Gate:
    """The guest's gate for a vector, checked. Raises: GuestFault #GP or #NP on the vector, #PF."""
    base, limit = vcpu.idtr
    at = event.vector * DESCRIPTOR_SIZE
    if at + DESCRIPTOR_SIZE - 1 > limit:
        raise gp(event.idt_error)
    raw = vcpu.memory.read_bytes(base + at & MASK32, DESCRIPTOR_SIZE, False)
    if raw[ACCESS_BYTE] & 0x1F not in _GATE_TYPES:  # S belongs to the type here
        raise gp(event.idt_error)
    gate = decode_gate(raw)
    if event.kind in _PROGRAM and gate.dpl < vcpu.cpl:
        raise gp(event.idt_error)
    if not gate.present:
        raise GuestFault(Vector.NP, event.idt_error)
    return gate


def _through_task_gate(vcpu: Vcpu, event: _Event, gate: Gate) -> None:
    """TASK-GATE: switch with nesting; the error code goes onto the new task's stack."""
    target = tasks.gate_target(vcpu, gate.selector)
    tasks.switch(vcpu, target, tasks.Nesting.CALL, event.return_eip, event.pushed_flags(vcpu.eflags))
    if event.error_code is not None and event.kind in _EXCEPTION:
        stack = Stack.current(vcpu)
        stack.push((event.error_code,), tss_layout(vcpu.tr.flags).word)
        stack.commit(vcpu)
    tasks.check_entry_point(vcpu)


def _through_gate(vcpu: Vcpu, event: _Event, gate: Gate) -> None:
    """TRAP-OR-INTERRUPT-GATE: to the same ring, to an inner one, or out of V86 to ring 0."""
    code = _handler_code(vcpu, gate.selector)
    privilege = vcpu.cpl if code.descriptor.is_conforming else code.descriptor.dpl
    flags = vcpu.eflags
    values = [*_outer_frame(vcpu, privilege), event.pushed_flags(flags), vcpu.selector(_CS), event.return_eip]
    if event.error_code is not None and event.kind in _EXCEPTION:
        values.append(event.error_code)
    if privilege < vcpu.cpl:
        stack_descriptor, stack = inner_stack(vcpu, privilege)
        _push_frame(vcpu, stack, values, (gate, code, stack_descriptor))
        vcpu.set_segment(_SS, stack.segment)
        if vcpu.is_v86:
            for seg in _V86_PUSHED:
                vcpu.set_segment(seg, NULL_SEGMENT)
    else:
        stack = Stack.current(vcpu)
        _push_frame(vcpu, stack, values, (gate, code, None))
    stack.commit(vcpu)
    vcpu.set_segment(_CS, code.register(privilege))
    vcpu.cpl = privilege
    vcpu.eip = gate.offset
    vcpu.eflags = flags & ~(_CLEARED | _IF if gate.type in INTERRUPT_GATES else _CLEARED)


def _handler_code(vcpu: Vcpu, selector: int) -> Entry:
    """The handler's code segment. Raises: GuestFault #GP or #NP with the selector, #PF."""
    code = find(vcpu, selector)
    found = code.descriptor
    if not found.is_code or found.dpl > vcpu.cpl:
        raise selector_fault(Vector.GP, selector)
    if not found.is_present:
        raise selector_fault(Vector.NP, selector)
    if vcpu.is_v86 and (found.is_conforming or found.dpl):
        raise selector_fault(Vector.GP, selector)
    return code


def _outer_frame(vcpu: Vcpu, privilege: int) -> Sequence[int]:
    """What precedes EFLAGS, CS and EIP in the frame: the old stack, and from V86 the data segments before it."""
    if privilege == vcpu.cpl:
        return ()
    segments = [vcpu.selector(seg) for seg in _V86_PUSHED] if vcpu.is_v86 else []
    return (*segments, vcpu.selector(_SS), vcpu.reg32(_ESP))


def _push_frame(vcpu: Vcpu, stack: Stack, values: Sequence[int], into: tuple[Gate, Entry, Entry | None]) -> None:
    """Check room and entry point, mark the descriptors accessed, write the frame."""
    gate, code, stack_descriptor = into
    stack.check_room(len(values), gate.size)
    if gate.offset > code.descriptor.limit:
        raise gp()
    for entry in (code, stack_descriptor):
        if entry is not None:
            mark_accessed(vcpu, entry)
    stack.push(values, gate.size)
