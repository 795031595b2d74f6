"""A guest in guest mode on the CPU of `cpu_rig`: its tables serve as the guest's, or as nested ones."""

from cpu_rig import CODE, CR0, GDT, Exit, P, Rig, U, W

from vmm.arch import vmcb as block
from vmm.arch.descriptors import Descriptor
from vmm.hw import state as hw
from vmm.hw.guest_mode import EFER_SVME, GuestMode

IDT = 0x34_0000
HANDLER = CODE + 0x800


class SvmRig(Rig):
    """`run_guest` enters guest mode by VMRUN, at 32-bit CPL 0 unless the test says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.memory.allocate(0x40_0000)  # what the rig uses
        self.map(IDT, IDT, P)
        self.mode = GuestMode(self.cpu, self.memory)
        self.vmcb = self.mode.vmcb
        self.put(
            GDT + 8, Descriptor(0, 0xFFFF_FFFF, 0xC0_9B00).to_bytes() + Descriptor(0, 0xFFFF_FFFF, 0xC0_9300).to_bytes()
        )

    def identity(self, *pages: int) -> None:
        """Map pages writable and executable at their own addresses."""
        for page in pages:
            self.map(page, page, P | W | U)

    def prepare(self, code: str | bytes, cpl: int = 0, code32: bool = True, cr0: int = CR0) -> None:
        """Put code at CODE and the guest's state in place."""
        self.load(code, code32=code32)
        self.enter(cpl=cpl, code32=code32)
        q, d = self.cpu.state.q, self.cpu.state.d
        q[hw.Q_CR] = cr0
        q[hw.Q_EFER] |= EFER_SVME
        d[hw.D_IDT + hw.SEG_BASE], d[hw.D_IDT + hw.SEG_LIMIT] = IDT, 0x7FF

    def run_guest(self) -> Exit:
        """VMRUN; to the first exit that `then` does not handle."""
        self.mode.prepare()
        return self.run()

    def leave_on(self, intercepts: int = 0, exceptions: int = 0, cr_reads: int = 0, cr_writes: int = 0) -> None:
        """What leaves the guest besides VMRUN."""
        self.vmcb.put(block.INTERCEPTS, int(intercepts) | int(block.Intercept.VMRUN))
        self.vmcb.put(block.EXCEPTIONS, exceptions)
        self.vmcb.put(block.CR_READS, cr_reads)
        self.vmcb.put(block.CR_WRITES, cr_writes)
