"""Branch tables: from the target of a RET or an indirect branch to its block, read by cached code itself.

A table is a tree over the target EIP: its high half picks a middle table in the root, the next byte a leaf in that, the
low byte an entry of the leaf, the CS-relative address of a block. A table for 16-bit code begins at the middle. What
has no entry leads nowhere: to the first address of the lookup area, which is never executable, so that going there
faults, and the VMM takes the target from a scratch word. So cached code needs no comparison: nothing touches the flags,
and the engine runs the lookup as part of one block of its own.

An entry costs nobody else's: a leaf covers 256 bytes of guest code, and is made when the first of them gets an entry.
"""

from typing import Final

from vmm.arch.layout import MASK32

_WORD: Final = 4
_FANOUT: Final = 1 << 8
_ROOT: Final = 1 << 16
GAP: Final = 9 << 10
"""Words between a root and what comes next, nine pages. The engine's TLB is direct-mapped and can be as small as 64
pages, the size of a root: right behind it a middle table would take turns there with the root's first page, which all
code below 64 MiB goes by, and each branch would miss twice."""


class CacheFull(Exception):
    """No room: empty the cache and try again."""


class LookupArea:
    """The memory for branch tables: `view` is its bytes, `base` its linear address. Its first word is `nowhere`."""

    def __init__(self, view: memoryview, base: int) -> None:
        self.words = view.cast("I")
        self.base = base
        self._used = 1

    @property
    def nowhere(self) -> int:
        """Linear address to which targets without an entry lead."""
        return self.base

    def take(self, count: int, value: int) -> int:
        """A table of `count` words that all hold `value`: the index of its first word. Raises: CacheFull."""
        start = self._used
        if start + count > len(self.words):
            raise CacheFull
        self._used = start + count
        self.words[start : start + count] = memoryview(value.to_bytes(_WORD, "little") * count).cast("I")
        return start

    def clear(self) -> None:
        """All tables are gone."""
        self._used = 1


class BranchTable:
    """The branch table of one block space. `root` is its linear address."""

    __slots__ = (
        "_area",
        "_code32",
        "_cs_base",
        "_leaves",
        "_middles",
        "_no_leaf",
        "_nowhere",
        "_root",
        "_words",
        "root",
    )

    def __init__(self, area: LookupArea, cs_base: int, code32: bool) -> None:
        """Raises: CacheFull."""
        self._area, self._cs_base, self._words = area, cs_base, area.words
        self._nowhere = area.nowhere - cs_base & MASK32
        self._no_leaf = self._pointer(area.take(_FANOUT, self._nowhere))
        self._leaves: dict[int, int] = {}
        self._middles: dict[int, int] = {}
        """By the EIP bits that lead there: where leaves and middle tables begin."""
        middle = area.take(_FANOUT, self._no_leaf)
        if code32:
            self._root = area.take(_ROOT, self._pointer(middle))
            area.take(GAP, self._nowhere)
        else:
            self._root = middle
            self._middles[0] = middle
        self._code32 = code32
        self.root = area.base + _WORD * self._root

    def _pointer(self, index: int) -> int:
        """CS-relative address of a word of the area."""
        return self._area.base + _WORD * index - self._cs_base & MASK32

    def remember(self, eip: int, entry: int) -> None:
        """Let cached code find a block: `entry` is its CS-relative address.

        A target above FFFFh in 16-bit code has no place; it leaves the cache each time. Raises: CacheFull.
        """
        leaf = self._leaves.get(eip >> 8)
        if leaf is None:
            if eip >> 16 and not self._code32:
                return
            leaf = self._grow(eip)
        self._words[leaf + (eip & 0xFF)] = entry

    def forget(self, eip: int) -> None:
        """Take a block out."""
        leaf = self._leaves.get(eip >> 8)
        if leaf is not None:
            self._words[leaf + (eip & 0xFF)] = self._nowhere

    def _grow(self, eip: int) -> int:
        leaf = self._area.take(_FANOUT, self._nowhere)
        middle = self._middles.get(eip >> 16)
        if middle is None:
            middle = self._area.take(_FANOUT, self._no_leaf)
            self._middles[eip >> 16] = middle
            self._words[self._root + (eip >> 16)] = self._pointer(middle)
        self._words[middle + (eip >> 8 & 0xFF)] = self._pointer(leaf)
        self._leaves[eip >> 8] = leaf
        return leaf
