"""A linear sweep: one instruction behind the other, from the first byte of a region to its last.

Where bytes are no instruction, or one is cut off by the region's end, the sweep goes on one byte further. That is a
guess: behind such a place it may be out of step with the code for a few instructions, and data between instructions is
read as code. x86 code has no marks by which to do better; it falls into step by itself, as a rule within a few
instructions.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bt.decode import MAX_LENGTH, Decoder, Insn, MemoryOperand
from bt.shapes import ShapeTree
from vmm.census.forms import Form, form_of, is_known

_SHORT_UNDEFINED: Final = frozenset((0x0FB9, 0x0FFF))
"""UD1 and UD0: Capstone leaves their ModR/M out (SDM Vol. 2B, "UD - Undefined Instruction": they have one)."""


class Region(NamedTuple):
    """Code to look through: `address` of its first byte, 32 bits; `code32`: CS.D."""

    name: str
    address: int
    code: bytes
    code32: bool


@dataclass(slots=True)
class Findings:
    """What a sweep found.

    `instructions`: how many. `places`: the addresses of each sensitive form, rising within a region. `gaps`: (address,
    bytes) of what could not be decoded. `unknown`: instructions that the virtual processor does not have, by mnemonic.
    """

    instructions: int = 0
    places: dict[Form, list[int]] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def sensitive(self) -> int:
        """How many instructions are sensitive."""
        return sum(map(len, self.places.values()))

    def forms(self) -> list[Form]:
        """The forms found, in the order of reports."""
        return sorted(self.places, key=lambda form: form.order)


class _Seen(NamedTuple):
    """What the census makes of a shape."""

    form: Form | None
    is_known: bool
    is_short: bool


def _seen(insn: Insn) -> _Seen:
    return _Seen(form_of(insn), is_known(insn), insn.opcode in _SHORT_UNDEFINED)


def sweep(regions: Iterable[Region]) -> Findings:
    """Look through regions, one after the other."""
    decoder, found = Decoder(), Findings()

    def tree(code32: bool) -> ShapeTree[_Seen]:
        return ShapeTree(lambda code: decoder.one(code, 0, code32), _seen)

    trees = {code32: tree(code32) for code32 in (False, True)}
    for region in regions:
        _sweep_one(region, trees[region.code32], found)
    return found


def _sweep_one(region: Region, tree: ShapeTree[_Seen], found: Findings) -> None:
    code, start, find = region.code, region.address, tree.find
    plain = _Seen(None, True, False)
    at = count = 0
    while at < len(code):
        shape = find(code, at)
        if shape is None:
            _add_gap(found.gaps, start + at)
            at += 1
            continue
        count += 1
        if shape.made != plain:
            _note(found, shape.made, shape.mnemonic, start + at)
        at += shape.length
        if shape.made.is_short:
            at += _operand_length(code[at - shape.length : at + MAX_LENGTH], region.code32)
    found.instructions += count


def _note(found: Findings, seen: _Seen, mnemonic: str, address: int) -> None:
    if seen.form is not None:
        found.places.setdefault(seen.form, []).append(address)
    if not seen.is_known:
        found.unknown[mnemonic] += 1


def _add_gap(gaps: list[tuple[int, int]], address: int) -> None:
    """One more byte that could not be decoded; neighbours make one gap."""
    if gaps and sum(gaps[-1]) == address:
        gaps[-1] = (gaps[-1][0], gaps[-1][1] + 1)
    else:
        gaps.append((address, 1))


def _operand_length(code: bytes, code32: bool) -> int:
    """Bytes of ModR/M, SIB and displacement behind the two-byte opcode that `code` has; 0 where the code ends."""
    insn = Insn(0, code, "", None, code32)
    if not insn.tail:
        return 0
    return 1 if insn.is_register_form else len(MemoryOperand.parse(insn).encoding)


def gaps_in_words(gaps: Iterable[tuple[int, int]]) -> Iterator[str]:
    """Each gap as `address` or `first-last`, hexadecimal."""
    for address, size in gaps:
        yield f"{address:08x}" if size == 1 else f"{address:08x}-{address + size - 1:08x}"
