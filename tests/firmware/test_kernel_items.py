"""What fw_cfg tells about a kernel."""

import struct

from firmware.bootimage import BootImage
from firmware.fw_cfg import kernel_items
from firmware.kernel import Kernel
from tests.firmware.kernels import bzimage
from vmm.devices.fw_cfg import FwCfgItem as Item


def word(value: int) -> bytes:
    return struct.pack("<I", value)


def test_a_linux_image_is_told_in_its_two_halves() -> None:
    image = bzimage(b"\xf4" * 4096)
    size = (image[0x1F1] + 1) * 512
    initrd = b"initrd!"
    laid_out = BootImage(writes=((0x10_0000, image[size:]), (0x70_0000, initrd)), zeros=(), entry=0x10_0000)
    items = kernel_items(Kernel(image, "quiet", initrd), laid_out)
    assert items == {
        Item.SETUP_ADDR: word(0x1_0000), Item.SETUP_SIZE: word(size), Item.SETUP_DATA: image[:size],
        Item.KERNEL_ADDR: word(0x10_0000), Item.KERNEL_SIZE: word(len(image) - size), Item.KERNEL_DATA: image[size:],
        Item.CMDLINE_ADDR: word(0x2_0000), Item.CMDLINE_SIZE: word(6), Item.CMDLINE_DATA: b"quiet\0",
        Item.INITRD_ADDR: word(0x70_0000), Item.INITRD_SIZE: word(7), Item.INITRD_DATA: initrd,
    }  # fmt: skip


def test_another_kernel_is_told_as_its_file() -> None:
    items = kernel_items(Kernel(b"kernel"), BootImage(writes=(), zeros=(), entry=0x10_1234))
    assert items[Item.KERNEL_DATA] == b"kernel"
    assert (items[Item.KERNEL_ENTRY], items[Item.KERNEL_SIZE], items[Item.INITRD_SIZE]) == (
        word(0x10_1234),
        word(6),
        word(0),
    )
    assert Item.SETUP_DATA not in items
