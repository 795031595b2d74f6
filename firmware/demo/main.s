# The demo guest: what the critical instructions show in real mode and in protected mode, and interrupts in both.
#
# Contract. Any BIOS loads the boot sector to 7C00h and jumps there in real mode with the drive in DL. It loads the
# rest of track 0 behind itself and then runs once: checks and interrupts in real mode, the table of what was seen,
# checks and interrupts in 32-bit protected mode at ring 0, the second table, CLI, HLT. Every line goes to the screen
# by INT 10h and to COM1. Nothing waits without an end but HLT, and HLT has the timer.
#
# "Critical" is from Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine
# Monitor": the instructions that are sensitive, but do not trap at ring 3. Each is checked against what the Intel SDM
# says a bare processor shows; a processor lent out by a VMM has to show the same.

.include "checks.inc"

.set ORIGIN, 0x7C00
.set SECTORS, 17                        # the rest of track 0
.set STACK_TOP, ORIGIN
.set BIOS_TICKS, 0x46C                  # BIOS data area: timer interrupts since midnight
.set TYPING_TICKS, 9                    # half a second in each mode to press keys in

    .org ORIGIN
boot:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, STACK_TOP
    sti
    cld
    ljmp 0:load                         # some BIOSes start at 07C0h:0

# load: three attempts, as a floppy drive may need time to reach its speed.
load:
    mov si, 3
.attempt:
    mov ax, 0x0200 + SECTORS            # read
    mov cx, 0x0002                      # cylinder 0, sector 2
    xor dh, dh                          # head 0; DL is still the boot drive
    mov bx, ORIGIN + 512
    int 0x13
    jnc main
    xor ax, ax                          # reset
    int 0x13
    dec si
    jnz .attempt
    mov si, cannot_load
.print:
    lodsb
    test al, al
    jz halt
    mov ah, 0x0E
    mov bx, 7
    int 0x10
    jmp .print

# halt: the end of every path. A VMM takes CLI and HLT for power off.
halt:
    cli
    hlt
    jmp halt

cannot_load:
    .asciz "the demo guest cannot be read from its disk"

    .org ORIGIN + 510
    .word 0xAA55

# main: the story in order.
main:
    mov di, results
    mov cx, SCRATCH_END - results
    xor al, al
    rep stosb
    call open_serial
    call clear_screen
    mov si, title
    mov bl, BRIGHT
    call print_line

    # First screen: real mode.
    call take_vectors
    call check_real_mode
    call give_vectors_back
    mov si, real_mode_heading
    mov bl, BRIGHT
    call print_line
    mov si, real_mode_rows
    mov di, results
    call print_checks
    call interrupts_in_real_mode
    mov si, real_mode_interrupt_rows
    call print_events                   # DI as interrupts_in_real_mode left it

    # Second screen: protected mode; it is entered and left again before anything is printed.
    call enter_protected_mode
    call clear_screen
    mov si, title
    mov bl, BRIGHT
    call print_line
    mov si, protected_mode_heading
    mov bl, BRIGHT
    call print_line
    mov si, protected_mode_rows
    mov di, results
    call print_checks
    mov si, protected_mode_interrupt_rows  # their results come next
    call print_events
    mov al, byte ptr [unexpected]
    sub al, 1
    jb 1f
    mov byte ptr [unexpected_result], al
    mov si, unexpected_row
    mov di, unexpected_result
    call print_events

1:  mov si, done
    mov bl, NORMAL
    call print_line
    call print_totals
    jmp halt
