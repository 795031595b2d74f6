"""Guest-linear memory as the guest's own accesses see it: A20, the guest's page tables, their faults.

Source: Intel SDM Vol. 3A, "Paging"; A20: IBM PC/AT Technical Reference, "Real Address Mode".
"""

from typing import Final, Protocol

from vmm.arch.exceptions import GuestFault, PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SIZE
from vmm.arch.paging import FRAME_32, LARGE_FRAME_32, LARGE_OFFSET_32, LARGE_RESERVED_32, Pte
from vmm.arch.registers import Cr0, Cr4
from vmm.memory import GuestMemory

_PG: Final = int(Cr0.PG)
_WP: Final = int(Cr0.WP)
_PSE: Final = int(Cr4.PSE)
_P: Final = int(Pte.P)
_W: Final = int(Pte.W)
_U: Final = int(Pte.U)
_A: Final = int(Pte.A)
_D: Final = int(Pte.D)
_PS: Final = int(Pte.PS)
_FAULT_P: Final = int(PageFault.P)
_FAULT_W: Final = int(PageFault.W)
_FAULT_U: Final = int(PageFault.U)
_FAULT_RSVD: Final = int(PageFault.RSVD)
A20_BIT: Final = 1 << 20


class PagingRegisters(Protocol):
    """The control registers that decide about paging; the virtual CPU has them."""

    cr0: int
    cr3: int
    cr4: int


class Mmu:
    """Linear to physical for one virtual CPU. `a20_mask` is ANDed to every guest-physical address."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.registers: PagingRegisters
        self.a20_mask = MASK32

    @property
    def is_paging(self) -> bool:
        """CR0.PG."""
        return bool(self.registers.cr0 & _PG)

    def translate(self, la: int, write: bool, user: bool) -> int:
        """Guest-linear to guest-physical, 32 bits, accessed and dirty bits set in guest RAM.

        Raises: GuestFault #PF with error code and cr2.
        """
        if not self.registers.cr0 & _PG:
            return la & self.a20_mask
        return self.walk(la, write, user)[0]

    def walk(self, la: int, write: bool, user: bool) -> tuple[int, int]:
        """Walk the guest's tables for one access: (guest-physical address, the rights: Pte.W, Pte.U and Pte.D).

        Limits: 32-bit paging with 4-KByte and 4-MByte pages; no PAE.
        Source: SDM Vol. 3A, "32-Bit Paging", "Access Rights", "Page-Fault Exceptions".
        """
        registers = self.registers
        code = (_FAULT_W if write else 0) | (_FAULT_U if user else 0)
        pde_at = (registers.cr3 & FRAME_32) + (la >> 20 & 0xFFC)
        pde = self._entry(pde_at)
        if not pde & _P:
            raise GuestFault(Vector.PF, code, la)
        large = bool(pde & _PS and registers.cr4 & _PSE)
        if large:
            if pde & LARGE_RESERVED_32:
                raise GuestFault(Vector.PF, code | _FAULT_RSVD | _FAULT_P, la)
            leaf, leaf_at, rights = pde, pde_at, pde
        else:
            leaf_at = (pde & FRAME_32) + (la >> 10 & 0xFFC)
            leaf = self._entry(leaf_at)
            if not leaf & _P:
                raise GuestFault(Vector.PF, code, la)
            rights = pde & leaf
        if (user and not rights & _U) or (write and not rights & _W and (user or registers.cr0 & _WP)):
            raise GuestFault(Vector.PF, code | _FAULT_P, la)
        if not large and not pde & _A:
            self._set_entry(pde_at, pde | _A)
        wanted = leaf | _A | (_D if write else 0)
        if wanted != leaf:
            self._set_entry(leaf_at, wanted)
        if large:
            gpa = leaf & LARGE_FRAME_32 | la & LARGE_OFFSET_32
        else:
            gpa = leaf & FRAME_32 | la & PAGE_MASK
        return gpa & self.a20_mask, rights & (_W | _U) | wanted & _D

    def _entry(self, gpa: int) -> int:
        return int.from_bytes(self.memory.read(gpa & self.a20_mask, 4), "little")

    def _set_entry(self, gpa: int, value: int) -> None:
        self.memory.write(gpa & self.a20_mask, value.to_bytes(4, "little"))

    # --- LinearMemory (see vcpu.py) --------------------------------------------------------------------

    def read(self, la: int, size: int, user: bool) -> int:
        """Read `size` bytes at `la`, little-endian."""
        if (la & PAGE_MASK) + size <= PAGE_SIZE:
            return int.from_bytes(self.memory.read(self.translate(la, False, user), size), "little")
        return int.from_bytes(self.read_bytes(la, size, user), "little")

    def write(self, la: int, size: int, value: int, user: bool) -> None:
        """Write `size` bytes at `la`; `value` is truncated."""
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        if (la & PAGE_MASK) + size <= PAGE_SIZE:
            self.memory.write(self.translate(la, True, user), data)
        else:
            self.write_bytes(la, data, user)

    def read_bytes(self, la: int, count: int, user: bool) -> bytes:
        """Read `count` bytes at `la`; may cross pages and wrap at 4 GiB."""
        return b"".join(self.memory.read(gpa, size) for gpa, size in self._pieces(la, count, False, user))

    def write_bytes(self, la: int, data: bytes, user: bool) -> None:
        """Write bytes at `la`: all of them, or none and a fault."""
        at = 0
        for gpa, size in self._pieces(la, len(data), True, user):
            self.memory.write(gpa, data[at : at + size])
            at += size

    def check_write(self, la: int, count: int, user: bool) -> None:
        """Raise the fault that a write of `count` bytes at `la` would raise."""
        self._pieces(la, count, True, user)

    def _pieces(self, la: int, count: int, write: bool, user: bool) -> list[tuple[int, int]]:
        pieces = []
        while count > 0:
            la &= MASK32
            size = min(count, PAGE_SIZE - (la & PAGE_MASK))
            pieces.append((self.translate(la, write, user), size))
            la += size
            count -= size
        return pieces
