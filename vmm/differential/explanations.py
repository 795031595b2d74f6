"""What explains a difference, by the engine under test: Bochs has its own reasons to differ."""

from typing import Final

from vmm.differential import bochs_flaws
from vmm.differential.case import Case
from vmm.differential.flaws import FLAWS, Flaw
from vmm.differential.judge import Compare, judge
from vmm.differential.outcome import Ending
from vmm.differential.plainer import gates_in_order
from vmm.differential.program import Program
from vmm.differential.segment_predicates import CHECKING

BOCHS: Final = "bochs"
_BIT_TESTS: Final = (b"\x0f\xa3", b"\x0f\xab", b"\x0f\xb3", b"\x0f\xbb")
_BIT_TEST_GROUP: Final = b"\x0f\xba"
UNSEEN: Final = Flaw(
    "segment checks unseen",
    "code that a gate of the program's own leads to is subject to them, too",
    'SDM Vol. 3A, "Limit Checking", "Type Checking"',
)
BARE: Final = "bare"
ABORTS: Final = Flaw(
    "aborts",
    "a guest cannot end its VMM",
    'docs/limits.md, "The bare processor": LOCK BT, BTS, BTR or BTC of a register ends the process',
)
EXPLANATIONS: Final = {
    flaw.name: flaw for flaw in (*bochs_flaws.DEVIATIONS, bochs_flaws.NEW_CODE, *FLAWS, UNSEEN, ABORTS)
}
"""All there are, by name."""


def takes_bare_down(program: Program) -> bool:
    """Has it BT, BTS, BTR or BTC of a register, in front of which it may have written a LOCK? That ends the process."""
    code = program.assemble()[0]
    return any(
        code[at : at + 2] in _BIT_TESTS or (code[at : at + 2] == _BIT_TEST_GROUP and code[at + 2 : at + 3] >= b"\xe0")
        for at in range(len(code) - 2)
    )


def explain(case: Case, compare: Compare, unchecked: Compare | None = None) -> tuple[tuple[Flaw, ...], Case]:
    """What explains a case, nothing if it is a failure; and the program, spelt anew as far as that went, that still
    differs. `compare` runs a program on both engines, `unchecked` the one under test without segment checks."""
    if case.engine == BOCHS:
        return bochs_flaws.explain(case, compare)
    flaw, judged = judge(case, compare)
    if flaw is None and unchecked is not None and _has_gates(case) and _is_of_checks(case, unchecked):
        return (UNSEEN,), case
    return (() if flaw is None else (flaw,)), judged


def _is_of_checks(case: Case, unchecked: Compare) -> bool:
    """Is there no difference without segment checks? Or has it no end, as when the limit of CS is met, which is checked
    in any case, and its fault leads nowhere?"""
    return case.got.ending is Ending.ENDLESS or not unchecked(case.program).differences


def _has_gates(case: Case) -> bool:
    """Has the program gates of its own?"""
    return case.engine in CHECKING and gates_in_order(case.program) != case.program
