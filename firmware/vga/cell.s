# Where character cells are in video memory, and how a character gets there, for every kind of mode.
#
# A row of characters is L_LINES lines of L_PITCH bytes, in one bank or, on the CGA's modes, in two that hold the even
# and the odd lines; a cell is L_CELL bytes wide. With that, one scroll and one address serve all modes.
#
# Source: IBM VGA Technical Reference, "Memory Maps and Addressing"; "Graphics Controller Registers".

.set BANK, 0x2000                       # distance of the two banks

# geometry: BH = page (taken modulo 8); fills L_START to L_KIND, ES = video segment, SI = kind. Keeps the others.
geometry:
    push ax
    push dx
    movzx si, byte ptr [MODE]
    and si, 0x1F
    mov al, byte ptr cs:[si + mode_kinds]
    cmp al, KIND_NONE
    jne 1f
    mov al, KIND_TEXT                   # a mode that someone else has set
1:  xor ah, ah
    mov si, ax
    mov word ptr [bp + L_KIND], ax
    mov ax, word ptr cs:[si + cell_bytes]
    mov word ptr [bp + L_CELL], ax
    mul word ptr [COLUMNS]
    mov word ptr [bp + L_PITCH], ax
    mov dx, word ptr cs:[si + cell_lines]
    test dx, dx
    jnz 1f
    mov dx, word ptr [CHAR_HEIGHT]
1:  mov word ptr [bp + L_LINES], dx
    mul dx
    mov word ptr [bp + L_ROW], ax
    xor ax, ax                          # the CGA's modes and mode 13h have one page
    cmp si, KIND_TEXT
    je .page
    cmp si, KIND_PLANAR
    jne .start
.page:
    mov al, bh
    and ax, 7
    mul word ptr [PAGE_BYTES]
.start:
    mov word ptr [bp + L_START], ax
    mov ax, word ptr cs:[si + segments]
    cmp byte ptr [MODE], 7
    jne 1f
    mov ax, 0xB000
1:  mov es, ax
    pop dx
    pop ax
    ret

cell_bytes: .word 2, 2, 1, 1, 8         # by kind: bytes of a cell in one line
cell_lines: .word 1, 4, 4, 0, 0         # lines of a row in one bank; 0: the character height
segments:   .word 0xB800, 0xB800, 0xB800, 0xA000, 0xA000

# cell_address: DX = row and column; returns DI = offset of the cell. Keeps the others.
cell_address:
    push ax
    push dx
    mov al, dl
    mul byte ptr [bp + L_CELL]
    mov di, ax
    movzx ax, dh
    mul word ptr [bp + L_ROW]
    add di, ax
    add di, word ptr [bp + L_START]
    pop dx
    pop ax
    ret

# draw_cell: AL = character, BL = attribute or colour (bit 7: exclusive or, except in mode 13h), DX = row and column,
# geometry done. Clobbers AX SI DI.
draw_cell:
    call cell_address
    mov si, word ptr [bp + L_KIND]
    jmp word ptr cs:[si + cell_drawers]

cell_drawers:
    .word draw_text, draw_cga4, draw_cga2, draw_planar, draw_linear

draw_text:
    stosb
    test byte ptr [bp + L_FLAGS], WITH_ATTRIBUTE
    jz 1f
    mov byte ptr es:[di], bl
1:  ret

# find_glyph: AL = character; returns DS:SI = its glyph. Characters 128-255 of the CGA's modes hang on INT 1Fh.
find_glyph:
    push ax
    cmp word ptr [bp + L_KIND], KIND_CGA2
    ja .vector_43
    sub al, 0x80
    jb .lower_half
    xor ah, ah
    shl ax, 3
    lds si, [VECTOR_1F]
    add si, ax
    pop ax
    ret
.lower_half:
    add al, 0x80
.vector_43:
    mul byte ptr [CHAR_HEIGHT]
    lds si, [VECTOR_43]
    add si, ax
    pop ax
    ret

# draw_linear: mode 13h, a byte for each pixel, background 0.
draw_linear:
    push ds
    push cx
    call glyph_lines                    # CX = lines
.line:
    lodsb
    push cx
    mov cx, 8
    mov ah, al
1:  add ah, ah                          # the leftmost pixel first
    sbb al, al
    and al, bl
    stosb
    loop 1b
    pop cx
    add di, 320 - 8
    loop .line
    pop cx
    pop ds
    ret

# glyph_lines: AL = character; returns DS:SI = its glyph, CX = its lines.
glyph_lines:
    mov cx, word ptr [CHAR_HEIGHT]
    jmp find_glyph

# draw_cga2: mode 6, a bit for each pixel. Colour bit 0 clear draws nothing but background.
draw_cga2:
    push ds
    push cx
    call find_glyph
    mov cx, 8
.line:
    lodsb
    test bl, 1
    jnz 1f
    xor al, al
1:  test bl, 0x80
    jz 1f
    xor al, byte ptr es:[di]
1:  mov byte ptr es:[di], al
    call next_cga_line
    loop .line
    pop cx
    pop ds
    ret

# next_cga_line: DI goes from an even line to the odd line below it, or on to the next even line.
next_cga_line:
    xor di, BANK
    test di, BANK
    jnz 1f
    add di, 80
1:  ret

# draw_cga4: modes 4 and 5, two bits for each pixel: each bit of the glyph doubled, then masked with the colour.
draw_cga4:
    push ds
    push cx
    push dx
    call find_glyph
    mov cx, 8
.line:
    lodsb
    push cx
    mov cx, 8
    xor dx, dx
.pixel:
    shl dx, 2
    add al, al
    jnc 1f
    mov ah, bl
    and ah, 3
    or dl, ah
1:  loop .pixel
    pop cx
    xchg dh, dl                         # the left four pixels come first in memory
    test bl, 0x80
    jz 1f
    xor dx, word ptr es:[di]
1:  mov word ptr es:[di], dx
    call next_cga_line
    loop .line
    pop dx
    pop cx
    pop ds
    ret

# draw_planar: 16 colours: the glyph into the planes of the colour and zero into the others, or exclusive or.
draw_planar:
    push ds
    push cx
    push dx
    call glyph_lines                    # DS:SI = glyph, CX = lines
    mov ah, 0
    test bl, 0x80
    jz 1f
    mov ah, 0x18                        # function select: exclusive or with the latches
1:  mov al, 3
    mov dx, GRAPHICS
    out dx, ax
    mov ah, bl
    call select_planes
    push di
    push cx
.copy:
    lodsb
    mov ah, byte ptr es:[di]            # load the latches
    mov byte ptr es:[di], al
    add di, word ptr [bp + L_PITCH]
    loop .copy
    pop cx
    pop di
    test bl, 0x80
    jnz .done
    mov ah, bl
    not ah
    call select_planes
.blank:
    mov byte ptr es:[di], 0
    add di, word ptr [bp + L_PITCH]
    loop .blank
.done:
    mov dx, GRAPHICS
    mov ax, 0x0003                      # function select: replace
    out dx, ax
    mov ah, 0x0F
    call select_planes
    pop dx
    pop cx
    pop ds
    ret

# select_planes: AH bits 0-3 = the planes that writes reach. Clobbers AX DX.
select_planes:
    and ah, 0x0F
    mov al, 2                           # map mask
    mov dx, SEQUENCER
    out dx, ax
    ret
