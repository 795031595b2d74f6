"""What the design takes for granted about the engine, fact by fact: a new engine that differs shows here first."""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cpu_rig import CODE, CODE_FLAGS, DATA, EXIT, FAR_CODE, GDT, NX, STACK, STACK_TOP, Exit, P, Rig, U, W
from unicorn.unicorn_py3.unicorn import uclib

from bt.assemble import assemble
from vmm.arch.descriptors import Descriptor
from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.registers import ARITHMETIC, Eflags, Reg, Seg
from vmm.errors import VmmError
from vmm.hw import polls
from vmm.hw import state as hw

INT = f"int {EXIT:#x}"
CF, ZF, SF, OF, DF = (int(flag) for flag in (Eflags.CF, Eflags.ZF, Eflags.SF, Eflags.OF, Eflags.DF))
PAGE = 0x1000


# --- the state and the hook --------------------------------------------------------------------------------


def test_the_hook_continues_at_the_state_it_leaves(rig: Rig) -> None:
    """Another ring, other segments, other registers, other flags: a world switch without a stop."""
    rig.load(INT, CODE)
    rig.load("mov ebx, eax; mov ecx, ds; setc dl; movsd; int 0x41".replace("movsd", ".byte 0xa5"), CODE + 0x100)

    def switch(seen: Exit) -> bool:
        if seen.vector != EXIT:
            return False
        rig.enter(cpl=3, eip=CODE + 0x100)
        rig.segment(Seg.DS, 0x2345, DATA, 0x00CF_F300)
        rig.segment(Seg.ES, 0x10, 0, 0x00CF_F300)
        rig.cpu.state.q[Reg.EAX] = 0x1234_5678
        rig.cpu.state.q[Reg.ESI], rig.cpu.state.q[Reg.EDI] = 0x10, DATA + 0x20
        rig.set_flags(CF | DF)
        return True

    rig.put(DATA + 0x10, b"four")
    rig.then = switch
    seen = rig.run()
    assert (seen.vector, rig.reg(Reg.EBX), rig.reg(Reg.ECX), rig.reg(Reg.EDX)) == (0x41, 0x1234_5678, 0x2345, 1)
    assert (bytes(rig.memory.view[DATA + 0x20 : DATA + 0x24]), rig.reg(Reg.ESI)) == (b"four", 0x0C)
    assert rig.cpu.state.d[hw.D_HFLAGS] & hw.HF_CPL == 3


def test_a_saved_state_restores_exactly(rig: Rig) -> None:
    """Registers, flags and the FPU survive 200 trips through the hook, each of which changes nothing."""
    rig.load(f"fldpi; mov eax, -1; add eax, 1; std; top: {INT}; jmp top")
    count = 0
    images = set()

    def again(_seen: Exit) -> bool:
        nonlocal count
        count += 1
        flags = rig.flags()
        rig.set_flags(flags)
        images.add((flags, bytes(rig.cpu.state.buffer[: hw.Q_EIP * 8]), bytes(rig.cpu.state.buffer[604:820])))
        return count < 200

    rig.then = again
    rig.run()
    assert count == 200
    assert {flags for flags, _, _ in images} == {CF | ZF | DF | int(Eflags.AF | Eflags.PF)}
    assert len(images) == 1


def test_flags_are_lazy_in_the_hook_and_fold_to_what_they_are(rig: Rig) -> None:
    seen_lazy: list[int] = []

    def look(_seen: Exit) -> bool:
        seen_lazy.append(rig.cpu.state.d[hw.D_CC_OP] != hw.CC_OP_EFLAGS)
        seen_lazy.append(rig.flags())
        return False

    rig.then = look
    rig.run(f"mov eax, 0x7fffffff; add eax, 1; {INT}")
    assert seen_lazy == [True, OF | SF | int(Eflags.AF | Eflags.PF)]


@pytest.mark.parametrize("flags", [0, ARITHMETIC, DF, ARITHMETIC | DF, CF, OF | ZF])
def test_flags_go_in_and_come_out_of_a_run(rig: Rig, flags: int) -> None:
    rig.set_flags(flags)
    rig.run(INT)
    assert rig.flags() == flags


def test_flags_survive_a_stop_by_the_block_hook(rig: Rig) -> None:
    rig.load(f"mov eax, -1; add eax, 1; std; jmp next; next: {INT}")
    rig.cpu.set_block_limit(2)
    assert rig.cpu.run()
    assert rig.flags() == CF | ZF | DF | int(Eflags.AF | Eflags.PF)
    rig.cpu.set_block_limit()
    rig.run()
    assert rig.flags() == CF | ZF | DF | int(Eflags.AF | Eflags.PF)


def test_hidden_selectors_are_free(rig: Rig) -> None:
    """In protected mode DS may hold a selector that no table has; reads of it show that selector."""
    rig.segment(Seg.DS, 0x2345, DATA, 0x00CF_B300)
    rig.put(DATA, b"\x78\x56\x34\x12")
    rig.run(f"mov eax, ds; mov ebx, dword ptr [0]; .byte 0x1e; {INT}")
    assert (rig.reg(Reg.EAX), rig.reg(Reg.EBX), rig.word(STACK_TOP - 4) & 0xFFFF) == (0x2345, 0x1234_5678, 0x2345)


def test_an_exception_in_the_handler_surfaces_from_run(rig: Rig) -> None:
    def fail(_vector: int) -> None:
        raise LookupError("in the hook")

    rig.cpu.on_exit = fail
    for code in (INT, "ud2"):
        rig.enter()
        rig.cpu.forget_all_code()
        rig.load(code)
        with pytest.raises(LookupError, match="in the hook"):
            rig.cpu.run()


# --- exceptions --------------------------------------------------------------------------------------------


def test_an_exit_clears_what_the_engine_never_clears(rig: Rig) -> None:
    """Ten page faults in a row stay page faults: `old_exception` would make the second one #DF."""
    rig.load(f"mov eax, dword ptr [0x700000]; {INT}")

    def same_again(_seen: Exit) -> bool:
        return len(rig.exits) < 10

    rig.then = same_again
    rig.run()
    assert {seen.vector for seen in rig.exits} == {Vector.PF}


def test_a_stale_old_exception_makes_a_double_fault(rig: Rig) -> None:
    rig.load("mov eax, dword ptr [0x700000]")

    def stale(_seen: Exit) -> bool:
        rig.cpu.state.d[hw.D_OLD_EXCEPTION] = Vector.PF
        return len(rig.exits) < 2

    rig.then = stale
    rig.run()
    assert [seen.vector for seen in rig.exits] == [Vector.PF, Vector.DF]


@pytest.mark.parametrize("cpl", [0, 1, 3])
def test_int_arrives_with_eip_past_it_and_no_gate_is_asked(rig: Rig, cpl: int) -> None:
    rig.enter(cpl=cpl)
    assert rig.run(f"nop; {INT}") == Exit(EXIT, CODE + 3, rig.exits[0].error_code, 0)


FAULTS = [
    pytest.param("nop; xor ecx, ecx; div ecx", 3, Vector.DE, id="de"),
    pytest.param("nop; hlt", 1, Vector.GP, id="gp"),
    pytest.param("nop; mov eax, dword ptr [0x700000]", 1, Vector.PF, id="pf"),
    pytest.param("nop; ud2", 1, Vector.UD, id="ud2"),
    pytest.param(b"\x90\x0f\xff", 1, Vector.UD, id="undefined opcode"),
    pytest.param(b"\x90\xf1", 1, Vector.UD, id="icebp"),
    pytest.param("mov eax, 0x300000; bound eax, qword ptr [eax]", 5, Vector.BR, id="br"),
]


@pytest.mark.parametrize(("code", "offset", "vector"), FAULTS)
@pytest.mark.parametrize("cpl", [1, 3])
def test_a_fault_leaves_eip_at_the_instruction(rig: Rig, code: str, offset: int, vector: int, cpl: int) -> None:
    rig.enter(cpl=cpl)
    seen = rig.run(code)
    assert (seen.vector, seen.eip) == (vector, CODE + offset)


def test_after_an_undefined_opcode_the_run_goes_on_where_the_hook_says(rig: Rig) -> None:
    rig.load(f"ud2; mov eax, 5; {INT}")

    def skip(seen: Exit) -> bool:
        rig.cpu.state.q[hw.Q_EIP] += 2
        return seen.vector == Vector.UD

    rig.then = skip
    rig.run()
    assert ([seen.vector for seen in rig.exits], rig.reg(Reg.EAX)) == ([Vector.UD, EXIT], 5)


def test_a_halt_at_cpl_0_ends_the_run_behind_it(rig: Rig) -> None:
    rig.enter(cpl=0)
    rig.load("nop; hlt; nop")
    assert rig.cpu.run()
    assert (rig.cpu.state.q[hw.Q_EIP], rig.exits) == (CODE + 2, [])


def test_task_switched_makes_the_fpu_trap_only_through_hflags(rig: Rig) -> None:
    rig.cpu.state.q[hw.Q_CR] |= 1 << 3
    rig.load(f"fld1; {INT}")
    assert rig.run().vector == EXIT
    rig.enter()
    rig.cpu.state.d[hw.D_HFLAGS] |= hw.HF_TS
    rig.cpu.forget_all_code()
    assert rig.run().vector == Vector.NM


# --- who may do what ---------------------------------------------------------------------------------------

TRAPPING = (
    "cli sti hlt clts invd wbinvd rdmsr wrmsr|lgdt [{d}]|lidt [{d}]|lldt ax|ltr ax|lmsw ax|mov eax, cr0|mov cr0, eax|"
    "mov eax, cr2|mov cr3, eax|mov eax, cr4|mov eax, dr7|mov dr0, eax|invlpg [{d}]"
)
TRAPPING_LIST = [*TRAPPING.split("|")[0].split(), *TRAPPING.split("|")[1:]]


@pytest.mark.parametrize("code", TRAPPING_LIST)
@pytest.mark.parametrize("cpl", [1, 3])
def test_it_traps_outside_ring_0(rig: Rig, code: str, cpl: int) -> None:
    rig.enter(cpl=cpl)
    seen = rig.run(code.format(d=hex(DATA)) + f"; {INT}")
    assert (seen.vector, seen.eip) == (Vector.GP, CODE)


SILENT = [
    "sgdt [{d}]", "sidt [{d}]", "sldt eax", "str eax", "smsw eax", "pushfd", "push 0; popfd", "lar eax, ecx",
    "lsl eax, ecx", "verr cx", "verw cx", "mov eax, ds", "push ds", "push es", "mov eax, cs", "in al, 0x60",
    "out 0x60, al", "mov ecx, 0; mov ds, cx", "push 0; pop fs",
]  # fmt: skip


@pytest.mark.parametrize("code", SILENT)
@pytest.mark.parametrize("cpl", [1, 3])
def test_it_is_silent_outside_ring_0(rig: Rig, code: str, cpl: int) -> None:
    """These are why the translator exists: none of them tells the VMM anything."""
    rig.enter(cpl=cpl)
    rig.put(GDT + 8, Descriptor(0, 0xFFFF_FFFF, CODE_FLAGS | 0x6000).to_bytes())
    assert rig.run(code.format(d=hex(DATA)) + f"; {INT}").vector == EXIT


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("push 0x09; push {target}; retf", id="retf"),
        pytest.param("jmp far", id="far jmp"),
        pytest.param("pushfd; push 0x09; push {target}; iretd", id="iretd"),
    ],
)
def test_far_transfers_within_a_ring_are_silent(rig: Rig, code: str) -> None:
    rig.put(GDT + 8, Descriptor(0, 0xFFFF_FFFF, CODE_FLAGS | 0x2000).to_bytes())
    target = CODE + 0x80
    far_jump = b"\xea" + target.to_bytes(4, "little") + b"\x09\x00"
    raw = far_jump if code == "jmp far" else assemble(code.format(target=hex(target)), True)
    rig.load(raw)
    rig.load(INT, target)
    seen = rig.run()
    assert (seen.vector, seen.eip) == (EXIT, target + 2)


def test_the_popf_of_a_deprivileged_guest_loses_if(rig: Rig) -> None:
    rig.run(f"push 0x202; popfd; pushfd; pop eax; {INT}")
    assert rig.reg(Reg.EAX) & int(Eflags.IF) == 0


def test_sse_is_undefined_without_its_hflag(rig: Rig) -> None:
    rig.cpu.state.d[hw.D_HFLAGS] &= ~hw.HF_OSFXSR
    assert rig.run(f"addps xmm0, xmm1; {INT}").vector == Vector.UD


def test_without_addseg_bases_are_ignored(rig: Rig) -> None:
    rig.put(DATA, b"\x01")
    rig.put(DATA + PAGE, b"\x02")
    rig.load(f"movzx eax, byte ptr [{DATA:#x}]; {INT}")
    for addseg, expected in ((hw.HF_ADDSEG, 2), (0, 1)):
        rig.enter()
        rig.segment(Seg.DS, 0x10, PAGE, 0x00CF_B300)
        rig.cpu.state.d[hw.D_HFLAGS] = rig.cpu.state.d[hw.D_HFLAGS] & ~hw.HF_ADDSEG | addseg
        rig.run()
        assert rig.reg(Reg.EAX) == expected


def test_limits_and_types_are_not_enforced(rig: Rig) -> None:
    """Writing through CS works, and so does an access above the limit: protection has to come from paging."""
    at = hw.D_SEGS + Seg.DS * hw.SEG_WORDS
    rig.cpu.state.d[at + hw.SEG_LIMIT] = 0xFFFF
    seen = rig.run(f"mov dword ptr cs:[{DATA:#x}], 7; mov eax, dword ptr ds:[{DATA:#x}]; {INT}")
    assert (seen.vector, rig.reg(Reg.EAX)) == (EXIT, 7)


# --- paging ------------------------------------------------------------------------------------------------

_P, _W, _U, _RSVD, _I = (int(bit) for bit in (PageFault.P, PageFault.W, PageFault.U, PageFault.RSVD, PageFault.I))
PAGE_X = 0x50_0000
LOAD, STORE, FETCH = (
    f"mov eax, dword ptr [{PAGE_X:#x}]",
    f"mov dword ptr [{PAGE_X:#x}], eax",
    f"mov eax, {PAGE_X:#x}; jmp eax",
)
RIGHTS = [
    pytest.param(0, LOAD, 1, 0, id="read of a missing page"),
    pytest.param(0, STORE, 3, _W | _U, id="user write to a missing page"),
    pytest.param(P | U, STORE, 1, _P | _W, id="ring 1 obeys WP"),
    pytest.param(P | U, STORE, 3, _P | _W | _U, id="user write to a read-only page"),
    pytest.param(P | W, LOAD, 3, _P | _U, id="user read of a supervisor page"),
    pytest.param(P | W, LOAD, 1, None, id="ring 1 is supervisor"),
    pytest.param(P | W | U | NX, FETCH, 1, _P | _I, id="fetch from a page that must not run"),
    pytest.param(P | W | U | NX, FETCH, 3, _P | _I | _U, id="user fetch"),
    pytest.param(P | W | U | NX, STORE, 3, None, id="allowed"),
    pytest.param(P | W | U | 1 << 52, LOAD, 3, _P | _U | _RSVD, id="reserved bit"),
]


@pytest.mark.parametrize(("bits", "code", "cpl", "error"), RIGHTS)
def test_page_rights(rig: Rig, bits: int, code: str, cpl: int, error: int | None) -> None:
    rig.map(PAGE_X, DATA if bits else 0, bits)
    rig.enter(cpl=cpl)
    seen = rig.run(f"{code}; {INT}")
    if error is None:
        assert seen.vector == EXIT
    else:
        fetch = code == FETCH
        assert seen == Exit(Vector.PF, PAGE_X if fetch else CODE, error, PAGE_X)


def test_a_page_fault_names_the_second_page_of_an_access_that_crosses(rig: Rig) -> None:
    rig.map(PAGE_X, DATA, P | W | U | NX)
    seen = rig.run(f"mov dword ptr [{PAGE_X + PAGE - 2:#x}], eax; {INT}")
    assert (seen.cr2, seen.error_code) == (PAGE_X + PAGE, _W)


def test_an_entry_taken_away_needs_a_tlb_flush_and_one_given_does_not(rig: Rig) -> None:
    rig.map(PAGE_X, DATA, P | U | NX)
    rig.load(f"top: mov eax, dword ptr [{PAGE_X:#x}]; mov dword ptr [{PAGE_X:#x}], eax; {INT}; jmp top")
    steps: list[Callable[[], None]] = [
        lambda: rig.map(PAGE_X, DATA, P | W | U | NX),  # the store's fault: grant it
        lambda: rig.map(PAGE_X, DATA, P | U | NX),  # take it away: not seen yet
        rig.cpu.flush_tlb,  # now it is
    ]

    def next_step(_seen: Exit) -> bool:
        if len(rig.exits) > len(steps):
            return False
        steps[len(rig.exits) - 1]()
        return True

    rig.then = next_step
    rig.run()
    assert [seen.vector for seen in rig.exits] == [Vector.PF, EXIT, EXIT, Vector.PF]


def test_another_cr3_needs_a_tlb_flush(rig: Rig) -> None:
    other_root, other_directory, other_table = 0x40_0000, 0x40_1000, 0x40_2000
    entries = rig.memory.view.cast("Q")
    view = rig.memory.view
    view[other_root : other_root + PAGE] = view[rig.root : rig.root + PAGE]
    entries[other_root >> 3] = other_directory | P
    view[other_directory : other_directory + PAGE] = view[0x2000 : 0x2000 + PAGE]
    entries[(other_directory >> 3) + (DATA >> 21)] = other_table | P | W | U
    table = entries[(0x2000 >> 3) + (DATA >> 21)] & ~0xFFF
    view[other_table : other_table + PAGE] = view[table : table + PAGE]
    entries[(other_table >> 3) + (DATA >> 12 & 511)] = (DATA + PAGE) | P | W | U | NX
    rig.put(DATA, b"\x01")
    rig.put(DATA + PAGE, b"\x02")
    rig.load(f"top: movzx eax, byte ptr [{DATA:#x}]; {INT}; jmp top")
    values = []

    def switch(_seen: Exit) -> bool:
        values.append(rig.reg(Reg.EAX))
        rig.cpu.state.q[hw.Q_CR + 3] = other_root
        if len(values) == 2:
            rig.cpu.flush_tlb()
        return len(values) < 3

    rig.then = switch
    rig.run()
    assert values == [1, 1, 2]


def test_a_frame_that_does_not_exist_ends_the_run_with_an_error(rig: Rig) -> None:
    """So the shadow tables must never name one."""
    rig.map(PAGE_X, 0x4000_0000, P | W | U | NX)
    rig.load(f"nop; mov eax, dword ptr [{PAGE_X:#x}]")
    with pytest.raises(VmmError, match=r"READ_UNMAPPED.* at 0x10001"):
        rig.cpu.run()


# --- 16-bit code and V86 -----------------------------------------------------------------------------------


def test_physical_v86_loads_segments_natively(rig: Rig) -> None:
    rig.enter(cpl=3, code32=False, v86=True, iopl=3)
    rig.load(f"mov ax, 0x3000; mov ds, ax; push 0x3100; pop es; mov fs, ax; {INT}", code32=False)
    seen = rig.run()
    assert (seen.vector, rig.selector(Seg.DS), rig.base(Seg.DS)) == (EXIT, 0x3000, 0x3_0000)
    assert (rig.selector(Seg.ES), rig.base(Seg.ES), rig.base(Seg.FS)) == (0x3100, 0x3_1000, 0x3_0000)


@pytest.mark.parametrize(("iopl", "vector"), [(3, EXIT), (0, Vector.GP)])
def test_in_v86_int_and_pushf_pass_only_with_iopl_3(rig: Rig, iopl: int, vector: int) -> None:
    for code in (INT, f"pushf; {INT}"):
        rig.enter(cpl=3, code32=False, v86=True, iopl=iopl)
        rig.cpu.forget_all_code()
        rig.load(code, code32=False)
        assert rig.run().vector == vector


def test_in_v86_pushfd_pushes_vm(rig: Rig) -> None:
    """SDM Vol. 2B, "PUSHF", "Operation": the image is EFLAGS AND 00FCFFFFh, without VM and RF. Engines that run guests
    in place inherit this.
    """
    rig.enter(cpl=3, code32=False, v86=True, iopl=3)
    rig.load(b"\x66\x9c\x66\x58\xcd\x40")  # pushfd; pop eax; int 40h
    rig.run()
    assert rig.reg(Reg.EAX) & int(Eflags.VM)


def test_16_bit_code_runs_beyond_64_kib_of_its_base(rig: Rig) -> None:
    """Branches with 66h keep EIP whole, those without cut it to 16 bits."""
    rig.enter(code32=False, cs_base=0x1234, eip=FAR_CODE)
    rig.load(
        b"\x31\xc0\x66\x0f\x84\x01\x00\x00\x00\xf4"  # xor ax, ax; je over (66h); hlt
        b"\x66\xe8\x01\x00\x00\x00\xf4"  # call over (66h); hlt
        b"\xcd\x40",
        FAR_CODE,
    )
    seen = rig.run()
    assert (seen.vector, seen.eip) == (EXIT, FAR_CODE - 0x1234 + 19)
    assert rig.word(STACK_TOP - 4) == FAR_CODE - 0x1234 + 16


def test_a_16_bit_branch_without_66h_cuts_eip(rig: Rig) -> None:
    rig.enter(code32=False, cs_base=0, eip=FAR_CODE)
    rig.load(b"\xeb\x00", FAR_CODE)
    seen = rig.run()
    assert (seen.vector, seen.cr2) == (Vector.PF, FAR_CODE + 2 & 0xFFFF)


def test_a_16_bit_stack_and_16_bit_addresses_wrap(rig: Rig) -> None:
    rig.enter(cpl=3, code32=False, v86=True, iopl=3)
    rig.cpu.state.d[hw.D_HFLAGS] &= ~hw.HF_SS32
    for seg in (Seg.SS, Seg.DS):
        rig.segment(seg, STACK >> 4, STACK - 0xF000, 0xF300)
    rig.cpu.state.q[Reg.ESP], rig.cpu.state.q[Reg.EBX] = 0xABCD_0000, 0xFFF0
    rig.put(STACK + 0xFFE, b"\x34\x12")
    rig.load(f"push ax; mov cx, word ptr [bx + 0x0e]; {INT}", code32=False)
    rig.cpu.state.q[Reg.EAX] = 0x7788
    rig.run()
    assert (rig.reg(Reg.ESP), rig.reg(Reg.ECX)) == (0xABCD_FFFE, 0x7788)


# --- blocks ------------------------------------------------------------------------------------------------


def test_the_block_hook_counts_and_stops_exactly(rig: Rig) -> None:
    rig.load(f"top: add dword ptr [{DATA:#x}], 1; jmp top")
    for limit, total in ((1, 0), (2, 1), (11, 11), (101, 111)):
        rig.cpu.set_block_limit(limit)
        assert rig.cpu.run()
        assert (rig.word(DATA), rig.cpu.blocks, rig.cpu.state.q[hw.Q_EIP]) == (total, limit, CODE)


def test_every_rep_iteration_is_a_block_start(rig: Rig) -> None:
    """So a block start may be a half-done REP: EIP is at the instruction, and ECX says how far it is."""
    rig.cpu.state.q[Reg.ECX], rig.cpu.state.q[Reg.EDI] = 100, DATA
    rig.load(f"rep stosb; {INT}")
    rig.cpu.set_block_limit(40)
    assert rig.cpu.run()
    done = 100 - rig.reg(Reg.ECX)
    assert 0 < done < 100
    assert (rig.cpu.state.q[hw.Q_EIP], rig.reg(Reg.EDI)) == (CODE, DATA + done)
    rig.cpu.set_block_limit()
    rig.run()
    assert rig.reg(Reg.EDI) == DATA + 100


def test_behind_mov_ss_a_block_starts_with_interrupts_inhibited(rig: Rig) -> None:
    rig.enter(cpl=3, code32=False, v86=True, iopl=3)
    rig.load(f"mov ax, 0x3000; mov ss, ax; mov cx, 5; {INT}", code32=False)
    rig.cpu.set_block_limit(2)
    assert rig.cpu.run()
    state = rig.cpu.state
    assert (state.q[hw.Q_EIP], bool(state.d[hw.D_HFLAGS] & hw.HF_INHIBIT_IRQ)) == (CODE + 5, True)


@pytest.fixture
def host_timer(rig: Rig) -> Iterator[None]:
    """SIGALRM every millisecond, handled by the ring alone: no Python runs."""
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    before = libc.signal(signal.SIGALRM, ctypes.c_void_p(rig.cpu.stop_ring))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    libc.signal(signal.SIGALRM, ctypes.c_void_p(before))


@pytest.mark.usefixtures("host_timer")
def test_a_signal_stops_the_run_exactly(rig: Rig) -> None:
    """Read-modify-write loops lose and repeat nothing, however often a host timer stops them."""
    rounds = 6_000_000
    rig.cpu.state.q[Reg.ECX] = rounds
    rig.load(
        f"top: add dword ptr [{DATA:#x}], 1; xchg dword ptr [{DATA + 4:#x}], eax; inc eax; dec ecx; jne top; {INT}"
    )
    stops = 0
    rig.cpu.set_block_limit()
    while rig.cpu.run():
        stops += 1
        rig.cpu.set_block_limit()
    assert stops > 3
    assert (rig.word(DATA), rig.word(DATA + 4) + rig.reg(Reg.EAX), rig.exits[-1].vector) == (rounds, rounds, EXIT)


@pytest.mark.usefixtures("host_timer")
def test_a_signal_during_an_exit_stops_the_run_behind_it_with_the_flags_as_they_were(rig: Rig) -> None:
    """Most signals come while the hook runs: then there is no block start between it and the stop."""
    rounds = 60_000
    rig.cpu.state.q[Reg.ECX] = rounds
    rig.load(
        f"top: stc; {INT}; adc dword ptr [{DATA:#x}], 0; clc; {INT}; adc dword ptr [{DATA + 4:#x}], 0; "
        f"std; {INT}; mov edi, {DATA + 16:#x}; .byte 0xaa; sub edi, {DATA + 15:#x}; add dword ptr [{DATA + 8:#x}], edi; "
        "cld; dec ecx; jne top; int 0x41"
    )
    rig.then = lambda seen: seen.vector == EXIT
    stops = 0
    rig.cpu.set_block_limit()
    while rig.cpu.run():
        stops += 1
        rig.cpu.set_block_limit()
    assert stops > 3
    assert (rig.word(DATA), rig.word(DATA + 4), rig.word(DATA + 8), rig.exits[-1].vector) == (rounds, 0, 0, 0x41)


def test_without_polls_a_stop_from_another_thread_comes_between_blocks(rig: Rig) -> None:
    """With them it comes behind an access to memory, and the instruction that made it runs again: ADD adds twice."""
    assert polls.remove()
    rig.load(f"again: add dword ptr [{DATA:#x}], 1; inc ecx; cmp dword ptr [{DATA + 4:#x}], 0; je again; {INT}")
    done, stops = threading.Event(), 0

    def stop() -> None:
        while not done.wait(0.0005):
            uclib.uc_emu_stop(rig.cpu._handle)

    thread = threading.Thread(target=stop)
    thread.start()
    while rig.cpu.run():  # the guest is done when it has been stopped often enough, on a slow host too
        stops += 1
        rig.put(DATA + 4, (stops >= 50).to_bytes(4, "little"))
    done.set()
    thread.join()
    assert rig.word(DATA) == rig.reg(Reg.ECX)


def test_an_endless_loop_ends_at_the_ring(rig: Rig) -> None:
    rig.load("top: jmp top")
    ctypes.CFUNCTYPE(None, ctypes.c_int)(rig.cpu.stop_ring)(14)
    assert rig.cpu.run()
    assert rig.cpu.state.q[hw.Q_EIP] == CODE


@pytest.mark.parametrize(
    ("ranges", "cpl", "failure"),
    [
        pytest.param([(CODE, 0x100), (0, 0)], 3, None, id="inside the first range"),
        pytest.param([(0, 0), (CODE, 0x100)], 1, None, id="inside the second range"),
        pytest.param([(CODE, 2), (0, 0)], 3, CODE + 2, id="behind a range"),
        pytest.param([(CODE + 1, 0x100), (CODE + 2, 1)], 3, CODE, id="before a range"),
        pytest.param([(CODE, 0x100), (0, 0)], 0, CODE, id="at CPL 0"),
    ],
)
def test_the_audit_stops_outside_its_ranges_and_at_cpl_0(
    rig: Rig, ranges: list[tuple[int, int]], cpl: int, failure: int | None
) -> None:
    rig.cpu.audit_blocks(*ranges)
    rig.enter(cpl=cpl)
    rig.load("jmp next; next: jmp last; last: jmp last")
    rig.cpu.set_block_limit(1000)
    assert rig.cpu.run()
    assert rig.cpu.audit_failure == failure


# --- the engine's own translations -------------------------------------------------------------------------

PATCH_FROM = CODE + 1


def _patch_world(rig: Rig) -> Callable[[], int]:
    """A jump that goes to one of two places, and a function that runs it: it returns where it went."""
    rig.cpu.set_service_root(rig.root)
    rig.load(b"\xe9" + (0x40 - 5).to_bytes(4, "little"))
    rig.load(f"mov eax, 1; {INT}", CODE + 0x40)
    rig.load(f"mov eax, 2; {INT}", CODE + 0x80)

    def go() -> int:
        rig.enter()
        rig.run()
        return rig.reg(Reg.EAX)

    return go


def test_patched_code_takes_effect_when_forgotten(rig: Rig) -> None:
    go = _patch_world(rig)
    assert go() == 1
    rig.put(PATCH_FROM, (0x80 - 5).to_bytes(4, "little"))
    assert go() == 1, "the engine noticed a write from outside: forget_code is not needed any more"
    rig.cpu.forget_code(PATCH_FROM, PATCH_FROM + 4)
    assert go() == 2


def test_code_is_forgotten_from_inside_the_hook_at_any_ring(rig: Rig) -> None:
    """`forget_code` looks through a state of its own, so supervisor code goes away while CPL 3 runs."""
    rig.cpu.set_service_root(rig.root)
    rig.map(CODE + PAGE, CODE + PAGE, P)
    rig.load(f"mov eax, 1; {INT}", CODE + PAGE)
    rig.load(INT)
    kernel_at = CODE + PAGE
    values = []

    def handle(_seen: Exit) -> bool:
        if rig.cpu.state.d[hw.D_HFLAGS] & hw.HF_CPL == 3:
            rig.put(kernel_at + 1, b"\x02")
            rig.cpu.forget_code(kernel_at, kernel_at + 5)
            rig.enter(eip=kernel_at)
        else:
            values.append(rig.reg(Reg.EAX))
            rig.enter(cpl=3)
        return len(values) < 2

    rig.then = handle
    rig.enter(eip=kernel_at)
    rig.run()
    assert values == [1, 2]


def test_forget_code_leaves_the_running_state_alone(rig: Rig) -> None:
    rig.cpu.set_service_root(rig.root)
    rig.load(f"mov eax, 0x11; {INT}; mov ebx, eax; int 0x41")

    def handle(seen: Exit) -> bool:
        rig.cpu.forget_code(CODE, CODE + 0x20)
        return seen.vector == EXIT

    rig.then = handle
    assert rig.run().vector == 0x41
    assert rig.reg(Reg.EBX) == 0x11


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_code_buffer_is_bounded() -> None:
    """40,000 regenerations of a block take 20 MB in an unbounded buffer; this one holds 2 MiB and stays exact."""
    rig = Rig(tcg_buffer=2 << 20)
    rig.cpu.set_service_root(rig.root)
    rig.load(f"top: mov eax, 0; {INT}; jmp top")
    rounds = 40_000
    number = 0

    def regenerate(_vector: int) -> None:
        nonlocal number
        assert rig.reg(Reg.EAX) == number
        number += 1
        rig.put(CODE + 1, number.to_bytes(4, "little"))
        rig.cpu.forget_code(CODE, CODE + 5)
        if number == rounds:
            rig.cpu.leave()

    rig.cpu.on_exit = regenerate
    before = _resident()
    rig.cpu.run()
    assert number == rounds
    assert _resident() - before < 8 << 20
