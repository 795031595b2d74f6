"""RDTSC of the engine as the host's monotonic time."""

import time

import pytest
from cpu_rig import EXIT, Rig

from vmm.arch.layout import MASK32
from vmm.arch.registers import Eflags, Reg
from vmm.hw import state as hw
from vmm.hw import tsc
from vmm.hw.traps import Trap, set_traps
from vmm.hw.tsc import count_host_time

MASK64 = (1 << 64) - 1
RDTSC = b"\x0f\x31\xcd" + bytes([EXIT])


def counted(rig: Rig, offset: int, cpl: int = 0) -> int:
    """What RDTSC tells."""
    rig.enter(cpl=cpl)
    count_host_time(rig.cpu.state, offset)
    assert rig.run(RDTSC).vector == EXIT
    return rig.cpu.state.q[Reg.EDX] << 32 | rig.cpu.state.q[Reg.EAX]


def test_this_engine_can() -> None:
    assert tsc.AVAILABLE


@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("offset", [0, 1, 12345678901234567, -(1 << 62)])
def test_it_tells_what_python_reads_plus_the_offset(rig: Rig, cpl: int, offset: int) -> None:
    for _ in range(5):
        before = time.monotonic_ns()
        told = counted(rig, offset, cpl)
        elapsed = told - offset - before & MASK64
        assert elapsed <= time.monotonic_ns() - before


def test_the_sum_wraps_at_64_bits(rig: Rig) -> None:
    far = 1 << 40  # minutes
    now = time.monotonic_ns()
    assert 0 <= counted(rig, -now - far) - (MASK64 + 1 - far) < far
    assert 0 <= counted(rig, -now) < far


def test_nothing_but_eax_and_edx_changes(rig: Rig) -> None:
    flags = int(Eflags.CF | Eflags.AF | Eflags.SF | Eflags.OF)
    rig.enter(cpl=3)
    count_host_time(rig.cpu.state, -time.monotonic_ns())
    rig.set_flags(flags)
    values = [rig.reg(reg) if reg == Reg.ESP else 0x8765_4321 + reg for reg in Reg]
    for reg, value in enumerate(values):
        rig.cpu.state.q[reg] = value
    rig.run(RDTSC)
    kept = [reg for reg in Reg if reg not in (Reg.EAX, Reg.EDX)]
    assert [rig.cpu.state.q[reg] for reg in kept] == [values[reg] for reg in kept]
    assert rig.flags() == flags
    assert rig.cpu.state.q[Reg.EDX] == 0
    assert rig.cpu.state.q[Reg.EAX] <= MASK32


def test_without_an_offset_it_is_the_engines_own_and_can_be_trapped(rig: Rig) -> None:
    rig.enter()
    count_host_time(rig.cpu.state, 5)
    count_host_time(rig.cpu.state, None)
    assert (rig.cpu.state.q[hw.TSC_IS_HOSTS], rig.cpu.state.q[hw.TSC_OFFSET]) == (0, 0)
    set_traps(rig.cpu.state, Trap.TSC)
    assert rig.run(RDTSC).vector != EXIT
