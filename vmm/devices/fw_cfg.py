"""The firmware configuration device of QEMU's machines: items by number, read byte by byte.

Ports: 510h selects an item (16 bits, written at once), 511h gives its bytes, and zeros behind its end.

Source: QEMU's documentation, "QEMU Firmware Configuration (fw_cfg) Device". The numbers of the items without a name
are those of QEMU's `standard-headers/linux/qemu_fw_cfg.h`.
Not modelled: writes to items, the DMA interface (the feature bits say so).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired

PORTS: Final = 2
_SELECTOR: Final = 0
SELECTOR_BYTES: Final = 2
SIGNATURE: Final = b"QEMU"
TRADITIONAL_INTERFACE: Final = 1
ITEM_MASK: Final = 0xFFFF & ~(1 << 14)
"""Bit 14 once asked for writing, and is ignored; bit 15 tells the items of one architecture from those of all."""


class FwCfgItem(IntEnum):
    """Numbers of items."""

    SIGNATURE = 0x00
    ID = 0x01  # features
    UUID = 0x02
    RAM_SIZE = 0x03
    NB_CPUS = 0x05
    KERNEL_ADDR = 0x07
    KERNEL_SIZE = 0x08
    INITRD_ADDR = 0x0A
    INITRD_SIZE = 0x0B
    MAX_CPUS = 0x0F
    KERNEL_ENTRY = 0x10
    KERNEL_DATA = 0x11
    INITRD_DATA = 0x12
    CMDLINE_ADDR = 0x13
    CMDLINE_SIZE = 0x14
    CMDLINE_DATA = 0x15
    SETUP_ADDR = 0x16
    SETUP_SIZE = 0x17
    SETUP_DATA = 0x18
    FILE_DIR = 0x19


def machine_items(memory: int, processors: int) -> dict[int, bytes]:
    """What every machine has: `memory` in bytes. There are no named files."""
    return {
        FwCfgItem.SIGNATURE: SIGNATURE,
        FwCfgItem.ID: struct.pack("<I", TRADITIONAL_INTERFACE),
        FwCfgItem.UUID: bytes(16),
        FwCfgItem.RAM_SIZE: struct.pack("<Q", memory),
        FwCfgItem.NB_CPUS: struct.pack("<H", processors),
        FwCfgItem.MAX_CPUS: struct.pack("<H", processors),
        FwCfgItem.FILE_DIR: struct.pack(">I", 0),
    }


@dataclass(slots=True)
class FwCfg:
    """`items` are the contents by number. `selected` is the item, `at` the next byte of it."""

    items: Mapping[int, bytes] = wired()
    selected: int = 0
    at: int = 0

    def read(self, offset: int, width: int) -> int:
        """One byte of the item, at both ports; a wide access is not decoded."""
        return self.read_block(offset, width, 1)[0] if width == 1 else (1 << 8 * width) - 1

    def read_block(self, offset: int, width: int, count: int) -> bytes:
        """`count` such reads at once, as string input does them."""
        if width != 1:
            return b"\xff" * (width * count)
        item = self.items.get(self.selected, b"")
        data = item[self.at : self.at + count].ljust(count, b"\0")
        self.at += count
        return data

    def write(self, offset: int, width: int, value: int) -> None:
        """A word at the selector chooses an item and goes to its beginning."""
        if offset == _SELECTOR and width == SELECTOR_BYTES:
            self.selected, self.at = value & ITEM_MASK, 0

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
