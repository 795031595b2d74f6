"""The timer of a local APIC: one-shot, periodic, or a deadline of the time-stamp counter.

The count falls once in `divisor` nanoseconds: the clock of this board's APIC has 1 GHz, as its time-stamp counter.

Source: Intel SDM Vol. 3A, "APIC Timer", "TSC-Deadline Mode".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired

CLOCK_NS: Final = 1
DIVIDE_WRITABLE: Final = 0b1011
_DIVIDE_HIGH: Final = 1 << 3
_DIVIDE_LOW: Final = 0b11
_MASK64: Final = (1 << 64) - 1
_NEVER: Final = 1 << 60
"""Nanoseconds, more than thirty years: nothing on a board waits so long."""


class TimerMode(IntEnum):
    """Bits 18:17 of the LVT timer register."""

    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2
    RESERVED = 3


def divisor(configuration: int) -> int:
    """What the divide configuration register stands for: 2 to 128 for bits 3, 1, 0 from 000 to 110, and 1 for 111."""
    code = (configuration & _DIVIDE_HIGH) >> 1 | configuration & _DIVIDE_LOW
    return 1 << (code + 1 & 7)


@dataclass(slots=True)
class LocalApicTimer:
    """`wait_for_tsc(count, now)`: nanoseconds from `now` until the guest's TSC reaches `count`; 0: it has.

    `due` is when the count is 0, in nanoseconds of virtual time, None for a timer that stands. `deadline` is
    IA32_TSC_DEADLINE, 64 bits, 0 when it is not armed.
    """

    wait_for_tsc: Callable[[int, int], int] = wired()
    mode: TimerMode = TimerMode.ONE_SHOT
    initial: int = 0
    divide: int = 0
    due: int | None = None
    deadline: int = 0
    now: int = 0

    @property
    def count(self) -> int:
        """The current count, 32 bits."""
        return 0 if self.due is None else -(-(self.due - self.now) // self._tick)

    @property
    def _tick(self) -> int:
        return CLOCK_NS * divisor(self.divide)

    def set_mode(self, mode: TimerMode) -> None:
        """Into and out of TSC-deadline mode the timer is disarmed; between the others it goes on as it is."""
        if mode != self.mode and TimerMode.TSC_DEADLINE in (mode, self.mode):
            self.initial = self.deadline = 0
            self.due = None
        self.mode = mode

    def set_initial(self, count: int) -> None:
        """The initial-count register, 32 bits: starts the timer, and stops it with 0. Ignored in TSC-deadline mode."""
        if self.mode == TimerMode.TSC_DEADLINE:
            return
        self.initial = count
        self.due = self.now + count * self._tick if count else None

    def set_divide(self, configuration: int) -> None:
        """The divide configuration register: the count goes on from where it is."""
        count = self.count
        self.divide = configuration & DIVIDE_WRITABLE
        if self.due is not None:
            self.due = self.now + count * self._tick

    def set_deadline(self, count: int) -> None:
        """IA32_TSC_DEADLINE, 64 bits; 0 disarms. Ignored in the other modes."""
        if self.mode == TimerMode.TSC_DEADLINE:
            self.deadline = count & _MASK64

    def advance(self, now: int) -> bool:
        """Let time go on to `now`, nanoseconds; whether the timer has run out at least once on the way."""
        self.now = now
        if self.deadline:
            runs_out = not self.wait_for_tsc(self.deadline, now)
            if runs_out:
                self.deadline = 0
            return runs_out
        if self.due is None or now < self.due:
            return False
        period = self.initial * self._tick
        self.due = now + period - (now - self.due) % period if self.mode == TimerMode.PERIODIC else None
        return True

    def next_deadline(self) -> int | None:
        """When it runs out next, nanoseconds."""
        if not self.deadline:
            return self.due
        wait = self.wait_for_tsc(self.deadline, self.now)
        return self.now + wait if wait < _NEVER else None

    def reset(self) -> None:
        """All registers 0, the timer stands."""
        self.mode = TimerMode.ONE_SHOT
        self.initial = self.divide = self.deadline = 0
        self.due = None

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
