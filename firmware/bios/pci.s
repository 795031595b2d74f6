# PCI: what INT 1Ah, the BIOS32 directory and POST have to do with it.
#
# Sources: PCI BIOS Specification 2.1; Standard BIOS 32-bit Service Directory Proposal 0.4 (Phoenix).

.include "pci_config.inc"

.set BIOS32_PCI, 0x49435024         # '$PCI'
.set BIOS32_ABSENT, 0x80            # AL: no such service
.set BIOS32_NO_FUNCTION, 0x81       # no such function of the directory

PCI_SERVICES 16

# INT 1Ah, AH = B1h. Without a PCI bus it is a service that does not exist.
int1a_pci:
    call pci_service16
    jnc iret_nc
    jmp iret_cf

# The entry for 32-bit code: far call, CS and SS flat or with the base that the directory told, registers as INT 1Ah.
.code32
pci_entry32:
    cld
    call pci_service32
    retf

PCI_SERVICES 32

# The directory: far call, EAX = service, BL = 0. Out: AL = 0, EBX = base, ECX = length, EDX = entry; or AL = why not.
bios32_entry:
    test bl, bl
    jnz .function
    cmp eax, BIOS32_PCI
    jne .absent
    call pci_probe32
    jc .absent
    mov ebx, ROM_SEG << 4
    mov ecx, 0x10000
    mov edx, pci_entry32
    mov al, 0
    retf
.absent:
    mov al, BIOS32_ABSENT
    retf
.function:
    mov al, BIOS32_NO_FUNCTION
    retf
.code16

.set BIOS32_AT, (ROM_SEG << 4) + bios32_entry
.align 16
bios32_directory:
    .ascii "_32_"
    .long BIOS32_AT
    .byte 0, 1                      # revision, length in units of 16 bytes
    .byte -('_' + '3' + '2' + '_' + (BIOS32_AT & 0xFF) + (BIOS32_AT >> 8 & 0xFF) + (BIOS32_AT >> 16 & 0xFF) + 1)
    .byte 0, 0, 0, 0, 0
