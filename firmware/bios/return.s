# How services end: jumped to with the caller's interrupt frame on top of the stack.

# IRET, CF set for the caller; iret_unsupported says AH = 86h, "no such function", as well.
iret_unsupported:
    mov ah, 0x86
iret_cf:
    IRET_CF

# IRET, CF clear for the caller; iret_success says AH = 0 as well.
iret_success:
    mov ah, 0
iret_nc:
    IRET_NC

# End of interrupt for IRQ 8-15; for IRQ 0-7. Preserve all registers and flags.
eoi_slave:
    push ax
    mov al, PIC_EOI
    out PIC2, al
    out PIC1, al
    pop ax
    ret
eoi_master:
    push ax
    mov al, PIC_EOI
    out PIC1, al
    pop ax
    ret
