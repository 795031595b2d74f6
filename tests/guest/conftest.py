"""Fixtures: a machine for each test, and whole-state cases on one that is made as new for each.

The modules of `ON_EVERY_ENGINE` are run on each engine that runs guests without changing what they see.
"""

from collections.abc import Callable

import pytest
from bare_deviations import TRANSLATORS_OWN, deviation_of
from guest_bench import Bench, Mode, Picture

from vmm.engines.names import EngineName

RunGuest = Callable[..., tuple[Picture, Picture]]
ON_EVERY_ENGINE = {
    "test_critical", "test_debug_registers", "test_faults", "test_fpu", "test_interrupts", "test_mode_switches",
    "test_nx", "test_privileged", "test_sysenter",
}  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let every test with a machine run once for each engine."""
    if "engine" in metafunc.fixturenames and metafunc.module.__name__ in ON_EVERY_ENGINE:
        own = metafunc.function.__name__ in TRANSLATORS_OWN
        engines = [EngineName.TRANSLATE] if own else [EngineName.TRANSLATE, EngineName.BARE]
        metafunc.parametrize("engine", engines, ids=str, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where the bare processor deviates from the SDM, the test must show it."""
    for item in items:
        if not isinstance(item, pytest.Function) or getattr(item, "callspec", None) is None:
            continue
        if item.callspec.params.get("engine") is EngineName.BARE:
            case = "-".join(part for part in item.callspec.id.split("-") if part != EngineName.BARE)
            what = deviation_of(item.originalname, case)
            if what is not None:
                item.add_marker(pytest.mark.xfail(reason=what, strict=True))


@pytest.fixture(scope="session")
def engine() -> EngineName:
    """Which engine runs the guest; `pytest_generate_tests` may ask for more than this one."""
    return EngineName.TRANSLATE


@pytest.fixture
def bench(engine: EngineName) -> Bench:
    """A fresh machine."""
    return Bench(engine=engine)


@pytest.fixture(scope="session")
def shared_benches() -> dict[EngineName, Bench]:
    """One machine for each engine: a fixture of its own for each would outlive a change of `engine`."""
    return {}


@pytest.fixture
def used_bench(engine: EngineName, shared_benches: dict[EngineName, Bench]) -> Bench:
    """A machine made as new: cheaper than a fresh one."""
    bench = shared_benches.get(engine)
    if bench is None:
        bench = shared_benches[engine] = Bench(engine=engine)
    bench.recycle()
    return bench


@pytest.fixture
def run_guest(used_bench: Bench) -> RunGuest:
    """`run_guest(code, mode, **before)`: the pictures before and after. What no case names must be the same in both."""

    def run(code: bytes | str, mode: Mode, **before: int) -> tuple[Picture, Picture]:
        return used_bench.run_case(code, mode, **before)

    return run
