"""Without the engine's polls: a load or store no longer asks whether somebody wants the engine to stop.

Unicorn puts a call of a helper behind every access to memory that it translates. It serves `uc_emu_stop` from other
threads and from memory hooks, which nobody uses here, and it stops in the middle of an instruction, which repeats it.
It takes a third to a half of the time of most code. The start of each block asks as well, and that stays: it is where
the block hook stops the engine.

All four functions that translate an access end in a jump to `check_exit_request` through the library's procedure
linkage table, so one pointer decides.
"""

import ctypes
import mmap
from functools import cache
from typing import Final

from vmm.hw import library

_RET: Final = b"\xc3"


@cache
def remove() -> bool:
    """Let engines in this process translate without polls from now on.

    False if this build of the library polls in another way; then all works as well, and slower.
    """
    poll = library.address_of("check_exit_request_x86_64")
    slots = library.direct_calls(poll) if poll else []
    nothing = ctypes.addressof(ctypes.c_char.from_buffer(_nothing()))
    return bool(slots) and all(library.write_word(slot, nothing) for slot in slots)


@cache
def _nothing() -> mmap.mmap:
    """A host function that returns at once; it lives as long as the process."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_RET)
    return memory
