"""What every engine offers, and why one stops."""

from enum import Enum, auto
from typing import Protocol


class Leave(Enum):
    """Why guest code stopped running."""

    PREEMPTED = auto()  # the block limit, at an instruction boundary
    HALTED = auto()  # HLT: nothing to do until an interrupt
    SHUTDOWN = auto()  # triple fault
    REQUESTED = auto()  # a device asked for it: reset, power off, exit port


class Engine(Protocol):
    """Runs the guest code of one virtual CPU on a physical CPU."""

    def run(self) -> Leave:
        """Run from the virtual CPU's state until there is something that guest code cannot do."""
        ...

    def request_leave(self) -> None:
        """From a callout: leave after the current instruction."""
        ...
