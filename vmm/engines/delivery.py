"""What the VMM does in the guest's place: events and instructions, counted, told to whoever watches, carried out."""

from typing import Final

from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.registers import Eflags, Seg
from vmm.cpu import events
from vmm.cpu.callouts import Plan
from vmm.cpu.events import EventKind, TripleFault
from vmm.cpu.vcpu import Vcpu
from vmm.engines.machine import InterruptSource
from vmm.engines.observer import Observer
from vmm.engines.stats import EngineStats

_RF: Final = int(Eflags.RF)


class Delivery:
    """The events of one virtual CPU, and the instructions that are carried out for it.

    `shutdown_detail` says how the latest triple fault came about.
    """

    def __init__(self, vcpu: Vcpu, board: InterruptSource, stats: EngineStats) -> None:
        self._vcpu, self._board, self._stats = vcpu, board, stats
        self.observer: Observer | None = None
        self.shutdown_detail = ""

    def carry_out(self, plan: Plan) -> None:
        """Do what an instruction does. Raises: GuestFault: its fault; EIP is then at the instruction again."""
        vcpu, observer, insn = self._vcpu, self.observer, plan.insn
        self._stats.callouts[plan.name] += 1
        vcpu.eip = insn.falls_to
        vcpu.interrupt_shadow = False
        resume = vcpu.field_flags & _RF
        vcpu.field_flags &= ~_RF
        task = vcpu.tr
        if observer is not None:
            observer.exit("callout", insn.eip, insn, {})
            observer.before_callout(insn)
        try:
            plan.handler(vcpu, insn, self._board)
        except GuestFault:
            if vcpu.tr is task:  # after a task switch the fault is the new task's
                vcpu.eip = insn.eip
                vcpu.field_flags |= resume  # only an instruction that is done clears it
            raise
        if observer is not None:
            observer.after_callout(insn)

    def exception(self, fault: GuestFault, kind: EventKind = EventKind.FAULT) -> bool:
        """Deliver what the guest has earned; False: that ended in a triple fault."""
        self._stats.exceptions[fault.vector] += 1
        if self.observer is not None:
            self.observer.event("exception", fault.vector, fault.error_code)
        return self._raise(fault, kind)

    def interrupt(self) -> bool:
        """Ask the interrupt controller for its vector and deliver that; False: it ended in a triple fault."""
        return self.external(self.acknowledge())

    def acknowledge(self) -> int:
        """Ask the interrupt controller for the vector of what it wants to interrupt for."""
        vector = self._board.acknowledge_interrupt()
        self._count(vector)
        return vector

    def external(self, vector: int) -> bool:
        """Deliver an external interrupt; False: it ended in a triple fault."""
        return self._interrupt(vector, EventKind.EXTERNAL)

    def nmi(self) -> bool:
        """Deliver the NMI that waits, and block others until the next IRET; False: it ended in a triple fault."""
        self._vcpu.take_nmi()
        self._count(Vector.NMI)
        return self._interrupt(Vector.NMI, EventKind.NMI)

    def _count(self, vector: int) -> None:
        self._stats.interrupts[vector] += 1
        if self.observer is not None:
            self.observer.event("irq", vector, None)

    def _interrupt(self, vector: int, kind: EventKind) -> bool:
        try:
            events.deliver(self._vcpu, vector, kind=kind)
        except GuestFault as fault:
            return self._raise(fault, EventKind.FAULT)
        return True

    def _raise(self, fault: GuestFault, kind: EventKind) -> bool:
        try:
            events.raise_fault(self._vcpu, fault, kind=kind)
        except TripleFault:
            self.shutdown_detail = f"began with {fault} at {place_of(self._vcpu)}"
            return False
        return True


def place_of(vcpu: Vcpu) -> str:
    """CS:EIP, for people."""
    return f"CS:EIP {vcpu.selector(Seg.CS):04x}:{vcpu.eip:08x}"
