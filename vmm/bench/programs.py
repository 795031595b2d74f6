"""Guest programs for measuring: machine code that does some work, checks its own result, and says so in AL.

Each is assembled for address `ORIGIN` (real mode: `REAL_ORIGIN`), uses memory from `DATA` on, and ends in `out 0xF4,
al`:
under the monitor that is the exit port; on a bare engine the run stops just before it. AL is 0 when the result was
right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Final

from bt.assemble import assemble
from vmm.arch.layout import MASK32

ORIGIN: Final = 0x10_0000
REAL_ORIGIN: Final = 0x7C00
EXIT: Final = bytes([0xE6, 0xF4])  # out 0xF4, al


@dataclass(frozen=True, slots=True)
class Program:
    """One program. `text` has the fields {size} and {expected}; `expect(size)` is the value it must find in EAX (or
    AX).

    `bar` is the largest time, as a share of the bare engine's, that the project promises; None where it promises
    nothing.
    """

    name: str
    what: str
    text: str
    size: int
    expect: Callable[[int], int]
    bar: float | None = None
    code32: bool = True

    @property
    def origin(self) -> int:
        """Where it is loaded and entered."""
        return ORIGIN if self.code32 else REAL_ORIGIN

    def build(self, size: int) -> bytes:
        """Machine code for one amount of work. The last instructions are the verdict, the exit and a halt."""
        mask = MASK32 if self.code32 else 0xFFFF
        text = self.text.format(size=size, expected=self.expect(size) & mask, result="eax" if self.code32 else "ax")
        return assemble(text, self.code32) + _VERDICT + EXIT + b"\xf4"


_VERDICT: Final = b"\x0f\x95\xc0"  # setne al, after the CMP that each text ends with
_CHECK: Final = "cmp {result}, {expected}"


# --- what the programs must find -----------------------------------------------------------------------

_Matrix = tuple[tuple[int, int, int], ...]
_COMPUTE_STEP: Final[_Matrix] = ((5, 0, 1), (5, 1, 1), (0, 0, 1))
"""x' = 5x + 1, sum' = sum + x', on the vector (x, sum, 1)."""


def _product(a: _Matrix, b: _Matrix) -> _Matrix:
    columns = tuple(zip(*b, strict=True))
    return tuple((_dot(row, columns[0]), _dot(row, columns[1]), _dot(row, columns[2])) for row in a)


def _dot(row: tuple[int, ...], column: tuple[int, ...]) -> int:
    return sum(x * y for x, y in zip(row, column, strict=True)) & MASK32


def sum_of_sequence(size: int) -> int:
    """x1 + .. + x_size modulo 2^32, for x0 = 0, x' = 5x + 1: a power of a matrix, so that no loop runs here."""
    power: _Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    square = _COMPUTE_STEP
    while size:
        if size & 1:
            power = _product(power, square)
        square = _product(square, square)
        size >>= 1
    return power[1][2]


SIEVE_BYTES: Final = 1 << 20


def count_primes(limit: int = SIEVE_BYTES) -> int:
    """How many primes are below `limit`."""
    composite = bytearray(limit)
    composite[:2] = b"\1\1"
    for number in range(2, isqrt(limit - 1) + 1):
        if not composite[number]:
            composite[number * number :: number] = b"\1" * len(range(number * number, limit, number))
    return composite.count(0)


def fibonacci(n: int) -> int:
    """F(n), F(0) = 0, F(1) = 1."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


# --- the programs --------------------------------------------------------------------------------------

_COMPUTE: Final = """
    mov ebx, 0x200000
    xor eax, eax
    xor esi, esi
    mov ecx, {size}
next:
    lea eax, [eax + eax*4 + 1]
    mov edx, [ebx + esi*4]
    add edx, eax
    mov [ebx + esi*4], edx
    inc esi
    and esi, 0x3ff
    dec ecx
    jne next
    xor eax, eax
    mov ecx, 0x400
total:
    add eax, [ebx + ecx*4 - 4]
    dec ecx
    jne total
"""

_SIEVE: Final = """
    mov ebx, {size}
round:
    mov edi, 0x200000
    mov ecx, 0x40000
    xor eax, eax
    cld
    rep stosd
    mov esi, 2
number:
    cmp byte ptr [esi + 0x200000], 0
    jne composite
    mov edx, esi
    imul edx, esi
strike:
    mov byte ptr [edx + 0x200000], 1
    add edx, esi
    cmp edx, 0x100000
    jb strike
composite:
    inc esi
    cmp esi, 0x400
    jb number
    xor eax, eax
    mov esi, 2
count:
    cmp byte ptr [esi + 0x200000], 1
    adc eax, 0
    inc esi
    cmp esi, 0x100000
    jb count
    dec ebx
    jne round
"""

_FIBONACCI: Final = """
    mov esp, 0x200000
    mov ecx, {size}
    call fib
    jmp done
fib:
    cmp ecx, 2
    jb small
    push ecx
    dec ecx
    call fib
    pop ecx
    push eax
    sub ecx, 2
    call fib
    pop edx
    add eax, edx
    ret
small:
    mov eax, ecx
    ret
done:
"""

_CALLS: Final = """
    mov esp, 0x200000
    mov ecx, {size}
    xor eax, eax
next:
    call leaf
    call middle
    call leaf
    dec ecx
    jne next
    jmp done
middle:
    call leaf
    add eax, 2
    ret
leaf:
    inc eax
    ret
done:
"""

_INDIRECT: Final = """
    mov esp, 0x200000
    mov ecx, {size}
    xor eax, eax
    lea edx, [one + 0x100000]
    mov [0x200000], edx
    lea edx, [two + 0x100000]
    mov [0x200004], edx
    lea edx, [three + 0x100000]
    mov [0x200008], edx
    lea edx, [four + 0x100000]
    mov [0x20000c], edx
next:
    mov edx, ecx
    and edx, 3
    call dword ptr [edx*4 + 0x200000]
    dec ecx
    jne next
    jmp done
one:
    add eax, 1
    ret
two:
    add eax, 2
    ret
three:
    add eax, 3
    ret
four:
    add eax, 4
    ret
done:
"""

_FLAGS: Final = """
    mov esp, 0x200000
    mov ecx, {size}
    xor eax, eax
next:
    pushfd
    cli
    inc eax
    popfd
    dec ecx
    jne next
"""

_REAL: Final = """
    xor ax, ax
    mov ss, ax
    mov sp, 0x7000
    mov ax, 0x2000
    mov ds, ax
    xor ax, ax
    mov dx, {size}
round:
    mov cx, 0
next:
    mov bx, cx
    and bx, 0xffe
    inc word ptr [bx]
    call leaf
    loop next
    dec dx
    jne round
    jmp done
leaf:
    push ds
    pop es
    inc ax
    ret
done:
"""

_FRAMES: Final = """
    xor ax, ax
    mov ss, ax
    mov sp, 0x7000
    mov dx, {size}
round:
    mov cx, 0x400
next:
    push cx
    push dx
    call middle
    add sp, 4
    loop next
    dec dx
    jne round
    jmp done
middle:
    push bp
    mov bp, sp
    sub sp, 4
    mov bx, [bp + 4]
    mov [bp - 2], bx
    add bx, [bp + 6]
    mov [bp - 4], bx
    mov bx, [bp - 2]
    cmp bx, [bp + 4]
    jne skip
    inc ax
skip:
    mov sp, bp
    pop bp
    ret
done:
"""
"""What a compiler makes of procedures in 16-bit code: arguments and variables in words of the stack."""

_STRINGS: Final = """
    mov ax, 0x2000
    mov ds, ax
    mov es, ax
    cld
    mov dx, {size}
    xor ax, ax
round:
    xor di, di
    mov cx, 0x100
    mov ax, dx
    rep stosw
    xor si, si
    mov di, 0x400
    mov cx, 0x100
copy:
    lodsw
    stosw
    loop copy
    xor si, si
    mov di, 0x800
    mov cx, 0x80
    .byte 0xf3, 0x66, 0xa5
    dec dx
    jne round
    mov ax, [0x9fe]
"""

_ALL: Final = (
    Program("compute", "load, store and ALU loop over 4 KiB", _COMPUTE + _CHECK, 20_000_000, sum_of_sequence, 0.5),
    Program("sieve", "sieve over 1 MiB", _SIEVE + _CHECK, 10, lambda _rounds: count_primes(), 0.5),
    Program("fibonacci", "recursive Fibonacci", _FIBONACCI + _CHECK, 31, fibonacci, 0.8),
    Program("calls", "CALL and RET, leaf with four callers", _CALLS + _CHECK, 2_000_000, lambda n: 5 * n),
    Program("indirect", "CALL through a table of four", _INDIRECT + _CHECK, 4_000_000, lambda n: 10 * (n // 4)),
    Program("flags", "PUSHFD, CLI, POPFD", _FLAGS + _CHECK, 4_000_000, lambda n: n),
    Program("frames", "16-bit procedures with frames", _FRAMES + _CHECK, 600, lambda n: n << 10, None, False),
    Program("strings", "16-bit string instructions", _STRINGS + _CHECK, 10_000, lambda _n: 1, None, False),
    Program("real", "16-bit loop with calls and segment loads", _REAL + _CHECK, 60, lambda n: n << 16, None, False),
)
PROGRAMS: Final[Mapping[str, Program]] = {program.name: program for program in _ALL}
