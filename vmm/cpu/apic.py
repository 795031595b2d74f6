"""The local APIC as instructions see it: CPUID's feature bits and model-specific registers.

A processor whose board has none shows none: `Vcpu.apic` is None there.

Source: Intel SDM Vol. 2A, "CPUID - CPU Identification"; Vol. 3A, "Extended XAPIC (x2APIC)", "TSC-Deadline Mode".
"""

from typing import Final, Protocol

APIC_BASE: Final = 0x1B
TSC_DEADLINE: Final = 0x6E0
X2APIC: Final = range(0x800, 0x900)


class ProcessorApic(Protocol):
    """What a board with a local APIC gives its processor."""

    @property
    def is_enabled(self) -> bool:
        """IA32_APIC_BASE.EN."""

    def read_msr(self, index: int) -> int | None:
        """64 bits; None: no such register in the present mode."""

    def write_msr(self, index: int, value: int) -> bool:
        """False: no such register, or a reserved bit."""

    def tsc_changed(self) -> None:
        """The time-stamp counter was written, which a deadline is compared with."""


def is_apic_msr(index: int) -> bool:
    """Whether a model-specific register belongs to the local APIC, where there is one."""
    return index in (APIC_BASE, TSC_DEADLINE) or index in X2APIC
