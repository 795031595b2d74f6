"""The privileged instructions, in every mode and ring: done at CPL 0, #GP(0) elsewhere (#UD where not recognized)."""

from collections.abc import Iterable
from typing import Any

import pytest
from guest_bench import (
    CELL,
    DATA,
    DF,
    EVERY,
    FREE,
    GDT,
    IF,
    IO_MAP,
    KERNELS,
    MAIN_TSS,
    OTHER_TSS,
    P16,
    P32,
    PATTERNS,
    PG,
    REAL,
    REGISTERS,
    THE_LDT,
    TSS,
    USERS,
    V86_0,
    V86_3,
    Bench,
    Mode,
    Picture,
    descriptor,
    encode,
    faulted,
    little,
    plain,
)  # fmt: skip

from vmm.arch.exceptions import Vector
from vmm.cpu.vcpu import SegmentRegister
from vmm.engines.engine import Leave

FLAT_MODES = (V86_0, V86_3, REAL)
GP0 = (Vector.GP, 0)


def pattern(mode: Mode, salt: object) -> int:
    return PATTERNS[(EVERY.index(mode) * 5 + sum(map(ord, str(salt)))) % len(PATTERNS)]


def each(modes: Iterable[Mode], cases: Iterable[Any]) -> Any:
    return [
        pytest.param(mode, *case, id=f"{mode}-{'-'.join(str(part) for part in case)}")
        for case in cases
        for mode in modes
    ]


MAY_CHANGE_IF = [mode for mode in EVERY if mode.ring <= mode.iopl]
MAY_NOT_CHANGE_IF = [mode for mode in EVERY if mode.ring > mode.iopl]

# --- CLI STI HLT --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "opcode", "flag"), each(MAY_CHANGE_IF, [(o, f) for o in ("fa", "fb") for f in (0, IF)])
)
def test_cli_and_sti_change_if_and_nothing_else(run_guest, mode, opcode, flag):
    before, after = run_guest(bytes.fromhex(opcode), mode, eflags=pattern(mode, opcode) | flag)
    assert after == before | {"eflags": before["eflags"] & ~IF | (IF if opcode == "fb" else 0)}


@pytest.mark.parametrize(("mode", "opcode"), each(MAY_NOT_CHANGE_IF, [("fa",), ("fb",)]))
def test_cli_and_sti_are_refused_when_cpl_is_above_iopl(run_guest, mode, opcode):
    before, after = run_guest(bytes.fromhex(opcode), mode, eflags=pattern(mode, opcode) | IF)
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", KERNELS, ids=str)
def test_hlt_halts_behind_itself(run_guest, mode):
    before, after = run_guest(b"\xf4", mode, eflags=pattern(mode, "hlt"))
    assert after == before | {"eip": mode.entry + 1, "left": Leave.HALTED}


# --- what CPL 3, 2, 1 and V86 may not do -----------------------------------------------------------------------

REFUSED = {
    "hlt": "f4", "clts": "0f06", "invd": "0f08", "wbinvd": "0f09", "rdmsr": "0f32", "wrmsr": "0f30",
    "mov_cr0_eax": "0f22c0", "mov_cr3_eax": "0f22d8", "mov_cr4_eax": "0f22e0", "mov_eax_cr0": "0f20c0",
    "mov_ebx_cr2": "0f20d3", "mov_eax_cr3": "0f20d8", "mov_eax_cr4": "0f20e0", "mov_dr0_eax": "0f23c0",
    "mov_dr7_eax": "0f23f8", "mov_eax_dr6": "0f21f0", "lmsw_ax": "0f01f0",
}  # fmt: skip
REFUSED_MEMORY = {"lgdt": ("0f01", 2), "lidt": ("0f01", 3), "lmsw": ("0f01", 6), "invlpg": ("0f01", 7)}
NOT_RECOGNIZED = {"lldt": ("0f00", 2), "ltr": ("0f00", 3)}


@pytest.mark.parametrize(("mode", "name"), each(USERS, [(n,) for n in (*REFUSED, *REFUSED_MEMORY)]))
def test_privileged_instructions_are_refused_above_cpl_0(run_guest, mode, name):
    if name in REFUSED:
        code = bytes.fromhex(REFUSED[name])
    else:
        opcode, reg = REFUSED_MEMORY[name]
        code = encode(mode, opcode, reg=reg, rm="cell")
    before, after = run_guest(code, mode, eflags=pattern(mode, name))
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize(
    ("mode", "name", "rm"), each((*USERS, REAL), [(n, r) for n in NOT_RECOGNIZED for r in (0, "cell")])
)
def test_lldt_and_ltr_are_refused_or_not_recognized(run_guest, mode, name, rm):
    opcode, reg = NOT_RECOGNIZED[name]
    before, after = run_guest(encode(mode, opcode, reg=reg, rm=rm), mode, eflags=pattern(mode, name))
    assert after == before | faulted(mode, *((Vector.UD, None) if mode in FLAT_MODES else GP0))


# --- LGDT LIDT LMSW LLDT LTR -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "table", "size"), each(KERNELS, [(t, s) for t in ("gdtr", "idtr") for s in (2, 4)]))
def test_lgdt_and_lidt_load_24_or_32_bits_of_base(used_bench, mode, table, size):
    code = encode(mode, "0f01", reg=2 if table == "gdtr" else 3, rm="cell", size=size)
    used_bench.start(mode, code, eflags=pattern(mode, table))
    used_bench.poke(DATA + CELL, little(0x1234, 2) + little(0xA1B2_C3D4, 4))
    before = used_bench.here()
    base = 0xA1B2_C3D4 if size == 4 else 0x00B2_C3D4
    assert used_bench.run() == before | {table: (base, 0x1234)}


@pytest.mark.parametrize(("mode", "reg"), each(EVERY, [(2,), (3,), (7,)]))
def test_lgdt_lidt_and_invlpg_of_a_register_are_undefined(run_guest, mode, reg):
    before, after = run_guest(encode(mode, "0f01", reg=reg, rm=3), mode)
    assert after == before | faulted(mode, Vector.UD)


@pytest.mark.parametrize(("mode", "rm"), each(KERNELS, [(0,), (6,), ("cell",)]))
def test_lmsw_sets_mp_em_ts_and_cannot_clear_pe(used_bench, mode, rm):
    used_bench.start(mode, encode(mode, "0f01", reg=6, rm=rm), eax=0xFFFF_FFF0 | 4, esi=0xA, eflags=pattern(mode, rm))
    used_bench.poke(DATA + CELL, 0xFFF8, 2)
    before = used_bench.here()
    value = {0: 4, 6: 0xA, "cell": 8}[rm]
    assert used_bench.run() == before | {"cr0": before["cr0"] | value}


@pytest.mark.parametrize("mode", [m for m in KERNELS if m.is_protected], ids=str)
@pytest.mark.parametrize(
    ("selector", "fault"),
    [(THE_LDT, None), (0, None), (3, None), (0x0C, (13, 0x0C)), (8, (13, 8)),
     (0x400, (13, 0x400)), (FREE, (11, FREE)), (OTHER_TSS, (13, OTHER_TSS))],
)  # fmt: skip
def test_lldt_loads_an_ldt_or_nothing(used_bench, mode, selector, fault):
    used_bench.start(
        mode, encode(mode, "0f00", reg=2, rm=1), ecx=0x7777_0000 | selector, eflags=pattern(mode, selector)
    )
    used_bench.poke(GDT + FREE, descriptor(0x2000, 0x1F, 0x02))
    before = used_bench.here()
    expected = {"ldtr": selector} if fault is None else faulted(mode, *fault)
    assert used_bench.run() == before | expected


@pytest.mark.parametrize("mode", [m for m in KERNELS if m.is_protected], ids=str)
@pytest.mark.parametrize(
    ("selector", "fault"),
    [(OTHER_TSS, None), (0, (13, 0)), (MAIN_TSS, (13, MAIN_TSS)), (8, (13, 8)), (0x0C, (13, 0x0C)), (FREE, (11, FREE))],
)
def test_ltr_loads_a_free_tss_and_makes_it_busy(used_bench, mode, selector, fault):
    used_bench.start(mode, encode(mode, "0f00", reg=3, rm=1), ecx=selector, eflags=pattern(mode, selector))
    used_bench.poke(GDT + FREE, descriptor(0x6000, 0x67, 0x09))
    before = used_bench.here()
    expected: Picture = (
        {"tr": selector, "memory": {GDT + OTHER_TSS + 5: b"\x8b"}} if fault is None else faulted(mode, *fault)
    )
    assert used_bench.run() == before | expected


# --- CR, DR, MSR -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "cr", "reg"), each(KERNELS, [(c, r) for c in (0, 2, 3, 4) for r in (0, 3, 4)]))
def test_mov_from_a_control_register_shows_the_guests(run_guest, mode, cr, reg):
    values = {"cr2": 0x1357_9BDF, "cr3": 0x0012_3000, "cr4": 0x10}
    before, after = run_guest(bytes([0x0F, 0x20, 0xC0 | cr << 3 | reg]), mode, eflags=pattern(mode, cr), **values)
    assert after == before | {REGISTERS[reg]: before[f"cr{cr}"]}


@pytest.mark.parametrize("mode", KERNELS, ids=str)
@pytest.mark.parametrize("modrm", [0x00, 0x43, 0x87], ids=hex)
def test_mov_from_cr0_ignores_the_mod_field(run_guest, mode, modrm):
    """SDM Vol. 2B, "MOV - Move to/from Control Registers": "the 2 bits in the mod field are ignored"."""
    before, after = run_guest(bytes([0x0F, 0x20, modrm]), mode)
    assert after == before | {REGISTERS[modrm & 7]: before["cr0"]}


CR_WRITES = [
    ("ts_and_ne", 0, 0x38, 0x38), ("reserved_bits_ignored", 0, 0x1FFA_FFC0 | 0x10, 0x10),
    ("nw_without_cd", 0, 1 << 29, None),
    ("wp_am", 0, 0x5_0010, 0x5_0010), ("cr2", 2, 0xFFFF_FFFF, 0xFFFF_FFFF), ("cr3", 3, 0x0030_0000, 0x0030_0000),
    ("cr4_known", 4, 0x69C, 0x69C), ("cr4_vme", 4, 1, None), ("cr4_umip", 4, 1 << 11, None),
    ("cr4_top", 4, 1 << 31, None),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "name", "cr", "value", "becomes"), each(KERNELS, CR_WRITES))
def test_mov_to_a_control_register(run_guest, mode, name, cr, value, becomes):
    if cr == 0 and mode.is_protected:
        value, becomes = value | 1, None if becomes is None else becomes | 1
    before, after = run_guest(bytes([0x0F, 0x22, 0xC0 | cr << 3 | 6]), mode, esi=value, eflags=pattern(mode, name))
    assert after == before | (faulted(mode, *GP0) if becomes is None else {f"cr{cr}": becomes})


@pytest.mark.parametrize(("mode", "opcode", "cr"), each(EVERY, [(o, c) for o in (0x20, 0x22) for c in (1, 5, 6, 7)]))
def test_control_registers_that_do_not_exist_are_undefined(run_guest, mode, opcode, cr):
    before, after = run_guest(bytes([0x0F, opcode, 0xC0 | cr << 3]), mode)
    assert after == before | faulted(mode, Vector.UD)


@pytest.mark.parametrize("mode", KERNELS, ids=str)
def test_paging_without_protection_is_refused(run_guest, mode):
    before, after = run_guest(b"\x0f\x22\xc0", mode, eax=PG | 0x10)
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", KERNELS, ids=str)
def test_clts_clears_ts_and_fpu_works_again(run_guest, mode):
    cr0 = 0x1A if mode.kind == "real" else 0x1B
    before, after = run_guest(
        b"\x0f\x06\xdb\xe3\xd9\xe8\xdd\xd8", mode, cr0=cr0, eflags=pattern(mode, 1)
    )  # clts; fninit; fld1; fstp st0
    assert after == before | {"cr0": cr0 & ~8}


@pytest.mark.parametrize("mode", EVERY, ids=str)
@pytest.mark.parametrize(("code", "cr0"), [("d9e8", 8), ("9b", 0xA), ("d9e8", 4), ("0f77", 8)])
def test_the_fpu_is_not_available_under_ts_and_em(run_guest, mode, code, cr0):
    before, after = run_guest(bytes.fromhex(code), mode, cr0=cr0 | (0x10 if mode.kind == "real" else 0x11))
    assert after == before | faulted(mode, Vector.NM)


@pytest.mark.parametrize(("mode", "dr"), each(KERNELS, [(n,) for n in (0, 1, 2, 3, 6, 7)]))
def test_debug_registers_keep_what_is_written(run_guest, mode, dr):
    code = bytes([0x0F, 0x23, 0xC0 | dr << 3 | 3, 0x0F, 0x21, 0xC0 | dr << 3 | 1])
    value = {6: 0xFFFF_4FF3, 7: 0x0000_0400}.get(dr, 0x1234_5678)
    before, after = run_guest(code, mode, ebx=value, eflags=pattern(mode, dr))
    debug = tuple(value if index == dr else old for index, old in enumerate(before["dr"]))
    assert after == before | {"ecx": value, "dr": debug}


@pytest.mark.parametrize(("mode", "code"), each(KERNELS, [("0f32",), ("0f30",), ("0f33",)]))
def test_an_unknown_msr_or_counter_is_refused(run_guest, mode, code):
    before, after = run_guest(bytes.fromhex(code), mode, ecx=0x1234, eflags=pattern(mode, code))
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_rdtsc_reads_the_clock_unless_tsd_keeps_users_out(run_guest, mode):
    before, after = run_guest(b"\x0f\x31", mode, eflags=pattern(mode, "tsc"))
    assert after == before | {"eax": 2, "edx": 1}
    before, after = run_guest(b"\x0f\x31", mode, cr4=4)
    assert after == before | ({"eax": 2, "edx": 1} if mode.ring == 0 else faulted(mode, *GP0))


@pytest.mark.parametrize("mode", KERNELS, ids=str)
@pytest.mark.parametrize("code", ["0f08", "0f09", "invlpg"])
def test_cache_and_tlb_control_changes_nothing_the_guest_sees(run_guest, mode, code):
    raw = encode(mode, "0f01", reg=7, rm="cell") if code == "invlpg" else bytes.fromhex(code)
    before, after = run_guest(raw, mode, eflags=pattern(mode, code))
    assert after == before


# --- IN OUT INS OUTS -----------------------------------------------------------------------------------------------

MAY_DO_IO = [m for m in EVERY if m.kind == "real" or (m.kind == "protected" and m.ring <= m.iopl)]
MAY_NOT_DO_IO = [m for m in EVERY if m not in MAY_DO_IO]
ANSWER = 0xA1B2_C3D4
INPUTS = [("e4", 1, "imm"), ("e5", 2, "imm"), ("e5", 4, "imm"), ("ec", 1, "dx"), ("ed", 2, "dx"), ("ed", 4, "dx")]


def open_ports(bench: Bench, ports: Iterable[int]) -> None:
    """Clear bits in the TSS's I/O permission map."""
    for port in ports:
        at = TSS + IO_MAP + port // 8
        bench.poke(at, bench.word(at, 1) & ~(1 << port % 8), 1)


@pytest.mark.parametrize(("mode", "opcode", "width", "how"), each(EVERY, INPUTS))
@pytest.mark.parametrize("is_open", [True, False])
def test_in_reads_a_port_that_iopl_or_the_bit_map_opens(used_bench, mode, opcode, width, how, is_open):
    code = plain(mode, opcode, 0 if width == 1 else width) + (b"\x60" if how == "imm" else b"")
    used_bench.start(mode, code, edx=0xFFFF_0060, eflags=pattern(mode, opcode))
    if is_open:
        open_ports(used_bench, range(0x60, 0x60 + width))
    before = used_bench.here()
    after = used_bench.run()
    mask = (1 << 8 * width) - 1
    if is_open or mode in MAY_DO_IO:
        assert after == before | {"eax": before["eax"] & ~mask | ANSWER & mask}
    else:
        assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize(
    ("mode", "opcode", "width", "how"),
    each(EVERY, [("e6", 1, "imm"), ("e7", 4, "imm"), ("ee", 1, "dx"), ("ef", 2, "dx")]),
)
@pytest.mark.parametrize("is_open", [True, False])
def test_out_writes_a_port_that_iopl_or_the_bit_map_opens(used_bench, mode, opcode, width, how, is_open):
    code = plain(mode, opcode, 0 if width == 1 else width) + (b"\x60" if how == "imm" else b"")
    used_bench.start(mode, code, edx=0xFFFF_0060, eflags=pattern(mode, opcode))
    if is_open:
        open_ports(used_bench, range(0x60, 0x60 + width))
    before = used_bench.here()
    after = used_bench.run()
    allowed = is_open or mode in MAY_DO_IO
    assert after == before | ({} if allowed else faulted(mode, *GP0))
    assert used_bench.board.written == ([(0x60, width, before["eax"] & ((1 << 8 * width) - 1))] if allowed else [])


STRINGS = [
    (o, w, c)
    for o in ("6c", "6d", "6e", "6f")
    for w in (1, 2, 4)
    for c in (None, 0, 3)
    if (w == 1) == (o in ("6c", "6e"))
]


@pytest.mark.parametrize(("mode", "opcode", "width", "count"), each(EVERY, STRINGS))
def test_string_io_moves_whole_runs_and_leaves_exact_registers(used_bench, mode, opcode, width, count):
    backward = count == 3 and width == 2
    code = (b"\xf3" if count is not None else b"") + plain(mode, opcode, 0 if width == 1 else width)
    at = mode.offset(DATA + CELL)
    flags = pattern(mode, opcode) & ~DF | (DF if backward else 0)
    used_bench.start(mode, code, edx=0x60, ecx=0 if count is None else count, esi=at, edi=at, eflags=flags)
    open_ports(used_bench, range(0x60, 0x64))
    used_bench.poke(DATA + CELL - 12, bytes(range(24)))
    before = used_bench.here()
    after = used_bench.run()
    done = 1 if count is None else count
    moved = (-width if backward else width) * done
    index = "edi" if opcode in ("6c", "6d") else "esi"
    expected = before | {index: before[index] + moved} | ({} if count is None else {"ecx": 0})
    starts = [CELL + (-width if backward else width) * i for i in range(done)]
    if index == "edi":
        image = bytearray(range(24))
        item = little(ANSWER, width)
        for start in starts:
            image[start - CELL + 12 : start - CELL + 12 + width] = item
        expected["memory"] = after["memory"]
        assert used_bench.peek(DATA + CELL - 12, 24) == bytes(image)
    else:
        sent = b"".join(bytes(range(start - CELL + 12, start - CELL + 12 + width)) for start in starts)
        assert b"".join(data for _, _, data in used_bench.board.written) == sent
    assert after == expected


@pytest.mark.parametrize(("mode", "opcode"), each(MAY_NOT_DO_IO, [("6c",), ("6f",), ("f36d",), ("f36e",)]))
def test_string_io_is_refused_before_anything_moves(run_guest, mode, opcode):
    before, after = run_guest(bytes.fromhex(opcode), mode, edx=0x60, ecx=5)
    assert after == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", [P32[3], V86_3, P16[2]], ids=str)
def test_a_port_beyond_the_bit_map_is_refused(used_bench, mode):
    used_bench.start(mode, b"\xec", edx=0xFFFF)
    used_bench.poke(GDT + MAIN_TSS, descriptor(TSS, 0x67 + 0x200, 0x8B))
    used_bench.vcpu.tr = SegmentRegister(MAIN_TSS, TSS, 0x267, 0x8B00)
    before = used_bench.here()
    assert used_bench.run() == before | faulted(mode, *GP0)
