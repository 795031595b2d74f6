"""The critical instructions, form by form: what each is run with, and what the SDM says that it shows.

The seventeen of Robin and Irvine (eighteen mnemonics) and IRET. Source of what is expected: Intel SDM Vol. 2, each
instruction's "Description" and "Operation"; the state it is computed from is the setting's.
"""

from collections.abc import Iterator
from typing import Final

from vmm.arch.registers import Eflags, Seg
from vmm.lab import setting as at
from vmm.lab.machine import LabMachine
from vmm.lab.program import Case, Observer, Program
from vmm.lab.setting import Setting

_UPPER: Final = 0xFFFF_0000
_ONES: Final = 0xFFFF_FFFF
_UD: Final = "#UD"
_SIZES: Final = (2, 4)
_ACCESS: Final = 0x00F0_FF00
"""What LAR shows of dword 1; bits 19:16 are undefined."""
_EAX, _ECX = 0, 1


def _result(size: int) -> Observer:
    """The value that the program stored."""
    return lambda machine: f"{machine.result(size):0{2 * size}X}"


def store_tables(s: Setting) -> Iterator[Case]:
    """SGDT, SIDT: base and limit of the guest's own table."""

    def observe(machine: LabMachine) -> str:
        return f"limit {machine.result(2):04X} base {machine.result(4, 2):08X}"

    for reg, name, (base, limit) in ((0, "SGDT", s.gdtr), (1, "SIDT", s.idtr)):
        code = Program(s).memory("0f01", reg, at.RESULT).code
        yield Case(name, "m16&32", s, code, f"limit {limit:04X} base {base:08X}", observe)


def store_words(s: Setting) -> Iterator[Case]:
    """SLDT, STR, SMSW. The first two are #UD in real mode and V86. SMSW r32: bits 31:16 are undefined."""
    for name, opcode, reg, value in (
        ("SLDT", "0f00", 0, at.MAIN_LDT), ("STR", "0f00", 1, at.MAIN_TSS), ("SMSW", "0f01", 4, s.cr0 & 0xFFFF)
    ):  # fmt: skip
        is_there = s.code32 or name == "SMSW"
        ones = {"eax": _ONES}
        word = Program(s).register(opcode, reg, _EAX, 2).store_eax().code
        yield Case(name, "r16", s, word, f"{_UPPER | value:08X}" if is_there else _UD, _result(4), registers=ones)
        wide = Program(s).register(opcode, reg, _EAX, 4).store_eax().code
        size, shown = (2, f"{value:04X}") if name == "SMSW" else (4, f"{value:08X}")
        yield Case(name, "r32", s, wide, shown if is_there else _UD, _result(size), registers=ones)
        memory = Program(s).memory(opcode, reg, at.RESULT).code
        yield Case(name, "m16", s, memory, f"{value:04X}" if is_there else _UD, _result(2))


_NOT_PUSHED: Final = int(Eflags.VM | Eflags.RF)
_IF_BIT: Final = int(Eflags.IF)
_IOPL_BITS: Final = int(Eflags.IOPL)
_NEW_FLAGS: Final = int(Eflags.ONE | Eflags.CF | Eflags.SF) | 1 << 12
"""What POPF and IRET bring: other arithmetic flags, IOPL 1, and IF the other way round."""


def flags_image(s: Setting) -> int:
    """The image that POPF and IRET take from the stack."""
    return _NEW_FLAGS | (s.eflags & _IF_BIT ^ _IF_BIT)


def flags_taken(s: Setting) -> int:
    """EFLAGS after POPF or IRET of the image: IOPL changes at CPL 0 alone, IF where CPL is not above IOPL."""
    kept = (0 if s.ring == 0 else _IOPL_BITS) | (0 if s.ring <= s.iopl else _IF_BIT)
    return flags_image(s) & ~kept | s.eflags & (kept | int(Eflags.VM))


def _eflags(machine: LabMachine) -> str:
    return f"{machine.vcpu.eflags & ~int(Eflags.RF):08X}"


def flags_on_the_stack(s: Setting) -> Iterator[Case]:
    """PUSHF, POPF."""
    for size in _SIZES:
        form = f"{8 * size}-bit"
        push = Program(s).op("9c", size).pop_eax(size).store_eax().code
        shown = s.eflags & ~_NOT_PUSHED & (1 << 8 * size) - 1
        yield Case("PUSHF", form, s, push, f"{shown:0{2 * size}X}", _result(size))
        pop = Program(s).push(flags_image(s), size).op("9d", size).code
        yield Case("POPF", form, s, pop, f"{flags_taken(s):08X}", _eflags)


def _zf_and_eax(mask: int) -> Observer:
    return lambda machine: f"ZF {machine.result(1, 4)} {machine.result(4) & mask:08X}"


def _zf(machine: LabMachine) -> str:
    return f"ZF {machine.result(1, 4)}"


def look_up_rights(s: Setting) -> Iterator[Case]:
    """LAR, LSL. In ring 0 LAR looks at the kernel's data, LSL at the TSS; in ring 3 at a conforming code segment, which
    every ring may see, and at the user's own data.
    """
    lar = (at.CONFORMING, at.CONFORMING_ACCESS) if s.ring else (at.KERNEL_DATA, at.DATA_ACCESS)
    lsl = (at.USER_DATA, _ONES) if s.ring else (at.MAIN_TSS, at.TSS_LIMIT)
    for name, opcode, (selector, value), mask in (("LAR", "0f02", lar, _ACCESS), ("LSL", "0f03", lsl, _ONES)):
        for size in _SIZES:
            shown = f"ZF 1 {value & mask & (1 << 8 * size) - 1:08X}" if s.code32 else _UD
            code = Program(s).register(opcode, _EAX, _ECX, size).store_zf().store_eax().code
            observe = _zf_and_eax(mask)
            registers = {"ecx": selector}
            yield Case(name, f"r{8 * size}, r{8 * size}", s, code, shown, observe, registers=registers)
            code = Program(s).memory(opcode, _EAX, at.OPERAND, size).store_zf().store_eax().code
            memory = {at.DATA + at.OPERAND: at.word(selector, 2)}
            yield Case(name, f"r{8 * size}, m16", s, code, shown, observe, memory)


def verify_rights(s: Setting) -> Iterator[Case]:
    """VERR, VERW. In ring 0 on behalf of ring 1, whose the kernel's data are not: DPL 0 is below RPL 1. In ring 3 VERR
    looks at a conforming segment, which is readable, VERW at the kernel's data.
    """
    kernels_data = at.KERNEL_DATA | (3 if s.ring else 1)
    for name, reg, selector, is_allowed in (
        ("VERR", 4, at.CONFORMING if s.ring else kernels_data, s.ring == 3), ("VERW", 5, kernels_data, False)
    ):  # fmt: skip
        shown = f"ZF {int(is_allowed)}" if s.code32 else _UD
        registers = {"ecx": selector, "eflags": s.eflags ^ (int(Eflags.ZF) if is_allowed else 0)}
        code = Program(s).register("0f00", reg, _ECX).store_zf().code
        yield Case(name, "r16", s, code, shown, _zf, registers=registers)
        code = Program(s).memory("0f00", reg, at.OPERAND).store_zf().code
        memory = {at.DATA + at.OPERAND: at.word(selector, 2)}
        yield Case(name, "m16", s, code, shown, _zf, memory, {"eflags": registers["eflags"]})


_PUSHES: Final = {Seg.CS: "0e", Seg.SS: "16", Seg.DS: "1e", Seg.ES: "06", Seg.FS: "0fa0", Seg.GS: "0fa8"}
_POPS: Final = {Seg.SS: "17", Seg.DS: "1f", Seg.ES: "07", Seg.FS: "0fa1", Seg.GS: "0fa9"}


def read_segments(s: Setting) -> Iterator[Case]:
    """PUSH and MOV from a segment register: the selector, RPL included. Bits 31:16 differ between processors."""
    for seg, opcode in _PUSHES.items():
        shown = f"{s.segments[seg].selector:04X}"
        for size in _SIZES:
            code = Program(s).op(opcode, size).pop_eax(size).store_eax().code
            yield Case("PUSH", f"{seg.name}, {8 * size}-bit", s, code, shown, _result(2))
        for size in _SIZES:
            code = Program(s).register("8c", seg, _EAX, size).store_eax().code
            yield Case("MOV", f"r{8 * size}, {seg.name}", s, code, shown, _result(2))
        code = Program(s).memory("8c", seg, at.RESULT).code
        yield Case("MOV", f"m16, {seg.name}", s, code, shown, _result(2))


def _segment(seg: Seg) -> Observer:
    return lambda machine: f"{machine.vcpu.selector(seg):04X} base {machine.vcpu.base(seg):08X}"


def write_segments(s: Setting) -> Iterator[Case]:
    """POP and MOV to a segment register: another segment that the ring may have."""
    if s.code32:
        selector, base = at.OTHER_USER_DATA if s.ring else at.OTHER_KERNEL_DATA, 0
    else:
        selector, base = at.DATA + 0x100 >> 4, at.DATA + 0x100
    shown = f"{selector:04X} base {base:08X}"
    for seg, opcode in _POPS.items():
        for size in _SIZES:
            code = Program(s).push(selector, size).op(opcode, size).op("90").code
            yield Case("POP", f"{seg.name}, {8 * size}-bit", s, code, shown, _segment(seg))
        code = Program(s).register("8e", seg, _ECX).op("90").code
        yield Case("MOV", f"{seg.name}, r16", s, code, shown, _segment(seg), registers={"ecx": selector})
        code = Program(s).memory("8e", seg, at.OPERAND).op("90").code
        memory = {at.DATA + at.OPERAND: at.word(selector, 2)}
        yield Case("MOV", f"{seg.name}, m16", s, code, shown, _segment(seg), memory)
