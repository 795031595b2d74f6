# Group 08: limits of code segments. A branch out of its segment faults at the branch, before anything is pushed.
#
# Sources: SDM Vol. 3A, "Limit Checking"; Vol. 2A, "CALL", "JMP", "Jcc", "INT n"; Vol. 2B, "LOOP", "RET".

.include "frame.inc"
    GROUP 0x0801

# Run in a code segment T0 of ring 3 whose limit is the byte in front of `beyond`; the code ends with it.
.macro in_short_code name, code, verdict:vararg
    CASE PM32+3, "\name"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0, P+DPL3+XR
    mov     word ptr ds:[GDT+T0], offset 2f-1
    RUN
    ljmp    T0+3, offset 1f
1:  push    0x77777777
    push    0x77777777
    pop     eax
    xor     ecx, ecx
    cmp     ecx, ecx
    mov     ebx, offset 2f
    mov     ds:[0x40], ebx
    \code
2:
    \verdict
.endm
# What the checks of a branch must leave alone.
.macro BRANCH_FAULT
    SHOWS   R_ESP, STACK_TOP-4
    FAULTS  GP, 0, T0+3
.endm
# SDM Vol. 2A, "CALL", has the check in front of the push. Bochs 2.7 pushes first and puts ESP back: Bochs is wrong.
.macro NO_PUSH
    SHOWS   STACK_BASE+3*STACK_STEP+STACK_TOP-8, 0x77777777
    BRANCH_FAULT
.endm
.macro LOOP_FAULT
    SHOWS   R_ECX, 0
    BRANCH_FAULT
.endm
    in_short_code "jmp rel8 beyond the limit is #GP(0)", "9: jmp 2f", BRANCH_FAULT
    in_short_code "jmp rel32 beyond the limit is #GP(0)", "9: .byte 0xE9; .long 0", BRANCH_FAULT
    in_short_code "jmp rel32 far beyond the limit is #GP(0)", "9: .byte 0xE9; .long 0x10000000", BRANCH_FAULT
    in_short_code "jmp of a register beyond the limit is #GP(0)", "9: jmp ebx", BRANCH_FAULT
    in_short_code "jmp of memory beyond the limit is #GP(0)", "9: jmp dword ptr ds:[0x40]", BRANCH_FAULT
    in_short_code "call rel32 beyond the limit is #GP(0)", "9: call 2f", BRANCH_FAULT
    in_short_code "call of a register beyond the limit is #GP(0)", "9: call ebx", BRANCH_FAULT
    in_short_code "call of memory beyond the limit is #GP(0)", "9: call dword ptr ds:[0x40]", BRANCH_FAULT
    in_short_code "jz beyond the limit is #GP(0)", "9: jz 2f", BRANCH_FAULT
    in_short_code "jz rel32 beyond the limit is #GP(0)", "9: .byte 0x0F, 0x84; .long 0", BRANCH_FAULT
    in_short_code "jecxz beyond the limit is #GP(0)", "9: jecxz 2f", BRANCH_FAULT
    in_short_code "loop beyond the limit is #GP(0)", "9: loop 2f", LOOP_FAULT
    in_short_code "far jmp within its segment beyond the limit is #GP(0)", "9: ljmp T0+3, offset 2f", BRANCH_FAULT
    in_short_code "far call within its segment beyond the limit is #GP(0)", "9: lcall T0+3, offset 2f", BRANCH_FAULT

    in_short_code "call rel32 beyond the limit writes nothing", "9: call 2f", NO_PUSH
    in_short_code "call of a register beyond the limit writes nothing", "9: call ebx", NO_PUSH
    in_short_code "call of memory beyond the limit writes nothing", "9: call dword ptr ds:[0x40]", NO_PUSH
    in_short_code "far call beyond the limit writes nothing", "9: lcall T0+3, offset 2f", NO_PUSH

    in_short_code "jnz that is not taken is not checked", "jnz 2f; .byte 0xCC; 8:", TRAPS BKPT
    in_short_code "code that runs on to the limit is #GP(0) behind it", "nop", 9: FAULTS GP, 0, T0+3

    CASE PM32+3, "ret beyond the limit is #GP(0) with ESP as it was"
    push    0x10000
9:  ret
    SHOWS   R_ESP, STACK_TOP-4
    FAULTS  GP, 0

    CASE PM32+3, "ret n beyond the limit is #GP(0) with ESP as it was"
    push    0x10000
9:  ret     8
    SHOWS   R_ESP, STACK_TOP-4
    FAULTS  GP, 0

    CASE PM32+3, "retf beyond the limit is #GP(0) with ESP as it was"
    push    CODE32+27
    push    0x10000
9:  retf
    SHOWS   R_ESP, STACK_TOP-8
    FAULTS  GP, 0

    CASE PM32+3, "iretd beyond the limit is #GP(0) with ESP as it was"
    push    2
    push    CODE32+27
    push    0x10000
9:  iretd
    SHOWS   R_ESP, STACK_TOP-12
    FAULTS  GP, 0

    CASE PM32+3, "an instruction across the limit is #GP(0) at its start"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0, P+DPL3+XR
    mov     word ptr ds:[GDT+T0], offset 1f+1
    RUN
    ljmp    T0+3, offset 1f
9:
1:  mov     eax, 0x12345678
    SHOWS   R_EAX, 0xA0A1A2A3
    FAULTS  GP, 0, T0+3

    CASE PM32+3, "an instruction that ends at the limit"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0, P+DPL3+XR
    mov     word ptr ds:[GDT+T0], offset 1f+4
    RUN
    ljmp    T0+3, offset 1f
1:  mov     eax, 0x12345678
9:
    SHOWS   R_EAX, 0x12345678
    FAULTS  GP, 0, T0+3

    CASE PM32+3, "branches with an operand size of 16 bits clear the upper half of EIP"
    data16 jmp 1f
9:  ud2
1:
    PASSES

    CASE PM16+3, "jmp ecx beyond FFFF in 16-bit code is #GP(0)"
    mov     ecx, 0x10000
9:  jmp     ecx
    FAULTS  GP, 0

    CASE PM16+3, "jmp cx uses 16 bits"
    mov     ecx, offset 1f
    or      ecx, 0x10000
    jmp     cx
9:  ud2
1:
    PASSES

    CASE PM16+3, "call ecx beyond FFFF in 16-bit code is #GP(0) with SP as it was"
    mov     ecx, 0x10000
9:  call    ecx
    SHOWS   R_ESP, STACK_TOP
    FAULTS  GP, 0

.irp iopl, 0, 3
    CASE V86+\iopl, "V86, IOPL \iopl: jmp ecx beyond FFFF is #GP(0)"
    mov     ecx, 0x10000
9:  jmp     ecx
    FAULTS  GP, 0

    CASE V86+\iopl, "V86, IOPL \iopl: retn of 32 bits beyond FFFF is #GP(0)"
    pushd   0x10000
9:  data32  ret
    SHOWS   R_ESP, STACK_TOP-4
    FAULTS  GP, 0
.endr
