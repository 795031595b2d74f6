"""Campaigns: dead and stuck workers, interrupted runs, injected bugs, and engines that agree."""

import json
import os
import time
from pathlib import Path

import pytest

import bt.tables
from vmm.differential import campaign as campaign_module
from vmm.differential import report
from vmm.differential.campaign import Campaign
from vmm.differential.generator import Source
from vmm.differential.modes import MODES
from vmm.differential.program import Program
from vmm.differential.rig import Rig
from vmm.differential.worker import Plan
from vmm.errors import ConfigError

PLAN = Plan(Source(1), ("translate",), "callouts")


def test_translation_and_emulation_agree() -> None:
    done = Campaign(Plan(Source(20), ("translate", "self-checking"), "callouts"), 0, 330, 2)
    tally = done.run()
    assert tally.failures == []
    assert tally.total == 330
    assert set(tally.programs) == set(MODES)
    assert tally.share(tally.faulting) >= 0.2
    assert tally.share(tally.interrupted) >= 0.1


def test_translation_does_what_the_processor_does() -> None:
    tally = Campaign(Plan(Source(9), ("translate",), "bare"), 0, 330, 2).run()
    assert tally.failures == []
    assert tally.explained


@pytest.mark.long
def test_translation_does_what_the_processor_does_in_20_000_programs() -> None:
    tally = Campaign(Plan(Source(33), ("translate",), "bare"), 0, 20_000, 2).run()
    assert tally.failures == []
    assert tally.total == 20_000


@pytest.mark.slow
def test_translation_and_emulation_agree_on_20_000_programs() -> None:
    tally = Campaign(Plan(Source(21), ("translate", "self-checking"), "callouts"), 0, 20_000, 2).run()
    assert tally.failures == []


def _smsw_shows_the_physical_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bt.tables.TABLE, "smsw", bt.tables.verbatim)  # type: ignore[arg-type]


def _pushf_shows_the_physical_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bt.tables.TABLE, "pushf", bt.tables.verbatim)  # type: ignore[arg-type]
    monkeypatch.setitem(bt.tables.TABLE, "pushfd", bt.tables.verbatim)  # type: ignore[arg-type]


def _loope_forgets_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bt.branches, "_LOOP_ON_ZF", ())


BUGS = [
    pytest.param(_smsw_shows_the_physical_register, "smsw", "callouts", id="smsw"),
    pytest.param(_pushf_shows_the_physical_flags, "pushf", "callouts", id="pushf"),
    pytest.param(_loope_forgets_flags, "loop", "self-checking", id="loope"),
]


@pytest.mark.parametrize(("inject", "mnemonic", "against"), BUGS)
def test_an_injected_bug_is_found_and_made_small(monkeypatch, inject, mnemonic, against) -> None:
    inject(monkeypatch)
    tally = Campaign(Plan(Source(2), ("translate",), against), 0, 1100, 2).run()
    smallest = min((failure["program"] for failure in tally.failures), key=lambda program: len(program["steps"]))
    assert len(smallest["steps"]) <= 3
    assert any(mnemonic in line for line in smallest["listing"])


def test_a_worker_that_dies_is_a_failure_of_the_engine_that_ran(monkeypatch) -> None:
    run = Rig.run

    def deadly(rig: Rig, program: Program):
        if program == PLAN.source.program(7):
            os.abort()
        return run(rig, program)

    monkeypatch.setattr(Rig, "run", deadly)
    tally = Campaign(PLAN, 0, 20, 2).run()
    assert [(failure["number"], failure["engine"]) for failure in tally.failures] == [(7, "callouts")]
    assert "the process died" in tally.failures[0]["differences"][0]
    assert tally.total == 20


def test_a_worker_that_is_stuck_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(campaign_module, "_PATIENCE_S", 3.0)
    run = Rig.run

    def stuck(rig: Rig, program: Program):
        if program == PLAN.source.program(3):
            time.sleep(60)
        return run(rig, program)

    monkeypatch.setattr(Rig, "run", stuck)
    tally = Campaign(PLAN, 0, 5, 1).run()
    assert [failure["number"] for failure in tally.failures] == [3]
    assert tally.total == 5


def test_an_interrupted_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    state = tmp_path / "campaign.json"

    class Enough(Exception):
        pass

    def stop(tally) -> None:
        if tally.total >= 50:
            raise Enough

    with pytest.raises(Enough):
        Campaign(PLAN, 0, 150, 1, state).run(stop)
    assert 0 < json.loads(state.read_text())["todo"][0][0] <= 100
    resumed = Campaign(PLAN, 0, 150, 1, state)
    assert resumed.run().to_json() == Campaign(PLAN, 0, 150, 1).run().to_json()


def test_what_failed_is_run_again(tmp_path: Path, monkeypatch) -> None:
    state = tmp_path / "campaign.json"
    plan = Plan(Source(2), ("translate",), "callouts")
    with monkeypatch.context() as broken:
        _pushf_shows_the_physical_flags(broken)
        assert Campaign(plan, 0, 220, 2, state).run().failures
    done = Campaign(plan, 0, 220, 2, state).run()
    assert done.failures == []
    assert done.endings == Campaign(plan, 0, 220, 2).run().endings


def test_the_state_of_another_campaign_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "campaign.json"
    Campaign(PLAN, 0, 5, 1, state).run()
    with pytest.raises(ConfigError, match="belongs to another campaign"):
        Campaign(PLAN, 0, 6, 1, state).run()


def test_the_report_names_what_repeats_it() -> None:
    done = Campaign(Plan(Source(9, ("real",)), ("translate",), "callouts"), 4, 6, 1)
    done.run()
    command = "vmm differential --programs 6 --seed 9 --first 4 --modes real --engine translate --against callouts"
    assert report.to_json(done)["command"] == command
    text = report.to_markdown(done)
    assert f"`{command}`" in text
    assert "| real | 6 |" in text
    assert "No difference is unexplained." in text
