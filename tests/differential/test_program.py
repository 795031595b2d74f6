"""Programs: their layout, what is left when steps go, and their text form."""

from programs import ENTRY, jump_to, program

from vmm.differential import layout
from vmm.differential.modes import Paging
from vmm.differential.program import Fixup, Patch, Program, Step


def test_fixups_lead_to_the_steps_they_name() -> None:
    made = program("real", jump_to(2), "inc ax", "inc bx", jump_to(9))
    code, starts = made.assemble()
    assert code == bytes.fromhex("eb01 40 43 eb00 f4")
    assert starts == (ENTRY, ENTRY + 2, ENTRY + 3, ENTRY + 4, ENTRY + 6)


def test_a_fixup_with_an_origin_is_an_offset_in_that_segment() -> None:
    push = Step("push", b"\x68\0\0", (Fixup(1, 2, 1, layout.CODE),))
    assert program("real", push, "ret").assemble()[0][:3] == b"\x68" + (0x103).to_bytes(2, "little")


def test_what_led_to_a_step_that_is_gone_leads_behind_it() -> None:
    made = program("real", jump_to(2), "inc ax", "inc bx", "inc cx").without(2, 1)
    assert [step.name for step in made.steps] == ["jmp", "inc", "inc"]
    assert made.assemble()[0] == bytes.fromhex("eb01 40 41 f4")
    assert made.without(1, 1).assemble()[0] == bytes.fromhex("eb00 41 f4")


def test_a_program_survives_its_text_form() -> None:
    made = program("p32-ring3", jump_to(1), "inc eax", paging=Paging.PAE, patches=(Patch(5, b"abc"),), ebx=7)
    assert Program.from_json(made.to_json()) == made
    assert made.to_json()["listing"] == [f"{ENTRY:05x}  eb 00                     jmp 0x102",
                                         f"{ENTRY + 2:05x}  40                        inc eax"]  # fmt: skip


def test_memory_has_the_code_the_patches_and_hlt_where_nothing_else_is() -> None:
    ram = program("real", "inc ax", patches=(Patch(0x500, b"\x12\x34"),)).memory()
    assert ram[ENTRY : ENTRY + 2] == b"\x40\xf4"
    assert ram[0x500:0x503] == b"\x12\x34\xf4"
    assert len(ram) == layout.RAM
