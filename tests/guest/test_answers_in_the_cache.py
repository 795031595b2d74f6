"""CPUID, LAR, LSL, VERR and VERW once the VMM is not needed for them any more: the same answers, and no exit."""

import pytest
from guest_bench import CELL, DATA, EVERY, GDT, KERNELS, P32, P32_BASED, PAGE_TABLE, asm, encode, flat_code, little

from vmm.arch.exceptions import Vector
from vmm.cpu.cpuid import LEAVES, MAX_BASIC, cpuid
from vmm.cpu.msr import Msr

ZF = 0x40
CPUID = b"\x0f\xa2"
RIGHTS = {"lar": ("0f02", 2), "lsl": ("0f03", 2), "verr": ("0f00", 4), "verw": ("0f00", 5)}
RING_0 = [P32[0], P32_BASED[0]]


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_cpuid_leaves_once_for_each_leaf(used_bench, mode):
    """And the second time it gives the same. Leaf 7 looks at ECX, and always leaves."""
    counted = used_bench.engine.stats.callouts
    for leaf in (*LEAVES, MAX_BASIC + 1, 0x4000_0000, 0xFFFF_FFFF):
        before = counted["cpuid"]
        used_bench.recycle()
        for once in range(3):
            used_bench.start(mode, CPUID, eax=leaf, ecx=0, eflags=0x8D5)
            shown, after = used_bench.here(), used_bench.run()
            eax, ebx, ecx, edx = cpuid(leaf)
            assert after == shown | {"eax": eax, "ebx": ebx, "ecx": ecx, "edx": edx}
            assert counted["cpuid"] - before == (once + 1 if leaf == 7 else 1)


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_leaf_7_looks_at_ecx_every_time(used_bench, mode):
    for ecx in (0, 1, 0, 5):
        used_bench.start(mode, CPUID, eax=7, ecx=ecx)
        after = used_bench.run()
        assert tuple(after[name] for name in ("eax", "ebx", "ecx", "edx")) == cpuid(7, ecx)


@pytest.mark.parametrize("mode", KERNELS, ids=str)
def test_the_revision_of_the_microcode_is_deposited_each_time(used_bench, mode):
    """SDM Vol. 3A, "Determining the Signature": WRMSR of zero, CPUID with EAX = 1, RDMSR; and all of it again."""
    ask = [
        "xor eax, eax", "xor edx, edx", f"mov ecx, {int(Msr.BIOS_SIGN_ID)}", "wrmsr", "mov eax, 1", "cpuid",
        f"mov ecx, {int(Msr.BIOS_SIGN_ID)}", "rdmsr",
    ]  # fmt: skip
    used_bench.start(mode, asm("; ".join([*ask, "mov esi, edx", *ask, "mov edi, edx"]), mode.code32))
    after = used_bench.run()
    assert (after["eip"], after["esi"], after["edi"]) == ("end", 1, 1)


@pytest.mark.parametrize("mode", RING_0, ids=str)
@pytest.mark.parametrize("name", RIGHTS)
def test_ring_0_looks_rights_up_without_an_exit(used_bench, mode, name):
    """Also while it pages, and when its own table changes between two looks."""
    opcode, reg = RIGHTS[name]
    counted = used_bench.engine.stats.callouts
    before, selector = counted[name], flat_code(3) + 8
    for rm in (3, "cell"):
        used_bench.start(mode, encode(mode, opcode, reg=reg, rm=rm, size=4) * 2, ebx=selector, eflags=0x895)
        used_bench.poke(DATA + CELL, selector, 2)
        used_bench.map_pages()
        after = used_bench.run()
        assert after["eip"] == "end"
        assert after["eflags"] & ZF
        if name in ("lar", "lsl"):
            assert after["edx"] == {"lar": 0xC0_F300, "lsl": 0xFFFF_FFFF}[name]
    assert counted[name] == before
    change = asm(f"mov byte ptr [{GDT + (selector & ~7) + 5:#x}], 0xF9", True)  # code that may only be executed
    if not mode.based:
        code = encode(mode, opcode, reg=reg, rm=3, size=4)
        used_bench.start(mode, code + change + code, ebx=selector)
        after = used_bench.run()
        assert bool(after["eflags"] & ZF) == (name in ("lar", "lsl"))
        assert name != "lar" or after["edx"] == 0xC0_F900


@pytest.mark.parametrize("mode", RING_0, ids=str)
@pytest.mark.parametrize("name", RIGHTS)
def test_a_table_that_is_not_there_is_a_page_fault_as_if_nothing_had_begun(used_bench, mode, name):
    far = 0x30_0000
    opcode, reg = RIGHTS[name]
    for rm, flags in ((3, 0x8D5), (3, 0x400), ("cell", 0x891)):
        used_bench.recycle()
        used_bench.start(mode, encode(mode, opcode, reg=reg, rm=rm, size=4), ebx=0x1238, eflags=flags)
        used_bench.poke(DATA + CELL, 0x1238, 2)
        used_bench.vcpu.gdtr = (far - 0x1000, 0xFFFF)
        used_bench.memory.write(far - 0x1000, used_bench.peek(GDT, 0x400))
        used_bench.map_pages(missing=[far])
        before = used_bench.here()
        after = used_bench.run()
        fault = {"eip": mode.entry, "fault": (int(Vector.PF), 0), "cr2": far + 0x238}
        assert after == before | fault | {"memory": after["memory"]}


@pytest.mark.parametrize("name", RIGHTS)
def test_the_accessed_bit_of_the_tables_page_is_set(used_bench, name):
    opcode, reg = RIGHTS[name]
    far, mode = 0x30_0000, P32[0]
    used_bench.start(mode, encode(mode, opcode, reg=reg, rm=3, size=4), ebx=0x10)
    used_bench.memory.write(far + 0x10, little(0xFFFF, 4) + little(0x00CF_9300, 4))
    used_bench.map_pages()
    used_bench.vcpu.gdtr = (far, 0xFF)
    after = used_bench.run()
    assert after["eflags"] & ZF
    assert used_bench.word(PAGE_TABLE + (far >> 10)) & 0xFF == 0x27
