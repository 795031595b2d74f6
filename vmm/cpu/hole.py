"""The hole: the window of linear space that the guest shares with the VMM.

Every shadow root maps it. `SUPERVISOR` parts are out of reach of physical CPL 3, except under the root for real mode,
where the guest is its own kernel and runs in physical V86: there all of it has the U bit.

| part          | rights in the protected-mode root  | what for                                               |
| ------------- | ---------------------------------- | ------------------------------------------------------ |
| kernel cache  | supervisor, read-only, executable  | blocks of virtual CPL 0-2 and of real mode             |
| user cache    | user, read-only, executable        | blocks of virtual CPL 3 and of guest V86               |
| lookups       | user, read-only                    | branch targets, one table per block space              |
| vCPU page     | supervisor, read-write             | see `vmm.arch.layout.Slot`                             |
| user view     | user, read-only                    | the same frame                                         |
| user scratch  | user, read-write                   | scratch words of inline sequences at CPL 3             |
| shadowed      | supervisor, read-only              | a byte per guest page: is it in the shadow tables?     |
| shadow GDT    | supervisor, read-only              | data descriptors of the guest's, DPL 0 made 1          |
| GDT sources   | supervisor, read-only              | what they were made from (see `shadow_gdt.py`)         |
| shadow TSS    | supervisor, read-only              | back link 0, so that no native IRET finds a task       |
| guard         | user, read-only                    | 64 KiB with nothing around (see `bt.segment_checks`)   |
| whole GDT     | supervisor, read-only              | all of the guest's descriptors (`descriptor_shadow.py`) |
| whole LDT     | supervisor, read-only              | the same                                               |

No engine needs all of them: a `HoleView` says which ones its roots map.
"""

from dataclasses import dataclass, field
from typing import Final

from vmm.arch.layout import PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.hw.memory import PhysicalMemory

HOLE_SIZE: Final = 64 << 20
DEFAULT_HOLE: Final = 0xF400_0000
VMM_FRAMES: Final = 112 << 20
"""Physical memory for hole, tables and caches; touched only as it is used."""

KERNEL_CACHE_SIZE: Final = 24 << 20
USER_CACHE_SIZE: Final = 12 << 20
LOOKUP_SIZE: Final = 16 << 20
_STAGGER: Final = 21 * PAGE_SIZE
"""The engine's TLB is direct-mapped by the low bits of the page number: parts that began at the same bits, as they do
when laid end to end, would push each other out at every use."""
SHADOW_GDT_SIZE: Final = PAGE_SIZE
GDT_SOURCES_SIZE: Final = 2 * SHADOW_GDT_SIZE
SHADOWED_SIZE: Final = 1 << 20
DESCRIPTOR_TABLE_SIZE: Final = 1 << 16
GUARD_SIZE: Final = 1 << 16
"""The gaps that `_STAGGER` leaves around it are larger than what is used of them: four bytes below, 64 KiB above."""
CODE_PARTS: Final = ("kernel_cache", "user_cache")
_CANDIDATES: Final = tuple(range(DEFAULT_HOLE, 0x8000_0000, -HOLE_SIZE))

_P: Final = int(Pte.P)
_W: Final = int(Pte.W)
_U: Final = int(Pte.U)
_NX: Final = int(Pte.NX)


@dataclass(frozen=True, slots=True)
class HolePart:
    """One run of pages in the hole: where it is, its frames, and its rights as PTE bits."""

    offset: int
    size: int
    host: int
    rights: int


@dataclass(frozen=True, slots=True)
class HoleView:
    """Which parts of the hole the roots of an engine map, pages of code apart. `real_extra` are rights that all of them
    have beyond their own under the root for real mode."""

    parts: frozenset[str]
    real_extra: int


@dataclass(slots=True)
class Hole:
    """The hole of one VM at linear address `base` (64 MiB, aligned to its size)."""

    base: int = DEFAULT_HOLE
    parts: dict[str, HolePart] = field(default_factory=dict)
    _used: int = 0

    @classmethod
    def build(cls, physical: PhysicalMemory, base: int = DEFAULT_HOLE) -> "Hole":
        """Allocate the frames and lay the parts out."""
        hole = cls(base)
        hole._add(physical, "kernel_cache", KERNEL_CACHE_SIZE, _P)
        hole._add(physical, "user_cache", USER_CACHE_SIZE, _P | _U)
        hole._add(physical, "lookup", LOOKUP_SIZE, _P | _U | _NX)
        hole._add(physical, "vcpu_page", PAGE_SIZE, _P | _W | _NX)
        vcpu_page = hole.parts["vcpu_page"].host
        hole._add(physical, "user_view", PAGE_SIZE, _P | _U | _NX, host=vcpu_page)
        hole._add(physical, "user_scratch", PAGE_SIZE, _P | _W | _U | _NX)
        hole._add(physical, "shadowed", SHADOWED_SIZE, _P | _NX)
        hole._add(physical, "shadow_gdt", SHADOW_GDT_SIZE, _P | _NX)
        hole._add(physical, "shadow_tss", PAGE_SIZE, _P | _NX)
        hole._add(physical, "gdt_sources", GDT_SOURCES_SIZE, _P | _NX)
        hole._add(physical, "guard", GUARD_SIZE, _P | _U | _NX)
        hole._add(physical, "whole_gdt", DESCRIPTOR_TABLE_SIZE, _P | _NX)
        hole._add(physical, "whole_ldt", DESCRIPTOR_TABLE_SIZE, _P | _NX)
        return hole

    def linear(self, name: str) -> int:
        """Linear address of a part."""
        return self.base + self.parts[name].offset

    def contains(self, la: int) -> bool:
        """Is a linear address inside the hole?"""
        return self.base <= la < self.base + HOLE_SIZE

    def move_from(self, la: int) -> None:
        """Take another window of linear space, one without `la`."""
        self.base = next(base for base in _CANDIDATES if not base <= la < base + HOLE_SIZE)

    def _add(self, physical: PhysicalMemory, name: str, size: int, rights: int, host: int | None = None) -> None:
        where = physical.allocate(size) if host is None else host
        self._used += _STAGGER * len(self.parts)
        self.parts[name] = HolePart(self._used, size, where, rights)
        self._used += size
        if self._used > HOLE_SIZE:
            raise ValueError(f"the hole's parts take {self._used} bytes, more than {HOLE_SIZE}")


CACHE_VIEW: Final = HoleView(
    frozenset("lookup vcpu_page user_view user_scratch shadowed shadow_gdt shadow_tss gdt_sources guard".split()),
    _U,
)
"""For guest code that runs from a translation cache. A guest in real mode is its own kernel, and runs at CPL 3."""

IN_PLACE_VIEW: Final = HoleView(frozenset(("whole_gdt", "whole_ldt", "shadow_tss")), 0)
"""For guest code that runs where the guest has put it: what the processor itself reads, and nothing for the guest."""
