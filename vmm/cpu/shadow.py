"""Shadow page tables: what the physical MMU walks while the guest runs.

PAE with NX, always on. The tables are a virtual TLB: empty at first, filled at a page fault from the guest's own tables
(or from the identity, while the guest does not page); they forget what the guest tells its TLB to forget. There are at
most as many of them as 4 GiB has, and they are used again. Nothing but the translation cache is executable, and of that
only the pages whose blocks may run (see `bt.cache`). Two roots share every table of guest pages and differ in the hole
alone: the real-mode root gives it to the user (see `hole.py`). A third one, for the VMM's own use, maps all of the hole
and nothing else.

Pages of `GuestMemory.watched` and of ROM are mapped read-only; device pages are not mapped; where nothing answers, a
page of ones is mapped read-only.

Source: Intel SDM Vol. 3A, "PAE Paging".
"""

from enum import Enum, auto
from typing import Final

from vmm.arch.layout import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.cpu.hole import HOLE_SIZE, SHADOWED_SIZE, Hole, HolePart
from vmm.cpu.paging import A20_BIT, Mmu
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

_P: Final = int(Pte.P)
_W: Final = int(Pte.W)
_U: Final = int(Pte.U)
_D: Final = int(Pte.D)
_AD: Final = int(Pte.A | Pte.D)
_NX: Final = int(Pte.NX)
_ENTRIES: Final = 512
_LARGE_SHIFT: Final = 21
_LARGE_SIZE: Final = 1 << _LARGE_SHIFT
_DIRECTORIES: Final = 4 * _ENTRIES
_FRAME: Final = 0x000F_FFFF_FFFF_F000
_G: Final = int(Pte.G)
_PS: Final = int(Pte.PS)
_SERVICE: Final = -1
CODE_PARTS: Final = ("kernel_cache", "user_cache")
_LARGEST_PAGE: Final = 2
"""Tables that a 4 MiB page of 32-bit paging covers."""
_NOTES_MAX: Final = 200_000
"""So many entries may be remembered for the sake of undoing them; beyond, all is forgotten and begins again."""
_ALL_SHADOWED: Final = b"\x01" * (_LARGEST_PAGE * _ENTRIES)
"""Of the largest page."""
_NOTHING_SHADOWED: Final = bytes(SHADOWED_SIZE)


class Fill(Enum):
    """What a fault on a page turned out to be, once the guest's own tables allow the access."""

    MAPPED = auto()  # hidden: the shadow was behind, try again
    WATCHED = auto()  # a store to a page that is watched
    DEVICE = auto()  # there is no RAM to map for this access


class ShadowTables:
    """The shadow of one virtual CPU. Addresses of table entries are physical; `roots` are CR3 values."""

    def __init__(self, physical: PhysicalMemory, memory: GuestMemory, mmu: Mmu, hole: Hole) -> None:
        self._physical = physical
        self._entries = physical.view.cast("Q")
        self._memory = memory
        self._mmu = mmu
        self._hole = hole
        self._ones = physical.allocate(PAGE_SIZE)
        physical.view[self._ones : self._ones + PAGE_SIZE] = b"\xff" * PAGE_SIZE
        self._free: list[int] = []
        self._tables: dict[int, int] = {}
        self._writable_at: dict[int, set[int]] = {}
        self._local: list[int] = []
        self._large: set[int] = set()
        self._notes = 0
        self._shadowed = physical.window(hole.parts["shadowed"].host, SHADOWED_SIZE)
        self._hole_tables: dict[int, int] = {}
        self.real_root, self._real_directories = self._build_root()
        self.protected_root, self._protected_directories = self._build_root()
        self.service_root, self._service_directories = self._build_root()
        self.rebuild_roots()

    def root(self, real: bool) -> int:
        """CR3 for a mode."""
        return self.real_root if real else self.protected_root

    # --- filling ---------------------------------------------------------------------------------------

    def fill(self, la: int, write: bool, user: bool) -> Fill:
        """Make one access possible, if the guest's tables allow it and RAM answers.

        Raises: GuestFault, the true fault.
        """
        if not self._mmu.is_paging:
            return self._fill_identity(la, write)
        gpa, rights = self._mmu.walk(la, write, user)
        self._note(la, rights)
        if write and not rights & _W:  # CR0.WP is clear: the supervisor may, so the user must not come near
            return self._fill_page(la, gpa, write, True, 0)
        return self._fill_page(la, gpa, write, bool(rights & _W and rights & _D), rights & _U)

    def _note(self, la: int, rights: int) -> None:
        """Remember what `drop_local` and `drop_page` must know about a page that is about to be filled."""
        if self._notes >= _NOTES_MAX:
            self._forget()  # but not `shadowed`: code pages may be on whose translations INVLPG must find
        self._notes += 1
        self.note_fetch(la, rights)
        if not rights & _G:
            self._local.append(la >> PAGE_SHIFT)

    def _fill_identity(self, la: int, write: bool) -> Fill:
        gpa = la & self._mmu.a20_mask
        if la >> _LARGE_SHIFT not in self._tables:
            self._fill_table_identity(la >> _LARGE_SHIFT)
        return self._fill_page(la, gpa, write, True, _U)

    def _fill_page(self, la: int, gpa: int, write: bool, may_write: bool, user_bit: int) -> Fill:
        page = gpa >> PAGE_SHIFT
        region = self._memory.region_at(page)
        if region is None or region.host is None or region.read_only:
            if write or (region is not None and region.host is None):
                return Fill.DEVICE
            may_write = False
        if page in self._memory.watched:
            if write:
                return Fill.WATCHED
            may_write = False
        self._set(la, self._frame(region, gpa) | _P | _AD | _NX | user_bit | (_W if may_write else 0))
        if may_write:
            self._writable_at.setdefault(page, set()).add(la >> PAGE_SHIFT)
        return Fill.MAPPED

    def _frame(self, region: MemoryRegion | None, gpa: int) -> int:
        if region is None or region.host is None:
            return self._ones
        return region.host + gpa - region.base & ~PAGE_MASK

    def _fill_table_identity(self, number: int) -> None:
        """Fill a new table with all RAM pages of its 2 MiB: an unpaged guest can reach them all at once."""
        table = self._table(number)
        base = number << _LARGE_SHIFT
        mask = self._mmu.a20_mask
        watched = self._memory.watched
        bits = _P | _AD | _NX | _U
        for index in range(_ENTRIES):
            gpa = base + (index << PAGE_SHIFT) & mask
            region = self._memory.region_at(gpa >> PAGE_SHIFT)
            if region is None or region.host is None or region.read_only or gpa >> PAGE_SHIFT in watched:
                continue
            self._entries[(table >> 3) + index] = region.host + gpa - region.base | bits | _W

    # --- changing --------------------------------------------------------------------------------------

    def protect(self, page: int) -> None:
        """Make the guest's stores to a guest-physical page fault, in all aliases. The caller flushes the TLB."""
        if not self._mmu.is_paging:
            self._clear_write(page)
            if not self._mmu.a20_mask & A20_BIT:
                self._clear_write(page ^ A20_BIT >> PAGE_SHIFT)
        for alias in self._writable_at.pop(page, ()):
            self._clear_write(alias)

    def map_once(self, la: int, frame: int, writable: bool) -> None:
        """Map any frame at the page of `la`, for one instruction; `unmap` takes it away. The caller flushes the TLB."""
        self._set(la, frame | _P | _AD | _NX | _U | (_W if writable else 0))

    def unmap(self, la: int) -> None:
        """Forget one page. The caller flushes the TLB."""
        table = self._tables.get(la >> _LARGE_SHIFT)
        if table is not None:
            self._entries[(table >> 3) + (la >> PAGE_SHIFT & _ENTRIES - 1)] = 0

    def drop_page(self, la: int) -> tuple[int, int]:
        """Forget the guest's page at a linear address, whatever its size: (first 4 KiB page number, how many).

        The caller flushes the TLB.
        """
        number = la >> _LARGE_SHIFT
        first = number & ~(_LARGEST_PAGE - 1)
        numbers = range(first, first + _LARGEST_PAGE)
        self._shadowed[la >> PAGE_SHIFT] = 0
        if self._large.isdisjoint(numbers):
            self.unmap(la)
            return la >> PAGE_SHIFT, 1
        pages = first << _LARGE_SHIFT - PAGE_SHIFT
        self._shadowed[pages : pages + _LARGEST_PAGE * _ENTRIES] = bytes(_LARGEST_PAGE * _ENTRIES)
        for each in numbers:
            self._large.discard(each)
            if (table := self._tables.get(each)) is not None:
                self._physical.view[table : table + PAGE_SIZE] = bytes(PAGE_SIZE)
        return pages, _LARGEST_PAGE * _ENTRIES

    def drop_local(self) -> None:
        """Forget every guest page that is not global. The caller flushes the TLB."""
        entries, tables = self._entries, self._tables
        for page in self._local:
            table = tables.get(page >> _LARGE_SHIFT - PAGE_SHIFT)
            if table is not None:
                entries[(table >> 3) + (page & _ENTRIES - 1)] = 0
        self._local.clear()

    def drop_all(self) -> None:
        """Forget every guest page; no code page is on any more. The caller flushes the TLB."""
        self._forget()
        self._large.clear()
        self._shadowed[:] = _NOTHING_SHADOWED

    def note_fetch(self, la: int, rights: int) -> None:
        """INVLPG of the guest's page at a linear address must tell the VMM, though no data was touched: code was."""
        if not rights & _PS:
            self._shadowed[la >> PAGE_SHIFT] = 1
            return
        number = la >> _LARGE_SHIFT
        if number not in self._large:
            self._large.add(number)
            first = (number & ~(_LARGEST_PAGE - 1)) << _LARGE_SHIFT - PAGE_SHIFT
            self._shadowed[first : first + _LARGEST_PAGE * _ENTRIES] = _ALL_SHADOWED

    def _forget(self) -> None:
        for number, table in self._tables.items():
            self._set_directories(number, 0)
            self._free.append(table)
        self._tables.clear()
        self._writable_at.clear()
        self._local.clear()
        self._notes = 0

    def _clear_write(self, page: int) -> None:
        table = self._tables.get(page >> _LARGE_SHIFT - PAGE_SHIFT)
        if table is not None:
            self._entries[(table >> 3) + (page & _ENTRIES - 1)] &= ~_W

    def _set(self, la: int, entry: int) -> None:
        table = self._table(la >> _LARGE_SHIFT)
        self._entries[(table >> 3) + (la >> PAGE_SHIFT & _ENTRIES - 1)] = entry

    def _table(self, number: int) -> int:
        table = self._tables.get(number)
        if table is None:
            table = self._free.pop() if self._free else self._physical.allocate(PAGE_SIZE)
            self._physical.view[table : table + PAGE_SIZE] = bytes(PAGE_SIZE)
            self._tables[number] = table
            self._set_directories(number, table | _P | _W | _U)
        return table

    def _set_directories(self, number: int, entry: int) -> None:
        if self._hole.base <= number << _LARGE_SHIFT < self._hole.base + HOLE_SIZE:
            return  # the guest cannot reach below the hole
        self._entries[(self._real_directories >> 3) + number] = entry
        self._entries[(self._protected_directories >> 3) + number] = entry

    # --- the roots -------------------------------------------------------------------------------------

    def _build_root(self) -> tuple[int, int]:
        root = self._physical.allocate(PAGE_SIZE)
        directories = self._physical.allocate(4 * PAGE_SIZE)
        for index in range(4):
            self._entries[(root >> 3) + index] = directories + index * PAGE_SIZE | _P
        return root, directories

    def rebuild_roots(self) -> None:
        """Forget every guest page and map the hole where it now is. The caller flushes the TLB."""
        self.drop_all()
        for directories, extra in ((self._real_directories, _U), (self._protected_directories, 0)):
            self._physical.view[directories : directories + 4 * PAGE_SIZE] = bytes(4 * PAGE_SIZE)
            self._map_hole(directories, extra, extra)
        self._physical.view[self._service_directories : self._service_directories + 4 * PAGE_SIZE] = bytes(
            4 * PAGE_SIZE
        )
        self._map_hole(self._service_directories, _SERVICE, 0)

    def _map_hole(self, directories: int, kind: int, extra: int) -> None:
        first = self._hole.base >> _LARGE_SHIFT
        count = HOLE_SIZE >> _LARGE_SHIFT
        if kind not in self._hole_tables:
            self._hole_tables[kind] = self._physical.allocate(count * PAGE_SIZE)
            for name, part in self._hole.parts.items():
                if kind == _SERVICE or name not in CODE_PARTS:
                    self._map_part(self._hole_tables[kind], part, extra)
        tables = self._hole_tables[kind]
        for index in range(count):
            self._entries[(directories >> 3) + first + index] = tables + index * PAGE_SIZE | _P | _W | _U

    def _map_part(self, tables: int, part: HolePart, extra: int) -> None:
        at = (tables >> 3) + (part.offset >> PAGE_SHIFT)
        for index in range(part.size >> PAGE_SHIFT):
            self._entries[at + index] = part.host + index * PAGE_SIZE | part.rights | extra | _AD

    # --- the pages of the cache ------------------------------------------------------------------------

    def map_code(self, name: str, real: bool, first: int, count: int) -> None:
        """Let code run in `count` pages of a cache, in real mode or outside it."""
        part = self._hole.parts[name]
        extra = _U if real else 0
        at = (self._hole_tables[extra] >> 3) + (part.offset >> PAGE_SHIFT)
        for index in range(first, first + count):
            self._entries[at + index] = part.host + (index << PAGE_SHIFT) | part.rights | extra | _AD

    def unmap_code(self, name: str, real: bool, first: int, count: int) -> None:
        """Let no code run there. The caller flushes the TLB."""
        at = (self._hole_tables[_U if real else 0] >> 3) + (self._hole.parts[name].offset >> PAGE_SHIFT)
        for index in range(at + first, at + first + count):
            self._entries[index] = 0

    def unmap_all_code(self) -> None:
        """Let no code run anywhere. The caller flushes the TLB."""
        for name in CODE_PARTS:
            for real in (False, True):
                self.unmap_code(name, real, 0, self._hole.parts[name].size >> PAGE_SHIFT)
