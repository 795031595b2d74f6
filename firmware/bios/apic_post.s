# The APICs during POST, where CPUID shows them: virtual wire mode, so that the 8259As work as on a board without.
#
# The local APIC is on, LINT0 lets the 8259As' INTR through, LINT1 is NMI; the I/O APIC has the identification that the
# tables tell. All its entries are masked since reset. The addresses are in firmware/mp.py.
#
# Source: MultiProcessor Specification 1.4, "Virtual Wire Mode"; Intel SDM Vol. 3A, "Local Vector Table", "Mode
# Switching".

.set CPUID_APIC, 1 << 9             # in EDX of leaf 1
.set APIC_SVR, 0xF0
.set APIC_LINT0, 0x350
.set APIC_LINT1, 0x360
.set SVR_ENABLE, 0x1FF              # spurious vector FFh
.set LINT_EXTINT, 0x700
.set LINT_NMI, 0x400
.set IOREGSEL, 0x00
.set IOWIN, 0x10
.set APIC_CODE, 0x08                # selectors in the table below
.set APIC_FLAT, 0x10
.set APIC_SMALL, 0x18

# Near, real mode, interrupts off. May change any register but SS:SP.
apic_post:
    mov eax, 1
    cpuid
    test edx, CPUID_APIC
    jz .none
    push ds
    lgdt cs:[apic_gdt_pointer]
    mov eax, cr0
    or al, 0x01
    mov cr0, eax
    ljmp APIC_CODE:apic_post_protected
.none:
    ret

# Protected mode, 16-bit, interrupts off; the stack is where it was.
apic_post_protected:
    mov ax, APIC_FLAT
    mov ds, ax
    mov edi, LOCAL_APIC
    mov dword ptr [edi + APIC_SVR], SVR_ENABLE
    mov dword ptr [edi + APIC_LINT0], LINT_EXTINT
    mov dword ptr [edi + APIC_LINT1], LINT_NMI
    mov edi, IO_APIC
    mov dword ptr [edi + IOREGSEL], 0
    mov dword ptr [edi + IOWIN], IO_APIC_IDENTIFICATION
    mov ax, APIC_SMALL              # a limit of 64 KiB for real mode
    mov ds, ax
    mov eax, cr0
    and al, 0xFE
    mov cr0, eax
    ljmp ROM_SEG:apic_post_back
apic_post_back:
    pop ds
    ret

apic_gdt_pointer:
    .word 4 * 8 - 1
    .word apic_gdt, ROM_SEG >> 12

apic_gdt:
    .word 0, 0, 0, 0
    .word 0xFFFF, 0, CODE_ACCESS << 8 | ROM_SEG >> 12, 0
    .word 0xFFFF, 0, DATA_ACCESS << 8, 0x00CF
    .word 0xFFFF, 0, DATA_ACCESS << 8, 0
