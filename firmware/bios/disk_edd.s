# INT 13h extensions 41h-4Eh for ATA disks; disk_cd.s uses the packet and the drive parameters as well.
#
# Entered as the functions of disk_hard.s are. The disk address packet at the caller's DS:SI:
#   00 size, 10h or 18h    02 count, on return the sectors done    04 buffer, offset and segment
#   08 first sector, 64 bits    10 with size 18h and buffer FFFF:FFFF: flat address of the buffer, 64 bits
# A flat address has to lie below 1 MiB: the transfer runs in the caller's mode, real or virtual-8086.
#
# Source: Phoenix "Enhanced Disk Drive Specification" 3.0, "Device Address Packet", "Get Device Parameters".

.include "disk.inc"

.set EDD_V1, 26                     # sizes of the parameter buffer
.set EDD_V2, 30
.set EDD_V3, 66
.set EDD_DMA_TRANSPARENT, 0x01      # information flags
.set EDD_GEOMETRY, 0x02
.set EDD_REMOVABLE, 0x04
.set EDD_CHANGE_LINE, 0x10
.set EDD_LOCKABLE, 0x20

# AH = 41h, BX = 55AAh: BX = AA55h, AH = 30h (version 3.0), CX = what is there: 1 access, 2 locking, 4 parameters.
edd_check:
    mov cx, 0x05
edd_present:
    cmp word ptr [bp+F_BX], 0x55AA
    jne int13_bad
    mov word ptr [bp+F_BX], 0xAA55
    mov word ptr [bp+F_CX], cx
    mov byte ptr [bp+F_AH], 0x30
    xor ah, ah
    jmp int13_status

# AH = 42h, 43h, 44h: read, write, verify what the packet says. 43h: AL = 0 or 1; verifying writes (2) is not offered.
edd_read:
    mov word ptr [bp+R_COMMAND], ATA_READ48 << 8 | ATA_READ
    jmp edd_transfer
edd_write:
    cmp byte ptr [bp+F_AL], 1
    ja int13_bad
    mov word ptr [bp+R_COMMAND], ATA_WRITE48 << 8 | ATA_WRITE
    jmp edd_transfer
edd_verify:
    mov word ptr [bp+R_COMMAND], ATA_VERIFY48 << 8 | ATA_VERIFY
edd_transfer:
    call edd_packet
    jc edd_end
    call edd_range
    jc edd_end
    call ata_transfer
    call ata_release
edd_end:                            # CF, AH = outcome; the packet tells how far it went
    mov es, word ptr [bp+F_DS]
    mov bx, word ptr [bp+F_SI]
    mov cx, word ptr [bp+R_DONE]
    mov word ptr es:[bx+2], cx
    jc int13_return
    jmp int13_ok

# AH = 47h: seek. The drive seeks by itself; only the address is looked at.
edd_seek:
    call edd_packet
    jc int13_return
    call edd_range
    jc int13_return
    jmp int13_ok

# R_LBA, R_COUNT and ES:DI from the packet. CF set, AH = status: not a packet. Changes EAX, BX.
edd_packet:
    mov es, word ptr [bp+F_DS]
    mov bx, word ptr [bp+F_SI]
    cmp byte ptr es:[bx], 0x10
    jb .bad
    movzx eax, word ptr es:[bx+2]
    mov dword ptr [bp+R_COUNT], eax
    mov eax, dword ptr es:[bx+8]
    mov dword ptr [bp+R_LBA], eax
    mov eax, dword ptr es:[bx+12]
    mov dword ptr [bp+R_LBA+4], eax
    cmp dword ptr es:[bx+4], -1
    je .flat
    les di, dword ptr es:[bx+4]
    clc
    ret
.flat:
    cmp byte ptr es:[bx], 0x18
    jb .bad
    mov eax, dword ptr es:[bx+16]
    cmp dword ptr es:[bx+20], 0
    jne .bad
    cmp eax, 0x100000
    jae .bad
    mov di, ax
    and di, 0x0F
    shr eax, 4
    mov es, ax
    clc
    ret
.bad:
    mov ah, E_PARAMETER
    stc
    ret

# CF set, AH = status, unless all R_COUNT sectors from R_LBA on exist. Changes EAX, EBX, ECX, EDX.
edd_range:
    mov eax, dword ptr [bp+R_LBA]   # the end of the request
    mov edx, dword ptr [bp+R_LBA+4]
    add eax, dword ptr [bp+R_COUNT]
    adc edx, 0
    jc .outside
    mov ebx, dword ptr fs:[si+D_SECTORS]
    mov ecx, dword ptr fs:[si+D_SECTORS+4]
    sub ebx, eax
    sbb ecx, edx
    jnc .out
.outside:
    mov ah, E_NOT_FOUND
    stc
.out:
    ret

# AH = 45h, 46h, 49h: lock, eject, medium changed: not for a fixed disk.
edd_lock:
    mov ah, E_NOT_REMOVABLE
    jmp int13_return

# AH = 48h: fill the buffer at DS:SI, whose first word says how long it is.
edd_parameters:
    mov ax, EDD_DMA_TRANSPARENT | EDD_GEOMETRY
    mov cx, 512
edd_fill:                           # AX = information flags, CX = bytes in a sector
    mov es, word ptr [bp+F_DS]
    mov di, word ptr [bp+F_SI]
    mov bx, word ptr es:[di]
    cmp bx, EDD_V1
    jb int13_bad
    push bx
    mov word ptr es:[di+2], ax
    movzx eax, word ptr fs:[si+D_PCYLS]
    mov dword ptr es:[di+4], eax
    movzx eax, word ptr fs:[si+D_PHEADS]
    mov dword ptr es:[di+8], eax
    movzx eax, word ptr fs:[si+D_PSPT]
    mov dword ptr es:[di+12], eax
    mov eax, dword ptr fs:[si+D_SECTORS]
    mov dword ptr es:[di+16], eax
    mov eax, dword ptr fs:[si+D_SECTORS+4]
    mov dword ptr es:[di+20], eax
    mov word ptr es:[di+24], cx
    pop bx
    mov word ptr es:[di], EDD_V1
    cmp bx, EDD_V2
    jb int13_ok

    mov word ptr es:[di], EDD_V2    # where the drive's ports are
    call edd_make_dpte
    mov word ptr es:[di+26], EB_DPTE
    mov word ptr es:[di+28], fs
    cmp bx, EDD_V3
    jb int13_ok

    mov word ptr es:[di], EDD_V3    # device path
    mov dword ptr es:[di+30], 0x24BEDD # key, length 36
    mov word ptr es:[di+34], 0
    mov dword ptr es:[di+36], 0x00415349 # "ISA"
    mov dword ptr es:[di+40], 0x20415441 # "ATA     "
    mov dword ptr es:[di+44], 0x20202020
    cmp byte ptr fs:[si+D_TYPE], D_ATA
    je .path
    mov word ptr es:[di+43], 0x4950 # "ATAPI   "
.path:
    movzx eax, word ptr fs:[si+D_BASE]
    mov dword ptr es:[di+48], eax   # interface path: port base
    mov dword ptr es:[di+52], 0
    movzx eax, byte ptr fs:[si+D_SELECT]
    shr al, 4
    and al, 1
    mov dword ptr es:[di+56], eax   # device path: slave?
    mov dword ptr es:[di+60], 0
    mov byte ptr es:[di+64], 0
    xor al, al                      # bytes 30-65 sum to zero
    mov cx, 35
    lea bx, [di+30]
.sum:
    sub al, byte ptr es:[bx]
    inc bx
    loop .sum
    mov byte ptr es:[bx], al
    jmp int13_ok

# Fill EB_DPTE for the drive at SI. Changes AX.
edd_make_dpte:
    push bx
    push cx
    mov ax, word ptr fs:[si+D_BASE]
    mov word ptr fs:[EB_DPTE], ax
    mov ax, word ptr fs:[si+D_CONTROL]
    mov word ptr fs:[EB_DPTE+2], ax
    mov al, byte ptr fs:[si+D_SELECT]
    mov byte ptr fs:[EB_DPTE+4], al
    mov byte ptr fs:[EB_DPTE+5], 0
    mov al, byte ptr fs:[si+D_IRQ]
    mov ah, 1                       # sectors of a block
    mov word ptr fs:[EB_DPTE+6], ax
    mov word ptr fs:[EB_DPTE+8], 0  # no DMA, PIO mode 0
    mov ax, 0x60                    # removable, ATAPI
    cmp byte ptr fs:[si+D_TYPE], D_ATA
    jne .options
    mov ax, 0x08                    # CHS translation
    test byte ptr fs:[si+D_FLAGS], DF_LBA
    jz .options
    or al, 0x10                     # LBA
    mov cx, word ptr fs:[si+D_CYLS]
    cmp cx, word ptr fs:[si+D_PCYLS]
    jne .options
    mov al, 0x10
.options:
    mov word ptr fs:[EB_DPTE+10], ax
    mov word ptr fs:[EB_DPTE+12], 0
    mov byte ptr fs:[EB_DPTE+14], 0x11 # revision 1.1
    mov bx, EB_DPTE
    call checksum_15
    pop cx
    pop bx
    ret

# Byte 15 of the table at FS:BX makes its 16 bytes sum to zero. Changes AL, BX, CX.
checksum_15:
    xor al, al
    mov cx, 15
.sum:
    sub al, byte ptr fs:[bx]
    inc bx
    loop .sum
    mov byte ptr fs:[bx], al
    ret

# AH = 4Eh: hardware configuration. There is no DMA and no prefetch to switch off, and PIO is at its only speed.
# AL = 01h prefetch off, 03h PIO mode 0, 04h default PIO, 06h DMA off: done. AL = 00h, 02h, 05h: not offered.
edd_configure:
    mov al, byte ptr [bp+F_AL]
    cmp al, 1
    je int13_ok
    cmp al, 3
    je int13_ok
    cmp al, 4
    je int13_ok
    cmp al, 6
    je int13_ok
    jmp int13_bad
