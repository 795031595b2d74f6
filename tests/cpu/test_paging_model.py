"""The walk against an independent model, under random tables.

The model follows the SDM's tables literally: one list of levels for each kind of paging, one pass over the entries for
presence and reserved bits, one for rights. It knows nothing of the walk's code but its answers.
Source: Intel SDM Vol. 3A, "32-Bit Paging", "PAE Paging", "Determination of Access Rights", "Page-Fault Exceptions".
"""

import random
from dataclasses import dataclass, field

import pytest

from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.registers import Cr0, Cr4, Efer
from vmm.cpu.paging import A20_CLOSED, A20_OPEN, Mmu
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

RAM = 64 << 10
OUTSIDE = 0x3000_0000
PAGES = [0x1000 * number for number in range(5)]  # tables may be any of them, and each other
ROOT = 0
SLOTS = 4  # so many entries of each table are used
WORLDS = 300
PDPTE = [0x1001, 0x2001, 0x0, 0x3001]

P, W, U, A, D, PS, G = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8))
NX = 1 << 63


@dataclass
class Registers:
    """The registers that decide about paging."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    pdptes: list[int] = field(default_factory=lambda: list(PDPTE))


@dataclass(frozen=True)
class Access:
    """One access of the guest."""

    la: int
    write: bool
    user: bool
    fetch: bool


class Faults(Exception):
    """The error code of the page fault that the model finds."""


# --- the model -------------------------------------------------------------------------------------------------


class Model:
    """The SDM's paging over `memory`, a dict of entries by address."""

    def __init__(self, registers: Registers, memory: bytearray, a20_mask: int) -> None:
        self.registers, self.memory, self.a20_mask = registers, memory, a20_mask
        self.is_pae = bool(registers.cr4 & Cr4.PAE)
        self.has_nx = self.is_pae and bool(registers.efer & Efer.NXE)
        self.size = 8 if self.is_pae else 4

    def entry(self, at: int) -> int:
        if at >= RAM:
            return (1 << 8 * self.size) - 1
        return int.from_bytes(self.memory[at : at + self.size], "little")

    def error(self, access: Access, present: bool, reserved: bool = False) -> Faults:
        fetch = access.fetch and self.has_nx
        return Faults(present | access.write << 1 | access.user << 2 | reserved << 3 | fetch << 4)

    def reserved_bits(self, entry: int, is_directory: bool) -> int:
        if not self.is_pae:
            large = is_directory and entry & PS and self.registers.cr4 & Cr4.PSE
            return sum(1 << bit for bit in range(12, 22)) if large else 0 if is_directory else PS
        bits = set(range(36, 63)) | (set() if self.has_nx else {63})
        if is_directory and entry & PS:
            bits |= set(range(12, 21))
        if not is_directory:
            bits.add(7)  # there is no PAT
        return sum(1 << bit for bit in bits)

    def path(self, access: Access) -> tuple[list[int], int]:
        """The addresses of the entries used, and log2 of the page's size."""
        la, frame = access.la, (1 << 36) - (1 << 12) if self.is_pae else 0xFFFF_F000
        if self.is_pae:
            pointer = self.registers.pdptes[la >> 30]
            if not pointer & P:
                raise self.error(access, False)
            steps = [(21, 512), (12, 512)]
            table = pointer & frame
        else:
            steps = [(22, 1024), (12, 1024)]
            table = self.registers.cr3 & frame
        used = []
        for shift, count in steps:
            at = table + (la >> shift) % count * self.size & self.a20_mask
            entry = self.entry(at)
            if not entry & P:
                raise self.error(access, False)
            if entry & self.reserved_bits(entry, shift != 12):
                raise self.error(access, True, reserved=True)
            used.append(at)
            if shift != 12 and entry & PS and (self.is_pae or self.registers.cr4 & Cr4.PSE):
                return used, shift
            table = entry & frame
        return used, 12

    def walk(self, access: Access) -> tuple[int, int]:
        used, shift = self.path(access)
        entries = [self.entry(at) for at in used]
        user_page, writable = all(e & U for e in entries), all(e & W for e in entries)
        allowed = user_page or not access.user
        if access.write and not writable:
            allowed = allowed and not access.user and not self.registers.cr0 & Cr0.WP
        if access.fetch and self.has_nx and any(e & NX for e in entries):
            allowed = False
        if not allowed:
            raise self.error(access, True)
        leaf = entries[-1]
        for at in used:
            self.mark(at, A)
        if access.write:
            self.mark(used[-1], D)
        size = 1 << shift
        gpa = (leaf % (1 << 36) // size * size + access.la % size) & self.a20_mask
        dirty = leaf & D or access.write
        rights = (W if writable else 0) | (U if user_page else 0) | (D if dirty else 0) | (PS if shift != 12 else 0)
        return gpa, rights | (G if leaf & G and self.registers.cr4 & Cr4.PGE else 0)

    def mark(self, at: int, bit: int) -> None:
        if at < RAM:
            self.memory[at] |= bit


# --- random tables ---------------------------------------------------------------------------------------------

FRAMES = [*PAGES, *PAGES, OUTSIDE, 0x10_1000]
RIGHTS = [P | W | U] * 4 + [P, P | W, P | U, 0, W | U]
OTHER = [0, 0, A, A | D, D, G, A | G] * 3 + [PS, G | PS]
RARE = [0] * 12 + [1 << 12, 1 << 13, 1 << 20, 1 << 21, 1 << 35, 1 << 36, 1 << 62, NX, NX]


def random_world(rng: random.Random) -> tuple[Registers, bytearray, int]:
    """Registers, RAM with entries in the first slots of each table, an A20 mask."""
    cr4 = rng.choice([0, int(Cr4.PSE)]) | rng.choice([0, int(Cr4.PAE)]) | rng.choice([0, int(Cr4.PGE)])
    memory, size = bytearray(RAM), 8 if cr4 & Cr4.PAE else 4
    for page in PAGES:
        for at in range(page, page + SLOTS * size, size):
            entry = rng.choice(FRAMES) | rng.choice(RIGHTS) | rng.choice(OTHER) | rng.choice(RARE)
            memory[at : at + size] = (entry & (1 << 8 * size) - 1).to_bytes(size, "little")
    registers = Registers(
        cr0=int(Cr0.PG) | rng.choice([0, int(Cr0.WP)]),
        cr3=ROOT | rng.choice([0, 0x18]),
        cr4=cr4,
        efer=rng.choice([0, int(Efer.NXE)]),
    )
    return registers, memory, rng.choice([A20_OPEN] * 5 + [A20_CLOSED])


def random_access(rng: random.Random, pae: bool) -> Access:
    """An access through slots that have entries; a fetch is no write."""
    pointer, directory, table = (rng.randrange(SLOTS) for _ in range(3))
    la = (pointer << 30 | directory << 21 if pae else directory << 22) | table << 12 | rng.randrange(1 << 12)
    fetch = rng.random() < 0.3
    return Access(la, not fetch and rng.random() < 0.5, rng.random() < 0.5, fetch)


def outcome_of(mmu: Mmu, access: Access) -> object:
    """What the walk answers: (address, rights) or the page fault."""
    try:
        return mmu.walk(access.la, access.write, access.user, access.fetch)
    except GuestFault as fault:
        return Vector(fault.vector), fault.error_code, fault.cr2


def expected_of(model: Model, access: Access) -> object:
    try:
        return model.walk(access)
    except Faults as fault:
        return Vector.PF, fault.args[0], access.la


@pytest.mark.parametrize("seed", range(8))
def test_the_walk_does_what_the_manual_says(seed):
    """Several accesses in a row over the same tables: what one leaves in them, the next one meets."""
    physical = PhysicalMemory(RAM)
    guest = GuestMemory(physical, RAM)
    guest.map(MemoryRegion("ram", 0, RAM, physical.allocate(RAM)))
    mmu, rng, faults = Mmu(guest), random.Random(seed), 0
    for _ in range(WORLDS):
        mmu.registers, memory, mmu.a20_mask = random_world(rng)
        guest.write(0, bytes(memory))
        model = Model(mmu.registers, memory, mmu.a20_mask)
        for _ in range(6):
            access = random_access(rng, model.is_pae)
            expected = expected_of(model, access)
            assert outcome_of(mmu, access) == expected, (access, mmu.registers)
            assert guest.read(0, RAM) == memory
            faults += expected[0] is Vector.PF
    assert WORLDS < faults < 5 * WORLDS  # neither kind of answer is rare
