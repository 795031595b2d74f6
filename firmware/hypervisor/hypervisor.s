# A hypervisor that does what it is told: the ROM with which an emulator of a whole PC runs programs for the tester.
#
# The processor comes here out of reset, in real mode, with the last 16 bytes of this ROM. We never return. The other
# side, outside the emulator, writes a state and all of the guest's memory to the first disk, and lets us go on from the
# breakpoint at `next`. We enter the guest by VMRUN; whatever makes it leave, we come back to `next` with its
# registers in the mailbox, and the other side reads them there, and the guest's memory where it is.
#
# The guest has physical memory from 0 to GUEST_RAM. Ours is above; our code and tables are in the ROM.
#
# Source: AMD64 Architecture Programmer's Manual, Vol. 2, "Secure Virtual Machine"; AT Attachment with Packet Interface,
# "PIO data-in command protocol"; SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)".

.set MAILBOX, 0x90000           # the VMCB, then a page with what VMRUN does not load
.set MAILBOX_SECTORS, 16
.set VMCB, MAILBOX
.set REGISTERS, MAILBOX + 0x1000
.set R_ECX, REGISTERS + 4       # EAX and ESP are in the VMCB
.set R_EDX, REGISTERS + 8
.set R_EBX, REGISTERS + 12
.set R_EBP, REGISTERS + 20
.set R_ESI, REGISTERS + 24
.set R_EDI, REGISTERS + 28
.set R_DR, REGISTERS + 32       # DR0 to DR3
.set R_TICKS, REGISTERS + 48    # how long the guest may run
.set R_SECTORS, REGISTERS + 52  # of the guest's memory to be read, a multiple of RUN; 0 if it is as it was
.set R_CR2, REGISTERS + 56
.set R_FX, REGISTERS + 0x200    # as FXSAVE has it
.set RUN, 160
.set HOST_SAVE, 0x92000
.set BITMAPS, 0x94000           # all ones: every MSR, every port
.set BITMAPS_SIZE, 0x6000
.set STACK_TOP, 0x9F000

.set EFER, 0xC0000080
.set EFER_SVME, 1 << 12
.set VM_HSAVE_PA, 0xC0010117
.set CR0_PE, 1 << 0
.set CR4_OSFXSR, 1 << 9

.set APIC_SPURIOUS, 0xFEE000F0
.set APIC_EOI, 0xFEE000B0
.set APIC_LVT_TIMER, 0xFEE00320
.set APIC_INITIAL_COUNT, 0xFEE00380
.set APIC_DIVIDE, 0xFEE003E0
.set TIMER_VECTOR, 0x20

.set ATA_COUNT, 0x1F2
.set ATA_DEVICE, 0x1F6
.set ATA_STATUS, 0x1F7          # read
.set ATA_COMMAND, 0x1F7         # written
.set ATA_DATA, 0x1F0
.set ATA_CONTROL, 0x3F6
.set READ_SECTORS, 0x20
.set ATA_BSY, 1 << 7
.set ATA_DRQ, 1 << 3
.set ATA_NIEN, 1 << 1

.set BASE, 0xF0000
.set FLAT_CODE, 8
.set FLAT_DATA, 16

.org 0
.code32
gdt:
    .quad 0
    .quad 0x00CF9B000000FFFF
    .quad 0x00CF93000000FFFF
idt:                            # two gates are in use
    .quad 0
    .word single_step, FLAT_CODE, 0x8E00, 0xF
    .fill TIMER_VECTOR - 2, 8, 0
    .word tick, FLAT_CODE, 0x8E00, 0xF
gdtr:
    .word 23
    .long BASE + gdt
idtr:
    .word TIMER_VECTOR * 8 + 7
    .long BASE + idt

main:
    mov eax, FLAT_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, STACK_TOP
    lidt [BASE + idtr]
    mov ecx, EFER
    mov eax, EFER_SVME
    xor edx, edx
    wrmsr
    mov ecx, VM_HSAVE_PA
    mov eax, HOST_SAVE
    wrmsr
    mov eax, cr4
    or eax, CR4_OSFXSR
    mov cr4, eax
    mov edi, BITMAPS
    mov ecx, BITMAPS_SIZE / 4
    or eax, -1
    cld
    rep stosd
    mov edx, ATA_CONTROL
    mov al, ATA_NIEN
    out dx, al
    mov dword ptr [APIC_SPURIOUS], 0x1FF
    mov dword ptr [APIC_DIVIDE], 0xB    # by 1
    mov dword ptr [APIC_LVT_TIMER], TIMER_VECTOR

# Wait for the other side; take what it has written.
next:
    .byte 0x66, 0x87, 0xDB      # xchg bx, bx: the emulator stops here
    xor ebx, ebx                # from the first sector
    mov edi, MAILBOX
    mov ecx, MAILBOX_SECTORS
    call read
    mov esi, [R_SECTORS]
    xor edi, edi
more:
    test esi, esi
    jz enter
    mov ecx, RUN
    call read
    sub esi, RUN
    jmp more

# Load what VMRUN leaves alone, and enter. The timer's interrupt is the way back from a guest that runs on and on, if it
# has IF set: the emulator looks at that flag, not at ours.
enter:
    fxrstor [R_FX]
    mov eax, [R_DR]
    mov dr0, eax
    mov eax, [R_DR + 4]
    mov dr1, eax
    mov eax, [R_DR + 8]
    mov dr2, eax
    mov eax, [R_DR + 12]
    mov dr3, eax
    mov eax, [R_CR2]            # the emulator's VMRUN does not load it
    mov cr2, eax
    mov eax, [R_TICKS]
    mov [APIC_INITIAL_COUNT], eax
    mov ecx, [R_ECX]
    mov edx, [R_EDX]
    mov ebx, [R_EBX]
    mov ebp, [R_EBP]
    mov esi, [R_ESI]
    mov edi, [R_EDI]
    mov eax, VMCB
    .byte 0x0F, 0x01, 0xDD      # clgi
    .byte 0x0F, 0x01, 0xDA      # vmload
    sti                         # the host's IF decides whether an interrupt makes the guest leave
    .byte 0x0F, 0x01, 0xD8      # vmrun
    cli
    .byte 0x0F, 0x01, 0xDB      # vmsave
    mov [R_ECX], ecx
    mov [R_EDX], edx
    mov [R_EBX], ebx
    mov [R_EBP], ebp
    mov [R_ESI], esi
    mov [R_EDI], edi
    mov eax, cr2
    mov [R_CR2], eax
    mov eax, dr0
    mov [R_DR], eax
    mov eax, dr1
    mov [R_DR + 4], eax
    mov eax, dr2
    mov [R_DR + 8], eax
    mov eax, dr3
    mov [R_DR + 12], eax
    fxsave [R_FX]
    mov dword ptr [APIC_INITIAL_COUNT], 0
    .byte 0x0F, 0x01, 0xDC      # stgi
    sti                         # what made the guest leave may come in now
    nop
    cli
    jmp next

# ECX sectors, at most 256, from sector EBX on, to EDI; both advance. Changes EAX, ECX, EDX.
read:
    mov edx, ATA_STATUS
.busy:
    in al, dx
    test al, ATA_BSY
    jnz .busy
    push ecx
    mov edx, ATA_DEVICE
    mov al, 0xE0                # LBA, first device
    out dx, al
    mov edx, ATA_COUNT
    mov eax, ecx
    out dx, al
    inc edx
    mov eax, ebx
    out dx, al                  # LBA 7:0, 15:8, 23:16
    inc edx
    shr eax, 8
    out dx, al
    inc edx
    shr eax, 8
    out dx, al
    mov edx, ATA_COMMAND
    mov al, READ_SECTORS
    out dx, al
    pop ecx
    add ebx, ecx
.sector:
    push ecx
    mov edx, ATA_STATUS
.wait:
    in al, dx
    and al, ATA_BSY | ATA_DRQ
    cmp al, ATA_DRQ
    jne .wait
    mov edx, ATA_DATA
    mov ecx, 256
    rep insw
    pop ecx
    loop .sector
    ret

# A guest that leaves under TF leaves us the trap, though our TF is clear and GIF too. Changes nothing.
single_step:
    iretd

# The timer's interrupt: only acknowledged. Changes nothing.
tick:
    mov dword ptr [APIC_EOI], 0
    iretd

.code16
start:
    lgdt cs:[gdtr]
    mov eax, cr0
    or al, CR0_PE
    mov cr0, eax
    .byte 0x66, 0xEA            # jmp FLAT_CODE:main
    .long BASE + main
    .word FLAT_CODE

.org 0xFFF0
reset:
    jmp start
