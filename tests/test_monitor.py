"""The monitor: outcomes, preemption, idling, several machines. All bounds on time are generous."""

import contextlib
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from vm_rig import MIB, assembled, listen, machine, put, run, run_through_resets, shown

from vmm.devices.keymap import keys_for_text
from vmm.door import Door, ReplayEnd
from vmm.errors import Unmodelled
from vmm.machine import Vm
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, Halted, Outcome, ResetRequested, TripleFault

END = "mov al, 7; out 0xF4, al; hlt"

FlatMachine = Callable[..., AbstractContextManager[Vm]]


@pytest.fixture
def flat(tmp_path: Path) -> FlatMachine:
    """`flat(code, door=None, **options)`: a machine whose BIOS starts this code at 0000:7C00."""

    def build(code: str, door: Door | None = None, **options: Any) -> AbstractContextManager[Vm]:
        (tmp_path / "flat").write_bytes(assembled(code))
        return machine(door, flat=(tmp_path / "flat", 0x7C00), **options)

    return build


# --- outcomes ----------------------------------------------------------------------------------------------------


def test_hlt_with_interrupts_off_halts_for_good() -> None:
    with machine() as vm:
        put(vm, "cli; hlt")
        assert run(vm) == Halted()


@pytest.mark.parametrize("value", [0, 7, 255])
def test_the_exit_port_hands_its_value_over(value: int) -> None:
    with machine() as vm:
        put(vm, f"mov al, {value}; out 0xF4, al; mov byte ptr [0x600], 1; hlt")
        assert run(vm) == ExitPort(value)
        assert vm.memory.read(0x600, 1) == b"\0"  # nothing ran behind the OUT


def test_without_an_exit_port_its_port_is_nobodys() -> None:
    with machine(exit_port=False) as vm:
        put(vm, "mov al, 7; out 0xF4, al; in al, 0xF4; mov [0x600], al; cli; hlt")
        assert run(vm) == Halted()
        assert vm.memory.read(0x600, 1) == b"\xff"


TRIPLE_FAULTS = [
    pytest.param("lidt [0x600]; int3", id="no_idt_in_real_mode"),
    pytest.param("lidt [0x600]; ud2", id="undefined_opcode_without_idt"),
    pytest.param("lidt [0x600]; mov eax, cr0; or al, 1; mov cr0, eax; int3", id="no_idt_in_protected_mode"),
    pytest.param("lidt [0x600]; mov byte ptr [0xFFFF], 0; mov ax, [0xFFFF]", id="limit_violation_without_idt"),
]


@pytest.mark.parametrize("code", TRIPLE_FAULTS)
def test_a_triple_fault_is_told_with_where_it_began(code: str) -> None:
    with machine() as vm:
        put(vm, code)
        outcome = run(vm)
    assert isinstance(outcome, TripleFault)
    assert "CS:EIP" in outcome.detail


def test_after_a_triple_fault_the_machine_can_be_reset() -> None:
    with machine() as vm:
        monitor = Monitor()
        for _ in range(3):
            put(vm, "lidt [0x600]; int3")
            assert isinstance(run(vm, monitor), TripleFault)
            vm.reset()
        assert run(vm, monitor) == Halted()
        assert "No bootable device" in shown(vm)


RESETS = [
    pytest.param("mov al, 0xFE; out 0x64, al", "i8042", id="i8042_pulse"),
    pytest.param("mov al, 0xD1; out 0x64, al; mov al, 0xDE; out 0x60, al", "i8042", id="i8042_output_port"),
    pytest.param("mov al, 1; out 0x92, al", "port 92h", id="port_92"),
    pytest.param("mov dx, 0xCF9; mov al, 6; out dx, al", "port CF9h", id="port_CF9"),
]


@pytest.mark.parametrize(("code", "source"), RESETS)
def test_a_reset_is_told_with_its_source_and_ram_stays(code: str, source: str) -> None:
    """The instruction behind the OUT never runs; after the reset the BIOS does, and finds its RAM as it was."""
    with machine(memory=2 * MIB) as vm:
        put(vm, f"mov dword ptr [0x9000], 0x12345678; {code}; mov byte ptr [0x9000], 0; hlt")
        vm.memory.write(0x180000, b"kept")
        monitor = Monitor()
        outcome = run(vm, monitor)
        assert isinstance(outcome, ResetRequested)
        assert outcome.source.startswith(source)
        vm.reset()
        assert run(vm, monitor) == Halted()
        assert "No bootable device" in shown(vm)
        assert vm.memory.read(0x9000, 4) == b"\x78\x56\x34\x12"
        assert vm.memory.read(0x180000, 4) == b"kept"


SHUTDOWN = """
    cli; mov al, 0x0F; out 0x70, al; mov al, {code}; out 0x71, al
    mov word ptr [0x467], offset resumed; mov word ptr [0x469], 0
    {reset}
    hlt
resumed: mov al, 'r'; out 0xE9, al; mov al, 0x0F; out 0x70, al; in al, 0x71; out 0xE9, al; mov al, 7; out 0xF4, al; hlt
"""


@pytest.mark.parametrize("reset", [pytest.param(code.values[0], id=code.id or "") for code in RESETS])
@pytest.mark.parametrize("code", [0x05, 0x0A])
def test_after_a_reset_the_bios_goes_on_where_cmos_says(code: int, reset: str) -> None:
    """What programs for the 286 do to get back to real mode, with a reset that really happens."""
    with machine() as vm:
        put(vm, SHUTDOWN.format(code=code, reset=reset))
        heard = listen(vm)
        assert run_through_resets(vm, Monitor()) == (ExitPort(7), 1)
    assert heard == b"r\0"


# --- preemption --------------------------------------------------------------------------------------------------

LOOPS = [
    pytest.param("jmp $", id="jmp_to_itself"),
    pytest.param("cli; jmp $", id="interrupts_off"),
    pytest.param("1: dec cx; jmp 1b", id="direct"),
    pytest.param("mov bx, offset 1f; 1: jmp bx", id="indirect"),
    pytest.param("1: call 2f; jmp 1b; 2: ret", id="call_and_return"),
    pytest.param("1: in al, 0x80; jmp 1b", id="port_reads"),
    pytest.param("1: pushf; popf; jmp 1b", id="flags"),
    pytest.param("1: cpuid; jmp 1b", id="callouts"),
    pytest.param("xor ax, ax; mov es, ax; 1: mov cx, 0x7000; mov di, 0x8000; rep stosb; jmp 1b", id="string_stores"),
    pytest.param("1: inc byte ptr [2f+1]; 2: mov al, 0; jmp 1b", id="code_that_changes_itself"),
    pytest.param("mov word ptr [0x18], offset 1f; mov word ptr [0x1A], 0; 1: mov sp, 0x7000; ud2", id="faults"),
    pytest.param(
        "mov word ptr [0x80], offset 1f; mov word ptr [0x82], 0; 1: mov sp, 0x7000; int 0x20", id="interrupts"
    ),
    pytest.param(
        "mov word ptr [4], offset 2f; mov word ptr [6], 0; push 0x302; popf; 1: jmp 1b; 2: iret", id="single_steps"
    ),
]


@pytest.mark.parametrize("code", LOOPS)
def test_a_loop_yields(code: str) -> None:
    """It is asked for its place often, whatever it loops with: 0.2 s of work make 20 quanta of 10 ms."""
    with machine() as vm:
        put(vm, code)
        turns = count_turns(vm)
        monitor = Monitor()
        assert monitor.run_slice(vm, 0.05) is None  # translated by now
        turns.clear()
        began = time.process_time()
        slices = 0
        while time.process_time() - began < 0.2:  # not host time: the host may have other things to do
            assert monitor.run_slice(vm, 0.2) is None
            slices += 1
    assert len(turns) - slices >= 5


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05])
def test_a_slice_is_about_as_long_as_it_was_asked_to_be(seconds: float) -> None:
    with machine() as vm:
        put(vm, "cli; jmp $")
        monitor = Monitor()
        monitor.run_slice(vm, 0.02)
        started = time.process_time()
        for _ in range(4):
            assert monitor.run_slice(vm, seconds) is None
        assert time.process_time() - started < 4 * (seconds + 0.1)


def count_turns(vm: Vm) -> list[int]:
    """An entry for each time that the monitor brings the devices up to date."""
    turns: list[int] = []
    run_due = vm.board.run_due

    def counted() -> None:
        turns.append(1)
        run_due()

    vm.board.run_due = counted  # type: ignore[method-assign]
    return turns


def test_stop_ends_the_slice_under_way_and_only_that() -> None:
    with machine() as vm:
        put(vm, "mov al, 'x'; out 0xE9, al; jmp $")
        monitor = Monitor()
        vm.debugcon_out.append(lambda _data: monitor.stop())
        started = time.monotonic()
        assert monitor.run_slice(vm, 60) is None
        assert time.monotonic() - started < 10
        vm.debugcon_out.clear()
        turns = count_turns(vm)
        monitor.run_slice(vm, 0.05)
        assert turns


def test_no_timer_is_left_behind() -> None:
    """Its signal would run host code that is gone with the monitor: after an outcome, in mid-work, after an error."""
    for code in ("cli; hlt", "jmp $", "mov al, 0xB7; out 0x64, al; jmp $"):
        with machine(strict=True) as vm:
            put(vm, code)
            with contextlib.suppress(Unmodelled):
                Monitor().run_slice(vm, 0.02)
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_timer_interrupts_a_loop(flat: FlatMachine) -> None:
    """Boots through the BIOS; the loop never leaves the cache by itself."""
    with flat("sti; mov ax, [0x46C]; add ax, 3; 1: cmp [0x46C], ax; jb 1b; " + END) as vm:
        assert run(vm) == ExitPort(7)


# --- idling ------------------------------------------------------------------------------------------------------

# The difference is taken, for the tick count starts at the time of day and its low word may be about to wrap.
MINUTE = "sti; mov bx, [0x46C]; 1: hlt; mov ax, [0x46C]; sub ax, bx; cmp ax, 1093; jb 1b; " + END


def test_a_warped_clock_jumps_over_hlt(flat: FlatMachine) -> None:
    """A minute of 1,093 timer interrupts, in far less than one; every one of them is delivered."""
    with flat(MINUTE, clock="warp") as vm:
        started = time.monotonic()
        assert run(vm) == ExitPort(7)
        assert time.monotonic() - started < 20
        assert 59.5e9 < vm.now < 70e9
        assert vm.stats_json()["interrupts"]["8"] >= 1093


def test_a_warped_clock_does_not_run_away_from_a_guest_that_works() -> None:
    with machine(clock="warp") as vm:
        put(vm, "cli; jmp $")
        monitor = Monitor()
        started = time.monotonic()
        for _ in range(5):
            monitor.run_slice(vm, 0.02)
        assert vm.now < (time.monotonic() - started + 1) * 1e9


def test_an_idle_guest_uses_no_cpu(flat: FlatMachine) -> None:
    with flat("sti; 1: hlt; jmp 1b") as vm:
        monitor = Monitor()
        monitor.run_slice(vm, 0.5)
        spent = time.process_time()
        assert monitor.run_slice(vm, 0.6) is None
        assert time.process_time() - spent < 0.3


def test_a_guest_that_sleeps_with_nothing_due_uses_none_either() -> None:
    with machine() as vm:
        put(vm, "sti; mov al, 0xFF; out 0x21, al; out 0xA1, al; 1: hlt; jmp 1b")
        monitor = Monitor()
        monitor.run_slice(vm, 0.02)
        spent = time.process_time()
        assert monitor.run_slice(vm, 0.4) is None
        assert time.process_time() - spent < 0.2


def test_a_key_wakes_a_sleeping_guest(flat: FlatMachine) -> None:
    with flat("sti; 1: mov ah, 1; int 0x16; jnz 2f; hlt; jmp 1b; 2: mov ah, 0; int 0x16; out 0xE9, al; " + END) as vm:
        heard, monitor = listen(vm), Monitor()
        assert monitor.run_slice(vm, 0.5) is None
        vm.door.post_keys(keys_for_text("k"))
        assert run(vm, monitor) == ExitPort(7)
    assert heard == b"k"


# --- audit, strict -----------------------------------------------------------------------------------------------


def test_no_mode_set_of_the_vga_bios_passes_a_mode_that_is_not_modelled(flat: FlatMachine) -> None:
    """Under --strict that would end the run: the palette is off until the last register is right."""
    modes = (0x13, 3, 0x13, 4, 3, 6, 1, 0x13, 0)
    with flat("".join(f"mov ax, {mode:#x}; int 0x10; " for mode in modes) + END, strict=True) as vm:
        assert run(vm) == ExitPort(7)
        assert not vm.board.unmodelled


def test_the_audit_finds_nothing_on_the_way_to_the_banner() -> None:
    with machine(audit=True) as vm:
        assert run(vm, patience=60) == Halted()
        assert "No bootable device" in shown(vm)


def test_strict_stops_at_what_is_not_modelled() -> None:
    with machine(strict=True) as vm:
        put(vm, "mov al, 0xB7; out 0x64, al; cli; hlt")
        with pytest.raises(Unmodelled, match="i8042 command B7h"):
            run(vm)


def test_what_is_not_modelled_is_in_the_statistics() -> None:
    with machine() as vm:
        put(vm, "mov al, 0xB7; out 0x64, al; out 0x64, al; cli; hlt")
        assert run(vm) == Halted()
        assert vm.stats_json()["unmodelled"] == {"i8042 command B7h": 2}


# --- several machines --------------------------------------------------------------------------------------------

COUNT = "1: inc dword ptr [0x600]; cmp dword ptr [0x600], {0}; jb 1b; mov al, '{1}'; out 0xE9, al; cli; hlt"


def test_two_machines_one_after_the_other() -> None:
    for letter in "ab":
        with machine() as vm:
            put(vm, COUNT.format(1000, letter))
            heard = listen(vm)
            assert run(vm) == Halted()
        assert heard == letter.encode()


def test_one_monitor_runs_two_machines_in_turn() -> None:
    with machine() as one, machine() as other:
        put(one, COUNT.format(60_000_000, "a"))
        put(other, COUNT.format(60_000_000, "b"))
        heard = listen(one), listen(other)
        monitor = Monitor()
        ended: dict[int, Outcome] = {}
        for _ in range(4):  # changing places while both are at work
            for number, vm in enumerate((one, other)):
                if number not in ended and (outcome := monitor.run_slice(vm, 0.03)) is not None:
                    ended[number] = outcome
        for number, vm in enumerate((one, other)):
            if number not in ended:
                ended[number] = run(vm, monitor, patience=60)
        assert ended == {0: Halted(), 1: Halted()}
        assert tuple(map(bytes, heard)) == (b"a", b"b")


def test_two_monitors_take_turns_with_one_machine() -> None:
    with machine() as vm:
        put(vm, COUNT.format(30_000_000, "c"))
        heard = listen(vm)
        for monitor in (Monitor(), Monitor()):
            if (outcome := monitor.run_slice(vm, 0.05)) is not None:
                break
        else:
            outcome = run(vm, monitor)
        assert outcome == Halted()
    assert heard == b"c"


# --- record and replay -------------------------------------------------------------------------------------------

TYPED = (
    "sti; mov al, '>'; out 0xE9, al; mov bx, 5; 1: mov ah, 0; int 0x16; out 0xE9, al; rdtsc; "
    "add [0x600], eax; dec bx; jnz 1b; "
)


def until_end(vm: Vm, between: Callable[[], None]) -> Outcome:
    monitor = Monitor()
    while (outcome := monitor.run_slice(vm, 0.02)) is None:
        between()
    return outcome


def test_a_replay_repeats_a_recorded_run_to_the_last_byte(flat: FlatMachine) -> None:
    """Keys, the time-stamp counter and the timer's interrupts all come where they came."""
    door = Door()
    log = door.record()
    letters = iter("hello")

    with flat(TYPED + END, door, memory=MIB) as vm:
        heard = listen(vm)

        def type_one() -> None:
            if heard:  # the BIOS has emptied the keyboard
                door.post_keys(keys_for_text(next(letters, "")))

        assert until_end(vm, type_one) == ExitPort(7)
        memory, now = vm.memory.read(0, 0xA0000), vm.now
    assert heard == b">hello"
    again = Door()
    again.replay(log)
    with flat(TYPED + END, again, memory=MIB) as vm:
        heard = listen(vm)
        assert until_end(vm, lambda: None) == ExitPort(7)
        assert (vm.memory.read(0, 0xA0000), vm.now, bytes(heard)) == (memory, now, b">hello")
        vm.reset()
        with pytest.raises(ReplayEnd):
            until_end(vm, lambda: None)


# --- the time-stamp counter ----------------------------------------------------------------------------------------

NEVER_BACK = """
    mov bp, 600
again:
    rdtsc; mov esi, eax; mov edi, edx
    mov ecx, 0x10; rdmsr
    cmp eax, esi; mov ebx, edx; sbb ebx, edi; jb back
    mov esi, eax; mov edi, edx
    rdtsc
    cmp eax, esi; mov ebx, edx; sbb ebx, edi; jb back
    cmp bp, 300; jne on
    sti; hlt; cli
    cmp word ptr [writes], 0; je on
    mov eax, 12345; mov edx, 0; mov ecx, 0x10; wrmsr
on: dec bp; jnz again
    """
"""RDTSC by itself and RDMSR by the VMM, by turns; in between a sleep."""


@pytest.mark.parametrize("clock", ["realtime", "warp"])
@pytest.mark.parametrize("writes", [0, 1])
def test_the_counter_in_the_cache_and_the_vmms_never_go_back(flat: FlatMachine, clock: str, writes: int) -> None:
    code = NEVER_BACK + END + f"; back: mov al, 8; out 0xF4, al; hlt; writes: .byte {writes}, 0"
    with flat(code, memory=MIB, clock=clock) as vm:
        monitor = Monitor()
        assert run(vm, monitor) == ExitPort(7)
        assert monitor.engine.stats.callouts["rdtsc"] == 0
        assert monitor.engine.stats.callouts["rdmsr"] == 600


def test_what_a_guest_has_read_is_past_when_its_run_is_over(flat: FlatMachine) -> None:
    """Who saves the machine then saves no earlier time."""
    with flat("1: rdtsc; mov [0x604], edx; mov [0x600], eax; jmp 1b", memory=MIB) as vm:
        monitor = Monitor()
        for _ in range(5):
            monitor.run_slice(vm, 0.05)
            assert int.from_bytes(vm.memory.read(0x600, 8), "little") <= vm.now
        assert vm.memory.read(0x600, 8) != bytes(8)
        assert monitor.engine.stats.callouts["rdtsc"] == 0
