"""Which descriptors of the guest's the physical CPU gets to see, and how."""

import pytest

from vmm.arch.descriptors import Descriptor, Gate, SystemType
from vmm.cpu.descriptor_shadow import DescriptorShadow, Lowering
from vmm.cpu.hole import Hole
from vmm.cpu.paging import Mmu
from vmm.hw.memory import PhysicalMemory
from vmm.memory import GuestMemory, MemoryRegion

RAM = 1 << 20
BASE = 0x1FF0  # the third descriptor lies in the next page
P32 = 1 << 22
LONG = 1 << 21


def entry(access: int, bits: int = P32) -> int:
    return int.from_bytes(Descriptor(0x1234_5678, 0xFFFF, access << 8 | bits).to_bytes(), "little")


CASES = [
    pytest.param(Lowering(1), entry(0x9B), entry(0xBB), id="kernel_code_to_1"),
    pytest.param(Lowering(1), entry(0x92), entry(0xB2), id="the_accessed_bit_stays_clear"),
    pytest.param(Lowering(1), entry(0xD3), entry(0xB3), id="ring_2_to_1"),
    pytest.param(Lowering(1), entry(0xF3), entry(0xF3), id="user_data_stays"),
    pytest.param(Lowering(1), entry(0x1B), entry(0x3B), id="absent_stays_absent"),
    pytest.param(Lowering(1), entry(0x93, P32 | LONG), entry(0xB3), id="without_the_bit_that_means_nothing_here"),
    pytest.param(Lowering(3, False), entry(0x9B), entry(0xFB), id="kernel_code_to_3"),
    pytest.param(Lowering(3, False), entry(0xFB), entry(0x7B), id="user_code_absent"),
    pytest.param(Lowering(3, False), entry(0xF3), entry(0xF3), id="user_data_present"),
    pytest.param(Lowering(0), entry(0xB3), entry(0x93), id="out_of_a_users_reach"),
    *[pytest.param(Lowering(1), entry(0x80 | kind), 0, id=kind.name.lower()) for kind in SystemType],
]


@pytest.mark.parametrize(("lowering", "guest", "shadow"), CASES)
def test_a_descriptor_is_lowered(lowering: Lowering, guest: int, shadow: int) -> None:
    assert lowering.shadow(guest) == shadow


@pytest.fixture
def world() -> tuple[DescriptorShadow, GuestMemory, Mmu, Hole]:
    physical = PhysicalMemory(80 << 20)
    memory = GuestMemory(physical, RAM)
    memory.map(MemoryRegion("ram", 0, RAM, physical.allocate(RAM)))
    mmu = Mmu(memory)
    mmu.registers = type("Registers", (), {"cr0": 0})()
    hole = Hole.build(physical)
    return DescriptorShadow(physical, hole), memory, mmu, hole


def shown(hole: Hole, memory: GuestMemory, index: int) -> int:
    at = hole.parts["whole_gdt"].host + 8 * index
    return int.from_bytes(memory.physical.view[at : at + 8], "little")


def test_a_table_is_followed_over_pages_and_shrinks(world) -> None:
    shadow, memory, mmu, hole = world
    for index, access in enumerate((0, 0x93, 0x9B, 0xF3)):
        memory.write(BASE + 8 * index, entry(access).to_bytes(8, "little"))
    shadow.gdt.follow(mmu, BASE, 0x1F, Lowering(1))
    assert [shown(hole, memory, index) for index in range(5)] == [0, entry(0xB3), entry(0xBB), entry(0xF3), 0]
    assert shadow.pages == {1, 2}
    memory.write(BASE + 16, entry(0xFB).to_bytes(8, "little"))
    shadow.gdt.follow(mmu, BASE, 0x17, Lowering(1))
    assert [shown(hole, memory, index) for index in range(4)] == [0, entry(0xB3), entry(0xFB), 0]
    shadow.gdt.distrust()
    assert [shown(hole, memory, index) for index in range(4)] == [0] * 4
    shadow.gdt.follow(mmu, BASE, 0x17, Lowering(1))
    assert shown(hole, memory, 2) == entry(0xFB)


def test_what_no_ram_answers_is_absent(world) -> None:
    shadow, memory, mmu, hole = world
    shadow.gdt.follow(mmu, RAM - 16, 0x1F, Lowering(1))
    assert shadow.pages == {(RAM - 16) >> 12}
    assert [shown(hole, memory, index) for index in range(4)] == [0] * 4


def test_the_accessed_bit_is_set_where_the_guest_keeps_it(world) -> None:
    shadow, memory, mmu, hole = world
    gate = Gate(0, 8, SystemType.CALL_GATE32, 3, True).to_bytes()
    for index, raw in enumerate((entry(0x92), entry(0x93))):
        memory.write(BASE + 8 * index, raw.to_bytes(8, "little"))
    memory.write(BASE + 16, gate)
    shadow.gdt.follow(mmu, BASE, 0x17, Lowering(1))
    at = hole.linear("whole_gdt")
    assert shadow.unaccessed(at + 4) == (BASE + 5, 0x93)
    assert [shadow.unaccessed(at + offset) for offset in (12, 20, 28, 0x1_0000)] == [None] * 4
    assert shadow.unaccessed(hole.linear("shadow_tss")) is None
    assert [shadow.gdt.dpl(selector) for selector in (0, 8, 16, 0x100)] == [0, 0, 3, 3]
