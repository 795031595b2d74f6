# INT 10h AH=0Bh and 10h: attribute controller palette and DAC.
#
# Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt 10h - Video"; IBM VGA Technical Reference,
# "Attribute Controller", "Video Digital-to-Analog Converter".

.set A_MODE, 0x10                       # attribute mode control: bit 3 blinks, bit 7 takes bits 5-4 from A_SELECT
.set A_BORDER, 0x11
.set A_SELECT, 0x14

# cga_palette: BH = 0: BL = background of modes 4 and 5, border in text; BH = 1: BL bit 0 = palette of modes 4 and 5.
cga_palette:
    mov al, byte ptr [CGA_COLOUR]
    test bh, bh
    jnz .palette
    and al, 0xE0
    and bl, 0x1F
    or al, bl
    mov byte ptr [CGA_COLOUR], al
    mov bh, bl
    and bh, 0x07
    test bl, 0x08
    jz 1f
    or bh, 0x10                         # intensity is bit 4 of a palette register
1:  push bx
    mov bl, A_BORDER
    call set_attribute
    pop bx
    cmp byte ptr [MODE], 4
    jb .return
    cmp byte ptr [MODE], 6
    ja .return
    push bx
    mov bl, 0
    call set_attribute
    pop bx
    jmp .foreground
.palette:
    and al, 0xDF
    and bl, 1
    shl bl, 5
    or al, bl
    mov byte ptr [CGA_COLOUR], al

    # Colours 1-3: red, green, brown or, bit 5, cyan, magenta, white; bit 4 makes them bright.
.foreground:
    cmp byte ptr [MODE], 4
    jb .return
    cmp byte ptr [MODE], 5
    ja .return
    mov al, byte ptr [CGA_COLOUR]
    mov bx, 0x0201                      # register 1, green
    test al, 0x20
    jz 1f
    inc bh                              # cyan
1:  and al, 0x10
    or bh, al
    mov cx, 3
2:  push bx
    call set_attribute
    pop bx
    add bx, 0x0201                      # green, red, brown
    and bh, 0x17
    loop 2b
.return:
    ret

# palette_services: AL = function.
palette_services:
    cmp al, 0x1B
    ja .return
    movzx si, al
    add si, si
    jmp word ptr cs:[si + palette_functions]
.return:
    ret

palette_functions:
    .word set_attribute                 # 00: BL = register, BH = value
    .word set_border                    # 01: BH = value
    .word set_all_attributes            # 02: ES:DX = 16 registers and the border
    .word toggle_blink                  # 03: BL = 0 bright backgrounds, 1 blinking
    .word nothing                       # 04
    .word nothing                       # 05
    .word nothing                       # 06
    .word get_attribute                 # 07: BL = register; returns BH
    .word get_border                    # 08: returns BH
    .word get_all_attributes            # 09: ES:DX = 17 bytes
    .word nothing, nothing, nothing, nothing, nothing, nothing  # 0A-0F
    .word set_colour                    # 10
    .word nothing                       # 11
    .word set_colours                   # 12
    .word set_colour_page               # 13
    .word nothing                       # 14
    .word get_colour                    # 15
    .word nothing                       # 16
    .word get_colours                   # 17
    .word set_pel_mask                  # 18
    .word get_pel_mask                  # 19
    .word get_colour_page               # 1A
    .word grey_colours                  # 1B

# reset_flip_flop: the attribute controller expects an index next. Clobbers AL, returns DX = ATTRIBUTE.
reset_flip_flop:
    mov dx, word ptr [CRTC_PORT]
    add dl, STATUS
    in al, dx
    mov dx, ATTRIBUTE
    ret

# set_attribute: BL = register, BH = value. Clobbers AL DX.
set_attribute:
    cmp bl, A_SELECT
    ja .return
    call reset_flip_flop
    mov al, bl
    out dx, al                          # the palette is off the screen: its registers can be written
    mov al, bh
    out dx, al
    mov al, VIDEO_ON
    out dx, al
.return:
    ret

set_border:
    mov bl, A_BORDER
    jmp set_attribute

# set_all_attributes: ES:DX = palette registers 0-15, then the border.
set_all_attributes:
    mov si, dx
    call reset_flip_flop
    push es
    pop ds
    xor al, al
    mov cx, 16
    call load_alternating
    mov dx, ATTRIBUTE
    mov al, A_BORDER
    out dx, al
    lodsb
    out dx, al
    mov al, VIDEO_ON
    out dx, al
    ret

# toggle_blink: BL = 1 blinks, 0 gives sixteen backgrounds.
toggle_blink:
    mov cl, bl
    and cl, 1
    shl cl, 3
    mov bl, A_MODE
    call fetch_attribute
    and bh, 0xF7
    or bh, cl
    jmp set_attribute

# fetch_attribute: BL = register; returns BH. Clobbers AL DX.
fetch_attribute:
    call reset_flip_flop
    mov al, bl
    out dx, al
    inc dx
    in al, dx
    mov bh, al
    call reset_flip_flop                # reading did not turn it, but the index left the screen off
    mov al, VIDEO_ON
    out dx, al
    ret

get_border:
    mov bl, A_BORDER
get_attribute:
    cmp bl, A_SELECT
    ja .return
    call fetch_attribute
    mov byte ptr [bp + F_BH], bh
.return:
    ret

# get_all_attributes: ES:DX = 17 bytes to fill.
get_all_attributes:
    mov di, dx
    xor bl, bl
1:  call fetch_attribute
    mov al, bh
    stosb
    inc bl
    cmp bl, 16
    jb 1b
    mov bl, A_BORDER
    call fetch_attribute
    mov al, bh
    stosb
    ret

# set_colour: BX = DAC register, DH = red, CH = green, CL = blue, 0-63.
set_colour:
    mov ah, dh
    mov dx, DAC_INDEX
    mov al, bl
    out dx, al
    inc dx
    mov al, ah
    out dx, al
    mov al, ch
    out dx, al
    mov al, cl
    out dx, al
    ret

# set_colours: BX = first register, CX = count, ES:DX = red, green, blue of each.
set_colours:
    mov si, dx
    mov dx, DAC_INDEX
    mov al, bl
    out dx, al
    inc dx
    call triple
    rep es outsb
    ret

# triple: CX = 3 * CX. Clobbers AX.
triple:
    mov ax, cx
    add cx, cx
    add cx, ax
    ret

# set_colour_page: BL = 0: BH = 0 four pages of 64 colours, 1 sixteen of 16; BL = 1: BH = the page to use.
set_colour_page:
    mov cx, bx
    mov bl, A_MODE
    call fetch_attribute
    cmp cl, 1
    ja .return
    je .select
    and bh, 0x7F
    and ch, 1
    shl ch, 7
    or bh, ch
    jmp set_attribute
.select:
    test bh, 0x80
    mov bh, ch
    jnz 1f
    shl bh, 2                           # pages of 64: bits 3-2
1:  and bh, 0x0F
    mov bl, A_SELECT
    jmp set_attribute
.return:
    ret

# get_colour_page: returns BL = 0 pages of 64, 1 pages of 16; BH = the page in use.
get_colour_page:
    mov bl, A_SELECT
    call fetch_attribute
    mov cl, bh
    mov bl, A_MODE
    call fetch_attribute
    shr bh, 7
    jnz 1f
    shr cl, 2
1:  mov byte ptr [bp + F_BL], bh
    mov byte ptr [bp + F_BH], cl
    ret

# get_colour: BX = register; returns DH = red, CH = green, CL = blue.
get_colour:
    mov dx, DAC_READ_INDEX
    mov al, bl
    out dx, al
    add dx, 2
    in al, dx
    mov byte ptr [bp + F_DH], al
    in al, dx
    mov byte ptr [bp + F_CH], al
    in al, dx
    mov byte ptr [bp + F_CL], al
    ret

# get_colours: BX = first register, CX = count, ES:DX = where to.
get_colours:
    mov di, dx
    mov dx, DAC_READ_INDEX
    mov al, bl
    out dx, al
    add dx, 2
    call triple
    rep insb
    ret

# set_pel_mask: BL = mask; get_pel_mask: returns BL.
set_pel_mask:
    mov dx, PEL_MASK
    mov al, bl
    out dx, al
    ret
get_pel_mask:
    mov dx, PEL_MASK
    in al, dx
    mov byte ptr [bp + F_BL], al
    ret

# grey_colours: BX = first register, CX = count: 30 % red, 59 % green, 11 % blue into all three.
grey_colours:
    jcxz .return
.next:
    push cx
    mov dx, DAC_READ_INDEX
    mov al, bl
    out dx, al
    add dx, 2
    in al, dx
    mov ah, 77                          # of 256
    mul ah
    mov cx, ax
    in al, dx
    mov ah, 151
    mul ah
    add cx, ax
    in al, dx
    mov ah, 28
    mul ah
    add cx, ax
    mov dx, DAC_INDEX
    mov al, bl
    out dx, al
    inc dx
    mov al, ch
    out dx, al
    out dx, al
    out dx, al
    inc bl
    pop cx
    loop .next
.return:
    ret

# load_palette: the DAC colours of the mode that the data area names, unless AH=12h BL=31h said to keep them.
load_palette:
    test byte ptr [VGA_FLAGS], 0x08
    jnz .return
    mov dx, PEL_MASK
    mov al, 0xFF
    out dx, al
    movzx bx, byte ptr [MODE]
    mov bl, byte ptr cs:[bx + mode_palettes]
    cmp bl, PALETTE_EGA
    jne 1f
    cmp byte ptr [CHAR_HEIGHT], 8       # text in 200 lines has the CGA's colours
    jne 1f
    mov bl, PALETTE_CGA
1:  mov si, word ptr cs:[bx + palettes]
    mov cx, 64 * 3
    cmp bl, PALETTE_256
    jne 1f
    mov ch, 256 * 3 / 256
    mov cl, 0
1:  mov dx, DAC_INDEX
    xor al, al
    out dx, al
    inc dx
    rep cs outsb
    test byte ptr [VGA_FLAGS], 0x02
    jz .return
    xor bx, bx
    mov cx, 256
    jmp grey_colours
.return:
    ret
