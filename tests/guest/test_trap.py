"""The trap engine: what it carries out is right, what does not trap is wrong in just the way that theory says.

What is right on every engine is in `test_privileged.py`, `test_nx.py` and `test_hostile_paging.py`.
"""

import pytest
from guest_bench import (
    CODE,
    DATA,
    ENTRY,
    FREE,
    GDT,
    IDT,
    IF,
    LDT,
    P16,
    P32,
    REAL,
    TF,
    THE_LDT,
    V86_3,
    Bench,
    asm,
    descriptor,
    flat_code,
    interrupt_gate,
    little,
)  # fmt: skip

from vmm.cpu.hole import DEFAULT_HOLE
from vmm.engines.engine import Leave
from vmm.engines.names import EngineName, Rings
from vmm.errors import Unmodelled
from vmm.hw import state as hw
from vmm.memory import MemoryRegion

BOTH = pytest.mark.parametrize("rings", Rings, ids=["0_1_3", "0_3"])
KERNEL = P32[0]
CELL = DATA + 0x100


@pytest.fixture
def bench() -> Bench:
    return Bench(engine=EngineName.TRAP)


def trap_bench(rings: Rings = Rings.THREE) -> Bench:
    return Bench(engine=EngineName.TRAP, rings=rings)


# --- what goes wrong, and why -------------------------------------------------------------------------------------

PHYSICAL_CPL = {Rings.THREE: 1, Rings.TWO: 3}


def eax_after(bench: Bench, mode, code: str, **before: int) -> int:
    bench.start(mode, code, **before)
    assert bench.run()["eip"] == "end"
    return bench.vcpu.reg32(0)


@BOTH
def test_a_kernel_sees_the_ring_that_it_runs_in(rings):
    """PUSH and MOV of CS and SS show a selector whose RPL is the physical CPL (SDM Vol. 3A, "Segment Selectors")."""
    bench, cpl = trap_bench(rings), PHYSICAL_CPL[rings]
    assert eax_after(bench, KERNEL, b"\x0e\x58") == 8 | cpl
    assert eax_after(bench, KERNEL, "mov eax, ss") == 0x10 | cpl
    assert eax_after(bench, KERNEL, "mov ax, ds; movzx eax, ax") == 0x10  # a data selector keeps the RPL it came with


@BOTH
def test_lar_shows_the_raised_dpl(rings):
    cpl = PHYSICAL_CPL[rings]
    assert eax_after(trap_bench(rings), KERNEL, "mov ecx, 8; lar eax, ecx") == 0x00C0_9B00 | cpl << 13


@BOTH
def test_lsl_finds_no_system_descriptor(rings):
    assert eax_after(trap_bench(rings), KERNEL, f"mov ecx, {THE_LDT:#x}; lsl eax, ecx", eax=0x77) == 0x77


@BOTH
def test_popf_does_not_change_if_and_pushf_does_not_show_it(rings):
    """CPL is above IOPL: POPF leaves IF alone without a fault (SDM Vol. 2B, "POPF")."""
    bench = trap_bench(rings)
    assert eax_after(bench, KERNEL, "cli; pushfd; pop eax") & IF
    assert not bench.vcpu.interrupts_enabled
    assert eax_after(bench, KERNEL, f"push {IF | 2:#x}; popfd; pushfd; pop eax") & IF
    assert not bench.vcpu.interrupts_enabled


@pytest.mark.parametrize("mode", [REAL, KERNEL, P32[3], V86_3], ids=str)
def test_smsw_shows_the_physical_cr0(bench, mode):
    assert eax_after(bench, mode, bytes.fromhex("0f01e0")) & 0xFFFF == 0x31  # PE, ET, NE


@pytest.mark.parametrize("mode", [REAL, KERNEL, P32[3]], ids=str)
@pytest.mark.parametrize("opcode", ["0f0106", "0f010e"])
def test_sgdt_and_sidt_show_tables_in_the_hole(bench, mode, opcode):
    raw = bytes.fromhex(opcode)
    if mode.code32:
        raw = raw[:2] + bytes([raw[2] & 0x38 | 5])
    bench.start(mode, b"\x66" * (not mode.code32) + raw + little(mode.offset(CELL), 4 if mode.code32 else 2))
    bench.run()
    assert bench.hole.contains(bench.word(CELL + 2))


def test_sldt_and_str_show_the_selectors_of_the_vmm(bench):
    assert eax_after(bench, KERNEL, "sldt ax") & 0xFFFF == 0xFFF0
    assert eax_after(bench, KERNEL, "str ax") & 0xFFFF == 0xFFF8


def test_the_same_instructions_trap_in_v86_and_are_right_there(bench):
    """PUSHF and POPF with IOPL below 3 (SDM Vol. 3B, "Sensitive Instructions"): so real mode has its own IF."""
    for code, expected in (("cli; pushf; pop ax", 0), ("cli; sti; pushf; pop ax", IF), ("push 0x202; popf", IF)):
        bench.start(REAL, code)
        bench.run()
        assert bench.vcpu.eflags & IF == expected
        if "pop ax" in code:
            assert bench.vcpu.reg32(0) & IF == expected


# --- kernels that were written for it -----------------------------------------------------------------------------

TICKS, CALLS, ROUNDS = DATA + 0x200, DATA + 0x204, DATA + 0x208
USER_PAGE, TIMER_HANDLER, CALL_HANDLER = CODE + 0x1000, CODE + 0x2000, CODE + 0x2100
USER = f"again: inc dword ptr [{ROUNDS:#x}]; int 0x80; cmp dword ptr [{ROUNDS:#x}], 300; jb again; int 0x81"


def start_kernel(bench: Bench, back: str) -> None:
    """A kernel with paging and an IDT that starts a user program; `back` is how its handlers return."""
    user_cs, user_ss = flat_code(3), flat_code(3) + 8
    kernel = (
        f"push {user_ss:#x}; push {DATA + 0x800:#x}; push {IF | 2:#x}; push {user_cs:#x}; push {USER_PAGE:#x}; {back}"
    )
    bench.start(KERNEL, kernel)
    bench.poke(USER_PAGE, asm(USER, True))
    bench.poke(TIMER_HANDLER, asm(f"inc dword ptr [{TICKS:#x}]; {back}", True))
    bench.poke(
        CALL_HANDLER, asm(f"push eax; mov eax, ds; inc dword ptr [{CALLS:#x}]; mov ds, eax; pop eax; {back}", True)
    )
    bench.poke(CALL_HANDLER + 0x80, asm("out 0xf4, al", True))
    bench.poke(IDT + 8 * 0x20, interrupt_gate(TIMER_HANDLER))
    bench.poke(IDT + 8 * 0x80, interrupt_gate(CALL_HANDLER, 3))
    bench.poke(IDT + 8 * 0x81, interrupt_gate(CALL_HANDLER + 0x80, 3))
    for at in (TICKS, CALLS, ROUNDS):
        bench.poke(at, 0)
    bench.map_pages()


def run_with_timer(bench: Bench, period: int = 40) -> int:
    """Run until the guest says that it is done; an interrupt waits every so many blocks."""
    for raised in range(10_000):
        bench.run(period)
        if bench.leave is not Leave.PREEMPTED:
            return raised
        bench.vcpu.set_interrupt_pending(True)
    raise AssertionError("the guest is not getting on")


def test_a_kernel_that_sets_if_before_iret_runs_users_and_takes_timer_interrupts(bench):
    """IRET to ring 3 does not trap at CPL 1, so it cannot restore the IF that the guest believes in: STI does."""
    start_kernel(bench, "sti; iretd")
    bench.engine.audit()
    raised = run_with_timer(bench)
    assert bench.leave is Leave.REQUESTED
    assert (bench.word(ROUNDS), bench.word(CALLS)) == (300, 300)
    assert bench.word(TICKS) == bench.board.acknowledged
    assert raised - 2 <= bench.word(TICKS) <= raised
    assert raised > 10
    assert bench.engine.stats.callouts["iretd"] < 40  # those into the kernel, whose RPL 0 faults


def test_a_kernel_that_trusts_iret_loses_its_interrupts(bench):
    start_kernel(bench, "iretd")
    bench.set(eflags=IF)
    run_with_timer(bench)
    assert (bench.word(ROUNDS), bench.word(CALLS)) == (300, 300)
    assert bench.word(TICKS) <= 1
    assert not bench.vcpu.interrupts_enabled


def test_in_one_ring_a_return_to_the_user_traps(bench):
    """0/3: IRET to a segment of the same physical ring would not change stacks, so user code is not present for it."""
    bench = trap_bench(Rings.TWO)
    start_kernel(bench, "iretd")
    raised = run_with_timer(bench)
    assert (bench.word(ROUNDS), bench.word(CALLS)) == (300, 300)
    assert raised - 2 <= bench.word(TICKS) == bench.board.acknowledged <= raised
    assert bench.engine.stats.callouts["iretd"] > 300


@BOTH
def test_a_user_cannot_touch_what_belongs_to_the_kernel(rings):
    bench = trap_bench(rings)
    for code, fault in ((f"mov eax, [{CELL:#x}]", (14, 5)), (f"mov [{CELL:#x}], eax", (14, 7))):
        bench.start(P32[3], code)
        bench.map_pages()
        bench.poke(0x20_1000 + 4 * (CELL >> 12), CELL & ~0xFFF | 3)
        result = bench.run()
        assert (result["fault"], result["cr2"]) == (fault, CELL)
    bench.start(P32[3], "mov eax, 0x10; mov ds, eax")
    assert bench.run()["fault"] == (13, 0x10)


def test_real_mode_code_runs_with_its_interrupts(bench):
    bench.start(REAL, "sti; mov cx, 2000; l: dec cx; jnz l; cli")
    bench.poke(4 * 0x20, little(0x500, 2) + little(0, 2))
    bench.poke(0x500, b"\x2e\xff\x06\x80\x05\xcf")  # inc word ptr cs:[0x580]; iret
    raised = run_with_timer(bench, 100)
    assert bench.word(0x580, 2) == bench.board.acknowledged >= raised - 1 > 10


# --- descriptor tables --------------------------------------------------------------------------------------------


def with_descriptor(bench: Bench, code: str, raw: bytes) -> None:
    bench.start(KERNEL, code)
    bench.poke(GDT + FREE, raw)


def test_a_native_load_sets_the_accessed_bit_in_the_guests_own_table(bench):
    with_descriptor(bench, f"mov eax, {FREE:#x}; mov fs, eax; mov gs, eax", descriptor(0x5000, 0xFFF, 0x92))
    assert bench.run()["eip"] == "end"
    assert bench.peek(GDT + FREE + 5, 1) == b"\x93"
    assert [bench.vcpu.base(seg) for seg in (4, 5)] == [0x5000, 0x5000]
    assert not bench.engine.stats.callouts["mov"]  # they ran by themselves
    assert bench.vcpu.segment(4).flags >> 13 & 3 == 0  # as the guest loaded it


@pytest.mark.parametrize("stores", [1, 40])
def test_a_store_to_the_gdt_is_seen_at_the_next_load(bench, stores):
    """The first few run one by one; then the tables are open, until a load closes them."""
    store = f"mov word ptr [{GDT + FREE + 2:#x}], bx; inc ebx; "
    code = f"mov ebx, 0; mov ecx, {stores}; l: {store} dec ecx; jnz l; mov eax, {FREE:#x}; mov fs, eax; mov ebp, [{GDT:#x}]"
    with_descriptor(bench, code, descriptor(0x5000, 0xFFF, 0x93))
    assert bench.run()["eip"] == "end"
    assert bench.vcpu.base(4) == stores - 1
    bench.vcpu.eip = KERNEL.entry
    assert bench.run()["eip"] == "end"
    assert bench.vcpu.base(4) == stores - 1


def test_a_gdt_that_somebody_else_writes_is_seen(bench):
    with_descriptor(bench, f"mov eax, {FREE:#x}; mov fs, eax", descriptor(0x5000, 0xFFF, 0x93))
    bench.run()
    bench.poke(GDT + FREE, descriptor(0x6000, 0xFFF, 0x93))
    bench.vcpu.eip = KERNEL.entry
    bench.run()
    assert bench.vcpu.base(4) == 0x6000


def test_an_ldt_is_loaded_from(bench):
    with_descriptor(bench, "mov eax, 0x14; mov fs, eax", b"")
    bench.poke(LDT + 0x10, descriptor(0x7000, 0xFFF, 0xF3))
    assert bench.run()["eip"] == "end"
    assert bench.vcpu.base(4) == 0x7000
    assert not bench.engine.stats.callouts["mov"]


@pytest.mark.parametrize("kind", [0x89, 0x8B, 0x82, 0x85, 0x8C, 0x8E, 0xEC, 0xE5])
def test_no_gate_and_no_tss_is_ever_in_the_tables_of_the_processor(bench, kind):
    """A native far call through one would be the guest's way past the VMM. The faults are the guest's own."""
    with_descriptor(bench, f"mov eax, {FREE:#x}; mov fs, eax", descriptor(0x5000, 0xFFF, kind))
    assert bench.run()["fault"] == (13, FREE)
    at = bench.hole.parts["whole_gdt"].host + FREE
    assert bytes(bench.physical.view[at : at + 8]) == bytes(8)


# --- stores, code and devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [REAL, P16[0], KERNEL, P32[3]], ids=str)
def test_code_that_the_guest_or_a_device_changes_is_new(bench, mode):
    """`inc eax` becomes `dec eax` for the second round: by a store of its own, then by one from outside."""
    at = mode.entry
    bench.start(
        mode, b"\x40\x2e\xc6" + (b"\x05" + little(at, 4) if mode.code32 else b"\x06" + little(at, 2)) + b"\x48", eax=5
    )
    bench.run()
    assert bench.vcpu.reg32(0) == 6
    bench.vcpu.eip = at
    bench.run()
    assert bench.vcpu.reg32(0) == 5
    bench.poke(CODE + ENTRY, b"\x42", 1)  # inc edx
    before = bench.vcpu.reg32(2)
    bench.vcpu.eip = at
    bench.run()
    assert (bench.vcpu.reg32(0), bench.vcpu.reg32(2) & 0xFFFF) == (5, before + 1 & 0xFFFF)


def test_a_store_through_an_alias_changes_code(bench):
    alias = 0x80_0000 + CODE + ENTRY
    bench.start(KERNEL, f"inc eax; mov byte ptr [{alias:#x}], 0x48", eax=5)
    bench.map_pages(alias=0x80_0000)
    for expected in (6, 5):
        bench.vcpu.eip = KERNEL.entry
        bench.run()
        assert bench.vcpu.reg32(0) == expected


DEVICE = 0x40_0000


@pytest.mark.parametrize("mode", [KERNEL, P32[3]], ids=str)
def test_a_device_sees_each_access_once_with_its_width(bench, mode):
    seen: list[tuple[int, ...]] = []

    def read(offset: int, width: int) -> int:
        seen.append((offset, width))
        return (0x1234_5678 + offset) & ((1 << 8 * width) - 1)

    bench.start(
        mode,
        f"mov eax, [{DEVICE:#x}]; mov byte ptr [{DEVICE + 5:#x}], 0x77; add word ptr [{DEVICE + 8:#x}], 2; "
        f"mov esi, {DEVICE + 16:#x}; mov edi, {CELL:#x}; mov ecx, 3; .byte 0xf3, 0xa5; pushfd; pop ebx",
    )
    write = lambda offset, width, value: seen.append((offset, width, value))  # noqa: E731
    bench.memory.map(MemoryRegion("device", DEVICE, 0x1000, read=read, write=write))
    assert bench.run()["eip"] == "end"
    assert seen == [(0, 4), (5, 1, 0x77), (8, 2), (8, 2, 0x5682), (16, 4), (20, 4), (24, 4)]
    assert bench.vcpu.reg32(0) == 0x1234_5678
    assert [bench.word(CELL + 4 * i) for i in range(3)] == [0x1234_5688 + 4 * i for i in range(3)]
    assert not bench.vcpu.reg32(3) & TF  # ours never shows


def test_an_interrupt_that_waits_comes_one_instruction_behind_sti_and_pushf_shows_no_trap_flag(bench):
    bench.start(KERNEL, "cli; sti; pushfd; nop; nop")
    bench.vcpu.set_interrupt_pending(True)
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((0x20, None), KERNEL.entry + 3)
    assert not bench.word(result["esp"]) & TF


def test_the_guests_own_single_step_works(bench):
    bench.start(KERNEL, "inc eax; cli; inc eax", eflags=TF, eax=0)
    for eip in (1, 2, 3):
        shown = bench.run()
        assert (shown["fault"], shown["eip"]) == ((1, None), KERNEL.entry + eip)
        bench.continue_at(shown)


def test_a_page_fault_in_code_comes_when_all_before_it_is_done(bench):
    """The engine fetches a whole block at once."""
    page = CODE + 0x1000
    bench.start(KERNEL, f"mov eax, {page - 2:#x}; jmp eax", ebx=0)
    bench.poke(page - 2, b"\x43\x43")
    bench.map_pages(missing=[page])
    result = bench.run()
    assert (result["fault"], result["eip"], result["cr2"], result["ebx"]) == ((14, 0), page, page, 2)


# --- limits -------------------------------------------------------------------------------------------------------


def test_breakpoints_are_refused_by_name(bench):
    bench.start(KERNEL, "nop", dr=[KERNEL.entry + 1, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x401])
    with pytest.raises(Unmodelled, match="DR0-DR3"):
        bench.run()


@BOTH
@pytest.mark.parametrize("mode", [REAL, KERNEL, P32[3], V86_3], ids=str)
def test_the_guest_never_runs_at_cpl_0(rings, mode):
    bench = trap_bench(rings)
    bench.engine.audit()
    bench.start(mode, "mov ecx, 100; l: dec ecx; jnz l" if mode.code32 else "mov cx, 100; l: dec cx; jnz l")
    assert bench.run()["eip"] == "end"


@pytest.mark.parametrize("part", ["whole_gdt", "whole_ldt", "shadow_tss"])
def test_a_store_to_the_tables_of_the_processor_is_a_page_fault(bench, part):
    """Not mapped by the guest: the hole goes elsewhere, and the fault is what the guest has earned."""
    at = bench.hole.linear(part) + FREE + 5
    bench.start(KERNEL, f"mov byte ptr [{at:#x}], 0xF3")
    bench.map_pages()
    result = bench.run()
    assert (result["fault"], result["cr2"]) == ((14, 2), at)
    assert not bench.hole.contains(at)


def test_a_guest_that_maps_pages_at_the_hole_gets_them_and_its_segments_still_load(bench):
    part = bench.hole.linear("whole_gdt")
    alias = part & ~0x3F_FFFF
    at = part & 0x3F_F000  # the frame that the guest has there
    code = f"mov dword ptr [{alias + at:#x}], 0x1234; mov eax, [{alias + at:#x}]; mov ecx, {FREE:#x}; mov fs, ecx"
    with_descriptor(bench, code, descriptor(0x5000, 0xFFF, 0x93))
    bench.map_pages(alias=alias)
    assert bench.run()["eip"] == "end"
    assert not bench.hole.contains(part)
    assert (bench.vcpu.reg32(0), bench.word(at), bench.vcpu.base(4)) == (0x1234, 0x1234, 0x5000)
    assert bench.phys.state.d[hw.D_TR + hw.SEG_BASE] == bench.hole.linear("shadow_tss")


def test_a_gdt_of_64_kib_is_there_in_full(bench):
    with_descriptor(bench, "mov eax, 0x7000; mov fs, eax", b"")
    bench.vcpu.gdtr = (GDT, 0xFFFF)
    bench.poke(GDT + 0x7000, descriptor(0x5000, 0xFFF, 0x93))
    assert bench.run()["eip"] == "end"
    assert bench.vcpu.base(4) == 0x5000
    assert not bench.engine.stats.callouts["mov"]


def test_the_window_moves_out_of_the_way_and_back_for_the_next_guest(bench):
    bench.start(KERNEL, f"mov eax, [{DEFAULT_HOLE:#x}]")
    assert bench.run()["eip"] == "end"
    assert bench.hole.base != DEFAULT_HOLE
    bench.recycle()
    assert bench.hole.base == DEFAULT_HOLE
    bench.start(KERNEL, "mov ax, 0x10; mov ds, ax")
    assert bench.run()["eip"] == "end"
