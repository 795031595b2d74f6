"""What becomes of each instruction: one table for each family, and the functions in them.

Innocuous instructions keep their bytes. The tables say what becomes of every other one; what neither list knows is #UD
on this processor.

The critical instructions of Robin and Irvine, and why some of them may stay: MOV and PUSH of a segment register show
the selector in the hidden register, and there the VMM keeps the guest's own, RPL included. MOV and POP *to* a segment
register load natively in real mode and V86 (which run in physical V86); in protected mode see `bt.segment_loads`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from bt import answers, branches, rights, sensitive
from bt.accesses import accesses
from bt.decode import Insn
from bt.emit import Emitter
from bt.fpu_state import STATES, fpu_state
from bt.guest import Context, Mode, Window
from bt.innocuous import INNOCUOUS, MMX_AND_SSE
from bt.lock import misplaces_lock
from bt.segment_loads import SEGMENT_POPS, load_segment, shadows_by_ss
from bt.simd import is_special, simd
from bt.stack_frames import enter

Translator = Callable[[Emitter, Insn], None]

_STI: Final = 0xFB
_STRING_OPCODES: Final = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))


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
    if insn.opcode in SEGMENT_POPS:
        load_segment(emit, insn)
    else:
        verbatim(emit, insn)


def casts_shadow(insn: Insn) -> bool:
    """Does it hold interrupts back until the next instruction is done? (SDM Vol. 2B, "STI", "MOV - Move", "POP")"""
    return insn.opcode == _STI or shadows_by_ss(insn)


def repeats(insn: Insn) -> bool:
    """A string instruction with REP, REPE or REPNE; elsewhere these prefixes mean something else, or nothing."""
    return bool(insn.repeat) and (insn.opcode in _STRING_OPCODES)


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

PRIVILEGED: Final = tuple(
    "lgdt lldt ltr lidt mov lmsw clts invd wbinvd invlpg hlt rdmsr wrmsr rdpmc rdtsc sysexit".split()
)
"""#GP at any CPL but 0 (SDM Vol. 3A, "Privileged Instructions"); MOV to and from control and debug registers."""

IOPL_SENSITIVE: Final = ("cli", "sti", "in", "ins", "out", "outs")
"""#GP at a CPL above IOPL (SDM Vol. 1, "I/O Privilege Level"); IN and OUT unless the permission map lets them pass."""

INLINE: Final[Mapping[str, Translator]] = {
    "cli": sensitive.cli,
    "cpuid": answers.cpuid,
    "invlpg": sensitive.invlpg,
    "iretd": sensitive.iretd,
    "lar": rights.lar,
    "lsl": rights.lsl,
    "pushf": sensitive.pushf,
    "pushfd": sensitive.pushf,
    "popf": sensitive.popf,
    "popfd": sensitive.popf,
    "rdtsc": answers.rdtsc,
    "sgdt": sensitive.sgdt,
    "sidt": sensitive.sidt,
    "sldt": sensitive.sldt,
    "smsw": sensitive.smsw,
    "sti": sensitive.sti,
    "str": sensitive.store_task_register,
    "verr": rights.verr,
    "verw": rights.verw,
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
    arpl clflush clts hlt in insb insd insw int int1 int3 into invd iret lcall lgdt lidt ljmp
    lldt lmsw ltr out outsb outsd outsw rdmsr rdpmc retf rsm sysenter sysexit ud2 wbinvd
    wrmsr
    """.split()
)
"""They leave the cache."""
_LOOKED_AT: Final = ("clflush",)
"""They leave for what the engine does not check, and tell nothing."""

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
    on_mmx = insn.name in _USES_MMX or (
        insn.name[0] == "p" and insn.name in MMX_AND_SSE and not insn.name.startswith("prefetch")
    )
    return on_mmx and insn.opcode >= 0x0F00 and _SIMD_PREFIXES.isdisjoint(insn.prefixes)


def wait_first(emit: Emitter, insn: Insn) -> None:
    """FWAIT, then the same bytes: the engine looks for a pending x87 error (#MF) at FWAIT alone.

    FWAIT faults where the instruction itself would (#NM with CR0.TS and CR0.MP), or not at all.
    """
    emit.raw(_FWAIT + insn.raw)


_CMC_TWICE: Final = b"\xf5\xf5"
_NOP: Final = b"\x90"
_NOT_GROUP: Final = 2
_BY_IMMEDIATE: Final = (0xC0, 0xC1)
_BY_ONE: Final = 0x10  # D0h and D1h
_COUNTS: Final = 32


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
    """RCL, RCR: by an immediate in two steps, the last of them by 1; for memory, once its page is sure to take them.

    The engine changes CF before it stores the result, so that a fault at the store would let the instruction run again
    with the wrong CF. NOT twice needs the same rights, changes nothing, and can begin again. OF is defined for a
    rotation by 1 alone; processors set it to what the last step would, the engine to something else.
    Source: SDM Vol. 2B, "RCL/RCR/ROL/ROR - Rotate"; "NOT": no flags affected.
    """
    if not insn.is_register_form:
        emit.raw((insn.prefixes + bytes([0xF6 | insn.opcode & 1]) + insn.memory.with_reg(_NOT_GROUP)) * 2)
    if insn.opcode in _BY_IMMEDIATE:
        _rotate_in_steps(emit, insn)
    else:
        verbatim(emit, insn)


def _rotate_in_steps(emit: Emitter, insn: Insn) -> None:
    """Never the same bytes: one shape has every count."""
    count, end = insn.raw[-1] % _COUNTS, len(insn.prefixes)
    if count > 1:
        emit.raw(insn.raw[:-1] + bytes([count - 1]))
    by_one = insn.prefixes + bytes([insn.opcode | _BY_ONE]) + insn.raw[end + 1 : -1]
    emit.raw(by_one if count else _NOP)


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


def hint(emit: Emitter, insn: Insn) -> None:
    """NOP: of a register, as 90h. 0F18h, which is then a reserved NOP, the engine does not take.

    Source: SDM Vol. 2D, "Opcode Extensions For One- And Two-byte Opcodes", group 16.
    """
    if insn.has_modrm and insn.is_register_form:
        emit.raw(_NOP)
    else:
        verbatim(emit, insn)


ENGINE_FLAWS: Final[Mapping[str, Translator]] = {
    "nop": hint,
    "test": test,
    "cmpxchg8b": compare_exchange_8,
    "enter": enter,
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
    **dict.fromkeys(STATES, fpu_state),
    **dict.fromkeys(LEAVING, callout),
}
ENDS_BLOCK: Final = (
    frozenset(BRANCHES) - frozenset(_CONDITIONS)
    | {"iretd"}
    | LEAVING
    - {
        "clflush",
        "clts",
        "lgdt",
        "lidt",
        "rdmsr",
        "wbinvd",
        "wrmsr",
        "in",
        "out",
        "arpl",
    }
)


_SYSTEM_MOVES: Final = frozenset((0x8C, 0x8E, 0x0F20, 0x0F21, 0x0F22, 0x0F23))
_FAR_INDIRECT: Final = (3, 5)
"""The reg field of FFh in CALL and JMP m16:16, m16:32, which Capstone may call `call` and `jmp`."""
_SEGMENT_STACK: Final = frozenset((0x06, 0x0E, 0x16, 0x1E, 0x0FA0, 0x0FA8, 0x07, 0x17, 0x1F, 0x0FA1, 0x0FA9))


def is_sensitive(insn: Insn) -> bool:
    """Critical or privileged in this very form: MOV, PUSH and POP only where they name a segment or system register,
    CALL and JMP only where they are far.
    """
    name = insn.name
    if name in ("call", "jmp"):
        return insn.opcode == 0xFF and insn.modrm >> 3 & 7 in _FAR_INDIRECT
    if name == "mov":
        return insn.opcode in _SYSTEM_MOVES
    if name in ("push", "pop"):
        return insn.opcode in _SEGMENT_STACK
    return name in INLINE or (name in LEAVING and name not in _LOOKED_AT) or name in PARTLY


CRITICAL_NAMES: Final = frozenset((*INLINE, *LEAVING, "mov", "pop"))


def never_inline(insn: Insn, entry: Translator) -> Translator:
    """With inlining off, what would stay in the cache in rewritten form leaves it, and so does what casts a shadow."""
    return callout if insn.mnemonic in INLINE or insn.opcode == 0x0F20 or shadows_by_ss(insn) else entry


_BRANCH: Final = {0xE8: b"\xe9", 0xE9: b"\xe9", 0xEB: b"\xe9"}


_ANYWHERE: Final = Window(0, 0, 0, 0, 0)


def _keeps_its_bytes(insn: Insn, entry: Translator) -> bool:
    """Does a translator copy this form of its mnemonic, as none does where protected-mode user code may not have it?"""
    trial = Emitter(Context(Mode.PROTECTED, 3, insn.code32, insn.code32), _ANYWHERE)
    trial.begin(insn)
    entry(trial, insn)
    return trial.code == insn.raw and not trial.sites


def _innocuous(insn: Insn) -> Translator | None:
    """What translates an instruction of that list; None: its own bytes."""
    if is_special(insn):
        return simd
    return wait_first if waits(insn) else None


UNDEFINED: Final = "(undefined)"
"""In the place of a mnemonic, which is in no table."""


class Treatment:
    """What becomes of every instruction of one shape.

    `entry` None: its own bytes. `ends`: it ends a block. `replays`: its code does not depend on its EIP. `stores`: it
    writes memory, None as long as nobody has asked. `branch`: a direct branch in 32-bit code, and the opcode of its
    rel32 form. `returns`: a CALL, which comes back to what follows it. `accesses`: there is an access to memory that
    may need a check, `override` is the segment that a prefix names for it.
    """

    __slots__ = (
        "accesses",
        "branch",
        "casts_shadow",
        "ends",
        "entry",
        "is_plain",
        "is_sensitive",
        "name",
        "override",
        "replays",
        "returns",
        "stores",
    )

    def __init__(self, insn: Insn) -> None:
        self.name = name = UNDEFINED if misplaces_lock(insn) else insn.name
        entry = TABLE.get(name)
        if entry is None:
            entry = callout if name not in INNOCUOUS else _innocuous(insn)
        elif (name in PARTLY or name in ENGINE_FLAWS) and _keeps_its_bytes(insn, entry):
            entry = None
        self.entry = entry
        self.ends = name in ENDS_BLOCK or (name not in TABLE and name not in INNOCUOUS)
        self.casts_shadow = casts_shadow(insn)
        self.is_sensitive = is_sensitive(insn)
        self.is_plain = entry is None and not self.is_sensitive
        self.returns = name == "call"
        self.replays = name not in BRANCHES or name == "ret"
        self.stores: bool | None = None
        self.accesses = bool(accesses(insn))
        self.override = insn.segment_override if self.accesses else None
        self.branch = b""
        if insn.code32 and not insn.prefixes:
            is_conditional = name in _CONDITIONS
            self.branch = bytes([0x0F, 0x80 | insn.opcode & 0xF]) if is_conditional else _BRANCH.get(insn.opcode, b"")
