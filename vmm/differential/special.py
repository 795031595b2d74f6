"""Steps for instructions that need something round them: a target, a selector, a stack frame, a counter, a port.

`SPECIAL` has a function for each such mnemonic; `write` makes a step for any.
"""

from collections.abc import Callable, Mapping
from typing import Final

from vmm.arch.registers import Reg
from vmm.differential import flow, layout, system
from vmm.differential.instructions import Writer
from vmm.differential.program import Fixup, Step

Special = Callable[[Writer, str, int], Step]

_EAX, _ECX, _EDX, _ESP, _EBP, _ESI, _EDI = (
    int(reg) for reg in (Reg.EAX, Reg.ECX, Reg.EDX, Reg.ESP, Reg.EBP, Reg.ESI, Reg.EDI)
)
_COUNT_MAX: Final = 12
_IMAGES: Final = {"fnstenv": (0xD9, 6), "fnsave": (0xDD, 6)}


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
    **dict.fromkeys(flow.CONDITIONS, flow.conditional),
    **dict.fromkeys(("jmp", "call"), flow.jump),
    **dict.fromkeys(flow.LOOPS, flow.loop),
    "ret": flow.near_return,
    "retf": flow.far_return,
    **dict.fromkeys(("iret", "iretd"), flow.interrupt_return),
    **dict.fromkeys(("ljmp", "lcall"), flow.far_jump),
    "mov": system.load_segment,
    "pop": system.pop_segment,
    **dict.fromkeys(system.FAR_LOADS, system.load_pointer),
    **dict.fromkeys(("lgdt", "lidt"), system.load_table),
    **dict.fromkeys((*system.SELECTOR_TESTS, *system.SELECTOR_READS, "arpl"), system.test_selector),
    "lmsw": system.load_status,
    **dict.fromkeys(("rdmsr", "wrmsr"), system.model_specific),
    "cpuid": system.identify,
    **dict.fromkeys(("sysenter", "sysexit"), system.enter_system),
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
        step = flow.interrupt_return(writer, "iretd" if writer.width == 4 else "iret", number)
        return Step("out", code + step.code, tuple(flow.behind(fixup, code) for fixup in step.fixups))
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
