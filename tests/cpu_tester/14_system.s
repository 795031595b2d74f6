# Group 11: control registers, MSRs and the instructions that belong to ring 0.
#
# Sources: SDM Vol. 3A, "Control Registers"; Vol. 2B, "MOV - Move to/from Control Registers"; Vol. 2, the instructions;
# Vol. 3A, "Privileged Instructions".

.include "frame.inc"
    GROUP 0x1101

.equ CR0_PE, 1 << 0
.equ CR0_MP, 1 << 1
.equ CR0_EM, 1 << 2
.equ CR0_TS, 1 << 3
.equ CR0_ET, 1 << 4
.equ CR0_NE, 1 << 5
.equ CR0_NW, 1 << 29
.equ CR0_CD, 1 << 30
.equ CR0_PG, 1 << 31
.equ CR4_TSD, 1 << 2
.equ CR4_OSFXSR, 1 << 9

# --- CR0 and CR4 ------------------------------------------------------------------------------------------------------------

.macro cr0_refused mode, name, set, clear
    CASE \mode, "\mode: CR0 with \name is #GP"
    mov     ecx, cr0
    mov     eax, ecx
    or      eax, \set
    and     eax, ~(\clear)
9:  mov     cr0, eax
    mov     cr0, ecx
    .if (\mode) == REAL
    FAULTS  GP, NONE
    .else
    FAULTS  GP, 0
    .endif
.endm
    cr0_refused PM32+0, "PG without PE", CR0_PG, CR0_PE
    cr0_refused PM32+0, "NW without CD", CR0_NW, CR0_CD
    cr0_refused PM16+0, "NW without CD", CR0_NW, CR0_CD
    cr0_refused REAL, "PG without PE", CR0_PG, CR0_PE
    cr0_refused REAL, "NW without CD", CR0_NW, CR0_CD

    CASE PM32+0, "CR0: ET stays set"
    mov     eax, cr0
    and     al, ~CR0_ET
    mov     cr0, eax
    mov     eax, cr0
    SHOWS   R_EAX, CR0_ET, CR0_ET
    PASSES

    CASE PM32+0, "CR0: reserved bits are ignored and read as 0"
    mov     eax, cr0
    mov     ecx, eax
    or      eax, 0x1FFAFFC0
    mov     cr0, eax
    mov     eax, cr0
    mov     cr0, ecx
    SHOWS   R_EAX, 0, 0x1FFAFFC0
    PASSES

.macro cr4_refused bit, needs=0, lacks=0
    CASE PM32+0, "CR4 with reserved bit \bit is #GP(0)", 2, \needs, \lacks
    mov     eax, 1 << \bit
9:  mov     cr4, eax
    xor     ecx, ecx
    mov     cr4, ecx
    mov     ecx, cr4
    FAULTS  GP, 0
.endm
    cr4_refused 0, 0, CPUID_VME
    cr4_refused 11
    cr4_refused 12
    cr4_refused 15
    cr4_refused 19
    cr4_refused 22
    cr4_refused 25
    cr4_refused 31

    CASE PM32+0, "CR4 keeps what CPUID shows", 2, CPUID_DE+CPUID_PSE+CPUID_PAE+CPUID_PGE
    mov     eax, CR4_TSD + (1<<3) + (1<<4) + (1<<7)
    mov     cr4, eax
    mov     ebx, cr4
    xor     eax, eax
    mov     cr4, eax
    SHOWS   R_EBX, CR4_TSD + (1<<3) + (1<<4) + (1<<7)
    PASSES

.irp code, 0xC8, 0xE8, 0xF0, 0xF8
.irp opcode, 0x20, 0x22
    CASE PM32+0, "0F \opcode \code, a control register that does not exist, is #UD"
9:  .byte   0x0F, \opcode, \code
    FAULTS  UD, NONE
.endr
.endr

    CASE PM32+0, "mov to and from control registers takes any ModR/M as one of registers"
    mov     ecx, 0x12345678
    .byte   0x0F, 0x22, 0x11            # MOV CR2, ECX, with mod = 00
    .byte   0x0F, 0x20, 0x93            # MOV EBX, CR2, with mod = 10
    SHOWS   R_EBX, 0x12345678
    PASSES

    CASE PM32+0, "lmsw changes PE, MP, EM and TS, and cannot clear PE"
    mov     eax, 0xFFF0
    lmsw    ax
    mov     eax, cr0
    mov     ebx, 0x000E
    lmsw    bx
    mov     ebx, cr0
    clts
    mov     ecx, cr0
    SHOWS   R_EAX, CR0_PE+CR0_ET, 0xFFFF
    SHOWS   R_EBX, CR0_PE+CR0_MP+CR0_EM+CR0_TS+CR0_ET, 0xFFFF
    SHOWS   R_ECX, CR0_PE+CR0_MP+CR0_EM+CR0_ET, 0xFFFF
    PASSES

.irp cpl, 0, 1, 2, 3
    CASE PM32+\cpl, "smsw, sgdt, sidt, sldt and str run in ring \cpl"
    smsw    ax
    sgdt    ds:[0x40]
    sidt    ds:[0x50]
    sldt    bx
    str     cx
    SHOWS   R_EAX, CR0_PE, CR0_PE
    SHOWS   DATA_BASE+0x40, GDT_SIZE-1, 0xFFFF
    SHOWS   DATA_BASE+0x42, GDT
    SHOWS   DATA_BASE+0x52, IDT
    SHOWS   R_EBX, S_LDT, 0xFFFF
    SHOWS   R_ECX, S_TSS_A, 0xFFFF
    PASSES
.endr

    CASE PM32+0, "lgdt with an operand size of 16 bits loads 24 bits of base"
    mov     dword ptr ds:[0x40], (GDT<<16)+GDT_SIZE-1
    mov     dword ptr ds:[0x44], 0xAB00
    data16 lgdt ds:[0x40]
    sgdt    ds:[0x50]
    SHOWS   DATA_BASE+0x52, GDT
    PASSES

    CASE PM32+0, "invlpg, invd and wbinvd run in ring 0"
    invlpg  ds:[0x40]
    wbinvd
    PASSES

# --- what belongs to ring 0 ---------------------------------------------------------------------------------------------------

.macro privileged code
.irp mode, PM32+1, PM32+2, PM32+3, PM16+3
    CASE \mode, "\mode: \code is #GP(0)", 3*F_IOPL
9:  \code
    FAULTS  GP, 0
.endr
.endm
    privileged "hlt"
    privileged "clts"
    privileged "lmsw ax"
    privileged "lgdt ds:[0x40]"
    privileged "lidt ds:[0x40]"
    privileged "mov eax, cr0"
    privileged "mov cr0, eax"
    privileged "mov eax, cr2"
    privileged "mov cr2, eax"
    privileged "mov eax, cr3"
    privileged "mov cr3, eax"
    privileged "mov eax, cr4"
    privileged "mov cr4, eax"
    privileged "invlpg ds:[0x40]"
    privileged "invd"
    privileged "wbinvd"
    privileged "rdmsr"
    privileged "wrmsr"

    CASE PM32+3, "sysexit in ring 3 is #GP(0)"
9:  sysexit
    FAULTS  GP, 0

# --- MSRs and counters ----------------------------------------------------------------------------------------------------------

.irp instruction, rdmsr, wrmsr
    CASE PM32+0, "\instruction of an MSR that does not exist is #GP(0)"
    mov     ecx, 0x12345678
9:  \instruction
    FAULTS  GP, 0
.endr

    CASE PM32+0, "SYSENTER's MSRs hold what is written"
    mov     ecx, 0x175
    mov     eax, 0x13579BDF
    xor     edx, edx
    wrmsr
    xor     eax, eax
    rdmsr
    mov     ebx, eax
    xor     eax, eax
    wrmsr
    SHOWS   R_EBX, 0x13579BDF
    PASSES

    CASE PM32+3, "sysenter without a code segment is #GP(0)"
    PREPARE
    mov     ecx, 0x174
    xor     eax, eax
    xor     edx, edx
    wrmsr
    RUN
9:  sysenter
    FAULTS  GP, 0

    CASE PM32+0, "sysexit without a code segment is #GP(0)"
    PREPARE
    mov     ecx, 0x174
    xor     eax, eax
    xor     edx, edx
    wrmsr
    RUN
9:  sysexit
    FAULTS  GP, 0

    CASE REAL, "sysenter in real mode is #GP"
9:  sysenter
    FAULTS  GP, NONE

    CASE PM32+3, "rdtsc runs in ring 3"
    rdtsc
    PASSES

.irp mode, PM32+1, PM32+3, V86+3
    CASE \mode, "\mode: rdtsc with CR4.TSD is #GP(0)"
    PREPARE
    mov     eax, CR4_TSD
    mov     cr4, eax
    RUN
9:  rdtsc
    FAULTS  GP, 0
.endr

    CASE PM32+0, "rdtsc with CR4.TSD runs in ring 0"
    PREPARE
    mov     eax, CR4_TSD
    mov     cr4, eax
    RUN
    rdtsc
    PASSES

    CASE PM32+3, "rdpmc in ring 3 without CR4.PCE is #GP(0)"
    xor     ecx, ecx
9:  rdpmc
    FAULTS  GP, 0

# --- FPU and SSE ------------------------------------------------------------------------------------------------------------------

.macro fpu_case name, cr0, code, verdict:vararg
    CASE PM32+3, "\name"
    PREPARE
    mov     eax, cr0
    and     al, ~(CR0_MP+CR0_EM+CR0_TS)
    or      eax, \cr0
    mov     cr0, eax
    RUN
9:  \code
    \verdict
.endm
    fpu_case "x87 with TS is #NM", CR0_TS, "fld1", FAULTS NM, NONE
    fpu_case "x87 with EM is #NM", CR0_EM, "fld1", FAULTS NM, NONE
    fpu_case "wait with TS and MP is #NM", CR0_TS+CR0_MP, "fwait", FAULTS NM, NONE
    fpu_case "wait with TS alone", CR0_TS, "fwait", PASSES
    fpu_case "wait with EM", CR0_EM, "fwait", PASSES
    fpu_case "wait with MP alone", CR0_MP, "fwait", PASSES
    fpu_case "x87 with MP alone", CR0_MP, "fninit", PASSES
    fpu_case "MMX with TS is #NM", CR0_TS, "movd mm0, eax", FAULTS NM, NONE
    fpu_case "MMX with EM is #UD", CR0_EM, "movd mm0, eax", FAULTS UD, NONE
    fpu_case "SSE without OSFXSR is #UD", 0, "xorps xmm0, xmm0", FAULTS UD, NONE

.macro sse_case name, cr0, code, verdict:vararg
    CASE PM32+3, "\name", 2, CPUID_SSE
    PREPARE
    mov     eax, CR4_OSFXSR
    mov     cr4, eax
    mov     eax, cr0
    and     al, ~(CR0_MP+CR0_EM+CR0_TS)
    or      eax, \cr0
    mov     cr0, eax
    RUN
9:  \code
    \verdict
.endm
    sse_case "SSE with OSFXSR", 0, "xorps xmm0, xmm0", PASSES
    sse_case "SSE with TS is #NM", CR0_TS, "xorps xmm0, xmm0", FAULTS NM, NONE
    sse_case "SSE with EM is #UD", CR0_EM, "xorps xmm0, xmm0", FAULTS UD, NONE
    sse_case "16 bytes that are not aligned are #GP(0)", 0, "movaps xmm0, ds:[0x48]", FAULTS GP, 0
    sse_case "16 bytes that are aligned", 0, "movaps xmm0, ds:[0x40]", PASSES
    sse_case "16 bytes that are not aligned, stored, are #GP(0)", 0, "movaps ds:[0x44], xmm0", FAULTS GP, 0
    sse_case "an operand of arithmetic that is not aligned is #GP(0)", 0, "addps xmm0, ds:[0x48]", FAULTS GP, 0
    sse_case "movups needs no alignment", 0, "movups xmm0, ds:[0x41]", PASSES
    sse_case "movups beyond the limit is #GP(0)", 0, "movups xmm0, ds:[0xFFF1]", FAULTS GP, 0
    sse_case "ldmxcsr with reserved bits is #GP(0)", 0, "mov dword ptr ds:[0x40], 0x10000; 9: ldmxcsr ds:[0x40]", FAULTS GP, 0
    sse_case "fxsave to what is not aligned is #GP(0)", 0, "fxsave ds:[0x48]", FAULTS GP, 0
    sse_case "fxsave beyond the limit is #GP(0)", 0, "fxsave ds:[0xFF00]", FAULTS GP, 0
