"""Guest programs of a few instructions, encoded by hand, and the cases that they belong to.

Source of the encodings: Intel SDM Vol. 2A, "Instruction Format".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vmm.lab import setting as at
from vmm.lab.machine import LabMachine
from vmm.lab.setting import Setting

Observer = Callable[[LabMachine], str]
_OPERAND_SIZE: Final = b"\x66"


@dataclass(frozen=True, slots=True)
class Case:
    """One instruction in one form and setting: a program, and what the manual says that `observe` then finds.

    `memory`: what else lies where, by linear address; `registers`: what differs from the setting's; `vector`: in whose
    handler the program ends, None if at its own end. If it ends in another one, it shows the exception's name instead.
    """

    instruction: str
    form: str
    setting: Setting
    code: bytes
    expected: str
    observe: Observer
    memory: Mapping[int, bytes] = field(default_factory=dict)
    registers: Mapping[str, int] = field(default_factory=dict)
    vector: int | None = None


class Program:
    """Bytes of a program for one setting; every method returns the program, so that one reads like a listing."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.code = b""

    def op(self, code: str, size: int = 0, tail: bytes = b"") -> "Program":
        """Any bytes, `size` the operand size that they need (0: it has none)."""
        prefix = _OPERAND_SIZE if size not in (0, self.setting.size) else b""
        self.code += prefix + bytes.fromhex(code) + tail
        return self

    def register(self, code: str, reg: int, rm: int, size: int = 0) -> "Program":
        """An instruction with ModR/M for a register operand."""
        return self.op(code, size, bytes([0xC0 | reg << 3 | rm]))

    def memory(self, code: str, reg: int, offset: int, size: int = 0) -> "Program":
        """An instruction with ModR/M for the memory `offset` bytes behind DATA."""
        width, rm = (4, 5) if self.setting.code32 else (2, 6)
        return self.op(code, size, bytes([reg << 3 | rm]) + at.word(self.setting.data(offset), width))

    def store_eax(self, offset: int = 0) -> "Program":
        """MOV [RESULT + offset], EAX."""
        return self.memory("89", 0, at.RESULT + offset, 4)

    def store_zf(self, offset: int = 4) -> "Program":
        """SETZ [RESULT + offset]."""
        return self.memory("0f94", 0, at.RESULT + offset)

    def push(self, value: int, size: int) -> "Program":
        """PUSH imm."""
        return self.op("68", size, at.word(value, size))

    def pop_eax(self, size: int) -> "Program":
        """POP AX or EAX."""
        return self.op("58", size)

    def pad(self, length: int) -> "Program":
        """NOPs up to a length."""
        self.code = self.code.ljust(length, b"\x90")
        return self

    def address(self, length: int) -> int:
        """The offset in CS of what lies `length` bytes behind the first byte."""
        return self.setting.code + length
