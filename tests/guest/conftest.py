"""Fixtures: a machine for each test, and whole-state cases on one that is made as new for each.

The modules of `UNCHANGED` are run on each engine that runs guests without changing what they see, those of `ON_TRAP`,
without one of the critical instructions, also under trap-and-emulate.
"""

from collections.abc import Callable
from functools import cache

import pytest
from bare_deviations import TRANSLATORS_OWN
from deviations import deviation_of
from guest_bench import Bench, Mode, Picture
from techniques import Technique

RunGuest = Callable[..., tuple[Picture, Picture]]
UNCHANGED = {
    "test_checks", "test_critical", "test_debug_registers", "test_devices_in_memory", "test_faults", "test_fpu", "test_interrupts", "test_mode_switches",
    "test_nx", "test_privileged", "test_sysenter",
}  # fmt: skip
NATIVE = [Technique.BARE, Technique.SVM, Technique.NPT]
ON_TRAP = {"test_hostile_paging", "test_nx", "test_privileged"}


def techniques_for(module: str, test: str) -> list[Technique]:
    """Those that a test is to pass on."""
    unchanged = module in UNCHANGED and test not in TRANSLATORS_OWN
    return [Technique.TRANSLATE] + [Technique.TRAP] * (module in ON_TRAP) + NATIVE * unchanged


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let every test with a machine run once for each of its engines."""
    module = metafunc.module.__name__
    if "engine" in metafunc.fixturenames and module in UNCHANGED | ON_TRAP:
        engines = techniques_for(module, metafunc.function.__name__)
        metafunc.parametrize("engine", engines, ids=str, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where an engine that runs guests in place deviates from the SDM, the test must show it."""
    for item in items:
        if not isinstance(item, pytest.Function) or getattr(item, "callspec", None) is None:
            continue
        engine = item.callspec.params.get("engine")
        if isinstance(engine, Technique):
            case = "-".join(part for part in item.callspec.id.split("-") if part != engine)
            what = deviation_of(engine, item.originalname, case)
            if what is not None:
                item.add_marker(pytest.mark.xfail(reason=what, strict=True))


@pytest.fixture(scope="session")
def engine() -> Technique:
    """Which engine runs the guest; `pytest_generate_tests` may ask for more than this one."""
    return Technique.TRANSLATE


@pytest.fixture
def bench(engine: Technique) -> Bench:
    """A fresh machine."""
    return Bench(engine=engine.engine, nested_paging=engine.nested_paging)


@cache
def _shared(engine: Technique) -> Bench:
    """No fixture: those of a session are kept for tests without the parameter and then given to those with it."""
    return Bench(engine=engine.engine, nested_paging=engine.nested_paging)


@pytest.fixture
def used_bench(engine: Technique) -> Bench:
    """A machine made as new: cheaper than a fresh one."""
    shared_bench = _shared(engine)
    shared_bench.recycle()
    return shared_bench


@pytest.fixture
def run_guest(used_bench: Bench) -> RunGuest:
    """`run_guest(code, mode, **before)`: the pictures before and after. What no case names must be the same in both."""

    def run(code: bytes | str, mode: Mode, **before: int) -> tuple[Picture, Picture]:
        return used_bench.run_case(code, mode, **before)

    return run
