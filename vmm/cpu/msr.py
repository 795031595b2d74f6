"""Model-specific registers, the time-stamp counter, and the performance counters that are not there.

A register that is not in the table is #GP(0), as on a processor without it: no MTRRs, PAT, machine check, performance
counters or last-branch records, and those of a local APIC only where the board has one. The signature in CPUID is that
of a model of which nobody expects more (docs/adr/0015).

Source: Intel SDM Vol. 2B, "RDMSR", "WRMSR", "RDTSC", "RDPMC"; Vol. 4, "Model-Specific Registers (MSRs)".
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final

from vmm.arch.exceptions import gp
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr4, Efer
from vmm.cpu.apic import is_apic_msr
from vmm.cpu.vcpu import STALE_ALL, Vcpu
from vmm.hw import state as hw

_MASK64: Final = (1 << 64) - 1
_TSD: Final = int(Cr4.TSD)
_NXE: Final = int(Efer.NXE)


class Msr(IntEnum):
    """The registers there are (SDM Vol. 4, "MSRs in the P6 Family Processors"; EFER: "IA-32 Architectural MSRs")."""

    TSC = 0x10
    PLATFORM_ID = 0x17
    TSC_ADJUST = 0x3B
    BIOS_SIGN_ID = 0x8B
    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    EFER = 0xC000_0080


_TSC: Final = int(Msr.TSC)
_BIOS_SIGN_ID: Final = int(Msr.BIOS_SIGN_ID)
UPDATE_REVISION: Final = 1


def read_tsc(vcpu: Vcpu, now_tsc: int) -> int:
    """The guest's time-stamp counter, 64 bits: the clock's count plus what the guest has written."""
    return now_tsc + vcpu.msrs.get(_TSC, 0) & _MASK64


def tsc_distance(vcpu: Vcpu, count: int, now_tsc: int) -> int:
    """Counts from now until the guest's time-stamp counter reaches `count`, 64 bits; 0: it has."""
    return max(0, count - read_tsc(vcpu, now_tsc))


def rdtsc(vcpu: Vcpu, now_tsc: int) -> int:
    """RDTSC: 64 bits. Raises: GuestFault #GP(0) at CPL > 0 with CR4.TSD."""
    if vcpu.cpl and vcpu.cr4 & _TSD:
        raise gp()
    return now_tsc + vcpu.msrs.get(_TSC, 0) & _MASK64


def rdpmc(vcpu: Vcpu, counter: int) -> int:
    """RDPMC: this processor has no counter, so every number is invalid. Raises: GuestFault #GP(0), always."""
    raise gp()


def rdmsr(vcpu: Vcpu, index: int, now_tsc: int) -> int:
    """RDMSR: 64 bits. Raises: GuestFault #GP(0) at CPL > 0 and for an unknown register."""
    if vcpu.cpl:
        raise gp()
    read = _READ.get(index)
    value = _read_apic(vcpu, index) if read is None else read(vcpu, now_tsc)
    if value is None:
        raise gp()
    return value


def wrmsr(vcpu: Vcpu, index: int, value: int, now_tsc: int) -> None:
    """WRMSR: 64 bits. Raises: GuestFault #GP(0) at CPL > 0, for an unknown or read-only register, for reserved bits."""
    if vcpu.cpl:
        raise gp()
    write = _WRITE.get(index)
    if write is not None:
        write(vcpu, value & _MASK64, now_tsc)
    elif vcpu.apic is None or not is_apic_msr(index) or not vcpu.apic.write_msr(index, value & _MASK64):
        raise gp()


def _read_apic(vcpu: Vcpu, index: int) -> int | None:
    return vcpu.apic.read_msr(index) if vcpu.apic is not None and is_apic_msr(index) else None


def _write_tsc(vcpu: Vcpu, value: int, now_tsc: int) -> None:
    """All 64 bits (SDM Vol. 3B, "Time-Stamp Counter"): a processor with TSC_ADJUST takes them."""
    _write_tsc_adjust(vcpu, value - now_tsc & _MASK64, now_tsc)


def _write_tsc_adjust(vcpu: Vcpu, value: int, _now_tsc: int) -> None:
    """What has been added to the counter since reset (SDM Vol. 3B, "IA32_TSC_ADJUST MSR")."""
    q = vcpu.state.q  # where RDTSC runs by itself, it tells the new count from the next instruction on
    q[hw.TSC_OFFSET] = q[hw.TSC_OFFSET] + value - vcpu.msrs.get(_TSC, 0) & _MASK64
    vcpu.msrs[_TSC] = value
    if vcpu.apic is not None:
        vcpu.apic.tsc_changed()


def deposit_update_revision(vcpu: Vcpu) -> None:
    """CPUID leaf 1 puts the revision of the microcode update, which a BIOS has loaded, into bits 63:32 of BIOS_SIGN_ID.

    Source: SDM Vol. 3A, "Determining the Signature".
    """
    vcpu.msrs[_BIOS_SIGN_ID] = UPDATE_REVISION << 32


def _write_bios_sign_id(vcpu: Vcpu, value: int, _now_tsc: int) -> None:
    vcpu.msrs[_BIOS_SIGN_ID] = value


def _write_sysenter_cs(vcpu: Vcpu, value: int, _now_tsc: int) -> None:
    vcpu.sysenter_cs = value & MASK32


def _write_sysenter_esp(vcpu: Vcpu, value: int, _now_tsc: int) -> None:
    vcpu.sysenter_esp = value & MASK32


def _write_sysenter_eip(vcpu: Vcpu, value: int, _now_tsc: int) -> None:
    vcpu.sysenter_eip = value & MASK32


def _write_efer(vcpu: Vcpu, value: int, _now_tsc: int) -> None:
    """NXE is all there is: without long mode SCE, LME and LMA are reserved. NXE decides what a paging entry means."""
    if value & ~_NXE:
        raise gp()
    if value != vcpu.efer:
        vcpu.efer = value
        vcpu.make_stale(STALE_ALL)


_READ: Final[Mapping[int, Callable[[Vcpu, int], int]]] = {
    int(Msr.TSC): read_tsc,
    int(Msr.PLATFORM_ID): lambda _vcpu, _now_tsc: 0,
    int(Msr.TSC_ADJUST): lambda vcpu, _now_tsc: vcpu.msrs.get(_TSC, 0),
    int(Msr.BIOS_SIGN_ID): lambda vcpu, _now_tsc: vcpu.msrs.get(_BIOS_SIGN_ID, 0),
    int(Msr.SYSENTER_CS): lambda vcpu, _now_tsc: vcpu.sysenter_cs,
    int(Msr.SYSENTER_ESP): lambda vcpu, _now_tsc: vcpu.sysenter_esp,
    int(Msr.SYSENTER_EIP): lambda vcpu, _now_tsc: vcpu.sysenter_eip,
    int(Msr.EFER): lambda vcpu, _now_tsc: vcpu.efer,
}

_WRITE: Final[Mapping[int, Callable[[Vcpu, int, int], None]]] = {
    int(Msr.TSC): _write_tsc,
    int(Msr.TSC_ADJUST): _write_tsc_adjust,
    int(Msr.BIOS_SIGN_ID): _write_bios_sign_id,
    int(Msr.SYSENTER_CS): _write_sysenter_cs,
    int(Msr.SYSENTER_ESP): _write_sysenter_esp,
    int(Msr.SYSENTER_EIP): _write_sysenter_eip,
    int(Msr.EFER): _write_efer,
}
