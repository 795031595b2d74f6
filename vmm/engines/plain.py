"""A machine without chips, for small guests that are looked at closely."""

from collections.abc import Callable

from vmm.arch.layout import PAGE_SIZE
from vmm.cpu.hole import VMM_FRAMES, Hole
from vmm.cpu.paging import Mmu
from vmm.cpu.vcpu import Vcpu
from vmm.engines.machine import InterruptSource, Machine
from vmm.hw.cpu import power_on_state
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion


def plain_machine(ram: int, board: Callable[[Vcpu], InterruptSource]) -> Machine:
    """`ram` bytes, a multiple of 4 KiB, from guest-physical and physical address 0, and nothing else."""
    physical = PhysicalMemory(ram + VMM_FRAMES)
    memory = GuestMemory(physical, ram)
    memory.map(MemoryRegion("RAM", 0, ram, physical.allocate(ram)))
    mmu = Mmu(memory)
    hole = Hole.build(physical)
    vcpu = Vcpu(physical.window(hole.parts["vcpu_page"].host, PAGE_SIZE), mmu, power_on_state())
    mmu.registers = vcpu
    return Machine(physical, memory, mmu, vcpu, board(vcpu), hole)
