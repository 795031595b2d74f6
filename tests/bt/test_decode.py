"""Decoding: prefixes, opcodes and memory operands, with Capstone's detail as the oracle."""

from itertools import product
from typing import Any

import capstone
import pytest
from capstone import x86
from hypothesis import given, settings
from hypothesis import strategies as st

from bt.decode import MAX_LENGTH, Decoder, Insn

ORACLES: dict[bool, Any] = {}
for _code32 in (False, True):
    ORACLES[_code32] = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32 if _code32 else capstone.CS_MODE_16)
    ORACLES[_code32].detail = True
DECODER = Decoder()

NUMBERS = {
    x86.X86_REG_AX: 0, x86.X86_REG_CX: 1, x86.X86_REG_DX: 2, x86.X86_REG_BX: 3,
    x86.X86_REG_SP: 4, x86.X86_REG_BP: 5, x86.X86_REG_SI: 6, x86.X86_REG_DI: 7,
    x86.X86_REG_EAX: 0, x86.X86_REG_ECX: 1, x86.X86_REG_EDX: 2, x86.X86_REG_EBX: 3,
    x86.X86_REG_ESP: 4, x86.X86_REG_EBP: 5, x86.X86_REG_ESI: 6, x86.X86_REG_EDI: 7,
}  # fmt: skip
SEGMENTS = {
    x86.X86_REG_ES: 0, x86.X86_REG_CS: 1, x86.X86_REG_SS: 2,
    x86.X86_REG_DS: 3, x86.X86_REG_FS: 4, x86.X86_REG_GS: 5,
}  # fmt: skip


def decode(raw: bytes, code32: bool = True, eip: int = 0x1000) -> Insn:
    insn = DECODER.one(raw, eip, code32)
    assert insn is not None
    return insn


# --- memory operands ---------------------------------------------------------------------------------------


def _forms() -> list[bytes]:
    """Every ModR/M with a memory operand, and every SIB behind those that take one."""
    return [
        bytes([mod << 6 | reg << 3 | rm, sib])
        for mod, reg, rm in product(range(3), (0, 5), range(8))
        for sib in (range(256) if rm == 4 else (0x24,))
    ]


@pytest.mark.parametrize("prefix", [b"", b"\x67", b"\x2e", b"\x36\x67", b"\x65"], ids=lambda p: p.hex() or "none")
@pytest.mark.parametrize("code32", [False, True])
def test_memory_operands_are_what_capstone_says(code32: bool, prefix: bytes) -> None:
    for form in _forms():
        raw = prefix + b"\x8b" + form + b"\x85\x96\xa7\xb8\xc9\xda"
        insn = decode(raw, code32)
        memory = insn.memory
        detail = next(ORACLES[code32].disasm(raw, 0x1000, 1))
        expected = detail.operands[1].mem
        assert (memory.base, memory.index) == (NUMBERS.get(expected.base), NUMBERS.get(expected.index)), insn
        assert memory.index is None or memory.scale == expected.scale, insn
        mask = (1 << 8 * memory.address_size) - 1
        assert memory.displacement & mask == expected.disp & mask, insn
        assert memory.address_size == detail.addr_size
        assert insn.raw == prefix + b"\x8b" + memory.encoding
        if expected.segment:
            assert memory.segment == SEGMENTS[expected.segment]


DEFAULT_SEGMENTS = [
    pytest.param("00", False, 3, id="[bx+si]"),
    pytest.param("02", False, 2, id="[bp+si]"),
    pytest.param("03", False, 2, id="[bp+di]"),
    pytest.param("4201", False, 2, id="[bp+si+1]"),
    pytest.param("4601", False, 2, id="[bp+1]"),
    pytest.param("063412", False, 3, id="[1234h]"),
    pytest.param("04", False, 3, id="[si]"),
    pytest.param("00", True, 3, id="[eax]"),
    pytest.param("0424", True, 2, id="[esp]"),
    pytest.param("4500", True, 2, id="[ebp]"),
    pytest.param("0578563412", True, 3, id="[12345678h]"),
    pytest.param("0428", True, 3, id="[eax+ebp]: the index does not count"),
    pytest.param("042d00000000", True, 3, id="[ebp*1+disp32]: no base"),
    pytest.param("442d0000", True, 2, id="[ebp+ebp]"),
]


@pytest.mark.parametrize(("form", "code32", "segment"), DEFAULT_SEGMENTS)
def test_the_default_segment_is_ss_where_the_base_is_a_stack_register(form: str, code32: bool, segment: int) -> None:
    """SDM Vol. 1, "Specifying a Segment Selector": ESP, EBP and BP as base."""
    assert decode(b"\x8b" + bytes.fromhex(form), code32).memory.segment == segment


def test_the_reg_field_of_an_encoding_can_be_changed() -> None:
    memory = decode(bytes.fromhex("8b44b512")).memory
    assert memory.with_reg(1) == bytes.fromhex("4cb512")
    assert memory.with_reg(0) == memory.encoding == bytes.fromhex("44b512")


# --- parts -------------------------------------------------------------------------------------------------

PARTS = [
    # bytes, code32, opcode, operand size, address size, repeat, segment override
    pytest.param("90", True, 0x90, 4, 4, 0, None, id="plain"),
    pytest.param("6690", True, 0x90, 2, 4, 0, None, id="66 in 32-bit code"),
    pytest.param("6690", False, 0x90, 4, 2, 0, None, id="66 in 16-bit code"),
    pytest.param("678b00", True, 0x8B, 4, 2, 0, None, id="67 in 32-bit code"),
    pytest.param("678b00", False, 0x8B, 2, 4, 0, None, id="67 in 16-bit code"),
    pytest.param("f3a4", True, 0xA4, 4, 4, 0xF3, None, id="rep"),
    pytest.param("f2ae", True, 0xAE, 4, 4, 0xF2, None, id="repne"),
    pytest.param("2ef366a5", True, 0xA5, 2, 4, 0xF3, 1, id="three prefixes"),
    pytest.param("640f20c0", True, 0x0F20, 4, 4, 0, 4, id="two-byte opcode"),
    pytest.param("f00fb10b", True, 0x0FB1, 4, 4, 0, None, id="lock"),
    pytest.param("3e658b00", True, 0x8B, 4, 4, 0, 5, id="the last override counts"),
]


@pytest.mark.parametrize(("raw", "code32", "opcode", "operand", "address", "repeat", "override"), PARTS)
def test_parts(
    raw: str, code32: bool, opcode: int, operand: int, address: int, repeat: int, override: int | None
) -> None:
    insn = decode(bytes.fromhex(raw), code32)
    assert (insn.opcode, insn.operand_size, insn.address_size) == (opcode, operand, address)
    assert (insn.repeat, insn.segment_override) == (repeat, override)


def test_the_next_eip_wraps_at_4_gib() -> None:
    assert decode(b"\x66\x90", eip=0xFFFF_FFFF).next_eip == 1


def test_register_forms_are_told_from_memory() -> None:
    assert decode(bytes.fromhex("0f01e0")).is_register_form
    assert not decode(bytes.fromhex("0f0120")).is_register_form


def test_it_prints_as_it_is_read() -> None:
    assert (str(decode(b"\x90")), str(decode(b"\x89\xd8"))) == ("nop", "mov eax, ebx")


@pytest.mark.parametrize("raw", ["", "0f", "8b", "e801", "6666", "ffff", "8fc8"])
def test_what_is_cut_off_or_undefined_is_no_instruction(raw: str) -> None:
    assert DECODER.one(bytes.fromhex(raw), 0, True) is None


WIDTHS = [
    ("8a00", 1), ("668b00", 2), ("8b00", 4), ("0f6f00", 8), ("0f2800", 16), ("a4", 1), ("0fb600", 1), ("90", 4),
    ("0f0120", 2), ("0f0100", 6), ("c400", 6), ("660fb200", 4), ("d930", 28), ("66d920", 14), ("dd30", 108),
    ("66dd20", 94), ("0fae00", 512), ("0fae08", 512),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "width"), WIDTHS)
def test_it_knows_how_wide_a_memory_operand_is(raw: str, width: int) -> None:
    assert DECODER.memory_width(decode(bytes.fromhex(raw))) == width


# --- any bytes ---------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(code=st.binary(max_size=80), code32=st.booleans(), eip=st.sampled_from([0, 0x7FF0, 0xFFFF_FFE0]))
def test_any_bytes_decode_as_capstone_decodes_them(code: bytes, code32: bool, eip: int) -> None:
    """However they are fed to it: one behind the other, no gap, no overlap, and up to the first that is none."""
    insns = list(DECODER.decode(code, eip, code32))
    assert b"".join(insn.raw for insn in insns) == code[: sum(len(insn.raw) for insn in insns)]
    at = eip
    for insn in insns:
        assert insn.eip == at & 0xFFFF_FFFF
        assert 1 <= len(insn.raw) <= MAX_LENGTH
        at += len(insn.raw)
    whole = list(ORACLES[code32].disasm_lite(code, eip))
    assert [(insn.raw, str(insn)) for insn in insns] == [
        (code[address - eip : address - eip + size], f"{mnemonic} {text}".strip())
        for address, size, mnemonic, text in whole
    ]


@settings(max_examples=400, deadline=None)
@given(code=st.binary(min_size=1, max_size=15), code32=st.booleans())
def test_the_parts_of_any_instruction_can_be_read(code: bytes, code32: bool) -> None:
    insn = DECODER.one(code, 0x1000, code32)
    if insn is None:
        return
    assert insn.raw.startswith(insn.prefixes)
    assert insn.prefixes + _opcode_bytes(insn) + insn.tail == insn.raw
    assert insn.operand_size in (2, 4)
    assert insn.address_size in (2, 4)


def _opcode_bytes(insn: Insn) -> bytes:
    opcode = insn.opcode
    return bytes([opcode]) if opcode < 0x100 else opcode.to_bytes(2, "big")


FENCES = [
    ("0faee8", "lfence"),
    ("0faeef", "lfence"),
    ("0faef1", "mfence"),
    ("2e0faeff", "sfence"),
    ("660faef0", "(bad)"),  # TPAUSE, later
    ("f30faef1", "(bad)"),  # UMONITOR, later
    ("f20faeff", "(bad)"),
    ("660faef8", "(bad)"),  # PCOMMIT, later
    ("660fae00", "(bad)"),
    ("f30fae10", "(bad)"),
    ("660fae30", "(bad)"),  # CLWB, later
    ("f00faee8", ""),
    ("660fae", ""),
]


@pytest.mark.parametrize(("raw", "name"), FENCES)
def test_fences_mind_no_rm_but_prefixes(raw: str, name: str) -> None:
    """SDM Vol. 2A, "LFENCE - Load Fence": the r/m field is ignored; NP: 66h, F2h and F3h are not allowed."""
    found = Decoder().one(bytes.fromhex(raw), 0, True)
    assert ("" if found is None else found.name) == name


@pytest.mark.parametrize("code32", [False, True])
@pytest.mark.parametrize(
    ("code", "name"),
    [("f3670f1045f8", "movss"), ("f3673e0f0106", "sgdt"), ("67f33e0f1006", "movss"), ("f2670f5805", "addsd"), ("66f3670fbc00", "bsf"), ("f3670f0106", "sgdt"),
     ("f2676790", "nop"), ("f36790", "pause"), ("f367a5", "movsd"), ("f3670fb60a", "movzx")],
)  # fmt: skip
def test_prefixes_stand_in_any_order(code32, code, name):
    """An address size behind a repeat prefix: the bytes are the same ones with the two exchanged."""
    raw = bytes.fromhex(code).ljust(12, b"\0")
    other = raw
    for repeat in (b"\xf2", b"\xf3"):
        other = other.replace(repeat + b"\x67", b"\x67" + repeat).replace(repeat + b"\x3e", b"\x3e" + repeat)
    first, second = Decoder().one(raw, 0x100, code32), Decoder().one(other, 0x100, code32)
    assert first is not None
    assert second is not None
    assert (first.mnemonic, first.text, len(first.raw)) == (second.mnemonic, second.text, len(second.raw))
    assert first.raw == raw[: len(first.raw)]
    assert Decoder().memory_width(first) == Decoder().memory_width(second)
    assert next(Decoder().decode(raw, 0x100, code32)).raw == first.raw
