# The boot sector of a benchmark's image: loads what follows it and enters that in 32-bit protected mode.
#
# In: CS:IP = 0:7C00h, DL = the drive, as the BIOS leaves it. CHUNKS and LOAD are set by who assembles this.
# Out: flat segments, interrupts off and masked at both 8259A, EIP = LOAD.
#
# Source: Phoenix, "Enhanced Disk Drive Specification" (INT 13h, AH = 42h); Intel SDM Vol. 3A, "Switching to Protected
# Mode".

.set PACKET, 0x600
.set CHUNK, 32                          # sectors in one read: never across 64 KiB
.set SECTOR, 512

start:
    cli
    ljmp 0:.here
.here:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, start
    cld
    sti

# Read CHUNKS times CHUNK sectors, from the second one of the disk on.
    mov word ptr [PACKET], 16
    mov word ptr [PACKET + 2], CHUNK
    mov word ptr [PACKET + 4], 0
    mov word ptr [PACKET + 6], LOAD >> 4
    mov dword ptr [PACKET + 8], 1
    mov dword ptr [PACKET + 12], 0
    mov cx, CHUNKS
.read:
    push cx
    push dx
    mov si, PACKET
    mov ah, 0x42
    int 0x13
    pop dx
    pop cx
    jc failed
    mov word ptr [PACKET + 2], CHUNK    # the BIOS says there how many it has read
    add word ptr [PACKET + 6], CHUNK * SECTOR >> 4
    add dword ptr [PACKET + 8], CHUNK
    loop .read

# No interrupts from here on; A20 open, by the system control port.
    cli
    mov al, 0xFF
    out 0x21, al
    out 0xA1, al
    in al, 0x92
    or al, 2
    and al, 0xFE
    out 0x92, al
    mov si, gdt_pointer
    lgdt [si]
    mov eax, cr0
    or al, 1                            # PE
    mov cr0, eax
    ljmp 8:.flat
.code32
.flat:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    mov eax, LOAD
    jmp eax
.code16

# The disk does not answer: the mark of failure, for good.
failed:
    cli
    mov al, 0xFF
    out 0xE9, al
    hlt
    jmp failed

.align 8
gdt:
    .long 0, 0, 0x0000FFFF, 0x00CF9B00, 0x0000FFFF, 0x00CF9300
gdt_pointer:
    .word 23
    .long gdt
