# INT 16h: the keyboard's buffer and flags.
#
#   AH = 00h  wait for a key: AX = scan code, character          AH = 10h  the same, enhanced keys as they are
#   AH = 01h  look: ZF set none; else AX, the key stays          AH = 11h  the same, enhanced keys as they are
#   AH = 02h  AL = shift flags (40:17)                           AH = 12h  AL = shift flags, AH = which keys are down
#   AH = 03h  AL = 05h: set repeat, BH = delay 0-3, BL = rate 0-1Fh
#   AH = 05h  put CX into the buffer: AL = 0, or 1 when it is full
#   AH = 09h  AL = what is supported: 03h with AL = 05h, 10h-12h
# Everything not named is preserved. Other AH change nothing, but that 92h and A2h return AH = 80h: 12h is the last.
#
# Source: IBM PS/2 BIOS Interface Technical Reference, "INT 16h - Keyboard".

.set KB_SERVICES, 0x24
.set CLASSIC_LAST, 0x84             # scan codes above are for AH = 10h and 11h only

int16_entry:
    cld
    push bx
    push cx
    push si
    push ds
    push BDA_SEG
    pop ds
    mov si, int16_table
.search:
    cmp ah, byte ptr cs:[si]
    je .found
    add si, 3
    cmp si, int16_table_end
    jb .search
    jmp int16_return
.found:
    jmp word ptr cs:[si+1]          # AX, BX, CX the caller's; DS = 40h

.macro KB_SERVICE number, routine
    .byte \number
    .word \routine
.endm

int16_table:
    KB_SERVICE 0x00, key_take
    KB_SERVICE 0x01, key_look
    KB_SERVICE 0x02, flags_get
    KB_SERVICE 0x03, repeat_set
    KB_SERVICE 0x05, key_put
    KB_SERVICE 0x09, services_get
    KB_SERVICE 0x10, key_take
    KB_SERVICE 0x11, key_look
    KB_SERVICE 0x12, flags_get_all
    KB_SERVICE 0x92, no_more
    KB_SERVICE 0xA2, no_more
int16_table_end:

int16_return:
    pop ds
    pop si
    pop cx
    pop bx
    iret

# AH = 00h, 10h. The processor sleeps until a key comes; an operating system that hooks INT 15h hears of the wait.
key_take:
    mov cl, ah                      # 10h: enhanced
    call leds_update
    cli
    call key_peek
    jnz .take
    mov ax, 0x9002                  # device busy: keyboard
    int 0x15
.sleep:
    cli
    call key_peek
    jnz .take
    sti                             # takes effect after HLT has begun
    hlt
    jmp .sleep
.take:
    call key_advance
    call key_translate
    jc .sleep
    jmp int16_return

# AH = 01h, 11h.
key_look:
    mov cl, ah
    mov si, ax                      # stays, when there is no key
    call leds_update
.again:
    cli
    call key_peek
    jz .none
    push bx
    call key_translate
    pop bx
    jnc .some
    call key_advance                # a key that the caller cannot know: drop it
    jmp .again
.none:
    mov ax, si
    pop ds
    pop si
    pop cx
    pop bx
    push bp
    mov bp, sp
    or byte ptr [bp+6], FLAG_ZF
    pop bp
    iret
.some:
    pop ds
    pop si
    pop cx
    pop bx
    push bp
    mov bp, sp
    and byte ptr [bp+6], 0xFF - FLAG_ZF
    pop bp
    iret

# AH = 02h.
flags_get:
    mov al, byte ptr [BDA_SHIFT]
    jmp int16_return

# AH = 12h: AH = SysRq, Caps, Num, Scroll, right Alt, right Ctrl, left Alt, left Ctrl, from bit 7 down.
flags_get_all:
    mov al, byte ptr [BDA_SHIFT2]
    mov ah, al
    and ah, KB2_CAPS + KB2_NUM + KB2_SCROLL + KB2_LALT + KB2_LCTRL
    test al, KB2_SYSREQ
    jz .no_sysreq
    or ah, 0x80
.no_sysreq:
    mov al, byte ptr [BDA_SHIFT3]
    and al, KB3_RCTRL + KB3_RALT
    or ah, al
    mov al, byte ptr [BDA_SHIFT]
    jmp int16_return

# AH = 03h. The keyboard's answers are taken here, so that INT 09h does not see them.
repeat_set:
    cmp al, 0x05
    jne int16_return
    push ax
    mov cl, bh
    and cl, 0x03
    shl cl, 5
    and bl, 0x1F
    or cl, bl
    cli
    mov al, 0xF3
    call keyboard_ask
    jc .silent
    mov al, cl
    call keyboard_ask
.silent:
    pop ax
    jmp int16_return

# AH = 05h.
key_put:
    push ax
    mov ax, cx
    call key_store
    pop ax
    mov al, 0                       # leaves CF
    adc al, 0
    jmp int16_return

# AH = 09h.
services_get:
    mov al, KB_SERVICES
    jmp int16_return

# AH = 92h, A2h.
no_more:
    mov ah, 0x80
    jmp int16_return

# AX = the first key, BX = where it stands; ZF set when there is none. DS = 40h, interrupts off.
key_peek:
    mov bx, word ptr [BDA_KB_HEAD]
    mov ax, word ptr [bx]
    cmp bx, word ptr [BDA_KB_TAIL]
    ret

# Drop the first key. DS = 40h, interrupts off. Changes BX.
key_advance:
    mov bx, word ptr [BDA_KB_HEAD]
    call key_next
    mov word ptr [BDA_KB_HEAD], bx
    ret

# BX = the place after BX in the buffer. DS = 40h.
key_next:
    inc bx
    inc bx
    cmp bx, word ptr [BDA_KB_END]
    jb .inside
    mov bx, word ptr [BDA_KB_START]
.inside:
    ret

# Put AX into the buffer; CF set when it is full. DS = 40h. Preserves all registers.
key_store:
    pushf
    cli
    push bx
    push si
    mov bx, word ptr [BDA_KB_TAIL]
    mov si, bx
    call key_next
    cmp bx, word ptr [BDA_KB_HEAD]
    je .full
    mov word ptr [si], ax
    mov word ptr [BDA_KB_TAIL], bx
    pop si
    pop bx
    popf
    clc
    ret
.full:
    pop si
    pop bx
    popf
    stc
    ret

# Make of the key AX what a caller of AH = CL is to see; CF set: nothing, the key is unknown there.
key_translate:
    test cl, 0x10
    jnz .enhanced
    cmp ah, 0xE0                    # Enter and / of the keypad: as if from the main field
    jne .not_keypad
    mov ah, 0x1C
    cmp al, '/'
    jne .known
    mov ah, 0x35
    jmp .known
.not_keypad:
    test ah, ah                     # Alt with digits: any character
    jz .known
    cmp ah, CLASSIC_LAST
    ja .unknown
    cmp al, 0xF0
    je .unknown
    cmp al, 0xE0                    # the grey cursor keys: as if from the keypad
    jne .known
    mov al, 0
.known:
    clc
    ret
.unknown:
    stc
    ret
.enhanced:
    cmp al, 0xF0
    jne .known
    test ah, ah
    jz .known
    mov al, 0
    jmp .known
