"""Linux as a guest: its command line, initial file systems with programs of ours, and the same guest on QEMU."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.boot.conftest import Run
from vmm.fetch import cpio, linux
from vmm.fetch.debian import cache_directory

HERE: Final = Path(__file__).parent
READY: Final = "GLASSVISOR-INIT-READY"
BASE: Final = (
    "console=ttyS0 panic=-1 reboot=t nokaslr tsc=reliable mitigations=off quiet acpi=off noapic nolapic "
    "lpj=4000000 cryptomgr.notests noisapnp audit=0 pci=off"
)
"""A PC without PCI, ACPI and APIC, and a kernel that waits for nothing."""
WITH_PCI: Final = BASE.removesuffix(" pci=off")
INITRAMFS: Final = linux.INITRAMFS
LIMIT: Final = 600
"""Host seconds for a guest that works: many times what it needs, for a machine that is busy."""
QEMU_LIMIT: Final = 180
"""Host seconds that QEMU gets, on a machine that is busy."""


def linux_image(name: str) -> Path:
    """An image that `vmm images linux` fetched."""
    path = linux.directory() / name
    if not path.exists():
        option = " --all" if name.startswith("installer") else ""
        pytest.skip(f"no {path}; vmm images linux{option} fetches it")
    return path


def serial(run: Run) -> str:
    """What a guest said on its first serial port."""
    return run.text("serial.txt")


def with_files(directory: Path, base: Path, **files: bytes) -> Path:
    """An initial file system and programs that its init runs by name, from /gv."""
    entries = [cpio.file(f"gv/{name}", content, 0o755) for name, content in files.items()]
    path = directory / f"with-{'-'.join(files)}.cpio.gz"
    path.write_bytes(base.read_bytes() + cpio.compressed(entries))
    return path


def build(source: Path, directory: Path) -> bytes:
    """A static i386 program, made from C with the host's compiler and the 32-bit library that `make images` fetches."""
    root = cache_directory("images") / "i386-root"
    if not root.exists():
        pytest.skip(f"no {root}; make images fetches it")
    library, compiler = root / "usr/lib/i386-linux-gnu", root / "usr/lib/gcc/i686-linux-gnu/12"
    places = [f"--sysroot={root}", "-isystem", root / "usr/include/i386-linux-gnu"]
    places += [word for folder in (compiler, library) for word in (f"-B{folder}/", f"-L{folder}")]
    program = directory / source.stem
    flags = ("-m32", "-march=i686", "-msse2", "-O1", "-static", "-s", "-Wall", "-Wextra", "-Werror")
    done = subprocess.run(
        ["gcc", *flags, *places, source, "-o", program, "-lm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program.read_bytes()


def on_qemu(kernel: Path, initrd: Path, append: str, *more: object, memory: int = 256) -> str:
    """What the guest says on its first serial port on QEMU's TCG until it resets."""
    words: Sequence[object] = (
        "qemu-system-i386", "-accel", "tcg", "-m", memory, "-nic", "none", "-vga", "none", "-display", "none",
        "-serial", "stdio", "-monitor", "none", "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", append,
        *more,
    )  # fmt: skip
    done = subprocess.run(
        [str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, timeout=QEMU_LIMIT, check=True
    )
    return done.stdout.decode("latin-1")


def between(text: str, first: str, last: str) -> list[str]:
    """The lines of a terminal from one to another, both included, without what the kernel says in between."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    assert first in lines, text[-2000:]
    lines = lines[lines.index(first) :]
    assert last in lines, "\n".join(lines[-40:])
    return [line for line in lines[: lines.index(last) + 1] if not re.match(r"\[ *\d+\.\d+\] ", line)]


MASKED: Final = (
    r"(cpu MHz|bogomips|cache size|clflush size|cache_alignment)\s*:.*",  # speed, cache
    r"(vendor_id|cpu family|model|model name|stepping|microcode|cpuid level)\s*:.*",  # the processor's name
    r"(flags|bugs|address sizes|power management)\s*:.*",  # its flags, and what follows from them
)
_MASK: Final = re.compile("|".join(MASKED))


def masked(lines: Sequence[str]) -> list[str]:
    """Without what two processors may say differently."""
    return [_MASK.sub(lambda found: found[0].split(":")[0] + ": *", line) for line in lines]
