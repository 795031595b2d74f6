# ATAPI: send a command packet, take the data, explain an error.
#
# Near routines inside INT 13h (disk.inc): SI = entry in the drive table. The twelve bytes of the packet stand at
# EB_PACKET. Of the data that comes, R_FRONT bytes are dropped, R_KEEP bytes go to ES:DI and the rest is dropped; so a
# 512-byte sector can be cut out of a CD sector without a buffer. DI and ES end behind what was stored.
#
# Source: ATA/ATAPI-6, "PACKET command protocol"; MMC-3.

.include "disk.inc"

.set BYTE_LIMIT_HIGH, 0xF8          # byte count limit F800h: 31 CD sectors for each DRQ
.set SENSE_NOT_READY, 2             # sense keys
.set SENSE_MEDIUM, 3
.set SENSE_ILLEGAL, 5
.set SENSE_ATTENTION, 6
.set ASC_NO_MEDIUM, 0x3A

# Zero EB_PACKET, put AL into its first byte, and expect no data. Changes EAX.
atapi_begin:
    movzx eax, al
    mov dword ptr fs:[EB_PACKET], eax
    xor eax, eax
    mov dword ptr fs:[EB_PACKET+4], eax
    mov dword ptr fs:[EB_PACKET+8], eax
    mov word ptr [bp+R_FRONT], ax
    mov dword ptr [bp+R_KEEP], eax
    ret

# Run the packet. CF set, AH = INT 13h status: it failed. Changes EAX, CX, DX, EDX, DI and ES as data come.
# After a reset or a change of medium a device refuses one command to tell of it (unit attention): try again.
atapi_run:
    mov byte ptr [bp+R_RETRY], 4
.again:
    mov ah, byte ptr fs:[si+D_SELECT]
    call ata_select
    jc .out
    mov dx, word ptr fs:[si+D_BASE]
    inc dx                          # features: no DMA, no overlap
    mov al, 0
    out dx, al
    add dx, ATA_LBA1 - ATA_ERROR
    out dx, al
    inc dx
    mov al, BYTE_LIMIT_HIGH
    out dx, al
    add dx, ATA_STATUS - ATA_LBA2
    mov al, ATA_PACKET
    out dx, al
    mov dx, word ptr fs:[si+D_CONTROL]
    in al, dx                       # 400 ns
    call ata_wait
    jc .out
    test al, ATA_ERR
    jnz .check
    test al, ATA_DRQ
    jz .lost

    push si                         # the packet
    push ds
    sub dx, ATA_STATUS
    mov ds, word ptr [BDA_EBDA]
    mov si, EB_PACKET
    mov cx, 6
    rep outsw
    pop ds
    pop si

.data:
    call ata_wait
    jc .out
    test al, ATA_DRQ
    jz .end
    call atapi_take
    jmp .data
.end:
    test al, ATA_ERR
    jnz .check
.out:
    jmp ata_release                 # keeps CF, AH

.lost:
    mov ah, E_CONTROLLER
    stc
    jmp ata_release

.check:
    mov dx, word ptr fs:[si+D_BASE]
    inc dx
    in al, dx
    shr al, 4                       # sense key
    cmp al, SENSE_ATTENTION
    jne .explain
    dec byte ptr [bp+R_RETRY]
    jnz .again
.explain:
    mov ah, E_NOT_READY
    cmp al, SENSE_NOT_READY
    je .failed
    mov ah, E_ECC
    cmp al, SENSE_MEDIUM
    je .failed
    mov ah, E_PARAMETER
    cmp al, SENSE_ILLEGAL
    je .failed
    mov ah, E_CONTROLLER
.failed:
    stc
    jmp ata_release

# Take the bytes of one DRQ. Changes EAX, CX, DX, DI, ES.
atapi_take:
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_LBA1
    in al, dx
    mov cl, al
    inc dx
    in al, dx
    mov ch, al                      # CX = bytes offered
    cmp word ptr [bp+R_FRONT], 0
    je .keep
    mov ax, word ptr [bp+R_FRONT]
    cmp ax, cx
    jbe .front
    mov ax, cx
.front:
    sub word ptr [bp+R_FRONT], ax
    sub cx, ax
    call atapi_drop
.keep:
    movzx eax, cx
    cmp eax, dword ptr [bp+R_KEEP]
    jbe .store
    mov eax, dword ptr [bp+R_KEEP]
.store:
    sub dword ptr [bp+R_KEEP], eax
    sub cx, ax
    push cx                         # what is left over
    mov cx, ax
    call buffer_room
    mov dx, word ptr fs:[si+D_BASE]
    shr cx, 1
    rep insw
    pop ax
    # falls into atapi_drop

# Read AX bytes and forget them. Changes AX, DX.
atapi_drop:
    push cx
    push di
    push es
    mov es, word ptr [BDA_EBDA]
    mov dx, word ptr fs:[si+D_BASE]
.piece:
    test ax, ax
    jz .out
    mov cx, 512                     # as much as the scratch buffer takes
    cmp ax, cx
    jae .read
    mov cx, ax
.read:
    sub ax, cx
    mov di, EB_SCRATCH
    shr cx, 1
    rep insw
    jmp .piece
.out:
    pop es
    pop di
    pop cx
    ret

# Read CX CD sectors from R_LBA on, R_FRONT and R_KEEP in force. CF, AH as atapi_run. Changes what that does.
atapi_read:
    push word ptr [bp+R_FRONT]
    push dword ptr [bp+R_KEEP]
    mov al, CD_READ
    call atapi_begin
    pop dword ptr [bp+R_KEEP]
    pop word ptr [bp+R_FRONT]
    mov eax, dword ptr [bp+R_LBA]
    bswap eax
    mov dword ptr fs:[EB_PACKET+2], eax
    xchg cl, ch
    mov word ptr fs:[EB_PACKET+7], cx
    call atapi_run
    jnc cd_explain.out              # CF is clear
    # falls into cd_explain

# CF set, AH = the status of a failed packet: a drive that is not ready may have no medium. Changes EAX, CX, DX.
cd_explain:
    cmp ah, E_NOT_READY
    jne .failed
    call cd_sense
    mov ah, E_NOT_READY
    cmp al, ASC_NO_MEDIUM
    jne .failed
    mov ah, E_NO_MEDIA
.failed:
    stc
.out:
    ret

# AL = additional sense code of the last error, 0 if the drive does not say. Changes EAX, CX, DX.
cd_sense:
    push di
    push es
    mov al, CD_REQUEST_SENSE
    call atapi_begin
    mov byte ptr fs:[EB_PACKET+4], 18
    mov dword ptr [bp+R_KEEP], 18
    mov es, word ptr [BDA_EBDA]
    mov di, EB_SCRATCH
    mov byte ptr es:[di+12], 0
    call atapi_run
    mov al, byte ptr fs:[EB_SCRATCH+12]
    pop es
    pop di
    ret

# D_SECTORS = the medium's capacity in CD sectors. CF set, AH = status: there is no medium. Changes EAX, CX, DX.
cd_capacity:
    push di
    push es
    mov al, CD_READ_CAPACITY
    call atapi_begin
    mov dword ptr [bp+R_KEEP], 8
    mov es, word ptr [BDA_EBDA]
    mov di, EB_SCRATCH
    call atapi_run
    jc .out
    mov eax, dword ptr fs:[EB_SCRATCH] # last sector, big-endian
    bswap eax
    inc eax
    mov dword ptr fs:[si+D_SECTORS], eax
    mov dword ptr fs:[si+D_SECTORS+4], 0
    clc
.out:
    pop es
    pop di
    ret
