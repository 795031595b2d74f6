"""What the board of `--machine pc-test` has on top of the PC: APICs, fw_cfg, a test device, a debug exit.

The local APIC at FEE00000h, where IA32_APIC_BASE may move it, and the I/O APIC at FEC00000h get every ISA line as the
8259As do; the timer's is INTIN2, for INTIN0 is not connected. The 8259As' INTR is LINT0. Lines 16-23 of the test device
reach the I/O APIC alone.

Source: MultiProcessor Specification 1.4, "Default Configurations"; Intel SDM Vol. 3A, "Local APIC Status and Location".
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vmm.arch.layout import MASK32
from vmm.board_pci import Movable
from vmm.devices.bus import PortRegion
from vmm.devices.debug_ports import ExitPort
from vmm.devices.fw_cfg import PORTS as FW_CFG_PORTS
from vmm.devices.fw_cfg import FwCfg
from vmm.devices.i8259 import DualPic
from vmm.devices.ioapic import IoApic
from vmm.devices.irq import IrqLine
from vmm.devices.local_apic import LocalApic
from vmm.devices.local_apic_registers import PAGE
from vmm.devices.local_apic_timer import LocalApicTimer
from vmm.devices.pc_testdev import ECHO_PORTS, FLUSH_PORTS, LINES, MEMORY_SIZE, PcTestdev
from vmm.memory import GuestMemory, MemoryRegion

IOAPIC_BASE: Final = 0xFEC0_0000
TESTDEV_MEMORY: Final = 0xFF00_0000
ECHO_PORT: Final = 0xE0
FLUSH_PORT: Final = 0xE4
DEBUG_EXIT_PORT: Final = 0xF4
DEBUG_EXIT_PORTS: Final = 4
FW_CFG_PORT: Final = 0x510
TEST_LINES_PORT: Final = 0x2000
TIMER_IRQ: Final = 0
TIMER_PIN: Final = 2
ISA_LINES: Final = 16
_OVER_RAM: Final = 2
"""Priority of the local APIC's page: it answers before RAM and ROM, wherever it is put."""


@dataclass(frozen=True, slots=True)
class ApicSurroundings:
    """What these chips are wired to. `timed` is as in `board_pci`, `tsc_delay` as `LocalApicTimer.wait_for_tsc`.

    `on_intr` and `on_nmi` are the processor's pins, `on_flush(address)` drops a page's mappings, `items` is what fw_cfg
    tells.
    """

    memory: GuestMemory
    pic: DualPic
    lines: Mapping[int, IrqLine]
    exit_port: ExitPort
    timed: Callable[[Any, Callable[..., Any]], Callable[..., Any]]
    tsc_delay: Callable[[int, int], int]
    on_intr: Callable[[bool], None]
    on_nmi: Callable[[], None]
    on_flush: Callable[[int], None]
    on_unmodelled: Callable[[str], None]
    items: Mapping[int, bytes]


class ApicBoard:
    """These chips, wired. To the processor it is its local APIC: `vmm.cpu.apic`."""

    def __init__(self, around: ApicSurroundings) -> None:
        self._around = around
        self.local = LocalApic(
            on_intr=around.on_intr,
            on_nmi=around.on_nmi,
            on_eoi=lambda vector: self.io.end_of_interrupt(vector),
            on_place=self._place_local,
            on_unmodelled=around.on_unmodelled,
            timer=LocalApicTimer(around.tsc_delay),
        )
        self.io = IoApic(self.local.receive)
        self.fw_cfg = FwCfg(around.items)
        self._test_lines = {irq: line.source() for irq, line in around.lines.items()}
        self.testdev = PcTestdev(self._drive_test_line, around.on_flush)
        memory, timed = around.memory, around.timed
        read, write = timed(self.local, self.local.read), timed(self.local, self.local.write)
        self.read_msr: Callable[[int], int | None] = timed(self.local, self.local.read_msr)
        self.write_msr: Callable[[int, int], bool] = timed(self.local, self.local.write_msr)
        self.tsc_changed: Callable[[], None] = timed(self.local, lambda: None)
        self._local_page = Movable(
            memory.map,
            memory.unmap,
            lambda base: MemoryRegion("local APIC", base, PAGE, priority=_OVER_RAM, read=read, write=write),
        )
        self._map_memory(memory)
        self._wire(around)

    # --- wiring ----------------------------------------------------------------------------------------

    def _map_memory(self, memory: GuestMemory) -> None:
        memory.map(MemoryRegion("I/O APIC", IOAPIC_BASE, PAGE, read=self.io.read, write=self.io.write))
        read, write = self.testdev.read_memory, self.testdev.write_memory
        memory.map(MemoryRegion("test device", TESTDEV_MEMORY, MEMORY_SIZE, read=read, write=write))
        self.local.reset()

    def _wire(self, around: ApicSurroundings) -> None:
        """The wires that ended at the 8259As go on to the I/O APIC; the master's INTR goes to LINT0 instead of INTR."""
        around.pic.master.on_intr = self.local.set_lint0
        for irq, line in around.lines.items():
            line.output = self._to_both(irq, line.output)

    def _to_both(self, irq: int, to_8259: Callable[[bool], None]) -> Callable[[bool], None]:
        pin = TIMER_PIN if irq == TIMER_IRQ else irq

        def drive(level: bool) -> None:
            to_8259(level)
            self.io.set_line(pin, level)

        return drive

    def _place_local(self, base: int | None) -> None:
        if base is not None and base > MASK32:
            self._around.on_unmodelled("local APIC above 4 GiB: nobody reaches it there")
            base = None
        self._local_page.place(base)

    def _drive_test_line(self, line: int, level: bool) -> None:
        if line >= ISA_LINES:
            self.io.set_line(line, level)
        elif line in self._test_lines:
            self._test_lines[line](level)

    def regions(self) -> Iterator[PortRegion]:
        """Its ports. The debug exit takes any width, and all of the value counts."""
        test, firmware, leave = self.testdev, self.fw_cfg, self._around.exit_port
        yield PortRegion("echo", ECHO_PORT, ECHO_PORTS, test.read_echo, test.write_echo)
        yield PortRegion("page flush", FLUSH_PORT, FLUSH_PORTS, test.read_line, test.write_flush)
        yield PortRegion(
            "debug exit", DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS,
            lambda offset, _: leave.read(offset), lambda offset, _, value: leave.write(offset, value),
        )  # fmt: skip
        yield PortRegion("fw_cfg", FW_CFG_PORT, FW_CFG_PORTS, firmware.read, firmware.write, firmware.read_block)
        yield PortRegion("test lines", TEST_LINES_PORT, LINES, test.read_line, test.write_line, byte_wide=True)

    # --- the interrupt controller ------------------------------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        """Whether CPUID shows an APIC."""
        return self.local.is_enabled

    def has_interrupt(self) -> bool:
        """The level of the processor's INTR."""
        return self.local.has_interrupt()

    def acknowledge(self) -> int:
        """The INTA cycle: the vector, 0-255, of the local APIC or, through it, of the 8259As."""
        vector = self.local.acknowledge()
        return self._around.pic.acknowledge() if vector is None else vector

    # --- state -------------------------------------------------------------------------------------------

    def chips(self) -> dict[str, Any]:
        """What is saved."""
        return {"local_apic": self.local, "ioapic": self.io, "fw_cfg": self.fw_cfg, "testdev": self.testdev}

    def reset(self) -> None:
        """The reset line."""
        self.local.reset()
        self.io.reset()
