"""The full look at one instruction: how far a REP may run, against a model that goes element by element."""

import pytest
from cpu_world import World
from hypothesis import given, settings
from hypothesis import strategies as st

from bt.decode import Decoder
from vmm.arch.exceptions import GuestFault
from vmm.arch.registers import Reg, Seg
from vmm.cpu.access_checks import Place, check_all, places
from vmm.cpu.vcpu import SegmentRegister

DECODER = Decoder()
RW, DOWN, DOWN_BIG = 0x9200, 0x9600, 0x40_9600
OFFSETS = st.one_of(
    st.integers(0, 0x40), st.integers(0xFFC0, 0x1_0040), st.integers(0xFFFF_FFC0, 0xFFFF_FFFF), st.integers(0, 0xFFFF)
)


def insn(raw, code32):
    return DECODER.one(bytes.fromhex(raw) + bytes(8), 0, code32)


def allowed(limit, flags, offset, size):
    """One element, byte by byte; in 4 GiB an element may go round the end."""
    if not flags & 0x400:
        return offset + size - 1 <= limit or (limit == 0xFFFF_FFFF)
    last = 0xFFFF_FFFF if flags & 1 << 22 else 0xFFFF
    return offset > limit and (offset + size - 1 <= last or last == 0xFFFF_FFFF)


@settings(max_examples=400, deadline=None)
@given(
    raw=st.sampled_from([("f3ab", 4), ("f366ab", 2), ("f3aa", 1)]),
    code32=st.booleans(),
    segment=st.sampled_from(
        [(0xFFFF, RW), (0x7FF, RW), (0xFFFF_FFFF, RW), (0x1_2345, RW), (0xFFF, DOWN), (0xFFF, DOWN_BIG), (0, RW)]
    ),
    offset=OFFSETS,
    count=st.integers(0, 300),
    backward=st.booleans(),
)
def test_a_rep_may_run_up_to_its_first_bad_element(raw, code32, segment, offset, count, backward):
    code, _ = raw
    stos = insn(code, code32)
    size = 1 if stos.opcode == 0xAA else stos.operand_size
    mask = (1 << 8 * stos.address_size) - 1
    vcpu = World().vcpu
    vcpu.set_segment(Seg.ES, SegmentRegister(0x10, 0, *segment))
    vcpu.set_reg32(Reg.EDI, offset)
    vcpu.set_reg32(Reg.ECX, count)
    vcpu.eflags = 0x402 if backward else 2
    step = -size if backward else size
    good = (allowed(*segment, offset + n * step & mask, size) for n in range(count))
    expected = next((n for n, is_good in enumerate(good) if not is_good), None)
    if expected == 0:
        with pytest.raises(GuestFault, match=r"#GP\(0x0\)"):
            check_all(vcpu, stos)
    else:
        assert check_all(vcpu, stos) == expected


CASES = [
    ("0fa31e", {Reg.ESI: 0x100, Reg.EBX: 0xFFFF_FFFF}, [Place(Seg.DS, 0xFC, 4, False)]),
    ("0fa31e", {Reg.ESI: 0x100, Reg.EBX: 64}, [Place(Seg.DS, 0x108, 4, False)]),
    ("660fab1e", {Reg.ESI: 0x100, Reg.EBX: 0x8000}, [Place(Seg.DS, 0x100 - 0x1000 & 0xFFFF_FFFF, 2, True)]),
    ("8f0424", {Reg.ESP: 0x100}, [Place(Seg.SS, 0x100, 4, False), Place(Seg.SS, 0x104, 4, True)]),
    ("ff3424", {Reg.ESP: 0x100}, [Place(Seg.SS, 0x100, 4, False), Place(Seg.SS, 0xFC, 4, True)]),
    ("64d7", {Reg.EBX: 0x100, Reg.EAX: 0xFF0A}, [Place(Seg.FS, 0x10A, 1, False)]),
    ("a178563412", {}, [Place(Seg.DS, 0x1234_5678, 4, False)]),
    ("c9", {Reg.EBP: 0x500}, [Place(Seg.SS, 0x500, 4, False)]),
    ("660ff7ca", {Reg.EDI: 0x20}, [Place(Seg.DS, 0x20, 16, True)]),
    (
        "c8100002",
        {Reg.ESP: 0x100, Reg.EBP: 0x200},
        [
            Place(Seg.SS, 0xFC, 4, True), Place(Seg.SS, 0x1FC, 4, False), Place(Seg.SS, 0xF8, 4, True),
            Place(Seg.SS, 0xF4, 4, True), Place(Seg.SS, 0xE4, 4, True),
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "registers", "expected"), CASES)
def test_where_the_accesses_of_an_instruction_are(raw, registers, expected):
    world = World()
    world.vcpu.set_segment(Seg.SS, SegmentRegister(0x10, 0, 0xFFFF_FFFF, 0x40_9300))
    for reg, value in registers.items():
        world.vcpu.set_reg32(reg, value)
    assert list(places(world.vcpu, insn(raw, True))) == expected
