"""Debug registers as a guest's debugger uses them: breakpoints, RF, general detect, the trap bit of a TSS."""

import pytest
from guest_bench import (
    CODE,
    DATA,
    ENTRY,
    GDT,
    IDT,
    IF,
    OTHER_TSS,
    P32,
    P32_BASED,
    RF,
    STACK0,
    TF,
    TSS_B,
    Bench,
    Mode,
    Picture,
    asm,
    flat_code,
    interrupt_gate,
    little,
)

from vmm.arch.exceptions import Vector

DB = (Vector.DB, None)
L0, G0, G1, L3, LE = 1 << 0, 1 << 1, 1 << 3, 1 << 6, 1 << 8
GD = 1 << 13
B0, B1, B3, BD, BS, BT = 1 << 0, 1 << 1, 1 << 3, 1 << 13, 1 << 14, 1 << 15
DR6_ONES, DR7_ONE = 0xFFFF_0FF0, 1 << 10
BOTH = [pytest.param(P32[0], id="ring0"), pytest.param(P32[3], id="ring3")]
RESUME = "or dword ptr [esp + 8], 0x10000; iretd"  # set RF in the frame, go back


def breakpoint_at(bench: Bench, number: int, linear: int, enables: int) -> None:
    """Set DRn and the enable bits of DR7."""
    bench.vcpu.dr[number] = linear
    bench.vcpu.dr[7] |= enables | DR7_ONE


def frame_flags(bench: Bench) -> int:
    """EFLAGS in the frame that a handler without an error code sees."""
    return bench.word(bench.vcpu.reg32(4) + 8)


def at(mode: Mode, code: str) -> int:
    """The linear address behind `code`, which begins the program."""
    return CODE + ENTRY + len(asm(code, mode.code32))


def resuming_handler(bench: Bench, count_at: int) -> None:
    """A #DB handler elsewhere that counts, sets RF in the frame, and returns."""
    bench.poke(CODE + 0xC00, asm(f"inc dword ptr [{count_at}]; {RESUME}", True))
    bench.poke(count_at, 0)
    bench.poke(IDT + 8, interrupt_gate(CODE + 0xC00))


# --- breakpoints on execution --------------------------------------------------------------------------------

BEFORE = "inc eax; inc eax"
BODY = f"{BEFORE}; inc ebx; inc ecx"


@pytest.mark.parametrize("mode", [*BOTH, pytest.param(P32_BASED[0], id="with a CS base")])
@pytest.mark.parametrize(
    ("number", "enables", "bit"), [(0, L0, B0), (0, G0, B0), (1, G1 | LE, B1), (3, L3, B3)]
)  # fmt: skip
def test_a_breakpoint_strikes_before_its_instruction(bench, mode, number, enables, bit):
    bench.start(mode, BODY)
    breakpoint_at(bench, number, at(mode, BEFORE), enables)
    before = bench.here()
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, mode.entry + 2)
    assert (after["eax"], after["ebx"]) == (before["eax"] + 2, before["ebx"])
    assert after["dr"][6] == DR6_ONES | bit
    assert not frame_flags(bench) & RF


@pytest.mark.parametrize("mode", BOTH)
def test_a_breakpoint_at_the_first_instruction_strikes(bench, mode):
    bench.start(mode, BODY)
    breakpoint_at(bench, 0, CODE + ENTRY, L0)
    before = bench.here()
    after = bench.run()
    assert (after["fault"], after["eip"], after["eax"]) == (DB, mode.entry, before["eax"])


@pytest.mark.parametrize("enables", [0, LE, G1, L0 | 3 << 16, L0 | 1 << 16])
def test_a_breakpoint_that_is_not_enabled_for_execution_never_strikes(bench, enables):
    bench.start(P32[0], BODY)
    breakpoint_at(bench, 0, at(P32[0], BEFORE), enables)
    assert bench.run()["eip"] == "end"


def test_a_breakpoint_in_mid_instruction_never_strikes(bench):
    bench.start(P32[0], "mov eax, 0x90909090; inc ebx")
    breakpoint_at(bench, 0, CODE + ENTRY + 2, L0)
    assert bench.run()["eip"] == "end"


@pytest.mark.parametrize("mode", BOTH)
def test_rf_in_the_frame_lets_the_instruction_run_once(bench, mode):
    """A loop of three: the breakpoint strikes in each turn, and RF is spent after one instruction."""
    bench.start(mode, "mov ecx, 3; again: inc ebx; dec ecx; jnz again")
    count = DATA + 0x80
    resuming_handler(bench, count)
    breakpoint_at(bench, 0, at(mode, "mov ecx, 3"), G0)
    before = bench.here()
    after = bench.run()
    assert (after["eip"], bench.word(count), after["ebx"]) == ("end", 3, before["ebx"] + 3)
    assert after["dr"][6] == DR6_ONES | B0


def test_without_rf_it_strikes_again(bench):
    """A handler that returns to it as it came, twice, then gives up."""
    bench.start(P32[0], BODY)
    bench.poke(
        CODE + 0xC00, asm("inc dword ptr [0x20080]; cmp dword ptr [0x20080], 3; je enough; iretd; enough: hlt", True)
    )
    bench.poke(DATA + 0x80, 0)
    bench.poke(IDT + 8, interrupt_gate(CODE + 0xC00))
    breakpoint_at(bench, 0, at(P32[0], BEFORE), L0)
    bench.run()
    assert bench.word(DATA + 0x80) == 3


def test_a_breakpoint_set_by_the_code_before_it_strikes(bench):
    """Blocks that ran before without it are no excuse."""
    program = """
            xor ebx, ebx
        again:
            inc ebx
            nop
            cmp ebx, 2
            je over
            mov eax, {target}
            mov dr0, eax
            mov eax, 0x402
            mov dr7, eax
            jmp again
        over:
            mov ecx, 1
    """
    target = CODE + ENTRY + 3  # the second NOP-sized instruction of the loop: `nop` behind xor (2) and inc (1)
    bench.start(P32[0], program.format(target=target))
    after = bench.run()
    assert (after["fault"], after["eip"], after["ebx"]) == (DB, target, 2)


def test_a_breakpoint_on_the_instruction_behind_mov_dr7_strikes(bench):
    code = "mov dr7, edx"
    bench.start(P32[0], f"{code}; inc ebx", edx=G0 | DR7_ONE)
    bench.vcpu.dr[0] = at(P32[0], code)
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, at(P32[0], code))


def test_a_breakpoint_whose_address_is_set_last_strikes(bench):
    """DR7 enables it before DR0 says where it is."""
    code = "mov dr7, edx; mov dr0, esi"
    bench.start(P32[0], f"{code}; inc ebx; inc ecx", edx=G0 | DR7_ONE)
    bench.set(esi=at(P32[0], f"{code}; inc ebx"))
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, at(P32[0], f"{code}; inc ebx"))


def test_a_cleared_breakpoint_is_gone(bench):
    bench.start(P32[0], "xor eax, eax; mov dr7, eax; inc ebx; inc ecx")
    breakpoint_at(bench, 0, at(P32[0], "xor eax, eax; mov dr7, eax; inc ebx"), G0)
    assert bench.run()["eip"] == "end"


def test_breakpoints_are_at_linear_addresses(bench):
    """The same code at its alias is another place."""
    alias = 0x40_0000
    bench.start(P32[0], BODY)
    bench.map_pages(alias=alias)
    breakpoint_at(bench, 0, alias + at(P32[0], BEFORE), L0)
    assert bench.run()["eip"] == "end"
    bench.start(P32[0], BODY)
    bench.vcpu.eip += alias
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, alias + at(P32[0], BEFORE))


def test_a_breakpoint_at_a_faulting_instruction_comes_first(bench):
    bench.start(P32[3], f"{BEFORE}; cli; nop")
    breakpoint_at(bench, 0, at(P32[3], BEFORE), L0)
    assert bench.run()["fault"] == DB


def test_a_single_step_and_a_breakpoint_on_the_next_instruction_are_one_event(bench):
    """SDM Vol. 3B, "Debug Exceptions": several conditions can be met at once, and DR6 shows them all."""
    bench.start(P32[3], BODY, eflags=TF)
    breakpoint_at(bench, 0, at(P32[3], "inc eax"), L0)
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, CODE + ENTRY + 1)
    assert after["dr"][6] & ~B0 == DR6_ONES | BS


# --- single steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", BOTH)
def test_a_single_step_sets_bs_and_no_rf(bench, mode):
    bench.start(mode, BODY, eflags=TF | IF)
    after = bench.run()
    assert (after["fault"], after["eip"], after["dr"][6]) == (DB, mode.entry + 1, DR6_ONES | BS)
    assert not frame_flags(bench) & RF


OLD = B0 | B3 | BT | BD


def test_dr6_keeps_what_the_handler_does_not_clear_but_for_breakpoints(bench):
    """SDM Vol. 3B, "Debug Status Register (DR6)": bits 0-3 may be cleared by a debug exception, the others never are."""
    bench.start(P32[0], BODY, eflags=TF)
    bench.vcpu.dr[6] = DR6_ONES | OLD
    assert bench.run()["dr"][6] == DR6_ONES | BT | BD | BS


def test_a_breakpoint_shows_itself_and_not_an_older_one(bench):
    bench.start(P32[0], BODY)
    breakpoint_at(bench, 1, at(P32[0], BEFORE), G1)
    bench.vcpu.dr[6] = DR6_ONES | OLD | BS
    assert bench.run()["dr"][6] == DR6_ONES | BT | BD | BS | B1


def test_general_detect_clears_older_breakpoints(bench):
    bench.start(P32[0], "mov eax, dr0")
    bench.vcpu.dr[7] = DR7_ONE | GD
    bench.vcpu.dr[6] = DR6_ONES | B0 | BS
    assert bench.run()["dr"][6] == DR6_ONES | BD | BS


def test_int1_shows_nothing_in_dr6(bench):
    bench.start(P32[0], "int1")
    bench.vcpu.dr[6] = DR6_ONES | OLD
    after = bench.run()
    assert (after["fault"], after["dr"][6]) == (DB, DR6_ONES | OLD)


# --- general detect -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["mov eax, dr0", "mov dr3, eax", "mov eax, dr7", "mov dr7, eax", "mov eax, dr6"])
def test_general_detect_is_a_fault_that_opens_the_registers(bench, code):
    bench.start(P32[0], code)
    bench.vcpu.dr[7] = DR7_ONE | GD
    before = bench.here()
    after = bench.run()
    assert after == before | {
        "eip": P32[0].entry,
        "fault": DB,
        "dr": (0, 0, 0, 0, 0, 0, DR6_ONES | BD, DR7_ONE),
    }
    assert frame_flags(bench) & RF


def test_general_detect_does_not_hide_privilege(run_guest, used_bench):
    used_bench.start(P32[3], "mov eax, dr0")
    used_bench.vcpu.dr[7] = DR7_ONE | GD
    after = used_bench.run()
    assert (after["fault"], after["dr"][7]) == ((Vector.GP, 0), DR7_ONE | GD)


# --- task switches --------------------------------------------------------------------------------------------


def other_task(bench: Bench, trap: int) -> None:
    """A TSS for ring 0 at CODE + 800h."""
    image = bytearray(0x68)
    values = {0x20: CODE + 0x800, 0x24: 2, 0x38: STACK0 - 0x800, 0x48: flat_code(0) + 8, 0x4C: flat_code(0),
              0x50: flat_code(0) + 8, 0x54: flat_code(0) + 8, 0x64: trap}  # fmt: skip
    for offset, value in values.items():
        image[offset : offset + 4] = little(value, 4)
    bench.poke(TSS_B, bytes(image))
    bench.poke(CODE + 0x800, asm("inc edi; hlt", True))


def jump_to_task(bench: Bench, trap: int) -> Picture:
    bench.start(P32[0], "nop")
    bench.poke(CODE + ENTRY, b"\xea" + bytes(4) + little(OTHER_TSS, 2))
    other_task(bench, trap)
    bench.vcpu.dr[7] = DR7_ONE | L0 | G1 | L3 | LE
    return bench.run()


def test_the_trap_bit_of_a_tss_stops_before_the_new_tasks_first_instruction(bench):
    after = jump_to_task(bench, trap=1)
    assert (after["fault"], after["eip"], after["edi"]) == (DB, CODE + 0x800, 0)
    assert after["dr"][6] == DR6_ONES | BT
    assert bench.word(GDT + OTHER_TSS + 5, 1) == 0x8B
    assert not frame_flags(bench) & RF


def test_local_breakpoints_end_with_the_task(bench):
    after = jump_to_task(bench, trap=0)
    assert (after["edi"], after["dr"][7]) == (1, DR7_ONE | G1)
    assert "fault" not in after
