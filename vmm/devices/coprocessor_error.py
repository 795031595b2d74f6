"""The coprocessor error logic of the PC: FERR# to IRQ 13, port F0h, IGNNE#.

Source: Intel 82371SB (PIIX3), "Coprocessor Error Register", "Coprocessor Error (Mode 0)"; Intel SDM Vol. 1, "MS-DOS
Compatibility Sub-mode".
Not modelled: port F1h, which reset the 80287.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vmm.devices.snapshot import load_fields, save_fields, wired


@dataclass(slots=True)
class CoprocessorError:
    """`on_irq(level)` drives IRQ 13. `ferr` is the level of FERR#, `ignne` that of IGNNE#, asserted when true."""

    on_irq: Callable[[bool], None] = wired()
    ferr: bool = False
    ignne: bool = False

    def set_ferr(self, level: bool) -> None:
        """The processor's FERR#: its rise asks for an interrupt, its fall ends IGNNE#."""
        if level and not self.ferr:
            self.on_irq(True)
        self.ferr = level
        self.ignne = self.ignne and level

    def read(self, offset: int) -> int:
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        """Any value: the interrupt is taken back, and errors that are there are ignored until FERR# falls."""
        self.on_irq(False)
        self.ignne = self.ferr

    def reset(self) -> None:
        self.on_irq(False)
        self.ferr = self.ignne = False

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
