"""Breakpoints on data and on ports, and the alignment check: what the VMM looks for at each access to memory."""

import pytest
from guest_bench import (
    AC,
    CELL,
    CODE,
    DATA,
    EVERY,
    IDT,
    P16,
    P32,
    P32_3_IOPL3,
    P32_BASED,
    PE,
    REAL,
    STACK,
    V86_3,
    asm,
    faulted,
    interrupt_gate,
    little,
)

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr0, Cr4, Seg

DB = (Vector.DB, None)
WRITE, PORT, ACCESS = 1, 2, 3
BYTE, WORD, DWORD = 0, 1, 3
DR6_ONES, DR7_ONE = 0xFFFF_0FF0, 1 << 10
BS = 1 << 14
TF = 1 << 8
AM, DE = int(Cr0.AM), int(Cr4.DE)
MODES = [REAL, V86_3, P16[0], P16[3], P32[0], P32[3], *P32_BASED]
FLAT = [pytest.param(P32[0], id="ring0"), pytest.param(P32[3], id="ring3")]
WATCHED = DATA + CELL


def watch(bench, kind, length=BYTE, address=WATCHED, number=0, enable=1):
    bench.vcpu.dr[number] = address
    bench.vcpu.dr[7] |= DR7_ONE | enable << 2 * number | (kind | length << 2) << 16 + 4 * number


def behind(mode, code):
    return mode.entry + len(asm(code, mode.code32))


# instruction, whether it reads, whether it writes the dword at ESI
ACCESSES = [
    pytest.param("mov eax, [esi]", True, False, id="load"),
    pytest.param("mov [esi], eax", False, True, id="store"),
    pytest.param("add [esi], eax", True, True, id="read_modify_write"),
    pytest.param("cmp [esi], eax", True, False, id="compare"),
    pytest.param("xchg [esi], eax", True, True, id="exchange"),
    pytest.param("push dword ptr [esi]", True, False, id="push_memory"),
    pytest.param("lodsd", True, False, id="lods"),
    pytest.param("fld dword ptr [esi]", True, False, id="x87"),
    pytest.param("fstp dword ptr [esi]", False, True, id="x87_store"),
    pytest.param("sidt [esi]", False, True, id="inline"),
    pytest.param("bts dword ptr [esi], eax", True, True, id="bit"),
    pytest.param("lea eax, [esi]", False, False, id="lea"),
    pytest.param("nop dword ptr [esi]", False, False, id="nop"),
]


@pytest.mark.parametrize("mode", FLAT)
@pytest.mark.parametrize("kind", [WRITE, ACCESS])
@pytest.mark.parametrize(("code", "reads", "writes"), ACCESSES)
def test_a_breakpoint_on_data_is_a_trap_behind_the_access(bench, mode, kind, code, reads, writes):
    """SDM Vol. 3B, "Data Memory and I/O Breakpoint Exception Conditions"."""
    bench.start(mode, f"nop; {code}; inc ebx; inc edx", esi=WATCHED, eax=0, cr0=PE | 0x30)
    watch(bench, kind)
    before = bench.here()
    after = bench.run()
    if writes or (reads and kind == ACCESS):
        assert (after["fault"], after["eip"]) == (DB, behind(mode, f"nop; {code}"))
        assert (after["ebx"], after["dr"][6]) == (before["ebx"], DR6_ONES | 1)
        assert not bench.word(bench.vcpu.reg32(4) + 8) & 1 << 16  # RF: it is a trap
    else:
        assert (after["eip"], after["dr"][6]) == ("end", DR6_ONES)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_it_is_the_linear_address_that_counts(bench, mode):
    code = "mov byte ptr [si], al" if not mode.code32 else "mov byte ptr [esi], al"
    bench.start(mode, f"{code}; nop", esi=mode.offset(WATCHED))
    watch(bench, WRITE)
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, behind(mode, code))
    assert after["dr"][6] & 0xF == 1


@pytest.mark.parametrize(
    ("length", "offset", "size", "strikes"),
    [
        (BYTE, -1, "byte", False), (BYTE, 1, "byte", False), (BYTE, -1, "word", True), (BYTE, -3, "dword", True),
        (BYTE, -4, "dword", False), (WORD, 1, "byte", True), (WORD, 2, "byte", False), (DWORD, 3, "byte", True),
        (DWORD, 4, "word", False), (DWORD, 3, "dword", True), (DWORD, -1, "byte", False),
    ],
)  # fmt: skip
def test_any_byte_in_common_strikes(bench, length, offset, size, strikes):
    """SDM Vol. 3B, "Breakpoint Field Recognition"."""
    register = {"byte": "al", "word": "ax", "dword": "eax"}[size]
    bench.start(P32[3], f"mov {size} ptr [esi + ({offset})], {register}; nop", esi=WATCHED)
    watch(bench, WRITE, length)
    assert (bench.run().get("fault") == DB) == strikes


@pytest.mark.parametrize(("address", "length"), [(WATCHED + 3, DWORD), (WATCHED + 1, WORD)])
def test_low_bits_of_the_address_do_not_count(bench, address, length):
    bench.start(P32[3], "mov byte ptr [esi], al; nop", esi=WATCHED)
    watch(bench, WRITE, length, address)
    assert bench.run()["fault"] == DB


@pytest.mark.parametrize("enable", [1, 2])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_each_register_has_its_bit(bench, number, enable):
    bench.start(P32[0], "mov byte ptr [esi], al; nop", esi=WATCHED)
    watch(bench, WRITE, number=number, enable=enable)
    assert bench.run()["dr"][6] == DR6_ONES | 1 << number


def test_two_breakpoints_and_a_single_step_are_one_event(bench):
    bench.start(P32[3], "add [esi], eax; inc ebx", esi=WATCHED, eflags=TF)
    watch(bench, WRITE)
    watch(bench, ACCESS, number=2)
    after = bench.run()
    assert (after["fault"], after["dr"][6]) == (DB, DR6_ONES | BS | 1 | 4)


@pytest.mark.parametrize("mode", FLAT)
def test_a_repeated_instruction_stops_behind_the_iteration_that_strikes(bench, mode):
    """SDM Vol. 3B, "Data Memory and I/O Breakpoint Exception Conditions": after each iteration."""
    bench.start(mode, "rep stosd; nop", edi=WATCHED - 8, ecx=5)
    watch(bench, WRITE, DWORD)
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, mode.entry)
    assert (after["ecx"], after["edi"]) == (2, WATCHED + 4)
    bench.continue_at(after)
    assert bench.run()["eip"] == "end"


def test_an_instruction_that_faults_has_struck_nothing(bench):
    far = 0x30_0000
    bench.start(P32[3], f"push dword ptr [{WATCHED}]; nop", esp=far + 0x800)
    bench.map_pages(missing=[far])
    watch(bench, ACCESS)
    after = bench.run()
    assert (after["fault"], after["dr"][6]) == ((14, 6), DR6_ONES)


def test_calls_and_returns_strike_by_the_stack(bench):
    bench.start(P32[3], "call over; over: nop")
    watch(bench, WRITE, address=STACK - 4)
    assert (bench.run()["fault"], bench.vcpu.dr[6] & 1) == (DB, 1)


def test_what_the_vmm_carries_out_strikes(bench):
    bench.start(P32[0], "lgdt [esi]; nop", esi=WATCHED)
    watch(bench, ACCESS)
    bench.poke(WATCHED, little(bench.vcpu.gdtr[1], 2) + little(bench.vcpu.gdtr[0], 4))
    assert bench.run()["fault"] == DB


# --- behind MOV SS ---------------------------------------------------------------------------------------------------

SS_LOADS = ["mov ss, [esi]", "pop ss"]


def start_with_ss(bench, mode, load, code):
    """Run `load`, which reads SS from the watched cell, and `code`."""
    bench.start(mode, f"{load}; {code}", esi=WATCHED, esp=WATCHED if "pop" in load else STACK)
    bench.poke(WATCHED, little(bench.vcpu.segment(Seg.SS).selector, 2) + bytes(2))
    watch(bench, ACCESS, WORD)


@pytest.mark.parametrize("mode", FLAT)
@pytest.mark.parametrize("load", SS_LOADS)
def test_a_breakpoint_that_a_load_of_ss_strikes_waits_for_the_next_instruction(bench, mode, load):
    """SDM Vol. 3A, "Masking Exceptions and Interrupts When Switching Stacks"."""
    code = f"{load}; inc ebx"
    start_with_ss(bench, mode, load, "inc ebx; inc ebx")
    after = bench.run()
    assert (after["fault"], after["eip"], after["dr"][6]) == (DB, behind(mode, code), DR6_ONES | 1)


def test_a_single_step_behind_a_load_of_ss_is_one_event_with_its_breakpoint(bench):
    start_with_ss(bench, P32[3], SS_LOADS[0], "inc ebx; inc ebx")
    bench.vcpu.eflags |= TF
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, behind(P32[3], "mov ss, [esi]; inc ebx"))
    assert after["dr"][6] == DR6_ONES | BS | 1


def test_int1_behind_a_load_of_ss_is_one_event_with_its_breakpoint(bench):
    start_with_ss(bench, P32[0], SS_LOADS[0], "int1; inc ebx")
    after = bench.run()
    assert (after["fault"], after["eip"]) == (DB, behind(P32[0], "mov ss, [esi]; int1"))
    assert after["dr"][6] == DR6_ONES | 1


def test_int3_behind_a_load_of_ss_is_entered_before_the_breakpoint_is_told(bench):
    """#DB then comes before the first instruction of its handler."""
    start_with_ss(bench, P32[0], SS_LOADS[0], "int3; inc ebx")
    handler = CODE + 0xC00
    bench.poke(handler, asm("inc ebx; hlt", True))
    bench.poke(IDT + 8 * Vector.BP, interrupt_gate(handler))
    after = bench.run()
    assert (after["fault"], after["eip"], after["dr"][6]) == (DB, handler, DR6_ONES | 1)


def test_a_fault_behind_a_load_of_ss_loses_its_breakpoint(bench):
    """SDM Vol. 3C, "Delivery of Pending Debug Exceptions after VM Entry": injected with a hardware exception they are
    dropped."""
    start_with_ss(bench, P32[0], SS_LOADS[0], "ud2")
    handler = CODE + 0xC00
    bench.poke(handler, asm("inc ebx; hlt", True))
    bench.poke(IDT + 8 * Vector.UD, interrupt_gate(handler))
    bench.run()
    assert (bench.vcpu.eip, bench.vcpu.dr[6]) == (handler + 2, DR6_ONES)


# --- ports -----------------------------------------------------------------------------------------------------------

PORTS = [
    pytest.param("in al, 0x42", BYTE, 0x42, True, id="in"),
    pytest.param("out 0x42, al", BYTE, 0x42, True, id="out"),
    pytest.param("in eax, dx", BYTE, 0x44, True, id="last_byte"),
    pytest.param("in al, dx", BYTE, 0x42, False, id="beside"),
    pytest.param("in al, dx", DWORD, 0x40, True, id="in_a_range"),
    pytest.param("insb", BYTE, 0x41, True, id="ins"),
    pytest.param("outsb", BYTE, 0x41, True, id="outs"),
]


@pytest.mark.parametrize("de", [True, False])
@pytest.mark.parametrize(("code", "length", "port", "strikes"), PORTS)
def test_a_breakpoint_on_a_port_is_a_trap(bench, code, length, port, strikes, de):
    """SDM Vol. 3B, "Debug Control Register (DR7)": R/W 10b, with CR4.DE alone."""
    bench.start(P32[0], f"{code}; inc ebx", edx=0x41, esi=DATA, edi=DATA, cr4=DE if de else 0)
    watch(bench, PORT, length, port)
    before = bench.here()
    after = bench.run()
    if strikes and de:
        assert (after["fault"], after["eip"], after["ebx"]) == (DB, behind(P32[0], code), before["ebx"])
        assert after["dr"][6] == DR6_ONES | 1
    else:
        assert after["eip"] == "end"


def test_repeated_port_input_stops_behind_each_iteration(bench):
    bench.start(P32[0], "rep insb; nop", edx=0x42, edi=DATA, ecx=3, cr4=DE)
    watch(bench, PORT, BYTE, 0x42)
    after = bench.run()
    assert (after["fault"], after["eip"], after["ecx"], after["edi"]) == (DB, P32[0].entry, 2, DATA + 1)


# --- alignment -------------------------------------------------------------------------------------------------------

AC0 = (Vector.AC, 0)
UNALIGNED = [
    # instruction, the offsets from ESI's 16-byte boundary at which it may be
    pytest.param("mov eax, [esi]", {0, 4, 8}, id="dword"),
    pytest.param("mov ax, [esi]", {0, 2, 4, 6, 8}, id="word"),
    pytest.param("mov al, [esi]", set(range(9)), id="byte"),
    pytest.param("mov [esi], eax", {0, 4, 8}, id="store"),
    pytest.param("fld qword ptr [esi]", {0, 8}, id="double"),
    pytest.param("fld dword ptr [esi]", {0, 4, 8}, id="single"),
    pytest.param("fld tbyte ptr [esi]", {0, 8}, id="extended"),
    pytest.param("movq mm0, [esi]", {0, 8}, id="mmx"),
    pytest.param("movups xmm0, [esi]", set(range(9)), id="movups"),
    pytest.param("fnstenv [esi]", {0, 4, 8}, id="environment"),
    pytest.param("lodsd", {0, 4, 8}, id="lods"),
    pytest.param("push dword ptr [esi]", {0, 4, 8}, id="push"),
    pytest.param("lea eax, [esi]", set(range(9)), id="lea"),
]


@pytest.mark.parametrize(("code", "right"), UNALIGNED)
def test_users_accesses_are_checked_under_am_and_ac(used_bench, code, right):
    """SDM Vol. 3A, "Interrupt 17 - Alignment Check Exception (#AC)"."""
    for off in range(9):
        used_bench.recycle()
        used_bench.start(P32[3], code, cr0=PE | 0x30 | AM, cr4=1 << 9, eflags=AC, esi=WATCHED + off)
        before = used_bench.here()
        after = used_bench.run()
        if off in right:
            assert after["eip"] == "end", off
        else:
            assert after == before | faulted(P32[3], *AC0), off


@pytest.mark.parametrize("mode", EVERY, ids=str)
@pytest.mark.parametrize(("am", "ac"), [(AM, AC), (AM, 0), (0, AC)])
def test_only_cpl_3_is_checked_and_only_under_both(bench, mode, am, ac):
    code = "mov eax, [si]" if not mode.code32 else "mov eax, [esi]"
    cr0 = am | 0x30 | (PE if mode.kind != "real" else 0)
    bench.start(mode, code, cr0=cr0, eflags=ac, esi=mode.offset(WATCHED) + 1)
    after = bench.run()
    assert (after.get("fault") == AC0) == (mode.ring == 3 and bool(am) and bool(ac))


@pytest.mark.parametrize("push", ["push eax", "call over; over: nop", "pushfd", "pop eax", "ret"])
def test_a_stack_that_is_not_aligned_is_checked(bench, push):
    bench.start(P32[3], push, cr0=PE | 0x30 | AM, eflags=AC, esp=STACK - 0x11)
    before = bench.here()
    assert bench.run() == before | faulted(P32[3], *AC0)


@pytest.mark.parametrize("code", ["insd", "outsd", "insw", "rep outsw", b"\xff\x2e", b"\xff\x1e", "lds eax, [esi]"])
def test_what_the_vmm_carries_out_is_checked_too(bench, code):
    start = {"edx": 0x42, "ecx": 2, "esi": WATCHED + 1, "edi": WATCHED + 1}
    bench.start(P32_3_IOPL3, code, cr0=PE | 0x30 | AM, eflags=AC, **start)
    before = bench.here()
    assert bench.run() == before | faulted(P32_3_IOPL3, *AC0)


def test_popf_that_sets_ac_counts_at_once(bench):
    bench.start(P32[3], "push 0x40002; popfd; nop; mov eax, [esi]", cr0=PE | 0x30 | AM, esi=WATCHED + 1)
    after = bench.run()
    assert (after["fault"], after["eip"]) == (AC0, behind(P32[3], "push 0x40002; popfd; nop"))


def test_popf_that_clears_ac_ends_it(bench):
    bench.start(P32[3], "push 2; popfd; mov eax, [esi]", cr0=PE | 0x30 | AM, eflags=AC, esi=WATCHED + 1)
    assert bench.run()["eip"] == "end"


def test_a_page_that_is_missing_comes_before_alignment(bench):
    far = 0x30_0000
    bench.start(P32[3], "mov eax, [esi]", cr0=PE | 0x30 | AM, eflags=AC, esi=far + 1)
    bench.map_pages(missing=[far])
    assert bench.run()["fault"] == (14, 4)


def test_a_handler_in_ring_0_is_not_checked(bench):
    bench.start(P32[3], "mov eax, [esi]", cr0=PE | 0x30 | AM, eflags=AC, esi=WATCHED + 1)
    bench.poke(CODE + 0xC00, asm("mov ebx, [esi]; hlt", True))
    bench.poke(IDT + 8 * 17, interrupt_gate(CODE + 0xC00))
    bench.run()
    assert bench.vcpu.eip == CODE + 0xC00 + 3


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        pytest.param("std; rep stosb; nop", {"edi": WATCHED + 2, "ecx": 9}, id="downward"),
        pytest.param("cld; repe scasb; nop", {"edi": WATCHED - 2, "ecx": 9, "eax": 0xEE}, id="compared"),
        pytest.param("cld; rep lodsb; nop", {"esi": WATCHED - 2, "ecx": 9}, id="loaded"),
    ],
)
def test_a_repeated_instruction_strikes_in_the_middle(bench, code, registers):
    bench.start(P32[3], code, **registers)
    watch(bench, ACCESS)
    after = bench.run()
    assert (after["fault"], after["eip"], after["ecx"]) == (DB, P32[3].entry + 1, 6)


def test_a_repeated_instruction_that_ends_before_the_breakpoint_does_not_strike(bench):
    bench.start(P32[3], "repne scasb; nop", edi=WATCHED - 4, ecx=9, eax=0xEE)
    watch(bench, ACCESS)
    assert (bench.run()["eip"], bench.vcpu.dr[6]) == ("end", DR6_ONES)
