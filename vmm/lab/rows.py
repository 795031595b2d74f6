"""One case on one engine: a row of a table, and of the JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from vmm.engines.names import EngineName
from vmm.engines.stats import EngineStats
from vmm.errors import VmmError
from vmm.lab.children import each_case
from vmm.lab.machine import Ending, LabMachine, engines, fault_name
from vmm.lab.program import Case

_OF_THE_RIG: Final = frozenset(("out", "hlt"))
"""Instructions that end every program."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was expected and what an engine made of it.

    `trapped`: how often the guest left to the VMM by the instruction: to have it emulated or, where that was not so, by
    its exceptions.
    """

    instruction: str
    form: str
    mode: str
    ring: int
    engine: str
    expected: str | int
    got: str | int
    trapped: int

    @property
    def right(self) -> bool:
        """Did the guest see what the manual says?"""
        return self.got == self.expected

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The cell of the table: instruction, form, mode, ring."""
        return self.instruction, self.form, self.mode, self.ring

    def to_json(self) -> dict[str, Any]:
        """The row as docs/lab.md has it."""
        return {**asdict(self), "right": self.right}


def row_of(case: Case, engine: str, got: str, trapped: int) -> Row:
    """The row of a case."""
    setting = case.setting
    return Row(case.instruction, case.form, setting.mode, setting.ring, engine, case.expected, got, trapped)


def run_cases(machine: LabMachine, cases: Iterable[Case]) -> Iterator[Row]:
    """Run cases, one after the other, on one machine."""
    for case in cases:
        machine.start(case.setting, case.code, case.memory, case.registers)
        before = _exits(machine.engine.stats)
        try:
            got = _shown(case, machine, machine.run())
        except VmmError as error:
            got = f"the engine stopped: {error}"
        callouts, exceptions = (now - then for now, then in zip(_exits(machine.engine.stats), before, strict=True))
        yield row_of(case, machine.engine_name, got, callouts or exceptions)


def on_every_engine(cases: Sequence[Case]) -> list[Row]:
    """The rows of all engines that there are, each in processes of its own."""

    def on_one(engine: EngineName) -> list[Row]:
        return each_case(
            cases,
            lambda left: run_cases(LabMachine(engine), left),
            lambda case, ending: row_of(case, engine, ending, 0),
        )

    return [row for engine in engines() for row in on_one(engine)]


def _shown(case: Case, machine: LabMachine, ending: Ending) -> str:
    if ending.lost:
        return ending.lost
    if ending.vector != case.vector:
        return "no interrupt" if ending.vector is None else fault_name(ending.vector, ending.error_code)
    return case.observe(machine)


def _exits(stats: EngineStats) -> tuple[int, int]:
    """Instructions emulated, without those of the rig; exceptions."""
    emulated = sum(count for name, count in stats.callouts.items() if name not in _OF_THE_RIG)
    return emulated, stats.exceptions.total()
