"""Making failures small."""

from programs import jump_to, program

from vmm.differential.modes import Paging
from vmm.differential.program import Patch, Program
from vmm.differential.shrink import shrink


def test_what_does_not_matter_goes() -> None:
    big = program(
        "p32-ring0", "inc eax", jump_to(3), "inc ebx", "inc ecx; ud2", "inc edx",
        eflags=0x8D5, paging=Paging.PAE, patches=(Patch(0x500, b"1"), Patch(0x501, b"2")), eax=5, ebx=6,
    )  # fmt: skip

    def fails(candidate: Program) -> bool:
        code, _ = candidate.assemble()
        return b"\x0f\x0b" in code and Patch(0x501, b"2") in candidate.patches and candidate.registers[3] == 6

    small = shrink(big, fails)
    assert [step.code for step in small.steps] == [b"\x0f\x0b"]
    assert small.patches == (Patch(0x501, b"2"),)
    assert (small.eflags, small.cr4, small.paging) == (0, 0, Paging.NONE)
    assert small.registers == (0, 0, 0, 6, big.registers[4], 0, 0, 0)


def test_a_program_of_which_everything_matters_stays() -> None:
    one = program("real", "ud2", cr4=0)
    assert shrink(one, lambda candidate: candidate == one) == one
