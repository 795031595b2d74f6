"""The PVH boot protocol: an ELF kernel that says where it wants to be entered in 32-bit mode, such as Linux's vmlinux.

Source: Xen, docs/misc/pvh, "x86/HVM direct boot ABI"; public/elfnote.h; public/arch-x86/hvm/start_info.h, version 1.

The kernel is entered in flat 32-bit protected mode with paging and interrupts off and the address of a start-info
structure in EBX. That has the command line, the modules (an initrd is the first), the memory map and the ACPI root
pointer. Its tables name no processor state beyond that: a kernel learns nothing about the video mode here.
"""

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from firmware import elf
from firmware.bootimage import CONVENTIONAL_END, BootImage, FlatMode, Layout, MemoryRange, ReadMemory, c_string
from vmm.arch.registers import Reg
from vmm.errors import ConfigError

START_MAGIC: Final = 0x336EC578
START_VERSION: Final = 1  # the one that has a memory map
NOTE_NAME: Final = b"Xen"
PHYS32_ENTRY: Final = 18  # XEN_ELFNOTE_PHYS32_ENTRY
COMMAND_LINE_MAX: Final = 2047
"""Bytes. The protocol has no limit and no field for one; Linux on x86 drops what is longer without a word."""

_TOP: Final = (1 << 32) - 1
_START: Final = struct.Struct("<IIIIQQQQII")
"""magic, version, flags, modules, their list, command line, RSDP, memory map, its entries, reserved"""
_RSDP_FIELD: Final = 32
_MODULE: Final = struct.Struct("<QQQQ")  # address, size, command line, reserved
_MAP_ENTRY: Final = struct.Struct("<QQII")  # address, size, type, reserved

_RSDP_SIGNATURE: Final = b"RSD PTR "
_RSDP_SIZE: Final = 20  # of ACPI 1.0, which the checksum covers
_RSDP_ALIGNMENT: Final = 16
_EBDA_POINTER: Final = 0x40E
_EBDA_SEARCH: Final = 1 << 10
_BIOS: Final = (0xE0000, 0x20000)


def entry_of(kernel: bytes) -> int | None:
    """The physical address that the PHYS32_ENTRY note of an ELF file names; None where there is no such note.

    Raises: ConfigError for an ELF file that is damaged or for another processor.
    """
    for note in elf.parse(kernel).notes:
        if note.name == NOTE_NAME and note.type == PHYS32_ENTRY:
            if len(note.descriptor) < 4:
                raise ConfigError(f"the kernel's PVH note has {len(note.descriptor)} bytes, expected an address of 4")
            return int.from_bytes(note.descriptor[:4], "little")
    return None


def load(
    kernel: bytes, modules: Sequence[tuple[bytes, str]], command_line: str, memory: Sequence[MemoryRange]
) -> BootImage:
    """Lay out a PVH kernel with its modules, each a pair of contents and command line.

    Args:
        memory: the memory map that the guest will be told; only available ranges are used.
    Raises: ConfigError, one line, if this is no PVH kernel or does not fit.
    """
    entry = entry_of(kernel)
    if entry is None:
        raise ConfigError("the kernel has no PVH note (Xen, type 18)")
    line = c_string(command_line)
    if len(line) > COMMAND_LINE_MAX + 1:
        raise ConfigError(f"the command line has {len(line) - 1} bytes, a PVH kernel takes {COMMAND_LINE_MAX}")
    layout = Layout(memory)
    layout.load_segments(kernel, elf.parse(kernel))
    layout.check_loaded(entry)
    placed = [(layout.place_high(data, _TOP, "a module (initrd)"), len(data), text) for data, text in modules]
    info = _place_info(layout, placed, line)
    image = layout.image(entry, {Reg.EBX: info}, FlatMode())
    return replace(image, completions=(lambda read: (info + _RSDP_FIELD, find_rsdp(read).to_bytes(8, "little")),))


def _place_info(layout: Layout, modules: Sequence[tuple[int, int, str]], line: bytes) -> int:
    """Put the start info and what it points to into one piece of low memory; the address."""
    texts = [line, *(c_string(text) for _, _, text in modules)]
    memory_map = b"".join(_MAP_ENTRY.pack(r.base, r.length, r.type, 0) for r in layout.memory)
    base = layout.find(_START.size + len(memory_map) + _MODULE.size * len(modules) + sum(map(len, texts)), low=True)
    map_at = base + _START.size
    modules_at = map_at + len(memory_map)
    text_at = [modules_at + _MODULE.size * len(modules)]
    for text in texts:
        text_at.append(text_at[-1] + len(text))
    table = b"".join(
        _MODULE.pack(start, size, at, 0) for (start, size, _), at in zip(modules, text_at[1:], strict=False)
    )
    pointers = (modules_at if modules else 0, text_at[0], 0, map_at)
    start = _START.pack(START_MAGIC, START_VERSION, 0, len(modules), *pointers, len(layout.memory), 0)
    layout.write(base, start + memory_map + table + b"".join(texts))
    return base


def find_rsdp(read: ReadMemory) -> int:
    """The address of the ACPI root pointer that the firmware has left, 0 if it left none.

    Source: ACPI Specification 6.4, "Finding the RSDP on IA-PC Systems".
    """
    ebda = int.from_bytes(read(_EBDA_POINTER, 2), "little") << 4
    areas = [(ebda, _EBDA_SEARCH)] if 0 < ebda <= CONVENTIONAL_END - _EBDA_SEARCH else []
    for base, size in (*areas, _BIOS):
        area = read(base, size)
        for offset in range(0, len(area) - _RSDP_SIZE + 1, _RSDP_ALIGNMENT):
            found = area[offset : offset + _RSDP_SIZE]
            if found.startswith(_RSDP_SIGNATURE) and sum(found) & 0xFF == 0:
                return base + offset
    return 0
