"""Runs an attack under an engine, and judges it: attempt by attempt against the manual, then the VMM."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from vmm import kernel_entry
from vmm.arch.layout import PAGE_SIZE
from vmm.engines.names import EngineName
from vmm.errors import VmmError
from vmm.lab.attacks.guest import RAM, Attack, Event, build, is_trusted, log_of
from vmm.lab.attacks.integrity import Guard
from vmm.machine import MachineConfig, Vm, build_vm
from vmm.monitor import Monitor

PATIENCE_S: Final = 30.0
ENDLESS_S: Final = 0.5
"""A guest that never ends is let run for so long."""
MAD_S: Final = 3.0
"""And so long one that may have hurt itself."""
_SLICE_S: Final = 0.05
_SECTOR: Final = b"\xcc" * 510 + b"\x55\xaa"  # bootable, or it would be refused


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attack.

    `as_prescribed` attempts ended as the manual says, `hurt_itself` are those of the others that touched the VMM's
    window, `wrong` the rest, of which `first_wrong` tells. `ending` is how the guest ended. `damage` is what is wrong
    with the VMM or with what an inner ring trusts, one line each.
    """

    attack: str
    what: str
    engine: str
    attempts: int
    as_prescribed: int
    hurt_itself: int
    wrong: int
    first_wrong: str
    ending: str
    damage: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Resource control held, and the guest saw what the manual says."""
        return not self.wrong and not self.damage

    def to_json(self) -> dict[str, Any]:
        """One flat object: docs/lab.md."""
        return {**asdict(self), "right": self.is_right}


def run(attack: Attack, engine: EngineName) -> Result:
    """Run an attack in a machine of its own."""
    with TemporaryDirectory() as directory:
        disks: tuple[Path, ...] = ()
        if attack.has_disk:
            disks = (Path(directory) / "disk.img",)
            disks[0].write_bytes(_SECTOR * 64)
        vm = build_vm(MachineConfig(memory=RAM, disks=disks, exit_port=True, engine=engine))
        try:
            return _run(attack, vm, engine)
        finally:
            vm.close()


def _run(attack: Attack, vm: Vm, engine: EngineName) -> Result:
    kernel_entry.enter(vm.vcpu, vm.memory, build(attack))
    before = vm.memory.read(0, RAM)
    guard, monitor = Guard(vm), Monitor()
    ending = _end_of(vm, monitor, _patience(attack))
    damage = guard.problems(monitor.engine)
    if attack.ring and not attack.touches_hole:
        damage += _trusted_changes(before, vm.memory.read(0, RAM))
    events = log_of(vm.memory.read)
    return _judged(attack, engine, ending, events, damage)


def _patience(attack: Attack) -> float:
    if attack.ending == "preempted":
        return ENDLESS_S
    return MAD_S if attack.touches_hole else PATIENCE_S


def _end_of(vm: Vm, monitor: Monitor, patience: float) -> str:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            outcome = monitor.run_slice(vm, _SLICE_S)
        except VmmError as error:
            return f"stopped: {error}"
        if outcome is not None:
            return type(outcome).__name__
    return "preempted"


def _trusted_changes(before: bytes, after: bytes) -> list[str]:
    """What ring 3 has changed of the guest kernel's."""
    return [
        f"the guest kernel's page at {page * PAGE_SIZE:#x} has changed"
        for page in range(RAM // PAGE_SIZE)
        if is_trusted(page)
        and before[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] != after[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
    ]


def _judged(attack: Attack, engine: EngineName, ending: str, events: tuple[Event, ...], damage: list[str]) -> Result:
    expected = attack.expected
    pairs = [(number, events[number] if number < len(events) else None) for number in range(len(expected))]
    right = sum(event == expected[number] for number, event in pairs)
    others = [
        f"attempt {n}: {_told(event)}, expected {_told(expected[n])}" for n, event in pairs if event != expected[n]
    ]
    if len(events) > len(expected):
        others.append(
            f"{len(events) - len(expected)} events more than attempts, the first {_told(events[len(expected)])}"
        )
    if ending != attack.ending:
        others.append(f"ended with {ending}, expected {attack.ending}")
    forgiven = attack.touches_hole and not ending.startswith("stopped")
    return Result(
        attack.name,
        attack.what,
        str(engine),
        max(1, len(expected)),
        right if expected else int(not others),
        len(others) if forgiven else 0,
        0 if forgiven else len(others),
        "" if forgiven or not others else others[0],
        ending,
        tuple(damage),
    )


def _told(event: Event | None) -> str:
    if event is None:
        return "nothing"
    vector, code = event
    return "no fault" if vector == 0x80 else f"vector {vector} with error code {code:#x}"
