# INT 10h AH=11h: character generators. Text glyphs live in plane 2, 32 bytes each, eight blocks of 256.
#
# Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt 10h - Video, (AH) = 11H"; IBM VGA Technical
# Reference, "RAM Loadable Character Generator".

# font_services: AL = function.
font_services:
    cmp al, 0x30
    je font_information
    mov ah, al
    and ah, 0xF0
    cmp ah, 0x20
    je graphics_font
    ja .return
    and al, 0x0F
    cmp al, 3
    je select_blocks
    cmp al, 4
    ja .return

    # 00h: ES:BP = CX glyphs of BH bytes from character DX on, into block BL. 01h, 02h, 04h: 8x14, 8x8, 8x16 of the ROM.
    push ax
    test al, al
    jz .user
    mov bh, 14
    cmp al, 1
    je .rom
    mov bh, 8
    cmp al, 2
    je .rom
    mov bh, 16
.rom:
    mov al, bh
    call rom_font
    push cs
    pop es
    mov cx, 256
    xor dx, dx
    jmp .load
.user:
    mov si, word ptr [bp + F_BP]
.load:
    push bx
    call load_font
    pop bx
    pop ax
    test ah, ah
    jnz resize_text                     # 1xh: the screen gets another number of rows
.return:
    ret

# rom_font: AL = height; returns CS:SI = the glyphs.
rom_font:
    mov si, font_8x8
    cmp al, 8
    je 1f
    mov si, font_8x14
    cmp al, 14
    je 1f
    mov si, font_8x16
1:  ret

# load_rom_font: the glyphs of CHAR_HEIGHT into block 0.
load_rom_font:
    mov bh, byte ptr [CHAR_HEIGHT]
    mov bl, 0
    mov al, bh
    call rom_font
    push cs
    pop es
    mov cx, 256
    xor dx, dx

# load_font: ES:SI = CX glyphs of BH bytes, DX = first character, BL = block. Clobbers AX CX DX SI DI ES.
load_font:
    push bx
    push ds
    push es
    mov di, dx
    shl di, 5                           # 32 bytes a glyph
    movzx ax, bl
    and al, 3
    shl ax, 14                          # blocks 0-3 are 16 KiB apart, 4-7 lie between them
    add di, ax
    test bl, 4
    jz 1f
    add di, 0x2000
1:  push si
    push cx
    mov si, font_access_on
    call load_font_access
    pop cx
    pop si
    pop ds                              # the source
    mov ax, 0xA000
    mov es, ax
    jcxz .done
    movzx dx, bh
1:  push cx
    push di
    mov cx, dx
    rep movsb
    pop di
    pop cx
    add di, 32
    loop 1b
.done:
    pop ds
    mov si, font_access_off
    call load_font_access
    mov ax, 0x0E06                      # B8000h, text
    cmp byte ptr [CRTC_PORT], 0xB4
    jne 1f
    mov ah, 0x0A                        # B0000h
1:  out dx, ax
    pop bx
    ret

# load_font_access: CS:SI = four words for the sequencer and three for the graphics controller; returns DX = GRAPHICS.
load_font_access:
    mov dx, SEQUENCER
    mov cx, 4
    rep cs outsw
    mov dx, GRAPHICS
    mov cx, 3
    rep cs outsw
    ret

font_access_on:
    .word 0x0100, 0x0402, 0x0704, 0x0300   # reset; write plane 2; sequential; run
    .word 0x0204, 0x0005, 0x0406           # read plane 2; no odd/even; 64 KiB at A0000h
font_access_off:
    .word 0x0100, 0x0302, 0x0204, 0x0300   # reset; planes 0 and 1; odd/even; run
    .word 0x0004, 0x1005, 0x0E06           # plane 0; odd/even; text window

# select_blocks: BL = block specifier: which blocks attribute bit 3 chooses between.
select_blocks:
    mov dx, SEQUENCER
    mov al, 3
    mov ah, bl
    out dx, ax
    ret

# resize_text: BH = height of the glyphs: rows, cursor and CRTC follow.
resize_text:
    movzx bx, bh
    test bx, bx
    jz .return
    mov word ptr [CHAR_HEIGHT], bx
    call text_lines                     # AX = lines of the screen
    xor dx, dx
    div bx
    mov cl, al                          # rows
    dec al
    mov byte ptr [LAST_ROW], al
    mov al, cl
    mul byte ptr [COLUMNS]
    add ax, ax
    add ax, 0x7FF
    and ax, 0xF800                      # a page is a whole number of 2 KiB
    mov word ptr [PAGE_BYTES], ax

    # The CRTC: lines of a character, the last displayed line, the cursor's place in the cell.
    mov dx, word ptr [CRTC_PORT]
    mov al, 0x09
    out dx, al
    inc dx
    in al, dx
    mov ch, al                          # bit 7: lines are doubled
    and al, 0xE0
    dec bl
    or al, bl
    inc bl
    out dx, al
    dec dx
    mov al, cl
    mul bl
    test ch, 0x80
    jz 1f
    add ax, ax
1:  dec ax
    mov ah, al                          # bit 8 stays: every height leaves it as it was
    mov al, 0x12
    out dx, ax
    cmp byte ptr [MODE], 7
    jne show_cursor_shape
    mov ah, bl
    dec ah
    mov al, 0x14                        # underline
    out dx, ax
    jmp show_cursor_shape
.return:
    ret

# text_lines: returns AX = scan lines of the text screen before doubling. Clobbers AX.
text_lines:
    mov ax, 400
    test byte ptr [VGA_FLAGS], 0x10
    jnz .return
    mov ax, 350
    test byte ptr [VGA_FLAGS], 0x80
    jz .return
    mov ax, 200
.return:
    ret

# graphics_font: AL = 20h: INT 1Fh = ES:BP. 21h: INT 43h = ES:BP, CX bytes a glyph; 22h, 23h, 24h: 8x14, 8x8, 8x16 of
# the ROM. BL = rows: 0: DL, 1: 14, 2: 25, 3: 43.
graphics_font:
    sub al, 0x20
    jz .upper_half
    dec al
    jz .user
    cmp al, 3
    ja .return
    mov cx, 14
    cmp al, 1
    je .rom
    mov cx, 8
    cmp al, 2
    je .rom
    mov cx, 16
.rom:
    mov al, cl
    call rom_font
    push cs
    pop es
    jmp .set
.user:
    mov si, word ptr [bp + F_BP]
.set:
    mov word ptr [VECTOR_43], si
    mov word ptr [VECTOR_43 + 2], es
    mov word ptr [CHAR_HEIGHT], cx
    and bx, 3
    jz 1f
    mov dl, byte ptr cs:[bx + graphics_rows]
1:  dec dl
    mov byte ptr [LAST_ROW], dl
.return:
    ret
.upper_half:
    mov si, word ptr [bp + F_BP]
    mov word ptr [VECTOR_1F], si
    mov word ptr [VECTOR_1F + 2], es
    ret

graphics_rows: .byte 0, 14, 25, 43

# font_information: BH = which; returns ES:BP = glyphs, CX = bytes of a glyph on the screen, DL = rows - 1.
font_information:
    cmp bh, 7
    ja .return
    mov ax, word ptr [CHAR_HEIGHT]
    mov word ptr [bp + F_CX], ax
    mov al, byte ptr [LAST_ROW]
    mov byte ptr [bp + F_DL], al
    movzx bx, bh
    cmp bl, 1
    ja .rom
    je .graphics
    les ax, [VECTOR_1F]
    jmp .answer
.graphics:
    les ax, [VECTOR_43]
    jmp .answer
.rom:
    add bx, bx
    mov ax, word ptr cs:[bx + rom_fonts - 4]
    push cs
    pop es
.answer:
    mov word ptr [bp + F_BP], ax
    mov word ptr [bp + F_ES], es
.return:
    ret

rom_fonts:
    .word font_8x14, font_8x8, font_8x8 + 128 * 8, no_glyphs, font_8x16, no_glyphs
no_glyphs:
    .byte 0                             # the list of 9-dot glyphs that differ ends where it starts
