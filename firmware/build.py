"""Build the ROM images: the system BIOS, the VGA BIOS and the option ROM that boots a kernel.

An image is assembled once and kept under the user's cache directory, by the digest of everything it is made of: the
sources and the assembler itself.

    python -m firmware.build --out DIR      writes bios.rom, vgabios.rom and kernel.rom, with listings
"""

import argparse
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from firmware import acpi, mp, pci_routing
from firmware.vga import font_source
from vmm.devices.font import FONT_8X8

if TYPE_CHECKING:
    from firmware.assembler import Assembly

HERE: Final = Path(__file__).resolve().parent
BIOS_SIZE: Final = 0x10000
BIOS_ADDRESS: Final = 0xF0000
OPTION_ROM_UNIT: Final = 512
_MAX_OPTION_ROM: Final = 127 * OPTION_ROM_UNIT
_LOW_FONT: Final = 0xFA6E  # where graphics modes of the CGA look for characters 00h-7Fh
_STATIC_TABLES: Final = 0xD000  # where the ACPI and PCI tables go: a 16-byte boundary above all code that flows
_MP_TABLES: Final = 0xC000  # and the MP tables, on a board that has them
_TOOLS: Final = (
    "acpi.py", "aml.py", "assembler.py", "build.py", "encode.py", "expression.py", "mp.py", "pci_routing.py",
    "source.py",
)  # fmt: skip


def build_bios(*, apic: bool = False) -> bytes:
    """Return the system BIOS, 64 KiB for F0000h; the sum of its bytes is zero modulo 256.

    `apic` tells whether the board has APICs, which then stand in its tables.
    """
    return cached("bios-apic" if apic else "bios", lambda: _make_bios(apic=apic))


def build_vga_rom() -> bytes:
    """Return the VGA BIOS, an option ROM for C0000h."""
    return cached("vga", lambda: _make_option_rom(assemble_vga()))


def build_kernel_rom() -> bytes:
    """Return the option ROM that takes over INT 19h and knocks at the boot door."""
    return cached("kernelrom", lambda: _make_option_rom(assemble_kernel_rom()))


def build_hypervisor_rom() -> bytes:
    """Return the ROM, 64 KiB for F0000h, that takes the place of a BIOS and runs programs in guest mode."""
    return cached("hypervisor", lambda: _assembled(sources("hypervisor")).image(0, BIOS_SIZE))


def assemble_bios(*, apic: bool = False) -> "Assembly":
    """Assemble the system BIOS: main.s first, then its other sources by name, then what is generated.

    That is the glyphs 00h-7Fh, the PCI routing, the ACPI and MP tables with the constants that they share with POST.
    """
    generated = _low_font_source() + _platform_source(apic=apic) + (_mp_source() if apic else "")
    return _assembled(sources("bios"), generated)


def assemble_vga() -> "Assembly":
    """Assemble the VGA BIOS: main.s first, then its other sources by name, then the glyphs."""
    return _assembled(sources("vga"), font_source())


def assemble_kernel_rom() -> "Assembly":
    """Assemble the option ROM that boots a kernel."""
    return _assembled(sources("kernelrom"))


def _assembled(paths: list[Path], generated: str = "") -> "Assembly":
    """The assembler takes a thirtieth of a second to load, and is needed when an image is not in the cache."""
    from firmware.assembler import assemble_files

    return assemble_files(paths, generated)


def sources(part: str) -> list[Path]:
    """Return the .s files of one image in the order in which they are assembled."""
    return sorted((HERE / part).glob("*.s"), key=lambda path: (path.name != "main.s", path.name))


def option_rom(code: bytes) -> bytes:
    """Pad `code` to whole 512-byte units, set its length byte, and make the sum of all bytes zero.

    `code` must start 55h AAh; byte 2 is set here, and so is the last byte of the image.
    Source: IBM PC/AT Technical Reference, "ROM Scan".
    """
    if code[:2] != b"\x55\xaa":
        raise ValueError(f"an option ROM starts 55 aa, this one {code[:2].hex(' ')}")
    units = len(code) // OPTION_ROM_UNIT + 1  # at least one byte stays free for the checksum
    image = bytearray(code.ljust(units * OPTION_ROM_UNIT, b"\0"))
    if len(image) > _MAX_OPTION_ROM:
        raise ValueError(f"the option ROM has {len(image)} bytes, {_MAX_OPTION_ROM} is the most")
    image[2] = units
    return with_checksum(bytes(image), len(image) - 1)


def with_checksum(image: bytes, at: int) -> bytes:
    """Return `image` with the byte at offset `at` set so that all bytes sum to zero modulo 256."""
    rest = sum(image) - image[at]
    return image[:at] + bytes([-rest % 256]) + image[at + 1 :]


def _low_font_source() -> str:
    return f".org {_LOW_FONT:#x}\nfont_8x8:\n{_bytes(FONT_8X8[: 128 * 8])}.flow\n"


def _platform_source(*, apic: bool) -> str:
    """What POST and the tables must agree on, and the tables that software finds by their signatures."""
    constants = {
        "PM_BASE": acpi.PM_BASE,
        "FACS_OFFSET": acpi.FACS_OFFSET,
        "FACS_SIZE": acpi.FACS_SIZE,
        "LOCAL_APIC": mp.LOCAL_APIC,
        "IO_APIC": mp.IO_APIC,
        "IO_APIC_IDENTIFICATION": mp.IO_APIC_ID << 24,
        "PCI_MEMORY_START": acpi.PCI_MEMORY,
        "PCI_LEVEL_IRQS": sum(1 << line for line in {*pci_routing.PIRQ_IRQS, pci_routing.SCI_IRQ}),
    }
    irqs = bytes(pci_routing.irq(device, pin) for device in range(32) for pin in pci_routing.PINS)
    routing = pci_routing.routing_table()
    parts = {
        "acpi_tables": acpi.tables(BIOS_ADDRESS + _STATIC_TABLES, apic=apic),
        "pci_routing_table": routing,
        "pci_irqs": irqs,
        "pirq_irqs": bytes(pci_routing.PIRQ_IRQS),
    }
    data = "".join(f"{name}:\n{_bytes(content)}" for name, content in parts.items())
    sets = "".join(f".set {name}, {value:#x}\n" for name, value in constants.items())
    return f"{sets}.org {_STATIC_TABLES:#x}\n{data}.flow\n"


def _mp_source() -> str:
    return f".org {_MP_TABLES:#x}\nmp_tables:\n{_bytes(mp.mp_tables(BIOS_ADDRESS + _MP_TABLES))}.flow\n"


def _bytes(content: bytes) -> str:
    """Source lines for data."""
    return "".join(f".byte {', '.join(map(str, content[at : at + 16]))}\n" for at in range(0, len(content), 16))


def _make_bios(*, apic: bool) -> bytes:
    assembly = assemble_bios(apic=apic)
    return with_checksum(assembly.image(0, BIOS_SIZE), assembly.symbols["rom_checksum"])


def _make_option_rom(assembly: "Assembly") -> bytes:
    return option_rom(assembly.flat())


def cached(part: str, make: Callable[[], bytes]) -> bytes:
    """Return the image from the cache, or make and keep it; a cache that cannot be written is done without."""
    path = _cache_directory() / f"{_digest(part)}.rom"
    try:
        return path.read_bytes()
    except OSError:
        pass
    image = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
        with os.fdopen(handle, "wb") as file:
            file.write(image)
        Path(name).replace(path)  # atomic: another process sees the whole image or none
    except OSError:
        pass
    return image


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "glassvisor" / "firmware"


def _digest(part: str) -> str:
    """Hash the part's name, the glyphs, all firmware sources (one may include another) and the assembler."""
    digest = hashlib.sha256(part.encode() + font_source().encode())
    files = [path for path in HERE.rglob("*") if path.suffix in (".s", ".inc")]
    for path in sorted(files) + [HERE / name for name in _TOOLS]:
        digest.update(str(path.relative_to(HERE)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(font_source().encode())
    return digest.hexdigest()


def main() -> None:
    """Write the images that exist, and a listing of each, for use elsewhere."""
    parser = argparse.ArgumentParser(prog="python -m firmware.build", description="Build glassvisor's ROM images.")
    parser.add_argument("--out", type=Path, required=True, help="directory for bios.rom, vgabios.rom and kernel.rom")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, build, assemble in (
        ("bios", build_bios, assemble_bios),
        ("vgabios", build_vga_rom, assemble_vga),
        ("kernel", build_kernel_rom, assemble_kernel_rom),
    ):
        image = build()
        (out / f"{name}.rom").write_bytes(image)
        (out / f"{name}.lst").write_text(assemble().listing())
        print(f"{name}.rom: {len(image)} bytes")


if __name__ == "__main__":
    main()
