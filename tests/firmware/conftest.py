"""A guest under our firmware, with one narrow seam: a boot sector in, what it wrote to the debug console back.

Every BIOS test runs on our own machine; a soak runs each again on QEMU, so that both are held to the same answers.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from firmware.assembler import assemble_text
from tests.firmware import bios_engines
from tests.firmware.bios_engines import SECTOR, Machine, run_machine

BiosGuest = Callable[..., str]
ON_BOTH = ("test_bios_services", "test_bios_disk", "test_bios_boot")

# Every program starts here, at 0000:7C00 with DL = drive, and ends at `done`. `say` prints AX in hexadecimal and a
# blank, `carry` prints C or -, `zero` prints Z or -, `keys` asks for the next keys: none changes registers or flags.
PRELUDE = """
.macro EMIT character
    push ax
    mov al, \\character
    out 0xE9, al
    pop ax
.endm
    ljmp 0:program
say:
    pushf
    push cx
    mov cx, 4
.digit:
    rol ax, 4
    push ax
    and al, 15
    add al, 48
    cmp al, 57
    jbe .emit
    add al, 39
.emit:
    out 0xE9, al
    pop ax
    loop .digit
    pop cx
    popf
    EMIT 32
    ret
carry:
    jc .set
    EMIT 45
    ret
.set:
    EMIT 67
    ret
zero:
    jz .set
    EMIT 45
    ret
.set:
    EMIT 90
    ret
keys:
    EMIT 63
    ret
done:
    mov al, 0
    out 0xF4, al
    hlt
program:
    mov bx, 0
    mov ds, bx
    mov es, bx
    mov ss, bx
    mov sp, 0x7C00
    sti
    cld
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every BIOS test on each engine; QEMU, where nothing of ours but the ROMs is under test, is for the soak."""
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        metafunc.fixturenames.append("bios_engine")
        engines = ["glassvisor", pytest.param("qemu", marks=pytest.mark.slow)]
        metafunc.parametrize("bios_engine", engines, indirect=True)


@pytest.fixture
def bios_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that `run_machine` uses."""
    monkeypatch.setattr(bios_engines, "chosen", request.param)


@pytest.fixture
def bios_guest(tmp_path: Path) -> BiosGuest:
    """Return `run(code, *keys, option_rom=b"")`: boot `code`, with that ROM at D0000h; what the debug console heard."""

    def run(code: str, *keys: str, option_rom: bytes = b"") -> str:
        sector = assemble_text(f"{PRELUDE}\n{code}\njmp done\n", 0x7C00).flat(0x7C00)
        assert len(sector) <= SECTOR - 2, f"the boot sector is {len(sector) - SECTOR + 2} bytes too long"
        disk = sector.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
        return run_machine(Machine(tmp_path, disk, keys=list(keys), option_rom=option_rom)).strip()

    return run
