# INT 13h: the entry, the choice of the drive's driver, and the way back.
#
# int13_entry is entered as an interrupt handler, in real or virtual-8086 mode, with AH = function, DL = drive and the
# other registers as the function says; it needs about 110 bytes of the caller's stack. It returns CF and AH = status;
# every register that a function does not document comes back unchanged, upper halves included.
#
#   DL = 00h, 01h   floppies                       disk_floppy.s
#   DL = 80h-83h    ATA disks                      disk_hard.s
#   DL = E0h-E3h    ATAPI CD-ROMs                  disk_cd.s
#   the drive that El Torito emulates              disk_eltorito.s; the other drives of its kind move up by one
#
# Source: IBM PC/AT Technical Reference, "INT 13h"; Phoenix "Enhanced Disk Drive Specification" 3.0; Phoenix/IBM
# "El Torito Bootable CD-ROM Format Specification" 1.0.

.include "disk.inc"

int13_entry:
    sti                             # the tick goes on, and the floppy needs IRQ 6
    cld
    pushad                          # the frame of disk.inc
    push ds
    push es
    push fs
    sub sp, R_SIZE
    mov bp, sp

    mov dx, BDA_SEG                 # DS = BDA, FS = EBDA
    mov ds, dx
    mov fs, word ptr [BDA_EBDA]
    mov dword ptr [bp+R_DONE], 0
    mov dl, byte ptr [bp+F_DL]

    cmp byte ptr fs:[ET_ACTIVE], 0
    jne .emulating
.real:
    mov byte ptr [bp+R_DRIVE], dl
    cmp ah, 0x4B                    # drive 7Fh: whichever emulation there is
    jne .choose
    cmp dl, 0x7F
    je et_service
.choose:
    test dl, dl
    jns fd_service
    cmp dl, CD_FIRST
    jae cd_service
    jmp hd_service

.emulating:
    cmp dl, byte ptr fs:[ET_DRIVE]
    je et_service
    mov dh, dl
    xor dh, byte ptr fs:[ET_DRIVE]
    js .real                        # of the other kind
    cmp dl, 0x7F
    je .real
    cmp dl, CD_FIRST
    jae .real
    dec dl
    jmp .real

# The ends of a service. int13_return takes the status in AH.
int13_bad:
    mov ah, E_PARAMETER
    jmp int13_return
int13_protected:
    mov ah, E_PROTECTED
    jmp int13_return
int13_ok:
    xor ah, ah
int13_return:
    mov byte ptr [bp+F_AH], ah
int13_status:                       # AH is the status, but the caller's AH is set already
    mov bx, word ptr [bp+R_STATUS]
    mov byte ptr [bx], ah
int13_carry:                        # CF says whether AH is an error; the recorded status stays
    and word ptr [bp+F_FLAGS], 0xFFFF-FLAG_CF
    cmp ah, 1
    cmc
    adc word ptr [bp+F_FLAGS], 0    # CF is bit 0
    add sp, R_SIZE
    pop fs
    pop es
    pop ds
    popad
    iret

# AH = 01h for every kind of drive: the status of the last operation, which stays.
int13_last_status:
    mov bx, word ptr [bp+R_STATUS]
    mov ah, byte ptr [bx]
    mov byte ptr [bp+F_AH], ah
    jmp int13_carry

# IRQ 14 and IRQ 15: the services poll; programs that wait for BDA_HD_FLAG see it.
int76_handler:
    push ds
    push BDA_SEG
    pop ds
    mov byte ptr [BDA_HD_FLAG], 0xFF
    call eoi_slave
    pop ds
    iret
int77_handler:
    call eoi_slave
    iret
