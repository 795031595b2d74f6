"""The test device that suites for hypervisors expect: an echo register, interrupt lines, a page to flush, memory.

Ports E0h-E3h echo what was written, in any width; a doubleword with a physical address at E4h drops the mappings of
that page; a byte at 2000h + n drives interrupt line n, asserted if it is not zero. 64 KiB at FF000000h are memory
behind a device.

Source: QEMU's `pc-testdev` ("QEMU x86 ISA testdev"), whose interface this is.
Not modelled: its second echo, at E8h, where this board has the debug console.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired

ECHO_PORTS: Final = 4
FLUSH_PORTS: Final = 4
LINES: Final = 24
MEMORY_SIZE: Final = 0x10000


@dataclass(slots=True)
class PcTestdev:
    """`on_line(line, level)` drives line 0-23; `on_flush(address)` is told a guest-physical address, 32 bits."""

    on_line: Callable[[int, bool], None] = wired()
    on_flush: Callable[[int], None] = wired()
    echo: int = 0
    memory: bytearray = field(default_factory=lambda: bytearray(MEMORY_SIZE))

    def read_echo(self, offset: int, width: int) -> int:
        return self.echo >> 8 * offset & (1 << 8 * width) - 1

    def write_echo(self, offset: int, width: int, value: int) -> None:
        mask = (1 << 8 * width) - 1 << 8 * offset
        self.echo = self.echo & ~mask | value << 8 * offset & mask

    def write_flush(self, offset: int, width: int, value: int) -> None:
        """Only a whole doubleword is decoded."""
        if (offset, width) == (0, FLUSH_PORTS):
            self.on_flush(value)

    def read_line(self, offset: int, width: int) -> int:
        """The lines cannot be read."""
        return (1 << 8 * width) - 1

    def write_line(self, offset: int, width: int, value: int) -> None:
        self.on_line(offset, bool(value))

    def read_memory(self, offset: int, width: int) -> int:
        return int.from_bytes(self.memory[offset : offset + width], "little")

    def write_memory(self, offset: int, width: int, value: int) -> None:
        self.memory[offset : offset + width] = value.to_bytes(width, "little")

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
