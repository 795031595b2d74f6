"""Intel 82371SB (PIIX3), function 1: the IDE interface, 00:01.1, with its two bus masters.

The channels are in compatibility mode: their registers stay at 1F0h and 170h, their interrupts are IRQ 14 and IRQ 15.
What moves the data is here: a bus master walks a table of physical region descriptors (PRDs) in guest memory while the
drive requests data.

Source: Intel 82371FB/82371SB data sheet, "PCI Configuration Registers - IDE interface", "BMICOM", "BMISTA", "BMIDTP";
"Programming Interface for Bus Master IDE Controller" rev. 1.0.
Not modelled: timing (a drive's data moves as soon as both sides are ready); PCI master aborts (a descriptor that points
at no memory moves its bytes to nowhere). The legacy ports are decoded whatever the Command register and the decode
enables in IDETIM say, so that a BIOS which knows no PCI finds its disks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.ata_channel import AtaChannel
from vmm.devices.pci import Bar, Config, PciFunction, PciIdentity, Place, Space, Window
from vmm.devices.snapshot import load_fields, save_fields, wired

IDENTITY: Final = PciIdentity(vendor=0x8086, device=0x7010, class_code=0x010180)
PORTS: Final = 16
IDETIM: Final = 0x40
SIDETIM: Final = 0x44
MAX_BURST: Final = 0x10000
_PRD_SIZE: Final = 8
_LAST: Final = 1 << 31  # end of table, in the second doubleword of a PRD
_COUNT: Final = 0xFFFE
_EVEN: Final = 0xFFFF_FFFE


class Port(IntEnum):
    """Offsets in the eight ports of a bus master."""

    COMMAND = 0  # BMICOM
    STATUS = 2  # BMISTA
    TABLE = 4  # BMIDTP


class Command(IntFlag):
    """BMICOM."""

    SSBM = 1 << 0  # start
    RWCON = 1 << 3  # the bus master writes memory


class Status(IntFlag):
    """BMISTA."""

    ACTIVE = 1 << 0
    ERROR = 1 << 1
    INTERRUPT = 1 << 2
    DRIVE0_DMA = 1 << 5  # software notes here which drives it has set up
    DRIVE1_DMA = 1 << 6


_SSBM: Final = int(Command.SSBM)
_RWCON: Final = int(Command.RWCON)
_COMMAND_BITS: Final = int(Command.SSBM | Command.RWCON)
_ACTIVE: Final = int(Status.ACTIVE)
_INTERRUPT: Final = int(Status.INTERRUPT)
_CLEARED_BY_ONE: Final = int(Status.ERROR | Status.INTERRUPT)
_STATUS_BITS: Final = int(Status.DRIVE0_DMA | Status.DRIVE1_DMA)
_TABLE_BITS: Final = 0xFFFF_FFFC


@dataclass(slots=True)
class BusMaster:
    """The bus master of one channel. `read_memory(gpa, count)`, `write_memory(gpa, data)`; `may_master()` is PCI's.

    `table` is BMIDTP as software sees it, `next_prd` where the next descriptor is fetched; of the present one `left`
    bytes at `base` have yet to move, and `is_last` is its end-of-table bit.
    """

    channel: AtaChannel = wired()
    read_memory: Callable[[int, int], bytes] = wired()
    write_memory: Callable[[int, bytes], None] = wired()
    may_master: Callable[[], bool] = wired()
    command: int = 0
    status: int = 0
    table: int = 0
    next_prd: int = 0
    base: int = 0
    left: int = 0
    is_last: bool = False

    def read(self, offset: int) -> int:
        """A byte of the eight ports; the reserved ones are 0."""
        if offset == Port.COMMAND:
            return self.command
        if offset == Port.STATUS:
            return self.status
        return self.table >> 8 * (offset - Port.TABLE) & 0xFF if offset >= Port.TABLE else 0

    def write(self, offset: int, value: int) -> None:
        """A byte of the eight ports."""
        if offset == Port.COMMAND:
            self._write_command(value & _COMMAND_BITS)
        elif offset == Port.STATUS:
            self.status = self.status & ~(value & _CLEARED_BY_ONE) & ~_STATUS_BITS | value & _STATUS_BITS
        elif offset >= Port.TABLE:
            shift = 8 * (offset - Port.TABLE)
            self.table = (self.table & ~(0xFF << shift) | value << shift) & _TABLE_BITS

    def see_irq(self, level: bool) -> None:
        """The channel's INTRQ has changed: its rising edge is kept in BMISTA."""
        if level:
            self.status |= _INTERRUPT

    def move(self) -> None:
        """Move what the drive offers or wants, as long as both sides go on."""
        channel = self.channel
        while self.status & _ACTIVE and channel.dma_wanted and self.may_master():
            if channel.dma_to_host != bool(self.command & _RWCON):
                return  # programmed the wrong way round: neither side sees a cycle of the other
            if not self.left and not self._fetch():
                return
            self._burst()

    def _burst(self) -> None:
        """Move as much as one descriptor and one buffer of the drive allow."""
        if self.command & _RWCON:
            data = self.channel.dma_take(min(self.left, MAX_BURST))
            self.write_memory(self.base, data)
            moved = len(data)
        else:
            wanted = min(self.left, self.channel.dma_room)
            moved = self.channel.dma_put(self.read_memory(self.base, wanted))
        self.base = self.base + moved & 0xFFFF_FFFF
        self.left -= moved
        if not self.left and self.is_last:
            self.status &= ~_ACTIVE

    def _fetch(self) -> bool:
        """Fetch the next descriptor; False if the table has ended."""
        if self.is_last:
            self.status &= ~_ACTIVE
            return False
        prd = int.from_bytes(self.read_memory(self.next_prd, _PRD_SIZE), "little")
        self.next_prd = self.next_prd + _PRD_SIZE & 0xFFFF_FFFF
        self.base = prd & _EVEN
        self.left = prd >> 32 & _COUNT or 0x10000
        self.is_last = bool(prd >> 32 & _LAST)
        return True

    def _write_command(self, value: int) -> None:
        """SSBM from 0 to 1 starts at the head of the table; from 1 to 0 it stops, and what was left is lost."""
        started, stopped = value & ~self.command & _SSBM, self.command & ~value & _SSBM
        self.command = value
        if started:
            self.status |= _ACTIVE
            self.next_prd, self.left, self.is_last = self.table, 0, False
            self.move()
        elif stopped:
            self.status &= ~_ACTIVE

    def reset(self) -> None:
        """RST#."""
        self.command = self.status = self.table = self.next_prd = self.base = self.left = 0
        self.is_last = False

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)


@dataclass(slots=True, kw_only=True)
class Piix3Ide(PciFunction):
    """`place` maps the 16 ports of BMIBA, which `read_port` and `write_port` answer: 8 for each of `masters`."""

    identity: PciIdentity = wired(default=IDENTITY)
    place: Place = wired()
    masters: list[BusMaster] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bars = (Bar(Config.BAR4, PORTS, Space.IO, Window(self.place)),)
        PciFunction.__post_init__(self)
        self.set(Config.STATUS, 2, 0x0280)  # DEVSEL# medium, fast back-to-back
        for channel in range(2):
            self.allow(IDETIM + 2 * channel, 2, 0xFFFF)
        self.allow(SIDETIM, 1, 0xFF)
        self.power_on()

    def attach(self, master: BusMaster) -> None:
        """Add the bus master of the next channel."""
        self.masters.append(master)

    def read_port(self, offset: int) -> int:
        """A byte of the 16 ports."""
        return self.masters[offset >> 3].read(offset & 7)

    def write_port(self, offset: int, value: int) -> None:
        """A byte of the 16 ports."""
        self.masters[offset >> 3].write(offset & 7, value)

    def reset(self) -> None:
        for master in self.masters:
            master.reset()
        PciFunction.reset(self)
