# The option ROM that boots a kernel given on the command line.
#
# The system BIOS far-calls offset 3 when it scans for ROMs. We take INT 19h, so that the BIOS comes to us when it
# would read a boot sector, with all of POST done; then a write to the boot door makes the VMM load the kernel and
# set the processor as the boot protocol asks, so what follows the OUT is never reached. Changes nothing else.
#
# Source: Phoenix/Compaq/Intel "BIOS Boot Specification" 1.01, "Legacy IPL devices" (an option ROM that hooks INT 19h).

.set BOOT_DOOR, 0x0F2A          # any byte written here
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
    mov dx, BOOT_DOOR
    out dx, al
no_door:                        # on a machine without that door there is nothing left to do
    hlt
    jmp no_door
