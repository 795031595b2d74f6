"""The processor tester on our engines and on Bochs, which judges the tester.

Its tests are assembly, `cpu_tester/*.s`. What fails on an engine must be exactly what `cpu_tester/ENGINE.failures` lists
under rules of `docs/limits.md`; `python -m tools.cpu_tester --on ENGINE --update` brings a list up to date.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tools import cpu_tester
from tools.cpu_tester import BOCHS, ENDS_THE_VMM, Verdicts, expected_failures, read_verdicts

LIMITS = Path(__file__).parents[1] / "docs" / "limits.md"
ENGINES = ["translate", *(pytest.param(engine, marks=pytest.mark.long) for engine in ("bare", "svm"))]


@pytest.fixture(scope="session")
def rom(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return cpu_tester.assemble(tmp_path_factory.mktemp("cpu_tester"))


@pytest.fixture(scope="session")
def verdicts(rom: bytes):
    """Return `on(place)`: what the tester said there."""
    return cache(lambda place: cpu_tester.run_on(place, rom))


def as_lines(tests: dict[str, str]) -> set[str]:
    return {f"{number} {name}" for number, name in tests.items()}


def assert_as_listed(place: str, said: Verdicts, again: Callable[[], Verdicts]) -> None:
    """What passes although it is listed must do so twice: a preemption at the right place can let an engine be right."""
    assert said.is_complete, said.text[-2000:]
    listed = expected_failures(place)
    left_out = set(listed.pop(ENDS_THE_VMM, ()))
    known = {line for lines in listed.values() for line in lines}
    assert left_out <= as_lines(said.skipped)
    failed = as_lines(said.failed)
    assert sorted(failed - known) == []
    passing = known - failed
    if passing:
        passing -= as_lines(again().failed)
    assert sorted(passing) == [], "these pass now: take them from the list"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_fails_on_an_engine_is_what_its_list_says(verdicts, rom: bytes, engine: str) -> None:
    assert_as_listed(engine, verdicts(engine), lambda: cpu_tester.run_on(engine, rom))


def test_com1_has_what_port_e9_has_to_the_end(verdicts) -> None:
    said: Verdicts = verdicts("translate")
    assert said.serial == said.text


@pytest.mark.parametrize("engine", ENGINES)
def test_each_failure_stands_under_a_rule_of_the_limits(engine: str) -> None:
    limits = LIMITS.read_text()
    assert [rule for rule in expected_failures(engine) if f"| {rule}" not in limits] == []


def test_no_two_tests_have_the_same_number_or_name(verdicts) -> None:
    said: Verdicts = verdicts("translate")
    names = Counter((said.passed | said.failed | said.skipped).values())
    assert [name for name, count in names.items() if count > 1] == []
    assert len(said.passed) + len(said.failed) == said.count


@pytest.mark.long
def test_bochs_passes_every_test_but_those_that_say_why_it_is_wrong(verdicts) -> None:
    assert_as_listed(BOCHS, verdicts(BOCHS), lambda: verdicts(BOCHS))


def test_a_test_that_is_left_out_asks_for_a_feature_that_no_processor_has(rom: bytes) -> None:
    changed = cpu_tester.leave_out(rom, {"V86+3: INT3 comes back"})
    assert sum(before != after for before, after in zip(rom, changed, strict=True)) == 1
    assert cpu_tester.leave_out(rom, {"no such test"}) == rom


def test_a_run_that_ends_early_is_not_complete() -> None:
    said = read_verdicts("processor tester\r\n0101 ok   one\r\n0102 BAD  two\r\n expected 1 got 2\r\n0103")
    assert (said.passed, said.failed, said.is_complete) == ({"0101": "one"}, {"0102": "two"}, False)


# JMP F000:0000; there MOV AX, E000h; MOV DS, AX; MOV AL, [1234h]; OUT E9h, AL; MOV AL, 5; OUT F4h, AL; HLT. From 128 KiB
# on, what is at E0000h is the ROM's.
RESET = bytes.fromhex("ea000000f0")
AT_F0000 = bytes.fromhex("b800e0 8ed8 a03412 e6e9 b005 e6f4 f4")


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_a_rom_of_each_size_runs_from_the_reset_vector(tmp_path: Path, size: int) -> None:
    image = bytearray(size << 10)
    if size > 64:
        image[-0x20000 + 0x1234] = ord("!")
    image[-0x10000 : -0x10000 + len(AT_F0000)] = AT_F0000
    image[-16 : -16 + len(RESET)] = RESET
    assert cpu_tester.run_on_engine(bytes(image), "translate", 60)[0] == ("!" if size > 64 else "\xff")
