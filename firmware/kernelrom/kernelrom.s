# The option ROM that boots a kernel given on the command line.
#
# The system BIOS far-calls offset 3 when it scans for ROMs. We take INT 19h, so that the BIOS comes to us when it
# would read a boot sector, with all of POST done. Then we collect the memory map where the boot sector would have
# been, and a write to the boot door makes the VMM load the kernel and set the processor as the boot protocol asks,
# so what follows the OUT is never reached. Changes nothing else.
#
# Source: Phoenix/Compaq/Intel "BIOS Boot Specification" 1.01, "Legacy IPL devices" (an option ROM that hooks INT 19h);
# ACPI Specification 6.4, "INT 15H, E820H - Query System Address Map".

.set BOOT_DOOR, 0x0F2A          # any byte written here, with CX entries of the memory map at ES:DI
.set MEMORY_MAP, 0x7C00         # in segment 0
.set ENTRY_SIZE, 20
.set MAX_ENTRIES, 128
.set SMAP, 0x534D4150
.set VECTOR_19, 0x19 * 4

header:
    .byte 0x55, 0xAA            # option ROM
    .byte 0                     # its length, from the builder
    jmp init                    # offset 3

# Take INT 19h. Preserves every register.
init:
    push ax
    push ds
    xor ax, ax
    mov ds, ax
    mov word ptr [VECTOR_19], boot
    mov word ptr [VECTOR_19 + 2], cs
    pop ds
    pop ax
    retf

# INT 19h.
boot:
    xor ax, ax
    mov es, ax
    mov di, MEMORY_MAP
    xor bp, bp                  # entries so far
    xor ebx, ebx                # continuation: from the start
next_entry:
    mov eax, 0xE820
    mov edx, SMAP
    mov ecx, ENTRY_SIZE
    int 0x15
    jc map_done                 # past the end, or a BIOS without this service
    cmp eax, SMAP
    jne map_done
    inc bp
    add di, ENTRY_SIZE
    test ebx, ebx
    jz map_done
    cmp bp, MAX_ENTRIES
    jb next_entry
map_done:
    mov cx, bp
    mov di, MEMORY_MAP
    mov dx, BOOT_DOOR
    out dx, al
no_door:                        # on a machine without that door there is nothing left to do
    hlt
    jmp no_door
