# Group 01: real-address mode.
#
# Segments have 64 KiB: an access that ends beyond FFFFh is #GP, or #SS through SS; no error code is pushed.
# Sources: SDM Vol. 3A, "8086 Emulation", "Limit Checking", "Interrupt and Exception Handling"; Vol. 2, the instructions.

.include "frame.inc"
    GROUP 0x0101

# --- the end of a segment: SDM Vol. 3A, "Limit Checking", and Vol. 2A, "MOV", "Real-Address Mode Exceptions" ------------

.irp seg, ds, es, fs, gs
    CASE REAL, "real: the byte at \seg:FFFF is the last one"
    mov     byte ptr \seg:[0xFFFF], 0x5A
    SHOWS   DATA_BASE+0xFFFC, 0x5A000000
    PASSES

    CASE REAL, "real: reading a word at \seg:FFFF is #GP"
9:  mov     ax, \seg:[0xFFFF]
    SHOWS   R_EAX, 0xA0A1A2A3
    FAULTS  GP, NONE

    CASE REAL, "real: writing a word at \seg:FFFF is #GP and writes nothing"
9:  mov     word ptr \seg:[0xFFFF], 0x1234
    SHOWS   DATA_BASE+0xFFFC, 0
    SHOWS   STACK_BASE, 0
    FAULTS  GP, NONE

    CASE REAL, "real: a double word at \seg:FFFC is the last one"
    mov     dword ptr \seg:[0xFFFC], 0x12345678
    SHOWS   DATA_BASE+0xFFFC, 0x12345678
    PASSES

    CASE REAL, "real: a double word at \seg:FFFD is #GP"
9:  add     dword ptr \seg:[0xFFFD], ecx
    SHOWS   DATA_BASE+0xFFFC, 0
    FAULTS  GP, NONE
.endr

    CASE REAL, "real: a word at SS:FFFF through BP is #SS"
    mov     bp, 0xFFFF
9:  mov     ax, [bp]
    FAULTS  SSF, NONE

    CASE REAL, "real: a word at SS:FFFF through an override is #SS"
9:  inc     word ptr ss:[0xFFFF]
    FAULTS  SSF, NONE

    CASE REAL, "real: BP with a DS override is #GP"
    mov     bp, 0xFFFE
9:  mov     ax, ds:[bp+1]
    FAULTS  GP, NONE

    CASE REAL, "real: 16-bit addresses wrap at 64 KiB"
    mov     bx, 0xFFFF
    mov     al, [bx+3]
    SHOWS   R_EAX, 0x02, 0xFF
    PASSES

    CASE REAL, "real: 16-bit addresses of two registers wrap at 64 KiB"
    mov     bx, 0x8001
    mov     si, 0x8003
    mov     ax, [bx+si]
    SHOWS   R_EAX, 0x0504, 0xFFFF
    PASSES

    CASE REAL, "real: a 32-bit address beyond the limit is #GP"
    mov     ebx, 0x10000
9:  mov     al, [ebx]
    FAULTS  GP, NONE

    CASE REAL, "real: a 32-bit address beyond the limit through EBP is #SS"
    mov     ebp, 0x10000
9:  mov     al, [ebp]
    FAULTS  SSF, NONE

    CASE REAL, "real: a 32-bit address that wraps at 4 GiB is within the limit"
    mov     ebx, 0xFFFFFFFF
    mov     al, [ebx+5]
    SHOWS   R_EAX, 0x04, 0xFF
    PASSES

# --- string instructions ------------------------------------------------------------------------------------------------

    CASE REAL, "real: MOVSW from FFFF is #GP with SI and DI as they were"
    mov     si, 0xFFFF
    mov     di, 0x20
9:  movsw
    SHOWS   R_ESI, 0x5152FFFF
    SHOWS   R_EDI, 0xD4D50020
    FAULTS  GP, NONE

    CASE REAL, "real: MOVSW to FFFF is #GP with SI and DI as they were"
    mov     si, 0x20
    mov     di, 0xFFFF
9:  movsw
    SHOWS   R_ESI, 0x51520020
    SHOWS   R_EDI, 0xD4D5FFFF
    FAULTS  GP, NONE

    CASE REAL, "real: REP MOVSW stops at the iteration that faults"
    mov     si, 0xFFFB
    mov     di, 0x20
    mov     cx, 5
9:  rep movsw
    SHOWS   R_ECX, 0xC0C10003
    SHOWS   R_ESI, 0x5152FFFF
    SHOWS   R_EDI, 0xD4D50024
    FAULTS  GP, NONE

    CASE REAL, "real: REP MOVSB wraps at 64 KiB"
    mov     si, 0xFFFE
    mov     di, 0x20
    mov     cx, 4
    mov     word ptr ds:[0xFFFE], 0xBBAA
    rep movsb
    SHOWS   R_ESI, 0x51520002
    SHOWS   DATA_BASE+0x20, 0x0100BBAA
    PASSES

    CASE REAL, "real: STOSD at FFFD is #GP"
    mov     di, 0xFFFD
9:  stosd
    SHOWS   R_EDI, 0xD4D5FFFD
    FAULTS  GP, NONE

    CASE REAL, "real: LODSW through SS is #SS"
    mov     si, 0xFFFF
9:  lods    ax, word ptr ss:[si]
    FAULTS  SSF, NONE

    CASE REAL, "real: SCASW at FFFF is #GP"
    mov     di, 0xFFFF
9:  scasw
    FAULTS  GP, NONE

    CASE REAL, "real: CMPSW at FFFF is #GP"
    mov     si, 0x20
    mov     di, 0xFFFF
9:  cmpsw
    FAULTS  GP, NONE

    CASE REAL, "real: XLAT wraps at 64 KiB"
    mov     bx, 0xFFF0
    mov     al, 0x14
    xlat
    SHOWS   R_EAX, 0x04, 0xFF
    PASSES

# --- the stack: SDM Vol. 3A, "Limit Checking"; Vol. 2B, "POP", "PUSH" ---------------------------------------------------

    CASE REAL, "real: a push at SP = 0 goes to FFFE"
    xor     sp, sp
    push    ax
    mov     bx, sp
    mov     dx, ss:[0xFFFE]
    mov     sp, 0x800
    SHOWS   R_EBX, 0xFFFE, 0xFFFF
    SHOWS   R_EDX, 0xA2A3, 0xFFFF
    PASSES

    CASE REAL, "real: a pop at SP = FFFE goes on at 0"
    mov     sp, 0xFFFE
    pop     ax
    mov     bx, sp
    mov     sp, 0x800
    SHOWS   R_EBX, 0, 0xFFFF
    PASSES

    CASE REAL, "real: POP at SP = FFFF is #SS"
    mov     sp, 0xFFFF
9:  pop     ax
    mov     sp, 0x800
    SHOWS   R_ESP, 0xFFFF
    SHOWS   R_EAX, 0xA0A1A2A3
    FAULTS  SSF, NONE

    CASE REAL, "real: POPFD at SP = FFFD is #SS"
    mov     sp, 0xFFFD
9:  popfd
    mov     sp, 0x800
    SHOWS   R_ESP, 0xFFFD
    FAULTS  SSF, NONE

    CASE REAL, "real: RET at SP = FFFF is #SS"
    mov     ax, offset 1f               # where those go who read on across the end
    mov     bx, (STACK_BASE >> 4) + 0x1000
    mov     es, bx
    mov     ss:[0xFFFF], al
    mov     es:[0], ah
    mov     sp, 0xFFFF
9:  ret
1:  mov     sp, 0x800
    SHOWS   R_ESP, 0xFFFF
    FAULTS  SSF, NONE

    CASE REAL, "real: LEAVE with BP = FFFF is #SS with SP as it was"
    mov     bp, 0xFFFF
9:  leave
    mov     sp, 0x800
    SHOWS   R_ESP, STACK_TOP
    FAULTS  SSF, NONE

    CASE REAL, "real: PUSH SP pushes SP as it was"
    push    sp
    pop     ax
    SHOWS   R_EAX, STACK_TOP, 0xFFFF
    PASSES

    CASE REAL, "real: POP to memory at SP uses SP after the pop"
    push    0x1234
    push    0x5678
    xor     ebx, ebx
    mov     bx, sp
    pop     word ptr ss:[esp+4]
    mov     ax, ss:[bx+6]
    SHOWS   R_EAX, 0x5678, 0xFFFF
    PASSES

    CASE REAL, "real: ENTER with level 0"
    mov     bp, 0x1234
    enter   8, 0
    mov     ax, [bp]
    mov     bx, sp
    SHOWS   R_EAX, 0x1234, 0xFFFF
    SHOWS   R_EBP, STACK_TOP-2, 0xFFFF
    SHOWS   R_EBX, STACK_TOP-10, 0xFFFF
    PASSES

    CASE REAL, "real: ENTER with level 3 copies two frame pointers and pushes its own"
    mov     bp, 0x800
    mov     word ptr [bp-2], 0x1111
    mov     word ptr [bp-4], 0x2222
    enter   2, 3
    mov     ax, [bp-2]
    mov     bx, [bp-4]
    mov     cx, [bp-6]
    mov     dx, sp
    SHOWS   R_EAX, 0x1111, 0xFFFF
    SHOWS   R_EBX, 0x2222, 0xFFFF
    SHOWS   R_ECX, STACK_TOP-2, 0xFFFF
    SHOWS   R_EDX, STACK_TOP-10, 0xFFFF
    PASSES

    CASE REAL, "real: PUSH at SP = 1 is #SS, its frame finds no room either: shutdown"
    mov     sp, 1
    push    ax
    mov     sp, 0x800
    SHUTS_DOWN

    CASE REAL, "real: an interrupt at SP = 3 shuts down"
    mov     sp, 3
    int     0x20
    mov     sp, 0x800
    SHUTS_DOWN

# --- code: SDM Vol. 3A, "Limit Checking"; Vol. 2A, "JMP", "CALL"; Vol. 2B, "RET" -----------------------------------------

    CASE REAL, "real: JMP to 10000h is #GP at the jump"
    mov     eax, 0x10000
9:  jmp     eax
    FAULTS  GP, NONE

    CASE REAL, "real: a direct JMP to 10000h is #GP at the jump"
9:  .byte   0x66, 0xE9                  # JMP rel32
    .long   0x10000 - . - 4
    FAULTS  GP, NONE

    CASE REAL, "real: CALL to 10000h is #GP at the call, with SP as it was"
    mov     eax, 0x10000
9:  call    eax
    SHOWS   R_ESP, STACK_TOP
    FAULTS  GP, NONE

    CASE REAL, "real: RET to 10000h is #GP at the return, with SP as it was"
    push    dword ptr 0x10000
9:  data32  ret
    SHOWS   R_ESP, STACK_TOP-4
    FAULTS  GP, NONE

    CASE REAL, "real: code that runs beyond FFFF is #GP"
    mov     dword ptr ss:[0], 0xCCCCCCCC # INT3 for those who go on
    mov     byte ptr ds:[0xFFFF], 0x90
    ljmp    DATA_BASE >> 4, 0xFFFF
9:
    SHOWS   R_VECTOR, GP
    SHOWS   R_CS, DATA_BASE>>4
    end_of_case GP, NONE, 0             # the 16 bits of 10000h

    CASE REAL, "real: an instruction across FFFF is #GP"
    mov     dword ptr ss:[0], 0xCCCCCCCC
    mov     word ptr ds:[0xFFFE], 0x00B8 # MOV AX, imm16 without its last byte
    ljmp    DATA_BASE >> 4, 0xFFFE
    SHOWS   R_CS, DATA_BASE>>4
    end_of_case GP, NONE, 0xFFFE

    CASE REAL, "real: far CALL pushes CS and IP, RETF n drops them and n bytes"
    push    0x1111
    lcall   CODE_BASE >> 4, offset 1f
    jmp     2f
1:  mov     bp, sp
    mov     eax, [bp]
    retf    2
2:  mov     bx, sp
    SHOWS   R_EAX, CODE_BASE>>4<<16, 0xFFFF0000
    SHOWS   R_EBX, STACK_TOP, 0xFFFF
    PASSES

    CASE REAL, "real: a far JMP through memory whose pointer ends beyond FFFF is #GP"
    mov     bx, 0xFFFD
9:  .byte   0xFF, 0x2F                  # JMP m16:16 [BX]
    FAULTS  GP, NONE

    CASE REAL, "real: far JMP to an offset beyond the limit is #GP at the jump"
9:  .byte   0x66, 0xEA                  # JMP ptr16:32
    .long   0x10000
    .word   CODE_BASE >> 4
    FAULTS  GP, NONE

    CASE REAL, "real: INT pushes FLAGS, CS and IP and clears IF and TF", F_IF
    xor     ax, ax
    mov     es, ax
    mov     word ptr es:[0x80], offset 1f
    mov     word ptr es:[0x82], CODE_BASE >> 4
    stc
    int     0x20
2:  jmp     3f
1:  pushf
    pop     ax
    mov     bp, sp
    mov     ebx, [bp]
    mov     cx, [bp+4]
    iret
3:  pushf
    pop     dx
    cli
    SHOWS   R_EAX, 0, F_IF
    SHOWS   R_EBX, CODE_BASE>>4<<16, 0xFFFF0000
    SHOWS   R_ECX, F_IF+F_CF, F_IF+F_CF
    SHOWS   R_EDX, F_IF+F_CF, F_IF+F_CF
    PASSES

    CASE REAL, "real: INT beyond the limit of the IDTR is #GP"
    xor     ax, ax
    mov     word ptr ds:[0x40], 13*4+3
    mov     dword ptr ds:[0x42], 0
    data32 lidt ds:[0x40]
9:  int     0x20
    FAULTS  GP, NONE

    CASE REAL, "real: vectors lie where the IDTR says"
    mov     word ptr ds:[0x100+4*0x20], offset 1f
    mov     word ptr ds:[0x102+4*0x20], CODE_BASE >> 4
    mov     word ptr ds:[0x40], 0xFF
    mov     dword ptr ds:[0x42], DATA_BASE + 0x100
    data32 lidt ds:[0x40]
    int     0x20
9:  ud2
1:  data32 lidt cs:[real_vectors]
    PASSES

    CASE REAL, "real: IRETD loads EIP, CS and EFLAGS"
    pushd   F_CF + F_AC + 2
    pushd   CODE_BASE >> 4
    pushd   offset 1f
    iretd
9:  ud2
1:  pushfd
    pop     eax
    SHOWS   R_EAX, F_CF+F_AC, F_CF+F_AC+F_ZF
    PASSES

    CASE REAL, "real: IRETD to an EIP beyond the limit is #GP"
    pushd   2
    pushd   CODE_BASE >> 4
    pushd   0x10000
9:  iretd
    SHOWS   R_ESP, STACK_TOP-12
    FAULTS  GP, NONE

    CASE REAL, "real: without a vector for #GP and for the double fault the processor shuts down"
    mov     dword ptr ds:[0x40], 0
    mov     dword ptr ds:[0x44], 0
    data32 lidt ds:[0x40]
    int     0x20
    SHUTS_DOWN

# --- exceptions of instructions --------------------------------------------------------------------------------------------

    CASE REAL, "real: DIV by zero is #DE"
    xor     cx, cx
9:  div     cx
    FAULTS  DE, NONE

    CASE REAL, "real: IDIV of 8000h by -1 is #DE"
    mov     ax, 0x8000
    mov     dx, 0xFFFF
    mov     cx, -1
9:  idiv    cx
    SHOWS   R_EAX, 0x8000, 0xFFFF
    FAULTS  DE, NONE

    CASE REAL, "real: AAM 0 is #DE"
9:  aam     0
    FAULTS  DE, NONE

    CASE REAL, "real: BOUND within its bounds"
    mov     dword ptr ds:[0x40], 0x0005FFFF # -1 to 5
    mov     ax, 5
    bound   ax, ds:[0x40]
    mov     ax, -1
    bound   ax, ds:[0x40]
    PASSES

    CASE REAL, "real: BOUND above is #BR at the instruction"
    mov     dword ptr ds:[0x40], 0x0005FFFF
    mov     ax, 6
9:  bound   ax, ds:[0x40]
    FAULTS  BR, NONE

    CASE REAL, "real: BOUND below is #BR at the instruction"
    mov     dword ptr ds:[0x40], 0x0005FFFF
    mov     ax, -2
9:  bound   ax, ds:[0x40]
    FAULTS  BR, NONE

    CASE REAL, "real: BOUND whose bounds end beyond FFFF is #GP"
9:  bound   ax, ds:[0xFFFD]
    FAULTS  GP, NONE

    CASE REAL, "real: INTO with OF traps"
    mov     al, 0x7F
    inc     al
    into
8:
    TRAPS   OF

    CASE REAL, "real: INTO without OF does nothing"
    xor     al, al
    into
    PASSES

# SDM Vol. 2: "not recognized in real-address mode".
.macro undefined_in_real name, bytes:vararg
    CASE REAL, "real: \name is #UD"
9:  .byte   \bytes
    FAULTS  UD, NONE
.endm
    undefined_in_real "SLDT AX", 0x0F, 0x00, 0xC0
    undefined_in_real "STR AX", 0x0F, 0x00, 0xC8
    undefined_in_real "LLDT AX", 0x0F, 0x00, 0xD0
    undefined_in_real "LTR AX", 0x0F, 0x00, 0xD8
    undefined_in_real "VERR AX", 0x0F, 0x00, 0xE0
    undefined_in_real "VERW AX", 0x0F, 0x00, 0xE8
    undefined_in_real "LAR AX, AX", 0x0F, 0x02, 0xC0
    undefined_in_real "LSL AX, AX", 0x0F, 0x03, 0xC0
    undefined_in_real "ARPL AX, AX", 0x63, 0xC0
    undefined_in_real "MOV CS, AX", 0x8E, 0xC8
    undefined_in_real "MOV to segment register 6", 0x8E, 0xF0
    undefined_in_real "MOV from segment register 7", 0x8C, 0xF8
    undefined_in_real "BOUND of a register", 0x62, 0xC0
    undefined_in_real "LES of a register", 0xC4, 0xC0
    undefined_in_real "LEA of a register", 0x8D, 0xC0

# --- segment registers: SDM Vol. 3A, "Real-Address Mode Operation", "Switching Back to Real-Address Mode" -----------------------

.macro switch_ds selector               # load DS in protected mode and go back; changes EAX
    mov     eax, cr0
    or      al, 1
    mov     cr0, eax
    mov     bx, \selector
    mov     ds, bx
    and     al, 0xFE
    mov     cr0, eax
.endm

    CASE REAL, "real: a limit of 4 GiB that was loaded in protected mode lives on"
    switch_ds MON_DATA
    mov     esi, DATA_BASE + 0x10
    mov     eax, [esi]
    SHOWS   R_EAX, 0x13121110
    PASSES

    CASE REAL, "real: a load of DS changes the base and keeps the limit"
    switch_ds MON_DATA
    mov     ax, DATA_BASE >> 4
    mov     ds, ax
    mov     esi, STACK_BASE - DATA_BASE + 0x20
    mov     dword ptr [esi], 0x12345678
    SHOWS   STACK_BASE+0x20, 0x12345678
    PASSES

    CASE REAL, "real: a small limit that was loaded in protected mode is checked"
    switch_ds STACK16                   # limit FFFh
    mov     ax, DATA_BASE >> 4
    mov     ds, ax
    mov     al, ds:[0xFFF]
9:  mov     al, ds:[0x1000]
    FAULTS  GP, NONE

    CASE REAL, "real: LDS loads DS and its register"
    mov     dword ptr ds:[0x40], 0x30001234
    lds     si, ds:[0x40]
    mov     byte ptr ds:[0x20], 0x77
    SHOWS   R_ESI, 0x51521234
    SHOWS   STACK_BASE+0x20, 0x77
    PASSES

.irp name, lds, les, lfs, lgs, lss
    CASE REAL, "real: \name of a pointer that ends beyond FFFF is #GP"
9:  \name   si, ds:[0xFFFD]
    SHOWS   R_ESI, 0x51525354
    FAULTS  GP, NONE
.endr

# --- flags ------------------------------------------------------------------------------------------------------------------

    CASE REAL, "real: POPF changes IOPL and NT"
    push    F_NT + 3*F_IOPL
    popf
    pushf
    pop     ax
    push    2
    popf
    SHOWS   R_EAX, F_NT+3*F_IOPL+2, 0xFFFF
    PASSES

    CASE REAL, "real: POPFD leaves VM alone and clears RF"
    pushd   F_VM + F_RF + F_AC + 2
    popfd
    pushfd
    pop     eax
    SHOWS   R_EAX, F_AC+2
    PASSES

    CASE REAL, "real: SMSW shows PE clear, LMSW sets it"
    smsw    ax
    mov     bx, ax
    or      bl, 1
    lmsw    bx
    smsw    bx
    mov     ecx, cr0
    and     cl, 0xFE
    mov     cr0, ecx
    SHOWS   R_EAX, 0, 1
    SHOWS   R_EBX, 1, 1
    PASSES

    .balign 4
real_vectors:
    .word   0x3FF
    .long   0
