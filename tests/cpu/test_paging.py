"""The walk of the guest's page tables: rights, faults, accessed and dirty bits, against the SDM's tables."""

from dataclasses import dataclass, field

import pytest

from vmm.arch.exceptions import GuestFault, PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr0, Cr4, Efer
from vmm.cpu.paging import A20_BIT, Mmu
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

RAM = 8 << 20
DIRECTORY, TABLE, FRAME = 0x1000, 0x2000, 0x5000
LA = 0x0040_3123  # directory entry 1, table entry 3
P, W, U, A, D, PS, G = (int(bit) for bit in (Pte.P, Pte.W, Pte.U, Pte.A, Pte.D, Pte.PS, Pte.G))
FP, FW, FU, FRSVD = (int(bit) for bit in (PageFault.P, PageFault.W, PageFault.U, PageFault.RSVD))
PG, WP, PSE, PGE = int(Cr0.PG), int(Cr0.WP), int(Cr4.PSE), int(Cr4.PGE)


@dataclass
class Registers:
    """The control registers of the virtual CPU."""

    cr0: int = PG
    cr3: int = DIRECTORY
    cr4: int = 0
    efer: int = 0
    pdptes: list[int] = field(default_factory=lambda: [0] * 4)


class World:
    """RAM, an MMU, and the two entries that map LA."""

    def __init__(self) -> None:
        physical = PhysicalMemory(RAM)
        self.memory = GuestMemory(physical, RAM)
        self.memory.map(MemoryRegion("ram", 0, RAM, physical.allocate(RAM)))
        self.registers = Registers()
        self.mmu = Mmu(self.memory)
        self.mmu.registers = self.registers
        self.pde_at, self.pte_at = DIRECTORY + 4, TABLE + 12
        self.set_entries(TABLE | P | W | U, FRAME | P | W | U)

    def put(self, gpa: int, value: int) -> None:
        self.memory.write(gpa, value.to_bytes(4, "little"))

    def word(self, gpa: int) -> int:
        return int.from_bytes(self.memory.read(gpa, 4), "little")

    def set_entries(self, pde: int, pte: int) -> None:
        self.put(self.pde_at, pde)
        self.put(self.pte_at, pte)

    def entries(self) -> tuple[int, int]:
        return self.word(self.pde_at), self.word(self.pte_at)


@pytest.fixture
def paged() -> World:
    return World()


def fault_of(world: World, write: bool, user: bool, la: int = LA) -> tuple[int, int | None, int | None]:
    """The fault that an access must raise; it must leave both entries alone."""
    before = world.entries()
    with pytest.raises(GuestFault) as caught:
        world.mmu.translate(la, write, user)
    assert world.entries() == before
    return caught.value.vector, caught.value.error_code, caught.value.cr2


# --- without paging ----------------------------------------------------------------------------------------


def test_without_paging_linear_is_physical(paged: World) -> None:
    paged.registers.cr0 = 0
    assert not paged.mmu.is_paging
    assert paged.mmu.translate(0x1234_5678, True, True) == 0x1234_5678


def test_a20_masks_the_address_with_and_without_paging(paged: World) -> None:
    paged.mmu.a20_mask = MASK32 & ~A20_BIT
    paged.set_entries(TABLE | P | W | U, 0x0030_0000 | P | W | U)
    assert paged.mmu.translate(LA, False, False) == 0x0020_0123
    paged.registers.cr0 = 0
    assert paged.mmu.translate(0x0010_0000, False, False) == 0


def test_a20_masks_the_walk_itself(paged: World) -> None:
    """With the gate closed, a page directory at 1 MiB + 1000h is the one at 1000h."""
    paged.mmu.a20_mask = MASK32 & ~A20_BIT
    paged.registers.cr3 = DIRECTORY | A20_BIT
    paged.set_entries(TABLE | A20_BIT | P | W | U, FRAME | P | W | U)
    assert paged.mmu.translate(LA, True, True) == FRAME | 0x123
    assert paged.entries()[1] & (A | D) == A | D


# --- the walk ----------------------------------------------------------------------------------------------


def test_a_4_kbyte_page_translates(paged: World) -> None:
    assert paged.mmu.is_paging
    assert paged.mmu.translate(LA, False, True) == FRAME | 0x123


def test_cr3s_low_bits_are_not_an_address(paged: World) -> None:
    paged.registers.cr3 |= 0x18
    assert paged.mmu.translate(LA, False, True) == FRAME | 0x123


def test_a_4_mbyte_page_translates_and_has_no_table(paged: World) -> None:
    paged.registers.cr4 = PSE
    paged.put(paged.pde_at, 0x0040_0000 | P | W | U | PS)
    assert paged.mmu.translate(LA, True, True) == LA
    assert paged.word(paged.pde_at) == 0x0040_0000 | P | W | U | PS | A | D


def test_without_pse_ps_means_nothing(paged: World) -> None:
    paged.set_entries(TABLE | P | W | U | PS, FRAME | P | W | U)
    assert paged.mmu.translate(LA, False, True) == FRAME | 0x123


@pytest.mark.parametrize("bit", range(12, 22))
def test_a_4_mbyte_page_with_a_reserved_bit_faults(paged: World, bit: int) -> None:
    paged.registers.cr4 = PSE
    paged.put(paged.pde_at, 0x0040_0000 | P | W | U | PS | 1 << bit)
    assert fault_of(paged, True, True) == (Vector.PF, FP | FW | FU | FRSVD, LA)


# (directory bits, table bits, CR0.WP, write, user, the error code or None)
ALL = P | W | U
ACCESSES = [
    pytest.param(0, ALL, 0, False, False, 0, id="no table"),
    pytest.param(0, ALL, 0, True, True, FW | FU, id="no table, user write"),
    pytest.param(ALL, 0, 0, False, True, FU, id="no page"),
    pytest.param(ALL, W | U, 0, True, False, FW, id="no page, whatever else it says"),
    pytest.param(ALL, P | W, 0, False, True, FP | FU, id="supervisor page, user read"),
    pytest.param(P | W, ALL, 0, False, True, FP | FU, id="supervisor table, user read"),
    pytest.param(ALL, P | W, 0, False, False, None, id="supervisor page, supervisor read"),
    pytest.param(ALL, P | U, 0, True, True, FP | FW | FU, id="read-only page, user write"),
    pytest.param(P | U, ALL, 0, True, True, FP | FW | FU, id="read-only table, user write"),
    pytest.param(ALL, P | U, 0, True, False, None, id="read-only page, supervisor write without WP"),
    pytest.param(ALL, P | U, WP, True, False, FP | FW, id="read-only page, supervisor write with WP"),
    pytest.param(P | U, ALL, WP, True, False, FP | FW, id="read-only table, supervisor write with WP"),
    pytest.param(ALL, P | U, WP, False, False, None, id="read-only page, read with WP"),
    pytest.param(ALL, ALL, WP, True, True, None, id="user page, user write"),
]


@pytest.mark.parametrize(("pde", "pte", "wp", "write", "user", "error"), ACCESSES)
def test_rights(paged: World, pde: int, pte: int, wp: int, write: bool, user: bool, error: int | None) -> None:
    paged.registers.cr0 = PG | wp
    paged.set_entries(TABLE | pde, FRAME | pte)
    if error is None:
        assert paged.mmu.translate(LA, write, user) == FRAME | 0x123
    else:
        assert fault_of(paged, write, user) == (Vector.PF, error, LA)


@pytest.mark.parametrize("write", [False, True])
def test_accessed_and_dirty_bits_are_set_as_hardware_sets_them(paged: World, write: bool) -> None:
    """Accessed in every entry used, dirty in the last one at a write."""
    pde, pte = paged.entries()
    paged.mmu.translate(LA, write, True)
    assert paged.entries() == (pde | A, pte | A | (D if write else 0))


def test_a_second_access_changes_no_entry(paged: World) -> None:
    """The tables may be watched: what is set already must not be written again."""
    paged.mmu.translate(LA, True, True)
    paged.memory.watched.update((DIRECTORY >> 12, TABLE >> 12))
    told: list[int] = []
    paged.memory.on_watched_write = told.append
    paged.mmu.translate(LA, True, True)
    paged.mmu.translate(LA, False, False)
    assert told == []


def test_the_rights_tell_what_the_shadow_may_grant(paged: World) -> None:
    assert paged.mmu.walk(LA, False, False) == (FRAME | 0x123, W | U)
    assert paged.mmu.walk(LA, True, False) == (FRAME | 0x123, W | U | D)
    paged.set_entries(TABLE | P | U, FRAME | P | W | D)
    assert paged.mmu.walk(LA, False, False) == (FRAME | 0x123, D)


# --- linear memory -----------------------------------------------------------------------------------------


def _map_next(world: World, frame: int) -> None:
    """Map the page after LA's."""
    world.put(world.pte_at + 4, frame)


def test_an_access_crosses_to_another_frame(paged: World) -> None:
    _map_next(paged, 0x9000 | ALL)
    paged.mmu.write(0x0040_3FFE, 4, 0x4433_2211, False)
    assert (paged.memory.read(FRAME + 0xFFE, 2), paged.memory.read(0x9000, 2)) == (b"\x11\x22", b"\x33\x44")
    assert paged.mmu.read(0x0040_3FFE, 4, False) == 0x4433_2211
    assert paged.mmu.read_bytes(0x0040_3FFF, 2, False) == b"\x22\x33"


def test_a_write_that_faults_in_its_second_page_writes_nothing(paged: World) -> None:
    _map_next(paged, 0)
    with pytest.raises(GuestFault) as caught:
        paged.mmu.write(0x0040_3FFE, 4, MASK32, True)
    assert (caught.value.error_code, caught.value.cr2) == (FW | FU, 0x0040_4000)
    assert paged.memory.read(FRAME + 0xFFE, 2) == b"\0\0"


def test_a_value_is_cut_to_its_size(paged: World) -> None:
    paged.mmu.write(LA, 2, 0x1234_5678, False)
    assert paged.memory.read(FRAME | 0x123, 4) == b"\x78\x56\0\0"
    assert paged.mmu.read(LA, 1, False) == 0x78


def test_linear_addresses_wrap_at_4_gib(paged: World) -> None:
    paged.registers.cr0 = 0
    paged.memory.write(0, b"wrapped")
    assert paged.mmu.read_bytes(0xFFFF_FFFE, 4, False) == b"\xff\xffwr"


def test_check_write_raises_what_the_write_would(paged: World) -> None:
    paged.set_entries(TABLE | ALL, FRAME | P | U)
    with pytest.raises(GuestFault) as caught:
        paged.mmu.check_write(LA, 4, True)
    assert (caught.value.error_code, caught.value.cr2) == (FP | FW | FU, LA)
    paged.mmu.check_write(LA, 4, False)


def test_many_pages_are_read_in_one_piece(paged: World) -> None:
    for index in range(8):
        paged.put(TABLE + 4 * index, (FRAME + index * PAGE_SIZE) | ALL)
    paged.memory.write(FRAME, bytes(range(256)) * 128)
    assert paged.mmu.read_bytes(0x0040_0000, 8 * PAGE_SIZE, True) == bytes(range(256)) * 128


# --- PAE ---------------------------------------------------------------------------------------------------

PAE = int(Cr4.PAE)
POINTERS, PAE_DIRECTORY, PAE_TABLE = 0x3020, 0x4000, 0x6000
PAE_LA = 0xC060_3123  # pointer 3, directory entry 3, table entry 3
HIGH = 1 << 36  # the first bit that a frame number cannot have


class PaeWorld(World):
    """RAM, an MMU in PAE mode, and the three entries that map PAE_LA."""

    def __init__(self) -> None:
        super().__init__()
        self.registers.cr4, self.registers.cr3 = PAE, POINTERS
        self.pde_at, self.pte_at = PAE_DIRECTORY + 24, PAE_TABLE + 24
        self.put(POINTERS + 24, PAE_DIRECTORY | P)
        self.load_pdptes()
        self.set_entries(PAE_TABLE | P | W | U, FRAME | P | W | U)

    def load_pdptes(self) -> None:
        self.registers.pdptes = self.mmu.read_pdptes(self.registers.cr3)

    def put(self, gpa: int, value: int) -> None:
        self.memory.write(gpa, value.to_bytes(8, "little"))

    def word(self, gpa: int) -> int:
        return int.from_bytes(self.memory.read(gpa, 8), "little")


@pytest.fixture
def pae() -> PaeWorld:
    return PaeWorld()


def test_pae_pages_translate_and_get_their_bits(pae: PaeWorld) -> None:
    pde, pte = pae.entries()
    assert pae.mmu.translate(PAE_LA, False, True) == FRAME | 0x123
    assert pae.entries() == (pde | A, pte | A)
    assert pae.mmu.translate(PAE_LA, True, True) == FRAME | 0x123
    assert pae.entries() == (pde | A, pte | A | D)
    assert pae.word(POINTERS + 24) == PAE_DIRECTORY | P


def test_pae_large_pages_are_2_mbyte_and_need_no_pse(pae: PaeWorld) -> None:
    pae.put(pae.pde_at, 0x0060_0000 | P | W | U | PS)
    assert pae.mmu.translate(PAE_LA, True, True) == 0x0060_3123
    assert pae.word(pae.pde_at) == 0x0060_0000 | P | W | U | PS | A | D


def test_a_pae_entry_keeps_its_high_half(pae: PaeWorld) -> None:
    """A frame above 4 GiB: nobody answers there, but the entry must not lose it when its bits are set."""
    pae.set_entries(PAE_TABLE | P | W | U, 1 << 35 | FRAME | P | W | U)
    pae.mmu.translate(PAE_LA, True, True)
    assert pae.word(pae.pte_at) == 1 << 35 | FRAME | P | W | U | A | D


@pytest.mark.parametrize("missing", ["pointer", "pde", "pte"])
def test_a_missing_pae_entry_faults(pae: PaeWorld, missing: str) -> None:
    at = {"pointer": POINTERS + 24, "pde": pae.pde_at, "pte": pae.pte_at}[missing]
    pae.put(at, pae.word(at) & ~P)
    pae.load_pdptes()
    assert fault_of(pae, True, True, PAE_LA) == (Vector.PF, FW | FU, PAE_LA)


@pytest.mark.parametrize(
    ("pde", "pte"),
    [
        pytest.param(PAE_TABLE | ALL | HIGH, FRAME | ALL, id="pde"),
        pytest.param(PAE_TABLE | ALL, FRAME | ALL | HIGH, id="pte"),
        pytest.param(PAE_TABLE | ALL, FRAME | ALL | 1 << 63, id="NX without EFER.NXE"),
        pytest.param(0x0060_0000 | ALL | PS | 1 << 13, 0, id="large page off its boundary"),
        pytest.param(0x0060_0000 | ALL | PS | 1 << 12, 0, id="PAT of a large page"),
        pytest.param(PAE_TABLE | ALL, FRAME | ALL | PS, id="PAT of a page"),
    ],
)
def test_reserved_pae_bits_fault(pae: PaeWorld, pde: int, pte: int) -> None:
    pae.set_entries(pde, pte)
    assert fault_of(pae, False, True, PAE_LA) == (Vector.PF, FP | FU | FRSVD, PAE_LA)


@pytest.mark.parametrize(("pde", "pte", "wp", "write", "user", "error"), ACCESSES)
def test_pae_rights(pae: PaeWorld, pde: int, pte: int, wp: int, write: bool, user: bool, error: int | None) -> None:
    pae.registers.cr0 = PG | wp
    pae.set_entries(PAE_TABLE | pde, FRAME | pte)
    if error is None:
        assert pae.mmu.translate(PAE_LA, write, user) == FRAME | 0x123
    else:
        assert fault_of(pae, write, user, PAE_LA) == (Vector.PF, error, PAE_LA)


@pytest.mark.parametrize("bit", [1, 2, 5, 6, 7, 8, 36, 62, 63])
def test_a_present_pdpte_with_a_reserved_bit_is_refused(pae: PaeWorld, bit: int) -> None:
    pae.put(POINTERS + 8, 1 << bit)
    assert pae.mmu.read_pdptes(POINTERS)[1] == 1 << bit
    pae.put(POINTERS + 8, P | 1 << bit)
    with pytest.raises(GuestFault) as caught:
        pae.mmu.read_pdptes(POINTERS)
    assert (caught.value.vector, caught.value.error_code) == (Vector.GP, 0)


@pytest.mark.parametrize("bit", [3, 4, 9, 10, 11, 12, 35])
def test_other_bits_of_a_pdpte_are_no_reason(pae: PaeWorld, bit: int) -> None:
    pae.put(POINTERS + 8, P | 1 << bit)
    assert pae.mmu.read_pdptes(POINTERS)[1] == P | 1 << bit


def test_pdptes_are_read_at_a_load_of_cr3_and_not_at_a_walk(pae: PaeWorld) -> None:
    pae.put(POINTERS + 24, 0)
    assert pae.mmu.translate(PAE_LA, False, True) == FRAME | 0x123
    pae.load_pdptes()
    assert fault_of(pae, False, True, PAE_LA) == (Vector.PF, FU, PAE_LA)


# --- NX ----------------------------------------------------------------------------------------------------

NX = 1 << 63
FI = int(PageFault.I)
NXE = int(Efer.NXE)


def fetch_fault(world: World, user: bool, la: int) -> int | None:
    with pytest.raises(GuestFault) as caught:
        world.mmu.translate(la, False, user, True)
    return caught.value.error_code


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(
    ("pde", "pte"),
    [(PAE_TABLE | ALL | NX, FRAME | ALL), (PAE_TABLE | ALL, FRAME | ALL | NX), (0x0060_0000 | ALL | PS | NX, 0)],
)
def test_nx_forbids_fetches_and_nothing_else(pae: PaeWorld, pde: int, pte: int, user: bool) -> None:
    pae.registers.efer = NXE
    pae.set_entries(pde, pte)
    pae.mmu.translate(PAE_LA, True, user)
    assert fetch_fault(pae, user, PAE_LA) == FP | FI | (FU if user else 0)


@pytest.mark.parametrize(("efer", "code"), [(0, 0), (NXE, FI)])
def test_error_codes_tell_fetches_only_with_nxe(pae: PaeWorld, efer: int, code: int) -> None:
    pae.registers.efer = efer
    pae.set_entries(PAE_TABLE | ALL, 0)
    assert fetch_fault(pae, False, PAE_LA) == code


def test_without_pae_there_is_no_nx(paged: World) -> None:
    paged.registers.efer = NXE
    assert paged.mmu.translate(LA, False, True, True) == FRAME | 0x123
    paged.set_entries(0, 0)
    assert fetch_fault(paged, True, LA) == FU


# --- what the walk says about the page ---------------------------------------------------------------------


@pytest.mark.parametrize("pge", [0, PGE])
def test_g_counts_in_the_leaf_and_with_pge(paged: World, pge: int) -> None:
    paged.registers.cr4 = pge | PSE
    paged.set_entries(TABLE | ALL | G, FRAME | ALL)
    assert paged.mmu.walk(LA, False, False)[1] == W | U
    paged.set_entries(TABLE | ALL, FRAME | ALL | G)
    assert paged.mmu.walk(LA, False, False)[1] == W | U | (G if pge else 0)
    paged.put(paged.pde_at, ALL | PS | G)
    assert paged.mmu.walk(LA, False, False) == (LA & 0x3F_FFFF, W | U | PS | (G if pge else 0))


def test_a_directory_that_is_its_own_table_has_small_pages(paged: World) -> None:
    """The entry is read as a directory's and as a table's, at one address; it is a 4-KByte page all the same."""
    paged.registers.cr4 = PSE
    paged.put(DIRECTORY + 4 * 5, DIRECTORY | ALL)
    assert paged.mmu.walk(5 << 22 | 5 << 12, True, False) == (DIRECTORY, W | U | D)
    assert paged.word(DIRECTORY + 4 * 5) == DIRECTORY | ALL | A | D
