"""Every selector with every RPL and every type of descriptor, into a data register and into SS.

What must happen is computed from the manual's rules alone. Source: Intel SDM Vol. 2B, "MOV - Move", "Operation"; Vol.
3A, "Privilege Level Checking When Accessing Data Segments" and "Privilege Level Checking when Loading the SS Register".
"""

from typing import Final

from vmm.arch.descriptors import Descriptor
from vmm.arch.exceptions import Vector
from vmm.lab.attacks.guest import (
    FREE,
    GDT,
    GDT_LIMIT,
    KERNEL_DATA,
    SURVIVED,
    USER_DATA,
    Attack,
    Event,
    descriptor,
)

_COUNT: Final = 256
_EXPAND_DOWN: Final = range(4, 8)
_LAST: Final = FREE + 8 * (_COUNT + 2)
"""Two empty descriptors follow those of all kinds."""
OUTSIDE: Final = (GDT_LIMIT + 1, 0xFFF8)


def _table() -> bytes:
    """A descriptor of each type, S, DPL and P, flat."""
    entries = []
    for number in range(_COUNT):
        kind, is_segment, dpl, present = number & 15, number >> 4 & 1, number >> 5 & 3, number >> 7
        limit = 0 if is_segment and kind in _EXPAND_DOWN else 0xFFFF_FFFF
        entries.append(descriptor(0, limit, present << 7 | dpl << 5 | is_segment << 4 | kind))
    return b"".join(entries)


TABLE: Final = _table()


def _selectors() -> list[int]:
    return [at | rpl for at in (*range(FREE, _LAST, 8), *OUTSIDE) for rpl in range(4)]


def _descriptor_of(selector: int) -> Descriptor | None:
    """None beyond the table's limit; empty ones have P and S clear."""
    at = selector & 0xFFF8
    if at > GDT_LIMIT:
        return None
    raw = TABLE[at - FREE : at - FREE + 8]
    return Descriptor.from_bytes(raw or bytes(8))


def load_data(selector: int, cpl: int) -> Event:
    """What MOV to DS, ES, FS or GS of a selector that is not null ends in."""
    found = _descriptor_of(selector)
    code = selector & 0xFFFC
    if found is None or found.is_system or not found.is_readable:
        return Vector.GP, code
    if not found.is_conforming and found.dpl < max(cpl, selector & 3):
        return Vector.GP, code
    return (SURVIVED, 0) if found.is_present else (int(Vector.NP), code)


def load_stack(selector: int, cpl: int) -> Event:
    """What MOV to SS of a selector that is not null ends in."""
    found = _descriptor_of(selector)
    code = selector & 0xFFFC
    if found is None or found.is_system or not found.is_writable or not found.dpl == selector & 3 == cpl:
        return Vector.GP, code
    return (SURVIVED, 0) if found.is_present else (int(Vector.SS), code)


def _text(register: str, flat: int) -> str:
    """Each selector in ESI and EDX; `flat` is what the register holds between two attempts."""
    outside = "\n".join(
        f"    mov esi, {at:#x}\n    mov dword ptr [resume_at], {label}f\n    jmp all_rpls\n{label}:"
        for label, at in zip((7, 8), OUTSIDE, strict=True)
    )
    return f"""
    mov esi, {FREE}
next:
    mov dword ptr [resume_at], 6f
    jmp all_rpls
6:  add esi, 8
    cmp esi, {_LAST}
    jb next
{outside}
    jmp over
resume_at:
    .long 0
all_rpls:
    xor edx, edx
rpl:
    mov dword ptr [0x7f800], 1f
    lea eax, [esi + edx]
    mov {register}, ax
    int {SURVIVED:#x}
1:  mov eax, {flat}
    mov {register}, ax
    inc edx
    cmp edx, 4
    jb rpl
    jmp dword ptr [resume_at]
over:
"""


def attacks() -> tuple[Attack, ...]:
    """Of ring 0 and ring 3, for FS and SS."""
    made = []
    for ring, flat in ((0, KERNEL_DATA), (3, USER_DATA)):
        for register, rule in (("fs", load_data), ("ss", load_stack)):
            made.append(
                Attack(
                    f"selectors in {register.upper()}, ring {ring}",
                    f"load {register.upper()} with every type, DPL, P and RPL, and from beyond the GDT",
                    _text(register, flat),
                    tuple(rule(selector, ring) for selector in _selectors()),
                    ring,
                    {GDT + FREE: TABLE},
                )
            )
    return tuple(made)
