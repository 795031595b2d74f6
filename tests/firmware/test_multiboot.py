"""The Multiboot loader: hand-made kernels against the Multiboot Specification 0.6.96."""

import struct
from itertools import pairwise

import pytest

from firmware.bootimage import BootImage, FlatMode, MemoryRange, RealMode, load_flat
from firmware.kernel import Kernel
from firmware.multiboot import HEADER_MAGIC, LOADER_MAGIC, InfoFlag, find_header, load
from vmm.arch.registers import Reg
from vmm.errors import ConfigError

MIB = 1 << 20
RAM = 16 * MIB
MEMORY = (
    MemoryRange(0, 0x9FC00),
    MemoryRange(0x9FC00, 0x400, 2),
    MemoryRange(0xF0000, 0x10000, 2),
    MemoryRange(MIB, RAM - MIB),
    MemoryRange(0xFFFC0000, 0x40000, 2),
)
ADDRESSES = 1 << 16
CODE = b"\xfa\xf4" * 100


def header(flags: int = 0, *addresses: int, checksum: int | None = None) -> bytes:
    check = -(HEADER_MAGIC + flags) & 0xFFFFFFFF if checksum is None else checksum
    return struct.pack(f"<III{len(addresses)}I", HEADER_MAGIC, flags, check, *addresses)


def kludge(
    load_address: int = MIB, offset: int = 16, load_end: int = 0, bss_end: int = 0, entry: int | None = None
) -> bytes:
    """A file with a header at `offset` that loads from its start."""
    entry = load_address + 64 if entry is None else entry
    fields = (load_address + offset, load_address, load_end, bss_end, entry)
    return bytes(offset) + header(ADDRESSES, *fields) + CODE


def elf32(segments, sections=(), *, entry=MIB + 0x40, machine=3, kind=1, flags=0) -> bytes:
    """An ELF file. Segments are (virtual, physical, data, size); sections (type, address, data)."""
    programs, contents = b"", header(flags) + b"\0" * 4
    base = 52 + 32 * len(segments)
    for virtual, physical, data, size in segments:
        programs += struct.pack("<IIIIIIII", 1, base + len(contents), virtual, physical, len(data), size, 7, 4)
        contents += data
    table = b""
    for section_type, address, data in sections:
        table += struct.pack("<IIIIIIIIII", 0, section_type, 0, address, base + len(contents), len(data), 0, 0, 1, 0)
        contents += data
    ident = b"\x7fELF" + bytes((kind, 1, 1)) + bytes(9)
    shape = (2, machine, 1, entry, 52, base + len(contents), 0, 52, 32, len(segments), 40, len(sections), 1)
    return ident + struct.pack("<HHIIIIIHHHHHH", *shape) + programs + contents + table


SEGMENT = (MIB, MIB, CODE, 0x3000)


class Guest:
    """Guest memory after the boot image has gone in, and the boot information read from it."""

    def __init__(self, image: BootImage, size: int = RAM):
        self.memory = bytearray(b"\xcc" * size)
        self.image = image
        for address, length in image.zeros:
            self.memory[address : address + length] = bytes(length)
        for address, data in image.writes:
            self.memory[address : address + len(data)] = data
        assert len(self.memory) == size
        self.address = image.registers[Reg.EBX]
        self.info = struct.unpack_from("<20I4HQIIIBB", self.memory, self.address)
        self.flags, self.lower, self.upper = self.info[:3]

    def string(self, address: int) -> str:
        return self.memory[address : self.memory.index(0, address)].decode()

    def modules(self) -> list[tuple[bytes, str]]:
        count, table = self.info[5:7]
        entries = struct.iter_unpack("<IIII", self.memory[table : table + 16 * count])
        return [(bytes(self.memory[start:end]), self.string(text)) for start, end, text, _ in entries]

    def module_starts(self) -> list[int]:
        count, table = self.info[5:7]
        return [entry[0] for entry in struct.iter_unpack("<IIII", self.memory[table : table + 16 * count])]

    def map(self) -> list[MemoryRange]:
        length, at = self.info[11:13]
        entries, end = [], at + length
        while at < end:
            size, base, extent, kind = struct.unpack_from("<IQQI", self.memory, at)
            entries.append(MemoryRange(base, extent, kind))
            at += size + 4
        return entries


def boot(kernel: bytes, modules=(), command_line: str = "", memory=MEMORY) -> Guest:
    return Guest(load(kernel, modules, command_line, memory))


# -- finding the header ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 4, 64, 8180])
def test_the_header_is_found_in_the_first_8_kib(offset):
    assert find_header(bytes(offset) + header(3) + bytes(64)).offset == offset


def test_a_bad_header_before_a_good_one_is_passed_over():
    assert find_header(header(0, checksum=1) + header(0)).offset == 12


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (b"", "no Multiboot header"),
        (bytes(20000), "no Multiboot header in its first 8192"),
        (bytes(2) + header(), "no Multiboot header"),
        (bytes(8184) + header(), "no Multiboot header"),
        (bytes(8192) + header(), "no Multiboot header"),
        (header(0, checksum=12345), "bad checksum"),
        (struct.pack("<I", 0xE85250D6) + bytes(100), "Multiboot 2"),
        (header(1 << 3), "flags 0x0008"),
        (bytes(8180) + header(ADDRESSES, 1, 2, 3, 4, 5), "cut short within its load addresses"),
        (header() + bytes(100), "not an ELF file"),
    ],
)
def test_what_is_no_multiboot_kernel(kernel, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        load(kernel, (), "", MEMORY)
    assert "\n" not in str(caught.value)


# -- loading by the header's addresses -------------------------------------------------------------------------------


def test_the_whole_file_is_loaded_when_no_end_is_given():
    kernel = kludge()
    image = load(kernel, (), "", MEMORY)
    assert image.writes[0] == (MIB, kernel)
    assert (image.zeros, image.entry, image.registers[Reg.EAX]) == ((), MIB + 64, LOADER_MAGIC)


def test_load_end_and_bss_end_are_honoured():
    kernel = kludge(load_end=MIB + 100, bss_end=MIB + 5000)
    image = load(kernel, (), "", MEMORY)
    assert (image.writes[0], image.zeros) == ((MIB, kernel[:100]), ((MIB + 100, 4900),))


def test_loading_may_start_within_the_file():
    front = b"front" * 20
    kernel = front + header(ADDRESSES, MIB, MIB, 0, 0, MIB + 32) + CODE
    image = load(kernel, (), "", MEMORY)
    assert (image.writes[0], image.entry) == ((MIB, kernel[len(front) :]), MIB + 32)


def test_the_addresses_win_over_an_elf_header():
    kernel = bytearray(kludge(offset=64))
    kernel[:5] = b"\x7fELF\x02"
    assert load(bytes(kernel), (), "", MEMORY).writes[0] == (MIB, bytes(kernel))


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (kludge(load_address=RAM - 100), "not all guest RAM"),
        (kludge(load_address=0x9FC00), "not all guest RAM"),
        (kludge(load_address=0xFFFF0000), "not all guest RAM"),
        (kludge(bss_end=RAM + 1), "not all guest RAM"),
        (kludge(load_end=MIB + 5000), "asks for bytes"),
        (kludge(load_end=MIB), "asks for bytes"),
        (kludge(load_end=MIB + 100, bss_end=MIB + 50), "bss end before its load end"),
        (kludge(entry=MIB - 1), "entry 0xfffff is not within"),
        (header(ADDRESSES, MIB - 1, MIB, 0, 0, MIB) + CODE, "before the file's start"),
        (header(ADDRESSES, MIB + 16, MIB, 0, 0, MIB) + CODE, "before the file's start"),
    ],
)
def test_load_addresses_that_cannot_be(kernel, problem):
    with pytest.raises(ConfigError, match=problem):
        load(kernel, (), "", MEMORY)


# -- ELF -------------------------------------------------------------------------------------------------------------


def test_elf_segments_go_to_their_physical_addresses_and_bss_is_zero():
    kernel = elf32([(0xC0100000, MIB, CODE, 0x3000), (0xC0200000, 2 * MIB, b"data", 4)], entry=0xC0100010)
    image = load(kernel, (), "", MEMORY)
    assert image.writes[:2] == ((MIB, CODE), (2 * MIB, b"data"))
    assert (image.zeros, image.entry) == (((MIB + len(CODE), 0x3000 - len(CODE)),), MIB + 0x10)


def test_a_physical_entry_is_taken_as_it_is():
    assert load(elf32([(0xC0100000, MIB, CODE, 0x3000)], entry=MIB + 8), (), "", MEMORY).entry == MIB + 8


def test_a_486_elf_is_accepted():
    assert load(elf32([SEGMENT], machine=6), (), "", MEMORY).entry == MIB + 0x40


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (elf32([SEGMENT], kind=2), "64-bit ELF"),
        (elf32([SEGMENT], machine=8), "machine 8"),
        (elf32([SEGMENT])[:40], "no Multiboot header"),
        (elf32([SEGMENT])[:-50], "segments do not lie within it"),
        (elf32([SEGMENT], [(3, 0, b"names")])[:-1], "header tables do not lie within it"),
        (elf32([(MIB, MIB, CODE, 10)]), "segments do not lie within it"),
        (elf32([]), "nothing to load"),
        (elf32([(RAM, RAM, CODE, 0x100)]), "not all guest RAM"),
        (elf32([(MIB, MIB, CODE, RAM)]), "not all guest RAM"),
        (elf32([(MIB, MIB, CODE, 14 * MIB)] * 3), "segments overlap"),
        (elf32([SEGMENT], entry=5), "entry 0x5 is not within"),
    ],
)
def test_elf_files_that_cannot_be_loaded(kernel, problem):
    with pytest.raises(ConfigError, match=problem):
        load(kernel, (), "", MEMORY)


def test_an_elf_header_cut_short():
    with pytest.raises(ConfigError, match="cut short within its header"):
        load(b"\x7fELF" + header() + bytes(10), (), "", MEMORY)


def test_a_section_outside_the_file():
    kernel = bytearray(elf32([SEGMENT], [(2, 0, b"symbols")]))
    kernel[-40 + 16 : -40 + 20] = struct.pack("<I", len(kernel))
    with pytest.raises(ConfigError, match="sections do not lie within it"):
        load(bytes(kernel), (), "", MEMORY)


def test_section_headers_are_passed_and_loose_sections_loaded():
    sections = [(0, 0, b""), (3, 0, b"\0.text\0"), (1, MIB, CODE), (2, 0, b"symbols" * 9), (8, 0, b"no bits")]
    guest = boot(elf32([SEGMENT], sections))
    assert guest.flags & InfoFlag.ELF_SECTIONS
    count, size, table, names = guest.info[7:11]
    assert (count, size, names) == (5, 40, 1)
    headers = list(struct.iter_unpack("<10I", guest.memory[table : table + 200]))
    assert [h[1] for h in headers] == [0, 3, 1, 2, 8]
    assert (headers[0][3], headers[2][3], headers[4][3]) == (0, MIB, 0)
    for index in (1, 2, 3):
        address, content = headers[index][3], sections[index][2]
        assert bytes(guest.memory[address : address + len(content)]) == content


def test_without_sections_the_flag_is_clear():
    assert not boot(elf32([SEGMENT])).flags & InfoFlag.ELF_SECTIONS


# -- boot information ------------------------------------------------------------------------------------------------


def test_memory_sizes_and_map():
    guest = boot(kludge())
    assert (guest.lower, guest.upper) == (0x9FC00 >> 10, (RAM - MIB) >> 10)
    assert guest.map() == list(MEMORY)


@pytest.mark.parametrize(
    ("memory", "lower", "upper"),
    [
        ([MemoryRange(0, 4 * MIB)], 640, 3072),
        (
            [MemoryRange(0, 0xA0000), MemoryRange(MIB, MIB), MemoryRange(2 * MIB, MIB), MemoryRange(8 * MIB, MIB)],
            640,
            2048,
        ),
        ([MemoryRange(MIB, 3 * MIB)], 0, 3072),
        ([MemoryRange(0, 0xA0000), MemoryRange(MIB, MIB), MemoryRange(1 << 32, 1 << 32)], 640, 1024),
    ],
)
def test_memory_sizes_of_odd_maps(memory, lower, upper):
    guest = boot(kludge(), memory=memory)
    assert (guest.lower, guest.upper) == (lower, upper)


def test_strings():
    guest = boot(kludge(), command_line="/kernel root=ram0 ünï")
    assert guest.string(guest.info[4]) == "/kernel root=ram0 ünï"
    assert guest.string(guest.info[16]) == "glassvisor"
    assert guest.flags & (InfoFlag.COMMAND_LINE | InfoFlag.LOADER_NAME) == 0x204


@pytest.mark.parametrize(("append", "told"), [("quiet  x", "/boot/k.elf quiet  x"), ("", "/boot/k.elf")])
def test_a_kernel_is_told_its_name_first(append, told):
    """As boot loaders do; a kernel drops the first word, or takes it for argv[0]."""
    guest = Guest(Kernel(kludge(), append, name="/boot/k.elf").lay_out(MEMORY))
    assert guest.string(guest.info[4]) == told


def test_an_initrd_is_the_first_module():
    given = Kernel(kludge(), initrd=b"ram disk", modules=((b"more", "more arg"),), initrd_name="disk.img")
    assert Guest(given.lay_out(MEMORY)).modules() == [(b"ram disk", "disk.img"), (b"more", "more arg")]


def test_a_command_line_with_a_null_is_refused():
    with pytest.raises(ConfigError, match="null character"):
        boot(kludge(), command_line="a\0b")


def test_the_text_mode_is_described():
    guest = boot(kludge())
    assert guest.info[24:] == (0xB8000, 160, 80, 25, 16, 2)
    assert guest.flags & InfoFlag.FRAMEBUFFER


def test_what_is_not_given_is_not_flagged():
    assert boot(kludge()).flags == 0x124D  # memory, command line, modules, map, loader name, framebuffer


def test_modules_are_page_aligned_above_the_kernel_and_apart():
    modules = [(b"one" * 2000, "first arg"), (b"", "empty"), (b"three", "third")]
    guest = boot(elf32([SEGMENT]), modules)
    assert guest.modules() == modules
    starts = guest.module_starts()
    assert [start % 4096 for start in starts] == [0, 0, 0]
    assert min(starts) >= MIB + 0x3000
    assert bytes(guest.memory[MIB : MIB + len(CODE)]) == CODE


def test_no_modules():
    assert boot(kludge()).info[5:7] == (0, 0)


def test_modules_go_below_a_kernel_at_the_top_of_memory():
    kernel = kludge(load_address=RAM - 0x1000)
    guest = boot(kernel, [(bytes(MIB), "big"), (b"x", "small")])
    assert guest.module_starts() == [MIB, 2 * MIB]


def test_pieces_are_placed_around_the_kernel_in_low_memory():
    guest = boot(kludge(load_address=0x1_0000), command_line="low")
    assert 0x1_0000 + len(kludge()) <= guest.address < 0xA0000
    assert guest.string(guest.info[4]) == "low"


def test_boot_information_moves_up_when_low_memory_is_full():
    guest = boot(kludge(load_address=0x1_0000, bss_end=0x9_FC00), command_line="high")
    assert guest.address >= MIB
    assert guest.string(guest.info[4]) == "high"


@pytest.mark.parametrize("size", [15 * MIB, 14 * MIB])
def test_modules_that_do_not_fit(size):
    with pytest.raises(ConfigError, match="do not fit into guest memory"):
        boot(kludge(), [(bytes(size), "big"), (bytes(MIB), "more")])


def test_nothing_overlaps():
    guest = boot(elf32([SEGMENT], [(3, 0, b"n" * 5000)]), [(bytes(5000), "a"), (bytes(1), "b")], "line")
    pieces = sorted([(a, a + len(d)) for a, d in guest.image.writes] + [(a, a + n) for a, n in guest.image.zeros])
    assert all(first[1] <= second[0] for first, second in pairwise(pieces))


# -- flat binaries ---------------------------------------------------------------------------------------------------


def test_a_flat_binary():
    assert load_flat(CODE, 0x7C00, MEMORY) == BootImage(((0x7C00, CODE),), (), 0x7C00, {}, RealMode())


def test_a_flat_binary_from_1_mib_up_is_entered_in_protected_mode():
    assert load_flat(CODE, MIB, MEMORY).mode == FlatMode()


@pytest.mark.parametrize("address", [-1, 0x9FC00, RAM - 1, RAM, 1 << 32])
def test_a_flat_binary_outside_ram(address):
    with pytest.raises(ConfigError, match="not all guest RAM"):
        load_flat(CODE, address, MEMORY)


def test_an_empty_flat_binary():
    with pytest.raises(ConfigError, match="not within what it loads"):
        load_flat(b"", 0x7C00, MEMORY)
