"""Operands of callouts: effective addresses and reads and writes of r/m, with the guest's faults.

Source: Intel SDM Vol. 2A, "Instruction Format"; Vol. 3A, "Segment Limit Checking".
"""

from typing import Final

from bt.decode import Insn, MemoryOperand
from vmm.arch.layout import MASK32
from vmm.arch.registers import Seg
from vmm.cpu.vcpu import Vcpu

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
    """Segment base plus offset, 32 bits. Limits: segment limits and types are not checked (see docs/limits.md)."""
    return vcpu.base(memory.segment) + effective_offset(vcpu, memory) & MASK32


def read_rm(vcpu: Vcpu, insn: Insn, size: int) -> int:
    """Read the r/m operand, `size` bytes."""
    if insn.is_register_form:
        return vcpu.reg(insn.modrm & 7, size)
    return vcpu.memory.read(linear_address(vcpu, insn.memory), size, vcpu.cpl == 3)


def write_rm(vcpu: Vcpu, insn: Insn, size: int, value: int) -> None:
    """Write the r/m operand, `size` bytes."""
    if insn.is_register_form:
        vcpu.set_reg(insn.modrm & 7, size, value)
    else:
        vcpu.memory.write(linear_address(vcpu, insn.memory), size, value, vcpu.cpl == 3)


def read_far_pointer(vcpu: Vcpu, insn: Insn, size: int) -> tuple[int, int]:
    """(selector, offset) of an m16:16 or m16:32 operand."""
    at = linear_address(vcpu, insn.memory)
    user = vcpu.cpl == 3
    offset = vcpu.memory.read(at, size, user)
    return vcpu.memory.read(at + size & MASK32, 2, user), offset


def peek_stack(vcpu: Vcpu, size: int) -> int:
    """The value that a POP of `size` bytes would give; ESP is unchanged."""
    mask = _MASKS[vcpu.stack_size]
    return vcpu.memory.read(vcpu.base(Seg.SS) + (vcpu.reg32(4) & mask) & MASK32, size, vcpu.cpl == 3)


def add_to_stack(vcpu: Vcpu, count: int) -> None:
    """Move the stack pointer, 16 or 32 bits of it as SS.B says."""
    vcpu.set_reg(4, vcpu.stack_size, vcpu.reg32(4) + count)
