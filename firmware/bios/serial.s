# INT 14h: serial ports. INT 17h: printers, of which there are none. INT 05h: print screen, on none of them.
#
# Sources: National Semiconductor PC16550D data sheet, "Registers"; IBM PC/AT Technical Reference, "RS232_IO".

.set UART_IER, 1                    # offsets from the base port
.set UART_LCR, 3
.set UART_MCR, 4
.set UART_LSR, 5
.set UART_MSR, 6
.set LSR_DATA_READY, 0x01
.set LSR_THR_EMPTY, 0x20
.set STATUS_TIME_OUT, 0x80
.set POLLS_A_SECOND, 10000
.set POLL_US, 100

# INT 14h: DX = port, 0 for COM1. AH and AL are returned, the rest preserved; without that port nothing changes.
#   AH = 00h  set AL: 7:5 rate (110 150 300 600 1200 2400 4800 9600), 4:3 parity, 2 stop bits, 1:0 length; AX = status
#   AH = 01h  send AL; AH = line status, bit 7 after a time-out
#   AH = 02h  receive AL; AH = error bits of the line status, bit 7 after a time-out
#   AH = 03h  AH = line status, AL = modem status
int14_entry:
    cld
    cmp ah, 3
    ja .return
    cmp dx, 3
    ja .return
    push bx
    push ecx
    push dx
    push si
    push ds
    push BDA_SEG
    pop ds
    mov bx, dx
    shl bx, 1
    mov si, word ptr [BDA_COM + bx] # SI = base port,
    shr bx, 1                       # BX = number of the port
    test si, si
    jz .absent
    push .absent                    # where the service returns to
    cmp ah, 1
    jb serial_set
    je serial_send
    cmp ah, 2
    je serial_receive
    jmp serial_status
.absent:
    pop ds
    pop si
    pop dx
    pop ecx
    pop bx
.return:
    iret

# Program rate and format from AL, interrupts off.
serial_set:
    mov cl, al
    lea dx, [si + UART_LCR]
    mov al, 0x80                    # divisor latch
    out dx, al
    movzx bx, cl
    shr bx, 5
    shl bx, 1
    mov ax, word ptr cs:[serial_divisors + bx]
    mov dx, si
    out dx, al
    inc dx
    mov al, ah
    out dx, al
    lea dx, [si + UART_LCR]
    mov al, cl                      # the format's bits stand where the register has them
    and al, 0x1F
    out dx, al
    lea dx, [si + UART_IER]
    xor al, al
    out dx, al
    # falls into serial_status

# AH = line status, AL = modem status.
serial_status:
    lea dx, [si + UART_LSR]
    in al, dx
    mov ah, al
    inc dx
    in al, dx
    ret

serial_divisors:                    # 115200 / rate
    .word 1047, 768, 384, 192, 96, 48, 24, 12

# Send AL when the transmitter is free. AH = line status.
serial_send:
    push ax
    lea dx, [si + UART_MCR]
    mov al, 0x03                    # DTR, RTS
    out dx, al
    mov ah, LSR_THR_EMPTY
    call serial_wait
    pop cx
    mov al, cl
    test ah, STATUS_TIME_OUT
    jnz .late
    mov dx, si
    out dx, al
.late:
    ret

# Receive a character: AL, AH = errors.
serial_receive:
    lea dx, [si + UART_MCR]
    mov al, 0x01                    # DTR
    out dx, al
    mov ah, LSR_DATA_READY
    call serial_wait
    test ah, STATUS_TIME_OUT
    jnz .late
    and ah, 0x1E                    # overrun, parity, framing, break
    mov dx, si
    in al, dx
.late:
    ret

# Wait until the bit AH stands in the line status, for as many seconds as the BDA gives port BX. AH = line status, bit 7
# after a time-out. Changes AL, ECX, DX.
serial_wait:
    movzx ecx, byte ptr [BDA_COM_TIMEOUT + bx]
    imul ecx, ecx, POLLS_A_SECOND
    inc ecx                         # look once in any case
    lea dx, [si + UART_LSR]
.poll:
    in al, dx
    test al, ah
    jnz .ready
    push cx
    mov cx, POLL_US
    call delay_us
    pop cx
    dec ecx
    jnz .poll
    mov ah, al
    or ah, STATUS_TIME_OUT
    ret
.ready:
    mov ah, al
    and ah, 0x7F                    # bit 7 has another meaning in the chip
    ret

# INT 17h: AH = 00h print AL, 01h initialise, 02h status. AH = 01h, time-out: there is no printer.
int17_entry:
    mov ah, 0x01
    iret

# INT 05h: print the screen; without a printer the status byte at 50:00 says that it failed.
int05_entry:
    push ds
    push BDA_SEG
    pop ds
    mov byte ptr [BDA_PRINT_SCREEN], 0xFF
    pop ds
    iret
