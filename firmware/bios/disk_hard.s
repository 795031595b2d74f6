# INT 13h for ATA disks, DL = 80h-83h.
#
# Entered by a jump from int13_entry (disk.inc). Each function documents what it takes and returns besides AH and CF.
# CHS addresses: CH = cylinder 7:0, CL 7:6 = cylinder 9:8, CL 5:0 = sector from 1, DH = head.
#
# Source: IBM PC/AT Technical Reference, "INT 13h, fixed disk"; Phoenix EDD 3.0, "Interrupt 13 extensions".

.include "disk.inc"

hd_service:
    mov word ptr [bp+R_STATUS], BDA_HD_STATUS
    mov bl, byte ptr [bp+R_DRIVE]
    and bx, 0x7F
    cmp bl, byte ptr fs:[EB_HD_COUNT]
    jae hd_absent
    shl bx, 1
    mov si, word ptr fs:[bx+EB_HD_MAP]
    mov bl, ah
    cmp bl, 0x15
    jbe .classic
    sub bl, 0x41 - 0x16             # 41h follows 15h in the table
    cmp bl, 0x16
    jb int13_bad
    cmp bl, 0x16 + 0x4E - 0x41
    ja int13_bad
.classic:
    shl bx, 1
    jmp word ptr cs:[bx+hd_functions]

hd_functions:
    .word hd_reset, int13_last_status, hd_read, hd_write
    .word hd_verify, int13_bad, int13_bad, int13_bad
    .word hd_parameters, hd_initialise, int13_bad, int13_bad
    .word hd_seek, hd_reset, int13_bad, int13_bad
    .word hd_ready, hd_recalibrate, int13_bad, int13_bad
    .word hd_diagnose, hd_type
    .word edd_check, edd_read, edd_write, edd_verify     # 41h
    .word edd_lock, edd_lock, edd_seek, edd_parameters   # 45h
    .word edd_lock, int13_bad, int13_bad, int13_bad      # 49h
    .word int13_bad, edd_configure                       # 4Dh

# No such drive. AH = 15h says so without an error; AH = 08h counts the drives.
hd_absent:
    cmp ah, 0x15
    je .type
    mov byte ptr [bp+F_AL], 0       # sectors done
    cmp ah, 0x08
    jne int13_bad
    mov word ptr [bp+F_CX], 0
    movzx dx, byte ptr [BDA_HD_COUNT]
    mov word ptr [bp+F_DX], dx
    mov ah, E_HD_INIT
    jmp int13_return
.type:
    mov word ptr [bp+F_AX], 0
    mov word ptr [bp+F_CX], 0
    mov word ptr [bp+F_DX], 0
    jmp int13_ok

# AH = 00h, 0Dh: reset the controller. 00h resets the floppy controller as well.
hd_reset:
    call ata_reset
    jc int13_return
    cmp byte ptr [bp+F_AH], 0
    jne int13_ok
    cmp word ptr fs:[EB_FD_TYPE], 0
    je int13_ok                     # no floppy
    call fd_unmask
    call fd_reset
    call fd_remask
    jmp int13_ok

# AH = 02h, 03h, 04h: read, write, verify AL sectors at CX, DH; buffer ES:BX. Returns AL = sectors done.
hd_read:
    mov word ptr [bp+R_COMMAND], ATA_READ48 << 8 | ATA_READ
    jmp hd_transfer
hd_write:
    mov word ptr [bp+R_COMMAND], ATA_WRITE48 << 8 | ATA_WRITE
    jmp hd_transfer
hd_verify:
    mov word ptr [bp+R_COMMAND], ATA_VERIFY48 << 8 | ATA_VERIFY
hd_transfer:
    movzx ecx, byte ptr [bp+F_AL]
    mov byte ptr [bp+F_AL], 0
    test cx, cx
    jz int13_bad
    mov dword ptr [bp+R_COUNT], ecx
    call hd_address
    jc int13_return
    mov di, word ptr [bp+F_BX]
    call ata_transfer
    call ata_release
    mov cl, byte ptr [bp+R_DONE]
    mov byte ptr [bp+F_AL], cl
    jc int13_return
    jmp int13_ok

# R_LBA = the caller's CX, DH. CF set, AH = status: outside the geometry. Changes EAX, EBX, ECX, EDX.
hd_address:
    mov cx, word ptr [bp+F_CX]
    mov al, ch
    mov ah, cl
    shr ah, 6
    cmp ax, word ptr fs:[si+D_CYLS]
    jae .outside
    movzx edx, byte ptr [bp+F_DH]
    cmp dx, word ptr fs:[si+D_HEADS]
    jae .outside
    and cx, 0x3F
    jz .outside
    cmp cx, word ptr fs:[si+D_SPT]
    ja .outside
    movzx eax, ax                   # (cylinder * heads + head) * sectors + sector - 1
    movzx ebx, word ptr fs:[si+D_HEADS]
    imul eax, ebx
    add eax, edx
    movzx ebx, word ptr fs:[si+D_SPT]
    imul eax, ebx
    movzx ecx, cx
    add eax, ecx
    dec eax
    mov dword ptr [bp+R_LBA], eax
    mov dword ptr [bp+R_LBA+4], 0
    clc
    ret
.outside:
    mov ah, E_NOT_FOUND
    stc
    ret

# AH = 08h: CH, CL, DH = the last cylinder, sector and head, DL = number of drives.
hd_parameters:
    mov ax, word ptr fs:[si+D_CYLS]
    dec ax
    mov dh, byte ptr fs:[si+D_HEADS]
    dec dh
    mov cl, byte ptr fs:[si+D_SPT]
    call int13_pack_geometry
    mov dl, byte ptr [BDA_HD_COUNT]
    mov byte ptr [bp+F_DL], dl
    mov byte ptr [bp+F_AL], 0
    jmp int13_ok

# F_CX, F_DH = last cylinder AX, head DH, sector CL, packed. Changes AX, CX.
int13_pack_geometry:
    mov ch, al
    shl ah, 6
    or cl, ah
    mov word ptr [bp+F_CX], cx
    mov byte ptr [bp+F_DH], dh
    ret

# AH = 09h: tell the drive its geometry.
hd_initialise:
    call ata_init_parameters
hd_end:
    call ata_release
    jc int13_return
    jmp int13_ok

# AH = 0Ch: seek to CX, DH. The drive seeks by itself; only the address is looked at.
hd_seek:
    call hd_address
    jc int13_return
    jmp int13_ok

# AH = 10h, 11h: is the drive ready? Drives with a command set younger than ATA-3 recalibrate by themselves.
hd_ready:
hd_recalibrate:
    mov ah, byte ptr fs:[si+D_SELECT]
    call ata_select
    jc hd_end
    test al, 0x40                   # DRDY
    jnz hd_end                      # CF is clear
    mov ah, E_NOT_READY
    stc
    jmp hd_end

# AH = 14h: controller diagnostic.
hd_diagnose:
    mov ah, byte ptr fs:[si+D_SELECT]
    call ata_select
    jc hd_end
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_STATUS
    mov al, ATA_DIAGNOSE
    out dx, al
    mov cx, 2000                    # the status is not valid before
    call delay_us
    call ata_wait
    jc hd_end
    mov dx, word ptr fs:[si+D_BASE]
    inc dx                          # ATA_ERROR: 1 when device 0 has passed, bit 7 when device 1 has not
    in al, dx
    mov ah, E_CONTROLLER
    cmp al, 1
    stc
    jne hd_end
    mov ah, byte ptr fs:[si+D_SELECT] # it leaves device 0 selected, and a CHS drive without geometry
    call ata_select
    jc hd_end
    jmp hd_initialise

# AH = 15h: AH = 03h, CX:DX = sectors, as many as CHS addresses reach.
hd_type:
    movzx eax, word ptr fs:[si+D_CYLS]
    movzx ebx, word ptr fs:[si+D_HEADS]
    imul eax, ebx
    movzx ebx, word ptr fs:[si+D_SPT]
    imul eax, ebx
    mov word ptr [bp+F_DX], ax
    shr eax, 16
    mov word ptr [bp+F_CX], ax
    mov byte ptr [bp+F_AH], 3
    xor ah, ah
    jmp int13_status
