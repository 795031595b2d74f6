# INT 10h AH=08h-0Ah, 0Eh, 13h: characters.
#
# Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt 10h - Video".

# read_character: BH = page; returns AL = character, AH = attribute (text modes). In graphics modes the glyph at the
# cursor is compared with the 256 that there are; AL = 0 when it is none of them.
read_character:
    call geometry
    call page_cursor
    cmp word ptr [bp + L_KIND], KIND_TEXT
    jne read_glyph
    call cell_address
    mov ax, word ptr es:[di]
    mov word ptr [bp + F_AX], ax
    ret

# page_cursor: BH = page; returns DX = row and column of its cursor.
page_cursor:
    movzx si, bh
    and si, 7
    add si, si
    mov dx, word ptr [si + CURSORS]
    ret

# read_glyph: DX = row and column; AL of the frame = character. The pixels are collected in 32 bytes of stack.
read_glyph:
    mov al, dh
    mul byte ptr [CHAR_HEIGHT]
    mov bx, ax                          # BX = line
    movzx si, dl
    shl si, 3                           # SI = column of pixels
    mov cx, word ptr [CHAR_HEIGHT]
    sub sp, 32
    mov di, sp
.line:
    push cx
    mov cx, 8
.pixel:
    push cx
    mov cx, si
    mov dx, bx
    call fetch_pixel                    # AL = colour
    pop cx
    neg al                              # carry: not the background
    adc ah, ah
    inc si
    loop .pixel
    sub si, 8
    inc bx
    mov byte ptr ss:[di], ah
    inc di
    pop cx
    loop .line

    # Compare with all glyphs.
    xor bx, bx
.next:
    mov al, bl
    mov cx, word ptr [CHAR_HEIGHT]
    push ds
    call find_glyph
    push ss
    pop es
    mov di, sp
    inc di
    inc di                              # over the DS pushed above
    repe cmpsb
    pop ds
    je .found
    inc bl
    jnz .next
.found:
    mov byte ptr [bp + F_AL], bl        # 256 wraps to 0
    add sp, 32
    ret

# write_character_attribute: AL = character, BL = attribute or colour, BH = page, CX = how many times.
write_character_attribute:
    mov word ptr [bp + L_FLAGS], WITH_ATTRIBUTE
    jmp write_cells

# write_character: the same; in text modes the attributes stay.
write_character:
    mov word ptr [bp + L_FLAGS], 0
write_cells:
    jcxz .return
    call geometry
    call page_cursor
    cmp word ptr [bp + L_KIND], KIND_TEXT
    je .text
    mov ah, byte ptr [COLUMNS]
    sub ah, dl                          # a graphics row ends at the edge of the screen
    jbe .return
    movzx si, ah
    cmp cx, si
    jbe .graphics
    mov cx, si
.graphics:
    push ax
    call draw_cell
    pop ax
    inc dl
    loop .graphics
.return:
    ret

.text:
    call cell_address
    test byte ptr [bp + L_FLAGS], WITH_ATTRIBUTE
    jz 1f
    mov ah, bl
    rep stosw
    ret
1:  stosb
    inc di
    loop 1b
    ret

# teletype: AL = character, BL = colour in graphics modes; on the active page. BEL is silent: a beep would have to be
# waited for.
teletype:
    mov word ptr [bp + L_FLAGS], 0
    mov bh, byte ptr [ACTIVE_PAGE]
    call geometry
    call page_cursor
    push si
    call put_character
    pop si
    mov word ptr [si + CURSORS], dx
    jmp place_cursor

# put_character: AL = character, BL = attribute or colour, DX = row and column, geometry done; returns DX moved on.
# Keeps BX CX BP; clobbers AX SI DI.
put_character:
    cmp al, 0x0D
    ja .print
    je .return_carriage
    cmp al, 0x0A
    je .feed
    cmp al, 0x08
    je .backspace
    cmp al, 0x07
    je .silent
.print:
    call draw_cell
    inc dl
    cmp dl, byte ptr [COLUMNS]
    jb .silent
    xor dl, dl
.feed:
    cmp dh, byte ptr [LAST_ROW]
    jae .scroll
    inc dh
.silent:
    ret
.return_carriage:
    xor dl, dl
    ret
.backspace:
    sub dl, 1
    adc dl, 0                           # not beyond the left edge
    ret

    # The new row takes the attribute of the row that the cursor leaves; black in graphics modes.
.scroll:
    mov dh, byte ptr [LAST_ROW]
    xor ah, ah
    cmp word ptr [bp + L_KIND], KIND_TEXT
    jne 1f
    call cell_address
    mov ah, byte ptr es:[di + 1]
1:  mov al, 1
    push bx
    push cx
    push dx
    xor cx, cx
    mov dl, byte ptr [COLUMNS]          # clipped by scroll_window
    call scroll_window
    pop dx
    pop cx
    pop bx
    ret

# write_string: ES:BP = string of CX characters, BH = page, BL = attribute, DX = where (DH = FFh: at the cursor);
# AL bit 0: the cursor follows; bit 1: each character has its attribute behind it.
write_string:
    cmp al, 3
    ja .return
    mov word ptr [bp + L_FLAGS], WITH_ATTRIBUTE
    call geometry
    cmp dh, 0xFF
    jne 1f
    call page_cursor
1:  jcxz .end
    mov si, word ptr [bp + F_BP]
.next:
    push ds
    mov ds, word ptr [bp + F_ES]
    lodsb
    test byte ptr [bp + F_AL], 2
    jz 1f
    mov bl, byte ptr [si]
    inc si
1:  pop ds
    push si
    call put_character
    pop si
    loop .next
.end:
    test byte ptr [bp + F_AL], 1
    jz .return
    movzx si, bh
    and si, 7
    add si, si
    mov word ptr [si + CURSORS], dx
    cmp bh, byte ptr [ACTIVE_PAGE]
    je place_cursor
.return:
    ret
