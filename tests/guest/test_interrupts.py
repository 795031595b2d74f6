"""Interrupts at any boundary, their shadows, preemption and single steps: invariant 6 of the design, and the SDM."""

import pytest
from guest_bench import (
    ARITHMETIC,
    CELL,
    DATA,
    DF,
    ENTRY,
    IDT,
    IF,
    P16,
    P32,
    P32_BASED,
    REAL,
    RF,
    STACK,
    TF,
    V86_3,
    Bench,
    Mode,
    asm,
    flat_code,
    interrupt_gate,
    little,
    plain,
)  # fmt: skip

from vmm.arch.registers import Seg
from vmm.engines.engine import Leave

COUNTER = DATA + 0x300
SERVICE = 0xA000
KERNEL_MODES = [REAL, P16[0], P32[0], P32_BASED[0]]


def install_counter(bench: Bench, mode: Mode, vector: int = 0x20) -> None:
    """A handler for `vector` that increments COUNTER and goes back."""
    if mode.kind == "real":
        bench.poke(
            SERVICE,
            asm(
                f"push ds; push ax; mov ax, {DATA >> 4:#x}; mov ds, ax; inc word ptr [0x300]; pop ax; pop ds; iret",
                False,
            ),
        )
        bench.poke(4 * vector, SERVICE)
    else:
        bench.poke(SERVICE, asm(f"inc dword ptr ss:[{COUNTER:#x}]; iretd", True) if not mode.based else counter_based())
        bench.poke(IDT + 8 * vector, interrupt_gate(SERVICE))


def counter_based() -> bytes:
    flat = flat_code(0) + 8
    return asm(
        (
            f"push eax; mov eax, ds; push eax; mov eax, {flat:#x}; mov ds, eax; inc dword ptr [{COUNTER:#x}]; "
            "pop eax; mov ds, eax; pop eax; iretd"
        ),
        True,
    )


def count(bench: Bench) -> int:
    return bench.word(COUNTER, 2)


# A loop with everything that touches IF or SS. Each line stands alone, so that interrupts come between any two.
LOOP_16 = """
    mov cx, 6
again:
    sti
    pushf
    cli
    add ax, cx
    popf
    push bx
    mov dx, ss
    mov ss, dx
    add bx, ax
    pushf
    pop si
    and si, 0x8d5
    xor di, si
    pop bx
    push ss
    pop ss
    adc bx, ax
    push ax
    call near_by
    pop ax
    loop again
    cli
    jmp finish
near_by:
    rol ax, 3
    ret
finish:
"""


def looped(mode: Mode) -> bytes:
    if mode.code32:
        text = LOOP_16
        for old, new in (
            ("ax", "eax"),
            ("bx", "ebx"),
            ("cx", "ecx"),
            ("si", "esi"),
            ("di", "edi"),
            ("pushf", "pushfd"),
            ("popf", "popfd"),
        ):
            text = text.replace(old, new)
        return asm(
            text.replace("push ss", ".byte 0x16").replace("pop ss", ".byte 0x17").replace("push dx", "push edx"), True
        )
    return asm(LOOP_16.replace("push ss", ".byte 0x16").replace("pop ss", ".byte 0x17"), False)


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
def test_an_interrupt_between_any_two_instructions_changes_nothing(bench, mode):
    """The block limit strikes at every block in turn; where IF allows, an interrupt is taken there."""
    bench.start(mode, looped(mode), eax=0x1234, ebx=0x5678, esi=0, edi=0)
    bench.poke(COUNTER, 0)
    undisturbed = bench.run()
    blocks = bench.phys.blocks
    assert undisturbed["eip"] == "end"
    taken = 0
    for limit in range(1, blocks + 30):
        bench.recycle()
        bench.start(mode, looped(mode), eax=0x1234, ebx=0x5678, esi=0, edi=0)
        bench.poke(COUNTER, 0)
        install_counter(bench, mode)
        result = bench.run(limit)
        if bench.leave is Leave.PREEMPTED:
            bench.vcpu.set_interrupt_pending(True)
            result = bench.run()
        assert result["eip"] == "end", limit
        assert count(bench) == bench.board.acknowledged
        taken += count(bench)
        for name in ("memory",):  # below the stack pointer lies what the handler's frame left
            result[name] = undisturbed[name]
        assert result == undisturbed, limit
    assert taken > 20


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
def test_the_interrupt_is_also_the_same_in_code_that_is_warm(bench, mode):
    """Chained blocks have fewer exits: the same again, with interrupts one after the other in one long run."""
    bench.start(mode, looped(mode), eax=0x1234, ebx=0x5678, esi=0, edi=0)
    bench.poke(COUNTER, 0)
    undisturbed = bench.run()
    bench.recycle()
    bench.start(mode, looped(mode), eax=0x1234, ebx=0x5678, esi=0, edi=0)
    bench.poke(COUNTER, 0)
    install_counter(bench, mode)
    limit = (
        41 if mode.based else 17
    )  # an IRET is a dozen of the engine's blocks, and so is each segment load in a handler
    for _ in range(12):
        bench.vcpu.eip = mode.entry
        bench.set(eax=0x1234, ebx=0x5678, esi=0, edi=0, ecx=undisturbed["ecx"], eflags=2)
        for _ in range(500):
            result = bench.run(limit)
            if bench.leave is not Leave.PREEMPTED:
                break
            bench.vcpu.set_interrupt_pending(bench.vcpu.interrupts_enabled)
        bench.vcpu.set_interrupt_pending(False)
        result["memory"] = undisturbed["memory"]
        assert result["eax"] == undisturbed["eax"]
        assert result["ebx"] == undisturbed["ebx"]
        assert result["edi"] == undisturbed["edi"]
    assert count(bench) == bench.board.acknowledged > 10


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
@pytest.mark.parametrize("popf_first", [False, True])
def test_sti_holds_a_pending_interrupt_for_one_instruction_popf_does_not(bench, mode, popf_first):
    opener = plain(mode, "6800020000" if mode.code32 else "680002") + b"\x9d" if popf_first else b"\xfb"
    code = opener + b"\x40" + b"\x40" + b"\x40"  # inc eax, three times
    bench.start(mode, code, eax=0)
    bench.vcpu.set_interrupt_pending(True)
    result = bench.run()
    assert result["fault"] == (0x20, None)
    assert result["eax"] == (0 if popf_first else 1)
    assert result["eip"] == mode.entry + len(opener) + (0 if popf_first else 1)


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
def test_sti_hlt_wakes_behind_the_hlt(bench, mode):
    bench.start(mode, b"\xfb\xf4\x40")
    bench.vcpu.set_interrupt_pending(True)
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((0x20, None), mode.entry + 2)


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
def test_sti_with_if_set_already_has_no_shadow(bench, mode):
    bench.start(mode, b"\xfb\x40\x40", eax=0, eflags=IF)
    bench.vcpu.set_interrupt_pending(False)
    bench.board.on_acknowledge = lambda: bench.vcpu.set_interrupt_pending(False)
    bench.vcpu.set_interrupt_pending(True)
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((0x20, None), mode.entry)


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
@pytest.mark.parametrize("load", ["8ed2", "17"])
def test_a_load_of_ss_holds_interrupts_for_one_instruction(bench, mode, load):
    """An OUT makes the interrupt pending while MOV SS runs: it waits for the instruction behind."""
    code = b"\xfb\x90" + (b"" if load == "8ed2" else b"\x16") + bytes.fromhex(load) + b"\x40\x40"
    for position in range(1, 40):
        bench.recycle()
        bench.start(mode, code, eax=0)
        bench.set(edx=bench.vcpu.selector(2))
        result = bench.run(position)
        if bench.leave is not Leave.PREEMPTED:
            break
        bench.vcpu.set_interrupt_pending(True)
        behind_load = mode.entry + len(code) - 2
        result = bench.run()
        assert result["fault"] == (0x20, None)
        assert result["eip"] != behind_load
    else:
        pytest.fail("the code never ended")


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
@pytest.mark.parametrize("shadowing", ["fb", "8ed2"])
@pytest.mark.parametrize("room", range(44, 52))
def test_a_shadow_reaches_over_the_end_of_a_block(bench, mode, shadowing, room):
    """Blocks are cut after a number of instructions: STI or MOV SS may come last in one."""
    filler = b"\x40" * room
    code = filler + bytes.fromhex(shadowing) + b"\x43\x43"
    behind = mode.entry + room + len(shadowing) // 2
    stops = 0
    for limit in range(1, 12):
        bench.recycle()
        bench.start(mode, code, eflags=IF if shadowing != "fb" else 0)
        bench.set(edx=bench.vcpu.selector(2))
        bench.run(limit)
        if bench.leave is not Leave.PREEMPTED:
            break
        stops += 1
        assert bench.vcpu.eip != behind or not bench.vcpu.interrupts_enabled, limit
    assert stops


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
@pytest.mark.parametrize("shadowing", ["fb", "8ed2"])
def test_a_shadow_reaches_over_the_end_of_a_page(bench, mode, shadowing):
    raw = bytes.fromhex(shadowing)
    page_end = 0x1000 - ENTRY
    code = b"\xe9" + little(page_end - len(raw) - 1 - (5 if mode.code32 else 3), 4 if mode.code32 else 2)
    code = code.ljust(page_end - len(raw) - 1, b"\xf4") + b"\x90" + raw + b"\x43\x43"
    behind = mode.entry + page_end
    for limit in range(1, 12):
        bench.recycle()
        bench.start(mode, code, eflags=IF if shadowing != "fb" else 0)
        bench.set(edx=bench.vcpu.selector(2))
        bench.run(limit)
        if bench.leave is not Leave.PREEMPTED:
            break
        assert bench.vcpu.eip != behind, limit


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
@pytest.mark.parametrize("body", ["ebfe", "90ebfd", "fbebfe", "fafbebfc", "9c9debfc", "40ebfd"])
def test_an_endless_loop_is_preempted_and_takes_interrupts(bench, mode, body):
    bench.start(mode, bytes.fromhex(body))
    for _ in range(5):
        bench.run(50)
        assert bench.leave is Leave.PREEMPTED
    bench.set(eflags=IF)
    bench.vcpu.set_interrupt_pending(True)
    assert bench.run()["fault"] == (0x20, None)


@pytest.mark.parametrize("mode", KERNEL_MODES, ids=str)
def test_hlt_with_interrupts_off_stays_halted(bench, mode):
    bench.start(mode, b"\xf4\x40", eax=0)
    bench.vcpu.set_interrupt_pending(True)
    for _ in range(3):
        result = bench.run()
        assert (result["left"], result["eip"], result["eax"]) == (Leave.HALTED, mode.entry + 1, 0)


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P32[3], P16[3], V86_3], ids=str)
def test_an_external_interrupt_comes_at_a_boundary_with_all_registers(bench, mode):
    bench.start(mode, b"\x40\x43\xeb\xfc", eax=0, ebx=0, eflags=IF | ARITHMETIC | DF)
    bench.run(20)
    eax, ebx = bench.vcpu.reg32(0), bench.vcpu.reg32(3)
    bench.vcpu.set_interrupt_pending(True)
    result = bench.run()
    assert result["fault"] == (0x20, None)
    assert (result["eax"], result["ebx"]) == (eax, ebx)
    assert result["eip"] in (mode.entry, mode.entry + 1, mode.entry + 2)
    assert result["eflags"] & (IF | DF) == IF | DF


# --- single steps ------------------------------------------------------------------------------------------------

STEPPED = [
    # code, offset of the instruction after each #DB, registers
    pytest.param("404048", [1, 2, 3], {}, id="plain"),
    pytest.param("eb0140", [3], {}, id="jmp"),
    pytest.param("7400 90", [2, 3], {}, id="jcc"),
    pytest.param("9c5890", [1, 2, 3], {}, id="pushf_pop"),
    pytest.param("fafb90", [1, 2, 3], {}, id="cli_sti_do_not_hide_it"),
    pytest.param("0f01e090", [3, 4], {}, id="smsw"),
    pytest.param("0fa290", [2, 3], {}, id="cpuid"),
    pytest.param("ec90", [1, 2], {}, id="in"),
    pytest.param("ce90", [1, 2], {"eflags": 0}, id="into_not_taken"),
    pytest.param("9090f390", [1, 2, 4], {}, id="pause"),
]


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P32_BASED[0]], ids=str)
@pytest.mark.parametrize(("code", "stops", "registers"), STEPPED)
def test_tf_raises_db_after_each_instruction(bench, mode, code, stops, registers):
    bench.start(mode, bytes.fromhex(code), **registers)
    offset = 0
    for stop in stops:
        bench.set(eflags=TF)
        bench.vcpu.eip = mode.entry + offset
        bench.vcpu.dr[6] = 0xFFFF_0FF0
        result = bench.run()
        assert result["fault"] == (1, None), stop
        assert result["eip"] == mode.entry + stop
        assert result["eflags"] & TF
        assert result["dr"][6] == 0xFFFF_4FF0
        bench.continue_at(result)
        offset = stop


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0]], ids=str)
@pytest.mark.parametrize("load", ["8ed2", "1617"])
def test_a_load_of_ss_holds_the_single_step_trap_until_the_next_instruction(bench, mode, load):
    """SDM Vol. 2B, "MOV - Move": loading SS inhibits debug exceptions too, until the next instruction is done."""
    code = bytes.fromhex(load) + b"\x40\x40"
    bench.start(mode, code)
    bench.set(edx=bench.vcpu.selector(2), eflags=TF)
    if load == "1617":
        bench.vcpu.eip += 1
        bench.set(esp=bench.vcpu.reg32(4) - (4 if mode.code32 else 2))
        bench.poke(bench.vcpu.base(2) + bench.vcpu.reg32(4), bench.vcpu.selector(2))
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((1, None), mode.entry + 3)


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P16[3], P32[3]], ids=str)
def test_popf_that_sets_tf_traps_after_the_next_instruction(bench, mode):
    push = b"\x68" + little(TF | 0x8D5, 4 if mode.code32 else 2)
    bench.start(mode, push + b"\x9d\x90\x90")
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((1, None), mode.entry + len(push) + 2)
    assert result["eflags"] & (ARITHMETIC | TF) == TF | 0x8D5


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P16[3], P32[3]], ids=str)
def test_popf_that_clears_tf_traps_once_more_and_then_no_more(bench, mode):
    push = b"\x68" + little(2, 4 if mode.code32 else 2)
    bench.start(mode, push + b"\x9d\x90\x90")
    bench.run()
    bench.recycle()
    bench.start(mode, push + b"\x9d\x90\x90")
    bench.set(esp=bench.vcpu.reg32(4) - (4 if mode.code32 else 2), eflags=TF)
    bench.vcpu.eip = mode.entry + len(push)
    bench.poke(bench.vcpu.base(2) + bench.vcpu.reg32(4), 2)
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((1, None), mode.entry + len(push) + 1)
    assert not result["eflags"] & TF


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P16[3], P32[3]], ids=str)
@pytest.mark.parametrize("size", [2, 4])
def test_pushf_under_tf_shows_tf(bench, mode, size):
    bench.start(mode, plain(mode, "9c", size) + b"\x90", eflags=TF)
    result = bench.run()
    assert result["fault"] == (1, None)
    assert bench.word(STACK - size, 2) & TF


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0]], ids=str)
def test_an_interrupt_instruction_under_tf_enters_its_handler_untraced(bench, mode):
    bench.start(mode, b"\xcd\x80\x90", eflags=TF)
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((0x80, None), mode.entry + 2)
    assert result["eflags"] & TF


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0]], ids=str)
def test_iret_that_sets_tf_traps_after_the_instruction_it_returns_to(bench, mode):
    size = 4 if mode.code32 else 2
    bench.start(mode, b"\xcf\x90\x90")
    frame = [mode.entry + 1, bench.vcpu.selector(1), TF | 2]
    bench.poke(STACK, b"".join(little(value, size) for value in frame))
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((1, None), mode.entry + 2)


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0]], ids=str)
def test_rep_under_tf_traps_after_each_iteration(bench, mode):
    """The iterations of a repeated instruction are the steps (SDM Vol. 3B, "Single-Step Exception Condition")."""
    at = mode.offset(DATA + CELL)
    bench.start(mode, b"\xf3\xaa\x90", eflags=TF, ecx=3, edi=at, eax=0x55)
    result = bench.run()
    assert (result["fault"], result["eip"], result["ecx"], result["edi"]) == ((1, None), mode.entry, 2, at + 1)


# --- RF ----------------------------------------------------------------------------------------------------------


def test_rf_set_by_iretd_lives_for_one_instruction(bench):
    """A later interrupt's frame does not show it (SDM Vol. 3B, "Instruction-Breakpoint Exception Condition")."""
    mode = P32[0]
    bench.start(mode, b"\xcf" + b"\x40" * 3 + b"\xeb\xfe")
    bench.poke(STACK, little(mode.entry + 1, 4) + little(bench.vcpu.selector(1), 4) + little(RF | IF | 2, 4))
    bench.run(20)
    bench.vcpu.set_interrupt_pending(True)
    result = bench.run()
    assert result["fault"] == (0x20, None)
    assert not bench.word(bench.vcpu.reg32(4) + 8) & RF


@pytest.mark.parametrize("mode", [P32[0], P16[0], P32[3], V86_3], ids=str)
def test_a_fault_pushes_rf_and_a_trap_does_not(bench, mode):
    for code, expected in (("0f0b", RF), ("cd80", 0), ("cc", 0)):
        bench.recycle()
        bench.start(mode, bytes.fromhex(code))
        bench.run()
        top = bench.vcpu.base(2) + (bench.vcpu.reg32(4) if bench.vcpu.stack_size == 4 else bench.vcpu.reg32(4) & 0xFFFF)
        assert bench.word(top + 8) & RF == expected, code


def test_handlers_that_fault_before_their_first_instruction_do_not_keep_the_vmm(bench):
    """A code segment limit below every handler: each #GP raises the next one, for ever, and the run ends anyway."""
    bench.start(REAL, b"\x40" * 0x20, eax=0)
    register = bench.vcpu.segment(Seg.CS)
    bench.vcpu.set_segment(Seg.CS, type(register)(register.selector, register.base, ENTRY + 9, register.flags))
    for _ in range(3):
        bench.run(1000)
        assert bench.leave is Leave.PREEMPTED
        assert bench.vcpu.reg32(0) == 10


# --- delivery that goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P32[3], V86_3], ids=str)
def test_an_idt_limit_of_zero_ends_in_shutdown(bench, mode):
    bench.start(mode, b"\x0f\x0b", idtr=(IDT, 0))
    bench.run()
    assert bench.leave is Leave.SHUTDOWN


@pytest.mark.parametrize("mode", [P16[0], P32[0], P32[3], V86_3], ids=str)
def test_a_contributory_fault_without_its_gate_is_a_double_fault_and_without_that_a_shutdown(bench, mode):
    for missing in ([13], [13, 8]):
        bench.recycle()
        bench.start(mode, b"\x0f\x22\xc0", eax=1 << 29 | 1)  # CR0.NW without CD, or any CR0 outside ring 0: #GP(0)
        for vector in missing:
            bench.poke(IDT + vector * 8, bytes(8))
        result = bench.run()
        if len(missing) == 1:
            assert (result["fault"], result["eip"]) == ((8, 0), mode.entry)
        else:
            assert bench.leave is Leave.SHUTDOWN


@pytest.mark.parametrize("mode", [P16[0], P32[0], P32[3], V86_3], ids=str)
def test_a_benign_fault_whose_gate_is_broken_is_the_fault_of_the_gate(bench, mode):
    bench.start(mode, b"\x0f\x0b")
    bench.poke(IDT + 6 * 8, bytes(8))
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((13, 6 * 8 + 3), mode.entry)
