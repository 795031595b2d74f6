# ATA disks by programmed I/O, 28- and 48-bit addresses and plain CHS.
#
# Near routines inside INT 13h (disk.inc): SI = entry in the drive table, BP = request, DS = 40h, FS = EBDA. An error
# comes back as CF set, AH = INT 13h status. Interrupts of the device are off while a command runs (nIEN): the status
# is polled, one port read in the usual case. A device may be busy for ATA_TICKS.
#
# Source: ATA/ATAPI-6, "PIO data-in command protocol", "PIO data-out command protocol", "Non-data command protocol".

.include "disk.inc"

.set ATA_TICKS, 18*10               # ten seconds
.set ATA_POLLS, 0x1000000           # and a bound that holds when the tick stands still
.set LBA28_LIMIT, 0x10000000

# Wait until the device is not busy. Returns AL = status, DX = status port; changes AH. Preserves the rest.
ata_wait:
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_STATUS
    in al, dx
    test al, ATA_BSY                # clears CF
    jnz .busy
    ret
.busy:
    push ecx
    push bx
    mov bx, word ptr [BDA_TICKS]
    mov ecx, ATA_POLLS
.poll:
    in al, dx
    test al, ATA_BSY
    jz .ready
    mov ax, word ptr [BDA_TICKS]
    sub ax, bx
    cmp ax, ATA_TICKS
    jae .late
    dec ecx
    jnz .poll
.late:
    mov ah, E_TIMEOUT
    stc
.ready:
    pop bx
    pop ecx
    ret

# Select the device: AH goes to the device/head register. Device interrupts off, then wait until it listens.
ata_select:
    mov dx, word ptr fs:[si+D_CONTROL]
    mov al, ATA_CTL | ATA_NIEN
    out dx, al
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_DEVICE
    mov al, ah
    out dx, al
    mov dx, word ptr fs:[si+D_CONTROL]
    in al, dx                       # alternate status: the 400 ns in which BSY may still be wrong
    jmp ata_wait

# Device interrupts back on. Preserves all registers and flags.
ata_release:
    push ax
    push dx
    mov dx, word ptr fs:[si+D_CONTROL]
    mov al, ATA_CTL
    out dx, al
    pop dx
    pop ax
    ret

# Send R_COMMAND for CX sectors, 1 to 256, from R_LBA on. Changes EAX, EBX, ECX, EDX.
ata_send:
    test byte ptr fs:[si+D_FLAGS], DF_LBA
    jz ata_send_chs
    cmp dword ptr [bp+R_LBA+4], 0
    jne ata_send48
    movzx ecx, cx
    mov eax, dword ptr [bp+R_LBA]
    add eax, ecx
    jc ata_send48
    cmp eax, LBA28_LIMIT
    ja ata_send48
    mov ebx, dword ptr [bp+R_LBA]
ata_send28:                         # EBX = address: bits 27:24 go to the device register
    mov eax, ebx
    shr eax, 24
    or al, byte ptr fs:[si+D_SELECT]
    mov ah, al
    call ata_select
    jc .out
    mov al, byte ptr [bp+R_COMMAND]
    call ata_write_address
    clc
.out:
    ret

# A drive without LBA: make cylinder, head and sector of R_LBA, in the places where LBA bits would go.
ata_send_chs:
    mov eax, dword ptr [bp+R_LBA]
    xor edx, edx
    movzx ebx, word ptr fs:[si+D_PSPT]
    div ebx
    push dx                         # sector - 1
    xor edx, edx
    movzx ebx, word ptr fs:[si+D_PHEADS]
    div ebx                         # EAX = cylinder, EDX = head
    mov ebx, edx
    shl ebx, 16
    mov bx, ax
    shl ebx, 8
    pop ax
    inc ax
    mov bl, al
    jmp ata_send28

# The 48-bit form: every register is written twice, the upper bytes first.
ata_send48:
    test byte ptr fs:[si+D_FLAGS], DF_LBA48
    jz .no_such
    mov ah, byte ptr fs:[si+D_SELECT]
    call ata_select
    jc .out
    push cx
    mov ebx, dword ptr [bp+R_LBA+3] # LBA 31:24, 39:32, 47:40
    mov cl, ch                      # count 15:8
    mov al, 0                       # no command yet
    call ata_write_address
    pop cx
    mov ebx, dword ptr [bp+R_LBA]
    mov al, byte ptr [bp+R_COMMAND48]
    call ata_write_address
    clc
.out:
    ret
.no_such:
    mov ah, E_NOT_FOUND
    stc
    ret

# Count CL, address EBX 23:0, and the command AL unless that is zero. Changes AX, EBX, DX.
ata_write_address:
    mov ah, al
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_COUNT
    mov al, cl
    out dx, al
    inc dx
    mov al, bl
    out dx, al
    inc dx
    mov al, bh
    out dx, al
    inc dx
    shr ebx, 16
    mov al, bl
    out dx, al
    mov al, ah
    test al, al
    jz .out
    add dx, ATA_STATUS - ATA_LBA2
    out dx, al
    mov dx, word ptr fs:[si+D_CONTROL]
    in al, dx                       # the 400 ns again
.out:
    ret

# Do R_COMMAND for R_COUNT sectors from R_LBA at ES:DI; R_DONE counts what succeeded. Changes all but SI, BP, DS, FS.
ata_transfer:
    mov ecx, dword ptr [bp+R_COUNT]
    test ecx, ecx
    jz .done                        # CF is clear
    cmp ecx, 256
    jbe .short
    mov ecx, 256
.short:
    sub dword ptr [bp+R_COUNT], ecx
    push ecx
    call ata_send
    pop ebx                         # sectors of this command
    jc .done
    add dword ptr [bp+R_LBA], ebx
    adc dword ptr [bp+R_LBA+4], 0
    cmp byte ptr [bp+R_COMMAND], ATA_VERIFY
    je .no_data

.sector:
    call ata_wait
    jc .done
    test al, ATA_ERR | ATA_DF
    jnz ata_error
    test al, ATA_DRQ
    jz .sector_lost
    mov cx, 512
    call buffer_room
    mov dx, word ptr fs:[si+D_BASE]
    mov cx, 256
    cmp byte ptr [bp+R_COMMAND], ATA_WRITE
    je .write
    rep insw
.next:
    inc dword ptr [bp+R_DONE]
    dec bx
    jnz .sector
    cmp byte ptr [bp+R_COMMAND], ATA_WRITE
    jne ata_transfer
    call ata_wait                   # the drive has the last sector; has it written it?
    jc .done
    test al, ATA_ERR | ATA_DF
    jz ata_transfer
    dec dword ptr [bp+R_DONE]
    jmp ata_error

.write:
    push si
    push ds
    push es
    pop ds
    mov si, di
    rep outsw
    mov di, si
    pop ds
    pop si
    jmp .next

.no_data:
    call ata_wait
    jc .done
    test al, ATA_ERR | ATA_DF
    jnz ata_error
    add dword ptr [bp+R_DONE], ebx
    jmp ata_transfer

.sector_lost:
    mov ah, E_CONTROLLER
    stc
.done:
    ret

# CF set and AH = the INT 13h status for device status AL with ERR or DF. Changes BX, DX.
ata_error:
    mov ah, E_WRITE_FAULT
    test al, ATA_DF
    jnz .out
    mov dx, word ptr fs:[si+D_BASE]
    inc dx                          # ATA_ERROR
    in al, dx
    mov bx, ata_errors
.next:
    mov ah, byte ptr cs:[bx+1]
    test al, byte ptr cs:[bx]
    jnz .out
    add bx, 2
    cmp bx, ata_errors_end
    jb .next
.out:
    stc
    ret
ata_errors:                         # bit of the error register, status; the last line takes the rest
    .byte 0x80, E_BAD_SECTOR        # interface CRC, bad block
    .byte 0x40, E_ECC               # uncorrectable
    .byte 0x10, E_NOT_FOUND         # address not found
    .byte 0x04, E_PARAMETER         # aborted
    .byte 0x02, E_SEEK              # no track 0
    .byte 0x01, E_ADDRESS_MARK
    .byte 0x00, E_UNDEFINED
ata_errors_end:

# Make room for CX bytes at ES:DI: where the offset would wrap, move it into the segment. Changes AX, DX.
# A buffer in the high memory area (segment FFFFh) never wraps, so it is never normalised.
buffer_room:
    mov ax, di
    add ax, cx
    jnc .out
    mov ax, di
    shr ax, 4
    mov dx, es
    add ax, dx
    mov es, ax
    and di, 0x0F
.out:
    ret

# Reset both devices of the channel. CF set, AH = status when the drive does not come back. Changes AX, DX, CX.
ata_reset:
    mov dx, word ptr fs:[si+D_CONTROL]
    mov al, ATA_CTL | ATA_SRST | ATA_NIEN
    out dx, al
    mov cx, 5                       # microseconds that SRST must be asserted
    call delay_us
    mov al, ATA_CTL | ATA_NIEN
    out dx, al
    mov cx, 2000                    # and that the status is not valid after it
    call delay_us
    mov cx, word ptr [BDA_TICKS]
.again:                             # a busy device does not let itself be selected: see that it was
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_DEVICE
    mov al, byte ptr fs:[si+D_SELECT]
    out dx, al
    mov ah, al
    mov dx, word ptr fs:[si+D_CONTROL]
    in al, dx
    test al, ATA_BSY
    jnz .busy
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_DEVICE
    in al, dx
    cmp al, ah
    je .selected
.busy:
    mov ax, word ptr [BDA_TICKS]
    sub ax, cx
    cmp ax, ATA_TICKS
    jb .again
    mov ah, E_TIMEOUT
    stc
    jmp ata_release
.selected:
    call ata_init_parameters
    jmp ata_release

# Tell a drive without LBA its geometry, which a reset makes it forget; others need no telling.
ata_init_parameters:
    cmp byte ptr fs:[si+D_TYPE], D_ATA
    jne .out
    test byte ptr fs:[si+D_FLAGS], DF_LBA
    jnz .out                        # CF is clear
    mov ah, byte ptr fs:[si+D_PHEADS]
    dec ah
    or ah, byte ptr fs:[si+D_SELECT]
    call ata_select
    jc .out
    mov dx, word ptr fs:[si+D_BASE]
    add dx, ATA_COUNT
    mov al, byte ptr fs:[si+D_PSPT]
    out dx, al
    add dx, ATA_STATUS - ATA_COUNT
    mov al, ATA_INIT_PARAMS
    out dx, al
    mov dx, word ptr fs:[si+D_CONTROL]
    in al, dx
    call ata_wait
    jc .out
    test al, ATA_ERR | ATA_DF
    jnz ata_error
.out:
    ret
