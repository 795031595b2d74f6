"""Accesses that a segment forbids: beyond its limit, of the wrong type, through a null selector; branches beyond CS.

Source of every expectation: SDM Vol. 3A, "Limit Checking", "Type Checking"; Vol. 2A-2B, the instructions' exceptions.
"""

import pytest
from guest_bench import (
    BIG,
    CELL,
    CODE_RE,
    DATA,
    DATA_RW,
    FILL,
    FREE,
    GDT,
    P16,
    P32,
    P32_BASED,
    PAGES,
    REAL,
    STACK,
    V86_3,
    Bench,
    asm,
    descriptor,
    faulted,
    flat_code,
)  # fmt: skip

from bt.translate import Options
from vmm.arch.registers import Cr0, Seg
from vmm.hw import state as hw

WRAPPED = [REAL, V86_3, P16[0], P16[3], P32_BASED[0], P32_BASED[1]]
END = 0x1_0000
OSFXSR = 1 << 9
GP, SS = 13, 12
READ_ONLY, DATA_DOWN, EXECUTE_ONLY = 0x91, 0x97, 0x99


def fault(mode, vector):
    """How a picture shows a fault with error code 0; in real mode there is none."""
    return vector, None if mode.kind == "real" else 0


def at_once(before, mode, vector):
    """The picture when the first instruction has faulted and nothing else has happened."""
    return before | faulted(mode, vector, 0)


# --- the end of 64 KiB -------------------------------------------------------------------------------------------

OPERANDS = [
    ("mov al, [{r}]", 1), ("mov ax, [{r}]", 2), ("mov eax, [{r}]", 4), ("mov [{r}], cl", 1), ("mov [{r}], cx", 2),
    ("mov [{r}], ecx", 4), ("add [{r}], edx", 4), ("cmp word ptr [{r}], 3", 2), ("test byte ptr [{r}], 1", 1),
    ("inc word ptr [{r}]", 2), ("not dword ptr [{r}]", 4), ("xchg [{r}], dx", 2), ("shl word ptr [{r}], 3", 2),
    ("rcl dword ptr [{r}], 1", 4), ("setc byte ptr [{r}]", 1), ("movzx eax, byte ptr [{r}]", 1),
    ("movsx eax, word ptr [{r}]", 2), ("imul ax, [{r}]", 2), ("imul dword ptr [{r}]", 4), ("shld [{r}], dx, 1", 2),
    ("bt word ptr [{r}], 3", 2), ("bsf eax, [{r}]", 4), ("cmovz eax, [{r}]", 4), ("cmpxchg [{r}], dx", 2),
    ("cmpxchg8b [{r}]", 8), ("xadd [{r}], edx", 4), ("fld dword ptr [{r}]", 4), ("fld qword ptr [{r}]", 8),
    ("fild word ptr [{r}]", 2), ("fnstcw [{r}]", 2), ("fbld [{r}]", 10), ("movq mm1, [{r}]", 8),
    ("movd mm1, [{r}]", 4), ("push dword ptr [{r}]", 4), ("push word ptr [{r}]", 2), ("pop word ptr [{r}]", 2),
    ("mov [{r}], ds", 2), ("sgdt [{r}]", 6), ("sidt [{r}]", 6), ("smsw [{r}]", 2),
    ("movups xmm1, [{r}]", 16), ("movss [{r}], xmm1", 4), ("ldmxcsr [{r}]", 4), ("clflush [{r}]", 1),
]  # fmt: skip


@pytest.mark.parametrize("mode", WRAPPED, ids=str)
@pytest.mark.parametrize(("text", "size"), OPERANDS)
def test_an_operand_across_the_end_of_64_kib_is_gp(used_bench, mode, text, size):
    code = asm(text.format(r="ebx" if mode.code32 else "bx"), mode.code32)
    last = END - size
    before = registers_at(used_bench, mode, code, ebx=last + 1)
    if size > 1 or mode.code32:  # a byte is where its offset is, and that has 16 bits
        assert used_bench.run() == at_once(before, mode, GP)
    registers_at(used_bench, mode, code, ebx=last)
    assert used_bench.run()["eip"] == "end"


def registers_at(bench, mode, code, **registers):
    """Start a case on an FPU without errors, and with zeros round the end of the data segment."""
    bench.start(mode, code, cr4=OSFXSR, **registers)
    bench.poke(DATA + END - 0x20, bytes(0x40))
    bench.poke(DATA + END - 4, 0x1F80)
    return bench.here()


@pytest.mark.parametrize("mode", [REAL, V86_3, P16[0], P16[3]], ids=str)
@pytest.mark.parametrize(("address", "is_there"), [(END - 2, True), (END - 1, False), (END, False), (1 << 31, False)])
def test_a_32_bit_address_in_16_bit_code_is_compared_in_full(used_bench, mode, address, is_there):
    registers_at(used_bench, mode, "mov ax, [ebx + ecx*2 + 1]", ebx=address - 7, ecx=3)
    after = used_bench.run()
    assert after["eip"] == ("end" if is_there else mode.entry)
    assert after.get("fault") == (None if is_there else fault(mode, GP))


@pytest.mark.parametrize("mode", WRAPPED, ids=str)
@pytest.mark.parametrize("override", ["es", "ss", "fs", "cs"])
def test_the_segment_of_a_prefix_counts(used_bench, mode, override):
    code = asm(f"mov ax, {override}:[{'ebx' if mode.code32 else 'bx'}]", mode.code32)
    registers_at(used_bench, mode, code, ebx=END - 1)
    assert used_bench.run()["fault"] == fault(mode, SS if override == "ss" else GP)


@pytest.mark.parametrize("mode", [REAL, P16[0]], ids=str)
def test_an_offset_in_the_instruction_needs_no_register(used_bench, mode):
    for code, is_there in (("a1fffe", True), ("a1ffff", False), ("8b16feff", True), ("8b16ffff", False)):
        raw = bytes.fromhex(code.replace("a1fffe", "a1feff"))
        registers_at(used_bench, mode, raw)
        assert (used_bench.run()["eip"] == "end") == is_there, code


@pytest.mark.parametrize("mode", WRAPPED, ids=str)
def test_a_check_changes_no_register_and_no_flag(used_bench, mode):
    code = asm("mov [{}], cx; adc cx, dx; rcl cx, 1".format("ebx" if mode.code32 else "bx"), mode.code32)
    results = []
    for checks in (True, False):
        bench = Bench(Options(segment_checks=checks))
        bench.start(mode, code, ebx=CELL, eflags=0x8D5, ecx=0x1234_FFFF)
        results.append(bench.run())
    assert results[0] == results[1]


# --- stacks ------------------------------------------------------------------------------------------------------

STACK_CASES = [
    ("push ax", 1, SS), ("push ax", 2, None), ("push ax", 0, None), ("push eax", 3, SS), ("push eax", 2, SS),
    ("push eax", 4, None), ("pop ax", 0xFFFF, SS), ("pop ax", 0xFFFE, None), ("pop eax", 0xFFFD, SS),
    ("pop eax", 0xFFFC, None), ("push 5", 1, SS), ("push ds", 1, SS), ("pop es", 0xFFFF, SS), ("pushf", 1, SS),
    ("popf", 0xFFFF, SS), ("pusha", 0, None), ("pusha", 9, GP), ("pusha", 17, None), ("popa", 0xFFF1, SS),
    ("popa", 0xFFF0, None), ("pushad", 0x1E, SS), ("enter 4, 0", 1, SS), ("enter 4, 0", 6, None),
    ("enter 4, 0", 5, SS), ("enter 4, 2", 1, SS), ("ret", 0xFFFF, SS), ("call word ptr [bx]", 1, SS),
]  # fmt: skip


@pytest.mark.parametrize("mode", [V86_3, P16[3]], ids=str)
@pytest.mark.parametrize(("text", "pointer", "vector"), STACK_CASES)
def test_a_stack_access_across_the_end_is_ss(used_bench, mode, text, pointer, vector):
    """From rings whose faults are handled on another stack."""
    if mode.is_protected and vector == GP:
        vector = SS  # PUSHA is #GP in real mode and V86 alone
    used_bench.start(mode, asm(text, False), esp=0xABCD_0000 | pointer, ebx=CELL)
    used_bench.poke(STACK - 0x800 + END - 0x10, bytes(0x20))
    before = used_bench.here()
    after = used_bench.run()
    if vector is None:
        assert (after.get("fault"), after["eip"]) == (None, "end")
    else:
        assert after == at_once(before, mode, vector)


@pytest.mark.parametrize("mode", [V86_3, P16[3]], ids=str)
def test_leave_reads_through_bp(used_bench, mode):
    for frame, is_there in ((0xFFFE, True), (0xFFFF, False)):
        used_bench.start(mode, asm("leave", False), ebp=frame)
        assert used_bench.run().get("fault") == (None if is_there else (SS, 0))


# --- strings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", WRAPPED, ids=str)
@pytest.mark.parametrize(
    ("text", "vector"), [("lodsw", GP), ("stosw", GP), ("movsw", GP), ("scasw", GP), ("cmpsd", GP)]
)
def test_a_string_element_across_the_end_is_gp(used_bench, mode, text, vector):
    for first, second in ((END - 1, CELL), (CELL, END - 1)):
        registers_at(used_bench, mode, asm(text, mode.code32), esi=first, edi=second)
        after = used_bench.run()
        touches = first > CELL if text == "lodsw" else second > CELL if text in ("stosw", "scasw") else True
        assert after.get("fault") == (fault(mode, vector) if touches else None)


@pytest.mark.parametrize("mode", WRAPPED, ids=str)
@pytest.mark.parametrize("backward", [0, 0x400], ids=["up", "down"])
@pytest.mark.parametrize("text", ["rep movsw", "rep stosw", "repe cmpsw", "rep lodsw"])
def test_rep_runs_up_to_the_element_that_faults(used_bench, mode, backward, text):
    start = 5 if backward else END - 7  # third element from the end, at an odd offset
    registers_at(used_bench, mode, asm(text, mode.code32), esi=start, edi=start, ecx=9, eax=0, eflags=backward)
    used_bench.poke(DATA, bytes(16))
    after = used_bench.run()
    done = 3
    step = -2 if backward else 2
    mask = 0xFFFF_FFFF if mode.code32 else 0xFFFF
    assert after["fault"] == fault(mode, GP)
    assert after["eip"] == mode.entry
    assert after["ecx"] == 9 - done
    moved = start + step * done & mask
    assert (after["esi"] if "stos" not in text else moved) == moved
    assert (after["edi"] if "lods" not in text else moved) == moved


@pytest.mark.parametrize("mode", [REAL, V86_3, P16[0]], ids=str)
@pytest.mark.parametrize(("text", "count"), [("rep stosb", 0xFFFF), ("rep stosw", 0x8000), ("rep lodsb", 0xFFFF)])
def test_rep_of_aligned_elements_goes_round_64_kib(used_bench, mode, text, count):
    used_bench.start(mode, text, ecx=count, edi=0xFFF0, esi=0xFFF0)
    after = used_bench.run()
    assert (after["eip"], after["ecx"]) == ("end", 0)


# --- other limits, types, null -------------------------------------------------------------------------------------


def segment(bench, seg, limit, access, bits=0, base=DATA):
    """Give a segment register a descriptor of its own, with the ring's DPL."""
    dpl = bench.mode.ring << 5
    selector = FREE + 8 * seg | bench.mode.ring
    bench.poke(GDT + FREE + 8 * seg, descriptor(base, limit, access | dpl, bits))
    bench.load(seg, selector)


SCALED = "mov ax, [ebx*2 + 8]"  # which Keystone takes for something else in 16-bit code
FORMS = [
    ("mov al, [{r}]", 1, False), ("mov eax, [{r}]", 4, False), ("mov [{r}], dx", 2, True),
    ("add byte ptr [{r}], 3", 1, True), (SCALED, 2, False),
]  # fmt: skip
KINDS = [
    ("short", 0x7FF, DATA_RW, 0, 0, 0x7FF, "rw"),
    ("empty but a byte", 0, DATA_RW, 0, 0, 0, "rw"),
    ("long", 0x2_1FFF, DATA_RW, PAGES, 0, 0x2_1FFF, "rw"),
    ("read-only", 0xFFF, READ_ONLY, 0, 0, 0xFFF, "r"),
    ("read-only, 64 KiB", 0xFFFF, READ_ONLY, 0, 0, 0xFFFF, "r"),
    ("code", 0xFFF, CODE_RE, 0, 0, 0xFFF, "r"),
    ("execute-only", 0xFFFF, EXECUTE_ONLY, 0, 0, 0xFFFF, ""),
    ("downward, 16 bits", 0x7FF, DATA_DOWN, 0, 0x800, 0xFFFF, "rw"),
    ("downward, 32 bits", 0x7FF, DATA_DOWN, BIG, 0x800, 0xFFFF_FFFF, "rw"),
]


@pytest.mark.parametrize("mode", [P16[0], P16[1], P16[3], P32_BASED[0], P32_BASED[1], P32[0], P32[3]], ids=str)
@pytest.mark.parametrize(
    ("name", "limit", "access", "bits", "first", "last", "rights"), KINDS, ids=[k[0] for k in KINDS]
)
@pytest.mark.parametrize(("text", "size", "write"), FORMS, ids=[form[0] for form in FORMS])
def test_limit_and_type_of_any_segment(
    used_bench, mode, name, limit, access, bits, first, last, rights, text, size, write
):
    scaled = text == SCALED
    prefix = b"\x66" if mode.code32 else b"\x67"
    code = prefix + b"\x8b\x04\x5d\x08\0\0\0" if scaled else asm(text.format(r="ebx"), mode.code32)
    for offset in {first - 1, first, first + 2, last - size, last - size + 1, last - size + 2, last + 1, 0x2_0000}:
        register = (offset - 8) // 2 if scaled else offset
        if not 0 <= offset < 0x4_0000 or not register >= 0 or (scaled and offset % 2):
            continue
        used_bench.start(mode, code, ebx=register)
        segment(used_bench, Seg.DS, limit, access, bits)
        allowed = ("w" if write else "r") in rights and first <= offset and offset + size - 1 <= last
        before = used_bench.here()
        after = used_bench.run()
        if allowed:
            assert after["eip"] == "end", hex(offset)
        else:
            assert after == at_once(before, mode, GP), hex(offset)


@pytest.mark.parametrize("mode", [P16[0], P16[3], P32[0], P32[3], P32_BASED[0]], ids=str)
@pytest.mark.parametrize("limit", [0xFFF, 0x2_0FFF], ids=["short", "long"])
@pytest.mark.parametrize("flags", [0, 0x8D5, 0x411, 0x880])
def test_a_comparison_changes_no_register_and_no_flag(used_bench, mode, limit, flags):
    """Limits that no guard page ends are compared with, and CMP has flags."""
    code = asm("mov dl, [ebx]; nop", mode.code32)
    used_bench.start(mode, code, ebx=CELL, eflags=flags)
    segment(used_bench, Seg.DS, limit, DATA_RW, PAGES)
    before = used_bench.here()
    assert used_bench.run() == before | {"edx": before["edx"] & ~0xFF | FILL}
    used_bench.start(mode, code, ebx=limit + 1, eflags=flags)
    segment(used_bench, Seg.DS, limit, DATA_RW, PAGES)
    before = used_bench.here()
    assert used_bench.run() == at_once(before, mode, GP)


@pytest.mark.parametrize("mode", [*P32, *P16], ids=str)
@pytest.mark.parametrize("seg", [Seg.ES, Seg.DS, Seg.FS, Seg.GS], ids=lambda seg: seg.name)
def test_an_access_through_a_null_selector_is_gp(used_bench, mode, seg):
    name = seg.name.lower()
    code = asm(f"mov {name}, cx; mov al, {name}:[bx]", mode.code32)
    for null in (0, 3):
        used_bench.start(mode, code, ecx=null, ebx=CELL)
        after = used_bench.run()
        assert after["fault"] == (GP, 0)
        assert after["eip"] > mode.entry
        assert after[name][0] == null


@pytest.mark.parametrize("seg", [Seg.DS, Seg.FS], ids=lambda seg: seg.name)
def test_ring_0_goes_to_and_fro_between_null_and_flat(used_bench, seg):
    """Ring 0 loads these by itself once it has been seen to do so: what is null in between must not pass."""
    name, mode = seg.name.lower(), P32[0]
    flat = flat_code(0) + 8
    code = f"""
        mov edx, 5
    again:
        mov ecx, {flat}
        mov {name}, ecx
        mov al, {name}:[ebx]
        xor ecx, ecx
        mov {name}, ecx
        dec edx
        jnz again
        mov al, {name}:[ebx]
    """
    used_bench.start(mode, code, ebx=mode.cell)
    after = used_bench.run()
    assert (after["fault"], after["edx"]) == ((GP, 0), 0)


@pytest.mark.parametrize("mode", [P32[0], P32[3], P32_BASED[0]], ids=str)
def test_a_write_through_cs_is_gp_in_protected_mode(used_bench, mode):
    used_bench.start(mode, "mov eax, cs:[ebx]; mov cs:[ebx], eax", ebx=mode.offset(0x1_0800, "cs"))
    after = used_bench.run()
    assert after["fault"] == (GP, 0)
    assert after["eip"] > mode.entry


def test_a_write_through_cs_passes_in_real_mode(used_bench):
    used_bench.start(REAL, "mov cs:[bx], ax", ebx=0x800)
    assert used_bench.run()["eip"] == "end"


# --- real mode's segments --------------------------------------------------------------------------------------------


def test_big_real_mode_reaches_beyond_64_kib_and_a_load_keeps_the_limit(used_bench):
    used_bench.start(REAL, "mov ax, ds; mov ds, ax; mov al, [ebx]", ebx=0x2_0000)
    used_bench.vcpu.set_segment(Seg.DS, used_bench.vcpu.segment(Seg.DS).__class__(DATA >> 4, DATA, 0xFFFF_FFFF, 0x9300))
    assert used_bench.run()["eip"] == "end"
    assert used_bench.vcpu.limit(Seg.DS) == 0xFFFF_FFFF


def test_a_load_in_real_mode_revives_what_protected_mode_left_null(used_bench):
    used_bench.start(REAL, "mov es, cx; mov al, es:[bx]", ecx=DATA >> 4, ebx=CELL)
    used_bench.vcpu.set_segment(Seg.ES, used_bench.vcpu.segment(Seg.ES).__class__(0, 0, 0, 0))
    assert used_bench.run()["eip"] == "end"


# --- near branches ---------------------------------------------------------------------------------------------------

FAR_OFF = 0x1_0010
BRANCHES = [
    ("jmp eax", "66ffe0"), ("call eax", "66ffd0"), ("ret", "66c3"), ("ret 8", "66c20800"), ("jmp m", "66ff27"),
    ("call m", "66ff17"), ("call rel", "66e800000100"), ("jmp rel", "66e900000100"), ("jnz", "660f8500000100"),
]  # fmt: skip


@pytest.mark.parametrize("mode", [REAL, V86_3, P16[0], P16[3]], ids=str)
@pytest.mark.parametrize(("name", "code"), BRANCHES, ids=[branch[0] for branch in BRANCHES])
def test_a_near_branch_beyond_cs_faults_itself(used_bench, mode, name, code):
    used_bench.start(mode, bytes.fromhex(code), eax=FAR_OFF, ebx=CELL, eflags=0)
    used_bench.poke(DATA + CELL, FAR_OFF)
    used_bench.poke(STACK, FAR_OFF)
    before = used_bench.here()
    after = used_bench.run()
    assert after == at_once(before, mode, GP)


@pytest.mark.parametrize(("name", "code"), [("jmp", "ffe0"), ("call", "ffd0"), ("ret", "c3"), ("loop", "e2f0")])
def test_the_limit_of_a_short_code_segment_counts(used_bench, name, code):
    mode = P32_BASED[0]
    for limit, is_inside in ((0x1FF, False), (0x201, True), (0xFF_FFFF, True)):
        used_bench.start(mode, bytes.fromhex(code), eax=0x200, ecx=5)
        used_bench.poke(0x1_0200, b"\xe6\xf4")
        used_bench.poke(0x1_00F2, b"\xe6\xf4")
        used_bench.poke(STACK, 0x200)
        segment(used_bench, Seg.CS, limit, CODE_RE, BIG | (PAGES if limit > END else 0), base=0x1_0000)
        before = used_bench.here()
        after = used_bench.run()
        if is_inside or name == "loop":
            assert "fault" not in after
        else:
            assert after == at_once(before, mode, GP)


# --- what leaves the cache anyway ------------------------------------------------------------------------------------

LEAVING = [
    "lgdt [{r}]", "lidt [{r}]", "lmsw [{r}]", "les cx, [{r}]", "lss cx, [{r}]", "insw", "outsw", "rep insw", "rep outsw",
]  # fmt: skip


@pytest.mark.parametrize("mode", [REAL, P16[0], P32_BASED[0]], ids=str)
@pytest.mark.parametrize("text", LEAVING)
def test_operands_of_what_the_vmm_carries_out_are_checked(used_bench, mode, text):
    code = asm(text.format(r="ebx" if mode.code32 else "bx"), mode.code32)
    before = registers_at(used_bench, mode, code, ebx=END - 1, edi=END - 1, esi=END - 1, ecx=2, edx=0x80)
    assert used_bench.run() == at_once(before, mode, GP)


def test_without_checks_everything_passes():
    bench = Bench(Options(segment_checks=False))
    bench.start(REAL, "mov ax, [bx]", ebx=0xFFFF)
    assert bench.run()["eip"] == "end"


@pytest.mark.parametrize("mode", [P16[3], P32_BASED[1]], ids=str)
@pytest.mark.parametrize("text", ["movsw", "rep movsw", "push word ptr [{r}]"])
def test_the_page_fault_of_an_earlier_access_comes_first(used_bench, mode, text):
    """The source is in a page that is missing, what is written behind the end of its segment."""
    code = asm(text.format(r="ebx" if mode.code32 else "bx"), mode.code32)
    used_bench.start(mode, code, esi=CELL, ebx=CELL, edi=END - 1, esp=1, ecx=2)
    for missing, vector in (([DATA], 14), ([], SS if "push" in text else GP)):
        used_bench.map_pages(missing=missing)
        assert used_bench.run()["fault"][0] == vector
        used_bench.start(mode, code, esi=CELL, ebx=CELL, edi=END - 1, esp=1, ecx=2)


@pytest.mark.parametrize("mode", [P16[3], P32_BASED[0]], ids=str)
def test_an_x87_error_comes_before_the_fault_of_the_operand(used_bench, mode):
    """1 / 0, which CR0.NE and the control word make an error, and an operand across the end of its segment."""
    code = asm(f"fld1; fldz; fdivp; fld dword ptr [{'ebx' if mode.code32 else 'bx'}]", mode.code32)
    for control, vector in ((0x37B, 16), (0x37F, GP)):
        used_bench.start(mode, code, ebx=END - 1)
        used_bench.set(cr0=used_bench.vcpu.cr0 | int(Cr0.NE))
        state = used_bench.vcpu.state.buffer
        state[hw.FPU_CONTROL : hw.FPU_CONTROL + 2] = control.to_bytes(2, "little")
        state[hw.FPU_STATUS : hw.FPU_STATUS + 2] = bytes(2)
        state[hw.FPU_TAGS : hw.FPU_TAGS + 8] = b"\1" * 8
        assert used_bench.run()["fault"][0] == vector


LOOPS = [
    ("loop", "e27e", 2, 0, True), ("loop_ends", "e27e", 1, 0, False), ("loope", "e17e", 2, 0x40, True),
    ("loope_nz", "e17e", 2, 0, False), ("loopne", "e07e", 2, 0, True), ("loopne_z", "e07e", 2, 0x40, False),
    ("jecxz", "e37e", 0, 0, True), ("jecxz_not", "e37e", 5, 0, False), ("loop_wraps", "e27e", 0, 0, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "code", "count", "flags", "is_taken"), LOOPS, ids=[case[0] for case in LOOPS])
def test_a_loop_beyond_cs_faults_before_it_counts(used_bench, name, code, count, flags, is_taken):
    mode = P32_BASED[0]
    used_bench.start(mode, bytes.fromhex(code), ecx=count, eflags=flags)
    segment(used_bench, Seg.CS, 0x17F, CODE_RE, BIG, base=0x1_0000)
    before = used_bench.here()
    after = used_bench.run()
    if is_taken:
        assert after == at_once(before, mode, GP)
    else:
        assert after["eip"] == "end"
