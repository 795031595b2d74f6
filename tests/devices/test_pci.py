"""PCI configuration space and mechanism #1. Expected values: PCI Local Bus Specification 2.1, chapter 6."""

import json

import pytest

from vmm.devices.pci import Bar, Config, PciBus, PciFunction, PciIdentity, Space, Window

IDENTITY = PciIdentity(0x8086, 0x7010, 0x010180, revision=2, header_type=0x80, interrupt_pin=1)
IO, MEMORY, MASTER = 1, 2, 4
COMMAND, BAR_IO, BAR_MEMORY, ROM = 0x04, 0x10, 0x14, 0x30


class World:
    """A function with one BAR of each kind on a bus, and where its windows have been put."""

    def __init__(self) -> None:
        self.places: dict[str, list[int | None]] = {"io": [], "memory": [], "rom": []}
        windows = {name: Window(places.append) for name, places in self.places.items()}
        self.function = PciFunction(
            identity=IDENTITY,
            bars=(
                Bar(BAR_IO, 16, Space.IO, windows["io"]),
                Bar(BAR_MEMORY, 0x1000, Space.MEMORY, windows["memory"]),
                Bar(ROM, 0x8000, Space.ROM, windows["rom"]),
            ),
        )
        self.bus = PciBus()
        self.bus.add(3, 1, self.function)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def function(world: World) -> PciFunction:
    return world.function


# -- the header --------------------------------------------------------------------------------------------------


def test_the_header_says_who_it_is(function: PciFunction) -> None:
    assert [function.read(at, 4) for at in (0x00, 0x08, 0x0C, 0x2C, 0x3C)] == [
        0x7010_8086, 0x0101_8002, 0x0080_0000, 0x1100_1AF4, 0x0000_0100,
    ]  # fmt: skip


READ_ONLY = [0x00, 0x08, 0x18, 0x1C, 0x20, 0x24, 0x28, 0x2C, 0x34, 0x38, 0x40, 0x80, 0xFC]


@pytest.mark.parametrize("offset", READ_ONLY)
def test_what_nothing_is_behind_cannot_be_written(function: PciFunction, offset: int) -> None:
    before = function.read(offset, 4)
    function.write(offset, 4, ~before & 0xFFFF_FFFF)
    assert function.read(offset, 4) == before


@pytest.mark.parametrize(
    ("offset", "width", "kept"),
    [
        (Config.INTERRUPT_LINE, 1, 0xFF),
        (Config.INTERRUPT_PIN, 1, 0x01),
        (Config.LATENCY, 1, 0xFF),
        (COMMAND, 2, 0x0147),
    ],
)
def test_bits_that_a_write_of_ones_sets(function: PciFunction, offset: int, width: int, kept: int) -> None:
    function.write(offset, width, (1 << 8 * width) - 1)
    assert function.read(offset, width) == kept


def test_a_one_written_to_status_clears_the_bit_and_a_zero_leaves_it(function: PciFunction) -> None:
    function.set(Config.STATUS, 2, 0x3200)
    function.write(Config.STATUS, 2, 0x1000)
    assert function.read(Config.STATUS, 2) == 0x2200


def test_a_byte_write_changes_one_byte(function: PciFunction) -> None:
    function.write(BAR_MEMORY, 4, 0x1234_5000)
    function.write(BAR_MEMORY + 2, 1, 0xFF)
    assert function.read(BAR_MEMORY, 4) == 0x12FF_5000


# -- base addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("register", "mask"), [(BAR_IO, 0xFFFF_FFF1), (BAR_MEMORY, 0xFFFF_F000), (ROM, 0xFFFF_8001)])
def test_a_write_of_ones_shows_the_size(function: PciFunction, register: int, mask: int) -> None:
    function.write(register, 4, 0xFFFF_FFFF)
    assert function.read(register, 4) == mask
    function.write(register, 4, 0)
    assert function.read(register, 4) == mask & (1 if register == BAR_IO else 0)


@pytest.mark.parametrize(
    ("name", "register", "value", "enable", "base"),
    [
        ("io", BAR_IO, 0xC000, IO, 0xC000),
        ("memory", BAR_MEMORY, 0xE000_0000, MEMORY, 0xE000_0000),
        ("rom", ROM, 0xFEB0_0001, MEMORY, 0xFEB0_0000),
    ],
)
def test_a_window_is_where_its_bar_says_while_command_allows_it(
    world: World, name: str, register: int, value: int, enable: int, base: int
) -> None:
    function, places = world.function, world.places[name]
    function.write(register, 4, value)
    function.write(COMMAND, 2, enable ^ (IO | MEMORY))
    assert places == []
    function.write(COMMAND, 2, enable)
    assert places == [base]
    function.write(COMMAND, 2, enable)
    function.write(0x3C, 1, 5)
    assert places == [base]  # told of changes only
    function.write(COMMAND, 2, 0)
    assert places == [base, None]


NOWHERE = [
    pytest.param("io", BAR_IO, 0, id="io_0"),
    pytest.param("io", BAR_IO, 0xFFFF_FFFF, id="io_size"),
    pytest.param("io", BAR_IO, 0x1_0000, id="io_above_64K"),
    pytest.param("memory", BAR_MEMORY, 0, id="memory_0"),
    pytest.param("memory", BAR_MEMORY, 0xFFFF_FFFF, id="memory_size"),
    pytest.param("rom", ROM, 0xFEB0_0000, id="rom_disabled"),
    pytest.param("rom", ROM, 0xFFFF_FFFF, id="rom_size"),
]


@pytest.mark.parametrize(("name", "register", "value"), NOWHERE)
def test_a_value_that_puts_a_window_nowhere(world: World, name: str, register: int, value: int) -> None:
    world.function.write(COMMAND, 2, IO | MEMORY)
    world.function.write(register, 4, value)
    assert world.places[name] == []


def test_a_window_moves(world: World) -> None:
    world.function.write(COMMAND, 2, IO)
    for base in (0x1000, 0x2000):
        world.function.write(BAR_IO, 4, base)
    assert world.places["io"] == [0x1000, 0x2000]


def test_reset_takes_the_windows_away_and_brings_the_registers_of_power_on(world: World) -> None:
    fresh = bytes(world.function.config)
    world.function.write(BAR_IO, 4, 0x1000)
    world.function.write(COMMAND, 2, IO | MASTER)
    assert world.function.may_master
    world.bus.reset()
    assert bytes(world.function.config) == fresh
    assert world.places["io"] == [0x1000, None]
    assert not world.function.may_master


def test_load_puts_registers_and_windows_back(world: World) -> None:
    world.function.write(BAR_IO, 4, 0x1000)
    world.function.write(COMMAND, 2, IO)
    saved = json.loads(json.dumps(world.function.save()))
    other = World()
    other.function.load(saved)
    assert (other.function.save(), other.places["io"]) == (saved, [0x1000])


# -- mechanism #1 ----------------------------------------------------------------------------------------------------


def address(device: int, number: int, register: int, bus: int = 0) -> int:
    return 0x8000_0000 | bus << 16 | device << 11 | number << 8 | register


def test_the_address_register_keeps_its_fields(world: World) -> None:
    world.bus.write_address(0xFFFF_FFFF)
    assert world.bus.read_address() == 0x80FF_FFFC


@pytest.mark.parametrize(
    ("offset", "width", "value"), [(0, 4, 0x7010_8086), (2, 2, 0x7010), (1, 1, 0x80), (3, 1, 0x70)]
)
def test_data_is_read_from_the_addressed_doubleword(world: World, offset: int, width: int, value: int) -> None:
    world.bus.write_address(address(3, 1, 0x00))
    assert world.bus.read_data(offset, width) == value


def test_data_is_written_to_the_addressed_doubleword(world: World) -> None:
    world.bus.write_address(address(3, 1, 0x3C))
    world.bus.write_data(0, 1, 0x0B)
    assert world.function.read(0x3C, 1) == 0x0B


@pytest.mark.parametrize(
    "where",
    [address(3, 0, 0), address(4, 1, 0), address(3, 1, 0, bus=1), address(3, 1, 0) & 0x7FFF_FFFF],
    ids=["no_function", "no_device", "other_bus", "not_enabled"],
)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_cycle_that_nobody_claims_reads_as_ones_and_writes_nothing(world: World, where: int, width: int) -> None:
    before = bytes(world.function.config)
    world.bus.write_address(where)
    world.bus.write_data(0, width, 0)
    assert world.bus.read_data(0, width) == (1 << 8 * width) - 1
    assert bytes(world.function.config) == before


def test_two_functions_at_one_place_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"00:03\.1"):
        world.bus.add(3, 1, PciFunction(identity=IDENTITY))
