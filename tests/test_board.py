"""The board: who answers where, which line leads to which input, and when things happen.

Source of the expected values: IBM PC/AT Technical Reference, "I/O Address Map", "Hardware Interrupt Listing".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vmm.board import Board
from vmm.cpu.vcpu import STALE_ALL
from vmm.devices.keymap import KeyStroke, keys_for_text
from vmm.door import Door
from vmm.errors import Unmodelled
from vmm.machine import MachineConfig, Vm, build_vm
from vmm.outcome import ResetRequested

MS = 1_000_000
SECOND = 1000 * MS


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
def vm(host: Host, tmp_path: Path) -> Iterator[Vm]:
    """A machine with a floppy, a disk and a CD, its clock in our hand."""
    for name, size in (("floppy", 1440 << 10), ("disk", 1008 * 512), ("cd", 50 * 2048)):
        (tmp_path / name).write_bytes(name.encode().ljust(510, b"\0") + b"\x55\xaa" + bytes(size - 512))
    media = MachineConfig(
        memory=1 << 20, floppies=(tmp_path / "floppy",), disks=(tmp_path / "disk",), cdrom=tmp_path / "cd"
    )
    machine = build_vm(media, host.door)
    yield machine
    machine.close()


@pytest.fixture
def board(vm: Vm) -> Board:
    return vm.board


# --- ports -------------------------------------------------------------------------------------------------------

PORTS = {
    (0x00, 0x10): "8237 1",
    (0x20, 0x22): "8259 master",
    (0x40, 0x44): "8254",
    (0x60, 0x61): "8042",
    (0x61, 0x62): "port 61h",
    (0x64, 0x65): "8042",
    (0x70, 0x72): "MC146818",
    (0x80, 0x81): "POST",
    (0x81, 0x90): "DMA pages",
    (0x92, 0x93): "port 92h",
    (0xA0, 0xA2): "8259 slave",
    (0xB2, 0xB4): "APM",
    (0xC0, 0xE0): "8237 2",
    (0xE9, 0xEA): "debug console",
    (0xF0, 0xF1): "coprocessor error",
    (0x170, 0x178): "ATA 1",
    (0x1F0, 0x1F8): "ATA 0",
    (0x2F8, 0x300): "16550A 2",
    (0x376, 0x377): "ATA 1 control",
    (0x3B0, 0x3E0): "VGA",
    (0x3F0, 0x3F6): "82077AA",
    (0x3F6, 0x3F7): "ATA 0 control",
    (0x3F7, 0x3F8): "82077AA",
    (0x3F8, 0x400): "16550A",
    (0x402, 0x403): "debug console",
    (0x4D0, 0x4D2): "ELCR",
    (0xCF8, 0xCFC): "PCI address",
    (0xCFC, 0xD00): "PCI data",
}


def owner_of(port: int) -> str:
    return next((name for (low, high), name in PORTS.items() if low <= port < high), "nobody")


def test_every_port_has_the_owner_that_the_table_names(board: Board) -> None:
    wrong = {port: board.bus.region_at(port).name for port in range(0x10000)
             if board.bus.region_at(port).name != owner_of(port)}  # fmt: skip
    assert wrong == {}


@pytest.mark.parametrize("port", [0xF4, 0x100, 0x278, 0x2E8, 0x300, 0x378, 0x3E8, 0xCF0, 0xD00, 0xFFFC])
def test_unclaimed_ports_read_as_all_ones_and_swallow_writes(board: Board, port: int) -> None:
    for width in (1, 2, 4):
        board.port_write(port, width, 0)
        assert board.port_read(port, width) == (1 << 8 * width) - 1
    assert board.port_read_block(port, 2, 3) == b"\xff" * 6


@pytest.mark.parametrize("port", [0xF4, 0x0F2A])
def test_exit_port_and_boot_door_are_there_only_when_asked_for(board: Board, port: int) -> None:
    assert board.bus.region_at(port).name == "nobody"


def test_every_port_can_be_read_and_written_at_every_width(board: Board) -> None:
    """None of them raises; a machine that is probed from end to end goes on."""
    for port in (*range(0x500), *range(0xCF8, 0xD00)):
        for width in (1, 2, 4):
            assert 0 <= board.port_read(port, width) < 1 << 8 * width
            board.port_write(port, width, 0)


# --- interrupt lines ---------------------------------------------------------------------------------------------


def open_pic(board: Board) -> None:
    """Initialise the pair as a PC's BIOS does, all lines open."""
    for port, base, cascade in ((0x20, 0x08, 4), (0xA0, 0x70, 2)):
        board.port_write(port, 1, 0x11)
        for word in (base, cascade, 0x01, 0x00):
            board.port_write(port + 1, 1, word)


def pit_ticks(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x43, 1, 0x34)
    vm.board.port_write(0x40, 1, 100)
    vm.board.port_write(0x40, 1, 0)
    host.now += MS


def key_is_struck(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x64, 1, 0x60)
    vm.board.port_write(0x60, 1, 0x41)
    host.door.post_keys([KeyStroke("a")])
    vm.board.take_inputs(host.door)
    host.now += 10 * MS


def byte_arrives(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x3F9, 1, 0x01)
    vm.board.port_write(0x3FC, 1, 0x08)
    host.door.post_serial(b"x")
    vm.board.take_inputs(host.door)
    host.now += 10 * MS


def second_port_is_ready_to_send(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x2FC, 1, 0x08)
    vm.board.port_write(0x2F9, 1, 0x02)


def clock_updates(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x70, 1, 0x0B)
    vm.board.port_write(0x71, 1, 0x12)
    host.now += SECOND


def floppy_is_reset(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x3F2, 1, 0x08)
    vm.board.port_write(0x3F2, 1, 0x0C)
    host.now += 10 * MS


def disk_identifies(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x1F6, 1, 0xA0)
    vm.board.port_write(0x1F7, 1, 0xEC)
    host.now += 10 * MS


def cdrom_identifies(vm: Vm, host: Host) -> None:
    vm.board.port_write(0x176, 1, 0xA0)
    vm.board.port_write(0x177, 1, 0xA1)
    host.now += 10 * MS


def x87_errs(vm: Vm, host: Host) -> None:
    assert not vm.board.x87_error(True)


LINES = [
    pytest.param(pit_ticks, 0x08, id="IRQ0_timer"),
    pytest.param(key_is_struck, 0x09, id="IRQ1_keyboard"),
    pytest.param(second_port_is_ready_to_send, 0x0B, id="IRQ3_COM2"),
    pytest.param(byte_arrives, 0x0C, id="IRQ4_COM1"),
    pytest.param(floppy_is_reset, 0x0E, id="IRQ6_floppy"),
    pytest.param(clock_updates, 0x70, id="IRQ8_clock"),
    pytest.param(x87_errs, 0x75, id="IRQ13_x87"),
    pytest.param(disk_identifies, 0x76, id="IRQ14_ATA0"),
    pytest.param(cdrom_identifies, 0x77, id="IRQ15_ATA1"),
]


@pytest.mark.parametrize(("cause", "vector"), LINES)
def test_line_reaches_the_processor(vm: Vm, host: Host, cause: Callable[[Vm, Host], None], vector: int) -> None:
    board = vm.board
    open_pic(board)
    board.port_write(0x21, 1, 0xFF if vector == 0x08 else 0x01)  # the timer runs from power-on
    if vector == 0x08:
        board.port_write(0x21, 1, 0xFE)
    cause(vm, host)
    board.run_due()
    assert vm.vcpu.is_interrupt_pending
    assert board.acknowledge_interrupt() == vector


def test_a_masked_line_does_not(vm: Vm, host: Host) -> None:
    open_pic(vm.board)
    vm.board.port_write(0x21, 1, 0xFF)
    disk_identifies(vm, host)
    vm.board.run_due()
    assert not vm.vcpu.is_interrupt_pending


def test_port_f0h_takes_irq13_back_and_asserts_ignne(board: Board) -> None:
    """Until FERR# falls; and a reset of the machine ends both."""
    board.x87_error(True)
    board.port_write(0xF0, 1, 0)
    assert (board.lines[13].level, board.x87_error(True)) == (False, True)
    board.x87_error(False)
    assert (board.x87_error(True), board.lines[13].level) == (False, True)
    board.reset()
    assert not board.lines[13].level


def test_lines_can_be_shared(board: Board) -> None:
    """The wire is low only when every source has let go."""
    one, other = board.lines[5].source(), board.lines[5].source()
    open_pic(board)
    board.port_write(0x4D0, 1, 0x20)
    one(True)
    other(True)
    one(False)
    assert board.lines[5].level
    assert board.acknowledge_interrupt() == 0x0D
    other(False)
    assert not board.lines[5].level


def test_the_cascade_has_no_line_of_its_own(board: Board) -> None:
    assert sorted(board.lines) == [0, 1, *range(3, 16)]


# --- time --------------------------------------------------------------------------------------------------------


def test_programming_a_timer_tells_of_the_earlier_deadline(board: Board) -> None:
    told: list[int] = []
    board.run_due()
    before = board.deadline
    board.on_earlier_deadline = told.append
    board.port_write(0x43, 1, 0x34)
    board.port_write(0x40, 1, 100)
    board.port_write(0x40, 1, 0)
    assert len(told) == 1
    assert told[0] < (before or told[0] + 1)
    assert board.deadline == told[0]


def test_a_later_deadline_is_not_told(board: Board) -> None:
    board.port_write(0x43, 1, 0x34)
    board.port_write(0x40, 1, 100)
    board.port_write(0x40, 1, 0)
    told: list[int] = []
    board.on_earlier_deadline = told.append
    board.port_write(0x70, 1, 0x0B)
    board.port_write(0x71, 1, 0x12)  # the next update of the clock is hundreds of milliseconds away
    assert told == []


def test_chips_that_are_due_run_in_one_fixed_order(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two deadlines in the same nanosecond are always met in the same order."""
    ran: list[str] = []
    for name in ("pit", "rtc", "port61", "keyboard_controller", "fingers", "uart", "floppy", "vga"):
        kind = type(getattr(board, name))
        monkeypatch.setattr(kind, "advance", lambda _self, _now, name=name: ran.append(name))
    monkeypatch.setattr(type(board.ata[0]), "advance", lambda _self, _now: ran.append("ata"))
    monkeypatch.setattr(type(board.pci.power), "advance", lambda _self, _now: ran.append("power"))
    board.run_due()
    assert ran == [
        "pit", "rtc", "port61", "keyboard_controller", "fingers", "uart", "uart", "floppy", "ata", "ata", "vga", "power",
    ]  # fmt: skip


def test_the_deadline_is_the_earliest_of_all_chips(board: Board, host: Host) -> None:
    board.port_write(0x43, 1, 0x30)  # counter 0, mode 0: once, after 1193 ticks, a millisecond
    board.port_write(0x40, 1, 1193 & 0xFF)
    board.port_write(0x40, 1, 1193 >> 8)
    board.run_due()
    assert board.deadline is not None
    assert 0.99 * MS < board.deadline < 1.01 * MS
    host.now = board.deadline
    board.run_due()
    assert board.deadline is None or board.deadline > host.now


def test_reading_a_counter_shows_the_time_of_the_read(board: Board, host: Host) -> None:
    board.port_write(0x43, 1, 0x34)
    board.port_write(0x40, 1, 0)
    board.port_write(0x40, 1, 0)
    host.now += 10 * MS

    def count() -> int:
        board.port_write(0x43, 1, 0x00)
        return board.port_read(0x40, 1) | board.port_read(0x40, 1) << 8

    assert 0x10000 - count() == pytest.approx(11932, abs=3)


def test_port_61_shows_counter_2_at_the_time_of_the_read(board: Board, host: Host) -> None:
    board.port_write(0x61, 1, 0x01)
    board.port_write(0x43, 1, 0xB0)  # counter 2, mode 0: OUT rises after 1193 ticks
    board.port_write(0x42, 1, 1193 & 0xFF)
    board.port_write(0x42, 1, 1193 >> 8)
    assert board.port_read(0x61, 1) & 0x20 == 0
    host.now += 2 * MS
    assert board.port_read(0x61, 1) & 0x20 == 0x20


def test_the_time_stamp_counter_counts_nanoseconds(board: Board, host: Host) -> None:
    before = board.tsc()
    host.now += 12345
    assert board.tsc() - before == 12345


# --- input -------------------------------------------------------------------------------------------------------


def test_keys_are_never_lost_while_there_is_room_to_wait(vm: Vm, host: Host) -> None:
    """A page typed at once into a guest that reads slowly arrives key for key, in scan code set 1."""
    board = vm.board
    board.port_write(0x64, 1, 0x60)
    board.port_write(0x60, 1, 0x41)
    host.door.post_keys(keys_for_text("Hello, World! " * 10))
    board.take_inputs(host.door)
    made: list[int] = []
    for _ in range(3000):
        host.now += 5 * MS
        board.run_due()
        board.take_inputs(host.door)
        while board.port_read(0x64, 1) & 1:
            made.append(board.port_read(0x60, 1))
    presses = [code for code in made if code < 0x80 and code != 0x2A]
    hello = [0x23, 0x12, 0x26, 0x26, 0x18, 0x33, 0x39, 0x11, 0x18, 0x13, 0x26, 0x20, 0x02, 0x39]
    assert presses == hello * 10
    assert sorted(code | 0x80 for code in made if code < 0x80) == sorted(code for code in made if code >= 0x80)


def test_serial_bytes_are_never_lost_while_there_is_room_to_wait(vm: Vm, host: Host) -> None:
    board = vm.board
    board.port_write(0x3FA, 1, 0x01)
    data = bytes(range(1, 256)) * 4
    host.door.post_serial(data)
    got = bytearray()
    for _ in range(5000):
        host.now += 2 * MS
        board.run_due()
        board.take_inputs(host.door)
        while board.port_read(0x3FD, 1) & 1:
            assert not board.port_read(0x3FD, 1) & 2  # no overrun
            got.append(board.port_read(0x3F8, 1))
    assert bytes(got) == data


# --- modes that are not modelled ---------------------------------------------------------------------------------


def test_what_is_not_modelled_is_counted(board: Board) -> None:
    board.port_write(0x64, 1, 0xB7)  # no command of the 8042
    board.port_write(0x64, 1, 0xB7)
    assert board.unmodelled == {"i8042 command B7h": 2}


def test_strict_stops_at_it(board: Board) -> None:
    board.strict = True
    with pytest.raises(Unmodelled, match="i8042 command B7h"):
        board.port_write(0x64, 1, 0xB7)


# --- A20 and reset -----------------------------------------------------------------------------------------------


def gate_8042(vm: Vm, on: bool) -> None:
    vm.board.port_write(0x64, 1, 0xD1)
    vm.board.port_write(0x60, 1, 0xDF if on else 0xDD)


def gate_92(vm: Vm, on: bool) -> None:
    vm.board.port_write(0x92, 1, 2 if on else 0)


def is_open(vm: Vm) -> bool:
    assert vm.mmu.a20_mask & 0xFFEF_FFFF == 0xFFEF_FFFF
    return bool(vm.mmu.a20_mask & 1 << 20)


def test_a20_is_open_at_power_on(vm: Vm) -> None:
    assert vm.board.a20.enabled
    assert is_open(vm)


def test_a20_closes_when_both_sources_let_go_and_either_opens_it(vm: Vm) -> None:
    gate_8042(vm, True)
    gate_8042(vm, False)
    assert not is_open(vm)
    gate_92(vm, True)
    assert is_open(vm)
    gate_8042(vm, True)
    gate_92(vm, False)
    assert is_open(vm)
    gate_8042(vm, False)
    assert not is_open(vm)


def test_a_change_of_a20_makes_translations_stale(vm: Vm) -> None:
    gate_8042(vm, True)
    vm.vcpu.stale = 0
    gate_8042(vm, False)
    assert vm.vcpu.stale == STALE_ALL


def test_a_pci_configuration_address_is_no_reset(vm: Vm) -> None:
    """Device 0, function 4 has bit 2 in the byte at CF9h; a doubleword write does not reach the reset register."""
    vm.board.port_write(0xCF8, 4, 0x8000_0400)
    assert vm.outcome is None
    assert vm.board.port_read(0xCF8, 4) == 0x8000_0400
    vm.board.port_write(0xCF9, 1, 0x06)
    assert vm.outcome == ResetRequested("port CF9h")
    assert vm.board.port_read(0xCF8, 4) == 0x8000_0400


RESETS = [
    pytest.param(((0x64, 0xFE),), "i8042 command FEh", id="i8042_pulse"),
    pytest.param(((0x64, 0xD1), (0x60, 0xDE)), "i8042 output port", id="i8042_output_port"),
    pytest.param(((0x92, 0x01),), "port 92h", id="port_92"),
    pytest.param(((0xCF9, 0x02), (0xCF9, 0x06)), "port CF9h", id="port_CF9"),
]


@pytest.mark.parametrize(("writes", "source"), RESETS)
def test_reset_can_be_asked_for_again_after_a_reset(vm: Vm, writes: tuple[tuple[int, int], ...], source: str) -> None:
    for _ in range(2):
        for port, value in writes:
            vm.board.port_write(port, 1, value)
        assert str(getattr(vm.outcome, "source", None)) == source
        vm.reset()
        assert vm.outcome is None
        assert vm.board.a20.enabled


def test_reset_keeps_cmos_and_time(vm: Vm, host: Host) -> None:
    host.now = 5 * SECOND
    vm.board.run_due()
    vm.board.rtc.cmos[0x0F] = 0x05
    cells = bytes(vm.board.rtc.cmos)
    vm.board.reset()
    assert bytes(vm.board.rtc.cmos) == cells
    assert vm.board.clock.now() == 5 * SECOND


def test_save_and_load_of_a_board_in_mid_work_round_trip(vm: Vm, host: Host, tmp_path: Path) -> None:
    open_pic(vm.board)
    for cause in (pit_ticks, key_is_struck, byte_arrives, clock_updates, floppy_is_reset, disk_identifies):
        cause(vm, host)
    vm.board.run_due()
    saved = vm.board.save()
    other = build_vm(vm.config, Host(now=host.now).door)
    try:
        other.board.load(saved)
        assert other.board.save() == saved
        assert other.vcpu.is_interrupt_pending
    finally:
        other.close()
