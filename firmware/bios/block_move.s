# INT 15h, AH = 87h: move memory, above 1 MiB too.
#
# In: CX = words (at most 8000h), ES:SI = six descriptors: null, this table, source, destination, BIOS code, stack;
# the caller fills the source's and the destination's. Out: AH = 0, CF clear; AH = 3, CF set: not from V86 mode.
# Interrupts are off meanwhile, the A20 gate is on and then as it was. A limit too small for CX ends in a reset.
#
# Source: IBM PS/2 BIOS Interface Technical Reference, "INT 15h, (AH) = 87h"; Intel SDM Vol. 3A, "Mode Switching".

.set MOVE_TABLE, 0x08               # selectors in the caller's table
.set MOVE_SOURCE, 0x10
.set MOVE_DESTINATION, 0x18
.set MOVE_CODE, 0x20
.set MOVE_STACK, 0x28
.set CODE_ACCESS, 0x9B              # present, DPL 0, readable code, accessed
.set DATA_ACCESS, 0x93              # present, DPL 0, writable data, accessed

block_move:
    push ax
    smsw ax
    test al, 0x01                   # protected mode already: we run in V86 mode and cannot switch
    pop ax
    jz .real
    mov ah, 0x03
    jmp iret_cf

.real:
    cli
    pushad
    push ds
    push es

    xor eax, eax                    # the descriptors that are ours to fill: the table,
    mov ax, es
    shl eax, 4
    movzx ebx, si
    add eax, ebx
    mov di, MOVE_TABLE
    mov dl, DATA_ACCESS
    mov bx, 6 * 8 - 1
    call fill_descriptor
    mov eax, ROM_SEG << 4           # this code,
    mov di, MOVE_CODE
    mov dl, CODE_ACCESS
    mov bx, 0xFFFF
    call fill_descriptor
    xor eax, eax                    # and the caller's stack
    mov ax, ss
    shl eax, 4
    mov di, MOVE_STACK
    mov dl, DATA_ACCESS
    mov bx, 0xFFFF
    call fill_descriptor

    in al, PORT_92                  # A20 on; remember what it was
    push ax
    or al, 0x02
    and al, 0xFE
    out PORT_92, al
    push ss
    sub sp, 6                       # and where the caller's GDT is
    mov bp, sp
    data32 sgdt [bp]

    lgdt es:[si + MOVE_TABLE]       # limit and 24 bits of base, as they stand in the table's own descriptor
    mov eax, cr0
    or al, 0x01
    mov cr0, eax
    ljmp MOVE_CODE:block_move_protected

# Protected mode, 16-bit, interrupts off. CX = words; the stack is where it was.
block_move_protected:
    mov ax, MOVE_STACK
    mov ss, ax
    mov ax, MOVE_SOURCE
    mov ds, ax
    mov ax, MOVE_DESTINATION
    mov es, ax
    xor si, si
    xor di, di
    rep movsw
    mov ax, MOVE_STACK              # a limit of 64 KiB for real mode
    mov ds, ax
    mov es, ax
    mov eax, cr0
    and al, 0xFE
    mov cr0, eax
    ljmp ROM_SEG:block_move_back

# Real mode again; SS still has the base that belongs to its value on the stack.
block_move_back:
    data32 lgdt [bp]
    add sp, 6
    pop ss
    pop ax
    and al, 0xFE
    out PORT_92, al
    pop es
    pop ds
    popad
    jmp iret_success

# Write the descriptor at ES:SI + DI: base EAX, access DL, limit BX. Changes BX, DI.
fill_descriptor:
    add di, si
    mov word ptr es:[di], bx
    mov dword ptr es:[di+2], eax    # base 23:0, and 31:24 where the access goes
    mov bl, dl
    mov bh, 0
    mov word ptr es:[di+5], bx
    rol eax, 8
    mov byte ptr es:[di+7], al      # base 31:24
    ret
