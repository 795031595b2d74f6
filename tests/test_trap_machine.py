"""Whole machines under ring deprivileging: the BIOS, boot sectors, and the demo guest with what it calls wrong."""

import re
from pathlib import Path

import pytest
from vm_rig import MIB, listen, machine, put, run

from firmware.demo_guest import build_demo
from vmm.engines.names import EngineName, Rings
from vmm.errors import Unmodelled
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, Halted

WRONG_IN_REAL_MODE = {
    "SGDT": "GDTR is the VMM's, and SGDT does not trap (SDM Vol. 2B, SGDT)",
    "SIDT": "so is IDTR",
    "SMSW": "CR0 has PE set: real mode runs in V86",
}
WRONG_IN_RING_0 = {
    **WRONG_IN_REAL_MODE,
    "SLDT": "LDTR is the VMM's",
    "STR": "TR is the VMM's",
    "SMSW": "CR0 has NE set, which the guest has not",
    "PUSHF": "IF is the processor's, which is always set",
    "POPF": "at CPL > IOPL it leaves IF and IOPL alone, without a fault",
    "INT": "the handler's PUSHF shows IF",
    "LAR": "DPL is raised to the ring that the kernel runs in",
    "LSL": "the processor's GDT has no LDT descriptor",
    "PUSH": "RPL of CS and SS is the ring that the kernel runs in",
    "MOV": "so it is here",
    "CALL": "and in the CS that CALL leaves on the stack",
    "JMP": "and in CS behind a JMP",
    "RET": "and behind a RET",
}
"""By the line of the demo guest: why."""


def lines_of_the_demo(tmp_path: Path, rings: Rings) -> list[str]:
    floppy = tmp_path / "demo.img"
    floppy.write_bytes(build_demo())
    with machine(engine=EngineName.TRAP, rings=rings, memory=4 * MIB, floppies=(floppy,)) as vm:
        heard = bytearray()
        vm.serial_out.append(heard.extend)
        assert run(vm, patience=60) == Halted()
    return heard.decode().splitlines()


@pytest.mark.parametrize("rings", Rings, ids=["0_1_3", "0_3"])
def test_the_demo_guest_finds_wrong_what_theory_says_and_nothing_else(tmp_path: Path, rings: Rings) -> None:
    lines = lines_of_the_demo(tmp_path, rings)
    ring_0 = next(at for at, line in enumerate(lines) if line.startswith("RING"))
    for part, expected in ((lines[:ring_0], WRONG_IN_REAL_MODE), (lines[ring_0:], WRONG_IN_RING_0)):
        assert {line.split()[0] for line in part if line.endswith("WRONG")} == set(expected)
    assert lines[-1] == f"glassvisor demo: 36 checks, {len(WRONG_IN_REAL_MODE) + len(WRONG_IN_RING_0)} wrong"
    assert all(re.search(r"\bok$", line) for line in lines if line.startswith(("timer", "keys")))


def test_a_boot_sector_takes_its_timer_interrupts() -> None:
    """IRQ 0 through its own handler, ten times, HLT between them."""
    with machine(engine=EngineName.TRAP) as vm:
        put(
            vm,
            """
            xor ax, ax
            mov ds, ax
            mov word ptr [0x20], 0x7d00
            mov word ptr [0x22], 0
            mov al, 0x11
            out 0x20, al
            mov al, 8
            out 0x21, al
            mov al, 4
            out 0x21, al
            mov al, 1
            out 0x21, al
            mov al, 0xfe
            out 0x21, al
            mov al, 0x34
            out 0x43, al
            xor al, al
            out 0x40, al
            mov al, 8
            out 0x40, al
            sti
            again: hlt
            cmp byte ptr [0x7e00], 10
            jb again
            mov al, [0x7e00]
            out 0xf4, al
            """,
        )
        put_handler = b"\xfe\x06\x00\x7e\x50\xb0\x20\xe6\x20\x58\xcf"  # inc [7E00h]; EOI; iret
        vm.memory.write(0x7D00, put_handler)
        assert run(vm) == ExitPort(10)


def test_code_in_a_devices_memory_ends_the_run_in_one_line() -> None:
    from vmm.memory import MemoryRegion

    with machine(engine=EngineName.TRAP, memory=4 * MIB) as vm:
        vm.memory.map(MemoryRegion("device", 0x9000, 0x1000, priority=1, read=lambda _o, _w: 0x90))
        put(vm, "mov ax, 0x9000; jmp ax")
        with pytest.raises(Unmodelled, match="code in device memory, at linear address 0x9000"):
            run(vm, Monitor())


def test_a_reset_starts_the_bios_again() -> None:
    with machine(engine=EngineName.TRAP, memory=4 * MIB) as vm:
        monitor, heard = Monitor(), listen(vm)
        for _ in range(2):
            put(vm, "mov al, 0x41; out 0xe9, al; mov al, 7; out 0xf4, al")
            assert run(vm, monitor) == ExitPort(7)
            vm.reset()
        assert bytes(heard) == b"AA"
