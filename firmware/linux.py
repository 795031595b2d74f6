"""The Linux boot protocol: a kernel image, an initrd and a command line laid out in guest memory.

Source: Linux, Documentation/arch/x86/boot.rst, "32-bit Boot Protocol", "Loading The Rest of The Kernel", "Running the
Kernel", and Documentation/arch/x86/zero-page.rst.

A bzImage of protocol 2.02 or later is entered at `code32_start` in flat 32-bit mode, selectors 10h and 18h from a GDT
that we leave in low memory, ESI with the address of the zero page. The zero page has the setup header, the memory map
and what the real-mode code would have asked the BIOS: the screen after POST, the keyboard's flags, memory sizes.
What has no such entry (a zImage, protocol 2.00 and 2.01, images that only borrow the format) is entered in real mode
and asks for itself.

Not given in the zero page: EDD tables, drive tables, APM, IST, the system descriptor table, EDID. `vga=` on the command
line is the real-mode code's affair and changes nothing.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from firmware.bootimage import (
    MIB,
    BootImage,
    FlatMode,
    Layout,
    MemoryRange,
    ReadMemory,
    RealMode,
    c_string,
    memory_needed,
)
from firmware.linux_header import HEADER_START, LOW_ROOM, LOW_START, LoadFlag, SetupHeader, parse, put
from vmm.arch.layout import PAGE_SIZE
from vmm.arch.registers import Reg
from vmm.errors import ConfigError

BOOT_CS: Final = 0x10
BOOT_DS: Final = 0x18
GDT: Final = struct.pack("<4Q", 0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
"""__BOOT_CS and __BOOT_DS: flat, 4 GiB, execute/read and read/write."""
UNREGISTERED_LOADER: Final = 0xFF
E820_MAX: Final = 128

_E820: Final = struct.Struct("<QQI")
_SCREEN: Final = struct.Struct("<BBHHBBBxHxxBBH")
_KIB: Final = 1 << 10
_FOUR_GIB: Final = 1 << 32
_EXT_MEM_MAX: Final = 0xFC00  # KiB: what INT 15h, AH = 88h, says at most


class ZeroPage(IntEnum):
    """Offsets in struct boot_params; the setup header keeps the offsets that it has in the file."""

    SCREEN_INFO = 0x000
    ALT_MEM_K = 0x1E0
    E820_ENTRIES = 0x1E8
    KBD_STATUS = 0x1EB
    E820_TABLE = 0x2D0


class BiosData(IntEnum):
    """Offsets in the BIOS data area at 400h (IBM PS/2 and PC BIOS Interface Technical Reference, "BIOS Data Area")."""

    KEYBOARD_FLAGS = 0x17
    VIDEO_MODE = 0x49
    COLUMNS = 0x4A
    CURSOR = 0x50  # column, row; two bytes a page
    PAGE = 0x62
    LAST_ROW = 0x84
    POINTS = 0x85
    EGA_INFO = 0x87  # bits 6:5: 64 KiB units of video memory less one; bit 1: monochrome
    VGA_FLAGS = 0x89  # bit 0: a VGA is active


VIDEO_PAGES: Final = 8  # that the data area has cursors for

_BDA: Final = 0x400
_BDA_SIZE: Final = 0x100

# Where the real-mode code goes, and its heap and stack end: the protocol's own sample configuration.
_REAL_HIGH: Final = (0x1_0000, 0xE000)
_REAL_LOW: Final = (0x9_0000, 0x9800)  # for a zImage, or before 2.02
_HEAP_BIAS: Final = 0x200
_OLD_LINE_MAGIC: Final = (0x20, 0xA33F)  # offset in the boot sector, value; the line's offset follows


@dataclass(frozen=True, slots=True)
class Boot:
    """What is to be booted: the kernel's checked header, an initrd if there is one, and the command line."""

    header: SetupHeader
    initrd: bytes | None
    line: bytes


def load(image: bytes, initrd: bytes | None, command_line: str, memory: Sequence[MemoryRange]) -> BootImage:
    """Lay out a Linux kernel.

    Args:
        memory: the memory map that the guest will be told; only available ranges are used.
    Raises: ConfigError, one line: the image contradicts itself, or something does not fit.
    """
    header = parse(image)
    boot = Boot(header, initrd, c_string(command_line))
    if len(boot.line) > (limit := header["cmdline_size"]) + 1:
        raise ConfigError(f"the command line has {len(boot.line) - 1} bytes, this kernel takes {limit} (cmdline_size)")
    layout = Layout(memory)
    return _load_32(boot, layout) if header.has_entry_32 else _load_16(boot, layout)


# --- the 32-bit entry ------------------------------------------------------------------------------------


def _load_32(boot: Boot, layout: Layout) -> BootImage:
    header = boot.header
    entry = header["code32_start"]
    layout.write(entry, header.protected_mode_code)
    _reserve_run_range(header, layout)
    page_at = layout.find(PAGE_SIZE + len(GDT) + len(boot.line), low=True)
    gdt_at = page_at + PAGE_SIZE
    line_at = gdt_at + len(GDT)
    layout.reserve(page_at, line_at + len(boot.line) - page_at)
    ramdisk = _place_initrd(boot, layout)
    page = _zero_page(header, layout.memory)
    _put_loader_fields(page, header, {**ramdisk, "cmd_line_ptr": line_at})
    layout.write(page_at, bytes(page) + GDT + boot.line)
    registers = {Reg.ESI: page_at, Reg.EBP: 0, Reg.EDI: 0, Reg.EBX: 0}
    made = layout.image(entry, registers, FlatMode(BOOT_CS, BOOT_DS, (gdt_at, len(GDT))))
    ext_mem_k = min(_memory_above_1_mib(layout), _EXT_MEM_MAX)
    return replace(
        made,
        completions=(
            lambda read: (page_at + ZeroPage.SCREEN_INFO, screen_info(read, ext_mem_k)),
            lambda read: (page_at + ZeroPage.KBD_STATUS, read(_BDA + BiosData.KEYBOARD_FLAGS, 1)),
        ),
    )


def _reserve_run_range(header: SetupHeader, layout: Layout) -> None:
    """Keep clear what the kernel is going to unpack itself to. Raises: ConfigError: it is not all RAM."""
    if (run := header.run_range) is None:
        return
    start, size = run
    if not layout.is_available(start, size):
        raise ConfigError(
            f"the kernel unpacks itself to {start:#x}..{start + size:#x} (pref_address, init_size), which is not all "
            f"guest RAM{memory_needed(start, start + size)}"
        )
    layout.reserve(start, size)


def _zero_page(header: SetupHeader, memory: Sequence[MemoryRange]) -> bytearray:
    """struct boot_params with the kernel's own header and the memory map."""
    page = bytearray(PAGE_SIZE)
    page[HEADER_START : header.end] = header.image[HEADER_START : header.end]
    entries = memory[:E820_MAX]
    page[ZeroPage.E820_ENTRIES] = len(entries)
    for number, entry in enumerate(entries):
        _E820.pack_into(page, ZeroPage.E820_TABLE + number * _E820.size, entry.base, entry.length, entry.type)
    struct.pack_into("<I", page, ZeroPage.ALT_MEM_K, _memory_above_1_mib(Layout(memory)))
    return page


def _memory_above_1_mib(layout: Layout) -> int:
    """KiB from 1 MiB to the first hole."""
    return next(((end - MIB) // _KIB for start, end in layout.available() if start <= MIB < end), 0)


def screen_info(read: ReadMemory, ext_mem_k: int) -> bytes:
    """struct screen_info as the kernel's real-mode code would fill it after POST, and the memory size within it.

    Source: Linux, include/uapi/linux/screen_info.h; INT 10h, AH = 03h, 0Fh and 12h, BL = 10h, from the BIOS data.
    """
    data = read(_BDA, _BDA_SIZE)
    page = data[BiosData.PAGE] % VIDEO_PAGES
    column, row = data[BiosData.CURSOR + 2 * page : BiosData.CURSOR + 2 * page + 2]
    info = data[BiosData.EGA_INFO]
    ega_bx = (info >> 1 & 1) << 8 | (info >> 5 & 3)
    lines = data[BiosData.LAST_ROW] + 1 & 0xFF
    mode = (data[BiosData.VIDEO_MODE], data[BiosData.COLUMNS], 0)
    return _SCREEN.pack(
        column, row, ext_mem_k, page, *mode, ega_bx, lines, data[BiosData.VGA_FLAGS] & 1, data[BiosData.POINTS]
    )


# --- the real-mode entry ---------------------------------------------------------------------------------


def _load_16(boot: Boot, layout: Layout) -> BootImage:
    """The setup code with its heap, stack and command line in low memory; the rest where a zImage or bzImage goes."""
    header = boot.header
    code = header.protected_mode_code
    if not header.is_high and len(code) > LOW_ROOM:
        raise ConfigError(f"the kernel is a zImage of {len(code)} bytes, but only {LOW_ROOM} fit below 90000h")
    base, heap_end = _REAL_HIGH if header.is_high and header.version >= 0x202 else _REAL_LOW
    if header.setup_size > heap_end - PAGE_SIZE:
        raise ConfigError(
            f"the kernel has {header.setup_size} bytes of setup code, expected up to {heap_end - PAGE_SIZE}"
        )
    layout.write(MIB if header.is_high else LOW_START, code)
    layout.reserve(base, heap_end + len(boot.line))
    ramdisk = _place_initrd(boot, layout)
    setup = bytearray(header.image[: header.setup_size])
    values = {"heap_end_ptr": heap_end - _HEAP_BIAS, "setup_move_size": heap_end + len(boot.line)}
    _put_loader_fields(setup, header, {**ramdisk, **values, "cmd_line_ptr": base + heap_end})
    if header.version < 0x202:
        struct.pack_into("<HH", setup, *_OLD_LINE_MAGIC, heap_end)
    layout.write(base, bytes(setup))
    layout.write(base + heap_end, boot.line)
    segment = base >> 4
    # The setup code begins after the boot sector, with CS 20h paragraphs on and everything else at the boot sector.
    return layout.image(0, {}, RealMode(segment + 0x20, segment, heap_end))


# --- both ------------------------------------------------------------------------------------------------


def _put_loader_fields(page: bytearray, header: SetupHeader, values: dict[str, int]) -> None:
    flags = header["loadflags"] | (0 if header.has_entry_32 else LoadFlag.CAN_USE_HEAP)
    put(page, header, {"type_of_loader": UNREGISTERED_LOADER, "loadflags": flags, **values})


def _place_initrd(boot: Boot, layout: Layout) -> dict[str, int]:
    """Put the initrd as high as the kernel allows; the header fields that say where."""
    if boot.initrd is None:
        return {}
    limit = min(boot.header["initrd_addr_max"], _memory_limit(boot.line) - 1)
    address = layout.place_high(boot.initrd, limit, "the initrd")
    return {"ramdisk_image": address, "ramdisk_size": len(boot.initrd)}


_MEM_OPTION: Final = re.compile(rb"(?:^|\s)mem=(0x[0-9a-f]+|[0-9]+)([kmg]?)(?=[\s\0])", re.IGNORECASE)
_UNITS: Final = {b"": 0, b"k": 10, b"m": 20, b"g": 30}


def _memory_limit(line: bytes) -> int:
    """The end of memory as `mem=` on the command line has it: nothing that the kernel needs may lie above.

    Source: "Special Command Line Options", mem.
    """
    sizes = [int(number, 0) << _UNITS[unit.lower()] for number, unit in _MEM_OPTION.findall(line)]
    return min(sizes, default=_FOUR_GIB)
