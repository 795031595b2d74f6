"""The composition root: a configuration in, a virtual machine out.

A `Vm` is memory, board and a virtual CPU. It knows of no physical CPU; `vmm.monitor` runs it on one.
"""

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from firmware.bootimage import BootImage, MemoryRange, MemoryType, load_flat
from firmware.build import build_bios, build_kernel_rom, build_vga_rom
from firmware.fw_cfg import kernel_items
from firmware.kernel import Kernel
from firmware.pci_rom import pci_rom
from vmm import cmos, kernel_entry
from vmm.arch.layout import PAGE_MASK, PAGE_SIZE
from vmm.board import Board, BoardPins, Media
from vmm.boards import BoardName
from vmm.cpu.hole import VMM_FRAMES, Hole
from vmm.cpu.paging import A20_CLOSED, A20_OPEN, Mmu
from vmm.cpu.vcpu import STALE_ALL, Vcpu
from vmm.devices import pci_vga
from vmm.devices.a20 import A20Source
from vmm.devices.fw_cfg import machine_items
from vmm.door import Door
from vmm.engines.names import EngineName, Rings
from vmm.errors import ConfigError
from vmm.hw.memory import PhysicalMemory
from vmm.images import Image, Kind, is_bootable, open_image, read_file
from vmm.memory import GuestMemory, MemoryRegion
from vmm.outcome import ExitPort, Outcome, PoweredOff, ResetRequested
from vmm.screen import GraphicsScreen, TextScreen, capture

EBDA: Final = 0x9FC00
LOW_RAM: Final = 0xA0000
BIOS_LOW: Final = 0xF0000
VIDEO_RAM: Final = 0xA0000
VIDEO_RAM_SIZE: Final = 0x20000
VGA_ROM: Final = 0xC0000
KERNEL_ROM: Final = 0xD0000
HIGH_RAM: Final = 0x100000
FOUR_GIB: Final = 1 << 32
ROM_SHADOW_MAX: Final = 0x20000
BIOS_SIZES: Final = (0x10000, 0x20000, 0x40000, 0x80000)
MAX_FILE: Final = 1 << 30
PROCESSORS: Final = 1
_SAVE_VERSION: Final = 1


@dataclass(frozen=True)
class MachineConfig:
    """What machine to build. `memory` in bytes; `boot` floppy, disk or cdrom, None for what was given first."""

    memory: int = 64 << 20
    floppies: tuple[Path | None, ...] = ()
    disks: tuple[Path, ...] = ()
    cdrom: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    flat: tuple[Path, int] | None = None
    modules: tuple[tuple[Path, str], ...] = ()
    append: str = ""
    bios: Path | None = None
    boot: str | None = None
    write: bool = False
    clock: Literal["realtime", "warp"] = "realtime"
    exit_port: bool = False
    strict: bool = False
    audit: bool = False
    trace: frozenset[str] = frozenset()
    engine: EngineName = EngineName.TRANSLATE
    nested_paging: bool = False
    segment_checks: bool = True
    rings: Rings = Rings.THREE
    machine: BoardName = BoardName.PC

    @property
    def has_apics(self) -> bool:
        """Whether the board is one of those with a local APIC and an I/O APIC."""
        return self.machine is BoardName.PC_TEST


Sink = Callable[[bytes], None]
Loader = Callable[[Sequence[MemoryRange]], BootImage]
"""Lays out a kernel or a flat binary in a memory map. Raises: ConfigError: it does not fit."""


@dataclass
class Vm:
    """A virtual machine. `outcome` is set by a device that ends the run."""

    config: MachineConfig
    physical: PhysicalMemory
    memory: GuestMemory
    mmu: Mmu
    hole: Hole
    vcpu: Vcpu
    door: Door
    board: Board = field(init=False)
    images: list[Image] = field(default_factory=list)
    serial_out: list[Sink] = field(default_factory=list)
    serial2_out: list[Sink] = field(default_factory=list)
    debugcon_out: list[Sink] = field(default_factory=list)
    outcome: Outcome | None = None
    on_request: Callable[[], None] = lambda: None
    stats_source: Callable[[], dict[str, Any]] = dict
    on_trace: Callable[[Any], None] | None = None
    loader: Loader | None = None
    kernel_has_run: bool = False
    video: memoryview = field(init=False)

    @property
    def now(self) -> int:
        """Virtual time in nanoseconds."""
        return self.board.clock.last

    def screen(self) -> TextScreen | GraphicsScreen:
        """What the guest's screen shows."""
        return capture(self.board.vga, self.video)

    def stats_json(self) -> dict[str, Any]:
        """Statistics; docs/stats.md has the schema."""
        stats = self.stats_source()
        stats["unmodelled"] = dict(self.board.unmodelled)
        stats["time"] = {"virtual_ns": self.now, **stats.get("time", {})}
        return stats

    def reset(self) -> None:
        """Pull the reset line: CPU and chips start again, RAM and CMOS keep what they hold."""
        self.outcome = None
        self.vcpu.reset()
        self.board.reset()

    def close(self) -> None:
        """Close the image files."""
        for image in self.images:
            image.close()

    def set_a20(self, enabled: bool) -> None:
        """The A20 gate: closed, bit 20 of every guest-physical address is 0."""
        self.mmu.a20_mask = A20_OPEN if enabled else A20_CLOSED
        self.vcpu.make_stale(STALE_ALL)

    # --- what devices ask for --------------------------------------------------------------------------

    def request(self, outcome: Outcome) -> None:
        """A device ends the run."""
        self.outcome = outcome
        self.on_request()

    def open_boot_door(self) -> None:
        """The option ROM wants the kernel, and brings the memory map that the BIOS tells.

        Once a kernel has run, whoever comes may be a guest gone wild with a map of nonsense: where the kernel does not
        fit into that, the door stays shut.
        Raises: ConfigError: the kernel does not fit into that map, though it fitted into the one of our own BIOS.
        """
        try:
            self.enter_kernel(kernel_entry.reported_map(self.vcpu, self.memory))
        except ConfigError:
            if not self.kernel_has_run:
                raise

    def enter_kernel(self, reported: Sequence[MemoryRange] = ()) -> None:
        """Put the kernel into memory and the processor into the state that its boot protocol says."""
        if self.loader is None:
            return
        image = self.loader(reported or memory_map(self.config.memory))
        self.board.a20.set_source(A20Source.I8042, True)
        kernel_entry.enter(self.vcpu, self.memory, image)
        self.kernel_has_run = True

    # --- save and load ---------------------------------------------------------------------------------

    def save(self) -> bytes:
        """The whole machine at an exit: processor, chips, media changes, RAM."""
        state = {
            "version": _SAVE_VERSION,
            "memory_size": self.memory.ram_size,
            "drives": len(self.images),
            "machine": str(self.config.machine),
            "vcpu": self.vcpu.save(),
            "board": self.board.save(),
            "images": [image.save() for image in self.images],
            "ram": _pack_pages(self._ram()),
            "video": _pack_pages(self.video),
        }
        return zlib.compress(json.dumps(state).encode(), 1)

    def load(self, saved: bytes) -> None:
        """Put back what `save` gave, into a VM of the same configuration. Raises: ConfigError."""
        state = _saved_state(saved)
        names = ("version", "memory_size", "drives", "machine")
        found = tuple(({"machine": str(BoardName.PC)} | state).get(name) for name in names)
        expected = (_SAVE_VERSION, self.memory.ram_size, len(self.images), str(self.config.machine))
        if found != expected:
            raise ConfigError(f"saved machine: version, memory, images and board {found} given, {expected} expected")
        try:
            self._put_back(state)
        except KeyError as error:
            raise ConfigError(f"saved machine: another version of vmm has made it ({error})") from None

    def _put_back(self, state: dict[str, Any]) -> None:
        _unpack_pages(self._ram(), state["ram"])
        _unpack_pages(self.video, state["video"])
        self.vcpu.load(state["vcpu"])
        self.board.load(state["board"])
        self.kernel_has_run = True  # for all that is known: a saved machine has no user to tell
        self.set_a20(self.board.a20.enabled)
        for image, saved_image in zip(self.images, state["images"], strict=True):
            image.load(saved_image)
        self.vcpu.make_stale(STALE_ALL)

    def _ram(self) -> memoryview:
        region = self.memory.region_at(0)
        if region is None or region.host is None:
            raise ConfigError("saved machine: no RAM at 0")
        return self.physical.window(region.host, self.memory.ram_size)


def _saved_state(saved: bytes) -> dict[str, Any]:
    try:
        state = json.loads(zlib.decompress(saved))
    except (zlib.error, ValueError) as error:
        raise ConfigError(f"saved machine: not one ({error})") from None
    if not isinstance(state, dict):
        raise ConfigError("saved machine: not one (no object)")
    return state


def _pack_pages(view: memoryview) -> dict[str, str]:
    """The pages that are not all zero, by number, compressed."""
    blank = bytes(PAGE_SIZE)
    pages = ((at // PAGE_SIZE, bytes(view[at : at + PAGE_SIZE])) for at in range(0, len(view), PAGE_SIZE))
    return {str(n): base64.b64encode(zlib.compress(page, 1)).decode() for n, page in pages if page != blank}


def _unpack_pages(view: memoryview, pages: dict[str, str]) -> None:
    view[:] = bytes(len(view))
    for number, packed in pages.items():
        at = int(number) * PAGE_SIZE
        view[at : at + PAGE_SIZE] = zlib.decompress(base64.b64decode(packed))


# --- building ------------------------------------------------------------------------------------------


def build_vm(config: MachineConfig, door: Door | None = None, power_on: bytes | None = None) -> Vm:
    """Build the machine that a configuration describes. Raises: ConfigError."""
    physical = PhysicalMemory(_whole_pages(config.memory) + VMM_FRAMES)
    memory = GuestMemory(physical, config.memory)
    mmu = Mmu(memory)
    hole = Hole.build(physical)
    if power_on is None:
        power_on = _power_on_state()
    vcpu = Vcpu(physical.window(hole.parts["vcpu_page"].host, PAGE_SIZE), mmu, power_on)
    mmu.registers = vcpu
    vm = Vm(config, physical, memory, mmu, hole, vcpu, door or Door())
    vm.video = _map_ram(vm)
    media = _open_media(vm)
    vm.board = Board(vcpu, memory, vm.door, media, _pins(vm))
    vm.board.strict = config.strict
    vm.board.a20.set_source(A20Source.I8042, True)
    cmos.configure(vm.board.rtc.cmos, config.memory, media, _boot_order(config))
    vm.board.rtc.set_clock(vm.door.wall_clock())
    _map_roms(vm)
    items = machine_items(config.memory, PROCESSORS) | _prepare_kernel(vm)
    if config.has_apics:
        vm.board.add_apics(items)
    elif config.exit_port:
        vm.board.map_exit_port()
    return vm


def _whole_pages(size: int) -> int:
    return size + PAGE_MASK & ~PAGE_MASK


def _map_ram(vm: Vm) -> memoryview:
    size = vm.config.memory
    host = vm.physical.allocate(size)  # all of it, also what lies under ROMs and video memory: `upper_memory`
    vm.memory.map(MemoryRegion("low RAM", 0, LOW_RAM, host))
    if size > HIGH_RAM:
        vm.memory.map(MemoryRegion("high RAM", HIGH_RAM, size - HIGH_RAM, _at(host, HIGH_RAM)))
    video = vm.physical.allocate(VIDEO_RAM_SIZE)
    vm.memory.map(MemoryRegion("video RAM", VIDEO_RAM, VIDEO_RAM_SIZE, video))
    return vm.physical.window(video, VIDEO_RAM_SIZE)


def _map_roms(vm: Vm) -> None:
    config = vm.config
    bios = build_bios(apic=config.has_apics) if config.bios is None else _foreign_bios(config.bios)
    host = _put_rom(vm, bios)
    vm.memory.map(MemoryRegion("BIOS ROM", FOUR_GIB - len(bios), len(bios), host, read_only=True))
    low = min(len(bios), ROM_SHADOW_MAX)
    vm.memory.map(MemoryRegion("BIOS ROM, low", HIGH_RAM - low, low, _at(host, len(bios) - low), read_only=True))
    roms = [("VGA ROM", VGA_ROM, build_vga_rom())]
    if vm.config.kernel is not None or vm.config.flat is not None:
        roms.append(("kernel ROM", KERNEL_ROM, build_kernel_rom()))
        vm.board.map_boot_door()
    for name, base, image in roms:
        vm.memory.map(MemoryRegion(name, base, _whole_pages(len(image)), _put_rom(vm, image), read_only=True))
    _add_display(vm)


def _add_display(vm: Vm) -> None:
    """The VGA BIOS once more, as the expansion ROM of the display adapter: there a BIOS that knows PCI looks for it."""
    identity = pci_vga.IDENTITY
    image = pci_rom(build_vga_rom(), identity.vendor, identity.device, identity.class_code)
    size = pci_vga.rom_window_size(len(image))
    vm.board.add_display(_put_rom(vm, image.ljust(size, b"\xff")), size)


def _put_rom(vm: Vm, image: bytes) -> Any:
    host = vm.physical.allocate(_whole_pages(len(image)))
    vm.physical.view[host : host + len(image)] = image
    return host


def _at(host: Any, offset: int) -> Any:
    return host + offset


def _foreign_bios(path: Path) -> bytes:
    image = read_file(path, BIOS_SIZES[-1])
    if len(image) not in BIOS_SIZES:
        sizes = ", ".join(f"{size >> 10}K" for size in BIOS_SIZES)
        raise ConfigError(f"{path}: a BIOS of {len(image)} bytes given, one of {sizes} expected")
    return image


def _open_media(vm: Vm) -> Media:
    config = vm.config

    def opened(path: Path, kind: Kind) -> Image:
        image = open_image(path, kind, write=config.write)
        vm.images.append(image)
        return image

    try:
        floppies = tuple(None if path is None else opened(path, Kind.FLOPPY) for path in config.floppies)
        disks = tuple(opened(path, Kind.DISK) for path in config.disks)
        cdrom = None if config.cdrom is None else opened(config.cdrom, Kind.CDROM)
        _check_bootable(vm)
    except ConfigError:
        vm.close()
        raise
    return Media(floppies, disks, cdrom)


def _check_bootable(vm: Vm) -> None:
    """Refuse media on which our BIOS would find nothing to start. What another BIOS looks for is its own affair."""
    config = vm.config
    starts_elsewhere = config.kernel is not None or config.flat is not None or config.bios is not None
    if vm.images and not starts_elsewhere and not any(is_bootable(image) for image in vm.images):
        names = ", ".join(str(image.path) for image in vm.images)
        raise ConfigError(f"{names}: no boot signature (55h AAh after a boot sector) and no El Torito boot record")


def _boot_order(config: MachineConfig) -> tuple[str, ...]:
    """What was asked for first, then whatever else is there."""
    present = [
        name for name, there in (("floppy", config.floppies), ("disk", config.disks), ("cdrom", config.cdrom)) if there
    ]
    if config.boot is None:
        return tuple(present)
    return (config.boot, *(name for name in present if name != config.boot))


def _prepare_kernel(vm: Vm) -> dict[int, bytes]:
    """Read what was given instead of a medium, and lay it out once, so that what does not fit is refused at once.

    Returns what fw_cfg tells about it, on a board that has that.
    """
    config = vm.config
    if config.flat is not None:
        path, address = config.flat
        vm.loader = partial(load_flat, read_file(path, MAX_FILE), address)
        vm.loader(memory_map(config.memory))
    if config.kernel is None:
        return {}
    initrd = None if config.initrd is None else read_file(config.initrd, MAX_FILE)
    modules = tuple((read_file(path, MAX_FILE), text) for path, text in config.modules)
    names = str(config.kernel), str(config.initrd or "")
    kernel = Kernel(read_file(config.kernel, MAX_FILE), config.append, initrd, modules, *names)
    vm.loader = kernel.lay_out
    return kernel_items(kernel, kernel.lay_out(memory_map(config.memory)))


def memory_map(size: int) -> tuple[MemoryRange, ...]:
    """The memory map that a boot protocol hands over: what INT 15h, E820h says, for `size` bytes of RAM."""
    reserved = MemoryType.RESERVED
    ranges = [
        MemoryRange(0, EBDA),
        MemoryRange(EBDA, LOW_RAM - EBDA, reserved),
        MemoryRange(BIOS_LOW, HIGH_RAM - BIOS_LOW, reserved),
    ]
    if size > HIGH_RAM:
        ranges.append(MemoryRange(HIGH_RAM, size - HIGH_RAM))
    return (*ranges, MemoryRange(FOUR_GIB - BIOS_SIZES[0], BIOS_SIZES[0], reserved))


def _pins(vm: Vm) -> BoardPins:
    def to(sinks: list[Sink]) -> Callable[[int], None]:
        def send(byte: int) -> None:
            data = bytes([byte])
            for sink in sinks:
                sink(data)

        return send

    return BoardPins(
        on_reset=lambda source: vm.request(ResetRequested(source)),
        on_power_off=lambda: vm.request(PoweredOff()),
        on_exit=lambda value: vm.request(ExitPort(value)),
        on_boot_door=vm.open_boot_door,
        on_a20=vm.set_a20,
        on_serial=to(vm.serial_out),
        on_serial2=to(vm.serial2_out),
        on_debugcon=to(vm.debugcon_out),
    )


def _power_on_state() -> bytes:
    from vmm.hw.cpu import power_on_state

    return power_on_state()
