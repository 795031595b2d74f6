"""What the CMOS holds at power-on: the configuration that a set-up program would have written.

Source: IBM PC/AT Technical Reference, "RT/CMOS RAM Address Map"; 34h/35h, 38h and 3Dh by the convention of PC
emulators' BIOSes, which ours follows and SeaBIOS understands.
"""

from typing import Final

from vmm.board import Media

_FLOPPY_TYPES: Final = 0x10
_DISK_TYPES: Final = 0x12
_EQUIPMENT: Final = 0x14
_BASE_MEMORY: Final = 0x15
_EXTENDED_MEMORY: Final = 0x17
_DISK_0_TYPE: Final = 0x19
_DISK_1_TYPE: Final = 0x1A
_EXTENDED_AT_POST: Final = 0x30
_MEMORY_ABOVE_16M: Final = 0x34
_BOOT_THIRD: Final = 0x38
_BOOT_ORDER: Final = 0x3D
_CHECKSUM: Final = 0x2E
_SUMMED: Final = range(0x10, 0x2E)
_BASE_KIB: Final = 640
_WORD_MAX: Final = 0xFFFF
_DRIVE_TYPES: Final = {320 << 10: 1, 360 << 10: 1, 720 << 10: 3, 1200 << 10: 2, 1440 << 10: 4, 2880 << 10: 5}
_DEFAULT_DRIVE: Final = 4
_USER_DISK: Final = 0xF  # the type is in 19h, 1Ah
_USER_TYPE: Final = 47
_HAS_FLOPPY: Final = 1 << 0
_FPU: Final = 1 << 1
_FLOPPIES_MAX: Final = 4
BOOT_CODES: Final = {"floppy": 1, "disk": 2, "cdrom": 3}


def configure(cmos: bytearray, memory: int, media: Media, boot: tuple[str, ...]) -> None:
    """Fill in the configuration bytes of a CMOS.

    Args:
        memory: guest RAM in bytes.
        boot: devices in the order in which they are tried, by the names of BOOT_CODES.
    """
    floppies = [_DEFAULT_DRIVE if floppy is None else _drive_type(floppy.size) for floppy in media.floppies]
    first, second = [*floppies, 0, 0][:2]
    cmos[_FLOPPY_TYPES] = first << 4 | second
    count = len(media.disks)
    cmos[_DISK_TYPES] = (_USER_DISK << 4 if count else 0) | (_USER_DISK if count > 1 else 0)
    cmos[_DISK_0_TYPE] = _USER_TYPE if count else 0
    cmos[_DISK_1_TYPE] = _USER_TYPE if count > 1 else 0
    # A display with a ROM of its own; an FPU; in bits 7:6 the number of floppy drives less one.
    cmos[_EQUIPMENT] = _FPU | (_HAS_FLOPPY | min(len(floppies), _FLOPPIES_MAX) - 1 << 6 if floppies else 0)
    extended = min(_WORD_MAX, max(0, memory - (1 << 20)) >> 10)
    above = min(_WORD_MAX, max(0, memory - (16 << 20)) >> 16)
    for at, value in (
        (_BASE_MEMORY, _BASE_KIB),
        (_EXTENDED_MEMORY, extended),
        (_EXTENDED_AT_POST, extended),
        (_MEMORY_ABOVE_16M, above),
    ):
        cmos[at : at + 2] = value.to_bytes(2, "little")
    codes = [BOOT_CODES[device] for device in boot][:3]
    codes += [0] * (3 - len(codes))
    cmos[_BOOT_ORDER] = codes[0] | codes[1] << 4
    cmos[_BOOT_THIRD] = codes[2] << 4 | 1  # bit 0: a floppy needs no boot signature
    cmos[_CHECKSUM : _CHECKSUM + 2] = sum(cmos[at] for at in _SUMMED).to_bytes(2, "big")


def _drive_type(size: int) -> int:
    """The drive that reads a medium of this size (360K, 1.2M, 720K, 1.44M, 2.88M: types 1-5)."""
    return _DRIVE_TYPES.get(size, _DEFAULT_DRIVE)
