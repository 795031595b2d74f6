"""The test device for hypervisors: echo, lines, flush, memory."""

import pytest

from vmm.devices.pc_testdev import PcTestdev


@pytest.fixture
def told():
    return []


@pytest.fixture
def chip(told):
    return PcTestdev(lambda line, level: told.append((line, level)), lambda address: told.append(address))


def test_echo_keeps_what_is_written_in_any_width(chip):
    chip.write_echo(0, 4, 0x1234_5678)
    assert [chip.read_echo(at, 1) for at in range(4)] == [0x78, 0x56, 0x34, 0x12]
    chip.write_echo(1, 1, 0xAA)
    chip.write_echo(2, 2, 0xBBCC)
    assert (chip.read_echo(0, 4), chip.read_echo(0, 2)) == (0xBBCC_AA78, 0xAA78)


def test_a_byte_drives_a_line(chip, told):
    chip.write_line(14, 1, 1)
    chip.write_line(14, 1, 0)
    chip.write_line(23, 1, 0x80)
    assert told == [(14, True), (14, False), (23, True)]


def test_only_a_doubleword_flushes(chip, told):
    chip.write_flush(0, 4, 0x0012_3456)
    chip.write_flush(0, 2, 0x3456)
    chip.write_flush(2, 2, 0x12)
    assert told == [0x0012_3456]


def test_memory_and_its_state(chip):
    chip.write_memory(0xFFFE, 2, 0xBEEF)
    other = PcTestdev(lambda line, level: None, lambda address: None)
    other.load(chip.save())
    assert (other.read_memory(0xFFFE, 2), other.read_memory(0xFFFF, 1), other.read_memory(0, 4)) == (0xBEEF, 0xBE, 0)
