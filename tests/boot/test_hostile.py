"""Guests that do what nobody should: the VMM stays up, ends in time, and says what happened in its own words."""

import time

import pytest

SECONDS = 3
START_UP = 6
"""Host seconds that a start, the BIOS and the summary may take on top."""

# Into protected mode with flat segments; then 32-bit code at `inside`.
PROTECTED = """
    cli
    lgdt cs:[gdtr]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmp 8, offset inside
gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr: .word 23
    .long gdt
empty: .word 0
    .long 0
.code32
inside:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x7000
"""

LOOPS = {
    "jump_to_itself": "sti; jmp .",
    "jump_to_itself_with_interrupts_off": "cli; jmp .",
    "jump_to_itself_in_protected_mode": PROTECTED + "jmp .",
    "long_rep_with_interrupts_off": "cli\n1: mov cx, 0xffff; rep stosb es:[di], al; jmp 1b",
    "long_rep_over_memory_that_nobody_answers": (
        PROTECTED + "1: mov edi, 0xe0000000; mov ecx, 0x1000000; rep stosd es:[edi], eax; jmp 1b"
    ),
    "floods_the_serial_port": "mov dx, 0x3f8\n1: mov cx, 0xffff; xor si, si; rep outsb dx, ds:[si]; jmp 1b",
    "floods_the_debug_console": "1: out 0xe9, al; jmp 1b",
    "floods_the_keyboard_controller": "1: mov al, 0xd2; out 0x64, al; out 0x60, al; jmp 1b",
    "floods_the_keyboard": "1: mov al, 0xff; out 0x60, al; jmp 1b",
    "floods_the_disk": (
        "mov dx, 0x1f0\n1: mov cx, 0xffff; rep insw es:[di], dx; mov dx, 0x1f7; out dx, al; "
        "mov dl, 0xf0; inc ax; jmp 1b"
    ),
    "fastest_timer_there_is": (
        "cli; mov al, 0x34; out 0x43, al; mov al, 2; out 0x40, al; mov al, 0; out 0x40, al; sti; jmp ."
    ),
    "fastest_timer_and_halts": (
        "mov al, 0x34; out 0x43, al; mov al, 2; out 0x40, al; mov al, 0; out 0x40, al\n1: hlt; jmp 1b"
    ),
    "every_port_in_turn": (
        "1: in al, dx; out dx, al; inc dx; cmp dx, 0x64; je 2f; cmp dx, 0x92; je 2f; cmp dx, 0xcf9; "
        "je 2f; jmp 1b\n2: inc dx; jmp 1b"
    ),
    "undefined_opcode_for_ever": (
        "xor ax, ax; mov ds, ax; mov word ptr [24], offset 1f; mov [26], cs\n1: mov sp, 0x7c00; ud2"
    ),
    "software_interrupts_for_ever": (
        "xor ax, ax; mov ds, ax; mov word ptr [0x180], offset 1f; mov [0x182], cs\n1: mov sp, 0x7c00; "
        "int 0x60"
    ),
    "code_that_rewrites_itself": "1: inc byte ptr cs:[2f+1]\n2: mov al, 0; jmp 1b",
    "switches_modes_for_ever": (
        "cli; lgdt cs:[gdtr]\n1: mov eax, cr0; xor al, 1; mov cr0, eax; jmp 1b\ngdtr: .word 0; .long 0"
    ),
    "triple_faults_in_a_loop": "lidt cs:[empty]; int3\nempty: .word 0; .long 0",
}  # fmt: skip


@pytest.mark.parametrize("code", LOOPS.values(), ids=LOOPS)
def test_a_guest_that_never_ends_is_ended_by_the_time_out(vmm, sector, code):
    started = time.monotonic()
    run = vmm(sector(code), timeout=SECONDS)
    assert run.status == 124, run.err
    assert run.heading.startswith(f"time-out after {SECONDS} s")
    assert time.monotonic() - started < SECONDS + START_UP


TRIPLE_FAULTS = {
    "idt_limit_of_zero": "lidt cs:[empty]; int3\nempty: .word 0; .long 0",
    "idt_limit_of_zero_in_protected_mode": PROTECTED + "lidt [empty]; int3",
    "gdt_limit_of_zero": PROTECTED + "lgdt [empty]; lidt [empty]; mov ds, ax",
    "no_idt_and_undefined_opcode": PROTECTED + "lidt [empty]; ud2",
    "stack_at_the_top_without_room": "mov sp, 1; int3",
    "idt_of_zeros": PROTECTED + "mov dword ptr [empty+2], 0x60000; mov word ptr [empty], 0x7ff; lidt [empty]; int 32",
}  # fmt: skip


@pytest.mark.parametrize("code", TRIPLE_FAULTS.values(), ids=TRIPLE_FAULTS)
def test_a_triple_fault_ends_the_run_with_status_3_if_asked(vmm, sector, code):
    run = vmm(sector(code), "--on-reset", "exit", timeout=20)
    assert run.status == 3, run.err
    assert run.heading.startswith("triple fault: ")


ANY_END = {
    "runs_into_data": "jmp 0x600",
    "runs_into_video_memory": "ljmp 0xb800, 0",
    "runs_into_nothing": "ljmp 0xd800, 0",
    "runs_into_nothing_far_up": PROTECTED + "mov eax, 0xe0000000; jmp eax",
    "runs_into_text": 'jmp 1f\n1: .ascii "The quick brown fox jumps over the lazy dog and 0123456789 others."',
    "runs_off_the_end_of_its_segment": "jmp 0xffff",
    "stack_in_nothing": PROTECTED + "mov esp, 0xe0000000; push eax; pop ebx; call .",
    "stack_in_rom": "mov ax, 0xf000; mov ss, ax; push ax; push ax; int 0x12; jmp .",
    "stack_in_video_memory": "mov ax, 0xb800; mov ss, ax; int 0x12; jmp .",
    "stack_over_its_own_code": (
        "xor ax, ax; mov ss, ax; mov sp, offset 1f+8\n1: push ax; push ax; push ax; push ax; push ax; "
        "jmp 1b"
    ),
    "undefined_opcodes": ".byte 0x0f, 0xff, 0x0f, 0x0b, 0xf1, 0x0f, 0x04, 0xd6, 0x0f, 0xa6, 0xc0, 0xff, 0xff",
    "fifteen_prefixes_and_more": ".fill 40, 1, 0x66\n nop\n cli\n hlt",
    "gdt_in_nothing": PROTECTED + (
        "mov dword ptr [empty+2], 0xe0000000; mov word ptr [empty], 0xffff; lgdt [empty]; mov ds, ax; "
        "int 8"
    ),
    "idt_in_nothing": PROTECTED + (
        "mov dword ptr [empty+2], 0xe0000000; mov word ptr [empty], 0xffff; lidt [empty]; sti; int 8"
    ),
    "page_tables_in_nothing": PROTECTED + (
        "mov eax, 0xe0000000; mov cr3, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax; jmp ."
    ),
    "page_table_of_itself": PROTECTED + (
        "mov dword ptr [0x10000], 0x10067; mov eax, 0x10000; mov cr3, eax; mov eax, cr0; "
        "or eax, 0x80000000; mov cr0, eax; jmp ."
    ),
    "ivt_of_ones": "cli; xor ax, ax; mov es, ax; dec ax; xor di, di; mov cx, 512; rep stosw es:[di], ax; int3",
    "bda_of_ones": (
        "mov ax, 0x40; mov es, ax; mov ax, -1; xor di, di; mov cx, 128; rep stosw es:[di], ax; "
        "mov ah, 1; int 0x16; mov ax, 0xe41; int 0x10; mov ax, 0x201; int 0x13; hlt; cli; hlt"
    ),
    "every_interrupt": "xor bx, bx\n1: mov cs:[2f+1], bl; jmp 2f\n2: int 0; inc bl; jmp 1b",
    "random_registers_to_every_bios_call": (
        "mov ax, 0x1234\n1: imul ax, ax, 25173; add ax, 13849; push ax; int 0x10; pop ax; push ax; "
        "int 0x15; pop ax; jmp 1b"
    ),
    "weird_timer_modes": (
        "xor ax, ax\n1: out 0x43, al; out 0x40, al; out 0x42, al; in al, 0x40; inc ah; mov al, ah; "
        "jnz 1b; cli; hlt"
    ),
    "floods_the_interrupt_controller": "1: out 0x20, al; out 0x21, al; inc ax; jmp 1b",
    "hlt_in_a_shadow": "cli\n sti\n hlt\n cli\n hlt",
}  # fmt: skip


@pytest.mark.parametrize("code", ANY_END.values(), ids=ANY_END)
def test_whatever_a_guest_does_the_end_is_one_of_ours(vmm, sector, code):
    run = vmm(sector(code), "--on-reset", "exit", timeout=SECONDS)
    assert run.status in (0, 3, 4, 124), run.err
