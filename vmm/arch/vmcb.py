"""The virtual machine control block of AMD-V, and the codes of its exits.

`Vmcb` lies over the 4-KByte page that VMRUN reads: its first KByte says what leaves the guest, the rest is the guest's
processor state. A descriptor's attributes are packed there into twelve bits.

Source: AMD64 Architecture Programmer's Manual (APM), Vol. 2, Appendix B, "Layout of VMCB"; Appendix C, "SVM Intercept
Exit Codes"; "Event Injection".
"""

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from vmm.arch.layout import PAGE_SIZE


class Field(NamedTuple):
    """Where a field lies in the block: offset and size in bytes."""

    offset: int
    size: int


# Control area.
CR_READS: Final = Field(0x000, 2)  # bit n: MOV from CRn
CR_WRITES: Final = Field(0x002, 2)
DR_READS: Final = Field(0x004, 2)
DR_WRITES: Final = Field(0x006, 2)
EXCEPTIONS: Final = Field(0x008, 4)  # bit n: vector n
INTERCEPTS: Final = Field(0x00C, 8)  # see Intercept
IOPM_BASE: Final = Field(0x040, 8)
MSRPM_BASE: Final = Field(0x048, 8)
ASID: Final = Field(0x058, 4)
TLB_CONTROL: Final = Field(0x05C, 1)
VIRTUAL_INTERRUPT: Final = Field(0x060, 4)  # see VirtualInterrupt
VIRTUAL_VECTOR: Final = Field(0x064, 1)  # of the one that V_IRQ says waits
INTERRUPT_SHADOW: Final = Field(0x068, 8)  # bit 0
EXIT_CODE: Final = Field(0x070, 8)
EXIT_INFO_1: Final = Field(0x078, 8)
EXIT_INFO_2: Final = Field(0x080, 8)
EXIT_INTERRUPT_INFO: Final = Field(0x088, 8)
NESTED_CONTROL: Final = Field(0x090, 8)
EVENT_INJECTION: Final = Field(0x0A8, 8)
NESTED_CR3: Final = Field(0x0B0, 8)

# State save area. Its segments are ES CS SS DS FS GS in the order of their encoding, then GDTR LDTR IDTR TR.
SEGMENTS: Final = 0x400
SEGMENT_SIZE: Final = 16
GDTR, LDTR, IDTR, TR = 6, 7, 8, 9
CPL: Final = Field(0x4CB, 1)
EFER: Final = Field(0x4D0, 8)
CR4: Final = Field(0x548, 8)
CR3: Final = Field(0x550, 8)
CR0: Final = Field(0x558, 8)
DR7: Final = Field(0x560, 8)
DR6: Final = Field(0x568, 8)
RFLAGS: Final = Field(0x570, 8)
RIP: Final = Field(0x578, 8)
RSP: Final = Field(0x5D8, 8)
RAX: Final = Field(0x5F8, 8)
SYSENTER_CS: Final = Field(0x628, 8)  # these three by VMLOAD and VMSAVE
SYSENTER_ESP: Final = Field(0x630, 8)
SYSENTER_EIP: Final = Field(0x638, 8)
CR2: Final = Field(0x640, 8)

MSR_PERMISSION_SIZE: Final = 2 * PAGE_SIZE
"""Of the MSR permissions map: two bits an MSR, read and write (APM Vol. 2, "MSR Intercepts")."""


class Intercept(IntFlag):
    """Bits of the intercept vector at 00Ch, 64 of them."""

    INTR = 1 << 0
    NMI = 1 << 1
    RDTSC = 1 << 14
    RDPMC = 1 << 15
    PUSHF = 1 << 16
    POPF = 1 << 17
    CPUID = 1 << 18
    RSM = 1 << 19
    IRET = 1 << 20
    INT_N = 1 << 21
    INVD = 1 << 22
    HLT = 1 << 24
    INVLPG = 1 << 25
    INVLPGA = 1 << 26
    IOIO = 1 << 27
    MSR = 1 << 28
    TASK_SWITCH = 1 << 29
    SHUTDOWN = 1 << 31
    VMRUN = 1 << 32
    VMMCALL = 1 << 33
    VMLOAD = 1 << 34
    VMSAVE = 1 << 35
    STGI = 1 << 36
    CLGI = 1 << 37
    SKINIT = 1 << 38
    RDTSCP = 1 << 39
    ICEBP = 1 << 40
    WBINVD = 1 << 41
    MONITOR = 1 << 42
    MWAIT = 1 << 43


class VirtualInterrupt(IntFlag):
    """Bits of the dword at 060h."""

    V_IRQ = 1 << 8
    V_IGN_TPR = 1 << 20
    V_INTR_MASKING = 1 << 24


class ExitCode(IntEnum):
    """Why the guest left; ranges begin at the names with a 0."""

    CR0_READ = 0x000
    CR0_WRITE = 0x010
    DR0_READ = 0x020
    DR0_WRITE = 0x030
    EXCEPTION_0 = 0x040
    INTR = 0x060
    NMI = 0x061
    RDTSC = 0x06E
    RDPMC = 0x06F
    PUSHF = 0x070
    POPF = 0x071
    CPUID = 0x072
    IRET = 0x074
    INT_N = 0x075
    INVD = 0x076
    HLT = 0x078
    INVLPG = 0x079
    INVLPGA = 0x07A
    IOIO = 0x07B
    MSR = 0x07C
    TASK_SWITCH = 0x07D
    SHUTDOWN = 0x07F
    VMRUN = 0x080
    VMMCALL = 0x081
    VMLOAD = 0x082
    VMSAVE = 0x083
    STGI = 0x084
    CLGI = 0x085
    SKINIT = 0x086
    RDTSCP = 0x087
    ICEBP = 0x088
    WBINVD = 0x089
    MONITOR = 0x08A
    MWAIT = 0x08B
    NESTED_PAGE_FAULT = 0x400


class EventType(IntEnum):
    """Bits 10:8 of EVENTINJ."""

    EXTERNAL = 0
    NMI = 2
    EXCEPTION = 3
    SOFTWARE = 4


INVALID: Final = (1 << 64) - 1
"""The exit code of a VMRUN that has found the block to be wrong."""
EVENT_VALID: Final = 1 << 31
_EVENT_HAS_CODE: Final = 1 << 11
_EVENT_CODE_SHIFT: Final = 32
_EVENT_TYPE_SHIFT: Final = 8
_ACCESS_SHIFT: Final = 8  # of the attributes in dword 1 of a descriptor: type, S, DPL, P
_ACCESS: Final = 0xFF
_BITS_SHIFT: Final = 12  # of AVL, L, D/B, G there, from where the attributes have them
_BITS: Final = 0xF00


def external_interrupt(vector: int) -> int:
    """EVENTINJ for an external interrupt: 64 bits."""
    return EVENT_VALID | EventType.EXTERNAL << _EVENT_TYPE_SHIFT | vector


def exception(vector: int, error_code: int | None) -> int:
    """EVENTINJ for an exception: 64 bits."""
    code = 0 if error_code is None else _EVENT_HAS_CODE | error_code << _EVENT_CODE_SHIFT
    return EVENT_VALID | EventType.EXCEPTION << _EVENT_TYPE_SHIFT | vector | code


def pack_attributes(flags: int) -> int:
    """Dword 1 of a descriptor to the 12 bits of attributes in the block."""
    return flags >> _ACCESS_SHIFT & _ACCESS | flags >> _BITS_SHIFT & _BITS


def unpack_attributes(attributes: int) -> int:
    """The attributes in the block to dword 1 of a descriptor, without base and limit."""
    return (attributes & _ACCESS) << _ACCESS_SHIFT | (attributes & _BITS) << _BITS_SHIFT


class Segment(NamedTuple):
    """A segment register as the block holds it; `flags` are dword 1 of its descriptor."""

    selector: int
    base: int
    limit: int
    flags: int


class Vmcb:
    """The block as an overlay over its page."""

    def __init__(self, page: memoryview) -> None:
        if len(page) != PAGE_SIZE:
            raise ValueError(f"VMCB: {len(page)} bytes given, {PAGE_SIZE} expected")
        self._page = page

    def get(self, field: Field) -> int:
        """A field's value."""
        return int.from_bytes(self._page[field.offset : field.offset + field.size], "little")

    def put(self, field: Field, value: int) -> None:
        """Write a field; OverflowError when the value is too wide."""
        self._page[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")

    def segment(self, number: int) -> Segment:
        """A segment or table register, by encoding or as GDTR LDTR IDTR TR."""
        at = SEGMENTS + number * SEGMENT_SIZE
        raw = self._page[at : at + SEGMENT_SIZE]
        selector, attributes, limit, base = (
            int.from_bytes(raw[start:end], "little") for start, end in ((0, 2), (2, 4), (4, 8), (8, 16))
        )
        return Segment(selector, base, limit, unpack_attributes(attributes))

    def put_segment(self, number: int, segment: Segment) -> None:
        """Write a segment or table register."""
        at = SEGMENTS + number * SEGMENT_SIZE
        self._page[at : at + SEGMENT_SIZE] = (
            segment.selector.to_bytes(2, "little")
            + pack_attributes(segment.flags).to_bytes(2, "little")
            + segment.limit.to_bytes(4, "little")
            + segment.base.to_bytes(8, "little")
        )
