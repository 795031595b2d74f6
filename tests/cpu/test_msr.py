"""RDMSR, WRMSR, RDTSC and RDPMC."""

import pytest

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr4
from vmm.cpu.msr import Msr, deposit_update_revision, rdmsr, rdpmc, rdtsc, tsc_distance, wrmsr
from vmm.cpu.vcpu import STALE_ALL

GP = int(Vector.GP)


def test_tsc_follows_the_clock(world):
    world.protected()
    assert rdtsc(world.vcpu, 1 << 40) == 1 << 40
    assert rdmsr(world.vcpu, Msr.TSC, 5) == 5


def test_written_tsc_goes_on_from_there(world):
    world.protected()
    wrmsr(world.vcpu, Msr.TSC, 0xAAAA_BBBB_0000_1000, now_tsc=500)
    assert rdtsc(world.vcpu, 500) == 0xAAAA_BBBB_0000_1000
    assert rdtsc(world.vcpu, 700) == 0xAAAA_BBBB_0000_1000 + 200
    assert rdmsr(world.vcpu, Msr.TSC, 700) == 0xAAAA_BBBB_0000_1000 + 200


def test_tsc_adjust_has_what_was_added_to_the_counter(world):
    world.protected()
    assert rdmsr(world.vcpu, Msr.TSC_ADJUST, 500) == 0
    wrmsr(world.vcpu, Msr.TSC, 1500, now_tsc=500)
    assert rdmsr(world.vcpu, Msr.TSC_ADJUST, 700) == 1000
    wrmsr(world.vcpu, Msr.TSC_ADJUST, (1 << 64) - 100, now_tsc=700)
    assert rdtsc(world.vcpu, 700) == 600
    assert rdmsr(world.vcpu, Msr.TSC_ADJUST, 800) == (1 << 64) - 100


@pytest.mark.parametrize(
    ("cpl", "tsd", "allowed"), [(0, True, True), (1, False, True), (3, False, True), (1, True, False), (3, True, False)]
)
def test_tsd_keeps_rdtsc_from_outer_rings(world, cpl, tsd, allowed):
    world.protected(cpl)
    world.vcpu.cr4 = int(Cr4.TSD) if tsd else 0
    if allowed:
        assert rdtsc(world.vcpu, 9) == 9
    else:
        assert world.fault_of(lambda: rdtsc(world.vcpu, 9)) == (GP, 0)


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize("index", list(Msr))
def test_msrs_need_cpl_0(world, cpl, index):
    world.protected(cpl)
    assert world.fault_of(lambda: rdmsr(world.vcpu, index, 0)) == (GP, 0)
    assert world.fault_of(lambda: wrmsr(world.vcpu, index, 0, 0)) == (GP, 0)


@pytest.mark.parametrize("index", [0, 0x1B, 0x2A, 0xC1, 0xFE, 0x173, 0x177, 0x186, 0x277, 0x1A0, 0x179, 0xC000_0081])
def test_unknown_msr(world, index):
    world.protected()
    assert world.fault_of(lambda: rdmsr(world.vcpu, index, 0)) == (GP, 0)
    assert world.fault_of(lambda: wrmsr(world.vcpu, index, 0, 0)) == (GP, 0)


def test_platform_id_is_read_only(world):
    world.protected()
    assert rdmsr(world.vcpu, Msr.PLATFORM_ID, 0) == 0
    assert world.fault_of(lambda: wrmsr(world.vcpu, Msr.PLATFORM_ID, 0, 0)) == (GP, 0)


def test_cpuid_leaf_1_deposits_the_revision_of_the_microcode(world):
    """As the SDM has software ask for it: write 0, execute CPUID, read the upper half."""
    wrmsr(world.vcpu, Msr.BIOS_SIGN_ID, 0, 0)
    deposit_update_revision(world.vcpu)
    assert rdmsr(world.vcpu, Msr.BIOS_SIGN_ID, 0) == 1 << 32


def test_bios_sign_id_keeps_what_is_written(world):
    world.protected()
    assert rdmsr(world.vcpu, Msr.BIOS_SIGN_ID, 0) == 0
    wrmsr(world.vcpu, Msr.BIOS_SIGN_ID, 0x1_0000_0002, 0)
    assert rdmsr(world.vcpu, Msr.BIOS_SIGN_ID, 0) == 0x1_0000_0002


def test_there_is_no_performance_counter(world):
    world.protected()
    assert world.fault_of(lambda: rdpmc(world.vcpu, 0)) == (GP, 0)


def test_msrs_work_in_real_mode(world):
    world.real()
    assert rdmsr(world.vcpu, Msr.TSC, 7) == 7


@pytest.mark.parametrize("index", [Msr.SYSENTER_CS, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP])
def test_sysenter_registers_keep_32_bits(world, index):
    world.protected()
    assert rdmsr(world.vcpu, index, 0) == 0
    wrmsr(world.vcpu, index, 0x1234_5678_9ABC_DEF0, 0)
    assert rdmsr(world.vcpu, index, 0) == 0x9ABC_DEF0


NXE = 1 << 11


@pytest.mark.parametrize("bit", [0, 1, 8, 10, 12, 13, 14, 32, 63])
def test_efer_has_nothing_but_nxe(world, bit):
    world.protected()
    assert world.fault_of(lambda: wrmsr(world.vcpu, Msr.EFER, NXE | 1 << bit, 0)) == (GP, 0)


def test_a_change_of_nxe_makes_all_translations_stale(world):
    world.protected()
    for value, stale in ((NXE, STALE_ALL), (NXE, 0), (0, STALE_ALL)):
        world.vcpu.stale = 0
        wrmsr(world.vcpu, Msr.EFER, value, 0)
        assert (rdmsr(world.vcpu, Msr.EFER, 0), world.vcpu.efer, world.vcpu.stale) == (value, value, stale)


class Apic:
    """A local APIC as instructions see it, with one register in its present mode."""

    is_enabled = True

    def __init__(self):
        self.written, self.told = [], 0

    def read_msr(self, index):
        return 0x5_0014 if index == 0x803 else None

    def write_msr(self, index, value):
        self.written.append((index, value))
        return index == 0x808

    def tsc_changed(self):
        self.told += 1


def test_the_local_apics_registers_are_asked_of_it_and_of_nobody_else(world):
    world.protected()
    world.vcpu.apic = apic = Apic()
    assert rdmsr(world.vcpu, 0x803, 0) == 0x5_0014
    wrmsr(world.vcpu, 0x808, 1 << 64 | 0x20, 0)
    assert world.fault_of(lambda: rdmsr(world.vcpu, 0x804, 0)) == (GP, 0)
    assert world.fault_of(lambda: wrmsr(world.vcpu, 0x803, 0, 0)) == (GP, 0)
    assert world.fault_of(lambda: wrmsr(world.vcpu, 0x900, 0, 0)) == (GP, 0)
    assert apic.written == [(0x808, 0x20), (0x803, 0)]


@pytest.mark.parametrize("index", [0x1B, 0x6E0, 0x800, 0x8FF])
def test_without_a_local_apic_its_registers_are_gp(world, index):
    world.protected()
    assert world.fault_of(lambda: rdmsr(world.vcpu, index, 0)) == (GP, 0)
    assert world.fault_of(lambda: wrmsr(world.vcpu, index, 0, 0)) == (GP, 0)


@pytest.mark.parametrize("cpl", [1, 3])
def test_the_local_apics_registers_need_cpl_0(world, cpl):
    world.protected(cpl)
    world.vcpu.apic = Apic()
    assert world.fault_of(lambda: rdmsr(world.vcpu, 0x803, 0)) == (GP, 0)
    assert world.fault_of(lambda: wrmsr(world.vcpu, 0x808, 0, 0)) == (GP, 0)


def test_a_local_apic_is_told_of_a_written_tsc(world):
    world.protected()
    world.vcpu.apic = apic = Apic()
    wrmsr(world.vcpu, Msr.TSC, 5, 0)
    assert apic.told == 1


@pytest.mark.parametrize(("count", "distance"), [(1000, 300), (700, 0), (699, 0), (1 << 63, (1 << 63) - 700)])
def test_distance_to_a_count_of_the_tsc(world, count, distance):
    world.protected()
    wrmsr(world.vcpu, Msr.TSC, 500, now_tsc=100)
    assert tsc_distance(world.vcpu, count, 300) == distance
