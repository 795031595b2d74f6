"""An ATA channel: one cable with up to two devices, one command block, one control block, one interrupt line.

Source: ATA/ATAPI-6 (T13/1410D), "I/O register descriptions", "Device Control register", "Single device
configurations", "Software reset protocol".

Both devices see every register write; the DEV bit says which of them answers and drives INTRQ and DMARQ.
Not modelled: the Drive Address register at 3F7h, which the floppy controller's DIR occupies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final

from vmm.devices.ata_drive import BSY, DEV_MASK, AtaDrive, Register, Step
from vmm.devices.snapshot import load_fields, save_fields, wired

_EXECUTE_DEVICE_DIAGNOSTIC: Final = 0x90
# "The host shall have a pull-down on DD7", so that an empty cable does not look busy; the other lines float high.
_NOBODY: Final = 0x7F


class Control(IntFlag):
    """Device Control register ("Device Control register")."""

    NIEN = 1 << 1
    SRST = 1 << 2
    HOB = 1 << 7


_DATA: Final = int(Register.DATA)
_DEVICE: Final = int(Register.DEVICE)
_STATUS: Final = int(Register.STATUS)
_NIEN: Final = int(Control.NIEN)
_SRST: Final = int(Control.SRST)
_HOB: Final = int(Control.HOB)


def _no_bus_master() -> None:
    return


@dataclass(slots=True)
class AtaChannel:
    """`on_irq(level)` is told the level of INTRQ when it changes, `on_dma()` that a drive may want a bus master now.

    The machine maps `read`, `write`, `read_block`, `write_block` at 1F0h or 170h (8 ports) and `read_control`,
    `write_control` at 3F6h or 376h (1 port). Both need virtual time brought up to date before each access.
    """

    on_irq: Callable[[bool], None] = wired()
    device0: AtaDrive | None = None
    device1: AtaDrive | None = None
    on_dma: Callable[[], None] = wired(default=_no_bus_master)
    selected: int = 0
    control: int = 0
    irq: bool = False

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    def advance(self, now: int) -> None:
        for drive in self._drives():
            drive.advance(now)
        self._drive_irq()
        if self.dma_wanted:
            self.on_dma()

    def next_deadline(self) -> int | None:
        return min((drive.due for drive in self._drives() if drive.due is not None), default=None)

    # -- command block -------------------------------------------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        """A register of the command block; the data port in 2 or 4 bytes, low word first."""
        if offset == _DATA:
            return int.from_bytes(self.read_block(_DATA, width, 1), "little")
        return sum(self._read_register(offset + n) << 8 * n for n in range(width))

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == _DATA:
            self.write_block(_DATA, width, value.to_bytes(width, "little"))
            return
        for n in range(width):
            self._write_register(offset + n, (value >> 8 * n) & 0xFF)

    def read_block(self, offset: int, width: int, count: int) -> bytes:
        """`count` reads of `width` bytes. The data port is 16 bits wide: a byte read takes a word and shows half."""
        if offset != _DATA:
            return b"".join(self.read(offset, width).to_bytes(width, "little") for _ in range(count))
        size = count * max(width, 2)
        drive = self._in_pio()
        taken = bytearray()
        while drive is not None and len(taken) < size and (chunk := drive.take(size - len(taken))):
            taken += chunk
        self._drive_irq()
        data = bytes(taken) + self._undriven(size - len(taken))
        return data[::2] if width == 1 else data

    def write_block(self, offset: int, width: int, data: bytes) -> None:
        """Writes of `width` bytes each. A byte written to the data port leaves the high half of the word 0."""
        if offset != _DATA:
            for at in range(0, len(data), width):
                self.write(offset, width, int.from_bytes(data[at : at + width], "little"))
            return
        if width == 1:
            data = b"".join(bytes((byte, 0)) for byte in data)
        drive = self._in_pio()
        while drive is not None and data and (taken := drive.put(data)):
            data = data[taken:]
        self._drive_irq()

    # -- control block -------------------------------------------------------------------------------------------

    def read_control(self, offset: int, width: int) -> int:
        """Alternate Status: Status without its effect on the interrupt."""
        return self._status() | ((1 << 8 * width) - 1) & ~0xFF

    def write_control(self, offset: int, width: int, value: int) -> None:
        """Device Control: interrupt enable, software reset, HOB."""
        was, self.control = self.control, value & 0xFF
        if value & _SRST and not was & _SRST:
            self.selected = 0
            for drive in self._drives():
                drive.begin_reset()
        elif was & _SRST and not value & _SRST:
            for drive in self._drives():
                drive.later(Step.RESET)
        self._drive_irq()

    # -- the bus master's side -----------------------------------------------------------------------------------

    @property
    def dma_wanted(self) -> bool:
        """DMARQ of the selected device."""
        drive = self._answering()
        return drive is not None and drive.dma_wanted

    @property
    def dma_to_host(self) -> bool:
        """Which way the data that a device wants moved goes."""
        drive = self._answering()
        return drive is not None and not drive.receiving

    @property
    def dma_room(self) -> int:
        """How many bytes `dma_put` would take."""
        drive = self._answering()
        return len(drive.buffer) - drive.position if drive is not None else 0

    def dma_take(self, count: int) -> bytes:
        """Up to `count` bytes of what the device sends."""
        drive = self._answering()
        data = b"" if drive is None else drive.take(count)
        self._drive_irq()
        return data

    def dma_put(self, data: bytes) -> int:
        """Give the device data; the number of bytes it took."""
        drive = self._answering()
        taken = 0 if drive is None else drive.put(data)
        self._drive_irq()
        return taken

    # -- inside --------------------------------------------------------------------------------------------------

    def _drives(self) -> list[AtaDrive]:
        return [drive for drive in (self.device0, self.device1) if drive is not None]

    def _answering(self) -> AtaDrive | None:
        return self.device1 if self.selected else self.device0

    def _in_pio(self) -> AtaDrive | None:
        """The device that the data port reaches: not one whose command moves its data by DMA."""
        drive = self._answering()
        return None if drive is None or drive.dma_wanted else drive

    def _status(self) -> int:
        drive = self._answering()
        if drive is not None:
            return drive.status
        return _NOBODY if self.device0 is None else 0

    def _undriven(self, size: int) -> bytes:
        """What the data port shows when no device drives it."""
        return bytes((_NOBODY, 0xFF)) * (size // 2)

    def _read_register(self, register: int) -> int:
        """ "Device 0 only configurations": device 0 answers for an absent device 1 with its own registers and a
        status of 0, or, if it is a PACKET device, with 0 everywhere: no second signature is seen.
        """
        if register > _STATUS:
            return 0xFF  # beyond the command block
        if register == _STATUS:
            status = self._status()
            if drive := self._answering():
                drive.interrupt = False
                self._drive_irq()
            return status
        answering = self._answering()
        drive = answering or self.device0
        if drive is None:
            return _NOBODY
        if answering is None and drive.has_packet:
            return 0
        return drive.read_register(register, previous=bool(self.control & _HOB))

    def _write_register(self, register: int, value: int) -> None:
        if register > _STATUS:
            return
        self.control &= ~_HOB
        if register == _STATUS:
            self._write_command(value)
        else:
            for drive in self._drives():
                drive.write_register(register, value)
        if register == _DEVICE:
            self.selected = 1 if value & DEV_MASK else 0
        self._drive_irq()

    def _write_command(self, command: int) -> None:
        if self.control & _SRST:
            return
        if command == _EXECUTE_DEVICE_DIAGNOSTIC:
            self._diagnose()
        elif drive := self._answering():
            drive.write_command(command)

    def _diagnose(self) -> None:
        """EXECUTE DEVICE DIAGNOSTIC goes to both devices; device 0 answers for both."""
        if any(drive.status & BSY for drive in self._drives()):
            return
        self.selected = 0
        for drive in self._drives():
            drive.begin_reset()
            drive.later(Step.DIAGNOSED if drive is self.device0 else Step.RESET)

    def _drive_irq(self) -> None:
        drive = self._answering()
        level = drive is not None and drive.interrupt and not self.control & _NIEN
        if level != self.irq:
            self.irq = level
            self.on_irq(level)
