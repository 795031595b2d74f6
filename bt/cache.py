"""The translation cache: where blocks live, how they are found, chained and dropped.

A block space holds the blocks of one (CS.base, context): inside it a guest EIP names a block. Each space has its own
branch-lookup table, which cached code reads. Blocks are placed one behind the other in the arena of their privilege
class; an arena that is full, or a lookup area that is full, empties the whole cache. A dropped block leaves a
tombstone: its first bytes become an exit, so that branches chained to it find their way through the VMM.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bt.branches import LOOKUP_BITS, NO_LEARNING, NO_PREDICTION
from bt.emit import CALLOUT_VECTOR, Mark, Site, SiteKind, Translation
from bt.guest import Context
from vmm.arch.layout import MASK32

_ALIGN: Final = 4
_ENTRY: Final = 8
_JUMP_SIZE: Final = 5
_EXIT: Final = bytes([0xCD, CALLOUT_VECTOR])


VERSIONS_MAX: Final = 256
BLOCKS_MAX: Final = 100_000
"""Of one arena, dead ones included: bounds what the VMM remembers about them."""


class CacheFull(Exception):
    """No room: empty the cache and try again."""


@dataclass(slots=True)
class Arena:
    """Memory for code: `view` is its bytes, `base` its linear address."""

    view: memoryview
    base: int
    used: int = 0

    def place(self, size: int) -> int:
        """Reserve `size` bytes; returns their offset. Raises: CacheFull."""
        start = self.used
        end = start + size + (-size % _ALIGN)
        if end > len(self.view):
            raise CacheFull
        self.used = end
        return start


@dataclass(slots=True, eq=False)
class BlockSpace:
    """All blocks of one CS.base and context. `lookup` is the linear address of its branch table."""

    cs_base: int
    context: Context
    lookup: int
    table: memoryview
    blocks: dict[int, "Block"] = field(default_factory=dict)
    versions: dict[tuple[int, bool], list[tuple[bytes, "Block"]]] = field(default_factory=dict)
    """Blocks that depend on no write-protection, with their source: self-checking ones, and steps (key: True)."""

    def remember(self, eip: int, entry: int) -> None:
        """Let cached code find a block: `entry` is its CS-relative address."""
        index = (eip & ((1 << LOOKUP_BITS[self.context.code32]) - 1)) * 2
        self.table[index] = -eip & MASK32
        self.table[index + 1] = entry

    def find_version(self, eip: int, source: bytes, step: bool) -> "Block | None":
        """A block made earlier from these very bytes; it is published again."""
        for made_from, block in self.versions.get((eip, step), ()):
            if block.alive and source.startswith(made_from):
                if not step:
                    self.blocks[eip] = block
                return block
        return None

    def add_version(self, block: "Block", source: bytes, step: bool) -> None:
        """Remember a block by its source; the oldest of too many versions is forgotten."""
        known = self.versions.setdefault((block.eip, step), [])
        known.append((source, block))
        if len(known) > VERSIONS_MAX:
            known.pop(0)

    def forget(self, eip: int) -> None:
        """Take a block out of the branch table."""
        index = (eip & ((1 << LOOKUP_BITS[self.context.code32]) - 1)) * 2
        if self.table[index] == -eip & MASK32:
            self.table[index] = _no_tag(index)


def _no_tag(index: int) -> int:
    """A tag that no EIP with this index has: entry 0 must not match EIP 0, nor any other entry its own index."""
    return MASK32 if index == 0 else 0


@dataclass(slots=True, eq=False)
class Block:
    """A block in the cache. `address` is linear, `entry` relative to CS.base; `pages` are its source's page numbers."""

    space: BlockSpace
    eip: int
    address: int
    translation: Translation
    pages: tuple[int, ...]
    self_check: bool
    alive: bool = True

    @property
    def entry(self) -> int:
        """The EIP that enters it."""
        return self.address - self.space.cs_base & MASK32

    @property
    def end(self) -> int:
        """Linear address behind its code."""
        return self.address + len(self.translation.code)

    def mark_at(self, address: int) -> Mark:
        """Which guest instruction the code at a linear cache address belongs to."""
        marks = self.translation.marks
        return marks[bisect_right(marks, address - self.address, key=lambda mark: mark.offset) - 1]


@dataclass(slots=True)
class CodeCache:
    """The cache of one VM.

    `kernel` and `user` are the arenas by privilege class; `lookup_view` and `lookup_base` the memory for branch tables.
    `forget_code(start, end)` makes the physical CPU drop what it made of those linear addresses.
    """

    kernel: Arena
    user: Arena
    lookup_view: memoryview
    lookup_base: int
    forget_code: Callable[[int, int], None]
    spaces: dict[tuple[int, Context], BlockSpace] = field(default_factory=dict)
    sites: dict[int, tuple[Site, Block]] = field(default_factory=dict)
    by_page: dict[int, set[Block]] = field(default_factory=dict)
    _addresses: dict[int, list[int]] = field(default_factory=lambda: {0: [], 1: []})
    _placed: dict[int, list[Block]] = field(default_factory=lambda: {0: [], 1: []})
    _lookup_used: int = 0
    _empty_tables: dict[Context, int] = field(default_factory=dict)
    flushes: int = 0

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
        for number, arena in ((0, self.kernel), (1, self.user)):
            if arena.base <= address < arena.base + arena.used:
                at = bisect_right(self._addresses[number], address) - 1
                return self._placed[number][at] if at >= 0 else None
        return None

    def contains(self, address: int) -> bool:
        """Is a linear address inside code of the cache?"""
        return any(arena.base <= address < arena.base + arena.used for arena in (self.kernel, self.user))

    # --- placing ---------------------------------------------------------------------------------------

    def publish(self, block: Block) -> None:
        """Let a placed block be found by its EIP, and dropped with its pages."""
        block.space.blocks[block.eip] = block
        for page in block.pages:
            self.by_page.setdefault(page, set()).add(block)

    def retire(self, block: Block) -> None:
        """Stop finding a self-checking block by its EIP; its code stays, for its source may come back."""
        if block.space.blocks.get(block.eip) is block:
            del block.space.blocks[block.eip]
        block.space.forget(block.eip)

    def place(self, space: BlockSpace, translation: Translation, pages: tuple[int, ...], self_check: bool) -> Block:
        """Place a block; nobody finds it by its EIP until it is published. Raises: CacheFull."""
        number = 1 if space.context.is_user else 0
        arena = self.user if number else self.kernel
        if len(self._placed[number]) >= BLOCKS_MAX:
            raise CacheFull
        start = arena.place(len(translation.code))
        arena.view[start : start + len(translation.code)] = translation.code
        block = Block(space, translation.insns[0].eip, arena.base + start, translation, pages, self_check)
        self._addresses[number].append(block.address)
        self._placed[number].append(block)
        for site in translation.sites:
            self.sites[block.address + site.offset] = (site, block)
        return block

    # --- chaining --------------------------------------------------------------------------------------

    def link(self, block: Block, site: Site, target: Block) -> None:
        """Let the branch at a LINK site go straight to `target`."""
        self._patch_branch(block, site.patch, target)

    def predict(self, block: Block, site: Site, target: Block) -> None:
        """Let the indirect branch at a learning INDIRECT site try `target` too."""
        way = len(site.targets)
        site.targets.append(target.eip)
        free = [NO_PREDICTION] * (len(site.links) - len(site.targets))
        predicted = [0, *site.targets, *free, 0]
        for number in (way, way + 1):
            step = predicted[number] - predicted[number + 1] & MASK32
            self._write(block, site.steps[number], step.to_bytes(4, "little"))
        if free:
            self._write(block, site.steps[-1], NO_PREDICTION.to_bytes(4, "little"))
        else:
            self._write(block, site.steps[-1], target.eip.to_bytes(4, "little"))
            self._write(block, site.offset - len(_EXIT), NO_LEARNING)
        self._patch_branch(block, site.links[way], target)
        if not free:
            site.links = ()

    def _patch_branch(self, block: Block, offset: int, target: Block) -> None:
        after = block.address + offset + 4
        self._write(block, offset, (target.address - after & MASK32).to_bytes(4, "little"))

    def _write(self, block: Block, offset: int, data: bytes) -> None:
        arena = self.user if block.space.context.is_user else self.kernel
        start = block.address - arena.base + offset
        arena.view[start : start + len(data)] = data
        self.forget_code(block.address + offset, block.address + offset + len(data))

    # --- dropping --------------------------------------------------------------------------------------

    def drop(self, block: Block) -> None:
        """Forget a block; who branches to it will leave the cache."""
        if not block.alive:
            return
        block.alive = False
        for page in block.pages:
            self.by_page.get(page, set()).discard(block)
        if block.space.blocks.get(block.eip) is block:
            del block.space.blocks[block.eip]
        block.space.forget(block.eip)
        insn = block.translation.insns[0]
        self.sites[block.address + len(_EXIT)] = (Site(SiteKind.LINK, len(_EXIT), insn, block.eip), block)
        self._write(block, 0, _EXIT)

    def redirect(self, dead: Block, site: Site, target: Block) -> None:
        """Let those who still branch to a dropped block reach the one that took its place."""
        prefix = b"" if dead.space.context.code32 else b"\x66"
        after = dead.address + len(prefix) + _JUMP_SIZE
        if after > dead.end or dead.space is not target.space:
            return
        self._write(dead, 0, prefix + b"\xe9" + (target.address - after & MASK32).to_bytes(4, "little"))

    def drop_page(self, page: int) -> int:
        """Drop every block made from a page; returns how many."""
        blocks = self.by_page.pop(page, set())
        for block in list(blocks):
            self.drop(block)
        return len(blocks)

    def clear(self) -> None:
        """Forget everything. The caller makes the physical CPU forget all code."""
        self.kernel.used = self.user.used = 0
        self.lookup_view[: self._lookup_used] = bytes(self._lookup_used)
        self._lookup_used = 0
        for store in (self.spaces, self.sites, self.by_page, self._empty_tables):
            store.clear()
        for number in (0, 1):
            for block in self._placed[number]:
                block.alive = False
            self._addresses[number].clear()
            self._placed[number].clear()
        self.flushes += 1
