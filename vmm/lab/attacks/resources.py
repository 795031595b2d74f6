"""What belongs to the machine and not to the guest: time, and memory that devices write. And the ends of the space.

Source: Intel SDM Vol. 3A, "Memory Organization", "Interrupt Descriptor Table (IDT)"; Vol. 2B, "REP"; 82371SB (PIIX3)
data sheet, "Bus Master IDE I/O Registers".
"""

from typing import Final

from vmm.arch.descriptors import SystemType
from vmm.arch.exceptions import Vector
from vmm.lab.attacks.guest import (
    GDT_LIMIT,
    IDT,
    KERNEL_CODE,
    RAM,
    SCRATCH,
    Attack,
    attempt,
    descriptor,
    gate,
    ok,
)

NEST: Final = 10_000
_UD: Final = int(Vector.UD)
_PREEMPTED: Final = "preempted"
_NEST_STACK: Final = SCRATCH + (512 << 10)
_PRD, _BUS_MASTER = SCRATCH, 0xC000
_WRAP: Final = 0x40  # so far below 4 GiB a table begins


def _endless() -> list[Attack]:
    loops = {
        "interrupts off": ("a tight loop with interrupts off", "cli\njmp $"),
        "REP of 4 G": (
            "REP STOSB of FFFFFFFFh bytes over memory that nobody answers for, again and again",
            f"cli\nagain:\nmov edi, {RAM:#x}\nmov ecx, 0xffffffff - {RAM:#x}\nrep stosb\njmp again",
        ),
        "REP of 4 G in place": (
            "REPE CMPSB of FFFFFFFFh bytes with itself",
            "cli\nagain:\nmov esi, esp\nmov edi, esp\nmov ecx, 0xffffffff\nrepe cmpsb\njmp again",
        ),
    }
    return [Attack(name, what, text, (), ending=_PREEMPTED) for name, (what, text) in loops.items()]


def _nest() -> Attack:
    """Each fault is taken inside the handler of the one before."""
    handler = f"""
    mov esp, {_NEST_STACK:#x}
    mov ecx, {NEST}
    mov dword ptr [{IDT + 8 * _UD:#x}], {KERNEL_CODE << 16:#x}
    mov eax, inside
    mov word ptr [{IDT + 8 * _UD:#x}], ax
    shr eax, 16
    mov word ptr [{IDT + 8 * _UD + 6:#x}], ax
inside:
    dec ecx
    jz out
    ud2
out:
    lea eax, [esp + {12 * (NEST - 1)}]
    cmp eax, {_NEST_STACK:#x}
    je right
    hlt
right:
"""
    return Attack("faults in faults", f"{NEST:,} faults, each in the handler of the one before", handler, ())


def _wraps() -> list[Attack]:
    """Tables that begin below 4 GiB and go on at 0; a stack that does."""
    low = _WRAP // 8
    vector, selector = 0x20, 0x80
    handler = attempt(f"lidt [pointer]\nint {vector:#x}") + "lidt [back]\n"
    return [
        Attack(
            "IDT at 4 GiB",
            "an IDT that begins 40h bytes below 4 GiB, and an interrupt whose gate is behind the wrap",
            "jmp start\npointer:\n.word 0x7ff\n.long 0xffffffc0\nback:\n.word 0x7ff\n"
            f".long {IDT}\nstart:\nmov eax, reached\nmov word ptr [{8 * (vector - low)}], ax\nshr eax, 16\n"
            f"mov word ptr [{8 * (vector - low) + 6}], ax\njmp go\nreached:\nlidt [back]\nint 0x80\ngo:\n" + handler,
            (ok,),
            memory={8 * (vector - low): gate(0, KERNEL_CODE, SystemType.INTERRUPT_GATE32)},
        ),
        Attack(
            "GDT at 4 GiB",
            "a GDT that begins 40h bytes below 4 GiB, and a load from behind the wrap",
            "jmp start\npointer:\n.word 0xfff\n.long 0xffffffc0\nback:\n"
            f".word {GDT_LIMIT}\n.long 0x10000\nstart:\n"
            + attempt(f"lgdt [pointer]\nmov ax, {selector:#x}\nmov fs, ax\nlgdt [back]"),
            (ok,),
            memory={selector - _WRAP: descriptor(0, 0xFFFF_FFFF, 0x93)},
        ),
        Attack(
            "stack at 4 GiB",
            "pushes from ESP = 0 on, into the ROM",
            attempt("xor esp, esp\npush eax\npush ebx\npushad\npopad\nmov esp, 0x40000"),
            (ok,),
        ),
    ]


def _disk_dma() -> Attack:
    """The bus master of the IDE controller with a descriptor of memory that is not there. Primary channel, drive 0."""

    def command(port: int, value: int, width: str = "al") -> str:
        return f"mov edx, {port:#x}\nmov eax, {value:#x}\nout dx, {width}\n"

    def configure(register: int, value: int) -> str:
        return command(0xCF8, 0x8000_0900 | register, "eax") + command(0xCFC, value, "eax")

    read = (
        command(_BUS_MASTER, 0)
        + command(_BUS_MASTER + 4, _PRD, "eax")
        + "".join(command(0x1F2 + n, value) for n, value in enumerate((8, 0, 0, 0, 0xE0)))
        + command(_BUS_MASTER, 9)
        + command(0x1F7, 0xC8)
        + "wait:\nmov edx, 0x1f7\nin al, dx\ntest al, 0x88\njnz wait\n"
        + command(_BUS_MASTER, 0)
    )
    targets = (RAM, RAM + (16 << 20), RAM + (64 << 20), 0xF400_0000, 0xFFFF_F000)
    text = configure(0x20, _BUS_MASTER | 1) + configure(4, 5)
    for number, target in enumerate(targets):
        again = read.replace("wait", f"wait{number}")
        text += f"mov dword ptr [{_PRD}], {target:#x}\nmov dword ptr [{_PRD + 4}], 0x80001000\n" + attempt(again)
    return Attack("DMA beyond RAM", "disk reads by bus master to where no RAM is", text, (ok,) * 5, has_disk=True)


def attacks() -> tuple[Attack, ...]:
    """All of this module."""
    return (*_endless(), _nest(), *_wraps(), _disk_dma())
