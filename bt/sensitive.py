"""The sensitive instructions that stay in the cache, and what decides whether they can.

Each function turns one instruction into code on the vCPU page. EFLAGS: the physical register holds the arithmetic
flags and DF, and nothing else that matters; IF is in Slot.IF, and IOPL, NT, AC and ID are in Slot.FLAGS. In physical
V86 the real IOPL is 3, so that our `int` passes; it and VM have to be taken out of a PUSHF image again.
"""

from typing import Final

from bt.branches import dispatch
from bt.decode import Insn
from bt.emit import FLAGS, S0, S1, S3, S4, STORES, Emitter, SiteKind
from bt.guest import Mode
from bt.segment_classes import SegmentClass
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Eflags, Reg, Seg

_PHYS_FLAGS_V86: Final = int(Eflags.IOPL | Eflags.VM)
"""What PUSHFD shows in physical V86 besides the guest's flags: the engine does not mask VM there."""
_PAGE_FLAGS_16: Final = int(Eflags.IOPL | Eflags.NT)
_PAGE_FLAGS_HIGH: Final = int(Eflags.AC | Eflags.ID)
_SUSPICIOUS_USER: Final = int(Eflags.TF | Eflags.NT | Eflags.AC | Eflags.ID)

# --- PUSHF, POPF ---------------------------------------------------------------------------------------

_PUSHF: Final = """
    mov dword ptr cs:[{S0}], ecx
    mov dword ptr cs:[{S1}], edx
    %(pushf)s
    %(pop)s
    mov edx, dword ptr cs:[{IF}]
    lea ecx, [ecx + edx]
    mov edx, dword ptr cs:[{FLAGS}]
    lea ecx, [ecx + edx + {bias}]
    %(push)s
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
"""
_STACK_OPS: Final = {
    4: {"pushf": "pushfd", "pop": "pop ecx", "push": "push ecx"},
    2: {"pushf": "pushf", "pop": "pop cx", "push": "push cx"},
}

# MOV between EAX and a plain address has a form of its own (A0-A3) that Keystone chooses with a 16-bit offset in 16-bit
# code: EAX never meets memory here.
_POPF_TAKE: Final = """
    mov dword ptr cs:[{S0}], ecx
    mov dword ptr cs:[{S1}], edx
    %(pop)s
"""
_POPF_KERNEL_32: Final = "mov edx, ecx; and edx, 0x247000"
_POPF_KERNEL_16: Final = """
    mov edx, dword ptr cs:[{FLAGS}]
    and edx, 0x240000
    and ecx, 0x7fff
    mov dword ptr cs:[{S2}], ecx
    and ecx, 0x7000
    or edx, ecx
    mov ecx, dword ptr cs:[{S2}]
"""
_IF_FROM_ECX: Final = """
    mov edx, ecx
    and edx, 0x200
    {o} je masked
    cmp dword ptr cs:[{PENDING}], 0
    {o} jne slow
masked:
    mov dword ptr cs:[{IF}], edx
"""
"""With an interrupt pending that it would let in: to the label `slow`."""
_DIRECTION_FROM_ECX: Final = """
    cld
    test ecx, 0x400
    {o} je upward
    std
upward:
"""
_ARITHMETIC_FROM_ECX: Final = """
    mov eax, ecx
    shr eax, 11
    and al, 1
    add al, 0x7f
    mov ah, cl
    sahf
"""
"""OF by an addition that overflows, the others by SAHF; EAX is lost."""
_POPF_KERNEL: Final = f"""
    test ecx, 0x100
    {{o}} jne slow
    {_IF_FROM_ECX}
    %(rest)s
    mov dword ptr cs:[{{FLAGS}}], edx
"""
_POPF_USER: Final = """
    mov edx, dword ptr cs:[{FLAGS}]
    and edx, {kept}
    xor edx, ecx
    test edx, {suspicious}
    {o} jne slow
"""
_POPF_ARITHMETIC: Final = (
    _DIRECTION_FROM_ECX
    + "mov edx, eax"
    + _ARITHMETIC_FROM_ECX
    + """
    mov eax, edx
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
    {o} jmp done
slow:
    mov dword ptr cs:[{S2}], ecx
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
    int 0x40
"""
)


def pushf(emit: Emitter, insn: Insn) -> None:
    """PUSHF, PUSHFD: the physical image plus what the vCPU page holds; no carry, the bits are disjoint.

    Source: SDM Vol. 2B, "PUSHF/PUSHFD - Push EFLAGS Register onto the Stack". In V86 with IOPL < 3 it is #GP(0).
    """
    if emit.context.mode is Mode.V86:
        emit.callout()
        return
    bias = -_PHYS_FLAGS_V86 if emit.context.mode is Mode.REAL else 0
    emit.emit(_PUSHF % _STACK_OPS[insn.operand_size], bias=bias)


def popf(emit: Emitter, insn: Insn) -> None:
    """POPF, POPFD: split the image. TF, or IF with an interrupt pending, finishes in the VMM with the value in S2.

    At CPL 3 only the arithmetic flags and DF change here; a change of any other bit that CPL 3 may change finishes in
    the VMM. OF is made by an addition that overflows, the others by SAHF: the stack is read once and never written.
    Source: SDM Vol. 2B, "POPF/POPFD - Pop Stack into EFLAGS Register".
    """
    context = emit.context
    if context.mode is Mode.V86 or context.cpl in (1, 2) or (context.is_user and context.iopl3):
        emit.callout()
        return
    emit.emit(_POPF_TAKE % _STACK_OPS[insn.operand_size])
    emit.mark((Reg.ECX, S0), (Reg.EDX, S1))
    if context.is_own_kernel:
        rest = _POPF_KERNEL_32 if insn.operand_size == 4 else _POPF_KERNEL_16
        body = _POPF_KERNEL % {"rest": rest}
        values = {}
    else:
        suspicious = _SUSPICIOUS_USER & (0xFFFF_FFFF if insn.operand_size == 4 else 0xFFFF)
        body, values = _POPF_USER, {"kept": suspicious, "suspicious": suspicious}
    emit.emit(body + _POPF_ARITHMETIC + "done:", **values)
    emit.site_here(SiteKind.FINISH)


# --- CLI, STI ------------------------------------------------------------------------------------------

_CLI: Final = "mov dword ptr cs:[{IF}], 0"
_STI: Final = """
    mov dword ptr cs:[{IF}], 0x200
    mov dword ptr cs:[{S0}], ecx
    mov ecx, dword ptr cs:[{PENDING}]
    {o} jecxz none
    mov ecx, dword ptr cs:[{S0}]
    int 0x40
"""


def cli(emit: Emitter, insn: Insn) -> None:
    """CLI: clear the virtual IF. Outside CPL 0 the VMM decides (SDM Vol. 2A, "CLI - Clear Interrupt Flag")."""
    if emit.context.is_own_kernel:
        emit.emit(_CLI)
    else:
        emit.callout()


def sti(emit: Emitter, insn: Insn) -> None:
    """STI: set the virtual IF; if an interrupt waits, finish in the VMM, which runs one more instruction first.

    Source: SDM Vol. 2B, "STI - Set Interrupt Flag".
    """
    emit.shadow_next = True
    if not emit.context.is_own_kernel:
        emit.callout()
        return
    emit.emit(_STI + "none:")
    emit.site_here(SiteKind.FINISH)
    emit.emit("mov ecx, dword ptr cs:[{S0}]")


# --- reading system registers --------------------------------------------------------------------------

_STORE_OPEN: Final = "mov dword ptr cs:[{S0}], ecx"
_STORE_CLOSE: Final = "mov edx, dword ptr cs:[{S1}]\nmov ecx, dword ptr cs:[{S0}]"
_RM_DISP32: Final = 5
_SEGMENT_NAMES: Final = ("es", "cs", "ss", "ds", "fs", "gs")


def lea_ecx(emit: Emitter, insn: Insn) -> str:
    """Compute the operand's offset into ECX, wrapped as its address size says; returns its segment's name."""
    memory = insn.memory
    operand = b"" if emit.context.code32 else b"\x66"
    address = b"" if emit.context.code32 == (memory.address_size == 4) else b"\x67"
    emit.raw(operand + address + b"\x8d" + memory.with_reg(Reg.ECX))
    return _SEGMENT_NAMES[memory.segment]


def _store_words(emit: Emitter, insn: Insn, *words: tuple[Slot, int]) -> None:
    """Store words of the vCPU page at the memory operand, one behind the other; a fault restores ECX and EDX.

    Nothing is stored if any of it faults: with two words, the place of the first is tried, then the second is stored.
    NOT twice needs the rights of a store and changes nothing, no flag either.
    """
    emit.emit(_STORE_OPEN)
    segment = lea_ecx(emit, insn)
    emit.emit("mov dword ptr cs:[{S1}], edx")
    if len(words) > 1:
        emit.mark((Reg.ECX, S0), (STORES, S0))
        emit.emit(f"not word ptr {segment}:[ecx]\nnot word ptr {segment}:[ecx]")
    offset = sum(size for _, size in words)
    for slot, size in reversed(words):
        offset -= size
        emit.emit(f"mov edx, dword ptr cs:[{{{slot.name}}}]")
        emit.mark((Reg.ECX, S0), (Reg.EDX, S1))
        register, width = ("edx", "dword") if size == 4 else ("dx", "word")
        emit.emit(f"mov {width} ptr {segment}:[ecx + {offset}], {register}")
    emit.emit(_STORE_CLOSE)


def _load_register(emit: Emitter, reg: int, slot: Slot, size: int) -> None:
    """MOV r16 or r32 from a word of the vCPU page; leaves the flags alone. ModR/M form: see the note on EAX above."""
    code32 = emit.context.code32
    operand = b"" if code32 == (size == 4) else b"\x66"
    address = b"" if code32 else b"\x67"
    offset = emit.window.slot(slot).to_bytes(4, "little")
    emit.raw(b"\x2e" + address + operand + b"\x8b" + bytes([reg << 3 | _RM_DISP32]) + offset)


def _store_selector(emit: Emitter, insn: Insn, slot: Slot) -> None:
    """The form that SMSW, SLDT and STR share: r16, r32 (the whole word), m16."""
    if insn.is_register_form:
        _load_register(emit, insn.modrm & 7, slot, insn.operand_size)
    else:
        _store_words(emit, insn, (slot, 2))


def smsw(emit: Emitter, insn: Insn) -> None:
    """SMSW r16 | r32 | m16: store the machine status word. Run natively it would show the physical CR0.

    r32: bits 31:16 are undefined outside 64-bit mode; processors store CR0[31:16], and so do we.
    Source: SDM Vol. 2B, "SMSW - Store Machine Status Word".
    """
    _store_selector(emit, insn, Slot.CR0)


def sldt(emit: Emitter, insn: Insn) -> None:
    """SLDT r16 | r32 | m16; #UD in real mode and V86 (SDM Vol. 2B, "SLDT - Store Local Descriptor Table Register")."""
    if emit.context.mode is Mode.PROTECTED:
        _store_selector(emit, insn, Slot.LDTR)
    else:
        emit.callout()


def store_task_register(emit: Emitter, insn: Insn) -> None:
    """STR r16 | r32 | m16; #UD in real mode and V86 (SDM Vol. 2B, "STR - Store Task Register")."""
    if emit.context.mode is Mode.PROTECTED:
        _store_selector(emit, insn, Slot.TR)
    else:
        emit.callout()


def sgdt(emit: Emitter, insn: Insn) -> None:
    """SGDT m: limit, then all 32 bits of the base whatever the operand size, as P6 processors store them.

    Source: SDM Vol. 2B, "SGDT - Store Global Descriptor Table Register".
    """
    _store_words(emit, insn, (Slot.GDT_LIMIT, 2), (Slot.GDT_BASE, 4))


def sidt(emit: Emitter, insn: Insn) -> None:
    """SIDT m: as SGDT (SDM Vol. 2B, "SIDT - Store Interrupt Descriptor Table Register")."""
    _store_words(emit, insn, (Slot.IDT_LIMIT, 2), (Slot.IDT_BASE, 4))


_CR_SLOTS: Final = {0: Slot.CR0, 2: Slot.CR2, 3: Slot.CR3, 4: Slot.CR4}


def move_from_control(emit: Emitter, insn: Insn) -> None:
    """MOV r32, CR0 | CR2 | CR3 | CR4 (SDM Vol. 2B, "MOV - Move to/from Control Registers"); mod is ignored."""
    slot = _CR_SLOTS.get(insn.modrm >> 3 & 7)
    if slot is None or not emit.context.is_own_kernel:
        emit.callout()
    else:
        _load_register(emit, insn.modrm & 7, slot, 4)


# --- INVLPG --------------------------------------------------------------------------------------------

_INVLPG: Final = """
    mov dword ptr cs:[{S1}], edx
    mov edx, eax
    lahf
    seto al
    shr ecx, 12
    cmp byte ptr cs:[ecx + {shadowed}], 0
    {o} jne slow
    cmp dword ptr cs:[{BASED}], 0
    {o} jne slow
    %(back)s
    {o} jmp done
slow:
    %(back)s
    int 0x40
done:
"""
_FLAGS_AND_EAX: Final = """
    add al, 0x7f
    sahf
    mov eax, edx
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
"""
_FLAT: Final = (Seg.ES, Seg.SS, Seg.DS)


def invlpg(emit: Emitter, insn: Insn) -> None:
    """INVLPG m: nothing to do if no translation of the page is in the shadow tables; else the VMM drops it.

    Source: SDM Vol. 2A, "INVLPG - Invalidate TLB Entries".
    """
    context = emit.context
    if context.mode is not Mode.PROTECTED or context.cpl or insn.is_register_form or insn.memory.segment not in _FLAT:
        emit.callout()
        return
    emit.emit(_STORE_OPEN)
    lea_ecx(emit, insn)
    shadowed = emit.window.shadowed - emit.window.cs_base
    emit.emit(_INVLPG % {"back": _FLAGS_AND_EAX}, shadowed=shadowed)
    emit.site_here(SiteKind.CALLOUT)


# --- IRETD ---------------------------------------------------------------------------------------------

_IRET_OPEN: Final = """
    mov dword ptr cs:[{S0}], ecx
    mov dword ptr cs:[{S1}], edx
    mov dword ptr cs:[{S3}], eax
"""
_IRET_FLAGS: Final = """
    lahf
    seto al
    mov dword ptr cs:[{S4}], eax
"""
_IRET: Final = f"""
    test dword ptr cs:[{{FLAGS}}], 0x4000
    jne slow
    mov eax, dword ptr ss:[esp]
    mov dword ptr cs:[{{S2}}], eax
    movzx edx, word ptr ss:[esp + 4]
    mov ecx, dword ptr ss:[esp + 8]
    cmp edx, dword ptr cs:[{{CS}}]
    jne slow
    mov eax, dword ptr cs:[{{GDT_BASE}}]
    lea edx, [eax + edx]
    mov eax, dword ptr cs:[edx + {{flat}}]
    cmp eax, dword ptr cs:[{{CS_LOW}}]
    jne slow
    mov eax, dword ptr cs:[edx + {{flat_high}}]
    cmp eax, dword ptr cs:[{{CS_HIGH}}]
    jne slow
    test ecx, 0x1b4100
    jne slow
    {_IF_FROM_ECX}
    mov edx, ecx
    and edx, 0x243000
    mov dword ptr cs:[{{FLAGS}}], edx
    lea esp, [esp + 12]
    {_DIRECTION_FROM_ECX}
    {_ARITHMETIC_FROM_ECX}
    mov eax, dword ptr cs:[{{S3}}]
    mov edx, dword ptr cs:[{{S1}}]
    mov ecx, dword ptr cs:[{{S2}}]
    jmp done
slow:
    mov eax, dword ptr cs:[{{S4}}]
    add al, 0x7f
    sahf
    mov eax, dword ptr cs:[{{S3}}]
    mov edx, dword ptr cs:[{{S1}}]
    mov ecx, dword ptr cs:[{{S0}}]
    int 0x40
"""


def iretd(emit: Emitter, insn: Insn) -> None:
    """IRETD inside ring 0 to the code segment that is loaded: the frame's CS and its descriptor are what CS came from.

    TF, NT, RF, VM or a pending interrupt in the new EFLAGS, a virtual NT, and any other CS are for the VMM. All that
    may fault is read before anything changes, and the GDT only where that CS has its descriptor, as processors do. On
    a stack or to a code segment with a limit it is the VMM's, too.
    Source: SDM Vol. 2A, "IRET/IRETD - Interrupt Return", RETURN-TO-SAME-PRIVILEGE-LEVEL.
    """
    context = emit.context
    is_32 = context.is_flat_kernel and insn.operand_size == 4
    if not is_32 or context.segments[Seg.SS] is not SegmentClass.FLAT or context.code_limit != MASK32:
        emit.callout()
        return
    emit.emit(_IRET_OPEN)
    emit.mark((Reg.ECX, S0), (Reg.EDX, S1), (Reg.EAX, S3))
    emit.emit(_IRET_FLAGS)
    emit.mark((Reg.ECX, S0), (Reg.EDX, S1), (Reg.EAX, S3), (FLAGS, S4))
    base = -emit.window.cs_base
    emit.emit(_IRET + "done:", flat=base, flat_high=base + 4)
    emit.site_here(SiteKind.CALLOUT)
    dispatch(emit, insn.operand_size)
