"""An option ROM with a PCI data structure. Expected values: PCI Local Bus Specification 2.1, "PCI Expansion ROM Contents"."""

import pytest

from firmware.build import option_rom
from firmware.pci_rom import pci_rom

CODE = b"\x55\xaa\0\xcb".ljust(0x40, b"\0")


@pytest.mark.parametrize("size", [0x40, 0x1E0, 0x3FF, 0x1000])
def test_the_image_is_an_option_rom_with_a_pci_data_structure(size: int) -> None:
    image = pci_rom(option_rom(CODE.ljust(size, b"\x90")), 0x1234, 0x1111, 0x030000)
    at = int.from_bytes(image[0x18:0x1A], "little")
    assert (len(image), sum(image) & 0xFF) == (image[2] * 512, 0)
    assert image[:2] + image[3:0x18] == CODE[:2] + CODE[3:0x18]
    assert image[at : at + 24] == b"PCIR" + bytes.fromhex("3412 1111 0000 1800 00 000003") + image[2:3] + bytes.fromhex(
        "00 0000 00 80 0000"
    )  # fmt: skip


def test_a_rom_whose_header_is_in_use_is_refused() -> None:
    with pytest.raises(ValueError, match="PCI pointer"):
        pci_rom(option_rom(CODE.ljust(0x100, b"\0")[:0x18] + b"text".ljust(0x40)), 0x1234, 0x1111, 0x030000)
