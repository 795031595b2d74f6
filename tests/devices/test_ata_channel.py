"""The ATA cable: device selection, absent devices, resets, interrupts, register access, saved state."""

import pytest
from ata_host import (
    BSY,
    COUNT,
    DATA,
    DEVICE,
    DRQ,
    ERROR,
    HIGH,
    HOB,
    LOW,
    MID,
    NIEN,
    READY,
    SRST,
    STATUS,
    Host,
    cd_host,
    disk_host,
    sectors,
)

from vmm.devices.ata import AtaDisk
from vmm.devices.atapi import AtapiCdrom
from vmm.devices.atapi_unit import CdromUnit

DISK_SIGNATURE = (1, 1, 1, 0, 0, 0)
CD_SIGNATURE = (1, 1, 1, 0x14, 0xEB, 0)


def both() -> Host:
    return Host(AtaDisk(disk=sectors(64)), AtapiCdrom(unit=CdromUnit(sectors(64))))


def test_an_empty_cable_floats_high_but_never_busy():
    host = Host()
    host.outb(COUNT, 0x55)
    host.outb(STATUS, 0xEC)
    assert [host.inb(register) for register in range(ERROR, STATUS + 1)] == [0x7F] * 7
    assert (host.channel.read(DATA, 2), host.channel.read(DATA, 4), host.alternate()) == (0xFF7F, 0xFF7FFF7F, 0x7F)
    assert (host.channel.next_deadline(), host.irqs) == (None, [])


def test_device_0_answers_for_an_absent_device_1_with_status_0():
    host = disk_host(sectors(64))
    host.outb(DEVICE, 0xB0)
    host.outb(COUNT, 0x55)
    host.outb(STATUS, 0xEC)
    host.wait()
    assert (host.inb(STATUS), host.alternate(), host.inb(COUNT), host.irqs) == (0, 0, 0x55, [])


def test_a_packet_device_0_answers_for_an_absent_device_1_with_zeros():
    """Else a host that looks for signatures finds the same CD-ROM drive twice, and waits for the second."""
    host = Host(AtapiCdrom(unit=CdromUnit()))
    host.outb(DEVICE, 0xB0)
    assert ([host.inb(register) for register in range(ERROR, STATUS + 1)], host.alternate()) == ([0] * 7, 0)
    host.outb(DEVICE, 0xA0)
    assert host.task_file()[1:5] == CD_SIGNATURE[1:5]


def test_nobody_answers_for_an_absent_device_0():
    host = Host(None, AtaDisk(disk=sectors(64)))
    assert host.inb(STATUS) == 0x7F
    host.outb(DEVICE, 0x10)
    assert host.inb(STATUS) == READY


def test_only_the_selected_device_runs_a_command():
    host = both()
    assert host.command(0xEC, device=0xF0) & DRQ == 0  # the CD refuses
    assert host.command(0xEC, device=0xE0) & DRQ
    host.outb(DEVICE, 0xF0)
    assert not host.alternate() & DRQ


def test_power_on_leaves_the_signatures():
    host = both()
    assert (host.inb(STATUS), host.task_file()) == (READY, DISK_SIGNATURE)
    host.outb(DEVICE, 0x10)
    assert (host.inb(STATUS), host.task_file()[:5]) == (0, CD_SIGNATURE[:5])


def test_a_software_reset_ends_what_was_going_on_and_shows_the_signatures():
    host = both()
    host.command(0x20, count=2, lba=0, device=0xF0)
    host.command(0x20, count=2, lba=0)
    host.irqs.clear()
    host.control(SRST)
    assert host.inb(STATUS) == BSY
    assert host.channel.next_deadline() is None
    host.control(0)
    assert host.inb(STATUS) == BSY
    host.wait()
    assert (host.inb(STATUS), host.task_file()) == (READY, DISK_SIGNATURE)
    host.outb(DEVICE, 0x10)
    assert (host.inb(STATUS), host.task_file()[:5]) == (0, CD_SIGNATURE[:5])
    assert True not in host.irqs


def test_commands_during_a_reset_are_ignored():
    host = disk_host(sectors(64))
    host.control(SRST)
    host.outb(STATUS, 0xEC)
    host.control(0)
    host.outb(STATUS, 0xEC)
    host.wait()
    assert host.inb(STATUS) == READY


def test_device_diagnostic_runs_on_both_and_interrupts_once():
    host = both()
    host.command(0x90, device=0xF0)
    assert (host.task_file(), host.edges(), host.inb(STATUS)) == (DISK_SIGNATURE, 1, READY)
    host.outb(DEVICE, 0x10)
    assert host.task_file()[:5] == CD_SIGNATURE[:5]


def test_reading_status_ends_the_interrupt_and_alternate_status_does_not():
    host = disk_host(sectors(64))
    host.command(0xE7)
    assert (host.alternate(), host.irqs) == (READY, [True])
    assert (host.inb(STATUS), host.irqs) == (READY, [True, False])


def test_a_new_command_ends_the_interrupt():
    host = disk_host(sectors(64))
    host.command(0xE7)
    host.outb(STATUS, 0xE7)
    assert host.irqs == [True, False]


def test_nien_gates_the_pin_and_keeps_the_interrupt_pending():
    host = disk_host(sectors(64))
    host.control(NIEN)
    host.command(0xE7)
    assert host.irqs == []
    host.control(0)
    assert host.irqs == [True]


def test_the_interrupt_belongs_to_the_selected_device():
    host = both()
    host.command(0xE7)
    host.outb(DEVICE, 0xF0)
    assert host.irqs == [True, False]
    host.inb(STATUS)
    host.outb(DEVICE, 0xE0)
    assert host.irqs == [True, False, True]


def test_hob_shows_the_previous_bytes_until_the_next_write():
    host = disk_host(sectors(64))
    for register in (COUNT, LOW, MID, HIGH):
        host.outb(register, 0x10 + register)
        host.outb(register, 0x20 + register)
    host.control(HOB)
    assert [host.inb(r) for r in (COUNT, LOW, MID, HIGH)] == [0x12, 0x13, 0x14, 0x15]
    host.outb(DEVICE, 0xE0)
    assert [host.inb(r) for r in (COUNT, LOW, MID, HIGH)] == [0x22, 0x23, 0x24, 0x25]


def test_a_busy_device_ignores_registers_and_commands():
    host = disk_host(sectors(64))
    host.outb(STATUS, 0xE7)
    host.outb(COUNT, 0x77)
    host.outb(STATUS, 0xEC)
    assert host.inb(COUNT) == 1
    host.wait()
    assert host.inb(STATUS) == READY


@pytest.mark.parametrize("latency", [0, 1, 1_000_000])
def test_a_command_takes_its_latency(latency):
    host = disk_host(sectors(64), latency)
    host.channel.advance(5)
    host.outb(STATUS, 0xE7)
    assert host.channel.next_deadline() == (5 + latency if latency else None)
    assert host.alternate() == (BSY if latency else READY)
    host.channel.advance(5 + latency)
    assert (host.alternate(), host.irqs) == (READY, [True])


def test_nothing_happens_before_the_deadline():
    host = disk_host(sectors(64), 100)
    host.outb(STATUS, 0xE7)
    host.channel.advance(99)
    assert (host.alternate(), host.irqs) == (BSY, [])


def test_wide_accesses_to_byte_registers_are_successive_bytes():
    host = disk_host(sectors(64))
    host.channel.write(COUNT, 4, 0x44332211)
    assert [host.inb(r) for r in (COUNT, LOW, MID, HIGH)] == [0x11, 0x22, 0x33, 0x44]
    assert host.channel.read(LOW, 2) == 0x3322
    assert host.channel.read(STATUS, 2) == 0xFF00 | READY
    assert host.channel.read_block(COUNT, 1, 2) == b"\x11\x11"
    host.channel.write_block(COUNT, 1, b"\x01\x02")
    assert host.inb(COUNT) == 2
    assert host.channel.read_control(0, 2) == 0xFF00 | READY


def test_the_data_port_in_bytes_words_and_double_words():
    host = disk_host(sectors(64))
    host.command(0x20, count=1, lba=0x21)
    assert host.channel.read(DATA, 4) == 0x21
    assert host.channel.read(DATA, 2) == 0x21
    assert host.channel.read(DATA, 2) == 0
    assert [host.channel.read(DATA, 1) for _ in range(2)] == [0x21, 0]  # a whole word each
    assert host.data_in(512 - 12, 4) == (0x21).to_bytes(4, "little") * 125
    assert host.inb(STATUS) == READY


def test_data_port_accesses_without_drq_do_nothing():
    host = disk_host(sectors(64))
    assert host.channel.read_block(DATA, 2, 2) == b"\x7f\xff\x7f\xff"
    host.channel.write_block(DATA, 2, b"abcd")
    host.command(0x20, count=1, lba=3)
    host.channel.write(DATA, 2, 0x1234)  # the wrong direction
    assert host.data_in(512) == (3).to_bytes(4, "little") * 128
    host.command(0x30, count=1, lba=3)
    assert host.channel.read(DATA, 2) == 0xFF7F
    host.channel.write(DATA, 1, 0xAB)
    host.data_out(bytes(510))
    assert host.inb(STATUS) == READY


def test_reading_beyond_the_block_gets_an_undriven_port():
    host = disk_host(sectors(64))
    host.command(0x20, count=1, lba=1)
    assert host.data_in(516)[512:] == b"\x7f\xff\x7f\xff"


def test_state_is_saved_in_the_middle_of_a_transfer():
    host, other = both(), both()
    host.command(0x20, count=3, lba=5)
    host.data_in(512)
    host.data_in(100)
    other.channel.load(host.channel.save())
    assert other.channel.save() == host.channel.save()
    assert other.data_in(412) == host.data_in(412)
    assert other.data_in(512) == (7).to_bytes(4, "little") * 128


def test_state_is_saved_while_busy():
    host, other = cd_host(sectors(64)), cd_host(sectors(64))
    host.outb(STATUS, 0xA1)
    other.channel.load(host.channel.save())
    other.wait()
    assert other.inb(STATUS) & DRQ
    assert len(other.irqs) == 2
