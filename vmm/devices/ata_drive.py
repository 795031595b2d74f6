"""What every ATA device has: the task file, the status, the data buffer, and the order in which they change.

Source: ATA/ATAPI-6 (T13/1410D), "Interface register definitions and descriptions", "PIO data-in command protocol",
"PIO data-out command protocol", "Non-data command protocol", "DMA command protocol".

A command sets BSY and a step to run `latency_ns` later; the step ends with a result (BSY clear) or with a buffer that
the host empties or fills through the data port (DRQ), after which the device decides the next step. Bytes go through
`take` and `put` only: in a DMA command a bus master moves them, and the one interrupt comes at the end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, ClassVar, Final

from vmm.devices.snapshot import load_fields, save_fields, wired


class Status(IntFlag):
    """Status register ("Status register"; DSC as in ATA-3)."""

    ERR = 1 << 0  # CHK to a PACKET device
    DRQ = 1 << 3
    DSC = 1 << 4
    DF = 1 << 5
    DRDY = 1 << 6
    BSY = 1 << 7


class Error(IntFlag):
    """Error register ("Error register")."""

    TK0NF = 1 << 1
    ABRT = 1 << 2
    IDNF = 1 << 4
    UNC = 1 << 6


class Register(IntEnum):
    """Command block registers, in address order ("I/O register descriptions")."""

    DATA = 0
    ERROR = 1  # FEATURES when written
    COUNT = 2
    LBA_LOW = 3
    LBA_MID = 4
    LBA_HIGH = 5
    DEVICE = 6
    STATUS = 7  # COMMAND when written


class Device(IntFlag):
    """Device register ("Device register"); bits 7 and 5 are obsolete and read as written."""

    DEV = 1 << 4
    LBA = 1 << 6


class Step(IntEnum):
    """What a busy device does when its time comes."""

    NONE = 0
    COMPLETE = 1  # end the command, with an interrupt
    FILL = 2  # get the next block for the host
    STORE = 3  # put away the block that the host has sent
    RESET = 4  # end of a reset: show the signature
    DIAGNOSED = 5  # the same with an interrupt
    ACCEPT = 6  # ask for a command packet, or for the first block of a write: DRQ without an interrupt
    EXECUTE = 7  # run a command packet


BSY: Final = int(Status.BSY)
DRQ: Final = int(Status.DRQ)
READY: Final = int(Status.DRDY | Status.DSC)
FAILED: Final = int(Status.DRDY | Status.DSC | Status.ERR)
ABRT: Final = int(Error.ABRT)
DIAGNOSTIC_PASSED: Final = 0x01
DEV_MASK: Final = 0x10
HEAD_MASK: Final = 0x0F
IDENTIFY_SIZE: Final = 512
SET_TRANSFER_MODE: Final = 0x03  # SET FEATURES, "Set transfer mode"
PIO_MODES: Final = frozenset({0x00, 0x01, 0x08, 0x09, 0x0A, 0x0B, 0x0C})  # default, no IORDY, flow control 0-4
MULTIWORD_DMA: Final = 0x20  # transfer modes: multiword DMA 0-2
ULTRA_DMA: Final = 0x40  # Ultra DMA 0-2
DMA_MODES: Final = frozenset({0x20, 0x21, 0x22, 0x40, 0x41, 0x42})
DMA_BLOCK: Final = 0x10000
"""The most bytes that go through the buffer at a time in a DMA command."""
DEFAULT_LATENCY_NS: Final = 20_000


@dataclass(slots=True, kw_only=True)
class AtaDrive:
    """One device on an ATA cable.

    `count`, `lba_low`, `lba_mid` and `lba_high` are two deep, the byte before the last in bits 15:8, as 48-bit
    commands need them. `interrupt` is the device's pending interrupt, before nIEN and the drive select.
    """

    latency_ns: int = wired(default=DEFAULT_LATENCY_NS)

    now: int = 0
    due: int | None = None
    step: Step = Step.NONE
    status: int = READY
    error: int = DIAGNOSTIC_PASSED
    features: int = 0
    count: int = 1
    lba_low: int = 1
    lba_mid: int = 0
    lba_high: int = 0
    device: int = 0
    command: int = 0
    interrupt: bool = False
    buffer: bytearray = field(default_factory=bytearray)
    position: int = 0
    receiving: bool = False  # the host fills the buffer
    dma: bool = False  # the command moves its data by DMA
    dma_mode: int = MULTIWORD_DMA | 2  # the DMA transfer mode set last

    has_packet: ClassVar[bool] = False  # implements the PACKET Command feature set
    steps: ClassVar[Mapping[Step, Callable[[Any], None]]]

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    # -- what a kind of device adds ------------------------------------------------------------------------------

    def execute(self, command: int) -> None:
        """Start a command; the status is BSY, the error register clear."""
        raise NotImplementedError

    def buffer_done(self) -> None:
        """The host has emptied or filled the buffer: go on."""
        raise NotImplementedError

    def show_signature(self) -> None:
        """Leave the signature in the task file and the status of a device that was reset."""
        raise NotImplementedError

    # -- time ----------------------------------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Bring virtual time, in nanoseconds, up to `now`."""
        self.now = now
        while self.due is not None and self.due <= now:
            self._run_step()

    def later(self, step: Step) -> None:
        """Be busy, then run `step`; without a latency at once."""
        self.status = BSY
        self.step = step
        self.due = self.now + self.latency_ns
        if not self.latency_ns:
            self._run_step()

    def _run_step(self) -> None:
        step, self.step, self.due = self.step, Step.NONE, None
        self.steps[step](self)

    # -- the host's side -----------------------------------------------------------------------------------------

    def read_register(self, register: int, *, previous: bool) -> int:
        """A command block register, 8 bits; `previous` is HOB. Reading Status here does not end the interrupt."""
        values = (0, self.error, self.count, self.lba_low, self.lba_mid, self.lba_high, self.device, self.status)
        deep = previous and Register.COUNT <= register <= Register.LBA_HIGH
        return (values[register] >> (8 if deep else 0)) & 0xFF

    def write_register(self, register: int, value: int) -> None:
        """A command block register but Data and Command. A busy device ignores all but Device, which selects."""
        if register == Register.DEVICE:
            self.device = value
        elif self.status & BSY:
            return
        elif register == Register.ERROR:
            self.features = (self.features << 8 | value) & 0xFFFF
        elif register == Register.COUNT:
            self.count = (self.count << 8 | value) & 0xFFFF
        elif register == Register.LBA_LOW:
            self.lba_low = (self.lba_low << 8 | value) & 0xFFFF
        elif register == Register.LBA_MID:
            self.lba_mid = (self.lba_mid << 8 | value) & 0xFFFF
        elif register == Register.LBA_HIGH:
            self.lba_high = (self.lba_high << 8 | value) & 0xFFFF

    def write_command(self, command: int) -> None:
        """The Command register. A new command in a data phase ends that phase; a busy device ignores it."""
        self.interrupt = False
        if self.status & BSY:
            return
        self.command = command
        self.error = 0
        self.dma = False
        self.drop_buffer()
        self.status = BSY
        self.execute(command)

    def take(self, count: int) -> bytes:
        """Up to `count` bytes of what the device sends; none without DRQ."""
        if not self.status & DRQ or self.receiving:
            return b""
        end = min(self.position + count, len(self.buffer))
        chunk = bytes(self.buffer[self.position : end])
        self._move_to(end)
        return chunk

    def put(self, data: bytes) -> int:
        """Give the device data; the number of bytes it took, none without DRQ."""
        if not self.status & DRQ or not self.receiving:
            return 0
        end = min(self.position + len(data), len(self.buffer))
        taken = end - self.position
        self.buffer[self.position : end] = data[:taken]
        self._move_to(end)
        return taken

    @property
    def dma_wanted(self) -> bool:
        """DMARQ: data waits to be moved by a bus master."""
        return self.dma and bool(self.status & DRQ)

    def set_transfer_mode(self) -> bool:
        """SET FEATURES, "Set transfer mode", with the mode in Sector Count; False if there is no such mode."""
        mode = self.count & 0xFF
        if mode in DMA_MODES:
            self.dma_mode = mode
        return mode in DMA_MODES or mode in PIO_MODES

    def _move_to(self, position: int) -> None:
        self.position = position
        if position == len(self.buffer):
            self.buffer_done()

    def begin_reset(self) -> None:
        """A reset has begun: BSY until it ends."""
        self.device = 0
        self.dma = False
        self.drop_buffer()
        self.interrupt = False
        self.due = None
        self.step = Step.NONE
        self.status = BSY

    # -- results -------------------------------------------------------------------------------------------------

    def drop_buffer(self) -> None:
        self.buffer.clear()
        self.position = 0

    def offer(self, data: bytes) -> None:
        """Let the host read `data`, an even number of bytes."""
        self.buffer[:] = data
        self.position = 0
        self.receiving = False
        self.status = READY | DRQ
        self.interrupt = not self.dma

    def ask(self, count: int) -> None:
        """Let the host write `count` bytes."""
        self.buffer[:] = bytes(count)
        self.position = 0
        self.receiving = True
        self.status = READY | DRQ

    def complete(self) -> None:
        """End a command without an error, with an interrupt."""
        self.status = READY
        self.interrupt = True

    def fail(self, error: int) -> None:
        """End a command with bits of the Error register, with an interrupt."""
        self.drop_buffer()
        self.error = error
        self.status = FAILED
        self.interrupt = True

    def abort(self) -> None:
        """End a command that the device does not support."""
        self.fail(ABRT)

    def reset_done(self) -> None:
        self.error = DIAGNOSTIC_PASSED
        self.show_signature()

    def diagnosed(self) -> None:
        self.reset_done()
        self.interrupt = True
