"""Binary translation: guest code runs only from the cache, deprivileged.

Theory of operation. `run` enters the physical CPU at the block of `vcpu.eip`. Cached code runs until an `int` of ours
(a
site: a branch to link, an instruction to emulate) or a fault brings it to `_on_exit`, which names the exit by its cache
address, acts, and goes back into the cache. Between exits nothing of this module runs.

A step is a block of one guest instruction that ends in an exit. It serves where one instruction needs a world of its
own: a store into its own page of code, an access to memory that is not RAM, the shadow of STI and MOV SS,
single-stepping (TF).

When the guest changes what translations were made from (CR0.PG, CR3, A20, the memory map), shadow and cache are
emptied.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol

from bt.cache import Arena, Block, BlockSpace, CacheFull, CodeCache
from bt.decode import MAX_LENGTH, Insn
from bt.emit import CALLOUT_VECTOR, S0, S1, S2, Site, SiteKind
from bt.guest import Context, Mode, Window
from bt.translate import DEFAULT_OPTIONS, ENDS_BLOCK, INLINE, BlockTranslator, Options, name_of, repeats
from vmm.arch.exceptions import HAS_ERROR_CODE, GuestFault, PageFault, Vector, gp
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Slot
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu import callouts, events
from vmm.cpu.callouts import Platform
from vmm.cpu.events import EventKind, TripleFault
from vmm.cpu.hole import HOLE_SIZE, KERNEL_CACHE_SIZE, LOOKUP_SIZE, USER_CACHE_SIZE, Hole
from vmm.cpu.paging import Mmu
from vmm.cpu.shadow import Fill, ShadowTables
from vmm.cpu.vcpu import DESC_B, Vcpu
from vmm.engines import physical
from vmm.engines.engine import Leave
from vmm.engines.observer import Observer
from vmm.engines.stats import EngineStats
from vmm.errors import Unmodelled
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_FAULT_W: Final = int(PageFault.W)
_FAULT_I: Final = int(PageFault.I)
_PENDING: Final = Slot.PENDING >> 2
_DR6_BS: Final = 1 << 14
_DR6: Final = 6
_ZF: Final = int(Eflags.ZF)
_REPE: Final = 0xF3
_REPEATS: Final = (0xF2, 0xF3)
_OPERANDS_MAX: Final = 2
"""Memory operands of one instruction; one that crosses pages may need more, and then they share a frame."""
_EVENTS_IN_A_ROW: Final = 64
SELF_CHECK_AFTER: Final = 3
"""So many times may a page be written after it was translated; then its blocks check themselves."""
_HOLE_CANDIDATES: Final = tuple(range(0xF400_0000, 0x8000_0000, -HOLE_SIZE))


class InterruptSource(Platform, Protocol):
    """What an engine asks of the board: ports, time, and the interrupt controller."""

    def acknowledge_interrupt(self) -> int:
        """The INTA cycle: the vector, 0-255."""
        ...


@dataclass(slots=True)
class _DevicePage:
    """A frame of ours under a page that RAM does not answer, for one instruction.

    With a `region` it stands for one access of `width` bytes to a device at `gpa`; without, for ROM or nothing.
    """

    la: int
    frame: int
    region: MemoryRegion | None = None
    gpa: int = 0
    width: int = 0
    written: bool = False


@dataclass(slots=True)
class _Step:
    """One instruction under way: what to undo and to deliver when it is done.

    `repeat` is the instruction's REP prefix when it runs one iteration at a time, and then `eip` and `next_eip` are its
    own, which the code in the cache does not know.
    """

    pages: list[_DevicePage]
    trap: bool = False
    repeated: Insn | None = None


@dataclass(slots=True)
class TranslatedMachine:
    """What the engine works on: the parts of one VM that it may touch."""

    physical: PhysicalMemory
    memory: GuestMemory
    mmu: Mmu
    vcpu: Vcpu
    board: InterruptSource
    hole: Hole


class TranslateEngine:
    """The engine of one virtual CPU. `observer` is told what happens, and passes TRACE sites if `options` has
    probes."""

    def __init__(self, machine: TranslatedMachine, phys: PhysicalCpu, options: Options = DEFAULT_OPTIONS) -> None:
        self._phys, self._vcpu, self._mmu = phys, machine.vcpu, machine.mmu
        self._memory, self._board, self._hole = machine.memory, machine.board, machine.hole
        self._options = options
        self._translator = BlockTranslator()
        self.shadow = ShadowTables(machine.physical, machine.memory, machine.mmu, machine.hole)
        parts, view = machine.hole.parts, machine.physical
        self.cache = CodeCache(
            Arena(view.window(parts["kernel_cache"].host, KERNEL_CACHE_SIZE), 0),
            Arena(view.window(parts["user_cache"].host, USER_CACHE_SIZE), 0),
            view.window(parts["lookup"].host, LOOKUP_SIZE), 0, self._forget_code,
        )  # fmt: skip
        self._scratch_kernel = view.window(parts["vcpu_page"].host, PAGE_SIZE).cast("I")
        self._scratch_user = view.window(parts["user_scratch"].host, PAGE_SIZE).cast("I")
        self._physical = machine.physical
        self._spare_frames = [machine.physical.allocate(PAGE_SIZE) for _ in range(_OPERANDS_MAX)]
        self._place_hole()
        self._spaces: dict[tuple[int, int], BlockSpace] = {}
        self._rewrites: dict[int, int] = {}
        self.self_checked: set[int] = set()
        self._step: _Step | None = None
        self._leave: Leave | None = None
        self._space: BlockSpace
        self._in_force: tuple[BlockSpace, int, int, int] | None = None
        self.stats = EngineStats()
        self.preempted_after = 0
        """How many blocks had started when the block limit struck in the latest run."""
        self.shutdown_detail = ""
        self.observer: Observer | None = None
        self._sites: Mapping[SiteKind, Callable[[Site, Block], None]] = {
            SiteKind.LINK: self._link,
            SiteKind.INDIRECT: self._indirect,
            SiteKind.CALLOUT: self._callout,
            SiteKind.FINISH: self._finish,
            SiteKind.STALE: self._stale,
            SiteKind.STEP_END: self._step_end,
            SiteKind.TRACE: self._trace,
        }
        self._memory.on_watched_write = self._watched_write
        self._memory.on_map_change = self._map_changed
        phys.on_exit = self._on_exit

    # --- running ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Take the physical CPU: the virtual CPU's registers move into its state."""
        vcpu, phys = self._vcpu, self._phys
        phys.state.buffer[:] = vcpu.state.buffer
        vcpu.state = phys.state
        vcpu.fold_flags = phys.fold_flags
        physical.load_fixed(vcpu, self._hole)
        self._in_force = None
        phys.set_service_root(self.shadow.protected_root)
        self._empty()

    def run(self) -> Leave:
        """Run until the block limit, HLT, shutdown or a request."""
        self._leave = None
        self._resume()
        self.preempted_after = 0
        while self._leave is None:
            if self._phys.run():
                self.preempted_after = self.preempted_after or self._phys.blocks
                self._preempted()
        return self._leave

    def request_leave(self) -> None:
        """From a callout: leave after the current instruction."""
        self._leave = Leave.REQUESTED

    def _preempted(self) -> None:
        """The block limit stopped the engine. Only the start of a guest instruction without a shadow is a boundary."""
        state = self._phys.state
        address = state.q[hw.Q_EIP] + self._space.cs_base & MASK32
        block = self.cache.block_at(address)
        if block is not None and self._step is None and not state.d[hw.D_HFLAGS] & hw.HF_INHIBIT_IRQ:
            offset = address - block.address
            eip = block.translation.starts.get(offset)
            if eip is not None and offset not in block.translation.shadowed:
                self._vcpu.eip = eip
                self._leave = Leave.PREEMPTED
                return
        self._phys.set_block_limit(2)  # this block, and stop before the next

    # --- exits -----------------------------------------------------------------------------------------

    def _on_exit(self, vector: int) -> None:
        address = self._phys.state.q[hw.Q_EIP] + self._space.cs_base & MASK32
        if self.observer is not None:
            self._observe_exit(self.observer, vector, address)
        if vector == CALLOUT_VECTOR:
            site, block = self.cache.sites[address]
            self._sites[site.kind](site, block)
        elif vector < 32:
            self._fault(vector, address)
        else:
            raise Unmodelled(f"exit with vector {vector:#x} at cache address {address:#x}")
        if self._leave is not None:
            self._phys.leave()

    def _link(self, site: Site, block: Block) -> None:
        """A direct branch: find the target, and let the branch go there by itself from now on."""
        self.stats.exits["link"] += 1
        vcpu = self._vcpu
        vcpu.eip = site.target
        if self._step is not None:
            self._finish_step()
            return
        generation = self.cache.flushes
        try:
            target = self._find(site.target)
        except GuestFault as fault:
            self._inject(fault)
            return
        if self.cache.flushes == generation:
            (self.cache.link if block.alive else self.cache.redirect)(block, site, target)
        self._phys.state.q[hw.Q_EIP] = target.entry

    def _indirect(self, site: Site, block: Block) -> None:
        """A RET or indirect branch that neither prediction nor lookup knew: teach them."""
        self.stats.exits["indirect"] += 1
        q, scratch = self._phys.state.q, self._scratch
        q[Reg.ECX], q[Reg.EDX] = scratch[S0], scratch[S1]
        self._vcpu.eip = scratch[S2]
        if self._step is not None:
            self._finish_step()
            return
        generation = self.cache.flushes
        try:
            target = self._find(self._vcpu.eip)
        except GuestFault as fault:
            self._inject(fault)
            return
        if self.cache.flushes == generation:
            if len(site.targets) < len(site.links) and block.alive:
                self.cache.predict(block, site, target)
            target.space.remember(target.eip, target.entry)
        q[hw.Q_EIP] = target.entry

    def _callout(self, site: Site, block: Block) -> None:
        """An instruction for the VMM."""
        insn, vcpu = site.insn, self._vcpu
        name = name_of(insn)
        self.stats.callouts[name] += 1
        vcpu.eip = insn.next_eip & (MASK32 if insn.code32 else 0xFFFF)
        vcpu.interrupt_shadow = False
        vcpu.field_flags &= ~_RF
        task, observer = vcpu.tr, self.observer
        if observer is not None:
            observer.before_callout(insn)
        try:
            callouts.HANDLERS.get(name, callouts.undefined)(vcpu, insn, self._board)
        except GuestFault as fault:
            if vcpu.tr is task:  # after a task switch the fault is the new task's
                vcpu.eip = insn.eip
            self._inject(fault)
            return
        if observer is not None:
            observer.after_callout(insn)
        if self._step is not None:
            self._step.trap = self._step.trap and not _hides_trap(name, vcpu)
            self._finish_step()
        elif name in callouts.QUIET:
            self._carry_on(name, block)
        elif name in callouts.SEGMENT_LOADS and (seg := callouts.data_segment_loaded(insn)) is not None:
            physical.load_data_segment(vcpu, seg)
            self._carry_on(name, block)
        else:
            self._resume()

    def _carry_on(self, name: str, block: Block) -> None:
        """After a callout that changed nothing but registers: the code behind it follows in the same block."""
        if (
            name in ENDS_BLOCK
            or not block.alive
            or self._leave is not None
            or self._vcpu.stale_translations
            or (self._vcpu.page[_PENDING] and self._vcpu.interrupts_enabled)
        ):
            self._resume()

    def _finish(self, site: Site, block: Block) -> None:
        """STI or POPF found that an interrupt waits, or POPF that TF or another rare flag changes."""
        insn, vcpu = site.insn, self._vcpu
        self.stats.exits["finish"] += 1
        vcpu.eip = insn.next_eip & (MASK32 if insn.code32 else 0xFFFF)
        callouts.finish_inline(vcpu, insn, self._scratch[S2])
        if self._step is not None:
            self._finish_step()
        else:
            self._resume()

    def _stale(self, site: Site, block: Block) -> None:
        """A self-checking block's source has changed."""
        self.stats.exits["stale"] += 1
        self.cache.retire(block)
        self._vcpu.eip = block.eip
        self._resume()

    def _step_end(self, site: Site, block: Block) -> None:
        self._vcpu.eip = site.insn.next_eip & (MASK32 if site.insn.code32 else 0xFFFF)
        self._finish_step()

    def _trace(self, site: Site, block: Block) -> None:
        if self.observer is not None:
            self.observer.probe(site, block)

    # --- faults ----------------------------------------------------------------------------------------

    def _fault(self, vector: int, address: int) -> None:
        """A hardware exception in cached code: the shadow's business, or the guest's."""
        block = self.cache.block_at(address)
        state = self._phys.state
        code = state.d[hw.D_ERROR_CODE]
        if block is None:
            raise Unmodelled(f"exception {vector} outside the cache, at {address:#x}")
        if vector == Vector.PF:
            self._page_fault(state.q[hw.Q_CR + 2] & MASK32, code, block, address)
            return
        self._rewind(block, address)
        self._inject(GuestFault(vector, code & 0xFFFF if vector in HAS_ERROR_CODE else None))

    def _rewind(self, block: Block, address: int) -> None:
        """Look as if the guest instruction had not begun: registers out of scratch words, the guest's EIP."""
        mark = block.mark_at(address)
        q, scratch = self._phys.state.q, self._scratch
        for reg, word in mark.restore:
            q[reg] = scratch[word]
        self._vcpu.eip = mark.eip

    def _page_fault(self, la: int, code: int, block: Block, address: int) -> None:
        if code & _FAULT_I:
            raise Unmodelled(f"fetch outside the cache, at {la:#x}")
        if self._hole.contains(la):
            self._rewind(block, address)
            self._move_hole(la)
            self._resume()
            return
        write = bool(code & _FAULT_W)
        try:
            result = self.shadow.fill(la, write, self._vcpu.cpl == 3)
        except GuestFault as fault:
            self._rewind(block, address)
            self._inject(fault)
            return
        self.stats.exits["shadow fill" if result is Fill.MAPPED else result.name.lower()] += 1
        if result is Fill.WATCHED:
            self._store_to_code(la, block, address)
        elif result is Fill.DEVICE:
            if self._step is None:
                self._rewind(block, address)
                self._begin_step([self._map_device(la, write, [])])
            else:
                self._widen_step(self._step, la, write)

    def _store_to_code(self, la: int, block: Block, address: int) -> None:
        """The guest writes a page that was translated. A store into its own page runs alone, and then all is new."""
        page = self._mmu.translate(la, True, self._vcpu.cpl == 3) >> PAGE_SHIFT
        self._watched_write(page)
        if not block.alive:
            self._rewind(block, address)
            self._begin_step([])

    def _watched_write(self, page: int) -> None:
        """A page is about to change, by the guest or by the VMM."""
        self._memory.watched.discard(page)
        if not self.cache.drop_page(page):
            return
        count = self._rewrites.get(page, 0) + 1
        self._rewrites[page] = count
        if count >= SELF_CHECK_AFTER:
            self.self_checked.add(page)

    # --- steps -----------------------------------------------------------------------------------------

    def _map_device(self, la: int, write: bool, pages: list[_DevicePage]) -> _DevicePage:
        """Put a frame of ours under an access that no RAM answers, holding what a read would give."""
        gpa = self._mmu.translate(la, write, self._vcpu.cpl == 3)
        region = self._memory.region_at(gpa >> PAGE_SHIFT)
        page = _DevicePage(la, self._spare_frames[len(pages) % _OPERANDS_MAX])
        frame = self._physical.window(page.frame, PAGE_SIZE)
        if region is None or region.host is not None:
            frame[:] = self._memory.read(gpa & ~PAGE_MASK, PAGE_SIZE)
        else:
            page.region, page.gpa, page.written = region, gpa, write
            page.width = min(self._operand_width(), PAGE_SIZE - (la & PAGE_MASK))
            if not write:
                at = la & PAGE_MASK
                frame[at : at + page.width] = self._memory.read(gpa, page.width)
        self.shadow.map_once(la, page.frame, write or page.region is None)
        self._phys.flush_tlb()
        return page

    def _widen_step(self, step: _Step, la: int, write: bool) -> None:
        """The instruction of a step has another operand outside RAM, or writes what it has read."""
        for page in step.pages:
            if page.la & ~PAGE_MASK == la & ~PAGE_MASK:
                page.written = True
                self.shadow.map_once(la, page.frame, True)
                self._phys.flush_tlb()
                return
        step.pages.append(self._map_device(la, write, step.pages))

    def _operand_width(self) -> int:
        """Bytes that the instruction at `vcpu.eip` moves to or from memory."""
        la = self._vcpu.base(Seg.CS) + self._vcpu.eip & MASK32
        source = self._mmu.read_bytes(la, MAX_LENGTH, self._vcpu.cpl == 3)
        return self._translator.memory_width(source, self._vcpu.eip, self._space.context.code32)

    def _begin_step(self, pages: list[_DevicePage], trap: bool = False) -> None:
        """Run the one instruction at `vcpu.eip`; `pages` are unmapped behind it.

        A string instruction that meets a device, or is traced, runs one iteration at a time, without its REP prefix.
        """
        try:
            self._enter_step(pages, trap)
        except GuestFault as fault:
            self._unmap(pages)
            self._inject(fault)

    def _enter_step(self, pages: list[_DevicePage], trap: bool) -> None:
        """`_begin_step`, raising the GuestFault of the fetch."""
        self._synchronise()
        one_iteration = trap or any(page.region is not None for page in pages)
        block, repeated = self._step_block(one_iteration)
        self._step = _Step(pages, trap, repeated)
        self._phys.state.q[hw.Q_EIP] = block.entry

    def _step_block(self, one_iteration: bool) -> tuple[Block, Insn | None]:
        block = self._translate(self._vcpu.eip, step=True)
        insn = block.translation.insns[0]
        if not one_iteration or not repeats(insn) or not self._vcpu.reg(Reg.ECX, insn.address_size):
            return block, None
        source = bytes(byte for byte in insn.prefixes if byte not in _REPEATS) + insn.raw[len(insn.prefixes) :]
        options = self._block_options(step=True, self_check=False)
        return self._place(insn.eip, source, block.pages, options), insn

    def _finish_step(self) -> None:
        """The instruction of a step is done: let devices have what was written, then traps and interrupts."""
        step, self._step = self._step, None
        if step is None:
            raise Unmodelled("the end of a step that never began")
        self._unmap(step.pages)
        for page in step.pages:
            if page.region is not None and page.written:
                at = page.frame + (page.la & PAGE_MASK)
                self._memory.write(page.gpa, bytes(self._physical.view[at : at + page.width]))
        if step.repeated is not None:
            self._count_iteration(step.repeated)
        if step.trap:
            self._vcpu.dr[_DR6] |= _DR6_BS
            self._inject(GuestFault(Vector.DB), EventKind.TRAP)
        else:
            self._resume()

    def _count_iteration(self, insn: Insn) -> None:
        """REP by hand: count ECX down and go round, unless it is 0 or REPE, REPNE end it."""
        vcpu, size = self._vcpu, insn.address_size
        left = vcpu.reg(Reg.ECX, size) - 1
        vcpu.set_reg(Reg.ECX, size, left)
        compares = name_of(insn).startswith(("cmps", "scas"))
        matched = bool(vcpu.fold_flags() & _ZF) == (insn.repeat == _REPE)
        goes_on = left & ((1 << 8 * size) - 1) != 0 and (not compares or matched)
        vcpu.eip = insn.eip if goes_on else insn.next_eip & (MASK32 if insn.code32 else 0xFFFF)

    def _unmap(self, pages: list[_DevicePage]) -> None:
        for page in pages:
            self.shadow.unmap(page.la)
        if pages:
            self._phys.flush_tlb()

    # --- back to the guest -----------------------------------------------------------------------------

    def _inject(self, fault: GuestFault, kind: EventKind = EventKind.FAULT) -> None:
        """Deliver what the guest has earned, then go on."""
        self._deliver(fault, kind)
        self._resume()

    def _deliver(self, fault: GuestFault, kind: EventKind = EventKind.FAULT) -> None:
        """Deliver what the guest has earned; a triple fault is for the monitor."""
        if self._step is not None:
            self._unmap(self._step.pages)
            self._step = None
        self.stats.exceptions[fault.vector] += 1
        if self.observer is not None:
            self.observer.event("exception", fault.vector, fault.error_code)
        try:
            events.raise_fault(self._vcpu, fault, kind=kind)
        except TripleFault:
            self._shut_down(fault)

    def _resume(self) -> None:
        """Go on at `vcpu.eip`, or leave: interrupts, shadows and single steps first.

        A guest whose handlers fault before their first instruction makes events without end: it is preempted between
        them.
        """
        for _ in range(_EVENTS_IN_A_ROW):
            if self._leave is not None:
                return
            try:
                self._advance()
                return
            except GuestFault as fault:
                self._deliver(fault, EventKind.TRAP if fault.vector == Vector.DB else EventKind.FAULT)
        self._leave = self._leave or Leave.PREEMPTED

    def _advance(self) -> None:
        """Enter the block or step at `vcpu.eip`, or find that it is time to leave. Raises: GuestFault: the event."""
        vcpu = self._vcpu
        if vcpu.halted and not (vcpu.page[_PENDING] and vcpu.interrupts_enabled):
            self._leave = Leave.HALTED
            return
        if vcpu.pending_debug:
            vcpu.dr[_DR6] |= vcpu.pending_debug
            vcpu.pending_debug = 0
            raise GuestFault(Vector.DB)
        if vcpu.interrupt_shadow:
            vcpu.interrupt_shadow = False
            vcpu.field_flags &= ~_RF
            self._enter_step([], bool(vcpu.field_flags & _TF))
            return
        if vcpu.page[_PENDING] and vcpu.interrupts_enabled:
            self._take_interrupt()
            if self._leave is not None:
                return
        vcpu.field_flags &= ~_RF  # it lives for one instruction, and a fault of that sets it anyway
        if vcpu.field_flags & _TF:
            self._enter_step([], trap=True)
            return
        self._synchronise()
        self._phys.state.q[hw.Q_EIP] = self._find(vcpu.eip).entry

    def _take_interrupt(self) -> None:
        vector = self._board.acknowledge_interrupt()
        self.stats.interrupts[vector] += 1
        if self.observer is not None:
            self.observer.event("irq", vector, None)
        try:
            events.deliver(self._vcpu, vector, kind=EventKind.EXTERNAL)
        except GuestFault as fault:
            try:
                events.raise_fault(self._vcpu, fault)
            except TripleFault:
                self._shut_down(fault)

    def _shut_down(self, first: GuestFault) -> None:
        self._leave = Leave.SHUTDOWN
        self.shutdown_detail = f"began with {first} at {self._describe()[0]}"

    def _synchronise(self) -> None:
        """Bring the physical CPU and the current block space into step with the virtual CPU."""
        vcpu = self._vcpu
        if vcpu.stale_translations:
            self._empty()
        self._select_space()
        control = (self._space, vcpu.cr0, vcpu.cr4, self._switch_root())
        if control == self._in_force:
            physical.refresh_segments(vcpu)
        else:
            physical.materialise(vcpu, control[3])
            self._in_force = control

    def _switch_root(self) -> int:
        root = self.shadow.root(self._vcpu.is_real)
        if root != self._phys.state.q[hw.Q_CR + 3]:
            self._phys.flush_tlb()
        return root

    def _select_space(self) -> None:
        vcpu = self._vcpu
        mode = Mode.REAL if vcpu.is_real else Mode.V86 if vcpu.is_v86 else Mode.PROTECTED
        flags = vcpu.segment_flags
        code32, stack32 = bool(flags[Seg.CS] & DESC_B), bool(flags[Seg.SS] & DESC_B)
        iopl3 = vcpu.cpl > 0 and vcpu.iopl == 3
        key = (vcpu.base(Seg.CS), mode | vcpu.cpl << 2 | code32 << 4 | stack32 << 5 | iopl3 << 6)
        space = self._spaces.get(key)
        if space is None:
            context = Context(mode, vcpu.cpl, code32, stack32, iopl3)
            try:
                space = self.cache.space(key[0], context)
            except CacheFull:
                self._clear_cache()
                space = self.cache.space(key[0], context)
            self._spaces[key] = space
        self._space = space
        if self.observer is not None:
            self.observer.mode(_mode_name(space.context))
        self._scratch = self._scratch_words(space.context)

    def _scratch_words(self, context: Context) -> memoryview:
        words = self._scratch_user if context.is_user else self._scratch_kernel
        return words[Slot.SCRATCH >> 2 :]

    # --- blocks ----------------------------------------------------------------------------------------

    def _find(self, eip: int) -> Block:
        """The block for a guest EIP in the current space. Raises: GuestFault of the fetch."""
        block = self._space.blocks.get(eip)
        return block if block is not None else self._translate(eip)

    def _translate(self, eip: int, step: bool = False) -> Block:
        started = perf_counter()
        source, pages = self._fetch(eip)
        self_check = not step and bool(self.self_checked) and pages[0] in self.self_checked
        limit = 1 if len(pages) > 1 else None
        block = self._place(eip, source, pages, self._block_options(step, self_check, limit))
        if not step and not self_check:
            self._watch(pages)
        self._count(block, perf_counter() - started)
        return block

    def _fetch(self, eip: int) -> tuple[bytes, tuple[int, ...]]:
        """The code at `eip` up to the end of its page or segment, and the page numbers it comes from.

        Two pages only where the first instruction goes on in the second one. Raises: GuestFault: #PF; #GP(0) for an
        instruction that is not inside the segment limit.
        """
        room = self._vcpu.segment(Seg.CS).limit - eip + 1
        if room <= 0:
            raise gp()
        la = self._space.cs_base + eip & MASK32
        gpa = self._mmu.translate(la, False, self._vcpu.cpl == 3)
        source = self._memory.read(gpa, min(PAGE_SIZE - (gpa & PAGE_MASK), room))
        if len(source) >= MAX_LENGTH or not self._is_cut_off(source, eip):
            return source, (gpa >> PAGE_SHIFT,)
        pages: tuple[int, ...] = (gpa >> PAGE_SHIFT,)
        if len(source) < room:
            second = self._mmu.translate(la + len(source) & MASK32, False, self._vcpu.cpl == 3)
            source += self._memory.read(second, min(MAX_LENGTH, room) - len(source))
            pages += (second >> PAGE_SHIFT,)
        if len(source) < MAX_LENGTH and self._is_cut_off(source, eip):
            raise gp()
        return source, pages

    def _is_cut_off(self, source: bytes, eip: int) -> bool:
        """Does the instruction at the end of a page or segment go on behind it?"""
        return self._translator.decode_one(source, eip, self._space.context.code32) is None

    def _place(self, eip: int, source: bytes, pages: tuple[int, ...], options: Options) -> Block:
        space = self._space
        if options.step or options.self_check:
            known = space.find_version(eip, source, options.step)
            if known is not None:
                return known
        made = self._translator.translate(source, eip, space.context, self._window(space, options.step), options)
        try:
            block = self.cache.place(space, made, pages, options.self_check)
        except CacheFull:
            self._clear_cache()
            self._select_space()
            return self._place(eip, source, pages, options)
        if options.step or options.self_check:
            space.add_version(block, source[: made.source_size], options.step)
        if not options.step:
            self.cache.publish(block)
        return block

    def _block_options(self, step: bool, self_check: bool, limit: int | None = None) -> Options:
        base = self._options
        if not step and not self_check and limit is None:
            return base
        return Options(
            1 if step else limit or base.limit, step, self_check, base.inline,
            base.probe_critical,
        )  # fmt: skip

    def _watch(self, pages: tuple[int, ...]) -> None:
        for page in pages:
            region = self._memory.region_at(page)
            if page not in self._memory.watched and region is not None and not region.read_only:
                self._memory.watched.add(page)
                self.shadow.protect(page)
                self._phys.flush_tlb()

    def _window(self, space: BlockSpace, step: bool) -> Window:
        hole = self._hole
        lookup = self.cache.empty_table(space.context) if step else space.lookup  # a step finds no other block
        if space.context.is_user:
            return Window(hole.linear("user_view"), hole.linear("user_scratch"), lookup, space.cs_base)
        page = hole.linear("vcpu_page")
        return Window(page, page, lookup, space.cs_base)

    def _count(self, block: Block, seconds: float) -> None:
        stats = self.stats
        stats.blocks += 1
        stats.instructions += len(block.translation.insns)
        stats.translate_seconds += seconds
        if self.observer is not None:
            self.observer.block(block)
        for insn, _, _ in block.translation.rewritten:
            name = name_of(insn)
            if name in INLINE:
                stats.inline_sites[name] += 1
        for site in block.translation.sites:
            if site.kind is SiteKind.CALLOUT:
                stats.callout_sites[name_of(site.insn)] += 1

    # --- emptying --------------------------------------------------------------------------------------

    def _forget_code(self, start: int, end: int) -> None:
        self._phys.forget_code(start, end)

    def _empty(self) -> None:
        """The guest's translations are stale: forget everything that was made from them."""
        self._vcpu.stale_translations = False
        self.shadow.drop_all()
        self._clear_cache()
        self._phys.flush_tlb()

    def _clear_cache(self) -> None:
        self.cache.clear()
        self._spaces.clear()
        self._memory.watched.clear()
        self._phys.forget_all_code()

    def _map_changed(self) -> None:
        self._vcpu.stale_translations = True

    def _place_hole(self) -> None:
        hole = self._hole
        self.cache.kernel.base = hole.linear("kernel_cache")
        self.cache.user.base = hole.linear("user_cache")
        self.cache.lookup_base = hole.linear("lookup")

    def _move_hole(self, la: int) -> None:
        """The guest uses the hole's window for itself: take another one."""
        self.stats.exits["hole moved"] += 1
        self._hole.base = next(base for base in _HOLE_CANDIDATES if not base <= la < base + HOLE_SIZE)
        self.shadow.rebuild_roots()
        self._place_hole()
        physical.load_fixed(self._vcpu, self._hole)
        self._empty()

    # --- reporting -------------------------------------------------------------------------------------

    def audit(self, address: int) -> None:
        """Check at a block's start: EIP in the cache, CPL not 0. For `PhysicalCpu.audit_blocks`."""
        if not self.cache.contains(address):
            raise Unmodelled(f"audit: a block runs outside the cache, at {address:#x}")
        if self._phys.current_cpl() == 0:
            raise Unmodelled(f"audit: a block runs at CPL 0, at {address:#x}")

    def _describe(self) -> tuple[str, ...]:
        vcpu = self._vcpu
        return (f"CS:EIP {vcpu.selector(Seg.CS):04x}:{vcpu.eip:08x}",)

    def _observe_exit(self, observer: Observer, vector: int, address: int) -> None:
        if vector == CALLOUT_VECTOR:
            site, _ = self.cache.sites[address]
            if site.kind is not SiteKind.TRACE:
                values = {"target": site.target} if site.kind is SiteKind.LINK else {}
                observer.exit(site.kind.name.lower(), site.insn.eip, site.insn, values)
            return
        block = self.cache.block_at(address)
        eip = block.mark_at(address).eip if block is not None else 0
        values = {"vector": vector}
        if vector == Vector.PF:
            values |= {
                "cr2": self._phys.state.q[hw.Q_CR + 2] & MASK32,
                "error_code": self._phys.state.d[hw.D_ERROR_CODE],
            }
        observer.exit("fault", eip, None, values)


def _hides_trap(name: str, vcpu: Vcpu) -> bool:
    """Does an instruction that ran under TF end without the single-step trap?

    INT n that entered its handler has cleared TF; a load of SS holds the trap until the next instruction is done
    (SDM Vol. 3B, "Single-Step Exception Condition"; Vol. 2B, "MOV - Move"). STI's shadow holds back interrupts alone.
    """
    return (name.startswith("int") and not vcpu.field_flags & _TF) or (vcpu.interrupt_shadow and name != "sti")


def _mode_name(context: Context) -> str:
    """A mode as people say it."""
    width = 32 if context.code32 else 16
    return {Mode.REAL: "real", Mode.V86: "V86"}.get(context.mode, f"protected {width}-bit, CPL {context.cpl}")
