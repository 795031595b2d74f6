"""INT n and IRETD between rings, again and again: what host code does of them is what Python does."""

import pytest
from guest_bench import (
    BIG,
    CODE,
    DATA,
    DATA_RW,
    FREE,
    GDT,
    IDT,
    IF,
    P32,
    PAGE_TABLE,
    PAGES,
    STACK0,
    TSS,
    Bench,
    asm,
    descriptor,
    flat_code,
    interrupt_gate,
)

from vmm.arch.descriptors import SystemType
from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr0
from vmm.engines.crossing_code import Field
from vmm.engines.crossings import Crossings

VECTOR = 0x80
GATE = IDT + 8 * VECTOR
KERNEL_AT = CODE + 0x800
OTHER_AT = KERNEL_AT + 0x80
CELL = DATA + 0x100
ROUNDS = 8
USER = flat_code(3)

CHANGES = {
    "nothing": ("", ""),
    "flags that the user loads": ("xor dword ptr [esp + 8], 0xcd5", "pushfd; pop dword ptr [{cell} + ebp * 4]; cld"),
    "interrupts": ("xor dword ptr [esp + 8], 0x200", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "an I/O privilege level": ("xor dword ptr [esp + 8], 0x3000", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "AC": ("xor dword ptr [esp + 8], 0x40000", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "ID": ("xor dword ptr [esp + 8], 0x200000", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "NT": ("xor dword ptr [esp + 8], 0x4000", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "RF": ("or dword ptr [esp + 8], 0x10000", "pushfd; pop dword ptr [{cell} + ebp * 4]"),
    "a single step": ("cmp ebp, 3; jne go; or dword ptr [esp + 8], 0x100; go: nop", ""),
    "the way back": ("xor ebp, 0x10000; test ebp, 0x10000; je go; inc dword ptr [esp]; go: nop",
                     "inc esi; movzx edx, bp; mov [{cell} + edx * 4], esi"),
    "the user's stack": ("sub dword ptr [esp + 12], 16", "mov [{cell} + ebp * 4], esp"),
    "the kernel's stack": ("xor dword ptr [{tss} + 4], 0x100", "mov [{cell} + ebp * 4], ecx"),
    "another stack segment": (
        "mov ecx, ss; mov edx, [{tss} + 8]; xor edx, {other_ss}; mov [{tss} + 8], edx", "mov [{cell} + ebp * 4], ecx"),
    "another handler": ("xor dword ptr [{gate}], 0x80", "mov [{cell} + ebp * 4], esi"),
    "a trap gate": ("xor byte ptr [{gate} + 5], 1; pushfd; pop ecx", "mov [{cell} + ebp * 4], ecx"),
    "no gate": ("cmp ebp, 3; jne go; xor byte ptr [{gate} + 5], 0x80; go: nop", ""),
    "a gate for ring 0 alone": ("cmp ebp, 3; jne go; and byte ptr [{gate} + 5], 0x9f; go: nop", ""),
    "a kernel stack that is not there": ("cmp ebp, 3; jne go; and byte ptr [{gdt} + {ss} + 5], 0x7f; go: nop", ""),
    "user code that is not there": ("cmp ebp, 3; jne go; and byte ptr [{gdt} + {user} + 5], 0x7f; go: nop", ""),
    "user code with a limit": ("cmp ebp, 3; jne go; and byte ptr [{gdt} + {user} + 6], 0x7f; go: nop", ""),
    "a shorter IDT": ("cmp ebp, 3; jne go; push 0; push 0x00ff0000; lidt [esp + 2]; add esp, 8; go: nop", ""),
    "a segment of the kernel's": ("mov eax, ss; mov es, ax", "mov edx, es; mov [{cell} + ebp * 4], edx"),
    "a null segment": ("xor ebx, {data}; mov gs, bx", "mov edx, gs; mov [{cell} + ebp * 4], edx"),
    "a task switched flag": ("mov ecx, cr0; xor ecx, 8; mov cr0, ecx", "smsw edx; mov [{cell} + ebp * 4], edx"),
    "a frame across two pages": ("mov dword ptr [{tss} + 4], {page} + 8", "mov [{cell} + ebp * 4], ecx"),
    "kernel selectors": ("mov ecx, cs; push ss; pop edx; shl edx, 16; or ecx, edx", "mov [{cell} + ebp * 4], ecx"),
}  # fmt: skip
"""What the kernel does before IRETD, and how the user writes down what it sees of it."""


def run(bench: Bench, change: str, look: str, **start: int) -> dict[str, object]:
    places = {
        "cell": CELL, "tss": TSS, "gate": GATE, "gdt": GDT, "ss": flat_code(0) + 8, "user": USER & 0xFFF8,
        "other_ss": flat_code(0) + 8 ^ FREE, "data": USER + 8, "page": DATA + 0x1000,
    }  # fmt: skip
    change, look = (text.format(**places) for text in (change, look))
    bench.start(P32[3], f"mov ebp, {ROUNDS}; mov ebx, {USER + 8}; again: int {VECTOR}; nop; {look}; dec ebp; "
                "movzx ebp, bp; test ebp, ebp; jnz again; hlt", **start)  # fmt: skip
    bench.poke(KERNEL_AT, asm(f"mov ecx, esp; {change}; iretd", True))
    bench.poke(OTHER_AT, asm(f"inc esi; {change}; iretd", True))
    bench.poke(GATE, interrupt_gate(KERNEL_AT, 3, flat_code(0)))
    bench.poke(GDT + FREE, descriptor(0, 0xFFFF_FFFF, DATA_RW, BIG | PAGES))
    return bench.run() | {"memory": bench.peek(CELL, 0x200), "kernel stack": bench.peek(STACK0 - 0x200, 0x200)}


def crossings(bench: Bench) -> int:
    """How many host code has carried out."""
    return sum(record.words[Field.COUNT >> 2] for record in bench.engine._crossings._records.values())


@pytest.mark.parametrize("paging", [False, True], ids=["unpaged", "paged"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_crossing_that_was_made_before_is_the_same_as_ever(bench, monkeypatch, name, paging):
    def once() -> dict[str, object]:
        bench.recycle()
        if paging:
            bench.map_pages()
        return run(bench, *CHANGES[name])

    known = once()
    monkeypatch.setattr(Crossings, "look", lambda *arguments: None)
    assert once() == known
    assert not crossings(bench)


def test_only_the_first_round_is_pythons(bench):
    after = run(bench, "", "")
    assert after["fault"] == (Vector.GP, 0)
    assert crossings(bench) == 2 * (ROUNDS - 1)
    assert bench.engine.stats.host_code == {"int": ROUNDS - 1, "iretd": ROUNDS - 1}
    assert bench.engine.stats.callouts["int"] == bench.engine.stats.callouts["iretd"] == 1


def test_an_observer_sees_every_exit(bench):
    run(bench, "", "")
    seen = crossings(bench)

    class Observer:
        def __getattr__(self, _name: str) -> object:
            return lambda *_arguments: None

    bench.engine.observer = Observer()
    run(bench, "", "")
    assert crossings(bench) <= seen


@pytest.mark.parametrize("kind", [SystemType.INTERRUPT_GATE32, SystemType.TRAP_GATE32])
def test_an_interrupt_that_waits_comes_when_iretd_lets_it_in(bench, kind):
    """It is pending from the start; IF is clear until the fourth return."""
    bench.vcpu.set_interrupt_pending(True)
    after = run(bench, "cmp ebp, 4; jne go; or dword ptr [esp + 8], 0x200; go: nop", "")
    assert after["fault"] == (0x20, None)
    assert (after["ebp"], after["cpl"]) == (4, 3)
    assert after["eflags"] & IF


def test_code_in_the_place_of_an_int_is_no_int(bench):
    """The kernel writes over the user's INT, when it has been known: the block is dropped, and its exit is another."""
    place = P32[3].entry + 10
    after = run(bench, f"cmp ebp, 3; jne go; mov word ptr [{place}], 0x9090; go: nop", "inc edi")
    assert bench.peek(place, 2) == b"\x90\x90"
    assert (after["ebp"], after["fault"]) == (0, (Vector.GP, 0))
    assert crossings(bench) == 2 * (ROUNDS - 3)


@pytest.mark.parametrize("rights", [0, 5], ids=["not there", "read-only"])
def test_a_kernel_stack_that_cannot_be_written(bench, monkeypatch, rights):
    """It becomes so in the second call. The fault has no other stack: a shutdown."""
    page = STACK0 - 0x1000
    entry = PAGE_TABLE + (page >> 10)
    change = f"cmp ebp, {ROUNDS - 1}; jne go; mov dword ptr [{entry}], {page | rights}; invlpg [esp]; go: nop"

    def once() -> dict[str, object]:
        bench.recycle()
        bench.map_pages()
        bench.vcpu.cr0 |= int(Cr0.WP)
        return run(bench, f"mov edx, [esp]; mov ecx, [esp + 12]; {change}", "")

    known = once()
    assert known["ebp"] in (ROUNDS - 1, ROUNDS - 2)
    monkeypatch.setattr(Crossings, "look", lambda *arguments: None)
    assert once() == known
