"""Templates: assembled once, every field found again, and no trap of the assembler's sprung."""

import re
from collections.abc import Iterator

import capstone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt import branches, sensitive
from bt.assemble import TemplateError, assemble, template

MODES = {False: capstone.CS_MODE_16, True: capstone.CS_MODE_32}


def listing(code: bytes, code32: bool) -> list[str]:
    """The code as Capstone reads it, all of it."""
    insns = list(capstone.Cs(capstone.CS_ARCH_X86, MODES[code32]).disasm(code, 0))
    assert sum(insn.size for insn in insns) == len(code)
    return [f"{insn.mnemonic} {insn.op_str}".strip() for insn in insns]


@pytest.mark.parametrize("code32", [False, True])
def test_a_field_is_filled_in_wherever_it_stands(code32: bool) -> None:
    made = template("mov ecx, dword ptr cs:[{A}]\nlea ecx, [ecx + {B}]\nmov dword ptr cs:[{A}], ecx", code32)
    assert sorted(name for _, name in made.fields) == ["A", "A", "B"]
    assert listing(made.emit({"A": 0x1234_5678, "B": -2}), code32) == [
        "mov ecx, dword ptr cs:[0x12345678]",
        "lea ecx, [ecx - 2]",
        "mov dword ptr cs:[0x12345678], ecx",
    ]


def test_the_operand_prefix_appears_in_16_bit_code_only() -> None:
    text = "{o} jecxz there\nnop\nthere:"
    assert template(text, True).code == bytes.fromhex("e30190")
    assert template(text, False).code == bytes.fromhex("6667e30190")


def test_a_template_is_assembled_once() -> None:
    assert template("mov eax, {X}", True) is template("mov eax, {X}", True)
    assert template("mov eax, {X}", True) is not template("mov eax, {X}", False)


def test_emitting_leaves_the_template_alone() -> None:
    made = template("mov ecx, {X}", True)
    before = made.code
    assert made.emit({"X": 1}) != made.emit({"X": 2})
    assert made.code == before


def test_what_the_assembler_refuses_is_named() -> None:
    with pytest.raises(TemplateError, match="no such thing"):
        assemble("no such thing", True)


def test_a_field_that_cannot_be_found_again_is_refused() -> None:
    """An 8-bit immediate has no room for it: Keystone cuts the mark."""
    with pytest.raises(TemplateError, match="field X: 0 places found"):
        template("mov cl, byte ptr [esp]\nmov ch, {X} & 0xff", True)


@settings(max_examples=100, deadline=None)
@given(first=st.integers(-(1 << 31), (1 << 32) - 1), second=st.integers(0, (1 << 32) - 1), code32=st.booleans())
def test_any_value_can_be_filled_in(first: int, second: int, code32: bool) -> None:
    made = template("mov ecx, dword ptr cs:[{A}]\nmov edx, dword ptr cs:[{B}]", code32)
    code = made.emit({"A": first, "B": second})
    for (at, name), value in zip(made.fields, (first, second), strict=True):
        assert code[at : at + 4] == (value & 0xFFFF_FFFF).to_bytes(4, "little")
        assert name in ("A", "B")
    masked = bytearray(code)
    for at, _ in made.fields:
        masked[at : at + 4] = made.code[at : at + 4]
    assert bytes(masked) == made.code


# --- every template of ours --------------------------------------------------------------------------------


def _texts() -> Iterator[tuple[str, str]]:
    """Templates by name, with what `%` puts into them; those that end in another's label are completed."""
    for operand in (2, 4):
        ops = sensitive._STACK_OPS[operand]
        yield f"pushf {operand}", sensitive._PUSHF % ops
        yield f"popf take {operand}", sensitive._POPF_TAKE % ops
    for name, rest in (("32", sensitive._POPF_KERNEL_32), ("16", sensitive._POPF_KERNEL_16)):
        yield f"popf kernel {name}", sensitive._POPF_KERNEL % {"rest": rest} + sensitive._POPF_ARITHMETIC + "done:"
    yield "popf user", sensitive._POPF_USER + sensitive._POPF_ARITHMETIC + "done:"
    yield "cli", sensitive._CLI
    yield "sti", sensitive._STI + "none:"
    for (code32, size), text in branches._DISPATCH.items():
        yield f"dispatch {size} {code32}", text
    yield "nowhere", branches._NOWHERE
    yield "save", branches._SAVE_ECX
    yield "close", sensitive._STORE_CLOSE


TEXTS = dict(_texts())


@pytest.mark.parametrize("code32", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_a_template_assembles_to_the_instructions_it_names(name: str, code32: bool) -> None:
    """One machine instruction for each line, the same mnemonics in the same order, no operand cut or widened."""
    wanted = [_normal(line) for line in _lines(TEXTS[name])]
    made = template(TEXTS[name], code32)
    values = {field: 0x0BAD_0000 + 0x111 * number for number, (_, field) in enumerate(made.fields)}
    found = listing(made.emit(values), code32)
    assert [line.split()[0] for line in found] == [line.split()[0] for line in wanted]
    for line, expected in zip(found, wanted, strict=True):
        if not expected.startswith("j"):
            assert _normal(line) == _filled(expected, values)


@pytest.mark.parametrize("code32", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_what_is_kept_is_what_keystone_makes(name: str, code32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m tools.assemble_templates` brings the file up to date."""
    kept = template.__wrapped__(TEXTS[name], code32)
    monkeypatch.setattr("bt.assemble._kept", dict)
    assert template.__wrapped__(TEXTS[name], code32) == kept


def _lines(text: str) -> Iterator[str]:
    for line in re.split(r"[\n;]", text):
        bare = line.replace("{o}", "").strip()
        if bare == ".byte 0xe9":  # JMP rel32, whose displacement follows as a field
            yield "jmp"
        elif bare and not bare.endswith(":") and not bare.startswith(".long"):
            yield bare


def _filled(line: str, values: dict[str, int]) -> str:
    return _normal(re.sub(r"\{(\w+)\}", lambda match: hex(values[match[1]]), line))


def _normal(line: str) -> str:
    """One spelling for numbers."""
    return re.sub(r"\b(0x[0-9a-f]+|\d+)\b", lambda match: hex(int(match[1], 0)), line)


def test_nothing_of_ours_takes_eax_to_memory() -> None:
    """MOV between EAX and an address alone has a form with a 16-bit offset, which Keystone takes in 16-bit code."""
    for text in TEXTS.values():
        assert not re.search(r"mov (dword ptr cs:\[\{\w+\}\], eax|eax, dword ptr cs:)", text)
