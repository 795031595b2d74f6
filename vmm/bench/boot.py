"""The suite `boot`: how long until a guest says that it is there, on ours and on QEMU's TCG with the same files.

Time from the command, start of the process included, until a line on the serial port or a pattern on the screen; for
the work script between two lines. It is wall-clock time, or the processor time of the process, which a busy machine
disturbs less. An idle guest is always measured by the processor time that it costs in a second.
"""

import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from vmm.bench import qemu
from vmm.bench.measure import Progress
from vmm.bench.peers import processor_time, runners
from vmm.bench.rows import Results, row_of
from vmm.fetch import linux

SUITE: Final = "boot"
ENGINES: Final = ("translate", "trap", "svm", "bare")
COMMAND_LINE: Final = (
    "console=ttyS0 panic=-1 reboot=t nokaslr tsc=reliable mitigations=off quiet acpi=off noapic nolapic "
    "lpj=4000000 cryptomgr.notests noisapnp audit=0 pci=off"
)
READY: Final = "GLASSVISOR-INIT-READY"
LIMIT_S: Final = 300.0
"""A boot that takes longer has failed."""
_MEMORY: Final = 256
_SECOND: Final = 1e9
_CHUNK: Final = 1 << 16
_SETTLE_S: Final = 3.0
_IDLE_S: Final = 5.0


class BootFailed(Exception):
    """What was waited for never came."""


@dataclass(frozen=True, slots=True)
class BootCase:
    """What is booted, as words for `vmm run` and for QEMU, and what is waited for."""

    name: str
    what: str
    files: tuple[Path, ...]
    ours: tuple[str, ...]
    qemus: tuple[str, ...]
    run: "Callable[[Side], float]"


@dataclass(frozen=True, slots=True)
class Side:
    """A case on one engine: the command, and whether its time is the processor's."""

    case: BootCase
    engine: str
    command: list[str] = field(repr=False)
    cpu_time: bool = False

    @property
    def is_qemu(self) -> bool:
        return self.engine == "qemu"

    def clock(self, pid: int) -> float:
        """Seconds: of the processor since the start of the process, or of the wall."""
        return processor_time(pid) / _SECOND if self.cpu_time else time.perf_counter()


# --- what can be waited for ----------------------------------------------------------------------------


def until_screen(pattern: str) -> Callable[[Side], float]:
    """Until the screen matches."""

    def run(side: Side) -> float:
        if side.is_qemu:
            command = [*side.command, "-serial", "none"]
            return qemu.seconds_until(command, re.compile(pattern), LIMIT_S, side.clock if side.cpu_time else None)
        return _to_its_end([*side.command, "--serial", "none", "--until", pattern], side.cpu_time)

    return run


def _to_its_end(command: list[str], cpu_time: bool) -> float:
    """Seconds until a run ends by itself. Raises: BootFailed: otherwise than well."""
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--timeout", f"{LIMIT_S:g}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        said = child.stderr.read().decode() if child.stderr else ""
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise BootFailed(f"{shlex.join(command)}: status {child.returncode} {' '.join(said.split())}")
    return usage.ru_utime + usage.ru_stime if cpu_time else time.perf_counter() - started


def until_line(words: str, start: str | None = None) -> Callable[[Side], float]:
    """Until a line on the serial port, from another one on, or from the command on."""

    def run(side: Side) -> float:
        begun = 0.0 if side.cpu_time else time.perf_counter()
        with _Guest(side) as guest:
            first = guest.until(start) if start else begun
            return guest.until(words) - first

    return run


def idle(side: Side) -> float:
    """Seconds of processor time that a guest at its shell prompt costs in a second."""
    with _Guest(side) as guest:
        guest.until(READY)
        guest.listen(_SETTLE_S)
        used, begun = processor_time(guest.pid), time.perf_counter()
        guest.listen(_IDLE_S)
        return (processor_time(guest.pid) - used) / _SECOND / (time.perf_counter() - begun)


class _Guest:
    """A process with a guest whose serial port is its standard input and output; killed at the end."""

    def __init__(self, side: Side) -> None:
        self._side = side
        serial = ["-serial", "stdio"] if side.is_qemu else ["--serial", "stdio"]
        self._child = subprocess.Popen(
            [*side.command, *serial], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._child.stdout is not None
        self._output = self._child.stdout.fileno()
        self._deadline = time.perf_counter() + LIMIT_S
        self._text = b""

    def __enter__(self) -> "_Guest":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._child.kill()
        self._child.communicate()

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    def until(self, words: str) -> float:
        """The side's time at which a line with these words was there. Raises: BootFailed: it never was."""
        pattern = re.compile(rf"^{re.escape(words)}\r?$".encode(), re.MULTILINE)
        while not (found := pattern.search(self._text)):
            if not self._read(self._deadline):
                last = " ".join(self._text[-300:].decode("latin-1").split())
                raise BootFailed(f"no {words}; the last words: {last}")
        now = self._side.clock(self.pid)
        self._text = self._text[found.end() :]
        return now

    def listen(self, seconds: float) -> None:
        """Take what the guest says for so long."""
        end = time.perf_counter() + seconds
        while self._read(end):
            pass

    def _read(self, end: float) -> bool:
        """Wait for more; False: there was none in time."""
        ready, _, _ = select.select([self._output], [], [], max(0.0, end - time.perf_counter()))
        data = os.read(self._output, _CHUNK) if ready else b""
        self._text += data
        return bool(data)


# --- the cases -----------------------------------------------------------------------------------------


def _cd(name: str, what: str, image: Path, run: Callable[[Side], float]) -> BootCase:
    return BootCase(name, what, (image,), ("--cdrom", str(image)), tuple(qemu.cdrom(image)), run)


def _kernel(name: str, what: str, kernel: Path, words: str, run: Callable[[Side], float]) -> BootCase:
    initrd, append = kernel.with_name(linux.INITRAMFS), f"{COMMAND_LINE} {words}"
    ours = ("--kernel", str(kernel), "--initrd", str(initrd), "--append", append)
    qemus = ("-kernel", str(kernel), "-initrd", str(initrd), "-append", append)
    return BootCase(name, what, (kernel, initrd), ours, qemus, run)


def cases() -> tuple[BootCase, ...]:
    """All of them, with the images in the user's cache."""
    kernels = linux.directory()
    images = kernels.parent
    small, large = kernels / "vmlinuz-686", kernels / "vmlinux-686-pae"
    return (
        _cd("first-character", "the first character on the screen", images / "grub-cd.iso", until_screen(r"\S")),
        _cd("grub", "GRUB's prompt, from a CD", images / "grub-cd.iso", until_screen("GNU GRUB")),
        _kernel("linux-bzimage", "Linux -686, bzImage", small, "gv.run=true", until_line(READY)),
        _kernel("linux-pvh", "Linux -686-pae, ELF by PVH", large, "gv.run=true", until_line(READY)),
        _cd("linux-grub", "Linux -686, by GRUB from a CD", images / "linux-cd.iso", until_line(READY)),
        _kernel("work", "the work script on -686", small, "gv.run=work", until_line("WORK-END", "WORK-BEGIN")),
        _kernel("idle", "Linux -686 at its prompt, a second of", small, "gv.run=shell", idle),
    )


NAMES: Final = tuple(case.name for case in cases())


def sides_of(case: BootCase, engines: Sequence[str], cpu_time: bool = False) -> list[Side]:
    """The commands."""
    sides = []
    for engine in engines:
        if engine == "qemu":
            command = qemu.command_line(_MEMORY, *case.qemus)
        else:
            command = [
                sys.executable, "-m", "vmm", "run", *case.ours, "--engine", engine, "--memory", f"{_MEMORY}M",
                "--display", "none",
            ]  # fmt: skip
        sides.append(Side(case, engine, command, cpu_time))
    return sides


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted of the suite; no `cases` are all of them."""

    cases: Sequence[str]
    engines: Sequence[str]
    against: Sequence[str]
    rounds: int
    cpu_time: bool = False


def take(order: Order, progress: Progress) -> tuple[Results, Mapping[str, str]]:
    """Measure; the results, and the versions of the peers. Whoever interrupts it gets the cases that are done."""
    peers, versions, notes = runners([name for name in order.against if name == "qemu"])
    notes += [f"{name}: it offers no way to see its screen: without it" for name in order.against if name != "qemu"]
    if order.cpu_time:
        notes.append("processor time, not wall-clock time")
    results = Results(notes=notes)
    every = replace(order, engines=[*order.engines, *(peer.name for peer in peers)])
    for case in cases():
        if order.cases and case.name not in order.cases:
            continue
        if missing := [file for file in case.files if not file.is_file()]:
            notes.append(f"{case.name}: no {missing[0]} (make images): without it")
            continue
        try:
            _measure(results, case, every, progress)
        except KeyboardInterrupt:
            results.cut()
            break
    return results, versions


def _measure(results: Results, case: BootCase, order: Order, progress: Progress) -> None:
    """All engines by turns; one that fails is out."""
    values: dict[str, list[float]] = {engine: [] for engine in order.engines}
    for number in range(order.rounds):
        for side in sides_of(case, list(values), order.cpu_time):
            progress(f"{case.name} on {side.engine}: {number + 1} of {order.rounds}")
            try:
                values[side.engine].append(case.run(side) * _SECOND)
            except (BootFailed, qemu.QemuError) as failure:
                results.notes.append(f"{case.name} on {side.engine}: {failure}")
                del values[side.engine]
    for engine, measured in values.items():
        results.add(row_of(SUITE, case.name, engine, measured))
