"""POST codes, the debug console and the exit port."""

import pytest

from vmm.devices.debug_ports import DebugConsole, ExitPort, PostPort


def test_the_post_port_reads_back_the_last_code_and_tells_each():
    codes = []
    port = PostPort(codes.append)
    port.write(0, 0x11)
    port.write(0, 0x22)
    assert (port.read(0), codes) == (0x22, [0x11, 0x22])
    other = PostPort(pytest.fail)
    other.load(port.save())
    assert other.read(0) == 0x22


def test_the_debug_console_sends_bytes_and_reads_as_e9():
    out = bytearray()
    port = DebugConsole(out.append)
    for byte in b"hi":
        port.write(0, byte)
    assert (bytes(out), port.read(0), port.save()) == (b"hi", 0xE9, {})
    port.load({})


def test_the_exit_port_hands_on_the_value():
    values = []
    port = ExitPort(values.append)
    port.write(0, 0x2A)
    assert (values, port.read(0), port.save()) == ([0x2A], 0xFF, {})
    port.load({})
