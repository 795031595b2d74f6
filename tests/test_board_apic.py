"""The board of `--machine pc-test`: who answers where, which line leads to which input, and guests that use it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.apic_guest import apic_machine
from tests.vm_rig import machine, run
from vmm.board import Board
from vmm.board_apic import ApicBoard
from vmm.boards import BoardName
from vmm.cpu.cpuid import cpuid
from vmm.devices.fw_cfg import FwCfgItem
from vmm.door import Door
from vmm.engines.names import EngineName
from vmm.errors import ConfigError, Unmodelled
from vmm.machine import MachineConfig, Vm, build_vm
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, Halted

LOCAL, IO = 0xFEE0_0000, 0xFEC0_0000
SVR, LINT0, TIMER, INITIAL = LOCAL + 0xF0, LOCAL + 0x350, LOCAL + 0x320, LOCAL + 0x380
MS = 1_000_000
EXTINT = 0x700


@dataclass
class Host:
    """A host whose clock stands still unless told."""

    now: int = 0
    door: Door = field(init=False)

    def __post_init__(self) -> None:
        self.door = Door(lambda: self.now)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def vm(host: Host) -> Iterator[Vm]:
    with machine(host.door, machine=BoardName.PC_TEST) as made:
        yield made


@pytest.fixture
def board(vm: Vm) -> Board:
    return vm.board


@pytest.fixture
def apic(board: Board) -> ApicBoard:
    assert board.apic is not None
    return board.apic


def put(vm: Vm, address: int, value: int) -> None:
    vm.memory.write(address, struct.pack("<I", value))


def get(vm: Vm, address: int) -> int:
    return int.from_bytes(vm.memory.read(address, 4), "little")


def redirect(vm: Vm, pin: int, low: int) -> None:
    for register, value in ((0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)):
        put(vm, IO, register)
        put(vm, IO + 0x10, value)


# --- who answers ----------------------------------------------------------------------------------------------

PORTS = {0xE0: "echo", 0xE3: "echo", 0xE4: "page flush", 0xE7: "page flush", 0xE9: "debug console", 0xF4: "debug exit",
         0xF7: "debug exit", 0x510: "fw_cfg", 0x511: "fw_cfg", 0x512: "nobody", 0x2000: "test lines",
         0x2017: "test lines", 0x2018: "nobody"}  # fmt: skip


@pytest.mark.parametrize(("port", "owner"), PORTS.items())
def test_ports(board: Board, port: int, owner: str) -> None:
    assert board.bus.region_at(port).name == owner


@pytest.mark.parametrize("port", [0xE0, 0xE4, 0xF4, 0x510, 0x2000])
def test_the_default_board_has_none_of_them(port: int) -> None:
    with machine(exit_port=False) as vm:
        assert vm.board.bus.region_at(port).name == "nobody"
        assert get(vm, LOCAL + 0x30) == get(vm, IO + 0x10) == get(vm, 0xFF00_0000) == 0xFFFF_FFFF


def test_registers_and_memory_answer_at_their_addresses(vm: Vm) -> None:
    put(vm, IO, 1)
    put(vm, 0xFF00_FFFC, 0x1234_5678)
    assert get(vm, LOCAL + 0x30) == 0x5_0014
    assert get(vm, IO + 0x10) == 0x17_0011
    assert get(vm, 0xFF00_FFFC) == 0x1234_5678


def test_the_local_apic_moves_over_ram_and_back(vm: Vm, apic: ApicBoard) -> None:
    put(vm, 0x5030, 7)
    assert apic.write_msr(0x1B, 0x5000 | 0x900)
    assert get(vm, 0x5030) == 0x5_0014
    assert get(vm, LOCAL + 0x30) == 0xFFFF_FFFF
    vm.reset()
    assert (get(vm, 0x5030), get(vm, LOCAL + 0x30)) == (7, 0x5_0014)


def test_above_4_gib_nobody_reaches_it(vm: Vm, apic: ApicBoard) -> None:
    assert apic.write_msr(0x1B, 0x8_0000_0900)
    assert get(vm, LOCAL + 0x30) == 0xFFFF_FFFF
    assert dict(vm.board.unmodelled) == {"local APIC above 4 GiB: nobody reaches it there": 1}


def test_strict_stops_at_what_is_not_modelled(vm: Vm, apic: ApicBoard) -> None:
    vm.board.strict = True
    with pytest.raises(Unmodelled, match="above 4 GiB"):
        apic.write_msr(0x1B, 0x8_0000_0900)


@pytest.mark.parametrize(
    ("port", "width", "value"), [(0xF4, 1, 0x12), (0xF4, 4, 0x12), (0xF4, 4, 0x1234), (0xF6, 2, 9)]
)
def test_the_debug_exit_takes_the_value_whole(vm: Vm, port: int, width: int, value: int) -> None:
    vm.board.port_write(port, width, value)
    assert vm.outcome == ExitPort(value)


def test_cpuid_shows_the_apic_while_it_is_enabled(vm: Vm, apic: ApicBoard) -> None:
    plain = cpuid(1)
    both = 1 << 21 | 1 << 24
    assert cpuid(1, apic=vm.vcpu.apic) == (plain[0], plain[1], both, plain[3] | 1 << 9)
    assert apic.write_msr(0x1B, LOCAL | 0x100)
    assert cpuid(1, apic=vm.vcpu.apic) == (plain[0], plain[1], both, plain[3])
    assert cpuid(2, apic=vm.vcpu.apic) == cpuid(2)


# --- fw_cfg ---------------------------------------------------------------------------------------------------


def item(vm: Vm, number: int, count: int) -> bytes:
    vm.board.port_write(0x510, 2, number)
    return vm.board.port_read_block(0x511, 1, count)


def test_fw_cfg_tells_the_machine(vm: Vm) -> None:
    assert item(vm, FwCfgItem.SIGNATURE, 4) == b"QEMU"
    assert item(vm, FwCfgItem.RAM_SIZE, 8) == (1 << 20).to_bytes(8, "little")
    assert item(vm, FwCfgItem.NB_CPUS, 2) == b"\x01\0"


def test_fw_cfg_tells_the_kernel(tmp_path: Path) -> None:
    header = struct.pack(
        "<8I", 0x1BADB002, 1 << 16, (-0x1BADB002 - (1 << 16)) & 0xFFFF_FFFF, *[ORIGIN] * 2, 0, 0, ENTRY
    )
    kernel = tmp_path / "kernel"
    kernel.write_bytes(header + b"\xf4" * 64)
    config = MachineConfig(memory=4 << 20, kernel=kernel, append="a b", machine=BoardName.PC_TEST)
    vm = build_vm(config)
    word = struct.Struct("<I")
    assert item(vm, FwCfgItem.KERNEL_ENTRY, 4) == word.pack(ENTRY)
    assert item(vm, FwCfgItem.KERNEL_SIZE, 4) == word.pack(96)
    assert item(vm, FwCfgItem.KERNEL_DATA, 97) == kernel.read_bytes() + b"\0"
    assert item(vm, FwCfgItem.CMDLINE_SIZE, 4) == word.pack(4)
    assert item(vm, FwCfgItem.CMDLINE_DATA, 4) == b"a b\0"
    assert item(vm, FwCfgItem.INITRD_SIZE, 4) == bytes(4)


ORIGIN, ENTRY = 0x10_0000, 0x10_0020


# --- lines ----------------------------------------------------------------------------------------------------

PINS = [pytest.param(line, 2 if line == 0 else line, id=f"line_{line}") for line in range(24) if line != 2]


@pytest.mark.parametrize(("line", "pin"), PINS)
def test_every_line_of_the_test_device_has_an_input(vm: Vm, line: int, pin: int) -> None:
    vm.board.port_write(0x43, 1, 0x30)  # the timer is quiet: counter 0 in mode 0
    put(vm, SVR, 0x1FF)
    redirect(vm, pin, 0x40 + pin)
    vm.board.port_write(0x2000 + line, 1, 1)
    assert vm.vcpu.is_interrupt_pending
    assert vm.board.acknowledge_interrupt() == 0x40 + pin


def test_line_2_is_the_cascade_and_drives_nothing(vm: Vm) -> None:
    put(vm, SVR, 0x1FF)
    redirect(vm, 2, 0x42)
    vm.board.port_write(0x2002, 1, 1)
    assert not vm.vcpu.is_interrupt_pending


def test_the_8259s_reach_the_processor_through_lint0(vm: Vm) -> None:
    for port, base, cascade in ((0x20, 0x08, 4), (0xA0, 0x70, 2)):
        vm.board.port_write(port, 1, 0x11)
        for word in (base, cascade, 0x01, 0xFF & ~(4 if port == 0x20 else 0x40)):
            vm.board.port_write(port + 1, 1, word)
    vm.board.port_write(0x200E, 1, 1)
    assert not vm.vcpu.is_interrupt_pending
    put(vm, SVR, 0x1FF)
    put(vm, LINT0, EXTINT)
    assert vm.vcpu.is_interrupt_pending
    assert vm.board.acknowledge_interrupt() == 0x76


def test_a_level_is_asked_for_again_at_the_end_of_interrupt(vm: Vm) -> None:
    put(vm, SVR, 0x1FF)
    redirect(vm, 11, 0x8000 | 0x5B)
    vm.board.port_write(0x200B, 1, 1)
    assert vm.board.acknowledge_interrupt() == 0x5B
    put(vm, LOCAL + 0xB0, 0)
    assert vm.vcpu.is_interrupt_pending
    vm.board.port_write(0x200B, 1, 0)
    assert vm.board.acknowledge_interrupt() == 0x5B
    put(vm, LOCAL + 0xB0, 0)
    assert not vm.vcpu.is_interrupt_pending


# --- time -----------------------------------------------------------------------------------------------------


def test_the_timer_has_a_deadline_on_the_board(vm: Vm, host: Host) -> None:
    told: list[int] = []
    vm.board.on_earlier_deadline = told.append
    put(vm, SVR, 0x1FF)
    put(vm, TIMER, 0xEF)
    put(vm, LOCAL + 0x3E0, 0xB)
    put(vm, INITIAL, 1000)
    assert told == [1000]
    host.now += 1000
    vm.board.run_due()
    assert vm.board.acknowledge_interrupt() == 0xEF


def test_the_deadline_follows_the_guests_time_stamp_counter(vm: Vm, host: Host, apic: ApicBoard) -> None:
    host.now += MS
    put(vm, SVR, 0x1FF)
    put(vm, TIMER, 0x4_00EF)
    vm.vcpu.msrs[0x10] = 5 * MS
    assert apic.write_msr(0x6E0, 8 * MS)
    assert apic.local.next_deadline() == 3 * MS
    vm.vcpu.msrs[0x10] = 7 * MS  # what WRMSR does, before it tells
    apic.tsc_changed()
    assert (apic.read_msr(0x6E0), vm.board.acknowledge_interrupt()) == (0, 0xEF)


# --- state ----------------------------------------------------------------------------------------------------


def test_a_saved_machine_goes_on_on_the_same_board_only(vm: Vm, apic: ApicBoard) -> None:
    assert apic.write_msr(0x1B, 0xFED4_0000 | 0x900)
    put(vm, 0xFED4_0000 + 0xF0, 0x1FF)
    redirect(vm, 5, 0x45)
    vm.board.port_write(0x2005, 1, 1)
    put(vm, 0xFF00_0000, 0xCAFE)
    saved = vm.save()
    with machine(machine=BoardName.PC_TEST) as other:
        other.load(saved)
        assert get(other, 0xFED4_0000 + 0xF0) == 0x1FF
        assert get(other, 0xFF00_0000) == 0xCAFE
        assert other.vcpu.is_interrupt_pending
        assert other.board.acknowledge_interrupt() == 0x45
    with machine() as other, pytest.raises(ConfigError, match="board"):
        other.load(saved)


# --- guests ---------------------------------------------------------------------------------------------------

SELF_IPI = """
    GATE 0x41, handler
    mov dword ptr [APIC + 0x300], 0x44041
    sti
    nop
    mov eax, ebp
    LEAVE
"""
IO_APIC_EDGE = """
    GATE 0x77, handler
    mov dword ptr [0xFEC00000], 0x2C
    mov dword ptr [0xFEC00010], 0x77
    sti
    mov al, 1
    mov dx, 0x200E
    out dx, al
    nop
    mov eax, ebp
    LEAVE
"""
HIGHER_FIRST = """
    GATE 0x78, higher
    GATE 0x66, lower
    mov dword ptr [0xFEC00000], 0x2C
    mov dword ptr [0xFEC00010], 0x78
    mov dword ptr [0xFEC00000], 0x2E
    mov dword ptr [0xFEC00010], 0x66
    mov al, 1
    mov dx, 0x200F
    out dx, al
    dec edx
    out dx, al
    sti
    nop
    mov eax, ebp
    LEAVE
higher:
    mov ebp, 1
    mov dword ptr [EOI], 0
    iretd
lower:
    shl ebp, 4
    mov dword ptr [EOI], 0
    iretd
"""
TASK_PRIORITY = """
    GATE 0x41, handler
    mov dword ptr [APIC + 0x80], 0x40
    sti
    mov dword ptr [APIC + 0x300], 0x44041
    jmp held                        # a store to a device may take effect a branch later
held:
    mov ebx, ebp
    mov dword ptr [APIC + 0x80], 0x30
    jmp gone
gone:
    mov eax, ebp
    shl ebx, 4
    or eax, ebx
    LEAVE
"""
ONE_SHOT = """
    GATE 0xEF, handler
    mov dword ptr [APIC + 0x3E0], 0xB
    mov dword ptr [APIC + 0x320], 0xEF
    mov dword ptr [APIC + 0x380], 300000
    sti
    hlt
    cli
    mov eax, dword ptr [APIC + 0x390]
    add eax, ebp
    LEAVE
"""
PERIODIC = """
    GATE 0xEF, handler
    mov dword ptr [APIC + 0x3E0], 0xB
    mov dword ptr [APIC + 0x320], 0x200EF
    mov dword ptr [APIC + 0x380], 5000000
    sti
wait:
    hlt
    cmp ebp, 5
    jb wait
    mov eax, 5
    LEAVE
"""
DEADLINE = """
    GATE 0xEF, handler
    mov dword ptr [APIC + 0x320], 0x400EF
    rdtsc
    mov ecx, 0x6E0
    wrmsr
    sti
    nop
    rdtsc
    add eax, 300000
    adc edx, 0
    wrmsr
    hlt
    cli
    rdmsr
    or eax, edx
    or eax, ebp
    LEAVE
"""
VIRTUAL_WIRE = """
    GATE 0x20, tick
    mov dword ptr [APIC + 0x350], 0x700
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xFE
    out 0x21, al
    mov al, 0x30                    # the timer, once
    out 0x43, al
    mov al, 0x10
    out 0x40, al
    out 0x40, al
    sti
    hlt
    mov eax, ebp
    LEAVE
tick:
    inc ebp
    mov al, 0x20
    out 0x20, al
    iretd
"""
X2APIC_SELF = """
    GATE 0x41, x2_handler
    mov ecx, 0x1B
    rdmsr
    or eax, 0x400
    wrmsr
    sti
    mov ecx, 0x83F
    mov eax, 0x41
    xor edx, edx
    wrmsr
    nop
    mov eax, ebp
    cmp dword ptr [APIC + 0x30], 0xFFFFFFFF     # the page is gone
    je gone
    xor eax, eax
gone:
    LEAVE
x2_handler:
    inc ebp
    mov ecx, 0x80B
    xor eax, eax
    xor edx, edx
    wrmsr
    iretd
"""
RESERVED_BIT = """
    GATE 13, protection
    mov ecx, 0x1B
    rdmsr
    or eax, 1
    wrmsr
    mov eax, ebp
    LEAVE
protection:
    pop ebp                         # the error code
    inc ebp
    add dword ptr [esp], 2          # behind WRMSR
    iretd
"""
STRING_TO_ECHO = """
    mov dx, 0xE0
    mov eax, 0x12345678
    out dx, eax
    mov dx, 0xE1
    in ax, dx
    movzx eax, ax
    sub eax, 0x3450
    LEAVE
"""
NMI_ONCE_MORE = """
    GATE 2, on_nmi
    GATE 3, breakpoint
    mov dword ptr [APIC + 0x300], 0x4400        # interrupts are off
    jmp sent
sent:
    mov eax, ebp
    LEAVE
on_nmi:
    inc ebp
    cmp ebp, 1
    jne last
    mov dword ptr [APIC + 0x300], 0x4400        # two more, of which one waits
    jmp again
again:
    mov dword ptr [APIC + 0x300], 0x4400
    jmp blocked
blocked:
    shl ebp, 4
    iretd
last:
    cmp ebp, 0x11
    jne done
    add ebp, 0x100
done:
    iretd
breakpoint:
    iretd
"""
NMI_AFTER_AN_IRET_OF_ANOTHER = NMI_ONCE_MORE.replace("    shl ebp, 4\n", "    int3\n    shl ebp, 4\n")
NMI_IN_HLT = VIRTUAL_WIRE.replace("0x350], 0x700", "0x350], 0x400").replace("GATE 0x20", "GATE 2")
GUESTS = [
    pytest.param(NMI_ONCE_MORE, 0x111, id="nmi_waits_for_iret_and_only_one_does"),
    pytest.param(NMI_AFTER_AN_IRET_OF_ANOTHER, 0x20, id="any_iret_lets_nmis_through"),
    pytest.param(SELF_IPI, 1, id="self_ipi"),
    pytest.param(IO_APIC_EDGE, 1, id="an_edge_through_the_io_apic"),
    pytest.param(HIGHER_FIRST, 0x10, id="the_higher_vector_first"),
    pytest.param(TASK_PRIORITY, 0x01, id="task_priority_holds_and_lets_go"),
    pytest.param(ONE_SHOT, 1, id="one_shot_timer"),
    pytest.param(PERIODIC, 5, id="periodic_timer"),
    pytest.param(DEADLINE, 2, id="tsc_deadline_past_and_future"),
    pytest.param(VIRTUAL_WIRE, 1, id="the_8259s_through_lint0"),
    pytest.param(X2APIC_SELF, 1, id="x2apic_self_ipi"),
    pytest.param(RESERVED_BIT, 1, id="a_reserved_bit_of_the_base_is_gp"),
    pytest.param(STRING_TO_ECHO, 6, id="echo"),
]


@pytest.mark.parametrize("engine", list(EngineName))
@pytest.mark.parametrize(("program", "status"), GUESTS)
def test_guest(program: str, status: int, engine: EngineName) -> None:
    if engine is EngineName.TRAP and program in (NMI_ONCE_MORE, NMI_AFTER_AN_IRET_OF_ANOTHER):
        pytest.skip("docs/limits.md: IRET inside ring 1 does not trap")
    with apic_machine(program, engine=engine, strict=True) as vm:
        assert run(vm) == ExitPort(status)


def test_a_waiting_nmi_is_saved(vm: Vm) -> None:
    put(vm, LOCAL + 0x300, 0x4400)
    with machine(machine=BoardName.PC_TEST) as other:
        other.load(vm.save())
        assert other.vcpu.is_nmi_due
        other.vcpu.take_nmi()
        put(other, LOCAL + 0x300, 0x4400)
        vm.load(other.save())
    assert (vm.vcpu.nmi_pending, vm.vcpu.is_nmi_due) == (True, False)
    vm.reset()
    assert (vm.vcpu.nmi_pending, vm.vcpu.nmi_blocked) == (False, False)


def test_an_nmi_wakes_a_sleeping_guest() -> None:
    """The timer's, through the 8259A and LINT0."""
    with apic_machine(NMI_IN_HLT, strict=True) as vm:
        assert run(vm) == ExitPort(1)


def test_a_recorded_guest_repeats_itself() -> None:
    door = Door()
    log = door.record()
    with apic_machine(PERIODIC, door=door) as vm:
        assert run(vm) == ExitPort(5)
        end = vm.save()
    again = Door(lambda: 0)
    again.replay(log)
    with apic_machine(PERIODIC, door=again) as vm:
        assert run(vm) == ExitPort(5)
        assert vm.save() == end


def test_the_bios_leaves_the_virtual_wire_mode() -> None:
    """It waits for the timer on its way, so that interrupts do arrive."""
    with machine(machine=BoardName.PC_TEST) as vm:
        assert run(vm, Monitor(), 60) == Halted()
        assert [get(vm, address) for address in (SVR, LINT0, LINT0 + 0x10)] == [0x1FF, EXTINT, 0x400]
        put(vm, IO, 0)
        assert get(vm, IO + 0x10) == 1 << 24
