"""Flags that a page fault would lose: a flaw of the engine, put right at the exit.

SETcc, RCL and RCR work the arithmetic flags out into the place (`cc_src`) where an operand was of the instruction that
made them; then they access memory. RCL and RCR have also put their own new flags there when they store. If the access
faults, the engine goes back to the start of the instruction, and takes what is in that place for the operand again.

What does it is helpers of the engine (see `vmm.hw.traps`). A few bytes in front or behind keep the flags, and the place
in translated code that called, in words of the state that nothing else uses. At a page fault the state tells which
place in translated code made the access; where the two are close together, they belong to one instruction.
"""

import ctypes
import mmap
from collections.abc import Callable
from typing import Final

from vmm.hw import library
from vmm.hw import state as hw
from vmm.hw.state import CpuState

_Q_FLAGS, _Q_CALL, _Q_BEFORE, _Q_ROTATION = range(64, 68)
"""Bound registers of MPX, as `Q_TRAPS`: flags that were worked out, and where; flags before a rotation, and where."""
_CLOSE: Final = 256
"""Bytes of translated code that one instruction may take from there to its access."""
_ROTATE: Final = frozenset(("rcl", "rcr"))
_OF_ALL_FLAGS: Final = _ROTATE | {f"set{condition}" for condition in "o no be a p np l ge le g".split()}
_OF_ONE_FLAG: Final = frozenset(f"set{condition}" for condition in "b ae e ne s ns".split())
"""They work all flags out where nothing shorter is known. After an AND, OR, XOR or TEST, the result is enough."""
_LOGIC: Final = range(22, 26)
"""CC_OP_LOGICB to CC_OP_LOGICQ: what lies in `cc_src` means nothing, and may be of an instruction before."""
_CLEARED: Final = 49
"""CC_OP_CLR: the flags are constants."""
_COMPUTE: Final = "cc_compute_all"
_ROTATIONS: Final = ("rclb", "rclw", "rcll", "rcrb", "rcrw", "rcrl")


def mend(state: CpuState, name: Callable[[], str]) -> None:
    """At a page fault: let the flags be what they were before the instruction that faulted, whose mnemonic is `name()`.

    Fetching that costs; it is not asked for where no flag was worked out close by.
    """
    q, d = state.q, state.d
    access = q[hw.Q_ACCESS]
    if 0 < access - q[_Q_ROTATION] < _CLOSE and name() in _ROTATE:
        q[hw.Q_CC_SRC] = q[_Q_BEFORE]
        d[hw.D_CC_OP] = hw.CC_OP_EFLAGS
    elif 0 < access - q[_Q_CALL] < _CLOSE and q[hw.Q_CC_SRC] == q[_Q_FLAGS] and _works_out(name(), d[hw.D_CC_OP]):
        d[hw.D_CC_OP] = hw.CC_OP_EFLAGS


def _works_out(name: str, cc_op: int) -> bool:
    """Is it an instruction that works all flags out if they are in the form `cc_op`?"""
    if cc_op == _CLEARED:
        return False
    return name in _OF_ALL_FLAGS or (name in _OF_ONE_FLAG and cc_op not in _LOGIC)


def _word(number: int) -> bytes:
    return (8 * number).to_bytes(4, "little")


def _behind(helper: int) -> bytes:
    """Host code that calls `helper` and keeps what it returns; translated code has the state in RBP."""
    return (
        b"\x48\x83\xec\x08"                                          # sub rsp, 8
        + b"\x48\xb8" + helper.to_bytes(8, "little") + b"\xff\xd0"    # mov rax, helper; call rax
        + b"\x48\x83\xc4\x08\x48\x8b\x0c\x24"                        # add rsp, 8; mov rcx, [rsp]
        + b"\x48\x89\x85" + _word(_Q_FLAGS)                          # mov [rbp + flags], rax
        + b"\x48\x89\x8d" + _word(_Q_CALL)                           # mov [rbp + call], rcx
        + b"\xc3"                                                    # ret
    )  # fmt: skip


def _in_front(helper: int) -> bytes:
    """Host code that keeps the flags, which are worked out, and goes on to `helper`; RDI holds the state."""
    return (
        b"\x48\x8b\x87" + _word(hw.Q_CC_SRC) + b"\x48\x89\x87" + _word(_Q_BEFORE)  # mov rax, cc_src; mov before, rax
        + b"\x48\x8b\x04\x24\x48\x89\x87" + _word(_Q_ROTATION)                   # mov rax, [rsp]; mov rotation, rax
        + b"\x48\xb8" + helper.to_bytes(8, "little") + b"\xff\xe0"               # mov rax, helper; jmp rax
    )  # fmt: skip


def _install() -> mmap.mmap | None:
    """Put the bytes in; the memory that holds them, or None where this build of the library is another one."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    changes: list[tuple[int, int]] = []
    for name in (_COMPUTE, *_ROTATIONS):
        helper = library.address_of(f"helper_{name}_x86_64")
        slots = library.taken_addresses(helper) if helper else []
        if not slots:
            return None
        changes += [(at, start + memory.tell()) for at in slots]
        memory.write(_behind(helper) if name == _COMPUTE else _in_front(helper))
    return memory if all([library.write_word(at, value) for at, value in changes]) else None


_code: Final = _install()
AVAILABLE: Final = _code is not None
"""Does it work with this build of the engine? Else the flags are lost, as on the engine as it is."""
