"""Self-modifying code, code loaded over code, code seen at two addresses, and code across page ends.

A P6 executes what lies in memory when the instruction is reached, even if the instruction before it wrote it.
"""

import pytest
from guest_bench import CELL, CODE, DATA, ENTRY, P16, P32, P32_BASED, REAL, V86_3, Bench, Mode, asm, little

from vmm.arch.registers import Seg
from vmm.cpu.vcpu import STALE_ALL
from vmm.engines.engine import Leave

MODES = [REAL, P16[0], P16[3], P32[0], P32[3], P32_BASED[0], V86_3]
FLAT = [P32[0], P32[3]]
INC_EAX, INC_EBX, DEC_EAX = b"\x40", b"\x43", b"\x48"


def store_byte(mode: Mode, at: int, value: int) -> bytes:
    """MOV byte CS:[at], value: six to eight bytes. Protected mode has no writable code segment: there through ES."""
    override = b"\x26" if mode.is_protected else b"\x2e"
    if mode.code32:
        return override + b"\xc6\x05" + little(at, 4) + bytes([value])
    return override + b"\xc6\x06" + little(at, 2) + bytes([value])


def length(mode: Mode) -> int:
    return len(store_byte(mode, 0, 0))


def writable_code(bench: Bench, mode: Mode) -> None:
    """In protected mode let ES have the code segment's base."""
    if mode.is_protected and mode.based:
        register = bench.vcpu.segment(Seg.ES)
        bench.vcpu.set_segment(Seg.ES, type(register)(register.selector, CODE, register.limit, register.flags))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("distance", [0, 1, 5, 40])
def test_a_store_into_code_ahead_is_executed_at_once(bench, mode, distance):
    at = mode.entry + length(mode) + distance
    bench.start(mode, store_byte(mode, at, INC_EBX[0]) + b"\x90" * distance + INC_EAX, eax=0, ebx=0)
    writable_code(bench, mode)
    result = bench.run()
    assert (result["eip"], result["eax"], result["ebx"]) == ("end", 0, 1)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_loop_that_rewrites_itself_runs_the_latest_code(bench, mode):
    """Each round turns the instruction at the end into the other one: INC EAX, DEC EAX.. (48h xor 40h = 08h)."""
    override = b"\x26" if mode.is_protected else b"\x2e"
    size = 4 if mode.code32 else 2
    at = mode.entry + len(override) + 2 + size + 1
    code = override + b"\x80" + (b"\x35" if mode.code32 else b"\x36") + little(at, size) + b"\x08"  # xor byte [at], 8
    code += INC_EAX + INC_EBX
    code += b"\xe2" + little(-(len(code) + 2), 1)
    bench.start(mode, code, eax=1000, ebx=0, ecx=301)
    writable_code(bench, mode)
    result = bench.run()
    assert (result["eip"], result["eax"], result["ebx"]) == ("end", 999, 301)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_code_in_another_page_is_rewritten_again_and_again(bench, mode):
    """A subroutine in the next page is patched from this one: after a few times its page checks itself."""
    far = mode.entry - ENTRY + 0x1800
    size = 4 if mode.code32 else 2
    override = b"\x26" if mode.is_protected else b"\x2e"
    store_bl = override + b"\x88" + (b"\x1d" if mode.code32 else b"\x1e") + little(far, size)  # mov [far], bl
    code = store_bl + b"\x80\xf3\x08"  # xor bl, 8
    code += b"\xe8" + little(far - (mode.entry + len(code) + 1 + size), size)
    code += b"\xe2" + little(-(len(code) + 2), 1)
    bench.start(mode, code, eax=1000, ebx=INC_EAX[0], ecx=100)
    writable_code(bench, mode)
    bench.poke(CODE + 0x1800, b"\x90\xc3")
    result = bench.run()
    assert (result["eip"], result["eax"]) == ("end", 1000)
    bench.poke(CODE + 0x1800, b"\x90")
    bench.set(ecx=11, eax=0, ebx=INC_EAX[0])
    bench.vcpu.eip = mode.entry
    assert bench.run()["eax"] == 1


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_data_beside_code_can_change_all_the_time(bench, mode):
    """A counter in the code's own page: slow the first times, right always."""
    override = b"\x26" if mode.is_protected else b"\x2e"
    size = 4 if mode.code32 else 2
    at = mode.entry + 0x200
    code = override + b"\xff" + (b"\x05" if mode.code32 else b"\x06") + little(at, size)  # inc [at]
    code += INC_EAX
    code += b"\xe2" + little(-(len(code) + 2), 1)
    bench.start(mode, code, eax=0, ecx=500)
    writable_code(bench, mode)
    result = bench.run()
    assert (result["eip"], result["eax"], bench.word(CODE + ENTRY + 0x200, 2)) == ("end", 500, 500)


@pytest.mark.parametrize("mode", [REAL, *FLAT], ids=str)
def test_rep_movs_over_the_code_behind_it_is_seen(bench, mode):
    source = DATA + CELL
    target = CODE + ENTRY + 2  # right behind the REP MOVSB
    bench.start(mode, b"\xf3\xa4" + INC_EAX * 3, eax=0, ebx=0, ecx=3)
    bench.poke(source, INC_EBX * 3)
    bench.set(esi=mode.offset(source), edi=target if not mode.based else target - CODE)
    if mode.based:
        bench.vcpu.set_segment(Seg.ES, bench.vcpu.segment(Seg.CS))
    result = bench.run()
    assert (result["eip"], result["eax"], result["ebx"]) == ("end", 0, 3)


@pytest.mark.parametrize("mode", [REAL, P32[0]], ids=str)
@pytest.mark.parametrize("opcode", ["f36c", "6c"])
def test_string_input_over_code_is_seen(bench, mode, opcode):
    raw = bytes.fromhex(opcode)
    target = CODE + ENTRY + len(raw)
    bench.start(mode, raw + INC_EAX, eax=0, ebx=0, ecx=1, edx=0x60)
    bench.board.answer = INC_EBX[0]
    bench.set(edi=target if not mode.based else target - CODE)
    if mode.based:
        bench.vcpu.set_segment(Seg.ES, bench.vcpu.segment(Seg.CS))
    result = bench.run()
    assert (result["eip"], result["eax"], result["ebx"]) == ("end", 0, 1)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_push_onto_code_is_seen(bench, mode):
    """The stack runs down into the instruction behind the PUSH."""
    size = 4 if mode.code32 else 2
    at = CODE + ENTRY + 1  # behind push eax
    bench.start(mode, b"\x50" + INC_EAX * size, eax=int.from_bytes(INC_EBX * 4, "little"), ebx=0)
    base = bench.vcpu.base(Seg.SS)
    if mode.based:
        register = bench.vcpu.segment(Seg.SS)
        bench.vcpu.set_segment(Seg.SS, type(register)(register.selector, CODE, register.limit, register.flags))
        base = CODE
    bench.set(esp=at + size - base)
    result = bench.run()
    assert (result["eip"], result["ebx"]) == ("end", size)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_code_written_by_dma_between_runs_is_seen(bench, mode):
    bench.start(mode, INC_EAX + b"\xeb\xfd", eax=0, ebx=0)
    bench.run(20)
    assert bench.leave is Leave.PREEMPTED
    bench.poke(CODE + ENTRY, INC_EBX)
    bench.poke(CODE + ENTRY + 1, b"\xe6\xf4")
    eax = bench.vcpu.reg32(0)
    bench.vcpu.eip = mode.entry
    result = bench.run()
    assert (result["eax"], result["ebx"]) == (eax, 1)


@pytest.mark.parametrize("mode", [REAL, P32[0]], ids=str)
def test_code_is_loaded_over_code_and_jumped_to(bench, mode):
    """As boot sectors do: the same address, other contents, over and over."""
    target = CODE + ENTRY + 0x400
    size = 4 if mode.code32 else 2
    relative = b"\xe8" + little(0x400 - 1 - size, size)
    bench.start(mode, relative, eax=0, ebx=0)
    for round_number, (code, name) in enumerate([(INC_EAX, "eax"), (INC_EBX, "ebx")] * 6):
        bench.poke(target, code + b"\xc3")
        bench.vcpu.eip = mode.entry
        bench.set(eax=0, ebx=0)
        result = bench.run()
        assert result[name] == 1, round_number
        assert result["eax"] + result["ebx"] == 1, round_number


# --- one frame at two addresses ------------------------------------------------------------------------------


def test_with_a20_masked_code_is_rewritten_through_its_alias(bench):
    """1 MiB + x is x: a store there changes the code at x."""
    mode = P32[0]
    at = CODE + ENTRY + 7
    bench.start(mode, b"\xc6\x05" + little(at + (1 << 20), 4) + INC_EBX + INC_EAX, eax=0, ebx=0)
    bench.mmu.a20_mask = 0xFFEF_FFFF
    bench.vcpu.make_stale(STALE_ALL)
    result = bench.run()
    assert (result["eip"], result["eax"], result["ebx"]) == ("end", 0, 1)


def test_with_a20_masked_code_runs_at_its_alias_and_is_rewritten_below(bench):
    mode = P32[0]
    at = CODE + ENTRY + 7
    bench.start(mode, b"\xc6\x05" + little(at, 4) + INC_EBX + INC_EAX, eax=0, ebx=0)
    bench.mmu.a20_mask = 0xFFEF_FFFF
    bench.vcpu.make_stale(STALE_ALL)
    bench.vcpu.eip += 1 << 20
    bench.end += 1 << 20
    result = bench.run()
    assert (result["eip"], result["eax"], result["ebx"]) == ("end", 0, 1)


@pytest.mark.parametrize("mask", [0xFFFF_FFFF, 0xFFEF_FFFF])
def test_the_a20_gate_decides_what_one_mebibyte_holds(bench, mask):
    bench.start(REAL, "mov ax, 0xffff; mov ds, ax; mov bx, [0x50]", ebx=0)
    bench.poke(0x40, 0x1111, 2)
    bench.poke(0x10_0040, 0x2222, 2)
    bench.mmu.a20_mask = mask
    bench.vcpu.make_stale(STALE_ALL)
    assert bench.run()["ebx"] == (0x2222 if mask == 0xFFFF_FFFF else 0x1111)


@pytest.mark.parametrize("again", [False, True])
def test_paging_aliases_of_code_are_protected_too(bench, again):
    """Linear 40_0000h + x maps the frame of x; a store there changes the code that runs at x."""
    mode = P32[0]
    at = CODE + ENTRY + 7
    bench.start(mode, b"\xc6\x05" + little(at + 0x40_0000, 4) + INC_EBX + INC_EAX, eax=0, ebx=0)
    bench.map_pages(alias=0x40_0000)
    result = bench.run()
    assert (result["eip"], result["eax"], result["ebx"]) == ("end", 0, 1)
    if again:
        bench.poke(at, INC_EAX)
        bench.vcpu.eip = mode.entry
        bench.set(eax=0, ebx=0)
        assert bench.run()["ebx"] == 1


# --- across pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "split"),
    [
        pytest.param(mode, split, id=f"{mode}-{split}")
        for mode in MODES
        for split in (1, 2, 3)
        if mode.code32 or split < 3
    ],
)
def test_an_instruction_across_a_page_end_runs_and_sees_changes_on_either_side(bench, mode, split):
    """MOV EAX, imm32 with `split` bytes in the first page; then its opcode and its last byte change."""
    size = 4 if mode.code32 else 2
    page = 0x1000 - ENTRY
    jump = b"\xe9" + little(page - split - 1 - size, size)
    code = jump.ljust(page - split, b"\xcc") + b"\xb8" + little(0x1234_5678, size) + b"\x90"
    bench.start(mode, code, eax=0, ebx=0)
    mask = (1 << 8 * size) - 1
    assert bench.run()["eax"] == 0x1234_5678 & mask
    for first, last in ((0xB8, 0x11), (0xBB, 0x22), (0xBB, 0x33), (0xB8, 0x44), (0xB8, 0x55), (0xBB, 0x66)):
        bench.poke(CODE + 0x1000 - split, bytes([first]))
        bench.poke(CODE + 0x1000 - split + size, bytes([last]))
        bench.set(eax=0, ebx=0)
        bench.vcpu.eip = mode.entry
        result = bench.run()
        assert result["eax" if first == 0xB8 else "ebx"] >> 8 * (size - 1) == last
        assert result["ebx" if first == 0xB8 else "eax"] == 0


@pytest.mark.parametrize("mode", FLAT, ids=str)
def test_an_instruction_across_pages_whose_second_page_is_missing_faults_with_its_address(bench, mode):
    split = CODE + 0x1000
    bench.start(mode, b"\xe9" + little(0x1000 - ENTRY - 2 - 5, 4))
    bench.poke(split - 2, b"\xb8\x11")
    bench.map_pages(missing=[split])
    result = bench.run()
    assert (result["fault"], result["eip"], result["cr2"]) == ((14, 4 if mode.ring else 0), split - 2, split)


@pytest.mark.parametrize("mode", FLAT, ids=str)
def test_code_that_runs_into_a_missing_page_faults_there(bench, mode):
    split = CODE + 0x1000
    bench.start(mode, b"\xe9" + little(0x1000 - ENTRY - 2 - 5, 4), eax=0)
    bench.poke(split - 2, b"\x40\x40")
    bench.map_pages(missing=[split])
    result = bench.run()
    assert (result["fault"], result["eip"], result["cr2"], result["eax"]) == (
        (14, 4 if mode.ring else 0),
        split,
        split,
        2,
    )


@pytest.mark.parametrize("mode", [P16[0], P16[3], P32_BASED[0], V86_3], ids=str)
def test_code_that_runs_past_its_segment_limit_is_gp_there(bench, mode):
    """A limit in the middle of a page, instructions up to it, none beyond."""
    bench.start(mode, b"\x40" * 0x20, eax=0)
    register = bench.vcpu.segment(Seg.CS)
    limit = ENTRY + 9
    bench.vcpu.set_segment(Seg.CS, type(register)(register.selector, register.base, limit, register.flags))
    result = bench.run()
    assert result["fault"] == (13, 0)
    assert (result["eip"], result["eax"]) == (limit + 1, 10)


@pytest.mark.parametrize("mode", [P16[0], P16[3], P32_BASED[0], V86_3], ids=str)
def test_an_instruction_that_crosses_its_segment_limit_is_gp(bench, mode):
    bench.start(mode, b"\x40" * 8 + b"\xb8\x11\x22\x33\x44", eax=0)
    register = bench.vcpu.segment(Seg.CS)
    limit = ENTRY + 9
    bench.vcpu.set_segment(Seg.CS, type(register)(register.selector, register.base, limit, register.flags))
    result = bench.run()
    assert result["fault"] == (13, 0)
    assert (result["eip"], result["eax"]) == (ENTRY + 8, 8)


@pytest.mark.parametrize("base", [0x1_0000, 0x1_0010, 0x1_0FF0])
def test_real_mode_code_at_ffff_does_not_go_on_in_the_next_segment(bench, base):
    bench.start(REAL, b"\x90", eax=0)
    for seg in (Seg.CS,):
        register = bench.vcpu.segment(seg)
        bench.vcpu.set_segment(seg, type(register)(base >> 4, base, 0xFFFF, register.flags))
    bench.poke(base + 0xFFFC, b"\x40" * 12)
    bench.vcpu.eip = 0xFFFC
    result = bench.run()
    assert (result["fault"], result["eax"]) == ((13, None), 4)


def test_more_than_fifteen_bytes_are_gp(bench):
    """SDM Vol. 2A, "Instruction Format": an instruction longer than 15 bytes is #GP."""
    for prefixes, vector in ((14, None), (15, 13), (20, 13)):
        bench.recycle()
        bench.start(P32[0], b"\x3e" * prefixes + b"\x90")
        result = bench.run()
        assert result.get("fault", (None,))[0] == vector, prefixes


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_many_versions_of_one_block_come_and_go(bench, mode):
    """More versions than are remembered."""
    size = 4 if mode.code32 else 2
    bench.start(mode, b"\xb8" + little(0, size) + b"\xbb" + little(0, size))
    for number in range(1, 400):
        bench.poke(CODE + ENTRY + 1, little(number, size))
        bench.vcpu.eip = mode.entry
        assert bench.run()["eax"] & 0xFFFF == number


def test_sse2_stores_in_16_bit_code_that_checks_itself_are_known(bench):
    """MOVQ m64, xmm: Capstone does not decode it in 16-bit code, and self-checking blocks ask it for operands."""
    code = bytes.fromhex("660fd6064001") + b"\x2e\xfe\x06" + little(ENTRY + 0x80, 2)
    code += b"\xe2" + little(-(len(code) + 2), 1)
    bench.start(REAL, code, ecx=20, cr4=1 << 9)
    bench.poke(CODE + ENTRY + 0x80, b"\0")
    bench.poke(DATA + 0x140, b"\xff" * 8)
    result = bench.run()
    assert (result["eip"], bench.peek(CODE + ENTRY + 0x80, 1), bench.peek(DATA + 0x140, 8)) == (
        "end",
        b"\x14",
        bytes(8),
    )


def test_a_loop_over_new_code_leaves_once_a_version_and_not_once_a_round(bench):
    """Code that checks itself is changed, and a branch in it still leads to what was made of the old bytes: the next
    block made there follows that one without the VMM."""
    rounds, versions, far = 50, 250, CODE + 0x1800
    changed = far + 7
    sub = f"mov ecx, {rounds}; again: add dword ptr [edi], 1; loop again; ret"
    main = f"next: mov es:[{changed}], bl; call esi; inc bl; dec edx; jnz next"
    bench.start(P32[0], main, ebx=1, edx=versions, esi=far, edi=DATA)
    bench.poke(DATA, 0)
    bench.poke(far, asm(sub, True))
    result = bench.run()
    added = sum(version - 0x100 * (version > 0x7F) for version in range(1, versions + 1))
    assert (result["eip"], bench.word(DATA)) == ("end", rounds * added & 0xFFFF_FFFF)
    assert bench.engine.stats.exits["stale"] <= 2 * versions
