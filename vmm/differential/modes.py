"""The modes in which programs run, by what decides how an instruction behaves.

Source: SDM Vol. 3A, "Modes of Operation", "Privilege Levels"; Vol. 1, "I/O Privilege Level".
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """An operating mode."""

    REAL = "real"
    V86 = "v86"
    PROTECTED = "protected"


class Paging(StrEnum):
    """A paging mode."""

    NONE = "none"
    BITS_32 = "32-bit"
    PAE = "PAE"


@dataclass(frozen=True, slots=True)
class Mode:
    """`ring` is the CPL, `code32` CS.D and SS.B, `iopl` what EFLAGS.IOPL starts with (None: each program chooses)."""

    name: str
    kind: Kind
    ring: int
    code32: bool
    iopl: int | None = None

    @property
    def is_segmented(self) -> bool:
        """Do selectors name descriptors?"""
        return self.kind is Kind.PROTECTED

    @property
    def paging(self) -> tuple[Paging, ...]:
        """The paging modes that it can be in."""
        return (Paging.NONE,) if self.kind is Kind.REAL else tuple(Paging)


MODES: Final[dict[str, Mode]] = {
    mode.name: mode
    for mode in (
        Mode("real", Kind.REAL, 0, False, 0),
        Mode("v86-iopl0", Kind.V86, 3, False, 0),
        Mode("v86-iopl3", Kind.V86, 3, False, 3),
        *(Mode(f"p16-ring{ring}", Kind.PROTECTED, ring, False) for ring in range(4)),
        *(Mode(f"p32-ring{ring}", Kind.PROTECTED, ring, True) for ring in range(4)),
    )
}
