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
from bt.innocuous import INNOCUOUS
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
"""They end a block."""

NEWER: Final[Mapping[str, Translator]] = {"lzcnt": bit_scan, "tzcnt": bit_scan}
"""Encodings that mean something else on a newer processor, which the physical one may be."""

LEAVING: Final = frozenset(
    """
    arpl clts cpuid hlt in insb insd insw int int1 int3 into invd invlpg iret iretd lar lcall lgdt lidt ljmp
    lldt lmsw lsl ltr out outsb outsd outsw rdmsr rdpmc rdtsc retf rsm sysenter sysexit ud2 verr verw wbinvd
    wrmsr
    """.split()
)
"""They leave the cache."""

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
ENDS_BLOCK: Final = frozenset(BRANCHES) | LEAVING - {
    "cpuid",
    "in",
    "out",
    "rdtsc",
    "lar",
    "lsl",
    "verr",
    "verw",
    "arpl",
}
_PREFIX_WORDS: Final = frozenset(
    ("rep", "repe", "repne", "repz", "repnz", "lock", "notrack", "bnd", "data16", "addr32")
)


def name_of(insn: Insn) -> str:
    """The mnemonic without REP and LOCK."""
    mnemonic = insn.mnemonic
    if " " in mnemonic:
        mnemonic = mnemonic.rsplit(" ", 1)[-1]
    return mnemonic


class BlockTranslator:
    """Scans and translates blocks. Pure but for Capstone's own state: the same arguments give the same bytes."""

    def __init__(self) -> None:
        self._decoder = Decoder()

    def decode_one(self, code: bytes, eip: int, code32: bool) -> Insn | None:
        """The first instruction of `code`, or None if it is undefined or cut off."""
        return self._decoder.one(code, eip, code32)

    def memory_width(self, code: bytes, eip: int, code32: bool) -> int:
        """Bytes that the first instruction of `code` moves to or from memory."""
        insn = self._decoder.one(code, eip, code32)
        return 1 if insn is None else self._decoder.memory_width(insn)

    def scan(self, source: bytes, eip: int, context: Context, options: Options) -> tuple[list[Insn], bool]:
        """The instructions of a block, and whether it ends in a control transfer.

        Raises: NeedsMoreBytes if the first instruction might go on behind `source`.
        """
        insns: list[Insn] = []
        for insn in self._decoder.decode(source, eip, context.code32):
            insns.append(insn)
            name = name_of(insn)
            if name in ENDS_BLOCK or (name not in TABLE and name not in INNOCUOUS):
                return insns, True
            full = len(insns) >= options.limit and (options.limit == 1 or not casts_shadow(insn))
            if full or (options.self_check and self._decoder.writes_memory(insn)):
                return insns, False
        if insns:
            return insns, False
        if len(source) < MAX_LENGTH:
            raise NeedsMoreBytes
        return [no_instruction(source, eip, context)], True

    def translate(
        self, source: bytes, eip: int, context: Context, window: Window, options: Options = DEFAULT_OPTIONS
    ) -> Translation:
        """Translate the block that starts with `source` at `eip`; `source` ends with its page."""
        insns, transfers = self.scan(source, eip, context, options)
        emit = Emitter(context, window)
        size = sum(len(insn.raw) for insn in insns)
        if options.self_check:
            _check_source(emit, insns, source[:size])
        inline = options.inline and not options.step  # a step may be under TF, which only the VMM can show
        for insn in insns:
            emit.begin(insn)
            reaches_out = insn is insns[-1] and not transfers and casts_shadow(insn)
            self._one(emit, insn, options, inline and not reaches_out)
        if options.step:
            emit.begin_end(insns[-1])
            emit.site(SiteKind.STEP_END)
        elif not transfers:
            emit.begin_end(insns[-1])
            emit.jump(insns[-1].next_eip)
        return emit.finish(tuple(insns), size)

    def _one(self, emit: Emitter, insn: Insn, options: Options, inline: bool) -> None:
        name = name_of(insn)
        entry = TABLE.get(name)
        if entry is None:
            if name in INNOCUOUS:
                emit.raw(insn.raw)
            else:
                emit.callout()
            return
        start = len(emit.code)
        if not inline and name not in BRANCHES:
            entry = _never_inline(insn, entry)
        probed = options.probe_critical and is_sensitive(insn, name) and _stays(emit, insn, entry)
        if probed:
            emit.site(SiteKind.TRACE)
            start = len(emit.code)
        entry(emit, insn)
        if entry is not verbatim and bytes(emit.code[start:]) != insn.raw:
            emit.rewritten.append((insn, start, len(emit.code)))
        if probed:
            emit.site(SiteKind.TRACE, 1)


_SYSTEM_MOVES: Final = frozenset((0x8C, 0x8E, 0x0F20, 0x0F21, 0x0F22, 0x0F23))
_SEGMENT_STACK: Final = frozenset((0x06, 0x0E, 0x16, 0x1E, 0x0FA0, 0x0FA8, 0x07, 0x17, 0x1F, 0x0FA1, 0x0FA9))


def is_sensitive(insn: Insn, name: str) -> bool:
    """Critical or privileged in this very form: MOV, PUSH and POP only where they name a segment or system register."""
    if name == "mov":
        return insn.opcode in _SYSTEM_MOVES
    if name in ("push", "pop"):
        return insn.opcode in _SEGMENT_STACK
    return name in INLINE or name in LEAVING or name in PARTLY


CRITICAL_NAMES: Final = frozenset((*INLINE, *LEAVING, "mov", "pop"))


def _stays(emit: Emitter, insn: Insn, entry: Translator) -> bool:
    """Does a translator keep this instruction in the cache?"""
    trial = Emitter(emit.context, emit.window)
    trial.begin(insn)
    entry(trial, insn)
    return all(site.kind is not SiteKind.CALLOUT for site in trial.sites)


def _never_inline(insn: Insn, entry: Translator) -> Translator:
    """With inlining off, what would stay in the cache in rewritten form leaves it, and so does what casts a shadow."""
    return callout if insn.mnemonic in INLINE or insn.opcode == 0x0F20 or _shadows_by_ss(insn) else entry


def no_instruction(source: bytes, eip: int, context: Context) -> Insn:
    """What is no instruction, or has so many prefixes that it is longer than one may be: EIP and one byte to show."""
    window = source[:MAX_LENGTH]
    name = OVERLONG if all(byte in LEGACY_PREFIXES for byte in window) else "(undefined)"
    return Insn(eip, window[:1], name, window.hex(" "), context.code32)


_WORD: Final = 4
_FLAGS_TO_AX: Final = "mov ecx, eax\nlahf\nseto al"
_FLAGS_FROM_AX: Final = "add al, 0x7f\nsahf\nmov eax, ecx\nmov ecx, dword ptr cs:[{S0}]"


def _check_source(emit: Emitter, insns: list[Insn], source: bytes) -> None:
    """Compare the block's source with what was translated; leave by a STALE exit if it changed.

    Comparing with CMP takes saving the flags, but JNE chains in the engine, where JECXZ leaves for its main loop each
    time. The first and the last byte are read beforehand: what could fault must do it while the flags are the guest's.
    """
    first = insns[0].eip
    emit.insn = insns[0]
    emit.starts[0] = first
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
