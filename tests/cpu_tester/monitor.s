# The monitor of the processor tester: comes out of reset, runs the tests one after another, says how each went.
#
# It lives in 32-bit ring 0 with paging off and flat DS and ES. No BIOS, no interrupts, no stack are expected. The only
# devices are those it reports on: port E9h and COM1 (text), port 80h (high byte of a test's number, its group), port
# 190h (the number, a word), port F4h at the end (0: all passed, 1: not) and port 8900h, where Bochs ends a run.
#
# Before each test all tables and all memory that tests use are laid out again. A test ends in an exception, INT3 at
# the latest; every vector leads to `record_event`, which keeps what the SDM says a handler sees and goes back to
# the monitor's loop.

.include "frame.inc"

# Variables.
.equ saved_esp, MONITOR_VARIABLES
.equ saved_ss, MONITOR_VARIABLES + 4
.equ current, MONITOR_VARIABLES + 8     # the test that runs; 0: none
.equ tests_run, MONITOR_VARIABLES + 12
.equ tests_failed, MONITOR_VARIABLES + 16
.equ features, MONITOR_VARIABLES + 20   # CPUID.1 EDX
.equ tests_skipped, MONITOR_VARIABLES + 24
.equ started, MONITOR_VARIABLES + 28    # has a value that memory does not come up with, once the variables are valid
.equ STARTED, 0x31415926

# The fields of an entry in .cases, which `end_of_case` writes.
.equ C_NUMBER, 0                        # words
.equ C_MODE, 2
.equ C_START, 4
.equ C_PREPARE, 8                       # then double words
.equ C_FLAGS, 12
.equ C_NAME, 16
.equ C_CHECKS, 20
.equ C_VECTOR, 24
.equ C_ERROR, 28
.equ C_EIP, 32
.equ C_NEEDS, 36
.equ C_LACKS, 40
.equ C_SIZE, 44

.equ COM1, 0x3F8
.equ STUB_SIZE, 8                       # of each vector's stub

# --- reset ---------------------------------------------------------------------------------------------------------

    .section .reset, "ax"
    .code16
    .byte 0xEA                          # JMP F000:from_reset, which makes CS what it is in all real-mode tests
    .word from_reset, CODE_BASE >> 4

    .text
    .code16

# Offset 0, where wild jumps end.
    int3

# From the reset vector: real mode, CS = F000h.
from_reset:
    cli
    cld
    mov     al, 2                       # A20 on, where port 92h has it
    out     0x92, al
    xor     eax, eax
    mov     cr4, eax
    mov     eax, 0x10                   # caches on, ET; paging, alignment checks off
    mov     cr0, eax
    data32 lgdt cs:[monitor_gdtr]
    inc     eax
    mov     cr0, eax                    # PE
    data32 ljmp MON_CODE, offset start

    .code32
start:
    mov     ax, MON_DATA
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     esp, HANDLER_STACK          # what is on the monitor's own is needed after a shutdown
    call    open_serial_port
    cmp     dword ptr ds:[started], STARTED
    je      shut_down
    mov     esp, MONITOR_STACK
    mov     dword ptr ds:[started], STARTED
    mov     dword ptr ds:[current], 0
    mov     dword ptr ds:[tests_run], 0
    mov     dword ptr ds:[tests_failed], 0
    mov     dword ptr ds:[tests_skipped], 0
    mov     eax, 1
    cpuid
    mov     ds:[features], edx
    lea     esi, greeting_text
    call    put_text
    mov     esi, offset first_case
next_case:
    cmp     word ptr ds:[esi + C_NUMBER], -1
    je      summary
    call    run_case
    add     esi, C_SIZE
    jmp     next_case

# Reset while a test was running: the processor has shut down in it. Memory is what it was.
shut_down:
    mov     edi, RECORD
    mov     ecx, 16
    mov     eax, NONE
    rep stosd
    mov     dword ptr ds:[R_VECTOR], SHUTDOWN
    jmp     leave_handler

# All tests are done: say so and stop.
summary:
    mov     dword ptr ds:[started], 0
    mov     eax, ds:[tests_run]
    call    put_decimal
    lea     esi, tests_text
    call    put_text
    mov     eax, ds:[tests_failed]
    call    put_decimal
    lea     esi, failed_text
    call    put_text
    mov     eax, ds:[tests_skipped]
    call    put_decimal
    lea     esi, skipped_text
    call    put_text
    xor     eax, eax
    cmp     ds:[tests_failed], eax
    setne   al
stop:
    mov     dx, 0xF4
    out     dx, al
    mov     dx, 0x8900
    mov     esi, offset shutdown_text
    mov     ecx, 8
    cld
    rep outsb
    cli
1:  hlt
    jmp     1b

# --- one test --------------------------------------------------------------------------------------------------------

# Run the test that ESI points to. Changes all registers but ESI, ESP and the segment registers.
run_case:
    movzx   eax, word ptr ds:[esi + C_NUMBER]
    mov     dx, 0x190
    out     dx, ax
    xchg    al, ah
    out     0x80, al
    xchg    al, ah
    call    put_number
    mov     eax, ds:[features]
    mov     edx, eax
    and     edx, ds:[esi + C_NEEDS]
    cmp     edx, ds:[esi + C_NEEDS]
    jne     skip_case
    test    eax, ds:[esi + C_LACKS]
    jnz     skip_case
    inc     dword ptr ds:[tests_run]
    push    esi
    call    lay_out
    mov     esi, [esp]
    test    word ptr ds:[esi + C_MODE], PAGED
    jz      1f
    call    lay_out_pages
    mov     esi, [esp]
1:  mov     eax, ds:[esi + C_PREPARE]
    test    eax, eax
    jz      1f
    call    eax
    mov     esi, [esp]
1:  mov     ds:[current], esi
    mov     ds:[saved_esp], esp
    test    word ptr ds:[esi + C_MODE], PAGED
    jz      1f
    mov     eax, PAGE_DIRECTORY
    mov     cr3, eax
    mov     eax, cr0
    or      eax, 0x80000000
    mov     cr0, eax
1:  mov     al, ds:[esi + C_MODE]
    and     al, 0xF0
    cmp     al, REAL
    je      enter_real
    cmp     al, V86
    je      enter_v86
    jmp     enter_protected

# From `record_event`, in ring 0 with flat segments and on the monitor's stack, whatever else is left of the test.
case_is_over:
    mov     esi, ds:[current]
    mov     dword ptr ds:[current], 0
    mov     eax, 0x11                   # PE, ET
    mov     cr0, eax
    xor     eax, eax
    mov     cr4, eax
    call    judge
    pop     esi
    ret

skip_case:
    inc     dword ptr ds:[tests_skipped]
    push    esi
    lea     esi, skip_text
    call    put_text
    mov     esi, [esp]
    mov     esi, ds:[esi + C_NAME]
    call    put_line
    pop     esi
    ret

# --- laying out ------------------------------------------------------------------------------------------------------

# Make everything as it is at the start of each test. Changes all registers.
lay_out:
    cld
    lgdt    cs:[monitor_gdtr]
    xor     eax, eax
    mov     dr7, eax
    mov     dr6, eax
    mov     cr2, eax
    fninit                              # a reset leaves eight full registers and all errors unmasked
    mov     edi, RECORD                 # the record: what no test expects
    mov     ecx, 0x40
    mov     eax, 0xEEEEEEEE
    rep stosd
    mov     edi, GDT
    mov     esi, offset gdt_template
    mov     ecx, (gdt_template_end - gdt_template) / 4
    rep movsd
    mov     ecx, (GDT_SIZE - (gdt_template_end - gdt_template)) / 4
    xor     eax, eax
    rep stosd
    mov     edi, LDT
    mov     ecx, LDT_SIZE / 4
    rep stosd
    mov     edi, TSS_A
    mov     ecx, 0x1000 / 4             # four task-state segments
    rep stosd

    # IDT: interrupt gates to the stubs, all of DPL 0 but INT3's, INTO's.
    mov     edi, IDT
    mov     eax, (MON_CODE << 16) + offset stubs_32
    mov     ecx, VECTORS
1:  stosd
    mov     dword ptr [edi], (P + A_INT32) << 8
    add     edi, 4
    add     eax, STUB_SIZE
    loop    1b
    or      byte ptr ds:[IDT + 8 * BKPT + 5], DPL3
    or      byte ptr ds:[IDT + 8 * OF + 5], DPL3

    # The real-mode vectors.
    xor     edi, edi
    mov     eax, ((CODE_BASE >> 4) << 16) + offset stubs_16
    mov     ecx, VECTORS
1:  stosd
    add     eax, STUB_SIZE
    loop    1b

    # The monitor's task.
    mov     dword ptr ds:[TSS_A + 4], HANDLER_STACK
    mov     dword ptr ds:[TSS_A + 8], MON_DATA
    mov     dword ptr ds:[TSS_A + 0x0C], STACK_TOP
    mov     dword ptr ds:[TSS_A + 0x10], STACK32 + 9
    mov     dword ptr ds:[TSS_A + 0x14], STACK_TOP
    mov     dword ptr ds:[TSS_A + 0x18], STACK32 + 18
    mov     dword ptr ds:[TSS_A + 0x60], S_LDT
    mov     dword ptr ds:[TSS_A + 0x64], IO_MAP << 16
    mov     edi, TSS_A + IO_MAP
    mov     ecx, IO_MAP_SIZE
    mov     al, 0xFF
    rep stosb

    # INT3 behind the end of the code segments, for processors that run on there.
    mov     dword ptr ds:[CODE_BASE + 0x10000], 0xCCCCCCCC

    # The data, 64 KiB, and the stacks.
    mov     edi, DATA_BASE
    xor     eax, eax
1:  stosb
    inc     eax
    cmp     edi, DATA_BASE + 0x1000
    jb      1b
    mov     ecx, (STACK_BASE - DATA_BASE - 0x1000 + 3 * STACK_STEP + 0x2000) / 4
    xor     eax, eax
    rep stosd

    lgdt    cs:[gdtr]
    lidt    cs:[idtr]
    mov     ax, S_LDT
    lldt    ax
    mov     ax, S_TSS_A
    ltr     ax
    ret

# Identity tables for the first 4 MiB, every page user, writable and present, and for the last 4 MiB, for the monitor.
lay_out_pages:
    mov     edi, PAGE_DIRECTORY
    mov     dword ptr [edi], PAGE_TABLE + 7
    add     edi, 4
    mov     ecx, 1022
    xor     eax, eax
    rep stosd
    mov     dword ptr [edi], TOP_TABLE + 3
    mov     edi, PAGE_TABLE
    mov     eax, 7
    mov     ecx, 1024
1:  stosd
    add     eax, 0x1000
    loop    1b
    mov     edi, TOP_TABLE
    mov     eax, 0xFFC00003
    mov     ecx, 1024
1:  stosd
    add     eax, 0x1000
    loop    1b
    ret

# --- entering a test -------------------------------------------------------------------------------------------------

# What the registers hold when a test starts. ESP and the segment registers depend on its mode.
.macro load_registers
    mov     eax, 0xA0A1A2A3
    mov     ebx, 0xB0B1B2B3
    mov     ecx, 0xC0C1C2C3
    mov     edx, 0xD0D1D2D3
    mov     esi, 0x51525354
    mov     edi, 0xD4D5D6D7
    mov     ebp, 0xB4B5B6B7
.endm

# Rings 0-3 of protected mode: the frame of an IRET to there; for ring 0, which loads no stack, on its own stack.
enter_protected:
    movzx   ebx, word ptr ds:[esi + C_MODE]
    mov     eax, ebx
    and     eax, 3
    imul    eax, eax, 9                 # what a selector of the ring is beyond that of ring 0
    lea     ecx, [eax + STACK32]
    lea     edx, [eax + CODE32]
    test    bl, PM16
    jz      1f
    lea     ecx, [eax + STACK16]
    lea     edx, [eax + CODE16]
1:  push    ecx
    push    STACK_TOP
    test    eax, eax
    jnz     1f
    lss     esp, [esp]
1:  push    dword ptr ds:[esi + C_FLAGS]
    push    edx
    movzx   edx, word ptr ds:[esi + C_START]
    push    edx
    add     eax, DATA
    mov     fs, ax
    mov     gs, ax
    mov     es, ax
    mov     ds, ax
    load_registers
    iretd

# V86 with IOPL 0-3: DS, ES, FS and GS are 2000h, SS:SP is 3000:1000.
enter_v86:
    mov     eax, DATA_BASE >> 4
    push    eax                         # GS, FS, DS, ES
    push    eax
    push    eax
    push    eax
    push    STACK_BASE >> 4
    push    STACK_TOP
    movzx   eax, byte ptr ds:[esi + C_MODE]
    and     eax, 3
    shl     eax, 12
    or      eax, ds:[esi + C_FLAGS]
    or      eax, F_VM
    push    eax
    push    CODE_BASE >> 4
    movzx   eax, word ptr ds:[esi + C_START]
    push    eax
    load_registers
    iretd

# Real mode, with the segments of V86 and limits of 64 KiB.
enter_real:
    mov     eax, ds:[esi + C_FLAGS]
    movzx   ebx, word ptr ds:[esi + C_START]
    lidt    cs:[real_idtr]
    ljmp    REAL_CODE, offset 1f
    .code16
1:  mov     cx, REAL_DATA
    mov     ds, cx
    mov     es, cx
    mov     fs, cx
    mov     gs, cx
    mov     ss, cx
    mov     ecx, cr0
    and     cl, 0xFE
    mov     cr0, ecx
    ljmp    CODE_BASE >> 4, offset 1f
1:  mov     cx, DATA_BASE >> 4
    mov     ds, cx
    mov     es, cx
    mov     fs, cx
    mov     gs, cx
    mov     cx, STACK_BASE >> 4
    mov     ss, cx
    mov     esp, STACK_TOP
    push    ax
    push    CODE_BASE >> 4
    push    bx
    load_registers
    iretw
    .code32

# --- handlers --------------------------------------------------------------------------------------------------------

# A stub for each vector pushes its number. Those of protected mode leave double words, those of real mode words.
    .balign 8
stubs_32:
    .set vector, 0
    .rept VECTORS
    .byte   0x6A, vector                # PUSH imm8
    .byte   0xE9                        # JMP rel32
    .long   record_event - . - 4
    .balign STUB_SIZE
    .set vector, vector + 1
    .endr
stubs_16:
    .set vector, 0
    .rept VECTORS
    .byte   0x6A, vector                # PUSH imm8
    .byte   0xE9                        # JMP rel16
    .word   record_real_event - . - 2
    .balign STUB_SIZE
    .set vector, vector + 1
    .endr

# Vectors with an error code: 8, 10-14, 17.
.equ WITH_ERROR_CODE, 0x27D00

# From a stub in 32-bit ring 0. On the stack: the vector, the error code if it has one, EIP, CS, EFLAGS, and what an
# outer ring or V86 adds. Keep all of it with the registers and go back to the monitor's loop.
record_event:
    pushad
    push    ds
    push    es
    push    fs
    push    gs
    mov     ax, MON_DATA
    mov     ds, ax
    mov     es, ax
    cld
    mov     ax, ss                      # the stack may be one of 16 bits
    lar     ebx, eax
    mov     ebp, esp
    test    ebx, 1 << 22
    jnz     1f
    movzx   ebp, bp
1:  call    record_registers
    movzx   eax, byte ptr [ebp + 48]    # the vector
    mov     ds:[R_VECTOR], eax
    add     ebp, 52
    mov     dword ptr ds:[R_ERROR], NONE
    mov     ecx, WITH_ERROR_CODE
    bt      ecx, eax
    jnc     1f
    mov     eax, [ebp]
    mov     ds:[R_ERROR], eax
    add     ebp, 4
1:  mov     eax, [ebp]
    mov     ds:[R_EIP], eax
    mov     edx, [ebp + 4]
    mov     ds:[R_CS], edx
    mov     eax, [ebp + 8]
    mov     ds:[R_EFLAGS], eax
    add     ebp, 12
    mov     ecx, ebp                    # the stack of ring 0, if that was interrupted
    mov     ebx, ss
    test    eax, F_VM
    jnz     1f
    test    dl, 3
    jz      2f
1:  mov     ecx, [ebp]
    mov     ebx, [ebp + 4]
    test    eax, F_VM
    jz      2f
    mov     eax, [ebp + 8]
    mov     ds:[R_ES], eax
    mov     eax, [ebp + 12]
    mov     ds:[R_DS], eax
    mov     eax, [ebp + 16]
    mov     ds:[R_FS], eax
    mov     eax, [ebp + 20]
    mov     ds:[R_GS], eax
2:  mov     ds:[R_ESP], ecx
    mov     ds:[R_SS], ebx
    jmp     leave_handler

# From a real-mode stub. On the stack: the vector, IP, CS, FLAGS, a word each. Protected mode first: the segments of the
# test may be anything, and SS stays what it was.
record_real_event:
    .code16
    pushad
    data32 push ds
    data32 push es
    data32 push fs
    data32 push gs
    data32 lgdt cs:[gdtr]
    data32 lidt cs:[idtr]
    mov     eax, cr0
    inc     ax
    mov     cr0, eax
    data32 ljmp MON_CODE, offset 1f
    .code32
1:  mov     ax, MON_DATA
    mov     ds, ax
    mov     es, ax
    cld
    movzx   ebp, sp
    call    record_registers
    movzx   eax, word ptr [ebp + 48]
    mov     ds:[R_VECTOR], eax
    mov     dword ptr ds:[R_ERROR], NONE
    movzx   eax, word ptr [ebp + 50]
    mov     ds:[R_EIP], eax
    movzx   eax, word ptr [ebp + 52]
    mov     ds:[R_CS], eax
    movzx   eax, word ptr [ebp + 54]
    mov     ds:[R_EFLAGS], eax
    add     ebp, 56
    movzx   ebp, bp
    mov     ds:[R_ESP], ebp
    mov     eax, ss
    mov     ds:[R_SS], eax

# To the monitor's stack and its loop. A test that is not running has failed in the monitor: nothing can be trusted.
leave_handler:
    xor     eax, eax
    mov     dr7, eax
    mov     ax, MON_DATA
    mov     ss, ax
    mov     esp, ds:[saved_esp]
    cmp     dword ptr ds:[current], 0
    jne     case_is_over
    mov     esp, MONITOR_STACK
    lea     esi, lost_text
    call    put_text
    mov     esi, offset no_case
    call    put_event
    mov     al, 2
    jmp     stop

# Keep what lies at SS:EBP (GS, FS, ES, DS, then PUSHAD's registers) and the system registers. Changes EAX, ECX, ESI, EDI.
record_registers:
    mov     eax, [ebp]
    mov     ds:[R_GS], eax
    mov     eax, [ebp + 4]
    mov     ds:[R_FS], eax
    mov     eax, [ebp + 8]
    mov     ds:[R_ES], eax
    mov     eax, [ebp + 12]
    mov     ds:[R_DS], eax
    mov     edi, R_EDI
    lea     esi, [ebp + 16]
    mov     ecx, 8
    rep movs dword ptr es:[edi], dword ptr ss:[esi]
    lea     eax, [ebp + 52]
    mov     ds:[R_HANDLER_ESP], eax
    mov     eax, cr2
    mov     ds:[R_CR2], eax
    mov     eax, dr6
    mov     ds:[R_DR6], eax
    mov     eax, dr7
    mov     ds:[R_DR7], eax
    mov     eax, cr0
    mov     ds:[R_CR0], eax
    xor     eax, eax
    str     ax
    mov     ds:[R_TR], eax
    ret

# --- judging ---------------------------------------------------------------------------------------------------------

# Compare the record with what the test at ESI expects, and report. Changes all registers but ESI.
judge:
    xor     ebx, ebx                    # what is wrong
    mov     eax, ds:[esi + C_VECTOR]
    cmp     eax, ds:[R_VECTOR]
    setne   bl
    mov     eax, ds:[esi + C_ERROR]
    cmp     eax, ds:[R_ERROR]
    setne   al
    or      bl, al
    mov     eax, ds:[esi + C_EIP]
    cmp     eax, ds:[R_EIP]
    setne   al
    or      bl, al
    mov     edi, ds:[esi + C_CHECKS]
1:  cmp     dword ptr ds:[edi], 0
    je      1f
    call    is_shown
    setne   al
    or      bl, al
    add     edi, 16
    jmp     1b
1:  test    bl, bl
    jnz     1f
    push    esi
    lea     esi, ok_text
    call    put_text
    mov     esi, [esp]
    mov     esi, ds:[esi + C_NAME]
    call    put_line
    pop     esi
    ret

1:  inc     dword ptr ds:[tests_failed]
    push    esi
    lea     esi, bad_text
    call    put_text
    mov     esi, [esp]
    mov     esi, ds:[esi + C_NAME]
    call    put_line
    mov     esi, [esp]
    call    put_event
    mov     edi, ds:[esi + C_CHECKS]
1:  cmp     dword ptr ds:[edi], 0
    je      1f
    call    is_shown
    je      2f
    call    put_check
2:  add     edi, 16
    jmp     1b
1:  pop     esi
    ret

# ZF: what the check at EDI (name, address, mask, value) asks for is so. EAX is what is there, under the mask.
is_shown:
    mov     eax, ds:[edi + 4]
    mov     eax, ds:[eax]
    and     eax, ds:[edi + 8]
    cmp     eax, ds:[edi + 12]
    ret

# The vectors, error codes and addresses that the test at ESI expects and that came. Changes EAX, ECX, EDX.
put_event:
    push    esi
    lea     esi, expected_text
    call    put_text
    mov     esi, [esp]
    lea     esi, [esi + C_VECTOR]
    call    put_three
    lea     esi, got_text
    call    put_text
    mov     esi, R_VECTOR
    call    put_three
    lea     esi, at_text
    call    put_text
    mov     eax, ds:[R_CS]
    call    put_hex
    mov     esi, offset line_text
    call    put_text
    pop     esi
    ret

# A check that failed, at EDI.
put_check:
    push    esi
    lea     esi, indent_text
    call    put_text
    mov     esi, ds:[edi]
    call    put_text
    lea     esi, expected_text
    call    put_text
    mov     eax, ds:[edi + 12]
    call    put_hex
    lea     esi, got_text
    call    put_text
    call    is_shown
    call    put_hex
    lea     esi, line_text
    call    put_text
    pop     esi
    ret

# Three double words at ESI: vector, error code, EIP.
put_three:
    mov     eax, ds:[esi]
    call    put_hex
    mov     eax, ds:[esi + 4]
    call    put_hex
    mov     eax, ds:[esi + 8]
    jmp     put_hex

# --- saying ----------------------------------------------------------------------------------------------------------

open_serial_port:
    mov     edi, offset serial_set_up
    mov     ecx, 5
1:  movzx   edx, byte ptr ds:[edi]
    add     edx, COM1
    mov     al, ds:[edi + 1]
    out     dx, al
    add     edi, 2
    loop    1b
    ret

# The character in AL, to port E9h and, once its transmitter is free, to COM1. Waits no longer than for 64K readings.
put_character:
    push    ecx
    push    edx
    out     0xE9, al
    mov     ah, al
    mov     ecx, 0x10000
    mov     edx, COM1 + 5
1:  in      al, dx
    test    al, 0x20
    loopz   1b
    mov     al, ah
    mov     edx, COM1
    out     dx, al
    pop     edx
    pop     ecx
    ret

# The text at ESI, up to a zero.
put_text:
    mov     al, ds:[esi]
    inc     esi
    test    al, al
    jz      1f
    call    put_character
    jmp     put_text
1:  ret

# The same and the end of the line.
put_line:
    call    put_text
    lea     esi, line_text
    jmp     put_text

# EAX in hexadecimal, with a space in front.
put_hex:
    push    ecx
    push    edx
    mov     edx, eax
    mov     al, ' '
    call    put_character
    mov     ecx, 8
put_digits:
    rol     edx, 4
    mov     al, dl
    and     al, 0x0F
    cmp     al, 10
    sbb     al, 0x69                    # the digit's character
    das
    call    put_character
    loop    put_digits
    pop     edx
    pop     ecx
    ret

# The number of a test in AX, four digits.
put_number:
    push    ecx
    push    edx
    mov     edx, eax
    shl     edx, 16
    mov     ecx, 4
    jmp     put_digits

# EAX in decimal.
put_decimal:
    push    edx
    push    ecx
    mov     ecx, 10
    xor     edx, edx
    div     ecx
    test    eax, eax
    jz      1f
    call    put_decimal
1:  mov     al, dl
    add     al, '0'
    call    put_character
    pop     ecx
    pop     edx
    ret

# --- tables ----------------------------------------------------------------------------------------------------------

    .balign 4
monitor_gdtr:                           # in the code segment, where real mode finds them, too
    .word   gdt_template_end - gdt_template - 1
    .long   gdt_template
gdtr:
    .word   GDT_SIZE - 1
    .long   GDT
idtr:
    .word   8 * VECTORS - 1
    .long   IDT
real_idtr:
    .word   0x3FF
    .long   0

    .section .rodata, "a"

# Offset from COM1 and value: DLAB, 115200 bit/s, 8 bits without parity, FIFOs on.
serial_set_up:
    .byte   3, 0x80, 0, 1, 1, 0, 3, 3, 2, 1

# EIP of no test: what `put_event` shows when the monitor itself was interrupted.
no_case:
    .fill   C_SIZE, 1, 0

greeting_text:  .asciz "processor tester\r\n"
ok_text:        .asciz " ok   "
bad_text:       .asciz " BAD  "
skip_text:      .asciz " skip "
indent_text:    .asciz "     "
expected_text:  .asciz " expected"
got_text:       .asciz " got"
at_text:        .asciz " cs"
line_text:      .asciz "\r\n"
tests_text:     .asciz " tests, "
failed_text:    .asciz " failed, "
skipped_text:   .asciz " left out\r\n"
lost_text:      .asciz "\r\nthe monitor was interrupted:"
shutdown_text:  .ascii "Shutdown"

# One descriptor: base, limit, access, bits 23:20.
.macro entry base, limit, access, size
    .word   (\limit) & 0xFFFF, (\base) & 0xFFFF
    .byte   ((\base) >> 16) & 0xFF, \access, ((\size) << 4) | (((\limit) >> 16) & 0x0F), ((\base) >> 24) & 0xFF
.endm

# The same for DPL 0 to 3; `step` is added to the base each time.
.macro entries base, step, limit, access, size
    entry   \base, \limit, (\access+DPL0), \size
    entry   (\base+\step), \limit, (\access+DPL1), \size
    entry   (\base+2*\step), \limit, (\access+DPL2), \size
    entry   (\base+3*\step), \limit, (\access+DPL3), \size
.endm

    .balign 8
gdt_template:
    .quad   0
    entry   CODE_BASE, 0xFFFFF, P+XR+ACCESSED, B32+G       # MON_CODE, with what is below 4 GiB, too
    entry   0, 0xFFFFF, P+RW+ACCESSED, B32+G             # MON_DATA
    entry   CODE_BASE, 0xFFFF, P+XR+ACCESSED, B16          # REAL_CODE
    entry   0, 0xFFFF, P+RW+ACCESSED, B16                  # REAL_DATA
    entries CODE_BASE, 0, 0xFFFF, P+XR, B32                  # CODE32
    entries CODE_BASE, 0, 0xFFFF, P+XR, B16                  # CODE16
    entries DATA_BASE, 0, 0xFFFF, P+RW, B32                  # DATA
    entries STACK_BASE, STACK_STEP, STACK_TOP-1, P+RW, B32 # STACK32
    entries STACK_BASE, STACK_STEP, STACK_TOP-1, P+RW, B16 # STACK16
    entries CODE_BASE, 0, 0xFFFF, P+CONF_XR, B32             # CONF32
    entry   LDT, LDT_SIZE-1, P+A_LDT, 0                    # S_LDT
    entry   TSS_A, IO_MAP+IO_MAP_SIZE-1, P+A_TSS32, 0    # S_TSS_A
    entry   TSS_B, 0x67, P+A_TSS32, 0                        # S_TSS_B
    entry   TSS_C, 0x67, P+A_TSS32, 0                        # S_TSS_C
    entry   TSS_16, 0x2B, P+A_TSS16, 0                       # S_TSS_16
gdt_template_end:

    .section .cases, "a"
first_case:
