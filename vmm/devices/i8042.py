"""Intel 8042 as the PC's keyboard controller: ports 60h (offset 0) and 64h (offset 4), with a keyboard and a mouse.

One output buffer stands between the two and the processor. It is filled when it is free, the device's interface is
enabled, and a byte time has passed since the last one was fetched: a serial frame of eleven bits takes about a
millisecond, and programs lean on that. A handler hooked before the BIOS reads a scan code at port 60h, and the BIOS
then reads the same code again.

An answer of the controller itself goes in front of a device's byte that has not been fetched; that byte comes back
after it, so no key is lost.

Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard/Auxiliary Device Controller"; IBM PC/AT Technical
Reference, "Keyboard Controller".
Not modelled: the security lock and passwords (A4h reports none), parity errors, the diagnostic dump (ACh), the polling
commands C1h and C2h, pulses on output lines other than the reset.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Final

from vmm.devices.ps2_keyboard import Ps2Keyboard
from vmm.devices.ps2_mouse import Ps2Mouse
from vmm.devices.scancodes import translate
from vmm.devices.snapshot import load_fields, save_fields, wired

DATA: Final = 0
COMMAND: Final = 4
BYTE_TIME_NS: Final = 2_000_000
"""From the fetch of one byte to the arrival of the next: a frame at 10 kHz and the keyboard's own pause."""


class Status(IntFlag):
    """Status register, port 64h."""

    OBF = 1 << 0  # output buffer full
    IBF = 1 << 1  # input buffer full: never seen, commands take no time here
    SYS = 1 << 2  # system flag, bit 2 of the command byte
    A2 = 1 << 3  # the last write was a command
    UNLOCKED = 1 << 4  # the keyboard is not inhibited
    AUX = 1 << 5  # the byte in the output buffer is from the auxiliary device
    TIMEOUT = 1 << 6
    PARITY = 1 << 7


class CommandByte(IntFlag):
    """Controller command byte, RAM address 0."""

    INT = 1 << 0  # IRQ 1 when the output buffer holds a keyboard byte
    AUX_INT = 1 << 1
    SYS = 1 << 2
    DISABLE = 1 << 4
    DISABLE_AUX = 1 << 5
    XLAT = 1 << 6  # scan code set 2 shown as set 1


class OutputPort(IntFlag):
    """Port 2 of the chip."""

    NO_RESET = 1 << 0
    A20 = 1 << 1
    OBF = 1 << 4  # drives IRQ 1
    AUX_OBF = 1 << 5
    CLOCK = 1 << 6
    DATA = 1 << 7


class InputPort(IntFlag):
    """Port 1 of the chip."""

    RAM_256K = 1 << 4
    NO_JUMPER = 1 << 5  # manufacturing jumper not installed
    MONO = 1 << 6
    UNLOCKED = 1 << 7


class Command(IntEnum):
    """Commands written to port 64h."""

    READ_RAM = 0x20  # 20h-3Fh
    WRITE_RAM = 0x60  # 60h-7Fh
    TEST_PASSWORD = 0xA4
    DISABLE_AUX = 0xA7
    ENABLE_AUX = 0xA8
    TEST_AUX = 0xA9
    SELF_TEST = 0xAA
    TEST_KEYBOARD = 0xAB
    DISABLE_KEYBOARD = 0xAD
    ENABLE_KEYBOARD = 0xAE
    READ_INPUT_PORT = 0xC0
    READ_OUTPUT_PORT = 0xD0
    WRITE_OUTPUT_PORT = 0xD1
    WRITE_KEYBOARD_BUFFER = 0xD2
    WRITE_AUX_BUFFER = 0xD3
    WRITE_AUX = 0xD4
    A20_OFF = 0xDD
    A20_ON = 0xDF
    READ_TEST_INPUTS = 0xE0
    PULSE = 0xF0  # F0h-FFh, a zero in bits 3:0 pulses that line


_OBF: Final = int(Status.OBF)
_AUX: Final = int(Status.AUX)
_SYS: Final = int(CommandByte.SYS)
_INT: Final = int(CommandByte.INT)
_AUX_INT: Final = int(CommandByte.AUX_INT)
_XLAT: Final = int(CommandByte.XLAT)
_DISABLE: Final = int(CommandByte.DISABLE)
_DISABLE_AUX: Final = int(CommandByte.DISABLE_AUX)
_NO_RESET: Final = int(OutputPort.NO_RESET)
_A20: Final = int(OutputPort.A20)
_RAM_SIZE: Final = 32
_RAM_MASK: Final = _RAM_SIZE - 1
_NONE: Final = -1

TEST_PASSED: Final = 0x55
LINE_PASSED: Final = 0x00
NO_PASSWORD: Final = 0xF1


@dataclass(slots=True)
class I8042:
    """The controller, its keyboard and its mouse.

    `on_irq` is IRQ 1, `on_aux_irq` IRQ 12, `on_a20` the gate of address line 20 when it changes (it starts off, as POST
    leaves it). `on_reset` is told that the guest asked for a reset of the processor, and how. Offsets are 0 and 4.
    """

    on_irq: Callable[[bool], None] = wired()
    on_aux_irq: Callable[[bool], None] = wired()
    on_a20: Callable[[bool], None] = wired()
    on_reset: Callable[[str], None] = wired()
    on_unmodelled: Callable[[str], None] = wired()
    keyboard: Ps2Keyboard = field(default_factory=Ps2Keyboard)
    mouse: Ps2Mouse = field(default_factory=Ps2Mouse)
    now: int = 0
    ram: bytearray = field(default_factory=lambda: bytearray([_DISABLE | _DISABLE_AUX]) + bytearray(_RAM_SIZE - 1))
    """Address 0 is the command byte."""
    output: int = 0
    """The output buffer; a fetch leaves it as it is."""
    status: int = int(Status.UNLOCKED)
    """The status bits that are kept; SYS comes from the command byte."""
    output_lines: int = _NO_RESET | int(OutputPort.CLOCK | OutputPort.DATA)
    from_device: bool = False
    """Whether the byte in the output buffer, fetched or not, came from the keyboard or the mouse."""
    displaced: int = _NONE
    """A device's byte that an answer of the controller pushed aside,"""
    displaced_source: int = 0
    """and the status bits that go with it."""
    awaiting: int = 0
    """The command whose parameter comes next at port 60h."""
    after_break: bool = False
    next_byte_at: int = 0
    irq: bool = False
    aux_irq: bool = False

    def __post_init__(self) -> None:
        self.keyboard.on_data = self.mouse.on_data = self._fill
        self.keyboard.on_unmodelled = self.on_unmodelled

    # -- the bus

    def read(self, offset: int) -> int:
        """Port 60h: fetch the output buffer. Port 64h: the status."""
        if offset == COMMAND:
            return self.status | (self.ram[0] & _SYS)
        value = self.output
        if self.status & _OBF:
            self.status &= ~int(Status.OBF | Status.AUX | Status.TIMEOUT)
            self.next_byte_at = self.now + BYTE_TIME_NS
            self._drive_irq()
            if self.displaced != _NONE:
                self._put(self.displaced, self.displaced_source, from_device=True)
                self.displaced = _NONE
        return value

    def write(self, offset: int, value: int) -> None:
        """Port 60h: a parameter or a byte for the keyboard. Port 64h: a command."""
        if offset == COMMAND:
            self.status |= int(Status.A2)
            self._command(value)
            return
        self.status &= ~int(Status.A2)
        command, self.awaiting = self.awaiting, 0
        if command:
            self._take_parameter(command, value)
        else:
            self.ram[0] &= ~_DISABLE  # sending to the keyboard enables its interface
            self.keyboard.write(value)
        self._fill()

    # -- time

    def advance(self, now: int) -> None:
        """Virtual time is `now` nanoseconds."""
        self.now = now
        self._fill()

    def next_deadline(self) -> int | None:
        """When the next byte of a device arrives by itself."""
        waits = (self._is_open(_DISABLE) and self.keyboard.has_data()) or (
            self._is_open(_DISABLE_AUX) and self.mouse.has_data()
        )
        return self.next_byte_at if waits else None

    # -- state

    def save(self) -> dict[str, Any]:
        """The state of all three chips as JSON-able values."""
        return save_fields(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `save` gave."""
        load_fields(self, state)

    # -- the output buffer

    def _is_open(self, disable: int) -> bool:
        return not (self.status & _OBF or self.ram[0] & disable)

    def _fill(self) -> None:
        """Take the next byte from the keyboard, or else from the mouse, if one may arrive now."""
        while self._is_open(_DISABLE) and self.now >= self.next_byte_at:
            byte = self.keyboard.take()
            if byte is None:
                break
            shown: int | None = byte
            if self.ram[0] & _XLAT:
                shown, self.after_break = translate(byte, self.after_break)
            if shown is not None:
                self._put(shown, from_device=True)
        if self._is_open(_DISABLE_AUX) and self.now >= self.next_byte_at and (byte := self.mouse.take()) is not None:
            self._put(byte, _AUX, from_device=True)

    def _put(self, value: int, source: int = 0, *, from_device: bool = False) -> None:
        """Fill the output buffer; `source` are status bits that go with the byte."""
        self.output = value
        self.from_device = from_device
        self.status = self.status & ~int(Status.AUX | Status.TIMEOUT) | _OBF | source
        self._drive_irq()

    def _answer(self, value: int, source: int = 0) -> None:
        """An answer of the controller: in front of a device's byte that waits."""
        if self.status & _OBF and self.from_device:
            self.displaced, self.displaced_source = self.output, self.status & _AUX
        self.status &= ~_OBF
        self._drive_irq()
        self._put(value, source)

    def _drive_irq(self) -> None:
        full, aux = bool(self.status & _OBF), bool(self.status & _AUX)
        level = full and not aux and bool(self.ram[0] & _INT)
        if level != self.irq:
            self.irq = level
            self.on_irq(level)
        level = full and aux and bool(self.ram[0] & _AUX_INT)
        if level != self.aux_irq:
            self.aux_irq = level
            self.on_aux_irq(level)

    # -- commands

    def _command(self, value: int) -> None:
        self.awaiting = 0
        if value in _COMMANDS:
            _COMMANDS[value](self)
        elif value in _TAKES_PARAMETER:
            self.awaiting = value
        elif value & ~_RAM_MASK == Command.READ_RAM:
            self._answer(self.ram[value & _RAM_MASK])
        elif value & ~_RAM_MASK == Command.WRITE_RAM:
            self.awaiting = value
        elif value >= Command.PULSE:
            if not value & _NO_RESET:
                self.on_reset(f"i8042 command {value:02X}h")
        else:
            self.on_unmodelled(f"i8042 command {value:02X}h")
        self._fill()

    def _take_parameter(self, command: int, value: int) -> None:
        if command == Command.WRITE_OUTPUT_PORT:
            self._write_output_port(value)
        elif command == Command.WRITE_KEYBOARD_BUFFER:
            self._answer(value)
        elif command == Command.WRITE_AUX_BUFFER:
            self._answer(value, int(Status.AUX))
        elif command == Command.WRITE_AUX:
            self.mouse.write(value)
        else:
            self._write_ram(command & _RAM_MASK, value)

    def _write_ram(self, address: int, value: int) -> None:
        self.ram[address] = value
        self._drive_irq()

    def _write_output_port(self, value: int) -> None:
        changed = self.output_lines ^ value
        self.output_lines = value & ~int(OutputPort.OBF | OutputPort.AUX_OBF)
        if changed & _A20:
            self.on_a20(bool(value & _A20))
        if not value & _NO_RESET:
            self.output_lines |= _NO_RESET  # the reset that follows ends the pulse
            self.on_reset("i8042 output port")

    def _read_output_port(self) -> None:
        buffer = 0
        if self.status & _OBF:
            buffer = int(OutputPort.AUX_OBF if self.status & int(Status.AUX) else OutputPort.OBF)
        self._answer(self.output_lines | buffer)

    def _set_a20(self, enabled: bool) -> None:
        self._write_output_port(self.output_lines | _A20 if enabled else self.output_lines & ~_A20)

    def _self_test(self) -> None:
        self.ram[0] |= _SYS
        self._answer(TEST_PASSED)

    def _test_inputs(self) -> None:
        """T0 is the keyboard's clock line, held low while its interface is disabled; T1 its data line."""
        self._answer(0b10 if self.ram[0] & _DISABLE else 0b11)

    def _disable_keyboard(self) -> None:
        self.ram[0] |= _DISABLE

    def _enable_keyboard(self) -> None:
        self.ram[0] &= ~_DISABLE

    def _disable_aux(self) -> None:
        self.ram[0] |= _DISABLE_AUX

    def _enable_aux(self) -> None:
        self.ram[0] &= ~_DISABLE_AUX


_TAKES_PARAMETER: Final = frozenset(
    {Command.WRITE_OUTPUT_PORT, Command.WRITE_KEYBOARD_BUFFER, Command.WRITE_AUX_BUFFER, Command.WRITE_AUX}
)
_COMMANDS: Final[Mapping[int, Callable[[I8042], None]]] = {
    Command.TEST_PASSWORD: lambda chip: chip._answer(NO_PASSWORD),
    Command.DISABLE_AUX: I8042._disable_aux,
    Command.ENABLE_AUX: I8042._enable_aux,
    Command.TEST_AUX: lambda chip: chip._answer(LINE_PASSED),
    Command.SELF_TEST: I8042._self_test,
    Command.TEST_KEYBOARD: lambda chip: chip._answer(LINE_PASSED),
    Command.DISABLE_KEYBOARD: I8042._disable_keyboard,
    Command.ENABLE_KEYBOARD: I8042._enable_keyboard,
    Command.READ_INPUT_PORT: lambda chip: chip._answer(
        int(InputPort.UNLOCKED | InputPort.NO_JUMPER | InputPort.RAM_256K)
    ),
    Command.READ_OUTPUT_PORT: I8042._read_output_port,
    Command.A20_OFF: lambda chip: chip._set_a20(False),
    Command.A20_ON: lambda chip: chip._set_a20(True),
    Command.READ_TEST_INPUTS: I8042._test_inputs,
}
