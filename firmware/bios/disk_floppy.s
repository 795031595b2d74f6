# INT 13h for floppies, DL = 00h and 01h: the functions. The controller's commands are in disk_fdc*.s.
#
# Entered by a jump from int13_entry (disk.inc). Each function documents what it takes and returns besides AH and CF.
# CH = cylinder, CL = sector from 1, DH = head. A buffer may not cross a 64 KiB boundary, which the DMA cannot: AH =
# 09h.
#
# The rate at which a medium was written is found by trying the ones that the drive knows (fd_media_*), and kept in
# BDA_FD_MEDIA until the drive says that the disk was changed. The number of sectors on a track comes from the diskette
# parameter table (INT 1Eh) if the caller has installed one, and otherwise from the medium that was found.
#
# Sources: IBM PC/AT Technical Reference, "INT 13h, diskette"; Intel 82077AA data sheet.

.include "disk.inc"

fd_service:
    mov word ptr [bp+R_STATUS], BDA_FD_STATUS
    cmp ah, 0x18
    ja int13_bad
    movzx bx, ah
    shl bx, 1
    jmp word ptr cs:[bx+fd_functions]

fd_functions:
    .word fd_service_reset, int13_last_status, fd_read, fd_write
    .word fd_verify, fd_format, int13_bad, int13_bad
    .word fd_parameters, int13_bad, int13_bad, int13_bad
    .word int13_bad, int13_bad, int13_bad, int13_bad     # 0Ch
    .word int13_bad, int13_bad, int13_bad, int13_bad     # 10h
    .word int13_bad, fd_type, fd_change_line, fd_set_type
    .word fd_set_media                                   # 18h

# ---- What a drive can read: media state with its rate, last cylinder, parameter table; 0 ends the list ----------
.macro MEDIA state, cylinder, table
    .byte \state, \cylinder
    .word \table
.endm
.set MEDIA_SIZE, 4
fd_media_360:
    MEDIA 0x93, 39, dpt_360         # 250 kbit/s
    .byte 0
fd_media_1200:
    MEDIA 0x15, 79, dpt_1200        # 500 kbit/s
    MEDIA 0x74, 39, dpt_360         # 300 kbit/s, every second track
    .byte 0
fd_media_2880:                      # the three 3.5 inch lists end alike
    MEDIA 0xD7, 79, dpt_2880        # 1 Mbit/s
fd_media_1440:
    MEDIA 0x17, 79, dpt_1440        # 500 kbit/s
fd_media_720:
    MEDIA 0x97, 79, dpt_720         # 250 kbit/s
    .byte 0
fd_media:                           # by CMOS type
    .word fd_media_360, fd_media_1200, fd_media_720, fd_media_1440, fd_media_2880
fd_tables:                          # the table of the drive's best medium, by CMOS type
    .word dpt_360, dpt_1200, dpt_720, dpt_1440, dpt_2880
fd_cylinders:                       # the last one, by CMOS type
    .byte 39, 79, 79, 79, 79

# Diskette parameter tables: DPT_*, head settle time, motor start time.
dpt_360:
    .byte 0xDF, 0x02, 0x25, 0x02, 9, 0x2A, 0xFF, 0x50, 0xF6, 0x0F, 0x08
dpt_720:
    .byte 0xDF, 0x02, 0x25, 0x02, 9, 0x2A, 0xFF, 0x50, 0xF6, 0x0F, 0x08
dpt_1200:
    .byte 0xDF, 0x02, 0x25, 0x02, 15, 0x1B, 0xFF, 0x54, 0xF6, 0x0F, 0x08
dpt_1440:
    .byte 0xAF, 0x02, 0x25, 0x02, 18, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08
dpt_2880:
    .byte 0xAF, 0x02, 0x25, 0x02, 36, 0x1B, 0xFF, 0x53, 0xF6, 0x0F, 0x08

# ---- Which drive ---------------------------------------------------------------------------------------------------

# BX = the drive's number, AL = its type. CF set, AH = status: there is none.
fd_drive:
    movzx bx, byte ptr [bp+R_DRIVE]
    mov ah, E_PARAMETER
    cmp bl, 2
    cmc
    jc .out
    mov ah, E_TIMEOUT
    mov al, byte ptr fs:[bx+EB_FD_TYPE]
    cmp al, 1                       # CF set: no type
.out:
    ret

# AL = number of floppy drives, the emulated one included. Changes AH.
fd_count:
    mov ah, byte ptr [BDA_EQUIPMENT]
    xor al, al
    test ah, 1
    jz .out
    mov al, ah
    shr al, 6
    inc al
.out:
    ret

# Count the drives in EB_FD_TYPE into the equipment word. Changes AL.
fd_equipment:
    and byte ptr [BDA_EQUIPMENT], 0x3E
    mov al, 0x01
    cmp byte ptr fs:[EB_FD_TYPE], 0
    je .second
    or byte ptr [BDA_EQUIPMENT], al
    mov al, 0x40
.second:
    cmp byte ptr fs:[EB_FD_TYPE+1], 0
    je .out
    or byte ptr [BDA_EQUIPMENT], al
.out:
    ret

# AL = byte SI of the caller's or our diskette parameter table. With our own, the medium's table R_MEDIA is what counts.
# Returns CF set if the caller has one.
fd_parameter:
    push bx
    push es
    xor bx, bx
    mov es, bx
    les bx, dword ptr es:[0x1E*4]
    mov ax, es
    cmp ax, ROM_SEG
    jne .theirs
    mov bx, word ptr [bp+R_MEDIA]
    mov bx, word ptr cs:[bx+2]
    mov al, byte ptr cs:[bx+si]
    clc
    jmp .out
.theirs:
    mov al, byte ptr es:[bx+si]
    stc
.out:
    pop es
    pop bx
    ret

# ---- Functions ----------------------------------------------------------------------------------------------------

# AH = 00h: reset the controller; the next access recalibrates.
fd_service_reset:
    call fd_unmask
    call fd_reset
    call fd_remask
    jc int13_return
    jmp int13_ok

# AH = 02h, 03h, 04h: read, write, verify AL sectors from CH, CL, DH on, over to head 1 at the end of head 0's track.
# Buffer ES:BX. Returns AL = sectors done.
fd_read:
    mov word ptr [bp+R_COMMAND], DMA_FROM_DISK << 8 | FDC_READ
    jmp fd_transfer
fd_write:
    mov word ptr [bp+R_COMMAND], DMA_TO_DISK << 8 | FDC_WRITE
    jmp fd_transfer
fd_verify:
    mov word ptr [bp+R_COMMAND], FDC_VERIFY
    jmp fd_transfer

# AH = 05h: format the track CH of head DH with AL sectors; ES:BX = C, H, R, N for each of them.
fd_format:
    mov word ptr [bp+R_COMMAND], DMA_TO_DISK << 8 | FDC_FORMAT
fd_transfer:
    movzx ecx, byte ptr [bp+F_AL]
    mov byte ptr [bp+F_AL], 0
    call fd_drive
    jc int13_return
    test ecx, ecx
    jz .none
    mov dword ptr [bp+R_COUNT], ecx
    call fd_unmask
    call fd_select
    call fd_check_change
    jc .end
    call fd_access
.end:
    call fd_release
    mov al, byte ptr [bp+R_DONE]
    mov byte ptr [bp+F_AL], al
    jc int13_return
    jmp int13_ok
.none:
    jmp int13_bad

# Do R_COMMAND with the medium that is known, or else with each that the drive can read until one answers; that one is
# known from then on. CF, AH = outcome: the first failure when none answers. Changes all but BP, DS, FS.
fd_access:
    movzx bx, byte ptr [bp+R_DRIVE]
    call fd_first_media
    mov dl, 0                       # status of the first failure
    mov al, byte ptr [bx+BDA_FD_MEDIA]
    test al, FM_ESTABLISHED
    jz .try
.find:
    cmp byte ptr cs:[si], al
    je .known
    cmp byte ptr cs:[si], 0
    je .unknown
    add si, MEDIA_SIZE
    jmp .find
.unknown:                           # a state that does not fit the drive: somebody wrote it there
    call fd_first_media
.try:
    mov word ptr [bp+R_MEDIA], si
    push dx
    call fd_command
    pop dx
    jnc .good
    test dl, dl
    jnz .not_first
    mov dl, ah
.not_first:
    cmp ah, E_TIMEOUT               # no disk, or no controller
    je .failed
    mov si, word ptr [bp+R_MEDIA]
    add si, MEDIA_SIZE
    cmp byte ptr cs:[si], 0
    jne .try
.failed:
    mov ah, dl
    stc
    ret
.good:
    movzx bx, byte ptr [bp+R_DRIVE]
    mov si, word ptr [bp+R_MEDIA]
    mov al, byte ptr cs:[si]
    mov byte ptr [bx+BDA_FD_MEDIA], al
    clc
    ret
.known:
    mov word ptr [bp+R_MEDIA], si
    jmp fd_command

# SI = the first medium that drive BX knows. Changes DI.
fd_first_media:
    movzx di, byte ptr fs:[bx+EB_FD_TYPE]
    shl di, 1
    mov si, word ptr cs:[di+fd_media-2]
    ret

# AH = 08h: BL = CMOS type, CH, CL, DH = the last cylinder, sector and head, DL = number of drives, ES:DI = parameter
# table. For a drive that is not there all are zero but DL.
fd_parameters:
    mov word ptr [bp+F_AX], 0
    mov word ptr [bp+F_BX], 0
    mov word ptr [bp+F_CX], 0
    mov word ptr [bp+F_DX], 0
    mov word ptr [bp+F_DI], 0
    mov word ptr [bp+F_ES], 0
    call fd_count
    mov byte ptr [bp+F_DL], al
    call fd_drive
    jc .out
    mov byte ptr [bp+F_BL], al
    mov byte ptr [bp+F_DH], 1
    movzx bx, al
    mov al, byte ptr cs:[bx+fd_cylinders-1]
    mov byte ptr [bp+F_CH], al
    shl bx, 1
    mov bx, word ptr cs:[bx+fd_tables-2]
    mov al, byte ptr cs:[bx+DPT_LAST]
    mov byte ptr [bp+F_CL], al
    mov word ptr [bp+F_DI], bx
    mov word ptr [bp+F_ES], cs
.out:
    jmp int13_ok

# AH = 15h: AH = 00h no drive, 01h floppy without change line (360 KiB), 02h with.
fd_type:
    call fd_drive
    mov ah, 0
    jc .told
    mov ah, 1
    cmp al, 1
    je .told
    mov ah, 2
.told:
    mov byte ptr [bp+F_AH], ah
    xor ah, ah
    jmp int13_status

# AH = 16h: has the disk been changed? AH = 06h and CF set: yes.
fd_change_line:
    call fd_drive
    jc int13_return
    cmp al, 1
    je int13_ok                     # that drive cannot tell
    call fd_unmask
    call fd_select
    call fd_changed
    mov ah, E_CHANGED
    call fd_release
    jc int13_return
    jmp int13_ok

# AH = 17h: the medium is AL: 1 360K in a 360K drive, 2 360K in a 1.2M drive, 3 1.2M, 4 720K.
fd_set_type:
    call fd_drive
    jc int13_return
    movzx si, byte ptr [bp+F_AL]
    dec si
    cmp si, 4
    jae int13_bad
    mov al, byte ptr cs:[si+fd_set_states]
    mov byte ptr [bx+BDA_FD_MEDIA], al
    jmp int13_ok
fd_set_states:
    .byte 0x93, 0x74, 0x15, 0x97

# AH = 18h: the medium has CH as last cylinder and CL sectors a track. Returns ES:DI = its parameter table.
fd_set_media:
    call fd_drive
    jc int13_return
    call fd_first_media
    mov cx, word ptr [bp+F_CX]
.next:
    cmp byte ptr cs:[si], 0
    je .none
    mov di, word ptr cs:[si+2]
    cmp ch, byte ptr cs:[si+1]
    jne .other
    cmp cl, byte ptr cs:[di+DPT_LAST]
    je .found
.other:
    add si, MEDIA_SIZE
    jmp .next
.found:
    mov al, byte ptr cs:[si]
    mov byte ptr [bx+BDA_FD_MEDIA], al
    mov word ptr [bp+F_DI], di
    mov word ptr [bp+F_ES], cs
    jmp int13_ok
.none:
    mov ah, E_MEDIA_TYPE
    jmp int13_return
