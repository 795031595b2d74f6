# PCI during POST: addresses and interrupt lines for every function on bus 0, and what the chips of the board need.
#
# Sources: PCI Local Bus Specification 2.1, "Base Addresses"; 82371SB (PIIX3) data sheet, "PIRQRC", "IDETIM";
# 82371AB (PIIX4) data sheet, "PMBA", "PMREGMISC". The routing is in firmware/pci_routing.py.

.set PCI_PORTS_START, 0xC000        # above everything at a fixed place
.set BAR_IO, 0x01                   # in a base address register
.set BAR_64, 0x04
.set PIIX3_ISA, 0x70008086
.set PIIX3_IDE, 0x70108086
.set PIIX4_PM, 0x71138086
.set PIRQRC, 0x60
.set IDETIM, 0x40                   # both channels
.set IDE_DECODE, 0x80008000
.set PMBA, 0x40
.set PMREGMISC, 0x80

# Near, real mode, the EBDA exists. Without PCI it does nothing. May change any register but SS:SP.
pci_post:
    call pci_probe16
    jc .none
    mov ax, EBDA_SEG
    mov ds, ax
    mov dword ptr [EBDA_PCI_PORTS], PCI_PORTS_START
    mov dword ptr [EBDA_PCI_MEMORY], PCI_MEMORY_START

    mov bx, 0xFFFF
.next:
    call pci_next16
    jc .none
    push eax
    call pci_place
    call pci_interrupt
    mov di, PCI_COMMAND
    call pci_read16                 # what status has to say stays: only ones clear there
    movzx eax, ax
    or al, PCI_IO | PCI_MEMORY
    call pci_write
    pop eax
    call pci_chip
    jmp .next
.none:
    ret

# Register DI of function BX = EAX. Preserves all.
pci_write:
    push edx
    call pci_select16
    out dx, eax
    pop edx
    ret

# Give function BX a place for each of its base address registers; nothing is decoded meanwhile. DS = EBDA. Changes
# EAX, ECX, EDX, ESI, EDI.
pci_place:
    mov di, PCI_HEADER
    call pci_read16
    test eax, 0x007F0000            # a bridge to another bus has other registers
    jnz .done
    mov di, PCI_COMMAND
    call pci_read16
    movzx eax, ax
    and al, 0xFF - PCI_IO - PCI_MEMORY
    call pci_write
    mov di, PCI_BAR
.register:
    mov eax, 0xFFFFFFFF             # what stays 0 is the size
    call pci_write
    call pci_read16
    test eax, eax
    jz .unused
    mov ecx, eax                    # its kind
    mov si, EBDA_PCI_MEMORY
    and al, 0xF0
    test cl, BAR_IO
    jz .sized
    mov si, EBDA_PCI_PORTS
    mov eax, ecx
    and al, 0xFC
    or eax, 0xFFFF0000              # a function may have 16 address bits for ports
.sized:
    neg eax
    mov edx, dword ptr [si]         # up to a multiple of the size
    dec eax
    add edx, eax
    not eax
    and edx, eax
    neg eax
    add eax, edx
    mov dword ptr [si], eax
    mov eax, edx
    call pci_write
    test cl, BAR_IO
    jnz .unused
    test cl, BAR_64
    jz .unused
    add di, 4                       # the upper half of an address
    xor eax, eax
    call pci_write
.unused:
    add di, 4
    cmp di, PCI_BAR_END
    jb .register
.done:
    ret

# Tell function BX which interrupt line its pin has. Changes EAX, SI, DI.
pci_interrupt:
    mov di, PCI_INTERRUPT
    call pci_read16
    movzx si, ah
    dec si
    js .none                        # no pin
    cmp si, 3
    ja .none
    mov al, bl                      # four bytes for each device
    and ax, 0x00F8
    shr ax, 1
    add si, ax
    mov al, byte ptr cs:[pci_irqs + si]
    push dx
    call pci_select16
    out dx, al
    pop dx
.none:
    ret

# Set up function BX if its identification EAX is that of a chip that needs it. DS = EBDA. Changes EAX, DX, SI, DI.
pci_chip:
    cmp eax, PIIX3_ISA
    je .routing
    cmp eax, PIIX3_IDE
    je .ide
    cmp eax, PIIX4_PM
    je .power
    ret

.routing:
    mov di, PIRQRC
    mov eax, dword ptr cs:[pirq_irqs]
    call pci_write
    mov dx, ELCR1                   # PCI's lines and the SCI are level triggered, and no others
    mov al, PCI_LEVEL_IRQS & 0xFF
    out dx, al
    mov dx, ELCR2
    mov al, PCI_LEVEL_IRQS >> 8
    out dx, al
    ret

.ide:
    mov di, IDETIM                  # both channels answer
    mov eax, IDE_DECODE
    call pci_write
    mov di, PCI_COMMAND
    mov eax, PCI_IO | PCI_MASTER
    jmp pci_write

.power:
    mov di, PMBA
    mov eax, PM_BASE | 1            # bit 0 is fixed
    call pci_write
    mov di, PMREGMISC
    mov eax, 1                      # the ports answer
    call pci_write
    mov dx, PM_CONTROL              # ACPI mode from the start: the tables name no command to enter it
    mov ax, PM_SCI_EN
    out dx, ax
    mov byte ptr [EBDA_PM], 1
    mov dword ptr [FACS_OFFSET], 0x53434146    # 'FACS'; the EBDA was cleared
    mov dword ptr [FACS_OFFSET + 4], FACS_SIZE
    ret
