# What is printed, the tables of protected mode, and all variables.

title:
    .asciz "glassvisor demo guest: critical instructions and interrupts"
real_mode_heading:
    .asciz "REAL    what it saw                       on a bare processor"
protected_mode_heading:
    .asciz "RING 0  what it saw                       on a bare processor"
done:
    .asciz "done, halting"
totals:
    .asciz "glassvisor demo: %n checks, %n wrong"
verdict_ok:
    .asciz "ok"
verdict_wrong:
    .asciz "WRONG"
new_line:
    .byte 13, 10, 0

# A row: its name, what it saw (see `format`), what a bare processor shows. An empty name ends a table.
.macro row name, saw, bare
    .asciz \name
    .asciz \saw
    .asciz \bare
.endm

.set CHECKS, 18
.set RESULTS, CHECKS + 2                # and timer and keyboard

real_mode_rows:
    row "SGDT", "limit %w base %d", "what LGDT loaded"
    row "SIDT", "limit %w base %d", "what LIDT loaded"
    row "SLDT", "#UD at %w", "#UD in real mode"
    row "SMSW", "%w of CR0 %d", "CR0 bits 15-0 with PE clear"
    row "PUSHF", "after STI %w after CLI %w", "IF as STI and CLI left it"
    row "POPF", "7002 came back as %w", "NT and IOPL set and IF clear"
    row "LAR", "#UD at %w", "#UD in real mode"
    row "LSL", "#UD at %w", "#UD in real mode"
    row "VERR", "#UD at %w", "#UD in real mode"
    row "VERW", "#UD at %w", "#UD in real mode"
    row "POP", "ES %w reads %d", "base is 16 times ES"
    row "PUSH", "ES %w CS %w", "the selectors as loaded"
    row "CALL", "in CS %w from CS %w", "CS and IP on the stack"
    row "JMP", "in CS %w back in CS %w", "the selectors given"
    row "INT n", "flags saved %w inside %w", "IF saved and cleared"
    row "RET", "in CS %w back in CS %w", "the selector on the stack"
    row "STR", "#UD at %w", "#UD in real mode"
    row "MOV", "ES %w CS %w", "the selectors as loaded"
    .byte 0
real_mode_interrupt_rows:
    row "timer", "%w ticks while halted", "three by the BIOS"
    row "keys", "%w interrupts and typed: %s", "one or more by the BIOS"
    .byte 0

protected_mode_rows:
    row "SGDT", "limit %w base %d", "what LGDT loaded"
    row "SIDT", "limit %w base %d", "what LIDT loaded"
    row "SLDT", "selector %w", "what LLDT loaded"
    row "SMSW", "%w of CR0 %d", "CR0 bits 15-0 with PE set"
    row "PUSHF", "after STI %w after CLI %w", "IF as STI and CLI left it"
    row "POPF", "7002 came back as %d", "NT and IOPL set and IF clear"
    row "LAR", "code %d", "type B at DPL 0"
    row "LSL", "code %d LDT %d", "4 GiB - 1 and 000F"
    row "VERR", "code %w execute-only %w", "readable 1 and not 0"
    row "VERW", "data %w read-only %w", "writable 1 and not 0"
    row "POP", "ES %w reads %d", "base from the GDT"
    row "PUSH", "CS %w SS %w", "RPL is CPL: 0"
    row "CALL", "in CS %w from CS %w", "CS and EIP on the stack"
    row "JMP", "in CS %w back in CS %w", "the selectors given"
    row "INT n", "flags saved %w inside %w", "IF saved and cleared"
    row "RET", "in CS %w back in CS %w", "the selector on the stack"
    row "STR", "selector %w", "what LTR loaded"
    row "MOV", "ES %w CS %w", "LDT selector and CPL 0"
    .byte 0
protected_mode_interrupt_rows:
    row "timer", "%w ticks while halted", "three by vector 20h"
    row "keys", "%w bytes: %s", "echo EE by vector 21h"
    .byte 0
unexpected_row:
    row "fault", "exception %w stack %d", "none"
    .byte 0

# Segment descriptors: limit 15-0, base 15-0, base 23-16, type, limit 19-16 with flags, base 31-24. Those that are
# loaded into segment registers are marked as accessed already: not every emulator does it for CS.
.macro descriptor base, limit, type, flags
    .word \limit, \base
    .byte 0, \type, \flags, 0
.endm

.align 16, 0
gdt:
    .fill 8, 1, 0
    descriptor 0, 0xFFFF, 0x9B, 0xCF    # SEL_CODE
    descriptor 0, 0xFFFF, 0x93, 0xCF    # SEL_DATA
    descriptor 0, 0xFFFF, 0x9B, 0x00    # SEL_CODE16
    descriptor 0, 0xFFFF, 0x93, 0x00    # SEL_DATA16
    descriptor 0, 0xFFFF, 0x9B, 0xCF    # SEL_ALIAS
    descriptor ldt, LDT_BYTES - 1, 0x82, 0x00
    descriptor tss, TSS_BYTES - 1, 0x89, 0x00
    descriptor marker, 3, 0x92, 0x00    # SEL_MARKER
    descriptor 0, 0xFFFF, 0x98, 0xCF    # SEL_EXECUTE_ONLY
    descriptor 0, 0xFFFF, 0x90, 0xCF    # SEL_READ_ONLY
ldt:
    .fill 8, 1, 0
    descriptor marker + 2, 1, 0x92, 0x00
.set LDT_BYTES, $ - ldt
.align 16, 0                            # the marker begins a real-mode segment
marker:
    .long MARKER_VALUE

gdt_pointer:
    .word GDT_BYTES - 1
    .long gdt
idt_pointer:
    .word IDT_VECTORS * 8 - 1
    .long idt
ivt_pointer:
    .word 0x3FF
    .long 0

checks:
    .long 0
wrong:
    .long 0
saved_ud:
    .long 0
saved_demo:
    .long 0
saved_09:
    .long 0
ticks:
    .long 0
codes:
    .long 0
.set CODES_MOST, 7                      # as many as a row has room for
code_bytes:
    .fill CODES_MOST, 1, 0
typed:
    .fill 3 * CODES_MOST + 1, 1, 0
unexpected:
    .byte 0                             # exception number + 1
saved_masks:
    .word 0
saved_sp:
    .word 0
burst:
    .word 0
resume:
    .word 0
fault_ip:
    .word 0
key_interrupts:
    .word 0
buffer:
    .fill 8, 1, 0
unexpected_result:
    .fill RESULT_BYTES, 1, 0

# Beyond what is loaded: cleared by `main`.
.set results, 0xA000
.set line, results + RESULTS * RESULT_BYTES
.set idt, 0xA400
.set tss, 0xA800                        # all zero: at ring 0 nothing is taken from it
.set SCRATCH_END, 0xB000
