"""Explanations: each known flaw of the bare processor is recognised, and hides nothing else."""

from dataclasses import replace

import pytest
from programs import program

from vmm.arch.registers import Reg
from vmm.differential import layout, segment_predicates
from vmm.differential.case import Case
from vmm.differential.flaws import FLAWS
from vmm.differential.judge import judge
from vmm.differential.modes import Paging
from vmm.differential.outcome import compare
from vmm.differential.program import Fixup, Patch, Program, Step
from vmm.differential.rig import SUBJECTS, Rig

RAW = bytes.fromhex
SECOND_PAGE = Patch(layout.entry_at(Paging.BITS_32, layout.CODE + 0x1000 >> 12)[0], bytes(4))
PAGED = {"paging": Paging.BITS_32}

OWN_DESCRIPTORS = Patch(layout.GDT + 0x180, RAW("ffff0000009e0000 ffff008000fc0000 0f00c65100dcc000 000000a0009e4000"))
READ_ONLY_GDT = Patch(layout.entry_at(Paging.BITS_32, layout.GDT >> 12)[0], RAW("01100000"))
NEW_CODE = Step("mov", RAW("c6060000fa"), (Fixup(2, 2, 2, layout.DATA),))
TASK_GATE = RAW("0000100100e50000")
TASK_FOR_PAGE_FAULTS = Patch(layout.IDT + 8 * 14, TASK_GATE)
TASK_FOR_NO_DEVICE = Patch(layout.IDT + 8 * 7, TASK_GATE)
NO_GATE_FOR_PROTECTION = Patch(layout.IDT + 8 * 13, RAW("68700800000e0000"))

CASES = [
    ("bit scans behind F3h", program("p32-ring0", RAW("f30fbdc2"), edx=8)),
    ("x87 errors", program("p32-ring1", RAW("d9e8d9eedef9"), RAW("d9fa"))),
    ("LOOPcc", program("real", RAW("29d8e000"), eax=5, ebx=7, ecx=1)),
    ("lazy flags", program("p32-ring0", RAW("39d80fc70d40000000"), eax=5, ebx=7)),
    ("TEST", program("p32-ring0", RAW("f6c801"))),
    ("LOCK", program("p32-ring0", RAW("f050"))),
    ("string ports", program("v86-iopl0", RAW("6c"))),
    ("SMSW", program("p16-ring0", RAW("660f01e6"), RAW("0f20c0"), cr0=0x4_0000)),
    ("CR1 and CR5 to CR7", program("p16-ring1", RAW("660f20fe"))),
    ("fetch ahead", program("p32-ring3", RAW("b84090000090"), patches=(SECOND_PAGE,), entry=0xAFFA, **PAGED)),
    ("branch limits", program("v86-iopl3", RAW("660f85279fe9ec"))),
    ("control registers", program("p32-ring0", RAW("0f22c0"), eax=0x2000_0031)),
    ("empty REP", program("p32-ring1", RAW("f26f"))),
    ("PUSHFD", program("v86-iopl3", RAW("669c"))),
    ("PAUSE", program("p16-ring0", RAW("6813319d"), RAW("f390"), RAW("66b907000100"))),
    ("null selectors", program("p16-ring3", RAW("66b8030000008ee8"), RAW("e650"), eflags=0x200)),
    ("RET imm16", program("p32-ring0", RAW("6808010000c24cde"))),
    ("LTR", program("p32-ring0", RAW("0f00d9"))),
    ("short fetch", program("p32-ring2", RAW("0f013d00110000"), patches=(SECOND_PAGE,), entry=0xAFFB, **PAGED)),
    ("stack limits", program("p16-ring1", RAW("bcffff"), RAW("cf"))),
    ("far branch limits", program("p32-ring1", RAW("6899010000680ba10000cf"), patches=(OWN_DESCRIPTORS,))),
    ("accessed code", program("p16-ring1", RAW("68810168fff0cf"), patches=(OWN_DESCRIPTORS,))),
    ("tasks that cannot start", program("p16-ring0", RAW("0f34"), patches=(TASK_FOR_PAGE_FAULTS,), **PAGED)),
    ("RF", program("p32-ring3", RAW("d9e4"), patches=(TASK_FOR_NO_DEVICE, NO_GATE_FOR_PROTECTION), cr0=4)),
    ("undefined opcodes", program("p32-ring1", RAW("c605 0721 0000 f9"), RAW("bec0f9ffffb964030000"), **PAGED)),
    ("the hole", program("v86-iopl3", RAW("670f69b4e880000000"), ebp=0x3ECA_759C)),
    ("x87 and SSE state", program("p32-ring1", RAW("d93510830000"))),
    ("alignment of SSE operands", program("p32-ring0", RAW("0f580504000000"))),
    ("CLFLUSH", program("p32-ring0", RAW("0fae3d00300000"), patches=(SECOND_PAGE,), **PAGED)),
    ("encodings in new code", program("p16-ring2", RAW("c6060521cc"), RAW("0f40df"), RAW("0f000ea907"))),
    ("reserved bits of CR0", program("real", RAW("0f22c0"), eax=0xFF)),
    ("CMPPS", program("p32-ring0", RAW("0fc2c108"))),
    ("hints", program("p32-ring0", RAW("660f18ce"))),
    ("far CALL", program("p32-ring2", RAW("9a0000bf71b200"))),
    ("16-bit tasks", program("p32-ring0", RAW("ea000000002001"))),
    ("REP over itself", program("real", RAW("bf0421"), RAW("b90800"), RAW("f3aa"), eax=0x90)),
    ("segment checks", program("v86-iopl3", RAW("8b07"), ebx=0xFFFF)),
    ("segment checks", program("p32-ring3", RAW("8903"), ebx=0x1_0000)),
    ("segment checks", program("p32-ring0", RAW("2ed303"))),
    ("segment checks", program("p16-ring3", RAW("bc0100"), RAW("50"))),
    ("segment checks", program("p32-ring1", RAW("0fa306"), eax=0x7FFF_FFFF)),
    ("segment checks", program("real", RAW("f3a5"), ecx=3, esi=0xFFFD)),
    ("near branch limits", program("p16-ring1", RAW("66ffe0"), eax=0x1_0000)),
    ("accessed bit", program("p32-ring0", RAW("66b878018ed8"), patches=(READ_ONLY_GDT,), cr0=0x1_0000, **PAGED)),
    (
        "reads that are to be written",
        program("p32-ring3", RAW("810500300000 01000000"), patches=(SECOND_PAGE,), **PAGED),
    ),
    ("ENTER", program("p32-ring0", RAW("66c8080000"), ebp=0x1234_5678)),
    ("undefined flags", program("p32-ring0", RAW("c0d007"), eax=2, eflags=1)),
    ("x87 errors without CR0.NE", program("p32-ring0", RAW("0f20c083e0df0f22c0"), RAW("def2"), RAW("d9f2"))),
]


@pytest.fixture(scope="session")
def bare() -> Rig:
    return Rig(SUBJECTS["bare"])


def both(translate: Rig, bare: Rig, made: Program) -> Case:
    expected, got = bare.run(made), translate.run(made)
    return Case(made, "translate", "bare", got, expected, tuple(compare(got, expected)))


@pytest.mark.parametrize(("name", "made"), CASES, ids=[name for name, _ in CASES])
def test_a_flaw_shows_and_is_recognised(translate: Rig, bare: Rig, name: str, made: Program) -> None:
    case = both(translate, bare, made)
    assert case.differences
    flaw = judge(case, lambda each: both(translate, bare, each)).flaw
    assert flaw is not None
    assert flaw.name == name


SPELLINGS = {flaw.name for flaw in FLAWS if flaw.spelling is not None} - {"fetch ahead"}
"""What is behind a fetch that faults is in a page that is not there: it never runs."""
SPELT = [(name, made) for name, made in CASES if name in SPELLINGS]


@pytest.mark.parametrize(("name", "made"), SPELT, ids=[name for name, _ in SPELT])
def test_another_spelling_hides_nothing_else(translate: Rig, bare: Rig, name: str, made: Program) -> None:
    """As if the engine under test got MOV EBP wrong, too: it runs every program with another value there."""
    move = b"" if made.mode.code32 else b"\x66"

    def wrong(each: Program) -> Case:
        right = replace(each, steps=(*each.steps, Step("mov", move + b"\xbd\x01\0\0\0")))
        other = replace(each, steps=(*each.steps, Step("mov", move + b"\xbd\x02\0\0\0")))
        expected, got = bare.run(right), translate.run(other)
        return Case(each, "translate", "bare", got, expected, tuple(compare(got, expected)))

    flaw = judge(wrong(made), wrong).flaw
    assert flaw is None or flaw.spelling is None


ALLOWED = [
    ("v86-iopl3", "8b07", Reg.EBX, 0xFFFF, 0xFFFE),
    ("p32-ring3", "8903", Reg.EBX, 0x1_0000, 0x100),
    ("p32-ring1", "0fa306", Reg.EAX, 0x7FFF_FFFF, 7),
    ("real", "f3a5", Reg.ESI, 0xFFFF, 0),
    ("p32-ring0", "2e8b03", Reg.EBX, 0x1_0000, 0x100),
]


@pytest.mark.parametrize(("mode", "code", "reg", "outside", "inside"), ALLOWED)
def test_a_segment_fault_without_a_reason_is_not_explained(
    translate: Rig, bare: Rig, mode: str, code: str, reg: Reg, outside: int, inside: int
) -> None:
    """As if the engine under test had refused an access that is inside its segment."""
    case = both(translate, bare, program(mode, RAW(code), ecx=3, **{reg.name.lower(): outside}))
    assert segment_predicates.leaves_its_segment(case)
    stop = case.got.stops[0]
    general = tuple(inside if number == reg else value for number, value in enumerate(stop.general))
    wrong = case._replace(got=replace(case.got, stops=(stop._replace(general=general), *case.got.stops[1:])))
    assert not segment_predicates.leaves_its_segment(wrong)
    assert not segment_predicates.branches_out_of_code(wrong)
