"""RDTSC of the engine, made to count the host's monotonic time instead of the host's own counter.

The helper that carries RDTSC out (see `vmm.hw.traps`) gets a few bytes in front. If the state says so they ask the C
library for CLOCK_MONOTONIC, in nanoseconds, add a word of the state, and answer with the sum. That is the clock that
Python reads too (`time.monotonic_ns`), so the two never disagree, and nothing has to be calibrated. The words travel
with the saved state, so a change takes effect at once; where they are zero RDTSC does what it did.

Source: Intel SDM Vol. 2B, "RDTSC - Read Time-Stamp Counter"; clock_gettime(2).
"""

import ctypes
import mmap
import sys
import time
from typing import Final

import vmm.hw.traps  # noqa: F401  its bytes are in front of the helper, and these come in front of them
from vmm.arch.registers import Reg
from vmm.hw import library
from vmm.hw import state as hw
from vmm.hw.state import CpuState

_HELPER: Final = "helper_rdtsc_x86_64"
_MASK64: Final = (1 << 64) - 1
_NS: Final = 1_000_000_000


def _word(number: int) -> bytes:
    return (8 * number).to_bytes(4, "little")


def _in_front(onward: int, clock_gettime: int) -> bytes:
    """Host code; RDI holds the processor state. The stack is 8 below a multiple of 16."""
    own = (
        b"\x53\x48\x83\xec\x10\x48\x89\xfb"                               # push rbx; sub rsp, 16; mov rbx, rdi
        + b"\xbf" + time.CLOCK_MONOTONIC.to_bytes(4, "little")           # mov edi, CLOCK_MONOTONIC
        + b"\x48\x89\xe6"                                                # mov rsi, rsp
        + b"\x48\xb8" + clock_gettime.to_bytes(8, "little") + b"\xff\xd0"  # mov rax, clock_gettime; call rax
        + b"\x48\x69\x04\x24" + _NS.to_bytes(4, "little")                # imul rax, [rsp], 1000000000
        + b"\x48\x03\x44\x24\x08"                                        # add rax, [rsp + 8]
        + b"\x48\x03\x83" + _word(hw.TSC_OFFSET)                       # add rax, [rbx + offset]
        + b"\x89\xc2\x48\x89\x93" + _word(hw.Q_REGS + Reg.EAX)            # mov edx, eax; mov [rbx + EAX], rdx
        + b"\x48\xc1\xe8\x20\x48\x89\x83" + _word(hw.Q_REGS + Reg.EDX)    # shr rax, 32; mov [rbx + EDX], rax
        + b"\x48\x83\xc4\x10\x5b\xc3"                                    # add rsp, 16; pop rbx; ret
    )  # fmt: skip
    return (
        b"\x48\x83\xbf" + _word(hw.TSC_IS_HOSTS) + b"\0"                # cmp qword ptr [rdi + is_hosts], 0
        + b"\x74" + bytes([len(own)]) + own                             # je onward
        + b"\x48\xb8" + onward.to_bytes(8, "little") + b"\xff\xe0"        # onward: mov rax, onward; jmp rax
    )  # fmt: skip


def _install() -> mmap.mmap | None:
    """Put the bytes in; the memory that holds them, or None where the engine or the host is another one."""
    helper = library.address_of(_HELPER)
    slots = library.taken_addresses(helper) if helper else []
    onward = {library.word_at(at) for at in slots}
    if sys.platform != "linux" or len(onward) != 1:
        return None
    clock_gettime = ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_in_front(onward.pop(), clock_gettime))
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory if all([library.write_word(at, start) for at in slots]) else None


_code: Final = _install()
AVAILABLE: Final = _code is not None
"""Can the engine's RDTSC be made to count the host's time?"""


def count_host_time(state: CpuState, offset: int | None) -> None:
    """From now on RDTSC tells CLOCK_MONOTONIC in nanoseconds plus `offset`, modulo 2^64; None: what it told at first.

    `state.q[TSC_IS_HOSTS]` is what came of it: 0 where this is not AVAILABLE.
    """
    is_hosts = AVAILABLE and offset is not None
    state.q[hw.TSC_IS_HOSTS] = is_hosts
    state.q[hw.TSC_OFFSET] = (offset or 0) & _MASK64 if is_hosts else 0
