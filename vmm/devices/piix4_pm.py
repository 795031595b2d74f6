"""82371AB (PIIX4) function 3: power management registers, as ACPI's fixed hardware, and the APM ports.

Sources: Intel 82371AB (PIIX4) data sheet, "Power Management Configuration Registers", "Power Management I/O Space
Registers", "APM Register Description"; Advanced Configuration and Power Interface Specification 1.0b, "ACPI Register
Model".

The board gives it:
    on_sci(level)           the SCI, IRQ 9: level sensitive, shared
    on_power_off()          the guest has switched the machine off
    on_reset(source)        suspend to RAM has ended: RST# follows, and what is in the resume well outlives it
    on_unmodelled(text)
    io                      a `Window`: `io.place(base)` maps 64 ports there that call `read(offset, width)` and
                            `write(offset, width, value)` (named `read_io`, `write_io`), each after `advance(now_ns)`
and maps the ports B2h and B3h to `read_apm(offset)`, `write_apm(offset, value)`. It sits at device 1, function 3.

There is no system management mode on this board. Bit 25 of DEVACTB, APMC_EN, is therefore set from power-on, which
firmware takes for "somebody has set up SMM already" and leaves alone; what its handler would do on ACPI's enable and
disable commands, to set and clear SCI_EN, is done here.
Not modelled: SMI#, STPCLK# and the processor's clock states, the SMBus host, general-purpose events and pins, device
monitors, bus-master status, wake by the RTC. A sleep state other than S5 wakes at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Final

from vmm.devices.pci import Config, PciFunction, PciIdentity, Window
from vmm.devices.snapshot import wired

IDENTITY: Final = PciIdentity(vendor=0x8086, device=0x7113, class_code=0x068000, revision=3, interrupt_pin=1)
IO_SIZE: Final = 64
TIMER_HZ: Final = 3_579_545
SECOND_NS: Final = 1_000_000_000
APM_PORT: Final = 0xB2


class PmConfig(IntEnum):
    """Offsets in the configuration space beyond the header."""

    PMBA = 0x40  # power management base address
    CNTA = 0x44  # from here to 7Fh: counters, general-purpose inputs, device activity and resources
    DEVACTB = 0x58
    PMREGMISC = 0x80
    SMBBA = 0x90  # SMBus base address
    SMBHSTCFG = 0xD2  # and its slave registers up to D5h


class PmIo(IntEnum):
    """Offsets in the 64 ports at PMBA."""

    PMSTS = 0x00
    PMEN = 0x02
    PMCNTRL = 0x04
    PMTMR = 0x08
    GPSTS = 0x0C
    GPEN = 0x0E
    PCNTRL = 0x10
    PLVL2 = 0x14
    PLVL3 = 0x15
    GLBEN = 0x20
    GLBCTL = 0x28
    DEVCTL = 0x2C
    GPOREG = 0x34


class PmSts(IntFlag):
    """PMSTS, 16 bits; a 1 written clears a bit. PMEN has TMROF, GBL, PWRBTN and RTC at the same places."""

    TMROF = 1 << 0  # bit 23 of the timer has changed
    BM = 1 << 4
    GBL = 1 << 5
    PWRBTN = 1 << 8
    RTC = 1 << 10
    PWRBTNOR = 1 << 11
    RSM = 1 << 15  # woken


class PmCntrl(IntFlag):
    """PMCNTRL, 16 bits, the one-bit fields; bits 12:10 are the suspend type."""

    SCI_EN = 1 << 0
    BRLD_EN_BM = 1 << 1
    GBL_RLS = 1 << 2  # reads 0
    SUS_EN = 1 << 13  # reads 0


class SuspendType(IntEnum):
    """SUS_TYP in PMCNTRL: what SUS_EN starts."""

    SOFT_OFF = 0
    TO_RAM = 1
    WORKING = 5


class Apmc(IntEnum):
    """What ACPI's tables for this chip tell an operating system to write to port B2h."""

    ACPI_DISABLE = 0xF0
    ACPI_ENABLE = 0xF1


_SUS_TYP_SHIFT: Final = 10
_SUS_TYP: Final = 7 << _SUS_TYP_SHIFT
_EVENTS: Final = int(PmSts.TMROF | PmSts.GBL | PmSts.PWRBTN | PmSts.RTC)
_STATUS: Final = _EVENTS | int(PmSts.BM | PmSts.PWRBTNOR | PmSts.RSM)
_TMROF: Final = int(PmSts.TMROF)
_SCI_EN: Final = int(PmCntrl.SCI_EN)
_SUS_EN: Final = int(PmCntrl.SUS_EN)
_CONTROL_HIGH: Final = PmIo.PMCNTRL + 1  # the byte with SUS_EN and SUS_TYP
_TIMER_MASK: Final = 0xFF_FFFF
_CARRY_SHIFT: Final = 23
_RTE: Final = 1  # PMBA and SMBBA bit 0: in the I/O space, fixed
_PMBA_ADDRESS: Final = 0xFFC0
_SMBBA_ADDRESS: Final = 0xFFF0
_PMIOSE: Final = 1 << 0
_APMC_EN: Final = 1 << 25
_MEDIUM_TIMING: Final = 0x0280  # Status: fast back-to-back, medium DEVSEL#


def _masks(*fields: tuple[int, int, int]) -> bytes:
    """A block of masks: (offset, width, mask) each, zero elsewhere."""
    block = bytearray(IO_SIZE)
    for offset, width, mask in fields:
        block[offset : offset + width] = mask.to_bytes(width, "little")
    return bytes(block)


_WRITABLE: Final = _masks(
    (PmIo.PMEN, 2, _EVENTS),
    (PmIo.PMCNTRL, 2, int(PmCntrl.SCI_EN | PmCntrl.BRLD_EN_BM) | _SUS_TYP),
    (PmIo.GPEN, 2, 0x0F01),
    (PmIo.PCNTRL, 4, 0x0002_3E1E),
    (PmIo.GLBEN, 2, 0xFFFF),
    (PmIo.GLBCTL, 4, 0xFFFF_FFFF),
    (PmIo.DEVCTL, 4, 0xFFFF_FFFF),
    (PmIo.GPOREG, 4, 0xFFFF_FFFF),
)
_CLEARED_BY_ONE: Final = _masks((PmIo.PMSTS, 2, _STATUS))


def ticks_at(now: int) -> int:
    """Clocks of the power management timer since virtual time 0, at `now` nanoseconds."""
    return now * TIMER_HZ // SECOND_NS


def time_of(tick: int) -> int:
    """The first nanosecond at which `ticks_at` gives `tick`."""
    return -(-tick * SECOND_NS // TIMER_HZ)


@dataclass(slots=True, kw_only=True)
class Piix4Pm(PciFunction):
    """Function 3. `block` is the I/O space without the timer, `now` the last time told; with `wakes` the next reset
    ends suspend to RAM."""

    identity: PciIdentity = wired(default=IDENTITY)
    on_sci: Callable[[bool], None] = wired()
    on_power_off: Callable[[], None] = wired()
    on_reset: Callable[[str], None] = wired()
    on_unmodelled: Callable[[str], None] = wired()
    io: Window = wired()
    block: bytearray = field(default_factory=lambda: bytearray(IO_SIZE))
    apm: bytearray = field(default_factory=lambda: bytearray(2))
    now: int = 0
    sci: bool = False
    wakes: bool = False

    def __post_init__(self) -> None:
        PciFunction.__post_init__(self)
        self.set(Config.STATUS, 2, _MEDIUM_TIMING)
        for register, address in ((PmConfig.PMBA, _PMBA_ADDRESS), (PmConfig.SMBBA, _SMBBA_ADDRESS)):
            self.set(register, 4, _RTE)
            self.allow(register, 4, address)
        kept = PmConfig.PMREGMISC - PmConfig.CNTA
        self.allow(PmConfig.CNTA, kept, (1 << 8 * kept) - 1)
        self.set(PmConfig.DEVACTB, 4, _APMC_EN)
        self.allow(PmConfig.PMREGMISC, 1, _PMIOSE)
        self.allow(PmConfig.SMBHSTCFG, 4, 0xFFFF_FFFF)
        self.power_on()

    def written(self, offset: int, width: int) -> None:
        """PMBA and PMREGMISC decide where the I/O space is."""
        enabled = self.config[PmConfig.PMREGMISC] & _PMIOSE
        base = self.get(PmConfig.PMBA, 4) & _PMBA_ADDRESS
        self.io.move(base if enabled and base else None)

    # -- time ----------------------------------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Let the timer run to `now` nanoseconds."""
        if ticks_at(now) >> _CARRY_SHIFT != ticks_at(self.now) >> _CARRY_SHIFT:
            self._set_status(_TMROF)
        self.now = now
        self._drive_sci()

    def next_deadline(self) -> int | None:
        """When the timer's bit 23 changes, if that would raise the SCI."""
        if self.sci or not self._register(PmIo.PMEN) & _TMROF or not self._register(PmIo.PMCNTRL) & _SCI_EN:
            return None
        return time_of((ticks_at(self.now) >> _CARRY_SHIFT) + 1 << _CARRY_SHIFT)

    # -- the I/O space at PMBA ----------------------------------------------------------------------------------

    def read_io(self, offset: int, width: int) -> int:
        """A read of `width` bytes (1, 2, 4) at `offset`, 0-63; beyond the 64 ports there are ones."""
        if offset <= PmIo.PLVL3 and offset + width > PmIo.PLVL2:
            self.on_unmodelled("PIIX4: clock states 2 and 3 of the processor: it goes on")
        view = bytearray(self.block)
        view[PmIo.PMTMR : PmIo.PMTMR + 4] = (ticks_at(self.now) & _TIMER_MASK).to_bytes(4, "little")
        return int.from_bytes(view[offset : offset + width].ljust(width, b"\xff"), "little")

    def write_io(self, offset: int, width: int, value: int) -> None:
        """A write, as `read_io`."""
        for at, new in enumerate(value.to_bytes(width, "little"), offset):
            if at < IO_SIZE:
                self.block[at] = (self.block[at] & ~_WRITABLE[at] | new & _WRITABLE[at]) & ~(new & _CLEARED_BY_ONE[at])
        self._drive_sci()
        high = _CONTROL_HIGH - offset
        if 0 <= high < width and value >> 8 * high << 8 & _SUS_EN:
            self._suspend()

    def press_power_button(self) -> None:
        """The user presses the power button: an event that the guest may act on."""
        self._set_status(int(PmSts.PWRBTN))
        self._drive_sci()

    def _register(self, offset: int) -> int:
        return int.from_bytes(self.block[offset : offset + 2], "little")

    def _set_status(self, bits: int) -> None:
        self.block[PmIo.PMSTS : PmIo.PMSTS + 2] = (self._register(PmIo.PMSTS) | bits).to_bytes(2, "little")

    def _drive_sci(self) -> None:
        events = self._register(PmIo.PMSTS) & self._register(PmIo.PMEN) & _EVENTS
        level = bool(events and self._register(PmIo.PMCNTRL) & _SCI_EN)
        if level != self.sci:
            self.sci = level
            self.on_sci(level)

    def _suspend(self) -> None:
        kind = (self._register(PmIo.PMCNTRL) & _SUS_TYP) >> _SUS_TYP_SHIFT
        if kind == SuspendType.SOFT_OFF:
            self.on_power_off()
        elif kind == SuspendType.TO_RAM:
            self.wakes = True
            self.on_reset("suspend to RAM")
        elif kind != SuspendType.WORKING:
            self.on_unmodelled(f"PIIX4: suspend type {kind}: woken at once")
            self._set_status(int(PmSts.RSM))

    # -- APM ports -----------------------------------------------------------------------------------------------

    def read_apm(self, offset: int) -> int:
        """Ports B2h (offset 0), APM control, and B3h, APM status: what was written last."""
        return self.apm[offset]

    def write_apm(self, offset: int, value: int) -> None:
        """A command for the SMI handler, of which those for ACPI have an effect; or the status byte."""
        self.apm[offset] = value
        if offset == 0 and value in (Apmc.ACPI_ENABLE, Apmc.ACPI_DISABLE):
            control = self.block[PmIo.PMCNTRL]
            self.block[PmIo.PMCNTRL] = control | _SCI_EN if value == Apmc.ACPI_ENABLE else control & ~_SCI_EN
            self._drive_sci()

    def reset(self) -> None:
        """RST#: no events, ACPI off, the I/O space nowhere. Time goes on."""
        PciFunction.reset(self)
        self.block[:] = bytes(IO_SIZE)
        if self.wakes:
            self.wakes = False
            self._set_status(int(PmSts.RSM))
            self.block[_CONTROL_HIGH] = SuspendType.TO_RAM << _SUS_TYP_SHIFT - 8
        self.apm[:] = bytes(2)
        self._drive_sci()
