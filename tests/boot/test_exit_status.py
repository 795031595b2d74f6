"""How a run can end, and the exit status that says so."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.conftest import GRACE, TIMEOUT, command, environment

SAY = """
    mov si, offset text
1:  mov dx, 0x3fd       # wait until the transmitter is empty
    in al, dx
    test al, 0x20
    jz 1b
    lodsb al, ds:[si]
    out 0xe9, al
    mov dx, 0x3f8
    out dx, al
    test al, al
    jnz 1b
"""
TEXT = 'text: .asciz "ready"\n'
HALT = "cli\n hlt\n"

RESETS = {
    "i8042": ("mov al, 0xfe; out 0x64, al", "i8042 command FEh"),
    "port_92h": ("mov al, 1; out 0x92, al", "port 92h"),
    "port_cf9h": ("mov dx, 0xcf9; mov al, 6; out dx, al", "port CF9h"),
}


@pytest.mark.parametrize(("code", "source"), RESETS.values(), ids=RESETS)
def test_a_reset_that_the_guest_asked_for_is_status_0(vmm, sector, code, source):
    run = vmm(sector(f"{code}\n jmp ."), "--on-reset", "exit", timeout=20)
    assert (run.status, run.heading) == (0, f"the guest asked for a reset ({source}) (status 0)")


def test_a_triple_fault_is_status_3(vmm, sector):
    run = vmm(sector("lidt cs:[1f]; int3\n1: .word 0; .long 0"), "--on-reset", "exit", timeout=20)
    assert run.status == 3
    assert run.heading.startswith("triple fault: ")


@pytest.mark.parametrize("code", [code for code, _ in RESETS.values()] + ["lidt cs:[9f]; int3\n9: .word 0; .long 0"])
def test_a_reset_starts_the_guest_again_and_cmos_remembers(vmm, sector, code):
    """The first time round CMOS 34h, which the BIOS does not use, is 0; the guest sets it and pulls the reset line."""
    again = (
        f"mov al, 0x34; out 0x70, al; in al, 0x71; cmp al, 0x5a; je 2f; mov al, 0x5a; out 0x71, al\n{code}\n jmp .\n"
    )
    run = vmm(sector(f"{again}2: {SAY}{HALT}{TEXT}"), "--debugcon", "console.txt", timeout=20)
    assert (run.status, run.text("console.txt")) == (0, "ready\0")
    assert run.heading == "the guest halted for good (HLT with interrupts off) (status 0)"


@pytest.mark.parametrize("value", [0, 1, 5, 0x7F, 0x80])
def test_the_exit_port_gives_the_status(vmm, sector, value):
    run = vmm(sector(f"mov al, {value}; out 0xf4, al\n jmp ."), "--exit-port", timeout=20)
    assert run.status == (value << 1 | 1) & 0xFF


def test_the_exit_port_is_off_unless_asked_for(vmm, sector):
    run = vmm(sector(f"in al, 0xf4; out 0xe9, al; mov al, 1; out 0xf4, al\n{HALT}"), "--debugcon", "c", timeout=20)
    assert (run.status, run.text("c")) == (0, "\xff")


def test_until_ends_the_run_at_a_match_on_the_screen(vmm, sector):
    run = vmm(sector("mov ax, 0xe58; int 0x10; mov al, 'Y; int 0x10; jmp ."), "--until", "XY$", timeout=20)
    assert (run.status, run.heading) == (0, "matched 'XY$' (status 0)")


def test_until_ends_the_run_at_a_match_in_the_serial_text(vmm, sector):
    run = vmm(sector(f"{SAY} jmp .\n{TEXT}"), "--until", "re+ady", timeout=20)
    assert (run.status, run.heading) == (0, "matched 're+ady' (status 0)")


def test_a_script_that_the_guest_leaves_in_the_middle_is_status_1(vmm, sector, tmp_path):
    (tmp_path / "s.script").write_text("expect screen never\n")
    run = vmm(sector(HALT), "--script", "s.script", timeout=20)
    assert run.status == 1
    assert "s.script:1: expect screen never" in run.heading


def test_a_script_that_waits_in_vain_is_timed_out(vmm, sector, tmp_path):
    (tmp_path / "s.script").write_text("expect screen never\n")
    run = vmm(sector("jmp ."), "--script", "s.script", timeout=3)
    assert run.status == 124
    assert "s.script:1: expect screen never" in run.heading


def test_strict_stops_at_a_device_mode_that_is_not_modelled(vmm, sector):
    """The 8042's command to switch its clock line off, and an 8237 mode: nothing on a PC uses either."""
    run = vmm(sector(f"{UNMODELLED}\n{HALT}"), "--strict", timeout=20)
    assert run.status == 4
    assert run.err.startswith("vmm: not modelled: ")


def test_what_is_not_modelled_is_counted(vmm, sector):
    run = vmm(sector(f"{UNMODELLED}\n{HALT}"), "--stats", "stats.json", timeout=20)
    assert run.status == 0
    assert sum(run.stats()["unmodelled"].values()) >= 1


UNMODELLED = "mov al, 0x34; out 0x43, al; mov dx, 0x64; mov al, 0xdd; out dx, al; mov al, 0x99; out 0x08, al"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "code", ["jmp .", "cli; jmp .", "sti\n1: hlt; jmp 1b"], ids=["runs", "runs_with_if_0", "idles"]
)
def test_a_signal_ends_the_run_cleanly(sector, tmp_path, number, code):
    def end(process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(number)

    status, err = run_and(end, sector(f"{SAY}{code}\n{TEXT}"), tmp_path)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert status == 128 + number
    assert err.startswith(f"ended by {name} (status {128 + number})\n")
    assert "Traceback" not in err


def run_and(act: Callable[["subprocess.Popen[bytes]"], None], image: Path, directory: Path) -> tuple[int, str]:
    """Run a guest, act as soon as its first serial byte is here, and wait for the end: status and stderr."""
    words = command(image, "--serial", "stdio", "--timeout", TIMEOUT)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=directory, env=environment(), bufsize=0, **pipes) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        act(process)
        _, err = process.communicate(timeout=TIMEOUT + GRACE)
    return process.returncode, err.decode()
