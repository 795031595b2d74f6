"""The setup header of a Linux kernel image, boot protocol 2.00 to 2.15: what the kernel says about itself.

Source: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header", "Details of Header Fields".

The header lies in the first two sectors of the file, and its fields have come one protocol version after another. A
field that a kernel is too old for reads as what the protocol says about such kernels.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final, NamedTuple

from vmm.errors import ConfigError

HEADER_START: Final = 0x1F1
HEADER_ROOM: Final = 0x290
"""Where the header must end at the latest: the zero page has other things from there on."""
MAGIC: Final = b"HdrS"
MAGIC_AT: Final = 0x202
BOOT_FLAG: Final = 0xAA55
SECTOR: Final = 512
PARAGRAPH: Final = 16
INITRD_MAX_OLD: Final = 0x37FF_FFFF  # before 2.03
COMMAND_LINE_MAX_OLD: Final = 255  # before 2.06
LOW_START: Final = 0x1_0000
LOW_ROOM: Final = 0x8_0000  # up to 90000h

_JUMP_END: Final = 0x202  # the jump's displacement counts from here, and the byte before has it
_SETUP_SECTS_OLD: Final = 4  # what 0 means
_PAYLOADS: Final = tuple(map(bytes.fromhex, ("1F8B", "1F9E", "425A", "5D00", "FD37", "0221", "28B5", "894C", "7F45")))
"""How a payload begins: gzip (two ways), bzip2, LZMA, XZ, LZ4, Zstandard, LZO, ELF (`payload_offset`)."""
_FORMATS: Final = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


class LoadFlag(IntFlag):
    """Bits of `loadflags`."""

    LOADED_HIGH = 1 << 0  # the protected-mode code goes to 100000h, not to 10000h
    CAN_USE_HEAP = 1 << 7  # heap_end_ptr is valid; the loader's to set


class XLoadFlag(IntFlag):
    """Bits of `xloadflags`."""

    KERNEL_64 = 1 << 0  # a 64-bit kernel


class Field(NamedTuple):
    """Where a field is, its size in bytes, the first protocol version that has it, and what it is before that."""

    at: int
    size: int
    since: int = 0x200
    default: int = 0


FIELDS: Final[Mapping[str, Field]] = {
    "setup_sects": Field(0x1F1, 1),
    "syssize": Field(0x1F4, 4, 0x204),
    "vid_mode": Field(0x1FA, 2),
    "boot_flag": Field(0x1FE, 2),
    "version": Field(0x206, 2),
    "type_of_loader": Field(0x210, 1),
    "loadflags": Field(0x211, 1),
    "setup_move_size": Field(0x212, 2),
    "code32_start": Field(0x214, 4),
    "ramdisk_image": Field(0x218, 4),
    "ramdisk_size": Field(0x21C, 4),
    "heap_end_ptr": Field(0x224, 2, 0x201),
    "cmd_line_ptr": Field(0x228, 4, 0x202),
    "initrd_addr_max": Field(0x22C, 4, 0x203, INITRD_MAX_OLD),
    "kernel_alignment": Field(0x230, 4, 0x205, 1),
    "relocatable_kernel": Field(0x234, 1, 0x205),
    "xloadflags": Field(0x236, 2, 0x20C),
    "cmdline_size": Field(0x238, 4, 0x206, COMMAND_LINE_MAX_OLD),
    "payload_offset": Field(0x248, 4, 0x208),
    "payload_length": Field(0x24C, 4, 0x208),
    "pref_address": Field(0x258, 8, 0x20A),
    "init_size": Field(0x260, 4, 0x20A),
}
_ALWAYS: Final = 0x200


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """A header that has been checked against the file that it stands in. `end` is its end as an offset in the file."""

    image: bytes = field(repr=False)
    version: int
    end: int

    def __getitem__(self, name: str) -> int:
        """A field, by the protocol's name."""
        return _get(self.image, self.version, name)

    @property
    def setup_size(self) -> int:
        """Bytes of the boot sector and the real-mode code."""
        return ((self["setup_sects"] or _SETUP_SECTS_OLD) + 1) * SECTOR

    @property
    def protected_mode_code(self) -> bytes:
        """All that follows the real-mode code, as far as the header says; before 2.04 it cannot say."""
        size = self["syssize"] * PARAGRAPH if self.version >= FIELDS["syssize"].since else len(self.image)
        return self.image[self.setup_size : self.setup_size + size]

    @property
    def is_high(self) -> bool:
        """A bzImage, not a zImage."""
        return bool(self["loadflags"] & LoadFlag.LOADED_HIGH)

    @property
    def has_entry_32(self) -> bool:
        """Whether the kernel can be entered in protected mode: a bzImage of 2.02 or later that says where.

        Images that only borrow the format, to be loaded like a kernel, leave `code32_start` 0: their real-mode code
        is all there is to enter.
        """
        return self.is_high and self.version >= FIELDS["cmd_line_ptr"].since and self["code32_start"] != 0

    @property
    def run_range(self) -> tuple[int, int] | None:
        """Where the kernel is going to unpack itself, start and size; None where the header does not say, before 2.10.

        Source: "The Real-Mode Kernel Header", `init_size`.
        """
        if self.version < FIELDS["init_size"].since:
            return None
        start = self["pref_address"]
        if self["relocatable_kernel"]:
            start = -(-max(self["code32_start"], start) // self["kernel_alignment"]) * self["kernel_alignment"]
        return start, self["init_size"]


def has_header(image: bytes) -> bool:
    """Whether a file has the mark of a Linux kernel of boot protocol 2.00 or later."""
    return image[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def parse(image: bytes) -> SetupHeader:
    """Read and check the header of a kernel image. Raises: ConfigError: it contradicts itself or the file."""
    version = _get(image, _ALWAYS, "version")
    if version < _ALWAYS:
        raise ConfigError(f"the kernel's setup header has boot protocol {_dotted(version)}, expected 2.00 or later")
    header = SetupHeader(image, version, _JUMP_END + image[_JUMP_END - 1])
    if (flag := header["boot_flag"]) != BOOT_FLAG:
        raise ConfigError(f"the kernel has a Linux setup header, but its boot flag is {flag:04X}h, expected AA55h")
    _check_size(header)
    _check_code(header)
    _check_placement(header)
    return header


def put(page: bytearray, header: SetupHeader, values: Mapping[str, int]) -> None:
    """Write fields into a copy of the header at its place in `page`; those that the kernel is too old for stay away."""
    for name, value in values.items():
        at, size, since, _ = FIELDS[name]
        if header.version >= since:
            struct.pack_into(_FORMATS[size], page, at, value)


def _get(image: bytes, version: int, name: str) -> int:
    at, size, since, default = FIELDS[name]
    if version < since or at + size > len(image):
        return default
    value: int = struct.unpack_from(_FORMATS[size], image, at)[0]
    return value


def _dotted(version: int) -> str:
    return f"{version >> 8}.{version & 0xFF:02}"


def _check_size(header: SetupHeader) -> None:
    """The header must have room for the fields of its version, and lie within the real-mode code and the zero page."""
    needed = max(at + size for at, size, since, _ in FIELDS.values() if header.version >= since)
    if not needed <= header.end <= HEADER_ROOM:
        raise ConfigError(
            f"the kernel's setup header says that it ends at {header.end:X}h, "
            f"expected {needed:X}h to {HEADER_ROOM:X}h for boot protocol {_dotted(header.version)}"
        )
    if max(header.end, header.setup_size) > len(header.image):
        raise ConfigError(
            f"the kernel's setup header asks for {header.setup_size} bytes of setup code, "
            f"but the file has {len(header.image)}: truncated?"
        )


def _check_code(header: SetupHeader) -> None:
    """The protected-mode code must be there; up to 15 bytes of its last paragraph may be missing."""
    room = len(header.image) - header.setup_size
    if header.version >= FIELDS["syssize"].since:
        size = header["syssize"] * PARAGRAPH
        if not 0 < size < room + PARAGRAPH:
            raise ConfigError(
                f"the kernel's setup header has {size} bytes of protected-mode code, but {room} follow: truncated?"
            )
        room = size
    if not room:
        raise ConfigError("the kernel ends with its setup code: truncated?")
    if header["payload_length"]:
        _check_payload(header, room)


def _check_payload(header: SetupHeader, room: int) -> None:
    """A compressed kernel must lie within the code, begin as one does, and unpack to no less than it is now."""
    start = header["payload_offset"]
    if (end := start + header["payload_length"]) > room:
        raise ConfigError(
            f"the kernel's setup header says that its payload ends at {end}, "
            f"but the protected-mode code has {room} bytes: truncated?"
        )
    begins = header.protected_mode_code[start : start + 2]
    if begins not in _PAYLOADS:
        raise ConfigError(
            f"the kernel's setup header says that its payload is {start} bytes behind {header.setup_size} of setup "
            f"code, but neither compressed data nor an ELF file begins there ({begins.hex(' ')}): wrong setup_sects?"
        )
    if header.version >= FIELDS["init_size"].since and header["init_size"] < room:
        raise ConfigError(
            f"the kernel's setup header says that it needs {header['init_size']} bytes to start (init_size), "
            f"but its protected-mode code alone has {room}"
        )


def _check_placement(header: SetupHeader) -> None:
    alignment = header["kernel_alignment"]
    if header["relocatable_kernel"] and (alignment == 0 or alignment & (alignment - 1)):
        raise ConfigError(f"the kernel's setup header has kernel_alignment {alignment:#x}, expected a power of two")
    if header["xloadflags"] & XLoadFlag.KERNEL_64:
        raise ConfigError("the kernel is a 64-bit one (xloadflags bit 0), but the machine has a 32-bit processor")
