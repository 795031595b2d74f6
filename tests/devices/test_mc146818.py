"""The MC146818 against its data sheet."""

import datetime
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.devices.mc146818 import Mc146818, civil_from_days, days_from_civil

SECOND = 1_000_000_000
A, B, C, D, CENTURY = 0x0A, 0x0B, 0x0C, 0x0D, 0x32
H24, DM, UIE, AIE, PIE, SET = 0x02, 0x04, 0x10, 0x20, 0x40, 0x80


def epoch(*args):
    return int(datetime.datetime(*args, tzinfo=datetime.UTC).timestamp())


class Bench:
    def __init__(self, *when, b=H24, on_unmodelled=pytest.fail):
        self.irqs, self.nmi = [], []
        when = when or (2024, 2, 28, 23, 59, 58)
        self.rtc = Mc146818(self.irqs.append, on_unmodelled, epoch(*when), self.nmi.append)
        self.put(B, b)
        if b & (DM | H24) != H24:
            self.rtc.set_clock(epoch(*when))

    def get(self, cell):
        self.rtc.write(0, cell)
        return self.rtc.read(1)

    def put(self, cell, value):
        self.rtc.write(0, cell)
        self.rtc.write(1, value)

    def at(self, now):
        self.rtc.advance(now)
        return self

    def clock(self):
        """year, month, day, hours, minutes, seconds, weekday: the raw bytes."""
        return [self.get(cell) for cell in (CENTURY, 9, 8, 7, 4, 2, 0, 6)]


# The clock


def test_the_clock_starts_at_the_epoch_in_bcd():
    assert Bench().clock() == [0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x58, 4]  # a Wednesday


@pytest.mark.parametrize(
    ("start", "seconds", "clock"),
    [
        pytest.param((2024, 2, 28, 23, 59, 58), 2, [0x20, 0x24, 2, 0x29, 0, 0, 0, 5], id="leap_day"),
        pytest.param((2023, 2, 28, 23, 59, 59), 1, [0x20, 0x23, 3, 0x01, 0, 0, 0, 4], id="no_leap_day"),
        pytest.param((2000, 2, 28, 23, 59, 59), 1, [0x20, 0x00, 2, 0x29, 0, 0, 0, 3], id="400_year_leap_day"),
        pytest.param((2099, 12, 31, 23, 59, 59), 1, [0x21, 0x00, 1, 0x01, 0, 0, 0, 6], id="century"),
        pytest.param((1999, 12, 31, 23, 59, 59), 1, [0x20, 0x00, 1, 0x01, 0, 0, 0, 7], id="millennium"),
        pytest.param((2024, 2, 28, 23, 59, 58), 86400 * 366, [0x20, 0x25, 2, 0x28, 0x23, 0x59, 0x58, 6], id="a_year"),
    ],
)
def test_the_clock_counts_on(start, seconds, clock):
    assert Bench(*start).at(seconds * SECOND).clock() == clock


@pytest.mark.parametrize(
    ("hour", "b", "value"),
    [
        (0, H24, 0x00),
        (13, H24, 0x13),
        (13, H24 | DM, 13),
        (0, 0, 0x12),
        (11, 0, 0x11),
        (12, 0, 0x92),
        (13, 0, 0x81),
        (23, DM, 0x8B),
    ],
)
def test_hours_in_each_format(hour, b, value):
    bench = Bench(2024, 5, 6, hour, 0, 0, b=b)
    assert bench.get(4) == value
    bench.at(3600 * SECOND)
    assert bench.rtc._time_of_day() == (hour + 1) % 24 * 3600


def test_binary_mode():
    assert Bench(1987, 11, 30, 21, 45, 59, b=H24 | DM).clock() == [19, 87, 11, 30, 21, 45, 59, 2]


def test_the_clock_changes_with_the_second_and_not_before():
    bench = Bench()
    bench.at(SECOND - 1)
    assert bench.get(0) == 0x58
    bench.at(SECOND)
    assert bench.get(0) == 0x59


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4_000_000_000), st.lists(st.integers(0, 40_000_000), max_size=5))
def test_the_clock_agrees_with_the_calendar(start, steps):
    rtc = Mc146818(pytest.fail, pytest.fail, start)
    now = 0
    for step in steps:
        now += step
        rtc.advance(now * SECOND + 17)
    expected = datetime.datetime.fromtimestamp(start + now, datetime.UTC)
    digits = [rtc.cmos[cell] for cell in (CENTURY, 9, 8, 7, 4, 2, 0)]
    assert "".join(f"{value:02x}" for value in digits) == expected.strftime("%Y%m%d%H%M%S")
    assert rtc.cmos[6] == expected.isoweekday() % 7 + 1


@given(st.dates())
def test_the_calendar_and_back(date):
    days = (date - datetime.date(1970, 1, 1)).days
    assert days_from_civil(date.year, date.month, date.day) == days
    assert civil_from_days(days) == (date.year, date.month, date.day)


def test_the_guest_sets_the_clock_under_set():
    bench = Bench()
    bench.put(B, SET | H24)
    for cell, value in ((CENTURY, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59), (6, 6)):
        bench.put(cell, value)
    bench.at(5 * SECOND)
    assert bench.get(0) == 0x59
    bench.put(B, H24)
    assert bench.at(6 * SECOND).clock() == [0x20, 0, 1, 1, 0, 0, 0, 7]


@pytest.mark.parametrize(
    ("cell", "value"), [(8, 0xFF), (8, 0), (7, 0), (0, 0xFF), (4, 0xFF), (9, 0xFF), (CENTURY, 0xFF)]
)
def test_a_senseless_time_counts_on_without_harm(cell, value):
    bench = Bench()
    bench.put(cell, value)
    bench.at(86400 * SECOND)
    assert bench.get(0) != 0xFF


# Registers


def test_the_index_port_is_write_only_and_masks_nmi():
    bench = Bench()
    assert bench.rtc.read(0) == 0xFF
    bench.rtc.write(0, 0x80 | D)
    assert (bench.rtc.nmi_masked, bench.rtc.read(1)) == (True, 0x80)
    bench.rtc.write(0, D)
    assert bench.nmi == [True, False]


@pytest.mark.parametrize("cell", [C, D])
def test_registers_c_and_d_are_read_only(cell):
    bench = Bench()
    before = bench.get(cell)
    bench.put(cell, 0x55)
    assert bench.get(cell) == before


@pytest.mark.parametrize("cell", [0x0E, 0x0F, 0x10, 0x33, 0x7F])
def test_cmos_keeps_what_is_written(cell):
    bench = Bench()
    bench.put(cell, 0xA5)
    assert (bench.get(cell), bench.rtc.cmos[cell]) == (0xA5, 0xA5)


def test_cmos_can_be_set_from_outside():
    bench = Bench()
    bench.rtc.cmos[0x14] = 0x2D
    assert bench.get(0x14) == 0x2D


# Update cycle


@pytest.mark.parametrize(
    ("now", "uip"),
    [(1, 0), (SECOND - 2_228_001, 0), (SECOND - 2_228_000, 1), (SECOND - 1, 1), (SECOND, 0)],
)
def test_uip_is_set_from_244_us_before_the_update_to_its_end(now, uip):
    assert Bench().at(now).get(A) >> 7 == uip


def test_uip_is_read_only():
    bench = Bench()
    bench.put(A, 0xA6)
    assert bench.get(A) == 0x26


@pytest.mark.parametrize(("cell", "value"), [(B, SET | H24), (A, 0x66), (A, 0x76)], ids=["set", "dv_110", "dv_111"])
def test_no_update_while_it_is_held(cell, value):
    bench = Bench()
    bench.put(cell, value)
    bench.at(SECOND - 1)
    assert bench.get(A) >> 7 == 0
    bench.at(10 * SECOND)
    assert bench.get(0) == 0x58
    assert bench.get(C) & 0x10 == 0


def test_the_first_update_comes_half_a_second_after_the_divider_is_released():
    bench = Bench()
    bench.put(A, 0x66)
    bench.at(3 * SECOND + 7)
    bench.put(A, 0x26)
    bench.at(3 * SECOND + 7 + SECOND // 2 - 1)
    assert bench.get(0) == 0x58
    bench.at(3 * SECOND + 7 + SECOND // 2)
    assert bench.get(0) == 0x59


def test_set_clears_uie():
    bench = Bench(b=H24 | UIE)
    bench.put(B, SET | UIE | H24)
    assert bench.get(B) == SET | H24


# Interrupts


def test_the_update_interrupt():
    bench = Bench(b=H24 | UIE)
    assert bench.rtc.next_deadline() == SECOND
    bench.at(SECOND)
    assert bench.irqs == [True]
    assert bench.rtc.next_deadline() is None
    assert bench.get(C) & 0xB0 == 0x90
    assert bench.irqs == [True, False]
    assert bench.get(C) == 0
    assert bench.rtc.next_deadline() == 2 * SECOND


def test_flags_are_set_without_their_enables_but_irqf_is_not():
    bench = Bench().at(SECOND)
    assert bench.get(C) == 0x50
    assert bench.irqs == []


def test_enabling_an_interrupt_whose_flag_is_set_raises_it():
    bench = Bench().at(SECOND)
    bench.put(B, H24 | UIE)
    assert bench.irqs == [True]


@pytest.mark.parametrize(
    ("rate", "pulses"),
    [(1, 128), (2, 256), (3, 4), (4, 8), (6, 32), (10, 512), (15, 16384)],
)
def test_the_periodic_interrupt_has_the_selected_rate(rate, pulses):
    bench = Bench(b=H24 | PIE)
    bench.put(A, 0x20 | rate)
    start = 10 * SECOND
    bench.at(start)
    bench.get(C)
    ticks = []
    while len(ticks) < 3:
        due = bench.rtc.next_deadline()
        bench.at(due - 1)
        assert not bench.rtc.irq
        bench.at(due)
        assert bench.rtc.irq
        assert bench.get(C) & 0xC0 == 0xC0
        ticks.append((due + SECOND // 2) * 32768 // SECOND)
    assert [tick % pulses for tick in ticks] == [0, 0, 0]
    assert ticks[1] - ticks[0] == ticks[2] - ticks[1] == pulses


def test_rate_0_is_no_periodic_interrupt():
    bench = Bench(b=H24 | PIE)
    bench.put(A, 0x20)
    assert bench.rtc.next_deadline() is None
    bench.at(SECOND)
    assert bench.get(C) & 0x40 == 0


@pytest.mark.parametrize(
    ("alarm", "seconds"),
    [
        pytest.param((0x23, 0x59, 0x59), 1, id="next_second"),
        pytest.param((0x00, 0x00, 0x00), 2, id="tomorrow"),
        pytest.param((0x23, 0x59, 0x58), 86400, id="just_missed"),
        pytest.param((0xC0, 0xC0, 0xC0), 1, id="every_second"),
        pytest.param((0xFF, 0xFF, 0x30), 32, id="every_minute"),
        pytest.param((0xC0, 0x05, 0x00), 302, id="every_hour"),
        pytest.param((0x12, 0xC0, 0xC0), 12 * 3600 + 2, id="an_hour_long"),
        pytest.param((0x25, 0x00, 0x00), None, id="never"),
    ],
)
def test_the_alarm_interrupt(alarm, seconds):
    bench = Bench(b=H24 | AIE)
    for cell, value in zip((5, 3, 1), alarm, strict=True):
        bench.put(cell, value)
    due = bench.rtc.next_deadline()
    assert due == (None if seconds is None else seconds * SECOND)
    if seconds is None:
        return
    bench.at(due - 1)
    assert bench.irqs == []
    bench.at(due)
    assert bench.irqs == [True]
    assert bench.get(C) & 0xA0 == 0xA0


def test_an_alarm_passed_in_a_long_jump_is_seen():
    bench = Bench()
    for cell, value in ((5, 0x12), (3, 0), (1, 0)):
        bench.put(cell, value)
    bench.at(11 * 3600 * SECOND)
    assert bench.get(C) & 0x20 == 0
    bench.at(14 * 3600 * SECOND)
    assert bench.get(C) & 0x20


def test_the_alarm_in_12_hour_mode():
    bench = Bench(2024, 1, 1, 11, 0, 0, b=AIE)
    for cell, value in ((5, 0x81), (3, 0), (1, 0)):
        bench.put(cell, value)
    assert bench.rtc.next_deadline() == 2 * 3600 * SECOND


def test_reset_disables_the_interrupts_and_keeps_the_time():
    bench = Bench(b=H24 | UIE | AIE | PIE).at(SECOND)
    bench.rtc.reset()
    assert (bench.get(B), bench.irqs[-1], bench.get(0)) == (H24, False, 0x59)


@pytest.mark.parametrize(("cell", "value"), [(A, 0x06), (B, H24 | 1)], ids=["time_base", "daylight_saving"])
def test_what_is_not_modelled_is_reported(cell, value):
    said = []
    Bench(on_unmodelled=said.append).put(cell, value)
    assert len(said) == 1


def test_round_trip():
    before, after = Bench(b=H24 | PIE | UIE).at(SECOND + 5), Bench(1980, 1, 1)
    before.rtc.cmos[0x40] = 0x99
    after.rtc.load(json.loads(json.dumps(before.rtc.save())))
    assert after.rtc.save() == before.rtc.save()
    before.at(90 * SECOND)
    after.at(90 * SECOND)
    assert after.clock() == before.clock()
    assert after.get(C) == before.get(C)
    assert after.rtc.next_deadline() == before.rtc.next_deadline()
