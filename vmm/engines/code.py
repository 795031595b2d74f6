"""The translated code of one VM: from a guest EIP to a block, and what makes blocks go away again.

Blocks are made from guest bytes that the guest's translations show, page by page: a code page (see `bt.cache`). It runs
while both are as they were. Its frames are write-protected; a store to one switches it off, and its bytes are compared
before it runs again. So is it switched off when its translation goes, until a walk of the guest's tables has found it
again; each address space has its own code pages that are on (see `vmm.cpu.spaces`). A frame that keeps being rewritten
is left writable, and its blocks check their own source.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Final

from bt.cache import Arena, Block, BlockSpace, CodeCache, CodePage, Entrance
from bt.decode import MAX_LENGTH, Insn
from bt.emit import Site, SiteKind
from bt.guest import Context, Mode, Window
from bt.looks import ALIGNMENT, DATA
from bt.lookup import BranchTable, CacheFull, LookupArea
from bt.segment_checks import guard_image
from bt.segment_classes import ALL_FLAT, LIMIT_64K, Classes, classify_all
from bt.tables import INLINE
from bt.translate import BlockTranslator, Options
from vmm.arch.exceptions import gp
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Slot
from vmm.arch.registers import Cr0, Eflags, Seg
from vmm.cpu.breakpoints import watches_data
from vmm.cpu.hole import DEFAULT_HOLE, KERNEL_CACHE_SIZE, LOOKUP_SIZE, USER_CACHE_SIZE
from vmm.cpu.shadow import ShadowTables
from vmm.cpu.vcpu import DESC_B, STALE_ALL, STALE_PAGE
from vmm.engines import physical
from vmm.engines.machine import Machine
from vmm.engines.observer import Observer, mode_name
from vmm.engines.stats import EngineStats
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu

_STRAYS_MAX: Final = 16
SELF_CHECK_AFTER: Final = 200
"""So many times may a page be written after it was translated; then its blocks check themselves."""
_SOURCE_MAX: Final = 1024
"""Bytes that the translator is shown at once; a block has far fewer."""
_BREAKPOINT_ENABLES: Final = 0xFF
_REAL, _V86, _PROTECTED = (int(mode) for mode in Mode)
_CS: Final = int(Seg.CS)
_SS: Final = int(Seg.SS)
_USER_RING: Final = 3
_SHORTAGE: Final = Slot.SHORTAGE >> 2
_LIMIT: Final = Slot.LIMIT >> 2
_FLAGS: Final = Slot.FLAGS >> 2
_AM: Final = int(Cr0.AM)
_AC: Final = int(Eflags.AC)


class TranslatedCode:
    """Blocks, their cache, and the shadow tables under them. `space` is the block space that runs now.

    `scratch` are the scratch words of the current privilege class, `self_checked` the pages whose blocks check
    themselves.
    """

    def __init__(self, machine: Machine, phys: PhysicalCpu, options: Options) -> None:
        self._phys, self._vcpu, self._mmu = phys, machine.vcpu, machine.mmu
        self._memory, self._hole = machine.memory, machine.hole
        self._options = options
        self._translator = BlockTranslator()
        self.shadow = ShadowTables(machine.physical, machine.memory, machine.mmu, machine.hole)
        parts, view = machine.hole.parts, machine.physical
        self.cache = CodeCache(
            Arena(view.window(parts["kernel_cache"].host, KERNEL_CACHE_SIZE), 0),
            Arena(view.window(parts["user_cache"].host, USER_CACHE_SIZE), 0),
            LookupArea(view.window(parts["lookup"].host, LOOKUP_SIZE), 0), phys.forget_code, self.shadow.space.code,
        )  # fmt: skip
        image = guard_image()
        view.window(parts["guard"].host, len(image))[:] = image
        self._scratch_kernel = view.window(parts["vcpu_page"].host, PAGE_SIZE).cast("I")[Slot.SCRATCH >> 2 :]
        self._scratch_user = view.window(parts["user_scratch"].host, PAGE_SIZE).cast("I")[Slot.SCRATCH >> 2 :]
        self._spaces: dict[tuple[object, ...], BlockSpace] = {}
        self._rewrites: dict[int, int] = {}
        self.self_checked: set[int] = set()
        self.space = BlockSpace(0, Context(Mode.REAL, 0, False, False), BranchTable(self.cache.lookup, 0, False))
        self.scratch: memoryview
        self.stats = EngineStats()
        self.before_clearing: list[Callable[[], None]] = []
        self.observer: Observer | None = None
        self._place_hole()
        self._memory.on_watched_write = self.watched_write
        self._memory.on_map_change = self._map_changed

    # --- spaces ----------------------------------------------------------------------------------------

    def select_space(self) -> None:
        """Go to the block space of the registers."""
        vcpu, cpl = self._vcpu, self._vcpu.cpl
        mode = _REAL if vcpu.is_real else _V86 if vcpu.is_v86 else _PROTECTED
        flags = tuple(vcpu.segment_flags)
        bits = (4 if flags[_CS] & DESC_B else 0) | (8 if flags[_SS] & DESC_B else 0)
        if cpl and vcpu.iopl == _USER_RING:
            bits |= 16
        odd_bases = physical.has_odd_base(vcpu)
        if odd_bases:
            bits |= 256
        looks = self._looks()
        bits |= looks << 9
        stops = tuple(la for la, _ in vcpu.execution_breakpoints) if vcpu.dr[7] & _BREAKPOINT_ENABLES else ()
        segments, code_limit = ALL_FLAT, MASK32
        if self._options.segment_checks:
            segments, code_limit = self._classes(flags, mode), vcpu.limit(_CS)
        key = (vcpu.base(_CS), mode | bits | cpl << 5, stops, segments, code_limit)
        space = self._spaces.get(key)
        if space is None:
            context = Context(
                Mode(mode), cpl, bool(bits & 4), bool(bits & 8), bool(bits & 16), stops, segments, code_limit,
                odd_bases, looks,
            )  # fmt: skip
            try:
                space = self.cache.space(key[0], context)
            except CacheFull:
                self._clear_cache()
                space = self.cache.space(key[0], context)
            self._spaces[key] = space
        self.space = space
        if self.observer is not None:
            self.observer.mode(mode_name(vcpu))
        self.scratch = self._scratch_user if cpl == _USER_RING else self._scratch_kernel

    def _looks(self) -> int:
        """Why the VMM looks at each access to memory."""
        vcpu = self._vcpu
        is_checked = vcpu.cpl == _USER_RING and vcpu.cr0 & _AM and vcpu.page[_FLAGS] & _AC
        return (ALIGNMENT if is_checked else 0) | (DATA if watches_data(vcpu) else 0)

    def _classes(self, flags: tuple[int, ...], mode: int) -> Classes:
        """The classes of the segment registers; what checks read of their limits goes into the vCPU page."""
        vcpu = self._vcpu
        limits = vcpu.limits
        is_flat_kernel = mode == _PROTECTED and vcpu.cpl == 0 and bool(flags[_CS] & flags[_SS] & DESC_B)
        found = classify_all(limits, flags, mode == _REAL, is_flat_kernel)
        if found.needs_limits:
            for seg, limit in enumerate(limits):
                vcpu.page[_SHORTAGE + seg], vcpu.page[_LIMIT + seg] = max(LIMIT_64K - limit, 0), limit
        return found.classes

    def fits_segments(self) -> bool:
        """Are the segment registers still of the classes that the current space is for?"""
        context = self.space.context
        flags = tuple(self._vcpu.segment_flags)
        if self._options.segment_checks and context.segments != self._classes(flags, context.mode):
            return False
        return physical.has_odd_base(self._vcpu) == context.odd_bases

    def _window(self, space: BlockSpace, step: bool) -> Window:
        hole = self._hole
        nowhere = self.cache.lookup.nowhere
        lookup = nowhere if step else space.table.root
        guard = hole.linear("guard")
        if space.context.is_user:
            view, scratch = hole.linear("user_view"), hole.linear("user_scratch")
            return Window(view, scratch, lookup, nowhere, space.cs_base, guard=guard)
        page = hole.linear("vcpu_page")
        shadowed, gdt_sources = hole.linear("shadowed"), hole.linear("gdt_sources")
        return Window(page, page, lookup, nowhere, space.cs_base, shadowed, gdt_sources, guard)

    # --- blocks -------------------------------------------------------------------------------------

    def find(self, eip: int) -> Entrance:
        """Where to enter for a guest EIP in the current space. Raises: GuestFault of the fetch."""
        found = self.cache.view.find(self.space, eip)
        return found if found is not None else self._make(eip)

    def _make(self, eip: int) -> Entrance:
        """Switch the code page of an EIP on, and translate if it has no block there. Raises: GuestFault."""
        page, source = self._fetch(eip)
        found = page.find(eip)
        if found is not None:
            return found
        if page.self_check and page.find_version(eip, source) is not None:
            return page.entrances[eip]
        try:
            return self._add(page, eip, source)
        except CacheFull:
            self._clear_cache()
            self.select_space()
            return self._make(eip)

    def _add(self, page: CodePage, eip: int, source: bytes) -> Entrance:
        """Translate the block at an EIP of a page. Raises: CacheFull."""
        started = perf_counter()
        limit = 1 if len(page.frames) > 1 or self._has_breakpoint(page) else self._options.limit
        block = self._place(page, eip, source, self.options_for(limit, page.self_check))
        if page.self_check:
            page.add_version(block)
        entrance = self.cache.publish(block)
        self._count(block, perf_counter() - started)
        return entrance

    def _has_breakpoint(self, page: CodePage) -> bool:
        """Then its blocks are of one instruction, so that none runs past the breakpoint."""
        stops = page.space.context.breakpoints
        return bool(stops) and any(la >> PAGE_SHIFT == page.number for la in stops)

    def remember(self, target: Entrance) -> Entrance:
        """Let cached code branch to an entrance of the current space by itself: that one, or what it now is."""
        try:
            self.space.table.remember(target.eip, target.entry)
            return target
        except CacheFull:
            self._clear_cache()
            self.select_space()
            return self._make(target.eip)

    def link(self, block: Block, site: Site, target: Entrance) -> None:
        """Let a branch go by itself to where it leads; from page to page not straight, if several take turns there."""
        landing: Entrance | Block = target
        there = target.block.page
        if there is not block.page or not block.alive:
            if there.space.is_contested(there.number):
                try:
                    landing = self._dispatcher(target.eip)
                except CacheFull:
                    return
            else:
                there.is_linked = True
        (self.cache.link if block.alive else self.cache.redirect)(block, site, landing)

    def supersede(self, old: Block, new: Entrance) -> None:
        """Let who comes to a self-checking block whose source has changed go on in a newer one by himself.

        Only newer ones follow older ones, so that this ends. Each new version is tied to those 1, 2, 4, 8.. before it:
        from any of them it is a few steps to the latest.
        """
        page = old.page
        if new.block.page is not page or new.address <= old.address:
            return
        self._follow(old, new)
        versions = page.versions.get(new.eip, [])
        if versions and versions[-1][1] is new.block:
            distance = 2
            while distance < len(versions):
                self._follow(versions[-1 - distance][1], new)
                distance *= 2

    def _follow(self, old: Block, new: Entrance) -> None:
        if old.alive:
            site = next(site for site in old.translation.sites if site.kind is SiteKind.STALE)
            self.cache.link(old, site, new)

    def _dispatcher(self, eip: int) -> Block:
        """Code of the current space that goes to an EIP through the branch table. Raises: CacheFull."""
        space = self.space
        found = space.dispatchers.get(eip)
        if found is None:
            made = self._translator.dispatcher(eip, space.context, self._window(space, False))
            found = space.dispatchers[eip] = self.cache.place(space.steps, made)
        return found

    def strayed(self, block: Block, target: Entrance) -> Entrance:
        """Code came to a block that is off, and `target` is what now is at its EIP: where to enter.

        The branch table learns of it. A direct branch does not: it may be right in another address space. But if that
        goes on, the guest has moved the page to another frame, or several pages take turns: then the block gives way to
        a tombstone, which leads on.
        """
        page = block.page
        page.strays += 1
        if page.is_linked and page.strays >= _STRAYS_MAX and page is not target.block.page:
            page.space.replaced[page.number] = page.space.replaced.get(page.number, 0) + 1
            self.cache.abandon(page)
            self._phys.flush_tlb()
        return self.remember(target)

    def step(self, eip: int, source: bytes | None = None) -> Block:
        """A block of one instruction at an EIP, made from `source` if that is given. Raises: GuestFault."""
        if source is None:
            source = self._fetch(eip)[1]
        if not self.cache.is_on(self.space.steps):
            self.cache.view.switch_on(self.space.steps)
        block = self.space.steps.find_version(eip, source)
        if block is not None:
            return block
        started = perf_counter()
        try:
            block = self._place(self.space.steps, eip, source, self.options_for(1, False, step=True))
        except CacheFull:
            self._clear_cache()
            self.select_space()
            return self.step(eip, source)
        self.space.steps.add_version(block)
        self._count(block, perf_counter() - started)
        return block

    def _place(self, page: CodePage, eip: int, source: bytes, options: Options) -> Block:
        made = self._translator.translate(
            source, eip, self.space.context, self._window(self.space, options.step), options
        )
        return self.cache.place(page, made)

    def _fetch(self, eip: int) -> tuple[CodePage, bytes]:
        """The code page of an EIP, switched on, and the code from there to the end of its page or segment.

        Raises: GuestFault: #PF; #GP(0) for an instruction that is not inside the segment limit.
        """
        room = self._vcpu.limit(_CS) - eip + 1
        if room <= 0:
            raise gp()
        la = self.space.cs_base + eip & MASK32
        page = self.cache.view.pages.get((self.space, la >> PAGE_SHIFT))
        if page is None:
            page = self._switched_on(la >> PAGE_SHIFT, (self._walk(la) >> PAGE_SHIFT,))
        gpa = page.frames[0] << PAGE_SHIFT | la & PAGE_MASK
        source = self._memory.read(gpa, min(PAGE_SIZE - (la & PAGE_MASK), room, _SOURCE_MAX))
        if self._is_enough(source):
            return page, source
        if len(source) < room:
            return self._fetch_crossing(la, page, source, room)
        raise gp()

    def _fetch_crossing(self, la: int, page: CodePage, source: bytes, room: int) -> tuple[CodePage, bytes]:
        """An instruction that goes on in the next page. Raises: GuestFault: #PF; #GP(0) at the end of the segment."""
        second = self._walk(la + len(source) & MASK32)
        source += self._memory.read(second, min(MAX_LENGTH, room) - len(source))
        if not self._is_enough(source):
            raise gp()
        frames = (page.frames[0], second >> PAGE_SHIFT)
        return self._switched_on(la >> PAGE_SHIFT, frames), source

    def _walk(self, la: int) -> int:
        """The guest-physical address of code at a linear address. Raises: GuestFault #PF."""
        if not self._mmu.is_paging:
            return self._mmu.translate(la, False, False)
        trace = self._mmu.trace(la, False, self._vcpu.cpl == 3, True)
        self.shadow.note(la, trace)
        return trace[0]

    def _is_enough(self, source: bytes) -> bool:
        """Is the first instruction all there?"""
        return len(source) >= MAX_LENGTH or self._translator.is_whole(source, self.space.context.code32)

    def _switched_on(self, number: int, frames: tuple[int, ...]) -> CodePage:
        self_check = self._options.self_check or (bool(self.self_checked) and not self.self_checked.isdisjoint(frames))
        page = self.cache.page(self.space, number, frames, self_check)
        if not self.cache.is_on(page):
            if not page.is_trusted:
                self._verify(page)
            self.cache.view.switch_on(page)
        return page

    def _verify(self, page: CodePage) -> None:
        """Watch the frames of a page, and drop the blocks whose bytes have changed while nobody watched."""
        page.is_trusted = True
        self._watch(page.frames)
        if not page.blocks:
            return
        data = b"".join([self._memory.read(frame << PAGE_SHIFT, PAGE_SIZE) for frame in page.frames])
        for block in page.changed(data):
            self.cache.drop(block)

    def options_for(self, limit: int, self_check: bool, step: bool = False) -> Options:
        base = self._options
        if limit == base.limit and not self_check and not step:
            return base
        return replace(base, limit=limit, step=step, self_check=self_check)

    def _watch(self, pages: tuple[int, ...]) -> None:
        for page in pages:
            region = self._memory.region_at(page)
            if page not in self._memory.watched and region is not None and not region.read_only:
                self._memory.watched.add(page)
                self.shadow.protect(page)
                self._phys.flush_tlb()

    def _count(self, block: Block, seconds: float) -> None:
        stats = self.stats
        stats.blocks += 1
        stats.instructions += block.translation.count
        stats.translate_seconds += seconds
        if self.observer is not None:
            self.observer.block(block, self.insns(block))
        for change in block.translation.changes:
            insn = change[0]
            if isinstance(insn, Insn) and insn.name in INLINE:
                stats.inline_sites[insn.name] += 1
        for site in block.translation.sites:
            if site.kind is SiteKind.CALLOUT:
                stats.callout_sites[site.insn.name] += 1

    # --- going away ---------------------------------------------------------------------------------

    def watched_write(self, frame: int) -> None:
        """A frame is about to change, by the guest or by the VMM."""
        self._memory.watched.discard(frame)
        pages = [page for page in self.cache.by_frame.get(frame, ()) if not page.self_check]
        if not pages:
            return
        for page in pages:
            page.is_trusted = False
            self.cache.switch_off(page)
        count = self._rewrites.get(frame, 0) + 1
        self._rewrites[frame] = count
        if count >= SELF_CHECK_AFTER:
            self.self_checked.add(frame)
            for page in pages:
                self.cache.abandon(page)
        self._phys.flush_tlb()

    def refresh(self) -> None:
        """Forget what the guest has told its TLB to forget, and go to the address space of its registers."""
        vcpu, shadow = self._vcpu, self.shadow
        stale = vcpu.stale
        vcpu.stale = 0
        shadow.forget(stale, vcpu.stale_pages)
        vcpu.stale_pages.clear()
        if stale & ~STALE_PAGE:
            self.cache.view = shadow.space.code
            self._phys.state.q[hw.Q_CR + 3] = shadow.root(vcpu.is_real)
        self._phys.flush_tlb()

    def begin(self) -> None:
        """As if no guest had run: no page is known to be rewritten, the hole is in its first place."""
        self._rewrites.clear()
        self.self_checked.clear()
        if self._hole.base != DEFAULT_HOLE:
            self._hole.base = DEFAULT_HOLE
            self.shadow.rebuild_roots()
            self._place_hole()
        self.empty()

    def empty(self) -> None:
        """Forget everything that was made from the guest's memory and translations."""
        self._vcpu.make_stale(STALE_ALL)
        self.refresh()
        self._clear_cache()

    def _clear_cache(self) -> None:
        for forget in self.before_clearing:
            forget()
        self.cache.clear()
        self.shadow.forget_code()
        self._spaces.clear()
        self._memory.watched.clear()
        self._phys.forget_all_code()
        self._phys.flush_tlb()

    def _map_changed(self) -> None:
        """What the frames hold is unknown."""
        self._memory.watched.clear()
        for pages in self.cache.by_frame.values():
            for page in pages:
                page.is_trusted = page.self_check
        self._vcpu.make_stale(STALE_ALL)

    def _place_hole(self) -> None:
        hole = self._hole
        self.cache.kernel.base = hole.linear("kernel_cache")
        self.cache.user.base = hole.linear("user_cache")
        self.cache.lookup.base = hole.linear("lookup")

    def move_hole(self, la: int) -> None:
        """The guest uses the hole's window for itself: take another one."""
        self.stats.exits["hole moved"] += 1
        self._hole.move_from(la)
        self.shadow.rebuild_roots()
        self._place_hole()
        physical.load_fixed(self._vcpu, self._hole)
        self.empty()

    def insns(self, block: Block) -> list[Insn]:
        """The guest instructions of a block."""
        return self._translator.instructions(block.translation)

    def cs_bases(self) -> Iterator[int]:
        """Those of all block spaces, the current one's first."""
        yield self.space.cs_base
        yield from {space.cs_base for space in self._spaces.values()} - {self.space.cs_base}

    @property
    def arenas(self) -> tuple[tuple[int, int], ...]:
        """Where cached code may lie: (linear address, size) of each arena."""
        return tuple((arena.base, len(arena.view)) for arena in (self.cache.kernel, self.cache.user))

    def insn_at(self, block: Block, eip: int) -> Insn:
        """The instruction of a block at an EIP."""
        return self._translator.first(block.translation.insn_at(eip), eip, block.space.context.code32)

    def memory_width(self) -> int:
        """Bytes that the instruction at `vcpu.eip` moves to or from memory."""
        la = self._vcpu.base(Seg.CS) + self._vcpu.eip & MASK32
        source = self._mmu.read_bytes(la, MAX_LENGTH, self._vcpu.cpl == 3)
        return self._translator.memory_width(source, self._vcpu.eip, self.space.context.code32)
