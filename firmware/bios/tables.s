# The interrupt vector table and the BIOS data areas, as POST leaves them. Near routines; they may change any register
# except SS:SP.
#
# Source: IBM PC/AT Technical Reference, "System BIOS Usage", "Interrupt Vectors", "ROM BIOS Data Area".

# Fill the vector table: 00h-77h of our own, 60h-67h and 78h-FFh left to programs and zero.
init_vectors:
    xor di, di
    mov es, di
    mov eax, (ROM_SEG << 16) | dummy_iret
    mov cx, 0x78
    rep stosd
    xor eax, eax
    mov cx, 0x100 - 0x78
    rep stosd
    mov di, 0x60 * 4
    mov cx, 8
    rep stosd

    mov si, vector_table
.next:                              # then the ones that have a handler: number, offset
    movzx di, byte ptr cs:[si]
    cmp di, 0xFF
    je .done
    shl di, 2
    mov ax, word ptr cs:[si+1]
    stosw
    add si, 3
    jmp .next
.done:
    ret

.macro VECTOR number, handler
    .byte \number
    .word \handler
.endm

vector_table:
    VECTOR 0x00, unexpected_00
    VECTOR 0x02, at_nmi
    VECTOR 0x05, at_int05
    VECTOR 0x06, unexpected_06
    VECTOR 0x07, unexpected_07
    VECTOR 0x08, at_int08
    VECTOR 0x09, at_int09
    VECTOR 0x0A, unexpected_0a
    VECTOR 0x0B, unexpected_0b
    VECTOR 0x0C, unexpected_0c
    VECTOR 0x0D, unexpected_0d
    VECTOR 0x0E, at_int0e
    VECTOR 0x0F, unexpected_0f
    VECTOR 0x10, at_int10
    VECTOR 0x11, at_int11
    VECTOR 0x12, at_int12
    VECTOR 0x13, at_int13
    VECTOR 0x14, at_int14
    VECTOR 0x15, at_int15
    VECTOR 0x16, at_int16
    VECTOR 0x17, at_int17
    VECTOR 0x18, int18_entry
    VECTOR 0x19, at_int19
    VECTOR 0x1A, at_int1a
    VECTOR 0x1D, video_parameters
    VECTOR 0x1E, diskette_parameter_table
    VECTOR 0x40, at_int40
    VECTOR 0x41, fixed_disk_tables
    VECTOR 0x43, font_8x8
    VECTOR 0x46, fixed_disk_tables
    VECTOR 0x70, int70_handler
    VECTOR 0x71, int71_handler
    VECTOR 0x72, unexpected_slave
    VECTOR 0x73, unexpected_slave
    VECTOR 0x74, unexpected_slave
    VECTOR 0x75, int75_handler
    VECTOR 0x76, int76_handler
    VECTOR 0x77, int77_handler
    .byte 0xFF

# Clear both data areas, except for the warm reset flag, and fill in what POST knows by now.
init_bda:
    mov ax, BDA_SEG
    mov ds, ax
    mov es, ax
    mov bx, word ptr [BDA_WARM]
    xor di, di
    xor ax, ax
    mov cx, 0x101 / 2 + 1           # up to the print screen flag
    rep stosw
    cmp bx, WARM_RESET
    jne .cold
    mov word ptr [BDA_WARM], bx
.cold:
    mov ax, EBDA_SEG
    mov word ptr [BDA_EBDA], ax
    mov es, ax
    xor di, di
    xor ax, ax
    mov cx, EBDA_KB * 512
    rep stosw
    mov byte ptr es:[EBDA_SIZE], EBDA_KB

    mov word ptr [BDA_MEMORY], BASE_KB
    mov ax, BDA_KB_BUFFER           # an empty keyboard buffer
    mov word ptr [BDA_KB_HEAD], ax
    mov word ptr [BDA_KB_TAIL], ax
    mov word ptr [BDA_KB_START], ax
    mov word ptr [BDA_KB_END], BDA_KB_BUFFER_END
    mov byte ptr [BDA_SHIFT3], KB3_101
    mov dword ptr [BDA_COM_TIMEOUT], 0x01010101
    mov dword ptr [BDA_LPT_TIMEOUT], 0x14141414
    # falls into init_equipment

# Work out the equipment word: bit 0 and bits 7:6 floppies, 1 coprocessor, 2 mouse, 5:4 video at start, 11:9 serial ports.
# DS = 40h.
init_equipment:
    mov bx, 0x0020                  # 80x25 in colour

    mov al, CMOS_FLOPPY             # a drive for each nibble that is not zero
    call cmos_read
    test al, 0xF0
    jz .no_floppy
    or bx, 0x0001
    test al, 0x0F
    jz .no_floppy
    or bx, 0x0040
.no_floppy:

    fninit                          # a coprocessor has status 0 after FNINIT
    mov si, BDA_KB_BUFFER           # still free
    mov word ptr [si], 0x5A5A
    fnstsw word ptr [si]
    cmp word ptr [si], 0
    mov word ptr [si], 0
    jne .no_fpu
    or bx, 0x0002
.no_fpu:

    xor di, di                      # index of the next entry at BDA_COM
    mov si, com_bases
    mov cx, 4
.port:
    mov dx, word ptr cs:[si]
    add si, 2
    add dx, 3                       # the line control register keeps what is written, if there is one
    mov al, 0x1B
    out dx, al
    in al, dx
    cmp al, 0x1B
    jne .no_port
    mov al, 0x03                    # 8 bits, no parity: out of reset it is 5 bits, and not everyone sets a format
    out dx, al
    sub dx, 3
    mov word ptr [BDA_COM + di], dx
    add di, 2
    add bx, 0x0200
.no_port:
    loop .port

    mov word ptr [BDA_EQUIPMENT], bx
    ret

com_bases:
    .word 0x3F8, 0x2F8, 0x3E8, 0x2E8
