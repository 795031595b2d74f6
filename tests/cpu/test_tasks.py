"""Hardware task switches: what is saved, what is loaded, busy bits and links, and faults in the new task."""

import pytest
from cpu_world import (
    ABSENT,
    CODE,
    CODE0,
    CODE3,
    CONF0,
    CONFORMING,
    DATA,
    DATA0,
    DATA3,
    DATA_RO,
    FREE,
    LDT,
    LDT_TYPE,
    MAIN_TSS,
    OTHER_TSS,
    RING1,
    RING3,
    THE_LDT,
    TSS,
    TSS16_BUSY,
    TSS16_FREE,
    TSS32_BUSY,
    TSS32_FREE,
    TSS_B,
    descriptor,
)

from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.registers import Cr0, Cr4, Eflags, Reg, Seg
from vmm.cpu import tasks
from vmm.cpu.tasks import Nesting
from vmm.cpu.vcpu import NULL_SEGMENT, STALE_LOCAL, SegmentRegister

NP, SS, TS, PF = (int(getattr(Vector, name)) for name in ("NP", "SS", "TS", "PF"))
NT, VM, ONE = int(Eflags.NT), int(Eflags.VM), int(Eflags.ONE)
NEXT, THERE = 0x7007, 0x6000
SEGMENT_AT = {"ES": 0x48, "CS": 0x4C, "SS": 0x50, "DS": 0x54, "FS": 0x58, "GS": 0x5C, "LDT": 0x60}


def task32(world, **fields):
    """A complete 32-bit ring 0 task behind OTHER_TSS."""
    values = {"ES": DATA0, "CS": CODE0, "SS": DATA0, "DS": DATA3, "FS": 0, "GS": 3, "LDT": THE_LDT} | fields
    world.dword(TSS_B + 0x1C, values.pop("CR3", 0x9_9000))
    world.dword(TSS_B + 0x20, THERE)
    world.dword(TSS_B + 0x24, values.pop("EFLAGS", ONE | int(Eflags.CF)))
    for reg in Reg:
        world.dword(TSS_B + 0x28 + 4 * reg, 0x1111_1111 * (reg + 1))
    world.dword(TSS_B + 0x38, 0x8800)
    for name, value in values.items():
        world.dword(TSS_B + SEGMENT_AT[name], value)


def switch(world, nesting=Nesting.JUMP, **more):
    target = tasks.gate_target(world.vcpu, OTHER_TSS)
    tasks.switch(world.vcpu, target, nesting, NEXT, **more)


def test_everything_is_loaded(world):
    world.protected(3)
    task32(world)
    switch(world)
    vcpu = world.vcpu
    expected = [0x1111_1111 * (reg + 1) for reg in Reg]
    expected[Reg.ESP] = 0x8800
    assert [vcpu.reg32(reg) for reg in Reg] == expected
    assert world.here == (CODE0, THERE, 0)
    assert vcpu.eflags == ONE | int(Eflags.CF)
    assert world.selectors() == {"ES": DATA0, "CS": CODE0, "SS": DATA0, "DS": DATA3, "FS": 0, "GS": 3}
    assert vcpu.segment(Seg.GS) == SegmentRegister(3, 0, 0, 0)
    assert vcpu.segment(Seg.SS).limit == 0xFFFF_FFFF
    assert vcpu.ldtr == SegmentRegister(THE_LDT, LDT, 0xFF, LDT_TYPE << 8)
    assert vcpu.tr == SegmentRegister(OTHER_TSS, TSS_B, 0x67, TSS32_BUSY << 8)
    assert vcpu.cr0 & int(Cr0.TS)


def test_the_old_task_is_saved_and_the_rest_of_its_tss_untouched(world):
    world.protected(3)
    task32(world)
    world.memory.data[TSS : TSS + 0x68] = bytes([0xEE]) * 0x68
    for reg in Reg:
        world.vcpu.set_reg32(reg, 0x0101_0101 * (reg + 1))
    world.vcpu.eflags = flags = ONE | int(Eflags.SF | Eflags.IF)
    switch(world)
    saved = world.memory.data[TSS : TSS + 0x68]
    expected = bytearray([0xEE]) * 0x68
    dwords = [NEXT, flags, *(0x0101_0101 * (reg + 1) for reg in Reg)]
    expected[0x20:0x48] = b"".join(value.to_bytes(4, "little") for value in dwords)
    for index, selector in enumerate((DATA3, CODE3, DATA3, DATA3, DATA3, DATA3)):
        expected[0x48 + 4 * index : 0x4A + 4 * index] = selector.to_bytes(2, "little")
    assert saved == expected


@pytest.mark.parametrize(
    ("nesting", "old_access", "nested"),
    [(Nesting.JUMP, TSS32_FREE, False), (Nesting.CALL, TSS32_BUSY, True)],
)
def test_busy_bits_link_and_nt(world, nesting, old_access, nested):
    world.protected()
    task32(world)
    world.word(TSS_B, 0xEEEE)
    switch(world, nesting)
    assert (world.access(MAIN_TSS), world.access(OTHER_TSS)) == (old_access, TSS32_BUSY)
    assert world.memory.read(TSS_B, 2, False) == (MAIN_TSS if nested else 0xEEEE)
    assert bool(world.vcpu.eflags & NT) is nested


def test_jump_takes_nt_from_the_new_task(world):
    world.protected()
    task32(world, EFLAGS=ONE | NT)
    switch(world)
    assert world.vcpu.eflags & NT


def test_saved_flags_can_be_given(world):
    world.protected()
    task32(world)
    switch(world, Nesting.CALL, saved_flags=0x1_0002)
    assert world.memory.read(TSS + 0x24, 4, False) == 0x1_0002


def test_cr3_is_loaded_only_under_paging(world):
    world.protected()
    task32(world)
    world.vcpu.cr3 = 0x1000
    world.vcpu.stale = 0
    switch(world)
    assert (world.vcpu.cr3, world.vcpu.stale) == (0x1000, 0)


def test_cr3_is_loaded_under_paging(world):
    world.protected()
    task32(world)
    world.vcpu.cr0 |= int(Cr0.PG)
    world.vcpu.stale = 0
    switch(world)
    assert (world.vcpu.cr3, world.vcpu.stale) == (0x9_9000, STALE_LOCAL)


def test_cr3_brings_its_pdptes_under_pae_paging(world):
    world.protected()
    task32(world)
    world.vcpu.cr0 |= int(Cr0.PG)
    world.vcpu.cr4 = int(Cr4.PAE)
    switch(world)
    assert world.vcpu.pdptes == [0x9_9001, 0, 0, 0]


def test_pdptes_with_reserved_bits_fault_in_the_new_task(world):
    world.protected()
    task32(world)
    world.vcpu.cr0 |= int(Cr0.PG)
    world.vcpu.cr3, world.vcpu.cr4 = 0x1000, int(Cr4.PAE)
    world.memory.bad_pdptes = True
    with pytest.raises(GuestFault) as caught:
        switch(world)
    assert (caught.value.vector, caught.value.error_code) == (Vector.GP, 0)
    assert (world.vcpu.tr.selector, world.vcpu.cr3) == (OTHER_TSS, 0x1000)
    assert world.vcpu.eip == world.memory.read(TSS_B + 0x20, 4, False)


def test_local_breakpoints_end_with_the_task(world):
    world.protected()
    task32(world)
    world.vcpu.dr[7] = 0xFFFF_07FF
    switch(world)
    assert world.vcpu.dr[7] == 0xFFFF_06AA


@pytest.mark.parametrize(("trap", "pending"), [(0, 0), (1, 1 << 15)])
def test_t_bit_asks_for_a_debug_exception(world, trap, pending):
    world.protected()
    task32(world)
    world.word(TSS_B + 0x64, trap)
    switch(world)
    assert world.vcpu.pending_debug == pending


def test_task_may_start_in_v86(world):
    world.protected()
    task32(world, EFLAGS=ONE | VM, CS=0x1000, SS=0x2000, DS=0x3000, ES=0x4000, FS=0x5000, GS=0x6000)
    switch(world)
    assert world.here == (0x1000, THERE, 3)
    assert world.vcpu.is_v86
    assert world.vcpu.segment(Seg.DS) == SegmentRegister(0x3000, 0x3_0000, 0xFFFF, 0xF300)


def test_task_may_start_in_ring_3(world):
    world.protected()
    task32(world, CS=CODE3, SS=DATA3, ES=DATA3, DS=DATA3)
    switch(world)
    assert world.here == (CODE3, THERE, 3)


def test_conforming_code_runs_at_rpl(world):
    world.protected()
    task32(world, CS=CONF0 | 3, SS=DATA3, ES=DATA3, DS=DATA3)
    switch(world)
    assert world.here == (CONF0 | 3, THERE, 3)


def test_no_ldt(world):
    world.protected()
    task32(world, LDT=0)
    switch(world)
    assert world.vcpu.ldtr == NULL_SEGMENT


# --- 16-bit TSS ---------------------------------------------------------------------------------------------


def test_switch_to_a_16_bit_task_and_from_it(world):
    world.protected()
    task32(world)
    world.put(FREE, descriptor(0xA000, 0x2B, TSS16_FREE, 0))
    words = [0x6000, ONE, *(0x100 + reg for reg in Reg), DATA0, CODE0, DATA0, DATA0, THE_LDT]
    for index, value in enumerate(words):
        world.word(0xA000 + 0x0E + 2 * index, value)
    world.word(0xA000 + 0x0E + 2 * (2 + Reg.ESP), 0x8800)
    tasks.switch(world.vcpu, tasks.gate_target(world.vcpu, FREE), Nesting.CALL, NEXT)
    assert world.here == (CODE0, 0x6000, 0)
    assert world.vcpu.reg32(Reg.EAX) == 0xFFFF_0100
    assert world.selectors() == {"ES": DATA0, "CS": CODE0, "SS": DATA0, "DS": DATA0, "FS": 0, "GS": 0}
    assert world.vcpu.tr == SegmentRegister(FREE, 0xA000, 0x2B, TSS16_BUSY << 8)
    assert world.vcpu.eflags == ONE | NT
    assert world.memory.read(0xA000, 2, False) == MAIN_TSS

    world.vcpu.set_reg32(Reg.EBX, 0xABCD_9876)
    tasks.switch(world.vcpu, tasks.return_target(world.vcpu), Nesting.RETURN, 0x6002)
    assert world.memory.read(0xA000 + 0x0E, 2, False) == 0x6002
    assert world.memory.read(0xA000 + 0x10, 2, False) == ONE
    assert world.memory.read(0xA000 + 0x12 + 2 * Reg.EBX, 2, False) == 0x9876
    assert world.memory.read(0xA000 + 0x2A, 2, False) == THE_LDT
    assert world.access(FREE) == TSS16_FREE
    assert world.here == (CODE0, NEXT, 0)


# --- refused before the switch ------------------------------------------------------------------------------


def test_new_tss_too_short(world):
    world.protected()
    world.put(OTHER_TSS, descriptor(TSS_B, 0x66, TSS32_FREE, 0))
    assert world.fault_of(lambda: switch(world)) == (TS, OTHER_TSS)


def test_old_tss_too_short(world):
    world.protected()
    task32(world)
    world.vcpu.tr = SegmentRegister(MAIN_TSS, TSS, 0x66, TSS32_BUSY << 8)
    assert world.fault_of(lambda: switch(world)) == (TS, MAIN_TSS)


@pytest.mark.parametrize("nesting", [Nesting.JUMP, Nesting.CALL])
@pytest.mark.parametrize(
    ("missing", "read_only", "code"),
    [({TSS_B >> 12}, set(), 0), (set(), {TSS >> 12}, 3), (set(), {1}, 3)],
    ids=["new_tss", "old_tss", "gdt"],
)
def test_page_faults_come_before_the_switch(world, nesting, missing, read_only, code):
    world.protected()
    task32(world)
    world.memory.missing |= missing
    world.memory.read_only |= read_only
    assert world.fault_of(lambda: switch(world, nesting)) == (PF, code)


def test_read_only_new_tss_matters_only_for_the_link(world):
    world.protected()
    task32(world)
    world.memory.read_only.add(TSS_B >> 12)
    assert world.fault_of(lambda: switch(world, Nesting.CALL)) == (PF, 3)
    switch(world, Nesting.JUMP)
    assert world.vcpu.tr.selector == OTHER_TSS


# --- faults in the new task ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "selector", "access", "expected"),
    [
        pytest.param("LDT", FREE | 4, LDT_TYPE, (TS, FREE | 4), id="ldt_in_the_ldt"),
        pytest.param("LDT", 0x400, LDT_TYPE, (TS, 0x400), id="ldt_beyond_the_limit"),
        pytest.param("LDT", FREE, DATA, (TS, FREE), id="ldt_type"),
        pytest.param("LDT", FREE, LDT_TYPE ^ ABSENT, (TS, FREE), id="ldt_absent"),
        pytest.param("CS", 0, CODE, (TS, 0), id="cs_null"),
        pytest.param("CS", 0x400, CODE, (TS, 0x400), id="cs_beyond_the_limit"),
        pytest.param("CS", FREE, DATA, (TS, FREE), id="cs_type"),
        pytest.param("CS", FREE, CODE | RING1, (TS, FREE), id="cs_dpl_not_rpl"),
        pytest.param("CS", FREE, CONFORMING | RING1, (TS, FREE), id="cs_conforming_dpl_above_rpl"),
        pytest.param("CS", FREE, CODE ^ ABSENT, (NP, FREE), id="cs_absent"),
        pytest.param("SS", 0, DATA, (TS, 0), id="ss_null"),
        pytest.param("SS", 0x400, DATA, (TS, 0x400), id="ss_beyond_the_limit"),
        pytest.param("SS", FREE, DATA_RO, (TS, FREE), id="ss_read_only"),
        pytest.param("SS", FREE | 3, DATA, (TS, FREE), id="ss_rpl_not_cpl"),
        pytest.param("SS", FREE, DATA | RING3, (TS, FREE), id="ss_dpl_not_cpl"),
        pytest.param("SS", FREE, DATA ^ ABSENT, (SS, FREE), id="ss_absent"),
        pytest.param("DS", 0x400, DATA, (TS, 0x400), id="ds_beyond_the_limit"),
        pytest.param("ES", FREE, 0x99, (TS, FREE), id="es_execute_only"),
        pytest.param("FS", FREE | 3, DATA, (TS, FREE), id="fs_rpl_above_dpl"),
        pytest.param("GS", FREE, DATA ^ ABSENT, (NP, FREE), id="gs_absent"),
    ],
)
def test_faults_in_the_new_task(world, field, selector, access, expected):
    world.protected(3)
    world.put(FREE, descriptor(0, 0xFFFF, access))
    task32(world, **{field: selector})
    with pytest.raises(GuestFault) as caught:
        switch(world)
    assert (caught.value.vector, caught.value.error_code) == expected
    assert world.vcpu.tr.selector == OTHER_TSS
    assert world.vcpu.eip == THERE
    visible = world.selectors() | {"LDT": world.vcpu.ldtr.selector}
    assert visible[field] == selector


def test_a_selector_that_failed_gives_no_access(world):
    world.protected(3)
    task32(world, ES=0x400)
    with pytest.raises(GuestFault):
        switch(world)
    assert world.vcpu.segment(Seg.ES) == SegmentRegister(0x400, 0, 0, 0)
    assert world.vcpu.segment(Seg.DS) == SegmentRegister(DATA3, 0, 0, 0)
    assert world.vcpu.segment(Seg.SS).is_present


@pytest.mark.parametrize(("eip", "limit", "fits"), [(0x6000, 0x6000, True), (0x6001, 0x6000, False)])
def test_check_entry_point(world, eip, limit, fits):
    world.protected()
    world.vcpu.eip = eip
    world.vcpu.set_segment(Seg.CS, SegmentRegister(8, 0, limit, CODE << 8))
    if fits:
        tasks.check_entry_point(world.vcpu)
    else:
        assert world.fault_of(lambda: tasks.check_entry_point(world.vcpu)) == (Vector.GP, 0)
