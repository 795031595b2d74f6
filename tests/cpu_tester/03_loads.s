# Group 04: loads of segment registers, of LDTR and TR: privilege, type, presence, limits of the tables.
#
# The error code of a refused selector is the selector without its RPL.
# Sources: SDM Vol. 2B, "MOV - Move", "POP - Pop a Value from the Stack"; Vol. 2A, "LDS/LES/LFS/LGS/LSS", "LLDT", "LTR";
# Vol. 3A, "Privilege Level Checking When Accessing Data Segments", "... When Loading the SS Register", "Type Checking".

.include "frame.inc"
    GROUP 0x0401

# One load of a descriptor in T0. The code may change EAX. `verdict` is PASSES or FAULTS with its arguments.
.macro load_case mode, name, seg, selector, access, verdict:vararg
    CASE \mode, "\name"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, \access
    RUN
    mov     eax, \selector
9:  mov     \seg, eax
    \verdict
.endm

# --- privilege: CPL, RPL and DPL -----------------------------------------------------------------------------------------

# Data and nonconforming code: max(CPL, RPL) <= DPL. Conforming code: always.
.macro by_privilege seg, kind, cpl, rpl, dpl
    .set allowed, (\cpl <= \dpl) & (\rpl <= \dpl)
    .if allowed | (\kind == CONF_XR)
    load_case PM32+\cpl, "\seg, \kind: CPL \cpl, RPL \rpl, DPL \dpl", \seg, T0+\rpl, P+(\dpl<<5)+\kind, PASSES
    .else
    load_case PM32+\cpl, "\seg, \kind: CPL \cpl, RPL \rpl, DPL \dpl", \seg, T0+\rpl, P+(\dpl<<5)+\kind, FAULTS GP, T0
    .endif
.endm
.irp cpl, 0, 1, 2, 3
    .irp rpl, 0, 1, 2, 3
        .irp dpl, 0, 1, 2, 3
    by_privilege ds, RW, \cpl, \rpl, \dpl
        .endr
    .endr
    by_privilege es, RO, \cpl, \cpl, 1
    by_privilege es, XR, \cpl, 0, 2
    by_privilege fs, XR, \cpl, 3, 2
    by_privilege gs, CONF_XR, \cpl, 3, 0
    by_privilege ds, CONF_XR, \cpl, 0, 0
    by_privilege gs, DOWN_RW, \cpl, 2, 2
.endr

# SS: RPL = DPL = CPL.
.macro stack_by_privilege cpl, rpl, dpl
    .if (\cpl == \rpl) & (\cpl == \dpl)
    load_case PM32+\cpl, "ss: CPL \cpl, RPL \rpl, DPL \dpl", ss, T0+\rpl, P+(\dpl<<5)+RW, PASSES
    .else
    load_case PM32+\cpl, "ss: CPL \cpl, RPL \rpl, DPL \dpl", ss, T0+\rpl, P+(\dpl<<5)+RW, FAULTS GP, T0
    .endif
.endm
.irp cpl, 0, 1, 2, 3
    .irp rpl, 0, 1, 2, 3
        .irp dpl, 0, 1, 2, 3
    stack_by_privilege \cpl, \rpl, \dpl
        .endr
    .endr
.endr

# --- types ---------------------------------------------------------------------------------------------------------------

.irp type, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    load_case PM32+3, "ds: system type \type is #GP", ds, T0+3, P+DPL3+\type, FAULTS GP, T0
    load_case PM32+0, "ss: system type \type is #GP", ss, T0, P+DPL0+\type, FAULTS GP, T0
.endr
.irp seg, ds, es, fs, gs
    load_case PM32+3, "\seg: execute-only code is #GP", \seg, T0+3, P+DPL3+XO, FAULTS GP, T0
    load_case PM32+3, "\seg: conforming execute-only code is #GP", \seg, T0+3, P+DPL3+CONF_XO, FAULTS GP, T0
    load_case PM32+3, "\seg: a segment that is not present is #NP", \seg, T0+3, DPL3+RW, FAULTS NP, T0
    load_case PM32+3, "\seg: privilege comes before presence", \seg, T0+3, DPL0+RW, FAULTS GP, T0
    load_case PM32+3, "\seg: type comes before presence", \seg, T0+3, DPL3+XO, FAULTS GP, T0
    load_case PM32+3, "\seg: a selector beyond the GDT is #GP", \seg, BEYOND_GDT+3, P+DPL3+RW, FAULTS GP, BEYOND_GDT
    load_case PM32+3, "\seg: a selector beyond the LDT is #GP", \seg, LDT_SIZE+7, P+DPL3+RW, FAULTS GP, LDT_SIZE+4
    load_case PM16+3, "16 bits, \seg: read-only data", \seg, T0+3, P+DPL3+RO, PASSES
    load_case PM16+3, "16 bits, \seg: a segment that is not present is #NP", \seg, T0+3, DPL3+RW, FAULTS NP, T0
.endr
    load_case PM32+3, "ss: a stack that is not present is #SS", ss, T0+3, DPL3+RW, FAULTS SSF, T0
    load_case PM32+0, "ss: a stack of ring 0 that is not present is #SS", ss, T0, DPL0+RW, FAULTS SSF, T0
    load_case PM32+3, "ss: privilege comes before presence", ss, T0+3, DPL0+RW, FAULTS GP, T0
    load_case PM32+3, "ss: read-only data is #GP", ss, T0+3, P+DPL3+RO, FAULTS GP, T0
    load_case PM32+3, "ss: read-only, not present is #GP", ss, T0+3, DPL3+RO, FAULTS GP, T0
    load_case PM32+3, "ss: expand-down data", ss, T0+3, P+DPL3+DOWN_RW, PASSES
    load_case PM32+3, "ss: expand-down read-only data is #GP", ss, T0+3, P+DPL3+DOWN_RO, FAULTS GP, T0
    load_case PM32+3, "ss: readable code is #GP", ss, T0+3, P+DPL3+XR, FAULTS GP, T0
    load_case PM32+3, "ss: conforming code is #GP", ss, T0+3, P+DPL3+CONF_XR, FAULTS GP, T0
    load_case PM32+3, "ss: a selector beyond the GDT is #GP", ss, BEYOND_GDT+3, P+DPL3+RW, FAULTS GP, BEYOND_GDT
    load_case PM16+3, "16 bits, ss: readable code is #GP", ss, T0+3, P+DPL3+XR, FAULTS GP, T0
.irp cpl, 0, 1, 2, 3
    load_case PM32+\cpl, "ss: a null selector in ring \cpl is #GP(0)", ss, \cpl, 0, FAULTS GP, 0
.endr

    CASE PM32+3, "selector 0 of the LDT is not null"
    PREPARE
    DESCRIPTOR L0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    mov     eax, L0+3
    mov     ds, eax
    mov     al, ds:[0x44]
    SHOWS   R_EAX, 0x44, 0xFF
    SHOWS   R_DS, L0+3, 0xFFFF
    PASSES

    CASE PM32+3, "without an LDT its selectors are #GP"
    PREPARE
    xor     eax, eax
    lldt    ax
    RUN
    mov     eax, L1+3
9:  mov     ds, eax
    FAULTS  GP, L1

    CASE PM32+3, "the last byte of a descriptor must be within the GDT"
    PREPARE
    mov     dword ptr ds:[RECORD-8], ((T0+6)<<16)
    mov     dword ptr ds:[RECORD-4], GDT
    lgdt    ds:[RECORD-6]
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
9:  mov     ds, eax
    FAULTS  GP, T0

    CASE PM32+3, "a GDT that ends with the descriptor"
    PREPARE
    mov     dword ptr ds:[RECORD-8], ((T0+7)<<16)
    mov     dword ptr ds:[RECORD-4], GDT
    lgdt    ds:[RECORD-6]
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     ds, eax
    PASSES

# --- the instructions that load ---------------------------------------------------------------------------------------------

.macro other_forms mode, seg, width
    CASE \mode, "\mode pop \seg: a segment that is not present is #NP with ESP as it was"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, DPL3+RW
    RUN
    push    T0+3
9:  pop     \seg
    SHOWS   R_ESP, STACK_TOP-\width
    FAULTS  NP, T0

    CASE \mode, "\mode pop \seg loads"
    PREPARE
    DESCRIPTOR T0, DATA_BASE+0x10, 0xFF, P+DPL3+RW
    RUN
    push    T0+3
    pop     \seg
    mov     al, \seg:[0x10]
    SHOWS   R_EAX, 0x20, 0xFF
    PASSES

    CASE \mode, "\mode l\seg: a segment that is not present is #NP with the register as it was"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, DPL3+RW
    RUN
    mov     dword ptr ds:[0x40], 0x12345678
    mov     word ptr ds:[0x42], T0+3
    mov     word ptr ds:[0x44], T0+3
9:  l\seg   esi, ds:[0x40]
    SHOWS   R_ESI, 0x51525354
    FAULTS  NP, T0

    CASE \mode, "\mode l\seg loads both"
    PREPARE
    DESCRIPTOR T0, DATA_BASE+0x10, 0xFF, P+DPL3+RW
    RUN
    mov     dword ptr ds:[0x40], 0x12345678
    mov     word ptr ds:[0x44], T0+3
    l\seg   esi, ds:[0x40]
    mov     al, \seg:[0x10]
    SHOWS   R_ESI, 0x12345678
    SHOWS   R_EAX, 0x20, 0xFF
    PASSES

    CASE \mode, "\mode l\seg: a null selector"
    mov     dword ptr ds:[0x40], 0x12345678
    mov     word ptr ds:[0x44], 0
    l\seg   esi, ds:[0x40]
    SHOWS   R_ESI, 0x12345678
    PASSES
.endm
.irp seg, ds, es, fs, gs
    other_forms PM32+3, \seg, 4
.endr
    other_forms PM16+3, es, 2

    CASE PM32+3, "pop ss: a stack that is not present is #SS with ESP as it was"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, DPL3+RW
    RUN
    push    T0+3
9:  pop     ss
    SHOWS   R_ESP, STACK_TOP-4
    SHOWS   R_SS, STACK32+27
    FAULTS  SSF, T0

    CASE PM32+3, "lss loads both"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFF, P+DPL3+RW
    RUN
    mov     dword ptr ds:[0x40], 0x800
    mov     word ptr ds:[0x44], T0+3
    lss     esp, ds:[0x40]
    push    0x12345678
    SHOWS   R_ESP, 0x7FC
    SHOWS   R_SS, T0+3
    SHOWS   DATA_BASE+0x7FC, 0x12345678
    PASSES

    CASE PM32+3, "lss: the wrong ring is #GP with ESP as it was"
    mov     dword ptr ds:[0x40], 0x800
    mov     word ptr ds:[0x44], STACK32+3
9:  lss     esp, ds:[0x40]
    SHOWS   R_ESP, STACK_TOP
    FAULTS  GP, STACK32

    CASE PM32+3, "lss: a null selector is #GP(0)"
    mov     dword ptr ds:[0x40], 0x800
    mov     word ptr ds:[0x44], 0
9:  lss     esp, ds:[0x40]
    FAULTS  GP, 0

    CASE PM32+3, "mov from segment registers to 32 bits clears the upper half"
    mov     eax, fs
    SHOWS   R_EAX, DATA+27
    PASSES

    CASE PM32+3, "push of a segment register leaves ESP 4 lower"
    push    gs
    mov     bx, [esp]
    SHOWS   R_EBX, DATA+27, 0xFFFF
    SHOWS   R_ESP, STACK_TOP-4
    PASSES

# --- LDTR and TR -------------------------------------------------------------------------------------------------------------

# `instruction` of AX in ring 0, with the descriptor in T0.
.macro system_load name, instruction, selector, access, verdict:vararg
    CASE PM32+0, "\instruction: \name"
    PREPARE
    DESCRIPTOR T0, TSS_B, 0x67, \access, 0
    RUN
    mov     eax, \selector
9:  \instruction ax
    \verdict
.endm
    system_load "an LDT", lldt, T0, P+A_LDT, PASSES
    system_load "null", lldt, 0, P+A_LDT, PASSES
    system_load "null with an RPL", lldt, 3, P+A_LDT, PASSES
    system_load "DPL and RPL do not count", lldt, T0+3, P+DPL1+A_LDT, PASSES
    system_load "not present is #NP", lldt, T0, A_LDT, FAULTS NP, T0
    system_load "another type is #GP", lldt, T0, P+A_TSS32, FAULTS GP, T0
    system_load "another type, not present, is #GP", lldt, T0, A_TSS32, FAULTS GP, T0
    system_load "data is #GP", lldt, T0, P+RW, FAULTS GP, T0
    system_load "data of type 2 is #GP", lldt, T0, P+0x10+A_LDT, FAULTS GP, T0
    system_load "a selector of the LDT is #GP", lldt, T0+4, P+A_LDT, FAULTS GP, T0+4
    system_load "a selector beyond the GDT is #GP", lldt, BEYOND_GDT, P+A_LDT, FAULTS GP, BEYOND_GDT
    system_load "a TSS", ltr, T0, P+A_TSS32, PASSES
    system_load "a 16-bit TSS", ltr, T0, P+A_TSS16, PASSES
    system_load "DPL and RPL do not count", ltr, T0+3, P+DPL1+A_TSS32, PASSES
    system_load "null is #GP(0)", ltr, 0, P+A_TSS32, FAULTS GP, 0
    system_load "busy is #GP", ltr, T0, P+A_BUSY32, FAULTS GP, T0
    system_load "busy, of 16 bits, is #GP", ltr, T0, P+A_BUSY16, FAULTS GP, T0
    system_load "not present is #NP", ltr, T0, A_TSS32, FAULTS NP, T0
    system_load "an LDT is #GP", ltr, T0, P+A_LDT, FAULTS GP, T0
    system_load "code is #GP", ltr, T0, P+XR, FAULTS GP, T0
    system_load "a selector of the LDT is #GP", ltr, T0+4, P+A_TSS32, FAULTS GP, T0+4
    system_load "a selector beyond the GDT is #GP", ltr, BEYOND_GDT, P+A_TSS32, FAULTS GP, BEYOND_GDT

    CASE PM32+0, "ltr makes the TSS busy"
    PREPARE
    DESCRIPTOR T0, TSS_B, 0x67, P+A_TSS32, 0
    RUN
    mov     eax, T0
    ltr     ax
    str     ebx
    SHOWS   R_EBX, T0, 0xFFFF
    SHOWS   GDT+T0+4, (P+A_BUSY32)<<8, 0xFF00
    PASSES

    CASE PM32+0, "ltr that faults leaves TR and the descriptor"
    PREPARE
    DESCRIPTOR T0, TSS_B, 0x67, A_TSS32, 0
    RUN
    mov     eax, T0
9:  ltr     ax
    SHOWS   R_TR, S_TSS_A
    SHOWS   GDT+T0+4, (A_TSS32)<<8, 0xFF00
    FAULTS  NP, T0

    CASE PM32+0, "lldt of null: an LDT selector is then #GP"
    xor     eax, eax
    lldt    ax
    mov     eax, L1
9:  mov     ds, eax
    FAULTS  GP, L1

.irp cpl, 1, 2, 3
    CASE PM32+\cpl, "lldt in ring \cpl is #GP(0)"
    xor     eax, eax
9:  lldt    ax
    FAULTS  GP, 0

    CASE PM32+\cpl, "ltr in ring \cpl is #GP(0)"
    mov     eax, S_TSS_B
9:  ltr     ax
    FAULTS  GP, 0

    CASE PM32+\cpl, "sldt and str in ring \cpl show the selectors"
    sldt    ax
    str     bx
    SHOWS   R_EAX, S_LDT, 0xFFFF
    SHOWS   R_EBX, S_TSS_A, 0xFFFF
    PASSES
.endr
