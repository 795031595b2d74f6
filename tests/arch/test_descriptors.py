"""Descriptors, gates and TSS layouts against the SDM's figures."""

import pytest

from vmm.arch.descriptors import TSS16, TSS32, Descriptor, Gate, SystemType, tss_layout

FLAT_CODE = bytes.fromhex("ffff0000009bcf00")  # the flat 4 GiB code segment of every boot loader
EXAMPLE = bytes.fromhex("34127856 9a f2 4c bc".replace(" ", ""))  # base BC9A5678, limit C1234, B, ring 3 data


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(FLAT_CODE, Descriptor(0, 0xFFFF_FFFF, 0xC0_9B00), id="flat_code"),
        pytest.param(EXAMPLE, Descriptor(0xBC9A_5678, 0xC_1234, 0x40_F200), id="byte_granular_data"),
        pytest.param(bytes(8), Descriptor(0, 0, 0), id="null"),
    ],
)
def test_descriptor_decodes_and_round_trips(raw, expected):
    assert Descriptor.from_bytes(raw) == expected
    assert expected.to_bytes() == raw


PROPERTIES = ("is_code", "is_data", "is_system", "is_conforming", "is_readable", "is_writable", "is_expand_down")


@pytest.mark.parametrize(
    ("access", "true"),
    [
        (0x90, {"is_data", "is_readable"}),
        (0x93, {"is_data", "is_readable", "is_writable"}),
        (0x97, {"is_data", "is_readable", "is_writable", "is_expand_down"}),
        (0x98, {"is_code"}),
        (0x9A, {"is_code", "is_readable"}),
        (0x9E, {"is_code", "is_readable", "is_conforming"}),
        (0x9C, {"is_code", "is_conforming"}),
        (0x82, {"is_system"}),
        (0x8F, {"is_system"}),
    ],
)
def test_access_byte_means_what_the_manual_says(access, true):
    found = Descriptor(0, 0, access << 8)
    assert {name for name in PROPERTIES if getattr(found, name)} == true


def test_flag_bits_are_where_the_manual_draws_them():
    found = Descriptor(0, 0, 0x40_F300)
    assert (found.dpl, found.is_present, found.is_default_big, found.is_accessed, found.type) == (
        3,
        True,
        True,
        True,
        3,
    )
    none = Descriptor(0, 0, 0x00_1200)
    assert (none.dpl, none.is_present, none.is_default_big, none.is_accessed) == (0, False, False, False)


def test_system_type_is_none_for_code_and_data():
    assert Descriptor(0, 0, 0x9B00).system_type is None
    assert Descriptor(0, 0, 0x8B00).system_type == SystemType.TSS32_BUSY


@pytest.mark.parametrize(
    ("raw", "expected", "size"),
    [
        pytest.param("785608001f ec 3412", Gate(0x1234_5678, 8, 12, 3, True, 31), 4, id="call32"),
        pytest.param("78560800 00 8e 3412", Gate(0x1234_5678, 8, 14, 0, True), 4, id="interrupt32"),
        pytest.param("78560800 00 87 0000", Gate(0x5678, 8, 7, 0, True), 2, id="trap16"),
        pytest.param("0000 2800 00 65 0000", Gate(0, 0x28, 5, 3, False), 2, id="absent_task_gate"),
    ],
)
def test_gate_decodes_and_round_trips(raw, expected, size):
    assert Gate.from_bytes(bytes.fromhex(raw)) == expected
    assert expected.to_bytes() == bytes.fromhex(raw)
    assert expected.size == size


def test_16_bit_gate_ignores_the_upper_offset():
    assert Gate.from_bytes(bytes.fromhex("785608000086ffff")).offset == 0x5678


def test_tss_layouts():
    assert (TSS32.stack_fields(0), TSS32.stack_fields(2)) == ((4, 8), (0x14, 0x18))
    assert (TSS16.stack_fields(0), TSS16.stack_fields(2)) == ((2, 4), (0xA, 0xC))
    assert tss_layout(0x8B00) is TSS32
    assert tss_layout(0x8300) is TSS16
