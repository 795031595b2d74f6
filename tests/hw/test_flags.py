"""Arithmetic flags at page faults of instructions that work them out before they access memory."""

import pytest
from cpu_rig import DATA, NX, Exit, P, Rig, U

from vmm.arch.registers import ARITHMETIC, Eflags, Reg
from vmm.hw import flags

CF, PF, AF, ZF, SF, OF = (int(Eflags[name]) for name in ("CF", "PF", "AF", "ZF", "SF", "OF"))
MISSING = 0x50_0000
BEFORE = {
    "add al, 1": CF | ZF | PF | AF,
    "sub al, 0xff": ZF | PF,
    "and al, al": SF | PF,
    "inc al": ZF | PF | AF,
    "stc": CF,
    "sub al, 0x7f; sub al, 0x46": OF | AF | PF,
}
"""From AL = FFh and flags clear. Twice the same kind of instruction, with an operand that looks like flags."""
ON_MEMORY = [*(f"set{condition} byte ptr" for condition in ("o", "c", "z", "be", "s", "p", "l", "le")),
             "rcl dword ptr", "rcr byte ptr"]  # fmt: skip


def test_this_engine_can_be_mended() -> None:
    assert flags.AVAILABLE


def faulting(rig: Rig, text: str) -> int:
    """The flags at the page fault of `text` at CPL 0, mended."""
    rig.load(text)
    rig.enter(cpl=0)
    rig.cpu.state.q[Reg.EAX] = 0xFF
    name = text.rpartition("; ")[2].split()[0]

    def then(_exit: Exit) -> bool:
        flags.mend(rig.cpu.state, lambda: name)
        return False

    rig.then = then
    assert rig.run().vector == 14
    return rig.flags() & ARITHMETIC


@pytest.mark.parametrize("instruction", ON_MEMORY)
@pytest.mark.parametrize(("before", "expected"), BEFORE.items())
def test_a_fault_leaves_the_flags_as_they_were(rig: Rig, before: str, expected: int, instruction: str) -> None:
    rest = ", 1" if instruction.startswith("rc") else ""
    assert faulting(rig, f"{before}; {instruction} [{MISSING:#x}]{rest}") == expected


@pytest.mark.parametrize("instruction", ["rcl", "rcr"])
@pytest.mark.parametrize(("before", "expected"), BEFORE.items())
def test_a_rotation_that_cannot_store_leaves_them_too(rig: Rig, before: str, expected: int, instruction: str) -> None:
    rig.map(MISSING, DATA, P | U | NX)
    assert faulting(rig, f"{before}; {instruction} dword ptr [{MISSING:#x}], 1") == expected


@pytest.mark.parametrize("instruction", ["setz cl", "rcl ecx, 1"])
def test_what_an_instruction_before_made_of_them_stands(rig: Rig, instruction: str) -> None:
    """The flags were worked out close by, but not for the access that faults."""
    expected = ZF | PF | AF | (CF if instruction.startswith("set") else 0)
    assert faulting(rig, f"add al, 1; {instruction}; mov [{MISSING:#x}], ecx") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("add al, 1; seto cl; sub eax, eax", ZF | PF),
        ("setz cl; cmp al, 1", SF),
        ("sub al, 0xff; sub al, 1; stc; and ecx, 0", ZF | PF),
        ("sub al, 0xff; sub al, 1; stc; xor ecx, ecx", ZF | PF),
    ],
)
def test_flags_made_since_stand(rig: Rig, text: str, expected: int) -> None:
    for store in (f"mov [{MISSING:#x}], ecx", f"setc byte ptr [{MISSING:#x}]"):
        assert faulting(rig, f"{text}; {store}") == expected
