"""What explains a difference: the flaws of the processor, tried one after the other."""

from collections.abc import Callable
from typing import Final, NamedTuple

from vmm.differential.case import Case
from vmm.differential.flaws import FLAWS, Flaw
from vmm.differential.neutral import respelt
from vmm.differential.outcome import TASK
from vmm.differential.plainer import SIMPLIFY, Simplify, gates_in_order
from vmm.differential.program import Program

_SPELT: Final = tuple(flaw for flaw in FLAWS if flaw.spelling is not None)
_RECOGNISED: Final = tuple(flaw for flaw in FLAWS if flaw.spelling is None)

Compare = Callable[[Program], Case]


_ENDINGS: Final = frozenset(("ending", "stops"))


class Verdict(NamedTuple):
    """What explains a case, or None; and the program, spelt anew as far as that went, that still differs."""

    flaw: Flaw | None
    case: Case


def judge(case: Case, compare: Compare) -> Verdict:
    """Explain a case, if it can be: `compare` runs a program on both engines.

    Where nothing is recognised, the program is looked at with less in the way, as long as that differs at the same
    place.
    """
    place = _place(case)
    while True:
        verdict = _judge_as_it_is(case, compare)
        if verdict.flaw is not None:
            return verdict
        simpler = _simpler(case, compare, place)
        if simpler is None:
            return verdict._replace(case=case)
        case = simpler


def _simpler(case: Case, compare: Compare, place: int) -> Case | None:
    for simplify in SIMPLIFY:
        program = simplify(case.program)
        if program != case.program:
            trial = compare(program)
            if trial.differences and (_place(trial) == place or _was_hidden(case, _place(trial), simplify)):
                return trial
    return None


def _was_hidden(case: Case, place: int, simplify: Simplify) -> bool:
    """Is that a stop before the one that differs, which shows little of where it came from: in a task, or behind gates
    of the program's own?"""
    different = _place(case)
    if not 0 <= place < (len(case.expected.stops) if different < 0 else different):
        return False
    return simplify is gates_in_order or case.expected.stops[place].where == TASK


def _place(case: Case) -> int:
    """The number of the stop at which a case differs; one that an engine did not come to counts, too."""
    number = case.differences[0].stop
    if number >= 0 or not {each.what for each in case.differences} & _ENDINGS:
        return number
    return min(len(case.got.stops), len(case.expected.stops))


def _judge_as_it_is(case: Case, compare: Compare, spelt: tuple[Flaw, ...] = _SPELT) -> Verdict:
    """Spellings come first, since they leave the rest of the program to be compared. Where one does not explain all,
    the rest is looked at in the same way.
    """
    for number, flaw in enumerate(spelt):
        if flaw.spelling is None or (flaw.when is not None and not flaw.when(case)):
            continue
        program = respelt(case.program, flaw.spelling)
        if program == case.program:
            continue
        trial = compare(program)
        if not trial.differences:
            return Verdict(flaw, trial)
        verdict = _judge_as_it_is(trial, compare, spelt[:number] + spelt[number + 1 :])
        if verdict.flaw is not None:
            return verdict
        break
    recognised = (flaw for flaw in _RECOGNISED if flaw.when is not None and flaw.when(case))
    return Verdict(next(recognised, None), case)
