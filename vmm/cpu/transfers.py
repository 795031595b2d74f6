"""Far JMP, far CALL and far RET.

Source: Intel SDM Vol. 2A, "JMP - Jump", "CALL - Call Procedure"; Vol. 2B, "RET - Return from Procedure";
Vol. 3A, "Program Control Transfers", "Call Gates", "Stack Switching".
"""

from dataclasses import dataclass
from typing import Final

from vmm.arch.descriptors import (
    CALL_GATES,
    SELECTOR_RPL,
    TSS_AVAILABLE,
    Gate,
    SystemType,
    decode_gate,
)
from vmm.arch.exceptions import Vector, gp
from vmm.arch.registers import Reg, Seg
from vmm.cpu import tasks
from vmm.cpu.segments import (
    Entry,
    find,
    mark_accessed,
    null_outer_segments,
    read_descriptor,
    real_mode_segment,
    return_code_entry,
    selector_fault,
    stack_entry,
)
from vmm.cpu.stack import Stack, inner_stack
from vmm.cpu.vcpu import Vcpu

_CS: Final = int(Seg.CS)
_SS: Final = int(Seg.SS)
_ESP: Final = int(Reg.ESP)
_WORD: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a far JMP or CALL wants to go: `size` is its operand size in bytes, `next_eip` the return address."""

    selector: int
    offset: int
    size: int
    next_eip: int


def far_jump(vcpu: Vcpu, selector: int, offset: int, size: int, next_eip: int) -> None:
    """Far JMP to a segment, through a gate, or to a task.

    Args:
        offset: 16 or 32 bits as `size` (2 or 4 bytes) has it.
        next_eip: what a task switch saves as the old task's EIP.
    Raises: GuestFault #GP, #NP, #PF with nothing changed; see `tasks.switch` for faults in a new task.
    """
    target = _Target(selector, offset & _WORD if size == 2 else offset, size, next_eip)
    if not vcpu.is_protected or vcpu.is_v86:
        _check_limit(target.offset, vcpu.segment(_CS).limit)
        _enter_flat(vcpu, target)
        return
    entry = find(vcpu, selector)
    if entry.descriptor.is_code:
        _check_direct(vcpu, entry)
        _check_limit(target.offset, entry.descriptor.limit)
        _enter(vcpu, entry, vcpu.cpl, target.offset)
    elif entry.descriptor.system_type in CALL_GATES:
        gate = _open_gate(vcpu, selector)
        code = _gate_code(vcpu, gate.selector)
        if not code.descriptor.is_conforming and code.descriptor.dpl != vcpu.cpl:
            raise selector_fault(Vector.GP, gate.selector)
        _check_present(code)
        _check_limit(gate.offset, code.descriptor.limit)
        _enter(vcpu, code, vcpu.cpl, gate.offset)
    else:
        _switch_task(vcpu, entry, tasks.Nesting.JUMP, next_eip)


def far_call(vcpu: Vcpu, selector: int, offset: int, size: int, next_eip: int) -> None:
    """Far CALL to a segment, through a gate to this or an inner ring, or to a task.

    Args and raises: as `far_jump`, and #SS and #TS from the stacks.
    """
    target = _Target(selector, offset & _WORD if size == 2 else offset, size, next_eip)
    if not vcpu.is_protected or vcpu.is_v86:
        _call_flat(vcpu, target)
        return
    entry = find(vcpu, selector)
    if entry.descriptor.is_code:
        _check_direct(vcpu, entry)
        _call_same_ring(vcpu, entry, target)
    elif entry.descriptor.system_type in CALL_GATES:
        gate = _open_gate(vcpu, selector)
        code = _gate_code(vcpu, gate.selector)
        _check_present(code)
        if not code.descriptor.is_conforming and code.descriptor.dpl < vcpu.cpl:
            _call_inner_ring(vcpu, code, gate, next_eip)
        else:
            _call_same_ring(vcpu, code, _Target(gate.selector, gate.offset, gate.size, next_eip))
    else:
        _switch_task(vcpu, entry, tasks.Nesting.CALL, next_eip)


# --- checks -------------------------------------------------------------------------------------------------


def _check_limit(eip: int, limit: int) -> None:
    if eip > limit:
        raise gp()


def _check_present(entry: Entry) -> None:
    if not entry.descriptor.is_present:
        raise selector_fault(Vector.NP, entry.selector)


def _check_direct(vcpu: Vcpu, entry: Entry) -> None:
    """A code segment named by the instruction itself: it runs at CPL."""
    found = entry.descriptor
    if found.is_conforming:
        allowed = found.dpl <= vcpu.cpl
    else:
        allowed = found.dpl == vcpu.cpl and entry.selector & SELECTOR_RPL <= vcpu.cpl
    if not allowed:
        raise selector_fault(Vector.GP, entry.selector)
    _check_present(entry)


def _open_gate(vcpu: Vcpu, selector: int) -> Gate:
    """A call or task gate that CPL and RPL may use. Raises: GuestFault #GP or #NP with the gate's selector."""
    gate = decode_gate(read_descriptor(vcpu, selector)[0])
    if gate.dpl < max(vcpu.cpl, selector & SELECTOR_RPL):
        raise selector_fault(Vector.GP, selector)
    if not gate.present:
        raise selector_fault(Vector.NP, selector)
    return gate


def _gate_code(vcpu: Vcpu, selector: int) -> Entry:
    """The code segment behind a call gate: any ring but an outer one; RPL does not count, presence comes later."""
    code = find(vcpu, selector)
    if not code.descriptor.is_code or code.descriptor.dpl > vcpu.cpl:
        raise selector_fault(Vector.GP, selector)
    return code


def _switch_task(vcpu: Vcpu, entry: Entry, nesting: tasks.Nesting, next_eip: int) -> None:
    """Through a task gate or straight to a TSS; anything else is #GP(selector)."""
    selector = entry.selector
    if entry.descriptor.system_type == SystemType.TASK_GATE:
        entry = tasks.gate_target(vcpu, _open_gate(vcpu, selector).selector)
    else:
        may_use = entry.descriptor.dpl >= max(vcpu.cpl, selector & SELECTOR_RPL)
        if entry.descriptor.system_type not in TSS_AVAILABLE or not may_use:
            raise selector_fault(Vector.GP, selector)
        entry = tasks.gate_target(vcpu, selector)
    tasks.switch(vcpu, entry, nesting, next_eip)
    tasks.check_entry_point(vcpu)


# --- entering -----------------------------------------------------------------------------------------------


def _enter_flat(vcpu: Vcpu, target: _Target) -> None:
    vcpu.set_segment(_CS, real_mode_segment(vcpu, _CS, target.selector))
    vcpu.eip = target.offset


def _enter(vcpu: Vcpu, code: Entry, privilege: int, eip: int) -> None:
    mark_accessed(vcpu, code)
    vcpu.set_segment(_CS, code.register(privilege))
    vcpu.cpl = privilege
    vcpu.eip = eip


def _call_flat(vcpu: Vcpu, target: _Target) -> None:
    """Real mode and V86. The room on the stack is checked before the entry point, as in the manual."""
    stack = Stack.current(vcpu)
    stack.check_room(2, target.size)
    _check_limit(target.offset, vcpu.segment(_CS).limit)
    stack.push((vcpu.selector(_CS), target.next_eip), target.size)
    stack.commit(vcpu)
    _enter_flat(vcpu, target)


def _call_same_ring(vcpu: Vcpu, code: Entry, target: _Target) -> None:
    stack = Stack.current(vcpu)
    stack.check_room(2, target.size)
    _check_limit(target.offset, code.descriptor.limit)
    mark_accessed(vcpu, code)
    stack.push((vcpu.selector(_CS), target.next_eip), target.size)
    stack.commit(vcpu)
    _enter(vcpu, code, vcpu.cpl, target.offset)


def _call_inner_ring(vcpu: Vcpu, code: Entry, gate: Gate, next_eip: int) -> None:
    """CALL through a gate to more privilege: the new stack gets the old SS:ESP, the parameters and CS:EIP."""
    privilege = code.descriptor.dpl
    stack_descriptor, stack = inner_stack(vcpu, privilege)
    stack.check_room(4 + gate.param_count, gate.size)
    _check_limit(gate.offset, code.descriptor.limit)
    parameters = Stack.current(vcpu).pop(gate.param_count, gate.size)
    mark_accessed(vcpu, code)
    mark_accessed(vcpu, stack_descriptor)
    outer = (vcpu.selector(_SS), vcpu.reg32(_ESP))
    stack.push((*outer, *reversed(parameters), vcpu.selector(_CS), next_eip), gate.size)
    vcpu.set_segment(_SS, stack.segment)
    stack.commit(vcpu)
    _enter(vcpu, code, privilege, gate.offset)


# --- RETF ---------------------------------------------------------------------------------------------------


def far_return(vcpu: Vcpu, size: int, release: int = 0) -> None:
    """Far RET, to the same ring or an outer one.

    Args:
        size: operand size, 2 or 4 bytes.
        release: bytes of parameters to drop, from both stacks when the ring changes.
    Raises: GuestFault #GP, #NP, #SS, #PF with nothing changed.
    """
    stack = Stack.current(vcpu)
    eip, selector = stack.pop(2, size)
    selector &= _WORD
    if not vcpu.is_protected or vcpu.is_v86:
        _check_limit(eip, vcpu.segment(_CS).limit)
        stack.release(release)
        stack.commit(vcpu)
        _enter_flat(vcpu, _Target(selector, eip, size, eip))
        return
    code = return_code_entry(vcpu, selector)
    stack.release(release)
    if selector & SELECTOR_RPL > vcpu.cpl:
        _return_outer(vcpu, stack, code, (eip, size, release))
    else:
        _check_limit(eip, code.descriptor.limit)
        mark_accessed(vcpu, code)
        stack.commit(vcpu)
        _enter(vcpu, code, vcpu.cpl, eip)


def _return_outer(vcpu: Vcpu, stack: Stack, code: Entry, frame: tuple[int, int, int]) -> None:
    """RETURN-TO-OUTER-PRIVILEGE-LEVEL."""
    eip, size, release = frame
    rpl = code.selector & SELECTOR_RPL
    pointer, selector = stack.pop(2, size)
    outer = stack_entry(vcpu, selector & _WORD, rpl)
    _check_limit(eip, code.descriptor.limit)
    mark_accessed(vcpu, code)
    mark_accessed(vcpu, outer)
    new = Stack(vcpu.memory, outer.register(rpl), pointer, rpl == 3)
    new.release(release)
    vcpu.set_segment(_SS, new.segment)
    new.commit(vcpu)
    _enter(vcpu, code, rpl, eip)
    null_outer_segments(vcpu)
