"""Intel 8259A programmable interrupt controller: one chip, and the cascaded pair of the PC/AT with its ELCR.

An edge request vanishes when its line falls before it is acknowledged, as the data sheet's IRR does. `hold` names the
lines that keep theirs: virtual time moves in steps that may be longer than half a period of the timer's square wave,
and a timer tick seen whole within one step would be lost.

Source: Intel 8259A data sheet, "Initialization Command Words", "Operation Command Words", "Fully Nested Mode",
"Poll Command", "Cascade Mode"; Intel 82371SB (PIIX3), "ELCR1-Edge/Level Control Register".
Not modelled: MCS-80/85 mode (acknowledged as in 8086 mode), the SP/EN pin in buffered mode.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired


class Icw1(IntFlag):
    """First initialization command word, at A0 = 0."""

    IC4 = 1 << 0  # ICW4 follows
    SNGL = 1 << 1  # single chip: no ICW3
    LTIM = 1 << 3  # level triggered
    ICW1 = 1 << 4  # tells it from OCW2 and OCW3


class Icw4(IntFlag):
    """Fourth initialization command word."""

    UPM = 1 << 0  # 8086 mode
    AEOI = 1 << 1
    MS = 1 << 2  # master, in buffered mode
    BUF = 1 << 3
    SFNM = 1 << 4  # special fully nested mode


class Ocw2(IntEnum):
    """Bits 7:5 of OCW2: R, SL, EOI."""

    ROTATE_IN_AEOI_CLEAR = 0b000
    NON_SPECIFIC_EOI = 0b001
    NO_OPERATION = 0b010
    SPECIFIC_EOI = 0b011
    ROTATE_IN_AEOI_SET = 0b100
    ROTATE_ON_NON_SPECIFIC_EOI = 0b101
    SET_PRIORITY = 0b110
    ROTATE_ON_SPECIFIC_EOI = 0b111


class Ocw3(IntFlag):
    """Third operation command word."""

    RIS = 1 << 0  # with RR: read ISR, not IRR
    RR = 1 << 1
    P = 1 << 2  # poll command
    OCW3 = 1 << 3  # tells it from OCW2
    SMM = 1 << 5  # with ESMM: special mask mode on
    ESMM = 1 << 6


_ICW1: Final = int(Icw1.ICW1)
_OCW3: Final = int(Ocw3.OCW3)
_LEVEL_FIELD: Final = 0b111
_VECTOR_BASE: Final = 0xF8
_ALL: Final = 0xFF
_POLL_INTERRUPT: Final = 1 << 7

SPURIOUS_LINE: Final = 7
CASCADE_LINE: Final = 2
FLOATING_BUS: Final = 0xFF


class Await(IntEnum):
    """Which command word the next write at A0 = 1 is."""

    OCW1 = 1
    ICW2 = 2
    ICW3 = 3
    ICW4 = 4


_LTIM: Final = int(Icw1.LTIM)
_SNGL: Final = int(Icw1.SNGL)
_IC4: Final = int(Icw1.IC4)
_AEOI: Final = int(Icw4.AEOI)
_SFNM: Final = int(Icw4.SFNM)
_UPM: Final = int(Icw4.UPM)


@dataclass(slots=True)
class I8259:
    """One 8259A on two ports. `on_intr(level)` is told the level of the INT pin when it changes.

    All masks have bit n for line IRn. `lines` are the input pins, `edges` the latched rising edges, `elcr` the lines
    that the board makes level triggered whatever ICW1 said, `lowest` the line of lowest priority (7: IR0 wins).
    """

    on_intr: Callable[[bool], None] = wired()
    on_unmodelled: Callable[[str], None] = wired()
    hold: int = wired(default=0)
    lines: int = 0
    edges: int = 0
    isr: int = 0
    imr: int = _ALL
    elcr: int = 0
    lowest: int = 7
    vector_base: int = 0
    icw1: int = 0
    icw3: int = 0
    icw4: int = 0
    expects: Await = Await.OCW1
    rotate_in_aeoi: bool = False
    special_mask: bool = False
    read_isr: bool = False
    poll: bool = False
    intr: bool = False

    @property
    def irr(self) -> int:
        """The interrupt request register: latched edges, and the pins of level-triggered lines."""
        level_triggered = _ALL if self.icw1 & _LTIM else self.elcr
        return self.edges & ~level_triggered | self.lines & level_triggered

    def set_line(self, line: int, level: bool) -> None:
        """Drive input pin IR0-IR7."""
        bit = 1 << line
        if level:
            self.edges |= bit & ~self.lines
            self.lines |= bit
        else:
            self.lines &= ~bit
            self.edges &= ~bit | self.hold
        self._drive_intr()

    def set_elcr(self, mask: int) -> None:
        """Choose the level-triggered lines (PIIX3 ELCR)."""
        self.elcr = mask
        self._drive_intr()

    def acknowledge(self) -> int:
        """Run the INTA cycle of a chip without slaves; returns the vector, 0-255."""
        return self.vector_base | self.inta()

    def inta(self) -> int:
        """The first INTA pulse: put the winning line in service and return it.

        With no request left the answer is line 7 and ISR stays clear ("default IR7").
        """
        line = self._winner()
        if line is None:
            self._drive_intr()
            return SPURIOUS_LINE
        bit = 1 << line
        self.edges &= ~bit
        if not self.icw4 & _AEOI:
            self.isr |= bit
        elif self.rotate_in_aeoi:
            self.lowest = line
        self._set_intr(False)  # INT falls at each INTA, so that a cascade sees a new edge for the next request
        self._drive_intr()
        return line

    def has_slave(self, line: int) -> bool:
        """Whether ICW3 put a slave on a line (master, cascade mode)."""
        return not self.icw1 & _SNGL and bool(self.icw3 >> line & 1)

    def read(self, offset: int) -> int:
        """Port A0 = 0: IRR or ISR as OCW3 chose; A0 = 1: IMR. After a poll command, either: the poll word."""
        if self.poll:
            self.poll = False
            return self._poll_word()
        if offset:
            return self.imr
        return self.isr if self.read_isr else self.irr

    def write(self, offset: int, value: int) -> None:
        if offset:
            self._write_a0_set(value)
        elif value & _ICW1:
            self._initialize(value)
        elif value & _OCW3:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value >> 5, value & _LEVEL_FIELD)
        self._drive_intr()

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)

    def _poll_word(self) -> int:
        if self._winner() is None:
            return 0
        return _POLL_INTERRUPT | self.inta()

    def _initialize(self, icw1: int) -> None:
        """ICW1: what the data sheet lists under "Initialization Command Words 1 and 2", items a to f."""
        self.icw1 = icw1
        self.edges = self.isr = self.imr = self.icw4 = 0
        self.lowest = 7
        self.icw3 = 7  # the slave mode address
        self.special_mask = self.read_isr = self.rotate_in_aeoi = self.poll = False
        self.expects = Await.ICW2

    def _write_a0_set(self, value: int) -> None:
        match self.expects:
            case Await.ICW2:
                self.vector_base = value & _VECTOR_BASE
                self.expects = self._after_icw3() if self.icw1 & _SNGL else Await.ICW3
            case Await.ICW3:
                self.icw3 = value
                self.expects = self._after_icw3()
            case Await.ICW4:
                self.icw4 = value
                self._finish_initialization()
            case _:
                self.imr = value

    def _after_icw3(self) -> Await:
        if self.icw1 & _IC4:
            return Await.ICW4
        self._finish_initialization()
        return Await.OCW1

    def _finish_initialization(self) -> None:
        self.expects = Await.OCW1
        if not self.icw4 & _UPM:
            self.on_unmodelled("8259A in MCS-80/85 mode: acknowledged as in 8086 mode")

    def _write_ocw2(self, command: int, level: int) -> None:
        match command:
            case Ocw2.NON_SPECIFIC_EOI | Ocw2.ROTATE_ON_NON_SPECIFIC_EOI:
                self._end_of_interrupt(self._in_service(), rotate=command == Ocw2.ROTATE_ON_NON_SPECIFIC_EOI)
            case Ocw2.SPECIFIC_EOI | Ocw2.ROTATE_ON_SPECIFIC_EOI:
                self._end_of_interrupt(level, rotate=command == Ocw2.ROTATE_ON_SPECIFIC_EOI)
            case Ocw2.ROTATE_IN_AEOI_CLEAR | Ocw2.ROTATE_IN_AEOI_SET:
                self.rotate_in_aeoi = command == Ocw2.ROTATE_IN_AEOI_SET
            case Ocw2.SET_PRIORITY:
                self.lowest = level

    def _write_ocw3(self, value: int) -> None:
        if value & Ocw3.ESMM:
            self.special_mask = bool(value & Ocw3.SMM)
        if value & Ocw3.P:
            self.poll = True
        elif value & Ocw3.RR:
            self.read_isr = bool(value & Ocw3.RIS)

    def _end_of_interrupt(self, line: int | None, *, rotate: bool) -> None:
        if line is None:
            return
        self.isr &= ~(1 << line)
        if rotate:
            self.lowest = line

    def _in_service(self) -> int | None:
        """The line in service with the highest priority; in special mask mode masked ones do not count."""
        return self._highest(self.isr & ~self.imr if self.special_mask else self.isr)

    def _winner(self) -> int | None:
        """The request that the priority resolver would pass to the CPU now."""
        line = self._highest(self.irr & ~self.imr)
        if line is None or self.expects is not Await.OCW1:
            return None
        serving = self._in_service()
        if serving is None or self._rank(line) < self._rank(serving):
            return line
        nested = self.icw4 & _SFNM and line == serving and self.has_slave(line)
        return line if nested else None

    def _rank(self, line: int) -> int:
        return (line - self.lowest - 1) & _LEVEL_FIELD

    def _highest(self, mask: int) -> int | None:
        if not mask:
            return None
        first = self.lowest + 1
        rotated = (mask | mask << 8) >> first  # bit 0: the line of highest priority
        return (first + (rotated & -rotated).bit_length() - 1) & _LEVEL_FIELD

    def _drive_intr(self) -> None:
        self._set_intr(self._winner() is not None)

    def _set_intr(self, level: bool) -> None:
        if level != self.intr:
            self.intr = level
            self.on_intr(level)


TIMER_LINE: Final = 0
MASTER_ELCR: Final = 0xF8  # IRQ0-IRQ2 are edge triggered for good
SLAVE_ELCR: Final = 0xDE  # so are IRQ8 and IRQ13


@dataclass(slots=True)
class DualPic:
    """The PC/AT pair: a master, and a slave whose INT drives the master's IR2. IRQ8-IRQ15 are the slave's.

    `on_intr(level)` is told the level of the master's INT pin when it changes. Ports: `master` at 20h-21h, `slave` at
    A0h-A1h; this object itself is the ELCR chip at 4D0h-4D1h.
    """

    on_intr: Callable[[bool], None] = wired()
    on_unmodelled: Callable[[str], None] = wired()
    master: I8259 = field(init=False)
    slave: I8259 = field(init=False)

    def __post_init__(self) -> None:
        self.master = I8259(self.on_intr, self.on_unmodelled, hold=1 << TIMER_LINE)
        self.slave = I8259(lambda level: self.master.set_line(CASCADE_LINE, level), self.on_unmodelled)

    def set_line(self, irq: int, level: bool) -> None:
        """Drive IRQ0-IRQ15. Raises: ValueError: IRQ2, which is the cascade input, or no such line."""
        if irq == CASCADE_LINE or not 0 <= irq < 16:
            raise ValueError(f"IRQ{irq}: expected 0-15 and not the cascade input IRQ2")
        (self.slave if irq & 8 else self.master).set_line(irq & 7, level)

    def has_interrupt(self) -> bool:
        """Whether INT is asserted to the CPU."""
        return self.master.intr

    def acknowledge(self) -> int:
        """Run the INTA cycle of the pair; returns the vector, 0-255.

        A slave that does not recognize its ICW3 identity leaves the bus floating.
        """
        line = self.master.inta()
        if not self.master.has_slave(line):
            return self.master.vector_base | line
        if line == CASCADE_LINE and self.slave.icw3 & _LEVEL_FIELD == line:
            return self.slave.acknowledge()
        return FLOATING_BUS

    def read(self, offset: int) -> int:
        """ELCR1 (offset 0, IRQ0-IRQ7) and ELCR2 (offset 1, IRQ8-IRQ15)."""
        return (self.slave if offset else self.master).elcr

    def write(self, offset: int, value: int) -> None:
        if offset:
            self.slave.set_elcr(value & SLAVE_ELCR)
        else:
            self.master.set_elcr(value & MASTER_ELCR)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
