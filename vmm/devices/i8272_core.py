"""The 82077AA apart from its data transfers: registers, phases, resets, seeks and the control commands.

Source: Intel 82077AA data sheet, "Register Set", "Controller Phases", "Command Set/Descriptions", "Reset".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from vmm.devices.i8272_registers import (
    ABNORMAL,
    BUSY,
    CHIP_VERSION,
    DIR_CHANGED,
    DMA_GATE,
    DRIVES,
    DSR_AT_RESET,
    DSR_RESET,
    MAX_CYLINDER,
    MAX_STEPS,
    MODIFIERS,
    MT,
    NO_DMA,
    NO_POLLING,
    NON_DMA,
    NOT_RESET,
    OPCODE_MASK,
    RATE_MASK,
    READY_CHANGED,
    RELATIVE_SEEK_IN,
    RELATIVE_SEEK_OUT,
    RESET_NS,
    RQM,
    SCANS,
    SEEK_END,
    SEEK_NS,
    ST3_ONES,
    TO_HOST,
    FloppyDrive,
    Op,
    Port,
    St0,
    St3,
    Step,
)
from vmm.devices.snapshot import load_fields, save_fields, wired


@dataclass(slots=True)
class FloppyController:
    """One controller. `drives` are the connected ones, at most four, from drive 0 on.

    `dma_write(data)` offers bytes to memory through DMA channel 2 and `dma_read(count)` asks for some; both tell how
    far they came and whether terminal count was reached.
    `due[n]` is when the seek of drive n ends, `due[4]` when the current step does.
    """

    drives: list[FloppyDrive] = field(repr=False)
    on_irq: Callable[[bool], None] = wired()
    dma_write: Callable[[bytes], tuple[int, bool]] = wired()
    dma_read: Callable[[int], tuple[bytes, bool]] = wired()
    on_unmodelled: Callable[[str], None] = wired()

    now: int = 0
    due: list[int | None] = field(default_factory=lambda: [None] * (DRIVES + 1))
    step: Step = Step.NONE
    dor: int = 0
    dsr: int = DSR_AT_RESET
    rate_chosen: bool = False  # until then any disk's rate fits and seeks are implied: a BIOS for emulators
    tdr: int = 0
    interrupt: bool = False
    irq: bool = False

    arguments: bytearray = field(default_factory=bytearray)  # the command as far as it has come
    result: bytearray = field(default_factory=bytearray)
    buffer: bytearray = field(default_factory=bytearray)  # a sector on its way without DMA
    position: int = 0
    transferring: bool = False  # the host has to empty or fill the buffer
    sensed: list[int] = field(default_factory=lambda: [-1] * DRIVES)  # ST0 for SENSE INTERRUPT, -1 if none
    targets: list[int] = field(default_factory=lambda: [0] * DRIVES)
    pcn: list[int] = field(default_factory=lambda: [0] * DRIVES)

    specified: list[int] = field(default_factory=lambda: [0, 0])
    configured: list[int] = field(default_factory=lambda: [0, 0, 0])
    perpendicular: int = 0
    locked: bool = False
    chrn: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    last_sector: int = 0  # EOT, or the sectors of a track to format
    left: int = 0  # VERIFY with a count

    commands: ClassVar[Mapping[int, tuple[int, Callable[[Any], None]]]]  # bytes of the command, and what to do then
    steps: ClassVar[Mapping[Step, Callable[[Any], None]]]
    buffer_done: ClassVar[Mapping[int, Callable[[Any], None]]]  # by command, when the host has moved a sector

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    # -- time ----------------------------------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Bring virtual time, in nanoseconds, up to `now`."""
        self.now = now
        for n, due in enumerate(self.due):
            if due is not None and due <= now:
                self.due[n] = None
                if n < DRIVES:
                    self._end_seek(n)
                else:
                    step, self.step = self.step, Step.NONE
                    self.steps[step](self)
        self._drive_irq()

    def next_deadline(self) -> int | None:
        return min((due for due in self.due if due is not None), default=None)

    def _later(self, step: Step, delay: int) -> None:
        self.step = step
        self.due[DRIVES] = self.now + delay

    def _drive(self, number: int) -> FloppyDrive | None:
        return self.drives[number] if number < len(self.drives) else None

    # -- registers -----------------------------------------------------------------------------------------------

    def read(self, offset: int) -> int:
        if offset == Port.FIFO:
            value = self._read_fifo()
            self._drive_irq()
            return value
        if offset == Port.DOR:
            return self.dor
        if offset == Port.TDR:
            return self.tdr
        if offset == Port.MSR:
            return self.main_status()
        if offset == Port.DIR:
            return DIR_CHANGED if self._change_line() else 0
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        if offset == Port.DOR:
            self._write_dor(value)
        elif offset == Port.TDR:
            self.tdr = value & 3
        elif offset == Port.MSR:
            self._write_dsr(value)
        elif offset == Port.FIFO:
            self._write_fifo(value)
        elif offset == Port.DIR:
            self.dsr = self.dsr & ~RATE_MASK | value & RATE_MASK
            self.rate_chosen = True
        self._drive_irq()

    def main_status(self) -> int:
        """MSR, derived from the phase."""
        if not self.dor & NOT_RESET or self.step is Step.RESET_DONE:
            return 0
        seeking = sum(1 << n for n in range(DRIVES) if self.due[n] is not None)
        if self.result:
            return seeking | RQM | TO_HOST | BUSY
        if self.transferring:
            return seeking | RQM | BUSY | NON_DMA | (0 if self._is_write() else TO_HOST)
        if self.step is not Step.NONE:
            return seeking | BUSY | (NON_DMA if self._without_dma() else 0)
        return seeking | RQM | (BUSY if self.arguments else 0)

    def _change_line(self) -> bool:
        """DSKCHG of the drive that DOR selects; a drive drives it only while its motor is on."""
        number = self.dor & 3
        drive = self._drive(number)
        return drive is not None and self._motor_on(number) and drive.changed

    def _motor_on(self, number: int) -> bool:
        return bool(self.dor >> 4 + number & 1)

    def _write_dor(self, value: int) -> None:
        was, self.dor = self.dor, value
        if was & NOT_RESET and not value & NOT_RESET:
            self._reset()
        elif value & NOT_RESET and not was & NOT_RESET:
            self._later(Step.RESET_DONE, RESET_NS)

    def _write_dsr(self, value: int) -> None:
        self.dsr = value & ~DSR_RESET
        self.rate_chosen = True
        if value & DSR_RESET and self.dor & NOT_RESET:
            self._reset()
            self._later(Step.RESET_DONE, RESET_NS)

    def _reset(self) -> None:
        """A software reset; what LOCK has locked stays ("Reset")."""
        self.due[:] = [None] * (DRIVES + 1)
        self.step = Step.NONE
        self._idle()
        self.result.clear()
        self.sensed[:] = [-1] * DRIVES
        self.interrupt = False
        self.perpendicular &= 0x3C  # GAP and WGATE
        if not self.locked:
            self.configured[:] = [0, 0, 0]

    def _reset_done(self) -> None:
        """Polling finds that all four drives have become ready, unless CONFIGURE has turned it off."""
        if not self.configured[1] & NO_POLLING:
            self.sensed[:] = [READY_CHANGED | n for n in range(DRIVES)]
            self.interrupt = True

    def _drive_irq(self) -> None:
        level = self.interrupt and bool(self.dor & DMA_GATE)
        if level != self.irq:
            self.irq = level
            self.on_irq(level)

    # -- the FIFO ------------------------------------------------------------------------------------------------

    def _read_fifo(self) -> int:
        if self.result:
            self.interrupt = False
            return self.result.pop(0)
        if self.transferring and not self._is_write():
            value = self.buffer[self.position]
            self._data_moved()
            return value
        return 0xFF

    def _write_fifo(self, value: int) -> None:
        if self.transferring and self._is_write():
            self.buffer[self.position] = value
            self._data_moved()
        elif self.main_status() & (RQM | TO_HOST) == RQM:
            self.arguments.append(value)
            self._run_if_complete()

    def _data_moved(self) -> None:
        self.interrupt = False
        self.position += 1
        if self.position == len(self.buffer):
            self.transferring = False
            self.buffer_done[self._op()](self)

    def _run_if_complete(self) -> None:
        length, handler = self.commands.get(self._op(), (1, FloppyController._invalid))
        if len(self.arguments) == 1 and not self._is_valid():
            length, handler = 1, FloppyController._invalid
        if len(self.arguments) == length:
            handler(self)

    def _op(self) -> int:
        return self.arguments[0] & OPCODE_MASK

    def _is_valid(self) -> bool:
        """Whether the high bits of the first byte are ones that this command has."""
        first = self.arguments[0]
        if first in (RELATIVE_SEEK_OUT, RELATIVE_SEEK_IN):
            return True
        return not first & ~OPCODE_MASK & ~MODIFIERS.get(self._op(), 0)

    def _unit(self) -> tuple[int, int]:
        """Drive and head of the second byte."""
        return self.arguments[1] & 3, self.arguments[1] >> 2 & 1

    def _is_write(self) -> bool:
        return bool(self.arguments) and self._op() in (Op.WRITE, Op.WRITE_DELETED, Op.FORMAT)

    def _without_dma(self) -> bool:
        return bool(self.specified[1] & NO_DMA)

    def _idle(self) -> None:
        """End of a command: ready for the next."""
        self.arguments.clear()
        self.buffer.clear()
        self.position = 0
        self.transferring = False

    def _answer(self, *values: int) -> None:
        """A result without an interrupt."""
        self._idle()
        self.result[:] = bytes(values)

    # -- control commands ----------------------------------------------------------------------------------------

    def _invalid(self) -> None:
        if self._op() in SCANS:
            self.on_unmodelled("82077AA SCAN command")
        self._answer(St0.INVALID)

    def _specify(self) -> None:
        self.specified[:] = self.arguments[1:]
        self._idle()

    def _sense_drive(self) -> None:
        number, head = self._unit()
        drive = self._drive(number)
        status = ST3_ONES | head << 2 | number
        if drive is not None:
            status |= 0 if drive.cylinder else St3.TRACK_0
            status |= St3.WRITE_PROTECTED if drive.medium is not None and drive.medium.read_only else 0
        self._answer(status)

    def _sense_interrupt(self) -> None:
        """Take the ST0 of one drive, the lowest first; with none left it is an invalid command."""
        number = next((n for n, status in enumerate(self.sensed) if status >= 0), None)
        if number is None:
            self._answer(St0.INVALID)
            return
        status, self.sensed[number] = self.sensed[number], -1
        self.interrupt = False
        self._answer(status, self.pcn[number])

    def _recalibrate(self) -> None:
        self._start_seek(self.arguments[1] & 3, 0)

    def _seek(self) -> None:
        """SEEK, or RELATIVE SEEK: by so many cylinders inwards or outwards."""
        first, number, value = self.arguments[0], self.arguments[1] & 3, self.arguments[2]
        if first == RELATIVE_SEEK_OUT:
            value = max(0, self.pcn[number] - value)
        elif first == RELATIVE_SEEK_IN:
            value = min(MAX_CYLINDER, self.pcn[number] + value)
        self._start_seek(number, value)

    def _start_seek(self, number: int, cylinder: int) -> None:
        recalibrating = self._op() == Op.RECALIBRATE
        self.targets[number] = -1 if recalibrating else cylinder
        self.due[number] = self.now + SEEK_NS
        self.sensed[number] = -1
        self._idle()

    def _end_seek(self, number: int) -> None:
        """A seek ends blindly; RECALIBRATE looks for the track 0 signal, which a missing drive does not give."""
        drive, target = self._drive(number), self.targets[number]
        status = SEEK_END | number
        if target >= 0:
            self.pcn[number] = target
        else:
            self.pcn[number] = 0
            if drive is None or drive.cylinder > MAX_STEPS:
                status |= ABNORMAL | St0.EQUIPMENT_CHECK
        if drive is not None:
            drive.move_to(target if target >= 0 else max(0, drive.cylinder - MAX_STEPS))
        self.sensed[number] = status
        self.interrupt = True

    def _version(self) -> None:
        self._answer(CHIP_VERSION)

    def _configure(self) -> None:
        self.configured[:] = self.arguments[1:]
        self._idle()

    def _lock(self) -> None:
        self.locked = bool(self.arguments[0] & MT)
        self._answer(self.locked << 4)

    def _set_perpendicular(self) -> None:
        """PERPENDICULAR MODE: the drive bits change only with OW."""
        value = self.arguments[1]
        self.perpendicular = value & 0x3F if value & 0x80 else self.perpendicular & 0x3C | value & 0x03
        self._idle()

    def _dumpreg(self) -> None:
        self._answer(
            *self.pcn,
            *self.specified,
            self.last_sector,
            self.locked << 7 | self.perpendicular,
            *self.configured[1:],
        )


CONTROL_COMMANDS: Final[Mapping[int, tuple[int, Callable[[Any], None]]]] = {
    Op.RECALIBRATE: (2, FloppyController._recalibrate),
    Op.SENSE_INTERRUPT: (1, FloppyController._sense_interrupt),
    Op.SPECIFY: (3, FloppyController._specify),
    Op.SENSE_DRIVE: (2, FloppyController._sense_drive),
    Op.SEEK: (3, FloppyController._seek),
    Op.VERSION: (1, FloppyController._version),
    Op.CONFIGURE: (4, FloppyController._configure),
    Op.DUMPREG: (1, FloppyController._dumpreg),
    Op.PERPENDICULAR: (2, FloppyController._set_perpendicular),
    Op.LOCK: (1, FloppyController._lock),
}
