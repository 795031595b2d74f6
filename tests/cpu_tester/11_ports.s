# Group 0E: the I/O permission bitmap and IOPL.
#
# In protected mode with CPL above IOPL, and in V86 always, each byte of the port must have a clear bit in the bitmap.
# Port 80h is used, where nobody minds. Sources: SDM Vol. 1, "I/O Protection", "I/O Permission Bit Map"; Vol. 2A, "IN",
# "INS", Vol. 2B, "OUT", "OUTS".

.include "frame.inc"
    GROUP 0x0E01

# Allow the ports whose bits are in `mask`, port 80h being bit 0. For PREPARE.
.macro allow mask
    mov     dword ptr ds:[TSS_A+IO_MAP+0x10], ~(\mask)
.endm

# One access, with the ports of `mask` allowed; `right` says whether it may pass.
.macro port_case mode, flags, name, mask, right, code
    CASE \mode, "\mode, \flags: \name", \flags
    PREPARE
    allow   \mask
    RUN
    mov     edx, 0x80
    mov     esi, 0x40
    mov     edi, 0x40
    mov     ecx, 1
9:  \code
    .if \right
    PASSES
    .else
    SHOWS   R_EAX, 0xA0A1A2A3
    SHOWS   R_ECX, 1
    FAULTS  GP, 0
    .endif
.endm
.macro instructions mode, flags, privileged
    port_case \mode, \flags, "in al, refused", 0, \privileged, "in al, 0x80"
    port_case \mode, \flags, "in al, allowed", 1, 1, "in al, 0x80"
    port_case \mode, \flags, "in al, its neighbours allowed", 0xFFFFFFFE, \privileged, "in al, dx"
    port_case \mode, \flags, "out al, refused", 0, \privileged, "out 0x80, al"
    port_case \mode, \flags, "out al, allowed", 1, 1, "out dx, al"
    port_case \mode, \flags, "out ax, one byte allowed", 1, \privileged, "out dx, ax"
    port_case \mode, \flags, "in ax, the other byte allowed", 2, \privileged, "in ax, dx"
    port_case \mode, \flags, "in ax, both allowed", 3, 1, "in ax, dx"
    port_case \mode, \flags, "in eax, three allowed", 7, \privileged, "in eax, dx"
    port_case \mode, \flags, "in eax, four allowed", 0xF, 1, "in eax, dx"
    port_case \mode, \flags, "outsb, refused", 0, \privileged, "outsb"
    port_case \mode, \flags, "outsb, allowed", 1, 1, "outsb"
    port_case \mode, \flags, "insw, one byte allowed", 1, \privileged, "insw"
    port_case \mode, \flags, "insd, allowed", 0xF, 1, "insd"
    port_case \mode, \flags, "rep outsb, refused", 0, \privileged, "rep outsb"
    port_case \mode, \flags, "rep insb, allowed", 1, 1, "rep insb"
.endm
    instructions PM32+3, 0, 0
    instructions PM32+3, 3*F_IOPL, 1
    instructions PM32+0, 0, 1
    instructions PM16+2, F_IOPL, 0
    instructions PM32+1, F_IOPL, 1
    instructions V86+0, 0, 0
    instructions V86+3, 0, 0

    CASE PM32+3, "a port beyond the limit of the TSS is refused"
    PREPARE
    DESCRIPTOR T0, TSS_A, IO_MAP+0x10, P+A_TSS32, 0
    allow   0xFFFFFFFF
    mov     ax, T0
    ltr     ax
    RUN
9:  in      al, 0x80
    FAULTS  GP, 0

    CASE PM32+3, "two bytes of the bitmap are read, and both must be within the TSS"
    PREPARE
    DESCRIPTOR T0, TSS_A, IO_MAP+0x11, P+A_TSS32, 0
    allow   0xFFFFFFFF
    mov     ax, T0
    ltr     ax
    RUN
    in      al, 0x80
    mov     dx, 0x88
9:  in      al, dx
    FAULTS  GP, 0

    CASE PM32+3, "a word across two bytes of the bitmap"
    PREPARE
    allow   0x180
    RUN
    mov     edx, 0x87
    in      ax, dx
    mov     edx, 0x88
9:  in      ax, dx
    FAULTS  GP, 0

    CASE PM32+3, "a bitmap that starts at the limit of the TSS allows nothing"
    PREPARE
    allow   0xFFFFFFFF
    mov     word ptr ds:[TSS_A+0x66], IO_MAP+IO_MAP_SIZE
    RUN
9:  in      al, 0x80
    FAULTS  GP, 0

    CASE PM32+3, "the bitmap lies where the TSS says"
    PREPARE
    mov     word ptr ds:[TSS_A+0x66], IO_MAP+8
    mov     byte ptr ds:[TSS_A+IO_MAP+8+0x10], 0
    RUN
    in      al, 0x80
    PASSES

    CASE PM32+3, "a 16-bit TSS has no bitmap"
    PREPARE
    mov     word ptr ds:[TSS_16+2], HANDLER_STACK
    mov     word ptr ds:[TSS_16+4], MON_DATA
    mov     ax, S_TSS_16
    ltr     ax
    RUN
9:  in      al, 0x80
    FAULTS  GP, 0

    CASE PM32+3, "outs checks the port, then its segment"
    PREPARE
    allow   0
    RUN
    xor     eax, eax
    mov     ds, eax
    mov     edx, 0x80
9:  outsb
    FAULTS  GP, 0

    CASE PM32+3, "outs through a null segment is #GP(0)"
    PREPARE
    allow   1
    RUN
    xor     eax, eax
    mov     ds, eax
    mov     edx, 0x80
    mov     esi, 0x40
9:  outsb
    SHOWS   R_ESI, 0x40
    FAULTS  GP, 0

    CASE PM32+3, "ins to read-only data is #GP(0)"
    PREPARE
    allow   1
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RO
    RUN
    mov     eax, T0+3
    mov     es, eax
    mov     edx, 0x80
    mov     edi, 0x40
9:  insb
    SHOWS   R_EDI, 0x40
    FAULTS  GP, 0

    CASE PM32+3, "ins beyond the limit is #GP(0)"
    PREPARE
    allow   1
    RUN
    mov     edx, 0x80
    mov     edi, 0x10000
9:  insb
    FAULTS  GP, 0

    CASE REAL, "real: insw to FFFF is #GP"
    mov     dx, 0x80
    mov     di, 0xFFFF
9:  insw
    FAULTS  GP, NONE

    CASE REAL, "real: outsw from FFFF is #GP"
    mov     dx, 0x80
    mov     si, 0xFFFF
9:  outsw
    FAULTS  GP, NONE
