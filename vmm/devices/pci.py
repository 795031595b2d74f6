"""PCI: functions with their configuration space, and how the processor reaches them (configuration mechanism #1).

Source: PCI Local Bus Specification 2.1, "Configuration Space", "Configuration Mechanism #1", "Base Addresses",
"Expansion ROM Base Address Register"; 82441FX, "CONFADD-Configuration Address Register".

There is one bus, number 0. A function claims what its base address registers say while the Command register lets it,
so what it answers at moves at run time: the board gives each BAR a `place(base)` that maps it there, or nowhere.
Not modelled: parity and system errors, 64-bit BARs, bridges to other buses, special cycles, latency and fast
back-to-back (bits that are kept and have no effect).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired

CONFIG_SIZE: Final = 256


class Config(IntEnum):
    """Offsets in the header of a configuration space ("Configuration Space Organization", type 00h)."""

    VENDOR = 0x00
    DEVICE = 0x02
    COMMAND = 0x04
    STATUS = 0x06
    REVISION = 0x08
    CLASS_CODE = 0x09
    LATENCY = 0x0D
    HEADER_TYPE = 0x0E
    BAR0 = 0x10
    BAR4 = 0x20
    SUBSYSTEM_VENDOR = 0x2C
    SUBSYSTEM = 0x2E
    ROM_BASE = 0x30
    INTERRUPT_LINE = 0x3C
    INTERRUPT_PIN = 0x3D


class Command(IntFlag):
    """Command register, 16 bits ("Device Control")."""

    IO = 1 << 0
    MEMORY = 1 << 1
    MASTER = 1 << 2


class ConfAdd(IntFlag):
    """CONFADD, the one-bit field of the configuration address."""

    CONE = 1 << 31  # enable


class Space(Enum):
    """What a base address register is for: its fixed low bits, and the address bits it has."""

    IO = (0x1, 0xFFFF_FFFC)
    MEMORY = (0x0, 0xFFFF_FFF0)
    ROM = (0x0, 0xFFFF_F800)

    def __init__(self, fixed: int, address: int) -> None:
        self.fixed = fixed
        self.address = address


Place = Callable[[int | None], None]
"""Map what belongs to a window at this base, or, told None, nowhere."""

MULTI_FUNCTION: Final = 0x80
ROM_ENABLE: Final = 1 << 0
NOBODY: Final = 0xFFFF_FFFF
_COMMAND_BITS: Final = 0x0147  # IO, memory, master, parity response, SERR#
_STATUS_CLEARED_BY_ONE: Final = 0xF900
_IO_END: Final = 1 << 16
_TOP: Final = 0xFFFF_FFFF
_IO: Final = int(Command.IO)
_MEMORY: Final = int(Command.MEMORY)
_MASTER: Final = int(Command.MASTER)
_CONE: Final = int(ConfAdd.CONE)


@dataclass(frozen=True, slots=True)
class PciIdentity:
    """The read-only part of a header. `class_code` is 24 bits: base class, subclass, programming interface.

    `interrupt_pin` is 0 for none, 1-4 for INTA#-INTD#. The subsystem is that of QEMU's pc board, by which firmware
    made for that board knows which chips it will find.
    """

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    header_type: int = 0
    interrupt_pin: int = 0
    subsystem_vendor: int = 0x1AF4
    subsystem: int = 0x1100


@dataclass(slots=True)
class Window:
    """A run of ports or addresses that software can move. `at` is where it is now, None for nowhere."""

    place: Place
    at: int | None = None

    def move(self, base: int | None) -> None:
        """Be at `base`, or nowhere; the board is told of changes only."""
        if base != self.at:
            self.at = base
            self.place(base)


@dataclass(slots=True)
class Bar:
    """A base address register at configuration offset `register`, for `size` bytes, a power of two."""

    register: int
    size: int
    space: Space
    window: Window

    @property
    def mask(self) -> int:
        """The bits that software can write, 32 bits: the address bits above the size, the enable bit of a ROM."""
        enable = ROM_ENABLE if self.space is Space.ROM else 0
        return -self.size & self.space.address | enable

    def base(self, value: int, command: int) -> int | None:
        """Where a register value puts the window, None for nowhere.

        A base of 0 is that of a register that nobody has set, and a run that reaches the top of the space is one
        whose size is being asked for: neither is decoded.
        """
        start = value & -self.size & self.space.address
        if self.space is Space.IO:
            return start if command & _IO and start > 0 and start + self.size <= _IO_END else None
        if not command & _MEMORY or (self.space is Space.ROM and not value & ROM_ENABLE):
            return None
        return start if start > 0 and start + self.size <= _TOP else None


@dataclass(slots=True, kw_only=True)
class PciFunction:
    """One function: 256 bytes of configuration space, what of them can be written, and its windows.

    A chip derives from this, fills in `config`, `writable` and `cleared_by_one` after `PciFunction.__post_init__`, ends
    with `power_on()`, and overrides `written` for registers of its own. `writable` has a 1 for each bit that a write
    sets; a 1 written to a bit of `cleared_by_one` clears it. All multi-byte registers are little endian.
    """

    identity: PciIdentity = wired()
    bars: tuple[Bar, ...] = wired(default=())
    writable: bytearray = wired(default_factory=lambda: bytearray(CONFIG_SIZE))
    cleared_by_one: bytearray = wired(default_factory=lambda: bytearray(CONFIG_SIZE))
    at_power_on: bytes = wired(default=b"")
    config: bytearray = field(default_factory=lambda: bytearray(CONFIG_SIZE))

    def __post_init__(self) -> None:
        """Fill in the header; BARs, Command, Status and Interrupt Line get their writable bits."""
        identity = self.identity
        for offset, width, value in (
            (Config.VENDOR, 2, identity.vendor),
            (Config.DEVICE, 2, identity.device),
            (Config.REVISION, 1, identity.revision),
            (Config.CLASS_CODE, 3, identity.class_code),
            (Config.HEADER_TYPE, 1, identity.header_type),
            (Config.SUBSYSTEM_VENDOR, 2, identity.subsystem_vendor),
            (Config.SUBSYSTEM, 2, identity.subsystem),
            (Config.INTERRUPT_PIN, 1, identity.interrupt_pin),
        ):
            self.set(offset, width, value)
        self.allow(Config.COMMAND, 2, _COMMAND_BITS)
        self.allow(Config.LATENCY, 1, 0xFF)
        self.allow(Config.INTERRUPT_LINE, 1, 0xFF)
        self.cleared_by_one[Config.STATUS : Config.STATUS + 2] = _STATUS_CLEARED_BY_ONE.to_bytes(2, "little")
        for bar in self.bars:
            self.set(bar.register, 4, bar.space.fixed)
            self.allow(bar.register, 4, bar.mask)
        self.power_on()

    # -- for the chip itself -------------------------------------------------------------------------------------

    def get(self, offset: int, width: int) -> int:
        """A register of `width` bytes as the chip sees it."""
        return int.from_bytes(self.config[offset : offset + width], "little")

    def set(self, offset: int, width: int, value: int) -> None:
        """Set a register, whatever software may do with it."""
        self.config[offset : offset + width] = value.to_bytes(width, "little")

    def allow(self, offset: int, width: int, mask: int) -> None:
        """Let software write the bits of `mask` in a register of `width` bytes."""
        self.writable[offset : offset + width] = mask.to_bytes(width, "little")

    def preset(self, values: Mapping[int, int], kept: Iterable[int]) -> None:
        """Give byte registers their values at power-on, and let software write all bits of those at `kept`."""
        for offset, value in values.items():
            self.set(offset, 1, value)
        for offset in kept:
            self.allow(offset, 1, 0xFF)

    def power_on(self) -> None:
        """Call the present configuration that of power-on: `reset` returns to it."""
        self.at_power_on = bytes(self.config)

    def written(self, offset: int, width: int) -> None:
        """Software has written `width` bytes at `offset`; a chip acts on registers of its own here."""

    @property
    def may_master(self) -> bool:
        """Whether the Command register lets this function be a bus master."""
        return bool(self.config[Config.COMMAND] & _MASTER)

    # -- for the bus ---------------------------------------------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        """A configuration read: `width` 1, 2 or 4 bytes that lie within one doubleword."""
        return self.get(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """A configuration write, as `read`."""
        for at, new in enumerate(value.to_bytes(width, "little"), offset):
            mask = self.writable[at]
            old = self.config[at]
            self.config[at] = (old & ~mask | new & mask) & ~(new & self.cleared_by_one[at])
        self._place_bars()
        self.written(offset, width)

    def reset(self) -> None:
        """RST#: the configuration of power-on; nothing is decoded before software says so."""
        self.config[:] = self.at_power_on
        self._settle()

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Put the state back and everything that follows from it: the windows move to where they were."""
        load_fields(self, state)
        self._settle()

    def _settle(self) -> None:
        self._place_bars()
        self.written(0, CONFIG_SIZE)

    def _place_bars(self) -> None:
        command = self.get(Config.COMMAND, 2)
        for bar in self.bars:
            bar.window.move(bar.base(self.get(bar.register, 4), command))


@dataclass(slots=True)
class PciBus:
    """Bus 0 behind the ports CF8h-CFFh. `functions` has (device number 0-31, function number 0-7) for its key."""

    functions: dict[tuple[int, int], PciFunction] = wired(default_factory=dict)
    address: int = 0

    def add(self, device: int, number: int, function: PciFunction) -> None:
        """Put a function on the bus. Raises: ValueError: there is one at this place."""
        if (device, number) in self.functions:
            raise ValueError(f"PCI 00:{device:02x}.{number}: two functions at one place")
        self.functions[device, number] = function

    def read_address(self) -> int:
        """CONFADD, 32 bits."""
        return self.address

    def write_address(self, value: int) -> None:
        """CONFADD: enable in bit 31, bus 23:16, device 15:11, function 10:8, doubleword 7:2; the rest is 0."""
        self.address = value & 0x80FF_FFFC

    def read_data(self, offset: int, width: int) -> int:
        """CONFDATA, from byte `offset` (0-3) of the addressed doubleword; all ones if nobody claims the cycle."""
        function = self._addressed()
        if function is None:
            return NOBODY >> 32 - 8 * width
        return function.read((self.address & 0xFC) + offset, width)

    def write_data(self, offset: int, width: int, value: int) -> None:
        """CONFDATA, as `read_data`."""
        function = self._addressed()
        if function is not None:
            function.write((self.address & 0xFC) + offset, width, value)

    def _addressed(self) -> PciFunction | None:
        address = self.address
        if not address & _CONE or address >> 16 & 0xFF:
            return None
        return self.functions.get((address >> 11 & 0x1F, address >> 8 & 7))

    def reset(self) -> None:
        """RST# to all functions, and CONFADD cleared."""
        self.address = 0
        for function in self.functions.values():
            function.reset()

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        load_fields(self, state)
