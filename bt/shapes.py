"""Shapes: what Capstone said about an instruction, kept under the bytes that decide it.

An instruction's length and name depend on its prefixes, opcode, ModR/M and SIB bytes alone, not on its displacement,
its immediate or its place. So each such sequence, its shape, is decoded once, and found again by following its bytes
down a tree. The few opcodes of which this is not true are decoded each time (see `_OTHERS`). Of most opcodes one answer
serves many ModR/M and SIB bytes, which differ in the registers alone.

Source of the format: Intel SDM Vol. 2A, "Instruction Format"; Appendix A, "Opcode Map".
"""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from bt.decode import LEGACY_PREFIXES, MAX_LENGTH, Insn

_T = TypeVar("_T")

SHAPES_MAX: Final = 1 << 16
_SIB_RM: Final = 4
_REGISTER_FORM: Final = 0xC0

_OTHERS: Final = frozenset((0x0F0F, 0x0F38, 0x0F3A, 0x0FC2))
"""3DNow! (its opcode is the last byte), three-byte opcodes, CMPPS and its kin (named by their immediate)."""
_VECTOR_PREFIXES: Final = frozenset((0x62, 0x8F, 0xC4, 0xC5))
"""EVEX, XOP, VEX: with a register ModR/M, or another field that is not 0, these are no BOUND, POP, LES, LDS."""


_ANY_REGISTER: Final = frozenset(
    [low | row for row in range(0, 0x40, 8) for low in range(4)]
    + [0x69, 0x6B, *range(0x84, 0x8C), 0x8D]
    + [0x0F00 | low for low in (*range(0x40, 0x50), *range(0x90, 0xA0), 0xA3, 0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xAF)]
    + [0x0FB0, 0x0FB1, 0x0FB3, 0x0FB6, 0x0FB7, 0x0FBB, 0x0FBC, 0x0FBD, 0x0FBE, 0x0FBF, 0x0FC0, 0x0FC1]
)
"""The reg field names a general register, or means nothing."""
_GROUPS: Final = frozenset((0x80, 0x81, 0x82, 0x83, 0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3, 0xF6, 0xF7, 0xFE, 0xFF))
"""The reg field is part of the opcode."""
_MOD_IGNORED: Final = frozenset(range(0x0F20, 0x0F27))
"""MOV to and from control, debug and test registers: ModR/M names registers whatever its mod field says."""
_DISPLACEMENT: Final = 4
_NO_BASE: Final = 5


class Shape(Generic[_T]):
    """`length` in bytes, `mnemonic` as Capstone has it, and what the translator `made` of it."""

    __slots__ = ("length", "made", "mnemonic")

    def __init__(self, length: int, mnemonic: str, made: _T) -> None:
        self.length, self.mnemonic, self.made = length, mnemonic, made


class ShapeTree(Generic[_T]):
    """The shapes of 16-bit or of 32-bit code.

    `decode` is asked for the first instruction of some bytes, `classify` what to make of an instruction; that must
    depend on its shape alone.
    """

    def __init__(self, decode: Callable[[bytes], Insn | None], classify: Callable[[Insn], _T]) -> None:
        self._decode = decode
        self._classify = classify
        self._count = 0
        self.root: dict[int, Any] = {}
        """By byte: another such dictionary, or the Shape that the bytes on the way have led to."""

    def find(self, source: bytes, at: int) -> Shape[_T] | None:
        """The shape of the instruction at an offset; None if it is undefined or cut off by the end of `source`."""
        node: Any = self.root
        depth = at
        try:
            while node.__class__ is dict:
                node = node[source[depth]]
                depth += 1
        except (KeyError, IndexError):
            return self._learn(source, at)
        found: Shape[_T] = node
        return found if at + found.length <= len(source) else None

    def _learn(self, source: bytes, at: int) -> Shape[_T] | None:
        insn = self._decode(source[at : at + MAX_LENGTH])
        if insn is None:
            return None
        shape = Shape(len(insn.raw), insn.mnemonic, self._classify(insn))
        head = _head(insn)
        if head is not None:
            if self._count >= SHAPES_MAX:
                self.root.clear()
                self._count = 0
            self._count += 1
            node = self.root
            for byte in head[:-1]:
                node = node.setdefault(byte, {})
            if insn.has_modrm:
                self._keep_alike(insn, shape, node.setdefault(head[-1], {}))
            else:
                node[head[-1]] = shape
        return shape

    def _keep_alike(self, insn: Insn, shape: Shape[_T], node: dict[int, Any]) -> None:
        """Put a shape under all ModR/M and SIB bytes that it stands for."""
        child: Any = shape
        has_sib = insn.opcode not in _MOD_IGNORED and insn.address_size == 4 and insn.modrm & 7 == _SIB_RM
        if has_sib and insn.modrm >> 6 == 0:
            length = shape.length - (_DISPLACEMENT if insn.tail[1] & 7 == _NO_BASE else 0)
            short = Shape(length, shape.mnemonic, shape.made)
            long = Shape(length + _DISPLACEMENT, shape.mnemonic, shape.made)
            answers = {sib: long if sib & 7 == _NO_BASE else short for sib in range(0x100)}
            child = {sib: answer for sib, answer in answers.items() if answer.length <= MAX_LENGTH}
        for modrm in _alike(insn):
            node[modrm] = child


def _head(insn: Insn) -> bytes | None:
    """Prefixes and opcode, or None if bytes behind ModR/M and SIB decide too."""
    opcode = insn.opcode
    tail = insn.tail
    head = len(insn.raw) - len(tail)
    if opcode in _OTHERS or insn.raw[head - 1] in LEGACY_PREFIXES:
        return None
    if insn.has_modrm:
        if not tail:  # UD0 and UD1: Capstone leaves their ModR/M out
            return None
        if opcode in _VECTOR_PREFIXES and (tail[0] >= _REGISTER_FORM or (opcode == 0x8F and tail[0] & 0x38)):
            return None
    return insn.raw[:head]


def _alike(insn: Insn) -> list[int]:
    """The ModR/M bytes with which an instruction has the same name, length and kind of operands."""
    modrm, opcode = insn.modrm, insn.opcode
    if opcode not in _ANY_REGISTER and opcode not in _GROUPS:
        return [modrm]
    mod, rm = modrm >> 6, modrm & 7
    regs = range(8) if opcode in _ANY_REGISTER else (modrm >> 3 & 7,)
    if mod == 3:
        rms = list(range(8))
    else:
        alone = [_SIB_RM] if insn.address_size == 4 else []
        if mod == 0:
            alone.append(5 if insn.address_size == 4 else 6)
        rms = [rm] if rm in alone else [each for each in range(8) if each not in alone]
    return [mod << 6 | reg << 3 | each for reg in regs for each in rms]
