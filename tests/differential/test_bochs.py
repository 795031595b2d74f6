"""Bochs runs the programs as the engines do; where it does not, the rule is known, and nothing else is hidden."""

import shutil
from collections.abc import Iterator

import pytest
from programs import program

from vmm.differential import bochs_fpu, layout
from vmm.differential.bochs_flaws import DEVIATIONS, explain
from vmm.differential.campaign import Campaign
from vmm.differential.case import Case
from vmm.differential.definite import definite
from vmm.differential.generator import Source
from vmm.differential.modes import Paging
from vmm.differential.outcome import Ending, compare
from vmm.differential.program import Patch, Program
from vmm.differential.rig import SUBJECTS, Rig
from vmm.differential.worker import Plan
from vmm.hw import state as hw

RAW = bytes.fromhex
needs_bochs = pytest.mark.skipif(shutil.which("bochs") is None, reason="no bochs; python -m tools.host_tools bochs")

AGREED = [
    pytest.param(program("p32-ring0", "add eax, ebx", eax=0x7FFF_FFFF, ebx=1), id="flags"),
    pytest.param(program("real", "push ax", "popf", "cli", eax=0x202), id="real_mode"),
    pytest.param(program("v86-iopl0", "cli", "pushf"), id="v86_traps"),
    pytest.param(program("p16-ring3", RAW("e650"), "inc ax", eflags=0x200), id="interrupt_behind_out"),
    pytest.param(program("p32-ring0", RAW("b005e650fb404040")), id="interrupt_behind_the_shadow_of_sti"),
    pytest.param(program("p32-ring0", RAW("68020100009d"), "inc eax", "inc eax"), id="single_step"),
    pytest.param(program("p32-ring0", RAW("68020100009de650"), "inc eax"), id="single_step_of_a_port"),
    pytest.param(program("p32-ring0", RAW("68020100009d")), id="single_step_of_hlt"),
    pytest.param(program("p32-ring3", "mov eax, [0x4000]", paging=Paging.PAE), id="page_fault_under_pae"),
    pytest.param(program("p32-ring1", RAW("e451"), RAW("66e7f0"), RAW("0fa2")), id="ports_and_cpuid"),
    pytest.param(program("p32-ring0", RAW("9a000000001001")), id="task_switch"),
    pytest.param(program("p32-ring0", RAW("660fae1500000000")), id="prefix_of_ldmxcsr"),
]

GATE_GONE = tuple(Patch(layout.IDT + 8 * vector, bytes(8)) for vector in (6, 8, 11, 13))

DIFFERENT = [
    ("x87 and SSE registers", program("p32-ring0", RAW("0fefc0"))),
    ("CALL beyond the limit", program("p32-ring2", RAW("e8d9ebd9e9"))),
    ("CALL beyond the limit", program("p16-ring1", RAW("66ffd0"), eax=0x1_0000)),
    ("LAR", program("p32-ring0", RAW("b808000000 0f02d0"))),
    ("DR4 and DR5", program("p32-ring3", RAW("0f23e0"), cr4=0x208)),
    ("CR4", program("p32-ring0", RAW("0f22e0"), eax=0x201)),
    ("#NM and #UD", program("p32-ring0", RAW("0f58c1"), cr0=8, cr4=0)),
]

OF_SEGMENTS = [
    ("checks of data segments", program("p32-ring0", RAW("a100000100"))),
    ("checks of data segments", program("p32-ring0", RAW("0fb30d40000000"), ecx=0x10_0000)),
    ("checks of data segments", program("p16-ring3", RAW("bc0100"), RAW("50"))),
    ("checks of data segments", program("v86-iopl3", RAW("8b07"), ebx=0xFFFF)),
    ("targets beyond the limit", program("p32-ring0", RAW("6800000100c3"))),
]
"""What `translate` checks, and not without its checks."""


class Pair:
    """Bochs, and the engines that it is compared with."""

    def __init__(self) -> None:
        self.bochs, self.translate, self.unchecked = (
            Rig(SUBJECTS[name]) for name in ("bochs", "translate", "unchecked")
        )

    def case(self, made: Program) -> Case:
        expected, got = self.translate.run(made), self.bochs.run(made)
        return Case(made, "bochs", "translate", got, expected, tuple(compare(got, expected)))

    def unchecked_case(self, made: Program) -> Case:
        expected, got = self.unchecked.run(made), self.bochs.run(made)
        return Case(made, "bochs", "unchecked", got, expected, tuple(compare(got, expected)))


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.bochs.close()


@needs_bochs
@pytest.mark.parametrize("made", AGREED)
def test_bochs_agrees(pair: Pair, made: Program) -> None:
    assert pair.case(made).differences == ()


@needs_bochs
def test_a_triple_fault_is_a_shutdown_and_the_next_program_runs(pair: Pair) -> None:
    case = pair.case(program("p32-ring0", RAW("0f0b"), patches=GATE_GONE))
    assert case.got.ending is case.expected.ending is Ending.SHUTDOWN
    assert pair.case(program("p32-ring0", "inc eax")).differences == ()


@needs_bochs
@pytest.mark.parametrize("flags", [0, 0x200])
@pytest.mark.parametrize("mode", ["real", "p32-ring3"])
def test_an_endless_program_is_left(pair: Pair, mode: str, flags: int) -> None:
    assert pair.case(program(mode, RAW("ebfe"), eflags=flags)).got.ending is Ending.ENDLESS


@needs_bochs
@pytest.mark.parametrize(("name", "made"), DIFFERENT, ids=[name for name, _ in DIFFERENT])
def test_deviation_is_explained(pair: Pair, name: str, made: Program) -> None:
    case = pair.case(made)
    assert case.differences
    flaws, _ = explain(case, pair.case)
    assert name in {flaw.name for flaw in flaws}


@needs_bochs
@pytest.mark.parametrize(("name", "made"), OF_SEGMENTS, ids=[name for name, _ in OF_SEGMENTS])
def test_segment_checks_are_those_of_bochs(pair: Pair, name: str, made: Program) -> None:
    assert pair.case(made).differences == ()
    case = pair.unchecked_case(made)
    assert case.differences
    flaws, _ = explain(case, pair.unchecked_case)
    assert name in {flaw.name for flaw in flaws}


@needs_bochs
@pytest.mark.parametrize(("name", "made"), DIFFERENT, ids=[name for name, _ in DIFFERENT])
def test_deviation_does_not_hide_another_error(pair: Pair, name: str, made: Program) -> None:
    """An engine that also gets CPUID wrong is caught, behind the deviation or in front of it."""

    def wrong(each: Program) -> Case:
        case = pair.case(each)
        stops = tuple(stop._replace(control=(stop.control[0] ^ 0x10, *stop.control[1:])) for stop in case.got.stops)
        got = type(case.got)(
            case.got.ending, stops, case.got.traffic, case.got.memory, case.got.fpu, case.got.interrupts
        )
        return Case(each, case.engine, case.against, got, case.expected, tuple(compare(got, case.expected)))

    assert explain(wrong(made), wrong)[0] == ()


def test_each_deviation_has_a_rule_and_a_source() -> None:
    assert all(flaw.rule and flaw.source for flaw in DEVIATIONS)


def test_definite_programs_leave_no_flag_undefined() -> None:
    made = definite(program("p32-ring0", RAW("f7e3"), RAW("d3e0"), RAW("0fa3d8"), RAW("d9fe")))
    assert [step.code for step in made.steps] == [
        RAW("f7e3 1400"), RAW("d3e0 38c0"), RAW("0fa3d8 1400"), RAW("90"),
    ]  # fmt: skip


def test_definite_programs_find_operands_on_the_x87_stack() -> None:
    (step,) = definite(program("p32-ring0", RAW("dec1"))).steps
    assert step.code.startswith(RAW("dbe3"))
    assert step.code.endswith(RAW("dec1"))


def test_fxsave_image_round_trip() -> None:
    state = bytearray(range(256)) * (hw.STATE_SIZE // 256) + bytes(hw.STATE_SIZE % 256)
    view = memoryview(state)
    view[hw.FPU_TOP : hw.FPU_TOP + 4] = (5).to_bytes(4, "little")
    view[hw.FPU_STATUS : hw.FPU_STATUS + 2] = (0x4781).to_bytes(2, "little")
    view[hw.FPU_TAGS : hw.FPU_TAGS + 8] = bytes([0, 1, 0, 1, 1, 0, 0, 1])
    before = bytes(state)
    image = bochs_fpu.to_image(view)
    assert image[3] >> 3 & 7 == 5
    bochs_fpu.from_image(image, view)
    assert bytes(state) == before


@needs_bochs
@pytest.mark.long
def test_random_programs_run_alike_on_bochs() -> None:
    tally = Campaign(Plan(Source(33), ("bochs",), "translate"), 0, 2000, 2).run()
    assert tally.total == 2000
    assert tally.failures == []
