# El Torito: a floppy or a hard disk emulated from an image on a CD, and INT 13h/4Ah-4Dh.
#
# et_service, et_initiate, et_boot and et_catalog are entered by jumps as other services are (disk.inc). INT 19h uses
# 4Ah (boot_cd.s). While ET_ACTIVE is set, INT 13h for drive ET_DRIVE comes to et_service.
#
# The specification packet, 13h bytes: 00 size, 01 media type, 02 drive, 03 controller, 04 first CD sector of the image,
# 08 bit 0 slave, 0A segment of a cache (not used), 0C load segment, 0E sectors to load, 10 CH, CL, DH as of INT
# 13h/08h.
#
# Source: "El Torito Bootable CD-ROM Format Specification" 1.0, "INT 13 Extensions", figure 12 and following.

.include "disk.inc"

.set ET_PACKET_SIZE, 0x13
.set ET_HARD_DISK, 4                # media type

# Functions of the emulated drive: those of a write-protected disk, and 42h for the loader of boot images.
et_service:
    mov word ptr [bp+R_STATUS], BDA_HD_STATUS
    cmp ah, 0x4B
    je et_terminate
    cmp byte ptr fs:[ET_ACTIVE], 0
    je int13_bad
    test byte ptr fs:[ET_DRIVE], 0x80
    jnz .disk
    mov word ptr [bp+R_STATUS], BDA_FD_STATUS
.disk:
    mov si, word ptr fs:[ET_CD]
    cmp ah, 0x42
    je et_read_packet
    cmp ah, 0x16
    ja int13_bad
    movzx bx, ah
    shl bx, 1
    jmp word ptr cs:[bx+et_functions]

et_functions:
    .word int13_ok, int13_last_status, et_read, int13_protected
    .word et_verify, int13_protected, int13_bad, int13_bad
    .word et_parameters, int13_ok, int13_bad, int13_bad
    .word et_verify_address, int13_ok, int13_bad, int13_bad
    .word int13_ok, int13_ok, int13_bad, int13_bad
    .word int13_ok, et_type, et_change_line

# R_LBA = the caller's CX, DH in the emulated geometry. CF set, AH = status: outside.
et_address:
    push si
    mov si, ET_CYLINDERS - D_CYLS   # a drive entry of which only the geometry is looked at
    call hd_address
    pop si
    ret

# AH = 02h: read AL sectors at CX, DH to ES:BX. Returns AL = sectors done.
et_read:
    movzx ecx, byte ptr [bp+F_AL]
    mov byte ptr [bp+F_AL], 0
    test cx, cx
    jz int13_bad
    mov dword ptr [bp+R_COUNT], ecx
    call et_address
    jc int13_return
    mov di, word ptr [bp+F_BX]
    call et_transfer
    mov cl, byte ptr [bp+R_DONE]
    mov byte ptr [bp+F_AL], cl
    jc int13_return
    jmp int13_ok

# AH = 42h: the same by packet, in 512-byte sectors of the image.
et_read_packet:
    call edd_packet
    jc edd_end
    cmp dword ptr [bp+R_COUNT], 0
    je edd_end                      # CF is clear
    call et_transfer
    jmp edd_end

# R_COUNT sectors of 512 bytes from R_LBA of the image to ES:DI; R_DONE = how many came. CF, AH as of atapi_read.
et_transfer:
    mov eax, dword ptr [bp+R_LBA]
    mov ebx, eax
    and bx, 3                       # four of them in a CD sector
    shl bx, 9
    mov word ptr [bp+R_FRONT], bx
    shr eax, 2
    add eax, dword ptr fs:[ET_LBA]
    mov dword ptr [bp+R_LBA], eax
    mov ecx, dword ptr [bp+R_COUNT]
    shl ecx, 9
    mov dword ptr [bp+R_KEEP], ecx
    movzx ebx, bx                   # CD sectors that hold them
    add ecx, ebx
    add ecx, CD_SECTOR - 1
    shr ecx, 11
    call atapi_read
    pushf
    mov ecx, dword ptr [bp+R_COUNT]
    mov edx, dword ptr [bp+R_KEEP]
    add edx, 511
    shr edx, 9
    sub ecx, edx
    mov dword ptr [bp+R_DONE], ecx
    popf
    ret

# AH = 04h: verify; AH = 0Ch: seek: the address has to exist. AL stays.
et_verify:
et_verify_address:
    call et_address
    jc int13_return
    jmp int13_ok

# AH = 08h: as for a floppy or a disk.
et_parameters:
    mov byte ptr [bp+F_AL], 0
    mov al, byte ptr fs:[ET_CHS]
    mov byte ptr [bp+F_CH], al
    mov al, byte ptr fs:[ET_CHS+1]
    mov byte ptr [bp+F_CL], al
    mov al, byte ptr fs:[ET_CHS+2]
    mov byte ptr [bp+F_DH], al
    mov al, byte ptr [BDA_HD_COUNT]
    mov byte ptr [bp+F_DL], al
    movzx bx, byte ptr fs:[ET_MEDIA]
    and bl, 0x0F
    cmp bl, ET_HARD_DISK
    je int13_ok
    call fd_count
    mov byte ptr [bp+F_DL], al
    mov al, byte ptr cs:[bx+et_floppy_types-1]
    mov byte ptr [bp+F_BL], al
    movzx bx, al
    shl bx, 1
    mov ax, word ptr cs:[bx+fd_tables-2]
    mov word ptr [bp+F_DI], ax
    mov word ptr [bp+F_ES], cs
    jmp int13_ok
et_floppy_types:
    .byte 2, 4, 5                   # CMOS types of 1.2M, 1.44M, 2.88M

# AH = 15h: AH = 01h, floppy without change line, or 03h, disk, CX:DX = sectors.
et_type:
    mov byte ptr [bp+F_AH], 1
    test byte ptr fs:[ET_DRIVE], 0x80
    jz .told
    mov byte ptr [bp+F_AH], 3
    movzx eax, word ptr fs:[ET_CYLINDERS]
    movzx ebx, word ptr fs:[ET_HEADS]
    imul eax, ebx
    movzx ebx, word ptr fs:[ET_SPT]
    imul eax, ebx
    mov word ptr [bp+F_DX], ax
    shr eax, 16
    mov word ptr [bp+F_CX], ax
.told:
    xor ah, ah
    jmp int13_status

# AH = 16h: a floppy image never changes.
et_change_line:
    test byte ptr fs:[ET_DRIVE], 0x80
    jnz int13_bad
    jmp int13_ok

# AH = 4Bh: AL = 00h end the emulation, 01h only tell; the buffer at DS:SI gets the specification packet.
# DL = emulated drive, 7Fh or the CD's own number.
et_terminate:
    cmp byte ptr [bp+F_AL], 1
    ja int13_bad
    cmp byte ptr fs:[ET_PACKET], ET_PACKET_SIZE
    jne int13_bad                   # nothing has been booted
    mov es, word ptr [bp+F_DS]
    mov di, word ptr [bp+F_SI]
    push ds
    mov ds, word ptr [BDA_EBDA]
    mov si, ET_PACKET
    mov cx, ET_PACKET_SIZE
    rep movsb
    pop ds
    cmp byte ptr [bp+F_AL], 0
    jne int13_ok
    call et_stop
    jmp int13_ok

# AH = 4Ah: begin the emulation that the specification packet at DS:SI describes.
et_initiate:
    call et_take_packet
    jc int13_return
    jmp int13_ok

# AH = 4Ch: begin it and boot; returns only when that fails.
et_boot:
    call et_take_packet
    jc int13_return
    call boot_cd_load
    jnc boot_cd_go
    mov ah, E_CONTROLLER
    jmp int13_return

# AH = 4Dh: read the boot catalogue. DS:SI = 00 size 8, 01 CD sectors, 02 buffer, 06 first sector within the catalogue.
et_catalog:
    mov word ptr [bp+R_STATUS], BDA_HD_STATUS
    cmp dword ptr fs:[ET_CATALOG], 0
    je int13_bad
    mov es, word ptr [bp+F_DS]
    mov bx, word ptr [bp+F_SI]
    movzx ecx, byte ptr es:[bx+1]
    test ecx, ecx
    jz .none
    movzx eax, word ptr es:[bx+6]
    add eax, dword ptr fs:[ET_CATALOG]
    mov dword ptr [bp+R_LBA], eax
    mov word ptr [bp+R_FRONT], 0
    mov eax, ecx
    shl eax, 11
    mov dword ptr [bp+R_KEEP], eax
    les di, dword ptr es:[bx+2]
    call atapi_read
    jc int13_return
.none:
    jmp int13_ok

# End what is emulated now, take the caller's packet and begin what it says. SI = the CD. CF set, AH = status.
et_take_packet:
    call et_stop
    push si
    mov es, word ptr [BDA_EBDA]
    mov di, ET_PACKET
    push ds
    mov si, word ptr [bp+F_SI]
    mov ds, word ptr [bp+F_DS]
    mov cx, ET_PACKET_SIZE
    cmp byte ptr [si], cl
    jb .bad                         # keeps the CF that it has
    rep movsb
    clc
.bad:
    pop ds
    pop si
    mov ah, E_PARAMETER
    jc .out
    mov word ptr fs:[ET_CD], si
    mov byte ptr fs:[ET_PACKET], ET_PACKET_SIZE
    mov bl, byte ptr fs:[ET_MEDIA]
    and bx, 0x0F
    jnz et_start
.out:                               # no emulation: the packet is all there is to it
    ret

# Begin the emulation of media type BX: work out its geometry, count the new drive. CF set, AH = status: the type is
# unknown, or a disk image without a partition. Changes all but SI, BP, DS, FS.
et_start:
    cmp bl, ET_HARD_DISK
    ja .bad
    je .disk
    mov byte ptr fs:[ET_DRIVE], 0
    mov word ptr fs:[ET_CYLINDERS], 80
    mov word ptr fs:[ET_HEADS], 2
    movzx ax, byte ptr cs:[bx+et_sectors-1]
    mov word ptr fs:[ET_SPT], ax
    test byte ptr [BDA_EQUIPMENT], 1
    jz .first
    add byte ptr [BDA_EQUIPMENT], 0x40 # bits 7:6 count the drives after the first
.first:
    or byte ptr [BDA_EQUIPMENT], 1
    jmp .started

.disk:
    mov eax, dword ptr fs:[ET_LBA]  # the first partition's entry: it ends at the last head and sector
    mov dword ptr [bp+R_LBA], eax
    mov word ptr [bp+R_FRONT], 0x1BE
    mov dword ptr [bp+R_KEEP], 16
    mov es, word ptr [BDA_EBDA]
    mov di, EB_DPTE                 # room for 16 bytes
    mov cx, 1
    call atapi_read
    jc .failed
    movzx ax, byte ptr fs:[EB_DPTE+5] # last head
    mov cx, word ptr fs:[EB_DPTE+6] # last sector and cylinder
    inc ax
    mov word ptr fs:[ET_HEADS], ax
    mov al, ch
    mov ah, cl
    shr ah, 6
    inc ax
    mov word ptr fs:[ET_CYLINDERS], ax
    and cx, 0x3F
    jz .bad
    mov word ptr fs:[ET_SPT], cx
    mov byte ptr fs:[ET_DRIVE], 0x80
    inc byte ptr [BDA_HD_COUNT]

.started:
    mov ax, word ptr fs:[ET_CYLINDERS]
    dec ax
    mov byte ptr fs:[ET_CHS], al
    shl ah, 6
    or ah, byte ptr fs:[ET_SPT]
    mov byte ptr fs:[ET_CHS+1], ah
    mov al, byte ptr fs:[ET_HEADS]
    dec al
    mov byte ptr fs:[ET_CHS+2], al
    mov byte ptr fs:[ET_ACTIVE], 1
    clc
    ret
.bad:
    mov ah, E_PARAMETER
    stc
.failed:
    ret
et_sectors:
    .byte 15, 18, 36                # per track of 1.2M, 1.44M, 2.88M

# End the emulation, if there is one, and put the counts back. Changes AX.
et_stop:
    cmp byte ptr fs:[ET_ACTIVE], 0
    je .out
    mov byte ptr fs:[ET_ACTIVE], 0
    test byte ptr fs:[ET_DRIVE], 0x80
    jz .floppy
    dec byte ptr [BDA_HD_COUNT]
    ret
.floppy:
    call fd_equipment
.out:
    ret
