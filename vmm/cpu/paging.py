"""Guest-linear memory as the guest's own accesses see it: A20, the guest's page tables, their faults.

Source: Intel SDM Vol. 3A, "Paging"; A20: IBM PC/AT Technical Reference, "Real Address Mode".
"""

from typing import Final, NamedTuple, Protocol

from vmm.arch.exceptions import GuestFault, PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SIZE
from vmm.arch.paging import (
    FRAME_32,
    FRAME_PAE,
    LARGE_FRAME_32,
    LARGE_FRAME_PAE,
    LARGE_OFFSET_32,
    LARGE_OFFSET_PAE,
    LARGE_RESERVED_32,
    LARGE_RESERVED_PAE,
    PDPT_BASE,
    RESERVED_PAE,
    Pte,
)
from vmm.arch.registers import Cr0, Cr4
from vmm.memory import GuestMemory

_PG: Final = int(Cr0.PG)
_WP: Final = int(Cr0.WP)
_PSE: Final = int(Cr4.PSE)
_PAE: Final = int(Cr4.PAE)
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
A20_OPEN: Final = (1 << 64) - 1
A20_CLOSED: Final = A20_OPEN & ~A20_BIT


class PagingRegisters(Protocol):
    """The control registers that decide about paging; the virtual CPU has them."""

    cr0: int
    cr3: int
    cr4: int


class _Path(NamedTuple):
    """What a walk met: the directory entry and the leaf, the same one for a large page, with their addresses."""

    directory_at: int
    directory: int
    leaf_at: int
    leaf: int
    frame_mask: int
    offset_mask: int


class Mmu:
    """Linear to physical for one virtual CPU. `a20_mask` is ANDed to every guest-physical address."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.registers: PagingRegisters
        self.a20_mask = A20_OPEN

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

        Limits: PDPTEs are read at each walk, not kept from the last load of CR3; their reserved bits raise no #GP.
        Source: SDM Vol. 3A, "32-Bit Paging", "PAE Paging", "Access Rights", "Page-Fault Exceptions".
        """
        registers = self.registers
        code = (_FAULT_W if write else 0) | (_FAULT_U if user else 0)
        path = self._path_pae(la, code) if registers.cr4 & _PAE else self._path_32(la, code)
        rights = path.leaf & path.directory
        if (user and not rights & _U) or (write and not rights & _W and (user or registers.cr0 & _WP)):
            raise GuestFault(Vector.PF, code | _FAULT_P, la)
        if path.directory_at != path.leaf_at and not path.directory & _A:
            self._set_entry(path.directory_at, path.directory | _A)
        wanted = path.leaf | _A | (_D if write else 0)
        if wanted != path.leaf:
            self._set_entry(path.leaf_at, wanted)
        gpa = path.leaf & path.frame_mask | la & path.offset_mask
        return gpa & self.a20_mask, rights & (_W | _U) | wanted & _D

    def _path_32(self, la: int, code: int) -> _Path:
        pde_at = (self.registers.cr3 & FRAME_32) + (la >> 20 & 0xFFC)
        pde = self._present(pde_at, 4, la, code)
        if pde & _PS and self.registers.cr4 & _PSE:
            self._check_reserved(pde, LARGE_RESERVED_32, la, code)
            return _Path(pde_at, pde, pde_at, pde, LARGE_FRAME_32, LARGE_OFFSET_32)
        pte_at = (pde & FRAME_32) + (la >> 10 & 0xFFC)
        return _Path(pde_at, pde, pte_at, self._present(pte_at, 4, la, code), FRAME_32, PAGE_MASK)

    def _path_pae(self, la: int, code: int) -> _Path:
        pdpte = self._present((self.registers.cr3 & PDPT_BASE) + (la >> 27 & 0x18), 8, la, code)
        pde_at = (pdpte & FRAME_PAE) + (la >> 18 & 0xFF8)
        pde = self._present(pde_at, 8, la, code)
        self._check_reserved(pde, RESERVED_PAE, la, code)
        if pde & _PS:
            self._check_reserved(pde, LARGE_RESERVED_PAE, la, code)
            return _Path(pde_at, pde, pde_at, pde, LARGE_FRAME_PAE, LARGE_OFFSET_PAE)
        pte_at = (pde & FRAME_PAE) + (la >> 9 & 0xFF8)
        pte = self._present(pte_at, 8, la, code)
        self._check_reserved(pte, RESERVED_PAE, la, code)
        return _Path(pde_at, pde, pte_at, pte, FRAME_PAE, PAGE_MASK)

    def _present(self, gpa: int, size: int, la: int, code: int) -> int:
        entry = int.from_bytes(self.memory.read(gpa & self.a20_mask, size), "little")
        if not entry & _P:
            raise GuestFault(Vector.PF, code, la)
        return entry

    @staticmethod
    def _check_reserved(entry: int, reserved: int, la: int, code: int) -> None:
        if entry & reserved:
            raise GuestFault(Vector.PF, code | _FAULT_RSVD | _FAULT_P, la)

    def _set_entry(self, gpa: int, value: int) -> None:
        """Write the low half of an entry back: accessed and dirty are in it, in both sizes."""
        self.memory.write(gpa & self.a20_mask, (value & MASK32).to_bytes(4, "little"))

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
