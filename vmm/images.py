"""The user's image files as media: recognised, locked, and never changed unless asked.

Without `write` a file is opened read-only and what the guest writes is kept in memory, page by page, until the VM goes
away. With `write` every guest write goes straight to the file, and `flush` is an fsync.
"""

import base64
import fcntl
import os
import stat
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from vmm.devices.block import FLOPPY_FORMATS, SECTOR, BlockDevice, MediumError, check_range
from vmm.errors import ConfigError

CD_SECTOR: Final = 2048
MAX_FLOPPY: Final = 80 * 2 * 36 * SECTOR
DEFAULT_FLOPPY: Final = 80 * 2 * 18 * SECTOR
MAX_DISK: Final = 128 << 30  # the reach of a 28-bit LBA (ATA/ATAPI-6, "28-bit addressing")
MAX_CD: Final = 16 << 30

_PAGE: Final = 4096
_ISO_MAGIC: Final = b"CD001"  # ECMA-119, "Standard Identifier"
_ISO_MAGIC_AT: Final = 0x8001
_EL_TORITO: Final = b"\0CD001\x01EL TORITO SPECIFICATION"
_EL_TORITO_AT: Final = 17 * CD_SECTOR
_ELF_MAGIC: Final = b"\x7fELF"
_MULTIBOOT_MAGIC: Final = 0x1BADB002.to_bytes(4, "little")
_MULTIBOOT_SEARCH: Final = 8192
_BOOT_SIGNATURE: Final = b"\x55\xaa"
_PARTITIONS_AT: Final = 446
_PARTITION_SIZE: Final = 16


class Kind(StrEnum):
    """What an image is used as."""

    FLOPPY = "floppy"
    DISK = "disk"
    CDROM = "cdrom"
    KERNEL = "kernel"


_LIMITS: Final = {Kind.FLOPPY: MAX_FLOPPY, Kind.DISK: MAX_DISK, Kind.CDROM: MAX_CD}


def classify(path: Path | str) -> Kind:
    """Tell what an image file is from its size and its first 34 KiB.

    A CD has an ISO 9660 descriptor. A file of a floppy's exact size is a floppy. A kernel is an ELF file, or has a
    Multiboot magic number and no boot signature (boot loaders on disks carry Multiboot headers too). A partition table
    makes a disk. What is left is a floppy if it fits on one, a disk if not.
    Raises: ConfigError if the file cannot be read or is empty.
    """
    descriptor, size = _open(Path(path), write=False)
    try:
        head = _pread(descriptor, 0, min(size, _ISO_MAGIC_AT + len(_ISO_MAGIC)))
    except MediumError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    finally:
        os.close(descriptor)
    if head[_ISO_MAGIC_AT:] == _ISO_MAGIC:
        return Kind.CDROM
    if size in FLOPPY_FORMATS:
        return Kind.FLOPPY
    if _looks_like_kernel(head):
        return Kind.KERNEL
    return Kind.DISK if size > MAX_FLOPPY or _has_partitions(head, size) else Kind.FLOPPY


def has_boot_signature(medium: BlockDevice) -> bool:
    """Whether the first sector ends in 55h AAh, as a BIOS expects of a disk."""
    return medium.size >= SECTOR and medium.read(SECTOR - 2, 2) == _BOOT_SIGNATURE


def is_bootable(image: "Image") -> bool:
    """Whether a BIOS would find something to start on this medium.

    Source: "El Torito Bootable CD-ROM Format Specification" 1.0, "Boot Record Volume Descriptor".
    """
    if image.kind is not Kind.CDROM:
        return has_boot_signature(image)
    record = _EL_TORITO_AT + len(_EL_TORITO)
    return image.size >= record and image.read(_EL_TORITO_AT, len(_EL_TORITO)) == _EL_TORITO


def read_file(path: Path | str, limit: int) -> bytes:
    """The whole of a kernel, module or ROM file of 1 to `limit` bytes. Raises: ConfigError."""
    descriptor, size = _open(Path(path), write=False)
    try:
        if size > limit:
            raise ConfigError(f"{path}: {size} bytes, expected at most {limit}")
        return _pread(descriptor, 0, size)
    except MediumError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    finally:
        os.close(descriptor)


def open_image(path: Path | str, kind: Kind | str, *, write: bool = False) -> "Image":
    """Open an image as a floppy, disk or CD and lock it (shared to read, exclusive to write).

    Args:
        kind: Kind.FLOPPY, DISK or CDROM; a floppy smaller than a known format reads as zeros up to 1.44 or 2.88 MB.
        write: let the guest change the file; a CD stays read-only.
    Raises: ConfigError, one line, for a file that cannot be used so, or that another process holds.
    """
    kind, path = Kind(kind), Path(path)
    if kind not in _LIMITS:
        raise ConfigError(f"{path}: a {kind} is not a medium; give it with --kernel")
    write = write and kind is not Kind.CDROM
    descriptor, file_size = _open(path, write=write)
    try:
        _check_size(path, kind, file_size)
        _lock(path, descriptor, exclusive=write)
    except ConfigError:
        os.close(descriptor)
        raise
    size = _padded_floppy(file_size) if kind is Kind.FLOPPY else file_size
    return Image(path, kind, size, file_size, write, descriptor)


@dataclass(slots=True, eq=False)
class Image:
    """An open image file as a `BlockDevice`; close it or use it as a context manager.

    `size` is what the guest sees, `file_size` what the file holds: a padded floppy reads as zeros in between.
    Every host error becomes a MediumError, so that a file that shrinks under way is a bad sector to the guest.
    """

    path: Path
    kind: Kind
    size: int
    file_size: int
    write_through: bool
    _descriptor: int
    _overlay: dict[int, bytearray] = field(default_factory=dict)  # changed pages by number; bounded by `size`

    @property
    def read_only(self) -> bool:
        return self.kind is Kind.CDROM

    @property
    def changed_bytes(self) -> int:
        """How much memory the guest's kept-aside changes take."""
        return len(self._overlay) * _PAGE

    def read(self, offset: int, count: int) -> bytes:
        check_range(offset, count, self.size)
        first, last = offset // _PAGE, (offset + count - 1) // _PAGE
        if not self._overlay or not any(page in self._overlay for page in range(first, last + 1)):
            return self._read_file(offset, count)
        pages = b"".join(bytes(self._overlay.get(n) or self._read_page(n)) for n in range(first, last + 1))
        return pages[offset - first * _PAGE :][:count]

    def write(self, offset: int, data: bytes) -> None:
        check_range(offset, len(data), self.size)
        if self.read_only:
            raise MediumError("write-protected")
        if self.write_through:
            self._write_file(offset, data)
        else:
            self._write_overlay(offset, data)

    def flush(self) -> None:
        if not self.write_through:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise MediumError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Drop the changes kept aside and the lock; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._overlay.clear()

    def __enter__(self) -> "Image":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def save(self) -> dict[str, Any]:
        """The changes kept aside: page numbers, and their bytes compressed."""
        numbers = sorted(self._overlay)
        packed = zlib.compress(b"".join(self._overlay[n] for n in numbers), 1)
        return {"size": self.size, "pages": numbers, "data": base64.b64encode(packed).decode("ascii")}

    def load(self, state: dict[str, Any]) -> None:
        """Put saved changes back over the same image. Raises: ConfigError if this image cannot carry them."""
        if state["size"] != self.size:
            raise ConfigError(f"{self.path}: {self.size} bytes, but the VM was saved with {state['size']}")
        if state["pages"] and self.write_through:
            raise ConfigError(f"{self.path}: the saved VM has changes kept aside; open the image without write access")
        raw = zlib.decompress(base64.b64decode(state["data"]))
        bounds = pairwise(range(0, len(raw) + 1, _PAGE))
        self._overlay = {n: bytearray(raw[a:b]) for n, (a, b) in zip(state["pages"], bounds, strict=True)}

    def _read_page(self, number: int) -> bytes:
        """A page of the file; the last one may be short."""
        offset = number * _PAGE
        return self._read_file(offset, min(_PAGE, self.size - offset)).ljust(_PAGE, b"\0")

    def _read_file(self, offset: int, count: int) -> bytes:
        stored = max(0, min(count, self.file_size - offset))
        return _pread(self._descriptor, offset, stored).ljust(count, b"\0")

    def _write_overlay(self, offset: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, _PAGE)
            chunk = data[done : done + _PAGE - start]
            page = self._overlay.get(number) or bytearray(self._read_page(number))
            page[start : start + len(chunk)] = chunk
            self._overlay[number] = page
            done += len(chunk)

    def _write_file(self, offset: int, data: bytes) -> None:
        """Write through; a padded floppy's file grows as far as the guest writes."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)
        except OSError as error:
            raise MediumError(f"{self.path}: {error.strerror}") from error
        self.file_size = max(self.file_size, offset + done)


def _open(path: Path, *, write: bool) -> tuple[int, int]:
    """A descriptor and the size in bytes, at least 1. O_NONBLOCK: opening a FIFO must not wait for its other end."""
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, expected an image file") from None
    except (OSError, ValueError) as error:
        purpose = "opened for writing" if write else "read"
        raise ConfigError(f"{path}: cannot be {purpose}: {getattr(error, 'strerror', error)}") from error
    try:
        return descriptor, _size(path, descriptor)
    except ConfigError:
        os.close(descriptor)
        raise


def _size(path: Path, descriptor: int) -> int:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{path}: is a directory, expected an image file")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ConfigError(f"{path}: is neither a file nor a block device, expected an image")
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0:
        raise ConfigError(f"{path}: is empty, expected an image")
    return size


def _check_size(path: Path, kind: Kind, size: int) -> None:
    unit = CD_SECTOR if kind is Kind.CDROM else SECTOR
    if size > _LIMITS[kind]:
        raise ConfigError(f"{path}: {size} bytes is too large for a {kind}, at most {_LIMITS[kind]}")
    if size % unit:
        raise ConfigError(
            f"{path}: {size} bytes is not a whole number of {unit}-byte sectors: truncated, or no {kind}?"
        )


def _lock(path: Path, descriptor: int, *, exclusive: bool) -> None:
    operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        use = "to write to it" if exclusive else "while the other may write to it"
        raise ConfigError(f"{path}: is in use by another VM or process and cannot be opened {use}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be locked: {error.strerror}") from error


def _pread(descriptor: int, offset: int, count: int) -> bytes:
    """Exactly `count` bytes at `offset`; a file that ends before is a MediumError."""
    parts: list[bytes] = []
    left = count
    try:
        while left and (part := os.pread(descriptor, left, offset + count - left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise MediumError(error.strerror or "read error") from error
    if left:
        raise MediumError(f"the file ends {left} bytes early")
    return b"".join(parts)


def _padded_floppy(file_size: int) -> int:
    if file_size in FLOPPY_FORMATS:
        return file_size
    return DEFAULT_FLOPPY if file_size <= DEFAULT_FLOPPY else MAX_FLOPPY


def _looks_like_kernel(head: bytes) -> bool:
    if head.startswith(_ELF_MAGIC):
        return True
    if head[SECTOR - 2 : SECTOR] == _BOOT_SIGNATURE:
        return False
    searched = head[:_MULTIBOOT_SEARCH]
    return any(searched[at : at + 4] == _MULTIBOOT_MAGIC for at in range(0, len(searched), 4))


def _has_partitions(head: bytes, size: int) -> bool:
    """Whether the first sector ends in a partition table that makes sense for `size` bytes.

    Source: the MBR layout of PC BIOS disks: four entries of status, CHS, type, CHS, first LBA, sectors.
    """
    if head[SECTOR - 2 : SECTOR] != _BOOT_SIGNATURE:
        return False
    starts = range(_PARTITIONS_AT, SECTOR - 2, _PARTITION_SIZE)
    entries = [head[at : at + _PARTITION_SIZE] for at in starts]
    used = [entry for entry in entries if entry[4]]
    firsts = [int.from_bytes(entry[8:12], "little") for entry in used]
    return bool(used) and all(entry[0] in (0, 0x80) for entry in entries) and all(0 < f * SECTOR < size for f in firsts)
