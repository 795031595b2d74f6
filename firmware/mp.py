"""The MP tables and the ACPI MADT of a board with APICs: one processor, one I/O APIC, who is wired to which input.

Each ISA interrupt reaches the I/O APIC's input of its number, but the timer, IRQ 0, input 2; PCI interrupts are those
of `pci_routing`, level triggered. The 8259As' INTR is LINT0, NMI is LINT1. POST leaves the virtual wire mode behind.

Source: MultiProcessor Specification 1.4, "MP Configuration Table"; Advanced Configuration and Power Interface
Specification 6.4, "Multiple APIC Description Table (MADT)", with the structures that ACPI 1.0b has, too.
"""

import struct
from collections.abc import Iterator
from typing import Final

from firmware import pci_routing

LOCAL_APIC: Final = 0xFEE0_0000
LOCAL_APIC_ID: Final = 0
LOCAL_APIC_VERSION: Final = 0x14
IO_APIC: Final = 0xFEC0_0000
IO_APIC_ID: Final = 1
IO_APIC_VERSION: Final = 0x11
TIMER_IRQ: Final = 0
TIMER_INPUT: Final = 2
ISA_IRQS: Final = tuple(irq for irq in range(16) if irq != TIMER_INPUT)  # IRQ 2 is the cascade
LEVEL_IRQS: Final = tuple(sorted({*pci_routing.PIRQ_IRQS, pci_routing.SCI_IRQ}))

_SPECIFICATION: Final = 4  # 1.4
_PCI_BUS, _ISA_BUS = 0, 1
_SIGNATURE: Final = 6 << 8 | 12 << 4 | 3
_FEATURES: Final = 1 << 0 | 1 << 8 | 1 << 9  # FPU, CX8, APIC
_ENABLED_BSP: Final = 1 << 0 | 1 << 1
_ALL_LOCAL_APICS: Final = 0xFF
_PROCESSOR, _BUS, _IO_APIC, _IO_INTERRUPT, _LOCAL_INTERRUPT = range(5)
_INT, _NMI, _EXTINT = 0, 1, 3
_CONFORMING: Final = 0  # polarity and trigger mode as the bus has them
_LEVEL_ACTIVE_HIGH: Final = 0b11 << 2 | 0b01
# Signature, address of the configuration table, length in paragraphs, revision, checksum, features 1 to 5.
_FLOATING: Final = struct.Struct("<4sIBBB5x")
_FLOATING_CHECKSUM: Final = 10
# Signature, length, revision, checksum, OEM, product, OEM table and its size, entries, local APIC, extended table.
_CONFIGURATION: Final = struct.Struct("<4sHBB8s12sIHHIHBx")
_CONFIGURATION_CHECKSUM: Final = 7
_PROCESSOR_ENTRY: Final = struct.Struct("<BBBBII8x")
_BUS_ENTRY: Final = struct.Struct("<BB6s")
_IO_APIC_ENTRY: Final = struct.Struct("<BBBBI")
_INTERRUPT_ENTRY: Final = struct.Struct("<BBHBBBB")
_PCAT_COMPATIBLE: Final = 1  # there are 8259As, too
_LINT1: Final = 1


def mp_tables(base: int) -> bytes:
    """The floating pointer and, right behind it, the configuration table, for an address on a 16-byte boundary."""
    size = _FLOATING.size
    pointer = _FLOATING.pack(b"_MP_", base + size, size // 16, _SPECIFICATION, 0)
    entries = list(_entries())
    length = _CONFIGURATION.size + sum(map(len, entries))
    head = _CONFIGURATION.pack(
        b"PCMP", length, _SPECIFICATION, 0, b"GLASSV  ", b"PC-TEST     ", 0, 0, len(entries), LOCAL_APIC, 0, 0
    )
    return with_checksum(pointer, _FLOATING_CHECKSUM) + with_checksum(head + b"".join(entries), _CONFIGURATION_CHECKSUM)


def madt_content() -> bytes:
    """What follows the header of the MADT."""
    overrides = [(TIMER_IRQ, TIMER_INPUT, _CONFORMING), *((irq, irq, _LEVEL_ACTIVE_HIGH) for irq in LEVEL_IRQS)]
    return b"".join(
        (
            struct.pack("<II", LOCAL_APIC, _PCAT_COMPATIBLE),
            struct.pack("<BBBBI", 0, 8, 0, LOCAL_APIC_ID, 1),
            struct.pack("<BBBBII", 1, 12, IO_APIC_ID, 0, IO_APIC, 0),
            *(struct.pack("<BBBBIH", 2, 10, 0, irq, pin, flags) for irq, pin, flags in overrides),
            struct.pack("<BBBHB", 4, 6, _ALL_LOCAL_APICS, _CONFORMING, _LINT1),
        )
    )


def with_checksum(table: bytes, at: int) -> bytes:
    """Set the byte at `at`, 0 so far, so that all bytes sum to zero modulo 256."""
    return table[:at] + bytes([-sum(table) % 256]) + table[at + 1 :]


def _entries() -> Iterator[bytes]:
    """In the order of their types."""
    processor = (_PROCESSOR, LOCAL_APIC_ID, LOCAL_APIC_VERSION, _ENABLED_BSP, _SIGNATURE, _FEATURES)
    yield _PROCESSOR_ENTRY.pack(*processor)
    yield _BUS_ENTRY.pack(_BUS, _PCI_BUS, b"PCI   ")
    yield _BUS_ENTRY.pack(_BUS, _ISA_BUS, b"ISA   ")
    yield _IO_APIC_ENTRY.pack(_IO_APIC, IO_APIC_ID, IO_APIC_VERSION, 1, IO_APIC)
    for irq in ISA_IRQS:
        flags = _LEVEL_ACTIVE_HIGH if irq in LEVEL_IRQS else _CONFORMING
        yield _io_interrupt(flags, _ISA_BUS, irq, TIMER_INPUT if irq == TIMER_IRQ else irq)
    for device in pci_routing.DEVICES:
        for pin in pci_routing.PINS:
            yield _io_interrupt(_LEVEL_ACTIVE_HIGH, _PCI_BUS, device << 2 | pin, pci_routing.irq(device, pin))
    for kind, lint in ((_EXTINT, 0), (_NMI, _LINT1)):
        yield _INTERRUPT_ENTRY.pack(_LOCAL_INTERRUPT, kind, _CONFORMING, _ISA_BUS, 0, _ALL_LOCAL_APICS, lint)


def _io_interrupt(flags: int, bus: int, source: int, pin: int) -> bytes:
    return _INTERRUPT_ENTRY.pack(_IO_INTERRUPT, _INT, flags, bus, source, IO_APIC_ID, pin)
