"""The translator: guest bytes in, a block out.

A block is scanned until a control transfer, the end of its page, or `limit` instructions. Innocuous instructions keep
their bytes. The table below says what becomes of every other one; what neither list knows is #UD on this processor.

The critical instructions of Robin and Irvine, and why some of them may stay: MOV and PUSH of a segment register show
the selector in the hidden register, and there the VMM keeps the guest's own, RPL included. MOV and POP *to* a segment
register load natively in real mode and V86 (which run in physical V86), and leave the cache in protected mode.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bt import branches, sensitive
from bt.decode import LEGACY_PREFIXES, MAX_LENGTH, Decoder, Insn
from bt.emit import S0, Emitter, SiteKind, Translation
from bt.guest import Context, Mode, Window
from bt.innocuous import INNOCUOUS, MMX_AND_SSE
from bt.shapes import Shape, ShapeTree
from vmm.arch.layout import MASK32
from vmm.arch.registers import Reg

Translator = Callable[[Emitter, Insn], None]

BLOCK_LIMIT: Final = 48
_SS: Final = 2
_POP_SS: Final = 0x17
_LSS: Final = 0x0FB2
_STI: Final = 0xFB
OVERLONG: Final = "(overlong)"
_STRING_OPCODES: Final = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))


@dataclass(frozen=True, slots=True)
class Options:
    """How to translate one block.

    `limit` instructions at the most; `step`: the block runs one instruction and ends in a STEP_END exit; `self_check`:
    it compares its source bytes on entry and ends after every store; `inline` False makes every sensitive
    instruction a callout; `probe_critical` puts TRACE sites round each sensitive instruction that stays in the cache.
    """

    limit: int = BLOCK_LIMIT
    step: bool = False
    self_check: bool = False
    inline: bool = True
    probe_critical: bool = False


class NeedsMoreBytes(Exception):
    """The first instruction is cut off by the end of the bytes given."""


DEFAULT_OPTIONS: Final = Options()


def verbatim(emit: Emitter, insn: Insn) -> None:
    """The same bytes: what a register, memory or the unprivileged flags can show is the guest's own."""
    emit.raw(insn.raw)


def callout(emit: Emitter, insn: Insn) -> None:
    """Leave the cache; the VMM has the semantics."""
    emit.callout()


def move(emit: Emitter, insn: Insn) -> None:
    """MOV: innocuous but for segment, control and debug registers (SDM Vol. 2B, "MOV - Move")."""
    opcode = insn.opcode
    if opcode == 0x8E:
        load_segment(emit, insn)
    elif opcode == 0x0F20:
        sensitive.move_from_control(emit, insn)
    elif opcode in (0x0F21, 0x0F22, 0x0F23, 0x0F24, 0x0F26):
        emit.callout()
    else:
        verbatim(emit, insn)


def pop(emit: Emitter, insn: Insn) -> None:
    """POP: innocuous but for segment registers (SDM Vol. 2B, "POP - Pop a Value from the Stack")."""
    if insn.opcode in (0x07, _POP_SS, 0x1F, 0x0FA1, 0x0FA9):
        load_segment(emit, insn)
    else:
        verbatim(emit, insn)


def _shadows_by_ss(insn: Insn) -> bool:
    """MOV SS and POP SS, not LSS: they hold interrupts and debug traps back for one instruction."""
    return insn.opcode == _POP_SS or (insn.opcode == 0x8E and insn.modrm >> 3 & 7 == _SS)


def casts_shadow(insn: Insn) -> bool:
    """Does it hold interrupts back until the next instruction is done? (SDM Vol. 2B, "STI", "MOV - Move", "POP")"""
    return insn.opcode == _STI or _shadows_by_ss(insn)


def repeats(insn: Insn) -> bool:
    """A string instruction with REP, REPE or REPNE; elsewhere these prefixes mean something else, or nothing."""
    return bool(insn.repeat) and (insn.opcode in _STRING_OPCODES)


def load_segment(emit: Emitter, insn: Insn) -> None:
    """MOV, POP, LDS.. to a segment register: native in physical V86, a callout in protected mode.

    A load of SS holds interrupts back until the next instruction is done. MOV CS is #UD. With SS.B set in real mode the
    native load would clear it (V86 semantics), so the VMM does it.
    """
    to_ss = insn.opcode == _LSS or _shadows_by_ss(insn)
    to_cs = insn.opcode == 0x8E and insn.modrm >> 3 & 7 == 1
    emit.shadow_next = _shadows_by_ss(insn)
    if emit.context.mode is Mode.PROTECTED or to_cs or (to_ss and emit.context.stack32):
        emit.callout()
    else:
        verbatim(emit, insn)


def bit_scan(emit: Emitter, insn: Insn) -> None:
    """TZCNT, LZCNT: a processor that has neither ignores their F3 prefix and runs BSF, BSR.

    Source: SDM Vol. 2B, "TZCNT - Count the Number of Trailing Zero Bits".
    """
    emit.raw(insn.prefixes.replace(b"\xf3", b"") + insn.raw[len(insn.prefixes) :])


def jump(emit: Emitter, insn: Insn) -> None:
    """JMP: relative, indirect, far."""
    if insn.opcode in (0xE9, 0xEB):
        branches.jump_relative(emit, insn)
    elif insn.opcode == 0xFF and insn.modrm >> 3 & 7 == 4:
        branches.jump_indirect(emit, insn)
    else:
        emit.callout()


def call(emit: Emitter, insn: Insn) -> None:
    """CALL: relative, indirect, far."""
    if insn.opcode == 0xE8:
        branches.call_relative(emit, insn)
    elif insn.opcode == 0xFF and insn.modrm >> 3 & 7 == 2:
        branches.call_indirect(emit, insn)
    else:
        emit.callout()


_CONDITIONS: Final = "jo jno jb jae je jne jbe ja js jns jp jnp jl jge jle jg".split()

CRITICAL: Final = tuple(
    "sgdt sidt sldt smsw pushf popf lar lsl verr verw pop push call jmp int ret str mov iret".split()
)
"""Robin and Irvine's list, eighteen mnemonics, and IRET, which is silent when it returns to the same ring."""

INLINE: Final[Mapping[str, Translator]] = {
    "cli": sensitive.cli,
    "invlpg": sensitive.invlpg,
    "iretd": sensitive.iretd,
    "pushf": sensitive.pushf,
    "pushfd": sensitive.pushf,
    "popf": sensitive.popf,
    "popfd": sensitive.popf,
    "sgdt": sensitive.sgdt,
    "sidt": sensitive.sidt,
    "sldt": sensitive.sldt,
    "smsw": sensitive.smsw,
    "sti": sensitive.sti,
    "str": sensitive.store_task_register,
}
"""Sensitive instructions that stay in the cache wherever nothing has to be decided."""

PARTLY: Final[Mapping[str, Translator]] = {
    "lds": load_segment,
    "les": load_segment,
    "lfs": load_segment,
    "lgs": load_segment,
    "lss": load_segment,
    "mov": move,
    "pop": pop,
    "push": verbatim,
}
"""Innocuous in most forms; the forms that name system or segment registers are sensitive."""

BRANCHES: Final[Mapping[str, Translator]] = {
    "call": call,
    "jmp": jump,
    "ret": branches.return_near,
    **dict.fromkeys(_CONDITIONS, branches.jump_conditional),
    **dict.fromkeys(("loop", "loope", "loopne", "jcxz", "jecxz"), branches.loop),
}
"""They end a block, but for the conditional jumps, behind which it goes on."""

NEWER: Final[Mapping[str, Translator]] = {"lzcnt": bit_scan, "tzcnt": bit_scan}
"""Encodings that mean something else on a newer processor, which the physical one may be."""

LEAVING: Final = frozenset(
    """
    arpl clts cpuid hlt in insb insd insw int int1 int3 into invd iret lar lcall lgdt lidt ljmp
    lldt lmsw lsl ltr out outsb outsd outsw rdmsr rdpmc rdtsc retf rsm sysenter sysexit ud2 verr verw wbinvd
    wrmsr
    """.split()
)
"""They leave the cache."""

_FWAIT: Final = b"\x9b"
_NOT_WAITING: Final = frozenset("fnclex fninit fnsave fnstcw fnstenv fnstsw fdisi8087_nop feni8087_nop fsetpm".split())
_SIMD_PREFIXES: Final = frozenset(b"\x66\xf2\xf3")
_USES_MMX: Final = frozenset("emms movd movq movntq maskmovq cvtpi2ps cvtps2pi cvttps2pi".split())


def waits(insn: Insn) -> bool:
    """Is it an x87 instruction that waits for a pending error, or one on MMX registers?

    Source: SDM Vol. 1, "x87 FPU Exception Synchronization"; Vol. 3A, "Effect of MMX Instructions on Pending x87
    Floating-Point Exceptions".
    """
    if 0xD8 <= insn.opcode <= 0xDF:
        return insn.name not in _NOT_WAITING
    on_mmx = insn.name in _USES_MMX or (insn.name[0] == "p" and insn.name in MMX_AND_SSE)
    return on_mmx and insn.opcode >= 0x0F00 and _SIMD_PREFIXES.isdisjoint(insn.prefixes)


def wait_first(emit: Emitter, insn: Insn) -> None:
    """FWAIT, then the same bytes: the engine looks for a pending x87 error (#MF) at FWAIT alone.

    FWAIT faults where the instruction itself would (#NM with CR0.TS and CR0.MP), or not at all.
    """
    emit.raw(_FWAIT + insn.raw)


_CMC_TWICE: Final = b"\xf5\xf5"
_NOT_GROUP: Final = 2


def set_condition(emit: Emitter, insn: Insn) -> None:
    """SETcc: the same bytes; for memory, once the engine's lazy flags are computed.

    The engine computes them inside this instruction before it touches memory, and forgets that it did when the access
    faults: after a page fault, hidden or not, it would run again with other flags. CMC twice leaves no flag lazy and
    changes none. Source: SDM Vol. 2B, "SETcc - Set Byte on Condition".
    """
    if not insn.is_register_form:
        emit.raw(_CMC_TWICE)
    verbatim(emit, insn)


def rotate_through_carry(emit: Emitter, insn: Insn) -> None:
    """RCL, RCR: the same bytes; for memory, once its page is sure to take them.

    The engine changes CF before it stores the result, so that a fault at the store would let the instruction run again
    with the wrong CF. NOT twice needs the same rights, changes nothing, and can begin again.
    Source: SDM Vol. 2B, "RCL/RCR/ROL/ROR - Rotate"; "NOT": no flags affected.
    """
    if not insn.is_register_form:
        emit.raw((insn.prefixes + bytes([0xF6 | insn.opcode & 1]) + insn.memory.with_reg(_NOT_GROUP)) * 2)
    verbatim(emit, insn)


def compare_exchange_8(emit: Emitter, insn: Insn) -> None:
    """CMPXCHG8B: the same bytes in an engine block of its own, after CMC twice.

    The engine keeps the flags other than ZF as they were when its block began, not as they are.
    Source: SDM Vol. 2A, "CMPXCHG8B": CF, PF, AF, SF and OF are unaffected.
    """
    emit.raw(_CMC_TWICE + (b"\xeb\x00" if emit.context.code32 else b"\x66\xeb\x00"))
    verbatim(emit, insn)


def test(emit: Emitter, insn: Insn) -> None:
    """TEST: F6 /1 and F7 /1, which processors execute as /0, spelt /0; the engine knows one of them."""
    if insn.opcode in (0xF6, 0xF7) and insn.modrm >> 3 & 7 == 1:
        at = len(insn.prefixes) + 1
        emit.raw(insn.raw[:at] + bytes([insn.modrm & ~0x38]) + insn.raw[at + 1 :])
    else:
        verbatim(emit, insn)


ENGINE_FLAWS: Final[Mapping[str, Translator]] = {
    "test": test,
    "cmpxchg8b": compare_exchange_8,
    "rcl": rotate_through_carry,
    "rcr": rotate_through_carry,
    **{f"set{condition[1:]}": set_condition for condition in _CONDITIONS},
}
"""Innocuous, but for what the engine makes of them."""

TABLE: Final[Mapping[str, Translator]] = {
    **ENGINE_FLAWS,
    **INLINE,
    **PARTLY,
    **BRANCHES,
    **NEWER,
    **dict.fromkeys(LEAVING, callout),
}
ENDS_BLOCK: Final = (
    frozenset(BRANCHES) - frozenset(_CONDITIONS)
    | {"iretd"}
    | LEAVING
    - {
        "clts",
        "cpuid",
        "lgdt",
        "lidt",
        "rdmsr",
        "wbinvd",
        "wrmsr",
        "in",
        "out",
        "rdtsc",
        "lar",
        "lsl",
        "verr",
        "verw",
        "arpl",
    }
)


def name_of(insn: Insn) -> str:
    """The mnemonic without REP and LOCK."""
    return insn.name


_BRANCH: Final = {0xE8: b"\xe9", 0xE9: b"\xe9", 0xEB: b"\xe9"}
_SHORT: Final = 2
_PUSH: Final = b"\x68"
_NO_DISPLACEMENT: Final = bytes(4)


class _Treatment:
    """What becomes of every instruction of one shape.

    `entry` None: its own bytes. `ends`: it ends a block. `replays`: its code does not depend on its EIP. `stores`: it
    writes memory, None as long as nobody has asked. `branch`: a direct branch in 32-bit code, and the opcode of its
    rel32 form.
    """

    __slots__ = ("branch", "casts_shadow", "ends", "entry", "is_plain", "is_sensitive", "name", "replays", "stores")

    def __init__(self, insn: Insn) -> None:
        self.name = name = name_of(insn)
        entry = TABLE.get(name)
        if entry is None:
            entry = callout if name not in INNOCUOUS else wait_first if waits(insn) else None
        elif _keeps_its_bytes(insn, name):
            entry = None
        self.entry = entry
        self.ends = name in ENDS_BLOCK or (name not in TABLE and name not in INNOCUOUS)
        self.casts_shadow = casts_shadow(insn)
        self.is_sensitive = is_sensitive(insn, name)
        self.is_plain = entry is None and not self.is_sensitive
        self.replays = name not in BRANCHES or name == "ret"
        self.stores: bool | None = None
        self.branch = b""
        if insn.code32 and not insn.prefixes:
            is_conditional = name in _CONDITIONS
            self.branch = bytes([0x0F, 0x80 | insn.opcode & 0xF]) if is_conditional else _BRANCH.get(insn.opcode, b"")


class BlockTranslator:
    """Scans and translates blocks. Pure but for what the decoder keeps: the same arguments give the same bytes."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._trees = {code32: self._tree(code32) for code32 in (False, True)}

    def _tree(self, code32: bool) -> ShapeTree[_Treatment]:
        return ShapeTree(lambda code: self._decoder.one(code, 0, code32), _Treatment)

    def decode_one(self, code: bytes, eip: int, code32: bool) -> Insn | None:
        """The first instruction of `code`, or None if it is undefined or cut off."""
        return self._decoder.one(code, eip, code32)

    def is_whole(self, code: bytes, code32: bool) -> bool:
        """Is the first instruction of `code` defined, and all of it there?"""
        return self._trees[code32].find(code, 0) is not None

    def memory_width(self, code: bytes, eip: int, code32: bool) -> int:
        """Bytes that the first instruction of `code` moves to or from memory."""
        insn = self._decoder.one(code, eip, code32)
        return 1 if insn is None else self._decoder.memory_width(insn)

    def instructions(self, made: Translation) -> list[Insn]:
        """The guest instructions of a block, for those who look at it."""
        found = list(self._decoder.decode(made.source, made.eip, made.code32))
        return found or [no_instruction(made.source, made.eip, made.code32)]

    def translate(
        self, source: bytes, eip: int, context: Context, window: Window, options: Options = DEFAULT_OPTIONS
    ) -> Translation:
        """Translate the block that starts with `source` at `eip`; `source` ends with its page.

        Raises: NeedsMoreBytes if the first instruction might go on behind `source`.
        """
        emit = Emitter(context, window)
        if options.self_check:
            size, _ = self._scan(Emitter(context, window), source, eip, options)
            _check_source(emit, self._first(source, eip, context.code32), source[:size])
        size, count = self._scan(emit, source, eip, options)
        return emit.finish(eip, source[:size], count)

    def _scan(self, emit: Emitter, source: bytes, eip: int, options: Options) -> tuple[int, int]:
        """Translate up to the end of the block: (bytes, instructions) that it has."""
        scan = _Scan(self, emit, source, eip, options)
        ends_in_transfer = scan.run()
        if scan.count == 0:
            if len(source) < MAX_LENGTH:
                raise NeedsMoreBytes
            _undefined(emit, no_instruction(source, eip, emit.context.code32))
            return 1, 1
        if not ends_in_transfer:
            emit.begin_end(scan.last(), eip + scan.at & MASK32)
            if options.step:
                emit.site(SiteKind.STEP_END)
            else:
                emit.jump(eip + scan.at)
        return scan.at, scan.count

    def _first(self, source: bytes, eip: int, code32: bool) -> Insn:
        shape = self._trees[code32].find(source, 0)
        if shape is None:
            return no_instruction(source, eip, code32)
        return Insn(eip, source[: shape.length], shape.mnemonic, None, code32)

    def find(self, source: bytes, at: int, code32: bool) -> Shape[_Treatment] | None:
        """The shape of the instruction at an offset, or None if it is undefined or cut off."""
        return self._trees[code32].find(source, at)

    def tree(self, code32: bool) -> ShapeTree[_Treatment]:
        """The shapes of 16- or 32-bit code."""
        return self._trees[code32]

    def stores(self, shape: Shape[_Treatment], raw: bytes, code32: bool) -> bool:
        """Do instructions of a shape write memory? `raw` is one of them."""
        if shape.made.stores is None:
            shape.made.stores = self._decoder.writes_memory(Insn(0, raw, shape.mnemonic, None, code32))
        return shape.made.stores


class _Scan:
    """One pass over a block: `at` bytes and `count` instructions are done, the last one began at `start`."""

    __slots__ = (
        "_code32", "_eip", "_emit", "_mnemonic", "_options", "_source", "_translator", "_tree", "at", "count", "start",
    )  # fmt: skip

    def __init__(self, translator: BlockTranslator, emit: Emitter, source: bytes, eip: int, options: Options) -> None:
        self._translator, self._emit, self._source, self._eip, self._options = translator, emit, source, eip, options
        self._code32 = emit.context.code32
        self._tree = translator.tree(self._code32)
        self._mnemonic = ""
        self.at = self.start = self.count = 0

    def run(self) -> bool:
        """Go on to the end of the block: does it end in a control transfer?"""
        while (shape := self._plain()) is not None:
            treatment = shape.made
            if treatment.branch:
                self._branch(shape)
            else:
                self._special(shape)
            if treatment.ends:
                return True
            raw = self._source[self.start : self.at]
            if self._is_full(treatment.casts_shadow) or (self._options.self_check and self._stores(shape, raw)):
                break
        return False

    def _branch(self, shape: "Shape[_Treatment]") -> None:
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
        emit.waiting.append((len(code) - 4, target, place))
        emit.changes.append((place, start, len(code)))

    def last(self) -> Insn:
        """The latest instruction."""
        return self._insn(self.start, self.at, self._mnemonic)

    def _insn(self, start: int, end: int, mnemonic: str) -> Insn:
        return Insn(self._eip + start & MASK32, self._source[start:end], mnemonic, None, self._code32)

    def _is_full(self, casts_shadow: bool) -> bool:
        return self.count >= self._options.limit and (self._options.limit == 1 or not casts_shadow)

    def _stores(self, shape: "Shape[_Treatment]", raw: bytes) -> bool:
        return self._translator.stores(shape, raw, self._code32)

    def _plain(self) -> "Shape[_Treatment] | None":
        """Copy instructions that keep their bytes; returns the shape of the first that does not, None at the end."""
        emit, source, options = self._emit, self._source, self._options
        find, append = self._tree.find, emit.positions.append
        at, count, eip = self.at, self.count, self._eip
        first = start = at
        to_code = len(emit.code) - at
        checks, probes, limit = options.self_check, options.probe_critical, options.limit
        while (shape := find(source, at)) is not None:
            treatment = shape.made
            if not treatment.is_plain and (probes or treatment.entry is not None):
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

    def _special(self, shape: "Shape[_Treatment]") -> None:
        """Translate an instruction that may not keep its bytes."""
        emit, options, treatment = self._emit, self._options, shape.made
        self.start, self._mnemonic = self.at, shape.mnemonic
        self.at += shape.length
        self.count += 1
        insn = self.last()
        emit.begin(insn)
        inline = options.inline and not options.step  # a step may be under TF, which only the VMM can show
        if inline and treatment.casts_shadow:
            inline = options.limit > 1 and self._translator.find(self._source, self.at, self._code32) is not None
        entry = treatment.entry or verbatim
        if not inline and treatment.name not in BRANCHES:
            entry = _never_inline(insn, entry)
        start = len(emit.code)
        probed = options.probe_critical and treatment.is_sensitive and _stays(emit, insn, entry)
        if probed:
            emit.site(SiteKind.TRACE)
            start = len(emit.code)
        if treatment.replays:
            emit.replay(insn, entry)
        else:
            entry(emit, insn)
        if emit.code[start:] != insn.raw:
            emit.changes.append((insn, start, len(emit.code)))
        if probed:
            emit.site(SiteKind.TRACE, 1)


def _undefined(emit: Emitter, insn: Insn) -> None:
    emit.begin(insn)
    emit.callout()
    emit.changes.append((insn, 0, len(emit.code)))


_SYSTEM_MOVES: Final = frozenset((0x8C, 0x8E, 0x0F20, 0x0F21, 0x0F22, 0x0F23))
_MOV_FROM_SEGMENT: Final = 0x8C
_FLAWED_IN_MEMORY: Final = frozenset(("rcl", "rcr", *(f"set{condition[1:]}" for condition in _CONDITIONS)))
_SEGMENT_STACK: Final = frozenset((0x06, 0x0E, 0x16, 0x1E, 0x0FA0, 0x0FA8, 0x07, 0x17, 0x1F, 0x0FA1, 0x0FA9))


def is_sensitive(insn: Insn, name: str) -> bool:
    """Critical or privileged in this very form: MOV, PUSH and POP only where they name a segment or system register."""
    if name == "mov":
        return insn.opcode in _SYSTEM_MOVES
    if name in ("push", "pop"):
        return insn.opcode in _SEGMENT_STACK
    return name in INLINE or name in LEAVING or name in PARTLY


CRITICAL_NAMES: Final = frozenset((*INLINE, *LEAVING, "mov", "pop"))


def _keeps_its_bytes(insn: Insn, name: str) -> bool:
    """Do tables name this mnemonic for the sake of other forms of it?"""
    if name == "push":
        return True
    if name in ("mov", "pop"):
        return not is_sensitive(insn, name) or insn.opcode == _MOV_FROM_SEGMENT
    if name == "test":
        return not (insn.opcode in (0xF6, 0xF7) and insn.modrm >> 3 & 7 == 1)
    return name in _FLAWED_IN_MEMORY and insn.is_register_form


def _stays(emit: Emitter, insn: Insn, entry: Translator) -> bool:
    """Does a translator keep this instruction in the cache?"""
    trial = Emitter(emit.context, emit.window)
    trial.begin(insn)
    entry(trial, insn)
    return all(site.kind is not SiteKind.CALLOUT for site in trial.sites)


def _never_inline(insn: Insn, entry: Translator) -> Translator:
    """With inlining off, what would stay in the cache in rewritten form leaves it, and so does what casts a shadow."""
    return callout if insn.mnemonic in INLINE or insn.opcode == 0x0F20 or _shadows_by_ss(insn) else entry


def no_instruction(source: bytes, eip: int, code32: bool) -> Insn:
    """What is no instruction, or has so many prefixes that it is longer than one may be: EIP and one byte to show."""
    window = source[:MAX_LENGTH]
    name = OVERLONG if all(byte in LEGACY_PREFIXES for byte in window) else "(undefined)"
    return Insn(eip, window[:1], name, window.hex(" "), code32)


_WORD: Final = 4
_FLAGS_TO_AX: Final = "mov ecx, eax\nlahf\nseto al"
_FLAGS_FROM_AX: Final = "add al, 0x7f\nsahf\nmov eax, ecx\nmov ecx, dword ptr cs:[{S0}]"


def _check_source(emit: Emitter, first_insn: Insn, source: bytes) -> None:
    """Compare the block's source with what was translated; leave by a STALE exit if it changed.

    Comparing with CMP takes saving the flags, but JNE chains in the engine, where JECXZ leaves for its main loop each
    time. The first and the last byte are read beforehand: what could fault must do it while the flags are the guest's.
    """
    first = first_insn.eip
    emit.insn = first_insn
    emit.mark()
    emit.emit("mov dword ptr cs:[{S0}], ecx")
    emit.mark((Reg.ECX, S0))
    for at in (0, len(source) - 1):
        emit.emit("movzx ecx, byte ptr cs:[{at}]", at=first + at)
    emit.emit(_FLAGS_TO_AX)
    changed = [_compare_source(emit, first, source, at) for at in _pieces(len(source))]
    same = emit.forward(b"\xe9")
    for branch in changed:
        emit.here(branch)
    emit.emit(_FLAGS_FROM_AX)
    emit.site(SiteKind.STALE)
    emit.here(same)
    emit.emit(_FLAGS_FROM_AX)


def _pieces(size: int) -> list[int]:
    """Where the words begin that cover `size` bytes, the last one overlapping; fewer bytes than a word are compared
    one by one."""
    if size < _WORD:
        return list(range(size))
    return [*range(0, size - _WORD, _WORD), size - _WORD]


def _compare_source(emit: Emitter, first: int, source: bytes, at: int) -> int:
    """Compare one piece; returns the branch that is taken when it differs."""
    if len(source) < _WORD:
        emit.emit("cmp byte ptr cs:[{at}], 0", at=first + at)
        emit.code[-1] = source[at]
    else:
        expected = int.from_bytes(source[at : at + _WORD], "little")
        emit.emit("cmp dword ptr cs:[{at}], {expected}", at=first + at, expected=expected)
    return emit.forward(b"\x0f\x85")
