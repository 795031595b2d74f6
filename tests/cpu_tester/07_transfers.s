# Group 09: far jumps, calls and returns, directly and through call gates.
#
# Sources: SDM Vol. 2A, "CALL", "JMP"; Vol. 2B, "RET"; Vol. 3A, "Privilege Level Checking When Transferring Program
# Control Between Code Segments", "Call Gates", "Stack Switching".

.include "frame.inc"
    GROUP 0x0901

# --- JMP and CALL to a code segment ----------------------------------------------------------------------------------------

# To T0 + RPL, code of some DPL. On success CS has the CPL, unchanged, as its RPL.
.macro far_case mode, instruction, name, cpl, selector, access, verdict:vararg
    CASE \mode, "\instruction, \name"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0xFFFF, \access
    RUN
9:  l\instruction \selector, offset 1f
1:
    \verdict
.endm
.macro ARRIVES cpl
    SHOWS   R_CS, T0+\cpl
    PASSES
.endm
.macro far_privilege instruction, cpl, rpl, dpl
    .if (\rpl <= \cpl) & (\dpl == \cpl)
    far_case PM32+\cpl, \instruction, "CPL \cpl, RPL \rpl, DPL \dpl", \cpl, T0+\rpl, P+(\dpl<<5)+XR, ARRIVES \cpl
    .else
    far_case PM32+\cpl, \instruction, "CPL \cpl, RPL \rpl, DPL \dpl", \cpl, T0+\rpl, P+(\dpl<<5)+XR, FAULTS GP, T0
    .endif
.endm
.macro far_conforming instruction, cpl, rpl, dpl
    .if \dpl <= \cpl
    far_case PM32+\cpl, \instruction, "conforming, CPL \cpl, RPL \rpl, DPL \dpl", \cpl, T0+\rpl, P+(\dpl<<5)+CONF_XR, ARRIVES \cpl
    .else
    far_case PM32+\cpl, \instruction, "conforming, CPL \cpl, RPL \rpl, DPL \dpl", \cpl, T0+\rpl, P+(\dpl<<5)+CONF_XR, FAULTS GP, T0
    .endif
.endm
.irp cpl, 0, 1, 2, 3
    .irp dpl, 0, 1, 2, 3
        .irp rpl, 0, 1, 2, 3
    far_privilege jmp, \cpl, \rpl, \dpl
        .endr
    far_privilege call, \cpl, \dpl, \dpl
    far_conforming jmp, \cpl, 3, \dpl
    far_conforming call, \cpl, 0, \dpl
    .endr
.endr
.irp instruction, jmp, call
    far_case PM32+3, \instruction, "execute-only", 3, T0+3, P+DPL3+XO, ARRIVES 3
    far_case PM32+3, \instruction, "data is #GP", 3, T0+3, P+DPL3+RW, FAULTS GP, T0
    far_case PM32+3, \instruction, "not present is #NP", 3, T0+3, DPL3+XR, FAULTS NP, T0
    far_case PM32+3, \instruction, "privilege comes before presence", 3, T0+3, DPL0+XR, FAULTS GP, T0
    far_case PM32+3, \instruction, "conforming, not present is #NP", 3, T0+3, DPL0+CONF_XR, FAULTS NP, T0
    far_case PM32+3, \instruction, "null is #GP(0)", 3, 3, P+DPL3+XR, FAULTS GP, 0
    far_case PM32+3, \instruction, "beyond the GDT is #GP", 3, BEYOND_GDT+3, P+DPL3+XR, FAULTS GP, BEYOND_GDT
    far_case PM32+3, \instruction, "beyond the LDT is #GP", 3, LDT_SIZE+7, P+DPL3+XR, FAULTS GP, LDT_SIZE+4
    far_case PM32+0, \instruction, "an LDT is #GP", 0, S_LDT, P+XR, FAULTS GP, S_LDT
.irp type, 0, 2, 6, 7, 8, 10, 13, 14, 15
    far_case PM32+0, \instruction, "system type \type is #GP", 0, T0, P+\type, FAULTS GP, T0
.endr
.endr

    CASE PM32+3, "call, far, through memory: pushes CS and EIP"
    mov     dword ptr ds:[0x40], offset 1f
    mov     word ptr ds:[0x44], CODE32+27
    call    fword ptr ds:[0x40]
2:  ud2
1:  pop     eax
    pop     ebx
    sub     eax, offset 2b
    SHOWS   R_EAX, 0
    SHOWS   R_EBX, CODE32+27, 0xFFFF
    PASSES

    CASE PM16+3, "call, far, in 16-bit code pushes words"
    lcall   CODE16+27, offset 1f
2:  ud2
1:  pop     eax
    sub     eax, offset 2b
    SHOWS   R_EAX, (CODE16+27)<<16
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE PM32+3, "jmp, far, to 16-bit code"
    ljmp    CODE16+27, offset 1f
    .code16
1:  mov     ax, 0x1234
    int3
8:  ud2
    SHOWS   R_EAX, 0xA0A11234
    SHOWS   R_CS, CODE16+27
    TRAPS   BKPT

# --- returns -----------------------------------------------------------------------------------------------------------------

# RETF to T0 + RPL. To an outer ring the stack has SS:ESP, too: T1 of some kind.
.macro return_case cpl, name, selector, access, stack, stack_access, verdict:vararg
    CASE PM32+\cpl, "retf, \name"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0xFFFF, \access
    DESCRIPTOR T1, DATA_BASE, 0xFFF, \stack_access
    RUN
    push    \stack
    push    0x800
    push    \selector
    push    offset 1f
9:  retf
1:
    \verdict
.endm
.macro RETURNS selector, stack
    SHOWS   R_CS, \selector
    SHOWS   R_SS, \stack
    SHOWS   R_ESP, 0x800
    PASSES
.endm
.macro REFUSED vector, error
    SHOWS   R_ESP, STACK_TOP-16
    FAULTS  \vector, \error
.endm
.irp cpl, 0, 1, 2
    .irp rpl, 1, 2, 3
    .if \rpl > \cpl
    return_case \cpl, "CPL \cpl to ring \rpl", T0+\rpl, P+(\rpl<<5)+XR, T1+\rpl, P+(\rpl<<5)+RW, RETURNS T0+\rpl, T1+\rpl
    return_case \cpl, "CPL \cpl to conforming code in ring \rpl", T0+\rpl, P+DPL0+CONF_XR, T1+\rpl, P+(\rpl<<5)+RW, RETURNS T0+\rpl, T1+\rpl
    return_case \cpl, "CPL \cpl to ring \rpl, DPL too low, is #GP", T0+\rpl, P+((\rpl-1)<<5)+XR, T1+\rpl, P+(\rpl<<5)+RW, REFUSED GP, T0
    .else
    return_case \cpl, "CPL \cpl to ring \rpl-1 is #GP", T0+\rpl-1, P+((\rpl-1)<<5)+XR, T1, P+RW, REFUSED GP, T0
    .endif
    .endr
.endr
    return_case 3, "CPL 3 to ring 0 is #GP", T0, P+XR, T1, P+RW, REFUSED GP, T0
    return_case 3, "null is #GP(0)", 3, P+DPL3+XR, T1, P+RW, REFUSED GP, 0
    return_case 3, "null is #GP(0), whatever the RPL", 0, P+DPL3+XR, T1, P+RW, REFUSED GP, 0
    return_case 3, "data is #GP", T0+3, P+DPL3+RW, T1, P+RW, REFUSED GP, T0
    return_case 3, "a system segment is #GP", T0+3, P+DPL3+A_CALL32, T1, P+RW, REFUSED GP, T0
    return_case 3, "not present is #NP", T0+3, DPL3+XR, T1, P+RW, REFUSED NP, T0
    return_case 3, "beyond the GDT is #GP", BEYOND_GDT+3, P+DPL3+XR, T1, P+RW, REFUSED GP, BEYOND_GDT
    return_case 2, "conforming, DPL above the RPL, is #GP", T0+2, P+DPL3+CONF_XR, T1, P+RW, REFUSED GP, T0
    return_case 0, "outward: a null stack is #GP(0)", T0+3, P+DPL3+XR, 3, P+DPL3+RW, REFUSED GP, 0
    return_case 0, "outward: a stack of another RPL is #GP", T0+3, P+DPL3+XR, T1+2, P+DPL3+RW, REFUSED GP, T1
    return_case 0, "outward: a stack of another DPL is #GP", T0+3, P+DPL3+XR, T1+3, P+DPL2+RW, REFUSED GP, T1
    return_case 0, "outward: a read-only stack is #GP", T0+3, P+DPL3+XR, T1+3, P+DPL3+RO, REFUSED GP, T1
    return_case 0, "outward: code for a stack is #GP", T0+3, P+DPL3+XR, T1+3, P+DPL3+XR, REFUSED GP, T1
    return_case 0, "outward: a stack that is not present is #SS", T0+3, P+DPL3+XR, T1+3, DPL3+RW, REFUSED SSF, T1
    return_case 0, "outward: a stack beyond the GDT is #GP", T0+3, P+DPL3+XR, BEYOND_GDT+3, P+DPL3+RW, REFUSED GP, BEYOND_GDT

    CASE PM32+0, "retf n to ring 3 drops n bytes of both stacks"
    push    STACK32+27
    push    0x800
    push    0x11111111
    push    0x22222222
    push    CODE32+27
    push    offset 1f
    retf    8
1:
    SHOWS   R_ESP, 0x808
    PASSES

    CASE PM32+0, "retf to ring 3 leaves null the data segments that it may not have, and keeps others"
    mov     eax, DATA
    mov     ds, eax
    mov     eax, DATA+24
    mov     es, eax
    mov     eax, CONF32
    mov     fs, eax
    mov     eax, CODE32
    mov     gs, eax
    push    STACK32+27
    push    0x800
    push    CODE32+27
    push    offset 1f
    retf
1:
    SHOWS   R_DS, 0, 0xFFFF
    SHOWS   R_ES, DATA+24, 0xFFFF
    SHOWS   R_FS, CONF32, 0xFFFF
    SHOWS   R_GS, 0, 0xFFFF
    PASSES

    CASE PM32+0, "a segment that a return to ring 3 left null is #GP(0)"
    mov     eax, DATA
    mov     ds, eax
    push    STACK32+27
    push    0x800
    push    CODE32+27
    push    offset 1f
    retf
1:
9:  mov     al, ds:[0x20]
    FAULTS  GP, 0, CODE32+27

    CASE PM32+3, "retf in the same ring loads CS and EIP"
    push    CODE32+27
    push    offset 1f
    retf
9:  ud2
1:
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE PM32+3, "retf of 16 bits loads words"
    push    (CODE32+27)<<16
    mov     word ptr [esp], offset 1f
    data16 retf
9:  ud2
1:
    SHOWS   R_ESP, STACK_TOP
    PASSES

# --- call gates: checks ------------------------------------------------------------------------------------------------------

# T0 is a gate to T1, which is described by `code`, with the offset of the test's second label.
.macro gate_case mode, instruction, name, selector, gate, target, code, verdict:vararg
    CASE \mode, "gate, \instruction: \name"
    PREPARE
    CALL_GATE T0, \target, 1f, \gate
    DESCRIPTOR T1, CODE_BASE, 0xFFFF, \code
    RUN
9:  l\instruction \selector, 0x1234
1:
    \verdict
.endm
.macro THROUGH cs
    SHOWS   R_CS, \cs
    PASSES
.endm
.macro gate_privilege instruction, cpl, rpl, dpl
    .if (\cpl <= \dpl) & (\rpl <= \dpl)
    gate_case PM32+\cpl, \instruction, "CPL \cpl, RPL \rpl, DPL \dpl", T0+\rpl, P+(\dpl<<5)+A_CALL32, T1, P+(\cpl<<5)+XR, THROUGH T1+\cpl
    .else
    gate_case PM32+\cpl, \instruction, "CPL \cpl, RPL \rpl, DPL \dpl", T0+\rpl, P+(\dpl<<5)+A_CALL32, T1, P+(\cpl<<5)+XR, FAULTS GP, T0
    .endif
.endm
.irp cpl, 0, 1, 2, 3
    .irp dpl, 0, 1, 2, 3
        .irp rpl, 0, 2, 3
    gate_privilege call, \cpl, \rpl, \dpl
        .endr
    gate_privilege jmp, \cpl, 1, \dpl
    .endr
.endr
.irp instruction, call, jmp
    gate_case PM32+3, \instruction, "not present is #NP", T0+3, DPL3+A_CALL32, T1, P+DPL3+XR, FAULTS NP, T0
    gate_case PM32+3, \instruction, "privilege comes before presence", T0+3, DPL2+A_CALL32, T1, P+DPL3+XR, FAULTS GP, T0
    gate_case PM32+3, \instruction, "a null target is #GP(0)", T0+3, P+DPL3+A_CALL32, 0, P+DPL3+XR, FAULTS GP, 0
    gate_case PM32+3, \instruction, "a target beyond the GDT is #GP", T0+3, P+DPL3+A_CALL32, BEYOND_GDT, P+DPL3+XR, FAULTS GP, BEYOND_GDT
    gate_case PM32+3, \instruction, "a target of data is #GP", T0+3, P+DPL3+A_CALL32, T1, P+DPL3+RW, FAULTS GP, T1
    gate_case PM32+3, \instruction, "a target that is a gate is #GP", T0+3, P+DPL3+A_CALL32, T0, P+DPL3+RW, FAULTS GP, T0
    gate_case PM32+3, \instruction, "a target that is not present is #NP", T0+3, P+DPL3+A_CALL32, T1, DPL3+XR, FAULTS NP, T1
    gate_case PM32+2, \instruction, "a target of an outer ring is #GP", T0+2, P+DPL3+A_CALL32, T1, P+DPL3+XR, FAULTS GP, T1
    gate_case PM32+2, \instruction, "a conforming target of an outer ring is #GP", T0+2, P+DPL3+A_CALL32, T1, P+DPL3+CONF_XR, FAULTS GP, T1
    gate_case PM32+3, \instruction, "a conforming target keeps the CPL", T0+3, P+DPL3+A_CALL32, T1, P+DPL0+CONF_XR, THROUGH T1+3
    gate_case PM32+3, \instruction, "the RPL of its target does not count", T0+3, P+DPL3+A_CALL32, T1+2, P+DPL3+XR, THROUGH T1+3
    gate_case PM32+3, \instruction, "of 16 bits", T0+3, P+DPL3+A_CALL16, T1, P+DPL3+XR, THROUGH T1+3
.endr
.irp dpl, 0, 1, 2
    gate_case PM32+3, jmp, "a target of inner ring \dpl is #GP", T0+3, P+DPL3+A_CALL32, T1, P+(\dpl<<5)+XR, FAULTS GP, T1
    gate_case PM32+3, call, "to ring \dpl", T0+3, P+DPL3+A_CALL32, T1+3, P+(\dpl<<5)+XR, THROUGH T1+\dpl
    gate_case PM16+3, call, "from 16-bit code to ring \dpl", T0+3, P+DPL3+A_CALL32, T1, P+(\dpl<<5)+XR, THROUGH T1+\dpl
.endr

    CASE PM32+3, "gate: an offset beyond the limit is #GP(0)"
    PREPARE
    CALL_GATE T0, T1, 1f, P+DPL3+A_CALL32
    DESCRIPTOR T1, CODE_BASE, 0xFF, P+DPL3+XR
    RUN
9:  lcall   T0+3, 0
1:
    SHOWS   R_ESP, STACK_TOP
    FAULTS  GP, 0

# --- call gates: stacks --------------------------------------------------------------------------------------------------------

    CASE PM32+3, "gate to ring 1: the new stack has SS, ESP, parameters, CS and EIP"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32, 2
    RUN
    push    0x11111111
    push    0x22222222
    lcall   T0+3, 0
2:
1:  mov     eax, [esp]
    sub     eax, offset 2b
    mov     ebx, [esp+4]
    mov     ecx, [esp+8]
    mov     edx, [esp+12]
    mov     esi, [esp+16]
    mov     edi, [esp+20]
    SHOWS   R_EAX, 0
    SHOWS   R_EBX, CODE32+27, 0xFFFF
    SHOWS   R_ECX, 0x22222222
    SHOWS   R_EDX, 0x11111111
    SHOWS   R_ESI, STACK_TOP-8
    SHOWS   R_EDI, STACK32+27, 0xFFFF
    SHOWS   R_SS, STACK32+9
    SHOWS   R_ESP, STACK_TOP-24
    PASSES

    CASE PM32+3, "gate of 16 bits to ring 1: words on the new stack"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL16, 2
    RUN
    push    0x22221111
    lcall   T0+3, 0
2:
1:  movzx   eax, word ptr [esp]
    sub     eax, offset 2b
    mov     ebx, [esp+2]
    mov     ecx, [esp+6]
    mov     edx, [esp+8]
    SHOWS   R_EAX, 0
    SHOWS   R_EBX, (0x1111<<16)+CODE32+27
    SHOWS   R_ECX, 0x2222, 0xFFFF
    SHOWS   R_EDX, ((STACK32+27)<<16)+STACK_TOP-4
    SHOWS   R_ESP, STACK_TOP-12
    PASSES

    CASE PM32+3, "gate to ring 1 and back with retf n"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32, 1
    RUN
    push    0x11111111
    lcall   T0+3, 0
    jmp     2f
1:  mov     eax, [esp+8]
    retf    4
2:
    SHOWS   R_EAX, 0x11111111
    SHOWS   R_CS, CODE32+27
    SHOWS   R_SS, STACK32+27
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE PM32+3, "gate: 31 parameters"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32, 0x1F
    RUN
    mov     esp, STACK_TOP-0x80
    mov     dword ptr [esp+0x78], 0x31313131
    lcall   T0+3, 0
1:  mov     eax, [esp+8+0x78]
    SHOWS   R_EAX, 0x31313131
    SHOWS   R_ESP, STACK_TOP-0x8C
    PASSES

    CASE PM32+3, "gate: a parameter beyond the limit of the old stack is #SS(0)"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32, 1
    RUN
9:  lcall   T0+3, 0
1:
    SHOWS   R_ESP, STACK_TOP
    FAULTS  SSF, 0

    CASE PM32+3, "gate: no room on the new stack is #SS with its selector"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32
    mov     dword ptr ds:[TSS_A+0x0C], 12
    RUN
9:  lcall   T0+3, 0
1:
    SHOWS   R_ESP, STACK_TOP
    SHOWS   R_SS, STACK32+27
    FAULTS  SSF, STACK32+8

# The new stack, SS1 of the TSS, described in T1.
.macro new_stack name, selector, access, verdict:vararg
    CASE PM32+3, "gate: \name"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32
    DESCRIPTOR T1, STACK_BASE+STACK_STEP, STACK_TOP-1, \access
    mov     dword ptr ds:[TSS_A+0x10], \selector
    RUN
9:  lcall   T0+3, 0
1:
    \verdict
.endm
    new_stack "a new stack", T1+1, P+DPL1+RW, THROUGH CODE32+9
    new_stack "a null new stack is #TS(0)", 0, P+DPL1+RW, FAULTS TS, 0
    new_stack "a new stack of another RPL is #TS", T1, P+DPL1+RW, FAULTS TS, T1
    new_stack "a new stack of another DPL is #TS", T1+1, P+DPL0+RW, FAULTS TS, T1
    new_stack "a read-only new stack is #TS", T1+1, P+DPL1+RO, FAULTS TS, T1
    new_stack "code for a new stack is #TS", T1+1, P+DPL1+XR, FAULTS TS, T1
    new_stack "a new stack that is not present is #SS", T1+1, DPL1+RW, FAULTS SSF, T1
    new_stack "a new stack beyond the GDT is #TS", BEYOND_GDT+1, P+DPL1+RW, FAULTS TS, BEYOND_GDT
    new_stack "a new stack beyond the LDT is #TS", LDT_SIZE+5, P+DPL1+RW, FAULTS TS, LDT_SIZE+4

    CASE PM32+3, "gate: a TSS without room for the new stack is #TS with the TSS"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32
    DESCRIPTOR T1, TSS_A, 0x10, P+A_TSS32, 0
    mov     ax, T1
    ltr     ax
    RUN
9:  lcall   T0+3, 0
1:
    FAULTS  TS, T1

    CASE PM32+3, "gate: ring 0 through a 16-bit TSS takes SP0 and SS0 as words"
    PREPARE
    CALL_GATE T0, CODE32+8, 1f, P+DPL3+A_CALL32
    mov     word ptr ds:[TSS_16+2], HANDLER_STACK
    mov     word ptr ds:[TSS_16+4], MON_DATA
    mov     word ptr ds:[TSS_16+6], 0x900
    mov     word ptr ds:[TSS_16+8], STACK32+9
    mov     ax, S_TSS_16
    ltr     ax
    RUN
    lcall   T0+3, 0
1:
    SHOWS   R_CS, CODE32+9
    SHOWS   R_SS, STACK32+9
    SHOWS   R_ESP, 0x900-16
    PASSES

.irp instruction, lcall, ljmp
    CASE PM32+3, "\instruction through a 16-bit gate: the upper word of its offset does not count"
    PREPARE
    CALL_GATE T0, CODE32+27, 1f, P+DPL3+A_CALL16
    mov     word ptr ds:[GDT+T0+6], 0xFFFF
    RUN
    \instruction T0+3, 0
    ud2
1:
    SHOWS   R_CS, CODE32+27
    PASSES
.endr
