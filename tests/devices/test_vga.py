"""VGA registers, against the "Video Subsystem" chapter of the IBM PS/2 Hardware Interface Technical Reference."""

import json

import pytest
from vga_modes import MODES, get_indexed, inb, outb, set_attribute, set_dac, set_indexed, set_mode

from vmm.devices.vga import Vga
from vmm.devices.vga_mode import TEXT_TIMING, Kind, video_mode

NOT_DISPLAYING, V_RETRACE = 0x01, 0x08


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def vga(reports: list[str]) -> Vga:
    chip = Vga(reports.append)
    outb(chip, 0x3C2, 0x67)
    return chip


@pytest.mark.parametrize("number", MODES)
def test_every_register_of_a_mode_reads_back(vga: Vga, number: int) -> None:
    set_mode(vga, number)
    mode = MODES[number]
    assert inb(vga, 0x3CC) == mode.misc
    assert bytes(get_indexed(vga, 0x3C4, i) for i in range(5)) == mode.sequencer
    assert bytes(get_indexed(vga, 0x3D4, i) for i in range(25)) == mode.crtc
    assert bytes(get_indexed(vga, 0x3CE, i) for i in range(9)) == mode.graphics
    read_attributes = []
    for index in range(21):
        inb(vga, 0x3DA)
        outb(vga, 0x3C0, index)
        read_attributes.append(inb(vga, 0x3C1))
    assert bytes(read_attributes) == mode.attribute


@pytest.mark.parametrize(
    ("port", "index", "written", "read"),
    [
        pytest.param(0x3C4, 1, 0xFF, 0x3D, id="clocking_mode"),
        pytest.param(0x3C4, 2, 0xFF, 0x0F, id="map_mask"),
        pytest.param(0x3C4, 5, 0xFF, 0x00, id="no_sequencer_5"),
        pytest.param(0x3CE, 4, 0xFF, 0x03, id="read_map_select"),
        pytest.param(0x3CE, 9, 0xFF, 0x00, id="no_graphics_9"),
        pytest.param(0x3D4, 0x0A, 0xFF, 0x3F, id="cursor_start"),
        pytest.param(0x3D4, 0x19, 0xFF, 0x00, id="no_crtc_19h"),
    ],
)
def test_reserved_bits_read_as_zero(vga: Vga, port: int, index: int, written: int, read: int) -> None:
    set_indexed(vga, port, index, written)
    assert get_indexed(vga, port, index) == read
    assert inb(vga, port) == index


def test_ios_moves_the_crt_controller_and_status_1(vga: Vga) -> None:
    assert inb(vga, 0x3B4) == inb(vga, 0x3B5) == inb(vga, 0x3BA) == 0xFF
    outb(vga, 0x3C2, 0x66)
    set_indexed(vga, 0x3B4, 0x0F, 0x5A)
    outb(vga, 0x3D4, 0)  # nobody
    assert get_indexed(vga, 0x3B4, 0x0F) == 0x5A
    assert inb(vga, 0x3D4) == inb(vga, 0x3D5) == inb(vga, 0x3DA) == 0xFF
    assert inb(vga, 0x3BA) != 0xFF


def test_ports_that_no_register_answers_read_as_ones(vga: Vga) -> None:
    outb(vga, 0x3CB, 1)
    assert [inb(vga, port) for port in (0x3B0, 0x3BC, 0x3CB, 0x3CD, 0x3D0, 0x3DF)] == [0xFF] * 6


def test_protect_locks_crtc_0_to_7_but_for_line_compare(vga: Vga) -> None:
    set_mode(vga, 0x03)  # register 11h is 8Eh
    for index in range(8):
        set_indexed(vga, 0x3D4, index, 0x00)
    assert bytes(get_indexed(vga, 0x3D4, i) for i in range(7)) == MODES[3].crtc[:7]
    assert get_indexed(vga, 0x3D4, 7) == 0x0F
    set_indexed(vga, 0x3D4, 0x11, 0x0E)
    set_indexed(vga, 0x3D4, 0, 0x12)
    assert get_indexed(vga, 0x3D4, 0) == 0x12


def test_attribute_port_alternates_and_status_1_resets_it(vga: Vga) -> None:
    inb(vga, 0x3DA)
    outb(vga, 0x3C0, 0x03)
    outb(vga, 0x3C0, 0x2A)
    outb(vga, 0x3C0, 0x04)
    inb(vga, 0x3DA)  # the value for 4 never comes
    outb(vga, 0x3C0, 0x03)
    assert inb(vga, 0x3C0) == 0x03
    assert inb(vga, 0x3C1) == 0x2A
    outb(vga, 0x3C0, 0x15)
    outb(vga, 0x3C0, 0x23)
    assert inb(vga, 0x3C0) == 0x23
    assert inb(vga, 0x3C1) == 0x15


def test_feature_control_is_written_at_3dah_and_read_at_3cah(vga: Vga) -> None:
    outb(vga, 0x3DA, 0x02)
    assert inb(vga, 0x3CA) == 0x02


def test_input_status_0_senses_a_monitor(vga: Vga) -> None:
    assert inb(vga, 0x3C2) == 0x10


def test_dac_entry_changes_with_its_third_component_and_moves_on(vga: Vga) -> None:
    set_dac(vga, 5, (1, 2, 3), (0xFF, 0x40, 0x3F))
    outb(vga, 0x3C9, 9)  # entry 7: red alone
    outb(vga, 0x3C7, 5)
    assert [inb(vga, 0x3C9) for _ in range(9)] == [1, 2, 3, 0x3F, 0, 0x3F, 0, 0, 0]


def test_dac_state_tells_which_index_was_written(vga: Vga) -> None:
    outb(vga, 0x3C7, 9)
    assert inb(vga, 0x3C7) == 3
    outb(vga, 0x3C8, 9)
    assert inb(vga, 0x3C7) == 0
    assert inb(vga, 0x3C8) == 9


def test_dac_index_wraps_after_the_last_entry(vga: Vga) -> None:
    set_dac(vga, 255, (1, 2, 3), (4, 5, 6))
    outb(vga, 0x3C7, 255)
    assert [inb(vga, 0x3C9) for _ in range(6)] == [1, 2, 3, 4, 5, 6]


def test_pel_mask_selects_colours(vga: Vga) -> None:
    set_dac(vga, 0, (0, 0, 0), (63, 0, 1))
    outb(vga, 0x3C6, 0x0F)
    assert inb(vga, 0x3C6) == 0x0F
    assert vga.regs.colour(0xF1) == (255, 0, 4)


@pytest.mark.parametrize(
    ("number", "hertz"), [(0x03, 70.1), (0x01, 70.1), (0x13, 70.1), (0x04, 70.1), (0x06, 70.1), (0x12, 59.9)]
)
def test_refresh_follows_from_the_registers(vga: Vga, number: int, hertz: float) -> None:
    set_mode(vga, number)
    assert vga.timing().refresh_hz() == pytest.approx(hertz, abs=0.1)


def test_registers_without_sense_leave_the_text_timing(vga: Vga) -> None:
    assert vga.timing() == TEXT_TIMING


def test_mode_3_timing_is_the_text_timing(vga: Vga) -> None:
    set_mode(vga, 0x03)
    assert vga.timing() == TEXT_TIMING


@pytest.mark.parametrize(
    ("line", "column", "status"),
    [
        pytest.param(0, 10, 0, id="picture"),
        pytest.param(0, 730, NOT_DISPLAYING, id="right_border"),
        pytest.param(399, 10, 0, id="last_line"),
        pytest.param(400, 10, NOT_DISPLAYING, id="below_the_picture"),
        pytest.param(412, 10, NOT_DISPLAYING | V_RETRACE, id="retrace_starts"),
        pytest.param(413, 890, NOT_DISPLAYING | V_RETRACE, id="retrace_lasts_two_lines"),
        pytest.param(414, 10, NOT_DISPLAYING, id="retrace_over"),
    ],
)
def test_status_1_follows_the_beam(vga: Vga, line: int, column: int, status: int) -> None:
    set_mode(vga, 0x03)
    frame_ns = 449 * 900 * 10**9 / 28_322_000
    for frame in (0, 1, 1000):
        vga.advance(int(frame * frame_ns + (line * 900 + column) * 10**9 / 28_322_000))
        assert inb(vga, 0x3DA) == status


def test_retrace_is_seen_by_a_program_that_polls(vga: Vga) -> None:
    set_mode(vga, 0x03)
    edges, before = 0, 0
    for now in range(0, 10**9, 30_000):
        vga.advance(now)
        status = inb(vga, 0x3DA) & V_RETRACE
        edges += status and not before
        before = status
    assert edges == 70


@pytest.mark.parametrize(
    ("number", "kind", "size"),
    [
        (0x03, Kind.TEXT, (80, 25)),
        (0x01, Kind.TEXT, (40, 25)),
        (0x04, Kind.CGA_4, (320, 200)),
        (0x06, Kind.CGA_2, (640, 200)),
        (0x12, Kind.PLANAR, (640, 480)),
        (0x13, Kind.COLOURS_256, (320, 200)),
    ],
)
def test_mode_follows_from_the_registers(vga: Vga, number: int, kind: Kind, size: tuple[int, int]) -> None:
    set_mode(vga, number)
    mode = video_mode(vga.regs)
    assert (mode.kind, mode.width, mode.height) == (kind, *size)


def test_a_planar_mode_is_reported_once_and_only_when_the_screen_is_on(vga: Vga, reports: list[str]) -> None:
    for number in (0x03, 0x13, 0x04, 0x06):
        set_mode(vga, number)
    assert reports == []
    set_mode(vga, 0x12)
    set_mode(vga, 0x12)
    assert reports == ["VGA planar mode, 640x480"]


def test_unchaining_mode_13h_is_reported(vga: Vga, reports: list[str]) -> None:
    set_mode(vga, 0x13)
    set_indexed(vga, 0x3C4, 4, 0x06)
    assert reports == ["VGA 256 colours, unchained mode, 320x200"]


def test_a_font_upload_is_reported(vga: Vga, reports: list[str]) -> None:
    set_mode(vga, 0x03)
    set_indexed(vga, 0x3C4, 2, 0x04)
    set_indexed(vga, 0x3C4, 4, 0x06)
    assert reports == ["VGA font upload"]


def test_screen_is_dark_without_pas_or_with_screen_off(vga: Vga) -> None:
    assert vga.regs.is_blanked()
    set_mode(vga, 0x03)
    assert not vga.regs.is_blanked()
    set_indexed(vga, 0x3C4, 1, 0x20)
    assert vga.regs.is_blanked()


def test_colour_select_replaces_the_high_bits_of_the_palette(vga: Vga) -> None:
    set_mode(vga, 0x03)
    assert vga.regs.attribute_colour(6) == vga.regs.colour(0x14)
    set_attribute(vga, 0x14, 0x0B)
    assert vga.regs.attribute_colour(6) == vga.regs.colour(0x94)
    set_attribute(vga, 0x10, 0x8C)
    assert vga.regs.attribute_colour(6) == vga.regs.colour(0xB4)


def test_state_survives_save_and_load(vga: Vga) -> None:
    set_mode(vga, 0x12)
    outb(vga, 0x3C8, 7)
    outb(vga, 0x3C9, 33)
    outb(vga, 0x3C0, 5)
    vga.advance(123_456)
    state = json.loads(json.dumps(vga.save()))
    other = Vga(lambda _: None)
    assert other.timing() == TEXT_TIMING
    other.load(state)
    assert other == vga
    assert other.timing() == vga.timing() != TEXT_TIMING
    outb(other, 0x3C9, 1)
    outb(other, 0x3C9, 2)
    assert other.regs.dac[21:24] == bytes([33, 1, 2])
