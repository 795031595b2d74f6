"""The sweep: every instruction once, at its address, and what cannot be decoded is said."""

import pytest

from vmm.census.forms import Form, Kind
from vmm.census.scan import Findings, Region, gaps_in_words, sweep

CLI = Form("CLI", "", Kind.IOPL)
INT3 = Form("INT3", "", Kind.CRITICAL)
PUSHF = Form("PUSHF", "32-bit", Kind.CRITICAL)


def swept(code: str, code32: bool = True, address: int = 0x1000) -> Findings:
    return sweep([Region("", address, bytes.fromhex(code), code32)])


def test_instructions_are_counted_and_sensitive_ones_have_their_addresses() -> None:
    found = swept("90 fa 9c b8fafafafa fa")
    assert found == Findings(5, {CLI: [0x1001, 0x1008], PUSHF: [0x1002]})


def test_the_same_bytes_are_other_instructions_in_16_bit_code() -> None:
    assert swept("b8 00fa fa", code32=False).places == {CLI: [0x1003]}
    assert swept("b8 00fa fa 90").places == {}


def test_after_what_is_no_instruction_the_sweep_goes_on_one_byte_further() -> None:
    assert swept("90 fef8 fa") == Findings(3, {CLI: [0x1003]}, [(0x1001, 1)])


def test_an_instruction_that_the_end_cuts_off_is_a_gap() -> None:
    assert swept("90 b80000") == Findings(2, gaps=[(0x1001, 1)])


@pytest.mark.parametrize(
    ("code", "count"),
    [
        pytest.param("0fb9cc fa", 2, id="register"),
        pytest.param("0fb9 8424 cccccccc fa", 2, id="sib_and_displacement"),
        pytest.param("0fff 45cc fa", 2, id="ud0_displacement"),
    ],
)
def test_ud1_has_a_modrm_byte(code: str, count: int) -> None:
    """Linux ends its static calls with UD1 ESP, ECX: read without ModR/M, its last byte would be an INT3."""
    found = swept(code)
    assert (found.instructions, list(found.places), found.unknown.total()) == (count, [CLI], 1)


def test_ud1_at_the_very_end_ends_the_sweep() -> None:
    assert swept("90 0fb9").instructions == 2


def test_what_the_virtual_processor_does_not_have_is_counted_apart() -> None:
    found = swept("0f01ca 0f01cb 0f01ca")
    assert (found.places, found.unknown) == ({}, {"clac": 2, "stac": 1})


def test_regions_add_up_and_rows_stand_in_the_order_of_the_tables() -> None:
    regions = [Region("a", 0, b"\xfa\xf4", True), Region("b", 0x100, b"\x9c\xfa", True)]
    found = sweep(regions)
    assert found.places[CLI] == [0, 0x101]
    assert [form.instruction for form in found.forms()] == ["PUSHF", "HLT", "CLI"]


def test_neighbouring_gaps_are_one_range() -> None:
    assert list(gaps_in_words([(0x10, 1), (0x20, 3)])) == ["00000010", "00000020-00000022"]
