"""Hardware assistance: the guest in guest mode, its kernel at CPL 0, entered by VMRUN.

Theory of operation. A run begins with VMRUN. What the VMCB intercepts and the mask traps leaves with nothing of it done
and is emulated as on `bare` (`native.py`); what the guest may do by itself, which is nearly all, it does. Memory is the
business of `svm_memory.py`: a missing translation is put in and the guest goes on, without its state being looked at.

An access to a device runs under TF with a page of ours under it (`device_pages.py`), and one iteration of a REP at a
time.

External interrupts enter by EVENTINJ and another VMRUN; exceptions are delivered by the VMM, to which the engine would
give them back at once.
"""

from typing import Any, Final

from vmm.arch.descriptors import ACCESS_BYTE, DESCRIPTOR_SIZE, SystemType
from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.layout import MASK32
from vmm.cpu.shadow import Fill
from vmm.engines.device_pages import DevicePage, DevicePages
from vmm.engines.engine import Leave
from vmm.engines.machine import Machine
from vmm.engines.native import NativeEngine
from vmm.engines.options import EngineOptions
from vmm.engines.svm_control import ALWAYS, STEP, WINDOW, fill_control_area
from vmm.engines.svm_memory import GuestPaging, NestedMemory, ShadowMemory
from vmm.errors import ConfigError
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.guest_mode import EXIT, GuestMode, Injection
from vmm.hw.traps import set_traps

_DB: Final = int(Vector.DB)
_UD: Final = int(Vector.UD)
_NP: Final = int(Vector.NP)
_GP: Final = int(Vector.GP)
_GROUP_7: Final = 0x0F01
_SVM_INSTRUCTIONS: Final = range(0xD8, 0xE0)  # ModR/M bytes: VMRUN to INVLPGA
_GATE_TYPE: Final = 0x1F
_INJECTED: Final = range(32, 256)
"""Vectors that the engine delivers. When it is asked to stop soon after, it reports the vector as an exit as well."""
_INT1: Final = 0xF1  # the engine takes it for undefined


class SvmEngine(NativeEngine):
    """The engine of one virtual CPU in guest mode, behind shadow tables or nested ones."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, nested_paging: bool) -> None:
        self._mode = GuestMode(phys, machine.physical)
        kind = NestedMemory if nested_paging else ShadowMemory
        self._paging: GuestPaging = kind(machine, phys, self._mode.vmcb)
        super().__init__(machine, phys, self._paging.state)
        fill_control_area(self._mode.vmcb, self._paging.nested_root)
        self._devices = DevicePages(machine, phys, self._paging.tables, self._paging.locate, self._memory_width)
        self._pages: list[DevicePage] = []  # those under the instruction that runs alone
        self._fault: GuestFault | None = None
        self._injection = Injection(self._mode.vmcb)

    @classmethod
    def on_a_cpu(cls, machine: Machine, options: EngineOptions) -> "SvmEngine":
        """An engine with a physical CPU of its own."""
        return cls(machine, PhysicalCpu(machine.physical), options.nested_paging)

    def audit(self) -> None:
        """Raises: ConfigError: there is no cache to stay in, and CPL 0 is where the guest belongs."""
        raise ConfigError("--audit with --engine svm: the guest is not deprivileged there; --engine translate expected")

    # --- in and out ------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Take the physical CPU: the virtual CPU's registers move into its state."""
        super().attach()
        self._pages = []

    def _before_entry(self) -> None:
        self._mode.prepare()

    def _stopped(self) -> None:
        self._mode.withdraw()
        self._drop_pages()
        undelivered = self._injection.take_back()
        super()._stopped()
        if undelivered is not None:
            self._deliver_undelivered(undelivered)

    def _push(self, *, has_window: bool, steps: bool) -> None:
        if self._vcpu.stale:
            self._paging.refresh()
        self._native.push()
        set_traps(self._phys.state, ALWAYS | (STEP if steps else WINDOW if has_window else 0))

    # --- exits -----------------------------------------------------------------------------------------

    def _exit(self, vector: int) -> None:
        if vector != self._paging.exit_vector:
            self._visible_exit(vector)
        else:
            self._mend_flags()
            if not self._is_hidden():
                self._visible_exit(vector)
        if self._injection.is_waiting:
            self._mode.prepare()

    def _visible_exit(self, vector: int) -> None:
        undelivered = self._injection.take_back()
        if undelivered is not None:  # what it met is for the VMM to find again
            self._take_over()
            self._deliver_undelivered(undelivered)
            self._resume()
        elif vector in _INJECTED:  # asked to stop, the engine tells once more of what it has delivered
            self._stopped()
        else:
            self._handle(vector)
        if self._leave is not None:
            self._phys.leave()

    def _handle(self, vector: int) -> None:
        if self._pages:
            if vector == _DB:
                self._give_to_devices()
            else:
                self._drop_pages()
        super()._exit(vector)

    def _on_exit(self, vector: int) -> None:
        if vector == self._paging.exit_vector:
            self._memory_exit()
        elif vector >= EXIT or self._is_mistaken(vector):
            self._emulate()
        else:
            self._exception(vector)

    def _is_mistaken(self, vector: int) -> bool:
        """Is it an exception that the guest's own processor does not raise there?

        INT1 is no #UD. The instructions of AMD-V are, and not #GP, which they are outside CPL 0 before they leave. IRET
        to a stack segment that is not present is #SS, not #NP.
        """
        if vector == _UD:
            return self._code_byte() == _INT1
        if vector not in (_GP, _NP):
            return False
        try:
            plan = self.plan()
        except GuestFault:
            return False
        if vector == _NP:
            return plan.name in ("iret", "iretd")
        return plan.insn.opcode == _GROUP_7 and plan.insn.modrm in _SVM_INSTRUCTIONS

    def _is_hidden(self) -> bool:
        """A translation was missing, and is there now; else what the access came to is in `_fault`."""
        try:
            result = self._paging.fill()
        except GuestFault as fault:
            self._fault = fault
            return False
        self._fault = None
        self.stats.exits[result.name.lower()] += 1
        if result is Fill.MAPPED:
            return True
        if self._pages and not self._devices.is_wide(self._pages):
            self._devices.widen(self._pages, *self._paging.access())
            return True
        return False

    def _memory_exit(self) -> None:
        """The guest's own fault, or an access to a device: its instruction runs alone."""
        fault, self._fault = self._fault, None
        if fault is not None:
            if self.observer is not None:
                self._observe_fault(self.observer, fault.vector, fault.error_code)
            self._inject(fault)
            return
        address, write = self._paging.access()
        self._pages = [self._devices.map_device(address, write, [])]
        self._step()

    # --- interrupts ------------------------------------------------------------------------------------

    def _take_interrupt(self) -> bool:
        """By VMRUN, unless it is time to leave, the vector could be taken for an exception's (see `_INJECTED`), or the
        first instruction of the handler has to be looked at."""
        vector = self._delivery.acknowledge()
        is_looked_at = self._leave is not None or bool(self._vcpu.execution_breakpoints)
        if is_looked_at or vector not in _INJECTED or self._has_task_gate(vector):
            return self._delivery.external(vector)
        self._vcpu.halted = False
        self.stats.exits["injection"] += 1
        self._injection.begin(vector)
        return True

    def _deliver_undelivered(self, vector: int) -> None:
        if not self._delivery.external(vector):
            self._leave = Leave.SHUTDOWN

    def _has_task_gate(self, vector: int) -> bool:
        """The engine would switch tasks by itself. A gate that cannot be read is none: then the injection fails."""
        vcpu = self._vcpu
        if not vcpu.is_protected:
            return False
        at = vcpu.idtr[0] + vector * DESCRIPTOR_SIZE + ACCESS_BYTE & MASK32
        try:
            return vcpu.memory.read(at, 1, False) & _GATE_TYPE == SystemType.TASK_GATE
        except GuestFault:
            return False

    # --- devices ---------------------------------------------------------------------------------------

    def _give_to_devices(self) -> None:
        pages, self._pages = self._pages, []
        self._devices.write_back(pages)

    def _drop_pages(self) -> None:
        pages, self._pages = self._pages, []
        self._devices.unmap(pages)

    def _memory_width(self) -> int:
        """Bytes that the instruction at EIP moves to or from memory; 1 for one that nobody knows."""
        try:
            return self._decoder.memory_width(self.plan().insn)
        except GuestFault:
            return 1

    # --- reporting -------------------------------------------------------------------------------------

    @property
    def roots(self) -> tuple[int, ...]:
        """Physical addresses of the roots that the guest can run on, or that its own tables are walked under."""
        return self._paging.roots

    def report(self) -> dict[str, Any]:
        """Which kind of tables."""
        return {"nested_paging": self._paging.nested_root is not None}
