# Option ROMs.

# Find option ROMs and call each one's initialisation: AX = first segment, DX = segment after the last.
# A ROM starts 55h AAh, then its length in 512-byte units, and all its bytes sum to zero; its entry at offset 3 is
# far-called with interrupts on and may change every register. Changes nothing but flags.
# Source: IBM PC/AT Technical Reference, "ROM Scan"; Phoenix/Compaq/Intel "Plug and Play BIOS Specification" 1.0A, 3.2.
scan_roms:
    pushad
    push ds
    push es
    mov bx, ax
.next:
    cmp bx, dx
    jae .done
    mov ds, bx
    mov ax, 0x80                    # 2 KiB, in paragraphs
    cmp word ptr [0], 0xAA55
    jne .advance
    call rom_is_sound
    jne .advance
    call rom_call
    movzx ax, byte ptr [2]          # its length, rounded up to 2 KiB
    add ax, 3
    and ax, 0xFFFC
    shl ax, 5
.advance:
    add bx, ax
    jmp .next
.done:
    pop es
    pop ds
    popad
    ret

# Sum the ROM at DS:0: ZF set when the sum is zero and the length is not. Changes AX, CX, SI.
rom_is_sound:
    push bx
    movzx bx, byte ptr [2]          # 512-byte units
    xor si, si
    mov ah, 0
    test bx, bx
    jz .bad
.unit:
    mov cx, 512
.sum:
    lodsb
    add ah, al
    loop .sum
    dec bx
    jnz .unit
    test ah, ah
    pop bx
    ret
.bad:
    or ah, 1                        # ZF clear
    pop bx
    ret

# Call the ROM at DS:0. Preserves BX, DX, DS; the rest may change.
rom_call:
    pusha
    push ds
    push cs                         # the far return address
    push .back
    push ds                         # the far entry
    push 3
    mov ax, ROM_SEG                 # ES:DI would be a Plug and Play installation structure: none
    mov es, ax
    xor di, di
    xor ax, ax
    sti
    retf
.back:
    sti                             # whatever it did
    cld
    pop ds
    popa
    ret
