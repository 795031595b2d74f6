"""The DMA controllers: register access, transfers, terminal count, the 16-bit channels and the page registers."""

import pytest

from vmm.devices.i8237 import Dma

SINGLE, AUTO, DOWN, VERIFY, WRITE, READ = 0x40, 0x10, 0x20, 0x00, 0x04, 0x08
PAGE = {0: 7, 1: 3, 2: 1, 3: 2, 5: 11, 6: 9, 7: 10}


class Board:
    """A pair of controllers with 16 MiB of memory, the cascade open."""

    def __init__(self):
        self.memory = bytearray(1 << 24)
        self.unmodelled: list[str] = []
        self.dma = Dma(self.read, self.write, self.unmodelled.append)
        self.dma.write_second(0x16, 0xC0)
        self.dma.write_second(0x14, 0x00)

    def read(self, address: int, count: int) -> bytes:
        return bytes(self.memory[address : address + count])

    def write(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def port(self, channel: int, register: int, value: int) -> None:
        """A register of the controller that `channel` belongs to."""
        if channel >= 4:
            self.dma.write_second(register * 2, value)
        else:
            self.dma.first.write(register, value)

    def program(self, channel: int, mode: int, address: int, count: int) -> None:
        """Address in bytes from 0, count in transfers."""
        index = channel & 3
        unit = 2 if channel >= 4 else 1
        self.port(channel, 0xC, 0)
        for value in (address // unit & 0xFF, address // unit >> 8 & 0xFF):
            self.port(channel, index * 2, value)
        for value in (count - 1 & 0xFF, count - 1 >> 8):
            self.port(channel, index * 2 + 1, value)
        self.dma.write_page(PAGE[channel], address >> 16)
        self.port(channel, 0xB, mode | index)
        self.port(channel, 0xA, index)


@pytest.fixture
def board():
    return Board()


def word(board, offset: int) -> int:
    return board.dma.first.read(offset) | board.dma.first.read(offset) << 8


@pytest.mark.parametrize("channel", [0, 1, 2, 3])
def test_byte_channels_write_memory(board, channel):
    board.program(channel, SINGLE | WRITE, 0x5_1234, 512)
    data = bytes(range(256)) * 2
    assert board.dma.write_to_memory(channel, data) == (512, True)
    assert board.read(0x5_1233, 514) == b"\0" + data + b"\0"


@pytest.mark.parametrize("channel", [5, 6, 7])
def test_word_channels_count_words_in_128_kib(board, channel):
    board.program(channel, SINGLE | READ, 0x3_0200, 4)
    board.memory[0x3_0200:0x3_0208] = b"abcdefgh"
    assert board.dma.read_from_memory(channel, 100) == (b"abcdefgh", True)


def test_a_word_channel_leaves_an_odd_byte(board):
    board.program(5, SINGLE | WRITE, 0x1000, 8)
    assert board.dma.write_to_memory(5, b"abc") == (2, False)
    assert board.read(0x1000, 4) == b"ab\0\0"


def test_a_transfer_in_parts_reaches_terminal_count_at_the_end(board):
    board.program(2, SINGLE | WRITE, 0x1000, 1024)
    assert board.dma.write_to_memory(2, b"a" * 512) == (512, False)
    assert (word(board, 4), word(board, 5)) == (0x1200, 511)
    assert board.dma.write_to_memory(2, b"b" * 600) == (512, True)
    assert board.read(0x1000, 1025) == b"a" * 512 + b"b" * 512 + b"\0"
    assert (word(board, 4), word(board, 5)) == (0x1400, 0xFFFF)


def test_terminal_count_masks_the_channel_and_shows_in_status_once(board):
    board.program(2, SINGLE | WRITE, 0x1000, 4)
    board.dma.write_to_memory(2, b"abcd")
    assert board.dma.first.read(0xF) == 0xFF
    assert (board.dma.first.read(8), board.dma.first.read(8)) == (0x04, 0x00)
    assert board.dma.write_to_memory(2, b"more") == (0, False)


def test_auto_initialize_starts_again(board):
    board.program(2, SINGLE | AUTO | WRITE, 0x1000, 4)
    assert board.dma.write_to_memory(2, b"abcdef") == (4, True)
    assert board.dma.write_to_memory(2, b"ef") == (2, False)
    assert board.read(0x1000, 5) == b"efcd\0"


def test_the_address_wraps_within_its_page(board):
    board.program(1, SINGLE | WRITE, 0x2_FFFE, 4)
    assert board.dma.write_to_memory(1, b"abcd") == (4, True)
    assert (board.read(0x2_FFFE, 3), board.read(0x2_0000, 2)) == (b"ab\0", b"cd")


def test_decrement_runs_down(board):
    board.program(1, SINGLE | DOWN | WRITE, 0x2_0001, 4)
    assert board.dma.write_to_memory(1, b"abcd") == (4, True)
    assert (board.read(0x2_0000, 2), board.read(0x2_FFFE, 2)) == (b"ba", b"dc")
    board.program(1, SINGLE | DOWN | READ, 0x2_0001, 4)
    assert board.dma.read_from_memory(1, 4) == (b"abcd", True)
    board.program(5, SINGLE | DOWN | WRITE, 0x1002, 2)
    board.dma.write_to_memory(5, b"abcd")
    assert board.read(0x1000, 4) == b"cdab"


def test_verify_counts_and_moves_nothing(board):
    board.program(2, SINGLE | VERIFY, 0x1000, 4)
    assert board.dma.write_to_memory(2, b"abcd") == (4, True)
    assert board.read(0x1000, 4) == bytes(4)
    assert board.unmodelled == []


@pytest.mark.parametrize(("mode", "text"), [(READ, "READ"), (0x0C, "ILLEGAL")])
def test_the_wrong_direction_is_reported_and_moves_nothing(board, mode, text):
    board.program(2, SINGLE | mode, 0x1000, 4)
    assert board.dma.write_to_memory(2, b"abcd") == (4, True)
    assert board.read(0x1000, 4) == bytes(4)
    assert text in board.unmodelled[0]
    board.program(2, SINGLE | WRITE, 0x1000, 4)
    assert board.dma.read_from_memory(2, 2) == (b"\xff\xff", False)


CLOSERS = [
    pytest.param(lambda b: b.dma.first.write(0xA, 6), id="single_mask"),
    pytest.param(lambda b: b.dma.first.write(0xF, 4), id="all_mask"),
    pytest.param(lambda b: b.dma.first.write(0xD, 0), id="master_clear"),
    pytest.param(lambda b: b.dma.first.write(8, 4), id="controller_disabled"),
    pytest.param(lambda b: b.dma.second.write(0xA, 4), id="cascade_masked"),
    pytest.param(lambda b: b.dma.second.write(8, 4), id="second_controller_disabled"),
    pytest.param(lambda b: b.dma.first.write(0xB, 0xC2), id="cascade_mode"),
]


@pytest.mark.parametrize("close", CLOSERS)
def test_a_closed_channel_moves_nothing(board, close):
    board.program(2, SINGLE | WRITE, 0x1000, 4)
    close(board)
    assert board.dma.write_to_memory(2, b"abcd") == (0, False)
    assert board.dma.read_from_memory(2, 4) == (b"", False)


def test_clear_mask_opens_all(board):
    board.program(2, SINGLE | WRITE, 0x1000, 4)
    board.dma.first.write(0xF, 0xF)
    board.dma.first.write(0xE, 0)
    assert board.dma.write_to_memory(2, b"ab") == (2, False)


def test_everything_is_masked_at_power_on():
    dma = Dma(lambda *_: b"", lambda *_: None, lambda _: None)
    assert [dma.write_to_memory(n, b"ab") for n in (0, 1, 2, 3, 5, 6, 7)] == [(0, False)] * 7


def test_the_flip_flop_orders_the_halves_of_reads_and_writes(board):
    first = board.dma.first
    first.write(0xC, 0)
    first.write(4, 0x34)
    first.write(0xC, 0)
    first.write(4, 0x78)
    first.write(4, 0x12)
    first.write(0xC, 0)
    assert (first.read(4), first.read(4)) == (0x78, 0x12)
    first.read(4)
    first.write(0xD, 0)
    assert first.read(4) == 0x78


def test_a_read_back_of_the_count_follows_the_transfer(board):
    board.program(3, SINGLE | WRITE, 0, 0x10000)
    assert board.dma.write_to_memory(3, bytes(5)) == (5, False)
    assert word(board, 7) == 0xFFFF - 5


def test_page_registers_are_latches(board):
    for offset in range(16):
        board.dma.write_page(offset, 0xA0 | offset)
    assert [board.dma.read_page(offset) for offset in range(16)] == [0xA0 | offset for offset in range(16)]


def test_the_second_controller_answers_at_even_ports_and_their_shadows(board):
    board.dma.write_second(0x18, 0)
    board.dma.write_second(0x04, 0x34)
    board.dma.write_second(0x05, 0x12)
    assert (board.dma.read_second(4), board.dma.read_second(5)) == (0x34, 0x12)
    assert board.dma.read_second(0x1A) == 0


@pytest.mark.parametrize(("register", "value"), [(8, 0x01), (8, 0x80), (9, 0x04)])
def test_what_is_not_modelled_is_reported(board, register, value):
    board.dma.first.write(register, value)
    assert len(board.unmodelled) == 1


def test_requests_show_in_status(board):
    board.dma.first.write(9, 5)
    assert board.dma.first.read(8) == 0x20
    board.dma.first.write(9, 1)
    assert board.dma.first.read(8) == 0


def test_state_round_trip(board):
    board.program(2, SINGLE | AUTO | WRITE, 0x5_1234, 100)
    board.dma.write_to_memory(2, bytes(7))
    board.dma.first.read(4)
    other = Board()
    other.dma.load(board.dma.save())
    assert other.dma.save() == board.dma.save()
    assert other.dma == board.dma
