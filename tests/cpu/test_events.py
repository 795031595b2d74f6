"""Delivery of events through the IVT and the IDT, and what happens when it fails."""

import pytest
from cpu_world import (
    ABSENT,
    BIG,
    CODE,
    CODE0,
    CODE1,
    CODE3,
    CODE16,
    CONF0,
    CONFORMING,
    DATA,
    DATA0,
    DATA1,
    DATA3,
    DATA_RO,
    FREE,
    FRESH,
    MAIN_TSS,
    OTHER_TSS,
    PAGES,
    RING1,
    RING3,
    STACK0,
    STACK1,
    STACK3,
    TSS,
    TSS16_BUSY,
    TSS_B,
    descriptor,
    gate,
)

from vmm.arch.exceptions import GuestFault, Vector
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu.events import EventKind, TripleFault, deliver, raise_fault
from vmm.cpu.vcpu import NULL_SEGMENT, SegmentRegister

GP, NP, SS, TS, PF, DF = (int(getattr(Vector, name)) for name in ("GP", "NP", "SS", "TS", "PF", "DF"))
FAULT, TRAP, SOFTWARE = EventKind.FAULT, EventKind.TRAP, EventKind.SOFTWARE
BREAKPOINT, EXTERNAL, NMI = EventKind.BREAKPOINT, EventKind.EXTERNAL, EventKind.NMI
INT32, TRAP32, INT16, TRAP16, TASK = 14, 15, 6, 7, 5
V = 0x40  # the vector most tests use
V_ERROR = V * 8 + 2
HANDLER = 0x6000
STATUS = int(Eflags.CF | Eflags.SF | Eflags.DF | Eflags.ONE)
BUSY_FLAGS = STATUS | int(Eflags.IF | Eflags.TF | Eflags.NT | Eflags.AC | Eflags.ID)
RF = int(Eflags.RF)


# --- real mode ----------------------------------------------------------------------------------------------


def test_real_mode_frame_and_flags(world):
    world.real()
    world.vcpu.eflags = BUSY_FLAGS
    world.dword(V * 4, 0x1234_5678)
    deliver(world.vcpu, V, kind=SOFTWARE, return_eip=0x125)
    assert world.here == (0x1234, 0x5678, 0)
    assert world.vcpu.base(Seg.CS) == 0x12340
    assert world.stack(3, 2) == [0x125, 0x100, BUSY_FLAGS & 0xFFFF]
    assert world.vcpu.eflags == STATUS | int(Eflags.NT | Eflags.ID)


def test_real_mode_pushes_no_error_code(world):
    world.real()
    deliver(world.vcpu, GP, kind=FAULT, error_code=0)
    assert world.vcpu.reg(Reg.ESP, 2) == 0x800 - 6


def test_real_mode_uses_the_idtr_base(world):
    world.real()
    world.vcpu.idtr = (0x2_0000, 0x3FF)
    world.dword(0x2_0000 + V * 4, 0x0070_0011)
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert world.here == (0x70, 0x11, 0)


@pytest.mark.parametrize(("limit", "fits"), [(V * 4 + 3, True), (V * 4 + 2, False)])
def test_real_mode_vector_beyond_the_idt_limit(world, limit, fits):
    world.real()
    world.vcpu.idtr = (0, limit)
    if fits:
        deliver(world.vcpu, V, kind=SOFTWARE)
    else:
        assert world.fault_of(lambda: deliver(world.vcpu, V, kind=SOFTWARE)) == (GP, 0)


def test_real_mode_without_room_on_the_stack(world):
    world.real()
    world.vcpu.set_reg32(Reg.ESP, 5)
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=SOFTWARE)) == (SS, 0)


def test_real_mode_with_a_zero_idt_limit_shuts_down(world):
    world.real()
    world.vcpu.idtr = (0, 0)
    with pytest.raises(TripleFault):
        raise_fault(world.vcpu, GuestFault(Vector.UD))


def test_real_mode_keeps_the_hidden_limit_of_cs(world):
    world.real()
    world.vcpu.set_segment(Seg.CS, SegmentRegister(0x100, 0x1000, 0xFFFF_FFFF, 0xC0_9B00))
    deliver(world.vcpu, V, kind=SOFTWARE)
    assert world.vcpu.segment(Seg.CS) == SegmentRegister(0, 0, 0xFFFF_FFFF, 0xC0_9B00)


# --- protected mode, same ring ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "kept"),
    [(INT32, int(Eflags.AC | Eflags.ID)), (TRAP32, int(Eflags.AC | Eflags.ID | Eflags.IF))],
)
def test_same_ring_frame_and_flags(world, kind, kept):
    world.protected()
    world.vcpu.eflags = BUSY_FLAGS
    world.idt(V, gate(kind, CODE0, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert world.here == (CODE0, HANDLER, 0)
    assert world.stack(3) == [0x7000, CODE0, BUSY_FLAGS]
    assert world.vcpu.eflags == STATUS | kept


@pytest.mark.parametrize(("kind", "mask"), [(INT16, 0), (TRAP16, int(Eflags.IF))])
def test_16_bit_gate_pushes_words(world, kind, mask):
    world.protected()
    world.vcpu.eflags = BUSY_FLAGS
    world.idt(V, gate(kind, CODE16, HANDLER))
    deliver(world.vcpu, V, kind=FAULT, error_code=0x1234)
    assert world.here == (CODE16, HANDLER, 0)
    assert world.stack(4, 2) == [0x1234, 0x7000, CODE0, BUSY_FLAGS & 0xFFFF]
    assert world.vcpu.eflags & int(Eflags.IF) == mask


def test_handler_selector_gets_rpl_of_cpl(world):
    world.protected()
    world.idt(V, gate(INT32, CODE0 | 3, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert world.here == (CODE0, HANDLER, 0)


def test_conforming_handler_runs_in_the_interrupted_ring(world):
    world.protected(3)
    world.idt(V, gate(INT32, CONF0, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert world.here == (CONF0 | 3, HANDLER, 3)
    assert world.stack(2) == [0x7000, CODE3]
    assert world.vcpu.selector(Seg.SS) == DATA3


@pytest.mark.parametrize(
    ("vector", "kind", "rf"),
    [
        pytest.param(Vector.GP, FAULT, RF, id="fault"),
        pytest.param(Vector.DB, FAULT, RF, id="general_detect"),
        pytest.param(Vector.DB, TRAP, 0, id="single_step_or_code_breakpoint"),
        pytest.param(V, SOFTWARE, 0, id="int_n"),
        pytest.param(V, EXTERNAL, 0, id="external"),
        pytest.param(Vector.NMI, NMI, 0, id="nmi"),
    ],
)
def test_rf_is_set_in_the_image_of_faults_only(world, vector, kind, rf):
    world.protected()
    world.idt(vector, gate(INT32, CODE0, HANDLER))
    deliver(world.vcpu, vector, kind=kind)
    assert world.stack(3)[2] & RF == rf
    assert world.vcpu.eflags & RF == 0


@pytest.mark.parametrize(("kind", "pushed"), [(FAULT, True), (EXTERNAL, False), (SOFTWARE, False)])
def test_error_codes_are_for_exceptions(world, kind, pushed):
    world.protected()
    world.idt(GP, gate(INT32, CODE0, HANDLER))
    deliver(world.vcpu, GP, kind=kind, error_code=0x18)
    assert (world.stack(1) == [0x18]) is pushed


def test_delivery_wakes_and_ends_the_interrupt_shadow(world):
    world.protected()
    world.vcpu.halted = world.vcpu.interrupt_shadow = True
    world.idt(V, gate(INT32, CODE0, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert not world.vcpu.halted
    assert not world.vcpu.interrupt_shadow


def test_debug_exception_opens_the_debug_registers(world):
    world.protected()
    world.vcpu.dr[7] |= 1 << 13
    world.idt(Vector.DB, gate(INT32, CODE0, HANDLER))
    deliver(world.vcpu, Vector.DB, kind=FAULT)
    assert world.vcpu.dr[7] == 0x400


def test_accessed_bit_of_the_handler_is_set(world):
    world.protected()
    world.put(FREE, descriptor(0, 0xFFFF_FFFF, CODE ^ FRESH, BIG | PAGES))
    world.idt(V, gate(INT32, FREE, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert world.access(FREE) == CODE
    assert world.vcpu.segment(Seg.CS).flags & 0x100


# --- the gate -----------------------------------------------------------------------------------------------

KINDS = [(SOFTWARE, 0), (BREAKPOINT, 0), (EXTERNAL, 1), (FAULT, 1), (TRAP, 1), (NMI, 1)]


@pytest.mark.parametrize(("kind", "ext"), KINDS)
@pytest.mark.parametrize("type_and_s", [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 0x1E, 0x12])
def test_not_an_idt_gate(world, kind, ext, type_and_s):
    world.protected()
    raw = bytearray(gate(INT32, CODE0, HANDLER))
    raw[5] = 0x80 | type_and_s
    world.idt(V, bytes(raw))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (GP, V_ERROR | ext)


@pytest.mark.parametrize(("kind", "ext"), KINDS)
def test_vector_beyond_the_idt_limit(world, kind, ext):
    world.protected()
    world.idt(V, gate(INT32, CODE0, HANDLER))
    world.vcpu.idtr = (world.vcpu.idtr[0], V * 8 + 6)
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (GP, V_ERROR | ext)


@pytest.mark.parametrize(("kind", "ext"), KINDS)
def test_absent_gate(world, kind, ext):
    world.protected()
    world.idt(V, gate(INT32, CODE0, HANDLER, present=False))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (NP, V_ERROR | ext)


@pytest.mark.parametrize("kind", [SOFTWARE, BREAKPOINT])
def test_software_interrupt_needs_dpl(world, kind):
    world.protected(3)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=2, present=False))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (GP, V_ERROR)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=3))
    deliver(world.vcpu, V, kind=kind)
    assert world.here == (CODE0, HANDLER, 0)


@pytest.mark.parametrize("kind", [EXTERNAL, FAULT, TRAP, NMI])
def test_other_events_need_no_dpl(world, kind):
    world.protected(3)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=0))
    deliver(world.vcpu, V, kind=kind)
    assert world.here == (CODE0, HANDLER, 0)


# --- the handler's code segment -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "ext"), [(SOFTWARE, 0), (EXTERNAL, 1)])
@pytest.mark.parametrize(
    ("selector", "access", "expected"),
    [
        pytest.param(0, CODE, (GP, 0), id="null"),
        pytest.param(3, CODE, (GP, 0), id="null_with_rpl"),
        pytest.param(0x400, CODE, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(FREE, DATA, (GP, FREE), id="data"),
        pytest.param(FREE, 0x89, (GP, FREE), id="system"),
        pytest.param(FREE, CODE | RING3, (GP, FREE), id="outer_ring"),
        pytest.param(FREE, CONFORMING | RING3, (GP, FREE), id="outer_ring_conforming"),
        pytest.param(FREE, CODE ^ ABSENT, (NP, FREE), id="absent"),
    ],
)
def test_handler_segment_checks(world, kind, ext, selector, access, expected):
    world.protected(1)
    world.put(FREE, descriptor(0, 0xFFFF, access))
    world.idt(V, gate(INT32, selector, HANDLER, dpl=3))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (expected[0], expected[1] | ext)


@pytest.mark.parametrize(("kind", "ext"), [(SOFTWARE, 0), (EXTERNAL, 1)])
@pytest.mark.parametrize("cpl", [0, 3])
def test_handler_beyond_its_segment(world, kind, ext, cpl):
    world.protected(cpl)
    world.put(FREE, descriptor(0, HANDLER - 1, CODE ^ FRESH))
    world.idt(V, gate(INT32, FREE, HANDLER, dpl=3))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (GP, ext)


def test_no_room_on_the_current_stack(world):
    world.protected()
    world.put(FREE, descriptor(0, 0xFFF, DATA))
    world.load(Seg.SS, FREE)
    world.vcpu.set_reg32(Reg.ESP, 11)
    world.idt(V, gate(INT32, CODE0, HANDLER))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=SOFTWARE)) == (SS, 0)
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=EXTERNAL)) == (SS, 1)


# --- inner rings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error_code", "top"), [(None, []), (0x18, [0x18])])
def test_inner_ring_frame(world, error_code, top):
    world.protected(3)
    world.vcpu.eflags = BUSY_FLAGS
    world.idt(V, gate(INT32, CODE0, HANDLER))
    deliver(world.vcpu, V, kind=FAULT, error_code=error_code)
    assert world.here == (CODE0, HANDLER, 0)
    assert world.vcpu.segment(Seg.SS) == SegmentRegister(DATA0, 0, 0xFFFF_FFFF, BIG | PAGES | DATA << 8)
    assert world.stack(5 + len(top)) == [*top, 0x7000, CODE3, BUSY_FLAGS | RF, STACK3, DATA3]
    assert world.vcpu.reg32(Reg.ESP) == STACK0 - 20 - 4 * len(top)
    assert world.vcpu.selector(Seg.DS) == DATA3


def test_ring_1_has_its_own_stack(world):
    world.protected(3)
    world.idt(V, gate(INT32, CODE1, HANDLER, dpl=3))
    deliver(world.vcpu, V, kind=SOFTWARE, return_eip=0x7002)
    assert world.here == (CODE1, HANDLER, 1)
    assert world.vcpu.selector(Seg.SS) == DATA1
    assert world.stack(5) == [0x7002, CODE3, int(Eflags.ONE), STACK3, DATA3]
    assert world.vcpu.reg32(Reg.ESP) == STACK1 - 20


def test_inner_ring_through_a_16_bit_tss_and_gate(world):
    world.protected(3)
    world.vcpu.tr = SegmentRegister(MAIN_TSS, TSS, 0x2B, TSS16_BUSY << 8)
    world.word(TSS + 2, 0x8000)
    world.word(TSS + 4, DATA0)
    world.idt(V, gate(INT16, CODE0, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert world.here == (CODE0, HANDLER, 0)
    assert world.stack(5, 2) == [0x7000, CODE3, int(Eflags.ONE), STACK3, DATA3]
    assert world.vcpu.reg32(Reg.ESP) == 0x8000 - 10


def test_16_bit_inner_stack_leaves_the_upper_half_of_esp(world):
    world.protected(3)
    world.put(FREE, descriptor(0x1_0000, 0xFFFF, DATA, 0))
    world.dword(TSS + 4, 0x1234_8000)
    world.dword(TSS + 8, FREE)
    world.vcpu.set_reg32(Reg.ESP, 0xABCD_C000)
    world.idt(V, gate(INT32, CODE0, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert world.vcpu.reg32(Reg.ESP) == 0xABCD_8000 - 20
    assert world.stack(5)[3:] == [0xABCD_C000, DATA3]


def test_inner_frame_is_written_as_supervisor(world):
    world.protected(3)
    world.idt(V, gate(INT32, CODE0, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    assert not any(user for _, user in world.memory.accesses)


@pytest.mark.parametrize(("kind", "ext"), [(SOFTWARE, 0), (EXTERNAL, 1)])
@pytest.mark.parametrize(
    ("selector", "access", "expected"),
    [
        pytest.param(0, DATA, (TS, 0), id="null"),
        pytest.param(3, DATA, (TS, 0), id="null_with_rpl"),
        pytest.param(0x400, DATA, (TS, 0x400), id="beyond_the_limit"),
        pytest.param(FREE | 1, DATA, (TS, FREE), id="rpl"),
        pytest.param(FREE, DATA | RING1, (TS, FREE), id="dpl"),
        pytest.param(FREE, DATA_RO, (TS, FREE), id="read_only"),
        pytest.param(FREE, CODE, (TS, FREE), id="code"),
        pytest.param(FREE, DATA ^ ABSENT, (SS, FREE), id="absent"),
        pytest.param(CODE16, CODE, (TS, CODE16), id="a_code_segment"),
    ],
)
def test_inner_stack_checks(world, kind, ext, selector, access, expected):
    world.protected(3)
    world.put(FREE, descriptor(0, 0xFFFF_FFFF, access, BIG | PAGES))
    world.dword(TSS + 8, selector)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=3))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (expected[0], expected[1] | ext)


@pytest.mark.parametrize(("kind", "ext"), [(SOFTWARE, 0), (EXTERNAL, 1)])
def test_inner_stack_without_room_names_its_selector(world, kind, ext):
    world.protected(3)
    world.put(FREE, descriptor(0, 0xFFF, DATA))
    world.dword(TSS + 4, 19)
    world.dword(TSS + 8, FREE)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=3))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (SS, FREE | ext)


@pytest.mark.parametrize(("limit", "flags"), [(8, 0x8B00), (4, 0x8300)])
def test_tss_too_short_for_the_stack(world, limit, flags):
    world.protected(3)
    world.vcpu.tr = SegmentRegister(MAIN_TSS, TSS, limit, flags)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=3))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=SOFTWARE)) == (TS, MAIN_TSS)
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=EXTERNAL)) == (TS, MAIN_TSS | 1)


def test_page_fault_on_the_way_keeps_its_error_code(world):
    world.protected(3)
    world.memory.missing.add(STACK0 - 1 >> 12)
    world.idt(V, gate(INT32, CODE0, HANDLER))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=EXTERNAL)) == (PF, 2)


# --- V86 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "size"), [(INT32, 4), (INT16, 2), (TRAP32, 4)])
def test_v86_frame(world, kind, size):
    world.v86(iopl=0)
    flags = world.vcpu.eflags
    world.idt(V, gate(kind, CODE0, HANDLER))
    deliver(world.vcpu, V, kind=EXTERNAL)
    clip = (1 << 8 * size) - 1
    assert world.here == (CODE0, HANDLER, 0)
    assert world.stack(9, size) == [0x123, 0x100, flags & clip, 0x800, 0x200, 0, 0x300, 0x400, 0x500]
    assert flags & int(Eflags.VM)
    assert world.vcpu.eflags == flags & ~int(Eflags.VM)
    assert [world.vcpu.segment(seg) for seg in (Seg.ES, Seg.DS, Seg.FS, Seg.GS)] == [NULL_SEGMENT] * 4
    assert world.vcpu.segment(Seg.SS).selector == DATA0


@pytest.mark.parametrize("selector", [CODE1, CONF0, FREE])
def test_v86_handler_must_be_in_ring_0_and_not_conforming(world, selector):
    world.v86()
    world.put(FREE, descriptor(0, 0xFFFF, CODE | RING3))
    world.idt(V, gate(INT32, selector, HANDLER, dpl=3))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=SOFTWARE)) == (GP, selector & ~3)


def test_v86_int_n_needs_iopl_3_and_int3_does_not(world):
    world.v86(iopl=2)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=3))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=SOFTWARE)) == (GP, 0)
    deliver(world.vcpu, V, kind=BREAKPOINT)
    assert world.here == (CODE0, HANDLER, 0)


def test_v86_int_n_at_iopl_3_goes_through_the_idt(world):
    world.v86(iopl=3)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=2))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=SOFTWARE)) == (GP, V_ERROR)
    world.idt(V, gate(INT32, CODE0, HANDLER, dpl=3))
    deliver(world.vcpu, V, kind=SOFTWARE, return_eip=0x125)
    assert world.stack(1) == [0x125]


# --- task gates ---------------------------------------------------------------------------------------------


def new_task(world, *, esp=STACK0):
    """A ring 0 task behind OTHER_TSS."""
    for at, value in ((0x20, HANDLER), (0x24, 2), (0x38, esp), (0x4C, CODE0), (0x50, DATA0)):
        world.dword(TSS_B + at, value)


def test_task_gate_switches_and_pushes_the_error_code(world):
    world.protected(3)
    new_task(world)
    world.idt(GP, gate(TASK, OTHER_TSS, 0))
    deliver(world.vcpu, GP, kind=FAULT, error_code=0x18)
    assert world.here == (CODE0, HANDLER, 0)
    assert world.stack(1) == [0x18]
    assert world.vcpu.reg32(Reg.ESP) == STACK0 - 4
    assert world.vcpu.tr.selector == OTHER_TSS
    assert world.vcpu.eflags & int(Eflags.NT)
    assert world.memory.read(TSS_B, 2, False) == MAIN_TSS
    assert world.memory.read(TSS + 0x20, 4, False) == 0x7000
    assert world.memory.read(TSS + 0x24, 4, False) == int(Eflags.ONE) | RF


@pytest.mark.parametrize(("kind", "ext"), [(SOFTWARE, 0), (EXTERNAL, 1)])
@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param(0, (GP, 0), id="null"),
        pytest.param(OTHER_TSS | 4, (GP, OTHER_TSS | 4), id="in_the_ldt"),
        pytest.param(0x400, (GP, 0x400), id="beyond_the_limit"),
        pytest.param(MAIN_TSS, (GP, MAIN_TSS), id="busy"),
        pytest.param(CODE0, (GP, CODE0), id="not_a_tss"),
        pytest.param(FREE, (NP, FREE), id="absent"),
    ],
)
def test_task_gate_checks(world, kind, ext, selector, expected):
    world.protected()
    world.put(FREE, descriptor(TSS_B, 0x67, 0x09))
    world.idt(V, gate(TASK, selector, 0))
    assert world.fault_of(lambda: deliver(world.vcpu, V, kind=kind)) == (expected[0], expected[1] | ext)


def test_task_without_room_for_the_error_code_faults_in_the_new_task(world):
    world.protected()
    world.put(FREE, descriptor(0, 0xFFF, DATA))
    new_task(world, esp=2)
    world.dword(TSS_B + 0x50, FREE)
    world.idt(GP, gate(TASK, OTHER_TSS, 0))
    with pytest.raises(GuestFault) as caught:
        deliver(world.vcpu, GP, kind=FAULT, error_code=0)
    assert (caught.value.vector, caught.value.error_code) == (SS, 1)
    assert world.vcpu.tr.selector == OTHER_TSS


def test_task_beyond_its_code_segment_faults_in_the_new_task(world):
    world.protected()
    new_task(world)
    world.put(FREE, descriptor(0, HANDLER - 1, CODE))
    world.dword(TSS_B + 0x4C, FREE)
    world.idt(V, gate(TASK, OTHER_TSS, 0))
    with pytest.raises(GuestFault) as caught:
        deliver(world.vcpu, V, kind=EXTERNAL)
    assert (caught.value.vector, caught.value.error_code) == (GP, 1)
    assert world.vcpu.eip == HANDLER


# --- raise_fault --------------------------------------------------------------------------------------------

BAD = gate(INT32, 0x400, 0)  # a handler that raises #GP(400h)
ABSENT_GATE = gate(INT32, CODE0, HANDLER, present=False)


def test_page_fault_sets_cr2(world):
    world.protected()
    world.idt(PF, gate(INT32, CODE0, HANDLER))
    raise_fault(world.vcpu, GuestFault(PF, 2, 0xDEAD_B000))
    assert world.vcpu.cr2 == 0xDEAD_B000
    assert world.stack(2) == [2, 0x7000]


@pytest.mark.parametrize("kind", [FAULT, TRAP])
def test_debug_trap_saves_no_rf_and_a_fault_does(world, kind):
    world.protected()
    world.idt(Vector.UD, gate(INT32, CODE0, HANDLER))
    raise_fault(world.vcpu, GuestFault(Vector.UD), kind=kind)
    assert bool(world.stack(3)[2] & RF) is (kind is FAULT)


def prepare_fault_during(world, first, second):
    """Make delivery of `first` raise `second`: #GP and #NP through a bad gate, #PF through a missing IDT page."""
    for vector in (Vector.UD, GP, NP, TS, SS, PF, DF):
        world.idt(vector, gate(INT32, CODE0, HANDLER + 0x10 * vector))
    if second == GP:
        world.idt(first, BAD)
    elif second == NP:
        world.idt(first, ABSENT_GATE)
    else:
        assert second == PF
        world.put(FREE, descriptor(0, 0xFFFF_FFFF, CODE ^ FRESH, BIG | PAGES))
        world.idt(first, gate(INT32, FREE, HANDLER))
        world.memory.read_only.add(1)  # setting the accessed bit in the GDT is what faults


@pytest.mark.parametrize(
    ("first", "second", "delivered", "code"),
    [
        pytest.param(Vector.UD, GP, GP, 0x401, id="benign_contributory"),
        pytest.param(Vector.UD, NP, NP, Vector.UD * 8 + 3, id="benign_contributory_np"),
        pytest.param(Vector.UD, PF, PF, 3, id="benign_page_fault"),
        pytest.param(NP, GP, DF, 0, id="contributory_contributory"),
        pytest.param(Vector.SS, NP, DF, 0, id="contributory_np"),
        pytest.param(GP, PF, PF, 3, id="contributory_page_fault"),
        pytest.param(PF, GP, DF, 0, id="page_fault_contributory"),
        pytest.param(PF, PF, DF, 0, id="page_fault_page_fault"),
    ],
)
def test_double_fault_table(world, first, second, delivered, code):
    world.protected()
    prepare_fault_during(world, first, second)
    error_code = None if first == Vector.UD else 0
    raise_fault(world.vcpu, GuestFault(first, error_code, 0x1234 if first == PF else None))
    assert world.here == (CODE0, HANDLER + 0x10 * delivered, 0)
    assert world.stack(2) == [code, 0x7000]


@pytest.mark.parametrize("second", [GP, NP, PF])
def test_fault_during_double_fault_shuts_down(world, second):
    world.protected()
    prepare_fault_during(world, DF, second)
    world.idt(GP, BAD)
    world.idt(Vector.NP, BAD)
    with pytest.raises(TripleFault):
        raise_fault(world.vcpu, GuestFault(GP, 0))


def test_second_page_fault_shows_in_cr2_even_as_double_fault(world):
    world.protected()
    prepare_fault_during(world, PF, PF)
    raise_fault(world.vcpu, GuestFault(PF, 0, 0x1234))
    assert world.vcpu.cr2 == 0x1000 + FREE + 5


def test_benign_event_then_fault_then_fault(world):
    """An external interrupt whose handler cannot be reached becomes a plain fault, not a double one."""
    world.protected()
    world.idt(V, BAD)
    world.idt(GP, gate(INT32, CODE0, HANDLER))
    with pytest.raises(GuestFault) as caught:
        deliver(world.vcpu, V, kind=EXTERNAL)
    raise_fault(world.vcpu, caught.value)
    assert world.here == (CODE0, HANDLER, 0)
    assert world.stack(2) == [0x401, 0x7000]


def test_int_n_that_faults_returns_to_the_instruction(world):
    world.protected()
    world.idt(V, BAD)
    world.idt(GP, gate(INT32, CODE0, HANDLER))
    with pytest.raises(GuestFault) as caught:
        deliver(world.vcpu, V, kind=SOFTWARE, return_eip=0x7002)
    raise_fault(world.vcpu, caught.value)
    assert world.stack(2) == [0x400, 0x7000]


def test_fault_in_a_new_task_is_delivered_there(world):
    world.protected(3)
    new_task(world)
    world.dword(TSS_B + 0x54, 0x400)  # DS beyond the GDT
    world.idt(GP, gate(TASK, OTHER_TSS, 0))
    world.idt(DF, gate(INT32, CODE0, HANDLER + 0x80))
    raise_fault(world.vcpu, GuestFault(GP, 0))
    assert world.here == (CODE0, HANDLER + 0x80, 0)
    assert world.stack(3) == [0, HANDLER, CODE0]
