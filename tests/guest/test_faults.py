"""Faults in the middle of a block, at stacks and memory that are not there, and opcodes that this processor lacks."""

import pytest
from guest_bench import (
    ARITHMETIC,
    CELL,
    CODE,
    DATA,
    DF,
    ENTRY,
    EVERY,
    P16,
    P32,
    P32_BASED,
    PAGE_TABLE,
    PATTERNS,
    RAM,
    REAL,
    STACK,
    V86_3,
    Bench,
    asm,
    encode,
    faulted,
    little,
    plain,
)  # fmt: skip

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Seg
from vmm.cpu.vcpu import STALE_ALL
from vmm.engines.engine import Leave
from vmm.memory import MemoryRegion

SOME = [REAL, V86_3, P16[0], P16[3], P32[0], P32[3], P32_BASED[0]]
OSFXSR = 1 << 9

# --- exact EIP and registers -----------------------------------------------------------------------------------

BEFORE_IT = b"\x40\x43\x46"  # inc eax, inc ebx, inc esi
MIDDLE = [
    ("div_by_zero", "f7f1", {"ecx": 0}, Vector.DE, None),
    ("idiv_overflow", "f6fb", {"eax": 0x7FFF, "ebx": 0}, Vector.DE, None),
    ("aam_0", "d400", {}, Vector.DE, None),
    ("ud2", "0f0b", {}, Vector.UD, None),
    ("lock_nop", "f090", {}, Vector.UD, None),
    ("sse_without_osfxsr", "0f58c1", {}, Vector.UD, None),
]


@pytest.mark.parametrize("mode", EVERY, ids=str)
@pytest.mark.parametrize(("name", "code", "registers", "vector", "error"), MIDDLE, ids=[case[0] for case in MIDDLE])
def test_a_fault_in_mid_block_shows_its_own_eip_and_what_ran_before(
    run_guest, mode, name, code, registers, vector, error
):
    flags = PATTERNS[EVERY.index(mode) % len(PATTERNS)] & ~ARITHMETIC
    before, after = run_guest(BEFORE_IT + bytes.fromhex(code) + b"\x40", mode, eflags=flags, **registers)
    mask = 0xFFFF_FFFF if mode.code32 else 0xFFFF
    moved = {n: before[n] & ~mask | before[n] + 1 & mask for n in ("eax", "ebx", "esi")}
    after["eflags"] &= ~ARITHMETIC
    before["eflags"] &= ~ARITHMETIC
    assert after == before | moved | {"eip": mode.entry + 3, "fault": (int(vector), error)}


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_bound_outside_its_bounds_is_br(used_bench, mode):
    used_bench.start(mode, BEFORE_IT + encode(mode, "62", reg=2, rm="cell"), edx=5, eax=0, ebx=0, esi=0)
    size = 4 if mode.code32 else 2
    used_bench.poke(DATA + CELL, little(10, size) + little(20, size))
    before = used_bench.here()
    after = used_bench.run()
    assert after["fault"] == (int(Vector.BR), None)
    assert (after["eip"], after["eax"], after["edx"]) == (mode.entry + 3, 1, before["edx"])


@pytest.mark.parametrize("mode", [REAL, P32[0], P32[3]], ids=str)
def test_a_misaligned_sse_access_is_gp(used_bench, mode):
    code = BEFORE_IT + encode(mode, "0f28", reg=1, rm="cell")
    for address, fault in ((DATA + CELL, None), (DATA + CELL + 8, (13, None if mode.kind == "real" else 0))):
        used_bench.recycle()
        used_bench.start(mode, code, cr4=OSFXSR)
        used_bench.poke(
            CODE + ENTRY + len(code) - (4 if mode.code32 else 2), little(mode.offset(address), 4 if mode.code32 else 2)
        )
        after = used_bench.run()
        assert after.get("fault") == fault
        assert after["eip"] == ("end" if fault is None else mode.entry + 3)


@pytest.mark.parametrize("mode", SOME[1:], ids=str)
@pytest.mark.parametrize(
    "instruction",
    ["smsw", "sidt", "sgdt", "pushf", "pushfd", "call", "call_m", "popf", "ret", "retn_6", "push_es", "enter"],
)
def test_a_page_fault_inside_an_inline_sequence_leaves_no_trace(bench, mode, instruction):
    """The operand's page is missing: registers, flags and ESP are as before, and once the page is there it goes on."""
    at_stack = instruction not in ("smsw", "sidt", "sgdt")
    code = {
        "smsw": encode(mode, "0f01", reg=4, rm="cell"), "sidt": encode(mode, "0f01", reg=1, rm="cell"),
        "sgdt": encode(mode, "0f01", reg=0, rm="cell"), "pushf": plain(mode, "9c", 2), "pushfd": plain(mode, "9c", 4),
        "call": b"\xe8" + bytes(4 if mode.code32 else 2), "call_m": encode(mode, "ff", reg=2, rm="cell"),
        "popf": b"\x9d", "ret": b"\xc3", "retn_6": b"\xc2\x06\x00", "push_es": b"\x06", "enter": b"\xc8\x08\x00\x00",
    }[instruction]  # fmt: skip
    page = STACK & ~0xFFF if at_stack else DATA
    bench.start(mode, BEFORE_IT + code + b"\x90", eflags=0x8D5 | DF)
    size = 4 if mode.code32 else 2
    bench.poke(DATA + CELL, mode.entry + 3 + len(code), size)
    bench.poke(STACK, little(mode.entry + 3 + len(code), size))
    if instruction == "popf":
        bench.poke(STACK, little(2, size))
    bench.map_pages(missing=[page])
    before = bench.here()
    after = bench.run()
    write = 0 if instruction in ("popf", "ret", "retn_6") else 2
    if at_stack and mode.ring == 0:  # there is nowhere to push the frame, of #DF neither
        assert (bench.leave, bench.vcpu.cr2 & ~0xFFF) == (Leave.SHUTDOWN, page - (page == STACK) & ~0xFFF)
    else:
        assert after["fault"] == (14, write | (4 if mode.ring == 3 else 0))
    assert after["eip"] == mode.entry + 3
    same = [name for name in ("ecx", "edx", "ebp", "edi", "esp", "ss", "ds", "es")]
    assert {n: after[n] for n in same} == {n: before[n] for n in same}
    assert after["eflags"] & DF
    bench.poke(PAGE_TABLE + (page >> 10), page | 7)
    bench.vcpu.make_stale(STALE_ALL)
    bench.continue_at(after)
    if mode.kind == "v86" or bench.leave is Leave.SHUTDOWN:
        return
    assert bench.run()["eip"] == "end"


# --- hidden faults ----------------------------------------------------------------------------------------------

FAR = 0x30_0000
ORIGINAL = 0x5A5A_5A5A
BEFORE_FLAGS = {
    "add_with_carry": "83c0ff", "add": "83c001", "sub_with_borrow": "83e805", "inc": "40",
    "stc_dec": "f948", "and": "21c0",
    "shl": "d1e0", "stc": "f9", "mul": "f7e1", "sub_in_another_block": "83e805eb00",
}  # fmt: skip
ON_MEMORY = {
    "rcl_imm": "c015M03", "rcl_1": "d115M", "rcr_cl": "d31dM", **{f"set{n:x}": f"0f9{n:x}05M" for n in range(16)},
    "adc_m": "1105M", "adc_r": "1305M", "sbb_m": "1905M", "sbb_r": "1b05M", "inc": "ff05M", "rol": "c105M03",
    "shl": "c125M03",
    "sar_cl": "d33dM", "shrd": "0fac05M05", "xadd": "0fc105M", "cmpxchg": "0fb10dM", "cmpxchg8b": "0fc70dM",
    "neg": "f71dM",
    "not": "f715M", "or": "0905M", "cmovp": "0f4a05M", "cmovl": "0f4c05M", "push": "ff35M", "pop": "508f05M",
    "imul": "0faf05M",
    "bsf": "0fbc05M", "scas": "bf00003000af", "cmps": "bf00003000be00000200a7", "movs": "bf00003000be00000200a5",
    "rep_stos": "bf00003000b904000000f3aa", "xchg": "8705M", "fld": "dbe3d905M", "fist": "dbe3d9e8db1dM", "test": "8505M",
}  # fmt: skip


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
@pytest.mark.parametrize("before", BEFORE_FLAGS)
def test_a_page_that_only_the_shadow_misses_changes_no_flag(used_bench, mode, before):
    """Each instruction once on a page that the shadow has, once on one that it has yet to map: all must be the same."""
    touch = b"\x50\xa1" + little(FAR, 4) + b"\xa3" + little(FAR, 4) + b"\x58"
    for name, text in ON_MEMORY.items():
        code = bytes.fromhex(BEFORE_FLAGS[before] + text.replace("M", little(FAR, 4).hex()))
        shown = []
        for first in (touch, b""):
            used_bench.recycle()
            used_bench.start(mode, first + code, eax=1, ecx=3)
            used_bench.poke(FAR, ORIGINAL)
            used_bench.map_pages()
            result = used_bench.run()
            assert result["eip"] == "end"
            used_bench.vcpu.cr0 &= ~(1 << 31)
            shown.append([result[n] for n in ("eax", "ecx", "edx", "eflags", "esp")] + [used_bench.word(FAR)])
        assert shown[0] == shown[1], name


def test_cmpxchg8b_changes_zf_alone(used_bench):
    used_bench.start(P32[0], b"\x83\xe8\x05\x0f\xc7\x0d" + little(FAR, 4), eax=1, edx=0)
    used_bench.poke(FAR, 0x1234)
    result = used_bench.run()
    assert (result["eax"], result["eflags"] & ARITHMETIC) == (0x1234, 0x95)


# --- memory that is not there -------------------------------------------------------------------------------------

NOWHERE = RAM + 0x10_0000  # behind RAM
ROM = 0x3_F000


def add_rom(bench: Bench) -> None:
    host = bench.physical.allocate(0x1000)
    bench.physical.window(host, 0x1000)[:] = b"\x5a" * 0x1000
    bench.memory.map(MemoryRegion("rom", ROM, 0x1000, host, read_only=True, priority=1))


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_nothing_reads_as_ones_and_swallows_writes(bench, mode):
    code = asm(
        f"mov eax, [{NOWHERE}]; mov dword ptr [{NOWHERE}], 0x12345678; mov ebx, [{NOWHERE}]; "
        f"add dword ptr [{NOWHERE}], 2; mov ecx, [{NOWHERE}]; inc byte ptr [{NOWHERE + 0xFFF}]; "
        f"movzx edx, byte ptr [{NOWHERE + 0xFFF}]",
        True,
    )
    bench.start(mode, code)
    result = bench.run()
    assert [result[name] for name in ("eip", "eax", "ebx", "ecx", "edx")] == ["end", *[0xFFFF_FFFF] * 3, 0xFF]


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_flags_of_an_operation_on_nothing_are_right(bench, mode):
    bench.start(mode, asm(f"add dword ptr [{NOWHERE}], 1; pushfd; pop eax", True))
    assert bench.run()["eax"] & 0x8D5 == 0x55


@pytest.mark.parametrize("mode", [REAL, P16[0], P32[0], P32[3], V86_3], ids=str)
def test_rom_reads_as_it_is_and_swallows_writes(bench, mode):
    text = "mov ax, [bx]; mov word ptr [bx], 0x1234; mov cx, [bx]; xchg [bx], dx; add byte ptr [bx], 1"
    if mode.code32:
        text = text.replace("[bx]", "[ebx]")
    bench.start(mode, text)
    add_rom(bench)
    if mode.based:
        bench.vcpu.set_segment(
            Seg.DS, type(bench.vcpu.segment(0))(ROM >> 4, ROM, 0xFFFF, bench.vcpu.segment(Seg.DS).flags)
        )
    bench.set(ebx=0 if mode.based else ROM)
    result = bench.run()
    assert (result["eip"], result["eax"] & 0xFFFF, result["ecx"] & 0xFFFF, result["edx"] & 0xFFFF) == (
        "end",
        0x5A5A,
        0x5A5A,
        0x5A5A,
    )
    assert bench.peek(ROM, 2) == b"\x5a\x5a"


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
@pytest.mark.parametrize("start", [ROM - 8, ROM + 0xFF8, NOWHERE + 0xFF8, RAM - 16])
def test_rep_stosd_over_rom_nothing_and_ram_ends_where_it_should(bench, mode, start):
    bench.start(mode, b"\xf3\xab", eax=0x1111_2222, edi=start, ecx=0x1800 // 4)
    bench.poke(ROM - 8, bytes(8))
    bench.poke(ROM + 0x1000, bytes(8))
    add_rom(bench)
    result = bench.run()
    assert (result["eip"], result["edi"], result["ecx"]) == ("end", start + 0x1800, 0)
    if start == ROM - 8:
        assert bench.peek(ROM - 8, 8) == little(0x1111_2222, 4) * 2
        assert bench.peek(ROM + 0x1000, 8) == little(0x1111_2222, 4) * 2
        assert bench.peek(ROM, 4) == b"\x5a" * 4


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_rep_movsd_from_rom_to_nothing_and_from_nothing_to_ram(bench, mode):
    bench.start(mode, b"\xf3\xa5\x8d\x35" + little(NOWHERE, 4) + b"\x8d\x3d" + little(DATA, 4) + b"\xb1\x04\xf3\xa5")
    add_rom(bench)
    bench.set(esi=ROM, edi=NOWHERE + 0x800, ecx=0x300)
    result = bench.run()
    assert (result["eip"], result["ecx"]) == ("end", 0)
    assert bench.peek(DATA, 16) == b"\xff" * 16


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_a_string_compare_from_ram_with_nothing_stops_at_the_difference(bench, mode):
    bench.start(mode, b"\xf3\xa6", esi=DATA, edi=NOWHERE, ecx=20)
    bench.poke(DATA, b"\xff" * 5 + b"\x01")
    result = bench.run()
    assert (result["eip"], result["ecx"], result["esi"], result["edi"]) == ("end", 14, DATA + 6, NOWHERE + 6)
    assert not result["eflags"] & 0x40


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_a_stack_at_nothing_pushes_into_the_void_and_pops_ones(bench, mode):
    bench.start(mode, b"\x50\x9c\x5b\xe8\x00\x00\x00\x00\x59", esp=NOWHERE + 0x100)
    result = bench.run()
    assert (result["eip"], result["ebx"], result["ecx"], result["esp"]) == (
        "end",
        0xFFFF_FFFF,
        0xFFFF_FFFF,
        NOWHERE + 0xFC,
    )


def test_an_interrupt_with_its_stack_at_nothing_is_lost_but_not_the_vmm(bench):
    bench.start(P32[0], b"\x0f\x0b", esp=NOWHERE + 0x100)
    bench.run()
    assert (bench.leave, bench.vcpu.eip) == (Leave.HALTED, 0x9000 + 6 + 1)


def test_code_that_jumps_to_nothing_runs_ones(bench):
    """FFh FFh is no instruction."""
    bench.start(P32[0], b"\xb8" + little(NOWHERE, 4) + b"\xff\xe0")
    result = bench.run()
    assert (result["fault"], result["eip"]) == ((6, None), NOWHERE)


def test_code_in_rom_runs_and_cannot_change_itself(bench):
    bench.start(P32[0], b"\xb8" + little(ROM, 4) + b"\xff\xe0", ebx=0)
    add_rom(bench)
    raw = b"\xc6\x05" + little(ROM + 7, 4) + b"\x43\x40\xe6\xf4"
    host = next(r for r in bench.memory.regions if r.name == "rom").host
    bench.physical.window(host, len(raw))[:] = raw
    bench.run()
    assert (bench.leave, bench.vcpu.reg32(0), bench.vcpu.reg32(3)) == (Leave.REQUESTED, ROM + 1, 0)


def test_code_runs_from_ram_into_nothing(bench):
    bench.start(P32[0], b"\xb8" + little(RAM - 2, 4) + b"\xff\xe0", ebx=0)
    bench.poke(RAM - 2, b"\x43\x43")
    result = bench.run()
    assert (result["fault"], result["eip"], result["ebx"]) == ((6, None), RAM, 2)


# --- opcodes ----------------------------------------------------------------------------------------------------------

LACKING = """
    0f05 0f07 0faa 0f0a 0f0f 0f24 0f26 0f36 0f37 0f38c0 0f38f000 0f38f0c0 0f3a0fc100 0fb8c0 f30fb8c0 0fb9c0
    0fffc0 0f01d0 0f01d1 0f01c1 0f01c2 0f01c3 0f01c8 0f01c9 0f01d8 0f01d9 0f01f9 0f01f8 0f78c0 0f79c0 0fc7f0 0fc7f8
    0fc730 f30fc730 660fc730 f20f7cc1 660f7cc1 660f7dc1 f20ff000 f20f12c1 f30f12c1 f30f16c1 f20fd0c1 660fd0c1 dd08 df08
    db08 0f3800c1 0f381cc1 660f3810c1 660f3840c1 f20f38f0c0 660f3a0ac100 c5f858c1 c4e27918c1 62f17c4858c1 8fe878a2c100
    0fae20 f30faec0 fed0 fed8 fee0 fee8 fef0 fef8 ffff 8fc8 8fd0 c6c8 c7c8 c6f800 c7f800000000
""".split()
"""SSE3 and later, AVX, SYSENTER, SYSCALL, VMX, SVM, MOVBE, POPCNT, 3DNow!, XSAVE, RDRAND, TSX; holes in the groups."""


@pytest.mark.parametrize("code", LACKING)
@pytest.mark.parametrize("mode", [REAL, P32[0], P32[3], P16[3], V86_3], ids=str)
def test_an_opcode_that_this_processor_lacks_is_undefined(run_guest, mode, code):
    before, after = run_guest(bytes.fromhex(code) + b"\x90" * 8, mode, cr4=OSFXSR, eax=0x40, ecx=0, edx=0)
    assert after == before | faulted(mode, Vector.UD)


OLD_FORMS = [
    # opcode that exists though it looks odd, registers after
    ("salc", "d6", {"eflags": 1, "eax": 0}, {"eax": 0xFF}),
    ("add_82h", "82c005", {"eax": 1}, {"eax": 6}),
    ("test_f6_1", "f6c8ff", {"eax": 1}, {"eax": 1}),
    ("test_f7_1", "f7c8ffffffff", {"eax": 1}, {"eax": 1}),
    ("sal_d0_6", "d0f0", {"eax": 3}, {"eax": 6}),
    ("sal_c0_6", "c0f002", {"eax": 3}, {"eax": 12}),
    ("rep_bsf_is_bsf", "f30fbcc1", {"eax": 9, "ecx": 0x30}, {"eax": 4}),
    ("rep_bsr_is_bsr", "f30fbdc1", {"eax": 9, "ecx": 0x30}, {"eax": 5}),
    ("rep_ret_is_ret_prefix", "f390", {}, {}),
    ("hint_nop", "0f1fc0", {}, {}),
    ("hint_nop_18", "0f1d00", {"eax": 0x40}, {}),
    ("endbr32", "f30f1efb", {}, {}),
    ("prefetch", "0f1800", {"eax": 0x40}, {}),
    ("cmpps_with_reserved_bits", "0fc2c1f4", {}, {}),
    ("prefetch_of_a_register", "660f18ce", {}, {}),
    ("wait", "9b", {}, {}),
    ("fs_gs_prefix", "646590", {}, {}),
    ("lock_inc", "f0ff00", {"eax": DATA + CELL}, {}),
    ("int1", "f1", {}, {}),
    ("fcomi", "dbf1", {}, {}),
    ("ffreep", "dfc0", {}, {}),
    ("movntps_sse", "0f57c9", {}, {}),
]


@pytest.mark.parametrize(("name", "code", "before", "after"), OLD_FORMS, ids=[case[0] for case in OLD_FORMS])
def test_odd_encodings_that_exist_are_executed(used_bench, name, code, before, after):
    used_bench.start(P32[0], bytes.fromhex(code), cr4=OSFXSR, **before)
    result = used_bench.run()
    if name == "int1":
        assert (result["fault"], result["eip"]) == ((1, None), P32[0].entry + 1)
        return
    assert "fault" not in result
    assert {n: result[n] for n in after} == after


LOCKABLE = {
    "0000": "add", "1000": "adc", "2000": "and", "0fb300": "btr", "0fbb00": "btc", "0fab00": "bts", "0fb100": "cmpxchg",
    "0fc708": "cmpxchg8b", "ff08": "dec", "ff00": "inc", "f718": "neg", "f710": "not", "0800": "or", "1800": "sbb",
    "2800": "sub", "3000": "xor", "0fc100": "xadd", "8700": "xchg",
}  # fmt: skip
NOT_LOCKABLE = """
    90 40 50 58 9c 9d fa fb f4 ec ee cf c3 cb cc cd80 ce a4 aa ac 6c 8900 8b00 8a00 c60001 a140000200 a340000200
    8e00 8c00 8ed8 0f20c0 0f22c0 0f0101 0f01e0 0f0130 0f00c0 0f02c0 0fa2 0f31 0f30 0f06 3900 8400 01c0 0300 ffc0
    f7d0 87c0 0fb1c1 0fa300 0faf00 e800000000 ebfe 7400 ff10 ff20 8d00 d120 d9d0 ea000000000800 0fbe00
""".split()


@pytest.mark.parametrize("code", LOCKABLE, ids=list(LOCKABLE.values()))
def test_lock_is_allowed_where_memory_is_read_and_written(used_bench, code):
    used_bench.start(P32[0], b"\xf0" + bytes.fromhex(code), eax=DATA + CELL)
    assert used_bench.run()["eip"] == "end"


@pytest.mark.parametrize("code", NOT_LOCKABLE)
@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_lock_is_undefined_everywhere_else(run_guest, mode, code):
    before, after = run_guest(b"\xf0" + bytes.fromhex(code), mode, eax=DATA + CELL)
    assert after == before | faulted(mode, Vector.UD)
