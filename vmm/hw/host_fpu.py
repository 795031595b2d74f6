"""The host's x87 FPU and SSE unit in the place of the engine's arithmetic.

Installs `vmm.hw.x87_code` and `vmm.hw.sse_code`: the engine's table of helpers is changed as in `vmm.hw.traps`, and as
early. Where this build of the engine is another one, its helpers stay, and with them what they get wrong. And carries
out one x87 instruction by itself.
"""

import ctypes
import mmap
from typing import Final

from bt.assemble import host_code
from vmm.hw import library, sse_code, x87_code
from vmm.hw.host_code import CELLS_MARK, CELLS_SIZE, LEAVE_MARKS, ONWARD_MARK, Cell
from vmm.hw.traps import SUFFIX, Trap, exit_of, leaving
from vmm.hw.x87_code import CARRY_OUT, CARRY_OUT_MARK

EXITS: Final = {trap: exit_of(trap) for trap in LEAVE_MARKS}
"""Vectors of the exits that the traps ask for."""
TRAPS: Final = int(Trap.X87 | Trap.SIMD)
_SIZE: Final = 16 * mmap.PAGESIZE
_ALIGNMENT: Final = 16
IMAGE_SIZE: Final = 108
"""Bytes of an image of FNSAVE in the 32-bit format of protected mode."""
_OPERAND_MAX: Final = 16


def _word(value: int) -> bytes:
    return value.to_bytes(8, "little")


class _HostFpu:
    """The memory that holds the code, and what is changed in the library to have it called."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        code = host_code(CARRY_OUT)
        self._instruction = code.index(CARRY_OUT_MARK.to_bytes(2, "little"))
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(self._place(code))
        self._cells = (ctypes.c_uint64 * 2)()

    def _place(self, code: bytes) -> int:
        """Put code, or data, into the memory; its address."""
        self._memory.seek(-(-self._memory.tell() // _ALIGNMENT) * _ALIGNMENT)
        at = self._start + self._memory.tell()
        self._memory.write(code)
        return at

    def install(self) -> bool:
        """Have the helpers called; False where this build of the library is another one."""
        cpu_vmexit = library.address_of(f"cpu_vmexit{SUFFIX}")
        cells = bytearray(CELLS_SIZE)
        cells[Cell.DEFAULT : Cell.DEFAULT + 2] = x87_code.DEFAULT_CONTROL.to_bytes(2, "little")
        cells[Cell.DEFAULT_MXCSR : Cell.DEFAULT_MXCSR + 4] = sse_code.DEFAULT_MXCSR.to_bytes(4, "little")
        marks = {mark: self._place(leaving(trap, cpu_vmexit)) for trap, mark in LEAVE_MARKS.items()}
        self._memory.seek(-(-self._memory.tell() // mmap.PAGESIZE) * mmap.PAGESIZE)  # apart from code: it is written to
        marks[CELLS_MARK] = self._place(bytes(cells))
        self._memory.seek(-(-self._memory.tell() // mmap.PAGESIZE) * mmap.PAGESIZE)
        changes: list[tuple[int, int]] = []
        for name, text in {**x87_code.HELPERS, **sse_code.HELPERS}.items():
            helper = library.address_of(f"helper_{name}{SUFFIX}")
            slots = library.taken_addresses(helper) if helper else []
            if not cpu_vmexit or not slots:
                return False
            code = host_code(text)
            for mark, address in (marks | {ONWARD_MARK: helper}).items():
                code = code.replace(_word(mark), _word(address))
            place = self._place(code)
            changes += [(at, place) for at in slots]
        return all([library.write_word(at, value) for at, value in changes])

    def carry_out(
        self, instruction: bytes, image: bytes, operand: bytes, flags: int, eax: int
    ) -> tuple[bytes, bytes, int, int]:
        """Execute one."""
        self._memory[self._instruction : self._instruction + 2] = instruction
        held = ctypes.create_string_buffer(image, IMAGE_SIZE)
        memory = ctypes.create_string_buffer(operand, _OPERAND_MAX)
        self._cells[0], self._cells[1] = flags, eax
        self._run(held, memory, ctypes.addressof(self._cells))
        return held.raw, memory.raw[: len(operand)], self._cells[0], self._cells[1]


_host: Final = _HostFpu()
AVAILABLE: Final = _host.install()
"""Does the engine compute on the host's FPU?"""


def carry_out(instruction: bytes, image: bytes, operand: bytes, flags: int, eax: int) -> tuple[bytes, bytes, int, int]:
    """Execute one x87 instruction on the host.

    Args:
        instruction: its opcode, D8h-DFh, and its ModR/M byte; an operand in memory is at RSI.
        image: the FPU's state as FNSAVE stores it in the 32-bit format of protected mode, 108 bytes. No error that
            control and status word let through may wait in it.
        operand: up to 16 bytes.
        flags: the arithmetic flags.
        eax: the guest's EAX.
    Returns: image, operand, flags and EAX afterwards.
    """
    return _host.carry_out(instruction, image, operand, flags, eax)
