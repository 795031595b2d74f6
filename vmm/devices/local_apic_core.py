"""The local APIC of a processor, but for its registers: vectors by priority, the local vector table, messages.

It stands between the 8259A, on its pin LINT0, and the processor's INTR. An interrupt is accepted into IRR, goes to the
processor once its class is above that of PPR, and is in service, in ISR, until EOI. With LINT0 programmed as ExtINT the
8259A's INTR passes through ("virtual wire"); with the APIC switched off by IA32_APIC_BASE it does so by itself.

Source: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)".
Not modelled: other processors (a message that only they would get goes nowhere), SMI, INIT to the processor itself,
the thermal and performance sources, LINT1, level-triggered LINT0, the APIC bus of the P6 family.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmm.devices.apic_message import (
    DELIVERY_MASK,
    DELIVERY_SHIFT,
    FIRST_VECTOR,
    VECTOR_MASK,
    Delivery,
    InterruptMessage,
)
from vmm.devices.local_apic_registers import (
    DEFAULT_BASE,
    DFR_RESET,
    LVT_ENTRIES,
    SHORTHAND_SHIFT,
    SVR_RESET,
    ApicBase,
    Esr,
    Icr,
    Lvt,
    LvtField,
    Shorthand,
    Svr,
)
from vmm.devices.local_apic_timer import LocalApicTimer
from vmm.devices.snapshot import wired

EN: Final = int(ApicBase.EN)
EXTD: Final = int(ApicBase.EXTD)
BSP: Final = int(ApicBase.BSP)
ENABLE: Final = int(Svr.ENABLE)
MASK: Final = int(LvtField.MASK)
LOW_HALF: Final = 0xFFFF_FFFF
_LEVEL: Final = int(LvtField.LEVEL)
_CLASS: Final = 0xF0
_EXTINT: Final = Delivery.EXTINT << DELIVERY_SHIFT
_DELIVERY: Final = DELIVERY_MASK << DELIVERY_SHIFT
_SELF: Final = frozenset((Shorthand.SELF, Shorthand.ALL))
_BROADCAST: Final = 0xFF
_X2APIC_BROADCAST: Final = 0xFFFF_FFFF
_FLAT_MODEL: Final = 0xF << 28


def _masked_table() -> list[int]:
    return [MASK] * LVT_ENTRIES


@dataclass(slots=True)
class LocalApicCore:
    """The one of the bootstrap processor, with identification 0 after reset.

    `on_intr(level)` is the processor's INTR, told when it changes; `on_nmi()` its NMI; `on_eoi(vector)` the end of a
    level-triggered interrupt, for the I/O APICs; `on_place(base)` where the registers answer in memory, None: nowhere.
    `irr`, `isr` and `tmr` have bit n for vector n, 256 bits. `lint0` is the 8259A's INTR; `esr` what reads show,
    `errors` what has happened since.
    """

    on_intr: Callable[[bool], None] = wired()
    on_nmi: Callable[[], None] = wired()
    on_eoi: Callable[[int], None] = wired()
    on_place: Callable[[int | None], None] = wired()
    on_unmodelled: Callable[[str], None] = wired()
    timer: LocalApicTimer = field(default_factory=LocalApicTimer)
    apic_base: int = DEFAULT_BASE | EN | BSP
    identification: int = 0
    tpr: int = 0
    ldr: int = 0
    dfr: int = DFR_RESET
    svr: int = SVR_RESET
    esr: int = 0
    errors: int = 0
    icr: int = 0
    irr: int = 0
    isr: int = 0
    tmr: int = 0
    lvt: list[int] = field(default_factory=_masked_table)
    lint0: bool = False
    intr: bool = False

    # --- the processor's side ----------------------------------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        """IA32_APIC_BASE.EN, which CPUID shows."""
        return bool(self.apic_base & EN)

    @property
    def ppr(self) -> int:
        """The processor-priority register: the higher class of the task's and the interrupt's in service."""
        in_service = _highest(self.isr) & _CLASS
        return self.tpr if self.tpr & _CLASS >= in_service else in_service

    def has_interrupt(self) -> bool:
        """The level of INTR: a vector above the processor's priority, or the 8259A's INTR where that comes through."""
        if self.is_enabled and _highest(self.irr) & _CLASS > self.ppr & _CLASS:
            return True
        return self.lint0 and self._passes_extint()

    def acknowledge(self) -> int | None:
        """Take an interrupt: the vector, or None: the 8259A gives it. A request that has vanished is spurious."""
        vector = _highest(self.irr)
        if self.is_enabled and vector & _CLASS > self.ppr & _CLASS:
            self.irr &= ~(1 << vector)
            self.isr |= 1 << vector
            self.drive_intr()
            return vector
        is_from_8259 = self.lint0 and self._passes_extint()
        return None if is_from_8259 or not self.is_enabled else self.svr & VECTOR_MASK

    @property
    def is_x2apic(self) -> bool:
        return bool(self.apic_base & EXTD)

    # --- the bus's side ----------------------------------------------------------------------------------

    def set_lint0(self, level: bool) -> None:
        """The 8259A's INTR."""
        rises = level and not self.lint0
        self.lint0 = level
        entry = self.lvt[Lvt.LINT0]
        if rises and self.is_enabled and not entry & MASK:
            self._edge_at_lint0(entry)
        self.drive_intr()

    def _edge_at_lint0(self, entry: int) -> None:
        delivery = entry >> DELIVERY_SHIFT & DELIVERY_MASK
        if delivery == Delivery.NMI:
            self.on_nmi()
        elif delivery == Delivery.FIXED:
            if entry & _LEVEL:
                self.on_unmodelled("local APIC: LINT0 is level triggered: taken as an edge")
            self._accept(entry & VECTOR_MASK, level=False)

    def receive(self, message: InterruptMessage) -> bool:
        """A message from an I/O APIC or a local one; whether it was for this processor and was accepted."""
        if not self.is_enabled or not self._is_destination(message):
            return False
        if message.delivery in (Delivery.FIXED, Delivery.LOWEST_PRIORITY):
            return self._accept(message.vector, message.level)
        if message.delivery == Delivery.NMI:
            self.on_nmi()
        elif message.delivery != Delivery.START_UP:  # only a processor that waits for one takes a start-up
            self.on_unmodelled(f"local APIC: a message with delivery mode {message.delivery:03b}b")
        return True

    def advance(self, now: int) -> None:
        """Bring the timer to virtual time `now`, nanoseconds."""
        entry = self.lvt[Lvt.TIMER]
        if self.timer.advance(now) and not entry & MASK:
            self._accept(entry & VECTOR_MASK, level=False)

    def next_deadline(self) -> int | None:
        return self.timer.next_deadline()

    def power_up(self) -> None:
        """The registers "After Power-Up or Reset"; LINT0's wire is what it is."""
        self.identification = self.tpr = self.ldr = self.esr = self.errors = self.icr = 0
        self.irr = self.isr = self.tmr = 0
        self.dfr, self.svr = DFR_RESET, SVR_RESET
        self.lvt[:] = _masked_table()
        self.timer.reset()
        self.drive_intr()

    # --- interrupts --------------------------------------------------------------------------------------

    def _accept(self, vector: int, level: bool) -> bool:
        """Into IRR, with its trigger mode into TMR."""
        if not self.svr & ENABLE:
            return False
        if vector < FIRST_VECTOR:
            self.add_errors(int(Esr.RECEIVE_ILLEGAL_VECTOR))
            return False
        bit = 1 << vector
        self.irr |= bit
        self.tmr = self.tmr | bit if level else self.tmr & ~bit
        self.drive_intr()
        return True

    def end_of_interrupt(self, _value: int) -> None:
        vector = _highest(self.isr)
        bit = 1 << vector
        if not self.isr & bit:
            return
        self.isr &= ~bit
        if self.tmr & bit:
            self.on_eoi(vector)
        self.drive_intr()

    def _passes_extint(self) -> bool:
        return not self.is_enabled or self.lvt[Lvt.LINT0] & (MASK | _DELIVERY) == _EXTINT

    def drive_intr(self) -> None:
        level = self.has_interrupt()
        if level != self.intr:
            self.intr = level
            self.on_intr(level)

    def add_errors(self, errors: int) -> None:
        """A new error is an interrupt, if the LVT has one for it."""
        new = errors & ~self.errors
        self.errors |= errors
        entry = self.lvt[Lvt.ERROR]
        if new and not entry & MASK and entry & VECTOR_MASK >= FIRST_VECTOR:
            self._accept(entry & VECTOR_MASK, level=False)

    # --- messages ----------------------------------------------------------------------------------------

    def send(self) -> None:
        """What the ICR says, to this processor, the only one. INIT level de-assert does nothing on current parts."""
        low = self.icr & LOW_HALF
        vector, delivery = low & VECTOR_MASK, low >> DELIVERY_SHIFT & DELIVERY_MASK
        if delivery in (Delivery.FIXED, Delivery.LOWEST_PRIORITY) and vector < FIRST_VECTOR:
            self.add_errors(int(Esr.SEND_ILLEGAL_VECTOR))
            return
        if delivery == Delivery.INIT and low & (Icr.LEVEL | Icr.ASSERT) == Icr.LEVEL:
            return
        shorthand = Shorthand(low >> SHORTHAND_SHIFT & 3)
        destination = self.icr >> 32 if self.is_x2apic else self.icr >> 56
        if shorthand in _SELF:
            destination = _X2APIC_BROADCAST if self.is_x2apic else _BROADCAST
        if shorthand != Shorthand.ALL_BUT_SELF:
            logical = bool(low & Icr.LOGICAL) and shorthand == Shorthand.NONE
            self.receive(InterruptMessage(vector, delivery, destination, logical, level=False))

    def _is_destination(self, message: InterruptMessage) -> bool:
        """Whether a message names this processor; an I/O APIC's broadcast has 8 bits in both modes."""
        if message.destination in (_BROADCAST, _X2APIC_BROADCAST):
            return True
        if not message.logical:
            return message.destination == self.identification
        if self.is_x2apic or self.dfr & _FLAT_MODEL != _FLAT_MODEL:
            shift = 16 if self.is_x2apic else 4
            ldr = self.logical_id
            low = (1 << shift) - 1
            return message.destination >> shift == ldr >> shift and bool(message.destination & ldr & low)
        return bool(message.destination & self.logical_id)

    @property
    def logical_id(self) -> int:
        """8 bits; in the x2APIC mode 32, made of the identification: a cluster of sixteen, a bit in it."""
        if self.is_x2apic:
            return self.identification >> 4 << 16 | 1 << (self.identification & 0xF)
        return self.ldr >> 24


def _highest(vectors: int) -> int:
    """The highest vector of a 256-bit set, 0 if it is empty."""
    return max(0, vectors.bit_length() - 1)
