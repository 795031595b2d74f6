# Group 14: page faults of 32-bit paging: error codes, CR2, accessed and dirty bits, and what is undone.
#
# Sources: SDM Vol. 3A, "32-Bit Paging", "Page-Fault Exceptions", "Determination of Access Rights", "Accessed and Dirty Flags".

.include "frame.inc"
    GROUP 0x1401

.equ PF_P, 1
.equ PF_W, 2
.equ PF_U, 4
.equ PTE_P, 1
.equ PTE_W, 2
.equ PTE_U, 4
.equ PTE_A, 0x20
.equ PTE_D, 0x40
.equ CR0_WP, 1 << 16
.equ CR4_PSE, 1 << 4

.equ PAGE, DATA_BASE + 0x2000           # the page of the tests; DS has it at 2000h
.equ PTE, PAGE_TABLE + (PAGE >> 12) * 4
.equ NEXT_PTE, PTE + 4

# One access to the page whose entry has `bits`.
.macro page_case mode, wp, name, bits, code, verdict:vararg
    CASE \mode+PAGED, "\mode, WP \wp: \name"
    PREPARE
    mov     dword ptr ds:[PTE], PAGE + \bits
    .if \wp
    mov     eax, cr0
    or      eax, CR0_WP
    mov     cr0, eax
    .endif
    RUN
    mov     bx, 0x2000
    movzx   ebx, bx
9:  \code
    \verdict
.endm
.macro PAGE_FAULT error, address=PAGE
    SHOWS   R_CR2, \address
    FAULTS  PF, \error
.endm
.macro LEFT bits
    SHOWS   PTE, PAGE+\bits
    PASSES
.endm
.irp mode, PM32+3, PM16+3, V86+0
    page_case \mode, 1, "reading what is not present", 0, "mov al, [bx+4]", PAGE_FAULT PF_U, PAGE+4
    page_case \mode, 1, "writing what is not present", PTE_W+PTE_U, "mov [bx], al", PAGE_FAULT PF_U+PF_W
    page_case \mode, 1, "reading a page of the supervisor", PTE_P+PTE_W, "mov al, [bx]", PAGE_FAULT PF_U+PF_P
    page_case \mode, 1, "writing a page of the supervisor", PTE_P+PTE_W, "mov [bx], al", PAGE_FAULT PF_U+PF_W+PF_P
    page_case \mode, 1, "reading a read-only page", PTE_P+PTE_U, "mov al, [bx]", LEFT PTE_P+PTE_U+PTE_A
    page_case \mode, 1, "writing a read-only page", PTE_P+PTE_U, "mov [bx], al", PAGE_FAULT PF_U+PF_W+PF_P
    page_case \mode, 0, "writing a read-only page", PTE_P+PTE_U, "mov [bx], al", PAGE_FAULT PF_U+PF_W+PF_P
    page_case \mode, 0, "writing a page sets A and D", PTE_P+PTE_U+PTE_W, "mov [bx], al", LEFT PTE_P+PTE_U+PTE_W+PTE_A+PTE_D
    page_case \mode, 0, "reading and writing a read-only page", PTE_P+PTE_U, "add [bx], al", PAGE_FAULT PF_U+PF_W+PF_P
.endr
.irp mode, PM32+0, PM32+1, PM32+2
    page_case \mode, 1, "reading what is not present", 0, "mov al, [ebx]", PAGE_FAULT 0
    page_case \mode, 1, "reading a page of the supervisor", PTE_P, "mov al, [ebx]", LEFT PTE_P+PTE_A
    page_case \mode, 1, "writing a read-only page", PTE_P+PTE_U, "mov [ebx], al", PAGE_FAULT PF_W+PF_P
    page_case \mode, 1, "writing a read-only page of the supervisor", PTE_P, "mov [ebx], al", PAGE_FAULT PF_W+PF_P
    page_case \mode, 0, "writing a read-only page", PTE_P+PTE_U, "mov [ebx], al", LEFT PTE_P+PTE_U+PTE_A+PTE_D
    page_case \mode, 0, "a fault sets no accessed bit", 0x200, "mov al, [ebx]", PAGE_FAULT 0
.endr

    CASE PM32+0+PAGED, "a directory entry that is not present"
    PREPARE
    DESCRIPTOR T0, 0x800000, 0xFFFF, P+RW
    RUN
    mov     eax, T0
    mov     es, eax
9:  mov     al, es:[0x123]
    SHOWS   R_CR2, 0x800123
    FAULTS  PF, 0

    CASE PM32+3+PAGED, "a directory entry of the supervisor: ring 3 cannot even go there"
    PREPARE
    mov     dword ptr ds:[PAGE_DIRECTORY+8], PAGE_TABLE+PTE_P+PTE_W
    DESCRIPTOR T0, 0x800000, 0xFFFFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     es, eax
9:  mov     al, es:[PAGE]
    SHOWS   R_CR2, 0x800000+PAGE
    FAULTS  PF, PF_P+PF_U

    CASE PM32+3+PAGED, "a read-only directory entry"
    PREPARE
    mov     dword ptr ds:[PAGE_DIRECTORY+8], PAGE_TABLE+PTE_P+PTE_U
    DESCRIPTOR T0, 0x800000, 0xFFFFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     es, eax
    mov     al, es:[PAGE]
9:  mov     es:[PAGE], al
    SHOWS   R_CR2, 0x800000+PAGE
    FAULTS  PF, PF_P+PF_W+PF_U

    CASE PM32+3+PAGED, "a page of 4 MiB", 2, CPUID_PSE
    PREPARE
    mov     eax, CR4_PSE
    mov     cr4, eax
    mov     dword ptr ds:[PAGE_DIRECTORY+8], 0x87
    DESCRIPTOR T0, 0x800000, 0xFFFFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     es, eax
    mov     al, es:[DATA_BASE+0x45]
    mov     es:[DATA_BASE+0x40], al
    SHOWS   DATA_BASE+0x40, 0x45, 0xFF
    SHOWS   PAGE_DIRECTORY+8, 0x87+PTE_A+PTE_D
    PASSES

    CASE PM32+3+PAGED, "bit 7 of a directory entry without PSE is ignored"
    PREPARE
    mov     dword ptr ds:[PAGE_DIRECTORY+8], PAGE_TABLE+0x87
    DESCRIPTOR T0, 0x800000, 0xFFFFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     es, eax
    mov     al, es:[DATA_BASE+0x45]
    SHOWS   R_EAX, 0x45, 0xFF
    PASSES

    CASE PM32+3+PAGED, "an access across two pages: the second page is in CR2, and nothing is written"
    PREPARE
    mov     dword ptr ds:[NEXT_PTE], 0
    RUN
9:  mov     dword ptr ds:[0x2FFE], 0x12345678
    SHOWS   R_CR2, PAGE+0x1000
    SHOWS   PAGE+0xFFC, 0
    FAULTS  PF, PF_U+PF_W

    CASE PM32+3+PAGED, "an access across two pages: the first page is in CR2 at its address"
    PREPARE
    mov     dword ptr ds:[PTE], 0
    RUN
9:  mov     dword ptr ds:[0x2FFE], 0x12345678
    SHOWS   R_CR2, PAGE+0xFFE
    FAULTS  PF, PF_U+PF_W

    CASE PM32+3+PAGED, "rep movsb stops at the page that is missing"
    PREPARE
    mov     dword ptr ds:[PTE], 0
    RUN
    mov     esi, 0x20
    mov     edi, 0x1FFE
    mov     ecx, 8
9:  rep movsb
    SHOWS   R_ECX, 6
    SHOWS   R_ESI, 0x22
    SHOWS   R_EDI, 0x2000
    SHOWS   R_CR2, PAGE
    FAULTS  PF, PF_U+PF_W

    CASE PM32+3+PAGED, "push to a page that is missing leaves ESP"
    PREPARE
    mov     dword ptr ds:[PAGE_TABLE + ((STACK_BASE+3*STACK_STEP)>>12)*4], 0
    RUN
9:  push    eax
    SHOWS   R_ESP, STACK_TOP
    SHOWS   R_CR2, STACK_BASE+3*STACK_STEP+STACK_TOP-4
    FAULTS  PF, PF_U+PF_W

    CASE PM32+3+PAGED, "fetching from a page that is missing"
    PREPARE
    mov     dword ptr ds:[PTE], 0
    DESCRIPTOR T0, 0, 0xFFFFF, P+DPL3+XR
    RUN
    ljmp    T0+3, PAGE
    SHOWS   R_CR2, PAGE
    end_of_case PF, PF_U, PAGE

    CASE PM32+3+PAGED, "fetching from a page of the supervisor"
    PREPARE
    mov     dword ptr ds:[PTE], PAGE+PTE_P+PTE_W
    DESCRIPTOR T0, 0, 0xFFFFF, P+DPL3+XR
    RUN
    ljmp    T0+3, PAGE
    SHOWS   R_CR2, PAGE
    end_of_case PF, PF_U+PF_P, PAGE

    CASE PM32+3+PAGED, "fetching across into a page that is missing: the second page is in CR2, EIP at the instruction"
    PREPARE
    mov     byte ptr ds:[PAGE+0xFFE], 0xB8  # MOV EAX, imm32
    mov     dword ptr ds:[NEXT_PTE], 0
    DESCRIPTOR T0, 0, 0xFFFFF, P+DPL3+XR
    RUN
    ljmp    T0+3, PAGE+0xFFE
    SHOWS   R_CR2, PAGE+0x1000
    SHOWS   R_EAX, 0xA0A1A2A3
    end_of_case PF, PF_U, PAGE+0xFFE

    CASE PM32+3+PAGED, "loads of descriptors are supervisor reads"
    PREPARE
    mov     dword ptr ds:[PAGE_TABLE+8], GDT+PTE_P+PTE_W
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     es, eax
    SHOWS   GDT+T0+4, (P+DPL3+RW+ACCESSED)<<8, 0xFF00
    PASSES

    CASE PM32+0+PAGED, "an LDT in a page that is missing: the error code is that of the supervisor"
    PREPARE
    DESCRIPTOR S_LDT, PAGE, 0xFF, P+A_LDT, 0
    mov     ax, S_LDT
    lldt    ax
    mov     dword ptr ds:[PTE], 0
    RUN
    mov     eax, L1
9:  mov     es, eax
    SHOWS   R_CR2, PAGE+8
    FAULTS  PF, 0

    CASE PM32+3+PAGED, "and in ring 3, too"
    PREPARE
    DESCRIPTOR S_LDT, PAGE, 0xFF, P+A_LDT, 0
    mov     ax, S_LDT
    lldt    ax
    mov     dword ptr ds:[PTE], 0
    RUN
    mov     eax, L1+3
9:  mov     es, eax
    SHOWS   R_CR2, PAGE+8
    FAULTS  PF, 0

    CASE PM32+3+PAGED, "a stack of ring 1 in a page that is missing: #PF at the int, with the error code of the supervisor"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8, 1f, P+DPL3+A_INT32
    mov     dword ptr ds:[PAGE_TABLE + ((STACK_BASE+STACK_STEP)>>12)*4], 0
    RUN
9:  int     0x20
1:
    SHOWS   R_CR2, STACK_BASE+STACK_STEP+STACK_TOP-4
    FAULTS  PF, PF_W

    CASE PM32+3+PAGED, "#PF whose handler has no stack is #DF"
    PREPARE
    INTERRUPT_GATE PF, CODE32+8, 1f, P+A_INT32
    mov     dword ptr ds:[PAGE_TABLE + ((STACK_BASE+STACK_STEP)>>12)*4], 0
    mov     dword ptr ds:[PTE], 0
    RUN
9:  mov     al, ds:[0x2000]
1:
    FAULTS  DF, 0

    CASE PM32+3+PAGED, "#UD whose handler has no stack is #PF, not #DF"
    PREPARE
    INTERRUPT_GATE UD, CODE32+8, 1f, P+A_INT32
    mov     dword ptr ds:[PAGE_TABLE + ((STACK_BASE+STACK_STEP)>>12)*4], 0
    RUN
9:  ud2
1:
    FAULTS  PF, PF_W

    CASE PM32+0+PAGED, "invlpg makes a new entry count"
    PREPARE
    DESCRIPTOR T0, 0, 0xFFFFF, P+RW, B32+G
    RUN
    mov     eax, T0
    mov     es, eax
    mov     al, es:[PAGE]
    mov     dword ptr es:[PTE], DATA_BASE+7
    invlpg  es:[PAGE]
    mov     eax, es:[PAGE]
    SHOWS   R_EAX, 0x03020100
    PASSES

    CASE PM32+0+PAGED, "mov to CR3 makes new entries count"
    PREPARE
    DESCRIPTOR T0, 0, 0xFFFFF, P+RW, B32+G
    RUN
    mov     eax, T0
    mov     es, eax
    mov     al, es:[PAGE]
    mov     dword ptr es:[PTE], DATA_BASE+7
    mov     eax, cr3
    mov     cr3, eax
    mov     eax, es:[PAGE]
    SHOWS   R_EAX, 0x03020100
    PASSES

    CASE PM32+0+PAGED, "an entry that was not present may be used at once"
    PREPARE
    DESCRIPTOR T0, 0, 0xFFFFF, P+RW, B32+G
    mov     dword ptr ds:[PTE], 0
    RUN
    mov     eax, T0
    mov     es, eax
    mov     dword ptr es:[PTE], DATA_BASE+7
    mov     eax, es:[PAGE]
    SHOWS   R_EAX, 0x03020100
    PASSES

    CASE PM32+3+PAGED, "a limit comes before the page"
    PREPARE
    mov     dword ptr ds:[PTE], 0
    DESCRIPTOR T0, PAGE, 0xFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     ds, eax
9:  mov     al, ds:[0x100]
    FAULTS  GP, 0

# ENTER looks at the new top of the stack, which it does not write.
.macro enter_case mode, big, name, bits, esp, code, verdict:vararg
    CASE \mode+PAGED, "\mode: \name"
    PREPARE
    mov     dword ptr ds:[PTE], PAGE + \bits
    .if \mode <> V86+0
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW, \big
    .endif
    RUN
    .if \mode == V86+0
    mov     ax, DATA_BASE >> 4
    .else
    mov     ax, T0+3
    .endif
    mov     ss, ax
    mov     sp, \esp
    movzx   esp, sp
    mov     bp, 0x1234
    movzx   ebp, bp
    mov     cx, 0x5678
9:  \code
    \verdict
.endm
.macro ENTER_FAULT error, at, esp
    SHOWS   R_CR2, PAGE+\at
    SHOWS   R_ESP, \esp, 0xFFFF
    SHOWS   R_EBP, 0x1234, 0xFFFF
    SHOWS   R_ECX, 0x5678, 0xFFFF
    FAULTS  PF, \error
.endm
.macro enter_cases mode, big, size
    enter_case \mode, \big, "enter whose new top is not present", 0, 0x3100, "enter 0x200, 0", ENTER_FAULT PF_U+PF_W, 0xF00-\size, 0x3100
    enter_case \mode, \big, "enter with level 2 whose new top is not present", 0, 0x3100, "enter 0x200, 2", ENTER_FAULT PF_U+PF_W, 0xF00-3*\size, 0x3100
    enter_case \mode, \big, "enter whose new top is read-only", PTE_P+PTE_U, 0x3100, "enter 0x200, 0", ENTER_FAULT PF_U+PF_W+PF_P, 0xF00-\size, 0x3100
    enter_case \mode, \big, "enter whose first push is not present", 0, 0x2100, "enter 0x80, 0", ENTER_FAULT PF_U+PF_W, 0x100-\size, 0x2100
    enter_case \mode, \big, "enter whose new top is there", PTE_P+PTE_U+PTE_W, 0x3100, "enter 0x200, 0"
    mov     bx, sp
    mov     sp, 0x800
    SHOWS   R_EBX, 0x2F00-\size, 0xFFFF
    SHOWS   R_EBP, 0x3100-\size, 0xFFFF
    SHOWS   R_ECX, 0x5678, 0xFFFF
    PASSES
.endm
    enter_cases PM32+3, B32, 4
    enter_cases PM16+3, B16, 2
    enter_cases V86+0, 0, 2

    CASE PM32+3+PAGED, "enter of 32 bits on a 16-bit stack whose new top is not present"
    PREPARE
    mov     dword ptr ds:[PTE], 0
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW, B16
    RUN
    mov     eax, T0+3
    mov     ss, eax
    mov     esp, 0x12343100
    mov     ebp, 0xABCD8000
9:  enter   0x200, 1
    SHOWS   R_CR2, PAGE+0xEF8
    SHOWS   R_ESP, 0x12343100
    SHOWS   R_EBP, 0xABCD8000
    FAULTS  PF, PF_U+PF_W

# What reads and writes its operand asks for the write at once.
.irp code, "add [bx], al", "inc word ptr [bx]", "xchg [bx], ax", "shl byte ptr [bx], 1", "rcl byte ptr [bx], 1", "not byte ptr [bx]", "bts word ptr [bx], 3", "xadd [bx], ax", "cmpxchg [bx], ax"
    page_case PM32+3, 1, "\code: what is not present is written", 0, "\code", PAGE_FAULT PF_U+PF_W
    page_case PM32+3, 1, "\code: a page of the supervisor is written", PTE_P+PTE_W, "\code", PAGE_FAULT PF_U+PF_W+PF_P
    page_case PM32+0, 1, "\code: a page of the supervisor is written", PTE_P, "\code", PAGE_FAULT PF_W+PF_P
.endr
.irp code, "cmp [bx], al", "test [bx], al", "push word ptr [bx]", "bt word ptr [bx], 3"
    page_case PM32+3, 1, "\code: what is not present is read", 0, "\code", PAGE_FAULT PF_U
.endr
