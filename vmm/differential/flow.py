"""Steps for branches: near and far, conditional, through registers and memory, and returns to pushed addresses."""

from typing import Final

from vmm.arch.registers import Reg
from vmm.differential import layout
from vmm.differential.instructions import Writer
from vmm.differential.program import Fixup, Step

_ECX, _EDX = int(Reg.ECX), int(Reg.EDX)
CONDITIONS: Final = "jo jno jb jae je jne jbe ja js jns jp jnp jl jge jle jg".split()
LOOPS: Final = {"loopne": 0xE0, "loope": 0xE1, "loop": 0xE2, "jcxz": 0xE3, "jecxz": 0xE3}


def conditional(writer: Writer, name: str, number: int) -> Step:
    """Jcc, short or near, to another step."""
    condition = CONDITIONS.index(name)
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
    load, fixup = writer.load_step(_EDX, target, writer.code_base)
    extension = 2 if is_call else 4
    if chance < 0.8:
        return Step(name, load + bytes([0xFF, 0xC0 | extension << 3 | _EDX]), (fixup,))
    memory = writer.operands.at(layout.DATA + 0x80)
    store = writer.sized(4) + memory.encode(b"\x89", _EDX)
    return Step(name, load + store + memory.encode(b"\xff", extension), (fixup,))


def loop(writer: Writer, name: str, number: int) -> Step:
    """LOOP and its like, with a small count; a LOOP may lead to itself."""
    opcode = LOOPS[name]
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
    push, fixup = writer.push_step(writer.forward(number), width, writer.code_base)
    code = b"\xc3" if writer.chance.random() < 0.6 else b"\xc2" + bytes([writer.chance.randrange(8), 0])
    return Step(name, push + writer.sized(width) + code, (fixup,))


def _code_selector(writer: Writer) -> int:
    """The selector of a code segment like the program's own, or any."""
    if writer.chance.random() < 0.6 or not writer.mode.is_segmented:
        return _own_code(writer)
    return any_selector(writer)


def _base(writer: Writer, selector: int) -> int:
    """Where the segment begins to which a far transfer goes."""
    return layout.segment_of(selector).base if writer.mode.is_segmented else selector << 4


def _own_code(writer: Writer) -> int:
    mode = writer.mode
    if not mode.is_segmented:
        return layout.CODE >> 4
    offset = 0x10 if not mode.code32 else 0x28 if writer.operands.based else 0
    return layout.first_selector(mode.ring) + offset


def any_selector(writer: Writer) -> int:
    """One of those that mean something, sometimes with another RPL; a paragraph where there are no descriptors."""
    chance = writer.chance
    if not writer.mode.is_segmented:
        return chance.choice((layout.DATA >> 4, layout.CODE >> 4, layout.STACK_BASE >> 4, layout.DATA - 0x100 >> 4))
    selector: int = chance.choice(layout.SELECTORS)
    roll = chance.random()
    if roll < 0.5:
        return selector | writer.mode.ring
    return selector | chance.getrandbits(2) if roll < 0.8 else selector


def far_return(writer: Writer, name: str, number: int) -> Step:
    """A pushed far address, and RETF to it."""
    width = writer.any_width()
    selector = _code_selector(writer)
    push, fixup = writer.push_step(writer.forward(number), width, _base(writer, selector))
    front = writer.push(selector, width)
    tail = b"\xcb" if writer.chance.random() < 0.7 else b"\xca" + bytes([writer.chance.randrange(8), 0])
    return Step(name, front + push + writer.sized(width) + tail, (behind(fixup, front),))


def interrupt_return(writer: Writer, name: str, number: int) -> Step:
    """A frame, and IRET with it; sometimes one that changes the ring."""
    width = 4 if name == "iretd" else 2
    front = b""
    selector = _code_selector(writer)
    if selector & 3 > writer.mode.ring and writer.mode.is_segmented:
        front = writer.push(layout.first_selector(selector & 3) + 8, width) + writer.push(layout.STACK_TOP, width)
    front += writer.push(writer.flags(), width) + writer.push(selector, width)
    push, fixup = writer.push_step(writer.forward(number), width, _base(writer, selector))
    return Step(name, front + push + writer.sized(width) + b"\xcf", (behind(fixup, front),))


def behind(fixup: Fixup, front: bytes) -> Fixup:
    return fixup._replace(at=fixup.at + len(front))


def far_jump(writer: Writer, name: str, number: int) -> Step:
    """JMP and CALL to a far address in the instruction, or in memory."""
    width = writer.any_width()
    target, selector = writer.forward(number), _code_selector(writer)
    is_call = name == "lcall"
    if writer.chance.random() < 0.6:
        head = writer.sized(width) + (b"\x9a" if is_call else b"\xea")
        fixup = Fixup(len(head), width, target, _base(writer, selector))
        return Step(name, head + bytes(width) + selector.to_bytes(2, "little"), (fixup,))
    load, fixup = writer.load_step(_EDX, target, _base(writer, selector))
    at = layout.DATA + 0x90
    store = writer.sized(4) + writer.operands.at(at).encode(b"\x89", _EDX)
    store += writer.operands.store(at + width, selector, 2)
    code = writer.sized(width) + writer.operands.at(at).encode(b"\xff", 3 if is_call else 5)
    return Step(name, load + store + code, (fixup,))
