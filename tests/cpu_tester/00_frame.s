# Group 00: that the frame itself works: each mode is entered, and INT3 and #UD come back from it.

.include "frame.inc"
    GROUP 0x0001

.irp mode, REAL, PM16+0, PM16+1, PM16+2, PM16+3, PM32+0, PM32+1, PM32+2, PM32+3, V86+0, V86+1, V86+2, V86+3
    CASE \mode, "\mode: INT3 comes back"
    PASSES

    CASE \mode, "\mode: UD2 is #UD, with nothing changed"
    mov     ax, 0x5678
9:  ud2
    SHOWS   R_EAX, 0xA0A15678
    SHOWS   R_ESI, 0x51525354
    FAULTS  UD, NONE
.endr
