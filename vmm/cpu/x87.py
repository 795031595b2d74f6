"""What comes to the VMM of x87 and SSE arithmetic: see `vmm.hw.x87_code` and `vmm.hw.sse_code`, which do the rest.

An x87 instruction that finds a register empty, or no room, or makes an unmasked error, is executed by the host's FPU on
the guest's state. FLDCW never comes here; what loads or stores the whole state is in `vmm.cpu.fpu`.

Source: Intel SDM Vol. 1, "x87 FPU Exception Handling", "Stack Overflow or Underflow Exception (#IS)", "SIMD
Floating-Point Exceptions"; Vol. 2A, the instructions, "LDMXCSR".
"""

from typing import Final

from bt.accesses import accesses
from bt.decode import Insn
from vmm.arch.exceptions import GuestFault, Vector, gp, ud
from vmm.arch.registers import ARITHMETIC, Cr4, Eflags, Reg
from vmm.cpu import fpu
from vmm.cpu.operands import linear_address
from vmm.cpu.ports import Platform
from vmm.cpu.vcpu import Vcpu
from vmm.hw.host_fpu import carry_out

_EAX: Final = int(Reg.EAX)
_OSXMMEXCPT: Final = int(Cr4.OSXMMEXCPT)
_DF: Final = int(Eflags.DF)
_USER_RING: Final = 3
_AT_RSI: Final = 0b110  # ModR/M of a memory operand at RSI: mod 00
_FIELD: Final = 0x38
_PATTERN: Final = 0xA5


def x87(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """Carry out the instruction. Raises: GuestFault: #NM, #MF for an error that waits, and what its operand has."""
    fpu.require_fpu(vcpu)
    if fpu.waiting_errors(vcpu):
        raise GuestFault(Vector.MF)
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


def simd_error(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """An SSE instruction with an unmasked error, which MXCSR shows. Raises: GuestFault: #XF, or #UD without
    CR4.OSXMMEXCPT; #GP(0) for LDMXCSR, whose operand has a reserved bit."""
    if insn.name == "ldmxcsr":
        raise gp()
    raise GuestFault(Vector.XF) if vcpu.cr4 & _OSXMMEXCPT else ud()


def _load(vcpu: Vcpu, insn: Insn, size: int) -> bytes:
    return vcpu.memory.read_bytes(linear_address(vcpu, insn.memory), size, vcpu.cpl == _USER_RING)


def _execute(vcpu: Vcpu, insn: Insn, operand: bytes) -> tuple[bytes, bytes, int, int]:
    modrm = insn.modrm if insn.is_register_form else insn.modrm & _FIELD | _AT_RSI
    code = bytes([insn.opcode, modrm])
    return carry_out(code, fpu.image_of(vcpu), operand, vcpu.fold_flags() & ARITHMETIC, vcpu.reg(_EAX, 4))
