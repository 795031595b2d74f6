"""What stores and loads of the x87 and SSE state hold: pointers, opcode, formats of images, errors in MXCSR."""

import pytest
from guest_bench import CELL, DATA, EVERY, IF, P16, P32, P32_BASED, PE, REAL, V86_3, asm, faulted, little

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr0, Cr4, Seg
from vmm.engines.engine import Leave

ET_NE = int(Cr0.ET | Cr0.NE)
SSE = int(Cr4.OSFXSR | Cr4.OSXMMEXCPT)
AREA = 0x200  # offset from DATA of an area of 512 bytes, on a 16-byte boundary
LOAD = "fld dword ptr [{cell}]"  # D9 /0
GP0 = (Vector.GP, 0)
MODES = [REAL, V86_3, P16[0], P16[3], P32[0], P32[3], *P32_BASED]
FLAT = [pytest.param(P32[0], id="ring0"), pytest.param(P32[3], id="ring3")]


def start(bench, mode, code, **registers):
    """A program of lines; {cell} and {area} are offsets in DS."""
    text = code.format(cell=mode.cell, area=mode.offset(DATA + AREA))
    cr0 = ET_NE | (PE if mode.kind != "real" else 0)
    bench.start(mode, asm(text, mode.code32), **{"cr0": cr0, "cr4": SSE} | registers)


def place(mode, code):
    """Offset in CS of what follows `code`."""
    return mode.entry + len(asm(code.format(cell=mode.cell, area=mode.offset(DATA + AREA)), mode.code32))


def words(bench, count, size):
    return [bench.word(DATA + AREA + n * size, size) for n in range(count)]


def expected_pointers(mode, bench, ip, dp, size):
    """The last four fields of an environment, as the figures of SDM Vol. 1, chapter 8, have them."""
    cs, ds, opcode = (
        bench.vcpu.selector(1),
        bench.vcpu.selector(3),
        0x100 | asm(f"fld dword ptr [{mode.cell}]", mode.code32)[1],
    )
    high = 0xFFFF_0000
    if mode.is_protected:
        return [ip & 0xFFFF, cs, dp & 0xFFFF, ds] if size == 2 else [ip, opcode << 16 | cs, dp, high | ds]
    ip, dp = 16 * cs + ip, 16 * ds + dp
    if size == 2:
        return [ip & 0xFFFF, ip >> 4 & 0xF000 | opcode, dp & 0xFFFF, dp >> 4 & 0xF000]
    return [high | ip & 0xFFFF, ip >> 16 << 12 | opcode, high | dp & 0xFFFF, dp >> 16 << 12]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("store", ["fnstenv", "fnsave"])
def test_an_environment_holds_the_guests_own_addresses(bench, mode, size, store):
    """SDM Vol. 1, "x87 FPU Instruction and Operand (Data) Pointers": of the last one that is no control instruction."""
    prefix = "" if size == (4 if mode.code32 else 2) else ".byte 0x66; "
    start(bench, mode, f"fninit; fldz; {LOAD}; fnstcw [{{cell}}]; {prefix}{store} [{{area}}]")
    bench.poke(DATA + CELL, little(0x3F80_0000, 4))
    assert bench.run()["eip"] == "end"
    found = words(bench, 7, size)
    assert [word & 0xFFFF for word in found[:3]] == [0x37F, 0x3000, 0x4FFF]
    assert found[3:] == expected_pointers(mode, bench, place(mode, "fninit; fldz"), mode.cell, size)
    if store == "fnsave":
        stack = bench.peek(DATA + AREA + 7 * size, 80)
        assert stack[:20] == bytes.fromhex("0000000000000080ff3f") + bytes(10)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_fxsave_holds_the_guests_own_addresses(bench, mode):
    start(bench, mode, f"fninit; fldz; {LOAD}; fxsave [{{area}}]")
    assert bench.run()["eip"] == "end"
    at = DATA + AREA
    opcode = 0x100 | asm(LOAD.format(cell=mode.cell), mode.code32)[1]
    assert (bench.word(at, 2), bench.word(at + 4, 1), bench.word(at + 6, 2)) == (0x37F, 0xC0, opcode)
    assert (bench.word(at + 8), bench.word(at + 12, 2)) == (place(mode, "fninit; fldz"), bench.vcpu.selector(1))
    assert (bench.word(at + 16), bench.word(at + 20, 2)) == (mode.cell, bench.vcpu.selector(3))
    assert (bench.word(at + 24), bench.word(at + 28)) == (0x1F80, 0xFFFF)


@pytest.mark.parametrize("mode", FLAT)
@pytest.mark.parametrize("load", ["fldenv", "frstor"])
def test_pointers_that_were_loaded_are_stored_again(bench, mode, load):
    pointers = "12345678 01230033 11223344 ffff002b"
    values = [int(word, 16) for word in pointers.split()]
    code = f"fninit; {'fnstenv' if load == 'fldenv' else 'fnsave'} [{{area}}]; "
    code += "; ".join(f"mov dword ptr [{DATA + AREA + 12 + 4 * n}], {value:#x}" for n, value in enumerate(values))
    start(bench, mode, f"{code}; {load} [{{area}}]; mov dword ptr [{DATA + AREA + 12}], 0; fnstenv [{{area}}]")
    assert bench.run()["eip"] == "end"
    assert words(bench, 7, 4)[3:] == values


@pytest.mark.parametrize("mode", FLAT)
def test_fxrstor_loads_what_fxsave_stores(bench, mode):
    fields = {6: 0x0123, 8: 0x12345678, 12: 0x33, 16: 0x11223344, 20: 0x2B, 24: 0x1FBF}
    stores = "; ".join(f"mov dword ptr [{DATA + AREA + at}], {value:#x}" for at, value in fields.items() if at > 6)
    code = f"fninit; fxsave [{{area}}]; {stores}; mov word ptr [{DATA + AREA + 6}], 0x123; fxrstor [{{area}}]; "
    start(bench, mode, code + f"mov edi, {DATA + AREA}; xor eax, eax; mov ecx, 128; rep stosd; fxsave [{{area}}]")
    assert bench.run()["eip"] == "end"
    assert {at: bench.word(DATA + AREA + at, 2 if at == 6 else 4) for at in fields} == fields


@pytest.mark.parametrize("mode", FLAT)
def test_pointers_outlive_the_translation(bench, mode):
    """The last x87 instruction is found although its block, and all others, went."""
    start(bench, mode, f"fninit; fldz; {LOAD}; nop; jmp over; nop; over: fnstenv [{{area}}]")
    bench.run(2)
    bench.engine.code.empty()
    assert bench.run()["eip"] == "end"
    assert words(bench, 7, 4)[3] == place(mode, "fninit; fldz")


@pytest.mark.parametrize("mode", FLAT)
def test_fnstenv_masks_all_errors(bench, mode):
    """SDM Vol. 2A, "FSTENV/FNSTENV": it masks them when it has stored."""
    divide = f"mov word ptr [{DATA + CELL}], 0x37b; fldcw [{{cell}}]; fld1; fldz; fdivp"
    start(bench, mode, f"fninit; {divide}; fnstenv [{{area}}]; fnstcw [{{cell}}]; fnstsw ax; fwait; fld1")
    after = bench.run()
    assert after["eip"] == "end"
    assert (bench.word(DATA + AREA, 2), bench.word(DATA + AREA + 4, 2)) == (0x37B, 0xB084)
    assert (bench.word(DATA + CELL, 2), after["eax"] & 0xFFFF) == (0x37F, 0x3004)


SPECIAL = [  # ten bytes of a register, its tag (SDM Vol. 1, "x87 FPU Tag Word")
    pytest.param("00000000000000000000", 1, id="zero"),
    pytest.param("00000000000000000080", 1, id="minus_zero"),
    pytest.param("0000000000000080ff3f", 0, id="one"),
    pytest.param("0000000000000080ff7f", 2, id="infinity"),
    pytest.param("00000000000000c0ff7f", 2, id="nan"),
    pytest.param("01000000000000000000", 2, id="denormal"),
    pytest.param("0000000000000040ff3f", 2, id="unnormal"),
]


@pytest.mark.parametrize(("value", "tag"), SPECIAL)
def test_tags_tell_what_a_register_holds(bench, value, tag):
    start(bench, P32[0], "fninit; fld tbyte ptr [{cell}]; fnstenv [{area}]")
    bench.poke(DATA + CELL, bytes.fromhex(value))
    assert bench.run()["eip"] == "end"
    assert bench.word(DATA + AREA + 8, 2) == 0x3FFF | tag << 14


# --- what may not be loaded, and where from --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("value", [0x1_1F80, 0xFFFF_1F80, 0x8000_0000])
def test_ldmxcsr_of_a_reserved_bit_is_gp(bench, mode, value):
    """SDM Vol. 2A, "LDMXCSR"."""
    start(bench, mode, "ldmxcsr [{cell}]")
    bench.poke(DATA + CELL, value)
    before = bench.here()
    assert bench.run() == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", FLAT)
def test_fxrstor_of_a_reserved_bit_of_mxcsr_is_gp(bench, mode):
    start(bench, mode, "fxrstor [{area}]")
    bench.poke(DATA + AREA, bytes(24) + little(0x1_1F80, 4) + bytes(484))
    before = bench.here()
    assert bench.run() == before | faulted(mode, *GP0)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("code", ["fxsave", "fxrstor"])
@pytest.mark.parametrize("by", [1, 4, 8])
def test_an_area_that_is_not_aligned_is_gp(bench, mode, code, by):
    """SDM Vol. 2A, "FXSAVE", "FXRSTOR": #GP(0) off a 16-byte boundary."""
    start(bench, mode, f"{code} [{mode.offset(DATA + AREA) + by}]")
    before = bench.here()
    assert bench.run() == before | faulted(mode, *GP0)


@pytest.mark.parametrize("code", ["ldmxcsr", "stmxcsr", "fxsave", "fxrstor", "fnstenv", "fnsave", "fldenv", "frstor"])
def test_a_page_that_is_missing_is_a_page_fault_and_nothing_else(bench, code):
    far = 0x30_0000
    start(bench, P32[3], f"{code} [{far}]")
    bench.map_pages(missing=[far])
    before = bench.here()
    write = 2 if code in ("stmxcsr", "fxsave", "fnstenv", "fnsave") else 0
    assert bench.run() == before | faulted(P32[3], Vector.PF, 4 | write) | {"cr2": far}


# --- alignment -------------------------------------------------------------------------------------------------------

ALIGNED = """
    0f10:0 0f11:0 0f12:0 0f13:0 0f14:1 0f15:1 0f16:0 0f17:0 0f28:1 0f29:1 0f2a:0 0f2b:1 0f2c:0 0f2d:0 0f2e:0 0f2f:0
    0f51:1 0f52:1 0f53:1 0f54:1 0f55:1 0f56:1 0f57:1 0f58:1 0f59:1 0f5a:0 0f5b:1 0f5c:1 0f5d:1 0f5e:1 0f5f:1 0fc600:1 0fc201:1
    660f10:0 660f11:0 660f12:0 660f13:0 660f14:1 660f15:1 660f16:0 660f17:0 660f28:1 660f29:1 660f2a:0 660f2b:1 660f2c:1
    660f2d:1 660f2e:0 660f2f:0 660f51:1 660f54:1 660f57:1 660f58:1 660f5a:1 660f5b:1 660f5f:1 660fc600:1 660fc201:1
    660f60:1 660f63:1 660f6c:1 660f6d:1 660f6e:0 660f6f:1 660f7000:1 660f74:1 660f7e:0 660f7f:1 660fc400:0
    660fd1:1 660fd4:1 660fd5:1 660fd6:0 660fdb:1 660fe0:1 660fe6:1 660fe7:1 660feb:1 660fef:1 660ff1:1 660ff4:1 660ff6:1 660ffe:1
    f30f10:0 f30f11:0 f30f2a:0 f30f51:0 f30f58:0 f30f5a:0 f30f5b:1 f30f6f:0 f30f7000:1 f30f7e:0 f30f7f:0 f30fe6:0
    f20f10:0 f20f2a:0 f20f51:0 f20f58:0 f20f5a:0 f20f7000:1 f20fe6:1 f20fc201:0 0f6f:0 0f7f:0 0ffc:0 0fe7:0
""".split()
"""Opcodes and immediates of SSE and SSE2, and whether a memory operand must be aligned (SDM Vol. 2A-2B, "Exceptions
Type" of each; Vol. 3A, "Interrupt 13 - General Protection Exception (#GP)")."""


@pytest.mark.parametrize("mode", FLAT)
@pytest.mark.parametrize("case", ALIGNED)
def test_operands_of_16_bytes_must_be_aligned(used_bench, mode, case):
    opcode, minds = case.split(":")
    at = next(index for index in range(len(opcode)) if opcode[index:].startswith("0f")) + 4
    for off in (0, 8, 1, 4):
        code = bytes.fromhex(opcode[:at]) + b"\x4d" + bytes([0x20 + off]) + bytes.fromhex(opcode[at:])
        start(used_bench, mode, "", ebp=DATA + CELL)
        used_bench.start(mode, code, cr0=PE | ET_NE, cr4=SSE, ebp=DATA + CELL, eflags=0x8D5)
        used_bench.poke(DATA + CELL, bytes(0x80))
        before = used_bench.here()
        after = used_bench.run()
        if minds == "1" and off:
            assert after == before | faulted(mode, *GP0)
        else:
            assert after["eip"] == "end"


@pytest.mark.parametrize("override", ["", "es", "ss", "cs", "fs"])
@pytest.mark.parametrize("base", [0, 4, 16])
@pytest.mark.parametrize("offset", [0, 4, 12])
def test_it_is_the_linear_address_that_must_be_aligned(bench, override, base, offset):
    mode = P32[0]
    start(bench, mode, f"movaps xmm1, {override and override + ':'}[{DATA + CELL} + {offset}]; nop")
    for seg in Seg:
        if seg.name.lower() == (override or "ds") and seg is not Seg.CS:
            register = bench.vcpu.segment(seg)
            bench.vcpu.set_segment(seg, type(register)(register.selector, base, register.limit, register.flags))
    moved = 0 if override == "cs" else base
    after = bench.run()
    assert after.get("fault") == (None if (moved + offset) % 16 == 0 else GP0)


@pytest.mark.parametrize(("cr0", "cr4", "fault"), [(0, 0, Vector.UD), (4, SSE, Vector.UD), (8, SSE, Vector.NM)])
def test_whether_there_is_sse_comes_before_alignment(bench, cr0, cr4, fault):
    start(bench, P32[3], "movaps xmm0, [{cell} + 1]", cr0=PE | ET_NE | cr0, cr4=cr4)
    before = bench.here()
    assert bench.run() == before | faulted(P32[3], fault)


# --- errors of SSE ---------------------------------------------------------------------------------------------------

IE, DE, ZE, OE, UE, PEF = (1 << n for n in range(6))
ONE, THREE, ZERO, HUGE, TINY, SNAN = 0x3F80_0000, 0x4040_0000, 0, 0x7F7F_FFFF, 0x0080_0000, 0x7F80_0001
ERRORS = [
    pytest.param("divss xmm0, xmm1", ONE, ZERO, ZE, id="by_zero"),
    pytest.param("divss xmm0, xmm1", ZERO, ZERO, IE, id="zero_by_zero"),
    pytest.param("divss xmm0, xmm1", ONE, THREE, PEF, id="inexact"),
    pytest.param("mulss xmm0, xmm1", HUGE, HUGE, OE | PEF, id="overflow"),
    pytest.param("mulss xmm0, xmm1", TINY, TINY, UE | PEF, id="underflow"),
    pytest.param("addss xmm0, xmm1", SNAN, ONE, IE, id="signalling_nan"),
    pytest.param("comiss xmm0, xmm1", 0x7FC0_0000, ONE, IE, id="compared_with_a_nan"),
    pytest.param("ucomiss xmm0, xmm1", 0x7FC0_0000, ONE, 0, id="compared_quietly"),
    pytest.param("cvttss2si ebx, xmm0", HUGE, ONE, IE, id="too_large_for_an_integer"),
    pytest.param("cvtss2si ebx, xmm1", ONE, 0x3FC0_0000, PEF, id="no_integer"),
    pytest.param("addss xmm0, xmm1", ONE, ONE, 0, id="exact"),
]
SET = "movd xmm0, esi; movd xmm1, edi; ldmxcsr [{cell}]; "


@pytest.mark.parametrize("mode", FLAT)
@pytest.mark.parametrize(("code", "left", "right", "errors"), ERRORS)
def test_masked_errors_gather_in_mxcsr(bench, mode, code, left, right, errors):
    """SDM Vol. 1, "SIMD Floating-Point Exception Flag Bits": sticky, until LDMXCSR or FXRSTOR clears them."""
    start(bench, mode, SET + f"{code}; stmxcsr [{{cell}}]", esi=left, edi=right)
    bench.poke(DATA + CELL, 0x1F80)
    assert bench.run()["eip"] == "end"
    assert bench.word(DATA + CELL) == 0x1F80 | errors


@pytest.mark.parametrize("mode", FLAT)
def test_ldmxcsr_clears_errors(bench, mode):
    start(bench, mode, SET + "divss xmm0, xmm1; ldmxcsr [{cell}]; stmxcsr [{cell} + 4]", esi=ONE, edi=ZERO)
    bench.poke(DATA + CELL, 0x1F80)
    assert bench.run()["eip"] == "end"
    assert bench.word(DATA + CELL + 4) == 0x1F80


def test_fxsave_shows_errors(bench):
    start(bench, P32[3], SET + "divss xmm0, xmm1; fxsave [{area}]", esi=ONE, edi=ZERO)
    bench.poke(DATA + CELL, 0x1F80)
    bench.run()
    assert bench.word(DATA + AREA + 24) == 0x1F80 | ZE


@pytest.mark.parametrize("mode", FLAT)
@pytest.mark.parametrize(("code", "left", "right", "errors"), ERRORS)
@pytest.mark.parametrize("supported", [True, False])
def test_an_unmasked_error_is_xf_and_leaves_operands_alone(bench, mode, code, left, right, errors, supported):
    """SDM Vol. 3A, "Interrupt 19 - SIMD Floating-Point Exception (#XM)": #UD without CR4.OSXMMEXCPT."""
    cr4 = SSE if supported else int(Cr4.OSFXSR)
    start(
        bench,
        mode,
        SET + f"nop; {code}; stmxcsr [{{area}}]; movd eax, xmm0",
        esi=left,
        edi=right,
        cr4=cr4,
        eflags=0x8D5,
    )
    bench.poke(DATA + CELL, 0)
    before = bench.here()
    after = bench.run()
    if not errors:
        assert (after["eip"], bench.word(DATA + AREA)) == ("end", 0)
        return
    assert after["fault"] == (Vector.XF if supported else Vector.UD, None)
    assert after["eip"] == place(mode, SET + "nop")
    assert (after["ebx"], after["eflags"]) == (before["ebx"], before["eflags"])
    bench.continue_at(after)
    bench.vcpu.eip += len(asm(code, True))
    after = bench.run()
    assert (bench.word(DATA + AREA), after["eax"]) == (errors, left)


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_an_error_that_is_masked_is_none_whatever_else_is_unmasked(bench, mode):
    start(
        bench,
        mode,
        "movd xmm0, esi; movd xmm1, edi; ldmxcsr [{cell}]; divss xmm0, xmm1; stmxcsr [{cell}]",
        esi=ONE,
        edi=ZERO,
    )
    bench.poke(DATA + CELL, 0x0200)
    assert bench.run()["eip"] == "end"
    assert bench.word(DATA + CELL) == 0x0200 | ZE


# --- errors of x87 with CR0.NE clear ----------------------------------------------------------------------------------

DIVIDE = "mov word ptr [{cell}], 0x37b; fninit; fldcw [{cell}]; fld1; fldz; fdivp"
NO_NE = [REAL, P32[0], P32[3]]


def without_ne(bench, mode, code, **registers):
    cr0 = int(Cr0.ET) | (PE if mode.kind != "real" else 0)
    start(bench, mode, code, cr0=cr0, **registers)


@pytest.mark.parametrize("mode", NO_NE, ids=str)
@pytest.mark.parametrize("waiting", ["fwait", "fld1", "fldenv [{area}]", "paddb mm0, mm1"])
def test_an_error_without_ne_asserts_ferr_and_waits(bench, mode, waiting):
    """SDM Vol. 1, "MS-DOS Compatibility Sub-mode": the processor stops before the instruction that waits."""
    without_ne(bench, mode, f"{DIVIDE}; nop; {waiting}")
    assert bench.run()["eip"] == place(mode, f"{DIVIDE}; nop")
    assert (bench.board.x87_errors, bench.leave) == ([True], Leave.HALTED)


@pytest.mark.parametrize("mode", NO_NE, ids=str)
def test_the_interrupt_for_it_comes_before_the_instruction_that_waits(bench, mode):
    without_ne(bench, mode, f"{DIVIDE}; nop; fwait; inc ebx", eflags=IF)
    bench.board.on_x87_error = lambda: bench.vcpu.set_interrupt_pending(True)
    after = bench.run()
    assert (after["fault"], after["eip"]) == ((0x20, None), place(mode, f"{DIVIDE}; nop"))


@pytest.mark.parametrize("mode", NO_NE, ids=str)
def test_under_ignne_instructions_do_not_mind_the_error(bench, mode):
    without_ne(bench, mode, f"{DIVIDE}; fwait; fld1; fnstsw ax")
    bench.board.ignores_x87_errors = True
    after = bench.run()
    assert (after["eip"], after["eax"] & 0xFFFF) == (
        "end",
        0xA884,
    )  # ZE, ES and B are still there; FDIVP has not popped


@pytest.mark.parametrize("clear", ["fnclex", "fninit", "fnsave [{area}]"])
def test_ferr_falls_when_the_error_is_cleared(bench, clear):
    without_ne(bench, P32[0], f"{DIVIDE}; fwait; {clear}; in al, 0x21; fwait; fld1")
    bench.board.ignores_x87_errors = True
    assert bench.run()["eip"] == "end"
    assert bench.board.x87_errors == [True, False]


# --- errors in the x87 status word ------------------------------------------------------------------------------------

INF, NAN, BIG, SMALL = 0x7F80_0000, 0x7FC0_0000, 0x7F7F_FFFF, 0x0080_0000
X87_ERRORS = [  # instruction, its operands ST0 and ST1 as singles, the errors (SDM Vol. 1, "x87 FPU Exception Conditions")
    pytest.param("fdivrp", ONE, ZERO, ZE, id="by_zero"),
    pytest.param("fdivrp", ZERO, ZERO, IE, id="zero_by_zero"),
    pytest.param("fdivrp", INF, ZERO, 0, id="infinity_by_zero"),
    pytest.param("fdivrp", ONE, THREE, PEF, id="inexact"),
    pytest.param("fsubp", INF, INF, IE, id="infinity_minus_infinity"),
    pytest.param("fcompp", NAN, ONE, IE, id="compared_with_a_nan"),
    pytest.param("fucompp", NAN, ONE, 0, id="compared_quietly"),
    pytest.param("fmulp; fstp dword ptr [{cell}]", BIG, BIG, OE | PEF, id="overflow"),
    pytest.param("fmulp; fstp dword ptr [{cell}]", SMALL, SMALL, UE | PEF, id="underflow"),
    pytest.param("fistp dword ptr [{cell}]", BIG, ONE, IE, id="too_large_for_an_integer"),
    pytest.param("faddp", ONE, ONE, 0, id="exact"),
]
OPERANDS = "fninit; fld dword ptr [{cell} + 4]; fld dword ptr [{cell}]; "


def with_operands(bench, mode, code, left, right):
    start(bench, mode, OPERANDS + code)
    bench.poke(DATA + CELL, little(left, 4) + little(right, 4))


@pytest.mark.parametrize("store", ["fnstsw ax; mov [{area} + 4], ax", "fnstsw [{area} + 4]", "fnstenv [{area}]"])
@pytest.mark.parametrize(("code", "left", "right", "errors"), X87_ERRORS)
def test_masked_errors_gather_in_the_status_word(bench, store, code, left, right, errors):
    """SDM Vol. 1, "x87 FPU Status Register": sticky."""
    with_operands(bench, P32[3], f"{code}; {store}", left, right)
    assert bench.run()["eip"] == "end"
    assert bench.word(DATA + AREA + 4, 2) & 0xBF == errors


@pytest.mark.parametrize("clear", ["fnclex", "fninit", "fnsave [{area}]"])
def test_errors_can_be_cleared(bench, clear):
    with_operands(bench, P32[0], f"fdivrp; {clear}; fnstsw ax", ONE, THREE)
    assert bench.run()["eax"] & 0xFF == 0


def test_errors_that_are_loaded_are_there(bench):
    with_operands(bench, P32[0], "fdivrp; fnstenv [{area}]; fnclex; fldenv [{area}]; fnstsw ax", ONE, THREE)
    assert bench.run()["eax"] & 0xFF == PEF


def test_zero_by_zero_is_no_division_by_zero(bench):
    """Nor does it raise #MF as one."""
    with_operands(
        bench, P32[3], "mov word ptr [{area}], 0x37b; fldcw [{area}]; fdivrp; fwait; fnstsw ax; fld1", ZERO, ZERO
    )
    after = bench.run()
    assert (after["eip"], after["eax"] & 0xFF) == ("end", IE)


@pytest.mark.parametrize("test", ["sahf", "test ah, 0x45", "and ah, 0x45"])
def test_condition_codes_need_no_exit(bench, test):
    with_operands(bench, P32[3], f"fcompp; fnstsw ax; {test}; nop", ONE, THREE)
    assert bench.run()["eax"] >> 8 & 0x45 == 0x01
    assert bench.engine.stats.exits["prepare"] == 0
