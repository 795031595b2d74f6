"""Operands of random instructions: values, addresses, and the code that sets them up.

Source of the encodings: SDM Vol. 2A, "ModR/M and SIB Bytes".
"""

from random import Random
from typing import Final, NamedTuple

from bt.decode import OVERRIDE_BYTE
from vmm.arch.registers import Reg, Seg
from vmm.differential import layout
from vmm.differential.modes import Mode

_ADDRESS_SIZE: Final = b"\x67"
_OPERAND_SIZE: Final = b"\x66"
_BASES_16: Final = {int(Reg.EBX): 7, int(Reg.EBP): 6, int(Reg.ESI): 4, int(Reg.EDI): 5}
"""Of a 16-bit address with one register: its rm field."""
_BASES_32: Final = tuple(int(reg) for reg in Reg if reg is not Reg.ESP)
_EDGES: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_SIB: Final = 4
_AREAS: Final = ((layout.DATA, 0x1B00),) * 16 + (
    (layout.DATA + 0xFF8, 8),  # across pages
    (layout.DATA + 0xFF8, 8),
    (layout.DATA + 0xFF8, 8),
    (layout.STACK, 0x1000),
    (layout.CODE, layout.CODE_SIZE),
    (0, 0x1_0000),
)


class Memory(NamedTuple):
    """A memory operand: code that loads its registers, prefixes, and ModR/M (reg field 0), SIB and displacement."""

    setup: bytes
    prefixes: bytes
    encoding: bytes

    def encode(self, head: bytes, reg: int) -> bytes:
        """The instruction with this operand, up to its immediate."""
        return self.setup + self.prefixes + head + bytes([self.encoding[0] | reg << 3]) + self.encoding[1:]


class Operands:
    """Operands for one program. `based` as in `Program`."""

    def __init__(self, chance: Random, mode: Mode, based: bool) -> None:
        self.chance, self.mode, self.based = chance, mode, based
        self._wide = b"" if mode.code32 else _OPERAND_SIZE
        self._default = 4 if mode.code32 else 2

    def number(self, size: int) -> int:
        """A value of `size` bytes, often one at an edge."""
        chance = self.chance
        if chance.random() < 0.4:
            return chance.choice(_EDGES) & (1 << 8 * size) - 1
        return chance.getrandbits(8 * size)

    def little(self, size: int) -> bytes:
        """`number`, as it lies in memory."""
        return self.number(size).to_bytes(size, "little")

    def load(self, reg: int, value: int) -> bytes:
        """MOV r32, imm32."""
        return self._wide + bytes([0xB8 | reg]) + value.to_bytes(4, "little")

    def base(self, seg: int) -> int:
        """The base that a segment register has at the start."""
        if not self.based:
            return 0
        return layout.CODE if seg == Seg.CS else layout.STACK_BASE if seg == Seg.SS else layout.DATA

    def address(self) -> int:
        """A linear address, mostly in the data area."""
        start, size = self.chance.choice(_AREAS)
        at = start + self.chance.randrange(size)
        return at & ~15 if self.chance.random() < 0.5 else at

    def offset(self, linear: int, seg: int = Seg.DS) -> int:
        """A linear address as an offset of 32 bits in a segment that has its first base."""
        return linear - self.base(seg) & 0xFFFF_FFFF

    def at(self, linear: int) -> Memory:
        """The operand DS:[displacement]."""
        offset = self.offset(linear)
        if self.mode.code32:
            return Memory(b"", b"", b"\x05" + offset.to_bytes(4, "little"))
        return Memory(b"", b"", b"\x06" + (offset & 0xFFFF).to_bytes(2, "little"))

    def store(self, linear: int, value: int, size: int) -> bytes:
        """MOV of an immediate of 2 or 4 bytes to memory."""
        prefix = b"" if size == self._default else _OPERAND_SIZE
        return prefix + self.at(linear).encode(b"\xc7", 0) + value.to_bytes(size, "little")

    def memory(self) -> Memory:
        """A memory operand of any form."""
        chance = self.chance
        size, prefixes = self._default, b""
        if chance.random() < 0.12:
            size, prefixes = 6 - size, _ADDRESS_SIZE
        kind = chance.random()
        linear = self.address()
        seg = chance.choice(tuple(Seg)) if chance.random() < 0.12 else None
        if seg is not None:
            prefixes += bytes([OVERRIDE_BYTE[seg]])
        form = self._form_32 if size == 4 else self._form_16
        setup, encoding = form(kind, linear, seg)
        return Memory(setup, prefixes, encoding)

    def _form_16(self, kind: float, linear: int, seg: int | None) -> tuple[bytes, bytes]:
        chance = self.chance
        if kind < 0.5:
            return b"", b"\x06" + (self.offset(linear, Seg.DS if seg is None else seg) & 0xFFFF).to_bytes(2, "little")
        if kind < 0.6:
            return b"", bytes([0x80 | chance.randrange(8)]) + self.little(2)
        reg = chance.choice(tuple(_BASES_16))
        default = Seg.SS if reg == Reg.EBP else Seg.DS
        offset = self.offset(linear, default if seg is None else seg)
        low = chance.getrandbits(8)
        signed = low - 0x100 if low & 0x80 else low
        if chance.random() < 0.3:
            low = chance.getrandbits(16)
            return self.load(reg, offset - low & 0xFFFF), bytes([0x80 | _BASES_16[reg]]) + low.to_bytes(2, "little")
        return self.load(reg, offset - signed & 0xFFFF), bytes([0x40 | _BASES_16[reg], low])

    def _form_32(self, kind: float, linear: int, seg: int | None) -> tuple[bytes, bytes]:
        chance = self.chance
        if kind < 0.5:
            return b"", b"\x05" + self.offset(linear, Seg.DS if seg is None else seg).to_bytes(4, "little")
        if kind < 0.58:  # whatever the registers hold
            sib = bytes([chance.getrandbits(8)])
            return b"", bytes([0x80 | _SIB]) + sib + self.little(4)
        reg = chance.choice(_BASES_32)
        offset = self.offset(linear, (Seg.SS if reg == Reg.EBP else Seg.DS) if seg is None else seg)
        if kind < 0.75:
            index, scale = chance.choice(_BASES_32), chance.randrange(4)
            if index != reg:
                far = chance.getrandbits(12)
                setup = self.load(reg, offset - (far << scale) & 0xFFFF_FFFF) + self.load(index, far)
                return setup, bytes([0x40 | _SIB, scale << 6 | index << 3 | reg, 0])
        low = chance.getrandbits(8)
        signed = low - 0x100 if low & 0x80 else low
        return self.load(reg, offset - signed & 0xFFFF_FFFF), bytes([0x40 | reg, low])
