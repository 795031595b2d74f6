"""Intel 8254 programmable interval timer.

A counter is not stepped. It keeps the tick at which its counting element (CE) was last loaded, and everything else,
OUT, the count, the next edge, is exact integer arithmetic on the ticks elapsed since: there is no drift, and a jump
over an idle hour costs as much as one tick.

Edges: `on_out` is told each change of OUT with the `advance` that passes it. When one call passes several periods,
the missed ones are delivered as a single low-high pair: late ticks coalesce, as they do in an 8259A.

Source: Intel 8254 data sheet, "Mode Definitions", "Read-Back Command", "Operation Common to All Modes";
82371SB (PIIX3) for the clock of the PC, 1.193182 MHz.
Not modelled: a count of 1 in modes 2 and 3 ("illegal"): OUT stays high.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired

CLOCK_HZ: Final = 1_193_182
SECOND_NS: Final = 1_000_000_000
COUNTERS: Final = 3
CONTROL_WORD: Final = 3  # the offset of the control word register
NOT_DRIVEN: Final = 0xFF  # reading the control word register leaves the bus in high impedance

_NEVER: Final = 1 << 128


class Mode(IntEnum):
    """Counter modes ("Mode Definitions")."""

    TERMINAL_COUNT = 0
    ONE_SHOT = 1
    RATE_GENERATOR = 2
    SQUARE_WAVE = 3
    SOFTWARE_STROBE = 4
    HARDWARE_STROBE = 5


class Access(IntEnum):
    """RW field of the control word."""

    LATCH = 0  # the counter latch command
    LSB = 1
    MSB = 2
    BOTH = 3  # least significant byte first


class ReadBack(IntFlag):
    """Read-back command; both latch bits are active low."""

    NOT_STATUS = 1 << 4
    NOT_COUNT = 1 << 5


class Status(IntFlag):
    """Status byte, above the six low bits, which repeat the control word."""

    NULL_COUNT = 1 << 6
    OUT = 1 << 7


_PERIODIC: Final = frozenset({Mode.RATE_GENERATOR, Mode.SQUARE_WAVE})
_TRIGGERED: Final = frozenset({Mode.ONE_SHOT, Mode.HARDWARE_STROBE})
_SELECT_READ_BACK: Final = 3


def ticks_at(now: int) -> int:
    """Clock pulses since virtual time 0, at `now` nanoseconds."""
    return now * CLOCK_HZ // SECOND_NS


def time_of(tick: int) -> int:
    """The first nanosecond at which `ticks_at` gives `tick`."""
    return -(-tick * SECOND_NS // CLOCK_HZ)


@dataclass(frozen=True, slots=True)
class Edges:
    """When OUT moves, in ticks since CE was loaded; `period` 0 means once. None: it does not."""

    fall: int | None
    rise: int | None
    period: int = 0

    def next_after(self, first: int | None, elapsed: int) -> int:
        """The first occurrence after `elapsed` of the edge that comes first at `first`."""
        if first is None:
            return _NEVER
        if elapsed < first:
            return first
        return first + ((elapsed - first) // self.period + 1) * self.period if self.period else _NEVER


_NO_EDGES: Final = Edges(None, None)


def _halves(count: int) -> tuple[int, int]:
    """Ticks of the high and of the low half wave in mode 3: an odd count is high one tick longer."""
    return (count + 1) // 2, count // 2


def _edges_of(mode: int, count: int, high_first: bool) -> Edges:
    """The edges of OUT after CE was loaded with `count`."""
    high, low = _halves(count)
    match mode:
        case Mode.TERMINAL_COUNT | Mode.ONE_SHOT:
            return Edges(None, count)
        case Mode.SOFTWARE_STROBE | Mode.HARDWARE_STROBE:
            return Edges(count, count + 1)
        case _ if count == 1:
            return _NO_EDGES
        case Mode.RATE_GENERATOR:
            return Edges(count - 1, count, count)
        case _:
            return Edges(high, count, count) if high_first else Edges(count, low, count)


@dataclass(slots=True)
class Counter:
    """One counter. All times are ticks; `tick` is the present.

    `origin` is when CE was loaded with `active`; while counting is suspended `frozen` holds the ticks elapsed then.
    `load_at` is when the count register goes to CE, None when nothing is due. `idle`: nothing was loaded since the
    control word (in mode 0: since the last write), OUT is at its initial level and CE stands at `resting`.
    `high_first` is the level of OUT in the first half wave after a load in mode 3, `strobed` tells that the pulse
    of mode 4 is over though GATE holds the count at 0. `rise_at` is when OUT rises next, or a load on the way
    there.
    """

    name: str = wired()
    on_unmodelled: Callable[[str], None] = wired()
    on_out: Callable[[bool], None] | None = wired(default=None)
    tick: int = 0
    mode: int = int(Mode.TERMINAL_COUNT)
    access: int = int(Access.BOTH)
    bcd: bool = False
    gate: bool = True
    count_register: int | None = None
    low_byte: int | None = None
    null_count: bool = True
    idle: bool = True
    resting: int = 0
    active: int = 0
    origin: int = 0
    frozen: int | None = None
    load_at: int | None = None
    high_first: bool = True
    strobed: bool = False
    pin: bool = False
    read_high: bool = False
    latched: list[int] = field(default_factory=list)
    latched_status: int | None = None
    rise_at: int | None = None
    quiet_until: int = 0

    # Time

    def advance(self, tick: int) -> None:
        """Move the present to `tick`, delivering the edges of OUT on the way."""
        if tick < self.quiet_until:
            self.tick = tick
            return
        if self.load_at is not None and self.load_at <= tick:
            self._run_to(self.load_at)
            self._load(self.load_at)
        self._run_to(tick)
        self._reckon()

    def elapsed(self) -> int:
        return self.tick - self.origin if self.frozen is None else self.frozen

    def out(self) -> bool:
        """The level of OUT now."""
        if self.idle:
            return self.mode != Mode.TERMINAL_COUNT
        elapsed = self.elapsed()
        match self.mode:
            case Mode.TERMINAL_COUNT | Mode.ONE_SHOT:
                return elapsed >= self.active
            case Mode.RATE_GENERATOR:
                return self.frozen is not None or self.active == 1 or elapsed % self.active != self.active - 1
            case Mode.SQUARE_WAVE:
                return self.frozen is not None or self.active == 1 or self._is_high_half(elapsed)
            case _:
                return elapsed != self.active or self.strobed

    def count(self) -> int:
        """What a read of CE gives now, as the 16 bits on the bus."""
        if self.idle:
            return self.resting
        modulus = 10_000 if self.bcd else 0x1_0000
        elapsed = self.elapsed()
        match self.mode:
            case Mode.RATE_GENERATOR:
                value = self.active - elapsed % self.active
            case Mode.SQUARE_WAVE:
                value = self._square_wave_count(elapsed)
            case _:
                value = self.active - elapsed
        value %= modulus
        return int(str(value), 16) if self.bcd else value

    # The processor's side

    def control(self, access: int, mode: int, bcd: bool) -> None:
        """A control word for this counter: OUT goes to its initial level, counting waits for a count."""
        self._stop_counting()
        self.access, self.mode, self.bcd = access, mode, bcd
        self.count_register = self.low_byte = self.load_at = self.latched_status = None
        self.latched.clear()
        self.null_count, self.read_high = True, False
        self._drive_out(self.out())
        self._reckon()

    def write(self, value: int) -> None:
        if self.access == Access.BOTH and self.low_byte is None:
            self.low_byte = value
            if self.mode == Mode.TERMINAL_COUNT:  # the first byte disables counting and sets OUT low at once
                self._stop_counting()
                self.load_at = None
        else:
            self._write_count(value << 8 | (self.low_byte or 0) if self.access != Access.LSB else value)
            self.low_byte = None
        self._drive_out(self.out())
        self._reckon()

    def read(self) -> int:
        if self.latched_status is not None:
            status, self.latched_status = self.latched_status, None
            return status
        if self.latched:
            return self.latched.pop(0)
        count = self.count()
        high = self.access == Access.MSB or (self.access == Access.BOTH and self.read_high)
        self.read_high = self.access == Access.BOTH and not self.read_high
        return count >> 8 if high else count & 0xFF

    def latch_count(self) -> None:
        """The counter latch command; ignored while an earlier latch is unread."""
        if self.latched:
            return
        low_high = list(self.count().to_bytes(2, "little"))
        self.latched = {Access.LSB: low_high[:1], Access.MSB: low_high[1:]}.get(Access(self.access), low_high)
        self.read_high = False

    def latch_status(self) -> None:
        if self.latched_status is not None:
            return
        null = Status.NULL_COUNT if self.null_count else 0
        out = Status.OUT if self.out() else 0
        self.latched_status = int(out | null) | self.access << 4 | self.mode << 1 | int(self.bcd)

    def set_gate(self, level: bool) -> None:
        """Drive the GATE input ("Gate Pin Operations Summary")."""
        if level == self.gate:
            return
        self.gate = level
        if self.mode in _TRIGGERED:
            if level and self.count_register is not None:
                self.load_at = self.tick + 1
        elif self.mode in _PERIODIC:
            self._gate_periodic(level)
        elif level:
            self._resume()
        else:
            self._suspend()
        self._drive_out(self.out())
        self._reckon()

    # Inside

    def _rise_after_load(self, load_at: int) -> int:
        """The first rising edge that a first load brings; for a reload in mid-cycle the load itself."""
        if not self.idle and self.mode != Mode.SOFTWARE_STROBE:
            return load_at
        rise = _edges_of(self.mode, self._initial_count(), True).rise
        return _NEVER if rise is None or not (self.gate or self.mode in _TRIGGERED) else load_at + rise

    def _write_count(self, value: int) -> None:
        """A whole count reached the count register; decide when it goes to CE."""
        if self.bcd and not f"{value:x}".isdecimal():
            self.on_unmodelled(f"8254 {self.name}: BCD count {value:x}h is no decimal number: taken as binary")
        self.count_register = value
        self.null_count = True
        if self.mode == Mode.TERMINAL_COUNT:
            self._stop_counting()
            self.load_at = self.tick + 1
        elif self.mode == Mode.SOFTWARE_STROBE or (self.mode in _PERIODIC and self.idle):
            self.load_at = self.load_at or self.tick + 1
        elif self.mode in _PERIODIC and self.frozen is None and self.load_at is None:
            self.load_at = self._end_of_cycle()

    def _end_of_cycle(self) -> int:
        """When a new count takes effect: mode 2 ends its period first, mode 3 its half wave."""
        edges = self._edges()
        elapsed = self.elapsed()
        ends = edges.next_after(edges.rise, elapsed)
        if self.mode == Mode.SQUARE_WAVE:
            ends = min(ends, edges.next_after(edges.fall, elapsed))
        return self.tick + 1 if ends >= _NEVER else self.origin + ends

    def _gate_periodic(self, level: bool) -> None:
        if not level:
            self._suspend()
            if not self.idle:
                self.load_at = None  # a count in waiting is now taken by the trigger
        elif not self.idle:
            self.load_at = self.tick + 1

    def _load(self, at: int) -> None:
        """CE takes the count register."""
        self.high_first = self.idle or self.frozen is not None or self._is_high_half(self.elapsed())
        self.active = self._initial_count()
        self.origin, self.load_at = at, None
        self.idle = self.null_count = self.strobed = False
        self.frozen = 0 if not self.gate and self.mode not in _TRIGGERED else None
        if self.active == 1 and self.mode in _PERIODIC:
            self.on_unmodelled(f"8254 {self.name}: count 1 in mode {self.mode}: OUT stays high")
        self._drive_out(self.out())

    def _initial_count(self) -> int:
        """The number in the count register; 0 is the largest."""
        digits = f"{self.count_register or 0:x}"
        value = int(digits, 10 if self.bcd and digits.isdecimal() else 16)
        return value or (10_000 if self.bcd else 0x1_0000)

    def _stop_counting(self) -> None:
        self.resting = self.count()
        self.idle, self.frozen = True, None

    def _suspend(self) -> None:
        if self.frozen is None and not self.idle:
            self.frozen = self.elapsed()

    def _resume(self) -> None:
        if self.frozen is not None:
            self.origin = self.tick - self.frozen
            self.frozen = None

    def _is_high_half(self, elapsed: int) -> bool:
        high, low = _halves(self.active)
        phase = elapsed % self.active
        return phase < high if self.high_first else phase >= low

    def _square_wave_count(self, elapsed: int) -> int:
        """CE in mode 3 goes down by two, twice a period, from an even number."""
        first = _halves(self.active)[0 if self.high_first else 1]
        phase = elapsed % self.active
        into_half = phase if phase < first else phase - first
        return (self.active & ~1) - 2 * into_half

    def _edges(self) -> Edges:
        return _NO_EDGES if self.idle else _edges_of(self.mode, self.active, self.high_first)

    def _run_to(self, tick: int) -> None:
        """Count on to `tick` without a load on the way."""
        edges = self._edges()
        rises = edges.next_after(edges.rise, self.elapsed())
        self.strobed = self.strobed or (self._is_held_in_strobe() and tick > self.tick)
        self.tick = tick
        if rises <= self.elapsed():
            self._drive_out(False)
            self._drive_out(True)
        self._drive_out(self.out())

    def _is_held_in_strobe(self) -> bool:
        """GATE stops the count of mode 4 at 0, but has no effect on OUT, low for one tick (data sheet, "Mode 4")."""
        return self.mode == Mode.SOFTWARE_STROBE and self.frozen == self.active and not self.idle and not self.strobed

    def _reckon(self) -> None:
        """Work out the next rise, and until when `advance` has nothing to do. Nobody sees the edges of a pin that is
        not wired, and counter 1 has one every 15 us.
        """
        if self.on_out is None:
            self.quiet_until = _NEVER if self.load_at is None else self.load_at
            if self._is_held_in_strobe():
                self.quiet_until = self.tick + 1
            return
        edges, elapsed = self._edges(), self.elapsed()
        rise = fall = _NEVER
        if self.frozen is None:
            rise = self.origin + edges.next_after(edges.rise, elapsed)
            fall = self.origin + edges.next_after(edges.fall, elapsed)
        elif self._is_held_in_strobe():
            rise = self.tick + 1
        load = _NEVER if self.load_at is None else self.load_at
        self.quiet_until = min(rise, fall, load)
        if rise > load:
            rise = self._rise_after_load(load)
        self.rise_at = None if rise >= _NEVER else rise

    def _drive_out(self, level: bool) -> None:
        if level == self.pin:
            return
        self.pin = level
        if self.on_out is not None:
            self.on_out(level)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)


@dataclass(slots=True)
class I8254:
    """The chip on four ports: counters 0-2 and the control word register.

    `on_out` is the board's wiring of OUT0-OUT2, None for a pin that is only polled through `out`.
    """

    on_unmodelled: Callable[[str], None] = wired()
    on_out: tuple[Callable[[bool], None] | None, ...] = wired(default=(None, None, None))
    counters: list[Counter] = field(init=False)

    def __post_init__(self) -> None:
        self.counters = [
            Counter(f"counter {index}", self.on_unmodelled, on_out) for index, on_out in enumerate(self.on_out)
        ]

    def advance(self, now: int) -> None:
        """Bring the chip to absolute virtual time `now`, nanoseconds."""
        tick = ticks_at(now)
        for counter in self.counters:
            counter.advance(tick)

    def next_deadline(self) -> int | None:
        """When the next rising edge of a wired OUT is due, nanoseconds; a falling edge alone wakes nobody."""
        due = [counter.rise_at for counter in self.counters if counter.on_out is not None]
        tick = min((tick for tick in due if tick is not None), default=None)
        return None if tick is None else time_of(tick)

    def set_gate(self, index: int, level: bool) -> None:
        self.counters[index].set_gate(level)

    def out(self, index: int) -> bool:
        """The level of OUT of a counter now."""
        return self.counters[index].out()

    def read(self, offset: int) -> int:
        return NOT_DRIVEN if offset == CONTROL_WORD else self.counters[offset].read()

    def write(self, offset: int, value: int) -> None:
        if offset != CONTROL_WORD:
            self.counters[offset].write(value)
        elif value >> 6 == _SELECT_READ_BACK:
            self._read_back(value)
        else:
            self._control_word(self.counters[value >> 6], value)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)

    def _control_word(self, counter: Counter, value: int) -> None:
        access = value >> 4 & 3
        if access == Access.LATCH:
            counter.latch_count()
            return
        mode = value >> 1 & 7
        counter.control(access, mode & 3 if mode > Mode.HARDWARE_STROBE else mode, bool(value & 1))

    def _read_back(self, value: int) -> None:
        for index, counter in enumerate(self.counters):
            if not value >> (index + 1) & 1:
                continue
            if not value & ReadBack.NOT_COUNT:
                counter.latch_count()
            if not value & ReadBack.NOT_STATUS:
                counter.latch_status()
