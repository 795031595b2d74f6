"""Guests with page tables that nobody sane would write: the fault that the SDM prescribes, and never the end of the VMM.

Source: SDM Vol. 3A, "32-Bit Paging", "PAE Paging", "Page-Fault Exceptions".
"""

import pytest
from guest_bench import CODE, DATA, ENTRY, P32, PG, RAM, Bench, Picture, little

from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr4
from vmm.cpu.vcpu import STALE_ALL
from vmm.engines.engine import Leave

DIRECTORY, TABLE = 0x20_0000, 0x20_1000
P, W, U, A, D, PS = (int(Pte[name]) for name in ("P", "W", "U", "A", "D", "PS"))
FP, FW, FU, FRSVD = (int(bit) for bit in (PageFault.P, PageFault.W, PageFault.U, PageFault.RSVD))
PSE, PAE = int(Cr4.PSE), int(Cr4.PAE)
RIGHTS = P | W | U
LARGE = 1 << 22
PROBED = 0x40_0000
"""A large page beyond the one that everything is in."""
NOTHING = 0xE000_0000
BOTH = [pytest.param(P32[0], 0, id="ring0"), pytest.param(P32[3], FU, id="ring3")]


def page(bench: Bench, cr3: int = DIRECTORY, cr4: int = PSE) -> None:
    """Turn paging on."""
    vcpu = bench.vcpu
    vcpu.cr3, vcpu.cr4 = cr3, cr4
    if cr4 & PAE:
        vcpu.pdptes[:] = bench.mmu.read_pdptes(cr3)
    vcpu.cr0 |= PG
    vcpu.make_stale(STALE_ALL)


def directory(bench: Bench, *entries: int) -> None:
    """A page directory of these entries, the last one for all that follow."""
    bench.poke(DIRECTORY, b"".join(little(entry, 4) for entry in (*entries, *[entries[-1]] * (1024 - len(entries)))))


def fault(after: Picture) -> tuple[object, int]:
    return after["fault"], after["cr2"]


# --- reserved bits -------------------------------------------------------------------------------------------

ACCESSES = [pytest.param("mov eax, [{la}]", 0, id="read"), pytest.param("mov [{la}], eax", FW, id="write"),
            pytest.param("mov eax, {la}; jmp eax", 0, id="fetch")]  # fmt: skip


@pytest.mark.parametrize(("mode", "user"), BOTH)
@pytest.mark.parametrize(("code", "write"), ACCESSES)
def test_a_large_page_with_a_reserved_bit_faults_for_every_access(bench, mode, user, code, write):
    bench.start(mode, code.format(la=PROBED))
    directory(bench, PS | RIGHTS, LARGE | PS | RIGHTS | 1 << 21)
    page(bench)
    assert fault(bench.run()) == ((Vector.PF, FP | FRSVD | write | user), PROBED)


@pytest.mark.parametrize(("mode", "user"), BOTH)
@pytest.mark.parametrize(("code", "write"), ACCESSES)
@pytest.mark.parametrize("where", ["directory", "table", "large page"])
def test_a_pae_entry_with_a_reserved_bit_faults_for_every_access(bench, mode, user, code, write, where):
    large = where == "large page"
    bench.start(mode, code.format(la=PROBED))
    for index in range(2):  # the first 4 MiB, so that everything is there
        bench.poke(TABLE + 8 * index, index << 21 | PS | RIGHTS, 8)
    probed = PS | RIGHTS | 1 << 20 if large else DIRECTORY | RIGHTS | (1 << 62 if where == "directory" else 0)
    bench.poke(TABLE + 8 * (PROBED >> 21), probed, 8)
    bench.poke(DIRECTORY, RIGHTS | (1 << 40 if where == "table" else 0), 8)
    bench.poke(0x20_2000, TABLE | P, 8)
    page(bench, cr3=0x20_2000, cr4=PAE)
    assert fault(bench.run()) == ((Vector.PF, FP | FRSVD | write | user), PROBED)


def test_pointers_with_reserved_bits_are_refused_at_the_load_of_cr3(bench):
    bench.start(P32[0], f"mov eax, {DIRECTORY + 32}; mov cr3, eax")
    for index in range(2):
        bench.poke(TABLE + 8 * index, index << 21 | PS | RIGHTS, 8)
    bench.poke(DIRECTORY, TABLE | P, 8)
    bench.poke(DIRECTORY + 32, TABLE | P | W, 8)
    page(bench, cr4=PAE)
    after = bench.run()
    assert (after["fault"], after["cr3"]) == ((Vector.GP, 0), DIRECTORY)


# --- tables over tables --------------------------------------------------------------------------------------


def test_tables_that_map_themselves_show_their_own_accessed_and_dirty_bits(bench):
    """The last entry of the directory is the directory, as 386 kernels like it: its pages are the tables."""
    window, own = 0xFFC0_0000, 0xFFFF_F000
    bench.start(P32[0], f"mov ebx, [{own}]; mov dword ptr [{window + 4 * (DATA >> 12)}], {DATA + 0x1007}; "
                        f"invlpg [{DATA}]; mov dword ptr [{DATA}], 77; mov ecx, [{own}]; mov edx, [{own + 0xFFC}]")  # fmt: skip
    for index in range(1024):
        bench.poke(TABLE + 4 * index, index << 12 | RIGHTS)
    directory(bench, TABLE | RIGHTS, 0)
    bench.poke(DIRECTORY + 4 * 1023, DIRECTORY | RIGHTS)
    page(bench)
    after = bench.run()
    assert after["eip"] == "end"
    assert (after["ebx"], after["ecx"]) == (TABLE | RIGHTS | A, TABLE | RIGHTS | A | D)
    assert after["edx"] == DIRECTORY | RIGHTS | A
    assert bench.word(DATA + 0x1000) == 77


def test_a_table_that_maps_itself_everywhere_has_no_code_left(bench):
    """Every page is the directory: the next instruction is fetched from it, and is none."""
    bench.start(P32[0], f"mov eax, {DIRECTORY}; mov cr3, eax")
    directory(bench, DIRECTORY | RIGHTS)
    page(bench)
    bench.run(blocks=2000)
    assert bench.leave is Leave.SHUTDOWN


SPREAD = range(DATA, 1 << 32, LARGE)


def test_a_whole_address_space_of_one_page(bench):
    """Every 4 MiB are the same ones, our window too: what is stored through one address is there through all others."""
    bench.start(P32[0], f"mov ecx, {len(SPREAD)}; mov edx, {DATA}; again: mov [edx], ecx; cmp ecx, [{DATA}]; jne over; "
                        f"add edx, {LARGE}; dec ecx; jne again; over: mov ebx, ecx")  # fmt: skip
    directory(bench, PS | RIGHTS)
    page(bench)
    after = bench.run()
    assert (after["eip"], after["ebx"]) == ("end", 0)


# --- tables that are not there -------------------------------------------------------------------------------

GONE = [
    pytest.param(NOTHING, PSE, id="large pages"),
    pytest.param(NOTHING, 0, id="tables of ones"),
    pytest.param(0xFFFF_F000, 0, id="the last page"),
    pytest.param(RAM, 0, id="behind RAM"),
]


@pytest.mark.parametrize(("cr3", "cr4"), GONE)
def test_cr3_outside_ram_is_a_triple_fault(bench, cr3, cr4):
    """Entries of ones: reserved bits in large pages; else tables and pages of ones, and an interrupt table of ones."""
    bench.start(P32[0], f"mov eax, {cr3}; mov cr3, eax")
    directory(bench, PS | RIGHTS)
    page(bench, cr4=cr4 | PSE)
    bench.vcpu.cr4 = cr4
    bench.poke(DIRECTORY, TABLE | RIGHTS)
    for index in range(1024):
        bench.poke(TABLE + 4 * index, index << 12 | RIGHTS)
    bench.vcpu.make_stale(STALE_ALL)
    bench.run(blocks=2000)
    assert bench.leave is Leave.SHUTDOWN


def test_pointers_outside_ram_are_refused(bench):
    """Pointers of ones have reserved bits set."""
    bench.start(P32[0], f"mov eax, {NOTHING}; mov cr3, eax", cr4=PAE)
    bench.poke(DIRECTORY, TABLE | P, 8)
    for index in range(2):
        bench.poke(TABLE + 8 * index, index << 21 | PS | RIGHTS, 8)
    page(bench, cr4=PAE)
    assert bench.run()["fault"] == (Vector.GP, 0)


# --- our window ----------------------------------------------------------------------------------------------

USE_EVERYTHING = (
    "pushfd; popfd; cli; sti; push ds; pop ds; mov eax, cr0; mov cr0, eax; mov eax, cr3; mov cr3, eax; mov eax, cr4; "
    "mov cr4, eax; str ax; sldt ax; sgdt [esp-16]; sidt [esp-16]; smsw ax; mov eax, dr7; int 3"
)


@pytest.mark.parametrize("value", [0, 0x8000_0001, 0xFFFF_FFFF], ids=hex)
def test_what_a_guest_writes_over_the_vcpu_page_hurts_the_guest_alone(used_bench, value):
    """A write there succeeds (docs/limits.md). Each word in turn, and everything that lives there is used: the guest
    ends in some way, and the VMM goes on."""
    for offset in range(0, 0x200, 4):
        used_bench.recycle()
        at = used_bench.hole.linear("vcpu_page") + offset
        used_bench.start(P32[0], f"mov dword ptr [{at}], {value}; {USE_EVERYTHING}")
        used_bench.run(blocks=200)
        assert used_bench.leave in Leave


def test_the_page_at_the_entry_is_as_good_as_any_other(bench):
    """The program's own page, mapped at the window's first address: what runs there is the program."""
    bench.start(
        P32[0], f"inc ebx; mov eax, {0xF400_0000 + CODE + ENTRY}; cmp ebx, 4; je over; jmp eax; over: nop", ebx=0
    )
    directory(bench, PS | RIGHTS)
    page(bench)
    after = bench.run()
    assert (after["ebx"], bench.leave) == (4, Leave.REQUESTED)
