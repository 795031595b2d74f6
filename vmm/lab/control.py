"""Resource control: Popek and Goldberg's second property, by attack."""

from collections.abc import Iterable, Iterator
from typing import Final

from vmm.cpu.hole import VMM_FRAMES, Hole
from vmm.engines.names import EngineName
from vmm.hw.memory import PhysicalMemory
from vmm.lab.attacks import rig
from vmm.lab.attacks.guest import Attack
from vmm.lab.attacks.rig import Result
from vmm.lab.attacks.suite import attacks
from vmm.lab.children import each_case
from vmm.lab.machine import engines

UNPROTECTED: Final = {
    "bare": "nothing stands between the guest and the machine, and the processor checks less than the manual says",
    "trap": "what does not trap goes through: returns and transfers inside the ring that the kernel was moved to",
}
"""Engines that do not promise that every attempt ends as the manual says, and why."""


def suite() -> tuple[Attack, ...]:
    """All attacks, for a window where it is when a guest starts."""
    return attacks(Hole.build(PhysicalMemory(VMM_FRAMES)))


def on_every_engine() -> Iterator[list[Result]]:
    """The results of all engines that there are, an engine at a time, each in processes of its own."""
    for engine in engines():
        yield on_one(engine)


def on_one(engine: EngineName) -> list[Result]:
    """What became of every attack under one engine. One that ends the process is that engine's failure."""

    def all_of(left: Iterable[Attack]) -> Iterator[Result]:
        for attack in left:
            yield rig.run(attack, engine)

    def lost(attack: Attack, ending: str) -> Result:
        attempts = max(1, len(attack.expected))
        return Result(attack.name, attack.what, str(engine), attempts, 0, 0, attempts, "", "the host", (ending,))

    return each_case(suite(), all_of, lost)


def failures(results: Iterable[Result]) -> list[str]:
    """A line for each attack that got what it must not get, under an engine that promises it will not."""
    return [
        f"{result.engine}: {result.attack}: {'; '.join(filter(None, (result.first_wrong, *result.damage)))}"
        for result in results
        if not result.is_right and result.engine not in UNPROTECTED
    ]
