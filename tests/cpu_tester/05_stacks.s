# Group 07: the limits of stacks in protected mode. Ring 3 tests them, so that the frame of the fault is on another stack.
#
# Sources: SDM Vol. 3A, "Limit Checking", "Stack Segment"; Vol. 2, PUSH, POP, PUSHA, POPA, ENTER, LEAVE, CALL, RET.

.include "frame.inc"
    GROUP 0x0701

# SS = T0 of ring 3, described by base, limit, access and size; ESP as given. `code` follows, with its verdict.
.macro with_stack mode, name, base, limit, access, size, esp, code, verdict:vararg
    CASE \mode, "\name"
    PREPARE
    DESCRIPTOR T0, \base, \limit, P+DPL3+\access, \size
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, \esp
9:  \code
    \verdict
.endm
.macro SS_FAULT esp
    SHOWS   R_ESP, \esp
    FAULTS  SSF, 0
.endm

# A 32-bit stack of 4 KiB.
.macro small_stack name, esp, code, verdict:vararg
    with_stack PM32+3, "\name", DATA_BASE, 0xFFF, RW, B32, \esp, "\code", \verdict
.endm
    small_stack "push at ESP = 0 is #SS(0)", 0, "push eax", SS_FAULT 0
    small_stack "push at ESP = 2 is #SS(0)", 2, "push eax", SS_FAULT 2
    small_stack "push of 16 bits at ESP = 1 is #SS(0)", 1, "push ax", SS_FAULT 1
    small_stack "push at ESP = 4", 4, "push eax", PASSES
    small_stack "push of 16 bits at ESP = 2", 2, "push ax", PASSES
    small_stack "push at ESP = 1001 is #SS(0)", 0x1001, "push eax", SS_FAULT 0x1001
    small_stack "push imm8 at ESP = 3 is #SS(0)", 3, "push 1", SS_FAULT 3
    small_stack "push of memory at ESP = 3 is #SS(0)", 3, "push dword ptr ds:[0]", SS_FAULT 3
    small_stack "push of a segment register at ESP = 0 is #SS(0)", 0, "push fs", SS_FAULT 0
    small_stack "pushfd at ESP = 0 is #SS(0)", 0, "pushfd", SS_FAULT 0
    small_stack "pushad at ESP = 1C is #SS(0)", 0x1C, "pushad", SS_FAULT 0x1C
    small_stack "pushad at ESP = 20", 0x20, "pushad", PASSES
    small_stack "pop at ESP = FFD is #SS(0)", 0xFFD, "pop ebx", SS_FAULT 0xFFD
    small_stack "pop at ESP = 1000 is #SS(0)", 0x1000, "pop ebx", SS_FAULT 0x1000
    small_stack "pop at ESP = FFC", 0xFFC, "pop ebx", PASSES
    small_stack "pop to memory at ESP = 1000 is #SS(0)", 0x1000, "pop dword ptr ds:[0x40]", SS_FAULT 0x1000
    small_stack "pop of a segment register at ESP = 1000 is #SS(0)", 0x1000, "pop fs", SS_FAULT 0x1000
    small_stack "popfd at ESP = 1000 is #SS(0)", 0x1000, "popfd", SS_FAULT 0x1000
    small_stack "popad at ESP = FE4 is #SS(0)", 0xFE4, "popad", SS_FAULT 0xFE4
    small_stack "ret at ESP = 1000 is #SS(0)", 0x1000, "ret", SS_FAULT 0x1000
    small_stack "ret n at ESP = 1000 is #SS(0)", 0x1000, "ret 8", SS_FAULT 0x1000
    small_stack "retf at ESP = FFC is #SS(0)", 0xFFC, "retf", SS_FAULT 0xFFC
    small_stack "iretd at ESP = FF8 is #SS(0)", 0xFF8, "iretd", SS_FAULT 0xFF8
    small_stack "call at ESP = 0 is #SS(0)", 0, "call 1f; 1:", SS_FAULT 0
    small_stack "a far call at ESP = 4 is #SS(0)", 4, "lcall CODE32+27, offset 1f; 1:", SS_FAULT 4
    small_stack "enter at ESP = 0 is #SS(0)", 0, "enter 0, 0", SS_FAULT 0
    small_stack "reading [esp] at the limit", 0x1000, "mov al, [esp-1]", PASSES
    small_stack "reading [esp] beyond the limit is #SS(0)", 0x1000, "mov al, [esp]", SS_FAULT 0x1000
    small_stack "writing [esp] beyond the limit is #SS(0)", 0xFFE, "mov [esp], eax", SS_FAULT 0xFFE

    CASE PM32+3, "popad that faults has changed no register"
    mov     esp, STACK_TOP-0x1C
9:  popad
    SHOWS   R_EBX, 0xB0B1B2B3
    SHOWS   R_EDI, 0xD4D5D6D7
    FAULTS  SSF, 0

    CASE PM32+3, "leave beyond the limit is #SS(0) with ESP and EBP as they were"
    mov     ebp, STACK_TOP
9:  leave
    SHOWS   R_ESP, STACK_TOP
    SHOWS   R_EBP, STACK_TOP
    FAULTS  SSF, 0

    CASE PM32+3, "enter that reads a frame pointer beyond the limit is #SS(0) with ESP and EBP as they were"
    mov     ebp, STACK_TOP+8
9:  enter   0, 3
    SHOWS   R_ESP, STACK_TOP
    SHOWS   R_EBP, STACK_TOP+8
    FAULTS  SSF, 0

    CASE PM32+3, "enter with level 3"
    mov     ebp, 0x800
    mov     dword ptr [ebp-4], 0x11111111
    mov     dword ptr [ebp-8], 0x22222222
    enter   8, 3
    mov     eax, [ebp-4]
    mov     ebx, [ebp-8]
    mov     ecx, [ebp-12]
    SHOWS   R_EAX, 0x11111111
    SHOWS   R_EBX, 0x22222222
    SHOWS   R_ECX, STACK_TOP-4
    SHOWS   R_EBP, STACK_TOP-4
    SHOWS   R_ESP, STACK_TOP-24
    PASSES

    CASE PM32+3, "enter takes its level modulo 32"
    enter   8, 0x20
    SHOWS   R_EBP, STACK_TOP-4
    SHOWS   R_ESP, STACK_TOP-12
    PASSES

.irp seg, ebp, esp
    CASE PM32+3, "[\seg] beyond the limit is #SS(0)"
    mov     \seg, STACK_TOP
9:  add     dword ptr [\seg], 1
    mov     esp, 0x800
    FAULTS  SSF, 0

    CASE PM32+3, "[\seg] with a DS override is checked by DS"
    mov     \seg, 0x40
    mov     al, ds:[\seg]
    mov     esp, 0x800
    SHOWS   R_EAX, 0x40, 0xFF
    PASSES
.endr

    CASE PM32+3, "an access beyond the limit with an SS override is #SS(0)"
    mov     ebx, STACK_TOP
9:  mov     al, ss:[ebx]
    FAULTS  SSF, 0

    CASE PM32+0, "in ring 0, too"
    mov     ebx, STACK_TOP
9:  mov     al, ss:[ebx]
    FAULTS  SSF, 0

# 16-bit stacks: SP counts, and wraps at 64 KiB.
.macro stack16 name, limit, access, esp, code, verdict:vararg
    with_stack PM32+3, "\name", DATA_BASE, \limit, \access, B16, \esp, "\code", \verdict
.endm
    stack16 "16-bit stack: push at SP = 0 with limit FFF is #SS(0)", 0xFFF, RW, 0, "push eax", SS_FAULT 0
    stack16 "16-bit stack: push at SP = 2 with limit FFFF is #SS(0)", 0xFFFF, RW, 2, "push eax", SS_FAULT 2
    stack16 "16-bit stack: pop at SP = FFFE with limit FFFF is #SS(0)", 0xFFFF, RW, 0xFFFE, "pop ebx", SS_FAULT 0xFFFE
    stack16 "16-bit stack: pop at SP = FFFC", 0xFFFF, RW, 0xFFFC, "pop ebx", PASSES
    stack16 "16-bit stack: call at SP = 2 with limit FFFF is #SS(0)", 0xFFFF, RW, 2, "call 1f; 1:", SS_FAULT 2
    stack16 "16-bit stack, down: push to the limit is #SS(0)", 0xFF, DOWN_RW, 0x102, "push eax", SS_FAULT 0x102
    stack16 "16-bit stack, down: push above the limit", 0xFF, DOWN_RW, 0x104, "push eax", PASSES
    stack16 "16-bit stack, down: push at SP = 0 goes to FFFC", 0xFF, DOWN_RW, 0, "push eax", PASSES
    with_stack PM32+3, "32-bit stack, down: push to the limit is #SS(0)", DATA_BASE, 0xFF, DOWN_RW, B32, 0x102, "push eax", SS_FAULT 0x102
    with_stack PM32+3, "32-bit stack, down: push above the limit", DATA_BASE, 0xFF, DOWN_RW, B32, 0x104, "push eax", PASSES

    CASE PM32+3, "16-bit stack: push at SP = 0 goes to FFFC and keeps the upper half of ESP"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW, B16
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, 0xABCD0000
    push    0x12345678
    mov     ebx, esp
    mov     esp, 0x800
    SHOWS   DATA_BASE+0xFFFC, 0x12345678
    SHOWS   R_EBX, 0xABCDFFFC
    PASSES

    CASE PM32+3, "16-bit stack: the upper half of ESP does not address"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW, B16
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, 0xABCD0040
    pop     ebx
    call    1f
1:  pop     ecx
    mov     edx, esp
    SHOWS   R_EBX, 0x43424140
    SHOWS   R_EDX, 0xABCD0044
    PASSES

    CASE PM32+3, "16-bit stack: [esp] uses all of ESP"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW, B16
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, 0x10040
9:  mov     ebx, [esp]
    FAULTS  SSF, 0

    CASE PM16+3, "32-bit stack in 16-bit code: push ax goes 2 lower"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFFF, P+DPL3+RW, B32
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, 0x10000
    push    ax
    mov     ebx, esp
    SHOWS   R_EBX, 0xFFFE
    SHOWS   DATA_BASE+0xFFFC, (T0+3)<<16
    PASSES

    CASE PM16+3, "32-bit stack in 16-bit code: pop at the limit is #SS(0)"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFF, P+DPL3+RW, B32
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, 0xFFF
9:  pop     bx
    SHOWS   R_ESP, 0xFFF
    FAULTS  SSF, 0

    CASE PM32+3, "pop [esp+n] uses ESP after the pop"
    push    0x11111111
    push    0x22222222
    pop     dword ptr [esp]
    SHOWS   R_ESP, STACK_TOP-4
    SHOWS   STACK_BASE+3*STACK_STEP+STACK_TOP-4, 0x22222222
    PASSES

    CASE PM32+3, "pop whose destination is refused leaves ESP"
    push    0x11111111
    mov     ebx, 0x10000
9:  pop     dword ptr [ebx]
    SHOWS   R_ESP, STACK_TOP-4
    FAULTS  GP, 0

    CASE PM32+3, "push whose source is refused leaves ESP"
    mov     ebx, 0x10000
9:  push    dword ptr [ebx]
    SHOWS   R_ESP, STACK_TOP
    FAULTS  GP, 0

    CASE PM32+3, "an interrupt from ring 3 does not need the stack of ring 3"
    mov     esp, 1
    SHOWS   R_ESP, 1
    PASSES

    CASE PM32+0, "an exception in ring 0 without room on its stack is a double fault, and without that a shutdown"
    mov     esp, 4
    ud2
    SHUTS_DOWN

# ENTER whose operand and stack have different sizes: the operand decides the width of the frame pointer.
.macro mixed_enter name, size, esp, code, ebp, after
    CASE PM32+3, "\name"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW, \size
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, \esp
    mov     ebp, 0xABCD8000
    \code
    mov     eax, esp
    mov     ebx, ebp
    mov     esp, 0x800
    SHOWS   R_EAX, \after
    SHOWS   R_EBX, \ebp
.endm
    mixed_enter "16-bit stack: enter of 32 bits sets all of EBP", B16, 0x56780100, "enter 8, 0", 0x567800FC, 0x567800F4
    SHOWS   DATA_BASE+0xFC, 0xABCD8000
    PASSES

    mixed_enter "16-bit stack: enter of 32 bits pushes all of its frame pointer", B16, 0x56780000, "enter 8, 1", 0x5678FFFC, 0x5678FFF0
    SHOWS   DATA_BASE+0xFFFC, 0xABCD8000
    SHOWS   DATA_BASE+0xFFF8, 0x5678FFFC
    PASSES

    mixed_enter "16-bit stack: enter of 32 bits copies frame pointers from where BP points", B16, 0x56780100, "mov dword ptr ds:[0x20], 0x13579BDF; mov bp, 0x24; enter 0, 2", 0x567800FC, 0x567800F4
    SHOWS   DATA_BASE+0xFC, 0xABCD0024
    SHOWS   DATA_BASE+0xF4, 0x567800FC
    PASSES

    mixed_enter "32-bit stack: enter of 16 bits sets BP alone", B32, 0x100, "data16 enter 8, 0", 0xABCD00FE, 0xF6
    SHOWS   DATA_BASE+0xFC, 0x8000FDFC
    PASSES

    mixed_enter "32-bit stack: enter of 16 bits copies words from where EBP points", B32, 0x100, "mov ebp, 0x44; data16 enter 4, 3", 0xFE, 0xF4
    SHOWS   DATA_BASE+0xFC, 0x00444342
    SHOWS   DATA_BASE+0xF8, 0x414000FE
    PASSES

    CASE PM32+3, "16-bit stack: enter of 32 bits whose new top is beyond the limit changes nothing"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFF, P+DPL3+RW, B16
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, 0x12340100
    mov     ebp, 0xABCD8000
9:  enter   0x200, 0
    SHOWS   R_ESP, 0x12340100
    SHOWS   R_EBP, 0xABCD8000
    FAULTS  SSF, 0
