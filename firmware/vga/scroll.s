# INT 10h AH=06h and 07h, and the scroll that teletype output needs: windows of cells, in every kind of mode.
#
# Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt 10h - Video"; IBM VGA Technical Reference,
# "Write Mode 1".

# scroll_up, scroll_down: AL = rows (0: all), BH = attribute of the blank rows, CX = upper left, DX = lower right.
scroll_down:
    mov word ptr [bp + L_FLAGS], DOWNWARD
    jmp scroll_active
scroll_up:
    mov word ptr [bp + L_FLAGS], 0
scroll_active:
    mov ah, bh
    mov bh, byte ptr [ACTIVE_PAGE]
    call geometry

# scroll_window: AL = rows, AH = attribute, CX and DX = corners, geometry done. Clobbers AX BX CX DX SI DI.
scroll_window:
    cmp dh, byte ptr [LAST_ROW]
    jbe 1f
    mov dh, byte ptr [LAST_ROW]
1:  cmp dl, byte ptr [COLUMNS]
    jb 1f
    mov dl, byte ptr [COLUMNS]
    dec dl
1:  sub dl, cl
    jb .return
    inc dl                              # DL = columns
    mov bl, dh
    sub bl, ch
    jb .return
    inc bl                              # BL = rows of the window
    cmp al, bl
    ja .all
    test al, al
    jnz 1f
.all:
    mov al, bl
1:  sub bl, al                          # BL = rows that move, AL = rows that become blank
    mov byte ptr [bp + L_FILL], ah
    mov byte ptr [bp + L_FILL + 1], bl
    mov byte ptr [bp + L_COUNT], al
    xchg ax, cx                         # AX = upper left, CL = blank rows
    push ax
    mov al, dl
    mul byte ptr [bp + L_CELL]
    mov bx, ax                          # BX = bytes of the window in one line
    pop ax
    test byte ptr [bp + L_FLAGS], DOWNWARD
    jnz .down

    # Upwards: row by row from the top; what is left blank is below.
    mov dx, ax
    call cell_address                   # DI = first row of the window
    mov al, cl
    xor ah, ah
    mul word ptr [bp + L_ROW]
    mov si, di
    add si, ax                          # SI = the row that becomes the first
    mov al, byte ptr [bp + L_FILL + 1]
    call move_rows
    mov al, byte ptr [bp + L_COUNT]
    jmp fill_rows

    # Downwards: from the bottom, a row at a time; what is left blank is above.
.down:
    mov dl, al
    call cell_address                   # DI = last row of the window
    movzx ax, cl
    mul word ptr [bp + L_ROW]
    mov si, di
    sub si, ax
    mov cl, byte ptr [bp + L_FILL + 1]
    xor ch, ch
    jcxz 2f
1:  push cx
    mov al, 1
    call move_rows
    sub di, word ptr [bp + L_ROW]
    sub di, word ptr [bp + L_ROW]
    sub si, word ptr [bp + L_ROW]
    sub si, word ptr [bp + L_ROW]
    pop cx
    loop 1b
2:  movzx ax, byte ptr [bp + L_COUNT]
    dec ax
    mul word ptr [bp + L_ROW]
    sub di, ax                          # the first of the blank rows
    mov al, byte ptr [bp + L_COUNT]
    jmp fill_rows
.return:
    ret

# move_rows: AL = rows, from ES:SI to ES:DI, BX bytes of each line. Returns SI and DI one row past the last; keeps BX.
move_rows:
    push ds
    cmp word ptr [bp + L_KIND], KIND_PLANAR
    jne 1f
    push ax
    mov dx, GRAPHICS
    mov ax, 0x0105                      # write mode 1: all planes at once through the latches
    out dx, ax
    pop ax
1:  push es
    pop ds
    call lines_of_rows                  # CX = lines, or less and longer ones
    jcxz .done
    cmp word ptr [bp + L_KIND], KIND_CGA4
    je .banks
    cmp word ptr [bp + L_KIND], KIND_CGA2
    jne .one_bank
.banks:
    push si
    push di
    push cx
    add si, BANK
    add di, BANK
    call move_lines
    pop cx
    pop di
    pop si
.one_bank:
    call move_lines
.done:
    pop ds
    cmp word ptr [bp + L_KIND], KIND_PLANAR
    jne 1f
    mov dx, GRAPHICS
    mov ax, 0x0005                      # write mode 0
    out dx, ax
1:  ret

# lines_of_rows: AL = rows; returns CX = their lines in one bank. Clobbers AX.
lines_of_rows:
    mul byte ptr [bp + L_LINES]
    mov cx, ax
    ret

# move_lines: CX lines of BX bytes from DS:SI to ES:DI; whole lines that adjoin move in one go.
move_lines:
    cmp bx, word ptr [bp + L_PITCH]
    jne 1f
    push dx
    mov ax, bx
    mul cx
    pop dx
    mov cx, ax
    jmp move_bytes
1:  push cx
    push si
    push di
    mov cx, bx
    call move_bytes
    pop di
    pop si
    pop cx
    add si, word ptr [bp + L_PITCH]
    add di, word ptr [bp + L_PITCH]
    loop 1b
    ret

# move_bytes: CX bytes from DS:SI to ES:DI; by words, but the VGA's latches hold one address at a time.
move_bytes:
    cmp word ptr [bp + L_KIND], KIND_PLANAR
    je 1f
    shr cx, 1
    rep movsw
    adc cx, cx
1:  rep movsb
    ret

# fill_rows: AL = rows at ES:DI, BX bytes of each line, blank with the attribute in L_FILL.
fill_rows:
    call lines_of_rows
    jcxz .return
    mov al, byte ptr [bp + L_FILL]
    mov ah, al
    mov si, word ptr [bp + L_KIND]
    cmp si, KIND_TEXT
    jne 1f
    mov al, ' '
1:  cmp si, KIND_PLANAR
    jne 1f
    call planar_fill_on
1:  cmp si, KIND_CGA4
    je .banks
    cmp si, KIND_CGA2
    jne .one_bank
.banks:
    push di
    push cx
    add di, BANK
    call fill_lines
    pop cx
    pop di
.one_bank:
    call fill_lines
    cmp si, KIND_PLANAR
    jne .return
    mov dx, GRAPHICS
    mov ax, 0x0001                      # enable set/reset: off
    out dx, ax
.return:
    ret

# planar_fill_on: AH = colour that every byte written puts into eight pixels. Clobbers DX.
planar_fill_on:
    push ax
    mov dx, GRAPHICS
    mov al, 0                           # set/reset
    out dx, ax
    mov ax, 0x0F01                      # enable set/reset: all planes
    out dx, ax
    pop ax
    ret

# fill_lines: CX lines of BX bytes at ES:DI with AX.
fill_lines:
    push cx
    push di
    mov cx, bx
    shr cx, 1
    rep stosw
    adc cx, cx
    rep stosb
    pop di
    pop cx
    add di, word ptr [bp + L_PITCH]
    loop fill_lines
    ret
