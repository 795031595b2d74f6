"""Which cells of `vmm lab critical` are wrong under which engine, and why: written down before anything runs.

Under `trap` the guest's code runs in place, in the 0/1/3 model: a kernel at CPL 1, a user at CPL 3, real mode and V86
in V86 with IOPL 0. Whatever the SDM does not let trap there shows the physical processor's state. Under `bare` the
processor below is wrong by itself. No other engine may be wrong anywhere.
"""

from collections.abc import Iterable, Mapping
from typing import Final

Key = tuple[str, str, str, int]
"""Instruction, form, mode, ring."""

_REAL, _V86, _KERNEL, _USER = ("real", 0), ("v86", 3), ("protected", 0), ("protected", 3)
_WORDS: Final = ("r16", "r32", "m16")
_SIZES: Final = ("16-bit", "32-bit")


def _cells(instruction: str, forms: Iterable[str], *places: tuple[str, int]) -> list[Key]:
    return [(instruction, form, mode, ring) for form in forms for mode, ring in places]


_REASONS: Final[Mapping[str, list[Key]]] = {
    "stores the physical table register, at any CPL (SDM Vol. 2B, SGDT; SIDT: no exception but for the store)": [
        *_cells("SGDT", ("m16&32",), _REAL, _V86, _KERNEL, _USER),
        *_cells("SIDT", ("m16&32",), _REAL, _V86, _KERNEL, _USER),
    ],
    "stores the physical CR0, at any CPL: PE is set where the guest is in real mode, NE where it has not set it "
    "(SDM Vol. 2B, SMSW)": _cells("SMSW", _WORDS, _REAL, _V86, _KERNEL, _USER),
    "stores the physical LDTR, at any CPL (SDM Vol. 2B, SLDT)": _cells("SLDT", _WORDS, _KERNEL, _USER),
    "stores the physical TR, at any CPL (SDM Vol. 2B, STR)": _cells("STR", _WORDS, _KERNEL, _USER),
    "pushes the physical EFLAGS, whose IF is set while a guest runs (SDM Vol. 2B, PUSHF)": _cells(
        "PUSHF", _SIZES, _KERNEL
    ),
    "at a CPL above 0 it leaves IOPL as it is, and above IOPL also IF, without a fault (SDM Vol. 2B, POPF)": _cells(
        "POPF", _SIZES, _KERNEL
    ),
    "shows the raised DPL of the shadow descriptor (SDM Vol. 2A, LAR)": _cells(
        "LAR", ("r16, r16", "r16, m16", "r32, r32", "r32, m16"), _KERNEL, _USER
    ),
    "the shadow table has no TSS (SDM Vol. 2A, LSL: ZF is cleared for a descriptor that is not there)": _cells(
        "LSL", ("r16, r16", "r16, m16", "r32, r32", "r32, m16"), _KERNEL
    ),
    "ring 1's RPL passes against the raised DPL, where DPL 0 would have refused it (SDM Vol. 2B, VERR/VERW)": [
        *_cells("VERR", ("r16", "m16"), _KERNEL),
        *_cells("VERW", ("r16", "m16"), _KERNEL),
    ],
    "shows RPL 1, the ring that the kernel is in (SDM Vol. 3A, Segment Selectors: the RPL of CS and SS is CPL)": [
        *_cells("PUSH", (f"{seg}, {size}" for seg in ("CS", "SS") for size in _SIZES), _KERNEL),
        *_cells("MOV", (f"{to}, {seg}" for seg in ("CS", "SS") for to in _WORDS), _KERNEL),
        *_cells("CALL", ("ptr16:16", "ptr16:32", "m16:16", "m16:32"), _KERNEL),
    ],
}

DEVIATIONS: Final[Mapping[str, Mapping[Key, str]]] = {
    "bare": {("PUSHF", "32-bit", *_V86): 'pushes VM as it is, where the SDM clears it (Vol. 2B, PUSHF, "Operation")'},
    "trap": {key: reason for reason, keys in _REASONS.items() for key in keys},
}
"""By engine: the cells that are wrong, and why."""
