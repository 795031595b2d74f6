"""Translated code on the physical CPU: one guest instruction in, the whole state after it out.

The rig stands for the engine: the vCPU page, its user view, the scratch page and branch tables are mapped, blocks go
into a real `CodeCache`, and a run ends at the first exit: one named by its site, a fault, or the fetch fault of an
indirect branch that led nowhere.
"""

import random
from dataclasses import dataclass, field, replace
from typing import Final

from cpu_rig import CODE, DATA, EXIT, NX, STACK, P, Rig, U, W

from bt.cache import Arena, Block, CodeCache, CodeView
from bt.emit import FLAGS, STORES, Mark, Site, Translation
from bt.guest import Context, Mode, Window
from bt.lookup import BranchTable, CacheFull, LookupArea
from bt.translate import DEFAULT_OPTIONS, BlockTranslator, Options
from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_SIZE, SCRATCH_WORDS, Slot
from vmm.arch.registers import ARITHMETIC, Eflags, Reg, Seg
from vmm.hw import state as hw

PAGE, VIEW, SCRATCH, LOOKUP = 0x34_0000, 0x34_1000, 0x34_2000, 0x40_0000
LOOKUP_SIZE = 0x30_0000
CODE_PAGES, USER_CODE = 8, CODE + 8 * PAGE_SIZE
STACK_POINTER: Final = 0xE00
UNMAPPED: Final = 0x8000
GUEST_EIP: Final = 0x1234
DF: Final = int(Eflags.DF)
OF: Final = int(Eflags.OF)
LAHF: Final = int(Eflags.SF | Eflags.ZF | Eflags.AF | Eflags.PF | Eflags.CF)
ALL_FLAGS: Final = [
    sum(bit for number, bit in enumerate((1, 4, 0x10, 0x40, 0x80, 0x400, 0x800)) if choice >> number & 1)
    for choice in range(128)
]
"""The six arithmetic flags and DF, in all combinations."""

FETCH: Final = int(PageFault.I)
SLOTS: Final = [slot for slot in Slot if slot is not Slot.SCRATCH]


@dataclass(frozen=True)
class World:
    """A way to run the guest: its context, and what the physical CPU must look like for it."""

    context: Context
    cs_base: int = 0

    @property
    def is_v86(self) -> bool:
        return self.context.mode is not Mode.PROTECTED

    @property
    def user(self) -> bool:
        return self.context.is_user

    @property
    def stack_mask(self) -> int:
        return MASK32 if self.context.stack32 else 0xFFFF


WORLDS: Final = {
    "real": World(Context(Mode.REAL, 0, False, False), 0x5670),
    "kernel16": World(Context(Mode.PROTECTED, 0, False, False), 0x1_0000),
    "kernel16, 32-bit stack": World(Context(Mode.PROTECTED, 0, False, True)),
    "kernel32": World(Context(Mode.PROTECTED, 0, True, True)),
    "kernel32, based": World(Context(Mode.PROTECTED, 0, True, True), 0xFFF0_0000),
    "kernel32, 16-bit stack": World(Context(Mode.PROTECTED, 0, True, False)),
    "user32": World(Context(Mode.PROTECTED, 3, True, True)),
    "user16": World(Context(Mode.PROTECTED, 3, False, False)),
}
KERNELS: Final = {name: world for name, world in WORLDS.items() if not world.user}
PROTECTED: Final = {name: world for name, world in WORLDS.items() if world.context.mode is Mode.PROTECTED}


@dataclass(frozen=True)
class State:
    """All that a guest instruction may see or change. `data` and `stack` are the bytes behind DS:0 and SS:0."""

    regs: tuple[int, ...]
    flags: int
    slots: dict[Slot, int]
    data: bytes = bytes(PAGE_SIZE)
    stack: bytes = bytes(PAGE_SIZE)

    def but(self, **changes: object) -> "State":
        """The same with registers (by name), `flags`, `data`, `stack` or slots (by name) changed."""
        regs = list(self.regs)
        slots = dict(self.slots)
        rest = {}
        for name, value in changes.items():
            if name in Slot.__members__:
                assert isinstance(value, int)
                slots[Slot[name]] = value
            elif name.upper() in Reg.__members__:
                assert isinstance(value, int)
                regs[Reg[name.upper()]] = value & MASK32
            else:
                rest[name] = value
        return replace(self, regs=tuple(regs), slots=slots, **rest)  # type: ignore[arg-type]

    def pushed(self, value: int, size: int) -> "State":
        """With a value on the stack."""
        sp = self.regs[Reg.ESP] - size
        return self.stored(sp, value, size, on_stack=True).but(esp=sp)

    def stored(self, at: int, value: int, size: int, on_stack: bool = False) -> "State":
        """With a value stored at DS:at or SS:at."""
        name = "stack" if on_stack else "data"
        page = bytearray(self.stack if on_stack else self.data)
        page[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return self.but(**{name: bytes(page)})


def some_state(seed: int, flags: int) -> State:
    """A random state: registers that point into the data page now and then, everything else anything."""
    rng = random.Random(seed)
    regs = [rng.getrandbits(32) for _ in Reg]
    regs[Reg.ESP] = STACK_POINTER
    slots: dict[Slot, int] = {slot: rng.getrandbits(32) for slot in SLOTS}
    slots[Slot.IF] = rng.choice((0, 0x200))
    slots[Slot.FLAGS] = rng.getrandbits(32) & 0x24_7000
    slots[Slot.PENDING] = 0
    return State(tuple(regs), flags, slots, rng.randbytes(PAGE_SIZE), rng.randbytes(PAGE_SIZE))


@dataclass
class Outcome:
    """How one run ended: at a site, with a branch that led nowhere (`missed`; S2 is its target), or with a fault
    (vector, error code, CR2) that belongs to `mark`."""

    state: State
    site: Site | None = None
    missed: bool = False
    fault: tuple[int, int, int] | None = None
    mark: Mark | None = None
    scratch: list[int] = field(default_factory=list)


class InlineRig(Rig):
    """Runs translations. One block space is in use at a time: that of the last `place`."""

    def __init__(self) -> None:
        super().__init__(tcg_buffer=32 << 20)
        for index in range(2 * CODE_PAGES):
            self.map(CODE + index * PAGE_SIZE, CODE + index * PAGE_SIZE, P | U)
        for index in range(LOOKUP_SIZE // PAGE_SIZE):
            self.map(LOOKUP + index * PAGE_SIZE, LOOKUP + index * PAGE_SIZE, P | U | NX)
        self.map(VIEW, PAGE, P | U | NX)
        self.map(SCRATCH, SCRATCH, P | W | U | NX)
        self.cpu.set_service_root(self.root)
        self.cache = CodeCache(
            Arena(self.memory.window(CODE, CODE_PAGES * PAGE_SIZE), CODE),
            Arena(self.memory.window(USER_CODE, CODE_PAGES * PAGE_SIZE), USER_CODE),
            LookupArea(self.memory.window(LOOKUP, LOOKUP_SIZE), LOOKUP), self.cpu.forget_code,
            CodeView(lambda *_: None),
        )  # fmt: skip
        self.translator = BlockTranslator()
        self._placed: dict[tuple[World, bytes, int, Options], Block] = {}

    def clear(self) -> None:
        """Empty the cache."""
        self.cache.clear()
        self.cpu.forget_all_code()
        self._placed.clear()

    def table(self, world: World) -> BranchTable:
        """The branch table of this world."""
        return self.cache.space(world.cs_base, world.context).table

    def window(self, world: World, step: bool = False) -> Window:
        """Where code finds the VMM's pages in this world; a step finds no branch table."""
        nowhere = self.cache.lookup.nowhere
        table = nowhere if step else self.table(world).root
        page, scratch = (VIEW, SCRATCH) if world.user else (PAGE, PAGE)
        return Window(page, scratch, table, nowhere, world.cs_base)

    def translate(self, world: World, code: bytes, eip: int, options: Options) -> Translation:
        """Translate all of `code` as one block."""
        return self.translator.translate(code, eip, world.context, self.window(world, options.step), options)

    def place(self, world: World, code: bytes, eip: int = GUEST_EIP, options: Options = DEFAULT_OPTIONS) -> Block:
        """Translate and place it, once; the branch table does not know it."""
        key = (world, code, eip, options)
        if key not in self._placed:
            try:
                self._placed[key] = self._place(world, code, eip, options)
            except CacheFull:
                self.clear()
                self._placed[key] = self._place(world, code, eip, options)
        return self._placed[key]

    def _place(self, world: World, code: bytes, eip: int, options: Options) -> Block:
        space = self.cache.space(world.cs_base, world.context)
        page = self.cache.page(space, (world.cs_base + eip & MASK32) >> 12, (0,), options.self_check)
        return self.cache.place(page, self.translate(world, code, eip, options))

    def go(self, world: World, block: Block, before: State) -> Outcome:
        """Enter a block with a state; what the first exit shows."""
        self._load(world, block, before)
        self.run()
        seen = self.exits[-1]
        address = seen.eip + world.cs_base & MASK32
        after = self._state(world)
        scratch_page = SCRATCH if world.user else PAGE
        scratch = [self.word(scratch_page + Slot.SCRATCH + 4 * index) for index in range(SCRATCH_WORDS)]
        if seen.vector == EXIT:
            site, _ = self.cache.sites[address]
            return Outcome(after, site, scratch=scratch)
        if address == self.cache.lookup.nowhere:
            assert (seen.vector, seen.error_code & FETCH, seen.cr2) == (Vector.PF, FETCH, address)
            return Outcome(after, missed=True, scratch=scratch)
        found = self.cache.block_at(address)
        assert found is not None
        mark = found.mark_at(address)
        return Outcome(after, fault=(seen.vector, seen.error_code, seen.cr2), mark=mark, scratch=scratch)

    def rewound(self, outcome: Outcome) -> State:
        """The state as the guest must see it after a fault: registers out of their scratch words."""
        assert outcome.mark is not None
        regs = list(outcome.state.regs)
        flags = outcome.state.flags
        for reg, word in outcome.mark.restore:
            if reg == STORES:
                continue
            if reg == FLAGS:
                image = outcome.scratch[word]  # LAHF and SETO AL
                flags = flags & DF | image >> 8 & LAHF | (OF if image & 1 else 0)
            else:
                regs[reg] = outcome.scratch[word]
        return replace(outcome.state, regs=tuple(regs), flags=flags)

    def _load(self, world: World, block: Block, before: State) -> None:
        context = world.context
        cpl = 3 if world.is_v86 or world.user else 1
        self.map(PAGE, PAGE, P | W | NX | (U if world.is_v86 else 0))
        self.enter(
            cpl, context.code32, world.is_v86, 3 if world.is_v86 else 0, world.cs_base, block.address & MASK32
        )  # fmt: skip
        state = self.cpu.state
        state.q[hw.Q_EIP] = block.entry
        if not context.stack32:
            state.d[hw.D_HFLAGS] &= ~hw.HF_SS32
        data_flags = 0x00CF_9300 | cpl << 13
        for seg, base in ((Seg.SS, STACK), (Seg.DS, DATA), (Seg.ES, DATA), (Seg.FS, DATA), (Seg.GS, DATA)):
            narrow = seg == Seg.SS and not context.stack32
            self.segment(seg, 0x10 | cpl, base, data_flags & ~(1 << 22) if narrow else data_flags)
        for reg, value in enumerate(before.regs):
            state.q[reg] = value
        self.set_flags(before.flags)
        for slot, value in before.slots.items():
            self.put(PAGE + slot, value.to_bytes(4, "little"))
        self.put(DATA, before.data)
        self.put(STACK, before.stack)
        self.cpu.flush_tlb()

    def _state(self, world: World) -> State:
        return State(
            tuple(self.reg(reg) for reg in Reg), self.flags() & (ARITHMETIC | DF),
            {slot: self.word(PAGE + slot) for slot in SLOTS},
            bytes(self.memory.view[DATA : DATA + PAGE_SIZE]), bytes(self.memory.view[STACK : STACK + PAGE_SIZE]),
        )  # fmt: skip
