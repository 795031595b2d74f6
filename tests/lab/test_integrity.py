"""What the guard finds: one line for each way in which a VMM can be damaged."""

from collections.abc import Callable, Iterator

import pytest

from vmm import kernel_entry
from vmm.lab.attacks.guest import RAM, Attack, attempt, build
from vmm.lab.attacks.integrity import Guard
from vmm.machine import MachineConfig, Vm, build_vm
from vmm.monitor import Monitor

PRESENT, WRITABLE, NX = 1, 2, 1 << 63


@pytest.fixture
def vm() -> Iterator[Vm]:
    built = build_vm(MachineConfig(memory=RAM, exit_port=True))
    yield built
    built.close()


def damaged(vm: Vm, harm: Callable[[Vm, Monitor], None]) -> list[str]:
    """What the guard says of a VMM to which something was done while its guest ran."""
    kernel_entry.enter(vm.vcpu, vm.memory, build(Attack("harmless", "", attempt("nop"), ())))
    guard, monitor = Guard(vm), Monitor()
    assert monitor.run_slice(vm, 5) is not None
    assert guard.problems(monitor.engine) == []
    harm(vm, monitor)
    return guard.problems(monitor.engine)


def map_page(vm: Vm, monitor: Monitor, entry: int) -> None:
    """Put an entry into a last-level table under the current root, at linear address 0."""
    entries = vm.physical.view.cast("Q")
    frame = 0x000F_FFFF_FFFF_F000
    directory = entries[(monitor.engine.phys.state.q[56] & ~0x1F) >> 3] & frame
    table = entries[directory >> 3] & frame
    entries[table >> 3] = entry


def test_a_frame_of_the_vmm_in_the_guests_reach(vm: Vm) -> None:
    frame = vm.hole.parts["gdt_sources"].host
    found = damaged(vm, lambda vm, monitor: map_page(vm, monitor, frame | PRESENT | WRITABLE | NX))
    assert [f"frame {frame:#x}, writable" in line for line in found] == [True] * 2  # two roots share the table


def test_code_that_can_be_written(vm: Vm) -> None:
    frame = vm.hole.parts["kernel_cache"].host
    assert damaged(vm, lambda vm, monitor: map_page(vm, monitor, frame | PRESENT | WRITABLE))


def test_a_page_of_the_window_that_can_run(vm: Vm) -> None:
    frame = vm.hole.parts["lookup"].host
    assert damaged(vm, lambda vm, monitor: map_page(vm, monitor, frame | PRESENT))


def test_a_rom_that_can_be_written(vm: Vm) -> None:
    rom = next(region for region in vm.memory.regions if region.read_only)
    assert damaged(vm, lambda vm, monitor: map_page(vm, monitor, rom.host | PRESENT | WRITABLE | NX))


def test_a_frame_that_nobody_has(vm: Vm) -> None:
    frame = vm.physical.size - 4096
    assert damaged(vm, lambda vm, monitor: map_page(vm, monitor, frame | PRESENT | NX))


def test_memory_that_nobody_has_was_written(vm: Vm) -> None:
    def harm(vm: Vm, _monitor: Monitor) -> None:
        vm.physical.view[vm.physical.size - 1] = 1

    assert damaged(vm, harm) == ["memory that nobody has was written"]


def test_a_rom_was_written(vm: Vm) -> None:
    def harm(vm: Vm, _monitor: Monitor) -> None:
        rom = next(region for region in vm.memory.regions if region.read_only)
        vm.physical.view[rom.host + 5] ^= 1

    assert damaged(vm, harm) == ["a ROM, or a table that never changes, was written"]


@pytest.mark.parametrize("raw", [b"\xff\xff\0\0\0\x93\xcf\0", b"\0\0\x08\0\0\xec\0\0"], ids=["ring 0", "call gate"])
@pytest.mark.parametrize("table", ["shadow_gdt", "whole_gdt", "whole_ldt"])
def test_a_descriptor_that_opens_ring_0(vm: Vm, table: str, raw: bytes) -> None:
    def harm(vm: Vm, _monitor: Monitor) -> None:
        at = vm.hole.parts[table].host + 0x40
        vm.physical.view[at : at + 8] = raw

    found = damaged(vm, harm)
    assert [line.startswith(f"{table}: ") for line in found] == [True]
