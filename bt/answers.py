"""RDTSC and CPUID: what the processor tells whoever asks, in the cache.

No flag changes. Where something has to be decided, and where the answer is not at hand, the VMM is asked.
"""

from typing import Final

from bt.decode import Insn
from bt.emit import Emitter, SiteKind
from vmm.arch.layout import CPUID_BASIC, CPUID_EXTENDED, Slot

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


_CPUID: Final = """
    mov dword ptr cs:[{S0}], ecx
    mov dword ptr cs:[{S1}], edx
    mov edx, eax
    mov ecx, eax
    lahf
    seto al
    cmp ecx, {basic}
    {o} jbe known
    lea ecx, [ecx + 0x80000000]
    cmp ecx, {extended}
    lea ecx, [ecx + {first_extended}]
    {o} jbe known
    mov ecx, {basic}
known:
    bt dword ptr cs:[{CPUID_KNOWN}], ecx
    {o} jae slow
    shl ecx, 4
    add al, 0x7f
    sahf
    mov eax, dword ptr cs:[ecx + {answer_eax}]
    mov ebx, dword ptr cs:[ecx + {answer_ebx}]
    mov edx, dword ptr cs:[ecx + {answer_edx}]
    mov ecx, dword ptr cs:[ecx + {answer_ecx}]
    {o} jmp done
slow:
    add al, 0x7f
    sahf
    mov eax, edx
    mov edx, dword ptr cs:[{S1}]
    mov ecx, dword ptr cs:[{S0}]
    int 0x40
done:
"""


def cpuid(emit: Emitter, insn: Insn) -> None:
    """CPUID: an answer that the VMM has given before and put into the vCPU page.

    Source: SDM Vol. 2A, "CPUID - CPU Identification".
    """
    answers = emit.window.slot(Slot.CPUID)
    words = {f"answer_{name}": answers + 4 * at for at, name in enumerate(("eax", "ebx", "ecx", "edx"))}
    emit.emit(_CPUID, basic=CPUID_BASIC, extended=CPUID_EXTENDED, first_extended=CPUID_BASIC + 1, **words)
    emit.site_here(SiteKind.CALLOUT)
