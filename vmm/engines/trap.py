"""Trap and emulate: classical ring deprivileging.

Theory of operation. The guest's code runs where it lies, at physical CPL 1 (its users at CPL 3) or all of it at CPL 3,
in real mode and V86 in physical V86. Privileged instructions fault; the fault brings them to `_on_exit`, which decodes
and carries them out as translation does. Everything else runs by itself: also the critical instructions, which do not
trap and so do another thing than the guest means. Nothing is searched for and nothing rewritten: this engine shows what
that costs on an architecture that was not made for it.

An interrupt comes to the guest at an exit or when the run is preempted; the guest's own IF decides, which only trapped
instructions change. Where one instruction has to run alone (a device's memory, a store to a descriptor table, the
shadow of STI with an interrupt waiting), the processor's single-step trap ends it.

Memory is the business of `in_place.py`, the registers that of `deprivileged.py`.
"""

from typing import Any, Final

from bt.decode import Insn
from bt.tables import is_sensitive
from vmm.arch.exceptions import HAS_ERROR_CODE, GuestFault, PageFault, Vector
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Eflags
from vmm.cpu import callouts
from vmm.cpu.events import EventKind
from vmm.cpu.shadow import Fill
from vmm.cpu.vcpu import STALE_ALL
from vmm.engines.delivery import place_of
from vmm.engines.deprivileged import Deprivileged
from vmm.engines.engine import Leave
from vmm.engines.in_place import InPlaceMemory
from vmm.engines.machine import Machine
from vmm.engines.observer import mode_name
from vmm.engines.options import DEFAULT_ENGINE_OPTIONS, EngineOptions
from vmm.engines.preemption import again_soon
from vmm.engines.runner import GuestRunner
from vmm.engines.single_steps import SingleSteps
from vmm.engines.stats import EngineStats
from vmm.errors import Unmodelled
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.traps import EXIT

_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_FAULT_W: Final = int(PageFault.W)
_FAULT_I: Final = int(PageFault.I)
_PENDING: Final = int(Slot.PENDING) >> 2
_USER_RING: Final = 3
_DR7: Final = 7
_BREAKPOINT_ENABLES: Final = 0xFF
_EVERYWHERE: Final = (0, 1 << 32)
_NOWHERE: Final = (0, 0)
_FAR_IN_GROUP_5: Final = (3, 5)
_BY_SELECTOR: Final = frozenset(int(vector) for vector in (Vector.TS, Vector.NP, Vector.SS, Vector.GP))
_MAY_BE_SENSITIVE: Final = _BY_SELECTOR | {int(Vector.UD)}


class TrapEngine(GuestRunner):
    """The engine of one virtual CPU. `observer` is told what happens."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, options: EngineOptions = DEFAULT_ENGINE_OPTIONS) -> None:
        super().__init__(machine, phys, EngineStats())
        self._hole = machine.hole
        self._rings = options.rings
        self._memory = InPlaceMemory(machine, phys)
        self._cpu = Deprivileged(machine.vcpu, machine.hole, self._memory.descriptors, options.rings)
        self._steps = SingleSteps(machine, phys, self._memory)
        self._audited = False
        self._kernel_is_shown = False
        phys.on_exit = self._on_exit

    @classmethod
    def on_a_cpu(cls, machine: Machine, options: EngineOptions) -> "TrapEngine":
        """An engine with a physical CPU of its own."""
        return cls(machine, PhysicalCpu(machine.physical), options)

    @property
    def roots(self) -> tuple[int, ...]:
        """Those of all address spaces."""
        return self._memory.shadow.spaces.roots

    # --- running ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Take the physical CPU: the virtual CPU's registers move into its state."""
        self._vcpu.move_into(self.phys.state, self.phys.fold_flags)
        self._memory.begin()
        self._cpu.put_fixed(self.phys)

    def run(self) -> Leave:
        """Run until the block limit, HLT, shutdown or a request."""
        self._leave = None
        self._resume()
        self.preempted_after = 0
        while self._leave is None:
            stopped = self.phys.run()
            if self._audited and (address := self.phys.audit_failure) is not None:
                raise Unmodelled(f"audit: a block at EIP {address:#x} runs at CPL 0", self._describe())
            if stopped:
                self.preempted_after = self.preempted_after or self.phys.blocks
                self._preempted()
        return self._leave

    def _preempted(self) -> None:
        """The block limit stopped the engine, which is between two instructions, but perhaps in the shadow of one."""
        steps = self._steps.is_under_way
        self._cpu.take(keeps_tf=steps)
        if steps or self._vcpu.interrupt_shadow:
            again_soon(self.phys)
            self._go_on()
        else:
            self._leave = Leave.PREEMPTED

    # --- exits -----------------------------------------------------------------------------------------

    def _on_exit(self, vector: int) -> None:
        steps = self._steps
        self._cpu.take(keeps_tf=steps.is_under_way and not (vector == Vector.DB and steps.loads_flags()))
        try:
            self._dispatch(vector)
        except GuestFault as fault:  # the fetch of the instruction for the VMM's eyes
            self._inject(fault)
        if self._leave is not None:
            self.phys.leave()

    def _dispatch(self, vector: int) -> None:
        """Raises: GuestFault: a #PF at the instruction itself."""
        if vector == Vector.PF:
            self._page_fault()
        elif vector == Vector.DB:
            self._single_stepped()
        elif vector >= EXIT:
            self._emulate_here()
        elif self._memory.tables_are_open and vector in _BY_SELECTOR and self.phys.state.d[hw.D_ERROR_CODE] & 0xFFFC:
            self._memory.close_tables()
            self._go_on()
        elif vector in _MAY_BE_SENSITIVE and (insn := self._sensitive_instruction()) is not None:
            self._emulate(insn)
        elif vector <= Vector.XF:
            self._observe("fault", None, {"vector": vector})
            code = self.phys.state.d[hw.D_ERROR_CODE] & 0xFFFF
            self._inject(GuestFault(vector, code if vector in HAS_ERROR_CODE else None))
        else:
            raise Unmodelled(f"exit with vector {vector:#x}", self._describe())

    def _sensitive_instruction(self) -> Insn | None:
        """The instruction that faulted, if it is one to carry out: then the fault is not the guest's yet."""
        insn = self._memory.instruction()
        if insn is None or insn.name not in callouts.HANDLERS:
            return None
        is_far = insn.opcode == 0xFF and insn.modrm >> 3 & 7 in _FAR_IN_GROUP_5
        return insn if is_far or (is_sensitive(insn) and insn.opcode != _MOV_FROM_SEGMENT) else None

    def _emulate_here(self) -> None:
        insn = self._memory.instruction()
        if insn is None:
            raise Unmodelled("an instruction trapped that the decoder does not know", self._describe())
        self._emulate(insn)

    def _emulate(self, insn: Insn) -> None:
        """Carry out an instruction, or inject its fault, and go on."""
        self._steps.drop()
        plan = callouts.plan(insn)
        traced = bool(self._vcpu.field_flags & _TF)
        try:
            self._delivery.carry_out(plan)
        except GuestFault as fault:
            self._inject(fault)
            return
        if traced and not callouts.hides_trap(plan.name, self._vcpu):
            self._trap_behind()
        else:
            self._resume()

    # --- page faults ------------------------------------------------------------------------------------

    def _page_fault(self) -> None:
        """Raises: GuestFault: the true fault."""
        state, memory = self.phys.state, self._memory
        la, code = state.q[hw.Q_CR + 2] & MASK32, state.d[hw.D_ERROR_CODE]
        write, user = bool(code & _FAULT_W), self._vcpu.cpl == _USER_RING
        if self._hole.contains(la):
            if not write or not memory.set_accessed(la):
                self.stats.exits["hole moved"] += 1
                memory.move_hole(la)
                self._cpu.put_fixed(self.phys)
            self._begin_again()
            return
        if code & _FAULT_I:
            try:
                result = memory.fetch(la, user)
            except GuestFault:
                if not memory.is_ahead(la):
                    raise
                self._steps.begin()  # the engine fetches a whole block: the instructions before it are not done yet
                self._go_on()
                return
        else:
            result = memory.shadow.fill(la, write, user)
        self.stats.exits["shadow fill" if result is Fill.MAPPED else result.name.lower()] += 1
        self._observe("fault", None, {"vector": Vector.PF, "cr2": la, "error_code": code})
        if result is Fill.MAPPED:
            self._go_on()
        elif code & _FAULT_I:
            raise Unmodelled(f"code in device memory, at linear address {la:#x}", self._describe())
        elif result is Fill.DEVICE and not self._steps.reach_device(la, write):
            self._begin_again()
        else:
            if result is Fill.WATCHED and not memory.may_leave_open(la, user):
                self._steps.open_page(la, user)
            self._go_on()

    def _begin_again(self) -> None:
        """Begin an instruction anew for which something had to change."""
        self._steps.drop()
        self._resume()

    def _single_stepped(self) -> None:
        """The single-step trap: of a step, of the guest, or of both. MOV SS holds the guest's back (the engine does
        not)."""
        if self._steps.finish() and not self._vcpu.interrupt_shadow:
            self._trap_behind()
        else:
            self._resume()

    # --- back to the guest ------------------------------------------------------------------------------

    def _deliver(self, fault: GuestFault, kind: EventKind = EventKind.FAULT) -> None:
        """Deliver what the guest has earned; a triple fault is for the monitor."""
        self._steps.drop()
        super()._deliver(fault, kind)

    def _advance(self) -> None:
        """Enter the guest at `vcpu.eip`, or find that it is time to leave. Raises: GuestFault: the event."""
        vcpu = self._vcpu
        waits = bool(vcpu.page[_PENDING] and vcpu.interrupts_enabled)
        if vcpu.halted and not waits:
            self._leave = Leave.HALTED
            return
        if vcpu.pending_debug:
            self._raise_pending_debug()
        if vcpu.dr[_DR7] & _BREAKPOINT_ENABLES and vcpu.execution_breakpoints:
            raise Unmodelled("breakpoints in DR0-DR3, which this engine does not have", self._describe())
        if waits and vcpu.interrupt_shadow:
            self._steps.begin()
        elif waits and not self._delivery.interrupt():
            self._leave = Leave.SHUTDOWN
            return
        vcpu.field_flags &= ~_RF
        self._go_on()

    def _go_on(self) -> None:
        """Let the guest's code run, under the single-step trap if a step is under way."""
        vcpu, memory, cpu = self._vcpu, self._memory, self._cpu
        if vcpu.stale:
            if vcpu.stale & STALE_ALL:  # paging, or the whole processor, is another one
                cpu.put_fixed(self.phys)
            memory.refresh()
        shown = cpu.shares_a_ring and vcpu.cpl != _USER_RING
        if shown != self._kernel_is_shown:
            self._kernel_is_shown = shown
            memory.show_kernel_to_user(shown)
        memory.follow_tables(cpu.lowering)
        root = memory.shadow.root(vcpu.is_real)
        if root != vcpu.state.q[hw.Q_CR + 3]:
            self.phys.flush_tlb()
        cpu.put(root, self._steps.is_under_way)
        if self.observer is not None:
            self.observer.mode(mode_name(vcpu))

    # --- reporting --------------------------------------------------------------------------------------

    def audit(self) -> None:
        """From now on check at each block's start that CPL is not 0."""
        self._audited = True
        self.phys.audit_blocks(_EVERYWHERE, _NOWHERE)

    def report(self) -> dict[str, Any]:
        """The physical rings, and how many pages code has run from."""
        return {"rings": str(self._rings), "code_pages": len(self._memory.shadow.executed)}

    def _describe(self) -> tuple[str, ...]:
        return (f"{place_of(self._vcpu)}, {mode_name(self._vcpu)}",)

    def _observe(self, kind: str, insn: Insn | None, values: dict[str, int]) -> None:
        if self.observer is not None:
            self.observer.exit(kind, self._vcpu.eip, insn, values)


_MOV_FROM_SEGMENT: Final = 0x8C
