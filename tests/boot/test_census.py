"""The census of Debian's kernel against an independent count, by objdump of the same file."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.boot.linux.guests import linux_image
from vmm.cli.main import main

pytestmark = pytest.mark.boot

ALIKE = (
    "arpl clts cpuid hlt int int3 int1 into invd invlpg iret lar lldt lmsw lsl ltr rdmsr rdpmc rdtsc rsm sldt smsw "
    "str sysenter sysexit ud2 verr verw wbinvd wrmsr cli sti in out ins outs pushf popf sgdt sidt lgdt lidt lss les lds"
).split()
"""Both have them under one name, but for objdump's suffixes."""
SEGMENT = re.compile(r"%[cdefgs]s\b")
SYSTEM = re.compile(r"%(cr|db|dr)\d")
ODD = ("serialize", "finit", "fclex", "fsave", "fstcw", "fstsw", "fstenv")
"""SERIALIZE is newer than our decoder. The others are FWAIT and an instruction, which objdump counts as one."""


def name_of(mnemonic: str, operands: str) -> str | None:
    """The census's name for a line of objdump's, None for what is not sensitive."""
    if mnemonic in ("lcall", "lcallw", "ljmp", "ljmpw"):
        return mnemonic[1:5].rstrip("w").upper()
    if mnemonic in ("lret", "lretw"):
        return "RET"
    if mnemonic in ("mov", "movl", "movw"):
        plain = [word for word in re.split(r",(?![^(]*\))", operands) if ":" not in word]
        return "MOV" if any(SEGMENT.fullmatch(word) or SYSTEM.fullmatch(word) for word in plain) else None
    if mnemonic in ("push", "pop", "pushw", "popw", "pushl", "popl"):
        return mnemonic[:4].rstrip("lw").upper() if SEGMENT.fullmatch(operands) else None
    for name in ALIKE:
        if mnemonic == name or (mnemonic[:-1] == name and mnemonic[-1] in "lwb"):
            return name.upper()
    return None


def objdump(path: Path) -> tuple[Counter[str], int, Counter[str]]:
    """Sensitive instructions by name, all instructions, and those in `ODD`, as objdump has them."""
    text = subprocess.run(
        ["objdump", "-d", "-w", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
    ).stdout
    sensitive: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    total = 0
    for line in text.splitlines():
        _, tab, insn = line.partition(":\t")
        if not tab:
            continue
        total += 1
        words = insn.split()
        while words[0] in ("rep", "repz", "repnz", "lock", "data16", "cs", "ds", "es", "fs", "gs", "ss"):
            words.pop(0)
        name = name_of(words[0], words[1] if len(words) > 1 else "")
        if name is not None:
            sensitive[name] += 1
        odd[words[0]] += words[0] in ODD
    return sensitive, total, +odd


def test_the_census_of_debians_kernel_agrees_with_objdump(capsys: pytest.CaptureFixture[str]) -> None:
    path = linux_image("vmlinux-686-pae")
    assert main(["census", str(path), "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)
    counted: Counter[str] = Counter()
    for row in said["rows"]:
        counted[row["instruction"]] += row["count"]
    sensitive, total, odd = objdump(path)
    assert counted == sensitive
    assert len(said["undecodable"]) == odd.pop("serialize"), "the report names each place where it is out of step"
    assert said["instructions"] - total == odd.total()


def test_a_bzimage_is_the_kernel_inside(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for name in ("vmlinux-686-pae", "vmlinuz-686-pae"):
        assert main(["census", str(linux_image(name)), "--json", "-"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["rows"] == said[1]["rows"]
    assert [each["format"] for each in said] == ["elf", "bzImage"]
