"""The critical instructions of Robin and Irvine, in every mode and ring: what the SDM says, and nothing else changed.

They read or write sensitive state and do not trap in user mode on the bare processor; so each must have been
rewritten, and must show the guest's state and not the physical CPU's. "All that is not named is unchanged": the
picture holds registers, EFLAGS, segments, system registers and the first MiB of memory.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from guest_bench import (
    AC,
    ARITHMETIC,
    CELL,
    CODE,
    CODE_RE,
    CONFORMING,
    DATA,
    DATA_RW,
    DF,
    EVERY,
    FREE,
    GDT,
    ID,
    IDT,
    IF,
    LOCAL_DATA,
    MAIN_TSS,
    NT,
    P16,
    P32,
    P32_BASED,
    PATTERNS,
    PROTECTED,
    REAL,
    REGISTERS,
    SEEDS,
    SEGMENTS,
    STACK,
    THE_LDT,
    V86_0,
    V86_3,
    Bench,
    Mode,
    Picture,
    descriptor,
    encode,
    faulted,
    flat_code,
    interrupt_gate,
    little,
    plain,
    stored,
)  # fmt: skip

from vmm.arch.exceptions import Vector

FLAT_MODES = (V86_0, V86_3, REAL)
GUEST_CR0 = 0x11  # PE or not, and ET: what the tests set
CONFORMING0, ABSENT_DATA, CODE_XO, READ_ONLY = FREE, FREE + 8, FREE + 0x10, FREE + 0x18
_SEEDS32 = list(SEEDS.values())


def pattern(mode: Mode, salt: object) -> int:
    """One of the EFLAGS images; which one differs from case to case, but not from run to run."""
    return PATTERNS[(EVERY.index(mode) * 3 + sum(map(ord, str(salt)))) % len(PATTERNS)]


def reachable(mode: Mode, case: tuple[Any, ...]) -> bool:
    """A 16-bit offset can name the code of a segment with a base only."""
    return mode.based or 2 not in case[:2]


def each(modes: Iterable[Mode], cases: Iterable[Any], fits: Callable[..., bool] = lambda mode, case: True) -> Any:
    return [
        pytest.param(mode, *case, id=f"{mode}-{'-'.join(str(part) for part in case)}")
        for case in cases
        for mode in modes
        if fits(mode, case)
    ]


def expect(
    run_guest: Callable[..., tuple[Picture, Picture]], code: bytes, mode: Mode, after: Picture, **before: int
) -> None:
    untouched, result = run_guest(code, mode, **before)
    assert result == untouched | after


# --- SGDT SIDT SLDT STR SMSW --------------------------------------------------------------------------------


def guest_value(bench: Bench, name: str) -> int:
    vcpu = bench.vcpu
    return {"sldt": vcpu.ldtr.selector, "str": vcpu.tr.selector, "smsw": vcpu.cr0}[name]


STORE_WORD = {"sldt": ("0f00", 0), "str": ("0f00", 1), "smsw": ("0f01", 4)}
STORE_CASES = [(name, size, rm) for name in STORE_WORD for size in (2, 4) for rm in (0, 1, 2, 5, "cell")]


@pytest.mark.parametrize(("mode", "name", "size", "rm"), each(EVERY, STORE_CASES))
def test_selector_and_status_word_stores_show_the_guests(run_guest, used_bench, mode, name, size, rm):
    opcode, reg = STORE_WORD[name]
    code = encode(mode, opcode, reg=reg, rm=rm, size=size)
    before, after = run_guest(code, mode, eflags=pattern(mode, (name, size, rm)))
    value = guest_value(used_bench, name)
    if name != "smsw" and mode in FLAT_MODES:
        assert after == before | faulted(mode, Vector.UD)
    elif rm == "cell":
        assert after == before | {"memory": stored(DATA + CELL, little(value, 2))}
    else:
        old = before[REGISTERS[rm]]
        assert after == before | {REGISTERS[rm]: value if size == 4 else old & 0xFFFF_0000 | value & 0xFFFF}


@pytest.mark.parametrize(("mode", "table", "size"), each(EVERY, [(t, s) for t in ("gdtr", "idtr") for s in (2, 4)]))
def test_sgdt_and_sidt_store_the_guests_tables(run_guest, used_bench, mode, table, size):
    code = encode(mode, "0f01", reg=("gdtr", "idtr").index(table), rm="cell", size=size)
    before, after = run_guest(code, mode, eflags=pattern(mode, (table, size)))
    base, limit = before[table]
    assert after == before | {"memory": stored(DATA + CELL, little(limit, 2) + little(base, 4))}


@pytest.mark.parametrize(("mode", "reg"), each(EVERY, [(0,), (1,)]))
def test_sgdt_and_sidt_of_a_register_are_undefined(run_guest, mode, reg):
    expect(run_guest, encode(mode, "0f01", reg=reg, rm=3), mode, faulted(mode, Vector.UD))


ADDRESSING = [
    ("bx+si", "00", 2, {"ebx": 0x30, "esi": 0x10}, "ds"),
    ("bp+si", "02", 2, {"ebp": 0x30, "esi": 0x10}, "ss"),
    ("bp+di", "03", 2, {"ebp": 0x30, "edi": 0x10}, "ss"),
    ("bp+disp8", "4610", 2, {"ebp": 0x30}, "ss"),
    ("bp+disp16_wraps", "86400f", 2, {"ebp": 0xF100}, "ss"),
    ("ecx", "01", 4, {"ecx": 0x40}, "ds"),
    ("edx+ecx*4", "048a", 4, {"edx": 0x20, "ecx": 8}, "ds"),
    ("ebp+disp8", "4510", 4, {"ebp": 0x30}, "ss"),
    ("esp+disp8", "442410", 4, {"esp": 0x30}, "ss"),
    ("disp32+ebp*2", "046d10000000", 4, {"ebp": 0x18}, "ds"),
    ("ebp+edx+disp8", "441510", 4, {"ebp": 0x10, "edx": 0x20}, "ss"),
]


@pytest.mark.parametrize(
    ("text", "tail", "address", "registers", "segment"), ADDRESSING, ids=[a[0] for a in ADDRESSING]
)
@pytest.mark.parametrize("mode", [REAL, P16[0], P16[3], *P32_BASED], ids=str)
def test_the_operand_of_sidt_is_addressed_as_everywhere(run_guest, mode, text, tail, address, registers, segment):
    modrm = bytes.fromhex(tail)
    modrm = bytes([modrm[0] | 1 << 3]) + modrm[1:]
    code = (b"\x67" if address != (4 if mode.code32 else 2) else b"") + b"\x0f\x01" + modrm
    before, after = run_guest(code, mode, **registers)
    base, limit = before["idtr"]
    at = (STACK - 0x800 if segment == "ss" else DATA) + CELL
    assert after == before | {"memory": stored(at, little(limit, 2) + little(base, 4))}


@pytest.mark.parametrize(
    ("prefix", "segment"), [(0x26, "es"), (0x2E, "cs"), (0x36, "ss"), (0x3E, "ds"), (0x64, "fs"), (0x65, "gs")]
)
def test_smsw_honours_a_segment_override(run_guest, prefix, segment):
    code = bytes([prefix]) + bytes.fromhex("0f0126 4000")
    before, after = run_guest(code, REAL)
    at = {"cs": CODE, "ss": STACK - 0x800}.get(segment, DATA) + CELL
    assert list(after.pop("memory")) == [at]
    before.pop("memory")
    assert after == before


# --- PUSHF POPF ----------------------------------------------------------------------------------------------

PUSHED = 0x003C_FFFF  # VM and RF read as zero


@pytest.mark.parametrize(
    ("mode", "size", "flags"), each(EVERY, [(s, f) for s in (2, 4) for f in (*PATTERNS[::2], IF, NT)])
)
def test_pushf_shows_the_guests_flags(run_guest, mode, size, flags):
    before, after = run_guest(plain(mode, "9c", size), mode, eflags=flags)
    if mode is V86_0:
        assert after == before | faulted(mode, Vector.GP, 0)
    else:
        image = before["eflags"] & PUSHED
        assert after == before | {"esp": before["esp"] - size, "memory": stored(STACK - size, little(image, size))}


ALWAYS_POPPED = ARITHMETIC | DF | NT | AC | ID
IOPL_BITS = 3 << 12
IMAGES = (0, 0xFFFF_FFFF & ~0x100, ARITHMETIC, IF | DF, 0x7000, AC | ID, 0x8D4 | IF, 0x401 | IOPL_BITS)


@pytest.mark.parametrize(("mode", "size", "image"), each(EVERY, [(s, i) for s in (2, 4) for i in IMAGES]))
def test_popf_changes_what_the_ring_may_change(run_guest, mode, size, image):
    code = plain(mode, "68", size) + little(image, size) + plain(mode, "9d", size)
    before, after = run_guest(code, mode, eflags=pattern(mode, image) | (IF if image & DF else 0))
    pushed = stored(STACK - size, little(image, size))
    if mode is V86_0:
        fault = {"eip": mode.entry + len(code) - len(plain(mode, "9d", size)), "fault": (int(Vector.GP), 0)}
        assert after == before | fault | {"esp": before["esp"] - size, "memory": pushed}
        return
    writable = ALWAYS_POPPED
    if mode.kind == "real" or mode.ring <= mode.iopl:
        writable |= IF
    if mode.ring == 0:
        writable |= IOPL_BITS
    if size == 2:
        writable &= 0xFFFF
    assert after == before | {"eflags": before["eflags"] & ~writable | image & writable, "memory": pushed}


@pytest.mark.parametrize("mode", [REAL, P16[0], P16[3], P32[0], P32[3], V86_3], ids=str)
def test_pushf_and_popf_keep_every_combination_of_flags(bench, mode):
    """64 combinations of the arithmetic flags, with and without DF: POPF, then PUSHF, then look."""
    bits = (0x1, 0x4, 0x10, 0x40, 0x80, 0x800, 0x400)
    images = [sum(bit for index, bit in enumerate(bits) if number >> index & 1) for number in range(128)]
    for image in images:
        bench.recycle()
        code = (
            plain(mode, "68", 2) + little(image, 2) + plain(mode, "9d", 2) + plain(mode, "9c", 2) + plain(mode, "9d", 2)
        )
        before, after = bench.run_case(code, mode)
        changed = image | 2 | mode.iopl << 12
        expected = {"eflags": before["eflags"] & ~(ARITHMETIC | DF) | image}
        assert after == before | expected | {"memory": stored(STACK - 2, little(changed, 2))}, hex(image)


# --- LAR LSL VERR VERW ---------------------------------------------------------------------------------------

DESCRIPTORS = {
    CONFORMING0: descriptor(0, 0x1FFF, CONFORMING),
    ABSENT_DATA: descriptor(0x500, 0x3456, DATA_RW & 0x7F | 0x60),
    CODE_XO: descriptor(0, 0xFFF, 0x99 | 0x60),
    READ_ONLY: descriptor(0, 0xFFF, 0x91 | 0x60, 1 << 23),
    FREE + 0x20: interrupt_gate(0x1234, 3),
    FREE + 0x28: little(0x0008_1234, 4) + little(0xEC00, 4),  # a 32-bit call gate, DPL 3
}
# selector: (rights or None, limit or None, readable, writable, DPL, conforming)
VISIBLE: dict[int, tuple[int | None, int | None, bool, bool, int, bool]] = {
    0: (None, None, False, False, 3, False),
    3: (None, None, False, False, 3, False),
    flat_code(0): (0xC0_9B00, 0xFFFF_FFFF, True, False, 0, False),
    flat_code(0) + 8: (0xC0_9300, 0xFFFF_FFFF, True, True, 0, False),
    flat_code(1) + 8: (0xC0_B300, 0xFFFF_FFFF, True, True, 1, False),
    flat_code(3) + 8: (0xC0_F300, 0xFFFF_FFFF, True, True, 3, False),
    (flat_code(3) + 8) & ~3: (0xC0_F300, 0xFFFF_FFFF, True, True, 3, False),
    (flat_code(0) + 8) | 3: (None, None, False, False, -1, False),  # RPL counts
    LOCAL_DATA | 3: (0x00_F300, 0xFFF, True, True, 3, False),
    MAIN_TSS: (0x00_8B00, 0x2067, False, False, 0, False),
    THE_LDT: (0x00_8200, 0xFF, False, False, 0, False),
    CONFORMING0: (0x00_9F00, 0x1FFF, True, False, 3, True),
    ABSENT_DATA: (0x00_7300, 0x3456, True, True, 3, False),
    CODE_XO: (0x00_F900, 0xFFF, False, False, 3, False),
    READ_ONLY: (0x80_F100, 0xFFF, True, False, 3, False),
    FREE + 0x20: (None, None, False, False, 3, False),
    FREE + 0x28: (0x00_EC00, None, False, False, 3, False),
    0x400: (None, None, False, False, 3, False),  # beyond the GDT's limit
    0x10C: (None, None, False, False, 3, False),  # beyond the LDT's limit
}
ZF = 0x40


@pytest.mark.parametrize("selector", VISIBLE, ids=hex)
@pytest.mark.parametrize("mode", [*FLAT_MODES, *P16[::3], *P32, P32_BASED[0]], ids=str)
def test_lar_lsl_verr_verw_ask_the_guests_tables(used_bench, mode, selector):
    rights, limit, readable, writable, dpl, conforming = VISIBLE[selector]
    visible = conforming or dpl >= max(mode.ring, selector & 3)
    for name, opcode, reg, answer in (
        ("lar", "0f02", 2, rights), ("lsl", "0f03", 2, limit), ("verr", "0f00", 4, readable),
        ("verw", "0f00", 5, writable),
    ):  # fmt: skip
        rm, size = ((3, 2), (3, 4), ("cell", 4))[(EVERY.index(mode) + selector + reg) % 3]
        used_bench.recycle()
        code = encode(mode, opcode, reg=reg, rm=rm, size=size)
        used_bench.start(mode, code, eflags=pattern(mode, (name, rm, size)), ebx=0xFFFF_0000 | selector)
        for at, raw in DESCRIPTORS.items():
            used_bench.poke(GDT + at, raw)
        used_bench.poke(DATA + CELL, selector, 2)
        before = used_bench.here()
        after = used_bench.run()
        if mode in FLAT_MODES:
            assert after == before | faulted(mode, Vector.UD), name
            continue
        good = visible and answer is not None and answer is not False
        expected = {"eflags": before["eflags"] & ~ZF | (ZF if good else 0)}
        if good and name in ("lar", "lsl"):
            expected["edx"] = answer if size == 4 else before["edx"] & 0xFFFF_0000 | answer & 0xFFFF
        assert after == before | expected, (name, rm, size)


# --- MOV, PUSH and POP of segment registers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "reg", "size", "rm"), each(EVERY, [(r, s, m) for r in range(6) for s in (2, 4) for m in (0, 6, "cell")])
)
def test_mov_from_a_segment_register_shows_the_guests_selector(run_guest, mode, reg, size, rm):
    before, after = run_guest(encode(mode, "8c", reg=reg, rm=rm, size=size), mode, eflags=pattern(mode, (reg, rm)))
    selector = before[SEGMENTS[reg]][0]
    if rm == "cell":
        assert after == before | {"memory": stored(DATA + CELL, little(selector, 2))}
    else:
        old = before[REGISTERS[rm]] & 0xFFFF_0000 if size == 2 else 0
        assert after == before | {REGISTERS[rm]: old | selector}


PUSH_OPCODES = ("06", "0e", "16", "1e", "0fa0", "0fa8")


@pytest.mark.parametrize(("mode", "reg", "size"), each(EVERY, [(r, s) for r in range(6) for s in (2, 4)]))
def test_push_of_a_segment_register_shows_the_guests_selector(run_guest, mode, reg, size):
    before, after = run_guest(plain(mode, PUSH_OPCODES[reg], size), mode, eflags=pattern(mode, reg))
    selector = before[SEGMENTS[reg]][0]
    assert after == before | {"esp": before["esp"] - size, "memory": stored(STACK - size, little(selector, size))}


POP_OPCODES = {0: "07", 2: "17", 3: "1f", 4: "0fa1", 5: "0fa9"}


@pytest.mark.parametrize(("mode", "reg"), each(FLAT_MODES, [(r,) for r in (0, 2, 3, 4, 5)]))
@pytest.mark.parametrize("how", ["mov r", "mov m", "pop 2", "pop 4"])
def test_a_segment_load_without_descriptors_takes_any_selector(used_bench, mode, reg, how):
    kind, what = how.split()
    if kind == "mov":
        code = encode(mode, "8e", reg=reg, rm=0 if what == "r" else "cell")
    else:
        code = plain(mode, POP_OPCODES[reg], int(what))
    used_bench.start(mode, code, eax=0xDEAD_2345, eflags=pattern(mode, how))
    used_bench.poke(DATA + CELL, 0x2345, 2)
    used_bench.poke(STACK, 0x9999_2345)
    before = used_bench.here()
    after = used_bench.run()
    changes = {"esp": before["esp"] + int(what)} if kind == "pop" else {}
    assert after == before | {SEGMENTS[reg]: (0x2345, 0x2_3450)} | changes


ABSENT_STACK = FREE + 0x30
LOADS = [
    # selector, what a data segment register says, what SS says; None: it loads. Rings other than RPL are worked out.
    ("null", 0, None, (Vector.GP, 0)),
    ("null_rpl3", 3, None, (Vector.GP, 0)),
    ("own_data", "own", None, None),
    ("local", LOCAL_DATA | 3, None, "ring3"),
    ("ring3_data", flat_code(3) + 8, None, "ring3"),
    ("ring0_data", flat_code(0) + 8, "ring0", "ring0"),
    ("own_code", "code", None, "gp"),
    ("execute_only", CODE_XO | 3, "gp", "gp"),
    ("tss", MAIN_TSS, "gp", "gp"),
    ("beyond_gdt", 0x400, "gp", "gp"),
    ("beyond_ldt", 0x10C, "gp", "gp"),
    ("absent", ABSENT_DATA | 3, "np", "absent_ss"),
    ("conforming", CONFORMING0 | 3, None, "gp"),
    ("read_only", READ_ONLY | 3, None, "gp"),
]


def selector_of(mode: Mode, what: int | str) -> int:
    if isinstance(what, int):
        return what
    return flat_code(mode.ring) + (8 if what == "own" else 0)


def fault_of(mode: Mode, rule: Any, selector: int) -> tuple[int, int] | None:
    """What a segment load of `selector` raises under one of the rules of LOADS."""
    error = selector & 0xFFFC
    if rule == "ring3":
        return None if mode.ring == 3 else (Vector.GP, error)
    if rule == "ring0":
        return None if mode.ring == 0 else (Vector.GP, error)
    if rule == "absent_ss":
        return (Vector.SS if mode.ring == 3 else Vector.GP), error
    if rule in ("gp", "np"):
        return (Vector.GP if rule == "gp" else Vector.NP), error
    return rule


@pytest.mark.parametrize(("mode", "name", "what", "data_rule", "stack_rule"), each((*P16[::3], *P32), LOADS))
def test_a_segment_load_in_protected_mode_is_checked_against_the_guests_tables(
    used_bench, mode, name, what, data_rule, stack_rule
):
    selector = selector_of(mode, what)
    for reg, pop_it in ((0, False), (0, True), (2, False), (2, True), (3, False), (5, True)):
        used_bench.recycle()
        size = 4 if mode.code32 else 2
        code = plain(mode, POP_OPCODES[reg]) if pop_it else encode(mode, "8e", reg=reg, rm=1)
        used_bench.start(mode, code, ecx=0xABCD_0000 | selector, eflags=pattern(mode, (name, reg)))
        for at, raw in DESCRIPTORS.items():
            used_bench.poke(GDT + at, raw)
        used_bench.poke(STACK, selector)
        before = used_bench.here()
        after = used_bench.run()
        fault = fault_of(mode, stack_rule if reg == 2 else data_rule, selector)
        if fault is not None:
            assert after == before | faulted(mode, *fault), (reg, pop_it)
            continue
        base = DATA if selector & 4 else 0
        changes: Picture = {SEGMENTS[reg]: (selector, base)}
        if pop_it:
            old, new = before["esp"], before["esp"] + size
            changes["esp"] = new if mode.code32 else old & 0xFFFF_0000 | new & 0xFFFF
        assert after == before | changes, (reg, pop_it)


@pytest.mark.parametrize(("mode", "reg"), each(EVERY, [(1,), (6,), (7,)]))
def test_mov_to_cs_and_to_no_segment_register_is_undefined(run_guest, mode, reg):
    expect(run_guest, encode(mode, "8e", reg=reg, rm=0), mode, faulted(mode, Vector.UD))


FAR_LOADS = {0: "c4", 3: "c5", 2: "0fb2", 4: "0fb4", 5: "0fb5"}


@pytest.mark.parametrize(("mode", "reg", "size"), each(EVERY, [(r, s) for r in FAR_LOADS for s in (2, 4)]))
def test_a_far_pointer_load_takes_segment_and_register(used_bench, mode, reg, size):
    selector = flat_code(mode.ring) + 8 if mode.is_protected else 0x2345
    used_bench.start(mode, encode(mode, FAR_LOADS[reg], reg=2, rm="cell", size=size), eflags=pattern(mode, reg))
    used_bench.poke(DATA + CELL, little(0x1357_9BDF, size) + little(selector, 2))
    before = used_bench.here()
    after = used_bench.run()
    edx = 0x1357_9BDF if size == 4 else before["edx"] & 0xFFFF_0000 | 0x9BDF
    base = 0 if mode.is_protected else selector << 4
    assert after == before | {"edx": edx, SEGMENTS[reg]: (selector, base)}


# --- INT n, INT3, INTO -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "vector"), each(EVERY, [(0x80,), (0x21,), (0x0D,), (0xFF,)]))
def test_int_n_goes_through_the_guests_table_or_is_refused(run_guest, mode, vector):
    code = bytes([0xCD, vector])
    refused = (0, 0) if mode is V86_0 else (mode.ring, vector * 8 + 2)
    allowed = mode is not V86_0 and (mode.ring == 0 or vector == 0x80)
    before, after = run_guest(code, mode, eflags=pattern(mode, vector) | IF)
    if allowed and vector == 0x0D and mode.is_protected:
        after.pop("fault")  # INT 13 pushes no error code: the picture would take EIP for one
        return
    expected = {"fault": (vector, None), "eip": mode.entry + 2} if allowed else faulted(mode, Vector.GP, refused[1])
    assert after == before | expected


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_int3_is_a_trap_that_the_gates_dpl_allows(run_guest, mode):
    expect(run_guest, b"\xcc", mode, {"fault": (3, None), "eip": mode.entry + 1}, eflags=pattern(mode, 3))


@pytest.mark.parametrize(("mode", "overflow"), each(EVERY, [(False,), (True,)]))
def test_into_traps_when_of_is_set(run_guest, mode, overflow):
    after = {"fault": (4, None), "eip": mode.entry + 1} if overflow else {}
    expect(run_guest, b"\xce", mode, after, eflags=0x8D5 if overflow else 0xD5)


@pytest.mark.parametrize("mode", PROTECTED, ids=str)
def test_int_n_into_an_absent_gate_is_np_with_the_vector(used_bench, mode):
    used_bench.start(mode, b"\xcd\x80")
    used_bench.poke(IDT + 8 * 0x80 + 5, 0x6E, 1)
    before = used_bench.here()
    assert used_bench.run() == before | faulted(mode, Vector.NP, 0x80 * 8 + 2)


# --- CALL JMP RET, far -----------------------------------------------------------------------------------------


def alias(mode: Mode) -> int:
    """Another selector for this mode's own code segment."""
    return FREE + 0x40 | mode.ring if mode.is_protected else CODE + 0x10 >> 4


def with_alias(bench: Bench, mode: Mode) -> tuple[int, int, int]:
    """(selector, base, offset to subtract): an alias of the code segment; in real mode and V86 it begins 16 bytes
    later."""
    if not mode.is_protected:
        return alias(mode), CODE + 0x10, 0x10
    base = CODE if mode.based else 0
    limit = 0xFFFF if mode.based else 0xFFFF_FFFF
    bits = (1 << 22 if mode.code32 else 0) | (0 if mode.based else 1 << 23)
    bench.poke(GDT + (alias(mode) & ~7), descriptor(base, limit, CODE_RE | mode.ring << 5, bits))
    return alias(mode), base, 0


@pytest.mark.parametrize(
    ("mode", "form", "size"),
    each(EVERY, [(f, s) for f in ("jmp p", "jmp m", "call p", "call m") for s in (2, 4)], reachable),
)
def test_a_far_branch_inside_the_ring(used_bench, mode, form, size):
    kind, how = form.split()
    probe = far_branch(mode, kind, how, size, 0, 0)
    target = mode.entry + len(probe) + 1
    selector, base, less = with_alias(used_bench, mode)
    branch = far_branch(mode, kind, how, size, selector, target - less)
    used_bench.start(mode, branch + b"\xf4", eflags=pattern(mode, form))
    selector, base, less = with_alias(used_bench, mode)
    used_bench.poke(DATA + CELL, little(target - less, size) + little(selector, 2))
    used_bench.end -= less
    before = used_bench.here()
    after = used_bench.run()
    changes: Picture = {"cs": (selector, base)}
    if kind == "call":
        frame = little(mode.entry + len(branch), size) + little(before["cs"][0], size)
        changes |= {"esp": before["esp"] - 2 * size, "memory": stored(STACK - 2 * size, frame)}
    assert after == before | changes


def far_branch(mode: Mode, kind: str, how: str, size: int, selector: int, offset: int) -> bytes:
    if how == "m":
        return encode(mode, "ff", reg=5 if kind == "jmp" else 3, rm="cell", size=size)
    return plain(mode, "ea" if kind == "jmp" else "9a", size) + little(offset, size) + little(selector, 2)


@pytest.mark.parametrize(("mode", "size", "release"), each(EVERY, [(s, r) for s in (2, 4) for r in (0, 6)], reachable))
def test_a_far_return_inside_the_ring(used_bench, mode, size, release):
    code = (plain(mode, "ca", size) + little(release, 2) if release else plain(mode, "cb", size)) + b"\xf4"
    used_bench.start(mode, code, eflags=pattern(mode, release))
    selector, base, less = with_alias(used_bench, mode)
    used_bench.poke(STACK, little(used_bench.end - less, size) + little(selector, size))
    used_bench.end -= less
    before = used_bench.here()
    after = used_bench.run()
    esp = before["esp"] + 2 * size + release
    assert after == before | {"cs": (selector, base), "esp": esp}


@pytest.mark.parametrize(("mode", "opcode"), each(PROTECTED, [("jmp",), ("call",)]))
@pytest.mark.parametrize(
    ("selector", "fault"), [(0, (13, 0)), (flat_code(0) + 8, "gp"), (0x400, "gp"), (THE_LDT, "gp")]
)
def test_a_far_branch_to_no_code_segment_is_refused(run_guest, mode, opcode, selector, fault):
    code = far_branch(mode, opcode, "p", 4, selector, 0)
    expected = fault if isinstance(fault, tuple) else (13, selector & 0xFFFC)
    expect(run_guest, code, mode, faulted(mode, *expected), eflags=pattern(mode, selector))


@pytest.mark.parametrize("mode", [m for m in PROTECTED if m.ring], ids=str)
def test_a_far_jump_to_an_inner_ring_is_refused(run_guest, mode):
    expect(run_guest, far_branch(mode, "jmp", "p", 4, flat_code(0), 0), mode, faulted(mode, 13, flat_code(0)))


# --- IRET --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "size", "image"), each(EVERY, [(s, i) for s in (2, 4) for i in IMAGES], reachable))
def test_iret_inside_the_ring_takes_flags_as_the_ring_allows(used_bench, mode, size, image):
    image &= ~0x2_0000
    code = plain(mode, "cf", size) + b"\xf4"
    used_bench.start(mode, code, eflags=pattern(mode, image) & ~NT | (IF if image & DF else 0))
    selector, base, less = with_alias(used_bench, mode)
    used_bench.poke(STACK, little(used_bench.end - less, size) + little(selector, size) + little(image, size))
    before = used_bench.here()
    used_bench.end -= less
    after = used_bench.run()
    if mode is V86_0:
        assert after == before | faulted(mode, Vector.GP, 0)
        return
    writable = ALWAYS_POPPED
    if mode.kind == "real" or mode.ring <= mode.iopl:
        writable |= IF
    if mode.ring == 0:
        writable |= IOPL_BITS
    if size == 2:
        writable &= 0xFFFF
    after["eflags"] &= ~0x1_0000  # RF: set by the image, cleared by the instruction behind
    eflags = before["eflags"] & ~writable | image & writable
    assert after == before | {"cs": (selector, base), "esp": before["esp"] + 3 * size, "eflags": eflags}
