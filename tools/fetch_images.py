"""`make images`: real boot media, downloaded from Debian and put together in a cache outside git.

Theory of operation. Packages come through apt, which checks their signatures, and are unpacked into a scratch
directory. Each recipe below makes one image of them there; finished images move into the cache, and a manifest with
their SHA-256 goes last, so that an interrupted run leaves nothing that looks finished. A run that finds all images as
the manifest has them does nothing. `python -m tools.fetch_images --directory` prints where the images are.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tools.boot_sectors import GREETING, chained_partition, greeting_sector
from tools.debian_packages import AptRoot, PackageError, cache_directory, locked, unpack
from tools.host_tools import IMAGE_TOOLS, HostTools, open_tools

RECIPE_VERSION: Final = 2  # raise it with every change to a recipe: what was made before is made anew
MANIFEST: Final = "manifest.json"
PACKAGES: Final = (
    "grub-rescue-pc",
    "grub-legacy",
    "grub-invaders",
    "grub-pc-bin",
    "memtest86+",
    "ipxe",
    "syslinux-common",
)

SECTOR: Final = 512
FLOPPY_SIZE: Final = 2880 * SECTOR
CYLINDER: Final = 16 * 63 * SECTOR  # the geometry that the partition table is laid out for
DISK_SIZE: Final = 20 * CYLINDER
PARTITION_START: Final = 63 * SECTOR
SECOND_START: Final = 17 * CYLINDER
PARTITION_TABLE: Final = 446
FAT16: Final = 0x06
OTHER_OS: Final = 0x7F  # set aside for individual use
ACTIVE: Final = 0x80
SIGNATURE: Final = b"\x55\xaa"

SYSLINUX_CFG: Final = """\
DEFAULT hello
PROMPT 1
TIMEOUT 0
DISPLAY boot.msg
F1 help.txt
F2 more.txt
LABEL hello
  KERNEL hello.bs
LABEL second
  {second}
LABEL menu
  KERNEL menu.c32
"""
BOOT_MSG: Final = "\nGlassvisor test medium. F1 shows help, F2 shows more.\n"
HELP_TXT: Final = "\x0cHelp, screen one.\n\nType a label and press Enter: hello, second, menu.\n\n"
MORE_TXT: Final = "\x0cHelp, screen two.\n\n\x0f0cThis line is red.\x0f07\n\n"
MODULES: Final = ("chain.c32", "libcom32.c32", "libutil.c32", "menu.c32", "hdt.c32", "libgpl.c32", "libmenu.c32")
FLOPPY_MODULES: Final = ("chain.c32", "libcom32.c32", "libutil.c32", "menu.c32")


@dataclass(frozen=True, slots=True)
class Kitchen:
    """What a recipe works with: unpacked packages, tools, and a scratch directory of its own."""

    packages: Path
    tools: HostTools
    scratch: Path

    def copy(self, inside: str, to: Path) -> None:
        """Take a file out of the packages. Raises: PackageError: it is not where it used to be."""
        try:
            shutil.copyfile(self.packages / inside, to)
        except FileNotFoundError:
            raise PackageError(f"the packages have no {inside}; were they made for another release?") from None

    def read(self, inside: str) -> bytes:
        return (self.packages / inside).read_bytes()


Recipe = Callable[[Kitchen, Path], None]


def copied(inside: str) -> Recipe:
    """An image that a package has ready."""
    return lambda kitchen, image: kitchen.copy(inside, image)


def grub_legacy_floppy(kitchen: Kitchen, image: Path) -> None:
    """Stage 1 in the first sector, stage 2 from the second on, no file system.

    Source: GNU GRUB Legacy manual, "Creating a GRUB boot floppy".
    """
    stages = kitchen.read("usr/lib/grub/i386-pc/stage1") + kitchen.read("usr/lib/grub/i386-pc/stage2")
    image.write_bytes(stages.ljust(FLOPPY_SIZE, b"\0"))


def syslinux_floppy(kitchen: Kitchen, image: Path) -> None:
    """SYSLINUX on a 1.44 MB FAT floppy with help screens and boot sectors to chain to."""
    image.write_bytes(bytes(FLOPPY_SIZE))
    kitchen.tools.run(["mformat", "-i", image, "-f", "1440", "-v", "GLASSVISOR", "::"])
    _fill_fat(kitchen, str(image), FLOPPY_MODULES, "KERNEL second.bs")
    kitchen.tools.run(["syslinux", "--install", image])


def syslinux_disk(kitchen: Kitchen, image: Path) -> None:
    """SYSLINUX on the active first partition; the second one holds two sectors to chain-load."""
    first_size = SECOND_START - CYLINDER - PARTITION_START
    second = chained_partition()
    mbr = kitchen.read("usr/lib/syslinux/mbr/mbr.bin").ljust(PARTITION_TABLE, b"\0")
    table = _partition(ACTIVE, FAT16, PARTITION_START, first_size) + _partition(0, OTHER_OS, SECOND_START, CYLINDER)
    with image.open("wb") as file:
        file.write(mbr + table.ljust(4 * 16, b"\0") + SIGNATURE)
        file.seek(SECOND_START)
        file.write(second)
        file.truncate(DISK_SIZE)
    drive = f"{image}@@{PARTITION_START}"
    geometry = ["-h", "16", "-s", "63", "-T", str(first_size // SECTOR), "-H", str(PARTITION_START // SECTOR)]
    kitchen.tools.run(["mformat", "-i", drive, *geometry, "-v", "GLASSVISOR", "::"])
    _fill_fat(kitchen, drive, MODULES, "COM32 chain.c32\n  APPEND hd0 2")
    kitchen.tools.run(["syslinux", "--install", "--offset", str(PARTITION_START), image])


def grub_cd(kitchen: Kitchen, image: Path) -> None:
    """An El Torito CD with GRUB and no configuration: it comes up at its prompt."""
    tree = kitchen.scratch / "cd"
    (tree / "boot").mkdir(parents=True)
    (tree / "boot" / "hello.txt").write_text("hello from the CD\n")
    modules = kitchen.packages / "usr/lib/grub/i386-pc"
    options = ["--compress=no", "--locales=", "--fonts=", "--themes="]
    command = ["grub-mkrescue", "-d", str(modules), "-o", str(image), *options, str(tree)]
    kitchen.tools.run(command, TMPDIR=str(kitchen.scratch))


RECIPES: Final[Mapping[str, Recipe]] = {
    "grub-rescue-floppy.img": copied("usr/lib/grub-rescue/grub-rescue-floppy.img"),
    "grub-rescue-cdrom.iso": copied("usr/lib/grub-rescue/grub-rescue-cdrom.iso"),
    "grub-legacy-floppy.img": grub_legacy_floppy,
    "invaders.exec": copied("boot/invaders.exec"),
    "memtest86+.iso": copied("usr/lib/memtest86+/memtest86+ia32.iso"),
    "memtest86+.bin": copied("boot/memtest86+ia32.bin"),
    "ipxe.iso": copied("usr/lib/ipxe/ipxe.iso"),
    "ipxe.lkrn": copied("boot/ipxe.lkrn"),
    "syslinux-floppy.img": syslinux_floppy,
    "syslinux-disk.img": syslinux_disk,
    "grub-cd.iso": grub_cd,
}


def _fill_fat(kitchen: Kitchen, drive: str, modules: tuple[str, ...], second: str) -> None:
    """Put configuration, help screens, boot sectors and modules onto a FAT file system."""
    files = kitchen.scratch / "fat"
    files.mkdir(exist_ok=True)
    texts = {"syslinux.cfg": SYSLINUX_CFG.format(second=second), "boot.msg": BOOT_MSG}
    texts |= {"help.txt": HELP_TXT, "more.txt": MORE_TXT}
    for name, text in texts.items():
        (files / name).write_bytes(text.encode("ascii"))
    (files / "hello.bs").write_bytes(greeting_sector(GREETING))
    (files / "second.bs").write_bytes(greeting_sector("second boot sector"))
    for name in modules:
        kitchen.copy(f"usr/lib/syslinux/modules/bios/{name}", files / name)
    kitchen.tools.run(["mcopy", "-i", drive, *map(str, sorted(files.iterdir())), "::/"])


def _partition(status: int, kind: int, start: int, size: int) -> bytes:
    """One partition table entry (the MBR layout of PC BIOS disks): status, first CHS, type, last CHS, LBA, sectors."""
    first, count = start // SECTOR, size // SECTOR
    numbers = first.to_bytes(4, "little") + count.to_bytes(4, "little")
    return bytes([status, *_chs(first), kind, *_chs(first + count - 1)]) + numbers


def _chs(lba: int) -> tuple[int, int, int]:
    """Head, sector with cylinder bits 9:8, cylinder bits 7:0, for 16 heads of 63 sectors."""
    cylinder, rest = divmod(lba, 16 * 63)
    head, sector = divmod(rest, 63)
    return head, sector + 1 | cylinder >> 8 << 6, cylinder & 0xFF


def is_complete(directory: Path) -> bool:
    """Whether every image is there as the manifest of this recipe version has it."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        images: dict[str, str] = manifest["images"]
        return manifest["recipe"] == RECIPE_VERSION and set(images) == set(RECIPES) and _are_intact(directory, images)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _are_intact(directory: Path, images: Mapping[str, str]) -> bool:
    return all(digest(directory / name) == expected for name, expected in images.items())


def digest(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Bar:
    """One progress bar over steps of unlike length."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:<34}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console)
        self._task = self.progress.add_task("", total=1.0)
        self._from, self._to = 0.0, 0.0

    def step(self, text: str, until: float) -> None:
        """Start a step that takes the bar to `until`, 0 to 1."""
        self._from, self._to = self._to, until
        self.progress.update(self._task, description=text, completed=self._from)

    def inside(self, part: float) -> None:
        """How much of the step is done, 0 to 1."""
        self.progress.update(self._task, completed=self._from + (self._to - self._from) * part)


def fetch(directory: Path, console: Console) -> bool:
    """Make all images; whether there was anything to do. Raises: PackageError: something cannot be had."""
    with locked(directory):
        if is_complete(directory):
            return False
        bar = Bar(console)
        with bar.progress, tempfile.TemporaryDirectory(dir=directory, prefix=".making-") as scratch:
            _make_all(directory, Path(scratch), bar)
        return True


def _make_all(directory: Path, scratch: Path, bar: Bar) -> None:
    tools = open_tools()
    bar.step("tools", 0.2)
    tools.prepare(IMAGE_TOOLS, bar.inside)
    apt = AptRoot(scratch / "apt", "i386")
    bar.step("package lists", 0.4)
    apt.update(bar.inside)
    bar.step(f"{len(PACKAGES)} packages", 0.7)
    packages = apt.download(PACKAGES, bar.inside)
    bar.step("unpacking", 0.75)
    for file in packages:
        unpack(file, scratch / "packages")
    images = {
        name: _make(name, directory, Kitchen(scratch / "packages", tools, scratch / name), bar) for name in RECIPES
    }
    manifest = {"recipe": RECIPE_VERSION, "packages": sorted(file.name for file in packages), "images": images}
    (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    os.replace(scratch / MANIFEST, directory / MANIFEST)


def _make(name: str, directory: Path, kitchen: Kitchen, bar: Bar) -> str:
    """Make one image and move it into place; return its SHA-256."""
    done = list(RECIPES).index(name) + 1
    bar.step(name, 0.75 + 0.25 * done / len(RECIPES))
    kitchen.scratch.mkdir()
    image = kitchen.scratch / f"image-{name}"
    RECIPES[name](kitchen, image)
    os.replace(image, directory / name)
    bar.inside(1.0)
    return digest(directory / name)


def main(arguments: list[str] | None = None) -> int:
    """Fetch all images and say where they are."""
    parser = argparse.ArgumentParser(prog="fetch-images", description="Fetch boot images from Debian into the cache.")
    parser.add_argument("--directory", action="store_true", help="only print where the images are")
    only_print = parser.parse_args(arguments).directory
    directory = cache_directory("images")
    if only_print:
        print(directory)
        return 0
    console = Console(stderr=True)
    try:
        made = fetch(directory, console)
    except (PackageError, OSError) as error:
        print(f"fetch-images: {error}", file=sys.stderr)
        return 1
    print(f"{len(RECIPES)} images {'made' if made else 'already there'} in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
