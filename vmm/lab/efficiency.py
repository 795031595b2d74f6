"""How much of a guest runs without the VMM: Popek and Goldberg's first property, counted.

A workload is a deterministic program, so the processor executes the same instructions under every engine; how many is
counted on the bare one. What left to the VMM, for whatever reason, is what the engine counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from firmware.assembler import assemble_text
from vmm.engines.names import EngineName
from vmm.errors import Unmodelled
from vmm.lab import setting as at
from vmm.lab.children import gather
from vmm.lab.machine import LabMachine, engines
from vmm.lab.setting import RING0, RING3, Setting

_BLOCKS_MAX: Final = 10_000_000
_HANDLER: Final = at.HANDLERS + at.SYSTEM_CALL


@dataclass(frozen=True, slots=True)
class Workload:
    """A program: 32-bit assembly, where it runs, and what else lies in memory."""

    name: str
    what: str
    setting: Setting
    text: str
    memory: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def code(self) -> bytes:
        """Its bytes, for where programs of the laboratory begin."""
        start = at.CODE + at.ENTRY
        return assemble_text(self.text, start, 32, self.name).flat(start)


WORKLOADS: Final = (
    Workload(
        "arithmetic",
        "a user program that calculates, loads and stores",
        RING3,
        f"""
            mov ecx, 200000
        next:
            add eax, ecx
            imul edx, eax, 17
            mov dword ptr [{at.DATA:#x}], edx
            xor eax, dword ptr [{at.DATA:#x}]
            dec ecx
            jnz next
        """,
    ),
    Workload(
        "calls",
        "a user program that calls itself: Fibonacci",
        RING3,
        """
            mov ecx, 18
            call fibonacci
            jmp end
        fibonacci:
            cmp ecx, 2
            jb small
            push ecx
            dec ecx
            call fibonacci
            mov ecx, dword ptr [esp]
            push eax
            sub ecx, 2
            call fibonacci
            pop edx
            add eax, edx
            pop ecx
            ret
        small:
            mov eax, ecx
            ret
        end:
        """,
    ),
    Workload(
        "sensitive",
        "a kernel that saves and restores flags, and asks for its tables and control registers",
        RING0,
        f"""
            mov ecx, 5000
        next:
            pushfd
            cli
            popfd
            smsw ax
            sgdt [{at.DATA:#x}]
            str dx
            mov eax, cr0
            mov edx, cr3
            dec ecx
            jnz next
        """,
    ),
    Workload(
        "system calls",
        "a user program that calls the kernel by INT 80h",
        RING3,
        f"""
            mov ecx, 5000
        next:
            int {at.SYSTEM_CALL:#x}
            dec ecx
            jnz next
        """,
        {_HANDLER: b"\xcf"},  # iretd
    ),
    Workload(
        "ports",
        "a driver that polls a port",
        RING0,
        """
            mov ecx, 5000
        next:
            in al, 0x61
            dec ecx
            jnz next
        """,
    ),
)


@dataclass(frozen=True, slots=True)
class Efficiency:
    """One workload under one engine: how many instructions it executed, how often it left."""

    guest: str
    what: str
    engine: str
    instructions: int
    left: int

    @property
    def share(self) -> float:
        """Of the instructions, those that ran without the VMM: 0 to 1."""
        return max(0.0, 1 - self.left / self.instructions)

    def to_json(self) -> dict[str, Any]:
        """One flat object: docs/lab.md."""
        return {**asdict(self), "share": round(self.share, 6)}


def on_every_engine() -> list[Efficiency]:
    """All workloads on all engines that there are. Raises: VmmError."""
    counts = _all_of(lambda: _count(EngineName.BARE), "bare")
    measured = []
    for engine in engines():
        for workload, instructions, left in zip(
            WORKLOADS, counts, _all_of(lambda engine=engine: _leave(engine), engine), strict=True
        ):  # fmt: skip
            measured.append(Efficiency(workload.name, workload.what, str(engine), instructions, left))
    return measured


def _all_of(work: Any, name: str) -> list[int]:
    numbers, ending = gather(work)
    if ending:
        raise Unmodelled(f"{name}: {ending}")
    return numbers


def _count(engine: EngineName) -> Iterator[int]:
    """Executed instructions of each workload."""
    machine = LabMachine(engine)
    for workload in WORKLOADS:
        count = machine.engine.phys.count_instructions()
        _run(machine, workload)
        yield machine.engine.phys.count_instructions() - count


def _leave(engine: EngineName) -> Iterator[int]:
    """How often each workload left."""
    machine = LabMachine(engine)
    for workload in WORKLOADS:
        before = machine.engine.stats.left
        _run(machine, workload)
        yield machine.engine.stats.left - before


def _run(machine: LabMachine, workload: Workload) -> None:
    machine.start(workload.setting, workload.code, workload.memory, {})
    ending = machine.run(_BLOCKS_MAX)
    if ending.lost or ending.vector is not None:
        raise Unmodelled(f"{workload.name} on {machine.engine_name}: {ending}")
