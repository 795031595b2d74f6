"""PIIX3 function 1: bus masters that move a drive's data. Expected values: "Programming Interface for Bus Master IDE
Controller" rev. 1.0; 82371SB data sheet, "PCI Configuration Registers - IDE interface".
"""

import json

import pytest
from ata_host import COUNT, DEVICE, ERR, HIGH, LOW, MID, READY, STATUS, sectors

from vmm.devices.ata import AtaDisk
from vmm.devices.ata_channel import AtaChannel
from vmm.devices.atapi import AtapiCdrom
from vmm.devices.atapi_unit import CdromUnit
from vmm.devices.block import RamDisk
from vmm.devices.piix3_ide import BusMaster, Piix3Ide

SSBM, RWCON = 1, 8
ACTIVE, ERROR, INTERRUPT = 1, 2, 4
EOT = 1 << 31
TABLE = 0x1000
READ_DMA, WRITE_DMA = 0xC8, 0xCA
SIZE = 0x40000


class World:
    """A function with one channel, a disk and a CD on it, memory of 256 KiB, and a clock."""

    def __init__(self, latency_ns: int = 20_000) -> None:
        self.disk = sectors(600)
        self.cd = RamDisk(bytearray(b"".join(bytes([n]) * 2048 for n in range(100))))
        self.memory = bytearray(SIZE)
        self.irqs: list[bool] = []
        self.places: list[int | None] = []
        self.now = 0
        self.channel = AtaChannel(
            self.see_irq,
            AtaDisk(disk=self.disk, latency_ns=latency_ns),
            AtapiCdrom(unit=CdromUnit(self.cd), latency_ns=latency_ns),
        )
        self.ide = Piix3Ide(place=self.places.append)
        self.master = BusMaster(self.channel, self.read, self.write, lambda: self.ide.may_master)
        self.channel.on_dma = self.master.move
        self.ide.attach(self.master)
        self.ide.write(0x04, 2, 0x05)

    def see_irq(self, level: bool) -> None:
        self.master.see_irq(level)
        self.irqs.append(level)

    def read(self, gpa: int, count: int) -> bytes:
        return bytes(self.memory[gpa : gpa + count]).ljust(count, b"\xff")

    def write(self, gpa: int, data: bytes) -> None:
        if gpa + len(data) <= SIZE:
            self.memory[gpa : gpa + len(data)] = data

    def table(self, *entries: tuple[int, int], at: int = TABLE) -> None:
        """Descriptors (base, count) at `at`, and BMIDTP."""
        for n, (base, count) in enumerate(entries):
            last = EOT if n == len(entries) - 1 else 0
            self.write(at + 8 * n, (base | (count & 0xFFFF | last) << 32).to_bytes(8, "little"))
        for n in range(4):
            self.ide.write_port(4 + n, at >> 8 * n & 0xFF)

    def command(self, code: int, lba: int, count: int, *, start: int | None = None) -> None:
        """Give the disk a command, start the bus master in the direction `start`, and let time run."""
        for register, value in ((DEVICE, 0xE0), (COUNT, count), (LOW, lba & 0xFF), (MID, lba >> 8), (HIGH, 0)):
            self.channel.write(register, 1, value)
        self.channel.write(STATUS, 1, code)
        if start is not None:
            self.ide.write_port(0, start)
            self.ide.write_port(0, start | SSBM)
        self.wait()

    def wait(self) -> None:
        while (deadline := self.channel.next_deadline()) is not None:
            self.now = max(self.now, deadline)
            self.channel.advance(self.now)

    @property
    def status(self) -> int:
        return self.ide.read_port(2)


@pytest.fixture
def world() -> World:
    return World()


def numbered(first: int, count: int) -> bytes:
    return b"".join(n.to_bytes(4, "little") * 128 for n in range(first, first + count))


# -- the function ------------------------------------------------------------------------------------------------------


def test_it_is_the_ide_function_of_a_piix3() -> None:
    ide = Piix3Ide(place=lambda _base: None)
    assert [ide.read(at, 4) for at in (0x00, 0x04, 0x08, 0x20, 0x40)] == [
        0x7010_8086, 0x0280_0000, 0x0101_8000, 0x0000_0001, 0x0000_0000,
    ]  # fmt: skip


def test_bmiba_has_16_ports_and_moves_them(world: World) -> None:
    world.ide.write(0x20, 4, 0xFFFF_FFFF)
    assert (world.ide.read(0x20, 4), world.places) == (0xFFFF_FFF1, [])
    world.ide.write(0x20, 4, 0xC000)
    assert world.places == [0xC000]


def test_the_registers_keep_what_they_have(world: World) -> None:
    for offset in range(8):
        world.ide.write_port(offset, 0xFE)
    assert [world.ide.read_port(offset) for offset in range(8)] == [0x08, 0, 0x60, 0, 0xFC, 0xFE, 0xFE, 0xFE]


# -- transfers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [0, 20_000])
def test_a_read_lands_where_the_descriptors_say(latency: int) -> None:
    world = World(latency)
    world.table((0x4000, 512), (0x8002, 1024), (0x20000, 512))
    world.command(READ_DMA, 7, 4, start=RWCON)
    data = numbered(7, 4)
    assert world.memory[0x4000:0x4200] == data[:512]
    assert world.memory[0x8002:0x8402] == data[512:1536]
    assert world.memory[0x20000:0x20200] == data[1536:]
    assert (world.status, world.channel.read_control(0, 1), world.irqs) == (INTERRUPT, READY, [True])


@pytest.mark.parametrize("latency", [0, 20_000])
def test_a_write_takes_what_the_descriptors_say(latency: int) -> None:
    world = World(latency)
    world.memory[0x5000:0x5300] = b"a" * 0x300
    world.memory[0x9000:0x9100] = b"b" * 0x100
    world.table((0x5000, 0x300), (0x9000, 0x100))
    world.command(WRITE_DMA, 3, 2, start=0)
    assert world.disk.read(3 * 512, 1024) == b"a" * 0x300 + b"b" * 0x100
    assert (world.status, world.irqs) == (INTERRUPT, [True])


def test_a_count_of_zero_is_64_kib_and_a_transfer_may_be_longer_than_the_drive_buffers(world: World) -> None:
    world.table((0x10000, 0), (0x20000, 0))
    world.command(READ_DMA, 0, 0, start=RWCON)  # 256 sectors
    assert world.memory[0x10000:0x30000] == numbered(0, 256)
    assert (world.status, world.irqs) == (INTERRUPT, [True])


def test_the_master_may_be_started_before_the_command_and_after_the_drive_is_ready(world: World) -> None:
    world.table((0x4000, 512))
    world.ide.write_port(0, RWCON | SSBM)
    assert world.status == ACTIVE
    world.command(READ_DMA, 1, 1)
    assert (world.memory[0x4000:0x4200], world.status) == (numbered(1, 1), INTERRUPT)
    world.ide.write_port(0, 0)
    world.ide.write_port(2, INTERRUPT)
    world.command(READ_DMA, 2, 1)
    assert world.status == 0
    world.ide.write_port(0, RWCON | SSBM)
    assert (world.memory[0x4000:0x4200], world.status) == (numbered(2, 1), INTERRUPT)


def test_a_table_longer_than_the_transfer_leaves_the_master_active(world: World) -> None:
    world.table((0x4000, 512), (0x5000, 512))
    world.command(READ_DMA, 1, 1, start=RWCON)
    assert world.status == ACTIVE | INTERRUPT
    world.ide.write_port(0, 0)
    assert world.status == INTERRUPT


def test_a_table_shorter_than_the_transfer_leaves_the_drive_waiting(world: World) -> None:
    world.table((0x4000, 512))
    world.command(READ_DMA, 1, 2, start=RWCON)
    assert (world.status, world.irqs, world.channel.dma_wanted) == (0, [], True)
    assert world.memory[0x4000:0x4200] == numbered(1, 1)


def test_interrupt_and_error_are_cleared_by_a_one(world: World) -> None:
    world.table((0x4000, 512))
    world.command(READ_DMA, 1, 1, start=RWCON)
    world.ide.write_port(2, 0x60)
    assert world.status == 0x60 | INTERRUPT
    world.ide.write_port(2, INTERRUPT | 0x20)
    assert world.status == 0x20


def test_a_pio_command_shows_its_interrupt_and_moves_nothing(world: World) -> None:
    world.table((0x4000, 512))
    world.command(0x20, 1, 1, start=RWCON)
    assert (world.status, bytes(world.memory[0x4000:0x4200])) == (ACTIVE | INTERRUPT, bytes(512))


HOLDS = [
    pytest.param({"start": None}, 0x05, id="not_started"),
    pytest.param({"start": 0}, 0x05, id="wrong_direction"),
    pytest.param({"start": RWCON}, 0x01, id="no_bus_master_enable"),
]


@pytest.mark.parametrize(("how", "command"), HOLDS)
def test_nothing_moves_that_may_not(world: World, how: dict[str, int | None], command: int) -> None:
    world.ide.write(0x04, 2, command)
    world.table((0x4000, 512))
    world.command(READ_DMA, 1, 1, start=how["start"])
    assert (world.irqs, world.channel.dma_wanted, bytes(world.memory[0x4000:0x4200])) == ([], True, bytes(512))


def test_stopping_forgets_the_place_in_the_table(world: World) -> None:
    world.table((0x4000, 512), (0x6000, 512))
    world.command(READ_DMA, 1, 1, start=RWCON)
    world.ide.write_port(0, 0)
    world.command(READ_DMA, 9, 1, start=RWCON)
    assert world.memory[0x4000:0x4200] == numbered(9, 1)


def test_a_failing_command_interrupts_and_stays_active(world: World) -> None:
    world.table((0x4000, 512))
    world.command(READ_DMA, 600, 1, start=RWCON)
    assert (world.status, world.channel.read_control(0, 1) & ERR) == (ACTIVE | INTERRUPT, ERR)


@pytest.mark.parametrize("base", [SIZE - 256, 0xFFFF_FF00, 0x8000_0000])
def test_descriptors_outside_memory_move_the_data_to_nowhere(world: World, base: int) -> None:
    world.table((base, 512))
    world.command(READ_DMA, 1, 1, start=RWCON)
    assert world.irqs == [True]


def test_a_table_outside_memory_ends(world: World) -> None:
    """It reads as ones: 65534 bytes and the end of the table."""
    world.table(at=0x8000_0000)
    world.command(READ_DMA, 0, 200, start=RWCON)
    assert (world.status, world.channel.dma_wanted) == (0, True)


def test_a_packet_moves_its_data_by_dma(world: World) -> None:
    world.table((0x4000, 3000), (0x8000, 1096))
    world.channel.write(DEVICE, 1, 0xB0)
    world.channel.write(1, 1, 1)
    world.channel.write(STATUS, 1, 0xA0)
    world.wait()
    world.channel.write_block(0, 2, bytes([0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0, 0, 0]))
    world.ide.write_port(0, RWCON)
    world.ide.write_port(0, RWCON | SSBM)
    world.wait()
    data = bytes([5]) * 2048 + bytes([6]) * 2048
    assert (world.memory[0x4000:0x4BB8], world.memory[0x8000:0x8448]) == (data[:3000], data[3000:])
    assert (world.status, world.irqs) == (INTERRUPT, [True])


# -- state -------------------------------------------------------------------------------------------------------------


def test_reset_stops_the_masters(world: World) -> None:
    world.table((0x4000, 512))
    world.ide.write_port(0, RWCON | SSBM)
    world.ide.reset()
    assert [world.ide.read_port(offset) for offset in range(8)] == [0] * 8


def test_a_transfer_goes_on_after_save_and_load(world: World) -> None:
    world.table((0x10000, 0), (0x20000, 0))
    for register, value in ((DEVICE, 0xE0), (COUNT, 0), (LOW, 0), (MID, 0), (HIGH, 0)):
        world.channel.write(register, 1, value)
    world.ide.write_port(0, RWCON | SSBM)
    world.channel.write(STATUS, 1, READ_DMA)
    world.now = world.channel.next_deadline() or 0
    world.channel.advance(world.now)  # the first 64 KiB
    saved = json.loads(json.dumps({"ide": world.ide.save(), "channel": world.channel.save()}))
    other = World()
    other.memory[:] = world.memory
    other.now = world.now
    other.ide.load(saved["ide"])
    other.channel.load(saved["channel"])
    other.wait()
    assert other.memory[0x10000:0x30000] == numbered(0, 256)
    assert (other.status, other.irqs) == (INTERRUPT, [True])
