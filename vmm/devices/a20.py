"""The A20 gate of the PC/AT: address line 20 is forced low unless one of its two sources enables it.

Source: IBM PC/AT Technical Reference, "Keyboard Controller" (output port, bit 1); IBM PS/2 Model 50/60 Technical
Reference, "System Control Port A"; Intel 82371SB (PIIX3), "A20M#".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from vmm.devices.snapshot import load_fields, save_fields, wired


class A20Source(IntFlag):
    """Who asks for address line 20."""

    I8042 = 1 << 0  # output port, bit 1
    PORT_92 = 1 << 1


@dataclass(slots=True)
class A20Gate:
    """The OR of its sources. `on_change(enabled)` is told when it changes; `asking` has a bit for each source."""

    on_change: Callable[[bool], None] = wired()
    asking: int = 0

    @property
    def enabled(self) -> bool:
        return self.asking != 0

    def set_source(self, source: A20Source, enabled: bool) -> None:
        """One source asks for address line 20, or no longer does."""
        before = self.asking
        self.asking = before | int(source) if enabled else before & ~int(source)
        if (before != 0) != (self.asking != 0):
            self.on_change(enabled)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
