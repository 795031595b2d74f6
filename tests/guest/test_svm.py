"""What the engine for guest mode has to get right: what `bare` has to, how interrupts enter, devices under both tables."""

import pytest
from guest_bench import (
    CODE,
    DATA,
    IDT,
    IF,
    P16,
    P32,
    PG,
    REAL,
    STACK,
    V86_3,
    Bench,
    Mode,
    interrupt_gate,
    little,
)
from techniques import Technique
from test_bare import (
    FRAMES,
    VECTOR,
    on_port,
    test_a_closed_a20_gate_folds_odd_megabytes,
    test_a_device_in_memory_is_read_and_written_at_the_width_of_the_access,
    test_a_map_that_changes_in_an_out_is_seen_by_the_next_instruction,
    test_a_step_in_a_shadow_shows_no_trap_flag,
    test_an_interrupt_that_a_write_to_a_device_raises_is_taken,
    test_code_put_between_two_runs_is_what_runs,
    test_code_that_a_device_writes_in_the_middle_of_a_run_is_what_runs,
    test_code_that_ins_writes_is_what_runs,
    test_instructions_that_leave_are_looked_at_for_breakpoints_like_others,
    test_the_guest_has_the_cpl_that_it_believes_to_have,
    test_what_a_device_raises_surfaces_from_the_run,
)

from vmm.engines.engine import Leave
from vmm.errors import ConfigError
from vmm.memory import MemoryRegion

__all__ = [
    "test_a_closed_a20_gate_folds_odd_megabytes",
    "test_a_device_in_memory_is_read_and_written_at_the_width_of_the_access",
    "test_a_map_that_changes_in_an_out_is_seen_by_the_next_instruction",
    "test_a_step_in_a_shadow_shows_no_trap_flag",
    "test_an_interrupt_that_a_write_to_a_device_raises_is_taken",
    "test_code_put_between_two_runs_is_what_runs",
    "test_code_that_a_device_writes_in_the_middle_of_a_run_is_what_runs",
    "test_code_that_ins_writes_is_what_runs",
    "test_instructions_that_leave_are_looked_at_for_breakpoints_like_others",
    "test_the_guest_has_the_cpl_that_it_believes_to_have",
    "test_what_a_device_raises_surfaces_from_the_run",
]

DEVICE = 0x50_0000  # behind RAM
ROM = 0x60_0000
NT = 1 << 14


@pytest.fixture(params=[Technique.SVM, Technique.NPT], ids=str)
def bare(request) -> Bench:
    """A machine in guest mode, under the name that the tests of `bare` use."""
    return Bench(engine=request.param.engine, nested_paging=request.param.nested_paging)


@pytest.fixture
def svm(bare) -> Bench:
    """The same under its own name."""
    return bare


@pytest.mark.parametrize(("text", "flags", "done"), FRAMES)
def test_an_interrupt_raised_by_an_out_is_taken_where_if_allows(svm, text, flags, done):
    svm.start(P32[0], text, eflags=flags, ebx=0, edx=16)
    on_port(svm, lambda: svm.vcpu.set_interrupt_pending(True))
    after = svm.run()
    assert (after["fault"], after["ebx"]) == ((VECTOR, None), done)
    assert not after["eflags"] & 0x100


# --- the way in of interrupts --------------------------------------------------------------------------------


def interrupt(bench: Bench, mode: Mode, vector: int = VECTOR, paging: bool = False) -> dict:
    bench.start(mode, "nop", eflags=IF)
    if paging:
        bench.map_pages()
    bench.board.vector = vector
    bench.vcpu.set_interrupt_pending(True)
    return bench.run()


@pytest.mark.parametrize("paging", [False, True], ids=["unpaged", "paged"])
@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P32[3], V86_3], ids=str)
def test_an_interrupt_enters_by_vmrun(svm, mode, paging):
    """Though nothing of its way in is mapped yet: IDT, stack and handler."""
    after = interrupt(svm, mode, paging=paging and mode is not REAL)
    assert (after["fault"], after["eip"], svm.board.acknowledged) == ((VECTOR, None), mode.entry, 1)
    assert svm.engine.stats.exits["injection"] == 1


@pytest.mark.parametrize("vector", [8, 13, 14, 31])
def test_one_with_an_exceptions_vector_enters_without_it(svm, vector):
    """The engine would report it once more when it is asked to stop."""
    after = interrupt(svm, REAL, vector)
    assert (after["fault"], svm.engine.stats.exits["injection"]) == ((vector, None), 0)


def test_an_interrupt_whose_gate_is_not_present_is_np_with_ext(svm):
    svm.start(P32[0], "nop", eflags=IF)
    svm.poke(IDT + 8 * VECTOR + 5, b"\x0e")
    svm.vcpu.set_interrupt_pending(True)
    after = svm.run()
    assert (after["fault"], after["eip"]) == ((11, VECTOR << 3 | 3), P32[0].entry)


def test_an_interrupt_that_finds_no_stack_is_a_page_fault_without_a_stack(svm):
    svm.start(P32[3], "nop", eflags=IF)
    svm.map_pages(missing=[0x4_0000])
    svm.vcpu.set_interrupt_pending(True)
    assert svm.run()["left"] is Leave.SHUTDOWN
    assert (svm.vcpu.cr2 & ~0xFFF, svm.board.acknowledged) == (0x4_0000, 1)


def test_a_stop_before_vmrun_loses_no_interrupt(svm):
    svm.start(P32[0], "top: jmp top", eflags=IF)
    svm.vcpu.set_interrupt_pending(True)
    after = svm.run(1)
    assert (svm.leave, svm.board.acknowledged) == (Leave.PREEMPTED, 1)
    after = svm.run(1000)
    assert after["fault"] == (VECTOR, None)


@pytest.mark.parametrize("blocks", range(2, 9))
def test_a_stop_soon_after_an_injection_is_a_stop(svm, blocks):
    """Its handler is a loop; the engine reports the vector again when it is stopped there."""
    svm.start(P32[0], "nop", eflags=IF)
    svm.poke(0x9000 + VECTOR, b"\xeb\xfe")
    svm.vcpu.set_interrupt_pending(True)
    svm.run(blocks)
    assert (svm.leave, svm.vcpu.eip, svm.board.acknowledged) == (Leave.PREEMPTED, 0x9000 + VECTOR, 1)


def test_an_interrupt_through_a_task_gate_switches_tasks(svm):
    svm.start(P32[0], "nop", eflags=IF)
    svm.poke(IDT + 8 * VECTOR, interrupt_gate(0, 0, 0x110, 5))
    svm.poke(0x7000 + 0x20, little(0x9000 + 0x77, 4) + little(2, 4))
    svm.poke(0x7000 + 0x38, little(STACK, 4))
    svm.poke(0x7000 + 0x48, b"".join(little(selector, 4) for selector in (16, 8, 16, 16, 16, 16)))
    svm.vcpu.set_interrupt_pending(True)
    svm.run()
    assert (svm.leave, svm.vcpu.tr.selector, svm.vcpu.eip) == (Leave.HALTED, 0x110, 0x9078)
    assert svm.vcpu.eflags & NT


# --- devices -------------------------------------------------------------------------------------------------


def add_device(bench: Bench) -> list[tuple[int, ...]]:
    """A device that counts its reads and remembers what is done to it."""
    seen: list[tuple[int, ...]] = []

    def read(offset: int, width: int) -> int:
        seen.append((offset, width))
        return len(seen)

    bench.memory.map(MemoryRegion("device", DEVICE, 0x1000, read=read, write=lambda *what: seen.append(what)))
    return seen


def test_each_iteration_of_a_rep_is_an_access(svm):
    svm.start(P32[0], b"\xf3\xa5", esi=DEVICE, edi=DATA, ecx=3)
    seen = add_device(svm)
    after = svm.run()
    assert (after["eip"], after["ecx"], seen) == ("end", 0, [(0, 4), (4, 4), (8, 4)])
    assert svm.peek(DATA, 12) == b"\1\0\0\0\2\0\0\0\3\0\0\0"


def test_from_a_device_to_itself(svm):
    svm.start(P32[0], "movsw", esi=DEVICE + 2, edi=DEVICE + 8)
    seen = add_device(svm)
    assert (svm.run()["eip"], seen) == ("end", [(2, 2), (8, 2, 1)])


def test_what_is_read_and_written_is_both(svm):
    svm.start(P32[0], f"add dword ptr [{DEVICE}], 5")
    seen = add_device(svm)
    assert (svm.run()["eip"], seen) == ("end", [(0, 4), (0, 4, 6)])


def test_a_guest_that_traces_itself_over_a_device_sees_its_own_trap(svm):
    svm.start(P32[0], f"mov eax, [{DEVICE}]; nop", eflags=0x100)
    seen = add_device(svm)
    after = svm.run()
    assert (after["fault"], after["eip"], after["eax"], seen) == ((1, None), P32[0].entry + 5, 1, [(0, 4)])
    assert after["dr"][6] & 1 << 14


def test_a_device_access_leaves_no_trap_flag_behind(svm):
    svm.start(P32[0], f"mov eax, [{DEVICE}]; pushfd; pop ebx")
    add_device(svm)
    assert not svm.run()["ebx"] & 0x100


def test_an_access_that_also_faults_does_nothing_to_the_device(svm):
    """PUSH of device memory to a page that is missing: read again at each attempt, as on a processor, and not written."""
    svm.start(P32[3], f"push dword ptr [{DEVICE}]", esp=0x30_1000)
    svm.map_pages(missing=[0x30_0000])
    svm.poke(0x20_0004, 0x40_0087)  # a large page
    seen = add_device(svm)
    svm.set(cr4=1 << 4)
    after = svm.run()
    assert (after["fault"], after["cr2"], after["eip"]) == ((14, 6), 0x30_0FFC, P32[3].entry)
    assert all(len(access) == 2 for access in seen)


def test_stores_to_rom_and_to_nothing_are_swallowed(svm):
    host = svm.physical.allocate(0x1000)
    svm.physical.window(host, 4)[:] = b"\x11\x22\x33\x44"
    svm.start(P32[0], f"mov [{ROM}], ecx; mov eax, [{ROM}]; mov [{DEVICE}], ecx; mov ebx, [{DEVICE}]")
    svm.memory.map(MemoryRegion("rom", ROM, 0x1000, host, read_only=True))
    after = svm.run()
    assert (after["eip"], after["eax"], after["ebx"]) == ("end", 0x4433_2211, 0xFFFF_FFFF)


# --- pages of code -------------------------------------------------------------------------------------------


def test_code_written_through_another_address_is_what_runs(svm):
    """One frame at two linear addresses, the one of which has run, and the other has been written before."""
    alias = 0x40_0000 + CODE + 0x800
    text = f"mov byte ptr [{alias}], 0x43; mov esi, {CODE + 0x800}; call esi; mov byte ptr [{alias}], 0x41; call esi"
    svm.start(P32[0], text, ebx=0, ecx=0)
    svm.poke(CODE + 0x800, b"\x90\xc3")
    svm.map_pages(alias=0x40_0000)
    after = svm.run()
    assert (after["eip"], after["ebx"], after["ecx"]) == ("end", 1, 1)


def test_the_tables_that_there_are(svm):
    svm.start(P32[0], "nop")
    svm.map_pages()
    svm.run()
    assert len(svm.engine.roots) == (1 if svm.engine.report()["nested_paging"] else 2)
    assert svm.vcpu.cr0 & PG


# --- options that ask for translation ------------------------------------------------------------------------


def test_the_audit_of_the_cache_is_refused(svm):
    with pytest.raises(ConfigError, match=r"^--audit with --engine svm"):
        svm.engine.audit()
