"""A board that remembers what went over its ports, and interrupts when a program asks for it."""

from collections.abc import Callable
from typing import Final

from vmm.differential import layout

_FLOOD: Final = 200_000
_TSC: Final = 0x1_0000_0002


class Flood(Exception):
    """So much has gone over the ports that a REP without end must be at work."""


class PortBoard:
    """Ports that answer by number, and an interrupt controller that holds one request.

    `traffic` has (direction, port, width, value) in order. `on_intr(level)` is told the level of the INTR pin.
    """

    def __init__(self, on_intr: Callable[[bool], None]) -> None:
        self.on_intr = on_intr
        self.reset()

    def reset(self) -> None:
        """As at power-on."""
        self.traffic: list[tuple[str, int, int, int]] = []
        self.taken: list[int] = []  # vectors of the interrupts that were acknowledged
        self._vector = layout.FIRST_IRQ

    def _record(self, direction: str, port: int, width: int, value: int) -> None:
        if len(self.traffic) >= _FLOOD:
            raise Flood
        self.traffic.append((direction, port, width, value))

    def port_read(self, port: int, width: int) -> int:
        """The answer depends on the port, and on how much was read and written before."""
        value = (port * 0x0101_0101 ^ 0x5A17_C3E9 * (1 + len(self.traffic))) & (1 << 8 * width) - 1
        self._record("in", port, width, value)
        return value

    def port_write(self, port: int, width: int, value: int) -> None:
        """Port `IRQ_PORT` raises an interrupt."""
        self._record("out", port, width, value)
        if port == layout.IRQ_PORT:
            self._vector = layout.FIRST_IRQ + (value & 0x3F)
            self.on_intr(True)

    def port_read_block(self, port: int, width: int, count: int) -> bytes:
        """As so many single reads."""
        return b"".join(self.port_read(port, width).to_bytes(width, "little") for _ in range(count))

    def port_write_block(self, port: int, width: int, data: bytes) -> None:
        """As so many single writes."""
        for at in range(0, len(data), width):
            self.port_write(port, width, int.from_bytes(data[at : at + width], "little"))

    def tsc(self) -> int:
        """Time stands still."""
        return _TSC

    def tsc_offset(self) -> int | None:
        """Host time has no part in it."""
        return None

    @property
    def waiting_vector(self) -> int:
        """What the INTA cycle would answer now."""
        return self._vector

    def acknowledge_interrupt(self) -> int:
        """The INTA cycle."""
        self.on_intr(False)
        self.taken.append(self._vector)
        return self._vector

    def x87_error(self, level: bool) -> bool:
        """FERR# is not connected."""
        return False
