"""RDTSC in the cache: while the guest's counter follows the host's time, it leaves for nothing but CR4.TSD."""

import time
from collections.abc import Callable

import pytest
from guest_bench import EVERY, Bench, Mode, Picture, faulted

from vmm.arch.exceptions import Vector

RDTSC = b"\x0f\x31"
GP0 = (Vector.GP, 0)
TSD = 4
_MASK64 = (1 << 64) - 1
KERNELS = [mode for mode in EVERY if mode.ring == 0]


def told(picture: Picture) -> int:
    return int(picture["edx"]) << 32 | int(picture["eax"])


def without_answer(picture: Picture) -> Picture:
    return {name: value for name, value in picture.items() if name not in ("eax", "edx")}


def asked(bench: Bench) -> int:
    """How often the VMM was asked."""
    return bench.engine.stats.callouts["rdtsc"]


@pytest.fixture
def timed(used_bench: Bench) -> Callable[..., tuple[Picture, Picture]]:
    """`run_guest` on a machine whose counter is `offset` ahead of the host's time."""

    def run(code: bytes, mode: Mode, offset: int = 0, **before: int) -> tuple[Picture, Picture]:
        used_bench.start(mode, code, **before)
        used_bench.board.time_offset = offset
        return used_bench.here(), used_bench.run()

    return run


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_it_runs_in_the_cache_and_changes_nothing_else(timed, used_bench, mode):
    asked_before = asked(used_bench)
    for offset in (0, 1 << 40, -time.monotonic_ns()):
        since = time.monotonic_ns()
        before, after = timed(RDTSC, mode, offset, eflags=0xAD5)
        assert told(after) - offset - since & _MASK64 <= time.monotonic_ns() - since
        assert without_answer(after) == without_answer(before)
    assert asked(used_bench) == asked_before


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_under_tsd_the_vmm_decides(timed, used_bench, mode):
    before, after = timed(RDTSC, mode, 1 << 40, cr4=TSD)
    assert after == before | ({"eax": 2, "edx": 1} if mode.ring == 0 else faulted(mode, *GP0))


@pytest.mark.parametrize("mode", KERNELS, ids=str)
def test_tsd_takes_effect_at_the_next_instruction_and_so_does_its_end(timed, used_bench, mode):
    """MOV CR4, EBX between RDTSCs: the VMM's clock stands still at 1_0000_0002h, the host's does not."""
    set_cr4 = b"\x0f\x22\xe3"  # mov cr4, ebx
    _, after = timed(set_cr4 + RDTSC, mode, 1 << 50, ebx=TSD)
    assert told(after) == 0x1_0000_0002
    _, after = timed(set_cr4 + RDTSC, mode, 1 << 50, ebx=0, cr4=TSD)
    assert told(after) >= 1 << 50


@pytest.mark.parametrize("mode", KERNELS, ids=str)
def test_a_written_counter_goes_on_from_there(timed, used_bench, mode):
    """WRMSR in between. The board's own clock stands still at 1_0000_0002h, so the host's is as far ahead of it."""
    ahead = 0x1_0000_0002 - time.monotonic_ns()
    _, after = timed(b"\x0f\x30" + RDTSC, mode, ahead, ecx=0x10, eax=0x5000_0000, edx=0x1234)
    assert 0x1234_5000_0000 <= told(after) < 0x1234_5000_0000 + (time.monotonic_ns() + ahead - 0x1_0000_0002)


@pytest.mark.parametrize("mode", EVERY, ids=str)
def test_without_host_time_each_is_asked_for(timed, used_bench, mode):
    asked_before = asked(used_bench)
    before, after = timed(RDTSC, mode, None)
    assert after == before | {"eax": 2, "edx": 1}
    assert asked(used_bench) == asked_before + 1
