"""The benchmarks: images run alike on every engine, find what they must, and reckon right. Nothing here is timed."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from vmm.bench import c_programs, compute_cases, measure, nano_cases, segments, suites
from vmm.bench.alone import Alone
from vmm.bench.bars import BARS, NO_INLINE, Bar, judge
from vmm.bench.case import MARKS_PER_CASE, Case, code_of_mark, named
from vmm.bench.engines import OWN
from vmm.bench.image import Image, build
from vmm.bench.marks import RESOLUTION_NS, Mark, RunFailed, Runner, check, is_over, marks_in, timings
from vmm.bench.peers import PEERS, Missing, runners
from vmm.bench.report import number
from vmm.bench.rows import Results, Row, row_of
from vmm.cli.main import main

NANO = named(nano_cases.CASES)
COMPUTE = named(compute_cases.cases())
WRONG = Case("wrong", "", "mov eax, 1", expected=lambda: 2)
FAULTY = Case("faulty", "", "ud2")


# --- images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", OWN)
def test_every_instruction_runs_on_every_engine(engine: str) -> None:
    image = build(nano_cases.CASES, paging=True)
    marks = OWN[engine].run(image, [1] * len(image.cases))
    assert [mark.code for mark in marks] == [code_of_mark(position) for position in range(image.marks)]


@pytest.mark.parametrize("engine", OWN)
def test_programs_find_their_results_in_both_rings(engine: str) -> None:
    cases = compute_cases.cases()
    image = build(cases, paging=False)
    assert len(OWN[engine].run(image, [1] * len(cases))) == image.marks


def test_programs_in_c_find_what_the_host_finds() -> None:
    cases = compute_cases.c_cases()
    try:
        image = build(cases, paging=False, programs=compute_cases.programs(cases))
    except c_programs.CompilerError as error:
        pytest.skip(str(error))
    assert len(OWN["translate"].run(image, [1] * len(cases))) == image.marks


def test_the_engine_alone_runs_what_is_in_ring_0() -> None:
    alone = Alone()
    cases = tuple(case for case in compute_cases.cases() if alone.can_run(case))
    assert {case.ring for case in cases} == {0}
    assert len(alone.run(build(cases, paging=False), [1] * len(cases))) == MARKS_PER_CASE * len(cases)


@pytest.mark.parametrize("name", PEERS)
def test_peers_run_the_same_image(name: str) -> None:
    try:
        PEERS[name].version()
    except Missing as missing:
        pytest.skip(str(missing))
    image = build((NANO["syscall"], COMPUTE["sieve"]), paging=True)
    assert len(PEERS[name].run(image, [1, 1])) == image.marks


@pytest.mark.parametrize("runner", [OWN["translate"], Alone()], ids=lambda runner: str(runner.name))
def test_a_wrong_result_is_a_failure_that_names_its_case(runner: Runner) -> None:
    with pytest.raises(RunFailed, match="wrong: a wrong result") as failure:
        runner.run(build((COMPUTE["alu"], WRONG), paging=False), [1, 1])
    assert failure.value.case is WRONG


def test_an_exception_that_nobody_asked_for_is_a_failure() -> None:
    with pytest.raises(RunFailed, match="faulty: an exception that nobody asked for"):
        OWN["translate"].run(build((FAULTY,), paging=False), [1])


def test_counts_change_the_table_and_nothing_else() -> None:
    image = build((NANO["cli"], NANO["sti"]), paging=True)
    one, other = image.loaded([1, 2]), image.loaded([0x01020304, 2])
    assert [at for at in range(len(one)) if one[at] != other[at]] == list(range(image.counts_at, image.counts_at + 4))
    assert one[image.counts_at : image.counts_at + 8] == b"\1\0\0\0\2\0\0\0"


def test_case_names_are_unique_in_each_suite() -> None:
    for suite in suites.SUITES.values():
        names = [case.name for case in suite.cases()]
        assert len(set(names)) == len(names)


EXITS = [
    ("trap", "cli", 1),
    ("trap", "pushf", 0),
    ("translate", "cli", 0),
    ("translate", "pushf", 0),
    (NO_INLINE, "cli", 1),
    (NO_INLINE, "pushf", 1),
    ("bare", "cli", 0),
    ("bare", "in", 1),
]


@pytest.mark.parametrize(("engine", "name", "exits"), EXITS)
def test_exits_of_one_instruction(engine: str, name: str, exits: int) -> None:
    image = build((NANO[name],), paging=True)
    (timing,) = timings(image, [20], OWN[engine].run(image, [20]))
    assert timing.exits == pytest.approx(exits, abs=0.05)  # a timer may strike in one of the loops


def test_the_sieve_counts_primes() -> None:
    assert [compute_cases.count_primes(limit) for limit in (3, 30, 100, 1 << 20)] == [1, 10, 25, 82025]


def test_sha256_is_that_of_the_standard() -> None:
    from hashlib import sha256

    try:
        found = c_programs.result_on_the_host("sha256")
    except c_programs.CompilerError as error:
        pytest.skip(str(error))
    digest = sha256(bytes(7 * at + 3 & 0xFF for at in range(4096))).digest()
    assert found == int.from_bytes(digest[:4], "big")


# --- marks ---------------------------------------------------------------------------------------------

TWO = build((NANO["cli"], NANO["sti"]), paging=False)


def _marks(*times: int, exits: Sequence[int | None] = ()) -> list[Mark]:
    counted = exits or [None] * len(times)
    return [Mark(code_of_mark(at), ns, left) for at, (ns, left) in enumerate(zip(times, counted, strict=True))]


def test_a_case_takes_its_loop_less_the_baseline() -> None:
    marks = _marks(0, 80, 960, 1000, 1100, 1100, exits=[0, 1, 82, 83, 84, 85])
    first, second = timings(TWO, [10, 10], marks)
    assert (first.ns, first.exits, first.longest) == (10.0, 1.0, 880)
    assert (second.ns, second.exits, second.longest) == (RESOLUTION_NS, 0.0, 100)


def test_ascii_is_no_mark() -> None:
    assert marks_in(b"Bochs\n\x80\x81", 7) == [Mark(0x80, 7), Mark(0x81, 7)]


def test_a_run_is_over_at_its_last_mark_or_at_a_failure() -> None:
    assert not is_over(TWO, _marks(1, 2, 3, 4, 5))
    assert is_over(TWO, _marks(1, 2, 3, 4, 5, 6))
    assert is_over(TWO, [*_marks(1), Mark(0xFF, 2)])


def test_missing_marks_are_a_failure_of_the_case_that_ran() -> None:
    with pytest.raises(RunFailed, match="sti: it ended"):
        check(TWO, _marks(1, 2, 3, 4), "it ended")
    with pytest.raises(RunFailed, match="sti: mark 0x80 out of turn"):
        check(TWO, [*_marks(1, 2, 3), Mark(0x80, 4)], "")


# --- how figures are made ------------------------------------------------------------------------------


class Fake:
    """A runner that needs `ns` for each round of a body and nothing for a baseline; it cannot run `broken`."""

    def __init__(self, name: str, ns: int, broken: str = "") -> None:
        self.name, self._ns, self._broken = name, ns, broken
        self.log: list[str] = []

    def can_run(self, case: Case) -> bool:
        return case.ring == 0

    def run(self, image: Image, counts: Sequence[int]) -> list[Mark]:
        self.log.append(self.name)
        marks, now = [], 0
        for case, count in zip(image.cases, counts, strict=True):
            if case.name == self._broken:
                raise RunFailed(case, "broken")
            now += 1
            marks += [Mark(0, now, 0), Mark(0, now, 0), Mark(0, now + self._ns * count * case.repeat, count)]
            now += self._ns * count * case.repeat
        return marks


def _plan(rounds: int = 3) -> measure.Plan:
    cases = (NANO["cli"], NANO["sti"], NANO["syscall"])
    return measure.Plan("nano", cases, False, 10_000_000, rounds)


def test_engines_are_measured_by_turns_with_as_many_rounds_as_they_need() -> None:
    log: list[str] = []
    slow, fast = Fake("trap", 5000), Fake("translate", 2)
    slow.log = fast.log = log
    results = measure.measure(_plan(), [slow, fast], lambda _what: None)
    assert log[-6:] == ["trap", "translate"] * 3
    assert results.ns("cli", "trap") == 5000
    assert results.ns("sti", "translate") == 2
    assert ("syscall", "trap") not in results.rows
    assert results.notes == []


def test_a_case_that_an_engine_cannot_run_is_left_out_and_said() -> None:
    results = measure.measure(_plan(), [Fake("svm", 9, "cli")], lambda _what: None)
    assert results.cases == ["sti"]
    assert results.notes == ["svm: cli: broken"]


def test_loops_take_about_as_long_as_planned() -> None:
    for ns in (1, 300, 70_000):
        side = measure._prepare(_plan(), Fake("trap", ns), [])
        assert side is not None
        assert all(0.4 < ns * 8 * count / 10_000_000 < 2.5 for count in side.counts)


def test_who_interrupts_a_suite_gets_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Fake("trap", 5)
    whole = runner.run

    def run(image: Image, counts: Sequence[int]) -> list[Mark]:
        if counts[0] > 100_000 and len(runner.log) > 8:
            raise KeyboardInterrupt
        return whole(image, counts)

    monkeypatch.setattr(runner, "run", run)
    results = measure.measure(_plan(100), [runner], lambda _what: None)
    assert results.ns("cli", "trap") == 5
    assert (results.is_cut, results.notes) == (True, ["interrupted: what was measured until then"])


def test_a_row_is_the_median_and_its_spread() -> None:
    assert row_of("nano", "cli", "trap", [1.0, 5.0, 2.0], [1, 1, 2]) == Row("nano", "cli", "trap", 2.0, 2.0, 1)
    assert row_of("nano", "cli", "qemu", [2.0], [None]).exits is None


# --- bars ----------------------------------------------------------------------------------------------


def _results(**ns: float) -> Results:
    results = Results()
    for engine, value in ns.items():
        results.add(Row("nano", "cli", engine, value, 0.0))
    return results


@pytest.mark.parametrize(("value", "reached"), [(19.0, False), (20.0, True)])
def test_a_bar_from_below(value: float, reached: bool) -> None:
    (verdict,) = judge(_results(translate=1.0, trap=value))
    assert (verdict.value, verdict.reached) == (value, reached)
    assert verdict.to_json() == {"what": "cli: trap / translate", "value": value, "bar": ">= 20", "reached": reached}


def test_a_bar_from_above_and_one_of_time() -> None:
    bar = Bar("in", "translate", "unicorn", 2.2, other_case="empty-hook")
    results = Results()
    results.add(Row("nano", "in", "translate", 4.0, 0.0))
    assert bar.value(results) is None
    results.add(Row("nano", "empty-hook", "unicorn", 2.0, 0.0))
    assert bar.value(results) == 2.0
    assert (bar.is_reached(2.0), bar.is_reached(2.3)) == (True, False)
    results.add(Row("boot", "idle", "translate", 3e7, 0.0))
    assert Bar("idle", "translate", None, 0.02).value(results) == 0.03


def test_a_bar_whose_other_side_is_missing_is_not_measured() -> None:
    (verdict,) = judge(_results(translate=1.0))
    assert (verdict.value, verdict.reached) == (None, None)


def test_every_bar_names_cases_that_there_are() -> None:
    from vmm.bench.boot import NAMES

    known = {case.name for suite in suites.SUITES.values() for case in suite.cases()} | {"empty-hook", *NAMES}
    assert {name for bar in BARS for name in (bar.case, bar.other_case or bar.case)} <= known


@pytest.mark.parametrize(("value", "shown"), [(0.0123, "0.0123"), (1.5, "1.5"), (2911.4, "2,911")])
def test_numbers_for_people(value: float, shown: str) -> None:
    assert number(value) == shown


# --- the command line ----------------------------------------------------------------------------------


def test_json_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    words = "bench nano cli sti --engines bare,translate-no-inline --rounds 1 --quick --json -"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["suite"], row["case"], row["engine"]) for row in found["rows"]] == [
        ("nano", case, engine) for case in ("cli", "sti") for engine in ("bare", "translate-no-inline")
    ]
    assert all(row["ns"] > 0 and row["spread"] == 0 and round(row["exits"]) in (0, 1) for row in found["rows"])
    assert {"processor", "processors", "load", "kernel", "rounds", "versions"} <= found["machine"].keys()


def test_what_does_not_trap_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("bench nano pushf --engines trap,translate --rounds 1 --quick".split()) == 0
    assert "does not trap" in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.fspath(Path(__file__).parent))
    assert runners(["qemu", "bochs"]) == (
        [], {}, ["qemu-system-i386 is not installed: without it", "bochs is not installed: without it"]
    )  # fmt: skip
    assert main("bench nano cli --engines bare --rounds 1 --quick --against qemu".split()) == 0
    assert "qemu-system-i386 is not installed: without it" in capsys.readouterr().out


def test_without_a_compiler_the_programs_in_c_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.fspath(Path(__file__).parent))
    assert main("bench compute alu sha256 --engines bare --rounds 1 --quick".split()) == 0
    shown = capsys.readouterr().out
    assert "gcc is not installed: without the programs in C" in shown
    assert "alu" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nano nonsense", "CASE: expected any of sgdt, "),
        ("nano --engines kvm", "--engines: expected any of unicorn, bare, trap, "),
        ("boot --engines translate-no-inline", "--engines: expected any of translate, "),
        ("compute --against xen", "--against: expected any of qemu, bochs, not 'xen'"),
        ("peers --rounds 0", "--rounds: expected a number from 1 to 1000, not 0"),
        ("boot --json /nowhere/at.all", "--json: there is no directory '/nowhere'"),
        ("nano --chart /nowhere/at.png", "--chart: there is no directory '/nowhere'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words.split()]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert message in shown.err


def test_a_chart_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "chart.png"
    assert main(f"bench nano cli --engines bare --rounds 1 --quick --chart {target}".split()) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_chart_without_the_library_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["bench", "nano", "--chart", str(tmp_path / "chart.png")]) == 2
    assert "glassvisor[chart]" in capsys.readouterr().err


# --- segment checks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("name", segments.PROGRAMS)
def test_the_programs_of_segment_checks_come_to_their_end(name, checks):
    assert segments.run(name, 1, checks) > 0


def test_segments_refuses_no_rounds():
    with pytest.raises(SystemExit):
        segments.parse(["--rounds", "0"])
