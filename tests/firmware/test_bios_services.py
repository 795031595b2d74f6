"""The services of the system BIOS, each called by a boot sector.

Source of the expected values: IBM PS/2 and PC BIOS Interface Technical Reference; ACPI Specification, "System Address
Map Interfaces"; RTC base and memory size (32 MiB) of the machine in conftest.py.
"""

import re
from collections.abc import Callable

import pytest

from firmware.assembler import assemble_text
from firmware.build import option_rom

BiosGuest = Callable[..., str]

SERVICES = [
    pytest.param(
        "int 0x11; and ax, 0x0E32; call say",
        "0422",
        id="int11_fpu_colour_two_serial_ports",
    ),
    pytest.param(
        "int 0x12; call say",
        "027f",
        id="int12_639_kib",
    ),
    pytest.param(
        "mov ah, 0x88; int 0x15; call carry; call say",
        "-7c00",
        id="int15_88_kib_above_1_mib",
    ),
    pytest.param(
        "mov ax, 0xE801; int 0x15; call carry; call say; mov ax, bx; call say; mov ax, cx; call say; "
        "mov ax, dx; call say",
        "-3c00 0100 3c00 0100",
        id="int15_e801_splits_at_16_mib",
    ),
    pytest.param(
        "mov ax, 0x2403; int 0x15; call carry; mov ax, bx; call say",
        "-0002",
        id="int15_2403_port_92",
    ),
    pytest.param(
        "mov ax, 0x2400; int 0x15; mov ax, 0x2402; int 0x15; call say; mov ax, 0x2401; int 0x15; "
        "mov ax, 0x2402; int 0x15; call carry; call say",
        "0000 -0001",
        id="int15_24_a20_follows",
    ),
    pytest.param(
        "mov ax, 0x4F1E; stc; int 0x15; call carry; call say",
        "C4f1e",
        id="int15_4f_leaves_the_key",
    ),
    pytest.param(
        "mov ah, 0xC1; int 0x15; call carry; mov ax, es; call say",
        "-9fc0",
        id="int15_c1_ebda",
    ),
    pytest.param(
        "mov ah, 0xC0; int 0x15; call carry; mov ax, word ptr es:[bx]; call say; mov ax, word ptr es:[bx+2]; call say",
        "-0008 01fc",
        id="int15_c0_model",
    ),
    pytest.param(
        "mov ax, 0x9000; int 0x15; call carry; call say",
        "-0000",
        id="int15_90_device_busy",
    ),
    pytest.param(
        "mov ax, 0xD800; clc; int 0x15; call carry; call say",
        "C8600",
        id="int15_unknown_is_refused",
    ),
    pytest.param(
        "mov ah, 1; mov cx, 0x12; mov dx, 0x3456; int 0x1A; mov ah, 0; int 0x1A; call carry; call say; "
        "mov ax, cx; call say; mov ax, dx; and al, 0xF0; call say",
        "-0000 0012 3450",
        id="int1a_ticks_are_what_was_set",
    ),
    pytest.param(
        "mov ah, 1; mov cx, 0x18; mov dx, 0x00AF; int 0x1A; mov ax, word ptr [0x46C]; 1: hlt; "
        "cmp ax, word ptr [0x46C]; je 1b; mov ah, 0; int 0x1A; call say; mov ax, cx; call say; mov ah, 0; "
        "int 0x1A; call say",
        "0001 0000 0000",
        id="int08_midnight_counts_once",
    ),
    pytest.param(
        "mov ah, 2; int 0x1A; call carry; mov ax, cx; call say; mov ah, 4; int 0x1A; call carry; "
        "mov ax, cx; call say; mov ax, dx; call say",
        "-1234 -2024 0229",
        id="int1a_time_and_date_of_the_clock",
    ),
    pytest.param(
        "mov ah, 3; mov cx, 0x2358; mov dx, 0x0700; int 0x1A; mov ah, 5; mov cx, 0x1999; mov dx, 0x1231; "
        "int 0x1A; mov ah, 2; int 0x1A; call carry; mov ax, cx; call say; mov ah, 4; int 0x1A; call carry; "
        "mov ax, cx; call say; mov ax, dx; call say",
        "-2358 -1999 1231",
        id="int1a_time_and_date_are_what_was_set",
    ),
    pytest.param(
        "mov word ptr [0x4A*4], handler; mov word ptr [0x4A*4+2], ds; mov ah, 3; mov cx, 0x0100; "
        "mov dx, 0x5800; int 0x1A; mov ah, 6; mov cx, 0x0101; mov dx, 0; int 0x1A; call carry; mov ah, 6; "
        "int 0x1A; call carry; 1: hlt; cmp byte ptr [rang], 1; jne 1b; mov ah, 7; int 0x1A; call carry; "
        "jmp done; handler: mov byte ptr cs:[rang], 1; iret; rang: .byte 0",
        "-C-",
        id="int70_alarm_rings_once_set",
    ),
    pytest.param(
        "mov ax, word ptr [0x46C]; 1: hlt; cmp ax, word ptr [0x46C]; je 1b; push word ptr [0x46C]; "
        "mov ah, 0x86; mov cx, 3; mov dx, 0x0D40; int 0x15; call carry; mov ax, word ptr [0x46C]; pop bx; "
        "sub ax, bx; cmp ax, 3; call carry; cmp ax, 40; call carry",
        "--C",
        id="int15_86_waits_200_ms_and_not_for_long_more",
    ),
    pytest.param(
        "mov ah, 0x83; mov al, 0; mov cx, 4; mov dx, 0; mov bx, 0x600; mov byte ptr [bx], 1; int 0x15; "
        "call carry; mov ah, 0x83; mov al, 0; int 0x15; call carry; 1: hlt; cmp byte ptr [0x600], 0x81; "
        "jne 1b; mov ax, 0x8301; int 0x15; call carry",
        "-C-",
        id="int15_83_sets_the_flag_and_refuses_a_second_wait",
    ),
    pytest.param(
        "mov word ptr [0x1C*4], handler; mov word ptr [0x1C*4+2], ds; mov byte ptr [0x440], 2; "
        "mov byte ptr [0x43F], 0x11; 1: hlt; cmp byte ptr [seen], 3; jb 1b; mov al, byte ptr [0x43F]; "
        "mov ah, byte ptr [0x440]; call say; jmp done; handler: inc byte ptr cs:[seen]; iret; seen: .byte 0",
        "0010",
        id="int08_calls_1c_and_stops_the_motor",
    ),
    pytest.param(
        "int 0x0F; int 0x72; EMIT 'k'",
        "k",
        id="spurious_interrupts_return",
    ),
    pytest.param(
        "mov ax, 0x0041; mov dx, 0; int 0x17; call say",
        "0141",
        id="int17_no_printer",
    ),
    pytest.param(
        "int 0x05; mov al, byte ptr [0x500]; mov ah, 0; call say",
        "00ff",
        id="int05_fails_without_a_printer",
    ),
    pytest.param(
        "mov ax, 0x00E3; mov dx, 0; int 0x14; and ax, 0x6000; call say; mov dx, 0x3FB; in al, dx; call say",
        "6000 6003",
        id="int14_sets_9600_8n1",
    ),
    pytest.param(
        "mov ax, 0x00E3; mov dx, 0; int 0x14; mov ax, 0x0155; int 0x14; and ax, 0x80FF; call say; "
        "mov byte ptr [0x47C], 0; mov ah, 2; int 0x14; and ax, 0x8000; call say",
        "0055 8000",
        id="int14_sends_and_times_out_on_receive",
    ),
    pytest.param(
        "mov ax, 0x0041; mov dx, 3; int 0x14; call say",
        "0041",
        id="int14_absent_port_changes_nothing",
    ),
    pytest.param(
        "mov ah, 1; int 0x16; call zero",
        "Z",
        id="int16_01_no_key",
    ),
    pytest.param(
        "mov ah, 5; mov cx, 0x3062; int 0x16; call say; mov ah, 1; int 0x16; call zero; call say; "
        "mov ah, 0; int 0x16; call say; mov ah, 1; int 0x16; call zero",
        "0500 -3062 3062 Z",
        id="int16_05_puts_01_looks_00_takes",
    ),
    pytest.param(
        "mov si, 17; 1: mov ah, 5; int 0x16; dec si; jnz 1b; call say",
        "0501",
        id="int16_05_says_when_the_buffer_is_full",
    ),
    pytest.param(
        "mov ax, 0x9200; int 0x16; call say; mov ax, 0x0305; mov bx, 0; int 0x16; EMIT 'k'",
        "8000 k",
        id="int16_92_03",
    ),
]


@pytest.mark.parametrize(("code", "said"), SERVICES)
def test_service(bios_guest: BiosGuest, code: str, said: str) -> None:
    assert bios_guest(code.replace("; ", "\n")) == said


def test_e820_lists_the_memory(bios_guest: BiosGuest) -> None:
    code = """
        xor ebx, ebx
    next:
        mov eax, 0xE820
        mov edx, 0x534D4150
        mov ecx, 20
        mov di, 0x600
        int 0x15
        jc done
        mov si, di
        mov cl, 5
    1:  mov ax, word ptr [si+2]
        call say
        lodsw
        call say
        lodsw
        loop 1b
        EMIT 10
        test ebx, ebx
        jnz next
    """
    words = [line.split() for line in bios_guest(code).splitlines()]
    entries = [tuple(int(high + low, 16) for high, low in zip(w[::2], w[1::2], strict=True)) for w in words]
    assert entries == [
        (0x00000000, 0, 0x0009FC00, 0, 1),
        (0x0009FC00, 0, 0x00000400, 0, 2),
        (0x000F0000, 0, 0x00010000, 0, 2),
        (0x00100000, 0, 0x01F00000, 0, 1),
        (0xFFFF0000, 0, 0x00010000, 0, 2),
    ]


def test_e820_refuses_what_is_not_smap(bios_guest: BiosGuest) -> None:
    code = "mov eax, 0xE820\nmov ecx, 20\nxor ebx, ebx\nxor edx, edx\nint 0x15\ncall carry\ncall say"
    assert bios_guest(code) == "C8620"


MOVE = """
    mov si, table
    mov cx, 2
    mov ah, 0x87
    int 0x15
    call carry
    call say
"""


def _descriptor(base: int) -> str:
    return f".word 0xFFFF, {base & 0xFFFF:#x}\n.byte {base >> 16 & 0xFF:#x}, 0x93, 0, {base >> 24:#x}\n"


def test_block_move_goes_above_1_mib_and_back_and_keeps_segments(bios_guest: BiosGuest) -> None:
    code = f"""
        mov dword ptr [0x600], 0x12345678
        mov ax, 0x1234
        mov fs, ax
        {MOVE}
        mov si, back
        mov cx, 2
        mov ah, 0x87
        int 0x15
        mov ax, word ptr [0x702]
        call say
        mov ax, word ptr [0x700]
        call say
        mov ax, fs
        call say
        pushf
        pop ax
        and ax, 0x200
        call say
        jmp done
    table: .space 16
        {_descriptor(0x600)} {_descriptor(0x110000)}
        .space 16
    back: .space 16
        {_descriptor(0x110000)} {_descriptor(0x700)}
        .space 16
    """
    assert bios_guest(code) == "-0034 1234 5678 1234 0200"


# QEMU's own reset clears the shutdown code, so these jump to where the processor would start.
@pytest.mark.parametrize("code", [pytest.param(0x05, id="05"), pytest.param(0x0A, id="0a")])
def test_reset_goes_on_where_cmos_says(bios_guest: BiosGuest, code: int) -> None:
    program = f"""
        cli
        mov al, 0x0F
        out 0x70, al
        mov al, {code}
        out 0x71, al
        mov word ptr [0x467], resumed
        mov word ptr [0x469], 0
        ljmp 0xF000:0xFFF0
    resumed:
        EMIT 'r'
        mov al, 0x0F
        out 0x70, al
        in al, 0x71
        mov ah, 0
        mov sp, 0x7C00
        mov bx, 0
        mov ss, bx
        call say
    """
    assert bios_guest(program) == "r0000"


def test_reset_09_returns_from_a_block_move(bios_guest: BiosGuest) -> None:
    program = """
        mov al, 0x0F
        out 0x70, al
        mov al, 0x09
        out 0x71, al
        pushf
        push cs
        push resumed
        mov bx, 0x5678
        mov ax, 0x8700
        pusha
        push es
        push ds
        mov word ptr [0x467], sp
        mov word ptr [0x469], ss
        ljmp 0xF000:0xFFF0
    resumed:
        call carry
        call say
        mov ax, bx
        call say
        mov ax, sp
        call say
    """
    assert bios_guest(program) == "-0000 5678 7c00"


TAKE = "call keys\nmov ah, {0}\nint 0x16\ncall say\n"

KEYS = [
    pytest.param(0, "a", "1e61", id="letter"),
    pytest.param(0, "shift-a", "1e41", id="shift_letter"),
    pytest.param(0, "ctrl-a", "1e01", id="ctrl_letter"),
    pytest.param(0, "alt-a", "1e00", id="alt_letter"),
    pytest.param(0, "caps_lock a", "1e41", id="caps_lock_letter"),
    pytest.param(0, "caps_lock shift-a", "1e61", id="caps_lock_shift_letter"),
    pytest.param(0, "caps_lock 1", "0231", id="caps_lock_leaves_digits"),
    pytest.param(0, "shift_r-1", "0221", id="right_shift_digit"),
    pytest.param(0, "ret", "1c0d", id="enter"),
    pytest.param(0, "ctrl-ret", "1c0a", id="ctrl_enter"),
    pytest.param(0, "shift-tab", "0f00", id="back_tab"),
    pytest.param(0, "f10", "4400", id="f10"),
    pytest.param(0, "shift-f1", "5400", id="shift_f1"),
    pytest.param(0, "up", "4800", id="up_classic"),
    pytest.param(16, "up", "48e0", id="up_enhanced"),
    pytest.param(16, "ctrl-up", "8de0", id="ctrl_up_enhanced"),
    pytest.param(16, "alt-delete", "a300", id="alt_delete_enhanced"),
    pytest.param(0, "f11 b", "3062", id="f11_is_unknown_to_classic"),
    pytest.param(16, "f11", "8500", id="f11_enhanced"),
    pytest.param(0, "kp_enter", "1c0d", id="keypad_enter_classic"),
    pytest.param(16, "kp_enter", "e00d", id="keypad_enter_enhanced"),
    pytest.param(16, "kp_divide", "e02f", id="keypad_slash_enhanced"),
    pytest.param(0, "kp_7", "4700", id="keypad_without_num_lock"),
    pytest.param(0, "num_lock kp_7", "4737", id="keypad_with_num_lock"),
    pytest.param(0, "num_lock shift-kp_7", "4700", id="keypad_with_num_lock_and_shift"),
    pytest.param(0, "+alt kp_6 kp_5 -alt", "0041", id="alt_digits_make_a_character"),
    pytest.param(0, "insert", "5200", id="insert"),
    pytest.param(16, "less", "565c", id="the_102nd_key"),
    pytest.param(0, "pause x y", "1579", id="pause_swallows_one_key"),
]


@pytest.mark.parametrize(("function", "chords", "key"), KEYS)
def test_key(bios_guest: BiosGuest, function: int, chords: str, key: str) -> None:
    assert bios_guest(TAKE.format(function), chords) == key


FLAGS = [
    pytest.param("+shift x", "0002", id="left_shift"),
    pytest.param("+shift_r x", "0001", id="right_shift"),
    pytest.param("+ctrl x", "0104", id="left_ctrl"),
    pytest.param("+ctrl_r x", "0404", id="right_ctrl"),
    pytest.param("+alt x", "0208", id="left_alt"),
    pytest.param("+alt_r x", "0808", id="right_alt"),
    pytest.param("caps_lock x", "0040", id="caps_lock_goes_on"),
    pytest.param("caps_lock caps_lock x", "0000", id="caps_lock_goes_off"),
    pytest.param("+num_lock x", "2020", id="num_lock_held"),
    pytest.param("scroll_lock x", "0010", id="scroll_lock"),
    pytest.param("+shift +ctrl -shift -ctrl x", "0000", id="released"),
]


@pytest.mark.parametrize(("chords", "flags"), FLAGS)
def test_shift_flags(bios_guest: BiosGuest, chords: str, flags: str) -> None:
    code = TAKE.format(16).replace("call say", "") + "mov ah, 0x12\nint 0x16\ncall say\n"
    assert bios_guest(code, chords) == flags


def test_insert_turns_its_flag_over(bios_guest: BiosGuest) -> None:
    code = TAKE.format(0) + "mov ah, 2\nint 0x16\nand ax, 0xFF\ncall say"
    assert bios_guest(code, "insert") == "5200 0080"


def test_lock_keys_light_the_leds_and_finish(bios_guest: BiosGuest) -> None:
    code = TAKE.format(0) + "1: hlt\nmov al, byte ptr [0x497]\ntest al, 0x40\njnz 1b\nmov ah, 0\ncall say"
    assert bios_guest(code, "caps_lock num_lock x") == "2d58 0006"


HOOK = """
    mov word ptr [{0}*4], handler
    mov word ptr [{0}*4+2], ds
"""


def test_ctrl_break_calls_1b_and_leaves_a_zero(bios_guest: BiosGuest) -> None:
    code = (
        HOOK.format("0x1B") + TAKE.format(0) + "mov al, byte ptr [0x471]\ncall say\njmp done\nhandler: EMIT 'b'\niret"
    )
    assert bios_guest(code, "ctrl-pause") == "b0000 0080"


def test_print_screen_calls_05(bios_guest: BiosGuest) -> None:
    code = HOOK.format("5") + TAKE.format(0) + "jmp done\nhandler: EMIT 'p'\niret"
    assert bios_guest(code, "print x") == "p2d78"


def test_intercept_4f_may_change_and_take_keys(bios_guest: BiosGuest) -> None:
    code = (
        "mov word ptr [old], 0\nmov ax, word ptr [0x15*4]\nmov word ptr [old], ax\n"
        + HOOK.format("0x15")
        + TAKE.format(0)
        + """jmp done
        handler:
            cmp ah, 0x4F
            jne 1f
            cmp al, 0x1E
            je 2f
            cmp al, 0x30
            jne 1f
            inc ax
            stc
            retf 2
        2:  clc
            retf 2
        1:  ljmp cs:[old]
        old: .word 0, 0xF000
        """
    )
    assert bios_guest(code, "a b") == "316e"


def test_ctrl_alt_delete_restarts_warm(bios_guest: BiosGuest) -> None:
    code = "cmp word ptr [0x472], 0x1234\nje 2f\ncall keys\n1: hlt\njmp 1b\n2: EMIT 'w'"
    assert bios_guest(code, "ctrl-alt-delete") == "w"


def test_waiting_for_a_key_tells_the_operating_system(bios_guest: BiosGuest) -> None:
    code = (
        HOOK.format("0x15")
        + """
            mov ah, 0
            int 0x16
            call say
            jmp done
        handler:
            cmp ah, 0x90
            je 1f
            cmp ah, 0x91
            jne 2f
            call say
            jmp 2f
        1:  call say
            call keys
        2:  stc
            retf 2
        """
    )
    assert bios_guest(code, "x") == "9002 9102 2d78"


ROM = """
    .byte 0x55, 0xAA, 0
    mov al, 'R'
    out 0xE9, al
    cli
    std
    mov bx, 0
    mov ds, bx
    retf
"""


def test_option_rom_is_called(bios_guest: BiosGuest) -> None:
    assert bios_guest("EMIT 'k'", option_rom=option_rom(assemble_text(ROM).flat())) == "Rk"


def test_option_rom_with_a_bad_sum_is_left_alone(bios_guest: BiosGuest) -> None:
    bad = bytearray(option_rom(assemble_text(ROM).flat()))
    bad[-1] ^= 1
    assert bios_guest("EMIT 'k'", option_rom=bytes(bad)) == "k"


def test_an_exception_that_nobody_handles_is_reported(bios_guest: BiosGuest) -> None:
    code = (
        HOOK.format("0x10")
        + """
            ljmp 0x70:undefined-0x700
        undefined:
            ud2
        handler:
            cmp al, '\\r'
            je 2f
            cmp al, '\\n'
            je 1f
            out 0xE9, al
            iret
        1:  xor byte ptr cs:[line], 1
            jz done
        2:  iret
        line: .byte 0
        """
    )
    said = bios_guest(code)
    assert re.fullmatch(r"Exception 06 at 0070:75[0-9A-F]{2}, system halted", said), said
