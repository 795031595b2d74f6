"""The local APIC: priorities, EOI, LINT0, messages, modes and registers."""

import json

import pytest

from vmm.devices.apic_message import Delivery, InterruptMessage
from vmm.devices.local_apic import LocalApic
from vmm.devices.local_apic_timer import LocalApicTimer

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = range(0x320, 0x380, 0x10)
INITIAL, CURRENT, DIVIDE, SELF_IPI = 0x380, 0x390, 0x3E0, 0x3F0
MASKED = 1 << 16
EXTINT = 7 << 8
BSP, EXTD, EN = 1 << 8, 1 << 10, 1 << 11
BASE = 0xFEE0_0000
APIC_BASE, TSC_DEADLINE = 0x1B, 0x6E0
SPURIOUS = 0xFF


class World:
    """A local APIC enabled by software, and what it told the board."""

    def __init__(self):
        self.intr, self.ended, self.places, self.notes, self.nmis = [], [], [], [], []
        self.tsc_ahead = 0
        self.apic = LocalApic(
            self.intr.append, lambda: self.nmis.append(True), self.ended.append, self.places.append, self.notes.append,
            LocalApicTimer(lambda count, now: max(0, count - now - self.tsc_ahead)),
        )  # fmt: skip
        self.apic.write(SVR, 4, 0x1FF)

    def x2apic(self):
        assert self.apic.write_msr(APIC_BASE, BASE | BSP | EN | EXTD)
        return self.apic


@pytest.fixture
def world():
    return World()


@pytest.fixture
def apic(world):
    return world.apic


def fixed(vector, *, level=False, destination=0, logical=False, delivery=Delivery.FIXED):
    return InterruptMessage(vector, delivery, destination, logical, level)


# --- priorities -----------------------------------------------------------------------------------------------


def test_a_vector_goes_from_irr_to_isr_to_nothing(world, apic):
    assert apic.receive(fixed(0x41))
    assert apic.read(IRR + 0x20, 4) == 1 << 1
    assert apic.acknowledge() == 0x41
    assert (apic.read(IRR + 0x20, 4), apic.read(ISR + 0x20, 4)) == (0, 1 << 1)
    apic.write(EOI, 4, 0)
    assert apic.read(ISR + 0x20, 4) == 0
    assert world.intr == [True, False]


def test_the_highest_vector_wins_and_its_class_keeps_lower_ones_out(apic):
    for vector in (0x45, 0x61, 0x4F):
        apic.receive(fixed(vector))
    assert apic.acknowledge() == 0x61
    assert not apic.has_interrupt()
    apic.receive(fixed(0x6F))  # the same class does not nest
    assert not apic.has_interrupt()
    apic.receive(fixed(0x70))
    assert [apic.acknowledge(), apic.read(PPR, 4)] == [0x70, 0x70]
    apic.write(EOI, 4, 0)
    assert apic.read(PPR, 4) == 0x60
    apic.write(EOI, 4, 0)
    assert [apic.acknowledge(), apic.read(PPR, 4)] == [0x6F, 0x60]


@pytest.mark.parametrize(
    ("tpr", "in_service", "ppr"), [(0x00, None, 0), (0x35, None, 0x35), (0x35, 0x31, 0x35), (0x35, 0x4F, 0x40)]
)
def test_ppr_is_the_higher_class_of_task_and_service(apic, tpr, in_service, ppr):
    if in_service is not None:
        apic.receive(fixed(in_service))
        apic.acknowledge()
    apic.write(TPR, 4, tpr)
    assert apic.read(PPR, 4) == ppr


def test_tpr_holds_vectors_of_its_class_and_lets_them_go(world, apic):
    apic.write(TPR, 4, 0x40)
    apic.receive(fixed(0x4F))
    assert world.intr == []
    apic.write(TPR, 4, 0x3F)
    assert world.intr == [True]


def test_a_request_that_has_vanished_is_spurious_and_sets_no_isr(apic):
    apic.receive(fixed(0x41))
    apic.write(TPR, 4, 0x40)
    assert apic.acknowledge() == SPURIOUS
    assert [apic.read(ISR + 0x10 * word, 4) for word in range(8)] == [0] * 8


def test_eoi_of_a_level_interrupt_is_told_to_the_io_apics_and_one_of_an_edge_is_not(world, apic):
    for level in (True, False):
        apic.receive(fixed(0x52, level=level))
        assert apic.read(TMR + 0x20, 4) == (1 << 0x12 if level else 0)
        apic.acknowledge()
        apic.write(EOI, 4, 0)
    apic.write(EOI, 4, 0)  # nothing is in service
    assert world.ended == [0x52]


# --- LINT0 and the switches -----------------------------------------------------------------------------------


def test_lint0_is_masked_after_reset_and_a_virtual_wire_as_extint(world, apic):
    apic.set_lint0(True)
    assert world.intr == []
    apic.write(LINT0, 4, EXTINT)
    assert (world.intr, apic.acknowledge()) == ([True], None)  # the 8259A gives the vector
    apic.set_lint0(False)
    assert world.intr == [True, False]


def test_an_own_vector_comes_before_the_8259s(apic):
    apic.write(LINT0, 4, EXTINT)
    apic.set_lint0(True)
    apic.receive(fixed(0x31))
    assert [apic.acknowledge(), apic.acknowledge()] == [0x31, None]


def test_the_8259s_interrupt_passes_whatever_the_priority_of_the_task(apic):
    apic.write(TPR, 4, 0xFF)
    apic.write(LINT0, 4, EXTINT)
    apic.set_lint0(True)
    assert apic.has_interrupt()


def test_lint0_in_fixed_mode_takes_edges(apic):
    apic.write(LINT0, 4, 0x39)
    apic.set_lint0(True)
    assert apic.acknowledge() == 0x39
    apic.write(EOI, 4, 0)
    assert not apic.has_interrupt()
    apic.set_lint0(False)
    apic.set_lint0(True)
    assert apic.acknowledge() == 0x39


def test_disabled_by_its_msr_it_is_a_wire_and_answers_nowhere(world, apic):
    apic.receive(fixed(0x41))
    assert apic.write_msr(APIC_BASE, BASE | BSP)
    assert (world.places[-1], apic.is_enabled, apic.has_interrupt()) == (None, False, False)
    assert not apic.receive(fixed(0x41))
    apic.set_lint0(True)
    assert (apic.has_interrupt(), apic.acknowledge()) == (True, None)


def test_disabled_by_software_the_lvt_is_masked_and_messages_are_refused(world):
    apic = world.apic
    apic.write(LINT0, 4, EXTINT)
    apic.write(SVR, 4, 0xFF)
    assert apic.read(LINT0, 4) == EXTINT | MASKED
    apic.write(LINT0, 4, EXTINT)
    assert apic.read(LINT0, 4) == EXTINT | MASKED
    assert not apic.receive(fixed(0x41))


# --- messages -------------------------------------------------------------------------------------------------

DESTINATIONS = [
    pytest.param(0, False, True, id="physical"),
    pytest.param(1, False, False, id="physical_other"),
    pytest.param(0xFF, False, True, id="broadcast"),
    pytest.param(0x12, True, True, id="logical_flat"),
    pytest.param(0x21, True, False, id="logical_flat_other"),
]


@pytest.mark.parametrize(("destination", "logical", "taken"), DESTINATIONS)
def test_destination(apic, destination, logical, taken):
    apic.write(LDR, 4, 0x02 << 24)
    assert apic.receive(fixed(0x41, destination=destination, logical=logical)) is taken


@pytest.mark.parametrize(("destination", "taken"), [(0x32, True), (0x33, True), (0x31, False), (0x22, False)])
def test_logical_destination_in_the_cluster_model(apic, destination, taken):
    apic.write(DFR, 4, 0x0FFF_FFFF)
    apic.write(LDR, 4, 0x32 << 24)
    assert apic.receive(fixed(0x41, destination=destination, logical=True)) is taken


@pytest.mark.parametrize(
    ("high", "low", "taken"),
    [(0, 0x4041, True), (1, 0x4041, False), (0xFF, 0x4041, True), (9, 1 << 18 | 0x41, True), (9, 2 << 18 | 0x41, True),
     (0, 3 << 18 | 0x41, False), (0, 0x4141, True)],
)  # fmt: skip
def test_icr_sends_to_this_processor_by_number_or_shorthand(apic, high, low, taken):
    apic.write(ICR_HIGH, 4, high << 24)
    apic.write(ICR, 4, low)
    assert apic.has_interrupt() is taken
    assert apic.read(ICR, 4) == low  # delivered at once: the status bit is clear


def test_start_up_messages_and_those_for_other_processors_do_nothing(world, apic):
    for low in (0xC_4500, 0xC_4600, 0x4610, 0x8500):  # INIT and start-up to others, start-up here, INIT de-assert
        apic.write(ICR, 4, low)
    assert (world.notes, world.intr) == ([], [])


def test_nmi_messages_and_lint0_as_nmi_reach_its_pin(world, apic):
    apic.write(ICR, 4, 0x4400)
    assert len(world.nmis) == 1
    apic.receive(fixed(0, delivery=Delivery.NMI, level=True))
    apic.write(LINT0, 4, 0x400)
    apic.set_lint0(True)
    apic.set_lint0(False)
    apic.write(LINT0, 4, MASKED | 0x400)
    apic.set_lint0(True)
    assert (len(world.nmis), world.intr, world.notes) == (3, [], [])


@pytest.mark.parametrize("delivery", [Delivery.SMI, Delivery.INIT, Delivery.EXTINT])
def test_messages_that_nobody_models_are_counted(world, apic, delivery):
    apic.receive(fixed(0x41, delivery=delivery))
    assert world.notes == [f"local APIC: a message with delivery mode {delivery:03b}b"]
    assert world.intr == []


def test_illegal_vectors_are_errors_shown_after_a_write_to_esr(apic):
    apic.write(ERROR, 4, 0xE0)
    apic.write(ICR, 4, 1 << 18 | 0x0F)
    assert not apic.receive(fixed(0x0E))
    assert apic.read(ESR, 4) == 0
    apic.write(ESR, 4, 0)
    assert apic.read(ESR, 4) == 1 << 5 | 1 << 6
    assert apic.acknowledge() == 0xE0
    apic.write(ESR, 4, 0)
    assert apic.read(ESR, 4) == 0


# --- registers ------------------------------------------------------------------------------------------------

AFTER_RESET = {
    ID: 0, VERSION: 0x5_0014, TPR: 0, PPR: 0, LDR: 0, DFR: 0xFFFF_FFFF, SVR: 0xFF, ESR: 0, ICR: 0, ICR_HIGH: 0,
    TIMER: MASKED, THERMAL: MASKED, PERFORMANCE: MASKED, LINT0: MASKED, LINT1: MASKED, ERROR: MASKED, INITIAL: 0,
    CURRENT: 0, DIVIDE: 0, **{start + 0x10 * word: 0 for start in (ISR, TMR, IRR) for word in range(8)},
}  # fmt: skip


def test_state_after_reset(world, apic):
    apic.write_msr(APIC_BASE, 0x1234_5000 | EN)
    apic.receive(fixed(0x41))
    apic.write(TPR, 4, 0x20)
    apic.reset()
    assert {offset: apic.read(offset, 4) for offset in AFTER_RESET} == AFTER_RESET
    assert (world.places[-1], apic.read_msr(APIC_BASE)) == (BASE, BASE | EN | BSP)


@pytest.mark.parametrize(
    ("offset", "kept"),
    [(ID, 0xFF << 24), (TPR, 0xFF), (LDR, 0xFF << 24), (DFR, 0xFFFF_FFFF), (SVR, 0x3FF), (TIMER, 0x7_00FF),
     (THERMAL, 0x1_07FF), (LINT0, 0x1_A7FF), (LINT1, 0x1_A7FF), (ERROR, 0x1_00FF), (DIVIDE, 0xB), (VERSION, 0x5_0014)],
)  # fmt: skip
def test_reserved_bits_are_dropped_in_memory(apic, offset, kept):
    apic.write(offset, 4, 0xFFFF_FFFF)
    assert apic.read(offset, 4) == kept


@pytest.mark.parametrize("offset", [0x00, 0x90, 0xC0, 0x2F0, 0x3A0, 0x3F0, 0x400, 0xFF0])
def test_an_illegal_register_is_an_error(apic, offset):
    assert apic.read(offset, 4) == 0
    apic.write(offset, 4, 1)
    apic.write(ESR, 4, 0)
    assert apic.read(ESR, 4) == 1 << 7


def test_narrow_reads_give_bytes_and_narrow_writes_are_counted(world, apic):
    assert [apic.read(VERSION + at, 1) for at in range(5)] == [0x14, 0, 5, 0, 0]
    assert apic.read(VERSION, 8) == 0x5_0014
    apic.write(TPR, 1, 0x20)
    apic.write(TPR + 4, 4, 0x20)
    assert (apic.read(TPR, 4), len(world.notes)) == (0, 2)


# --- IA32_APIC_BASE and the x2APIC mode -----------------------------------------------------------------------

DISABLED, XAPIC, INVALID, X2APIC = 0, EN, EXTD, EN | EXTD
STEPS = {  # SDM Vol. 3A, "x2APIC State Transitions"
    DISABLED: {DISABLED, XAPIC},
    XAPIC: {DISABLED, XAPIC, X2APIC},
    X2APIC: {DISABLED, X2APIC},
}


@pytest.mark.parametrize("new", [DISABLED, XAPIC, INVALID, X2APIC])
@pytest.mark.parametrize("old", STEPS)
def test_mode_changes(world, old, new):
    apic = world.apic
    assert apic.write_msr(APIC_BASE, BASE | old)
    assert apic.write_msr(APIC_BASE, BASE | new) is (new in STEPS[old])
    mode = new if new in STEPS[old] else old
    assert apic.read_msr(APIC_BASE) == BASE | mode
    assert world.places[-1] == (BASE if mode == XAPIC else None)


@pytest.mark.parametrize("bit", [0, 7, 9, 36, 63])
def test_reserved_bits_of_the_base(apic, bit):
    assert not apic.write_msr(APIC_BASE, BASE | BSP | EN | 1 << bit)


def test_the_base_moves_the_registers(world, apic):
    assert apic.write_msr(APIC_BASE, 0xFED4_0000 | BSP | EN)
    assert world.places[-1] == 0xFED4_0000


def test_being_disabled_loses_everything(apic):
    apic.write(TPR, 4, 0x55)
    apic.write(LINT0, 4, EXTINT)
    apic.write_msr(APIC_BASE, BASE | BSP)
    apic.write_msr(APIC_BASE, BASE | BSP | EN)
    assert {offset: apic.read(offset, 4) for offset in AFTER_RESET} == AFTER_RESET


def test_registers_are_msrs_in_the_x2apic_mode_only(world):
    assert world.apic.read_msr(0x803) is None
    assert not world.apic.write_msr(0x808, 0)
    apic = world.x2apic()
    assert [apic.read_msr(0x800 + number) for number in (0x02, 0x03, 0x0D, 0x0F)] == [0, 0x5_0014, 1, 0x1FF]


@pytest.mark.parametrize("index", [0x800, 0x809, 0x80B, 0x80C, 0x80E, 0x82F, 0x831, 0x83A, 0x83F, 0x840, 0x8FF])
def test_what_cannot_be_read_as_an_msr(world, index):
    assert world.x2apic().read_msr(index) is None


WRITES = [
    (0x808, 0xFF, True), (0x808, 0x100, False), (0x80B, 0, True), (0x80B, 1, False), (0x80F, 0x1FF, True),
    (0x80F, 0x400, False), (0x828, 0, True), (0x828, 1, False), (0x830, 1 << 18 | 0x41, True), (0x830, 1 << 13, False),
    (0x832, 0x7_10FF, True), (0x832, 0x700, False), (0x835, 0x1_F7FF, True), (0x835, 1 << 17, False), (0x838, 5, True),
    (0x838, 1 << 32, False), (0x83E, 0xB, True), (0x83E, 4, False), (0x83F, 0x41, True), (0x83F, 0x100, False),
    (0x802, 0, False), (0x803, 0, False), (0x80A, 0, False), (0x80D, 0, False), (0x80E, 0, False), (0x831, 0, False),
    (0x839, 0, False), (0x810, 0, False), (0x8FF, 0, False),
]  # fmt: skip


@pytest.mark.parametrize(("index", "value", "allowed"), WRITES)
def test_which_writes_of_msrs_are_allowed(world, index, value, allowed):
    assert world.x2apic().write_msr(index, value) is allowed


@pytest.mark.parametrize(
    ("index", "value", "taken"),
    [(0x83F, 0x41, True), (0x830, 0x41, True), (0x830, 1 << 32 | 0x41, False), (0x830, 0xFFFF_FFFF << 32 | 0x41, True),
     (0x830, 1 << 32 | 1 << 11 | 0x41, True), (0x830, 2 << 32 | 1 << 11 | 0x41, False),
     (0x830, 1 << 48 | 1 << 32 | 1 << 11 | 0x41, False)],
)  # fmt: skip
def test_messages_in_the_x2apic_mode(world, index, value, taken):
    apic = world.x2apic()
    assert apic.write_msr(index, value)
    assert apic.has_interrupt() is taken


def test_the_icr_is_one_register_in_the_x2apic_mode(world):
    apic = world.x2apic()
    value = 3 << 32 | 0x4041
    apic.write_msr(0x830, value)
    assert apic.read_msr(0x830) == value


# --- the timer's interrupt ------------------------------------------------------------------------------------


def test_the_timer_interrupts_when_its_entry_is_not_masked(apic):
    apic.write(TIMER, 4, 0xEF)
    apic.write(DIVIDE, 4, 0b1011)
    apic.write(INITIAL, 4, 100)
    apic.advance(99)
    assert (apic.has_interrupt(), apic.next_deadline()) == (False, 100)
    apic.advance(100)
    assert apic.acknowledge() == 0xEF


def test_a_masked_timer_counts_and_says_nothing(apic):
    apic.write(TIMER, 4, MASKED | 0xEF)
    apic.write(INITIAL, 4, 100)
    apic.advance(1000)
    assert (apic.has_interrupt(), apic.read(CURRENT, 4)) == (False, 0)


def test_a_deadline_that_is_past_interrupts_at_once_and_reads_as_0(apic):
    apic.advance(500)
    apic.write(TIMER, 4, 2 << 17 | 0xEF)
    assert apic.write_msr(TSC_DEADLINE, 400)
    assert (apic.acknowledge(), apic.read_msr(TSC_DEADLINE)) == (0xEF, 0)


# --- state ----------------------------------------------------------------------------------------------------


def test_a_restored_apic_goes_on_where_the_saved_one_was(world, apic):
    apic.write_msr(APIC_BASE, 0xFED4_0000 | BSP | EN)
    apic.write(LINT0, 4, EXTINT)
    apic.write(TIMER, 4, 1 << 17 | 0xEF)
    apic.write(INITIAL, 4, 100)
    apic.receive(fixed(0xFE, level=True))
    apic.acknowledge()
    apic.receive(fixed(0x41))
    other = World()
    other.apic.load(json.loads(json.dumps(apic.save())))
    assert other.apic.save() == apic.save()
    assert other.places[-1] == 0xFED4_0000
    other.apic.advance(200)
    other.apic.write(EOI, 4, 0)
    assert (other.ended, other.apic.acknowledge()) == ([0xFE], 0xEF)
