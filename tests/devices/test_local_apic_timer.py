"""The local APIC's timer."""

import pytest

from vmm.devices.local_apic_timer import LocalApicTimer, TimerMode, divisor

BY_1 = 0b1011


class World:
    """A timer whose TSC runs `ahead` counts before time."""

    def __init__(self):
        self.ahead = 0
        self.timer = LocalApicTimer(lambda count, now: max(0, count - now - self.ahead))
        self.timer.set_divide(BY_1)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def timer(world):
    return world.timer


def test_divide_configuration():
    """SDM Vol. 3A, figure "Divide Configuration Register"."""
    codes = (0b0000, 0b0001, 0b0010, 0b0011, 0b1000, 0b1001, 0b1010, 0b1011)
    assert [divisor(code) for code in codes] == [2, 4, 8, 16, 32, 64, 128, 1]


def test_one_shot_counts_down_once(timer):
    timer.set_initial(1000)
    assert not timer.advance(300)
    assert timer.count == 700
    assert timer.advance(1000)
    assert (timer.count, timer.next_deadline(), timer.initial) == (0, None, 1000)
    assert not timer.advance(5000)


def test_periodic_goes_on_in_step_however_late_it_is_looked_at(timer):
    timer.set_mode(TimerMode.PERIODIC)
    timer.set_initial(1000)
    assert timer.advance(3400)
    assert (timer.count, timer.next_deadline()) == (600, 4000)
    assert timer.advance(4000)
    assert timer.next_deadline() == 5000


def test_the_count_is_that_of_whole_ticks(timer):
    timer.set_divide(0b0000)  # by 2
    timer.set_initial(10)
    counts = []
    for now in (0, 1, 2, 3, 18, 19):
        timer.advance(now)
        counts.append(timer.count)
    assert counts == [10, 10, 9, 9, 1, 1]
    assert timer.advance(20)


def test_a_new_divisor_leaves_the_count(timer):
    timer.set_initial(1000)
    timer.advance(400)
    timer.set_divide(0b0000)
    assert (timer.count, timer.next_deadline()) == (600, 400 + 1200)


def test_one_shot_and_periodic_change_into_each_other_without_a_new_start(timer):
    timer.set_initial(1000)
    timer.advance(400)
    timer.set_mode(TimerMode.PERIODIC)
    assert timer.count == 600
    assert timer.advance(1000)
    assert timer.next_deadline() == 2000


def test_an_initial_count_of_0_stops(timer):
    timer.set_initial(1000)
    timer.set_initial(0)
    assert (timer.count, timer.next_deadline(), timer.advance(2000)) == (0, None, False)


def test_deadline_waits_for_the_guests_tsc(world, timer):
    timer.set_mode(TimerMode.TSC_DEADLINE)
    world.ahead = 5000
    timer.set_deadline(6000)
    assert timer.next_deadline() == 1000
    assert not timer.advance(999)
    world.ahead = 5001  # the guest has written the TSC
    assert timer.advance(999)
    assert (timer.deadline, timer.next_deadline()) == (0, None)


def test_a_deadline_of_0_disarms_and_one_in_centuries_is_none(timer):
    timer.set_mode(TimerMode.TSC_DEADLINE)
    timer.set_deadline(100)
    timer.set_deadline(0)
    assert not timer.advance(200)
    timer.set_deadline((1 << 64) - 1)
    assert (timer.next_deadline(), timer.advance(1 << 40)) == (None, False)


@pytest.mark.parametrize("mode", [TimerMode.ONE_SHOT, TimerMode.PERIODIC])
def test_each_mode_ignores_the_other_register_and_a_change_disarms(timer, mode):
    timer.set_mode(mode)
    timer.set_deadline(100)
    assert timer.deadline == 0
    timer.set_initial(1000)
    timer.set_mode(TimerMode.TSC_DEADLINE)
    assert (timer.initial, timer.count, timer.next_deadline()) == (0, 0, None)
    timer.set_initial(1000)
    assert timer.initial == 0
    timer.set_deadline(500)
    timer.set_mode(mode)
    assert (timer.deadline, timer.next_deadline()) == (0, None)
