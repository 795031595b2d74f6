"""One-port debugging aids: POST codes, the debug console, the exit port.

Source: IBM PC/AT Technical Reference, "Power-On Self Test" (port 80h); the Bochs and QEMU documentation of port E9h
("port_e9_hack", "isa-debugcon") and of the exit device ("isa-debug-exit").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired

DEBUG_CONSOLE_PRESENT: Final = 0xE9  # what a guest reads to find the console


@dataclass(slots=True)
class PostPort:
    """Port 80h: keeps the last checkpoint and reads it back. `on_post(code)` is told each."""

    on_post: Callable[[int], None] = wired()
    code: int = 0

    def read(self, offset: int) -> int:
        return self.code

    def write(self, offset: int, value: int) -> None:
        self.code = value
        self.on_post(value)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)


@dataclass(slots=True)
class DebugConsole:
    """Port E9h: each byte written goes to `on_output(byte)`."""

    on_output: Callable[[int], None] = wired()

    def read(self, offset: int) -> int:
        return DEBUG_CONSOLE_PRESENT

    def write(self, offset: int, value: int) -> None:
        self.on_output(value)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)


@dataclass(slots=True)
class ExitPort:
    """Port F4h: a write asks for the end of the run. `on_exit(value)`; the status is made of the value elsewhere."""

    on_exit: Callable[[int], None] = wired()

    def read(self, offset: int) -> int:
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        self.on_exit(value)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
