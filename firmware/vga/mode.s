# INT 10h AH=00h set mode and AH=0Fh get mode.
#
# Source: IBM VGA Technical Reference, "Video Modes", "Video Parameter Table".

# set_mode: AL = mode, bit 7 keeps what is in video memory. A mode that does not exist changes nothing.
set_mode:
    mov dl, al
    and dl, 0x7F
    cmp dl, 0x13
    ja .refuse
    movzx si, dl
    mov bl, byte ptr cs:[si + mode_kinds]
    cmp bl, KIND_NONE
    je .refuse
    xor bh, bh
    mov word ptr [bp + L_KIND], bx
    mov byte ptr [MODE], dl
    and al, 0x80
    and byte ptr [EGA_CONTROL], 0x7F
    or byte ptr [EGA_CONTROL], al       # callers see bit 7 again in AH=0Fh

    call find_parameters                # SI = the mode's line of the table
    call fill_data_area
    push ds
    push cs
    pop ds
    call load_registers                 # screen off
    pop ds
    call load_palette
    mov word ptr [VECTOR_1F], font_8x8 + 128 * 8
    mov word ptr [VECTOR_1F + 2], cs
    mov al, byte ptr [CHAR_HEIGHT]
    call rom_font                       # CS:SI = glyphs of this height
    mov word ptr [VECTOR_43], si
    mov word ptr [VECTOR_43 + 2], cs
    cmp byte ptr [bp + L_KIND], KIND_TEXT
    jne .clear
    call load_rom_font
.clear:
    test byte ptr [EGA_CONTROL], 0x80
    jnz .show
    call clear_memory
.show:
    mov dx, ATTRIBUTE
    mov al, VIDEO_ON
    out dx, al
    mov dx, SEQUENCER
    mov al, 1
    out dx, al
    inc dx
    in al, dx
    and al, 0xDF                        # screen on
    out dx, al
.refuse:
    ret

# get_mode: AL = mode, AH = columns, BH = active page.
get_mode:
    mov al, byte ptr [EGA_CONTROL]
    and al, 0x80
    or al, byte ptr [MODE]
    mov byte ptr [bp + F_AL], al
    mov al, byte ptr [COLUMNS]
    mov byte ptr [bp + F_AH], al
    mov al, byte ptr [ACTIVE_PAGE]
    mov byte ptr [bp + F_BH], al
    ret

# find_parameters: SI = mode; returns CS:SI = its parameters. Text modes depend on the lines chosen by AH=12h BL=30h.
find_parameters:
    mov al, byte ptr cs:[si + mode_parameters]
    cmp word ptr [bp + L_KIND], KIND_TEXT
    jne .found
    test byte ptr [VGA_FLAGS], 0x10     # 400 lines: what the table says
    jnz .found
    mov ax, si
    cmp al, 7
    je .found                           # monochrome: 350 lines
    test byte ptr [VGA_FLAGS], 0x80     # 200 lines: lines 0-3 of the table
    jnz .found
    add al, PARAMETERS_350
.found:
    mov ah, P_BYTES
    mul ah
    add ax, parameters
    mov si, ax
    ret

# fill_data_area: CS:SI = parameters. Everything that INT 10h remembers of a mode.
fill_data_area:
    movzx ax, byte ptr cs:[si + P_COLUMNS]
    mov word ptr [COLUMNS], ax
    mov al, byte ptr cs:[si + P_LAST_ROW]
    mov byte ptr [LAST_ROW], al
    mov al, byte ptr cs:[si + P_HEIGHT]
    mov word ptr [CHAR_HEIGHT], ax
    mov ax, word ptr cs:[si + P_PAGE_BYTES]
    mov word ptr [PAGE_BYTES], ax

    # The CRTC answers at 3D4h or 3B4h, as bit 0 of the miscellaneous output register says.
    mov ax, 0x3D4
    mov bx, 0x0607                      # cursor in the eight lines of a CGA cell
    mov cl, 0x20                        # equipment: 80-column colour
    test byte ptr cs:[si + P_MISC], 1
    jnz 1f
    mov ax, 0x3B4
    mov bx, 0x0B0C
    mov cl, 0x30                        # equipment: monochrome
1:  mov word ptr [CRTC_PORT], ax
    mov word ptr [CURSOR_SHAPE], bx
    and byte ptr [EQUIPMENT], 0xCF
    or byte ptr [EQUIPMENT], cl

    # What a CGA would have in its mode and colour registers.
    movzx bx, byte ptr [MODE]
    cmp bl, 7
    ja 2f
    mov al, byte ptr cs:[bx + cga_control_values]
    mov byte ptr [CGA_CONTROL], al
    mov al, 0x30
    cmp bl, 6
    jne 1f
    mov al, 0x3F
1:  mov byte ptr [CGA_COLOUR], al

    # Page 0, every cursor in the corner.
2:  xor ax, ax
    mov word ptr [PAGE_START], ax
    mov byte ptr [ACTIVE_PAGE], al
    push ds
    pop es
    mov di, CURSORS
    mov cx, 8
    rep stosw
    ret

# load_registers: DS:SI = parameters; the screen stays off, and so does the palette until VIDEO_ON. Keeps SI; clobbers
# AX BX CX DX DI ES.
load_registers:
    push si
    add si, P_SEQUENCER
    mov dx, 0x3BA                       # the attribute controller expects an index, whichever place it is at
    in al, dx
    mov dl, 0xDA
    in al, dx
    mov dx, ATTRIBUTE
    xor al, al                          # palette off: nothing is shown of the modes on the way
    out dx, al
    mov dx, SEQUENCER
    mov ax, 0x0100                      # synchronous reset
    out dx, ax
    mov ah, byte ptr [si]
    or ah, 0x20                         # screen off
    mov al, 1
    out dx, ax
    inc si
    mov al, 2
    mov cx, 3
    call load_indexed
    lodsb                               # P_MISC
    mov dx, MISC
    out dx, al
    push ax
    mov dx, SEQUENCER
    mov ax, 0x0300                      # run
    out dx, ax
    pop ax
    mov dx, 0x3B4
    test al, 1
    jz 1f
    mov dl, 0xD4
1:  mov ax, 0x0011                      # registers 0-7 unlocked
    out dx, ax
    mov cx, 25
    xor al, al
    call load_indexed

    add dl, STATUS
    in al, dx                           # the attribute controller expects an index
    mov dx, ATTRIBUTE
    xor al, al
    mov cx, 20
    call load_alternating
    mov dx, ATTRIBUTE
    mov al, 0x14                        # colour select
    out dx, al
    xor al, al
    out dx, al

    mov dx, GRAPHICS
    xor al, al
    mov cx, 9
    call load_indexed
    pop si
    ret

# load_indexed: CX register values at DS:SI, 25 at most, go to the chip at port DX from index AL up, as words of index
# and value in a single REP OUTSW. Returns SI behind them; clobbers AX CX DI ES, keeps DX.
load_indexed:
    sub sp, 50
    call pair_registers
    rep ss outsw
    jmp unpair_registers

# load_alternating: the same for the attribute controller, which takes index and value in turn at one port.
load_alternating:
    sub sp, 50
    call pair_registers
    add cx, cx
    rep ss outsb
unpair_registers:
    pop si                              # the end of the source, parked by pair_registers
    add sp, 50
    ret

# pair_registers: for the two above: pairs in the 50 bytes over the return address, SI at them, CX the count.
# The end of the source is left on the stack, below the pairs.
pair_registers:
    pop bx                              # return address
    mov di, sp
    push ss
    pop es
    push cx
1:  mov ah, byte ptr [si]
    inc si
    stosw
    inc al
    loop 1b
    pop cx
    mov di, si
    mov si, sp
    push di
    jmp bx

# clear_memory: blanks in text modes, zero elsewhere, in all that the mode can show.
clear_memory:
    call geometry
    xor di, di
    mov cx, 0x4000                      # 32 KiB: all text pages, or both CGA banks and more
    mov ax, 0x0720                      # grey blanks on black
    mov si, word ptr [bp + L_KIND]
    cmp si, KIND_TEXT
    je .store
    xor ax, ax
    cmp si, KIND_PLANAR
    jb .store
    mov ch, 0x80                        # 64 KiB
.store:
    rep stosw
    ret
