"""The laboratory: what it expects is the manual's, what it reports is what the guest saw."""

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from bt.decode import Decoder
from bt.tables import CRITICAL
from vmm.census.forms import form_of
from vmm.cli.main import main
from vmm.engines.choice import ENGINES
from vmm.engines.names import EngineName
from vmm.lab.critical import cases, surprises
from vmm.lab.deviations import DEVIATIONS
from vmm.lab.experiments import pills
from vmm.lab.machine import LabMachine
from vmm.lab.program import Case
from vmm.lab.rings import follow
from vmm.lab.rows import Row, row_of, run_cases
from vmm.lab.setting import KERNEL_CODE, SETTINGS, USER_CODE

CASES = list(cases())
ROW_MEMBERS = {"instruction", "form", "mode", "ring", "engine", "expected", "got", "trapped", "right"}


@pytest.fixture(scope="module")
def translated() -> list[Row]:
    """Every case under binary translation."""
    return list(run_cases(LabMachine(EngineName.TRANSLATE), CASES))


def keys(items: Iterable[Case]) -> list[tuple[str, str, str, int]]:
    return [(case.instruction, case.form, case.setting.mode, case.setting.ring) for case in items]


def test_every_critical_instruction_has_a_case_in_every_setting() -> None:
    there = {(case.instruction.lower(), case.setting) for case in CASES}
    assert there == {(name, setting) for name in CRITICAL for setting in SETTINGS}


def test_no_cell_has_two_cases() -> None:
    assert len(set(keys(CASES))) == len(CASES)


def test_each_program_has_the_instruction_that_its_case_names() -> None:
    decoder = Decoder()
    for case in CASES:
        setting = case.setting
        found = [form_of(insn) for insn in decoder.decode(case.code, setting.code, setting.code32)]
        names = {"INT" if form.instruction.startswith("INT") else form.instruction for form in found if form}
        assert case.instruction in names, case


def test_translation_is_right_in_every_cell(translated: list[Row]) -> None:
    assert [row for row in translated if not row.right] == []
    assert surprises(translated) == []


def test_what_stays_in_the_cache_does_not_count_as_trapped(translated: list[Row]) -> None:
    trapped = {row.key: row.trapped for row in translated}
    assert trapped["SMSW", "r32", "protected", 0] == 0
    assert trapped["INT", "imm8", "protected", 3] == 1
    assert trapped["SLDT", "r16", "real", 0] == 1


WRONG = [
    pytest.param("SGDT", "m16&32", "limit 0000 base", id="sgdt"),
    pytest.param("SMSW", "r16", "#GP(0)", id="smsw"),
]


@pytest.mark.parametrize(("instruction", "form", "got"), WRONG)
def test_a_wrong_cell_that_was_not_said_before_is_a_surprise(translated, instruction, form, got) -> None:
    rows = [replace(row, got=got) if (row.instruction, row.form) == (instruction, form) else row for row in translated]
    assert len(surprises(rows)) == len(SETTINGS)
    assert got in surprises(rows)[0]


def test_a_right_cell_that_was_said_to_be_wrong_is_a_surprise() -> None:
    case = next(case for case in CASES if case.instruction == "SGDT")
    assert surprises([row_of(case, "trap", case.expected, 1)]) != []
    assert surprises([row_of(case, "trap", "limit 0FFF base F5000000", 0)]) == []


def test_every_deviation_is_a_cell_that_there_is() -> None:
    there = set(keys(CASES))
    assert [key for cells in DEVIATIONS.values() for key in cells if key not in there] == []


def test_a_guest_that_sees_something_else_is_wrong() -> None:
    """The same program on a machine whose guest has another GDT: what is expected does not follow the engine."""
    case = next(case for case in CASES if case.instruction == "SGDT")
    machine = LabMachine(EngineName.TRANSLATE)
    machine.start(case.setting, case.code, case.memory, case.registers)
    machine.vcpu.gdtr = (0x1234, 0x17)
    machine.run()
    assert case.observe(machine) == "limit 0017 base 00001234" != case.expected


def test_an_exception_in_the_place_of_a_result_is_what_was_got() -> None:
    case = next(case for case in CASES if case.instruction == "STR" and case.setting.mode == "protected")
    broken = replace(case, code=b"\x0f\x0b" + case.code)
    assert next(run_cases(LabMachine(EngineName.TRANSLATE), [broken])).got == "#UD"


def test_an_endless_guest_is_lost() -> None:
    case = replace(CASES[0], code=b"\xeb\xfe")
    assert str(next(run_cases(LabMachine(EngineName.TRANSLATE), [case])).got).startswith("preempted at")


def test_no_pill_sees_through_translation() -> None:
    rows = list(run_cases(LabMachine(EngineName.TRANSLATE), pills()))
    assert {row.instruction for row in rows} == set("SIDT SGDT SLDT STR SMSW PUSHF LAR LSL VERR CPUID".split())
    assert [row for row in rows if not row.right or (row.mode, row.ring) != ("protected", 3)] == []


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_system_call_goes_from_ring_3_to_ring_0_and_back(engine: EngineName) -> None:
    steps = list(follow(engine))
    assert [step.place.cpl for step in steps] == [3, 0, 3] * 2
    assert [step.place.cs for step in steps] == [USER_CODE, KERNEL_CODE, USER_CODE] * 2
    user, kernel, again = (step.place for step in steps[:3])
    assert (again.ss, again.esp) == (user.ss, user.esp)
    assert kernel.esp == 0xE000 - 5 * 4, "EIP, CS, EFLAGS, ESP, SS"
    assert again.eip == user.eip + 2 + 2, "behind INT 80h and the next mark"


def test_a_deprivileged_kernel_is_in_ring_1() -> None:
    assert [step.place.physical_cpl for step in follow(EngineName.TRANSLATE)] == [3, 1, 3] * 2


COMMANDS = [("critical", "rows"), ("smsw", "rows"), ("redpill", "rows"), ("rings", "steps")]


@pytest.mark.parametrize(("experiment", "member"), COMMANDS)
def test_each_experiment_writes_json_and_a_table(experiment: str, member: str, tmp_path, capfd) -> None:
    target = tmp_path / "lab.json"
    assert main(["lab", experiment, "--json", str(target)]) == 0
    assert "translate" in capfd.readouterr().out
    items = json.loads(target.read_text())[member]
    assert {item["engine"] for item in items} == {str(engine) for engine in ENGINES}
    if member == "rows":
        assert all(set(item) == ROW_MEMBERS for item in items)


def test_smsw_tells_pe_as_a_number(capfd) -> None:
    assert main(["lab", "smsw", "--json", "-"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert [row["got"] for row in rows if row["engine"] == "translate"] == [0]
    assert all((row["mode"], row["ring"], row["expected"]) == ("real", 0, 0) for row in rows)


def test_a_json_file_that_cannot_be_written_is_one_line_and_status_2(capfd) -> None:
    assert main(["lab", "critical", "--json", "no/where.json"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--json: there is no directory 'no'" in err
