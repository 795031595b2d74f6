"""The same code under translation and on a bare Unicorn at CPL 0: registers, flags and memory afterwards must agree.

The bare engine is the oracle only for what it runs natively and rightly: no interrupt, no exception, no system
register.
"""

import random

import pytest
import unicorn
from guest_bench import (
    ARITHMETIC,
    CODE,
    DATA,
    DF,
    ENTRY,
    LOW,
    P16,
    P32,
    REAL,
    REGISTERS,
    STACK,
    V86_3,
    Bench,
    Mode,
    asm,
    little,
)
from unicorn import x86_const

OSFXSR = 1 << 9
UC_REGISTERS = [getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in REGISTERS]
SEED = 20_261_122


class Bare:
    """An engine without any of ours: flat 32-bit code at CODE, or 16-bit real mode with the bench's bases."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        width = unicorn.UC_MODE_32 if mode.code32 else unicorn.UC_MODE_16
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, width)
        self.uc.mem_map(0, 4 << 20)
        if not mode.code32:
            for name, base in (
                ("CS", CODE),
                ("DS", DATA),
                ("ES", DATA),
                ("FS", DATA),
                ("GS", DATA),
                ("SS", STACK - 0x800),
            ):
                self.uc.reg_write(getattr(x86_const, f"UC_X86_REG_{name}"), base >> 4)
        self.uc.reg_write(x86_const.UC_X86_REG_CR4, OSFXSR)

    def run(self, image: bytes, code: bytes, registers: dict[str, int], eflags: int) -> dict[str, object]:
        self.uc.mem_write(0, image)
        for name, number in zip(REGISTERS, UC_REGISTERS, strict=True):
            self.uc.reg_write(number, registers[name])
        self.uc.reg_write(x86_const.UC_X86_REG_EFLAGS, eflags)
        # UC_MODE_16 wants linear addresses to begin and end at
        start = CODE + ENTRY
        self.uc.emu_start(start, start + len(code), count=100_000)
        shown: dict[str, object] = {
            name: self.uc.reg_read(number) & 0xFFFF_FFFF for name, number in zip(REGISTERS, UC_REGISTERS, strict=True)
        }
        shown["eflags"] = self.uc.reg_read(x86_const.UC_X86_REG_EFLAGS) & (ARITHMETIC | DF)
        shown["memory"] = bytes(self.uc.mem_read(0, LOW))
        return shown


def both(
    bench: Bench, mode: Mode, code: bytes, eflags: int = 2, **registers: int
) -> tuple[dict[str, object], dict[str, object]]:
    """(bare, translated) after the same code from the same state."""
    bench.start(mode, code, eflags=eflags, cr4=OSFXSR, **registers)
    image = bytes(bench.peek(0, LOW))
    before = {name: bench.vcpu.reg32(index) for index, name in enumerate(REGISTERS)}
    bare = Bare(mode).run(image, code, before, eflags | 2)
    picture = bench.run(200_000)
    assert picture["eip"] == "end"
    mine: dict[str, object] = {name: picture[name] for name in REGISTERS}
    mine["eflags"] = picture["eflags"] & (ARITHMETIC | DF)
    mine["memory"] = bytes(bench.peek(0, LOW))
    return bare, mine


def agree(bench: Bench, mode: Mode, code: bytes | str, eflags: int = 2, **registers: int) -> None:
    bare, mine = both(bench, mode, asm(code, mode.code32) if isinstance(code, str) else code, eflags, **registers)
    assert mine == bare


WIDE = [P32[0]]
NARROW = [REAL]

BOTH_WIDTHS = {
    "calls_nest": "call a; jmp e; a: call b; inc cx; ret; b: call c; add bx, 3; ret; c: xor dx, bx; ret; e: nop",
    "ret_imm": "push ax; push bx; call a; jmp e; a: mov dx, cx; ret {two}; e: nop",
    "loop": "mov {c}x, 9; a: add ax, cx; rol bx, 1; loop a",
    "loope": "mov {c}x, 9; a: dec dx; cmp dl, dl; loope a",
    "loopne": "mov {c}x, 9; mov dx, 5; a: dec dx; cmp dx, 2; loopne a",
    "jcxz": "xor {c}x, {c}x; j{c}xz a; inc ax; a: inc {c}x; j{c}xz b; inc bx; b: nop",
    "flags_across_branches": "stc; call a; adc ax, bx; jmp e; a: jc b; b: ret; e: sbb bx, cx",
    "conditions": "cmp ax, bx; seta dl; setb dh; setge cl; setl ch; cmp dl, dh; jne a; inc ax; a: cmovz ax, bx",
    "recursion": (
        "mov {c}x, 12; call f; jmp e; f: dec {c}x; jz g; push {c}x; call f; pop {c}x; add ax, cx; "
        "g: ret; e: nop"
    ),
    "multiply_divide": (
        "mov ax, 1234; mov bx, 77; mul bx; div bx; imul bx, ax, 9; mov cx, -7; imul cx; mov al, 100; "
        "mov bl, 7; xor ah, ah; div bl; idiv bl"
    ),
    "shifts": (
        "mov cl, 3; shl ax, cl; shr bx, 5; sar dx, cl; rcl ax, 4; rcr bx, cl; rol dx, 9; ror ax, cl; "
        "shld ax, bx, 3; shrd dx, ax, cl"
    ),
    "bcd": "mov ax, 0x3478; add al, 0x29; daa; sub al, 0x55; das; add al, 9; aaa; sub al, 7; aas; aam; aad",
    "bits": "mov ax, 0x50f0; bsf bx, ax; bsr cx, ax; bt ax, 5; setc dl; bts ax, 1; btr ax, 4; btc ax, 9; cmp ax, bx",
    "stack": (
        "push ax; push bx; push 0x1234; push -5; pop cx; pop dx; pop si; pop di; pusha; popa; "
        "enter 8, 0; mov [bp-2], ax; leave"
    ),
    "exchange": "xchg ax, bx; xadd cx, dx; mov si, cx; lahf; sahf; cbw; cwd; cmpxchg bx, cx",
    "float": (
        "fninit; fld1; fldpi; fadd st(0), st(1); fsqrt; fmul st(0), st(1); fistp word ptr [{d}]; "
        "fstp qword ptr [{d}+8]; fnstcw [{d}+16]; fnstsw ax; and al, 0xdf; fstp st(0); fldl2e; fsin; "
        "fstp dword ptr [{d}+24]"
    ),
    "sse": (
        "movups xmm0, [{d}]; movaps xmm1, xmm0; paddd xmm1, xmm0; pxor xmm2, xmm2; "
        "pshufd xmm3, xmm1, 0x1b; movdqu [{d}+32], xmm3; cvtsi2sd xmm4, eax; addsd xmm4, xmm4; "
        "movq [{d}+64], xmm4; movmskps edx, xmm1; ucomisd xmm4, xmm2"
    ),
    "mmx": "movq mm0, [{d}]; paddw mm0, mm0; punpcklbw mm1, mm0; movq [{d}+8], mm0; pmovmskb eax, mm0; emms",
    "strings": (
        "cld; mov {s}, {d}; mov {t}, {d}+0x80; mov {c}x, 20; rep movsb; mov {c}x, 7; mov ax, 0xaa55; "
        "rep stosw; mov {t}, {d}; mov al, 0xee; mov {c}x, 90; repe scasb; mov {s}, {d}; "
        "mov {t}, {d}+0x80; mov {c}x, 30; repne cmpsb; lodsw; std; movsw; cld"
    ),
    "string_overlap": "std; mov {s}, {d}+40; mov {t}, {d}+44; mov {c}x, 30; rep movsb; cld",
    "mixed_sizes": (
        "mov eax, 0x12345678; mov bx, ax; movzx ecx, bl; movsx edx, bh; add eax, ecx; add ax, dx; "
        "push eax; push ax; pop cx; pop edx; lea esi, [eax+edx*2+5]"
    ),
}  # fmt: skip


def text_for(name: str, mode: Mode) -> str:
    wide = mode.code32
    text = BOTH_WIDTHS[name].format(
        two=8 if wide else 4,
        c="ec" if wide else "c",
        d=mode.offset(DATA + 0x100),
        s="esi" if wide else "si",
        t="edi" if wide else "di",
    )
    if wide and name == "stack":
        text = text.replace("[bp-2]", "[ebp-2]")
    return text


@pytest.mark.parametrize("mode", [*WIDE, *NARROW], ids=str)
@pytest.mark.parametrize("name", BOTH_WIDTHS)
def test_plain_code_does_what_it_does_bare(used_bench, mode, name):
    for eflags in (2, ARITHMETIC | 2):
        used_bench.recycle()
        agree(used_bench, mode, text_for(name, mode), eflags)


RAW = {
    # name: (mode, code)
    "loop_ecx_in_16_bit_code": (REAL, "66b903000000 40 67e2fc"),
    "loop_cx_in_32_bit_code": (P32[0], "b903000500 40 67e2fc"),
    "jecxz_in_16_bit_code": (REAL, "66b900000100 67e301 40 43"),
    "jcxz_in_32_bit_code": (P32[0], "b900000100 67e301 40 43"),
    "operand_32_in_16": (REAL, "66b878563412 66050000ff7f 6640 66c1e004 66f7d8"),
    "operand_16_in_32": (P32[0], "66b87856 6605ff7f 6640 66c1e004 66f7d8"),
    "address_32_in_16": (REAL, "66bb00010000 678b4310 67014340 678d44c305 678d8b00100000"),
    "address_16_in_32": (P32[0], "678d4605 678d4012 66bb3412 678d07"),
    "call_32_in_16": (REAL, "66e801000000 f4 665a"),
    "retd_in_16": (REAL, "6668 0a010000 66c3 f4f4"),
    "pushw_in_32": (P32[0], "6650 6653 5a 6668341266 5b"),
    "pushad_in_16": (REAL, "6660 6661"),
    "popd_m_esp": (P32[0], "6a05 8f0424 5a 50 8f4424fc"),
    "push_esp": (P32[0], "54 5a"),
    "xlat": (REAL, "bb0001 b005 d7"),
    "moffs": (P32[0], "a100010200 a304010200 a008010200 66a110010200"),
    "moffs_16": (REAL, "a10001 a30401 a00801 66a11001"),
    "les_lds_16": (REAL, "c4360001 c53e0401"),
    "segment_moves_16": (REAL, "b80020 8ec0 8ed8 8ee0 268b1e0001 64890e1001 8cc2 1e 07 06 1f"),
    "ss_moves_16": (REAL, "b80030 8ed0 bc0007 50 53 58 5b 16 17"),
    "far_call_16": (REAL, "9a06010010 90 40 83f800 7401 90 83c404"),
    "nested_flags": (P32[0], "f9 9f 9e 11d8 f5 19c8 f8 10d8"),
    "cmpxchg8b": (P32[0], "bb00010200 0fc70b 0fc74b08"),
    "bound_ok": (P32[0], "b800000000 c7051001020000000000 c705140102000f000000 620510010200"),
    "nop_forms": (P32[0], "90 6690 0f1f00 0f1f440000 660f1f840000000000"),
    "setcc_memory": (P32[0], "39d8 0f9705 00010200 0f9205 01010200"),
    "shift_count_over_31": (P32[0], "b121 d3e0 b13f d3eb b110 66d3e2 b111 66d1d2 66d3d2"),
    "long_rep_movsd": (P32[0], "fc be00000200 bf00020200 b980000000 f3a5"),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_odd_sizes_do_what_they_do_bare(used_bench, name):
    mode, code = RAW[name]
    agree(used_bench, mode, bytes.fromhex(code))


@pytest.mark.parametrize("mode", [*WIDE, *NARROW], ids=str)
def test_an_indirect_branch_with_many_targets_finds_each(used_bench, mode):
    """A jump table: every target is another, over and over."""
    size = 4 if mode.code32 else 2
    count = 16
    if mode.code32:
        body = asm("a: mov esi, ecx; and esi, 15; call dword ptr [esi*4 + 0x20100]; xor edx, eax; loop a", True)
    else:
        body = asm("a: mov si, cx; and si, 15; shl si, 1; call word ptr [si + 0x100]; xor dx, ax; loop a", False)
    routines = b"".join((b"\x05" + little(0x111 * i + 1, size) + b"\xc3") for i in range(count))
    jump = b"\xe9" + little(len(routines), size)
    code = body + jump + routines
    first = mode.entry + len(body) + len(jump)
    step = len(routines) // count
    bare = Bare(mode)
    used_bench.start(mode, code, cr4=OSFXSR, ecx=300)
    for i in range(count):
        used_bench.poke(DATA + 0x100 + size * i, first + step * i, size)
    image = bytes(used_bench.peek(0, LOW))
    before = {name: used_bench.vcpu.reg32(index) for index, name in enumerate(REGISTERS)}
    expected = bare.run(image, code, before, 2)
    result = used_bench.run()
    assert result["eip"] == "end"
    assert {name: result[name] for name in REGISTERS} == {name: expected[name] for name in REGISTERS}


# --- random blocks ------------------------------------------------------------------------------------------


class Generator:
    """Short sequences of plain ALU instructions on registers and on 256 bytes of data; ESP is left alone."""

    def __init__(self, seed: int, mode: Mode) -> None:
        self.random = random.Random(seed)
        self.mode = mode

    def sequence(self) -> bytes:
        return b"".join(self.random.choice(self.KINDS)(self) for _ in range(self.random.randint(3, 14)))

    def register(self, size: int) -> int:
        return self.random.choice(range(8) if size == 1 else [0, 1, 2, 3, 5, 6, 7])

    def prefix(self) -> tuple[bytes, int]:
        """An operand-size prefix or none, and the operand size."""
        other = self.random.random() < 0.3
        return (b"\x66" if other else b""), (4 if self.mode.code32 != other else 2)

    def rm(self, size: int, reg: int) -> bytes:
        if self.random.random() < 0.5:
            return bytes([0xC0 | reg << 3 | self.register(size)])
        at = self.mode.offset(DATA + 0x100 + self.random.randrange(240))
        return bytes([reg << 3 | 5]) + little(at, 4) if self.mode.code32 else bytes([reg << 3 | 6]) + little(at, 2)

    def sized(self, opcode: int) -> tuple[bytes, int]:
        """An opcode whose low bit says byte or word, with a prefix for the latter perhaps."""
        prefix, size = self.prefix()
        if self.random.random() < 0.35:
            return bytes([opcode]), 1
        return prefix + bytes([opcode | 1]), size

    def alu(self) -> bytes:
        head, size = self.sized(self.random.randrange(8) << 3 | self.random.choice((0, 2)))
        return head + self.rm(size, self.register(size))

    def immediate(self) -> bytes:
        head, size = self.sized(0x80)
        return head + self.rm(size, self.random.randrange(8)) + little(self.random.getrandbits(32), size)

    def unary(self) -> bytes:
        head, size = self.sized(0xF6)
        return head + self.rm(size, self.random.choice((2, 3, 4, 5)))

    def increment(self) -> bytes:
        head, size = self.sized(0xFE)
        return head + self.rm(size, self.random.randrange(2))

    def shift(self) -> bytes:
        """RCL and RCR by 1 alone: by more they leave OF undefined, and the engine is no P6 there."""
        head, size = self.sized(0xC0)
        field = self.random.choice((0, 1, 2, 3, 4, 5, 7))
        operand = self.rm(size, field)
        count = self.random.choice((1, 2, 3, 5, 7))
        return head + operand + bytes([1 if field in (2, 3) else count])

    def move(self) -> bytes:
        head, size = self.sized(self.random.choice((0x88, 0x8A, 0x86)))
        return head + self.rm(size, self.register(size))

    def widen(self) -> bytes:
        prefix, _ = self.prefix()
        return prefix + bytes([0x0F, self.random.choice((0xB6, 0xBE, 0xB7, 0xBF))]) + self.rm(1, self.register(4))

    def condition(self) -> bytes:
        return bytes([0x0F, 0x90 | self.random.randrange(16)]) + self.rm(1, 0)

    def conditional_move(self) -> bytes:
        prefix, size = self.prefix()
        return prefix + bytes([0x0F, 0x40 | self.random.randrange(16)]) + self.rm(size, self.register(size))

    def skip(self) -> bytes:
        body = self.random.choice((self.move, self.alu, self.increment))()
        return bytes([0x70 | self.random.randrange(16), len(body)]) + body

    def stack(self) -> bytes:
        return bytes([0x50 | self.register(4), 0x58 | self.register(4)])

    def one_byte(self) -> bytes:
        return bytes([self.random.choice((0xF5, 0xF8, 0xF9, 0x98, 0x99, 0x9E, 0x9F))])

    KINDS = (
        alu,
        alu,
        immediate,
        unary,
        increment,
        shift,
        move,
        widen,
        condition,
        conditional_move,
        skip,
        stack,
        one_byte,
    )


@pytest.mark.parametrize("mode", [P32[0], REAL], ids=str)
@pytest.mark.parametrize("group", range(5))
def test_random_code_does_what_it_does_bare(used_bench, mode, group):
    """Twenty sequences of each group and mode: 200 in all, the same at every run."""
    for number in range(20):
        seed = SEED + group * 1000 + number
        code = Generator(seed, mode).sequence()
        used_bench.recycle()
        used_bench.start(mode, code, cr4=OSFXSR, eflags=seed & ARITHMETIC)
        used_bench.poke(DATA + 0x100, random.Random(seed).randbytes(256))
        before = {name: used_bench.vcpu.reg32(index) for index, name in enumerate(REGISTERS)}
        expected = Bare(mode).run(bytes(used_bench.peek(0, LOW)), code, before, seed & ARITHMETIC | 2)
        result = used_bench.run()
        assert result["eip"] == "end", code.hex(" ")
        mine: dict[str, object] = {name: result[name] for name in REGISTERS}
        mine |= {"eflags": result["eflags"] & (ARITHMETIC | DF), "memory": bytes(used_bench.peek(0, LOW))}
        assert mine == expected, (seed, code.hex(" "))


@pytest.mark.parametrize("mode", [P32[3], P16[0], P16[3], V86_3], ids=str)
def test_random_code_is_the_same_in_every_mode_of_its_width(used_bench, mode):
    """The bare engine ran it flat or in real mode; every other mode of the same code size must agree with those."""
    like = P32[0] if mode.code32 else REAL
    for number in range(12):
        code = Generator(SEED + number, like).sequence()
        shown = []
        for where in (like, mode):
            used_bench.recycle()
            used_bench.start(where, code, cr4=OSFXSR)
            used_bench.poke(DATA + 0x100, random.Random(number).randbytes(256))
            result = used_bench.run()
            assert result["eip"] == "end"
            shown.append(
                (
                    [result[name] for name in REGISTERS],
                    result["eflags"] & (ARITHMETIC | DF),
                    used_bench.peek(DATA, 0x1000),
                )
            )
        assert shown[0] == shown[1], code.hex(" ")
