# Group 0B: interrupts, exceptions and IRET in protected mode, with their checks, frames and error codes.
#
# Sources: SDM Vol. 2A, "INT n/INTO/INT3", "IRET/IRETD"; Vol. 3A, "Exception- and Interrupt-Handler Procedures", "Error
# Code", "Interrupt 8 - Double Fault Exception".

.include "frame.inc"
    GROUP 0x0B01

.equ IDT_BIT, 2                         # in error codes; EXT is bit 0
.equ EXT, 1
.equ V20, 0x20*8+IDT_BIT

# INT 20h through a gate to `target`; T1 is code with these access rights. The handler is the end of the test.
.macro int_case mode, name, gate, target, code, verdict:vararg
    CASE \mode, "int: \name"
    PREPARE
    INTERRUPT_GATE 0x20, \target, 1f, \gate
    DESCRIPTOR T1, CODE_BASE, 0xFFFF, \code
    RUN
9:  int     0x20
1:
    \verdict
.endm
.macro HANDLED cs
    SHOWS   R_CS, \cs
    PASSES
.endm
.irp cpl, 0, 1, 2, 3
    .irp dpl, 0, 1, 2, 3
    .if \cpl <= \dpl
    int_case PM32+\cpl, "CPL \cpl, gate of DPL \dpl", P+(\dpl<<5)+A_INT32, T1, P+(\cpl<<5)+XR, HANDLED T1+\cpl
    int_case PM16+\cpl, "16 bits, CPL \cpl, gate of DPL \dpl", P+(\dpl<<5)+A_INT32, T1, P+(\cpl<<5)+XR, HANDLED T1+\cpl
    .else
    int_case PM32+\cpl, "CPL \cpl, gate of DPL \dpl is #GP", P+(\dpl<<5)+A_INT32, T1, P+(\cpl<<5)+XR, FAULTS GP, V20
    .endif
    .if \dpl <= \cpl
    int_case PM32+\cpl, "CPL \cpl to ring \dpl", P+DPL3+A_TRAP32, T1+3, P+(\dpl<<5)+XR, HANDLED T1+\dpl
    int_case PM32+\cpl, "CPL \cpl to conforming code of DPL \dpl", P+DPL3+A_TRAP32, T1, P+(\dpl<<5)+CONF_XR, HANDLED T1+\cpl
    .else
    int_case PM32+\cpl, "CPL \cpl to outer ring \dpl is #GP", P+DPL3+A_TRAP32, T1+3, P+(\dpl<<5)+XR, FAULTS GP, T1
    int_case PM32+\cpl, "CPL \cpl to outer conforming code of DPL \dpl is #GP", P+DPL3+A_TRAP32, T1, P+(\dpl<<5)+CONF_XR, FAULTS GP, T1
    .endif
    .endr
.endr
.irp type, 0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 0x12, 0x16, 0x1E
    int_case PM32+0, "a gate of type \type is #GP", P+\type, CODE32, P+XR, FAULTS GP, V20
.endr
    int_case PM32+3, "a gate that is not present is #NP", DPL3+A_INT32, CODE32, P+XR, FAULTS NP, V20
    int_case PM32+3, "privilege comes before presence", A_INT32, CODE32, P+XR, FAULTS GP, V20
    int_case PM32+3, "a null target is #GP(0)", P+DPL3+A_INT32, 0, P+XR, FAULTS GP, 0
    int_case PM32+3, "a target beyond the GDT is #GP", P+DPL3+A_INT32, BEYOND_GDT, P+XR, FAULTS GP, BEYOND_GDT
    int_case PM32+3, "a target of data is #GP", P+DPL3+A_INT32, T1, P+RW, FAULTS GP, T1
    int_case PM32+3, "a target that is a gate is #GP", P+DPL3+A_INT32, T1, P+A_CALL32, FAULTS GP, T1
    int_case PM32+3, "a target that is not present is #NP", P+DPL3+A_INT32, T1, XR, FAULTS NP, T1
    int_case PM32+3, "an execute-only target", P+DPL3+A_INT32, T1, P+XO, HANDLED T1
    int_case PM32+3, "a target in the LDT beyond its limit is #GP", P+DPL3+A_INT32, LDT_SIZE+4, P+XO, FAULTS GP, LDT_SIZE+4

    CASE PM32+0, "int beyond the limit of the IDT is #GP"
9:  int     VECTORS
    FAULTS  GP, VECTORS*8+IDT_BIT

    CASE PM32+3, "int beyond the limit of the IDT is #GP in ring 3"
9:  int     0xFF
    FAULTS  GP, 0xFF*8+IDT_BIT

    CASE PM32+0, "the last byte of a gate must be within the IDT"
    PREPARE
    mov     dword ptr ds:[RECORD-8], ((8*0x20+6)<<16)
    mov     dword ptr ds:[RECORD-4], IDT
    lidt    ds:[RECORD-6]
    INTERRUPT_GATE 0x20, CODE32, 1f, P+A_INT32
    RUN
9:  int     0x20
1:
    FAULTS  GP, V20

    CASE PM32+3, "int: an offset beyond the limit of its code is #GP(0)"
    PREPARE
    INTERRUPT_GATE 0x20, T1, 1f, P+DPL3+A_INT32
    DESCRIPTOR T1, CODE_BASE, 0x10, P+XR
    RUN
9:  int     0x20
1:
    FAULTS  GP, 0

.irp instruction, int3, into, "int 3"
    CASE PM32+3, "\instruction through a gate of DPL 0 is #GP"
    PREPARE
    and     byte ptr ds:[IDT + 8*BKPT + 5], 0x9F
    and     byte ptr ds:[IDT + 8*OF + 5], 0x9F
    RUN
    mov     al, 0x7F
    inc     al
9:  \instruction
    SHOWS   R_ERROR, IDT_BIT, 7
    .ifc    \instruction, into
    end_of_case GP, OF*8+IDT_BIT, 9b
    .else
    end_of_case GP, BKPT*8+IDT_BIT, 9b
    .endif
.endr

    CASE PM32+3, "exceptions do not look at the DPL of their gate"
    xor     ecx, ecx
9:  div     ecx
    FAULTS  DE, NONE

# --- frames ---------------------------------------------------------------------------------------------------------------

    CASE PM32+3, "an interrupt gate clears IF, TF, NT and RF and pushes them", F_IF+F_NT+3*F_IOPL
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    RUN
    stc
    int     0x20
2:
1:  pushfd
    pop     eax
    mov     ebx, [esp]
    sub     ebx, offset 2b
    mov     ecx, [esp+4]
    mov     edx, [esp+8]
    mov     esi, [esp+12]
    mov     edi, [esp+16]
    push    2
    popfd
    SHOWS   R_EAX, 3*F_IOPL, F_IF+F_TF+F_NT+F_RF+F_VM+3*F_IOPL
    SHOWS   R_EBX, 0
    SHOWS   R_ECX, CODE32+27, 0xFFFF
    SHOWS   R_EDX, F_IF+F_NT+3*F_IOPL+2, 0x3F7202
    SHOWS   R_ESI, STACK_TOP
    SHOWS   R_EDI, STACK32+27, 0xFFFF
    SHOWS   R_SS, STACK32+9
    SHOWS   R_ESP, STACK_TOP-20
    PASSES

    CASE PM32+3, "a trap gate leaves IF", F_IF+3*F_IOPL
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_TRAP32
    RUN
    int     0x20
1:  pushfd
    pop     eax
    cli
    SHOWS   R_EAX, F_IF, F_IF
    PASSES

    CASE PM32+0, "in the same ring the frame is EFLAGS, CS and EIP"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32, 1f, P+DPL3+A_INT32
    RUN
    int     0x20
2:
1:  mov     ebx, [esp]
    sub     ebx, offset 2b
    mov     ecx, [esp+4]
    SHOWS   R_EBX, 0
    SHOWS   R_ECX, CODE32, 0xFFFF
    SHOWS   R_ESP, STACK_TOP-12
    PASSES

    CASE PM32+3, "a 16-bit gate pushes words"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT16
    RUN
    int     0x20
2:
1:  movzx   ebx, word ptr [esp]
    sub     ebx, offset 2b
    mov     ecx, [esp+2]
    mov     edx, [esp+6]
    SHOWS   R_EBX, 0
    SHOWS   R_ECX, (2<<16)+CODE32+27, 0x3F02FFFF
    SHOWS   R_EDX, ((STACK32+27)<<16)+STACK_TOP
    SHOWS   R_ESP, STACK_TOP-10
    PASSES

    CASE PM32+3, "an exception through a 16-bit gate pushes its error code as a word"
    PREPARE
    INTERRUPT_GATE GP, CODE32+8, 1f, P+A_INT16
    RUN
    int     0x7F
1:  movzx   eax, word ptr [esp]
    SHOWS   R_EAX, 0x7F*8+IDT_BIT
    SHOWS   R_ESP, STACK_TOP-12
    PASSES

    CASE PM32+3, "an exception with an error code pushes it last"
    PREPARE
    INTERRUPT_GATE GP, CODE32+8, 1f, P+A_INT32
    RUN
2:  int     0x7F
1:  mov     eax, [esp]
    mov     ebx, [esp+4]
    sub     ebx, offset 2b
    SHOWS   R_EAX, 0x7F*8+IDT_BIT
    SHOWS   R_EBX, 0
    SHOWS   R_ESP, STACK_TOP-24
    PASSES

# The new stack, SS1 of the TSS, described in T1.
.macro int_stack name, selector, access, verdict:vararg
    CASE PM32+3, "int to ring 1: \name"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    DESCRIPTOR T1, STACK_BASE+STACK_STEP, STACK_TOP-1, \access
    mov     dword ptr ds:[TSS_A+0x10], \selector
    RUN
9:  int     0x20
1:
    \verdict
.endm
    int_stack "a stack", T1+1, P+DPL1+RW, HANDLED CODE32+9
    int_stack "a null stack is #TS(0)", 0, P+DPL1+RW, FAULTS TS, 0
    int_stack "a stack of another RPL is #TS", T1, P+DPL1+RW, FAULTS TS, T1
    int_stack "a stack of another DPL is #TS", T1+1, P+DPL0+RW, FAULTS TS, T1
    int_stack "a read-only stack is #TS", T1+1, P+DPL1+RO, FAULTS TS, T1
    int_stack "code for a stack is #TS", T1+1, P+DPL1+XR, FAULTS TS, T1
    int_stack "a stack that is not present is #SS", T1+1, DPL1+RW, FAULTS SSF, T1
    int_stack "a stack beyond the GDT is #TS", BEYOND_GDT+1, P+DPL1+RW, FAULTS TS, BEYOND_GDT

    CASE PM32+3, "int to ring 1: no room on the new stack is #SS with its selector"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    mov     dword ptr ds:[TSS_A+0x0C], 16
    RUN
9:  int     0x20
1:
    FAULTS  SSF, STACK32+8

    CASE PM32+3, "int to ring 1: just enough room on the new stack"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    mov     dword ptr ds:[TSS_A+0x0C], 20
    RUN
    int     0x20
1:
    SHOWS   R_ESP, 0
    PASSES

    CASE PM32+3, "int: a TSS without room for the new stack is #TS with the TSS"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    DESCRIPTOR T1, TSS_A, 0x10, P+A_TSS32, 0
    mov     ax, T1
    ltr     ax
    RUN
9:  int     0x20
1:
    FAULTS  TS, T1

# --- faults in the delivery of exceptions -------------------------------------------------------------------------------------

    CASE PM32+3, "#UD without its gate is #NP of the gate, with EXT"
    PREPARE
    mov     byte ptr ds:[IDT+8*UD+5], A_INT32
    RUN
9:  ud2
    FAULTS  NP, UD*8+IDT_BIT+EXT

    CASE PM32+3, "#UD with a gate of a wrong type is #GP of the gate, with EXT"
    PREPARE
    mov     byte ptr ds:[IDT+8*UD+5], P+A_CALL32
    RUN
9:  ud2
    FAULTS  GP, UD*8+IDT_BIT+EXT

    CASE PM32+3, "#UD whose handler's segment is not present is #NP of that, with EXT"
    PREPARE
    INTERRUPT_GATE UD, T1, 1f, P+A_INT32
    DESCRIPTOR T1, CODE_BASE, 0xFFFF, XR
    RUN
9:  ud2
1:
    FAULTS  NP, T1+EXT

    CASE PM32+3, "#UD whose handler's stack is wrong is #TS of that, with EXT"
    PREPARE
    INTERRUPT_GATE UD, CODE32+8, 1f, P+A_INT32
    mov     dword ptr ds:[TSS_A+0x10], STACK32
    RUN
9:  ud2
1:
    FAULTS  TS, STACK32+EXT

    CASE PM32+3, "#GP without its gate is #DF(0)"
    PREPARE
    mov     byte ptr ds:[IDT+8*GP+5], A_INT32
    RUN
9:  int     0x7F
    FAULTS  DF, 0

    CASE PM32+3, "#NP without its gate is #DF(0)"
    PREPARE
    mov     byte ptr ds:[IDT+8*NP+5], A_INT32
    DESCRIPTOR T1, DATA_BASE, 0xFFFF, DPL3+RW
    RUN
    mov     eax, T1+3
9:  mov     ds, eax
    FAULTS  DF, 0

    CASE PM32+3, "#DE without its gate, and #NP for that without its own, are #DF(0)"
    PREPARE
    mov     byte ptr ds:[IDT+8*DE+5], A_INT32
    mov     byte ptr ds:[IDT+8*NP+5], A_INT32
    RUN
    xor     ecx, ecx
9:  div     ecx
    FAULTS  DF, 0

    CASE PM32+3, "#UD without its gate, and #NP for that without its own: #UD is benign, the pair is #DF(0)"
    PREPARE
    mov     byte ptr ds:[IDT+8*UD+5], A_INT32
    mov     byte ptr ds:[IDT+8*NP+5], A_INT32
    RUN
9:  ud2
    FAULTS  DF, 0

    CASE PM32+3, "without a gate for #DF the processor shuts down"
    PREPARE
    mov     byte ptr ds:[IDT+8*GP+5], A_INT32
    mov     byte ptr ds:[IDT+8*DF+5], A_INT32
    RUN
    int     0x7F
    SHUTS_DOWN

# --- IRET -----------------------------------------------------------------------------------------------------------------------

.macro iret_case cpl, name, selector, access, stack, stack_access, verdict:vararg
    CASE PM32+\cpl, "iretd, \name"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0xFFFF, \access
    DESCRIPTOR T1, DATA_BASE, 0xFFF, \stack_access
    RUN
    push    \stack
    push    0x800
    push    2
    push    \selector
    push    offset 1f
9:  iretd
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
    SHOWS   R_ESP, STACK_TOP-20
    FAULTS  \vector, \error
.endm
.irp cpl, 0, 1, 2
    .irp rpl, 1, 2, 3
    .if \rpl > \cpl
    iret_case \cpl, "CPL \cpl to ring \rpl", T0+\rpl, P+(\rpl<<5)+XR, T1+\rpl, P+(\rpl<<5)+RW, RETURNS T0+\rpl, T1+\rpl
    iret_case \cpl, "CPL \cpl to conforming code in ring \rpl", T0+\rpl, P+DPL0+CONF_XR, T1+\rpl, P+(\rpl<<5)+RW, RETURNS T0+\rpl, T1+\rpl
    iret_case \cpl, "CPL \cpl to ring \rpl, DPL too low, is #GP", T0+\rpl, P+((\rpl-1)<<5)+XR, T1+\rpl, P+(\rpl<<5)+RW, REFUSED GP, T0
    .endif
    .endr
.endr
    iret_case 1, "CPL 1 to ring 0 is #GP", T0, P+XR, T1, P+RW, REFUSED GP, T0
    iret_case 3, "CPL 3 to ring 2 is #GP", T0+2, P+DPL2+XR, T1, P+RW, REFUSED GP, T0
    iret_case 3, "null is #GP(0)", 3, P+DPL3+XR, T1, P+RW, REFUSED GP, 0
    iret_case 3, "data is #GP", T0+3, P+DPL3+RW, T1, P+RW, REFUSED GP, T0
    iret_case 3, "not present is #NP", T0+3, DPL3+XR, T1, P+RW, REFUSED NP, T0
    iret_case 3, "beyond the GDT is #GP", BEYOND_GDT+3, P+DPL3+XR, T1, P+RW, REFUSED GP, BEYOND_GDT
    iret_case 0, "outward: a null stack is #GP(0)", T0+3, P+DPL3+XR, 3, P+DPL3+RW, REFUSED GP, 0
    iret_case 0, "outward: a stack of another RPL is #GP", T0+3, P+DPL3+XR, T1+2, P+DPL3+RW, REFUSED GP, T1
    iret_case 0, "outward: a stack of another DPL is #GP", T0+3, P+DPL3+XR, T1+3, P+DPL2+RW, REFUSED GP, T1
    iret_case 0, "outward: a read-only stack is #GP", T0+3, P+DPL3+XR, T1+3, P+DPL3+RO, REFUSED GP, T1
# SDM Vol. 2A, "IRET", is of two minds: its Operation says #SS, its list of exceptions #NP. Vol. 3A, "Interrupt 12 - Stack
# Fault Exception", has returns to another ring. Bochs 2.7 goes by the list: it is wrong.
    iret_case 0, "outward: a stack that is not present is #SS", T0+3, P+DPL3+XR, T1+3, DPL3+RW, REFUSED SSF, T1

# EFLAGS that IRETD may change. `before` in the test, `image` on the stack, `after` under the mask.
.macro iret_flags cpl, name, before, image, after, mask
    CASE PM32+\cpl, "iretd in ring \cpl: \name", \before
    push    \image
    push    CODE32+9*\cpl
    push    offset 1f
    iretd
9:  ud2
1:
    SHOWS   R_EFLAGS, \after, \mask
    PASSES
.endm
    iret_flags 0, "IOPL and IF change", 2, 3*F_IOPL+F_IF+2, 3*F_IOPL+F_IF+2, 0x37202
    iret_flags 1, "IOPL does not change", F_IOPL, 3*F_IOPL+2, F_IOPL, 3*F_IOPL
    iret_flags 1, "IF changes with CPL = IOPL", F_IOPL, F_IF+2, F_IF+F_IOPL, F_IF+3*F_IOPL
    iret_flags 3, "IF does not change with CPL above IOPL", 2, F_IF+2, 0, F_IF
    iret_flags 3, "VM does not change", 2, F_VM+2, 0, F_VM
    iret_flags 3, "AC and NT change", 2, F_AC+F_NT+2, F_AC+F_NT, F_AC+F_NT
    iret_flags 3, "arithmetic flags change", 2, 0x8D7, 0x8D7, 0x8FF
.macro popf_flags cpl, name, before, image, after, mask
    CASE PM32+\cpl, "popfd in ring \cpl: \name", \before
    push    \image
    popfd
    SHOWS   R_EFLAGS, \after, \mask
    PASSES
.endm
    popf_flags 0, "IOPL and IF change", 2, 3*F_IOPL+F_IF+2, 3*F_IOPL+F_IF+2, 0x37202
    popf_flags 1, "IOPL does not change", F_IOPL, 3*F_IOPL+2, F_IOPL, 3*F_IOPL
    popf_flags 1, "IF changes with CPL = IOPL", F_IOPL, F_IF+2, F_IF+F_IOPL, F_IF+3*F_IOPL
    popf_flags 3, "IF does not change with CPL above IOPL, without a fault", 2*F_IOPL, F_IF+2, 0, F_IF
    popf_flags 3, "VM does not change", 2, F_VM+2, 0, F_VM
    popf_flags 3, "AC and NT change", 2, F_AC+F_NT+2, F_AC+F_NT, F_AC+F_NT

.irp cpl, 0, 1, 2, 3
    .irp iopl, 0, 1, 2, 3
    CASE PM32+\cpl, "cli and sti, CPL \cpl, IOPL \iopl", \iopl*F_IOPL
9:  sti
    cli
    .if \cpl <= \iopl
    PASSES
    .else
    FAULTS  GP, 0
    .endif
    .endr
.endr

    CASE PM32+0, "iretd to V86"
    push    0x2001                      # GS, FS, DS, ES
    push    0x2002
    push    0x2003
    push    0x2004
    push    0x3000
    push    0x900
    push    F_VM+3*F_IOPL+2
    push    CODE_BASE>>4
    push    offset 1f
    iretd
9:  ud2
    .code16
1:  mov     al, ds:[0x10]
    int3
8:
    SHOWS   R_EAX, 0x40, 0xFF
    SHOWS   R_GS, 0x2001, 0xFFFF
    SHOWS   R_FS, 0x2002, 0xFFFF
    SHOWS   R_DS, 0x2003, 0xFFFF
    SHOWS   R_ES, 0x2004, 0xFFFF
    SHOWS   R_SS, 0x3000, 0xFFFF
    SHOWS   R_ESP, 0x900
    SHOWS   R_EFLAGS, F_VM+3*F_IOPL, F_VM+3*F_IOPL
    SHOWS   R_CS, CODE_BASE>>4, 0xFFFF
    TRAPS   BKPT

# --- more of the ways there and back ----------------------------------------------------------------------------------------------

    CASE PM32+3, "a 16-bit trap gate leaves IF", F_IF+3*F_IOPL
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_TRAP16
    RUN
    int     0x20
1:  pushfd
    pop     eax
    cli
    SHOWS   R_EAX, F_IF, F_IF
    SHOWS   R_SS, STACK32+9
    PASSES

    CASE PM32+3, "a 16-bit gate to ring 1 and back by iret of 16 bits"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT16
    RUN
    int     0x20
    jmp     2f
1:  mov     ax, 0x1234
    iretw
2:
    SHOWS   R_EAX, 0xA0A11234
    SHOWS   R_CS, CODE32+27
    SHOWS   R_SS, STACK32+27
    SHOWS   R_ESP, STACK_TOP, 0xFFFF
    PASSES

    CASE PM32+3, "a 32-bit gate to ring 1 and back by iretd"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    RUN
    int     0x20
    jmp     2f
1:  mov     eax, 0x12345678
    iretd
2:
    SHOWS   R_EAX, 0x12345678
    SHOWS   R_CS, CODE32+27
    SHOWS   R_SS, STACK32+27
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE PM32+3, "iret of 16 bits keeps the upper half of EFLAGS", F_AC
    push    ax
    mov     word ptr [esp], F_CF+2
    push    ax
    mov     word ptr [esp], CODE32+27
    push    ax
    mov     word ptr [esp], offset 1f
    iretw
9:  ud2
1:
    SHOWS   R_EFLAGS, F_AC+F_CF, F_AC+F_CF
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE PM32+3, "iretd from ring 1 to ring 3 leaves null the data segments that ring 3 may not have"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    RUN
    int     0x20
    jmp     2f
1:  mov     ax, DATA+8
    mov     ds, ax
    mov     ax, DATA+16
    mov     es, ax
    iretd
2:
    SHOWS   R_DS, 0, 0xFFFF
    SHOWS   R_ES, 0, 0xFFFF
    SHOWS   R_FS, DATA+27, 0xFFFF
    PASSES

    CASE PM32+3, "int leaves data segments as they are"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    RUN
    int     0x20
1:
    SHOWS   R_DS, DATA+27, 0xFFFF
    SHOWS   R_GS, DATA+27, 0xFFFF
    PASSES

    CASE PM32+3, "#BR, #OF and #DE push no error code"
    PREPARE
    INTERRUPT_GATE BR, CODE32+8, 1f, P+A_INT32
    RUN
    mov     dword ptr ds:[0x40], 0
    mov     dword ptr ds:[0x44], 0
    mov     eax, 1
2:  bound   eax, ds:[0x40]
1:  mov     ebx, [esp]
    sub     ebx, offset 2b
    SHOWS   R_EBX, 0
    SHOWS   R_ESP, STACK_TOP-20
    PASSES

    CASE PM32+3, "a 16-bit gate: the upper word of its offset does not count"
    PREPARE
    INTERRUPT_GATE 0x21, CODE32+27, 1f, P+DPL3+A_INT16
    mov     word ptr ds:[IDT+8*0x21+6], 0xFFFF
    RUN
    int     0x21
    ud2
1:
    SHOWS   R_CS, CODE32+27
    PASSES
