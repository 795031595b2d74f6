"""PCI during POST, the PCI BIOS in both code sizes, and APM, each called by a boot sector.

They run on our own board and, in the soak, on QEMU's pc board, which has the same chips; services that need a chip
which is not there run on QEMU's ISA PC.
Source of the expected values: PCI BIOS Specification 2.1; Advanced Power Management BIOS Interface Specification 1.2;
data sheets of the PIIX3 and PIIX4.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from firmware.assembler import assemble_text
from tests.firmware.bios_engines import SECTOR, Machine, plugged, run_glassvisor, run_qemu
from tests.firmware.bios_engines import _build as build_machine
from tests.firmware.conftest import PRELUDE
from vmm.devices.pci import Bar, Config, PciFunction, PciIdentity, Space, Window
from vmm.monitor import Monitor
from vmm.outcome import Outcome, PoweredOff

PC: Final = ("-M", "pc")
SLICES: Final = 500


def boot_disk(code: str) -> bytes:
    sector = assemble_text(f"{PRELUDE}\n{code.replace('; ', chr(10))}\njmp done\n", 0x7C00).flat(0x7C00)
    assert len(sector) <= SECTOR - 2, f"the boot sector is {len(sector) - SECTOR + 2} bytes too long"
    return sector.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


@pytest.fixture(params=["glassvisor", pytest.param("qemu", marks=pytest.mark.slow)])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return `run(code)`: boot it, and what the debug console heard."""

    def run(code: str) -> str:
        if request.param == "glassvisor":
            return run_glassvisor(Machine(tmp_path, boot_disk(code))).strip()
        return run_qemu(Machine(tmp_path, boot_disk(code), options=PC)).strip()

    return run


def on_our_own(tmp_path: Path, code: str, plug: Callable[[Any], None] = lambda _vm: None) -> tuple[Outcome | None, str]:
    """Boot on our own board, with something plugged in; how it ended, and what it said."""
    machine = Machine(tmp_path, boot_disk(code))
    vm = build_machine(machine, plugged(()))
    said: list[bytes] = []
    vm.debugcon_out.append(said.append)
    plug(vm)
    monitor = Monitor()
    outcome = None
    try:
        for _ in range(SLICES):
            outcome = monitor.run_slice(vm, 0.02)
            if outcome is not None:
                break
    finally:
        vm.close()
    return outcome, b"".join(said).decode().strip()


def pci(function: int, **registers: int) -> str:
    """A call of INT 1Ah and what AX and the carry flag are then."""
    loads = "; ".join(f"mov {name}, {value:#x}" for name, value in registers.items())
    return f"{loads}; mov ax, {0xB100 | function:#x}; int 0x1A; call carry; call say; "


SAY_BX = "mov ax, bx; call say; "
SAY_CX = "mov ax, cx; call say; "
SAY_ECX = "mov eax, ecx; shr eax, 16; call say; mov ax, cx; call say; "
IDE, POWER, NOBODY = 0x09, 0x0B, 0xF8  # device and function

SERVICES = [
    pytest.param(
        pci(0x01, bx=0, cx=0xFFFF) + SAY_BX + SAY_CX + "mov eax, edx; shr eax, 16; call say; mov ax, dx; call say",
        "-0001 0210 ff00 2049 4350",
        id="present",
    ),
    pytest.param(pci(0x02, cx=0x7113, dx=0x8086, si=0) + SAY_BX, "-0002 000b", id="find_device"),
    pytest.param(pci(0x02, cx=0x7113, dx=0x8086, si=1, bx=0x1234) + SAY_BX, "C8602 1234", id="no_second_one"),
    pytest.param(pci(0x02, cx=0x7113, dx=0xFFFF, si=0), "C8302", id="no_such_vendor"),
    pytest.param(pci(0x03, ecx=0x0001_0180, si=0) + SAY_BX, "-0003 0009", id="find_class"),
    pytest.param(pci(0x03, ecx=0x0001_0181, si=0), "C8603", id="no_such_class"),
    pytest.param(pci(0x08, bx=POWER, di=1, cx=0x1234) + SAY_CX, "-0008 1280", id="read_byte"),
    pytest.param(pci(0x09, bx=POWER, di=2, ecx=0x1234_5678) + SAY_ECX, "-0009 1234 7113", id="read_word"),
    pytest.param(pci(0x0A, bx=POWER, di=0) + SAY_ECX, "-000a 7113 8086", id="read_doubleword"),
    pytest.param(pci(0x0A, bx=NOBODY, di=0) + SAY_ECX, "-000a ffff ffff", id="nobody_answers"),
    pytest.param(pci(0x0A, bx=0x0100 | POWER, di=0) + SAY_ECX, "-000a ffff ffff", id="no_other_bus"),
    pytest.param(
        pci(0x0B, bx=POWER, di=0x3C, cx=0x55) + pci(0x09) + SAY_CX,
        "-000b -0009 0155",
        id="write_byte",
    ),
    pytest.param(
        pci(0x0C, bx=POWER, di=0x3C, cx=0xAA66) + pci(0x0A, bx=POWER, di=0x3C) + SAY_CX,
        "-000c -000a 0166",
        id="write_word",
    ),
    pytest.param(
        pci(0x0D, bx=POWER, di=0x54, ecx=0x1234_5678) + pci(0x0A, ecx=0) + SAY_ECX,
        "-000d -000a 1234 5678",
        id="write_doubleword",
    ),
    pytest.param(pci(0x08, bx=POWER, di=0x100), "C8708", id="byte_beyond_the_last_register"),
    pytest.param(pci(0x09, bx=POWER, di=1), "C8709", id="word_at_an_odd_register"),
    pytest.param(pci(0x0D, bx=POWER, di=2), "C870d", id="doubleword_across"),
    pytest.param(pci(0x06) + pci(0x0E) + pci(0x00), "C8106 C810e C8100", id="no_special_cycles_no_routing"),
    pytest.param(
        "mov esi, 0x11112222; mov edi, 0x33330000; mov ebx, 0x5555000B; mov edx, 0x66667777; "
        "mov eax, 0x8888B108; int 0x1A; xor esi, 0x11112222; xor edi, 0x33330000; xor ebx, 0x5555000B; "
        "xor edx, 0x66667777; or esi, edi; or esi, ebx; or esi, edx; call zero; shr eax, 16; call say",
        "Z8888",
        id="registers_stay",
    ),
]


@pytest.mark.parametrize(("code", "said"), SERVICES)
def test_pci_service(guest: Callable[[str], str], code: str, said: str) -> None:
    assert guest(code) == said


def read_port(port: int) -> str:
    return f"mov dx, {port:#x}; in ax, dx; call say; "


POST = [
    pytest.param(pci(0x0A, bx=0x08, di=0x60) + SAY_ECX, "-000a 0b0b 0a0a", id="pirq_routing"),
    pytest.param("mov dx, 0x4D1; in al, dx; mov ah, 0; call say", "000e", id="pci_lines_are_level_triggered"),
    pytest.param(pci(0x0A, bx=IDE, di=0x40) + SAY_ECX, "-000a 8000 8000", id="both_ide_channels_are_on"),
    pytest.param(pci(0x09, bx=IDE, di=0x20) + SAY_CX, "-0009 c001", id="bmiba"),
    pytest.param(pci(0x09, bx=IDE, di=0x04) + SAY_CX, "-0009 0005", id="ide_may_master_the_bus"),
    pytest.param(pci(0x09, bx=POWER, di=0x40) + SAY_CX, "-0009 0601", id="pmba"),
    pytest.param(pci(0x08, bx=POWER, di=0x80, cx=0) + SAY_CX, "-0008 0001", id="pmregmisc"),
    pytest.param(pci(0x09, bx=POWER, di=0x3C) + SAY_CX, "-0009 0109", id="the_sci_is_irq_9"),
    pytest.param(read_port(0x604), "0001", id="acpi_mode"),
    pytest.param(
        "mov ax, 0x9FCC; mov ds, ax; mov ax, [0]; call say; mov ax, [2]; call say; mov ax, [4]; call say; "
        "mov ax, [6]; call say; mov ax, [0x3E]; call say",
        "4146 5343 0040 0000 0000",
        id="facs",
    ),
]


@pytest.mark.parametrize(("code", "said"), POST)
def test_post_leaves(guest: Callable[[str], str], code: str, said: str) -> None:
    assert guest(code) == said


@dataclass(slots=True, kw_only=True)
class Card(PciFunction):
    """A function with base address registers of several kinds, one of 64 bits among them."""

    places: dict[int, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bars = tuple(
            Bar(register, size, space, Window(partial(self.places.__setitem__, register)))
            for register, size, space in (
                (0x10, 0x100, Space.IO),
                (0x14, 0x2_0000, Space.MEMORY),
                (0x18, 0x1000, Space.MEMORY),
                (0x24, 4, Space.IO),
            )
        )
        PciFunction.__post_init__(self)
        self.set(0x18, 4, 0x4)
        self.allow(0x1C, 4, 0xFFFF_FFFF)


def test_every_base_address_register_gets_a_place_of_its_own(tmp_path: Path) -> None:
    cards = {
        device: Card(identity=PciIdentity(vendor=0x1234, device=device, class_code=0x020000, interrupt_pin=2))
        for device in (5, 6)
    }

    def plug(vm: Any) -> None:
        for device, card in cards.items():
            vm.board.pci.bus.add(device, 0, card)

    on_our_own(tmp_path, "nop", plug)
    assert cards[5].places == {0x10: 0xC100, 0x14: 0xE000_0000, 0x18: 0xE002_0000, 0x24: 0xC200}
    assert cards[6].places == {0x10: 0xC300, 0x14: 0xE004_0000, 0x18: 0xE006_0000, 0x24: 0xC400}
    assert [card.get(0x1C, 4) for card in cards.values()] == [0, 0]
    assert [card.get(Config.INTERRUPT_LINE, 1) for card in cards.values()] == [10, 11]


# Flat 32-bit code at selector 8, data at 10h, and at 18h code with the ROM's base, as an APM driver makes it.
_PROTECTED: Final = """
    cli
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmp 8:flat
gdt_pointer:
    .word 0x1F
    .long gdt
gdt:
    .long 0, 0, 0x0000FFFF, 0x00CF9B00, 0x0000FFFF, 0x00CF9300, 0x0000FFFF, 0x00409B0F
.code32
flat:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    mov esp, 0x7C00
"""
BIOS32: Final = f"""{_PROTECTED}
    mov esi, 0xF0000
search:
    cmp dword ptr [esi], 0x5F32335F
    je found
    add esi, 16
    jmp search
found:
    mov eax, 0x49435024
    mov ebx, 0
    mov edx, dword ptr [esi+4]
    push cs
    call edx
    add al, 0x30
    out 0xE9, al
    lea ebp, [ebx+edx]
    mov eax, 0xB101
    push cs
    call ebp
    jc done
    mov eax, edx
    out 0xE9, al
    mov eax, 0xB102
    mov ecx, 0x7113
    mov edx, 0x8086
    mov esi, 0
    push cs
    call ebp
    jc done
    mov al, bl
    add al, 0x40
    out 0xE9, al
    mov eax, 0xB10A
    mov edi, 0
    push cs
    call ebp
    jc done
    cmp ecx, 0x71138086
    jne done
    mov al, 'v'
    out 0xE9, al
    mov eax, 0xB109
    mov edi, 1
    push cs
    call ebp
    jnc done
    mov al, ah
    out 0xE9, al
"""


def test_the_pci_bios_in_32_bit_code(guest: Callable[[str], str]) -> None:
    assert guest(BIOS32) == "0PKv\x87"


# ---- APM -------------------------------------------------------------------------------------------------


def apm(function: int, **registers: int) -> str:
    loads = "; ".join(f"mov {name}, {value:#x}" for name, value in registers.items())
    return f"{loads}; mov ax, {0x5300 | function:#x}; int 0x15; call carry; call say; "


APM = [
    pytest.param(apm(0x00, bx=0) + SAY_BX + SAY_CX, "-0102 504d 0003", id="installed"),
    pytest.param(apm(0x00, bx=1), "C0900", id="installed_in_what"),
    pytest.param(apm(0x01, bx=0), "-0001", id="connect"),
    pytest.param(apm(0x03, bx=0) + SAY_CX + "mov ax, dx; call say", "-f000 f000 0040", id="connect_32"),
    pytest.param(apm(0x04, bx=0), "-0004", id="disconnect"),
    pytest.param(apm(0x05), "-0005", id="idle_ends_with_an_interrupt"),
    pytest.param(apm(0x07, bx=1, cx=0), "-0007", id="ready"),
    pytest.param(apm(0x07, bx=1, cx=2), "C6007", id="no_suspend"),
    pytest.param(apm(0x07, bx=0x0200, cx=3), "C0907", id="not_one_device"),
    pytest.param(apm(0x0A, bx=1) + SAY_BX + SAY_CX, "-000a 01ff 80ff", id="on_mains"),
    pytest.param(apm(0x0B), "C800b", id="no_event"),
    pytest.param(apm(0x0C, bx=1, cx=9) + SAY_CX, "-000c 0000", id="is_ready"),
    pytest.param(apm(0x0E, bx=0, cx=0x0102), "-0102", id="version"),
    pytest.param(apm(0x11), "C0c11", id="no_such_function"),
]


@pytest.mark.parametrize(("code", "said"), APM)
def test_apm_service(guest: Callable[[str], str], code: str, said: str) -> None:
    assert guest(code) == said


APM_OFF: Final = apm(0x01, bx=0) + apm(0x0E, bx=0, cx=0x0102) + apm(0x07, bx=1, cx=3) + "EMIT 'n'"
APM_OFF_32: Final = f"""
    mov ax, 0x5303
    mov bx, 0
    int 0x15
    mov edi, ebx
{_PROTECTED}
    mov eax, 0x530E
    mov ecx, 0x0102
    call apm_call
    mov al, ah
    add al, 0x30
    out 0xE9, al
    mov eax, 0x5307
    mov ebx, 1
    mov ecx, 3
    call apm_call
    jmp done
apm_call:
    push cs
    push apm_back
    push 0x18
    push edi
    retf
apm_back:
    ret
"""
OFF = [
    pytest.param(APM_OFF, "-0001 -0102", id="apm"),
    pytest.param(APM_OFF_32, "1", id="apm_32"),
    pytest.param("mov dx, 0x604; mov ax, 0x2000; out dx, ax; 1: jmp 1b", "", id="acpi"),
]


@pytest.mark.parametrize(("code", "said"), OFF)
def test_the_machine_can_be_switched_off(tmp_path: Path, code: str, said: str) -> None:
    assert on_our_own(tmp_path, code) == (PoweredOff(), said)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "said"), OFF)
def test_qemu_is_switched_off_the_same_way(tmp_path: Path, code: str, said: str) -> None:
    assert run_qemu(Machine(tmp_path, boot_disk(code), options=PC)).strip() == said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [pytest.param(pci(0x01), "C8601", id="pci"), pytest.param(apm(0x00, bx=0), "C8600", id="apm")],
)
def test_on_an_isa_pc_there_is_no(tmp_path: Path, code: str, said: str) -> None:
    assert run_qemu(Machine(tmp_path, boot_disk(code))).strip() == said
