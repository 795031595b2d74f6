"""What instructions do to memory: sizes and writes against Capstone's, where it is right, and the rest against the
manual.
"""

import capstone
import pytest

from bt.accesses import Access, Via, accesses, stores
from bt.decode import Decoder
from bt.innocuous import INNOCUOUS

DECODER = Decoder()
PREFIXES = ("", "66", "f3", "f2")
OPCODES = [f"{first:02x}" for first in range(0x100)] + [f"0f{second:02x}" for second in range(0x100)]
FIELDS = range(0x00, 0x40, 8)
REST = "00" * 12
BY_MODRM = (Via.OPERAND, Via.BITS, Via.POPPED)

CAPSTONE_IS_WRONG = {
    "fxsave": (512, 512), "fxrstor": (512, 512), "fnsave": (108, 94), "frstor": (108, 94), "fldenv": (28, 14),
    "fnstenv": (28, 14), "comisd": (8, 8),
}  # fmt: skip
"""Bytes with 32- and 16-bit operands, as the SDM has them."""
ONLY_ADDRESSES = frozenset("lea nop prefetchnta prefetcht0 prefetcht1 prefetcht2 endbr32 endbr64".split())
READS = ("frstor", "fxrstor")
WRITES_BY_NAME = ("mov", "st", "fst", "fist", "fbst", "fn", "fxsave", "cmpxchg", "rol", "ror", "pop")
"""How names begin of which Capstone says nothing, or the wrong thing."""


@pytest.fixture(scope="module")
def forms():
    """Every innocuous instruction whose operand is [EAX], in 32-bit code."""
    found = {}
    for prefix in PREFIXES:
        for opcode in OPCODES:
            for modrm in FIELDS:
                insn = DECODER.one(bytes.fromhex(f"{prefix}{opcode}{modrm:02x}{REST}"), 0, True)
                if insn is not None and insn.name in INNOCUOUS and insn.has_modrm and insn.opcode == int(opcode, 16):
                    found[insn.raw] = insn
    assert len(found) > 1000
    return list(found.values())


def size_by_capstone(insn):
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    engine.detail = True
    operands = next(engine.disasm(insn.raw, 0, 1)).operands
    return next((operand.size for operand in operands if operand.type == capstone.x86.X86_OP_MEM), None)


def writes_by_capstone(insn):
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    engine.detail = True
    operands = next(engine.disasm(insn.raw, 0, 1)).operands
    if insn.name in READS:
        return False
    if insn.name.startswith(WRITES_BY_NAME):
        return operands[0].type == capstone.x86.X86_OP_MEM
    return any(op.type == capstone.x86.X86_OP_MEM and op.access & capstone.CS_AC_WRITE for op in operands)


def test_every_memory_operand_has_its_size(forms):
    for insn in forms:
        sizes = [access.size for access in accesses(insn) if access.via in BY_MODRM]
        if insn.name in ONLY_ADDRESSES:
            assert sizes == [], insn
        elif insn.name in CAPSTONE_IS_WRONG:
            assert sizes == [CAPSTONE_IS_WRONG[insn.name][insn.operand_size == 2]], insn
        else:
            assert sizes == [size_by_capstone(insn)], insn


def test_what_writes_its_operand_is_known_as_such(forms):
    for insn in forms:
        for access in accesses(insn):
            if access.via in BY_MODRM:
                assert access.write == writes_by_capstone(insn), str(insn)


OTHERS = [
    ("50", (Access(Via.PUSH, 4, True),)), ("6650", (Access(Via.PUSH, 2, True),)), ("6a01", (Access(Via.PUSH, 4, True),)),
    ("58", (Access(Via.POP, 4),)), ("1e", (Access(Via.PUSH, 4, True),)), ("9c", (Access(Via.PUSH, 4, True),)),
    ("669d", (Access(Via.POP, 2),)), ("60", (Access(Via.PUSH, 4, True, 8),)), ("6661", (Access(Via.POP, 2, False, 8),)),
    ("e800000000", (Access(Via.PUSH, 4, True),)), ("c3", (Access(Via.POP, 4),)), ("c20400", (Access(Via.POP, 4),)),
    ("ff10", (Access(Via.OPERAND, 4), Access(Via.PUSH, 4, True))), ("ff30", (Access(Via.OPERAND, 4), Access(Via.PUSH, 4, True))),
    ("ffd0", (Access(Via.PUSH, 4, True),)), ("ff20", (Access(Via.OPERAND, 4),)), ("ffe0", ()),
    ("8f00", (Access(Via.POP, 4), Access(Via.POPPED, 4, True))),
    ("a000000000", (Access(Via.OFFSET, 1),)), ("66a300000000", (Access(Via.OFFSET, 2, True),)),
    ("a4", (Access(Via.SOURCE, 1), Access(Via.DESTINATION, 1, True))), ("66a7", (Access(Via.SOURCE, 2), Access(Via.DESTINATION, 2))),
    ("ab", (Access(Via.DESTINATION, 4, True),)), ("ad", (Access(Via.SOURCE, 4),)), ("ae", (Access(Via.DESTINATION, 1),)),
    ("c8000000", (Access(Via.ENTER, 4, True),)), ("c9", (Access(Via.FRAME, 4),)), ("d7", (Access(Via.TABLE, 1),)),
    ("0ff7ca", (Access(Via.MASKED, 8, True),)), ("660ff7ca", (Access(Via.MASKED, 16, True),)),
    ("0fa308", (Access(Via.BITS, 4),)), ("0fab08", (Access(Via.BITS, 4, True),)), ("0fba2005", (Access(Via.OPERAND, 4),)),
    ("c500", (Access(Via.OPERAND, 6),)), ("0f0100", (Access(Via.OPERAND, 6, True),)), ("0f0138", ()), ("0f0120", (Access(Via.OPERAND, 2, True),)),
    ("8d00", ()), ("90", ()), ("01c0", ()), ("fa", ()), ("0f31", ()), ("74fe", ()),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), OTHERS)
def test_addresses_that_no_operand_names(raw, expected):
    insn = DECODER.one(bytes.fromhex(raw) + bytes(12), 0, True)
    assert accesses(insn) == expected


STORES = [
    ("mov [eax], ebx", "8918", True), ("push eax", "50", True), ("call", "e800000000", True),
    ("inc [eax]", "ff00", True), ("stosd", "ab", True), ("movsb", "a4", True), ("fnstcw [eax]", "d938", True),
    ("xchg [eax], ebx", "8718", True), ("enter", "c8000000", True), ("sete [eax]", "0f9400", True),
    ("fxsave [eax]", "0fae00", True), ("pusha", "60", True), ("movaps [eax], xmm0", "0f2900", True),
    ("mov eax, [ebx]", "8b03", False), ("cmp [eax], ebx", "3918", False), ("nop", "90", False),
    ("test [eax], ebx", "8518", False), ("lodsd", "ad", False), ("pop eax", "58", False),
    ("movntq [eax], mm0", "0fe700", True), ("maskmovq mm0, mm1", "0ff7c1", True), ("pop [eax]", "8f00", True),
    ("movnti [eax], ecx", "0fc308", True), ("movd [eax], mm0", "0f7e00", True), ("fistp [eax]", "df18", True),
    ("fstp [eax]", "d918", True), ("fbstp [eax]", "df30", True), ("cmpxchg8b [eax]", "0fc708", True),
    ("movlps [eax], xmm0", "0f1300", True), ("bts [eax], ebx", "0fab18", True),
    ("shld [eax], ebx, 1", "0fa41801", True), ("lock cmpxchg8b [eax]", "f00fc708", True), ("rep stosd", "f3ab", True),
    ("rol [eax], 1", "d100", True), ("ror [eax], cl", "d308", True), ("fsub [eax]", "d820", False),
    ("fild [eax]", "df00", False), ("movq mm0, [eax]", "0f6f00", False), ("addps xmm0, [eax]", "0f5800", False),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "writes"), [pytest.param(raw, writes, id=name) for name, raw, writes in STORES])
def test_it_knows_which_instructions_store(raw, writes):
    assert stores(DECODER.one(bytes.fromhex(raw) + bytes(12), 0, True)) == writes


@pytest.mark.parametrize("raw", ["fb", "f9", "fd", "660f00c8"], ids=["sti", "stc", "std", "str ax"])
def test_what_only_begins_like_a_store_is_none(raw):
    """In code that checks itself a store ends the block, and STI at the end of a block has to leave the cache."""
    assert not stores(DECODER.one(bytes.fromhex(raw), 0, True))
