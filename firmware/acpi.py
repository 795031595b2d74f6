"""The ACPI 1.0 tables of the board: RSDP, RSDT, FADT, DSDT, which are in ROM, and the FACS, which POST makes in RAM.

A board with APICs has a MADT, too.

All tables that nobody writes lie in the F-segment, where the search for the RSDP goes and which E820h reports as
reserved. The FACS has words that the operating system writes; it lies in the extended BIOS data area, reserved too.

The machine is always in ACPI mode: there is no SMI command port to enter it by, POST sets SCI_EN. The power button is
the fixed one, S5 is the one sleep state, the timer has 24 bits. There are no general-purpose events and no processor
states beyond HLT.

Source: Advanced Configuration and Power Interface Specification 1.0b, "ACPI Software Programming Model".
"""

import struct
from collections.abc import Iterable
from typing import Final

from firmware import aml, mp, pci_routing
from firmware.pci_routing import SCI_IRQ

PM_BASE: Final = 0x600  # where POST puts the power management ports (PMBA)
PM_PORTS: Final = 64
EBDA: Final = 0x9FC00
FACS_OFFSET: Final = 0xC0  # in the EBDA: a 64-byte boundary in memory
FACS_SIZE: Final = 64
PCI_MEMORY: Final = 0xE000_0000  # where POST starts to place memory BARs
PCI_MEMORY_LAST: Final = 0xFEBF_FFFF
S5_TYPE: Final = 0  # what SLP_TYP holds to switch off

_OEM: Final = b"GLASSV"
_OEM_TABLE: Final = b"GVPIIX4 "
_CREATOR: Final = b"GLSV"
_BOUNDARY: Final = 16
_RSDP: Final = struct.Struct("<8sB6sBI")  # signature, checksum, OEM, revision, RSDT
_RSDP_CHECKSUM: Final = 8
# Signature, length, revision, checksum, OEM, OEM table, OEM revision, creator, creator revision.
_TABLE: Final = struct.Struct("<4sIBB6s8sI4sI")
_TABLE_CHECKSUM: Final = 9
_FADT: Final = struct.Struct("<IIBxHIBBBx8I6BBxHHHHBBBBB3xI")
_FADT_REVISION: Final = 1
_DUAL_PIC, _MULTIPLE_APIC = 0, 1
_NO_C2, _NO_C3 = 101, 1001  # microseconds: above 100 and 1000 means that there is no such state
_CENTURY: Final = 0x32  # where CMOS has it
_FLAGS: Final = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6
"""WBINVD works; C1 works; the sleep button and the RTC's wake status are not among the fixed registers."""

# Devices on the ISA bus: name, identifier, (port, count) each, IRQ, DMA channel.
_ISA_DEVICES: Final[tuple[tuple[str, str, tuple[tuple[int, int], ...], int | None, int | None], ...]] = (
    ("PIC", "PNP0000", ((0x20, 2), (0xA0, 2)), 2, None),
    ("TMR", "PNP0100", ((0x40, 4),), 0, None),
    ("DMAC", "PNP0200", ((0x00, 16), (0x81, 15), (0xC0, 32)), None, 4),
    ("SPKR", "PNP0800", ((0x61, 1),), None, None),
    ("FPU", "PNP0C04", ((0xF0, 1),), 13, None),
    ("RTC", "PNP0B00", ((0x70, 2),), 8, None),
    ("KBD", "PNP0303", ((0x60, 1), (0x64, 1)), 1, None),
    ("FDC0", "PNP0700", ((0x3F2, 4), (0x3F7, 1)), 6, 2),
    ("COM1", "PNP0501", ((0x3F8, 8),), 4, None),
    ("COM2", "PNP0501", ((0x2F8, 8),), 3, None),
    ("MBRD", "PNP0C02", ((0x92, 1), (0xB2, 2), (0x4D0, 2), (PM_BASE, PM_PORTS)), None, None),
)


def tables(base: int, *, apic: bool = False) -> bytes:
    """All static tables, the RSDP first, for physical address `base`, a multiple of 16 in the F-segment.

    `apic` tells whether the board has APICs.
    """
    madts = (_table(b"APIC", mp.madt_content()),) if apic else ()
    rsdt_at = base + _up(_RSDP.size)
    fadt_at = rsdt_at + _up(_TABLE.size + 4 * (1 + len(madts)))
    madt_at = fadt_at + _up(_TABLE.size + _FADT.size)
    dsdt_at = madt_at + sum(_up(len(madt)) for madt in madts)
    addresses = [fadt_at, *(madt_at for _ in madts)]
    parts = (_rsdp(rsdt_at), _rsdt(addresses), _fadt(dsdt_at, apic=apic), *madts, dsdt())
    return b"".join(part.ljust(_up(len(part)), b"\0") for part in parts)


def dsdt() -> bytes:
    """The differentiated system description: S5, the PCI root with its interrupts, the devices on the ISA bus."""
    return _table(
        b"DSDT",
        aml.name("\\_S5_", aml.package(*[aml.integer(S5_TYPE)] * 2, *[aml.integer(0)] * 2))
        + aml.scope("\\_SB_", _pci_root()),
    )


def _pci_root() -> bytes:
    windows = aml.resources(
        aml.bus_window(0, 0xFF),
        aml.io_ports(0xCF8, 8),
        aml.io_window(0, 0xCF7),
        aml.io_window(0xD00, 0xFFFF),
        aml.memory_window(0xA_0000, 0xB_FFFF),
        aml.memory_window(PCI_MEMORY, PCI_MEMORY_LAST),
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.integer(aml.eisa_id("PNP0A03"))),
        aml.name("_ADR", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", windows),
        aml.name("_PRT", aml.package(*_routes())),
        aml.device("ISA_", aml.name("_ADR", aml.integer(pci_routing.BRIDGE_DEVICE << 16)), *_isa_devices()),
    )


def _routes() -> Iterable[bytes]:
    """For each pin of each device: (device, any function), pin, no link device, IRQ."""
    for device in pci_routing.DEVICES:
        for pin in pci_routing.PINS:
            values = (device << 16 | 0xFFFF, pin, 0, pci_routing.irq(device, pin))
            yield aml.package(*map(aml.integer, values))


def _isa_devices() -> Iterable[bytes]:
    for number, (name, identifier, ports, irq, dma) in enumerate(_ISA_DEVICES):
        items = [aml.io_ports(base, count) for base, count in ports]
        if irq is not None:
            items.append(aml.irq_line(irq))
        if dma is not None:
            items.append(aml.dma_channel(dma))
        yield aml.device(
            name,
            aml.name("_HID", aml.integer(aml.eisa_id(identifier))),
            aml.name("_UID", aml.integer(number)),
            aml.name("_CRS", aml.resources(*items)),
        )


def _rsdp(rsdt: int) -> bytes:
    return mp.with_checksum(_RSDP.pack(b"RSD PTR ", 0, _OEM, 0, rsdt), _RSDP_CHECKSUM)


def _rsdt(addresses: list[int]) -> bytes:
    return _table(b"RSDT", struct.pack(f"<{len(addresses)}I", *addresses))


def _fadt(dsdt_address: int, *, apic: bool) -> bytes:
    """The fixed ACPI description table, 116 bytes."""
    addresses = (EBDA + FACS_OFFSET, dsdt_address, _MULTIPLE_APIC if apic else _DUAL_PIC, SCI_IRQ)
    no_smi = (0, 0, 0, 0)  # command port, enable, disable, S4BIOS request
    # PM1a and PM1b event blocks, PM1a and PM1b control blocks, PM2 control, timer, GPE0, GPE1; then their lengths.
    blocks = (PM_BASE, 0, PM_BASE + 4, 0, 0, PM_BASE + 8, 0, 0)
    lengths = (4, 2, 0, 4, 0, 0)
    gpe1_base, flush, duty = 0, (0, 0), (0, 0)
    alarm = (0, 0)  # where CMOS has the alarm's day and month: nowhere
    return _table(
        b"FACP",
        _FADT.pack(
            *addresses, *no_smi, *blocks, *lengths, gpe1_base, _NO_C2, _NO_C3, *flush, *duty, *alarm, _CENTURY, _FLAGS
        ),
        _FADT_REVISION,
    )


def _table(signature: bytes, content: bytes, revision: int = 1) -> bytes:
    length = _TABLE.size + len(content)
    header = _TABLE.pack(signature, length, revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1)
    return mp.with_checksum(header + content, _TABLE_CHECKSUM)


def _up(size: int) -> int:
    return size + _BOUNDARY - 1 & -_BOUNDARY
