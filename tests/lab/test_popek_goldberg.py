"""`vmm lab popek-goldberg`: what it counts, what it says of attacks, and when it fails."""

import json
from dataclasses import replace

import pytest

from vmm.cli.main import main
from vmm.engines.names import EngineName
from vmm.lab import control, efficiency, equivalence
from vmm.lab.attacks.guest import Attack, attempt
from vmm.lab.attacks.rig import Result
from vmm.lab.machine import engines

RIGHT = Result("attack", "what it tries", "translate", 3, 3, 0, 0, "", "ExitPort", ())


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str], efficiency.Efficiency]:
    return {(each.guest, each.engine): each for each in efficiency.on_every_engine()}


def test_every_workload_runs_on_every_engine(measured) -> None:
    names = {(workload.name, str(engine)) for workload in efficiency.WORKLOADS for engine in engines()}
    assert set(measured) == names


def test_instructions_are_counted_exactly(measured) -> None:
    """OUT at the end counts; a trapped instruction counts once; an iteration has the instructions that it has."""
    assert measured["arithmetic", "bare"].instructions == 1 + 6 * 200_000 + 1
    assert measured["ports", "bare"].instructions == 1 + 3 * 5000 + 1
    assert measured["system calls", "bare"].instructions == 1 + 4 * 5000 + 1


@pytest.mark.parametrize("engine", [str(engine) for engine in engines()])
def test_calculating_never_leaves(measured, engine: str) -> None:
    assert measured["arithmetic", engine].left < 20
    assert measured["arithmetic", engine].share > 0.9999


def test_what_leaves_is_counted(measured) -> None:
    for engine in ("bare", "translate"):
        assert 5000 < measured["ports", engine].left < 5020
    assert measured["sensitive", "translate"].left < 20  # all of them are code in the cache


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        pytest.param(RIGHT, [], id="right"),
        pytest.param(
            replace(RIGHT, wrong=1, first_wrong="attempt 0"), ["translate: attack: attempt 0"], id="not as prescribed"
        ),
        pytest.param(replace(RIGHT, damage=("a", "b")), ["translate: attack: a; b"], id="damage"),
        pytest.param(replace(RIGHT, hurt_itself=3, as_prescribed=0), [], id="its own harm"),
        pytest.param(replace(RIGHT, engine="bare", wrong=1), [], id="an engine that promises nothing"),
    ],
)
def test_what_a_failure_is(result: Result, lines: list[str]) -> None:
    assert control.failures([result]) == lines


def test_a_host_that_dies_is_a_failure_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that ends its process, by the only attack that can be relied on to do that: a signal."""
    import os
    import signal

    from vmm.lab.attacks import rig

    true_run = rig.run

    def run(attack: Attack, engine: EngineName) -> Result:
        if attack.name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return true_run(attack, engine)

    harmless = Attack("harmless", "", attempt("nop"), ((0x80, 0),))
    monkeypatch.setattr(control, "suite", lambda: (replace(harmless, name="deadly"), harmless))
    monkeypatch.setattr(rig, "run", run)
    deadly, last = control.on_one(EngineName.TRANSLATE)
    assert (deadly.damage, last.is_right) == (("the engine ended its process: SIGKILL",), True)


def test_equivalence_is_measured_against_bare() -> None:
    found = {each.engine: each for each in equivalence.on_every_engine(44)}
    assert set(found) == {str(engine) for engine in engines()} - {"bare"}
    assert {each.same + each.explained + each.different for each in found.values()} == {44}
    assert (found["translate"].different, found["svm"].different) == (0, 0)
    assert found["trap"].different > 10  # what does not trap shows


def test_differences_are_failures_where_equivalence_is_promised() -> None:
    compared = [equivalence.Equivalence(engine, 10, 8, 1, 1) for engine in ("trap", "svm")]
    assert equivalence.failures(compared) == ["svm: 1 of 10 programs differ: vmm differential --engine svm"]


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has both lists; status 1 when control was lost."""
    good = Attack("good", "nothing", attempt("nop"), ((0x80, 0),))
    monkeypatch.setattr(control, "suite", lambda: (good,))
    monkeypatch.setattr(equivalence, "PROGRAMS", 11)
    assert main(["lab", "popek-goldberg", "--json", "-"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert {row["engine"] for row in written["control"]} == {str(engine) for engine in engines()}
    assert {row["right"] for row in written["control"]} == {True}
    assert {row["programs"] for row in written["equivalence"]} == {11}
    assert {"guest", "engine", "instructions", "left", "share"} <= set(written["efficiency"][0])
    monkeypatch.setattr(control, "suite", lambda: (replace(good, expected=((13, 0),)),))
    assert main(["lab", "popek-goldberg"]) == 1
    shown = capsys.readouterr().out
    assert "not as it has to be: translate: good: attempt 0: no fault, expected vector 13" in shown
