"""What random programs found: each the smallest program that showed it."""

import pytest
from guest_bench import ARITHMETIC, CELL, DATA, GDT, P16, P32, PAGE_TABLE, REAL, V86_3, Bench, asm, faulted

from vmm.arch.exceptions import Vector

OSFXSR = 1 << 9
ZF, PF, ACCESSED = 0x40, 4, 0x20


@pytest.mark.parametrize("mode", [REAL, V86_3, P32[0], P32[3]], ids=str)
@pytest.mark.parametrize(("text", "flags"), [("loope a; a: nop", ZF | PF), ("loopne a; a: nop", ZF | PF)])
def test_loope_and_loopne_leave_the_flags_alone_when_the_count_ends_them(run_guest, mode, text, flags):
    """The engine forgets which lazy form the flags have when ECX becomes 0, unless a block of its own begins there."""
    before, after = run_guest(f"sub ax, ax; {text}", mode, ecx=1, eax=0)
    assert after == before | {"ecx": 0, "eflags": before["eflags"] | flags}


@pytest.mark.parametrize("mode", [REAL, V86_3, P16[0], P32[3]], ids=str)
@pytest.mark.parametrize("code", ["660f73f908", "660f73d908"], ids=["pslldq", "psrldq"])
def test_the_shifts_of_sixteen_bytes_exist_in_16_bit_code_too(run_guest, mode, code):
    """Capstone takes their 66h for an operand size there, and knew no such instruction."""
    before, after = run_guest(bytes.fromhex(code), mode, cr4=OSFXSR)
    assert after == before


@pytest.mark.parametrize("bits", [8, 8 | 2])
def test_a_prefetch_minds_no_task_switched_flag(run_guest, bits):
    """It is no MMX instruction, though its name begins with P."""
    before, after = run_guest(f"prefetcht0 [{DATA + CELL}]", P32[0], cr0=0x31 | bits)
    assert after == before


def test_iretd_reads_no_descriptor_beyond_the_gdt(bench: Bench):
    """#GP with the selector; not #PF where the descriptor would lie."""
    bench.start(P32[0], "push 2; push 0x7008; push 0x10000; iretd")
    bench.map_pages(missing=[GDT + 0x7008 & ~0xFFF])
    assert bench.run()["fault"] == (13, 0x7008)


def test_iretd_of_a_nested_task_reads_no_frame(bench: Bench):
    """NT: the way back is in the TSS, whose back link is null: #TS, and nobody has read at ESP."""
    bench.start(P32[0], asm("pushfd; or dword ptr [esp], 0x4000; popfd; mov esp, 0x3ff000; iretd", True))
    bench.map_pages()
    assert bench.run()["fault"] == (10, 0)
    assert not bench.word(PAGE_TABLE + 4 * 0x3FF) & ACCESSED


@pytest.mark.parametrize("mode", [REAL, V86_3, P16[0], P32[3]], ids=str)
@pytest.mark.parametrize("code", ["0faee8", "0faee9", "0faef7", "2e0faeff"])
def test_a_fence_minds_no_rm(run_guest, mode, code):
    """SDM Vol. 2A, "LFENCE - Load Fence"."""
    before, after = run_guest(bytes.fromhex(code), mode, cr4=OSFXSR)
    assert after == before


@pytest.mark.parametrize("mode", [REAL, V86_3, P16[0], P32[3]], ids=str)
@pytest.mark.parametrize(
    "code", ["660faee8", "f20faef0", "f30faef8", "660fae30", "f30fae10", "f20fae00", "660f12c1", "660f16c1", "660fc300"]
)
def test_no_prefix_goes_with_some_opcodes_of_sse(run_guest, mode, code):
    """SDM Vol. 2A, "Instruction Column in the Opcode Summary Table": NP."""
    before, after = run_guest(bytes.fromhex(code), mode, cr4=OSFXSR)
    assert after == before | faulted(mode, Vector.UD)


@pytest.mark.parametrize("store", ["mov [0x3ff000], ecx", "setc byte ptr [0x3ff000]"])
def test_a_page_fault_leaves_the_flags_of_the_instruction_before_it(bench: Bench, store: str):
    """STC works all flags out, AND after it leaves them where they were: an older set, which is not to be taken."""
    bench.start(P32[0], asm(f"sub eax, eax; sub eax, 1; stc; mov ecx, 1; and ecx, ecx; {store}", True))
    bench.map_pages(missing=[0x3FF000])
    picture = bench.run()
    assert picture["fault"][0] == 14
    assert picture["eflags"] & ARITHMETIC == 0


def test_a_null_selector_in_ldtr_is_kept(bench: Bench):
    """LLDT of 1 to 3 makes the LDT unusable; SLDT shows the selector all the same."""
    bench.start(P32[0], "mov eax, 2; lldt ax; sldt ebx")
    assert bench.run()["ebx"] == 2


@pytest.mark.parametrize("missing", [0x3FE000, 0x3FF000], ids=["first", "second"])
@pytest.mark.parametrize("name", ["sgdt", "sidt"])
def test_a_table_register_is_stored_as_a_whole_or_not_at_all(bench: Bench, name: str, missing: int):
    """Its limit lies in one page, its base in another, of which one is not there."""
    bench.start(P32[0], f"{name} [0x3feffe]")
    bench.map_pages(missing=[missing])
    bench.poke(0x3FE000, bytes(0x2000))
    after = bench.run()
    assert after["fault"] == (14, 2)
    assert bench.vcpu.cr2 & ~0xFFF == missing
    assert bench.peek(0x3FE000, 0x2000) == bytes(0x2000)
