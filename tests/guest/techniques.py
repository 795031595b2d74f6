"""The ways to run a guest that the tests compare: an engine, and for guest mode the kind of page tables."""

from enum import StrEnum

from vmm.engines.names import EngineName


class Technique(StrEnum):
    """Named as test ids show it."""

    TRANSLATE = "translate"
    BARE = "bare"
    SVM = "svm"
    NPT = "svm_npt"

    @property
    def engine(self) -> EngineName:
        """The engine's name."""
        return EngineName(self.value.removesuffix("_npt"))

    @property
    def nested_paging(self) -> bool:
        """Does the guest walk its own tables, on nested ones?"""
        return self is Technique.NPT
