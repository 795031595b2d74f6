"""The machine's RAM: frames handed out once, seen by Python and by the engine alike."""

import pytest
from cpu_rig import DATA, EXIT, Rig

from vmm.arch.layout import PAGE_SIZE
from vmm.arch.registers import Reg
from vmm.hw.memory import PhysicalMemory


@pytest.mark.parametrize("size", [0, -PAGE_SIZE, 1, PAGE_SIZE + 1])
def test_a_size_that_is_not_whole_pages_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"{size} bytes given, a positive multiple of 4096 expected"):
        PhysicalMemory(size)


def test_frames_are_zero_page_aligned_and_never_handed_out_twice() -> None:
    memory = PhysicalMemory(16 * PAGE_SIZE)
    first, second, third = memory.allocate(1), memory.allocate(PAGE_SIZE + 1), memory.allocate(PAGE_SIZE)
    assert (first, second, third) == (0, PAGE_SIZE, 3 * PAGE_SIZE)
    assert bytes(memory.view) == bytes(16 * PAGE_SIZE)


def test_it_says_how_much_is_left_when_there_is_no_room() -> None:
    memory = PhysicalMemory(4 * PAGE_SIZE)
    memory.allocate(3 * PAGE_SIZE)
    with pytest.raises(MemoryError, match="8192 bytes wanted, 4096 left"):
        memory.allocate(2 * PAGE_SIZE)
    assert memory.allocate(PAGE_SIZE) == 3 * PAGE_SIZE


def test_a_window_is_the_memory_itself() -> None:
    memory = PhysicalMemory(2 * PAGE_SIZE)
    window = memory.window(PAGE_SIZE, 4)
    window[:] = b"abcd"
    assert bytes(memory.view[PAGE_SIZE : PAGE_SIZE + 4]) == b"abcd"
    assert len(window) == 4


def test_the_engine_and_python_see_the_same_bytes(rig: Rig) -> None:
    rig.put(DATA, (0x1234_5678).to_bytes(4, "little"))
    rig.run(f"mov eax, dword ptr [{DATA:#x}]; mov dword ptr [{DATA + 4:#x}], 0x55; int {EXIT:#x}")
    assert (rig.reg(Reg.EAX), rig.word(DATA + 4)) == (0x1234_5678, 0x55)
