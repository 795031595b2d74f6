"""The PCI side of the board, through its ports: enumeration, windows that move, DMA, shadowed ROMs, power.

Source of the expected values: QEMU's pc board ("info pci" of its monitor); 82441FX and 82371SB data sheets.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware.build import build_bios, build_vga_rom
from vmm.board import Board
from vmm.devices.ata_drive import DEFAULT_LATENCY_NS
from vmm.devices.pci_vga import IDENTITY
from vmm.door import Door
from vmm.machine import MachineConfig, Vm, build_vm
from vmm.outcome import PoweredOff

HOST_BRIDGE, ISA_BRIDGE, IDE, POWER, DISPLAY = (0, 0), (1, 0), (1, 1), (1, 3), (2, 0)
NOBODY = 0xFFFF_FFFF
MIB = 1 << 20


class HostClock:
    """The host's time in nanoseconds, which stands still unless told."""

    def __init__(self) -> None:
        self.now = 0
        self.door = Door(lambda: self.now)

    def pass_on(self, vm: Vm) -> None:
        """Let a millisecond go by, and the board do what is due."""
        self.now += 1_000_000
        vm.board.run_due()


@pytest.fixture
def clock() -> HostClock:
    return HostClock()


@pytest.fixture
def vm(tmp_path: Path, clock: HostClock) -> Iterator[Vm]:
    """A machine with a disk whose sectors are full of their own number."""
    (tmp_path / "disk").write_bytes(b"".join(n.to_bytes(4, "little") * 128 for n in range(600)))
    (tmp_path / "bios").write_bytes(build_bios())
    config = MachineConfig(memory=2 * MIB, disks=(tmp_path / "disk",), bios=tmp_path / "bios")
    machine = build_vm(config, clock.door)
    yield machine
    machine.close()


@pytest.fixture
def board(vm: Vm) -> Board:
    return vm.board


def select(board: Board, place: tuple[int, int], register: int) -> int:
    """Address a register; the port at which it is."""
    device, number = place
    board.port_write(0xCF8, 4, 0x8000_0000 | device << 11 | number << 8 | register & 0xFC)
    return 0xCFC + (register & 3)


def config_read(board: Board, place: tuple[int, int], register: int, width: int = 4) -> int:
    return board.port_read(select(board, place, register), width)


def config_write(board: Board, place: tuple[int, int], register: int, value: int, width: int = 4) -> None:
    board.port_write(select(board, place, register), width, value)


# --- enumeration ---------------------------------------------------------------------------------------------------


def test_the_functions_are_those_of_a_pc_board(board: Board) -> None:
    found = {
        (device, number): (config_read(board, (device, number), 0), config_read(board, (device, number), 8) >> 8)
        for device in range(32)
        for number in range(8)
        if config_read(board, (device, number), 0) != NOBODY
    }
    assert found == {
        HOST_BRIDGE: (0x1237_8086, 0x06_0000),
        ISA_BRIDGE: (0x7000_8086, 0x06_0100),
        IDE: (0x7010_8086, 0x01_0180),
        POWER: (0x7113_8086, 0x06_8000),
        DISPLAY: (0x1111_1234, 0x03_0000),
    }


def test_configuration_needs_a_doubleword_at_the_address_port(board: Board) -> None:
    """Linux finds mechanism #1 by a byte written to CFBh, which must not be mistaken for an address."""
    board.port_write(0xCF8, 4, 0x8000_0000)
    for port, width in ((0xCFB, 1), (0xCF8, 1), (0xCF8, 2), (0xCFA, 2)):
        board.port_write(port, width, 0x01)
    assert board.port_read(0xCF8, 4) == 0x8000_0000
    assert board.port_read(0xCF8, 1) == 0xFF


@pytest.mark.parametrize(("port", "width"), [(0xCFA, 4), (0xCFB, 2), (0xCFE, 4), (0xCFF, 2)])
def test_an_access_across_the_ports_is_taken_apart(board: Board, port: int, width: int) -> None:
    board.port_write(0xCF8, 4, 0x8000_0000)
    parts = [board.port_read(port + n, 1) << 8 * n for n in range(width)]
    assert board.port_read(port, width) == sum(parts)


# --- ports that move -----------------------------------------------------------------------------------------------


def test_the_bus_master_answers_where_it_is_put(board: Board) -> None:
    config_write(board, IDE, 0x20, 0xC000)
    assert board.bus.region_at(0xC000).name == "nobody"
    config_write(board, IDE, 0x04, 0x01, 2)
    assert {board.bus.region_at(0xC000 + n).name for n in range(16)} == {"IDE bus master"}
    config_write(board, IDE, 0x20, 0xD000)
    assert (board.bus.region_at(0xC000).name, board.bus.region_at(0xD00F).name) == ("nobody", "IDE bus master")
    config_write(board, IDE, 0x04, 0x00, 2)
    assert board.bus.region_at(0xD000).name == "nobody"


def test_windows_may_overlap_each_other_and_fixed_ports(board: Board) -> None:
    config_write(board, IDE, 0x04, 0x01, 2)
    config_write(board, IDE, 0x20, 0x0020)
    config_write(board, POWER, 0x40, 0x0001)
    config_write(board, POWER, 0x80, 0x01, 1)
    for base in (0x0040, 0x0380, 0xC000):
        config_write(board, IDE, 0x20, base)
        config_write(board, POWER, 0x40, base | 1)
        assert board.bus.region_at(base).name in ("power management", "IDE bus master")
    config_write(board, POWER, 0x80, 0x00, 1)
    config_write(board, IDE, 0x04, 0x00, 2)
    assert board.bus.region_at(0x40).name == "8254"


@pytest.mark.parametrize("value", [0, 0xFFFF_FFFF, 0xFFFF, 0xFFC0])
def test_no_address_is_refused_with_an_exception(board: Board, value: int) -> None:
    for place in (HOST_BRIDGE, ISA_BRIDGE, IDE, POWER, DISPLAY):
        config_write(board, place, 0x04, 0x07, 2)
        for register in range(0x10, 0x100, 4):
            config_write(board, place, register, value)


# --- DMA -----------------------------------------------------------------------------------------------------------

TABLE, BUFFER, BM = 0x1000, 0x11_0000, 0xC000
READ_DMA = 0xC8


def read_by_dma(vm: Vm, lba: int, count: int) -> None:
    board = vm.board
    config_write(board, IDE, 0x20, BM)
    config_write(board, IDE, 0x04, 0x05, 2)
    vm.memory.write(TABLE, BUFFER.to_bytes(4, "little") + (count * 512 & 0xFFFF | 1 << 31).to_bytes(4, "little"))
    board.port_write(BM + 4, 4, TABLE)
    for port, value in ((0x1F6, 0xE0), (0x1F2, count), (0x1F3, lba), (0x1F4, 0), (0x1F5, 0), (0x1F7, READ_DMA)):
        board.port_write(port, 1, value)
    board.port_write(BM, 1, 0x09)


def test_dma_goes_through_the_one_door_for_writes(vm: Vm, clock: HostClock) -> None:
    """Code that was translated from a page is dropped when a bus master writes there."""
    written: list[int] = []
    vm.memory.on_watched_write = written.append
    vm.memory.watched.update({BUFFER >> 12, (BUFFER >> 12) + 1})
    read_by_dma(vm, 5, 16)
    clock.pass_on(vm)
    assert vm.memory.read(BUFFER, 8192) == b"".join(n.to_bytes(4, "little") * 128 for n in range(5, 21))
    assert sorted(set(written)) == [BUFFER >> 12, (BUFFER >> 12) + 1]
    assert vm.board.port_read(BM + 2, 1) == 0x04
    assert vm.board.lines[14].level


def test_a_bus_master_that_goes_on_tells_of_the_deadline(vm: Vm, clock: HostClock) -> None:
    """The drive has 64 KiB ready and waits; starting the master lets it seek the next."""
    read_by_dma(vm, 0, 0)
    vm.board.port_write(BM, 1, 0x08)
    clock.pass_on(vm)
    told: list[int] = []
    vm.board.deadline = None
    vm.board.on_earlier_deadline = told.append
    vm.board.port_write(BM, 1, 0x09)
    assert told == [clock.now + DEFAULT_LATENCY_NS]


# --- memory below 1 MiB ----------------------------------------------------------------------------------------------

PAM0, PAM1, PAM2, SMRAM = 0x59, 0x5A, 0x5B, 0x72
ROM = 0xF0000


def pam(vm: Vm, register: int, value: int) -> None:
    config_write(vm.board, HOST_BRIDGE, register, value, 1)


def test_the_rom_shows_at_power_on_and_swallows_writes(vm: Vm) -> None:
    before = vm.memory.read(ROM, 16)
    vm.memory.write(ROM, bytes(16))
    assert before == vm.memory.read(ROM, 16) == build_bios()[:16]


def test_a_rom_can_be_copied_onto_the_dram_beneath_itself(vm: Vm) -> None:
    """As BIOSes do it: read from ROM and write to DRAM, then read from DRAM alone."""
    pam(vm, PAM0, 0x20)
    for at in range(ROM, ROM + 0x10000, 0x1000):
        vm.memory.write(at, vm.memory.read(at, 0x1000))
    vm.memory.write(ROM, b"patched!")
    assert vm.memory.read(ROM, 8) == build_bios()[:8]
    pam(vm, PAM0, 0x10)
    assert vm.memory.read(ROM, 0x10000) == b"patched!" + build_bios()[8:]
    vm.memory.write(ROM, b"swallow!")
    assert vm.memory.read(ROM, 8) == b"patched!"
    pam(vm, PAM0, 0x30)
    vm.memory.write(ROM, b"writable")
    assert vm.memory.read(ROM, 8) == b"writable"
    pam(vm, PAM0, 0x00)
    assert vm.memory.read(ROM, 8) == build_bios()[:8]


@pytest.mark.parametrize("attributes", [1, 2, 3])
def test_segments_are_apart(vm: Vm, attributes: int) -> None:
    around = [vm.memory.read(at, 4) for at in (0xC0000, 0xCC000, 0xD0000)]
    pam(vm, PAM2, attributes << 0)  # C8000h-CBFFFh
    vm.memory.write(0xC8000, b"here")
    assert [vm.memory.read(at, 4) for at in (0xC0000, 0xCC000, 0xD0000)] == around
    pam(vm, PAM2, 0x03)
    assert (vm.memory.read(0xC8000, 4) == b"here") == bool(attributes & 2)


def test_dram_has_its_own_bytes_at_each_address(vm: Vm) -> None:
    for register in range(PAM0, PAM0 + 7):
        pam(vm, register, 0x33)
    config_write(vm.board, HOST_BRIDGE, SMRAM, 0x48, 1)
    pages = range(0x9F000, 0x101000, 0x1000)
    for at in pages:
        vm.memory.write(at, at.to_bytes(4, "little"))
    assert [int.from_bytes(vm.memory.read(at, 4), "little") for at in pages] == list(pages)


def test_smram_is_not_video_memory(vm: Vm) -> None:
    vm.memory.write(0xB8000, b"text")
    config_write(vm.board, HOST_BRIDGE, SMRAM, 0x48, 1)
    vm.memory.write(0xB8000, b"code")
    config_write(vm.board, HOST_BRIDGE, SMRAM, 0x08, 1)
    assert vm.memory.read(0xB8000, 4) == bytes(vm.video[0x18000:0x18004]) == b"text"


def test_a_change_of_what_shows_is_told(vm: Vm) -> None:
    told: list[bool] = []
    vm.memory.on_map_change = lambda: told.append(True)
    pam(vm, PAM0, 0x30)
    assert told


def test_the_expansion_rom_is_the_vga_bios_with_a_pci_data_structure(vm: Vm) -> None:
    config_write(vm.board, DISPLAY, 0x30, 0xFEB0_0001)
    config_write(vm.board, DISPLAY, 0x04, 0x02, 2)
    image = vm.memory.read(0xFEB0_0000, 0x1_0000)
    size, at = image[2] * 512, int.from_bytes(image[0x18:0x1A], "little")
    assert image[:2] == b"\x55\xaa"
    assert sum(image[:size]) & 0xFF == 0
    assert image[at : at + 8] == b"PCIR" + IDENTITY.vendor.to_bytes(2, "little") + IDENTITY.device.to_bytes(2, "little")
    assert image[at + 0x0D : at + 0x10] == IDENTITY.class_code.to_bytes(3, "little")
    assert int.from_bytes(image[at + 0x10 : at + 0x12], "little") * 512 == size
    assert image[at + 0x14 : at + 0x16] == b"\x00\x80"
    assert image[0x1A:0x2000] == build_vga_rom()[0x1A:0x2000]
    config_write(vm.board, DISPLAY, 0x04, 0x00, 2)
    assert vm.memory.read(0xFEB0_0000, 2) == b"\xff\xff"


def test_ram_hides_an_expansion_rom(vm: Vm) -> None:
    vm.memory.write(0x10_0000, b"RAM!")
    config_write(vm.board, DISPLAY, 0x04, 0x02, 2)
    config_write(vm.board, DISPLAY, 0x30, 0x0010_0001)
    assert vm.memory.read(0x10_0000, 4) == b"RAM!"


# --- reset, power, state -------------------------------------------------------------------------------------------


def test_reset_brings_the_configuration_of_power_on(vm: Vm) -> None:
    pam(vm, PAM0, 0x30)
    vm.memory.write(ROM, bytes(8))
    config_write(vm.board, IDE, 0x20, BM)
    config_write(vm.board, IDE, 0x04, 0x05, 2)
    vm.reset()
    assert vm.memory.read(ROM, 8) == build_bios()[:8]
    assert vm.board.bus.region_at(BM).name == "nobody"
    assert vm.board.port_read(0xCF8, 4) == 0


def test_the_guest_can_switch_the_machine_off(vm: Vm) -> None:
    config_write(vm.board, POWER, 0x40, 0x0601)
    config_write(vm.board, POWER, 0x80, 0x01, 1)
    vm.board.port_write(0x604, 2, 1 << 13)
    assert vm.outcome == PoweredOff()


def test_a_saved_board_comes_back_with_its_windows_and_segments(vm: Vm) -> None:
    pam(vm, PAM0, 0x30)
    vm.memory.write(ROM, b"shadowed")
    read_by_dma(vm, 7, 2)
    saved = vm.save()
    clock = HostClock()
    other = build_vm(vm.config, clock.door)
    try:
        other.load(saved)
        assert other.memory.read(ROM, 8) == b"shadowed"
        assert other.board.bus.region_at(BM).name == "IDE bus master"
        assert other.board.save() == vm.board.save()
        clock.pass_on(other)
        assert other.memory.read(BUFFER, 1024) == (7).to_bytes(4, "little") * 128 + (8).to_bytes(4, "little") * 128
    finally:
        other.close()


def test_the_firmware_console_is_the_debug_console(vm: Vm) -> None:
    heard = bytearray()
    vm.debugcon_out.append(heard.extend)
    for port, byte in ((0x402, b"a"), (0xE9, b"b")):
        assert vm.board.port_read(port, 1) == 0xE9
        vm.board.port_write(port, 1, byte[0])
    assert heard == b"ab"


def test_the_serial_ports_have_lines_of_their_own(vm: Vm, clock: HostClock) -> None:
    first, second = bytearray(), bytearray()
    vm.serial_out.append(first.extend)
    vm.serial2_out.append(second.extend)
    for base, byte in ((0x3F8, b"1"), (0x2F8, b"2")):
        vm.board.port_write(base + 3, 1, 0x03)  # eight bits
        vm.board.port_write(base, 1, byte[0])
    clock.pass_on(vm)
    assert (first, second) == (b"1", b"2")


# --- anything --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_no_sequence_of_accesses_raises(vm: Vm, clock: HostClock, seed: int) -> None:
    """Whatever a guest puts into the configuration, and wherever its descriptors point."""
    chance = random.Random(seed)
    board = vm.board
    places = (HOST_BRIDGE, ISA_BRIDGE, IDE, IDE, POWER, DISPLAY)
    values = (0, 1, 5, 7, BM, 0x1F0, 0x40, 0xFFFF, 0xFFF0_0000, 0xFFFF_FFFF, 0x33, 0x10_0000)
    for _ in range(1500):
        action = chance.randrange(6)
        if action < 3:
            register = chance.choice((0x04, 0x20, 0x30, 0x40, 0x58, 0x5C, 0x60, 0x80, chance.randrange(0, 256, 4)))
            width = chance.choice((1, 2, 4))
            config_write(board, chance.choice(places), register, chance.choice(values) & (1 << 8 * width) - 1, width)
        elif action == 3:
            config_write(board, IDE, 0x20, BM)
            config_write(board, IDE, 0x04, 0x05, 2)
            vm.memory.write(TABLE, chance.randbytes(64))
            board.port_write(BM + 4, 4, chance.choice((TABLE, 0xF_FFF8, 0x1F_FFFC, 0xFFFF_FFFC, 0xB_8000)))
            board.port_write(BM, 1, chance.choice((0, 1, 8, 9)))
        elif action == 4:
            for port in range(0x1F2, 0x1F6):
                board.port_write(port, 1, chance.choice((0, 1, 2, 200)))
            board.port_write(0x1F6, 1, 0xE0)
            board.port_write(0x1F7, 1, chance.choice((0xC8, 0xCA, 0x25, 0x35, 0x20)))
        else:
            clock.pass_on(vm)
            assert 0 <= board.port_read(chance.choice((BM, BM + 2, 0x1F7, 0xCFC)), 1) <= 0xFF
