# INT 15h, AH = 53h: Advanced Power Management 1.2, as far as a machine goes that is on or off.
#
# Every interface is connected at once, at any time, and none has a state: connecting twice succeeds. There are no
# events, no batteries, and no states between "ready" and "off".
#
# Source: Advanced Power Management BIOS Interface Specification 1.2 (Intel, Microsoft).

.set APM_BAD_DEVICE, 0x09           # AH of a service that fails
.set APM_NO_FUNCTION, 0x0C
.set APM_BAD_STATE, 0x60
.set APM_NO_EVENT, 0x80
.set APM_BIOS, 0x0000               # device: the BIOS itself; 0001h: everything that it manages
.set APM_ALL, 0x0001
.set APM_READY, 0x0000              # states
.set APM_OFF, 0x0003
.set APM_OFF_WAIT, 0x10000          # port reads, about a microsecond each
.set APM_VERSION, 0x0102
.set APM_SIGNATURE, 0x504D          # 'PM'
.set APM_FLAGS, 0x0003              # 16-bit and 32-bit protected-mode interfaces; HLT is what CPU idle does
.set APM_POWER_STATUS, 0x01FF       # BH mains, BL battery unknown

# Services 04h-10h, one text for both code sizes. In: AL = function, BX = device, CX = argument. Out: CF clear, AH = 0
# where AX is not returned, and what it returns; or CF set and AH = why not.
.macro APM_SERVICES bits
apm_service\bits:
    cmp al, 0x05
    je .idle
    cmp al, 0x07
    je .set_state
    cmp al, 0x0A
    je .power_status
    cmp al, 0x0B
    je .event
    cmp al, 0x0C
    je .get_state
    cmp al, 0x0E
    je .version
    cmp al, 0x10
    je .capabilities
    cmp al, 0x04                    # disconnect; busy; enable and restore; device; engage: nothing to do
    jb .unknown
    cmp al, 0x0F
    jbe .done
.unknown:
    mov ah, APM_NO_FUNCTION
    stc
    ret

.idle:                              # wait for an interrupt, if there can be one
    push eax
    pushf
    pop ax
    test ah, FLAG_IF >> 8
    pop eax
    jz .done
    hlt
.done:
    mov ah, 0
    clc
    ret

.set_state:
    cmp bx, APM_ALL
    jne .bad_device
    cmp cx, APM_READY
    je .done
    cmp cx, APM_OFF
    jne .bad_state
    push eax
    push ecx
    push edx
    mov dx, PM_CONTROL
    mov ax, PM_SUS_EN | PM_SCI_EN
    out dx, ax
    mov ecx, APM_OFF_WAIT           # power may take a moment to go
.wait:
    in al, POST_PORT
    dec ecx
    jnz .wait
    pop edx
    pop ecx
    pop eax
.bad_state:                         # also if the machine is still on
    mov ah, APM_BAD_STATE
    stc
    ret

.power_status:
    cmp bx, APM_ALL
    jne .bad_device
    mov bx, APM_POWER_STATUS
    mov cx, 0x80FF                  # no battery, its charge unknown
    mov dx, 0xFFFF                  # its time unknown
    jmp .done

.event:
    mov ah, APM_NO_EVENT
    stc
    ret

.get_state:
    cmp bx, APM_ALL
    jne .bad_device
    mov cx, APM_READY
    jmp .done

.version:
    mov ax, APM_VERSION
    clc
    ret

.capabilities:
    mov bl, 0                       # batteries
    mov cx, 0
    jmp .done

.bad_device:
    mov ah, APM_BAD_DEVICE
    stc
    ret
.endm

APM_SERVICES 16

# Entered by way of int15_entry. Without a power management function it is a service that does not exist.
apm:
    push ds
    push ax
    push BDA_SEG
    pop ds
    mov ds, word ptr [BDA_EBDA]
    cmp byte ptr [EBDA_PM], 1
    pop ax
    pop ds
    jne iret_unsupported

    cmp al, 0x04
    jae .service
    cmp bx, APM_BIOS
    jne .bad_device
    cmp al, 0x01
    jb .installed
    je .connected
    cmp al, 0x03
    je .protected_32

    mov ax, ROM_SEG                 # 02h, 16-bit protected mode: code segment AX, entry BX, data segment CX,
    mov bx, apm_entry16
    mov cx, BDA_SEG
    mov si, 0xFFFF                  # and their lengths
    mov di, 0x0100
    jmp iret_nc
.protected_32:                      # 03h: code segments AX for 32 and CX for 16 bits, entry EBX, data segment DX
    mov ax, ROM_SEG
    mov ebx, apm_entry32
    mov cx, ax
    mov dx, BDA_SEG
    mov esi, 0xFFFFFFFF
    mov di, 0x0100
    jmp iret_nc
.installed:                         # 00h
    mov ax, APM_VERSION
    mov bx, APM_SIGNATURE
    mov cx, APM_FLAGS
    jmp iret_nc
.connected:                         # 01h, real mode
    jmp iret_success
.bad_device:
    mov ah, APM_BAD_DEVICE
    jmp iret_cf
.service:
    sti                             # the caller waits in the service, not its clock
    call apm_service16
    jc iret_cf
    jmp iret_nc

# The protected-mode entries: far calls, registers as for INT 15h. The data segment is not used.
apm_entry16:
    call apm_service16
    retf
.code32
apm_entry32:
    call apm_service32
    retf

APM_SERVICES 32
.code16
