"""Kernels, initrds and command lines that cannot be booted: one clear line, status 2, before anything runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.firmware.kernels import MIB, bzimage, note, pvh_elf

Make = Callable[[Path], list[object]]


def kernel(content: bytes, *words: object) -> Make:
    """`vmm run --kernel` with this file."""

    def make(directory: Path) -> list[object]:
        (directory / "kernel").write_bytes(content)
        return ["--kernel", directory / "kernel", *words]

    return make


def with_initrd(content: bytes, size: int, *words: object) -> Make:
    """The same with an initrd of `size` bytes."""

    def make(directory: Path) -> list[object]:
        with (directory / "initrd").open("wb") as file:
            file.truncate(size)
        return [*kernel(content, *words)(directory), "--initrd", directory / "initrd"]

    return make


CASES = {
    "no_kernel": (kernel(bytes(9999)), "none of: a Linux setup header (HdrS at 202h), a Multiboot header"),
    "text": (kernel(b"#!/bin/sh\n"), "PVH note"),
    "elf_without_a_note": (kernel(pvh_elf(b"\xf4", note(b"GNU", 3, bytes(20)))), "an ELF file that has none of"),
    "cut_in_its_header": (kernel(bzimage()[:0x230]), "2048 bytes of setup code, but the file has 560"),
    "cut_in_its_setup_code": (kernel(bzimage(setup_sects=39)[:9999]), "truncated?"),
    "cut_in_its_payload": (kernel(bzimage(bytes(99999))[:50000]), "truncated?"),
    "elf_cut": (kernel(pvh_elf(bytes(9999))[:5000]), "truncated?"),
    "header_says_it_is_longer": (kernel(bzimage(header_end=0x2FF)), "expected 264h to 290h"),
    "header_says_it_is_shorter": (kernel(bzimage(header_end=0x210)), "ends at 210h"),
    "setup_longer_than_the_file": (kernel(bzimage(setup_sects=255)[:4096]), "131072 bytes of setup code"),
    "syssize_longer_than_the_file": (kernel(bzimage(syssize=0x0FFF_FFFF)), "4294967280 bytes of protected-mode code"),
    "payload_outside": (kernel(bzimage(payload_offset=0xFFFF_FFFF, payload_length=1)), "payload ends at 4294967296"),
    "payload_elsewhere": (kernel(bzimage(payload_length=99)), "wrong setup_sects?"),
    "init_size_of_nothing": (kernel(bzimage(b"\x1f\x8b".ljust(99), payload_length=99, init_size=0)), "init_size"),
    "boot_flag": (kernel(bzimage(boot_flag=0)), "boot flag is 0000h"),
    "for_64_bit": (kernel(bzimage(xloadflags=3)), "64-bit"),
    "init_size_beyond_memory": (kernel(bzimage(init_size=64 * MIB)), "needs --memory 65M"),
    "pref_address_beyond_memory": (kernel(bzimage(pref_address=1 << 63)), "pref_address"),
    "code_beyond_memory": (kernel(bzimage(bytes(4 * MIB)), "--memory", "4M"), "not all guest RAM"),
    "elf_beyond_memory": (kernel(pvh_elf(size=200 * MIB)), "not all guest RAM"),
    "initrd_beyond_memory": (with_initrd(bzimage(), 100 * MIB), "initrd of 104857600 bytes does not fit"),
    "initrd_beyond_the_kernel": (with_initrd(bzimage(initrd_addr_max=3 * MIB), 2 * MIB), "up to 0x300000"),
    "initrd_beyond_mem": (with_initrd(bzimage(), 9 * MIB, "--append", "mem=8M"), "does not fit"),
    "initrd_of_an_elf": (with_initrd(pvh_elf(), 64 * MIB), "does not fit"),
    "initrd_empty": (with_initrd(bzimage(), 0), "empty"),
    "initrd_missing": (kernel(bzimage(), "--initrd", "none"), "No such file"),
    "initrd_without_a_kernel": (lambda d: ["--flat", f"{kernel(b'x')(d)[1]}@1M", "--initrd", "x"], "give --kernel"),
    "module_of_linux": (lambda d: [*kernel(bzimage())(d), "--module", d / "kernel"], "give --initrd"),
    "command_line_over_the_limit": (
        kernel(bzimage(), "--append", "x" * 2048),
        "has 2048 bytes, this kernel takes 2047",
    ),
    "command_line_of_an_elf": (kernel(pvh_elf(), "--append", "x" * 5000), "has 5000 bytes"),
}


@pytest.mark.parametrize(("make", "told"), CASES.values(), ids=CASES)
def test_a_kernel_that_cannot_be_booted_is_one_line_and_status_2(vmm, tmp_path, make, told):
    run = vmm(*make(tmp_path), timeout=20)
    assert (run.status, run.out, run.err.count("\n")) == (2, "", 1), run.err
    assert run.err.startswith("vmm: ")
    assert told in run.err
