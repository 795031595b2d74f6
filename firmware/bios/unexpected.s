# Interrupts and exceptions that nobody has taken.

# Vectors 00h, 06h, 07h: an exception in a program that has no handler. Returning would run into it for ever:
# say where it was, and stop.
unexpected_00:
    push 0x00
    jmp exception
unexpected_06:
    push 0x06
    jmp exception
unexpected_07:
    push 0x07
    jmp exception

# Vectors 08h-0Fh: an IRQ line of the master, or an exception of the same number.
unexpected_08:
    push 0x08
    jmp unexpected_master
unexpected_0a:
    push 0x0A
    jmp unexpected_master
unexpected_0b:
    push 0x0B
    jmp unexpected_master
unexpected_0c:
    push 0x0C
    jmp unexpected_master
unexpected_0d:
    push 0x0D
    jmp unexpected_master
unexpected_0f:
    push 0x0F

# The vector is on the stack, above the interrupt frame. A line in service gets masked and its EOI; no line in
# service means a spurious interrupt for vector 0Fh, an exception for the others.
# Source: Intel 8259A data sheet, "Reading the 8259A Status", "Default IR7".
unexpected_master:
    push ax
    push bp
    mov al, 0x0B                    # read the in-service register
    out PIC1, al
    in al, PIC1
    mov ah, al
    test al, al
    jnz .line
    mov bp, sp
    cmp byte ptr [bp+4], 0x0F
    je .spurious
    pop bp
    pop ax
    jmp exception
.line:
    in al, PIC1 + 1                 # mask it, the cascade excepted
    or al, ah
    and al, 0xFB
    out PIC1 + 1, al
    call eoi_master
.spurious:
    call remember_irq
    pop bp
    pop ax
    add sp, 2                       # the vector
    iret

# Vectors 71h-77h as far as nobody has them: mask the line on the slave; a spurious one ends at the master only.
unexpected_slave:
    push ax
    mov al, 0x0B
    out PIC2, al
    in al, PIC2
    mov ah, al
    test al, al
    jz .spurious
    in al, PIC2 + 1
    or al, ah
    out PIC2 + 1, al
    call eoi_slave
    jmp .done
.spurious:
    call eoi_master
.done:
    call remember_irq
    pop ax
    iret

# Note in the BDA that the lines AH came unexpected.
remember_irq:
    push ds
    push BDA_SEG
    pop ds
    mov byte ptr [BDA_IRQ_LAST], ah
    pop ds
    ret

# Vector 75h, IRQ 13: the coprocessor's error. Hand it on as NMI, where software for the PC expects it.
# Source: IBM PC/AT Technical Reference, "Math Coprocessor", "Hardware Interface".
int75_handler:
    push ax
    xor al, al
    out 0xF0, al                    # clear its BUSY latch
    call eoi_slave
    pop ax
    int 0x02
    iret

# Vector 71h, IRQ 9: what was IRQ 2 on the PC. Hand it on.
int71_handler:
    push ax
    mov al, PIC_EOI
    out PIC2, al
    pop ax
    int 0x0A
    iret

# Report the exception whose vector is on the stack above its frame, and stop for good.
exception:
    mov bp, sp
    mov si, exception_text
    call puts_rom
    mov al, byte ptr [bp]
    call put_hex8
    mov si, exception_at
    call puts_rom
    mov ax, word ptr [bp+4]
    call put_hex16
    mov al, ':'
    call putc
    mov ax, word ptr [bp+2]
    call put_hex16
    mov si, exception_end
    call puts_rom
.stop:
    cli
    hlt
    jmp .stop

exception_text:
    .asciz "\r\nException "
exception_at:
    .asciz " at "
exception_end:
    .asciz ", system halted\r\n"
