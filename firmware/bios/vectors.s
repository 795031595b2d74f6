# What stands at a fixed address: software calls, reads and jumps to these, vectors or not.
#
# Source: IBM PC/AT Technical Reference, "System BIOS Listing", compatibility entry points.

.org 0xE05B                         # POST
at_post:
    jmp reset

.org 0xE2C3                         # INT 02h, NMI: nothing on this board raises one that would mean something
at_nmi:
    iret

.org 0xE3FE                         # INT 13h, disks
at_int13:
    jmp int13_entry

.org 0xE401                         # INT 41h, INT 46h: geometry of fixed disks; types 1 and 2 of the PC/AT
fixed_disk_tables:
    .word 306                       # cylinders
    .byte 4                         # heads
    .word 0
    .word 128                       # first cylinder with write precompensation
    .byte 0, 0                      # longest ECC burst, control byte
    .byte 0, 0, 0
    .word 305                       # landing zone
    .byte 17, 0                     # sectors per track
    .word 615
    .byte 4
    .word 0
    .word 300
    .byte 0, 0
    .byte 0, 0, 0
    .word 615
    .byte 17, 0

.org 0xE6F2                         # INT 19h, boot
at_int19:
    jmp int19_entry

configuration_table:                # E6F5: INT 15h, AH = C0h
    .word 8                         # bytes that follow
    .byte 0xFC, 0x01, 0x00          # model as at FFFFEh, submodel, revision
    .byte 0x74                      # second 8259A, clock, INT 15h/4Fh from INT 09h, EBDA
    .byte 0x40                      # INT 16h, AH = 09h
    .byte 0, 0, 0

.org 0xE739                         # INT 14h, serial ports
at_int14:
    jmp int14_entry

.org 0xE82E                         # INT 16h, keyboard
at_int16:
    jmp int16_entry

.org 0xE987                         # INT 09h, IRQ 1
at_int09:
    jmp int09_handler

.org 0xEC59                         # INT 40h, floppies
at_int40:
    jmp int13_entry

.org 0xEF57                         # INT 0Eh, IRQ 6
at_int0e:
    jmp int0e_handler

.org 0xEFC7                         # INT 1Eh
diskette_parameter_table:
    .byte 0xAF, 0x02                # step rate 6 ms, head unload 240 ms; head load 2 ms, DMA
    .byte 0x25                      # ticks until the motor stops
    .byte 2                         # 512 bytes a sector
    .byte 18                        # sectors a track
    .byte 0x1B, 0xFF, 0x6C          # gap, data length, gap when formatting
    .byte 0xF6                      # fill byte when formatting
    .byte 15                        # head settle time, ms
    .byte 8                         # motor start time, 1/8 s

.org 0xEFD2                         # INT 17h, printers
at_int17:
    jmp int17_entry

.org 0xF065                         # INT 10h, as long as there is no video ROM: say nothing, show nothing
at_int10:
    iret

.org 0xF0A4                         # INT 1Dh: 6845 registers for 40x25, 80x25, graphics, monochrome
video_parameters:
    .byte 0x38, 0x28, 0x2D, 0x0A, 0x1F, 0x06, 0x19, 0x1C, 0x02, 0x07, 0x06, 0x07, 0, 0, 0, 0
    .byte 0x71, 0x50, 0x5A, 0x0A, 0x1F, 0x06, 0x19, 0x1C, 0x02, 0x07, 0x06, 0x07, 0, 0, 0, 0
    .byte 0x38, 0x28, 0x2D, 0x0A, 0x7F, 0x06, 0x64, 0x70, 0x02, 0x01, 0x06, 0x07, 0, 0, 0, 0
    .byte 0x61, 0x50, 0x52, 0x0F, 0x19, 0x06, 0x19, 0x19, 0x02, 0x0D, 0x0B, 0x0C, 0, 0, 0, 0
    .word 2048, 4096, 16384, 16384  # bytes a page
    .byte 40, 40, 80, 80, 40, 40, 80, 80    # columns of modes 0-7
    .byte 0x2C, 0x28, 0x2D, 0x29, 0x2A, 0x2E, 0x1E, 0x29    # mode register of modes 0-7

.org 0xF841                         # INT 12h, base memory
at_int12:
    jmp int12_entry

.org 0xF84D                         # INT 11h, equipment
at_int11:
    jmp int11_entry

.org 0xF859                         # INT 15h, system services
at_int15:
    jmp int15_entry

# At FA6Eh the builder puts font_8x8, the characters 00h-7Fh.

.org 0xFE6E                         # INT 1Ah, time of day
at_int1a:
    jmp int1a_entry

.org 0xFEA5                         # INT 08h, IRQ 0
at_int08:
    jmp int08_handler

.org 0xFF53                         # vectors of which nobody has made use
dummy_iret:
    iret

.org 0xFF54                         # INT 05h, print screen
at_int05:
    jmp int05_entry

.org 0xFFE0
rom_name:
    .ascii "glassvisor BIOS"

.org 0xFFF0                         # reset: CS base FFFF0000h until this far jump loads F000h
at_reset:
    ljmp ROM_SEG:at_post

.org 0xFFF5
    .ascii "01/01/25"               # release date, as software looks for it

.org 0xFFFE
    .byte 0xFC                      # model: PC/AT
rom_checksum:
    .byte 0
.flow
