"""Host code that carries out what is known of a switch of rings: see `crossings.py`, whose records it reads.

It runs at an exit, on the state that the exit has saved, and returns 1 if it has brought that to the other side. All
conditions are looked at before anything changes; if one does not hold, it returns 0 and Python goes on as if nobody had
been here. Guest memory is found through the shadow tables, with the rights that these give: what they do not map, or
do not let be written, is for Python, and so is all that lies in the hole or across two pages.

System V calling convention on x86-64. RBP is the record, R12 the saved state, R13 the cells, R14 the machine's memory,
R15 the vCPU page.
"""

from enum import IntEnum
from typing import Final

from vmm.arch.layout import Slot
from vmm.arch.registers import ARITHMETIC, Eflags, Reg
from vmm.cpu.hole import HOLE_SIZE
from vmm.hw import state as hw
from vmm.hw.cpu import EFLAGS_REGISTER

CELLS_MARK: Final = 0x5EA1_CE11_5EA1_CE11
"""Stands for the address of the cells."""
TABLE_SIZE: Final = 1024


class Cell(IntEnum):
    """Byte offsets of the quadwords that host code and Python share."""

    ENABLED = 0x00
    LATEST = 0x08  # the record of the last crossing that Python has not heard of, or 0
    EFLAGS = 0x10
    HOLE = 0x18
    LOOKUP = 0x20  # host address of the branch tables, minus their linear address
    NOWHERE = 0x28
    HANDLE = 0x30
    REG_READ = 0x38
    STATE = 0x40
    MEMORY = 0x48
    PAGE = 0x50
    TABLE = 0x58  # by cache address: records, or 0


class Field(IntEnum):
    """Byte offsets in a record; dwords but for COUNT and ROOT. What `LISTS` begins are entries of 16 bytes: address,
    mask and value of what must be so; linear address and two dwords of what must be in memory; address and value of
    what is stored."""

    KEY = 0x00
    KIND = 0x04
    COUNT = 0x08
    CONDITIONS = 0x10
    MEMORY = 0x14
    STORES = 0x18
    ENTRY = 0x1C  # EIP in the cache
    ROOT = 0x20  # host address of a branch table
    RETURN = 0x28  # EIP behind INT
    KEPT_IF = 0x2C
    STACK = 0x30  # linear address of ESP0, with SS0 behind it
    CODE = 0x34  # selectors in the frame
    STACK_SELECTOR = 0x38
    INNER_STACK = 0x3C  # SS0
    FIXED = 0x40  # flags in the frame of an IRET that must be as in FLAGS
    FLAGS = 0x44
    LISTS = 0x48


class Kind(IntEnum):
    """What a record is of."""

    SYSENTER = 0
    INT = 1
    SYSEXIT = 2
    IRET = 3


_ESP: Final = 8 * (hw.Q_REGS + int(Reg.ESP))
_FRAME: Final = 20
_DATA_FLAGS: Final = ARITHMETIC | int(Eflags.DF)
_PAGE_FLAGS: Final = int(Eflags.IOPL | Eflags.AC | Eflags.ID)

CROSSING: Final = f"""
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 8
    movabs r13, {CELLS_MARK:#x}
    cmp dword ptr [r13 + {Cell.ENABLED:d}], 0
    je slow
    mov r12, [r13 + {Cell.STATE:d}]
    mov r14, [r13 + {Cell.MEMORY:d}]
    mov r15, [r13 + {Cell.PAGE:d}]
    mov eax, [r12 + {8 * hw.Q_EIP}]
    mov ecx, eax
    shr ecx, 1
    and ecx, {TABLE_SIZE - 1}
    mov rdx, [r13 + {Cell.TABLE:d}]
    mov rbp, [rdx + rcx*8]
    test rbp, rbp
    je slow
    cmp eax, [rbp + {Field.KEY:d}]
    jne slow

    lea rsi, [rbp + {Field.LISTS:d}]
    mov ecx, [rbp + {Field.CONDITIONS:d}]
condition:
    mov rdx, [rsi]
    mov eax, [rdx]
    and eax, [rsi + 8]
    cmp eax, [rsi + 12]
    jne slow
    add rsi, 16
    dec ecx
    jne condition

    mov ebx, [rbp + {Field.MEMORY:d}]
memory:
    test ebx, ebx
    je conditions_hold
    mov edi, [rsi]
    mov r8d, 8
    xor r9d, r9d
    call walk
    test rax, rax
    je slow
    mov edx, [rsi + 4]
    cmp [rax], edx
    jne slow
    mov edx, [rsi + 8]
    cmp [rax + 4], edx
    jne slow
    add rsi, 16
    dec ebx
    jmp memory

conditions_hold:
    push rsi
    push rsi
    mov eax, [rbp + {Field.KIND:d}]
    cmp eax, {Kind.INT:d}
    je interrupt
    cmp eax, {Kind.SYSEXIT:d}
    je sysexit
    cmp eax, {Kind.IRET:d}
    je iret

    mov eax, [r15 + {Slot.SYSENTER_ESP:d}]
    mov [r12 + {_ESP}], rax
    mov eax, [rbp + {Field.ENTRY:d}]
    mov [r12 + {8 * hw.Q_EIP}], rax
    jmp done

interrupt:
    mov rdi, [r13 + {Cell.HANDLE:d}]
    mov esi, {EFLAGS_REGISTER}
    lea rdx, [r13 + {Cell.EFLAGS:d}]
    call qword ptr [r13 + {Cell.REG_READ:d}]
    mov edi, [rbp + {Field.STACK:d}]
    mov r8d, 8
    xor r9d, r9d
    call walk
    test rax, rax
    je give_up
    mov ebx, [rax]
    movzx edx, word ptr [rax + 4]
    cmp edx, [rbp + {Field.INNER_STACK:d}]
    jne give_up
    sub ebx, {_FRAME}
    mov edi, ebx
    mov r8d, {_FRAME}
    mov r9d, 2
    call walk
    test rax, rax
    je give_up
    mov ecx, [rbp + {Field.RETURN:d}]
    mov [rax], ecx
    mov ecx, [rbp + {Field.CODE:d}]
    mov [rax + 4], ecx
    mov ecx, [r13 + {Cell.EFLAGS:d}]
    and ecx, {_DATA_FLAGS:#x}
    or ecx, [r15 + {Slot.IF:d}]
    or ecx, [r15 + {Slot.FLAGS:d}]
    or ecx, {int(Eflags.ONE)}
    mov [rax + 8], ecx
    mov ecx, [r12 + {_ESP}]
    mov [rax + 12], ecx
    mov ecx, [rbp + {Field.STACK_SELECTOR:d}]
    mov [rax + 16], ecx
    mov ecx, [rbp + {Field.KEPT_IF:d}]
    and [r15 + {Slot.IF:d}], ecx
    mov [r12 + {_ESP}], rbx
    mov eax, [rbp + {Field.ENTRY:d}]
    mov [r12 + {8 * hw.Q_EIP}], rax
    jmp done

sysexit:
    cmp dword ptr [r15 + {Slot.PENDING:d}], 0
    jne give_up
    mov edi, [r12 + {8 * (hw.Q_REGS + int(Reg.EDX))}]
    call look_up
    test eax, eax
    je give_up
    mov [r12 + {8 * hw.Q_EIP}], rax
    mov eax, [r12 + {8 * (hw.Q_REGS + int(Reg.ECX))}]
    mov [r12 + {_ESP}], rax
    jmp done

iret:
    mov edi, [r12 + {_ESP}]
    mov r8d, {_FRAME}
    xor r9d, r9d
    call walk
    test rax, rax
    je give_up
    mov rbx, rax
    mov esi, [rbx + 8]
    mov eax, esi
    and eax, [rbp + {Field.FIXED:d}]
    cmp eax, [rbp + {Field.FLAGS:d}]
    jne give_up
    movzx eax, word ptr [rbx + 4]
    cmp eax, [rbp + {Field.CODE:d}]
    jne give_up
    movzx eax, word ptr [rbx + 16]
    cmp eax, [rbp + {Field.STACK_SELECTOR:d}]
    jne give_up
    test esi, {int(Eflags.IF):#x}
    je masked
    cmp dword ptr [r15 + {Slot.PENDING:d}], 0
    jne give_up
masked:
    mov edi, [rbx]
    call look_up
    test eax, eax
    je give_up
    mov [r12 + {8 * hw.Q_EIP}], rax
    mov eax, esi
    and eax, {int(Eflags.IF):#x}
    mov [r15 + {Slot.IF:d}], eax
    mov eax, esi
    and eax, {_PAGE_FLAGS:#x}
    mov [r15 + {Slot.FLAGS:d}], eax
    mov eax, esi
    and eax, {ARITHMETIC:#x}
    mov [r12 + {8 * hw.Q_CC_SRC}], rax
    mov dword ptr [r12 + {4 * hw.D_CC_OP}], {hw.CC_OP_EFLAGS}
    mov eax, 1
    test esi, {int(Eflags.DF):#x}
    je upward
    mov eax, 0xffffffff
upward:
    mov [r12 + {4 * hw.D_DF}], eax
    mov eax, [rbx + 12]
    mov [r12 + {_ESP}], rax

done:
    pop rsi
    pop rsi
    mov ecx, [rbp + {Field.STORES:d}]
store:
    mov rdx, [rsi]
    mov eax, [rsi + 8]
    mov [rdx], eax
    add rsi, 16
    dec ecx
    jne store
    inc qword ptr [rbp + {Field.COUNT:d}]
    mov [r13 + {Cell.LATEST:d}], rbp
    mov eax, 1
    jmp out

give_up:
    pop rsi
    pop rsi
slow:
    xor eax, eax
out:
    add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# RAX: host address of R8D bytes at linear EDI, or 0. R9D: 2 if they are to be written. RCX, R10 and R11 are lost.
walk:
    mov eax, edi
    sub eax, [r13 + {Cell.HOLE:d}]
    cmp eax, {HOLE_SIZE:#x}
    jb unreachable
    mov eax, edi
    and eax, 0xfff
    add eax, r8d
    cmp eax, 0x1000
    ja unreachable
    mov ecx, [r12 + {8 * (hw.Q_CR + 3)}]
    add rcx, r14
    mov eax, edi
    shr eax, 30
    mov r10d, [rcx + rax*8]
    test r10d, 1
    je unreachable
    and r10d, 0xfffff000
    add r10, r14
    mov eax, edi
    shr eax, 21
    and eax, 0x1ff
    mov r10d, [r10 + rax*8]
    mov r11d, r10d
    and r10d, 0x81
    cmp r10d, 1
    jne unreachable
    mov r10d, r11d
    and r10d, 0xfffff000
    add r10, r14
    mov eax, edi
    shr eax, 12
    and eax, 0x1ff
    mov r10d, [r10 + rax*8]
    test r10d, 1
    je unreachable
    and r11d, r10d
    and r11d, r9d
    cmp r11d, r9d
    jne unreachable
    and r10d, 0xfffff000
    add r10, r14
    mov eax, edi
    and eax, 0xfff
    add rax, r10
    ret
unreachable:
    xor eax, eax
    ret

# EAX: where in the cache EIP EDI is, or 0. RCX is lost.
look_up:
    mov rcx, [rbp + {Field.ROOT:d}]
    mov eax, edi
    shr eax, 16
    mov eax, [rcx + rax*4]
    mov rcx, [r13 + {Cell.LOOKUP:d}]
    add rcx, rax
    mov eax, edi
    shr eax, 8
    and eax, 0xff
    mov eax, [rcx + rax*4]
    mov rcx, [r13 + {Cell.LOOKUP:d}]
    add rcx, rax
    mov eax, edi
    and eax, 0xff
    mov eax, [rcx + rax*4]
    cmp eax, [r13 + {Cell.NOWHERE:d}]
    jne known
    xor eax, eax
known:
    ret
"""
