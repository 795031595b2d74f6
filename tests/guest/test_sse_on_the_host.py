"""SSE arithmetic from random operands: what the guest gets is what the host's own instruction gives."""

import ctypes
import mmap
import random
import struct
from functools import cache

import pytest
from guest_bench import DATA, P32, PE, little

from bt.assemble import assemble_for_host
from vmm.arch.exceptions import Vector
from vmm.arch.registers import ARITHMETIC, Cr0, Cr4
from vmm.hw import state as hw
from vmm.hw.host_fpu import AVAILABLE

ET_NE = int(Cr0.ET | Cr0.NE)
SSE = int(Cr4.OSFXSR | Cr4.OSXMMEXCPT)
MXCSR, RESULT, SOURCE = 0x200, 0x210, 0x220  # offsets from DATA
DEFAULT, ERRORS, BEFORE_ROUNDING = 0x1F80, 0x3F, 7
EAX = 0x1234_5678

SINGLES = [0, 1, 0x3F80_0000, 0x7F80_0000, 0x7FC0_0000, 0x7F80_0001, 0x40_0000, 0x8000_0000, 0xC2C8_0000, 0x7F7F_FFFF,
           0x0080_0000, 0x4F00_0000, 0x3EAA_AAAB]  # fmt: skip
DOUBLES = [0, 1, 0x3FF0 << 48, 0x7FF0 << 48, 0x7FF8 << 48, (0x7FF0 << 48) + 1, 0x000F << 48, 0x8000 << 48, 0x40C0 << 48,
           0x7FEF_FFFF_FFFF_FFFF, 0x10 << 48, 0x41E0 << 48, 0x3FD5_5555_5555_5555, 0x47F0 << 48, 0x3680 << 48]  # fmt: skip

KINDS = ("ps", "pd", "ss", "sd")
FORMS = [
    *[f"{name}{kind} xmm0, xmm1" for name in ("add", "sub", "mul", "div", "min", "max", "sqrt") for kind in KINDS],
    *[f"cmp{kind} xmm0, xmm1, {predicate}" for kind in KINDS for predicate in range(8)],
    *[f"{name} xmm0, xmm1" for name in ("comiss", "comisd", "ucomiss", "ucomisd")],
    *[f"cvt{name} xmm0, xmm1" for name in "ps2pd pd2ps dq2ps dq2pd ps2dq pd2dq tps2dq tpd2dq ss2sd sd2ss".split()],
    *[f"cvt{name} eax, xmm1" for name in "ss2si sd2si tss2si tsd2si".split()],
    *[f"cvt{name} xmm0, eax" for name in "si2ss si2sd".split()],
    *[f"cvt{name} xmm0, mm1" for name in "pi2ps pi2pd".split()],
    *[f"cvt{name} mm0, xmm1" for name in "ps2pi tps2pi pd2pi tpd2pi".split()],
]


class Cells(ctypes.Structure):
    """What `on_the_host` gives to host code and takes from it."""

    _fields_ = (
        ("result", ctypes.c_char * 16),
        ("source", ctypes.c_char * 16),
        ("mxcsr", ctypes.c_uint32),
        ("default", ctypes.c_uint32),
        ("eax", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("mmx", ctypes.c_uint64),
    )


@cache
def host_code(instruction: str) -> tuple[mmap.mmap, object]:
    mm0 = "movq qword ptr [rdi + 56], mm0; emms" if "mm0, xmm1" in instruction.replace("xmm0", "") else ""
    mm1 = "movq mm1, qword ptr [rdi + 16];" if " mm1" in instruction else ""
    text = f"""
        {mm1}
        ldmxcsr [rdi + 32]; movups xmm0, [rdi]; movups xmm1, [rdi + 16]; mov eax, [rdi + 40]
        push qword ptr [rdi + 48]; popfq
        {instruction}
        pushfq; pop qword ptr [rdi + 48]
        mov [rdi + 40], rax; movups [rdi], xmm0; stmxcsr [rdi + 32]; ldmxcsr [rdi + 36]
        {mm0}
        {"emms" if mm1 else ""}
        ret
    """
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(assemble_for_host(text))
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(start)


def on_the_host(instruction: str, result: bytes, source: bytes, mxcsr: int, flags: int) -> tuple[bytes, int, int, int]:
    """The result register, MXCSR, EAX and arithmetic flags of an instruction whose errors are masked."""
    cells = Cells(mxcsr=mxcsr, default=DEFAULT, eax=EAX, flags=flags)
    ctypes.memmove(ctypes.addressof(cells), result + source, 32)
    host_code(instruction)[1](ctypes.addressof(cells))  # type: ignore[operator]
    after = ctypes.string_at(ctypes.addressof(cells), 16)
    if " mm0" in instruction:
        after = cells.mmx.to_bytes(8, "little") + result[8:]
    return after, cells.mxcsr, cells.eax & 0xFFFF_FFFF, cells.flags & ARITHMETIC


def numbers(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return struct.pack(
            "<4I", *(rng.choice(SINGLES) if rng.random() < 0.8 else rng.getrandbits(32) for _ in range(4))
        )
    return struct.pack("<2Q", *(rng.choice(DOUBLES) if rng.random() < 0.8 else rng.getrandbits(64) for _ in range(2)))


def control(rng: random.Random) -> int:
    masks = rng.choice((0x3F, 0x3F, rng.randrange(64)))
    return masks << 7 | rng.choice((0, 0x40)) | rng.choice((0, 0x8000)) | rng.randrange(4) << 13 | rng.randrange(64)


def expected(instruction: str, before: bytes, source: bytes, mxcsr: int, flags: int) -> tuple[bool, object]:
    """Whether it is #XF, and result, MXCSR, EAX and flags."""
    result, after, eax, changed = on_the_host(instruction, before, source, mxcsr & ~ERRORS | DEFAULT, flags)
    errors = after & ERRORS
    unmasked = errors & ~(mxcsr >> 7)
    if not unmasked:
        return False, (result, mxcsr | errors, eax, changed)
    shown = errors & BEFORE_ROUNDING if unmasked & BEFORE_ROUNDING else errors
    return True, (before, mxcsr | shown, EAX, flags)


@pytest.mark.skipif(not AVAILABLE, reason="this build of the engine keeps its own helpers")
@pytest.mark.parametrize("instruction", FORMS)
def test_an_instruction_does_what_the_host_does(bench, instruction):
    rng = random.Random(instruction)
    cell = {name: f"[{DATA + at:#x}]" for name, at in (("mxcsr", MXCSR), ("result", RESULT), ("source", SOURCE))}
    mmx = f"movq mm0, {cell['result']}; movq mm1, {cell['source']};" if " mm" in instruction else ""
    load = f"{mmx} movups xmm0, {cell['result']}; movups xmm1, {cell['source']}; ldmxcsr {cell['mxcsr']}"
    keep = f"movq {cell['result']}, mm0" if " mm0" in instruction else f"movups {cell['result']}, xmm0"
    for _ in range(25):
        before, source, mxcsr, flags = numbers(rng), numbers(rng), control(rng), rng.getrandbits(12) & ARITHMETIC
        is_error, wanted = expected(instruction, before, source, mxcsr, flags)
        bench.start(P32[3], f"{load}; {instruction}; stmxcsr {cell['mxcsr']}; {keep}", cr0=PE | ET_NE, cr4=SSE,
                    eax=EAX, eflags=flags)  # fmt: skip
        bench.poke(DATA + MXCSR, little(mxcsr, 4))
        bench.poke(DATA + RESULT, before)
        bench.poke(DATA + SOURCE, source)
        after = bench.run()
        assert after.get("fault") == ((Vector.XF, None) if is_error else None)
        shown = bench.vcpu.state.d[hw.MXCSR >> 2] if is_error else bench.word(DATA + MXCSR)
        got = bench.peek(DATA + RESULT, 16), shown, after["eax"], after["eflags"] & ARITHMETIC
        assert got == wanted, (before.hex(), source.hex(), hex(mxcsr))
        bench.recycle()
