"""What the BIOS tests run on: our own virtual machine, or QEMU's ISA PC, which is independent of this project.

Both get the same ROMs, the same first disk and the same options, and both hand back what the guest wrote to the debug
console until it wrote to the exit port. The options are written as QEMU takes them; `plugged` reads those that
our machine has an equal for.
"""

import contextlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from firmware.build import build_bios, build_vga_rom
from vmm.arch.layout import PAGE_MASK
from vmm.devices.atapi import AtapiCdrom
from vmm.devices.atapi_unit import CdromUnit
from vmm.devices.keymap import KeyStroke
from vmm.devices.mc146818 import days_from_civil
from vmm.devices.ps2_keyboard import KeyEvent
from vmm.machine import MachineConfig, Vm, build_vm
from vmm.memory import MemoryRegion
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, ResetRequested

SECTOR: Final = 512
DISK_SECTORS: Final = 16 * 63
MEMORY: Final = 32 << 20
OPTION_ROM: Final = 0xD0000
ASK_FOR_KEYS: Final = "?"
SECONDS: Final = 30
POWER_ON: Final = days_from_civil(2024, 2, 29) * 86_400 + (12 * 60 + 34) * 60 + 50
SLICE: Final = 0.02


@dataclass
class Machine:
    """One run: `disk` is drive 80h. Each `?` of the guest has the next entry of `keys` played: blank-separated chords
    such as `shift-a`, `+alt` (stays down) and `-alt`, keys by their QEMU names. `option_rom` lies at D0000h."""

    directory: Path
    disk: bytes
    options: tuple[str, ...] = ()
    keys: list[str] = field(default_factory=list)
    option_rom: bytes = b""

    def first_disk(self) -> Path:
        """The image of drive 80h."""
        path = self.directory / "first.img"
        path.write_bytes(self.disk.ljust(DISK_SECTORS * SECTOR, b"\0"))
        return path


# --- our own -----------------------------------------------------------------------------------------------------


class NotOurs(Exception):
    """An option of QEMU's that our machine has no equal for."""


@dataclass(frozen=True)
class Plugged:
    """What a list of options plugs in. `order` has QEMU's letters: a floppy, c disk, d CD."""

    disks: tuple[Path, ...] = ()
    floppy: Path | None = None
    floppy_type: int = 0
    cdrom: Path | None = None
    order: str = "c"
    floppy_check: bool = True


DRIVE_TYPES: Final = {"120": 2, "144": 4, "288": 5}
"""QEMU's names for floppy drives: the codes of CMOS byte 10h."""
_BOOT_CODES: Final = {"a": 1, "c": 2, "d": 3}


def plugged(options: tuple[str, ...]) -> Plugged:
    """Read the options. Raises: NotOurs."""
    disks: dict[int, Path] = {}
    found: dict[str, Any] = {}
    rest = list(options)
    while rest:
        match rest.pop(0):
            case "-no-fd-bootchk":
                found["floppy_check"] = False
            case "-boot":
                found["order"] = rest.pop(0)
            case "-cdrom":
                found["cdrom"] = Path(rest.pop(0))
            case "-device" if device := re.fullmatch(r"floppy,drive=\w+,drive-type=(\d+)", rest[0]):
                found["floppy_type"] = DRIVE_TYPES[device[1]]
                del rest[0]
            case "-drive":
                _plug(rest.pop(0), disks, found)
            case option:
                raise NotOurs(option)
    return Plugged(disks=tuple(disks[index] for index in sorted(disks)), **found)


def _plug(drive: str, disks: dict[int, Path], found: dict[str, Any]) -> None:
    values = dict(part.split("=", 1) for part in drive.split(","))
    path = Path(values["file"])
    if ":" in values["file"] or path.stat().st_size > 128 << 30:
        raise NotOurs(drive)
    if values["if"] == "ide":
        disks[int(values["index"])] = path
    else:
        found["floppy"] = path


def run_glassvisor(machine: Machine) -> str:
    """Run in this process. Raises: NotOurs."""
    vm = _build(machine, plugged(machine.options))
    try:
        return _Listener(vm, machine.keys).run()
    finally:
        vm.close()


def _build(machine: Machine, what: Plugged) -> Vm:
    config = MachineConfig(
        memory=MEMORY,
        floppies=() if what.floppy is None else (what.floppy,),
        disks=(machine.first_disk(), *what.disks),
        cdrom=what.cdrom,
        exit_port=True,
        audit=bool(os.environ.get("GLASSVISOR_TEST_AUDIT")),
    )
    vm = build_vm(config)
    vm.board.rtc.set_clock(POWER_ON)
    cmos = vm.board.rtc.cmos
    order = [_BOOT_CODES[letter] for letter in what.order] + [0, 0]
    cmos[0x3D] = order[0] | order[1] << 4
    cmos[0x38] = order[2] << 4 | (0 if what.floppy_check else 1)
    if what.floppy_type:
        cmos[0x10] = what.floppy_type << 4
        cmos[0x2E:0x30] = sum(cmos[0x10:0x2E]).to_bytes(2, "big")
    if vm.board.ata[1].device0 is None:  # where QEMU has a CD drive, if an empty one
        vm.board.ata[1].device0 = AtapiCdrom(unit=CdromUnit(None))
    if machine.option_rom:
        size = len(machine.option_rom) + PAGE_MASK & ~PAGE_MASK
        host = vm.physical.allocate(size)
        vm.physical.view[host : host + len(machine.option_rom)] = machine.option_rom
        vm.memory.map(MemoryRegion("option ROM", OPTION_ROM, size, host, read_only=True))
    return vm


class _Listener:
    """Runs a machine, plays keys when it asks for them, and keeps what it says."""

    def __init__(self, vm: Vm, keys: list[str]) -> None:
        self._vm, self._keys, self._monitor = vm, iter(keys), Monitor()
        self._said: list[str] = []
        self._asked = 0
        vm.debugcon_out.append(self._hear)

    def run(self) -> str:
        deadline = time.monotonic() + SECONDS
        while True:
            outcome = self._monitor.run_slice(self._vm, SLICE)
            if isinstance(outcome, ExitPort):
                return "".join(self._said)
            if isinstance(outcome, ResetRequested):
                self._vm.reset()
            elif outcome is not None or time.monotonic() > deadline:
                pytest.fail(f"{outcome or f'no end after {SECONDS} s'}; the guest said {''.join(self._said)!r}")
            for _ in range(self._asked):
                self._asked -= 1
                self._play(next(self._keys))

    def _hear(self, data: bytes) -> None:
        text = data.decode("latin-1")
        if text == ASK_FOR_KEYS:
            self._asked += 1
            self._monitor.stop()
        else:
            self._said.append(text)

    def _play(self, chords: str) -> None:
        """Strokes go through the door. It has no key that stays down, so chords with one move the keys themselves."""
        if not re.search(r"(^| )[+-]", chords):
            strokes = [[_key_name(name) for name in chord.split("-")] for chord in chords.split()]
            self._vm.door.post_keys([KeyStroke(key, tuple(modifiers)) for *modifiers, key in strokes])
            return
        keyboard = self._vm.board.keyboard_controller.keyboard
        events = [KeyEvent(_key_name(name), down) for chord in chords.split() for name, down in movements(chord)]
        assert keyboard.type_keys(events) == len(events)


def _key_name(qcode: str) -> str:
    return _KEY_NAMES.get(qcode, qcode.title())


_KEY_NAMES: Final[Mapping[str, str]] = {
    **{name: name for name in "abcdefghijklmnopqrstuvwxyz0123456789"},
    **{f"kp_{digit}": f"Keypad{digit}" for digit in range(10)},
    **dict(shift="LeftShift", ctrl="LeftCtrl", alt="LeftAlt"),
    **dict(shift_r="RightShift", ctrl_r="RightCtrl", alt_r="RightAlt"),
    **dict(caps_lock="CapsLock", num_lock="NumLock", scroll_lock="ScrollLock", ret="Enter", less="Extra"),
    **dict(kp_enter="KeypadEnter", kp_divide="Keypad/", print="PrintScreen"),
}  # fmt: skip


def movements(chord: str) -> list[tuple[str, bool]]:
    """The keys of a chord, each with whether it goes down."""
    if chord[0] in "+-":
        return [(chord[1:], chord[0] == "+")]
    names = chord.split("-")
    return [(name, True) for name in names] + [(name, False) for name in reversed(names)]


# --- QEMU --------------------------------------------------------------------------------------------------------


def run_qemu(machine: Machine) -> str:
    """Run as a process of its own."""
    if shutil.which("qemu-system-i386") is None:
        pytest.skip("needs qemu-system-i386")
    with subprocess.Popen(_command_line(machine), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            return _listen(machine, process)
        finally:
            process.kill()


def _command_line(machine: Machine) -> list[str]:
    directory = machine.directory
    bios, vga = directory / "bios.rom", directory / "vga.rom"
    bios.write_bytes(build_bios())
    vga.write_bytes(build_vga_rom())
    extra = list(machine.options)
    if "-boot" not in machine.options:
        extra += ["-boot", "c"]
    if machine.option_rom:
        rom = directory / "option.rom"
        rom.write_bytes(machine.option_rom)
        extra += ["-device", f"loader,file={rom},addr={OPTION_ROM:#x},force-raw=on"]
    return [
        # The ISA PC has a local APIC in the way of its 8259A unless told otherwise; ours has none.
        *("qemu-system-i386", "-M", "isapc", "-cpu", "pentium3,-apic", "-m", str(MEMORY >> 20), "-bios", str(bios)),
        *("-device", f"loader,file={vga},addr=0xc0000,force-raw=on", "-display", "none", "-net", "none"),
        *("-drive", f"file={machine.first_disk()},format=raw,if=ide", "-rtc", "base=2024-02-29T12:34:50,clock=vm"),
        *("-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        *("-serial", "null", "-serial", "null"),
        *("-monitor", "none", "-qmp", f"unix:{directory / 'qmp'},server=on,wait=off", *extra),
    ]


def _listen(machine: Machine, process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    keys = iter(machine.keys)
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
            _play(machine.directory / "qmp", next(keys))
        said += chunk.replace(ASK_FOR_KEYS, "")


def _play(qmp: Path, chords: str) -> None:
    # The guest may be done, and the machine gone, before the last key is up.
    with socket.socket(socket.AF_UNIX) as control, contextlib.suppress(ConnectionError):
        control.connect(str(qmp))
        with control.makefile("rw") as channel:
            channel.readline()
            _command(channel, "qmp_capabilities", {})
            for chord in chords.split():
                events = [_event(name, down) for name, down in movements(chord)]
                _command(channel, "input-send-event", {"events": events})


def _command(channel: Any, name: str, arguments: dict[str, Any]) -> None:
    channel.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    channel.flush()
    while "return" not in json.loads(channel.readline()):  # events may come in between
        pass


def _event(name: str, down: bool) -> dict[str, Any]:
    return {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": name}}}


# --- the choice --------------------------------------------------------------------------------------------------

ENGINES: Final[Mapping[str, Callable[[Machine], str]]] = {"glassvisor": run_glassvisor, "qemu": run_qemu}
chosen = "glassvisor"
"""The engine of the test that runs now; the fixture in conftest.py sets it."""


def run_machine(machine: Machine) -> str:
    """Run on the chosen engine; with options that only QEMU has, on that."""
    try:
        return ENGINES[chosen](machine)
    except NotOurs:
        return run_qemu(machine)
