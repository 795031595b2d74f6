"""The guest on the bare processor, at CPL 0: the reference of what the processor does.

Control registers, descriptor tables, segment loads, far transfers, IRET and the guest's own page tables are the
processor's business. What leaves is what it does not have, or what belongs to the machine around it: ports, HLT, CPUID,
counters, MSRs, SYSENTER and SYSEXIT, debug registers, the INT instructions, for the engine never delivers anything, and
x87 and SSE instructions that make errors.
"""

from typing import Final

from vmm.arch.exceptions import Vector
from vmm.engines.bare_memory import BareMemory
from vmm.engines.delivery import place_of
from vmm.engines.machine import Machine
from vmm.engines.native import NativeEngine
from vmm.engines.native_state import NativeState
from vmm.engines.options import EngineOptions
from vmm.errors import ConfigError, Unmodelled
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.host_fpu import TRAPS
from vmm.hw.traps import EXIT, Trap, set_traps

_ALWAYS: Final = TRAPS | int(
    Trap.IO | Trap.HLT | Trap.CPUID | Trap.TSC | Trap.PMC | Trap.MSR | Trap.FAST_CALL | Trap.DEBUG | Trap.INTERRUPT
)
_WINDOW: Final = int(Trap.WINDOW | Trap.IRET | Trap.FAR | Trap.FAR_RETURN)
"""What can set IF; far transfers can by a task switch."""
_STEP: Final = _WINDOW | int(Trap.INTERRUPT_FLAG | Trap.PUSHF)
_EXCEPTIONS: Final = 32
_UD: Final = int(Vector.UD)
_INT1: Final = 0xF1  # the engine takes it for undefined


class BareEngine(NativeEngine):
    """The engine of one virtual CPU that is the physical one."""

    def __init__(self, machine: Machine, phys: PhysicalCpu) -> None:
        super().__init__(machine, phys, NativeState(machine.vcpu, machine.mmu, phys))
        self._map = BareMemory(machine.memory, phys, self._device_written)

    @classmethod
    def on_a_cpu(cls, machine: Machine, options: EngineOptions) -> "BareEngine":
        """An engine with a physical CPU of its own."""
        return cls(machine, PhysicalCpu())

    def audit(self) -> None:
        """Raises: ConfigError: there is no cache to stay in, and CPL 0 is where the guest belongs."""
        raise ConfigError(
            "--audit with --engine bare: the guest is not deprivileged there; --engine translate expected"
        )

    def _before_entry(self) -> None:
        self._map.refresh()

    def _device_written(self) -> None:
        if self._leave is not None or self._vcpu.is_interrupt_pending or self._vcpu.is_nmi_due:
            self._phys.stop_at_next_block()

    def _on_exit(self, vector: int) -> None:
        if vector >= EXIT or (vector == _UD and self._code_byte() == _INT1):
            self._emulate()
        elif vector < _EXCEPTIONS:
            self._exception(vector)
        else:
            raise Unmodelled(f"exit with vector {vector:#x}", (place_of(self._vcpu),))
        if self._map.has_changed and self._leave is None:
            self._phys.leave()

    def _push(self, *, has_window: bool, steps: bool) -> None:
        self._native.push()
        set_traps(self._phys.state, _ALWAYS | (_STEP if steps else _WINDOW if has_window else 0))
