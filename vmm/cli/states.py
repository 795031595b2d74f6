"""Saved machines and recordings: `--load`, `--save`, `--record`, `--replay`.

A saved machine is what `Vm.save` gives. A recording is what came through the door, as JSON: put back into a machine of
the same configuration it makes the same run again.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vmm.cli.options import RunRequest, StateFiles, machine_config
from vmm.errors import ConfigError

if TYPE_CHECKING:
    from vmm.door import DoorLog
    from vmm.machine import Vm


def open_machine(request: RunRequest) -> "tuple[Vm, DoorLog | None]":
    """Build the machine, in the state that was asked for, and the log that is being kept of it.

    Raises: ConfigError: a file is not what it should be, or does not fit the machine.
    """
    from vmm.door import Door
    from vmm.machine import build_vm

    states = request.states
    door = Door()
    if states.replay is not None:
        door.replay(_read_log(states.replay))
    log = door.record() if states.record is not None else None
    vm = build_vm(machine_config(request), door)
    if states.load is not None:
        vm.load(states.load.read_bytes())
    return vm, log


def keep(states: StateFiles, vm: "Vm", log: "DoorLog | None") -> None:
    """Write the saved machine and the recording. Raises: ConfigError: one cannot be written."""
    if states.save is not None:
        _write(states.save, vm.save(), "--save")
    if states.record is not None and log is not None:
        _write(states.record, json.dumps(dataclasses.asdict(log)).encode(), "--record")


def _read_log(path: Path) -> "DoorLog":
    from vmm.door import DoorLog

    try:
        return DoorLog(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:  # no JSON, or other members
        raise ConfigError(f"--replay: {path} is no recording: {error}") from None


def _write(path: Path, data: bytes, option: str) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{option}: cannot write {str(path)!r}: {error.strerror}") from None
