"""An option ROM as the expansion ROM of a PCI function: the same image with a PCI data structure in it.

Source: PCI Local Bus Specification 2.1, "PCI Expansion ROM Contents", "PCI Data Structure Format"; "PC-compatible
Expansion ROMs".
"""

from typing import Final

from firmware.build import OPTION_ROM_UNIT, option_rom

_POINTER: Final = 0x18  # 16 bits, in the header: where the data structure is
_SIZE: Final = 24
_REVISION: Final = 0
_PC_COMPATIBLE: Final = 0  # code type
_LAST_IMAGE: Final = 0x80


def pci_rom(image: bytes, vendor: int, device: int, class_code: int) -> bytes:
    """`image`, a finished option ROM, with a PCI data structure behind it and a checksum of its own.

    Args:
        vendor, device: 16 bits each, as in the function's configuration space.
        class_code: 24 bits.
    Raises: ValueError: the header has something else where the pointer belongs.
    """
    if any(image[_POINTER : _POINTER + 2]):
        raise ValueError(f"an option ROM with {image[_POINTER : _POINTER + 2].hex(' ')} where its PCI pointer belongs")
    at = len(image)
    units = (at + _SIZE) // OPTION_ROM_UNIT + 1
    structure = (
        b"PCIR"
        + vendor.to_bytes(2, "little")
        + device.to_bytes(2, "little")
        + bytes(2)  # no vital product data
        + _SIZE.to_bytes(2, "little")
        + bytes([_REVISION])
        + class_code.to_bytes(3, "little")
        + units.to_bytes(2, "little")
        + bytes(2)  # revision of the code
        + bytes([_PC_COMPATIBLE, _LAST_IMAGE])
        + bytes(2)
    )
    return option_rom(image[:_POINTER] + at.to_bytes(2, "little") + image[_POINTER + 2 :] + structure)
