"""Ways into an inner ring that are not ways in: gates of all kinds, frames for IRET and RETF, privileged instructions.

Source: Intel SDM Vol. 3A, "Call Gates", "Privilege Level Checking" and "Exception- and Interrupt-Handler Procedures";
Vol. 2A, "CALL", "INT n", "IRET"; Vol. 2B, "RET".
"""

from typing import Final

from vmm.arch.descriptors import SystemType
from vmm.arch.exceptions import Vector
from vmm.lab.attacks.guest import (
    FINISH,
    FREE,
    GDT,
    IDT,
    KERNEL_CODE,
    KERNEL_DATA,
    LOCAL,
    MAIN_TSS,
    SURVIVED,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Attack,
    Event,
    attempt,
    descriptor,
    gate,
    ok,
)

_GP, _NP, _SS, _TS, _UD = (int(vector) for vector in (Vector.GP, Vector.NP, Vector.SS, Vector.TS, Vector.UD))
_ABSENT_CODE, _ABSENT_USER_CODE, _ABSENT_USER_DATA = FREE, FREE + 8, FREE + 16
_SEGMENTS: Final = b"".join(descriptor(0, 0xFFFF_FFFF, access) for access in (0x1B, 0x7B, 0x73))
_GATES: Final = FREE + 0x40
_GATES_IN_IDT: Final = 0x90
_OUTSIDE: Final = 0xFFF8
_GATE_KINDS: Final = (SystemType.CALL_GATE32, SystemType.CALL_GATE16)

Case = tuple[bytes, Event]
"""A gate, and what going through it from ring 3 ends in."""

_TARGETS: Final[tuple[tuple[int, Event], ...]] = (
    (0, (_GP, 0)),
    (3, (_GP, 0)),
    (KERNEL_DATA, (_GP, KERNEL_DATA)),
    (MAIN_TSS, (_GP, MAIN_TSS)),
    (LOCAL, (_GP, LOCAL)),
    (_OUTSIDE, (_GP, _OUTSIDE)),
    (_ABSENT_CODE, (_NP, _ABSENT_CODE)),
)
"""What a gate can name that is no code to go to, with or without its own privilege."""


def _call_gates(at: int) -> list[Case]:
    """Gates from selector `at` on: open ones to nowhere, then closed ones to the kernel."""
    cases = [(gate(0, target, kind, 3), event) for kind in _GATE_KINDS for target, event in _TARGETS]
    for closed in (*_GATE_KINDS, SystemType.TASK_GATE):
        for dpl in range(3):
            cases.append((gate(0, KERNEL_CODE, closed, dpl), (_GP, at + 8 * len(cases))))
        cases.append((gate(0, KERNEL_CODE, closed, 3, present=False), (_NP, at + 8 * len(cases))))
    cases += [
        (gate(0, target, SystemType.TASK_GATE, 3), (_GP, target & 0xFFFC))
        for target in (0, KERNEL_CODE, KERNEL_DATA, LOCAL, MAIN_TSS, MAIN_TSS | 4, _OUTSIDE)
    ]
    for other in (0, 8, 10, 13, SystemType.INTERRUPT_GATE32, SystemType.TRAP_GATE32, SystemType.INTERRUPT_GATE16):
        cases.append((gate(0, KERNEL_CODE, other, 3), (_GP, at + 8 * len(cases))))
    return cases


def _interrupt_gates(first: int) -> list[Case]:
    """Gates of the IDT from vector `first` on."""

    def code() -> int:
        return 8 * (first + len(cases)) + 2

    cases: list[Case] = []
    for kind in (SystemType.INTERRUPT_GATE32, SystemType.TRAP_GATE32, SystemType.INTERRUPT_GATE16):
        cases += [(gate(0, target, kind, 3), event) for target, event in _TARGETS]
        cases.append((gate(0, KERNEL_CODE, kind, 3, present=False), (_NP, code())))
        for dpl in range(3):
            cases.append((gate(0, KERNEL_CODE, kind, dpl), (_GP, code())))
    for other in (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13):
        cases.append((gate(0, KERNEL_CODE, other, 3), (_GP, code())))
    return cases


def _gates() -> list[Attack]:
    calls, interrupts = _call_gates(_GATES), _interrupt_gates(_GATES_IN_IDT)
    far = [attempt(f".byte 0x9a\n.long 0\n.word {_GATES + 8 * n | 3:#x}") for n in range(len(calls))]
    ints = [attempt(f"int {_GATES_IN_IDT + n:#x}") for n in range(len(interrupts))]
    return [
        Attack(
            "call and task gates",
            "far CALL from ring 3 through gates of every kind, target and DPL",
            "".join(far),
            tuple(event for _, event in calls),
            3,
            {GDT + FREE: _SEGMENTS, GDT + _GATES: b"".join(raw for raw, _ in calls)},
        ),
        Attack(
            "interrupt gates",
            "INT n from ring 3 through gates of every kind, target and DPL",
            "".join(ints),
            tuple(event for _, event in interrupts),
            3,
            {GDT + FREE: _SEGMENTS, IDT + 8 * _GATES_IN_IDT: b"".join(raw for raw, _ in interrupts)},
        ),
    ]


def _every_vector() -> Attack:
    vectors = [n for n in range(256) if n not in (3, 4, SURVIVED, FINISH)]
    return Attack(
        "every vector",
        "INT n from ring 3 for each gate that is the kernel's",
        "".join(attempt(f".byte 0xcd, {n}") for n in vectors),  # INT 3 in two bytes as well
        tuple((_GP, 8 * n + 2) for n in vectors),
        3,
    )


def _return(instruction: str, *frame: int | str) -> str:
    """Push a frame, in the order of its addresses, and return through it."""
    return attempt("\n".join(f"push {value}" for value in reversed(frame)) + f"\n{instruction}")


def _inner_returns() -> Attack:
    """From ring 3 to where only the kernel may be, and with flags that only it may set."""
    targets = (
        (0, (_GP, 0)),
        (KERNEL_CODE, (_GP, KERNEL_CODE)),
        (KERNEL_CODE | 3, (_GP, KERNEL_CODE)),
        (USER_DATA, (_GP, USER_DATA & 0xFFFC)),
        (MAIN_TSS | 3, (_GP, MAIN_TSS)),
        (_OUTSIDE | 3, (_GP, _OUTSIDE)),
        (_ABSENT_USER_CODE | 3, (_NP, _ABSENT_USER_CODE)),
    )
    text, expected = "", []
    for target, event in targets:
        text += _return("iretd", 0, target, 2) + _return("retf", 0, target)
        expected += [event, event]
    # VM, IOPL and IF in the image change nothing at CPL 3
    text += _return("iretd", "2f", USER_CODE, "0x23202").replace("iretd", f"iretd\n2:\n{_FLAGS_ARE_PLAIN}")
    text += attempt(f"push 0x23202\npopfd\n{_FLAGS_ARE_PLAIN}")
    return Attack(
        "returns to inner rings",
        "IRET and RETF from ring 3 to every kind of CS, IRET and POPF with VM, IOPL and IF",
        text,
        (*expected, ok, ok),
        3,
        {GDT + FREE: _SEGMENTS},
    )


_FLAGS_ARE_PLAIN: Final = "pushfd\npop eax\ntest eax, 0x23200\njz 3f\nud2\n3:"


def _mismatched_returns() -> Attack:
    """From ring 0 to ring 3 with a stack of another kind; and out of a task that has no one to go back to."""
    stacks = (
        (0, (_GP, 0)),
        (KERNEL_DATA, (_GP, KERNEL_DATA)),
        (USER_DATA & ~3, (_GP, USER_DATA & ~3)),
        (KERNEL_DATA | 3, (_GP, KERNEL_DATA)),
        (USER_CODE, (_GP, USER_CODE & ~3)),
        (MAIN_TSS | 3, (_GP, MAIN_TSS)),
        (_OUTSIDE | 3, (_GP, _OUTSIDE)),
        (_ABSENT_USER_DATA | 3, (_SS, _ABSENT_USER_DATA)),
    )
    text, expected = "", []
    for stack, event in stacks:
        text += _return("iretd", 0, USER_CODE, 2, USER_STACK, stack) + _return("retf", 0, USER_CODE, USER_STACK, stack)
        expected += [event, event]
    for link in (0, KERNEL_DATA, LOCAL, _OUTSIDE):
        nested = f"mov word ptr [{_BACK_LINK:#x}], {link:#x}\npushfd\nor dword ptr [esp], 0x4000\npopfd\niretd"
        text += attempt(nested)
        expected.append((_TS, link))
    return Attack(
        "mismatched returns",
        "IRET and RETF from ring 0 with every kind of SS; IRET with NT and every kind of back link",
        text,
        tuple(expected),
        0,
        {GDT + FREE: _SEGMENTS},
    )


_BACK_LINK: Final = 0x2_1000

_PRIVILEGED: Final = """
    cli; sti; hlt; clts; invd; wbinvd; rdmsr; wrmsr; rdpmc; in al, dx; out dx, al; in eax, 0x60; out 0x80, ax
    lgdt [esp]; lidt [esp]; lldt ax; ltr ax; .byte 0x0f, 1, 0xf0; invlpg [esp]
    mov cr0, eax; mov cr2, eax; mov cr3, eax; mov cr4, eax; mov eax, cr0; mov eax, cr2; mov eax, cr3; mov eax, cr4
    mov dr0, eax; mov dr7, eax; mov eax, dr0; mov eax, dr6
    .byte 0x6c; .byte 0x6e; .byte 0xf3, 0x6d; .byte 0xf3, 0x6f; .byte 0x0f, 0x34; .byte 0x0f, 0x35
"""
_UNKNOWN: Final = """
    .byte 0x0f, 0xaa; .byte 0x0f, 1, 0xc1; .byte 0x0f, 1, 0xd8; .byte 0x0f, 1, 0xd9; .byte 0x0f, 5; .byte 0x0f, 7
    .byte 0x0f, 0xa6; .byte 0x0f, 0x78, 0xc0; .byte 0xff, 0xff; .byte 0x0f, 0xff
"""


def _instructions(text: str) -> list[str]:
    return [line.strip() for line in text.replace("\n", ";").split(";") if line.strip()]


def _privileged() -> Attack:
    privileged, unknown = _instructions(_PRIVILEGED), _instructions(_UNKNOWN)
    text = "mov edi, 0x70000\nmov esi, edi\nmov ecx, 1\n" + "".join(attempt(code) for code in privileged + unknown)
    expected = ((_GP, 0),) * len(privileged) + ((_UD, 0),) * len(unknown)
    return Attack(
        "privileged instructions", "each of them, and those that this processor lacks, from ring 3", text, expected, 3
    )


def attacks() -> tuple[Attack, ...]:
    """All of this module."""
    return (*_gates(), _every_vector(), _inner_returns(), _mismatched_returns(), _privileged())
