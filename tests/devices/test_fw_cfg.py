"""fw_cfg: items by number, byte by byte."""

import pytest

from vmm.devices.fw_cfg import FwCfg, FwCfgItem, machine_items

SELECTOR, DATA = 0, 1


@pytest.fixture
def chip():
    return FwCfg(machine_items(96 << 20, 1))


def content(chip, item, count):
    chip.write(SELECTOR, 2, item)
    return bytes(chip.read(DATA, 1) for _ in range(count))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (FwCfgItem.SIGNATURE, b"QEMU"),
        (FwCfgItem.ID, b"\x01\0\0\0"),
        (FwCfgItem.RAM_SIZE, (96 << 20).to_bytes(8, "little")),
        (FwCfgItem.NB_CPUS, b"\x01\0"),
        (FwCfgItem.MAX_CPUS, b"\x01\0"),
        (FwCfgItem.FILE_DIR, bytes(4)),
        (0x7777, bytes(4)),
    ],
)
def test_item(chip, item, expected):
    assert content(chip, item, len(expected) + 2) == expected + bytes(2)


def test_the_signature_is_selected_after_reset(chip):
    assert bytes(chip.read(DATA, 1) for _ in range(4)) == b"QEMU"


def test_selecting_begins_again_and_ignores_the_bit_that_once_was_for_writing(chip):
    content(chip, FwCfgItem.SIGNATURE, 3)
    assert content(chip, FwCfgItem.SIGNATURE | 1 << 14, 4) == b"QEMU"


def test_only_a_word_selects_and_only_bytes_are_data(chip):
    chip.write(SELECTOR, 1, FwCfgItem.NB_CPUS)
    chip.write(DATA, 1, 0x55)
    chip.write(SELECTOR, 4, FwCfgItem.NB_CPUS)
    assert (chip.read(DATA, 2), chip.read(DATA, 1)) == (0xFFFF, ord("Q"))


def test_string_input_reads_on_and_past_the_end(chip):
    assert chip.read_block(DATA, 1, 3) + chip.read_block(DATA, 1, 3) == b"QEMU\0\0"
    assert chip.read_block(DATA, 2, 2) == b"\xff" * 4


def test_a_restored_chip_reads_on(chip):
    content(chip, FwCfgItem.RAM_SIZE, 3)
    other = FwCfg(chip.items)
    other.load(chip.save())
    assert other.read(DATA, 1) == 96 << 20 >> 24
