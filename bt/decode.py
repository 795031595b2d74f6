"""Instructions out of bytes: Capstone says how long they are and what they are called, we read their parts.

Source of the format: Intel SDM Vol. 2A, "Instruction Format".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import capstone

_T = TypeVar("_T")

MAX_LENGTH: Final = 15
_WINDOW: Final = 32
LEGACY_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
SEGMENT_PREFIXES: Final = {0x26: 0, 0x2E: 1, 0x36: 2, 0x3E: 3, 0x64: 4, 0x65: 5}
OVERRIDE_BYTE: Final = {seg: byte for byte, seg in SEGMENT_PREFIXES.items()}
_DS, _SS = 3, 2
_IMMEDIATE_PORT: Final = frozenset((0xE4, 0xE5, 0xE6, 0xE7))
_SSE2_ONLY: Final = frozenset((0x6C, 0x6D, 0x73, 0xD6, 0xE6))
"""Second opcode bytes that mean something only behind 66h, 73h in some forms: PUNPCKLQDQ, PUNPCKHQDQ, PSRLDQ and
PSLLDQ, MOVQ, CVTTPD2DQ."""
_TWO_BYTES: Final = 0x0F
_LOCK: Final = 0xF0
_HINT_NOPS: Final = range(0x18, 0x1F)
_FENCES: Final = ("lfence", "mfence", "sfence")
"""0FAEh /5 to /7 with a register, whichever it is."""
_NEWER_THAN_FENCES: Final = frozenset(("incsspd", "tpause", "umonitor", "umwait"))
_SSE_PREFIXES: Final = frozenset(b"\x66\xf2\xf3")
NO_INSTRUCTION: Final = "(bad)"
"""The mnemonic of what has the form of an instruction and is none on this processor."""
_WITHOUT_PREFIX: Final = frozenset((0x0F12, 0x0F16, 0x0FAE, 0x0FC3))
"""MOVHLPS, MOVLHPS, group 15, MOVNTI: Capstone overlooks some of these prefixes."""
_OTHERS_IN_MEMORY: Final = frozenset((0x0F12, 0x0F16))
"""With an operand in memory these are MOVLPS, MOVLPD and MOVHPS, MOVHPD."""
_HINTS: Final = frozenset("bndldx bndcl bndcn bndcu bndmk bndmov bndstx cldemote rdsspd".split())
"""What Capstone makes of some of them."""
_ADDRESS_SIZE: Final = b"\x67"
_REPEATS: Final = b"\xf2\xf3"
_PAUSE: Final = b"\x90"
_SELECTOR: Final = 2
_FAR_LOADS: Final = frozenset(("lds", "les", "lfs", "lgs", "lss"))
_STATE_SIZES: Final = {
    **dict.fromkeys(("fldenv", "fnstenv"), (14, 28)),
    **dict.fromkeys(("frstor", "fnsave"), (94, 108)),
    **dict.fromkeys(("fxrstor", "fxsave"), (512, 512)),
}
"""Bytes of the areas that hold the state of the FPU, with 16-bit operands and with 32-bit ones.

Source: SDM Vol. 1, "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE"; Vol. 2A, "FXSAVE"."""
_MODRM_ONE: Final = frozenset(
    [low | row for row in range(0, 0x40, 8) for low in range(4)]
    + [0x62, 0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, *range(0xC4, 0xC8), *range(0xD0, 0xD4)]
    + [*range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF]
)
_NO_MODRM_TWO: Final = frozenset(
    [
        *range(0x04, 0x0D),
        0x0E,
        *range(0x30, 0x38),
        0x77,
        *range(0x80, 0x90),
        0xA0,
        0xA1,
        0xA2,
        0xA8,
        0xA9,
        0xAA,
        *range(0xC8, 0xD0),
    ]
)


class _Kept(Generic[_T]):
    """A property that is computed once. `functools.cached_property` takes a lock for that until Python 3.12."""

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, _owner: type) -> _T:
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value


class Insn:
    """One guest instruction.

    `eip` is its offset in CS, `raw` its bytes, `code32` CS.D. The parts below are read on demand and kept: an
    innocuous instruction never needs them, a callout needs them each time.
    """

    def __init__(self, eip: int, raw: bytes, mnemonic: str, text: str | None, code32: bool) -> None:
        self.eip, self.raw, self.mnemonic, self.code32 = eip, raw, mnemonic, code32
        if text is not None:
            self.__dict__["text"] = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Insn) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[int, bytes, str, bool]:
        return self.eip, self.raw, self.mnemonic, self.code32

    @_Kept
    def text(self) -> str:
        """Its operands as Capstone prints them."""
        found = Decoder().one(self.raw, self.eip, self.code32)
        return "" if found is None else found.text

    @_Kept
    def name(self) -> str:
        """The mnemonic without REP and LOCK."""
        return self.mnemonic.rsplit(" ", 1)[-1]

    @_Kept
    def next_eip(self) -> int:
        """Offset of the next instruction, 32 bits."""
        return self.eip + len(self.raw) & 0xFFFF_FFFF

    @_Kept
    def falls_to(self) -> int:
        """EIP once it is done and has not branched: 16 bits of it in 16-bit code."""
        return self.next_eip & (0xFFFF_FFFF if self.code32 else 0xFFFF)

    @_Kept
    def immediate_port(self) -> int | None:
        """The port that IN or OUT names itself; None where DX does."""
        return self.tail[0] if self.opcode in _IMMEDIATE_PORT else None

    @_Kept
    def port_width(self) -> int:
        """Bytes that IN, OUT, INS or OUTS moves."""
        return self.operand_size if self.opcode & 1 else 1

    @_Kept
    def prefixes(self) -> bytes:
        """The legacy prefixes."""
        return self.raw[: self._opcode_at]

    @_Kept
    def _opcode_at(self) -> int:
        at = 0
        while at < len(self.raw) - 1 and self.raw[at] in LEGACY_PREFIXES:
            at += 1
        return at

    @_Kept
    def opcode(self) -> int:
        """One byte, or 0F00h + the second byte of a two-byte opcode."""
        at = self._opcode_at
        first = self.raw[at]
        return 0x0F00 | self.raw[at + 1] if first == 0x0F and at + 1 < len(self.raw) else first

    @_Kept
    def tail(self) -> bytes:
        """What follows the opcode: ModR/M, SIB, displacement, immediate."""
        at = self._opcode_at
        return self.raw[at + 2 :] if self.raw[at] == 0x0F else self.raw[at + 1 :]

    @_Kept
    def operand_size(self) -> int:
        """2 or 4 bytes."""
        return 4 if self.code32 != (b"\x66"[0] in self.prefixes) else 2

    @_Kept
    def address_size(self) -> int:
        """2 or 4 bytes."""
        return 4 if self.code32 != (b"\x67"[0] in self.prefixes) else 2

    @_Kept
    def repeat(self) -> int:
        """F2h, F3h, or 0 when the instruction has neither."""
        found = [byte for byte in self.prefixes if byte in (0xF2, 0xF3)]
        return found[-1] if found else 0

    @_Kept
    def segment_override(self) -> int | None:
        """Segment register number of the last override prefix, or None."""
        found = [SEGMENT_PREFIXES[byte] for byte in self.prefixes if byte in SEGMENT_PREFIXES]
        return found[-1] if found else None

    @_Kept
    def modrm(self) -> int:
        """The ModR/M byte (instructions that have one)."""
        return self.tail[0]

    @property
    def has_modrm(self) -> bool:
        """Does a ModR/M byte follow the opcode? (SDM Vol. 2D, Appendix A, "Opcode Map")"""
        opcode = self.opcode
        return opcode in _MODRM_ONE if opcode < 0x0F00 else opcode & 0xFF not in _NO_MODRM_TWO

    @_Kept
    def is_register_form(self) -> bool:
        """ModR/M names a register, not memory."""
        return self.modrm >= 0xC0

    @_Kept
    def memory(self) -> "MemoryOperand":
        """The memory operand that ModR/M names."""
        return MemoryOperand.parse(self)

    def __str__(self) -> str:
        return f"{self.mnemonic} {self.text}".strip()


Place = tuple[int, bytes, str, bool]
"""What an `Insn` is made of, for those who may never need one: EIP, bytes, mnemonic, CS.D."""


def insn_at(place: Place) -> Insn:
    """The instruction of a place."""
    eip, raw, mnemonic, code32 = place
    return Insn(eip, raw, mnemonic, None, code32)


@dataclass(frozen=True, slots=True)
class MemoryOperand:
    """A memory operand: seg:[base + index * scale + displacement], of `address_size` bytes.

    `encoding` is ModR/M (with its reg field), SIB and displacement, so that it can be emitted again.
    """

    segment: int
    base: int | None
    index: int | None
    scale: int
    displacement: int
    address_size: int
    encoding: bytes

    @classmethod
    def parse(cls, insn: Insn) -> "MemoryOperand":
        """Source: SDM Vol. 2A, "ModR/M and SIB Bytes", tables of 16-bit and 32-bit addressing forms."""
        parse = _parse_32 if insn.address_size == 4 else _parse_16
        base, index, scale, displacement, length = parse(insn.tail)
        default = _SS if base in (4, 5) else _DS  # ESP, BP and EBP as base
        override = insn.segment_override
        return cls(
            default if override is None else override,
            base, index, scale, displacement, insn.address_size, insn.tail[:length],
        )  # fmt: skip

    def with_reg(self, reg: int) -> bytes:
        """The encoding with another reg field."""
        return bytes([self.encoding[0] & ~0x38 | reg << 3]) + self.encoding[1:]


_BASES_16: Final = ((3, 6), (3, 7), (5, 6), (5, 7), (6, None), (7, None), (5, None), (3, None))


def _parse_16(tail: bytes) -> tuple[int | None, int | None, int, int, int]:
    mod, rm = tail[0] >> 6, tail[0] & 7
    base: int | None
    base, index = _BASES_16[rm]
    if mod == 0 and rm == 6:
        return None, None, 1, int.from_bytes(tail[1:3], "little"), 3
    size = (0, 1, 2)[mod]
    return base, index, 1, int.from_bytes(tail[1 : 1 + size], "little", signed=True), 1 + size


def _parse_32(tail: bytes) -> tuple[int | None, int | None, int, int, int]:
    mod, rm = tail[0] >> 6, tail[0] & 7
    at, index, scale = 1, None, 1
    base: int | None = rm
    if rm == 4:
        sib = tail[1]
        at = 2
        base = sib & 7
        index = None if sib >> 3 & 7 == 4 else sib >> 3 & 7
        scale = 1 << (sib >> 6)
    size = (0, 1, 4)[mod]
    if mod == 0 and base == 5:
        base, size = None, 4
    return base, index, scale, int.from_bytes(tail[at : at + size], "little", signed=True), at + size


def _has_wrong_prefix(insn: Insn) -> bool:
    """A prefix with which the opcode map has no entry, or only one that came later: CLWB, CLFLUSHOPT, TPAUSE and more.

    Source: SDM Vol. 2A, "Instruction Column in the Opcode Summary Table" (NP); Vol. 2D, "Opcode Map".
    """
    opcode = insn.opcode
    if opcode not in _WITHOUT_PREFIX or _SSE_PREFIXES.isdisjoint(insn.prefixes):
        return False
    return insn.is_register_form or opcode not in _OTHERS_IN_MEMORY


def _in_order(code: bytes) -> bytes | None:
    """The same code with F2h and F3h behind other prefixes, if there is a 67h: else Capstone knows no two-byte opcode.

    Source: SDM Vol. 2A, "Instruction Prefixes": they stand in any order.
    """
    at = _prefixes(code)
    prefixes = code[:at]
    if _ADDRESS_SIZE not in prefixes:
        return None
    repeats = bytes(each for each in prefixes if each in _REPEATS)
    ordered = bytes(each for each in prefixes if each not in _REPEATS) + repeats
    return None if ordered == prefixes else ordered + code[at:]


def _prefixes(code: bytes) -> int:
    """How many legacy prefixes there are."""
    return next((at for at, byte in enumerate(code) if byte not in LEGACY_PREFIXES), len(code))


class Decoder:
    """Capstone for 16- and 32-bit code."""

    def __init__(self) -> None:
        self._engines: dict[bool, Any] = {
            False: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16),
            True: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
        }
        self._detailed: dict[bool, Any] = {}

    def decode(self, code: bytes, eip: int, code32: bool) -> Iterator[Insn]:
        """Instructions from `code`, which lies at `eip`, until one is cut off or undefined.

        Capstone decodes all that it is given before it returns, so it is given a little at a time.
        """
        disassemble = self._engines[code32].disasm_lite
        at = 0
        while at < len(code):
            start = at
            for address, size, mnemonic, text in disassemble(code[at : at + _WINDOW], eip + at):
                yield Insn(address & 0xFFFF_FFFF, code[at : at + size], mnemonic, text, code32)
                at += size
            if at == start:
                rest = code[at : at + MAX_LENGTH]
                insn = self._reordered(rest, eip + at, code32)
                if insn is None and not code32:
                    insn = self._with_66_prefix(rest, eip + at)
                if insn is None:
                    return
                yield insn
                at += len(insn.raw)

    def one(self, code: bytes, eip: int, code32: bool) -> Insn | None:
        """The first instruction of `code`, or None when its bytes are cut off or undefined."""
        found = None
        for address, size, mnemonic, text in self._engines[code32].disasm_lite(code, eip, 1):
            found = Insn(address & 0xFFFF_FFFF, code[:size], mnemonic, text, code32)
        if found is None:
            found = self._reordered(code[:MAX_LENGTH], eip, code32)
        if found is None or found.mnemonic in _HINTS:
            found = self._hint(code[:MAX_LENGTH], eip, code32) or found
        if found is None or found.mnemonic in _NEWER_THAN_FENCES:
            found = self._fence(code[:MAX_LENGTH], eip, code32) or found
        if found is None and not code32:
            found = self._with_66_prefix(code[:MAX_LENGTH], eip)
        if found is not None and _has_wrong_prefix(found):
            return Insn(found.eip, found.raw, NO_INSTRUCTION, "", code32)
        return found

    def _reordered(self, code: bytes, eip: int, code32: bool) -> Insn | None:
        """What Capstone knows with its prefixes in another order; PAUSE with 67h it knows in none."""
        at = _prefixes(code)
        if code[at : at + 1] == _PAUSE and b"\xf3" in code[:at]:
            return Insn(eip & 0xFFFF_FFFF, code[: at + 1], "pause", "", code32)
        in_order = _in_order(code)
        if in_order is None:
            return None
        for _, size, mnemonic, text in self._engines[code32].disasm_lite(in_order, eip, 1):
            return Insn(eip & 0xFFFF_FFFF, code[:size], mnemonic, text, code32)
        return None

    def is_overlong(self, code: bytes, code32: bool) -> bool:
        """Is the first instruction of `code` longer than 15 bytes, by prefixes that it repeats?

        At least 15 bytes must be there; what it would be without them decides how long it is. Source: SDM Vol. 3A,
        "Interrupt 13 - General Protection Exception (#GP)": the instruction length limit.
        """
        at = 0
        while at < len(code) and code[at] in LEGACY_PREFIXES:
            at += 1
        prefixes = bytes({byte for byte in code[:at] if byte != _LOCK})
        rest = code[at : at + MAX_LENGTH].ljust(MAX_LENGTH, b"\0")
        found = self.one(prefixes + rest, 0, code32) if at < MAX_LENGTH else None
        return at >= MAX_LENGTH or (found is not None and at + len(found.raw) - len(prefixes) > MAX_LENGTH)

    def _hint(self, code: bytes, eip: int, code32: bool) -> Insn | None:
        """0F18h to 0F1Eh: NOPs with an operand on a P6, and on later ones where they are not something newer.

        Their length is that of 0F1Fh. Source: SDM Vol. 2D, "Opcode Map", two-byte opcodes: reserved NOP.
        """
        at = 0
        while at < len(code) - 2 and code[at] in LEGACY_PREFIXES:
            at += 1
        if at + 1 >= len(code) or code[at] != _TWO_BYTES or code[at + 1] not in _HINT_NOPS or _LOCK in code[:at]:
            return None
        address_size = b"\x67" * (b"\x67" in code[:at])
        as_nop = address_size + b"\x0f\x1f" + code[at + 2 :]
        for _, size, _, text in self._engines[code32].disasm_lite(as_nop, eip, 1):
            return Insn(eip & 0xFFFF_FFFF, code[: size - len(address_size) + at], "nop", text, code32)
        return None

    def _fence(self, code: bytes, eip: int, code32: bool) -> Insn | None:
        """LFENCE, MFENCE and SFENCE with any r/m.

        Source: SDM Vol. 2A, "LFENCE - Load Fence": the r/m field is ignored.
        """
        at = 0
        while at < len(code) - 2 and code[at] in LEGACY_PREFIXES:
            at += 1
        prefixes, modrm = code[:at], code[at + 2 : at + 3]
        if code[at : at + 2] != b"\x0f\xae" or not modrm or _LOCK in prefixes:
            return None
        fence = modrm[0] - 0xE8
        if fence < 0:
            return None
        return Insn(eip & 0xFFFF_FFFF, code[: at + 3], _FENCES[fence >> 3], "", code32)

    def _with_66_prefix(self, code: bytes, eip: int) -> Insn | None:
        """SSE2 instructions that Capstone does not know in 16-bit code: it takes their prefix for an operand size.

        Decoded as 32-bit code with 16-bit addresses, or the reverse; the rest of their bytes is the same.
        """
        at = 0
        while at < len(code) - 2 and code[at] in LEGACY_PREFIXES:
            at += 1
        prefixes = code[:at]
        if b"\x66"[0] not in prefixes or code[at] != 0x0F or code[at + 1] not in _SSE2_ONLY:
            return None
        toggled = prefixes.replace(b"\x67", b"") if b"\x67" in prefixes else b"\x67" + prefixes
        for _, size, mnemonic, text in self._engines[True].disasm_lite(toggled + code[at:], eip, 1):
            return Insn(eip & 0xFFFF_FFFF, code[: size - len(toggled) + at], mnemonic, text, False)
        return None

    def memory_width(self, insn: Insn) -> int:
        """Bytes of its memory operand; the operand size if it has none that Capstone sees."""
        if insn.name in _FAR_LOADS:
            return insn.operand_size + _SELECTOR
        if insn.name in _STATE_SIZES:
            return _STATE_SIZES[insn.name][insn.operand_size == 4]
        sizes = [op.size for op in self._operands(insn) or () if op.type == capstone.x86.X86_OP_MEM]
        return sizes[0] if sizes else insn.operand_size

    def _operands(self, insn: Insn) -> Any:
        """Capstone's operands, or None for an instruction that `_with_66_prefix` had to find."""
        engine = self._detailed.get(insn.code32)
        if engine is None:
            engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32 if insn.code32 else capstone.CS_MODE_16)
            engine.detail = True
            self._detailed[insn.code32] = engine
        raw = _in_order(insn.raw) or insn.raw
        return next((detailed.operands for detailed in engine.disasm(raw, insn.eip, 1)), None)
