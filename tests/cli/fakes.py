"""A machine and a monitor for tests of the command line: what they do is a list of slices."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmm.cli.guest import ByteSink
from vmm.devices.keymap import KeyStroke
from vmm.outcome import Outcome
from vmm.screen import Cursor, TextScreen
from vmm.trace import TraceEvent

MILLISECOND = 1_000_000
PALETTE = tuple((n * 16, n * 16, n * 16) for n in range(16))
EMPTY_STATS: dict[str, Any] = {
    "blocks": 0,
    "instructions_translated": 0,
    "critical": {},
    "host_code": {},
    "callouts": {},
    "exits": {},
    "interrupts": {},
    "unmodelled": {},
    "time": {"virtual_ns": 0, "wall_s": 0.0},
}


def text_screen(text: str, cursor: tuple[int, int] | None = None, attribute: int = 7) -> TextScreen:
    """An 80x25 screen that shows `text` from its upper left corner."""
    lines = [line.ljust(80)[:80] for line in text.split("\n")] + [" " * 80] * 25
    codes = "".join(lines[:25]).encode("cp437")
    cells = bytes(byte for code in codes for byte in (code, attribute))
    x, y = cursor or (0, 0)
    return TextScreen(80, 25, cells, Cursor(x, y, 13, 14, cursor is not None), PALETTE, False)


@dataclass
class FakeDoor:
    keys: list[KeyStroke] = field(default_factory=list)
    serial: bytearray = field(default_factory=bytearray)
    serial_backlog: int = 0
    is_replaying: bool = False

    def post_keys(self, strokes: list[KeyStroke]) -> int:
        self.keys += strokes
        return len(strokes)

    def post_serial(self, data: bytes) -> int:
        self.serial += data
        return len(data)


@dataclass
class FakeMemory:
    """Zeros, but for what a test puts there."""

    bytes_at: dict[int, bytes] = field(default_factory=dict)

    def read(self, gpa: int, count: int) -> bytes:
        return self.bytes_at.get(gpa, b"").ljust(count, b"\0")[:count]


@dataclass
class FakeGuest:
    """Shows `text`; every slice lets 20 ms go by."""

    text: str = ""
    now: int = 0
    resets: int = 0
    memory: FakeMemory = field(default_factory=FakeMemory)
    door: FakeDoor = field(default_factory=FakeDoor)
    serial_out: list[ByteSink] = field(default_factory=list)
    debugcon_out: list[ByteSink] = field(default_factory=list)
    on_trace: Callable[[TraceEvent], None] | None = None

    def screen(self) -> TextScreen:
        return text_screen(self.text)

    def stats_json(self) -> dict[str, Any]:
        return dict(EMPTY_STATS)

    def reset(self) -> None:
        self.resets += 1

    def say(self, data: bytes) -> None:
        for sink in self.serial_out:
            sink(data)


Slice = Callable[[FakeGuest], Outcome | None]


@dataclass
class FakeMonitor:
    """Runs one of `slices` after the other; a run that needs more of them than there are fails."""

    slices: list[Slice]
    wake_fds: set[int] = field(default_factory=set)
    lengths: list[float] = field(default_factory=list)

    def run_slice(self, vm: FakeGuest, host_seconds: float) -> Outcome | None:
        self.lengths.append(host_seconds)
        vm.now += 20 * MILLISECOND
        return self.slices.pop(0)(vm)

    def stop(self) -> None:
        pass
