"""The instructions that leave the cache: operands in, semantics called, result out.

A handler is called with `vcpu.eip` already behind the instruction; if it raises a GuestFault, the dispatcher puts EIP
back. It may change EIP, segments, mode: everything. Ports, time and CPUID come in through `Platform`.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from bt.decode import Insn
from bt.innocuous import SIMD, X87
from bt.lock import misplaces_lock
from bt.tables import ENDS_BLOCK
from bt.translate import OVERLONG
from vmm.arch.exceptions import Vector, gp, ud
from vmm.arch.layout import MASK32
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu import control, cpuid, events, fast_calls, iret, msr, segments, transfers
from vmm.cpu.events import EventKind
from vmm.cpu.operands import (
    add_to_stack,
    linear_address,
    locate,
    peek_stack,
    push,
    read_far_pointer,
    read_rm,
    write_rm,
)
from vmm.cpu.ports import Platform, in_, ins, out, outs
from vmm.cpu.stack_frames import enter
from vmm.cpu.vcpu import Vcpu
from vmm.cpu.x87 import simd_error, x87

_EAX: Final = int(Reg.EAX)
_ECX: Final = int(Reg.ECX)
_EDX: Final = int(Reg.EDX)
_EBX: Final = int(Reg.EBX)
_ZF: Final = int(Eflags.ZF)
_OF: Final = int(Eflags.OF)
_TF: Final = int(Eflags.TF)
_IOPL_USER: Final = 3
_TABLE_REGISTER_SIZE: Final = 6
_SIGNATURE_LEAF: Final = 1


Handler = Callable[[Vcpu, Insn, Platform], None]

# --- flags and halting ---------------------------------------------------------------------------------


def pushf(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """PUSHF outside the cache."""
    image = control.pushf_image(vcpu, insn.operand_size)
    push(vcpu, insn.operand_size, image)


def popf(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """POPF outside the cache."""
    if vcpu.is_v86 and vcpu.iopl < _IOPL_USER:
        raise gp()
    size = insn.operand_size
    value = peek_stack(vcpu, size)
    control.popf(vcpu, value, size)
    add_to_stack(vcpu, size)


# --- segments ------------------------------------------------------------------------------------------

_POP_SEGMENT: Final = {0x07: Seg.ES, 0x17: Seg.SS, 0x1F: Seg.DS, 0x0FA1: Seg.FS, 0x0FA9: Seg.GS}
_FAR_LOAD: Final = {0xC4: Seg.ES, 0xC5: Seg.DS, 0x0FB2: Seg.SS, 0x0FB4: Seg.FS, 0x0FB5: Seg.GS}


SEGMENT_LOADS: Final = frozenset(("mov", "pop", "lds", "les", "lfs", "lgs"))


def data_segment_loaded(insn: Insn) -> int | None:
    """Which of ES DS FS GS an instruction of SEGMENT_LOADS loads; None for SS and for other registers."""
    opcode = insn.opcode
    seg = insn.modrm >> 3 & 7 if opcode == 0x8E else _POP_SEGMENT.get(opcode, _FAR_LOAD.get(opcode))
    return None if seg == Seg.SS else seg


def is_quiet_mov(insn: Insn) -> bool:
    """MOV from a control or debug register, or to CR2 or CR3: the mode stays as it is."""
    opcode = insn.opcode
    return opcode in (0x0F20, 0x0F21) or (opcode == 0x0F22 and insn.modrm >> 3 & 7 in (2, 3))


def load_segment(vcpu: Vcpu, seg: int, selector: int) -> None:
    """Load any segment register but CS, in any mode."""
    if seg == Seg.SS:
        segments.load_stack_segment(vcpu, selector)
    else:
        segments.load_data_segment(vcpu, seg, selector)


def mov(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """MOV to a segment register, to and from control and debug registers."""
    reg, rm = insn.modrm >> 3 & 7, insn.modrm & 7
    opcode = insn.opcode
    if opcode == 0x8E:
        if reg == Seg.CS or reg > Seg.GS:
            raise ud()
        load_segment(vcpu, reg, read_rm(vcpu, insn, 2))
        vcpu.interrupt_shadow = reg == Seg.SS
    elif opcode == 0x0F20:
        vcpu.set_reg32(rm, control.mov_from_cr(vcpu, reg))
    elif opcode == 0x0F22:
        control.mov_to_cr(vcpu, reg, vcpu.reg32(rm))
    elif opcode == 0x0F21:
        vcpu.set_reg32(rm, control.mov_from_dr(vcpu, reg))
    elif opcode == 0x0F23:
        control.mov_to_dr(vcpu, reg, vcpu.reg32(rm))
    else:
        raise ud()


def pop(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """POP to a segment register."""
    seg, stack_size = _POP_SEGMENT[insn.opcode], vcpu.stack_size
    load_segment(vcpu, seg, peek_stack(vcpu, insn.operand_size) & 0xFFFF)
    vcpu.interrupt_shadow = seg == Seg.SS
    vcpu.set_reg(Reg.ESP, stack_size, vcpu.reg32(Reg.ESP) + insn.operand_size)  # as wide as the stack popped from


def load_far_pointer(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LDS LES LFS LGS LSS."""
    if insn.is_register_form:
        raise ud()
    selector, offset = read_far_pointer(vcpu, insn, insn.operand_size)
    load_segment(vcpu, _FAR_LOAD[insn.opcode], selector)
    vcpu.set_reg(insn.modrm >> 3 & 7, insn.operand_size, offset)


def lar(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LAR r, r/m16: ZF tells whether the register was written."""
    _load_rights(vcpu, insn, segments.lar)


def lsl(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LSL r, r/m16."""
    _load_rights(vcpu, insn, segments.lsl)


def _load_rights(vcpu: Vcpu, insn: Insn, ask: Callable[[Vcpu, int], int | None]) -> None:
    segments.require_protected(vcpu)
    value = ask(vcpu, read_rm(vcpu, insn, 2))
    _set_zf(vcpu, value is not None)
    if value is not None:
        vcpu.set_reg(insn.modrm >> 3 & 7, insn.operand_size, value)


def verr(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """VERR r/m16."""
    segments.require_protected(vcpu)
    _set_zf(vcpu, segments.verr(vcpu, read_rm(vcpu, insn, 2)))


def verw(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """VERW r/m16."""
    segments.require_protected(vcpu)
    _set_zf(vcpu, segments.verw(vcpu, read_rm(vcpu, insn, 2)))


def arpl(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """ARPL r/m16, r16: an operand that keeps its value is not written, and need not be writable."""
    segments.require_protected(vcpu)
    value, adjusted = segments.arpl(read_rm(vcpu, insn, 2), vcpu.reg(insn.modrm >> 3 & 7, 2))
    if adjusted:
        write_rm(vcpu, insn, 2, value)
    _set_zf(vcpu, adjusted)


def _set_zf(vcpu: Vcpu, on: bool) -> None:
    flags = vcpu.fold_flags()
    vcpu.set_arithmetic(flags | _ZF if on else flags & ~_ZF)


# --- system registers ----------------------------------------------------------------------------------


def lgdt(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LGDT m16&32."""
    _load_table(vcpu, insn, control.lgdt)


def lidt(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LIDT m16&32."""
    _load_table(vcpu, insn, control.lidt)


def _load_table(vcpu: Vcpu, insn: Insn, load: Callable[[Vcpu, int, int, int], None]) -> None:
    if insn.is_register_form:
        raise ud()
    segments.require_cpl0(vcpu)
    at = locate(vcpu, insn.memory, _TABLE_REGISTER_SIZE, False)
    user = vcpu.cpl == 3
    limit = vcpu.memory.read(at, 2, user)
    load(vcpu, vcpu.memory.read(at + 2 & MASK32, 4, user), limit, insn.operand_size)


def store_table(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """SGDT and SIDT outside the cache."""
    if insn.is_register_form:
        raise ud()
    base, limit = vcpu.gdtr if insn.modrm >> 3 & 7 == 0 else vcpu.idtr
    image = limit.to_bytes(2, "little") + base.to_bytes(4, "little")
    vcpu.memory.write_bytes(locate(vcpu, insn.memory, _TABLE_REGISTER_SIZE, True), image, vcpu.cpl == 3)


def smsw(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """SMSW outside the cache."""
    _store_word(vcpu, insn, vcpu.cr0)


def sldt(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """SLDT outside the cache; #UD in real mode and V86."""
    segments.require_protected(vcpu)
    _store_word(vcpu, insn, vcpu.ldtr.selector)


def str_(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """STR outside the cache; #UD in real mode and V86."""
    segments.require_protected(vcpu)
    _store_word(vcpu, insn, vcpu.tr.selector)


def _store_word(vcpu: Vcpu, insn: Insn, value: int) -> None:
    write_rm(vcpu, insn, insn.operand_size if insn.is_register_form else 2, value)


def lldt(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LLDT r/m16."""
    segments.require_protected(vcpu)
    segments.require_cpl0(vcpu)
    segments.lldt(vcpu, read_rm(vcpu, insn, 2))


def ltr(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LTR r/m16."""
    segments.require_protected(vcpu)
    segments.require_cpl0(vcpu)
    segments.ltr(vcpu, read_rm(vcpu, insn, 2))


def lmsw(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """LMSW r/m16."""
    segments.require_cpl0(vcpu)
    control.lmsw(vcpu, read_rm(vcpu, insn, 2))


def invlpg(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """INVLPG m: the address is not accessed, so nothing about it can fault."""
    if insn.is_register_form:
        raise ud()
    segments.require_cpl0(vcpu)
    if vcpu.is_paging:
        vcpu.make_page_stale(linear_address(vcpu, insn.memory))


def cache_control(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """INVD, WBINVD: there is no cache that software could see."""
    segments.require_cpl0(vcpu)


def clflush(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """CLFLUSH m8: there is no cache, but for paging it is a load (SDM Vol. 2A, "CLFLUSH - Flush Cache Line")."""
    vcpu.memory.check_read(locate(vcpu, insn.memory, 1, False), 1, vcpu.cpl == 3)


def cpuid_(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """CPUID."""
    q = vcpu.state.q
    leaf = q[_EAX] & MASK32
    if leaf == _SIGNATURE_LEAF:
        msr.deposit_update_revision(vcpu)
    answer = cpuid.cpuid(leaf, q[_ECX] & MASK32, vcpu.apic)
    cpuid.remember(vcpu, leaf, answer)
    q[_EAX], q[_EBX], q[_ECX], q[_EDX] = answer


def rdtsc(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """RDTSC."""
    value = msr.rdtsc(vcpu, platform.tsc())
    q = vcpu.state.q
    q[_EAX], q[_EDX] = value & MASK32, value >> 32


def rdmsr(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """RDMSR."""
    q = vcpu.state.q
    value = msr.rdmsr(vcpu, q[_ECX] & MASK32, platform.tsc())
    q[_EAX], q[_EDX] = value & MASK32, value >> 32


def wrmsr(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """WRMSR."""
    q = vcpu.state.q
    value = (q[_EDX] & MASK32) << 32 | q[_EAX] & MASK32
    msr.wrmsr(vcpu, q[_ECX] & MASK32, value, platform.tsc())
    cpuid.forget(vcpu)


def rdpmc(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """RDPMC."""
    msr.rdpmc(vcpu, vcpu.reg32(Reg.ECX))


# --- far transfers and interrupts ----------------------------------------------------------------------


def far_branch(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """JMP and CALL: ptr16:16, ptr16:32, m16:16, m16:32."""
    size, eip = insn.operand_size, insn.next_eip
    if insn.opcode in (0xEA, 0x9A):
        offset = int.from_bytes(insn.tail[:size], "little")
        selector = int.from_bytes(insn.tail[size : size + 2], "little")
        is_jump = insn.opcode == 0xEA
    else:
        if insn.is_register_form:
            raise ud()
        selector, offset = read_far_pointer(vcpu, insn, size)
        is_jump = insn.modrm >> 3 & 7 == 5
    (transfers.far_jump if is_jump else transfers.far_call)(vcpu, selector, offset, size, eip)


def retf(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """RETF, RETF imm16."""
    release = int.from_bytes(insn.tail[:2], "little") if insn.opcode == 0xCA else 0
    transfers.far_return(vcpu, insn.operand_size, release)


def iret_(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """IRET, IRETD."""
    iret.iret(vcpu, insn.operand_size, insn.next_eip)


def int_(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """INT n, INT3, INTO, INT1."""
    opcode = insn.opcode
    if opcode == 0xCE:
        if vcpu.fold_flags() & _OF:
            _software(vcpu, insn, Vector.OF, EventKind.BREAKPOINT)
    elif opcode == 0xCC:
        _software(vcpu, insn, Vector.BP, EventKind.BREAKPOINT)
    elif opcode == 0xF1:
        if vcpu.pending_debug:  # from MOV SS: one #DB for both
            vcpu.show_pending_debug()
        _software(vcpu, insn, Vector.DB, EventKind.TRAP)
    else:
        _software(vcpu, insn, insn.tail[0], EventKind.SOFTWARE)


def _software(vcpu: Vcpu, insn: Insn, vector: int, kind: EventKind) -> None:
    vcpu.eip = insn.eip
    events.deliver(vcpu, vector, kind=kind, return_eip=insn.next_eip)


def hlt(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """HLT."""
    control.hlt(vcpu)


def undefined(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """UD2 and everything that this processor does not have."""
    raise ud()


def overlong(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """An instruction of more than 15 bytes (SDM Vol. 3A, "Interrupt 13 - General Protection Exception (#GP)")."""
    raise gp()


def _plain(semantics: Callable[[Vcpu], None]) -> Handler:
    def handler(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
        semantics(vcpu)

    return handler


HANDLERS: Final[Mapping[str, Handler]] = {
    OVERLONG: overlong,
    "arpl": arpl,
    "call": far_branch,
    "clflush": clflush,
    "cli": _plain(control.cli),
    "clts": _plain(control.clts),
    "cpuid": cpuid_,
    "enter": enter,
    "hlt": hlt,
    "in": in_,
    "insb": ins,
    "insd": ins,
    "insw": ins,
    "int": int_,
    "int1": int_,
    "int3": int_,
    "into": int_,
    "invd": cache_control,
    "invlpg": invlpg,
    "iret": iret_,
    "iretd": iret_,
    "jmp": far_branch,
    "lar": lar,
    "lcall": far_branch,
    "lds": load_far_pointer,
    "les": load_far_pointer,
    "lfs": load_far_pointer,
    "lgdt": lgdt,
    "lgs": load_far_pointer,
    "lidt": lidt,
    "ljmp": far_branch,
    "lldt": lldt,
    "lmsw": lmsw,
    "lsl": lsl,
    "lss": load_far_pointer,
    "ltr": ltr,
    "mov": mov,
    "out": out,
    "outsb": outs,
    "outsd": outs,
    "outsw": outs,
    "pop": pop,
    "popf": popf,
    "popfd": popf,
    "pushf": pushf,
    "pushfd": pushf,
    "rdmsr": rdmsr,
    "rdpmc": rdpmc,
    "rdtsc": rdtsc,
    "retf": retf,
    "sgdt": store_table,
    "sidt": store_table,
    "sldt": sldt,
    "smsw": smsw,
    "sti": _plain(control.sti),
    "str": str_,
    "sysenter": _plain(fast_calls.sysenter),
    "sysexit": _plain(fast_calls.sysexit),
    "verr": verr,
    "verw": verw,
    "wbinvd": cache_control,
    "wrmsr": wrmsr,
}
"""By mnemonic; what is not here is #UD."""

QUIET: Final = frozenset(
    [
        "arpl",
        "clflush",
        "cpuid",
        "enter",
        "in",
        "insb",
        "insd",
        "insw",
        "invlpg",
        "lar",
        "lidt",
        "lsl",
        "out",
        "outsb",
        "outsd",
        "outsw",
        "rdmsr",
        "rdpmc",
        "rdtsc",
        "sgdt",
        "sidt",
        "sldt",
        "smsw",
        "str",
        "verr",
        "verw",
        "wbinvd",
    ]
)
"""They change no mode, segment, privilege or control register: the physical CPU needs nothing but the registers."""


def hides_trap(name: str, vcpu: Vcpu) -> bool:
    """Does the instruction `name`, carried out under TF, end without the single-step trap?

    INT n that entered its handler has cleared TF; a load of SS holds the trap until the next instruction is done
    (SDM Vol. 3B, "Single-Step Exception Condition"; Vol. 2B, "MOV - Move"). STI's shadow holds back interrupts alone.
    """
    return (name.startswith("int") and not vcpu.field_flags & _TF) or (vcpu.interrupt_shadow and name != "sti")


def finish_inline(vcpu: Vcpu, insn: Insn, scratch: int) -> None:
    """The rest of an inline sequence that needs the VMM: POPF with its value, popped already; STI, IF set already."""
    if insn.mnemonic.startswith("popf"):
        control.popf(vcpu, scratch, insn.operand_size)
    else:
        vcpu.interrupt_shadow = True


class Plan(NamedTuple):
    """How an instruction is carried out, as far as its bytes decide.

    `is_quiet`: it changes no mode, so the code behind it follows in the same block, unless `ends_block`. `segment`: of
    ES DS FS GS the one that it loads.
    """

    insn: Insn
    name: str
    handler: Handler
    is_quiet: bool
    ends_block: bool
    segment: int | None


def _arithmetic(name: str) -> Handler:
    """What carries out an instruction that comes here only now and then."""
    return x87 if name in X87 else simd_error if name in SIMD else undefined


def plan(insn: Insn) -> Plan:
    """Work out how to carry an instruction out."""
    name = insn.name
    is_quiet = name in QUIET or (name == "mov" and is_quiet_mov(insn))
    segment = data_segment_loaded(insn) if name in SEGMENT_LOADS and not is_quiet else None
    handler = undefined if misplaces_lock(insn) else HANDLERS.get(name) or _arithmetic(name)
    return Plan(insn, name, handler, is_quiet, name in ENDS_BLOCK, segment)
