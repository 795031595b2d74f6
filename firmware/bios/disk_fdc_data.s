# The floppy controller's commands with data: read, write, verify, format, by DMA channel 2.
#
# Near routines inside INT 13h (disk.inc), with the motor on and the drive selected (disk_fdc.s): R_COMMAND, R_COUNT and
# R_MEDIA say what to do, the caller's CH, DH, CL where, ES:BX with which buffer. An error comes back as CF set, AH =
# INT 13h status.
#
# Sources: Intel 82077AA data sheet, "Command Set/Descriptions", "Status Registers"; Intel 8237A data sheet.

.include "disk.inc"

# Do R_COMMAND for R_COUNT sectors with the medium R_MEDIA. CF, AH = outcome, R_DONE = sectors done.
# Changes all but BP, DS, FS.
fd_command:
    mov dword ptr [bp+R_DONE], 0
    mov si, word ptr [bp+R_MEDIA]
    mov al, byte ptr cs:[si]        # the rate
    shr al, 6
    mov dx, FDC_DIR
    out dx, al
    mov ch, byte ptr [bp+F_CH]
    call fd_position
    jc .out
    mov si, DPT_LAST
    call fd_parameter
    mov byte ptr [bp+R_LAST], al
    mov al, byte ptr [bp+R_COMMAND]
    cmp al, FDC_VERIFY
    je fd_verify_sides
    cmp al, FDC_FORMAT
    je fd_format_track

    mov si, DPT_SIZE
    call fd_parameter
    mov cl, al
    movzx eax, byte ptr [bp+R_COUNT]
    shl eax, 7
    shl eax, cl                     # bytes
    call fd_dma
    jc .out
    call fd_execute
    mov al, byte ptr [bp+R_COUNT]
    jnc .done
    pushf                           # how far did it come? The DMA counts bytes down
    mov dl, ah
    out 0x0C, al                    # low byte first
    in al, 0x05
    mov bl, al
    in al, 0x05
    mov bh, al
    movzx ebx, bx
    inc ebx                         # bytes left
    mov si, DPT_SIZE
    call fd_parameter
    mov cl, al
    add cl, 7
    mov eax, 1
    shl eax, cl
    lea eax, [eax+ebx-1]            # a sector begun does not count
    shr eax, cl
    mov cl, byte ptr [bp+R_COUNT]
    sub cl, al
    mov al, cl
    mov ah, dl
    popf
.done:
    mov byte ptr [bp+R_DONE], al
.out:
    ret

# Verify: the controller compares nothing and needs no DMA; it reads one side of the track up to a last sector, so the
# last sector is set to where we want it, and a request that goes on to head 1 takes two commands.
fd_verify_sides:
    mov al, byte ptr [bp+F_CL]
    add al, byte ptr [bp+R_COUNT]
    dec al                          # last sector, if the track were long enough
    cmp al, byte ptr [bp+R_LAST]
    jbe .one
    mov ah, byte ptr [bp+R_LAST]
    mov cl, al
    sub cl, ah                      # sectors on head 1
    cmp cl, ah
    ja .too_many
    test byte ptr [bp+F_DH], 1
    jnz .too_many
    push cx
    call fd_execute
    pop cx
    jc .out
    inc byte ptr [bp+F_DH]          # head 1 from sector 1
    mov al, 1
    xchg al, byte ptr [bp+F_CL]
    mov byte ptr [bp+R_LAST], cl
    push ax
    call fd_execute
    pop cx
    mov byte ptr [bp+F_CL], cl
    dec byte ptr [bp+F_DH]
    jmp .end
.one:
    mov byte ptr [bp+R_LAST], al
    call fd_execute
.end:
    jc .out
    mov al, byte ptr [bp+R_COUNT]
    mov byte ptr [bp+R_DONE], al
    clc
.out:
    ret
.too_many:
    mov ah, E_NOT_FOUND
    stc
    ret

# Format a track: four bytes go out for each sector.
fd_format_track:
    movzx eax, byte ptr [bp+R_COUNT]
    mov byte ptr [bp+R_LAST], al
    shl eax, 2
    call fd_dma
    jc .out
    and byte ptr [BDA_FD_RECALIBRATE], 0x7F
    mov al, FDC_FORMAT
    call fd_send_head
    jc .out
    mov si, DPT_SIZE
    call fd_send_parameter
    jc .out
    mov al, byte ptr [bp+R_LAST]
    call fd_send
    jc .out
    mov si, DPT_FORMAT_GAP
    call fd_send_parameter
    jc .out
    mov si, DPT_FILL
    call fd_send_parameter
    jc .out
    call fd_outcome
    jc .out
    mov al, byte ptr [bp+R_COUNT]
    mov byte ptr [bp+R_DONE], al
    clc
.out:
    ret

# Read, write or verify from the caller's CH, DH, CL up to R_LAST at most: nine bytes, then the outcome.
fd_execute:
    and byte ptr [BDA_FD_RECALIBRATE], 0x7F
    mov al, byte ptr [bp+R_COMMAND]
    call fd_send_head
    jc .out
    mov al, byte ptr [bp+F_CH]
    call fd_send
    jc .out
    mov al, byte ptr [bp+F_DH]
    call fd_send
    jc .out
    mov al, byte ptr [bp+F_CL]
    call fd_send
    jc .out
    mov si, DPT_SIZE
    call fd_send_parameter
    jc .out
    mov al, byte ptr [bp+R_LAST]
    call fd_send
    jc .out
    mov si, DPT_GAP
    call fd_send_parameter
    jc .out
    mov si, DPT_LENGTH
    call fd_send_parameter
    jnc fd_outcome
.out:
    ret

# Command AL, then head and drive.
fd_send_head:
    call fd_send
    jc .out
    mov al, byte ptr [bp+F_DH]
    and al, 1
    shl al, 2
    or al, byte ptr [bp+R_DRIVE]
    jmp fd_send
.out:
    ret

# Byte SI of the parameter table.
fd_send_parameter:
    call fd_parameter
    jmp fd_send

# Wait for the end of a command with results. CF set, AH = status. Changes AX, BX, CX, DX.
fd_outcome:
    call fd_wait_irq
    jc .stuck
    call fd_results
    jc .out
    mov al, byte ptr [BDA_FD_RESULT]
    and al, 0xC0
    jz .out                         # CF is clear
    mov ah, E_CONTROLLER
    cmp al, 0x40                    # abnormal termination: ST1 says why
    stc
    jne .out
    mov al, byte ptr [BDA_FD_RESULT+1]
    mov bx, fd_errors
.next:
    mov ah, byte ptr cs:[bx+1]
    test al, byte ptr cs:[bx]
    jnz .found
    add bx, 2
    cmp bx, fd_errors_end
    jb .next
.found:
    stc
.out:
    ret
.stuck:                             # the command still runs: only a reset ends it
    call fd_reset
    mov ah, E_TIMEOUT
    stc
    ret
fd_errors:                          # bit of ST1, status; the last line takes the rest
    .byte 0x80, E_NOT_FOUND         # end of cylinder
    .byte 0x20, E_ECC               # data error
    .byte 0x10, E_DMA               # overrun
    .byte 0x04, E_NOT_FOUND         # no data
    .byte 0x02, E_PROTECTED         # not writable
    .byte 0x01, E_ADDRESS_MARK
    .byte 0x00, E_CONTROLLER
fd_errors_end:

# Program DMA channel 2 for EAX bytes at the caller's ES:BX, mode R_COMMAND48. CF set, AH = 09h: it would cross 64 KiB.
# Changes EAX, EBX, ECX, DX.
fd_dma:
    dec eax
    mov ecx, eax                    # count - 1
    movzx eax, word ptr [bp+F_ES]
    shl eax, 4
    movzx ebx, word ptr [bp+F_BX]
    add ebx, eax                    # linear = physical address
    movzx eax, bx
    add eax, ecx
    cmp eax, 0x10000
    cmc
    mov ah, E_BOUNDARY
    jc .out
    mov al, 0x06                    # mask channel 2
    out 0x0A, al
    out 0x0C, al                    # low byte first
    mov al, byte ptr [bp+R_COMMAND48]
    out 0x0B, al
    mov al, bl
    out 0x04, al
    mov al, bh
    out 0x04, al
    mov al, cl
    out 0x05, al
    mov al, ch
    out 0x05, al
    shr ebx, 16
    mov al, bl
    out 0x81, al                    # page
    mov al, 0x02                    # unmask
    out 0x0A, al
    clc
.out:
    ret
