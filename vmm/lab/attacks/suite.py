"""The whole suite."""

from vmm.cpu.hole import Hole
from vmm.lab.attacks import hole as window
from vmm.lab.attacks import resources, selectors, transfers
from vmm.lab.attacks.guest import Attack


def attacks(hole: Hole) -> tuple[Attack, ...]:
    """All attacks, for a VMM's window as it is at the start."""
    return (*selectors.attacks(), *transfers.attacks(), *window.attacks(hole), *resources.attacks())
