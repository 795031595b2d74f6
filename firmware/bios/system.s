# INT 15h: system services.
#
#   AX = 2400h, 2401h   A20 off, on                    AX = 2402h  AL = A20 state     AX = 2403h  BX = ways to switch
#   AH = 4Fh  keyboard intercept: default, CF set       AH = 80h-82h  device open, close, program end: nothing to do
#   AH = 83h  event wait (timer.s)                      AH = 85h  SysRq: nothing to do
#   AH = 86h  wait (timer.s)                            AH = 87h  block move (block_move.s)
#   AH = 88h  memory above 1 MiB (memory.s)             AH = 90h, 91h  device busy, device done: nothing to do
#   AH = C0h  ES:BX = configuration table               AH = C1h  ES = EBDA
#   AX = E801h, E820h  memory (memory.s)                AH = 53h  power management (apm.s)
# The rest, CD-ROM, PS/2 mouse and EISA among it: CF set, AH = 86h. Done: CF clear, AH = 0 where AX is not returned.
#
# Source: IBM Personal System/2 and Personal Computer BIOS Interface Technical Reference, "INT 15h".

.set A20_BY_PORT_92, 0x0002

int15_entry:
    cld
    cmp ah, 0x24
    je a20
    cmp ah, 0x4F
    je iret_cf
    cmp ah, 0x53
    je apm
    cmp ah, 0x88
    je memory_88
    cmp ah, 0xE8
    je memory_e8
    cmp ah, 0xC0
    je configuration
    cmp ah, 0xC1
    je ebda
    cmp ah, 0x83
    je event_wait
    cmp ah, 0x85
    je iret_success
    cmp ah, 0x86
    je wait_service
    cmp ah, 0x87
    je block_move
    cmp ah, 0x90
    je iret_success
    cmp ah, 0x91
    je iret_success
    cmp ah, 0x80
    jb iret_unsupported
    cmp ah, 0x82
    jbe iret_success
    jmp iret_unsupported

memory_e8:
    cmp al, 0x20
    je memory_e820
    cmp al, 0x01
    je memory_e801
    jmp iret_unsupported

# AH = 24h: the A20 gate, by port 92h.
a20:
    cmp al, 0x01
    jbe .switch
    cmp al, 0x02
    je .state
    cmp al, 0x03
    jne iret_unsupported
    mov bx, A20_BY_PORT_92
    jmp iret_success
.state:
    in al, PORT_92
    shr al, 1
    and al, 0x01
    jmp iret_success
.switch:
    push ax
    shl al, 1
    mov ah, al
    in al, PORT_92
    and al, 0xFC                    # bit 0 would reset the machine
    or al, ah
    out PORT_92, al
    pop ax
    jmp iret_success

# AH = C0h.
configuration:
    push cs
    pop es
    mov bx, configuration_table
    jmp iret_success

# AH = C1h.
ebda:
    push ds
    push BDA_SEG
    pop ds
    mov es, word ptr [BDA_EBDA]
    pop ds
    jmp iret_success
