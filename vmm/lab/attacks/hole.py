"""The window that the VMM keeps in the guest's linear space: read, written, jumped into; tables and frames laid there.

Source: Intel SDM Vol. 3A, "Page-Fault Exceptions", "Segment Descriptor Tables", "Task Register".
"""

from collections.abc import Iterator
from typing import Final

from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.layout import PAGE_SIZE
from vmm.cpu.hole import DEFAULT_HOLE, HOLE_SIZE, Hole
from vmm.lab.attacks.guest import (
    DIRECTORY,
    FREE,
    GDT,
    KERNEL,
    KERNEL_CODE,
    RAM,
    RESUME,
    SCRATCH,
    SURVIVED,
    Attack,
    attempt,
    descriptor,
    ok,
)

_PF, _UD = int(Vector.PF), int(Vector.UD)
_SAMPLES: Final = 1024
_FETCHES: Final = 64
_PAGING_ON: Final = f"mov eax, {DIRECTORY}\nmov cr3, eax\nmov eax, cr0\nor eax, 0x80010000\nmov cr0, eax\n"
_ACCESSES: Final = {"read": "mov al, byte ptr [edi]", "write": "mov byte ptr [edi], 0xcc"}
_WALK: Final = """
    mov edi, {start:#x}
next:
    mov dword ptr [{resume:#x}], 1f
    {access}
    int {survived:#x}
1:  add edi, {step:#x}
    cmp edi, {end:#x}
    jb next
"""

_READS_AS_ONES: Final = """
    cmp dword ptr [edi], -1
    jne 2f
    mov dword ptr [edi], 0xcccccccc
    cmp dword ptr [edi], -1
    je 3f
2:  ud2
3:"""
_WINDOW: Final = 0x40_0000  # where the attacker's second directory entry shows


def _walk(access: str, start: int, size: int, step: int) -> tuple[str, int]:
    """(text, number of attempts) that go through a range."""
    text = _WALK.format(start=start, end=start + size, step=step, access=access, resume=RESUME, survived=SURVIVED)
    return text, size // step


def _parts(hole: Hole) -> Iterator[tuple[str, int, int]]:
    """(name, linear address, size) of the parts, and of what lies between them as one."""
    for name, part in hole.parts.items():
        yield name.replace("_", " "), hole.linear(name), part.size
    yield "what is left", hole.base, HOLE_SIZE


def _accesses(hole: Hole) -> Iterator[Attack]:
    """Every word of small parts, a thousand of large ones; whatever has come of the window before, it starts there."""
    for name, start, size in _parts(hole):
        step = max(4, size // _SAMPLES)
        for verb, access in _ACCESSES.items():
            for ring in (0, 3):
                text, count = _walk(access, start, size, step)
                event = ok if ring == 0 else (_PF, 4 | (2 if verb == "write" else 0))
                what = f"{verb} the {name} of the window from ring {ring}"
                yield Attack(f"{verb} {name}, ring {ring}", what, text, (event,) * count, ring, touches_hole=True)


_REAL: Final = """
    ljmp {code16}:narrow - {kernel:#x}
.code16
narrow:
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    ljmp {segment:#x}:real - {kernel:#x}
real:
    mov edi, {start:#x}
next:
    {access}
    add edi, {step:#x}
    cmp edi, {end:#x}
    jb next
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long wide
    .word {code}
.code32
wide:
"""


def _accesses_in_real_mode(hole: Hole) -> Iterator[Attack]:
    """There the processor runs the guest at CPL 3 and all of the window is its own: segments of 4 GiB reach it."""
    for name, start, size in _parts(hole):
        for verb, access in _ACCESSES.items():
            step = max(4, size // _SAMPLES)
            text = _REAL.format(
                code16=FREE, segment=KERNEL >> 4, kernel=KERNEL, code=KERNEL_CODE, access=access, start=start,
                end=start + size, step=step,
            )  # fmt: skip
            what = f"{verb} the {name} of the window from real mode, through a segment of 4 GiB"
            memory = {GDT + FREE: descriptor(KERNEL, 0xFFFF, 0x9B, 0)}
            yield Attack(f"{verb} {name}, real mode", what, attempt(text), (ok,), memory=memory, touches_hole=True)


def _jumps(hole: Hole) -> Iterator[Attack]:
    """Nothing answers there without paging, so ones are fetched, which are no instruction; with paging it faults."""
    for name in ("kernel_cache", "user_cache", "lookup", "user_scratch"):
        for ring, event in ((0, (_UD, 0)), (3, (_PF, 4))):
            text, count = _walk("call edi", hole.linear(name), _FETCHES * 13, 13)
            what = f"jump to the start and into the middle of what is in the {name.replace('_', ' ')}, ring {ring}"
            yield Attack(f"jump into {name.replace('_', ' ')}, ring {ring}", what, text, (event,) * count, ring)


def _tables(hole: Hole) -> Iterator[Attack]:
    """Descriptor tables and task segments over VMM pages: what the guest gets is what nothing answers, all ones."""
    at = hole.linear("vcpu_page")
    pointer = f"push {at:#x}\npush 0xffff0000\n"
    readable = attempt(f"{pointer}lgdt [esp + 2]\nmov ax, 0x28\nmov fs, ax\nlgdt [back]")
    yield Attack(
        "GDT over the window",
        "LGDT with a base there, and a load from it",
        f"jmp over\nback: .word 0x1fff\n.long {GDT}\nover:\n{readable}",
        (ok,),
    )
    local = attempt(f"mov ax, {FREE}\nlldt ax\nmov ax, 0xc\nmov gs, ax")
    memory = {GDT + FREE: descriptor(at, 0xFFF, 0x82, 0) + descriptor(at, 0xFFF, 0x89, 0)}
    yield Attack("LDT over the window", "LLDT with a base there, and a load from it", local, (ok,), memory=memory)
    task = attempt(f"mov ax, {FREE + 8}\nltr ax")
    yield Attack("TSS over the window", "LTR with a base there", task, (ok,), memory=memory)
    lost = f"{pointer}lidt [esp + 2]\nint3"
    yield Attack("IDT over the window", "LIDT with a base there, and an interrupt", lost, (), ending="TripleFault")


def _frames() -> Iterator[Attack]:
    """Page tables that name frames beyond RAM, where the VMM's own memory would be if frames were taken as they are."""
    spans = (RAM, RAM + (16 << 20), RAM + (64 << 20), RAM + (96 << 20), 0xE000_0000)
    for first in spans:
        entries = b"".join((first + n * PAGE_SIZE | 7).to_bytes(4, "little") for n in range(1024))
        text, count = _walk(_READS_AS_ONES, _WINDOW, 1024 * PAGE_SIZE, PAGE_SIZE)
        yield Attack(
            f"frames from {first:#x}",
            "page-table entries that name frames beyond RAM read as ones and swallow writes",
            f"mov dword ptr [{DIRECTORY + 4:#x}], {SCRATCH | 7:#x}\n" + _PAGING_ON + text,
            (ok,) * count,
            memory={SCRATCH: entries},
        )
    for table in (RAM, 0xE000_0000, DEFAULT_HOLE):
        text, count = _walk("mov eax, dword ptr [edi]", _WINDOW, 1024 * PAGE_SIZE, PAGE_SIZE)
        yield Attack(
            f"page table at {table:#x}",
            "a directory entry that names a table where nothing answers: ones, of which bit 7 is reserved",
            f"mov dword ptr [{DIRECTORY + 4:#x}], {table | 7:#x}\n" + _PAGING_ON + text,
            ((_PF, int(PageFault.P | PageFault.RSVD)),) * count,
        )
    last = 1023
    seen_at = last << 22 | last << 12
    itself = attempt(
        f"mov eax, dword ptr [{seen_at + 4 * last:#x}]\nand eax, 0xfffff000\ncmp eax, {DIRECTORY:#x}\nje 2f\nud2\n"
        f"2: mov dword ptr [{seen_at:#x}], 0\nmov eax, cr3\nmov cr3, eax"
    )
    yield Attack(
        "a directory in itself",
        "a directory that is its own page table, through which the guest takes its code away",
        f"mov dword ptr [{DIRECTORY + 4 * last:#x}], {DIRECTORY | 7:#x}\n" + _PAGING_ON + itself,
        (),
        ending="TripleFault",
    )


def attacks(hole: Hole) -> tuple[Attack, ...]:
    """All of this module, for a window as it starts."""
    return (*_accesses(hole), *_accesses_in_real_mode(hole), *_jumps(hole), *_tables(hole), *_frames())
