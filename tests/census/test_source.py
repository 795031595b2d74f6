"""What of a file is code, and that every file which is not usable is one line."""

import struct
from pathlib import Path

import pytest

from vmm.census.source import CODE_AND_DATA, read_source
from vmm.errors import ConfigError

CODE, TRAMPOLINE, NAMES = b"\x90\xfa\xc3", b"\xf4", b"\0.text\0.data\0.shstrtab\0"
HEADER, PROGRAM, SECTION = 52, 32, 40
PROGBITS, STRTAB, ALLOC, EXECUTE = 1, 3, 2, 4


def elf_file(*, executable: int = ALLOC | EXECUTE) -> bytes:
    """A kernel of one segment, with a section of code, one of data, and their names."""
    body = HEADER + PROGRAM
    text, data, names = body, body + len(CODE), body + len(CODE) + len(TRAMPOLINE)
    sections = names + len(NAMES)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0x10_0000, HEADER, sections, 0, HEADER, PROGRAM, 1,
        SECTION, 4, 3,
    )  # fmt: skip
    program = struct.pack("<8I", 1, text, 0x10_0000, 0x10_0000, len(CODE), len(CODE), 5, 4)
    table = [
        (0,) * 10,
        (1, PROGBITS, executable, 0x10_0000, text, len(CODE), 0, 0, 1, 0),
        (7, PROGBITS, ALLOC, 0x20_0000, data, len(TRAMPOLINE), 0, 0, 1, 0),
        (13, STRTAB, 0, 0, names, len(NAMES), 0, 0, 1, 0),
    ]
    return header + program + CODE + TRAMPOLINE + NAMES + b"".join(struct.pack("<10I", *words) for words in table)


@pytest.fixture
def file(tmp_path: Path):
    """Return `file(content)`: the name of a file with it."""

    def make(content: bytes) -> str:
        path = tmp_path / "given"
        path.write_bytes(content)
        return str(path)

    return make


def test_an_elf_file_is_its_executable_sections(file) -> None:
    source = read_source(file(elf_file()), None, None)
    assert [(r.name, r.address, r.code, r.code32) for r in source.regions] == [(".text", 0x10_0000, CODE, True)]
    assert (source.format, source.skipped) == ("elf", (".data",))


def test_raw_code_is_all_bytes_at_its_base_and_says_that_data_counts_too(file) -> None:
    source = read_source(file(b"\xfa\xf4"), 16, 0x7C00)
    assert [(r.address, r.code, r.code32) for r in source.regions] == [(0x7C00, b"\xfa\xf4", False)]
    assert source.caveats == (CODE_AND_DATA,)


def _bzimage() -> bytes:
    image = bytearray(2048)
    image[0x1FE:0x200], image[0x202:0x206], image[0x206:0x208] = b"\x55\xaa", b"HdrS", b"\x0f\x02"
    return bytes(image)


MISTAKES = [
    pytest.param(b"\x90", None, None, "neither an ELF file nor a bzImage; for raw code give --bits", id="raw_no_bits"),
    pytest.param(b"", 16, None, "empty", id="empty"),
    pytest.param(elf_file(), 32, None, "says itself where its code is: leave --bits and --base out", id="elf_bits"),
    pytest.param(elf_file(), None, 0x1000, "leave --bits and --base out", id="elf_with_base"),
    pytest.param(elf_file()[:40], None, None, "cut short within its header", id="elf_cut_in_its_header"),
    pytest.param(elf_file()[:-1], None, None, "do not lie within it: truncated", id="elf_cut_in_its_tables"),
    pytest.param(elf_file(executable=ALLOC), None, None, "without executable sections", id="elf_without_code"),
    pytest.param(b"\x7fELF\x02" + bytes(60), None, None, "a 64-bit ELF file", id="elf_64"),
    pytest.param(_bzimage(), None, None, "expected a bzImage with an xz-compressed kernel inside", id="bzimage"),
    pytest.param(b"\x90\x90", 32, 0xFFFF_FFFF, "--base: 2 bytes at 0xffffffff reach beyond 4 GiB", id="base_too_high"),
]


@pytest.mark.parametrize(("content", "bits", "base", "message"), MISTAKES)
def test_a_file_that_cannot_be_looked_through_is_refused(file, content, bits, base, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_source(file(content), bits, base)
    assert "\n" not in str(caught.value)


def test_names_that_are_missing_are_addresses(file) -> None:
    image = bytearray(elf_file())
    image[50:52] = b"\x09\x00"  # e_shstrndx beyond the table
    assert read_source(file(bytes(image)), None, None).regions[0].name == "00100000"
