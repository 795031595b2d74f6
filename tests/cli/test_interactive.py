"""`vmm run` at a terminal as a user has it: a process with a controlling terminal, and a guest that answers.

The guest echoes what COM1 receives, from an interrupt handler that takes its time, and halts in between.
"""

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firmware.assembler import assemble_text

ROOT = Path(__file__).parents[2]
ENTRY = 0x7C00
PATIENCE = 60
LEAVE = b"\x1d"

ECHO = """
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7c00
    mov word ptr [0x30], on_com1
    mov word ptr [0x32], ax
    mov dx, 0x3fa
    mov al, FIFO
    out dx, al
    mov dx, 0x3fb
    mov al, 3               # 8 bits, no parity
    out dx, al
    inc dx
    mov al, 0x0b            # DTR, RTS, OUT2
    out dx, al
    mov dx, 0x3f9
    mov al, 1               # interrupt on received data
    out dx, al
    in al, 0x21
    and al, 0xef
    out 0x21, al
    mov dx, 0x3f8
    mov al, '>'
    out dx, al
    sti
1:  hlt
    jmp 1b

on_com1:
    push ax
    push cx
    push dx
2:  mov dx, 0x3fd
    in al, dx
    test al, 1
    jz 4f
    mov cx, DELAY
3:  loop 3b
    mov dx, 0x3f8
    in al, dx
    out dx, al
    jmp 2b
4:  mov al, 0x20
    out 0x20, al
    pop dx
    pop cx
    pop ax
    iret
"""


@dataclass
class Seat:
    """Somebody at a terminal where a `vmm run` is under way."""

    master: int
    slave: int
    process: "subprocess.Popen[bytes]"
    mode_before: list[Any]
    seen: bytes = b""

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def paste(self, data: bytes) -> None:
        """Type as fast as the terminal takes it, and look at the screen meanwhile."""
        while data:
            reads, writes, _ = select.select([self.master], [self.master], [], PATIENCE)
            assert reads or writes
            if reads:
                self.seen += os.read(self.master, 1 << 16)
            if writes:
                with suppress(BlockingIOError):
                    data = data[os.write(self.master, data[:512]) :]

    def wait_for(self, text: bytes) -> None:
        """Look at the terminal until it shows `text`."""
        while text not in self.seen:
            assert select.select([self.master], [], [], PATIENCE)[0], self.seen[-500:]
            self.seen += os.read(self.master, 1 << 16)

    def end(self) -> int:
        """Look at the terminal until the process is over; its status."""
        while self.process.poll() is None:
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 1 << 16)
        return self.process.returncode

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)


Sit = Callable[..., Seat]


@pytest.fixture
def sit(tmp_path: Path) -> Iterator[Sit]:
    """Return `sit(*options, fifo=7, delay=1)`: start the echo guest at a terminal of its own."""
    seats: list[Seat] = []

    def start(*options: str, fifo: int = 7, delay: int = 1) -> Seat:
        program = tmp_path / "echo.bin"
        program.write_bytes(assemble_text(f".set FIFO, {fifo}\n.set DELAY, {delay}\n{ECHO}", ENTRY).flat(ENTRY))
        command = [sys.executable, "-m", "vmm", "run", "--flat", f"{program}@{ENTRY:#x}", *options]
        master, slave = os.openpty()
        termios.tcsetwinsize(slave, (30, 80))
        before = termios.tcgetattr(slave)
        process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command], stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        os.set_blocking(master, False)
        seats.append(Seat(master, slave, process, before))
        return seats[-1]

    yield start
    for seat in seats:
        seat.process.kill()
        seat.process.wait()
        os.close(seat.master)
        os.close(seat.slave)


TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Without a controlling terminal Ctrl-C would be no signal in any mode."""

EVERY_KEY = bytes(code for code in range(256) if bytes([code]) != LEAVE)


@pytest.mark.parametrize(("fifo", "delay"), [(7, 1), (7, 5000), (0, 1)], ids=["fast", "slow", "without_fifo"])
def test_ten_kilobytes_pasted_come_back_whole(sit: Sit, fifo: int, delay: int) -> None:
    seat = sit("--serial", "stdio", fifo=fifo, delay=delay)
    seat.wait_for(b">")
    start = len(seat.seen)
    data = EVERY_KEY * 40 + b"<end>"
    seat.paste(data)
    seat.wait_for(b"<end>")
    assert seat.seen[start:] == data
    seat.type(LEAVE)
    assert (seat.end(), seat.mode()) == (0, seat.mode_before)


def test_a_key_is_answered_while_one_waits_for_it(sit: Sit) -> None:
    seat = sit("--serial", "stdio")
    seat.wait_for(b">")
    took = []
    for key in (b"a", b"b", b"c", b"d", b"e", b"\x03"):
        started = time.monotonic()
        seat.type(key)
        seat.wait_for(key)
        took.append(time.monotonic() - started)
    assert min(took) < 0.05


def test_a_guest_that_sleeps_costs_next_to_nothing(sit: Sit) -> None:
    seat = sit("--serial", "stdio")
    seat.wait_for(b">")
    seat.type(b"x")
    seat.wait_for(b"x")
    before = processor_seconds(seat.process.pid)
    assert not select.select([seat.master], [], [], 2)[0]
    assert processor_seconds(seat.process.pid) - before < 0.5


def processor_seconds(pid: int) -> float:
    """User and system time of a process (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("options", [("--serial", "stdio"), ("--display", "text", "--serial", "none")])
def test_a_signal_puts_the_terminal_back(sit: Sit, options: tuple[str, ...], number: signal.Signals) -> None:
    seat = sit(*options)
    seat.wait_for(b">" if "stdio" in options else b"Ctrl-] leaves")
    assert seat.mode() != seat.mode_before
    seat.process.send_signal(number)
    assert (seat.end(), seat.mode()) == (128 + number, seat.mode_before)


def test_a_time_out_puts_the_terminal_back(sit: Sit) -> None:
    seat = sit("--serial", "stdio", "--timeout", "3")
    assert (seat.end(), seat.mode()) == (124, seat.mode_before)


def test_ctrl_c_ends_a_run_whose_serial_port_is_not_the_terminal(sit: Sit, tmp_path: Path) -> None:
    seat = sit("--serial", "serial.log", "--display", "none", "--timeout", str(PATIENCE))
    log = tmp_path / "serial.log"
    while not (log.exists() and log.stat().st_size):
        assert seat.process.poll() is None
        select.select([seat.master], [], [], 0.05)
    seat.type(b"\x03")
    assert (seat.end(), seat.mode()) == (128 + signal.SIGINT, seat.mode_before)


def test_scripts_and_matches_work_at_a_raw_terminal(sit: Sit, tmp_path: Path) -> None:
    (tmp_path / "s.script").write_text("expect serial >\nsend-serial abc\nexpect serial abc\n")
    seat = sit("--serial", "stdio", "--script", "s.script", "--timeout", str(PATIENCE))
    assert (seat.end(), seat.mode()) == (0, seat.mode_before)
    assert b"the script ended" in seat.seen


def test_a_pty_of_its_own_can_be_opened_twice(sit: Sit) -> None:
    seat = sit("--serial", "pty", "--display", "none")
    seat.wait_for(b"\r\n")
    name = seat.seen.split()[-1].decode()
    for _ in range(2):
        with open(name, "r+b", buffering=0) as line:
            answer = b""
            while not answer.endswith(b"\x03"):
                line.write(b"\x03")
                assert select.select([line], [], [], PATIENCE)[0]
                answer = line.read(99)
    seat.process.terminate()
    assert seat.end() == 128 + signal.SIGTERM
