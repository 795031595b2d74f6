# Printing through INT 10h, for all files; every routine is near and preserves all registers (flags are lost).

# Print the character in AL.
putc:
    push ax
    push bx
    push bp                         # some video ROMs lose it
    mov ah, 0x0E                    # teletype
    mov bx, 0x0007                  # page 0, light grey in graphics modes
    int 0x10
    pop bp
    pop bx
    pop ax
    ret

# Print the zero-terminated string at CS:SI.
puts_rom:
    push ax
    push si
.next:
    mov al, byte ptr cs:[si]
    inc si
    test al, al
    jz .done
    call putc
    jmp .next
.done:
    pop si
    pop ax
    ret

# Print AX in hexadecimal, four digits.
put_hex16:
    xchg al, ah
    call put_hex8
    xchg al, ah

# Print AL in hexadecimal, two digits.
put_hex8:
    push ax
    mov ah, al
    shr al, 4
    call put_nibble
    mov al, ah
    and al, 0x0F
    call put_nibble
    pop ax
    ret

put_nibble:                         # AL = 0-15; changes AL
    cmp al, 10
    jb .digit
    add al, 'A' - '0' - 10
.digit:
    add al, '0'
    jmp putc

# Print AX in decimal.
put_dec:
    push eax
    movzx eax, ax
    call put_dec32
    pop eax
    ret

# Print EAX in decimal.
put_dec32:
    push eax
    push ebx
    push cx
    push edx
    mov ebx, 10
    xor cx, cx
.divide:                            # digits onto the stack, the lowest first
    xor edx, edx
    div ebx
    push dx
    inc cx
    test eax, eax
    jnz .divide
.print:
    pop ax
    add al, '0'
    call putc
    loop .print
    pop edx
    pop cx
    pop ebx
    pop eax
    ret
