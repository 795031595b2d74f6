"""A 32-bit kernel of our own in C, with everything that a first system does, against what a bare machine prints."""

import subprocess
from typing import Final

from tests.boot.conftest import GUESTS

MEMORY_MIB: Final = 32
ROUNDS: Final = 200_000


def _checksum() -> int:
    value = 0
    for number in range(ROUNDS):
        value = value * 31 + number & 0xFFFF_FFFF
    return value


def _product() -> int:
    value = 1.0
    for number in range(1, 20):
        value = value * number / 3.0
    return int(value)


def _words(*pairs: tuple[str, int]) -> str:
    return "".join(f"{name}{value:08x}\n" for name, value in pairs)


EXPECTED: Final = (
    _words(("magic ", 0x2BAD_B002), ("upper ", MEMORY_MIB - 1))
    + "ticks\npreempted\npaging\n"
    + _words(("alias ", 0x1234_5678), ("faults ", 3), ("at ", 0x30_2000), ("", 0xCAFE_BABE), ("dirty ", 0x60))
    + _words(("sum ", _checksum()), ("fpu ", _product()), ("gp in ring 3, error ", 0))
    + _words(("user done, calls ", 3), ("cs ", 0x1B))
    + "fin\n"
)
FLAGS: Final = "-m32 -O2 -ffreestanding -fno-pic -fno-stack-protector -mno-sse -fno-asynchronous-unwind-tables".split()


def test_a_hobby_kernel_sees_what_a_bare_machine_shows(vmm, tmp_path):
    kernel = tmp_path / "hobby.elf"
    made = tmp_path / "hobby.o"
    subprocess.run(["gcc", *FLAGS, "-c", GUESTS / "hobby.c", "-o", made], check=True)
    link = ["ld", "-m", "elf_i386", "--no-warn-rwx-segments", "-T", GUESTS / "hobby.ld", made, "-o", kernel]
    subprocess.run(link, check=True)
    run = vmm("--kernel", kernel, "--memory", f"{MEMORY_MIB}M", "--exit-port", "--debugcon", "told.txt")
    assert run.text("told.txt") == EXPECTED
    assert run.status == 0x21 << 1 | 1
