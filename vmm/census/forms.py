"""Which sensitive instruction is it, in which form, and why is it sensitive?

The sets are those that the translator works by (`bt.tables`); here they only get the manual's names. Source of those:
Intel SDM Vol. 2, the tables at the head of each instruction.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bt.decode import Insn
from bt.innocuous import INNOCUOUS
from bt.tables import CRITICAL, IOPL_SENSITIVE, PRIVILEGED, TABLE, is_sensitive
from vmm.arch.registers import Seg


class Kind(StrEnum):
    """Why an instruction is sensitive; in the order of reports."""

    CRITICAL = "critical"  # shows or changes privileged state, and does not trap
    PRIVILEGED = "privileged"  # traps at any CPL but 0
    IOPL = "I/O-sensitive"  # traps at a CPL above IOPL
    OTHER = "other"  # the VMM has another reason to carry it out


AT_USER: Final[Mapping[Kind, str]] = {
    Kind.CRITICAL: "silent",
    Kind.PRIVILEGED: "#GP",
    Kind.IOPL: "#GP above IOPL",
    Kind.OTHER: "as at CPL 0",
}
"""What it does at CPL 3: a technique that waits for traps misses what is silent."""

_ORDER: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.CRITICAL: CRITICAL,
    Kind.PRIVILEGED: PRIVILEGED,
    Kind.IOPL: IOPL_SENSITIVE,
    Kind.OTHER: (),
}
_KINDS: Final = tuple(Kind)

_MANUAL_NAMES: Final[Mapping[str, str]] = {
    "iretd": "iret", "lcall": "call", "ljmp": "jmp", "popfd": "popf", "pushfd": "pushf", "retf": "ret",
    **{f"{name}{size}": name for name in ("ins", "outs") for size in "bwd"},
}  # fmt: skip
"""What Capstone calls otherwise than the manual."""
_FAMILIES: Final[Mapping[str, str]] = dict.fromkeys(("int1", "int3", "into"), "int")
"""They go through a gate as INT n does, and the critical list means them with it."""

_SYSTEM_MOVES: Final = frozenset(range(0x0F20, 0x0F27))


@dataclass(frozen=True, slots=True)
class Form:
    """A row of the census: the manual's mnemonic, its operands in the manual's notation, why it is sensitive."""

    instruction: str
    operands: str
    kind: Kind

    @property
    def order(self) -> tuple[int, int, str, str]:
        """Where it stands in a report: by kind, then as the tables of the translator have it."""
        names, name = _ORDER[self.kind], _family(self.instruction.lower())
        place = names.index(name) if name in names else len(names)
        return _KINDS.index(self.kind), place, self.instruction, self.operands


def form_of(insn: Insn) -> Form | None:
    """The form of a sensitive instruction, None for every other one. It depends on the instruction's shape alone."""
    if not is_sensitive(insn):
        return None
    name = _MANUAL_NAMES.get(insn.name, insn.name)
    return Form(name.upper(), _OPERANDS.get(name, _none)(insn), _kind(name, insn))


def is_known(insn: Insn) -> bool:
    """Does the virtual processor have it? Everything else is #UD there."""
    return insn.name in TABLE or insn.name in INNOCUOUS


def _family(name: str) -> str:
    return _FAMILIES.get(name, name)


def _kind(name: str, insn: Insn) -> Kind:
    if _family(name) in CRITICAL and insn.opcode not in _SYSTEM_MOVES:
        return Kind.CRITICAL
    if name in PRIVILEGED:
        return Kind.PRIVILEGED
    return Kind.IOPL if name in IOPL_SENSITIVE else Kind.OTHER


# --- operands ------------------------------------------------------------------------------------------


def _none(_insn: Insn) -> str:
    return ""


def _bits(insn: Insn) -> int:
    return 8 * insn.operand_size


def _register_or(insn: Insn, memory: str, register: str = "") -> str:
    """The operand of ModR/M: a register of the operand size, if no other is given, or memory."""
    return (register or f"r{_bits(insn)}") if insn.is_register_form else memory


def _flags_size(insn: Insn) -> str:
    return f"{_bits(insn)}-bit"


def _table_register(_insn: Insn) -> str:
    return "m16&32"


def _selector(insn: Insn) -> str:
    return _register_or(insn, "m16")


def _word(insn: Insn) -> str:
    return _register_or(insn, "m16", "r16")


def _look_up(insn: Insn) -> str:
    return f"r{_bits(insn)}, {_register_or(insn, 'm16')}"


def _adjust(insn: Insn) -> str:
    return f"{_word(insn)}, r16"


def _far_pointer(insn: Insn) -> str:
    return f"r{_bits(insn)}, m16:{_bits(insn)}"


def _far_target(insn: Insn) -> str:
    return f"{'m' if insn.opcode == 0xFF else 'ptr'}16:{_bits(insn)}"


def _far_return(insn: Insn) -> str:
    return "far, imm16" if insn.opcode == 0xCA else "far"


_SEGMENT_OF_OPCODE: Final = {
    0x06: Seg.ES, 0x07: Seg.ES, 0x0E: Seg.CS, 0x16: Seg.SS, 0x17: Seg.SS, 0x1E: Seg.DS, 0x1F: Seg.DS,
    0x0FA0: Seg.FS, 0x0FA1: Seg.FS, 0x0FA8: Seg.GS, 0x0FA9: Seg.GS,
}  # fmt: skip


def _segment_on_the_stack(insn: Insn) -> str:
    return _SEGMENT_OF_OPCODE[insn.opcode].name


def _move(insn: Insn) -> str:
    number = insn.modrm >> 3 & 7
    if insn.opcode in _SYSTEM_MOVES:
        letter = ("CR", "DR", "CR", "DR", "TR", "TR", "TR")[insn.opcode - 0x0F20]
        return f"{letter}{number}, r32" if insn.opcode & 2 else f"r32, {letter}{number}"
    segment = Seg(number).name if number < len(Seg) else "?"
    return f"{segment}, {_word(insn)}" if insn.opcode == 0x8E else f"{_selector(insn)}, {segment}"


_BY_DX: Final = 8
"""The bit of their opcodes that makes DX the port, E4h-E7h and ECh-EFh."""


def _port(insn: Insn) -> str:
    port = "DX" if insn.opcode & _BY_DX else "imm8"
    data = {1: "AL", 2: "AX", 4: "EAX"}[insn.port_width]
    return f"{data}, {port}" if insn.name == "in" else f"{port}, {data}"


def _string_port(insn: Insn) -> str:
    return f"{'REP ' if insn.repeat else ''}m{8 * insn.port_width}"


_OPERANDS: Final[Mapping[str, Callable[[Insn], str]]] = {
    **dict.fromkeys(("pushf", "popf", "iret"), _flags_size),
    **dict.fromkeys(("sgdt", "sidt", "lgdt", "lidt"), _table_register),
    **dict.fromkeys(("sldt", "str", "smsw"), _selector),
    **dict.fromkeys(("lldt", "ltr", "lmsw", "verr", "verw"), _word),
    **dict.fromkeys(("lar", "lsl"), _look_up),
    **dict.fromkeys(("lds", "les", "lfs", "lgs", "lss"), _far_pointer),
    **dict.fromkeys(("call", "jmp"), _far_target),
    **dict.fromkeys(("push", "pop"), _segment_on_the_stack),
    **dict.fromkeys(("in", "out"), _port),
    **dict.fromkeys(("ins", "outs"), _string_port),
    "arpl": _adjust,
    "int": lambda _insn: "imm8",
    "invlpg": lambda _insn: "m8",
    "mov": _move,
    "ret": _far_return,
}
