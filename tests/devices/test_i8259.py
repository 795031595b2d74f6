"""The 8259A against its data sheet, and the PC/AT pair."""

import json

import pytest

from vmm.devices.i8259 import I8259, DualPic

EOI, POLL, READ_IRR, READ_ISR, SMM_ON, SMM_OFF = 0x20, 0x0C, 0x0A, 0x0B, 0x68, 0x48
EDGE, LEVEL = 0x13, 0x1B  # ICW1: single, ICW4 follows


def chip(icw1=EDGE, icw4=0x01, base=0x20, log=None):
    log = [] if log is None else log
    pic = I8259(on_intr=log.append, on_unmodelled=lambda text: pytest.fail(text))
    pic.write(0, icw1)
    pic.write(1, base)
    pic.write(1, icw4)
    return pic


def pulse(pic, line):
    """A rising edge, the line staying high."""
    pic.set_line(line, False)
    pic.set_line(line, True)


def read_isr(pic):
    pic.write(0, READ_ISR)
    return pic.read(0)


def read_irr(pic):
    pic.write(0, READ_IRR)
    return pic.read(0)


# Initialization


def test_an_uninitialized_chip_keeps_quiet():
    log = []
    pic = I8259(log.append, log.append)
    for line in range(8):
        pic.set_line(line, True)
    assert log == []


def test_no_interrupt_between_icw1_and_the_last_icw():
    log = []
    pic = I8259(log.append, log.append)
    for offset, value in ((0, 0x11), (1, 0x08), (1, 0x04)):
        pic.write(offset, value)
        pulse(pic, 0)
    assert log == []
    pic.write(1, 0x01)
    assert log == [True]


@pytest.mark.parametrize(
    ("icws", "icw3"),
    [
        pytest.param((0x11, 0x40, 0x04, 0x01), 4, id="cascade_with_icw4"),
        pytest.param((0x13, 0x40, 0x01), 7, id="single_with_icw4"),
    ],
)
def test_the_word_after_the_last_icw_is_ocw1(icws, icw3):
    pic = I8259(lambda level: None, pytest.fail)
    pic.write(0, icws[0])
    for word in (*icws[1:], 0xA5):
        pic.write(1, word)
    assert (pic.read(1), pic.icw3, pic.vector_base) == (0xA5, icw3, 0x40)


@pytest.mark.parametrize(("icws"), [(0x10, 0x40, 0x04), (0x12, 0x40)], ids=["cascade", "single"])
def test_without_icw4_the_chip_is_in_mcs80_mode_and_says_so(icws):
    said = []
    pic = I8259(lambda level: None, said.append)
    for offset, word in zip((0, 1, 1), icws, strict=False):
        pic.write(offset, word)
    assert len(said) == 1
    assert "MCS-80" in said[0]
    pulse(pic, 3)
    assert pic.acknowledge() == 0x43


def test_icw1_clears_mask_edges_service_priority_special_mask_and_status_read():
    pic = chip()
    pulse(pic, 1)
    pic.acknowledge()
    pulse(pic, 3)
    for value in (0xC3, SMM_ON, READ_ISR):
        pic.write(0, value)
    pic.write(1, 0xF0)
    pic.write(0, EDGE)
    assert (pic.imr, pic.edges, pic.isr, pic.lowest, pic.special_mask, pic.read_isr) == (0, 0, 0, 7, False, False)
    pic.write(1, 0x20)
    pic.write(1, 0x01)
    assert not pic.intr  # IR3 is still high, but needs a new edge


@pytest.mark.parametrize("line", range(8))
def test_the_vector_is_the_base_and_the_line(line):
    pic = chip(base=0x77)
    pulse(pic, line)
    assert pic.acknowledge() == 0x70 + line


# Fully nested mode


def test_ir0_wins_and_lower_lines_wait_for_eoi():
    log = []
    pic = chip(log=log)
    pulse(pic, 5)
    pulse(pic, 2)
    assert pic.acknowledge() == 0x22
    assert not pic.intr
    assert (read_isr(pic), read_irr(pic)) == (0x04, 0x20)
    pic.write(0, EOI)
    assert pic.intr
    assert pic.acknowledge() == 0x25
    assert log == [True, False, True, False]


def test_a_higher_line_nests():
    pic = chip()
    pulse(pic, 4)
    pic.acknowledge()
    pulse(pic, 1)
    assert pic.acknowledge() == 0x21
    assert read_isr(pic) == 0x12
    pic.write(0, EOI)  # the non-specific EOI ends the highest in service
    assert read_isr(pic) == 0x10


def test_the_same_line_waits_for_its_eoi():
    pic = chip()
    pulse(pic, 4)
    pic.acknowledge()
    pulse(pic, 4)
    assert not pic.intr
    pic.write(0, EOI)
    assert pic.intr


def test_the_mask_holds_a_request_back_without_losing_it():
    pic = chip()
    pic.write(1, 0x08)
    pulse(pic, 3)
    assert not pic.intr
    assert read_irr(pic) == 0x08
    pic.write(1, 0x00)
    assert pic.acknowledge() == 0x23


def test_specific_eoi_ends_the_named_line_only():
    pic = chip()
    for line in (4, 1):
        pulse(pic, line)
        pic.acknowledge()
    pic.write(0, 0x60 | 4)
    assert read_isr(pic) == 0x02


@pytest.mark.parametrize("eoi", [0x20, 0x60, 0xA0, 0xE0 | 3])
def test_eoi_with_nothing_in_service_is_harmless(eoi):
    pic = chip()
    pic.write(0, eoi)
    assert read_isr(pic) == 0


# Edge and level triggering


def test_an_edge_line_held_high_requests_once():
    pic = chip()
    pulse(pic, 1)
    pic.acknowledge()
    pic.write(0, EOI)
    assert not pic.intr
    pulse(pic, 1)
    assert pic.intr


@pytest.mark.parametrize("icw1", [EDGE, LEVEL], ids=["edge", "level"])
def test_a_request_that_vanishes_is_the_default_ir7(icw1):
    pic = chip(icw1)
    pulse(pic, 2)
    pic.set_line(2, False)
    assert not pic.intr
    assert pic.acknowledge() == 0x27
    assert read_isr(pic) == 0


def test_a_held_line_keeps_its_edge_when_it_falls():
    pic = I8259(lambda level: None, pytest.fail, hold=1)
    for offset, value in ((0, EDGE), (1, 0x20), (1, 1)):
        pic.write(offset, value)
    pulse(pic, 0)
    pic.set_line(0, False)
    assert pic.acknowledge() == 0x20
    assert not pic.intr


@pytest.mark.parametrize("by", ["ltim", "elcr"])
def test_a_level_line_requests_again_until_it_falls(by):
    pic = chip(LEVEL if by == "ltim" else EDGE)
    pic.set_elcr(0 if by == "ltim" else 0x20)
    pic.set_line(5, True)
    assert pic.acknowledge() == 0x25
    assert not pic.intr
    pic.write(0, EOI)
    assert pic.acknowledge() == 0x25
    pic.set_line(5, False)
    pic.write(0, EOI)
    assert not pic.intr


def test_elcr_leaves_other_lines_edge_triggered():
    pic = chip()
    pic.set_elcr(0x20)
    pic.set_line(4, True)
    pic.acknowledge()
    pic.write(0, EOI)
    assert not pic.intr


# Rotation


@pytest.mark.parametrize(
    ("command", "isr_after", "lowest"),
    [
        pytest.param(0xA0, 0x10, 2, id="rotate_on_non_specific_eoi"),
        pytest.param(0xE0 | 4, 0x04, 4, id="rotate_on_specific_eoi"),
        pytest.param(0xC0 | 6, 0x14, 6, id="set_priority_ends_nothing"),
        pytest.param(0x40, 0x14, 7, id="no_operation"),
    ],
)
def test_ocw2_rotation(command, isr_after, lowest):
    pic = chip()
    for line in (4, 2):
        pulse(pic, line)
        pic.acknowledge()
    pic.write(0, command)
    assert (read_isr(pic), pic.lowest) == (isr_after, lowest)


def test_set_priority_makes_the_next_line_the_highest():
    pic = chip()
    pic.write(0, 0xC0 | 4)
    for line in (0, 4, 5, 7):
        pulse(pic, line)
    order = []
    while pic.intr:
        order.append(pic.acknowledge() - 0x20)
        pic.write(0, EOI)
    assert order == [5, 7, 0, 4]


def test_nesting_follows_the_rotated_priority():
    pic = chip()
    pic.write(0, 0xC0 | 4)
    pulse(pic, 0)
    pic.acknowledge()
    pulse(pic, 4)
    assert not pic.intr
    pulse(pic, 6)
    assert pic.intr


# Automatic EOI


def test_automatic_eoi_leaves_nothing_in_service():
    pic = chip(icw4=0x03)
    pulse(pic, 3)
    pulse(pic, 6)
    assert pic.acknowledge() == 0x23
    assert read_isr(pic) == 0
    assert pic.acknowledge() == 0x26


@pytest.mark.parametrize(("command", "lowest"), [(0x80, 3), (0x00, 7)], ids=["set", "clear"])
def test_rotation_in_automatic_eoi_mode(command, lowest):
    pic = chip(icw4=0x03)
    pic.write(0, 0x80)
    pic.write(0, command)
    pulse(pic, 3)
    pic.acknowledge()
    assert pic.lowest == lowest


# Special mask mode, poll, status


def test_special_mask_mode_lets_lower_lines_through_a_masked_one_in_service():
    pic = chip()
    pulse(pic, 1)
    pic.acknowledge()
    pulse(pic, 5)
    pic.write(1, 0x02)
    assert not pic.intr
    pic.write(0, SMM_ON)
    assert pic.acknowledge() == 0x25
    pic.write(0, EOI)  # a masked line is not cleared by a non-specific EOI in this mode
    assert read_isr(pic) == 0x02
    pic.write(0, 0x60 | 1)
    assert read_isr(pic) == 0
    pic.write(0, SMM_OFF)
    assert not pic.special_mask


@pytest.mark.parametrize("offset", [0, 1])
def test_poll_acknowledges_and_names_the_line(offset):
    pic = chip()
    pulse(pic, 6)
    pulse(pic, 3)
    pic.write(0, POLL)
    assert pic.read(offset) == 0x83
    assert read_isr(pic) == 0x08
    assert pic.read(1) == 0  # one read only


def test_poll_without_a_request_has_bit_7_clear():
    pic = chip()
    pic.write(0, POLL)
    assert pic.read(0) & 0x80 == 0
    assert read_isr(pic) == 0


def test_the_status_choice_lasts():
    pic = chip()
    pulse(pic, 2)
    pic.acknowledge()
    pulse(pic, 7)
    pic.write(0, READ_ISR)
    assert (pic.read(0), pic.read(0)) == (0x04, 0x04)
    pic.write(0, 0x08)  # OCW3 without RR: no change
    assert pic.read(0) == 0x04
    pic.write(0, READ_IRR)
    assert pic.read(0) == 0x80


# The pair


def pair(master_icw4=0x01, slave_icw4=0x01, slave_id=2, log=None):
    pics = DualPic([].append if log is None else log.append, pytest.fail)
    for pic, words in ((pics.master, (0x20, 0x04, master_icw4)), (pics.slave, (0x28, slave_id, slave_icw4))):
        pic.write(0, 0x11)
        for word in words:
            pic.write(1, word)
    return pics


def raise_edge(pics, irq):
    pics.set_line(irq, False)
    pics.set_line(irq, True)


@pytest.mark.parametrize("irq", [0, 1, 3, 7, 8, 9, 15])
def test_each_irq_has_its_vector(irq):
    pics = pair()
    raise_edge(pics, irq)
    assert pics.has_interrupt()
    assert pics.acknowledge() == 0x20 + irq
    assert not pics.has_interrupt()


def test_a_slave_request_is_in_service_in_both():
    pics = pair()
    raise_edge(pics, 14)
    pics.acknowledge()
    assert (pics.master.isr, pics.slave.isr) == (0x04, 0x40)
    raise_edge(pics, 3)
    assert not pics.has_interrupt()
    raise_edge(pics, 1)
    assert pics.has_interrupt()


def test_slave_lines_rank_between_irq1_and_irq3():
    pics = pair()
    for irq in (3, 12, 8, 1):
        raise_edge(pics, irq)
    order = []
    while pics.has_interrupt():
        irq = pics.acknowledge() - 0x20
        order.append(irq)
        if irq >= 8:
            pics.slave.write(0, EOI)
        pics.master.write(0, EOI)
    assert order == [1, 8, 12, 3]


def test_without_special_fully_nested_mode_a_slave_in_service_is_locked_out():
    pics = pair()
    raise_edge(pics, 12)
    pics.acknowledge()
    raise_edge(pics, 8)
    assert not pics.has_interrupt()
    pics.master.write(0, EOI)
    assert pics.acknowledge() == 0x28


def test_special_fully_nested_mode_lets_a_higher_slave_line_through():
    pics = pair(master_icw4=0x11)
    raise_edge(pics, 12)
    pics.acknowledge()
    raise_edge(pics, 14)
    assert not pics.has_interrupt()
    raise_edge(pics, 8)
    assert pics.acknowledge() == 0x28
    assert pics.slave.isr == 0x11


def test_a_slave_in_automatic_eoi_mode_requests_again_at_once():
    pics = pair(master_icw4=0x03, slave_icw4=0x03)
    raise_edge(pics, 8)
    raise_edge(pics, 9)
    assert pics.acknowledge() == 0x28
    assert pics.acknowledge() == 0x29
    assert not pics.has_interrupt()


def test_a_slave_request_masked_before_the_acknowledge_takes_its_master_request_back():
    pics = pair()
    raise_edge(pics, 14)
    pics.slave.write(1, 0x40)
    assert not pics.has_interrupt()


def test_spurious_irq15_leaves_the_master_in_service():
    pics = pair()
    pics.slave.set_line(6, True)
    pics.slave.lines = pics.slave.edges = 0  # the request vanishes after the master has latched it
    assert pics.acknowledge() == 0x2F
    assert (pics.master.isr, pics.slave.isr) == (0x04, 0)


def test_spurious_irq7_leaves_nothing_in_service():
    pics = pair()
    assert pics.acknowledge() == 0x27
    assert (pics.master.isr, pics.slave.isr) == (0, 0)


def test_a_slave_with_another_identity_does_not_answer():
    pics = pair(slave_id=5)
    raise_edge(pics, 9)
    assert pics.acknowledge() == 0xFF


@pytest.mark.parametrize("irq", [2, -1, 16])
def test_the_cascade_input_and_unknown_lines_are_refused(irq):
    with pytest.raises(ValueError, match="IRQ"):
        pair().set_line(irq, True)


def test_the_timer_line_keeps_a_whole_pulse():
    pics = pair()
    pics.set_line(0, True)
    pics.set_line(0, False)
    assert pics.acknowledge() == 0x20


def test_elcr_has_no_bits_for_the_edge_only_lines():
    pics = pair()
    pics.write(0, 0xFF)
    pics.write(1, 0xFF)
    assert (pics.read(0), pics.read(1)) == (0xF8, 0xDE)


def test_elcr_makes_a_slave_line_level_triggered():
    pics = pair()
    pics.write(1, 0x08)
    pics.set_line(11, True)
    assert pics.acknowledge() == 0x2B
    pics.slave.write(0, EOI)
    pics.master.write(0, EOI)
    assert pics.acknowledge() == 0x2B


def test_intr_is_told_at_changes_only():
    log = []
    pics = pair(log=log)
    raise_edge(pics, 3)
    raise_edge(pics, 12)
    raise_edge(pics, 1)
    assert log == [True]


def test_the_pair_round_trips_in_mid_service():
    before, after = pair(), DualPic(pytest.fail, pytest.fail)
    raise_edge(before, 14)
    before.acknowledge()
    raise_edge(before, 1)
    before.slave.write(1, 0x10)
    after.load(json.loads(json.dumps(before.save())))
    assert after.save() == before.save()
    assert after.has_interrupt()
    after.master.on_intr = [].append
    assert after.acknowledge() == 0x21
