"""Host code that carries x87 instructions out on the host's own x87 FPU, in the place of the engine's helpers.

The engine computes with a library of its own that knows no denormal-operand exception, no C1, no empty registers and no
64-bit partial remainder, and takes some functions from C's `double`. The host's FPU knows it all. So each helper (see
`vmm.hw.host_fpu`) loads the operands that the engine keeps in its state, executes the one instruction with the guest's
rounding and precision, all errors masked, and stores result, C1 and errors.

Errors that the host keeps from earlier operations are left alone while the guest has them, too: clearing costs as much
as an addition. Where one is new, the operation is done again on a cleared FPU, and what it then shows is its own. If
the guest lets an error of it through, or a register is empty that should not be, nothing is stored: the run is left
with `Trap.X87`, with EIP at the instruction, and the VMM carries out the whole (`vmm.cpu.x87`). If the state does not
ask for that trap, things go on as if the error were masked and the register full.

RDI is the engine's state, RSI the helper's argument, R8 the cells of `Cell`, RCX and RSI the numbers of registers,
times 16 from `begin` on; AX is the host's status, R11 the guest's.

Source: Intel SDM Vol. 1, "x87 FPU Status Register", "Stack Overflow or Underflow Exception", "x87 FPU Control Word".
"""

from collections.abc import Mapping
from typing import Final

from vmm.arch.registers import ARITHMETIC
from vmm.hw import state as hw
from vmm.hw.host_code import CELLS, ONWARD, Cell, is_trapped, leave
from vmm.hw.traps import Trap

DEFAULT_CONTROL: Final = 0x37F
CONTROL_BITS: Final = 0x1F3F
CONTROL_ONES: Final = 0x0040
"""Of the control word: what can be written, and what is always set."""
_C1: Final = 0x0200
_C2: Final = 0x0400
_C1_C2: Final = _C1 | _C2
_CONDITIONS: Final = 0x4700
_EMPTY: Final = 0x4100  # C3 and C0, as FXAM tells an empty register
_SUMMARY_AND_BUSY: Final = 0x8080
_TOP_BITS: Final = 0x3800
_ERRORS: Final = 0x3F
_EXPONENT: Final = 0x7FFF
_UE: Final = 0x10
_PRECISION_AND_ROUNDING: Final = 0x0F00
_DEFAULT_ONES: Final = 0x7F
_WORD: Final = 0xFFFF

_TOP: Final = f"dword ptr [rdi + {hw.FPU_TOP}]"
_STATUS: Final = f"word ptr [rdi + {hw.FPU_STATUS}]"
_CONTROL: Final = f"word ptr [rdi + {hw.FPU_CONTROL}]"
_REG, _OTHER = (f"tbyte ptr [rdi + {index} + {hw.FPU_REGISTERS}]" for index in ("rcx", "rsi"))
_OPERAND: Final = f"tbyte ptr [r8 + {Cell.OPERAND:d}]"
_VALUE: Final = f"[r8 + {Cell.VALUE:d}]"
_SET_CONTROL: Final = f"mov word ptr [r8 + {Cell.CONTROL:d}], r10w; fldcw word ptr [r8 + {Cell.CONTROL:d}]"
_CLEAR_C1: Final = f"and {_STATUS}, {_WORD ^ _C1}"

_IS_TRAPPED: Final = is_trapped(Trap.X87)
_LEAVE: Final = leave(Trap.X87)
_ST0: Final = f"{CELLS}; mov ecx, {_TOP}"
_ST1: Final = "lea esi, [rcx + 1]; and esi, 7"
_STN: Final = "add esi, ecx; and esi, 7"
_NEXT: Final = "dec ecx; and ecx, 7"
_TIMES_16: Final = "shl ecx, 4; shl esi, 4"


def _tag(index: str) -> str:
    return f"byte ptr [rdi + {index} + {hw.FPU_TAGS}]"


def _full(index: str) -> str:
    """The register must not be empty."""
    return f"cmp {_tag(index)}, 0; jne fault"


def _free(index: str) -> str:
    """The register must be empty."""
    return f"cmp {_tag(index)}, 0; je fault"


_PUSH: Final = f"mov {_TOP}, ecx; mov {_tag('rcx')}, 0"


def _checked(start: str, body: str) -> str:
    """Code whose `start` jumps to `fault` where the stack is not as it should be: once it knows its registers."""
    return f"""
        {start}
    begin:
        {body}
    fault:
        {_IS_TRAPPED}
        je begin
        {_LEAVE}
    """


def _run(start: str, operation: str, store: str, shown: int = _C1, answer: str = "") -> str:
    """An operation that can make errors. `store` takes its results; `shown` are the bits of the status that it sets.

    Underflow alone is another thing when it is unmasked: a tiny result is one then, be it exact or not.
    """
    return _checked(
        start,
        f"""
        {_TIMES_16}
        movzx r10d, {_CONTROL}
        and r10d, {_PRECISION_AND_ROUNDING | _UE}
        or r10d, {_DEFAULT_ONES ^ _UE}
        xor r9d, r9d
        test r10d, {_UE}
        je underflow
    compare:
        cmp r10d, {DEFAULT_CONTROL}
        jne set
    again:
        {operation}
        fnstsw ax
        movzx r11d, {_STATUS}
        mov edx, r11d
        not edx
        and edx, eax
        and edx, {_ERRORS}
        jne new
    commit:
        {store}
        and r11d, {_WORD ^ shown}
        and eax, {shown}
        or eax, r11d
        mov {_STATUS}, ax
        cmp r10d, {DEFAULT_CONTROL}
        jne restore
    done:
        {answer}
        ret
    restore:
        fldcw word ptr [r8 + {Cell.DEFAULT:d}]
        jmp done
    underflow:
        {_IS_TRAPPED}
        jne clear
        or r10d, {_UE}
        jmp compare
    new:
        test r9d, r9d
        jne own
    clear:
        mov r9d, 1
        fninit
    set:
        {_SET_CONTROL}
        jmp again
    own:
        or r11d, edx
        movzx r9d, {_CONTROL}
        not r9d
        test edx, r9d
        je commit
        {_IS_TRAPPED}
        jne drop
        or r11d, {_SUMMARY_AND_BUSY}
        jmp commit
    drop:
        fninit
        jmp leave
    """,
    )


_STORE: Final = f"fstp {_REG}"
_IN_PLACE: Final = f"{_ST0}; {_full('rcx')}"
_TWO: Final = f"{_ST0}; {_ST1}; {_full('rcx')}; {_full('rsi')}"
_BOTH: Final = f"fld {_OTHER}; fld {_REG}"
_TO_OTHER_AND_POP: Final = f"""
    fstp {_OTHER}
    mov ecx, {_TOP}
    mov {_tag("rcx")}, 1
    inc ecx
    and ecx, 7
    mov {_TOP}, ecx
"""
_POP_IN: Final = {"add": "faddp", "mul": "fmulp", "sub": "fsubp", "subr": "fsubrp", "div": "fdivp", "divr": "fdivrp"}
"""ST(1) op= ST(0), and pop."""


def _with_operand(pop_in: str, from_memory: str, operands: str) -> str:
    """ST(0) and the second operand, each width of which has an instruction of its own: a denormal or a signalling NaN
    is what it was in memory."""
    return f"""
        cmp dword ptr [r8 + {Cell.KIND:d}], 1
        je single
        ja double
        {operands}
        {pop_in}
        jmp computed
    single:
        fld {_REG}
        {from_memory} dword ptr [r8 + {Cell.OPERAND:d}]
        jmp computed
    double:
        fld {_REG}
        {from_memory} qword ptr [r8 + {Cell.OPERAND:d}]
    computed:
    """


_WITH_OPERAND: Final = f"{_IN_PLACE}; cmp dword ptr [r8 + {Cell.IS_EMPTY:d}], 0; jne fault"
_OPERAND_LAST: Final = f"fld {_REG}; fld {_OPERAND}"
_OPERAND_FIRST: Final = f"fld {_OPERAND}; fld {_REG}"


def _arithmetic() -> dict[str, str]:
    made = {}
    for name, pop_in in _POP_IN.items():
        made[f"f{name}_ST0_FT0"] = _run(_WITH_OPERAND, _with_operand(pop_in, f"f{name}", _OPERAND_LAST), _STORE)
        made[f"f{name}_STN_ST0"] = _run(
            f"{_ST0}; {_STN}; {_full('rcx')}; {_full('rsi')}", f"{_BOTH}; {pop_in}", f"fstp {_OTHER}"
        )
    return made


def _comparisons() -> dict[str, str]:
    into_flags = f"and esi, {ARITHMETIC:d}; mov qword ptr [rdi + {8 * hw.Q_CC_SRC}], rsi"
    made = {
        "fcom_ST0_FT0": _run(_WITH_OPERAND, _with_operand("fcompp", "fcomp", _OPERAND_FIRST), "", _CONDITIONS),
        "fucom_ST0_FT0": _run(_WITH_OPERAND, f"{_OPERAND_FIRST}; fucompp", "", _CONDITIONS),
    }
    for name in ("fcomi", "fucomi"):
        compare = f"{_OPERAND_FIRST}; {name} st, st(1); pushfq; pop rsi; fstp st(0); fstp st(0)"
        made[f"{name}_ST0_FT0"] = _run(_WITH_OPERAND, compare, into_flags)
    return made


def _operands() -> dict[str, str]:
    """Loads of the second operand."""
    kept = f"mov dword ptr [r8 + {Cell.KIND:d}], {{kind}}; mov dword ptr [r8 + {Cell.IS_EMPTY:d}], 0; ret"
    extended, operand = kept.format(kind=0), f"qword ptr [r8 + {Cell.OPERAND:d}]"
    return {
        "flds_FT0": f"{CELLS}; mov {operand}, rsi; {kept.format(kind=1)}",
        "fldl_FT0": f"{CELLS}; mov {operand}, rsi; {kept.format(kind=2)}",
        "fildl_FT0": f"{CELLS}; mov {_VALUE}, rsi; fild dword ptr {_VALUE}; fstp {_OPERAND}; {extended}",
        "fldz_FT0": f"{CELLS}; fldz; fstp {_OPERAND}; {extended}",
        "fmov_FT0_STN": f"""
            {_ST0}
            {_STN}
            movzx eax, {_tag("rsi")}
            mov dword ptr [r8 + {Cell.IS_EMPTY:d}], eax
            mov dword ptr [r8 + {Cell.KIND:d}], 0
            shl esi, 4
            fld {_OTHER}
            fstp {_OPERAND}
            ret
        """,
    }


def _loads_and_stores() -> dict[str, str]:
    made = {}
    pushed = f"{_PUSH}; shl ecx, 4; fstp {_REG}"
    for name, load in {"flds": "fld dword", "fldl": "fld qword", "fildl": "fild dword", "fildll": "fild qword"}.items():
        start = f"{_ST0}; mov {_VALUE}, rsi; {_NEXT}; {_free('rcx')}"
        store = f"shr ecx, 4; {pushed}"
        made[f"{name}_ST0"] = _run(start, f"{load} ptr {_VALUE}", store)
    stores = {"fsts": "fstp dword", "fstl": "fstp qword", "fist": "fistp word", "fistl": "fistp dword"}
    for name, store in (stores | {"fistll": "fistp qword"}).items():
        made[f"{name}_ST0"] = _run(
            _IN_PLACE, f"fld {_REG}; {store} ptr {_VALUE}", "", answer=f"mov rax, qword ptr {_VALUE}"
        )
    made["fldt_ST0"] = _checked(f"{_ST0}; {_NEXT}; {_free('rcx')}", f"{_CLEAR_C1}; {ONWARD}")
    made["fstt_ST0"] = _checked(_IN_PLACE, f"{_CLEAR_C1}; {ONWARD}")
    for name in ("fbld_ST0", "fbst_ST0"):
        made[name] = f"{_IS_TRAPPED}; jne leave; {ONWARD}; {_LEAVE}"
    return made


def _moves() -> dict[str, str]:
    return {
        "fincstp": f"{_ST0}; inc ecx; and ecx, 7; mov {_TOP}, ecx; {_CLEAR_C1}; ret",
        "fdecstp": f"{_ST0}; {_NEXT}; mov {_TOP}, ecx; {_CLEAR_C1}; ret",
        "fpush": _checked(
            f"{_ST0}; {_NEXT}; {_free('rcx')}",
            f"{_PUSH}; {_CLEAR_C1}; mov dword ptr [r8 + {Cell.PUSHED:d}], 1; ret",
        ),
        # FLD ST(i), behind a push that has to be undone, or FCMOVcc. FLD ST(7) finds what it has pushed: it was empty.
        "fmov_ST0_STN": f"""
            {_ST0}
            {_STN}
            {_full("rsi")}
            {_full("rcx")}
            cmp dword ptr [r8 + {Cell.PUSHED:d}], 0
            je begin
            cmp ecx, esi
            je fault
        begin:
            {_TIMES_16}
            fld {_OTHER}
            fstp {_REG}
            mov dword ptr [r8 + {Cell.PUSHED:d}], 0
            ret
        fault:
            {_IS_TRAPPED}
            je begin
            cmp dword ptr [r8 + {Cell.PUSHED:d}], 0
            je leave
            mov dword ptr [r8 + {Cell.PUSHED:d}], 0
            mov {_tag("rcx")}, 1
            inc ecx
            and ecx, 7
            mov {_TOP}, ecx
            {_LEAVE}
        """,
        "fmov_STN_ST0": _checked(
            _IN_PLACE, f"{_STN}; mov {_tag('rsi')}, 0; {_TIMES_16}; fld {_REG}; fstp {_OTHER}; {_CLEAR_C1}; ret"
        ),
        "fxchg_ST0_STN": _checked(
            f"{_ST0}; {_STN}; {_full('rcx')}; {_full('rsi')}",
            f"{_TIMES_16}; fld {_OTHER}; fld {_REG}; fstp {_OTHER}; fstp {_REG}; {_CLEAR_C1}; ret",
        ),
    }


def _functions() -> dict[str, str]:
    made = {}
    for name in ("f2xm1", "fsqrt", "frndint"):
        made[name] = _run(_IN_PLACE, f"fld {_REG}; {name}", _STORE)
    for name in ("fsin", "fcos"):
        made[name] = _run(_IN_PLACE, f"fld {_REG}; {name}", _STORE, _C1_C2)
    for name in ("fyl2x", "fyl2xp1", "fpatan"):
        made[name] = _run(_TWO, f"{_BOTH}; {name}", _TO_OTHER_AND_POP)
    made["fscale"] = _run(_TWO, f"{_BOTH}; fscale", f"{_STORE}; fstp st(0)")
    remainder = f"""
        {_STORE}
        fstp st(0)
        movzx edx, word ptr [rdi + rcx + {hw.FPU_REGISTERS + 8}]
        not edx
        test edx, {_EXPONENT}
        jne number
        mov edx, r11d
        and edx, {_CONDITIONS ^ _C1}
        and eax, {_C1}
        or eax, edx
    number:
    """  # a NaN says nothing of a quotient, and conditions stay
    for name in ("fprem", "fprem1"):
        made[name] = _run(_TWO, f"{_BOTH}; {name}", remainder, _CONDITIONS)
    two_results = f"{_ST0}; lea esi, [rcx - 1]; and esi, 7; {_full('rcx')}; {_free('rsi')}"
    push_other = f"shr esi, 4; mov {_TOP}, esi; mov {_tag('rsi')}, 0; shl esi, 4; fstp {_OTHER}"
    made["fxtract"] = _run(two_results, f"fld {_REG}; fxtract", f"{push_other}; {_STORE}")
    for name in ("fptan", "fsincos"):
        store = f"test eax, {_C2}; jne partial; {push_other}; partial: {_STORE}"
        made[name] = _run(two_results, f"fld {_REG}; {name}", store, _C1_C2)
    for name in ("fld1", "fldl2t", "fldl2e", "fldpi", "fldlg2", "fldln2", "fldz"):
        made[f"{name}_ST0"] = _run(_ST0, name, f"{_STORE}; mov dword ptr [r8 + {Cell.PUSHED:d}], 0")
    for name, change in {"fchs": "xor", "fabs": "and"}.items():
        sign = f"byte ptr [rdi + rcx + {hw.FPU_REGISTERS + 9}]"
        made[f"{name}_ST0"] = _checked(
            _IN_PLACE, f"shl ecx, 4; {change} {sign}, {0x80 if change == 'xor' else 0x7F}; {_CLEAR_C1}; ret"
        )
    made["fxam_ST0"] = f"""
        {_ST0}
        mov r10d, ecx
        shl ecx, 4
        fld {_REG}
        fxam
        fnstsw ax
        fstp st(0)
        and eax, {_CONDITIONS}
        cmp {_tag("r10")}, 0
        je full
        and eax, {_C1}
        or eax, {_EMPTY}
    full:
        and {_STATUS}, {_WORD ^ _CONDITIONS}
        or {_STATUS}, ax
        ret
    """
    return made


def _state() -> dict[str, str]:
    """An error waits if the control word lets one through that the status word has."""
    waiting = f"movzx ecx, {_CONTROL}; not ecx; movzx eax, {_STATUS}; and ecx, eax; and ecx, {_ERRORS}"
    return {
        "fwait": f"""
            {waiting}
            jne waits
            and {_STATUS}, {_WORD ^ _SUMMARY_AND_BUSY}
            ret
        waits:
            {_IS_TRAPPED}
            jne leave
            or {_STATUS}, {_SUMMARY_AND_BUSY}
            {ONWARD}
            {_LEAVE}
        """,
        "fnstcw": f"movzx eax, {_CONTROL}; and eax, {CONTROL_BITS}; or eax, {CONTROL_ONES}; ret",
        "fnstsw": f"""
            {waiting}
            mov edx, {_TOP}
            lea ecx, [rcx - 1]
            not ecx
            sar ecx, 31
            and ecx, {_SUMMARY_AND_BUSY}
            and eax, {_WORD ^ _SUMMARY_AND_BUSY ^ _TOP_BITS}
            or eax, ecx
            shl edx, 11
            or eax, edx
            ret
        """,
    }


HELPERS: Final[Mapping[str, str]] = (
    _arithmetic() | _comparisons() | _operands() | _loads_and_stores() | _moves() | _functions() | _state()
)
"""Assembly text by the helper's name. It is jumped to as the helper would be, by translated code."""

CARRY_OUT_MARK: Final = 0x9090
CARRY_OUT: Final = f"""
    push rbx
    mov rbx, rdx
    frstor [rdi]
    mov rax, [rbx + 8]
    push qword ptr [rbx]
    popfq
    .byte {CARRY_OUT_MARK & 0xFF}, {CARRY_OUT_MARK >> 8}
    pushfq
    pop qword ptr [rbx]
    mov [rbx + 8], rax
    fnsave [rdi]
    pop rbx
    ret
"""
"""void (image, operand, cells): load the image of FNSAVE, execute two bytes whose operand is at RSI, and store the
image again. The cells are RFLAGS and RAX, before and afterwards."""
