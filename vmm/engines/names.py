"""The names of the engines, and of what can be chosen about them: for those who choose one without loading it."""

from enum import StrEnum
from typing import Final


class EngineName(StrEnum):
    """A technique of virtualization."""

    TRANSLATE = "translate"  # binary translation
    TRAP = "trap"  # ring deprivileging: run in place, emulate what traps
    BARE = "bare"  # none: the guest is on the processor itself


class Rings(StrEnum):
    """The physical rings of the VMM, of a deprivileged guest's kernel, and of its users."""

    THREE = "0/1/3"
    TWO = "0/3"


TAKES_RINGS: Final = frozenset({EngineName.TRAP})
"""Engines for which there is a choice of rings."""
