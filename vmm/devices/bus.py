"""The port bus: who answers at which I/O port.

Regions are mapped and unmapped at run time and may overlap: the highest priority answers, and what it covers answers
again once it is unmapped. Two overlapping regions of equal priority are refused. A port that nobody answers reads as
all ones and swallows writes, as an ISA bus with pull-ups does. A wide access that no single region can take whole, at
a byte-wide chip or across the edge of a region, becomes byte accesses at successive ports, low byte first (ISA bus
cycles). The 64 KiB end at FFFFh: a wide access there finds nobody above, it does not wrap.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

PORTS: Final = 1 << 16


class ByteChip(Protocol):
    """A chip on an 8-bit data bus."""

    def read(self, offset: int) -> int: ...
    def write(self, offset: int, value: int) -> None: ...


class WideChip(Protocol):
    """A chip that takes accesses of 1, 2 or 4 bytes as they come."""

    def read(self, offset: int, width: int) -> int: ...
    def write(self, offset: int, width: int, value: int) -> None: ...


BlockRead = Callable[[int, int, int], bytes]
BlockWrite = Callable[[int, int, bytes], None]


@dataclass(frozen=True, slots=True, eq=False)
class PortRegion:
    """A run of ports and who answers there. `read(offset, width)`, `write(offset, width, value)`.

    `timed` asks the bus to bring virtual time up to date before each access. `byte_wide` asks it to split wide
    accesses, so that `width` is always 1. The block forms serve string I/O, many accesses at one offset; without them
    the bus repeats the single access.
    """

    name: str
    base: int
    count: int
    read: Callable[[int, int], int]
    write: Callable[[int, int, int], None]
    read_block: BlockRead | None = None
    write_block: BlockWrite | None = None
    priority: int = 0
    timed: bool = False
    byte_wide: bool = False

    @property
    def end(self) -> int:
        """The first port above the region."""
        return self.base + self.count

    def __str__(self) -> str:
        return f"{self.name} ({self.base:#x}-{self.end - 1:#x}, priority {self.priority})"


def byte_region(name: str, base: int, count: int, chip: ByteChip, *, timed: bool = False) -> PortRegion:
    """A region for a chip on an 8-bit data bus."""
    read, write = chip.read, chip.write
    return PortRegion(
        name,
        base,
        count,
        lambda offset, _width: read(offset),
        lambda offset, _width, value: write(offset, value),
        timed=timed,
        byte_wide=True,
    )


def _all_ones(_offset: int, width: int) -> int:
    return (1 << 8 * width) - 1


def _swallow(_offset: int, _width: int, _value: int) -> None:
    return


def _all_ones_block(_offset: int, width: int, count: int) -> bytes:
    return b"\xff" * (width * count)


def _swallow_block(_offset: int, _width: int, _data: bytes) -> None:
    return


def _no_clock() -> None:
    return


NOBODY: Final = PortRegion("nobody", 0, PORTS, _all_ones, _swallow, _all_ones_block, _swallow_block, priority=-1)
_WIDTHS: Final = (1, 2, 4)
_BEYOND: Final = max(_WIDTHS) - 1  # ports above FFFFh that an access at FFFFh reaches


Owners = list[PortRegion | None]


def _nobody_anywhere() -> dict[int, Owners]:
    nobody: Owners = [NOBODY]
    return {width: nobody * (PORTS + _BEYOND) for width in _WIDTHS}


@dataclass(slots=True)
class PortBus:
    """The I/O space of one machine.

    `sync()` brings virtual time, and with it every timed chip, up to date; the bus calls it before each access to a
    `timed` region. For each width a flat list says which region takes a whole access at a port; None means split.
    """

    sync: Callable[[], None] = _no_clock
    _regions: list[PortRegion] = field(default_factory=list)
    _whole: dict[int, Owners] = field(default_factory=_nobody_anywhere, repr=False)

    def map(self, region: PortRegion) -> None:
        """Let a region answer from now on.

        Raises: ValueError: outside the I/O space, or over a region of equal priority; the message names both.
        """
        if region.count < 1 or region.base < 0 or region.end > PORTS:
            raise ValueError(f"{region}: ports lie in 0-{PORTS - 1:#x}")
        for other in self._regions:
            if other.priority == region.priority and other.base < region.end and region.base < other.end:
                raise ValueError(f"{region} overlaps {other} at the same priority")
        self._regions.append(region)
        self._resolve(region)

    def unmap(self, region: PortRegion) -> None:
        """Stop a region from answering; what it covered answers again. Raises: ValueError: it is not mapped."""
        if region not in self._regions:
            raise ValueError(f"{region} is not mapped")
        self._regions.remove(region)
        self._resolve(region)

    def read(self, port: int, width: int) -> int:
        """One input access: `port` 0-FFFFh, `width` 1, 2 or 4 bytes; the value has that width."""
        region = self._whole[width][port]
        if region is None:
            return sum(self.read(port + i, 1) << 8 * i for i in range(width))
        if region.timed:
            self.sync()
        return region.read(port - region.base, width)

    def write(self, port: int, width: int, value: int) -> None:
        """One output access; `value` fits `width` bytes."""
        region = self._whole[width][port]
        if region is None:
            for i in range(width):
                self.write(port + i, 1, value >> 8 * i & 0xFF)
            return
        if region.timed:
            self.sync()
        region.write(port - region.base, width, value)

    def read_block(self, port: int, width: int, count: int) -> bytes:
        """`count` input accesses at one port, as REP INS does; `width * count` bytes, little endian."""
        region = self._whole[width][port]
        if region is None or region.read_block is None:
            return b"".join(self.read(port, width).to_bytes(width, "little") for _ in range(count))
        if region.timed:
            self.sync()
        return region.read_block(port - region.base, width, count)

    def write_block(self, port: int, width: int, data: bytes) -> None:
        """Output accesses at one port, as REP OUTS does; the length of `data` is a multiple of `width`."""
        region = self._whole[width][port]
        if region is None or region.write_block is None:
            for at in range(0, len(data), width):
                self.write(port, width, int.from_bytes(data[at : at + width], "little"))
            return
        if region.timed:
            self.sync()
        region.write_block(port - region.base, width, data)

    def region_at(self, port: int) -> PortRegion:
        """Who answers a byte access at a port; `NOBODY` when no one does."""
        return self._whole[1][port] or NOBODY

    def _resolve(self, changed: PortRegion) -> None:
        """Recompute who answers on the ports of a region and just below it, where wide accesses reach into it."""
        near = sorted((r for r in self._regions if r.base < changed.end and changed.base < r.end), key=_priority)
        owner = self._whole[1]
        owner[changed.base : changed.end] = [NOBODY] * changed.count
        for region in near:
            low, high = max(region.base, changed.base), min(region.end, changed.end)
            owner[low:high] = [region] * (high - low)
        for width in _WIDTHS[1:]:
            for port in range(max(0, changed.base - width + 1), changed.end):
                self._whole[width][port] = _whole_owner(owner[port : port + width])


def _priority(region: PortRegion) -> int:
    return region.priority


def _whole_owner(owners: Owners) -> PortRegion | None:
    first = owners[0]
    if first is None or first.byte_wide or any(owner is not first for owner in owners):
        return None
    return first
