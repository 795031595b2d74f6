"""The state of the x87 FPU and of SSE as instructions store and load it.

The processor below keeps most of it. What it does not keep as the SDM has it: the opcode, and, where guest code is
translated, the address of the last x87 instruction: `settle` takes that from the engine. An address that is the
guest's own is marked by a bit that no instruction pointer has. MXCSR shows no error there: errors gather elsewhere.

Source: Intel SDM Vol. 1, "x87 FPU Instruction and Operand (Data) Pointers", "Last Instruction Opcode", "Saving the x87
FPU State with FSTENV/FNSTENV and FSAVE/FNSAVE", figures "Protected Mode x87 FPU State Image in Memory, 32-Bit Format"
to "Real Mode x87 FPU State Image in Memory, 16-Bit Format"; Vol. 2A, "FXSAVE - Save x87 FPU, MMX Technology, and SSE
State", "FSTENV/FNSTENV"; Vol. 1, "MXCSR Control and Status Register". What reserved fields get is not in the SDM:
ones in the upper halves of the 32-bit image, as P6 processors store them.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from bt.decode import Insn
from vmm.arch.exceptions import GuestFault, Vector, gp, ud
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr0, Cr4
from vmm.cpu.operands import linear_address
from vmm.cpu.vcpu import Vcpu
from vmm.hw import state as hw

_EM: Final = int(Cr0.EM)
_TS: Final = int(Cr0.TS)
_OSFXSR: Final = int(Cr4.OSFXSR)
_USER_RING: Final = 3
ERROR_MASKS: Final = 0x3F
GATHERED: Final = 0x3D
"""IE, ZE, OE, UE and PE, in the status word and in the engine."""
_SUMMARY: Final = 0x0080
SUMMARY_AND_BUSY: Final = 0x8080
_MASK16: Final = 0xFFFF
_HIGH_ONES: Final = 0xFFFF_0000
_OWN_IP: Final = 1 << 63
"""In the engine's FPU instruction pointer: it is the guest's, not one of the cache."""

_MXCSR: Final = hw.MXCSR >> 2
_IP: Final = hw.FPU_IP >> 3
_DP: Final = hw.FPU_DP >> 3
MXCSR_BITS: Final = 0xFFFF
"""MXCSR_MASK, as the processor below has it in FXSAVE: denormals-are-zeros is there."""
_MXCSR_MASKS: Final = 0x1F80
_MXCSR_MASKS_SHIFT: Final = 7
_MXCSR_ERRORS: Final = 0x3F
_UE_AND_PE: Final = 0x30
_FLUSHED: Final = 0x80
"""In the engine's gathered errors: a result was flushed to zero."""
_BEFORE_ROUNDING: Final = 0x07
"""IE, DE and ZE are found before there is a result; then OE, UE and PE are not looked for."""

_FX_SIZE: Final = 512
_FX_ALIGNMENT: Final = 16
_FX_STATUS: Final = 2
_FX_OPCODE: Final = 6
_REGISTERS: Final = 8


# --- whether the instruction may run at all -------------------------------------------------------------------------


def require_fpu(vcpu: Vcpu) -> None:
    """#NM with CR0.TS or CR0.EM."""
    if vcpu.cr0 & (_TS | _EM):
        raise GuestFault(Vector.NM)


def require_sse(vcpu: Vcpu) -> None:
    """#UD with CR0.EM or without CR4.OSFXSR, #NM with CR0.TS."""
    if vcpu.cr0 & _EM or not vcpu.cr4 & _OSFXSR:
        raise ud()
    if vcpu.cr0 & _TS:
        raise GuestFault(Vector.NM)


def check_alignment(vcpu: Vcpu, insn: Insn) -> None:
    """#GP(0) for an operand that is not on a 16-byte boundary."""
    if linear_address(vcpu, insn.memory) % _FX_ALIGNMENT:
        raise gp()


# --- pointers -------------------------------------------------------------------------------------------------------


def foreign_ip(vcpu: Vcpu) -> int | None:
    """The address of the last x87 instruction as the engine has it, relative to the CS.base of then; None: it is the
    guest's."""
    value = vcpu.state.q[_IP]
    return None if not value or value & _OWN_IP else value & MASK32


def set_instruction(vcpu: Vcpu, eip: int, opcode: int) -> None:
    """Say what the last x87 instruction was: its EIP, and 11 bits of opcode."""
    vcpu.state.q[_IP] = _OWN_IP | eip
    _set_word(vcpu, hw.FPU_OPCODE, opcode)


def opcode_of(insn: Insn) -> int:
    """The 11 bits of an x87 instruction that FOP keeps: three of the first byte, all of the second."""
    return (insn.opcode & 7) << 8 | insn.modrm


def _word(vcpu: Vcpu, at: int) -> int:
    return int.from_bytes(vcpu.state.buffer[at : at + 2], "little")


def _set_word(vcpu: Vcpu, at: int, value: int) -> None:
    vcpu.state.buffer[at : at + 2] = value.to_bytes(2, "little")


def _pointers(vcpu: Vcpu) -> tuple[int, int, int, int, int]:
    """FOP, FIP, FCS, FDP, FDS."""
    q = vcpu.state.q
    opcode = _word(vcpu, hw.FPU_OPCODE) if q[_IP] else 0
    return opcode, q[_IP] & MASK32, _word(vcpu, hw.FPU_CS), q[_DP] & MASK32, _word(vcpu, hw.FPU_DS)


def _load_pointers(vcpu: Vcpu, values: tuple[int, int, int, int, int]) -> None:
    opcode, ip, cs, dp, ds = values
    set_instruction(vcpu, ip, opcode)
    vcpu.state.q[_DP] = dp
    _set_word(vcpu, hw.FPU_CS, cs)
    _set_word(vcpu, hw.FPU_DS, ds)


# --- errors of x87 --------------------------------------------------------------------------------------------------


def show_errors(vcpu: Vcpu) -> None:
    """Let the status word show the errors that have gathered in the engine since FNCLEX or FNINIT.

    The engine itself shows ZE alone, and that for 0/0, too. Limits: DE is not among them. What is unmasked is found
    only here, and so raises no #MF before. Source: SDM Vol. 1, "x87 FPU Status Register".
    """
    status = _word(vcpu, hw.FPU_STATUS) & ~GATHERED | vcpu.state.buffer[hw.FPU_ERRORS] & GATHERED
    _set_word(vcpu, hw.FPU_STATUS, status & ~SUMMARY_AND_BUSY)
    show_error(vcpu)


def is_true_error(vcpu: Vcpu) -> bool:
    """Whether the error that the engine has met is one: it takes 0/0 for a division by zero."""
    show_errors(vcpu)
    return has_error(vcpu)


def clear_errors(vcpu: Vcpu, insn: Insn) -> None:
    """FNCLEX and FNINIT, as far as the engine does not do it."""
    require_fpu(vcpu)
    vcpu.state.buffer[hw.FPU_ERRORS] = 0


def fnstsw(vcpu: Vcpu, insn: Insn) -> None:
    """FNSTSW, before the processor below does it."""
    require_fpu(vcpu)
    show_errors(vcpu)


def has_error(vcpu: Vcpu) -> bool:
    """Is the error summary bit set?"""
    return bool(_word(vcpu, hw.FPU_STATUS) & _SUMMARY)


def hide_error(vcpu: Vcpu) -> None:
    """Clear the error summary, so that nothing waits for the error."""
    _set_word(vcpu, hw.FPU_STATUS, _word(vcpu, hw.FPU_STATUS) & ~SUMMARY_AND_BUSY)


def show_error(vcpu: Vcpu) -> None:
    """Set the error summary again if an unmasked error is still there."""
    status = _word(vcpu, hw.FPU_STATUS)
    if status & ~_word(vcpu, hw.FPU_CONTROL) & ERROR_MASKS:
        _set_word(vcpu, hw.FPU_STATUS, status | SUMMARY_AND_BUSY)


# --- FNSTENV, FNSAVE ------------------------------------------------------------------------------------------------


def _tag(register: bytes) -> int:
    """00 valid, 01 zero, 10 special: a NaN, an infinity, a denormal, or none of what numbers look like."""
    exponent = int.from_bytes(register[8:10], "little") & 0x7FFF
    significand = int.from_bytes(register[:8], "little")
    if not exponent:
        return 2 if significand else 1
    return 0 if exponent != 0x7FFF and significand >> 63 else 2


def _registers(vcpu: Vcpu) -> list[bytes]:
    """The eight by their physical numbers, 10 bytes each."""
    buffer, start = vcpu.state.buffer, hw.FPU_REGISTERS
    return [bytes(buffer[at : at + 10]) for at in range(start, start + 16 * _REGISTERS, 16)]


def _words(vcpu: Vcpu) -> tuple[int, int]:
    """Control and status word."""
    top = vcpu.state.buffer[hw.FPU_TOP] & 7
    return _word(vcpu, hw.FPU_CONTROL), _word(vcpu, hw.FPU_STATUS) & ~0x3800 | top << 11


def _environment(vcpu: Vcpu, size: int) -> bytes:
    """The image of FNSTENV: 14 or 28 bytes by the operand size."""
    control, status = _words(vcpu)
    empty = vcpu.state.buffer[hw.FPU_TAGS : hw.FPU_TAGS + _REGISTERS]
    tags = sum((3 if empty[n] else _tag(each)) << 2 * n for n, each in enumerate(_registers(vcpu)))
    opcode, ip, cs, dp, ds = _pointers(vcpu)
    if vcpu.is_protected and not vcpu.is_v86:
        if size == 2:
            return struct.pack("<7H", control, status, tags, ip & _MASK16, cs, dp & _MASK16, ds)
        fields = (ip, opcode << 16 | cs, dp, _HIGH_ONES | ds)
    else:
        ip, dp = (cs << 4) + ip & MASK32, (ds << 4) + dp & MASK32
        if size == 2:
            high = (ip >> 4 & 0xF000 | opcode, dp & _MASK16, dp >> 4 & 0xF000)
            return struct.pack("<7H", control, status, tags, ip & _MASK16, *high)
        fields = (
            _HIGH_ONES | ip & _MASK16,
            ip >> 4 & 0x0FFF_F000 | opcode,
            _HIGH_ONES | dp & _MASK16,
            dp >> 4 & 0x0FFF_F000,
        )
    return struct.pack("<7I", *(_HIGH_ONES | word for word in (control, status, tags)), *fields)


def _store(vcpu: Vcpu, insn: Insn, image: bytes) -> None:
    vcpu.memory.write_bytes(linear_address(vcpu, insn.memory), image, vcpu.cpl == _USER_RING)


def fnstenv(vcpu: Vcpu, insn: Insn) -> None:
    """FNSTENV: store the environment, then mask all errors."""
    require_fpu(vcpu)
    show_errors(vcpu)
    _store(vcpu, insn, _environment(vcpu, insn.operand_size))
    _set_word(vcpu, hw.FPU_CONTROL, _word(vcpu, hw.FPU_CONTROL) | ERROR_MASKS)
    hide_error(vcpu)


def fnsave(vcpu: Vcpu, insn: Insn) -> None:
    """FNSAVE without the FNINIT at its end: the environment, then the stack from its top."""
    require_fpu(vcpu)
    show_errors(vcpu)
    top, registers = vcpu.state.buffer[hw.FPU_TOP] & 7, _registers(vcpu)
    _store(vcpu, insn, _environment(vcpu, insn.operand_size) + b"".join(registers[top:] + registers[:top]))
    vcpu.state.buffer[hw.FPU_ERRORS] = 0


# --- FLDENV, FRSTOR -------------------------------------------------------------------------------------------------


def fldenv(vcpu: Vcpu, insn: Insn) -> None:
    """FLDENV and FRSTOR, as far as pointers go: the rest the processor below loads itself."""
    require_fpu(vcpu)
    size = insn.operand_size
    environment = 7 * size
    at = linear_address(vcpu, insn.memory)
    count = environment + (0 if insn.name == "fldenv" else 10 * _REGISTERS)
    image = vcpu.memory.read_bytes(at, count, vcpu.cpl == _USER_RING)
    _load_pointers(vcpu, _pointers_in(vcpu, image[:environment], size))
    vcpu.state.buffer[hw.FPU_ERRORS] = image[size] & GATHERED


def _pointers_in(vcpu: Vcpu, image: bytes, size: int) -> tuple[int, int, int, int, int]:
    ip, second, dp, last = struct.unpack("<7H" if size == 2 else "<7I", image)[3:]
    if not vcpu.is_protected or vcpu.is_v86:
        ip, dp = ip & _MASK16 | (second & 0x0FFF_F000) << 4, dp & _MASK16 | (last & 0x0FFF_F000) << 4
        return second & 0x7FF, ip & MASK32, 0, dp & MASK32, 0
    return (0 if size == 2 else second >> 16 & 0x7FF), ip, second & _MASK16, dp, last & _MASK16


# --- FXSAVE, FXRSTOR, STMXCSR, LDMXCSR ------------------------------------------------------------------------------


def fxsave(vcpu: Vcpu, insn: Insn) -> None:
    """FXSAVE, before the processor below does it."""
    require_fpu(vcpu)
    check_alignment(vcpu, insn)
    show_errors(vcpu)
    fold_errors(vcpu)


def add_pointers(vcpu: Vcpu, insn: Insn) -> None:
    """FXSAVE, when the processor below has done it: that stores no pointers."""
    image = struct.pack("<HIHxxIH", *_pointers(vcpu))
    at = linear_address(vcpu, insn.memory) + _FX_OPCODE & MASK32
    vcpu.memory.write_bytes(at, image, vcpu.cpl == _USER_RING)


def fxrstor(vcpu: Vcpu, insn: Insn) -> None:
    """FXRSTOR, before the processor below does it: what it must not load, and the pointers."""
    require_fpu(vcpu)
    check_alignment(vcpu, insn)
    image = vcpu.memory.read_bytes(linear_address(vcpu, insn.memory), _FX_SIZE, vcpu.cpl == _USER_RING)
    opcode, ip, cs, dp, ds, mxcsr = struct.unpack_from("<HIHxxIHxxI", image, _FX_OPCODE)
    if vcpu.cr4 & _OSFXSR:
        _check_mxcsr(vcpu, mxcsr)
    _load_pointers(vcpu, (opcode & 0x7FF, ip, cs, dp, ds))
    vcpu.state.buffer[hw.FPU_ERRORS] = image[_FX_STATUS] & GATHERED


def stmxcsr(vcpu: Vcpu, insn: Insn) -> None:
    """STMXCSR."""
    require_sse(vcpu)
    fold_errors(vcpu)
    _store(vcpu, insn, vcpu.state.d[_MXCSR].to_bytes(4, "little"))


def ldmxcsr(vcpu: Vcpu, insn: Insn) -> None:
    """LDMXCSR, before the processor below does it."""
    require_sse(vcpu)
    _check_mxcsr(vcpu, vcpu.memory.read(linear_address(vcpu, insn.memory), 4, vcpu.cpl == _USER_RING))


def _check_mxcsr(vcpu: Vcpu, value: int) -> None:
    """#GP(0) for a reserved bit. What errors there were is overwritten; and it counts at once what gets masked."""
    if value & ~MXCSR_BITS:
        raise gp()
    vcpu.state.buffer[hw.SSE_ERRORS] = 0
    vcpu.state.d[_MXCSR] = value


PREPARATIONS: Final[Mapping[str, Callable[[Vcpu, Insn], None]]] = {
    "fldenv": fldenv,
    "fnclex": clear_errors,
    "fninit": clear_errors,
    "fnsave": fnsave,
    "fnstenv": fnstenv,
    "fnstsw": fnstsw,
    "frstor": fldenv,
    "fxrstor": fxrstor,
    "fxsave": fxsave,
    "ldmxcsr": ldmxcsr,
    "stmxcsr": stmxcsr,
}
"""By mnemonic: what the VMM has to do before the rest of the instruction runs by itself."""


# --- errors of SSE --------------------------------------------------------------------------------------------------


def take_errors(vcpu: Vcpu) -> int:
    """The errors that have gathered in the engine, as bits of MXCSR; it forgets them.

    Limits: DE is not among them. Source: SDM Vol. 1, "Flush-To-Zero": UE and PE for a result that was flushed.
    """
    errors = vcpu.state.buffer[hw.SSE_ERRORS]
    vcpu.state.buffer[hw.SSE_ERRORS] = 0
    return errors & _MXCSR_ERRORS | (_UE_AND_PE if errors & _FLUSHED else 0)


def fold_errors(vcpu: Vcpu) -> None:
    """Move the errors that have gathered in the engine into MXCSR."""
    vcpu.state.d[_MXCSR] |= take_errors(vcpu)


def lets_errors_through(mxcsr: int) -> bool:
    """Is an error unmasked?"""
    return mxcsr & _MXCSR_MASKS != _MXCSR_MASKS


def unmasked(mxcsr: int, errors: int) -> int:
    """Which of an instruction's errors MXCSR lets through; those that need a result only if no other one does."""
    let_through = errors & ~(mxcsr >> _MXCSR_MASKS_SHIFT)
    return let_through & _BEFORE_ROUNDING or let_through


def shown(errors: int, cause: int) -> int:
    """Which errors MXCSR shows when some of them, the `cause`, are unmasked."""
    return errors & _BEFORE_ROUNDING if cause & _BEFORE_ROUNDING else errors
