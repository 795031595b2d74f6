"""Control transfers inside the cache.

A direct branch ends in a rel32 that is patched once its target is translated. An indirect one brings its target into
ECX (the guest's ECX waits in S0) and tries the predicted targets, then the block space's lookup table, then the VMM.
Nothing here touches the arithmetic flags: MOV, LEA, MOVZX and JECXZ do all of it. CALL pushes the guest's return
address, never a cache address.

The lookup table has 256 entries in 16-bit code, 65,536 in 32-bit code, indexed by the low bits of the target EIP: two
words, the negated EIP and the CS-relative address of its block.
"""

from typing import Final

from bt.decode import OVERRIDE_BYTE, Insn
from bt.emit import S0, S1, Emitter, SiteKind
from vmm.arch.registers import Reg

NO_PREDICTION: Final = 0xFFFF_FFFF
LOOKUP_BITS: Final = {False: 8, True: 16}

_SHORT_JUMP: Final = 0xEB
_RET_IMM16: Final = 0xC2
_FIRST_LONG_FORM: Final = 0xE8
"""Opcodes below it (70-7F, E0-E3) have an 8-bit displacement; so has EB."""

_SAVE_ECX: Final = "mov dword ptr cs:[{S0}], ecx"
WAYS: Final = 3
"""Targets that an indirect branch tries before it looks one up."""


def _ways() -> str:
    """Compare ECX with each predicted target in turn; the differences add up, and `back` undoes them."""
    tests = "".join(f"lea ecx, [ecx + {{step{way}}}]\n{{o}} jecxz hit{way}\n" for way in range(WAYS))
    hits = "".join(
        f"hit{way}:\nmov ecx, dword ptr cs:[{{S0}}]\n{{o}} .byte 0xe9\n.long {{link{way}}}\n" for way in range(WAYS)
    )
    return tests + "{o} jmp miss\n" + hits + _LEARN


_LEARN: Final = """
miss:
    lea ecx, [ecx + {back}]
    mov dword ptr cs:[{S2}], ecx
    mov dword ptr cs:[{S1}], edx
    int 0x40
"""
_LOOK_UP: Final = """
    %s
    mov edx, dword ptr cs:[edx*8 + {table}]
    lea ecx, [ecx + edx]
    {o} jecxz found
    int 0x40
found:
"""
_GO: Final = """
    %s
    mov edx, dword ptr cs:[edx*8 + {entry}]
    mov dword ptr cs:[{S3}], edx
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
    jmp dword ptr cs:[{S3}]
"""
_HASH: Final = {False: "movzx edx, cl", True: "movzx edx, cx"}
_HASH_SAVED: Final = {False: "movzx edx, byte ptr cs:[{S2}]", True: "movzx edx, word ptr cs:[{S2}]"}


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
    """LOOP LOOPE LOOPNE JCXZ JECXZ: only short forms exist, so jump over a jump. The address size picks CX or ECX."""
    operand = b"" if emit.context.code32 else b"\x66"
    address = b"" if emit.context.code32 == (insn.address_size == 4) else b"\x67"
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
    dispatch(emit)


def call_indirect(emit: Emitter, insn: Insn) -> None:
    """CALL r/m16, r/m32: the target is read before the push, and the push may fault."""
    _load_target(emit, insn)
    emit.mark((Reg.ECX, S0))
    _push_return(emit, insn)
    dispatch(emit)


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
    dispatch(emit)


TRY_WAYS: Final = _ways()
NO_LEARNING: Final = b"\x66\x90"
"""Takes the place of the first exit when every way is taken: a NOP of its size."""


def dispatch(emit: Emitter) -> None:
    """Go to the guest EIP in ECX; the guest's own ECX is in S0.

    The first exit, before the lookup, is there to learn: as long as a way is free, a new target takes it.
    """
    code32 = emit.context.code32
    emit.mark((Reg.ECX, S0))
    empty = {f"step{way}": 0 for way in range(1, WAYS)} | {f"link{way}": 0 for way in range(WAYS)}
    fields = emit.emit(TRY_WAYS, step0=-NO_PREDICTION, back=NO_PREDICTION, **empty)
    learning = emit.site_here(SiteKind.INDIRECT)
    learning.steps = (*(fields[f"step{way}"] for way in range(WAYS)), fields["back"])
    learning.links = tuple(fields[f"link{way}"] for way in range(WAYS))
    emit.emit(_LOOK_UP % _HASH[code32], table=emit.window.lookup_offset)
    emit.site_here(SiteKind.INDIRECT)
    emit.mark((Reg.ECX, S0), (Reg.EDX, S1))
    emit.emit(_GO % _HASH_SAVED[code32], entry=emit.window.lookup_offset + 4)
    emit.land_together(learning.links, NO_PREDICTION)
