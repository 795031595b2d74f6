"""The names of the engines, and of what can be chosen about them: for those who choose one without loading it."""

from enum import StrEnum


class EngineName(StrEnum):
    """A technique of virtualization."""

    TRANSLATE = "translate"  # binary translation
    TRAP = "trap"  # ring deprivileging: run in place, emulate what traps
    BARE = "bare"  # none: the guest is on the processor itself
    SVM = "svm"  # in guest mode, with hardware assistance

    @property
    def has_nested_paging(self) -> bool:
        """Can the guest walk its own page tables on nested ones?"""
        return self is EngineName.SVM

    @property
    def has_translation(self) -> bool:
        """Is guest code rewritten?"""
        return self is EngineName.TRANSLATE

    @property
    def has_rings(self) -> bool:
        """Is there a choice of the rings that the guest runs in?"""
        return self is EngineName.TRAP


class Rings(StrEnum):
    """The physical rings of the VMM, of a deprivileged guest's kernel, and of its users."""

    THREE = "0/1/3"
    TWO = "0/3"
