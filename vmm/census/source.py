"""What of a file is code: the executable sections of an ELF kernel, or of the one inside a bzImage, or all of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware import elf, linux_header
from vmm.arch.layout import MASK32
from vmm.census.scan import Region
from vmm.errors import ConfigError
from vmm.fetch import vmlinux
from vmm.fetch.debian import PackageError
from vmm.images import read_file

FILE_MAX: Final = 256 << 20
_SHF_ALLOC, _SHF_EXECINSTR = 2, 4  # TIS ELF 1.2, "Section Attribute Flags"
_NAME, _FLAGS = 0, 2  # words of a section header
CODE_AND_DATA: Final = (
    "In raw bytes code and data cannot be told apart: what is no code is counted, too, as the instructions that it "
    "would be, and the share of all instructions says little."
)


@dataclass(frozen=True, slots=True)
class Source:
    """A file to look through.

    `format`: `elf`, `bzImage` or `raw`; `regions` is looked through, `skipped` names what lies in memory and is not;
    `caveats` are what a reader should know.
    """

    name: str
    format: str
    regions: tuple[Region, ...]
    skipped: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def read_source(name: str, bits: int | None, base: int | None) -> Source:
    """Read a file.

    Args:
        bits: 16 or 32 for raw code, None for a kernel.
        base: the address of the first byte of raw code, 32 bits.
    Raises: ConfigError: it cannot be read, is empty, cut short, no kernel, or one that is said to be raw.
    """
    image = read_file(Path(name), FILE_MAX)
    kind = _format(image)
    if kind == "raw":
        return _raw(name, image, bits, base)
    if bits is not None or base is not None:
        raise ConfigError(f"{name} is {kind}, which says itself where its code is: leave --bits and --base out")
    try:
        return _elf(name, image, kind)
    except PackageError as error:
        raise ConfigError(f"{name}: {error}; expected a bzImage with an xz-compressed kernel inside") from None
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _format(image: bytes) -> str:
    if image.startswith(elf.MAGIC):
        return "elf"
    return "bzImage" if linux_header.has_header(image) else "raw"


def _raw(name: str, image: bytes, bits: int | None, base: int | None) -> Source:
    if bits is None:
        raise ConfigError(f"{name} is neither an ELF file nor a bzImage; for raw code give --bits 16 or --bits 32")
    address = base or 0
    if address + len(image) > MASK32 + 1:
        raise ConfigError(f"--base: {len(image)} bytes at {address:#x} reach beyond 4 GiB")
    return Source(name, "raw", (Region("all", address, image, bits == 32),), (), (CODE_AND_DATA,))


def _elf(name: str, image: bytes, kind: str) -> Source:
    if kind == "bzImage":
        image = vmlinux.unpacked(image)
    parsed = elf.parse(image)
    names = parsed.sections[parsed.names] if parsed.names < len(parsed.sections) else None
    regions, skipped = [], []
    for section in parsed.sections:
        label = _label(image, names, section)
        if not section.words[_FLAGS] & _SHF_ALLOC or not section.stored:
            continue
        if section.words[_FLAGS] & _SHF_EXECINSTR:
            code = image[section.offset : section.offset + section.stored]
            regions.append(Region(label, section.address, code, True))
        else:
            skipped.append(label)
    if not regions:
        raise ConfigError("an ELF file without executable sections: expected one with section headers")
    caveats = ["Code in other sections is not counted: trampolines for 16-bit mode, for one, are data to the linker."]
    if kind == "bzImage":
        caveats.append("Counted is the kernel inside; the set-up code and the decompressor around it are not.")
    return Source(name, kind, tuple(regions), tuple(skipped), tuple(caveats))


def _label(image: bytes, names: elf.Section | None, section: elf.Section) -> str:
    """The name of a section, or its address where names are missing."""
    if names is None or section.words[_NAME] >= names.stored:
        return f"{section.address:08x}"
    start = names.offset + section.words[_NAME]
    end = image.find(b"\0", start)
    return image[start : end if end >= 0 else None].decode("latin-1") or f"{section.address:08x}"
