"""What explains a difference, by the engine under test: Bochs has its own reasons to differ."""

from typing import Final

from vmm.differential import bochs_flaws
from vmm.differential.case import Case
from vmm.differential.flaws import FLAWS, Flaw
from vmm.differential.judge import Compare, judge

BOCHS: Final = "bochs"
EXPLANATIONS: Final = {flaw.name: flaw for flaw in (*bochs_flaws.DEVIATIONS, *FLAWS)}
"""All there are, by name."""


def explain(case: Case, compare: Compare) -> tuple[tuple[Flaw, ...], Case]:
    """What explains a case, nothing if it is a failure; and the program, spelt anew as far as that went, that still
    differs. `compare` runs a program on both engines."""
    if case.engine == BOCHS:
        return bochs_flaws.explain(case, compare)
    flaw, case = judge(case, compare)
    return (() if flaw is None else (flaw,)), case
