"""Intel 8237A DMA controller, the PC's pair of them, and the page registers that widen their addresses.

Source: Intel 8237A data sheet, "Register Description", "DMA Operation"; IBM PC AT Technical Reference, "DMA
Controller" for the cascade, the 16-bit channels and the page registers.

A device asks for a whole run of bytes at once; bus arbitration, priority and the single, block and demand modes differ
only in when the bytes would have moved.
Not modelled: memory-to-memory transfers, software requests, compressed timing, the polarity of DREQ and DACK.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.snapshot import load_fields, save_fields, wired


class Command(IntFlag):
    """Command register."""

    MEMORY_TO_MEMORY = 1 << 0
    CHANNEL_0_HOLD = 1 << 1
    DISABLE = 1 << 2
    COMPRESSED = 1 << 3
    ROTATING = 1 << 4
    EXTENDED_WRITE = 1 << 5
    DREQ_LOW = 1 << 6
    DACK_HIGH = 1 << 7


class Mode(IntFlag):
    """Mode register, without the channel number in bits 1:0 and the transfer type in bits 3:2."""

    AUTO_INITIALIZE = 1 << 4
    DECREMENT = 1 << 5
    CASCADE = 3 << 6


class Transfer(IntEnum):
    """Transfer type, bits 3:2 of the mode. The names are the data sheet's: WRITE is to memory."""

    VERIFY = 0
    WRITE = 1
    READ = 2
    ILLEGAL = 3


class Port(IntEnum):
    """Registers above the four address and count pairs ("Software Commands")."""

    STATUS = 0x8  # COMMAND when written
    REQUEST = 0x9
    SINGLE_MASK = 0xA
    MODE = 0xB
    CLEAR_FLIP_FLOP = 0xC
    MASTER_CLEAR = 0xD  # TEMPORARY when read
    CLEAR_MASK = 0xE
    ALL_MASK = 0xF


_DISABLE: Final = int(Command.DISABLE)
_AUTO_INITIALIZE: Final = int(Mode.AUTO_INITIALIZE)
_DECREMENT: Final = int(Mode.DECREMENT)
_CASCADE: Final = int(Mode.CASCADE)
_UNMODELLED_COMMANDS: Final = int(Command.MEMORY_TO_MEMORY | Command.DREQ_LOW | Command.DACK_HIGH)
_CHANNELS: Final = 4
_ALL: Final = 0x0F
_SET: Final = 1 << 2  # single mask and request: set, not clear


@dataclass(slots=True)
class Channel:
    """One channel: 16-bit base and current address and count (one less than the transfers left), and its mode."""

    base_address: int = 0
    base_count: int = 0
    address: int = 0
    count: int = 0
    mode: int = 0

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    @property
    def transfer(self) -> Transfer:
        return Transfer(self.mode >> 2 & 3)

    def reload(self) -> None:
        self.address, self.count = self.base_address, self.base_count

    def step(self, units: int) -> bool:
        """Count `units` transfers, at most the `count + 1` that are left; whether that was the terminal count."""
        self.address = (self.address + (-units if self.mode & _DECREMENT else units)) & 0xFFFF
        self.count = (self.count - units) & 0xFFFF
        return self.count == 0xFFFF


@dataclass(slots=True)
class I8237:
    """One 8237A. Four channels; `mask`, `terminal` and `requests` have bit n for channel n."""

    on_unmodelled: Callable[[str], None] = wired()
    channels: list[Channel] = field(default_factory=lambda: [Channel() for _ in range(_CHANNELS)])
    command: int = 0
    mask: int = _ALL
    terminal: int = 0
    requests: int = 0
    high_byte: bool = False  # the first/last flip-flop

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    def read(self, offset: int) -> int:
        if offset < Port.STATUS:
            channel = self.channels[offset >> 1]
            return self._byte_of(channel.count if offset & 1 else channel.address)
        if offset == Port.STATUS:
            status, self.terminal = self.requests << 4 | self.terminal, 0
            return status
        if offset == Port.ALL_MASK:
            return 0xF0 | self.mask  # later chips show the mask here
        return 0

    def write(self, offset: int, value: int) -> None:
        if offset < Port.STATUS:
            self._write_channel(self.channels[offset >> 1], value, count=bool(offset & 1))
        else:
            _WRITES[Port(offset)](self, value)

    def is_open(self, number: int) -> bool:
        """Whether a request on a channel would be answered."""
        return not self.command & _DISABLE and not self.mask >> number & 1

    def end_of_process(self, number: int) -> None:
        """Terminal count: note it, then start again or mask the channel ("Autoinitialize")."""
        self.terminal |= 1 << number
        self.requests &= ~(1 << number)
        if self.channels[number].mode & _AUTO_INITIALIZE:
            self.channels[number].reload()
        else:
            self.mask |= 1 << number

    def _byte_of(self, value: int) -> int:
        high, self.high_byte = self.high_byte, not self.high_byte
        return value >> 8 if high else value & 0xFF

    def _write_channel(self, channel: Channel, value: int, *, count: bool) -> None:
        """Half of a base register; the current register takes the same half."""
        high, self.high_byte = self.high_byte, not self.high_byte
        keep, put = (0x00FF, value << 8) if high else (0xFF00, value)
        if count:
            channel.base_count = channel.base_count & keep | put
            channel.count = channel.count & keep | put
        else:
            channel.base_address = channel.base_address & keep | put
            channel.address = channel.address & keep | put

    def _write_command(self, value: int) -> None:
        self.command = value
        if value & _UNMODELLED_COMMANDS:
            self.on_unmodelled(f"8237A command {value:#04x}: memory-to-memory or pin polarity")

    def _write_request(self, value: int) -> None:
        bit = 1 << (value & 3)
        self.requests = self.requests | bit if value & _SET else self.requests & ~bit
        if value & _SET:
            self.on_unmodelled(f"8237A software request on channel {value & 3}")

    def _write_single_mask(self, value: int) -> None:
        bit = 1 << (value & 3)
        self.mask = self.mask | bit if value & _SET else self.mask & ~bit

    def _write_mode(self, value: int) -> None:
        self.channels[value & 3].mode = value & ~3

    def _clear_flip_flop(self, _value: int) -> None:
        self.high_byte = False

    def _master_clear(self, _value: int) -> None:
        self.command = self.terminal = self.requests = 0
        self.high_byte = False
        self.mask = _ALL

    def _clear_mask(self, _value: int) -> None:
        self.mask = 0

    def _write_all_mask(self, value: int) -> None:
        self.mask = value & _ALL


_WRITES: Final[Mapping[Port, Callable[[I8237, int], None]]] = {
    Port.STATUS: I8237._write_command,
    Port.REQUEST: I8237._write_request,
    Port.SINGLE_MASK: I8237._write_single_mask,
    Port.MODE: I8237._write_mode,
    Port.CLEAR_FLIP_FLOP: I8237._clear_flip_flop,
    Port.MASTER_CLEAR: I8237._master_clear,
    Port.CLEAR_MASK: I8237._clear_mask,
    Port.ALL_MASK: I8237._write_all_mask,
}

# Page register offsets from port 80h of channels 0-7; the others are latches that nothing uses. Port 80h is POST's.
_PAGE_OF: Final = (0x7, 0x3, 0x1, 0x2, 0xF, 0xB, 0x9, 0xA)
_CASCADED: Final = 0  # channel 0 of the second controller, known as 4, carries the first
_PAGE_PORTS: Final = 16


@dataclass(slots=True)
class Dma:
    """The pair: channels 0-3 move bytes, 5-7 move words within 128 KiB, 4 is the cascade.

    The machine maps `first` at 00h-0Fh, `second` at C0h-DEh (even ports: `read_second`, `write_second` take the offset
    from C0h), and `read_page`, `write_page` at 80h-8Fh behind the POST port.
    """

    read_memory: Callable[[int, int], bytes] = wired()
    write_memory: Callable[[int, bytes], None] = wired()
    on_unmodelled: Callable[[str], None] = wired()
    pages: bytearray = field(default_factory=lambda: bytearray(_PAGE_PORTS))
    first: I8237 = field(init=False)
    second: I8237 = field(init=False)

    def __post_init__(self) -> None:
        self.first = I8237(self.on_unmodelled)
        self.second = I8237(self.on_unmodelled)

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    def read_second(self, offset: int) -> int:
        """Ports C0h-DFh: A0 is not connected, so each register shows twice."""
        return self.second.read(offset >> 1)

    def write_second(self, offset: int, value: int) -> None:
        self.second.write(offset >> 1, value)

    def read_page(self, offset: int) -> int:
        return self.pages[offset]

    def write_page(self, offset: int, value: int) -> None:
        self.pages[offset] = value

    def write_to_memory(self, channel: int, data: bytes) -> tuple[int, bool]:
        """A device offers bytes; how many were taken (0 if the channel is closed), and whether that reached TC."""
        return self._move(channel, len(data), Transfer.WRITE, lambda at, start, end: self._store(at, data[start:end]))

    def read_from_memory(self, channel: int, count: int) -> tuple[bytes, bool]:
        """A device asks for `count` bytes; what it got (nothing if the channel is closed), and whether TC came."""
        data = bytearray()
        moved, end = self._move(
            channel, count, Transfer.READ, lambda at, start, end: data.extend(self._fetch(at, end - start))
        )
        return bytes(data).ljust(moved, b"\xff"), end

    def _store(self, place: "_Run", data: bytes) -> None:
        self.write_memory(place.base, _swap(data, place))

    def _fetch(self, place: "_Run", count: int) -> bytes:
        return _swap(self.read_memory(place.base, count), place)

    def _move(
        self, number: int, size: int, wanted: Transfer, move: Callable[["_Run", int, int], None]
    ) -> tuple[int, bool]:
        """Run a channel for up to `size` bytes; `move(run, start, end)` handles a run of successive addresses."""
        controller, index = (self.second, number - 4) if number >= _CHANNELS else (self.first, number)
        if not self._is_open(number, controller, index):
            return 0, False
        channel, unit = controller.channels[index], 2 if number >= _CHANNELS else 1
        if channel.transfer not in (wanted, Transfer.VERIFY):
            self.on_unmodelled(f"8237A channel {number}: {channel.transfer.name} programmed, {wanted.name} requested")
        done = 0
        while size - done >= unit:
            run = _Run.of(channel, self.pages[_PAGE_OF[number]], unit, (size - done) // unit)
            if channel.transfer is wanted:
                move(run, done, done + run.units * unit)
            done += run.units * unit
            if channel.step(run.units):
                controller.end_of_process(index)
                return done, True
        return done, False

    def _is_open(self, number: int, controller: I8237, index: int) -> bool:
        """The first controller's requests pass through channel 4 of the second."""
        if controller.channels[index].mode & _CASCADE == _CASCADE:
            return False
        through = number >= _CHANNELS or self.second.is_open(_CASCADED)
        return through and controller.is_open(index)


@dataclass(frozen=True, slots=True)
class _Run:
    """Transfers to successive addresses: up to the terminal count and the end of the 16-bit address."""

    base: int  # guest-physical, of the lowest byte
    units: int
    unit: int
    down: bool

    @classmethod
    def of(cls, channel: Channel, page: int, unit: int, wanted: int) -> "_Run":
        down = bool(channel.mode & _DECREMENT)
        room = channel.address + 1 if down else 0x1_0000 - channel.address
        units = min(wanted, channel.count + 1, room)
        first = channel.address - units + 1 if down else channel.address
        high = (page & ~1 if unit == 2 else page) << 16
        return cls(high + first * unit, units, unit, down)


def _swap(data: bytes, run: _Run) -> bytes:
    """Device order to memory order and back: reversed by units when the address counts down."""
    if not run.down:
        return data
    return b"".join(data[at : at + run.unit] for at in range(len(data) - run.unit, -1, -run.unit))
