"""SYSENTER and SYSEXIT as a guest runs them: system calls, faults, single steps, interrupts at the way out."""

import pytest
from guest_bench import (
    BIG,
    CODE,
    CODE_RE,
    DATA,
    DATA_RW,
    DF,
    EVERY,
    FREE,
    GDT,
    IF,
    KERNELS,
    P16,
    P32,
    P32_3_IOPL3,
    PAGES,
    PROTECTED,
    REAL,
    STACK0,
    TF,
    USERS,
    V86_0,
    Bench,
    Mode,
    asm,
    descriptor,
    faulted,
    flat_code,
)

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Seg
from vmm.engines.crossings import Crossings

KERNEL_AT = CODE + 0x800
GP0 = (Vector.GP, 0)
CS0, SS0, CS3, SS3 = FREE, FREE + 8, FREE + 16 | 3, FREE + 24 | 3
ENTER, EXIT = bytes.fromhex("0f34"), bytes.fromhex("0f35")


def arm(bench: Bench, cs: int = CS0) -> None:
    """Load the MSRs."""
    vcpu = bench.vcpu
    vcpu.sysenter_cs, vcpu.sysenter_esp, vcpu.sysenter_eip = cs, STACK0, KERNEL_AT


def kernel(bench: Bench, code: str) -> None:
    """Put 32-bit code where SYSENTER goes, and the descriptors that it should agree with."""
    bench.poke(KERNEL_AT, asm(code, True))
    for at, access in ((CS0, CODE_RE), (SS0, DATA_RW), (CS3, CODE_RE | 0x60), (SS3, DATA_RW | 0x60)):
        bench.poke(GDT + (at & 0xFFF8), descriptor(0, 0xFFFF_FFFF, access, BIG | PAGES))


KERNELS_WORK = "mov esi, cs; mov edi, ss; pushfd; pop ebp; mov eax, esp; sysexit"


@pytest.mark.parametrize("mode", [P32[3], P32_3_IOPL3], ids=str)
def test_a_system_call_and_back(bench, mode):
    """Flags but IF come back as the kernel leaves them; only the registers that carry the way back are lost."""
    body = asm("mov ecx, esp; sysenter; mov ebx, cs", True)
    arm(bench)
    bench.start(mode, body, eflags=0x8D4 | DF | IF, edx=mode.entry + 4)
    kernel(bench, KERNELS_WORK)
    before = bench.here()
    after = bench.run()
    flags = before["eflags"] & ~IF
    assert after | {"memory": {}} == before | {
        "esi": CS0, "edi": SS0, "eax": STACK0, "ebp": flags, "ecx": before["esp"],
        "eflags": flags, "cs": (CS3, 0), "ss": (SS3, 0), "ebx": CS3,
    }  # fmt: skip
    assert bench.word(STACK0 - 4) == flags


@pytest.mark.parametrize("mode", [P32[0], P16[0], P32[1], P16[3], V86_0], ids=str)
def test_sysenter_reaches_ring_0_from_everywhere(bench, mode):
    arm(bench)
    bench.start(mode, ENTER, eflags=IF)
    kernel(bench, "mov ebx, cr0; hlt")
    after = bench.run()
    assert (after["cpl"], after["ebx"], after["esp"]) == (0, bench.vcpu.cr0, STACK0)
    assert (after["cs"], after["ss"], after["eip"]) == ((CS0, 0), (SS0, 0), KERNEL_AT + 4)
    assert not bench.vcpu.is_v86


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_sysenter_without_a_selector_faults(run_guest, mode):
    before, after = run_guest(ENTER, mode, eflags=DF | 0x41)
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize("code", [ENTER, EXIT], ids=["sysenter", "sysexit"])
def test_real_mode_has_neither(bench, code):
    arm(bench)
    before, after = bench.run_case(code, REAL)
    assert after == before | faulted(REAL, *GP0)


@pytest.mark.parametrize("mode", USERS, ids=str)
def test_sysexit_is_refused_above_cpl_0(bench, mode):
    arm(bench)
    before, after = bench.run_case(EXIT, mode)
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", [mode for mode in KERNELS if mode in PROTECTED], ids=str)
def test_sysexit_goes_to_ring_3(bench, mode):
    """With a 16-bit kernel too: the operands are ECX and EDX all the same."""
    arm(bench)
    bench.start(mode, EXIT, edx=KERNEL_AT, ecx=DATA + 0x800)
    kernel(bench, "push 0x12345678; hlt")
    after = bench.run()
    assert (after["fault"], after["cpl"], after["cs"]) == (GP0, 3, (CS3, 0))
    assert (after["ss"], after["esp"]) == ((SS3, 0), DATA + 0x7FC)


def test_writing_the_registers_with_wrmsr_arms_it(bench):
    program = f"""
        xor edx, edx
        mov ecx, 0x174
        mov eax, {CS0}
        wrmsr
        mov ecx, 0x175
        mov eax, {STACK0}
        wrmsr
        mov ecx, 0x176
        mov eax, {KERNEL_AT}
        wrmsr
        rdmsr
        sysenter
    """
    bench.start(P32[0], program)
    kernel(bench, "hlt")
    after = bench.run()
    assert (after["eip"], after["esp"], after["eax"]) == (KERNEL_AT + 1, STACK0, KERNEL_AT)


def test_a_single_step_over_sysenter_ends_in_the_kernel_with_tf_set(bench):
    """Linux knows: its entry code clears TF in the frame."""
    arm(bench)
    bench.start(P32[3], ENTER, eflags=TF | IF)
    kernel(bench, "nop; hlt")
    after = bench.run()
    assert after["fault"] == (Vector.DB, None)
    assert (after["eip"], after["cs"], after["eflags"] & (TF | IF)) == (KERNEL_AT, (CS0, 0), TF)


def test_sti_holds_interrupts_off_until_sysexit_is_done(bench):
    """Otherwise the interrupt would find the kernel on a stack that it is leaving."""
    arm(bench)
    bench.start(P32[0], bytes.fromhex("fb") + EXIT, edx=KERNEL_AT, ecx=DATA + 0x800)
    kernel(bench, "nop; nop")
    bench.vcpu.set_interrupt_pending(True)
    after = bench.run()
    assert after["fault"] == (0x20, None)
    assert (after["cs"], after["eip"], after["cpl"]) == ((CS3, 0), KERNEL_AT, 3)


def test_data_segments_stay(bench):
    arm(bench)
    bench.start(P32[3], ENTER)
    kernel(bench, "mov eax, ds; mov ebx, fs; hlt")
    after = bench.run()
    assert after["eax"] == after["ebx"] == flat_code(3) + 8
    assert bench.vcpu.segment(Seg.DS).dpl == 3


def test_system_calls_in_a_loop_share_their_blocks(bench):
    """Blocks of the two sides are made once, however often the sides change."""
    mode: Mode = P32[3]
    body = "again: mov ecx, esp; sysenter; nop; dec ebx; jnz again"
    arm(bench)
    bench.start(mode, body, ebx=50, edx=mode.entry + 4)
    kernel(bench, "inc esi; sysexit")
    before = bench.here()
    after = bench.run()
    assert (after["esi"], after["ebx"], after["eip"]) == (before["esi"] + 50, 0, "end")


# --- the same call again, which the engine knows -----------------------------------------------------------------

BETWEEN = {
    "nothing": ("", ""),
    "a task switched flag": ("mov ebx, cr0; xor ebx, 8; mov cr0, ebx", "smsw ebx; mov [{cell} + ebp * 4], ebx"),
    "an i/o privilege level": ("pushfd; xor dword ptr [esp], 0x3000; popfd", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "interrupts on": ("sti", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "another stack": (
        "push edx; push ecx; mov ecx, 0x175; rdmsr; sub eax, 16; wrmsr; pop ecx; pop edx", "mov [{cell} + ebp * 4], esp"),
    "another selector": (
        "push edx; push ecx; mov ecx, 0x174; rdmsr; xor eax, 3; wrmsr; pop ecx; pop edx",
        "mov ebx, cs; mov [{cell} + ebp * 4], ebx"),
    "a segment with a base": (
        "mov ebx, {based}; mov es, bx", "mov ebx, [{cell} + 4]; mov es:[ebp * 4], ebx; mov ebx, {flat}; mov es, bx"),
    "arithmetic flags": ("cmp eax, eax; stc; std", "pushfd; pop dword ptr [{cell} + ebp * 4]; cld"),
}  # fmt: skip
"""What the kernel does before SYSEXIT, and how the user writes down what it sees of it."""


@pytest.mark.parametrize("between", BETWEEN)
def test_a_system_call_that_was_done_before_is_the_same_as_ever(bench, monkeypatch, between):
    places = {"cell": DATA + 0x100, "based": FREE + 32 | 3, "flat": flat_code(3) + 8}
    change, look = (text.format(**places) for text in BETWEEN[between])
    body = asm(f"mov ebp, 8; again: mov ecx, esp; sysenter; {look}; dec ebp; jnz again; hlt", True)
    back = P32[3].entry + body.index(ENTER) + len(ENTER)

    def run() -> dict[str, object]:
        arm(bench)
        bench.start(P32[3], body, edx=back)
        kernel(bench, f"{change}; mov edx, {back}; sysexit")
        bench.poke(GDT + FREE + 32, descriptor(DATA + 0x200, 0xFFF, DATA_RW | 0x60, BIG))
        bench.poke(DATA + 0x100, bytes(0x200))
        return bench.run() | {"memory": bench.peek(DATA + 0x100, 0x200)}

    known = run()
    assert bench.engine._crossings._records
    assert known["fault"] == GP0
    monkeypatch.setattr(Crossings, "look", lambda *arguments: None)
    assert run() == known
