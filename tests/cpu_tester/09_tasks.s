# Group 0C: hardware task switches by JMP, CALL, INT and IRET: checks, state, NT, back links, busy bits, faults on the way.
#
# Sources: SDM Vol. 3A, "Task Switching", "Task Linking", "Task-Gate Descriptor"; table "Exception Conditions Checked During
# a Task Switch"; Vol. 2A, "CALL", "JMP", "INT n", "IRET".

.include "frame.inc"
    GROUP 0x0C01

# Offsets in a 32-bit TSS, then in one of 16 bits.
.equ TS_LINK, 0x00
.equ TS_ESP0, 0x04
.equ TS_SS0, 0x08
.equ TS_CR3, 0x1C
.equ TS_EIP, 0x20
.equ TS_EFLAGS, 0x24
.equ TS_EAX, 0x28
.equ TS_ECX, 0x2C
.equ TS_ESP, 0x38
.equ TS_EBP, 0x3C
.equ TS_ES, 0x48
.equ TS_CS, 0x4C
.equ TS_SS, 0x50
.equ TS_DS, 0x54
.equ TS_FS, 0x58
.equ TS_GS, 0x5C
.equ TS_LDT, 0x60
.equ TS_TRAP, 0x64
.equ T16_IP, 0x0E
.equ T16_FLAGS, 0x10
.equ T16_AX, 0x12
.equ T16_SP, 0x1A
.equ T16_ES, 0x22
.equ T16_CS, 0x24
.equ T16_SS, 0x26
.equ T16_DS, 0x28
.equ T16_LDT, 0x2A

# Fill TSS_B with a task of ring `cpl` that starts at `start`. For PREPARE; the general registers are 0 but EAX.
.macro task_b start, cpl=0
    mov     dword ptr ds:[TSS_B+TS_ESP0], HANDLER_STACK
    mov     dword ptr ds:[TSS_B+TS_SS0], MON_DATA
    mov     dword ptr ds:[TSS_B+TS_CR3], PAGE_DIRECTORY
    mov     dword ptr ds:[TSS_B+TS_EIP], offset \start
    mov     dword ptr ds:[TSS_B+TS_EFLAGS], 2
    mov     dword ptr ds:[TSS_B+TS_EAX], 0x12345678
    mov     dword ptr ds:[TSS_B+TS_ESP], 0x800
    mov     dword ptr ds:[TSS_B+TS_ES], DATA+9*\cpl
    mov     dword ptr ds:[TSS_B+TS_CS], CODE32+9*\cpl
    mov     dword ptr ds:[TSS_B+TS_SS], STACK32+9*\cpl
    mov     dword ptr ds:[TSS_B+TS_DS], DATA+9*\cpl
    mov     dword ptr ds:[TSS_B+TS_FS], DATA+9*\cpl
    mov     dword ptr ds:[TSS_B+TS_GS], DATA+9*\cpl
    mov     dword ptr ds:[TSS_B+TS_LDT], S_LDT
.endm
# The descriptor of TSS_B, as the test wants it.
.macro tss_b access, limit=0x67
    DESCRIPTOR S_TSS_B, TSS_B, \limit, \access, 0
.endm

# --- JMP and CALL to a TSS ----------------------------------------------------------------------------------------------------

    CASE PM32+0, "jmp to a TSS loads all registers from it"
    PREPARE
    task_b  1f
    mov     dword ptr ds:[TSS_B+TS_ECX], 0x9ABCDEF0
    mov     dword ptr ds:[TSS_B+TS_EBP], 0x0FEDCBA9
    mov     dword ptr ds:[TSS_B+TS_FS], DATA+27
    RUN
    ljmp    S_TSS_B, 0
9:  ud2
1:
    SHOWS   R_EAX, 0x12345678
    SHOWS   R_ECX, 0x9ABCDEF0
    SHOWS   R_EBP, 0x0FEDCBA9
    SHOWS   R_EBX, 0
    SHOWS   R_FS, DATA+27, 0xFFFF
    SHOWS   R_SS, STACK32
    SHOWS   R_ESP, 0x800
    SHOWS   R_TR, S_TSS_B
    SHOWS   R_CR0, 8, 8
    SHOWS   R_EFLAGS, 0, 0x7FD5
    PASSES

    CASE PM32+0, "jmp to a TSS saves all registers in the old one"
    PREPARE
    task_b  1f
    RUN
    stc
    ljmp    S_TSS_B, 0
8:
1:
    SHOWS   TSS_A+TS_EAX, 0xA0A1A2A3
    SHOWS   TSS_A+TS_EBP, 0xB4B5B6B7
    SHOWS   TSS_A+TS_ESP, STACK_TOP
    SHOWS   TSS_A+TS_CS, CODE32, 0xFFFF
    SHOWS   TSS_A+TS_DS, DATA, 0xFFFF
    SHOWS   TSS_A+TS_SS, STACK32, 0xFFFF
    SHOWS   TSS_A+TS_EFLAGS, F_CF+2, 0x7FD7
    PASSES

    CASE PM32+0, "jmp to a TSS makes it busy and frees the old one, with no link and no NT"
    PREPARE
    task_b  1f
    mov     dword ptr ds:[TSS_B], 0x5555
    RUN
    ljmp    S_TSS_B, 0
1:
    SHOWS   GDT+S_TSS_B+4, (P+A_BUSY32)<<8, 0xFF00
    SHOWS   GDT+S_TSS_A+4, (P+A_TSS32)<<8, 0xFF00
    SHOWS   TSS_B, 0x5555, 0xFFFF
    SHOWS   R_EFLAGS, 0, F_NT
    PASSES

    CASE PM32+0, "call of a TSS keeps the old one busy, links it and sets NT"
    PREPARE
    task_b  1f
    mov     dword ptr ds:[TSS_B], 0x5555
    RUN
    lcall   S_TSS_B, 0
1:
    SHOWS   GDT+S_TSS_B+4, (P+A_BUSY32)<<8, 0xFF00
    SHOWS   GDT+S_TSS_A+4, (P+A_BUSY32)<<8, 0xFF00
    SHOWS   TSS_B, S_TSS_A, 0xFFFF
    SHOWS   R_EFLAGS, F_NT, F_NT
    PASSES

    CASE PM32+0, "call of a TSS and iretd: the old task goes on, the new one is free and keeps where it was"
    PREPARE
    task_b  1f
    RUN
    lcall   S_TSS_B, 0
    jmp     2f
1:  mov     eax, 0x11111111
    iretd
3:  ud2
2:
    SHOWS   R_EAX, 0xA0A1A2A3
    SHOWS   R_TR, S_TSS_A
    SHOWS   GDT+S_TSS_B+4, (P+A_TSS32)<<8, 0xFF00
    SHOWS   GDT+S_TSS_A+4, (P+A_BUSY32)<<8, 0xFF00
    SHOWS   TSS_B+TS_EAX, 0x11111111
    SHOWS   TSS_B+TS_EFLAGS, 0, F_NT
    SHOWS   R_EFLAGS, 0, F_NT
    PASSES

    CASE PM32+0, "a task of ring 3"
    PREPARE
    task_b  1f, 3
    RUN
    ljmp    S_TSS_B, 0
1:
    SHOWS   R_CS, CODE32+27
    SHOWS   R_SS, STACK32+27
    PASSES

    CASE PM32+3, "from ring 3 to a task of ring 0"
    PREPARE
    task_b  1f
    tss_b   P+DPL3+A_TSS32
    RUN
    lcall   S_TSS_B+3, 0
1:
    SHOWS   R_CS, CODE32
    SHOWS   TSS_A+TS_CS, CODE32+27, 0xFFFF
    PASSES

    CASE PM32+0, "a task in V86"
    PREPARE
    task_b  1f
    mov     dword ptr ds:[TSS_B+TS_EFLAGS], F_VM+3*F_IOPL+2
    mov     dword ptr ds:[TSS_B+TS_CS], CODE_BASE>>4
    mov     dword ptr ds:[TSS_B+TS_SS], STACK_BASE>>4
    mov     dword ptr ds:[TSS_B+TS_DS], (DATA_BASE>>4)+1
    RUN
    ljmp    S_TSS_B, 0
    .code16
1:  mov     al, ds:[0x20]
    int3
8:
    SHOWS   R_EAX, 0x30, 0xFF
    SHOWS   R_CS, CODE_BASE>>4, 0xFFFF
    SHOWS   R_EFLAGS, F_VM, F_VM
    TRAPS   BKPT

    CASE PM32+0, "a 16-bit task"
    PREPARE
    mov     word ptr ds:[TSS_16+T16_IP], offset 1f
    mov     word ptr ds:[TSS_16+T16_FLAGS], 2
    mov     word ptr ds:[TSS_16+T16_AX], 0x1234
    mov     word ptr ds:[TSS_16+T16_SP], 0x800
    mov     word ptr ds:[TSS_16+T16_ES], DATA
    mov     word ptr ds:[TSS_16+T16_CS], CODE16
    mov     word ptr ds:[TSS_16+T16_SS], STACK16
    mov     word ptr ds:[TSS_16+T16_DS], DATA
    mov     word ptr ds:[TSS_16+T16_LDT], S_LDT
    RUN
    lcall   S_TSS_16, 0
    .code16
1:  int3
8:
    SHOWS   R_EAX, 0x1234, 0xFFFF
    SHOWS   R_TR, S_TSS_16
    SHOWS   TSS_16, S_TSS_A, 0xFFFF
    SHOWS   R_FS, 0, 0xFFFF
    SHOWS   GDT+S_TSS_16+4, (P+A_BUSY16)<<8, 0xFF00
    TRAPS   BKPT

    CASE PM32+0, "with paging: a task switch loads CR3"
    PREPARE
    task_b  1f
    mov     dword ptr ds:[PAGE_DIRECTORY+0x1000+0x2000], 0
    mov     dword ptr ds:[TSS_B+TS_CR3], PAGE_DIRECTORY
    RUN
    ljmp    S_TSS_B, 0
1:  mov     ebx, cr3
    SHOWS   R_EBX, 0
    PASSES

    CASE PM32+0+PAGED, "with paging: a task switch loads CR3 from the new TSS"
    PREPARE
    task_b  1f
    mov     esi, PAGE_DIRECTORY
    mov     edi, SPARE_PAGES
    mov     ecx, 1024
    rep movsd
    mov     dword ptr ds:[TSS_B+TS_CR3], SPARE_PAGES
    RUN
    ljmp    S_TSS_B, 0
1:  mov     ebx, cr3
    SHOWS   R_EBX, SPARE_PAGES
    PASSES

# --- checks in front of the switch ----------------------------------------------------------------------------------------------

.macro tss_check cpl, name, instruction, selector, access, limit, verdict:vararg
    CASE PM32+\cpl, "\instruction to a TSS: \name"
    PREPARE
    task_b  1f
    tss_b   \access, \limit
    RUN
9:  l\instruction \selector, 0
1:
    SHOWS   R_TR, S_TSS_A
    \verdict
.endm
.irp instruction, jmp, call
    tss_check 0, "busy is #GP", \instruction, S_TSS_B, P+A_BUSY32, 0x67, FAULTS GP, S_TSS_B
    tss_check 0, "not present is #NP", \instruction, S_TSS_B, A_TSS32, 0x67, FAULTS NP, S_TSS_B
    tss_check 0, "a limit below 67h is #TS", \instruction, S_TSS_B, P+A_TSS32, 0x66, FAULTS TS, S_TSS_B
    tss_check 0, "busy and not present is #GP", \instruction, S_TSS_B, A_BUSY32, 0x67, FAULTS GP, S_TSS_B
    tss_check 3, "DPL below CPL is #GP", \instruction, S_TSS_B+3, P+A_TSS32, 0x67, FAULTS GP, S_TSS_B
    tss_check 0, "DPL below RPL is #GP", \instruction, S_TSS_B+1, P+A_TSS32, 0x67, FAULTS GP, S_TSS_B
    tss_check 2, "DPL below CPL is #GP in ring 2", \instruction, S_TSS_B, P+DPL1+A_TSS32, 0x67, FAULTS GP, S_TSS_B
.endr

.macro task_gate cpl, name, selector, gate, target, verdict:vararg
    CASE PM32+\cpl, "task gate: \name"
    PREPARE
    task_b  1f
    CALL_GATE T0, \target, 0, \gate
    RUN
9:  lcall   \selector, 0x1234
1:
    \verdict
.endm
.macro SWITCHED
    SHOWS   R_TR, S_TSS_B, 0xFFFC
    PASSES
.endm
    task_gate 0, "call", T0, P+A_TASK, S_TSS_B, SWITCHED
    task_gate 3, "the DPL of the TSS does not count", T0+3, P+DPL3+A_TASK, S_TSS_B, SWITCHED
    task_gate 3, "the RPL of its selector does not count", T0+3, P+DPL3+A_TASK, S_TSS_B+3, SWITCHED
    task_gate 3, "DPL below CPL is #GP", T0+3, P+DPL2+A_TASK, S_TSS_B, FAULTS GP, T0
    task_gate 0, "DPL below RPL is #GP", T0+1, P+A_TASK, S_TSS_B, FAULTS GP, T0
    task_gate 0, "not present is #NP", T0, A_TASK, S_TSS_B, FAULTS NP, T0
    task_gate 0, "a selector of the LDT is #GP", T0, P+A_TASK, L1, FAULTS GP, L1
    task_gate 0, "a selector beyond the GDT is #GP", T0, P+A_TASK, BEYOND_GDT, FAULTS GP, BEYOND_GDT
    task_gate 0, "a busy TSS is #GP", T0, P+A_TASK, S_TSS_A, FAULTS GP, S_TSS_A
    task_gate 0, "something else than a TSS is #GP", T0, P+A_TASK, DATA, FAULTS GP, DATA

    CASE PM32+3, "int through a task gate"
    PREPARE
    task_b  1f
    INTERRUPT_GATE 0x20, S_TSS_B, 0, P+DPL3+A_TASK
    RUN
    int     0x20
1:
    SHOWS   R_TR, S_TSS_B
    SHOWS   R_EFLAGS, F_NT, F_NT
    SHOWS   TSS_B, S_TSS_A, 0xFFFF
    PASSES

    CASE PM32+3, "an exception through a task gate pushes its error code on the stack of the new task"
    PREPARE
    task_b  1f
    INTERRUPT_GATE GP, S_TSS_B, 0, P+A_TASK
    RUN
2:  int     0x7F
1:  pop     eax
    SHOWS   R_EAX, 0x7F*8+2
    SHOWS   R_ESP, 0x800
    SHOWS   TSS_A+TS_CS, CODE32+27, 0xFFFF
    PASSES

    CASE PM32+3, "int through a task gate and iretd"
    PREPARE
    task_b  1f
    INTERRUPT_GATE 0x20, S_TSS_B, 0, P+DPL3+A_TASK
    RUN
    int     0x20
    jmp     2f
1:  iretd
3:  ud2
2:
    SHOWS   R_TR, S_TSS_A
    SHOWS   R_CS, CODE32+27
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE PM32+0, "the double fault through a task gate survives a lost stack"
    PREPARE
    task_b  1f
    INTERRUPT_GATE DF, S_TSS_B, 0, P+A_TASK
    RUN
    mov     esp, 4
    ud2
1:  pop     eax
    SHOWS   R_EAX, 0
    SHOWS   R_TR, S_TSS_B
    SHOWS   TSS_A+TS_ESP, 4
    PASSES

    CASE PM32+3, "int through a task gate to a busy TSS is #GP"
    PREPARE
    INTERRUPT_GATE 0x20, S_TSS_A, 0, P+DPL3+A_TASK
    RUN
9:  int     0x20
    FAULTS  GP, S_TSS_A

    CASE PM32+3, "int through a task gate to a TSS that is not present is #NP"
    PREPARE
    tss_b   A_TSS32
    INTERRUPT_GATE 0x20, S_TSS_B, 0, P+DPL3+A_TASK
    RUN
9:  int     0x20
    FAULTS  NP, S_TSS_B

# --- IRET with NT ---------------------------------------------------------------------------------------------------------------

.macro nested_return name, link, access, verdict:vararg
    CASE PM32+0, "iretd with NT: \name", F_NT
    PREPARE
    task_b  1f
    tss_b   \access
    mov     word ptr ds:[TSS_A], \link
    RUN
9:  iretd
1:
    \verdict
.endm
    nested_return "to a busy TSS", S_TSS_B, P+A_BUSY32, SWITCHED
    nested_return "a free TSS is #TS", S_TSS_B, P+A_TSS32, FAULTS TS, S_TSS_B
    nested_return "not present is #NP", S_TSS_B, A_BUSY32, FAULTS NP, S_TSS_B
    nested_return "a null link is #TS(0)", 0, P+A_BUSY32, FAULTS TS, 0
    nested_return "a link to the LDT is #TS", L1, P+A_BUSY32, FAULTS TS, L1
    nested_return "a link to data is #TS", DATA, P+A_BUSY32, FAULTS TS, DATA
    nested_return "a link beyond the GDT is #TS", BEYOND_GDT, P+A_BUSY32, FAULTS TS, BEYOND_GDT

    CASE PM32+3, "iretd with NT in ring 3 is a task return, too", F_NT
    PREPARE
    task_b  1f
    tss_b   P+A_BUSY32
    mov     word ptr ds:[TSS_A], S_TSS_B
    RUN
    iretd
1:
    SHOWS   R_TR, S_TSS_B
    SHOWS   GDT+S_TSS_A+4, (P+A_TSS32)<<8, 0xFF00
    SHOWS   GDT+S_TSS_B+4, (P+A_BUSY32)<<8, 0xFF00
    SHOWS   TSS_A+TS_EFLAGS, 0, F_NT
    PASSES

# --- faults in the new task -----------------------------------------------------------------------------------------------------

# A field of the new TSS is wrong: the fault comes in the new task, in front of its first instruction. #TS needs a task of
# its own to handle it (SDM Vol. 3A, "Interrupt 10 - Invalid TSS Exception"): SS may not be loaded yet.
.macro bad_task name, field, value, t0
    CASE PM32+0, "in the new task: \name"
    PREPARE
    task_b  1f
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, \t0
    mov     dword ptr ds:[TSS_B+\field], \value
    INTERRUPT_GATE TS, S_TSS_C, 0, P+A_TASK
    mov     dword ptr ds:[TSS_C+TS_ESP0], HANDLER_STACK
    mov     dword ptr ds:[TSS_C+TS_SS0], MON_DATA
    mov     dword ptr ds:[TSS_C+TS_EIP], offset 1f
    mov     dword ptr ds:[TSS_C+TS_EFLAGS], 2
    mov     dword ptr ds:[TSS_C+TS_ESP], 0x700
    mov     dword ptr ds:[TSS_C+TS_CS], CODE32
    mov     dword ptr ds:[TSS_C+TS_SS], STACK32
    mov     dword ptr ds:[TSS_C+TS_DS], DATA
    RUN
    ljmp    S_TSS_B, 0
1:  pop     eax
    SHOWS   R_EAX, (\value)&0xFFFC
    SHOWS   R_TR, S_TSS_C
    SHOWS   TSS_C, S_TSS_B, 0xFFFF
    SHOWS   GDT+S_TSS_B+4, (P+A_BUSY32)<<8, 0xFF00
    PASSES
.endm
    bad_task "an LDT selector that is data is #TS", TS_LDT, DATA, P+RW
    bad_task "an LDT selector of the LDT is #TS", TS_LDT, L1, P+RW
    bad_task "an LDT that is not present is #TS", TS_LDT, T0, A_LDT
    bad_task "an LDT beyond the GDT is #TS", TS_LDT, BEYOND_GDT, P+RW
    bad_task "CS that is data is #TS", TS_CS, DATA, P+RW
    bad_task "CS of another ring is #TS", TS_CS, CODE32+8, P+RW
    bad_task "CS beyond the GDT is #TS", TS_CS, BEYOND_GDT, P+RW
    bad_task "a null CS is #TS(0)", TS_CS, 0, P+RW
    bad_task "SS of another ring is #TS", TS_SS, STACK32+8, P+RW
    bad_task "a null SS is #TS(0)", TS_SS, 0, P+RW
    bad_task "SS that is code is #TS", TS_SS, T0, P+XR
    bad_task "ES that is execute-only code is #TS", TS_ES, T0, P+XO
    bad_task "FS beyond the GDT is #TS", TS_FS, BEYOND_GDT, P+RW
    bad_task "GS that is a system segment is #TS", TS_GS, S_LDT, P+RW
    bad_task "DS whose DPL is below its RPL is #TS", TS_DS, DATA+3, P+RW

    CASE PM32+0, "in the new task: DS that is not present is #NP"
    PREPARE
    task_b  9f
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, RW
    mov     dword ptr ds:[TSS_B+TS_DS], T0
    RUN
    ljmp    S_TSS_B, 0
9:
    SHOWS   R_TR, S_TSS_B
    FAULTS  NP, T0

    CASE PM32+0, "in the new task: EIP beyond the limit is #GP(0)"
    PREPARE
    task_b  1f
    mov     dword ptr ds:[TSS_B+TS_EIP], 0x20000
    RUN
    ljmp    S_TSS_B, 0
1:  int3
    SHOWS   R_TR, S_TSS_B
    end_of_case GP, 0, 0x20000

    CASE PM32+0, "in the new task: T of its TSS is a debug trap, with BT in DR6"
    PREPARE
    task_b  8f
    mov     dword ptr ds:[TSS_B+TS_TRAP], 1
    RUN
    ljmp    S_TSS_B, 0
8:
    SHOWS   R_DR6, 0x8000, 0xE00F
    SHOWS   R_TR, S_TSS_B
    TRAPS   DB

    CASE PM32+0, "from a 16-bit task to one of 32 bits: 16 bits of its registers are saved"
    PREPARE
    mov     ax, S_TSS_16
    ltr     ax
    task_b  1f
    RUN
    ljmp    S_TSS_B, 0
1:
    SHOWS   R_TR, S_TSS_B
    SHOWS   TSS_16+T16_AX, 0xA2A3, 0xFFFF
    SHOWS   TSS_16+T16_CS, CODE32, 0xFFFF
    SHOWS   TSS_16+T16_SP, STACK_TOP, 0xFFFF
    SHOWS   GDT+S_TSS_16+4, (P+A_TSS16)<<8, 0xFF00
    PASSES

    CASE PM32+0, "call of a task and a task return change CR0.TS only to set it"
    PREPARE
    task_b  1f
    RUN
    lcall   S_TSS_B, 0
    jmp     2f
1:  mov     ebx, cr0
    clts
    mov     ds:[0x40], ebx
    iretd
2:  mov     ecx, cr0
    SHOWS   R_ECX, 8, 8
    SHOWS   DATA_BASE+0x40, 8, 8
    PASSES

    CASE V86+3, "int in V86 through a task gate: VM and the segments are in the old TSS"
    PREPARE
    task_b  1f
    INTERRUPT_GATE 0x20, S_TSS_B, 0, P+DPL3+A_TASK
    RUN
    int     0x20
    .code32
1:
    SHOWS   R_TR, S_TSS_B
    SHOWS   R_EFLAGS, F_NT, F_NT+F_VM
    SHOWS   TSS_A+TS_EFLAGS, F_VM+3*F_IOPL, F_VM+3*F_IOPL
    SHOWS   TSS_A+TS_DS, DATA_BASE>>4, 0xFFFF
    SHOWS   TSS_A+TS_CS, CODE_BASE>>4, 0xFFFF
    PASSES

    CASE V86+3, "and back to V86 by iretd"
    PREPARE
    task_b  1f
    INTERRUPT_GATE 0x20, S_TSS_B, 0, P+DPL3+A_TASK
    RUN
    int     0x20
    mov     al, ds:[0x21]
    jmp     2f
    .code32
1:  iretd
    .code16
2:
    SHOWS   R_TR, S_TSS_A
    SHOWS   R_EFLAGS, F_VM, F_VM
    SHOWS   R_EAX, 0x21, 0xFF
    PASSES
