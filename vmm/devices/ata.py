"""An ATA hard disk: PIO and DMA transfers in CHS, 28-bit and 48-bit addresses, and the housekeeping commands.

Source: ATA/ATAPI-6 (T13/1410D), "Command descriptions"; ATA-1 for CHS translation and the obsolete power codes.
Not modelled, and so reported in IDENTIFY DEVICE and aborted: queued commands, security, SMART, host protected area,
READ LONG, READ and WRITE BUFFER, media card and removable media commands. The standby timer never expires.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vmm.devices.ata_drive import (
    ABRT,
    DMA_BLOCK,
    HEAD_MASK,
    READY,
    SET_TRANSFER_MODE,
    AtaDrive,
    Device,
    Error,
    Step,
)
from vmm.devices.ata_identify import HEADS, MAX_MULTIPLE, SECTORS_PER_TRACK, DiskIdentity, identify_disk
from vmm.devices.block import SECTOR, BlockDevice, MediumError
from vmm.devices.snapshot import wired

_LBA: Final = int(Device.LBA)
_IDNF: Final = int(Error.IDNF)
_UNC: Final = int(Error.UNC)
_DMA_SECTORS: Final = DMA_BLOCK // SECTOR


class Power(IntEnum):
    """Power management states ("Power Management feature set")."""

    ACTIVE = 0
    STANDBY = 1
    SLEEP = 2  # only a reset wakes it


@dataclass(slots=True, kw_only=True)
class AtaDisk(AtaDrive):
    """A fixed disk. `heads` and `sectors_per_track` are the current CHS translation.

    A transfer has `left` sectors to go from LBA `sector`, at most `per_block` of them at a time through the buffer.
    """

    disk: BlockDevice = wired()
    serial: str = "GV00000000"
    heads: int = HEADS
    sectors_per_track: int = SECTORS_PER_TRACK
    multiple: int = 0
    write_cache: bool = True
    look_ahead: bool = True
    power: Power = Power.ACTIVE
    sector: int = 0
    left: int = 0
    per_block: int = 1
    extended: bool = False

    @property
    def total(self) -> int:
        """Addressable sectors."""
        return self.disk.size // SECTOR

    def execute(self, command: int) -> None:
        if self.power is Power.SLEEP:
            return  # BSY stays set until the reset that wakes it
        if command not in (CHECK_POWER_MODE, _OLD_CHECK_POWER_MODE):
            self.power = Power.ACTIVE
        COMMANDS.get(command, AtaDisk.refuse)(self)

    def show_signature(self) -> None:
        """Signature of a device without PACKET ("Device signatures"). Settings survive a software reset."""
        self.count, self.lba_low, self.lba_mid, self.lba_high = 1, 1, 0, 0
        self.power = Power.ACTIVE
        self.left = 0
        self.status = READY

    # -- addresses -----------------------------------------------------------------------------------------------

    def address(self, *, extended: bool) -> int | None:
        """The LBA in the task file; None if CHS names a sector that the translation does not have."""
        low, mid, high = self.lba_low & 0xFF, self.lba_mid & 0xFF, self.lba_high & 0xFF
        if extended:
            previous = (self.lba_low >> 8) << 24 | (self.lba_mid >> 8) << 32 | (self.lba_high >> 8) << 40
            return previous | high << 16 | mid << 8 | low
        head = self.device & HEAD_MASK
        if self.device & _LBA:
            return head << 24 | high << 16 | mid << 8 | low
        if not 1 <= low <= self.sectors_per_track or head >= self.heads:
            return None
        return ((high << 8 | mid) * self.heads + head) * self.sectors_per_track + low - 1

    def show_address(self, lba: int) -> None:
        """Put an LBA into the task file, in the form in which the command gave its own."""
        if self.extended:
            self.lba_low = (lba >> 24 & 0xFF) << 8 | lba & 0xFF
            self.lba_mid = (lba >> 32 & 0xFF) << 8 | lba >> 8 & 0xFF
            self.lba_high = (lba >> 40 & 0xFF) << 8 | lba >> 16 & 0xFF
            return
        if self.device & _LBA:
            head, low = lba >> 24 & HEAD_MASK, lba & 0xFF
            cylinder = lba >> 8 & 0xFFFF
        else:
            track, low = lba // self.sectors_per_track, lba % self.sectors_per_track + 1
            cylinder, head = divmod(track, self.heads)
        self.device = self.device & ~HEAD_MASK | head
        self.lba_low, self.lba_mid, self.lba_high = low, cylinder & 0xFF, cylinder >> 8 & 0xFF

    def sectors_asked(self, *, extended: bool) -> int:
        """The Sector Count, where 0 means the most: 256, or 65536 for 48-bit commands."""
        return (self.count or 1 << 16) if extended else (self.count & 0xFF or 1 << 8)

    # -- transfers -----------------------------------------------------------------------------------------------

    def plan(self, *, extended: bool, per_block: int) -> bool:
        """Take a transfer from the task file; False if it has ended with IDNF already."""
        self.extended = extended
        self.left = self.sectors_asked(extended=extended)
        self.per_block = per_block
        start = self.address(extended=extended)
        if start is None or start >= self.total:
            self.fail(_IDNF)
            return False
        self.sector = start
        return True

    def block(self) -> int:
        """Sectors in the next block."""
        return min(self.per_block, self.left)

    def fail_at(self, lba: int, error: int) -> None:
        """End a transfer at its first bad sector: the task file shows where, and how many sectors are left."""
        self.show_address(lba)
        self.count = self.left & (0xFFFF if self.extended else 0xFF)
        self.left = 0
        self.fail(error)

    def block_in_range(self) -> bool:
        if self.sector + self.block() <= self.total:
            return True
        self.fail_at(max(self.sector, self.total), _IDNF)
        return False

    def fill(self) -> None:
        """Read the next block of the medium for the host."""
        if not self.left:  # an answer, not sectors: it waits in the buffer
            self.offer(bytes(self.buffer))
            return
        if not self.block_in_range():
            return
        try:
            self.offer(self.disk.read(self.sector * SECTOR, self.block() * SECTOR))
        except MediumError:
            self.fail_at(self.sector, _UNC)

    def store(self) -> None:
        """Write the block that the host has sent; ask for the next with an interrupt."""
        try:
            self.disk.write(self.sector * SECTOR, bytes(self.buffer))
        except MediumError:
            self.fail_at(self.sector, ABRT if self.disk.read_only else _UNC)
            return
        if self.block_moved():
            if self.ask_block():
                self.interrupt = not self.dma
        else:
            self.complete()

    def ask_block(self) -> bool:
        """Ask the host for the next block, if the medium has room for it."""
        if not self.block_in_range():
            return False
        self.ask(self.block() * SECTOR)
        return True

    def accept(self) -> None:
        self.ask_block()

    def buffer_done(self) -> None:
        if self.receiving:
            self.later(Step.STORE)
        elif self.left and self.block_moved():
            self.later(Step.FILL)
        elif self.dma:
            self.drop_buffer()
            self.complete()
        else:  # a PIO data-in command ends without an interrupt
            self.drop_buffer()
            self.status = READY

    def block_moved(self) -> bool:
        """Count a block; whether more are to come. At the end the task file shows the last sector and a count of 0."""
        moved = self.block()
        self.sector += moved
        self.left -= moved
        if not self.left:
            self.show_address(self.sector - 1)
            self.count = 0
        return self.left > 0

    # -- commands ------------------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """A command that IDENTIFY DEVICE does not offer."""
        self.abort()

    def read_sectors(self, *, extended: bool = False) -> None:
        if self.plan(extended=extended, per_block=1):
            self.later(Step.FILL)

    def write_sectors(self, *, extended: bool = False) -> None:
        if self.plan(extended=extended, per_block=1):
            self.later(Step.ACCEPT)

    def read_multiple(self, *, extended: bool = False) -> None:
        if not self.multiple:
            self.abort()
        elif self.plan(extended=extended, per_block=self.multiple):
            self.later(Step.FILL)

    def write_multiple(self, *, extended: bool = False) -> None:
        if not self.multiple:
            self.abort()
        elif self.plan(extended=extended, per_block=self.multiple):
            self.later(Step.ACCEPT)

    def read_dma(self, *, extended: bool = False) -> None:
        self.dma = True
        if self.plan(extended=extended, per_block=_DMA_SECTORS):
            self.later(Step.FILL)

    def write_dma(self, *, extended: bool = False) -> None:
        self.dma = True
        if self.plan(extended=extended, per_block=_DMA_SECTORS):
            self.later(Step.ACCEPT)

    def read_verify(self, *, extended: bool = False) -> None:
        """READ VERIFY SECTOR(S): read without a transfer."""
        if not self.plan(extended=extended, per_block=MAX_MULTIPLE):
            return
        while self.left:
            if not self.block_in_range():
                return
            try:
                self.disk.read(self.sector * SECTOR, self.block() * SECTOR)
            except MediumError:
                self.fail_at(self.sector, _UNC)
                return
            self.block_moved()
        self.later(Step.COMPLETE)

    def seek(self) -> None:
        lba = self.address(extended=False)
        if lba is None or lba >= self.total:
            self.fail(_IDNF)
        else:
            self.later(Step.COMPLETE)

    def finish(self) -> None:
        """A command with nothing to do but to say so."""
        self.later(Step.COMPLETE)

    def flush_cache(self) -> None:
        try:
            self.disk.flush()
        except MediumError:
            self.abort()
            return
        self.later(Step.COMPLETE)

    def identify(self) -> None:
        identity = DiskIdentity(
            serial=self.serial,
            total=self.total,
            heads=self.heads,
            sectors_per_track=self.sectors_per_track,
            multiple=self.multiple,
            write_cache=self.write_cache,
            look_ahead=self.look_ahead,
            dma_mode=self.dma_mode,
        )
        self.left = 0
        self.buffer[:] = identify_disk(identity)
        self.later(Step.FILL)

    def initialize_parameters(self) -> None:
        """INITIALIZE DEVICE PARAMETERS: choose the CHS translation."""
        heads, sectors = (self.device & HEAD_MASK) + 1, self.count & 0xFF
        if not sectors:
            self.abort()
            return
        self.heads, self.sectors_per_track = heads, sectors
        self.later(Step.COMPLETE)

    def set_multiple(self) -> None:
        """SET MULTIPLE MODE: a power of two up to the most, or 0 for none."""
        count = self.count & 0xFF
        if count > MAX_MULTIPLE or count & (count - 1):
            self.multiple = 0
            self.abort()
            return
        self.multiple = count
        self.later(Step.COMPLETE)

    def set_features(self) -> None:
        feature = self.features & 0xFF
        if feature == SET_TRANSFER_MODE:
            accepted = self.set_transfer_mode()
        else:
            accepted = feature in _FEATURES
        if not accepted:
            self.abort()
            return
        name, value = _FEATURES.get(feature, ("", False))
        if name:
            setattr(self, name, value)
        self.later(Step.COMPLETE)

    def idle(self) -> None:
        self.power = Power.ACTIVE
        self.later(Step.COMPLETE)

    def standby(self) -> None:
        """STANDBY (IMMEDIATE) writes out what is cached before the heads go down."""
        self.flush_cache()
        self.power = Power.STANDBY

    def sleep(self) -> None:
        self.flush_cache()
        self.power = Power.SLEEP

    def check_power(self) -> None:
        """CHECK POWER MODE: Sector Count tells 00h standby, FFh active or idle."""
        self.count = 0x00 if self.power is Power.STANDBY else 0xFF
        self.later(Step.COMPLETE)


AtaDisk.steps = {
    Step.COMPLETE: AtaDisk.complete,
    Step.FILL: AtaDisk.fill,
    Step.STORE: AtaDisk.store,
    Step.ACCEPT: AtaDisk.accept,
    Step.RESET: AtaDisk.reset_done,
    Step.DIAGNOSED: AtaDisk.diagnosed,
}

# "SET FEATURES": code to the setting it changes; 66h and CCh choose what a software reset restores, which is nothing.
_FEATURES: Final[Mapping[int, tuple[str, bool]]] = {
    0x02: ("write_cache", True),
    0x82: ("write_cache", False),
    0xAA: ("look_ahead", True),
    0x55: ("look_ahead", False),
    0x66: ("", False),
    0xCC: ("", False),
}

CHECK_POWER_MODE: Final = 0xE5
_OLD_CHECK_POWER_MODE: Final = 0x98

COMMANDS: Final[Mapping[int, Callable[[AtaDisk], None]]] = {
    **{code: AtaDisk.finish for code in range(0x10, 0x20)},  # RECALIBRATE, the low digit was a step rate
    0x20: AtaDisk.read_sectors,
    0x21: AtaDisk.read_sectors,  # without retries
    0x24: lambda disk: disk.read_sectors(extended=True),
    0x25: lambda disk: disk.read_dma(extended=True),
    0x29: lambda disk: disk.read_multiple(extended=True),
    0x30: AtaDisk.write_sectors,
    0x31: AtaDisk.write_sectors,  # without retries
    0x34: lambda disk: disk.write_sectors(extended=True),
    0x35: lambda disk: disk.write_dma(extended=True),
    0x39: lambda disk: disk.write_multiple(extended=True),
    0x40: AtaDisk.read_verify,
    0x41: AtaDisk.read_verify,  # without retries
    0x42: lambda disk: disk.read_verify(extended=True),
    **{code: AtaDisk.seek for code in range(0x70, 0x80)},
    0x91: AtaDisk.initialize_parameters,
    0x94: AtaDisk.standby,  # 94h-99h: the codes of ATA-1
    0x95: AtaDisk.idle,
    0x96: AtaDisk.standby,
    0x97: AtaDisk.idle,
    _OLD_CHECK_POWER_MODE: AtaDisk.check_power,
    0x99: AtaDisk.sleep,
    0xC4: AtaDisk.read_multiple,
    0xC5: AtaDisk.write_multiple,
    0xC6: AtaDisk.set_multiple,
    0xC8: AtaDisk.read_dma,
    0xC9: AtaDisk.read_dma,  # without retries
    0xCA: AtaDisk.write_dma,
    0xCB: AtaDisk.write_dma,  # without retries
    0xE0: AtaDisk.standby,  # immediate
    0xE1: AtaDisk.idle,  # immediate
    0xE2: AtaDisk.standby,
    0xE3: AtaDisk.idle,
    CHECK_POWER_MODE: AtaDisk.check_power,
    0xE6: AtaDisk.sleep,
    0xE7: AtaDisk.flush_cache,
    0xEA: AtaDisk.flush_cache,  # FLUSH CACHE EXT
    0xEC: AtaDisk.identify,
    0xEF: AtaDisk.set_features,
}
