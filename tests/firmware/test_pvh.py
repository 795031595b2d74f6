"""The PVH loader: hand-made ELF kernels against Xen's x86/HVM direct boot ABI."""

import struct

import pytest

from firmware.bootimage import BootImage, FlatMode, MemoryRange
from firmware.kernel import Kernel
from firmware.pvh import entry_of, find_rsdp, load
from tests.firmware.kernels import MIB, note, pvh_elf
from vmm.arch.registers import Reg
from vmm.errors import ConfigError

RAM = 16 * MIB
MEMORY = (
    MemoryRange(0, 0x9FC00),
    MemoryRange(0x9FC00, 0x400, 2),
    MemoryRange(MIB, RAM - MIB),
    MemoryRange(0xFFFF0000, 0x10000, 2),
)
ENTRY = note(b"Xen", 18, struct.pack("<I", MIB + 16))


class Guest:
    """Guest memory after the boot image has gone in, and the start info in it."""

    def __init__(self, image: BootImage, rsdp_at: int | None = None) -> None:
        self.image = image
        self.memory = bytearray(b"\xcc" * RAM)
        self.memory[0x40E:0x410] = struct.pack("<H", 0x9FC0)
        if rsdp_at is not None:
            self.memory[rsdp_at : rsdp_at + 20] = rsdp()
        for address, length in image.zeros:
            self.memory[address : address + length] = bytes(length)
        for address, data in image.writes:
            self.memory[address : address + len(data)] = data
        for complete in image.completions:
            address, data = complete(self.read)
            self.memory[address : address + len(data)] = data
        self.info = struct.unpack_from("<4I4QII", self.memory, image.registers[Reg.EBX])

    def read(self, at: int, count: int) -> bytes:
        return bytes(self.memory[at : at + count])

    def string(self, at: int) -> bytes:
        return bytes(self.memory[at : self.memory.index(0, at)])

    @property
    def modules(self) -> list[tuple[bytes, bytes]]:
        entries = struct.iter_unpack("<4Q", self.read(self.info[4], 32 * self.info[3]))
        return [(self.read(at, size), self.string(line)) for at, size, line, _ in entries]


def rsdp(checksum: int | None = None) -> bytes:
    table = b"RSD PTR \0GVISOR\0" + struct.pack("<I", 0x1234)
    return table[:8] + bytes(((-sum(table) if checksum is None else checksum) & 0xFF,)) + table[9:]


def boot(kernel: bytes = b"", modules=(), line: str = "", rsdp_at: int | None = None) -> Guest:
    return Guest(load(kernel or pvh_elf(), modules, line, MEMORY), rsdp_at)


def test_the_kernel_is_entered_where_the_note_says():
    guest = boot(pvh_elf(b"\xf4" * 100, note(b"GNU", 18, bytes(4)), note(b"Xen", 6, b"linux\0"), ENTRY))
    assert guest.image.entry == MIB + 16
    assert isinstance(guest.image.mode, FlatMode)


def test_segments_go_to_their_physical_addresses():
    guest = boot(pvh_elf(b"\xf4" * 100, load=2 * MIB, size=5000))
    assert guest.memory[2 * MIB : 2 * MIB + 5001] == b"\xf4" * 100 + bytes(4900) + b"\xcc"


def test_the_start_info_is_of_version_1():
    magic, version, flags, modules, list_at, _, _, _, _, reserved = boot().info
    assert (magic, version, flags, modules, list_at, reserved) == (0x336EC578, 1, 0, 0, 0, 0)


def test_the_memory_map_is_in_the_start_info():
    guest = boot()
    at, count = guest.info[7:9]
    entries = struct.iter_unpack("<QQII", guest.read(at, 24 * count))
    assert [(MemoryRange(*entry[:3]), entry[3]) for entry in entries] == [(piece, 0) for piece in MEMORY]


def test_command_line_and_modules_are_pointed_to():
    guest = boot(modules=((b"ramdisk" * 1000, ""), (b"more", "more words")), line="quiet")
    assert guest.string(guest.info[5]) == b"quiet"
    assert guest.modules == [(b"ramdisk" * 1000, b""), (b"more", b"more words")]


def test_an_initrd_is_the_first_module():
    guest = Guest(Kernel(pvh_elf(), initrd=b"ramdisk", modules=((b"more", "m"),)).lay_out(MEMORY))
    assert guest.modules == [(b"ramdisk", b""), (b"more", b"m")]


@pytest.mark.parametrize("at", [0x9FC00, 0x9FFE0, 0xE0000, 0xF5A40, 0xFFFE0])
def test_the_acpi_root_pointer_is_found_where_firmware_leaves_it(at):
    assert boot(rsdp_at=at).info[6] == at


@pytest.mark.parametrize("at", [None, 0xE0008, 0xA0000, 0x9FBF0])
def test_elsewhere_there_is_none(at):
    assert boot(rsdp_at=at).info[6] == 0


def test_a_root_pointer_with_a_bad_checksum_is_passed_over():
    memory = bytearray(MIB)
    memory[0xE0000:0xE0014], memory[0xE0040:0xE0054] = rsdp(1), rsdp()
    assert find_rsdp(lambda at, count: bytes(memory[at : at + count])) == 0xE0040


def test_an_elf_file_without_the_note_has_no_entry():
    assert entry_of(pvh_elf(b"\xf4", note(b"Xen", 6, b"linux\0"))) is None


PROBLEMS = {
    "entry_outside": (pvh_elf(b"\xf4", note(b"Xen", 18, bytes(4))), "entry 0x0 is not within"),
    "short_note": (pvh_elf(b"\xf4", note(b"Xen", 18, b"\1")), "note has 1 bytes"),
    "long_note": (pvh_elf(b"\xf4", struct.pack("<III", 4, 0xFFFF_FFFF, 18) + b"Xen\0"), "longer than its segment"),
    "truncated_note": (pvh_elf()[:-1], "notes do not lie within"),
    "truncated_segment": (pvh_elf(bytes(100), load=MIB)[:150], "truncated?"),
    "truncated_header": (pvh_elf()[:40], "cut short within its header"),
    "too_large": (pvh_elf(size=RAM), "not all guest RAM"),
    "outside_ram": (pvh_elf(load=RAM), "not all guest RAM"),
    "no_note": (pvh_elf(b"\xf4", note(b"Xen", 6, b"")), "none of"),
}


@pytest.mark.parametrize(("kernel", "told"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_cannot_be_booted(kernel, told):
    with pytest.raises(ConfigError, match=told) as caught:
        Kernel(kernel).lay_out(MEMORY)
    assert "\n" not in str(caught.value)


def test_a_module_that_does_not_fit():
    with pytest.raises(ConfigError, match="of 16777216 bytes does not fit"):
        load(pvh_elf(), ((bytes(RAM), ""),), "", MEMORY)


def test_a_command_line_over_the_limit():
    assert boot(line="x" * 2047).string
    with pytest.raises(ConfigError, match="has 2048 bytes"):
        load(pvh_elf(), (), "x" * 2048, MEMORY)
