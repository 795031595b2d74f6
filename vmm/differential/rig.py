"""A machine of one engine that runs programs, one after the other, each on a processor and memory as new.

Nothing in it depends on the kind of engine. It looks at the virtual CPU only when guest code has halted: each handler
begins with HLT, and so do the end of the program and unused memory. There the rig takes down what it sees, and goes on
behind the HLT. Before a handler of an exception returns, the rig puts a frame in place that leads to the next step,
with the program's own code segment and, where the stack changes, its stack.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from bt.decode import MAX_LENGTH
from bt.translate import Options
from vmm.arch.descriptors import TSS32, Descriptor
from vmm.arch.exceptions import HAS_ERROR_CODE, GuestFault, Vector
from vmm.arch.registers import ARITHMETIC, Eflags, Reg, Seg
from vmm.cpu.vcpu import STALE_ALL, SegmentRegister, Vcpu
from vmm.differential import layout
from vmm.differential.board import Flood, PortBoard
from vmm.differential.bochs_engine import BochsEngine
from vmm.differential.modes import Kind, Paging
from vmm.differential.outcome import HALT, SYSTEM_CALL, TASK, Ending, Outcome, Stop
from vmm.differential.program import Program
from vmm.engines.choice import ENGINES
from vmm.engines.engine import Engine, Leave
from vmm.engines.machine import Machine
from vmm.engines.names import EngineName
from vmm.engines.options import EngineOptions
from vmm.engines.plain import plain_machine
from vmm.errors import VmmError
from vmm.hw import state as hw

Subject = Callable[[Machine], Engine]
"""Makes an engine with its options, as something to test or to test against."""


def _subject(engine: EngineName, options: EngineOptions) -> Subject:
    return lambda machine: ENGINES[engine](machine, options)


SUBJECTS: Final[Mapping[str, Subject]] = {
    **{str(name): _subject(name, EngineOptions()) for name in EngineName},
    "callouts": _subject(EngineName.TRANSLATE, EngineOptions(Options(inline=False))),
    "self-checking": _subject(EngineName.TRANSLATE, EngineOptions(Options(self_check=True))),
    "unchecked": _subject(EngineName.TRANSLATE, EngineOptions(Options(segment_checks=False))),
    "bochs": BochsEngine,
}
"""What can be compared, by name: the engines; `translate` with every sensitive instruction emulated; `translate` with
blocks that all check their own source, or without segment checks; Bochs."""

STOPS: Final = 40
BLOCKS: Final = 1000
_PATIENCE: Final = 4
_PAGE: Final = 4096
_KEPT_FLAGS: Final = ARITHMETIC | int(Eflags.DF | Eflags.IF | Eflags.AC | Eflags.ID)
_FAULTS: Final = frozenset(
    int(vector) for vector in Vector if vector not in (Vector.DB, Vector.NMI, Vector.BP, Vector.OF, Vector.MC)
)
_HANDLERS: Final = ((layout.HANDLERS_REAL, 2), (layout.HANDLERS_16, 2), (layout.HANDLERS_32, 4))
_TABLE_SIZE: Final = 256 * layout.HANDLER_SIZE
_ROUTINES: Final = {
    layout.GATE_16: "gate16",
    layout.GATE_32: "gate32",
    layout.TASK: TASK,
    layout.SYSTEM_CALL: SYSTEM_CALL,
}
_HIDDEN: Final = 0x00D0_FF00  # without L, which is reserved outside IA-32e mode
_FRAME: Final = 40
_X87_EXCEPTIONS: Final = 0x3F
_X87_ERROR_SUMMARY: Final = 1 << 7
_NXE: Final = 1 << 11
_V86_FLAGS: Final = 0xF300
_LDT_FLAGS: Final = 0x8200
_TSS_FLAGS: Final = 0x8B00
_FPU_RANGES: Final = (
    (hw.FPU_TOP, hw.FPU_TAGS + 8),
    *((at, at + 10) for at in range(hw.FPU_REGISTERS, hw.FPU_REGISTERS + 8 * 16, 16)),
    (hw.MXCSR, hw.MXCSR + 4),
    *((at, at + 16) for at in range(hw.XMM_REGISTERS, hw.XMM_REGISTERS + 8 * hw.XMM_STRIDE, hw.XMM_STRIDE)),
)
_CS, _SS, _ESP = int(Seg.CS), int(Seg.SS), int(Reg.ESP)


class Handler(NamedTuple):
    """Which handler halted: its vector, and the bytes of a word of its frame."""

    vector: int
    width: int


class Rig:
    """One virtual machine and the engine that runs it."""

    def __init__(self, subject: Subject) -> None:
        machine = plain_machine(layout.RAM, self._board_for)
        self.memory, self.vcpu, self._mmu = machine.memory, machine.vcpu, machine.mmu
        self._ram = machine.physical.window(0, layout.RAM)
        self.engine = subject(machine)
        self.engine.attach()
        self._stops: list[Stop] = []
        self._program: Program
        self._starts: tuple[int, ...] = ()
        self._next = 0
        self._patience = _PATIENCE

    def _board_for(self, vcpu: Vcpu) -> PortBoard:
        self.board = PortBoard(vcpu.set_interrupt_pending)
        return self.board

    def close(self) -> None:
        """End what the engine has started."""
        if isinstance(self.engine, BochsEngine):
            self.engine.close()

    # --- running ---------------------------------------------------------------------------------------

    def run(self, program: Program, patience: int = 1) -> Outcome:
        """Run a program from its start to its end, or as far as it gets; `patience` times as far as usual."""
        before = self._prepare(program)
        self._patience = patience * _PATIENCE
        broken = ""
        try:
            ending = self._run_to_end()
        except Flood:
            ending = Ending.ENDLESS
        except VmmError as error:
            ending, broken = Ending.BROKEN, str(error)
        except Exception as error:  # noqa: BLE001  a defect of the engine's is an outcome
            ending, broken = Ending.BROKEN, f"{type(error).__name__}: {error}"
        return Outcome(
            ending,
            tuple(self._stops),
            tuple(self.board.traffic),
            self._changed_pages(before),
            "" if broken else self._fpu(),
            len(self.board.taken),
            broken,
            self._seen("shutdown") if ending is Ending.SHUTDOWN else None,
        )

    def _run_to_end(self) -> Ending:
        while len(self._stops) < STOPS:
            leave = self._run_on()
            if leave is Leave.SHUTDOWN:
                return Ending.SHUTDOWN
            if leave is not Leave.HALTED:
                return Ending.ENDLESS
            if (ending := self._look()) is not None:
                return ending
            self.vcpu.halted = False
        return Ending.STOPS

    def _run_on(self) -> Leave:
        """Run until there is something to see, for a while. An engine may also leave when nobody has asked it to."""
        for _ in range(self._patience):
            self.engine.phys.set_block_limit(BLOCKS)
            leave = self.engine.run()
            if leave is not Leave.PREEMPTED:
                break
        return leave

    def _look(self) -> Ending | None:
        """The guest has halted: take it down, see to it that it can go on. Returns how it ended, if it did."""
        vcpu = self.vcpu
        linear = vcpu.base(_CS) + vcpu.eip - 1 & 0xFFFF_FFFF
        handler = _handler_at(linear)
        if handler is not None:
            self._take_down(f"handler {handler.vector}", handler)
            try:
                return self._resume(handler)
            except GuestFault:
                return Ending.LOST
        if linear == self._starts[-1]:
            self._take_down("end")
            return Ending.DONE
        if linear in _ROUTINES or self._starts[0] <= linear < self._starts[-1]:
            self._take_down(_ROUTINES.get(linear, HALT))
            return self._leave_task() if linear == layout.TASK else None
        self._take_down(HALT)
        return Ending.STRAYED

    # --- set-up ----------------------------------------------------------------------------------------

    def _prepare(self, program: Program) -> bytes:
        """Memory, processor and board as new; what the memory holds then."""
        self._program, self._starts = program, program.assemble()[1]
        self._stops, self._next = [], 0
        before = program.memory()
        self.vcpu.reset()
        self._ram[:] = before
        self.board.reset()
        self._set_registers(program)
        self.engine.attach()
        return before

    def _set_registers(self, program: Program) -> None:
        vcpu, mode = self.vcpu, program.mode
        for reg, value in enumerate(program.registers):
            vcpu.set_reg32(reg, value)
        vcpu.cr0, vcpu.cr4 = program.start_cr0, program.start_cr4
        vcpu.cr3 = layout.root(program.paging)
        if mode.kind is Kind.REAL:
            vcpu.gdtr, vcpu.idtr = (layout.GDT, layout.GDT_LIMIT), (0, 0x3FF)
        else:
            vcpu.gdtr, vcpu.idtr = (layout.GDT, layout.GDT_LIMIT), (layout.IDT, layout.IDT_LIMIT)
            vcpu.ldtr = SegmentRegister(layout.THE_LDT, layout.LDT, layout.LDT_LIMIT, _LDT_FLAGS)
            vcpu.tr = SegmentRegister(layout.MAIN_TSS, layout.TSS, layout.TSS_LIMIT, _TSS_FLAGS)
        if program.paging is Paging.PAE:
            vcpu.efer = _NXE
            vcpu.pdptes[:] = self._mmu.read_pdptes(vcpu.cr3)
        vcpu.sysenter_cs, vcpu.sysenter_esp = layout.first_selector(0), layout.STACKS[0]
        vcpu.sysenter_eip = layout.SYSTEM_CALL
        vcpu.cpl = mode.ring
        vcpu.eflags = program.start_flags
        for seg, selector in enumerate(selectors(program)):
            self._load(seg, selector)
        vcpu.eip = program.entry - program.code_base
        vcpu.make_stale(STALE_ALL)

    def _load(self, seg: int, selector: int) -> None:
        vcpu = self.vcpu
        if self._program.mode.is_segmented:
            at = layout.GDT + (selector & 0xFFF8)
            found = Descriptor.from_bytes(bytes(self._ram[at : at + 8]))
            vcpu.set_segment(seg, SegmentRegister(selector, found.base, found.limit, found.flags))
            return
        flags = _V86_FLAGS if self._program.mode.kind is Kind.V86 else vcpu.segment(seg).flags
        vcpu.set_segment(seg, SegmentRegister(selector, selector << 4, 0xFFFF, flags))

    # --- back from a handler ---------------------------------------------------------------------------

    def _resume(self, handler: Handler) -> Ending | None:
        """Let a handler return to the step behind the one that faulted, or where it came from. Raises: GuestFault."""
        if handler.vector not in _FAULTS:
            if handler.vector == Vector.DB:
                self._clear_trap(handler)
            return None
        at = self._frame_at(handler)
        if not self._advance(self._read(at, handler.width)):
            return Ending.DONE
        self._write_frame(at, handler.width)
        return None

    def _leave_task(self) -> Ending | None:
        """The task of a task gate: let the program's own task go on at the next step."""
        at = layout.TSS + TSS32.instruction_pointer
        if not self._advance(int.from_bytes(self.memory.read(at, 4), "little")):
            return Ending.DONE
        self.memory.write(at, (self._starts[self._next] - self._program.code_base).to_bytes(4, "little"))
        return None

    def _advance(self, eip: int) -> bool:
        """Choose the step to go on at after a fault at `eip`; False behind the last one."""
        where = eip + self._program.code_base
        later = (number for number, start in enumerate(self._starts) if start > where)
        inside = self._starts[0] <= where < self._starts[-1]
        self._next = max(self._next + 1, next(later) if inside else 0)
        return self._next < len(self._starts) and where != self._starts[-1]

    def _write_frame(self, at: int, width: int) -> None:
        """What IRET is to take: the program's own segments, and flags without what would stop it again."""
        program, mode = self._program, self._program.mode
        chosen = selectors(program)
        flags_at = at + 2 * width
        mine = self._read(flags_at, width) & _KEPT_FLAGS | program.start_flags & ~_KEPT_FLAGS & ~int(Eflags.TF)
        words = [self._starts[self._next] - program.code_base, chosen[_CS], mine & ~int(Eflags.NT | Eflags.RF)]
        if mode.ring:
            words += [program.registers[_ESP], chosen[_SS]]
        if mode.kind is Kind.V86:
            words += [chosen[seg] for seg in (Seg.ES, Seg.DS, Seg.FS, Seg.GS)]
        data = b"".join((word & (1 << 8 * width) - 1).to_bytes(width, "little") for word in words)
        self._mmu.write_bytes(at, data, False)

    def _clear_trap(self, handler: Handler) -> None:
        """A single-step handler that turns stepping off after its second time."""
        if sum(1 for stop in self._stops if stop.where == f"handler {int(Vector.DB)}") >= 2:
            at = self._stack_top() + 2 * handler.width
            flags = self._read(at, handler.width)
            self._mmu.write(at, handler.width, flags & ~int(Eflags.TF), False)

    def _frame_at(self, handler: Handler) -> int:
        """Linear address of the saved EIP, behind an error code."""
        has_code = self.vcpu.is_protected and handler.vector in HAS_ERROR_CODE
        return self._stack_top() + (handler.width if has_code else 0)

    def _stack_top(self) -> int:
        vcpu = self.vcpu
        pointer = vcpu.reg32(_ESP)
        return vcpu.base(_SS) + (pointer if vcpu.stack_size == 4 else pointer & 0xFFFF) & 0xFFFF_FFFF

    def _read(self, la: int, width: int) -> int:
        return self._mmu.read(la, width, False)

    # --- what there is to see --------------------------------------------------------------------------

    def _take_down(self, where: str, handler: Handler | None = None) -> None:
        self._stops.append(self._seen(where, handler))

    def _seen(self, where: str, handler: Handler | None = None) -> Stop:
        vcpu = self.vcpu
        try:
            frame = self._mmu.read_bytes(self._stack_top(), _FRAME, False).hex()
        except GuestFault:
            frame = ""
        segmented = vcpu.is_protected and not vcpu.is_v86
        return Stop(
            where,
            vcpu.eip,
            vcpu.eflags,
            vcpu.cpl,
            tuple(vcpu.reg32(reg) for reg in range(8)),
            tuple(_visible(vcpu.segment(seg), segmented) for seg in range(6)),
            (vcpu.cr0, vcpu.cr2, vcpu.cr3, vcpu.cr4),
            (vcpu.gdtr, vcpu.idtr, vcpu.ldtr.selector, vcpu.tr.selector),
            tuple(vcpu.dr),
            frame,
            len(self.board.traffic),
            self._x87_errors(),
            *(self._interrupted(handler) if handler is not None else ()),
        )

    def _x87_errors(self) -> int:
        state = self.vcpu.state.buffer
        status, control = (int.from_bytes(state[at : at + 2], "little") for at in (hw.FPU_STATUS, hw.FPU_CONTROL))
        return status & (~control & _X87_EXCEPTIONS | _X87_ERROR_SUMMARY)

    def _interrupted(self, handler: Handler) -> tuple[int, bytes, bool]:
        """Where a handler found the program, what lies there, and the size of that code; linear addresses are physical
        ones."""
        at = self._frame_at(handler)
        try:
            eip, selector, flags = (self._read(at + n * handler.width, handler.width) for n in range(3))
        except GuestFault:
            return -1, b"", False
        selector &= 0xFFFF
        is_v86 = flags & int(Eflags.VM) or (handler.width == 2 and self._program.mode.kind is Kind.V86)
        if self.vcpu.is_real or is_v86:
            base, code32 = selector << 4, False
        elif selector == layout.SYSEXIT_CODE:  # flat, whatever the descriptor says
            base, code32 = 0, True
        else:
            found = layout.segment_of(selector)
            base, code32 = found.base, found.is_default_big
        where = base + eip & 0xFFFF_FFFF
        return eip, bytes(self._ram[where : where + MAX_LENGTH]), code32

    def _changed_pages(self, before: bytes) -> dict[int, int]:
        after = bytes(self._ram)
        if after == before:
            return {}
        pages = range(0, layout.RAM, _PAGE)
        return {
            at // _PAGE: zlib.crc32(after[at : at + _PAGE])
            for at in pages
            if after[at : at + _PAGE] != before[at : at + _PAGE]
        }

    def page(self, number: int) -> bytes:
        """A page of RAM as the latest program left it."""
        return bytes(self._ram[number * _PAGE : (number + 1) * _PAGE])

    def _fpu(self) -> str:
        state = self.vcpu.state.buffer
        return " ".join(state[start:end].hex() for start, end in _FPU_RANGES)


def selectors(program: Program) -> tuple[int, ...]:
    """What the segment registers hold at the start, in encoding order."""
    mode = program.mode
    if not mode.is_segmented:
        data, code, stack = (base >> 4 for base in (layout.DATA, layout.CODE, layout.STACK_BASE))
    else:
        first = layout.first_selector(mode.ring)
        flat, thin, based = (0, 8, 8), (0x10, 0x18, 0x20), (0x28, 0x18, 0x30)
        offsets = (based if program.based else flat) if mode.code32 else thin
        code, data, stack = (first + offset for offset in offsets)
    return (data, code, stack, data, data, data)


def _handler_at(linear: int) -> Handler | None:
    for table, width in _HANDLERS:
        vector, inside = divmod(linear - table, layout.HANDLER_SIZE)
        if 0 <= linear - table < _TABLE_SIZE and not inside:
            return Handler(vector, width)
    return None


def _visible(register: SegmentRegister, segmented: bool) -> tuple[int, ...]:
    if not segmented:
        return register.selector, register.base
    if not register.is_present:
        return (register.selector,)
    return register.selector, register.base, register.limit, register.flags & _HIDDEN
