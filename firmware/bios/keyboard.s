# INT 09h, IRQ 1: from scan codes of set 1 to the keyboard buffer and flags in the BDA.
#
# Sources: IBM PC/AT Technical Reference, "Keyboard", "Scan Codes"; PS/2 BIOS Interface Technical Reference, "INT 09h".

.set SCAN_E0, 0xE0
.set SCAN_E1, 0xE1
.set SCAN_ACK, 0xFA
.set SCAN_RESEND, 0xFE
.set SCAN_BREAK, 0x80               # bit 7: the key went up
.set SCAN_CTRL, 0x1D
.set SCAN_LSHIFT, 0x2A
.set SCAN_RSHIFT, 0x36
.set SCAN_PRINT, 0x37
.set SCAN_ALT, 0x38
.set SCAN_CAPS, 0x3A
.set SCAN_NUM, 0x45
.set SCAN_SCROLL, 0x46
.set SCAN_HOME, 0x47                # the keypad starts here
.set SCAN_INSERT, 0x52
.set SCAN_DELETE, 0x53              # and ends here
.set SCAN_SYSREQ, 0x54
.set SCAN_LAST, 0x58

int09_handler:
    pushad
    push ds
    push es
    cld
    mov ax, BDA_SEG
    mov ds, ax
    in al, KBD_DATA

    cmp al, SCAN_ACK                # answers to commands are not keys
    je .answer
    cmp al, SCAN_RESEND
    je .answer
    mov ah, 0x4F                    # may a program have it first? CF clear: it has taken it
    stc
    int 0x15
    jnc .taken
    call eoi_master                 # now, since what a key does may take its time
    call key_event
    call leds_update
    jmp .done
.answer:
    call eoi_master
    call leds_answer
    jmp .done
.taken:
    call eoi_master
.done:
    pop es
    pop ds
    popad
    iret

# One byte from the keyboard, in AL. DS = 40h, interrupts off, the interrupt acknowledged. Changes AX, BX, CX, DX, SI.
key_event:
    cmp al, SCAN_E0
    je .prefix_e0
    cmp al, SCAN_E1
    je .prefix_e1
    mov bl, al                      # BL = scan code, AL bit 7 = up
    and bl, 0xFF - SCAN_BREAK
    test byte ptr [BDA_SHIFT3], KB3_E1
    jnz key_pause_bytes
    mov dl, byte ptr [BDA_SHIFT3]   # DL = KB3_E0 after E0h, else 0
    and dl, KB3_E0
    and byte ptr [BDA_SHIFT3], 0xFF - KB3_E0

    mov si, special_keys            # shift, lock and the like: code, prefix, routine
.search:
    cmp bl, byte ptr cs:[si]
    jne .next
    mov dh, byte ptr cs:[si+1]
    cmp dh, 0xFF                    # with and without E0h
    je .special
    cmp dh, dl
    je .special
.next:
    add si, 4
    cmp si, special_keys_end
    jb .search
    test al, SCAN_BREAK
    jz key_make
    ret
.special:
    jmp word ptr cs:[si+2]
.prefix_e0:
    or byte ptr [BDA_SHIFT3], KB3_E0
    ret
.prefix_e1:
    or byte ptr [BDA_SHIFT3], KB3_E1
    ret

.macro SPECIAL code, prefix, routine
    .byte \code, \prefix
    .word \routine
.endm

special_keys:
    SPECIAL SCAN_LSHIFT, 0, key_left_shift
    SPECIAL SCAN_RSHIFT, 0, key_right_shift
    SPECIAL SCAN_LSHIFT, KB3_E0, key_nothing    # shifts that the keyboard makes up around E0h keys
    SPECIAL SCAN_RSHIFT, KB3_E0, key_nothing
    SPECIAL SCAN_CTRL, 0xFF, key_ctrl
    SPECIAL SCAN_ALT, 0xFF, key_alt
    SPECIAL SCAN_CAPS, 0, key_caps
    SPECIAL SCAN_NUM, 0, key_num
    SPECIAL SCAN_SCROLL, 0xFF, key_scroll
    SPECIAL SCAN_INSERT, 0xFF, key_insert
    SPECIAL SCAN_SYSREQ, 0, key_sysreq
    SPECIAL SCAN_PRINT, KB3_E0, key_print
special_keys_end:

# E1h 1Dh 45h is Pause, E1h 9Dh C5h follows at once.
key_pause_bytes:
    cmp bl, SCAN_CTRL
    je key_nothing
    and byte ptr [BDA_SHIFT3], 0xFF - KB3_E1
    cmp al, SCAN_NUM
    jne key_nothing

# Stand still until another key is pressed.
key_pause:
    or byte ptr [BDA_SHIFT2], KB2_PAUSE
.wait:
    sti
    hlt
    test byte ptr [BDA_SHIFT2], KB2_PAUSE
    jnz .wait
    cli
key_nothing:
    ret

# Shift keys: AH = the flag that is set as long as the key is down.
key_left_shift:
    mov ah, KB_LSHIFT
    jmp key_hold
key_right_shift:
    mov ah, KB_RSHIFT
key_hold:
    mov si, BDA_SHIFT

# Set the bits AH of the byte at DS:SI when the key in AL went down, clear them when it went up. Changes AH.
flag_hold:
    test al, SCAN_BREAK
    jnz .up
    or byte ptr [si], ah
    ret
.up:
    not ah
    and byte ptr [si], ah
    ret

# Ctrl and Alt: left and right have flags of their own; the common one is set as long as either is.
key_ctrl:
    mov ah, KB2_LCTRL
    mov cx, (KB3_RCTRL << 8) | KB_CTRL
    jmp key_pair
key_alt:
    mov ah, KB2_LALT
    mov cx, (KB3_RALT << 8) | KB_ALT

# AH = the left key's flag in BDA_SHIFT2, CH = the right one's in BDA_SHIFT3, CL = the common one.
key_pair:
    mov bh, ah
    mov si, BDA_SHIFT2
    test dl, dl
    jz .left
    mov si, BDA_SHIFT3
    mov ah, ch
.left:
    call flag_hold
    not cl
    and byte ptr [BDA_SHIFT], cl
    not cl
    test byte ptr [BDA_SHIFT2], bh
    jnz .down
    test byte ptr [BDA_SHIFT3], ch
    jnz .down
    cmp cl, KB_ALT
    je alt_pad_end
    ret
.down:
    or byte ptr [BDA_SHIFT], cl
    ret

# Alt went up: the digits typed meanwhile are a character.
alt_pad_end:
    xor ax, ax
    xchg al, byte ptr [BDA_ALT_PAD]
    test al, al
    jnz key_enter
    ret

# Caps, Num and Scroll Lock turn their flag over, once for each time they go down.
key_caps:
    mov ah, KB_CAPS
    jmp key_lock
key_num:
    mov ah, KB_NUM
    test byte ptr [BDA_SHIFT], KB_CTRL
    jz key_lock
    test al, SCAN_BREAK             # Ctrl + Num Lock: Pause, on keyboards without that key
    jz key_pause
    ret
key_scroll:
    mov ah, KB_SCROLL
    test byte ptr [BDA_SHIFT], KB_CTRL
    jnz key_break

# AH = the flag in BDA_SHIFT, and in BDA_SHIFT2 the one that says the key is down. Changes AH.
key_lock:
    test al, SCAN_BREAK
    jnz .held
    test byte ptr [BDA_SHIFT2], ah  # it repeats
    jnz .held
    xor byte ptr [BDA_SHIFT], ah
.held:
    mov si, BDA_SHIFT2
    jmp flag_hold

# Ctrl + Pause: empty the buffer, call INT 1Bh, leave a zero.
key_break:
    test al, SCAN_BREAK
    jnz key_nothing
    mov byte ptr [BDA_BREAK], 0x80
    mov ax, word ptr [BDA_KB_START]
    mov word ptr [BDA_KB_HEAD], ax
    mov word ptr [BDA_KB_TAIL], ax
    int 0x1B
    cli
    xor ax, ax
    jmp key_enter

# Insert turns its flag over, unless it is a digit or goes with Ctrl or Alt; and it is a key.
key_insert:
    test al, SCAN_BREAK
    jnz .flag
    test byte ptr [BDA_SHIFT], KB_CTRL + KB_ALT
    jnz key_make
    call is_shifted
    jnz key_make
    mov ah, KB_INSERT
    call key_lock
    jmp key_make
.flag:
    mov ah, KB_INSERT
    jmp key_lock

# Alt + Print Screen.
key_sysreq:
    mov ah, KB2_SYSREQ
    mov si, BDA_SHIFT2
    call flag_hold
    shr al, 7                       # 0 pressed, 1 released
    mov ah, 0x85
    int 0x15
    ret

# Print Screen; with Ctrl it is a key.
key_print:
    test al, SCAN_BREAK
    jnz key_nothing
    mov ax, 0x7200
    test byte ptr [BDA_SHIFT], KB_CTRL
    jnz key_enter
    int 0x05
    ret

# A key went down that has a meaning of its own: BL = scan code, DL = KB3_E0 or 0.
key_make:
    test byte ptr [BDA_SHIFT2], KB2_PAUSE
    jz .awake
    and byte ptr [BDA_SHIFT2], 0xFF - KB2_PAUSE
    ret
.awake:
    mov ah, byte ptr [BDA_SHIFT]
    test ah, KB_ALT
    jz .not_alt

    cmp bl, SCAN_DELETE             # Ctrl + Alt + Del
    jne .not_reset
    test ah, KB_CTRL
    jnz warm_reset
.not_reset:
    test dl, dl                     # Alt with digits of the keypad
    jnz .column_alt
    cmp bl, SCAN_HOME
    jb .column_alt
    cmp bl, SCAN_DELETE
    ja .column_alt
    movzx si, bl
    mov al, byte ptr cs:[keypad_digits + si - SCAN_HOME]
    cmp al, 0xFF
    jne alt_pad_digit
.column_alt:
    mov si, 6
    jmp .look_up
.not_alt:
    mov si, 4
    test ah, KB_CTRL
    jnz .look_up
    xor si, si
    call is_shifted
    jz .look_up
    mov si, 2

.look_up:                           # SI = 2 * column
    test dl, dl
    jnz .look_up_e0
    dec bl
    cmp bl, SCAN_LAST
    jae key_nothing
    mov bh, 0
    shl bx, 3
    mov ax, word ptr cs:[key_table + bx + si]
    jmp .enter
.look_up_e0:
    mov di, key_table_e0
.search:
    cmp byte ptr cs:[di], 0
    je key_nothing
    cmp bl, byte ptr cs:[di]
    je .found
    add di, 9
    jmp .search
.found:
    add di, si
    mov ax, word ptr cs:[di+1]
.enter:
    test ax, ax
    jz key_nothing

# Put AX into the buffer and tell whoever waits for it.
key_enter:
    call key_store
    jc key_nothing
    mov ax, 0x9102                  # device done: keyboard
    int 0x15
    cli
    ret

# AL = one more digit of the character that Alt collects.
alt_pad_digit:
    mov ah, al
    mov al, byte ptr [BDA_ALT_PAD]
    mov cl, ah
    mov ah, 10
    mul ah
    add al, cl
    mov byte ptr [BDA_ALT_PAD], al
    ret

# ZF clear when key BL, DL is to take its second meaning: Shift, turned over by Num Lock on the keypad and by Caps Lock
# on letters. Changes CX.
is_shifted:
    push bx
    mov ch, byte ptr [BDA_SHIFT]
    xor cl, cl                      # CL = 0 or 1
    test ch, KB_LSHIFT + KB_RSHIFT
    jz .lock
    inc cx
.lock:
    test dl, dl
    jnz .known
    cmp bl, SCAN_HOME
    jb .not_keypad
    cmp bl, SCAN_DELETE
    ja .not_keypad
    test ch, KB_NUM
    jz .known
    xor cl, 1
    jmp .known
.not_keypad:
    test ch, KB_CAPS
    jz .known
    dec bl
    cmp bl, SCAN_LAST
    jae .known
    mov bh, 0
    shl bx, 3
    mov bl, byte ptr cs:[key_table + bx]
    sub bl, 'a'
    cmp bl, 'z' - 'a'
    ja .known
    xor cl, 1
.known:
    test cl, 1
    pop bx
    ret

# Restart the machine by way of the keyboard controller, and should that not do it, by a jump.
warm_reset:
    mov word ptr [BDA_WARM], WARM_RESET
    call kbc_wait_input
    mov al, 0xFE                    # pulse the reset line
    out KBD_STATUS, al
    mov cx, 10000
    call delay_us
    ljmp ROM_SEG:at_reset

# Make the keyboard's LEDs agree with the lock flags, without waiting: command EDh now, the rest when it answers.
# DS = 40h. Preserves all registers.
leds_update:
    push ax
    mov al, byte ptr [BDA_SHIFT]
    shr al, 4
    and al, 0x07
    mov ah, byte ptr [BDA_LEDS]
    xor ah, al
    and ah, 0x07
    jz .same
    or al, KBL_BUSY                 # one that was under way starts over
    mov byte ptr [BDA_LEDS], al
    mov al, 0xED
    call kbc_data
.same:
    pop ax
    ret

# The keyboard answered AL to a command. DS = 40h. Changes AL.
leds_answer:
    test byte ptr [BDA_LEDS], KBL_BUSY
    jz .done
    cmp al, SCAN_ACK
    jne .finish
    test byte ptr [BDA_LEDS], KBL_ACK
    jnz .finish
    or byte ptr [BDA_LEDS], KBL_ACK # to EDh: now which ones
    mov al, byte ptr [BDA_LEDS]
    and al, 0x07
    jmp kbc_data
.finish:
    and byte ptr [BDA_LEDS], 0xFF - KBL_BUSY - KBL_ACK
.done:
    ret
