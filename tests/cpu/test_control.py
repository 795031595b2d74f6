"""Control and debug registers, the interrupt flag, POPF and PUSHF, and the I/O permission map."""

from itertools import product

import pytest
from cpu_world import MAIN_TSS, TSS, TSS16_BUSY, TSS32_BUSY

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr0, Cr4, Eflags
from vmm.cpu import control
from vmm.cpu.vcpu import STALE_ALL, STALE_LOCAL, STALE_PAGE, SegmentRegister

GP, UD, DB, PF = int(Vector.GP), int(Vector.UD), int(Vector.DB), int(Vector.PF)
ALL = 0xFFFF_FFFF
PE, ET, PG, WP, NW, CD, TS = (int(getattr(Cr0, name)) for name in ("PE", "ET", "PG", "WP", "NW", "CD", "TS"))
ONE, IF, IOPL, NT = int(Eflags.ONE), int(Eflags.IF), int(Eflags.IOPL), int(Eflags.NT)
VM, RF, AC, ID = int(Eflags.VM), int(Eflags.RF), int(Eflags.AC), int(Eflags.ID)
BASIC = 0xFD5 & ~IF | NT | ONE

PRIVILEGED = [
    pytest.param(lambda v: control.mov_from_cr(v, 0), id="mov_from_cr"),
    pytest.param(lambda v: control.mov_to_cr(v, 3, 0), id="mov_to_cr"),
    pytest.param(lambda v: control.lmsw(v, 0), id="lmsw"),
    pytest.param(control.clts, id="clts"),
    pytest.param(lambda v: control.mov_from_dr(v, 0), id="mov_from_dr"),
    pytest.param(lambda v: control.mov_to_dr(v, 0, 0), id="mov_to_dr"),
    pytest.param(lambda v: control.lgdt(v, 0, 0, 4), id="lgdt"),
    pytest.param(lambda v: control.lidt(v, 0, 0, 4), id="lidt"),
    pytest.param(control.hlt, id="hlt"),
]


@pytest.mark.parametrize("action", PRIVILEGED)
def test_privileged_instructions_need_cpl_0(world, action):
    world.protected(1)
    assert world.fault_of(lambda: action(world.vcpu)) == (GP, 0)
    world.protected(3)
    assert world.fault_of(lambda: action(world.vcpu)) == (GP, 0)
    world.v86()
    assert world.fault_of(lambda: action(world.vcpu)) == (GP, 0)


@pytest.mark.parametrize("action", PRIVILEGED)
def test_privileged_instructions_run_in_real_mode(world, action):
    world.real()
    action(world.vcpu)


@pytest.mark.parametrize("cr", [1, 5, 6, 7])
def test_other_control_registers_do_not_exist(world, cr):
    world.protected()
    assert world.fault_of(lambda: control.mov_from_cr(world.vcpu, cr)) == (UD, None)
    assert world.fault_of(lambda: control.mov_to_cr(world.vcpu, cr, 0)) == (UD, None)


@pytest.mark.parametrize(("cr", "value"), [(0, PE | ET), (2, 0xFFFF_FFFF), (3, 0x1234_5018), (4, int(Cr4.PGE))])
def test_control_registers_read_back(world, cr, value):
    world.protected()
    control.mov_to_cr(world.vcpu, cr, value)
    assert control.mov_from_cr(world.vcpu, cr) == value


@pytest.mark.parametrize(
    ("value", "after"),
    [
        pytest.param(PE, PE | ET, id="et_is_one"),
        pytest.param(0x1FFA_FFC0, ET, id="reserved_bits_are_ignored"),
        pytest.param(ALL, 0xE005_003F, id="all"),
        pytest.param(PE | PG | WP, PE | PG | WP | ET, id="paging"),
        pytest.param(CD, CD | ET, id="cd_without_nw"),
        pytest.param(CD | NW, CD | NW | ET, id="cd_and_nw"),
        pytest.param(PG, None, id="pg_without_pe"),
        pytest.param(NW | PE, None, id="nw_without_cd"),
    ],
)
def test_mov_to_cr0(world, value, after):
    world.real()
    if after is None:
        assert world.fault_of(lambda: control.mov_to_cr(world.vcpu, 0, value)) == (GP, 0)
    else:
        control.mov_to_cr(world.vcpu, 0, value)
        assert world.vcpu.cr0 == after


@pytest.mark.parametrize(
    ("cr", "before", "value", "stale"),
    [
        pytest.param(0, PE | ET, PE, 0, id="cr0_same"),
        pytest.param(0, PE | ET, ET, 0, id="pe_without_paging"),
        pytest.param(0, PE | ET, PE | TS, 0, id="ts"),
        pytest.param(0, PE | ET, PE | PG, STALE_ALL, id="pg"),
        pytest.param(0, PE | ET, PE | WP, STALE_ALL, id="wp"),
        pytest.param(2, 0, 0x1000, 0, id="cr2"),
        pytest.param(3, 0x1000, 0x1000, STALE_LOCAL, id="cr3_same_value"),
        pytest.param(4, 0, int(Cr4.PSE), STALE_ALL, id="pse"),
        pytest.param(4, 0, int(Cr4.PAE), STALE_ALL, id="pae"),
        pytest.param(4, int(Cr4.PGE), 0, STALE_LOCAL, id="pge"),
        pytest.param(4, 0, int(Cr4.OSFXSR | Cr4.TSD | Cr4.DE), 0, id="cr4_other"),
    ],
)
def test_what_makes_translations_stale(world, cr, before, value, stale):
    world.protected()
    setattr(world.vcpu, f"cr{cr}", before)
    world.vcpu.stale = 0
    control.mov_to_cr(world.vcpu, cr, value)
    assert world.vcpu.stale == stale


@pytest.mark.parametrize(
    ("pages", "stale", "kept"), [(1, STALE_PAGE, 1), (32, STALE_PAGE, 32), (33, STALE_ALL, 0), (40, STALE_ALL, 0)]
)
def test_stale_pages_are_bounded(world, pages, stale, kept):
    world.vcpu.stale = 0
    for number in range(pages):
        world.vcpu.make_page_stale(number << 12 | 0x123)
    assert world.vcpu.stale == stale
    assert world.vcpu.stale_pages == [number << 12 for number in range(kept)]


def test_a_stale_page_counts_beside_stale_local_translations(world):
    """The page may be a global one."""
    world.vcpu.stale = 0
    world.vcpu.make_stale(STALE_LOCAL)
    world.vcpu.make_page_stale(0x5FFF)
    assert (world.vcpu.stale, world.vcpu.stale_pages) == (STALE_LOCAL | STALE_PAGE, [0x5000])


BREAKPOINTS = [
    pytest.param(0, (), id="none"),
    pytest.param(0x300, (), id="le_and_ge_alone"),
    pytest.param(1 << 0, ((0x1000, 1),), id="local"),
    pytest.param(1 << 3, ((0x2000, 2),), id="global"),
    pytest.param(0xFF, ((0x1000, 1), (0x2000, 2), (0x3000, 4), (0x4000, 8)), id="all"),
    pytest.param(1 << 4 | 1 << 24, (), id="data_write"),
    pytest.param(1 << 6 | 3 << 30, (), id="execution_with_a_length"),
    pytest.param(0xF | 3 << 16, ((0x2000, 2),), id="beside_a_data_breakpoint"),
]


@pytest.mark.parametrize(("dr7", "found"), BREAKPOINTS)
def test_execution_breakpoints_follow_dr7(world, dr7, found):
    world.protected()
    for number in range(4):
        control.mov_to_dr(world.vcpu, number, 0x1000 * (number + 1))
    control.mov_to_dr(world.vcpu, 7, dr7)
    assert world.vcpu.execution_breakpoints == found


# --- the page-directory-pointer-table entries --------------------------------------------------------------

PAE_CR4 = int(Cr4.PAE)
CD = int(Cr0.CD)
LOADS = [
    pytest.param(PE | ET | PG, PAE_CR4, 3, 0x2000, True, id="mov_cr3"),
    pytest.param(PE | ET | PG, 0, 3, 0x2000, False, id="mov_cr3_without_pae"),
    pytest.param(PE | ET, PAE_CR4, 3, 0x2000, False, id="mov_cr3_without_paging"),
    pytest.param(PE | ET, PAE_CR4, 0, PE | PG, True, id="pg_under_pae"),
    pytest.param(PE | ET, 0, 0, PE | PG, False, id="pg_without_pae"),
    pytest.param(PE | ET | PG, PAE_CR4, 0, PE | PG | CD, True, id="cd_under_pae_paging"),
    pytest.param(PE | ET | PG, PAE_CR4, 0, PE | PG | TS, False, id="ts_under_pae_paging"),
    pytest.param(PE | ET | PG, PAE_CR4, 0, PE, False, id="paging_ends"),
    pytest.param(PE | ET | PG, 0, 4, PAE_CR4, True, id="pae_under_paging"),
    pytest.param(PE | ET, 0, 4, PAE_CR4, False, id="pae_without_paging"),
    pytest.param(PE | ET | PG, PAE_CR4, 4, PAE_CR4 | int(Cr4.PGE), True, id="pge_under_pae_paging"),
    pytest.param(PE | ET | PG, PAE_CR4, 4, PAE_CR4 | int(Cr4.TSD), False, id="tsd_under_pae_paging"),
]


@pytest.mark.parametrize(("cr0", "cr4", "cr", "value", "loads"), LOADS)
def test_what_loads_the_pdptes(world, cr0, cr4, cr, value, loads):
    world.protected()
    world.vcpu.cr0, world.vcpu.cr3, world.vcpu.cr4 = cr0, 0x1000, cr4
    world.vcpu.pdptes[:] = [5] * 4
    control.mov_to_cr(world.vcpu, cr, value)
    assert world.vcpu.pdptes == ([0x2001 if cr == 3 else 0x1001, 0, 0, 0] if loads else [5] * 4)


@pytest.mark.parametrize(("cr0", "cr4", "cr", "value", "loads"), LOADS)
def test_pdptes_with_reserved_bits_leave_everything_as_it_was(world, cr0, cr4, cr, value, loads):
    world.protected()
    world.vcpu.cr0, world.vcpu.cr3, world.vcpu.cr4 = cr0, 0x1000, cr4
    world.memory.bad_pdptes = True
    if loads:
        assert world.fault_of(lambda: control.mov_to_cr(world.vcpu, cr, value)) == (GP, 0)
    else:
        control.mov_to_cr(world.vcpu, cr, value)


@pytest.mark.parametrize("bit", range(32))
def test_mov_to_cr4_refuses_what_cpuid_does_not_show(world, bit):
    world.protected()
    known = {int(flag) for flag in Cr4} - {int(Cr4.VME), int(Cr4.PVI), int(Cr4.MCE)}
    if 1 << bit in known:
        control.mov_to_cr(world.vcpu, 4, 1 << bit)
        assert world.vcpu.cr4 == 1 << bit
    else:
        assert world.fault_of(lambda: control.mov_to_cr(world.vcpu, 4, 1 << bit)) == (GP, 0)


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        pytest.param(ET, 0xF, ET | 0xF, id="sets"),
        pytest.param(ET | 0xF, 0, ET | PE, id="pe_stays"),
        pytest.param(PG | PE | ET, 0xFFF0, PG | PE | ET, id="only_four_bits"),
    ],
)
def test_lmsw(world, before, value, after):
    world.protected()
    world.vcpu.cr0 = before
    control.lmsw(world.vcpu, value)
    assert world.vcpu.cr0 == after


def test_clts(world):
    world.protected()
    world.vcpu.cr0 |= TS
    control.clts(world.vcpu)
    assert world.vcpu.cr0 & TS == 0


def test_hlt(world):
    world.protected()
    control.hlt(world.vcpu)
    assert world.vcpu.halted


# --- debug registers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dr", "value", "after"),
    [(0, ALL, ALL), (3, 0x1234, 0x1234), (6, 0, 0xFFFF_0FF0), (6, ALL, 0xFFFF_EFFF), (7, 0, 0x400), (7, 0x403, 0x403)],
)
def test_debug_registers_read_back(world, dr, value, after):
    world.protected()
    control.mov_to_dr(world.vcpu, dr, value)
    assert control.mov_from_dr(world.vcpu, dr) == after


def test_dr7_reserved_bits(world):
    world.protected()
    control.mov_to_dr(world.vcpu, 7, ALL)
    assert world.vcpu.dr[7] == 0xFFFF_27FF


@pytest.mark.parametrize(("alias", "dr"), [(4, 6), (5, 7)])
def test_dr4_and_dr5(world, alias, dr):
    world.protected()
    assert control.mov_from_dr(world.vcpu, alias) == world.vcpu.dr[dr]
    control.mov_to_dr(world.vcpu, alias, 1)
    assert world.vcpu.dr[dr] & 0xF == 1
    world.vcpu.cr4 = int(Cr4.DE)
    assert world.fault_of(lambda: control.mov_from_dr(world.vcpu, alias)) == (UD, None)


def test_general_detect(world):
    world.protected()
    world.vcpu.dr[7] |= 1 << 13
    with pytest.raises(Exception, match="#DB") as caught:
        control.mov_from_dr(world.vcpu, 0)
    assert caught.value.vector == DB
    assert world.vcpu.dr[6] == 0xFFFF_0FF0 | 1 << 13


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "name"), [(control.lgdt, "gdtr"), (control.lidt, "idtr")])
@pytest.mark.parametrize(("size", "base"), [(4, 0xABCD_1234), (2, 0xCD_1234)])
def test_table_registers(world, load, name, size, base):
    world.protected()
    load(world.vcpu, 0xABCD_1234, 0x7FF, size)
    assert getattr(world.vcpu, name) == (base, 0x7FF)


# --- CLI STI PUSHF POPF -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cpl", "iopl"), list(product((0, 1, 3), range(4))))
@pytest.mark.parametrize("action", [control.cli, control.sti])
def test_cli_and_sti_need_iopl(world, cpl, iopl, action):
    world.protected(cpl)
    world.vcpu.eflags = ONE | iopl << 12 | (IF if action is control.cli else 0)
    if cpl <= iopl:
        action(world.vcpu)
        assert world.vcpu.interrupts_enabled is (action is control.sti)
    else:
        assert world.fault_of(lambda: action(world.vcpu)) == (GP, 0)


@pytest.mark.parametrize("action", [control.cli, control.sti])
@pytest.mark.parametrize("iopl", range(4))
def test_cli_and_sti_in_v86(world, action, iopl):
    world.v86(iopl)
    if iopl == 3:
        action(world.vcpu)
        assert world.vcpu.interrupts_enabled is (action is control.sti)
    else:
        assert world.fault_of(lambda: action(world.vcpu)) == (GP, 0)


@pytest.mark.parametrize(("before", "shadow"), [(0, True), (IF, False)])
def test_sti_shadows_only_when_it_changes_if(world, before, shadow):
    world.real()
    world.vcpu.eflags = ONE | before
    control.sti(world.vcpu)
    assert world.vcpu.interrupt_shadow is shadow
    assert world.vcpu.eflags == ONE | IF


@pytest.mark.parametrize(
    ("cpl", "iopl", "size", "before", "value", "after"),
    [
        pytest.param(0, 0, 4, ONE | RF, ALL, BASIC | IF | IOPL | AC | ID, id="cpl0"),
        pytest.param(0, 0, 2, ONE, 0xFFFF, BASIC | IF | IOPL, id="cpl0_word"),
        pytest.param(0, 0, 2, ONE | AC | ID, 0, ONE | AC | ID, id="word_keeps_the_upper_half"),
        pytest.param(1, 1, 4, ONE, ALL, BASIC | IF | AC | ID | 1 << 12, id="cpl_is_iopl"),
        pytest.param(3, 0, 4, ONE, ALL, BASIC | AC | ID, id="cpl3_iopl0"),
        pytest.param(3, 0, 4, ONE | IF, 0, ONE | IF, id="cpl3_iopl0_keeps_if"),
        pytest.param(3, 3, 4, ONE, 0, ONE | IOPL, id="cpl3_iopl3_keeps_iopl"),
    ],
)
def test_popf(world, cpl, iopl, size, before, value, after):
    world.protected(cpl)
    world.vcpu.eflags = before | iopl << 12
    control.popf(world.vcpu, value, size)
    assert world.vcpu.eflags == after


def test_popf_in_real_mode(world):
    world.real()
    control.popf(world.vcpu, ALL, 4)
    assert world.vcpu.eflags == BASIC | IF | IOPL | AC | ID


def test_popf_in_v86(world):
    world.v86()
    control.popf(world.vcpu, ALL & ~IOPL & ~VM, 4)
    assert world.vcpu.eflags == BASIC | IF | IOPL | AC | ID | VM


@pytest.mark.parametrize("iopl", [0, 1, 2])
def test_popf_and_pushf_in_v86_need_iopl_3(world, iopl):
    world.v86(iopl)
    assert world.fault_of(lambda: control.popf(world.vcpu, 0, 2)) == (GP, 0)
    assert world.fault_of(lambda: control.pushf_image(world.vcpu, 2)) == (GP, 0)


def test_pushf_hides_vm_and_rf(world):
    world.v86()
    world.vcpu.eflags |= RF | AC | IF
    assert control.pushf_image(world.vcpu, 4) == ONE | IOPL | AC | IF
    assert control.pushf_image(world.vcpu, 2) == ONE | IOPL | IF


# --- I/O permission -----------------------------------------------------------------------------------------


def with_map(world, mode, ports=(), limit=0x67 + 0x20):
    getattr(world, mode)(**({"cpl": 3} if mode == "protected" else {"iopl": 3}))
    world.vcpu.tr = SegmentRegister(MAIN_TSS, TSS, limit, TSS32_BUSY << 8)
    world.word(TSS + 0x66, 0x68)
    world.memory.data[TSS + 0x68 : TSS + 0x88] = bytes([0xFF]) * 0x20
    for port in ports:
        world.memory.data[TSS + 0x68 + port // 8] &= ~(1 << port % 8)


@pytest.mark.parametrize("mode", ["protected", "v86"])
@pytest.mark.parametrize(
    ("port", "width", "allowed"),
    [
        (0x10, 1, True),
        (0x10, 2, True),
        (0x10, 4, False),
        (0x12, 1, False),
        (0x17, 2, True),
        (0x16, 1, False),
        (0xF7, 1, True),
        (0xF8, 1, False),
        (0xFFFF, 1, False),
    ],
)
def test_io_permission_map(world, mode, port, width, allowed):
    with_map(world, mode, ports=(0x10, 0x11, 0x17, 0x18, 0xF7, 0xF8))
    if allowed:
        control.check_io(world.vcpu, port, width)
    else:
        assert world.fault_of(lambda: control.check_io(world.vcpu, port, width)) == (GP, 0)


def test_v86_looks_at_the_map_whatever_iopl_is(world):
    with_map(world, "v86")
    assert world.fault_of(lambda: control.check_io(world.vcpu, 0x20, 1)) == (GP, 0)


@pytest.mark.parametrize(
    ("limit", "access"), [(0x66, TSS32_BUSY), (0x67, TSS32_BUSY), (0x88, TSS16_BUSY), (0x88, TSS32_BUSY & 0x7F)]
)
def test_no_map_no_ports(world, limit, access):
    with_map(world, "protected", ports=range(0x100))
    world.vcpu.tr = SegmentRegister(MAIN_TSS, TSS, limit, access << 8)
    assert world.fault_of(lambda: control.check_io(world.vcpu, 0, 1)) == (GP, 0)


@pytest.mark.parametrize(("cpl", "iopl"), [(0, 0), (1, 1), (3, 3)])
def test_iopl_makes_the_map_moot(world, cpl, iopl):
    world.protected(cpl)
    world.vcpu.eflags = ONE | iopl << 12
    world.memory.missing.add(TSS >> 12)
    control.check_io(world.vcpu, 0x20, 4)


def test_real_mode_may_use_all_ports(world):
    world.real()
    control.check_io(world.vcpu, 0xFFFF, 1)


def test_page_fault_while_looking_at_the_map(world):
    with_map(world, "protected")
    world.memory.missing.add(TSS >> 12)
    assert world.fault_of(lambda: control.check_io(world.vcpu, 0x20, 1)) == (PF, 0)
