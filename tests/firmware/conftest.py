"""A guest under our firmware, with one narrow seam: a boot sector in, what it wrote to the debug console back.

The machine is QEMU's ISA PC: it is independent of this project, and nothing but our two ROMs runs on it.
"""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from firmware.assembler import assemble_text
from firmware.build import build_bios, build_vga_rom

BiosGuest = Callable[..., str]

SECTOR = 512
DISK_SECTORS = 16 * 63
ASK_FOR_KEYS = "?"
SECONDS = 30

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


@dataclass
class Qemu:
    """One run. Each `?` of the guest has the next entry of `keys` played: blank-separated chords such as
    `shift-a`, `+alt` (stays down) and `-alt`."""

    directory: Path
    keys: list[str] = field(default_factory=list)
    pressed: int = 0
    option_rom: bytes = b""

    def run(self, disk: bytes) -> str:
        """Run until the guest writes to the exit port; return what it wrote to the debug console."""
        image = self.directory / "disk.img"
        image.write_bytes(disk.ljust(DISK_SECTORS * SECTOR, b"\0"))
        with subprocess.Popen(self._command(image), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            try:
                return self._listen(process)
            finally:
                process.kill()

    def _command(self, image: Path) -> list[str]:
        bios, vga = self.directory / "bios.rom", self.directory / "vga.rom"
        bios.write_bytes(build_bios())
        vga.write_bytes(build_vga_rom())
        # The ISA PC has a local APIC in the way of its 8259A unless told otherwise; ours has none.
        extra: list[str] = []
        if self.option_rom:
            rom = self.directory / "option.rom"
            rom.write_bytes(self.option_rom)
            extra = ["-device", f"loader,file={rom},addr=0xd0000,force-raw=on"]
        return [
            *("qemu-system-i386", "-M", "isapc", "-cpu", "pentium3,-apic", "-m", "32", "-bios", str(bios)),
            *("-device", f"loader,file={vga},addr=0xc0000,force-raw=on", "-display", "none", "-net", "none"),
            *("-drive", f"file={image},format=raw,if=ide", "-boot", "c", "-rtc", "base=2024-02-29T12:34:50,clock=vm"),
            *("-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-serial", "null"),
            *("-qmp", f"unix:{self.directory / 'qmp'},server=on,wait=off", *extra),
        ]

    def _listen(self, process: "subprocess.Popen[bytes]") -> str:
        assert process.stdout is not None
        said = ""
        deadline = time.monotonic() + SECONDS
        while True:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"no end after {SECONDS} s; the guest said {said!r}")
            chunk = os.read(process.stdout.fileno(), 4096).decode("latin-1")
            if not chunk:
                return said
            for _ in range(chunk.count(ASK_FOR_KEYS)):
                self._play(self.keys[self.pressed])
                self.pressed += 1
            said += chunk.replace(ASK_FOR_KEYS, "")

    def _play(self, chords: str) -> None:
        # The guest may be done, and the machine gone, before the last key is up.
        with socket.socket(socket.AF_UNIX) as control, contextlib.suppress(ConnectionError):
            control.connect(str(self.directory / "qmp"))
            with control.makefile("rw") as channel:
                channel.readline()
                _command(channel, "qmp_capabilities", {})
                for chord in chords.split():
                    _command(channel, "input-send-event", {"events": list(_events(chord))})


def _command(channel: Any, name: str, arguments: dict[str, Any]) -> None:
    channel.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    channel.flush()
    while "return" not in json.loads(channel.readline()):  # events may come in between
        pass


def _events(chord: str) -> list[dict[str, Any]]:
    if chord[0] in "+-":
        return [_event(chord[1:], chord[0] == "+")]
    names = chord.split("-")
    return [_event(name, True) for name in names] + [_event(name, False) for name in reversed(names)]


def _event(name: str, down: bool) -> dict[str, Any]:
    return {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": name}}}


@pytest.fixture
def bios_guest(tmp_path: Path) -> BiosGuest:
    """Return `run(code, *keys, option_rom=b"")`: boot `code`, with that ROM at D0000h; what the debug console heard."""
    if shutil.which("qemu-system-i386") is None:
        pytest.skip("needs qemu-system-i386")

    def run(code: str, *keys: str, option_rom: bytes = b"") -> str:
        sector = assemble_text(f"{PRELUDE}\n{code}\njmp done\n", 0x7C00).flat(0x7C00)
        assert len(sector) <= SECTOR - 2, f"the boot sector is {len(sector) - SECTOR + 2} bytes too long"
        machine = Qemu(tmp_path, list(keys), option_rom=option_rom)
        return machine.run(sector.ljust(SECTOR - 2, b"\0") + b"\x55\xaa").strip()

    return run
