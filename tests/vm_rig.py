"""A virtual machine for tests of the composition: built as `vmm run` builds it, run by a monitor, its output kept."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from firmware.assembler import assemble_text
from vmm.arch.registers import Reg, Seg
from vmm.cpu.vcpu import REAL_MODE_CODE, REAL_MODE_DATA, STALE_ALL, SegmentRegister
from vmm.door import Door
from vmm.machine import MachineConfig, Vm, build_vm
from vmm.monitor import Monitor
from vmm.outcome import Outcome, ResetRequested
from vmm.screen import TextScreen

ENTRY = 0x7C00
PATIENCE = 20.0
MIB = 1 << 20


def assembled(code: str, at: int = ENTRY) -> bytes:
    """Real-mode code, one instruction after a `;` or on a line of its own."""
    return assemble_text(code.replace("; ", "\n"), at).flat(at)


@contextmanager
def machine(door: Door | None = None, **options: Any) -> Iterator[Vm]:
    """A machine of 1 MiB unless told otherwise, with an exit port."""
    vm = build_vm(MachineConfig(**{"memory": MIB, "exit_port": True} | options), door)
    try:
        yield vm
    finally:
        vm.close()


def put(vm: Vm, code: bytes | str, at: int = ENTRY) -> None:
    """Let the processor begin with this code, in real mode with interrupts off, instead of the BIOS."""
    vm.memory.write(at, assembled(code, at) if isinstance(code, str) else code)
    vcpu = vm.vcpu
    vcpu.set_segment(Seg.CS, SegmentRegister(0, 0, 0xFFFF, REAL_MODE_CODE))
    for seg in (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS):
        vcpu.set_segment(seg, SegmentRegister(0, 0, 0xFFFF, REAL_MODE_DATA))
    vcpu.set_reg32(Reg.ESP, at)
    vcpu.eip = at
    vcpu.eflags = 2
    vcpu.make_stale(STALE_ALL)


def listen(vm: Vm) -> bytearray:
    """What the guest writes to the debug console from now on."""
    heard = bytearray()
    vm.debugcon_out.append(heard.extend)
    return heard


def run(vm: Vm, monitor: Monitor | None = None, patience: float = PATIENCE) -> Outcome:
    """Run to the first outcome."""
    monitor = monitor or Monitor()
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        outcome = monitor.run_slice(vm, 0.02)
        if outcome is not None:
            return outcome
    raise AssertionError(f"no outcome after {patience} s")


def run_through_resets(vm: Vm, monitor: Monitor) -> tuple[Outcome, int]:
    """Run to an outcome that is no reset; also how many of those there were."""
    for resets in range(20):
        outcome = run(vm, monitor)
        if not isinstance(outcome, ResetRequested):
            return outcome, resets
        vm.reset()
    raise AssertionError("twenty resets")


def shown(vm: Vm) -> str:
    """The text on the screen."""
    screen = vm.screen()
    assert isinstance(screen, TextScreen)
    return screen.text()
