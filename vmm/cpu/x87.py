"""An x87 instruction that the VMM carries out: one that finds a register empty, or no room, or makes an unmasked error.

Everything else the cache does by itself (`vmm.hw.x87_code`); so does FLDCW, and what loads or stores the whole state is
in `vmm.cpu.fpu`. It is executed by the host's FPU, on the guest's state.

Source: Intel SDM Vol. 1, "x87 FPU Exception Handling", "Stack Overflow or Underflow Exception (#IS)"; Vol. 2A, the
instructions.
"""

from typing import Final

from bt.accesses import accesses
from bt.decode import Insn
from vmm.arch.registers import ARITHMETIC, Eflags, Reg
from vmm.cpu import fpu
from vmm.cpu.operands import linear_address
from vmm.cpu.ports import Platform
from vmm.cpu.vcpu import Vcpu
from vmm.hw.host_fpu import carry_out

_EAX: Final = int(Reg.EAX)
_DF: Final = int(Eflags.DF)
_USER_RING: Final = 3
_AT_RSI: Final = 0b110  # ModR/M of a memory operand at RSI: mod 00
_FIELD: Final = 0x38
_PATTERN: Final = 0xA5


def x87(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """Carry out the instruction. No error may wait. Raises: GuestFault: #NM, and what its operand has."""
    fpu.require_fpu(vcpu)
    access = next(iter(accesses(insn)), None)
    if access is None:
        image, _, flags, eax = _execute(vcpu, insn, b"")
    elif not access.write:
        image, _, flags, eax = _execute(vcpu, insn, _load(vcpu, insn, access.size))
    else:
        before = bytes([_PATTERN]) * access.size
        image, stored, flags, eax = _execute(vcpu, insn, before)
        if stored == before:  # an error has kept it from storing; or that is what it stores
            before = bytes([_PATTERN ^ 0xFF]) * access.size
            image, stored, flags, eax = _execute(vcpu, insn, before)
        if stored != before:
            vcpu.memory.write_bytes(linear_address(vcpu, insn.memory), stored, vcpu.cpl == _USER_RING)
    fpu.load_image(vcpu, image)
    vcpu.set_arithmetic(flags & ARITHMETIC | vcpu.fold_flags() & _DF)
    vcpu.set_reg(_EAX, 4, eax)
    fpu.point_at(vcpu, insn)


def _load(vcpu: Vcpu, insn: Insn, size: int) -> bytes:
    return vcpu.memory.read_bytes(linear_address(vcpu, insn.memory), size, vcpu.cpl == _USER_RING)


def _execute(vcpu: Vcpu, insn: Insn, operand: bytes) -> tuple[bytes, bytes, int, int]:
    modrm = insn.modrm if insn.is_register_form else insn.modrm & _FIELD | _AT_RSI
    code = bytes([insn.opcode, modrm])
    return carry_out(code, fpu.image_of(vcpu), operand, vcpu.fold_flags() & ARITHMETIC, vcpu.reg(_EAX, 4))
