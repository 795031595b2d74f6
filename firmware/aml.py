"""ACPI Machine Language, as far as tables of constants need it: names, packages, buffers, devices, resources.

Everything is bytes and is put together by calling: `device("RTC_", name("_HID", integer(eisa_id("PNP0B00"))))`.

Source: Advanced Configuration and Power Interface Specification 1.0b, "ACPI Machine Language Specification",
"Resource Data Types".
"""

import struct
from typing import Final

_SEGMENT: Final = 4  # characters in a name
_ROOT: Final = "\\"
_SHORT_PACKAGE: Final = 0x40  # lengths below fit the lead byte
_NIBBLE: Final = 4  # bits of the length in the lead byte if more bytes follow
_NAME, _SCOPE, _BUFFER, _PACKAGE, _DEVICE = b"\x08", b"\x10", b"\x11", b"\x12", b"\x5b\x82"
_ZERO, _ONE = b"\x00", b"\x01"
# Small resource items: tag, then what it holds.
_IRQ: Final = struct.Struct("<BH")
_DMA: Final = struct.Struct("<BBB")
_IO: Final = struct.Struct("<BBHHBB")
_END: Final = b"\x79\x00"
_DECODE_16_BITS: Final = 1
# Address space items: tag, length, kind, flags, flags of the kind; granularity, lowest, highest, translation, size.
_WORD_SPACE: Final = struct.Struct("<BHBBBHHHHH")
_DWORD_SPACE: Final = struct.Struct("<BHBBBIIIII")
_SPACE_HEAD: Final = 3
_MEMORY, _PORTS, _BUSES = 0, 1, 2
_FIXED_PRODUCER: Final = 0x0C  # lowest and highest are fixed, decoded positively, passed on to the bus below
_ENTIRE_RANGE: Final = 3
_READ_WRITE: Final = 1


def integer(value: int) -> bytes:
    """An integer constant, 0 to FFFFFFFFh, in its shortest form."""
    if value < 2:
        return (_ZERO, _ONE)[value]
    if value < 1 << 8:
        return struct.pack("<BB", 0x0A, value)
    return struct.pack("<BH", 0x0B, value) if value < 1 << 16 else struct.pack("<BI", 0x0C, value)


def eisa_id(text: str) -> int:
    """A Plug and Play identifier, three letters and four hexadecimal digits, as the integer that _HID holds."""
    letters = 0
    for letter in text[:3]:
        letters = letters << 5 | ord(letter) - ord("@")
    return int.from_bytes((letters << 16 | int(text[3:], 16)).to_bytes(4, "big"), "little")


def name(path: str, value: bytes) -> bytes:
    """A named constant."""
    return _NAME + _path(path) + value


def package(*elements: bytes) -> bytes:
    """A package of at most 255 elements."""
    return _PACKAGE + _sized(bytes([len(elements)]) + b"".join(elements))


def scope(path: str, *terms: bytes) -> bytes:
    """Terms inside a scope that exists."""
    return _SCOPE + _sized(_path(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    return _DEVICE + _sized(_path(path) + b"".join(terms))


def resources(*items: bytes) -> bytes:
    """A resource template: a buffer of items with an end tag, whose checksum of 0 says that there is none."""
    content = b"".join(items) + _END
    return _BUFFER + _sized(integer(len(content)) + content)


def io_ports(base: int, count: int) -> bytes:
    """Fixed ports, decoded with 16 bits."""
    return _IO.pack(0x47, _DECODE_16_BITS, base, base, 1, count)


def irq_line(line: int) -> bytes:
    """An interrupt line 0-15, edge triggered."""
    return _IRQ.pack(0x22, 1 << line)


def dma_channel(channel: int) -> bytes:
    """A DMA channel 0-7, 8-bit transfers, compatible timing, no bus master."""
    return _DMA.pack(0x2A, 1 << channel, 0)


def bus_window(first: int, last: int) -> bytes:
    """Bus numbers that a bridge hands on."""
    return _word_space(_BUSES, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """Ports that a bridge hands on."""
    return _word_space(_PORTS, _ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int) -> bytes:
    """Addresses, 32 bits, that a bridge hands on, not cached."""
    sizes = (_DWORD_SPACE.size - _SPACE_HEAD, _MEMORY, _FIXED_PRODUCER, _READ_WRITE)
    return _DWORD_SPACE.pack(0x87, *sizes, 0, first, last, 0, last - first + 1)


def _word_space(kind: int, kind_flags: int, first: int, last: int) -> bytes:
    sizes = (_WORD_SPACE.size - _SPACE_HEAD, kind, _FIXED_PRODUCER, kind_flags)
    return _WORD_SPACE.pack(0x88, *sizes, 0, first, last, 0, (last - first + 1) & 0xFFFF)


def _path(path: str) -> bytes:
    """One name segment, at the root if it starts with a backslash."""
    prefix, segment = (_ROOT, path[1:]) if path.startswith(_ROOT) else ("", path)
    return prefix.encode() + segment.ljust(_SEGMENT, "_").encode()


def _sized(content: bytes) -> bytes:
    """Content behind its package length, which counts itself."""
    if len(content) + 1 < _SHORT_PACKAGE:
        return bytes([len(content) + 1]) + content
    more = 1
    while len(content) + 1 + more >= 1 << _NIBBLE + 8 * more:
        more += 1
    length = len(content) + 1 + more
    lead = more << 6 | length & (1 << _NIBBLE) - 1
    return bytes([lead]) + (length >> _NIBBLE).to_bytes(more, "little") + content
