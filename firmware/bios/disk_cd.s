# INT 13h for ATAPI CD-ROMs, DL = E0h-E3h: 2048-byte sectors through the extensions 41h-49h, and 4Ah-4Dh.
#
# Entered by a jump from int13_entry (disk.inc).
#
# Source: Phoenix EDD 3.0; "El Torito Bootable CD-ROM Format Specification" 1.0, "INT 13 Extensions"; MMC-3.

.include "disk.inc"

cd_service:
    mov word ptr [bp+R_STATUS], BDA_HD_STATUS
    mov bl, byte ptr [bp+R_DRIVE]
    sub bl, CD_FIRST
    cmp bl, byte ptr fs:[EB_CD_COUNT]
    jae int13_bad
    xor bh, bh
    shl bx, 1
    mov si, word ptr fs:[bx+EB_CD_MAP]
    cmp ah, 0x41
    jb .classic
    cmp ah, 0x4E
    ja int13_bad
    movzx bx, ah
    shl bx, 1
    jmp word ptr cs:[bx+cd_functions-2*0x41]
.classic:                           # a CD has no CHS addresses
    cmp ah, 0x01
    je int13_last_status
    cmp ah, 0x03
    je int13_protected
    cmp ah, 0x00
    je cd_reset
    cmp ah, 0x0D
    je cd_reset
    cmp ah, 0x10
    je cd_ready
    cmp ah, 0x11
    je cd_ready
    jmp int13_bad

cd_functions:
    .word cd_check, cd_read, int13_protected, cd_verify  # 41h
    .word cd_lock, cd_eject, cd_verify, cd_parameters    # 45h
    .word cd_changed, et_initiate, et_service, et_boot   # 49h
    .word et_catalog, edd_configure                      # 4Dh

# AH = 00h, 0Dh: reset the channel.
cd_reset:
    call ata_reset
    jc int13_return
    jmp int13_ok

# AH = 10h, 11h: is there a readable medium?
cd_ready:
    mov al, CD_TEST_UNIT_READY
    call atapi_begin
cd_run:                             # the packet is complete; its outcome is the service's
    call atapi_run
    jnc int13_ok
    call cd_explain
    jmp int13_return

# AH = 41h: with locking.
cd_check:
    mov cx, 0x07
    jmp edd_present

# AH = 42h: read CD sectors as the packet says.
cd_read:
    call edd_packet
    jc edd_end
    mov ecx, dword ptr [bp+R_COUNT]
    test ecx, ecx
    jz .done
    mov word ptr [bp+R_FRONT], 0
    mov eax, ecx
    shl eax, 11                     # CD_SECTOR bytes each
    mov dword ptr [bp+R_KEEP], eax
    call atapi_read
    pushf
    mov ecx, dword ptr [bp+R_COUNT] # what is not kept yet has not come
    mov edx, dword ptr [bp+R_KEEP]
    add edx, CD_SECTOR - 1
    shr edx, 11
    sub ecx, edx
    mov dword ptr [bp+R_DONE], ecx
    popf
    jmp edd_end
.done:
    clc
    jmp edd_end

# AH = 44h, 47h: verify, seek: do the sectors exist?
cd_verify:
    call cd_capacity
    jc int13_return
    jmp edd_seek

# AH = 48h: drive parameters; a CD has no geometry. Without a medium the number of sectors is unknown: all ones.
cd_parameters:
    call cd_capacity
    jnc .known
    mov dword ptr fs:[si+D_SECTORS], -1
    mov dword ptr fs:[si+D_SECTORS+4], -1
.known:
    mov ax, EDD_REMOVABLE | EDD_CHANGE_LINE | EDD_LOCKABLE | EDD_DMA_TRANSPARENT
    mov cx, CD_SECTOR
    jmp edd_fill

# AH = 45h: AL = 0 lock, 1 unlock, 2 ask. Returns AL = 1 if locked. Locks are counted.
cd_lock:
    mov al, byte ptr [bp+F_AL]
    mov cl, byte ptr fs:[si+D_LOCKS]
    cmp al, 2
    ja int13_bad
    je .tell
    test al, al
    jz .lock
    mov ah, E_NOT_LOCKED
    test cl, cl
    jz int13_return
    dec cl
    jmp .set
.lock:
    mov ah, E_LOCK_COUNT
    inc cl
    jz int13_return
.set:
    push cx
    mov al, CD_PREVENT_REMOVAL
    call atapi_begin
    pop cx
    push cx
    test cl, cl
    setnz byte ptr fs:[EB_PACKET+4]
    call atapi_run
    pop cx
    jc int13_return
    mov byte ptr fs:[si+D_LOCKS], cl
.tell:
    test cl, cl
    setnz byte ptr [bp+F_AL]
    jmp int13_ok

# AH = 46h: eject the medium.
cd_eject:
    mov ah, E_LOCKED
    cmp byte ptr fs:[si+D_LOCKS], 0
    jne int13_return
    mov al, CD_START_STOP
    call atapi_begin
    mov byte ptr fs:[EB_PACKET+4], 0x02 # LoEj, no start
    jmp cd_run

# AH = 49h: has the medium changed? Unit attention is what would tell; atapi_run swallows it, so this asks itself.
cd_changed:
    mov al, CD_TEST_UNIT_READY
    call atapi_begin
    call atapi_run
    jc int13_return
    cmp byte ptr [bp+R_RETRY], 4    # it needed a second attempt
    je int13_ok
    mov ah, E_CHANGED
    jmp int13_return
