"""Guest-linear memory as the guest's own accesses see it: A20, the guest's page tables, their faults.

Source: Intel SDM Vol. 3A, "Paging"; A20: IBM PC/AT Technical Reference, "Real Address Mode".
"""

from typing import Final, Protocol

from vmm.arch.exceptions import GuestFault, PageFault, Vector, gp
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
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
    PTE_RESERVED,
    RESERVED_PAE,
    RESERVED_PDPTE,
    Pte,
)
from vmm.arch.registers import Cr0, Cr4, Efer
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
_AD: Final = int(Pte.A | Pte.D)
_DG: Final = int(Pte.D | Pte.G)
_WU: Final = int(Pte.W | Pte.U)
_PS: Final = int(Pte.PS)
_NX: Final = int(Pte.NX)
_PGE: Final = int(Cr4.PGE)
_NXE: Final = int(Efer.NXE)
_FAULT_P: Final = int(PageFault.P)
_FAULT_W: Final = int(PageFault.W)
_FAULT_U: Final = int(PageFault.U)
_FAULT_RSVD: Final = int(PageFault.RSVD)
_FAULT_I: Final = int(PageFault.I)
A20_BIT: Final = 1 << 20
A20_OPEN: Final = (1 << 64) - 1
A20_CLOSED: Final = A20_OPEN & ~A20_BIT


class PagingRegisters(Protocol):
    """The registers that decide about paging; the virtual CPU has them. `pdptes` are the four of PAE paging as the
    last load of CR3 found them."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    pdptes: list[int]


Walk = tuple[int, int]
"""(guest-physical address, rights). Rights are Pte bits: W and U as all levels grant them; D as the leaf now has it; PS
if the page is larger than 4 KBytes; G if it is global and CR4.PGE makes that count. NX is not among them."""

Trace = tuple[int, int, int, int, int]
"""(guest-physical address, rights, directory entry, address of the page-table
entry, page-table entry), the entries as the walk leaves them. A large page has no page-table entry: its address is -1,
and its directory entry stands in both places."""

_Path = tuple[int, int, int, int, int]
"""Directory entry's address, directory entry, leaf's address, leaf, guest-physical address. For a large page the
directory entry is the leaf, and its own address is _NO_DIRECTORY."""
_NO_DIRECTORY: Final = -1


class Mmu:
    """Linear to physical for one virtual CPU. `a20_mask` is ANDed to every guest-physical address.

    `copies` are the copies that somebody keeps of frames with paging structures, by guest-physical page number, as
    arrays of entries. An entry that is what its copy says stays so when a walk sets bits in it.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.registers: PagingRegisters
        self.a20_mask = A20_OPEN
        self.copies: dict[int, memoryview] = {}
        self._dwords = memory.physical.view.cast("I")
        self._qwords = memory.physical.view.cast("Q")

    @property
    def is_paging(self) -> bool:
        """CR0.PG."""
        return bool(self.registers.cr0 & _PG)

    def translate(self, la: int, write: bool, user: bool, fetch: bool = False) -> int:
        """Guest-linear to guest-physical, 32 bits (36 under PAE), accessed and dirty bits set in guest RAM.

        Raises: GuestFault #PF with error code and cr2.
        """
        if not self.registers.cr0 & _PG:
            return la & self.a20_mask
        return self.trace(la, write, user, fetch)[0]

    def walk(self, la: int, write: bool, user: bool, fetch: bool = False) -> Walk:
        """As `trace`: where the access goes, and what it may do there."""
        return self.trace(la, write, user, fetch)[:2]

    def trace(self, la: int, write: bool, user: bool, fetch: bool = False) -> Trace:
        """Walk the guest's tables for one access of a paging guest; set accessed and dirty bits.

        `fetch` is an instruction fetch, which NX may forbid. Raises: GuestFault #PF with error code and cr2.
        Source: SDM Vol. 3A, "32-Bit Paging", "PAE Paging", "Access Rights", "Page-Fault Exceptions".
        """
        registers = self.registers
        cr4 = registers.cr4
        code = (_FAULT_W if write else 0) | (_FAULT_U if user else 0)
        if cr4 & _PAE:
            if fetch and registers.efer & _NXE:
                code |= _FAULT_I
            directory_at, directory, leaf_at, leaf, gpa = self._path_pae(la, code)
            if code & _FAULT_I and (directory | leaf) & _NX:
                raise GuestFault(Vector.PF, code | _FAULT_P, la)
        else:
            directory_at, directory, leaf_at, leaf, gpa = self._path_32(la, code, cr4)
        rights = directory & leaf
        if (user and not rights & _U) or (write and not rights & _W and (user or registers.cr0 & _WP)):
            raise GuestFault(Vector.PF, code | _FAULT_P, la)
        wanted = leaf | _AD if write else leaf | _A
        if wanted != leaf or not directory & _A:
            if not directory & _A and directory_at >= 0 and directory_at != leaf_at:
                self._set_entry(directory_at, directory, directory | _A)
            self._set_entry(leaf_at, leaf, wanted)
            directory = wanted if directory_at == leaf_at else directory | _A
        rights = rights & _WU | wanted & (_DG if cr4 & _PGE else _D)
        if directory_at < 0:
            return gpa & self.a20_mask, rights | _PS, wanted, _NO_DIRECTORY, wanted
        return gpa & self.a20_mask, rights, directory, leaf_at, wanted

    def _path_32(self, la: int, code: int, cr4: int) -> _Path:
        pde_at = (self.registers.cr3 & FRAME_32 | la >> 20 & 0xFFC) & self.a20_mask
        region = self.memory.region_at(pde_at >> PAGE_SHIFT)
        if region is None or region.host is None:
            pde = int.from_bytes(self.memory.read(pde_at, 4), "little")
        else:
            pde = self._dwords[region.host + pde_at - region.base >> 2]
        if not pde & _P:
            raise GuestFault(Vector.PF, code, la)
        if pde & _PS and cr4 & _PSE:
            if pde & LARGE_RESERVED_32:
                raise GuestFault(Vector.PF, code | _FAULT_RSVD | _FAULT_P, la)
            return _NO_DIRECTORY, pde, pde_at, pde, pde & LARGE_FRAME_32 | la & LARGE_OFFSET_32
        pte_at = (pde & FRAME_32 | la >> 10 & 0xFFC) & self.a20_mask
        region = self.memory.region_at(pte_at >> PAGE_SHIFT)
        if region is None or region.host is None:
            pte = int.from_bytes(self.memory.read(pte_at, 4), "little")
        else:
            pte = self._dwords[region.host + pte_at - region.base >> 2]
        if not pte & _P:
            raise GuestFault(Vector.PF, code, la)
        if pte & PTE_RESERVED:
            raise GuestFault(Vector.PF, code | _FAULT_RSVD | _FAULT_P, la)
        return pde_at, pde, pte_at, pte, pte & FRAME_32 | la & PAGE_MASK

    def _path_pae(self, la: int, code: int) -> _Path:
        registers = self.registers
        reserved = RESERVED_PAE if registers.efer & _NXE else RESERVED_PAE | _NX
        pdpte = registers.pdptes[la >> 30]
        if not pdpte & _P:
            raise GuestFault(Vector.PF, code, la)
        pde_at = (pdpte & FRAME_PAE | la >> 18 & 0xFF8) & self.a20_mask
        pde = self._present_pae(pde_at, la, code)
        if pde & _PS:
            reserved |= LARGE_RESERVED_PAE
        if pde & reserved:
            raise GuestFault(Vector.PF, code | _FAULT_RSVD | _FAULT_P, la)
        if pde & _PS:
            return _NO_DIRECTORY, pde, pde_at, pde, pde & LARGE_FRAME_PAE | la & LARGE_OFFSET_PAE
        pte_at = (pde & FRAME_PAE | la >> 9 & 0xFF8) & self.a20_mask
        pte = self._present_pae(pte_at, la, code)
        if pte & (reserved | PTE_RESERVED):
            raise GuestFault(Vector.PF, code | _FAULT_RSVD | _FAULT_P, la)
        return pde_at, pde, pte_at, pte, pte & FRAME_PAE | la & PAGE_MASK

    def _present_pae(self, at: int, la: int, code: int) -> int:
        region = self.memory.region_at(at >> PAGE_SHIFT)
        if region is None or region.host is None:
            entry = int.from_bytes(self.memory.read(at, 8), "little")
        else:
            entry = self._qwords[region.host + at - region.base >> 3]
        if not entry & _P:
            raise GuestFault(Vector.PF, code, la)
        return entry

    def _set_entry(self, gpa: int, old: int, value: int) -> None:
        """Write the low half of an entry back: accessed and dirty are in it, in both sizes."""
        self.memory.write(gpa, (value & MASK32).to_bytes(4, "little"))
        copy = self.copies.get(gpa >> PAGE_SHIFT)
        if copy is not None:
            index = (gpa & PAGE_MASK) // copy.itemsize
            if copy[index] == old:
                copy[index] = value

    def read_pdptes(self, cr3: int) -> list[int]:
        """The four page-directory-pointer-table entries that `cr3` (32 bits) points at, as a load of CR3 reads them.

        Raises: GuestFault #GP(0) when a present one has a reserved bit set.
        Source: SDM Vol. 3A, "PDPTE Registers".
        """
        entries = self.pdptes_in_memory(cr3)
        if any(entry & _P and entry & RESERVED_PDPTE for entry in entries):
            raise gp()
        return entries

    def pdptes_in_memory(self, cr3: int) -> list[int]:
        """The four entries, unchecked."""
        raw = self.memory.read(cr3 & PDPT_BASE & self.a20_mask, 32)
        return [int.from_bytes(raw[at : at + 8], "little") for at in range(0, 32, 8)]

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
        if 0 < count <= PAGE_SIZE - (la & PAGE_MASK):
            return self.memory.read(self.translate(la, False, user), count)
        return b"".join(self.memory.read(gpa, size) for gpa, size in self._pieces(la, count, False, user))

    def write_bytes(self, la: int, data: bytes, user: bool) -> None:
        """Write bytes at `la`: all of them, or none and a fault."""
        if 0 < len(data) <= PAGE_SIZE - (la & PAGE_MASK):
            self.memory.write(self.translate(la, True, user), data)
            return
        at = 0
        for gpa, size in self._pieces(la, len(data), True, user):
            self.memory.write(gpa, data[at : at + size])
            at += size

    def check_read(self, la: int, count: int, user: bool) -> None:
        """Raise the fault that a read of `count` bytes at `la` would raise; nothing is read."""
        self._pieces(la, count, False, user)

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
