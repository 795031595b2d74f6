"""Shadow page tables: what the physical MMU walks while the guest runs.

PAE with NX, always on. The tables are empty at first, and filled at a page fault from the guest's own tables, or from
the identity while the guest does not page; what they forget, and what outlives a load of CR3, is told in `spaces.py`.

From the cache. Nothing but the translation cache is executable, and of that only the pages whose blocks may run (see
`bt.cache`). The real-mode root of a guest that does not page differs in the hole alone: it gives it to the user (see
`hole.py`). A service root, for the VMM's own use, maps all of the hole and nothing else.

In place. The guest's code runs where it lies, in pages that are made executable when code is first fetched from them.
The engine sees the guest's stores to pages that it maps executable, and is slower with them; so a frame that is
executable somewhere must not be writable elsewhere without being so there. Without a hole it becomes executable
wherever it is written; with one, where the guest forbids fetches, a store to it is `WATCHED`.

ROM is mapped read-only; device pages are not mapped; where nothing answers, a page of ones is mapped read-only.

Source: Intel SDM Vol. 3A, "PAE Paging".
"""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from vmm.arch.layout import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr4, Efer
from vmm.cpu.hole import CACHE_VIEW, SHADOWED_SIZE, Hole, HoleView
from vmm.cpu.paging import A20_BIT, Mmu, Trace
from vmm.cpu.roots import ENTRIES, LARGE_SHIFT, HoleRoot, HoleTables
from vmm.cpu.spaces import AddressSpace, AddressSpaces, Table
from vmm.cpu.vcpu import STALE_ALL, STALE_LOCAL
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

_P: Final = int(Pte.P)
_PS: Final = int(Pte.PS)
_W: Final = int(Pte.W)
_U: Final = int(Pte.U)
_WU: Final = int(Pte.W | Pte.U)
_D: Final = int(Pte.D)
_AD: Final = int(Pte.A | Pte.D)
_NX: Final = int(Pte.NX)
_PAE: Final = int(Cr4.PAE)
_NXE: Final = int(Efer.NXE)
_FRAME: Final = 0x000F_FFFF_FFFF_F000
_LARGEST_PAGE: Final = 2
"""Shadow tables that a 4 MiB page of 32-bit paging covers."""
_NOTES_MAX: Final = 200_000
"""So many places where a frame can be written may be remembered before those that are not
such places any more are sought out."""
_AROUND: Final = 16
"""So many pages of a large one are filled together: a guest that touches one touches the next."""
_ALL_SHADOWED: Final = b"\x01" * (_LARGEST_PAGE * ENTRIES)
"""Of the largest page."""
_NONE_SHADOWED: Final = bytes(_LARGEST_PAGE * ENTRIES)
_NOTHING_SHADOWED: Final = bytes(SHADOWED_SIZE)


class Fill(Enum):
    """What a fault on a page turned out to be, once the guest's own tables allow the access."""

    MAPPED = auto()  # hidden: the shadow was behind, try again
    WATCHED = auto()  # a store to a page that is watched
    DEVICE = auto()  # there is no RAM to map for this access


_MAPPED: Final = Fill.MAPPED


class ShadowTables:
    """The shadow of one virtual CPU, whose code runs from the cache in the `hole`, or, with no hole or another `view`
    of it, in place.

    `executed` and `read_only` are guest-physical page numbers: of the pages that code runs from in place, and of those
    that the guest must not write unseen; who adds to one calls `protect`. `extra` are rights that every page has beyond
    the guest's own: U while a guest kernel runs at CPL 3.
    """

    def __init__(
        self,
        physical: PhysicalMemory,
        memory: GuestMemory,
        mmu: Mmu,
        hole: Hole | None,
        view: HoleView = CACHE_VIEW,
    ) -> None:
        self._physical = physical
        self._entries = physical.view.cast("Q")
        self._memory = memory
        self._mmu = mmu
        self._ones = physical.allocate(PAGE_SIZE)
        physical.view[self._ones : self._ones + PAGE_SIZE] = b"\xff" * PAGE_SIZE
        self._writable_at: dict[int, set[int]] = {}
        self._notes = 0
        self._notes_true = 0
        self._large: set[int] = set()
        self.spaces = AddressSpaces(physical, memory, mmu, hole, view)
        self.executed: set[int] = set()
        self.extra = 0
        self._service: HoleRoot | None = None
        if hole is None or view is not CACHE_VIEW:
            self.read_only: set[int] = set()
            self._once_nx = 0
            self._shadowed = memoryview(bytearray(SHADOWED_SIZE))
        else:
            self.read_only = memory.watched
            self._once_nx = _NX
            self._shadowed = physical.window(hole.parts["shadowed"].host, SHADOWED_SIZE)
            self._service = HoleRoot(self.spaces.pages, HoleTables(self.spaces.pages, hole, 0, hole.parts))

    @property
    def space(self) -> AddressSpace:
        """The current address space."""
        return self.spaces.current

    @property
    def service_root(self) -> int:
        """CR3 for the VMM's own use."""
        assert self._service is not None
        return self._service.cr3

    def mapped(self, la: int) -> int | None:
        """The physical address behind a linear one, if the physical CPU would find it mapped."""
        table = self.spaces.current.links.get(la >> LARGE_SHIFT)
        if table is None:
            return None
        entry = self._entries[(table.page >> 3) + (la >> PAGE_SHIFT) % ENTRIES]
        return entry & _FRAME | la & PAGE_MASK if entry & _P else None

    def root(self, real: bool) -> int:
        """CR3 for a mode."""
        return self.spaces.current.root(real).cr3

    # --- filling ---------------------------------------------------------------------------------------

    def fetch(self, la: int, user: bool) -> Fill:
        """Make a fetch possible, of a guest whose code runs in place. Raises: GuestFault, the true fault.

        From now on the VMM's own writes to the page are told of, too. The caller flushes the TLB.
        """
        page = self._mmu.translate(la, False, user, fetch=True) >> PAGE_SHIFT
        if page not in self.executed:
            self.executed.add(page)
            self._memory.watched.add(page)
            self.protect(page)
        return self.fill(la, False, user)

    def fill(self, la: int, write: bool, user: bool) -> Fill:
        """Make one access possible, if the guest's tables allow it and RAM answers.

        Raises: GuestFault, the true fault.
        """
        if not self._mmu.is_paging:
            return self._fill_identity(la, write)
        trace = self._mmu.trace(la, write, user)
        table = self.note(la, trace)
        gpa, rights = trace[0], trace[1]
        nx = self._guest_nx(trace) if self.executed else 0
        if write and not rights & _W:  # CR0.WP is clear: the supervisor may, so the user must not come near
            return self._fill_page(table, la, gpa, write, _W | nx)
        given = (rights & _WU if rights & _D else rights & _U) | nx
        result = self._fill_page(table, la, gpa, write, given)
        if rights & _PS and result is _MAPPED:
            self._fill_around(table, la, gpa, given)
        return result

    def note(self, la: int, trace: Trace) -> Table:
        """A walk was made for data or code at a linear address: the table for it, linked into the current space.

        From now on the table follows the guest's entries, and INVLPG of the page tells the VMM.
        """
        _, _, pde, pte_at, pte = trace
        number = la >> LARGE_SHIFT
        table = self.spaces.current.links.get(number)
        if table is None or table.pde != pde:
            table = self.spaces.link(number, pde, pte_at)
        source = table.source
        if source is not None:
            index = table.first + (la >> PAGE_SHIFT) % ENTRIES
            if source.entries[index] != pte:
                source.record(index, pte)
                if self.spaces.current.links.get(number) is not table:  # it was made from that very entry
                    table = self.spaces.link(number, pde, pte_at)
        if pte_at < 0:
            self._mark_large(number)
        else:
            self._shadowed[la >> PAGE_SHIFT] = 1
        return table

    def _mark_large(self, number: int) -> None:
        if number not in self._large:
            self._large.add(number)
            first = (number & ~(_LARGEST_PAGE - 1)) * ENTRIES
            self._shadowed[first : first + _LARGEST_PAGE * ENTRIES] = _ALL_SHADOWED

    def _fill_identity(self, la: int, write: bool) -> Fill:
        gpa = la & self._mmu.a20_mask
        table = self.spaces.current.links.get(la >> LARGE_SHIFT)
        if table is None:
            table = self._link_identity(la >> LARGE_SHIFT)
        return self._fill_page(table, la, gpa, write, _WU)

    def _fill_page(self, table: Table, la: int, gpa: int, write: bool, rights: int) -> Fill:
        """`rights` are those that the entry may give, W and U; and NX if the guest forbids fetches."""
        page = gpa >> PAGE_SHIFT
        region = self._memory.region_at(page)
        if region is None or region.host is None or region.read_only:
            if write or (region is not None and region.host is None):
                return Fill.DEVICE
            rights &= ~_W
        rights = self._allowed(page, rights)
        if write and not rights & _W:
            return Fill.WATCHED
        at = (table.page >> 3) + (la >> PAGE_SHIFT) % ENTRIES
        self._entries[at] = self._frame(region, gpa) | _P | _AD | rights
        if rights & _W:
            self._note_writable(page, at)
        return _MAPPED

    def _allowed(self, page: int, rights: int) -> int:
        """What the entry for a page of RAM, ROM or nothing really gives, NX included."""
        runs = page in self.executed
        if page in self.read_only or (runs and rights & _NX):
            rights &= ~_W
        return rights | self.extra | (0 if runs else _NX)

    def _guest_nx(self, trace: Trace) -> int:
        registers = self._mmu.registers
        return (trace[2] | trace[4]) & _NX if registers.cr4 & _PAE and registers.efer & _NXE else 0

    def _fill_around(self, table: Table, la: int, gpa: int, rights: int) -> None:
        """The neighbours of a page of a large one, whose accessed and dirty bits are theirs too."""
        first = gpa >> PAGE_SHIFT & ~(_AROUND - 1)
        region = self._memory.region_at(first)
        if region is None or region.host is None or region.read_only:
            return
        if region is not self._memory.region_at(first + _AROUND - 1):
            return
        entries = self._entries
        at = (table.page >> 3) + ((la >> PAGE_SHIFT) % ENTRIES & ~(_AROUND - 1))
        entry = region.host + (first << PAGE_SHIFT) - region.base | _P | _AD
        for page in range(first, first + _AROUND):
            if not entries[at]:
                allowed = self._allowed(page, rights)
                entries[at] = entry | allowed
                if allowed & _W:
                    self._note_writable(page, at)
            at += 1
            entry += PAGE_SIZE

    def _note_writable(self, page: int, at: int) -> None:
        places = self._writable_at.get(page)
        if places is None:
            places = self._writable_at[page] = set()
        if at not in places:
            places.add(at)
            self._notes += 1
            if self._notes > max(_NOTES_MAX, 2 * self._notes_true):
                self._tidy()

    def _tidy(self) -> None:
        """Remember the places that are there alone, of those where frames can be written."""
        kept: dict[int, set[int]] = {}
        for page, places in self._writable_at.items():
            frame = self._frame(self._memory.region_at(page), page << PAGE_SHIFT)
            true = {at for at in places if self._entries[at] & (_FRAME | _W) == frame | _W}
            if true:
                kept[page] = true
        self._writable_at = kept
        self._notes = self._notes_true = sum(map(len, kept.values()))

    def _frame(self, region: MemoryRegion | None, gpa: int) -> int:
        if region is None or region.host is None:
            return self._ones
        return region.host + gpa - region.base & ~PAGE_MASK

    def _link_identity(self, number: int) -> Table:
        """A new table with all RAM pages of its 2 MiB: an unpaged guest can reach them all at once."""
        table = self.spaces.link_plain(number)
        base = number << LARGE_SHIFT
        mask = self._mmu.a20_mask
        left_out = self.read_only | self.executed
        bits = _P | _AD | _NX | _U | _W
        for index in range(ENTRIES):
            gpa = base + (index << PAGE_SHIFT) & mask
            region = self._memory.region_at(gpa >> PAGE_SHIFT)
            if region is None or region.host is None or region.read_only or gpa >> PAGE_SHIFT in left_out:
                continue
            self._entries[(table.page >> 3) + index] = region.host + gpa - region.base | bits
        return table

    # --- changing --------------------------------------------------------------------------------------

    def protect(self, page: int) -> None:
        """Make the guest's stores to a guest-physical page fault, at all its addresses in all spaces.

        The caller flushes the TLB.
        """
        if not self._mmu.is_paging:
            self._clear_write(page)
            if not self._mmu.a20_mask & A20_BIT:
                self._clear_write(page ^ A20_BIT >> PAGE_SHIFT)
        places = self._writable_at.pop(page, None)
        if places is not None:
            self._notes -= len(places)
            for at in places:
                self._entries[at] &= ~_W

    def _clear_write(self, page: int) -> None:
        """In the identity."""
        table = self.spaces.current.links.get(page // ENTRIES)
        if table is not None:
            self._entries[(table.page >> 3) + page % ENTRIES] &= ~_W

    def map_once(self, la: int, frame: int, writable: bool) -> None:
        """Map any frame at the page of `la`, for one instruction; `unmap` takes it away. The caller flushes the TLB."""
        table = self.spaces.current.links.get(la >> LARGE_SHIFT) or self.spaces.link_plain(la >> LARGE_SHIFT)
        at = (table.page >> 3) + (la >> PAGE_SHIFT) % ENTRIES
        self._entries[at] = frame | _P | _AD | self._once_nx | _U | (_W if writable else 0)

    def unmap(self, la: int) -> None:
        """Forget one page of the current space. The caller flushes the TLB."""
        table = self.spaces.current.links.get(la >> LARGE_SHIFT)
        if table is not None:
            self._entries[(table.page >> 3) + (la >> PAGE_SHIFT) % ENTRIES] = 0

    # --- forgetting ------------------------------------------------------------------------------------

    def forget(self, stale: int, pages: Iterable[int]) -> None:
        """Forget what the guest has told its TLB to forget: `Stale` bits, and linear addresses. If the bits are more
        than PAGE, the address space may be another one now. The caller flushes the TLB.
        """
        if stale & STALE_ALL:
            self.drop_all()
            return
        for la in pages:
            self.drop_page(la)
        if stale & STALE_LOCAL:
            self.load_root()

    def load_root(self) -> None:
        """Go to the address space of the registers. What stays there is what the guest's tables now say.

        The caller flushes the TLB.
        """
        self.spaces.select()

    def drop_page(self, la: int) -> None:
        """Forget the guest's page at a linear address, whatever its size, in all spaces; its code is off.

        The caller flushes the TLB.
        """
        number = la >> LARGE_SHIFT
        first = number & ~(_LARGEST_PAGE - 1)
        numbers = range(first, first + _LARGEST_PAGE)
        if self._large.isdisjoint(numbers):
            self._shadowed[la >> PAGE_SHIFT] = 0
            self.spaces.drop_page(number, (la >> PAGE_SHIFT) % ENTRIES)
            return
        self._shadowed[first * ENTRIES : (first + _LARGEST_PAGE) * ENTRIES] = _NONE_SHADOWED
        for each in numbers:
            self._large.discard(each)
            self.spaces.drop_table(each)

    def drop_all(self) -> None:
        """Forget every guest page and every address space; no code page is on any more. The caller flushes the TLB."""
        self.spaces.drop_all()
        self._writable_at.clear()
        self._notes = 0
        self._large.clear()
        self._shadowed[:] = _NOTHING_SHADOWED
        self.spaces.select()

    def rebuild_roots(self) -> None:
        """Forget everything and map the hole where it now is. The caller flushes the TLB."""
        self.drop_all()
        self.spaces.reset_roots()
        if self._service is not None:
            self._service.reset()
        self.spaces.select()

    def retire(self, page: int) -> None:
        """Code ran from a guest-physical page in place: it does so no more. The caller flushes the TLB."""
        self.executed.discard(page)
        self._memory.watched.discard(page)
        self.drop_all()

    def forget_code(self) -> None:
        """No code page is on any more, in any space. The caller flushes the TLB."""
        self.spaces.forget_code()
