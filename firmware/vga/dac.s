# The colours that a mode set loads into the DAC: red, green, blue of six bits each.
#
# Source: IBM VGA Technical Reference, "Video Digital-to-Analog Converter"; IBM PS/2 and PC BIOS Interface Technical
# Reference, "Default Palette".

# The CGA's eight colours, dark (base 0) and bright (base 15h); colour 6 is brown when dark, yellow when bright.
.macro cga_dark
    .byte 0x00, 0x00, 0x00, 0x00, 0x00, 0x2A, 0x00, 0x2A, 0x00, 0x00, 0x2A, 0x2A
    .byte 0x2A, 0x00, 0x00, 0x2A, 0x00, 0x2A, 0x2A, 0x15, 0x00, 0x2A, 0x2A, 0x2A
.endm
.macro cga_bright
    .byte 0x15, 0x15, 0x15, 0x15, 0x15, 0x3F, 0x15, 0x3F, 0x15, 0x15, 0x3F, 0x3F
    .byte 0x3F, 0x15, 0x15, 0x3F, 0x15, 0x3F, 0x3F, 0x3F, 0x15, 0x3F, 0x3F, 0x3F
.endm

# 64 entries for modes of 200 lines: bit 4 is intensity, bits 3 and 5 count for nothing.
palette_cga:
.rept 2
    cga_dark
    cga_dark
    cga_bright
    cga_bright
.endr

# 64 entries for the EGA's colours: bits 2-0 are two thirds of red, green and blue, bits 5-3 one third.
.macro ega_colour n
    .byte (\n >> 2 & 1) * 0x2A + (\n >> 5 & 1) * 0x15
    .byte (\n >> 1 & 1) * 0x2A + (\n >> 4 & 1) * 0x15
    .byte (\n & 1) * 0x2A + (\n >> 3 & 1) * 0x15
.endm
.macro ega_colours n
    ega_colour \n + 0
    ega_colour \n + 1
    ega_colour \n + 2
    ega_colour \n + 3
    ega_colour \n + 4
    ega_colour \n + 5
    ega_colour \n + 6
    ega_colour \n + 7
.endm
palette_ega:
    ega_colours 0
    ega_colours 8
    ega_colours 16
    ega_colours 24
    ega_colours 32
    ega_colours 40
    ega_colours 48
    ega_colours 56

# 64 entries for monochrome: bit 3 is the signal, bit 4 with it intensity.
palette_mono:
.rept 2
    .fill 24, 1, 0x00
    .fill 24, 1, 0x2A
    .fill 24, 1, 0x00
    .fill 24, 1, 0x3F
.endr

# 256 entries for mode 13h: the CGA's sixteen, sixteen greys, nine wheels of 24 hues, eight times black.
palette_256:
    cga_dark
    cga_bright
.macro grey n
    .byte \n, \n, \n
.endm
    grey 0x00
    grey 0x05
    grey 0x08
    grey 0x0B
    grey 0x0E
    grey 0x11
    grey 0x14
    grey 0x18
    grey 0x1C
    grey 0x20
    grey 0x24
    grey 0x28
    grey 0x2D
    grey 0x32
    grey 0x38
    grey 0x3F

# A wheel from blue over red and green and back, in steps from `a` (least) to `e` (most).
.macro wheel a, b, c, d, e
    .byte \a, \a, \e, \b, \a, \e, \c, \a, \e, \d, \a, \e
    .byte \e, \a, \e, \e, \a, \d, \e, \a, \c, \e, \a, \b
    .byte \e, \a, \a, \e, \b, \a, \e, \c, \a, \e, \d, \a
    .byte \e, \e, \a, \d, \e, \a, \c, \e, \a, \b, \e, \a
    .byte \a, \e, \a, \a, \e, \b, \a, \e, \c, \a, \e, \d
    .byte \a, \e, \e, \a, \d, \e, \a, \c, \e, \a, \b, \e
.endm
    wheel 0x00, 0x10, 0x1F, 0x2F, 0x3F  # bright: full, less, little saturation
    wheel 0x1F, 0x27, 0x2F, 0x37, 0x3F
    wheel 0x2D, 0x31, 0x36, 0x3A, 0x3F
    wheel 0x00, 0x07, 0x0E, 0x15, 0x1C  # medium
    wheel 0x0E, 0x11, 0x15, 0x18, 0x1C
    wheel 0x14, 0x16, 0x18, 0x1A, 0x1C
    wheel 0x00, 0x04, 0x08, 0x0C, 0x10  # dark
    wheel 0x08, 0x0A, 0x0C, 0x0E, 0x10
    wheel 0x0B, 0x0C, 0x0D, 0x0F, 0x10
    .fill 24, 1, 0x00
