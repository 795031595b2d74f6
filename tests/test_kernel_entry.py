"""The boot door from the inside: the kernel is laid out in the memory map that the BIOS told the option ROM."""

import struct
from pathlib import Path

import pytest

from tests.firmware.kernels import MIB, bzimage, field
from vmm.arch.registers import Reg, Seg
from vmm.cpu.vcpu import REAL_MODE_DATA, SegmentRegister
from vmm.errors import ConfigError
from vmm.machine import MachineConfig, Vm, build_vm

INITRD = b"ramdisk" * 100
TOLD = [(0, 0x9F000, 1), (MIB, 11 * MIB, 1), (12 * MIB, 4 * MIB, 3)]
"""A BIOS that keeps the top 4 MiB of 16 to itself, for ACPI tables."""


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    (tmp_path / "kernel").write_bytes(bzimage(init_size=8 * MIB))
    (tmp_path / "initrd").write_bytes(INITRD)
    return build_vm(MachineConfig(memory=16 * MIB, kernel=tmp_path / "kernel", initrd=tmp_path / "initrd"))


def tell(vm: Vm, entries: list[tuple[int, int, int]]) -> None:
    """What the option ROM does before it writes to the door."""
    at = 0x7C00
    vm.vcpu.set_segment(Seg.ES, SegmentRegister(0x7A0, 0x7A00, 0xFFFF, REAL_MODE_DATA))
    vm.vcpu.set_reg32(Reg.EDI, at - 0x7A00)
    vm.vcpu.set_reg32(Reg.ECX, len(entries))
    vm.memory.write(at, b"".join(struct.pack("<QQI", *entry) for entry in entries))


def zero_page(vm: Vm) -> bytes:
    return vm.memory.read(vm.vcpu.reg32(Reg.ESI), 4096)


def test_the_zero_page_has_the_map_that_the_bios_told(vm: Vm):
    tell(vm, TOLD)
    vm.open_boot_door()
    page = zero_page(vm)
    assert page[0x1E8] == len(TOLD)
    assert list(struct.iter_unpack("<QQI", page[0x2D0 : 0x2D0 + 60])) == TOLD


def test_the_initrd_stays_out_of_what_the_bios_keeps(vm: Vm):
    tell(vm, TOLD)
    vm.open_boot_door()
    at = field(zero_page(vm), "ramdisk_image")
    assert at + len(INITRD) <= 12 * MIB
    assert vm.memory.read(at, len(INITRD)) == INITRD


def test_a_bios_that_tells_nothing_gets_the_map_of_ours(vm: Vm):
    tell(vm, [])
    vm.open_boot_door()
    assert field(zero_page(vm), "ramdisk_image") + len(INITRD) > 12 * MIB


def test_a_kernel_that_does_not_fit_into_that_map_is_refused(vm: Vm):
    tell(vm, [(0, 0x9F000, 1), (MIB, 4 * MIB, 1)])
    with pytest.raises(ConfigError, match="init_size"):
        vm.open_boot_door()


@pytest.mark.parametrize(("base", "count"), [(0xFFFF_0000, 128), (0x9F000, 128), (0xA0000, 1)])
def test_what_is_not_in_conventional_memory_is_no_map(vm: Vm, base: int, count: int):
    vm.vcpu.set_segment(Seg.ES, SegmentRegister(0x10, base, 0xFFFF, REAL_MODE_DATA))
    vm.vcpu.set_reg32(Reg.EDI, 0xF00)
    vm.vcpu.set_reg32(Reg.ECX, count)
    vm.open_boot_door()
    assert field(zero_page(vm), "ramdisk_image") + len(INITRD) > 12 * MIB


def test_a_map_of_nonsense_is_an_error_or_a_map(vm: Vm):
    tell(vm, [(1 << 63, 1 << 63, 1), (0, 0, 0xFFFF_FFFF), (MIB, 1 << 40, 1)] * 100)
    vm.open_boot_door()
    assert zero_page(vm)[0x1E8] == 128


def test_a_guest_gone_wild_at_the_door_finds_it_shut(vm: Vm):
    """A kernel that runs off its code came through the option ROM again with a map of whatever lay there."""
    tell(vm, TOLD)
    vm.open_boot_door()
    before = vm.save()
    tell(vm, [(0xF000_0000_0000_0000, 0xF000_0000_0000_0000, 0xEFFF_0000)] * 5)
    vm.vcpu.eip = 0xD_0000
    vm.open_boot_door()
    assert vm.vcpu.eip == 0xD_0000
    vm.load(before)
    tell(vm, [(0, 0x9F000, 1)])
    vm.open_boot_door()


def test_each_restart_lays_the_kernel_out_again(vm: Vm):
    tell(vm, [])
    vm.open_boot_door()
    vm.memory.write(MIB, bytes(100))
    vm.reset()
    tell(vm, TOLD)
    vm.open_boot_door()
    assert vm.memory.read(MIB, 100) == b"\xf4" * 100
    assert zero_page(vm)[0x1E8] == len(TOLD)
