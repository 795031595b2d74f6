"""Bochs as a process: an emulator of a whole PC that shares no code with the engine, driven through its debugger.

Theory of operation. Its BIOS is `firmware/hypervisor`, which runs programs in guest mode. What that shall load is
written to a file that is Bochs's first disk; then the debugger is told to continue. The hypervisor reads the disk,
enters the guest and, when that has left, comes to a breakpoint. There the debugger writes physical memory to files.

The mailbox is two pages: the VMCB, and what VMRUN does not load (`Extra`). The guest's memory follows on the disk.

Source: Bochs User Manual, "The configuration file bochsrc", "Using Bochs internal debugger".
"""

import ctypes
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from firmware.build import build_hypervisor_rom
from vmm.arch.layout import PAGE_SIZE
from vmm.errors import ConfigError, VmmError

PROGRAM: Final = "bochs"
MAILBOX: Final = 0x9_0000
MAILBOX_SIZE: Final = 2 * PAGE_SIZE
_SECTOR: Final = 512
_HEADS, _SECTORS_PER_TRACK = 16, 63
_DISK_SIZE: Final = _HEADS * _SECTORS_PER_TRACK * _SECTOR
_EMPTY_ROM: Final = bytes(_SECTOR)
_PROMPT: Final = re.compile(rb"<bochs:\d+> ")
_OWN_BREAKPOINT: Final = re.compile(rb"Magic breakpoint.*\[0x0*f[0-9a-f]{4}\] 0008:", re.DOTALL)
"""In the ROM, in its code segment: an XCHG BX, BX of the guest's stops the debugger, too, and so do other things."""
_SET_DEATH_SIGNAL: Final = 1
_PATIENCE_S: Final = 3.0
_START_S: Final = 60.0

# A processor of the P6 class with SSE2, as ours. AMD-V needs long mode, which programs cannot enter.
_SETTINGS: Final = f"""\
memory: guest=8, host=8
romimage: file=rom
vgaromimage: file=vga
display_library: term
magic_break: enabled=1
log: log
panic: action=report
error: action=ignore
info: action=ignore
speaker: enabled=0
sound: waveoutdrv=dummy
plugin_ctrl: biosdev=0, speaker=0, gameport=0, extfpuirq=0, parallel=0, serial=0
ata0-master: type=disk, path=disk, mode=flat, cylinders=1, heads={_HEADS}, spt={_SECTORS_PER_TRACK}
cpu: model=bx_generic, ips=1000000
cpuid: svm=1, x86_64=1, level=6, family=6, simd=sse2, apic=xapic, mwait=0, movbe=0, adx=0, aes=0, sha=0
cpuid: xsave=0, xsaveopt=0, 1g_pages=0, pcid=0, fsgsbase=0, smep=0, smap=0, sse4a=0, misaligned_sse=0
"""


def find() -> str:
    """The path of Bochs. Raises: ConfigError: there is none on PATH."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise ConfigError(
            "--engine bochs: no bochs on PATH; expected that of the Debian packages bochs and bochs-term, "
            'as PATH="$PATH:$(python -m tools.host_tools bochs)" has it'
        )
    return program


def _die_with_parent() -> None:
    """Between fork and exec. A worker may be killed while its Bochs runs a guest without end, and never reads that its
    input has ended (prctl(2), PR_SET_PDEATHSIG; Linux alone has it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


class Silence(VmmError):
    """Bochs has not come back: its guest runs on and on. With IF clear it does not see the hypervisor's timer."""


class Bochs:
    """One running Bochs, at the hypervisor's breakpoint between two calls."""

    def __init__(self) -> None:
        """Raises: ConfigError: there is no Bochs, or it does not start."""
        program = find()
        self._directory = tempfile.TemporaryDirectory(prefix="glassvisor-bochs-")
        self._home = Path(self._directory.name)
        self._put_files()
        self._unread = b""
        self._process = subprocess.Popen(
            [program, "-q", "-f", "settings"],
            cwd=self._home,
            env={**os.environ, "TERM": "dumb"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(self._out, selectors.EVENT_READ)
        try:
            self._until_prompt(_START_S)
            self._continue()
        except VmmError as error:
            raise ConfigError(f"{program} does not start: {error}") from error

    def _put_files(self) -> None:
        (self._home / "settings").write_text(_SETTINGS)
        (self._home / "rom").write_bytes(build_hypervisor_rom())
        (self._home / "vga").write_bytes(_EMPTY_ROM)
        (self._home / "disk").write_bytes(bytes(_DISK_SIZE))
        self._disk = (self._home / "disk").open("r+b", buffering=0)

    def run(self, mailbox: bytes, ram: bytes | None) -> bytes:
        """Enter the guest, with new memory if `ram` is given; the mailbox when it has left. Raises: Silence; VmmError:
        Bochs has ended. Then there is nothing to be done with it but `close`."""
        self._disk.seek(0)
        self._disk.write(mailbox if ram is None else mailbox + ram)
        self._continue()
        return self.memory(MAILBOX, MAILBOX_SIZE)

    def memory(self, at: int, size: int) -> bytes:
        """Physical memory. Raises: VmmError, as `run`."""
        self._say(f'writemem "memory" {at:#x} {size:#x}')
        return (self._home / "memory").read_bytes()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._waiting.close()
        self._in.close()
        self._out.close()
        self._disk.close()
        self._directory.cleanup()

    def _continue(self) -> None:
        while not _OWN_BREAKPOINT.search(self._say("c")):
            pass

    def _say(self, command: str) -> bytes:
        try:
            self._in.write(command.encode() + b"\n")
            self._in.flush()
        except BrokenPipeError as error:
            raise VmmError(f"bochs has ended: {self._last_words()}") from error
        return self._until_prompt(_PATIENCE_S)

    def _until_prompt(self, patience_s: float) -> bytes:
        """What the debugger says up to its next prompt."""
        while (found := _PROMPT.search(self._unread)) is None:
            if not self._waiting.select(patience_s):
                raise Silence(f"bochs has said nothing for {patience_s:.0f} s")
            more = os.read(self._out.fileno(), 1 << 16)
            if not more:
                raise VmmError(f"bochs has ended: {self._last_words()}")
            self._unread += more
        said, self._unread = self._unread[: found.start()], self._unread[found.end() :]
        return said

    def _last_words(self) -> str:
        """The last line of its log."""
        log = self._home / "log"
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        return next((line for line in reversed(lines) if ">>PANIC<<" in line), "see its log")
