"""An engine that ends its process costs one case, and is named for it."""

import faulthandler
import os
import signal
from collections.abc import Iterator, Sequence

import pytest

from vmm.errors import Unmodelled
from vmm.lab.children import each_case, gather


def test_what_the_child_yields_comes_back_in_order() -> None:
    assert gather(lambda: iter(range(5))) == ([0, 1, 2, 3, 4], "")


def test_the_child_is_another_process() -> None:
    assert gather(lambda: [os.getpid()])[0] != [os.getpid()]


def test_an_abort_ends_one_case_and_the_others_go_on() -> None:
    def work(cases: Sequence[str]) -> Iterator[str]:
        for case in cases:
            if case == "bad":
                faulthandler.disable()  # pytest's: it would tell of what is meant to happen
                os.abort()
            yield case.upper()

    results = each_case(["a", "bad", "b", "bad", "c"], work, lambda case, ending: f"{case}: {ending}")
    died = "bad: the engine ended its process: SIGABRT"
    assert results == ["A", died, "B", died, "C"]


def test_a_child_that_leaves_is_named_by_its_status() -> None:
    def work() -> Iterator[int]:
        yield 1
        os._exit(7)

    assert gather(work) == ([1], "the engine's process ended with status 7")


def test_a_child_that_is_killed_is_named_by_the_signal() -> None:
    def work() -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield 1

    assert gather(work) == ([], "the engine ended its process: SIGKILL")


def test_what_the_engine_refuses_comes_back_as_its_error() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise Unmodelled("no such thing")

    with pytest.raises(Unmodelled, match="no such thing"):
        gather(work)
