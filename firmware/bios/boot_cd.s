# INT 19h from a CD-ROM: El Torito.
#
# boot_cd is jumped to by boot_order.s with SS = 0, FS = EBDA, DS = 40h. It looks at each drive E0h.. for the boot
# record in sector 17, takes the default entry of the boot catalogue, begins its emulation (INT 13h/4Ah) and loads it:
# without emulation 2048-byte sectors from the CD, otherwise 512-byte sectors from the emulated drive. The image is
# entered at its load segment (0: 7C0h) as a boot sector is, DL = E0h.., or the emulated drive. Sectors of the CD pass
# through 0000:7C00.
#
# Source: "El Torito Bootable CD-ROM Format Specification" 1.0, "Boot Record Volume Descriptor", "Booting Catalog".

.include "disk.inc"

.set BOOT_RECORD, 17                # sector
.set BOOT_RECORD_CATALOG, 0x47      # where it says which sector has the catalogue
.set BOOT_ENTRY, BOOT_ADDRESS+0x20  # the default entry, after the validation entry
.set BOOT_CD_WAIT, 18*15            # ticks that a drive gets to spin up
.set CD_BECOMING_READY, 0x04        # additional sense code

boot_cd:
    mov si, text_cd_boot
    call puts_rom
    mov dl, CD_FIRST
    mov al, byte ptr fs:[EB_CD_COUNT]
    mov si, text_absent
    test al, al
    jz boot_failed.say
.drive:
    push ax
    call boot_cd_drive              # comes back if it does not boot
    pop ax
    inc dl
    dec al
    jnz .drive
    jmp boot_failed.say

# Boot drive DL, or return SI = why not. Preserves AX, DL, DS, FS.
boot_cd_drive:
    pusha
    xor ax, ax
    mov es, ax
    call boot_cd_ready
    mov si, text_empty
    jc .out
    mov eax, BOOT_RECORD
    call boot_cd_sector
    mov si, text_unreadable
    jc .out
    mov si, boot_record_id
    mov di, BOOT_ADDRESS
    mov cx, 30
    call boot_compare
    mov si, text_unsigned
    jne .out

    mov eax, dword ptr es:[BOOT_ADDRESS+BOOT_RECORD_CATALOG]
    mov dword ptr fs:[ET_CATALOG], eax
    call boot_cd_sector
    mov si, text_unreadable
    jc .out
    mov si, text_unsigned
    cmp word ptr es:[BOOT_ADDRESS], 0x0001 # validation entry, 80x86
    jne .out
    cmp word ptr es:[BOOT_ADDRESS+30], BOOT_SIGNATURE
    jne .out
    mov di, BOOT_ADDRESS
    mov cx, 16
    xor ax, ax
.sum:
    add ax, word ptr es:[di]
    add di, 2
    loop .sum
    test ax, ax
    jnz .out
    cmp byte ptr es:[BOOT_ENTRY], 0x88 # bootable
    jne .out

    call boot_cd_initiate
    jc .out
    call boot_cd_load
    mov si, text_unreadable
    jc .out
    jmp boot_cd_go
.out:
    mov bp, sp
    mov word ptr ss:[bp+2], si      # PUSHA's SI
    popa
    ret

# Wait until the CD drive DL is ready. CF set: it has no medium. Changes AX, BX.
boot_cd_ready:
    push BDA_SEG
    pop ds
    mov bx, word ptr [BDA_TICKS]
.try:
    mov ah, 0x10
    int 0x13
    jnc .out
    cmp ah, E_NOT_READY             # it has one, and is not up to speed yet?
    stc
    jne .out
    mov ax, word ptr [BDA_TICKS]
    sub ax, bx
    cmp ax, BOOT_CD_WAIT
    cmc
    jc .out
    hlt                             # until the next tick at most
    jmp .try
.out:
    ret

# Read CD sector EAX of drive DL to 0000:7C00. CF set: error. Changes EAX, CX.
boot_cd_sector:
    mov bx, BOOT_ADDRESS
    mov cx, 1
    # falls into boot_read_packet

# Read CX sectors from EAX on, drive DL, to ES:BX by INT 13h/42h. CF, AH as that returns them. Changes nothing else.
boot_read_packet:
    push ds
    push si
    push 0                          # LBA 63:32
    push 0
    push eax
    push es
    push bx
    push cx
    push 0x0010
    mov si, sp
    push ss
    pop ds
    mov ah, 0x42
    int 0x13
    lea sp, [si+16]                 # leaves CF alone
    pop si
    pop ds
    ret

# ZF set: the CX bytes at CS:SI and at ES:DI are the same. Changes SI, DI, CX.
boot_compare:
    push ds
    push cs
    pop ds
    repe cmpsb
    pop ds
    ret

# Tell INT 13h/4Ah of the entry at BOOT_ENTRY of drive DL. CF set: it will not have it. Changes AX, SI.
boot_cd_initiate:
    push ds
    push BDA_SEG
    pop ds
    mov bp, sp
    sub sp, 20                      # the specification packet; DS:SI
    mov si, sp
    push ss
    pop ds
    xor ax, ax
    mov word ptr [si+8], ax         # INT 13h knows which drive it is
    mov word ptr [si+10], ax
    mov byte ptr [si+3], al
    mov word ptr [si+16], ax
    mov word ptr [si+18], ax
    mov byte ptr [si], 0x13
    mov al, byte ptr es:[BOOT_ENTRY+1]
    and al, 0x0F
    mov byte ptr [si+1], al
    mov byte ptr [si+2], dl
    mov eax, dword ptr es:[BOOT_ENTRY+8]
    mov dword ptr [si+4], eax
    mov ax, word ptr es:[BOOT_ENTRY+2]
    mov word ptr [si+12], ax
    mov ax, word ptr es:[BOOT_ENTRY+6]
    mov word ptr [si+14], ax
    mov ah, 0x4A
    int 0x13
    mov sp, bp
    pop ds
    mov si, text_unsigned
    ret

# Load the image that ET_PACKET describes; DL is the CD. Returns DL = the drive to boot, BX = where. CF set: error.
# FS = EBDA. Changes EAX, CX, ES.
boot_cd_load:
    mov ax, word ptr fs:[ET_LOAD]
    test ax, ax
    jnz .segment
    mov ax, BOOT_ADDRESS/16
.segment:
    mov es, ax
    xor bx, bx
    mov cx, word ptr fs:[ET_SECTORS]
    cmp cx, 1
    adc cx, 0                       # none means one
    xor eax, eax                    # the image's first sector
    mov dl, byte ptr fs:[ET_DRIVE]
    cmp byte ptr fs:[ET_ACTIVE], 0
    jne boot_read_packet
    add cx, 3                       # without emulation: whole CD sectors
    shr cx, 2
    mov eax, dword ptr fs:[ET_LBA]
    jmp boot_read_packet

# Enter the image: ES = its segment, DL = drive.
boot_cd_go:
    xor cx, cx
    mov bx, es
    cmp bx, 0x1000
    jae .far
    shl bx, 4                       # below 64 KiB as 0000:offset, which many images expect
    jmp boot_go_to
.far:
    mov cx, bx
    xor bx, bx
    jmp boot_go_to

boot_record_id:                     # type 0, "CD001", version 1, and the name of the standard with its zero
    .byte 0
    .ascii "CD001"
    .byte 1
    .asciz "EL TORITO SPECIFICATION"

text_cd_boot:
    .asciz "Booting from CD-ROM"
text_unreadable:
    .asciz ": read error\r\n"
