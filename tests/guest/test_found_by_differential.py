"""What random programs found: each the smallest program that showed it."""

import pytest
from guest_bench import CELL, DATA, GDT, P16, P32, PAGE_TABLE, REAL, V86_3, Bench, asm

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
