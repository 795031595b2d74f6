"""The shadow GDT: what the physical CPU loads when cached code of ring 0 loads DS, ES, FS or GS by itself.

An entry is one of the guest's data descriptors as the VMM last loaded it, with DPL 0 made 1, for ring 0 runs at
physical CPL 1. Beside it stands its *source*, the guest's own eight bytes; cached code compares them with what the
guest's GDT holds now before it dares the load (see `bt.segment_loads`), so an entry can be outdated but never wrong.
There are two lists of sources: DS and ES may only get what has base 0, for the VMM keeps watch over their bases.

The L bit, which means nothing to a data segment outside 64-bit mode, marks the entries: a hidden register that has it
was loaded from here.

Source: Intel SDM Vol. 3A, "Segment Descriptors".
"""

from typing import Final

from vmm.arch.layout import MASK32, PAGE_SIZE
from vmm.cpu.hole import GDT_SOURCES_SIZE, SHADOW_GDT_SIZE, Hole
from vmm.cpu.vcpu import DESC_DPL, DESC_DPL_SHIFT, DESC_P, LOADED_NATIVELY, Vcpu
from vmm.hw.memory import PhysicalMemory

_SIZE: Final = 8
_RPL_AND_TI: Final = 7
_RPL: Final = 3
_USER: Final = 3
_KERNEL_DPL: Final = 1
_IS_DATA: Final = 0x10 << 8
_IS_CODE: Final = 8 << 8
_ACCESSED: Final = 1 << 8
_WRITABLE: Final = 2 << 8
_DOWNWARD: Final = 4 << 8
_TYPE: Final = DESC_P | _IS_DATA | _IS_CODE | _DOWNWARD | _WRITABLE | _ACCESSED
_MUST_BE: Final = DESC_P | _IS_DATA | _WRITABLE | _ACCESSED
_FLAT_AT: Final = 0
_ANY_AT: Final = PAGE_SIZE >> 2


class ShadowGdt:
    """The table and its sources, for one virtual CPU."""

    def __init__(self, physical: PhysicalMemory, hole: Hole) -> None:
        parts = hole.parts
        self._table = physical.window(parts["shadow_gdt"].host, SHADOW_GDT_SIZE).cast("I")
        self._sources = physical.window(parts["gdt_sources"].host, GDT_SOURCES_SIZE).cast("I")

    def learn(self, vcpu: Vcpu, seg: int) -> None:
        """The VMM has loaded a data segment register: let cached code do it the next time, if it can.

        It can for selectors of the GDT's first page with RPL 0 or 3, and for writable data segments of 4 GiB with DPL 0
        or 3: cached code takes what it loads for flat.
        """
        register = vcpu.segment(seg)
        index = register.selector & ~_RPL_AND_TI
        if not index or register.selector & _RPL_AND_TI not in (0, _RPL) or index >= SHADOW_GDT_SIZE:
            return
        raw = vcpu.memory.read_bytes(vcpu.gdtr[0] + index & MASK32, _SIZE, False)
        low, high = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")
        dpl = high >> DESC_DPL_SHIFT & _USER
        if high & _TYPE != _MUST_BE or high & LOADED_NATIVELY or dpl not in (0, _USER) or register.limit != MASK32:
            return
        at = index >> 2
        self._table[at] = low
        self._table[at + 1] = (high if dpl else high & ~DESC_DPL | _KERNEL_DPL << DESC_DPL_SHIFT) | LOADED_NATIVELY
        for first, fits in ((_FLAT_AT, register.base == 0), (_ANY_AT, True)):
            self._sources[first + at] = low if fits else 0
            self._sources[first + at + 1] = high if fits else 0
