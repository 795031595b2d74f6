"""The virtual CPU of a guest that sits in the physical one as it is: at its own CPL, with its own segments and tables.

While such a guest runs, the physical state is the truth. `pull` brings the virtual CPU into step with it after an exit,
so that emulation finds there what it expects; `push` goes the other way before the guest runs on. General registers,
selectors, bases, limits, the arithmetic flags and the FPU are shared: both work on the same bytes.
"""

from typing import Final

from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Cr0, Cr4, Eflags, Seg
from vmm.cpu.paging import Mmu
from vmm.cpu.vcpu import DESC_B, DESC_TYPE_BUSY, LOADED_NATIVELY, SegmentRegister, Vcpu
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu

_IF: Final = int(Eflags.IF)
_VM: Final = int(Eflags.VM)
_ONE: Final = int(Eflags.ONE)
_PAGE_FLAGS: Final = int(Eflags.IOPL | Eflags.NT | Eflags.AC | Eflags.ID)
_FIELD_FLAGS: Final = int(Eflags.TF | Eflags.RF | Eflags.VM)
_PE: Final = int(Cr0.PE)
_PG: Final = int(Cr0.PG)
_PAE: Final = int(Cr4.PAE)
_HANDLED: Final = int(Cr0.MP | Cr0.EM | Cr0.TS)
_OSFXSR: Final = int(Cr4.OSFXSR)
_MADE_HFLAGS: Final = (
    hw.HF_CPL | hw.HF_INHIBIT_IRQ | hw.HF_CS32 | hw.HF_SS32 | hw.HF_ADDSEG | hw.HF_PE | hw.HF_MP | hw.HF_EM | hw.HF_TS
    | hw.HF_VM | hw.HF_OSFXSR
)  # fmt: skip


def _distance(made: int, source: int) -> int:
    """How far left a bit moves from a register into `hflags`."""
    return made.bit_length() - source.bit_length()


_FROM_PE: Final = _distance(hw.HF_PE, _PE)
_FROM_CR0: Final = _distance(hw.HF_MP, Cr0.MP)  # the same for EM and TS, which are the next bits in both
_FROM_CR4: Final = _distance(hw.HF_OSFXSR, _OSFXSR)
_FROM_CS: Final = -_distance(hw.HF_CS32, DESC_B)
_FROM_SS: Final = -_distance(hw.HF_SS32, DESC_B)

_IF_AT: Final = Slot.IF >> 2
_FLAGS_AT: Final = Slot.FLAGS >> 2
_CR0_AT: Final = Slot.CR0 >> 2
_CR2_AT: Final = Slot.CR2 >> 2
_CR3_AT: Final = Slot.CR3 >> 2
_CR4_AT: Final = Slot.CR4 >> 2
_TABLES: Final = (
    (hw.D_GDT, Slot.GDT_BASE >> 2, Slot.GDT_LIMIT >> 2), (hw.D_IDT, Slot.IDT_BASE >> 2, Slot.IDT_LIMIT >> 2)
)  # fmt: skip
_SEGMENTS: Final = slice(4 * hw.D_SEGS, 4 * hw.D_LDT)
_SYSTEM: Final = slice(4 * hw.D_LDT, 4 * (hw.D_IDT + hw.SEG_WORDS))  # LDTR, TR, GDTR, IDTR
_HIDDEN: Final = tuple(hw.D_SEGS + seg * hw.SEG_WORDS + hw.SEG_FLAGS for seg in range(6))
_CS_FLAGS, _SS_FLAGS = _HIDDEN[Seg.CS], _HIDDEN[Seg.SS]
_ES_BASE, _SS_BASE, _DS_BASE = (hw.D_SEGS + seg * hw.SEG_WORDS + hw.SEG_BASE for seg in (Seg.ES, Seg.SS, Seg.DS))
_ATTRIBUTES: Final = 0x00F0_FF00  # of descriptor dword 1; the engine keeps all of it
_NULL: Final = 0xFFFC


class NativeState:
    """Between one virtual CPU and the physical CPU whose state it shares.

    An engine that keeps control registers of its own in the physical ones says where the guest's are: it overrides
    `pull_control` and `push_control`.
    """

    def __init__(self, vcpu: Vcpu, mmu: Mmu, phys: PhysicalCpu) -> None:
        self._vcpu, self._mmu, self._phys = vcpu, mmu, phys
        self._segments = self._system = b""  # as they were pulled or pushed last
        self._registers: tuple[object, ...] = ()  # the virtual CPU's system registers as they were pushed last

    def attach(self) -> None:
        """Share the physical state with the virtual CPU, whose values move into it."""
        self._vcpu.move_into(self._phys.state, self._phys.fold_flags)
        self.distrust()

    def distrust(self) -> None:
        """Somebody else may have changed the virtual CPU: the next `push` is of everything."""
        self._registers = ()
        self._vcpu.segments_changed = True

    # --- from the processor ----------------------------------------------------------------------------

    def pull(self) -> None:
        """Out of the physical state into the virtual CPU."""
        vcpu, state = self._vcpu, self._phys.state
        q, d, page = state.q, state.d, vcpu.page
        flags = q[hw.Q_EFLAGS]
        page[_IF_AT] = flags & _IF
        page[_FLAGS_AT] = flags & _PAGE_FLAGS
        vcpu.field_flags = flags & _FIELD_FLAGS
        hflags = d[hw.D_HFLAGS]
        vcpu.cpl = hflags & hw.HF_CPL
        vcpu.interrupt_shadow = bool(hflags & hw.HF_INHIBIT_IRQ)
        vcpu.eip = q[hw.Q_EIP] & MASK32
        page[_CR2_AT] = q[hw.Q_CR + 2] & MASK32
        self.pull_control()
        if bytes(state.buffer[_SEGMENTS]) != self._segments:
            self._pull_segments()
        if bytes(state.buffer[_SYSTEM]) != self._system:
            self._pull_system()

    def pull_control(self) -> None:
        """CR0, CR3, CR4, EFER, and the page-directory pointers, which the engine reads again at each use."""
        vcpu, q = self._vcpu, self._phys.state.q
        page = vcpu.page
        page[_CR0_AT] = cr0 = q[hw.Q_CR] & MASK32
        page[_CR3_AT] = q[hw.Q_CR + 3] & MASK32
        page[_CR4_AT] = cr4 = q[hw.Q_CR + 4] & MASK32
        vcpu.efer = q[hw.Q_EFER] & MASK32
        if cr4 & _PAE and cr0 & _PG:
            vcpu.pdptes[:] = self._mmu.pdptes_in_memory(vcpu.cr3)

    def _pull_segments(self) -> None:
        """The hidden attributes. A guest's L bit goes: the virtual CPU has another use for it."""
        vcpu, d = self._vcpu, self._phys.state.d
        for seg, at in enumerate(_HIDDEN):
            flags = d[at] & _ATTRIBUTES & ~LOADED_NATIVELY
            vcpu.load_attributes(seg, flags)
            d[at] = flags
        self._segments = bytes(self._phys.state.buffer[_SEGMENTS])

    def _pull_system(self) -> None:
        """The task register says busy in its own descriptor only: the engine takes a busy one for invalid."""
        vcpu, d = self._vcpu, self._phys.state.d
        for at, base_at, limit_at in _TABLES:
            vcpu.page[base_at] = d[at + hw.SEG_BASE]
            vcpu.page[limit_at] = d[at + hw.SEG_LIMIT] & 0xFFFF
        ldtr, tr = self._register(hw.D_LDT), self._register(hw.D_TR)
        vcpu.ldtr = ldtr if ldtr.selector & _NULL or ldtr.limit else SegmentRegister(ldtr.selector, 0, 0, 0)
        vcpu.tr = SegmentRegister(tr.selector, tr.base, tr.limit, tr.flags | DESC_TYPE_BUSY)
        self._system = bytes(self._phys.state.buffer[_SYSTEM])
        self._registers = self._system_registers()

    def _system_registers(self) -> tuple[object, ...]:
        vcpu = self._vcpu
        return (vcpu.gdtr, vcpu.idtr, vcpu.ldtr, vcpu.tr)

    def _register(self, at: int) -> SegmentRegister:
        d = self._phys.state.d
        flags = d[at + hw.SEG_FLAGS] & _ATTRIBUTES
        return SegmentRegister(d[at] & 0xFFFF, d[at + hw.SEG_BASE], d[at + hw.SEG_LIMIT], flags)

    # --- to the processor ------------------------------------------------------------------------------

    def push(self) -> None:
        """Out of the virtual CPU into the physical state; `hflags`, which the engine trusts, in full."""
        vcpu, state = self._vcpu, self._phys.state
        q, d, page = state.q, state.d, vcpu.page
        q[hw.Q_EFLAGS] = page[_IF_AT] | page[_FLAGS_AT] | vcpu.field_flags | _ONE
        q[hw.Q_EIP] = vcpu.eip
        q[hw.Q_CR + 2] = page[_CR2_AT]
        d[hw.D_A20_MASK] = self._mmu.a20_mask & MASK32
        self.push_control()
        if vcpu.segments_changed:
            for seg, at in enumerate(_HIDDEN):
                d[at] = vcpu.flags_of(seg)
            vcpu.segments_changed = False
        self._segments = bytes(state.buffer[_SEGMENTS])
        registers = self._system_registers()
        if registers != self._registers:
            self._push_system(registers)
        d[hw.D_HFLAGS] = d[hw.D_HFLAGS] & ~_MADE_HFLAGS | self._hflags()
        if vcpu.stale:
            self._phys.flush_tlb()
            vcpu.stale = 0
            vcpu.stale_pages.clear()

    def push_control(self) -> None:
        """CR0, CR3, CR4, EFER."""
        vcpu, q = self._vcpu, self._phys.state.q
        page = vcpu.page
        q[hw.Q_CR], q[hw.Q_CR + 3], q[hw.Q_CR + 4] = page[_CR0_AT], page[_CR3_AT], page[_CR4_AT]
        q[hw.Q_EFER] = vcpu.efer

    def _push_system(self, registers: tuple[object, ...]) -> None:
        vcpu = self._vcpu
        for at, base_at, limit_at in _TABLES:
            self._put(at, SegmentRegister(0, vcpu.page[base_at], vcpu.page[limit_at], 0))
        self._put(hw.D_LDT, vcpu.ldtr)
        tr = vcpu.tr
        self._put(hw.D_TR, SegmentRegister(tr.selector, tr.base, tr.limit, tr.flags & ~DESC_TYPE_BUSY))
        self._system = bytes(self._phys.state.buffer[_SYSTEM])
        self._registers = registers

    def _put(self, at: int, register: SegmentRegister) -> None:
        d = self._phys.state.d
        d[at], d[at + hw.SEG_BASE], d[at + hw.SEG_BASE + 1] = register.selector, register.base, 0
        d[at + hw.SEG_LIMIT], d[at + hw.SEG_FLAGS] = register.limit, register.flags

    def _hflags(self) -> int:
        vcpu, d = self._vcpu, self._phys.state.d
        page = vcpu.page
        cr0, is_v86 = page[_CR0_AT], vcpu.field_flags & _VM
        code32 = (d[_CS_FLAGS] & DESC_B) >> _FROM_CS
        hflags = vcpu.cpl | code32 | (d[_SS_FLAGS] & DESC_B) >> _FROM_SS | is_v86
        hflags |= (cr0 & _PE) << _FROM_PE | (cr0 & _HANDLED) << _FROM_CR0 | (page[_CR4_AT] & _OSFXSR) << _FROM_CR4
        if vcpu.interrupt_shadow:
            hflags |= hw.HF_INHIBIT_IRQ
        if not cr0 & _PE or is_v86 or not code32 or d[_DS_BASE] | d[_ES_BASE] | d[_SS_BASE]:
            hflags |= hw.HF_ADDSEG
        return hflags
