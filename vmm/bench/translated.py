"""The measured: a program as a flat binary in a VM, run by the monitor as `vmm run --flat` runs it, preemption
included.

The boot door is opened at once instead of by the BIOS, so that time begins with the program's first instruction and
the block cache is empty.
"""

import tempfile
from pathlib import Path
from time import perf_counter

from bt.translate import Options
from vmm.bench.programs import Program
from vmm.machine import MachineConfig, build_vm
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, Outcome

_SLICE = 0.1


def run_translated(program: Program, size: int, translation: Options | None = None) -> float:
    """Seconds that a program takes under translation. Raises: RuntimeError if its result is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.bin"
        path.write_bytes(program.build(size))
        vm = build_vm(MachineConfig(memory=16 << 20, flat=(path, program.origin), exit_port=True))
    vm.enter_kernel()
    monitor = Monitor(translation=translation)
    started = perf_counter()
    outcome: Outcome | None = None
    while outcome is None:
        outcome = monitor.run_slice(vm, _SLICE)
    seconds = perf_counter() - started
    if outcome != ExitPort(0):
        raise RuntimeError(f"{program.name}: {outcome} under translation")
    return seconds
