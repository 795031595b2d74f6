"""The x87 FPU and SSE under the control bits: #NM, #MF, #UD, and what FXSAVE and FXRSTOR carry."""

import pytest
from guest_bench import CELL, DATA, P32, PE, asm, faulted

from vmm.arch.exceptions import Vector
from vmm.arch.registers import Cr0, Cr4

TS, MP, EM, NE, ET = (int(bit) for bit in (Cr0.TS, Cr0.MP, Cr0.EM, Cr0.NE, Cr0.ET))
OSFXSR = int(Cr4.OSFXSR)
NM, MF, UD = ((int(vector), None) for vector in (Vector.NM, Vector.MF, Vector.UD))
USER = P32[3]
AREA = DATA + 0x200  # 512 bytes on a 16-byte boundary
BOTH = [pytest.param(P32[0], id="ring0"), pytest.param(USER, id="ring3")]

# (instruction, which CR0 bits it minds)
X87, WAIT, MMX, SSE, FX = "fld1", "fwait", "paddb mm0, mm1", "addps xmm0, xmm1", f"fxsave [{AREA}]"
NOT_AVAILABLE = [
    *[(code, bits, NM) for code in (X87, MMX, SSE, FX) for bits in (TS, TS | MP)],
    (X87, EM, NM),
    (FX, EM, NM),
    (MMX, EM, UD),
    (SSE, EM, UD),
    (WAIT, TS | MP, NM),
    (WAIT, TS, None),
    (WAIT, EM, None),
    (X87, MP, None),
    (SSE, MP, None),
]


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize(("code", "bits", "fault"), NOT_AVAILABLE)
def test_ts_mp_and_em(run_guest, mode, code, bits, fault):
    """SDM Vol. 3A, table "Action Taken By x87 FPU Instructions for Different Combinations of EM, MP, and TS"."""
    before, after = run_guest(code, mode, cr0=PE | ET | NE | bits, cr4=OSFXSR)
    if fault is None:
        assert after["eip"] == "end"
    else:
        assert after == before | faulted(mode, fault[0])


@pytest.mark.parametrize("code", [SSE, "movaps xmm0, xmm1", f"ldmxcsr [{AREA}]"])
def test_sse_needs_osfxsr(run_guest, code):
    before, after = run_guest(code, USER, cr0=PE | ET | NE)
    assert after == before | faulted(USER, UD[0])


# --- CR0.TS changes under way --------------------------------------------------------------------------------

CLEAR, SET = "clts", "mov eax, cr0; or eax, 8; mov cr0, eax"
LAZY = [
    pytest.param(TS, f"{CLEAR}; fld1", None, id="clts"),
    pytest.param(TS, "mov eax, cr0; and eax, 0xfffffff7; mov cr0, eax; fld1", None, id="mov_cr0_clears"),
    pytest.param(0, f"{SET}; fld1", NM, id="mov_cr0_sets"),
    pytest.param(0, "smsw ax; or ax, 8; lmsw ax; fld1", NM, id="lmsw_sets"),
    pytest.param(TS, "smsw ax; and ax, 0xfff7; lmsw ax; fld1", None, id="lmsw_clears"),
    pytest.param(0, f"fninit; {SET}; fld1", NM, id="between_two"),
    pytest.param(TS, f"{CLEAR}; fninit; {SET}; {CLEAR}; fld1", None, id="to_and_fro"),
    pytest.param(0, f"fldz; {SET}; {CLEAR}; {SET}; addps xmm0, xmm0", NM, id="sse_too"),
]


@pytest.mark.parametrize(("bits", "code", "fault"), LAZY)
def test_a_change_of_ts_counts_for_the_next_instruction(bench, bits, code, fault):
    bench.start(P32[0], code, cr0=PE | ET | NE | bits, cr4=OSFXSR)
    after = bench.run()
    if fault is None:
        assert after["eip"] == "end"
    else:
        assert after["fault"] == fault
        assert after["eip"] == bench.end - len(asm(code.rsplit(";", 1)[1], True))
        assert after["cr0"] & TS


def test_nm_is_a_fault_that_can_be_repaired(bench):
    """As lazy switching does it: the handler allows the FPU and returns to the same instruction."""
    bench.start(USER, f"fninit; fld1; fstp qword ptr [{DATA + CELL}]", cr0=PE | ET | NE | TS)
    bench.poke(0x9000 + 7, asm("clts; iretd", True))  # over the HLTs of the handlers of #NM and the next ones
    after = bench.run()
    assert after["eip"] == "end"
    assert bench.peek(DATA + CELL, 8) == bytes.fromhex("000000000000f03f")


# --- unmasked exceptions -------------------------------------------------------------------------------------

DIVIDE = f"fninit; mov word ptr [{DATA + CELL}], 0x37b; fldcw [{DATA + CELL}]; fld1; fldz; fdivp"
QUIET = ["fnstsw ax", "fnclex", "fninit", f"fnstcw [{DATA + CELL}]", f"fnsave [{AREA}]", FX]


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("code", ["fwait", "wait; fstp st(0)"])
def test_an_unmasked_x87_error_is_mf_at_the_next_waiting_instruction(bench, mode, code):
    program = f"{DIVIDE}; nop; {code}"
    bench.start(mode, program, cr0=PE | ET | NE, cr4=OSFXSR)
    after = bench.run()
    assert after["fault"] == MF
    assert after["eip"] == bench.end - len(asm(code, True))


@pytest.mark.parametrize("code", QUIET)
def test_instructions_that_do_not_wait_raise_no_mf(bench, code):
    bench.start(USER, f"{DIVIDE}; {code}", cr0=PE | ET | NE, cr4=OSFXSR)
    assert bench.run()["eip"] == "end"


def test_fxsave_and_fxrstor_carry_all_of_it(bench):
    """512 bytes out, everything destroyed, 512 bytes in, and out again: the same."""
    again = AREA + 0x200
    save = f"""
        fninit
        fldpi
        fld1
        movd xmm3, esi
        movd xmm7, edi
        fxsave [{AREA}]
        fninit
        pxor xmm3, xmm3
        pxor xmm7, xmm7
        fxrstor [{AREA}]
        fxsave [{again}]
    """
    bench.start(USER, save, cr0=PE | ET | NE, cr4=OSFXSR)
    after = bench.run()
    assert after["eip"] == "end"
    first, second = bench.peek(AREA, 512), bench.peek(again, 512)
    assert first[:8] + first[24:416] == second[:8] + second[24:416]  # all but the instruction and data pointers
    assert first[:5] == bytes.fromhex("7f030030c0")  # control word, top 6, two registers in use
    assert first[32:42] == bytes.fromhex("0000000000000080ff3f")  # ST0: 1
    assert first[48:58] == bytes.fromhex("35c26821a2da0fc90040")  # ST1: pi
    assert first[160 + 16 * 3 :][:16] == after["esi"].to_bytes(16, "little")
    assert first[160 + 16 * 7 :][:16] == after["edi"].to_bytes(16, "little")
    assert first[24:28] == bytes.fromhex("801f0000")  # MXCSR


def test_the_control_words_after_reset(bench):
    """SDM Vol. 3A, table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT"."""
    bench.start(USER, f"fnstcw [{AREA}]; stmxcsr [{AREA + 4}]", cr0=PE | ET | NE, cr4=OSFXSR)
    bench.run()
    assert (bench.word(AREA, 2), bench.word(AREA + 4)) == (0x40, 0x1F80)
