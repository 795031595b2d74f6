"""PAE paging with NX as a guest sees it: fetches that fault, EFER, page-directory-pointer-table entries."""

import pytest
from guest_bench import CODE, DATA, ENTRY, P32, PG, Bench, Picture

from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr4, Efer
from vmm.cpu.vcpu import STALE_ALL

POINTERS, DIRECTORY, TABLES = 0x20_0000, 0x20_1000, 0x20_2000
ALIAS = 0x28_0000
PAGE_RIGHTS = int(Pte.P | Pte.W | Pte.U)
NX, NXE, PAE = int(Pte.NX), int(Efer.NXE), int(Cr4.PAE)
FP, FU, FRSVD, FI = (int(bit) for bit in (PageFault.P, PageFault.U, PageFault.RSVD, PageFault.I))
BOTH = [pytest.param(P32[0], 0, id="ring0"), pytest.param(P32[3], FU, id="ring3")]
EFER = 0xC000_0080


def map_pae(bench: Bench, *, efer: int = NXE, extra: dict[int, int] | None = None) -> None:
    """The first 4 MiB identity under PAE; `extra`: more bits for the entries of some pages."""
    for page in range(1024):
        entry = page << 12 | PAGE_RIGHTS | (extra or {}).get(page << 12, 0)
        bench.poke(TABLES + 8 * page, entry, 8)
    for table in range(2):
        bench.poke(DIRECTORY + 8 * table, TABLES + 0x1000 * table | PAGE_RIGHTS, 8)
    bench.poke(POINTERS, bytes(32))
    bench.poke(POINTERS, DIRECTORY | 1, 8)
    vcpu = bench.vcpu
    vcpu.cr3, vcpu.cr4, vcpu.efer = POINTERS, PAE, efer
    vcpu.pdptes[:] = bench.mmu.read_pdptes(POINTERS)
    vcpu.cr0 |= PG
    vcpu.make_stale(STALE_ALL)


def jump_to_data(bench: Bench, mode, **tables) -> Picture:
    """Jump to an INC EAX at DATA."""
    bench.start(mode, f"mov edx, {DATA}; jmp edx")
    bench.poke(DATA, b"\x40\x0f\x0b")
    map_pae(bench, **tables)
    return bench.run()


@pytest.mark.parametrize(("mode", "user"), BOTH)
def test_a_fetch_from_an_nx_page_faults(bench, mode, user):
    after = jump_to_data(bench, mode, extra={DATA: NX})
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, FP | FI | user), DATA, DATA)


@pytest.mark.parametrize(("mode", "user"), BOTH)
def test_a_fetch_from_another_page_does_not(bench, mode, user):
    after = jump_to_data(bench, mode, extra={DATA + 0x1000: NX})
    assert (after["fault"], after["eip"]) == ((Vector.UD, None), DATA + 1)


@pytest.mark.parametrize(("mode", "user"), BOTH)
def test_without_nxe_the_bit_is_reserved_for_data_too(bench, mode, user):
    bench.start(mode, f"mov eax, [{DATA}]")
    map_pae(bench, efer=0, extra={DATA: NX})
    after = bench.run()
    assert (after["fault"], after["cr2"]) == ((Vector.PF, FP | FRSVD | user), DATA)


@pytest.mark.parametrize(("mode", "user"), BOTH)
def test_data_on_an_nx_page_is_data(bench, mode, user):
    bench.start(mode, f"inc dword ptr [{DATA + 0x100}]; mov eax, [{DATA + 0x100}]")
    bench.poke(DATA + 0x100, 41)
    map_pae(bench, extra={DATA: NX})
    after = bench.run()
    assert (after["eip"], after["eax"]) == ("end", 42)


def test_an_instruction_that_runs_on_into_an_nx_page_faults_at_its_second_page(bench):
    bench.start(P32[3], f"mov edx, {DATA - 2}; jmp edx")
    bench.poke(DATA - 2, b"\xb8\x01\x02\x03\x04")  # mov eax, imm32
    map_pae(bench, extra={DATA: NX})
    after = bench.run()
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, FP | FI | FU), DATA - 2, DATA)


def test_nxe_can_change_under_way(bench):
    """Code that ran from a page before its NX bit counted: EFER written, the same jump faults."""
    bench.start(P32[0], "call ecx")
    program = bytes.fromhex("ffd6") + bytes.fromhex("0f30ffd6")  # call esi; wrmsr; call esi
    bench.poke(CODE + ENTRY, program + b"\xe6\xf4")
    bench.poke(DATA, b"\x43\xc3")  # inc ebx; ret
    bench.set(esi=DATA, ecx=EFER, eax=NXE, edx=0, ebx=0)
    map_pae(bench, efer=0)
    bench.poke(TABLES + 8 * (DATA >> 12), DATA | PAGE_RIGHTS, 8)
    entry = TABLES + 8 * (DATA >> 12) + 7
    bench.poke(CODE + ENTRY + 2, bytes([0xC6, 0x05]) + entry.to_bytes(4, "little") + b"\x80" + program[2:])
    after = bench.run()
    assert (after["fault"], after["eip"], after["ebx"]) == ((Vector.PF, FP | FI), DATA, 1)


def map_also(bench: Bench, la: int, page: int, bits: int) -> None:
    """Another page of the first 4 MiB, at the place of its own."""
    bench.poke(TABLES + 8 * (la >> 12), page | PAGE_RIGHTS | bits, 8)


@pytest.mark.parametrize(("mode", "user"), BOTH)
def test_a_page_that_runs_elsewhere_does_not_run_where_it_is_nx(bench, mode, user):
    alias = ALIAS
    bench.start(mode, f"call edx; mov ecx, [{alias + 0x100}]; call ebx")
    bench.poke(DATA, b"\x40\xc3")  # inc eax; ret
    bench.set(eax=0, edx=DATA, ebx=alias)
    map_pae(bench)
    map_also(bench, alias, DATA, NX)
    after = bench.run()
    assert (after["fault"], after["eip"], after["eax"]) == ((Vector.PF, FP | FI | user), alias, 1)


@pytest.mark.parametrize(("mode", "user"), BOTH)
def test_code_that_was_written_through_an_nx_address_runs_as_written(bench, mode, user):
    alias = ALIAS
    bench.start(mode, f"call edx; mov byte ptr [{alias}], 0x48; call edx; mov byte ptr [{alias}], 0x43; call edx")
    bench.poke(DATA, b"\x40\xc3")  # inc eax; ret; then DEC EAX, then INC EBX
    bench.set(eax=5, ebx=0, edx=DATA)
    map_pae(bench)
    map_also(bench, alias, DATA, NX)
    after = bench.run()
    assert (after["eip"], after["eax"], after["ebx"]) == ("end", 5, 1)


def test_a_page_that_writes_to_itself_through_an_nx_address_goes_on(bench):
    alias = ALIAS
    bench.start(P32[0], "jmp edx")
    store = bytes.fromhex("c605") + (alias + 7).to_bytes(4, "little") + b"\x43"  # mov byte [behind it], inc ebx
    bench.poke(DATA, store + b"\x40\x0f\x0b")
    bench.set(eax=0, ebx=0, edx=DATA)
    map_pae(bench)
    map_also(bench, alias, DATA, NX)
    after = bench.run()
    assert (after["eip"], after["eax"], after["ebx"]) == (DATA + 8, 0, 1)


@pytest.mark.parametrize(("bits", "fault"), [(0, None), (1 << 1, 13), (1 << 5, 13), (1 << 63, 13), (0x18, None)])
def test_mov_cr3_checks_the_pdptes(bench, bits, fault):
    bench.start(P32[0], "mov cr3, ebx; nop")
    map_pae(bench)
    other = POINTERS + 0x20
    bench.poke(other, bytes(32))
    bench.poke(other, DIRECTORY | 1 | bits, 8)
    bench.set(ebx=other)
    after = bench.run()
    if fault is None:
        assert (after["eip"], after["cr3"]) == ("end", other)
    else:
        assert (after["fault"], after["cr3"], after["eip"]) == ((fault, 0), POINTERS, P32[0].entry)


def test_a_pdpte_changed_in_memory_counts_at_the_next_load_of_cr3(bench):
    """Between the two the processor goes on with the one it has."""
    bench.start(P32[0], f"mov dword ptr [{POINTERS}], 0; invlpg [{DATA}]; mov eax, [{DATA}]; mov cr3, ebx; nop")
    map_pae(bench)
    bench.set(ebx=POINTERS)
    bench.run()
    assert bench.leave.name == "SHUTDOWN"  # nothing is mapped any more, no handler either
    assert bench.vcpu.reg32(0) == 0xEEEE_EEEE
