"""The stack as emulated pushes and pops see it: SS.B decides how the pointer wraps, the limit is checked, #SS raised.

A `Stack` is a working copy. Nothing of the vCPU changes until `commit`, and a frame is written as one, so that a
fault in the middle of it leaves no trace.

Source: Intel SDM Vol. 1, "Procedure Calls, Interrupts, and Exceptions"; Vol. 3A, "Limit Checking".
Not modelled: alignment checks (#AC) on these accesses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vmm.arch.descriptors import CODE, DEFAULT_BIG, EXPAND_DOWN, SELECTOR_ERROR, tss_layout
from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.layout import MASK32
from vmm.arch.registers import Reg, Seg
from vmm.cpu.segments import Entry, selector_fault, stack_entry
from vmm.cpu.vcpu import LinearMemory, SegmentRegister, Vcpu

_SS: Final = int(Seg.SS)
_ESP: Final = int(Reg.ESP)
_MASK16: Final = 0xFFFF


def in_limit(segment: SegmentRegister, offset: int, count: int) -> bool:
    """Whether `count` bytes at a 32-bit offset lie inside the segment, expand-down ones included."""
    last = offset + count - 1
    if segment.flags & (CODE | EXPAND_DOWN) == EXPAND_DOWN:
        return offset > segment.limit and last <= (MASK32 if segment.flags & DEFAULT_BIG else _MASK16)
    return last <= segment.limit


@dataclass(slots=True)
class Stack:
    """A working copy of a stack.

    `user` tells whether its accesses count as CPL 3; `error_code` is what #SS carries: 0 on the current stack, the
    new SS selector on the way to an inner one.
    """

    memory: LinearMemory
    segment: SegmentRegister
    pointer: int
    user: bool
    error_code: int = 0

    @classmethod
    def current(cls, vcpu: Vcpu) -> "Stack":
        """The stack the guest is on."""
        return cls(vcpu.memory, vcpu.segment(_SS), vcpu.reg32(_ESP), vcpu.cpl == 3)

    @property
    def mask(self) -> int:
        """What the pointer wraps at."""
        return MASK32 if self.segment.flags & DEFAULT_BIG else _MASK16

    def check_room(self, count: int, size: int) -> None:
        """#SS unless the limit leaves room for `count` pushes of `size` bytes. Memory is not touched."""
        top, total = self.pointer & self.mask, count * size
        if 0 < top < total:
            for index in range(1, count + 1):
                self._check(top - index * size & self.mask, size)
        else:
            self._check(top - total & self.mask, total)

    def push(self, values: Sequence[int], size: int) -> None:
        """Push values of `size` bytes each, first one first. Raises: GuestFault #SS, #PF, with nothing written."""
        total = len(values) * size
        bottom = (self.pointer & self.mask) - total
        if bottom < 0 < self.pointer & self.mask:
            self._push_wrapping(values, size)
            return
        bottom &= self.mask
        self._check(bottom, total)
        clip = (1 << 8 * size) - 1
        data = b"".join((value & clip).to_bytes(size, "little") for value in reversed(values))
        try:
            self.memory.write_bytes(self._linear(bottom), data, self.user)
        except GuestFault:
            self._check_each(len(values), size)
            raise
        self.pointer = bottom

    def _check_each(self, count: int, size: int) -> None:
        """Raise the fault of the first push that faults: each is an access of its own, from the top down."""
        for index in range(1, count + 1):
            la = self._linear((self.pointer & self.mask) - index * size & self.mask)
            self.memory.check_write(la, size, self.user)

    def _push_wrapping(self, values: Sequence[int], size: int) -> None:
        """The same for a frame that wraps around offset 0: checked piece by piece, then written."""
        pointer = self.pointer
        clip = (1 << 8 * size) - 1
        writes: list[tuple[int, int]] = []
        for value in values:
            pointer = pointer - size & self.mask
            self._check(pointer, size)
            self.memory.check_write(self._linear(pointer), size, self.user)
            writes.append((self._linear(pointer), value & clip))
        for address, value in writes:
            self.memory.write(address, size, value, self.user)
        self.pointer = pointer

    def pop(self, count: int, size: int) -> list[int]:
        """Pop `count` values of `size` bytes each, in the order they come off. Raises: GuestFault #SS, #PF."""
        if not count:
            return []
        total = count * size
        offset = self.pointer & self.mask
        if offset + total - 1 > self.mask:
            return [self._pop_one(size) for _ in range(count)]
        self._check(offset, total)
        data = self.memory.read_bytes(self._linear(offset), total, self.user)
        self.pointer = offset + total & self.mask
        return [int.from_bytes(data[at : at + size], "little") for at in range(0, total, size)]

    def _pop_one(self, size: int) -> int:
        offset = self.pointer & self.mask
        self._check(offset, size)
        value = self.memory.read(self._linear(offset), size, self.user)
        self.pointer = offset + size & self.mask
        return value

    def release(self, count: int) -> None:
        """Drop bytes without looking at them."""
        self.pointer = self.pointer + count & self.mask

    def commit(self, vcpu: Vcpu) -> None:
        """Write the pointer back: ESP, or only SP when SS.B is clear (bits 31:16 keep what they held)."""
        vcpu.set_reg(_ESP, 4 if self.segment.flags & DEFAULT_BIG else 2, self.pointer)

    def _linear(self, offset: int) -> int:
        return self.segment.base + offset & MASK32

    def _check(self, offset: int, count: int) -> None:
        if not in_limit(self.segment, offset, count):
            raise GuestFault(Vector.SS, self.error_code)


def inner_stack(vcpu: Vcpu, privilege: int) -> tuple[Entry, Stack]:
    """The stack of an inner ring as the current TSS gives it, checked, and its descriptor entry.

    Raises: GuestFault #TS(TR) when the TSS is too short, #TS(new SS), #SS(new SS) when not present, #PF.
    Source: SDM Vol. 2A, "INT n/INTO/INT3/INT1 - Call to Interrupt Procedure", INTER-PRIVILEGE-LEVEL-INTERRUPT.
    """
    layout = tss_layout(vcpu.tr.flags)
    pointer_at, selector_at = layout.stack_fields(privilege)
    if selector_at + 1 > vcpu.tr.limit:
        raise selector_fault(Vector.TS, vcpu.tr.selector)
    pointer = vcpu.memory.read(vcpu.tr.base + pointer_at & MASK32, layout.word, False)
    selector = vcpu.memory.read(vcpu.tr.base + selector_at & MASK32, 2, False)
    entry = stack_entry(vcpu, selector, privilege, Vector.TS)
    new = Stack(vcpu.memory, entry.register(privilege), pointer, False)
    new.error_code = selector & SELECTOR_ERROR
    return entry, new
