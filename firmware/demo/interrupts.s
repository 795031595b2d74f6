# Interrupts: timer and keyboard, in real mode through the BIOS and in protected mode through handlers of the demo.
# A keyboard cannot be made to press a key, but it answers the echo command, and that is an IRQ 1.
#
# Source: Intel 8259A data sheet, "Initialization Command Words"; IBM PC/AT Technical Reference, "Keyboard Controller".

.set PIC1, 0x20
.set PIC2, 0xA0
.set EOI, 0x20
.set KBD_DATA, 0x60
.set KBD_STATUS, 0x64
.set KBD_INPUT_FULL, 0x02
.set KBD_ECHO, 0xEE                     # command and answer
.set VECTOR_09, 9 * 4
.set TYPED_MOST, 8

# interrupts_in_real_mode: fills the two results behind the checks; DI = the first of them when it returns.
interrupts_in_real_mode:
    mov di, results + CHECKS * RESULT_BYTES

    # Three ticks of the BIOS, halted.
    mov bx, word ptr [BIOS_TICKS]
1:  hlt
    mov ax, word ptr [BIOS_TICKS]
    sub ax, bx
    cmp ax, 3
    jb 1b
    mov word ptr [di + R_FIRST], ax
    mov byte ptr [di + R_OK], 1

    # The BIOS gets the keyboard's interrupts after they were counted.
    cli
    mov eax, dword ptr [VECTOR_09]
    mov dword ptr [saved_09], eax
    mov word ptr [VECTOR_09], count_key
    mov word ptr [VECTOR_09 + 2], 0
    mov word ptr [key_interrupts], 0
    sti
    call wait_keyboard
    mov al, KBD_ECHO
    out KBD_DATA, al

    # A window for keys; their characters come from INT 16h.
    mov si, typed
    mov bx, word ptr [BIOS_TICKS]
.window:
    hlt
    mov ah, 1
    int 0x16
    jz .no_key
    mov ah, 0
    int 0x16
    cmp al, ' '
    jbe .no_key
    cmp si, typed + TYPED_MOST
    jae .no_key
    mov byte ptr [si], al
    inc si
.no_key:
    mov ax, word ptr [BIOS_TICKS]
    sub ax, bx
    cmp ax, TYPING_TICKS
    jb .window
    mov byte ptr [si], 0
    cli
    mov eax, dword ptr [saved_09]
    mov dword ptr [VECTOR_09], eax
    sti
    mov ax, word ptr [key_interrupts]
    mov word ptr [di + RESULT_BYTES + R_FIRST], ax
    test ax, ax
    setnz byte ptr [di + RESULT_BYTES + R_OK]
    ret

# count_key: in front of INT 09h.
count_key:
    inc word ptr cs:[key_interrupts]
    ljmp cs:[saved_09]

# wait_keyboard: until the controller takes a byte, 65536 looks at most. Clobbers AL CX.
wait_keyboard:
    xor cx, cx
1:  in al, KBD_STATUS
    test al, KBD_INPUT_FULL
    loopnz 1b
    ret

# program_pics: IRQ 0-7 at vector AH, 8-15 at AL; everything masked. The same bytes serve 16-bit and 32-bit code.
.macro program_pics
    push ax
    mov al, 0x11                        # ICW1: cascade, ICW4 follows
    out PIC1, al
    out PIC2, al
    mov al, ah                          # ICW2: vector of the first line
    out PIC1 + 1, al
    pop ax
    out PIC2 + 1, al
    mov al, 0x04                        # ICW3: the second chip is on line 2
    out PIC1 + 1, al
    mov al, 0x02
    out PIC2 + 1, al
    mov al, 0x01                        # ICW4: 8086 mode
    out PIC1 + 1, al
    out PIC2 + 1, al
    mov al, 0xFF
    out PIC1 + 1, al
    out PIC2 + 1, al
.endm

# pic_for_bios: vectors and masks as the BIOS had them.
pic_for_bios:
    mov ax, 0x0870
    program_pics
    mov al, byte ptr [saved_masks]
    out PIC1 + 1, al
    mov al, byte ptr [saved_masks + 1]
    out PIC2 + 1, al
    ret

.code32

# pic_for_demo: vectors 20h and 28h, as 08h-0Fh are exceptions here.
pic_for_demo:
    in al, PIC1 + 1
    mov byte ptr [saved_masks], al
    in al, PIC2 + 1
    mov byte ptr [saved_masks + 1], al
    mov ax, 0x2028
    program_pics
    ret

# interrupts_in_protected_mode: fills the two results at EDI.
interrupts_in_protected_mode:
    mov dword ptr [ticks], 0
    mov dword ptr [codes], 0
    mov al, 0xFC                        # lines 0 and 1
    out PIC1 + 1, al
    sti
1:  hlt
    cmp dword ptr [ticks], 3
    jb 1b
    mov eax, dword ptr [ticks]
    saw eax, 0
    mov dl, 1
    row_done

    # Echo, then the window for keys.
    mov ecx, 0x10000
1:  in al, KBD_STATUS
    test al, KBD_INPUT_FULL
    loopnz 1b
    mov al, KBD_ECHO
    out KBD_DATA, al
    mov ebx, dword ptr [ticks]
1:  hlt
    mov eax, dword ptr [ticks]
    sub eax, ebx
    cmp eax, TYPING_TICKS
    jb 1b
    cli

    # The echo is among what came, before or after bytes of keys; all are shown.
    mov ecx, dword ptr [codes]
    saw ecx, 0
    push edi
    mov edi, typed
    mov esi, code_bytes
    xor edx, edx                        # DL: the verdict
1:  dec ecx
    js .end
    lodsb
    cmp al, KBD_ECHO
    jne 2f
    mov dl, 1
2:  call .digits
    mov al, ' '
    stosb
    jmp 1b
.end:
    mov byte ptr [edi], 0
    pop edi
    row_done
    ret

# .digits: AL as two hexadecimal digits at EDI.
.digits:
    mov ah, al
    shr al, 4
    call .digit
    mov al, ah
    and al, 0x0F
.digit:
    cmp al, 10
    sbb al, 0x69                        # '0'-'9' or 'A'-'F' after DAS
    das
    stosb
    ret

timer_handler:
    push eax
    inc dword ptr [ticks]
    mov al, EOI
    out PIC1, al
    pop eax
    iretd

# keyboard_handler: keep the first bytes.
keyboard_handler:
    push eax
    push ecx
    in al, KBD_DATA
    mov ecx, dword ptr [codes]
    cmp ecx, CODES_MOST
    jae 1f
    mov byte ptr [code_bytes + ecx], al
    inc dword ptr [codes]
1:  mov al, EOI
    out PIC1, al
    pop ecx
    pop eax

# spurious_handler: a line that went away before the processor asked; there is nothing to end.
spurious_handler:
    iretd

.code16
