"""RDTSC: what the processor tells whoever asks, in the cache.

No flag changes. Where something has to be decided, and where the answer is not at hand, the VMM is asked.
"""

from typing import Final

from bt.decode import Insn
from bt.emit import Emitter, SiteKind

_RDTSC: Final = """
    mov dword ptr cs:[{S0}], ecx
    mov ecx, dword ptr cs:[{TSC}]
    {o} jecxz slow
    mov ecx, dword ptr cs:[{S0}]
    rdtsc
    {o} jmp done
slow:
    mov ecx, dword ptr cs:[{S0}]
    int 0x40
done:
"""


def rdtsc(emit: Emitter, insn: Insn) -> None:
    """RDTSC: by the processor below, while that counts the guest's time; else by the VMM.

    Source: SDM Vol. 2B, "RDTSC - Read Time-Stamp Counter".
    """
    emit.emit(_RDTSC)
    emit.site_here(SiteKind.CALLOUT)
