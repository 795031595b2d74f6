# INT 10h AH=0Ch and 0Dh: single pixels in every graphics mode.
#
# Source: IBM VGA Technical Reference, "Memory Maps and Addressing", "Graphics Controller Registers".

# write_pixel: AL = colour (bit 7: exclusive or, except in mode 13h), BH = page, CX = column, DX = line.
write_pixel:
    call geometry
    jmp word ptr cs:[si + pixel_writers]

pixel_writers:
    .word nothing, write_pixel_cga4, write_pixel_cga2, write_pixel_planar, write_pixel_linear

# read_pixel: BH = page, CX = column, DX = line; returns AL = colour.
read_pixel:
    call geometry
    call fetch_pixel
    mov byte ptr [bp + F_AL], al
    ret

# fetch_pixel: CX = column, DX = line, geometry done; returns AL = colour. Keeps AH BX SI DI.
fetch_pixel:
    push si
    push di
    push ax
    mov si, word ptr [bp + L_KIND]
    call word ptr cs:[si + pixel_readers]
    pop cx
    mov ah, ch
    pop di
    pop si
    ret

pixel_readers:
    .word read_pixel_text, read_pixel_cga4, read_pixel_cga2, read_pixel_planar, read_pixel_linear

read_pixel_text:
    xor al, al
    ret

# linear_address: CX = column, DX = line; returns ES:DI.
linear_address:
    mov ax, 320
    mul dx
    mov di, ax
    add di, cx
    ret

write_pixel_linear:
    push ax
    call linear_address
    pop ax
    stosb
    ret

read_pixel_linear:
    call linear_address
    mov al, byte ptr es:[di]
    ret

# planar_address: CX = column, DX = line; returns ES:DI and AH = mask of the bit.
planar_address:
    mov ax, word ptr [bp + L_PITCH]
    mul dx
    mov di, ax
    add di, word ptr [bp + L_START]
    mov ax, cx
    shr ax, 3
    add di, ax
    mov ah, 0x80
    and cl, 7
    shr ah, cl
    ret

write_pixel_planar:
    push ax
    call planar_address
    mov dx, GRAPHICS
    mov al, 8                           # bit mask
    out dx, ax
    pop cx                              # CL = colour
    mov ah, 0
    test cl, 0x80
    jz 1f
    mov ah, 0x18                        # exclusive or
1:  mov al, 3
    out dx, ax
    mov ah, cl
    and ah, 0x0F
    mov al, 0                           # set/reset
    out dx, ax
    mov ax, 0x0F01                      # enable set/reset
    out dx, ax
    mov al, byte ptr es:[di]            # load the latches
    mov byte ptr es:[di], al
    mov ax, 0x0001
    out dx, ax
    mov ax, 0x0003
    out dx, ax
    mov ax, 0xFF08
    out dx, ax
    ret

read_pixel_planar:
    push bx
    call planar_address
    mov bl, ah                          # the bit
    mov dx, GRAPHICS
    mov ax, 0x0304                      # read map select: plane 3 first
    xor cl, cl
1:  out dx, ax
    mov ch, byte ptr es:[di]
    and ch, bl
    neg ch                              # carry: the bit is set in this plane
    adc cl, cl
    dec ah
    jns 1b
    mov al, cl
    pop bx
    ret

# cga_address: CX = column, DX = line; AL = 2 or 3, the shift from columns to bytes. Returns ES:DI; keeps CX.
cga_address:
    push cx
    xchg ax, cx
    shr ax, cl
    mov di, ax                          # byte in the line
    shr dx, 1
    jnc 1f
    add di, BANK                        # odd lines
1:  mov ax, 80
    mul dx
    add di, ax
    pop cx
    ret

# cga4_place: ES:DI = the byte of a pixel, CL = how far its two bits are from the right end.
cga4_place:
    mov al, 2
    call cga_address
    not cl
    and cl, 3
    add cl, cl
    ret

# cga2_place: the same for a single bit.
cga2_place:
    mov al, 3
    call cga_address
    not cl
    and cl, 7
    ret

write_pixel_cga4:
    push ax
    call cga4_place
    pop ax
    mov ah, 3
    jmp write_pixel_bits
write_pixel_cga2:
    push ax
    call cga2_place
    pop ax
    mov ah, 1

# write_pixel_bits: AL = colour, AH = mask at the right end, CL = shift, ES:DI = byte.
write_pixel_bits:
    mov bl, al
    and al, ah
    shl ax, cl                          # AL cannot reach AH: the mask ends in its byte
    test bl, 0x80
    jnz 1f
    not ah
    and byte ptr es:[di], ah
1:  xor byte ptr es:[di], al
    ret

read_pixel_cga4:
    call cga4_place
    mov al, byte ptr es:[di]
    shr al, cl
    and al, 3
    ret

read_pixel_cga2:
    call cga2_place
    mov al, byte ptr es:[di]
    shr al, cl
    and al, 1
    ret
