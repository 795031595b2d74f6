"""The keyboard controller, against "Keyboard/Auxiliary Device Controller" of the PS/2 Technical Reference."""

import json
from collections.abc import Iterator

import pytest

from vmm.devices.i8042 import BYTE_TIME_NS, I8042
from vmm.devices.keymap import KeyStroke

DATA, COMMAND = 0, 4
OBF, SYS, A2, AUX, TIMEOUT = 0x01, 0x04, 0x08, 0x20, 0x40
XLAT_INT = 0x65  # as a BIOS leaves the command byte: translate, no mouse, system flag, interrupt


class Board:
    """The controller with its wires recorded."""

    def __init__(self) -> None:
        self.irq: list[bool] = []
        self.aux_irq: list[bool] = []
        self.a20: list[bool] = []
        self.resets: list[str] = []
        self.unmodelled: list[str] = []
        self.chip = I8042(
            self.irq.append, self.aux_irq.append, self.a20.append, self.resets.append, self.unmodelled.append
        )

    def command(self, value: int, *parameters: int) -> None:
        self.chip.write(COMMAND, value)
        for parameter in parameters:
            self.chip.write(DATA, parameter)

    def status(self) -> int:
        return self.chip.read(COMMAND)

    def fetch(self) -> int:
        """Read a byte as soon as there is one."""
        if not self.status() & OBF:
            deadline = self.chip.next_deadline()
            assert deadline is not None, "nothing is coming"
            self.chip.advance(max(deadline, self.chip.now))
        assert self.status() & OBF
        return self.chip.read(DATA)

    def all_bytes(self) -> Iterator[int]:
        while self.status() & OBF or self.chip.next_deadline() is not None:
            yield self.fetch()

    def received(self) -> str:
        return bytes(self.all_bytes()).hex(" ")


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def ready(board: Board) -> Board:
    """As the BIOS leaves it."""
    board.command(0x60, XLAT_INT)
    return board


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        pytest.param(0xAA, 0x55, id="self_test_passes"),
        pytest.param(0xAB, 0x00, id="keyboard_line_passes"),
        pytest.param(0xA9, 0x00, id="mouse_line_passes"),
        pytest.param(0xA4, 0xF1, id="no_password"),
        pytest.param(0xC0, 0xB0, id="input_port"),
        pytest.param(0xD0, 0xC1, id="output_port"),
        pytest.param(0xE0, 0x02, id="test_inputs_keyboard_held"),
        pytest.param(0x20, 0x30, id="command_byte_at_power_on"),
        pytest.param(0x21, 0x00, id="ram"),
    ],
)
def test_answer(board: Board, command: int, answer: int) -> None:
    board.command(command)
    assert board.status() & OBF
    assert board.chip.read(DATA) == answer
    assert not board.status() & OBF
    assert board.chip.read(DATA) == answer  # the buffer keeps the byte


def test_ram_reads_back(board: Board) -> None:
    for address in range(32):
        board.command(0x60 + address, 0x20 | address)
    for address in range(32):
        board.command(0x20 + address)
        assert board.fetch() == 0x20 | address


@pytest.mark.parametrize(("command", "left"), [(0xA8, 0x00), (0xA7, 0x20)])
def test_the_mouse_port_is_enabled_and_disabled(board: Board, command: int, left: int) -> None:
    board.command(0x60, 0x20 ^ left)
    board.command(command)
    board.command(0x20)
    assert board.fetch() == left


MOUSE_INT = 0x47  # translate, both interrupts, both interfaces enabled


def test_the_mouse_answers_through_irq_12(board: Board) -> None:
    board.command(0x60, MOUSE_INT)
    board.command(0xD4, 0xFF)
    assert board.status() & (OBF | AUX | TIMEOUT) == OBF | AUX
    assert (board.irq, board.aux_irq) == ([], [True])
    assert board.received() == "fa aa 00"
    assert board.aux_irq == [True, False] * 3
    assert board.irq == []


def test_a_disabled_mouse_port_keeps_the_answer_back(board: Board) -> None:
    board.command(0x60, MOUSE_INT | 0x20)
    board.command(0xD4, 0xF2)
    assert not board.status() & OBF
    board.command(0xA8)
    assert board.received() == "fa 00"


def test_a_mouse_byte_comes_back_behind_an_answer_of_the_controller(board: Board) -> None:
    board.command(0x60, MOUSE_INT)
    board.command(0xD4, 0xF4)
    board.command(0x20)
    assert board.status() & (OBF | AUX) == OBF
    assert board.chip.read(DATA) == MOUSE_INT
    assert board.status() & (OBF | AUX) == OBF | AUX
    assert board.chip.read(DATA) == 0xFA


def test_status_tells_commands_from_data(board: Board) -> None:
    board.command(0x60)
    assert board.status() & A2
    board.chip.write(DATA, 0x30)
    assert not board.status() & A2


def test_system_flag_comes_with_the_self_test_and_the_command_byte(board: Board) -> None:
    assert not board.status() & SYS
    board.command(0xAA)
    assert board.status() & SYS
    board.command(0x60, 0x30)
    assert not board.status() & SYS


def test_a_key_raises_irq_1_and_reading_it_lowers_it(ready: Board) -> None:
    ready.chip.keyboard.press("a")
    assert ready.irq == [True]
    assert ready.chip.read(DATA) == 0x1E
    assert ready.irq == [True, False]


def test_each_byte_is_an_edge_of_its_own(ready: Board) -> None:
    ready.chip.keyboard.press("Up")
    ready.chip.keyboard.release("Up")
    assert ready.received() == "e0 48 e0 c8"
    assert ready.irq == [True, False] * 4


def test_the_next_byte_takes_its_time(ready: Board) -> None:
    """A handler in front of the BIOS reads the scan code, then the BIOS reads it again."""
    ready.chip.advance(1_000)
    ready.chip.keyboard.press("Up")
    assert [ready.chip.read(DATA) for _ in range(2)] == [0xE0, 0xE0]
    assert ready.chip.next_deadline() == 1_000 + BYTE_TIME_NS
    ready.chip.advance(1_000 + BYTE_TIME_NS - 1)
    assert ready.chip.read(DATA) == 0xE0
    ready.chip.advance(1_000 + BYTE_TIME_NS)
    assert ready.chip.read(DATA) == 0x48
    assert ready.chip.next_deadline() is None


@pytest.mark.parametrize(
    ("command_byte", "codes"),
    [pytest.param(0x65, "1e 9e", id="translated"), pytest.param(0x25, "1c f0 1c", id="raw")],
)
def test_translation(board: Board, command_byte: int, codes: str) -> None:
    board.command(0x60, command_byte)
    board.chip.keyboard.press("a")
    board.chip.keyboard.release("a")
    assert board.received() == codes


def test_translation_leaves_answers_but_not_the_id(ready: Board) -> None:
    ready.chip.write(DATA, 0xF2)
    assert ready.received() == "fa ab 41"
    ready.chip.write(DATA, 0xFF)
    assert ready.received() == "fa aa"


def test_no_interrupt_unless_enabled(board: Board) -> None:
    board.command(0x60, 0x64)
    board.chip.keyboard.press("a")
    assert board.irq == []
    board.command(0x60, 0x65)
    assert board.irq == [True]


def test_a_disabled_interface_keeps_keys_for_later(ready: Board) -> None:
    ready.command(0xAD)
    ready.chip.keyboard.press("a")
    assert not ready.status() & OBF
    assert ready.chip.next_deadline() is None
    ready.command(0xAE)
    assert ready.received() == "1e"


def test_writing_to_the_keyboard_enables_its_interface(ready: Board) -> None:
    ready.command(0xAD)
    ready.chip.write(DATA, 0xEE)
    assert ready.received() == "ee"


def test_an_answer_goes_before_an_unread_scan_code_and_loses_nothing(ready: Board) -> None:
    ready.chip.keyboard.press("a")
    ready.chip.keyboard.press("b")
    ready.command(0xD0)
    ready.command(0x20)
    assert ready.chip.read(DATA) == XLAT_INT
    assert ready.received() == "1e 30"
    assert ready.irq == [True, False] * (len(ready.irq) // 2)


@pytest.mark.parametrize(
    ("command", "parameter", "answer", "status"),
    [
        pytest.param(0xD2, 0x5A, 0x5A, OBF, id="as_if_from_the_keyboard"),
        pytest.param(0xD3, 0x5A, 0x5A, OBF | AUX, id="as_if_from_a_mouse"),
    ],
)
def test_written_buffer(ready: Board, command: int, parameter: int, answer: int, status: int) -> None:
    ready.command(command, parameter)
    assert ready.status() & (OBF | AUX | TIMEOUT) == status
    assert ready.irq == ([] if status & AUX else [True])
    assert ready.chip.read(DATA) == answer
    assert ready.status() & (OBF | AUX | TIMEOUT) == 0


@pytest.mark.parametrize(
    ("commands", "a20"),
    [
        pytest.param([(0xD1, 0xDF)], [True], id="output_port"),
        pytest.param([(0xD1, 0xDF), (0xD1, 0xDD)], [True, False], id="on_and_off"),
        pytest.param([(0xDF,), (0xDD,)], [True, False], id="commands"),
        pytest.param([(0xD1, 0xDF), (0xDF,)], [True], id="told_when_it_changes"),
    ],
)
def test_a20(board: Board, commands: list[tuple[int, ...]], a20: list[bool]) -> None:
    for command in commands:
        board.command(*command)
    assert board.a20 == a20
    board.command(0xD0)
    assert bool(board.fetch() & 0x02) == a20[-1]
    assert board.resets == []


def test_output_port_shows_irq_1(ready: Board) -> None:
    ready.chip.keyboard.press("a")
    ready.command(0xD0)
    assert ready.chip.read(DATA) & 0x30 == 0x10


@pytest.mark.parametrize(
    ("command", "resets"),
    [
        pytest.param((0xFE,), ["i8042 command FEh"], id="pulse_bit_0"),
        pytest.param((0xF0,), ["i8042 command F0h"], id="pulse_all"),
        pytest.param((0xFF,), [], id="pulse_none"),
        pytest.param((0xFD,), [], id="pulse_another"),
        pytest.param((0xD1, 0xDE), ["i8042 output port"], id="output_port_bit_0"),
    ],
)
def test_reset(board: Board, command: tuple[int, ...], resets: list[str]) -> None:
    board.command(*command)
    assert board.resets == resets


def test_an_unknown_command_is_reported(board: Board) -> None:
    board.command(0xAC)
    assert board.unmodelled == ["i8042 command ACh"]
    assert not board.status() & OBF


def test_a_command_drops_the_parameter_that_the_one_before_waits_for(board: Board) -> None:
    board.command(0xD1)
    board.command(0xAB)
    assert board.fetch() == 0x00
    board.chip.write(DATA, 0xEE)  # for the keyboard, not the output port
    assert board.fetch() == 0xEE
    assert board.a20 == []


def test_typed_text_arrives_whole(ready: Board) -> None:
    waiting = [event for letter in "the quick brown fox".replace(" ", "") for event in KeyStroke(letter).events()]
    count = len(waiting)
    received = []
    while waiting or ready.chip.next_deadline() is not None or ready.status() & OBF:
        waiting = waiting[ready.chip.keyboard.type_keys(waiting) :]
        received.append(ready.fetch())
    assert len(received) == count
    assert [code for code in received if code < 0x80] == [code & 0x7F for code in received if code >= 0x80]


def test_state_survives_save_and_load_in_mid_key(ready: Board) -> None:
    ready.chip.keyboard.press("Up")
    ready.chip.keyboard.release("Up")
    ready.command(0x20)
    state = json.loads(json.dumps(ready.chip.save()))
    other = Board()
    other.chip.load(state)
    assert other.chip == ready.chip
    assert other.received() == f"{XLAT_INT:02x} e0 48 e0 c8"
