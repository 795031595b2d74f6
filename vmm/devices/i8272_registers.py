"""Registers, status bits and commands of the 82077AA, and the drives at its other end.

Source: Intel 82077AA data sheet, "Register Set", "Status Register Encoding", "Command Set"; IBM PC AT Technical
Reference for the change line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.block import FLOPPY_FORMATS, BlockDevice, FloppyFormat
from vmm.devices.snapshot import load_fields, save_fields, wired

DRIVES: Final = 4
SEEK_NS: Final = 1_000_000
SECTOR_NS: Final = 100_000
TWO_TURNS_NS: Final = 400_000_000  # 300 rpm
RESET_NS: Final = 50_000
MAX_STEPS: Final = 79  # RECALIBRATE gives up after so many
MAX_CYLINDER: Final = 255


class Port(IntEnum):
    """Registers by offset from 3F0h; 3F6h belongs to the ATA channel."""

    DOR = 2
    TDR = 3
    MSR = 4  # DSR when written
    FIFO = 5
    DIR = 7  # CCR when written


class Dor(IntFlag):
    """Digital Output Register; bits 1:0 select a drive, bits 7:4 turn the motors on."""

    NOT_RESET = 1 << 2
    DMA_GATE = 1 << 3  # lets INT and DRQ out


class Msr(IntFlag):
    """Main Status Register; bits 3:0 are the drives that seek."""

    BUSY = 1 << 4
    NON_DMA = 1 << 5
    TO_HOST = 1 << 6  # DIO
    RQM = 1 << 7


class St0(IntFlag):
    """Status Register 0; bits 1:0 are the drive."""

    HEAD = 1 << 2
    EQUIPMENT_CHECK = 1 << 4
    SEEK_END = 1 << 5
    ABNORMAL = 1 << 6
    INVALID = 1 << 7


class St1(IntFlag):
    """Status Register 1."""

    MISSING_ADDRESS_MARK = 1 << 0
    NOT_WRITABLE = 1 << 1
    NO_DATA = 1 << 2
    OVERRUN = 1 << 4
    DATA_ERROR = 1 << 5
    END_OF_CYLINDER = 1 << 7


class St2(IntFlag):
    """Status Register 2."""

    WRONG_CYLINDER = 1 << 4
    DATA_ERROR = 1 << 5
    CONTROL_MARK = 1 << 6


class St3(IntFlag):
    """Status Register 3; bits 1:0 are the drive. Bits 5 and 3 are always one."""

    HEAD = 1 << 2
    TRACK_0 = 1 << 4
    WRITE_PROTECTED = 1 << 6


NOT_RESET: Final = int(Dor.NOT_RESET)
DMA_GATE: Final = int(Dor.DMA_GATE)
MA: Final = int(St1.MISSING_ADDRESS_MARK)
ABNORMAL: Final = int(St0.ABNORMAL)
SEEK_END: Final = int(St0.SEEK_END)
RQM: Final = int(Msr.RQM)
TO_HOST: Final = int(Msr.TO_HOST)
BUSY: Final = int(Msr.BUSY)
NON_DMA: Final = int(Msr.NON_DMA)
READY_CHANGED: Final = 0xC0  # interrupt code 11: what polling reports after a reset
ST3_ONES: Final = 0x28
DSR_RESET: Final = 1 << 7
DSR_AT_RESET: Final = 0x02  # 250 kbit/s
RATE_MASK: Final = 0x03
DIR_CHANGED: Final = 1 << 7  # DIR
CHIP_VERSION: Final = 0x90
SIZE_512: Final = 2
OPCODE_MASK: Final = 0x1F
MT: Final = 1 << 7
MFM: Final = 1 << 6
SK: Final = 1 << 5
IMPLIED_SEEK: Final = 1 << 6  # CONFIGURE
NO_POLLING: Final = 1 << 4
NO_DMA: Final = 1 << 0  # SPECIFY, second byte
VERIFY_COUNT: Final = 1 << 7  # VERIFY, second byte: EC
RELATIVE_SEEK_OUT: Final = 0x8F
RELATIVE_SEEK_IN: Final = 0xCF


class Op(IntEnum):
    """Commands by the low five bits of their first byte."""

    READ_TRACK = 0x02
    SPECIFY = 0x03
    SENSE_DRIVE = 0x04
    WRITE = 0x05
    READ = 0x06
    RECALIBRATE = 0x07
    SENSE_INTERRUPT = 0x08
    WRITE_DELETED = 0x09
    READ_ID = 0x0A
    READ_DELETED = 0x0C
    FORMAT = 0x0D
    DUMPREG = 0x0E
    SEEK = 0x0F
    VERSION = 0x10
    PERPENDICULAR = 0x12
    CONFIGURE = 0x13
    LOCK = 0x14
    VERIFY = 0x16


SCANS: Final = frozenset({0x11, 0x19, 0x1D})

# Which of MT, MFM and SK the first byte of a command may carry ("Command Set").
MODIFIERS: Final[Mapping[int, int]] = {
    Op.READ: MT | MFM | SK,
    Op.READ_DELETED: MT | MFM | SK,
    Op.WRITE: MT | MFM,
    Op.WRITE_DELETED: MT | MFM,
    Op.READ_TRACK: MFM,
    Op.VERIFY: MT | MFM | SK,
    Op.FORMAT: MFM,
    Op.READ_ID: MFM,
    Op.LOCK: MT,
}


class Step(IntEnum):
    """What happens when the time of a step has passed."""

    NONE = 0
    RESET_DONE = 1
    SECTOR = 2  # find, read or write the next sector
    FORMATTED = 3
    ID_FOUND = 4
    NOT_FOUND = 5


@dataclass(slots=True)
class FloppyDrive:
    """A drive: where its head is, and whether the disk was changed since the head last moved."""

    medium: BlockDevice | None = wired(default=None)
    cylinder: int = 0
    changed: bool = True

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    @property
    def format(self) -> FloppyFormat | None:
        """How the disk in the drive is recorded; None if there is none, or of a size that no format has."""
        return FLOPPY_FORMATS.get(self.medium.size) if self.medium is not None else None

    def insert(self, medium: BlockDevice | None) -> None:
        """Change the disk; None takes it out."""
        self.medium = medium
        self.changed = True

    def move_to(self, cylinder: int) -> None:
        """Step pulses clear the change line if there is a disk; no step, no change."""
        if cylinder != self.cylinder and self.medium is not None:
            self.changed = False
        self.cylinder = cylinder
