"""The one door through which chance enters a VM: host time, keys, serial input, and where preemption struck.

Everything else in a VM follows from its state. So a log of what came through the door, put back in the same order,
makes the same run again: `record` begins a log, `replay` feeds one.
"""

import calendar
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from vmm.devices.keymap import KeyStroke

QUEUE_MAX: Final = 4096
"""Keys, and bytes of serial input, that may wait; what comes on top is refused, and stays with who brought it."""


class ReplayEnd(Exception):
    """The log that is replayed has nothing more: the recorded run was stopped here."""


@dataclass(slots=True)
class DoorLog:
    """What came through: host times in ns, the block count of each run that was preempted (0: it was not), and input.

    `inputs` are (number of the look, kind, payload): keys as [key, modifiers], serial bytes as hexadecimal.
    """

    times: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    inputs: list[tuple[int, str, Any]] = field(default_factory=list)


class Door:
    """Where a VM meets its host. One door a VM; not shared."""

    def __init__(self, host_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._host_ns = host_ns
        self._keys: deque[KeyStroke] = deque()
        self._serial: deque[int] = deque()
        self._log: DoorLog | None = None
        self._replay: DoorLog | None = None
        self._looks = 0
        self._at = {"times": 0, "runs": 0, "inputs": 0}

    # --- from outside ----------------------------------------------------------------------------------

    def post_keys(self, strokes: list[KeyStroke]) -> int:
        """Keys that the user struck, in order; returns how many were taken."""
        taken = strokes[: QUEUE_MAX - len(self._keys)]
        self._keys.extend(taken)
        return len(taken)

    def post_serial(self, data: bytes) -> int:
        """Bytes on their way to the first serial port, in order; returns how many were taken."""
        taken = data[: QUEUE_MAX - len(self._serial)]
        self._serial.extend(taken)
        return len(taken)

    @property
    def serial_backlog(self) -> int:
        """Bytes posted that the UART has not had room for yet."""
        return len(self._serial)

    @property
    def follows_host(self) -> bool:
        """Is `now` CLOCK_MONOTONIC at any time, and does nobody have to know who has asked?"""
        return self._host_ns is time.monotonic_ns and self._log is None and self._replay is None

    @property
    def is_replaying(self) -> bool:
        """Is a log being fed, so that there is nothing to wait for?"""
        return self._replay is not None

    @property
    def is_recording(self) -> bool:
        """Is there a log, which has to know after how many blocks a run was preempted?"""
        return self._log is not None

    def record(self) -> DoorLog:
        """Log everything from now on."""
        self._log = DoorLog()
        return self._log

    def replay(self, log: DoorLog) -> None:
        """From now on, let in what the log says and nothing else. When it ends: ReplayEnd."""
        self._replay = log

    # --- from inside -----------------------------------------------------------------------------------

    def now(self) -> int:
        """Host time in nanoseconds, monotonic."""
        if self._replay is not None:
            return int(self._next("times"))
        value = self._host_ns()
        if self._log is not None:
            self._log.times.append(value)
        return value

    def glance(self) -> int | None:
        """Host time for people to read: it enters no log, so the VM must not see it. None when replaying."""
        return None if self._replay is not None else self._host_ns()

    def wall_clock(self) -> int:
        """Seconds since 1970, in local time, which is what a PC's clock is set to."""
        if self._replay is not None:
            return int(self._next("times"))
        seconds = calendar.timegm(time.localtime())
        if self._log is not None:
            self._log.times.append(seconds)
        return seconds

    def planned_run(self) -> int | None:
        """When replaying: the number of blocks after which the next run is preempted, 0 for never."""
        return None if self._replay is None else int(self._next("runs"))

    def note_run(self, blocks: int) -> None:
        """A run ended: preempted after so many blocks, or by itself (0)."""
        if self._log is not None:
            self._log.runs.append(blocks)

    def look(self, keyboard_room: int, serial_room: int) -> tuple[list[KeyStroke], bytes]:
        """Take what waits, as far as the devices have room for it."""
        self._looks += 1
        if self._replay is not None:
            return self._replayed_inputs()
        keys = [self._keys.popleft() for _ in range(min(keyboard_room, len(self._keys)))]
        data = bytes(self._serial.popleft() for _ in range(min(serial_room, len(self._serial))))
        if self._log is not None:
            self._log.inputs += [(self._looks, "key", [key.key, list(key.modifiers)]) for key in keys]
            if data:
                self._log.inputs.append((self._looks, "serial", data.hex()))
        return keys, data

    def _replayed_inputs(self) -> tuple[list[KeyStroke], bytes]:
        keys: list[KeyStroke] = []
        data = b""
        log = self._replay
        while (
            log is not None
            and self._at["inputs"] < len(log.inputs)
            and log.inputs[self._at["inputs"]][0] == self._looks
        ):
            _, kind, payload = self._next("inputs")
            if kind == "key":
                keys.append(KeyStroke(payload[0], tuple(payload[1])))
            else:
                data += bytes.fromhex(payload)
        return keys, data

    def _next(self, stream: str) -> Any:
        entries, at = getattr(self._replay, stream), self._at[stream]
        if at == len(entries):
            raise ReplayEnd
        self._at[stream] = at + 1
        return entries[at]


class Clock:
    """Virtual time of one VM in nanoseconds since power-on; the only owner of it.

    Virtual time follows the host's, plus what `skip_to` has jumped over.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._origin = door.now()
        self._last = 0

    def now(self) -> int:
        """Virtual nanoseconds; never goes back."""
        self._last = max(self._last, self._door.now() - self._origin)
        return self._last

    @property
    def last(self) -> int:
        """The latest time that anybody in the VM has seen."""
        return self._last

    @property
    def host_origin(self) -> int | None:
        """Host time at virtual time 0, if that is all there is between the two until the next `skip_to` or `set`."""
        return self._origin if self._door.follows_host else None

    def glance(self) -> int:
        """Virtual time for people to read, without letting the VM's own see it."""
        host = self._door.glance()
        return self._last if host is None else max(self._last, host - self._origin)

    def skip_to(self, moment: int) -> None:
        """Let virtual time jump forward to `moment`; nothing if that is past."""
        ahead = moment - self.now()
        if ahead > 0:
            self._origin -= ahead
            self._last = moment

    def set(self, moment: int) -> None:
        """Continue from `moment`: for a VM that was restored, or stood still."""
        self._origin = self._door.now() - moment
        self._last = moment
