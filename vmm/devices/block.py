"""What a drive needs from the medium in it, and the geometry of floppy disks.

The host side of a medium (files, overlays, locks) is `vmm.images`; a drive sees only this protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

SECTOR: Final = 512


class MediumError(Exception):
    """The medium could not deliver or take the bytes: the drive reports it to the guest in its own status."""


class BlockDevice(Protocol):
    """A medium of `size` bytes. Accesses outside it, and host errors, raise `MediumError`, never anything else."""

    @property
    def size(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from byte `offset`."""

    def write(self, offset: int, data: bytes) -> None: ...

    def flush(self) -> None:
        """Return when everything written so far would survive the end of this process."""


def check_range(offset: int, count: int, size: int) -> None:
    """Raise MediumError unless `count` bytes at `offset` lie within a medium of `size` bytes."""
    if offset < 0 or count < 0 or offset + count > size:
        raise MediumError(f"bytes {offset}..{offset + count} of a medium of {size}")


@dataclass(slots=True)
class RamDisk:
    """A medium that lives in memory only, as a blank floppy or a test needs it."""

    data: bytearray = field(default_factory=bytearray)
    read_only: bool = False

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        check_range(offset, count, self.size)
        return bytes(self.data[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        check_range(offset, len(data), self.size)
        if self.read_only:
            raise MediumError("write-protected")
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Memory has nothing behind it."""


@dataclass(frozen=True, slots=True)
class FloppyFormat:
    """How a floppy is recorded. `rates` are the CCR codes (82077AA, "Data Rate Select Register") that read it.

    40-track media are recorded at 250 kbit/s and read at 300 kbit/s in a drive that turns at 360 rpm, so both do.
    """

    cylinders: int
    heads: int
    sectors: int
    rates: frozenset[int]

    @property
    def size(self) -> int:
        return self.cylinders * self.heads * self.sectors * SECTOR

    def offset(self, cylinder: int, head: int, sector: int) -> int | None:
        """The byte offset of a sector (numbered from 1), None if the format has no such sector."""
        if not (0 <= cylinder < self.cylinders and 0 <= head < self.heads and 1 <= sector <= self.sectors):
            return None
        return ((cylinder * self.heads + head) * self.sectors + sector - 1) * SECTOR


_RATE_500: Final = frozenset({0})
_RATE_250: Final = frozenset({2})
_RATE_300_250: Final = frozenset({1, 2})
_RATE_1000: Final = frozenset({3})

_FORMATS: Final = (
    FloppyFormat(40, 1, 8, _RATE_300_250),  # 160 KB
    FloppyFormat(40, 1, 9, _RATE_300_250),  # 180 KB
    FloppyFormat(40, 2, 8, _RATE_300_250),  # 320 KB
    FloppyFormat(40, 2, 9, _RATE_300_250),  # 360 KB
    FloppyFormat(80, 2, 9, _RATE_250),  # 720 KB
    FloppyFormat(80, 2, 15, _RATE_500),  # 1.2 MB
    FloppyFormat(80, 2, 18, _RATE_500),  # 1.44 MB
    FloppyFormat(80, 2, 21, _RATE_500),  # 1.68 MB, the distribution media format
    FloppyFormat(80, 2, 36, _RATE_1000),  # 2.88 MB
)
FLOPPY_FORMATS: Final[Mapping[int, FloppyFormat]] = {fmt.size: fmt for fmt in _FORMATS}
