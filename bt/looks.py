"""Looks at what instructions do to memory: while an alignment check or a breakpoint on data is in force.

Then the VMM looks at each instruction with an access before it runs: a PREPARE exit in front of it. That is slow, and
right whatever the instruction is.

Source: Intel SDM Vol. 3A, "Interrupt 17 - Alignment Check Exception (#AC)"; Vol. 3B, "Debug Registers".
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from bt.decode import Insn
from bt.emit import Emitter, SiteKind
from bt.simd import LOOK_AT_ACCESSES

ALIGNMENT: Final = 1
DATA: Final = 2
"""Bits of `Context.looks`."""


@lru_cache(maxsize=1024)
def looked_at(entry: Callable[[Emitter, Insn], None]) -> Callable[[Emitter, Insn], None]:
    """A translator with the look in front."""

    def translate(emit: Emitter, insn: Insn) -> None:
        emit.site(SiteKind.PREPARE, LOOK_AT_ACCESSES)
        entry(emit, insn)

    return translate
