"""PIIX3 function 0: where PCI interrupts go. Expected values: 82371SB data sheet, "PIRQRC[A:D]"."""

import pytest

from vmm.devices.irq import IrqLine
from vmm.devices.piix3 import PIRQS, ROUTABLE, Piix3

PIRQA, PIRQB = 0x60, 0x61


class World:
    """The bridge, its interrupt lines, and the changes of their levels."""

    def __init__(self) -> None:
        self.told: list[tuple[int, bool]] = []
        self.lines = {irq: IrqLine(lambda level, irq=irq: self.told.append((irq, level))) for irq in range(16)}
        self.bridge = Piix3(irqs={irq: tuple(self.lines[irq].source() for _ in range(PIRQS)) for irq in ROUTABLE})


@pytest.fixture
def world() -> World:
    return World()


def test_it_is_the_first_function_of_a_piix3(world: World) -> None:
    assert [world.bridge.read(at, 4) for at in (0x00, 0x04, 0x08, 0x0C)] == [
        0x7000_8086, 0x0280_0007, 0x0601_0000, 0x0080_0000,
    ]  # fmt: skip


def test_no_pirq_is_routed_at_power_on(world: World) -> None:
    assert world.bridge.read(PIRQA, 4) == 0x8080_8080
    world.bridge.source(1, 1)(True)
    assert world.told == []


@pytest.mark.parametrize("irq", range(16))
def test_a_pirq_reaches_the_interrupts_that_it_may_be_routed_to(world: World, irq: int) -> None:
    world.bridge.source(1, 1)(True)
    world.bridge.write(PIRQA, 1, irq)
    assert world.told == ([(irq, True)] if irq in (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15) else [])


@pytest.mark.parametrize(
    ("device", "pin", "pirq"), [(1, 1, 0), (1, 4, 3), (2, 1, 1), (3, 1, 2), (3, 2, 3), (3, 3, 0), (5, 1, 0)]
)
def test_slots_take_turns_at_the_pirqs(world: World, device: int, pin: int, pirq: int) -> None:
    world.bridge.write(PIRQA + pirq, 1, 11)
    world.bridge.source(device, pin)(True)
    assert world.told == [(11, True)]


def test_a_level_follows_its_source(world: World) -> None:
    drive = world.bridge.source(1, 1)
    world.bridge.write(PIRQA, 1, 10)
    for level in (True, True, False):
        drive(level)
    assert world.told == [(10, True), (10, False)]


def test_a_pirq_is_shared_and_so_is_an_interrupt(world: World) -> None:
    first, second, other = (world.bridge.source(*place) for place in ((1, 1), (5, 1), (1, 2)))
    world.bridge.write(PIRQA, 2, 0x0A0A)  # PIRQA and PIRQB to IRQ 10
    for drive in (first, second, other):
        drive(True)
    for drive in (first, other):
        drive(False)
    assert world.told == [(10, True)]
    second(False)
    assert world.told == [(10, True), (10, False)]


def test_rerouting_takes_the_level_along(world: World) -> None:
    world.bridge.write(PIRQA, 1, 10)
    world.bridge.source(1, 1)(True)
    world.bridge.write(PIRQA, 1, 11)
    world.bridge.write(PIRQA, 1, 0x80)
    assert world.told == [(10, True), (10, False), (11, True), (11, False)]


def test_reset_unroutes(world: World) -> None:
    world.bridge.write(PIRQA, 1, 10)
    world.bridge.source(1, 1)(True)
    world.bridge.reset()
    assert world.told == [(10, True), (10, False)]


def test_load_routes_again(world: World) -> None:
    world.bridge.source(1, 1)(True)
    world.bridge.write(PIRQA, 1, 10)
    other = World()
    other.bridge.source(1, 1)
    other.bridge.load(world.bridge.save())
    assert other.told == [(10, True)]
