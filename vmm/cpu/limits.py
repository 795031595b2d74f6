"""Segment checks of data accesses: present, type, limit.

Every access that emulation makes through a segment register goes through `check`; cached code makes the same checks in
its own way (see `bt.segment_checks`), and comes here where it is in doubt.

In real mode the type of a segment is not looked at: writes through CS pass there. A segment that is not present, as a
null selector of protected mode leaves it, is of no use in any mode.

Source: Intel SDM Vol. 3A, "Limit Checking", "Type Checking", "Null Segment Selector Checking"; Vol. 3B, "Real-Address
Mode Operation"; Vol. 3A, "Interrupt 12 - Stack Fault Exception (#SS)": what goes through SS is #SS(0), all else #GP(0).
"""

from typing import Final

from vmm.arch.descriptors import CODE, DEFAULT_BIG, EXPAND_DOWN, PRESENT, READABLE, WRITABLE
from vmm.arch.exceptions import GuestFault, Vector, gp
from vmm.arch.layout import MASK32
from vmm.arch.registers import Seg
from vmm.cpu.vcpu import Vcpu

_SS: Final = int(Seg.SS)
_MASK16: Final = 0xFFFF
_DOWNWARD: Final = CODE | EXPAND_DOWN


def bounds(limit: int, flags: int) -> tuple[int, int]:
    """The first and the last offset, 32 bits each, that a segment has; the last is below the first if it has none."""
    if flags & _DOWNWARD == EXPAND_DOWN:
        return limit + 1, MASK32 if flags & DEFAULT_BIG else _MASK16
    return 0, limit


def allows(flags: int, write: bool, is_real: bool) -> bool:
    """May a segment with these attributes (descriptor dword 1) be read, or written?"""
    if not flags & PRESENT:
        return False
    if is_real:
        return True
    if write:
        return flags & (CODE | WRITABLE) == WRITABLE
    return flags & (CODE | READABLE) != CODE


def segment_fault(seg: int) -> GuestFault:
    """What an access through a segment register earns that its segment forbids."""
    return GuestFault(Vector.SS, 0) if seg == _SS else gp()


def room(vcpu: Vcpu, seg: int, offset: int, write: bool) -> int:
    """Bytes from a 32-bit offset on that may be accessed; 0 if none may."""
    flags = vcpu.flags_of(seg)
    if not allows(flags, write, vcpu.is_real):
        return 0
    first, last = bounds(vcpu.limit(seg), flags)
    return max(last - offset + 1, 0) if offset >= first else 0


def is_allowed(vcpu: Vcpu, seg: int, offset: int, size: int, write: bool) -> bool:
    """May `size` bytes at a 32-bit offset be accessed? In a segment of 4 GiB an operand may go round its end."""
    left = room(vcpu, seg, offset, write)
    return left >= size or (left > 0 and offset + left > MASK32)


def check(vcpu: Vcpu, seg: int, offset: int, size: int, write: bool) -> None:
    """Raises: GuestFault: #SS(0) or #GP(0) if `size` bytes at a 32-bit offset of a segment may not be accessed."""
    if not is_allowed(vcpu, seg, offset, size, write):
        raise segment_fault(seg)
