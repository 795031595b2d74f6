"""Steps for instructions that need something round them: a target, a selector, a stack frame, a counter, a port.

Each function writes a step for the mnemonics under which it stands in `SPECIAL`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from vmm.arch.registers import Cr0, Cr4, Reg
from vmm.differential import layout
from vmm.differential.instructions import Writer
from vmm.differential.program import Fixup, Step

Special = Callable[[Writer, str, int], Step]

_EAX, _ECX, _EDX, _ESP, _EBP, _ESI, _EDI = (
    int(reg) for reg in (Reg.EAX, Reg.ECX, Reg.EDX, Reg.ESP, Reg.EBP, Reg.ESI, Reg.EDI)
)
_CONDITIONS: Final = "jo jno jb jae je jne jbe ja js jns jp jnp jl jge jle jg".split()
_LOOPS: Final = {"loopne": 0xE0, "loope": 0xE1, "loop": 0xE2, "jcxz": 0xE3, "jecxz": 0xE3}
_MSRS: Final = (0x10, 0x17, 0x1B, 0x8B, 0xFE, 0x174, 0x175, 0x176, 0x1D9, 0xC000_0080, 0xC000_0081)
_EFER: Final = 0xC000_0080
_COUNT_MAX: Final = 12
_CR0_BITS: Final = tuple(int(bit) for bit in (Cr0.MP, Cr0.TS, Cr0.EM, Cr0.NE, Cr0.WP, Cr0.AM, Cr0.NW))
_CR0_RARE: Final = (int(Cr0.PE), int(Cr0.PG))
_CR4_BITS: Final = tuple(int(bit) for bit in (Cr4.TSD, Cr4.DE, Cr4.PSE, Cr4.PGE, Cr4.PCE, Cr4.OSFXSR, Cr4.PAE, Cr4.VME))
_LEAVES: Final = (0, 1, 2, 0x8000_0000, 0x8000_0001, 0x8000_0004)
_RM_EAX: Final = 0xC0
_IMAGES: Final = {"fnstenv": (0xD9, 6), "fnsave": (0xDD, 6)}


# --- branches -----------------------------------------------------------------------------------------------


def conditional(writer: Writer, name: str, number: int) -> Step:
    """Jcc, short or near, to another step."""
    condition = _CONDITIONS.index(name)
    if writer.chance.random() < 0.6:
        return Step(name, bytes([0x70 | condition, 0]), (Fixup(1, 1, writer.forward(number)),))
    head = writer.sized(4) + bytes([0x0F, 0x80 | condition])
    return Step(name, head + bytes(4), (Fixup(len(head), 4, writer.forward(number)),))


def jump(writer: Writer, name: str, number: int) -> Step:
    """JMP and CALL: relative, or through a register or memory."""
    target, chance = writer.forward(number), writer.chance.random()
    is_call = name == "call"
    if chance < 0.5:
        head = writer.sized(4) + (b"\xe8" if is_call else b"\xe9")
        return Step(name, head + bytes(4), (Fixup(len(head), 4, target),))
    if chance < 0.55 and not is_call:
        return Step(name, b"\xeb\0", (Fixup(1, 1, target),))
    load, fixup = writer.load_step(_EDX, target)
    extension = 2 if is_call else 4
    if chance < 0.8:
        return Step(name, load + bytes([0xFF, 0xC0 | extension << 3 | _EDX]), (fixup,))
    memory = writer.operands.at(layout.DATA + 0x80)
    store = writer.sized(4) + memory.encode(b"\x89", _EDX)
    return Step(name, load + store + memory.encode(b"\xff", extension), (fixup,))


def loop(writer: Writer, name: str, number: int) -> Step:
    """LOOP and its like, with a small count; a LOOP may lead to itself."""
    opcode = _LOOPS[name]
    count = writer.load(_ECX, writer.chance.choice((0, 1, 1, 2, 7)) | writer.chance.choice((0, 0x1_0000)))
    wide = writer.chance.random() < 0.5 if opcode != 0xE3 else name == "jecxz"
    prefix = b"" if wide == writer.mode.code32 else b"\x67"
    if opcode != 0xE3 and writer.chance.random() < 0.3:
        count = writer.load(_ECX, 5)
        return Step(name, count + prefix + bytes([opcode, 0xFE - len(prefix)]))
    code = count + prefix + bytes([opcode, 0])
    return Step(name, code, (Fixup(len(code) - 1, 1, writer.forward(number)),))


def near_return(writer: Writer, name: str, number: int) -> Step:
    """A pushed target, and RET to it."""
    width = writer.any_width()
    push, fixup = writer.push_step(writer.forward(number), width)
    code = b"\xc3" if writer.chance.random() < 0.6 else b"\xc2" + bytes([writer.chance.randrange(8), 0])
    return Step(name, push + writer.sized(width) + code, (fixup,))


def _code_selector(writer: Writer) -> int:
    """The selector of a code segment like the program's own, or any."""
    if writer.chance.random() < 0.6:
        return _own_code(writer)
    return _any_selector(writer)


def _own_code(writer: Writer) -> int:
    mode = writer.mode
    if not mode.is_segmented:
        return layout.CODE >> 4
    offset = 0x10 if not mode.code32 else 0x28 if writer.operands.based else 0
    return layout.first_selector(mode.ring) + offset


def _any_selector(writer: Writer) -> int:
    """One of those that mean something, sometimes with another RPL; a paragraph where there are no descriptors."""
    chance = writer.chance
    if not writer.mode.is_segmented:
        return chance.choice((layout.DATA >> 4, layout.CODE >> 4, layout.STACK_BASE >> 4, layout.DATA - 0x100 >> 4))
    selector = chance.choice(layout.SELECTORS)
    roll = chance.random()
    if roll < 0.5:
        return selector | writer.mode.ring
    return selector | chance.getrandbits(2) if roll < 0.8 else selector


def far_return(writer: Writer, name: str, number: int) -> Step:
    """A pushed far address, and RETF to it."""
    width = writer.any_width()
    push, fixup = writer.push_step(writer.forward(number), width)
    front = writer.push(_code_selector(writer), width)
    tail = b"\xcb" if writer.chance.random() < 0.7 else b"\xca" + bytes([writer.chance.randrange(8), 0])
    return Step(name, front + push + writer.sized(width) + tail, (_behind(fixup, front),))


def interrupt_return(writer: Writer, name: str, number: int) -> Step:
    """A frame, and IRET with it; sometimes one that changes the ring."""
    width = 4 if name == "iretd" else 2
    front = b""
    selector = _code_selector(writer)
    if selector & 3 > writer.mode.ring and writer.mode.is_segmented:
        front = writer.push(layout.first_selector(selector & 3) + 8, width) + writer.push(layout.STACK_TOP, width)
    front += writer.push(writer.flags(), width) + writer.push(selector, width)
    push, fixup = writer.push_step(writer.forward(number), width)
    return Step(name, front + push + writer.sized(width) + b"\xcf", (_behind(fixup, front),))


def _behind(fixup: Fixup, front: bytes) -> Fixup:
    return fixup._replace(at=fixup.at + len(front))


def far_jump(writer: Writer, name: str, number: int) -> Step:
    """JMP and CALL to a far address in the instruction, or in memory."""
    width = writer.any_width()
    target, selector = writer.forward(number), _code_selector(writer)
    is_call = name == "lcall"
    if writer.chance.random() < 0.6:
        head = writer.sized(width) + (b"\x9a" if is_call else b"\xea")
        fixup = Fixup(len(head), width, target, writer.code_base)
        return Step(name, head + bytes(width) + selector.to_bytes(2, "little"), (fixup,))
    load, fixup = writer.load_step(_EDX, target)
    at = layout.DATA + 0x90
    store = writer.sized(4) + writer.operands.at(at).encode(b"\x89", _EDX)
    store += writer.operands.store(at + width, selector, 2)
    code = writer.sized(width) + writer.operands.at(at).encode(b"\xff", 3 if is_call else 5)
    return Step(name, load + store + code, (fixup,))


# --- segments and tables ------------------------------------------------------------------------------------


def _load_ax(writer: Writer, selector: int) -> bytes:
    return writer.load(_EAX, selector | writer.chance.choice((0, 0x5A5A_0000)))


def load_segment(writer: Writer, name: str, number: int) -> Step:
    """MOV: half of the time one that loads a segment, control or debug register, else any."""
    roll = writer.chance.random()
    if roll < 0.5:
        return Step(name, writer.plain(name))
    if roll < 0.75:
        seg = writer.chance.choice((0, 0, 2, 3, 3, 4, 5))
        return Step(name, _load_ax(writer, _segment_value(writer, seg)) + bytes([0x8E, _RM_EAX | seg << 3]))
    return (move_control if roll < 0.93 else move_debug)(writer, name, number)


def _segment_value(writer: Writer, seg: int) -> int:
    """For SS mostly what it holds, as all the rest of the program stands on it."""
    if seg == 2 and writer.chance.random() < 0.7:
        mode = writer.mode
        if not mode.is_segmented:
            return layout.STACK_BASE >> 4
        offset = 0x20 if not mode.code32 else 0x30 if writer.operands.based else 8
        return layout.first_selector(mode.ring) + offset
    return _any_selector(writer)


def pop_segment(writer: Writer, name: str, number: int) -> Step:
    """POP: half of the time of a segment register, else any."""
    if writer.chance.random() < 0.5:
        return Step(name, writer.plain(name))
    seg, code = writer.chance.choice(((0, b"\x07"), (2, b"\x17"), (3, b"\x1f"), (4, b"\x0f\xa1"), (5, b"\x0f\xa9")))
    width = writer.any_width()
    return Step(name, writer.push(_segment_value(writer, seg), width) + writer.sized(width) + code)


_FAR_LOADS: Final = {
    "les": b"\xc4", "lds": b"\xc5", "lss": b"\x0f\xb2", "lfs": b"\x0f\xb4", "lgs": b"\x0f\xb5"
}  # fmt: skip


def load_pointer(writer: Writer, name: str, number: int) -> Step:
    """LDS and its like, of a far pointer from the pool; LSS into a register that is not ESP, mostly."""
    width = writer.any_width()
    at = layout.pool_pointer(writer.chance.randrange(len(layout.SELECTORS)), width)
    reg = writer.chance.choice((0, 1, 2, 3, 5, 6, 7))
    return Step(name, writer.sized(width) + writer.operands.at(at).encode(_FAR_LOADS[name], reg))


def load_table(writer: Writer, name: str, number: int) -> Step:
    """LGDT and LIDT from the pool."""
    good = 0 if name == "lgdt" else 1
    index = good if writer.chance.random() < 0.9 else writer.chance.randrange(len(layout.POOL_TABLES))
    memory = writer.operands.at(layout.POOL + 8 * index)
    return Step(name, writer.sized(4) + memory.encode(b"\x0f\x01", 2 if name == "lgdt" else 3))


_SELECTOR_TESTS: Final = {"lldt": (b"\x0f\x00", 2), "ltr": (b"\x0f\x00", 3), "verr": (b"\x0f\x00", 4),
                          "verw": (b"\x0f\x00", 5)}  # fmt: skip
_SELECTOR_READS: Final = {"lar": b"\x0f\x02", "lsl": b"\x0f\x03"}
_GOOD: Final = {"lldt": layout.THE_LDT, "ltr": layout.SPARE_TSS}


def test_selector(writer: Writer, name: str, number: int) -> Step:
    """LLDT, LTR, VERR, VERW, LAR, LSL and ARPL of a selector that means something."""
    selector = _GOOD.get(name, 0) if name in _GOOD and writer.chance.random() < 0.6 else _any_selector(writer)
    front = _load_ax(writer, selector)
    if name in _SELECTOR_TESTS:
        opcode, extension = _SELECTOR_TESTS[name]
        return Step(name, front + opcode + bytes([_RM_EAX | extension << 3]))
    if name == "arpl":
        return Step(name, front + writer.load(_EDX, _any_selector(writer)) + b"\x63\xd0")
    return Step(name, front + writer.sized(writer.any_width()) + _SELECTOR_READS[name] + bytes([_RM_EAX | _EDX << 3]))


# --- control registers --------------------------------------------------------------------------------------


def _flip(writer: Writer, reg: int, bits: tuple[int, ...], rare: tuple[int, ...] = ()) -> bytes:
    """MOV EAX, CRn; XOR EAX with one or two bits; MOV CRn, EAX."""
    chance = writer.chance
    value = chance.choice(bits) | (chance.choice(bits) if chance.random() < 0.3 else 0)
    if rare and chance.random() < 0.06:
        value |= chance.choice(rare)
    modrm = bytes([_RM_EAX | reg << 3])
    return b"\x0f\x20" + modrm + writer.sized(4) + b"\x35" + value.to_bytes(4, "little") + b"\x0f\x22" + modrm


def move_control(writer: Writer, name: str, number: int) -> Step:
    """MOV CRn with a value that differs in a bit or two."""
    chance = writer.chance.random()
    if chance < 0.45:
        return Step(name, _flip(writer, 0, _CR0_BITS, _CR0_RARE))
    if chance < 0.65:
        return Step(name, _flip(writer, 4, _CR4_BITS))
    if chance < 0.85:
        return Step(name, _flip(writer, 3, (8, 16)))
    return Step(name, writer.load(_EAX, writer.operands.number(4)) + b"\x0f\x22\xd0")  # CR2


def move_debug(writer: Writer, name: str, number: int) -> Step:
    """MOV DRn: addresses, DR6, and DR7 without breakpoints, sometimes with GD."""
    reg = writer.chance.choice((0, 1, 2, 3, 6, 7, 4, 5))
    value = writer.operands.number(4)
    if reg in (5, 7):
        value = value & 0xFFFF_0000 | 0x400 | (0x2000 if writer.chance.random() < 0.2 else 0)
    return Step(name, writer.load(_EAX, value) + bytes([0x0F, 0x23, _RM_EAX | reg << 3]))


def load_status(writer: Writer, name: str, number: int) -> Step:
    """LMSW, mostly with PE as it is."""
    keeps = 0 if not writer.mode.is_segmented and writer.chance.random() < 0.95 else 1
    value = writer.chance.getrandbits(16) & 0xFFFE | keeps
    return Step(name, writer.load(_EAX, value) + b"\x0f\x01\xf0")


def model_specific(writer: Writer, name: str, number: int) -> Step:
    """RDMSR and WRMSR of registers that there are, and some that there are not."""
    msr = writer.chance.choice(_MSRS)
    front = writer.load(_ECX, msr)
    if name == "wrmsr":
        value = writer.chance.choice((0, 1 << 11)) if msr == _EFER else writer.chance.getrandbits(16)
        front += writer.load(_EAX, value) + writer.load(_EDX, 0)
    return Step(name, front + (b"\x0f\x30" if name == "wrmsr" else b"\x0f\x32"))


def identify(writer: Writer, name: str, number: int) -> Step:
    """CPUID of a leaf that there is."""
    return Step(name, writer.load(_EAX, writer.chance.choice(_LEAVES)) + b"\x0f\xa2")


def enter_system(writer: Writer, name: str, number: int) -> Step:
    """SYSENTER, whose handler goes back to the next step, and SYSEXIT to it."""
    load, fixup = writer.load_step(_EDX, writer.forward(number))
    stack = writer.sized(4) + bytes([0x89, 0xC0 | _ESP << 3 | _ECX])  # mov ecx, esp
    return Step(name, load + stack + (b"\x0f\x34" if name == "sysenter" else b"\x0f\x35"), (fixup,))


# --- interrupts and ports -----------------------------------------------------------------------------------


def software_interrupt(writer: Writer, name: str, number: int) -> Step:
    """INT n, mostly of a vector that programs may use."""
    chance = writer.chance
    vector = chance.choice((3, 4, 0x20, 0x30, 0x80)) if chance.random() < 0.6 else chance.getrandbits(8)
    return Step(name, bytes([0xCD, vector]))


def port(writer: Writer, name: str, number: int) -> Step:
    """IN and OUT of a port that answers; port 50h raises an interrupt."""
    chance = writer.chance
    number = chance.choice((layout.IRQ_PORT, layout.IRQ_PORT, *layout.TEST_PORTS))
    width = writer.chance.choice((1, 1, 2, 4))
    direction = 2 if name == "out" else 0
    prefix = writer.sized(width) if width > 1 else b""
    if number > 0xFF or chance.random() < 0.5:
        return Step(name, writer.load(_EDX, number) + prefix + bytes([0xEC | direction | (width > 1)]))
    return Step(name, prefix + bytes([0xE4 | direction | (width > 1), number]))


def string(writer: Writer, name: str, number: int) -> Step:
    """A string instruction, repeated or not, on areas that are there."""
    operands, chance = writer.operands, writer.chance
    front = writer.load(_ESI, operands.offset(operands.address()))
    front += writer.load(_EDI, operands.offset(operands.address()))
    front += writer.load(_ECX, chance.randrange(_COUNT_MAX))
    if name.startswith(("ins", "outs")):
        front += writer.load(_EDX, chance.choice((layout.IRQ_PORT, *layout.TEST_PORTS)))
    return Step(name, front + writer.encode(writer.pick(name), name)[1])


# --- the rest -----------------------------------------------------------------------------------------------


def pop_flags(writer: Writer, name: str, number: int) -> Step:
    """A pushed image, and POPF."""
    width = 4 if name == "popfd" else 2
    return Step(name, writer.push(writer.flags(), width) + writer.sized(width) + b"\x9d")


def leave(writer: Writer, name: str, number: int) -> Step:
    """LEAVE with EBP where the stack is."""
    return Step(name, writer.sized(4) + bytes([0x89, 0xC0 | _ESP << 3 | _EBP]) + writer.plain(name))


def enter(writer: Writer, name: str, number: int) -> Step:
    """ENTER with a small frame of a few levels."""
    chance = writer.chance
    frame = chance.choice((0, 4, 16, 0x40)).to_bytes(2, "little")
    front = writer.sized(4) + bytes([0x89, 0xC0 | _ESP << 3 | _EBP])
    return Step(name, front + writer.sized(writer.any_width()) + b"\xc8" + frame + bytes([chance.choice((0, 0, 1, 3))]))


def divide(writer: Writer, name: str, number: int) -> Step:
    """DIV and IDIV, half of the time of a number that is not too large."""
    front = writer.load(_EDX, 0) + writer.load(_EAX, writer.chance.getrandbits(7))
    return Step(name, (front if writer.chance.random() < 0.5 else b"") + writer.plain(name))


def environment(writer: Writer, name: str, number: int) -> Step:
    """FNSTENV, FNSAVE and FXSAVE, and what they say about the last x87 instruction blotted out: the engine gives the
    address where it ran (`docs/limits.md`), and what else is in those words is undefined or depends on it."""
    operands = writer.operands
    at = layout.DATA + 0x200 + 0x10 * writer.chance.randrange(0x20)
    if name == "fxsave":
        words = range(at + 4, at + 24, 4)
        code = operands.at(at).encode(b"\x0f\xae", 0)
    else:
        width = writer.any_width()
        opcode, extension = _IMAGES[name]
        words = range(at + 12, at + 28, 4) if width == 4 else range(at + 6, at + 14, 4)
        code = writer.sized(width) + operands.at(at).encode(bytes([opcode]), extension)
    return Step(name, code + b"".join(operands.store(word, 0, 4) for word in words))


SPECIAL: Final[Mapping[str, Special]] = {
    **dict.fromkeys(_CONDITIONS, conditional),
    **dict.fromkeys(("jmp", "call"), jump),
    **dict.fromkeys(_LOOPS, loop),
    "ret": near_return,
    "retf": far_return,
    **dict.fromkeys(("iret", "iretd"), interrupt_return),
    **dict.fromkeys(("ljmp", "lcall"), far_jump),
    "mov": load_segment,
    "pop": pop_segment,
    **dict.fromkeys(_FAR_LOADS, load_pointer),
    **dict.fromkeys(("lgdt", "lidt"), load_table),
    **dict.fromkeys((*_SELECTOR_TESTS, *_SELECTOR_READS, "arpl"), test_selector),
    "lmsw": load_status,
    **dict.fromkeys(("rdmsr", "wrmsr"), model_specific),
    "cpuid": identify,
    **dict.fromkeys(("sysenter", "sysexit"), enter_system),
    "int": software_interrupt,
    **dict.fromkeys(("in", "out"), port),
    **{
        f"{name}{size}": string
        for name in ("movs", "cmps", "stos", "lods", "scas", "ins", "outs")
        for size in "bwd"
    },
    **dict.fromkeys(("popf", "popfd"), pop_flags),
    "leave": leave,
    "enter": enter,
    **dict.fromkeys(("div", "idiv"), divide),
    **dict.fromkeys((*_IMAGES, "fxsave"), environment),
}  # fmt: skip
ALWAYS_SPECIAL: Final = frozenset((*_IMAGES, "fxsave", *(name for name, writer in SPECIAL.items() if writer is string)))
"""Never with any operands: those would show what must not be compared, or repeat four thousand million times."""


def write(writer: Writer, name: str, number: int) -> Step:
    """Step `number` of a program, for one mnemonic."""
    special = SPECIAL.get(name)
    if special is not None and (name in ALWAYS_SPECIAL or writer.chance.random() < 0.9):
        return special(writer, name, number)
    return Step(name, writer.plain(name))


def raise_interrupt(writer: Writer, number: int) -> Step:
    """An OUT that raises an interrupt, under CLI or not; then what may let it in."""
    chance = writer.chance
    code = b"\xfa" if chance.random() < 0.6 else b""
    code += bytes([0xB0, chance.getrandbits(6), 0xE6, layout.IRQ_PORT])
    roll = chance.random()
    if roll < 0.35:
        return Step("out", code + b"\x40\xfb\x40\x40")  # inc eax; sti; inc eax; inc eax
    if roll < 0.6:
        return Step("out", code + writer.push(writer.flags() | 0x200, writer.width) + b"\x9d\x40")
    if roll < 0.75:
        step = interrupt_return(writer, "iretd" if writer.width == 4 else "iret", number)
        return Step("out", code + step.code, tuple(_behind(fixup, code) for fixup in step.fixups))
    return Step("out", code + b"\x40")


def rewrite_code(writer: Writer, number: int) -> Step:
    """A store into the code of a step that is near: its own, the next, or one that has run."""
    chance = writer.chance
    target = max(0, number + chance.choice((-1, 0, 1, 1, 1, 2)))
    value = chance.choice((0x40, 0x43, 0x90, 0xF8, 0xF9, 0xFA, 0xCC, 0xF4))
    head = b"\xc6" + (b"\x05" if writer.mode.code32 else b"\x06")
    width = writer.width
    origin = writer.operands.base(3)
    return Step("mov", head + bytes(width) + bytes([value]) + b"\x40", (Fixup(2, width, target, origin),))


def invalidate_page(writer: Writer, number: int) -> Step:
    """INVLPG of a page of the program's own."""
    memory = writer.operands.memory()
    return Step("invlpg", memory.encode(b"\x0f\x01", 7))


