"""The local APIC with its registers: memory in the xAPIC mode, MSRs in the x2APIC mode. Its workings are in the core.

Source: Intel SDM Vol. 3A, "Local APIC Register Address Map", "Extended XAPIC (x2APIC)", "Local APIC State After
Power-Up or Reset". Registers in memory are doublewords on 16-byte boundaries; of narrower reads the bytes are given,
other writes are dropped and counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from vmm.devices.local_apic_core import BSP, EN, ENABLE, EXTD, LOW_HALF, MASK, LocalApicCore
from vmm.devices.local_apic_registers import (
    APIC_BASE_MSR,
    DEFAULT_BASE,
    DFR_FIXED,
    ICR_LOW_WRITABLE,
    LVT_WRITABLE,
    SHORTHAND_SHIFT,
    SVR_WRITABLE,
    TIMER_MODE_SHIFT,
    TSC_DEADLINE_MSR,
    VERSION_VALUE,
    X2APIC_HIDDEN,
    X2APIC_MSRS,
    X2APIC_WRITABLE,
    ApicRegister,
    Esr,
    Lvt,
    Shorthand,
)
from vmm.devices.local_apic_timer import TimerMode
from vmm.devices.snapshot import load_fields, save_fields

_ADDRESS: Final = 0xF_FFFF_F000
_BASE_WRITABLE: Final = _ADDRESS | EN | EXTD | BSP
_WORDS: Final = range(8)  # of a set of 256 vectors


@dataclass(slots=True)
class LocalApic(LocalApicCore):
    """The one of the bootstrap processor."""

    def read_msr(self, index: int) -> int | None:
        """IA32_APIC_BASE, IA32_TSC_DEADLINE, a register of the x2APIC mode: 64 bits; None: #GP."""
        if index == APIC_BASE_MSR:
            return self.apic_base
        if index == TSC_DEADLINE_MSR:
            return self.timer.deadline
        number = index - X2APIC_MSRS.start
        return None if not self.is_x2apic or number in X2APIC_HIDDEN else self._register(number)

    def write_msr(self, index: int, value: int) -> bool:
        """A 64-bit write; False: #GP, and nothing has happened."""
        if index == APIC_BASE_MSR:
            return self._set_base(value)
        if index == TSC_DEADLINE_MSR:
            self.timer.set_deadline(value)
            self.advance(self.timer.now)  # it may be past
            return True
        number = index - X2APIC_MSRS.start
        if not self.is_x2apic or value & ~X2APIC_WRITABLE.get(number, 0) or number not in X2APIC_WRITABLE:
            return False
        if number == ApicRegister.ICR:
            self.icr = value
            self.send()
        else:
            self._set_register(number, value)
        return True

    def read(self, offset: int, width: int) -> int:
        """MMIO of the xAPIC mode."""
        value = self._register(offset >> 4)
        if value is None:
            self.add_errors(int(Esr.ILLEGAL_REGISTER))
            return 0
        return (value & LOW_HALF) >> 8 * (offset & 0xF) & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        if width != 4 or offset & 0xF:
            self.on_unmodelled("local APIC: a write that is no doubleword on a 16-byte boundary")
        elif offset >> 4 == ApicRegister.SELF_IPI or not self._set_register(offset >> 4, value):
            self.add_errors(int(Esr.ILLEGAL_REGISTER))

    def reset(self) -> None:
        """RESET: enabled, at its default address, in the xAPIC mode."""
        self.apic_base = DEFAULT_BASE | EN | BSP
        self.power_up()
        self._place()

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
        self._place()

    # --- registers ---------------------------------------------------------------------------------------

    def _set_base(self, value: int) -> bool:
        """The modes change along the arrows of "x2APIC State Transitions"; being disabled loses everything."""
        old, new = self.apic_base & (EN | EXTD), value & (EN | EXTD)
        from_x2apic, to_x2apic = old == EN | EXTD, new == EN | EXTD
        if value & ~_BASE_WRITABLE or new == EXTD or (from_x2apic and new == EN) or (to_x2apic and not old):
            return False
        self.apic_base = value
        if not new:
            self.power_up()
        if to_x2apic and not from_x2apic:
            self.identification = 0
            self.icr &= LOW_HALF
        self._place()
        self.drive_intr()
        return True

    def _place(self) -> None:
        answers = self.apic_base & (EN | EXTD) == EN
        self.on_place(self.apic_base & _ADDRESS if answers else None)

    def _register(self, number: int) -> int | None:
        """A register by its number, 32 bits, the ICR of the x2APIC mode 64; None: there is none."""
        read = _READ.get(number)
        return None if read is None else read(self)

    def _set_register(self, number: int, value: int) -> bool:
        """Write a register, reserved bits dropped; False: there is none. Registers that are only read swallow it."""
        write = _WRITE.get(number)
        if write is not None:
            write(self, value)
        return write is not None or number in _READ

    def _set_identification(self, value: int) -> None:
        self.identification = value >> 24

    def _set_tpr(self, value: int) -> None:
        self.tpr = value & 0xFF
        self.drive_intr()

    def _set_ldr(self, value: int) -> None:
        self.ldr = value & 0xFF << 24

    def _set_dfr(self, value: int) -> None:
        self.dfr = value | DFR_FIXED

    def _set_svr(self, value: int) -> None:
        """Disabled by software, all of the LVT is masked."""
        self.svr = value & SVR_WRITABLE
        if not self.svr & ENABLE:
            self.lvt[:] = [entry | MASK for entry in self.lvt]
            self.drive_intr()

    def _set_esr(self, _value: int) -> None:
        """A write shows the errors since the last one."""
        self.esr, self.errors = self.errors, 0

    def _set_icr(self, value: int) -> None:
        self.icr = self.icr & ~LOW_HALF | value & ICR_LOW_WRITABLE
        self.send()

    def _set_icr_high(self, value: int) -> None:
        self.icr = (value & 0xFF << 24) << 32 | self.icr & LOW_HALF

    def set_lvt(self, entry: int, value: int) -> None:
        masked = 0 if self.svr & ENABLE else MASK
        self.lvt[entry] = value & LVT_WRITABLE[entry] | masked
        if entry == Lvt.TIMER:
            self.timer.set_mode(TimerMode(value >> TIMER_MODE_SHIFT & 3))
        self.drive_intr()

    def _send_to_self(self, value: int) -> None:
        self.icr = Shorthand.SELF << SHORTHAND_SHIFT | value
        self.send()


def _identification(apic: LocalApic) -> int:
    return apic.identification if apic.apic_base & EXTD else apic.identification << 24


def _logical_destination(apic: LocalApic) -> int:
    return apic.logical_id if apic.apic_base & EXTD else apic.ldr


def _vectors(name: str, word: int, apic: LocalApic) -> int:
    vectors: int = getattr(apic, name)
    return vectors >> 32 * word & LOW_HALF


def _lvt(entry: int, apic: LocalApic) -> int:
    return apic.lvt[entry]


def _write_lvt(entry: int, apic: LocalApic, value: int) -> None:
    apic.set_lvt(entry, value)


_READ: Final[Mapping[int, Callable[[LocalApic], int]]] = {
    ApicRegister.ID: _identification,
    ApicRegister.VERSION: lambda _apic: VERSION_VALUE,
    ApicRegister.TPR: lambda apic: apic.tpr,
    ApicRegister.PPR: lambda apic: apic.ppr,
    ApicRegister.LDR: _logical_destination,
    ApicRegister.DFR: lambda apic: apic.dfr,
    ApicRegister.SVR: lambda apic: apic.svr,
    **{ApicRegister.ISR + word: partial(_vectors, "isr", word) for word in _WORDS},
    **{ApicRegister.TMR + word: partial(_vectors, "tmr", word) for word in _WORDS},
    **{ApicRegister.IRR + word: partial(_vectors, "irr", word) for word in _WORDS},
    ApicRegister.ESR: lambda apic: apic.esr,
    ApicRegister.ICR: lambda apic: apic.icr,
    ApicRegister.ICR_HIGH: lambda apic: apic.icr >> 32,
    **{ApicRegister.LVT + entry: partial(_lvt, entry) for entry in Lvt},
    ApicRegister.INITIAL_COUNT: lambda apic: apic.timer.initial,
    ApicRegister.CURRENT_COUNT: lambda apic: apic.timer.count,
    ApicRegister.DIVIDE: lambda apic: apic.timer.divide,
}

_WRITE: Final[Mapping[int, Callable[[LocalApic, int], None]]] = {
    ApicRegister.ID: LocalApic._set_identification,
    ApicRegister.TPR: LocalApic._set_tpr,
    ApicRegister.EOI: LocalApic.end_of_interrupt,
    ApicRegister.LDR: LocalApic._set_ldr,
    ApicRegister.DFR: LocalApic._set_dfr,
    ApicRegister.SVR: LocalApic._set_svr,
    ApicRegister.ESR: LocalApic._set_esr,
    ApicRegister.ICR: LocalApic._set_icr,
    ApicRegister.ICR_HIGH: LocalApic._set_icr_high,
    **{ApicRegister.LVT + entry: partial(_write_lvt, entry) for entry in Lvt},
    ApicRegister.INITIAL_COUNT: lambda apic, value: apic.timer.set_initial(value),
    ApicRegister.DIVIDE: lambda apic, value: apic.timer.set_divide(value),
    ApicRegister.SELF_IPI: LocalApic._send_to_self,
}
