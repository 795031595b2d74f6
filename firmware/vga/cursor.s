# INT 10h AH=01h-05h: cursor shape and position, light pen, active page.
#
# Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt 10h - Video"; Motorola MC6845 data sheet,
# "Cursor Start Register".

# set_cursor_shape: CH = first line and bits 5-6 (off), CL = last line.
set_cursor_shape:
    mov word ptr [CURSOR_SHAPE], cx
    cmp byte ptr [MODE], 4
    jb show_cursor_shape
    cmp byte ptr [MODE], 7
    je show_cursor_shape
    ret                                 # graphics modes have no cursor

# show_cursor_shape: put CURSOR_SHAPE in the CRTC. Programs think in the eight lines of a CGA cell: unless emulation
# is off, such a shape is stretched when it is a block and moved to the bottom when it is an underline.
show_cursor_shape:
    mov cx, word ptr [CURSOR_SHAPE]
    mov al, byte ptr [CHAR_HEIGHT]
    test byte ptr [EGA_CONTROL], 1
    jnz .program
    cmp al, 8
    jbe .program
    mov ah, ch
    and ah, 0x60                        # the bits that turn it off
    and ch, 0x1F
    cmp ch, 8
    jae .join
    cmp cl, 8
    jae .join
    cmp ch, 4
    jb .stretch
    sub al, 9
    add ch, al                          # 6-7 of 8 lines: 13-14 of 16
    add cl, al
    jmp .join
.stretch:
    push ax
    mul ch
    shr ax, 3
    mov ch, al                          # first * height / 8
    pop ax
    push ax
    inc cl
    mul cl
    shr ax, 3
    dec ax
    mov cl, al                          # (last + 1) * height / 8 - 1
    pop ax
.join:
    or ch, ah
.program:
    mov dx, word ptr [CRTC_PORT]
    mov al, 0x0A
    mov ah, ch
    out dx, ax
    mov al, 0x0B
    mov ah, cl
    out dx, ax
    ret

# set_cursor: BH = page, DH = row, DL = column.
set_cursor:
    movzx si, bh
    and si, 7
    add si, si
    mov word ptr [si + CURSORS], dx
    cmp bh, byte ptr [ACTIVE_PAGE]
    je place_cursor
    ret

# place_cursor: DX = row and column on the active page; two CRTC registers in one REP OUTSW. Clobbers AX CX DX SI.
place_cursor:
    mov al, byte ptr [MODE]
    cmp al, 7
    je .text
    cmp al, 4
    jae .return                         # nothing to be seen in graphics modes
.text:
    mov al, dh
    mul byte ptr [COLUMNS]
    xor dh, dh
    add ax, dx
    mov dx, word ptr [PAGE_START]
    shr dx, 1
    add ax, dx                          # character cells from the start of video memory
    mov ch, al
    mov cl, 0x0F
    push cx                             # cursor location low
    mov al, 0x0E
    push ax                             # cursor location high
    mov dx, word ptr [CRTC_PORT]
    mov si, sp
    mov cx, 2
    rep ss outsw
    add sp, 4
.return:
    ret

# get_cursor: BH = page; returns DH = row, DL = column, CX = shape.
get_cursor:
    movzx si, bh
    and si, 7
    add si, si
    mov ax, word ptr [si + CURSORS]
    mov word ptr [bp + F_DX], ax
    mov ax, word ptr [CURSOR_SHAPE]
    mov word ptr [bp + F_CX], ax
    ret

# no_light_pen: AH = 0, not triggered.
no_light_pen:
    mov byte ptr [bp + F_AH], 0
    ret

# select_page: AL = page, 0-7, in text and planar modes.
select_page:
    cmp al, 7
    ja .return
    mov bh, al
    call geometry
    mov si, word ptr [bp + L_KIND]
    mov ax, word ptr [bp + L_START]
    cmp si, KIND_PLANAR
    je .select
    cmp si, KIND_TEXT
    jne .return
    shr ax, 1                           # text is addressed in cells
.select:
    mov byte ptr [ACTIVE_PAGE], bh
    mov cx, word ptr [bp + L_START]
    mov word ptr [PAGE_START], cx
    mov cl, al
    mov dx, word ptr [CRTC_PORT]
    mov al, 0x0C                        # start address high
    out dx, ax
    mov ah, cl
    mov al, 0x0D                        # start address low
    out dx, ax
    movzx si, bh
    add si, si
    mov dx, word ptr [si + CURSORS]
    jmp place_cursor
.return:
    ret
