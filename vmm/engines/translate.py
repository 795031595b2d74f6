"""Binary translation: guest code runs only from the cache, deprivileged.

Theory of operation. `run` enters the physical CPU at the block of `vcpu.eip`. Cached code runs until an `int` of ours
(a site: a branch to link, an instruction to emulate) or a fault brings it to `_on_exit`, which names the exit by its
cache address, acts, and goes back into the cache. Between exits nothing of this module runs.

Blocks and the shadow tables are the business of `code.py`, instructions that run alone that of `steps.py`.
"""

from collections.abc import Callable
from typing import Any, Final

from bt.accesses import modifies
from bt.cache import Block, Entrance
from bt.decode import Insn
from bt.emit import CALLOUT_VECTOR, CHECKED, FLAGS, MISALIGNED, S0, S2, STORES, Site, SiteKind
from vmm.arch.exceptions import HAS_ERROR_CODE, GuestFault, PageFault, Vector, gp
from vmm.arch.layout import MASK32, PAGE_SHIFT, Slot
from vmm.arch.registers import Cr0, Cr4, Eflags, Reg, Seg
from vmm.cpu import callouts, fpu
from vmm.cpu.access_checks import check_all
from vmm.cpu.callouts import Plan
from vmm.cpu.events import EventKind
from vmm.cpu.shadow import Fill
from vmm.cpu.shadow_gdt import ShadowGdt
from vmm.cpu.vcpu import STALE_ALL
from vmm.engines import physical
from vmm.engines.code import TranslatedCode
from vmm.engines.crossing_code import Cell
from vmm.engines.crossings import KINDS, Crossings
from vmm.engines.delivery import place_of
from vmm.engines.device_pages import DevicePage, DevicePages, locate_linear
from vmm.engines.engine import Leave
from vmm.engines.machine import Machine
from vmm.engines.observer import Observer
from vmm.engines.options import DEFAULT_ENGINE_OPTIONS, EngineOptions
from vmm.engines.preemption import again_soon
from vmm.engines.preparations import Preparations
from vmm.engines.runner import GuestRunner
from vmm.engines.steps import Step, Stepper
from vmm.errors import Unmodelled
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.host_fpu import EXITS, TRAPS
from vmm.hw.traps import Q_TRAPS, Trap
from vmm.hw.tsc import count_host_time

_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_NE: Final = int(Cr0.NE)
_TSD: Final = int(Cr4.TSD)
_ARITHMETIC_EXITS: Final = frozenset(EXITS.values())
_FAULT_W: Final = int(PageFault.W)
_FAULT_I: Final = int(PageFault.I)
_LATEST: Final = Cell.LATEST // 8
_PENDING: Final = Slot.PENDING >> 2
_IF: Final = Slot.IF >> 2
_CR0: Final = Slot.CR0 >> 2
_CR4: Final = Slot.CR4 >> 2
_FLAGS: Final = Slot.FLAGS >> 2
_TSC: Final = Slot.TSC >> 2
_VM: Final = int(Eflags.VM)
_DR6_BREAKPOINTS: Final = 0xF  # B0 to B3
_DR7: Final = 7
_IOPL: Final = int(Eflags.IOPL)
_IOPL_AND_AC: Final = int(Eflags.IOPL | Eflags.AC)
_USER_RING: Final = 3
_DF: Final = int(Eflags.DF)
_OF: Final = int(Eflags.OF)
_LAHF: Final = int(Eflags.SF | Eflags.ZF | Eflags.AF | Eflags.PF | Eflags.CF)
_ESP: Final = int(Reg.ESP)
_JUMPS_AND_CALL: Final = frozenset((0xE8, 0xE9, 0xEB, *range(0x70, 0x80), *range(0x0F80, 0x0F90)))


class TranslateEngine(GuestRunner):
    """The engine of one virtual CPU. `observer` is told what happens; TRACE sites are there if `options` asks."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, options: EngineOptions = DEFAULT_ENGINE_OPTIONS) -> None:
        self.code = TranslatedCode(machine, phys, options.translation)
        super().__init__(machine, phys, self.code.stats)
        self._phys, self._mmu, self._hole = phys, machine.mmu, machine.hole
        self._stepper = Stepper(machine.vcpu, self.code)
        self._devices = DevicePages(machine, phys, self.code.shadow, locate_linear(machine), self.code.memory_width)
        self._shadow_gdt = ShadowGdt(machine.physical, machine.hole)
        self._crossings = Crossings(machine, phys, self.code, self.stats)
        self._crossed = self._crossings.cells
        self.code.before_clearing.append(self._crossings.clear)
        self._preparations = Preparations(machine.vcpu, self.code)
        self._step: Step | None = None
        self._in_force: tuple[int, ...] | None = None
        self._audited = False
        handlers = {
            SiteKind.LINK: self._link,
            SiteKind.CALLOUT: self._callout,
            SiteKind.FINISH: self._finish,
            SiteKind.STALE: self._stale,
            SiteKind.STEP_END: self._step_end,
            SiteKind.TRACE: self._trace,
            SiteKind.CHECK: self._check,
            SiteKind.PREPARE: self._prepare,
        }
        self._sites: tuple[Callable[[Site, Block], None], ...] = tuple(handlers[kind] for kind in SiteKind)
        phys.on_exit = self._on_exit

    @classmethod
    def on_a_cpu(cls, machine: Machine, options: EngineOptions) -> "TranslateEngine":
        """An engine with a physical CPU of its own."""
        return cls(machine, PhysicalCpu(machine.physical), options)

    @property
    def observer(self) -> Observer | None:
        """Who watches, or None."""
        return self.code.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self.code.observer = self._delivery.observer = observer

    # --- running ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Take the physical CPU: the virtual CPU's registers move into its state."""
        self._vcpu.move_into(self._phys.state, self._phys.fold_flags)
        self._in_force = None
        self._phys.set_service_root(self.code.shadow.service_root)
        self.code.begin()

    def run(self) -> Leave:
        """Run until the block limit, HLT, shutdown or a request."""
        self._leave = None
        self._tell_time()
        self._phys.state.q[Q_TRAPS] = TRAPS
        self._resume()
        self.preempted_after = 0
        self._crossings.enable(self.observer is None)
        while self._leave is None:
            stopped = self._phys.run()
            if self._crossed[_LATEST]:
                self._catch_up()
            if self._audited:
                self._check_audit()
            self._preparations.settle()
            if stopped:
                self.preempted_after = self.preempted_after or self._phys.blocks
                self._preempted()
        self._crossings.report()
        if self._phys.state.q[hw.TSC_IS_HOSTS]:
            self._board.tsc()  # what the guest may have read by itself is now past for everybody else
        return self._leave

    def _tell_time(self) -> None:
        """Let RDTSC run in the cache during this run, if host time has all the answers."""
        count_host_time(self._phys.state, self._board.tsc_offset())
        self._allow_rdtsc()

    def _allow_rdtsc(self) -> None:
        """With CR4.TSD the VMM decides (SDM Vol. 2B, "RDTSC - Read Time-Stamp Counter")."""
        page = self._vcpu.page
        page[_TSC] = bool(self._phys.state.q[hw.TSC_IS_HOSTS]) and not page[_CR4] & _TSD

    def _preempted(self) -> None:
        """The block limit stopped the engine. Only the start of a guest instruction without a shadow is a boundary."""
        state = self._phys.state
        address = state.q[hw.Q_EIP] + self.code.space.cs_base & MASK32
        block = self.code.cache.block_at(address)
        if block is not None and self._step is None and not state.d[hw.D_HFLAGS] & hw.HF_INHIBIT_IRQ:
            offset = address - block.address
            mark = block.translation.mark_at(offset)
            is_start = mark.offset == offset and not mark.restore
            if is_start and offset not in block.translation.shadowed:
                self._vcpu.eip = mark.eip
                self._leave = Leave.PREEMPTED
                return
        again_soon(self._phys)

    # --- exits -----------------------------------------------------------------------------------------

    def _on_exit(self, vector: int) -> None:
        if self._crossed[_LATEST]:
            self._catch_up()
        address = self._phys.state.q[hw.Q_EIP] + self.code.space.cs_base & MASK32
        if self.observer is not None:
            self._observe_exit(self.observer, vector, address)
        if vector == CALLOUT_VECTOR:
            site, block = self.code.cache.sites[address]
            self._sites[site.kind](site, block)
        elif vector < 32:
            self._fault(vector, address)
        elif vector in _ARITHMETIC_EXITS and (found := self.code.cache.block_at(address)) is not None:
            self._arithmetic(vector, found, address)
        else:
            raise Unmodelled(f"exit with vector {vector:#x} at cache address {address:#x}")
        if self._leave is not None:
            self._phys.leave()

    def _link(self, site: Site, block: Block) -> None:
        """A direct branch: find the target, and let the branch go there by itself from now on."""
        self.stats.exits["link"] += 1
        generation = self.code.cache.flushes
        target = self._target(site.target, site.insn)
        if target is None:
            return
        if self.code.cache.flushes == generation:
            self.code.link(block, site, target)
        self._phys.state.q[hw.Q_EIP] = target.entry

    def _indirect(self) -> None:
        """A RET or indirect branch whose target is not in the branch table: put it there."""
        self.stats.exits["indirect"] += 1
        target = self._target(self.code.scratch[S2])
        if target is not None:
            self._phys.state.q[hw.Q_EIP] = self.code.remember(target).entry

    def _target(self, eip: int, origin: Insn | None = None) -> Entrance | None:
        """Where a branch to `eip` enters the current space, or None: something else has to be done first,
        and has been. `origin`: the instruction that the branch comes from, where that is known."""
        self._vcpu.eip = eip
        if self._step is not None:
            self._finish_step()
            return None
        space = self.code.space
        if space.context.breakpoints and space.cs_base + eip & MASK32 in space.context.breakpoints:
            self._resume()
            return None
        try:
            return self.code.find(eip)
        except GuestFault as fault:
            if origin is not None and origin.opcode in _JUMPS_AND_CALL and eip > self._vcpu.limit(Seg.CS):
                self._take_back(origin)
            self._inject(fault)
            return None

    def _take_back(self, branch: Insn) -> None:
        """A branch beyond the limit of CS faults itself. CALL has pushed by then: what it wrote stays.

        Source: SDM Vol. 2A, "Jcc", "JMP", "CALL": #GP(0).
        """
        vcpu = self._vcpu
        vcpu.eip = branch.eip
        if branch.name == "call":
            size = vcpu.stack_size
            vcpu.set_reg(_ESP, size, vcpu.reg(_ESP, size) + branch.operand_size)

    def _callout(self, site: Site, block: Block) -> None:
        """An instruction for the VMM."""
        plan: Plan | None = site.plan
        if plan is None:
            plan = site.plan = callouts.plan(site.insn)
        self.stats.callouts[plan.name] += 1
        if self._vcpu.x87_error:
            self._follow_x87_error()
        if plan.name in KINDS and self._step is None and self.observer is None:
            start = self._crossings.look(plan.name, site.insn, block.address + site.offset)
            self._emulate(plan, block)
            if start is not None and self._leave is None:
                self._crossings.learn(start, self._in_force)
        else:
            self._emulate(plan, block)

    def _catch_up(self) -> None:
        """The guest has changed sides without us."""
        self._in_force = self._crossings.catch_up().in_force

    def _emulate(self, plan: Plan, block: Block) -> None:
        """Carry out an instruction, or inject its fault, and go on."""
        insn, name, handler, is_quiet, ends_block, segment = plan
        vcpu = self._vcpu
        vcpu.eip = insn.falls_to
        vcpu.interrupt_shadow = False
        vcpu.field_flags &= ~_RF
        task, observer = vcpu.tr, self.observer
        if observer is not None:
            observer.before_callout(insn)
        try:
            handler(vcpu, insn, self._board)
        except GuestFault as fault:
            if vcpu.tr is task:  # after a task switch the fault is the new task's
                vcpu.eip = insn.eip
            self._inject(fault)
            return
        if observer is not None:
            observer.after_callout(insn)
        if self._step is not None:
            self._step.trap = self._step.trap and not callouts.hides_trap(name, vcpu)
            self._finish_step()
        elif is_quiet:
            self._carry_on(ends_block, block)
        elif segment is not None and self.code.fits_segments():
            physical.load_data_segment(vcpu, segment)
            vcpu.segments_changed = False
            if vcpu.cpl == 0 and vcpu.is_protected:
                self._shadow_gdt.learn(vcpu, segment)
            self._carry_on(ends_block, block)
        else:
            self._resume()

    def _carry_on(self, ends_block: bool, block: Block) -> None:
        """After a callout that changed no mode: the code behind it follows in the same block."""
        vcpu = self._vcpu
        if vcpu.stale:
            self.code.refresh()
        if (
            ends_block
            or block.page not in self.code.cache.view.on
            or self._leave is not None
            or (vcpu.page[_PENDING] and vcpu.page[_IF])
            or vcpu.nmi_pending
            or vcpu.pending_debug
        ):
            self._resume()

    def _finish(self, site: Site, block: Block) -> None:
        """STI or POPF found that an interrupt waits, or POPF that TF or another rare flag changes."""
        insn, vcpu = site.insn, self._vcpu
        self.stats.exits["finish"] += 1
        vcpu.eip = insn.falls_to
        callouts.finish_inline(vcpu, insn, self.code.scratch[S2])
        if self._step is not None:
            self._finish_step()
        else:
            self._resume()

    def _stale(self, site: Site, block: Block) -> None:
        """A self-checking block's source has changed, and so have those that led here: whichever of them is the one to
        be found is so no more, until its source is back."""
        self.stats.exits["stale"] += 1
        self.code.cache.retire(block.page.blocks.get(block.eip, block))
        self.code.cache.retire(block)
        generation = self.code.cache.flushes
        target = self._target(block.eip)
        if target is None:
            return
        if self.code.cache.flushes == generation:
            self.code.supersede(block, target)
        self._phys.state.q[hw.Q_EIP] = target.entry

    def _step_end(self, site: Site, block: Block) -> None:
        self._vcpu.eip = site.insn.falls_to
        self._finish_step()

    def _trace(self, site: Site, block: Block) -> None:
        if self.observer is not None:
            self.observer.probe(site, block)

    # --- segment checks --------------------------------------------------------------------------------

    def _check(self, site: Site, block: Block) -> None:
        """An instruction that is to be checked in full; if it may run, it follows the exit."""
        self.stats.exits["check"] += 1
        self._check_insn(site.insn, self._phys.state.q[hw.Q_EIP])

    def _guard_fault(self, block: Block, address: int) -> None:
        """A check in cached code did not pass."""
        self.stats.exits["guard"] += 1
        self._rewind(block, address)
        behind = block.entry + block.translation.body_behind(address - block.address) & MASK32
        self._check_insn(self.code.insn_at(block, self._vcpu.eip), behind)

    def _check_insn(self, insn: Insn, body: int) -> None:
        """Check an instruction in full. `body`: where its own code begins, relative to CS.base."""
        vcpu = self._vcpu
        vcpu.eip = insn.eip
        try:
            iterations = check_all(vcpu, insn)
        except GuestFault as fault:
            self._inject(fault)
            return
        if iterations is None:
            self._phys.state.q[hw.Q_EIP] = body
        else:
            self._begin_iteration()

    def _begin_iteration(self) -> None:
        """Run one iteration of the string instruction at `vcpu.eip`: a later one will fault."""
        step, self._step = self._step, None
        pages = [] if step is None else step.pages
        self._begin_step(pages, trap=step is not None and step.trap, one_iteration=True)

    def _prepare(self, site: Site, block: Block) -> None:
        """Something for an instruction that runs in the cache by itself."""
        self.stats.exits["prepare"] += 1
        try:
            is_alone = self._preparations.prepare(site)
        except GuestFault as fault:
            self._inject(fault)
            return
        if self._step is not None:
            self._step.debug |= self._preparations.struck
        elif is_alone:
            self._begin_step([], one_iteration=True)

    def _misaligned(self, block: Block, address: int) -> None:
        """An SSE operand has not passed the check of its alignment."""
        self._rewind(block, address)
        try:
            fpu.require_sse(self._vcpu)
            raise gp()
        except GuestFault as fault:
            self._inject(fault)

    def _arithmetic(self, vector: int, block: Block, address: int) -> None:
        """An x87, MMX or SSE instruction that makes an error, or that an error waits for."""
        self._rewind(block, address)
        if vector == EXITS[Trap.X87] and fpu.waiting_errors(self._vcpu):
            self._x87_error()
        else:
            self._emulate(callouts.plan(self.code.insn_at(block, self._vcpu.eip)), block)

    def _x87_error(self) -> None:
        """An error waits at `vcpu.eip`: #MF. With CR0.NE clear it asserts FERR#, and the instruction waits for an
        interrupt, or, under IGNNE#, goes on without minding.

        Source: SDM Vol. 1, "MS-DOS Compatibility Sub-mode"; "MS-DOS Compatibility Sub-mode in the P6 Family".
        """
        vcpu = self._vcpu
        if vcpu.page[_CR0] & _NE:
            self._inject(GuestFault(Vector.MF))
            return
        vcpu.x87_error = True
        step, self._step = self._step, None
        if step is not None:
            self._devices.unmap(step.pages)
        if not self._board.x87_error(True):
            vcpu.halted = True
            self._resume()
            return
        hidden = fpu.hide_errors(vcpu)
        self._begin_step([], trap=step is not None and step.trap)
        if self._step is not None:
            self._step.hidden_errors = hidden
        else:
            fpu.show_errors(vcpu, hidden)

    def _follow_x87_error(self) -> None:
        """FERR# falls when there is no error any more."""
        vcpu = self._vcpu
        if self._step is None and not fpu.waiting_errors(vcpu):
            vcpu.x87_error = False
            self._board.x87_error(False)

    # --- faults ----------------------------------------------------------------------------------------

    def _fault(self, vector: int, address: int) -> None:
        """A hardware exception in cached code: the shadow's business, or the guest's."""
        block = self.code.cache.block_at(address)
        state = self._phys.state
        code = state.d[hw.D_ERROR_CODE]
        if block is None:
            if address == self.code.cache.lookup.nowhere:
                self._indirect()
                return
            raise Unmodelled(f"exception {vector} outside the cache, at {address:#x}")
        if vector == Vector.PF:
            self._page_fault(state.q[hw.Q_CR + 2] & MASK32, code, block, address)
            return
        self._rewind(block, address)
        self._inject(GuestFault(vector, code & 0xFFFF if vector in HAS_ERROR_CODE else None))

    def _rewind(self, block: Block, address: int) -> None:
        """Look as if the guest instruction had not begun: registers out of scratch words, the guest's EIP."""
        mark = block.mark_at(address)
        q, scratch = self._phys.state.q, self.code.scratch
        for reg, word in mark.restore:
            if reg in (CHECKED, MISALIGNED, STORES):
                continue
            if reg == FLAGS:
                self._vcpu.set_arithmetic(_flags_out_of_ax(scratch[word]) | self._vcpu.fold_flags() & _DF)
            else:
                q[reg] = scratch[word]
        self._vcpu.eip = mark.eip

    def _page_fault(self, la: int, code: int, block: Block, address: int) -> None:
        if code & _FAULT_I:
            self._fetch_fault(block, address)
            return
        if self._hole.contains(la) and (CHECKED, 0) in block.mark_at(address).restore:
            self._guard_fault(block, address)
            return
        if self._hole.contains(la) and (MISALIGNED, S0) in block.mark_at(address).restore:
            self._misaligned(block, address)
            return
        if self._hole.contains(la):
            self._rewind(block, address)
            self.code.move_hole(la)
            self._in_force = None
            if self._audited:
                self._phys.audit_blocks(*self.code.arenas)
            self._resume()
            return
        write = bool(code & _FAULT_W)
        try:
            result = self.code.shadow.fill(la, write, self._vcpu.cpl == 3)
        except GuestFault as fault:
            self._rewind(block, address)
            self._inject(fault if write else self._read_fault(fault, block, address))
            return
        self.stats.exits["shadow fill" if result is Fill.MAPPED else result.name.lower()] += 1
        if result is Fill.WATCHED:
            self._store_to_code(la, block, address)
        elif not self.code.cache.is_on(block.page):
            # the guest's tables, in which bits were set, share a page with this code
            self._rewind(block, address)
            self._resume()
        elif result is Fill.DEVICE:
            self._device_fault(la, write, block, address)

    def _read_fault(self, fault: GuestFault, block: Block, address: int) -> GuestFault:
        """The engine reads what an instruction modifies, then writes it; a processor asks for the write at once.

        Source: SDM Vol. 3A, "Page-Fault Exceptions": W/R tells the access that the instruction makes.
        """
        mark = block.mark_at(address)
        if (STORES, S0) in mark.restore or modifies(self.code.insn_at(block, mark.eip)):
            return GuestFault(fault.vector, (fault.error_code or 0) | _FAULT_W, fault.cr2)
        return fault

    def _device_fault(self, la: int, write: bool, block: Block, address: int) -> None:
        """An operand outside RAM: its instruction becomes a step, or its step gets another page."""
        if self._step is None:
            self._rewind(block, address)
            try:
                pages = [] if self._runs_in_vmm() else [self._devices.map_device(la, write, [])]
            except GuestFault as fault:
                self._inject(fault)
            else:
                self._begin_step(pages)
        elif self._devices.is_wide(self._step.pages):
            self._rewind(block, address)
            self._devices.unmap(self._step.pages)
            self._step = None
            self._resume()
        else:
            self._devices.widen(self._step.pages, la, write)

    def _runs_in_vmm(self) -> bool:
        """Does the VMM carry out the instruction at `vcpu.eip` when it runs alone? Then it reaches devices itself."""
        block, _ = self._stepper.block(one_iteration=True)
        return any(site.kind is SiteKind.CALLOUT for site in block.translation.sites)

    def _fetch_fault(self, block: Block, address: int) -> None:
        """Code came to a block whose page is off: find what now is at its EIP."""
        self.stats.exits["fetch"] += 1
        mark = block.mark_at(address)
        if address != block.address + mark.offset or mark.restore:
            self._rewind(block, address)
            self._resume()
            return
        if block.page.is_everywhere and block.has_way_in(address):
            self.code.cache.view.map(block.page, True)
            return
        target = self._target(mark.eip)
        if target is None:
            return
        if target.address != address:
            target = self.code.strayed(block, target)
        self._phys.state.q[hw.Q_EIP] = target.entry

    def _store_to_code(self, la: int, block: Block, address: int) -> None:
        """The guest writes a page that was translated. A store into its own page runs alone, and then all is new."""
        page = self._mmu.translate(la, True, self._vcpu.cpl == 3) >> PAGE_SHIFT
        self.code.watched_write(page)
        if not self.code.cache.is_on(block.page):
            self._rewind(block, address)
            self._begin_step([])

    # --- steps -----------------------------------------------------------------------------------------

    def _begin_step(self, pages: list[DevicePage], trap: bool = False, one_iteration: bool = False) -> None:
        """Run the one instruction at `vcpu.eip`; `pages` are unmapped behind it.

        A string instruction that meets a device, or is traced, runs one iteration at a time, without its REP prefix.
        """
        try:
            self._enter_step(pages, trap, one_iteration)
        except GuestFault as fault:
            self._devices.unmap(pages)
            self._inject(fault)

    def _enter_step(self, pages: list[DevicePage], trap: bool, one_iteration: bool = False) -> None:
        """`_begin_step`, raising the GuestFault of the fetch."""
        self._synchronise()
        one_iteration = one_iteration or trap or any(page.region is not None for page in pages)
        block, repeated = self._stepper.block(one_iteration)
        self._step = Step(pages, trap, repeated)
        self._phys.state.q[hw.Q_EIP] = block.entry

    def _finish_step(self) -> None:
        """The instruction of a step is done: let devices have what was written, then traps and interrupts."""
        step, self._step = self._step, None
        if step is None:
            raise Unmodelled("the end of a step that never began")
        self._devices.write_back(step.pages)
        fpu.show_errors(self._vcpu, step.hidden_errors)
        self._vcpu.pending_debug |= step.debug
        if step.repeated is not None:
            self._stepper.count_iteration(step.repeated)
        if step.trap:
            self._trap_behind()
        else:
            self._resume()

    # --- back to the guest -----------------------------------------------------------------------------

    def _deliver(self, fault: GuestFault, kind: EventKind = EventKind.FAULT) -> None:
        """Deliver what the guest has earned; a triple fault is for the monitor."""
        if self._step is not None:
            self._devices.unmap(self._step.pages)
            fpu.show_errors(self._vcpu, self._step.hidden_errors)
            self._step = None
        if kind is EventKind.FAULT:  # behind MOV SS: what that struck is lost
            self._vcpu.pending_debug &= ~_DR6_BREAKPOINTS
        super()._deliver(fault, kind)

    def _advance(self) -> None:
        """Enter the block or step at `vcpu.eip`, or find that it is time to leave. Raises: GuestFault: the event."""
        vcpu = self._vcpu
        if vcpu.pending_debug and not vcpu.interrupt_shadow:
            self._raise_pending_debug()
        if vcpu.halted and not vcpu.is_nmi_due and not (vcpu.page[_PENDING] and vcpu.interrupts_enabled):
            self._leave = Leave.HALTED
            return
        if vcpu.interrupt_shadow:
            vcpu.interrupt_shadow = False
            vcpu.field_flags &= ~_RF
            self._enter_step([], bool(vcpu.field_flags & _TF))
            return
        if vcpu.nmi_pending and not vcpu.nmi_blocked and not self._delivery.nmi():
            self._leave = Leave.SHUTDOWN
            return
        if vcpu.page[_PENDING] and vcpu.interrupts_enabled and not self._delivery.interrupt():
            self._leave = Leave.SHUTDOWN
            return
        self._synchronise()
        if self.code.space.context.breakpoints and self._is_at_breakpoint():
            return
        vcpu.field_flags &= ~_RF  # it lives for one instruction, and a fault of that sets it anyway
        if vcpu.field_flags & _TF:
            self._enter_step([], trap=True)
            return
        self._phys.state.q[hw.Q_EIP] = self.code.find(vcpu.eip).entry

    def _is_at_breakpoint(self) -> bool:
        """Is the next instruction one at which to stop? With RF it runs, alone, and True says that it is entered.

        Raises: GuestFault #DB. Source: SDM Vol. 3B, "Instruction-Breakpoint Exception Condition".
        """
        vcpu = self._vcpu
        la = self.code.space.cs_base + vcpu.eip & MASK32
        struck = sum(bit for address, bit in vcpu.execution_breakpoints if address == la)
        if not struck:
            return False
        if not vcpu.field_flags & _RF:
            vcpu.show_debug(struck)
            raise GuestFault(Vector.DB)
        vcpu.field_flags &= ~_RF
        self._enter_step([], trap=bool(vcpu.field_flags & _TF))
        return True

    def _synchronise(self) -> None:
        """Bring the physical CPU and the current block space into step with the virtual CPU."""
        vcpu = self._vcpu
        if vcpu.stale:
            if vcpu.stale & STALE_ALL:  # paging, or the whole processor, is another one
                self._in_force = None
            self.code.refresh()
        page, cpl = vcpu.page, vcpu.cpl
        flags = page[_FLAGS] & (_IOPL_AND_AC if cpl == _USER_RING else _IOPL) if cpl else 0
        control = (page[_CR0], page[_CR4], cpl, flags, vcpu.field_flags & _VM, vcpu.dr[_DR7])
        if control != self._in_force or vcpu.segments_changed:
            before = self.code.space
            self.code.select_space()
            if control == self._in_force and self.code.space is before:
                physical.refresh_segments(vcpu)
            else:
                if self._in_force is None:  # a reset has put these back as well
                    physical.load_fixed(vcpu, self._hole)
                physical.materialise(vcpu, self._switch_root())
                self._allow_rdtsc()
                self._in_force = control
        vcpu.segments_changed = False

    def _switch_root(self) -> int:
        root = self.code.shadow.root(self._vcpu.is_real)
        if root != self._phys.state.q[hw.Q_CR + 3]:
            self._phys.flush_tlb()
        return root

    # --- reporting -------------------------------------------------------------------------------------

    def audit(self) -> None:
        """From now on check at each block's start: EIP is in the cache, CPL is not 0."""
        self._audited = True
        self._phys.audit_blocks(*self.code.arenas)

    @property
    def roots(self) -> tuple[int, ...]:
        """Those of all address spaces."""
        return self.code.shadow.spaces.roots

    def report(self) -> dict[str, Any]:
        """Pages whose blocks check themselves, and how often the whole cache was emptied."""
        return {"self_checked_pages": len(self.code.self_checked), "cache_flushes": self.code.cache.flushes}

    def _check_audit(self) -> None:
        if (address := self._phys.audit_failure) is not None:
            raise Unmodelled(
                f"audit: a block at {address:#x} runs outside the cache or at CPL 0", (place_of(self._vcpu),)
            )
        self._phys.audit_blocks(*self.code.arenas)  # the hole may have moved

    def _observe_exit(self, observer: Observer, vector: int, address: int) -> None:
        if vector == CALLOUT_VECTOR:
            site, _ = self.code.cache.sites[address]
            if site.kind is not SiteKind.TRACE:
                values = {"target": site.target} if site.kind is SiteKind.LINK else {}
                observer.exit(site.kind.name.lower(), site.insn.eip, site.insn, values)
            return
        if address == self.code.cache.lookup.nowhere:
            observer.exit("indirect", self.code.scratch[S2], None, {})
            return
        block = self.code.cache.block_at(address)
        eip = block.mark_at(address).eip if block is not None else 0
        values = {"vector": vector}
        if vector == Vector.PF:
            values |= {
                "cr2": self._phys.state.q[hw.Q_CR + 2] & MASK32,
                "error_code": self._phys.state.d[hw.D_ERROR_CODE],
            }
        observer.exit("fault", eip, None, values)


def _flags_out_of_ax(image: int) -> int:
    """The arithmetic flags that LAHF and SETO AL have put into AX."""
    return image >> 8 & _LAHF | (_OF if image & 1 else 0)
