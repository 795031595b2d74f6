"""The ACPI tables in the BIOS image, parsed back; the AML is read by a parser of its own."""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from firmware import acpi, aml, pci_routing
from firmware.build import BIOS_ADDRESS, assemble_bios, build_bios
from vmm.devices.pci import CONFIG_SIZE
from vmm.devices.piix4_pm import IO_SIZE, PmIo


@pytest.fixture(scope="module")
def rom() -> bytes:
    return build_bios()


@pytest.fixture(scope="module")
def rsdp(rom: bytes) -> bytes:
    """Found as an operating system does."""
    for at in range(0, len(rom), 16):
        if rom[at : at + 8] == b"RSD PTR ":
            return rom[at : at + 20]
    pytest.fail("no RSDP on a 16-byte boundary of the F-segment")


def table_at(rom: bytes, address: int) -> bytes:
    """The table at a physical address in the ROM, whole as its length says."""
    at = address - BIOS_ADDRESS
    length = int(struct.unpack_from("<I", rom, at + 4)[0])
    return rom[at : at + length]


@pytest.fixture(scope="module")
def tables(rom: bytes, rsdp: bytes) -> dict[bytes, bytes]:
    rsdt = table_at(rom, struct.unpack_from("<I", rsdp, 16)[0])
    found = {b"RSDT": rsdt}
    for (address,) in struct.iter_unpack("<I", rsdt[36:]):
        table = table_at(rom, address)
        found[table[:4]] = table
    found[b"DSDT"] = table_at(rom, struct.unpack_from("<I", found[b"FACP"], 40)[0])
    return found


def test_rsdp_is_of_acpi_1_and_sums_to_zero(rsdp: bytes) -> None:
    assert (sum(rsdp) % 256, rsdp[15]) == (0, 0)


@pytest.mark.parametrize(("name", "size"), [(b"RSDT", 40), (b"FACP", 116), (b"DSDT", None)])
def test_table_has_its_signature_and_sums_to_zero(tables: dict[bytes, bytes], name: bytes, size: int | None) -> None:
    table = tables[name]
    assert (table[:4], sum(table) % 256, table[8]) == (name, 0, 1)
    assert size is None or len(table) == size


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        pytest.param(36, "I", acpi.EBDA + acpi.FACS_OFFSET, id="facs_is_in_the_ebda"),
        pytest.param(46, "H", 9, id="sci"),
        pytest.param(48, "I", 0, id="no_smi_command"),
        pytest.param(56, "II", (acpi.PM_BASE + PmIo.PMSTS, 0), id="pm1_event"),
        pytest.param(64, "III", (acpi.PM_BASE + PmIo.PMCNTRL, 0, 0), id="pm1_control"),
        pytest.param(76, "I", acpi.PM_BASE + PmIo.PMTMR, id="timer"),
        pytest.param(80, "II", (0, 0), id="no_gpe"),
        pytest.param(88, "6B", (4, 2, 0, 4, 0, 0), id="lengths"),
        pytest.param(96, "HH", (101, 1001), id="no_c2_no_c3"),
        pytest.param(108, "B", 0x32, id="century"),
        pytest.param(112, "I", 0x65, id="flags"),
    ],
)
def test_fadt_field(tables: dict[bytes, bytes], offset: int, form: str, value: Any) -> None:
    found = struct.unpack_from(f"<{form}", tables[b"FACP"], offset)
    assert (found if len(found) > 1 else found[0]) == value


def test_facs_is_aligned_and_within_its_part_of_the_ebda() -> None:
    assert (acpi.EBDA + acpi.FACS_OFFSET) % 64 == 0
    assert 0x10 <= acpi.FACS_OFFSET <= 0x100 - acpi.FACS_SIZE


def test_post_and_tables_agree(rom: bytes) -> None:
    symbols = assemble_bios().symbols
    assert symbols["EBDA_SEG"] << 4 == acpi.EBDA
    assert symbols["PM_CONTROL"] == acpi.PM_BASE + PmIo.PMCNTRL
    assert acpi.PM_PORTS == IO_SIZE
    assert symbols["PCI_BAR_END"] < CONFIG_SIZE


# ---- AML -------------------------------------------------------------------------------------------------


def package_length(code: bytes, at: int) -> tuple[int, int]:
    """Where a package ends, and where its content starts."""
    more = code[at] >> 6
    if not more:
        return at + code[at], at + 1
    return at + (code[at] & 15 | int.from_bytes(code[at + 1 : at + 1 + more], "little") << 4), at + 1 + more


def value_at(code: bytes, at: int) -> tuple[Any, int]:
    """A data object, and where the next term starts."""
    match code[at]:
        case 0 | 1:
            return code[at], at + 1
        case 0x0A | 0x0B | 0x0C as prefix:
            size = {0x0A: 1, 0x0B: 2, 0x0C: 4}[prefix]
            return int.from_bytes(code[at + 1 : at + 1 + size], "little"), at + 1 + size
        case 0x12:
            end, at = package_length(code, at + 1)
            count, at, items = code[at], at + 1, []
            while at < end:
                item, at = value_at(code, at)
                items.append(item)
            assert (len(items), at) == (count, end)
            return items, end
        case 0x11:
            end, at = package_length(code, at + 1)
            size, at = value_at(code, at)
            assert at + size == end
            return code[at:end], end
        case other:
            pytest.fail(f"no data object: {other:02x} at {at:#x}")


def names_in(code: bytes, at: int, end: int, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every named constant with its path."""
    while at < end:
        opcode, at = (code[at : at + 2], at + 2) if code[at] == 0x5B else (code[at : at + 1], at + 1)
        stop = end
        if opcode != b"\x08":
            stop, at = package_length(code, at)
        root = code[at] == ord("\\")
        at += root
        name = ("" if root else path) + "/" + code[at : at + 4].decode().rstrip("_")
        at += 4
        if opcode == b"\x08":
            value, at = value_at(code, at)
            yield name, value
        else:
            assert opcode in (b"\x10", b"\x5b\x82"), opcode
            assert stop <= end
            yield from names_in(code, at, stop, name)
            at = stop


@pytest.fixture(scope="module")
def names(tables: dict[bytes, bytes]) -> dict[str, Any]:
    dsdt = tables[b"DSDT"]
    found = list(names_in(dsdt, 36, len(dsdt)))
    assert len(dict(found)) == len(found)
    return dict(found)


def test_s5_is_what_switches_the_chip_off(names: Mapping[str, Any]) -> None:
    assert names["/_S5"] == [acpi.S5_TYPE, acpi.S5_TYPE, 0, 0]


def test_every_pin_has_the_line_that_post_gives_it(names: Mapping[str, Any]) -> None:
    routes = names["/_SB/PCI0/_PRT"]
    expected = {
        (device << 16 | 0xFFFF, pin): pci_routing.irq(device, pin) for device in range(1, 32) for pin in range(4)
    }
    assert {(address, pin): line for address, pin, source, line in routes if source == 0} == expected
    assert len(routes) == len(expected)


@pytest.mark.parametrize(
    ("device", "identifier"),
    [
        ("PCI0", "PNP0A03"),
        ("PCI0/ISA/KBD", "PNP0303"),
        ("PCI0/ISA/COM1", "PNP0501"),
        ("PCI0/ISA/COM2", "PNP0501"),
        ("PCI0/ISA/RTC", "PNP0B00"),
        ("PCI0/ISA/FDC0", "PNP0700"),
    ],
)
def test_device_is_described(names: Mapping[str, Any], device: str, identifier: str) -> None:
    letters, number = identifier[:3], int(identifier[3:], 16)
    packed = sum(ord(letter) - 0x40 << shift for letter, shift in zip(letters, (26, 21, 16), strict=True)) | number
    assert names[f"/_SB/{device}/_HID"] == int.from_bytes(packed.to_bytes(4, "big"), "little")


def items_of(template: bytes) -> Iterator[tuple[int, bytes]]:
    """The items of a resource template: tag and content; the end tag must be the last."""
    at = 0
    while template[at] != 0x79:
        if template[at] & 0x80:
            size, head = int.from_bytes(template[at + 1 : at + 3], "little"), 3
            tag = template[at]
        else:
            size, head = template[at] & 7, 1
            tag = template[at] >> 3
        yield tag, template[at + head : at + head + size]
        at += head + size
    assert at + 2 == len(template)


@pytest.mark.parametrize(
    ("device", "items"),
    [
        ("KBD", [(8, "0160006000 0101"), (8, "0164006400 0101"), (4, "0200")]),
        ("COM1", [(8, "01f803f803 0108"), (4, "1000")]),
        ("COM2", [(8, "01f802f802 0108"), (4, "0800")]),
        ("RTC", [(8, "0170007000 0102"), (4, "0001")]),
        ("FDC0", [(8, "01f203f203 0104"), (8, "01f703f703 0101"), (4, "4000"), (5, "0400")]),
    ],
)
def test_device_has_its_resources(names: Mapping[str, Any], device: str, items: list[tuple[int, str]]) -> None:
    found = list(items_of(names[f"/_SB/PCI0/ISA/{device}/_CRS"]))
    assert found == [(tag, bytes.fromhex(content)) for tag, content in items]


def test_the_root_bridge_hands_on_all_ports_but_its_own(names: Mapping[str, Any]) -> None:
    ports = set()
    for tag, content in items_of(names["/_SB/PCI0/_CRS"]):
        if tag == 0x88 and content[0] == 1:
            first, last, _, length = struct.unpack_from("<4H", content, 5)
            assert length == last - first + 1
            ports |= set(range(first, last + 1))
    assert set(range(0x10000)) - ports == set(range(0xCF8, 0xD00))


def test_the_root_bridge_hands_on_the_memory_that_post_gives_out(names: Mapping[str, Any]) -> None:
    windows = [
        struct.unpack_from("<4I", content, 7) for tag, content in items_of(names["/_SB/PCI0/_CRS"]) if tag == 0x87
    ]
    assert [(first, last) for first, last, _, _ in windows] == [(0xA0000, 0xBFFFF), (0xE000_0000, 0xFEBF_FFFF)]
    assert all(length == last - first + 1 for first, last, _, length in windows)


@pytest.mark.parametrize("size", [0, 1, 0x3A, 0x3B, 0x3C, 0xFE, 0x100, 0xFF0, 0x1000, 0x10_0000])
def test_package_lengths_of_all_sizes(size: int) -> None:
    code = aml.scope("\\_SB_", aml.name("BLOB", aml.resources(bytes(size))))
    end, _ = package_length(code, 1)
    assert end == len(code)
    ((name, value),) = names_in(code, 0, len(code))
    assert (name, value) == ("/_SB/BLOB", bytes(size) + b"\x79\x00")


@pytest.mark.parametrize(
    ("value", "code"),
    [(0, "00"), (1, "01"), (2, "0a02"), (0xFF, "0aff"), (0x100, "0b0001"), (0x1_0000, "0c00000100")],
)
def test_integers_take_their_shortest_form(value: int, code: str) -> None:
    assert aml.integer(value).hex() == code


def test_an_eisa_identifier() -> None:
    assert aml.eisa_id("PNP0A03") == 0x030A_D041


# ---- $PIR ------------------------------------------------------------------------------------------------


def test_the_routing_table_is_found_and_sums_to_zero(rom: bytes) -> None:
    at = next(at for at in range(0, len(rom), 16) if rom[at : at + 4] == b"$PIR")
    size = int.from_bytes(rom[at + 6 : at + 8], "little")
    assert rom[at : at + size] == pci_routing.routing_table()
    assert (sum(rom[at : at + size]) % 256, size) == (0, 32 + 16 * 31)


@pytest.mark.parametrize(
    ("device", "links"),
    [
        pytest.param(1, [0x00, 0x61, 0x62, 0x63], id="the_sci_has_no_link"),
        pytest.param(2, [0x61, 0x62, 0x63, 0x60], id="2"),
        pytest.param(5, [0x60, 0x61, 0x62, 0x63], id="5"),
    ],
)
def test_routing_table_has_the_bridge_registers_for_links(device: int, links: list[int]) -> None:
    slot = pci_routing.routing_table()[32 + 16 * (device - 1) :][:16]
    assert (slot[0], slot[1]) == (0, device << 3)
    assert [slot[2 + 3 * pin] for pin in range(4)] == links
