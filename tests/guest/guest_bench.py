"""A guest small enough to see whole, run by an engine over a fake board.

`Bench.start(mode, code)` puts the guest into a mode with everything around it: descriptor tables, TSS, a handler for
each vector. `Bench.run()` runs until the guest writes to port `DONE`, halts, or enters a handler, and gives back a
flat picture of the guest. A picture taken in a handler shows the interrupted program, as the frame tells it, and
`fault`.

Every mode sees the same linear memory: code at CODE, data at DATA, the stack below STACK. In a mode with segment
bases the segments start at CODE, DATA and STACK - 0x800; where they are flat, the offsets are the linear addresses.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from bt.assemble import assemble
from bt.translate import DEFAULT_OPTIONS, Options
from vmm.arch.descriptors import Descriptor, Gate, SystemType
from vmm.arch.exceptions import HAS_ERROR_CODE
from vmm.arch.registers import Cr0, Eflags, Reg, Seg
from vmm.cpu.vcpu import DESC_B, DESC_G, STALE_ALL, SegmentRegister
from vmm.engines.choice import ENGINES
from vmm.engines.engine import Leave
from vmm.engines.names import EngineName, Rings
from vmm.engines.options import EngineOptions
from vmm.engines.plain import plain_machine

RAM = 4 << 20
LOW = 0x5_0000  # the memory that a picture compares
GDT, LDT, IDT, TSS, TSS_B = 0x1000, 0x2000, 0x3000, 0x4000, 0x7000
HANDLERS = 0x9000  # one HLT for each vector
CODE, DATA, STACK = 0x1_0000, 0x2_0000, 0x3_0800
STACK0, STACK1, STACK2 = 0x4_1000, 0x4_2000, 0x4_3000
PAGE_DIRECTORY, PAGE_TABLE = 0x20_0000, 0x20_1000
ENTRY = 0x100  # offset of the program from CODE
CELL = 0x40  # offset from DATA of the memory operand that most cases use
DONE = 0xF4
FILL = 0xEE  # what the data and stack areas hold at the start
TSS_LIMIT = 0x2067
IO_MAP = 0x68

# Access bytes, and the D/B and G bits.
DATA_RW, CODE_RE, CONFORMING, LDT_TYPE, TSS32_FREE, TSS32_BUSY = 0x93, 0x9B, 0x9F, 0x82, 0x89, 0x8B
BIG, PAGES = DESC_B, DESC_G

# Selectors. Ring r has its flat segments at 0x20 * r + 8, its 16-bit and its based ones behind.
MAIN_TSS, OTHER_TSS, THE_LDT = 0x108, 0x110, 0x118
FREE = 0x180  # first selector left to the tests
LOCAL_DATA = 0x0C  # in the LDT

ARITHMETIC = int(Eflags.CF | Eflags.PF | Eflags.AF | Eflags.ZF | Eflags.SF | Eflags.OF)
IF, TF, DF, NT, AC, ID, RF, VM = (int(Eflags[name]) for name in ("IF", "TF", "DF", "NT", "AC", "ID", "RF", "VM"))
PE, PG = int(Cr0.PE), int(Cr0.PG)

REGISTERS = [reg.name.lower() for reg in Reg]
SEGMENTS = [seg.name.lower() for seg in Seg]
SEEDS = {"eax": 0x1122_3344, "ecx": 0x5566_7788, "edx": 0x99AA_BBCC, "ebx": 0xDDEE_F00F,
         "ebp": 0x0BAD_CAFE, "esi": 0x0123_4567, "edi": 0x89AB_CDEF}  # fmt: skip

Picture = dict[str, Any]
asm = cache(assemble)


def flat_code(ring: int) -> int:
    """Selector of ring r's flat 32-bit code segment; data is 8 behind."""
    return 0x40 * ring + 8 | ring


@dataclass(frozen=True)
class Mode:
    """How a case is run. `based`: the segments start at CODE, DATA and STACK - 0x800; else they are flat."""

    name: str
    kind: str  # real, v86, protected
    ring: int
    code32: bool
    based: bool
    iopl: int = 0

    @property
    def is_protected(self) -> bool:
        return self.kind == "protected"

    @property
    def entry(self) -> int:
        return ENTRY if self.based else CODE + ENTRY

    @property
    def cell(self) -> int:
        """Offset in DS of the linear address DATA + CELL."""
        return CELL if self.based else DATA + CELL

    def offset(self, linear: int, seg: str = "ds") -> int:
        """What to write for a linear address in the data, code or stack area."""
        base = {"ds": DATA, "cs": CODE, "ss": STACK - 0x800}[seg]
        return linear - base if self.based else linear

    def __str__(self) -> str:
        return self.name


REAL = Mode("real", "real", 0, False, True)
V86_0 = Mode("v86_iopl0", "v86", 3, False, True, 0)
V86_3 = Mode("v86_iopl3", "v86", 3, False, True, 3)
P16 = tuple(Mode(f"p16_ring{r}", "protected", r, False, True) for r in range(4))
P32 = tuple(Mode(f"p32_ring{r}", "protected", r, True, False) for r in range(4))
P32_BASED = (Mode("p32_based_ring0", "protected", 0, True, True), Mode("p32_based_ring3", "protected", 3, True, True))
P32_3_IOPL3 = Mode("p32_ring3_iopl3", "protected", 3, True, False, 3)
P16_1_IOPL1 = Mode("p16_ring1_iopl1", "protected", 1, False, True, 1)

PROTECTED = (*P16, *P32, *P32_BASED, P32_3_IOPL3, P16_1_IOPL1)
EVERY = (REAL, V86_0, V86_3, *PROTECTED)
KERNELS = tuple(mode for mode in EVERY if mode.ring == 0)
USERS = tuple(mode for mode in EVERY if mode.ring)


@dataclass
class FakeBoard:
    """Ports that remember, and an interrupt controller with one vector."""

    written: list[tuple[int, int, object]] = field(default_factory=list)
    answer: int = 0xA1B2_C3D4
    vector: int = 0x20
    acknowledged: int = 0
    on_done: Callable[[], None] = lambda: None
    on_acknowledge: Callable[[], None] = lambda: None
    time: int = 0x1_0000_0002
    x87_errors: list[bool] = field(default_factory=list)
    ignores_x87_errors: bool = False
    time_offset: int | None = None
    on_x87_error: Callable[[], None] = lambda: None

    def port_read(self, port: int, width: int) -> int:
        return self.answer & ((1 << 8 * width) - 1)

    def port_write(self, port: int, width: int, value: int) -> None:
        if port == DONE:
            self.on_done()
        else:
            self.written.append((port, width, value))

    def port_read_block(self, port: int, width: int, count: int) -> bytes:
        return (self.answer & ((1 << 8 * width) - 1)).to_bytes(width, "little") * count

    def port_write_block(self, port: int, width: int, data: bytes) -> None:
        self.written.append((port, width, data))

    def tsc(self) -> int:
        return self.time

    def tsc_offset(self) -> int | None:
        return self.time_offset

    def x87_error(self, level: bool) -> bool:
        self.x87_errors.append(level)
        if level:
            self.on_x87_error()
        return self.ignores_x87_errors

    def acknowledge_interrupt(self) -> int:
        self.acknowledged += 1
        self.on_acknowledge()
        return self.vector


def descriptor(base: int, limit: int, access: int, bits: int = 0) -> bytes:
    """Eight bytes of a segment descriptor; `limit` in bytes."""
    return Descriptor(base, limit, access << 8 | bits).to_bytes()


def interrupt_gate(offset: int, dpl: int = 0, selector: int = 8, kind: int = SystemType.INTERRUPT_GATE32) -> bytes:
    """Eight bytes of a gate in the IDT."""
    return Gate(offset, selector, kind, dpl, True).to_bytes()


@cache
def low_memory() -> bytes:
    """What lies below CODE: vector table, GDT, LDT, IDT, TSS, handlers."""
    low = bytearray(CODE)

    def put(at: int, *pieces: bytes) -> None:
        data = b"".join(pieces)
        low[at : at + len(data)] = data

    for ring in range(4):
        dpl = ring << 5
        put(
            GDT + 0x40 * ring + 8,
            descriptor(0, 0xFFFF_FFFF, CODE_RE | dpl, BIG | PAGES),
            descriptor(0, 0xFFFF_FFFF, DATA_RW | dpl, BIG | PAGES),
            descriptor(CODE, 0xFFFF, CODE_RE | dpl),
            descriptor(DATA, 0xFFFF, DATA_RW | dpl),
            descriptor(STACK - 0x800, 0xFFFF, DATA_RW | dpl),
            descriptor(CODE, 0xFFFF, CODE_RE | dpl, BIG),
            descriptor(STACK - 0x800, 0xFFFF, DATA_RW | dpl, BIG),
        )
    put(GDT + MAIN_TSS, descriptor(TSS, TSS_LIMIT, TSS32_BUSY))
    put(GDT + OTHER_TSS, descriptor(TSS_B, 0x67, TSS32_FREE))
    put(GDT + THE_LDT, descriptor(LDT, 0xFF, LDT_TYPE))
    put(LDT + (LOCAL_DATA & 0xFFF8), descriptor(DATA, 0xFFF, DATA_RW | 0x60))
    for ring, top in enumerate((STACK0, STACK1, STACK2)):
        put(TSS + 4 + 8 * ring, little(top, 4), little(flat_code(ring) + 8, 4))
    put(TSS + 0x66, little(IO_MAP, 2), b"\xff" * 0x2000)
    put(TSS + IO_MAP + DONE // 8, bytes([0xFF & ~(1 << DONE % 8)]))
    for vector in range(256):
        put(4 * vector, little(HANDLERS + vector, 4))
        put(IDT + 8 * vector, interrupt_gate(HANDLERS + vector, 3 if vector in (3, 4, 0x80) else 0))
    put(HANDLERS, b"\xf4" * 256)
    return bytes(low)


class Bench:
    """One virtual machine without devices, and the engine that runs it."""

    def __init__(
        self,
        options: Options = DEFAULT_OPTIONS,
        engine: EngineName = EngineName.TRANSLATE,
        nested_paging: bool = False,
        rings: Rings = Rings.THREE,
    ) -> None:
        self.board = FakeBoard()
        machine = plain_machine(RAM, lambda _vcpu: self.board)
        self.physical, self.memory, self.mmu = machine.physical, machine.memory, machine.mmu
        self.vcpu, self.hole = machine.vcpu, machine.hole
        self._host = self.physical.window(0, RAM)
        self.engine = ENGINES[engine](machine, EngineOptions(options, nested_paging, rings))
        self.phys = self.engine.phys
        self.board.on_done = self.engine.request_leave
        self.board.on_acknowledge = lambda: self.vcpu.set_interrupt_pending(False)
        self.engine.attach()
        self.mode = REAL
        self.end = 0
        self.leave: Leave | None = None
        self._before = b""
        self._flags = 0

    # --- set-up -----------------------------------------------------------------------------------------

    def recycle(self) -> None:
        """As new: for cases that are too many for a machine each."""
        self.vcpu.reset()
        self._host[:LOW] = bytes(LOW)
        self.mmu.a20_mask = 0xFFFF_FFFF
        self.board.__init__(on_done=self.board.on_done, on_acknowledge=self.board.on_acknowledge)  # type: ignore[misc]
        self.engine.attach()

    def start(self, mode: Mode, code: bytes | str, **registers: int) -> None:
        """Put the guest at the start of `code`, in `mode`; general registers, `eflags`, `cr0`.. can be given."""
        self.mode = mode
        if isinstance(code, str):
            code = asm(code, mode.code32)
        self.poke(CODE + ENTRY, code + bytes([0xE6, DONE]))  # out DONE, al
        self.end = mode.entry + len(code)
        self._host[: len(low_memory())] = low_memory()
        self.poke(DATA, bytes([FILL]) * 0x1000)
        self.poke(STACK - 0x800, bytes([FILL]) * 0x1000)
        {"real": self._real, "v86": self._v86, "protected": self._protected}[mode.kind]()
        self.set(**{**SEEDS, "esp": mode.offset(STACK, "ss")})
        self.vcpu.eip = mode.entry
        self.vcpu.halted = False
        self.set(eflags=2 | mode.iopl << 12 | (VM if mode.kind == "v86" else 0))
        self.set(**registers)

    def set(self, **values: int) -> None:
        """Set general registers, `eflags` (mode bits are added), control registers."""
        for name, value in values.items():
            if name == "eflags":
                self.vcpu.eflags = value | self.mode.iopl << 12 | (VM if self.mode.kind == "v86" else 0) | 2
            elif name in REGISTERS:
                self.vcpu.set_reg32(REGISTERS.index(name), value)
            else:
                setattr(self.vcpu, name, value)

    def _real(self) -> None:
        vcpu = self.vcpu
        self.load_segments(self.mode)
        vcpu.idtr, vcpu.gdtr = (0, 0x3FF), (0x00AB_CDEF, 0x27)

    def _protected_tables(self) -> None:
        vcpu = self.vcpu
        vcpu.cr0 |= PE
        vcpu.gdtr, vcpu.idtr = (GDT, 0x3FF), (IDT, 0x7FF)
        vcpu.ldtr = SegmentRegister(THE_LDT, LDT, 0xFF, LDT_TYPE << 8)
        vcpu.tr = SegmentRegister(MAIN_TSS, TSS, TSS_LIMIT, TSS32_BUSY << 8)
        vcpu.make_stale(STALE_ALL)

    def _v86(self) -> None:
        self._protected_tables()
        self.vcpu.cpl = 3
        self.load_segments(self.mode)

    def _protected(self) -> None:
        self._protected_tables()
        self.vcpu.cpl = self.mode.ring
        self.load_segments(self.mode)

    def load_segments(self, mode: Mode) -> None:
        """Load every segment register as a mode has it."""
        if mode.kind != "protected":
            for seg, base in self._bases().items():
                flags = 0xF300 if mode.kind == "v86" else self.vcpu.segment(seg).flags
                self.vcpu.set_segment(seg, SegmentRegister(base >> 4, base, 0xFFFF, flags))
            return
        code, data, stack = (0, 8, 8) if not mode.based else (0x28, 0x18, 0x30) if mode.code32 else (0x10, 0x18, 0x20)
        first = flat_code(mode.ring)
        for seg in Seg:
            self.load(seg, first + (code if seg == Seg.CS else stack if seg == Seg.SS else data))

    def continue_at(self, shown: Picture) -> None:
        """Go back from a handler to the program that `shown`, a picture of a fault, interrupted."""
        self.vcpu.halted = False
        self.vcpu.eip = shown["eip"]
        self.vcpu.cpl = self.mode.ring
        self.vcpu.eflags = shown["eflags"] & ~RF
        self.set(esp=shown["esp"])
        self.load_segments(self.mode)

    def load(self, seg: int, selector: int) -> None:
        """Put a descriptor into a segment register, unchecked."""
        at = (LDT if selector & 4 else GDT) + (selector & 0xFFF8)
        found = Descriptor.from_bytes(self.peek(at, 8))
        self.vcpu.set_segment(seg, SegmentRegister(selector, found.base, found.limit, found.flags))

    def _bases(self) -> dict[int, int]:
        return {seg: CODE if seg == Seg.CS else STACK - 0x800 if seg == Seg.SS else DATA for seg in Seg}

    def map_pages(self, *, alias: int = 0, missing: tuple[int, ...] | list[int] = (), rights: int = 7) -> None:
        """Turn 32-bit paging on: the first 4 MiB identity, again at `alias`, with some pages missing."""
        for page in range(1024):
            entry = 0 if page << 12 in missing else page << 12 | rights
            self.poke(PAGE_TABLE + 4 * page, entry)
        self.poke(PAGE_DIRECTORY, PAGE_TABLE | 7)
        if alias:
            self.poke(PAGE_DIRECTORY + (alias >> 20), PAGE_TABLE | 7)
        self.vcpu.cr3 = PAGE_DIRECTORY
        self.vcpu.cr0 |= PG
        self.vcpu.make_stale(STALE_ALL)

    # --- memory -----------------------------------------------------------------------------------------

    def poke(self, at: int, data: bytes | int, size: int = 4) -> None:
        """Write guest-physical memory, as another master on the bus would."""
        self.memory.write(at, data if isinstance(data, bytes) else data.to_bytes(size, "little"))

    def peek(self, at: int, count: int = 4) -> bytes:
        """Read guest-physical memory."""
        return self.memory.read(at, count)

    def word(self, at: int, size: int = 4) -> int:
        """Read a little-endian value from guest-physical memory."""
        return int.from_bytes(self.peek(at, size), "little")

    # --- running ----------------------------------------------------------------------------------------

    def run(self, blocks: int = 100_000) -> Picture:
        """Run to the end, a handler, HLT or shutdown; at most so many blocks."""
        self._before, self._flags = bytes(self._host[:LOW]), self.vcpu.eflags
        self.phys.set_block_limit(blocks)
        self.leave = self.engine.run()
        return self.picture()

    def picture(self) -> Picture:
        """Everything the guest could tell apart; `memory` holds the runs of bytes that differ from the start of the
        run."""
        vcpu = self.vcpu
        shown: Picture = {name: vcpu.reg32(index) for index, name in enumerate(REGISTERS)}
        shown |= {name: (vcpu.selector(seg), vcpu.base(seg)) for seg, name in enumerate(SEGMENTS)}
        shown |= {"eip": vcpu.eip, "eflags": vcpu.eflags, "cpl": vcpu.cpl}
        shown |= {"gdtr": vcpu.gdtr, "idtr": vcpu.idtr, "ldtr": vcpu.ldtr.selector, "tr": vcpu.tr.selector}
        shown |= {"cr0": vcpu.cr0, "cr2": vcpu.cr2, "cr3": vcpu.cr3, "cr4": vcpu.cr4, "dr": tuple(vcpu.dr)}
        frame = range(0)
        vector = vcpu.eip - HANDLERS - 1  # behind the handler's HLT
        if self.leave is Leave.HALTED and vcpu.base(Seg.CS) == 0 and 0 <= vector < 256:
            frame = self._interrupted(shown, vector)
        elif self.leave is Leave.REQUESTED and shown["eip"] == self.end + 2:
            shown["eip"] = "end"
        elif self.leave is not Leave.PREEMPTED:
            shown["left"] = self.leave
        shown["memory"] = self._changes(frame)
        return shown

    def _changes(self, frame: range) -> dict[int, bytes]:
        after, before = bytes(self._host[:LOW]), self._before
        changes: dict[int, bytearray] = {}
        if after == before:
            return {}
        start = -2
        for page in range(0, LOW, 4096):
            if after[page : page + 4096] == before[page : page + 4096]:
                continue
            for at in range(page, page + 4096):
                if after[at] == before[at] or at in frame:
                    continue
                if start >= 0 and at == start + len(changes[start]):
                    changes[start].append(after[at])
                else:
                    start = at
                    changes[at] = bytearray([after[at]])
        return {at: bytes(data) for at, data in changes.items()}

    def _interrupted(self, shown: Picture, vector: int) -> range:
        """Put the interrupted program's registers into the picture; returns where the frame lies."""
        return self._real_frame(shown, vector) if self.vcpu.is_real else self._protected_frame(shown, vector)

    def _real_frame(self, shown: Picture, vector: int) -> range:
        at = self.vcpu.base(Seg.SS) + (shown["esp"] & 0xFFFF)
        ip, cs, flags = (self.word(at + 2 * i, 2) for i in range(3))
        upper = shown["eflags"] & ~0xFFFF | self._flags & AC  # AC is cleared on the way in and not in the frame
        shown |= {"eip": ip, "cs": (cs, cs << 4), "eflags": upper | flags, "fault": (vector, None)}
        shown["esp"] = shown["esp"] & 0xFFFF_0000 | shown["esp"] + 6 & 0xFFFF
        return range(at, at + 6)

    def _protected_frame(self, shown: Picture, vector: int) -> range:
        wide = self.vcpu.stack_size == 4
        start = at = self.vcpu.base(Seg.SS) + (shown["esp"] if wide else shown["esp"] & 0xFFFF)
        code = None
        if vector in HAS_ERROR_CODE:
            code, at = self.word(at), at + 4
        eip, cs, flags, esp, ss = (self.word(at + 4 * i) for i in range(5))
        shown |= {"eip": eip, "cs": (cs, self._base(cs, flags)), "eflags": flags & ~RF, "fault": (vector, code)}
        at += 12
        if flags & VM or cs & 3 > self.vcpu.cpl:
            shown |= {"esp": esp, "ss": (ss, self._base(ss, flags))}
            at += 8
        else:
            shown["esp"] += at - start
        if flags & VM:
            for name in ("es", "ds", "fs", "gs"):
                shown[name] = (self.word(at), self.word(at) << 4)
                at += 4
        shown["cpl"] = 3 if flags & VM else cs & 3
        return range(start, at)

    def _base(self, selector: int, flags: int) -> int:
        if flags & VM:
            return selector << 4
        return Descriptor.from_bytes(self.peek((LDT if selector & 4 else GDT) + (selector & 0xFFF8), 8)).base

    # --- cases ------------------------------------------------------------------------------------------

    def run_case(self, code: bytes | str, mode: Mode, **before: int) -> tuple[Picture, Picture]:
        """Run from a fresh start: (the picture before, with EIP at the end; the picture after)."""
        self.start(mode, code, **before)
        untouched = self.here()
        return untouched, self.run()

    def here(self) -> Picture:
        """The picture before a run, as if nothing but EIP changed in it."""
        self._before = bytes(self._host[:LOW])
        self.leave = Leave.PREEMPTED
        return self.picture() | {"eip": "end"}


# --- what cases expect ---------------------------------------------------------------------------------------

PATTERNS = (0, ARITHMETIC | DF, 0x41, 0x894, 0x4D5, 0x8D4 | AC | ID, 0x401 | ID, 0x80 | AC)
"""EFLAGS images: all six arithmetic flags and DF, set and clear, in several combinations."""


def stored(at: int, data: bytes) -> dict[int, bytes]:
    """What a picture's `memory` shows after a store into the data or stack area (which must not hold FILL)."""
    assert FILL not in data
    return {at: data}


def little(value: int, size: int) -> bytes:
    """`size` bytes, little-endian."""
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def faulted(mode: Mode, vector: int, code: int | None = None) -> Picture:
    """The first instruction faulted; in real mode error codes are not pushed."""
    return {"eip": mode.entry, "fault": (int(vector), None if mode.kind == "real" else code)}


# --- encodings, the same text for every mode ----------------------------------------------------------------


def encode(mode: Mode, opcode: str, *, reg: int = 0, rm: int | str, size: int = 0, address: int = 0) -> bytes:
    """An instruction with ModR/M: `rm` a register number, or "cell" for the memory operand at DATA + CELL.

    `size` is the operand size in bytes (0: no prefix whatever the mode), `address` the address size.
    """
    default = 4 if mode.code32 else 2
    address = address or default
    prefixes = (b"\x66" if size not in (0, default) else b"") + (b"\x67" if address != default else b"")
    if isinstance(rm, int):
        tail = bytes([0xC0 | reg << 3 | rm])
    elif address == 4:
        tail = bytes([reg << 3 | 5]) + mode.cell.to_bytes(4, "little")
    else:
        tail = bytes([reg << 3 | 6]) + mode.cell.to_bytes(2, "little")
    return prefixes + bytes.fromhex(opcode) + tail


def plain(mode: Mode, opcode: str, size: int = 0) -> bytes:
    """An instruction without ModR/M, with the operand-size prefix that `size` needs in this mode."""
    return (b"\x66" if size not in (0, 4 if mode.code32 else 2) else b"") + bytes.fromhex(opcode)
