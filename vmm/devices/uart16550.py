"""National Semiconductor PC16550D UART.

The transmitter is instantaneous: a byte written to THR is at `on_transmit` before the write returns, so THRE and TEMT
are always set when the guest looks, and each write ends with a new THRE interrupt. The receiver holds what the data
sheet's does, one byte or a FIFO of sixteen; `receive` takes what fits and the host keeps the rest, so nothing that is
typed or pasted is lost. `on_room` tells when there is room again.

Source: PC16550D data sheet, "Registers" (LCR to scratch), "FIFO Interrupt Mode Operation", "Programmable Baud
Generator"; IBM PC/AT Technical Reference, "Serial/Parallel Adapter" (OUT2 gates the interrupt).
Not modelled: the time a character takes on the wire (but for the FIFO time-out), sending a break, parity errors,
the DMA pins.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired


class Register(IntEnum):
    """Register offsets; 0 and 1 are the divisor latch while LCR.DLAB is set."""

    DATA = 0  # RBR when read, THR when written
    IER = 1
    IIR = 2  # FCR when written
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier(IntFlag):
    """Interrupt enable."""

    ERBFI = 1 << 0  # received data, and time-out
    ETBEI = 1 << 1  # transmitter holding register empty
    ELSI = 1 << 2  # receiver line status
    EDSSI = 1 << 3  # modem status


class Iir(IntEnum):
    """Interrupt identification, bits 3:0, highest priority first."""

    LINE_STATUS = 0b0110
    RECEIVED_DATA = 0b0100
    TIME_OUT = 0b1100
    THR_EMPTY = 0b0010
    MODEM_STATUS = 0b0000
    NONE = 0b0001


class Fcr(IntFlag):
    """FIFO control."""

    ENABLE = 1 << 0
    RESET_RECEIVER = 1 << 1
    RESET_TRANSMITTER = 1 << 2
    DMA = 1 << 3


class Lcr(IntFlag):
    """Line control; bits 1:0 are the word length less five."""

    STB = 1 << 2  # more than one stop bit
    PEN = 1 << 3  # parity
    DLAB = 1 << 7


class Mcr(IntFlag):
    """Modem control."""

    DTR = 1 << 0
    RTS = 1 << 1
    OUT1 = 1 << 2
    OUT2 = 1 << 3
    LOOP = 1 << 4


class Lsr(IntFlag):
    """Line status."""

    DR = 1 << 0
    OE = 1 << 1
    PE = 1 << 2
    FE = 1 << 3
    BI = 1 << 4
    THRE = 1 << 5
    TEMT = 1 << 6
    FIFO_ERROR = 1 << 7


class Msr(IntFlag):
    """Modem status: four changes and four levels."""

    DCTS = 1 << 0
    DDSR = 1 << 1
    TERI = 1 << 2  # RI went from active to inactive
    DDCD = 1 << 3
    CTS = 1 << 4
    DSR = 1 << 5
    RI = 1 << 6
    DCD = 1 << 7


CLOCK_HZ: Final = 1_843_200
CLOCKS_PER_BIT: Final = 16
SECOND_NS: Final = 1_000_000_000
FIFO_SIZE: Final = 16
TRIGGER_LEVELS: Final = (1, 4, 8, 14)
TIME_OUT_CHARACTERS: Final = 4
FIFOS_ENABLED: Final = 0b1100_0000  # of IIR
CABLE_CONNECTED: Final = int(Msr.CTS | Msr.DSR | Msr.DCD)

_IER_BITS: Final = 0x0F
_MCR_BITS: Final = 0x1F
_MSR_LEVELS: Final = 0xF0
_WORD_LENGTH: Final = 0b11
_DLAB: Final = int(Lcr.DLAB)
_LOOP: Final = int(Mcr.LOOP)
_EMPTY: Final = int(Lsr.THRE | Lsr.TEMT)
_CHARACTER_ERRORS: Final = int(Lsr.PE | Lsr.FE | Lsr.BI)
_ERRORS: Final = int(Lsr.OE) | _CHARACTER_ERRORS
_BREAK: Final = int(Lsr.BI | Lsr.FE)
_FIFO_RESETS: Final = int(Fcr.RESET_RECEIVER | Fcr.RESET_TRANSMITTER)
_OUT2: Final = int(Mcr.OUT2)
_GATE: Final = _OUT2 | _LOOP
_CROSSED: Final = ((Mcr.RTS, Msr.CTS), (Mcr.DTR, Msr.DSR), (Mcr.OUT1, Msr.RI), (Mcr.OUT2, Msr.DCD))
_LOOPED_BACK: Final = tuple((int(output), int(level)) for output, level in _CROSSED)
_ERBFI: Final = int(Ier.ERBFI)
_ETBEI: Final = int(Ier.ETBEI)
_ELSI: Final = int(Ier.ELSI)
_EDSSI: Final = int(Ier.EDSSI)
_FIFO_ENABLE: Final = int(Fcr.ENABLE)
_RESET_RECEIVER: Final = int(Fcr.RESET_RECEIVER)
_STB: Final = int(Lcr.STB)
_PEN: Final = int(Lcr.PEN)
_DR: Final = int(Lsr.DR)
_OE: Final = int(Lsr.OE)
_FIFO_ERROR: Final = int(Lsr.FIFO_ERROR)
_RI: Final = int(Msr.RI)


@dataclass(slots=True)
class Uart16550:
    """The chip on eight ports.

    `on_irq(level)` is the interrupt line of the adapter, already gated by OUT2; `on_transmit(byte)` takes each
    character sent. `received` holds error bits of LSR above the eight data bits; its first entry is RBR. `errors` are
    the LSR error bits that the guest has not read.
    """

    on_irq: Callable[[bool], None] = wired()
    on_transmit: Callable[[int], None] = wired()
    on_room: Callable[[], None] | None = wired(default=None)
    received: deque[int] = field(default_factory=deque)
    errors: int = 0
    thr_empty: bool = False
    timed_out: bool = False
    time_out_at: int | None = None
    now: int = 0
    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    modem_lines: int = CABLE_CONNECTED
    modem_changes: int = 0
    scr: int = 0
    divisor: int = 1
    irq: bool = False

    # The host's side

    def receive(self, data: bytes) -> int:
        """Characters arrive on SIN; returns how many were taken. In loopback mode SIN is cut off: none are."""
        taken = data[: self.room()]
        self.received.extend(taken)
        if taken:
            self._restart_time_out()
            self._drive_irq()
        return len(taken)

    def receive_break(self) -> bool:
        """A break arrives on SIN; returns whether it was taken."""
        if not self.room():
            return False
        self._accept(_BREAK << 8)
        return True

    def room(self) -> int:
        """How many characters `receive` would take now."""
        return 0 if self.mcr & _LOOP else max(0, self._capacity() - len(self.received))

    def set_modem_lines(self, lines: int) -> None:
        """Drive the modem inputs: `Msr.CTS`, `DSR`, `RI` and `DCD`, set when active."""
        before = self._modem_levels()
        self.modem_lines = lines & _MSR_LEVELS
        self._note_modem_changes(before)
        self._drive_irq()

    # Time

    def advance(self, now: int) -> None:
        """Bring the chip to absolute virtual time `now`, nanoseconds."""
        self.now = now
        if self.time_out_at is not None and now >= self.time_out_at:
            self.time_out_at = None
            self.timed_out = True
            self._drive_irq()

    def next_deadline(self) -> int | None:
        """When the FIFO time-out is due, nanoseconds."""
        return self.time_out_at

    # The processor's side

    def read(self, offset: int) -> int:
        match offset:
            case Register.LSR:  # first, because guests poll it
                return self._read_lsr()
            case Register.DATA:
                return self.divisor & 0xFF if self.lcr & _DLAB else self._read_data()
            case Register.IER:
                return self.divisor >> 8 if self.lcr & _DLAB else self.ier
            case Register.IIR:
                return self._read_iir()
            case Register.MSR:
                return self._read_msr()
            case Register.LCR:
                return self.lcr
            case Register.MCR:
                return self.mcr
            case _:
                return self.scr

    def write(self, offset: int, value: int) -> None:
        match offset:
            case Register.DATA if self.lcr & _DLAB:
                self.divisor = self.divisor & 0xFF00 | value
            case Register.IER if self.lcr & _DLAB:
                self.divisor = self.divisor & 0xFF | value << 8
            case Register.DATA:
                self._transmit(value)
            case Register.IER:
                self._write_ier(value & _IER_BITS)
            case Register.IIR:
                self._write_fcr(value)
            case Register.LCR:
                self.lcr = value
            case Register.MCR:
                self._write_mcr(value & _MCR_BITS)
            case Register.SCR:
                self.scr = value
            case _:
                pass  # LSR and MSR are written in factory tests only

    def reset(self) -> None:
        """The MR pin ("Reset Configuration of Registers"); SCR and the divisor keep their values."""
        self.received.clear()
        self.errors = self.ier = self.fcr = self.lcr = self.mcr = self.modem_changes = 0
        self.thr_empty = self.timed_out = False
        self.time_out_at = None
        self._drive_irq()

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)

    # Receiver

    def _capacity(self) -> int:
        return FIFO_SIZE if self.fcr & _FIFO_ENABLE else 1

    def _accept(self, character: int) -> None:
        """A character reaches the receiver, with its error bits; one too many is an overrun."""
        if len(self.received) < self._capacity():
            self.received.append(character)
        else:
            self.errors |= _OE
            if not self.fcr & _FIFO_ENABLE:
                self.received[0] = character  # RBR is overwritten; the FIFO keeps what it has
        self._show_errors()
        self._restart_time_out()
        self._drive_irq()

    def _show_errors(self) -> None:
        """LSR shows a character's errors when it comes to the top of the FIFO."""
        if self.received and self.received[0] >> 8:
            self.errors |= self.received[0] >> 8
            self.received[0] &= 0xFF

    def _read_data(self) -> int:
        if not self.received:
            return 0
        character = self.received.popleft() & 0xFF
        self._show_errors()
        self._restart_time_out()
        self._drive_irq()
        if self.on_room is not None and not self.mcr & _LOOP:
            self.on_room()
        return character

    def _restart_time_out(self) -> None:
        self.timed_out = False
        waiting = self.fcr & _FIFO_ENABLE and self.received
        self.time_out_at = self.now + TIME_OUT_CHARACTERS * self._character_ns() if waiting else None

    def _character_ns(self) -> int:
        """A start bit, 5 to 8 data bits, parity and stop bits at the programmed rate; divisor 0 counts as 65536."""
        lcr = self.lcr
        bits = 1 + 5 + (lcr & _WORD_LENGTH) + bool(lcr & _PEN) + (2 if lcr & _STB else 1)
        return bits * CLOCKS_PER_BIT * (self.divisor or 0x1_0000) * SECOND_NS // CLOCK_HZ

    def _read_lsr(self) -> int:
        fifo_error = self.fcr & _FIFO_ENABLE and (
            self.errors & _CHARACTER_ERRORS or any(character >> 8 for character in self.received)
        )
        status = self.errors | _EMPTY | (_DR if self.received else 0) | (_FIFO_ERROR if fifo_error else 0)
        if self.errors:
            self.errors = 0
            self._drive_irq()
        return status

    # Transmitter

    def _transmit(self, value: int) -> None:
        self.thr_empty = False
        self._drive_irq()  # the request falls, so that an edge-triggered controller sees the next one
        character = value & (0xFF >> 3 - (self.lcr & _WORD_LENGTH))
        if self.mcr & _LOOP:
            self._accept(character)
        else:
            self.on_transmit(character)
        self.thr_empty = True
        self._drive_irq()

    # Control

    def _write_ier(self, value: int) -> None:
        if value & ~self.ier & _ETBEI:
            self.thr_empty = True  # enabling the interrupt of an empty holding register raises it
        self.ier = value
        self._drive_irq()

    def _write_fcr(self, value: int) -> None:
        """Bits other than ENABLE are programmed only together with it; a change of it empties both FIFOs."""
        enable = value & _FIFO_ENABLE
        if value & _RESET_RECEIVER or enable != self.fcr & _FIFO_ENABLE:
            self.received.clear()
        self.fcr = value & ~_FIFO_RESETS if enable else 0
        self._restart_time_out()
        self._drive_irq()
        if self.on_room is not None and self.room():
            self.on_room()

    def _write_mcr(self, value: int) -> None:
        before = self._modem_levels()
        self.mcr = value
        self._note_modem_changes(before)
        self._drive_irq()
        if self.on_room is not None and self.room():
            self.on_room()

    def _read_msr(self) -> int:
        status = self._modem_levels() | self.modem_changes
        self.modem_changes = 0
        self._drive_irq()
        return status

    def _modem_levels(self) -> int:
        """The inputs, or in loopback mode the four modem control outputs in their place."""
        mcr = self.mcr
        if not mcr & _LOOP:
            return self.modem_lines
        return sum(level for output, level in _LOOPED_BACK if mcr & output)

    def _note_modem_changes(self, before: int) -> None:
        now = self._modem_levels()
        changed = before ^ now
        if now & _RI:
            changed &= ~_RI  # TERI is the trailing edge only
        self.modem_changes |= changed >> 4

    # Interrupts

    def _pending(self) -> Iir:
        ier = self.ier
        if ier & _ELSI and self.errors & _ERRORS:
            return Iir.LINE_STATUS
        if ier & _ERBFI and self.received:
            if len(self.received) >= self._trigger():
                return Iir.RECEIVED_DATA
            if self.timed_out:
                return Iir.TIME_OUT
        if ier & _ETBEI and self.thr_empty:
            return Iir.THR_EMPTY
        if ier & _EDSSI and self.modem_changes:
            return Iir.MODEM_STATUS
        return Iir.NONE

    def _trigger(self) -> int:
        return TRIGGER_LEVELS[self.fcr >> 6] if self.fcr & _FIFO_ENABLE else 1

    def _read_iir(self) -> int:
        pending = self._pending()
        if pending == Iir.THR_EMPTY:
            self.thr_empty = False
            self._drive_irq()
        return pending | (FIFOS_ENABLED if self.fcr & _FIFO_ENABLE else 0)

    def _drive_irq(self) -> None:
        """INTRPT, gated by OUT2, which loopback mode forces inactive."""
        gated = self.mcr & _GATE == _OUT2
        level = gated and self._pending() != Iir.NONE
        if level != self.irq:
            self.irq = level
            self.on_irq(level)
