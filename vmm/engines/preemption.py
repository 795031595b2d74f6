"""Preemption that came at a bad moment: the engine is to stop again a little later."""

import signal
from typing import Final

from vmm.hw.cpu import PhysicalCpu

_SOON_S: Final = 20e-6
_AGAIN_S: Final = 0.001
"""After a stop at no boundary: some blocks further on, and again, for a signal may be lost (see `stop_ring`)."""


def again_soon(phys: PhysicalCpu) -> None:
    """The block limit or the timer stopped the engine where the guest cannot be left: go on, and stop soon."""
    if phys.counts_blocks:
        phys.set_block_limit(2)  # this block, and stop before the next
    else:
        signal.setitimer(signal.ITIMER_REAL, _SOON_S, _AGAIN_S)
