"""Every x87 instruction, from random states: what the guest stores with FNSAVE is what the host's FPU stores."""

import random
import struct

import pytest
from guest_bench import DATA, P16, P32, PE

from bt.accesses import accesses
from bt.decode import Decoder
from vmm.arch.exceptions import Vector
from vmm.arch.registers import ARITHMETIC, Cr0
from vmm.hw.host_fpu import AVAILABLE, carry_out

ET_NE = int(Cr0.ET | Cr0.NE)
STATE, OPERAND, AFTER = 0x200, 0x280, 0x300  # offsets from DATA
_EMPTY, _ERRORS = 3, 0x3F

_DENORMAL, _TINY, _ONE, _HUGE, _INFINITE = 0, 1, 0x3FFF, 0x7FFE, 0x7FFF
SIGNIFICANDS = [0, 1, 1 << 62, 1 << 63, (1 << 63) + 1, 3 << 62, (1 << 64) - 1, 0xC90F_DAA2_2168_C235]
EXPONENTS = [_DENORMAL, _TINY, 0x3C00, 0x3FBF, 0x3FFE, _ONE, 0x4000, 0x4005, 0x401E, 0x403E, 0x43FF, _HUGE, _INFINITE]
DOUBLES = [0, 1, 0x3FF0 << 48, 0x7FF0 << 48, 0x7FF8 << 48, (0x7FF0 << 48) + 1, 0x000F << 48, 0x8000 << 48, 0x40C0 << 48]
SINGLES = [0, 1, 0x3F80_0000, 0x7F80_0000, 0x7FC0_0000, 0x7F80_0001, 0x0040_0000, 0x8000_0000, 0xC2C8_0000]

# What does not exist, or belongs to all of the state: of these the figures of the manual are tested elsewhere.
_WHOLE_STATE = {(0xD9, 4), (0xD9, 6), (0xDD, 4), (0xDD, 6)}
_ALL_CONDITIONS = frozenset("fcom fcomp fcompp ficom ficomp fucom fucomp fucompp ftst fxam fprem fprem1".split())
_FOUR_FUNCTIONS = frozenset("fsin fcos fsincos fptan".split())
_DECODER = Decoder()


def forms() -> list[bytes]:
    """Opcode and ModR/M of all instructions of a P6, with an operand at [EBX] where it is one in memory."""
    found = []
    for opcode in range(0xD8, 0xE0):
        for modrm in (*(field << 3 | 3 for field in range(8)), *range(0xC0, 0x100)):
            insn = _DECODER.one(bytes([opcode, modrm]), 0, True)
            exists = insn is not None and insn.name[0] == "f" and not insn.name.startswith("fistt")
            if exists and not (modrm < 0xC0 and (opcode, modrm >> 3) in _WHOLE_STATE):
                found.append(bytes([opcode, modrm]))
    return found


def extended(rng: random.Random) -> bytes:
    exponent = rng.choice(EXPONENTS) | rng.randrange(2) << 15
    significand = rng.choice(SIGNIFICANDS) if rng.random() < 0.7 else rng.getrandbits(64)
    if rng.random() < 0.8 and exponent & 0x7FFF:
        significand |= 1 << 63  # a number as the FPU makes them
    return struct.pack("<QH", significand, exponent)


def operand(rng: random.Random, size: int) -> bytes:
    if size == 10:
        digits = bytes(rng.randrange(10) << 4 | rng.randrange(10) for _ in range(9))
        return digits + bytes([rng.choice((0, 0x80))]) if rng.random() < 0.5 else extended(rng)
    values = {4: SINGLES, 8: DOUBLES}.get(size, [])
    value = rng.choice(values) if values and rng.random() < 0.7 else rng.getrandbits(8 * size)
    return value.to_bytes(size, "little")


def image(rng: random.Random, code: bytes) -> bytes:
    """A state in which no error waits. FCMOVcc that moves nothing looks at no register: see docs/limits.md."""
    empty = 0 if _DECODER.one(code, 0, True).name.startswith("fcmov") else 0.2
    masks = rng.choice((_ERRORS, _ERRORS, rng.randrange(_ERRORS + 1)))
    control = masks | 0x40 | rng.choice((0, 2, 3)) << 8 | rng.randrange(4) << 10
    status = rng.randrange(_ERRORS + 1) & masks | rng.choice((0, 0x4700)) & rng.getrandbits(16) | rng.randrange(8) << 11
    tags = sum((_EMPTY if rng.random() < empty else 0) << 2 * number for number in range(8))
    return struct.pack("<3I16x", control, status, tags) + b"".join(extended(rng) for _ in range(8))


def shown(state: bytes, code: bytes) -> tuple[int, int, list[int], bytes]:
    """Control, status, which registers are empty, and the registers."""
    control, status, tags = struct.unpack_from("<H2xH2xH", state)
    return (
        control,
        status & (~0x4700 | conditions(code)),
        [number for number in range(8) if tags >> 2 * number & 3 == _EMPTY],
        state[28:108],
    )


def conditions(code: bytes) -> int:
    """Those of C0 to C3 that the instruction defines; where the manual calls them undefined, processors differ."""
    name = _DECODER.one(code, 0, True).name
    if name in _ALL_CONDITIONS:
        return 0x4700
    if name in _FOUR_FUNCTIONS:
        return 0x0600
    return 0 if name.startswith(("fcmov", "ffree", "fcomi", "fucomi", "fcompi", "fucompi", "fnop")) else 0x0200


def by_the_host(code: bytes, before: bytes, held: bytes, flags: int) -> tuple[object, ...]:
    modrm = code[1] if code[1] >= 0xC0 else code[1] & 0x38 | 6
    state, stored, after_flags, eax = carry_out(bytes([code[0], modrm]), before, held, flags, 0x1234_5678)
    return shown(state, code), stored, after_flags & ARITHMETIC, eax


@pytest.mark.skipif(not AVAILABLE, reason="this build of the engine keeps its own helpers")
@pytest.mark.parametrize("mode", [pytest.param(P32[3], id="ring3"), pytest.param(P16[0], id="16_bit")])
@pytest.mark.parametrize("code", forms(), ids=lambda code: code.hex())
def test_an_instruction_does_what_the_host_does(bench, mode, code):
    rng = random.Random(code + mode.name.encode())
    access = next(iter(accesses(_DECODER.one(code, 0, True))), None)
    size = access.size if access else 0
    at_bx = code if mode.code32 or not size else bytes([code[0], code[1] & 0x38 | 7])  # [BX]
    prefix = b"" if mode.code32 else b"\x66"
    store = mode.offset(DATA + AFTER).to_bytes(4 if mode.code32 else 2, "little")
    load = mode.offset(DATA + STATE).to_bytes(len(store), "little")
    disp = b"\x25" if mode.code32 else b"\x26"
    program = prefix + b"\xdd" + disp + load + at_bx + prefix + b"\xdd" + bytes([disp[0] | 0x10]) + store
    for _ in range(12):
        before, held, flags = image(rng, code), operand(rng, size), rng.getrandbits(12) & ARITHMETIC
        expected = by_the_host(code, before, held, flags)
        cr0 = ET_NE | (PE if mode.is_protected else 0)
        bench.start(mode, program, cr0=cr0, eax=0x1234_5678, ebx=mode.offset(DATA + OPERAND), eflags=flags)
        bench.poke(DATA + STATE, before)
        bench.poke(DATA + OPERAND, held)
        after = bench.run()
        assert after["eip"] == "end", after.get("fault")
        got = shown(bench.peek(DATA + AFTER, 108), code), bench.peek(DATA + OPERAND, size)
        assert (*got, after["eflags"] & ARITHMETIC, after["eax"]) == expected, (before.hex(), held.hex())
        bench.recycle()


@pytest.mark.parametrize("code", [code for code in forms() if code[1] < 0xC0 or code[0] in (0xD8, 0xDE)], ids=bytes.hex)
def test_an_error_that_waits_is_mf_before_all_else(bench, code):
    """SDM Vol. 1, "x87 FPU Exception Synchronization"; but FNSTCW and FNSTSW do not wait."""
    state = struct.pack("<3I16x", 0x37B, 0x04, 0) + bytes(80)
    load = (DATA + STATE).to_bytes(4, "little")
    bench.start(P32[3], b"\xdd\x25" + load + code, cr0=PE | ET_NE, ebx=DATA + OPERAND)
    bench.poke(DATA + STATE, state)
    after = bench.run()
    if code[1] >> 3 == 7 and code[0] in (0xD9, 0xDD):
        assert after["eip"] == "end"
    else:
        assert after["fault"] == (Vector.MF, None)
