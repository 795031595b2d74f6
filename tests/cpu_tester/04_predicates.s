# Group 06: LAR, LSL, VERR, VERW and ARPL, which ask about selectors and never fault on them.
#
# Sources: SDM Vol. 2A, "LAR - Load Access Rights Byte", "LSL - Load Segment Limit", "ARPL"; Vol. 2B/2D, "VERR/VERW".

.include "frame.inc"
    GROUP 0x0601

# `code` after MOV EAX, selector; ZF must be `zf`, EBX under the mask `value` where ZF is set and unchanged where not.
.macro ask mode, name, selector, access, size, code, zf, value=0, mask=0
    CASE \mode, "\name"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0x1234F, \access, \size
    RUN
    mov     eax, \selector
    \code
    SHOWS   R_EFLAGS, (\zf)*F_ZF, F_ZF
    .if (\zf)
    SHOWS   R_EBX, \value, \mask
    .else
    SHOWS   R_EBX, 0xB0B1B2B3
    .endif
    PASSES
.endm
.macro ask_all mode, name, selector, access, lar, lsl, verr, verw
    ask \mode, "lar: \name", \selector, \access, B32, "lar ebx, eax", \lar, ((\access)<<8)+0x400000, 0xF0FF00
    ask \mode, "lsl: \name", \selector, \access, B32, "lsl ebx, eax", \lsl, 0x1234F, 0xFFFFFFFF
    ask \mode, "verr: \name", \selector, \access, B32, "verr ax", \verr
    ask \mode, "verw: \name", \selector, \access, B32, "verw ax", \verw
.endm

# Privilege: as for loads; LAR and LSL of system descriptors have the same rule.
.irp cpl, 0, 1, 2, 3
    .irp dpl, 0, 1, 2, 3
    .set allowed, (\cpl <= \dpl) & 1
    ask_all PM32+\cpl, "data, CPL \cpl, RPL 0, DPL \dpl", T0, P+(\dpl<<5)+RW, allowed, allowed, allowed, allowed
    .endr
    .set allowed, (\cpl <= 2) & 1
    ask_all PM32+\cpl, "data, CPL \cpl, RPL 2, DPL 2", T0+2, P+DPL2+RW, allowed, allowed, allowed, allowed
    ask_all PM32+\cpl, "data, CPL \cpl, RPL 3, DPL 2", T0+3, P+DPL2+RW, 0, 0, 0, 0
    ask_all PM32+\cpl, "conforming code, CPL \cpl, RPL 3, DPL 0", T0+3, P+DPL0+CONF_XR, 1, 1, 1, 0
.endr
    ask_all PM32+3, "read-only data", T0+3, P+DPL3+RO, 1, 1, 1, 0
    ask_all PM32+3, "expand-down data", T0+3, P+DPL3+DOWN_RW, 1, 1, 1, 1
    ask_all PM32+3, "expand-down read-only data", T0+3, P+DPL3+DOWN_RO, 1, 1, 1, 0
    ask_all PM32+3, "readable code", T0+3, P+DPL3+XR, 1, 1, 1, 0
    ask_all PM32+3, "execute-only code", T0+3, P+DPL3+XO, 1, 1, 0, 0
    ask_all PM32+3, "conforming execute-only code", T0+3, P+DPL0+CONF_XO, 1, 1, 0, 0
    ask_all PM32+3, "data that is not present", T0+3, DPL3+RW, 1, 1, 1, 1
    ask_all PM32+3, "null", 3, DPL3+RW, 0, 0, 0, 0
    ask_all PM32+3, "beyond the GDT", BEYOND_GDT+3, P+DPL3+RW, 0, 0, 0, 0
    ask_all PM32+3, "beyond the LDT", LDT_SIZE+7, P+DPL3+RW, 0, 0, 0, 0
    ask_all PM16+0, "data in 16-bit code", T0, P+DPL0+RW, 1, 1, 1, 1

# System types: LAR knows all but interrupt and trap gates and the reserved ones, LSL those with a limit.
.irp type, 0, 6, 7, 8, 10, 13, 14, 15
    ask_all PM32+0, "system type \type", T0, P+\type, 0, 0, 0, 0
.endr
.irp type, 1, 2, 3, 9, 11
    ask_all PM32+0, "system type \type", T0, P+\type, 1, 1, 0, 0
.endr
.irp type, 4, 5, 12
    ask_all PM32+0, "system type \type", T0, P+\type, 1, 0, 0, 0
.endr
    ask_all PM32+3, "a TSS of DPL 0 in ring 3", T0, P+A_TSS32, 0, 0, 0, 0
    ask_all PM32+3, "a TSS of DPL 3 in ring 3", T0+3, P+DPL3+A_TSS32, 1, 1, 0, 0

    ask PM32+3, "lsl: pages count as 4 KiB, less one", T0+3, P+DPL3+RW, B32+G, "lsl ebx, eax", 1, 0x1234FFFF, 0xFFFFFFFF
    ask PM32+3, "lar: G and AVL show", T0+3, P+DPL3+RW, B32+G+1, "lar ebx, eax", 1, ((P+DPL3+RW)<<8)+0xD00000, 0xF0FF00
    ask PM32+3, "lar of 16 bits keeps the upper half", T0+3, P+DPL3+RW, B32, "lar bx, ax", 1, 0xB0B10000+((P+DPL3+RW)<<8), -1
    ask PM32+3, "lsl of 16 bits keeps the upper half", T0+3, P+DPL3+RW, B32, "lsl bx, ax", 1, 0xB0B1234F, 0xFFFFFFFF

    CASE PM32+3, "lar, lsl, verr and verw change ZF alone", F_CF+F_PF+F_OF
    mov     eax, DATA+27
    lar     ebx, eax
    lsl     ebx, eax
    verr    ax
    verw    ax
    SHOWS   R_EFLAGS, F_CF+F_PF+F_OF+F_ZF+2, 0x8D7
    PASSES

# --- ARPL ----------------------------------------------------------------------------------------------------------------

.macro arpl_case destination, source, zf, result
    CASE PM32+3, "arpl: \destination by \source"
    mov     eax, 0xAAAA0000+\destination
    mov     ebx, 0xBBBB0000+\source
    arpl    ax, bx
    SHOWS   R_EAX, 0xAAAA0000+\result
    SHOWS   R_EFLAGS, (\zf)*F_ZF, F_ZF
    PASSES
.endm
    arpl_case 0x1230, 0x0003, 1, 0x1233
    arpl_case 0x1231, 0x0003, 1, 0x1233
    arpl_case 0x1233, 0x0003, 0, 0x1233
    arpl_case 0x1233, 0x5670, 0, 0x1233
    arpl_case 0x1232, 0xFFF1, 0, 0x1232
    arpl_case 0x1234, 0xFFFD, 1, 0x1235

# The operation writes nothing where the RPL is high enough; what the section on exceptions says of segments that cannot
# be written is for where it does.
    CASE PM32+3, "arpl that changes nothing does not write: read-only data will do"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RO
    RUN
    mov     eax, T0+3
    mov     ds, eax
    xor     ebx, ebx
    arpl    ds:[0x20], bx
    SHOWS   R_EFLAGS, 0, F_ZF
    PASSES

    CASE PM32+3, "arpl of memory"
    mov     ebx, 3
    arpl    ds:[0x40], bx
    SHOWS   DATA_BASE+0x40, 0x43424143
    SHOWS   R_EFLAGS, F_ZF, F_ZF
    PASSES

    CASE PM32+3, "arpl that changes read-only data is #GP(0)"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RO
    RUN
    mov     eax, T0+3
    mov     ds, eax
    mov     ebx, 3
9:  arpl    ds:[0x20], bx
    SHOWS   DATA_BASE+0x20, 0x23222120
    FAULTS  GP, 0
