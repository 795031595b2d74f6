"""Roots: what CR3 of the physical CPU may point at, and the hole in them.

A root is a page-directory-pointer table with its four directories. A guest that runs in guest mode has all of it; one
that runs from the translation cache has the hole in it. The last-level tables of the hole are shared by all roots of a
kind, but for those with pages of the translation cache: a root has its own, made when a first code page goes on in it,
because what is on differs.

Source: Intel SDM Vol. 3A, "PAE Paging".
"""

from typing import Final

from vmm.arch.layout import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.cpu.hole import HOLE_SIZE, Hole
from vmm.hw.memory import PhysicalMemory

_P: Final = int(Pte.P)
_W: Final = int(Pte.W)
_U: Final = int(Pte.U)
_AD: Final = int(Pte.A | Pte.D)
ENTRIES: Final = 512
LARGE_SHIFT: Final = 21
TABLE_RIGHTS: Final = _P | _W | _U
"""Of every directory entry: the last level decides."""
_HOLE_TABLES: Final = HOLE_SIZE >> LARGE_SHIFT
CODE_PARTS: Final = ("kernel_cache", "user_cache")


class TablePages:
    """Pages for tables, used again. `entries` is all of physical memory as table entries."""

    def __init__(self, physical: PhysicalMemory) -> None:
        self.physical = physical
        self.view = physical.view
        self.entries = physical.view.cast("Q")
        self._free: list[int] = []

    def take(self) -> int:
        """A zeroed page, by its physical address."""
        if not self._free:
            return self.physical.allocate(PAGE_SIZE)
        page = self._free.pop()
        self.view[page : page + PAGE_SIZE] = bytes(PAGE_SIZE)
        return page

    def give(self, page: int) -> None:
        """Nothing points at a page any more."""
        self._free.append(page)


class HoleTables:
    """The last-level tables of the hole that roots of a kind share. `extra` are rights that all parts have there."""

    def __init__(self, pages: TablePages, hole: Hole, extra: int, with_code: bool = False) -> None:
        self.hole = hole
        self.extra = extra
        self.base = pages.physical.allocate(_HOLE_TABLES * PAGE_SIZE)
        for name, part in hole.parts.items():
            if with_code or name not in CODE_PARTS:
                at = (self.base >> 3) + (part.offset >> PAGE_SHIFT)
                for index in range(part.size >> PAGE_SHIFT):
                    pages.entries[at + index] = part.host + (index << PAGE_SHIFT) | part.rights | extra | _AD


class Root:
    """One root. `cr3` is its physical address."""

    def __init__(self, pages: TablePages) -> None:
        self._pages = pages
        self._entries = pages.entries
        self.cr3 = pages.physical.allocate(PAGE_SIZE)
        self._directories = pages.physical.allocate(4 * PAGE_SIZE)
        for index in range(4):
            self._entries[(self.cr3 >> 3) + index] = self._directories + index * PAGE_SIZE | _P

    def reset(self) -> None:
        """Map nothing of the guest's. The caller flushes the TLB."""
        self._pages.view[self._directories : self._directories + 4 * PAGE_SIZE] = bytes(4 * PAGE_SIZE)

    def set_directory(self, number: int, entry: int) -> None:
        """The directory entry for 2 MiB of the guest's."""
        self._entries[(self._directories >> 3) + number] = entry

    def unmap_all_code(self) -> None:
        """Let no code of a cache run here: there is none."""


class HoleRoot(Root):
    """A root with the hole in it."""

    def __init__(self, pages: TablePages, shared: HoleTables) -> None:
        super().__init__(pages)
        self._shared, self._hole = shared, shared.hole
        self._code_tables: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """Map nothing but the hole, where it now is, without code. The caller flushes the TLB."""
        super().reset()
        self.unmap_all_code()
        for index in range(_HOLE_TABLES):
            self._point(index, self._shared.base + index * PAGE_SIZE)

    def set_directory(self, number: int, entry: int) -> None:
        """The directory entry for 2 MiB of the guest's; those of the hole stay: the guest cannot reach below it."""
        if not self._hole.contains(number << LARGE_SHIFT):
            super().set_directory(number, entry)

    def map_code(self, name: str, first: int, count: int) -> None:
        """Let code run in `count` pages of a cache."""
        part = self._hole.parts[name]
        rights = part.rights | self._shared.extra | _AD
        for index in range(first, first + count):
            at = (part.offset >> PAGE_SHIFT) + index
            table = self._code_tables.get(at // ENTRIES) or self._own_table(at // ENTRIES)
            self._entries[(table >> 3) + at % ENTRIES] = part.host + (index << PAGE_SHIFT) | rights

    def unmap_code(self, name: str, first: int, count: int) -> None:
        """Let no code run there. The caller flushes the TLB."""
        start = (self._hole.parts[name].offset >> PAGE_SHIFT) + first
        for at in range(start, start + count):
            table = self._code_tables.get(at // ENTRIES)
            if table is not None:
                self._entries[(table >> 3) + at % ENTRIES] = 0

    def unmap_all_code(self) -> None:
        """Let no code run anywhere. The caller flushes the TLB."""
        for index, table in self._code_tables.items():
            self._point(index, self._shared.base + index * PAGE_SIZE)
            self._pages.give(table)
        self._code_tables.clear()

    def _own_table(self, index: int) -> int:
        table = self._code_tables[index] = self._pages.take()
        shared = self._shared.base + index * PAGE_SIZE
        self._pages.view[table : table + PAGE_SIZE] = self._pages.view[shared : shared + PAGE_SIZE]
        self._point(index, table)
        return table

    def _point(self, index: int, table: int) -> None:
        """Let one of the hole's directory entries point at a table."""
        assert not table & PAGE_MASK
        self._entries[(self._directories + (self._hole.base >> LARGE_SHIFT << 3) >> 3) + index] = table | TABLE_RIGHTS
