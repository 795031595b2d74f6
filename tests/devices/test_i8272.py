"""The floppy controller against the 82077AA data sheet."""

import pytest

from vmm.devices.block import FLOPPY_FORMATS, MediumError, RamDisk
from vmm.devices.i8237 import Dma
from vmm.devices.i8272 import I8272
from vmm.devices.i8272_registers import FloppyDrive

DOR, TDR, MSR, FIFO, DIR = 2, 3, 4, 5, 7
RQM, DIO, NDM, CB = 0x80, 0x40, 0x20, 0x10
BUFFER = 0x1_0000
READ, WRITE, VERIFY, READ_TRACK, READ_DELETED, WRITE_DELETED = 0xE6, 0xC5, 0xF6, 0x42, 0x4C, 0x49
MULTI_TRACK = 0x80
M1440 = 1474560


class Board:
    """A controller with its DMA channel, two drives, and a driver's way to talk to them."""

    def __init__(self, *media, size=M1440):
        self.memory = bytearray(1 << 18)
        self.unmodelled: list[str] = []
        self.irqs: list[bool] = []
        self.dma = Dma(self.read_memory, self.write_memory, self.unmodelled.append)
        self.disk = numbered(size) if not media else media[0]
        self.drives = [FloppyDrive(medium) for medium in (media or (self.disk, None))]
        self.fdc = I8272(
            self.drives,
            self.irqs.append,
            lambda data: self.dma.write_to_memory(2, data),
            lambda count: self.dma.read_from_memory(2, count),
            self.unmodelled.append,
        )
        self.dma.write_second(0x16, 0xC0)
        self.dma.write_second(0x14, 0x00)
        self.now = 0

    def read_memory(self, address, count):
        return bytes(self.memory[address : address + count])

    def write_memory(self, address, data):
        self.memory[address : address + len(data)] = data

    def wait(self):
        start = self.now
        while (deadline := self.fdc.next_deadline()) is not None:
            self.now = max(self.now, deadline)
            self.fdc.advance(self.now)
        return self.now - start

    def start(self, rate=0, dor=0x1C):
        """Out of reset with the motor of drive 0 on; the four sense interrupts are taken."""
        self.fdc.write(DOR, 0)
        self.fdc.write(DOR, dor)
        self.wait()
        for _ in range(4):
            self.command(0x08)
        self.command(0x03, 0xDF, 0x02)
        self.fdc.write(DIR, rate)
        self.irqs.clear()
        return self

    def send(self, *values):
        for value in values:
            assert self.fdc.read(MSR) & (RQM | DIO) == RQM
            self.fdc.write(FIFO, value)

    def result(self):
        values = []
        while self.fdc.read(MSR) & DIO:
            values.append(self.fdc.read(FIFO))
        return values

    def command(self, *values):
        self.send(*values)
        self.wait()
        return self.result()

    def seek(self, cylinder, drive=0):
        self.send(0x0F, drive, cylinder)
        self.wait()
        return self.command(0x08)

    def set_dma(self, mode, count):
        first = self.dma.first
        first.write(0xC, 0)
        for register, value in ((4, BUFFER & 0xFFFF), (5, count - 1)):
            first.write(register, value & 0xFF)
            first.write(register, value >> 8)
        self.dma.write_page(1, BUFFER >> 16)
        first.write(0xB, mode | 0x42)
        first.write(0xA, 2)

    def transfer(self, code, cylinder, head, sector, *, count=512, eot=18, drive=0, data=b""):
        """Program DMA and run a data command with C, H, R, N=2; the seven result bytes."""
        if data:
            self.memory[BUFFER : BUFFER + len(data)] = data
        self.set_dma(0x08 if code & 0x1F in (0x05, 0x09) else 0x04, count)
        return self.command(code, head << 2 | drive, cylinder, head, sector, 2, eot, 0x1B, 0xFF)


def numbered(size):
    return RamDisk(bytearray(b"".join(n.to_bytes(4, "little") * 128 for n in range(size // 512))))


def filled(*numbers):
    return b"".join(n.to_bytes(4, "little") * 128 for n in numbers)


@pytest.fixture
def board():
    return Board().start()


# -- reset and registers ---------------------------------------------------------------------------------------------


def test_nothing_answers_in_reset():
    board = Board()
    assert (board.fdc.read(MSR), board.fdc.read(DOR)) == (0, 0)
    board.fdc.write(FIFO, 0x10)
    board.fdc.write(DOR, 0x0C)
    assert board.fdc.read(MSR) == 0
    board.wait()
    assert (board.fdc.read(MSR), board.irqs) == (RQM, [True])


def test_reset_leaves_four_interrupts_to_sense():
    board = Board()
    board.fdc.write(DOR, 0x0C)
    board.wait()
    assert [board.command(0x08) for _ in range(5)] == [[0xC0, 0], [0xC1, 0], [0xC2, 0], [0xC3, 0], [0x80]]
    assert board.irqs == [True, False]


def test_reset_through_dsr_clears_itself(board):
    board.fdc.write(MSR, 0x80)
    assert board.fdc.read(MSR) == 0
    board.wait()
    assert (board.fdc.read(MSR), board.command(0x08)) == (RQM, [0xC0, 0])


def test_reset_ends_a_command_and_a_seek(board):
    board.send(0x0F, 0, 40)
    board.send(READ, 0, 0)
    board.fdc.write(DOR, 0x10)
    board.fdc.write(DOR, 0x1C)
    board.wait()
    assert (board.fdc.read(MSR), board.drives[0].cylinder) == (RQM, 0)
    assert board.command(0x08) == [0xC0, 0]


def test_without_polling_a_reset_is_silent(board):
    board.command(0x13, 0, 0x10, 0)
    board.command(0x94)
    board.fdc.write(DOR, 0x10)
    board.fdc.write(DOR, 0x1C)
    board.wait()
    assert (board.irqs, board.command(0x08)) == ([], [0x80])


def test_lock_keeps_the_configuration_over_a_reset(board):
    board.command(0x13, 0, 0x47, 0x12)
    assert board.command(0x94) == [0x10]
    board.start()
    assert board.command(0x0E)[7:] == [0x80, 0x47, 0x12]
    assert board.command(0x14) == [0x00]
    board.start()
    assert board.command(0x0E)[7:] == [0x00, 0, 0]


def test_dumpreg(board):
    board.seek(5)
    board.seek(7, drive=1)
    board.command(0x12, 0x87)
    board.transfer(READ, 5, 0, 1, eot=9)
    assert board.command(0x0E) == [5, 7, 0, 0, 0xDF, 0x02, 9, 0x07, 0, 0]


def test_perpendicular_drive_bits_need_ow(board):
    board.command(0x12, 0xBC)
    board.command(0x12, 0x03)
    assert board.command(0x0E)[7] == 0x3F
    board.start()
    assert board.command(0x0E)[7] == 0x3C


def test_registers_read_back(board):
    board.fdc.write(TDR, 0xFF)
    assert (board.fdc.read(DOR), board.fdc.read(TDR)) == (0x1C, 3)
    assert (board.fdc.read(0), board.fdc.read(1), board.fdc.read(6)) == (0xFF, 0xFF, 0xFF)
    assert board.fdc.read(FIFO) == 0xFF


def test_the_dma_gate_holds_the_interrupt_back():
    board = Board()
    board.fdc.write(DOR, 0x04)
    board.wait()
    assert board.irqs == []
    board.fdc.write(DOR, 0x0C)
    assert board.irqs == [True]


def test_version(board):
    assert board.command(0x10) == [0x90]


@pytest.mark.parametrize("code", [0x00, 0x01, 0x1F, 0x0B, 0x48, 0x88, 0x2F, 0x90, 0xD0, 0xA5, 0x27])
def test_invalid_commands_answer_80h(board, code):
    assert (board.command(code), board.irqs, board.unmodelled) == ([0x80], [], [])


def test_scan_is_reported(board):
    assert (board.command(0x11), len(board.unmodelled)) == ([0x80], 1)


# -- drives ----------------------------------------------------------------------------------------------------------


def test_main_status_follows_the_phases(board):
    board.set_dma(0x04, 512)
    states = [board.fdc.read(MSR)]
    for value in (READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF):
        board.send(value)
        states.append(board.fdc.read(MSR))
    board.wait()
    states.append(board.fdc.read(MSR))
    board.result()
    states.append(board.fdc.read(MSR))
    assert states == [RQM, *[RQM | CB] * 8, CB, RQM | DIO | CB, RQM]


def test_seek(board):
    board.send(0x0F, 0, 33)
    assert board.fdc.read(MSR) == RQM | 1
    assert board.wait() == 1_000_000
    assert board.fdc.read(MSR) == RQM
    assert (board.command(0x08), board.irqs) == ([0x20, 33], [True, False])


def test_two_drives_seek_at_once(board):
    board.send(0x0F, 0, 10)
    board.send(0x0F, 1, 20)
    assert board.fdc.read(MSR) == RQM | 3
    board.wait()
    assert [board.command(0x08) for _ in range(3)] == [[0x20, 10], [0x21, 20], [0x80]]


@pytest.mark.parametrize(("code", "cylinder"), [(0xCF, 15), (0x8F, 5)])
def test_relative_seek(board, code, cylinder):
    board.seek(10)
    board.send(code, 0, 5)
    board.wait()
    assert board.command(0x08) == [0x20, cylinder]


def test_recalibrate(board):
    board.seek(30)
    board.send(0x07, 0)
    board.wait()
    assert (board.command(0x08), board.drives[0].cylinder) == ([0x20, 0], 0)


def test_recalibrate_gives_up_after_79_steps(board):
    board.seek(85)
    board.send(0x07, 0)
    board.wait()
    assert board.command(0x08) == [0x70, 0]
    board.send(0x07, 0)
    board.wait()
    assert board.command(0x08) == [0x20, 0]


def test_recalibrate_finds_no_track_0_without_a_drive(board):
    board.send(0x07, 3)
    board.wait()
    assert board.command(0x08) == [0x73, 0]


def test_sense_drive(board):
    assert board.command(0x04, 0x04) == [0x28 | 0x10 | 0x04]
    board.seek(1)
    assert board.command(0x04, 0x00) == [0x28]
    board.disk.read_only = True
    assert board.command(0x04, 0x00) == [0x68]
    assert board.command(0x04, 0x03) == [0x2B]


def test_the_change_line_falls_at_the_first_step_with_a_disk(board):
    assert board.fdc.read(DIR) == 0x80
    board.send(0x07, 0)
    board.wait()
    board.command(0x08)
    assert board.fdc.read(DIR) == 0x80  # no step was needed
    board.seek(1)
    assert board.fdc.read(DIR) == 0
    board.drives[0].insert(None)
    board.seek(2)
    assert board.fdc.read(DIR) == 0x80
    board.drives[0].insert(board.disk)
    board.seek(0)
    assert board.fdc.read(DIR) == 0


@pytest.mark.parametrize("dor", [0x0C, 0x1F, 0x2C])
def test_the_change_line_needs_the_selected_drive_and_its_motor(board, dor):
    board.fdc.write(DOR, dor)
    assert board.fdc.read(DIR) == 0


# -- reading and writing ---------------------------------------------------------------------------------------------


def test_read_one_sector(board):
    assert board.transfer(READ, 0, 1, 3) == [0x04, 0, 0, 0, 1, 4, 2]
    assert board.read_memory(BUFFER, 513) == filled(18 + 2) + b"\0"
    assert board.irqs == [True, False]


@pytest.mark.parametrize("size", sorted(FLOPPY_FORMATS))
def test_every_format_reads_its_last_sector(size):
    form = FLOPPY_FORMATS[size]
    board = Board(size=size).start(rate=max(form.rates))
    board.seek(form.cylinders - 1)
    code = READ & ~MULTI_TRACK
    status = board.transfer(code, form.cylinders - 1, form.heads - 1, form.sectors, eot=form.sectors)
    assert status[:3] == [(form.heads - 1) << 2, 0, 0]
    assert board.read_memory(BUFFER, 512) == filled(size // 512 - 1)


# C, H, R, count in sectors, multi-track -> C, H, R of the result ("Result Phase Table")
ENDS = [
    pytest.param(0, 3, 2, True, (5, 0, 5), id="within_a_track"),
    pytest.param(0, 17, 2, True, (5, 1, 1), id="multi_track_goes_to_head_1"),
    pytest.param(1, 17, 2, True, (6, 0, 1), id="multi_track_ends_at_head_1"),
    pytest.param(0, 17, 2, False, (6, 0, 1), id="single_track_head_0"),
    pytest.param(1, 17, 2, False, (6, 1, 1), id="single_track_head_1"),
]


@pytest.mark.parametrize(("head", "sector", "count", "multi", "after"), ENDS)
def test_result_after_terminal_count(board, head, sector, count, multi, after):
    board.seek(5)
    code = READ if multi else READ & ~MULTI_TRACK
    assert board.transfer(code, 5, head, sector, count=512 * count)[1:] == [0, 0, *after, 2]
    first = (5 * 2 + head) * 18 + sector - 1
    assert board.read_memory(BUFFER, 1024) == filled(first, first + 1)


def test_multi_track_reads_a_cylinder(board):
    board.seek(2)
    status = board.transfer(READ, 2, 0, 1, count=36 * 512)
    assert status == [0x04, 0, 0, 3, 0, 1, 2]
    assert board.read_memory(BUFFER, 36 * 512) == filled(*range(72, 108))


def test_without_terminal_count_it_ends_at_the_end_of_the_cylinder(board):
    assert board.transfer(READ & ~MULTI_TRACK, 0, 0, 17, count=8 * 512) == [0x40, 0x80, 0, 1, 0, 1, 2]
    assert board.read_memory(BUFFER, 1025) == filled(16, 17) + b"\0"


def test_a_sector_takes_its_time(board):
    board.set_dma(0x04, 3 * 512)
    board.send(READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    assert board.wait() == 300_000


def test_terminal_count_within_a_sector(board):
    assert board.transfer(READ, 0, 0, 1, count=100)[:3] == [0, 0, 0]
    assert board.read_memory(BUFFER, 101) == filled(0)[:100] + b"\0"


@pytest.mark.parametrize("code", [WRITE, WRITE & ~MULTI_TRACK])
def test_write(board, code):
    board.seek(3)
    data = filled(9001, 9002)
    assert board.transfer(code, 3, 1, 4, count=1024, data=data) == [0x04, 0, 0, 3, 1, 6, 2]
    at = ((3 * 2 + 1) * 18 + 3) * 512
    assert board.disk.read(at - 4, 1032) == filled(3 * 36 + 20)[-4:] + data + filled(3 * 36 + 23)[:4]


def test_a_short_write_fills_the_sector_with_zeros(board):
    board.transfer(WRITE, 0, 0, 1, count=4, data=b"abcd")
    assert board.disk.read(0, 512) == b"abcd" + bytes(508)


@pytest.mark.parametrize("code", [READ, WRITE])
def test_a_closed_dma_channel_is_an_overrun(board, code):
    board.set_dma(0x04, 512)
    board.dma.first.write(0xA, 6)
    assert board.command(code, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:3] == [0x40, 0x10, 0]
    assert board.disk.read(0, 512) == filled(0)


def test_write_protected(board):
    board.disk.read_only = True
    assert board.transfer(WRITE, 0, 0, 1)[:3] == [0x40, 0x02, 0]


@pytest.mark.parametrize("code", [READ, WRITE, VERIFY & ~MULTI_TRACK])
@pytest.mark.parametrize(
    ("chrn", "status"),
    [
        ((0, 0, 19, 2), [0x40, 0x04, 0]),
        ((1, 0, 1, 2), [0x40, 0x04, 0x10]),
        ((0, 1, 1, 2), [0x40, 0x04, 0]),
        ((0, 0, 1, 3), [0x40, 0x04, 0]),
    ],
    ids=["sector", "cylinder", "head", "size"],
)
def test_a_sector_that_is_not_there(board, code, chrn, status):
    board.set_dma(0x04, 512)
    assert board.command(code, 0, *chrn, 20, 0x1B, 0xFF) == [*status, *chrn]


UNREADABLE = [
    pytest.param(lambda b: b.drives[0].insert(None), id="no_disk"),
    pytest.param(lambda b: b.fdc.write(DOR, 0x0C), id="motor_off"),
    pytest.param(lambda b: b.fdc.write(DIR, 2), id="wrong_rate"),
    pytest.param(lambda b: b.drives[0].insert(RamDisk(bytearray(512))), id="unknown_format"),
    pytest.param(lambda b: b.seek(80), id="beyond_the_last_cylinder"),
    pytest.param(lambda b: b.drives.clear(), id="no_drive"),
]


@pytest.mark.parametrize("spoil", UNREADABLE)
@pytest.mark.parametrize("command", [(READ, 0, 0, 0, 1, 2, 18, 27, 255), (0x4A, 0), (0x4D, 0, 2, 18, 27, 0xF6)])
def test_what_cannot_be_read_is_a_missing_address_mark_after_two_turns(board, spoil, command):
    spoil(board)
    board.send(*command)
    assert board.wait() == 400_000_000
    assert board.result()[:3] == [0x40, 0x01, 0]


def test_fm_finds_no_address_mark(board):
    assert board.transfer(READ & ~0x40, 0, 0, 1)[:3] == [0x40, 0x01, 0]


@pytest.mark.parametrize("command", [(READ, 0, 0, 0, 1, 2, 18, 27, 255), (0x4A, 0), (0x4D, 0, 2, 1, 27, 0xF6)])
def test_a_disk_taken_out_under_way(board, command):
    board.set_dma(0x08, 4)
    board.send(*command)
    board.drives[0].insert(None)
    board.wait()
    assert board.result()[:3] == [0x40, 0x01, 0]


@pytest.mark.parametrize("code", [READ, WRITE])
def test_a_medium_that_fails_is_a_data_error(board, code, monkeypatch):
    def fail(*_):
        raise MediumError("gone")

    monkeypatch.setattr(RamDisk, "read", fail)
    monkeypatch.setattr(RamDisk, "write", fail)
    assert board.transfer(code, 0, 0, 1)[:3] == [0x40, 0x20, 0x20]


def test_read_id_sees_the_sectors_pass(board):
    board.seek(4)
    results = [board.command(0x4A, 0x04) for _ in range(18)]
    assert [r[:5] + r[6:] for r in results] == [[0x04, 0, 0, 4, 1, 2]] * 18
    assert sorted(r[5] for r in results) == list(range(1, 19))


def test_read_track_starts_with_the_first_sector(board):
    status = board.transfer(READ_TRACK, 0, 0, 7, count=18 * 512)
    assert (status[:3], board.read_memory(BUFFER, 18 * 512)) == ([0, 0, 0], filled(*range(18)))
    assert board.transfer(READ_TRACK, 0, 0, 1, count=19 * 512)[:3] == [0, 0, 0]


def test_read_deleted_data_stops_at_an_ordinary_sector(board):
    assert board.transfer(READ_DELETED, 0, 0, 1, count=1024)[:3] == [0, 0, 0x40]
    assert board.read_memory(BUFFER, 513) == filled(0) + b"\0"
    assert board.transfer(READ_DELETED, 0, 0, 1, count=512)[:3] == [0, 0, 0x40]


def test_write_deleted_data_is_reported(board):
    assert board.transfer(WRITE_DELETED, 0, 0, 1, data=filled(77))[:3] == [0, 0, 0]
    assert (board.disk.read(0, 512), len(board.unmodelled)) == (filled(77), 1)


@pytest.mark.parametrize(
    ("code", "unit", "sector", "eot", "count", "status"),
    [
        (0x56, 0x00, 1, 18, 0xFF, [0, 0, 0, 1, 0, 1, 2]),
        (0x56, 0x80, 5, 18, 3, [0, 0, 0, 0, 0, 8, 2]),
        (0xD6, 0x80, 1, 18, 36, [0x04, 0, 0, 1, 0, 1, 2]),
        (0x56, 0x80, 17, 18, 3, [0x40, 0x04, 0, 1, 0, 1, 2]),
    ],
    ids=["to_eot", "counted", "counted_over_both_heads", "counted_beyond_eot"],
)
def test_verify(board, code, unit, sector, eot, count, status):
    assert board.command(code, unit, 0, 0, sector, 2, eot, 0x1B, count) == status
    assert board.read_memory(BUFFER, 4) == bytes(4)


def test_implied_seek(board):
    board.command(0x13, 0, 0x40, 0)
    assert board.transfer(READ, 6, 0, 1)[:3] == [0, 0, 0]
    assert (board.drives[0].cylinder, board.command(0x0E)[0]) == (6, 6)
    assert board.read_memory(BUFFER, 512) == filled(6 * 36)


def test_a_host_that_never_programs_the_rate_needs_no_seek_either():
    board = Board()
    board.fdc.write(DOR, 0x1C)
    board.wait()
    for _ in range(4):
        board.command(0x08)
    assert board.transfer(READ, 6, 0, 1)[:3] == [0, 0, 0]
    assert (board.drives[0].cylinder, board.read_memory(BUFFER, 512)) == (6, filled(6 * 36))
    board.fdc.write(DIR, 0)
    assert board.transfer(READ, 7, 0, 1)[:3] == [0x40, 0x04, 0x10]  # now it is at its word: no data, wrong cylinder


# -- without DMA -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pio(board):
    board.command(0x03, 0xDF, 0x03)
    return board


def test_read_without_dma(pio):
    pio.send(0x46, 0, 0, 0, 17, 2, 18, 27, 255)
    assert pio.fdc.read(MSR) == CB | NDM
    data = b""
    pio.wait()
    while pio.fdc.read(MSR) & NDM:
        assert pio.fdc.read(MSR) == RQM | DIO | NDM | CB
        data += bytes(pio.fdc.read(FIFO) for _ in range(512))
        pio.wait()
    assert data == filled(16, 17)
    assert pio.result() == [0x40, 0x80, 0, 1, 0, 1, 2]  # no TC: the end of the cylinder
    assert pio.irqs == [True, False, True, False, True, False]


def test_write_without_dma(pio):
    pio.send(0x45, 0, 0, 0, 18, 2, 18, 27, 255)
    pio.wait()
    assert pio.fdc.read(MSR) == RQM | NDM | CB
    assert pio.fdc.read(FIFO) == 0xFF
    for value in filled(4711):
        pio.fdc.write(FIFO, value)
    pio.wait()
    assert pio.result()[:3] == [0x40, 0x80, 0]
    assert pio.disk.read(17 * 512, 1024) == filled(4711, 18)


def test_format_without_dma(pio):
    pio.send(0x4D, 0, 2, 2, 0x54, 0xF6)
    assert pio.fdc.read(MSR) == RQM | NDM | CB
    for value in (0, 0, 1, 2, 0, 0, 2, 2):
        pio.fdc.write(FIFO, value)
    assert pio.result()[:3] == [0, 0, 0]
    assert pio.disk.read(0, 1028) == b"\xf6" * 1024 + filled(2)[:4]


def test_a_medium_that_fails_without_dma(pio, monkeypatch):
    def fail(*_):
        raise MediumError("gone")

    monkeypatch.setattr(RamDisk, "write", fail)
    pio.send(0x45, 0, 0, 0, 18, 2, 18, 27, 255)
    pio.wait()
    for value in bytes(512):
        pio.fdc.write(FIFO, value)
    assert pio.result()[:3] == [0x40, 0x20, 0x20]


# -- formatting ------------------------------------------------------------------------------------------------------


def headers(cylinder, head, count):
    return b"".join(bytes((cylinder, head, sector, 2)) for sector in range(1, count + 1))


def test_format_track(board):
    board.seek(7)
    data = headers(7, 1, 18)
    board.memory[BUFFER : BUFFER + len(data)] = data
    board.set_dma(0x08, len(data))
    assert board.command(0x4D, 0x04, 2, 18, 0x54, 0xE5)[:3] == [0x04, 0, 0]
    assert board.disk.read((7 * 2 + 1) * 18 * 512, 18 * 512) == b"\xe5" * 18 * 512
    assert board.disk.read((8 * 2) * 18 * 512, 512) == filled(8 * 36)
    assert board.unmodelled == []


def test_format_of_what_an_image_cannot_hold_is_reported(board):
    data = headers(0, 0, 20)
    board.memory[BUFFER : BUFFER + len(data)] = data
    board.set_dma(0x08, len(data))
    assert board.command(0x4D, 0, 2, 20, 0x54, 0xE5)[:3] == [0, 0, 0]
    assert len(board.unmodelled) == 2


def test_format_failures(board, monkeypatch):
    assert board.command(0x4D, 0, 2, 18, 0x54, 0xE5)[:3] == [0x40, 0x10, 0]
    assert board.command(0x4D, 0, 2, 0, 0x54, 0xE5)[:3] == [0, 0, 0]
    board.disk.read_only = True
    assert board.command(0x4D, 0, 2, 18, 0x54, 0xE5)[:3] == [0x40, 0x02, 0]
    board.disk.read_only = False

    def fail(*_):
        raise MediumError("gone")

    monkeypatch.setattr(RamDisk, "write", fail)
    board.memory[BUFFER : BUFFER + 4] = headers(0, 0, 1)
    board.set_dma(0x08, 4)
    assert board.command(0x4D, 0, 2, 1, 0x54, 0xE5)[:3] == [0x40, 0x20, 0]


def test_state_round_trip_in_the_middle_of_a_read(board):
    board.set_dma(0x04, 1024)
    board.send(READ, 0, 0, 0, 1, 2, 18, 27, 255)
    other = Board().start()
    other.fdc.load(board.fdc.save())
    other.dma.load(board.dma.save())
    other.now = board.now
    assert (other.fdc.save(), other.fdc) == (board.fdc.save(), board.fdc)
    for machine in (board, other):
        machine.wait()
    assert other.result() == board.result() == [0, 0, 0, 0, 0, 3, 2]
    assert other.read_memory(BUFFER, 1024) == filled(0, 1)
