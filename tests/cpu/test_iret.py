"""IRET in every mode: where it goes, which flags it may change, what it refuses."""

import pytest
from cpu_world import (
    ABSENT,
    BIG,
    CODE,
    CODE0,
    CODE1,
    CODE3,
    CONF0,
    CONFORMING,
    DATA,
    DATA0,
    DATA1,
    DATA3,
    DATA_RO,
    FREE,
    FRESH,
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
)

from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu.iret import iret
from vmm.cpu.vcpu import NULL_SEGMENT, SegmentRegister

GP, NP, SS, TS, PF = (int(getattr(Vector, name)) for name in ("GP", "NP", "SS", "TS", "PF"))
ALL = 0xFFFF_FFFF
ONE, IF, IOPL, NT = int(Eflags.ONE), int(Eflags.IF), int(Eflags.IOPL), int(Eflags.NT)
VM, RF, AC, ID = int(Eflags.VM), int(Eflags.RF), int(Eflags.AC), int(Eflags.ID)
BASIC = 0xFD5 & ~IF | NT | ONE  # arithmetic, TF, DF, NT


# --- real mode ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "before", "image", "after"),
    [
        pytest.param(2, ONE, 0xFFFF, BASIC | IF | IOPL, id="word_sets_all_of_the_low_half"),
        pytest.param(2, ONE | AC | ID | IF, 0, ONE | AC | ID, id="word_keeps_the_upper_half"),
        pytest.param(4, ONE, ALL, BASIC | IF | IOPL | RF | AC | ID, id="dword_never_sets_vm"),
        pytest.param(4, BASIC | IF | IOPL | AC | ID, 0, ONE, id="dword_clears"),
    ],
)
def test_real_mode_flags(world, size, before, image, after):
    world.real()
    world.vcpu.eflags = before
    world.push(image, 0x1234, 0x5678, size=size)
    iret(world.vcpu, size, 0)
    assert world.vcpu.eflags == after
    assert world.here == (0x1234, 0x5678, 0)
    assert world.vcpu.base(Seg.CS) == 0x12340
    assert world.vcpu.reg32(Reg.ESP) == 0x800


def test_real_mode_beyond_the_segment(world):
    world.real()
    world.push(0, 0, 0x1_0000)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (GP, 0)


def test_real_mode_beyond_the_stack(world):
    world.real()
    world.vcpu.set_segment(Seg.SS, SegmentRegister(0, 0, 0x7FF, 0x9300))
    world.vcpu.set_reg32(Reg.ESP, 0x7FB)
    assert world.fault_of(lambda: iret(world.vcpu, 2, 0)) == (SS, 0)


# --- V86 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iopl", [0, 1, 2])
def test_v86_needs_iopl_3(world, iopl):
    world.v86(iopl)
    world.push(0, 0, 0, size=2)
    assert world.fault_of(lambda: iret(world.vcpu, 2, 0)) == (GP, 0)


@pytest.mark.parametrize(
    ("size", "image", "after"),
    [
        pytest.param(2, 0xFFFF, BASIC | IF | IOPL | VM, id="word"),
        pytest.param(2, 0, ONE | IOPL | VM, id="word_keeps_iopl_and_vm"),
        pytest.param(4, ALL, BASIC | IF | IOPL | VM | RF | AC | ID, id="dword"),
        pytest.param(4, 0, ONE | IOPL | VM, id="dword_keeps_iopl_and_vm"),
    ],
)
def test_v86_flags(world, size, image, after):
    world.v86()
    world.push(image, 0x1234, 0x5678, size=size)
    iret(world.vcpu, size, 0)
    assert world.vcpu.eflags == after
    assert world.here == (0x1234, 0x5678, 3)
    assert world.vcpu.segment(Seg.CS) == SegmentRegister(0x1234, 0x1_2340, 0xFFFF, 0xF300)


def test_v86_ignores_nt(world):
    world.v86()
    world.vcpu.eflags |= NT
    world.push(0, 0x1234, 0x5678, size=2)
    iret(world.vcpu, 2, 0)
    assert world.here == (0x1234, 0x5678, 3)


def test_v86_beyond_64k(world):
    world.v86()
    world.push(0, 0, 0x1_0000)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (GP, 0)


# --- same ring ----------------------------------------------------------------------------------------------

CODE_OF = {0: CODE0, 1: CODE1, 3: CODE3}


@pytest.mark.parametrize(
    ("cpl", "iopl", "size", "after"),
    [
        pytest.param(0, 0, 4, BASIC | IF | IOPL | RF | AC | ID, id="cpl0_dword"),
        pytest.param(0, 0, 2, BASIC | IF | IOPL, id="cpl0_word"),
        pytest.param(1, 1, 4, BASIC | IF | 1 << 12 | RF | AC | ID, id="cpl_is_iopl"),
        pytest.param(3, 3, 4, BASIC | IF | 3 << 12 | RF | AC | ID, id="cpl3_iopl3"),
        pytest.param(3, 0, 4, BASIC | RF | AC | ID, id="cpl3_iopl0"),
        pytest.param(1, 0, 2, BASIC, id="cpl1_iopl0_word"),
    ],
)
def test_same_ring_flags(world, cpl, iopl, size, after):
    world.protected(cpl)
    world.vcpu.eflags = ONE | iopl << 12
    top = world.vcpu.reg32(Reg.ESP)
    world.push(ALL & ~VM if size == 4 else 0xFFFF, CODE_OF[cpl], 0x6000, size=size)
    iret(world.vcpu, size, 0)
    assert world.vcpu.eflags == after
    assert world.here == (CODE_OF[cpl], 0x6000, cpl)
    assert world.vcpu.reg32(Reg.ESP) == top


def test_clearing_if_needs_iopl_too(world):
    world.protected(3)
    world.vcpu.eflags = ONE | IF
    world.push(0, CODE3, 0x6000)
    iret(world.vcpu, 4, 0)
    assert world.vcpu.eflags == ONE | IF


@pytest.mark.parametrize(("cpl", "size"), [(3, 4), (1, 4), (0, 2)])
def test_vm_in_the_image_counts_only_for_iretd_at_cpl_0(world, cpl, size):
    world.protected(cpl)
    world.push(VM & ((1 << 8 * size) - 1) | ONE, CODE_OF[cpl], 0x6000, size=size)
    iret(world.vcpu, size, 0)
    assert not world.vcpu.is_v86
    assert world.here == (CODE_OF[cpl], 0x6000, cpl)


def test_upper_half_of_a_pushed_selector_is_ignored(world):
    world.protected()
    world.push(ONE, 0xABCD_0000 | CODE0, 0x6000)
    iret(world.vcpu, 4, 0)
    assert world.here == (CODE0, 0x6000, 0)


@pytest.mark.parametrize(
    ("cpl", "selector", "access", "expected"),
    [
        pytest.param(0, 0, CODE, (GP, 0), id="null"),
        pytest.param(0, 3, CODE, (GP, 0), id="null_with_rpl"),
        pytest.param(0, 0x400, CODE, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(0, FREE, DATA, (GP, FREE), id="data"),
        pytest.param(0, FREE, TSS32_FREE, (GP, FREE), id="system"),
        pytest.param(3, FREE, CODE, (GP, FREE), id="inner_ring"),
        pytest.param(3, 0x401, CODE, (GP, 0x400), id="inner_ring_beyond_the_limit"),
        pytest.param(0, FREE, CODE | RING1, (GP, FREE), id="dpl_not_rpl"),
        pytest.param(0, FREE | 3, CODE | RING1, (GP, FREE), id="dpl_below_rpl"),
        pytest.param(0, FREE, CONFORMING | RING3, (GP, FREE), id="conforming_dpl_above_rpl"),
        pytest.param(0, FREE, CODE ^ ABSENT, (NP, FREE), id="absent"),
        pytest.param(0, FREE, CONFORMING ^ ABSENT, (NP, FREE), id="absent_conforming"),
    ],
)
def test_return_segment_checks(world, cpl, selector, access, expected):
    world.protected(cpl)
    world.put(FREE, descriptor(0, 0xFFFF, access))
    world.push(ONE, selector, 0x6000)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == expected


def test_same_ring_beyond_the_segment(world):
    world.protected()
    world.put(FREE, descriptor(0, 0x5FFF, CODE ^ FRESH))
    world.push(ONE, FREE, 0x6000)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (GP, 0)


def test_protected_mode_beyond_the_stack(world):
    world.protected()
    world.put(FREE, descriptor(0, 0x7FFF, DATA))
    world.load(Seg.SS, FREE)
    world.vcpu.set_reg32(Reg.ESP, 0x7FF5)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (SS, 0)


def test_page_fault_while_popping(world):
    world.protected()
    world.memory.missing.add(world.vcpu.reg32(Reg.ESP) >> 12)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (PF, 0)


# --- outer ring ---------------------------------------------------------------------------------------------


def outer(world, code=CODE3, stack=DATA3, eip=0x6000, flags=ONE | IF, size=4):
    world.push(stack, STACK3, flags, code, eip, size=size)


@pytest.mark.parametrize("size", [2, 4])
def test_outer_ring(world, size):
    world.protected()
    world.load(Seg.ES, CODE1)
    world.vcpu.set_segment(Seg.GS, SegmentRegister(3, 0, 0, 0))
    world.load(Seg.FS, DATA3)
    outer(world, size=size)
    iret(world.vcpu, size, 0)
    assert world.here == (CODE3, 0x6000, 3)
    assert world.vcpu.reg32(Reg.ESP) == STACK3
    assert world.vcpu.eflags == ONE | IF
    assert world.selectors() == {"ES": 0, "CS": CODE3, "SS": DATA3, "DS": 0, "FS": DATA3, "GS": 0}
    assert world.vcpu.segment(Seg.DS) == NULL_SEGMENT


def test_outer_ring_uses_the_old_cpl_for_flags(world):
    world.protected()
    outer(world, flags=ONE | IF | IOPL)
    iret(world.vcpu, 4, 0)
    assert world.vcpu.eflags == ONE | IF | IOPL


def test_outer_conforming_code_runs_at_rpl(world):
    world.protected()
    outer(world, code=CONF0 | 3)
    iret(world.vcpu, 4, 0)
    assert world.here == (CONF0 | 3, 0x6000, 3)


def test_16_bit_outer_stack_keeps_the_upper_half_of_esp(world):
    """The leak that operating systems work around: bits 31:16 of the kernel's ESP show in ring 3."""
    world.protected()
    world.put(FREE, descriptor(0, 0xFFFF, DATA | RING3, 0))
    world.memory.data[STACK0 + 0xFFF0 : STACK0 + 0xFFF1] = b"\0"
    world.vcpu.set_reg32(Reg.ESP, 0x5_0000)
    outer(world, stack=FREE | 3)
    iret(world.vcpu, 4, 0)
    assert world.vcpu.reg32(Reg.ESP) == 0x4_0000 | STACK3


@pytest.mark.parametrize(
    ("selector", "access", "expected"),
    [
        pytest.param(0, DATA, (GP, 0), id="null"),
        pytest.param(3, DATA, (GP, 0), id="null_with_rpl"),
        pytest.param(0x403, DATA, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(FREE, DATA | RING3, (GP, FREE), id="rpl"),
        pytest.param(FREE | 3, DATA, (GP, FREE), id="dpl"),
        pytest.param(FREE | 3, DATA_RO | RING3, (GP, FREE), id="read_only"),
        pytest.param(FREE | 3, CODE | RING3, (GP, FREE), id="code"),
        pytest.param(FREE | 3, (DATA | RING3) ^ ABSENT, (SS, FREE), id="absent"),
    ],
)
def test_outer_stack_checks(world, selector, access, expected):
    world.protected()
    world.put(FREE, descriptor(0, 0xFFFF, access))
    outer(world, stack=selector)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == expected


def test_outer_ring_beyond_its_segment(world):
    world.protected()
    world.put(FREE, descriptor(0, 0x5FFF, CODE | RING3))
    outer(world, code=FREE | 3)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (GP, 0)


def test_outer_ring_sets_both_accessed_bits(world):
    world.protected()
    world.put(FREE, descriptor(0, 0xFFFF_FFFF, (CODE | RING3) ^ FRESH, BIG | PAGES))
    world.put(FREE + 8, descriptor(0, 0xFFFF_FFFF, (DATA | RING3) ^ FRESH, BIG | PAGES))
    outer(world, code=FREE | 3, stack=FREE + 8 | 3)
    iret(world.vcpu, 4, 0)
    assert (world.access(FREE), world.access(FREE + 8)) == (CODE | RING3, DATA | RING3)


def test_outer_half_of_the_frame_beyond_the_stack(world):
    world.protected()
    world.put(FREE, descriptor(0, 0x7F0B, DATA))
    world.load(Seg.SS, FREE)
    for at, value in ((0x7F00, 0x6000), (0x7F04, CODE3), (0x7F08, ONE)):
        world.dword(at, value)
    world.vcpu.set_reg32(Reg.ESP, 0x7F00)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (SS, 0)


def test_ring_1_to_ring_3(world):
    world.protected(1)
    world.load(Seg.ES, DATA1)
    outer(world, flags=ONE | IF | IOPL)
    iret(world.vcpu, 4, 0)
    assert world.here == (CODE3, 0x6000, 3)
    assert world.vcpu.eflags == ONE
    assert world.vcpu.selector(Seg.ES) == 0


# --- to V86 -------------------------------------------------------------------------------------------------


def test_to_v86(world):
    world.protected()
    world.push(0x5000, 0x4000, 0x3000, 0x2000, 0x9000, 0xABCD_1234, ALL, 0x1000, 0x5678)
    iret(world.vcpu, 4, 0)
    assert world.here == (0x1000, 0x5678, 3)
    assert world.vcpu.eflags == BASIC | IF | IOPL | VM | RF | AC | ID
    assert world.vcpu.reg32(Reg.ESP) == 0xABCD_1234
    assert world.selectors() == {"ES": 0x2000, "CS": 0x1000, "SS": 0x9000, "DS": 0x3000, "FS": 0x4000, "GS": 0x5000}
    assert world.vcpu.segment(Seg.DS) == SegmentRegister(0x3000, 0x3_0000, 0xFFFF, 0xF300)
    assert world.vcpu.segment(Seg.CS) == SegmentRegister(0x1000, 0x1_0000, 0xFFFF, 0xF300)


def test_to_v86_beyond_64k(world):
    world.protected()
    world.push(0, 0, 0, 0, 0, 0, VM, 0, 0x1_0000)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (GP, 0)


def test_to_v86_with_a_short_frame(world):
    world.protected()
    world.put(FREE, descriptor(0, 0x7FFF, DATA))
    world.load(Seg.SS, FREE)
    world.vcpu.set_reg32(Reg.ESP, 0x7FF0)
    world.push(VM, 0, 0)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0)) == (SS, 0)


# --- task return --------------------------------------------------------------------------------------------


def nested(world, link=OTHER_TSS, access=TSS32_BUSY):
    world.protected()
    world.vcpu.eflags |= NT
    world.word(TSS, link)
    world.put(OTHER_TSS, descriptor(TSS_B, 0x67, access, 0))
    for at, value in ((0x20, 0x6000), (0x24, ONE | IF), (0x38, 0x8800), (0x4C, CODE0), (0x50, DATA0)):
        world.dword(TSS_B + at, value)


def test_task_return(world):
    nested(world)
    iret(world.vcpu, 4, 0x7001)
    assert world.here == (CODE0, 0x6000, 0)
    assert world.vcpu.eflags == ONE | IF
    assert world.vcpu.tr.selector == OTHER_TSS
    assert (world.access(MAIN_TSS), world.access(OTHER_TSS)) == (TSS32_FREE, TSS32_BUSY)
    assert world.memory.read(TSS + 0x20, 4, False) == 0x7001
    assert world.memory.read(TSS + 0x24, 4, False) == ONE


@pytest.mark.parametrize(
    ("link", "access", "expected"),
    [
        pytest.param(0, TSS32_BUSY, (TS, 0), id="null"),
        pytest.param(OTHER_TSS | 4, TSS32_BUSY, (TS, OTHER_TSS | 4), id="in_the_ldt"),
        pytest.param(0x400, TSS32_BUSY, (TS, 0x400), id="beyond_the_limit"),
        pytest.param(OTHER_TSS, TSS32_FREE, (TS, OTHER_TSS), id="not_busy"),
        pytest.param(OTHER_TSS, DATA, (TS, OTHER_TSS), id="data"),
        pytest.param(OTHER_TSS, TSS32_BUSY ^ ABSENT, (NP, OTHER_TSS), id="absent"),
    ],
)
def test_task_return_checks(world, link, access, expected):
    nested(world, link, access)
    assert world.fault_of(lambda: iret(world.vcpu, 4, 0x7001)) == expected


def test_task_return_beyond_the_segment_faults_in_the_old_task(world):
    nested(world)
    world.put(FREE, descriptor(0, 0x5FFF, CODE))
    world.dword(TSS_B + 0x4C, FREE)
    with pytest.raises(GuestFault) as caught:
        iret(world.vcpu, 4, 0x7001)
    assert (caught.value.vector, caught.value.error_code) == (GP, 0)
    assert world.vcpu.tr.selector == OTHER_TSS
