"""The PCI side of the board: which function sits where, and what it is wired to.

Device numbers, PIRQ wiring and identities are those of QEMU's pc board: 00:00.0 host bridge, 00:01 PIIX3 with ISA
bridge (.0), IDE (.1) and power management (.3), 00:02.0 VGA.

Source: PCI Local Bus Specification 2.1, "Configuration Mechanism #1"; 82371SB data sheet, "PCI Interrupt Routing".
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Generic, TypeVar

from vmm.arch.layout import HostPhysical
from vmm.devices.ata_channel import AtaChannel
from vmm.devices.bus import PortBus, PortRegion
from vmm.devices.i440fx import I440fx
from vmm.devices.irq import IrqLine
from vmm.devices.pci import PciBus, Window
from vmm.devices.pci_vga import PciVga
from vmm.devices.piix3 import PIRQS, ROUTABLE, Piix3
from vmm.devices.piix3_ide import PORTS, BusMaster, Piix3Ide
from vmm.devices.piix4_pm import APM_PORT, IO_SIZE, Piix4Pm
from vmm.devices.system_control import ResetControl
from vmm.memory import GuestMemory, MemoryRegion
from vmm.upper_memory import UpperMemory

CONFIG_ADDRESS: Final = 0xCF8
CONFIG_DATA: Final = 0xCFC
SCI_IRQ: Final = 9
SOUTH_BRIDGE: Final = 1
DISPLAY: Final = 2

Region = TypeVar("Region", PortRegion, MemoryRegion)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the PCI chips are wired to. `timed(chip, access)` puts time before an access and a deadline after it."""

    ports: PortBus
    memory: GuestMemory
    dram: HostPhysical
    lines: Mapping[int, IrqLine]
    channels: tuple[AtaChannel, ...]
    timed: Callable[[Any, Callable[..., Any]], Callable[..., Any]]
    on_power_off: Callable[[], None]
    on_reset: Callable[[str], None]
    on_unmodelled: Callable[[str], None]


@dataclass(slots=True)
class Movable(Generic[Region]):
    """What a function answers at where software puts it: `region` makes it for a base, a bus or memory maps it."""

    map: Callable[[Region], None]
    unmap: Callable[[Region], None]
    region: Callable[[int], Region]
    mapped: Region | None = None

    def place(self, base: int | None) -> None:
        """Answer at `base`, or, told None, nowhere."""
        if self.mapped is not None:
            self.unmap(self.mapped)
            self.mapped = None
        if base is not None:
            self.mapped = self.region(base)
            self.map(self.mapped)


class PciBoard:
    """All PCI functions of one machine. `bus` holds them by place."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._priorities = count(1)
        self.bus = PciBus()
        upper = UpperMemory(around.memory, around.dram)
        self.host_bridge = I440fx(on_pam=upper.set_attributes, on_smram=upper.set_smram)
        self.isa_bridge = Piix3(irqs={irq: tuple(around.lines[irq].source() for _ in range(PIRQS)) for irq in ROUTABLE})
        self.ide = Piix3Ide(place=self._movable(self._ide_region))
        self.power = Piix4Pm(
            on_sci=around.lines[SCI_IRQ].source(),
            on_power_off=around.on_power_off,
            on_reset=around.on_reset,
            on_unmodelled=around.on_unmodelled,
            io=Window(self._movable(self._power_region)),
        )
        for channel in around.channels:
            self._add_bus_master(channel)
        for device, number, function in (
            (0, 0, self.host_bridge),
            (SOUTH_BRIDGE, 0, self.isa_bridge),
            (SOUTH_BRIDGE, 1, self.ide),
            (SOUTH_BRIDGE, 3, self.power),
        ):
            self.bus.add(device, number, function)

    def add_display(self, rom: HostPhysical, size: int) -> None:
        """Put in the display adapter, with an expansion ROM of `size` bytes, a power of two of whole pages."""
        memory = self._around.memory

        def region(base: int) -> MemoryRegion:
            """What the board has of its own hides it."""
            return MemoryRegion("VGA expansion ROM", base, size, rom, read_only=True, priority=-1)

        self.bus.add(DISPLAY, 0, PciVga(place=Movable(memory.map, memory.unmap, region).place, rom_size=size))

    def regions(self, reset_control: ResetControl) -> Iterator[PortRegion]:
        """The fixed ports: mechanism #1, within whose address register the byte at CF9h is PIIX3's reset control.

        Only a doubleword access reaches CONFADD.
        Source: 82441FX, "CONFADD-Configuration Address Register"; 82371SB, "RC-Reset Control Register".
        """

        def read(offset: int, width: int) -> int:
            if (offset, width) == (0, 4):
                return self.bus.read_address()
            return reset_control.read(0) if (offset, width) == (1, 1) else (1 << 8 * width) - 1

        def write(offset: int, width: int, value: int) -> None:
            if (offset, width) == (0, 4):
                self.bus.write_address(value)
            elif (offset, width) == (1, 1):
                reset_control.write(0, value)

        yield PortRegion("PCI address", CONFIG_ADDRESS, 4, read, write)
        yield PortRegion("PCI data", CONFIG_DATA, 4, self.bus.read_data, self.bus.write_data)
        yield PortRegion(
            "APM", APM_PORT, 2, lambda offset, _: self.power.read_apm(offset),
            self._around.timed(self.power, lambda offset, _, value: self.power.write_apm(offset, value)),
            byte_wide=True,
        )  # fmt: skip

    # --- what moves --------------------------------------------------------------------------------------

    def _movable(self, region: Callable[[int, int], PortRegion]) -> Callable[[int | None], None]:
        """Ports of a function, from their base and a priority of their own, above that of fixed ports.

        Software may put two at one place, and the later one answers.
        """
        priority = next(self._priorities)
        ports = self._around.ports
        return Movable(ports.map, ports.unmap, lambda base: region(base, priority)).place

    def _ide_region(self, base: int, priority: int) -> PortRegion:
        """A channel's bus master shares the channel's time: what it starts has a deadline there."""

        def access(act: Callable[..., Any]) -> Callable[..., Any]:
            by_channel = [self._around.timed(channel, act) for channel in self._around.channels]
            return lambda offset, *rest: by_channel[offset >> 3](offset, *rest)

        read = access(lambda offset, _: self.ide.read_port(offset))
        write = access(lambda offset, _, value: self.ide.write_port(offset, value))
        return PortRegion("IDE bus master", base, PORTS, read, write, priority=priority, byte_wide=True)

    def _power_region(self, base: int, priority: int) -> PortRegion:
        timed, chip = self._around.timed, self.power
        read, write = timed(chip, chip.read_io), timed(chip, chip.write_io)
        return PortRegion("power management", base, IO_SIZE, read, write, priority=priority)

    def _add_bus_master(self, channel: AtaChannel) -> None:
        memory = self._around.memory
        master = BusMaster(channel, memory.read, memory.write, lambda: self.ide.may_master)
        to_pic = channel.on_irq

        def on_irq(level: bool) -> None:
            master.see_irq(level)
            to_pic(level)

        channel.on_irq, channel.on_dma = on_irq, master.move
        self.ide.attach(master)

    # --- state -------------------------------------------------------------------------------------------

    def chips(self) -> dict[str, Any]:
        """What is saved: the functions by their places, and the configuration address."""
        places = {f"pci{device}.{number}": function for (device, number), function in self.bus.functions.items()}
        return {**places, "pci": self.bus}
