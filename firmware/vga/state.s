# INT 10h AH=12h alternate select, 1Ah display combination, 1Bh functionality, 1Ch save and restore.
#
# Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt 10h - Video".

# alternate_select: BL = function; AL = 12h says that it was done.
alternate_select:
    cmp bl, 0x10
    je ega_information
    cmp bl, 0x20
    je nothing                          # another print-screen routine: the system BIOS has it
    sub bl, 0x30
    jb .return
    cmp bl, 6
    ja .return
    movzx si, bl
    add si, si
    jmp word ptr cs:[si + alternate_functions]
.return:
    ret

alternate_functions:
    .word select_lines                  # 30
    .word default_palette               # 31
    .word video_access                  # 32
    .word grey_summing                  # 33
    .word cursor_emulation              # 34
    .word nothing                       # 35: there is one display
    .word screen_refresh                # 36

# ega_information: BH = 0 colour or 1 monochrome, BL = 3 for 256 KiB, CH = feature bits, CL = switches.
ega_information:
    xor bh, bh
    cmp byte ptr [CRTC_PORT], 0xB4
    jne 1f
    inc bh
1:  mov bl, 3
    mov word ptr [bp + F_BX], bx
    mov al, byte ptr [EGA_SWITCHES]
    mov ah, al
    shr ah, 4
    and al, 0x0F
    mov word ptr [bp + F_CX], ax
    ret

# select_lines: AL = 0: 200, 1: 350, 2: 400 lines from the next text mode on.
select_lines:
    cmp al, 2
    ja 1f
    movzx si, al
    mov al, byte ptr cs:[si + line_flags]
    and byte ptr [VGA_FLAGS], 0x6F
    or byte ptr [VGA_FLAGS], al
alternate_done:
    mov byte ptr [bp + F_AL], 0x12
1:  ret

line_flags: .byte 0x80, 0x00, 0x10

# default_palette: AL = 0: a mode set loads the DAC, 1: it does not.
default_palette:
    mov ah, 0x08
    jmp set_vga_flag

# grey_summing: AL = 0: colours turn grey when loaded, 1: they do not.
grey_summing:
    xor al, 1
    mov ah, 0x02

# set_vga_flag: AL bit 0 goes to the flag in AH.
set_vga_flag:
    mov bx, VGA_FLAGS
set_flag:
    test al, al
    jz 1f
    or byte ptr [bx], ah
    jmp alternate_done
1:  not ah
    and byte ptr [bx], ah
    jmp alternate_done

# cursor_emulation: AL = 0: on, 1: off.
cursor_emulation:
    mov ah, 0x01
    mov bx, EGA_CONTROL
    jmp set_flag

# video_access: AL = 0: the processor reaches video memory, 1: it does not.
video_access:
    mov ah, al
    mov dx, MISC_READ
    in al, dx
    and al, 0xFD
    test ah, 1
    jnz 1f
    or al, 0x02
1:  mov dx, MISC
    out dx, al
    jmp alternate_done

# screen_refresh: AL = 0: on, 1: off.
screen_refresh:
    mov ah, al
    and ah, 1
    shl ah, 5
    mov dx, SEQUENCER
    mov al, 1
    out dx, al
    inc dx
    in al, dx
    and al, 0xDF
    or al, ah
    out dx, al
    jmp alternate_done

# display_code: AL = 0: returns BL = active display, BH = other; 1: sets them. AL = 1Ah: done.
display_code:
    cmp al, 1
    ja 1f
    je .set
    movzx ax, byte ptr [DISPLAY_CODE]
    mov word ptr [bp + F_BX], ax
    jmp .done
.set:
    mov byte ptr [DISPLAY_CODE], bl
.done:
    mov byte ptr [bp + F_AL], 0x1A
1:  ret

# functionality: BX = 0, ES:DI = 64 bytes to fill; AL = 1Bh: done.
functionality:
    test bx, bx
    jnz .return
    mov ax, static_functionality
    stosw
    mov ax, cs
    stosw
    mov si, MODE                        # 30 bytes of the data area, mode to colour
    mov cx, 30
    rep movsb
    mov al, byte ptr [LAST_ROW]
    inc al
    stosb
    mov ax, word ptr [CHAR_HEIGHT]
    stosw
    mov al, byte ptr [DISPLAY_CODE]
    stosb
    xor al, al
    stosb                               # no other display
    movzx bx, byte ptr [MODE]
    and bl, 0x1F
    add bx, bx
    mov ax, word ptr cs:[bx + mode_colours]
    stosw
    shr bx, 1
    mov al, byte ptr cs:[bx + mode_pages]
    stosb
    call screen_lines
    stosb
    xor ax, ax
    stosw                               # character blocks in use
    mov al, byte ptr [VGA_FLAGS]
    and al, 0x0A                        # grey summing; palette loading off
    mov ah, byte ptr [EGA_CONTROL]
    and ah, 1
    xor ah, 1
    shl ah, 4                           # cursor emulation
    or al, ah
    or al, 0x21                         # all modes on all displays; blinking
    stosb
    xor ax, ax
    stosb
    stosw
    mov al, 3                           # 256 KiB
    stosb
    xor ax, ax
    mov cx, 14
    rep stosb
    mov byte ptr [bp + F_AL], 0x1B
.return:
    ret

# screen_lines: returns AL = 0: 200, 1: 350, 2: 400, 3: 480 lines.
screen_lines:
    mov al, byte ptr cs:[bx + mode_lines]
    cmp al, 0xFF
    jne .return
    mov al, 2
    test byte ptr [VGA_FLAGS], 0x10
    jnz .return
    dec al
    test byte ptr [VGA_FLAGS], 0x80
    jz .return
    dec al
.return:
    ret

# save_restore: AL = 0: size, 1: save, 2: restore; CX bits 0: registers, 1: data area, 2: DAC; ES:BX = buffer.
# Returns BX = blocks of 64 bytes; AL = 1Ch: done.
.set SAVE_BLOCKS_REGISTERS, 1
.set SAVE_BLOCKS_DATA, 1
.set SAVE_BLOCKS_DAC, 13
save_restore:
    cmp al, 1
    ja .restore
    je .save
    xor bx, bx
    test cl, 1
    jz 1f
    add bx, SAVE_BLOCKS_REGISTERS
1:  test cl, 2
    jz 1f
    add bx, SAVE_BLOCKS_DATA
1:  test cl, 4
    jz 1f
    add bx, SAVE_BLOCKS_DAC
1:  mov word ptr [bp + F_BX], bx
    jmp .done
.save:
    mov di, bx
    test cl, 1
    jz 1f
    push di
    call save_registers
    pop di
    add di, SAVE_BLOCKS_REGISTERS * 64
1:  test byte ptr [bp + F_CL], 2
    jz 1f
    push di
    call save_data
    pop di
    add di, SAVE_BLOCKS_DATA * 64
1:  test byte ptr [bp + F_CL], 4
    jz .done
    mov dx, PEL_MASK
    in al, dx
    stosb
    xor bx, bx
    mov cx, 256
    mov dx, di
    call get_colours
    jmp .done
.restore:
    cmp al, 2
    ja .return
    mov si, bx
    push es
    pop ds                              # DS:SI = buffer
    test cl, 1
    jz 1f
    push si
    call restore_registers
    pop si
    add si, SAVE_BLOCKS_REGISTERS * 64
1:  test byte ptr [bp + F_CL], 2
    jz 1f
    push si
    call restore_data
    pop si
    add si, SAVE_BLOCKS_DATA * 64
1:  test byte ptr [bp + F_CL], 4
    jz .done
    mov dx, PEL_MASK
    lodsb
    out dx, al
    mov dx, DAC_INDEX
    xor al, al
    out dx, al
    inc dx
    mov cx, 256 * 3
    rep outsb
.done:
    mov byte ptr [bp + F_AL], 0x1C
.return:
    ret

# save_registers: ES:DI = 60 bytes: sequencer 1-4, miscellaneous output, CRTC 0-18h, attribute 0-13h, graphics 0-8 in
# the order of the parameter table, then the colour select register.
save_registers:
    mov dx, SEQUENCER
    mov ah, 1
    mov cx, 4
    call fetch_indexed
    mov dx, MISC_READ
    in al, dx
    stosb
    mov dx, word ptr [CRTC_PORT]
    xor ah, ah
    mov cx, 25
    call fetch_indexed
    xor bl, bl
1:  call fetch_attribute
    mov al, bh
    stosb
    inc bl
    cmp bl, 0x14
    jb 1b
    mov dx, GRAPHICS
    xor ah, ah
    mov cx, 9
    call fetch_indexed
    mov bl, A_SELECT
    call fetch_attribute
    mov al, bh
    stosb
    ret

# fetch_indexed: CX registers from AH on of the chip at port DX, to ES:DI. Clobbers AX CX.
fetch_indexed:
    mov al, ah
    out dx, al
    inc dx
    in al, dx
    dec dx
    stosb
    inc ah
    loop fetch_indexed
    ret

# restore_registers: DS:SI = what save_registers wrote. load_registers takes a parameter line and turns the screen off.
restore_registers:
    push si
    mov bl, byte ptr [si]               # sequencer register 1, with the screen bit as it was
    push bx
    sub si, P_SEQUENCER
    call load_registers
    pop bx
    mov dx, SEQUENCER
    mov al, 1
    mov ah, bl
    out dx, ax
    pop si
    mov bh, byte ptr [si + P_BYTES - P_SEQUENCER]
    mov bl, A_SELECT
    push ds
    xor ax, ax
    mov ds, ax
    call set_attribute
    pop ds
    ret

# save_data: ES:DI = 49 bytes: what INT 10h keeps below 500h. restore_data: the same from DS:SI.
save_data:
    mov bx, data_areas
1:  mov si, word ptr cs:[bx]
    mov cx, word ptr cs:[bx + 2]
    rep movsb
    add bx, 4
    cmp bx, data_areas_end
    jb 1b
    ret

restore_data:
    push es
    xor ax, ax
    mov es, ax
    mov bx, data_areas
1:  mov di, word ptr cs:[bx]
    mov cx, word ptr cs:[bx + 2]
    rep movsb
    add bx, 4
    cmp bx, data_areas_end
    jb 1b
    pop es
    ret

data_areas:
    .word MODE, 30
    .word LAST_ROW, 7
    .word SAVE_POINTER, 4
    .word VECTOR_1F, 4
    .word VECTOR_43, 4
data_areas_end:
