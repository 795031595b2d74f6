"""The virtual CPUID: a P6-class 32-bit processor, the same whatever the host is.

Shown are only features that are modelled and that the engine executes. Not shown, so that guests leave them alone:
VME, MCE, MTRR, MCA, PAT, PSE-36, ACPI (clock and thermal control), long mode, and the hypervisor bit (the guest
is to see the bare processor). A board with a local APIC adds its bits, of which that of leaf 1 EDX follows
IA32_APIC_BASE.EN. The frequency of the time-stamp counter is told, since measuring it takes as long as the host lets it
(docs/adr/0031).

Source: Intel SDM Vol. 2A, "CPUID - CPU Identification".
"""

from enum import IntFlag
from typing import Final

from vmm.arch.layout import CPUID_BASIC, CPUID_EXTENDED, Slot
from vmm.cpu.apic import ProcessorApic
from vmm.cpu.vcpu import CPU_SIGNATURE, Vcpu


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


class StructuredFeature(IntFlag):
    """CPUID.7.0 EBX (SDM table "Structured Extended Feature Flags Enumeration Leaf")."""

    TSC_ADJUST = 1 << 1


class PowerFeature(IntFlag):
    """CPUID.80000007h EDX (SDM table "Information Returned by CPUID Instruction")."""

    INVARIANT_TSC = 1 << 8


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
MAX_BASIC: Final = CPUID_BASIC
EXTENDED: Final = 0x8000_0000
MAX_EXTENDED: Final = EXTENDED + CPUID_EXTENDED

STRUCTURED_LEAF: Final = 7
TSC_LEAF: Final = 0x15
TSC_HZ: Final = 1_000_000_000
"""The time-stamp counter's frequency: it counts nanoseconds, and so does the timer of a local APIC."""
_MHZ: Final = TSC_HZ // 1_000_000

FEATURE_LEAF: Final = 1
_APIC_EDX: Final = int(Feature.APIC)
_APIC_ECX: Final = int(FeatureEcx.X2APIC | FeatureEcx.TSC_DEADLINE)

CLFLUSH_LINE: Final = 64  # bytes, as the caches of leaf 2 have it

# Leaf 2, as a Pentium M has it: one byte a descriptor, AL the number of times to ask. B0 instruction TLB 4 KiB, 128
# entries; B3 data TLB 4 KiB, 128; 02 instruction TLB 4 MiB, 2; 04 data TLB 4 MiB, 8; 30 L1 code 32 KiB; 2C L1 data
# 32 KiB; 86 L2 512 KiB. All lines are of 64 bytes.
_CACHES: Final = (0x02B3_B001, 0, 0, 0x2C04_3086)
_L2: Final = 512 << 16 | 4 << 12 | CLFLUSH_LINE
"""KBytes, ways, bytes of a line: ECX of leaf 80000006h."""

Answer = tuple[int, int, int, int]


def _words(text: bytes) -> list[int]:
    return [int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4)]


def _brand(part: int) -> Answer:
    eax, ebx, ecx, edx = _words(BRAND[16 * part : 16 * part + 16])
    return eax, ebx, ecx, edx


def _vendor() -> Answer:
    ebx, edx, ecx = _words(VENDOR)
    return MAX_BASIC, ebx, ecx, edx


_NOTHING: Final = (0, 0, 0, 0)
LEAVES: Final[dict[int, Answer]] = {
    **dict.fromkeys(range(MAX_BASIC), _NOTHING),
    0: _vendor(),
    1: (CPU_SIGNATURE, CLFLUSH_LINE // 8 << 8, 0, FEATURES),
    2: _CACHES,
    STRUCTURED_LEAF: (0, int(StructuredFeature.TSC_ADJUST), 0, 0),
    TSC_LEAF: (1, 1, TSC_HZ, 0),
    MAX_BASIC: (_MHZ, _MHZ, _MHZ, 0),
    EXTENDED: (MAX_EXTENDED, 0, 0, 0),
    EXTENDED + 1: (0, 0, 0, int(ExtendedFeature.NX)),
    EXTENDED + 2: _brand(0),
    EXTENDED + 3: _brand(1),
    EXTENDED + 4: _brand(2),
    EXTENDED + 5: _NOTHING,
    EXTENDED + 6: (0, 0, _L2, 0),
    MAX_EXTENDED: (0, 0, 0, int(PowerFeature.INVARIANT_TSC)),
}


def cpuid(leaf: int, sub_leaf: int = 0, apic: ProcessorApic | None = None) -> Answer:
    """(EAX, EBX, ECX, EDX) for EAX = `leaf` and ECX = `sub_leaf`, 32 bits each; leaf 7 alone looks at that.

    A leaf beyond the highest basic or extended one answers as the highest basic leaf, as Intel processors do. The
    initial APIC identification, EBX 31:24 of leaf 1, is 0.
    """
    if leaf == STRUCTURED_LEAF and sub_leaf:
        return _NOTHING
    answer = LEAVES.get(leaf, LEAVES[MAX_BASIC])
    return answer if apic is None or leaf != FEATURE_LEAF else _with_apic(answer, apic)


def _with_apic(answer: Answer, apic: ProcessorApic) -> Answer:
    eax, ebx, ecx, edx = answer
    return eax, ebx, ecx | _APIC_ECX, edx | (_APIC_EDX if apic.is_enabled else 0)


# --- answers in the vCPU page ----------------------------------------------------------------------------------------

_KNOWN_AT: Final = Slot.CPUID_KNOWN >> 2
_ANSWERS_AT: Final = Slot.CPUID >> 2
_WORDS: Final = 4


def number_of(leaf: int) -> int:
    """The number of a leaf's answer (see `vmm.arch.layout.CPUID_BASIC`)."""
    if EXTENDED <= leaf <= MAX_EXTENDED:
        return leaf - EXTENDED + MAX_BASIC + 1
    return min(leaf, MAX_BASIC)


def remember(vcpu: Vcpu, leaf: int, answer: Answer) -> None:
    """Let CPUID in the cache give an answer by itself from now on, if it follows from the leaf."""
    if leaf == STRUCTURED_LEAF:
        return
    number, page = number_of(leaf), vcpu.page
    for at, word in enumerate(answer, _ANSWERS_AT + _WORDS * number):
        page[at] = word
    page[_KNOWN_AT] |= 1 << number


def forget(vcpu: Vcpu) -> None:
    """What the answer of leaf 1 follows from, or what it does besides, may be another one now."""
    vcpu.page[_KNOWN_AT] &= ~(1 << FEATURE_LEAF)
