"""The names of the engines: for those who choose one without loading it."""

from enum import StrEnum


class EngineName(StrEnum):
    """A technique of virtualization."""

    TRANSLATE = "translate"  # binary translation
    BARE = "bare"  # none: the guest is on the processor itself
    SVM = "svm"  # in guest mode, with hardware assistance

    @property
    def has_nested_paging(self) -> bool:
        """Can the guest walk its own page tables on nested ones?"""
        return self is EngineName.SVM
