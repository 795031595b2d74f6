"""Our engines as runners: an image in a whole machine, booted by the BIOS, run by the monitor with its preemption."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time_ns
from typing import Final

from bt.translate import Options
from vmm.bench.case import Case
from vmm.bench.image import Image
from vmm.bench.marks import Mark, RunFailed, check, is_over, marks_in
from vmm.engines.names import EngineName
from vmm.errors import VmmError
from vmm.lab.children import gather
from vmm.machine import MachineConfig, build_vm
from vmm.monitor import Monitor
from vmm.outcome import Outcome

MEMORY: Final = 32 << 20
LIMIT_S: Final = 120.0
"""A run that takes longer has failed."""
_SLICE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """The runner of one engine; `inline` False makes every sensitive instruction an exit."""

    name: str
    engine: EngineName
    inline: bool = True

    def can_run(self, _case: Case) -> bool:
        """Every one."""
        return True

    def run(self, image: Image, counts: Sequence[int]) -> list[Mark]:
        """Boot in a process of its own. Raises: RunFailed."""
        try:
            marks, ending = gather(lambda: self._marks(image, counts))
        except VmmError as error:
            raise RunFailed(None, str(error)) from None
        check(image, marks, ending or "the run ended too early")
        return marks

    def _marks(self, image: Image, counts: Sequence[int]) -> Iterator[Mark]:
        """The marks, once they are all there: sending one takes time."""
        with tempfile.NamedTemporaryFile(suffix=".img") as file:
            file.write(image.disk(counts))
            file.flush()
            yield from self._boot(image, Path(file.name))

    def _boot(self, image: Image, disk: Path) -> list[Mark]:
        vm = build_vm(MachineConfig(memory=MEMORY, disks=(disk,), engine=self.engine))
        monitor = Monitor(translation=Options(inline=self.inline))
        marks: list[Mark] = []

        def note(data: bytes) -> None:
            now = process_time_ns()
            left = monitor.engine.stats.left
            marks.extend(Mark(mark.code, mark.ns, left) for mark in marks_in(data, now))

        vm.debugcon_out.append(note)
        outcome: Outcome | None = None
        end = monotonic() + LIMIT_S
        while outcome is None and not is_over(image, marks) and monotonic() < end:
            outcome = monitor.run_slice(vm, _SLICE_S)
        vm.close()
        return marks


OWN: Final[Mapping[str, OwnEngine]] = {
    each.name: each
    for each in (
        OwnEngine("bare", EngineName.BARE),
        OwnEngine("trap", EngineName.TRAP),
        OwnEngine("translate-no-inline", EngineName.TRANSLATE, inline=False),
        OwnEngine("translate", EngineName.TRANSLATE),
        OwnEngine("svm", EngineName.SVM),
    )
}
"""By name, in the order of reports."""
