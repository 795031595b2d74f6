"""Programs for a board with APICs: 32-bit, flat, with a descriptor table and an interrupt table of their own.

A program ends with a byte to the debug exit. `handler` counts in EBP; what an IDT entry names is the program's affair:
`gate vector, label`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from firmware.assembler import assemble_text
from firmware.bootimage import load_flat
from tests.vm_rig import machine
from vmm import kernel_entry
from vmm.boards import BoardName
from vmm.machine import Vm, memory_map

ORIGIN: Final = 0x10_0000
RAM: Final = 4 << 20

PRELUDE: Final = """
.set APIC, 0xFEE00000
.set SVR, APIC + 0xF0
.set EOI, APIC + 0xB0
.set IDT, 0x180000
.set STACK, 0x1F0000
.set CODE, 8

.macro GATE vector, handler
    mov eax, \\handler
    mov word ptr [IDT + \\vector * 8], ax
    mov word ptr [IDT + \\vector * 8 + 2], CODE
    mov word ptr [IDT + \\vector * 8 + 4], 0x8E00
    shr eax, 16
    mov word ptr [IDT + \\vector * 8 + 6], ax
.endm

.macro LEAVE
    out 0xF4, eax
    hlt
.endm

    mov esp, STACK
    lgdt [gdt_pointer]
    lidt [idt_pointer]
    xor ebp, ebp
    mov dword ptr [SVR], 0x1FF
"""

EPILOGUE: Final = """
handler:
    inc ebp
    mov dword ptr [EOI], 0
    iretd

gdt_pointer:
    .word 3 * 8 - 1
    .long gdt
idt_pointer:
    .word 256 * 8 - 1
    .long IDT
.align 8
gdt:
    .quad 0
    .quad 0x00CF9B000000FFFF
    .quad 0x00CF93000000FFFF
"""


@contextmanager
def apic_machine(program: str, **options: Any) -> Iterator[Vm]:
    """A machine of `--machine pc-test` about to run a program, without a BIOS before it."""
    code = assemble_text(PRELUDE + program + EPILOGUE, ORIGIN, 32).flat(ORIGIN)
    with machine(**({"memory": RAM, "machine": BoardName.PC_TEST} | options)) as vm:
        kernel_entry.enter(vm.vcpu, vm.memory, load_flat(code, ORIGIN, memory_map(RAM)))
        yield vm
