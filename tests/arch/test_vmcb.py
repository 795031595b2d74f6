"""The VMCB: fields where the manual has them, attributes packed as it says."""

import pytest

from vmm.arch import vmcb as block
from vmm.arch.vmcb import ExitCode, Field, Segment, Vmcb, external_interrupt, pack_attributes, unpack_attributes

FIELDS = [value for value in vars(block).values() if isinstance(value, Field)]


def test_fields_do_not_overlap() -> None:
    places = [at for field in FIELDS for at in range(field.offset, field.offset + field.size)]
    places += [at for n in range(10) for at in range(block.SEGMENTS + 16 * n, block.SEGMENTS + 16 * n + 16)]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_nothing_but_itself(field: Field) -> None:
    page = bytearray(4096)
    vmcb = Vmcb(memoryview(page))
    value = (1 << 8 * field.size) - 2
    vmcb.put(field, value)
    assert vmcb.get(field) == value
    assert page[field.offset : field.offset + field.size] == value.to_bytes(field.size, "little")
    assert sum(map(bool, page)) == field.size


def test_the_save_area_of_a_worked_example() -> None:
    """APM Vol. 2, Appendix B: a flat 32-bit CS has attributes C9Bh; its base lies 8 bytes into its 16."""
    page = bytearray(4096)
    vmcb = Vmcb(memoryview(page))
    vmcb.put_segment(1, Segment(8, 0x1234_5000, 0xFFFF_FFFF, 0x00CF_9B00))
    assert page[0x410:0x420] == bytes.fromhex("0800 9b0c ffffffff 00503412 00000000")
    assert vmcb.segment(1) == Segment(8, 0x1234_5000, 0xFFFF_FFFF, 0x00C0_9B00)


def test_attributes_leave_out_base_and_limit() -> None:
    assert pack_attributes(0xFFFF_FFFF) == 0xFFF
    assert unpack_attributes(0xFFF) == 0x00F0_FF00


def test_an_injected_interrupt_names_its_vector() -> None:
    assert external_interrupt(0x21) == 0x8000_0021


def test_exit_codes_of_ranges() -> None:
    """APM Vol. 2, Appendix C."""
    assert ExitCode.EXCEPTION_0 + 14 == 0x4E
    assert ExitCode.CR0_WRITE + 4 == 0x14


def test_a_block_is_a_page() -> None:
    with pytest.raises(ValueError, match="4095 bytes given"):
        Vmcb(memoryview(bytearray(4095)))
