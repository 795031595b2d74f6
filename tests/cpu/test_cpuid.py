"""The virtual CPUID says what is modelled and nothing else."""

import struct

import pytest

from vmm.arch.registers import Reg
from vmm.cpu import control
from vmm.cpu.cpuid import CPU_SIGNATURE, FEATURES, TSC_HZ, Feature, cpuid


def test_vendor_and_highest_leaf():
    eax, ebx, ecx, edx = cpuid(0)
    assert eax == 0x16
    assert struct.pack("<III", ebx, edx, ecx) == b"GenuineIntel"


def test_signature_is_what_edx_holds_after_reset(world):
    assert cpuid(1)[0] == CPU_SIGNATURE == world.vcpu.reg32(Reg.EDX)
    assert (CPU_SIGNATURE >> 8 & 15, CPU_SIGNATURE >> 4 & 15) == (6, 12)
    assert CPU_SIGNATURE >= 0x633  # below, SEP means nothing (SDM Vol. 2B, "SYSENTER")


def test_brand_string():
    text = b"".join(struct.pack("<IIII", *cpuid(0x8000_0002 + part)) for part in range(3))
    assert text.rstrip(b"\0") == b"Glassvisor virtual CPU"
    assert len(text) == 48


@pytest.mark.parametrize("bit", [1, 7, 9, 12, 14, 16, 17, 18, 21, 22, 27, 28, 29, 30, 31])
def test_features_that_are_not_modelled_are_not_shown(bit):
    assert not FEATURES >> bit & 1


def test_no_hypervisor_bit_no_extensions_but_nx():
    assert cpuid(1)[2] == 0
    assert cpuid(0x8000_0001) == (0, 0, 0, 1 << 20)
    assert cpuid(0x8000_0000) == (0x8000_0007, 0, 0, 0)


def test_clflush_lines_are_as_long_as_the_caches():
    assert cpuid(1)[1] == 64 // 8 << 8
    assert 0x2C in cpuid(2)[3].to_bytes(4, "little")  # L1 data, 64 bytes a line


def test_the_time_stamp_counter_says_how_fast_it_is():
    ratio, times, crystal, reserved = cpuid(0x15)
    assert (crystal * times // ratio, reserved) == (TSC_HZ, 0)
    assert cpuid(0x16)[:2] == (TSC_HZ // 1_000_000, TSC_HZ // 1_000_000)
    assert cpuid(0x8000_0007) == (0, 0, 0, 1 << 8)  # invariant


def test_leaf_7_has_tsc_adjust_and_one_sub_leaf():
    assert cpuid(7) == (0, 1 << 1, 0, 0)
    assert cpuid(7, 1) == (0, 0, 0, 0)


def test_the_second_level_cache_is_that_of_leaf_2():
    assert cpuid(2)[3] & 0xFF == 0x86  # 512 KBytes, four ways
    assert cpuid(0x8000_0006)[2] == 512 << 16 | 4 << 12 | 64


@pytest.mark.parametrize("leaf", [3, 4, 5, 6, 8, 0xA, 0xB, 0xD, 0x14, 0x8000_0005])
def test_leaves_of_what_is_not_there_are_empty(leaf):
    assert cpuid(leaf) == (0, 0, 0, 0)


@pytest.mark.parametrize("leaf", [0x17, 0xFFFF_FFFF, 0x4000_0000, 0x8000_0008, 0xC000_0000])
def test_leaves_beyond_the_highest_answer_as_the_highest_basic_one(leaf):
    assert cpuid(leaf) == cpuid(0x16)


@pytest.mark.parametrize(
    ("feature", "cr4_bit"),
    [(Feature.TSC, 2), (Feature.DE, 3), (Feature.PSE, 4), (Feature.PAE, 5), (Feature.PGE, 7), (Feature.FXSR, 9)],
)
def test_cr4_bits_follow_the_features(feature, cr4_bit):
    assert bool(FEATURES & feature) is bool(control.CR4_BITS >> cr4_bit & 1)
