"""What a boot loader needs of a 32-bit ELF file: its loadable segments, its entry, its notes and its section headers.

Source: TIS Executable and Linking Format 1.2, "ELF Header", "Program Header", "Note Section", "Section Header".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmm.errors import ConfigError

MAGIC: Final = b"\x7fELF"
_CLASS: Final = 4  # offsets in e_ident
_DATA: Final = 5
_CLASS_32: Final = 1
_CLASS_64: Final = 2
_LITTLE_ENDIAN: Final = 1
_MACHINES: Final = frozenset({3, 6})  # EM_386, EM_486
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_SHT_NOBITS: Final = 8
# e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, then the entry size and the number of
# program headers, the same of section headers, and e_shstrndx
_HEADER: Final = struct.Struct("<16xHHIIIIIHHHHHH")
_PROGRAM: Final = struct.Struct("<IIIIIIII")  # p_type, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_flags, p_align
_NOTE: Final = struct.Struct("<III")  # namesz, descsz, type; name and descriptor follow, each padded to a word
_SECTION: Final = struct.Struct("<IIIIIIIIII")  # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, ...


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD segment: `data` goes to `physical`, zeros follow up to `size` bytes."""

    virtual: int
    physical: int
    size: int
    offset: int
    stored: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section header as its ten words; `stored` bytes of the file from `offset` on are its contents."""

    words: tuple[int, ...]
    address: int
    offset: int
    stored: int

    def to_bytes(self, address: int) -> bytes:
        """The header again, with another address."""
        return _SECTION.pack(*self.words[:3], address, *self.words[4:])


@dataclass(frozen=True, slots=True)
class Note:
    """An entry of a PT_NOTE segment: who defines it, its type there, and its descriptor."""

    name: bytes
    type: int
    descriptor: bytes


@dataclass(frozen=True, slots=True)
class Elf:
    """A parsed file. `names` is the index of the section that holds the section names."""

    entry: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    names: int
    notes: tuple[Note, ...]

    @property
    def physical_entry(self) -> int:
        """The entry as a physical address: it is given as a virtual one where a segment's addresses differ."""
        for segment in self.segments:
            if segment.virtual <= self.entry < segment.virtual + segment.size:
                return self.entry - segment.virtual + segment.physical
        return self.entry


def parse(image: bytes) -> Elf:
    """Parse a 32-bit x86 executable. Raises: ConfigError for what is no such file, or is cut short."""
    if len(image) < _HEADER.size:
        raise ConfigError("the kernel is an ELF file cut short within its header")
    if image[_CLASS] == _CLASS_64:
        raise ConfigError(
            "the kernel is a 64-bit ELF file, expected a 32-bit one, or one with Multiboot load addresses"
        )
    _, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, names = _HEADER.unpack_from(image)
    if image[_CLASS] != _CLASS_32 or image[_DATA] != _LITTLE_ENDIAN or machine not in _MACHINES:
        raise ConfigError(f"the kernel is an ELF file for machine {machine}, expected one for the 80386")
    programs = _table(image, _PROGRAM, phoff, phentsize, phnum)
    segments = tuple(
        _segment(image, Segment(vaddr, paddr, memsz, offset, filesz))
        for kind, offset, vaddr, paddr, filesz, memsz, _, _ in programs
        if kind == _PT_LOAD and memsz
    )
    if not segments:
        raise ConfigError("the kernel is an ELF file with nothing to load")
    notes = tuple(
        note
        for kind, offset, _, _, filesz, *_ in programs
        if kind == _PT_NOTE
        for note in _notes(image, offset, filesz)
    )
    sections = tuple(_section(image, words) for words in _table(image, _SECTION, shoff, shentsize, shnum))
    return Elf(entry, segments, sections, names, notes)


def _table(image: bytes, entry: struct.Struct, offset: int, size: int, count: int) -> list[tuple[int, ...]]:
    """A header table; entries may be larger than what is known of them, not smaller."""
    if count and (size < entry.size or offset + size * count > len(image)):
        raise ConfigError("the kernel is an ELF file whose header tables do not lie within it: truncated?")
    return [entry.unpack_from(image, offset + size * n) for n in range(count)]


def _segment(image: bytes, segment: Segment) -> Segment:
    if segment.offset + segment.stored > len(image) or segment.stored > segment.size:
        raise ConfigError("the kernel is an ELF file whose segments do not lie within it: truncated?")
    return segment


def _notes(image: bytes, offset: int, size: int) -> Iterator[Note]:
    """The notes of one segment."""
    end = offset + size
    if end > len(image):
        raise ConfigError("the kernel is an ELF file whose notes do not lie within it: truncated?")
    while offset + _NOTE.size <= end:
        name_size, size, kind = _NOTE.unpack_from(image, offset)
        name_at = offset + _NOTE.size
        at = name_at + _word_up(name_size)
        offset = at + _word_up(size)
        if at + size > end:
            raise ConfigError("the kernel is an ELF file with a note that is longer than its segment")
        yield Note(image[name_at : name_at + name_size].rstrip(b"\0"), kind, image[at : at + size])


def _word_up(size: int) -> int:
    return (size + 3) & -4


def _section(image: bytes, words: tuple[int, ...]) -> Section:
    kind, address, offset, size = words[1], words[3], words[4], words[5]
    stored = 0 if kind == _SHT_NOBITS else size
    if stored and offset + stored > len(image):
        raise ConfigError("the kernel is an ELF file whose sections do not lie within it: truncated?")
    return Section(words, address, offset, stored)
