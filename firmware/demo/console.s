# Lines of text to the screen, by INT 10h, and to COM1.
#
# Source: National Semiconductor PC16550D data sheet, "Registers".

.set COM1, 0x3F8
.set COM_FIFO, COM1 + 2
.set COM_LINE, COM1 + 3
.set COM_MODEM, COM1 + 4
.set COM_STATUS, COM1 + 5
.set THR_EMPTY, 0x20

.set NORMAL, 0x07
.set BRIGHT, 0x0F
.set GREEN, 0x0A
.set RED, 0x0C
.set COLUMN_SAW, 8
.set COLUMN_BARE, 42
.set COLUMN_VERDICT, 73

# open_serial: 115200 bits a second, 8N1; how many bytes the transmitter takes at a time.
open_serial:
    mov dx, COM_LINE
    mov al, 0x83                        # divisor latch, 8N1
    out dx, al
    mov dx, COM1
    mov ax, 0x0001                      # divisor 1
    out dx, al
    inc dx
    mov al, ah
    out dx, al
    mov dx, COM_LINE
    mov al, 0x03
    out dx, al
    mov dx, COM_MODEM
    mov al, 0x03                        # DTR, RTS
    out dx, al
    mov dx, COM_FIFO
    mov al, 0x07                        # FIFOs on and empty
    out dx, al
    in al, dx
    mov word ptr [burst], 1
    and al, 0xC0
    cmp al, 0xC0
    jne 1f
    mov word ptr [burst], 16            # a 16550A
1:  ret

clear_screen:
    mov ax, 0x0003
    int 0x10
    ret

# print_line: SI = text, BL = attribute.
print_line:
    call print_text
    mov si, new_line

# print_text: SI = text up to a zero, BL = attribute. Keeps DI; returns SI behind the zero.
print_text:
    push di
    push si
    xor cx, cx
1:  lodsb
    inc cx
    test al, al
    jnz 1b
    dec cx
    pop bp
    push si
    push cx
    push cx
    mov bh, 0
    mov ah, 3                           # where the cursor is
    int 0x10
    pop cx
    mov ax, 0x1301                      # the string at ES:BP, the cursor follows
    int 0x10
    pop cx
    mov si, bp
    call send
    pop si
    pop di
    ret

# send: CX bytes at SI to COM1. A port that is not there reads FFh, which is ready at once.
send:
    mov di, cx
.next:
    test di, di
    jz .return
    xor cx, cx
    mov dx, COM_STATUS
1:  in al, dx
    test al, THR_EMPTY
    loopz 1b                            # 65536 looks at most
    mov cx, word ptr [burst]
    cmp cx, di
    jbe 1f
    mov cx, di
1:  sub di, cx
    mov dx, COM1
    rep outsb
    jmp .next
.return:
    ret

# print_checks: SI = rows, an empty name ends them; DI = results, left behind the last. Counts them.
print_checks:
    cmp byte ptr [si], 0
    je 1f
    inc word ptr [checks]
    call print_row
    jmp print_checks
1:  ret

# print_events: the same for what is no check; it counts when it is wrong.
print_events:
    cmp byte ptr [si], 0
    je 1f
    call print_row
    jmp print_events
1:  ret

# print_row: SI = name, template of what was seen, what a bare processor shows; DI = result. Both go on to the next.
print_row:
    mov bx, di
    mov di, line
    call format
    mov cx, COLUMN_SAW
    call pad
    call format
    mov cx, COLUMN_BARE
    call pad
    call format
    mov cx, COLUMN_VERDICT
    call pad
    mov byte ptr [di], 0
    push si
    push bx
    mov si, line
    mov bl, NORMAL
    call print_text
    pop bx
    mov al, byte ptr [bx + R_OK]
    lea di, [bx + RESULT_BYTES]
    mov si, verdict_ok
    mov bl, GREEN
    test al, al
    jnz 1f
    inc word ptr [wrong]
    mov si, verdict_wrong
    mov bl, RED
1:  call print_line
    pop si
    ret

# pad: blanks from DI up to column CX of the line; at least one.
pad:
    add cx, line
    sub cx, di
    ja 1f
    mov cx, 1
1:  mov al, ' '
    rep stosb
    ret

# format: SI = template up to a zero, BX = its numbers, 32 bits each; to DI. %w four and %d eight hexadecimal digits,
# %n decimal up to 99, %s what was typed. Returns SI behind the zero, DI behind the text; keeps BX.
format:
    mov bp, bx
.next:
    lodsb
    test al, al
    jz .return
    cmp al, '%'
    je .number
    stosb
    jmp .next
.number:
    lodsb
    cmp al, 's'
    je .typed
    mov edx, dword ptr [bp]
    add bp, 4
    mov cx, 8
    cmp al, 'd'
    je .hexadecimal
    shl edx, 16
    mov cx, 4
    cmp al, 'w'
    je .hexadecimal
    shr edx, 16
    mov al, dl
    aam                                 # AH = tens, AL = ones
    add ax, 0x3030
    xchg al, ah
    cmp al, '0'
    je 1f
    stosb
1:  mov al, ah
    stosb
    jmp .next
.hexadecimal:
    rol edx, 4
    mov al, dl
    and al, 0x0F
    cmp al, 10
    sbb al, 0x69                        # '0'-'9' or 'A'-'F' after DAS
    das
    stosb
    loop .hexadecimal
    jmp .next
.typed:
    push si
    mov si, typed
1:  lodsb
    stosb
    test al, al
    jnz 1b
    dec di
    pop si
    jmp .next
.return:
    ret

# print_totals: the last line.
print_totals:
    mov bx, checks
    mov si, totals
    mov di, line
    call format
    mov byte ptr [di], 0
    mov si, line
    mov bl, BRIGHT
    jmp print_line
