"""What all boot protocols share: guest memory as a loader fills it, and the state in which a kernel is entered.

A loader gets a file and the memory map, and returns a `BootImage`, which is plain data. Whoever owns the machine puts
it into guest memory and sets the processor accordingly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from firmware import elf
from vmm.arch.layout import PAGE_MASK, PAGE_SIZE
from vmm.arch.registers import Reg
from vmm.errors import ConfigError

MIB: Final = 1 << 20
LOW_START: Final = 0x1_0000  # above what a BIOS and a boot sector use
CONVENTIONAL_END: Final = 0xA_0000
MEMORY_MAX: Final = 2 << 30
"""The most that a user can give the guest."""
_FOUR_GIB: Final = 1 << 32

ReadMemory = Callable[[int, int], bytes]
"""Guest memory at the time of the entry: a physical address and a count in, bytes out."""
Completion = Callable[[ReadMemory], tuple[int, bytes]]
"""What only the running machine knows, such as the cursor's place: an address and the bytes that belong there."""


class MemoryType(IntEnum):
    """Types of the memory map, those of INT 15h, EAX = E820h (ACPI Specification 6.4, "Address Range Types")."""

    AVAILABLE = 1
    RESERVED = 2


@dataclass(frozen=True, slots=True)
class MemoryRange:
    """An entry of the memory map, as the BIOS gives it."""

    base: int
    length: int
    type: int = MemoryType.AVAILABLE

    @property
    def end(self) -> int:
        return self.base + self.length


@dataclass(frozen=True, slots=True)
class RealMode:
    """Entered in real mode: CS is `code`, the other segment registers are `data`; SP is `stack`, None to leave it."""

    code: int = 0
    data: int = 0
    stack: int | None = None


@dataclass(frozen=True, slots=True)
class FlatMode:
    """Entered in 32-bit protected mode, paging off, all segments from 0 to 4 GiB; FS, GS and SS are as DS.

    `code` and `data` are selectors. `gdt` is where in guest memory a table stands that has them, and its size in bytes;
    None: none does, and the kernel has to load its own before it loads a segment register.
    """

    code: int = 0x08
    data: int = 0x10
    gdt: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class BootImage:
    """What to put into guest memory, zeros first, then the writes in order, then the completions; and how to enter it.

    `registers` are general registers by number, 32 bits; the others are undefined. A20 is open, interrupts are off.
    """

    writes: tuple[tuple[int, bytes], ...]
    zeros: tuple[tuple[int, int], ...]
    entry: int
    registers: Mapping[Reg, int] = field(default_factory=dict)
    mode: RealMode | FlatMode = FlatMode()
    completions: tuple[Completion, ...] = ()


def load_flat(image: bytes, address: int, memory: Sequence[MemoryRange]) -> BootImage:
    """A flat binary at a physical address, which is also its entry: in real mode with CS = 0 below 1 MiB.

    Raises: ConfigError if it is not all RAM there.
    """
    layout = Layout(memory)
    layout.write(address, image)
    layout.check_loaded(address)
    return layout.image(address, {}, RealMode() if address < MIB else FlatMode())


@dataclass(slots=True)
class Layout:
    """Guest memory as it fills: every piece in available memory, the placed ones clear of all others."""

    memory: Sequence[MemoryRange]
    writes: list[tuple[int, bytes]] = field(default_factory=list)
    zeros: list[tuple[int, int]] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)  # start, end
    top: int = 0  # the highest end in `taken`
    budget: int = field(init=False)  # bytes still to be loaded: headers can name the same bytes again and again

    def __post_init__(self) -> None:
        self.budget = sum(r.length for r in self.memory if r.type == MemoryType.AVAILABLE)

    def image(self, entry: int, registers: Mapping[Reg, int], mode: RealMode | FlatMode) -> BootImage:
        """All that was laid out, to be entered so."""
        return BootImage(tuple(self.writes), tuple(self.zeros), entry, registers, mode)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes where the kernel wants them."""
        if data:
            self._load(address, len(data))
            self.writes.append((address, data))

    def zero(self, address: int, length: int) -> None:
        if length:
            self._load(address, length)
            self.zeros.append((address, length))

    def load_segments(self, image: bytes, shape: elf.Elf) -> None:
        """Load the segments of an ELF file at their physical addresses."""
        for segment in shape.segments:
            self.write(segment.physical, image[segment.offset : segment.offset + segment.stored])
            self.zero(segment.physical + segment.stored, segment.size - segment.stored)

    def place(self, data: bytes, *, low: bool = False) -> int:
        """Put bytes on free pages: above the kernel, or else anywhere above 1 MiB; the address."""
        address = self.find(len(data), low=low)
        self.write(address, data)
        return address

    def place_high(self, data: bytes, limit: int, what: str) -> int:
        """Put bytes on the highest free pages from 1 MiB to `limit`, the last address they may have; the address."""
        for low, high in reversed(list(self._gaps())):
            address = (min(high, limit + 1) - len(data)) & -PAGE_SIZE
            if address >= max(low, MIB):
                self.write(address, data)
                return address
        room = sum(high - low for low, high in self._gaps() if low >= MIB)
        raise ConfigError(
            f"{what} of {len(data)} bytes does not fit: {room >> 10} KiB are free above 1 MiB, up to {limit:#x}; "
            "give the guest more --memory"
        )

    def find(self, size: int, *, low: bool = False) -> int:
        """Free pages for `size` bytes, in low memory if asked and possible."""
        wheres = [(max(self.top, MIB), _FOUR_GIB), (MIB, _FOUR_GIB)]
        for start, end in [(LOW_START, CONVENTIONAL_END), *wheres] if low else wheres:
            if (address := self._fit(start, end, size)) is not None:
                return address
        raise ConfigError(f"{size} bytes of module or boot information do not fit into guest memory: give it more")

    def reserve(self, address: int, length: int) -> None:
        """Keep memory that the kernel is going to use clear of what is placed."""
        self.taken.append((address, address + length))
        self.top = max(self.top, address + length)

    def is_available(self, address: int, length: int) -> bool:
        """Whether the memory map has all of this as RAM."""
        return any(start <= address and address + length <= end for start, end in self.available())

    def check_loaded(self, entry: int) -> None:
        if not any(start <= entry < end for start, end in self.taken):
            raise ConfigError(f"the kernel's entry {entry:#x} is not within what it loads")

    def available(self) -> Iterator[tuple[int, int]]:
        """Available memory below 4 GiB as start and end, adjoining ranges joined."""
        start = end = 0
        for part in sorted(r for r in ((m.base, m.end) for m in self.memory if m.type == MemoryType.AVAILABLE)):
            if part[0] > end:
                if end > start:
                    yield start, min(end, _FOUR_GIB)
                start, end = part
            end = max(end, part[1])
        if end > start and start < _FOUR_GIB:
            yield start, min(end, _FOUR_GIB)

    def _load(self, address: int, length: int) -> None:
        if not self.is_available(address, length):
            raise ConfigError(
                f"the kernel loads at {address:#x}..{address + length:#x}, which is not all guest RAM"
                f"{memory_needed(address, address + length)}"
            )
        self.budget -= length
        if self.budget < 0:
            raise ConfigError("the kernel loads more bytes than there is guest RAM: its segments overlap")
        self.reserve(address, length)

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Available memory that is not taken, in order, as start and end."""
        for low, high in self.available():
            for start, end in sorted(self.taken):
                if low < min(start, high):
                    yield low, min(start, high)
                low = max(low, end)
            if low < high:
                yield low, high

    def _fit(self, start: int, end: int, size: int) -> int | None:
        """The first page-aligned gap of `size` bytes between `start` and `end`."""
        for low, high in self._gaps():
            address = page_up(max(low, start))
            if address + size <= min(high, end):
                return address
        return None


def memory_needed(start: int, end: int) -> str:
    """What to add to a message where memory from 1 MiB on is too short; empty where more would not help."""
    return f"; it needs --memory {-(-end // MIB)}M or more" if start >= MIB and end <= MEMORY_MAX else ""


def c_string(text: str) -> bytes:
    """A C string. Raises: ConfigError if it contains its own end."""
    if "\0" in text:
        raise ConfigError("a command line cannot contain a null character")
    return text.encode("utf-8", "surrogateescape") + b"\0"


def page_up(address: int) -> int:
    """The next page boundary."""
    return (address + PAGE_MASK) & -PAGE_SIZE
