"""The state of a guest whose code runs in place at CPL 1 or 3: from the virtual CPU to the physical one and back.

`put` gives the physical CPU what it runs the guest with, `take` reads off what the guest has made of it, so that
between the two everybody else sees the virtual CPU alone. What this cannot hide is what made the technique fail on this
architecture: while the guest runs, CS and SS hold selectors with the RPL of the physical ring, EFLAGS has IF set and
IOPL 0, CR0, GDTR, IDTR, LDTR and TR are the VMM's, and the instructions that show these do not trap.

Real mode runs in V86, V86 as itself, both with IOPL 0, so that CLI, STI, PUSHF, POPF, INT n and IRET trap.
"""

from typing import Final

from vmm.arch.descriptors import SELECTOR_RPL
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Eflags, Seg
from vmm.cpu.descriptor_shadow import DescriptorShadow, Lowering
from vmm.cpu.hole import Hole
from vmm.cpu.vcpu import DESC_DPL, DESC_DPL_SHIFT, DESC_P, SegmentRegister, Vcpu
from vmm.engines import physical
from vmm.engines.names import Rings
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.traps import Trap, set_traps

TRAPS: Final = Trap.IO | Trap.CPUID | Trap.TSC | Trap.PMC | Trap.FAST_CALL | Trap.INTERRUPT | Trap.X87 | Trap.SIMD
"""IO stands for the I/O permission check, TSC and PMC for CR4.TSD and CR4.PCE, FAST_CALL for the VMM's SYSENTER
registers, INTERRUPT for its gates. CPUID trapped on no processor of the time: the one below is not the one that the
guest would find on the bare machine. X87 and SIMD are errors of arithmetic, faults on the bare machine."""

VMM_LDT: Final = 0xFFF0
VMM_TSS: Final = 0xFFF8
"""Selectors in the physical LDTR and TR, at the very end of the table."""

_IDT_OFFSET: Final = 0x800
_IDT_LIMIT: Final = 0x7FF
"""What IDTR shows, behind the TSS. There is no table: this processor brings every event to the VMM without reading
one."""

_LDT_FLAGS: Final = DESC_P | 2 << 8
_USER_RING: Final = 3
_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_VM: Final = int(Eflags.VM)
_IF: Final = int(Eflags.IF)
_ONE: Final = int(Eflags.ONE)
_IOPL: Final = int(Eflags.IOPL)
_IN_PAGE: Final = int(Eflags.NT | Eflags.AC | Eflags.ID)
_FLAGS: Final = int(Slot.FLAGS) >> 2
_RING_SEGMENTS: Final = tuple(hw.D_SEGS + hw.SEG_WORDS * seg for seg in (Seg.CS, Seg.SS))
_ALL_SEGMENTS: Final = slice(4 * hw.D_SEGS, 4 * (hw.D_SEGS + 6 * hw.SEG_WORDS))
_KERNEL_CPL: Final = {Rings.THREE: 1, Rings.TWO: _USER_RING}


class Deprivileged:
    """The registers of one virtual CPU on a physical one."""

    def __init__(self, vcpu: Vcpu, hole: Hole, descriptors: DescriptorShadow, rings: Rings) -> None:
        self._vcpu, self._hole, self._descriptors = vcpu, hole, descriptors
        self.kernel_cpl = _KERNEL_CPL[rings]
        self._loaded = b""

    @property
    def _idt_base(self) -> int:
        return self._hole.linear("shadow_tss") + _IDT_OFFSET

    @property
    def shares_a_ring(self) -> bool:
        """Do the guest's kernel and its users run at the same CPL?"""
        return self.kernel_cpl == _USER_RING

    @property
    def lowering(self) -> Lowering:
        """What becomes of descriptors in the virtual ring that the guest is in.

        Where kernel and users share a ring, the one table serves one of them at a time: a kernel's return to user code
        faults, so that the VMM learns of it, and so do a user's loads of the kernel's segments.
        """
        if not self.shares_a_ring:
            return Lowering(self.kernel_cpl)
        in_kernel = self._vcpu.cpl != _USER_RING
        return Lowering(_USER_RING if in_kernel else 0, user_code=not in_kernel)

    # --- to the physical CPU ----------------------------------------------------------------------------

    def put_fixed(self, phys: PhysicalCpu) -> None:
        """What the guest never gets to change."""
        physical.load_fixed(self._vcpu, self._hole)
        d = self._vcpu.state.d
        d[hw.D_TR] = VMM_TSS
        d[hw.D_IDT + hw.SEG_BASE], d[hw.D_IDT + hw.SEG_LIMIT] = self._idt_base, _IDT_LIMIT
        set_traps(phys.state, int(TRAPS))

    def put(self, root: int, single_step: bool) -> None:
        """All that the guest's code runs with, from `vcpu.eip` on; `root` is CR3."""
        vcpu = self._vcpu
        q, d = vcpu.state.q, vcpu.state.d
        physical.materialise(vcpu, root, self.kernel_cpl)
        flags = q[hw.Q_EFLAGS] & ~_IOPL | _IF | vcpu.page[_FLAGS] & _IN_PAGE
        q[hw.Q_EFLAGS] = flags | (_TF if single_step else vcpu.field_flags & _TF)
        if not flags & _VM and vcpu.cpl != _USER_RING:
            for at in _RING_SEGMENTS:
                d[at] = d[at] & ~SELECTOR_RPL | self.kernel_cpl
        if vcpu.interrupt_shadow:
            d[hw.D_HFLAGS] |= hw.HF_INHIBIT_IRQ
        self._put_tables()
        q[hw.Q_EIP] = vcpu.eip
        self._loaded = bytes(vcpu.state.buffer[_ALL_SEGMENTS])

    def _put_tables(self) -> None:
        d, hole, descriptors = self._vcpu.state.d, self._hole, self._descriptors
        d[hw.D_GDT + hw.SEG_BASE] = hole.linear("whole_gdt")
        d[hw.D_GDT + hw.SEG_LIMIT] = max(descriptors.gdt.limit, 0)
        has_ldt = descriptors.ldt.limit >= 0
        d[hw.D_LDT] = VMM_LDT if has_ldt else 0
        d[hw.D_LDT + hw.SEG_BASE] = hole.linear("whole_ldt") if has_ldt else 0
        d[hw.D_LDT + hw.SEG_LIMIT] = max(descriptors.ldt.limit, 0)
        d[hw.D_LDT + hw.SEG_FLAGS] = _LDT_FLAGS if has_ldt else 0

    # --- from the physical CPU --------------------------------------------------------------------------

    def take(self, keeps_tf: bool) -> None:
        """What the guest's code has made of it. `keeps_tf`: TF in the register is the VMM's."""
        vcpu = self._vcpu
        q, d = vcpu.state.q, vcpu.state.d
        vcpu.eip = q[hw.Q_EIP] & MASK32
        flags = q[hw.Q_EFLAGS]
        vcpu.page[_FLAGS] = vcpu.page[_FLAGS] & _IOPL | flags & _IN_PAGE
        vcpu.interrupt_shadow = bool(d[hw.D_HFLAGS] & hw.HF_INHIBIT_IRQ)
        if not keeps_tf:
            vcpu.field_flags = vcpu.field_flags & ~_TF | flags & _TF
        if flags & _VM:
            return
        if d[hw.D_HFLAGS] & hw.HF_CPL == _USER_RING and not self.shares_a_ring:
            vcpu.cpl = _USER_RING  # by a return to an outer ring, which does not trap
        if bytes(vcpu.state.buffer[_ALL_SEGMENTS]) != self._loaded:
            for seg in Seg:
                self._take_segment(seg)
        if vcpu.cpl != _USER_RING:
            for at in _RING_SEGMENTS:
                d[at] = d[at] & ~SELECTOR_RPL | vcpu.cpl

    def _take_segment(self, seg: int) -> None:
        """The guest may have loaded a segment register: its DPL is the one in the guest's own table."""
        vcpu = self._vcpu
        d, at = vcpu.state.d, hw.D_SEGS + hw.SEG_WORDS * seg
        start = 4 * hw.SEG_WORDS * seg
        if self._loaded[start : start + 4 * hw.SEG_WORDS] == bytes(vcpu.state.buffer[4 * at : 4 * (at + hw.SEG_WORDS)]):
            return
        selector, flags = d[at] & 0xFFFF, d[at + hw.SEG_FLAGS]
        if flags:
            table = self._descriptors.ldt if selector & 4 else self._descriptors.gdt
            flags = flags & ~DESC_DPL | table.dpl(selector) << DESC_DPL_SHIFT
        vcpu.set_segment(seg, SegmentRegister(selector, d[at + hw.SEG_BASE], d[at + hw.SEG_LIMIT], flags))
