"""Suspend to RAM: memory stays, the rest starts again, and the BIOS goes where the FACS says."""

import pytest

from firmware.acpi import EBDA, FACS_OFFSET, PM_BASE
from firmware.assembler import assemble_text

ORIGIN = 0x8340
VECTOR = EBDA + FACS_OFFSET + 12
MARK_AT, MARK = 0x500, 0x5AFE
SLEEP, SCI_EN, RSM = 0x2400, 1, 0x8000

PROGRAM = f"""
    .code16
    xor ax, ax
    mov ds, ax
    mov word ptr [{MARK_AT}], {MARK:#x}
    mov ax, {EBDA >> 4:#x}
    mov ds, ax
    mov dword ptr [{VECTOR - EBDA:#x}], woken
    mov dx, {PM_BASE + 4:#x}
    mov ax, {SLEEP:#x}
    out dx, ax
1:  jmp 1b                          # not reached
woken:
    mov bx, ds                      # where are we, and with what?
    call here
here:
    pop ax
    sub ax, here - woken
    call say
    mov ax, cs
    call say
    mov ax, bx
    call say
    mov ax, [{MARK_AT}]
    call say
    mov dx, {PM_BASE:#x}
    in ax, dx
    call say
    mov dx, {PM_BASE + 4:#x}
    in ax, dx
    call say
    mov eax, cr0
    call say
    mov al, 0
    out 0xF4, al
    hlt
say:
    out 0xE9, al
    mov al, ah
    out 0xE9, al
    ret
"""


@pytest.fixture
def told(vmm, tmp_path):
    """Where the program wakes, and what it says then, in words."""
    made = assemble_text(f"start:\n{PROGRAM}", ORIGIN, 16)
    end = max(piece.address + len(piece.code) for piece in made.placed)
    (tmp_path / "program").write_bytes(made.image(ORIGIN, end - ORIGIN))
    run = vmm("--flat", f"program@{ORIGIN:#x}", "--exit-port", "--debugcon", "told", "--timeout", 60)
    assert run.status == 1, run.err
    said = (tmp_path / "told").read_bytes()
    words = [int.from_bytes(said[at : at + 2], "little") for at in range(0, len(said), 2)]
    return made.symbols["woken"], words


def test_a_guest_wakes_in_real_mode_where_the_facs_says(told):
    """ACPI Specification 1.0b, "Firmware ACPI Control Structure", "Waking from S3"."""
    woken, (ip, cs, ds, mark, status, control, cr0) = told
    assert (ip, cs) == (woken & 0xF, woken >> 4)
    assert (ds, mark) == (0, MARK)
    assert (status, control, cr0 & 1) == (RSM, SCI_EN, 0)
