# Time: INT 08h (IRQ 0), INT 1Ah, INT 70h (IRQ 8), and waiting.
#
# Sources: IBM PC/AT Technical Reference, "System BIOS Listing" (interfaces); Motorola MC146818 and Intel 8254 data
# sheets.

.set TICKS_A_DAY, 0x1800B0
.set PIT_HERTZ, 1193182
.set PERIOD_US, 976             # of the clock's 1024 Hz interrupt

# INT 08h, IRQ 0: count the time of day, stop idle floppy motors, call INT 1Ch.
int08_handler:
    push ax
    push dx
    push ds
    push BDA_SEG
    pop ds

    inc dword ptr [BDA_TICKS]
    cmp dword ptr [BDA_TICKS], TICKS_A_DAY
    jb .same_day
    mov dword ptr [BDA_TICKS], 0
    inc byte ptr [BDA_MIDNIGHT]
.same_day:

    cmp byte ptr [BDA_FD_MOTOR_COUNT], 0
    je .motors_done
    dec byte ptr [BDA_FD_MOTOR_COUNT]
    jnz .motors_done
    and byte ptr [BDA_FD_MOTOR], 0xF0
    mov dx, 0x3F2                   # motors off, controller enabled, interrupts and DMA on
    mov al, 0x0C
    out dx, al
.motors_done:

    int 0x1C                        # the user's tick
    cli
    call eoi_master
    pop ds
    pop dx
    pop ax
    iret

# Set the tick count from the clock. Changes EAX, EBX, ECX, EDX. DS = 40h. Interrupts are off.
init_ticks:
    mov ah, 0x02
    int 0x1A
    jc .no_clock
    mov al, ch                      # hours
    call from_bcd
    imul ax, ax, 60
    xchg ax, cx                     # AL = minutes, CX = 60 hours
    call from_bcd
    add ax, cx
    movzx eax, ax
    imul ebx, eax, 60
    mov al, dh                      # seconds
    call from_bcd
    movzx eax, ax
    add eax, ebx
    mov ecx, PIT_HERTZ              # ticks = seconds * PIT_HERTZ / 65536
    mul ecx
    shrd eax, edx, 16
    mov dword ptr [BDA_TICKS], eax
.no_clock:
    ret

# AX = the number that AL says in BCD. Preserves the rest.
from_bcd:
    mov ah, al
    and al, 0x0F
    shr ah, 4
    aad
    ret

# INT 1Ah: time of day.
#   AH = 00h  get ticks: CX:DX = ticks since midnight, AL = midnights since last asked
#   AH = 01h  set ticks: CX:DX
#   AH = 02h  get time: CH hours, CL minutes, DH seconds (BCD), DL = 1 with daylight saving; CF set: clock not running
#   AH = 03h  set time: the same registers
#   AH = 04h  get date: CH century, CL year, DH month, DL day (BCD); CF set: clock not running
#   AH = 05h  set date: the same registers
#   AH = 06h  set alarm: CH hours, CL minutes, DH seconds; INT 4Ah when it comes; CF set: one is set already
#   AH = 07h  reset alarm
#   AH = B1h  PCI BIOS (pci.s)
# Everything else: CF set, AH = 86h. The services return CF clear and preserve what they do not return.
int1a_entry:
    cld
    cmp ah, 0xB1
    je int1a_pci
    cmp ah, 7
    ja iret_unsupported
    DISPATCH_AH int1a_table
int1a_table:
    .word ticks_get, ticks_set, time_get, time_set, date_get, date_set, alarm_set, alarm_reset

ticks_get:
    push ds
    push BDA_SEG
    pop ds
    mov dx, word ptr [BDA_TICKS]
    mov cx, word ptr [BDA_TICKS + 2]
    mov al, 0
    xchg al, byte ptr [BDA_MIDNIGHT]
    pop ds
    jmp iret_success

ticks_set:
    push ds
    push BDA_SEG
    pop ds
    mov word ptr [BDA_TICKS], dx
    mov word ptr [BDA_TICKS + 2], cx
    mov byte ptr [BDA_MIDNIGHT], 0
    pop ds
    jmp iret_success

time_get:
    call rtc_wait
    jc iret_cf
    push ax
    mov al, CMOS_SECONDS
    call cmos_read
    mov dh, al
    mov al, CMOS_MINUTES
    call cmos_read
    mov cl, al
    mov al, CMOS_HOURS
    call cmos_read
    mov ch, al
    mov al, CMOS_B
    call cmos_read
    and al, 0x01                    # daylight saving
    mov dl, al
    pop ax
    jmp iret_success

time_set:
    push ax
    call rtc_stop
    mov al, CMOS_SECONDS
    mov ah, dh
    call cmos_write
    mov al, CMOS_MINUTES
    mov ah, cl
    call cmos_write
    mov al, CMOS_HOURS
    mov ah, ch
    call cmos_write
    mov al, CMOS_B                  # daylight saving as asked, and on
    call cmos_read
    and al, 0x7E
    and dl, 0x01
    or al, dl
    mov ah, al
    mov al, CMOS_B
    call cmos_write
    pop ax
    jmp iret_success

date_get:
    call rtc_wait
    jc iret_cf
    push ax
    mov al, CMOS_DAY
    call cmos_read
    mov dl, al
    mov al, CMOS_MONTH
    call cmos_read
    mov dh, al
    mov al, CMOS_YEAR
    call cmos_read
    mov cl, al
    mov al, CMOS_CENTURY
    call cmos_read
    mov ch, al
    pop ax
    jmp iret_success

date_set:
    push ax
    call rtc_stop
    mov al, CMOS_DAY
    mov ah, dl
    call cmos_write
    mov al, CMOS_MONTH
    mov ah, dh
    call cmos_write
    mov al, CMOS_YEAR
    mov ah, cl
    call cmos_write
    mov al, CMOS_CENTURY
    mov ah, ch
    call cmos_write
    mov al, CMOS_B
    call cmos_read
    and al, 0x7F                    # on
    mov ah, al
    mov al, CMOS_B
    call cmos_write
    pop ax
    jmp iret_success

alarm_set:
    push ax
    mov al, CMOS_B
    call cmos_read
    test al, 0x20                   # alarm interrupt enabled?
    pop ax
    jnz iret_cf
    push ax
    mov al, CMOS_ALARM_SECONDS
    mov ah, dh
    call cmos_write
    mov al, CMOS_ALARM_MINUTES
    mov ah, cl
    call cmos_write
    mov al, CMOS_ALARM_HOURS
    mov ah, ch
    call cmos_write
    mov ah, 0x20
    call rtc_enable
    pop ax
    jmp iret_success

alarm_reset:
    push ax
    mov ah, 0x20
    call rtc_disable
    pop ax
    jmp iret_success

# Wait for the end of an update of the clock; CF set when it never ends. An update takes 2 ms.
rtc_wait:
    push ax
    push cx
    mov cx, 100
.poll:
    mov al, CMOS_A
    call cmos_read
    test al, 0x80                   # clears CF
    jz .done
    push cx
    mov cx, 100
    call delay_us
    pop cx
    loop .poll
    stc
.done:
    pop cx
    pop ax
    ret

# Keep the clock from updating while it is set. Changes AX.
rtc_stop:
    mov al, CMOS_B
    call cmos_read
    or al, 0x80
    mov ah, al
    mov al, CMOS_B
    jmp cmos_write

# Enable the clock's interrupts whose bits in register B are set in AH, and IRQ 8; disable them. Change AX.
rtc_enable:
    mov al, CMOS_B
    call cmos_read
    or ah, al
    mov al, CMOS_B
    call cmos_write
    in al, PIC2 + 1
    and al, 0xFE
    out PIC2 + 1, al
    in al, PIC1 + 1                 # the cascade
    and al, 0xFB
    out PIC1 + 1, al
    ret
rtc_disable:
    not ah
    mov al, CMOS_B
    call cmos_read
    and ah, al
    mov al, CMOS_B
    jmp cmos_write

# INT 70h, IRQ 8: the alarm calls INT 4Ah; a period brings the wait of INT 15h, AH = 83h or 86h, nearer to its end.
int70_handler:
    push ax
    push ds
    push BDA_SEG
    pop ds
    mov al, CMOS_B
    call cmos_read
    mov ah, al
    mov al, CMOS_C                  # which of those that are enabled
    call cmos_read
    and ah, al

    test ah, 0x40                   # period
    jz .no_period
    call wait_period
.no_period:
    test ah, 0x20                   # alarm
    jz .no_alarm
    push ax
    sti
    int 0x4A
    cli
    pop ax
.no_alarm:
    call eoi_slave
    pop ds
    pop ax
    iret

# One period of a wait has gone; at its end set bit 7 of the flag that it was given. DS = 40h. Preserves all registers.
wait_period:
    test byte ptr [BDA_WAIT_ACTIVE], 0x01
    jz .done
    sub dword ptr [BDA_WAIT_COUNT], PERIOD_US
    ja .done
    push ax
    push bx
    push es
    mov byte ptr [BDA_WAIT_ACTIVE], 0
    les bx, dword ptr [BDA_WAIT_PTR]
    or byte ptr es:[bx], 0x80
    mov ah, 0x40
    call rtc_disable
    pop es
    pop bx
    pop ax
.done:
    ret

# INT 15h, AH = 83h: AL = 00h sets bit 7 of the byte at ES:BX after CX:DX microseconds, AL = 01h gives that up.
# CF set: a wait runs already.
event_wait:
    push ds
    push BDA_SEG
    pop ds
    cmp al, 1
    je .cancel
    test byte ptr [BDA_WAIT_ACTIVE], 0x01
    jnz .busy
    call wait_start
    pop ds
    jmp iret_success
.cancel:
    push ax
    mov ah, 0x40
    call rtc_disable
    pop ax
    mov byte ptr [BDA_WAIT_ACTIVE], 0
    pop ds
    jmp iret_success
.busy:
    mov ah, 0x83
    pop ds
    jmp iret_cf

# INT 15h, AH = 86h: return after CX:DX microseconds, rounded up to 976. CF set, AH = 83h: another wait runs.
wait_service:
    push ds
    push BDA_SEG
    pop ds
    test byte ptr [BDA_WAIT_ACTIVE], 0x01
    jnz event_wait.busy
    push bx
    push es
    push ds
    pop es
    mov bx, BDA_WAIT_ACTIVE         # the flag to set: our own
    call wait_start
.sleep:
    sti
    hlt
    test byte ptr [BDA_WAIT_ACTIVE], 0x80
    jz .sleep
    mov byte ptr [BDA_WAIT_ACTIVE], 0
    pop es
    pop bx
    pop ds
    jmp iret_success

# Begin a wait of CX:DX microseconds for the flag at ES:BX. DS = 40h. Preserves all registers.
wait_start:
    push ax
    mov word ptr [BDA_WAIT_PTR], bx
    mov word ptr [BDA_WAIT_PTR + 2], es
    mov word ptr [BDA_WAIT_COUNT], dx
    mov word ptr [BDA_WAIT_COUNT + 2], cx
    add dword ptr [BDA_WAIT_COUNT], PERIOD_US   # the first period has begun already
    mov byte ptr [BDA_WAIT_ACTIVE], 0x01
    mov al, CMOS_C                  # forget periods that have gone
    call cmos_read
    mov ah, 0x40
    call rtc_enable
    pop ax
    ret

# Wait CX microseconds: count what channel 0 of the timer counts. Preserves all registers.
delay_us:
    push eax
    push ebx
    push ecx
    push edx
    movzx ecx, cx
    imul eax, ecx, 1221             # microseconds to counts: * 1.193 = * 1221 / 1024 and a little
    shr eax, 10
    mov ecx, eax                    # counts to go
    call pit_count
    mov bx, ax
.poll:
    call pit_count
    sub bx, ax                      # it counts down
    movzx edx, bx
    mov bx, ax
    sub ecx, edx
    jg .poll
    pop edx
    pop ecx
    pop ebx
    pop eax
    ret

# AX = the count of timer channel 0, latched.
pit_count:
    pushf
    cli                             # nobody may read half of it
    mov al, 0x00
    out PIT_CONTROL, al
    in al, PIT_CH0
    mov ah, al
    in al, PIT_CH0
    xchg al, ah
    popf
    ret
