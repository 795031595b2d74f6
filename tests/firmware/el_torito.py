"""A bootable CD image of the least that the specification asks for: boot record, boot catalogue, boot image.

Source: "El Torito Bootable CD-ROM Format Specification" 1.0, figures 2, 3 and 7.
"""

import struct
from typing import Final

CD_SECTOR: Final = 2048
BOOT_RECORD: Final = 17
CATALOG: Final = 19
IMAGE: Final = 20


def cd_image(image: bytes, media: int, sectors: int, load_segment: int = 0) -> bytes:
    """Return a CD whose default boot entry is `image`.

    Args:
        media: 0 no emulation, 1 1.2 MB, 2 1.44 MB, 3 2.88 MB floppy, 4 hard disk.
        sectors: 512-byte sectors to load.
    """
    record = b"\0CD001\x01" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", CATALOG)
    validation = bytearray(struct.pack("<BBH24sH2s", 1, 0, 0, b"test", 0, b"\x55\xaa"))
    struct.pack_into("<H", validation, 28, -sum(struct.unpack("<16H", validation)) & 0xFFFF)
    entry = struct.pack("<BBHBBHI20x", 0x88, media, load_segment, 0, 0, sectors, IMAGE)
    cd = bytearray(IMAGE * CD_SECTOR)
    cd[BOOT_RECORD * CD_SECTOR : BOOT_RECORD * CD_SECTOR + len(record)] = record
    cd[CATALOG * CD_SECTOR : CATALOG * CD_SECTOR + 64] = bytes(validation) + entry
    return bytes(cd) + image + bytes(-len(image) % CD_SECTOR)
