"""How the board's PCI interrupt pins reach interrupt lines, and the table that says so to software without ACPI.

The pins INTA#-INTD# of a device are wired to the bridge's four inputs PIRQA#-PIRQD# in turn, device 1 from PIRQA#,
device 2 from PIRQB# and so on; the BIOS routes those to the IRQs in `PIRQ_IRQS`. The power management function is the
exception: its pin is the SCI.

Sources: 82371SB (PIIX3) data sheet, "PIRQRC[A:D]-PIRQx Route Control Registers"; PCI IRQ Routing Table Specification
1.0 (Microsoft).
"""

import struct
from collections.abc import Iterator
from typing import Final

PIRQ_IRQS: Final = (10, 10, 11, 11)
SCI_IRQ: Final = 9
BRIDGE_DEVICE: Final = 1  # PCI to ISA, with the IDE and power management functions
DEVICES: Final = range(1, 32)  # the host bridge, device 0, has no pin
PINS: Final = range(4)
_PIRQRC: Final = 0x60  # route control of PIRQA# in the bridge's configuration space; the others follow
_BRIDGE_ID: Final = 0x7000_8086
_CHOICES: Final = 1 << 5 | 1 << 10 | 1 << 11  # IRQs that nothing on the board has
# Signature, version, size, the bridge's bus and function, IRQs for PCI alone, compatible bridge, miniport data,
# 11 reserved bytes, checksum.
_HEADER: Final = struct.Struct("<4sHHBBHII11xB")
_LINK: Final = struct.Struct("<BH")  # link value, bitmap of IRQs


def pirq(device: int, pin: int) -> int | None:
    """Which PIRQ input (0-3) pin 0-3 of a device reaches; None: the SCI, which nothing routes."""
    return None if (device, pin) == (BRIDGE_DEVICE, 0) else (device - 1 + pin) % len(PIRQ_IRQS)


def irq(device: int, pin: int) -> int:
    """The interrupt line of pin 0-3 of a device, 0-15."""
    at = pirq(device, pin)
    return SCI_IRQ if at is None else PIRQ_IRQS[at]


def routing_table() -> bytes:
    """The PCI IRQ routing table, `$PIR`; it goes to a 16-byte boundary in the F-segment."""
    slots = b"".join(_slot(device) for device in DEVICES)
    size = _HEADER.size + len(slots)
    head = (b"$PIR", 0x0100, size, 0, BRIDGE_DEVICE << 3, 0, _BRIDGE_ID, 0)
    rest = sum(_HEADER.pack(*head, 0) + slots)
    return _HEADER.pack(*head, -rest % 256) + slots


def _slot(device: int) -> bytes:
    """One device: bus, device number, a link for each pin, slot number (0: on the board)."""
    return bytes((0, device << 3)) + b"".join(_links(device)) + bytes(2)


def _links(device: int) -> Iterator[bytes]:
    for pin in PINS:
        at = pirq(device, pin)
        yield _LINK.pack(0, 0) if at is None else _LINK.pack(_PIRQRC + at, _CHOICES)
