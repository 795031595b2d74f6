"""The host bridge: PAM and SMRAM registers. Expected values: 82441FX data sheet, "PCI Configuration Registers"."""

import pytest

from vmm.devices.i440fx import SEGMENTS, I440fx

PAM0, SMRAM = 0x59, 0x72


class World:
    def __init__(self) -> None:
        self.pam: list[tuple[int, int]] = []
        self.smram: list[bool] = []
        self.bridge = I440fx(on_pam=lambda *change: self.pam.append(change), on_smram=self.smram.append)


@pytest.fixture
def world() -> World:
    return World()


def test_it_is_a_440fx_host_bridge(world: World) -> None:
    assert [world.bridge.read(at, 4) for at in (0x00, 0x04, 0x08)] == [0x1237_8086, 0x0280_0006, 0x0600_0002]


def test_the_segments_cover_c0000_to_fffff_without_gap_or_overlap() -> None:
    at = 0xC0000
    for segment in sorted(SEGMENTS, key=lambda segment: segment.base):
        assert segment.base == at
        at += segment.size
    assert at == 0x100000


FIELDS = [(0x59, 4, 0xF0000)] + [
    (0x5A + n // 2, 4 * (n % 2), 0xC0000 + n * 0x4000) for n in range(12)
]  # register, shift, segment: the data sheet's table "PAM Registers and Associated Memory Segments"


@pytest.mark.parametrize(("register", "shift", "base"), FIELDS)
@pytest.mark.parametrize("attributes", [1, 2, 3])
def test_each_field_governs_its_segment(world: World, register: int, shift: int, base: int, attributes: int) -> None:
    world.bridge.write(register, 1, attributes << shift)
    assert [(SEGMENTS[number].base, bits) for number, bits in world.pam] == [(base, attributes)]


def test_reserved_bits_read_as_zero(world: World) -> None:
    world.bridge.write(0x58, 4, 0xFFFF_FFFF)
    world.bridge.write(0x5C, 4, 0xFFFF_FFFF)
    assert [world.bridge.read(PAM0 + n, 1) for n in range(7)] == [0x30] + [0x33] * 6


def test_only_changes_are_told(world: World) -> None:
    world.bridge.write(PAM0, 1, 0x30)
    world.bridge.write(PAM0, 1, 0x30)
    world.bridge.write(0x0C, 1, 0)
    assert world.pam == [(12, 3)]


def test_reset_shows_the_roms_again(world: World) -> None:
    world.bridge.write(PAM0, 1, 0x30)
    world.bridge.reset()
    assert world.pam == [(12, 3), (12, 0)]


def test_load_shows_what_was_shown(world: World) -> None:
    world.bridge.write(0x5A, 1, 0x13)
    other = World()
    other.bridge.load(world.bridge.save())
    assert sorted(other.pam) == [(0, 3), (1, 1)]


# -- SMRAM -----------------------------------------------------------------------------------------------------------

OPEN, CLOSED, LOCK, ENABLE, SEGMENT = 0x40, 0x20, 0x10, 0x08, 0x02


@pytest.mark.parametrize(
    ("value", "opened"), [(ENABLE | OPEN, [True]), (OPEN, []), (ENABLE, []), (ENABLE | OPEN | LOCK, [])]
)
def test_smram_shows_while_it_is_enabled_and_open(world: World, value: int, opened: list[bool]) -> None:
    world.bridge.write(SMRAM, 1, value)
    assert world.smram == opened


def test_the_lock_closes_smram_until_reset(world: World) -> None:
    world.bridge.write(SMRAM, 1, ENABLE | OPEN)
    world.bridge.write(SMRAM, 1, ENABLE | OPEN | LOCK)
    assert world.bridge.read(SMRAM, 1) == ENABLE | LOCK | SEGMENT
    world.bridge.write(SMRAM, 1, OPEN | CLOSED)
    assert world.bridge.read(SMRAM, 1) == ENABLE | LOCK | CLOSED | SEGMENT
    assert world.smram == [True, False]
    world.bridge.reset()
    world.bridge.write(SMRAM, 1, ENABLE | OPEN)
    assert (world.bridge.read(SMRAM, 1), world.smram) == (ENABLE | OPEN | SEGMENT, [True, False, True])
