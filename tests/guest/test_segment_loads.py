"""MOV and POP to DS, ES, FS, GS in ring 0: after the first time they stay in the cache, and show what the GDT holds now."""

import pytest
from guest_bench import DATA, DATA_RW, GDT, P32, P32_BASED, PAGES, Bench, descriptor, encode, faulted

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Seg

RING0 = P32[0]
FLAT = 0x10
FREE_SELECTOR = 0x3C0
WRITABLE_0, WRITABLE_3 = 0x93, 0xF3
MODES = pytest.mark.parametrize("mode", [RING0, P32_BASED[0]], ids=str)
ARITHMETIC_SET = 0x8D5 | 1 << 10  # all six and DF


def loads(bench: Bench) -> int:
    """Segment loads that the VMM did."""
    return bench.engine.stats.callouts["mov"] + bench.engine.stats.callouts["pop"]


def put(bench: Bench, data: bytes) -> None:
    bench.poke(GDT + FREE_SELECTOR, data)


def start(bench: Bench, code: str, **registers: int) -> None:
    bench.start(RING0, code, **registers)
    put(bench, descriptor(DATA, 0xFFFF_FFFF, WRITABLE_0, PAGES))


def test_only_the_first_load_of_a_selector_leaves_the_cache(bench):
    bench.start(RING0, f"mov eax, {FLAT}; mov ecx, 50; again: mov ds, eax; .byte 0x1e, 0x07; loop again")
    assert bench.run()["eip"] == "end"
    assert loads(bench) == 1


@pytest.mark.parametrize("reg", range(8))
@pytest.mark.parametrize("seg", [Seg.ES, Seg.DS, Seg.FS, Seg.GS])
def test_a_warm_load_changes_the_segment_and_nothing_else(bench, seg, reg):
    if reg == 4:
        pytest.skip("the stack pointer is no selector")
    names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    move = encode(RING0, "8e", reg=seg, rm=reg)
    before, after = bench.run_case(move * 3, RING0, **{names[reg]: 0xABCD_0000 | FLAT}, eflags=ARITHMETIC_SET)
    assert after == before | {seg.name.lower(): after[seg.name.lower()]}
    assert bench.vcpu.selector(seg) == FLAT
    assert bench.vcpu.segment(seg).flags >> 13 & 3 == 0
    assert loads(bench) == 1


@MODES
def test_pop_releases_what_push_took(bench, mode):
    push_ds, push_fs, pop_fs = b"\x1e", b"\x0f\xa0", b"\x0f\xa1"
    code = push_ds + pop_fs + (push_fs + pop_fs) * 2 + b"\x66" + push_fs + b"\x66" + pop_fs
    before, after = bench.run_case(code, mode, eflags=ARITHMETIC_SET)
    assert after["esp"] == before["esp"]
    assert after["eflags"] == before["eflags"]
    assert loads(bench) == (1 if mode is RING0 else 4)  # only what is flat stays


def test_a_selector_out_of_memory(bench):
    bench.start(RING0, f"mov fs, word ptr [{DATA + 0x100:#x}]; mov fs, word ptr [{DATA + 0x100:#x}]")
    bench.poke(DATA + 0x100, FLAT, 2)
    bench.run()
    assert bench.vcpu.selector(Seg.FS) == FLAT
    assert loads(bench) == 1


def test_a_descriptor_that_has_changed_is_loaded_as_it_is(bench):
    start(
        bench,
        f"mov eax, {FREE_SELECTOR:#x}; mov fs, eax; mov fs, eax; mov word ptr [{GDT + FREE_SELECTOR + 2:#x}], 0x1000; "
        "mov fs, eax; mov gs, eax",
    )
    bench.run()
    assert bench.vcpu.base(Seg.FS) == bench.vcpu.base(Seg.GS) == DATA & ~0xFFFF | 0x1000
    assert loads(bench) == 2


def test_a_based_segment_never_comes_into_ds_unseen(bench):
    """The VMM keeps watch over the bases of DS and ES: with one, an offset is no linear address."""
    start(bench, f"mov eax, {FREE_SELECTOR:#x}; mov fs, eax; mov fs, eax; mov ds, eax; mov ds, eax")
    bench.run()
    assert bench.vcpu.base(Seg.DS) == DATA
    assert loads(bench) == 3


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(descriptor(DATA, 0xFFF, WRITABLE_0 & 0x7F), (Vector.NP, FREE_SELECTOR), id="not_present"),
        pytest.param(descriptor(DATA, 0xFFF, 0x89), (Vector.GP, FREE_SELECTOR), id="system"),
        pytest.param(bytes(8), (Vector.GP, FREE_SELECTOR), id="zero"),
    ],
)
def test_a_descriptor_that_is_not_loadable_any_more_faults(bench, change, fault):
    start(bench, f"mov eax, {FREE_SELECTOR:#x}; mov fs, eax; mov fs, eax; nop")
    assert bench.run()["eip"] == "end"
    start(bench, encode(RING0, "8e", reg=Seg.FS, rm=0), eax=FREE_SELECTOR, eflags=ARITHMETIC_SET)
    put(bench, change)
    before = bench.here()
    assert bench.run() == before | faulted(RING0, *fault)


def test_rpl_above_dpl_is_gp_and_nothing_has_changed(bench):
    """The entry is warm, and the physical processor itself refuses."""
    start(bench, f"mov eax, {FREE_SELECTOR:#x}; mov fs, eax")
    bench.run()
    start(bench, encode(RING0, "8e", reg=Seg.FS, rm=0), eax=FREE_SELECTOR | 3, eflags=ARITHMETIC_SET)
    before = bench.here()
    assert bench.run() == before | faulted(RING0, Vector.GP, FREE_SELECTOR)


@pytest.mark.parametrize("rpl", range(4))
def test_dpl_3_is_for_every_rpl(bench, rpl):
    start(bench, f"mov eax, {FREE_SELECTOR | rpl:#x}; mov fs, eax; mov fs, eax; mov fs, eax")
    put(bench, descriptor(DATA, 0xFFFF_FFFF, WRITABLE_3, PAGES))
    bench.run()
    assert bench.vcpu.selector(Seg.FS) == FREE_SELECTOR | rpl
    assert bench.vcpu.segment(Seg.FS).flags >> 13 & 3 == 3


def test_the_limit_of_the_gdt_counts_at_each_load(bench):
    start(bench, f"mov eax, {FREE_SELECTOR:#x}; mov fs, eax; mov fs, eax")
    bench.run()
    start(bench, encode(RING0, "8e", reg=Seg.FS, rm=0), eax=FREE_SELECTOR)
    bench.vcpu.gdtr = (GDT, FREE_SELECTOR + 6)
    before = bench.here()
    assert bench.run() == before | faulted(RING0, Vector.GP, FREE_SELECTOR)


def test_a_null_selector_is_loaded_and_taken_back(bench):
    bench.start(RING0, f"xor eax, eax; mov fs, eax; mov fs, eax; mov ecx, {FLAT}; mov fs, ecx; mov gs, eax")
    bench.run()
    assert bench.vcpu.segment(Seg.GS).flags == 0
    assert bench.vcpu.selector(Seg.FS) == FLAT


@pytest.mark.parametrize("seg", [Seg.ES, Seg.DS, Seg.FS, Seg.GS])
@pytest.mark.parametrize("selector", [0, 3])
def test_a_null_selector_leaves_the_cache_for_ds_and_es_alone(bench, seg, selector):
    code = encode(RING0, "8e", reg=seg, rm=0)
    before, after = bench.run_case(code, RING0, eax=0xABCD_0000 | selector, eflags=ARITHMETIC_SET)
    assert after == before | {seg.name.lower(): after[seg.name.lower()]}
    loaded = bench.vcpu.segment(seg)
    assert (loaded.selector, loaded.base, loaded.limit, loaded.flags) == (selector, 0, 0, 0)
    assert loads(bench) == (seg in (Seg.ES, Seg.DS))


@pytest.mark.parametrize(
    "data",
    [descriptor(DATA, 0xFFF, DATA_RW), descriptor(0, 0xFFFF_FFFF, 0x91, PAGES), descriptor(0, 0xFFF, 0x97)],
    ids=["limit", "read_only", "expand_down"],
)
def test_what_is_not_flat_and_writable_leaves_the_cache_each_time(bench, data):
    """Cached code of ring 0 checks no limits of what it has loaded itself."""
    bench.start(RING0, f"mov eax, {FREE_SELECTOR:#x}; mov fs, eax; mov fs, eax; mov fs, eax")
    put(bench, data)
    bench.run()
    assert loads(bench) == 3


def test_the_accessed_bit_that_the_guest_cleared_is_set_again(bench):
    start(
        bench,
        f"mov eax, {FREE_SELECTOR:#x}; mov fs, eax; mov fs, eax; "
        f"mov byte ptr [{GDT + FREE_SELECTOR + 5:#x}], {WRITABLE_0 & 0xFE:#x}; mov fs, eax",
    )
    bench.run()
    assert bench.peek(GDT + FREE_SELECTOR + 5, 1) == bytes([WRITABLE_0])
