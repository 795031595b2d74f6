# POST: find the floppy drives, the ATA disks and the ATAPI CD-ROMs, and tell of them.
#
# disk_post: near call, DS = 40h, interrupts on, the console works. Fills the drive table and the maps in the EBDA
# (disk.inc), BDA_HD_COUNT, the floppy bits of BDA_EQUIPMENT, and INT 41h and 46h; changes any register but SS:SP and
# DS.
#
# Sources: IBM PC/AT Technical Reference, "ROM BIOS Data Area"; ATA/ATAPI-6, "IDENTIFY DEVICE", "IDENTIFY PACKET
# DEVICE".

.include "disk.inc"

.set ID, EB_SCRATCH                 # identify data, by word
.set ID_CYLINDERS, ID+2*1
.set ID_HEADS, ID+2*3
.set ID_SECTORS, ID+2*6
.set ID_MODEL, ID+2*27              # 40 characters, the bytes of each word swapped
.set ID_CAPABILITIES, ID+2*49       # bit 9: LBA
.set ID_LBA_SECTORS, ID+2*60
.set ID_COMMANDS, ID+2*83           # bit 10: 48-bit addresses; bits 15:14 = 01 when it can be believed
.set ID_LBA48_SECTORS, ID+2*100
.set MODEL_LENGTH, 40
.set CHS_CYLINDERS, 1024            # what INT 13h can address
.set CHS_LBA_LIMIT, 1024*255*63

disk_post:
    mov fs, word ptr [BDA_EBDA]
    mov es, word ptr [BDA_EBDA]
    mov di, EBDA_DISK
    mov cx, (EB_SCRATCH+512-EBDA_DISK)/4
    xor eax, eax
    rep stosd

    in al, PIC1+1                   # IRQ 6, the cascade, IRQ 14 and 15
    and al, 0xBB
    out PIC1+1, al
    in al, PIC2+1
    and al, 0x3F
    out PIC2+1, al

    call post_floppies
    mov si, EB_DRIVES
    mov bx, ata_channels
    call post_channel
    mov bx, ata_channels+5
    call post_channel
    jmp post_disk_tables

# ---- Floppies -------------------------------------------------------------------------------------------------------

# Types from CMOS, as far as there is a controller.
post_floppies:
    mov dx, FDC_MSR
    in al, dx
    cmp al, 0xFF
    je .count                       # nobody there
    mov al, CMOS_FLOPPY
    call cmos_read
    mov ah, al
    shr al, 4
    and ah, 0x0F
    cmp al, 5                       # 2.88M is the last type there is
    jbe .first
    mov al, 0
.first:
    cmp ah, 5
    jbe .second
    mov ah, 0
.second:
    mov word ptr fs:[EB_FD_TYPE], ax
    test ax, ax
    jz .count
    mov byte ptr [BDA_FD_CONTROLLER], 0x77
    call fd_reset
    jnc .count
    mov word ptr fs:[EB_FD_TYPE], 0 # it does not answer
.count:
    call fd_equipment
    xor bx, bx
.tell:
    movzx di, byte ptr fs:[bx+EB_FD_TYPE]
    test di, di
    jz .next
    mov si, text_floppy
    call puts_rom
    mov al, 'A'
    add al, bl
    call putc
    shl di, 1
    mov si, word ptr cs:[di+text_floppies-2]
    call puts_rom
.next:
    inc bx
    cmp bx, 2
    jb .tell
    ret

text_floppy:
    .asciz "Floppy "
text_floppies:
    .word text_360, text_1200, text_720, text_1440, text_2880
text_360:
    .asciz ": 360 KB, 5.25 inch\r\n"
text_1200:
    .asciz ": 1.2 MB, 5.25 inch\r\n"
text_720:
    .asciz ": 720 KB, 3.5 inch\r\n"
text_1440:
    .asciz ": 1.44 MB, 3.5 inch\r\n"
text_2880:
    .asciz ": 2.88 MB, 3.5 inch\r\n"

# ---- ATA ---------------------------------------------------------------------------------------------------

ata_channels:                       # command block, control block, IRQ
    .word 0x1F0, 0x3F6
    .byte 14
    .word 0x170, 0x376
    .byte 15

# The two devices of the channel at CS:BX, entries at FS:SI; SI ends behind them.
post_channel:
    mov ch, 0                       # no device so far
    mov cl, 0xA0
.entry:
    mov byte ptr fs:[si+D_SELECT], cl
    mov ax, word ptr cs:[bx]
    mov word ptr fs:[si+D_BASE], ax
    mov ax, word ptr cs:[bx+2]
    mov word ptr fs:[si+D_CONTROL], ax
    mov al, byte ptr cs:[bx+4]
    mov byte ptr fs:[si+D_IRQ], al
    call post_has_registers
    jne .absent
    mov byte ptr fs:[si+D_TYPE], D_UNKNOWN
    mov ch, cl
.absent:
    add si, D_ENTRY
    add cl, 0x10
    cmp cl, 0xB0
    jbe .entry

    test ch, ch
    jz .out
    sub si, 2*D_ENTRY
    push si
    cmp byte ptr fs:[si+D_TYPE], D_UNKNOWN
    je .reset                       # wait for the master, which in its turn waits for its slave
    add si, D_ENTRY
.reset:
    call ata_reset
    pop si
    call post_identify
    add si, D_ENTRY
    call post_identify
    add si, D_ENTRY
.out:
    ret

# ZF set: the count and sector registers of the device keep what is written. Changes AX, DX.
post_has_registers:
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_DEVICE
    mov al, byte ptr fs:[si+D_SELECT]
    out dx, al
    mov dx, word ptr fs:[si+D_CONTROL]
    in al, dx                       # 400 ns
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_COUNT
    mov al, 0x55
    out dx, al
    inc dx
    mov al, 0xAA
    out dx, al
    dec dx
    in al, dx
    mov ah, al
    inc dx
    in al, dx
    cmp ax, 0x55AA
    ret

# Ask the device at SI what it is, enter it and tell. Changes all but SI, BP, DS, FS.
post_identify:
    cmp byte ptr fs:[si+D_TYPE], D_UNKNOWN
    jne .out
    mov byte ptr fs:[si+D_TYPE], D_NONE
    mov bl, ATA_IDENTIFY
    call post_ask
    jc .packet
    test word ptr fs:[ID], 0x8000   # not an ATA device
    jz post_ata
    ret
.packet:
    mov dx, word ptr fs:[si+D_BASE] # an ATAPI device refuses, and shows who it is
    add dx, ATA_LBA1
    in al, dx
    mov ah, al
    inc dx
    in al, dx
    cmp ax, 0x14EB
    jne .out
    mov bl, ATA_IDENTIFY_PACKET
    call post_ask
    jc .out
    mov al, byte ptr fs:[ID+1]
    and al, 0x1F
    cmp al, 5                       # CD-ROM
    je post_cd
.out:
    ret

# Identify data by command BL to EB_SCRATCH. CF set: none. Changes AX, CX, DX, DI, ES.
post_ask:
    mov ah, byte ptr fs:[si+D_SELECT]
    call ata_select
    jc .out
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_STATUS
    mov al, bl
    out dx, al
    mov dx, word ptr fs:[si+D_CONTROL]
    in al, dx                       # 400 ns
    call ata_wait
    jc .out
    test al, ATA_ERR
    stc
    jnz .out
    test al, ATA_DRQ
    stc
    jz .out
    mov es, word ptr [BDA_EBDA]
    mov di, EB_SCRATCH
    mov dx, word ptr fs:[si+D_BASE]
    mov cx, 256
    rep insw
    call ata_wait
.out:
    jmp ata_release

# A disk: size, geometry, drive number.
post_ata:
    mov byte ptr fs:[si+D_TYPE], D_ATA
    mov ax, word ptr fs:[ID_CYLINDERS]
    mov bx, word ptr fs:[ID_HEADS]
    mov cx, word ptr fs:[ID_SECTORS]
    test ax, ax
    jz .no_geometry
    test bx, bx
    jz .no_geometry
    test cx, cx
    jnz .geometry
.no_geometry:                       # what large drives say instead
    mov ax, 16383
    mov bx, 16
    mov cx, 63
.geometry:
    mov word ptr fs:[si+D_PCYLS], ax
    mov word ptr fs:[si+D_PHEADS], bx
    mov word ptr fs:[si+D_PSPT], cx
    movzx eax, ax                   # the size of a drive without LBA
    movzx ebx, bx
    imul eax, ebx
    movzx ecx, cx
    imul eax, ecx
    mov dword ptr fs:[si+D_SECTORS], eax

    test word ptr fs:[ID_CAPABILITIES], 0x0200
    jz .sized
    or byte ptr fs:[si+D_FLAGS], DF_LBA
    or byte ptr fs:[si+D_SELECT], 0x40
    mov eax, dword ptr fs:[ID_LBA_SECTORS]
    mov dword ptr fs:[si+D_SECTORS], eax
    mov ax, word ptr fs:[ID_COMMANDS]
    and ax, 0xC400
    cmp ax, 0x4400
    jne .sized
    or byte ptr fs:[si+D_FLAGS], DF_LBA48
    mov eax, dword ptr fs:[ID_LBA48_SECTORS]
    mov dword ptr fs:[si+D_SECTORS], eax
    mov eax, dword ptr fs:[ID_LBA48_SECTORS+4]
    mov dword ptr fs:[si+D_SECTORS+4], eax
.sized:
    call post_geometry
    call ata_init_parameters
    call ata_release

    movzx bx, byte ptr fs:[EB_HD_COUNT]
    mov di, bx
    shl di, 1
    mov word ptr fs:[di+EB_HD_MAP], si
    inc byte ptr fs:[EB_HD_COUNT]
    inc byte ptr [BDA_HD_COUNT]
    mov al, 0x80
    add al, bl
    mov di, text_disk
    call post_tell
    mov di, text_comma
    call post_text
    mov eax, dword ptr fs:[si+D_SECTORS]
    mov edx, dword ptr fs:[si+D_SECTORS+4]
    mov di, text_kib
    cmp eax, 20480
    jb .kib
    mov di, text_mib                # from 10 MiB on
    shrd eax, edx, 10
.kib:
    shr eax, 1
    call put_dec32
    jmp post_text

# The geometry that INT 13h shows. Up to 1024 cylinders it is the drive's; beyond that, with LBA, 63 sectors and the
# least of 16, 32, 64, 128 and 255 heads that brings the cylinders down to 1024. Changes EAX, EBX, ECX, EDX.
# Source: ANSI T13 1321D, "LBA assist translation".
post_geometry:
    mov ax, word ptr fs:[si+D_PCYLS]
    mov bx, word ptr fs:[si+D_PHEADS]
    mov cx, word ptr fs:[si+D_PSPT]
    cmp ax, CHS_CYLINDERS
    jbe .store
    test byte ptr fs:[si+D_FLAGS], DF_LBA
    jz .clip
    mov eax, CHS_LBA_LIMIT
    cmp dword ptr fs:[si+D_SECTORS+4], 0
    jne .limited
    cmp eax, dword ptr fs:[si+D_SECTORS]
    jbe .limited
    mov eax, dword ptr fs:[si+D_SECTORS]
.limited:
    mov cx, 63
    movzx ecx, cx
    xor edx, edx
    div ecx                         # EAX = tracks
    mov ebx, 16
.heads:
    mov edx, ebx
    shl edx, 10
    cmp eax, edx
    jbe .fits
    shl ebx, 1
    cmp ebx, 256
    jb .heads
    dec ebx
.fits:
    xor edx, edx
    div ebx
    cmp eax, CHS_CYLINDERS
    jbe .store
.clip:
    mov ax, CHS_CYLINDERS
.store:
    mov word ptr fs:[si+D_CYLS], ax
    mov word ptr fs:[si+D_HEADS], bx
    mov word ptr fs:[si+D_SPT], cx
    ret

# A CD-ROM.
post_cd:
    mov byte ptr fs:[si+D_TYPE], D_ATAPI
    movzx bx, byte ptr fs:[EB_CD_COUNT]
    mov di, bx
    shl di, 1
    mov word ptr fs:[di+EB_CD_MAP], si
    inc byte ptr fs:[EB_CD_COUNT]
    mov al, CD_FIRST
    add al, bl
    mov di, text_cd
    call post_tell
    mov di, text_newline
    # falls into post_text

# Print the text at CS:DI. Changes nothing else.
post_text:
    push si
    mov si, di
    call puts_rom
    pop si
    ret

# Print text DI, drive number AL and the model.
post_tell:
    push ax
    call post_text
    pop ax
    call put_hex8
    mov di, text_colon
    call post_text
    mov cx, MODEL_LENGTH            # without the spaces at the end
.trim:
    mov bx, cx
    dec bx
    xor bl, 1
    cmp byte ptr fs:[bx+ID_MODEL], ' '
    ja .trimmed
    loop .trim
    ret
.trimmed:
    xor bx, bx
.next:
    xor bl, 1                       # the bytes are swapped
    mov al, byte ptr fs:[bx+ID_MODEL]
    xor bl, 1
    call putc
    inc bx
    loop .next
    ret

text_disk:
    .asciz "Disk "
text_cd:
    .asciz "CD-ROM "
text_colon:
    .asciz "h: "
text_comma:
    .asciz ", "
text_kib:
    .asciz " KiB\r\n"
text_mib:
    .ascii " MiB"                   # and the next
text_newline:
    .asciz "\r\n"

# ---- Tables of the first two disks: INT 41h and 46h -----------------------------------------------------------

post_disk_tables:
    xor bx, bx                      # 2 * disk
    mov di, EB_FDPT
.disk:
    mov al, bl
    shr al, 1
    cmp al, byte ptr fs:[EB_HD_COUNT]
    jae .out
    mov si, word ptr fs:[bx+EB_HD_MAP]
    call post_disk_table
    push ds
    xor ax, ax
    mov ds, ax
    mov word ptr [0x41*4], di
    mov word ptr [0x41*4+2], fs
    test bx, bx
    jz .vector
    mov word ptr [0x46*4], di
    mov word ptr [0x46*4+2], fs
    mov word ptr [0x41*4], EB_FDPT
.vector:
    pop ds
    add di, 16
    add bx, 2
    cmp bx, 4
    jb .disk
.out:
    ret

# The table at FS:DI for the drive at SI; a translated one has A0h in byte 3 and the drive's own geometry behind it.
post_disk_table:
    push bx
    mov ax, word ptr fs:[si+D_CYLS]
    mov word ptr fs:[di], ax
    mov al, byte ptr fs:[si+D_HEADS]
    mov byte ptr fs:[di+2], al
    mov word ptr fs:[di+5], 0xFFFF  # no write precompensation
    mov al, byte ptr fs:[si+D_SPT]
    mov byte ptr fs:[di+14], al
    mov ax, word ptr fs:[si+D_PCYLS]
    mov word ptr fs:[di+12], ax     # landing zone
    mov bl, byte ptr fs:[si+D_PHEADS]
    mov bh, 0xC0                    # no retries
    cmp bl, 8
    jbe .control
    or bh, 0x08                     # more than eight heads
.control:
    mov byte ptr fs:[di+8], bh
    mov byte ptr [BDA_HD_CONTROL], bh
    cmp ax, word ptr fs:[si+D_CYLS]
    je .plain
    mov byte ptr fs:[di+3], 0xA0
    mov word ptr fs:[di+9], ax
    mov byte ptr fs:[di+11], bl
    mov al, byte ptr fs:[si+D_PSPT]
    mov byte ptr fs:[di+4], al
.plain:
    mov bx, di
    call checksum_15
    pop bx
    ret
