"""Host code that carries SSE and SSE2 arithmetic out on the host's own SSE unit, in the place of the engine's helpers.

The engine's own arithmetic knows no denormal operand, and tells nobody of the errors that it knows. The host's unit
computes with the guest's rounding, denormals-are-zeros and flush-to-zero, all errors masked, and its errors go into the
guest's MXCSR. Flags that the host has from earlier are left alone while the guest has them, too: where one is new, the
operation is done again with none. If the guest lets an error through, the destination stays, MXCSR shows the error, and
the run is left with `Trap.SIMD`; if the state does not ask for that trap, it goes on as if the error were masked.

RSI and RDX are the operands, R9 says whether the flags are this operation's own, R10 is the host's MXCSR, R11 the
guest's.

Limits: a tiny result that is exact is no underflow, as if that were masked.
Source: Intel SDM Vol. 1, "MXCSR Control and Status Register", "SSE and SSE2 SIMD Floating-Point Exceptions", "Handling
SIMD Floating-Point Exceptions in Software".
"""

from collections.abc import Mapping
from typing import Final

from vmm.arch.registers import ARITHMETIC
from vmm.hw import state as hw
from vmm.hw.host_code import CELLS, ONWARD, Cell, is_trapped, leave
from vmm.hw.traps import Trap

DEFAULT_MXCSR: Final = 0x1F80
_MXCSR: Final = f"dword ptr [rdi + {hw.MXCSR}]"
_MASKS_SHIFT: Final = 7
_ERRORS: Final = 0x3F
_CONTROL: Final = 0xE040  # flush-to-zero, rounding, denormals-are-zeros
_BEFORE_ROUNDING: Final = 0x07  # IE, DE and ZE are found before there is a result; then nothing else is looked for
_RESERVED: Final = 0xFFFF_0000


def _run(operation: str, store: str, undo: str = "") -> str:
    """An operation that can make errors. `store` takes its result; `undo` is for what came before it."""
    return f"""
        {CELLS}
        mov r11d, {_MXCSR}
        mov r10d, r11d
        and r10d, {_CONTROL}
        or r10d, {DEFAULT_MXCSR}
        mov ecx, r11d
        not ecx
        test ecx, {DEFAULT_MXCSR}
        jne set
        cmp r10d, {DEFAULT_MXCSR}
        jne set
        xor r9d, r9d
    again:
        {operation}
        stmxcsr dword ptr [r8 + {Cell.VALUE:d}]
        mov ecx, dword ptr [r8 + {Cell.VALUE:d}]
        and ecx, {_ERRORS}
        test r9d, r9d
        jne own
        mov r9d, r11d
        not r9d
        test ecx, r9d
        jne set
    commit:
        {store}
        cmp r10d, {DEFAULT_MXCSR}
        jne restore
        ret
    restore:
        ldmxcsr dword ptr [r8 + {Cell.DEFAULT_MXCSR:d}]
        ret
    set:
        mov dword ptr [r8 + {Cell.CONTROL:d}], r10d
        ldmxcsr dword ptr [r8 + {Cell.CONTROL:d}]
        mov r9d, 1
        jmp again
    own:
        mov r9d, r11d
        shr r9d, {_MASKS_SHIFT}
        not r9d
        and r9d, ecx
        jne unmasked
    merge:
        or r11d, ecx
        mov {_MXCSR}, r11d
        jmp commit
    unmasked:
        {is_trapped(Trap.SIMD)}
        je merge
        test r9d, {_BEFORE_ROUNDING}
        je show
        and ecx, {_BEFORE_ROUNDING}
    show:
        or r11d, ecx
        mov {_MXCSR}, r11d
        ldmxcsr dword ptr [r8 + {Cell.DEFAULT_MXCSR:d}]
        {undo}
        {leave(Trap.SIMD)}
    """


_LOAD: Final = "movups xmm1, [rdx]"
_LOAD_BOTH: Final = "movups xmm0, [rsi]; movups xmm1, [rdx]"
_STORE: Final = "movups [rsi], xmm0"
_LOW: Final = "movq xmm1, qword ptr [rdx]"
_STORE_LOW: Final = "movq qword ptr [rsi], xmm0"
_LEAVE_MMX: Final = f"""
        mov eax, dword ptr [r8 + {Cell.TOP:d}]
        mov dword ptr [rdi + {hw.FPU_TOP}], eax
        mov rax, qword ptr [r8 + {Cell.TAGS:d}]
        mov qword ptr [rdi + {hw.FPU_TAGS}], rax
"""


def _arithmetic() -> dict[str, str]:
    made = {}
    for operation in ("add", "sub", "mul", "div", "min", "max"):
        for kind in ("ps", "pd", "ss", "sd"):
            made[operation + kind] = _run(f"{_LOAD_BOTH}; {operation}{kind} xmm0, xmm1", _STORE)
    for kind in ("ps", "pd", "ss", "sd"):
        made[f"sqrt{kind}"] = _run(f"{_LOAD_BOTH}; sqrt{kind} xmm0, xmm1", _STORE)
        for number, predicate in enumerate(("eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord")):
            made[f"cmp{predicate}{kind}"] = _run(f"{_LOAD_BOTH}; cmp{kind} xmm0, xmm1, {number}", _STORE)
    return made


def _comparisons() -> dict[str, str]:
    into_flags = f"and eax, {ARITHMETIC:d}; mov qword ptr [rdi + {8 * hw.Q_CC_SRC}], rax"
    return {
        name: _run(f"{_LOAD_BOTH}; {name} xmm0, xmm1; pushfq; pop rax", into_flags)
        for name in ("comiss", "comisd", "ucomiss", "ucomisd")
    }


def _conversions() -> dict[str, str]:
    made = {}
    for name in ("cvtps2pd", "cvtpd2ps", "cvtdq2ps", "cvtdq2pd", "cvtps2dq", "cvtpd2dq", "cvttps2dq", "cvttpd2dq"):
        made[name] = _run(f"{_LOAD}; {name} xmm0, xmm1", _STORE)
    for name in ("cvtss2sd", "cvtsd2ss"):
        made[name] = _run(f"{_LOAD_BOTH}; {name} xmm0, xmm1", _STORE)
    for name in ("cvtsi2ss", "cvtsi2sd"):
        made[name] = _run(f"movups xmm0, [rsi]; {name} xmm0, edx", _STORE)
    for name in ("cvtss2si", "cvtsd2si", "cvttss2si", "cvttsd2si"):
        made[name] = _run(f"movups xmm1, [rsi]; {name} eax, xmm1", "")
    # MMX registers are the x87 FPU's, which the host uses: the same conversions between XMM registers
    made["cvtpi2ps"] = _run(f"{_LOW}; cvtdq2ps xmm0, xmm1", _STORE_LOW, _LEAVE_MMX)
    made["cvtpi2pd"] = _run(f"{_LOW}; cvtdq2pd xmm0, xmm1", _STORE)
    for name in ("cvtps2", "cvttps2"):
        made[f"{name}pi"] = _run(f"{_LOW}; {name}dq xmm0, xmm1", _STORE_LOW, _LEAVE_MMX)
    for name in ("cvtpd2", "cvttpd2"):
        made[f"{name}pi"] = _run(f"{_LOAD}; {name}dq xmm0, xmm1", _STORE_LOW, _LEAVE_MMX)
    return made


HELPERS: Final[Mapping[str, str]] = (
    _arithmetic()
    | _comparisons()
    | _conversions()
    | {
        "enter_mmx": f"""
            {CELLS}
            mov eax, dword ptr [rdi + {hw.FPU_TOP}]
            mov dword ptr [r8 + {Cell.TOP:d}], eax
            mov rax, qword ptr [rdi + {hw.FPU_TAGS}]
            mov qword ptr [r8 + {Cell.TAGS:d}], rax
            {ONWARD}
        """,
        "ldmxcsr": f"""
            test esi, {_RESERVED}
            je load
            {is_trapped(Trap.SIMD)}
            jne leave
        load:
            {ONWARD}
            {leave(Trap.SIMD)}
        """,
    }
)
"""Assembly text by the helper's name. It is jumped to as the helper would be, by translated code."""
