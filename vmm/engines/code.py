"""The translated code of one VM: from a guest EIP to a block, and what makes blocks go away again.

Blocks are made from guest bytes, so the pages they come from are write-protected; a store to one drops its blocks. A
page that keeps being rewritten is left writable, and its blocks check their own source instead. When the guest
changes what translations were made from (CR0.PG, CR3, A20, the memory map), shadow and cache are emptied.
"""

from time import perf_counter
from typing import Final

from bt.cache import Arena, Block, BlockSpace, CacheFull, CodeCache
from bt.decode import MAX_LENGTH
from bt.emit import SiteKind
from bt.guest import Context, Mode, Window
from bt.translate import INLINE, BlockTranslator, Options, name_of
from vmm.arch.exceptions import gp
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Slot
from vmm.arch.registers import Seg
from vmm.cpu.hole import HOLE_SIZE, KERNEL_CACHE_SIZE, LOOKUP_SIZE, USER_CACHE_SIZE
from vmm.cpu.shadow import ShadowTables
from vmm.cpu.vcpu import DESC_B
from vmm.engines import physical
from vmm.engines.machine import TranslatedMachine
from vmm.engines.observer import Observer
from vmm.engines.stats import EngineStats
from vmm.hw.cpu import PhysicalCpu

SELF_CHECK_AFTER: Final = 3
"""So many times may a page be written after it was translated; then its blocks check themselves."""
_HOLE_CANDIDATES: Final = tuple(range(0xF400_0000, 0x8000_0000, -HOLE_SIZE))


class TranslatedCode:
    """Blocks, their cache, and the shadow tables under them. `space` is the block space that runs now.

    `scratch` are the scratch words of the current privilege class, `self_checked` the pages whose blocks check
    themselves.
    """

    def __init__(self, machine: TranslatedMachine, phys: PhysicalCpu, options: Options) -> None:
        self._phys, self._vcpu, self._mmu = phys, machine.vcpu, machine.mmu
        self._memory, self._hole = machine.memory, machine.hole
        self._options = options
        self._translator = BlockTranslator()
        self.shadow = ShadowTables(machine.physical, machine.memory, machine.mmu, machine.hole)
        parts, view = machine.hole.parts, machine.physical
        self.cache = CodeCache(
            Arena(view.window(parts["kernel_cache"].host, KERNEL_CACHE_SIZE), 0),
            Arena(view.window(parts["user_cache"].host, USER_CACHE_SIZE), 0),
            view.window(parts["lookup"].host, LOOKUP_SIZE), 0, phys.forget_code,
        )  # fmt: skip
        self._scratch_kernel = view.window(parts["vcpu_page"].host, PAGE_SIZE).cast("I")
        self._scratch_user = view.window(parts["user_scratch"].host, PAGE_SIZE).cast("I")
        self._spaces: dict[tuple[int, int], BlockSpace] = {}
        self._rewrites: dict[int, int] = {}
        self.self_checked: set[int] = set()
        self.space: BlockSpace
        self.scratch: memoryview
        self.stats = EngineStats()
        self.observer: Observer | None = None
        self._place_hole()
        self._memory.on_watched_write = self.watched_write
        self._memory.on_map_change = self._map_changed

    # --- spaces ----------------------------------------------------------------------------------------

    def select_space(self) -> None:
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
        self.space = space
        if self.observer is not None:
            self.observer.mode(_mode_name(space.context))
        self.scratch = self._scratch_words(space.context)

    def _scratch_words(self, context: Context) -> memoryview:
        words = self._scratch_user if context.is_user else self._scratch_kernel
        return words[Slot.SCRATCH >> 2 :]

    def _window(self, space: BlockSpace, step: bool) -> Window:
        hole = self._hole
        lookup = self.cache.empty_table(space.context) if step else space.lookup  # a step finds no other block
        if space.context.is_user:
            return Window(hole.linear("user_view"), hole.linear("user_scratch"), lookup, space.cs_base)
        page = hole.linear("vcpu_page")
        return Window(page, page, lookup, space.cs_base)

    # --- blocks -------------------------------------------------------------------------------------

    def find(self, eip: int) -> Block:
        """The block for a guest EIP in the current space. Raises: GuestFault of the fetch."""
        block = self.space.blocks.get(eip)
        return block if block is not None else self.translate(eip)

    def translate(self, eip: int, step: bool = False) -> Block:
        started = perf_counter()
        source, pages = self._fetch(eip)
        self_check = not step and bool(self.self_checked) and pages[0] in self.self_checked
        limit = 1 if len(pages) > 1 else None
        block = self.place(eip, source, pages, self.options_for(step, self_check, limit))
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
        la = self.space.cs_base + eip & MASK32
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
        return self._translator.decode_one(source, eip, self.space.context.code32) is None

    def place(self, eip: int, source: bytes, pages: tuple[int, ...], options: Options) -> Block:
        space = self.space
        if options.step or options.self_check:
            known = space.find_version(eip, source, options.step)
            if known is not None:
                return known
        made = self._translator.translate(source, eip, space.context, self._window(space, options.step), options)
        try:
            block = self.cache.place(space, made, pages, options.self_check)
        except CacheFull:
            self._clear_cache()
            self.select_space()
            return self.place(eip, source, pages, options)
        if options.step or options.self_check:
            space.add_version(block, source[: made.source_size], options.step)
        if not options.step:
            self.cache.publish(block)
        return block

    def options_for(self, step: bool, self_check: bool, limit: int | None = None) -> Options:
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

    # --- going away ---------------------------------------------------------------------------------

    def watched_write(self, page: int) -> None:
        """A page is about to change, by the guest or by the VMM."""
        self._memory.watched.discard(page)
        if not self.cache.drop_page(page):
            return
        count = self._rewrites.get(page, 0) + 1
        self._rewrites[page] = count
        if count >= SELF_CHECK_AFTER:
            self.self_checked.add(page)

    def empty(self) -> None:
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

    def move_hole(self, la: int) -> None:
        """The guest uses the hole's window for itself: take another one."""
        self.stats.exits["hole moved"] += 1
        self._hole.base = next(base for base in _HOLE_CANDIDATES if not base <= la < base + HOLE_SIZE)
        self.shadow.rebuild_roots()
        self._place_hole()
        physical.load_fixed(self._vcpu, self._hole)
        self.empty()

    @property
    def arenas(self) -> tuple[tuple[int, int], ...]:
        """Where cached code may lie: (linear address, size) of each arena."""
        return tuple((arena.base, len(arena.view)) for arena in (self.cache.kernel, self.cache.user))

    def memory_width(self) -> int:
        """Bytes that the instruction at `vcpu.eip` moves to or from memory."""
        la = self._vcpu.base(Seg.CS) + self._vcpu.eip & MASK32
        source = self._mmu.read_bytes(la, MAX_LENGTH, self._vcpu.cpl == 3)
        return self._translator.memory_width(source, self._vcpu.eip, self.space.context.code32)


def _mode_name(context: Context) -> str:
    """A mode as people say it."""
    width = 32 if context.code32 else 16
    return {Mode.REAL: "real", Mode.V86: "V86"}.get(context.mode, f"protected {width}-bit, CPL {context.cpl}")
