"""From the virtual CPU to the physical one: what the processor must hold so that a deprivileged guest feels at home.

Real mode and V86 guests run in physical V86 at CPL 3 with IOPL 3 (so that our `int` passes), protected-mode guests at
CPL 1 (virtual CPL 0-2; an engine may choose 3) or CPL 3. Selectors, bases and limits in the hidden registers are the
guest's own; only DPL is raised. The engine trusts `hflags` and does not recompute them when a state is restored, so
they are made here in full.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Cr0, Cr4, Eflags, Seg
from vmm.cpu.hole import SHADOW_GDT_SIZE, Hole
from vmm.cpu.vcpu import DESC_B, DESC_DPL, DESC_DPL_SHIFT, DESC_G, DESC_P, LOADED_NATIVELY, Vcpu
from vmm.hw import state as hw

_BASE_CR0: Final = int(Cr0.PE | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.PG)
_GUEST_CR0: Final = int(Cr0.MP | Cr0.EM | Cr0.TS)
_BASE_CR4: Final = int(Cr4.PAE | Cr4.OSXMMEXCPT)
_OSFXSR: Final = int(Cr4.OSFXSR)
_MP: Final = int(Cr0.MP)
_EM: Final = int(Cr0.EM)
_TS: Final = int(Cr0.TS)
_EFER_NXE: Final = 1 << 11
_FLAGS_V86: Final = int(Eflags.VM | Eflags.IOPL | Eflags.ONE)
_FLAGS_PROTECTED: Final = int(Eflags.ONE)
_V86_DATA: Final = 0xF300  # present, DPL 3, writable data, accessed
_V86_CODE: Final = 0xFB00
KERNEL_CPL: Final = 1
"""Where virtual CPL 0-2 runs, if nobody says otherwise."""
_USER_DPL: Final = 3
_TSS_AVAILABLE_32: Final = DESC_P | 9 << 8
_TSS_LIMIT: Final = 0x67
_FIXED_HFLAGS: Final = hw.HF_PE
_BASED: Final = Slot.BASED >> 2
_ALIGNMENT: Final = 15
_CS_REGISTER: Final = int(Seg.CS)
_CS: Final = Slot.CS >> 2
_CS_LOW: Final = Slot.CS_LOW >> 2
_CS_HIGH: Final = Slot.CS_HIGH >> 2
_RPL_AND_TI: Final = 7
_DESCRIPTOR_SIZE: Final = 8
_ES_BASE, _SS_BASE, _DS_BASE = (hw.D_SEGS + seg * hw.SEG_WORDS + hw.SEG_BASE for seg in (Seg.ES, Seg.SS, Seg.DS))
_FLAGS_AT: Final = tuple(hw.D_SEGS + seg * hw.SEG_WORDS + hw.SEG_FLAGS for seg in range(6))


@lru_cache(maxsize=256)
def raised(flags: int, kernel_cpl: int = KERNEL_CPL) -> int:
    """Descriptor flags with DPL 0-2 made that of a kernel, and without the bit that marks native loads."""
    flags &= ~LOADED_NATIVELY
    if flags >> DESC_DPL_SHIFT & 3 == _USER_DPL:
        return flags
    return flags & ~DESC_DPL | kernel_cpl << DESC_DPL_SHIFT


def load_fixed(vcpu: Vcpu, hole: Hole) -> None:
    """The registers that the guest never gets to change: descriptor tables, task register, EFER."""
    q, d = vcpu.state.q, vcpu.state.d
    q[hw.Q_EFER] = _EFER_NXE
    for at, base, limit, flags in (
        (hw.D_GDT, hole.linear("shadow_gdt"), SHADOW_GDT_SIZE - 1, 0),
        (hw.D_IDT, 0, 0, 0),
        (hw.D_LDT, 0, 0, 0),
        (hw.D_TR, hole.linear("shadow_tss"), _TSS_LIMIT, _TSS_AVAILABLE_32),
    ):
        d[at] = 0
        d[at + hw.SEG_BASE] = base
        d[at + hw.SEG_BASE + 1] = 0
        d[at + hw.SEG_LIMIT] = limit
        d[at + hw.SEG_FLAGS] = flags


class _Attributes(NamedTuple):
    """What the physical CPU holds for one mode: EFLAGS, `hflags` without ADDSEG, and the flags of the segments."""

    eflags: int
    hflags: int
    segments: tuple[int, ...]


@lru_cache(maxsize=256)
def _attributes(cr0: int, cr4: int, cpl: tuple[int, int], segmented: bool, flags: tuple[int, ...]) -> _Attributes:
    """Remembered: a guest goes to and fro between a few modes. `cpl`: the virtual one, and the physical one of a
    kernel. `segmented`: protected mode, without V86."""
    hflags = (
        _FIXED_HFLAGS | (hw.HF_CS32 if flags[Seg.CS] & DESC_B else 0) | (hw.HF_SS32 if flags[Seg.SS] & DESC_B else 0)
    )
    hflags |= (hw.HF_MP if cr0 & _MP else 0) | (hw.HF_EM if cr0 & _EM else 0) | (hw.HF_TS if cr0 & _TS else 0)
    hflags |= hw.HF_OSFXSR if cr4 & _OSFXSR else 0
    if segmented:
        hflags |= (_USER_DPL if cpl[0] == _USER_DPL else cpl[1]) | (0 if hflags & hw.HF_CS32 else hw.HF_ADDSEG)
        return _Attributes(_FLAGS_PROTECTED, hflags, _raised_all(cpl, flags))
    kept = [each & DESC_B for each in flags]
    segments = tuple([(_V86_CODE if seg == Seg.CS else _V86_DATA) | kept[seg] for seg in range(6)])
    return _Attributes(_FLAGS_V86, hflags | _USER_DPL | hw.HF_ADDSEG | hw.HF_VM, segments)


@lru_cache(maxsize=256)
def _raised_all(cpl: tuple[int, int], flags: tuple[int, ...]) -> tuple[int, ...]:
    """Of all segments in protected mode; the DPL of SS is the physical CPL."""
    made = [raised(each, cpl[1]) for each in flags]
    made[Seg.SS] = made[Seg.SS] & ~DESC_DPL | (_USER_DPL if cpl[0] == _USER_DPL else cpl[1]) << DESC_DPL_SHIFT
    return tuple(made)


def materialise(vcpu: Vcpu, root: int, kernel_cpl: int = KERNEL_CPL) -> None:
    """Put mode, privilege, control registers and segment attributes where the physical CPU looks for them."""
    q, d = vcpu.state.q, vcpu.state.d
    cr0, cr4 = vcpu.cr0, vcpu.cr4
    q[hw.Q_CR] = _BASE_CR0 | cr0 & _GUEST_CR0
    q[hw.Q_CR + 3] = root
    q[hw.Q_CR + 4] = _BASE_CR4 | cr4 & _OSFXSR
    segmented = vcpu.is_protected and not vcpu.is_v86
    flags = tuple(vcpu.segment_flags)
    made = _attributes(cr0 & _GUEST_CR0, cr4 & _OSFXSR, (vcpu.cpl, kernel_cpl), segmented, flags)
    q[hw.Q_EFLAGS], d[hw.D_HFLAGS], segments = made
    for at, value in zip(_FLAGS_AT, segments, strict=True):
        d[at] = value
    if segmented:
        _tell_of_segments(vcpu)


def load_data_segment(vcpu: Vcpu, seg: int) -> None:
    """Bring one of ES DS FS GS to the physical CPU; nothing else has changed."""
    d = vcpu.state.d
    if d[hw.D_HFLAGS] & hw.HF_VM:
        d[_FLAGS_AT[seg]] = _V86_DATA
        return
    d[_FLAGS_AT[seg]] = raised(vcpu.flags_of(seg))
    if vcpu.base(seg):
        d[hw.D_HFLAGS] |= hw.HF_ADDSEG
    vcpu.page[_BASED] = _has_bases(vcpu)


def refresh_segments(vcpu: Vcpu) -> None:
    """Bring segment registers to the physical CPU when mode, privilege and control registers are as they were."""
    d = vcpu.state.d
    if not d[hw.D_HFLAGS] & hw.HF_VM:  # in V86 their attributes are always the same
        for at, value in zip(_FLAGS_AT, _raised_all((vcpu.cpl, KERNEL_CPL), tuple(vcpu.segment_flags)), strict=True):
            d[at] = value
        _tell_of_segments(vcpu)


def _tell_of_segments(vcpu: Vcpu) -> None:
    """What the vCPU page says of the segment registers."""
    has_bases = _has_bases(vcpu)
    vcpu.page[_BASED] = has_bases
    if has_bases:
        vcpu.state.d[hw.D_HFLAGS] |= hw.HF_ADDSEG
    if vcpu.cpl == 0:
        cs = vcpu.segment(_CS_REGISTER)
        page = vcpu.page
        # An IRET that lets NMIs through is the VMM's: no selector is that of none.
        selector = 0 if vcpu.nmi_blocked else cs.selector
        page[_CS], page[_CS_LOW], page[_CS_HIGH] = _descriptor_of(selector, cs.base, cs.limit, cs.flags, vcpu.gdtr[1])


@lru_cache(maxsize=64)
def _descriptor_of(selector: int, base: int, limit: int, flags: int, gdt_limit: int) -> tuple[int, int, int]:
    """Selector and descriptor that the GDT must hold for an IRET to this CS to change nothing of the register."""
    if not selector or selector & _RPL_AND_TI or selector + _DESCRIPTOR_SIZE > gdt_limit + 1:
        return MASK32, 0, 0
    limit = limit >> 12 if flags & DESC_G else limit
    return (
        selector,
        (base & 0xFFFF) << 16 | limit & 0xFFFF,
        base & 0xFF00_0000 | base >> 16 & 0xFF | limit & 0xF_0000 | flags,
    )


def has_odd_base(vcpu: Vcpu) -> bool:
    """Has DS, ES or SS a base that is not a multiple of 16?"""
    d = vcpu.state.d
    return bool((d[_DS_BASE] | d[_ES_BASE] | d[_SS_BASE]) & _ALIGNMENT)


def _has_bases(vcpu: Vcpu) -> bool:
    d = vcpu.state.d
    return bool(d[_DS_BASE] | d[_ES_BASE] | d[_SS_BASE])
