"""The 82093AA: redirection, edges and levels, remote IRR."""

import json

import pytest

from vmm.devices.apic_message import Delivery, InterruptMessage
from vmm.devices.ioapic import PINS, IoApic

IOREGSEL, IOWIN = 0x00, 0x10
MASK, LEVEL, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11
PIN = 5


class World:
    """An I/O APIC, what it sent, and whether anybody takes it."""

    def __init__(self):
        self.sent, self.takes = [], True
        self.io = IoApic(self._take)

    def _take(self, message):
        self.sent.append(message)
        return self.takes

    def put(self, register, value):
        self.io.write(IOREGSEL, 4, register)
        self.io.write(IOWIN, 4, value)

    def get(self, register):
        self.io.write(IOREGSEL, 4, register)
        return self.io.read(IOWIN, 4)

    def redirect(self, pin, low, high=0):
        self.put(0x11 + 2 * pin, high)
        self.put(0x10 + 2 * pin, low)

    def pulse(self, pin):
        self.io.set_line(pin, True)
        self.io.set_line(pin, False)


@pytest.fixture
def world():
    return World()


def message(vector, *, level=False, destination=0, logical=False, delivery=Delivery.FIXED):
    return InterruptMessage(vector, delivery, destination, logical, level)


def test_registers_after_reset(world):
    assert [world.get(number) for number in range(4)] == [0, 0x17_0011, 0, 0]
    assert [world.get(0x10 + 2 * pin) for pin in range(PINS)] == [MASK] * PINS
    assert [world.get(number) for number in (0x11, 0x3F, 0x40, 0xFF)] == [0, 0, 0, 0]


def test_identification_has_four_bits_and_is_shown_by_the_arbitration_register(world):
    world.put(0, 0xFFFF_FFFF)
    world.put(1, 0)
    world.put(2, 0)
    assert [world.get(number) for number in range(3)] == [0x0F00_0000, 0x17_0011, 0x0F00_0000]


def test_the_writable_bits_of_an_entry(world):
    world.redirect(PIN, 0xFFFF_FFFF, 0xFFFF_FFFF)
    assert [world.get(0x10 + 2 * PIN), world.get(0x11 + 2 * PIN)] == [0x1_AFFF, 0xFF00_0000]


def test_ioregsel_is_a_byte_and_narrow_accesses_see_bytes(world):
    world.io.write(IOREGSEL, 1, 1)
    assert world.io.read(IOREGSEL, 4) == 1
    assert [world.io.read(IOWIN + at, 1) for at in range(4)] == [0x11, 0, 0x17, 0]
    world.io.write(IOREGSEL, 1, 0)
    world.io.write(IOWIN, 1, 0xFF)  # the window takes doublewords only
    assert (world.io.read(IOWIN, 4), world.io.read(0x20, 4)) == (0, 0)


def test_an_edge_sends_its_entry_once(world):
    world.redirect(PIN, 0x77 | LOGICAL | Delivery.LOWEST_PRIORITY << 8, 0x03 << 24)
    world.io.set_line(PIN, True)
    world.io.set_line(PIN, True)
    world.io.set_line(PIN, False)
    assert world.sent == [message(0x77, destination=3, logical=True, delivery=Delivery.LOWEST_PRIORITY)]


def test_an_edge_at_a_masked_entry_is_lost(world):
    world.redirect(PIN, MASK | 0x77)
    world.io.set_line(PIN, True)
    world.redirect(PIN, 0x77)
    assert world.sent == []


def test_a_level_is_sent_once_until_its_end_and_again_if_it_is_still_there(world):
    world.redirect(PIN, LEVEL | 0x77)
    world.io.set_line(PIN, True)
    world.pulse(PIN)
    world.io.set_line(PIN, True)
    assert (world.sent, world.get(0x10 + 2 * PIN)) == ([message(0x77, level=True)], LEVEL | REMOTE_IRR | 0x77)
    world.io.end_of_interrupt(0x76)
    assert len(world.sent) == 1
    world.io.end_of_interrupt(0x77)
    assert len(world.sent) == 2
    world.io.set_line(PIN, False)
    world.io.end_of_interrupt(0x77)
    assert (len(world.sent), world.get(0x10 + 2 * PIN)) == (2, LEVEL | 0x77)


def test_a_level_at_a_masked_entry_waits(world):
    world.redirect(PIN, MASK | LEVEL | 0x77)
    world.io.set_line(PIN, True)
    world.redirect(PIN, LEVEL | 0x77)
    assert world.sent == [message(0x77, level=True)]


def test_a_level_that_nobody_takes_has_no_remote_irr(world):
    world.takes = False
    world.redirect(PIN, LEVEL | 0x77)
    world.io.set_line(PIN, True)
    assert world.get(0x10 + 2 * PIN) == LEVEL | 0x77


def test_changing_an_entry_to_edge_clears_its_remote_irr(world):
    world.redirect(PIN, LEVEL | 0x77)
    world.io.set_line(PIN, True)
    world.redirect(PIN, MASK | 0x77)
    assert world.get(0x10 + 2 * PIN) == MASK | 0x77
    world.redirect(PIN, LEVEL | 0x77)
    assert len(world.sent) == 2


def test_a_restored_chip_still_waits_for_the_end(world):
    world.redirect(PIN, LEVEL | 0x77)
    world.io.set_line(PIN, True)
    other = World()
    other.io.load(json.loads(json.dumps(world.io.save())))
    other.io.end_of_interrupt(0x77)
    assert other.sent == [message(0x77, level=True)]


def test_reset_masks_everything_and_leaves_the_pins(world):
    world.redirect(PIN, LEVEL | 0x77)
    world.io.set_line(PIN, True)
    world.io.reset()
    assert world.get(0x10 + 2 * PIN) == MASK
    world.redirect(PIN, LEVEL | 0x77)
    assert len(world.sent) == 2
