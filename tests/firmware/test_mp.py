"""The MP tables and the MADT in the BIOS image of a board with APICs, parsed back."""

import struct
from collections.abc import Iterator

import pytest

from firmware import acpi, mp, pci_routing
from firmware.build import BIOS_ADDRESS, assemble_bios, build_bios
from vmm.cpu.cpuid import Feature, cpuid

PROCESSOR, BUS, IO_APIC, IO_INTERRUPT, LOCAL_INTERRUPT = range(5)
SIZES = {PROCESSOR: 20, BUS: 8, IO_APIC: 8, IO_INTERRUPT: 8, LOCAL_INTERRUPT: 8}


@pytest.fixture(scope="module")
def rom() -> bytes:
    return build_bios(apic=True)


@pytest.fixture(scope="module")
def pointer(rom: bytes) -> bytes:
    """Found as the specification says: on a 16-byte boundary of the F-segment."""
    found = [rom[at : at + 16] for at in range(0, len(rom), 16) if rom[at : at + 4] == b"_MP_"]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def table(rom: bytes, pointer: bytes) -> bytes:
    at = struct.unpack_from("<I", pointer, 4)[0] - BIOS_ADDRESS
    return rom[at : at + struct.unpack_from("<H", rom, at + 4)[0]]


@pytest.fixture(scope="module")
def entries(table: bytes) -> list[bytes]:
    return list(entries_of(table))


def entries_of(table: bytes) -> Iterator[bytes]:
    at = 44
    while at < len(table):
        size = SIZES[table[at]]
        yield table[at : at + size]
        at += size


def test_floating_pointer_is_whole_and_says_virtual_wire(pointer: bytes) -> None:
    assert (sum(pointer) % 256, pointer[8:10], pointer[11:]) == (0, b"\x01\x04", bytes(5))


def test_configuration_table_counts_its_entries(table: bytes, entries: list[bytes]) -> None:
    assert (table[:4], sum(table) % 256, table[6]) == (b"PCMP", 0, 4)
    assert struct.unpack_from("<HI", table, 34) == (len(entries), 0xFEE0_0000)
    assert [entry[0] for entry in entries] == sorted(entry[0] for entry in entries)


def test_one_processor_one_io_apic_two_buses(entries: list[bytes]) -> None:
    by_type = {kind: [entry for entry in entries if entry[0] == kind] for kind in SIZES}
    assert [entry[:4] for entry in by_type[PROCESSOR]] == [bytes((0, 0, 0x14, 3))]
    assert by_type[IO_APIC] == [struct.pack("<BBBBI", 2, mp.IO_APIC_ID, 0x11, 1, 0xFEC0_0000)]
    assert [(entry[1], entry[2:]) for entry in by_type[BUS]] == [(0, b"PCI   "), (1, b"ISA   ")]


def test_the_processor_is_the_one_that_cpuid_shows(entries: list[bytes]) -> None:
    signature, features = struct.unpack_from("<II", entries[0], 4)
    eax, _, _, edx = cpuid(1)
    assert (signature, features & ~edx) == (eax, int(Feature.APIC))


def test_interrupts_go_where_the_board_has_wires(entries: list[bytes]) -> None:
    isa = {entry[5]: entry[7] for entry in entries if entry[0] == IO_INTERRUPT and entry[4] == 1}
    pci = {entry[5]: entry[7] for entry in entries if entry[0] == IO_INTERRUPT and entry[4] == 0}
    assert isa == {0: 2, 1: 1, **{irq: irq for irq in range(3, 16)}}
    assert pci == {device << 2 | pin: pci_routing.irq(device, pin) for device in range(1, 32) for pin in range(4)}
    local = [(entry[1], entry[6], entry[7]) for entry in entries if entry[0] == LOCAL_INTERRUPT]
    assert local == [(3, 0xFF, 0), (1, 0xFF, 1)]  # ExtINT at LINT0, NMI at LINT1


def test_pci_interrupts_are_levels_on_both_buses(entries: list[bytes]) -> None:
    level = {entry[7] for entry in entries if entry[0] == IO_INTERRUPT and struct.unpack_from("<H", entry, 2)[0] == 0xD}
    assert level == {pci_routing.SCI_IRQ, *pci_routing.PIRQ_IRQS}


# --- MADT -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(rom: bytes) -> dict[bytes, bytes]:
    at = next(at for at in range(0, len(rom), 16) if rom[at : at + 8] == b"RSD PTR ")
    rsdt = struct.unpack_from("<I", rom, at + 16)[0] - BIOS_ADDRESS
    size = struct.unpack_from("<I", rom, rsdt + 4)[0]
    found = {}
    for (address,) in struct.iter_unpack("<I", rom[rsdt + 36 : rsdt + size]):
        start = address - BIOS_ADDRESS
        found[rom[start : start + 4]] = rom[start : start + struct.unpack_from("<I", rom, start + 4)[0]]
    return found


def test_madt_is_whole_and_named_by_the_rsdt(tables: dict[bytes, bytes]) -> None:
    assert set(tables) == {b"FACP", b"APIC"}
    assert [sum(table) % 256 for table in tables.values()] == [0, 0]
    assert tables[b"FACP"][44] == 1  # multiple APIC


def test_madt_entries(tables: dict[bytes, bytes]) -> None:
    madt = tables[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE0_0000, 1)
    found, at = [], 44
    while at < len(madt):
        found.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    assert found[0] == bytes((0, 8, 0, 0, 1, 0, 0, 0))
    assert found[1] == struct.pack("<BBBBII", 1, 12, mp.IO_APIC_ID, 0, 0xFEC0_0000, 0)
    overrides = {entry[3]: struct.unpack_from("<IH", entry, 4) for entry in found if entry[0] == 2}
    assert overrides == {0: (2, 0), 9: (9, 0xD), 10: (10, 0xD), 11: (11, 0xD)}
    assert found[-1] == bytes((4, 6, 0xFF, 0, 0, 1))


def test_the_default_board_has_neither() -> None:
    rom = build_bios()
    assert b"_MP_" not in rom
    assert acpi.tables(0).count(b"APIC") == 0


def test_post_and_tables_agree() -> None:
    symbols = assemble_bios(apic=True).symbols
    assert (symbols["LOCAL_APIC"], symbols["IO_APIC"]) == (mp.LOCAL_APIC, mp.IO_APIC)
    assert symbols["IO_APIC_IDENTIFICATION"] == mp.IO_APIC_ID << 24
