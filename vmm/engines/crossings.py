"""Switches of rings that are done before: INT n and IRETD, SYSENTER and SYSEXIT without a call of Python.

The usual way works out what such an instruction does, and brings the physical CPU into step with it. The outcome
depends on little: where the guest comes from, a few registers, a gate and descriptors. So the first time is written
down as a record: what must be so, and what is so afterwards. From then on host code (`crossing_code.py`) that the
engine calls at the exit compares, and writes (docs/adr/0032). Where anything is otherwise, the exit goes to Python.

What the VMM keeps of the side that runs, in Python, is out of date while that code goes to and fro: `catch_up` puts it
right when Python runs again.

Source: Intel SDM Vol. 2A, "INT n/INTO/INT3/INT1", "IRET/IRETD"; Vol. 2B, "SYSENTER", "SYSEXIT".
"""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bt.assemble import host_code
from bt.cache import BlockSpace
from bt.decode import Insn
from bt.emit import CALLOUT_VECTOR
from vmm.arch.descriptors import DESCRIPTOR_SIZE, SELECTOR_INDEX, SELECTOR_TI, SystemType, decode_gate
from vmm.arch.exceptions import GuestFault
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu.vcpu import DESC_P, DESC_TYPE_BUSY
from vmm.engines.code import TranslatedCode
from vmm.engines.crossing_code import CELLS_MARK, CROSSING, TABLE_SIZE, Cell, Field, Kind
from vmm.engines.machine import Machine
from vmm.engines.stats import EngineStats
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu

KINDS: Final = {"sysenter": Kind.SYSENTER, "int": Kind.INT, "sysexit": Kind.SYSEXIT, "iretd": Kind.IRET}
"""The instructions, by name."""
RECORD_SIZE: Final = 2048
RECORDS_MAX: Final = 128
LESSONS_MAX: Final = 2000
"""So often is a site learned anew; then its conditions change too often for it to be worth while."""
_WORD: Final = 4
_CS, _SS, _DS, _ES, _FS, _GS = (int(seg) for seg in (Seg.CS, Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS))
_DATA: Final = (_ES, _DS, _FS, _GS)
_ESP: Final = int(Reg.ESP)
_IF: Final = int(Eflags.IF)
_IN_FORCE: Final = int(Eflags.IOPL | Eflags.AC | Eflags.NT)
_FIXED: Final = int(Eflags.TF | Eflags.NT | Eflags.VM | Eflags.VIF | Eflags.VIP | Eflags.IOPL | Eflags.AC)
"""RF is not among them: every fault's frame has it, and without breakpoints it means nothing."""
_ATTRIBUTES: Final = 0x00D0_FF00
"""Of a hidden segment register's flags: without base and limit, and without what marks native loads."""
_BREAKPOINTS: Final = 0xFF
_DR7: Final = 7
_FRAME: Final = 20
_STACK_0: Final = 4  # in a 32-bit TSS: ESP0, and behind it SS0
_TSS_32: Final = int(SystemType.TSS32_AVAILABLE)
_TYPE: Final = 0x1F
_USER: Final = 3
_SAME: Final = (
    Slot.CR0, Slot.CR4, Slot.GDT_BASE, Slot.GDT_LIMIT, Slot.IDT_BASE, Slot.IDT_LIMIT, Slot.TR_BASE, Slot.TR_FLAGS,
    Slot.BASED, Slot.SYSENTER_CS, Slot.SYSENTER_EIP,
)  # fmt: skip
_TOLD: Final = (
    Slot.CS, Slot.CS_LOW, Slot.CS_HIGH, *range(Slot.SHORTAGE, Slot.SHORTAGE + 24, _WORD),
    *range(Slot.LIMIT, Slot.LIMIT + 24, _WORD),
)  # fmt: skip
"""What the vCPU page says of the segments of the side that runs."""


class Side(NamedTuple):
    """What Python keeps of the side that runs. `flags` are those of CS and SS as the guest loaded them."""

    segments: bytes
    flags: tuple[int, int]
    cpl: int
    space: BlockSpace
    scratch: memoryview
    in_force: tuple[int, ...] | None


@dataclass(slots=True)
class _Record:
    """One record: where host code finds it, what it depends on and leads to, and how often it was learned and
    reported."""

    address: int
    words: memoryview
    name: str = ""
    depends: object = None
    side: Side | None = None
    lessons: int = 0
    reported: int = 0


@dataclass(slots=True)
class Start:
    """What there was before an instruction that may be learned."""

    insn: Insn
    kind: Kind
    key: int
    esp: int
    data: tuple[tuple[int, int], ...]
    conditions: list[tuple[int, int, int]] = field(default_factory=list)


class Crossings:
    """Those of one engine. An observer is to see every exit: with one they are not enabled."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, code: TranslatedCode, stats: EngineStats) -> None:
        self._vcpu, self._hole, self._code, self._stats = machine.vcpu, machine.hole, code, stats
        self._phys = phys
        memory = machine.physical.address
        self._page = memory + machine.hole.parts["vcpu_page"].host
        self._lookup = memory + machine.hole.parts["lookup"].host
        self.cells = (ctypes.c_uint64 * (max(Cell) // 8 + 1))()
        self._table = (ctypes.c_uint64 * TABLE_SIZE)()
        self._memory = (ctypes.c_uint8 * (RECORD_SIZE * RECORDS_MAX))()
        self._records: dict[int, _Record] = {}
        """By the cache address behind their exit."""
        self._by_address: dict[int, _Record] = {}
        for cell, value in (
            (Cell.HANDLE, phys.handle), (Cell.REG_READ, phys.reg_read), (Cell.STATE, phys.saved_state),
            (Cell.MEMORY, memory), (Cell.PAGE, self._page), (Cell.TABLE, ctypes.addressof(self._table)),
        ):  # fmt: skip
            self.cells[cell // 8] = value
        mark = CELLS_MARK.to_bytes(8, "little")
        own = ctypes.addressof(self.cells).to_bytes(8, "little")
        code.cache.on_tombstone = self._forget
        phys.answer_quickly(CALLOUT_VECTOR, host_code(CROSSING).replace(mark, own))

    def enable(self, enabled: bool) -> None:
        """May host code answer exits?"""
        self.cells[Cell.ENABLED // 8] = enabled

    def clear(self) -> None:
        """Forget everything: the cache is emptied, or has moved."""
        self.report()
        ctypes.memset(self._table, 0, ctypes.sizeof(self._table))
        self._records.clear()
        self._by_address.clear()
        lookup = self._hole.linear("lookup")
        self.cells[Cell.HOLE // 8] = self._hole.base
        self.cells[Cell.LOOKUP // 8] = self._lookup - lookup & (1 << 64) - 1
        self.cells[Cell.NOWHERE // 8] = lookup

    def _forget(self, key: int) -> None:
        """The exit there is another one now."""
        record = self._records.get(key)
        if record is not None and self._table[key >> 1 & TABLE_SIZE - 1] == record.address:
            self._table[key >> 1 & TABLE_SIZE - 1] = 0

    def report(self) -> None:
        """Count what host code has done."""
        for record in self._records.values():
            count = record.words.cast("B").cast("Q")[Field.COUNT // 8]
            if count != record.reported:
                self._stats.host_code[record.name] += count - record.reported
                record.reported = count

    def catch_up(self) -> Side:
        """The guest has changed sides: Python learns of it. Returns the side that runs now."""
        record = self._by_address[self.cells[Cell.LATEST // 8]]
        self.cells[Cell.LATEST // 8] = 0
        side, code = record.side, self._code
        assert side is not None
        self._vcpu.set_code_and_stack(side.segments, side.flags, side.cpl)
        code.space, code.scratch = side.space, side.scratch
        return side

    # --- learning --------------------------------------------------------------------------------------

    def look(self, name: str, insn: Insn, key: int) -> Start | None:
        """Before an instruction is carried out in the usual way: what it depends on; None if it is not worth it."""
        vcpu, kind = self._vcpu, KINDS[name]
        record = self._records.get(key)
        if record is not None and record.lessons >= LESSONS_MAX:
            return None
        enters = kind in (Kind.SYSENTER, Kind.INT)
        if (
            vcpu.cpl != (_USER if enters else 0)
            or vcpu.field_flags
            or vcpu.pending_debug
            or vcpu.dr[_DR7] & _BREAKPOINTS
            or vcpu.state.d[hw.D_HFLAGS] & hw.HF_ADDSEG
            or vcpu.stale
            or vcpu.segments_changed
            or vcpu.base(_CS)
            or vcpu.page[Slot.FLAGS >> 2] & Eflags.NT
        ):
            return None
        return Start(insn, kind, key, vcpu.reg32(_ESP), self._data(), list(self._conditions()))

    def _data(self) -> tuple[tuple[int, int], ...]:
        vcpu = self._vcpu
        return tuple((vcpu.selector(seg), vcpu.flags_of(seg)) for seg in _DATA)

    def _conditions(self) -> Iterator[tuple[int, int, int]]:
        """(host address, mask, value) of what must be as it is now."""
        d, page = self._vcpu.state.d, self._vcpu.page
        for at in (hw.D_HFLAGS, *(hw.D_SEGS + seg * hw.SEG_WORDS + hw.SEG_BASE for seg in (_CS, _SS, _DS, _ES))):
            yield self._state(at), MASK32, d[at]
        for seg in _DATA:
            at = hw.D_SEGS + seg * hw.SEG_WORDS
            flags = d[at + hw.SEG_FLAGS] & _ATTRIBUTES
            if not flags & DESC_P:
                yield self._state(at + hw.SEG_FLAGS), DESC_P, 0
                continue
            yield self._state(at + hw.SEG_FLAGS), _ATTRIBUTES, flags
            yield self._state(at + hw.SEG_LIMIT), MASK32, d[at + hw.SEG_LIMIT]
        for slot in _SAME:
            yield self._page + slot, MASK32, page[slot >> 2]
        yield self._page + Slot.FLAGS, _IN_FORCE, page[Slot.FLAGS >> 2] & _IN_FORCE
        if self._vcpu.cpl == 0:
            yield self._page + Slot.CS, MASK32, page[Slot.CS >> 2]

    def _state(self, word: int) -> int:
        return self._phys.saved_state + _WORD * word

    def learn(self, start: Start, in_force: tuple[int, ...] | None) -> None:
        """Remember what has just been done in the usual way, if it was the usual thing."""
        vcpu, code = self._vcpu, self._code
        enters = start.kind in (Kind.SYSENTER, Kind.INT)
        if (
            vcpu.cpl != (0 if enters else _USER)
            or vcpu.field_flags
            or vcpu.state.d[hw.D_HFLAGS] & hw.HF_ADDSEG
            or vcpu.base(_CS)
            or self._data() != start.data
            or vcpu.page[Slot.FLAGS >> 2] & Eflags.NT
        ):
            return
        entrance = code.cache.view.find(code.space, vcpu.eip)
        if entrance is None or entrance.entry != vcpu.state.q[hw.Q_EIP]:
            return
        if not enters:
            flushes = code.cache.flushes
            code.remember(entrance)
            if code.cache.flushes != flushes:
                return
        values: dict[Field, int] = {Field.KEY: start.key, Field.KIND: start.kind}
        if enters:
            values[Field.ENTRY] = entrance.entry
        else:
            values[Field.ROOT] = self._lookup + code.space.table.root - self._hole.linear("lookup")
        memory: list[tuple[int, int, int]] = []
        if start.kind is Kind.INT and not self._learn_interrupt(start, values, memory):
            return
        if start.kind is Kind.IRET and not self._learn_return(start, values, memory):
            return
        side = Side(
            vcpu.code_and_stack, (vcpu.flags_of(_CS), vcpu.flags_of(_SS)), vcpu.cpl, code.space, code.scratch, in_force
        )
        self._write(start, values, memory, list(self._stores(start.kind)), side)

    def _learn_interrupt(self, start: Start, values: dict[Field, int], memory: list[tuple[int, int, int]]) -> bool:
        """Through a gate of 32 bits to ring 0, on the stack that a TSS of 32 bits names."""
        vcpu = self._vcpu
        vector = start.insn.tail[0]
        at = vcpu.idtr[0] + vector * DESCRIPTOR_SIZE & MASK32
        gate = decode_gate(vcpu.memory.read_bytes(at, DESCRIPTOR_SIZE, False))
        if gate.type not in (SystemType.INTERRUPT_GATE32, SystemType.TRAP_GATE32) or vcpu.eip != gate.offset:
            return False
        if vcpu.tr.flags >> 8 & _TYPE & ~(DESC_TYPE_BUSY >> 8) != _TSS_32:
            return False
        stack = vcpu.tr.base + _STACK_0 & MASK32
        esp = vcpu.memory.read(stack, _WORD, False)
        selector = vcpu.memory.read(stack + _WORD & MASK32, _WORD, False)
        if vcpu.reg32(_ESP) != esp - _FRAME & MASK32 or vcpu.selector(_SS) != selector & 0xFFFF:
            return False
        frame = self._frame(esp - _FRAME)
        memory.append(self._in_memory(at))
        memory += self._descriptors(gate.selector, selector)
        values |= {
            Field.RETURN: frame[0], Field.CODE: frame[1], Field.STACK_SELECTOR: frame[4], Field.STACK: stack,
            Field.INNER_STACK: selector & 0xFFFF,
            Field.KEPT_IF: 0 if gate.type == SystemType.INTERRUPT_GATE32 else _IF,
        }  # fmt: skip
        return len(memory) == 3

    def _learn_return(self, start: Start, values: dict[Field, int], memory: list[tuple[int, int, int]]) -> bool:
        """To ring 3, by a frame of five doublewords on a stack of 32 bits."""
        vcpu = self._vcpu
        frame = self._frame(start.esp)
        code, stack = frame[1] & 0xFFFF, frame[4] & 0xFFFF
        if vcpu.reg32(_ESP) != frame[3] or vcpu.selector(_CS) != code or vcpu.selector(_SS) != stack:
            return False
        memory += self._descriptors(code, stack)
        values |= {
            Field.CODE: code, Field.STACK_SELECTOR: stack, Field.FIXED: _FIXED, Field.FLAGS: frame[2] & _FIXED
        }  # fmt: skip
        return len(memory) == 2 and not frame[2] & _FIXED & ~int(Eflags.IOPL | Eflags.AC)

    def _frame(self, la: int) -> list[int]:
        return [self._vcpu.memory.read(la + at & MASK32, _WORD, False) for at in range(0, _FRAME, _WORD)]

    def _descriptors(self, *selectors: int) -> Iterator[tuple[int, int, int]]:
        """What the GDT has for them; nothing for those of the LDT."""
        base = self._vcpu.gdtr[0]
        for selector in selectors:
            if not selector & SELECTOR_TI:
                yield self._in_memory(base + (selector & SELECTOR_INDEX) & MASK32)

    def _in_memory(self, la: int) -> tuple[int, int, int]:
        raw = self._vcpu.memory.read_bytes(la, DESCRIPTOR_SIZE, False)
        return la, int.from_bytes(raw[:_WORD], "little"), int.from_bytes(raw[_WORD:], "little")

    def _stores(self, kind: Kind) -> Iterator[tuple[int, int]]:
        """(host address, value) of what is the same after each crossing."""
        d, page = self._vcpu.state.d, self._vcpu.page
        first = hw.D_SEGS + _CS * hw.SEG_WORDS
        for at in (hw.D_HFLAGS, *range(first, first + 2 * hw.SEG_WORDS)):  # CS and SS are neighbours
            yield self._state(at), d[at]
        for slot in _TOLD:
            yield self._page + slot, page[slot >> 2]
        if kind is Kind.SYSENTER:
            yield self._page + Slot.IF, 0

    def _write(
        self, start: Start, values: dict[Field, int], memory: list[tuple[int, int, int]],
        stores: list[tuple[int, int]], side: Side,
    ) -> None:  # fmt: skip
        """Put a record where host code finds it."""
        record = self._records.get(start.key) or self._new(start.key)
        for la in (*(each[0] for each in memory), values.get(Field.STACK)):
            if la is not None:
                self._reach(la)
        depends = (start.conditions, memory, values, stores)
        if record.depends == depends:
            self._table[start.key >> 1 & TABLE_SIZE - 1] = record.address
            return
        record.depends = depends
        record.name, record.side, record.lessons = start.insn.name, side, record.lessons + 1
        words = record.words
        counts = {Field.CONDITIONS: len(start.conditions), Field.MEMORY: len(memory), Field.STORES: len(stores)}
        for name, value in (values | counts).items():
            words[name >> 2] = value & MASK32
            if name is Field.ROOT:
                words[(name >> 2) + 1] = value >> 32
        at = Field.LISTS >> 2
        for address, mask, value in start.conditions:
            words[at : at + 4] = _quadruple(address & MASK32, address >> 32, mask, value)
            at += 4
        for la, low, high in memory:
            words[at : at + 4] = _quadruple(la, low, high, 0)
            at += 4
        for address, value in stores:
            words[at : at + 4] = _quadruple(address & MASK32, address >> 32, value, 0)
            at += 4
        self._table[start.key >> 1 & TABLE_SIZE - 1] = record.address

    def _reach(self, la: int) -> None:
        """Have a page in the shadow tables that no code of the guest's touches, but the processor does."""
        with suppress(GuestFault):
            self._code.shadow.fill(la, False, False)

    def _new(self, key: int) -> _Record:
        """A record for an exit. Where there is no room, all begin anew."""
        if len(self._records) == RECORDS_MAX:
            self.clear()
        number = len(self._records)
        address = ctypes.addressof(self._memory) + RECORD_SIZE * number
        words = memoryview(self._memory).cast("B")[RECORD_SIZE * number : RECORD_SIZE * (number + 1)].cast("I")
        words[Field.COUNT >> 2] = words[(Field.COUNT >> 2) + 1] = 0
        record = self._records[key] = self._by_address[address] = _Record(address, words)
        return record


def _quadruple(*words: int) -> memoryview:
    return memoryview(b"".join((word & MASK32).to_bytes(_WORD, "little") for word in words)).cast("I")
