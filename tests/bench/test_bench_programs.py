"""The benchmark programs: they read their arguments, compute what they say, and reckon right. Nothing here is timed."""

import json
import re
from pathlib import Path

import pytest

from vmm.bench import boot, compute, measure, profile, programs, qemu, segments
from vmm.bench.bare import run_bare
from vmm.bench.measure import Series
from vmm.bench.programs import PROGRAMS, Program
from vmm.bench.translated import run_translated

TINY = {
    "compute": 8,
    "sieve": 1,
    "fibonacci": 9,
    "calls": 4,
    "indirect": 8,
    "flags": 5,
    "real": 1,
    "frames": 1,
    "strings": 2,
}


# --- what the programs compute -----------------------------------------------------------------------------


def test_every_program_has_a_tiny_size() -> None:
    assert TINY.keys() == PROGRAMS.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_finds_its_result_on_the_bare_engine(name: str) -> None:
    assert run_bare(PROGRAMS[name], TINY[name]) > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_finds_its_result_under_translation(name: str) -> None:
    assert run_translated(PROGRAMS[name], TINY[name]) > 0


WRONG = Program("wrong", "", "mov eax, {size}\ncmp {result}, {expected}", 1, lambda size: size + 1)


@pytest.mark.parametrize("run", [run_bare, run_translated])
def test_a_wrong_result_is_an_error(run: compute.Runner) -> None:
    with pytest.raises(RuntimeError, match="wrong"):
        run(WRONG, 1)


def test_the_sum_of_the_sequence_is_what_a_loop_gives() -> None:
    x = total = 0
    for size in range(1, 40):
        x = (5 * x + 1) & 0xFFFF_FFFF
        total = (total + x) & 0xFFFF_FFFF
        assert programs.sum_of_sequence(size) == total


@pytest.mark.parametrize(("limit", "count"), [(3, 1), (30, 10), (100, 25), (1 << 20, 82025)])
def test_primes_are_counted(limit: int, count: int) -> None:
    assert programs.count_primes(limit) == count


@pytest.mark.parametrize(("n", "value"), [(0, 0), (1, 1), (2, 1), (10, 55), (27, 196418)])
def test_fibonacci(n: int, value: int) -> None:
    assert programs.fibonacci(n) == value


def test_a_program_ends_in_the_exit_port() -> None:
    for program in PROGRAMS.values():
        assert program.build(TINY[program.name]).endswith(b"\x0f\x95\xc0\xe6\xf4\xf4")


# --- how figures are made ----------------------------------------------------------------------------------


def test_the_sides_are_measured_by_turns() -> None:
    asked: list[str] = []

    def take(command: list[str]) -> float:
        asked.append(command[0])
        return len(asked)

    sides = {name: Series([name]) for name in ("a", "b")}
    measure.alternate(sides, take, 3)
    assert asked == ["a", "b"] * 3
    assert sides["b"].values == [2, 4, 6]


def test_median_and_spread() -> None:
    series = Series(["x", "a b"], [1.0, 5.0, 2.0])
    assert (series.median, series.spread) == (2.0, 2.0)
    assert series.to_json() == {"command": "x 'a b'", "values": [1.0, 5.0, 2.0], "median": 2.0, "spread": 2.0}


def test_a_command_that_fails_is_an_error_with_its_words() -> None:
    command = ["sh", "-c", "echo not today >&2; exit 3"]
    with pytest.raises(RuntimeError, match=re.compile("status 3.*not today", re.DOTALL)):
        measure.printed_number(command)


def test_the_figure_is_the_last_word_that_a_command_prints() -> None:
    assert measure.printed_number(["echo", "about 1.5"]) == 1.5


def test_a_report_is_written_as_json(tmp_path: Path) -> None:
    measure.write_json({"a": [1]}, str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": [1]}


# --- command lines -----------------------------------------------------------------------------------------


def test_compute_prints_the_seconds_of_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert compute.main(["--once", "bare", "--scale", "0.000001", "compute"]) == 0
    assert float(capsys.readouterr().out) > 0


@pytest.mark.parametrize("side", segments.SIDES)
def test_segments_prints_the_seconds_of_one_run(side: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert segments.main(["--once", side, "--scale", "0.000001", "frames"]) == 0
    assert float(capsys.readouterr().out) > 0
    with pytest.raises(SystemExit):
        segments.parse(["--rounds", "0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "program nonsense given, one of compute, "),
        (["--rounds", "0"], "must be positive"),
        (["--scale", "-1"], "must be positive"),
        (["--once", "other", "compute"], "invalid choice"),
    ],
)
def test_compute_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        compute.parse(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("parse", [boot.parse, profile.parse])
def test_an_image_must_be_there(parse: compute.Parser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["/nowhere/at.all"])
    assert stop.value.code == 2
    assert "/nowhere/at.all: no such file" in capsys.readouterr().err


def test_both_sides_of_a_boot_get_the_same_image_and_memory() -> None:
    image = Path("some.img")
    ours = boot.vmm_command(image, "cdrom", 32, "GRUB", 9)
    theirs = qemu.command_line(image, "cdrom", 32, "socket")
    assert ours[1:] == (
        "-m vmm run some.img --as cdrom --memory 32M --display none --serial none --until GRUB --timeout 9".split()
    )
    assert "file=some.img,format=raw,if=ide,media=cdrom,snapshot=on" in theirs
    assert theirs[theirs.index("-m") + 1] == "32"
    assert theirs[theirs.index("-boot") + 1] == "d"


def test_a_profile_adds_up(tmp_path: Path) -> None:
    image = tmp_path / "halt.img"
    image.write_bytes((b"\xfa\xf4" + bytes(508) + b"\x55\xaa").ljust(1474560, b"\0"))  # cli; hlt
    options = profile.parse([str(image), "--seconds", "20"])
    engine, seconds = profile.boot(options)
    rows = {name: took for name, took, _ in profile.breakdown(engine, seconds)}
    assert rows["all"] == pytest.approx(
        rows["cache"] + rows["exits"] + rows["outside the engine: idle, devices, screen"]
    )
    assert rows["exits"] == pytest.approx(sum(engine.exit_seconds.values()))
    assert "callout hlt" in rows
