"""Motorola MC146818 real-time clock and the PC/AT's 128 bytes of CMOS RAM behind it.

The bytes of the RAM are the clock: guest writes land there and each update cycle counts them on by as many seconds as
have passed. A chain of dividers, running since `chain_start`, gives the update cycles (half a second after its start,
then every second) and the periodic rates; both are exact functions of virtual time.

Source: Motorola MC146818 data sheet, "Address Map", "Update Cycle", "Interrupts", "Register A" to "Register D";
IBM PC/AT Technical Reference, "Real-Time Clock/CMOS RAM Information" (index port 70h, century at 32h).
Not modelled: the SQW pin, time bases other than 32.768 kHz, daylight saving.
"""

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired


class Cell(IntEnum):
    """Addresses in the RAM."""

    SECONDS = 0x00
    SECONDS_ALARM = 0x01
    MINUTES = 0x02
    MINUTES_ALARM = 0x03
    HOURS = 0x04
    HOURS_ALARM = 0x05
    DAY_OF_WEEK = 0x06  # 1 is Sunday
    DATE_OF_MONTH = 0x07
    MONTH = 0x08
    YEAR = 0x09
    A = 0x0A
    B = 0x0B
    C = 0x0C
    D = 0x0D
    CENTURY = 0x32


class RegA(IntFlag):
    """Register A; RS (3:0) and DV (6:4) are fields."""

    RS = 0xF
    DV = 7 << 4
    UIP = 1 << 7  # read only: the update cycle is near or under way


class RegB(IntFlag):
    """Register B."""

    DSE = 1 << 0  # daylight saving
    H24 = 1 << 1  # 24-hour mode
    DM = 1 << 2  # binary, not BCD
    SQWE = 1 << 3
    UIE = 1 << 4
    AIE = 1 << 5
    PIE = 1 << 6
    SET = 1 << 7  # no update cycles


class RegC(IntFlag):
    """Register C: interrupt flags, cleared by reading it."""

    UF = 1 << 4
    AF = 1 << 5
    PF = 1 << 6
    IRQF = 1 << 7


VALID_RAM_AND_TIME: Final = 1 << 7  # register D
NMI_DISABLE: Final = 1 << 7  # of the index port
INDEX_MASK: Final = 0x7F
CMOS_SIZE: Final = 128
PM: Final = 1 << 7  # of an hours byte in 12-hour mode
DONT_CARE: Final = 0xC0  # of an alarm byte

SECOND_NS: Final = 1_000_000_000
HALF_SECOND_NS: Final = SECOND_NS // 2
DAY_S: Final = 86_400
DAYS_IN_400_YEARS: Final = 146_097
TIME_BASE_HZ: Final = 32_768
BEFORE_UPDATE_NS: Final = (244 + 1984) * 1000  # tBUC + tUC: UIP is set this long
_DV_32_KHZ: Final = 0b010 << 4
_DV_RESET: Final = 0b110 << 4
_NEVER: Final = 1 << 128
_ENABLES: Final = int(RegB.PIE | RegB.AIE | RegB.UIE)
_RS: Final = int(RegA.RS)
_DV: Final = int(RegA.DV)
_UIP: Final = int(RegA.UIP)
_DSE: Final = int(RegB.DSE)
_H24: Final = int(RegB.H24)
_DM: Final = int(RegB.DM)
_SQWE: Final = int(RegB.SQWE)
_UIE: Final = int(RegB.UIE)
_AIE: Final = int(RegB.AIE)
_PIE: Final = int(RegB.PIE)
_SET: Final = int(RegB.SET)
_UF: Final = int(RegC.UF)
_AF: Final = int(RegC.AF)
_PF: Final = int(RegC.PF)
_IRQF: Final = int(RegC.IRQF)


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar; `day` may exceed its month. Years count from March."""
    year -= month <= 2
    return _days_to_march(year) + _days_from_march((month + 9) % 12) + day - 1


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970-01-01; the inverse of `days_from_civil`."""
    year = 1970 + days * 400 // DAYS_IN_400_YEARS + 1
    while _days_to_march(year) > days:  # the estimate is at most two years late
        year -= 1
    day_of_year = days - _days_to_march(year)
    month = (5 * day_of_year + 2) // 153
    return year + (month >= 10), (month + 2) % 12 + 1, day_of_year - _days_from_march(month) + 1


def _days_to_march(year: int) -> int:
    """Days from 1970-01-01 to 1 March of a year."""
    return year * 365 + year // 4 - year // 100 + year // 400 - 719_468


def _days_from_march(month: int) -> int:
    """Days from 1 March to the first of the month that comes `month` months later, 0-11."""
    return (153 * month + 2) // 5


@dataclass(slots=True)
class Mc146818:
    """The chip on two ports: index (offset 0, bit 7 masks NMI) and data (offset 1).

    `on_irq(level)` is told the level of the interrupt pin when it changes. `epoch_s` is the UTC time at virtual time
    0, seconds since 1970. `cmos` may be set from outside; registers A, B and D are their bytes in it.
    """

    on_irq: Callable[[bool], None] = wired()
    on_unmodelled: Callable[[str], None] = wired()
    epoch_s: InitVar[int] = 0
    on_nmi_mask: Callable[[bool], None] | None = wired(default=None)
    cmos: bytearray = field(default_factory=lambda: bytearray(CMOS_SIZE))
    index: int = int(Cell.D)
    nmi_masked: bool = False
    flags: int = 0
    irq: bool = False
    now: int = 0
    chain_start: int = -HALF_SECOND_NS
    quiet_until: int = 0

    def __post_init__(self, epoch_s: int) -> None:
        self.cmos[Cell.A] = _DV_32_KHZ | 0b0110  # 1024 Hz, as the PC BIOS sets it
        self.cmos[Cell.B] = int(_H24)
        self.cmos[Cell.D] = VALID_RAM_AND_TIME
        self.set_clock(epoch_s)

    def set_clock(self, epoch_s: int) -> None:
        """Set the time registers to a UTC time, seconds since 1970."""
        day, second = divmod(epoch_s, DAY_S)
        self._put_day(day)
        self._put_time_of_day(second)
        self.cmos[Cell.DAY_OF_WEEK] = (day + 4) % 7 + 1  # 1970-01-01 was a Thursday

    # Time

    def advance(self, now: int) -> None:
        """Bring the clock to absolute virtual time `now`, nanoseconds."""
        before, self.now = self.now, now
        if now < self.quiet_until:
            return
        if self._is_running():
            self._count_periods(before)
            self._update(self._updates_at(now) - self._updates_at(before))
            self._drive_irq()
        self._reckon()

    def next_deadline(self) -> int | None:
        """When the interrupt pin could next rise by itself, nanoseconds."""
        if self.irq or not self._is_running():
            return None
        enabled = self.cmos[Cell.B]
        due = self._next_period() if enabled & _PIE else _NEVER
        if enabled & _UIE and not enabled & _SET:
            due = min(due, self._update_time(1))
        if enabled & _AIE and not enabled & _SET:
            due = min(due, self._update_time(self._seconds_to_alarm()))
        return None if due >= _NEVER else due

    # The processor's side

    def read(self, offset: int) -> int:
        """Data at offset 1; the index port is write only and reads as all ones."""
        if offset == 0:
            return 0xFF
        match self.index:
            case Cell.A:
                return self.cmos[Cell.A] | (_UIP if self._is_update_in_progress() else 0)
            case Cell.C:
                return self._read_flags()
            case _:
                return self.cmos[self.index]

    def write(self, offset: int, value: int) -> None:
        if offset == 0:
            self.index = value & INDEX_MASK
            self._mask_nmi(bool(value & NMI_DISABLE))
            return
        match self.index:
            case Cell.A:
                self._write_a(value)
            case Cell.B:
                self._write_b(value)
            case Cell.C | Cell.D:
                pass  # read only
            case _:
                self.cmos[self.index] = value
        self._reckon()

    def reset(self) -> None:
        """The RESET pin: interrupts and square wave off, time and RAM untouched ("Reset")."""
        self.cmos[Cell.B] &= ~(_ENABLES | _SQWE)
        self.flags = 0
        self._mask_nmi(False)
        self._drive_irq()
        self._reckon()

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)

    # Registers

    def _mask_nmi(self, masked: bool) -> None:
        if masked != self.nmi_masked:
            self.nmi_masked = masked
            if self.on_nmi_mask is not None:
                self.on_nmi_mask(masked)

    def _read_flags(self) -> int:
        flags, self.flags = self.flags, 0
        if flags & self.cmos[Cell.B] & _ENABLES:
            flags |= _IRQF
        self._drive_irq()
        self._reckon()
        return flags

    def _write_a(self, value: int) -> None:
        was_running = self._is_running()
        self.cmos[Cell.A] = value & ~_UIP
        if not self._is_running():
            return
        if value & _DV != _DV_32_KHZ:
            self.on_unmodelled(f"MC146818: divider {value >> 4 & 7:03b}: taken as the 32.768 kHz time base")
        if not was_running:
            self.chain_start = self.now  # the first update is half a second away

    def _write_b(self, value: int) -> None:
        if value & _SET:
            value &= ~_UIE
        if value & _DSE:
            self.on_unmodelled("MC146818: daylight saving: the clock stays on standard time")
        self.cmos[Cell.B] = value
        self._drive_irq()

    def _drive_irq(self) -> None:
        level = bool(self.flags & self.cmos[Cell.B] & _ENABLES)
        if level != self.irq:
            self.irq = level
            self.on_irq(level)

    # The divider chain

    def _is_running(self) -> bool:
        return self.cmos[Cell.A] & _DV_RESET != _DV_RESET

    def _updates_at(self, now: int) -> int:
        """Update cycles since the chain was started."""
        return (now - self.chain_start + HALF_SECOND_NS) // SECOND_NS

    def _update_time(self, ahead: int) -> int:
        """When the update cycle that comes `ahead`-th from now ends, nanoseconds."""
        return self.chain_start - HALF_SECOND_NS + (self._updates_at(self.now) + ahead) * SECOND_NS

    def _is_update_in_progress(self) -> bool:
        if not self._is_running() or self.cmos[Cell.B] & _SET:
            return False
        return self._update_time(1) - self.now <= BEFORE_UPDATE_NS

    def _period(self) -> int:
        """The periodic rate in pulses of the time base, 0 for none ("Periodic Interrupt Rate")."""
        rate = self.cmos[Cell.A] & _RS
        if rate == 0:
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _pulses_at(self, now: int) -> int:
        return (now - self.chain_start) * TIME_BASE_HZ // SECOND_NS

    def _next_period(self) -> int:
        period = self._period()
        if not period:
            return _NEVER
        pulse = (self._pulses_at(self.now) // period + 1) * period
        return self.chain_start - (-pulse * SECOND_NS // TIME_BASE_HZ)

    def _count_periods(self, before: int) -> None:
        period = self._period()
        if period and self._pulses_at(self.now) // period > self._pulses_at(before) // period:
            self.flags |= _PF

    def _reckon(self) -> None:
        """Work out until when `advance` has nothing to do."""
        if not self._is_running():
            self.quiet_until = _NEVER
            return
        update = self._update_time(1)
        self.quiet_until = update if self.flags & _PF else min(update, self._next_period())

    # The clock

    def _update(self, seconds: int) -> None:
        """Run `seconds` update cycles at once."""
        if not seconds or self.cmos[Cell.B] & _SET:
            return
        self.flags |= _UF
        if self._seconds_to_alarm() <= seconds:
            self.flags |= _AF
        days, second = divmod(self._time_of_day() + seconds, DAY_S)
        self._put_time_of_day(second)
        if days:
            self._put_day(self._day() + days)
            self.cmos[Cell.DAY_OF_WEEK] = (self.cmos[Cell.DAY_OF_WEEK] - 1 + days) % 7 + 1

    def _seconds_to_alarm(self) -> int:
        """Update cycles until the time matches the alarm bytes, 1 to a day; `_NEVER` if they match no time."""
        hours = self._alarm_values(self._hours_from(self.cmos[Cell.HOURS_ALARM]), Cell.HOURS_ALARM, 24)
        minutes = self._alarm_values(self._decode(self.cmos[Cell.MINUTES_ALARM]), Cell.MINUTES_ALARM, 60)
        seconds = self._alarm_values(self._decode(self.cmos[Cell.SECONDS_ALARM]), Cell.SECONDS_ALARM, 60)
        if not (hours and minutes and seconds):
            return _NEVER
        now = self._time_of_day() % DAY_S  # senseless bytes may add up to more than a day
        hour, minute = now // 3600, now // 60 % 60
        earliest = minutes[0] * 60 + seconds[0]
        candidates = [hour * 3600 + minute * 60 + s for s in seconds if hour in hours and minute in minutes]
        candidates += [hour * 3600 + m * 60 + seconds[0] for m in minutes if hour in hours and m > minute]
        candidates += [h * 3600 + earliest for h in hours if h > hour]
        candidates.append(DAY_S + hours[0] * 3600 + earliest)
        return min(candidate for candidate in candidates if candidate > now) - now

    def _alarm_values(self, value: int, cell: Cell, limit: int) -> range:
        if self.cmos[cell] & DONT_CARE == DONT_CARE:
            return range(limit)
        return range(value, value + 1) if value < limit else range(0)

    def _time_of_day(self) -> int:
        cmos = self.cmos
        minutes = self._hours_from(cmos[Cell.HOURS]) * 60 + self._decode(cmos[Cell.MINUTES])
        return minutes * 60 + self._decode(cmos[Cell.SECONDS])

    def _put_time_of_day(self, second: int) -> None:
        self.cmos[Cell.SECONDS] = self._encode(second % 60)
        self.cmos[Cell.MINUTES] = self._encode(second // 60 % 60)
        self.cmos[Cell.HOURS] = self._hours_to(second // 3600)

    def _day(self) -> int:
        """The date as days since 1970-01-01; a month that is none counts as the nearest that is."""
        cmos = self.cmos
        year = self._decode(cmos[Cell.CENTURY]) * 100 + self._decode(cmos[Cell.YEAR])
        month = min(max(self._decode(cmos[Cell.MONTH]), 1), 12)
        return days_from_civil(year, month, self._decode(cmos[Cell.DATE_OF_MONTH]))

    def _put_day(self, day: int) -> None:
        year, month, date = civil_from_days(day)
        self.cmos[Cell.DATE_OF_MONTH] = self._encode(date)
        self.cmos[Cell.MONTH] = self._encode(month)
        self.cmos[Cell.YEAR] = self._encode(year % 100)
        self.cmos[Cell.CENTURY] = self._encode(year // 100 % 100)

    def _hours_from(self, value: int) -> int:
        if self.cmos[Cell.B] & _H24:
            return self._decode(value)
        return self._decode(value & ~PM) % 12 + (12 if value & PM else 0)

    def _hours_to(self, hour: int) -> int:
        if self.cmos[Cell.B] & _H24:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (PM if hour >= 12 else 0)

    def _decode(self, value: int) -> int:
        return value if self.cmos[Cell.B] & _DM else (value >> 4) * 10 + (value & 0xF)

    def _encode(self, value: int) -> int:
        return value if self.cmos[Cell.B] & _DM else value // 10 << 4 | value % 10
