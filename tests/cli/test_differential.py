"""`vmm differential`: its mistakes are one line and status 2, its reports say what ran, its cases run again."""

import json
from pathlib import Path

import pytest

from vmm.cli.main import main
from vmm.differential.campaign import Campaign, Progress
from vmm.differential.tally import Tally

FEW = ["differential", "--programs", "4", "--modes", "real", "--jobs", "1", "--against", "callouts"]

MISTAKES = [
    (["--engine", "none"], "--engine: expected any of translate"),
    (["--against", "qemu"], "--against: expected any of translate"),
    (["--modes", "long"], "--modes: expected any of real"),
    (["--modes", ""], "--modes: expected any of real"),
    (["--programs", "0"], "--programs: expected a number from 1 up, not 0"),
    (["--first", "-1"], "--first: expected a number from 0 up"),
    (["--jobs", "0"], "--jobs: expected a number from 1 up"),
    (["--report", "/nowhere/x.md"], "--report"),
    (["--case", "/nowhere/case.json"], "--case"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["differential", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_case_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "case.json"
    path.write_text("{}")
    assert main(["differential", "--case", str(path)]) == 2
    assert "no saved case" in capsys.readouterr().err


def test_the_report_goes_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FEW, "--json", "-", "--report", str(tmp_path / "report.md")]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["total"] == 4
    assert data["unexplained"] == 0
    assert (tmp_path / "report.md").read_text().startswith("# Differential run: translate against callouts")


def test_a_saved_case_runs_again(capsys: pytest.CaptureFixture[str]) -> None:
    case = Path(__file__).parents[1] / "differential" / "cases" / "iretd_in_a_nested_task.json"
    assert main(["differential", "--against", "callouts", "--case", str(case)]) == 0
    assert "translate against callouts:\n  the same" in capsys.readouterr().out


def test_an_interrupted_campaign_reports_what_there_is(monkeypatch, capsys) -> None:
    run = Campaign.run

    def interrupted(campaign: Campaign, progress: Progress) -> Tally:
        def stop(_tally: Tally) -> None:
            raise KeyboardInterrupt

        return run(campaign, stop)

    monkeypatch.setattr(Campaign, "run", interrupted)
    few = ["differential", "--programs", "120", "--modes", "real", "--jobs", "1", "--against", "callouts"]
    assert main(few) == 130
    assert "Interrupted: " in capsys.readouterr().out
