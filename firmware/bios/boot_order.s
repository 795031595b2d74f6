# INT 19h: boot. INT 18h: what was booted gives up.
#
# int19_entry and int18_entry are jumped to or reached by INT, in real mode with IF in any state; they forget the
# caller's stack. The devices in CMOS 3Dh (low nibble, high nibble) and 38h (high nibble) are tried in turn: 1 floppy
# drive 00h, 2 disk 80h, 3 the CD-ROMs; 0 ends the list. Without any entry the order is 1, 2, 3. INT 18h goes on with
# the device after the one that was booted last, as the BIOS Boot Specification has it; after the last one it says so
# and halts for good.
#
# A boot sector is entered at 0000:7C00 with DL = drive, SS:SP = 0000:7C00, AX = AA55h, interrupts on, DF clear and all
# other registers zero; ES:DI = 0 says that there is no Plug and Play BIOS.
#
# The signature AA55h must stand at the end of a disk's boot sector. A floppy's may lack it when CMOS 38h bit 0 is
# set; then a sector that begins with nine equal words does not boot: it was formatted and never written.
#
# Sources: IBM PC/AT Technical Reference, "INT 19h"; Compaq/Phoenix/Intel "BIOS Boot Specification" 1.01.

.include "disk.inc"

.set BOOT_ADDRESS, 0x7C00
.set BOOT_SIGNATURE, 0xAA55
.set BOOT_TRIES, 4
.set BOOT_ANY_FLOPPY, 0x01          # CMOS 38h: a floppy needs no signature

int19_entry:
    mov ax, BDA_SEG
    mov ds, ax
    mov fs, word ptr [BDA_EBDA]
    mov byte ptr fs:[EB_BOOT_STEP], 0

int18_entry:
    xor ax, ax
    mov ss, ax
    mov sp, POST_STACK
    sti
    cld
boot_next:                          # a device that does not boot comes back here
    mov ax, BDA_SEG
    mov ds, ax
    mov fs, word ptr [BDA_EBDA]
    call boot_device
    jc boot_nothing
    cmp al, 1
    je boot_floppy
    cmp al, 2
    je boot_disk
    cmp al, 3
    je boot_cd
    jmp boot_next                   # a network, or what else there may be

boot_nothing:
    mov si, text_nothing
    call puts_rom
.halt:
    cli
    hlt
    jmp .halt

# AL = the next device of the boot order. CF set: there is none left. Changes AH, BX.
boot_device:
    movzx bx, byte ptr fs:[EB_BOOT_STEP]
    cmp bl, 3
    cmc
    jc .out
    inc byte ptr fs:[EB_BOOT_STEP]
    mov al, CMOS_BOOT
    call cmos_read
    mov ah, al
    mov al, CMOS_BOOT3
    call cmos_read                  # AH = second, first; AL = third, flags
    and al, 0xF0
    test ax, ax
    jz .default
    xchg al, ah
    cmp bl, 1
    jb .low                         # first: AL 3:0
    je .high                        # second: AL 7:4
    mov al, ah                      # third
.high:
    shr al, 4
.low:
    and al, 0x0F
    cmp al, 1                       # CF set: 0 ends the list
    jnc .out
    mov byte ptr fs:[EB_BOOT_STEP], 3
.out:
    ret
.default:
    mov al, bl
    inc al
    clc
    ret

boot_floppy:
    mov si, text_floppy_boot
    call puts_rom
    mov dl, 0x00
    call boot_read
    jc boot_failed
    cmp word ptr es:[BOOT_ADDRESS+510], BOOT_SIGNATURE
    je boot_go
    mov al, CMOS_BOOT3
    call cmos_read
    test al, BOOT_ANY_FLOPPY
    jz boot_unsigned
    mov di, BOOT_ADDRESS            # nine equal words?
    mov ax, word ptr es:[di]
    mov cx, 9
    repe scasw
    jne boot_go
    jmp boot_unsigned

boot_disk:
    mov si, text_disk_boot
    call puts_rom
    mov dl, 0x80
    call boot_read
    jc boot_failed
    cmp word ptr es:[BOOT_ADDRESS+510], BOOT_SIGNATURE
    je boot_go

boot_unsigned:
    mov si, text_unsigned
    call puts_rom
    jmp boot_next

# Say what INT 13h status AH means, and try the next device.
boot_failed:
    mov al, ah
    mov si, text_absent
    cmp al, E_PARAMETER             # no such drive
    je .say
    mov si, text_empty
    cmp al, E_TIMEOUT
    je .say
    cmp al, E_NO_MEDIA
    je .say
    mov si, text_status
    call puts_rom
    call put_hex8
    mov si, text_h
.say:
    call puts_rom
    jmp boot_next

# Read the first sector of drive DL to 0000:7C00. ES = 0. CF set, AH = status: it cannot be read. Changes AX, BX, CX,
# DI.
boot_read:
    xor ax, ax
    mov es, ax
    mov di, BOOT_TRIES
.try:
    mov ah, 0x00                    # reset
    int 0x13
    mov ax, 0x0201
    mov bx, BOOT_ADDRESS
    mov cx, 0x0001
    mov dh, 0
    int 0x13
    jnc .out
    cmp ah, E_PARAMETER             # no drive, no disk: no use in trying again
    stc
    je .out
    cmp ah, E_TIMEOUT
    stc
    je .out
    dec di                          # leaves CF alone
    jnz .try
.out:
    ret

# Enter what has been loaded at 0000:7C00, drive DL.
boot_go:
    mov bx, BOOT_ADDRESS
    xor cx, cx
boot_go_to:                         # the same at CX:BX
    mov si, text_newline
    call puts_rom
    xor eax, eax
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov sp, POST_STACK
    pushf                           # as IRET wants it
    push cx
    push bx
    mov ebx, eax
    mov ecx, eax
    movzx edx, dl
    mov esi, eax
    mov edi, eax
    mov ebp, eax
    mov ax, BOOT_SIGNATURE
    cli
    or word ptr [POST_STACK-2], FLAG_IF
    and word ptr [POST_STACK-2], FLAG_IF | 2
    iret

text_floppy_boot:
    .asciz "Booting from floppy A"
text_disk_boot:
    .asciz "Booting from disk 80h"
text_absent:
    .asciz ": not there\r\n"
text_empty:
    .asciz ": no disk\r\n"
text_unsigned:
    .asciz ": not bootable\r\n"
text_status:
    .asciz ": read error "
text_h:
    .asciz "h\r\n"
text_nothing:
    .asciz "No bootable device. System halted.\r\n"
