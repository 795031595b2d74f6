"""Instructions with an operand in the memory of a device: it gets and gives what RAM would."""

import pytest
from guest_bench import DATA, P32, Bench, asm

from vmm.arch.registers import Cr4
from vmm.memory import MemoryRegion

RAM, DEVICE = 0x30_0000, 0xFEB0_0000
OSFXSR = int(Cr4.OSFXSR)
AREA = 0x400
FILL = bytes(range(1, 0x81)) * (AREA // 0x80)

STORES = [
    "mov [esi], eax", "mov [esi], ax", "mov [esi], al", "mov word ptr [esi], ds", "setc byte ptr [esi]",
    "smsw word ptr [esi]", "sldt word ptr [esi]", "str word ptr [esi]", "sgdt [esi]", "sidt [esi]",
    "fnstcw word ptr [esi]", "fnstsw word ptr [esi]", "fninit; fld1; fstp dword ptr [esi]", "fninit; fld1; fstp qword ptr [esi]",
    "fninit; fld1; fstp tbyte ptr [esi]", "fnstenv [esi]", "fnsave [esi]", "stmxcsr dword ptr [esi]",
    "movq [esi], mm0", "movups [esi], xmm0", "add [esi], eax", "xchg [esi], ax", "lock xadd [esi], eax",
    "bts dword ptr [esi], eax", "btc dword ptr [esi], 35", "lock cmpxchg8b [esi]", "not dword ptr [esi]", "neg byte ptr [esi]",
    "push dword ptr [ebx]; pop dword ptr [esi]", "mov edi, esi; mov ecx, 5; rep stosw",
]  # fmt: skip
LOADS = [
    "mov eax, [esi]", "movzx eax, byte ptr [esi]", "cmp eax, [esi]", "push dword ptr [esi]; pop eax", "imul eax, [esi], 51",
    "mov es, [esi + 0x20]", "les eax, [esi + 0x1c]", "lar eax, word ptr [esi + 0x20]", "verw word ptr [esi + 0x20]",
    "lgdt [esi + 0x28]", "lidt [esi + 0x28]", "lmsw word ptr [esi + 0x30]", "fldcw word ptr [esi]", "fld qword ptr [esi]",
    "frstor [esi + 0x40]", "fxrstor [esi + 0x100]", "movdqu xmm0, [esi]", "bsf eax, [esi]", "cmovz eax, [esi]",
    "call dword ptr [esi + 0x34]", "mov edi, esi; mov ecx, 9; repne scasb",
]  # fmt: skip


def start(bench: Bench, code: str, at: int) -> None:
    bench.start(P32[0], code, esi=at, ebx=DATA + AREA, eax=0x1234_5603, ecx=0x77, edx=0, cr4=OSFXSR)


def operands(bench: Bench) -> bytes:
    """What the loads find: selectors, table registers, a pointer to code, states of the FPU."""
    area = bytearray(FILL)
    area[0x20:0x22] = bench.vcpu.segment(3).selector.to_bytes(2, "little")
    area[0x28:0x2E] = b"\x7f\0" + bench.vcpu.gdtr[0].to_bytes(4, "little")
    area[0x30:0x32] = (bench.vcpu.cr0 & 0xFFFF | 2).to_bytes(2, "little")
    area[0x34:0x38] = (P32[0].entry + len(asm("call dword ptr [esi + 0x34]", True))).to_bytes(4, "little")
    area[0x40:0xC0] = bytes(0x80)
    area[0x100:0x180] = bytes(0x80)
    return bytes(area)


def add_device(bench: Bench) -> bytearray:
    """Memory behind a device."""
    memory = bytearray(operands(bench))

    def read(offset: int, width: int) -> int:
        return int.from_bytes(memory[offset : offset + width], "little")

    def write(offset: int, width: int, value: int) -> None:
        memory[offset : offset + width] = value.to_bytes(width, "little")

    bench.memory.map(MemoryRegion("device", DEVICE, 0x1000, read=read, write=write))
    return memory


@pytest.mark.parametrize("code", STORES)
def test_a_device_gets_what_ram_would(bench, code):
    start(bench, code, RAM)
    bench.poke(RAM, operands(bench))
    assert bench.run()["eip"] == "end"
    expected = bench.peek(RAM, AREA)
    bench.recycle()
    start(bench, code, DEVICE)
    memory = add_device(bench)
    assert bench.run()["eip"] == "end"
    assert bytes(memory) == expected


def test_a_device_gets_all_of_fxsave(bench):
    """The bytes between the registers are reserved."""
    start(bench, "fxsave [esi]", DEVICE)
    memory = add_device(bench)
    assert bench.run()["eip"] == "end"
    assert (memory[:2], memory[24:28], memory[160:288]) == (b"\x40\0", b"\x80\x1f\0\0", bytes(128))
    assert memory[512:] == operands(bench)[512:]


@pytest.mark.parametrize("code", LOADS)
def test_a_device_gives_what_ram_would(bench, code):
    start(bench, code, RAM)
    bench.poke(RAM, operands(bench))
    expected = bench.run()
    bench.recycle()
    start(bench, code, DEVICE)
    add_device(bench)
    moved = {"esi", "edi"} if "edi" in code else {"esi"}
    after = bench.run()
    assert {name: value for name, value in after.items() if name not in moved} == {
        name: value for name, value in expected.items() if name not in moved
    }
