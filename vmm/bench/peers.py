"""QEMU's TCG and Bochs as runners: they boot the same disk image, and its marks come through their standard output.

A mark is noted when it is read here, so what a loop takes should be long against the time that the host needs to wake a
reader. What is noted is the processor time of the whole peer.

Source: QEMU documentation, "Invocation" (`-debugcon`); Bochs documentation, "The configuration file bochsrc"
(`port_e9_hack`); clock_getcpuclockid(3): the clock of another process.
"""

import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import clock_gettime_ns, monotonic
from typing import Final

from vmm.bench.case import Case
from vmm.bench.engines import LIMIT_S, MEMORY
from vmm.bench.image import CYLINDERS, HEADS, SECTORS, Image
from vmm.bench.marks import Mark, Runner, check, is_over, marks_in

QEMU: Final = "qemu-system-i386"
BOCHS: Final = "bochs"
_MEBI: Final = 1 << 20
_BOCHS_PLACES: Final = ("/usr/share/bochs", "/usr/local/share/bochs")
_BOCHS_BIOS: Final = "BIOS-bochs-latest"
_BOCHS_VGA_BIOS: Final = "VGABIOS-lgpl-latest"
_GO: Final = b"c\n"
"""A Bochs with a debugger waits for this command; another one does not read it."""


class Missing(Exception):
    """A peer is not installed, or something that it needs is not."""


@dataclass(frozen=True, slots=True)
class Qemu:
    """QEMU with its binary translator, TCG."""

    name: str = "qemu"

    def version(self) -> str:
        """Its first line about itself. Raises: Missing."""
        return _first_line([_program(QEMU), "--version"])

    def can_run(self, _case: Case) -> bool:
        """Every one."""
        return True

    def run(self, image: Image, counts: Sequence[int]) -> list[Mark]:
        """Boot in a process of its own. Raises: RunFailed."""
        with tempfile.TemporaryDirectory() as folder:
            disk = _disk(Path(folder), image, counts)
            command = [
                QEMU, "-accel", "tcg", "-m", str(MEMORY // _MEBI), "-display", "none", "-nic", "none",
                "-monitor", "none", "-serial", "none", "-debugcon", "stdio", "-no-reboot",
                "-drive", f"file={disk},format=raw,if=ide", "-boot", "c",
            ]  # fmt: skip
            return _watch(command, image)


@dataclass(frozen=True, slots=True)
class Bochs:
    """Bochs, an interpreter; without a window, its screen offered to nobody."""

    name: str = "bochs"

    def version(self) -> str:
        """Its first line about itself. Raises: Missing."""
        return _first_line([_program(BOCHS), "--help"])

    def can_run(self, _case: Case) -> bool:
        """Every one."""
        return True

    def run(self, image: Image, counts: Sequence[int]) -> list[Mark]:
        """Boot in a process of its own. Raises: RunFailed."""
        with tempfile.TemporaryDirectory() as folder:
            disk = _disk(Path(folder), image, counts)
            settings = Path(folder) / "bochsrc"
            settings.write_text(_bochsrc(disk, Path(folder) / "log"))
            return _watch([BOCHS, "-q", "-f", str(settings)], image, _bochs_environment())


PEERS: Final = {peer.name: peer for peer in (Qemu(), Bochs())}


def _program(name: str) -> str:
    if shutil.which(name) is None:
        raise Missing(f"{name} is not installed")
    return name


def _bochs_environment() -> dict[str, str]:
    """With BXSHARE, the directory of its BIOS, unless that is set here or by who starts it for us."""
    place = next((place for place in _BOCHS_PLACES if (Path(place) / _BOCHS_BIOS).is_file()), None)
    return {**({"BXSHARE": place} if place else {}), **os.environ}


def _bochsrc(disk: Path, log: Path) -> str:
    return f"""\
romimage: file=$BXSHARE/{_BOCHS_BIOS}
vgaromimage: file=$BXSHARE/{_BOCHS_VGA_BIOS}
megs: {MEMORY // _MEBI}
cpu: ips=1000000000
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={disk}, mode=flat, cylinders={CYLINDERS}, heads={HEADS}, spt={SECTORS}
boot: disk
display_library: rfb, options="timeout=0"
port_e9_hack: enabled=1
log: {log}
panic: action=fatal
error: action=ignore
info: action=ignore
"""


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if any(letter.isdigit() for letter in line)), "unknown version")


def _disk(folder: Path, image: Image, counts: Sequence[int]) -> Path:
    path = folder / "disk.img"
    path.write_bytes(image.disk(counts))
    return path


def _watch(command: list[str], image: Image, environment: Mapping[str, str] | None = None) -> list[Mark]:
    """Run a peer until the last mark. Raises: RunFailed."""
    marks: list[Mark] = []
    end = monotonic() + LIMIT_S
    ending = f"{command[0]} took longer than {LIMIT_S:g} s"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            os.write(child.stdin.fileno(), _GO)
            while not is_over(image, marks) and (left := end - monotonic()) > 0:
                if not select.select([child.stdout], [], [], left)[0]:
                    continue
                now = processor_time(child.pid)
                if not (data := os.read(child.stdout.fileno(), 4096)):
                    ending = f"{command[0]} ended too early"
                    break
                marks += marks_in(data, now)
        finally:
            child.kill()
    check(image, marks, ending)
    return marks


def processor_time(pid: int) -> int:
    """Nanoseconds that all threads of a process have run; the last known ones once it has ended."""
    return clock_gettime_ns(~pid << 3 | 2)


def runners(names: Sequence[str]) -> tuple[list[Runner], dict[str, str], list[str]]:
    """The peers that are there, their versions by name, and a line about each that is not."""
    found: list[Runner] = []
    versions: dict[str, str] = {}
    notes: list[str] = []
    for name in names:
        peer = PEERS[name]
        try:
            versions[name] = peer.version()
        except Missing as missing:
            notes.append(f"{missing}: without it")
        else:
            found.append(peer)
    return found, versions, notes
