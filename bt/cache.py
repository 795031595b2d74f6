"""The translation cache: where blocks live, how they are found, chained and dropped.

A block space holds the blocks of one (CS.base, context). Inside it, a code page holds the blocks of one page of guest
code: one linear page as one frame shows there (two of each for an instruction that crosses pages). Code pages own whole
pages of the cache, and are switched on and off: `map_code` maps those pages, or takes them away, so that whoever
branches into a page that is off faults there, whatever link, prediction or table brought him. A code page is on only
while the guest's translation of its linear page lives and its bytes are as they were. So links never have to be cut:
the MMU checks them.

Code pages are placed one behind the other in the arena of their privilege class; an arena that is full, or a lookup
area that is full, empties the whole cache. A dropped block leaves a tombstone: its first bytes become an exit, so that
branches chained to it find their way through the VMM.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from bt.branches import LOOKUP_BITS, NO_LEARNING, NO_PREDICTION
from bt.decode import Insn
from bt.emit import CALLOUT_VECTOR, Mark, Site, SiteKind, Translation
from bt.guest import Context
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT

_ALIGN: Final = 4
_ENTRY: Final = 8
_JUMP_SIZE: Final = 5
_EXIT: Final = bytes([0xCD, CALLOUT_VECTOR])


VERSIONS_MAX: Final = 256
BLOCKS_MAX: Final = 150_000
"""Of one arena, dead ones included: bounds what the VMM remembers about them."""


class CacheFull(Exception):
    """No room: empty the cache and try again."""


@dataclass(slots=True)
class Arena:
    """Memory for code: `view` is its bytes, `base` its linear address, `owners` the code page of each page in use."""

    view: memoryview
    base: int
    owners: list["CodePage"] = field(default_factory=list)
    blocks: int = 0

    @property
    def used(self) -> int:
        """Bytes that belong to code pages."""
        return len(self.owners) << PAGE_SHIFT

    def take(self, owner: "CodePage", size: int) -> tuple[int, int]:
        """Give a code page room for `size` bytes: (offset, number of pages). Raises: CacheFull."""
        count = size + PAGE_MASK >> PAGE_SHIFT
        start = self.used
        if start + (count << PAGE_SHIFT) > len(self.view) or self.blocks >= BLOCKS_MAX:
            raise CacheFull
        self.owners += [owner] * count
        return start, count

    def contains(self, address: int) -> bool:
        """Is a linear address in a page that is in use?"""
        return self.base <= address < self.base + self.used


@dataclass(slots=True, eq=False)
class BlockSpace:
    """All blocks of one CS.base and context. `lookup` is the linear address of its branch table.

    `pages` are the code pages that are on, by linear page number; `crossing` the blocks of instructions that cross
    pages, by EIP; `known` all code pages. `steps` holds the blocks that run one instruction: always on, of no page.
    """

    cs_base: int
    context: Context
    lookup: int
    table: memoryview
    pages: dict[int, "CodePage"] = field(default_factory=dict)
    crossing: dict[int, "Block"] = field(default_factory=dict)
    known: dict[tuple[int, tuple[int, ...], bool], "CodePage"] = field(default_factory=dict)
    steps: "CodePage" = field(init=False)

    def __post_init__(self) -> None:
        self.steps = CodePage(self, 0, (), False, is_on=True)

    def find(self, eip: int) -> "Block | None":
        """The block for a guest EIP, if there is one that may run."""
        page = self.pages.get((self.cs_base + eip & MASK32) >> PAGE_SHIFT)
        if page is not None:
            block = page.blocks.get(eip)
            if block is not None:
                return block
        block = self.crossing.get(eip)
        return block if block is not None and block.page.is_on else None

    def remember(self, eip: int, entry: int) -> None:
        """Let cached code find a block: `entry` is its CS-relative address."""
        index = (eip & ((1 << LOOKUP_BITS[self.context.code32]) - 1)) * 2
        self.table[index] = -eip & MASK32
        self.table[index + 1] = entry

    def forget(self, eip: int) -> None:
        """Take a block out of the branch table."""
        index = (eip & ((1 << LOOKUP_BITS[self.context.code32]) - 1)) * 2
        if self.table[index] == -eip & MASK32:
            self.table[index] = _no_tag(index)


def _no_tag(index: int) -> int:
    """A tag that no EIP with this index has: entry 0 must not match EIP 0, nor any other entry its own index."""
    return MASK32 if index == 0 else 0


@dataclass(slots=True, eq=False)
class CodePage:
    """The blocks of one page of guest code.

    `number` is its linear page number, `frames` the guest-physical page numbers of what shows there and, for an
    instruction that crosses pages, on the next page. `is_on`: its blocks may run. `is_trusted`: its bytes cannot have
    changed unseen since its blocks were made. With `self_check` its blocks compare their bytes themselves.
    `extents` are the pages of the arena that it owns: (first, count).
    """

    space: BlockSpace
    number: int
    frames: tuple[int, ...]
    self_check: bool
    is_on: bool = False
    is_trusted: bool = False
    blocks: dict[int, "Block"] = field(default_factory=dict)
    versions: dict[int, list[tuple[bytes, "Block"]]] = field(default_factory=dict)
    """Blocks that depend on no write-protection, with their source: self-checking ones, and steps."""
    extents: list[tuple[int, int]] = field(default_factory=list)
    placed: list["Block"] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    used: int = 0
    end: int = 0

    def find_version(self, eip: int, source: bytes) -> "Block | None":
        """A block made earlier from these very bytes; one that checks itself is found by its EIP again."""
        for made_from, block in self.versions.get(eip, ()):
            if block.alive and source.startswith(made_from):
                if self.self_check:
                    self.blocks[eip] = block
                return block
        return None

    def add_version(self, block: "Block") -> None:
        """Remember a block by its source; the oldest of too many versions is forgotten."""
        known = self.versions.setdefault(block.eip, [])
        known.append((block.translation.source, block))
        if len(known) > VERSIONS_MAX:
            known.pop(0)

    def forget_blocks(self) -> None:
        """Let go of all blocks: the cache is empty."""
        for blocks in (self.blocks, self.versions, self.placed, self.addresses):
            blocks.clear()

    def changed(self, data: bytes) -> list["Block"]:
        """The blocks whose source is not in `data`, the bytes of all frames, any more."""
        base = self.space.cs_base
        return [
            block
            for eip, block in self.blocks.items()
            if not data.startswith(block.translation.source, base + eip & PAGE_MASK)
        ]


@dataclass(slots=True, eq=False)
class Block:
    """A block in the cache. `address` is linear, `entry` relative to CS.base."""

    page: CodePage
    eip: int
    address: int
    entry: int
    translation: Translation
    alive: bool = True

    @property
    def space(self) -> BlockSpace:
        """Its CS.base and context."""
        return self.page.space

    @property
    def end(self) -> int:
        """Linear address behind its code."""
        return self.address + len(self.translation.code)

    def mark_at(self, address: int) -> Mark:
        """Which guest instruction the code at a linear cache address belongs to."""
        return self.translation.mark_at(address - self.address)


@dataclass(slots=True)
class CodeCache:
    """The cache of one VM.

    `kernel` and `user` are the arenas by privilege class; `lookup_view` and `lookup_base` the memory for branch tables.
    `forget_code(start, end)` makes the physical CPU drop what it made of those linear addresses. `map_code(context,
    first, count, on)` maps or unmaps pages of the arena that blocks of a context live in.
    """

    kernel: Arena
    user: Arena
    lookup_view: memoryview
    lookup_base: int
    forget_code: Callable[[int, int], None]
    map_code: Callable[[Context, int, int, bool], None]
    spaces: dict[tuple[int, Context], BlockSpace] = field(default_factory=dict)
    sites: dict[int, tuple[Site, Block]] = field(default_factory=dict)
    by_frame: dict[int, list[CodePage]] = field(default_factory=dict)
    on_at: dict[int, list[CodePage]] = field(default_factory=dict)
    """Code pages that are on, by linear page number."""
    local: set[CodePage] = field(default_factory=set)
    """Those of them whose translation is not global."""
    _lookup_used: int = 0
    _empty_tables: dict[Context, int] = field(default_factory=dict)
    flushes: int = 0

    def arena(self, context: Context) -> Arena:
        """Where the blocks of a context lie."""
        return self.user if context.is_user else self.kernel

    # --- finding ---------------------------------------------------------------------------------------

    def space(self, cs_base: int, context: Context) -> BlockSpace:
        """The block space for a CS.base and context, made when first asked for. Raises: CacheFull."""
        found = self.spaces.get((cs_base, context))
        if found is None:
            size = (1 << LOOKUP_BITS[context.code32]) * _ENTRY
            start = self._lookup_used
            if start + size > len(self.lookup_view):
                raise CacheFull
            self._lookup_used = start + size
            table = self.lookup_view[start : start + size].cast("I")
            table[0] = _no_tag(0)
            found = BlockSpace(cs_base, context, self.lookup_base + start, table)
            self.spaces[cs_base, context] = found
        return found

    def empty_table(self, context: Context) -> int:
        """Linear address of a branch table that never has an entry."""
        if context not in self._empty_tables:
            self._empty_tables[context] = self.space(-1, context).lookup
        return self._empty_tables[context]

    def block_at(self, address: int) -> Block | None:
        """The block, dead or alive, whose code holds a linear address."""
        for arena in (self.kernel, self.user):
            if arena.contains(address):
                page = arena.owners[address - arena.base >> PAGE_SHIFT]
                at = bisect_right(page.addresses, address) - 1
                return page.placed[at] if at >= 0 else None
        return None

    # --- code pages ------------------------------------------------------------------------------------

    def page(self, space: BlockSpace, number: int, frames: tuple[int, ...], self_check: bool) -> CodePage:
        """The code page for a linear page as `frames` show there, made when first asked for; it may be off."""
        key = (number, frames, self_check)
        found = space.known.get(key)
        if found is None:
            found = space.known[key] = CodePage(space, number, frames, self_check, is_trusted=self_check)
            for frame in frames:
                self.by_frame.setdefault(frame, []).append(found)
        return found

    def switch_on(self, page: CodePage, is_global: bool) -> None:
        """Let the blocks of a page run, until its translation or its bytes change."""
        page.is_on = True
        if len(page.frames) == 1:
            page.space.pages[page.number] = page
        for at in range(len(page.frames)):
            self.on_at.setdefault(page.number + at, []).append(page)
        if not is_global:
            self.local.add(page)
        self._map(page, True)

    def switch_off(self, page: CodePage) -> None:
        """Let nobody enter the blocks of a page. The caller flushes the TLB."""
        if not page.is_on:
            return
        page.is_on = False
        if page.space.pages.get(page.number) is page:
            del page.space.pages[page.number]
        for at in range(len(page.frames)):
            self.on_at[page.number + at].remove(page)
        self.local.discard(page)
        self._map(page, False)

    def switch_all_off(self) -> None:
        """Let nobody enter any code page: all translations are gone."""
        for pages in list(self.on_at.values()):
            self.switch_several_off(pages)

    def switch_several_off(self, pages: Iterable[CodePage]) -> None:
        """As `switch_off`, for all of them."""
        for page in list(pages):
            self.switch_off(page)

    def abandon(self, page: CodePage) -> None:
        """Never use a page again. Its tombstones stay reachable for those who still branch to it."""
        self.switch_off(page)
        for block in list(page.blocks.values()):
            self.drop(block)
        page.space.known.pop((page.number, page.frames, page.self_check), None)
        for frame in page.frames:
            self.by_frame[frame].remove(page)
        self._map(page, True)

    def _map(self, page: CodePage, on: bool) -> None:
        for first, count in page.extents:
            self.map_code(page.space.context, first, count, on)

    # --- placing ---------------------------------------------------------------------------------------

    def place(self, page: CodePage, translation: Translation) -> Block:
        """Place a block; nobody finds it by its EIP until it is published. Raises: CacheFull."""
        arena = self.arena(page.space.context)
        size = len(translation.code)
        if page.used + size > page.end:
            self._extend(page, arena, size)
        start = page.used
        page.used = start + size + (-size % _ALIGN)
        arena.view[start : start + size] = translation.code
        address = arena.base + start
        block = Block(page, translation.eip, address, address - page.space.cs_base & MASK32, translation)
        arena.blocks += 1
        page.addresses.append(address)
        page.placed.append(block)
        sites = self.sites
        for site in translation.sites:
            sites[address + site.offset] = (site, block)
        return block

    def _extend(self, page: CodePage, arena: Arena, size: int) -> None:
        start, count = arena.take(page, size)
        if start != page.end:
            page.used = start
        page.end = start + (count << PAGE_SHIFT)
        page.extents.append((start >> PAGE_SHIFT, count))
        if page.is_on:
            self.map_code(page.space.context, start >> PAGE_SHIFT, count, True)

    def publish(self, block: Block) -> None:
        """Let a placed block be found by its EIP, and link its direct branches to blocks that are there already."""
        page = block.page
        page.blocks[block.eip] = block
        if len(page.frames) > 1:
            page.space.crossing[block.eip] = block
        find = page.space.find
        for site in block.translation.sites:
            if site.kind is SiteKind.LINK:
                target = find(site.target)
                if target is not None:
                    self._put_branch(block, site.patch, target)

    def retire(self, block: Block) -> None:
        """Stop finding a self-checking block by its EIP; its code stays, for its source may come back."""
        self._hide(block)
        block.space.forget(block.eip)

    def _hide(self, block: Block) -> None:
        page = block.page
        if page.blocks.get(block.eip) is block:
            del page.blocks[block.eip]
        if page.space.crossing.get(block.eip) is block:
            del page.space.crossing[block.eip]

    # --- chaining --------------------------------------------------------------------------------------

    def link(self, block: Block, site: Site, target: Block) -> None:
        """Let the branch at a LINK site go straight to `target`."""
        self._patch_branch(block, site.patch, target)

    def predict(self, block: Block, site: Site, target: Block) -> None:
        """Let the indirect branch at a learning INDIRECT site try `target` too."""
        way = len(site.targets)
        site.targets = (*site.targets, target.eip)
        free = [NO_PREDICTION] * (len(site.links) - len(site.targets))
        predicted = [0, *site.targets, *free, 0]
        for number in (way, way + 1):
            step = predicted[number] - predicted[number + 1] & MASK32
            self._put(block, site.steps[number], step.to_bytes(4, "little"))
        self._put_branch(block, site.links[way], target)
        if free:
            self._put(block, site.steps[-1], NO_PREDICTION.to_bytes(4, "little"))
        else:
            self._put(block, site.steps[-1], target.eip.to_bytes(4, "little"))
            self._put(block, site.offset - len(_EXIT), NO_LEARNING)
        self.forget_code(block.address + site.steps[0], block.address + site.offset)
        if not free:
            site.links = ()

    def _put_branch(self, block: Block, offset: int, target: Block) -> None:
        after = block.address + offset + 4
        self._put(block, offset, (target.address - after & MASK32).to_bytes(4, "little"))

    def _patch_branch(self, block: Block, offset: int, target: Block) -> None:
        self._put_branch(block, offset, target)
        self.forget_code(block.address + offset, block.address + offset + 4)

    def _put(self, block: Block, offset: int, data: bytes) -> None:
        arena = self.arena(block.page.space.context)
        start = block.address - arena.base + offset
        arena.view[start : start + len(data)] = data

    # --- dropping --------------------------------------------------------------------------------------

    def drop(self, block: Block) -> None:
        """Forget a block; who branches to it will leave the cache."""
        if not block.alive:
            return
        block.alive = False
        self.retire(block)
        insn = Insn(block.eip, b"", "", "", block.translation.code32)
        self.sites[block.address + len(_EXIT)] = (Site(SiteKind.LINK, len(_EXIT), insn, block.eip), block)
        self._put(block, 0, _EXIT)
        self.forget_code(block.address, block.address + len(_EXIT))

    def redirect(self, dead: Block, site: Site, target: Block) -> None:
        """Let those who still branch to a dropped block reach the one that took its place."""
        prefix = b"" if dead.space.context.code32 else b"\x66"
        after = dead.address + len(prefix) + _JUMP_SIZE
        if after > dead.end or dead.space is not target.space:
            return
        self._put(dead, 0, prefix + b"\xe9" + (target.address - after & MASK32).to_bytes(4, "little"))
        self.forget_code(dead.address, after)

    def clear(self) -> None:
        """Forget everything. The caller unmaps all code pages and makes the physical CPU forget all code."""
        for arena in (self.kernel, self.user):
            for page in arena.owners:
                page.is_on = False
                for block in page.placed:
                    block.alive = False
                page.forget_blocks()  # they and their page hold each other, and Python's collector may rest
            arena.owners.clear()
            arena.blocks = 0
        self.lookup_view[: self._lookup_used] = bytes(self._lookup_used)
        self._lookup_used = 0
        for store in (self.spaces, self.sites, self.by_frame, self.on_at, self._empty_tables, self.local):
            store.clear()
        self.flushes += 1
