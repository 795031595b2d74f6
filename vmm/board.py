"""The board: which chip answers at which port, drives which line, and when.

The only place that knows ports, IRQ lines and addresses. A PC/AT-compatible board: two 8259As, an 8254, an MC146818
with 128 bytes of CMOS, two 8237s, an 82077AA, an 8042 with a keyboard, two 16550As, a VGA, two ATA channels; its PCI
side is in `board_pci`, what `--machine pc-test` has more in `board_apic`.

Source: IBM PC/AT Technical Reference, "I/O Address Map", "Hardware Interrupt Listing".
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from vmm.arch.layout import HostPhysical
from vmm.board_apic import ApicBoard, ApicSurroundings
from vmm.board_pci import PciBoard, Surroundings
from vmm.chips import ByteTimedChip, Chip, InterruptController, TimedChip
from vmm.cpu.cpuid import TSC_HZ
from vmm.cpu.msr import read_tsc, tsc_distance
from vmm.cpu.vcpu import STALE_ALL, Vcpu
from vmm.devices.a20 import A20Gate, A20Source
from vmm.devices.ata import AtaDisk
from vmm.devices.ata_channel import AtaChannel
from vmm.devices.ata_drive import AtaDrive
from vmm.devices.atapi import AtapiCdrom
from vmm.devices.atapi_unit import CdromUnit
from vmm.devices.block import BlockDevice
from vmm.devices.bus import PortBus, PortRegion, byte_region
from vmm.devices.coprocessor_error import CoprocessorError
from vmm.devices.debug_ports import DebugConsole, ExitPort, PostPort
from vmm.devices.fingers import Fingers
from vmm.devices.i8042 import I8042
from vmm.devices.i8237 import Dma
from vmm.devices.i8254 import I8254
from vmm.devices.i8259 import DualPic
from vmm.devices.i8272 import I8272
from vmm.devices.i8272_registers import FloppyDrive
from vmm.devices.irq import IrqLine
from vmm.devices.mc146818 import Mc146818
from vmm.devices.ps2_keyboard import Ps2Keyboard
from vmm.devices.system_control import NmiStatusAndControl, ResetControl, SystemControlPortA
from vmm.devices.uart16550 import Uart16550
from vmm.devices.vga import Vga
from vmm.door import Clock, Door
from vmm.errors import Unmodelled
from vmm.memory import GuestMemory

PIT_IRQ, KEYBOARD_IRQ, COM2_IRQ, COM1_IRQ, FLOPPY_IRQ, RTC_IRQ, MOUSE_IRQ, ATA0_IRQ, ATA1_IRQ = (
    0,
    1,
    3,
    4,
    6,
    8,
    12,
    14,
    15,
)
CASCADE_IRQ: Final = 2
X87_IRQ: Final = 13
FLOPPY_DMA: Final = 2
BOOT_DOOR_PORT: Final = 0x0F2A
FIRMWARE_CONSOLE_PORT: Final = 0x402  # where SeaBIOS and Bochs' BIOS write their messages
FLOPPY_DRIVES: Final = 4
_NEWER_CHIPS: Final = ("coprocessor_error",)
"""Machines that were saved before there were these may lack them."""


@dataclass(frozen=True, slots=True)
class Media:
    """What is in the drives: floppies A and B, disks (two on each channel), a CD on the second channel."""

    floppies: tuple[BlockDevice | None, ...] = ()
    disks: tuple[BlockDevice, ...] = ()
    cdrom: BlockDevice | None = None


@dataclass(slots=True)
class BoardPins:
    """What the board tells the rest of the VM: reset pulled, power off, exit port written, boot door knocked at.

    `on_serial` is the line of the first serial port, `on_serial2` that of the second.
    """

    on_reset: Callable[[str], None]
    on_power_off: Callable[[], None]
    on_exit: Callable[[int], None]
    on_boot_door: Callable[[], None]
    on_a20: Callable[[bool], None]
    on_serial: Callable[[int], None]
    on_serial2: Callable[[int], None]
    on_debugcon: Callable[[int], None]


class Board:
    """All chips of one VM, wired. It is the `Platform` of the virtual CPU's port instructions."""

    def __init__(self, vcpu: Vcpu, memory: GuestMemory, door: Door, media: Media, pins: BoardPins) -> None:
        self._vcpu, self._memory, self._pins = vcpu, memory, pins
        self.clock = Clock(door)
        self.unmodelled: Counter[str] = Counter()
        self.strict = False
        self.deadline: int | None = None
        self.on_earlier_deadline: Callable[[int], None] = lambda _deadline: None
        self.bus = PortBus(lambda: None)
        self.pic = DualPic(self._on_intr, self._note)
        self.interrupt_controller: InterruptController = self.pic
        self.apic: ApicBoard | None = None
        self.lines = {irq: IrqLine(partial(self.pic.set_line, irq)) for irq in range(16) if irq != CASCADE_IRQ}
        self.a20 = A20Gate(pins.on_a20)
        self.pit = I8254(self._note, (self.lines[PIT_IRQ].source(), None, None))
        self.rtc = Mc146818(self.lines[RTC_IRQ].source(), self._note)
        self.port61 = NmiStatusAndControl(self._set_gate2, self._read_out2)
        self.port92 = SystemControlPortA(lambda on: self.a20.set_source(A20Source.PORT_92, on), pins.on_reset)
        self.reset_control = ResetControl(pins.on_reset)
        self.keyboard_controller = I8042(
            self.lines[KEYBOARD_IRQ].source(), self.lines[MOUSE_IRQ].source(),
            lambda on: self.a20.set_source(A20Source.I8042, on), pins.on_reset, self._note, Ps2Keyboard(),
        )  # fmt: skip
        self.fingers = Fingers(self.keyboard_controller.keyboard)
        self.uart = Uart16550(self.lines[COM1_IRQ].source(), pins.on_serial)
        self.uart2 = Uart16550(self.lines[COM2_IRQ].source(), pins.on_serial2)
        self.vga = Vga(self._note)
        self.dma = Dma(lambda gpa, count: memory.read(gpa, count), memory.write, self._note)
        self.floppy = I8272(
            _floppy_drives(media), self.lines[FLOPPY_IRQ].source(),
            lambda data: self.dma.write_to_memory(FLOPPY_DMA, data),
            lambda count: self.dma.read_from_memory(FLOPPY_DMA, count), self._note,
        )  # fmt: skip
        self.ata = tuple(
            AtaChannel(self.lines[irq].source(), *drives)
            for irq, drives in zip((ATA0_IRQ, ATA1_IRQ), _ata_drives(media), strict=True)
        )
        self.coprocessor_error = CoprocessorError(self.lines[X87_IRQ].source())
        self.post = PostPort(lambda _code: None)
        self.debug_console = DebugConsole(pins.on_debugcon)
        self.exit_port = ExitPort(pins.on_exit)
        self.pci = PciBoard(
            Surroundings(
                self.bus,
                memory,
                _dram(memory),
                self.lines,
                self.ata,
                self._timed,
                pins.on_power_off,
                pins.on_reset,
                self._note,
            )
        )
        self._timed_chips: tuple[TimedChip, ...] = (
            self.pit, self.rtc, self.port61, self.keyboard_controller, self.fingers, self.uart, self.uart2,
            self.floppy, *self.ata, self.vga, self.pci.power,
        )  # fmt: skip
        self._map_ports()

    # --- wiring ----------------------------------------------------------------------------------------

    def _map_ports(self) -> None:
        for region in self._regions():
            self.bus.map(region)

    def _regions(self) -> Iterable[PortRegion]:
        yield byte_region("8237 1", 0x00, 16, self.dma.first)
        yield byte_region("8259 master", 0x20, 2, self.pic.master)
        yield self._timed_region("8254", 0x40, 4, self.pit)
        yield self._timed_region("8042", 0x60, 1, self.keyboard_controller)
        yield self._timed_region("port 61h", 0x61, 1, self.port61)
        yield self._timed_region("8042", 0x64, 1, self.keyboard_controller, offset=4)
        yield self._timed_region("MC146818", 0x70, 2, self.rtc)
        yield byte_region("POST", 0x80, 1, self.post)
        yield self._plain(
            "DMA pages", 0x81, 15, lambda o: self.dma.read_page(o + 1), lambda o, v: self.dma.write_page(o + 1, v)
        )
        yield byte_region("port 92h", 0x92, 1, self.port92)
        yield byte_region("8259 slave", 0xA0, 2, self.pic.slave)
        yield self._plain("8237 2", 0xC0, 32, self.dma.read_second, self.dma.write_second)
        yield byte_region("debug console", 0xE9, 1, self.debug_console)
        yield byte_region("coprocessor error", 0xF0, 1, self.coprocessor_error)
        yield self._ata_region("ATA 1", 0x170, self.ata[1])
        yield self._ata_region("ATA 0", 0x1F0, self.ata[0])
        yield self._timed_region("16550A 2", 0x2F8, 8, self.uart2)
        yield self._control_region("ATA 1 control", 0x376, self.ata[1])
        yield self._timed_region("VGA", 0x3B0, 0x30, self.vga)
        yield self._timed_region("82077AA", 0x3F0, 6, self.floppy)
        yield self._control_region("ATA 0 control", 0x3F6, self.ata[0])
        yield self._timed_region("82077AA", 0x3F7, 1, self.floppy, offset=7)
        yield self._timed_region("16550A", 0x3F8, 8, self.uart)
        yield byte_region("debug console", FIRMWARE_CONSOLE_PORT, 1, self.debug_console)
        yield byte_region("ELCR", 0x4D0, 2, self.pic)
        yield from self.pci.regions(self.reset_control)

    def add_display(self, rom: HostPhysical, size: int) -> None:
        """Put in the PCI display adapter, with an expansion ROM of `size` bytes, a power of two of whole pages."""
        self.pci.add_display(rom, size)

    def add_apics(self, items: Mapping[int, bytes]) -> None:
        """Put in what `--machine pc-test` has more. `items` is what fw_cfg tells, by number."""
        around = ApicSurroundings(
            self._memory, self.pic, self.lines, self.exit_port, self._timed, self._tsc_delay, self._on_intr,
            self._vcpu.raise_nmi,
            lambda _address: self._vcpu.make_stale(STALE_ALL), self._note, items,
        )  # fmt: skip
        self.apic = apic = ApicBoard(around)
        self.interrupt_controller = self._vcpu.apic = apic
        self._timed_chips = (*self._timed_chips, apic.local)
        for region in apic.regions():
            self.bus.map(region)

    def map_exit_port(self) -> None:
        """Let the guest end the run through port F4h."""
        self.bus.map(byte_region("exit port", 0xF4, 1, self.exit_port))

    def map_boot_door(self) -> None:
        """Let the kernel option ROM hand over."""
        self.bus.map(
            self._plain("boot door", BOOT_DOOR_PORT, 1, lambda _o: 0xFF, lambda _o, _v: self._pins.on_boot_door())
        )

    def _plain(
        self, name: str, base: int, count: int, read: Callable[[int], int], write: Callable[[int, int], None]
    ) -> PortRegion:
        return PortRegion(name, base, count, lambda o, _: read(o), lambda o, _, v: write(o, v), byte_wide=True)

    def _timed_region(self, name: str, base: int, count: int, chip: ByteTimedChip, offset: int = 0) -> PortRegion:
        """A byte-wide chip that is told the time before each access, and asked for its deadline after each."""
        advance, now, chip_read, chip_write = chip.advance, self.clock.now, chip.read, chip.write

        def read(at: int) -> int:
            advance(now())
            value = chip_read(at + offset)
            self._recheck(chip)
            return value

        def write(at: int, value: int) -> None:
            advance(now())
            chip_write(at + offset, value)
            self._recheck(chip)

        return self._plain(name, base, count, read, write)

    def _timed(self, chip: TimedChip, access: Callable[..., Any]) -> Callable[..., Any]:
        """An access to a chip that is told the time before it, and asked for its deadline after it."""

        def wrapped(*arguments: Any) -> Any:
            chip.advance(self.clock.now())
            value = access(*arguments)
            self._recheck(chip)
            return value

        return wrapped

    def _ata_region(self, name: str, base: int, channel: AtaChannel) -> PortRegion:
        accesses = (channel.read, channel.write, channel.read_block, channel.write_block)
        read, write, read_block, write_block = (self._timed(channel, access) for access in accesses)
        return PortRegion(name, base, 8, read, write, read_block, write_block)

    def _control_region(self, name: str, base: int, channel: AtaChannel) -> PortRegion:
        read, write = (self._timed(channel, access) for access in (channel.read_control, channel.write_control))
        return PortRegion(name, base, 1, read, write)

    def _set_gate2(self, level: bool) -> None:
        self.pit.advance(self.clock.last)
        self.pit.set_gate(2, level)

    def _read_out2(self) -> bool:
        self.pit.advance(self.clock.last)
        return self.pit.out(2)

    # --- Platform --------------------------------------------------------------------------------------

    def port_read(self, port: int, width: int) -> int:
        """IN."""
        return self.bus.read(port, width)

    def port_write(self, port: int, width: int, value: int) -> None:
        """OUT."""
        self.bus.write(port, width, value)

    def port_read_block(self, port: int, width: int, count: int) -> bytes:
        """INS."""
        return self.bus.read_block(port, width, count)

    def port_write_block(self, port: int, width: int, data: bytes) -> None:
        """OUTS."""
        self.bus.write_block(port, width, data)

    def tsc(self) -> int:
        """The time-stamp counter: one count a virtual nanosecond."""
        return _tsc_at(self.clock.now())

    def tsc_offset(self) -> int | None:
        """What the guest's time-stamp counter, 64 bits, is ahead of the host's monotonic nanoseconds; None: they do not
        go together, and who wants to know has to ask."""
        origin = self.clock.host_origin
        return None if origin is None else read_tsc(self._vcpu, _tsc_at(-origin))

    def _tsc_delay(self, count: int, now: int) -> int:
        """Nanoseconds from `now` until the guest's time-stamp counter reaches `count`; 0: it has."""
        return -(-tsc_distance(self._vcpu, count, _tsc_at(now)) * 1_000_000_000 // TSC_HZ)

    def acknowledge_interrupt(self) -> int:
        """The INTA cycle."""
        return self.interrupt_controller.acknowledge()

    def x87_error(self, level: bool) -> bool:
        """The processor's FERR#; returns the level of IGNNE#."""
        self.coprocessor_error.set_ferr(level)
        return self.coprocessor_error.ignne

    def _on_intr(self, level: bool) -> None:
        self._vcpu.set_interrupt_pending(level)

    # --- time ------------------------------------------------------------------------------------------

    def run_due(self) -> None:
        """Once a deadline is reached, bring every chip up to the present, in a fixed order, and find the next one."""
        now = self.clock.now()
        if self.deadline is not None and now < self.deadline:
            return
        for chip in self._timed_chips:
            chip.advance(now)
        deadlines = [deadline for chip in self._timed_chips if (deadline := chip.next_deadline()) is not None]
        self.deadline = min(deadlines, default=None)

    def _recheck(self, chip: TimedChip) -> None:
        deadline = chip.next_deadline()
        if deadline is not None and (self.deadline is None or deadline < self.deadline):
            self.deadline = deadline
            self.on_earlier_deadline(deadline)

    def take_inputs(self, door: Door) -> None:
        """Let waiting keys and serial bytes in, as far as there is room."""
        keys, data = door.look(1 if self.fingers.is_free() else 0, self.uart.room())
        if keys or data:
            now = self.clock.now()
            self.keyboard_controller.advance(now)
            self.uart.advance(now)
            for key in keys:
                self.fingers.strike(key, now)
            self.uart.receive(data)
            for chip in (self.keyboard_controller, self.fingers, self.uart):
                self._recheck(chip)

    # --- state -----------------------------------------------------------------------------------------

    def _note(self, what: str) -> None:
        self.unmodelled[what] += 1
        if self.strict:
            raise Unmodelled(what)

    def _chips(self) -> dict[str, Chip]:
        return {
            **self.pci.chips(),
            **({} if self.apic is None else self.apic.chips()),
            "pic": self.pic, "a20": self.a20, "pit": self.pit, "rtc": self.rtc, "port61": self.port61,
            "port92": self.port92, "reset_control": self.reset_control, "keyboard": self.keyboard_controller,
            "fingers": self.fingers, "uart": self.uart, "uart2": self.uart2, "vga": self.vga, "dma": self.dma,
            "floppy": self.floppy, "post": self.post, "coprocessor_error": self.coprocessor_error,
            **{f"ata{number}": channel for number, channel in enumerate(self.ata)},
            **{f"irq{number}": line for number, line in self.lines.items()},
        }  # fmt: skip

    def save(self) -> dict[str, Any]:
        """The state of every chip, and virtual time. PCI comes first: what it drives is put right by what follows."""
        return {"now": self.clock.last, **{name: chip.save() for name, chip in self._chips().items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Put every chip back."""
        for name, chip in self._chips().items():
            if name in state or name not in _NEWER_CHIPS:
                chip.load(state[name])
        self.clock.set(state["now"])
        self.deadline = None
        self._vcpu.set_interrupt_pending(self.interrupt_controller.has_interrupt())

    def reset(self) -> None:
        """The reset line: what on a PC/AT is wired to it. RAM, CMOS and time stay; A20 comes up open."""
        self.coprocessor_error.reset()
        for chip in (self.port92, self.reset_control, self.rtc, self.uart, self.uart2, self.pci.bus):
            chip.reset()
        if self.apic is not None:
            self.apic.reset()
        self.deadline = None
        self.a20.set_source(A20Source.I8042, True)


def _tsc_at(now: int) -> int:
    """What the time-stamp counter counts by itself, at `now` nanoseconds."""
    return now * TSC_HZ // 1_000_000_000


def _dram(memory: GuestMemory) -> HostPhysical:
    region = memory.region_at(0)
    if region is None or region.host is None:
        raise ValueError("a board without RAM at 0")
    return region.host


def _floppy_drives(media: Media) -> list[FloppyDrive]:
    present = [FloppyDrive(medium) for medium in media.floppies]
    return present + [FloppyDrive() for _ in range(FLOPPY_DRIVES - len(present))]


def _ata_drives(
    media: Media,
) -> tuple[tuple[AtaDrive | None, AtaDrive | None], tuple[AtaDrive | None, AtaDrive | None]]:
    """Disks fill the first channel, then what the CD leaves of the second; the CD is master of the second."""
    disks: list[AtaDrive | None] = [
        AtaDisk(disk=disk, serial=f"GV{number:08}") for number, disk in enumerate(media.disks)
    ]
    disks += [None] * (4 - len(disks))
    if media.cdrom is None:
        return (disks[0], disks[1]), (disks[2], disks[3])
    return (disks[0], disks[1]), (AtapiCdrom(unit=CdromUnit(media.cdrom)), disks[2])
