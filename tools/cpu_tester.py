"""The processor tester: assemble it, run it on an engine or on Bochs, and keep the lists of what is known to fail.

    python -m tools.cpu_tester --out FILE          write the ROM, for `vmm run --bios FILE`
    python -m tools.cpu_tester --on translate      run it; what it says goes to stdout. `--on bochs` runs it on Bochs
    python -m tools.cpu_tester --on bare --update  and make tests/cpu_tester/bare.failures agree with that

`tests/cpu_tester/monitor.s` says what the ROM does. A list of failures has a heading in brackets for each rule, as
`docs/limits.md` words it, and below it the tests that show it.
"""

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware.build import option_rom
from tools.host_tools import open_tools
from vmm.fetch.debian import PackageError

_ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = _ROOT / "tests" / "cpu_tester"
BOCHS: Final = "bochs"
PLACES: Final = ("translate", "bare", "svm", "trap", BOCHS)
UNEXPLAINED: Final = "not explained"
ENDS_THE_VMM: Final = "A guest cannot end its VMM"
"""The rule under which a list has tests that are left out, as the run would not survive them."""
_TABLES: Final = 0xFFF8_0000  # the first byte of the ROM
_CASE: Final = struct.Struct("<HHHHIIIIIIIII")  # an entry of the table of tests: frame.inc, `end_of_case`
_END_OF_CASES: Final = 0xFFFF
_NAME, _NEEDS = 6, 11
_NO_FEATURE: Final = 1 << 10  # reserved in CPUID.1 EDX
_GRACE: Final = 30
"""Seconds beyond a run's time-out after which the VMM itself counts as hanging."""
ROM_SIZE: Final = 0x80000
_MONITOR: Final = "monitor.s"  # linked first: it has the beginning of the table of tests
_RESULT: Final = re.compile(r"([0-9A-F]{4}) (ok|BAD|skip) +(.*)")
_SUMMARY: Final = re.compile(r"(\d+) tests, (\d+) failed, (\d+) left out")
_EMPTY_ROM: Final = b"\x55\xaa\0\xcb"  # RETF: Bochs wants a VGA BIOS
_CONTINUE: Final = "c\n" * 2000  # the debugger, if Bochs has one, stops at the start and at each reset

# The nearest to `vmm.cpu.cpuid` that Bochs 2.7 has: a 32-bit processor of the P6 class with SSE2.
_BOCHSRC: Final = """
romimage: file={directory}/tester.bin, address=0xfff80000
vgaromimage: file={directory}/vga.bin
cpu: model=bx_generic, count=1, ips=2000000, reset_on_triple_fault=1, ignore_bad_msrs=0
cpuid: level=6, vendor_string="GenuineIntel", mmx=1, apic=xapic, simd=sse2, sep=1, x86_64=0
cpuid: sse4a=0, aes=0, xsave=0, xsaveopt=0, 1g_pages=0, pcid=0, fsgsbase=0, smep=0, smap=0, mwait=0, movbe=0
memory: guest=16, host=16
display_library: rfb, options="timeout=0"
port_e9_hack: enabled=0
com1: enabled=1, mode=file, dev={directory}/com1.txt
log: {directory}/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
"""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a run said: names of tests by their numbers; how many were run, or None: it did not come to its end."""

    passed: dict[str, str]
    failed: dict[str, str]
    skipped: dict[str, str]
    count: int | None
    text: str
    serial: str

    @property
    def is_complete(self) -> bool:
        return self.count is not None


def read_verdicts(text: str, serial: str = "") -> Verdicts:
    """Take apart what the tester wrote to one of its ports; `serial` is what COM1 got, where that was another one."""
    found: dict[str, dict[str, str]] = {"ok": {}, "BAD": {}, "skip": {}}
    for number, verdict, name in _RESULT.findall(text):
        found[verdict][number] = name.strip()
    summary = _SUMMARY.search(text)
    return Verdicts(found["ok"], found["BAD"], found["skip"], int(summary[1]) if summary else None, text, serial)


def assemble(directory: Path) -> bytes:
    """Return the ROM, 512 KiB. Raises: PackageError: GNU as or ld failed, or is not there."""
    tools = open_tools()
    for tool in ("as", "ld"):
        if shutil.which(tool) is None:
            raise PackageError(f"no {tool}: the tester is built by GNU binutils (package binutils)")
    objects = []
    for source in _sources():
        made = directory / f"{source.stem}.o"
        tools.run(["as", "--32", "-I", SOURCES, "-o", made, source])
        objects.append(made)
    rom = directory / "tester.bin"
    tools.run(["ld", "-m", "elf_i386", "-T", SOURCES / "rom.ld", "--oformat", "binary", "-o", rom, *objects])
    content = rom.read_bytes()
    if len(content) != ROM_SIZE:
        raise PackageError(f"the tester has {len(content)} bytes, {ROM_SIZE} expected")
    return content


def leave_out(rom: bytes, names: Collection[str]) -> bytes:
    """Return the ROM with these tests asking for a feature that no processor has, so that they are skipped."""
    image = bytearray(rom)
    at = 0
    while int.from_bytes(image[at : at + 2], "little") != _END_OF_CASES:
        fields = list(_CASE.unpack_from(image, at))
        start = fields[_NAME] - _TABLES
        if image[start : image.index(0, start)].decode() in names:
            fields[_NEEDS] = _NO_FEATURE
            _CASE.pack_into(image, at, *fields)
        at += _CASE.size
    return bytes(image)


def _sources() -> Iterator[Path]:
    yield SOURCES / _MONITOR
    yield from sorted(SOURCES.glob("[0-9]*.s"))


def run_on_bochs(rom: bytes, timeout: float) -> str:
    """Return what the tester says on Bochs, within `timeout` seconds. Raises: PackageError: no Bochs."""
    tools = open_tools()
    tools.prepare(["bochs"], lambda _part: None)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "tester.bin").write_bytes(rom)
        (directory / "vga.bin").write_bytes(option_rom(_EMPTY_ROM))
        settings = directory / "bochsrc"
        settings.write_text(_BOCHSRC.format(directory=directory))
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["bochs", "-q", "-f", settings], cwd=directory, env=tools.environment(), input=_CONTINUE,
                capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            )  # fmt: skip
        return _text(directory / "com1.txt")


def run_on_engine(rom: bytes, engine: str, timeout: float) -> tuple[str, str]:
    """Return what the tester says under `vmm run` on port E9h and on COM1; `timeout` is in seconds."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        image = directory / "tester.bin"
        image.write_bytes(rom)
        said = (directory / "e9.txt", directory / "com1.txt")
        options = f"--engine {engine} --memory 16M --exit-port --display none --timeout {timeout}".split()
        ports = ["--debugcon", said[0], "--serial", said[1]]
        subprocess.run(
            [sys.executable, "-m", "vmm", "run", "--bios", image, *ports, *options],
            cwd=directory, env={**os.environ, "PYTHONPATH": str(_ROOT)}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=timeout + _GRACE, check=False,
        )  # fmt: skip
        e9, com1 = (_text(file) for file in said)
        return e9, com1


def _text(file: Path) -> str:
    return file.read_bytes().decode("latin-1") if file.exists() else ""


def run_on(where: str, rom: bytes, timeout: float = 300) -> Verdicts:
    """Run on Bochs or on an engine of ours, without those that would end the VMM."""
    rom = leave_out(rom, {line[5:] for line in expected_failures(where).get(ENDS_THE_VMM, ())})
    if where == BOCHS:
        return read_verdicts(run_on_bochs(rom, timeout))
    return read_verdicts(*run_on_engine(rom, where, timeout))


def expected_failures(where: str) -> dict[str, list[str]]:
    """The tests that are known to fail there, each as `number name`, by the rule that they show."""
    known: dict[str, list[str]] = {}
    path = SOURCES / f"{where}.failures"
    tests: list[str] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("["):
            tests = known.setdefault(line.strip("[]"), [])
        elif line:
            tests.append(line)
    return known


def update_failures(where: str, said: Verdicts) -> None:
    """Take from the list what no longer fails; what is new goes under a heading that no rule has."""
    names = {name: f"{number} {name}" for number, name in said.failed.items()}
    skipped = {name: f"{number} {name}" for number, name in said.skipped.items()}
    known = {}
    for rule, lines in expected_failures(where).items():
        now = skipped if rule == ENDS_THE_VMM else names
        known[rule] = [now.pop(line[5:]) for line in lines if line[5:] in now]
    known.setdefault(UNEXPLAINED, []).extend(sorted(names.values()))
    parts = [f"[{rule}]\n" + "".join(f"{line}\n" for line in sorted(lines)) for rule, lines in known.items() if lines]
    (SOURCES / f"{where}.failures").write_text("\n".join(parts))


def main(words: list[str]) -> int:
    """Write the ROM, run it, or both; status 1 if a test failed or the end was not reached."""
    parser = argparse.ArgumentParser(prog="python -m tools.cpu_tester", description="Build the processor tester.")
    parser.add_argument("--out", type=Path, help="where to write the ROM")
    parser.add_argument("--on", choices=PLACES, help="where to run it")
    parser.add_argument("--update", action="store_true", help="make the list of failures what they are")
    options = parser.parse_args(words)
    try:
        with tempfile.TemporaryDirectory() as directory:
            rom = assemble(Path(directory))
        if options.out:
            options.out.write_bytes(rom)
        if not options.on:
            return 0
        verdicts = run_on(options.on, rom)
    except PackageError as error:
        print(f"cpu-tester: {error}", file=sys.stderr)
        return 1
    print(verdicts.text)
    if options.update and verdicts.is_complete:
        update_failures(options.on, verdicts)
    return int(bool(verdicts.failed) or not verdicts.is_complete)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
