"""A machine without devices, an engine by name, and a guest of a few bytes.

`start` puts the guest into a setting, `run` runs it until it writes to the DONE port or halts in a handler.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vmm.arch.exceptions import HAS_ERROR_CODE, Vector
from vmm.arch.registers import Reg, Seg
from vmm.cpu.vcpu import STALE_ALL, Vcpu
from vmm.engines.choice import ENGINES
from vmm.engines.engine import Engine, Leave
from vmm.engines.names import EngineName
from vmm.engines.options import DEFAULT_ENGINE_OPTIONS
from vmm.engines.plain import plain_machine
from vmm.lab import setting as at
from vmm.lab.setting import Setting
from vmm.memory import GuestMemory

RAM: Final = 4 << 20
BLOCKS_MAX: Final = 100_000
"""A guest that runs longer than this is lost."""
_END_OF_PROGRAM: Final = bytes([0xE6, at.DONE_PORT])  # out DONE_PORT, al


_ORDER: Final = ("bare", "trap", "translate", "svm")
"""As the techniques came, and as reports have them."""


def engines() -> list[EngineName]:
    """The engines that there are, in the order of reports."""
    return sorted(ENGINES, key=lambda name: _ORDER.index(name))


@dataclass(slots=True)
class LabBoard:
    """Two ports: DONE ends the run, the next one calls `on_mark`. Nothing interrupts."""

    on_done: Callable[[], None] = lambda: None
    on_mark: Callable[[int], None] = lambda _value: None

    def port_read(self, port: int, width: int) -> int:
        """What nobody answers reads as ones."""
        return (1 << 8 * width) - 1

    def port_write(self, port: int, width: int, value: int) -> None:
        """The two ports; others swallow what is written."""
        if port == at.DONE_PORT:
            self.on_done()
        elif port == at.DONE_PORT + 1:
            self.on_mark(value)

    def port_read_block(self, port: int, width: int, count: int) -> bytes:
        """REP INS of what nobody answers."""
        return b"\xff" * (width * count)

    def port_write_block(self, port: int, width: int, data: bytes) -> None:
        """REP OUTS goes nowhere."""

    def tsc(self) -> int:
        """Time stands still."""
        return 0

    def tsc_offset(self) -> int | None:
        """Host time has no part in it."""
        return None

    def acknowledge_interrupt(self) -> int:
        """The spurious vector of a controller that has none."""
        return 7

    def x87_error(self, level: bool) -> bool:
        """FERR# is not connected."""
        return False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: in the handler of `vector`, or, None, at the end of the program unless it got `lost`."""

    vector: int | None = None
    error_code: int | None = None
    lost: str = ""


@dataclass(slots=True)
class LabMachine:
    """One machine for many guests. Raises: ConfigError, EngineMismatch: from the engine."""

    engine_name: EngineName
    memory: GuestMemory = field(init=False)
    vcpu: Vcpu = field(init=False)
    board: LabBoard = field(init=False)
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.board = LabBoard()
        machine = plain_machine(RAM, lambda _vcpu: self.board)
        self.memory, self.vcpu = machine.memory, machine.vcpu
        self.engine = ENGINES[self.engine_name](machine, DEFAULT_ENGINE_OPTIONS)
        self.board.on_done = self.engine.request_leave

    def start(self, setting: Setting, code: bytes, memory: Mapping[int, bytes], registers: Mapping[str, int]) -> None:
        """Put the guest at the first byte of a program.

        `memory`: what else lies where, by linear address; `registers`: general registers and `eflags` that differ from
        the setting's.
        """
        vcpu = self.vcpu
        vcpu.reset()
        self.memory.write(0, at.first_memory())
        self.memory.write(at.CODE + at.ENTRY, code + _END_OF_PROGRAM)
        for address, data in memory.items():
            self.memory.write(address, data)
        vcpu.cr0 = setting.cr0
        vcpu.gdtr, vcpu.idtr = setting.gdtr, setting.idtr
        if not setting.is_real:
            vcpu.ldtr, vcpu.tr = at.loaded(at.MAIN_LDT), at.loaded(at.MAIN_TSS)
        vcpu.cpl = setting.ring
        for seg, value in setting.segments.items():
            vcpu.set_segment(seg, value)
        vcpu.eflags = registers.get("eflags", setting.eflags)
        for reg in Reg:
            vcpu.set_reg32(reg, registers.get(reg.name.lower(), 0))
        vcpu.set_reg32(Reg.ESP, setting.stack)
        vcpu.eip = setting.code
        vcpu.make_stale(STALE_ALL)
        self.engine.attach()

    def run(self, blocks: int = BLOCKS_MAX) -> Ending:
        """Run to the end of the program, or into a handler. Raises: VmmError: the engine cannot go on."""
        self.engine.phys.set_block_limit(blocks)
        leave = self.engine.run()
        vector = self.vcpu.eip - at.HANDLERS - 1  # behind the handler's HLT
        if leave is Leave.HALTED and self.vcpu.base(Seg.CS) == 0 and 0 <= vector < 256:
            has_code = vector in HAS_ERROR_CODE and self.vcpu.is_protected
            return Ending(vector, self.word(self.stack_top, 4) if has_code else None)
        return Ending(lost="" if leave is Leave.REQUESTED else f"{leave.name.lower()} at {self.vcpu.eip:08X}")

    @property
    def stack_top(self) -> int:
        """The linear address of what was pushed last."""
        vcpu = self.vcpu
        return vcpu.base(Seg.SS) + (vcpu.reg32(Reg.ESP) & (1 << 8 * vcpu.stack_size) - 1)

    def word(self, address: int, size: int) -> int:
        """A little-endian value of the guest's memory."""
        return int.from_bytes(self.memory.read(address, size), "little")

    def result(self, size: int, offset: int = 0) -> int:
        """What the program stored, `offset` bytes behind RESULT."""
        return self.word(at.DATA + at.RESULT + offset, size)


def fault_name(vector: int, error_code: int | None) -> str:
    """An exception as the manuals write it."""
    name = f"#{Vector(vector).name}" if vector in {int(each) for each in Vector} else f"vector {vector:02X}h"
    return name if error_code is None else f"{name}({error_code:X})"
