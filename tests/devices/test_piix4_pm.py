"""82371AB function 3: ACPI's fixed registers, the timer, the SCI, power-off, APM ports."""

import json

import pytest

from vmm.devices.pci import Config, Window
from vmm.devices.piix4_pm import TIMER_HZ, Piix4Pm, PmConfig, PmIo, time_of

PMBA = 0x600
SCI_EN, SUS_EN = 1 << 0, 1 << 13
TMROF, GBL, PWRBTN, RSM = 1 << 0, 1 << 5, 1 << 8, 1 << 15
MSB = 1 << 23


class World:
    """One chip, and what it told the board."""

    def __init__(self):
        self.places, self.sci, self.off, self.notes, self.resets = [], [], [], [], []
        self.pm = Piix4Pm(
            on_sci=self.sci.append,
            on_power_off=lambda: self.off.append(True),
            on_reset=self.resets.append,
            on_unmodelled=self.notes.append,
            io=Window(self.places.append),
        )


@pytest.fixture
def world():
    return World()


@pytest.fixture
def pm(world):
    return world.pm


def listen(pm, *events):
    """SCI on, for these events."""
    pm.write_io(PmIo.PMEN, 2, sum(events))
    pm.write_io(PmIo.PMCNTRL, 2, SCI_EN)


@pytest.mark.parametrize(
    ("offset", "width", "value"),
    [
        (Config.VENDOR, 4, 0x7113_8086),
        (Config.STATUS, 2, 0x0280),
        (Config.CLASS_CODE, 2, 0x8000),
        (Config.CLASS_CODE + 2, 1, 0x06),
        (Config.INTERRUPT_PIN, 1, 1),
        (PmConfig.PMBA, 4, 0x0000_0001),
        (PmConfig.PMREGMISC, 1, 0),
    ],
)
def test_configuration_at_power_on(pm, offset, width, value):
    assert pm.read(offset, width) == value


def test_firmware_finds_smm_set_up(pm):
    assert pm.read(PmConfig.DEVACTB, 4) & 1 << 25


def test_pmba_has_64_ports_and_a_fixed_low_bit(pm):
    pm.write(PmConfig.PMBA, 4, 0xFFFF_FFFF)
    assert pm.read(PmConfig.PMBA, 4) == 0xFFC1


def test_the_ports_are_where_pmba_says_once_pmregmisc_lets_them(world):
    world.pm.write(PmConfig.PMBA, 4, PMBA | 1)
    assert world.places == []
    world.pm.write(PmConfig.PMREGMISC, 1, 1)
    world.pm.write(PmConfig.PMBA, 4, 0xB000)
    world.pm.write(PmConfig.PMREGMISC, 1, 0)
    assert world.places == [PMBA, 0xB000, None]


def test_ports_at_zero_are_nowhere(world):
    world.pm.write(PmConfig.PMREGMISC, 1, 1)
    assert world.places == []


@pytest.mark.parametrize(
    ("offset", "width", "written", "read"),
    [
        (PmIo.PMSTS, 2, 0xFFFF, 0),
        (PmIo.PMEN, 2, 0xFFFF, 0x0521),
        (PmIo.PMCNTRL, 2, 0xDFFF, 0x1C03),
        (PmIo.PMCNTRL, 2, SUS_EN | 0x1400, 0x1400),
        (PmIo.PMTMR, 4, 0x1234, 0),
        (PmIo.GPSTS, 4, 0xFFFF_FFFF, 0x0F01_0000),
        (PmIo.GPOREG, 4, 0x1234_5678, 0x1234_5678),
        (0x3E, 4, 0, 0xFFFF_0000),
    ],
)
def test_register_reads_back(pm, offset, width, written, read):
    pm.write_io(offset, width, written)
    assert pm.read_io(offset, width) == read


def test_registers_answer_in_any_width(pm):
    pm.write_io(PmIo.PMSTS, 4, 0x0121_0000)
    assert [pm.read_io(0, 4), pm.read_io(2, 2), pm.read_io(3, 1)] == [0x0121_0000, 0x0121, 0x01]


@pytest.mark.parametrize("tick", [0, 1, TIMER_HZ, (1 << 24) - 1, 1 << 24, 5 << 24 | 0xABCDEF])
def test_the_timer_counts_24_bits_at_3_579545_mhz(pm, tick):
    pm.advance(time_of(tick))
    assert pm.read_io(PmIo.PMTMR, 4) == tick & 0xFF_FFFF


@pytest.mark.parametrize(("tick", "status"), [(MSB - 1, 0), (MSB, TMROF), (2 * MSB, TMROF)])
def test_the_carry_is_a_change_of_the_top_bit(pm, tick, status):
    pm.advance(time_of(tick))
    assert pm.read_io(PmIo.PMSTS, 2) == status


def test_the_carry_can_be_cleared_and_comes_again(pm):
    pm.advance(time_of(MSB))
    pm.write_io(PmIo.PMSTS, 2, TMROF)
    assert pm.read_io(PmIo.PMSTS, 2) == 0
    pm.advance(time_of(2 * MSB))
    assert pm.read_io(PmIo.PMSTS, 2) == TMROF


def test_a_deadline_only_while_the_carry_would_interrupt(pm):
    assert pm.next_deadline() is None
    listen(pm, TMROF)
    pm.advance(1000)
    assert pm.next_deadline() == time_of(MSB)
    pm.advance(time_of(MSB))
    assert pm.next_deadline() is None
    pm.write_io(PmIo.PMSTS, 2, TMROF)
    assert pm.next_deadline() == time_of(2 * MSB)


def test_the_sci_follows_status_and_enable(world):
    listen(world.pm, PWRBTN)
    world.pm.press_power_button()
    world.pm.write_io(PmIo.PMSTS, 2, PWRBTN)
    world.pm.press_power_button()
    world.pm.write_io(PmIo.PMEN, 2, 0)
    assert world.sci == [True, False, True, False]


def test_no_sci_outside_acpi_mode(world):
    world.pm.write_io(PmIo.PMEN, 2, PWRBTN)
    world.pm.press_power_button()
    assert world.sci == []
    assert world.pm.read_io(PmIo.PMSTS, 2) == PWRBTN


@pytest.mark.parametrize(("command", "control"), [(0xF1, SCI_EN), (0xF0, 0), (0x55, 0)])
def test_the_acpi_commands_work_without_smm(pm, command, control):
    pm.write_apm(0, command)
    assert (pm.read_io(PmIo.PMCNTRL, 2), pm.read_apm(0)) == (control, command)


def test_apm_status_is_memory(pm):
    pm.write_apm(1, 0x5A)
    assert pm.read_apm(1) == 0x5A


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param([(PmIo.PMCNTRL, 2, SUS_EN | SCI_EN)], id="word"),
        pytest.param([(PmIo.PMCNTRL, 4, SUS_EN)], id="doubleword"),
        pytest.param([(PmIo.PMCNTRL + 1, 1, SUS_EN >> 8)], id="high_byte"),
        pytest.param([(PmIo.PMEN, 4, SUS_EN << 16)], id="across"),
    ],
)
def test_soft_off_is_sus_en_with_type_0(world, writes):
    for write in writes:
        world.pm.write_io(*write)
    assert world.off == [True]


@pytest.mark.parametrize("value", [SCI_EN, 0x1400, SUS_EN | 0x1400, 0x20])
def test_the_machine_stays_on(world, value):
    world.pm.write_io(PmIo.PMCNTRL, 2, value)
    assert (world.off, world.notes) == ([], [])


def test_another_sleep_state_wakes_at_once(world):
    world.pm.write_io(PmIo.PMCNTRL, 2, SUS_EN | 2 << 10)
    assert (world.off, world.resets) == ([], [])
    assert len(world.notes) == 1
    assert world.pm.read_io(PmIo.PMSTS, 2) == RSM


def test_suspend_to_ram_ends_in_a_reset_that_firmware_can_tell(world):
    """PIIX4 data sheet, "Suspend and Resume": PMSTS and SUS_TYP are in the resume well."""
    world.pm.write_io(PmIo.PMEN, 2, PWRBTN)
    world.pm.write_io(PmIo.PMCNTRL, 2, SUS_EN | SCI_EN | 1 << 10)
    assert (len(world.resets), world.off, world.notes) == (1, [], [])
    world.pm.reset()
    assert [world.pm.read_io(at, 2) for at in (PmIo.PMSTS, PmIo.PMEN, PmIo.PMCNTRL)] == [RSM, 0, 1 << 10]
    world.pm.reset()
    assert [world.pm.read_io(at, 2) for at in (PmIo.PMSTS, PmIo.PMCNTRL)] == [0, 0]


def test_reset_forgets_all_but_time(world):
    listen(world.pm, PWRBTN, GBL)
    world.pm.write(PmConfig.PMBA, 4, PMBA)
    world.pm.write(PmConfig.PMREGMISC, 1, 1)
    world.pm.advance(time_of(100))
    world.pm.press_power_button()
    world.pm.reset()
    assert world.sci == [True, False]
    assert world.places == [PMBA, None]
    assert [world.pm.read_io(at, 4) for at in (0, PmIo.PMCNTRL, PmIo.PMTMR)] == [0, 0, 100]


def test_a_saved_chip_comes_back_where_it_was(world):
    listen(world.pm, PWRBTN)
    world.pm.write(PmConfig.PMBA, 4, PMBA)
    world.pm.write(PmConfig.PMREGMISC, 1, 1)
    world.pm.advance(time_of(5 * MSB))
    world.pm.press_power_button()
    other = World()
    other.pm.load(json.loads(json.dumps(world.pm.save())))
    assert other.pm == world.pm
    assert other.places == [PMBA]
