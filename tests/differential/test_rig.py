"""The rig: what it takes down, how it goes on behind faults, how programs end."""

import pytest
from programs import ENTRY, jump_to, program

from vmm.differential import layout
from vmm.differential.modes import MODES, Paging
from vmm.differential.outcome import GENERAL, Ending, Stop
from vmm.differential.program import Patch
from vmm.differential.rig import Rig

IF = 0x200
RAISE = "mov al, 0x25; out 0x50, al"


def register(stop: Stop, name: str) -> int:
    return stop.general[GENERAL.index(name)]


@pytest.mark.parametrize("mode", MODES)
def test_a_fault_is_taken_down_and_the_next_step_runs(translate: Rig, mode: str) -> None:
    outcome = translate.run(program(mode, "inc ax", "ud2", "inc bx", "inc bx"))
    assert outcome.ending is Ending.DONE
    assert outcome.vectors[0] == 6
    assert register(outcome.stops[0], "eax") == 1
    assert register(outcome.stops[0], "ebx") == 0
    assert register(outcome.stops[-1], "ebx") == 2
    assert outcome.has_faulted


@pytest.mark.parametrize("paging", [Paging.BITS_32, Paging.PAE])
@pytest.mark.parametrize("mode", ["v86-iopl3", "p16-ring0", "p32-ring3"])
def test_a_hole_in_the_page_tables_faults(translate: Rig, mode: str, paging: Paging) -> None:
    at, width = layout.entry_at(paging, layout.DATA >> 12)
    outcome = translate.run(program(mode, "mov ax, [0x40]", paging=paging, patches=(Patch(at, bytes(width)),)))
    assert outcome.vectors[0] == 14
    assert outcome.stops[0].control[1] == layout.DATA + 0x40


@pytest.mark.parametrize("mode", ["real", "v86-iopl3", "p16-ring0", "p32-ring0"])
def test_an_interrupt_comes_where_the_architecture_lets_it_in(translate: Rig, mode: str) -> None:
    outcome = translate.run(program(mode, "cli", RAISE, "inc bx", "sti", "inc bx", "inc bx"))
    assert outcome.interrupts == 1
    assert outcome.vectors[0] == 0x45
    assert register(outcome.stops[0], "ebx") == 2  # one behind the shadow of STI
    assert register(outcome.stops[-1], "ebx") == 3
    assert outcome.traffic == (("out", 0x50, 1, 0x25),)


def test_a_hlt_of_the_programs_own_is_a_stop_too(translate: Rig) -> None:
    outcome = translate.run(program("real", "hlt", "inc ax"))
    assert [(stop.where, stop.eip) for stop in outcome.stops] == [("halt", 0x101), ("end", 0x103)]


def test_a_loop_without_an_end_is_endless(translate: Rig) -> None:
    assert translate.run(program("real", jump_to(0))).ending is Ending.ENDLESS


def test_a_task_gate_comes_back_to_the_next_step(translate: Rig) -> None:
    gate = Patch(layout.IDT + 8 * 6, layout.gate(0, layout.SPARE_TSS, 5))
    outcome = translate.run(program("p32-ring3", "ud2", "inc eax", patches=(gate,)))
    assert outcome.stops[0].where == "task"
    assert outcome.stops[-1].where == "handler 13"  # HLT at the end, in ring 3
    assert register(outcome.stops[-1], "eax") == 1


def test_changed_pages_are_those_of_the_program(translate: Rig) -> None:
    outcome = translate.run(program("p32-ring0", "mov [0x40], al"))
    assert set(outcome.memory) == {layout.DATA >> 12}
    assert translate.page(layout.DATA >> 12)[0x40] == 0


def test_what_one_program_left_behind_does_not_show_in_the_next(translate: Rig) -> None:
    probe = program("p32-ring0", "mov eax, [0x40]; fld1; ud2", entry=ENTRY)
    first = translate.run(probe)
    translate.run(program("p32-ring0", "mov dword ptr [0x40], 5; fldpi; mov eax, 0x20; mov cr4, eax"))
    assert translate.run(probe) == first
