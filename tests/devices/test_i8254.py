"""The 8254 against its data sheet's mode diagrams, and against a model that is stepped pulse by pulse."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vmm.devices.i8254 import CLOCK_HZ, I8254, ticks_at, time_of

SECOND = 1_000_000_000
CONTROL = 3


class Bench:
    """A chip, a clock that is set in pulses, and a log of the edges of OUT0."""

    def __init__(self, on_unmodelled=pytest.fail):
        self.edges, self.tick = [], 0
        self.pit = I8254(on_unmodelled, (self.edges.append, None, None))

    def at(self, tick):
        self.tick = tick
        self.pit.advance(time_of(tick))
        return self

    def program(self, mode, count, access=3, bcd=0):
        """Control word and count for counter 0, both in the present pulse; forgets the edges so far."""
        self.pit.write(CONTROL, access << 4 | mode << 1 | bcd)
        self.edges.clear()
        if access != 2:
            self.pit.write(0, count & 0xFF)
        if access != 1:
            self.pit.write(0, count >> 8)
        return self

    def count(self, index=0):
        self.pit.write(CONTROL, index << 6)
        return self.pit.read(index) | self.pit.read(index) << 8

    def wave(self, start, end):
        """OUT0 at each pulse from `start` to `end`, as the data sheet draws it."""
        levels = []
        for tick in range(start, end):
            self.at(tick)
            levels.append("-" if self.pit.out(0) else "_")
        return "".join(levels)

    def counts(self, start, end):
        return [self.at(tick).count() for tick in range(start, end)]


# Time


@pytest.mark.parametrize("tick", [0, 1, 17, 1193181, 1193182, 10**12 + 7])
def test_time_of_is_the_first_nanosecond_of_a_tick(tick):
    assert ticks_at(time_of(tick)) == tick
    assert tick == 0 or ticks_at(time_of(tick) - 1) == tick - 1


def test_a_year_of_periods_has_no_drift():
    bench = Bench().program(2, 11932)
    year = 365 * 86400
    bench.pit.advance(year * SECOND)
    period = (year * CLOCK_HZ - 1) // 11932
    assert bench.pit.next_deadline() == time_of(1 + (period + 1) * 11932)


# The modes. A count written at pulse 0 is loaded at pulse 1.


@pytest.mark.parametrize(
    ("mode", "count", "wave"),
    [
        pytest.param(0, 4, "_____---------", id="mode0_rises_n_plus_1_pulses_after_the_write"),
        pytest.param(2, 3, "---_--_--_--_-", id="mode2_is_low_for_one_pulse_of_n"),
        pytest.param(3, 4, "---__--__--__-", id="mode3_even_is_high_for_half"),
        pytest.param(3, 5, "----__---__---", id="mode3_odd_is_high_one_pulse_longer"),
        pytest.param(4, 3, "----_---------", id="mode4_strobes_once_n_plus_1_pulses_after_the_write"),
        pytest.param(1, 3, "--------------", id="mode1_waits_for_a_trigger"),
        pytest.param(5, 3, "--------------", id="mode5_waits_for_a_trigger"),
        pytest.param(6, 3, "---_--_--_--_-", id="mode6_is_mode2"),
        pytest.param(7, 4, "---__--__--__-", id="mode7_is_mode3"),
    ],
)
def test_out_after_a_count(mode, count, wave):
    assert Bench().program(mode, count).wave(0, len(wave)) == wave


@pytest.mark.parametrize(
    ("mode", "counts"),
    [
        pytest.param(0, [4, 3, 2, 1, 0, 0xFFFF, 0xFFFE], id="mode0_goes_on_below_zero"),
        pytest.param(2, [4, 3, 2, 1, 4, 3, 2], id="mode2_reloads_after_one"),
        pytest.param(3, [4, 2, 4, 2, 4, 2, 4], id="mode3_counts_by_two"),
        pytest.param(4, [4, 3, 2, 1, 0, 0xFFFF, 0xFFFE], id="mode4_goes_on_below_zero"),
    ],
)
def test_the_counting_element_after_count_4(mode, counts):
    assert Bench().program(mode, 4).counts(1, 8) == counts


def test_mode3_with_an_odd_count_counts_from_the_even_number_below():
    assert Bench().program(3, 5).counts(1, 11) == [4, 2, 0, 4, 2, 4, 2, 0, 4, 2]


@pytest.mark.parametrize(("mode", "wave"), [(1, "-___-------"), (5, "----_------")])
def test_a_trigger_starts_the_one_shot_and_the_strobe(mode, wave):
    bench = Bench().program(mode, 3)
    bench.pit.set_gate(0, False)
    bench.at(1).pit.set_gate(0, True)
    assert bench.wave(1, 12) == wave


def test_a_trigger_in_a_one_shot_restarts_it():
    bench = Bench().program(1, 3)
    bench.pit.set_gate(0, False)
    bench.pit.set_gate(0, True)
    bench.at(2)
    bench.pit.set_gate(0, False)
    bench.pit.set_gate(0, True)
    assert bench.wave(2, 8) == "____--"


def test_a_trigger_without_a_count_does_nothing():
    bench = Bench()
    bench.pit.write(CONTROL, 0x32)
    bench.pit.set_gate(0, False)
    bench.pit.set_gate(0, True)
    assert bench.wave(0, 4) == "----"


@pytest.mark.parametrize(("bcd", "largest"), [(0, 65536), (1, 10000)])
def test_count_zero_is_the_largest(bcd, largest):
    bench = Bench().program(2, 0, bcd=bcd)
    assert bench.pit.next_deadline() == time_of(1 + largest)


# Gate


@pytest.mark.parametrize(
    ("mode", "count", "wave"),
    [
        pytest.param(0, 4, "______----", id="mode0_pauses"),
        pytest.param(4, 3, "-----_----", id="mode4_pauses"),
        pytest.param(2, 4, "-------_--", id="mode2_restarts"),
        pytest.param(3, 4, "------__--", id="mode3_restarts"),
    ],
)
def test_gate_low_from_pulse_2_to_5(mode, count, wave):
    bench = Bench().program(mode, count).at(2)
    bench.pit.set_gate(0, False)
    held = bench.count()
    low = bench.wave(2, 5)
    assert bench.at(5).count() == held
    bench.pit.set_gate(0, True)
    assert low + bench.wave(5, 12) == wave


@pytest.mark.parametrize(("mode", "count", "low_at"), [(2, 3, 3), (3, 4, 3)])
def test_gate_low_sets_out_high_at_once_in_the_periodic_modes(mode, count, low_at):
    bench = Bench().program(mode, count).at(low_at)
    assert not bench.pit.out(0)
    bench.pit.set_gate(0, False)
    assert bench.pit.out(0)
    assert bench.edges == [False, True]
    assert bench.pit.next_deadline() is None


def test_a_count_written_with_gate_low_is_loaded_but_waits():
    bench = Bench()
    bench.pit.set_gate(0, False)
    bench.program(0, 5)
    assert bench.counts(1, 4) == [5, 5, 5]
    bench.pit.set_gate(0, True)
    assert bench.wave(3, 10) == "_____--"


# New counts


def test_mode0_first_byte_stops_the_count_and_sets_out_low():
    bench = Bench().program(0, 2).at(10)
    assert bench.pit.out(0)
    bench.pit.write(0, 3)
    assert not bench.pit.out(0)
    held = bench.count()
    assert bench.at(20).count() == held
    bench.pit.write(0, 0)
    assert bench.wave(20, 26) == "____--"


def test_mode2_takes_a_new_count_at_the_end_of_the_period():
    bench = Bench().program(2, 4).at(2)
    bench.pit.write(0, 3)
    bench.pit.write(0, 0)
    assert bench.wave(2, 13) == "--_--_--_--"


def test_mode3_takes_a_new_count_at_the_end_of_the_half_wave():
    bench = Bench().program(3, 8).at(2)
    bench.pit.write(0, 4)
    bench.pit.write(0, 0)
    assert bench.wave(2, 13) == "---__--__--"


def test_mode2_takes_a_new_count_at_a_trigger():
    bench = Bench().program(2, 10).at(2)
    bench.pit.write(0, 3)
    bench.pit.write(0, 0)
    bench.pit.set_gate(0, False)
    bench.pit.set_gate(0, True)
    assert bench.wave(2, 10) == "---_--_-"


def test_mode4_takes_a_new_count_at_once():
    bench = Bench().program(4, 9).at(3)
    bench.pit.write(0, 2)
    bench.pit.write(0, 0)
    assert bench.wave(3, 9) == "---_--"


def test_mode1_takes_a_new_count_at_the_next_trigger():
    bench = Bench().program(1, 5)
    bench.pit.set_gate(0, False)
    bench.pit.set_gate(0, True)
    bench.at(2)
    bench.pit.write(0, 2)
    bench.pit.write(0, 0)
    assert bench.wave(2, 8) == "____--"
    bench.pit.set_gate(0, False)
    bench.pit.set_gate(0, True)
    assert bench.wave(7, 12) == "-__--"


# Reading


@pytest.mark.parametrize(("access", "reads"), [(1, [0x34, 0x34]), (2, [0x12, 0x12]), (3, [0x34, 0x12])])
def test_the_access_field_chooses_the_bytes(access, reads):
    bench = Bench().program(0, 0x1234 if access == 3 else {1: 0x34, 2: 0x1200}[access], access).at(1)
    assert [bench.pit.read(0), bench.pit.read(0)] == reads if access == 3 else reads[:1] * 2


def test_a_latched_count_stands_until_it_is_read_and_a_second_latch_is_ignored():
    bench = Bench().program(2, 0x1000).at(1)
    bench.pit.write(CONTROL, 0x00)
    bench.at(0x101)
    bench.pit.write(CONTROL, 0x00)
    assert [bench.pit.read(0), bench.pit.read(0)] == [0x00, 0x10]
    assert [bench.pit.read(0), bench.pit.read(0)] == [0x00, 0x0F]


def test_a_control_word_drops_the_latches():
    bench = Bench().program(2, 0x1234).at(1)
    bench.pit.write(CONTROL, 0xC2)  # latch count and status
    bench.program(2, 0x4321).at(2)
    assert bench.pit.read(0) == 0x21


@pytest.mark.parametrize(
    ("mode", "bcd", "tick", "status"),
    [
        pytest.param(0, 0, 0, 0x70, id="mode0_not_loaded"),
        pytest.param(0, 0, 1, 0x30, id="mode0_loaded"),
        pytest.param(0, 0, 5, 0xB0, id="mode0_expired"),
        pytest.param(3, 1, 1, 0xB7, id="mode3_bcd_high"),
        pytest.param(2, 0, 4, 0x34, id="mode2_low"),
    ],
)
def test_status_shows_out_null_count_and_the_control_word(mode, bcd, tick, status):
    bench = Bench().program(mode, 4, bcd=bcd).at(tick)
    bench.pit.write(CONTROL, 0xE2)
    bench.at(tick + 1)
    assert bench.pit.read(0) == status


def test_null_count_follows_a_new_count_in_mode2():
    bench = Bench().program(2, 4).at(2)
    nulls = []
    for action in (None, lambda: bench.pit.write(0, 8), lambda: bench.pit.write(0, 0), lambda: bench.at(5)):
        if action:
            action()
        bench.pit.write(CONTROL, 0xE2)
        nulls.append(bench.pit.read(0) >> 6 & 1)
    assert nulls == [0, 0, 1, 0]


def test_read_back_gives_status_before_count():
    bench = Bench().program(2, 0x1234).at(1)
    bench.pit.write(CONTROL, 0xC2)
    bench.at(9)
    assert [bench.pit.read(0) for _ in range(3)] == [0xB4, 0x34, 0x12]


def test_a_latched_status_stands_until_it_is_read():
    bench = Bench().program(0, 4)
    bench.pit.write(CONTROL, 0xE2)
    bench.at(9)
    bench.pit.write(CONTROL, 0xE2)
    assert bench.pit.read(0) == 0x70


def test_read_back_latches_several_counters_at_once():
    bench = Bench()
    for index in range(3):
        bench.pit.write(CONTROL, index << 6 | 0x34)
        bench.pit.write(index, index)
        bench.pit.write(index, 0x10)
    bench.at(1)
    bench.pit.write(CONTROL, 0xDC)  # counts of counters 1 and 2
    bench.at(2)
    got = [bench.pit.read(i) | bench.pit.read(i) << 8 for i in range(3)]
    assert got == [0x0FFF, 0x1001, 0x1002]


@pytest.mark.parametrize(("elapsed", "count"), [(0, 0x1000), (1, 0x0999), (10, 0x0990), (999, 0x0001)])
def test_bcd_counts_in_decimal(elapsed, count):
    assert Bench().program(2, 0x1000, bcd=1).at(1 + elapsed).count() == count


def test_the_control_word_register_cannot_be_read():
    assert Bench().pit.read(CONTROL) == 0xFF


# Edges and deadlines


@pytest.mark.parametrize(
    ("mode", "edges"),
    [(0, [True]), (2, [False, True]), (3, [False, True]), (4, [False, True])],
)
def test_a_late_advance_delivers_one_pair_for_all_it_missed(mode, edges):
    bench = Bench().program(mode, 4)
    bench.at(1 + 4 * 25)
    assert bench.edges == edges


@pytest.mark.parametrize(("mode", "rise"), [(0, 101), (2, 101), (3, 101), (4, 102)])
def test_the_deadline_is_the_next_rising_edge(mode, rise):
    bench = Bench().program(mode, 100)
    deadline = bench.pit.next_deadline()
    assert deadline == time_of(rise)
    bench.pit.advance(deadline - 1)
    assert True not in bench.edges
    bench.pit.advance(deadline)
    assert bench.edges[-1] is True


@pytest.mark.parametrize(("mode", "after"), [(0, None), (2, 201), (3, 201), (4, None)])
def test_periodic_modes_have_a_next_deadline(mode, after):
    bench = Bench().program(mode, 100).at(110)
    assert bench.pit.next_deadline() == (None if after is None else time_of(after))


def test_counters_that_nobody_listens_to_have_no_deadline():
    pit = I8254(pytest.fail)
    pit.write(CONTROL, 0x34)
    pit.write(0, 100)
    pit.write(0, 0)
    assert pit.next_deadline() is None


@pytest.mark.parametrize("mode", [2, 3])
def test_the_illegal_count_1_is_reported_and_makes_no_edges(mode):
    said = []
    bench = Bench(said.append).program(mode, 1)
    assert bench.wave(0, 6) == "------"
    assert bench.edges == []
    assert bench.pit.next_deadline() is None
    assert len(said) == 1


def test_a_bcd_count_that_is_no_decimal_number_is_reported():
    said = []
    Bench(said.append).program(2, 0x0A00, bcd=1)
    assert "BCD" in said[0]


def test_round_trip_in_mid_count():
    before, after = Bench().program(3, 1001).at(300), Bench()
    before.pit.write(CONTROL, 0xC2)
    before.pit.read(0)
    before.pit.write(0, 7)
    after.pit.load(json.loads(json.dumps(before.pit.save())))
    assert after.pit.save() == before.pit.save()
    assert [after.pit.read(0) for _ in range(4)] == [before.pit.read(0) for _ in range(4)]
    assert after.wave(300, 2400) == before.wave(300, 2400)


# The stepped model


class Stepped:
    """One counter, binary, stepped pulse by pulse as the mode definitions tell it."""

    def __init__(self, mode):
        self.mode, self.out, self.ce, self.cr = mode, mode != 0, None, None
        self.load_next = self.counting = False
        self.gate = True

    def write(self, count):
        self.cr = count
        if self.mode == 0:
            self.out, self.counting, self.load_next = False, False, True
        elif self.mode == 4 or (self.mode in (2, 3) and self.ce is None):
            self.load_next = True  # else the end of the cycle or a trigger takes it

    def set_gate(self, level):
        rising, self.gate = level and not self.gate, level
        if self.mode in (2, 3) and not level:
            self.out = True
            if self.ce is not None:
                self.load_next = False
        if rising and self.mode in (1, 5) and self.cr is not None:
            self.load_next = True
        if rising and self.mode in (2, 3) and self.ce is not None:
            self.load_next = True

    def load(self):
        self.ce, self.load_next, self.counting = self.cr, False, True

    def step(self):
        fresh = self.load_next
        if self.mode in (0, 1, 4, 5):
            self.step_once(fresh)
        elif fresh:
            self.load()
            self.half = self.ce
            self.left = (self.ce + 1) // 2
            self.out = True
        elif self.gate and self.ce is not None:
            self.step_rate() if self.mode == 2 else self.step_square()

    def step_once(self, fresh):
        if self.mode in (4, 5):
            self.out = True
        if fresh:
            self.load()
            self.out = self.mode in (4, 5)
        elif self.counting and (self.gate or self.mode in (1, 5)):
            self.ce -= 1
            if self.ce == 0:
                self.out = self.mode in (0, 1)

    def step_rate(self):
        self.ce -= 1
        if self.ce == 0:
            self.ce = self.cr
            self.out = True
        if self.ce == 1:
            self.out = False

    def step_square(self):
        self.left -= 1
        if self.left == 0:
            self.half = self.cr
            self.out = not self.out
            self.left = (self.half + 1) // 2 if self.out else self.half // 2


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 12)),
        st.tuples(st.just("write"), st.integers(2, 9)),
        st.tuples(st.just("gate"), st.booleans()),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(mode=st.integers(0, 5), first=st.integers(2, 9), operations=OPERATIONS)
@example(mode=4, first=2, operations=[("run", 3), ("gate", False), ("run", 3), ("gate", True), ("run", 9)])
def test_out_agrees_with_the_stepped_model(mode, first, operations):
    bench, model = Bench(), Stepped(mode)
    bench.program(mode, first, access=1)
    model.write(first)
    for what, value in operations:
        if what == "write":
            bench.pit.write(0, value)
            model.write(value)
        elif what == "gate":
            bench.pit.set_gate(0, value)
            model.set_gate(value)
        else:
            for _ in range(value):
                bench.at(bench.tick + 1)
                model.step()
                assert bench.pit.out(0) == model.out, (mode, bench.tick)


@settings(max_examples=100, deadline=None)
@given(mode=st.integers(0, 5), count=st.integers(2, 20), steps=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_the_edge_log_ends_at_the_level_of_out_and_alternates(mode, count, steps):
    bench = Bench().program(mode, count)
    before = mode != 0
    for step in steps:
        bench.edges.clear()
        bench.at(bench.tick + step)
        levels = [before, *bench.edges]
        assert all(a != b for a, b in pairwise(levels))
        assert levels[-1] == bench.pit.out(0)
        before = levels[-1]
