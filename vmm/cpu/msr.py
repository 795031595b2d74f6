"""Model-specific registers, the time-stamp counter, and the performance counters that are not there.

A register that is not in the table is #GP(0), as on a processor without it: no APIC, MTRRs, PAT, machine check or
performance counters.

Source: Intel SDM Vol. 2B, "RDMSR", "WRMSR", "RDTSC", "RDPMC"; Vol. 4, "Model-Specific Registers (MSRs)".
"""

from enum import IntEnum
from typing import Final

from vmm.arch.exceptions import gp
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr4
from vmm.cpu.segments import require_cpl0
from vmm.cpu.vcpu import Vcpu

_MASK64: Final = (1 << 64) - 1
_TSD: Final = int(Cr4.TSD)


class Msr(IntEnum):
    """The registers there are (SDM Vol. 4, "MSRs in the P6 Family Processors")."""

    TSC = 0x10
    PLATFORM_ID = 0x17
    BIOS_SIGN_ID = 0x8B


def read_tsc(vcpu: Vcpu, now_tsc: int) -> int:
    """The guest's time-stamp counter, 64 bits: the clock's count plus what the guest has written."""
    return now_tsc + vcpu.msrs.get(Msr.TSC, 0) & _MASK64


def rdtsc(vcpu: Vcpu, now_tsc: int) -> int:
    """RDTSC: 64 bits. Raises: GuestFault #GP(0) at CPL > 0 with CR4.TSD."""
    if vcpu.cpl and vcpu.cr4 & _TSD:
        raise gp()
    return read_tsc(vcpu, now_tsc)


def rdpmc(vcpu: Vcpu, counter: int) -> int:
    """RDPMC: this processor has no counter, so every number is invalid. Raises: GuestFault #GP(0), always."""
    raise gp()


def rdmsr(vcpu: Vcpu, index: int, now_tsc: int) -> int:
    """RDMSR: 64 bits. Raises: GuestFault #GP(0) at CPL > 0 and for an unknown register."""
    require_cpl0(vcpu)
    if index == Msr.TSC:
        return read_tsc(vcpu, now_tsc)
    if index == Msr.PLATFORM_ID:
        return 0
    if index == Msr.BIOS_SIGN_ID:
        return vcpu.msrs.get(Msr.BIOS_SIGN_ID, 0)
    raise gp()


def wrmsr(vcpu: Vcpu, index: int, value: int, now_tsc: int) -> None:
    """WRMSR: 64 bits. Raises: GuestFault #GP(0) at CPL > 0 and for an unknown or read-only register.

    The TSC takes 32 bits and clears its upper half, as in all of the P6 family (SDM Vol. 3B, "Time-Stamp Counter").
    """
    require_cpl0(vcpu)
    if index == Msr.TSC:
        vcpu.msrs[int(Msr.TSC)] = (value & MASK32) - now_tsc & _MASK64
    elif index == Msr.BIOS_SIGN_ID:
        vcpu.msrs[int(Msr.BIOS_SIGN_ID)] = value & _MASK64
    else:
        raise gp()
