"""Equivalence: Popek and Goldberg's third property, by random programs on each engine and on the bare processor."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from vmm.differential.campaign import Campaign
from vmm.differential.generator import Source
from vmm.differential.worker import Plan
from vmm.engines.names import EngineName
from vmm.lab.control import UNPROTECTED
from vmm.lab.machine import engines

PROGRAMS: Final = 440
"""Forty of each mode: enough to see, `vmm differential` is for more."""
SEED: Final = 1974


@dataclass(frozen=True, slots=True)
class Equivalence:
    """How many programs ended as on the bare processor; `explained`: differently, where the processor below is wrong or
    a documented limit shows; `different`: all others."""

    engine: str
    programs: int
    same: int
    explained: int
    different: int

    def to_json(self) -> dict[str, Any]:
        """One flat object: docs/lab.md."""
        return asdict(self)


def failures(compared: Iterable[Equivalence]) -> list[str]:
    """A line for each engine that promises equivalence and was different."""
    return [
        f"{each.engine}: {each.different} of {each.programs} programs differ: vmm differential --engine {each.engine}"
        for each in compared
        if each.different and each.engine not in UNPROTECTED
    ]


def on_every_engine(programs: int | None = None) -> list[Equivalence]:
    """All engines that there are, each against `bare`; PROGRAMS, or as many as are asked for."""
    return [_of(engine, programs or PROGRAMS) for engine in engines() if engine is not EngineName.BARE]


def _of(engine: EngineName, programs: int) -> Equivalence:
    plan = Plan(Source(SEED), (str(engine),), str(EngineName.BARE))
    tally = Campaign(plan, 0, programs, len(os.sched_getaffinity(0))).run()
    explained, different = sum(tally.explained.values()), len(tally.failures)
    return Equivalence(str(engine), tally.total, tally.total - explained - different, explained, different)
