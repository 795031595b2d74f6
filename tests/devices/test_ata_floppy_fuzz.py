"""No sequence of port accesses makes a storage device raise: what a hostile guest writes ends in a status register."""

import random

import pytest
from ata_host import BadSectors, sectors

from vmm.devices.ata import COMMANDS as DISK_COMMANDS
from vmm.devices.ata import AtaDisk
from vmm.devices.ata_channel import AtaChannel
from vmm.devices.atapi import AtapiCdrom
from vmm.devices.atapi_unit import PACKETS, CdromUnit
from vmm.devices.i8237 import Dma
from vmm.devices.i8272 import I8272
from vmm.devices.i8272_registers import FloppyDrive

STEPS = 3000


def nothing(*_):
    return None


@pytest.mark.parametrize("seed", range(6))
def test_ata_survives_anything(seed):
    chance = random.Random(seed)
    disk = AtaDisk(disk=BadSectors(3000 * 512, good=2000 * 512), latency_ns=seed % 2 * 1000)
    cdrom = AtapiCdrom(unit=CdromUnit(sectors(400)), latency_ns=seed % 3 * 1000)
    channel = AtaChannel(nothing, disk, cdrom)
    for now in range(0, STEPS * 500, 500):
        channel.advance(now)
        width = chance.choice((1, 2, 4))
        action = chance.randrange(11)
        if action < 3:
            channel.write(
                chance.randrange(1, 8), 1, chance.choice((0, 1, 0x40, 0xA0, 0xB0, 0xFF, chance.randrange(256)))
            )
        elif action == 3:
            channel.write(
                7, 1, chance.choice((*DISK_COMMANDS, 0xA0, 0xA0, 0xA0, 0xA1, 0x08, 0x90, chance.randrange(256)))
            )
        elif action == 4:
            packet = bytes(
                (chance.choice((*PACKETS, chance.randrange(256))), *chance.choices((0, 0, 1, 2, 16, 255), k=11))
            )
            channel.write_block(0, 2, packet)
        elif action == 5:
            channel.write_block(0, width, chance.randbytes(width * chance.randrange(300)))
        elif action == 6:
            assert len(channel.read_block(0, width, 5000)) == width * 5000
        elif action == 7:
            assert 0 <= channel.read(chance.randrange(8), width) < 1 << 8 * width
        elif action == 8:
            channel.write_control(0, 1, chance.choice((0, 0, 0, 2, 4, 0x80, 0xFF)))
        elif action == 9:
            assert len(channel.dma_take(700)) <= 700
            assert channel.dma_put(bytes(700)) <= 700
        else:
            state = channel.save()
            channel.load(state)
            assert channel.save() == state
        assert len(disk.buffer) <= 0x10000
        assert len(cdrom.buffer) <= 0x10000


@pytest.mark.parametrize("seed", range(6))
def test_the_floppy_controller_and_dma_survive_anything(seed):
    chance = random.Random(seed)
    dma = Dma(lambda _, count: bytes(count), nothing, nothing)
    drives = [FloppyDrive(sectors(2880)), FloppyDrive(BadSectors(1440 * 512, good=700 * 512)), FloppyDrive()]
    controller = I8272(
        drives,
        nothing,
        lambda data: dma.write_to_memory(2, data),
        lambda count: dma.read_from_memory(2, count),
        nothing,
    )
    controller.write(2, 0xFC)
    for now in range(0, STEPS * 50_000, 50_000):
        controller.advance(now)
        action = chance.randrange(8)
        if action < 4:
            low = chance.choice((0, 1, 2, 4, 18, 0x46, 0x45, 0x4D, 0x08, 0x07, 0x0F, 0xE6, chance.randrange(256)))
            controller.write(5, low)
        elif action == 4:
            assert 0 <= controller.read(chance.randrange(8)) <= 0xFF
        elif action == 5:
            for _ in range(chance.randrange(20)):
                controller.read(5)
        elif action == 6:
            controller.write(chance.choice((3, 4, 7, 2)), chance.choice((0, 0xFC, 0x3C, 0x80, chance.randrange(256))))
            controller.write(2, 0xFC)
            dma.first.write(chance.randrange(16), chance.randrange(256))
            dma.write_second(chance.randrange(32), chance.choice((0, 0xC0)))
        else:
            state = controller.save()
            controller.load(state)
            assert controller.save() == state
            assert dma.first.read(chance.randrange(16)) <= 0xFF
        assert len(controller.arguments) <= 9
        assert len(controller.result) <= 10
