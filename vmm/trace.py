"""What the VMM did, one event a line: aligned and coloured for people, JSON Lines for programs.

An event is made only for the kinds that were asked for. The columns, left to right: virtual time in milliseconds,
kind, CS:EIP, linear address, ring, the guest's own instruction, what stands in the cache instead, values in and out.
On a narrow terminal the linear address goes first (CS:EIP says as much) and nanoseconds; then the line's end.
The JSON Lines schema is docs/trace.md; `TraceEvent.to_json` is its only writer.
"""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

KINDS: Final = ("block", "exit", "critical", "io", "irq", "exception", "mode")

OF_TRANSLATION: Final = frozenset(("block", "critical"))
"""What is there to see where guest code is rewritten."""

# What each kind reports, as docs/trace.md has it.
KIND_MEANING: Final[Mapping[str, str]] = {
    "block": "a block was translated",
    "exit": "guest code left the cache",
    "critical": "a critical or privileged instruction was rewritten or carried out",
    "io": "a port was read or written",
    "irq": "a hardware interrupt was delivered",
    "exception": "an exception or software interrupt was delivered",
    "mode": "the processor changed its mode",
}
KIND_STYLE: Final[Mapping[str, str]] = {
    "block": "blue",
    "exit": "cyan",
    "critical": "bold magenta",
    "io": "green",
    "irq": "yellow",
    "exception": "bold red",
    "mode": "bold white",
}

LAST_EVENTS: Final = 16  # kept for the report of a stop
NARROW_BELOW: Final = 110  # columns
_NS_PER_MS: Final = 1_000_000
_INSN_WIDTH: Final = 26
_INSN_NARROW: Final = 18
_KIND_WIDTH: Final = max(map(len, KINDS))
_SELECTOR_MAX: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One thing that happened at one guest instruction.

    `ns` is virtual time; `cs` the selector, `eip` the offset, `linear` the guest-linear address, `ring` the virtual
    CPL. `insn` is the guest's instruction, `rewritten` what runs instead ("" where nothing does). `values` are what
    went in and came out: integers, strings, or lists of them.
    """

    kind: str
    ns: int
    cs: int
    eip: int
    linear: int
    ring: int
    insn: str = ""
    rewritten: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of a trace file, without its line feed."""
        record = {
            "kind": self.kind,
            "ns": self.ns,
            "cs": self.cs,
            "eip": self.eip,
            "linear": self.linear,
            "ring": self.ring,
            "insn": self.insn,
            "rewritten": self.rewritten,
            "values": dict(self.values),
        }
        return json.dumps(record, separators=(",", ":"))


Span = tuple[str, str]


def spans(event: TraceEvent, *, is_narrow: bool = False) -> list[Span]:
    """One event as (text, style) pieces of a line; a narrow one has microseconds and no linear address."""
    time = f"{event.ns / _NS_PER_MS:>9.3f} " if is_narrow else f"{event.ns / _NS_PER_MS:>12.6f} "
    insn_width = _INSN_NARROW if is_narrow else _INSN_WIDTH
    return [
        (time, "dim"),
        (f"{event.kind:<{_KIND_WIDTH}} ", KIND_STYLE.get(event.kind, "")),
        (f"{event.cs & _SELECTOR_MAX:04X}:{event.eip:08X} ", ""),
        ("" if is_narrow else f"{event.linear:08X} ", "dim"),
        (f"r{event.ring} ", "yellow" if event.ring else "red"),
        (f"{event.insn:<{insn_width}}", "bold"),
        (f" -> {event.rewritten}" if event.rewritten else "", "green"),
        ("".join(f"  {name}={_value(value)}" for name, value in event.values.items()), "cyan"),
    ]


def plain(event: TraceEvent) -> str:
    """One event as an uncoloured line of any length."""
    return "".join(text for text, _ in spans(event)).rstrip()


def render(event: TraceEvent, width: int | None) -> "Text":
    """One event as one coloured line.

    Args:
        width: columns to crop to; None for a line of any length.
    """
    from rich.text import Text

    is_narrow = width is not None and width < NARROW_BELOW
    line = Text.assemble(*spans(event, is_narrow=is_narrow), no_wrap=True)
    line.rstrip()
    if width is not None:
        line.truncate(width, overflow="crop")
    return line


def _value(value: object) -> str:
    """Booleans as words, integers in hexadecimal, the rest as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:#x}"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(_value, value)) + "]"
    return str(value)


class TraceWriter:
    """Where events go: to a console, to a JSON Lines file, and the last few into memory.

    Call `emit` for kinds in `kinds` only; it checks again, so that a stray event does no harm.
    """

    def __init__(self, kinds: frozenset[str], console: "Console | None", file: IO[str] | None) -> None:
        self.kinds = kinds
        self._console = console
        self._file = file
        self._last: deque[TraceEvent] = deque(maxlen=LAST_EVENTS)

    def emit(self, event: TraceEvent) -> None:
        if event.kind not in self.kinds:
            return
        self._last.append(event)
        if self._file is not None:
            self._file.write(event.to_json() + "\n")
        if self._console is not None:
            width = self._console.width if self._console.is_terminal else None
            self._console.print(render(event, width), soft_wrap=True, highlight=False)

    def last_lines(self) -> tuple[str, ...]:
        """The last events as plain lines, oldest first."""
        return tuple(map(plain, self._last))

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()
