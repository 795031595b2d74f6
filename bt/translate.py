"""The translator: guest bytes in, a block out.

A block is scanned until a control transfer from which nothing comes back, the end of its page, or `limit`
instructions. What becomes of each instruction is the business of `bt.tables`.
"""

from dataclasses import dataclass
from typing import Final

from bt.accesses import stores
from bt.branches import jump_through_table
from bt.decode import MAX_LENGTH, Decoder, Insn
from bt.emit import Emitter, SiteKind, Translation
from bt.guest import Context, Window
from bt.looks import looked_at
from bt.segment_checks import checked, need_of
from bt.self_check import check_source
from bt.shapes import Shape, ShapeTree
from bt.tables import BRANCHES, UNDEFINED, Translator, Treatment, callout, never_inline, verbatim
from vmm.arch.layout import MASK32

BLOCK_LIMIT: Final = 48
OVERLONG: Final = "(overlong)"


@dataclass(frozen=True, slots=True)
class Options:
    """How to translate one block.

    `limit` instructions at the most; `step`: the block runs one instruction and ends in a STEP_END exit; `self_check`:
    it compares its source bytes on entry and ends after every store; `inline` False makes every sensitive
    instruction a callout; `probe_critical` puts TRACE sites round each sensitive instruction that stays in the cache.
    Without `segment_checks` every segment counts as flat.
    """

    limit: int = BLOCK_LIMIT
    step: bool = False
    self_check: bool = False
    inline: bool = True
    probe_critical: bool = False
    segment_checks: bool = True


class NeedsMoreBytes(Exception):
    """The first instruction is cut off by the end of the bytes given."""


DEFAULT_OPTIONS: Final = Options()


_SHORT: Final = 2
_PUSH: Final = b"\x68"
_NO_DISPLACEMENT: Final = bytes(4)
_EXIT_SIZE: Final = 2


class BlockTranslator:
    """Scans and translates blocks. Pure but for what the decoder keeps: the same arguments give the same bytes."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._trees = {code32: self._tree(code32) for code32 in (False, True)}

    def _tree(self, code32: bool) -> ShapeTree[Treatment]:
        return ShapeTree(lambda code: self._decoder.one(code, 0, code32), Treatment)

    def is_whole(self, code: bytes, code32: bool) -> bool:
        """Is the first instruction of `code` defined, and all of it there?"""
        return self._trees[code32].find(code, 0) is not None

    def keeps(self, code: bytes, code32: bool) -> bool:
        """Does the first instruction of `code` keep its bytes in every context?"""
        shape = self._trees[code32].find(code, 0)
        return shape is not None and shape.made.is_plain

    def memory_width(self, code: bytes, eip: int, code32: bool) -> int:
        """Bytes that the first instruction of `code` moves to or from memory."""
        insn = self._decoder.one(code, eip, code32)
        return 1 if insn is None else self._decoder.memory_width(insn)

    def instructions(self, made: Translation) -> list[Insn]:
        """The guest instructions of a block, for those who look at it."""
        found = list(self._decoder.decode(made.source, made.eip, made.code32))
        return found or [made.sites[0].insn]  # one byte that is no instruction

    def translate(
        self, source: bytes, eip: int, context: Context, window: Window, options: Options = DEFAULT_OPTIONS
    ) -> Translation:
        """Translate the block that starts with `source` at `eip`; `source` ends with its page.

        Raises: NeedsMoreBytes if the first instruction might go on behind `source`.
        """
        emit = Emitter(context, window)
        if options.self_check:
            size, _ = self._scan(Emitter(context, window), source, eip, options)
            check_source(emit, self.first(source, eip, context.code32), source[:size])
        size, count = self._scan(emit, source, eip, options)
        return emit.finish(eip, source[:size], count)

    def dispatcher(self, eip: int, context: Context, window: Window) -> Translation:
        """A block without a guest instruction: it goes to the code for `eip` through the branch table."""
        emit = Emitter(context, window)
        emit.begin(Insn(eip, b"", "", "", context.code32))
        jump_through_table(emit, eip)
        return emit.finish(eip, b"", 0)

    def _scan(self, emit: Emitter, source: bytes, eip: int, options: Options) -> tuple[int, int]:
        """Translate up to the end of the block: (bytes, instructions) that it has."""
        scan = _Scan(self, emit, source, eip, options)
        ends_in_transfer = scan.run()
        if scan.count == 0:
            if len(source) < MAX_LENGTH:
                raise NeedsMoreBytes
            _undefined(emit, self._no_instruction(source, eip, emit.context.code32))
            return 1, 1
        if not ends_in_transfer:
            emit.begin_end(scan.last(), eip + scan.at & MASK32)
            if options.step:
                emit.site(SiteKind.STEP_END)
            else:
                emit.jump(eip + scan.at)
        return scan.at, scan.count

    def first(self, source: bytes, eip: int, code32: bool) -> Insn:
        """The first instruction of `source`, which lies at `eip`."""
        shape = self._trees[code32].find(source, 0)
        if shape is None:
            return self._no_instruction(source, eip, code32)
        return Insn(eip, source[: shape.length], shape.mnemonic, None, code32)

    def _no_instruction(self, source: bytes, eip: int, code32: bool) -> Insn:
        """What is no instruction, or is longer than one may be: EIP and one byte to show."""
        name = OVERLONG if self._decoder.is_overlong(source, code32) else UNDEFINED
        return Insn(eip, source[:1], name, source[:MAX_LENGTH].hex(" "), code32)

    def tree(self, code32: bool) -> ShapeTree[Treatment]:
        """The shapes of 16- or 32-bit code."""
        return self._trees[code32]

    def stores(self, shape: Shape[Treatment], raw: bytes, code32: bool) -> bool:
        """Do instructions of a shape write memory? `raw` is one of them."""
        if shape.made.stores is None:
            shape.made.stores = stores(Insn(0, raw, shape.mnemonic, None, code32))
        return shape.made.stores


class _Scan:
    """One pass over a block: `at` bytes and `count` instructions are done, the last one began at `start`."""

    __slots__ = (
        "_code32", "_eip", "_emit", "_mnemonic", "_need", "_options", "_source", "_translator", "_tree", "at", "count",
        "start",
    )  # fmt: skip

    def __init__(self, translator: BlockTranslator, emit: Emitter, source: bytes, eip: int, options: Options) -> None:
        self._translator, self._emit, self._source, self._eip, self._options = translator, emit, source, eip, options
        self._code32 = emit.context.code32
        self._tree = translator.tree(self._code32)
        self._need = need_of(emit.context.segments, emit.context.code_limit)
        self._mnemonic = ""
        self.at = self.start = self.count = 0

    def run(self) -> bool:
        """Go on to the end of the block: does it end in a control transfer?"""
        while (shape := self._plain()) is not None:
            treatment = shape.made
            if treatment.branch and not self._need.everywhere and not self._emit.context.looks:
                self._branch(shape)
            else:
                self._special(shape)
            if treatment.ends and not (treatment.returns and self._continues()):
                return True
            raw = self._source[self.start : self.at]
            if self._is_full(treatment.casts_shadow) or (self._options.self_check and self._stores(shape, raw)):
                break
        return False

    def _continues(self) -> bool:
        """Behind a CALL: go on with what it returns to, if there is an instruction?"""
        options = self._options
        if options.self_check or self.count >= options.limit or self._tree.find(self._source, self.at) is None:
            return False
        self._emit.returns.append((len(self._emit.code), self._eip + self.at & MASK32))
        return True

    def _branch(self, shape: "Shape[Treatment]") -> None:
        """Jcc, JMP and CALL with a displacement, in 32-bit code: as `bt.branches` has them, in one go."""
        emit, at, treatment = self._emit, self.at, shape.made
        code = emit.code
        start, eip = len(code), self._eip + at & MASK32
        self.start, self._mnemonic = at, shape.mnemonic
        self.at = end = at + shape.length
        self.count += 1
        if emit.shadow_next:
            emit.shadowed.add(start)
            emit.shadow_next = False
        emit.positions.append((start, eip, ()))
        raw = self._source[at:end]
        follows = eip + shape.length & MASK32
        displacement = raw[1:] if shape.length == _SHORT else raw[-4:]
        if treatment.name == "call":
            code += _PUSH + follows.to_bytes(4, "little")
        code += treatment.branch + _NO_DISPLACEMENT
        place = (eip, raw, shape.mnemonic, True)
        target = follows + int.from_bytes(displacement, "little", signed=True) & MASK32
        emit.waiting.append((len(code) - 4, target, place, SiteKind.LINK))
        emit.changes.append((place, start, len(code)))

    def last(self) -> Insn:
        """The latest instruction."""
        return self._insn(self.start, self.at, self._mnemonic)

    def _insn(self, start: int, end: int, mnemonic: str) -> Insn:
        return Insn(self._eip + start & MASK32, self._source[start:end], mnemonic, None, self._code32)

    def _is_full(self, casts_shadow: bool) -> bool:
        return self.count >= self._options.limit and (self._options.limit == 1 or not casts_shadow)

    def _stores(self, shape: "Shape[Treatment]", raw: bytes) -> bool:
        return self._translator.stores(shape, raw, self._code32)

    def _plain(self) -> "Shape[Treatment] | None":
        """Copy instructions that keep their bytes; returns the shape of the first that does not, None at the end."""
        emit, source, options = self._emit, self._source, self._options
        find, append = self._tree.find, emit.positions.append
        at, count, eip = self.at, self.count, self._eip
        first = start = at
        to_code = len(emit.code) - at
        checks, probes, limit = options.self_check, options.probe_critical, options.limit
        everywhere, segments = self._need
        everywhere = everywhere or bool(emit.context.looks)
        while (shape := find(source, at)) is not None:
            treatment = shape.made
            if not treatment.is_plain and (probes or treatment.entry is not None):
                break
            if treatment.accesses and (everywhere or treatment.override in segments):
                break
            append((to_code + at, eip + at & MASK32, ()))
            start, latest = at, shape
            at += shape.length
            count += 1
            if count >= limit or (checks and self._stores(shape, source[start:at])):
                shape = None
                break
        if at > first:
            if emit.shadow_next:
                emit.shadowed.add(to_code + first)
                emit.shadow_next = False
            emit.code += source[first:at]
            self.start, self._mnemonic = start, latest.mnemonic
        self.at, self.count = at, count
        return shape

    def _special(self, shape: "Shape[Treatment]") -> None:
        """Translate an instruction that may not keep its bytes."""
        emit, options, treatment = self._emit, self._options, shape.made
        self.start, self._mnemonic = self.at, shape.mnemonic
        self.at += shape.length
        self.count += 1
        insn = self.last()
        emit.begin(insn)
        inline = options.inline and not options.step  # a step may be under TF, which only the VMM can show
        if inline and treatment.casts_shadow:
            inline = options.limit > 1 and self._tree.find(self._source, self.at) is not None
        entry = self._entry(treatment, insn, inline)
        start = len(emit.code)
        probed = options.probe_critical and treatment.is_sensitive and not treatment.ends
        probed = probed and not _only_leaves(emit, insn, entry)
        if probed:
            emit.site(SiteKind.TRACE)
            start = len(emit.code)
        if treatment.replays:
            emit.replay(insn, entry)
        else:
            entry(emit, insn)
        if not treatment.is_plain and emit.code[start:] != insn.raw:
            emit.changes.append((insn, start, len(emit.code)))
        if probed:
            emit.site(SiteKind.TRACE, 1)

    def _entry(self, treatment: Treatment, insn: Insn, inline: bool) -> Translator:
        """What translates an instruction, with the checks and looks that come first."""
        emit = self._emit
        entry = treatment.entry or verbatim
        if not inline and treatment.name not in BRANCHES:
            entry = never_inline(insn, entry) if _stays(emit, insn, entry) else callout
        is_looked_at = bool(treatment.accesses and emit.context.looks)
        is_branch = treatment.name in BRANCHES  # its operand is looked at before its target
        if is_looked_at and not is_branch:
            entry = looked_at(entry)
        if entry is not callout and (self._need.everywhere or treatment.override in self._need.segments):
            entry = checked(entry)
        if is_looked_at and is_branch:
            entry = looked_at(entry)
        return entry


def _undefined(emit: Emitter, insn: Insn) -> None:
    emit.begin(insn)
    emit.callout()
    emit.changes.append((insn, 0, len(emit.code)))


def _only_leaves(emit: Emitter, insn: Insn, entry: Translator) -> bool:
    """Does a translator make an exit of this instruction, and nothing else?"""
    trial = Emitter(emit.context, emit.window)
    trial.begin(insn)
    entry(trial, insn)
    return len(trial.sites) == 1 and trial.sites[0].offset == len(trial.code) == _EXIT_SIZE


def _stays(emit: Emitter, insn: Insn, entry: Translator) -> bool:
    """Does a translator keep this instruction in the cache?"""
    trial = Emitter(emit.context, emit.window)
    trial.begin(insn)
    entry(trial, insn)
    return all(site.kind is not SiteKind.CALLOUT for site in trial.sites)
