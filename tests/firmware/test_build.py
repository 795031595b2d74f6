"""The ROM images and the assembler that makes them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import capstone
import pytest

from firmware.assembler import Assembly, Placed, assemble_text
from firmware.build import (
    BIOS_SIZE,
    assemble_bios,
    assemble_kernel_rom,
    assemble_vga,
    build_bios,
    build_kernel_rom,
    build_vga_rom,
    option_rom,
    with_checksum,
)
from firmware.encode import Encoder, EncodingError, check_prefixes
from firmware.source import AssemblyError

# ---- One instruction -------------------------------------------------------------------------------------

# What Keystone gets wrong or refuses, and the prefixes that its answers must have.
ENCODINGS = [
    ("ret", 16, "c3"),
    ("ret 0x4", 16, "c20400"),
    ("retf", 16, "cb"),
    ("retf 0x2", 16, "ca0200"),
    ("iret", 16, "cf"),
    ("iretd", 16, "66cf"),
    ("iret", 32, "66cf"),
    ("iretd", 32, "cf"),
    ("push es", 16, "06"),
    ("push es", 32, "06"),
    ("pop ss", 32, "17"),
    ("push fs", 16, "0fa0"),
    ("push 0x55", 16, "6a55"),
    ("push 0x1234", 16, "683412"),
    ("push 0xffff", 16, "6aff"),
    ("push 0x80", 16, "688000"),
    ("push 0xffff", 32, "68ffff0000"),
    ("push -0x1", 32, "6aff"),
    ("pushf", 16, "9c"),
    ("pushfd", 16, "669c"),
    ("pushfd", 32, "9c"),
    ("pusha", 16, "60"),
    ("pushad", 16, "6660"),
    ("movsd", 16, "66a5"),
    ("movsd", 32, "a5"),
    ("rep movsd", 16, "f366a5"),
    ("cs lodsb", 16, "2eac"),
    ("addr32 rep movsb", 16, "67f3a4"),
    ("cwde", 16, "6698"),
    ("ljmp 0xf000:0xe05b", 16, "ea5be000f0"),
    ("ljmp 0x8:0x10100", 32, "ea000101000800"),
    ("lcall 0x1234:0x5678", 16, "9a78563412"),
    ("ljmp [0x67]", 16, "ff2e6700"),
    ("jmp 0x110", 16, "eb0e"),
    ("jmp 0x1110", 16, "e90d10"),
    ("jmp 0x1110", 32, "e90b100000"),
    ("jmp 0xff80", 16, "e97dfe"),
    ("jz 0x110", 16, "740e"),
    ("jnbe 0x1110", 16, "0f870c10"),
    ("call 0x0", 16, "e8fdfe"),
    ("call 0x0", 32, "e8fbfeffff"),
    ("loop 0x100", 16, "e2fe"),
    ("jcxz 0x100", 16, "e3fe"),
    ("jecxz 0x100", 16, "67e3fd"),
    ("jecxz 0x100", 32, "e3fe"),
    ("mov ax, ds", 16, "8cd8"),
    ("mov eax, cr0", 16, "0f20c0"),
    ("out dx, eax", 16, "66ef"),
    ("in al, dx", 32, "ec"),
    ("mov ax, word ptr [ebx]", 16, "678b03"),
    ("mov eax, dword ptr [bx]", 16, "668b07"),
    ("movzx eax, byte ptr [si]", 16, "660fb604"),
    ("movzx ax, byte ptr [si]", 16, "0fb604"),
    ("lgdt es:[si+0x8]", 16, "260f015408"),
    ("data32 sgdt [bp+0x0]", 16, "660f014600"),
    ("lss sp, [0x67]", 16, "0fb2266700"),
    ("shl eax, cl", 16, "66d3e0"),
]


@pytest.mark.parametrize(("text", "bits", "code"), ENCODINGS)
def test_instruction_is_encoded_as_the_manual_says(text: str, bits: int, code: str) -> None:
    assert Encoder().encode(text, bits, 0x100).hex() == code


@pytest.mark.parametrize(
    ("text", "bits", "code"),
    [
        ("mov ax, bx", 16, "6689d8"),
        ("mov eax, ebx", 16, "89d8"),
        ("push dword ptr [bx]", 16, "ff37"),
        ("mov al, [ebx]", 16, "8a03"),
        ("mov al, [bx]", 16, "678a07"),
        ("add ebx, eax", 32, "6601c3"),
    ],
)
def test_wrong_prefixes_are_refused(text: str, bits: int, code: str) -> None:
    with pytest.raises(EncodingError, match="prefix"):
        check_prefixes(text, bits, bytes.fromhex(code))


@pytest.mark.parametrize("text", ["frobnicate ax", "mov ax, ebx", "loop 0x1000", "call far [0x67]"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        Encoder().encode(text, 16, 0x100)


# ---- Whole sources ---------------------------------------------------------------------------------------

SOURCES = [
    pytest.param(".byte 1, 'A', '\\n', 2*3+1", "01410a07", id="bytes"),
    pytest.param(".word here, $\nhere: .long -1", "04000000ffffffff", id="words_and_here"),
    pytest.param('.ascii "a;b#"\n.asciz "\\r"', "613b62230d00", id="comment_signs_in_strings"),
    pytest.param("nop ; one\n# two\nnop", "9090", id="comments"),
    pytest.param(".set A, B+1\nB = 4\nmov al, A | 0x10", "b015", id="symbols_before_their_definition"),
    pytest.param("mov al, ~4 & 0xff", "b0fb", id="complement"),
    pytest.param("mov al, byte ptr [bx + T*2 - 1]\n.set T, 3", "8a4705", id="displacements_fold"),
    pytest.param("mov al, byte ptr es:[T]\n.set T, 0x17", "26a01700", id="absolute_displacement"),
    pytest.param("a: jmp .l\n.l: nop\nb: jmp .l\n.l: nop", "eb0090eb0090", id="local_labels"),
    pytest.param("1: jmp 1b\njmp 1f\n1: nop", "ebfeeb0090", id="numeric_labels"),
    pytest.param("jmp far\n.space 200\nfar: nop", "e9c800" + "00" * 200 + "90", id="a_jump_grows"),
    pytest.param(".org 4\n.byte 1\n.flow\n.byte 2", "0200000001", id="org_and_flow"),
    pytest.param(".byte 1\n.align 4, 0xff\n.byte 2", "01ffffff02", id="align"),
    pytest.param(".fill 2, 2, 0x1234", "34123412", id="fill"),
    pytest.param(".macro M x, y\n.byte \\x, \\y\n.endm\nM 1, 2\nl: M 3, 4", "01020304", id="macro"),
    pytest.param(".rept 3\n.byte 7\n.endr", "070707", id="repetition"),
    pytest.param("push ds\n.code32\npush 1\nret\n.code16\nret", "1e6a01c3c3", id="code32"),
]


@pytest.mark.parametrize(("source", "code"), SOURCES)
def test_source_assembles_to(source: str, code: str) -> None:
    assert assemble_text(source).flat().hex() == code


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("nop\njmp nowhere", "text:2: .*undefined symbol nowhere"),
        ("a: nop\na: nop", "text:2: .*defined already"),
        (".frob 1", "text:1: .*no such directive"),
        (".macro M\nnop", "text:1: .*endm is missing"),
        (".macro M a\nnop\n.endm\nM 1, 2", "text:4: .*1 arguments expected, 2 given"),
        ('.include "nothing.inc"', "text:1: .*no such file"),
        (".byte 1/0", "text:1: "),
        ("mov ax, [bx-si]", "text:1: .*cannot be subtracted"),
        ("ax: nop", "text:1: .*reserved"),
        (".macro M\nM\n.endm\nM", "nested too deeply"),
        ("xor ax, qword ptr [bx]", "text:1: "),
    ],
)
def test_a_bad_line_is_named(source: str, why: str) -> None:
    with pytest.raises(AssemblyError, match=why):
        assemble_text(source)


def test_two_lines_cannot_have_the_same_address() -> None:
    with pytest.raises(AssemblyError, match=r"holds text:1 already"):
        assemble_text("nop\n.org 0\nnop").flat()


# ---- The images ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bios() -> bytes:
    return build_bios()


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the images of this module in a cache of their own."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory))
        yield directory


ENTRIES = {
    0xE05B: "reset",
    0xE3FE: "int13_entry",
    0xE6F2: "int19_entry",
    0xE739: "int14_entry",
    0xE82E: "int16_entry",
    0xE987: "int09_handler",
    0xEC59: "int13_entry",
    0xEF57: "int0e_handler",
    0xEFD2: "int17_entry",
    0xF841: "int12_entry",
    0xF84D: "int11_entry",
    0xF859: "int15_entry",
    0xFE6E: "int1a_entry",
    0xFEA5: "int08_handler",
}


@pytest.mark.parametrize(("address", "target"), ENTRIES.items(), ids=[f"{a:04x}" for a in ENTRIES])
def test_entry_point_jumps_to_its_service(bios: bytes, address: int, target: str) -> None:
    assert bios[address] == 0xE9
    displacement = int.from_bytes(bios[address + 1 : address + 3], "little")
    assert (address + 3 + displacement) & 0xFFFF == assemble_bios().symbols[target]


FIXED = {
    0xE2C3: "cf",  # NMI
    0xE6F5: "0800fc01",  # configuration table
    0xEFC7: "af02250212",  # diskette parameters
    0xF065: "cf",  # INT 10h without a video ROM
    0xF0A4: "38282d0a",  # video parameters
    0xFA6E + 8 * 0x20: "0000000000000000",  # the blank
    0xFF53: "cf",
    0xFFF0: "ea5be000f0",  # reset
    0xFFFE: "fc",  # PC/AT
}


@pytest.mark.parametrize(("address", "content"), FIXED.items(), ids=[f"{a:04x}" for a in FIXED])
def test_fixed_address_holds(bios: bytes, address: int, content: str) -> None:
    expected = bytes.fromhex(content)
    assert bios[address : address + len(expected)] == expected


def test_bios_has_a_date_where_software_looks_for_it(bios: bytes) -> None:
    assert re.fullmatch(rb"\d\d/\d\d/\d\d", bios[0xFFF5:0xFFFD])


def test_bios_has_its_size_and_sums_to_zero(bios: bytes) -> None:
    assert (len(bios), sum(bios) % 256) == (BIOS_SIZE, 0)


@pytest.mark.parametrize("build", [build_vga_rom, build_kernel_rom])
def test_option_rom_has_header_length_and_checksum(build: Callable[[], bytes]) -> None:
    rom = build()
    assert (rom[:2], rom[2] * 512, sum(rom) % 256) == (b"\x55\xaa", len(rom), 0)


def test_kernel_rom_hooks_int_19_and_knocks() -> None:
    assembly = assemble_kernel_rom()
    assert assembly.flat()[: assembly.symbols["no_door"]].endswith(bytes.fromhex("ba2a0fee"))


def test_option_rom_keeps_a_byte_for_the_checksum() -> None:
    full = option_rom(b"\x55\xaa" + b"\x01" * 510)
    assert (len(full), sum(full) % 256) == (1024, 0)


@pytest.mark.parametrize("code", [b"\x90" * 16, b"\x55\xaa" + b"\0" * 128 * 512])
def test_option_rom_refuses(code: bytes) -> None:
    with pytest.raises(ValueError):
        option_rom(code)


def test_checksum_is_put_where_it_was_asked_for() -> None:
    assert with_checksum(b"\x01\x02\x99", 2) == b"\x01\x02\xfd"


def test_image_comes_from_the_cache_the_second_time(cache: Path) -> None:
    build_kernel_rom()
    kept = list((cache / "glassvisor" / "firmware").glob("*.rom"))
    for path in kept:
        path.write_bytes(b"kept")
    assert build_kernel_rom() == b"kept"
    for path in kept:
        path.unlink()


def test_image_is_made_when_the_cache_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert build_kernel_rom()[:2] == b"\x55\xaa"


# Another disassembler reads every instruction of every image as it was written.
SYNONYMS = {
    "jz": "je", "jnz": "jne", "jc": "jb", "jnc": "jae", "jnb": "jae", "jnbe": "ja", "jna": "jbe", "jnae": "jb",
    "jnl": "jge", "jnge": "jl", "jng": "jle", "jnle": "jg", "jpe": "jp", "jpo": "jnp", "loopz": "loope",
    "loopnz": "loopne", "sal": "shl", "setz": "sete", "setnz": "setne", "setc": "setb", "setnc": "setae",
    "pusha": "pushaw", "popa": "popaw", "pushad": "pushal", "popad": "popal",
}  # fmt: skip
PREFIX_WORDS = {"rep", "repe", "repz", "repne", "repnz", "lock", "cs", "ds", "es", "ss", "fs", "gs", "data32", "addr32"}


def _written(piece: Placed) -> str:
    """The mnemonic of an instruction; nothing for data."""
    words = re.sub(r"^(?:[.\w$]+:\s*)+", "", piece.line.text).split()
    while words and words[0] in PREFIX_WORDS:
        del words[0]
    return "" if not words or words[0].startswith(".") else SYNONYMS.get(words[0], words[0])


@pytest.mark.parametrize("assemble", [assemble_bios, assemble_vga, assemble_kernel_rom])
def test_disassembly_reads_what_was_written(assemble: Callable[[], Assembly]) -> None:
    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32}
    disassemblers = {bits: capstone.Cs(capstone.CS_ARCH_X86, mode) for bits, mode in modes.items()}
    for piece in assemble().placed:
        wanted = _written(piece)
        if wanted:
            read = list(disassemblers[piece.bits].disasm_lite(piece.code, piece.address))
            assert [size for _, size, _, _ in read] == [len(piece.code)], piece
            mnemonic = read[0][2].split()[-1]
            assert SYNONYMS.get(mnemonic, mnemonic) == wanted, piece
