"""SYSENTER and SYSEXIT: what they load, what they leave, and when they fault."""

import pytest

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr0, Eflags, Reg, Seg
from vmm.cpu.fast_calls import sysenter, sysexit
from vmm.cpu.vcpu import SegmentRegister

GP = (int(Vector.GP), 0)
VM, IF, RF, TF, CF, ONE = (int(getattr(Eflags, name)) for name in ("VM", "IF", "RF", "TF", "CF", "ONE"))
IOPL = int(Eflags.IOPL)
FLAT = 0xFFFF_FFFF
CODE_0, DATA_0, CODE_3, DATA_3 = 0xC0_9B00, 0xC0_9300, 0xC0_FB00, 0xC0_F300


def arm(world, cs=0x0060, esp=0xAAAA_0000, eip=0xC010_0000):
    """Load the three registers."""
    vcpu = world.vcpu
    vcpu.sysenter_cs, vcpu.sysenter_esp, vcpu.sysenter_eip = cs, esp, eip


def changed(world, action):
    """What an instruction changes: name to value."""
    before = world.snapshot()
    action(world.vcpu)
    return {name: value for name, value in world.snapshot().items() if value != before[name]}


@pytest.mark.parametrize("cpl", [0, 1, 3])
def test_sysenter_loads_flat_segments_and_nothing_of_memory(world, cpl):
    world.protected(cpl)
    arm(world)
    world.vcpu.eflags = ONE | IF | RF | TF | CF | IOPL
    data = world.vcpu.segment(Seg.DS)
    memory = bytes(world.memory.data)
    after = changed(world, sysenter)
    assert world.vcpu.segment(Seg.CS) == SegmentRegister(0x60, 0, FLAT, CODE_0)
    assert world.vcpu.segment(Seg.SS) == SegmentRegister(0x68, 0, FLAT, DATA_0)
    assert world.vcpu.segment(Seg.DS) == data
    assert (world.vcpu.cpl, world.vcpu.eip, world.vcpu.reg32(Reg.ESP)) == (0, 0xC010_0000, 0xAAAA_0000)
    assert after["eflags"] == ONE | TF | CF | IOPL
    assert set(after) <= {"regs", "eip", "cpl", "eflags", "segments"}
    assert memory == bytes(world.memory.data)


def test_sysenter_leaves_v86(world):
    world.v86()
    arm(world)
    sysenter(world.vcpu)
    assert (world.vcpu.is_v86, world.vcpu.cpl, world.vcpu.selector(Seg.CS)) == (False, 0, 0x60)


def test_sysexit_loads_flat_segments_of_ring_3(world):
    world.protected()
    arm(world)
    world.vcpu.set_reg32(Reg.ECX, 0xBFFF_0000)
    world.vcpu.set_reg32(Reg.EDX, 0x0804_8000)
    after = changed(world, sysexit)
    assert world.vcpu.segment(Seg.CS) == SegmentRegister(0x73, 0, FLAT, CODE_3)
    assert world.vcpu.segment(Seg.SS) == SegmentRegister(0x7B, 0, FLAT, DATA_3)
    assert (world.vcpu.cpl, world.vcpu.eip, world.vcpu.reg32(Reg.ESP)) == (3, 0x0804_8000, 0xBFFF_0000)
    assert set(after) == {"regs", "eip", "cpl", "segments"}


@pytest.mark.parametrize(("cs", "code", "stack"), [(0x63, 0x60, 0x68), (0xFFF9_0060, 0x60, 0x68), (0xFFFF, 0xFFFC, 4)])
def test_selectors_come_from_the_low_word_without_its_rpl(world, cs, code, stack):
    world.protected()
    arm(world, cs)
    sysenter(world.vcpu)
    assert (world.vcpu.selector(Seg.CS), world.vcpu.selector(Seg.SS)) == (code, stack)


@pytest.mark.parametrize("action", [sysenter, sysexit])
@pytest.mark.parametrize("cs", [0, 3, 0x1_0000])
def test_a_null_selector_in_the_register_faults(world, action, cs):
    world.protected()
    arm(world, cs)
    assert world.fault_of(lambda: action(world.vcpu)) == GP


@pytest.mark.parametrize("action", [sysenter, sysexit])
def test_real_mode_has_neither(world, action):
    world.real()
    arm(world)
    assert not world.vcpu.cr0 & Cr0.PE
    assert world.fault_of(lambda: action(world.vcpu)) == GP


@pytest.mark.parametrize("cpl", [1, 3])
def test_sysexit_needs_cpl_0(world, cpl):
    world.protected(cpl)
    arm(world)
    assert world.fault_of(lambda: sysexit(world.vcpu)) == GP


def test_sysexit_faults_in_v86(world):
    world.v86()
    arm(world)
    assert world.fault_of(lambda: sysexit(world.vcpu)) == GP
