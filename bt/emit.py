"""The emitter: one block's code in the making, with everything the VMM must know about it later."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from bt.assemble import template
from bt.decode import Insn, Place, insn_at
from bt.guest import Context, Window
from vmm.arch.layout import MASK32, SCRATCH_WORDS, Slot

CALLOUT_VECTOR: Final = 0x40
_INT: Final = bytes([0xCD, CALLOUT_VECTOR])
_OPERAND_SIZE: Final = b"\x66"
S0, S1, S2, S3, S4 = range(5)
"""Scratch words. By convention S0 keeps the guest's ECX, S1 its EDX or EAX, S2 a value for a callout."""
FLAGS: Final = 8
"""In the place of a register: the arithmetic flags, as LAHF and SETO AL leave them in AX."""
CHECKED: Final = 9
"""In the place of a register: a page fault in the guard pages says that an access is to be looked at by the VMM."""
MISALIGNED: Final = 10
"""In the place of a register: a page fault in the hole says that the operand is not aligned (see `bt.simd`)."""
STORES: Final = 11
"""In the place of a register: what is read here is written next, so a page fault of the read is one of the write."""
_SCRATCH_NAMES: Final = {f"S{index}": 4 * index for index in range(SCRATCH_WORDS)} | {"S2_HIGH": 4 * S2 + 2}
"""Byte offsets of scratch words; S2_HIGH is the high half of S2."""


class SiteKind(IntEnum):
    """Why cached code leaves the cache."""

    LINK = 0  # a direct branch whose target is not chained yet
    CALLOUT = auto()  # an instruction for the VMM
    FINISH = auto()  # the end of an inline sequence that found it needs the VMM after all
    STALE = auto()  # a self-checking block found its bytes changed
    STEP_END = auto()  # the end of a block that was to run one instruction only
    TRACE = auto()  # a probe, only when tracing
    CHECK = auto()  # before an instruction whose accesses the VMM is to check
    PREPARE = auto()  # beside an instruction that runs here by itself, for what the VMM has to do for it


class Site:
    """One `int` in a block. `offset` is that of the byte after it, which is the EIP an exit shows.

    `insn` is the guest instruction, `target` the guest EIP of a LINK or what a PREPARE is for, `patch` the offset of
    the rel32 that a LINK patches. `plan` is where whoever carries the exit out keeps what it has worked out.
    """

    __slots__ = ("_insn", "kind", "offset", "patch", "plan", "target")

    def __init__(self, kind: SiteKind, offset: int, insn: Insn | Place, target: int = 0, patch: int = 0) -> None:
        self.kind, self.offset, self._insn, self.target, self.patch = kind, offset, insn, target, patch
        self.plan: Any = None

    @property
    def insn(self) -> Insn:
        """The guest instruction."""
        if isinstance(self._insn, tuple):
            self._insn = insn_at(self._insn)
        return self._insn

    def moved(self, by: int, insn: Insn) -> "Site":
        """The same exit of another instruction, `by` bytes further on."""
        return Site(self.kind, self.offset + by, insn, self.target, self.patch + by)

    def _key(self) -> tuple[object, ...]:
        return (self.kind, self.offset, self.insn, self.target, self.patch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Site({self.kind.name}, {self.offset:#x}, {self.insn}, target={self.target:#x})"


Restore = tuple[tuple[int, int], ...]
"""(register, scratch word) pairs to be put back before a fault is shown to the guest."""
Position = tuple[int, int, Restore]
"""A mark as it is collected: a tuple of its fields."""
Change = tuple[Insn | Place, int, int]
"""A rewritten instruction, and the offsets between which its code lies."""


class Mark(NamedTuple):
    """From `offset` on, code belongs to the guest instruction at `eip`.

    If it faults there, each (register, scratch word) of `restore` must be put back first: then it looks as if the guest
    instruction itself had faulted. Without `restore` it is the instruction's first byte: only there may an interrupt
    be taken.
    """

    offset: int
    eip: int
    restore: Restore = ()


@dataclass(slots=True)
class Translation:
    """A translated block, ready to be placed anywhere within reach of its CS.base.

    `source` are the bytes that it was made from, `count` instructions at `eip`; `shadowed` the offsets at which a guest
    instruction begins that follows STI, MOV SS or POP SS; `positions` are the marks, and `changes` what was rewritten.
    `returns` are the places to which its calls return: (offset, EIP).
    """

    code: bytes
    eip: int
    code32: bool
    source: bytes
    count: int
    shadowed: set[int]
    positions: list[Position]
    sites: list[Site]
    changes: list[Change]
    returns: list[tuple[int, int]]

    @property
    def rewritten(self) -> tuple[tuple[Insn, int, int], ...]:
        """What does not have its own bytes in `code`, with the offsets between which it lies."""
        return tuple((insn_at(insn) if isinstance(insn, tuple) else insn, a, b) for insn, a, b in self.changes)

    @property
    def marks(self) -> list[Mark]:
        """Which guest instruction each piece of the code belongs to, in ascending order."""
        return [Mark(*position) for position in self.positions]

    @property
    def starts(self) -> dict[int, int]:
        """The offset of each guest instruction's first byte, and its EIP."""
        return {offset: eip for offset, eip, restore in self.positions if not restore}

    def offset_of(self, eip: int) -> int | None:
        """Where the code of the guest instruction at an EIP begins, or None if no instruction begins there."""
        at = bisect_left(self.positions, eip, key=itemgetter(1))
        if at == len(self.positions) or self.positions[at][1] != eip:
            return None
        offset, _, restore = self.positions[at]
        return None if restore else offset

    def body_behind(self, offset: int) -> int:
        """Where the instruction itself begins, behind the check that an offset lies in."""
        at = bisect_right(self.positions, offset, key=itemgetter(0))
        return next(start for start, _, restore in self.positions[at:] if not restore)

    def insn_at(self, eip: int) -> bytes:
        """The guest's bytes from an instruction of the block on."""
        return self.source[eip - self.eip & MASK32 :]

    @property
    def source_size(self) -> int:
        """Bytes of guest code."""
        return len(self.source)

    def mark_at(self, offset: int) -> Mark:
        """Which guest instruction the code at an offset belongs to."""
        return Mark(*self.positions[bisect_right(self.positions, offset, key=itemgetter(0)) - 1])


@dataclass(frozen=True, slots=True)
class _Filled:
    """A template whose addresses are filled in for one window; `open` are the fields that each use fills in itself."""

    code: bytes
    open: tuple[tuple[int, str], ...]


def _fill(text: str, window: Window, code32: bool) -> _Filled:
    made = template(text, code32)
    code, left = bytearray(made.code), []
    for offset, name in made.fields:
        if name in Slot.__members__:
            value = window.slot(Slot[name])
        elif name in _SCRATCH_NAMES:
            value = window.scratch_word(_SCRATCH_NAMES[name])
        else:
            left.append((offset, name))
            continue
        code[offset : offset + 4] = value.to_bytes(4, "little")
    return _Filled(bytes(code), tuple(left))


@dataclass(frozen=True, slots=True)
class Sequence:
    """What became of an instruction whose code does not depend on its EIP: offsets count from its first byte."""

    code: bytes
    positions: tuple[Position, ...]
    sites: tuple[Site, ...]
    shadow_next: bool


@dataclass(slots=True)
class _Kept:
    """What blocks of one window and context share: templates filled in, and whole sequences by instruction bytes."""

    templates: dict[str, _Filled]
    sequences: dict[tuple[bytes, Callable[..., None]], Sequence]


@lru_cache(maxsize=256)
def _kept(window: Window, context: Context) -> _Kept:
    return _Kept({}, {})


SEQUENCES_MAX: Final = 4096


class Emitter:
    """Collects code. `window` gives the CS-relative addresses that templates need."""

    __slots__ = (
        "_kept", "changes", "code", "context", "insn", "positions", "returns", "shadow_next", "shadowed",
        "sites", "waiting", "window",
    )  # fmt: skip

    def __init__(self, context: Context, window: Window) -> None:
        self.context, self.window = context, window
        self.code = bytearray()
        self.shadowed: set[int] = set()
        self.positions: list[Position] = []
        self.sites: list[Site] = []
        self.changes: list[Change] = []
        self.returns: list[tuple[int, int]] = []
        self.insn: Insn
        self.shadow_next = False
        self.waiting: list[tuple[int, int, Insn | Place, SiteKind]] = []
        """Branches whose exit has no place yet: the offset of their rel32, their target, the instruction."""
        self._kept = _kept(window, context)

    def begin(self, insn: Insn) -> None:
        """Start the code of one guest instruction."""
        self.insn = insn
        offset = len(self.code)
        if self.shadow_next:
            self.shadowed.add(offset)
            self.shadow_next = False
        self.positions.append((offset, insn.eip, ()))

    def begin_end(self, last: Insn, eip: int) -> None:
        """What follows belongs to the guest instruction behind `last`, at `eip`: a boundary, but no code of its own."""
        offset = len(self.code)
        if self.shadow_next:
            self.shadowed.add(offset)
        self.positions.append((offset, eip, ()))
        self.insn = last

    def replay(self, insn: Insn, entry: Callable[["Emitter", Insn], None]) -> None:
        """Let `entry` translate an instruction whose code does not depend on its EIP, or repeat what it did before."""
        key = (insn.raw, entry)
        sequence = self._kept.sequences.get(key)
        if sequence is None:
            trial = Emitter(self.context, self.window)
            trial.insn = insn
            entry(trial, insn)
            sequence = Sequence(bytes(trial.code), tuple(trial.positions), tuple(trial.sites), trial.shadow_next)
            if len(self._kept.sequences) >= SEQUENCES_MAX:
                self._kept.sequences.clear()
            self._kept.sequences[key] = sequence
        at, eip = len(self.code), insn.eip
        self.code += sequence.code
        for offset, _, restore in sequence.positions:
            self.positions.append((at + offset, eip, restore))
        for site in sequence.sites:
            self.sites.append(site.moved(at, insn))
        self.shadow_next = sequence.shadow_next

    def raw(self, code: bytes) -> None:
        """Append machine code as it is."""
        self.code += code

    def emit(self, text: str, **values: int) -> dict[str, int]:
        """Append a template; S0-S3 and the names of vCPU-page slots are known to it.

        Returns where each field of `values` went; values are taken modulo 2^32.
        """
        filled = self._kept.templates.get(text)
        if filled is None:
            filled = self._kept.templates[text] = _fill(text, self.window, self.context.code32)
        start = len(self.code)
        self.code += filled.code
        places = {}
        for offset, name in filled.open:
            at = start + offset
            self.code[at : at + 4] = (values[name] & MASK32).to_bytes(4, "little")
            places[name] = at
        return places

    def mark(self, *restore: tuple[int, int]) -> None:
        """From here on, a fault must first put registers back from scratch words."""
        self.positions.append((len(self.code), self.insn.eip, restore))

    def site(self, kind: SiteKind, target: int = 0) -> Site:
        """Append an exit."""
        self.code += _INT
        return self.site_here(kind, target)

    def site_here(self, kind: SiteKind, target: int = 0) -> Site:
        """Name the exit that a template has just ended with."""
        site = Site(kind, len(self.code), self.insn, target)
        self.sites.append(site)
        return site

    def callout(self) -> None:
        """Leave the cache for this instruction: the VMM does it and decides where to go on."""
        self.site(SiteKind.CALLOUT)

    def jump(self, target: int) -> None:
        """JMP rel32 to a guest EIP: at first to an exit that links it."""
        self.branch(b"\xe9", target)

    def branch(self, opcode: bytes, target: int, kind: SiteKind = SiteKind.LINK) -> None:
        """A branch with a rel32 whose exit `land` will place; several may wait."""
        prefix = b"" if self.context.code32 else _OPERAND_SIZE
        self.code += prefix + opcode + bytes(4)
        self.waiting.append((len(self.code) - 4, target, self.insn, kind))

    def forward(self, opcode: bytes) -> int:
        """A branch with a rel32 to a place further on inside this block; `here` says where."""
        self.code += (b"" if self.context.code32 else _OPERAND_SIZE) + opcode + bytes(4)
        return len(self.code)

    def here(self, branch: int) -> None:
        """Let a `forward` branch come here."""
        self.code[branch - 4 : branch] = (len(self.code) - branch).to_bytes(4, "little")

    def land(self) -> None:
        """Place the exits of the block's branches, behind all of its code."""
        code = self.code
        for at, target, insn, kind in self.waiting:
            code[at : at + 4] = (len(code) - at - 4).to_bytes(4, "little")
            code += _INT
            self.sites.append(Site(kind, len(code), insn, target & MASK32, at))
        self.waiting.clear()

    def finish(self, eip: int, source: bytes, count: int) -> Translation:
        """The finished block."""
        self.land()
        return Translation(
            bytes(self.code), eip, self.context.code32, source, count, self.shadowed, self.positions, self.sites,
            self.changes, self.returns,
        )  # fmt: skip
