"""Forms: each sensitive instruction gets the manual's name and the class that the SDM gives it; no other gets one."""

import pytest

from bt.decode import Decoder, Insn
from bt.tables import BRANCHES, CRITICAL, INLINE, IOPL_SENSITIVE, LEAVING, PARTLY, PRIVILEGED, is_sensitive
from vmm.census.forms import Form, Kind, form_of
from vmm.census.scan import Region, sweep

DECODER = Decoder()


def decoded(code: str, code32: bool = True) -> Insn:
    insn = DECODER.one(bytes.fromhex(code), 0, code32)
    assert insn is not None
    return insn


CASES = [
    pytest.param("0f0100", "SGDT", "m16&32", Kind.CRITICAL, id="sgdt"),
    pytest.param("0f0108", "SIDT", "m16&32", Kind.CRITICAL, id="sidt"),
    pytest.param("0f00c0", "SLDT", "r32", Kind.CRITICAL, id="sldt_r32"),
    pytest.param("660f00c0", "SLDT", "r16", Kind.CRITICAL, id="sldt_r16"),
    pytest.param("0f0008", "STR", "m16", Kind.CRITICAL, id="str_memory"),
    pytest.param("0f01e0", "SMSW", "r32", Kind.CRITICAL, id="smsw_r32"),
    pytest.param("9c", "PUSHF", "32-bit", Kind.CRITICAL, id="pushfd"),
    pytest.param("669d", "POPF", "16-bit", Kind.CRITICAL, id="popf"),
    pytest.param("0f02c1", "LAR", "r32, r32", Kind.CRITICAL, id="lar"),
    pytest.param("660f0300", "LSL", "r16, m16", Kind.CRITICAL, id="lsl_memory"),
    pytest.param("0f00e0", "VERR", "r16", Kind.CRITICAL, id="verr"),
    pytest.param("0f0028", "VERW", "m16", Kind.CRITICAL, id="verw_memory"),
    pytest.param("0e", "PUSH", "CS", Kind.CRITICAL, id="push_cs"),
    pytest.param("0fa9", "POP", "GS", Kind.CRITICAL, id="pop_gs"),
    pytest.param("9a000000000800", "CALL", "ptr16:32", Kind.CRITICAL, id="call_far"),
    pytest.param("ff18", "CALL", "m16:32", Kind.CRITICAL, id="call_far_through_memory"),
    pytest.param("66ff28", "JMP", "m16:16", Kind.CRITICAL, id="jmp_far_through_memory"),
    pytest.param("cb", "RET", "far", Kind.CRITICAL, id="retf"),
    pytest.param("ca0400", "RET", "far, imm16", Kind.CRITICAL, id="retf_imm16"),
    pytest.param("cd80", "INT", "imm8", Kind.CRITICAL, id="int"),
    pytest.param("cc", "INT3", "", Kind.CRITICAL, id="int3"),
    pytest.param("ce", "INTO", "", Kind.CRITICAL, id="into"),
    pytest.param("66cf", "IRET", "16-bit", Kind.CRITICAL, id="iret"),
    pytest.param("8cc8", "MOV", "r32, CS", Kind.CRITICAL, id="mov_from_cs"),
    pytest.param("8c18", "MOV", "m16, DS", Kind.CRITICAL, id="mov_ds_to_memory"),
    pytest.param("8ed0", "MOV", "SS, r16", Kind.CRITICAL, id="mov_ss"),
    pytest.param("0f20d8", "MOV", "r32, CR3", Kind.PRIVILEGED, id="mov_from_cr3"),
    pytest.param("0f22c0", "MOV", "CR0, r32", Kind.PRIVILEGED, id="mov_to_cr0"),
    pytest.param("0f23f8", "MOV", "DR7, r32", Kind.PRIVILEGED, id="mov_to_dr7"),
    pytest.param("0f0110", "LGDT", "m16&32", Kind.PRIVILEGED, id="lgdt"),
    pytest.param("0f01f0", "LMSW", "r16", Kind.PRIVILEGED, id="lmsw"),
    pytest.param("f4", "HLT", "", Kind.PRIVILEGED, id="hlt"),
    pytest.param("fa", "CLI", "", Kind.IOPL, id="cli"),
    pytest.param("e460", "IN", "AL, imm8", Kind.IOPL, id="in_imm8"),
    pytest.param("66ef", "OUT", "DX, AX", Kind.IOPL, id="out_dx"),
    pytest.param("f36d", "INS", "REP m32", Kind.IOPL, id="rep_insd"),
    pytest.param("6e", "OUTS", "m8", Kind.IOPL, id="outsb"),
    pytest.param("0fa2", "CPUID", "", Kind.OTHER, id="cpuid"),
    pytest.param("0fb220", "LSS", "r32, m16:32", Kind.OTHER, id="lss"),
]


@pytest.mark.parametrize(("code", "instruction", "operands", "kind"), CASES)
def test_a_sensitive_instruction_has_the_manuals_form_and_class(code, instruction, operands, kind) -> None:
    assert form_of(decoded(code)) == Form(instruction, operands, kind)


INNOCUOUS = ["90", "50", "58", "89c8", "8b00", "e800000000", "ff10", "ff20", "ffd0", "c3", "c20400", "0f0d00", "f390"]


@pytest.mark.parametrize("code", INNOCUOUS)
def test_what_is_not_sensitive_has_no_form(code: str) -> None:
    assert form_of(decoded(code)) is None


def test_operand_sizes_follow_the_code_size() -> None:
    assert form_of(decoded("9c", code32=False)) == Form("PUSHF", "16-bit", Kind.CRITICAL)
    assert form_of(decoded("669c", code32=False)) == Form("PUSHF", "32-bit", Kind.CRITICAL)


@pytest.mark.parametrize("names", [CRITICAL, PRIVILEGED, IOPL_SENSITIVE], ids=["critical", "privileged", "iopl"])
def test_every_name_of_the_classes_is_one_that_the_translator_treats(names: tuple[str, ...]) -> None:
    treated = {*INLINE, *PARTLY, *LEAVING, *BRANCHES, "ins", "outs"}
    assert [name for name in names if name not in treated] == []


MODRM_OPCODES = ["8c", "8e", "0f00", "0f01", "0f02", "0f03", "0f20", "0f21", "0f22", "0f23", "0fb2", "c4", "c5", "ff"]


@pytest.mark.parametrize("code32", [False, True], ids=["16", "32"])
@pytest.mark.parametrize("opcode", MODRM_OPCODES)
def test_a_sweep_sees_the_form_of_each_modrm_byte(opcode: str, code32: bool) -> None:
    """The sweep remembers forms by shape: what it learned of one ModR/M byte must not be said of another."""
    insns = [DECODER.one(bytes.fromhex(opcode) + bytes([modrm]) + bytes(8), 0, code32) for modrm in range(256)]
    there = [insn for insn in insns if insn is not None]
    expected: dict[Form, list[int]] = {}
    at = 0
    for insn in there:
        if is_sensitive(insn):
            form = form_of(insn)
            assert form is not None
            expected.setdefault(form, []).append(at)
        at += len(insn.raw)
    found = sweep([Region("", 0, b"".join(insn.raw for insn in there), code32)])
    assert (found.places, found.instructions) == (expected, len(there))
