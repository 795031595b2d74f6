"""The Multiboot boot protocol: a kernel and its modules laid out in guest memory.

Source: Multiboot Specification version 0.6.96, "OS image format", "Machine state", "Boot information format".

The kernel is entered in 32-bit protected mode with flat segments, paging and interrupts off, A20 open, the magic number
in EAX and the address of the information structure in EBX.
Not given: the boot device (the kernel does not come from a BIOS disk), a.out symbols, drives, configuration table, APM,
VBE. A kernel that asks for a video mode gets the text mode that there is, described in the framebuffer fields: the
specification lets the loader choose.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final

from firmware import elf
from firmware.bootimage import MIB, BootImage, FlatMode, Layout, MemoryRange, c_string
from vmm.arch.registers import Reg
from vmm.errors import ConfigError

HEADER_MAGIC: Final = 0x1BADB002
HEADER_MAGIC_2: Final = 0xE85250D6  # of Multiboot 2
LOADER_MAGIC: Final = 0x2BADB002
SEARCH: Final = 8192
LOADER_NAME: Final = "glassvisor"

_KIB: Final = 1 << 10
_MAX_LOWER_KIB: Final = 640
_MASK32: Final = (1 << 32) - 1


class HeaderFlag(IntFlag):
    """Flags of the Multiboot header. A loader must refuse a bit below 16 that it does not know."""

    PAGE_ALIGN = 1 << 0
    MEMORY_INFO = 1 << 1
    VIDEO_MODE = 1 << 2
    ADDRESSES = 1 << 16  # the "a.out kludge"


class InfoFlag(IntFlag):
    """Flags of the boot information: which of its fields are valid."""

    MEMORY = 1 << 0
    COMMAND_LINE = 1 << 2
    MODULES = 1 << 3
    ELF_SECTIONS = 1 << 5
    MEMORY_MAP = 1 << 6
    LOADER_NAME = 1 << 9
    FRAMEBUFFER = 1 << 12


_REQUIRED: Final = 0xFFFF
_KNOWN: Final = int(HeaderFlag.PAGE_ALIGN | HeaderFlag.MEMORY_INFO | HeaderFlag.VIDEO_MODE)
_ADDRESSES: Final = int(HeaderFlag.ADDRESSES)
_HEADER: Final = struct.Struct("<III")
_HEADER_ADDRESSES: Final = struct.Struct("<12xIIIII")
_MODULE: Final = struct.Struct("<IIII")
_MAP_ENTRY: Final = struct.Struct("<IQQI")
_INFO: Final = struct.Struct("<20I4HQIIIBB6x")
_TEXT_BASE: Final = 0xB8000
_TEXT: Final = (_TEXT_BASE, 160, 80, 25, 16, 2)  # address, pitch, width, height, bits per cell, type: EGA text


@dataclass(frozen=True, slots=True)
class Header:
    """A Multiboot header: where in the file, its flags, and with ADDRESSES where the file goes."""

    offset: int
    flags: int
    header_address: int = 0
    load_address: int = 0
    load_end: int = 0
    bss_end: int = 0
    entry: int = 0


def load(
    kernel: bytes, modules: Sequence[tuple[bytes, str]], command_line: str, memory: Sequence[MemoryRange]
) -> BootImage:
    """Lay out a Multiboot 1 kernel with its modules, each a pair of contents and command line.

    Args:
        memory: the memory map that the guest will be told; only available ranges are used.
    Raises: ConfigError, one line, if this is no Multiboot kernel or does not fit.
    """
    header = find_header(kernel)
    layout = Layout(memory)
    if header.flags & _ADDRESSES:
        shape = None
        entry = _load_by_header(kernel, header, layout)
    elif kernel.startswith(elf.MAGIC):
        shape = elf.parse(kernel)
        layout.load_segments(kernel, shape)
        entry = shape.physical_entry
    else:
        raise ConfigError("the kernel has a Multiboot header without load addresses and is not an ELF file")
    layout.check_loaded(entry)
    info = _Info(layout, memory)
    if shape is not None and shape.sections:
        info.add_sections(_load_sections(kernel, shape, layout), len(shape.sections), shape.names)
    info.add_modules(modules)
    info.add_command_line(command_line)
    address = info.place()
    return layout.image(entry, {Reg.EAX: LOADER_MAGIC, Reg.EBX: address}, FlatMode())


def has_header(kernel: bytes) -> bool:
    """Whether there is a header with a good checksum."""
    return any(good for _, _, good in _magics(kernel))


def has_magic(kernel: bytes) -> bool:
    """Whether the magic number of a header, 1 or 2, is where one could be."""
    return any(True for _ in _magics(kernel)) or _has_magic_2(kernel)


def find_header(kernel: bytes) -> Header:
    """The first header with a good checksum. Raises: ConfigError."""
    seen = False
    for offset, flags, good in _magics(kernel):
        if good:
            return _read_header(kernel[:SEARCH], offset, flags)
        seen = True
    if seen:
        raise ConfigError(
            "the kernel's Multiboot header has a bad checksum: magic, flags and checksum must add up to 0"
        )
    if _has_magic_2(kernel):
        raise ConfigError("the kernel has a Multiboot 2 header, expected Multiboot 1")
    raise ConfigError(f"the kernel has no Multiboot header in its first {SEARCH} bytes")


def _magics(kernel: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where the magic number stands: offset, flags, and whether the checksum is good."""
    searched = kernel[:SEARCH]
    for offset in range(0, len(searched) - _HEADER.size + 1, 4):
        magic, flags, checksum = _HEADER.unpack_from(searched, offset)
        if magic == HEADER_MAGIC:
            yield offset, flags, (magic + flags + checksum) & _MASK32 == 0


def _has_magic_2(kernel: bytes) -> bool:
    return HEADER_MAGIC_2.to_bytes(4, "little") in kernel[: SEARCH * 4]


def _read_header(searched: bytes, offset: int, flags: int) -> Header:
    if unknown := flags & _REQUIRED & ~_KNOWN:
        raise ConfigError(f"the kernel's Multiboot header requires features that are not known: flags {unknown:#06x}")
    if not flags & _ADDRESSES:
        return Header(offset, flags)
    if offset + _HEADER_ADDRESSES.size > len(searched):
        raise ConfigError("the kernel's Multiboot header is cut short within its load addresses")
    return Header(offset, flags, *_HEADER_ADDRESSES.unpack_from(searched, offset))


def _load_by_header(kernel: bytes, header: Header, layout: Layout) -> int:
    """Load as the header's address fields say; returns the entry."""
    start = header.offset - (header.header_address - header.load_address)
    size = header.load_end - header.load_address if header.load_end else len(kernel) - start
    if header.header_address < header.load_address or start < 0:
        raise ConfigError("the kernel's Multiboot header says that it is loaded from before the file's start")
    if size <= 0 or start + size > len(kernel):
        raise ConfigError(f"the kernel's Multiboot header asks for bytes {start}..{start + size} of {len(kernel)}")
    end = header.load_address + size
    if header.bss_end and header.bss_end < end:
        raise ConfigError("the kernel's Multiboot header has its bss end before its load end")
    layout.write(header.load_address, kernel[start : start + size])
    layout.zero(end, max(header.bss_end - end, 0))
    return header.entry


def _load_sections(kernel: bytes, shape: elf.Elf, layout: Layout) -> bytes:
    """Load what no segment has loaded, symbols above all, and return the section headers with their addresses."""
    headers = []
    for section in shape.sections:
        address = section.address
        if section.stored and not address:
            address = layout.place(kernel[section.offset : section.offset + section.stored])
        headers.append(section.to_bytes(address))
    return b"".join(headers)


@dataclass(slots=True)
class _Info:
    """The boot information as it is collected; `place` puts it and what it points to into guest memory."""

    layout: Layout
    memory: Sequence[MemoryRange]
    flags: int = int(InfoFlag.MEMORY | InfoFlag.MEMORY_MAP | InfoFlag.LOADER_NAME | InfoFlag.FRAMEBUFFER)
    sections: tuple[int, int, int, int] = (0, 0, 0, 0)
    modules: list[tuple[int, int, str]] = field(default_factory=list)
    command_line: str = ""

    def add_sections(self, headers: bytes, count: int, names: int) -> None:
        """The section header table: number, entry size, address, index of the names."""
        self.sections = (count, len(headers) // count, self.layout.place(headers), names)
        self.flags |= InfoFlag.ELF_SECTIONS

    def add_modules(self, modules: Sequence[tuple[bytes, str]]) -> None:
        for data, text in modules:
            start = self.layout.place(data) if data else self.layout.find(0)
            self.modules.append((start, start + len(data), text))
        self.flags |= InfoFlag.MODULES

    def add_command_line(self, text: str) -> None:
        self.command_line = text
        self.flags |= InfoFlag.COMMAND_LINE

    def place(self) -> int:
        """Put it all into one piece of low memory; the address of the information structure."""
        parts = [c_string(self.command_line), c_string(LOADER_NAME), *(c_string(text) for _, _, text in self.modules)]
        memory_map = b"".join(_MAP_ENTRY.pack(_MAP_ENTRY.size - 4, r.base, r.length, r.type) for r in self.memory)
        base = self.layout.find(
            _INFO.size + len(memory_map) + _MODULE.size * len(self.modules) + sum(map(len, parts)), low=True
        )
        map_at = base + _INFO.size
        modules_at = map_at + len(memory_map)
        text_at = [modules_at + _MODULE.size * len(self.modules)]
        for part in parts:
            text_at.append(text_at[-1] + len(part))
        table = b"".join(
            _MODULE.pack(start, end, text, 0) for (start, end, _), text in zip(self.modules, text_at[2:], strict=False)
        )
        lower, upper = _memory_sizes(self.layout)
        modules = (len(self.modules), modules_at if self.modules else 0)
        head = (self.flags, lower, upper, 0, text_at[0], *modules, *self.sections, len(memory_map), map_at)
        tables = (0, 0, 0, text_at[1], 0, 0, 0)  # drives, configuration, loader name, APM, VBE
        info = _INFO.pack(*head, *tables, *_NO_VBE, *_TEXT)
        self.layout.write(base, info + memory_map + table + b"".join(parts))
        return base


_NO_VBE: Final = (0, 0, 0, 0)  # mode, interface segment, offset and length


def _memory_sizes(layout: Layout) -> tuple[int, int]:
    """`mem_lower` and `mem_upper`: KiB from 0, at most 640, and from 1 MiB to the first hole."""
    lower = next((end for start, end in layout.available() if start == 0), 0)
    upper = next((end - MIB for start, end in layout.available() if start <= MIB < end), 0)
    return min(lower // _KIB, _MAX_LOWER_KIB), upper // _KIB
