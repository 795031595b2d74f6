"""Emulated pushes and pops: wrapping, limits, and no trace of a frame that does not fit."""

import pytest
from cpu_world import STACK0

from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.registers import Reg, Seg
from vmm.cpu.stack import Stack, in_limit
from vmm.cpu.vcpu import SegmentRegister

SS = int(Vector.SS)


@pytest.mark.parametrize(
    ("flags", "limit", "offset", "count", "inside"),
    [
        pytest.param(0x9300, 0xFFFF, 0xFFFE, 2, True, id="last_word"),
        pytest.param(0x9300, 0xFFFF, 0xFFFF, 2, False, id="across_the_limit"),
        pytest.param(0x9700, 0x0FFF, 0x1000, 4, True, id="expand_down_first_byte"),
        pytest.param(0x9700, 0x0FFF, 0x0FFF, 1, False, id="expand_down_at_the_limit"),
        pytest.param(0x9700, 0x0FFF, 0xFFFE, 4, False, id="expand_down_16_top"),
        pytest.param(0x40_9700, 0x0FFF, 0xFFFE, 4, True, id="expand_down_32_goes_on"),
        pytest.param(0x40_9700, 0x0FFF, 0xFFFF_FFFE, 4, False, id="expand_down_32_top"),
        pytest.param(0x9F00, 0x0FFF, 0x10, 4, True, id="conforming_code_does_not_expand_down"),
    ],
)
def test_in_limit(flags, limit, offset, count, inside):
    assert in_limit(SegmentRegister(0, 0, limit, flags), offset, count) is inside


def test_16_bit_stack_wraps_between_pushes(world):
    world.real()
    world.vcpu.set_reg32(Reg.ESP, 0xABCD_0002)
    stack = Stack.current(world.vcpu)
    stack.push((0x1111, 0x2222, 0x3333), 2)
    stack.commit(world.vcpu)
    base = world.vcpu.base(Seg.SS)
    assert world.memory.read(base, 2, False) == 0x1111
    assert world.memory.read(base + 0xFFFC, 4, False) == 0x2222_3333
    assert world.vcpu.reg32(Reg.ESP) == 0xABCD_FFFC
    assert Stack.current(world.vcpu).pop(3, 2) == [0x3333, 0x2222, 0x1111]


def test_16_bit_stack_at_zero_starts_from_the_top(world):
    world.real()
    world.vcpu.set_reg32(Reg.ESP, 0)
    stack = Stack.current(world.vcpu)
    stack.push((1, 2), 2)
    assert stack.pointer == 0xFFFC


def test_a_word_never_straddles_the_wrap(world):
    world.real()
    world.vcpu.set_reg32(Reg.ESP, 1)
    assert world.fault_of(lambda: Stack.current(world.vcpu).push((1,), 2)) == (SS, 0)
    assert world.fault_of(lambda: Stack.current(world.vcpu).check_room(1, 2)) == (SS, 0)
    world.vcpu.set_reg32(Reg.ESP, 0xFFFF)
    assert world.fault_of(lambda: Stack.current(world.vcpu).pop(1, 2)) == (SS, 0)


def test_a_frame_that_faults_half_way_writes_nothing(world):
    world.protected()
    world.vcpu.set_reg32(Reg.ESP, STACK0 + 4)
    world.memory.missing.add(STACK0 - 1 >> 12)
    assert world.fault_of(lambda: Stack.current(world.vcpu).push((1, 2), 4)) == (Vector.PF, 2)


def test_a_wrapping_frame_that_faults_writes_nothing(world):
    world.real()
    world.vcpu.set_reg32(Reg.ESP, 2)
    world.memory.missing.add(world.vcpu.base(Seg.SS) + 0xFFFF >> 12)
    assert world.fault_of(lambda: Stack.current(world.vcpu).push((1, 2), 2)) == (Vector.PF, 2)


@pytest.mark.parametrize(("cpl", "user"), [(0, False), (1, False), (3, True)])
def test_accesses_count_as_user_only_at_cpl_3(world, cpl, user):
    world.protected(cpl)
    Stack.current(world.vcpu).push((1,), 4)
    assert world.memory.accesses[-1][1] is user


def test_pop_of_nothing_is_allowed_anywhere(world):
    world.protected()
    world.vcpu.set_segment(Seg.SS, SegmentRegister(0x10, 0, 0xFFF, 0x9700))
    world.vcpu.set_reg32(Reg.ESP, 0)
    assert Stack.current(world.vcpu).pop(0, 4) == []


def test_error_code_is_the_stacks_own(world):
    world.protected()
    stack = Stack(world.memory, SegmentRegister(0x10, 0, 0xF, 0x40_9300), 0x20, False, 0x10)
    with pytest.raises(GuestFault) as caught:
        stack.push((1,), 4)
    assert (caught.value.vector, caught.value.error_code) == (SS, 0x10)
