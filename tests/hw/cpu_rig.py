"""A physical CPU on page tables of its own, and a way to say in one line what to run on it and what came out.

Linear addresses are physical ones. `CODE` and `FAR_CODE` are executable, `DATA` and `STACK` are writable and not
executable, all of them user pages unless a test says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bt.assemble import assemble
from vmm.arch.layout import MASK32, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import ARITHMETIC, Cr0, Cr4, Eflags, Reg, Seg
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.memory import PhysicalMemory

SIZE = 8 << 20
CODE, FAR_CODE, DATA, STACK, TSS, GDT = 0x1_0000, 0x23_0000, 0x30_0000, 0x31_0000, 0x32_0000, 0x33_0000
STACK_TOP = STACK + PAGE_SIZE
EXIT = 0x40
P, W, U, NX = int(Pte.P), int(Pte.W), int(Pte.U), int(Pte.NX)
CR0 = int(Cr0.PE | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.PG)
CR4 = int(Cr4.PAE | Cr4.OSFXSR | Cr4.OSXMMEXCPT)
EFER_NXE = 1 << 11
DATA_FLAGS, CODE_FLAGS = 0x00CF_9300, 0x00CF_9B00
BIG = 1 << 22


@dataclass(frozen=True)
class Exit:
    """What `on_exit` saw."""

    vector: int
    eip: int
    error_code: int
    cr2: int


class Rig:
    """One CPU. `run` goes to the first exit that `then` does not handle (it returns False or is missing)."""

    def __init__(self, tcg_buffer: int = 8 << 20) -> None:
        self.memory = PhysicalMemory(SIZE)
        self.cpu = PhysicalCpu(self.memory, tcg_buffer)
        self._entries = self.memory.view.cast("Q")
        self.root, self.next_table = 0x1000, 0x6000
        for index in range(4):
            self._entries[(self.root >> 3) + index] = 0x2000 + index * PAGE_SIZE | P
        for page in (CODE, CODE + PAGE_SIZE, FAR_CODE):
            self.map(page, page, P | U)
        for page in (DATA, DATA + PAGE_SIZE, STACK - PAGE_SIZE, STACK):
            self.map(page, page, P | W | U | NX)
        for page in (TSS, GDT):
            self.map(page, page, P | NX)
        self.exits: list[Exit] = []
        self.then: Callable[[Exit], bool] = lambda _exit: False
        self.cpu.on_exit = self._on_exit
        self.enter()

    # --- memory ----------------------------------------------------------------------------------------

    def map(self, la: int, pa: int, bits: int) -> None:
        """Map one page; the caller flushes the TLB if code has run."""
        directory = (0x2000 >> 3) + (la >> 21)
        if not self._entries[directory]:
            self._entries[directory] = self.next_table | P | W | U
            self.next_table += PAGE_SIZE
        self._entries[((self._entries[directory] & ~0xFFF) >> 3) + (la >> PAGE_SHIFT & 511)] = pa | bits

    def load(self, code: str | bytes, at: int = CODE, code32: bool = True) -> bytes:
        """Put code into memory. Branches to numbers would be relative to 0: use labels."""
        raw = code if isinstance(code, bytes) else assemble(code, code32)
        self.memory.view[at : at + len(raw)] = raw
        return raw

    def word(self, at: int) -> int:
        """The 32-bit word at an address."""
        return int.from_bytes(self.memory.view[at : at + 4], "little")

    def put(self, at: int, data: bytes) -> None:
        """Write memory."""
        self.memory.view[at : at + len(data)] = data

    # --- state -----------------------------------------------------------------------------------------

    def enter(
        self, cpl: int = 1, code32: bool = True, v86: bool = False, iopl: int = 0, cs_base: int = 0, eip: int = CODE
    ) -> None:
        """A fresh state: flat segments (in V86 too, except CS), flags clear, registers zero but ESP."""
        state = self.cpu.state
        state.buffer[:] = self.cpu.power_on
        q, d = state.q, state.d
        for reg in Reg:
            q[reg] = 0
        q[Reg.ESP] = STACK_TOP
        q[hw.Q_EIP] = eip - cs_base & MASK32
        q[hw.Q_EFLAGS] = int(Eflags.ONE) | iopl << 12 | (int(Eflags.VM) if v86 else 0)
        q[hw.Q_CR], q[hw.Q_CR + 3], q[hw.Q_CR + 4] = CR0, self.root, CR4
        q[hw.Q_EFER] = EFER_NXE
        q[hw.Q_CC_SRC], d[hw.D_CC_OP], d[hw.D_DF] = 0, hw.CC_OP_EFLAGS, 1
        wide = hw.HF_CS32 | hw.HF_SS32 if code32 else hw.HF_SS32
        mode = hw.HF_VM | hw.HF_SS32 if v86 else wide
        d[hw.D_HFLAGS] = cpl | hw.HF_PE | hw.HF_ADDSEG | hw.HF_OSFXSR | mode
        for seg in Seg:
            flags = (CODE_FLAGS if seg == Seg.CS else DATA_FLAGS) | cpl << 13
            if seg == Seg.CS and not code32:
                flags &= ~BIG
            self.segment(seg, (0x08 if seg == Seg.CS else 0x10) | cpl, cs_base if seg == Seg.CS else 0, flags)
        self._table(hw.D_TR, 0, TSS, 0x67, 0x8900)
        self._table(hw.D_GDT, 0, GDT, 0xFF, 0)
        self._table(hw.D_IDT, 0, 0, 0, 0)
        self._table(hw.D_LDT, 0, 0, 0, 0)

    def segment(self, seg: int, selector: int, base: int, flags: int) -> None:
        """Write a hidden segment register."""
        self._table(hw.D_SEGS + seg * hw.SEG_WORDS, selector, base, MASK32, flags)

    def _table(self, at: int, selector: int, base: int, limit: int, flags: int) -> None:
        d = self.cpu.state.d
        d[at], d[at + hw.SEG_BASE], d[at + hw.SEG_BASE + 1] = selector, base & MASK32, 0
        d[at + hw.SEG_LIMIT], d[at + hw.SEG_FLAGS] = limit, flags

    def selector(self, seg: int) -> int:
        """The visible part of a segment register."""
        return self.cpu.state.d[hw.D_SEGS + seg * hw.SEG_WORDS]

    def base(self, seg: int) -> int:
        """The base of a segment register."""
        return self.cpu.state.d[hw.D_SEGS + seg * hw.SEG_WORDS + hw.SEG_BASE]

    def reg(self, reg: int) -> int:
        """A general register."""
        return self.cpu.state.q[reg] & MASK32

    def set_flags(self, flags: int) -> None:
        """The arithmetic flags and DF."""
        state = self.cpu.state
        state.d[hw.D_CC_OP], state.q[hw.Q_CC_SRC] = hw.CC_OP_EFLAGS, flags & ARITHMETIC
        state.d[hw.D_DF] = MASK32 if flags & int(Eflags.DF) else 1

    def flags(self) -> int:
        """The arithmetic flags and DF."""
        return self.cpu.fold_flags()

    # --- running ---------------------------------------------------------------------------------------

    def run(self, code: str | bytes | None = None) -> Exit:
        """Load 32-bit code at CODE if given, run; the last exit. The rig must have been entered."""
        if code is not None:
            self.load(code)
        self.exits = []
        assert not self.cpu.run(), "the block limit ended the run"
        return self.exits[-1]

    def _on_exit(self, vector: int) -> None:
        state = self.cpu.state
        seen = Exit(
            vector, state.q[hw.Q_EIP] & MASK32, state.d[hw.D_ERROR_CODE], state.q[hw.Q_CR + 2] & MASK32
        )  # fmt: skip
        self.exits.append(seen)
        if not self.then(seen):
            self.cpu.leave()
