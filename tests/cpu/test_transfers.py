"""Far JMP, CALL and RET: segments, gates, rings, tasks."""

import pytest
from cpu_world import (
    ABSENT,
    BIG,
    CODE,
    CODE0,
    CODE1,
    CODE3,
    CODE16,
    CONF0,
    CONFORMING,
    DATA,
    DATA0,
    DATA1,
    DATA3,
    DATA_RO,
    FREE,
    FRESH,
    LDT_TYPE,
    MAIN_TSS,
    OTHER_TSS,
    PAGES,
    RING1,
    RING3,
    STACK0,
    STACK3,
    TSS,
    TSS32_BUSY,
    TSS32_FREE,
    TSS_B,
    descriptor,
    gate,
)

from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu.transfers import far_call, far_jump, far_return
from vmm.cpu.vcpu import NULL_SEGMENT, SegmentRegister

GP, NP, SS, TS, PF = (int(getattr(Vector, name)) for name in ("GP", "NP", "SS", "TS", "PF"))
CALL16, CALL32, TASK = 4, 12, 5
NEXT = 0x7007
THERE = 0x6000
GATE = FREE + 8
BOTH = pytest.mark.parametrize("go", [far_jump, far_call])


# --- real mode and V86 --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("mode", ["real", "v86"])
def test_flat_transfer(world, go, mode):
    getattr(world, mode)()
    cpl = world.vcpu.cpl
    go(world.vcpu, 0x1234, 0x5678, 2, 0x128)
    assert world.here == (0x1234, 0x5678, cpl)
    assert world.vcpu.base(Seg.CS) == 0x12340
    if go is far_call:
        assert world.stack(2, 2) == [0x128, 0x100]


def test_real_mode_call_with_32_bit_operand(world):
    world.real()
    far_call(world.vcpu, 0x1234, 0x5678, 4, 0x128)
    assert world.stack(2, 4) == [0x128, 0x100]


def test_real_mode_jump_keeps_the_hidden_part(world):
    world.real()
    world.vcpu.set_segment(Seg.CS, SegmentRegister(0x8, 0, 0xFFFF_FFFF, 0xC0_9B00))
    far_jump(world.vcpu, 0x1234, 0x5678, 2, 0)
    assert world.vcpu.segment(Seg.CS) == SegmentRegister(0x1234, 0x1_2340, 0xFFFF_FFFF, 0xC0_9B00)


@BOTH
def test_flat_transfer_beyond_64k(world, go):
    world.real()
    assert world.fault_of(lambda: go(world.vcpu, 0, 0x1_0000, 4, 0)) == (GP, 0)


def test_16_bit_operand_cuts_the_offset(world):
    world.real()
    far_jump(world.vcpu, 0, 0xABCD_1234, 2, 0)
    assert world.vcpu.eip == 0x1234


def test_flat_call_without_room(world):
    world.real()
    world.vcpu.set_reg32(Reg.ESP, 3)
    assert world.fault_of(lambda: far_call(world.vcpu, 0, 0x1_0000, 4, 0)) == (SS, 0)


@pytest.mark.parametrize("mode", ["real", "v86"])
@pytest.mark.parametrize("size", [2, 4])
def test_flat_return(world, mode, size):
    getattr(world, mode)()
    world.push(0x1234, 0x5678, size=size)
    far_return(world.vcpu, size, 6)
    assert world.here[:2] == (0x1234, 0x5678)
    assert world.vcpu.reg32(Reg.ESP) == 0x806


def test_flat_return_beyond_64k(world):
    world.real()
    world.push(0, 0x1_0000)
    assert world.fault_of(lambda: far_return(world.vcpu, 4)) == (GP, 0)


# --- direct, protected mode ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("cpl", "selector", "after"),
    [
        pytest.param(0, CODE0, CODE0, id="same_ring"),
        pytest.param(3, CODE3, CODE3, id="ring_3"),
        pytest.param(3, CODE3 & ~3, CODE3, id="rpl_below_cpl"),
        pytest.param(3, CONF0, CONF0 | 3, id="conforming"),
        pytest.param(0, CONF0 | 3, CONF0, id="conforming_ignores_rpl"),
    ],
)
def test_direct_transfer(world, go, cpl, selector, after):
    world.protected(cpl)
    old = world.vcpu.selector(Seg.CS)
    go(world.vcpu, selector, THERE, 4, NEXT)
    assert world.here == (after, THERE, cpl)
    if go is far_call:
        assert world.stack(2) == [NEXT, old]


@BOTH
@pytest.mark.parametrize(
    ("cpl", "selector", "access", "expected"),
    [
        pytest.param(0, 0, CODE, (GP, 0), id="null"),
        pytest.param(0, 2, CODE, (GP, 0), id="null_with_rpl"),
        pytest.param(0, 0x400, CODE, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(0, FREE, DATA, (GP, FREE), id="data"),
        pytest.param(0, FREE, LDT_TYPE, (GP, FREE), id="ldt"),
        pytest.param(0, FREE, 0x8E, (GP, FREE), id="interrupt_gate"),
        pytest.param(3, FREE, CODE, (GP, FREE), id="inner_ring"),
        pytest.param(0, FREE, CODE | RING3, (GP, FREE), id="outer_ring"),
        pytest.param(0, FREE | 1, CODE, (GP, FREE), id="rpl_above_cpl"),
        pytest.param(0, FREE, CONFORMING | RING3, (GP, FREE), id="conforming_outer_ring"),
        pytest.param(0, FREE, CODE ^ ABSENT, (NP, FREE), id="absent"),
        pytest.param(0, FREE, CONFORMING ^ ABSENT, (NP, FREE), id="absent_conforming"),
        pytest.param(0, FREE, (CODE | RING3) ^ ABSENT, (GP, FREE), id="privilege_before_presence"),
        pytest.param(0, FREE, CODE ^ FRESH, (GP, 0), id="beyond_the_segment"),
    ],
)
def test_direct_checks(world, go, cpl, selector, access, expected):
    world.protected(cpl)
    world.put(FREE, descriptor(0, THERE - 1, access))
    assert world.fault_of(lambda: go(world.vcpu, selector, THERE, 4, NEXT)) == expected


def test_jump_sets_accessed_and_takes_the_hidden_part(world):
    world.protected()
    world.put(FREE, descriptor(0x1_0000, 0xFFFF, CODE ^ FRESH, 0))
    far_jump(world.vcpu, FREE, THERE, 4, NEXT)
    assert world.access(FREE) == CODE
    assert world.vcpu.segment(Seg.CS) == SegmentRegister(FREE, 0x1_0000, 0xFFFF, CODE << 8)


def test_call_with_16_bit_operand_pushes_words(world):
    world.protected()
    far_call(world.vcpu, CODE16, 0xABCD_1234, 2, 0x1_7007)
    assert world.here == (CODE16, 0x1234, 0)
    assert world.stack(2, 2) == [0x7007, CODE0]


def test_call_stack_before_entry_point(world):
    world.protected()
    world.put(FREE, descriptor(0, 0xFFF, DATA))
    world.load(Seg.SS, FREE)
    world.vcpu.set_reg32(Reg.ESP, 7)
    world.put(FREE, descriptor(0, THERE - 1, CODE))
    assert world.fault_of(lambda: far_call(world.vcpu, FREE, THERE, 4, NEXT)) == (SS, 0)


# --- call gates ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("cpl", "code", "after"),
    [(0, CODE0, CODE0), (3, CODE3, CODE3), (3, CONF0, CONF0 | 3), (0, CODE0 | 3, CODE0)],
)
def test_gate_to_the_same_ring_ignores_the_offset(world, go, cpl, code, after):
    world.protected(cpl)
    old = world.vcpu.selector(Seg.CS)
    world.put(GATE, gate(CALL32, code, THERE, dpl=3))
    go(world.vcpu, GATE, 0xDEAD_BEEF, 2, NEXT)
    assert world.here == (after, THERE, cpl)
    if go is far_call:
        assert world.stack(2) == [NEXT, old]


@BOTH
@pytest.mark.parametrize(
    ("cpl", "selector", "dpl", "present", "expected"),
    [
        pytest.param(3, GATE, 2, True, (GP, GATE), id="cpl_above_dpl"),
        pytest.param(0, GATE | 1, 0, True, (GP, GATE), id="rpl_above_dpl"),
        pytest.param(0, GATE, 0, False, (NP, GATE), id="absent"),
        pytest.param(3, GATE, 0, False, (GP, GATE), id="privilege_before_presence"),
    ],
)
@pytest.mark.parametrize("kind", [CALL32, CALL16, TASK])
def test_gate_checks(world, go, cpl, selector, dpl, present, expected, kind):
    world.protected(cpl)
    world.put(GATE, gate(kind, CODE0, THERE, dpl=dpl, present=present))
    assert world.fault_of(lambda: go(world.vcpu, selector, 0, 4, NEXT)) == expected


@BOTH
@pytest.mark.parametrize(
    ("cpl", "selector", "access", "expected"),
    [
        pytest.param(0, 0, CODE, (GP, 0), id="null"),
        pytest.param(0, 0x400, CODE, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(0, FREE, DATA, (GP, FREE), id="data"),
        pytest.param(0, FREE, CODE | RING1, (GP, FREE), id="outer_ring"),
        pytest.param(0, FREE, CONFORMING | RING1, (GP, FREE), id="outer_ring_conforming"),
        pytest.param(0, FREE, CODE ^ ABSENT, (NP, FREE), id="absent"),
        pytest.param(0, FREE, CODE, (GP, 0), id="beyond_the_segment"),
    ],
)
def test_gate_target_checks(world, go, cpl, selector, access, expected):
    world.protected(cpl)
    world.put(FREE, descriptor(0, THERE - 1, access))
    world.put(GATE, gate(CALL32, selector, THERE, dpl=3))
    assert world.fault_of(lambda: go(world.vcpu, GATE, 0, 4, NEXT)) == expected


def test_jump_through_a_gate_does_not_change_rings(world):
    world.protected(3)
    world.put(GATE, gate(CALL32, CODE0, THERE, dpl=3))
    assert world.fault_of(lambda: far_jump(world.vcpu, GATE, 0, 4, NEXT)) == (GP, CODE0)


def test_call_to_an_inner_ring_copies_parameters(world):
    world.protected(3)
    world.push(0x333, 0x222, 0x111)
    world.put(GATE, gate(CALL32, CODE0 | 3, THERE, dpl=3, count=3))
    far_call(world.vcpu, GATE | 3, 0, 4, NEXT)
    assert world.here == (CODE0, THERE, 0)
    assert world.stack(7) == [NEXT, CODE3, 0x111, 0x222, 0x333, STACK3 - 12, DATA3]
    assert world.vcpu.reg32(Reg.ESP) == STACK0 - 28
    assert world.vcpu.segment(Seg.SS) == SegmentRegister(DATA0, 0, 0xFFFF_FFFF, BIG | PAGES | DATA << 8)
    assert world.vcpu.selector(Seg.DS) == DATA3


def test_16_bit_gate_copies_words(world):
    world.protected(3)
    world.push(0x222, 0x111, size=2)
    world.put(GATE, gate(CALL16, CODE0, THERE, dpl=3, count=2))
    far_call(world.vcpu, GATE | 3, 0, 4, NEXT)
    assert world.stack(6, 2) == [NEXT, CODE3, 0x111, 0x222, STACK3 - 4, DATA3]


def test_inner_call_takes_the_stack_of_the_target_ring(world):
    world.protected(3)
    world.put(GATE, gate(CALL32, CODE1, THERE, dpl=3))
    far_call(world.vcpu, GATE | 3, 0, 4, NEXT)
    assert world.here == (CODE1, THERE, 1)
    assert world.vcpu.selector(Seg.SS) == DATA1


@pytest.mark.parametrize(
    ("selector", "access", "expected"),
    [
        pytest.param(0, DATA, (TS, 0), id="null"),
        pytest.param(0x400, DATA, (TS, 0x400), id="beyond_the_limit"),
        pytest.param(FREE | 1, DATA, (TS, FREE), id="rpl"),
        pytest.param(FREE, DATA | RING1, (TS, FREE), id="dpl"),
        pytest.param(FREE, DATA_RO, (TS, FREE), id="read_only"),
        pytest.param(FREE, DATA ^ ABSENT, (SS, FREE), id="absent"),
        pytest.param(FREE, DATA, (SS, FREE), id="no_room"),
    ],
)
def test_inner_call_stack_checks(world, selector, access, expected):
    world.protected(3)
    world.put(FREE, descriptor(0, 0xFFF, access))
    world.dword(TSS + 4, 4 * 6 - 1)
    world.dword(TSS + 8, selector)
    world.put(GATE, gate(CALL32, CODE0, THERE, dpl=3, count=2))
    assert world.fault_of(lambda: far_call(world.vcpu, GATE | 3, 0, 4, NEXT)) == expected


def test_inner_call_with_a_short_tss(world):
    world.protected(3)
    world.vcpu.tr = SegmentRegister(MAIN_TSS, TSS, 8, TSS32_BUSY << 8)
    world.put(GATE, gate(CALL32, CODE0, THERE, dpl=3))
    assert world.fault_of(lambda: far_call(world.vcpu, GATE | 3, 0, 4, NEXT)) == (TS, MAIN_TSS)


def test_inner_call_with_parameters_beyond_the_old_stack(world):
    world.protected(3)
    world.put(FREE, descriptor(0, STACK3 + 3, DATA | RING3))
    world.load(Seg.SS, FREE | 3)
    world.put(GATE, gate(CALL32, CODE0, THERE, dpl=3, count=2))
    assert world.fault_of(lambda: far_call(world.vcpu, GATE | 3, 0, 4, NEXT)) == (SS, 0)


def test_inner_call_beyond_the_segment(world):
    world.protected(3)
    world.put(FREE, descriptor(0, THERE - 1, CODE ^ FRESH))
    world.put(GATE, gate(CALL32, FREE, THERE, dpl=3))
    assert world.fault_of(lambda: far_call(world.vcpu, GATE | 3, 0, 4, NEXT)) == (GP, 0)


# --- tasks --------------------------------------------------------------------------------------------------


def new_task(world):
    for at, value in ((0x20, THERE), (0x24, 2), (0x38, 0x8800), (0x4C, CODE0), (0x50, DATA0)):
        world.dword(TSS_B + at, value)


@BOTH
@pytest.mark.parametrize("selector", [OTHER_TSS, GATE])
def test_task_switch_by_transfer(world, go, selector):
    world.protected()
    new_task(world)
    world.put(GATE, gate(TASK, OTHER_TSS, 0))
    go(world.vcpu, selector, 0, 4, NEXT)
    assert world.here == (CODE0, THERE, 0)
    assert world.memory.read(TSS + 0x20, 4, False) == NEXT
    nested = go is far_call
    assert world.access(MAIN_TSS) == (TSS32_BUSY if nested else TSS32_FREE)
    assert bool(world.vcpu.eflags & int(Eflags.NT)) is nested


@BOTH
@pytest.mark.parametrize(
    ("cpl", "selector", "access", "expected"),
    [
        pytest.param(0, FREE, TSS32_BUSY, (GP, FREE), id="busy"),
        pytest.param(3, FREE, TSS32_FREE, (GP, FREE), id="cpl_above_dpl"),
        pytest.param(0, FREE | 1, TSS32_FREE, (GP, FREE), id="rpl_above_dpl"),
        pytest.param(0, FREE, TSS32_FREE ^ ABSENT, (NP, FREE), id="absent"),
        pytest.param(0, FREE | 4, TSS32_FREE, (GP, FREE | 4), id="in_the_ldt"),
        pytest.param(0, FREE, TSS32_FREE, (TS, FREE), id="too_short"),
    ],
)
def test_tss_checks(world, go, cpl, selector, access, expected):
    world.protected(cpl)
    world.put(selector, descriptor(TSS_B, 0x66, access))
    assert world.fault_of(lambda: go(world.vcpu, selector, 0, 4, NEXT)) == expected


def test_task_beyond_its_segment_faults_in_the_new_task(world):
    world.protected()
    new_task(world)
    world.put(FREE, descriptor(0, THERE - 1, CODE))
    world.dword(TSS_B + 0x4C, FREE)
    with pytest.raises(GuestFault) as caught:
        far_jump(world.vcpu, OTHER_TSS, 0, 4, NEXT)
    assert (caught.value.vector, caught.value.error_code) == (GP, 0)
    assert (world.vcpu.tr.selector, world.vcpu.eip) == (OTHER_TSS, THERE)


# --- RETF ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cpl", "code"), [(0, CODE0), (1, CODE1), (3, CODE3), (0, CONF0)])
def test_return_to_the_same_ring(world, cpl, code):
    world.protected(cpl)
    top = world.vcpu.reg32(Reg.ESP)
    world.push(code, THERE)
    far_return(world.vcpu, 4, 8)
    assert world.here == (code, THERE, cpl)
    assert world.vcpu.reg32(Reg.ESP) == top + 8


@pytest.mark.parametrize(
    ("cpl", "selector", "access", "expected"),
    [
        pytest.param(0, 0, CODE, (GP, 0), id="null"),
        pytest.param(0, 0x400, CODE, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(0, FREE, DATA, (GP, FREE), id="data"),
        pytest.param(3, FREE, CODE, (GP, FREE), id="inner_ring"),
        pytest.param(0, FREE | 1, CODE, (GP, FREE), id="dpl_not_rpl"),
        pytest.param(0, FREE, CONFORMING | RING3, (GP, FREE), id="conforming_dpl_above_rpl"),
        pytest.param(0, FREE, CODE ^ ABSENT, (NP, FREE), id="absent"),
        pytest.param(0, FREE, CODE ^ FRESH, (GP, 0), id="beyond_the_segment"),
    ],
)
def test_return_checks(world, cpl, selector, access, expected):
    world.protected(cpl)
    world.put(FREE, descriptor(0, THERE - 1, access))
    world.push(selector, THERE)
    assert world.fault_of(lambda: far_return(world.vcpu, 4)) == expected


@pytest.mark.parametrize(("size", "release"), [(4, 0), (4, 8), (2, 4)])
def test_return_to_an_outer_ring(world, size, release):
    world.protected()
    world.load(Seg.FS, DATA3)
    world.push(DATA3, STACK3, size=size)
    world.push(*[0] * (release // size), size=size)
    world.push(CODE3, THERE, size=size)
    far_return(world.vcpu, size, release)
    assert world.here == (CODE3, THERE, 3)
    assert world.vcpu.reg32(Reg.ESP) == STACK3 + release
    assert world.selectors() == {"ES": 0, "CS": CODE3, "SS": DATA3, "DS": 0, "FS": DATA3, "GS": 0}
    assert world.vcpu.segment(Seg.DS) == NULL_SEGMENT


@pytest.mark.parametrize(
    ("selector", "access", "expected"),
    [
        pytest.param(0, DATA, (GP, 0), id="null"),
        pytest.param(0x403, DATA, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(FREE, DATA | RING3, (GP, FREE), id="rpl"),
        pytest.param(FREE | 3, DATA, (GP, FREE), id="dpl"),
        pytest.param(FREE | 3, DATA_RO | RING3, (GP, FREE), id="read_only"),
        pytest.param(FREE | 3, (DATA | RING3) ^ ABSENT, (SS, FREE), id="absent"),
    ],
)
def test_outer_stack_checks(world, selector, access, expected):
    world.protected()
    world.put(FREE, descriptor(0, 0xFFFF, access))
    world.push(selector, STACK3, CODE3, THERE)
    assert world.fault_of(lambda: far_return(world.vcpu, 4)) == expected


def test_return_beyond_the_stack(world):
    world.protected()
    world.put(FREE, descriptor(0, 0x7FFF, DATA))
    world.load(Seg.SS, FREE)
    world.vcpu.set_reg32(Reg.ESP, 0x7FF9)
    assert world.fault_of(lambda: far_return(world.vcpu, 4)) == (SS, 0)


def test_outer_half_beyond_the_stack(world):
    world.protected()
    world.put(FREE, descriptor(0, 0x7F07, DATA))
    world.load(Seg.SS, FREE)
    world.dword(0x7F00, THERE)
    world.dword(0x7F04, CODE3)
    world.vcpu.set_reg32(Reg.ESP, 0x7F00)
    assert world.fault_of(lambda: far_return(world.vcpu, 4)) == (SS, 0)


def test_page_fault_on_the_stack_leaves_no_trace(world):
    world.protected()
    world.vcpu.set_reg32(Reg.ESP, STACK0 + 4)
    world.memory.missing.add(STACK0 - 1 >> 12)
    assert world.fault_of(lambda: far_call(world.vcpu, CODE0, THERE, 4, NEXT)) == (PF, 2)


def test_call_and_return_through_a_gate_restore_the_caller(world):
    world.protected(3)
    world.push(0x222, 0x111)
    before = world.snapshot()
    world.put(GATE, gate(CALL32, CODE0, THERE, dpl=3, count=2))
    far_call(world.vcpu, GATE | 3, 0, 4, NEXT)
    far_return(world.vcpu, 4, 8)
    after = world.snapshot()
    assert after.pop("eip") == NEXT
    assert after.pop("regs")[Reg.ESP] == STACK3
    before.pop("eip")
    before.pop("regs")
    assert after == before
