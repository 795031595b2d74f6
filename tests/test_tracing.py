"""Tracing from the outside: what comes out for which guest, and that the guest cannot tell."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from vm_rig import listen, machine, put, run

from vmm.door import Door
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, Halted
from vmm.trace import KINDS, TraceEvent

END = "mov al, 7; out 0xF4, al; hlt"


def traced(code: str, *kinds: str, **options: Any) -> list[TraceEvent]:
    """All events of a guest of these kinds."""
    events: list[TraceEvent] = []
    with machine(trace=frozenset(kinds), **options) as vm:
        vm.on_trace = events.append
        put(vm, code)
        assert isinstance(run(vm), ExitPort | Halted)
    return events


# --- off ---------------------------------------------------------------------------------------------------------

BUSY = (
    "mov cx, 3; 1: cli; sti; pushf; popf; smsw ax; sgdt [0x600]; mov eax, cr0; call 2f; loop 1b; in al, 0x80; "
    "int 0x20; jmp 3f; 2: ret; 3: " + END
)


def cache_after(kinds: tuple[str, ...], watched: bool) -> bytes:
    with machine(trace=frozenset(kinds)) as vm:
        if watched:
            vm.on_trace = lambda _event: None
        vm.memory.write(0x80, b"\x00\x50\x00\x00")
        vm.memory.write(0x5000, b"\xcf")  # iret
        put(vm, BUSY)
        monitor = Monitor()
        monitor._arm = lambda *_: None  # type: ignore[method-assign]  # where it is preempted, a block begins
        assert run(vm, monitor) == ExitPort(7)
        arena = monitor._engine.code.cache.kernel
        return bytes(arena.view[: arena.used])


def test_the_cache_holds_the_same_bytes_whoever_watches() -> None:
    """Only `critical` puts anything into it."""
    alone = cache_after((), watched=False)
    others = tuple(kind for kind in KINDS if kind != "critical")
    assert alone
    assert cache_after((), watched=True) == alone
    assert cache_after(others, watched=True) == alone
    assert cache_after(("critical",), watched=True) != alone


def test_with_tracing_off_nobody_watches() -> None:
    with machine() as vm:
        put(vm, BUSY.replace("int 0x20", "nop"))
        monitor = Monitor()
        run(vm, monitor)
        assert monitor._engine.code.observer is None
        sites = [site.kind.name for site, _ in monitor._engine.code.cache.sites.values()]
        assert "TRACE" not in sites


# --- critical ----------------------------------------------------------------------------------------------------

START = "mov sp, 0x7000; mov word ptr [0x600], 0; lgdt [2f]; lidt [2f]; "
TABLE = "; 2: .word 0x1234; .long 0x56789A"

CRITICAL = [
    pytest.param("sti; nop; cli", "cli", {"eflags": [0x202, 0x002]}, id="CLI"),
    pytest.param("sti; nop", "sti", {"eflags": [0x002, 0x202]}, id="STI"),
    pytest.param("pushf", "pushf", {"esp": [0x7000, 0x6FFE]}, id="PUSHF"),
    pytest.param("push 0x0AD7; popf", "popf", {"esp": [0x6FFE, 0x7000], "eflags": [0x002, 0xAD7]}, id="POPF"),
    pytest.param("mov ax, 0xFFFF; smsw ax", "smsw", {"eax": [0xFFFF, 0x10]}, id="SMSW"),
    pytest.param("sgdt [0x608]", "sgdt", {}, id="SGDT"),
    pytest.param("sidt [0x608]", "sidt", {}, id="SIDT"),
    pytest.param("mov ebx, 0; mov ebx, cr0", "mov", {"ebx": [0, 0x60000010]}, id="MOV_from_CR0"),
    pytest.param("mov eax, cr0; or al, 2; mov cr0, eax", "mov", {"cr0": [0x60000010, 0x60000012]}, id="MOV_to_CR0"),
    pytest.param("lgdt [2f]", "lgdt", {}, id="LGDT"),
]


@pytest.mark.parametrize(("code", "name", "changed"), CRITICAL)
def test_one_event_with_what_went_in_and_came_out(code: str, name: str, changed: Mapping[str, list[int]]) -> None:
    """The last event of that mnemonic before the end."""
    events = [event for event in traced(f"{START}{code}; {END}{TABLE}", "critical") if event.insn.split()[0] == name]
    event = events[-1]
    assert dict(event.values) == changed
    assert (event.kind, event.cs, event.ring, event.linear) == ("critical", 0, 0, event.eip)
    assert event.rewritten


def test_one_event_per_execution_in_the_order_of_execution() -> None:
    """Three times round, through blocks that are linked from the second time on."""
    body = "cli; pushf; sti; popf; smsw ax; sgdt [0x608]; mov eax, cr0; mov cr0, eax"
    code = f"{START}mov cx, 3; 1: {body}; loop 1b; {END}{TABLE}"
    names = [event.insn.split()[0] for event in traced(code, "critical")]
    once = ["cli", "pushf", "sti", "popf", "smsw", "sgdt", "mov", "mov"]
    assert names[names.index("cli") :] == once * 3 + ["hlt"] * names.count("hlt")


def test_what_an_event_says_of_the_place_is_where_the_instruction_is() -> None:
    event = next(
        event for event in traced("ljmp 0x700:0xC00+1f-0x7C00; 1: cli; " + END, "critical") if event.insn == "cli"
    )
    assert (event.insn, event.cs, event.eip, event.linear) == ("cli", 0x700, 0xC05, 0x7C05)


# --- the other kinds ---------------------------------------------------------------------------------------------


def test_io_shows_port_and_value_of_every_access() -> None:
    code = "mov al, 0x5A; out 0x80, al; in al, 0x80; mov dx, 0x300; in ax, dx; in eax, dx; " + END
    events = [(event.insn.split()[0], dict(event.values)) for event in traced(code, "io")]
    assert events == [
        ("out", {"port": 0x80, "value": 0x5A}),
        ("in", {"port": 0x80, "value": 0x5A}),
        ("in", {"port": 0x300, "value": 0xFFFF}),
        ("in", {"port": 0x300, "value": 0xFFFF_FFFF}),
        ("out", {"port": 0xF4, "value": 7}),
    ]


def test_io_shows_a_repeated_string_instruction_once() -> None:
    code = "cld; mov si, 0x600; mov cx, 5; mov dx, 0xE9; rep outsb; mov di, 0x700; mov cx, 4; mov dx, 0x300; rep insw; "
    events = [dict(event.values) for event in traced(code + END, "io")]
    assert events[:2] == [{"port": 0xE9, "items": 5, "width": 1}, {"port": 0x300, "items": 4, "width": 2}]


def test_exception_shows_vector_and_place() -> None:
    code = "mov word ptr [0x18], offset 1f; mov word ptr [0x1A], 0; ud2; 1: " + END
    (event,) = traced(code, "exception")
    assert dict(event.values) == {"vector": 6}
    assert event.eip == 0x7C00 + 12


def test_exception_shows_software_interrupts_with_their_handler() -> None:
    code = "mov word ptr [0x80], offset 1f; mov word ptr [0x82], 0; 2: int 0x20; 1: " + END
    (event,) = traced(code, "exception")
    assert event.insn == "int 0x20"
    assert dict(event.values) == {"handler": f"0000:{0x7C00 + 14:08x}"}
    assert (event.cs, event.eip) == (0, 0x7C00 + 12)


def test_irq_shows_every_interrupt_that_is_delivered() -> None:
    """The timer, by hand: the master at 08h; the third interrupt closes its line."""
    code = (
        "mov al, 0x11; out 0x20, al; mov al, 8; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al; "
        "mov al, 0xFE; out 0x21, al; mov al, 0x34; out 0x43, al; mov al, 0; out 0x40, al; mov al, 0x40; out 0x40, al; "
        "mov word ptr [0x20], offset 2f; mov word ptr [0x22], 0; sti; 1: hlt; cmp byte ptr [0x600], 3; jb 1b; "
        f"cli; {END}; 2: inc byte ptr [0x600]; cmp byte ptr [0x600], 3; jb 3f; "
        "mov al, 0xFF; out 0x21, al; 3: mov al, 0x20; out 0x20, al; iret"
    )
    assert [dict(event.values) for event in traced(code, "irq", clock="warp")] == [{"vector": 8}] * 3


PROTECT = (
    "lgdt [4f]; mov eax, cr0; or al, 1; mov cr0, eax; ljmp 8:1f; 1: mov eax, cr0; and al, 0xFE; mov cr0, eax; "
    f"ljmp 0:2f; 2: {END}; 3: .quad 0; .quad 0x00009B000000FFFF; 4: .word 15; .long 3b"
)


def test_mode_shows_every_change_and_nothing_else() -> None:
    changes = [(event.values["from"], event.values["to"]) for event in traced(PROTECT, "mode")]
    assert changes[0][0] == "reset"
    for (_, to), (came_from, _) in pairwise(changes):
        assert came_from == to
    modes = [to for _, to in changes]
    assert modes[0] == modes[-1]
    assert "real" in modes[0]
    assert any("protected" in mode for mode in modes[1:-1])
    assert len(modes) == 3


def test_block_shows_every_block_once() -> None:
    events = traced("mov cx, 100; 1: nop; loop 1b; jmp 2f; 2: " + END, "block")
    assert Counter(event.eip for event in events).most_common(1)[0][1] == 1
    assert events[0].eip == 0x7C00
    assert events[0].values["instructions"] >= 2
    assert all(event.values["bytes"] > 0 and event.values["cache_bytes"] > 0 for event in events)


def test_exit_shows_why_guest_code_left_the_cache() -> None:
    """A branch to be linked, then IN and OUT; the first touch of a page; and no exit for what stays in the cache."""
    events = traced("mov sp, 0x7000; jmp 1f; 1: in al, 0x80; cli; pushf; mov al, [0x600]; " + END, "exit")
    told = [(event.insn.split()[0] if event.insn else "", event.rewritten) for event in events]
    assert [entry for entry in told if entry[1] != "fault"] == [("jmp", "link"), ("in", "callout"), ("out", "callout")]
    assert ("", "fault") in told


def test_what_stays_where_it_can_is_told_once_either_way() -> None:
    """CPUID by the VMM, then in the cache; RDTSC in the cache."""
    code = f"mov bp, 3; 1: xor eax, eax; cpuid; rdtsc; dec bp; jnz 1b; {END}"
    told = [(event.insn, event.rewritten == "callout") for event in traced(code, "critical")]
    asked, itself = ("cpuid", True), ("cpuid", False)
    assert told == [asked, ("rdtsc", False), itself, ("rdtsc", False), itself, ("rdtsc", False)]


def test_times_never_go_back() -> None:
    times = [event.ns for event in traced(BUSY.replace("int 0x20", "nop"), *KINDS)]
    assert times == sorted(times)


# --- the watched guest -------------------------------------------------------------------------------------------

COUNTS = "mov cx, 300; 1: rdtsc; add [0x604], eax; in al, 0x40; add [0x608], al; loop 1b; " + END


def test_a_recorded_run_can_be_replayed_under_a_trace() -> None:
    """Nothing that a trace asks for enters the log or comes out of it."""
    door = Door()
    log = door.record()
    with machine(door) as vm:
        put(vm, COUNTS)
        assert run(vm) == ExitPort(7)
        expected = vm.memory.read(0x600, 16)
    again = Door()
    again.replay(log)
    events: list[TraceEvent] = []
    with machine(again, trace=frozenset(KINDS) - {"critical"}) as vm:
        vm.on_trace = events.append
        put(vm, COUNTS)
        assert run(vm) == ExitPort(7)
        assert vm.memory.read(0x600, 16) == expected
    assert len(events) > 300


def test_a_guest_under_every_kind_of_trace_says_the_same() -> None:
    said = []
    for kinds in ((), KINDS):
        with machine(trace=frozenset(kinds)) as vm:
            vm.on_trace = lambda _event: None
            heard = listen(vm)
            put(vm, f"{START}push 0x0AD7; popf; pushf; pop ax; out 0xE9, al; mov al, ah; out 0xE9, al; sgdt [0x608]; "
                    f"mov al, [0x608]; out 0xE9, al; smsw ax; out 0xE9, al; {END}{TABLE}")  # fmt: skip
            assert run(vm) == ExitPort(7)
        said.append(bytes(heard))
    assert said[0] == said[1] == b"\xd7\x0a\x34\x10"
