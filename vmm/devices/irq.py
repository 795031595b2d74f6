"""Shared interrupt request lines: several sources, one wire.

A source drives its own level; the wire is the OR of all (active-high picture of the wired-OR of open-collector
outputs in the PCI Local Bus Specification, "Interrupt Pins").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vmm.devices.snapshot import load_fields, save_fields, wired


@dataclass(slots=True)
class IrqLine:
    """One interrupt request wire. `output(level)` is told the level of the wire when it changes.

    `asserted` has a bit for each source, in the order in which `source` gave them out, set while it asserts the wire.
    """

    output: Callable[[bool], None] = wired()
    asserted: int = 0
    sources: int = wired(default=0)

    @property
    def level(self) -> bool:
        return self.asserted != 0

    def source(self) -> Callable[[bool], None]:
        """Attach one more source; returns what sets its level."""
        bit = 1 << self.sources
        self.sources += 1

        def drive(level: bool) -> None:
            before = self.asserted
            self.asserted = before | bit if level else before & ~bit
            if (before != 0) != (self.asserted != 0):
                self.output(level)

        return drive

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Put the sources' levels back; the wire's listener restores its own picture and is not told."""
        load_fields(self, state)
