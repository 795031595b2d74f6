"""Intel 82077AA floppy disk controller (the single-chip heir of the 8272A) with up to four drives.

Source: Intel 82077AA data sheet, "Register Set", "Controller Phases", "Command Set/Descriptions", "Status Register
Encoding", "Reset"; IBM PC AT Technical Reference for the change line and the drive select.

A command is collected through the FIFO, runs in steps that take virtual time, and leaves a result to be read. Sectors
move one at a time, by DMA, or without it through a buffer that stands for the FIFO. Not modelled: FM recording,
sectors of other than 512 bytes, deleted data marks and SCAN (a plain image has none of them), motor spin-up, head load
and step rate times, PS/2 status registers A and B (absent in AT mode), tape drives. An empty or stopped drive gives no
index pulses, so the real chip would wait for ever; here the command fails after the time of two turns with a missing
address mark, as it does when the second pulse has come.

One thing is as in emulators and not as in the data sheet: a host that has never programmed the data rate gets the
disk's own instead of 250 kbit/s, and seeks without SEEK. The Bochs BIOS neither programs the rate nor seeks, because
the controllers of Bochs and QEMU do not insist; no driver that reads a disk with a real chip can do without the rate.
"""

from dataclasses import dataclass

from vmm.devices.block import SECTOR, BlockDevice, FloppyFormat, MediumError
from vmm.devices.i8272_core import CONTROL_COMMANDS, FloppyController
from vmm.devices.i8272_registers import (
    ABNORMAL,
    IMPLIED_SEEK,
    MA,
    MFM,
    MT,
    RATE_MASK,
    SECTOR_NS,
    SIZE_512,
    SK,
    TWO_TURNS_NS,
    VERIFY_COUNT,
    Op,
    St0,
    St1,
    St2,
    Step,
)


@dataclass(slots=True)
class I8272(FloppyController):
    """The whole controller: reads, writes, verifies and formats."""

    # -- finding sectors -----------------------------------------------------------------------------------------

    def _readable(self) -> FloppyFormat | None:
        """The format under the head, if the drive turns, holds a disk and the data rate and recording fit it."""
        number, head = self._unit()
        drive = self._drive(number)
        if drive is None or not self._motor_on(number) or not self.arguments[0] & MFM:
            return None
        form = drive.format
        if form is None or (self.rate_chosen and self.dsr & RATE_MASK not in form.rates):
            return None
        return form if head < form.heads and drive.cylinder < form.cylinders else None

    def _begin(self, step: Step) -> None:
        """Start looking at the disk; without something readable there the command ends after two turns."""
        if self._readable() is None:
            self._later(Step.NOT_FOUND, TWO_TURNS_NS)
        else:
            self._later(step, SECTOR_NS)

    def _not_found(self) -> None:
        self._finish(ABNORMAL, MA)

    def _finish(self, status0: int = 0, status1: int = 0, status2: int = 0) -> None:
        """End a command with the seven result bytes ST0-ST2, C, H, R, N and an interrupt."""
        unit = self.arguments[1] & 7
        self._answer(status0 | unit, status1, status2, *self.chrn)
        self.interrupt = True

    def _read_id(self) -> None:
        self._begin(Step.ID_FOUND)

    def _id_found(self) -> None:
        number, head = self._unit()
        drive = self._drive(number)
        form = self._readable()
        if drive is None or form is None:
            self._not_found()
            return
        passing = self.now // SECTOR_NS % form.sectors + 1  # the disk turns
        self.chrn[:] = [drive.cylinder, head, passing, SIZE_512]
        self._finish()

    # -- data commands -------------------------------------------------------------------------------------------

    def _data(self) -> None:
        """READ, WRITE, VERIFY, READ TRACK and their deleted kinds: take C, H, R, N and EOT, seek if configured."""
        self.chrn[:] = self.arguments[2:6]
        self.last_sector = self.arguments[6]
        self.left = self.arguments[8] or 256
        number, _ = self._unit()
        drive = self._drive(number)
        if self._op() == Op.READ_TRACK:
            self.chrn[2] = 1
        if self._op() == Op.WRITE_DELETED:
            self.on_unmodelled("82077AA WRITE DELETED DATA: written as ordinary data")
        if (self.configured[1] & IMPLIED_SEEK or not self.rate_chosen) and drive is not None:
            drive.move_to(self.chrn[0])
            self.pcn[number] = self.chrn[0]
        self._begin(Step.SECTOR)

    def _locate(self) -> tuple[BlockDevice, int] | None:
        """The disk and where in it the sector is that C, H, R and N name; None after ending the command without it."""
        number, head = self._unit()
        drive, form = self._drive(number), self._readable()
        if drive is None or drive.medium is None or form is None:
            self._not_found()
            return None
        cylinder, named_head, sector, size = self.chrn
        offset = form.offset(drive.cylinder, head, sector)
        if cylinder != drive.cylinder:
            self._finish(ABNORMAL, St1.NO_DATA, St2.WRONG_CYLINDER)
        elif named_head != head or size != SIZE_512 or offset is None:
            self._finish(ABNORMAL, St1.NO_DATA)
        else:
            return drive.medium, offset
        return None

    def _sector(self) -> None:
        """Handle the next sector of a data command."""
        place = self._locate()
        if place is None:
            return
        medium, offset = place
        try:
            if self._is_write():
                self._write_sector(medium, offset)
            else:
                self._read_sector(medium.read(offset, SECTOR))
        except MediumError:
            self._finish(ABNORMAL, St1.DATA_ERROR, St2.DATA_ERROR)

    def _read_sector(self, data: bytes) -> None:
        if self._op() == Op.VERIFY:
            self._verified()
        elif self._without_dma():
            self._request(data)
        else:
            count, terminal = self.dma_write(data)
            self._sector_done(count, terminal)

    def _write_sector(self, medium: BlockDevice, offset: int) -> None:
        if medium.read_only:
            self._finish(ABNORMAL, St1.NOT_WRITABLE)
        elif self._without_dma():
            self._request(bytes(SECTOR))
        else:
            data, terminal = self.dma_read(SECTOR)
            if data:  # after terminal count the rest of the sector is filled with zeros
                medium.write(offset, data.ljust(SECTOR, b"\0"))
            self._sector_done(len(data), terminal)

    def _sector_done(self, count: int, terminal: bool) -> None:
        """A sector has gone through DMA: stop at terminal count, overrun if nobody took the bytes, or go on."""
        deleted = self._op() == Op.READ_DELETED
        if terminal:
            self._next_sector()
            self._finish(status2=St2.CONTROL_MARK if deleted else 0)
        elif count < SECTOR:
            self._finish(ABNORMAL, St1.OVERRUN)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The next sector, unless the last was the end of the cylinder or not of the kind asked for."""
        ended = self._next_sector()
        if self._op() == Op.READ_DELETED and not self.arguments[0] & SK:
            self._finish(status2=St2.CONTROL_MARK)
        elif ended:
            if self._op() == Op.READ_TRACK:
                self._finish()
            else:
                self._finish(ABNORMAL, St1.END_OF_CYLINDER)
        else:
            self._later(Step.SECTOR, SECTOR_NS)

    def _verified(self) -> None:
        """VERIFY ends at EOT, or with EC after a count of sectors; both are normal."""
        ended = self._next_sector()
        self.left -= 1
        counted = bool(self.arguments[1] & VERIFY_COUNT)
        if not self.left if counted else ended:
            self._finish()
        elif ended:
            self._finish(ABNORMAL, St1.NO_DATA)
        else:
            self._later(Step.SECTOR, SECTOR_NS)

    def _next_sector(self) -> bool:
        """Count C, H and R on as the result phase shows them; whether EOT was passed ("Result Phase Table")."""
        cylinder, head, sector, size = self.chrn
        if sector != self.last_sector:
            self.chrn[2] = sector + 1 & 0xFF
            return False
        multi_track = bool(self.arguments[0] & MT)
        if multi_track and not head & 1:
            self.chrn[:] = [cylinder, head | 1, 1, size]
            self.arguments[1] |= St0.HEAD
            return False
        self.chrn[:] = [cylinder + 1 & 0xFF, head & ~1 if multi_track else head, 1, size]
        return True

    # -- without DMA ---------------------------------------------------------------------------------------------

    def _request(self, data: bytes) -> None:
        """Let the host move a sector through the FIFO, byte by byte."""
        self.buffer[:] = data
        self.position = 0
        self.transferring = True
        self.interrupt = True

    def _buffer_written(self) -> None:
        place = self._locate()
        if place is None:
            return
        medium, offset = place
        try:
            medium.write(offset, bytes(self.buffer))
        except MediumError:
            self._finish(ABNORMAL, St1.DATA_ERROR, St2.DATA_ERROR)
            return
        self._go_on()

    # -- FORMAT TRACK --------------------------------------------------------------------------------------------

    def _format(self) -> None:
        """FORMAT TRACK: N, sectors per track, gap, filler; C, H, R, N of each sector come from the host."""
        drive = self._drive(self.arguments[1] & 3)
        self.last_sector = self.arguments[3]
        self.chrn[3] = self.arguments[2]
        if drive is not None and drive.medium is not None and drive.medium.read_only:
            self._finish(ABNORMAL, St1.NOT_WRITABLE)
        elif self._readable() is None:
            self._later(Step.NOT_FOUND, TWO_TURNS_NS)
        elif not self.last_sector:
            self._finish()
        elif self._without_dma():
            self._request(bytes(4 * self.last_sector))
        else:
            self._later(Step.FORMATTED, SECTOR_NS * self.last_sector)

    def _formatted(self) -> None:
        headers, terminal = self.dma_read(4 * self.last_sector)
        if len(headers) < 4 * self.last_sector and not terminal:
            self._finish(ABNORMAL, St1.OVERRUN)
        else:
            self._format_sectors(headers)

    def _buffer_formatted(self) -> None:
        self._format_sectors(bytes(self.buffer))

    def _format_sectors(self, headers: bytes) -> None:
        """Fill each named sector; one that the image's format does not have is lost."""
        number, head = self._unit()
        drive, form = self._drive(number), self._readable()
        if drive is None or drive.medium is None or form is None:
            self._not_found()
            return
        for at in range(0, len(headers) - 3, 4):
            cylinder, named_head, sector, size = headers[at : at + 4]
            offset = form.offset(drive.cylinder, head, sector)
            if offset is None or (cylinder, named_head, size) != (drive.cylinder, head, SIZE_512):
                self.on_unmodelled(f"82077AA FORMAT TRACK of sector {cylinder}/{named_head}/{sector} size {size}")
                continue
            try:
                drive.medium.write(offset, bytes((self.arguments[5],)) * SECTOR)
            except MediumError:
                self._finish(ABNORMAL, St1.DATA_ERROR)
                return
        self._finish()


I8272.commands = {
    **CONTROL_COMMANDS,
    Op.READ: (9, I8272._data),
    Op.READ_DELETED: (9, I8272._data),
    Op.WRITE: (9, I8272._data),
    Op.WRITE_DELETED: (9, I8272._data),
    Op.READ_TRACK: (9, I8272._data),
    Op.VERIFY: (9, I8272._data),
    Op.FORMAT: (6, I8272._format),
    Op.READ_ID: (2, I8272._read_id),
}

I8272.steps = {
    Step.RESET_DONE: I8272._reset_done,
    Step.SECTOR: I8272._sector,
    Step.FORMATTED: I8272._formatted,
    Step.ID_FOUND: I8272._id_found,
    Step.NOT_FOUND: I8272._not_found,
}

I8272.buffer_done = {
    Op.READ: I8272._go_on,
    Op.READ_DELETED: I8272._go_on,
    Op.READ_TRACK: I8272._go_on,
    Op.WRITE: I8272._buffer_written,
    Op.WRITE_DELETED: I8272._buffer_written,
    Op.FORMAT: I8272._buffer_formatted,
}
