"""The guest that every attack runs in: its memory, its tables, and handlers that write down what happened.

An attack is a list of *attempts*. Each sets `resume`, does something, and ends with INT 80h if nothing stopped it. The
handlers of all vectors write (vector, error code) to a log and go on at `resume`, in the ring of the attack, with flat
segments, a fresh stack and the general registers as they were. INT 81h ends the guest.

Ring 0 runs with paging off unless it turns it on; ring 3 always runs with paging, and only `USER` is its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from firmware.assembler import assemble_text
from firmware.bootimage import BootImage, FlatMode
from vmm.arch.descriptors import Descriptor, Gate, SystemType
from vmm.arch.exceptions import HAS_ERROR_CODE
from vmm.arch.layout import PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import Reg

RAM: Final = 4 << 20
GDT, IDT, TSS, LDT, STUBS = 0x1_0000, 0x2_0000, 0x2_1000, 0x2_2000, 0x2_4000
KERNEL, KERNEL_STACK = 0x3_0000, 0x4_0000
USER, USER_STACK, USER_END = 0x6_0000, 0x7_F000, 0x8_0000
RESUME: Final = 0x7_F800  # a word of the attacker's
LOG_COUNT, LOG = 0x10_0000, 0x10_0008
LOG_MAX: Final = 0x1_0000
LOG_END: Final = LOG + 8 * LOG_MAX
DIRECTORY, PAGE_TABLE = 0x20_0000, 0x20_1000
SCRATCH: Final = 0x30_0000  # free for an attack

SURVIVED: Final = 0x80
FINISH: Final = 0x81
EXIT_PORT: Final = 0xF4

KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA, MAIN_TSS, LOCAL = 0x08, 0x10, 0x1B, 0x23, 0x28, 0x30
FREE: Final = 0x100
"""First selector that is left to the attacks."""
GDT_LIMIT: Final = 0x1FFF
_FLAT: Final = 0xC0 << 16  # G and D/B
_ACCESS: Final = 8
_P, _W, _U = int(Pte.P), int(Pte.W), int(Pte.U)

Event = tuple[int, int]
"""(vector, error code) of the log; the code is 0 for a vector without one."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. `text` is 32-bit assembly for `ring`; `expected` is what the SDM prescribes, an event an attempt.

    `memory` is put into guest memory first (address: bytes). `ending` names the outcome that the manual prescribes, or
    "preempted" for a guest that never ends. `touches_hole`: attempts may read or write the VMM's window, which the
    guest has not mapped; what becomes of those is counted, not judged.
    """

    name: str
    what: str
    text: str
    expected: tuple[Event, ...]
    ring: int = 0
    memory: Mapping[int, bytes] = field(default_factory=dict)
    ending: str = "ExitPort"
    touches_hole: bool = False
    has_disk: bool = False


ok: Final[Event] = (SURVIVED, 0)


def attempt(code: str) -> str:
    """The text of one attempt."""
    return f"""
    mov dword ptr [{RESUME:#x}], 1f
    {code.strip()}
    int {SURVIVED:#x}
1:
"""


def descriptor(base: int, limit: int, access: int, flags: int = _FLAT) -> bytes:
    """Eight bytes: `access` is the byte with P, DPL, S and type; `limit` in bytes."""
    return Descriptor(base, limit, access << _ACCESS | flags).to_bytes()


def gate(offset: int, selector: int, kind: SystemType | int, dpl: int = 0, present: bool = True) -> bytes:
    """Eight bytes of a call, interrupt, trap or task gate."""
    return Gate(offset, selector, int(kind), dpl, present).to_bytes()


def build(attack: Attack) -> BootImage:
    """Everything that the guest is at its first instruction."""
    rest = ".set go_on, to_user\n" + _ENTER_USER if attack.ring else ".set go_on, to_kernel\n" + attack.text + _END
    kernel = assemble_text(_KERNEL + rest, KERNEL, 32, "attack")
    writes = [
        (GDT, _gdt()),
        (IDT, _idt()),
        (STUBS, _stubs(kernel.symbols["handler"])),
        (TSS + 4, KERNEL_STACK.to_bytes(4, "little") + KERNEL_DATA.to_bytes(4, "little")),
        (TSS + 0x66, b"\x68\0\xff"),
        (DIRECTORY, (PAGE_TABLE | _P | _W | _U).to_bytes(4, "little")),
        (PAGE_TABLE, _page_table()),
        (KERNEL, kernel.flat(KERNEL)),
    ]
    if attack.ring:
        writes.append((USER, assemble_text(attack.text + _END, USER, 32, "attack").flat(USER)))
    writes += attack.memory.items()
    return BootImage(tuple(writes), (), KERNEL, {Reg.ESP: KERNEL_STACK}, FlatMode(KERNEL_CODE, KERNEL_DATA, None))


def log_of(read: Callable[[int, int], bytes]) -> tuple[Event, ...]:
    """The events in the log; `read` reads guest-physical memory."""
    count = min(int.from_bytes(read(LOG_COUNT, 4), "little"), LOG_MAX)
    words = memoryview(read(LOG, 8 * count)).cast("I")
    return tuple((words[2 * i], words[2 * i + 1]) for i in range(count))


def is_trusted(page: int) -> bool:
    """Must a guest-physical page be, after an attack from ring 3, as it was? Stacks, log and accessed bits change."""
    at = page * PAGE_SIZE
    changes = (GDT, TSS, KERNEL_STACK - PAGE_SIZE, DIRECTORY, PAGE_TABLE)
    return not (USER <= at < USER_END or LOG_COUNT <= at < LOG_END or at >= SCRATCH or at in changes)


def _gdt() -> bytes:
    table = b"".join(
        (
            bytes(8),
            descriptor(0, 0xFFFF_FFFF, 0x9B),
            descriptor(0, 0xFFFF_FFFF, 0x93),
            descriptor(0, 0xFFFF_FFFF, 0xFB),
            descriptor(0, 0xFFFF_FFFF, 0xF3),
            descriptor(TSS, 0x68, 0x89, 0),
            descriptor(LDT, 0xFF, 0x82, 0),
        )
    )
    return table.ljust(GDT_LIMIT + 1, b"\0")


def _idt() -> bytes:
    def of(vector: int) -> bytes:
        open_to_all = vector in (3, 4, SURVIVED, FINISH)
        return gate(STUBS + _STUB_SIZE * vector, KERNEL_CODE, SystemType.INTERRUPT_GATE32, 3 if open_to_all else 0)

    return b"".join(map(of, range(256)))


def _page_table() -> bytes:
    def entry(page: int) -> int:
        user = USER <= page * PAGE_SIZE < USER_END
        return page * PAGE_SIZE | _P | _W | (_U if user else 0)

    return b"".join(entry(page).to_bytes(4, "little") for page in range(RAM // PAGE_SIZE))


_STUB_SIZE: Final = 16


def _stubs(handler: int) -> bytes:
    """For each vector: a zero where the processor pushes no error code, the vector, and on to the handler."""

    def stub(vector: int) -> bytes:
        start = (b"" if vector in HAS_ERROR_CODE else b"\x6a\0") + b"\x68" + vector.to_bytes(4, "little")
        end = STUBS + _STUB_SIZE * vector + len(start) + 5
        return (start + b"\xe9" + (handler - end).to_bytes(4, "little", signed=True)).ljust(_STUB_SIZE, b"\xcc")

    return b"".join(map(stub, range(256)))


_KERNEL: Final = f"""
    lgdt [gdt_pointer]
    ljmp {KERNEL_CODE}:started
started:
    lidt [idt_pointer]
    mov eax, {MAIN_TSS}
    ltr ax
    xor eax, eax
    cld
    jmp body
gdt_pointer:
    .word {GDT_LIMIT}
    .long {GDT}
idt_pointer:
    .word 0x7ff
    .long {IDT}

# The frame: DS, 32 bytes of PUSHAD, vector, error code, EIP, CS, EFLAGS.
handler:
    pushad
    push ds
    mov eax, {KERNEL_DATA}
    mov ds, ax
    mov es, ax
    mov ebx, dword ptr [{LOG_COUNT}]
    cmp ebx, {LOG_MAX}
    jae full
    mov eax, dword ptr [esp + 36]
    mov dword ptr [ebx*8 + {LOG}], eax
    mov eax, dword ptr [esp + 40]
    mov dword ptr [ebx*8 + {LOG + 4}], eax
    inc dword ptr [{LOG_COUNT}]
full:
    cmp dword ptr [esp + 36], {FINISH}
    je finish
    add esp, 4
    popad
    jmp go_on
to_kernel:
    mov esp, {KERNEL_STACK}
    push {KERNEL_DATA}
    pop ss
    jmp dword ptr [{RESUME}]
to_user:
    mov esp, {KERNEL_STACK}
    push {USER_DATA}
    pop ds
    push {USER_DATA}
    pop es
    push {USER_DATA}
    push {USER_STACK}
    push 2
    push {USER_CODE}
    push dword ptr ss:[{RESUME}]
    iretd
finish:
    dec dword ptr [{LOG_COUNT}]
    xor eax, eax
    out {EXIT_PORT}, al
    hlt
body:
"""

_END: Final = f"\n    int {FINISH:#x}\n"

_ENTER_USER: Final = f"""
    mov eax, {DIRECTORY}
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    mov dword ptr [{RESUME}], {USER}
    xor eax, eax
    jmp to_user
"""
