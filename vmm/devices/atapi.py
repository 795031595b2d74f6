"""An ATAPI CD-ROM drive as a device on an ATA cable: the PACKET command and the data phases around it.

What the packets mean is in `atapi_unit`.
Source: ATA/ATAPI-6 (T13/1410D), "PACKET command protocol", "PACKET", "DEVICE RESET"; SFF-8020i rev. 2.6.
Not modelled: overlap (IDENTIFY PACKET DEVICE says so, PACKET aborts), packets with data from the host.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import ClassVar, Final

from vmm.devices.ata_drive import ABRT, DMA_BLOCK, READY, SET_TRANSFER_MODE, AtaDrive, Step
from vmm.devices.ata_identify import identify_cdrom
from vmm.devices.atapi_unit import CdromUnit, CheckCondition, Key

PACKET_SIZE: Final = 12
SIGNATURE_MID: Final = 0x14
SIGNATURE_HIGH: Final = 0xEB
_MAX_CHUNK: Final = 0xFFFE
_DMA: Final = 1 << 0  # PACKET, Features
_OVERLAP: Final = 1 << 1
DEVICE_RESET: Final = 0x08


class Reason(IntFlag):
    """Interrupt Reason, in the Sector Count register ("Interrupt reason register")."""

    COMMAND = 1 << 0  # C/D: a packet, or at the end the status
    TO_HOST = 1 << 1  # I/O


_PACKET_WANTED: Final = int(Reason.COMMAND)
_DATA_TO_HOST: Final = int(Reason.TO_HOST)
_STATUS: Final = int(Reason.COMMAND | Reason.TO_HOST)


@dataclass(slots=True, kw_only=True)
class AtapiCdrom(AtaDrive):
    """`unit` answers the packets. Of its answer `left` bytes, from byte `sent` on, have yet to go to the host.

    `limit` is the most bytes that the host takes at a time; `by_dma`: the packet's data goes by DMA.
    """

    has_packet: ClassVar[bool] = True

    unit: CdromUnit = field(default_factory=CdromUnit)
    serial: str = "GV00000001"
    sent: int = 0
    left: int = 0
    limit: int = 0
    by_dma: bool = False

    def __post_init__(self) -> None:
        self.show_signature()

    # -- ATA commands --------------------------------------------------------------------------------------------

    def write_command(self, command: int) -> None:
        """DEVICE RESET is obeyed at any time, a busy device included, and ends without an interrupt."""
        if command == DEVICE_RESET:
            self.begin_reset()
            self.later(Step.RESET)
        else:
            AtaDrive.write_command(self, command)

    def execute(self, command: int) -> None:
        COMMANDS.get(command, AtapiCdrom.abort)(self)

    def show_signature(self) -> None:
        """Signature of a PACKET device; DRDY stays clear until its first command ("Device signatures")."""
        self.count, self.lba_low, self.lba_mid, self.lba_high = 1, 1, SIGNATURE_MID, SIGNATURE_HIGH
        self.drop_reply()
        self.status = 0

    def refuse_with_signature(self) -> None:
        """IDENTIFY DEVICE and READ SECTOR(S): abort, and show what kind of device this is."""
        self.show_signature()
        self.abort()

    def finish(self) -> None:
        self.later(Step.COMPLETE)

    def identify(self) -> None:
        self.drop_reply()
        self.buffer[:] = identify_cdrom(self.serial, self.dma_mode)
        self.later(Step.FILL)

    def check_power(self) -> None:
        self.count = 0xFF
        self.later(Step.COMPLETE)

    def set_features(self) -> None:
        """SET FEATURES: there is only the transfer mode to set."""
        if self.features & 0xFF == SET_TRANSFER_MODE and self.set_transfer_mode():
            self.later(Step.COMPLETE)
        else:
            self.abort()

    def packet(self) -> None:
        """PACKET: the byte count limit is in LBA Mid and LBA High, and counts for PIO; overlap is not offered."""
        if self.features & _OVERLAP:
            self.abort()
            return
        self.by_dma = bool(self.features & _DMA)
        self.limit = (self.lba_high & 0xFF) << 8 | self.lba_mid & 0xFF
        self.drop_reply()
        self.later(Step.ACCEPT)

    # -- packet phases -------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Ask for the packet, through the data port, without an interrupt, as IDENTIFY PACKET DEVICE word 0 says."""
        self.count = _PACKET_WANTED
        self.ask(PACKET_SIZE)

    def buffer_done(self) -> None:
        if self.receiving:
            self.later(Step.EXECUTE)
        elif self.left:
            self.later(Step.FILL)
        elif self.command == _PACKET:
            self.drop_buffer()
            self.later(Step.COMPLETE)
        else:  # IDENTIFY PACKET DEVICE ends without an interrupt, as all PIO data-in commands
            self.drop_buffer()
            self.status = READY

    def run_packet(self) -> None:
        packet = bytes(self.buffer)
        self.drop_buffer()
        self.dma = self.by_dma
        try:
            self.left = self.unit.execute(packet)
        except CheckCondition as condition:
            self.check(condition)
            return
        if not self.left:
            self.complete()
        elif not self._chunk():  # data, but the host allows no byte of it
            self.drop_reply()
            self.count = _STATUS
            self.abort()
        else:
            self.fill()

    def fill(self) -> None:
        """Offer the next chunk; its size is shown in LBA Mid and LBA High."""
        if not self.left:  # IDENTIFY PACKET DEVICE waits in the buffer
            self.offer(bytes(self.buffer))
            return
        chunk = self._chunk()
        try:
            data = self.unit.answer_bytes(self.sent, chunk)
        except CheckCondition as condition:
            self.check(condition)
            return
        self.sent += chunk
        self.left -= chunk
        if not self.dma:
            self.lba_mid, self.lba_high = chunk & 0xFF, chunk >> 8
        self.count = _DATA_TO_HOST
        self.offer(data + bytes(chunk & 1))

    def complete(self) -> None:
        self.count = _STATUS if self.command == _PACKET else self.count
        AtaDrive.complete(self)

    def check(self, condition: CheckCondition) -> None:
        """End a packet with CHECK CONDITION; the sense key is in bits 7:4 of the Error register."""
        self.drop_reply()
        self.count = _STATUS
        self.fail(int(condition.key) << 4 | (ABRT if condition.key is Key.ILLEGAL_REQUEST else 0))

    def _chunk(self) -> int:
        """Bytes in the next chunk: the limit, made even unless it is enough ("PACKET", "Byte Count"). DMA has none."""
        if self.dma:
            return min(self.left, DMA_BLOCK)
        limit = min(self.limit, _MAX_CHUNK)
        return self.left if self.left <= limit else limit & ~1

    def drop_reply(self) -> None:
        self.sent = self.left = 0


_PACKET: Final = 0xA0

COMMANDS: Final[Mapping[int, Callable[[AtapiCdrom], None]]] = {
    0x20: AtapiCdrom.refuse_with_signature,  # READ SECTOR(S)
    _PACKET: AtapiCdrom.packet,
    0xA1: AtapiCdrom.identify,
    0xE0: AtapiCdrom.finish,  # STANDBY IMMEDIATE
    0xE1: AtapiCdrom.finish,  # IDLE IMMEDIATE
    0xE5: AtapiCdrom.check_power,
    0xE6: AtapiCdrom.finish,  # SLEEP: the drive wakes at the next command
    0xEC: AtapiCdrom.refuse_with_signature,  # IDENTIFY DEVICE
    0xEF: AtapiCdrom.set_features,
}

AtapiCdrom.steps = {
    Step.COMPLETE: AtapiCdrom.complete,
    Step.FILL: AtapiCdrom.fill,
    Step.ACCEPT: AtapiCdrom.accept,
    Step.EXECUTE: AtapiCdrom.run_packet,
    Step.RESET: AtapiCdrom.reset_done,
    Step.DIAGNOSED: AtapiCdrom.diagnosed,
}
