"""What engines have in common that run guest code in place: the VMM delivers events and emulates what leaves.

Theory of operation. The guest's state is in the physical CPU (`native_state.py`). At an exit it is pulled into the
virtual CPU; the instruction that left is carried out there, or the exception delivered; then interrupts are considered,
and the state is pushed back. An engine of this kind says what leaves: it overrides `_on_exit` and `_push`.

An interrupt that waits for IF opens a *window*: the instructions that can set IF leave too, so that it is taken exactly
behind the one that does. Where a shadow (STI, MOV SS) is in the way, or the guest has execution breakpoints, one
instruction runs alone, a *step*, under TF, which nobody can see, because what would show the flag leaves as well.
"""

from typing import Any, Final

from bt.decode import LEGACY_PREFIXES, MAX_LENGTH, Decoder
from vmm.arch.exceptions import HAS_ERROR_CODE, GuestFault, Vector, ud
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SIZE, Slot
from vmm.arch.registers import Eflags, Seg
from vmm.cpu import callouts
from vmm.cpu.callouts import Plan
from vmm.engines.engine import Leave
from vmm.engines.machine import Machine
from vmm.engines.native_state import NativeState
from vmm.engines.observer import Observer
from vmm.engines.runner import GuestRunner
from vmm.engines.stats import EngineStats
from vmm.hw import flags
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.hooks import NEVER

_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_PENDING: Final = Slot.PENDING >> 2
_IF: Final = Slot.IF >> 2
_CS: Final = int(Seg.CS)
_DB: Final = int(Vector.DB)
_PF: Final = int(Vector.PF)
_DR7: Final = 7
_DR7_ENABLES: Final = 0xFF  # L0 G0 to L3 G3
_PLANS_MAX: Final = 1 << 14
_LIGHT: Final = frozenset(("in", "out", "insb", "insw", "insd", "outsb", "outsw", "outsd", "cpuid", "rdtsc", "rdmsr"))
"""What changes nothing but general registers and memory, unless a device reaches for the processor."""


class NativeEngine(GuestRunner):
    """The engine of one virtual CPU whose guest sits in the physical one. See `vmm.engines.engine.Engine`."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, native: NativeState) -> None:
        super().__init__(machine, phys, EngineStats())
        self._phys, self._native = phys, native
        self._mmu, self._memory = machine.mmu, machine.memory
        self._steps = False  # one instruction runs under a TF that is ours
        self._is_preempted = False  # to leave behind that instruction
        self._decoder = Decoder()
        self._plans: dict[tuple[int, bytes, bool], Plan] = {}
        phys.on_exit = self._exit

    # --- running ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Take the physical CPU: the virtual CPU's registers move into its state."""
        self._native.attach()
        self._steps = self._is_preempted = False
        self._phys.forget_all_code()
        self._phys.flush_tlb()

    def run(self) -> Leave:
        """Run until the block limit, HLT, shutdown or a request."""
        self._leave = None
        self.preempted_after = 0
        self._native.distrust()
        self._resume()
        while self._leave is None:
            self._before_entry()
            if self._phys.run():
                self._stopped()
        return self._leave

    def _before_entry(self) -> None:
        """The engine is about to be entered: the last chance for what cannot be done in an exit."""

    def _stopped(self) -> None:
        """The run ended at the start of a block, or between two iterations of a REP: a boundary, outside shadows."""
        self.preempted_after = self.preempted_after or self._phys.blocks
        self._take_over()
        if self._leave is not None or not self._vcpu.interrupt_shadow:
            self._leave = self._leave or Leave.PREEMPTED
            return
        self._is_preempted = True
        self._phys.set_block_limit(NEVER, counts=self._phys.counts_blocks)
        self._step()

    # --- exits -----------------------------------------------------------------------------------------

    def _exit(self, vector: int) -> None:
        if vector == _PF:
            self._mend_flags()
        was_step = self._take_over()
        if was_step and vector == _DB:
            self._resume()
        else:
            self._on_exit(vector)
        if self._leave is not None:
            self._phys.leave()

    def _mend_flags(self) -> None:
        """An access faulted: its instruction may have changed the flags in a way that the engine does not undo."""
        flags.mend(self._phys.state, self._name)

    def _name(self) -> str:
        """The mnemonic of the instruction at EIP; empty where there is none."""
        self._native.pull()
        try:
            return self.plan().name
        except GuestFault:
            return ""

    def _take_over(self) -> bool:
        """The guest does not run any more: its state into the virtual CPU. Was it on a step of ours?"""
        self._native.pull()
        was_step, self._steps = self._steps, False
        if was_step:
            self._vcpu.field_flags &= ~_TF
        if self._is_preempted:
            self._is_preempted = False
            self._leave = self._leave or Leave.PREEMPTED
        return was_step

    def _on_exit(self, vector: int) -> None:
        """Handle one exit, and `_resume`."""
        raise NotImplementedError

    def _exception(self, vector: int) -> None:
        """The processor raised an exception of the guest's: deliver it, and go on."""
        code = self._phys.state.d[hw.D_ERROR_CODE] & 0xFFFF if vector in HAS_ERROR_CODE else None
        if self.observer is not None:
            self._observe_fault(self.observer, vector, code)
        if vector == _DB:
            self._trap_behind()
        else:
            self._inject(GuestFault(vector, code, self._vcpu.cr2 if vector == Vector.PF else None))

    def _emulate(self) -> None:
        """Carry the instruction at EIP out, or deliver its fault, and go on."""
        vcpu = self._vcpu
        is_traced = vcpu.field_flags & _TF
        try:
            plan = self.plan()
            self._delivery.carry_out(plan)
        except GuestFault as fault:
            self._inject(fault)
            return
        if is_traced and not callouts.hides_trap(plan.name, vcpu):
            self._trap_behind()
        elif plan.name in _LIGHT:
            self._carry_on()
        else:
            self._resume()

    def _carry_on(self) -> None:
        """Behind an instruction that has changed registers and memory alone, unless a device did more."""
        vcpu, state = self._vcpu, self._phys.state
        is_step = state.q[hw.Q_EFLAGS] & _TF
        waits = vcpu.page[_PENDING] or vcpu.nmi_pending
        if is_step or self._leave is not None or waits or vcpu.stale or vcpu.segments_changed:
            self._resume()
            return
        state.q[hw.Q_EIP] = vcpu.eip
        state.q[hw.Q_EFLAGS] &= ~_RF & MASK32
        state.d[hw.D_HFLAGS] &= ~hw.HF_INHIBIT_IRQ & MASK32

    def _code_byte(self) -> int:
        """The first byte of the instruction at EIP, which the processor has fetched, behind its prefixes; 0 where it
        did so through entries with reserved bits that it does not look at."""
        vcpu = self._vcpu
        la = vcpu.base(_CS) + vcpu.eip & MASK32
        try:
            at = self._mmu.translate(la, False, vcpu.cpl == 3, fetch=True)
        except GuestFault:
            return 0
        raw = self._memory.read(at, min(MAX_LENGTH, PAGE_SIZE - (la & PAGE_MASK)))
        if len(raw) < MAX_LENGTH and LEGACY_PREFIXES.issuperset(raw):  # the rest lies in the next page
            raw += vcpu.memory.read_bytes(la + len(raw) & MASK32, MAX_LENGTH - len(raw), vcpu.cpl == 3)
        return next((byte for byte in raw if byte not in LEGACY_PREFIXES), raw[0])

    # --- instructions ----------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """How to carry out the instruction at EIP. Raises: GuestFault: the fetch, or #UD."""
        vcpu = self._vcpu
        code32 = bool(self._phys.state.d[hw.D_HFLAGS] & hw.HF_CS32)
        la = vcpu.base(_CS) + vcpu.eip & MASK32
        at = self._mmu.translate(la, False, vcpu.cpl == 3, fetch=True)
        raw = self._memory.read(at, min(MAX_LENGTH, PAGE_SIZE - (la & PAGE_MASK)))
        key = (vcpu.eip, raw, code32)
        found = self._plans.get(key)
        return found if found is not None else self._learn(key, la)

    def _learn(self, key: tuple[int, bytes, bool], la: int) -> Plan:
        eip, raw, code32 = key
        insn = self._decoder.one(raw, eip, code32)
        if insn is None and len(raw) < MAX_LENGTH:  # it crosses into the next page, so not to be kept under `key`
            raw += self._vcpu.memory.read_bytes(la + len(raw) & MASK32, MAX_LENGTH - len(raw), self._vcpu.cpl == 3)
            insn = self._decoder.one(raw, eip, code32)
            if insn is not None:
                return callouts.plan(insn)
        if insn is None:
            raise ud()  # the engine overlooks a LOCK that does not belong there
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        plan = self._plans[key] = callouts.plan(insn)
        return plan

    # --- events ----------------------------------------------------------------------------------------

    def _take_interrupt(self) -> bool:
        """The interrupt that waits; False: it ended in a triple fault."""
        return self._delivery.interrupt()

    # --- back to the guest -----------------------------------------------------------------------------

    def _advance(self) -> None:
        """Enter the guest, or find that it is time to leave. Raises: GuestFault: an event that comes first."""
        vcpu = self._vcpu
        wanted = vcpu.is_nmi_due or (vcpu.page[_PENDING] and vcpu.page[_IF])
        if vcpu.halted and not wanted:
            self._leave = Leave.HALTED
            return
        if vcpu.pending_debug:
            self._raise_pending_debug()
        if wanted:
            if vcpu.interrupt_shadow:
                self._step()
                return
            if not (self._delivery.nmi() if vcpu.is_nmi_due else self._take_interrupt()):
                self._leave = Leave.SHUTDOWN
                return
        if vcpu.dr[_DR7] & _DR7_ENABLES and vcpu.execution_breakpoints:
            self._look_for_breakpoint()
            self._step()
            return
        self._push(has_window=bool(vcpu.page[_PENDING]) or vcpu.nmi_blocked, steps=False)

    def _look_for_breakpoint(self) -> None:
        """The processor below has no breakpoints that we let it have: where the guest has some, each instruction is
        looked at before it runs. Raises: GuestFault #DB.

        Source: SDM Vol. 3B, "Instruction-Breakpoint Exception Condition".
        """
        vcpu = self._vcpu
        la = vcpu.base(_CS) + vcpu.eip & MASK32
        struck = sum(bit for address, bit in vcpu.execution_breakpoints if address == la)
        if struck and not vcpu.field_flags & _RF:
            vcpu.show_debug(struck)
            raise GuestFault(_DB)

    def _step(self) -> None:
        """Let one instruction run alone. The guest's own single step does that as well."""
        vcpu = self._vcpu
        if not vcpu.field_flags & _TF:
            self._steps = True
            vcpu.field_flags |= _TF
        self._push(has_window=True, steps=self._steps)

    def _push(self, *, has_window: bool, steps: bool) -> None:
        """Put the guest back into the processor. With `has_window` what can set IF or let NMIs through must leave; with
        `steps` also what shows or changes TF."""
        raise NotImplementedError

    # --- reporting -------------------------------------------------------------------------------------

    @property
    def roots(self) -> tuple[int, ...]:
        """None: the guest runs on tables of its own."""
        return ()

    def report(self) -> dict[str, Any]:
        """Nothing besides `stats`."""
        return {}

    def _observe_fault(self, observer: Observer, vector: int, code: int | None) -> None:
        values = {"vector": vector}
        if vector == Vector.PF and code is not None:
            values |= {"cr2": self._vcpu.cr2, "error_code": code}
        observer.exit("fault", self._vcpu.eip, None, values)
