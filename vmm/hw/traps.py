"""Traps that the engine does not have: instructions that leave to the VMM at any CPL, chosen while the guest runs.

Unicorn carries most privileged instructions out in *helpers*, functions that translated code calls with the processor
state as the first argument. Each helper of the table below gets a few bytes in front: they look at a mask in the state
and either go on to the helper or leave the run as a #VMEXIT does. The exit arrives at the interrupt hook as vector
`EXIT + number`, with EIP and everything else as before the instruction. The mask (`set_traps`) travels with the saved
state, so a change takes effect at the next instruction, and an engine whose mask is zero notices nothing.

Two places know a helper's address: code of the translator takes it through the global offset table, and a table tells
which registers a helper looks at. An exit looks at all of them, so that is changed as well. An engine that was made
before does not find the new functions in its copy of that table, and crashes: so all this is done when this module is
loaded, and `vmm.hw.cpu` loads it.

INS stores a zero to its operand before it asks for the port, and REP INS and REP OUTS leave once per iteration.
"""

import ctypes
import mmap
from enum import IntFlag
from typing import Final

from vmm.arch.layout import MASK32
from vmm.arch.registers import Eflags
from vmm.errors import EngineMismatch
from vmm.hw import library
from vmm.hw import state as hw
from vmm.hw.state import CpuState


class Trap(IntFlag):
    """What can be made to leave; bits of `Q_TRAPS`. The exit's vector is `EXIT` + the number of the bit."""

    IO = 1 << 0  # IN, OUT, INS, OUTS
    HLT = 1 << 1
    CPUID = 1 << 2
    TSC = 1 << 3  # RDTSC, RDTSCP
    PMC = 1 << 4  # RDPMC
    MSR = 1 << 5  # RDMSR, WRMSR
    FAST_CALL = 1 << 6  # SYSENTER, SYSEXIT
    DEBUG = 1 << 7  # MOV to and from DR
    CONTROL_WRITE = 1 << 8  # MOV to CR, LMSW, CLTS
    CONTROL_READ = 1 << 9  # MOV from CR
    INVLPG = 1 << 10
    INTERRUPT_FLAG = 1 << 11  # STI, POPF
    CLI = 1 << 12
    PUSHF = 1 << 13
    IRET = 1 << 14
    TASK_REGISTER = 1 << 15  # LLDT, LTR
    FAR = 1 << 16  # far JMP and CALL, in protected mode
    FAR_RETURN = 1 << 17  # RETF, in protected mode
    INTERRUPT = 1 << 18  # INT n, INT3, INTO (also when OF is clear): with this vector, not with vector n
    WINDOW = 1 << 19  # STI, and POPF of an image with IF; the exit's vector is that of INTERRUPT_FLAG
    ODD_IRET = 1 << 20  # IRET with EFLAGS.NT or outside CPL 0, in protected mode; the exit's vector is that of IRET
    AMD_CALL = 1 << 22  # SYSCALL, SYSRET
    PUSHF_V86 = 1 << 21  # PUSHF in V86, where the engine pushes VM; the exit's vector is that of PUSHF
    X87 = 1 << 23  # an x87 instruction that the VMM has to carry out: see `vmm.hw.host_fpu`
    SIMD = 1 << 24  # an SSE instruction with an unmasked error, LDMXCSR of a reserved bit


Q_TRAPS: Final = 63
"""Index of the mask in the u64 view of the state: a bound register of MPX, which our CPUID does not offer."""

EXIT: Final = 0x800
"""First vector of these exits: beyond those of exceptions (to FFh) and of the engine's own #VMEXITs (to 5FFh)."""

_HELPERS: Final[dict[Trap, str]] = {
    Trap.IO: "inb inw inl outb outw outl",
    Trap.HLT: "hlt",
    Trap.CPUID: "cpuid",
    Trap.TSC: "rdtsc rdtscp",
    Trap.PMC: "rdpmc",
    Trap.MSR: "rdmsr wrmsr",
    Trap.FAST_CALL: "sysenter sysexit",
    Trap.AMD_CALL: "syscall sysret",
    Trap.DEBUG: "set_dr get_dr",
    Trap.CONTROL_WRITE: "write_crN lmsw clts",
    Trap.CONTROL_READ: "read_crN",
    Trap.INVLPG: "invlpg",
    Trap.INTERRUPT_FLAG: "sti write_eflags",
    Trap.CLI: "cli",
    Trap.PUSHF: "read_eflags",
    Trap.IRET: "iret_real iret_protected",
    Trap.TASK_REGISTER: "lldt ltr",
    Trap.FAR: "ljmp_protected lcall_protected",
    Trap.FAR_RETURN: "lret_protected",
    Trap.INTERRUPT: "raise_interrupt into",
}
_EXIT_OFFSET: Final = 0x100
"""`cpu_vmexit` adds it to the code that it is given."""
SUFFIX: Final = "_x86_64"
_NAME_AT: Final = 8  # in the table of helpers, behind the function's address
_FLAGS_AT: Final = 16  # 32 bits, and 32 bits that tell the widths of the arguments


def _leaves_if(trap: Trap) -> bytes:
    """test byte ptr [rdi + mask], bit; a conditional jump follows."""
    bit = trap.bit_length() - 1
    return b"\xf6\x87" + (8 * Q_TRAPS + bit // 8).to_bytes(4, "little") + bytes([1 << bit % 8])


def exit_of(trap: Trap) -> int:
    """The vector of a trap's exit."""
    return EXIT + trap.bit_length() - 1


def leaving(trap: Trap, cpu_vmexit: int) -> bytes:
    """Host code that leaves the run for a trap: it is jumped to with the stack and RDI as the helper had them."""
    return (
        b"\xbe" + (exit_of(trap) - _EXIT_OFFSET).to_bytes(4, "little")  # mov esi, code
        + b"\x31\xd2\x48\x8b\x0c\x24"                                # xor edx, edx; mov rcx, [rsp]
        + b"\x48\xb8" + cpu_vmexit.to_bytes(8, "little") + b"\xff\xe0"  # mov rax, cpu_vmexit; jmp rax
    )  # fmt: skip


def _stub(trap: Trap, helper: int, leave: int) -> bytes:
    """Host code: RDI holds the processor state, the return address is the place in translated code."""
    onward = b"\x48\xb8" + helper.to_bytes(8, "little") + b"\xff\xe0"  # mov rax, helper; jmp rax
    special = _SPECIAL.get(trap)
    tests = special(helper, len(onward)) if special is not None else b""
    return (
        _leaves_if(trap) + b"\x75" + bytes([len(tests) + len(onward)])  # jnz leave
        + tests + onward
        + leaving(trap, leave)
    )  # fmt: skip


def _window(helper: int, distance: int) -> bytes:
    """The test for Trap.WINDOW, `distance` bytes before `leave`. ESI holds the image that POPF has popped."""
    if helper != library.address_of(f"helper_write_eflags{SUFFIX}"):
        return _leaves_if(Trap.WINDOW) + b"\x75" + bytes([distance])  # jnz leave
    has_if = b"\xf7\xc6" + int(Eflags.IF).to_bytes(4, "little") + b"\x75" + bytes([distance])  # test esi, IF; jnz leave
    return _leaves_if(Trap.WINDOW) + b"\x74" + bytes([len(has_if)]) + has_if  # jz onward


def _odd_iret(helper: int, distance: int) -> bytes:
    """The test for Trap.ODD_IRET, `distance` bytes before `leave`."""
    if helper != library.address_of(f"helper_iret_protected{SUFFIX}"):
        return b""
    has_cpl = (
        b"\xf6\x87" + (4 * hw.D_HFLAGS).to_bytes(4, "little") + bytes([hw.HF_CPL])  # test byte ptr [rdi + hflags], 3
        + b"\x75"                                                                  # jnz leave
    )  # fmt: skip
    nested = _leaves_if_flag(Trap.ODD_IRET, Eflags.NT, distance)
    jump = bytes([distance + len(nested)])
    return _leaves_if(Trap.ODD_IRET) + b"\x74" + bytes([len(has_cpl) + 1]) + has_cpl + jump + nested


def _pushf_v86(_helper: int, distance: int) -> bytes:
    """The test for Trap.PUSHF_V86, `distance` bytes before `leave`."""
    return _leaves_if_flag(Trap.PUSHF_V86, Eflags.VM, distance)


def _leaves_if_flag(trap: Trap, flag: Eflags, distance: int) -> bytes:
    """Leave for a trap if a flag is set that stands in the state as it is."""
    byte, bit = divmod(flag.bit_length() - 1, 8)
    has_flag = (
        b"\xf6\x87" + (8 * hw.Q_EFLAGS + byte).to_bytes(4, "little")
        + bytes([1 << bit])             # test byte ptr [rdi + flags], bit
        + b"\x75" + bytes([distance])  # jnz leave
    )  # fmt: skip
    return _leaves_if(trap) + b"\x74" + bytes([len(has_flag)]) + has_flag  # jz onward


_SPECIAL: Final = {Trap.INTERRUPT_FLAG: _window, Trap.IRET: _odd_iret, Trap.PUSHF: _pushf_v86}
"""Traps whose helpers have a second bit, with a condition of its own."""


def _install() -> mmap.mmap | None:
    """Put the stubs in; the memory that holds them, or None where this build of the library is another one."""
    leave = library.address_of(f"cpu_vmexit{SUFFIX}")
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    changes: list[tuple[int, int]] = []
    for trap, names in _HELPERS.items():
        for name in names.split():
            helper = library.address_of(f"helper_{name}{SUFFIX}")
            slots = library.taken_addresses(helper) if helper else []
            entry = next((at for at in slots if library.text_at(at + _NAME_AT).removesuffix(SUFFIX) == name), None)
            if not leave or entry is None:
                return None
            changes += [(at, start + memory.tell()) for at in slots]
            changes.append((entry + _FLAGS_AT, library.word_at(entry + _FLAGS_AT) & ~MASK32))
            memory.write(_stub(trap, helper, leave))
    return memory if all([library.write_word(at, value) for at, value in changes]) else None


_stubs: Final = _install()
AVAILABLE: Final = _stubs is not None
"""Do the traps work with this build of the engine?"""


def set_traps(state: CpuState, wanted: int) -> None:
    """Which instructions leave instead of being carried out: `Trap` bits. None do at first. Raises: EngineMismatch."""
    if wanted and not AVAILABLE:
        raise EngineMismatch("this build of the engine has no helpers to trap at: the wheel from PyPI expected")
    state.q[Q_TRAPS] = wanted
