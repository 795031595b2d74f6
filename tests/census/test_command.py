"""`vmm census` on the command line: what it writes, and that every mistake is one line and status 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.cli.main import main

ROOT = Path(__file__).parents[2]
SECTOR_CODE = bytes.fromhex(
    "b90700"  # mov cx, 7
    "0f01e0"  # smsw ax
    "e2fb"  # loop to smsw
    "b001e6f4"  # mov al, 1; out 0F4h, al: ends the run with status 3
)
STATUS = 3


@pytest.fixture
def sector(tmp_path: Path) -> Path:
    """A floppy that executes SMSW, which no firmware of ours does, seven times."""
    path = tmp_path / "sector.img"
    path.write_bytes((SECTOR_CODE.ljust(510, b"\x90") + b"\x55\xaa").ljust(18 * 512, b"\0"))
    return path


def test_json_has_every_place_and_its_share(sector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", str(sector), "--bits", "16", "--base", "0x7c00", "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)
    row = next(row for row in said["rows"] if row["instruction"] == "SMSW")
    assert row == {
        "instruction": "SMSW",
        "form": "r16",
        "class": "critical",
        "in_user_mode": "silent",
        "count": 1,
        "share": 1 / said["instructions"],
        "addresses": [0x7C03],
    }
    assert said["sensitive"] == sum(row["count"] for row in said["rows"]) == 2
    assert said["scanned"] == [{"name": "all", "address": 0x7C00, "size": 18 * 512, "bits": 16}]
    assert "code and data cannot be told apart" in said["caveats"][0]


def test_the_table_names_class_form_count_and_place(sector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", str(sector), "--bits", "16", "--base", "0x7c00"]) == 0
    said = capsys.readouterr().out
    assert "critical: silent" in said
    assert [line.split()[:3] for line in said.splitlines() if "SMSW" in line] == [["SMSW", "r16", "1"]]
    assert "00007c03" in said


def test_two_reports_of_a_file_are_the_same(sector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for _ in range(2):
        main(["census", str(sector), "--bits", "32", "--json", "-"])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_run_adds_executed_counts(sector: Path, tmp_path: Path) -> None:
    target = tmp_path / "census.json"
    words = ["census", sector, "--bits", "16", "--json", target, "--run", "--exit-port", "--timeout", "60"]
    done = subprocess.run(
        [sys.executable, "-m", "vmm", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, stdin=subprocess.DEVNULL, timeout=90,
        check=False,
    )  # fmt: skip
    assert done.returncode == STATUS, done.stderr
    rows = json.loads(target.read_text())["rows"]
    assert [row["executed"] for row in rows if (row["instruction"], row["form"]) == ("SMSW", "r16")] == [7]
    here = {(row["instruction"], row["form"]): row["count"] for row in rows if row["executed"]}
    assert here["PUSHF", "16-bit"] == 0, "the firmware's, which are not in the file, have rows of their own"


MISTAKES = [
    pytest.param(["missing"], "FILE: cannot read 'missing': No such file", id="missing"),
    pytest.param(["{empty}"], "is empty", id="empty"),
    pytest.param(["{dir}"], "is a directory", id="directory"),
    pytest.param(["{sector}"], "neither an ELF file nor a bzImage; for raw code give --bits 16", id="no_bits"),
    pytest.param(["{sector}", "--bits", "64"], "--bits: expected 16 or 32, not '64'", id="bits"),
    pytest.param(["{sector}", "--bits", "16", "--base", "high"], "--base: expected an address below 4 GiB", id="base"),
    pytest.param(["{sector}", "--bits", "16", "--base", "-1"], "--base: expected an address", id="negative_base"),
    pytest.param(["{sector}", "--bits", "16", "--json", "no/where"], "--json: there is no directory 'no'", id="json"),
    pytest.param(["{sector}", "--bits", "16", "--timeout", "5"], "--timeout goes with --run", id="timeout_alone"),
    pytest.param(["{sector}", "--bits", "16", "--exit-port"], "--exit-port goes with --run", id="exit_port_alone"),
    pytest.param(["{sector}", "--bits", "16", "--run", "--timeout", "0"], "--timeout: expected", id="bad_timeout"),
    pytest.param(["{sector}", "--bits", "16", "--run", "--initrd", "{sector}"], "go with a kernel", id="initrd_raw"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    sector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    given = [word.format(sector=sector, empty=empty, dir=tmp_path) for word in words]
    assert main(["census", *given]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
