"""Control transfers inside the cache.

A direct branch ends in a rel32 that is patched once its target is translated. An indirect one brings its target into
ECX (the guest's ECX waits in S0) and follows the block space's branch table (see `bt.lookup`). Nothing here touches the
arithmetic flags. CALL pushes the guest's return address, never a cache address.
"""

from typing import Final

from bt.decode import OVERRIDE_BYTE, Insn
from bt.emit import S0, Emitter
from vmm.arch.registers import Reg

_SHORT_JUMP: Final = 0xEB
_RET_IMM16: Final = 0xC2
_MOV_ECX_IMM32: Final = b"\xb9"
_LAST_SHORT_TARGET: Final = 0xFFFF
_FIRST_LONG_FORM: Final = 0xE8
"""Opcodes below it (70-7F, E0-E3) have an 8-bit displacement; so has EB."""

_LOOP_ON_ZF: Final = (0xE0, 0xE1)
_SAVE_ECX: Final = "mov dword ptr cs:[{S0}], ecx"
_BEGIN: Final = """
    mov dword ptr cs:[{S2}], ecx
    mov dword ptr cs:[{S1}], edx
"""
_LOOK_UP_32: Final = """
    movzx edx, word ptr cs:[{S2_HIGH}]
    mov edx, dword ptr cs:[edx*4 + {table}]
    movzx ecx, ch
    mov edx, dword ptr cs:[edx + ecx*4]
    movzx ecx, byte ptr cs:[{S2}]
    mov edx, dword ptr cs:[edx + ecx*4]
"""
_LOOK_UP_16: Final = """
    movzx edx, ch
    mov edx, dword ptr cs:[edx*4 + {table}]
    movzx ecx, cl
    mov edx, dword ptr cs:[edx + ecx*4]
"""
_LOOK_UP_LONG_16: Final = (
    """
    movzx ecx, word ptr cs:[{S2_HIGH}]
    mov edx, {nowhere}
    {o} jecxz inside
    {o} jmp far_off
inside:
    mov ecx, dword ptr cs:[{S2}]
"""
    + _LOOK_UP_16
    + """
far_off:
"""
)
"""A 32-bit target in 16-bit code: only those below 10000h are in the table."""
_GO: Final = """
    mov dword ptr cs:[{S3}], edx
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
    jmp dword ptr cs:[{S3}]
"""
_NOWHERE: Final = _BEGIN + "mov edx, {nowhere}\n" + _GO
_DISPATCH: Final = {
    (True, 4): _BEGIN + _LOOK_UP_32 + _GO,
    (True, 2): _BEGIN + _LOOK_UP_32 + _GO,
    (False, 4): _BEGIN + _LOOK_UP_LONG_16 + _GO,
    (False, 2): _BEGIN + _LOOK_UP_16 + _GO,
}
"""By CS.D and the size of the target."""


def target_of(insn: Insn) -> int:
    """Target EIP of a direct near branch: the operand size decides how much of EIP survives (SDM Vol. 2A, "JMP")."""
    size = 1 if insn.opcode < _FIRST_LONG_FORM or insn.opcode == _SHORT_JUMP else insn.operand_size
    displacement = int.from_bytes(insn.raw[-size:], "little", signed=True)
    return insn.next_eip + displacement & ((1 << 8 * insn.operand_size) - 1)


def jump_relative(emit: Emitter, insn: Insn) -> None:
    """JMP rel8, rel16, rel32."""
    emit.jump(target_of(insn))


def jump_conditional(emit: Emitter, insn: Insn) -> None:
    """Jcc: the condition is the low four bits of either opcode form; what follows it follows in the block.

    Source: SDM Vol. 2A, "Jcc - Jump if Condition Is Met".
    """
    emit.branch(bytes([0x0F, 0x80 | insn.opcode & 0xF]), target_of(insn))


def loop(emit: Emitter, insn: Insn) -> None:
    """LOOP LOOPE LOOPNE JCXZ JECXZ: only short forms exist, so jump over a jump. The address size picks CX or ECX.

    LOOPE and LOOPNE get an engine block of their own: where the count ends them, the engine forgets in which lazy form
    the block's last flags are. Source: SDM Vol. 2A, "LOOP/LOOPcc": no flags affected.
    """
    operand = b"" if emit.context.code32 else b"\x66"
    address = b"" if emit.context.code32 == (insn.address_size == 4) else b"\x67"
    if insn.opcode in _LOOP_ON_ZF:
        emit.raw(operand + b"\xeb\0")
    jump_size = 5 + len(operand)
    emit.raw(operand + address + bytes([insn.opcode, jump_size]))
    emit.branch(b"\xe9", insn.next_eip)
    emit.branch(b"\xe9", target_of(insn))


def _push_return(emit: Emitter, insn: Insn) -> None:
    size = insn.operand_size
    prefix = b"" if emit.context.code32 == (size == 4) else b"\x66"
    emit.raw(prefix + b"\x68" + (insn.next_eip & ((1 << 8 * size) - 1)).to_bytes(size, "little"))


def call_relative(emit: Emitter, insn: Insn) -> None:
    """CALL rel16, rel32: push the guest's return address, then jump."""
    _push_return(emit, insn)
    emit.jump(target_of(insn))


def load_ecx(emit: Emitter, insn: Insn, size: int) -> None:
    """Bring r/m of `size` bytes, 2 or 4, into ECX, zero-extended; a fault there leaves ECX as it was."""
    override = b"" if insn.segment_override is None else bytes([OVERRIDE_BYTE[insn.segment_override]])
    address = b"\x67" if b"\x67"[0] in insn.prefixes else b""
    operand = b"" if emit.context.code32 else b"\x66"
    opcode = b"\x8b" if size == 4 else b"\x0f\xb7"
    if insn.is_register_form:
        emit.raw(operand + opcode + bytes([0xC0 | Reg.ECX << 3 | insn.modrm & 7]))
    else:
        emit.raw(override + address + operand + opcode + insn.memory.with_reg(Reg.ECX))


def _load_target(emit: Emitter, insn: Insn) -> None:
    emit.emit(_SAVE_ECX)
    load_ecx(emit, insn, insn.operand_size)


def jump_indirect(emit: Emitter, insn: Insn) -> None:
    """JMP r/m16, r/m32."""
    _load_target(emit, insn)
    dispatch(emit, insn.operand_size)


def call_indirect(emit: Emitter, insn: Insn) -> None:
    """CALL r/m16, r/m32: the target is read before the push, and the push may fault."""
    _load_target(emit, insn)
    emit.mark((Reg.ECX, S0))
    _push_return(emit, insn)
    dispatch(emit, insn.operand_size)


def return_near(emit: Emitter, insn: Insn) -> None:
    """RET, RET imm16: POP does what RET does to the stack, with the stack's own address size."""
    emit.emit(_SAVE_ECX)
    if insn.operand_size == 4:
        emit.raw(b"\x59" if emit.context.code32 else b"\x66\x59")
    else:
        emit.emit("pop cx\nmovzx ecx, cx")
    release = int.from_bytes(insn.tail[:2], "little") if insn.opcode == _RET_IMM16 else 0
    if release:
        emit.emit(
            "lea esp, [esp + {release}]" if emit.context.stack32 else "lea sp, [esp + {release}]", release=release
        )
    dispatch(emit, insn.operand_size)


def jump_through_table(emit: Emitter, eip: int) -> None:
    """Go to a guest EIP as an indirect branch does."""
    emit.emit(_SAVE_ECX)
    emit.raw((b"" if emit.context.code32 else b"\x66") + _MOV_ECX_IMM32 + eip.to_bytes(4, "little"))
    dispatch(emit, 4 if emit.context.code32 or eip > _LAST_SHORT_TARGET else 2)


def dispatch(emit: Emitter, size: int) -> None:
    """Go to the guest EIP in ECX, zero-extended from `size` bytes; the guest's own ECX is in S0.

    A target that the VMM must see leads nowhere, with the target in S2 and all registers as the guest has them.
    """
    window = emit.window
    emit.mark((Reg.ECX, S0))
    if window.lookup == window.nowhere:
        emit.emit(_NOWHERE, nowhere=window.nowhere - window.cs_base)
        return
    text = _DISPATCH[emit.context.code32, size]
    emit.emit(text, table=window.lookup - window.cs_base, nowhere=window.nowhere - window.cs_base)
