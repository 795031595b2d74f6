"""Address spaces: which shadow tables hang under which root, and what of the guest's they were made from.

Theory of operation. A shadow table covers 2 MiB. It is made from one directory entry of the guest's and, unless that
maps a large page, from entries of the page table that it names; equal directory entries at equal addresses share one
shadow table, so the kernel's half is filled once for all processes. An address space is a root and the tables linked
into it; it is kept when the guest loads CR3 with something else.

Nothing is traced while the guest writes its tables. A `Source` is a frame of them with a copy, and one rule holds: what
was made from an entry was made from what the copy says. So when CR3 is loaded, the frames under the new root are
compared with their copies, and what was made from entries that differ is dropped: the guest then sees its tables as
they now are, as the SDM promises. The same is done when a table gets linked into another space. Between two loads of
CR3 a translation may be older than the guest's entry, as in any TLB, until INVLPG drops it or a walk finds the new
entry.

Tables outside RAM cannot be compared: what was made from those is dropped at each load of CR3.

Source: Intel SDM Vol. 3A, "Caching Translation Information", "Invalidation of TLBs and Paging-Structure Caches".
"""

from typing import Final, Protocol

from bt.cache import CodeView
from bt.guest import Context, Mode
from vmm.arch.layout import PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import FRAME_32, FRAME_PAE, Pte
from vmm.arch.registers import Cr4
from vmm.cpu.hole import Hole
from vmm.cpu.paging import Mmu
from vmm.cpu.roots import ENTRIES, TABLE_RIGHTS, HoleRoot, HoleTables, Root, TablePages
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory

SPACES_MAX: Final = 32
"""Address spaces that are kept, beside the one of a guest that does not page."""
TABLES_MAX: Final = 4096
"""Shadow tables that there may be; 2048 are all that one address space can have."""
_P: Final = int(Pte.P)
_U: Final = int(Pte.U)
_PAE: Final = int(Cr4.PAE)
_PIECE: Final = 256
_NO_ENTRY: Final = -1
"""In the place of a directory entry: made from none, so equal to none."""

Key = int | tuple[int, ...]
"""What decides about all translations of an address space: the directory's frame, or the PDPTE registers."""


class User(Protocol):
    """Who made something from entries of a source."""

    def entry_changed(self, index: int) -> None: ...


class Source:
    """A frame that holds paging structures of the guest, and the copy that tells what has changed since.

    `start` is its physical address, `page` its guest-physical page number; `entries` is the copy as entries of `size`
    bytes.
    """

    __slots__ = ("data", "entries", "page", "size", "start", "users")

    def __init__(self, page: int, start: int, data: bytes, size: int) -> None:
        self.page, self.start, self.size = page, start, size
        self.data = bytearray(data)
        self.entries = memoryview(self.data).cast("Q" if size == 8 else "I")
        self.users: list[User] = []

    def record(self, index: int, entry: int) -> None:
        """A walk has found an entry: what was made from another value of it goes."""
        if self.entries[index] != entry:
            self._tell(index)
            self.entries[index] = entry

    def renew(self, now: bytes) -> None:
        """The frame has other bytes than the copy."""
        old, size = bytes(self.data), self.size
        for piece in range(0, PAGE_SIZE, _PIECE):
            if old[piece : piece + _PIECE] != now[piece : piece + _PIECE]:
                for at in range(piece, piece + _PIECE, size):
                    if old[at : at + size] != now[at : at + size]:
                        self._tell(at // size)
        self.data[:] = now

    def _tell(self, index: int) -> None:
        for user in tuple(self.users):
            user.entry_changed(index)


class Table:
    """A shadow table: 2 MiB of linear space, number `number`, under the guest's directory entry `pde`.

    `page` is its physical address. `source` is the page table it is filled from, None for a large page or the identity;
    `first` is the entry there that its own first one is made from. `spaces` are those it is linked into.
    """

    __slots__ = ("_entries", "first", "number", "page", "pde", "source", "spaces")

    def __init__(self, entries: memoryview, page: int, number: int, pde: int) -> None:
        self._entries, self.page, self.number, self.pde = entries, page, number, pde
        self.source: Source | None = None
        self.first = 0
        self.spaces: list[AddressSpace] = []

    def entry_changed(self, index: int) -> None:
        """Drop what was made from an entry of the source."""
        if 0 <= index - self.first < ENTRIES:
            self.drop(index - self.first)

    def drop(self, index: int) -> None:
        """Forget an entry; no code of that page runs any more. The caller flushes the TLB."""
        self._entries[(self.page >> 3) + index] = 0
        page = self.number * ENTRIES + index
        for space in self.spaces:
            if page in space.code.on_at:
                space.code.switch_off_at(page)


class Directory:
    """A page directory of the guest's in one address space; `source` is None if it is not in RAM.

    Its entry 0 is for table `first`; with `halves` two tables belong to each entry.
    """

    __slots__ = ("_halves", "_owner", "first", "source", "space")

    def __init__(self, owner: "AddressSpaces", space: "AddressSpace", first: int, halves: bool) -> None:
        self._owner, self.space, self.first, self._halves = owner, space, first, halves
        self.source: Source | None = None

    def index(self, number: int) -> int:
        """Which entry table `number` is made from."""
        return number >> 1 if self._halves else number - self.first

    def entry_changed(self, index: int) -> None:
        """Unlink what was made from an entry."""
        if self._halves:
            self._owner.unlink(self.space, 2 * index)
            self._owner.unlink(self.space, 2 * index + 1)
        else:
            self._owner.unlink(self.space, self.first + index)


class AddressSpace:
    """The tables linked into a root, by number, and the code pages that are on there.

    A space that does not page has two roots, for protected and for real mode. `unsteady` are the numbers of tables that
    have no source to compare.
    """

    def __init__(self, *roots: Root) -> None:
        self._roots = roots
        self.code = CodeView(self._map_code)
        self.links: dict[int, Table] = {}
        self.unsteady: set[int] = set()
        self.directories: list[Directory] = []
        self._sources: tuple[Source, ...] | None = None

    def root(self, real: bool) -> Root:
        """The root for a mode."""
        return self._roots[-1 if real else 0]

    def link(self, table: Table) -> None:
        """Hang a table in. What was made from its entries is true here, too, so code that is on where it hangs already
        comes on: a new process has the kernel's code at once."""
        if table.spaces:
            self._share_code(table.spaces[-1].code, table.number * ENTRIES)
        self.links[table.number] = table
        table.spaces.append(self)
        self._sources = None
        for root in self._roots:
            root.set_directory(table.number, table.page | TABLE_RIGHTS)

    def _share_code(self, there: CodeView, first: int) -> None:
        for number in [number for number in there.on_at if 0 <= number - first < ENTRIES]:
            for page in there.on_at[number]:
                if len(page.frames) == 1 and page not in self.code.on:
                    self.code.switch_on(page)

    def unlink(self, table: Table) -> None:
        """Take a table out; no code of its pages runs here any more. The caller flushes the TLB."""
        del self.links[table.number]
        table.spaces.remove(self)
        self.unsteady.discard(table.number)
        self._sources = None
        for root in self._roots:
            root.set_directory(table.number, 0)
        first, on_at = table.number * ENTRIES, self.code.on_at
        for page in [page for page in on_at if 0 <= page - first < ENTRIES]:
            self.code.switch_off_at(page)

    def sources(self) -> tuple[Source, ...]:
        """All that its tables were made from."""
        if self._sources is None:
            used = [directory.source for directory in self.directories]
            used += [table.source for table in self.links.values()]
            self._sources = tuple(dict.fromkeys(source for source in used if source is not None))
        return self._sources

    def forget_code(self) -> None:
        """No code page is on any more. The caller flushes the TLB."""
        self.code.forget()
        for root in self._roots:
            root.unmap_all_code()

    @property
    def roots(self) -> tuple[int, ...]:
        """CR3 of each root."""
        return tuple(root.cr3 for root in self._roots)

    def reset_roots(self) -> None:
        """The hole is somewhere else; no table is linked. The caller flushes the TLB."""
        for root in self._roots:
            root.reset()

    def _map_code(self, context: Context, first: int, count: int, on: bool) -> None:
        root = self._roots[-1] if context.mode is Mode.REAL else self._roots[0]
        assert isinstance(root, HoleRoot)
        change = root.map_code if on else root.unmap_code
        change("user_cache" if context.is_user else "kernel_cache", first, count)


class AddressSpaces:
    """All address spaces of one virtual CPU; `current` is the one that its registers say, since `select`.

    Without a `hole` a root is the guest's from end to end.
    """

    def __init__(self, physical: PhysicalMemory, memory: GuestMemory, mmu: Mmu, hole: Hole | None) -> None:
        self._physical, self._memory, self._mmu = physical, memory, mmu
        self.pages = TablePages(physical)
        self._hole_tables = None if hole is None else HoleTables(self.pages, hole, 0)
        roots = [self._new_root()]
        if hole is not None:
            roots.append(HoleRoot(self.pages, HoleTables(self.pages, hole, _U)))
        self.unpaged = AddressSpace(*roots)
        self.current = self.unpaged
        self._kept: dict[Key, AddressSpace] = {}
        self._spare: list[AddressSpace] = []
        self._shared: dict[tuple[int, int], Table] = {}
        self._at: dict[int, list[Table]] = {}
        self._sources: dict[int, Source] = {}
        self._tables = 0

    @property
    def roots(self) -> tuple[int, ...]:
        """CR3 of each root that there is."""
        return tuple(cr3 for space in (self.unpaged, *self._kept.values()) for cr3 in space.roots)

    def _new_root(self) -> Root:
        return Root(self.pages) if self._hole_tables is None else HoleRoot(self.pages, self._hole_tables)

    # --- choosing --------------------------------------------------------------------------------------

    def select(self) -> None:
        """Make the address space of the registers current, with nothing in it but what the guest's tables now say.

        The caller flushes the TLB.
        """
        if not self._mmu.is_paging:
            self.current = self.unpaged
            return
        registers = self._mmu.registers
        pae = bool(registers.cr4 & _PAE)
        key: Key = tuple(registers.pdptes) if pae else registers.cr3 & FRAME_32
        space = self._kept.pop(key, None)
        if space is None:
            space = self._new_space(key, pae)
        self._kept[key] = self.current = space
        copy = self._physical.copy
        for source in space.sources():
            now = copy(source.start, PAGE_SIZE)
            if now != source.data:
                source.renew(now)
        for number in tuple(space.unsteady):
            self.unlink(space, number)

    def _new_space(self, key: Key, pae: bool) -> AddressSpace:
        if len(self._kept) >= SPACES_MAX:
            self._evict()
        space = self._spare.pop() if self._spare else AddressSpace(self._new_root())
        if isinstance(key, int):
            space.directories = [self._directory(space, key, 0, True)] * 4
        else:
            space.directories = [
                self._directory(space, pdpte & FRAME_PAE, ENTRIES * quarter, False) for quarter, pdpte in enumerate(key)
            ]
        return space

    def _directory(self, space: AddressSpace, gpa: int, first: int, halves: bool) -> Directory:
        directory = Directory(self, space, first, halves)
        directory.source = self._source((gpa & self._mmu.a20_mask) >> PAGE_SHIFT, directory)
        return directory

    def _evict(self) -> None:
        """Forget the space that has not been current for longest."""
        space = self._kept.pop(next(iter(self._kept)))
        self._empty(space)
        for directory in dict.fromkeys(space.directories):
            self._release(directory.source, directory)
        space.directories = []
        self._spare.append(space)

    def _empty(self, space: AddressSpace) -> None:
        space.forget_code()
        for number in tuple(space.links):
            self.unlink(space, number)

    # --- linking ---------------------------------------------------------------------------------------

    def link(self, number: int, pde: int, pte_at: int) -> Table:
        """Hang the table for a directory entry into the current space, in the place of any other.

        `pte_at` is the address of an entry in the guest's page table, negative if `pde` maps a large page.
        """
        space = self.current
        self.unlink(space, number)
        directory = space.directories[number >> 9]
        steady = directory.source is not None
        if directory.source is not None:
            directory.source.record(directory.index(number), pde)
        table = self._shared.get((number, pde))
        if table is not None and table.source is not None:
            now = self._physical.copy(table.source.start, PAGE_SIZE)
            if now != table.source.data:
                table.source.renew(now)  # which may have been the end of the table
                table = self._shared.get((number, pde))
        if table is None:
            table = self._new_table(number, pde)
            if pte_at >= 0:
                table.source = self._source(pte_at >> PAGE_SHIFT, table)
                steady = steady and table.source is not None
                table.first = number % 2 * ENTRIES if table.source is not None and table.source.size == 4 else 0
            if pte_at < 0 or table.source is not None:
                self._shared[number, pde] = table
        space.link(table)
        if not steady:
            space.unsteady.add(number)
        return table

    def link_plain(self, number: int) -> Table:
        """Hang a table that was made from nothing of the guest's into the current space."""
        table = self._new_table(number, _NO_ENTRY)
        self.current.link(table)
        if self.current is not self.unpaged:
            self.current.unsteady.add(number)
        return table

    def unlink(self, space: AddressSpace, number: int) -> None:
        """Take the table of a number out of a space; where nobody has it any more, it is gone."""
        table = space.links.get(number)
        if table is None:
            return
        space.unlink(table)
        if table.spaces:
            return
        if self._shared.get((number, table.pde)) is table:
            del self._shared[number, table.pde]
        self._at[number].remove(table)
        self._release(table.source, table)
        self.pages.give(table.page)
        self._tables -= 1

    def _new_table(self, number: int, pde: int) -> Table:
        while self._tables >= TABLES_MAX and len(self._kept) > 1:
            self._evict()
        self._tables += 1
        table = Table(self.pages.entries, self.pages.take(), number, pde)
        self._at.setdefault(number, []).append(table)
        return table

    def _source(self, page: int, user: User) -> Source | None:
        """The source for a frame of the guest's, or None if it is not RAM."""
        source = self._sources.get(page)
        if source is None:
            region = self._memory.region_at(page)
            if region is None or region.host is None:
                return None
            start = region.host + (page << PAGE_SHIFT) - region.base
            size = 8 if self._mmu.registers.cr4 & _PAE else 4
            source = self._sources[page] = Source(page, start, self._physical.copy(start, PAGE_SIZE), size)
            self._mmu.copies[page] = source.entries
        source.users.append(user)
        return source

    def _release(self, source: Source | None, user: User) -> None:
        if source is None:
            return
        source.users.remove(user)
        if not source.users:
            del self._sources[source.page], self._mmu.copies[source.page]

    # --- dropping --------------------------------------------------------------------------------------

    def drop_page(self, number: int, index: int) -> None:
        """Forget a page in all spaces. The caller flushes the TLB."""
        for table in self._at.get(number, ()):
            table.drop(index)

    def drop_table(self, number: int) -> None:
        """Forget 2 MiB in all spaces. The caller flushes the TLB."""
        for table in tuple(self._at.get(number, ())):
            for space in tuple(table.spaces):
                self.unlink(space, number)

    def drop_all(self) -> None:
        """Forget every guest page and every space; no code page is on any more. The caller flushes the TLB."""
        while self._kept:
            self._evict()
        self._empty(self.unpaged)
        self.current = self.unpaged

    def forget_code(self) -> None:
        """No code page is on any more, in any space. The caller flushes the TLB."""
        for space in (self.unpaged, *self._kept.values()):
            space.forget_code()

    def reset_roots(self) -> None:
        """Forget everything and map the hole where it now is. The caller flushes the TLB."""
        self.drop_all()
        for space in (self.unpaged, *self._spare):
            space.reset_roots()
