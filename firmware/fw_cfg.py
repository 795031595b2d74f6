"""What fw_cfg tells about a kernel that the user gave, as QEMU's `-kernel` tells it.

A Linux image is told in its two halves: the setup, with the boot sector, and the rest. Any other kernel is told as the
file that it is, with the entry that its boot protocol finds.

Source: QEMU's documentation, "QEMU Firmware Configuration (fw_cfg) Device"; Linux, Documentation/arch/x86/boot.rst,
"Memory Layout", "Loading The Rest of The Kernel".
"""

import struct
from typing import Final

from firmware import linux_header
from firmware.bootimage import BootImage, c_string
from firmware.kernel import Kernel
from vmm.devices.fw_cfg import FwCfgItem

_SETUP_ADDRESS: Final = 0x1_0000
_COMMAND_LINE_ADDRESS: Final = 0x2_0000
_HIGH_ADDRESS: Final = 0x10_0000


def kernel_items(kernel: Kernel, laid_out: BootImage) -> dict[int, bytes]:
    """The items by number; `laid_out` is the kernel in this machine's memory."""
    command_line = c_string(kernel.command_line)
    initrd = kernel.initrd or b""
    return {
        **(_linux(kernel.image) if linux_header.has_header(kernel.image) else _other(kernel.image, laid_out)),
        FwCfgItem.CMDLINE_ADDR: _word(_COMMAND_LINE_ADDRESS),
        FwCfgItem.CMDLINE_SIZE: _word(len(command_line)),
        FwCfgItem.CMDLINE_DATA: command_line,
        FwCfgItem.INITRD_ADDR: _word(next((at for at, data in laid_out.writes if initrd and data == initrd), 0)),
        FwCfgItem.INITRD_SIZE: _word(len(initrd)),
        FwCfgItem.INITRD_DATA: initrd,
    }


def _linux(image: bytes) -> dict[int, bytes]:
    header = linux_header.parse(image)
    size = header.setup_size
    return {
        FwCfgItem.SETUP_ADDR: _word(_SETUP_ADDRESS),
        FwCfgItem.SETUP_SIZE: _word(size),
        FwCfgItem.SETUP_DATA: image[:size],
        FwCfgItem.KERNEL_ADDR: _word(_HIGH_ADDRESS),
        FwCfgItem.KERNEL_SIZE: _word(len(image) - size),
        FwCfgItem.KERNEL_DATA: image[size:],
    }


def _other(image: bytes, laid_out: BootImage) -> dict[int, bytes]:
    return {
        FwCfgItem.KERNEL_ENTRY: _word(laid_out.entry),
        FwCfgItem.KERNEL_SIZE: _word(len(image)),
        FwCfgItem.KERNEL_DATA: image,
    }


def _word(value: int) -> bytes:
    return struct.pack("<I", value)
