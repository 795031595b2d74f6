"""Intel 82371SB (PIIX3), function 0: the PCI-to-ISA bridge, 00:01.0, and where PCI interrupts go.

The ISA chips inside the part (8259A, 8254, 8237, port 61h, CF9h) have files of their own, function 1 is `piix3_ide`.
Source: Intel 82371FB/82371SB data sheet, "PCI Configuration Registers - ISA bridge", "PIRQRC[A:D]-PIRQx Route Control
Registers"; the order in which slots are wired to PIRQs is that of QEMU's pc board.
Not modelled: decode enables of X-Bus chips, ISA timing, top of memory, motherboard interrupts, the APIC base, SMI
(registers that are kept and read back).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vmm.devices.pci import MULTI_FUNCTION, Config, PciFunction, PciIdentity
from vmm.devices.snapshot import wired

IDENTITY: Final = PciIdentity(vendor=0x8086, device=0x7000, class_code=0x060100, header_type=MULTI_FUNCTION)
PIRQRC: Final = 0x60
PIRQS: Final = 4
NOT_ROUTED: Final = 0x80
ROUTABLE: Final = (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15)
_IRQ: Final = 0x0F
_ROUTE_BITS: Final = NOT_ROUTED | _IRQ
_DEFAULTS: Final = {
    Config.COMMAND: 0x07,  # I/O, memory, bus master
    Config.STATUS: 0x80,
    Config.STATUS + 1: 0x02,  # DEVSEL# medium
    0x4C: 0x4D,  # IORT
    0x4E: 0x03,  # XBCS
    0x69: 0x02,  # TOM
    0x82: 0x00,  # DLC
    0xA0: 0x08,  # SMICNTL
    0xA8: 0x0F,  # FTMR
}
_KEPT: Final = (0x4C, 0x4E, 0x4F, 0x69, 0x6A, 0x6B, 0x70, 0x76, 0x77, 0x78, 0x79, 0x80, 0x82, *range(0xA0, 0xB0))


@dataclass(slots=True, kw_only=True)
class Piix3(PciFunction):
    """`irqs` has for each interrupt that a PIRQ can be routed to one driver for each PIRQ, `irqs[irq][pirq](level)`.

    `asserted` has for each PIRQ one bit for each of its sources that asserts it.
    """

    identity: PciIdentity = wired(default=IDENTITY)
    irqs: Mapping[int, tuple[Callable[[bool], None], ...]] = wired()
    sources: int = wired(default=0)
    routed: list[int | None] = wired(default_factory=lambda: [None] * PIRQS)
    asserted: list[int] = field(default_factory=lambda: [0] * PIRQS)

    def __post_init__(self) -> None:
        PciFunction.__post_init__(self)
        self.preset(_DEFAULTS, _KEPT)
        for pirq in range(PIRQS):
            self.set(PIRQRC + pirq, 1, NOT_ROUTED)
            self.allow(PIRQRC + pirq, 1, _ROUTE_BITS)
        self.power_on()

    def source(self, device: int, pin: int) -> Callable[[bool], None]:
        """Attach INTA#-INTD# (`pin` 1-4) of a device number; returns what sets its level, True for asserted."""
        pirq = (device - 1 + pin - 1) % PIRQS
        bit = 1 << self.sources
        self.sources += 1

        def drive(level: bool) -> None:
            self.asserted[pirq] = self.asserted[pirq] | bit if level else self.asserted[pirq] & ~bit
            self._drive(pirq)

        return drive

    def written(self, offset: int, width: int) -> None:
        """Route the PIRQs as the registers say now."""
        for pirq in range(PIRQS):
            route = self.config[PIRQRC + pirq]
            irq = None if route & NOT_ROUTED or route & _IRQ not in self.irqs else route & _IRQ
            before = self.routed[pirq]
            if irq != before:
                if before is not None:
                    self.irqs[before][pirq](False)
                self.routed[pirq] = irq
            self._drive(pirq)

    def _drive(self, pirq: int) -> None:
        irq = self.routed[pirq]
        if irq is not None:
            self.irqs[irq][pirq](self.asserted[pirq] != 0)
