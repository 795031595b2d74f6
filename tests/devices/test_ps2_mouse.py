"""The mouse, against "Mouse" of the PS/2 Technical Reference."""

import json

import pytest

from vmm.devices.ps2_mouse import Ps2Mouse


def say(mouse: Ps2Mouse, text: str) -> str:
    """Send bytes, and return all that comes back for them."""
    heard = []
    for value in bytes.fromhex(text):
        mouse.write(value)
        while mouse.has_data():
            heard.append(mouse.take() or 0)
    assert mouse.take() is None
    return bytes(heard).hex(" ")


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        pytest.param("ff", "fa aa 00", id="reset"),
        pytest.param("f2", "fa 00", id="identify"),
        pytest.param("e9", "fa 00 02 64", id="status_at_power_on"),
        pytest.param("f4 e9", "fa fa 20 02 64", id="enabled"),
        pytest.param("f4 f5 e9", "fa fa fa 00 02 64", id="disabled"),
        pytest.param("e7 e9", "fa fa 10 02 64", id="scaling"),
        pytest.param("e7 e6 e9", "fa fa fa 00 02 64", id="no_scaling"),
        pytest.param("f0 e9", "fa fa 40 02 64", id="remote"),
        pytest.param("f0 ea e9", "fa fa fa 00 02 64", id="stream"),
        pytest.param("e8 03 f3 c8 e9", "fa fa fa fa fa 00 03 c8", id="resolution_and_rate"),
        pytest.param("e8 03 f4 f6 e9", "fa fa fa fa fa 00 02 64", id="defaults"),
        pytest.param("eb", "fa 08 00 00", id="a_packet_of_a_mouse_that_lies_still"),
        pytest.param("ee f2 55 ec f2", "fa f2 55 fa fa 00", id="wrap_echoes_until_it_is_reset"),
        pytest.param("ee ff f2", "fa fa aa 00 fa 00", id="reset_ends_wrap"),
        pytest.param("f2 fe", "fa 00 00", id="resend"),
        pytest.param("00", "fe", id="an_invalid_command_is_to_be_sent_again"),
        pytest.param("00 00", "fe fc", id="and_the_second_is_an_error"),
        pytest.param("f3 0b 64 e9", "fa fe fa fa 00 02 64", id="so_is_an_invalid_rate"),
        pytest.param("e8 04 04 f2", "fa fe fc fa 00", id="twice_ends_the_command"),
    ],
)
def test_answers(sent: str, heard: str) -> None:
    assert say(Ps2Mouse(), sent) == heard


def test_a_new_command_drops_what_was_not_fetched() -> None:
    mouse = Ps2Mouse()
    mouse.write(0xFF)
    assert mouse.take() == 0xFA
    assert say(mouse, "f2") == "fa 00"


def test_its_state_comes_back() -> None:
    mouse, other = Ps2Mouse(), Ps2Mouse()
    say(mouse, "e8 01 f4")
    mouse.write(0xF3)
    other.load(json.loads(json.dumps(mouse.save())))
    assert other == mouse
    assert say(other, "0a e9") == "fa fa 20 01 0a"
