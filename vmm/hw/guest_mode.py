"""Guest mode: into it by VMRUN, out of it when a host state is put in.

Theory of operation. The guest's state lies in `phys.state` as for any other engine. `prepare` copies what VMRUN loads
of it into the VMCB and leaves a host state behind: a few bytes of host code, the instruction VMRUN, run unpaged at CPL
0. FS, GS, LDTR, TR, the general registers and the FPU are not VMRUN's business, so the host has the guest's.

The engine leaves out what a processor does at #VMEXIT: nothing is written to the block but EXITINFO2 of a page fault,
and the host's state does not come back. An exit arrives at the interrupt hook with vector `EXIT` + code, with the
guest's state in place, and the guest goes on when the hook returns. So a #VMEXIT with a VMRUN behind it costs what any
other exit costs.

Source: AMD64 Architecture Programmer's Manual, Vol. 2, "Secure Virtual Machine"; Vol. 3, "VMRUN".
"""

from typing import Final

from vmm.arch import vmcb as block
from vmm.arch.layout import MASK32, PAGE_SIZE
from vmm.arch.registers import ARITHMETIC, Cr0, Cr4, Eflags, Reg, Seg
from vmm.arch.vmcb import Segment, Vmcb
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.memory import PhysicalMemory

EXIT: Final = 0x100
"""The vector of an exit is this and its code."""
EFER_SVME: Final = 1 << 12

_VMRUN: Final = b"\x0f\x01\xd8"
_FLUSH_TLB: Final = 1
"""TLB_CONTROL. The engine's TLB knows no ASIDs, and the host that runs VMRUN does not page."""
_ASID: Final = 1  # 0 is the host's
_GIF: Final = 1 << 0  # of hflags2
_DF: Final = int(Eflags.DF)
_ONE: Final = int(Eflags.ONE)
_LAZY: Final = ARITHMETIC | _DF
_HOST_CR0: Final = int(Cr0.PE | Cr0.ET)
_HOST_CR4: Final = int(Cr4.PAE)  # nested tables have the format of the host's
_HOST_EFER: Final = EFER_SVME | 1 << 11  # NXE: for nested tables, too
_HOST_HFLAGS: Final = hw.HF_PE | hw.HF_CS32 | hw.HF_SS32 | hw.HF_SVME
_HOST_CODE: Final = 0x00CF_9B00
_HOST_DATA: Final = 0x00CF_9300
_SEG_AT: Final = tuple((seg, hw.D_SEGS + seg * hw.SEG_WORDS) for seg in (Seg.ES, Seg.CS, Seg.SS, Seg.DS))
_DPL: Final = 3 << 13
_SS_FLAGS: Final = hw.D_SEGS + Seg.SS * hw.SEG_WORDS + hw.SEG_FLAGS


class GuestMode:
    """The way of one guest into guest mode. `vmcb` is its block; its control area is the owner's to fill in."""

    def __init__(self, phys: PhysicalCpu, memory: PhysicalMemory) -> None:
        self._state = phys.state
        self._phys = phys
        self._block_at = memory.allocate(PAGE_SIZE)
        self.vmcb = Vmcb(memory.window(self._block_at, PAGE_SIZE))
        self._host_save_at = memory.allocate(PAGE_SIZE)
        permissions = memory.allocate(block.MSR_PERMISSION_SIZE)
        memory.view[permissions : permissions + block.MSR_PERMISSION_SIZE] = b"\xff" * block.MSR_PERMISSION_SIZE
        self._code_at = memory.allocate(PAGE_SIZE)
        memory.view[self._code_at : self._code_at + len(_VMRUN)] = _VMRUN
        self._waiting: bytes | None = None
        for field, value in (
            (block.ASID, _ASID),
            (block.TLB_CONTROL, _FLUSH_TLB),
            (block.MSRPM_BASE, permissions),
            (block.INTERCEPTS, int(block.Intercept.VMRUN)),  # a processor refuses to enter without
        ):
            self.vmcb.put(field, value)

    @property
    def is_inside(self) -> bool:
        """Is the state in `phys.state` one of guest mode?"""
        return bool(self._state.d[hw.D_HFLAGS] & hw.HF_GUEST)

    def prepare(self) -> None:
        """The guest's state is in `phys.state`: let what runs next be VMRUN. Within a run or before one."""
        flags = self._phys.fold_flags()
        self._waiting = bytes(self._state.buffer)
        self._fill_block(flags)
        self._become_host()
        self._phys.flush_tlb()

    def withdraw(self) -> bool:
        """A run has ended. If it ended before VMRUN, put the guest's state back, and say so."""
        waiting, self._waiting = self._waiting, None
        if self.is_inside or waiting is None:
            return False
        self._state.buffer[:] = waiting
        return True

    def _fill_block(self, flags: int) -> None:
        q, d, vmcb = self._state.q, self._state.d, self.vmcb
        is_protected = q[hw.Q_CR] & int(Cr0.PE)
        if not is_protected:  # the engine takes CPL from there
            d[_SS_FLAGS] &= ~_DPL
        for seg, at in _SEG_AT:
            limit, attributes = d[at + hw.SEG_LIMIT], d[at + hw.SEG_FLAGS]
            vmcb.put_segment(seg, Segment(d[at] & 0xFFFF, d[at + hw.SEG_BASE], limit, attributes))
        for number, at in ((block.GDTR, hw.D_GDT), (block.IDTR, hw.D_IDT)):
            vmcb.put_segment(number, Segment(0, d[at + hw.SEG_BASE], d[at + hw.SEG_LIMIT], 0))
        for field, value in (
            (block.CPL, d[_SS_FLAGS] >> 13 & 3),
            (block.EFER, q[hw.Q_EFER] | EFER_SVME),
            (block.CR0, q[hw.Q_CR]),
            (block.CR2, q[hw.Q_CR + 2]),
            (block.CR3, q[hw.Q_CR + 3]),
            (block.CR4, q[hw.Q_CR + 4]),
            (block.RFLAGS, q[hw.Q_EFLAGS] & ~_LAZY | flags),
            (block.RIP, q[hw.Q_EIP] & MASK32),
            (block.RSP, q[Reg.ESP]),
            (block.RAX, q[Reg.EAX]),
        ):
            vmcb.put(field, value)

    def _become_host(self) -> None:
        """Flat segments, no paging, EIP at VMRUN; what VMRUN does not load stays the guest's."""
        q, d = self._state.q, self._state.d
        q[Reg.EAX], q[hw.Q_EIP] = self._block_at, self._code_at
        q[hw.Q_CR], q[hw.Q_CR + 4], q[hw.Q_EFER] = _HOST_CR0, _HOST_CR4, _HOST_EFER
        q[hw.Q_EFLAGS], q[hw.Q_CC_SRC] = _ONE, 0
        q[hw.Q_VM_HSAVE] = self._host_save_at
        d[hw.D_CC_OP], d[hw.D_DF] = hw.CC_OP_EFLAGS, 1
        d[hw.D_HFLAGS], d[hw.D_HFLAGS2] = _HOST_HFLAGS, _GIF
        for seg, at in _SEG_AT:
            d[at + hw.SEG_BASE], d[at + hw.SEG_LIMIT] = 0, MASK32
            d[at + hw.SEG_FLAGS] = _HOST_CODE if seg is Seg.CS else _HOST_DATA


class Injection:
    """An external interrupt on its way into the guest. The engine clears the valid bit when it is delivered; a fault on
    the way leaves the guest as it was, and the bit set."""

    def __init__(self, vmcb: Vmcb) -> None:
        self._vmcb = vmcb
        self._vector: int | None = None

    def begin(self, vector: int) -> None:
        """The next VMRUN delivers it."""
        self._vector = vector
        self._vmcb.put(block.EVENT_INJECTION, block.external_interrupt(vector))

    @property
    def is_waiting(self) -> bool:
        """Has it not been delivered yet?"""
        if self._vector is not None and not self._vmcb.get(block.EVENT_INJECTION) & block.EVENT_VALID:
            self._vector = None
        return self._vector is not None

    def take_back(self) -> int | None:
        """The vector of an interrupt that has not been delivered, which VMRUN then will not do either; else None."""
        if not self.is_waiting:
            return None
        vector, self._vector = self._vector, None
        self._vmcb.put(block.EVENT_INJECTION, 0)
        return vector
