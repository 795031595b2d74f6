"""Fixtures: a machine for each test, and whole-state cases on one that is made as new for each."""

from collections.abc import Callable

import pytest
from guest_bench import Bench, Mode, Picture

RunGuest = Callable[..., tuple[Picture, Picture]]


@pytest.fixture
def bench() -> Bench:
    """A fresh machine."""
    return Bench()


@pytest.fixture(scope="session")
def shared_bench() -> Bench:
    return Bench()


@pytest.fixture
def used_bench(shared_bench: Bench) -> Bench:
    """A machine made as new: cheaper than a fresh one."""
    shared_bench.recycle()
    return shared_bench


@pytest.fixture
def run_guest(used_bench: Bench) -> RunGuest:
    """`run_guest(code, mode, **before)`: the pictures before and after. What no case names must be the same in both."""

    def run(code: bytes | str, mode: Mode, **before: int) -> tuple[Picture, Picture]:
        return used_bench.run_case(code, mode, **before)

    return run
