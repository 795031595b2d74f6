# The system BIOS: the contract that its files share, the reset entry and POST.
#
# The ROM fills F000:0000-F000:FFFF, is seen again below 4 GiB, and runs as 16-bit code with CS = F000h; main.s comes
# first, the other files of this directory follow by name, as one assembly unit. Code that must stand at a fixed
# address says `.org` and ends with `.flow` (see vectors.s). Read firmware/assembler.py for what the assembler takes.
#
# Names that other files provide:
#   int13_entry     INT 13h, entered as an interrupt handler: FLAGS, CS, IP on the caller's stack, IF clear
#   int18_entry     INT 18h: no boot device has answered
#   int19_entry     INT 19h: boot, by the order in CMOS 3Dh and 38h
#   disk_post       near call during POST, DS = 40h, interrupts on, after PIC, PIT, keyboard and video are up: find the
#                   drives, set BDA_HD_COUNT and the EBDA, print a line for each; may change any register but SS:SP, DS
#   int0e_handler, int76_handler, int77_handler   IRQ 6, floppy; IRQ 14 and 15, first and second ATA channel:
#                   each is an interrupt handler that sends its own EOI and returns with IRET
#
# Routines here for every file, all near, all preserving every register that they do not return (flags are lost):
#   puts_rom        print the zero-terminated string at CS:SI with INT 10h teletype
#   putc            print the character in AL
#   put_hex8        print AL, put_hex16 print AX, in hexadecimal
#   put_dec         print AX in decimal, no leading zeros
#   put_dec32       print EAX in decimal
#   delay_us        wait CX microseconds, with PIT channel 0; works with interrupts on or off
#   cmos_read       AL = CMOS register AL         cmos_write   CMOS register AL = AH
#   eoi_master, eoi_slave     end of interrupt for IRQ 0-7; for IRQ 8-15
#   iret_cf, iret_nc          jump there: IRET with CF set or clear for the caller (macros IRET_CF, IRET_NC do it in place)
#
# A service saves what it does not return, uses the caller's stack, and owes nothing to DS on entry.

.include "bios.inc"

.set POST_RESET, 0x01           # what port 80h shows
.set POST_CHIPS, 0x10
.set POST_TABLES, 0x20
.set POST_PCI, 0x28
.set POST_KEYBOARD, 0x30
.set POST_VIDEO, 0x40
.set POST_DISKS, 0x50
.set POST_ROMS, 0x60
.set POST_BOOT, 0x70

.macro POST_CODE code
    mov al, \code
    out POST_PORT, al
.endm

# Reset. F000:FFF0 jumps here by way of F000:E05B, in real mode, interrupts off; memory may hold a running system
# that went through reset to leave protected mode: CMOS 0Fh says so. No stack, and nothing in RAM may be touched yet.
#
# Source: IBM PC/AT Technical Reference, "Shutdown", CMOS address 0Fh.
reset:
    cli
    cld
    POST_CODE POST_RESET

    mov al, CMOS_SHUTDOWN           # why are we here?
    out CMOS_INDEX, al
    in al, CMOS_DATA
    mov bl, al
    mov al, CMOS_SHUTDOWN           # the next reset is a plain one
    out CMOS_INDEX, al
    xor al, al
    out CMOS_DATA, al

    cmp bl, 0x05
    je reset_eoi_and_jump
    cmp bl, 0x0A
    je reset_jump
    cmp bl, 0x09
    je reset_block_move
    jmp resume                      # 00h, 04h and everything that has no meaning here

# Shutdown code 05h: end the interrupts in service, then go on where 40:67 points.
reset_eoi_and_jump:
    mov al, PIC_EOI
    out PIC2, al
    out PIC1, al

# Shutdown code 0Ah: go on where 40:67 points.
reset_jump:
    mov ax, BDA_SEG
    mov ds, ax
    ljmp [BDA_RESET_VECTOR]

# Shutdown code 09h: 40:67 holds SS:SP of an INT 15h caller's stack, on it DS, ES and what PUSHA saved.
reset_block_move:
    mov ax, BDA_SEG
    mov ds, ax
    lss sp, [BDA_RESET_VECTOR]
    pop ds
    pop es
    popa
    mov ah, 0                       # success
    clc
    sti
    retf 2                          # the caller keeps our CF

# Was this the end of suspend to RAM? The power management function says so; then go on where the FACS points, in real
# mode at its segment and offset in 16 bytes, with DS and ES 0, and the board as reset has left it. Without the function its ports read
# as ones, which is no such suspend type. 40:67 takes the address.
#
# Source: ACPI Specification 1.0b, "Firmware ACPI Control Structure", "Waking from S3".
resume:
    mov dx, PCI_ADDRESS
    mov eax, PCI_ENABLE | PM_FUNCTION << 8 | PM_PMBA
    out dx, eax
    mov dx, PCI_DATA
    mov eax, PM_BASE | 1
    out dx, eax
    mov dx, PCI_ADDRESS
    mov eax, PCI_ENABLE | PM_FUNCTION << 8 | PM_PMREGMISC
    out dx, eax
    mov dx, PCI_DATA
    mov al, 1
    out dx, al

    mov dx, PM_BASE
    in ax, dx
    test ax, PM_WAKE
    jz post
    mov dx, PM_CONTROL
    in ax, dx
    and ax, PM_SUS_TYPE
    cmp ax, PM_SUS_TO_RAM
    jne post

    mov ax, EBDA_SEG
    mov ds, ax
    mov ebx, [FACS_OFFSET + 12]     # the waking vector; 0: nobody wants it
    test ebx, ebx
    jz post
    mov ax, PM_SCI_EN
    out dx, ax

    mov ax, BDA_SEG
    mov ds, ax
    mov cx, bx
    and cx, 0x000F
    shr ebx, 4
    mov [BDA_RESET_VECTOR], cx
    mov [BDA_RESET_VECTOR + 2], bx
    mov ss, ax
    mov sp, BDA_RESET_VECTOR
    xor ax, ax
    mov ds, ax
    retf

# Power-on self test: bring up the board, the tables in low memory and the consoles, find the drives, boot.
post:
    xor ax, ax                      # a stack
    mov ss, ax
    mov sp, POST_STACK

    POST_CODE POST_CHIPS
    call init_dma
    call init_pic
    call init_pit
    call init_rtc

    POST_CODE POST_TABLES
    call init_vectors
    call init_bda
    call init_ticks

    POST_CODE POST_PCI
    call pci_post
    call apic_post
    call unmask_irqs
    sti

    POST_CODE POST_KEYBOARD
    call init_keyboard

    POST_CODE POST_VIDEO
    mov ax, 0xC000                  # the video ROM first, so that the rest can be seen
    mov dx, 0xC800
    call scan_roms
    call banner

    POST_CODE POST_DISKS
    mov ax, BDA_SEG
    mov ds, ax
    call disk_post

    POST_CODE POST_ROMS
    mov ax, 0xC800
    mov dx, 0xE000
    call scan_roms

    POST_CODE POST_BOOT
    int 0x19
    int 0x18                        # nobody booted
hang:
    hlt
    jmp hang

# Print who we are and what memory there is. Changes AX, SI, DS.
banner:
    mov si, banner_name
    call puts_rom
    int 0x12
    call put_dec
    mov si, banner_base
    call puts_rom
    call extended_kb
    call put_dec32
    mov si, banner_extended
    jmp puts_rom

banner_name:
    .asciz "Glassvisor BIOS 0.1\r\n"
banner_base:
    .asciz " KiB base memory, "
banner_extended:
    .asciz " KiB extended memory\r\n"
