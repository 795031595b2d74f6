"""The emitter: one block's code in the making, with everything the VMM must know about it later."""

from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Final, NamedTuple

from bt.assemble import template
from bt.decode import Insn
from bt.guest import Context, Window
from vmm.arch.layout import MASK32, SCRATCH_WORDS, Slot
from vmm.arch.registers import Reg

CALLOUT_VECTOR: Final = 0x40
_INT: Final = bytes([0xCD, CALLOUT_VECTOR])
_OPERAND_SIZE: Final = b"\x66"
S0, S1, S2, S3 = range(4)
"""Scratch words. By convention S0 keeps the guest's ECX, S1 its EDX or EAX, S2 a value for a callout."""
_SCRATCH_NAMES: Final = tuple(f"S{index}" for index in range(SCRATCH_WORDS))


class SiteKind(Enum):
    """Why cached code leaves the cache."""

    LINK = auto()  # a direct branch whose target is not chained yet
    INDIRECT = auto()  # a RET or indirect branch that neither prediction nor lookup knows
    CALLOUT = auto()  # an instruction for the VMM
    FINISH = auto()  # the end of an inline sequence that found it needs the VMM after all
    STALE = auto()  # a self-checking block found its bytes changed
    STEP_END = auto()  # the end of a block that was to run one instruction only
    TRACE = auto()  # a probe, only when tracing


@dataclass(slots=True)
class Site:
    """One `int` in a block. `offset` is that of the byte after it, which is the EIP an exit shows.

    `insn` is the guest instruction, `target` the guest EIP of a LINK, `patch` the offset of the rel32 that a LINK
    patches. An INDIRECT that can still learn has `steps`, the offsets of the differences between successive predicted
    targets and of what undoes them, `links`, those of the rel32 of each way, and `targets`, what it has learned.
    """

    kind: SiteKind
    offset: int
    insn: Insn
    target: int = 0
    patch: int = 0
    steps: tuple[int, ...] = ()
    links: tuple[int, ...] = ()
    targets: list[int] = field(default_factory=list)


class Mark(NamedTuple):
    """From `offset` on, code belongs to the guest instruction at `eip`.

    If it faults there, each (register, scratch word) of `restore` must be put back first: then it looks as if the guest
    instruction itself had faulted.
    """

    offset: int
    eip: int
    restore: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated block, ready to be placed anywhere within reach of its CS.base.

    `starts` maps the offset of each guest instruction's first byte to its EIP: the only places at which an interrupt
    may be taken; `shadowed` are those among them that follow STI, MOV SS or POP SS.
    """

    code: bytes
    insns: tuple[Insn, ...]
    starts: dict[int, int]
    shadowed: frozenset[int]
    marks: tuple[Mark, ...]
    sites: tuple[Site, ...]
    rewritten: tuple[tuple[Insn, int, int], ...]
    source_size: int


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
            value = window.scratch_word(_SCRATCH_NAMES.index(name))
        else:
            left.append((offset, name))
            continue
        code[offset : offset + 4] = value.to_bytes(4, "little")
    return _Filled(bytes(code), tuple(left))


@lru_cache(maxsize=256)
def _filled_templates(window: Window, code32: bool) -> dict[str, _Filled]:
    """The templates that were filled in for a window: blocks by the thousand share them."""
    return {}


@dataclass(slots=True)
class Emitter:
    """Collects code. `window` gives the CS-relative addresses that templates need."""

    context: Context
    window: Window
    code: bytearray = field(default_factory=bytearray)
    starts: dict[int, int] = field(default_factory=dict)
    shadowed: set[int] = field(default_factory=set)
    marks: list[Mark] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    rewritten: list[tuple[Insn, int, int]] = field(default_factory=list)
    insn: Insn = field(init=False)
    shadow_next: bool = False
    _waiting: list[tuple[int, int]] = field(default_factory=list)
    _templates: dict[str, _Filled] = field(init=False)

    def __post_init__(self) -> None:
        self._templates = _filled_templates(self.window, self.context.code32)

    def begin(self, insn: Insn) -> None:
        """Start the code of one guest instruction."""
        self.insn = insn
        offset = len(self.code)
        self.starts[offset] = insn.eip
        if self.shadow_next:
            self.shadowed.add(offset)
            self.shadow_next = False
        self.marks.append(Mark(offset, insn.eip))

    def begin_end(self, last: Insn) -> None:
        """What follows belongs to the guest instruction behind `last`: a boundary, but no code of its own."""
        self.begin(Insn(last.next_eip, b"", "", "", last.code32))
        self.insn = last

    def raw(self, code: bytes) -> None:
        """Append machine code as it is."""
        self.code += code

    def emit(self, text: str, **values: int) -> dict[str, int]:
        """Append a template; S0-S3 and the names of vCPU-page slots are known to it.

        Returns where each field of `values` went; values are taken modulo 2^32.
        """
        filled = self._templates.get(text)
        if filled is None:
            filled = self._templates[text] = _fill(text, self.window, self.context.code32)
        start = len(self.code)
        self.code += filled.code
        places = {}
        for offset, name in filled.open:
            at = start + offset
            self.code[at : at + 4] = (values[name] & MASK32).to_bytes(4, "little")
            places[name] = at
        return places

    def mark(self, *restore: tuple[Reg, int]) -> None:
        """From here on, a fault must first put registers back from scratch words."""
        self.marks.append(Mark(len(self.code), self.insn.eip, restore))

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
        self.land()

    def branch(self, opcode: bytes, target: int) -> None:
        """A branch with a rel32 whose exit `land` will place; several may wait."""
        prefix = b"" if self.context.code32 else _OPERAND_SIZE
        self.code += prefix + opcode + bytes(4)
        self._waiting.append((len(self.code) - 4, target))

    def branch_at(self, at: int, target: int) -> None:
        """A rel32 that a template has left at offset `at`: `land` will place its exit."""
        self._waiting.append((at, target))

    def forward(self, opcode: bytes) -> int:
        """A branch with a rel32 to a place further on inside this block; `here` says where."""
        self.code += (b"" if self.context.code32 else _OPERAND_SIZE) + opcode + bytes(4)
        return len(self.code)

    def here(self, branch: int) -> None:
        """Let a `forward` branch come here."""
        self.code[branch - 4 : branch] = (len(self.code) - branch).to_bytes(4, "little")

    def land(self) -> None:
        """Place the exits of the branches that wait for one."""
        for at, target in self._waiting:
            displacement = len(self.code) - (at + 4)
            self.code[at : at + 4] = displacement.to_bytes(4, "little")
            self.site(SiteKind.LINK, target & MASK32).patch = at
        self._waiting.clear()

    def finish(self, insns: tuple[Insn, ...], source_size: int) -> Translation:
        """The finished block."""
        return Translation(
            bytes(self.code), insns, self.starts, frozenset(self.shadowed), tuple(self.marks),
            tuple(self.sites), tuple(self.rewritten), source_size,
        )  # fmt: skip
