"""What only the bare engine has to get right: code that the VMM writes, the memory map, interrupts at exact places."""

import pytest
from guest_bench import (
    CELL,
    CODE,
    DATA,
    ENTRY,
    IF,
    P16,
    P32,
    PG,
    REAL,
    SEEDS,
    STACK,
    V86_3,
    Bench,
    asm,
    flat_code,
)

from vmm.cpu.paging import A20_CLOSED
from vmm.cpu.vcpu import STALE_ALL
from vmm.engines.names import EngineName
from vmm.errors import ConfigError, Unmodelled
from vmm.hw import state as hw
from vmm.memory import MemoryRegion

IN_ALL_MODES = (REAL, P16[0], P32[0], P32[3], V86_3)
DEVICE = 0x50_0000  # behind RAM
WINDOW = 0x3_F000
VECTOR = 0x20


@pytest.fixture
def bare() -> Bench:
    return Bench(engine=EngineName.BARE)


def on_port(bench: Bench, act) -> None:
    """Let a write to any port but DONE act."""
    bench.board.port_write = lambda port, _width, _value: bench.board.on_done() if port == 0xF4 else act()


# --- where the guest runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "cpl"), [(REAL, 0), (P16[0], 0), (P32[0], 0), (P32[1], 1), (P32[3], 3), (V86_3, 3)], ids=str
)
def test_the_guest_has_the_cpl_that_it_believes_to_have(bare, mode, cpl):
    bare.start(mode, "nop")
    bare.run()
    assert bare.phys.state.d[hw.D_HFLAGS] & hw.HF_CPL == cpl == bare.vcpu.cpl


@pytest.mark.parametrize("mode", IN_ALL_MODES, ids=str)
def test_a_saved_virtual_cpu_is_the_same_as_under_translation(mode):
    saved = []
    for engine in (EngineName.BARE, EngineName.TRANSLATE):
        bench = Bench(engine=engine)
        bench.start(mode, "mov cx, ds; mov es, cx; std; sub eax, ecx")
        bench.run()
        saved.append(bench.vcpu.save())
    assert saved[0] == saved[1]


# --- code that the VMM writes --------------------------------------------------------------------------------


@pytest.mark.parametrize("paging", [False, True], ids=["unpaged", "paged"])
@pytest.mark.parametrize("mode", IN_ALL_MODES, ids=str)
def test_code_put_between_two_runs_is_what_runs(bare, mode, paging):
    for value in (1, 2, 3):
        bare.start(mode, "mov al, 0x77; jmp next; next: nop")
        if paging and mode.is_protected:
            bare.map_pages()
        bare.poke(CODE + ENTRY + 1, bytes([value]))
        assert bare.run()["eax"] & 0xFF == value


@pytest.mark.parametrize("mode", IN_ALL_MODES, ids=str)
def test_code_that_a_device_writes_in_the_middle_of_a_run_is_what_runs(bare, mode):
    code = asm("top: mov bl, 1; out 0x80, al; cmp bl, 2; jne top", mode.code32)
    bare.start(mode, code, eflags=3 << 12)
    if mode.kind == "v86":
        bare.poke(0x4000 + 0x68 + 0x10, b"\0")  # I/O bitmap of the TSS
    on_port(bare, lambda: bare.poke(CODE + ENTRY + 1, b"\x02"))
    after = bare.run()
    assert (after["eip"], after["ebx"] & 0xFF) == ("end", 2)


def test_code_that_ins_writes_is_what_runs(bare):
    routine = CODE + 0x800
    bare.start(P32[0], f"mov esi, {routine}; mov edi, esi; call esi; insb; call esi", eax=0, ecx=0)
    bare.poke(routine, asm("inc eax; ret", True))
    bare.board.answer = 0x41  # INC ECX
    after = bare.run()
    assert (after["eip"], after["eax"], after["ecx"]) == ("end", 1, 1)


# --- the memory map ------------------------------------------------------------------------------------------


def test_a_map_that_changes_in_an_out_is_seen_by_the_next_instruction(bare):
    host = bare.physical.allocate(0x1000)
    bare.physical.window(host, 4)[:] = b"\x99\x88\x77\x66"
    region = MemoryRegion("bank", WINDOW, 0x1000, host, read_only=True, priority=1)
    bare.start(P32[0], f"mov eax, [{WINDOW}]; out 0x80, al; mov ebx, [{WINDOW}]; out 0x80, al; mov ecx, [{WINDOW}]")
    bare.poke(WINDOW, 0x1111_1111)
    on_port(bare, lambda: (bare.memory.unmap if region in bare.memory.regions else bare.memory.map)(region))
    after = bare.run()
    assert [after[name] for name in ("eax", "ebx", "ecx")] == [0x1111_1111, 0x6677_8899, 0x1111_1111]


def test_a_device_in_memory_is_read_and_written_at_the_width_of_the_access(bare):
    seen: list[tuple[int, ...]] = []

    def read(offset: int, width: int) -> int:
        seen.append((offset, width))
        return 0x4433_2211 & ((1 << 8 * width) - 1)

    region = MemoryRegion("device", DEVICE, 0x1000, read=read, write=lambda *what: seen.append(what))
    bare.start(P32[0], f"mov eax, [{DEVICE + 8}]; mov bl, [{DEVICE + 3}]; mov word ptr [{DEVICE + 6}], 0x1234")
    bare.memory.map(region)
    after = bare.run()
    assert seen == [(8, 4), (3, 1), (6, 2, 0x1234)]
    assert (after["eax"], after["ebx"] & 0xFF) == (0x4433_2211, 0x11)


def test_an_interrupt_that_a_write_to_a_device_raises_is_taken(bare):
    bare.start(P32[0], f"mov dword ptr [{DEVICE}], 1; wait_for_it: jmp wait_for_it", eflags=IF)
    raised = lambda *_what: bare.vcpu.set_interrupt_pending(True)  # noqa: E731
    bare.memory.map(MemoryRegion("device", DEVICE, 0x1000, write=raised))
    bare.run(100)
    assert bare.run(100)["fault"] == (VECTOR, None)


def test_what_a_device_raises_surfaces_from_the_run(bare):
    def fails(_offset: int, _width: int) -> int:
        raise Unmodelled("no such register")

    bare.start(P32[0], f"mov eax, [{DEVICE}]")
    bare.memory.map(MemoryRegion("device", DEVICE, 0x1000, read=fails))
    with pytest.raises(Unmodelled, match="no such register"):
        bare.run()


@pytest.mark.parametrize(("bit", "fault"), [(33, None), (39, None), (40, (14, 9)), (51, (14, 9))])
def test_nothing_answers_as_far_as_pae_paging_reaches(bare, bit, fault):
    """Beyond that, bits of an entry are reserved; on a processor that says 36 bits, as ours does, four bits earlier."""
    directory = 0x20_1000
    bare.start(P32[0], "mov eax, [0x200000]")
    bare.poke(0x20_0000, directory | 1, 8)
    bare.poke(directory, 0x83, 8)
    bare.poke(directory + 8, 1 << bit | 0x83, 8)
    bare.set(cr3=0x20_0000, cr4=1 << 5, cr0=bare.vcpu.cr0 | PG)
    after = bare.run()
    assert (after["eax"], after.get("fault")) == (0xFFFF_FFFF if fault is None else SEEDS["eax"], fault)


def test_a_closed_a20_gate_folds_odd_megabytes(bare):
    bare.start(P32[0], f"mov eax, [{DATA + CELL + (1 << 20)}]; out 0x80, al; mov ebx, [{DATA + CELL + (1 << 20)}]")
    bare.poke(DATA + CELL, 0x1234_5678)
    bare.poke(DATA + CELL + (1 << 20), 0x0BAD_0BAD)

    def close() -> None:
        bare.mmu.a20_mask = A20_CLOSED
        bare.vcpu.make_stale(STALE_ALL)

    on_port(bare, close)
    after = bare.run()
    assert (after["eax"], after["ebx"]) == (0x0BAD_0BAD, 0x1234_5678)


# --- interrupts at exact places ------------------------------------------------------------------------------

FRAMES = [
    # program, EFLAGS at its start, which INC EBX has been done when the interrupt of the OUT is taken
    pytest.param("out 0x80, al; inc ebx; inc ebx", IF, 0, id="out"),
    pytest.param("out 0x80, al; inc ebx; sti; inc ebx; inc ebx", 0, 2, id="sti"),
    pytest.param("push 0x202; out 0x80, al; inc ebx; popfd; inc ebx", 0, 1, id="popfd"),
    pytest.param("push 2; push 0x202; out 0x80, al; popfd; inc ebx; popfd; inc ebx; sti; nop; inc ebx", 0, 0, id="popfd_twice"),
    pytest.param("push 0x202; .byte 0x0e; call next; next: add dword ptr [esp], 8; out 0x80, al; inc ebx; iretd; nop; inc ebx",
                 0, 1, id="iretd"),
    pytest.param("sti; out 0x80, al; inc ebx; inc ebx", 0, 0, id="out_in_the_shadow"),
    pytest.param("out 0x80, al; inc ebx; sti; mov ss, dx; inc ebx; inc ebx", 0, 2, id="shadow_behind_shadow"),
    pytest.param("out 0x80, al; inc ebx; sti; pushfd; pop ecx; inc ebx", 0, 1, id="pushfd_in_the_shadow"),
]  # fmt: skip


@pytest.mark.parametrize("engine", [EngineName.BARE, EngineName.TRANSLATE], ids=str)
@pytest.mark.parametrize(("text", "flags", "done"), FRAMES)
def test_an_interrupt_raised_by_an_out_is_taken_where_if_allows(engine, text, flags, done):
    bench = Bench(engine=engine)
    bench.start(P32[0], text, eflags=flags, ebx=0, edx=flat_code(0) + 8)
    on_port(bench, lambda: bench.vcpu.set_interrupt_pending(True))
    after = bench.run()
    assert (after["fault"], after["ebx"]) == ((VECTOR, None), done)
    assert not after["eflags"] & 0x100


def test_a_step_in_a_shadow_shows_no_trap_flag(bare):
    bare.start(P32[0], "out 0x80, al; sti; pushfd; pop ecx; nop", eflags=0)
    on_port(bare, lambda: bare.vcpu.set_interrupt_pending(True))
    bare.run()
    assert not bare.word(STACK - 4) & 0x100
    assert bare.word(STACK - 4) & IF


def test_instructions_that_leave_are_looked_at_for_breakpoints_like_others(bare):
    bare.start(P32[0], "mov dr0, esi; mov dr7, edi; out 0x80, al; in al, 0x60; pushfd; pop ecx; cpuid; nop; nop",
               esi=P32[0].entry + 14, edi=0x402)  # fmt: skip
    after = bare.run()
    assert (after["fault"], after["eip"]) == ((1, None), P32[0].entry + 14)
    assert not after["eflags"] & 0x100
    assert not bare.word(STACK - 4) & 0x100


# --- options that ask for translation ------------------------------------------------------------------------


def test_the_audit_of_the_cache_is_refused(bare):
    with pytest.raises(ConfigError, match=r"^--audit with --engine bare"):
        bare.engine.audit()
