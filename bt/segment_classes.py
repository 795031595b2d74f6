"""Classes of segments: what the translator knows of a segment register when it decides how to check an access.

The class of each segment register is part of the key of a block, so code never meets a segment of another class than
it was made for. Exact limits are no part of it: code that needs one reads it from the vCPU page.
"""

from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from vmm.arch.descriptors import CODE, EXPAND_DOWN, PRESENT, READABLE, WRITABLE
from vmm.arch.layout import MASK32
from vmm.arch.registers import Seg

LIMIT_64K: Final = 0xFFFF


class SegmentClass(IntEnum):
    """What is known of one segment register. All but the last two are present, readable and not expand-down."""

    FLAT = 0  # writable, 4 GiB: every access passes
    NULLABLE = 1  # ring 0's FS or GS, which cached code loads by itself: FLAT, or a null selector
    WRAPPED = 2  # writable, exactly 64 KiB: what a 16-bit offset reaches, but for an operand across its end
    SHORT = 3  # writable, less than 64 KiB
    LONG = 4  # writable, more than 64 KiB
    CONSTANT = 5  # as FLAT, but not writable: also a flat code segment that may be read
    CONSTANT_WRAPPED = 6  # as WRAPPED, SHORT and LONG, but not writable: code and what it keeps beside itself
    CONSTANT_SHORT = 7
    CONSTANT_LONG = 8
    ODD = 9  # something else: expand-down, execute-only
    ABSENT = 10  # not present: a null selector

    __hash__ = int.__hash__  # Enum's own is Python code, and these are in the key of every block


Classes = tuple[SegmentClass, ...]
ALL_FLAT: Final = (SegmentClass.FLAT,) * len(Seg)
READ_AS: Final = {
    SegmentClass.CONSTANT: SegmentClass.FLAT,
    SegmentClass.CONSTANT_WRAPPED: SegmentClass.WRAPPED,
    SegmentClass.CONSTANT_SHORT: SegmentClass.SHORT,
    SegmentClass.CONSTANT_LONG: SegmentClass.LONG,
}
"""By the classes that cannot be written: the class whose reads they allow."""
_CONSTANT_AS: Final = {writable: constant for constant, writable in READ_AS.items()}
_WITH_LIMITS: Final = frozenset(
    (SegmentClass.SHORT, SegmentClass.LONG, SegmentClass.CONSTANT_SHORT, SegmentClass.CONSTANT_LONG)
)
_LOADED_BY_CODE: Final = (Seg.FS, Seg.GS)


@lru_cache(maxsize=1024)
def classify(limit: int, flags: int, is_real: bool) -> SegmentClass:
    """The class of a segment by its limit in bytes and its attributes (descriptor dword 1).

    In real mode nobody looks at the type (see `vmm.cpu.limits`).
    """
    if not flags & PRESENT:
        return SegmentClass.ABSENT
    is_code = bool(flags & CODE)
    if not is_code and flags & EXPAND_DOWN:
        return SegmentClass.ODD
    if not is_real and (is_code or not flags & WRITABLE):
        return _CONSTANT_AS[_by_limit(limit)] if not is_code or flags & READABLE else SegmentClass.ODD
    return _by_limit(limit)


def _by_limit(limit: int) -> SegmentClass:
    if limit == MASK32:
        return SegmentClass.FLAT
    if limit == LIMIT_64K:
        return SegmentClass.WRAPPED
    return SegmentClass.SHORT if limit < LIMIT_64K else SegmentClass.LONG


class Classified(NamedTuple):
    """The classes of all segment registers, and whether checks of one of them read its limit."""

    classes: Classes
    needs_limits: bool


@lru_cache(maxsize=1024)
def classify_all(limits: tuple[int, ...], flags: tuple[int, ...], is_real: bool, is_flat_kernel: bool) -> Classified:
    """The classes of all six segment registers. `is_flat_kernel`: code there may load FS and GS itself."""
    found = [classify(limit, each, is_real) for limit, each in zip(limits, flags, strict=True)]
    if is_flat_kernel:
        for seg in _LOADED_BY_CODE:
            if found[seg] in (SegmentClass.FLAT, SegmentClass.ABSENT):
                found[seg] = SegmentClass.NULLABLE
    return Classified(tuple(found), not _WITH_LIMITS.isdisjoint(found))
