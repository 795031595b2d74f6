"""The virtual CPUID: a P6-class 32-bit processor, the same whatever the host is.

Shown are only features that are modelled and that the engine executes. Not shown, so that guests leave them alone:
VME, MCE, MTRR, MCA, PAT, PSE-36, ACPI (clock and thermal control), long mode, and the hypervisor bit (the guest
is to see the bare processor). A board with a local APIC adds its bits, of which that of leaf 1 EDX follows
IA32_APIC_BASE.EN.

Source: Intel SDM Vol. 2A, "CPUID - CPU Identification".
"""

from enum import IntFlag
from typing import Final

from vmm.cpu.apic import ProcessorApic
from vmm.cpu.vcpu import CPU_SIGNATURE


class Feature(IntFlag):
    """CPUID.1 EDX (SDM table "More on Feature Information Returned in the EDX Register")."""

    FPU = 1 << 0
    DE = 1 << 2
    PSE = 1 << 3
    TSC = 1 << 4
    MSR = 1 << 5
    PAE = 1 << 6
    CX8 = 1 << 8
    APIC = 1 << 9
    SEP = 1 << 11
    PGE = 1 << 13
    CMOV = 1 << 15
    CLFSH = 1 << 19
    MMX = 1 << 23
    FXSR = 1 << 24
    SSE = 1 << 25
    SSE2 = 1 << 26


class FeatureEcx(IntFlag):
    """CPUID.1 ECX (SDM table "Feature Information Returned in the ECX Register")."""

    X2APIC = 1 << 21
    TSC_DEADLINE = 1 << 24


class ExtendedFeature(IntFlag):
    """CPUID.80000001h EDX (SDM table "Information Returned by CPUID Instruction")."""

    NX = 1 << 20


FEATURES: Final = int(
    Feature.FPU
    | Feature.DE
    | Feature.PSE
    | Feature.TSC
    | Feature.MSR
    | Feature.PAE
    | Feature.CX8
    | Feature.SEP
    | Feature.PGE
    | Feature.CMOV
    | Feature.CLFSH
    | Feature.MMX
    | Feature.FXSR
    | Feature.SSE
    | Feature.SSE2
)

VENDOR: Final = b"GenuineIntel"
BRAND: Final = b"Glassvisor virtual CPU".ljust(48, b"\0")
MAX_BASIC: Final = 2
EXTENDED: Final = 0x8000_0000
MAX_EXTENDED: Final = EXTENDED + 4

FEATURE_LEAF: Final = 1
_APIC_EDX: Final = int(Feature.APIC)
_APIC_ECX: Final = int(FeatureEcx.X2APIC | FeatureEcx.TSC_DEADLINE)

CLFLUSH_LINE: Final = 64  # bytes, as the caches of leaf 2 have it

# Leaf 2, as a Pentium M has it: one byte a descriptor, AL the number of times to ask. B0 instruction TLB 4 KiB, 128
# entries; B3 data TLB 4 KiB, 128; 02 instruction TLB 4 MiB, 2; 04 data TLB 4 MiB, 8; 30 L1 code 32 KiB; 2C L1 data
# 32 KiB; 86 L2 512 KiB. All lines are of 64 bytes.
_CACHES: Final = (0x02B3_B001, 0, 0, 0x2C04_3086)

Answer = tuple[int, int, int, int]


def _words(text: bytes) -> list[int]:
    return [int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4)]


def _brand(part: int) -> Answer:
    eax, ebx, ecx, edx = _words(BRAND[16 * part : 16 * part + 16])
    return eax, ebx, ecx, edx


def _vendor() -> Answer:
    ebx, edx, ecx = _words(VENDOR)
    return MAX_BASIC, ebx, ecx, edx


LEAVES: Final[dict[int, Answer]] = {
    0: _vendor(),
    1: (CPU_SIGNATURE, CLFLUSH_LINE // 8 << 8, 0, FEATURES),
    2: _CACHES,
    EXTENDED: (MAX_EXTENDED, 0, 0, 0),
    EXTENDED + 1: (0, 0, 0, int(ExtendedFeature.NX)),
    EXTENDED + 2: _brand(0),
    EXTENDED + 3: _brand(1),
    EXTENDED + 4: _brand(2),
}


def cpuid(leaf: int, apic: ProcessorApic | None = None) -> Answer:
    """(EAX, EBX, ECX, EDX) for EAX = `leaf`, 32 bits; no leaf here looks at ECX.

    A leaf beyond the highest basic or extended one answers as the highest basic leaf, as Intel processors do. The
    initial APIC identification, EBX 31:24 of leaf 1, is 0.
    """
    answer = LEAVES.get(leaf, LEAVES[MAX_BASIC])
    return answer if apic is None or leaf != FEATURE_LEAF else _with_apic(answer, apic)


def _with_apic(answer: Answer, apic: ProcessorApic) -> Answer:
    eax, ebx, ecx, edx = answer
    return eax, ebx, ecx | _APIC_ECX, edx | (_APIC_EDX if apic.is_enabled else 0)
