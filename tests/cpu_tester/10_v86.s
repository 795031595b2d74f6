# Group 0D: virtual-8086 mode at each IOPL, without the extensions of CR4.VME.
#
# Sources: SDM Vol. 3B, "8086 Emulation", "Virtual-8086 Mode", "Sensitive Instructions", "Class 1 - Hardware Interrupt
# and Exception Handling in Virtual-8086 Mode".

.include "frame.inc"
    GROUP 0x0D01

# --- what depends on IOPL -------------------------------------------------------------------------------------------------

.macro sensitive iopl, name, code
    CASE V86+\iopl, "V86, IOPL \iopl: \name"
9:  \code
    .if \iopl == 3
    PASSES
    .else
    FAULTS  GP, 0
    .endif
.endm
.irp iopl, 0, 1, 2, 3
    sensitive \iopl, "cli", "cli"
    sensitive \iopl, "sti", "sti; cli"
    sensitive \iopl, "pushf", "pushf"
    sensitive \iopl, "pushfd", "pushfd"
    sensitive \iopl, "popf", "popf"
    sensitive \iopl, "popfd", "popfd"

    CASE V86+\iopl, "V86, IOPL \iopl: int through a gate of DPL 3"
    PREPARE
    or      byte ptr ds:[IDT+8*0x20+5], DPL3
    RUN
9:  int     0x20
8:
    .if \iopl == 3
    TRAPS   0x20
    .else
    FAULTS  GP, 0
    .endif

    CASE V86+\iopl, "V86, IOPL \iopl: iret"
    push    2
    push    CODE_BASE>>4
    push    offset 1f
9:  iret
1:
    .if \iopl == 3
    PASSES
    .else
    SHOWS   R_ESP, STACK_TOP-6
    FAULTS  GP, 0
    .endif

    CASE V86+\iopl, "V86, IOPL \iopl: INT3 does not depend on IOPL"
    int3
8:
    SHOWS   R_EFLAGS, F_VM+\iopl*F_IOPL, F_VM+3*F_IOPL
    SHOWS   R_CS, CODE_BASE>>4, 0xFFFF
    TRAPS   BKPT

    CASE V86+\iopl, "V86, IOPL \iopl: INTO does not depend on IOPL"
    mov     al, 0x7F
    inc     al
    into
8:
    TRAPS   OF

    CASE V86+\iopl, "V86, IOPL \iopl: BOUND does not depend on IOPL"
    mov     dword ptr ds:[0x40], 0
    mov     ax, 5
9:  bound   ax, ds:[0x40]
    FAULTS  BR, NONE
.endr

    CASE V86+3, "V86: pushf shows IOPL"
    pushf
    pop     ax
    SHOWS   R_EAX, 3*F_IOPL+2, 0x7FD7
    PASSES

    CASE V86+3, "V86: pushfd shows VM and RF as 0"
    pushfd
    pop     eax
    SHOWS   R_EAX, 0, F_VM+F_RF
    PASSES

    CASE V86+3, "V86: popf changes IF and leaves IOPL"
    push    F_IF+2
    popf
    SHOWS   R_EFLAGS, F_IF+3*F_IOPL+F_VM, F_IF+3*F_IOPL+F_VM
    PASSES

    CASE V86+3, "V86: popfd leaves VM and IOPL"
    pushd   2
    popfd
    SHOWS   R_EFLAGS, 3*F_IOPL+F_VM, F_IF+3*F_IOPL+F_VM
    PASSES

    CASE V86+3, "V86: iretd leaves VM and IOPL"
    pushd   F_AC+2
    pushd   CODE_BASE>>4
    pushd   offset 1f
    iretd
9:  ud2
1:
    SHOWS   R_EFLAGS, F_AC+3*F_IOPL+F_VM, F_AC+3*F_IOPL+F_VM
    PASSES

# SDM Vol. 2A, "IRET", has this check in front of the pops. In Bochs 2.7 the fault comes at the target: Bochs is wrong.
    CASE V86+3, "V86: iretd beyond FFFF is #GP(0)"
    pushd   2
    pushd   CODE_BASE>>4
    pushd   0x10000
9:  iretd
    SHOWS   R_ESP, STACK_TOP-12
    FAULTS  GP, 0

# --- INT and exceptions -----------------------------------------------------------------------------------------------------

    CASE V86+3, "V86: int through a gate of DPL 0 is #GP of the gate"
9:  int     0x20
    FAULTS  GP, 0x20*8+2

.irp dpl, 1, 2, 3
    CASE V86+3, "V86: int to a handler in ring \dpl is #GP of its selector"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32+8*\dpl, 1f, P+DPL3+A_INT32
    RUN
9:  int     0x20
1:
    FAULTS  GP, CODE32+8*\dpl
.endr

    CASE V86+3, "V86: int to a conforming handler is #GP of its selector"
    PREPARE
    INTERRUPT_GATE 0x20, CONF32, 1f, P+DPL3+A_INT32
    RUN
9:  int     0x20
1:
    FAULTS  GP, CONF32

    CASE V86+0, "V86: an exception to a handler in ring 1 is #GP of its selector, with EXT"
    PREPARE
    INTERRUPT_GATE UD, CODE32+8, 1f, P+A_INT32
    RUN
9:  ud2
1:
    FAULTS  GP, CODE32+8+1

    CASE V86+3, "V86: the frame has GS, FS, DS, ES, SS, ESP, EFLAGS, CS and EIP; the registers are null"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32, 1f, P+DPL3+A_INT32
    RUN
    mov     ax, 0x1111
    mov     gs, ax
    mov     ax, 0x2222
    mov     fs, ax
    mov     ax, 0x3333
    mov     ds, ax
    mov     ax, 0x4444
    mov     es, ax
    int     0x20
2:
    .code32
1:  mov     ax, ds
    shl     eax, 16
    mov     ax, es
    mov     bx, fs
    shl     ebx, 16
    mov     bx, gs
    SHOWS   R_EAX, 0
    SHOWS   R_EBX, 0
    SHOWS   R_CS, CODE32, 0xFFFF
    SHOWS   R_ESP, HANDLER_STACK-36
    SHOWS   HANDLER_STACK-4, 0x1111, 0xFFFF
    SHOWS   HANDLER_STACK-8, 0x2222, 0xFFFF
    SHOWS   HANDLER_STACK-12, 0x3333, 0xFFFF
    SHOWS   HANDLER_STACK-16, 0x4444, 0xFFFF
    SHOWS   HANDLER_STACK-20, STACK_BASE>>4, 0xFFFF
    SHOWS   HANDLER_STACK-24, STACK_TOP
    SHOWS   HANDLER_STACK-28, F_VM+3*F_IOPL, F_VM+3*F_IOPL
    SHOWS   HANDLER_STACK-32, CODE_BASE>>4, 0xFFFF
    PASSES

    CASE V86+3, "V86: there and back by iretd"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32, 1f, P+DPL3+A_INT32
    RUN
    int     0x20
    jmp     2f
    .code32
1:  mov     eax, 0x12345678
    iretd
    .code16
2:
    SHOWS   R_EAX, 0x12345678
    SHOWS   R_DS, DATA_BASE>>4, 0xFFFF
    SHOWS   R_CS, CODE_BASE>>4, 0xFFFF
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE V86+3, "V86: a 16-bit gate pushes words"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32, 1f, P+DPL3+A_INT16
    RUN
    int     0x20
    .code32
1:
    SHOWS   R_ESP, HANDLER_STACK-18
    SHOWS   HANDLER_STACK-4, ((DATA_BASE>>4)<<16)+(DATA_BASE>>4)
    SHOWS   HANDLER_STACK-12, ((STACK_BASE>>4)<<16)+STACK_TOP
    PASSES

# --- what is refused --------------------------------------------------------------------------------------------------------

.macro privileged name, code
    CASE V86+0, "V86: \name is #GP(0)"
9:  \code
    FAULTS  GP, 0
    CASE V86+3, "V86, IOPL 3: \name is #GP(0)"
9:  \code
    FAULTS  GP, 0
.endm
    privileged "hlt", "hlt"
    privileged "lgdt", "lgdt ds:[0x40]"
    privileged "lidt", "lidt ds:[0x40]"
    privileged "lmsw", "lmsw ax"
    privileged "clts", "clts"
    privileged "mov from CR0", "mov eax, cr0"
    privileged "mov to CR0", "mov cr0, eax"
    privileged "mov from CR3", "mov eax, cr3"
    privileged "mov from DR7", "mov eax, dr7"
    privileged "mov to DR0", "mov dr0, eax"
    privileged "wbinvd", "wbinvd"
    privileged "invd", "invd"
    privileged "invlpg", "invlpg ds:[0x40]"
    privileged "rdmsr", "rdmsr"
    privileged "wrmsr", "wrmsr"

.macro undefined name, code
    CASE V86+3, "V86: \name is #UD"
9:  \code
    FAULTS  UD, NONE
.endm
    undefined "sldt", "sldt ax"
    undefined "str", "str ax"
    undefined "lldt", "lldt ax"
    undefined "ltr", "ltr ax"
    undefined "verr", "verr ax"
    undefined "verw", "verw ax"
    undefined "lar", "lar ax, ax"
    undefined "lsl", "lsl ax, ax"
    undefined "arpl", ".byte 0x63, 0xC0"
    undefined "mov to CS", ".byte 0x8E, 0xC8"
    undefined "lea of a register", ".byte 0x8D, 0xC0"
    undefined "bound of a register", ".byte 0x62, 0xC0"

    CASE V86+0, "V86: smsw shows PE"
    smsw    ax
    SHOWS   R_EAX, 1, 1
    PASSES

    CASE V86+0, "V86: sgdt and sidt show the tables"
    sgdt    ds:[0x40]
    sidt    ds:[0x50]
    SHOWS   DATA_BASE+0x40, GDT_SIZE-1, 0xFFFF
    SHOWS   DATA_BASE+0x42, GDT, 0xFFFFFF
    SHOWS   DATA_BASE+0x52, IDT, 0xFFFFFF
    PASSES

# --- segments ---------------------------------------------------------------------------------------------------------------

.irp iopl, 0, 3
.irp seg, ds, es, fs, gs
    CASE V86+\iopl, "V86, IOPL \iopl: a load of \seg needs no descriptor"
    mov     ax, (DATA_BASE>>4)+2
    mov     \seg, ax
    mov     al, \seg:[0x20]
    SHOWS   R_EAX, 0x40, 0xFF
    PASSES

    CASE V86+\iopl, "V86, IOPL \iopl: a word at \seg:FFFF is #GP(0)"
9:  mov     ax, \seg:[0xFFFF]
    SHOWS   R_EAX, 0xA0A1A2A3
    FAULTS  GP, 0
.endr

    CASE V86+\iopl, "V86, IOPL \iopl: writing a double word at FFFD is #GP(0) and writes nothing"
9:  mov     dword ptr ds:[0xFFFD], eax
    SHOWS   DATA_BASE+0xFFFC, 0
    FAULTS  GP, 0

    CASE V86+\iopl, "V86, IOPL \iopl: a word at SS:FFFF is #SS(0)"
    mov     bp, 0xFFFF
9:  mov     ax, [bp]
    FAULTS  SSF, 0

    CASE V86+\iopl, "V86, IOPL \iopl: a 32-bit address beyond FFFF is #GP(0)"
    mov     ebx, 0x10000
9:  mov     al, [ebx]
    FAULTS  GP, 0

    CASE V86+\iopl, "V86, IOPL \iopl: push at SP = 0 goes to FFFE"
    xor     sp, sp
    push    ax
    mov     bx, sp
    mov     sp, 0x800
    SHOWS   R_EBX, 0xFFFE, 0xFFFF
    SHOWS   STACK_BASE+0xFFFC, 0xA2A30000, 0xFFFF0000
    PASSES

    CASE V86+\iopl, "V86, IOPL \iopl: push at SP = 1 is #SS(0)"
    mov     sp, 1
9:  push    ax
    SHOWS   R_ESP, 1
    FAULTS  SSF, 0

    CASE V86+\iopl, "V86, IOPL \iopl: pop at SP = FFFF is #SS(0)"
    mov     sp, 0xFFFF
9:  pop     ax
    SHOWS   R_ESP, 0xFFFF
    FAULTS  SSF, 0

    CASE V86+\iopl, "V86, IOPL \iopl: rep movsw stops where it faults"
    mov     si, 0xFFFB
    mov     di, 0x20
    mov     cx, 5
9:  rep movsw
    SHOWS   R_ECX, 0xC0C10003
    SHOWS   R_ESI, 0x5152FFFF
    FAULTS  GP, 0
.endr

    CASE V86+0, "V86: far call and retf"
    lcall   CODE_BASE>>4, offset 1f
    jmp     2f
1:  mov     bp, sp
    mov     eax, [bp]
    retf
2:
    SHOWS   R_EAX, CODE_BASE>>4<<16, 0xFFFF0000
    SHOWS   R_ESP, STACK_TOP
    PASSES

    CASE V86+0, "V86: code that runs beyond FFFF is #GP(0)"
    mov     dword ptr ss:[0], 0xCCCCCCCC
    mov     byte ptr ds:[0xFFFF], 0x90
    ljmp    DATA_BASE >> 4, 0xFFFF
    SHOWS   R_CS, DATA_BASE>>4, 0xFFFF
    end_of_case GP, 0, 0x10000

    CASE V86+0, "V86: lds loads DS and its register"
    mov     dword ptr ds:[0x40], 0x30001234
    lds     si, ds:[0x40]
    SHOWS   R_ESI, 0x51521234
    SHOWS   R_DS, 0x3000, 0xFFFF
    PASSES
