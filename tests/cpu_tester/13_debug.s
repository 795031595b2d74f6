# Group 10: debug registers, TF and RF.
#
# Sources: SDM Vol. 3B, "Debug Registers", "Debug Exceptions", "Instruction-Breakpoint Exception Condition", "Data Memory and
# I/O Breakpoint Exception Conditions", "General-Detect Exception Condition", "Single-Step Exception Condition".

.include "frame.inc"
    GROUP 0x1001

# DR7: enable n (local), type and length of n.
.equ EXECUTE, 0
.equ WRITE, 1
.equ IO, 2
.equ ACCESS, 3
.equ LEN1, 0
.equ LEN2, 4
.equ LEN4, 12
.equ DR7_GD, 1 << 13
.equ DR6_BD, 1 << 13
.equ DR6_BS, 1 << 14
.equ DR6_CAUSES, 0xE00F
.equ CR4_DE, 1 << 3

# Watch a linear address by DRn. For PREPARE.
.macro watch n, address, type
    .byte   0xB8                        # MOV EAX, imm32
    .long   \address
    mov     dr\n, eax
    mov     eax, (1 << (2*\n)) | ((\type) << (16+4*\n))
    mov     dr7, eax
.endm
.macro CAUGHT cause
    SHOWS   R_DR6, \cause, DR6_CAUSES
    TRAPS   DB
.endm
.macro NOT_CAUGHT
    SHOWS   R_DR6, 0, DR6_CAUSES
    PASSES
.endm

# --- data breakpoints: traps behind the access ---------------------------------------------------------------------------

.macro data_case mode, n, type, name, code, verdict:vararg
    CASE \mode, "\mode, DR\n, \type: \name"
    PREPARE
    watch   \n, DATA_BASE+0x40, \type
    RUN
    mov     ebx, 0x40
    \code
8:  \verdict
.endm
.irp mode, PM32+0, PM32+3, PM16+3, V86+0, REAL, PM32+3+PAGED
    data_case \mode, 0, WRITE+LEN4, "writing 4 bytes", "mov [bx], eax", CAUGHT 1
    data_case \mode, 0, WRITE+LEN4, "reading", "mov eax, [bx]", NOT_CAUGHT
    data_case \mode, 0, WRITE+LEN4, "writing in front", "mov [bx-4], eax", NOT_CAUGHT
    data_case \mode, 0, ACCESS+LEN4, "reading 4 bytes", "mov eax, [bx]", CAUGHT 1
    data_case \mode, 0, ACCESS+LEN4, "reading the last byte", "mov al, [bx+3]", CAUGHT 1
    data_case \mode, 0, ACCESS+LEN4, "reading the next byte", "mov al, [bx+4]", NOT_CAUGHT
.endr
    data_case PM32+3, 0, WRITE+LEN1, "writing the byte", "mov [ebx], al", CAUGHT 1
    data_case PM32+3, 0, WRITE+LEN1, "writing the next byte", "mov [ebx+1], al", NOT_CAUGHT
    data_case PM32+3, 0, WRITE+LEN1, "writing across it", "mov [ebx-1], ax", CAUGHT 1
    data_case PM32+3, 1, WRITE+LEN2, "writing the second byte", "mov [ebx+1], al", CAUGHT 2
    data_case PM32+3, 1, WRITE+LEN2, "writing the third byte", "mov [ebx+2], al", NOT_CAUGHT
    data_case PM32+3, 2, ACCESS+LEN1, "reading 4 bytes with it last", "mov eax, [ebx-3]", CAUGHT 4
    data_case PM32+3, 3, ACCESS+LEN4, "reading 4 bytes with its first last", "mov eax, [ebx-3]", CAUGHT 8
    data_case PM32+3, 0, WRITE+LEN4, "reading and writing", "add [ebx], eax", CAUGHT 1
    data_case PM32+3, 0, WRITE+LEN4, "cmp reads", "cmp [ebx], eax", NOT_CAUGHT
    data_case PM32+3, 0, ACCESS+LEN4, "push of it", "push dword ptr [ebx]", CAUGHT 1
    data_case PM32+3, 0, ACCESS+LEN4, "lea", "lea eax, [ebx]", NOT_CAUGHT
    data_case PM32+3, 0, ACCESS+LEN4, "bt", "bt dword ptr [ebx], 1", CAUGHT 1
    data_case PM32+3, 0, ACCESS+LEN4, "fld", "fld dword ptr [ebx]", CAUGHT 1
    data_case PM32+3, 0, WRITE+LEN4, "fst", "fst dword ptr [ebx]", CAUGHT 1
    data_case PM32+3, 0, WRITE+LEN4, "xchg", "xchg [ebx], eax", CAUGHT 1
    data_case PM32+3, 0, WRITE+LEN4, "sidt", "sidt [ebx]", CAUGHT 1
    data_case PM32+3, 0, ACCESS+LEN4, "call through it", "mov dword ptr ds:[0x80], 0; mov ecx, 0x80; mov eax, [ecx]", NOT_CAUGHT

    CASE PM32+3, "data breakpoint: movsb that writes it"
    PREPARE
    watch   0, DATA_BASE+0x40, WRITE+LEN1
    RUN
    mov     esi, 0x10
    mov     edi, 0x40
    movsb
8:
    CAUGHT  1

    CASE PM32+3, "data breakpoint: rep stosb traps behind the iteration that writes it, at the instruction"
    PREPARE
    watch   0, DATA_BASE+0x40, WRITE+LEN1
    RUN
    mov     edi, 0x3E
    mov     ecx, 8
8:  rep stosb
    SHOWS   R_ECX, 5
    SHOWS   R_EDI, 0x41
    CAUGHT  1

    CASE PM32+3, "data breakpoint: rep stosb traps behind the instruction after its last iteration"
    PREPARE
    watch   0, DATA_BASE+0x40, WRITE+LEN1
    RUN
    mov     edi, 0x3E
    mov     ecx, 3
    rep stosb
8:
    SHOWS   R_ECX, 0
    CAUGHT  1

    CASE PM32+3, "data breakpoint: push to it"
    PREPARE
    watch   0, STACK_BASE+3*STACK_STEP+STACK_TOP-4, WRITE+LEN4
    RUN
    push    eax
8:
    CAUGHT  1

    CASE PM32+3, "data breakpoint: call that pushes to it traps at the target"
    PREPARE
    watch   0, STACK_BASE+3*STACK_STEP+STACK_TOP-4, WRITE+LEN4
    RUN
    call    1f
    ud2
8:
1:
    CAUGHT  1

    CASE PM32+3, "data breakpoints: two at once show both"
    PREPARE
    mov     eax, DATA_BASE+0x40
    mov     dr1, eax
    mov     eax, DATA_BASE+0x42
    mov     dr2, eax
    mov     eax, 0x14 + (0x33<<20)
    mov     dr7, eax
    RUN
    mov     eax, ds:[0x40]
8:
    CAUGHT  6

    CASE PM32+3, "data breakpoint: an instruction that faults does not trap"
    PREPARE
    watch   0, DATA_BASE+0x40, ACCESS+LEN4
    RUN
    mov     ebx, 0x40
    xor     edx, edx
    xor     eax, eax
    mov     dword ptr ds:[0x80], 0
9:  div     dword ptr ds:[0x80]
    FAULTS  DE, NONE

    CASE PM32+3, "data breakpoint: not enabled"
    PREPARE
    mov     eax, DATA_BASE+0x40
    mov     dr0, eax
    mov     eax, (WRITE+LEN4)<<16
    mov     dr7, eax
    RUN
    mov     ds:[0x40], eax
    PASSES

    CASE PM32+3, "data breakpoint: G enables, too"
    PREPARE
    mov     eax, DATA_BASE+0x40
    mov     dr0, eax
    mov     eax, 2+((WRITE+LEN4)<<16)
    mov     dr7, eax
    RUN
    mov     ds:[0x40], eax
8:
    CAUGHT  1

    CASE PM32+3, "data breakpoint: LEN4 ignores the low bits of its address"
    PREPARE
    watch   0, DATA_BASE+0x43, WRITE+LEN4
    RUN
    mov     byte ptr ds:[0x41], 0
8:
    CAUGHT  1

# --- instruction breakpoints: faults --------------------------------------------------------------------------------------

.irp mode, PM32+0, PM32+3, PM16+3, V86+0, REAL
    CASE \mode, "\mode, instruction breakpoint: a fault in front of the instruction"
    PREPARE
    watch   0, CODE_BASE+9f, EXECUTE
    RUN
    mov     ax, 1
9:  mov     ax, 2
    SHOWS   R_EAX, 1, 0xFFFF
    SHOWS   R_DR6, 1, DR6_CAUSES
    FAULTS  DB, NONE
.endr

    CASE PM32+3, "instruction breakpoint: its frame has RF clear, unlike those of other faults"
    PREPARE
    watch   2, CODE_BASE+9f, EXECUTE
    RUN
    nop
9:  nop
    SHOWS   R_EFLAGS, 0, F_RF
    SHOWS   R_DR6, 4, DR6_CAUSES
    FAULTS  DB, NONE

    CASE PM32+3, "instruction breakpoint: RF lets one instruction through", F_RF
    PREPARE
    watch   0, CODE_BASE+1f, EXECUTE
    RUN
1:  nop
    PASSES

    CASE PM32+3, "instruction breakpoint: RF is clear behind one instruction", F_RF
    PREPARE
    watch   0, CODE_BASE+9f, EXECUTE
    RUN
    nop
9:  nop
    FAULTS  DB, NONE

    CASE PM32+3, "instruction breakpoint: only the first byte counts"
    PREPARE
    watch   0, CODE_BASE+1f+1, EXECUTE
    RUN
1:  mov     eax, 0x12345678
    PASSES

    CASE PM32+3, "instruction breakpoint: RF lasts through all iterations of a string instruction"
    PREPARE
    watch   0, CODE_BASE+1f, EXECUTE
    RUN
    mov     edi, 0x40
    mov     ecx, 3
    push    F_RF+2
    push    CODE32+27
    push    offset 1f
    iretd
1:  rep stosb
    SHOWS   R_ECX, 0
    PASSES

    CASE PM32+3, "instruction breakpoint: in front of the faults of its own instruction"
    PREPARE
    watch   0, CODE_BASE+9f, EXECUTE
    RUN
    nop
9:  ud2
    FAULTS  DB, NONE

    CASE PM32+3, "instruction breakpoint: data accesses do not strike it"
    PREPARE
    watch   0, DATA_BASE+0x40, EXECUTE
    RUN
    mov     eax, ds:[0x40]
    mov     ds:[0x40], eax
    PASSES

# --- RF in frames ----------------------------------------------------------------------------------------------------------

.macro rf_case name, value, code, verdict:vararg
    CASE PM32+3, "RF in the frame of \name is \value"
9:  \code
8:
    SHOWS   R_EFLAGS, \value*F_RF, F_RF
    \verdict
.endm
    rf_case "#UD", 1, "ud2", FAULTS UD, NONE
    rf_case "#GP", 1, "hlt", FAULTS GP, 0
    rf_case "INT3", 0, "int3", TRAPS BKPT
    rf_case "INT n that is refused", 1, "int 0x20", FAULTS GP, 0x102

    CASE PM32+3, "popfd clears RF"
    push    F_RF+2
    popfd
    pushfd
    pop     eax
    SHOWS   R_EAX, 0, F_RF
    PASSES

# --- I/O breakpoints --------------------------------------------------------------------------------------------------------

.macro io_case mode, address, type, name, code, verdict:vararg
    CASE \mode, "\mode, I/O breakpoint, \type: \name", 3*F_IOPL, CPUID_DE
    PREPARE
    mov     eax, CR4_DE
    mov     cr4, eax
    watch   0, \address, \type
    mov     dword ptr ds:[TSS_A+IO_MAP+0x10], 0
    RUN
    mov     edx, 0x80
    mov     esi, 0x40
    mov     edi, 0x40
    mov     ecx, 3
    \code
8:  \verdict
.endm
    io_case PM32+3, 0x80, IO+LEN1, "in", "in al, dx", CAUGHT 1
    io_case PM32+0, 0x80, IO+LEN1, "out", "out dx, al", CAUGHT 1
    io_case PM32+3, 0x80, IO+LEN1, "out imm8", "out 0x80, al", CAUGHT 1
    io_case PM32+3, 0x81, IO+LEN1, "a word across it", "in ax, dx", CAUGHT 1
    io_case PM32+3, 0x81, IO+LEN1, "the port in front", "in al, dx", NOT_CAUGHT
    io_case PM32+3, 0x80, IO+LEN4, "within 4 ports", "mov edx, 0x83; in al, dx", CAUGHT 1
    io_case PM32+3, 0x80, IO+LEN4, "behind 4 ports", "mov edx, 0x84; in al, dx", NOT_CAUGHT
    io_case PM32+3, 0x80, IO+LEN1, "outsb", "outsb", CAUGHT 1
    io_case PM32+3, 0x80, IO+LEN1, "memory at that address", "mov edx, 0xFFFFFF80; mov eax, ds:[0x40]", NOT_CAUGHT
    io_case V86+3, 0x80, IO+LEN1, "in", "in al, dx", CAUGHT 1
    io_case REAL, 0x80, IO+LEN1, "in", "in al, dx", CAUGHT 1

# --- the debug registers themselves --------------------------------------------------------------------------------------------

    CASE PM32+0, "GD: an access to a debug register is a fault, with BD; the handler runs with GD clear"
    PREPARE
    mov     eax, DR7_GD
    mov     dr7, eax
    RUN
9:  mov     ebx, dr3
    SHOWS   R_EBX, 0xB0B1B2B3
    SHOWS   R_DR6, DR6_BD, DR6_CAUSES
    SHOWS   R_DR7, 0, DR7_GD
    FAULTS  DB, NONE

    CASE PM32+0, "GD: writing is a fault, too"
    PREPARE
    mov     eax, DR7_GD
    mov     dr7, eax
    RUN
9:  mov     dr0, ebx
    SHOWS   R_DR6, DR6_BD, DR6_CAUSES
    FAULTS  DB, NONE

.irp cpl, 1, 2, 3
.irp n, 0, 6, 7
    CASE PM32+\cpl, "ring \cpl: mov from DR\n is #GP(0)"
9:  mov     eax, dr\n
    FAULTS  GP, 0
    CASE PM32+\cpl, "ring \cpl: mov to DR\n is #GP(0)"
9:  mov     dr\n, eax
    FAULTS  GP, 0
.endr
.endr

    CASE PM32+0, "DR0 to DR3 hold 32 bits"
    mov     eax, 0xDEADBEEF
    mov     dr0, eax
    mov     dr3, eax
    mov     ebx, dr0
    mov     ecx, dr3
    SHOWS   R_EBX, 0xDEADBEEF
    SHOWS   R_ECX, 0xDEADBEEF
    PASSES

    CASE PM32+0, "fixed bits of DR6 and DR7"
    xor     eax, eax
    mov     dr6, eax
    mov     dr7, eax
    mov     ebx, dr6
    mov     ecx, dr7
    mov     eax, 0xFFFF
    mov     dr6, eax
    mov     edx, dr6
    SHOWS   R_EBX, 0xFFFF0FF0
    SHOWS   R_ECX, 0x400
    SHOWS   R_EDX, 0xFFFFEFFF
    PASSES

    CASE PM32+0, "DR4 and DR5 are DR6 and DR7 without CR4.DE"
    mov     eax, 0x0F
    .byte   0x0F, 0x23, 0xE0            # MOV DR4, EAX
    mov     ebx, dr6
    SHOWS   R_EBX, 0x0F, 0x0F
    PASSES

.irp code, 0xE0, 0xE8
    CASE PM32+0, "mov to DR \code is #UD with CR4.DE", 2, CPUID_DE
    PREPARE
    mov     eax, CR4_DE
    mov     cr4, eax
    RUN
    xor     eax, eax
9:  .byte   0x0F, 0x23, \code
    FAULTS  UD, NONE
.endr

    CASE PM32+0, "the processor does not clear BS"
    PREPARE
    watch   0, DATA_BASE+0x40, WRITE+LEN4
    RUN
    mov     eax, DR6_BS
    mov     dr6, eax
    mov     ds:[0x40], eax
8:
    CAUGHT  DR6_BS+1

# --- TF -----------------------------------------------------------------------------------------------------------------------

.macro step_case mode, name, code, verdict:vararg
    CASE \mode, "\mode, TF: \name", F_TF
    \code
    \verdict
.endm
.macro STEPPED
    SHOWS   R_DR6, DR6_BS, DR6_CAUSES
    SHOWS   R_EFLAGS, F_TF, F_TF
    TRAPS   DB
.endm
.irp mode, PM32+0, PM32+3, PM16+3, V86+0, REAL
    step_case \mode, "a trap behind the first instruction", "mov ax, 1; 8: mov ax, 2", STEPPED
    step_case \mode, "behind a branch at its target", "jmp 1f; ud2; 8: 1: nop", STEPPED
    step_case \mode, "an instruction that faults is not stepped", "9: ud2", FAULTS UD, NONE
    step_case \mode, "INT3 enters its handler first", "int3; 8:", TRAPS BKPT
    step_case \mode, "pause", "pause; 8:", STEPPED
    step_case \mode, "cpuid", "cpuid; 8:", STEPPED
.endr
.macro iteration mode
    CASE \mode, "\mode, TF: behind each iteration of a string instruction"
    mov     si, 0x20
    mov     di, 0x40
    mov     cx, 3
    movzx   ecx, cx
    movzx   esi, si
    movzx   edi, di
    push    F_TF+2
    popf
8:  rep movsb
    SHOWS   R_ECX, 2
    SHOWS   R_ESI, 0x21
    SHOWS   R_EDI, 0x41
    STEPPED
.endm
.irp mode, PM32+0, PM32+3, PM16+3, V86+3, REAL
    iteration \mode

    CASE \mode, "\mode, TF: behind the last iteration at the next instruction"
    mov     ecx, 1
    mov     esi, 0x20
    mov     edi, 0x40
    push    F_TF+2
    popf
    rep movsb
8:
    SHOWS   R_ECX, 0
    STEPPED

    CASE \mode, "\mode, TF: popf that sets it is not stepped, the next instruction is"
    push    F_TF+2
    popf
    nop
8:
    STEPPED
.endr

    CASE PM32+3, "TF: popfd that clears it is stepped"
    push    2
    push    F_TF+2
    popfd
    popfd
8:  nop
    SHOWS   R_DR6, DR6_BS, DR6_CAUSES
    SHOWS   R_EFLAGS, 0, F_TF
    TRAPS   DB

    CASE PM32+0, "TF: behind mov ss no trap, but behind the next instruction"
    mov     ax, STACK32
    push    F_TF+2
    popfd
    mov     ss, ax
    nop
8:
    SHOWS   R_ESP, STACK_TOP
    STEPPED

    CASE PM32+3, "TF: int enters its handler without a step there"
    PREPARE
    INTERRUPT_GATE 0x20, CODE32, 1f, P+DPL3+A_INT32
    RUN
    push    F_TF+2
    popfd
    int     0x20
1:  pushfd
    pop     eax
    SHOWS   R_EAX, 0, F_TF
    SHOWS   R_CS, CODE32
    PASSES

    CASE PM32+3, "TF with a data breakpoint shows both"
    PREPARE
    watch   0, DATA_BASE+0x40, WRITE+LEN4
    RUN
    push    F_TF+2
    popfd
    mov     ds:[0x40], eax
8:
    CAUGHT  DR6_BS+1

    CASE PM32+3, "ICEBP traps whatever the gate's DPL, without BS"
    .byte   0xF1
8:
    SHOWS   R_DR6, 0, DR6_BS+0xF
    TRAPS   DB
