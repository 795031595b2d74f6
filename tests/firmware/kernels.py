"""Kernel files made by hand: Linux images with any setup header, and ELF files with notes."""

import struct

MIB = 1 << 20
SECTOR = 512
HEADER_END = 0x26C
"""Of protocol 2.15."""

# name: (offset, format), as in the table of Documentation/arch/x86/boot.rst
HEADER = {
    "setup_sects": (0x1F1, "<B"),
    "syssize": (0x1F4, "<I"),
    "vid_mode": (0x1FA, "<H"),
    "boot_flag": (0x1FE, "<H"),
    "version": (0x206, "<H"),
    "type_of_loader": (0x210, "<B"),
    "loadflags": (0x211, "<B"),
    "setup_move_size": (0x212, "<H"),
    "code32_start": (0x214, "<I"),
    "ramdisk_image": (0x218, "<I"),
    "ramdisk_size": (0x21C, "<I"),
    "heap_end_ptr": (0x224, "<H"),
    "cmd_line_ptr": (0x228, "<I"),
    "initrd_addr_max": (0x22C, "<I"),
    "kernel_alignment": (0x230, "<I"),
    "relocatable_kernel": (0x234, "<B"),
    "xloadflags": (0x236, "<H"),
    "cmdline_size": (0x238, "<I"),
    "payload_offset": (0x248, "<I"),
    "payload_length": (0x24C, "<I"),
    "pref_address": (0x258, "<Q"),
    "init_size": (0x260, "<I"),
}


def field(page: bytes, name: str) -> int:
    """A field of a setup header in a file or a zero page."""
    at, form = HEADER[name]
    return struct.unpack_from(form, page, at)[0]


def bzimage(code: bytes = b"\xf4" * 100, header_end: int = HEADER_END, setup: bytes = b"", **fields: int) -> bytes:
    """A Linux image of protocol 2.15 with this protected-mode code; `fields` override the header."""
    sects = fields.get("setup_sects", 3) or 4
    image = bytearray((sects + 1) * SECTOR)
    image[0x200:0x206] = bytes((0xEB, header_end - 0x202)) + b"HdrS"
    image[0x26C : 0x26C + len(setup)] = setup
    values = {
        "setup_sects": sects,
        "syssize": -(-len(code) // 16),
        "vid_mode": 0xFFFF,
        "boot_flag": 0xAA55,
        "version": 0x20F,
        "loadflags": 1,
        "code32_start": MIB,
        "initrd_addr_max": 0x7FFF_FFFF,
        "kernel_alignment": MIB,
        "relocatable_kernel": 1,
        "cmdline_size": 2047,
        "pref_address": MIB,
        "init_size": MIB,
        **fields,
    }
    for name, value in values.items():
        at, form = HEADER[name]
        if at + struct.calcsize(form) <= header_end:
            struct.pack_into(form, image, at, value)
    return bytes(image) + code


def note(name: bytes, kind: int, descriptor: bytes) -> bytes:
    """An ELF note."""
    padded = (name + b"\0").ljust(-(-(len(name) + 1) // 4) * 4, b"\0")
    return (
        struct.pack("<III", len(name) + 1, len(descriptor), kind)
        + padded
        + descriptor.ljust(-(-len(descriptor) // 4) * 4, b"\0")
    )


def pvh_elf(code: bytes = b"\xf4" * 100, *notes: bytes, load: int = MIB, size: int = 0) -> bytes:
    """An ELF file with one segment, by default entered at its start, and with notes."""
    told = b"".join(notes or (note(b"Xen", 18, struct.pack("<I", load)),))
    shape = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0xC000_0000 | load, 52, 0, 0, 52, 32, 2, 40, 0, 0)
    start = 52 + 64
    segment = struct.pack("<8I", 1, start, 0xC000_0000 | load, load, len(code), size or len(code), 7, 4)
    notes_at = struct.pack("<8I", 4, start + len(code), 0, 0, len(told), len(told), 4, 4)
    return b"\x7fELF\x01\x01\x01" + bytes(9) + shape + segment + notes_at + code + told
