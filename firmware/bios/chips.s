# Bring up the chips of the board, during POST, interrupts off. Each routine is near and changes AX only, or says so.

# DMA controllers: master clear; the second one cascades the first through channel 4.
# Source: Intel 8237A data sheet, "Software Commands".
init_dma:
    out DMA1_CLEAR, al
    out 0xDA, al
    mov al, 0xC0                    # channel 4 in cascade mode
    out 0xD6, al
    mov al, 0x00                    # and open
    out 0xD4, al
    ret

# Interrupt controllers: edge triggered, cascade on IR2, vectors 08h and 70h, everything masked.
# Source: Intel 8259A data sheet, "Initialization Command Words".
init_pic:
    mov al, 0x11                    # ICW1: cascade, edge, ICW4 follows
    out PIC1, al
    out PIC2, al
    mov al, 0x08                    # ICW2: the vector of IR0
    out PIC1 + 1, al
    mov al, 0x70
    out PIC2 + 1, al
    mov al, 0x04                    # ICW3: a slave on IR2; the slave is number 2
    out PIC1 + 1, al
    mov al, 0x02
    out PIC2 + 1, al
    mov al, 0x01                    # ICW4: 8086 mode
    out PIC1 + 1, al
    out PIC2 + 1, al
    mov al, 0xFF
    out PIC1 + 1, al
    out PIC2 + 1, al
    ret

# Let in timer, keyboard, the slave and the floppy; on the slave the clock, the coprocessor and both ATA channels.
unmask_irqs:
    mov al, 0xB8
    out PIC1 + 1, al
    mov al, 0x1E
    out PIC2 + 1, al
    ret

# Timer: channel 0 divides by 65536 (18.2 Hz), channel 1 by 18 (refresh), channel 2 waits for a tone.
# Source: Intel 8254 data sheet, "Control Word Format".
init_pit:
    mov al, 0x34                    # channel 0, low and high byte, mode 2
    out PIT_CONTROL, al
    xor al, al
    out PIT_CH0, al
    out PIT_CH0, al
    mov al, 0x54                    # channel 1, low byte, mode 2
    out PIT_CONTROL, al
    mov al, 18
    out PIT_CH0 + 1, al
    mov al, 0xB6                    # channel 2, low and high byte, mode 3
    out PIT_CONTROL, al
    mov al, 0x33                    # 896 Hz, the beep
    out PIT_CH2, al
    mov al, 0x05
    out PIT_CH2, al
    in al, PORT_B                   # speaker off, gate off, parity checks off
    and al, 0xF0
    or al, 0x0C
    out PORT_B, al
    ret

# Clock: 32768 Hz, 1024 Hz periodic rate, 24 hours in BCD, no interrupt enabled or pending.
# Source: Motorola MC146818 data sheet, "Registers".
init_rtc:
    mov ax, 0x2600 + CMOS_A
    call cmos_write
    mov ax, 0x0200 + CMOS_B
    call cmos_write
    mov al, CMOS_C                  # reading clears the flags
    call cmos_read
    mov al, CMOS_D
                                    # falls into cmos_read

# AL = CMOS register AL. Changes nothing else.
cmos_read:
    out CMOS_INDEX, al
    in al, CMOS_DATA
    ret

# CMOS register AL = AH. Changes nothing.
cmos_write:
    push ax
    out CMOS_INDEX, al
    mov al, ah
    out CMOS_DATA, al
    pop ax
    ret

# Keyboard controller and keyboard: test, scan code set 2 translated to set 1, scanning and IRQ 1 on; ends with
# interrupts on. A keyboard that does not answer costs at most a fraction of a second. Changes AX, CX.
# Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".
init_keyboard:
    cli
    mov al, 0xAD                    # keep both devices quiet meanwhile
    call kbc_command
    mov al, 0xA7
    call kbc_command
.drain:
    in al, KBD_STATUS
    test al, KBD_OUT_FULL
    jz .empty
    in al, KBD_DATA
    jmp .drain
.empty:

    mov al, 0xAA                    # self test; the answer is 55h
    call kbc_command
    call kbc_wait_output
    in al, KBD_DATA
    mov al, 0x60                    # command byte: translate, system flag, aux off, IRQ 1 not yet
    call kbc_command
    mov al, 0x64
    call kbc_data
    mov al, 0xAE                    # keyboard on
    call kbc_command

    mov al, 0xFF                    # reset it: FAh, then AAh when it is well
    call keyboard_ask
    jc .absent
    call kbc_wait_output
    jc .absent
    in al, KBD_DATA
    mov al, 0xF4                    # scan
    call keyboard_ask
.absent:
    mov al, 0x60                    # and now with IRQ 1
    call kbc_command
    mov al, 0x65
    call kbc_data
    sti
    ret

# Send the command AL to the controller, or the byte AL to its data port. Preserve all but flags.
kbc_command:
    call kbc_wait_input
    out KBD_STATUS, al
    ret
kbc_data:
    call kbc_wait_input
    out KBD_DATA, al
    ret

# Send AL to the keyboard and take its answer: AL = answer, CF set when there was none. Interrupts must be off.
keyboard_ask:
    call kbc_data
    call kbc_wait_output
    jc .silent
    in al, KBD_DATA
    clc
.silent:
    ret

# Wait until the controller takes a byte, for at most 100 ms. Preserves all but flags.
kbc_wait_input:
    push ax
    push cx
    mov cx, 2000
.poll:
    in al, KBD_STATUS
    test al, KBD_IN_FULL
    jz .done
    push cx
    mov cx, 50
    call delay_us
    pop cx
    loop .poll
.done:
    pop cx
    pop ax
    ret

# Wait until the controller has a byte for us, for at most 500 ms; CF set when it has none. Preserves all but flags.
kbc_wait_output:
    push ax
    push cx
    mov cx, 10000
.poll:
    in al, KBD_STATUS
    test al, KBD_OUT_FULL           # clears CF
    jnz .done
    push cx
    mov cx, 50
    call delay_us
    pop cx
    loop .poll
    stc
.done:
    pop cx
    pop ax
    ret
