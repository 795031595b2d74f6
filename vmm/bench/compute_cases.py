"""Programs that calculate, each in ring 0 and in ring 3. A round of each is a whole piece of work, some ten thousand
instructions or more; its first round must find what is computed here, or by the host from the same source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from typing import Final

from vmm.arch.layout import MASK32
from vmm.bench.c_programs import compile_for_guest, result_on_the_host
from vmm.bench.case import Case
from vmm.bench.image import PROGRAMS

RING3: Final = "-ring3"
_PROGRAM_SIZE: Final = 0x8000
_C: Final = {"sha256": PROGRAMS, "integer": PROGRAMS + _PROGRAM_SIZE}
"""Where the C programs lie."""


# --- what the programs must find -----------------------------------------------------------------------

_LOOP: Final = 10_000
_WORDS: Final = 1024


def alu_result() -> int:
    """x' = (5x + 1) ^ (x' >> 7), from 0."""
    x = 0
    for _ in range(_LOOP):
        x = 5 * x + 1 & MASK32
        x ^= x >> 7
    return x


def loop_result() -> int:
    """The sum of the words after x = 5x + 1 was added to one after the other, from zeros."""
    x = total = 0
    for _ in range(_LOOP):
        x = 5 * x + 1 & MASK32
        total += x
    return total & MASK32


def count_primes(limit: int) -> int:
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

_ALU: Final = f"""
    xor eax, eax
    mov ecx, {_LOOP}
1:  lea eax, [eax + eax*4 + 1]
    mov edx, eax
    shr edx, 7
    xor eax, edx
    dec ecx
    jnz 1b
"""

_MEMORY: Final = f"""
    mov ebx, DATA
    mov ecx, {_LOOP}
    xor esi, esi
1:  mov eax, dword ptr [ebx + esi*4]
    mov edx, dword ptr [ebx + esi*4 + 4]
    mov dword ptr [ebx + esi*4 + 0x2000], edx
    mov dword ptr [ebx + esi*4 + 0x2004], eax
    inc esi
    and esi, 0x3FF
    dec ecx
    jnz 1b
    mov eax, esi
"""

_CLEAR: Final = f"""
    mov edi, DATA
    mov ecx, {_WORDS}
    xor eax, eax
    cld
    rep stosd
"""

_LOOP_TEXT: Final = f"""
{_CLEAR}
    mov ebx, DATA
    xor esi, esi
    mov ecx, {_LOOP}
1:  lea eax, [eax + eax*4 + 1]
    mov edx, dword ptr [ebx + esi*4]
    add edx, eax
    mov dword ptr [ebx + esi*4], edx
    inc esi
    and esi, 0x3FF
    dec ecx
    jnz 1b
    xor eax, eax
    mov ecx, {_WORDS}
2:  add eax, dword ptr [ebx + ecx*4 - 4]
    dec ecx
    jnz 2b
"""

_SIEVE_BYTES: Final = 1 << 18
_SIEVE: Final = f"""
    mov edi, DATA
    mov ecx, {_SIEVE_BYTES // 4}
    xor eax, eax
    cld
    rep stosd
    mov esi, 2
1:  cmp byte ptr [esi + DATA], 0
    jne 3f
    mov edx, esi
    imul edx, esi
2:  mov byte ptr [edx + DATA], 1
    add edx, esi
    cmp edx, {_SIEVE_BYTES}
    jb 2b
3:  inc esi
    cmp esi, {isqrt(_SIEVE_BYTES)}
    jb 1b
    mov esi, 2
4:  cmp byte ptr [esi + DATA], 1
    adc eax, 0
    inc esi
    cmp esi, {_SIEVE_BYTES}
    jb 4b
"""

_FIBONACCI_OF: Final = 20
_FIBONACCI: Final = """
{name}:
    cmp ecx, 2
    jb 1f
    push ecx
    dec ecx
    call {name}
    pop ecx
    push eax
    sub ecx, 2
    call {name}
    pop edx
    add eax, edx
    ret
1:  mov eax, ecx
    ret
"""

_CALLS: Final = """
    xor eax, eax
    mov ecx, 2000
1:  call {name}_leaf
    call {name}_middle
    call {name}_leaf
    dec ecx
    jnz 1b
"""
_CALLED: Final = """
{name}_middle:
    call {name}_leaf
    add eax, 2
    ret
{name}_leaf:
    inc eax
    ret
"""

_INDIRECT: Final = """
    xor eax, eax
    mov ecx, 4000
1:  mov edx, ecx
    and edx, 3
    call dword ptr [edx*4 + {name}_table]
    dec ecx
    jnz 1b
"""
_TARGETS: Final = """
{name}_one:
    add eax, 1
    ret
{name}_two:
    add eax, 2
    ret
{name}_three:
    add eax, 3
    ret
{name}_four:
    add eax, 4
    ret
.align 4
{name}_table:
    .long {name}_one, {name}_two, {name}_three, {name}_four
"""

_MEMCPY: Final = """
    mov esi, DATA
    mov edi, DATA + 0x100000
    mov ecx, 0x4000
    cld
    rep movsd
    mov eax, ecx
"""

_FPU: Final = """
    fld1
    fld1
    mov ecx, 2000
1:  fld st(0)
    fmul st, st(2)
    fadd st, st(1)
    fsqrt
    fstp st(1)
    dec ecx
    jnz 1b
    fstp st(0)
    fstp st(0)
    mov eax, ecx
"""

_SSE2: Final = """
    mov ebx, DATA
    mov eax, 3
    .byte 0x66, 0x0F, 0x6E, 0xC0        # movd xmm0, eax
    .byte 0x66, 0x0F, 0x70, 0xC0, 0     # pshufd xmm0, xmm0, 0
    .byte 0x66, 0x0F, 0xEF, 0xC9        # pxor xmm1, xmm1
    mov ecx, 2000
1:  .byte 0xF3, 0x0F, 0x6F, 0x13        # movdqu xmm2, [ebx]
    .byte 0x66, 0x0F, 0xFE, 0xC8        # paddd xmm1, xmm0
    .byte 0x66, 0x0F, 0xEF, 0xD1        # pxor xmm2, xmm1
    .byte 0x66, 0x0F, 0x59, 0xD8        # mulpd xmm3, xmm0
    .byte 0xF3, 0x0F, 0x7F, 0x53, 0x40  # movdqu [ebx + 40h], xmm2
    dec ecx
    jnz 1b
    .byte 0x66, 0x0F, 0x7E, 0xC8        # movd eax, xmm1
"""
"""Encoded by hand: the assembler takes the prefix that belongs to an SSE opcode for one of operand size."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A case but for its ring; `{name}` in the texts makes labels that differ from those of the other ring's."""

    case: Case

    def in_ring(self, ring: int) -> Case:
        """The case for a ring: its name and its labels say which."""
        name = self.case.name + (RING3 if ring else "")
        label = f"{self.case.name}_{ring}"
        body, routines = (text.replace("{name}", label) for text in (self.case.body, self.case.routines))
        return replace(self.case, name=name, body=body, routines=routines, ring=ring, repeat=1)


_WORKS: Final = tuple(
    _Work(case)
    for case in (
        Case("alu", "arithmetic in registers", _ALU, expected=alu_result),
        Case("memory", "loads and stores over 4 KiB", _MEMORY, expected=lambda: _LOOP % _WORDS),
        Case("loop", "load, ALU, store", _LOOP_TEXT, expected=loop_result),
        Case("sieve", "sieve over 256 KiB", _SIEVE, expected=partial(count_primes, _SIEVE_BYTES)),
        Case(
            "fibonacci", "recursive Fibonacci", f"mov ecx, {_FIBONACCI_OF}\ncall {{name}}", routines=_FIBONACCI,
            expected=partial(fibonacci, _FIBONACCI_OF),
        ),
        Case("calls", "a leaf with four callers", _CALLS, routines=_CALLED, expected=lambda: 10_000),
        Case("indirect", "calls through a table of four", _INDIRECT, routines=_TARGETS, expected=lambda: 10_000),
        Case("memcpy", "64 KiB by REP MOVSD", _MEMCPY, expected=lambda: 0),
        Case("fpu", "x87: multiply, add, square root", _FPU, expected=lambda: 0),
        Case("sse2", "SSE2: integers and doubles", _SSE2, expected=lambda: 6000),
    )
)  # fmt: skip
_C_WORKS: Final = {"sha256": "SHA-256 of 4 KiB, in C", "integer": "list, matrix, scanner, checksum, in C"}


def cases() -> tuple[Case, ...]:
    """All of them that need no compiler, ring 0 before ring 3."""
    return tuple(work.in_ring(ring) for work in _WORKS for ring in (0, 3))


def c_cases() -> tuple[Case, ...]:
    """Those in C."""
    return tuple(
        _Work(Case(name, what, f"call {_C[name]:#x}", expected=partial(result_on_the_host, name))).in_ring(ring)
        for name, what in _C_WORKS.items()
        for ring in (0, 3)
    )


def programs(chosen: Sequence[Case]) -> Mapping[int, bytes]:
    """The machine code that cases call, by address. Raises: CompilerError."""
    names = {case.name.removesuffix(RING3) for case in chosen} & _C.keys()
    return {_C[name]: compile_for_guest(name, _C[name]) for name in sorted(names)}
