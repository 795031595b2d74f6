# The floppy controller, an 82077AA or what a PC/AT had: bytes, IRQ 6, commands without data.
#
# Near routines inside INT 13h (disk.inc) and POST: DS = 40h, FS = EBDA, interrupts on. An error comes back as CF set,
# AH = INT 13h status. Waiting for IRQ 6 halts the processor. No time is waited for a motor to start or a head to
# settle: the drives of this board are files, up to speed at once.
#
# Sources: Intel 82077AA data sheet, "Command Set/Descriptions", "Status Registers".

.include "disk.inc"

.set FDC_TICKS, 18*2+1              # two seconds for a command
.set FDC_WAKES, 4096                # or that many interrupts, if the tick stands still
.set FDC_POLLS, 0xFFFF              # polls of the main status
.set PIC_IRQ0_IRQ6, 0x41

# ---- Around a service -----------------------------------------------------------------------------------------

# IRQ 0 and IRQ 6 must come through while we wait; R_PIC remembers what was masked. Changes AL.
fd_unmask:
    in al, PIC1+1
    mov byte ptr [bp+R_PIC], al
    test al, PIC_IRQ0_IRQ6
    jz .out
    and al, 0xFF-PIC_IRQ0_IRQ6
    out PIC1+1, al
.out:
    ret

# Mask again what was masked. Preserves all registers and flags.
fd_remask:
    pushf
    push ax
    mov ah, byte ptr [bp+R_PIC]
    and ah, PIC_IRQ0_IRQ6
    jz .out
    in al, PIC1+1
    or al, ah
    out PIC1+1, al
.out:
    pop ax
    popf
    ret

# Motor on, drive R_DRIVE selected. Changes AX, CX, DX.
fd_select:
    mov byte ptr [BDA_FD_MOTOR_COUNT], 0xFF # not while we are at it
    mov cl, byte ptr [bp+R_DRIVE]
    mov al, 1
    shl al, cl
    or al, byte ptr [BDA_FD_MOTOR]
    and al, 0x0F
    mov ah, al                      # the motors that run
    shl cl, 4
    or al, cl
    mov byte ptr [BDA_FD_MOTOR], al
    shr cl, 4
    mov al, ah
    shl al, 4
    or al, cl
    or al, DOR_ENABLE
    mov dx, FDC_DOR
    out dx, al
    ret

# The service is over: the motor may stop later. Preserves all registers and flags.
fd_release:
    pushf
    push bx
    push es
    xor bx, bx
    mov es, bx
    les bx, dword ptr es:[0x1E*4]
    mov bl, byte ptr es:[bx+DPT_MOTOR_OFF]
    mov byte ptr [BDA_FD_MOTOR_COUNT], bl
    pop es
    pop bx
    popf
    jmp fd_remask

# ---- Bytes and interrupts --------------------------------------------------------------------------------------

# Send AL to the controller. CF set, AH = status: it does not take it. Changes AX.
fd_send:
    push cx
    push dx
    mov ah, al
    mov dx, FDC_MSR
    mov cx, FDC_POLLS
.poll:
    in al, dx
    and al, MSR_RQM | MSR_DIO
    cmp al, MSR_RQM
    je .ready
    loop .poll
    mov ah, E_TIMEOUT
    stc
    jmp .out
.ready:
    mov al, ah
    inc dx                          # FDC_DATA
    out dx, al
    clc
.out:
    pop dx
    pop cx
    ret

# Take the result bytes, at most 7, to BDA_FD_RESULT. CF set, AH = status: there is none. Changes AX, BX, CX, DX.
fd_results:
    mov bx, BDA_FD_RESULT
    mov dx, FDC_MSR
    mov cx, FDC_POLLS
.poll:
    in al, dx
    and al, MSR_RQM | MSR_DIO | MSR_BUSY
    cmp al, MSR_RQM | MSR_DIO | MSR_BUSY
    je .byte
    cmp al, MSR_RQM                 # it waits for a command: that was all
    je .end
    loop .poll
    jmp .none
.byte:
    inc dx
    in al, dx
    dec dx
    mov byte ptr [bx], al
    inc bx
    cmp bx, BDA_FD_RESULT+7
    jb .poll
.end:
    cmp bx, BDA_FD_RESULT+1
    jae .out                        # CF is clear
.none:
    mov ah, E_TIMEOUT
    stc
.out:
    ret

# Wait until IRQ 6 has come, and forget it. CF set, AH = status: it does not come. Changes AX, BX, CX.
fd_wait_irq:
    mov bx, word ptr [BDA_TICKS]
    mov cx, FDC_WAKES
.wait:
    cli
    test byte ptr [BDA_FD_RECALIBRATE], 0x80
    jnz .came
    sti                             # takes effect after HLT has begun: no interrupt is lost in between
    hlt
    mov ax, word ptr [BDA_TICKS]
    sub ax, bx
    cmp ax, FDC_TICKS
    jae .late
    loop .wait
.late:
    mov ah, E_TIMEOUT
    stc
    ret
.came:
    and byte ptr [BDA_FD_RECALIBRATE], 0x7F
    sti
    clc
    ret

# IRQ 6.
int0e_handler:
    push ds
    push BDA_SEG
    pop ds
    or byte ptr [BDA_FD_RECALIBRATE], 0x80
    call eoi_master
    pop ds
    iret

# ---- Commands without data ---------------------------------------------------------------------------------------

# Reset the controller, set the drives' times; the drives count as not calibrated. CF set, AH = status.
# Changes AX, BX, CX, DX.
fd_reset:
    and byte ptr [BDA_FD_RECALIBRATE], 0x70
    mov al, byte ptr [BDA_FD_MOTOR]
    mov ah, al
    shl al, 4                       # running motors keep running
    shr ah, 4
    and ah, 3
    or al, ah
    or al, DOR_ENABLE - 4           # bit 2 is the reset, active low
    mov dx, FDC_DOR
    out dx, al
    mov cx, 4                       # microseconds; 1.1 at 250 kbit/s
    call delay_us
    or al, 4
    out dx, al
    call fd_wait_irq
    jc .out
    mov cx, 4                       # polling tells of each of four drives
.drive:
    push cx
    call fd_sense
    pop cx
    jc .out
    loop .drive
    and byte ptr [BDA_FD_RESULT], 0xC0
    cmp byte ptr [BDA_FD_RESULT], 0xC0 # ready line changed
    mov ah, E_CONTROLLER
    stc
    jne .out
    mov al, FDC_SPECIFY             # with the times of the table in force
    call fd_send
    jc .out
    push es
    xor bx, bx
    mov es, bx
    les bx, dword ptr es:[0x1E*4]
    mov al, byte ptr es:[bx+DPT_SPECIFY1]
    mov cl, byte ptr es:[bx+DPT_SPECIFY2]
    pop es
    call fd_send
    jc .out
    mov al, cl
    jmp fd_send
.out:
    ret

# Sense interrupt status: BDA_FD_RESULT = ST0, cylinder. CF set, AH = status. Changes AX, BX, CX, DX.
fd_sense:
    mov al, FDC_SENSE
    call fd_send
    jc .out
    jmp fd_results
.out:
    ret

# Bring cylinder CH under the heads of drive R_DRIVE, as R_MEDIA counts cylinders. CF set, AH = status.
# Changes AX, BX, CX, DX, SI.
fd_position:
    mov si, word ptr [bp+R_MEDIA]
    test byte ptr cs:[si], FM_DOUBLE_STEP
    jz fd_step_to
    shl ch, 1
fd_step_to:                         # CH counts the drive's own tracks
    movzx si, byte ptr [bp+R_DRIVE]
    bt word ptr [BDA_FD_RECALIBRATE], si
    jc .calibrated
    push cx
    call fd_recalibrate
    pop cx
    jc .out
.calibrated:
    cmp ch, byte ptr [si+BDA_FD_TRACK]
    je .out                         # CF is clear
    and byte ptr [BDA_FD_RECALIBRATE], 0x7F
    mov al, FDC_SEEK
    call fd_send
    jc .out
    mov al, byte ptr [bp+F_DH]
    and al, 1
    shl al, 2
    or al, byte ptr [bp+R_DRIVE]
    call fd_send
    jc .out
    mov al, ch
    call fd_send
    jc .out
    push cx
    call fd_seek_end
    pop cx
    jc .out
    mov byte ptr [si+BDA_FD_TRACK], ch
.out:
    ret

# Track 0 under the heads. A second try: one step pulse too few is sent for the track 80 of some drives.
# Changes AX, BX, CX, DX; SI = the drive. CF set, AH = status.
fd_recalibrate:
    call .once
    jnc .done
.once:
    and byte ptr [BDA_FD_RECALIBRATE], 0x7F
    mov al, FDC_RECALIBRATE
    call fd_send
    jc .out
    mov al, byte ptr [bp+R_DRIVE]
    call fd_send
    jc .out
    call fd_seek_end
    jc .out
    bts word ptr [BDA_FD_RECALIBRATE], si
    mov byte ptr [si+BDA_FD_TRACK], 0
.done:
    clc
.out:
    ret

# A seek or recalibration is over when IRQ 6 says so. CF set, AH = status: it failed. Changes AX, BX, CX, DX.
fd_seek_end:
    call fd_wait_irq
    jc .out
    call fd_sense
    jc .out
    mov ah, E_SEEK
    test byte ptr [BDA_FD_RESULT], 0xC0 # normal termination?
    jz .out                         # CF is clear
    stc
.out:
    ret

# ---- The change line ---------------------------------------------------------------------------------------------

# CF set: the selected drive says that its disk was changed. Changes AL, DX.
fd_changed:
    mov dx, FDC_DIR
    in al, dx
    shl al, 1
    ret

# Before a transfer: if the disk was changed, forget the medium and clear the line with a step in and out.
# CF set, AH = 80h: there is no disk; AH = 06h: there was another one before. Changes AX, BX, CX, DX, SI.
fd_check_change:
    movzx bx, byte ptr [bp+R_DRIVE]
    cmp byte ptr fs:[bx+EB_FD_TYPE], 1
    je .no                          # that drive cannot tell
    call fd_changed
    jnc .no
    mov al, 0
    xchg al, byte ptr [bx+BDA_FD_MEDIA]
    push ax
    mov ch, 1
    call fd_step_to
    jc .failed
    mov ch, 0
    call fd_step_to
    jc .failed
    call fd_changed
    pop ax                          # AL = what was known of the disk
    mov ah, E_TIMEOUT
    jc .out
    test al, FM_ESTABLISHED
    mov ah, E_CHANGED
    stc
    jnz .out
.no:
    clc
.out:
    ret
.failed:
    add sp, 2
    stc
    ret
