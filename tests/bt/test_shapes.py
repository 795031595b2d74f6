"""Shapes: what the tree answers for an instruction is what Capstone says of it, whatever the tree learned before."""

import random
from collections.abc import Iterator
from functools import lru_cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bt import shapes
from bt.decode import Decoder, Insn
from bt.shapes import ShapeTree
from bt.translate import BlockTranslator

DECODER = Decoder()
SIZES = pytest.mark.parametrize("code32", [False, True], ids=["16", "32"])
SIBS = (0x00, 0x05, 0x25, 0xE4)  # [eax+eax], no base, neither base nor index, [esp]
FILLER = bytes.fromhex("8040c00511223344556677")
LONGEST = 15
Said = tuple[int, str] | None
"""Length and mnemonic, or None: undefined, or cut off."""


def capstone_says(code: bytes, code32: bool) -> Said:
    insn = DECODER.one(code[:LONGEST], 0, code32)
    return None if insn is None else (len(insn.raw), insn.mnemonic)


def new_tree(code32: bool) -> ShapeTree[bytes]:
    """A tree that makes nothing of an instruction but its bytes."""
    return ShapeTree(lambda code: DECODER.one(code, 0, code32), lambda insn: insn.raw)


def tree_says(tree: ShapeTree[bytes], source: bytes, at: int = 0) -> Said:
    found = tree.find(source, at)
    return None if found is None else (found.length, found.mnemonic)


# --- random instructions -----------------------------------------------------------------------------------

PREFIXES = st.lists(st.sampled_from(b"\x66\x67\xf2\xf3\xf0\x26\x2e\x36\x3e\x64\x65"), max_size=3).map(bytes)
CHAINS = st.lists(st.sampled_from(b"\x66\x67\x3e"), min_size=6, max_size=16).map(bytes)
"""So many prefixes that the instruction is at, or over, fifteen bytes."""
BYTE = st.integers(0, 255)
OPCODES = st.one_of(
    BYTE.map(lambda byte: bytes([byte])),
    BYTE.map(lambda byte: bytes([0x0F, byte])),
    st.sampled_from(sorted(shapes._ANY_REGISTER | shapes._GROUPS)).map(
        lambda opcode: bytes([0x0F, opcode & 0xFF] if opcode > 0xFF else [opcode])
    ),
    st.tuples(st.sampled_from((0x38, 0x3A, 0x0F, 0xC2)), BYTE).map(lambda pair: bytes([0x0F, *pair])),
)
HEADS = st.tuples(st.one_of(PREFIXES, PREFIXES, CHAINS), OPCODES).map(b"".join)
TAILS = st.tuples(BYTE, st.one_of(BYTE, st.sampled_from(SIBS)), st.binary(min_size=12, max_size=12)).map(
    lambda parts: bytes(parts[:2]) + parts[2]
)
INSTRUCTIONS = st.tuples(HEADS, TAILS).map(b"".join)


@settings(max_examples=1500, deadline=None)
@given(head=HEADS, tails=st.lists(TAILS, min_size=1, max_size=12), code32=st.booleans())
@example(head=b"\x3e" * 9 + b"\x8b", tails=[b"\x04\x00" + FILLER, b"\x04\x05" + FILLER], code32=True)
@example(head=b"\x3e" * 9 + b"\x8b", tails=[b"\x04\x05" + FILLER, b"\x04\x00" + FILLER], code32=True)
@example(head=b"\x0f\x20", tails=[b"\x04\x24" + FILLER], code32=True)
@example(head=b"\xc7", tails=[b"\xf8\x00" + FILLER, b"\xf9\x00" + FILLER], code32=True)
def test_of_one_opcode_the_tree_says_what_capstone_says(head: bytes, tails: list[bytes], code32: bool) -> None:
    """The same prefixes and opcode with one ModR/M after the other: answers for the later ones were learned before."""
    tree = new_tree(code32)
    for tail in tails:
        assert tree_says(tree, head + tail) == capstone_says(head + tail, code32), (head + tail).hex(" ")


SHARED = {code32: new_tree(code32) for code32 in (False, True)}


@settings(max_examples=1500, deadline=None)
@given(code=st.one_of(INSTRUCTIONS, st.binary(max_size=20)), code32=st.booleans())
def test_a_tree_that_has_learned_much_still_says_what_capstone_says(code: bytes, code32: bool) -> None:
    """One tree for all examples, in whatever order they come."""
    assert tree_says(SHARED[code32], code) == capstone_says(code, code32), code.hex(" ")


@settings(max_examples=500, deadline=None)
@given(code=INSTRUCTIONS, code32=st.booleans(), before=st.binary(max_size=4))
def test_an_instruction_that_is_cut_off_is_none(code: bytes, code32: bool, before: bytes) -> None:
    """Whole first, so that its shape is known, then byte by byte less, somewhere in the source."""
    tree = new_tree(code32)
    for size in range(len(code), -1, -1):
        source = before + code[:size]
        assert tree_says(tree, source, len(before)) == capstone_says(code[:size], code32), source.hex(" ")


@settings(max_examples=100, deadline=None)
@given(codes=st.lists(INSTRUCTIONS, max_size=30), code32=st.booleans())
def test_a_tree_that_is_full_begins_again(codes: list[bytes], code32: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SHAPES_MAX", 3)
        tree = new_tree(code32)
        for code in codes:
            assert tree_says(tree, code) == capstone_says(code, code32), code.hex(" ")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("8b0411", "8b0425 11223344", id="SIB without a base has a displacement"),
        pytest.param("8b05 11223344", "8b00", id="mod 0, rm 5 has one too"),
        pytest.param("c400", "c4e2 79 18 00", id="LES is VEX with a register ModR/M"),
        pytest.param("c500", "c5f8 77", id="LDS too"),
        pytest.param("8fc0", "8fe9 78 9b c0", id="POP is XOP with another reg field"),
        pytest.param("6200", "62f1 7c 48 10 c0", id="BOUND is EVEX"),
        pytest.param("0fc2c1 00", "0fc2c1 01", id="CMPPS is named by its immediate"),
        pytest.param("f6c0 11", "f6d0", id="the length of a group's members differs"),
        pytest.param("90", "f390", id="PAUSE is not NOP"),
        pytest.param("0fb801", "f30fb801", id="POPCNT needs its prefix"),
        pytest.param("668b00", "8b00", id="a prefix is part of the shape"),
        pytest.param("0f20c0", "0f2004", id="MOV CR takes a register whatever mod says: no SIB follows"),
        pytest.param("0f2304", "0f2300", id="MOV DR too"),
        pytest.param("c6f811", "c6f911", id="XABORT has one ModR/M alone"),
        pytest.param("c7f811223344", "c7ff11223344", id="XBEGIN too"),
        pytest.param("3e" * 10 + "8b0400", "3e" * 10 + "8b0405 11223344", id="sixteen bytes are no instruction"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_instructions_that_look_alike_are_told_apart(first: str, second: str, swapped: bool) -> None:
    pair = [bytes.fromhex(first) + FILLER, bytes.fromhex(second) + FILLER]
    tree = new_tree(True)
    for code in reversed(pair) if swapped else pair:
        assert tree_says(tree, code) == capstone_says(code, True)


def test_one_answer_serves_all_registers() -> None:
    asked: list[bytes] = []

    def decode(code: bytes) -> Insn | None:
        asked.append(code)
        return DECODER.one(code, 0, True)

    tree: ShapeTree[int] = ShapeTree(decode, lambda _insn: 0)
    for modrm in range(0xC0, 0x100):
        assert tree.find(bytes([0x8B, modrm]), 0) is not None
    assert len(asked) == 1
    for sib in range(0x100):
        assert tree.find(bytes([0x8B, 0x04, sib]) + FILLER, 0) is not None
    assert len(asked) == 2


# --- all opcodes, all ModR/M bytes ---------------------------------------------------------------------------

OPCODE_MAPS = [bytes([byte]) for byte in range(0x100)] + [bytes([0x0F, byte]) for byte in range(0x100)]


def tails() -> Iterator[bytes]:
    """Every ModR/M byte, with some SIB bytes where there may be one."""
    for modrm in range(0x100):
        for sib in SIBS if modrm < 0xC0 and modrm & 7 == 4 else SIBS[:1]:
            yield bytes([modrm, sib]) + FILLER


TAILS_OF_ALL = tuple(tails())


@lru_cache(maxsize=2)
def said_of_all(prefixes: bytes, code32: bool) -> dict[bytes, Said]:
    """Capstone's answers for all opcodes behind some prefixes."""
    return {
        code: capstone_says(code, code32)
        for code in (prefixes + opcode + tail for opcode in OPCODE_MAPS for tail in TAILS_OF_ALL)
    }


def check_all(prefixes: bytes, code32: bool, seed: int) -> None:
    """Ask a new tree for all of them, in an order of its own."""
    expected = said_of_all(prefixes, code32)
    codes = list(expected)
    if seed:
        random.Random(seed).shuffle(codes)
    tree = new_tree(code32)
    wrong = [code.hex(" ") for code in codes if tree_says(tree, code) != expected[code]]
    assert wrong == []


@SIZES
@pytest.mark.parametrize("seed", range(3))
def test_all_opcodes_with_all_modrm_bytes(code32: bool, seed: int) -> None:
    check_all(b"", code32, seed)


@pytest.mark.slow
@SIZES
@pytest.mark.parametrize("prefixes", ["66", "67", "6667", "f2", "f3", "66f2", "66f3", "2e", "64", "f0"])
def test_all_opcodes_with_all_modrm_bytes_behind_prefixes(prefixes: str, code32: bool) -> None:
    for seed in range(2):
        check_all(bytes.fromhex(prefixes), code32, seed)


# --- what the translator makes of a shape ----------------------------------------------------------------------

FIELDS = "name entry ends casts_shadow is_sensitive is_plain replays branch".split()


def treatment(translator: BlockTranslator, code: bytes, code32: bool) -> dict[str, object] | None:
    """How a translator treats the first instruction of some bytes; `stores` included, once it is asked."""
    shape = translator.tree(code32).find(code, 0)
    if shape is None:
        return None
    found: dict[str, object] = {name: getattr(shape.made, name) for name in FIELDS}
    return found | {"stores": translator.stores(shape, code[: shape.length], code32)}


FORGETFUL = BlockTranslator()


def treated_alone(code: bytes, code32: bool) -> dict[str, object] | None:
    """The treatment by a translator that has learned nothing."""
    FORGETFUL.tree(code32).root.clear()
    return treatment(FORGETFUL, code, code32)


@settings(max_examples=700, deadline=None)
@given(head=HEADS, tails=st.lists(TAILS, min_size=1, max_size=8), code32=st.booleans())
def test_what_is_alike_is_treated_as_it_would_be_for_itself(head: bytes, tails: list[bytes], code32: bool) -> None:
    translator = BlockTranslator()
    for tail in tails:
        code = head + tail
        assert treatment(translator, code, code32) == treated_alone(code, code32), code.hex(" ")


@SIZES
@pytest.mark.parametrize("seed", [0, 1])
def test_all_registers_and_operands_of_an_opcode_are_treated_alike(code32: bool, seed: int) -> None:
    """Every opcode of which one answer serves several ModR/M bytes, in random order."""
    wrong = []
    for opcode in sorted(shapes._ANY_REGISTER | shapes._GROUPS):
        head = bytes([0x0F, opcode & 0xFF] if opcode > 0xFF else [opcode])
        codes = [head + tail for tail in TAILS_OF_ALL]
        random.Random(seed).shuffle(codes)
        translator = BlockTranslator()
        wrong += [code.hex(" ") for code in codes if not _is_as_alone(translator, code, code32)]
    assert wrong == []


def _is_as_alone(translator: BlockTranslator, code: bytes, code32: bool) -> bool:
    return treatment(translator, code, code32) == treated_alone(code, code32)
