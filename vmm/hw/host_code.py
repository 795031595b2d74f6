"""What host code in the place of the engine's helpers has in common: marks, cells, how it leaves the run.

Source: System V ABI, AMD64 supplement, "Parameter Passing": RDI is the engine's state, RSI, RDX are the helper's own
arguments; RAX, RCX, R8 to R11 and the vector registers are free.
"""

from enum import IntEnum
from typing import Final

from vmm.hw.traps import Q_TRAPS, Trap

CELLS_MARK: Final = 0x5EA1_CE11_0000_0087
LEAVE_MARKS: Final = {Trap.X87: 0x5EA1_1EA7_0000_0087, Trap.SIMD: 0x5EA1_1EA7_0000_0513}
ONWARD_MARK: Final = 0x5EA1_0A4D_0000_0087
"""Stand for the address of the cells, of the code that leaves for a trap, and of the engine's own helper."""


class Cell(IntEnum):
    """Byte offsets of what host code keeps between two helpers of one instruction, and of its constants."""

    OPERAND = 0x00  # the second operand of an x87 instruction, as it was in memory
    KIND = 0x10  # of OPERAND: 0 extended precision, 1 single, 2 double
    IS_EMPTY = 0x14  # OPERAND is an empty register
    PUSHED = 0x18  # the register that is about to be loaded has just been pushed
    CONTROL = 0x1C  # a control word on its way to the host
    DEFAULT = 0x20  # the x87 control word that the host expects
    DEFAULT_MXCSR = 0x24
    VALUE = 0x28  # on its way to or from memory
    TOP = 0x30  # of the x87 stack, and its tags, before an instruction made MMX registers of it
    TAGS = 0x38


CELLS_SIZE: Final = 0x40
CELLS: Final = f"movabs r8, {CELLS_MARK:#x}"
ONWARD: Final = f"movabs rax, {ONWARD_MARK:#x}; jmp rax"


def is_trapped(trap: Trap) -> str:
    """Test whether the state asks for a trap; a conditional jump follows."""
    bit = int(trap).bit_length() - 1
    return f"test byte ptr [rdi + {8 * Q_TRAPS + bit // 8}], {1 << bit % 8}"


def leave(trap: Trap) -> str:
    """Leave the run, with EIP at the instruction; the stack is as it was."""
    return f"leave: movabs rax, {LEAVE_MARKS[trap]:#x}; jmp rax"
