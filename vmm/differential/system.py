"""Steps for system instructions: segment and table registers, control and debug registers, MSRs."""

from typing import Final

from vmm.arch.registers import Cr0, Cr4, Reg
from vmm.differential import layout
from vmm.differential.flow import any_selector
from vmm.differential.instructions import Writer
from vmm.differential.modes import Kind
from vmm.differential.program import Step

_EAX, _ECX, _EDX, _ESP = (int(reg) for reg in (Reg.EAX, Reg.ECX, Reg.EDX, Reg.ESP))
_MSRS: Final = (0x10, 0x17, 0x1B, 0x8B, 0xFE, 0x174, 0x175, 0x176, 0x1D9, 0xC000_0080, 0xC000_0081)
_EFER: Final = 0xC000_0080
_CR0_BITS: Final = tuple(int(bit) for bit in (Cr0.MP, Cr0.TS, Cr0.EM, Cr0.WP, Cr0.AM, Cr0.NW))
_CR0_RARE: Final = (int(Cr0.PE), int(Cr0.PG))
_CR4_BITS: Final = tuple(int(bit) for bit in (Cr4.TSD, Cr4.DE, Cr4.PSE, Cr4.PGE, Cr4.PCE, Cr4.OSFXSR, Cr4.VME))
_LEAVES: Final = (0, 1, 2, 0x8000_0000, 0x8000_0001, 0x8000_0004)
_RM_EAX: Final = 0xC0


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
    return any_selector(writer)


def pop_segment(writer: Writer, name: str, number: int) -> Step:
    """POP: half of the time of a segment register, else any."""
    if writer.chance.random() < 0.5:
        return Step(name, writer.plain(name))
    seg, code = writer.chance.choice(((0, b"\x07"), (2, b"\x17"), (3, b"\x1f"), (4, b"\x0f\xa1"), (5, b"\x0f\xa9")))
    width = writer.any_width()
    return Step(name, writer.push(_segment_value(writer, seg), width) + writer.sized(width) + code)


FAR_LOADS: Final = {
    "les": b"\xc4", "lds": b"\xc5", "lss": b"\x0f\xb2", "lfs": b"\x0f\xb4", "lgs": b"\x0f\xb5"
}  # fmt: skip


def load_pointer(writer: Writer, name: str, number: int) -> Step:
    """LDS and its like, of a far pointer from the pool; LSS into a register that is not ESP, mostly."""
    width = writer.any_width()
    at = layout.pool_pointer(writer.chance.randrange(len(layout.SELECTORS)), width)
    reg = writer.chance.choice((0, 1, 2, 3, 5, 6, 7))
    return Step(name, writer.sized(width) + writer.operands.at(at).encode(FAR_LOADS[name], reg))


def load_table(writer: Writer, name: str, number: int) -> Step:
    """LGDT and LIDT from the pool. In real mode the vectors stay where they are: elsewhere they lead to anything."""
    good = 0 if name == "lgdt" else 1
    index = good if writer.chance.random() < 0.9 else writer.chance.randrange(len(layout.POOL_TABLES))
    if name == "lidt" and writer.mode.kind is Kind.REAL:
        index = _REAL_VECTORS
    memory = writer.operands.at(layout.POOL + 8 * index)
    return Step(name, writer.sized(4) + memory.encode(b"\x0f\x01", 2 if name == "lgdt" else 3))


_REAL_VECTORS: Final = 2
SELECTOR_TESTS: Final = {"lldt": (b"\x0f\x00", 2), "ltr": (b"\x0f\x00", 3), "verr": (b"\x0f\x00", 4),
                          "verw": (b"\x0f\x00", 5)}  # fmt: skip
SELECTOR_READS: Final = {"lar": b"\x0f\x02", "lsl": b"\x0f\x03"}
_GOOD: Final = {"lldt": layout.THE_LDT, "ltr": layout.SPARE_TSS}


def test_selector(writer: Writer, name: str, number: int) -> Step:
    """LLDT, LTR, VERR, VERW, LAR, LSL and ARPL of a selector that means something."""
    selector = _GOOD.get(name, 0) if name in _GOOD and writer.chance.random() < 0.6 else any_selector(writer)
    front = _load_ax(writer, selector)
    if name in SELECTOR_TESTS:
        opcode, extension = SELECTOR_TESTS[name]
        return Step(name, front + opcode + bytes([_RM_EAX | extension << 3]))
    if name == "arpl":
        return Step(name, front + writer.load(_EDX, any_selector(writer)) + b"\x63\xd0")
    return Step(name, front + writer.sized(writer.any_width()) + SELECTOR_READS[name] + bytes([_RM_EAX | _EDX << 3]))


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
    load, fixup = writer.load_step(_EDX, writer.forward(number), writer.code_base)
    stack = writer.sized(4) + bytes([0x89, 0xC0 | _ESP << 3 | _ECX])  # mov ecx, esp
    return Step(name, load + stack + (b"\x0f\x34" if name == "sysenter" else b"\x0f\x35"), (fixup,))
