"""The translation cache: where blocks live, how they are found, chained and dropped.

A block space holds the blocks of one (CS.base, context). Inside it, a code page holds the blocks of one page of guest
code: one linear page as one frame shows there (two of each for an instruction that crosses pages). Code pages own whole
pages of the cache, and are switched on and off: `map_code` maps those pages, or takes them away, so that whoever
branches into a page that is off faults there, whatever link, prediction or table brought him. A code page is on only
while the guest's translation of its linear page lives and its bytes are as they were. So links never have to be cut:
the MMU checks them. What is on is a matter of the address space: each has a view of its own, and one of them is
current.

Code pages are placed one behind the other in the arena of their privilege class; an arena that is full, or a lookup
area that is full, empties the whole cache. A dropped block leaves a tombstone: its first bytes become an exit, so that
branches chained to it find their way through the VMM.
"""

from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bt.decode import Insn
from bt.emit import CALLOUT_VECTOR, Mark, Site, SiteKind, Translation
from bt.guest import Context
from bt.lookup import BranchTable, CacheFull, LookupArea
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE

_ALIGN: Final = 4
_JUMP_SIZE: Final = 5
_NEAR: Final = 4
"""So many blocks before an EIP are asked whether it is theirs."""
_EXIT: Final = bytes([0xCD, CALLOUT_VECTOR])


CONTESTED_AFTER: Final = 3
"""So many code pages must have been abandoned at a linear page before branches to it go through the branch table."""
VERSIONS_MAX: Final = 256
BLOCKS_MAX: Final = 150_000
"""Of one arena, dead ones included: bounds what the VMM remembers about them."""


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
    """All blocks of one CS.base and context. `table` leads cached code to those that it may branch to indirectly.

    `known` are all its code pages. `steps` holds the blocks that run one instruction and the dispatchers: it is of no
    page, so no change of a translation switches it off. `replaced` counts, by linear page number, the code pages that
    were abandoned because others stood in their place.
    """

    cs_base: int
    context: Context
    table: BranchTable
    known: dict[tuple[int, tuple[int, ...], bool], "CodePage"] = field(default_factory=dict)
    replaced: dict[int, int] = field(default_factory=dict)
    dispatchers: dict[int, "Block"] = field(default_factory=dict)
    """By EIP: code that goes there through the branch table."""
    steps: "CodePage" = field(init=False)

    def __post_init__(self) -> None:
        self.steps = CodePage(self, 0, (), False, is_everywhere=True)

    def is_contested(self, number: int) -> bool:
        """Do several code pages take turns at a linear page, so that no branch should be tied to one of them?"""
        return self.replaced.get(number, 0) >= CONTESTED_AFTER


@dataclass(slots=True, eq=False)
class CodePage:
    """The blocks of one page of guest code.

    `number` is its linear page number, `frames` the guest-physical page numbers of what shows there and, for an
    instruction that crosses pages, on the next page. `on_in` are the views in which its blocks may run. `is_trusted`:
    its bytes cannot have changed unseen since its blocks were made. With `self_check` its blocks compare their bytes
    themselves. `extents` are the pages of the arena that it owns: (first, count). `is_linked`: branches of other pages
    go straight to it. `strays` counts how often code came to it by those while another page showed there.
    `is_everywhere`: its code is right in any address space.
    """

    space: BlockSpace
    number: int
    frames: tuple[int, ...]
    self_check: bool
    is_trusted: bool = False
    is_linked: bool = False
    is_everywhere: bool = False
    strays: int = 0
    on_in: set["CodeView"] = field(default_factory=set)
    blocks: dict[int, "Block"] = field(default_factory=dict)
    """Those that may be found, by the EIP at which they begin."""
    starts: list[int] = field(default_factory=list)
    """Their EIPs, in ascending order, unless they check themselves."""
    entrances: dict[int, "Entrance"] = field(default_factory=dict)
    versions: dict[int, list[tuple[bytes, "Block"]]] = field(default_factory=dict)
    """Blocks that depend on no write-protection, with their source: self-checking ones, and steps."""
    extents: list[tuple[int, int]] = field(default_factory=list)
    placed: list["Block"] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    used: int = 0
    end: int = 0

    def find(self, eip: int) -> "Entrance | None":
        """Where to enter for an EIP: the start of a block, or of an instruction in one."""
        return self.entrances.get(eip) or self._inside(eip)

    def _inside(self, eip: int) -> "Entrance | None":
        """An instruction of a block that begins a little before becomes an entrance when it is asked for.

        Not one in the shadow of STI or of a load of SS: a guest that loops there would never be at a boundary.
        """
        starts, blocks = self.starts, self.blocks
        at = bisect_right(starts, eip)
        for start in starts[max(at - _NEAR, 0) : at]:
            block = blocks[start]
            if eip - start < block.size:
                offset = block.translation.offset_of(eip)
                if offset is not None and block.may_open(offset):
                    return self.open(block, eip, offset)
        return None

    def open(self, block: "Block", eip: int, offset: int) -> "Entrance":
        """Let a block be entered at an offset."""
        address = block.address + offset
        entrance = Entrance(block, eip, address, address - self.space.cs_base & MASK32)
        block.entrances.append(entrance)
        self.entrances[eip] = entrance
        return entrance

    def hide(self, block: "Block") -> None:
        """Let nobody find a block any more."""
        if self.blocks.get(block.eip) is block:
            del self.blocks[block.eip]
            if not self.self_check:
                self.starts.remove(block.eip)
        for entrance in block.entrances:
            if self.entrances.get(entrance.eip) is entrance:
                del self.entrances[entrance.eip]

    def find_version(self, eip: int, source: bytes) -> "Block | None":
        """A block made earlier from these very bytes; one that checks itself is found by its EIP again."""
        for made_from, block in self.versions.get(eip, ()):
            if block.alive and source.startswith(made_from):
                if self.self_check:
                    self.blocks[eip] = block
                    self.entrances[eip] = block.entrances[0]
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
        for blocks in (self.blocks, self.starts, self.entrances, self.versions, self.placed, self.addresses):
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
class CodeView:
    """The code pages that are on in one address space.

    `map_code(context, first, count, on)` maps or unmaps pages of the arena there. `on_at` are the code pages that are
    on by linear page number, `pages` those of one frame also by their block space.
    """

    map_code: Callable[[Context, int, int, bool], None]
    on: set[CodePage] = field(default_factory=set)
    on_at: dict[int, list[CodePage]] = field(default_factory=dict)
    pages: dict[tuple[BlockSpace, int], CodePage] = field(default_factory=dict)

    def find(self, space: BlockSpace, eip: int) -> "Entrance | None":
        """Where to enter a space's blocks for a guest EIP, if there is one that may run."""
        number = (space.cs_base + eip & MASK32) >> PAGE_SHIFT
        page = self.pages.get((space, number))
        if page is not None and (found := page.find(eip)) is not None:
            return found
        for page in self.on_at.get(number, ()):
            if page.space is space and page.number == number and (found := page.find(eip)) is not None:
                return found
        return None

    def switch_on(self, page: CodePage) -> None:
        """Let the blocks of a page run, until its translation or its bytes change."""
        self.on.add(page)
        page.on_in.add(self)
        if len(page.frames) == 1:
            self.pages[page.space, page.number] = page
        for at in range(len(page.frames)):
            self.on_at.setdefault(page.number + at, []).append(page)
        self.map(page, True)

    def switch_off(self, page: CodePage) -> None:
        """Let nobody enter the blocks of a page. The caller flushes the TLB."""
        if page not in self.on:
            return
        self.on.remove(page)
        page.on_in.remove(self)
        if self.pages.get((page.space, page.number)) is page:
            del self.pages[page.space, page.number]
        for number in range(page.number, page.number + len(page.frames)):
            there = self.on_at[number]
            there.remove(page)
            if not there:
                del self.on_at[number]
        self.map(page, False)

    def switch_off_at(self, number: int) -> None:
        """Switch off what shows at a linear page."""
        for page in tuple(self.on_at.get(number, ())):
            self.switch_off(page)

    def forget(self) -> None:
        """All pages are off: the caller has unmapped them."""
        for page in self.on:
            page.on_in.discard(self)
        for store in (self.on, self.on_at, self.pages):
            store.clear()

    def map(self, page: CodePage, on: bool) -> None:
        """Map or unmap what a page owns of the arena."""
        for first, count in page.extents:
            self.map_code(page.space.context, first, count, on)


@dataclass(slots=True, eq=False)
class Entrance:
    """Where a block may be entered, for a guest EIP. `address` is linear, `entry` relative to CS.base."""

    block: "Block"
    eip: int
    address: int
    entry: int

    @property
    def space(self) -> BlockSpace:
        """That of its block."""
        return self.block.page.space


@dataclass(slots=True, eq=False)
class Block:
    """A block in the cache. `address` is linear, `entry` relative to CS.base, `size` in bytes of guest code."""

    page: CodePage
    eip: int
    size: int
    address: int
    entry: int
    translation: Translation
    entrances: list[Entrance] = field(default_factory=list)
    alive: bool = True

    @property
    def space(self) -> BlockSpace:
        """Its CS.base and context."""
        return self.page.space

    @property
    def end(self) -> int:
        """Linear address behind its code."""
        return self.address + len(self.translation.code)

    def may_open(self, offset: int) -> bool:
        """Is an instruction out of shadows, and could it become a tombstone beside the entrances that there are?"""
        address = self.address + offset
        return offset not in self.translation.shadowed and all(
            abs(each.address - address) >= len(_EXIT) for each in self.entrances
        )

    def has_way_in(self, address: int) -> bool:
        """May one come to a linear cache address from other blocks?"""
        return address == self.address or any(each.address == address for each in self.entrances)

    def mark_at(self, address: int) -> Mark:
        """Which guest instruction the code at a linear cache address belongs to."""
        return self.translation.mark_at(address - self.address)


@dataclass(slots=True)
class CodeCache:
    """The cache of one VM.

    `kernel` and `user` are the arenas by privilege class, `lookup` the memory for branch tables.
    `forget_code(start, end)` makes the physical CPU drop what it made of those linear addresses. `view` says what is on
    in the current address space.
    """

    kernel: Arena
    user: Arena
    lookup: LookupArea
    forget_code: Callable[[int, int], None]
    view: CodeView
    spaces: dict[tuple[int, Context], BlockSpace] = field(default_factory=dict)
    sites: dict[int, tuple[Site, Block]] = field(default_factory=dict)
    by_frame: dict[int, list[CodePage]] = field(default_factory=dict)
    flushes: int = 0
    on_tombstone: Callable[[int], None] = lambda _address: None
    """Told of each address at which an exit is another one now."""

    def arena(self, context: Context) -> Arena:
        """Where the blocks of a context lie."""
        return self.user if context.is_user else self.kernel

    # --- finding ---------------------------------------------------------------------------------------

    def space(self, cs_base: int, context: Context) -> BlockSpace:
        """The block space for a CS.base and context, made when first asked for. Raises: CacheFull."""
        found = self.spaces.get((cs_base, context))
        if found is None:
            found = BlockSpace(cs_base, context, BranchTable(self.lookup, cs_base, context.code32))
            self.spaces[cs_base, context] = found
        return found

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

    def is_on(self, page: CodePage) -> bool:
        """May its blocks run in the current address space?"""
        return page in self.view.on

    def switch_off(self, page: CodePage) -> None:
        """Let nobody enter the blocks of a page, in any address space. The caller flushes the TLB."""
        for view in tuple(page.on_in):
            view.switch_off(page)

    def abandon(self, page: CodePage) -> None:
        """Never use a page again. Its tombstones stay reachable for those who branch to it."""
        page.is_everywhere = True
        self.switch_off(page)
        for block in list(page.blocks.values()):
            self.drop(block)
        page.space.known.pop((page.number, page.frames, page.self_check), None)
        for frame in page.frames:
            self.by_frame[frame].remove(page)
        self.view.map(page, True)

    # --- placing ---------------------------------------------------------------------------------------

    def place(self, page: CodePage, translation: Translation) -> Block:
        """Place a block; nobody finds it by its EIP until it is published. Raises: CacheFull.

        It does not lie across pages if it fits into one: the engine chains no jump that leaves a page, so a loop there
        would cost 6 ns more each time.
        """
        arena = self.arena(page.space.context)
        size = len(translation.code)
        if size <= PAGE_SIZE < (page.used & PAGE_MASK) + size:
            page.used = (page.used | PAGE_MASK) + 1
        if page.used + size > page.end:
            self._extend(page, arena, size)
        start = page.used
        page.used = start + size + (-size % _ALIGN)
        arena.view[start : start + size] = translation.code
        address = arena.base + start
        entry = address - page.space.cs_base & MASK32
        block = Block(page, translation.eip, len(translation.source), address, entry, translation)
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
        for view in page.on_in:
            view.map_code(page.space.context, start >> PAGE_SHIFT, count, True)

    def publish(self, block: Block) -> Entrance:
        """Let a placed block be found by its EIP, and by those at which calls return into it; link its direct branches
        to blocks that are there already. Raises: CacheFull.
        """
        page, made = block.page, block.translation
        if not page.self_check and block.eip not in page.blocks:
            insort(page.starts, block.eip)
        page.blocks[block.eip] = block
        start = page.open(block, block.eip, 0)
        for offset, eip in made.returns:
            back = page.entrances.get(eip) or page.open(block, eip, offset)
            page.space.table.remember(eip, back.entry)
        for site in made.sites:
            if site.kind is SiteKind.LINK:
                target = self._known(page, site.target)
                if target is not None:
                    self._join(block, site, target)
        return start

    def _known(self, page: CodePage, eip: int) -> Entrance | None:
        """Where to enter for the target of a branch on a page. Instructions inside other pages' blocks, and blocks that
        cross pages, are left for the moment at which the branch is taken."""
        space = page.space
        number = (space.cs_base + eip & MASK32) >> PAGE_SHIFT
        if number == page.number:
            return page.find(eip)
        there = self.view.pages.get((space, number))
        if there is None or space.is_contested(number):
            return None
        found = there.entrances.get(eip)
        there.is_linked |= found is not None
        return found

    def retire(self, block: Block) -> None:
        """Stop finding a block; the code of a self-checking one stays, for its source may come back."""
        block.page.hide(block)
        for entrance in block.entrances:
            block.space.table.forget(entrance.eip)

    # --- chaining --------------------------------------------------------------------------------------

    def link(self, block: Block, site: Site, target: Block | Entrance) -> None:
        """Let the branch at a LINK site go straight to `target`."""
        self._join(block, site, target)
        self.forget_code(block.address + site.patch, block.address + site.patch + 4)

    def _join(self, block: Block, site: Site, target: Block | Entrance) -> None:
        after = block.address + site.patch + 4
        self._put(block, site.patch, (target.address - after & MASK32).to_bytes(4, "little"))

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
        for entrance in block.entrances:
            offset = entrance.address - block.address
            insn = Insn(entrance.eip, b"", "", "", block.translation.code32)
            site = Site(SiteKind.LINK, offset + len(_EXIT), insn, entrance.eip)
            self.sites[entrance.address + len(_EXIT)] = (site, block)
            self.on_tombstone(entrance.address + len(_EXIT))
            self._put(block, offset, _EXIT)
            self.forget_code(entrance.address, entrance.address + len(_EXIT))

    def redirect(self, dead: Block, site: Site, target: Block | Entrance) -> None:
        """Let those who still branch to a dropped block reach the one that took its place."""
        prefix = b"" if dead.space.context.code32 else b"\x66"
        address = dead.address + site.offset - len(_EXIT)
        after = address + len(prefix) + _JUMP_SIZE
        is_crowded = any(address < each.address < after for each in dead.entrances)
        if after > dead.end or is_crowded or dead.space is not target.space:
            return
        branch = prefix + b"\xe9" + (target.address - after & MASK32).to_bytes(4, "little")
        self._put(dead, address - dead.address, branch)
        self.forget_code(address, after)

    def clear(self) -> None:
        """Forget everything. The caller unmaps all code, lets all views forget theirs, and makes the physical CPU
        forget all code."""
        for arena in (self.kernel, self.user):
            for page in arena.owners:
                for block in page.placed:
                    block.alive = False
                    block.entrances.clear()
                page.forget_blocks()  # they and their page hold each other, and Python's collector may rest
            arena.owners.clear()
            arena.blocks = 0
        self.lookup.clear()
        for store in (self.spaces, self.sites, self.by_frame):
            store.clear()
        self.flushes += 1
