"""`make images`: real boot media, downloaded from Debian and put together in a cache outside git.

Boot media that need tools of the host to be made are here; what `vmm images` fetches too is in `vmm/fetch`.
`python -m tools.fetch_images --directory` prints where the images are.
"""

import argparse
import gzip
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.boot_sectors import GREETING, chained_partition, greeting_sector
from tools.host_tools import IMAGE_TOOLS, open_tools
from vmm.cli.fetch import fetch_all
from vmm.fetch import linux
from vmm.fetch.debian import cache_directory
from vmm.fetch.store import Collection, Kitchen, Recipe, copied, digest, fixed

RECIPE_VERSION: Final = f"3 {digest(linux.GUEST)}"  # raise it with every change to a recipe
PACKAGES: Final = (
    "grub-rescue-pc",
    "grub-legacy",
    "grub-invaders",
    "grub-pc-bin",
    "memtest86+",
    "ipxe",
    "syslinux-common",
    "seabios",
    "gnumach-image-1.8-486",
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
LINUX_MENU: Final = f"""\
set timeout=0
menuentry "Linux" {{
    linux /boot/vmlinuz-686 console=ttyS0 panic=-1 quiet gv.run=true
    initrd /boot/{linux.INITRAMFS}
}}
"""
MODULES: Final = ("chain.c32", "libcom32.c32", "libutil.c32", "menu.c32", "hdt.c32", "libgpl.c32", "libmenu.c32")
FLOPPY_MODULES: Final = ("chain.c32", "libcom32.c32", "libutil.c32", "menu.c32")


def grub_legacy_floppy(kitchen: Kitchen, image: Path) -> None:
    """Stage 1 in the first sector, stage 2 from the second on, no file system.

    Source: GNU GRUB Legacy manual, "Creating a GRUB boot floppy".
    """
    stages = kitchen.read("usr/lib/grub/i386-pc/stage1") + kitchen.read("usr/lib/grub/i386-pc/stage2")
    image.write_bytes(stages.ljust(FLOPPY_SIZE, b"\0"))


def syslinux_floppy(kitchen: Kitchen, image: Path) -> None:
    """SYSLINUX on a 1.44 MB FAT floppy with help screens and boot sectors to chain to."""
    image.write_bytes(bytes(FLOPPY_SIZE))
    kitchen.run(["mformat", "-i", image, "-f", "1440", "-v", "GLASSVISOR", "::"])
    _fill_fat(kitchen, str(image), FLOPPY_MODULES, "KERNEL second.bs")
    kitchen.run(["syslinux", "--install", image])


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
    kitchen.run(["mformat", "-i", drive, *geometry, "-v", "GLASSVISOR", "::"])
    _fill_fat(kitchen, drive, MODULES, "COM32 chain.c32\n  APPEND hd0 2")
    kitchen.run(["syslinux", "--install", "--offset", str(PARTITION_START), image])


def grub_cd(kitchen: Kitchen, image: Path) -> None:
    """An El Torito CD with GRUB and no configuration: it comes up at its prompt."""
    tree = kitchen.scratch / "cd"
    (tree / "boot").mkdir(parents=True)
    (tree / "boot" / "hello.txt").write_text("hello from the CD\n")
    _grub_rescue(kitchen, tree, image)


def linux_cd(kitchen: Kitchen, image: Path) -> None:
    """An El Torito CD whose GRUB loads Linux, with the console on the first serial port."""
    boot = kitchen.scratch / "cd" / "boot"
    (boot / "grub").mkdir(parents=True)
    for name in ("vmlinuz-686", linux.INITRAMFS):
        shutil.copyfile(linux.directory() / name, boot / name)
    (boot / "grub" / "grub.cfg").write_text(LINUX_MENU)
    _grub_rescue(kitchen, boot.parent, image)


def _grub_rescue(kitchen: Kitchen, tree: Path, image: Path) -> None:
    modules = kitchen.packages / "usr/lib/grub/i386-pc"
    options = ["--compress=no", "--locales=", "--fonts=", "--themes="]
    command = ["grub-mkrescue", "-d", str(modules), "-o", str(image), *options, str(tree)]
    kitchen.run(command, TMPDIR=str(kitchen.scratch))


def gnumach(kitchen: Kitchen, image: Path) -> None:
    """The Mach microkernel, a Multiboot ELF file; the package has it compressed."""
    image.write_bytes(gzip.decompress(kitchen.read("boot/gnumach-1.8-486.gz")))


RECIPES: Final[Mapping[str, Recipe]] = {
    "grub-rescue-floppy.img": copied("usr/lib/grub-rescue/grub-rescue-floppy.img"),
    "grub-rescue-cdrom.iso": copied("usr/lib/grub-rescue/grub-rescue-cdrom.iso"),
    "grub-legacy-floppy.img": grub_legacy_floppy,
    "invaders.exec": copied("boot/invaders.exec"),
    "memtest86+.iso": copied("usr/lib/memtest86+/memtest86+ia32.iso"),
    "memtest86+.bin": copied("boot/memtest86+ia32.bin"),
    "ipxe.iso": copied("usr/lib/ipxe/ipxe.iso"),
    "ipxe.lkrn": copied("boot/ipxe.lkrn"),
    "seabios.bin": copied("usr/share/seabios/bios.bin"),
    "gnumach": gnumach,
    "syslinux-floppy.img": syslinux_floppy,
    "syslinux-disk.img": syslinux_disk,
    "grub-cd.iso": grub_cd,
    "linux-cd.iso": linux_cd,
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
    kitchen.run(["mcopy", "-i", drive, *map(str, sorted(files.iterdir())), "::/"])


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


BOOT_MEDIA: Final = Collection(
    manifest="manifest.json",
    version=RECIPE_VERSION,
    packages=fixed(*PACKAGES),
    recipes=RECIPES,
    prepare=lambda progress: open_tools().prepare(IMAGE_TOOLS, progress),
    run=lambda *words, **environment: open_tools().run(*words, **environment),
)


def c_library(kitchen: Kitchen, place: Path) -> None:
    """Headers, start-up code and static libraries for 32-bit C programs; the compiler is the host's.

    The shared libraries' links lead out of the directory and are of no use to a static program.
    """
    for name in ("usr/include", "usr/lib/i386-linux-gnu", "usr/lib/gcc/i686-linux-gnu"):
        shutil.copytree(kitchen.find(name), place / name, symlinks=True, ignore=shutil.ignore_patterns("*.so*"))


C_LIBRARY: Final = Collection(
    manifest="i386-root.json",
    version="1",
    packages=fixed("libc6-dev", "libgcc-12-dev", "linux-libc-dev"),
    recipes={"i386-root": c_library},
)


def main(arguments: list[str] | None = None) -> int:
    """Fetch all images and say where they are."""
    parser = argparse.ArgumentParser(prog="fetch-images", description="Fetch boot images from Debian into the cache.")
    parser.add_argument("--directory", action="store_true", help="only print where the images are")
    directory = cache_directory("images")
    if parser.parse_args(arguments).directory:
        print(directory)
        return 0
    return fetch_all(
        "fetch-images", [(linux.KERNELS, linux.directory()), (BOOT_MEDIA, directory), (C_LIBRARY, directory)]
    )


if __name__ == "__main__":
    sys.exit(main())
