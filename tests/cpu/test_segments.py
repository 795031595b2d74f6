"""Segment loads and the instructions that ask about descriptors, error code for error code."""

import pytest
from cpu_world import (
    ABSENT,
    BIG,
    CODE,
    CODE0,
    CODE_XO,
    CONFORMING,
    DATA,
    DATA0,
    DATA3,
    DATA_DOWN,
    DATA_RO,
    FREE,
    FRESH,
    LDT,
    LDT_TYPE,
    RING1,
    RING3,
    TSS16_BUSY,
    TSS16_FREE,
    TSS32_BUSY,
    TSS32_FREE,
    descriptor,
)

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Eflags, Seg
from vmm.cpu import segments
from vmm.cpu.vcpu import NULL_SEGMENT, SegmentRegister

GP, NP, SS, TS, UD = int(Vector.GP), int(Vector.NP), int(Vector.SS), int(Vector.TS), int(Vector.UD)
DATA_REGISTERS = [Seg.ES, Seg.DS, Seg.FS, Seg.GS]


# --- real mode and V86 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seg", [Seg.ES, Seg.DS, Seg.FS, Seg.GS])
def test_real_mode_load_keeps_hidden_limit_and_attributes(world, seg):
    world.real()
    world.vcpu.set_segment(seg, SegmentRegister(0, 0, 0xFFFF_FFFF, 0xC0_9300))
    segments.load_data_segment(world.vcpu, seg, 0xB800)
    assert world.vcpu.segment(seg) == SegmentRegister(0xB800, 0xB_8000, 0xFFFF_FFFF, 0xC0_9300)


def test_real_mode_ss_load_keeps_hidden_part(world):
    world.real()
    world.vcpu.set_segment(Seg.SS, SegmentRegister(0, 0, 0xFFFF_FFFF, 0xC0_9300))
    segments.load_stack_segment(world.vcpu, 0x9000)
    assert world.vcpu.segment(Seg.SS) == SegmentRegister(0x9000, 0x9_0000, 0xFFFF_FFFF, 0xC0_9300)


@pytest.mark.parametrize("load", [segments.load_stack_segment, lambda v, s: segments.load_data_segment(v, Seg.SS, s)])
def test_v86_load_sets_limit_and_dpl_3(world, load):
    world.v86()
    world.vcpu.set_segment(Seg.SS, SegmentRegister(0, 0, 0xFFFF_FFFF, 0))
    load(world.vcpu, 0x9000)
    assert world.vcpu.segment(Seg.SS) == SegmentRegister(0x9000, 0x9_0000, 0xFFFF, 0xF300)


# --- DS ES FS GS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seg", DATA_REGISTERS)
def test_data_load_takes_the_whole_descriptor_and_sets_accessed(world, seg):
    world.protected()
    world.put(FREE, descriptor(0x12_3456, 0x7FFF, DATA ^ FRESH))
    segments.load_data_segment(world.vcpu, seg, FREE)
    assert world.vcpu.segment(seg) == SegmentRegister(FREE, 0x12_3456, 0x7FFF, BIG | DATA << 8)
    assert world.access(FREE) == DATA


def test_accessed_descriptor_is_not_written_again(world):
    world.protected()
    world.memory.read_only.add(1)
    segments.load_data_segment(world.vcpu, Seg.DS, DATA0)
    assert world.vcpu.selector(Seg.DS) == DATA0


def test_accessed_bit_in_a_read_only_table_faults_before_the_load(world):
    world.protected()
    world.put(FREE, descriptor(0, 0, DATA ^ FRESH))
    world.memory.read_only.add(1)
    assert world.fault_of(lambda: segments.load_data_segment(world.vcpu, Seg.DS, FREE)) == (Vector.PF, 3)


@pytest.mark.parametrize("selector", [0, 1, 2, 3])
def test_null_selector_keeps_its_rpl(world, selector):
    world.protected(3)
    segments.load_data_segment(world.vcpu, Seg.ES, selector)
    assert world.vcpu.segment(Seg.ES) == SegmentRegister(selector, 0, 0, 0)


def test_ldt_selector_reads_the_ldt(world):
    world.protected(3)
    world.put(0x0F, descriptor(0x500, 0x10, DATA | RING3))
    segments.load_data_segment(world.vcpu, Seg.FS, 0x0F)
    assert world.vcpu.segment(Seg.FS) == SegmentRegister(0x0F, 0x500, 0x10, BIG | (DATA | RING3) << 8)


def test_beyond_the_limit_by_one_byte(world):
    world.protected()
    world.vcpu.gdtr = (world.vcpu.gdtr[0], FREE + 6)
    assert world.fault_of(lambda: segments.load_data_segment(world.vcpu, Seg.DS, FREE)) == (GP, FREE)
    world.vcpu.gdtr = (world.vcpu.gdtr[0], FREE + 7)
    world.put(FREE, descriptor(0, 0, DATA))
    segments.load_data_segment(world.vcpu, Seg.DS, FREE)


def test_any_ldt_selector_faults_without_an_ldt(world):
    world.protected()
    world.vcpu.ldtr = NULL_SEGMENT
    assert world.fault_of(lambda: segments.load_data_segment(world.vcpu, Seg.DS, 4)) == (GP, 4)


@pytest.mark.parametrize(
    ("cpl", "access", "rpl", "expected"),
    [
        pytest.param(0, CODE, 0, None, id="readable_code"),
        pytest.param(0, CODE_XO, 0, GP, id="execute_only"),
        pytest.param(0, TSS32_FREE, 0, GP, id="system"),
        pytest.param(0, DATA_RO, 0, None, id="read_only_data"),
        pytest.param(0, DATA ^ ABSENT, 0, NP, id="absent"),
        pytest.param(0, CODE_XO ^ ABSENT, 0, GP, id="type_before_presence"),
        pytest.param(3, DATA, 3, GP, id="cpl_above_dpl"),
        pytest.param(3, DATA ^ ABSENT, 3, GP, id="privilege_before_presence"),
        pytest.param(0, DATA, 1, GP, id="rpl_above_dpl"),
        pytest.param(1, DATA | RING1, 0, None, id="rpl_below_dpl"),
        pytest.param(0, DATA | RING3, 3, None, id="dpl_3_from_ring_0"),
        pytest.param(3, CONFORMING, 3, None, id="conforming_code_is_for_all"),
        pytest.param(3, CODE, 3, GP, id="code_of_an_inner_ring"),
    ],
)
def test_data_load_checks(world, cpl, access, rpl, expected):
    world.protected(cpl)
    world.put(FREE, descriptor(0, 0xFFF, access))
    selector = FREE | rpl
    if expected is None:
        segments.load_data_segment(world.vcpu, Seg.DS, selector)
        assert world.vcpu.selector(Seg.DS) == selector
    else:
        assert world.fault_of(lambda: segments.load_data_segment(world.vcpu, Seg.DS, selector)) == (expected, FREE)


# --- SS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpl", "access", "rpl", "expected"),
    [
        pytest.param(0, DATA, 0, None, id="good"),
        pytest.param(0, DATA_DOWN, 0, None, id="expand_down"),
        pytest.param(3, DATA | RING3, 3, None, id="ring_3"),
        pytest.param(0, DATA_RO, 0, GP, id="read_only"),
        pytest.param(0, CODE, 0, GP, id="code"),
        pytest.param(0, TSS32_FREE, 0, GP, id="system"),
        pytest.param(0, DATA | RING3, 0, GP, id="dpl_above_cpl"),
        pytest.param(3, DATA, 3, GP, id="dpl_below_cpl"),
        pytest.param(0, DATA, 3, GP, id="rpl_not_cpl"),
        pytest.param(3, DATA | RING3, 0, GP, id="rpl_below_cpl"),
        pytest.param(0, DATA ^ ABSENT, 0, SS, id="absent"),
    ],
)
def test_stack_load_checks(world, cpl, access, rpl, expected):
    world.protected(cpl)
    world.put(FREE, descriptor(0x1000, 0xFFF, access ^ FRESH))
    if expected is None:
        segments.load_stack_segment(world.vcpu, FREE | rpl)
        assert world.vcpu.segment(Seg.SS) == SegmentRegister(FREE | rpl, 0x1000, 0xFFF, BIG | access << 8)
    else:
        assert world.fault_of(lambda: segments.load_stack_segment(world.vcpu, FREE | rpl)) == (expected, FREE)


@pytest.mark.parametrize("selector", [0, 3])
def test_null_stack_is_gp_0(world, selector):
    world.protected()
    assert world.fault_of(lambda: segments.load_stack_segment(world.vcpu, selector)) == (GP, 0)


def test_stack_load_beyond_the_limit(world):
    world.protected()
    assert world.fault_of(lambda: segments.load_stack_segment(world.vcpu, 0x400)) == (GP, 0x400)


# --- LLDT LTR -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [segments.lldt, segments.ltr])
def test_system_loads_are_not_recognized_in_real_mode_and_v86(world, load):
    world.real()
    assert world.fault_of(lambda: load(world.vcpu, FREE)) == (UD, None)
    world.v86()
    assert world.fault_of(lambda: load(world.vcpu, FREE)) == (UD, None)


@pytest.mark.parametrize("load", [segments.lldt, segments.ltr])
def test_system_loads_need_cpl_0(world, load):
    world.protected(1)
    assert world.fault_of(lambda: load(world.vcpu, FREE)) == (GP, 0)


@pytest.mark.parametrize(
    ("selector", "access", "expected"),
    [
        pytest.param(FREE, TSS32_FREE, (GP, FREE), id="not_an_ldt"),
        pytest.param(FREE, DATA, (GP, FREE), id="data"),
        pytest.param(FREE | 4, LDT_TYPE, (GP, FREE | 4), id="in_the_ldt"),
        pytest.param(FREE, LDT_TYPE ^ ABSENT, (NP, FREE), id="absent"),
        pytest.param(0x400, LDT_TYPE, (GP, 0x400), id="beyond_the_limit"),
    ],
)
def test_lldt_checks(world, selector, access, expected):
    world.protected()
    world.put(selector, descriptor(LDT, 0xFF, access))
    assert world.fault_of(lambda: segments.lldt(world.vcpu, selector)) == expected


def test_lldt_loads_and_null_unloads(world):
    world.protected()
    world.put(FREE, descriptor(0x6000, 0x27, LDT_TYPE, 0))
    segments.lldt(world.vcpu, FREE)
    assert world.vcpu.ldtr == SegmentRegister(FREE, 0x6000, 0x27, LDT_TYPE << 8)
    segments.lldt(world.vcpu, 2)
    assert world.vcpu.ldtr == SegmentRegister(2, 0, 0, 0)


@pytest.mark.parametrize(
    ("selector", "access", "expected"),
    [
        pytest.param(0, TSS32_FREE, (GP, 0), id="null"),
        pytest.param(FREE | 4, TSS32_FREE, (GP, FREE | 4), id="in_the_ldt"),
        pytest.param(FREE, TSS32_BUSY, (GP, FREE), id="busy"),
        pytest.param(FREE, TSS16_BUSY, (GP, FREE), id="busy_16"),
        pytest.param(FREE, LDT_TYPE, (GP, FREE), id="ldt"),
        pytest.param(FREE, TSS32_FREE ^ ABSENT, (NP, FREE), id="absent"),
        pytest.param(0x400, TSS32_FREE, (GP, 0x400), id="beyond_the_limit"),
    ],
)
def test_ltr_checks(world, selector, access, expected):
    world.protected()
    world.put(selector, descriptor(0x6000, 0x67, access))
    assert world.fault_of(lambda: segments.ltr(world.vcpu, selector)) == expected


@pytest.mark.parametrize(("free", "busy"), [(TSS32_FREE, TSS32_BUSY), (TSS16_FREE, TSS16_BUSY)])
def test_ltr_marks_the_tss_busy_in_memory_and_in_tr(world, free, busy):
    world.protected()
    world.put(FREE, descriptor(0x6000, 0x67, free, 0))
    segments.ltr(world.vcpu, FREE)
    assert world.vcpu.tr == SegmentRegister(FREE, 0x6000, 0x67, busy << 8)
    assert world.access(FREE) == busy


# --- LAR LSL VERR VERW ARPL ---------------------------------------------------------------------------------

ASKING = [segments.lar, segments.lsl, segments.verr, segments.verw]


@pytest.mark.parametrize("ask", ASKING)
def test_asking_is_not_recognized_in_real_mode_and_v86(world, ask):
    world.real()
    assert world.fault_of(lambda: ask(world.vcpu, FREE)) == (UD, None)
    world.v86()
    assert world.fault_of(lambda: ask(world.vcpu, FREE)) == (UD, None)


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("selector", [0, 3, 0x400, 0x104], ids=["null", "null_rpl3", "gdt_limit", "ldt_limit"])
def test_asking_about_nothing_clears_zf_without_a_fault(world, ask, selector):
    world.protected()
    assert not ask(world.vcpu, selector)


LAR_AND_LSL = {
    0x81: (1, 1),
    0x82: (1, 1),
    0x83: (1, 1),
    0x84: (1, 0),
    0x85: (1, 0),
    0x89: (1, 1),
    0x8B: (1, 1),
    0x8C: (1, 0),
}


@pytest.mark.parametrize("access", range(0x80, 0x90))
def test_lar_and_lsl_know_their_system_types(world, access):
    world.protected()
    world.put(FREE, descriptor(0, 0x1234, access))
    has_lar, has_lsl = LAR_AND_LSL.get(access, (0, 0))
    assert segments.lar(world.vcpu, FREE) == (BIG | access << 8 if has_lar else None)
    assert segments.lsl(world.vcpu, FREE) == (0x1234 if has_lsl else None)


def test_lar_shows_an_absent_segment_and_sets_nothing(world):
    world.protected()
    world.put(FREE, descriptor(0, 0, 0x12))
    assert segments.lar(world.vcpu, FREE) == BIG | 0x1200
    assert world.access(FREE) == 0x12


def test_lsl_gives_bytes(world):
    world.protected()
    assert segments.lsl(world.vcpu, DATA0) == 0xFFFF_FFFF


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize(
    ("cpl", "access", "rpl", "seen"),
    [(3, DATA, 3, False), (0, DATA, 3, False), (3, DATA | RING3, 3, True), (1, DATA | RING3, 0, True)],
)
def test_asking_respects_cpl_and_rpl(world, ask, cpl, access, rpl, seen):
    world.protected(cpl)
    world.put(FREE, descriptor(0, 0xFF, access))
    assert bool(ask(world.vcpu, FREE | rpl)) is seen


@pytest.mark.parametrize(
    ("access", "readable", "writable"),
    [
        (DATA, True, True),
        (DATA_RO, True, False),
        (CODE, True, False),
        (CODE_XO, False, False),
        (TSS32_FREE, False, False),
        (DATA ^ ABSENT, True, True),
    ],
)
def test_verr_and_verw(world, access, readable, writable):
    world.protected()
    world.put(FREE, descriptor(0, 0xFF, access))
    assert (segments.verr(world.vcpu, FREE), segments.verw(world.vcpu, FREE)) == (readable, writable)


def test_conforming_code_is_visible_to_all(world):
    world.protected(3)
    world.put(FREE, descriptor(0, 0xFF, CONFORMING))
    assert segments.verr(world.vcpu, FREE | 3)


@pytest.mark.parametrize(
    ("dest", "src", "expected"),
    [(0x10, 0x1B, (0x13, True)), (0x13, 0x18, (0x13, False)), (0x11, 0x01, (0x11, False)), (0x10, 2, (0x12, True))],
)
def test_arpl(dest, src, expected):
    assert segments.arpl(dest, src) == expected


# --- returns to outer rings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        pytest.param((DATA | RING3) << 8, True, id="ring_3_data"),
        pytest.param(DATA << 8, False, id="ring_0_data"),
        pytest.param((DATA | RING1) << 8, False, id="ring_1_data"),
        pytest.param(CODE << 8, False, id="ring_0_code"),
        pytest.param(CONFORMING << 8, True, id="conforming_code"),
        pytest.param(0, False, id="null_with_rpl"),
    ],
)
def test_null_outer_segments(world, flags, kept):
    world.protected(3)
    before = SegmentRegister(0x33, 5, 6, flags)
    for seg in DATA_REGISTERS:
        world.vcpu.set_segment(seg, before)
    others = world.vcpu.segment(Seg.CS), world.vcpu.segment(Seg.SS)
    segments.null_outer_segments(world.vcpu)
    assert [world.vcpu.segment(seg) for seg in DATA_REGISTERS] == [before if kept else NULL_SEGMENT] * 4
    assert (world.vcpu.segment(Seg.CS), world.vcpu.segment(Seg.SS)) == others


def test_loads_leave_the_flags_alone(world):
    world.protected(3)
    world.vcpu.eflags = int(Eflags.CF | Eflags.ZF | Eflags.DF | Eflags.ONE)
    segments.load_data_segment(world.vcpu, Seg.ES, DATA3)
    assert world.vcpu.eflags == int(Eflags.CF | Eflags.ZF | Eflags.DF | Eflags.ONE)


def test_read_descriptor_returns_the_bytes_and_where_they_are(world):
    world.protected()
    assert segments.read_descriptor(world.vcpu, CODE0) == (world.raw(CODE0), 0x1008)
