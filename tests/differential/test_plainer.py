"""A program with less in the way does the same where nothing was in the way."""

from programs import jump_to, program

from vmm.differential import layout
from vmm.differential.modes import Paging
from vmm.differential.plainer import code_in_place, gates_in_order, pages_in_order
from vmm.differential.program import Fixup, Patch, Step
from vmm.differential.rig import Rig

RAW = bytes.fromhex


def new_byte(value: int, step: int, behind: int = 0) -> Step:
    """MOV of a byte to the start of a step of a 16-bit program, or behind it."""
    return Step("mov", bytes([0xC6, 0x06, 0, 0, value]), (Fixup(2, 2, step, layout.DATA - behind),))


def test_new_code_is_in_its_place(translate: Rig) -> None:
    made = program("real", new_byte(0x43, 1), RAW("40"), jump_to(3))
    plain = code_in_place(made)
    assert [step.code for step in plain.steps] == [b"\x90" * 5, b"\x43", b"\xeb\0"]
    assert plain.steps[2].fixups
    assert translate.run(plain).stops == translate.run(made).stops


def test_an_instruction_that_grew_into_the_next_step_is_one(translate: Rig) -> None:
    made = program("real", new_byte(0xB8, 1), RAW("40"), RAW("fcfc"), RAW("43"), jump_to(5))
    plain = code_in_place(made)
    assert [step.code for step in plain.steps] == [b"\x90" * 5, RAW("b8fcfc"), b"\x43", b"\xeb\0"]
    assert plain.steps[-1].fixups[0].step == 4
    assert translate.run(plain).stops == translate.run(made).stops


def test_an_instruction_that_grew_beyond_the_program_has_its_hlts() -> None:
    made = program("real", new_byte(0xB8, 1), RAW("40"))
    assert code_in_place(made).steps[1].code == RAW("b8f4f4")


def test_a_program_that_writes_no_code_stays_as_it_is() -> None:
    made = program("real", RAW("40"))
    assert code_in_place(made) is made
    assert gates_in_order(made) is made


def test_gates_and_pages_are_as_usual() -> None:
    gate, page, descriptor = Patch(layout.IDT + 8, b"1"), Patch(layout.PAGE_TABLE, b"2"), Patch(layout.GDT, b"3")
    made = program("p32-ring0", RAW("40"), paging=Paging.BITS_32, patches=(gate, page, descriptor))
    assert gates_in_order(made).patches == (page, descriptor)
    assert pages_in_order(made).patches == (gate, descriptor)
