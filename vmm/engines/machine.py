"""What an engine is given: the parts of one VM that it may touch."""

from dataclasses import dataclass
from typing import Protocol

from vmm.cpu.hole import Hole
from vmm.cpu.paging import Mmu
from vmm.cpu.ports import Platform
from vmm.cpu.vcpu import Vcpu
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory


class InterruptSource(Platform, Protocol):
    """What an engine asks of the board: ports, time, and the interrupt controller."""

    def acknowledge_interrupt(self) -> int:
        """The INTA cycle: the vector, 0-255."""
        ...

    def x87_error(self, level: bool) -> bool:
        """FERR#, with CR0.NE clear; returns whether IGNNE# is asserted."""
        ...


@dataclass(slots=True)
class Machine:
    """What the engine works on: the parts of one VM that it may touch."""

    physical: PhysicalMemory
    memory: GuestMemory
    mmu: Mmu
    vcpu: Vcpu
    board: InterruptSource
    hole: Hole
