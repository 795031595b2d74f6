"""What instructions do to memory: sizes and writes against Capstone's, where it is right, and the rest against the
manual.
"""

import capstone
import pytest

from bt.accesses import Access, Via, accesses
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
