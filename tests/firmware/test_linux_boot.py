"""The Linux loader: hand-made kernels against Documentation/arch/x86/boot.rst and zero-page.rst."""

import struct

import pytest

from firmware.bootimage import BootImage, FlatMode, MemoryRange, RealMode
from firmware.kernel import Kernel
from firmware.linux import GDT, load, screen_info
from tests.firmware.kernels import MIB, bzimage, field
from vmm.arch.descriptors import Descriptor
from vmm.arch.registers import Reg
from vmm.errors import ConfigError

RAM = 64 * MIB
MEMORY = (
    MemoryRange(0, 0x9FC00),
    MemoryRange(0x9FC00, 0x400, 2),
    MemoryRange(0xF0000, 0x10000, 2),
    MemoryRange(MIB, RAM - MIB),
    MemoryRange(0xFFFF0000, 0x10000, 2),
)
CODE = bytes(range(256)) * 20


class Guest:
    """Guest memory after the boot image has gone in; the BIOS data area is as after POST in mode 3."""

    def __init__(self, image: BootImage) -> None:
        self.image = image
        self.memory = bytearray(RAM)
        self.memory[0x417] = 0x20
        self.memory[0x449:0x44C] = b"\x03\x50\x00"
        self.memory[0x450:0x452] = b"\x07\x05"
        self.memory[0x484:0x48A] = b"\x18\x10\x00\x60\x09\x11"
        for address, data in image.writes:
            self.memory[address : address + len(data)] = data
        for complete in image.completions:
            address, data = complete(lambda at, count: bytes(self.memory[at : at + count]))
            self.memory[address : address + len(data)] = data
        assert len(self.memory) == RAM

    @property
    def page(self) -> bytes:
        at = self.image.registers[Reg.ESI]
        return bytes(self.memory[at : at + 4096])

    def __getitem__(self, name: str) -> int:
        return field(self.page, name)

    @property
    def command_line(self) -> bytes:
        at = self["cmd_line_ptr"]
        return bytes(self.memory[at : self.memory.index(0, at)])

    @property
    def initrd(self) -> bytes:
        return bytes(self.memory[self["ramdisk_image"] :][: self["ramdisk_size"]])


def boot(image: bytes = b"", initrd: bytes | None = None, line: str = "", memory=MEMORY) -> Guest:
    return Guest(load(image or bzimage(CODE), initrd, line, memory))


def problem(image: bytes, initrd: bytes | None = None, line: str = "", memory=MEMORY) -> str:
    with pytest.raises(ConfigError) as caught:
        load(image, initrd, line, memory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the 32-bit entry ------------------------------------------------------------------------------------------------


def test_a_bzimage_is_entered_at_code32_start_with_the_zero_page_in_esi():
    image = boot().image
    assert image.entry == MIB
    assert {image.registers[reg] for reg in (Reg.EBP, Reg.EDI, Reg.EBX)} == {0}
    assert 0x1_0000 <= image.registers[Reg.ESI] < 0xA_0000


def test_the_protected_mode_code_is_loaded_without_what_follows_it():
    guest = boot(bzimage(CODE) + b"signature")
    assert guest.memory[MIB : MIB + len(CODE) + 1] == CODE + b"\0"


def test_the_boot_segments_are_in_a_gdt_in_guest_memory():
    guest = boot()
    assert isinstance(guest.image.mode, FlatMode)
    assert (guest.image.mode.code, guest.image.mode.data) == (0x10, 0x18)
    base, size = guest.image.mode.gdt
    assert guest.memory[base : base + size] == GDT
    code, data = (Descriptor.from_bytes(GDT[at : at + 8]) for at in (0x10, 0x18))
    assert (code.base, code.limit, data.base, data.limit) == (0, 0xFFFF_FFFF, 0, 0xFFFF_FFFF)


def test_the_setup_header_is_copied_and_nothing_else_of_the_file():
    image = bytearray(bzimage(CODE, vid_mode=0x1234))
    image[0x1EF] = 0xFF  # the sentinel of a loader that copies too much
    guest = boot(bytes(image))
    kept = ("version", "vid_mode", "boot_flag", "syssize", "pref_address", "init_size", "payload_length")
    assert [guest[name] for name in kept] == [field(image, name) for name in kept]
    assert guest.page[0x40:0x1E0] == bytes(0x1E0 - 0x40)
    assert guest.page[0x1EF] == 0
    assert guest.page[0x26C:0x2D0] == bytes(0x2D0 - 0x26C)


def test_the_loader_says_that_it_is_unregistered():
    assert boot()["type_of_loader"] == 0xFF


def test_the_memory_map_is_in_the_zero_page():
    page = boot().page
    assert page[0x1E8] == len(MEMORY)
    entries = struct.iter_unpack("<QQI", page[0x2D0 : 0x2D0 + 20 * len(MEMORY)])
    assert tuple(MemoryRange(*entry) for entry in entries) == MEMORY


def test_memory_sizes_are_those_of_int_15h():
    page = boot().page
    assert struct.unpack_from("<H", page, 2) == (63 << 10,)
    assert struct.unpack_from("<I", page, 0x1E0) == (63 << 10,)


def test_screen_info_is_the_text_mode_after_post():
    page = boot().page
    x, y, _, video_page, mode, columns, _, ega_bx, lines, is_vga, points = struct.unpack_from("<BBHHBBBxHxxBBH", page)
    assert (x, y, video_page, mode, columns, lines) == (7, 5, 0, 3, 80, 25)
    assert (ega_bx, is_vga, points) == (0x0003, 1, 16)


def test_screen_info_knows_monochrome_and_other_pages():
    data = bytearray(0x500)
    data[0x450:0x458] = bytes(range(8))
    data[0x462], data[0x487] = 2, 0x22
    assert screen_info(lambda at, count: bytes(data[at : at + count]), 0)[:12] == b"\4\5\0\0\2\0\0\0\0\0\1\1"


def test_a_video_page_that_does_not_exist_is_none_of_memory_beyond():
    assert len(screen_info(lambda _at, count: b"\xff" * count, 0)) == 18


def test_keyboard_flags_are_those_of_the_bios():
    assert boot().page[0x1EB] == 0x20


def test_the_command_line_is_pointed_to():
    guest = boot(line="console=ttyS0 quiet")
    assert guest.command_line == b"console=ttyS0 quiet"
    assert guest["cmd_line_ptr"] < 0xA_0000


def test_no_initrd_is_no_address():
    guest = boot()
    assert (guest["ramdisk_image"], guest["ramdisk_size"]) == (0, 0)


# -- initrd ----------------------------------------------------------------------------------------------------------

INITRD = b"cpio" * 2000


@pytest.mark.parametrize(
    ("limit", "line", "end"),
    [
        (0x7FFF_FFFF, "", RAM),
        (0x01FF_FFFF, "", 0x200_0000),
        (0x01FF_F000, "", 0x1FF_F000 + 1 & ~0xFFF),
        (0x7FFF_FFFF, "mem=32M", 32 * MIB),
        (0x7FFF_FFFF, "quiet mem=0x1800K", 6 * MIB),
        (0x7FFF_FFFF, "mem=nopentium", RAM),
        (0x7FFF_FFFF, "crashmem=8M", RAM),
    ],
)
def test_the_initrd_is_as_high_as_the_kernel_and_mem_allow(limit, line, end):
    guest = boot(bzimage(CODE, initrd_addr_max=limit), INITRD, line)
    assert guest.initrd == INITRD
    assert guest["ramdisk_image"] % 4096 == 0
    assert end - 4096 - len(INITRD) < guest["ramdisk_image"] <= end - len(INITRD)


def test_the_initrd_stays_clear_of_where_the_kernel_unpacks_itself():
    kernel = bzimage(CODE, pref_address=32 * MIB, init_size=32 * MIB)
    guest = boot(kernel, INITRD)
    assert guest["ramdisk_image"] + len(INITRD) <= 32 * MIB


def test_the_initrd_stays_below_896_mib_for_a_kernel_that_cannot_say():
    huge = (MemoryRange(0, 0x9FC00), MemoryRange(MIB, 2047 * MIB))
    image = load(bzimage(CODE, version=0x202, header_end=0x22C), INITRD, "", huge)
    address = next(at for at, data in image.writes if data == INITRD)
    assert 0x37FF_C000 < address + len(INITRD) <= 0x3800_0000


@pytest.mark.parametrize(
    ("fields", "initrd", "told"),
    [
        ({}, bytes(63 * MIB), "the initrd of 66060288 bytes does not fit"),
        ({"initrd_addr_max": 2 * MIB}, bytes(2 * MIB), "does not fit"),
        ({"pref_address": 4 * MIB, "init_size": 59 * MIB}, bytes(4 * MIB), "does not fit"),
    ],
)
def test_an_initrd_that_does_not_fit(fields, initrd, told):
    assert told in problem(bzimage(CODE, **fields), initrd)


# -- where the kernel runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"pref_address": 16 * MIB, "init_size": 49 * MIB}, "0x1000000..0x4100000"),
        ({"pref_address": MIB + 4096, "kernel_alignment": 32 * MIB, "init_size": 33 * MIB}, "0x2000000..0x4100000"),
        ({"pref_address": 63 * MIB, "init_size": 2 * MIB, "relocatable_kernel": 0}, "0x3f00000..0x4100000"),
    ],
)
def test_a_kernel_that_needs_more_memory_says_how_much(fields, wanted):
    told = problem(bzimage(CODE, **fields))
    assert wanted in told
    assert "--memory" in told


def test_a_kernel_that_just_fits():
    assert boot(bzimage(CODE, pref_address=16 * MIB, init_size=48 * MIB)).image.entry == MIB


def test_a_kernel_before_2_10_is_loaded_without_knowing_what_it_needs():
    guest = boot(bzimage(CODE, version=0x209, header_end=0x258))
    assert guest.image.entry == MIB
    assert guest.page[0x258:0x2D0] == bytes(0x2D0 - 0x258)


def test_code_that_is_loaded_to_where_there_is_no_ram():
    assert "not all guest RAM; it needs --memory 65M or more" in problem(bzimage(CODE, code32_start=RAM - 4096))


TOO_MUCH = [
    {"code32_start": 0xFFFF_FFF0},
    {"code32_start": 0xA_0000},
    {"init_size": 0xFFFF_FFFF},
    {"pref_address": 1 << 63},
]


@pytest.mark.parametrize("fields", TOO_MUCH, ids=str)
def test_no_memory_is_asked_for_that_nobody_can_give(fields):
    told = problem(bzimage(CODE, **fields))
    assert "which is not all guest RAM" in told
    assert "--memory" not in told


@pytest.mark.parametrize("magic", ["1f8b", "1f9e", "425a", "5d00", "fd37", "0221", "28b5", "894c", "7f45"])
def test_every_way_to_compress_a_kernel_is_known(magic):
    code = bytes(32) + bytes.fromhex(magic) + bytes(100)
    assert boot(bzimage(code, payload_offset=32, payload_length=102)).image.entry == MIB


# -- the real-mode entry ---------------------------------------------------------------------------------------------

REAL = [
    pytest.param(0x20F, 1, {"code32_start": 0}, 0x1_0000, MIB, id="no_entry_32"),
    pytest.param(0x200, 1, {}, 0x9_0000, MIB, id="protocol_2_00"),
    pytest.param(0x201, 1, {}, 0x9_0000, MIB, id="protocol_2_01"),
    pytest.param(0x203, 0, {}, 0x9_0000, 0x1_0000, id="zimage"),
]


@pytest.mark.parametrize(("version", "flags", "fields", "base", "code_at"), REAL)
def test_what_has_no_32_bit_entry_is_entered_in_real_mode(version, flags, fields, base, code_at):
    kernel = bzimage(CODE, version=version, loadflags=flags, **fields)
    image = load(kernel, INITRD, "auto", MEMORY)
    mode = image.mode
    assert isinstance(mode, RealMode)
    assert (mode.code * 16, mode.data * 16, image.entry) == (base + 0x200, base, 0)
    guest = Guest(image)
    assert guest.memory[code_at : code_at + len(CODE)] == CODE
    setup = guest.memory[base : base + 0x800]
    assert field(setup, "ramdisk_size") == len(INITRD)
    assert field(setup, "loadflags") == flags | 0x80
    line = base + mode.stack
    assert guest.memory[line : line + 5] == b"auto\0"
    assert setup[0x260:] == kernel[0x260:0x800]


def test_the_command_line_of_2_01_is_found_by_its_magic():
    guest = Guest(load(bzimage(CODE, version=0x201), None, "auto", MEMORY))
    magic, offset = struct.unpack_from("<HH", guest.memory, 0x9_0020)
    assert magic == 0xA33F
    assert guest.memory[0x9_0000 + offset :][:5] == b"auto\0"
    assert field(guest.memory[0x9_0000:0x9_0800], "cmd_line_ptr") == 0


def test_heap_and_command_line_of_2_02_are_pointed_to():
    guest = Guest(load(bzimage(CODE, loadflags=0, version=0x202), None, "auto", MEMORY))
    setup = guest.memory[0x9_0000:0x9_0800]
    assert field(setup, "cmd_line_ptr") == 0x9_9800
    assert field(setup, "heap_end_ptr") == 0x9800 - 0x200


def test_a_zimage_that_is_too_long_for_low_memory():
    told = problem(bzimage(bytes(0x80010), loadflags=0))
    assert "zImage of 524304 bytes" in told


# -- headers that lie ------------------------------------------------------------------------------------------------

PACKED = b"\xfd7zXZ\0" + bytes(5194)


def lying_about_setup(sects: int) -> bytes:
    """A kernel with a payload behind 3 sectors of setup code, and another number of them in its header."""
    image = bytearray(bzimage(PACKED, payload_length=len(PACKED)))
    image[0x1F1] = sects
    return bytes(image)


LIES = {
    "boot_flag": (bzimage(boot_flag=0x1234), "1234h"),
    "version_1": (bzimage(version=0x1FF), "2.00 or later"),
    "setup_sects": (bzimage()[:0x210] + bytes(100), "setup header"),
    "setup_beyond_the_file": (bzimage(setup_sects=255)[:4000], "131072 bytes of setup code, but the file has 4000"),
    "setup_is_all": (bzimage(b"", syssize=1), "but 0 follow"),
    "nothing_follows_before_2_04": (bzimage(b"", version=0x203, header_end=0x230), "ends with its setup code"),
    "syssize_beyond_the_file": (bzimage(syssize=8), "128 bytes of protected-mode code, but 100 follow"),
    "syssize_huge": (bzimage(syssize=0xFFFF_FFFF), "truncated?"),
    "syssize_zero": (bzimage(syssize=0), "0 bytes of protected-mode code"),
    "header_too_short": (bzimage(header_end=0x230), "ends at 230h, expected 264h"),
    "header_too_long": (bzimage(header_end=0x2FF), "ends at 2FFh"),
    "payload_offset": (bzimage(payload_offset=1000, payload_length=100), "payload ends at 1100"),
    "payload_length": (bzimage(payload_length=0xFFFF_FFFF), "payload ends at 4294967295"),
    "setup_sects_too_small": (lying_about_setup(2), "wrong setup_sects?"),
    "setup_sects_too_large": (lying_about_setup(4), "but 4688 follow: truncated?"),
    "setup_sects_zero_for_four": (bzimage(PACKED, setup_sects=0, payload_length=9, init_size=10), "needs 10 bytes"),
    "init_size_zero": (
        bzimage(PACKED, payload_length=9, init_size=0),
        "(init_size), but its protected-mode code alone",
    ),
    "alignment_zero": (bzimage(kernel_alignment=0), "power of two"),
    "alignment_odd": (bzimage(kernel_alignment=3 * MIB), "power of two"),
    "for_64_bit": (bzimage(xloadflags=1), "64-bit"),
}


@pytest.mark.parametrize(("kernel", "told"), LIES.values(), ids=LIES)
def test_a_header_that_contradicts_itself_or_the_file(kernel, told):
    assert told in problem(kernel)


@pytest.mark.parametrize("size", range(0x206, 0x26C, 7))
def test_a_file_cut_within_its_header_is_refused(size):
    problem(bzimage()[:size])


def test_up_to_15_bytes_of_the_last_paragraph_may_be_missing():
    assert boot(bzimage(bytes(33))).image.entry == MIB


# -- command lines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "limit"),
    [(bzimage(), 2047), (bzimage(cmdline_size=10), 10), (bzimage(version=0x205, header_end=0x235), 255)],
)
def test_a_command_line_over_the_limit_is_refused_and_one_at_it_is_not(kernel, limit):
    assert boot(kernel, line="x" * limit).command_line == b"x" * limit
    assert f"has {limit + 1} bytes, this kernel takes {limit}" in problem(kernel, line="x" * (limit + 1))


def test_a_command_line_is_measured_in_bytes():
    problem(bzimage(cmdline_size=10), line="ä" * 6)


def test_a_null_character_in_the_command_line():
    assert "null character" in problem(bzimage(), line="a\0b")


# -- recognition -----------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_kernel_is_told_what_was_looked_for():
    for image in (b"x", bytes(5000), b"\x7fELF" + bytes(100), bzimage()[:0x205]):
        with pytest.raises(ConfigError):
            Kernel(image).lay_out(MEMORY)
    with pytest.raises(ConfigError, match=r"HdrS at 202h.*Multiboot header.*PVH note"):
        Kernel(bytes(5000)).lay_out(MEMORY)


def test_a_linux_image_takes_no_modules():
    with pytest.raises(ConfigError, match="give --initrd"):
        Kernel(bzimage(), modules=((b"x", "x"),)).lay_out(MEMORY)


def test_a_setup_header_comes_before_a_stray_multiboot_magic():
    code = struct.pack("<3I", 0x1BADB002, 0, -0x1BADB002 & 0xFFFF_FFFF)
    assert isinstance(Kernel(bzimage(code)).lay_out(MEMORY).mode, FlatMode)
