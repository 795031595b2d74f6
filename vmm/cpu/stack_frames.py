"""ENTER by the VMM: where operand and stack have different sizes.

Source: Intel SDM Vol. 2A, "ENTER - Make Stack Frame for Procedure Parameters".
"""

from bt.decode import Insn
from vmm.arch.layout import MASK32
from vmm.arch.registers import Reg, Seg
from vmm.cpu import limits
from vmm.cpu.access_checks import Place, places
from vmm.cpu.ports import Platform
from vmm.cpu.vcpu import Vcpu


def enter(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """ENTER imm16, imm8: the operand decides the width of the frame pointer, the stack that of the stack pointer.

    No register changes before the last access, which is none: the new top of the stack need only be writable.
    """
    size = insn.operand_size
    *accesses, top = places(vcpu, insn)
    below = vcpu.reg32(Reg.ESP)
    frame = accesses[0].offset if vcpu.stack_size == 4 else below & ~0xFFFF | accesses[0].offset
    value = vcpu.reg32(Reg.EBP)
    for place in accesses:
        value = _access(vcpu, place, value, frame)
    vcpu.memory.check_write(_linear(vcpu, top), size, vcpu.cpl == 3)
    vcpu.set_reg(Reg.EBP, size, frame)
    vcpu.set_reg(Reg.ESP, vcpu.stack_size, top.offset)


def _access(vcpu: Vcpu, place: Place, value: int, frame: int) -> int:
    """Push `value`, or read the next one: what to push next, which is the frame pointer unless an outer one is read."""
    at, user = _linear(vcpu, place), vcpu.cpl == 3
    if not place.write:
        return vcpu.memory.read(at, place.size, user)
    vcpu.memory.write(at, place.size, value & (1 << 8 * place.size) - 1, user)
    return frame


def _linear(vcpu: Vcpu, place: Place) -> int:
    limits.check(vcpu, place.seg, place.offset, place.size, place.write)
    return vcpu.base(Seg.SS) + place.offset & MASK32
