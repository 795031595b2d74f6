"""What the front ends ask of a running machine, and the two queues that stand before its door.

The protocols say exactly what the command line uses of `vmm.machine` and `vmm.monitor`, so that it can be tested with
neither. Keys and serial bytes are paced here, in host memory that only the user can fill: a keyboard has a buffer of a
few keys and a UART one of sixteen bytes, and what does not fit there is lost in a real machine, too.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from vmm.outcome import Outcome
from vmm.trace import TraceEvent

if TYPE_CHECKING:
    from vmm.devices.keymap import KeyStroke
    from vmm.screen import GraphicsScreen, TextScreen

KEY_GAP_NS: Final = 20_000_000  # 50 keys a second: faster than typematic repeat, and the INT 16h buffer holds 15
PASTE_GAP_NS: Final = 5_000_000  # the wire to a PS/2 keyboard carries some 300 keys a second
UNREAD_MAX: Final = 8  # of the 15 keys that the buffer holds
PATIENCE_NS: Final = 2_000_000_000
_BUFFER_POINTERS: Final = 0x41A
_BUFFER_BOUNDS: Final = 0x480
SERIAL_BACKLOG: Final = 64  # bytes at the door at a time: a few receive FIFOs
SERIAL_LOG_MAX: Final = 1 << 20

ByteSink = Callable[[bytes], None]


class Door(Protocol):
    """The one place where the outside world enters a VM."""

    def post_keys(self, strokes: "list[KeyStroke]") -> int:
        """Post keys; returns how many were taken."""

    def post_serial(self, data: bytes) -> int:
        """Post bytes; returns how many were taken."""

    @property
    def serial_backlog(self) -> int:
        """Bytes posted that the UART has not had room for yet."""

    @property
    def is_replaying(self) -> bool:
        """Whether a recording is being fed; it ends in a ReplayEnd."""


class Memory(Protocol):
    """Guest-physical memory, to look at."""

    def read(self, gpa: int, count: int) -> bytes: ...


class Guest(Protocol):
    """A VM, as far as the command line knows one."""

    @property
    def memory(self) -> Memory: ...

    @property
    def door(self) -> Door: ...

    serial_out: list[ByteSink]
    debugcon_out: list[ByteSink]
    on_trace: Callable[[TraceEvent], None] | None

    @property
    def now(self) -> int:
        """The latest virtual time that the guest has seen, in nanoseconds; looking at it must not move it."""

    def screen(self) -> "TextScreen | GraphicsScreen": ...

    def stats_json(self) -> dict[str, Any]: ...

    def reset(self) -> None: ...


class Runner(Protocol):
    """A monitor, as far as the command line knows one."""

    wake_fds: set[int]

    def run_slice(self, vm: Any, host_seconds: float) -> Outcome | None: ...

    def stop(self) -> None: ...


class Typist:
    """Keystrokes on their way to the keyboard, one every 20 ms of guest time; those of a paste come faster.

    The buffer of INT 16h holds 15 keys and drops what comes on top. While it is half full the next key waits, as a
    typist does who watches the screen, but not for ever: the guest may read its keyboard in another way.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._waiting: deque[tuple[KeyStroke, int]] = deque()
        self._next_at = 0

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """Strokes not handed over yet."""
        return len(self._waiting)

    def type(self, strokes: "Sequence[KeyStroke]", gap_ns: int = KEY_GAP_NS) -> None:
        """Strike these keys, each at least `gap_ns` of guest time before the next."""
        self._waiting.extend((stroke, gap_ns) for stroke in strokes)

    def pump(self) -> bool:
        """Hand over the next key if its time has come; returns whether it did."""
        now = self._guest.now
        if not self._waiting or now < self._next_at:
            return False
        if unread_keys(self._guest.memory) >= UNREAD_MAX and now < self._next_at + PATIENCE_NS:
            return False
        stroke, gap_ns = self._waiting[0]
        if not self._guest.door.post_keys([stroke]):
            return False
        self._waiting.popleft()
        self._next_at = now + gap_ns
        return True


def unread_keys(memory: Memory) -> int:
    """How many keys wait in the buffer of INT 16h; 0 where the guest keeps something else there.

    Source: IBM PC/AT Technical Reference, "ROM BIOS", data area 40h: words 1Ah head, 1Ch tail, 80h start, 82h end.
    """
    words = memory.read(_BUFFER_POINTERS, 4) + memory.read(_BUFFER_BOUNDS, 4)
    head, tail, start, end = (int.from_bytes(words[at : at + 2], "little") for at in range(0, 8, 2))
    if not (start <= head < end and start <= tail < end):
        return 0
    return (tail - head) % (end - start) // 2


class SerialFeed:
    """Bytes on their way to the serial port, no more at the door than the guest takes away."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._waiting = bytearray()

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """Bytes not handed over yet."""
        return len(self._waiting)

    def feed(self, data: bytes) -> None:
        self._waiting += data

    def pump(self) -> bool:
        """Hand over what there is room for at the door; returns whether that was anything."""
        room = SERIAL_BACKLOG - self._guest.door.serial_backlog
        if not self._waiting or room <= 0:
            return False
        taken = self._guest.door.post_serial(bytes(self._waiting[:room]))
        del self._waiting[:taken]
        return taken > 0


class SerialLog:
    """The last MiB of what the guest sent, addressed by position since the start."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._dropped = 0

    def __call__(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * SERIAL_LOG_MAX:  # trimmed by halves, so that trimming costs nothing on average
            surplus = len(self._data) - SERIAL_LOG_MAX
            del self._data[:surplus]
            self._dropped += surplus

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self._dropped + len(self._data)

    def text(self, start: int = 0) -> str:
        """One character a byte, from position `start` on as far as it is still held."""
        return self._data[max(0, start - self._dropped) :].decode("latin-1")
