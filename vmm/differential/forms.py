"""The encodings of every mnemonic that the translator's tables name, found by asking the decoder about each opcode.

Source of the format: SDM Vol. 2A, "Instruction Format"; Vol. 2D, "Opcode Map".
"""

from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from bt.decode import LEGACY_PREFIXES, Decoder, Insn
from bt.innocuous import INNOCUOUS
from bt.tables import TABLE

MNEMONICS: Final = frozenset(INNOCUOUS | frozenset(TABLE))
_PREFIXES: Final = (b"", b"\x66", b"\xf2", b"\xf3")
_TWO_BYTES: Final = 0x0F
_JCC_NEAR: Final = range(0x80, 0x90)
_COMPARE: Final = 0xC2  # CMPPS and its like: the immediate is part of the name
_JCXZ: Final = 0xE3  # the address size is part of the name
_REGISTER_FORMS: Final = range(0xC0, 0x100)


class Form(NamedTuple):
    """One opcode of a mnemonic: prefixes and opcode; ModR/M bytes that name registers; reg fields that go with a memory
    operand; bytes of immediate, and its value where that is fixed."""

    head: bytes
    registers: tuple[int, ...]
    memory: tuple[int, ...]
    immediate: int
    fixed: bytes | None = None


def _opcodes() -> Iterator[bytes]:
    for first in range(256):
        if first == _TWO_BYTES:
            yield from (bytes([first, second]) for second in range(256))
        elif first not in LEGACY_PREFIXES:
            yield bytes([first])


def _named(decoder: Decoder, raw: bytes, code32: bool) -> Insn | None:
    """The instruction; SSE instructions behind 66h go by the name that they have in 32-bit code, as the decoder takes
    the prefix for an operand size in 16-bit code."""
    insn = decoder.one(raw, 0, code32)
    if code32 or Insn(0, raw, "", None, False).opcode >> 8 != _TWO_BYTES or (insn and insn.opcode & 0xFF in _JCC_NEAR):
        return insn
    return decoder.one(raw, 0, True) or insn


def _tails(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(ModR/M byte or nothing, fixed immediate or nothing) to try behind an opcode."""
    probe = Insn(0, head + bytes(12), "", None, True)
    if not probe.has_modrm:
        yield b"", b""
        return
    fixed = [bytes([value]) for value in range(9)] if head[-2:] == bytes([_TWO_BYTES, _COMPARE]) else [b""]
    for modrm in [reg << 3 for reg in range(8)] + list(_REGISTER_FORMS):
        yield from ((bytes([modrm]), value) for value in fixed)


def _heads(opcode: bytes) -> Iterator[bytes]:
    yield from (prefix + opcode for prefix in _PREFIXES)
    if opcode == bytes([_JCXZ]):
        yield b"\x67" + opcode


@cache
def forms(code32: bool) -> dict[str, tuple[Form, ...]]:
    """Every encoding of every mnemonic that can be encoded at this code size. A third of a second."""
    decoder = Decoder()
    found: dict[tuple[str, bytes, int, bytes], tuple[list[int], list[int]]] = {}
    for opcode in _opcodes():
        for head in _heads(opcode):
            for modrm, fixed in _tails(head):
                insn = _named(decoder, head + modrm + fixed + bytes(12), code32)
                if insn is None or insn.name not in MNEMONICS:
                    continue
                immediate = len(insn.raw) - len(head) - len(modrm)
                registers, memory = found.setdefault((insn.name, head, immediate, fixed), ([], []))
                if modrm:
                    (registers if modrm[0] >= _REGISTER_FORMS[0] else memory).append(modrm[0])
    table: dict[str, list[Form]] = {}
    for (name, head, immediate, fixed), (registers, memory) in found.items():
        form = Form(head, tuple(registers), tuple(byte >> 3 & 7 for byte in memory), immediate, fixed or None)
        table.setdefault(name, []).append(form)
    return {name: tuple(_worth_it(name, each)) for name, each in sorted(table.items())}


def _worth_it(name: str, each: list[Form]) -> Iterator[Form]:
    """Leave out encodings that differ from another one in a prefix without a meaning."""
    heads = {form.head for form in each}
    for form in each:
        redundant = form.head[0] in (0xF2, 0xF3) and form.head[1:] in heads
        if not redundant or name[:4] in ("movs", "cmps", "stos", "lods", "scas", "insb", "insw", "insd", "outs"):
            yield form
