"""Segment descriptors, gates and task-state segments as they lie in memory.

Source: Intel SDM Vol. 3A, "Segment Descriptors", "System Descriptor Types", "Call Gates", "IDT Descriptors",
"Task-State Segment (TSS)", "16-Bit Task-State Segment (TSS)".
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

DESCRIPTOR_SIZE: Final = 8
SELECTOR_RPL: Final = 3
SELECTOR_TI: Final = 1 << 2
SELECTOR_INDEX: Final = 0xFFF8
SELECTOR_ERROR: Final = 0xFFFC  # the part of a selector that goes into an error code

# Dword 1 of a descriptor.
TYPE_SHIFT: Final = 8
ACCESSED: Final = 1 << 8
WRITABLE: Final = 1 << 9  # data segments; READABLE for code
READABLE: Final = 1 << 9
EXPAND_DOWN: Final = 1 << 10  # data segments; CONFORMING for code
CONFORMING: Final = 1 << 10
CODE: Final = 1 << 11
NOT_SYSTEM: Final = 1 << 12  # S
DPL_SHIFT: Final = 13
PRESENT: Final = 1 << 15
DEFAULT_BIG: Final = 1 << 22  # D for code, B for data
GRANULARITY: Final = 1 << 23
FLAGS_MASK: Final = 0x00F0_FF00
ACCESS_BYTE: Final = 5  # the byte with type, S, DPL and P

TSS_BUSY: Final = 1 << 1  # in the access byte, and in the type


class SystemType(IntEnum):
    """The type field of a descriptor with S clear (SDM Vol. 3A, "System-Segment and Gate-Descriptor Types")."""

    TSS16_AVAILABLE = 1
    LDT = 2
    TSS16_BUSY = 3
    CALL_GATE16 = 4
    TASK_GATE = 5
    INTERRUPT_GATE16 = 6
    TRAP_GATE16 = 7
    TSS32_AVAILABLE = 9
    TSS32_BUSY = 11
    CALL_GATE32 = 12
    INTERRUPT_GATE32 = 14
    TRAP_GATE32 = 15


TSS_AVAILABLE: Final = frozenset({int(SystemType.TSS16_AVAILABLE), int(SystemType.TSS32_AVAILABLE)})
TSS_IN_USE: Final = frozenset({int(SystemType.TSS16_BUSY), int(SystemType.TSS32_BUSY)})
CALL_GATES: Final = frozenset({int(SystemType.CALL_GATE16), int(SystemType.CALL_GATE32)})
INTERRUPT_GATES: Final = frozenset({int(SystemType.INTERRUPT_GATE16), int(SystemType.INTERRUPT_GATE32)})
TRAP_GATES: Final = frozenset({int(SystemType.TRAP_GATE16), int(SystemType.TRAP_GATE32)})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A segment descriptor.

    `base` 32 bits, `limit` 32 bits in bytes with the granularity applied, `flags` dword 1 without its base and limit
    bits: type 11:8, S 12, DPL 14:13, P 15, AVL 20, D/B 22, G 23.
    """

    base: int
    limit: int
    flags: int

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Descriptor":
        """Decode eight bytes. Gates decode too, with a meaningless base and limit: ask `system_type` first."""
        low = int.from_bytes(raw[:4], "little")
        high = int.from_bytes(raw[4:8], "little")
        base = low >> 16 | (high & 0xFF) << 16 | high & 0xFF00_0000
        limit = low & 0xFFFF | high & 0x000F_0000
        if high & GRANULARITY:
            limit = limit << 12 | 0xFFF
        return cls(base, limit, high & FLAGS_MASK)

    def to_bytes(self) -> bytes:
        """Encode to eight bytes; with G set the low twelve bits of the limit are lost, as in hardware."""
        limit = self.limit >> 12 if self.flags & GRANULARITY else self.limit
        low = limit & 0xFFFF | (self.base & 0xFFFF) << 16
        high = self.base >> 16 & 0xFF | limit & 0x000F_0000 | self.flags & FLAGS_MASK | self.base & 0xFF00_0000
        return low.to_bytes(4, "little") + high.to_bytes(4, "little")

    @property
    def type(self) -> int:
        """The four type bits."""
        return self.flags >> TYPE_SHIFT & 15

    @property
    def is_system(self) -> bool:
        """S is clear: a gate, a TSS or an LDT."""
        return not self.flags & NOT_SYSTEM

    @property
    def system_type(self) -> int | None:
        """The type of a system descriptor, None for code and data."""
        return None if self.flags & NOT_SYSTEM else self.flags >> TYPE_SHIFT & 15

    @property
    def is_code(self) -> bool:
        """A code segment."""
        return self.flags & (NOT_SYSTEM | CODE) == NOT_SYSTEM | CODE

    @property
    def is_data(self) -> bool:
        """A data segment."""
        return self.flags & (NOT_SYSTEM | CODE) == NOT_SYSTEM

    @property
    def is_conforming(self) -> bool:
        """A conforming code segment."""
        return self.is_code and bool(self.flags & CONFORMING)

    @property
    def is_readable(self) -> bool:
        """Data, or code that may be read."""
        return self.is_data or (self.is_code and bool(self.flags & READABLE))

    @property
    def is_writable(self) -> bool:
        """Data that may be written."""
        return self.is_data and bool(self.flags & WRITABLE)

    @property
    def is_expand_down(self) -> bool:
        """Data whose valid offsets lie above the limit."""
        return self.is_data and bool(self.flags & EXPAND_DOWN)

    @property
    def is_accessed(self) -> bool:
        """The accessed bit of a code or data segment."""
        return bool(self.flags & ACCESSED)

    @property
    def dpl(self) -> int:
        """Descriptor privilege level, 0-3."""
        return self.flags >> DPL_SHIFT & 3

    @property
    def is_present(self) -> bool:
        """P."""
        return bool(self.flags & PRESENT)

    @property
    def is_default_big(self) -> bool:
        """D of a code segment, B of a data segment."""
        return bool(self.flags & DEFAULT_BIG)


@dataclass(frozen=True, slots=True)
class Gate:
    """A call, interrupt, trap or task gate.

    `offset` is 16 bits in a 16-bit gate; `param_count` (0-31, words or dwords) means something in call gates only.
    """

    offset: int
    selector: int
    type: int
    dpl: int
    present: bool
    param_count: int = 0

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Gate":
        """Decode eight bytes. S is taken for clear: see `is_gate`."""
        gate_type = raw[ACCESS_BYTE] & 15
        offset = int.from_bytes(raw[:2], "little")
        if gate_type & 8:
            offset |= int.from_bytes(raw[6:8], "little") << 16
        access = raw[ACCESS_BYTE]
        return cls(
            offset, int.from_bytes(raw[2:4], "little"), gate_type, access >> 5 & 3, bool(access & 0x80), raw[4] & 31
        )

    def to_bytes(self) -> bytes:
        """Encode to eight bytes."""
        access = self.type | self.dpl << 5 | (0x80 if self.present else 0)
        return (
            (self.offset & 0xFFFF).to_bytes(2, "little")
            + self.selector.to_bytes(2, "little")
            + bytes((self.param_count, access))
            + (self.offset >> 16).to_bytes(2, "little")
        )

    @property
    def size(self) -> int:
        """Width in bytes of what the gate pushes: 4 for a 32-bit gate, else 2."""
        return 4 if self.type & 8 else 2


@lru_cache(maxsize=4096)
def decode_gate(raw: bytes) -> Gate:
    """`Gate.from_bytes`, remembered: an IDT holds few gates and each is decoded at every delivery."""
    return Gate.from_bytes(raw)


@dataclass(frozen=True, slots=True)
class TssLayout:
    """Byte offsets in a task-state segment; fields are `word` bytes apart, selectors always 16 bits wide.

    General registers follow `registers` in encoding order; `segments` holds ES CS SS DS (FS GS) in encoding order.
    """

    word: int
    size: int
    stacks: int  # SP0; SS0 follows one word later, then SP1
    instruction_pointer: int
    flags: int
    registers: int
    segments: int
    segment_count: int
    ldt: int
    link: int = 0

    def stack_fields(self, privilege: int) -> tuple[int, int]:
        """Where (SPn, SSn) of privilege level 0-2 are."""
        at = self.stacks + privilege * 2 * self.word
        return at, at + self.word


TSS16: Final = TssLayout(2, 0x2C, 0x02, 0x0E, 0x10, 0x12, 0x22, 4, 0x2A)
TSS32: Final = TssLayout(4, 0x68, 0x04, 0x20, 0x24, 0x28, 0x48, 6, 0x60)
TSS32_CR3: Final = 0x1C
TSS32_TRAP: Final = 0x64  # bit 0: T, a debug exception after the switch
TSS32_IO_MAP: Final = 0x66  # 16 bits: offset of the I/O permission bit map


def tss_layout(flags: int) -> TssLayout:
    """The layout that a TSS descriptor's dword 1 calls for."""
    return TSS32 if flags >> TYPE_SHIFT & 8 else TSS16
