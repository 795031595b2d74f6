"""Operands of callouts: effective addresses and reads and writes of r/m, with the guest's faults.

Source: Intel SDM Vol. 2A, "Instruction Format"; Vol. 3A, "Segment Limit Checking".
"""

from typing import Final

from bt.decode import Insn, MemoryOperand
from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr0, Eflags, Reg, Seg
from vmm.cpu import limits
from vmm.cpu.vcpu import Vcpu

_USER_RING: Final = 3
_AM: Final = int(Cr0.AM)
_AC: Final = int(Eflags.AC)
_MASKS: Final = {2: 0xFFFF, 4: MASK32}


def effective_offset(vcpu: Vcpu, memory: MemoryOperand) -> int:
    """The offset part of a memory operand, wrapped to its address size."""
    offset = memory.displacement
    if memory.base is not None:
        offset += vcpu.reg32(memory.base)
    if memory.index is not None:
        offset += vcpu.reg32(memory.index) * memory.scale
    return offset & _MASKS[memory.address_size]


def linear_address(vcpu: Vcpu, memory: MemoryOperand) -> int:
    """Segment base plus offset, 32 bits, of an operand that is not accessed."""
    return vcpu.base(memory.segment) + effective_offset(vcpu, memory) & MASK32


def locate(vcpu: Vcpu, memory: MemoryOperand, size: int, write: bool) -> int:
    """The linear address of an operand of `size` bytes. Raises: GuestFault #GP(0), #SS(0): its segment forbids it."""
    offset = effective_offset(vcpu, memory)
    limits.check(vcpu, memory.segment, offset, size, write)
    return vcpu.base(memory.segment) + offset & MASK32


def read_rm(vcpu: Vcpu, insn: Insn, size: int) -> int:
    """Read the r/m operand, `size` bytes."""
    if insn.is_register_form:
        return vcpu.reg(insn.modrm & 7, size)
    return vcpu.memory.read(locate(vcpu, insn.memory, size, False), size, vcpu.cpl == 3)


def write_rm(vcpu: Vcpu, insn: Insn, size: int, value: int) -> None:
    """Write the r/m operand, `size` bytes."""
    if insn.is_register_form:
        vcpu.set_reg(insn.modrm & 7, size, value)
    else:
        vcpu.memory.write(locate(vcpu, insn.memory, size, True), size, value, vcpu.cpl == 3)


def require_aligned(vcpu: Vcpu, la: int, size: int, write: bool, alignment: int) -> None:
    """Check an access at CPL 3 under CR0.AM and EFLAGS.AC.

    Raises: GuestFault #AC(0): `la` is no multiple of `alignment`; the page fault that comes first.
    Source: SDM Vol. 3A, "Interrupt 17 - Alignment Check Exception (#AC)".
    """
    if vcpu.cpl == _USER_RING and vcpu.cr0 & _AM and la % alignment and vcpu.eflags & _AC:
        check = vcpu.memory.check_write if write else vcpu.memory.check_read
        check(la, size, True)
        raise GuestFault(Vector.AC, 0)


def read_far_pointer(vcpu: Vcpu, insn: Insn, size: int) -> tuple[int, int]:
    """(selector, offset) of an m16:16 or m16:32 operand."""
    at = locate(vcpu, insn.memory, size + 2, False)
    require_aligned(vcpu, at, size + 2, False, size)
    user = vcpu.cpl == 3
    offset = vcpu.memory.read(at, size, user)
    return vcpu.memory.read(at + size & MASK32, 2, user), offset


def peek_stack(vcpu: Vcpu, size: int) -> int:
    """The value that a POP of `size` bytes would give; ESP is unchanged."""
    return vcpu.memory.read(_on_stack(vcpu, 0, size, False), size, vcpu.cpl == 3)


def push(vcpu: Vcpu, size: int, value: int) -> None:
    """Push `size` bytes; ESP moves only when the write succeeded."""
    vcpu.memory.write(_on_stack(vcpu, -size, size, True), size, value, vcpu.cpl == 3)
    add_to_stack(vcpu, -size)


def _on_stack(vcpu: Vcpu, displacement: int, size: int, write: bool) -> int:
    offset = vcpu.reg32(Reg.ESP) + displacement & _MASKS[vcpu.stack_size]
    limits.check(vcpu, Seg.SS, offset, size, write)
    return vcpu.base(Seg.SS) + offset & MASK32


def add_to_stack(vcpu: Vcpu, count: int) -> None:
    """Move the stack pointer, 16 or 32 bits of it as SS.B says."""
    vcpu.set_reg(Reg.ESP, vcpu.stack_size, vcpu.reg32(Reg.ESP) + count)
