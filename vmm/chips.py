"""What the board asks of its chips."""

from typing import Any, Protocol


class Chip(Protocol):
    """What every chip offers to be saved."""

    def save(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...


class TimedChip(Chip, Protocol):
    """A chip that does something by itself."""

    def advance(self, now: int) -> None: ...
    def next_deadline(self) -> int | None: ...


class ByteTimedChip(TimedChip, Protocol):
    """A byte-wide one."""

    def read(self, offset: int) -> int: ...
    def write(self, offset: int, value: int) -> None: ...


class InterruptController(Protocol):
    """What drives the processor's INTR and answers its INTA cycles."""

    def has_interrupt(self) -> bool: ...
    def acknowledge(self) -> int: ...
