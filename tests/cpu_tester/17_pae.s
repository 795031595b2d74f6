# Group 15: PAE paging; group 16: SYSENTER and SYSEXIT.
#
# Sources: SDM Vol. 3A, "PAE Paging", "PDPTE Registers", "Page-Fault Exceptions"; Vol. 2B, "SYSENTER", "SYSEXIT".

.include "frame.inc"
    GROUP 0x1501

.equ CR4_PAE, 1 << 5
.equ POINTERS, SPARE_PAGES              # four entries
.equ LOW_DIRECTORY, SPARE_PAGES + 0x1000
.equ HIGH_DIRECTORY, SPARE_PAGES + 0x2000
.equ LOW_TABLE, SPARE_PAGES + 0x3000    # of the first 2 MiB
.equ PAGE, DATA_BASE + 0x2000           # the page of the tests; DS has it at 2000h
.equ PTE, LOW_TABLE + (PAGE >> 12) * 8
.equ PF_P, 1
.equ PF_W, 2
.equ PF_U, 4
.equ PF_RSVD, 8

# Identity tables for the first 2 MiB, in pages of 4 KiB, and for the last 2 MiB, one page, where the ROM lies. ECX may change.
.macro pae_tables
    mov     edi, POINTERS
    mov     ecx, 0x4000 / 4
    xor     eax, eax
    rep stosd
    mov     dword ptr ds:[POINTERS], LOW_DIRECTORY + 1
    mov     dword ptr ds:[POINTERS+24], HIGH_DIRECTORY + 1
    mov     dword ptr ds:[LOW_DIRECTORY], LOW_TABLE + 7
    mov     dword ptr ds:[HIGH_DIRECTORY+511*8], 0xFFE00083
    mov     edi, LOW_TABLE
    mov     eax, 7
    mov     ecx, 512
1:  mov     [edi], eax
    add     eax, 0x1000
    add     edi, 8
    loop    1b
.endm
.macro pae_on
    mov     eax, CR4_PAE
    mov     cr4, eax
    mov     eax, POINTERS
    mov     cr3, eax
    mov     eax, cr0
    or      eax, 0x80000000
    mov     cr0, eax
.endm

# One access to the page whose entry is `high`:`low`.
.macro pae_case mode, name, low, high, code, verdict:vararg
    CASE \mode, "PAE, \mode: \name", 2, CPUID_PAE
    PREPARE
    pae_tables
    mov     dword ptr ds:[PTE], PAGE + (\low)
    mov     dword ptr ds:[PTE+4], \high
    pae_on
    RUN
    mov     ebx, 0x2000
9:  \code
    \verdict
.endm
.macro PAGE_FAULT error
    SHOWS   R_CR2, PAGE
    FAULTS  PF, \error
.endm
.macro LEFT bits
    SHOWS   PTE, PAGE+\bits
    PASSES
.endm
    pae_case PM32+3, "reading sets A", 7, 0, "mov al, [ebx]", LEFT 0x27
    pae_case PM32+3, "writing sets A and D", 7, 0, "mov [ebx], al", LEFT 0x67
    pae_case PM32+3, "reading what is not present", 0, 0, "mov al, [ebx]", PAGE_FAULT PF_U
    pae_case PM32+3, "writing a read-only page", 5, 0, "mov [ebx], al", PAGE_FAULT PF_U+PF_P+PF_W
    pae_case PM32+3, "reading a page of the supervisor", 3, 0, "mov al, [ebx]", PAGE_FAULT PF_U+PF_P
    pae_case PM32+0, "writing a read-only page without WP", 5, 0, "mov [ebx], al", LEFT 0x65
    pae_case PM32+3, "bit 63 is reserved without NXE", 7, 0x80000000, "mov al, [ebx]", PAGE_FAULT PF_U+PF_P+PF_RSVD
    pae_case PM32+3, "bit 62 is reserved", 7, 0x40000000, "mov al, [ebx]", PAGE_FAULT PF_U+PF_P+PF_RSVD
    pae_case PM32+0, "bit 52 is reserved", 7, 0x00100000, "mov [ebx], al", PAGE_FAULT PF_P+PF_W+PF_RSVD
    pae_case PM32+3, "reserved bits of what is not present do not count", 0, 0x80000000, "mov al, [ebx]", PAGE_FAULT PF_U

    CASE PM32+0, "PAE: a page of 2 MiB with a reserved address bit", 2, CPUID_PAE
    PREPARE
    pae_tables
    mov     dword ptr ds:[LOW_DIRECTORY+8], 0x2087
    DESCRIPTOR T0, 0x200000, 0xFFFF, P+RW
    pae_on
    RUN
    mov     eax, T0
    mov     es, eax
9:  mov     al, es:[0]
    SHOWS   R_CR2, 0x200000
    FAULTS  PF, PF_P+PF_RSVD

    CASE PM32+0, "PAE: a page of 2 MiB", 2, CPUID_PAE
    PREPARE
    pae_tables
    mov     dword ptr ds:[LOW_DIRECTORY+8], 0x87
    DESCRIPTOR T0, 0x200000, 0xFFFFF, P+RW
    pae_on
    RUN
    mov     eax, T0
    mov     es, eax
    mov     al, es:[DATA_BASE+0x45]
    SHOWS   R_EAX, 0x45, 0xFF
    SHOWS   LOW_DIRECTORY+8, 0xA7
    PASSES

    CASE PM32+0, "PAE: a directory pointer that is not present", 2, CPUID_PAE
    PREPARE
    pae_tables
    DESCRIPTOR T0, 0x40000000, 0xFFFF, P+RW
    pae_on
    RUN
    mov     eax, T0
    mov     es, eax
9:  mov     al, es:[0x10]
    SHOWS   R_CR2, 0x40000010
    FAULTS  PF, 0

# Reserved bits of a directory pointer that is present: 1, 2, 5-8, 63:52.
.macro pointer_refused name, low, high
    CASE PM32+0, "PAE: mov to CR3 with \name of a directory pointer is #GP(0)", 2, CPUID_PAE
    PREPARE
    pae_tables
    pae_on
    mov     dword ptr ds:[POINTERS+8], LOW_DIRECTORY + (\low)
    mov     dword ptr ds:[POINTERS+12], \high
    RUN
    mov     eax, cr3
9:  mov     cr3, eax
    FAULTS  GP, 0

    CASE PM32+0, "PAE: paging with \name of a directory pointer is #GP(0)", 2, CPUID_PAE
    PREPARE
    pae_tables
    mov     dword ptr ds:[POINTERS+8], LOW_DIRECTORY + (\low)
    mov     dword ptr ds:[POINTERS+12], \high
    mov     eax, CR4_PAE
    mov     cr4, eax
    mov     eax, POINTERS
    mov     cr3, eax
    RUN
    mov     eax, cr0
    or      eax, 0x80000000
9:  mov     cr0, eax
    FAULTS  GP, 0
.endm
    pointer_refused "bit 1", 3, 0
    pointer_refused "bit 2", 5, 0
    pointer_refused "bit 7", 0x81, 0
    pointer_refused "bit 63", 1, 0x80000000

    CASE PM32+0, "PAE: reserved bits of a directory pointer that is not present do not count", 2, CPUID_PAE
    PREPARE
    pae_tables
    mov     dword ptr ds:[POINTERS+8], 0xFFE
    pae_on
    RUN
    mov     eax, cr3
    mov     cr3, eax
    PASSES

    CASE PM32+0, "PAE: directory pointers are read when CR3 is loaded, and only then", 2, CPUID_PAE
    PREPARE
    pae_tables
    pae_on
    mov     dword ptr ds:[POINTERS+8], LOW_DIRECTORY + 1
    DESCRIPTOR T0, 0x40000000+DATA_BASE, 0xFFFF, P+RW
    RUN
    mov     eax, T0
    mov     es, eax
9:  mov     al, es:[0x10]
    SHOWS   R_CR2, 0x40000010+DATA_BASE
    FAULTS  PF, 0

    CASE PM32+0, "PAE: a new directory pointer counts once CR3 is loaded", 2, CPUID_PAE
    PREPARE
    pae_tables
    pae_on
    mov     dword ptr ds:[POINTERS+8], LOW_DIRECTORY + 1
    DESCRIPTOR T0, 0x40000000+DATA_BASE, 0xFFFF, P+RW
    RUN
    mov     eax, cr3
    mov     cr3, eax
    mov     eax, T0
    mov     es, eax
    mov     al, es:[0x10]
    SHOWS   R_EAX, 0x10, 0xFF
    PASSES

# --- SYSENTER and SYSEXIT ------------------------------------------------------------------------------------------------

    GROUP 0x1601

# SYSENTER_CS, _ESP and _EIP; EIP is linear there, as the segments are flat. Changes EAX, ECX and EDX.
.macro sysenter_to code, stack, target
    xor     edx, edx
    mov     ecx, 0x174
    mov     eax, \code
    wrmsr
    inc     ecx
    mov     eax, \stack
    wrmsr
    inc     ecx
    .byte   0xB8                        # MOV EAX, imm32
    .long   \target
    wrmsr
.endm

    CASE PM32+3, "sysenter enters flat ring 0 with IF clear", F_IF
    PREPARE
    sysenter_to MON_CODE, HANDLER_STACK-0x100, CODE_BASE+1f
    RUN
    sysenter
    ud2
1:  int3
8:
    SHOWS   R_CS, MON_CODE
    SHOWS   R_SS, MON_DATA
    SHOWS   R_ESP, HANDLER_STACK-0x100
    SHOWS   R_EFLAGS, 0, F_IF+F_VM+F_RF
    end_of_case BKPT, NONE, CODE_BASE+8b

    CASE PM32+3, "sysenter ignores the RPL of its selector"
    PREPARE
    sysenter_to MON_CODE+3, HANDLER_STACK-0x100, CODE_BASE+1f
    RUN
    sysenter
    ud2
1:  int3
8:
    SHOWS   R_CS, MON_CODE
    end_of_case BKPT, NONE, CODE_BASE+8b

    CASE V86+0, "sysenter from V86"
    PREPARE
    sysenter_to MON_CODE, HANDLER_STACK-0x100, CODE_BASE+1f
    RUN
    sysenter
    ud2
    .code32
1:  int3
8:
    SHOWS   R_CS, MON_CODE
    SHOWS   R_EFLAGS, 0, F_VM
    end_of_case BKPT, NONE, CODE_BASE+8b

    CASE PM32+0, "sysexit goes to flat ring 3 at EDX with ESP from ECX"
    PREPARE
    sysenter_to MON_CODE, 0, 0
    RUN
    mov     ecx, STACK_BASE+0x900
    .byte   0xBA                        # MOV EDX, imm32
    .long   CODE_BASE+1f
    sysexit
    ud2
1:  int3
8:
    SHOWS   R_CS, MON_CODE+16+3
    SHOWS   R_SS, MON_CODE+24+3
    SHOWS   R_ESP, STACK_BASE+0x900
    end_of_case BKPT, NONE, CODE_BASE+8b
