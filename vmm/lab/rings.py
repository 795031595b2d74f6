"""`vmm lab rings`: a system call, step by step, and what each step costs.

A user program marks where it is, calls the kernel, which marks where it is and returns; once by INT 80h and IRET, once
by SYSENTER and SYSEXIT. A mark is a write to a port: the machine notes the guest's registers, the physical processor's,
and the time. The cost of a step is the time between two marks less that between two marks with nothing between them:
the median of some hundred calls.
"""

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from vmm.arch.layout import MASK32
from vmm.arch.registers import Reg, Seg
from vmm.engines.names import EngineName
from vmm.errors import Unmodelled
from vmm.hw import state as hw
from vmm.lab import setting as at
from vmm.lab.children import gather
from vmm.lab.machine import LabMachine, engines
from vmm.lab.program import Program
from vmm.lab.setting import RING3

CALLS: Final = 300
_WARM_UP: Final = 50
_MARK: Final = f"e6{at.DONE_PORT + 1:02x}"
_MARKS: Final = 4
"""In each call: the user before it, the kernel, the user behind it, and the user once more."""
_STEPS: Final = ("user", "kernel", "user again")
_INT_HANDLER: Final = at.HANDLERS + at.SYSTEM_CALL
_FAST_HANDLER: Final = _INT_HANDLER + 0x10
_CS_AT: Final = hw.D_SEGS + Seg.CS * hw.SEG_WORDS


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step is: the guest's view, and the physical processor's. `eip` is the next instruction's."""

    cpl: int
    cs: int
    eip: int
    ss: int
    esp: int
    physical_cpl: int
    physical_cs: int
    physical_eip: int


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a call; `ns` is what it cost to come there, 0 for the first."""

    engine: str
    call: str
    step: str
    place: Place
    ns: int

    def to_json(self) -> dict[str, Any]:
        """One flat object: docs/lab.md."""
        record = asdict(self)
        place = record.pop("place")
        return {**record, **place}


def _int_call() -> Program:
    return Program(RING3).op(_MARK).op("cd", tail=bytes([at.SYSTEM_CALL]))


def _fast_call() -> Program:
    """SYSEXIT takes EIP from EDX and ESP from ECX (SDM Vol. 2B, "SYSEXIT")."""
    program = Program(RING3).op(_MARK).op("89e1")
    behind = len(program.code) + 5 + 2
    return program.op("ba", 4, at.word(program.address(behind))).op("0f34")


_CALLS: Final = (
    ("INT 80h, IRET", _int_call, {_INT_HANDLER: bytes.fromhex(_MARK + "cf")}),
    ("SYSENTER, SYSEXIT", _fast_call, {_FAST_HANDLER: bytes.fromhex(_MARK + "0f35")}),
)


def on_every_engine() -> list[Step]:
    """The steps of both calls on all engines that there are. Raises: VmmError."""

    def on_one(engine: EngineName) -> list[Step]:
        steps, ending = gather(lambda: follow(engine))
        if ending:
            raise Unmodelled(f"{engine}: {ending}")
        return steps

    return [step for engine in engines() for step in on_one(engine)]


def follow(engine: EngineName) -> Iterator[Step]:
    """The steps of both calls on one engine. Raises: VmmError."""
    machine = LabMachine(engine)
    for name, program, memory in _CALLS:
        places, times = _run(machine, _repeated(program()), memory)
        for number, step in enumerate(_STEPS):
            yield Step(str(engine), name, step, places[number], _cost(times, number))


def _repeated(program: Program) -> bytes:
    """The call, two marks, and all of it again CALLS times: DEC EDI, JNZ."""
    program.op(_MARK).op(_MARK).op("4f")
    return program.op("0f85", tail=at.word(-(len(program.code) + 6))).code


def _run(machine: LabMachine, code: bytes, memory: Mapping[int, bytes]) -> tuple[list[Place], list[int]]:
    """Run the calls: the places of the last one, and the time of every mark in ns."""
    times: list[int] = []
    places: list[Place] = []

    def mark(_value: int) -> None:
        times.append(time.perf_counter_ns())
        if len(times) > _MARKS * (CALLS - 1):
            places.append(_place(machine))

    machine.board.on_mark = mark
    machine.start(RING3, code, memory, {"edi": CALLS})
    vcpu = machine.vcpu
    vcpu.sysenter_cs, vcpu.sysenter_esp = at.KERNEL_CODE, at.KERNEL_STACK + at.STACK_SIZE
    vcpu.sysenter_eip = _FAST_HANDLER
    machine.run()
    return places, times


def _place(machine: LabMachine) -> Place:
    vcpu, state = machine.vcpu, machine.engine.phys.state
    return Place(
        cpl=vcpu.cpl,
        cs=vcpu.selector(Seg.CS),
        eip=vcpu.eip,
        ss=vcpu.selector(Seg.SS),
        esp=vcpu.reg32(Reg.ESP),
        physical_cpl=state.d[hw.D_HFLAGS] & hw.HF_CPL,
        physical_cs=state.d[_CS_AT] & 0xFFFF,
        physical_eip=state.q[hw.Q_EIP] & MASK32,
    )


def _cost(times: list[int], step: int) -> int:
    """Nanoseconds from the step before to this one."""
    if step == 0:
        return 0
    calls = [times[at : at + _MARKS] for at in range(_MARKS * _WARM_UP, len(times), _MARKS)]
    between = statistics.median(call[step] - call[step - 1] for call in calls)
    nothing = statistics.median(call[3] - call[2] for call in calls)
    return max(0, round(between - nothing))
