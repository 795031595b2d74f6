"""A guest small enough to see whole: identity memory with a GDT, LDT, IDT and TSS in it, and a vCPU on top.

`World.fault_of` runs something that must fault and proves that it left no trace.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmm.arch.descriptors import Descriptor, Gate
from vmm.arch.exceptions import GuestFault, PageFault, Vector, gp
from vmm.arch.registers import Cr0, Eflags, Reg, Seg
from vmm.cpu.vcpu import SegmentRegister, Vcpu

SIZE = 1 << 20
GDT, LDT, IDT, TSS, TSS_B = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
STACK0, STACK1, STACK3 = 0x8000, 0x9000, 0xC000

# Access bytes.
DATA, DATA_RO, DATA_DOWN, CODE, CODE_XO, CONFORMING = 0x93, 0x91, 0x97, 0x9B, 0x99, 0x9F
LDT_TYPE, TSS16_FREE, TSS16_BUSY, TSS32_FREE, TSS32_BUSY = 0x82, 0x81, 0x83, 0x89, 0x8B
RING1, RING2, RING3 = 0x20, 0x40, 0x60
ABSENT = 0x80  # xor
FRESH = 0x01  # xor: not accessed yet
BIG, PAGES = 1 << 22, 1 << 23

CODE0, DATA0, CODE3, DATA3 = 0x08, 0x10, 0x1B, 0x23
CODE1, DATA1, CONF0, CODE16 = 0x29, 0x31, 0x38, 0x40
MAIN_TSS, OTHER_TSS, THE_LDT = 0x48, 0x50, 0x58
FREE = 0x80  # first selector left to the tests


@dataclass
class FlatMemory:
    """Linear memory without translation; pages in `missing` fault, those in `read_only` fault on writes."""

    data: bytearray = field(default_factory=lambda: bytearray(SIZE))
    missing: set[int] = field(default_factory=set)
    read_only: set[int] = field(default_factory=set)
    accesses: list[tuple[int, bool]] = field(default_factory=list)
    bad_pdptes: bool = False

    def _check(self, la: int, count: int, user: bool, write: bool) -> None:
        assert count > 0
        assert 0 <= la < 1 << 32
        for page in range(la >> 12, (la + count - 1 >> 12) + 1):
            code = (PageFault.W if write else 0) | (PageFault.U if user else 0)
            where = max(la, page << 12)
            if page in self.missing:
                raise GuestFault(Vector.PF, int(code), where)
            if write and page in self.read_only:
                raise GuestFault(Vector.PF, int(code | PageFault.P), where)
        self.accesses.append((la, user))

    def read_bytes(self, la: int, count: int, user: bool) -> bytes:
        self._check(la, count, user, False)
        return bytes(self.data[(la + i) % SIZE] for i in range(count))

    def write_bytes(self, la: int, data: bytes, user: bool) -> None:
        self._check(la, len(data), user, True)
        for i, byte in enumerate(data):
            self.data[(la + i) % SIZE] = byte

    def read(self, la: int, size: int, user: bool) -> int:
        return int.from_bytes(self.read_bytes(la, size, user), "little")

    def write(self, la: int, size: int, value: int, user: bool) -> None:
        self.write_bytes(la, value.to_bytes(size, "little"), user)

    def check_read(self, la: int, count: int, user: bool) -> None:
        self._check(la, count, user, False)

    def check_write(self, la: int, count: int, user: bool) -> None:
        self._check(la, count, user, True)

    def read_pdptes(self, cr3: int) -> list[int]:
        if self.bad_pdptes:
            raise gp()
        return [cr3 | 1, 0, 0, 0]


def descriptor(base: int, limit: int, access: int, bits: int = BIG) -> bytes:
    """Eight bytes; `limit` in bytes, `bits` the D/B and G bits of dword 1."""
    return Descriptor(base, limit, access << 8 | bits).to_bytes()


def gate(kind: int, selector: int, offset: int, *, dpl: int = 0, present: bool = True, count: int = 0) -> bytes:
    """Eight bytes of a gate."""
    return Gate(offset, selector, kind, dpl, present, count).to_bytes()


class World:
    """A vCPU, its memory, and short names for the tests."""

    def __init__(self) -> None:
        self.memory = FlatMemory()
        self.vcpu = Vcpu(memoryview(bytearray(4096)), self.memory)

    # --- set-up -----------------------------------------------------------------------------------------

    def real(self) -> None:
        vcpu = self.vcpu
        for seg in Seg:
            old = vcpu.segment(seg)
            vcpu.set_segment(seg, SegmentRegister(0x100 * seg, 0x1000 * seg, 0xFFFF, old.flags))
        vcpu.idtr = (0, 0x3FF)
        vcpu.set_reg32(Reg.ESP, 0x800)
        vcpu.eip = 0x123

    def protected(self, cpl: int = 0) -> None:
        """32-bit flat protected mode at CPL 0, 1 or 3."""
        vcpu = self.vcpu
        vcpu.cr0 |= int(Cr0.PE)
        for selector, access in (
            (CODE0, CODE),
            (DATA0, DATA),
            (CODE3, CODE | RING3),
            (DATA3, DATA | RING3),
            (CODE1, CODE | RING1),
            (DATA1, DATA | RING1),
            (CONF0, CONFORMING),
        ):
            self.put(selector, descriptor(0, 0xFFFF_FFFF, access, BIG | PAGES))
        self.put(CODE16, descriptor(0x1_0000, 0xFFFF, CODE, 0))
        self.put(MAIN_TSS, descriptor(TSS, 0x67, TSS32_BUSY, 0))
        self.put(OTHER_TSS, descriptor(TSS_B, 0x67, TSS32_FREE, 0))
        self.put(THE_LDT, descriptor(LDT, 0xFF, LDT_TYPE, 0))
        vcpu.gdtr, vcpu.idtr = (GDT, 0x1FF), (IDT, 0x7FF)
        vcpu.ldtr = SegmentRegister(THE_LDT, LDT, 0xFF, LDT_TYPE << 8)
        vcpu.tr = SegmentRegister(MAIN_TSS, TSS, 0x67, TSS32_BUSY << 8)
        for privilege, (pointer, selector) in enumerate(((STACK0, DATA0), (STACK1, DATA1))):
            self.dword(TSS + 4 + 8 * privilege, pointer)
            self.dword(TSS + 8 + 8 * privilege, selector)
        code, data = {0: (CODE0, DATA0), 1: (CODE1, DATA1), 3: (CODE3, DATA3)}[cpl]
        vcpu.cpl = cpl
        self.load(Seg.CS, code)
        for seg in Seg:
            if seg != Seg.CS:
                self.load(seg, data)
        vcpu.set_reg32(Reg.ESP, {0: STACK0 - 0x100, 1: STACK1 - 0x100, 3: STACK3}[cpl])
        vcpu.eip = 0x7000

    def v86(self, iopl: int = 3) -> None:
        self.protected(3)
        vcpu = self.vcpu
        vcpu.eflags |= int(Eflags.VM) | iopl << 12
        for seg in Seg:
            vcpu.set_segment(seg, SegmentRegister(0x100 * seg, 0x1000 * seg, 0xFFFF, 0xF300))
        vcpu.set_reg32(Reg.ESP, 0x800)
        vcpu.eip = 0x123

    def put(self, selector: int, raw: bytes) -> None:
        """Write a descriptor or gate where a selector points."""
        at = (LDT if selector & 4 else GDT) + (selector & 0xFFF8)
        self.memory.data[at : at + 8] = raw

    def raw(self, selector: int) -> bytes:
        at = (LDT if selector & 4 else GDT) + (selector & 0xFFF8)
        return bytes(self.memory.data[at : at + 8])

    def access(self, selector: int) -> int:
        """The access byte of a descriptor."""
        return self.raw(selector)[5]

    def idt(self, vector: int, raw: bytes) -> None:
        self.memory.data[IDT + 8 * vector : IDT + 8 * vector + 8] = raw

    def load(self, seg: int, selector: int) -> None:
        """Put a descriptor into a segment register without any check."""
        found = Descriptor.from_bytes(self.raw(selector))
        self.vcpu.set_segment(seg, SegmentRegister(selector, found.base, found.limit, found.flags))

    def dword(self, at: int, value: int) -> None:
        self.memory.data[at : at + 4] = value.to_bytes(4, "little")

    def word(self, at: int, value: int) -> None:
        self.memory.data[at : at + 2] = value.to_bytes(2, "little")

    def push(self, *values: int, size: int = 4) -> None:
        """Push onto the guest's stack, last one on top, as a frame for RETF and IRET."""
        vcpu = self.vcpu
        for value in values:
            top = vcpu.reg32(Reg.ESP) - size
            vcpu.set_reg32(Reg.ESP, top)
            at = vcpu.base(Seg.SS) + top
            self.memory.data[at : at + size] = value.to_bytes(size, "little")

    # --- looking ----------------------------------------------------------------------------------------

    def stack(self, count: int, size: int = 4) -> list[int]:
        """The top of the guest's stack, top first."""
        wide = self.vcpu.stack_size == 4
        pointer = self.vcpu.reg32(Reg.ESP) if wide else self.vcpu.reg(Reg.ESP, 2)
        at = self.vcpu.base(Seg.SS) + pointer
        return [int.from_bytes(self.memory.data[at + i * size : at + i * size + size], "little") for i in range(count)]

    @property
    def here(self) -> tuple[int, int, int]:
        """(CS, EIP, CPL)."""
        return self.vcpu.selector(Seg.CS), self.vcpu.eip, self.vcpu.cpl

    def selectors(self) -> dict[str, int]:
        return {seg.name: self.vcpu.selector(seg) for seg in Seg}

    def snapshot(self) -> dict[str, Any]:
        """Everything the guest could tell apart, but for memory."""
        vcpu = self.vcpu
        return {
            "regs": [vcpu.reg32(reg) for reg in Reg],
            "eip": vcpu.eip,
            "cpl": vcpu.cpl,
            "eflags": vcpu.eflags,
            "segments": [vcpu.segment(seg) for seg in Seg],
            "system": (vcpu.ldtr, vcpu.tr, vcpu.gdtr, vcpu.idtr),
            "cr": (vcpu.cr0, vcpu.cr2, vcpu.cr3, vcpu.cr4),
            "dr": list(vcpu.dr),
            "msrs": (dict(vcpu.msrs), vcpu.efer, list(vcpu.pdptes)),
            "run": (vcpu.halted, vcpu.interrupt_shadow, vcpu.stale, list(vcpu.stale_pages), vcpu.pending_debug),
        }

    def fault_of(self, action: Callable[[], object]) -> tuple[int, int | None]:
        """(vector, error code) of the fault that `action` raises; state and memory must be as before."""
        before, memory = self.snapshot(), bytes(self.memory.data)
        try:
            action()
        except GuestFault as fault:
            assert self.snapshot() == before
            assert bytes(self.memory.data) == memory
            return fault.vector, fault.error_code
        raise AssertionError("no fault")
