# What memory there is: INT 11h, INT 12h, and the memory calls of INT 15h.
#
# Sources: IBM PC/AT Technical Reference; ACPI Specification, "System Address Map Interfaces" (E820h, E801h, 88h).

.set SMAP, 0x534D4150               # 'SMAP'
.set E820_USABLE, 1
.set E820_RESERVED, 2
.set E820_SIZE, 20
.set MEMORY_88_MOST, 0xFC00         # 63 MiB: programs of that time read more as a sign or wrap

# INT 11h: AX = equipment word.
int11_entry:
    push ds
    push BDA_SEG
    pop ds
    mov ax, word ptr [BDA_EQUIPMENT]
    pop ds
    iret

# INT 12h: AX = KiB of base memory, contiguous from 0.
int12_entry:
    push ds
    push BDA_SEG
    pop ds
    mov ax, word ptr [BDA_MEMORY]
    pop ds
    iret

# EAX = KiB above 1 MiB. Preserves the rest.
extended_kb:
    push ebx
    mov al, CMOS_HIGH_LOW + 1       # 64 KiB units above 16 MiB, if there are any
    call cmos_read
    mov bh, al
    mov al, CMOS_HIGH_LOW
    call cmos_read
    mov bl, al
    test bx, bx
    jz .small
    movzx eax, bx
    shl eax, 6
    add eax, 15 * 1024
    pop ebx
    ret
.small:
    mov al, CMOS_EXT_LOW + 1
    call cmos_read
    mov bh, al
    mov al, CMOS_EXT_LOW
    call cmos_read
    mov bl, al
    movzx eax, bx
    pop ebx
    ret

# INT 15h, AH = 88h: AX = KiB above 1 MiB, at most 63 MiB.
memory_88:
    push ebx
    mov ebx, eax                    # the upper half of EAX stays
    call extended_kb
    cmp eax, MEMORY_88_MOST
    jbe .fits
    mov ax, MEMORY_88_MOST
.fits:
    mov bx, ax
    mov eax, ebx
    pop ebx
    jmp iret_nc

# INT 15h, AX = E801h: AX = CX = KiB between 1 and 16 MiB, BX = DX = 64 KiB units above 16 MiB.
memory_e801:
    push eax
    call extended_kb
    mov cx, 15 * 1024
    xor dx, dx
    cmp eax, 15 * 1024
    ja .more
    mov cx, ax
    jmp .known
.more:
    sub eax, 15 * 1024
    shr eax, 6
    mov dx, ax
.known:
    pop eax
    mov ax, cx
    mov bx, dx
    jmp iret_nc

# INT 15h, AX = E820h: the memory map, an entry a call.
# In: EBX = 0 or what the last call returned, ECX = room at ES:DI, at least 20, EDX = 'SMAP'.
# Out: EAX = 'SMAP', ECX = 20, ES:DI = base, length (64 bits each), type; EBX = 0 after the last. CF set: AH = 86h.
memory_e820:
    cmp edx, SMAP
    jne iret_unsupported
    cmp ecx, E820_SIZE
    jb iret_unsupported
    cmp ebx, MAP_ENTRIES
    jae iret_unsupported

    push si
.entry:
    imul si, bx, 12
    add si, memory_map
    mov eax, dword ptr cs:[si]
    mov dword ptr es:[di], eax      # base
    mov dword ptr es:[di+4], 0
    mov dword ptr es:[di+12], 0
    mov eax, dword ptr cs:[si+8]
    mov dword ptr es:[di+16], eax   # type
    mov eax, dword ptr cs:[si+4]
    test eax, eax
    jnz .fixed
    inc bx
    call extended_kb                # the memory above 1 MiB
    shl eax, 10
    jz .entry                       # there is none: the next one in its place
    dec bx
.fixed:
    mov dword ptr es:[di+8], eax    # length
    pop si

    mov eax, SMAP
    mov ecx, E820_SIZE
    inc bx
    cmp bx, MAP_ENTRIES
    jb iret_nc
    xor ebx, ebx
    jmp iret_nc

memory_map:                         # base, length, type; length 0 stands for all there is above 1 MiB
    .long 0x00000000, 0x0009FC00, E820_USABLE
    .long 0x0009FC00, 0x00000400, E820_RESERVED
    .long 0x000F0000, 0x00010000, E820_RESERVED
    .long 0x00100000, 0x00000000, E820_USABLE
    .long 0xFFFF0000, 0x00010000, E820_RESERVED
memory_map_end:
.set MAP_ENTRIES, (memory_map_end - memory_map) / 12
