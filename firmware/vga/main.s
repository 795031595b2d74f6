# The VGA option ROM: header, entry points and the INT 10h dispatcher.
#
# Contract. The system BIOS finds 55h AAh on a 2 KiB boundary from C0000h up, checks that the bytes sum to zero and
# far-calls offset 3 in real mode: any DS and ES, a small stack. `init` takes over INT 10h, sets mode 3 and returns
# by RETF with every register as it was. It relies on nothing but the classic BIOS data area, so that any system
# BIOS can carry it.
#
# Every service is called with DS = 0, DF clear, SS:BP at the frame below, AX BX CX DX DI ES as the caller had them
# and SI free; it returns values by writing the frame. Upper halves of 32-bit registers are never touched. Port
# accesses are the slow part under a VMM: whole register files go out by one REP OUTS.
#
# Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt 10h - Video"; IBM VGA Technical Reference.
# Not implemented: light pen, VBE (AH=4Fh comes back unchanged), the alternate parameter tables behind 40:A8.

.include "layout.inc"

rom_header:
    .byte 0x55, 0xAA                    # option ROM signature
    .byte 0                             # length in units of 512 bytes, from the builder
    jmp init                            # offset 3: the far-call entry
    .org 0x1E
    .asciz "IBM VGA compatible, glassvisor"

# init: take the interrupt vectors, fill the data area, show an empty screen.
init:
    pushf
    cld
    pusha
    push ds
    push es
    xor ax, ax
    mov ds, ax                          # vectors and BIOS data area

    # The previous INT 10h stays reachable as INT 42h, as the EGA made customary.
    mov ax, word ptr [VECTOR_10]
    mov word ptr [VECTOR_42], ax
    mov ax, word ptr [VECTOR_10 + 2]
    mov word ptr [VECTOR_42 + 2], ax
    mov word ptr [VECTOR_10], int10
    mov word ptr [VECTOR_10 + 2], cs

    # What INT 10h knows of its hardware.
    mov byte ptr [EGA_CONTROL], 0x60    # 256 KiB, colour, cursor emulation on
    mov byte ptr [EGA_SWITCHES], 0xF9   # feature bits; switches: 80-column colour
    mov byte ptr [VGA_FLAGS], 0x51      # VGA active, 400 lines, colour display
    mov byte ptr [DISPLAY_CODE], 0x08   # VGA with analog colour monitor
    mov word ptr [SAVE_POINTER], save_pointer_table
    mov word ptr [SAVE_POINTER + 2], cs

    mov ax, 0x0003                      # 80x25 colour text
    int 0x10
    pop es
    pop ds
    popa
    popf
    retf

# int10: save, dispatch on AH, restore. An unknown AH returns with nothing changed.
int10:
    cld
    pusha
    push ds
    push es
    sub sp, LOCALS
    mov bp, sp
    xor si, si
    mov ds, si
    cmp ah, 0x1C
    ja .leave
    mov si, ax
    shr si, 8
    add si, si
    call word ptr cs:[si + services]
.leave:
    add sp, LOCALS
    pop es
    pop ds
    popa
    iret

services:
    .word set_mode                      # 00
    .word set_cursor_shape              # 01
    .word set_cursor                    # 02
    .word get_cursor                    # 03
    .word no_light_pen                  # 04
    .word select_page                   # 05
    .word scroll_up                     # 06
    .word scroll_down                   # 07
    .word read_character                # 08
    .word write_character_attribute     # 09
    .word write_character               # 0A
    .word cga_palette                   # 0B
    .word write_pixel                   # 0C
    .word read_pixel                    # 0D
    .word teletype                      # 0E
    .word get_mode                      # 0F
    .word palette_services              # 10
    .word font_services                 # 11
    .word alternate_select              # 12
    .word write_string                  # 13
    .word nothing                       # 14
    .word nothing                       # 15
    .word nothing                       # 16
    .word nothing                       # 17
    .word nothing                       # 18
    .word nothing                       # 19
    .word display_code                  # 1A
    .word functionality                 # 1B
    .word save_restore                  # 1C

nothing:
    ret
