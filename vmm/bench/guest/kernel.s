# The kernel of a benchmark's image: sets a processor up as an operating system would and runs the cases behind it.
#
# In: 32-bit protected mode, flat segments, interrupts off. The rest of the source is generated: `cases`, and the
# symbol PAGING, 1 if they run under paging. `cases` begins in ring 0 and comes to `finished`; a case of ring 3 is
# entered by `to_user` and left by INT TO_KERNEL.
#
# A mark is a byte written to port E9h. UNEXPECTED: an exception that no case asked for.
#
# Source: Intel SDM Vol. 3A, "Task-State Segment (TSS)", "IDT Descriptors", "32-Bit Paging", "FXSAVE/FXRSTOR Support".

.set MARK_PORT, 0xE9
.set UNEXPECTED, 0xFF
.set WRONG, 0xFE

.set IDT, 0x8000
.set TSS, 0x9000
.set TSS_LIMIT, 0x88                    # 68h bytes, a map of ports 0 to FFh that lets all through, its last byte
.set LDT, 0x9800
.set PAGE_DIRECTORY, 0x200000
.set PAGE_TABLES, 0x201000
.set MAPPED_TABLES, 4                   # 16 MiB
.set KERNEL_STACK, 0x1F0000
.set USER_STACK, 0x1E0000
.set DATA, 0x400000                     # what cases may use: 4 MiB, zero at the start

.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set USER_CODE, 0x1B
.set USER_DATA, 0x23
.set SEL_TSS, 0x28
.set SEL_LDT, 0x30
.set SEL_OTHER_TSS, 0x38

.set INT_SYSTEM_CALL, 0x80
.set INT_TO_KERNEL, 0x81

entry:
    mov esp, KERNEL_STACK

# Every vector is unexpected, but for those that cases raise.
    mov edi, IDT
    mov ecx, 256
    mov edx, unexpected
.gate:
    call set_gate
    loop .gate
    mov edi, IDT
    mov edx, divide_error
    call set_gate
    mov edi, IDT + 14 * 8
    mov edx, page_fault
    call set_gate
    mov edi, IDT + INT_SYSTEM_CALL * 8
    mov edx, system_call
    call set_gate
    mov edi, IDT + INT_TO_KERNEL * 8
    mov edx, to_kernel
    call set_gate

# The task's stack for ring 0; all of its ports are allowed to ring 3.
    mov edi, TSS
    mov ecx, 0x400
    xor eax, eax
    cld
    rep stosd
    mov dword ptr [TSS + 4], KERNEL_STACK
    mov dword ptr [TSS + 8], KERNEL_DATA
    mov word ptr [TSS + 0x66], 0x68
    mov byte ptr [TSS + TSS_LIMIT], 0xFF

    mov eax, gdt_pointer
    lgdt [eax]
    mov eax, idt_pointer
    lidt [eax]
    ljmp KERNEL_CODE:.own_code
.own_code:
    mov ax, SEL_TSS
    ltr ax
    mov ax, SEL_LDT
    lldt ax
    mov ax, KERNEL_DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax

# x87 and SSE are ready: EM and TS clear, MP and NE set, OSFXSR and OSXMMEXCPT set.
    mov eax, cr0
    and eax, 0xFFFFFFF3
    or eax, 0x22
    mov cr0, eax
    mov eax, cr4
    or eax, 0x600
    mov cr4, eax
    fninit

# Page tables that map each address to itself, for every ring.
    mov edi, PAGE_TABLES
    mov eax, 7
    mov ecx, MAPPED_TABLES * 1024
.entry:
    mov dword ptr [edi], eax
    add edi, 4
    add eax, 0x1000
    loop .entry
    mov edi, PAGE_DIRECTORY
    mov ecx, 1024
    xor eax, eax
    rep stosd
    mov edi, PAGE_DIRECTORY
    mov eax, PAGE_TABLES + 7
    mov ecx, MAPPED_TABLES
.table:
    mov dword ptr [edi], eax
    add edi, 4
    add eax, 0x1000
    loop .table
    mov eax, PAGE_DIRECTORY
    mov cr3, eax
    mov eax, PAGING
    shl eax, 31
    mov edx, cr0
    or eax, edx
    mov cr0, eax
    jmp cases

finished:
    cli
    hlt
    jmp finished

# set_gate: an interrupt gate for every ring at EDI, to EDX; EDI goes on to the next one. Changes EAX.
set_gate:
    mov eax, edx
    and eax, 0xFFFF
    or eax, KERNEL_CODE << 16
    mov dword ptr [edi], eax
    mov eax, edx
    and eax, 0xFFFF0000
    or eax, 0xEE00
    mov dword ptr [edi + 4], eax
    add edi, 8
    ret

# to_user: go on in ring 3 at the address behind the call. Changes EAX.
to_user:
    pop eax
    push USER_DATA
    push USER_STACK
    push 2
    push USER_CODE
    push eax
    mov ax, USER_DATA
    mov ds, ax
    mov es, ax
    iretd

# INT TO_KERNEL: go on in ring 0 at EDX. Changes EAX and the stack.
to_kernel:
    mov esp, KERNEL_STACK
    mov ax, KERNEL_DATA
    mov ds, ax
    mov es, ax
    jmp edx

# The null system call.
system_call:
    iretd

# A DIV of two bytes: go on behind it.
divide_error:
    add dword ptr [esp], 2
    iretd

# An access of two bytes: go on behind it.
page_fault:
    add esp, 4
    add dword ptr [esp], 2
    iretd

unexpected:
    mov al, UNEXPECTED
    out MARK_PORT, al
    jmp finished

# wrong: a case has not found what it must.
wrong:
    mov al, WRONG
    out MARK_PORT, al
    jmp finished

.align 8
gdt:
    .long 0, 0
    .long 0x0000FFFF, 0x00CF9B00        # kernel code
    .long 0x0000FFFF, 0x00CF9300        # kernel data
    .long 0x0000FFFF, 0x00CFFB00        # user code
    .long 0x0000FFFF, 0x00CFF300        # user data
    .long TSS << 16 | TSS_LIMIT, 0x8900
    .long LDT << 16 | 7, 0x8200
    .long TSS << 16 | TSS_LIMIT, 0x8900 # the other task
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
.align 8
idt_pointer:
    .word 0x7FF
    .long IDT
