"""Is the engine below the one that was measured? Checked on a small engine of its own, in about two milliseconds.

The layout in `vmm.hw.state` is no interface of Unicorn's: it is where its structures happened to lie when we looked. So
before a physical CPU is trusted, sentinels go in through the public interface and must be found where the layout says;
then code runs at CPL 3, entered by writing the layout's fields, to a page fault and an `int`, and what the engine
leaves in its state there must be what the SDM and the layout say together.

Limits: an engine that moves a field which has the same value everywhere goes unseen; `tests/hw` looks closer.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Final

import unicorn
from unicorn import unicorn_const as uc_const
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr0, Cr4, Eflags, Seg
from vmm.errors import EngineMismatch
from vmm.hw import state as hw
from vmm.hw.state import CpuState

_GENERAL: Final = (
    x86.UC_X86_REG_EAX, x86.UC_X86_REG_ECX, x86.UC_X86_REG_EDX, x86.UC_X86_REG_EBX,
    x86.UC_X86_REG_ESP, x86.UC_X86_REG_EBP, x86.UC_X86_REG_ESI, x86.UC_X86_REG_EDI,
)  # fmt: skip
_SEGMENTS: Final = {
    Seg.ES: x86.UC_X86_REG_ES, Seg.CS: x86.UC_X86_REG_CS, Seg.SS: x86.UC_X86_REG_SS,
    Seg.DS: x86.UC_X86_REG_DS, Seg.FS: x86.UC_X86_REG_FS, Seg.GS: x86.UC_X86_REG_GS,
}  # fmt: skip
_EFER: Final = 0xC000_0080
_EFER_NXE: Final = 1 << 11
_VM_HSAVE_PA: Final = 0xC001_0117
_SENTINEL: Final = 0x5A10_0000

# A page directory, a page table, and code: three pages, mapped at their own addresses.
_DIRECTORY, _TABLE, _CODE = range(0, 3 * PAGE_SIZE, PAGE_SIZE)
_READ_ONLY: Final = _CODE  # the code page is the page that the code may not write
_RAM_SIZE: Final = 4 * PAGE_SIZE
_ADD: Final = b"\x01\xc8"  # add eax, ecx
_PROBE: Final = (
    _ADD + b"\xfd" + b"\xa3" + _READ_ONLY.to_bytes(4, "little") + b"\xcd\x41"
)  # std; mov [...], eax; int 41h
_AFTER_STORE: Final = _CODE + len(_PROBE) - 2
_INT_VECTOR: Final = 0x41
_FAULT_CODE: Final = int(PageFault.P | PageFault.W | PageFault.U)
_EAX, _ECX = 0x1111_2222, 0x3333_4444
_CC_OP_ADDL: Final = 8  # the lazy flags are those of a 32-bit ADD with result cc_dst and source cc_src
_TCG_BUFFER: Final = 1 << 20


def check_layout() -> None:
    """Raises: EngineMismatch naming the engine's version and the first field that is not where the layout has it."""
    try:
        _check()
    except unicorn.UcError as error:
        raise EngineMismatch(f"unicorn {unicorn.__version__} refuses what calibration asks of it: {error}") from error


def _check() -> None:
    engine = unicorn.Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_32)
    engine.ctl_set_tcg_buffer_size(_TCG_BUFFER)
    engine.mem_map(0, _RAM_SIZE)
    context = engine.context_save()
    address = context.context.value
    _expect("the size of the saved state", ctypes.c_uint64.from_address(address).value, hw.STATE_SIZE)
    _expect("the size of the saved context", uclib.uc_context_size(engine._uch), hw.HEADER + hw.STATE_SIZE)
    blob = (ctypes.c_ubyte * hw.STATE_SIZE).from_address(address + hw.HEADER)
    state = CpuState(memoryview(blob))

    def save() -> None:
        engine.context_update(context)

    _check_registers(engine, state, save)
    _check_system_registers(engine, state, save)
    _check_fpu(engine, state, save)
    _check_exceptions(engine, state, context)


def _expect(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise EngineMismatch(
            f"unicorn {unicorn.__version__}: {name} is {found:#x} where {expected:#x} was expected; "
            "its processor state is laid out differently from the one that this program was written for"
        )


def _expect_bytes(name: str, state: CpuState, at: int, expected: bytes) -> None:
    found = bytes(state.buffer[at : at + len(expected)])
    _expect(f"{name} (offset {at})", int.from_bytes(found, "little"), int.from_bytes(expected, "little"))


def _check_registers(engine: Any, state: CpuState, save: Callable[[], None]) -> None:
    """General registers, EIP, EFLAGS; CR0; selectors and bases of segments, which in real mode need no table."""
    engine.reg_write(x86.UC_X86_REG_CR0, int(Cr0.ET))
    for number, register in enumerate(_GENERAL):
        engine.reg_write(register, _SENTINEL + number)
    for seg, register in _SEGMENTS.items():
        engine.reg_write(register, 0x1230 + seg)
    engine.reg_write(x86.UC_X86_REG_EIP, _SENTINEL + 8)
    flags = int(Eflags.ONE | Eflags.CF | Eflags.SF | Eflags.IF)
    engine.reg_write(x86.UC_X86_REG_EFLAGS, flags)
    save()
    for number in range(len(_GENERAL)):
        _expect(f"general register {number}", state.q[hw.Q_REGS + number], _SENTINEL + number)
    _expect("EIP", state.q[hw.Q_EIP], _SENTINEL + 8)
    _expect("CR0", state.q[hw.Q_CR], int(Cr0.ET))
    _expect("EFLAGS", state.q[hw.Q_EFLAGS] & MASK32, flags)
    for seg in _SEGMENTS:
        at = hw.D_SEGS + seg * hw.SEG_WORDS
        _expect(f"the selector of {seg.name}", state.d[at], 0x1230 + seg)
        _expect(f"the base of {seg.name}", state.d[at + hw.SEG_BASE], 0x1230 + seg << 4)
        _expect(f"the limit of {seg.name}", state.d[at + hw.SEG_LIMIT] & 0xFFFF, 0xFFFF)
    _expect("the A20 mask", state.d[hw.D_A20_MASK], MASK32)


def _check_system_registers(engine: Any, state: CpuState, save: Callable[[], None]) -> None:
    """CR3, CR4, EFER, DR0, and the four table registers."""
    engine.reg_write(x86.UC_X86_REG_CR3, _SENTINEL)
    engine.reg_write(x86.UC_X86_REG_CR4, int(Cr4.DE))
    engine.msr_write(_EFER, _EFER_NXE)
    engine.msr_write(_VM_HSAVE_PA, _SENTINEL + 2)
    engine.reg_write(x86.UC_X86_REG_DR0, _SENTINEL + 1)
    save()
    _expect("CR3", state.q[hw.Q_CR + 3], _SENTINEL)
    _expect("CR4", state.q[hw.Q_CR + 4], int(Cr4.DE))
    _expect("EFER", state.q[hw.Q_EFER], _EFER_NXE)
    _expect("VM_HSAVE_PA", state.q[hw.Q_VM_HSAVE], _SENTINEL + 2)
    _expect("DR0", state.q[hw.Q_DR], _SENTINEL + 1)
    for name, at, register, flags in (
        ("LDTR", hw.D_LDT, x86.UC_X86_REG_LDTR, 0x8200),
        ("TR", hw.D_TR, x86.UC_X86_REG_TR, 0x8900),
        ("GDTR", hw.D_GDT, x86.UC_X86_REG_GDTR, 0),
        ("IDTR", hw.D_IDT, x86.UC_X86_REG_IDTR, 0),
    ):
        selector = at if flags else 0  # GDTR and IDTR have none
        engine.reg_write(register, (selector, _SENTINEL + at, 0x1000 + at, flags))
        save()
        _expect(f"the selector of {name}", state.d[at], selector)
        _expect(f"the base of {name}", state.d[at + hw.SEG_BASE], _SENTINEL + at)
        _expect(f"the limit of {name}", state.d[at + hw.SEG_LIMIT], 0x1000 + at)
        _expect(f"the type of {name}", state.d[at + hw.SEG_FLAGS], flags)


def _check_fpu(engine: Any, state: CpuState, save: Callable[[], None]) -> None:
    """Every part of FPU_RANGES that the public interface can write."""
    top, control, opcode, mxcsr = 5, 0x0F3F, 0x0123, 0x5FBF
    engine.reg_write(x86.UC_X86_REG_FPSW, top << 11 | 0x4500)
    engine.reg_write(x86.UC_X86_REG_FPCW, control)
    engine.reg_write(x86.UC_X86_REG_FPTAG, 0xC003)  # registers 0 and 7 are empty
    engine.reg_write(x86.UC_X86_REG_FOP, opcode)
    engine.reg_write(x86.UC_X86_REG_FIP, _SENTINEL + 2)
    engine.reg_write(x86.UC_X86_REG_FDP, _SENTINEL + 3)
    engine.reg_write(x86.UC_X86_REG_MXCSR, mxcsr)
    for number in range(8):
        engine.reg_write(x86.UC_X86_REG_XMM0 + number, _SENTINEL + number << 64 | number)
        engine.reg_write(x86.UC_X86_REG_FP0 + number, (_SENTINEL + number, 0x4000 + number))
    save()
    for name, at, size, value in (
        ("the x87 stack top", hw.FPU_TOP, 4, top),
        ("the x87 status word", hw.FPU_STATUS, 2, 0x4500),
        ("the x87 control word", hw.FPU_CONTROL, 2, control),
        ("the x87 tags", hw.FPU_TAGS, 8, 1 | 1 << 56),
        ("the x87 opcode", hw.FPU_OPCODE, 2, opcode),
        ("the x87 instruction pointer", hw.FPU_IP, 8, _SENTINEL + 2),
        ("the x87 data pointer", hw.FPU_DP, 8, _SENTINEL + 3),
        ("MXCSR", hw.MXCSR, 4, mxcsr),
    ):
        _expect_bytes(name, state, at, value.to_bytes(size, "little"))
    for number in range(8):
        value = _SENTINEL + number | 0x4000 + number << 64
        _expect_bytes(f"x87 register {number}", state, hw.FPU_REGISTERS + 16 * number, value.to_bytes(10, "little"))
        value = _SENTINEL + number << 64 | number
        at = hw.XMM_REGISTERS + hw.XMM_STRIDE * number
        _expect_bytes(f"XMM{number}", state, at, value.to_bytes(16, "little"))


def _check_exceptions(engine: Any, state: CpuState, context: Any) -> None:
    """Run code at CPL 3 to a page fault, then on to an `int`, and look at what the engine leaves in its state."""
    exits: list[int] = []
    problems: list[EngineMismatch] = []

    def at_exit(_engine: Any, vector: int, _data: Any) -> None:
        exits.append(vector)
        try:
            engine.context_update(context)
            (_check_page_fault if len(exits) == 1 else _check_int)(state, vector)
        except EngineMismatch as problem:
            problems.append(problem)
        if problems or len(exits) > 1:
            engine.emu_stop()
            return
        state.q[hw.Q_EIP] = _AFTER_STORE
        engine.context_restore(context)

    engine.hook_add(uc_const.UC_HOOK_INTR, at_exit)
    engine.mem_write(_DIRECTORY, (_TABLE | int(Pte.P | Pte.W | Pte.U)).to_bytes(4, "little"))
    engine.mem_write(_TABLE + 4 * (_CODE // PAGE_SIZE), (_CODE | int(Pte.P | Pte.U)).to_bytes(4, "little"))
    engine.mem_write(_CODE, _PROBE)
    _enter_user_mode(state)
    engine.context_restore(context)
    engine.ctl_exits_enabled(True)
    engine.emu_start(_CODE, 0)
    if problems:
        raise problems[0]
    _expect("the number of exits", len(exits), 2)


def _enter_user_mode(state: CpuState) -> None:
    q, d = state.q, state.d
    q[hw.Q_CR] = int(Cr0.PE | Cr0.ET | Cr0.WP | Cr0.PG)
    q[hw.Q_CR + 2] = 0
    q[hw.Q_CR + 3] = _DIRECTORY
    q[hw.Q_CR + 4] = 0
    q[hw.Q_EFLAGS] = int(Eflags.ONE)
    q[hw.Q_REGS], q[hw.Q_REGS + 1] = _EAX, _ECX
    d[hw.D_HFLAGS] = 3 | hw.HF_PE | hw.HF_CS32 | hw.HF_SS32
    for seg in Seg:
        at = hw.D_SEGS + seg * hw.SEG_WORDS
        d[at + hw.SEG_BASE], d[at + hw.SEG_LIMIT] = 0, MASK32
        d[at + hw.SEG_FLAGS] = 0x00CF_FB00 if seg is Seg.CS else 0x00CF_F300
    d[hw.D_OLD_EXCEPTION] = MASK32


def _check_page_fault(state: CpuState, vector: int) -> None:
    q, d = state.q, state.d
    _expect("the vector of a page fault", vector, Vector.PF)
    _expect("the error code of a page fault", d[hw.D_ERROR_CODE], _FAULT_CODE)
    _expect("CR2", q[hw.Q_CR + 2], _READ_ONLY)
    access = int.from_bytes(state.buffer[8 * hw.Q_ACCESS : 8 * hw.Q_ACCESS + 8], "little")
    _expect("whether the place of an access that faulted is known", bool(access), True)
    _expect("EIP at a fault", q[hw.Q_EIP], _CODE + len(_ADD) + 1)
    _expect("exception_is_int at a fault", d[hw.D_EXCEPTION_IS_INT], 0)
    _expect("old_exception", d[hw.D_OLD_EXCEPTION], Vector.PF)
    _expect("DF as it is kept while code runs", d[hw.D_DF], MASK32)
    _expect("cc_op after ADD", d[hw.D_CC_OP], _CC_OP_ADDL)
    _expect("cc_dst after ADD", q[hw.Q_CC_DST] & MASK32, _EAX + _ECX)
    _expect("cc_src after ADD", q[hw.Q_CC_SRC] & MASK32, _ECX)
    _expect("hflags", d[hw.D_HFLAGS], 3 | hw.HF_PE | hw.HF_CS32 | hw.HF_SS32)


def _check_int(state: CpuState, vector: int) -> None:
    q, d = state.q, state.d
    _expect("the vector of INT 41h", vector, _INT_VECTOR)
    _expect("EIP after INT", q[hw.Q_EIP], _CODE + len(_PROBE))
    _expect("exception_is_int after INT", d[hw.D_EXCEPTION_IS_INT], 1)
    _expect("EAX", q[hw.Q_REGS] & MASK32, _EAX + _ECX)
