"""The engine's saved processor state as an overlay: the layout, and typed windows on a buffer.

The blob that `uc_context_save` makes holds QEMU 5.0's `CPUX86State` behind a header of `HEADER` bytes. Offsets are
those of Unicorn 2.1.4; `vmm.hw.calibrate` refuses to run on an engine that puts something elsewhere.
A `CpuState` may lie over the engine's own blob or over a plain bytearray: the virtual CPU does not know which.
"""

from typing import Final

HEADER: Final = 40
STATE_SIZE: Final = 5568

# Indexes into the u64 view.
Q_REGS: Final = 0
Q_EIP: Final = 16
Q_EFLAGS: Final = 17
Q_CC_DST: Final = 18
Q_CC_SRC: Final = 19
Q_CR: Final = 53
Q_EFER: Final = 74
Q_VM_HSAVE: Final = 604  # VM_HSAVE_PA
Q_DR: Final = 675
Q_ACCESS: Final = 695  # where in translated code the access was made that faulted

# Words of ours in the u64 view, bound registers of MPX, which our CPUID does not offer: see `vmm.hw.tsc`.
TSC_IS_HOSTS: Final = 68
TSC_OFFSET: Final = 69

# Indexes into the u32 view.
D_CC_OP: Final = 42
D_DF: Final = 43
D_HFLAGS: Final = 44
D_HFLAGS2: Final = 45
D_SEGS: Final = 46
D_LDT: Final = 82
D_TR: Final = 88
D_GDT: Final = 94
D_IDT: Final = 100
D_A20_MASK: Final = 124
D_ERROR_CODE: Final = 1346
D_EXCEPTION_IS_INT: Final = 1347
D_OLD_EXCEPTION: Final = 1374

# Byte offsets of the x87, MMX and SSE state. Nothing of it is a pointer: it may be saved and put back as raw bytes.
FPU_TOP: Final = 604
FPU_STATUS: Final = 608
FPU_CONTROL: Final = 610
FPU_TAGS: Final = 612  # eight bytes, one per physical register, 1 is empty
FPU_REGISTERS: Final = 624  # eight of 16 bytes, by physical number; MMn is the low half
FPU_OPCODE: Final = 752
FPU_CS: Final = 754
FPU_DS: Final = 756
FPU_IP: Final = 760
FPU_DP: Final = 768
MXCSR: Final = 816
XMM_REGISTERS: Final = 824
XMM_STRIDE: Final = 64  # each is a ZMM register, of which SSE uses the low 16 bytes

FPU_RANGES: Final = ((FPU_TOP, MXCSR + 4), (XMM_REGISTERS, XMM_REGISTERS + 8 * XMM_STRIDE))
"""All of the x87, MMX and SSE state: byte ranges (start, end)."""

# One hidden segment register is 24 bytes; in u32 words: selector, pad, base (u64), limit, flags.
SEG_WORDS: Final = 6
SEG_BASE: Final = 2
SEG_LIMIT: Final = 4
SEG_FLAGS: Final = 5

CC_OP_EFLAGS: Final = 1  # the arithmetic flags are in cc_src as they stand

HF_CPL: Final = 3 << 0
HF_INHIBIT_IRQ: Final = 1 << 3
HF_CS32: Final = 1 << 4
HF_SS32: Final = 1 << 5
HF_ADDSEG: Final = 1 << 6
HF_PE: Final = 1 << 7
HF_MP: Final = 1 << 9
HF_EM: Final = 1 << 10
HF_TS: Final = 1 << 11
HF_VM: Final = 1 << 17
HF_SVME: Final = 1 << 20
HF_GUEST: Final = 1 << 21  # between VMRUN and #VMEXIT
HF_OSFXSR: Final = 1 << 22


class CpuState:
    """Typed windows on one state blob. The views are public for speed: `state.q[Q_REGS + Reg.EAX]`."""

    __slots__ = ("buffer", "d", "q")

    def __init__(self, buffer: memoryview) -> None:
        if len(buffer) != STATE_SIZE:
            raise ValueError(f"state buffer: {len(buffer)} bytes given, {STATE_SIZE} expected")
        self.buffer = buffer.cast("B")
        self.q = self.buffer[: STATE_SIZE // 8 * 8].cast("Q")
        self.d = self.buffer.cast("I")

    @classmethod
    def blank(cls) -> "CpuState":
        """A state of its own, all zero."""
        return cls(memoryview(bytearray(STATE_SIZE)))
