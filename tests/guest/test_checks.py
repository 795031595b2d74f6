"""What a processor checks before it lets an instruction have its way, where the engine below does not."""

import pytest
from guest_bench import CELL, DATA, P16, P32, PAGE_TABLE, REAL, V86_3, asm, faulted

from vmm.arch.exceptions import Vector

SOME = [REAL, V86_3, P16[0], P16[3], P32[0], P32[3]]
GP0 = (Vector.GP, 0)
OSFXSR = 1 << 9

# --- length ----------------------------------------------------------------------------------------------------------

LENGTHS = [
    # prefixes, the rest, the number of prefixes with which it is 15 bytes long in 16- and 32-bit code
    pytest.param("26", "90", 14, 14, id="nop"),
    pytest.param("3e", "01c0", 13, 13, id="add_register"),
    pytest.param("66", "0fafc0", 12, 12, id="two_byte_opcode"),
    pytest.param("3e", "c70600004433", 9, 9, id="immediate_16"),
    pytest.param("26", "b844332211", 12, 10, id="immediate_32"),
]


@pytest.mark.parametrize("mode", SOME, ids=str)
@pytest.mark.parametrize(("prefix", "rest", "count16", "count32"), LENGTHS)
def test_an_instruction_of_more_than_15_bytes_is_gp(run_guest, mode, prefix, rest, count16, count32):
    """SDM Vol. 3A, "Interrupt 13 - General Protection Exception (#GP)"; also where the prefixes are all the same."""
    count = count32 if mode.code32 else count16
    code = bytes.fromhex(rest)
    if rest.startswith("c7") and mode.code32:
        code = b"\xc7\x45\x00" + b"\x44\x33\x22\x11"
        count = 8
    before, after = run_guest(bytes.fromhex(prefix) * (count + 1) + code, mode, ebp=mode.offset(DATA + CELL, "ds"))
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", SOME, ids=str)
def test_an_instruction_of_15_bytes_is_one(run_guest, mode):
    before, after = run_guest(b"\x26" * 14 + b"\x90", mode)
    assert after == before


@pytest.mark.parametrize("mode", SOME, ids=str)
def test_a_locked_instruction_of_more_than_15_bytes_is_gp(run_guest, mode):
    """Its length is known before what it is."""
    before, after = run_guest(b"\xf0" * 15 + b"\x90", mode)
    assert after == before | faulted(mode, *GP0)


# --- LOCK ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [REAL, P32[0], P32[3]], ids=str)
@pytest.mark.parametrize(
    "code", ["f090", "f2f090", "f0f390", "f0f3a4", "f0f2a6", "f0f301c0", "f0f28900", "f0f3fb", "f00f1f00", "f0f3c3", "f00f18c0"]
)  # fmt: skip
def test_no_other_prefix_makes_lock_right(run_guest, mode, code):
    """SDM Vol. 2A, "LOCK": #UD, whatever else stands in front."""
    before, after = run_guest(bytes.fromhex(code), mode, eax=DATA + CELL)
    assert after == before | faulted(mode, Vector.UD)


# --- CLFLUSH ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_clflush_of_a_page_that_is_not_there_is_a_page_fault(used_bench, mode):
    """SDM Vol. 2A, "CLFLUSH": for paging it is a load of one byte."""
    far = 0x30_0000
    used_bench.start(mode, asm(f"clflush [{far + 0x123}]", True))
    used_bench.map_pages(missing=[far])
    after = used_bench.run()
    assert (after["fault"], after["eip"], after["cr2"]) == ((14, 4 * (mode.ring == 3)), mode.entry, far + 0x123)


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_clflush_sets_the_accessed_bit_and_nothing_else(used_bench, mode):
    far = 0x30_0000
    used_bench.start(mode, asm(f"clflush [{far + 0x123}]", True))
    used_bench.map_pages()
    before = used_bench.here()
    after = used_bench.run()
    assert {**after, "memory": {}} == before
    assert used_bench.word(PAGE_TABLE + (far >> 10)) & 0xFF == 0x27


# --- bits of paging entries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_bit_7_of_a_page_table_entry_is_reserved_without_pat(used_bench, mode):
    """SDM Vol. 3A, "32-Bit Paging": PAT is what gives it a meaning, and CPUID does not show that."""
    far = 0x30_0000
    used_bench.start(mode, asm(f"mov eax, [{far}]", True))
    used_bench.map_pages()
    used_bench.poke(PAGE_TABLE + (far >> 10), far | 0x87)
    after = used_bench.run()
    assert (after["fault"], after["cr2"]) == ((14, 9 + 4 * (mode.ring == 3)), far)
