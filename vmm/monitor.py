"""The monitor: owns the physical CPU, gives it to a VM in slices, and lets time and input in between.

Preemption. A slice arms the host's interval timer for the next device deadline or 10 ms, whichever comes first. Its
signal goes to a handler in machine code that asks the engine to stop, which it does exactly at a block start, without
Python or its lock having a part in it.
"""

import ctypes
import select
import signal
import time
from typing import Any, Final

from bt.translate import Options
from vmm.collector import collector_at_rest
from vmm.engines.choice import ENGINES
from vmm.engines.engine import Engine, Leave
from vmm.engines.machine import Machine
from vmm.engines.observer import Observer
from vmm.engines.options import EngineOptions
from vmm.engines.report import stats_of
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.hooks import NEVER
from vmm.machine import Vm
from vmm.outcome import Halted, Outcome, TripleFault
from vmm.profile import Profile
from vmm.tracing import Tracer

QUANTUM_NS: Final = 10_000_000
SHORTEST_NS: Final = 50_000
"""A device that asks for an interrupt sooner than this gets it this late: no device can keep the guest from running."""
_NS: Final = 1e-9
_AGAIN_S: Final = 0.002
"""The timer goes on: a signal may come while the engine is just being entered, and be lost."""


class Monitor:
    """Runs VMs on one physical CPU. `wake_fds` are file descriptors whose input ends an idle wait.

    A `watcher` observes the engine in the place of the tracer, `translation` is how code is translated for it, and a
    `profile` times what is done.
    """

    def __init__(
        self, watcher: Observer | None = None, translation: Options | None = None, profile: Profile | None = None
    ) -> None:
        self._watcher, self._profile = watcher, profile
        self._translation = translation
        self.wake_fds: set[int] = set()
        self._stop = False
        self._vm: Vm | None = None
        self._cpu: PhysicalCpu
        self._engine: Engine
        self._started = time.monotonic()
        self._libc = ctypes.CDLL(None)
        self._libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        self._libc.signal.restype = ctypes.c_void_p

    @property
    def engine(self) -> Engine:
        """The engine of the VM that ran last."""
        return self._engine

    def stop(self) -> None:
        """End the slice under way, soon. May be called from a signal handler."""
        self._stop = True

    # --- a slice ---------------------------------------------------------------------------------------

    def run_slice(self, vm: Vm, host_seconds: float) -> Outcome | None:
        """Run a VM for about so long; None means that it can go on."""
        if self._vm is not vm:
            self._take(vm)
        try:
            with collector_at_rest():
                return self._turns(vm, time.monotonic() + host_seconds)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # its handler's code lives only as long as our processor
            self._stop = False

    def _turns(self, vm: Vm, end: float) -> Outcome | None:
        while not self._stop:
            vm.board.take_inputs(vm.door)
            vm.board.run_due()
            outcome = self._wait(vm, end) if self._is_idle(vm) else self._run(vm, end)
            if outcome is not None or time.monotonic() >= end:
                return outcome
        return None

    def _run(self, vm: Vm, end: float) -> Outcome | None:
        planned = vm.door.planned_run()
        self._cpu.set_block_limit(planned or NEVER, counts=vm.door.is_recording)
        if planned is None:
            self._arm(vm, vm.board.deadline, end)
        leave = self._engine.run()
        vm.door.note_run(self._engine.preempted_after if leave is Leave.PREEMPTED else 0)
        return self._after(vm, leave)

    def _after(self, vm: Vm, leave: Leave) -> Outcome | None:
        if vm.outcome is not None:
            outcome, vm.outcome = vm.outcome, None
            return outcome
        if leave is Leave.SHUTDOWN:
            return TripleFault(self._engine.shutdown_detail)
        return None

    def _arm(self, vm: Vm, deadline: int | None, end: float) -> None:
        wait = QUANTUM_NS if deadline is None else min(QUANTUM_NS, max(SHORTEST_NS, deadline - vm.now))
        seconds = max(SHORTEST_NS * _NS, min(wait * _NS, end - time.monotonic()))
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)

    # --- idling ----------------------------------------------------------------------------------------

    def _is_idle(self, vm: Vm) -> bool:
        vcpu = vm.vcpu
        return vcpu.halted and not vcpu.is_nmi_due and not (vcpu.is_interrupt_pending and vcpu.interrupts_enabled)

    def _wait(self, vm: Vm, end: float) -> Outcome | None:
        """HLT: let time go by, or jump, until a device or the user does something."""
        if not vm.vcpu.interrupts_enabled:
            return Halted()
        deadline = vm.board.deadline
        if vm.config.clock == "warp" and deadline is not None:
            vm.board.clock.skip_to(deadline)
            return None
        left = end - time.monotonic()
        if deadline is not None:
            left = min(left, (deadline - vm.board.clock.now()) * _NS)
        if left > 0 and not vm.door.is_replaying:
            signal.setitimer(signal.ITIMER_REAL, 0)
            ready, _, _ = select.select(list(self.wake_fds), [], [], left)
            self._stop |= bool(ready)  # who owns the descriptor reads it between two slices
        return None

    # --- taking a VM -----------------------------------------------------------------------------------

    def _take(self, vm: Vm) -> None:
        machine = Machine(vm.physical, vm.memory, vm.mmu, vm.vcpu, vm.board, vm.hole)
        trace = vm.config.trace
        translation = self._translation or Options(
            probe_critical="critical" in trace, segment_checks=vm.config.segment_checks
        )
        options = EngineOptions(translation, vm.config.nested_paging, vm.config.rings)
        self._engine = engine = ENGINES[vm.config.engine](machine, options)
        self._cpu = engine.phys
        self._libc.signal(signal.SIGALRM, self._cpu.stop_ring)
        if self._watcher is not None:
            engine.observer = self._watcher
        elif trace and vm.on_trace is not None:
            engine.observer = Tracer(vm.vcpu, vm.board.clock.glance, trace, vm.on_trace)
        engine.attach()
        if self._profile is not None:
            self._profile.follow(self, vm.board, engine)
        if vm.config.audit:
            engine.audit()
        vm.on_request = engine.request_leave
        vm.stats_source = self._stats
        vm.board.on_earlier_deadline = lambda deadline: self._earlier(vm, deadline)
        vm.board.clock.set(vm.now)  # building and loading took host time, not the guest's
        self._vm = vm

    def _earlier(self, vm: Vm, deadline: int) -> None:
        """A device was programmed during a run for something sooner than the timer knows of."""
        if not vm.door.is_replaying:
            signal.setitimer(signal.ITIMER_REAL, max(SHORTEST_NS, deadline - vm.now) * _NS, _AGAIN_S)

    def _stats(self) -> dict[str, Any]:
        stats = stats_of(self._engine, time.monotonic() - self._started)
        return stats if self._profile is None else stats | {"profile": self._profile.report()}
