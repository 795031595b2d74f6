"""cpio archives in the "newc" format (SVR4, no checksums), which is what Linux unpacks its initial file system from.

The same entries give the same bytes: times are 0, owner and group are root, inode numbers count up. Device nodes are
entries like any other, so nobody has to be root to write them.

Source: cpio(5), "New ASCII Format"; Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import gzip
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = "070701"
_TRAILER: Final = "TRAILER!!!"
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the archive, without a leading slash; `mode` is type and rights, `device` major and minor."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, content: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name, stat.S_IFREG | mode, content)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(name, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of these entries, in this order, padded to whole blocks of 512 bytes."""
    records = [_record(number, entry) for number, entry in enumerate(entries, 1)]
    records.append(_record(0, Entry(_TRAILER, 0)))
    return _padded(b"".join(records), _BLOCK)


def compressed(entries: Iterable[Entry]) -> bytes:
    """The archive through gzip, without a time stamp. Linux unpacks several of them one after another."""
    return gzip.compress(archive(entries), mtime=0)


def _record(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    owner, group, time, checksum = 0, 0, 0, 0
    numbers = (
        inode,
        entry.mode,
        owner,
        group,
        links,
        time,
        len(entry.content),
        0,
        0,
        *entry.device,
        len(name),
        checksum,
    )
    header = _MAGIC + "".join(f"{number:08x}" for number in numbers)
    return _padded(header.encode() + name, 4) + _padded(entry.content, 4)


def _padded(content: bytes, multiple: int) -> bytes:
    return content.ljust(-(-len(content) // multiple) * multiple, b"\0")
