"""What every engine offers, and why one stops."""

from enum import Enum, auto
from typing import Any, Protocol

from vmm.engines.observer import Observer
from vmm.engines.stats import EngineStats
from vmm.hw.cpu import PhysicalCpu


class Leave(Enum):
    """Why guest code stopped running."""

    PREEMPTED = auto()  # the block limit, at an instruction boundary
    HALTED = auto()  # HLT: nothing to do until an interrupt
    SHUTDOWN = auto()  # triple fault
    REQUESTED = auto()  # a device asked for it: reset, power off, exit port


class Engine(Protocol):
    """Runs the guest code of one virtual CPU on a physical CPU of its own.

    `observer` is told what happens. `preempted_after` is how many blocks had started when the block limit struck in the
    latest run; `shutdown_detail` says how a triple fault came about.
    """

    phys: PhysicalCpu
    stats: EngineStats
    observer: Observer | None
    preempted_after: int

    @property
    def shutdown_detail(self) -> str: ...

    def attach(self) -> None:
        """Take the virtual CPU's state over."""
        ...

    def run(self) -> Leave:
        """Run from the virtual CPU's state until there is something that guest code cannot do."""
        ...

    def request_leave(self) -> None:
        """From a callout: leave after the current instruction."""
        ...

    def audit(self) -> None:
        """From now on check at each block's start what must hold there; slow."""
        ...

    @property
    def roots(self) -> tuple[int, ...]:
        """Physical addresses of the PAE roots that the guest can run on; none if it runs on tables of its own."""
        ...

    def report(self) -> dict[str, Any]:
        """What this kind of engine counts besides `stats`, for `--stats`."""
        ...
