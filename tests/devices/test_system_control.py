"""Ports 61h, 92h and CF9h."""

import json

import pytest

from vmm.devices.i8254 import time_of
from vmm.devices.system_control import NmiStatusAndControl, ResetControl, SystemControlPortA


def ignore(_value):
    return


def test_port_61_drives_the_gate_and_reads_back_its_low_bits():
    gates = []
    port = NmiStatusAndControl(gates.append, lambda: False)
    port.write(0, 0xFD)
    port.write(0, 0x02)
    assert gates == [True, False]
    assert port.read(0) & 0xEF == 0x02


@pytest.mark.parametrize(("out2", "bit"), [(False, 0), (True, 0x20)])
def test_port_61_shows_out2(out2, bit):
    assert NmiStatusAndControl(ignore, lambda: out2).read(0) & 0x20 == bit


@pytest.mark.parametrize(("tick", "bit"), [(0, 0), (17, 0), (18, 0x10), (35, 0x10), (36, 0)])
def test_port_61_toggles_the_refresh_bit_every_18_timer_ticks(tick, bit):
    port = NmiStatusAndControl(ignore, lambda: False)
    port.advance(time_of(tick))
    assert port.read(0) & 0x10 == bit


@pytest.mark.parametrize(("control", "out2", "level"), [(0, True, False), (2, True, True), (2, False, False)])
def test_the_speaker_needs_its_enable(control, out2, level):
    port = NmiStatusAndControl(ignore, lambda: out2)
    port.write(0, control)
    assert port.speaker is level


def test_port_92_asks_for_a20_and_reads_back():
    asked = []
    port = SystemControlPortA(asked.append, pytest.fail)
    port.write(0, 0x02)
    port.write(0, 0xC8)
    assert asked == [True, False]
    assert port.read(0) == 0xC8


def test_port_92_resets_on_the_rising_edge_of_bit_0_only():
    resets = []
    port = SystemControlPortA(ignore, resets.append)
    for value in (1, 1, 0, 3):
        port.write(0, value)
    assert resets == ["port 92h"] * 2
    port.reset()
    assert port.read(0) == 0


@pytest.mark.parametrize(
    ("writes", "resets"),
    [([0x02], 0), ([0x06], 1), ([0x02, 0x06], 1), ([0x04], 1), ([0x06, 0x06], 1), ([0x06, 0x02, 0x06], 2), ([0xF9], 0)],
)
def test_cf9_resets_when_rst_cpu_rises(writes, resets):
    told = []
    port = ResetControl(told.append)
    for value in writes:
        port.write(0, value)
    assert told == ["port CF9h"] * resets
    assert port.read(0) == writes[-1] & 0x06
    port.reset()
    assert port.read(0) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: NmiStatusAndControl(ignore, lambda: False),
        lambda: SystemControlPortA(ignore, ignore),
        lambda: ResetControl(ignore),
    ],
)
def test_round_trip(make):
    before, after = make(), make()
    before.write(0, 0x02)
    after.load(json.loads(json.dumps(before.save())))
    assert after.read(0) == before.read(0) == 0x02


def test_port_61_has_no_deadline():
    assert NmiStatusAndControl(ignore, lambda: False).next_deadline() is None
