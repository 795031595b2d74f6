"""What a laboratory guest finds around it: memory, tables and registers, in each of four settings.

Everything that an experiment expects is computed from what stands here, never from what an engine did. The guest has
the first 64 KiB of memory for itself, so that 16-bit offsets reach all of it: vector table, GDT, LDT, IDT, TSS, a HLT
for each vector, code, data, stacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from vmm.arch.descriptors import Descriptor, Gate, SystemType
from vmm.arch.registers import Cr0, Eflags, Seg
from vmm.cpu.vcpu import DESC_B, DESC_G, SegmentRegister

GDT, LDT, IDT, TSS = 0x1000, 0x1800, 0x2000, 0x3000
HANDLERS: Final = 0x6000
"""One HLT for each vector."""
CODE, DATA, STACK = 0x8000, 0xA000, 0xC000
KERNEL_STACK: Final = 0xD000
TOP: Final = 0xE000
STACK_SIZE: Final = 0x1000
ENTRY: Final = 0x100
"""Offset of the program from CODE."""
RESULT: Final = 0x40
"""Offset from DATA of what a program stores."""
OPERAND: Final = 0x80
"""Offset from DATA of the operand that it finds in memory."""
DONE_PORT: Final = 0xF4

# Selectors. SYSENTER and SYSEXIT want the first four in this order (SDM Vol. 2B, "SYSEXIT").
KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA = 0x08, 0x10, 0x18 | 3, 0x20 | 3
CONFORMING: Final = 0x28
MAIN_TSS, MAIN_LDT = 0x30, 0x38
OTHER_KERNEL_DATA, OTHER_USER_DATA = 0x40, 0x48 | 3
GDT_LIMIT: Final = 0x4F
IDT_LIMIT: Final = 0x7FF
VECTOR_TABLE_LIMIT: Final = 0x3FF
_IO_MAP: Final = 0x68
TSS_LIMIT: Final = _IO_MAP + 0x2000
LDT_LIMIT: Final = 7
SYSTEM_CALL: Final = 0x80

_CODE_RE, _CODE_CONFORMING, _DATA_RW, _LDT_TYPE, _TSS_BUSY = 0x9B, 0x9F, 0x93, 0x82, 0x8B
_DPL3: Final = 3 << 5
_FLAT: Final = DESC_B | DESC_G
_IF, _ZF, _PF, _VM, _IOPL, _ONE = (int(Eflags[name]) for name in ("IF", "ZF", "PF", "VM", "IOPL", "ONE"))
DATA_ACCESS: Final = _DATA_RW << 8 | _FLAT
"""Dword 1 of a ring 0 data segment, without base and limit: what LAR shows."""
CONFORMING_ACCESS: Final = _CODE_CONFORMING << 8 | _FLAT


@dataclass(frozen=True, slots=True)
class Setting:
    """A mode and ring to run in, with EFLAGS at the start (32 bits, VM included)."""

    mode: str
    ring: int
    eflags: int

    @property
    def code32(self) -> bool:
        """CS.D."""
        return self.mode == "protected"

    @property
    def size(self) -> int:
        """Bytes of an operand without a prefix."""
        return 4 if self.code32 else 2

    @property
    def is_real(self) -> bool:
        return self.mode == "real"

    @property
    def iopl(self) -> int:
        return self.eflags >> 12 & 3

    @property
    def cr0(self) -> int:
        """CR0 as the guest has set it: 32 bits."""
        return int(Cr0.ET) | (0 if self.is_real else int(Cr0.PE))

    @property
    def gdtr(self) -> tuple[int, int]:
        """Base and limit."""
        return GDT, GDT_LIMIT

    @property
    def idtr(self) -> tuple[int, int]:
        """Base and limit."""
        return (0, VECTOR_TABLE_LIMIT) if self.is_real else (IDT, IDT_LIMIT)

    @property
    def segments(self) -> Mapping[int, SegmentRegister]:
        """Every segment register."""
        if self.code32:
            code, data = (USER_CODE, USER_DATA) if self.ring else (KERNEL_CODE, KERNEL_DATA)
            return {seg: loaded(code if seg == Seg.CS else data) for seg in Seg}
        bases = {int(seg): DATA for seg in Seg} | {int(Seg.CS): CODE, int(Seg.SS): STACK}
        rights = (_DATA_RW | _DPL3 if self.mode == "v86" else _DATA_RW) << 8
        return {seg: SegmentRegister(base >> 4, base, 0xFFFF, rights) for seg, base in bases.items()}

    @property
    def code(self) -> int:
        """The offset in CS of the program's first byte."""
        return CODE + ENTRY if self.code32 else ENTRY

    @property
    def stack(self) -> int:
        """ESP at the start."""
        return STACK + STACK_SIZE if self.code32 else STACK_SIZE

    def data(self, offset: int) -> int:
        """The offset in DS of what lies `offset` bytes behind DATA."""
        return DATA + offset if self.code32 else offset


REAL: Final = Setting("real", 0, _ONE | _ZF | _PF)
V86: Final = Setting("v86", 3, _ONE | _VM | _IOPL | _IF | _ZF | _PF)
RING0: Final = Setting("protected", 0, _ONE | _ZF | _PF)
RING3: Final = Setting("protected", 3, _ONE | _IF | _ZF | _PF)
SETTINGS: Final = (REAL, V86, RING0, RING3)
"""Kernels have interrupts off, and V86 has IOPL 3: with less, PUSHF, POPF, INT n and IRET would be #GP there."""


def _descriptor(base: int, limit: int, access: int, bits: int = 0) -> bytes:
    return Descriptor(base, limit, access << 8 | bits).to_bytes()


_ALL: Final = 0xFFFF_FFFF
_DESCRIPTORS: Final[Mapping[int, bytes]] = {
    KERNEL_CODE: _descriptor(0, _ALL, _CODE_RE, _FLAT),
    KERNEL_DATA: _descriptor(0, _ALL, _DATA_RW, _FLAT),
    USER_CODE: _descriptor(0, _ALL, _CODE_RE | _DPL3, _FLAT),
    USER_DATA: _descriptor(0, _ALL, _DATA_RW | _DPL3, _FLAT),
    CONFORMING: _descriptor(0, _ALL, _CODE_CONFORMING, _FLAT),
    MAIN_TSS: _descriptor(TSS, TSS_LIMIT, _TSS_BUSY),
    MAIN_LDT: _descriptor(LDT, LDT_LIMIT, _LDT_TYPE),
    OTHER_KERNEL_DATA: _descriptor(0, _ALL, _DATA_RW, _FLAT),
    OTHER_USER_DATA: _descriptor(0, _ALL, _DATA_RW | _DPL3, _FLAT),
}


def loaded(selector: int) -> SegmentRegister:
    """What a register holds once a selector of the GDT was loaded into it."""
    found = Descriptor.from_bytes(_DESCRIPTORS.get(selector) or _DESCRIPTORS[selector & ~3])
    return SegmentRegister(selector, found.base, found.limit, found.flags)


@cache
def first_memory() -> bytes:
    """The first 64 KiB as the guest finds them."""
    memory = bytearray(1 << 16)

    def put(at: int, *pieces: bytes) -> None:
        data = b"".join(pieces)
        memory[at : at + len(data)] = data

    for selector, descriptor in _DESCRIPTORS.items():
        put(GDT + (selector & ~7), descriptor)
    put(TSS + 4, word(KERNEL_STACK + STACK_SIZE), word(KERNEL_DATA))
    put(TSS + 0x66, word(_IO_MAP, 2), b"\xff" * 0x2000)
    for port in (DONE_PORT, DONE_PORT + 1):
        memory[TSS + _IO_MAP + port // 8] &= ~(1 << port % 8)
    for vector in range(256):
        put(4 * vector, word(HANDLERS + vector))
        dpl = 3 if vector in (3, 4, SYSTEM_CALL) else 0
        gate = Gate(HANDLERS + vector, KERNEL_CODE, SystemType.INTERRUPT_GATE32, dpl, True)
        put(IDT + 8 * vector, gate.to_bytes())
    put(HANDLERS, b"\xf4" * 256)
    return bytes(memory)


def word(value: int, size: int = 4) -> bytes:
    """`size` bytes, little-endian."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")
