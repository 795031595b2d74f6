"""The ELF kernel inside a bzImage.

Source: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header", fields `setup_sects`, `payload_offset`
and `payload_length`.
"""

import lzma
import struct
from typing import Final

from vmm.fetch.debian import PackageError

_SETUP_SECTORS: Final = 0x1F1
_DEFAULT_SETUP_SECTORS: Final = 4
_HEADER_MAGIC: Final = 0x202
_PROTOCOL: Final = 0x206
_PAYLOAD: Final = 0x248
_HAS_PAYLOAD: Final = 0x208  # protocol 2.08 brought the payload fields
_SECTOR: Final = 512
_SIZE_BYTES: Final = 4  # the build appends the unpacked size to the stream


def unpacked(kernel: bytes) -> bytes:
    """The ELF file that a bzImage of boot protocol 2.08 or later carries, xz-compressed. Raises: PackageError."""
    if kernel[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise PackageError("the kernel has no setup header")
    if int.from_bytes(kernel[_PROTOCOL : _PROTOCOL + 2], "little") < _HAS_PAYLOAD:
        raise PackageError("the kernel's boot protocol is older than 2.08")
    sectors = kernel[_SETUP_SECTORS] or _DEFAULT_SETUP_SECTORS
    offset, length = struct.unpack_from("<2I", kernel, _PAYLOAD)
    start = (sectors + 1) * _SECTOR + offset
    payload = kernel[start : start + length]
    if len(payload) != length:
        raise PackageError("the kernel's payload is cut off")
    return _decompressed(payload)


def _decompressed(payload: bytes) -> bytes:
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    try:
        image = decompressor.decompress(payload)
    except lzma.LZMAError as error:
        raise PackageError(f"the kernel's payload is not what xz makes: {error}") from None
    size = int.from_bytes(decompressor.unused_data[-_SIZE_BYTES:], "little")
    if not decompressor.eof or len(image) != size or not image.startswith(b"\x7fELF"):
        raise PackageError("the kernel's payload is not a whole ELF file")
    return image
