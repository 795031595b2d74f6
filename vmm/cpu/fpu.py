"""The state of the x87 FPU and of SSE as instructions store and load it.

The processor below keeps most of it. What it does not keep as the SDM has it: the opcode, and, where guest code is
translated, the address of the last x87 instruction: `settle` takes that from the engine. An address that is the
guest's own is marked by a bit that no instruction pointer has.

Source: Intel SDM Vol. 1, "x87 FPU Instruction and Operand (Data) Pointers", "Last Instruction Opcode", "Saving the x87
FPU State with FSTENV/FNSTENV and FSAVE/FNSAVE", figures "Protected Mode x87 FPU State Image in Memory, 32-Bit Format"
to "Real Mode x87 FPU State Image in Memory, 16-Bit Format"; Vol. 2A, "FXSAVE - Save x87 FPU, MMX Technology, and SSE
State", "FSTENV/FNSTENV"; Vol. 1, "MXCSR Control and Status Register". What reserved fields get is not in the SDM:
ones in the upper halves of the 32-bit image, as P6 processors store them. ES and B are made when somebody looks.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from bt.decode import Insn
from vmm.arch.exceptions import GuestFault, Vector, gp, ud
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr0, Cr4, Seg
from vmm.cpu.operands import effective_offset, linear_address
from vmm.cpu.vcpu import Vcpu
from vmm.hw import state as hw
from vmm.hw.x87_code import CONTROL_BITS, CONTROL_ONES

_EM: Final = int(Cr0.EM)
_TS: Final = int(Cr0.TS)
_OSFXSR: Final = int(Cr4.OSFXSR)
_USER_RING: Final = 3
ERROR_MASKS: Final = 0x3F
"""In the control word; in the status word, the errors."""
_SUMMARY_AND_BUSY: Final = 0x8080
_TOP_BITS: Final = 0x3800
_TOP_SHIFT: Final = 11
_MASK16: Final = 0xFFFF
_HIGH_ONES: Final = 0xFFFF_0000
_OWN_IP: Final = 1 << 63
"""In the engine's FPU instruction pointer: it is the guest's, not one of the cache."""

_IP: Final = hw.FPU_IP >> 3
_DP: Final = hw.FPU_DP >> 3
MXCSR_BITS: Final = 0xFFFF
"""MXCSR_MASK, as the processor below has it in FXSAVE: denormals-are-zeros is there."""

_FX_SIZE: Final = 512
_FX_ALIGNMENT: Final = 16
_FX_OPCODE: Final = 6
_REGISTERS: Final = 8
_TAG_EMPTY: Final = 3


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


def point_at(vcpu: Vcpu, insn: Insn) -> None:
    """Say that this was the last x87 instruction, and what its operand in memory was, if it has one."""
    set_instruction(vcpu, insn.eip, opcode_of(insn))
    _set_word(vcpu, hw.FPU_CS, vcpu.selector(Seg.CS))
    if not insn.is_register_form:
        vcpu.state.q[_DP] = effective_offset(vcpu, insn.memory)
        _set_word(vcpu, hw.FPU_DS, vcpu.selector(insn.memory.segment))


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


def waiting_errors(vcpu: Vcpu) -> int:
    """The errors in the status word that the control word lets through: #MF at the next instruction that waits.

    Bits ES and B are made from them when somebody looks. Source: SDM Vol. 1, "x87 FPU Status Register".
    """
    return _word(vcpu, hw.FPU_STATUS) & ~_word(vcpu, hw.FPU_CONTROL) & ERROR_MASKS


def hide_errors(vcpu: Vcpu) -> int:
    """Take the errors that wait out of the status word, for one instruction that does not mind them. Returns them."""
    errors = waiting_errors(vcpu)
    _set_word(vcpu, hw.FPU_STATUS, _word(vcpu, hw.FPU_STATUS) & ~errors)
    return errors


def show_errors(vcpu: Vcpu, errors: int) -> None:
    """Put errors into the status word."""
    _set_word(vcpu, hw.FPU_STATUS, _word(vcpu, hw.FPU_STATUS) | errors)


def summarise(vcpu: Vcpu) -> None:
    """Let ES and B in the engine's status word, and what is reserved in its control word, be what they are."""
    control, status = _words(vcpu)
    _set_word(vcpu, hw.FPU_CONTROL, control)
    _set_word(vcpu, hw.FPU_STATUS, status & ~_TOP_BITS)


# --- all of x87, for an instruction that is executed elsewhere ------------------------------------------------------


def image_of(vcpu: Vcpu) -> bytes:
    """Registers and words as FNSAVE stores them in the 32-bit format of protected mode, without pointers."""
    control, status = _words(vcpu)
    empty = vcpu.state.buffer[hw.FPU_TAGS : hw.FPU_TAGS + _REGISTERS]
    tags = sum(_TAG_EMPTY << 2 * number for number in range(_REGISTERS) if empty[number])
    top, registers = vcpu.state.buffer[hw.FPU_TOP] & 7, _registers(vcpu)
    return struct.pack("<3I16x", control, status, tags) + b"".join(registers[top:] + registers[:top])


def load_image(vcpu: Vcpu, image: bytes) -> None:
    """Take registers, tags and the status word out of such an image."""
    _, status, tags = struct.unpack_from("<H2xH2xH", image)
    top, buffer = status >> _TOP_SHIFT & 7, vcpu.state.buffer
    _set_word(vcpu, hw.FPU_STATUS, status & ~(_TOP_BITS | _SUMMARY_AND_BUSY))
    buffer[hw.FPU_TOP] = top
    for number in range(_REGISTERS):
        buffer[hw.FPU_TAGS + number] = tags >> 2 * number & 3 == _TAG_EMPTY
        at = hw.FPU_REGISTERS + 16 * (top + number & _REGISTERS - 1)
        buffer[at : at + 10] = image[28 + 10 * number : 38 + 10 * number]


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
    summary = _SUMMARY_AND_BUSY if waiting_errors(vcpu) else 0
    status = _word(vcpu, hw.FPU_STATUS) & ~(_TOP_BITS | _SUMMARY_AND_BUSY)
    control = _word(vcpu, hw.FPU_CONTROL) & CONTROL_BITS | CONTROL_ONES
    return control, status | summary | top << _TOP_SHIFT


def _environment(vcpu: Vcpu, size: int) -> bytes:
    """The image of FNSTENV: 14 or 28 bytes by the operand size."""
    control, status = _words(vcpu)
    empty = vcpu.state.buffer[hw.FPU_TAGS : hw.FPU_TAGS + _REGISTERS]
    tags = sum((_TAG_EMPTY if empty[n] else _tag(each)) << 2 * n for n, each in enumerate(_registers(vcpu)))
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
    _store(vcpu, insn, _environment(vcpu, insn.operand_size))
    _set_word(vcpu, hw.FPU_CONTROL, _word(vcpu, hw.FPU_CONTROL) | ERROR_MASKS)


def fnsave(vcpu: Vcpu, insn: Insn) -> None:
    """FNSAVE without the FNINIT at its end: the environment, then the stack from its top."""
    require_fpu(vcpu)
    top, registers = vcpu.state.buffer[hw.FPU_TOP] & 7, _registers(vcpu)
    _store(vcpu, insn, _environment(vcpu, insn.operand_size) + b"".join(registers[top:] + registers[:top]))


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
    summarise(vcpu)


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
    if vcpu.cr4 & _OSFXSR and mxcsr & ~MXCSR_BITS:
        raise gp()
    _load_pointers(vcpu, (opcode & 0x7FF, ip, cs, dp, ds))


PREPARATIONS: Final[Mapping[str, Callable[[Vcpu, Insn], None]]] = {
    "fldenv": fldenv,
    "fnsave": fnsave,
    "fnstenv": fnstenv,
    "frstor": fldenv,
    "fxrstor": fxrstor,
    "fxsave": fxsave,
}
"""By mnemonic: what the VMM has to do before the rest of the instruction runs by itself."""
