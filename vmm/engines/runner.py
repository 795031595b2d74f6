"""What every engine does alike, however guest code runs: events are delivered, and the guest goes on."""

from typing import Final

from vmm.arch.exceptions import GuestFault, Vector
from vmm.cpu.events import EventKind
from vmm.engines.delivery import Delivery
from vmm.engines.engine import Leave
from vmm.engines.machine import Machine
from vmm.engines.observer import Observer
from vmm.engines.stats import EngineStats
from vmm.hw.cpu import PhysicalCpu

_DR6_BS: Final = 1 << 14
_EVENTS_IN_A_ROW: Final = 64


class GuestRunner:
    """The base of engines (`vmm.engines.engine.Engine`). One of a kind says how the guest is entered: `_advance`."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, stats: EngineStats) -> None:
        self.phys, self.stats = phys, stats
        self._vcpu, self._board = machine.vcpu, machine.board
        self._delivery = Delivery(machine.vcpu, machine.board, stats)
        self._leave: Leave | None = None
        self.preempted_after = 0
        """How many blocks had started when the block limit struck in the latest run."""

    @property
    def observer(self) -> Observer | None:
        """Who watches, or None."""
        return self._delivery.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._delivery.observer = observer

    @property
    def shutdown_detail(self) -> str:
        """How a triple fault came about."""
        return self._delivery.shutdown_detail

    def request_leave(self) -> None:
        """From a callout: leave after the current instruction."""
        self._leave = Leave.REQUESTED

    # --- events ----------------------------------------------------------------------------------------

    def _inject(self, fault: GuestFault, kind: EventKind = EventKind.FAULT) -> None:
        """Deliver what the guest has earned, then go on."""
        self._deliver(fault, kind)
        self._resume()

    def _deliver(self, fault: GuestFault, kind: EventKind = EventKind.FAULT) -> None:
        """Deliver what the guest has earned; a triple fault is for the monitor."""
        if not self._delivery.exception(fault, kind):
            self._leave = Leave.SHUTDOWN

    def _trap_behind(self) -> None:
        """The guest's own single-step trap, behind an instruction, with what else has come there; then go on."""
        self._vcpu.pending_debug |= _DR6_BS
        self._vcpu.show_pending_debug()
        self._inject(GuestFault(Vector.DB), EventKind.TRAP)

    def _raise_pending_debug(self) -> None:
        """Raises: GuestFault #DB: the trap that is due before the next instruction."""
        self._vcpu.show_pending_debug()
        raise GuestFault(Vector.DB)

    # --- back to the guest -----------------------------------------------------------------------------

    def _resume(self) -> None:
        """Go on at `vcpu.eip`, or leave: interrupts, shadows and single steps first.

        A guest whose handlers fault before their first instruction makes events without end: it is preempted between
        them.
        """
        for _ in range(_EVENTS_IN_A_ROW):
            if self._leave is not None:
                return
            try:
                self._advance()
                return
            except GuestFault as fault:
                self._deliver(fault, EventKind.TRAP if fault.vector == Vector.DB else EventKind.FAULT)
        self._leave = self._leave or Leave.PREEMPTED

    def _advance(self) -> None:
        """Enter the guest at `vcpu.eip`, or find that it is time to leave. Raises: GuestFault: an event comes first."""
        raise NotImplementedError
